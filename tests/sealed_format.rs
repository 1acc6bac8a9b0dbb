//! Holds the code against docs/SEALED-FORMAT.md by known answers.
//!
//! The vectors in `tests/vectors` were made once, by a program that shares no
//! code with the vault, and are never changed: what was sealed once must open
//! for ever. A new format gets files of its own beside them. Each vector is
//! opened a second time here by another implementation of AES-GCM.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Debug;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use obo_vault::domain::grant::{Generation, GrantId};
use obo_vault::domain::id::{ClientId, Issuer, SubjectId, TenantId};
use obo_vault::domain::key::{KeyId, KeyVersion};
use obo_vault::keyring::{FileRootKey, RootKey};
use obo_vault::seal::{self, KeyPlace, Label, OpenError, Place, RootKeyId, Sealed};
use obo_vault::secret::KeyBytes;
use serde::Deserialize;

const SPECIFICATION: &str = include_str!("../docs/SEALED-FORMAT.md");

#[test]
fn a_place_has_the_bytes_of_its_vector() {
    for vector in sealed_values().opens {
        assert_eq!(hex(&vector.place().aad(vector.version())), vector.aad, "{}", vector.name);
    }
    for vector in wrapped_keys().opens {
        assert_eq!(hex(&vector.place().aad()), vector.aad, "{}", vector.name);
    }
}

#[test]
fn values_are_sealed_as_their_vectors_say() {
    for v in sealed_values().opens {
        let plaintext = bytes(&v.plaintext);
        let sealed =
            seal::seal(&v.key(), v.key_id(), v.version(), &v.place(), array(&v.nonce), &plaintext).unwrap();
        assert_eq!(hex(sealed.as_bytes()), v.envelope, "{}", v.name);
        assert_eq!(sealed.as_bytes().len(), plaintext.len() + seal::envelope::OVERHEAD_BYTES, "{}", v.name);
    }
}

#[test]
fn every_value_ever_sealed_opens() {
    for v in sealed_values().opens {
        let opened = v.open(&v.envelope).unwrap();
        assert_eq!(hex(opened.expose()), v.plaintext, "{}", v.name);
        assert_eq!(independently_opened(&v.key, &v.envelope, 25, &v.aad), v.plaintext, "{}", v.name);
    }
}

#[test]
fn what_must_not_open_is_refused_for_its_reason() {
    let vectors = sealed_values();
    for refused in &vectors.refused {
        let like = vectors.opens.iter().find(|v| v.name == refused.like).unwrap();
        assert_eq!(reason(like.open(&refused.envelope)), refused.error, "{}", refused.name);
    }
    let vectors = wrapped_keys();
    for refused in &vectors.refused {
        let like = vectors.opens.iter().find(|v| v.name == refused.like).unwrap();
        let unwrapped = seal::unwrap_key(&like.root(), &like.place(), &bytes(&refused.wrapped));
        assert_eq!(reason(unwrapped), refused.error, "{}", refused.name);
    }
}

#[test]
fn keys_are_wrapped_and_unwrapped_as_their_vectors_say() {
    for v in wrapped_keys().opens {
        let key = KeyBytes::new(array(&v.key));
        let wrapped = seal::wrap_key(&v.root(), &v.place(), array(&v.nonce), &key).unwrap();
        assert_eq!(hex(&wrapped), v.wrapped, "{}", v.name);
        let unwrapped = seal::unwrap_key(&v.root(), &v.place(), &wrapped).unwrap();
        assert_eq!(hex(unwrapped.expose()), v.key, "{}", v.name);
        assert_eq!(independently_opened(&v.root_key, &v.wrapped, 21, &v.aad), v.key, "{}", v.name);
    }
}

/// The whole way that a restored backup takes: the root key's file and a row of
/// the key store, both from long ago.
#[tokio::test]
async fn an_old_root_key_file_unwraps_an_old_key() {
    let dir = tempfile::tempdir().unwrap();
    for v in wrapped_keys().opens {
        let path = dir.path().join(&v.name);
        fs::write(&path, &v.root_key_file).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let root = FileRootKey::load(&path).unwrap();
        assert_eq!(root.id(), format!("file:{}", v.root_key_id), "{}", v.name);
        let place = v.place();
        let key = root.unwrap(&place.tenant, place.version, place.key_id, &bytes(&v.wrapped)).await.unwrap();
        assert_eq!(hex(key.expose()), v.key, "{}", v.name);
    }
}

