use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use proptest::prelude::*;
use uuid::Uuid;

use super::fake::FakeKeyStore;
use super::*;
use crate::clock::SystemClock;
use crate::domain::grant::{Generation, GrantId};
use crate::domain::id::{ClientId, Issuer, SubjectId};
use crate::entropy::{Entropy, EntropyUnavailable, OsEntropy};
use crate::seal::{Label, OpenError};

const V1: KeyVersion = KeyVersion(1);
const V2: KeyVersion = KeyVersion(2);

/// A keyring over a store in memory, with one tenant whose version 1 is active.
struct Bench {
    keyring: Arc<Keyring>,
    store: Arc<FakeKeyStore>,
    entropy: Arc<CountingEntropy>,
    root: Arc<FileRootKey>,
    limits: Limits,
}

impl Bench {
    async fn new() -> Self {
        Self::with_block(Limits::default().seal_block).await
    }

    async fn with_block(seal_block: u64) -> Self {
        let store = Arc::new(FakeKeyStore::new());
        let entropy = Arc::new(CountingEntropy::watching(Arc::clone(&store)));
        let limits = Limits { seal_block, ..Limits::default() };
        let root = Arc::new(new_root());
        let keyring = keyring(&root, &store, &entropy, limits);
        keyring.create_version(&tenant(), V1).await.unwrap();
        keyring.activate(&tenant(), V1).await.unwrap();
        Self { keyring, store, entropy, root, limits }
    }

    /// The process dies and another one starts on the same store.
    fn restart(&mut self) {
        self.keyring = keyring(&self.root, &self.store, &self.entropy, self.limits);
    }

    async fn seal(&self, version: KeyVersion) -> Result<Sealed, KeyringError> {
        self.keyring.seal(version, &place(), b"token").await
    }

    async fn open(&self, sealed: &Sealed) -> Result<Plaintext, KeyringError> {
        self.keyring.open(&place(), sealed).await
    }

    /// Opens in a task of its own.
    fn spawn_open(&self, sealed: &Sealed) -> tokio::task::JoinHandle<Result<Plaintext, KeyringError>> {
        let (keyring, sealed) = (Arc::clone(&self.keyring), sealed.clone());
        tokio::spawn(async move { keyring.open(&place(), &sealed).await })
    }

    fn open_keys(&self) -> usize {
        self.keyring.cache.open_keys(&tenant())
    }

    fn reads(&self) -> usize {
        self.store.read_count.load(Ordering::SeqCst)
    }
}

fn keyring(
    root: &Arc<FileRootKey>,
    store: &Arc<FakeKeyStore>,
    entropy: &Arc<CountingEntropy>,
    limits: Limits,
) -> Arc<Keyring> {
    let (root, store, entropy) = (Arc::clone(root), Arc::clone(store), Arc::clone(entropy));
    Arc::new(Keyring::new(root, store, SystemClock::shared(), entropy, limits))
}

fn new_root() -> FileRootKey {
    let dir = tempfile::tempdir().unwrap();
    let path: &Path = &dir.path().join("root.key");
    FileRootKey::create(path).unwrap();
    FileRootKey::load(path).unwrap()
}

fn tenant() -> TenantId {
    TenantId::new("contoso").unwrap()
}

fn place() -> Place {
    Place {
        label: Label::RefreshToken,
        issuer: Issuer::new("https://idp.example").unwrap(),
        tenant: tenant(),
        client: ClientId::new("portal").unwrap(),
        subject: SubjectId::new("alice").unwrap(),
        grant: GrantId(Uuid::nil()),
        generation: Generation(0),
    }
}

/// The kernel's randomness, except that nonces are counted and numbered. A
/// nonce is drawn for each seal, after it was reserved: at no moment may there
/// be more of them than the store has reserved.
struct CountingEntropy {
    nonces: AtomicU64,
    overdrawn: AtomicBool,
    broken: AtomicBool,
    store: Arc<FakeKeyStore>,
}

impl CountingEntropy {
    fn watching(store: Arc<FakeKeyStore>) -> Self {
        Self { nonces: AtomicU64::new(0), overdrawn: false.into(), broken: false.into(), store }
    }

    fn nonces(&self) -> u64 {
        self.nonces.load(Ordering::SeqCst)
    }
}

