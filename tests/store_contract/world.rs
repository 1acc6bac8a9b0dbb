//! The grants, attempts and enrolments that the cases are about.

use std::future::Future;

use obo_vault::clock::Timestamp;
use obo_vault::domain::grant::{
    Asks, Attempt, AttemptId, Epoch, Generation, Grant, GrantId, GrantKey, GrantState, Lineage, Owner,
};
use obo_vault::domain::id::{ClientId, Issuer, SubjectId, TenantId};
use obo_vault::domain::key::KeyVersion;
use obo_vault::domain::profile::Profile;
use obo_vault::domain::protocol::{self, AttemptRef, End, Refused, Says};
use obo_vault::domain::scope::{Resource, ScopeSet};
use obo_vault::seal::Sealed;
use obo_vault::store::{
    Advance, Claim, Dates, Enrolment, EnrolmentCommit, EnrolmentKind, ImportMark, Renewed, SealedGrant,
    Settled, Store,
};
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

/// Who makes the attempts.
pub(crate) fn owner() -> Owner {
    Owner(Uuid::from_u128(900))
}

/// An attempt with every field set, as a claim at `at(10)` makes it.
pub(crate) fn attempt(n: u128) -> Attempt {
    Attempt {
        id: attempt_id(n),
        epoch: Epoch(0),
        owner: owner(),
        asks: Asks::Grant,
        started_at: at(10),
        in_use_since: at(10),
        fenced_at: Some(at(20)),
        follows: None,
        overtakes: None,
    }
}

/// The enrolment of a grant that is not there yet: an import.
pub(crate) fn enrolment(n: u128, key: GrantKey) -> Enrolment {
    let mut mark = [0; 32];
    mark[..16].copy_from_slice(&n.to_be_bytes());
    Enrolment {
        attempt: attempt_id(n),
        lineage: Lineage(Uuid::from_u128(n << 32)),
        owner: owner(),
        kind: EnrolmentKind::Import(Some(ImportMark(mark))),
        key,
        grant: GrantId(Uuid::from_u128(n << 64)),
        generation: Generation(1),
        issuer: Issuer::new("https://issuer.example").unwrap(),
        scopes: ScopeSet::new(["mail.read", "mail.send"]).unwrap(),
        resource: Some(Resource::new("https://mail.example").unwrap()),
        started_at: NOW,
    }
}

/// The commit of an enrolment, its token sealed under `version`.
pub(crate) fn kept(enrolment: &Enrolment, version: KeyVersion) -> EnrolmentCommit {
    EnrolmentCommit {
        renewed: Renewed {
            generation: enrolment.generation,
            key_version: version,
            sealed: sealed(&format!("token {} of {}", enrolment.generation.0, enrolment.key.subject)),
        },
        enrolment: enrolment.clone(),
        scopes: ScopeSet::new(["mail.read"]).unwrap(),
        at: at(1),
        absolute_expires_at: Some(at(2_000_000)),
        dates: Dates { idle_expires_at: Some(at(1_000_000)), next_refresh_at: at(500_000) },
    }
}

/// Enrols a grant; `n` must be new.
pub(crate) async fn enrolled(store: &dyn Store, n: u128, key: GrantKey) -> Grant {
    let enrolment = enrolment(n, key);
    store.begin_enrolment(&enrolment).await.unwrap().unwrap();
    let (grant, replaced) = store.commit_enrolment(kept(&enrolment, V1)).await.unwrap().unwrap();
    assert!(!replaced);
    grant
}

/// A claim of the grant as it is seen.
pub(crate) fn claim(grant: &Grant, n: u128) -> Claim {
    let epoch = match &grant.state {
        GrantState::InDoubt { attempt, .. } => Epoch(attempt.epoch.0 + 1),
        _ => Epoch(0),
    };
    Claim {
        grant: grant.id,
        lineage: grant.lineage,
        generation: grant.generation,
        epoch,
        claim: protocol::Claim {
            attempt: attempt_id(n),
            owner: owner(),
            asks: Asks::Grant,
            fenced_at: Some(at(20)),
        },
        profile: Profile::strict(),
        at: at(10),
    }
}

pub(crate) async fn claimed(store: &dyn Store, grant: &Grant, n: u128) -> Grant {
    store.claim(claim(grant, n)).await.unwrap().unwrap().grant
}

/// The end of attempt `n` at the grant as it was claimed.
pub(crate) fn ending(grant: &Grant, n: u128, end: End) -> Advance {
    Advance {
        grant: grant.id,
        of: AttemptRef { attempt: attempt_id(n), lineage: grant.lineage, generation: grant.generation },
        end,
        renewed: None,
        dates: None,
        profile: Profile::strict(),
        at: at(30),
    }
}

/// The end with a new token, sealed under `version`.
pub(crate) fn renewal(grant: &Grant, n: u128, version: KeyVersion) -> Advance {
    Advance {
        renewed: Some(Renewed {
            generation: grant.generation.next(),
            key_version: version,
            sealed: sealed("a new token"),
        }),
        dates: Some(Dates { idle_expires_at: Some(at(3_000_000)), next_refresh_at: at(600_000) }),
        ..ending(grant, n, End::Answered { renewed: true })
    }
}

pub(crate) fn refused(says: Says) -> End {
    End::Refused(Refused { says, proves_unused: false, complete: true, retry_after: None })
}

pub(crate) async fn ended(store: &dyn Store, advance: Advance) -> Settled {
    store.advance(advance).await.unwrap().unwrap()
}

/// When an interrupted attempt of `at(10)` is harmless.
pub(crate) fn harmless() -> Timestamp {
    at(10).plus(protocol::bounds::HARD_LIMIT).plus(protocol::bounds::PROBE_MARGIN)
}

/// The grant after its attempt `n` was interrupted.
pub(crate) async fn in_doubt(store: &dyn Store, grant: &Grant, n: u128) -> Grant {
    let claimed = claimed(store, grant, n).await;
    ended(store, ending(&claimed, n, End::Interrupted)).await.grant.unwrap()
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
