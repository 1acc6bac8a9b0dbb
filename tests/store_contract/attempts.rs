//! The two commits of a redemption, and what ends an attempt otherwise. What an
//! end leads to is the protocol's business (`domain::protocol`); here it is
//! written whole, once, however often it is told.

use obo_vault::domain::grant::{
    Asks, Attempt, Epoch, Generation, Grant, GrantId, GrantState, InDoubtCause, Lineage,
};
use obo_vault::domain::profile::Profile;
use obo_vault::domain::protocol::{Advanced, AttemptRef, End, Refusal, Says};
use obo_vault::domain::scope::Claims;
use obo_vault::store::{Advance, AdvanceRefused, AnswerOf, Claim, ClaimRefused, DueCursor};
use uuid::Uuid;

use crate::Make;
use crate::world::*;

pub(crate) async fn a_claim_is_for_the_grant_as_it_was_seen(make: Make) {
    let backend = make();
    let store = backend.store();
    with_acme(store).await;
    let ada = enrolled(store, 1, key("ada")).await;
    let right = claim(&ada, 11);
    let wrong = [
        Claim { grant: GrantId(Uuid::from_u128(99)), ..right.clone() },
        Claim { lineage: Lineage(Uuid::from_u128(99)), ..right.clone() },
        Claim { generation: Generation(2), ..right.clone() },
        Claim { epoch: Epoch(1), ..right.clone() },
    ];
    for claim in wrong {
        let refused = store.claim(claim.clone()).await.unwrap().unwrap_err();
        assert_eq!(refused, ClaimRefused::Changed, "{claim:?} was taken");
    }
    assert_eq!(read(store, &ada.key).await.grant, ada, "a refused claim changed the grant");
    let got = store.claim(right).await.unwrap().unwrap();
    assert_eq!(got.grant, Grant { state: GrantState::Sending(attempt(11)), ..ada.clone() });
    assert_eq!(got.sealed.as_bytes(), b"token 1 of ada");
    let second = store.claim(claim(&ada, 12)).await.unwrap().unwrap_err();
    assert_eq!(second, ClaimRefused::Protocol(Refusal::Busy), "two attempts own one refresh token");
}

pub(crate) async fn a_claim_told_twice_is_one_claim(make: Make) {
    let backend = make();
    let store = backend.store();
    with_acme(store).await;
    let ada = enrolled(store, 1, key("ada")).await;
    let first = store.claim(claim(&ada, 11)).await.unwrap().unwrap();
    let of = AnswerOf::Attempt(attempt_id(11));
    assert!(store.record_answer(of, V1, &sealed("answer")).await.unwrap());
    let later = Claim { at: at(5000), ..claim(&ada, 11) };
    assert_eq!(store.claim(later).await.unwrap().unwrap().grant, first.grant);
    let open = store.open_attempts().await.unwrap();
    assert!(open[0].answer.is_some(), "a repeated claim dropped the answer");
    ended(store, ending(&ada, 11, End::Unsent)).await;
    let over = store.claim(claim(&ada, 11)).await.unwrap().unwrap_err();
    assert_eq!(over, ClaimRefused::Protocol(Refusal::Over));
}

pub(crate) async fn a_claim_needs_a_tenant_in_service(make: Make) {
    let backend = make();
    let store = backend.store();
    with_acme(store).await;
    let ada = enrolled(store, 1, key("ada")).await;
    store.schedule_purge(&acme(), at(100)).await.unwrap().unwrap();
    assert_eq!(store.claim(claim(&ada, 11)).await.unwrap().unwrap_err(), ClaimRefused::OutOfService);
    store.restore_tenant(&acme(), 2).await.unwrap().unwrap();
    assert!(store.claim(claim(&ada, 11)).await.unwrap().is_ok());
    let bob = enrolled(store, 2, key("bob")).await;
    store.tombstone(&acme(), None).await.unwrap().unwrap();
    assert_eq!(store.claim(claim(&bob, 12)).await.unwrap().unwrap_err(), ClaimRefused::OutOfService);
}

