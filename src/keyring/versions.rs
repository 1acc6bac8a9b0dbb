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
    let to = from.next();
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
