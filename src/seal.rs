//! Sealing: the pure cryptography of the vault. Bytes in, bytes out; no state,
//! no time, no chance, no I/O. docs/SEALED-FORMAT.md is its specification.
//!
//! In reading order:
//!
//! - [`context`]: the place a value is sealed for, which becomes the
//!   additional authenticated data (AAD);
//! - [`envelope`]: the byte format around the ciphertext;
//! - `aead`: AES-256-GCM itself, the only user of `aes-gcm`.
//!
//! Two things are sealed: values under a tenant's key ([`seal()`], [`open`]),
//! and a tenant's key under the root key ([`wrap_key`], [`unwrap_key`]).
//!
//! Invariant 3 of docs/ARCHITECTURE.md is kept here: a value opens in the one
//! place it was sealed for, under the one key its envelope names, and nowhere
//! else. Nothing here ever tries a second key.

use std::fmt;

use zeroize::Zeroizing;

use crate::domain::key::{KeyId, KeyVersion};
use crate::secret::{KeyBytes, Plaintext};

mod aead;
pub mod context;
pub mod envelope;

pub use context::{KeyPlace, Label, Place};
pub use envelope::{Header, RootKeyId, Sealed};

/// Most bytes that are sealed as one value. Far above any token answer; it
/// keeps the data under one key version within the bounds that
/// docs/SEALED-FORMAT.md works out.
pub const MAX_PLAINTEXT_BYTES: usize = 2 * 1024 * 1024;

/// The value is longer than [`MAX_PLAINTEXT_BYTES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealError;

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the value to seal is longer than {MAX_PLAINTEXT_BYTES} bytes")
    }
}

impl std::error::Error for SealError {}

/// Why an envelope does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenError {
    /// The bytes are not an envelope of this kind, or were cut short.
    NotAnEnvelope,
    /// The envelope's format is not known to this version of the vault: it was
    /// written by a newer one, or altered.
    UnknownFormat(u8),
    /// The envelope names another key than the one it is to be opened with.
    WrongKey,
    /// The tag does not match: the envelope was altered, or it was sealed for
    /// another place.
    Rejected,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnEnvelope => f.write_str("not a sealed value, or cut short"),
            Self::UnknownFormat(format) => write!(f, "sealed in format {format}, which is not known here"),
            Self::WrongKey => f.write_str("sealed under another key"),
            Self::Rejected => f.write_str("altered, or sealed for another place"),
        }
    }
}

impl std::error::Error for OpenError {}

/// Seals `plaintext` for `place` under version `version` of a tenant's key.
///
/// The nonce must be fresh random bytes for every call: two values sealed under
/// one key with one nonce give both away. The keyring draws it.
///
/// # Errors
///
/// When the plaintext is too long; nothing is made then.
pub fn seal(
    key: &KeyBytes,
    key_id: KeyId,
    version: KeyVersion,
    place: &Place,
    nonce: [u8; 12],
    plaintext: &[u8],
) -> Result<Sealed, SealError> {
    if plaintext.len() > MAX_PLAINTEXT_BYTES {
        return Err(SealError);
    }
    let header = Header { format: envelope::FORMAT, version, key_id };
    let mut bytes = envelope::begin(&header, &nonce, plaintext);
    let body = &mut bytes[envelope::BODY_AT..];
    let tag = aead::encrypt(key, &nonce, &place.aad(version), body).ok_or(SealError)?;
    bytes.extend_from_slice(&tag);
    // The buffer holds no plaintext any more: it was encrypted in place, and
    // `begin` reserved room for the tag, so that it never moved.
    Ok(Sealed::from_bytes(std::mem::take(&mut *bytes)))
}

/// Opens what was sealed for `place` under exactly this key.
///
/// # Errors
///
/// See [`OpenError`]. No error says anything about the plaintext.
pub fn open(
    key: &KeyBytes,
    key_id: KeyId,
    version: KeyVersion,
    place: &Place,
    sealed: &Sealed,
) -> Result<Plaintext, OpenError> {
    let parts = envelope::split(sealed.as_bytes())?;
    if parts.header.version != version || parts.header.key_id != key_id {
        return Err(OpenError::WrongKey);
    }
    let mut body = Zeroizing::new(parts.body.to_vec());
    aead::decrypt(key, parts.nonce, &place.aad(version), &mut body, parts.tag).ok_or(OpenError::Rejected)?;
    Ok(Plaintext::new(std::mem::take(&mut *body)))
}