pub(crate) async fn an_unknown_outcome_is_probed_once_and_by_the_grants_own_request(make: Make) {
    let backend = make();
    let store = backend.store();
    with_acme(store).await;
    let ada = in_doubt(store, &enrolled(store, 1, key("ada")).await, 11).await;
    let due = harmless().plus(std::time::Duration::from_secs(1));
    let early = Claim { at: harmless(), ..claim(&ada, 12) };
    let refused = store.claim(early).await.unwrap().unwrap_err();
    assert_eq!(refused, ClaimRefused::Protocol(Refusal::NotYet(harmless())));
    let mut choice = Claim { at: due, ..claim(&ada, 12) };
    choice.claim.asks = Asks::Target;
    let refused = store.claim(choice).await.unwrap().unwrap_err();
    assert_eq!(refused, ClaimRefused::Protocol(Refusal::OwnRequestFirst));
    let probe =
        Attempt { epoch: Epoch(1), started_at: due, follows: Some(InDoubtCause::Interrupted), ..attempt(12) };
    let got = store.claim(Claim { at: due, ..claim(&ada, 12) }).await.unwrap().unwrap();
    assert_eq!(got.grant.state, GrantState::Sending(probe));
    let second = store.claim(Claim { at: due, ..claim(&ada, 13) }).await.unwrap();
    assert!(second.is_err(), "one unknown outcome was probed twice");
    // The attempt that was taken over comes too late, whatever it brings.
    for late in [renewal(&ada, 11, V1), ending(&ada, 11, End::Unsent)] {
        assert_eq!(ended(store, late).await.outcome, Advanced::Late);
    }
    assert_eq!(read(store, &ada.key).await.grant, got.grant);
}

/// Whoever came after: a commit whose acknowledgement was lost is done.
pub(crate) async fn a_commit_told_again_is_done_and_changes_nothing(make: Make) {
    let mut backend = make();
    let store = backend.store();
    with_acme(store).await;
    let ada = enrolled(store, 1, key("ada")).await;
    assert_eq!(ended(store, renewal(&ada, 11, V1)).await.outcome, Advanced::Late, "never claimed");
    claimed(store, &ada, 11).await;
    assert!(store.record_answer(AnswerOf::Attempt(attempt_id(11)), V1, &sealed("answer")).await.unwrap());
    let commit = renewal(&ada, 11, V1);
    let mut wrong = commit.clone();
    wrong.of.attempt = attempt_id(12);
    assert_eq!(ended(store, wrong).await.outcome, Advanced::Late);
    let elsewhere = Advance { grant: GrantId(Uuid::from_u128(99)), ..commit.clone() };
    let gone = ended(store, elsewhere).await;
    assert_eq!((gone.outcome, gone.grant), (Advanced::Orphaned, None));

    let renewed = ended(store, commit.clone()).await.grant.unwrap();
    let expected = Grant {
        state: GrantState::Active,
        generation: Generation(2),
        last_attempt: Some(attempt_id(11)),
        refreshed_at: at(30),
        idle_expires_at: Some(at(3_000_000)),
        next_refresh_at: at(600_000),
        ..ada.clone()
    };
    assert_eq!(renewed, expected);
    assert!(store.open_attempts().await.unwrap().is_empty());
    assert_eq!(store.usage(&acme()).await.unwrap(), [(V1, 1)], "the answer outlived the commit");
    let again = ended(store, commit.clone()).await;
    assert_eq!((again.outcome, again.grant), (Advanced::Repeated, Some(renewed.clone())));

    // The next attempt is under way, and then has a token of its own.
    let sending = claimed(store, &renewed, 12).await;
    let again = ended(store, commit.clone()).await;
    assert_eq!((again.outcome, again.grant), (Advanced::Repeated, Some(sending)));
    let newer = ended(store, renewal(&renewed, 12, V1)).await.grant.unwrap();
    advance(store, V1).await;
    let again = ended(store, commit).await;
    assert_eq!((again.outcome, again.grant), (Advanced::Repeated, Some(newer.clone())));
    backend.reopen();
    let stored = read(backend.store(), &ada.key).await;
    assert_eq!((stored.grant, stored.sealed.as_bytes()), (newer, b"a new token".as_slice()));
}

pub(crate) async fn an_end_told_twice_is_one_end(make: Make) {
    for end in [End::Unsent, End::Interrupted, refused(Says::InvalidGrant), refused(Says::Nothing)] {
        let backend = make();
        let store = backend.store();
        with_acme(store).await;
        let ada = enrolled(store, 1, key("ada")).await;
        claimed(store, &ada, 11).await;
        let first = ended(store, ending(&ada, 11, end.clone())).await;
        let later = Advance { at: at(9_000), ..ending(&ada, 11, end.clone()) };
        let again = ended(store, later).await;
        assert_eq!((again.outcome, again.grant), (Advanced::Repeated, first.grant), "{end:?}");
    }
}

