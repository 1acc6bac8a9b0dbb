//! What a dead process left behind, and unknown outcomes whose time has come.
//!
//! On one node the owner of every attempt found at start is dead: the store's
//! file is locked by this process alone. An attempt with a durable answer is
//! finished; one without has an unknown outcome until its request is harmless
//! (rule 7).

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::domain::failure::Failure;
use crate::domain::grant::{Grant, GrantState};
use crate::domain::profile::Reuse;
use crate::domain::protocol::bounds::{HARD_LIMIT, SEND_WITHIN};
use crate::domain::scope::ScopeSet;
use crate::idp::{Client, TokenAnswer};
use crate::store::{
    DueCursor, Enrolment, EnrolmentKind, EnrolmentStage, OpenAttempt, OpenEnrolment, StoreError,
};

use super::attempt::{InFlight, check_issuer};
use super::cache::TokenCache;
use super::elapsed::wait_for_served;
use super::ending::{Endings, recovery_record};
use super::enrolment::{Enrolments, enrolment_record};
use super::guard::TenantGuards;
use super::identity::{Identity, identify};
use super::parts::Parts;
use super::probes::{Probes, Probing};
use super::record::Origin;

/// Most open attempts in one look; the next goes on after them.
const LOOKED_AT: u32 = 4096;

/// Age at which a sending attempt cannot have a task any more.
const ORPHANED: Duration = Duration::from_secs(HARD_LIMIT.as_secs() + 60);

/// What was found at start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Attempts and enrolments whose durable answer was committed.
    pub finished: u32,
    /// Attempts whose outcome is unknown.
    pub in_doubt: u32,
    /// Enrolments that led to nothing, or wait for the same import.
    pub abandoned: u32,
}

/// Finishes and finds what is due.
#[derive(Clone)]
pub(super) struct Recovery {
    parts: Arc<Parts>,
    endings: Endings,
    enrolments: Enrolments,
}

impl Recovery {
    pub(super) fn new(parts: Arc<Parts>, endings: Endings, enrolments: Enrolments) -> Self {
        Self { parts, endings, enrolments }
    }

    /// Finishes what a dead process left behind. Called once, before serving.
    /// What is open for a tenant without keys waits for them: nothing could be
    /// sealed.
    pub(super) async fn recover(&self, guards: &TenantGuards) -> Result<Recovered, StoreError> {
        let mut recovered = Recovered::default();
        for open in self.parts.store.open_attempts().await? {
            if guards.is_without_keys(&open.grant.key.tenant) {
                recovered.in_doubt += 1;
            } else if self.attempt(open).await {
                recovered.finished += 1;
            } else {
                recovered.in_doubt += 1;
            }
        }
        for open in self.parts.store.open_enrolments().await? {
            if guards.is_without_keys(&open.enrolment.key.tenant) {
                recovered.abandoned += 1;
            } else if self.enrolment(open).await {
                recovered.finished += 1;
            } else {
                recovered.abandoned += 1;
            }
        }
        Ok(recovered)
    }

    async fn attempt(&self, open: OpenAttempt) -> bool {
        let OpenAttempt { grant, attempt, answer } = open;
        let Some(client) = self.parts.idp.client(&grant.key.client).cloned() else {
            tracing::error!(client.id = %grant.key.client, grant.id = %grant.id,
                "an attempt is open for a client that is not configured; put the client back");
            return false;
        };
        let record = recovery_record(&grant, &attempt);
        self.endings
            .recover(&InFlight { grant, attempt, client, record, asked: ScopeSet::default() }, answer)
            .await
    }

    async fn enrolment(&self, open: OpenEnrolment) -> bool {
        let OpenEnrolment { mut enrolment, stage, answer } = open;
        let Some(client) = self.parts.idp.client(&enrolment.key.client).cloned() else {
            tracing::error!(client.id = %enrolment.key.client, grant.id = %enrolment.grant,
                "an enrolment is open for a client that is not configured; put the client back");
            return false;
        };
        let answer = match self.enrolments.answered(&client, &enrolment, answer.as_ref()).await {
            Ok(Some(answer)) => answer,
            Ok(None) => {
                self.unanswered(&client, &enrolment, stage).await;
                return false;
            }
            Err(_) => return false,
        };
        match self.is_overtaken(&enrolment).await {
            Ok(false) => {}
            // What the user has agreed to since is not undone by what came before.
            Ok(true) => {
                self.leave_to_caller(&enrolment, stage).await;
                return false;
            }
            Err(_) => return false,
        }
        if matches!(stage, EnrolmentStage::Held { .. }) {
            if !self.may_be_finished(&client, &enrolment, &answer).await {
                return false;
            }
            // What was wrong may have been the issuer: it is the one that the
            // proof has.
            enrolment.issuer = client.issuer(&enrolment.key.tenant);
        }
        let kept = self.enrolments.keep(&client, &enrolment, answer).await;
        let record = enrolment_record(&enrolment, "recover", Origin::recovery());
        let reason = kept.as_ref().err().map(Failure::reason);
        if let Err(failure) = record.outcome(&self.parts.audit, reason, None, "recovered").await {
            tracing::error!(grant.id = %enrolment.grant, %failure, "a recovery could not be recorded");
        }
        kept.is_ok()
    }

