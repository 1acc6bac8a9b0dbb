//! Pages and batches: nothing is left out and nothing comes twice.

use std::collections::BTreeSet;

use obo_vault::domain::grant::{Generation, Grant, GrantId};
use obo_vault::domain::id::ClientId;
use obo_vault::domain::key::KeyVersion;
use obo_vault::domain::protocol::{End, Says};
use obo_vault::store::{DueCursor, GrantCursor, Reseal, Store};
use proptest::collection::vec;

use crate::Make;
use crate::world::*;

pub(crate) async fn grants_page_by_client_and_subject(make: Make) {
    let backend = make();
    let store = backend.store();
    with_acme(store).await;
    store.create_tenant(&tenant("other"), V1, NOW).await.unwrap().unwrap();
    enrolled(store, 99, key_in("other", "portal", "ada")).await;
    let keys = [("portal", "b"), ("portal", "a"), ("files", "z"), ("portal", "é"), ("files", "a")];
    for (n, (client, subject)) in (1..).zip(keys) {
        enrolled(store, n, key_in("acme", client, subject)).await;
    }
    let files = ClientId::new("files").unwrap();
    for (client, expected) in [
        (None, vec!["files a", "files z", "portal a", "portal b", "portal é"]),
        (Some(&files), vec!["files a", "files z"]),
    ] {
        for size in [1, 2, 5, 9] {
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let page = store.grants(&acme(), client, after.as_ref(), size).await.unwrap();
                let Some(last) = page.last() else { break };
                after =
                    Some(GrantCursor { client: last.key.client.clone(), subject: last.key.subject.clone() });
                found.extend(page.iter().map(|g| format!("{} {}", g.key.client, g.key.subject)));
            }
            assert_eq!(found, expected, "in pages of {size}");
        }
    }
    assert_eq!(store.grant_count(&acme()).await.unwrap(), 5);
}

async fn all_due(store: &dyn Store, now: Option<i64>, size: u32) -> Vec<Grant> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = store.due_refreshes(now.map(at), after, size).await.unwrap();
        let Some(last) = page.last() else { return found };
        after = Some(DueCursor { at: last.next_refresh_at, grant: last.id });
        found.extend(page);
    }
}

pub(crate) async fn due_refreshes_page_without_loss_or_repetition(make: Make) {
    // Few different times, so that many grants share one.
    let inputs = (vec(0..5_i64, 0..30), 1..7_u32, 0..6_i64);
    check(16, &inputs, |(times, size, now)| async move {
        let backend = make();
        let store = backend.store();
        with_acme(store).await;
        let mut expected = BTreeSet::new();
        for (n, time) in (1_u128..).zip(&times) {
            let grant = enrolled(store, n, key(&format!("user{n}"))).await;
            store.postpone_refresh(grant.id, at(*time)).await.unwrap();
            expected.insert((*time, grant.id));
        }
        for now in [Some(now), None] {
            let due: Vec<_> = expected.iter().filter(|(t, _)| now.is_none_or(|now| *t <= now)).collect();
            let found = all_due(store, now, size).await;
            let found: Vec<_> = found.iter().map(|g| (g.next_refresh_at.0 - NOW.0, g.id)).collect();
            assert!(found.iter().eq(due.iter().copied()), "{found:?} is not {due:?}");
            let count = store.count_due_refreshes(now.map(at)).await.unwrap();
            assert_eq!(count, u64::try_from(due.len()).unwrap());
        }
    });
}

pub(crate) async fn refreshes_are_due_where_they_can_be_done(make: Make) {
    let backend = make();
    let store = backend.store();
    with_acme(store).await;
    store.create_tenant(&tenant("closed"), V1, NOW).await.unwrap().unwrap();
    let active = enrolled(store, 1, key("active")).await;
    let sending = enrolled(store, 2, key("sending")).await;
    claimed(store, &sending, 12).await;
    let interaction = Says::Interaction { claims: None, error: "login_required", suberror: "" };
    for (n, end) in [(3, refused(Says::InvalidGrant)), (4, refused(interaction)), (5, End::Interrupted)] {
        let grant = enrolled(store, n, key(&format!("user{n}"))).await;
        claimed(store, &grant, 10 + n).await;
        ended(store, ending(&grant, 10 + n, end)).await;
    }
    enrolled(store, 7, key_in("closed", "portal", "ada")).await;
    store.schedule_purge(&tenant("closed"), at(100)).await.unwrap().unwrap();
    for now in [None, Some(500_000)] {
        assert_eq!(all_due(store, now, 3).await, std::slice::from_ref(&active));
        assert_eq!(store.count_due_refreshes(now.map(at)).await.unwrap(), 1);
    }
    assert_eq!(all_due(store, Some(499_999), 3).await, []);
}

async fn all_stale(store: &dyn Store, newest: KeyVersion, size: u32) -> Vec<(KeyVersion, GrantId)> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = store.stale_grants(&acme(), newest, after, size).await.unwrap();
        let Some(last) = page.last() else { return found };
        after = Some((last.grant.key_version, last.grant.id));
        for value in page {
            assert_eq!(value.sealed.as_bytes(), format!("token 1 of {}", value.grant.key.subject).as_bytes());
            found.push((value.grant.key_version, value.grant.id));
        }
    }
}