pub(crate) async fn a_commit_without_a_new_token_keeps_the_old(make: Make) {
    let backend = make();
    let store = backend.store();
    with_acme(store).await;
    let ada = enrolled(store, 1, key("ada")).await;
    claimed(store, &ada, 11).await;
    // The version moves meanwhile: the old token stays under its own.
    advance(store, V1).await;
    let commit = Advance { renewed: None, end: End::Answered { renewed: false }, ..renewal(&ada, 11, V2) };
    let kept = ended(store, commit.clone()).await.grant.unwrap();
    assert_eq!((kept.generation, kept.key_version), (Generation(1), V1));
    assert_eq!((kept.refreshed_at, kept.scopes.clone()), (at(30), ada.scopes));
    let stored = read(store, &ada.key).await;
    assert_eq!((&stored.grant, stored.sealed.as_bytes()), (&kept, b"token 1 of ada".as_slice()));
    assert_eq!(ended(store, commit).await.outcome, Advanced::Repeated);
}

pub(crate) async fn a_commit_is_sealed_under_the_newest_version(make: Make) {
    let backend = make();
    let store = backend.store();
    with_acme(store).await;
    let ada = enrolled(store, 1, key("ada")).await;
    claimed(store, &ada, 11).await;
    advance(store, V1).await;
    let old = store.advance(renewal(&ada, 11, V1)).await.unwrap();
    assert_eq!(old, Err(AdvanceRefused::KeyVersionMoved));
    assert_eq!(read(store, &ada.key).await.sealed.as_bytes(), b"token 1 of ada");
    let again = ended(store, renewal(&ada, 11, V2)).await.grant.unwrap();
    assert_eq!((again.generation, again.key_version), (Generation(2), V2));
}

pub(crate) async fn a_commit_of_a_purged_tenant_is_refused_and_of_a_scheduled_one_taken(make: Make) {
    let backend = make();
    let store = backend.store();
    with_acme(store).await;
    let ada = enrolled(store, 1, key("ada")).await;
    let bob = enrolled(store, 2, key("bob")).await;
    claimed(store, &ada, 11).await;
    claimed(store, &bob, 12).await;
    store.schedule_purge(&acme(), at(100)).await.unwrap().unwrap();
    let renewed = ended(store, renewal(&ada, 11, V1)).await.grant.unwrap();
    assert_eq!(renewed.generation, Generation(2), "a restore would find a used token");
    store.tombstone(&acme(), None).await.unwrap().unwrap();
    let unrenewed = Advance { renewed: None, end: End::Answered { renewed: false }, ..renewal(&bob, 12, V1) };
    for commit in [renewal(&bob, 12, V1), unrenewed] {
        assert_eq!(store.advance(commit).await.unwrap(), Err(AdvanceRefused::TenantGone));
    }
    assert_eq!(read(store, &bob.key).await.sealed.as_bytes(), b"token 1 of bob");
}

pub(crate) async fn an_unknown_outcome_still_takes_its_answer(make: Make) {
    let backend = make();
    let store = backend.store();
    with_acme(store).await;
    let ada = in_doubt(store, &enrolled(store, 1, key("ada")).await, 11).await;
    let renewed = ended(store, renewal(&ada, 11, V1)).await.grant.unwrap();
    assert_eq!((renewed.state, renewed.generation), (GrantState::Active, Generation(2)));
}