    /// No answer with tokens was recorded.
    async fn unanswered(&self, client: &Client, enrolment: &Enrolment, stage: EnrolmentStage) {
        let import = matches!(enrolment.kind, EnrolmentKind::Import(_));
        match stage {
            // The same import finds it.
            EnrolmentStage::Sending if import && client.profile().reuse != Reuse::Tolerated => {
                self.enrolments.suspend(client, enrolment).await;
            }
            // The token was the caller's, who tries again.
            EnrolmentStage::Sending => self.enrolments.abandon(enrolment).await,
            EnrolmentStage::InDoubt { .. } | EnrolmentStage::Held { .. } => {}
        }
    }

    /// Whether the grant has moved on since the enrolment began: it was refreshed,
    /// or the user has consented again. Then it is alive without it.
    async fn is_overtaken(&self, enrolment: &Enrolment) -> Result<bool, StoreError> {
        let now = self.parts.store.grant(&enrolment.key).await?;
        Ok(now.is_some_and(|grant| grant.generation >= enrolment.generation))
    }

    /// An import stays, for as long as one may be held: whoever repeats it decides
    /// what replaces what. The user of an exchange has done so already.
    async fn leave_to_caller(&self, enrolment: &Enrolment, stage: EnrolmentStage) {
        tracing::warn!(
            tenant.id = %enrolment.key.tenant, client.id = %enrolment.key.client, grant.id = %enrolment.grant,
            "an enrolment that was left open is older than its grant, and does not replace it"
        );
        match (enrolment.kind, stage) {
            (EnrolmentKind::OnBehalfOf, _) => self.enrolments.abandon(enrolment).await,
            (EnrolmentKind::Import(_), EnrolmentStage::Held { .. }) => {}
            (EnrolmentKind::Import(_), EnrolmentStage::Sending | EnrolmentStage::InDoubt { .. }) => {
                let until = self.parts.clock.now().plus(self.parts.settings.hold_imports);
                self.enrolments.set_stage(enrolment, EnrolmentStage::Held { until }).await;
            }
        }
    }

    /// Whether a held import can be finished without the one who imported it. The
    /// token of a provider that does not rotate is with them.
    async fn may_be_finished(&self, client: &Client, enrolment: &Enrolment, answer: &TokenAnswer) -> bool {
        answer.refresh_token.is_some()
            && matches!(identify(client, &enrolment.key, answer).await, Identity::Proven)
    }

    /// The grants whose unknown outcome may be probed now, by nobody else, with
    /// their places.
    pub(super) async fn due(
        &self,
        memory: &TokenCache,
        probes: &Probes,
    ) -> Result<Vec<(Grant, Probing)>, StoreError> {
        let both = self.parts.clock.both();
        let now = both.now;
        let due = self.parts.store.due_probes(now, now.minus(ORPHANED), probes.after(), LOOKED_AT).await?;
        let is_full = u32::try_from(due.len()).is_ok_and(|found| found == LOOKED_AT);
        probes.go_on_after(due.last().filter(|_| is_full).and_then(cursor), both.instant);
        let may_probe = |grant: &Grant| {
            !is_asked_about(grant, now)
                && self.parts.idp.client(&grant.key.client).is_some_and(|client| {
                    check_issuer(client, grant).is_ok()
                        && wait_for_served(client, grant, memory.last_expiry(&grant.key, both), now).is_none()
                })
        };
        let begin = |grant: Grant| probes.begin(&grant.key, both.instant).map(|probing| (grant, probing));
        Ok(due.into_iter().filter(may_probe).filter_map(begin).collect())
    }
}

fn cursor(grant: &Grant) -> Option<DueCursor> {
    match &grant.state {
        GrantState::Sending(attempt) | GrantState::InDoubt { attempt, .. } => {
            Some(DueCursor { at: attempt.started_at, grant: grant.id })
        }
        GrantState::Active | GrantState::Revoked | GrantState::Lost { .. } | GrantState::Reauth { .. } => {
            None
        }
    }
}

/// Whether whoever met the refusal of a choice is about to make the grant's own
/// request: it follows at once, and a probe would only wait behind it.
fn is_asked_about(grant: &Grant, now: Timestamp) -> bool {
    match &grant.state {
        GrantState::InDoubt { cause, probe_after, .. } => {
            !cause.may_be_under_way() && now <= probe_after.plus(SEND_WITHIN)
        }
        GrantState::Active
        | GrantState::Sending(_)
        | GrantState::Revoked
        | GrantState::Lost { .. }
        | GrantState::Reauth { .. } => false,
    }
}
