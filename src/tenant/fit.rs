//! Whether a tenant's row and its keys fit together, at a start. They do not after
//! a crash between two stores, and after one of the two was restored from a
//! backup. What does not fit takes that tenant out of service, and nobody else:
//!
//! | the token store has | the key store has | then |
//! |---|---|---|
//! | a newest version | it, made and not in use | it is put in use |
//! | a newest version | a newer one in use | the token store follows |
//! | a newest version | a tombstone | the tenant is purged |
//! | a newest version | none that seals | out of service, until its keys are put back or an operator rotates |
//! | a purged tenant | keys | they are destroyed |

use crate::domain::failure::Failure;
use crate::domain::id::TenantId;
use crate::domain::key::{KeyState, KeyVersion, KeyVersionInfo};
use crate::domain::reason::Reason;
use crate::domain::tenant::{Tenant, TenantState};
use crate::keyring::KeyringError;

use super::TenantService;

/// How a tenant's row and its keys stand to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// They fit.
    Good,
    /// The newest version is to be put in use.
    Activate(KeyVersion),
    /// A newer version is in use: the token store is to name it.
    Follow(KeyVersion),
    /// The key store has a tombstone: the tenant is to be purged.
    Purge,
    /// The tenant is purged: the keys are to be destroyed.
    Destroy,
    /// The key store has no version that seals.
    Missing(KeyVersion),
}

/// Compares a tenant's row with its keys.
pub(super) fn fit(tenant: &Tenant, versions: &[KeyVersionInfo], has_tombstone: bool) -> Fit {
    let newest = match tenant.state {
        TenantState::Pending { active_version }
        | TenantState::Active { active_version }
        | TenantState::PurgeScheduled { active_version, .. } => active_version,
        // Its purge is finished in any case.
        TenantState::Purging => return Fit::Good,
        TenantState::Purged { .. } => {
            let all_gone = versions.iter().all(|info| info.state == KeyState::Destroyed);
            return if has_tombstone && all_gone { Fit::Good } else { Fit::Destroy };
        }
    };
    if has_tombstone {
        return Fit::Purge;
    }
    let in_use = versions.iter().filter(|info| info.state == KeyState::Active).map(|info| info.version).max();
    let made = versions.iter().any(|info| info.version == newest && info.state == KeyState::PreActive);
    match in_use {
        Some(version) if version == newest => Fit::Good,
        Some(version) if version > newest => Fit::Follow(version),
        Some(_) | None if made => Fit::Activate(newest),
        Some(_) | None => Fit::Missing(newest),
    }
}

/// What a start found of the tenants' keys.
#[derive(Debug, Default)]
struct Found {
    /// Tenants whose newest key opens.
    opened: usize,
    /// The first whose key the root key does not open.
    refused: Option<Failure>,
}

impl TenantService {
    /// Makes both stores say the same of every tenant, as a crash or a restore may
    /// have left them saying different things. `keys_are_older`: the key store is
    /// an older copy, so that what its versions have sealed since is not known.
    ///
    /// # Errors
    ///
    /// The root key opens no tenant's key, so that it is not the one of this
    /// vault; or a store cannot be used.
    pub async fn reconcile(&self, keys_are_older: bool) -> Result<(), Failure> {
        let tombstones = self.keyring.tombstones().await?;
        let (mut found, mut after) = (Found::default(), None);
        loop {
            let page = self.store.tenants(after.as_ref(), 500).await?;
            for tenant in &page {
                let has_tombstone = tombstones.contains(&tenant.id);
                self.reconcile_one(tenant, has_tombstone, keys_are_older, &mut found).await?;
            }
            match page.last() {
                Some(last) => after = Some(last.id.clone()),
                None => break,
            }
        }
        match found.refused {
            // Not one tenant's fault: a new key made now would be under it.
            Some(failure) if found.opened == 0 => Err(failure),
            Some(_) | None => Ok(()),
        }
    }

    async fn reconcile_one(
        &self,
        tenant: &Tenant,
        has_tombstone: bool,
        keys_are_older: bool,
        found: &mut Found,
    ) -> Result<(), Failure> {
        let id = &tenant.id;
        let versions = self.keyring.versions(id).await?;
        match fit(tenant, &versions, has_tombstone) {
            Fit::Purge => return self.purge_again(id).await,
            Fit::Destroy => return self.destroy_again(id).await,
            // Of a tenant out of service the rest is looked at when it is restored.
            _ if tenant.sealing_version().is_none() => return Ok(()),
            _ => {}
        }
        match self.ready(tenant, &versions).await {
            Ok(version) => {
                found.opened += 1;
                if keys_are_older {
                    self.keyring.presume_used(id, version).await?;
                }
                Ok(())
            }
            Err(KeyringError::Store(error)) => Err(error.into()),
            Err(error) => {
                let root_key = matches!(error, KeyringError::RootKey(_));
                let failure = without_keys(id, error);
                tracing::error!(tenant.id = %id, detail = failure.detail(), "a tenant is out of service: its keys do not fit its grants");
                self.redeemer.guards().set_without_keys(id, Some(failure.detail().to_owned())).await;
                if root_key {
                    found.refused.get_or_insert(failure);
                }
                Ok(())
            }
        }
    }