/// Seals a tenant's key under the root key, for its place in the key store.
/// The nonce must be fresh random bytes for every call.
///
/// # Errors
///
/// Never for 32 bytes; the cipher's refusal of longer ones is passed on rather
/// than hidden, since what it did not encrypt must not be written.
pub fn wrap_key(
    root: &KeyBytes,
    place: &KeyPlace,
    nonce: [u8; 12],
    key: &KeyBytes,
) -> Result<Vec<u8>, SealError> {
    let mut body = Zeroizing::new(*key.expose());
    let tag = aead::encrypt(root, &nonce, &place.aad(), body.as_mut_slice()).ok_or(SealError)?;
    Ok(envelope::join_wrapped(place.root, &nonce, &body, &tag))
}

/// Opens a tenant's key that [`wrap_key`] sealed for this place.
///
/// # Errors
///
/// [`OpenError::WrongKey`] when it was wrapped under another root key than
/// `place` names, and the others as for [`open`].
pub fn unwrap_key(root: &KeyBytes, place: &KeyPlace, wrapped: &[u8]) -> Result<KeyBytes, OpenError> {
    let parts = envelope::split_wrapped(wrapped)?;
    if parts.root != place.root {
        return Err(OpenError::WrongKey);
    }
    let mut body = Zeroizing::new(*parts.body);
    aead::decrypt(root, parts.nonce, &place.aad(), body.as_mut_slice(), parts.tag)
        .ok_or(OpenError::Rejected)?;
    Ok(KeyBytes::new(*body))
}

