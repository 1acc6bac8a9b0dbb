//! Keyed hashes that stand for things without telling them: the `jti` of a
//! redemption and the mark of an imported token. The key is the deployment's
//! random identity.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use uuid::Uuid;

use crate::domain::failure::Failure;
use crate::domain::grant::{Epoch, Grant};
use crate::domain::id::{ClientId, TenantId};
use crate::domain::reason::Reason;
use crate::secret::RefreshToken;
use crate::store::ImportMark;

/// `jti = HMAC(deployment, grant ‖ generation ‖ epoch ‖ the row's times)` (rule
/// 4). Whoever claims the row as it stands makes the same one, so that a provider
/// that remembers it refuses the second of two racing requests. An attempt that
/// ended without a new generation has moved one of the times, or is remembered
/// as the last, so the next one is not taken for its repetition.
pub(super) fn jti(deployment: Uuid, grant: &Grant, epoch: Epoch) -> Result<String, Failure> {
    let mut mac = keyed(deployment)?;
    mac.update(b"obo-vault jti");
    mac.update(grant.id.0.as_bytes());
    mac.update(&grant.generation.0.to_be_bytes());
    mac.update(&epoch.0.to_be_bytes());
    mac.update(&grant.refreshed_at.0.to_be_bytes());
    mac.update(&grant.not_before.map_or(0, |t| t.0).to_be_bytes());
    mac.update(grant.last_attempt.map_or(Uuid::nil(), |a| a.0).as_bytes());
    let tag = mac.finalize().into_bytes();
    Ok(tag.iter().take(16).map(|b| format!("{b:02x}")).collect())
}

/// The mark by which the same token imported once more is recognised.
pub(super) fn import_mark(
    deployment: Uuid,
    tenant: &TenantId,
    client: &ClientId,
    token: &RefreshToken,
) -> Result<ImportMark, Failure> {
    let mut mac = keyed(deployment)?;
    mac.update(b"obo-vault import");
    for text in [tenant.as_str(), client.as_str(), token.expose()] {
        mac.update(&u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
        mac.update(text.as_bytes());
    }
    Ok(ImportMark(mac.finalize().into_bytes().into()))
}

fn keyed(deployment: Uuid) -> Result<Hmac<Sha256>, Failure> {
    Hmac::new_from_slice(deployment.as_bytes())
        .map_err(|_| Failure::new(Reason::Internal, "the deployment's identity keys no HMAC"))
}
