//! The audit entries of the protocol. Each attempt has one before anything is
//! sent (invariant I11) and one for its outcome.

use crate::audit::{AuditLog, Entry, Kind};
use crate::authn::Caller;
use crate::domain::failure::Failure;
use crate::domain::grant::{AttemptId, GrantId, GrantKey};
use crate::domain::id::CallerId;
use crate::domain::key::KeyVersion;
use crate::domain::reason::Reason;

/// On whose behalf something is done.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The request, as in the log and the answer.
    pub request_id: String,
    /// The caller, or a part of the vault itself ("system:…").
    pub caller: CallerId,
}

impl Origin {
    /// What the vault does on its own account: recovery and probes.
    pub(super) fn recovery() -> Self {
        Self { request_id: "recovery".to_owned(), caller: Caller::system("system:recovery").id().clone() }
    }
}

/// What an attempt's entries have in common.
#[derive(Debug, Clone)]
pub struct AttemptRecord {
    /// What is attempted: "redeem", "exchange", "import", "revoke" or "recover".
    pub action: &'static str,
    /// On whose behalf.
    pub origin: Origin,
    /// Which grant.
    pub key: GrantKey,
    /// Its identifier.
    pub grant: GrantId,
    /// The attempt.
    pub attempt: AttemptId,
}

impl AttemptRecord {
    /// The intent, durable when this returns.
    ///
    /// # Errors
    ///
    /// When the audit log cannot be written; nothing may be sent then.
    pub async fn intent(&self, audit: &AuditLog) -> Result<(), Failure> {
        audit.record(self.entry().note("intent")).await.map_err(Failure::from)
    }

    /// The outcome, durable when this returns. `None` is a success.
    ///
    /// # Errors
    ///
    /// When the audit log cannot be written; nothing may be handed out then.
    pub async fn outcome(
        &self,
        audit: &AuditLog,
        reason: Option<Reason>,
        key_version: Option<KeyVersion>,
        note: &'static str,
    ) -> Result<(), Failure> {
        let entry = self.entry().note(note).reason(reason).key_version(key_version);
        audit.record(entry).await.map_err(Failure::from)
    }

    fn entry(&self) -> Entry<'_> {
        Entry::new(Kind::Event, &self.origin.request_id, self.action)
            .caller(&self.origin.caller)
            .tenant(&self.key.tenant)
            .client(&self.key.client)
            .subject(&self.key.subject)
            .grant(self.grant)
            .attempt(self.attempt)
    }
}