/// The root key that a wrapped key names, to tell an operator which one is
/// missing. Not authenticated.
///
/// # Errors
///
/// [`OpenError::NotAnEnvelope`] or [`OpenError::UnknownFormat`].
pub fn wrapped_under(wrapped: &[u8]) -> Result<RootKeyId, OpenError> {
    envelope::split_wrapped(wrapped).map(|parts| parts.root)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::domain::grant::{Generation, GrantId};
    use crate::domain::id::{ClientId, Issuer, SubjectId, TenantId};

    /// Everything that opens a value.
    #[derive(Debug, Clone)]
    struct Way {
        key: KeyBytes,
        key_id: KeyId,
        version: KeyVersion,
        place: Place,
    }

    impl Way {
        fn seal(&self, nonce: [u8; 12], plaintext: &[u8]) -> Sealed {
            seal(&self.key, self.key_id, self.version, &self.place, nonce, plaintext).unwrap()
        }

        fn open(&self, sealed: &Sealed) -> Result<Plaintext, OpenError> {
            open(&self.key, self.key_id, self.version, &self.place, sealed)
        }
    }

    prop_compose! {
        fn ways()(
            label in prop_oneof![Just(Label::RefreshToken), Just(Label::ProviderAnswer)],
            issuer in "[!-~é]{1,40}", tenant in "[a-z0-9]{1,40}", client in "[a-z0-9]{1,40}",
            subject in "[!-~é]{1,40}", grant: u128, generation: u64,
            key: [u8; 32], key_id: [u8; 16], version: u32,
        ) -> Way {
            Way {
                key: KeyBytes::new(key),
                key_id: KeyId(key_id),
                version: KeyVersion(version),
                place: Place {
                    label,
                    issuer: Issuer::new(&issuer).unwrap(),
                    tenant: TenantId::new(&tenant).unwrap(),
                    client: ClientId::new(&client).unwrap(),
                    subject: SubjectId::new(&subject).unwrap(),
                    grant: GrantId(Uuid::from_u128(grant)),
                    generation: Generation(generation),
                },
            }
        }
    }

    /// Every way that differs from `way` in exactly one coordinate, which it
    /// takes from `other`.
    fn with_one_exchanged(way: &Way, other: &Way) -> Vec<(&'static str, Way)> {
        let mut ways = Vec::new();
        let mut exchange = |what, change: fn(&mut Way, &Way)| {
            let mut exchanged = way.clone();
            change(&mut exchanged, other);
            ways.push((what, exchanged));
        };
        exchange("label", |w, _| {
            w.place.label = match w.place.label {
                Label::RefreshToken => Label::ProviderAnswer,
                Label::ProviderAnswer => Label::RefreshToken,
            }
        });
        exchange("issuer", |w, o| w.place.issuer = o.place.issuer.clone());
        exchange("tenant", |w, o| w.place.tenant = o.place.tenant.clone());
        exchange("client", |w, o| w.place.client = o.place.client.clone());
        exchange("subject", |w, o| w.place.subject = o.place.subject.clone());
        exchange("grant", |w, o| w.place.grant = o.place.grant);
        exchange("generation", |w, o| w.place.generation = o.place.generation);
        exchange("key", |w, o| w.key = o.key.clone());
        exchange("key id", |w, o| w.key_id = o.key_id);
        exchange("version", |w, o| w.version = o.version);
        ways
    }

    proptest! {
        #[test]
        fn what_was_sealed_opens_in_its_place(way in ways(), nonce: [u8; 12], plaintext: Vec<u8>) {
            let sealed = way.seal(nonce, &plaintext);
            prop_assert_eq!(sealed.as_bytes().len(), plaintext.len() + envelope::OVERHEAD_BYTES);
            let opened = way.open(&sealed).unwrap();
            prop_assert_eq!(opened.expose(), &plaintext[..]);
            let header = Header { format: 1, version: way.version, key_id: way.key_id };
            prop_assert_eq!(sealed.header(), Ok(header));
        }

        #[test]
        fn exchanging_one_coordinate_makes_it_unopenable(
            way in ways(), other in ways(), nonce: [u8; 12], plaintext: Vec<u8>,
        ) {
            let sealed = way.seal(nonce, &plaintext);
            for (what, exchanged) in with_one_exchanged(&way, &other) {
                let same = exchanged.place == way.place
                    && exchanged.key.expose() == way.key.expose()
                    && (exchanged.key_id, exchanged.version) == (way.key_id, way.version);
                prop_assert!(same || exchanged.open(&sealed).is_err(), "opened with another {}", what);
            }
        }

        /// The header's version is compared, and it is in the AAD as well: an
        /// envelope relabelled to another version whose key has the same bytes
        /// stays closed.
        #[test]
        fn a_relabelled_version_is_rejected_by_the_tag(way in ways(), plaintext: Vec<u8>) {
            let mut bytes = way.seal([7; 12], &plaintext).as_bytes().to_vec();
            let relabelled = Way { version: KeyVersion(way.version.0 ^ 1), ..way };
            bytes[8] ^= 1;
            prop_assert_eq!(relabelled.open(&Sealed::from_bytes(bytes)).err(), Some(OpenError::Rejected));
        }

        #[test]
        fn flipping_any_byte_makes_it_unopenable(
            way in ways(), plaintext in prop::collection::vec(any::<u8>(), 0..60), flip in 1u8..,
        ) {
            let sealed = way.seal([7; 12], &plaintext);
            for at in 0..sealed.as_bytes().len() {
                let mut bytes = sealed.as_bytes().to_vec();
                bytes[at] ^= flip;
                prop_assert!(way.open(&Sealed::from_bytes(bytes)).is_err(), "opened with byte {} flipped", at);
            }
        }

        #[test]
        fn cutting_or_lengthening_makes_it_unopenable(way in ways(), plaintext: Vec<u8>, more: u8) {
            let sealed = way.seal([7; 12], &plaintext);
            for length in 0..sealed.as_bytes().len() {
                let cut = Sealed::from_bytes(sealed.as_bytes()[..length].to_vec());
                prop_assert!(way.open(&cut).is_err(), "opened when cut to {} bytes", length);
            }
            let longer = [sealed.as_bytes(), &[more]].concat();
            prop_assert!(way.open(&Sealed::from_bytes(longer)).is_err());
        }

        #[test]
        fn bytes_of_any_kind_never_panic(way in ways(), noise: Vec<u8>, format: u8) {
            for front in [&b""[..], b"OBVS", b"OBVK", &[b'O', b'B', b'V', b'S', format]] {
                let bytes = [front, &noise].concat();
                let place = key_place();
                prop_assert!(unwrap_key(&way.key, &place, &bytes).is_err());
                prop_assert!(way.open(&Sealed::from_bytes(bytes)).is_err());
            }
        }

        #[test]
        fn a_wrapped_key_opens_in_its_place_only(root: [u8; 32], key: [u8; 32], nonce: [u8; 12], flip in 1u8..) {
            let (root, place) = (KeyBytes::new(root), key_place());
            let wrapped = wrap_key(&root, &place, nonce, &KeyBytes::new(key)).unwrap();
            let unwrapped = unwrap_key(&root, &place, &wrapped).unwrap();
            prop_assert_eq!(unwrapped.expose(), &key);
            let elsewhere = [
                (KeyPlace { root: RootKeyId([9; 16]), ..place.clone() }, OpenError::WrongKey),
                (KeyPlace { tenant: TenantId::new("other").unwrap(), ..place.clone() }, OpenError::Rejected),
                (KeyPlace { version: place.version.next(), ..place.clone() }, OpenError::Rejected),
                (KeyPlace { key_id: KeyId([9; 16]), ..place.clone() }, OpenError::Rejected),
            ];
            for (elsewhere, error) in elsewhere {
                prop_assert_eq!(unwrap_key(&root, &elsewhere, &wrapped).err(), Some(error));
            }
            for at in 0..wrapped.len() {
                let mut bytes = wrapped.clone();
                bytes[at] ^= flip;
                prop_assert!(unwrap_key(&root, &place, &bytes).is_err(), "byte {} flipped", at);
                prop_assert!(unwrap_key(&root, &place, &wrapped[..at]).is_err(), "cut to {}", at);
            }
            let longer = [&wrapped[..], &[0]].concat();
            prop_assert_eq!(unwrap_key(&root, &place, &longer).err(), Some(OpenError::NotAnEnvelope));
        }
    }

    fn key_place() -> KeyPlace {
        KeyPlace {
            root: RootKeyId([1; 16]),
            tenant: TenantId::new("contoso").unwrap(),
            version: KeyVersion::FIRST,
            key_id: KeyId([2; 16]),
        }
    }

    /// Each error is a different thing to do for the operator, so the reader
    /// must tell them apart.
    #[test]
    fn each_fault_has_its_own_error() {
        let key = KeyBytes::new([3; 32]);
        let wrapped = wrap_key(&key, &key_place(), [0; 12], &key).unwrap();
        let mut newer = wrapped.clone();
        newer[4] = 2;
        assert_eq!(unwrap_key(&key, &key_place(), &newer).err(), Some(OpenError::UnknownFormat(2)));
        assert_eq!(Sealed::from_bytes(wrapped).header(), Err(OpenError::NotAnEnvelope));
        let mut newer = b"OBVS".to_vec();
        newer.push(2);
        assert_eq!(Sealed::from_bytes(newer).header(), Err(OpenError::UnknownFormat(2)));
    }

    #[test]
    fn a_value_over_the_limit_is_not_sealed() {
        let (key, id, version) = (KeyBytes::new([3; 32]), KeyId([4; 16]), KeyVersion::FIRST);
        let place = Place {
            label: Label::RefreshToken,
            issuer: Issuer::new("https://idp.example").unwrap(),
            tenant: TenantId::new("contoso").unwrap(),
            client: ClientId::new("portal").unwrap(),
            subject: SubjectId::new("alice").unwrap(),
            grant: GrantId(Uuid::nil()),
            generation: Generation(0),
        };
        let most = vec![0; MAX_PLAINTEXT_BYTES];
        assert!(seal(&key, id, version, &place, [0; 12], &most).is_ok());
        let over = vec![0; MAX_PLAINTEXT_BYTES + 1];
        assert_eq!(seal(&key, id, version, &place, [0; 12], &over), Err(SealError));
    }
}