pub(crate) async fn stale_grants_page_without_loss_or_repetition(make: Make) {
    let inputs = (vec(0..6_usize, 1..5), 1..5_u32);
    check(12, &inputs, |(per_version, size)| async move {
        let backend = make();
        let store = backend.store();
        with_acme(store).await;
        store.create_tenant(&tenant("other"), V1, NOW).await.unwrap().unwrap();
        enrolled(store, 999, key_in("other", "portal", "ada")).await;
        let (mut newest, mut n, mut expected) = (V1, 0, BTreeSet::new());
        for count in per_version {
            for _ in 0..count {
                n += 1;
                let enrolment = enrolment(n, key(&format!("user{n}")));
                store.begin_enrolment(&enrolment).await.unwrap().unwrap();
                let kept = store.commit_enrolment(kept(&enrolment, newest)).await.unwrap();
                expected.insert((newest, kept.unwrap().0.id));
            }
            advance(store, newest).await;
            newest = newest.next();
        }
        let newest = KeyVersion(newest.0 - 1);
        let expected: Vec<_> = expected.into_iter().filter(|(version, _)| *version < newest).collect();
        assert_eq!(all_stale(store, newest, size).await, expected);
        let count = store.count_stale_grants(&acme(), newest).await.unwrap();
        assert_eq!(count, u64::try_from(expected.len()).unwrap());
    });
}

pub(crate) async fn all_sealed_grants_page_without_loss_or_repetition(make: Make) {
    let backend = make();
    let store = backend.store();
    with_acme(store).await;
    store.create_tenant(&tenant("other"), V1, NOW).await.unwrap().unwrap();
    enrolled(store, 999, key_in("other", "portal", "ada")).await;
    let mut expected = BTreeSet::new();
    for n in 1..=7 {
        expected.insert(enrolled(store, n, key(&format!("user{n}"))).await.id);
    }
    for size in 1..=8 {
        let (mut after, mut found) = (None, Vec::new());
        loop {
            let page = store.sealed_grants(&acme(), after, size).await.unwrap();
            let Some(last) = page.last() else { break };
            after = Some(last.grant.id);
            found.extend(page.iter().map(|sealed| sealed.grant.id));
        }
        assert_eq!(found, expected.iter().copied().collect::<Vec<_>>(), "pages of {size}");
    }
}

pub(crate) async fn a_reseal_moves_what_did_not_move_itself(make: Make) {
    let backend = make();
    let store = backend.store();
    with_acme(store).await;
    store.create_tenant(&tenant("other"), V1, NOW).await.unwrap().unwrap();
    let stays = enrolled(store, 1, key("stays")).await;
    let renewed = enrolled(store, 2, key("renewed")).await;
    let elsewhere = enrolled(store, 3, key_in("other", "portal", "ada")).await;
    let reseal = |grant: &Grant| Reseal {
        grant: grant.id,
        generation: grant.generation,
        from: V1,
        to: V2,
        sealed: sealed("re-sealed"),
    };
    let early = store.reseal(&acme(), vec![reseal(&stays)]).await.unwrap();
    assert_eq!(early, 0, "sealed under a version that is not the newest");
    advance(store, V1).await;
    claimed(store, &renewed, 12).await;
    ended(store, renewal(&renewed, 12, V2)).await;
    let batch = vec![
        reseal(&stays),
        reseal(&renewed),
        Reseal { generation: Generation(2), ..reseal(&renewed) },
        reseal(&elsewhere),
    ];
    assert_eq!(store.reseal(&acme(), batch).await.unwrap(), 1);
    let moved = read(store, &stays.key).await;
    assert_eq!(moved.sealed.as_bytes(), b"re-sealed");
    assert_eq!(moved.grant, Grant { key_version: V2, ..stays.clone() });
    assert_eq!(read(store, &renewed.key).await.sealed.as_bytes(), b"a new token");
    assert_eq!(read(store, &elsewhere.key).await.sealed.as_bytes(), b"token 1 of ada");
    assert_eq!(store.reseal(&acme(), vec![reseal(&stays)]).await.unwrap(), 1, "a repeat is counted as done");
    let another = Reseal { sealed: sealed("sealed by another run"), ..reseal(&stays) };
    assert_eq!(store.reseal(&acme(), vec![another]).await.unwrap(), 0, "moved twice");
    assert_eq!(read(store, &stays.key).await.sealed.as_bytes(), b"re-sealed");
    // A token on its way is re-sealed as any other; its attempt goes on.
    let sending = claimed(store, &moved.grant, 11).await;
    advance(store, V2).await;
    let next = Reseal { from: V2, to: KeyVersion(3), ..reseal(&stays) };
    assert_eq!(store.reseal(&acme(), vec![next]).await.unwrap(), 1);
    ended(store, renewal(&sending, 11, KeyVersion(3))).await;
    store.tombstone(&acme(), None).await.unwrap().unwrap();
    let late = Reseal { generation: Generation(2), from: KeyVersion(3), to: KeyVersion(3), ..reseal(&stays) };
    assert_eq!(store.reseal(&acme(), vec![late]).await.unwrap(), 0, "re-sealed after the tombstone");
}