impl Entropy for CountingEntropy {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), EntropyUnavailable> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(EntropyUnavailable);
        }
        if bytes.len() != 12 {
            return OsEntropy.fill(bytes);
        }
        let number = self.nonces.fetch_add(1, Ordering::SeqCst) + 1;
        if number > self.store.reserved() {
            self.overdrawn.store(true, Ordering::SeqCst);
        }
        bytes[4..].copy_from_slice(&number.to_be_bytes());
        Ok(())
    }
}

fn nonce_of(sealed: &Sealed) -> u64 {
    u64::from_be_bytes(sealed.as_bytes()[29..37].try_into().unwrap())
}

#[tokio::test]
async fn what_was_sealed_opens_in_its_place_and_after_a_restart() {
    let mut bench = Bench::new().await;
    let sealed = bench.seal(V1).await.unwrap();
    assert_eq!(bench.open(&sealed).await.unwrap().expose(), b"token");
    bench.restart();
    assert_eq!(bench.open(&sealed).await.unwrap().expose(), b"token");
    let elsewhere = Place { generation: Generation(1), ..place() };
    let refused = bench.keyring.open(&elsewhere, &sealed).await;
    assert!(matches!(refused, Err(KeyringError::Unreadable(OpenError::Rejected))), "{refused:?}");
}

#[tokio::test]
async fn an_altered_envelope_opens_under_no_key_of_the_tenant() {
    let bench = Bench::new().await;
    bench.keyring.create_version(&tenant(), V2).await.unwrap();
    let sealed = bench.seal(V1).await.unwrap();
    for at in 0..sealed.as_bytes().len() {
        let mut bytes = sealed.as_bytes().to_vec();
        // Turns version 1 into 3, and 2 tries nothing either way.
        bytes[at] ^= 2;
        let refused = bench.open(&Sealed::from_bytes(bytes)).await;
        let expected = matches!(refused, Err(KeyringError::Unreadable(_) | KeyringError::NoSuchKey(_)));
        assert!(expected, "byte {at}: {refused:?}");
    }
    let mut bytes = sealed.as_bytes().to_vec();
    bytes[8] = 2;
    let refused = bench.open(&Sealed::from_bytes(bytes)).await;
    assert!(matches!(refused, Err(KeyringError::Unreadable(OpenError::WrongKey))), "{refused:?}");
}

#[tokio::test]
async fn a_stolen_key_store_opens_nothing_under_another_root_key() {
    let mut bench = Bench::new().await;
    let sealed = bench.seal(V1).await.unwrap();
    bench.root = Arc::new(new_root());
    bench.restart();
    let refused = bench.open(&sealed).await;
    assert!(matches!(refused, Err(KeyringError::RootKey(_))), "{refused:?}");
}

#[tokio::test]
async fn creating_a_version_again_changes_nothing() {
    let bench = Bench::new().await;
    let first = bench.keyring.create_version(&tenant(), V2).await.unwrap();
    assert_eq!(first.state, KeyState::PreActive);
    assert_eq!(bench.keyring.create_version(&tenant(), V2).await.unwrap(), first);
    bench.keyring.activate(&tenant(), V2).await.unwrap();
    bench.keyring.activate(&tenant(), V2).await.unwrap();
    let active = bench.keyring.create_version(&tenant(), V2).await.unwrap();
    assert_eq!((active.key_id, active.state), (first.key_id, KeyState::Active));
}

