//! The root key in a file: one line, `obo-vault-root-key-v1:` and 32 bytes in
//! base64. Whoever reads this file and the key store reads every token, so it
//! is made readable by its owner alone and refused where others can read or change
//! it ([`crate::file_access`]).

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::domain::id::TenantId;
use crate::domain::key::{KeyId, KeyVersion};
use crate::entropy::{self, OsEntropy, SharedEntropy};
use crate::file_access::{self, AccessError};
use crate::seal::{self, KeyPlace, OpenError, RootKeyId};
use crate::secret::KeyBytes;

use super::{KeyringError, RootKey};

mod error;

pub use error::RootKeyError;

const PREFIX: &str = "obo-vault-root-key-v1:";
/// More than the line has; a file beyond it is something else.
const MOST_BYTES: usize = 1024;

/// A root key that was read from a file.
pub struct FileRootKey {
    id: RootKeyId,
    key: KeyBytes,
    entropy: SharedEntropy,
}

impl fmt::Debug for FileRootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileRootKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl FileRootKey {
    /// Makes a new root key in a new file, readable by its owner alone, durable
    /// when this returns.
    ///
    /// # Errors
    ///
    /// When the file exists or cannot be written; no half file is left.
    pub fn create(path: &Path) -> Result<(), RootKeyError> {
        let key = Zeroizing::new(entropy::bytes::<32>(&OsEntropy).map_err(|_| RootKeyError::Entropy)?);
        let encoded = Zeroizing::new(STANDARD.encode(*key));
        let line = Zeroizing::new([PREFIX, &encoded, "\n"].concat());

        // `create_new` is O_EXCL: of two that begin at once one is told so.
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => RootKeyError::Exists(path.into()),
            _ => RootKeyError::Io(path.into(), error),
        })?;
        write_durably(file, path, line.as_bytes()).map_err(|error| {
            // The first error is the one to report.
            let _ = fs::remove_file(path);
            RootKeyError::Io(path.into(), error)
        })
    }

    /// Reads a root key, and refuses one that others could have read or
    /// exchanged. A symbolic link is followed: what it leads to is judged.
    ///
    /// # Errors
    ///
    /// See [`RootKeyError`].
    pub fn load(path: &Path) -> Result<Self, RootKeyError> {
        let (file, _) = file_access::open(path, file_access::Kind::RootKey).map_err(|error| match error {
            AccessError::Io(error, _) if error.kind() == io::ErrorKind::NotFound => {
                RootKeyError::Missing(path.into())
            }
            AccessError::Io(error, advice) => RootKeyError::Unreadable(path.into(), error, advice),
            AccessError::NotAFile => RootKeyError::NotAFile(path.into()),
            AccessError::Exposed(exposed) => RootKeyError::Exposed(exposed),
        })?;
        let io_error = |error: io::Error| RootKeyError::Io(path.into(), error);

        // One buffer of a fixed size, so that no copy is left by growing.
        let mut text = Zeroizing::new([0; MOST_BYTES + 1]);
        let length = read_up_to(file, text.as_mut_slice()).map_err(io_error)?;
        let key = parse(&text[..length]).map_err(|what| RootKeyError::Malformed(path.into(), what))?;
        Ok(Self { id: fingerprint(&key), key, entropy: OsEntropy::shared() })
    }

    fn place(&self, tenant: &TenantId, version: KeyVersion, key_id: KeyId) -> KeyPlace {
        KeyPlace { root: self.id, tenant: tenant.clone(), version, key_id }
    }
}

#[async_trait]
impl RootKey for FileRootKey {
    fn id(&self) -> String {
        format!("file:{}", self.id)
    }

    async fn wrap(
        &self,
        tenant: &TenantId,
        version: KeyVersion,
        key_id: KeyId,
        key: &KeyBytes,
    ) -> Result<Vec<u8>, KeyringError> {
        let nonce = entropy::bytes(&*self.entropy)?;
        seal::wrap_key(&self.key, &self.place(tenant, version, key_id), nonce, key)
            .map_err(KeyringError::TooLong)
    }