    /// Puts the newest version of a tenant in use, in both stores, and shows that
    /// it opens.
    pub(super) async fn ready(
        &self,
        tenant: &Tenant,
        versions: &[KeyVersionInfo],
    ) -> Result<KeyVersion, KeyringError> {
        let Some(newest) = tenant.sealing_version() else { return Err(KeyringError::TenantGone) };
        let version = match fit(tenant, versions, false) {
            Fit::Missing(version) => return Err(KeyringError::NoSuchKey(version)),
            Fit::Activate(version) => {
                self.keyring.activate(&tenant.id, version).await?;
                version
            }
            Fit::Follow(version) => {
                let now = self.clock.now();
                let moved = self.store.advance_version(&tenant.id, newest, version, now).await?;
                if moved.is_ok() {
                    tracing::warn!(tenant.id = %tenant.id, key.version = version.0, was = newest.0,
                        "the token store is older than the tenant's newest key, and follows it");
                }
                version
            }
            Fit::Good | Fit::Purge | Fit::Destroy => newest,
        };
        self.keyring.check(&tenant.id, version).await.map(|()| version)
    }

    /// A tombstone in either store wins: a restore does not undo a purge. What is
    /// left is done as that of a purge that was interrupted.
    async fn purge_again(&self, id: &TenantId) -> Result<(), Failure> {
        tracing::warn!(tenant.id = %id, "the tenant was purged, and came back with an older token store: purging it again");
        self.recorded(id, "again, after a restore of the token store", None).await?;
        // Refused only where it is being purged already.
        let _ = self.store.tombstone(id, None).await?;
        Ok(())
    }

    async fn destroy_again(&self, id: &TenantId) -> Result<(), Failure> {
        tracing::warn!(tenant.id = %id, "the tenant was purged, and its keys came back with an older key store: destroying them again");
        self.recorded(id, "again, after a restore of the key store", None).await?;
        self.keyring.destroy_tenant(id).await?;
        if !self.keyring.erase().await? {
            tracing::error!(tenant.id = %id, "destroyed keys are not yet overwritten in the log: a reader holds it");
        }
        Ok(())
    }
}

/// Why a tenant is out of service, and what to do.
fn without_keys(id: &TenantId, error: KeyringError) -> Failure {
    let failure = Failure::from(error);
    let detail = format!(
        "the newest key of tenant {id} is unavailable: {}; put back the root key and the key store that belong to \
         this token store; where they are lost, `obo-vault tenant rotate-key {id}` makes a new key, and the users \
         whose tokens do not open consent again",
        failure.detail()
    );
    Failure::new(Reason::KeyUnavailable, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::domain::key::KeyId;

    fn tenant(state: TenantState) -> Tenant {
        let id = TenantId::new("acme").unwrap();
        Tenant { id, state, epoch: 1, created_at: Timestamp(0), rotated_at: Timestamp(0) }
    }

    fn keys(versions: &[(u32, KeyState)]) -> Vec<KeyVersionInfo> {
        let info = |(version, state): &(u32, KeyState)| KeyVersionInfo {
            version: KeyVersion(*version),
            key_id: KeyId([0; 16]),
            state: *state,
            created_at: Timestamp(0),
            seals_reserved: 0,
            unused_since: None,
        };
        versions.iter().map(info).collect()
    }

    #[test]
    fn a_tenant_and_its_keys_fit_or_it_is_known_what_to_do() {
        use KeyState::{Active, Deactivated, Destroyed, PreActive};
        let at = |version| TenantState::Active { active_version: KeyVersion(version) };
        let live = |version, versions: &[_]| fit(&tenant(at(version)), &keys(versions), false);
        assert_eq!(live(1, &[(1, Active)]), Fit::Good);
        assert_eq!(live(1, &[(1, Active), (2, PreActive)]), Fit::Good, "the crash was before the row");
        assert_eq!(live(2, &[(1, Active), (2, PreActive)]), Fit::Activate(KeyVersion(2)));
        // An older token store.
        for older in [Deactivated, Destroyed] {
            assert_eq!(live(1, &[(1, older), (2, Active)]), Fit::Follow(KeyVersion(2)));
        }
        assert_eq!(live(1, &[(1, Destroyed), (3, Active), (4, PreActive)]), Fit::Follow(KeyVersion(3)));
        // An older key store, or another's.
        assert_eq!(live(3, &[(1, Deactivated), (2, Active)]), Fit::Missing(KeyVersion(3)));
        assert_eq!(live(1, &[]), Fit::Missing(KeyVersion(1)));
        assert_eq!(live(1, &[(1, Destroyed)]), Fit::Missing(KeyVersion(1)));
    }

    #[test]
    fn a_tombstone_in_either_store_wins() {
        let version = KeyVersion(1);
        let active = keys(&[(1, KeyState::Active)]);
        let destroyed = keys(&[(1, KeyState::Destroyed)]);
        let scheduled = TenantState::PurgeScheduled { active_version: version, purge_at: Timestamp(9) };
        for state in [TenantState::Active { active_version: version }, scheduled] {
            assert_eq!(fit(&tenant(state), &destroyed, true), Fit::Purge);
        }
        let purged = tenant(TenantState::Purged { erased_at: Timestamp(9) });
        assert_eq!(fit(&purged, &active, false), Fit::Destroy);
        assert_eq!(fit(&purged, &destroyed, true), Fit::Good);
        assert_eq!(fit(&tenant(TenantState::Purging), &active, false), Fit::Good);
    }
}
