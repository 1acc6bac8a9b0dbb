//! The bytes around a ciphertext. Integers are big-endian.
//!
//! ```text
//! sealed value   "OBVS" ‖ format(1) ‖ key version(4) ‖ key id(16) ‖ nonce(12) ‖ ciphertext ‖ tag(16)
//! wrapped key    "OBVK" ‖ format(1) ‖ root key id(16)             ‖ nonce(12) ‖ ciphertext(32) ‖ tag(16)
//! ```
//!
//! An envelope names the one key that opens it. Taking it apart checks its
//! shape and nothing else: only the tag says whether it is genuine.

use std::fmt;

use zeroize::Zeroizing;

use crate::domain::key::{KeyId, KeyVersion};

use super::OpenError;
use super::aead::{NONCE_BYTES, TAG_BYTES};

/// The format of sealed values. An old format always opens: a new one gets a
/// new number and the old one keeps its reader.
pub const FORMAT: u8 = 1;
/// The format of wrapped keys.
pub const WRAPPED_FORMAT: u8 = 1;

/// Bytes an envelope has more than its plaintext.
pub const OVERHEAD_BYTES: usize = BODY_AT + TAG_BYTES;
/// Where the ciphertext of a sealed value begins.
pub(super) const BODY_AT: usize = MAGIC.len() + 1 + 4 + KEY_ID_BYTES + NONCE_BYTES;

const MAGIC: [u8; 4] = *b"OBVS";
const WRAPPED_MAGIC: [u8; 4] = *b"OBVK";
const KEY_ID_BYTES: usize = 16;

/// Names a root key. Not a secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RootKeyId(pub [u8; 16]);

impl fmt::Display for RootKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for RootKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RootKeyId({self})")
    }
}

/// Bytes in the envelope format of docs/SEALED-FORMAT.md.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed(Vec<u8>);

impl Sealed {
    /// Takes bytes from the store.
    #[must_use]
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The envelope's bytes, for the store.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// What the envelope says of itself. Not yet authenticated: it tells which
    /// key to open with, and the opening tells whether it is true.
    ///
    /// # Errors
    ///
    /// [`OpenError::NotAnEnvelope`] or [`OpenError::UnknownFormat`].
    pub fn header(&self) -> Result<Header, OpenError> {
        split(&self.0).map(|parts| parts.header)
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({} bytes)", self.0.len())
    }
}

/// The front of a sealed value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The envelope's format.
    pub format: u8,
    /// The version of the tenant's key that opens it.
    pub version: KeyVersion,
    /// That key's identifier.
    pub key_id: KeyId,
}

/// A sealed value taken apart.
pub(super) struct Parts<'a> {
    pub(super) header: Header,
    pub(super) nonce: &'a [u8; NONCE_BYTES],
    pub(super) body: &'a [u8],
    pub(super) tag: &'a [u8; TAG_BYTES],
}

/// Writes the front and the plaintext after it, with room for the tag, so that
/// the plaintext is never copied once more when the tag is appended.
pub(super) fn begin(header: &Header, nonce: &[u8; NONCE_BYTES], plaintext: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(OVERHEAD_BYTES + plaintext.len()));
    bytes.extend_from_slice(&MAGIC);
    bytes.push(header.format);
    bytes.extend_from_slice(&header.version.0.to_be_bytes());
    bytes.extend_from_slice(&header.key_id.0);
    bytes.extend_from_slice(nonce);
    bytes.extend_from_slice(plaintext);
    bytes
}

/// Takes a sealed value apart.
pub(super) fn split(bytes: &[u8]) -> Result<Parts<'_>, OpenError> {
    let rest = after_front(bytes, MAGIC, FORMAT)?;
    let (version, rest) = rest.split_first_chunk::<4>().ok_or(OpenError::NotAnEnvelope)?;
    let (key_id, rest) = rest.split_first_chunk::<KEY_ID_BYTES>().ok_or(OpenError::NotAnEnvelope)?;
    let (nonce, rest) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(OpenError::NotAnEnvelope)?;
    let (body, tag) = rest.split_last_chunk::<TAG_BYTES>().ok_or(OpenError::NotAnEnvelope)?;
    let version = KeyVersion(u32::from_be_bytes(*version));
    Ok(Parts { header: Header { format: FORMAT, version, key_id: KeyId(*key_id) }, nonce, body, tag })
}

/// A wrapped key taken apart.
pub(super) struct WrappedParts<'a> {
    pub(super) root: RootKeyId,
    pub(super) nonce: &'a [u8; NONCE_BYTES],
    pub(super) body: &'a [u8; 32],
    pub(super) tag: &'a [u8; TAG_BYTES],
}

/// Puts a wrapped key together.
pub(super) fn join_wrapped(
    root: RootKeyId,
    nonce: &[u8; NONCE_BYTES],
    body: &[u8; 32],
    tag: &[u8; TAG_BYTES],
) -> Vec<u8> {
    [&WRAPPED_MAGIC[..], &[WRAPPED_FORMAT], &root.0, nonce, body, tag].concat()
}

/// Takes a wrapped key apart. Its length is fixed: a byte too many is refused
/// as well as one too few.
pub(super) fn split_wrapped(bytes: &[u8]) -> Result<WrappedParts<'_>, OpenError> {
    let rest = after_front(bytes, WRAPPED_MAGIC, WRAPPED_FORMAT)?;
    let (root, rest) = rest.split_first_chunk::<16>().ok_or(OpenError::NotAnEnvelope)?;
    let (nonce, rest) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(OpenError::NotAnEnvelope)?;
    let (body, rest) = rest.split_first_chunk::<32>().ok_or(OpenError::NotAnEnvelope)?;
    let tag = rest.try_into().map_err(|_| OpenError::NotAnEnvelope)?;
    Ok(WrappedParts { root: RootKeyId(*root), nonce, body, tag })
}

/// Checks the magic, then the format; the rest is read only when both fit.
fn after_front(bytes: &[u8], magic: [u8; 4], format: u8) -> Result<&[u8], OpenError> {
    let rest = bytes.strip_prefix(magic.as_slice()).ok_or(OpenError::NotAnEnvelope)?;
    match rest.split_first() {
        Some((found, rest)) if *found == format => Ok(rest),
        Some((found, _)) => Err(OpenError::UnknownFormat(*found)),
        None => Err(OpenError::NotAnEnvelope),
    }
}