    async fn unwrap(
        &self,
        tenant: &TenantId,
        version: KeyVersion,
        key_id: KeyId,
        wrapped: &[u8],
    ) -> Result<KeyBytes, KeyringError> {
        seal::unwrap_key(&self.key, &self.place(tenant, version, key_id), wrapped).map_err(|error| {
            let detail = match error {
                OpenError::WrongKey => {
                    let wrapper = seal::wrapped_under(wrapped).map(|id| id.to_string()).unwrap_or_default();
                    format!(
                        "the key of tenant {tenant} version {version} is wrapped under root key {wrapper}, this is {}",
                        self.id
                    )
                }
                OpenError::NotAnEnvelope | OpenError::UnknownFormat(_) | OpenError::Rejected => {
                    format!("the key of tenant {tenant} version {version} does not unwrap: {error}")
                }
            };
            KeyringError::RootKey(detail)
        })
    }

    async fn prove(&self, bytes: &[u8]) -> Result<[u8; 32], KeyringError> {
        // The key that wraps is used for nothing else.
        let derived = Zeroizing::new(keyed_hash(self.key.expose(), b"obo-vault proof key v1")?);
        keyed_hash(&*derived, bytes)
    }
}

fn keyed_hash(key: &[u8], bytes: &[u8]) -> Result<[u8; 32], KeyringError> {
    let mac = Hmac::<Sha256>::new_from_slice(key).map_err(|e| KeyringError::RootKey(e.to_string()))?;
    Ok(mac.chain_update(bytes).finalize().into_bytes().into())
}

/// Writes the bytes, then makes them and the file's name durable.
fn write_durably(mut file: File, path: &Path, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)?;
    file.sync_all()?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

/// Reads until the end of the file or of the buffer.
fn read_up_to(mut file: File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

fn parse(text: &[u8]) -> Result<KeyBytes, &'static str> {
    if text.len() > MOST_BYTES {
        return Err("is too long");
    }
    let encoded =
        text.trim_ascii_end().strip_prefix(PREFIX.as_bytes()).ok_or("does not begin as a root key does")?;
    let mut key = Zeroizing::new([0; 33]);
    // One byte of room more than a key has, so that a longer one is seen.
    match STANDARD.decode_slice(encoded, key.as_mut_slice()) {
        Ok(32) => {}
        Ok(_) | Err(base64::DecodeSliceError::OutputSliceTooSmall) => return Err("does not hold 32 bytes"),
        Err(base64::DecodeSliceError::DecodeError(_)) => return Err("is not valid base64"),
    }
    let key = key.first_chunk::<32>().ok_or("does not hold 32 bytes")?;
    Ok(KeyBytes::new(*key))
}

