//! AES-256-GCM (NIST SP 800-38D) with a 96-bit nonce and a 128-bit tag. The
//! only user of `aes-gcm`; everything around it is bytes.

#[expect(clippy::disallowed_types, reason = "the one home of the cipher")]
use aes_gcm::Aes256Gcm;
use aes_gcm::{AeadInOut, KeyInit};

use crate::secret::KeyBytes;

/// Bytes of a nonce.
pub(super) const NONCE_BYTES: usize = 12;
/// Bytes of a tag.
pub(super) const TAG_BYTES: usize = 16;

/// Encrypts `data` in place and returns its tag; `None` when `data` is longer
/// than the cipher allows, which leaves it as it was.
pub(super) fn encrypt(
    key: &KeyBytes,
    nonce: &[u8; NONCE_BYTES],
    aad: &[u8],
    data: &mut [u8],
) -> Option<[u8; TAG_BYTES]> {
    cipher(key).encrypt_inout_detached(&(*nonce).into(), aad, data.into()).ok().map(Into::into)
}

/// Checks the tag, then decrypts `data` in place; `None` when the tag does not
/// match, which leaves `data` as it was.
pub(super) fn decrypt(
    key: &KeyBytes,
    nonce: &[u8; NONCE_BYTES],
    aad: &[u8],
    data: &mut [u8],
    tag: &[u8; TAG_BYTES],
) -> Option<()> {
    cipher(key).decrypt_inout_detached(&(*nonce).into(), aad, data.into(), &(*tag).into()).ok()
}

/// The key schedule, which zeroes itself when dropped (feature `zeroize`).
#[expect(clippy::disallowed_types, reason = "the one home of the cipher")]
fn cipher(key: &KeyBytes) -> Aes256Gcm {
    Aes256Gcm::new(key.expose().into())
}
