//! A purge, from the tombstone to the last byte. Each step may be repeated;
//! one that a crash or a busy file interrupted is finished by the next call, by
//! the watch, or at the next start.

use crate::audit::Entry;
use crate::authn::Caller;
use crate::clock::Timestamp;
use crate::domain::failure::Failure;
use crate::domain::id::TenantId;
use crate::domain::reason::Reason;
use crate::domain::tenant::TenantState;
use crate::seal::Place;
use crate::store::{SealedGrant, TenantRefused};

use super::{TenantService, may_have_happened};

/// How long a purge waits for providers to be told.
const REVOCATION_LIMIT: std::time::Duration = std::time::Duration::from_secs(5);

/// What a purge destroyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Purged {
    /// Key versions the tenant had over its lifetime, all destroyed.
    pub key_versions: u32,
    /// Grants deleted.
    pub grants: u64,
    /// When the last byte of key material was gone from the vault's files.
    pub erased_at: Timestamp,
    /// Whether a sealed token of the tenant was tried with the keys gone, and
    /// did not open. `false` where there was none to try.
    pub trial_open_failed: bool,
    /// Whether the tenant had been purged before, and nothing was left to do.
    pub already: bool,
}

impl TenantService {
    /// Purges tenants whose window has ended, and finishes purges that were
    /// interrupted. Returns how many were finished.
    ///
    /// # Errors
    ///
    /// The first that could not be finished; the others are tried all the same.
    pub async fn purge_due(&self) -> Result<u32, Failure> {
        let now = self.clock.now();
        let due = self.store.purges_due(now).await?;
        let mut finished = 0;
        let mut first_failure = None;
        for tenant in due {
            match self.purge(&tenant.id, Some(now)).await {
                Err(failure) if failure.reason() == Reason::PurgeNotScheduled => {
                    tracing::info!(tenant.id = %tenant.id, "a purge was taken back or postponed just in time");
                }
                Ok(purged) => {
                    finished += 1;
                    tracing::info!(tenant.id = %tenant.id, grants = purged.grants, "tenant purged");
                }
                Err(failure) => {
                    tracing::error!(tenant.id = %tenant.id, %failure, "cannot finish a purge, will try again");
                    first_failure.get_or_insert(failure);
                }
            }
        }
        first_failure.map_or(Ok(finished), Err)
    }

    /// `due_by` is set where nobody asked for this purge just now: it happens only
    /// if it is still scheduled for then.
    pub(super) async fn purge(&self, id: &TenantId, due_by: Option<Timestamp>) -> Result<Purged, Failure> {
        let _one_at_a_time = self.purging.lock().await;
        let known = self.known(id).await?;
        if let TenantState::Purged { erased_at } = known.state {
            let versions = self.keyring.versions(id).await?;
            let key_versions = u32::try_from(versions.len()).unwrap_or(u32::MAX);
            return Ok(Purged {
                key_versions,
                grants: 0,
                erased_at,
                trial_open_failed: false,
                already: true,
            });
        }
        self.recorded(id, "intent", None).await?;
        // From here on no commit makes an openable row (invariant I9) …
        let tombstone = self.store.tombstone(id, due_by).await;
        // … and when this returns, nobody hands out a token of the tenant (I10).
        if may_have_happened(&tombstone) {
            self.put_out_of_service(id).await;
        }
        match tombstone? {
            Ok(_) => {}
            Err(TenantRefused::WrongState) if due_by.is_some() => {
                self.recorded(id, "taken back", None).await?;
                return Err(Failure::new(Reason::PurgeNotScheduled, "the purge was taken back or postponed"));
            }
            Err(
                TenantRefused::NotFound
                | TenantRefused::Exists
                | TenantRefused::NameTaken
                | TenantRefused::WrongState,
            ) => {
                return Err(Failure::new(Reason::TenantNotFound, "no such tenant"));
            }
        }

        let revoked = self.redeemer.revoke_tenant(id, REVOCATION_LIMIT).await;
        tracing::info!(tenant.id = %id, revoked, "told the providers that the tenant's tokens are over");

        let keepsake = self.any_sealed(id).await?;
        let key_versions = self.keyring.destroy_tenant(id).await?;
        let trial_open_failed = match &keepsake {
            Some(sealed) => self.try_to_open(sealed).await?,
            None => false,
        };
        let grants = self.store.delete_tenant_grants(id).await?;

        // Deletion is not erasure: the logs keep what they are not made to drop.
        let keys_erased = self.keyring.erase().await?;
        let tokens_erased = self.store.erase_deleted().await?;
        if !(keys_erased && tokens_erased) {
            return Err(Failure::new(
                Reason::PurgeIncomplete,
                "a reader holds a log; the keys are destroyed",
            )
            .retry_after(std::time::Duration::from_secs(5)));
        }
        let erased_at = self.clock.now();
        let finished = self.store.finish_purge(id, erased_at).await?;
        finished.map_err(|_| Failure::new(Reason::Internal, "the tenant left PURGING during its purge"))?;
        self.recorded(id, "purged", Some(grants)).await?;
        Ok(Purged { key_versions, grants, erased_at, trial_open_failed, already: false })
    }

    /// A purge is on record before it begins and when it has ended, whoever or
    /// whatever began it (invariant I11).
    async fn recorded(&self, id: &TenantId, note: &'static str, grants: Option<u64>) -> Result<(), Failure> {
        let caller = Caller::system("system:purge");
        let entry = Entry::event("purge").caller(caller.id()).tenant(id).count(grants).note(note);
        Ok(self.audit.record(entry).await?)
    }

    async fn any_sealed(&self, id: &TenantId) -> Result<Option<SealedGrant>, Failure> {
        let first = self.store.grants(id, None, None, 1).await?;
        match first.first() {
            Some(grant) => Ok(self.store.sealed_grant(&grant.key).await?),
            None => Ok(None),
        }
    }

    /// A purge that leaves an openable token behind is a defect, and says so.
    async fn try_to_open(&self, sealed: &SealedGrant) -> Result<bool, Failure> {
        let place = Place::of_token(&sealed.grant, sealed.grant.generation);
        match self.keyring.open(&place, &sealed.sealed).await {
            Err(_) => Ok(true),
            Ok(_) => Err(Failure::new(Reason::Internal, "a token still opens after its keys were destroyed")),
        }
    }
}