pub(crate) async fn an_attempt_ends_in_every_state(make: Make) {
    let interaction = |claims| {
        refused(Says::Interaction { claims, error: "interaction_required", suberror: "basic_action" })
    };
    let claims = Claims::new("{\"access_token\":{}}").unwrap();
    let ends = [
        End::Unsent,
        End::Interrupted,
        End::OwnerDied(owner()),
        refused(Says::InvalidGrant),
        refused(Says::Nothing),
        interaction(None),
        interaction(Some(claims)),
    ];
    for end in ends {
        let mut backend = make();
        let store = backend.store();
        with_acme(store).await;
        let ada = enrolled(store, 1, key("ada")).await;
        let none = ended(store, ending(&ada, 11, end.clone())).await;
        assert_eq!((none.outcome, none.grant), (Advanced::Late, Some(ada.clone())), "it never was");
        claimed(store, &ada, 11).await;
        assert!(store.record_answer(AnswerOf::Attempt(attempt_id(11)), V1, &sealed("answer")).await.unwrap());
        let other = ended(store, ending(&ada, 12, end.clone())).await;
        assert_eq!(other.outcome, Advanced::Late);
        let settled = ended(store, ending(&ada, 11, end.clone())).await;
        let Advanced::Moved { state, .. } = &settled.outcome else { panic!("{settled:?}") };
        let grant = settled.grant.unwrap();
        let expected = Grant {
            state: state.grant.clone(),
            not_before: state.not_before,
            last_attempt: state.last_attempt,
            unhelpful: state.unhelpful,
            ..ada.clone()
        };
        assert_eq!(grant, expected, "what the protocol says is not what was written");
        backend.reopen();
        let store = backend.store();
        let stored = read(store, &ada.key).await;
        assert_eq!((&stored.grant, stored.sealed.as_bytes()), (&expected, b"token 1 of ada".as_slice()));
        let stays = usize::from(matches!(grant.state, GrantState::InDoubt { .. }));
        assert_eq!(store.open_attempts().await.unwrap().len(), stays, "{end:?}");
        assert_eq!(store.usage(&acme()).await.unwrap(), [(V1, 1)], "{end:?} kept an answer");
        let later = at(1_000_000);
        let again = store.claim(Claim { at: later, ..claim(&grant, 13) }).await.unwrap();
        let alive = matches!(grant.state, GrantState::Active | GrantState::InDoubt { .. });
        assert_eq!(again.is_ok(), alive, "claimed after {end:?}");
        if let Ok(claimed) = again {
            assert_eq!(claimed.grant.not_before, None, "an attempt under way still waits");
        }
    }
}

pub(crate) async fn every_word_of_a_state_survives_the_store(make: Make) {
    let mut backend = make();
    let store = backend.store();
    with_acme(store).await;
    let ada = enrolled(store, 1, key("ada")).await;
    let mut choice = claim(&ada, 11);
    choice.claim.asks = Asks::Target;
    let sending = store.claim(choice).await.unwrap().unwrap().grant;
    for (says, cause) in [
        (Says::Nothing, InDoubtCause::TargetRefused),
        (Says::InvalidGrant, InDoubtCause::TargetCalledInvalid),
    ] {
        let mut backend = make();
        let store = backend.store();
        with_acme(store).await;
        let ada = enrolled(store, 1, key("ada")).await;
        let mut choice = claim(&ada, 11);
        choice.claim.asks = Asks::Target;
        store.claim(choice).await.unwrap().unwrap();
        ended(store, ending(&ada, 11, refused(says))).await;
        backend.reopen();
        let stored = read(backend.store(), &ada.key).await.grant.state;
        assert!(matches!(stored, GrantState::InDoubt { cause: c, .. } if c == cause), "{stored:?}");
    }
    backend.reopen();
    assert_eq!(read(backend.store(), &ada.key).await.grant, sending);
    // One that a tolerant provider leaves without an answer keeps count.
    let store = backend.store();
    let tolerant = Advance { profile: Profile::tolerant(), ..ending(&ada, 11, End::Interrupted) };
    assert_eq!(ended(store, tolerant).await.grant.unwrap().state, GrantState::Active);
}

pub(crate) async fn an_answer_is_recorded_under_the_newest_version_alone(make: Make) {
    let mut backend = make();
    let store = backend.store();
    with_acme(store).await;
    let ada = enrolled(store, 1, key("ada")).await;
    let of = AnswerOf::Attempt(attempt_id(11));
    assert!(!store.record_answer(of, V1, &sealed("early")).await.unwrap());
    claimed(store, &ada, 11).await;
    assert!(!store.record_answer(of, V2, &sealed("ahead")).await.unwrap());
    advance(store, V1).await;
    assert!(!store.record_answer(of, V1, &sealed("old")).await.unwrap());
    for _ in 0..2 {
        assert!(store.record_answer(of, V2, &sealed("new")).await.unwrap());
    }
    backend.reopen();
    let open = backend.store().open_attempts().await.unwrap();
    assert_eq!(open[0].answer.as_ref().unwrap().as_bytes(), b"new");
    backend.store().tombstone(&acme(), None).await.unwrap().unwrap();
    backend.store().delete_tenant_grants(&acme()).await.unwrap();
    assert!(!backend.store().record_answer(of, V2, &sealed("late")).await.unwrap());
}

