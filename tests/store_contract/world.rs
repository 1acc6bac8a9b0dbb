//! The grants, attempts and intakes that the cases are about.

use std::future::Future;

use obo_vault::clock::Timestamp;
use obo_vault::domain::grant::{Attempt, AttemptId, Epoch, Generation, Grant, GrantId, GrantKey, GrantState};
use obo_vault::domain::id::{ClientId, Issuer, SubjectId, TenantId};
use obo_vault::domain::key::KeyVersion;
use obo_vault::domain::scope::{Resource, ScopeSet};
use obo_vault::seal::Sealed;
use obo_vault::store::{Claim, Commit, Intake, IntakeCommit, Renewed, SealedGrant, Store};
use proptest::strategy::Strategy;
use proptest::test_runner::{Config, TestRunner};
use uuid::Uuid;

/// When everything happens.
pub(crate) const NOW: Timestamp = Timestamp(1_700_000_000_000);
pub(crate) const V1: KeyVersion = KeyVersion(1);
pub(crate) const V2: KeyVersion = KeyVersion(2);

pub(crate) fn at(millis: i64) -> Timestamp {
    Timestamp(NOW.0 + millis)
}

pub(crate) fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

/// The tenant of most cases.
pub(crate) fn acme() -> TenantId {
    tenant("acme")
}

pub(crate) async fn with_acme(store: &dyn Store) {
    store.create_tenant(&acme(), V1, NOW).await.unwrap().unwrap();
}

pub(crate) fn key(subject: &str) -> GrantKey {
    key_in("acme", "portal", subject)
}

pub(crate) fn key_in(tenant_name: &str, client: &str, subject: &str) -> GrantKey {
    GrantKey {
        tenant: tenant(tenant_name),
        client: ClientId::new(client).unwrap(),
        subject: SubjectId::new(subject).unwrap(),
    }
}

pub(crate) fn sealed(text: &str) -> Sealed {
    Sealed::from_bytes(text.as_bytes().to_vec())
}

pub(crate) fn attempt_id(n: u128) -> AttemptId {
    AttemptId(Uuid::from_u128(n))
}

/// An attempt with every field set.
pub(crate) fn attempt(n: u128) -> Attempt {
    Attempt { id: attempt_id(n), epoch: Epoch(0), started_at: at(10), fenced_at: Some(at(20)), follows: None }
}

/// The intake of a grant that is not there yet.
pub(crate) fn intake(n: u128, key: GrantKey) -> Intake {
    Intake {
        attempt: attempt_id(n),
        key,
        grant: GrantId(Uuid::from_u128(n << 64)),
        generation: Generation(1),
        issuer: Issuer::new("https://issuer.example").unwrap(),
        prove_identity: true,
        scopes: ScopeSet::new(["mail.read", "mail.send"]).unwrap(),
        resource: Some(Resource::new("https://mail.example").unwrap()),
        started_at: NOW,
    }
}

/// The commit of an intake, its token sealed under `version`.
pub(crate) fn kept(intake: &Intake, version: KeyVersion) -> IntakeCommit {
    IntakeCommit {
        renewed: Renewed {
            generation: intake.generation,
            key_version: version,
            sealed: sealed(&format!("token {} of {}", intake.generation.0, intake.key.subject)),
        },
        intake: intake.clone(),
        scopes: ScopeSet::new(["mail.read"]).unwrap(),
        at: at(1),
        idle_expires_at: Some(at(1_000_000)),
        absolute_expires_at: Some(at(2_000_000)),
        next_refresh_at: at(500_000),
    }
}

/// Takes a grant in; `n` must be new.
pub(crate) async fn taken_in(store: &dyn Store, n: u128, key: GrantKey) -> Grant {
    let intake = intake(n, key);
    store.begin_intake(&intake).await.unwrap().unwrap();
    let (grant, replaced) = store.commit_intake(kept(&intake, V1)).await.unwrap().unwrap();
    assert!(!replaced);
    grant
}

pub(crate) fn claim(grant: &Grant, n: u128) -> Claim {
    let takes_over = match &grant.state {
        GrantState::InDoubt { attempt, .. } => Some(attempt.id),
        _ => None,
    };
    Claim { grant: grant.id, generation: grant.generation, takes_over, attempt: attempt(n) }
}

pub(crate) async fn claimed(store: &dyn Store, grant: &Grant, n: u128) -> Grant {
    store.claim(claim(grant, n)).await.unwrap().unwrap().grant
}

/// The commit of a renewal, its token sealed under `version`.
pub(crate) fn renewal(grant: &Grant, n: u128, version: KeyVersion) -> Commit {
    Commit {
        grant: grant.id,
        attempt: attempt_id(n),
        renewed: Some(Renewed {
            generation: grant.generation.next(),
            key_version: version,
            sealed: sealed("a new token"),
        }),
        scopes: None,
        at: at(30),
        idle_expires_at: Some(at(3_000_000)),
        next_refresh_at: at(600_000),
        not_before: None,
    }
}

pub(crate) async fn read(store: &dyn Store, key: &GrantKey) -> SealedGrant {
    store.sealed_grant(key).await.unwrap().unwrap()
}

pub(crate) async fn advance(store: &dyn Store, from: KeyVersion) {
    store.advance_version(&acme(), from, from.next(), at(5)).await.unwrap().unwrap();
}

/// Runs an asynchronous property over generated inputs.
pub(crate) fn check<S, F>(cases: u32, inputs: &S, property: impl Fn(S::Value) -> F)
where
    S: Strategy,
    F: Future<Output = ()>,
{
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    tokio::task::block_in_place(|| {
        let runtime = tokio::runtime::Handle::current();
        let outcome = TestRunner::new(config).run(inputs, |input| {
            runtime.block_on(property(input));
            Ok(())
        });
        if let Err(error) = outcome {
            panic!("{error}");
        }
    });
}