/// Both find no version, both make a key; one must win and both must say which.
#[tokio::test]
async fn of_two_that_create_a_version_at_once_both_get_the_same() {
    let bench = Bench::new().await;
    bench.store.reads.shut();
    let create = || {
        let keyring = Arc::clone(&bench.keyring);
        tokio::spawn(async move { keyring.create_version(&tenant(), V2).await })
    };
    let (one, other) = (create(), create());
    bench.store.reads.someone_waits().await;
    bench.store.reads.someone_waits().await;
    bench.store.reads.release();
    let (one, other) = (one.await.unwrap().unwrap(), other.await.unwrap().unwrap());
    assert_eq!(one.key_id, other.key_id);
    assert_eq!(bench.keyring.versions(&tenant()).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_version_seals_until_the_next_is_active_and_opens_after() {
    let bench = Bench::new().await;
    let old = bench.seal(V1).await.unwrap();
    bench.keyring.create_version(&tenant(), V2).await.unwrap();
    // The token store names version 2 before it is activated.
    let early = bench.seal(V2).await.unwrap();
    assert_eq!(bench.open(&early).await.unwrap().expose(), b"token");
    bench.keyring.activate(&tenant(), V2).await.unwrap();

    let refused = bench.seal(V1).await;
    assert!(matches!(refused, Err(KeyringError::Retired(V1, KeyState::Deactivated))), "{refused:?}");
    let again = bench.keyring.create_version(&tenant(), V1).await;
    assert!(matches!(again, Err(KeyringError::Retired(..))), "{again:?}");
    assert!(bench.keyring.activate(&tenant(), V1).await.is_err(), "a version came back into use");
    for sealed in [old, early, bench.seal(V2).await.unwrap()] {
        assert_eq!(bench.open(&sealed).await.unwrap().expose(), b"token");
    }
}

#[tokio::test]
async fn a_late_activation_does_not_take_a_newer_version_out_of_use() {
    let bench = Bench::new().await;
    let v3 = V2.next();
    bench.keyring.create_version(&tenant(), V2).await.unwrap();
    bench.keyring.create_version(&tenant(), v3).await.unwrap();
    bench.keyring.activate(&tenant(), v3).await.unwrap();
    let late = bench.keyring.activate(&tenant(), V2).await;
    assert!(matches!(late, Err(KeyringError::Retired(V2, KeyState::PreActive))), "{late:?}");
    bench.seal(v3).await.unwrap();
}

#[tokio::test]
async fn a_compromised_version_opens_and_does_not_seal() {
    let mut bench = Bench::new().await;
    let sealed = bench.seal(V1).await.unwrap();
    bench.store.change(&tenant(), V1, |key| key.info.state = KeyState::Compromised);
    bench.restart();
    assert!(matches!(bench.seal(V1).await, Err(KeyringError::Retired(V1, KeyState::Compromised))));
    bench.open(&sealed).await.unwrap();
}

#[tokio::test]
async fn a_version_that_never_was_is_named_as_such() {
    let bench = Bench::new().await;
    assert!(matches!(bench.seal(V2).await, Err(KeyringError::NoSuchKey(V2))));
    assert!(matches!(bench.keyring.activate(&tenant(), V2).await, Err(KeyringError::NoSuchKey(V2))));
    // Envelopes that name versions at random fill no memory, and what is
    // missing is not remembered as missing.
    assert_eq!(bench.keyring.cache.slots(&tenant()), 0);
    bench.keyring.create_version(&tenant(), V2).await.unwrap();
    bench.seal(V2).await.unwrap();
}

#[tokio::test]
async fn each_seal_draws_a_nonce_of_its_own() {
    let bench = Bench::with_block(3).await;
    let mut seen = HashSet::new();
    for expected in 1..=10 {
        let sealed = bench.seal(V1).await.unwrap();
        assert_eq!(nonce_of(&sealed), expected, "the nonce is not the one drawn for this seal");
        assert!(seen.insert(nonce_of(&sealed)));
    }
    assert_eq!(bench.entropy.nonces(), 10);
}

#[tokio::test]
async fn without_randomness_nothing_is_sealed_and_no_key_made() {
    let bench = Bench::new().await;
    bench.entropy.broken.store(true, Ordering::SeqCst);
    assert!(matches!(bench.seal(V1).await, Err(KeyringError::Entropy(_))));
    assert!(matches!(bench.keyring.create_version(&tenant(), V2).await, Err(KeyringError::Entropy(_))));
    assert_eq!(bench.keyring.versions(&tenant()).await.unwrap().len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Seals made never exceed seals reserved, at any moment, however many seal
    /// at once and however often the process dies; and no nonce comes twice.
    #[test]
    fn seals_never_exceed_what_is_reserved(block in 1u64..20, lives in prop::collection::vec((1usize..8, 1usize..20), 1..4)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        runtime.block_on(async {
            let mut bench = Bench::with_block(block).await;
            let (mut seals, mut nonces) = (0, HashSet::new());
            for (tasks, each) in &lives {
                let mut running = tokio::task::JoinSet::new();
                for _ in 0..*tasks {
                    let (keyring, each) = (Arc::clone(&bench.keyring), *each);
                    running.spawn(async move {
                        let mut nonces = Vec::new();
                        for _ in 0..each {
                            nonces.push(nonce_of(&keyring.seal(V1, &place(), b"token").await.unwrap()));
                        }
                        nonces
                    });
                }
                for nonce in running.join_all().await.into_iter().flatten() {
                    assert!(nonces.insert(nonce), "a nonce came twice");
                    seals += 1;
                }
                assert!(!bench.entropy.overdrawn.load(Ordering::SeqCst), "sealed more than was reserved");
                assert!(seals <= bench.store.reserved());
                bench.restart();
            }
            let lives = u64::try_from(lives.len()).unwrap();
            assert!(bench.store.reserved() < seals + lives * block, "each life wastes less than a block");
        });
    }
}

#[tokio::test]
async fn a_version_stops_at_its_last_seal_whoever_made_the_others() {
    let mut bench = Bench::new().await;
    bench.store.change(&tenant(), V1, |key| key.info.seals_reserved = MAX_SEALS - 3);
    for _ in 0..3 {
        bench.seal(V1).await.unwrap();
    }
    for _ in 0..2 {
        assert!(matches!(bench.seal(V1).await, Err(KeyringError::Exhausted(V1))));
    }
    let reserved = bench.store.reserved();
    bench.restart();
    assert!(matches!(bench.seal(V1).await, Err(KeyringError::Exhausted(V1))));
    assert_eq!(bench.entropy.nonces(), 3);
    assert_eq!(bench.store.reserved(), reserved, "an exhausted version is not reserved from");
}

#[tokio::test]
async fn many_that_seal_at_once_share_one_reservation() {
    let bench = Bench::with_block(100).await;
    bench.store.reservations.shut();
    let mut sealing = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let keyring = Arc::clone(&bench.keyring);
        sealing.spawn(async move { keyring.seal(V1, &place(), b"token").await.map(|_| ()) });
    }
    bench.store.reservations.someone_waits().await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    bench.store.reservations.release();
    sealing.join_all().await.into_iter().for_each(Result::unwrap);
    assert_eq!(bench.store.reserved(), 100);
}

#[tokio::test]
async fn a_failed_reservation_seals_nothing() {
    let bench = Bench::with_block(1).await;
    bench.seal(V1).await.unwrap();
    bench.store.broken.store(true, Ordering::SeqCst);
    assert!(matches!(bench.seal(V1).await, Err(KeyringError::Store(_))));
    assert_eq!(bench.entropy.nonces(), 1);
    bench.store.broken.store(false, Ordering::SeqCst);
    bench.seal(V1).await.unwrap();
}

#[tokio::test]
async fn rotation_is_due_from_half_of_the_seals_on() {
    let bench = Bench::new().await;
    let mut info = bench.keyring.versions(&tenant()).await.unwrap().remove(0);
    info.seals_reserved = ROTATE_AT_SEALS - 1;
    assert!(!needs_rotation(&info));
    info.seals_reserved = ROTATE_AT_SEALS;
    assert!(needs_rotation(&info));
}

#[tokio::test]
async fn many_that_open_at_once_load_the_key_once() {
    let mut bench = Bench::new().await;
    let sealed = bench.seal(V1).await.unwrap();
    bench.restart();
    let before = bench.reads();
    bench.store.reads.shut();
    let opening: Vec<_> = (0..16).map(|_| bench.spawn_open(&sealed)).collect();
    bench.store.reads.someone_waits().await;
    // One thread runs all tasks: each of them has come as far as it can.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    bench.store.reads.release();
    for opened in opening {
        assert_eq!(opened.await.unwrap().unwrap().expose(), b"token");
    }
    assert_eq!(bench.reads() - before, 1);
}

#[tokio::test]
async fn a_failed_load_is_not_remembered() {
    let mut bench = Bench::new().await;
    let sealed = bench.seal(V1).await.unwrap();
    bench.restart();
    bench.store.broken.store(true, Ordering::SeqCst);
    assert!(matches!(bench.open(&sealed).await, Err(KeyringError::Store(_))));
    bench.store.broken.store(false, Ordering::SeqCst);
    bench.open(&sealed).await.unwrap();
}

/// The purge passes while a load has the wrapped key in hand already.
#[tokio::test]
async fn a_purge_that_overtakes_a_load_leaves_no_key() {
    let mut bench = Bench::new().await;
    let sealed = bench.seal(V1).await.unwrap();
    bench.restart();
    bench.store.reads.shut();
    let opening = bench.spawn_open(&sealed);
    bench.store.reads.someone_waits().await;
    assert_eq!(bench.keyring.destroy_tenant(&tenant()).await.unwrap(), 1);
    bench.store.reads.release();
    let refused = opening.await.unwrap();
    assert!(matches!(refused, Err(KeyringError::TenantGone)), "{refused:?}");
    assert_eq!(bench.open_keys(), 0);
}

/// The purge passes while a seal, its key open, waits for its reservation.
#[tokio::test]
async fn a_purge_that_overtakes_a_seal_stops_it() {
    let bench = Bench::new().await;
    bench.store.reservations.shut();
    let keyring = Arc::clone(&bench.keyring);
    let sealing = tokio::spawn(async move { keyring.seal(V1, &place(), b"token").await });
    bench.store.reservations.someone_waits().await;
    assert_eq!(bench.open_keys(), 1);
    bench.keyring.destroy_tenant(&tenant()).await.unwrap();
    assert_eq!(bench.open_keys(), 0);
    bench.store.reservations.release();
    let refused = sealing.await.unwrap();
    assert!(matches!(refused, Err(KeyringError::TenantGone)), "{refused:?}");
}

#[tokio::test]
async fn a_purged_tenant_is_out_of_use_even_when_the_store_fails() {
    let bench = Bench::new().await;
    let sealed = bench.seal(V1).await.unwrap();
    bench.store.broken.store(true, Ordering::SeqCst);
    assert!(matches!(bench.keyring.destroy_tenant(&tenant()).await, Err(KeyringError::Store(_))));
    bench.store.broken.store(false, Ordering::SeqCst);
    assert!(matches!(bench.open(&sealed).await, Err(KeyringError::TenantGone)));
    assert!(matches!(bench.seal(V1).await, Err(KeyringError::TenantGone)));
    assert!(matches!(bench.keyring.create_version(&tenant(), V2).await, Err(KeyringError::TenantGone)));
    assert!(matches!(bench.keyring.activate(&tenant(), V1).await, Err(KeyringError::TenantGone)));
    assert_eq!(bench.keyring.destroy_tenant(&tenant()).await.unwrap(), 1);
}

#[tokio::test]
async fn a_purged_tenant_stays_gone_after_a_restart() {
    let mut bench = Bench::new().await;
    let sealed = bench.seal(V1).await.unwrap();
    bench.keyring.destroy_tenant(&tenant()).await.unwrap();
    assert!(bench.keyring.erase().await.unwrap());
    bench.restart();
    assert!(matches!(bench.open(&sealed).await, Err(KeyringError::Destroyed(V1))));
    assert!(matches!(bench.seal(V1).await, Err(KeyringError::Destroyed(V1))));
    assert!(matches!(bench.keyring.create_version(&tenant(), V2).await, Err(KeyringError::TenantGone)));
}

#[tokio::test]
async fn a_destroyed_version_is_forgotten_even_by_a_load_under_way() {
    let mut bench = Bench::new().await;
    let sealed = bench.seal(V1).await.unwrap();
    bench.keyring.destroy_version(&tenant(), V2).await.unwrap();
    bench.open(&sealed).await.unwrap();
    bench.restart();
    bench.store.reads.shut();
    let opening = bench.spawn_open(&sealed);
    bench.store.reads.someone_waits().await;
    bench.keyring.destroy_version(&tenant(), V1).await.unwrap();
    bench.store.reads.release();
    let refused = opening.await.unwrap();
    assert!(matches!(refused, Err(KeyringError::Destroyed(V1))), "{refused:?}");
    assert_eq!(bench.open_keys(), 0);
}

#[tokio::test]
async fn what_was_forgotten_is_loaded_again() {
    let bench = Bench::new().await;
    let sealed = bench.seal(V1).await.unwrap();
    assert_eq!(bench.open_keys(), 1);
    bench.keyring.forget(&tenant());
    assert_eq!(bench.open_keys(), 0);

    // Forgotten while it loads: the call under way loads once more.
    bench.store.reads.shut();
    let before = bench.reads();
    let opening = bench.spawn_open(&sealed);
    bench.store.reads.someone_waits().await;
    bench.keyring.forget(&tenant());
    bench.store.reads.release();
    assert_eq!(opening.await.unwrap().unwrap().expose(), b"token");
    assert_eq!(bench.reads() - before, 2);
}

#[tokio::test]
async fn only_so_many_tenants_are_kept_open() {
    let mut bench = Bench::new().await;
    bench.limits.cached_tenants = 2;
    bench.restart();
    let tenants: Vec<_> = (0..10).map(|n| TenantId::new(&format!("t{n}")).unwrap()).collect();
    for tenant in &tenants {
        bench.keyring.create_version(tenant, V1).await.unwrap();
        bench.keyring.seal(V1, &Place { tenant: tenant.clone(), ..place() }, b"token").await.unwrap();
    }
    assert!(bench.keyring.cache.open_tenants() <= 2);
    for tenant in &tenants {
        bench.keyring.seal(V1, &Place { tenant: tenant.clone(), ..place() }, b"token").await.unwrap();
    }
}