pub(crate) async fn open_attempts_are_found_after_reopening(make: Make) {
    let mut backend = make();
    let store = backend.store();
    with_acme(store).await;
    let ada = enrolled(store, 1, key("ada")).await;
    let bob = enrolled(store, 2, key("bob")).await;
    enrolled(store, 3, key("eve")).await;
    let ada = claimed(store, &ada, 11).await;
    let bob = in_doubt(store, &bob, 12).await;
    backend.reopen();
    let mut open = backend.store().open_attempts().await.unwrap();
    open.sort_by_key(|o| o.attempt.id);
    let found: Vec<_> = open.iter().map(|o| (&o.grant, &o.attempt, o.answer.is_some())).collect();
    assert_eq!(found, [(&ada, &attempt(11), false), (&bob, &attempt(12), false)]);
}

pub(crate) async fn probes_are_due_after_their_time(make: Make) {
    let backend = make();
    let store = backend.store();
    with_acme(store).await;
    let mut grants = Vec::new();
    for (n, subject) in [(1, "ada"), (2, "bob"), (3, "eve"), (4, "sending")] {
        let grant = enrolled(store, u128::try_from(n).unwrap(), key(subject)).await;
        let id = 10 + u128::try_from(n).unwrap();
        let mut grant = store.claim(Claim { at: at(n), ..claim(&grant, id) }).await.unwrap().unwrap().grant;
        if subject != "sending" {
            grant = ended(store, ending(&grant, id, End::Interrupted)).await.grant.unwrap();
        }
        grants.push(grant);
    }
    // Each is due 125 s after its claim at `at(n)`.
    let due = |now: i64, limit| store.due_probes(at(125_000 + now), at(4), None, limit);
    assert_eq!(due(1, 9).await.unwrap(), [], "a probe at its very moment is too early");
    assert_eq!(due(2, 9).await.unwrap(), grants[..1]);
    assert_eq!(due(1000, 2).await.unwrap(), grants[..2]);
    assert_eq!(due(1000, 9).await.unwrap(), grants[..3], "one whose task may be alive");
    assert_eq!(store.due_probes(at(0), at(5), None, 9).await.unwrap(), grants[3..], "one that nobody owns");
    let after = Some(DueCursor { at: at(1), grant: grants[0].id });
    assert_eq!(store.due_probes(at(126_000), at(4), after, 1).await.unwrap(), grants[1..2], "the next page");
    store.schedule_purge(&acme(), at(100)).await.unwrap().unwrap();
    let closed = store.due_probes(at(1_000_000), at(1000), None, 9).await.unwrap();
    assert_eq!(closed, [], "of a tenant out of service");
}

pub(crate) async fn a_deleted_grant_takes_its_attempt_along(make: Make) {
    let backend = make();
    let store = backend.store();
    with_acme(store).await;
    let ada = enrolled(store, 1, key("ada")).await;
    let bob = enrolled(store, 2, key("bob")).await;
    claimed(store, &ada, 11).await;
    assert!(store.delete_grant(ada.id).await.unwrap());
    assert!(!store.delete_grant(ada.id).await.unwrap());
    assert_eq!(store.grant(&ada.key).await.unwrap(), None);
    assert!(store.sealed_grant(&ada.key).await.unwrap().is_none());
    assert!(store.open_attempts().await.unwrap().is_empty());
    let late = ended(store, renewal(&ada, 11, V1)).await;
    assert_eq!((late.outcome, late.grant), (Advanced::Orphaned, None));
    assert!(!store.record_answer(AnswerOf::Attempt(attempt_id(11)), V1, &sealed("late")).await.unwrap());
    assert_eq!(store.grant(&bob.key).await.unwrap(), Some(bob.clone()));
    let of = AttemptRef { attempt: attempt_id(11), lineage: bob.lineage, generation: bob.generation };
    let stray = Advance { of, ..ending(&bob, 11, End::Unsent) };
    assert_eq!(ended(store, stray).await.outcome, Advanced::Late);
}