/// Names a key by a hash of it. The key is 32 random bytes, so the name tells
/// nothing about it; the text before it keeps the hash apart from any other.
fn fingerprint(key: &KeyBytes) -> RootKeyId {
    let digest =
        Sha256::new().chain_update(b"obo-vault root key id v1\0").chain_update(key.expose()).finalize();
    let mut id = [0; 16];
    id.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
    RootKeyId(id)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt, chown, symlink};
    use std::path::PathBuf;

    use super::*;

    const VERSION: KeyVersion = KeyVersion::FIRST;
    const KEY_ID: KeyId = KeyId([5; 16]);

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).unwrap()
    }

    fn new_key(directory: &Path, name: &str) -> PathBuf {
        let path = directory.join(name);
        FileRootKey::create(&path).unwrap();
        path
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_new_root_key_is_its_owners_alone_and_loads() {
        let dir = tempfile::tempdir().unwrap();
        let path = new_key(dir.path(), "root.key");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        let line = fs::read_to_string(&path).unwrap();
        assert!(
            line.starts_with("obo-vault-root-key-v1:") && line.ends_with('\n') && line.lines().count() == 1
        );
        assert_eq!(FileRootKey::load(&path).unwrap().id(), FileRootKey::load(&path).unwrap().id());
        let other = new_key(dir.path(), "other.key");
        assert_ne!(FileRootKey::load(&path).unwrap().id(), FileRootKey::load(&other).unwrap().id());
    }

    #[test]
    fn an_existing_root_key_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = new_key(dir.path(), "root.key");
        let before = fs::read(&path).unwrap();
        assert!(matches!(FileRootKey::create(&path), Err(RootKeyError::Exists(_))));
        assert_eq!(fs::read(&path).unwrap(), before);
    }

    #[test]
    fn a_root_key_that_others_may_use_is_refused_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = new_key(dir.path(), "root.key");
        for mode in [0o620, 0o604, 0o602, 0o660, 0o666, 0o610] {
            set_mode(&path, mode);
            let error = FileRootKey::load(&path).unwrap_err();
            assert!(matches!(error, RootKeyError::Exposed(_)), "{mode:o}: {error:?}");
            assert!(error.to_string().contains("chmod 600"), "{error}");
        }
        for mode in [0o400, 0o600, 0o440, 0o640] {
            set_mode(&path, mode);
            FileRootKey::load(&path).unwrap();
        }
    }

    /// For root alone: nobody else can give a file away.
    #[test]
    fn a_root_key_of_another_user_or_group_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = new_key(dir.path(), "root.key");
        if fs::metadata(&path).unwrap().uid() != 0 {
            return;
        }
        chown(&path, Some(4711), None).unwrap();
        assert!(matches!(FileRootKey::load(&path), Err(RootKeyError::Exposed(_))));
        chown(&path, Some(0), Some(4711)).unwrap();
        FileRootKey::load(&path).unwrap();
        set_mode(&path, 0o440);
        assert!(matches!(FileRootKey::load(&path), Err(RootKeyError::Exposed(_))));
    }

    #[test]
    fn a_link_is_followed_and_what_it_leads_to_judged() {
        let dir = tempfile::tempdir().unwrap();
        let path = new_key(dir.path(), "root.key");
        let link = dir.path().join("link");
        symlink(&path, &link).unwrap();
        assert_eq!(FileRootKey::load(&link).unwrap().id(), FileRootKey::load(&path).unwrap().id());
        set_mode(&path, 0o644);
        assert!(matches!(FileRootKey::load(&link), Err(RootKeyError::Exposed(_))));
    }

    #[test]
    fn what_is_no_root_key_is_refused_without_showing_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = new_key(dir.path(), "root.key");
        let good = fs::read_to_string(&path).unwrap();
        let secret = good.trim_end().strip_prefix(PREFIX).unwrap();
        let bad = [
            String::new(),
            secret.into(),
            good.replace("-v1:", "-v2:"),
            format!("{PREFIX}{}", &secret[..40]),
            format!("{PREFIX}{}", STANDARD.encode([0; 31])),
            format!("{PREFIX}{}", STANDARD.encode([0; 33])),
            format!("{PREFIX}{}", STANDARD.encode([0; 64])),
            format!("{PREFIX}*{secret}"),
            format!("{good}{good}"),
            good.clone() + &"x".repeat(4096),
        ];
        for text in bad {
            fs::write(&path, &text).unwrap();
            let error = FileRootKey::load(&path).unwrap_err();
            assert!(matches!(error, RootKeyError::Malformed(..)), "{text:?}: {error:?}");
            assert!(!format!("{error} {error:?}").contains(&secret[..40]), "{error:?}");
        }
        fs::write(&path, good.trim_end()).unwrap();
        let key = FileRootKey::load(&path).unwrap();
        assert!(!format!("{key:?} {}", key.id()).contains(secret));
    }

    #[test]
    fn a_missing_file_and_a_directory_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(FileRootKey::load(&dir.path().join("none")), Err(RootKeyError::Missing(_))));
        assert!(matches!(FileRootKey::load(dir.path()), Err(RootKeyError::NotAFile(_))));
        let nowhere = dir.path().join("none").join("root.key");
        assert!(matches!(FileRootKey::create(&nowhere), Err(RootKeyError::Io(..))));
    }

    #[tokio::test]
    async fn a_wrapped_key_unwraps_for_its_tenant_under_its_root_key_only() {
        let dir = tempfile::tempdir().unwrap();
        let root = FileRootKey::load(&new_key(dir.path(), "root.key")).unwrap();
        let other = FileRootKey::load(&new_key(dir.path(), "other.key")).unwrap();
        let contoso = tenant("contoso");
        let key = KeyBytes::new([6; 32]);
        let wrapped = root.wrap(&contoso, VERSION, KEY_ID, &key).await.unwrap();
        let unwrapped = root.unwrap(&contoso, VERSION, KEY_ID, &wrapped).await.unwrap();
        assert_eq!(unwrapped.expose(), key.expose());

        assert!(root.unwrap(&tenant("fabrikam"), VERSION, KEY_ID, &wrapped).await.is_err());
        let error = other.unwrap(&contoso, VERSION, KEY_ID, &wrapped).await.unwrap_err();
        let KeyringError::RootKey(detail) = error else { panic!("{error:?}") };
        for id in [root.id, other.id] {
            assert!(
                detail.contains(&id.to_string()),
                "the operator must learn which key is missing: {detail}"
            );
        }
    }
}
