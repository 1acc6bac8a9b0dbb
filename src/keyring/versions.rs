//! A new version of a tenant's key: the one step besides a purge that touches
//! both stores. Operators and the rotation job take it.

use std::time::Duration;

use super::Keyring;
use crate::clock::Timestamp;
use crate::domain::failure::Failure;
use crate::domain::id::TenantId;
use crate::domain::key::{KeyState, KeyVersion, KeyVersionInfo};
use crate::domain::reason::Reason;
use crate::store::{Store, TenantRefused};

/// The version after `from`, or after the last that the key store has: one that is
/// behind its token store, or before it, may not make a number twice. One that
/// was made and never used is taken up.
fn next_version(versions: &[KeyVersionInfo], from: KeyVersion) -> KeyVersion {
    let begun = versions.iter().any(|v| v.version == from.next() && v.state == KeyState::PreActive);
    let last = versions.iter().map(|v| v.version).max().filter(|_| !begun);
    last.map_or(from, |last| last.max(from)).next()
}

/// Makes the version after `from` and names it the newest: key first, then the
/// tenant, then the key's state. A
/// crash in between is finished by `TenantService::reconcile`.
///
/// # Errors
///
/// Another version is the newest meanwhile, or a store cannot be written.
pub async fn advance(
    store: &dyn Store,
    keyring: &Keyring,
    id: &TenantId,
    from: KeyVersion,
    now: Timestamp,
) -> Result<KeyVersionInfo, Failure> {
    let to = next_version(&keyring.versions(id).await?, from);
    let mut info = keyring.create_version(id, to).await?;
    let advanced = store.advance_version(id, from, to, now).await?;
    advanced.map_err(|r| match r {
        TenantRefused::WrongState => Failure::new(Reason::StoreUnavailable, "the tenant changed meanwhile")
            .retry_after(Duration::from_secs(1)),
        TenantRefused::NotFound | TenantRefused::Exists | TenantRefused::NameTaken => {
            Failure::new(Reason::TenantNotFound, "no such tenant")
        }
    })?;
    keyring.activate(id, to).await?;
    info.state = KeyState::Active;
    Ok(info)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::key::KeyId;

    fn version(version: u32, state: KeyState) -> KeyVersionInfo {
        let (version, key_id) = (KeyVersion(version), KeyId([0; 16]));
        let created_at = Timestamp(0);
        KeyVersionInfo { version, key_id, state, created_at, seals_reserved: 0, unused_since: None }
    }

    #[test]
    fn no_number_of_a_version_is_used_twice() {
        use KeyState::{Active, Deactivated, Destroyed, PreActive};
        let next = |versions: &[(u32, KeyState)], from| {
            let versions: Vec<_> = versions.iter().map(|(n, state)| version(*n, *state)).collect();
            next_version(&versions, KeyVersion(from)).0
        };
        assert_eq!(next(&[(1, Active)], 1), 2);
        assert_eq!(next(&[], 3), 4, "the key store is an empty one");
        assert_eq!(next(&[(1, Deactivated), (2, Active)], 4), 5, "the key store is an older one");
        assert_eq!(next(&[(1, Destroyed), (2, Destroyed)], 1), 3, "the token store is an older one");
        assert_eq!(next(&[(1, Active), (2, PreActive)], 1), 2, "a crash was in between");
    }
}