#[test]
fn the_specification_names_every_vector() {
    let (values, keys) = (sealed_values(), wrapped_keys());
    let names = values.opens.iter().map(|v| &v.name).chain(values.refused.iter().map(|v| &v.name));
    let names = names.chain(keys.opens.iter().map(|v| &v.name)).chain(keys.refused.iter().map(|v| &v.name));
    for name in names {
        assert!(SPECIFICATION.contains(&format!("`{name}`")), "docs/SEALED-FORMAT.md does not name `{name}`");
    }
}

/// Opens what follows the first `front` bytes of an envelope, nonce first, with
/// AES-GCM from AWS-LC.
fn independently_opened(key: &str, envelope: &str, front: usize, aad: &str) -> String {
    let envelope = bytes(envelope);
    let (nonce, body) = envelope[front..].split_at(12);
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &bytes(key)).unwrap());
    let mut body = body.to_vec();
    let nonce = Nonce::try_assume_unique_for_key(nonce).unwrap();
    hex(key.open_in_place(nonce, Aad::from(bytes(aad)), &mut body).unwrap())
}

fn reason<T: Debug>(opened: Result<T, OpenError>) -> &'static str {
    match opened {
        Ok(opened) => panic!("it opened: {opened:?}"),
        Err(OpenError::NotAnEnvelope) => "not-an-envelope",
        Err(OpenError::UnknownFormat(_)) => "unknown-format",
        Err(OpenError::WrongKey) => "wrong-key",
        Err(OpenError::Rejected) => "rejected",
    }
}

#[derive(Deserialize)]
struct File<V, R> {
    opens: Vec<V>,
    refused: Vec<R>,
}

fn sealed_values() -> File<SealedValue, RefusedValue> {
    serde_json::from_str(include_str!("vectors/sealed-value-1.json")).unwrap()
}

fn wrapped_keys() -> File<WrappedKey, RefusedKey> {
    serde_json::from_str(include_str!("vectors/wrapped-key-1.json")).unwrap()
}

#[derive(Deserialize)]
struct SealedValue {
    name: String,
    key: String,
    key_id: String,
    key_version: u32,
    nonce: String,
    place: PlaceOf,
    plaintext: String,
    aad: String,
    envelope: String,
}

#[derive(Deserialize)]
struct PlaceOf {
    label: String,
    issuer: String,
    tenant: String,
    client: String,
    subject: String,
    grant: String,
    generation: String,
}

#[derive(Deserialize)]
struct RefusedValue {
    name: String,
    like: String,
    envelope: String,
    error: String,
}

#[derive(Deserialize)]
struct WrappedKey {
    name: String,
    root_key_file: String,
    root_key: String,
    root_key_id: String,
    tenant: String,
    key_version: u32,
    key_id: String,
    nonce: String,
    key: String,
    aad: String,
    wrapped: String,
}

#[derive(Deserialize)]
struct RefusedKey {
    name: String,
    like: String,
    wrapped: String,
    error: String,
}

impl SealedValue {
    fn key(&self) -> KeyBytes {
        KeyBytes::new(array(&self.key))
    }

    fn key_id(&self) -> KeyId {
        KeyId(array(&self.key_id))
    }

    fn version(&self) -> KeyVersion {
        KeyVersion(self.key_version)
    }

    fn place(&self) -> Place {
        let label = [Label::RefreshToken, Label::ProviderAnswer];
        Place {
            label: label.into_iter().find(|label| label.as_str() == self.place.label).unwrap(),
            issuer: Issuer::new(&self.place.issuer).unwrap(),
            tenant: TenantId::new(&self.place.tenant).unwrap(),
            client: ClientId::new(&self.place.client).unwrap(),
            subject: SubjectId::new(&self.place.subject).unwrap(),
            grant: GrantId(self.place.grant.parse().unwrap()),
            generation: Generation(self.place.generation.parse().unwrap()),
        }
    }

    fn open(&self, envelope: &str) -> Result<obo_vault::secret::Plaintext, OpenError> {
        let sealed = Sealed::from_bytes(bytes(envelope));
        seal::open(&self.key(), self.key_id(), self.version(), &self.place(), &sealed)
    }
}

impl WrappedKey {
    fn root(&self) -> KeyBytes {
        KeyBytes::new(array(&self.root_key))
    }

    fn place(&self) -> KeyPlace {
        KeyPlace {
            root: RootKeyId(array(&self.root_key_id)),
            tenant: TenantId::new(&self.tenant).unwrap(),
            version: KeyVersion(self.key_version),
            key_id: KeyId(array(&self.key_id)),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    assert!(hex.len().is_multiple_of(2), "an odd number of digits");
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn array<const N: usize>(hex: &str) -> [u8; N] {
    bytes(hex).try_into().unwrap()
}
