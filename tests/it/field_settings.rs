//! Field reports about settings that change or are wrong, about imports, and
//! about who a user is (docs/FIELD-REPORTS.md): a fault of the vault's own
//! configuration costs nobody's token, and a token goes nowhere but to its
//! issuer.

use std::time::Duration;

use obo_vault::clock::{Clock as _, ShiftedClock};
use obo_vault::demo::provider::{DevProvider, Fault, Options, Stats};
use obo_vault::entropy::OsEntropy;
use obo_vault::proto::{ExchangeOnBehalfOfRequest, Grant, GrantState, ImportGrantRequest};
use tonic::Code;

use crate::field_kit::{Kind, Meter, Wire, import_request, provider_table};
use crate::harness::{Stand, TENANT, TOKENS_EXPIRED, eventually};
use crate::log;
use crate::refusal::Refused as _;

const DAY: Duration = Duration::from_secs(86_400);

/// Past the time from which a request that nobody answered is harmless.
const HARMLESS: Duration = Duration::from_secs(130);

#[tokio::test(flavor = "multi_thread")]
async fn a_token_goes_to_no_other_issuer_than_its_own() {
    let mut stand = Kind::Strict.stand().await;
    for user in ["bob", "eve"] {
        stand.grant(user).await;
    }
    stand.advance(TOKENS_EXPIRED);
    // One is looked after by the vault itself.
    stand.provider.script(Fault::CloseBeforeAnswer { consume: false }, 1);
    stand.token("bob").await.refused();
    let other =
        DevProvider::start(Options::default(), stand.clock.clone(), OsEntropy::shared()).await.unwrap();
    stand.stop().await;
    let (own, before) = (stand.provider.stats(), other.stats());
    let profile = "profile = \"strict\"\nmulti_resource = true\nrequests_per_second = 1000";
    let clients =
        format!("{}\n[clients.portal]\nprovider = \"other\"\n", provider_table("other", &other, profile));
    stand.reconfigure("[clients.portal]\nprovider = \"dev\"\n", &clients);
    stand.start().await;
    stand.advance(HARMLESS);

    for _ in 0..2 {
        for user in ["ada", "bob"] {
            let refusal = stand.token(user).await.refused();
            assert_eq!(
                (refusal.code, refusal.reason.as_str()),
                (Code::FailedPrecondition, "ISSUER_CHANGED"),
                "{user}"
            );
            assert_eq!(refusal.retry, None);
        }
    }
    let run = stand.rotate(true, true).await.pop().unwrap();
    assert_eq!((run.refreshed, run.reseal_failed), (0, 0), "sealing anew asks no provider");
    let nothing = |stand: &Stand, what: &str| {
        let untouched: [Stats; 2] = [stand.provider.stats(), other.stats()];
        assert_eq!(untouched, [own, before], "{what}");
    };
    nothing(&stand, "tokens and rotation");
    assert!(!stand.revoke("eve").await.unwrap().revoked_at_provider);
    nothing(&stand, "the end of one grant");

    // The user's consent at the new provider replaces what was there.
    let request = ExchangeOnBehalfOfRequest {
        user_access_token: other.user_token("eve", "api://vault"),
        ..stand.exchange_request("eve")
    };
    stand.exchange(request).await.unwrap();
    assert_eq!(stand.token("eve").await.unwrap().scopes, ["mail.read"]);
    let before = other.stats();
    assert_eq!(stand.provider.stats(), own, "its own is asked nothing about that");

    // The change taken back, all is as before.
    stand.stop().await;
    stand.reconfigure("[clients.portal]\nprovider = \"other\"\n", "[clients.portal]\nprovider = \"dev\"\n");
    stand.start().await;
    stand.token("ada").await.unwrap();
    stand.until("bob", GrantState::Active).await;
    assert!(stand.provider.family_alive("bob"));

    stand.stop().await;
    let own = stand.provider.stats();
    stand.reconfigure("[clients.portal]\nprovider = \"dev\"\n", "[clients.portal]\nprovider = \"other\"\n");
    stand.start().await;
    stand.purge_now(TENANT).await.unwrap();
    assert_eq!(stand.provider.stats(), own, "a purge");
    assert_eq!(other.stats().token_requests, before.token_requests, "a purge");
    assert!(stand.provider.family_alive("ada"));
}

/// The same provider under another name is another issuer too: a slash is enough.
#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_is_spelt_otherwise_is_another() {
    let mut stand = Kind::Tolerant.stand().await;
    stand.stop().await;
    let issuer = format!("issuer = \"{}\"", stand.provider.issuer());
    let slashed = format!("issuer = \"{}/\"", stand.provider.issuer());
    stand.reconfigure(&issuer, &slashed);
    let before = stand.provider.stats();
    stand.start().await;
    assert_eq!(stand.token("ada").await.refused().reason, "ISSUER_CHANGED");
    assert_eq!(stand.provider.stats(), before);
    stand.stop().await;
    stand.reconfigure(&slashed, &issuer);
    stand.start().await;
    stand.token("ada").await.unwrap();
}

/// A vault whose settings for the provider are wrong in one line.
async fn misconfigured(wrong: impl FnOnce(&Stand) -> (String, String)) -> (Stand, Meter, (String, String)) {
    let mut settings = Kind::Strict.settings();
    let meter = Meter::on(&mut settings);
    settings.profile.push_str("\nsubject_claims = [\"oid\", \"sub\"]");
    let mut stand = Stand::unstarted(Kind::Strict.options(), settings, |_| ()).await;
    let (right, wrong) = wrong(&stand);
    stand.reconfigure(&right, &wrong);
    stand.start().await;
    stand.tenant().await;
    (stand, meter, (right, wrong))
}

async fn corrected(stand: &mut Stand, (right, wrong): &(String, String)) {
    stand.stop().await;
    stand.reconfigure(wrong, right);
    stand.start().await;
}

fn a_slash_too_many(stand: &Stand) -> (String, String) {
    let issuer = stand.provider.issuer();
    (format!("issuer = \"{issuer}\""), format!("issuer = \"{issuer}/\""))
}

fn another_claim(_: &Stand) -> (String, String) {
    ("subject_claims = [\"oid\", \"sub\"]".to_owned(), "subject_claims = [\"email\"]".to_owned())
}

fn a_claim_of_somebody_else(_: &Stand) -> (String, String) {
    ("subject_claims = [\"oid\", \"sub\"]".to_owned(), "subject_claims = [\"tid\"]".to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_outlives_a_fault_in_the_settings() {
    for fault in [a_slash_too_many, another_claim, a_claim_of_somebody_else] {
        let (mut stand, meter, line) = misconfigured(fault).await;
        let users = ["ada", "bob", "eve"];
        // Only an ID token is kept beside a refresh token.
        let scopes = ["mail.read", "offline_access", "openid"];
        let tokens = users.map(|user| stand.provider.mint_refresh_token("vault", user, &scopes));
        for (user, token) in users.iter().zip(&tokens) {
            let refusal = stand.import(user, token).await.refused();
            assert_eq!(
                (refusal.code, refusal.reason.as_str()),
                (Code::FailedPrecondition, "IDENTITY_UNPROVEN"),
                "{line:?}"
            );
            assert_eq!(stand.try_describe(user).await.refused().reason, "GRANT_NOT_FOUND", "{line:?}");
            assert!(stand.provider.family_alive(user), "{line:?}");
        }
        assert_eq!(meter.read("imports_held_total").await, 3);
        // The same again sends nothing, before the correction and after it.
        let before = stand.provider.stats();
        assert_eq!(stand.import("ada", &tokens[0]).await.refused().reason, "IDENTITY_UNPROVEN");
        corrected(&mut stand, &line).await;
        for (user, token) in users.iter().zip(&tokens) {
            let grant = stand.import(user, token).await.unwrap().grant.unwrap();
            assert_eq!((grant.state(), grant.subject.as_str()), (GrantState::Active, *user), "{line:?}");
        }
        let after = stand.provider.stats();
        assert_eq!((after.token_requests, after.revocations), (before.token_requests, 0), "{line:?}");
        stand.advance(TOKENS_EXPIRED);
        for user in users {
            stand.token(user).await.unwrap();
        }
        assert_eq!(stand.provider.stats().reuse_detected, 0, "{line:?}");
    }
}

/// Without an ID token the proof was the access token, which is never kept: the
/// token that is held brings another answer, and the imported one goes out no more.
#[tokio::test(flavor = "multi_thread")]
async fn a_held_import_without_an_id_token_is_finished_by_the_token_that_is_held() {
    for fault in [a_slash_too_many, another_claim] {
        let (mut stand, _, line) = misconfigured(fault).await;
        let token = stand.provider.mint_refresh_token("vault", "ada", &["mail.read", "offline_access"]);
        assert_eq!(stand.import("ada", &token).await.refused().reason, "IDENTITY_UNPROVEN");
        // Before the correction it is held on, whatever it costs.
        assert_eq!(stand.import("ada", &token).await.refused().reason, "IDENTITY_UNPROVEN");
        corrected(&mut stand, &line).await;
        let before = stand.token_requests();
        let grant = stand.import("ada", &token).await.unwrap().grant.unwrap();
        assert_eq!((grant.state(), grant.subject.as_str()), (GrantState::Active, "ada"), "{line:?}");
        assert_eq!(stand.token_requests(), before + 1, "{line:?}");
        // And once more it is done already.
        assert_eq!(stand.import("ada", &token).await.unwrap().grant.unwrap(), grant, "{line:?}");
        stand.advance(TOKENS_EXPIRED);
        stand.token("ada").await.unwrap();
        let stats = stand.provider.stats();
        assert_eq!((stats.revocations, stats.reuse_detected), (0, 0), "{line:?}");
    }
}

/// What is held is used up by what came of it, and goes in one step with it: found
/// once more after a fault of another kind, it would be taken for stolen.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_held_import_leaves_behind_is_never_sent_again() {
    let (mut stand, _, line) = misconfigured(a_slash_too_many).await;
    let token = stand.provider.mint_refresh_token("vault", "ada", &["mail.read", "offline_access"]);
    assert_eq!(stand.import("ada", &token).await.refused().reason, "IDENTITY_UNPROVEN");
    stand.provider.withhold_jwks(true);
    corrected(&mut stand, &line).await;
    // Redeemed once more, and held for another reason than before.
    assert_eq!(stand.import("ada", &token).await.refused().reason, "PROVIDER_UNAVAILABLE");
    stand.provider.withhold_jwks(false);
    let grant = eventually("the grant", async || stand.import("ada", &token).await.ok()).await.grant.unwrap();
    let before = stand.token_requests();
    for restarted in [false, true] {
        if restarted {
            stand.restart().await;
        }
        assert_eq!(stand.import("ada", &token).await.unwrap().grant.unwrap(), grant);
    }
    assert_eq!(stand.token_requests(), before, "it is done already");
    stand.advance(TOKENS_EXPIRED);
    stand.token("ada").await.unwrap();
    let stats = stand.provider.stats();
    assert_eq!((stats.revocations, stats.reuse_detected), (0, 0));
}

/// An import of ada's that is held since the provider's keys could not be had.
async fn held() -> Stand {
    let stand = Stand::with(Kind::Strict.options(), Kind::Strict.settings()).await;
    stand.tenant().await;
    let scopes = ["mail.read", "offline_access", "openid"];
    let token = stand.provider.mint_refresh_token("vault", "ada", &scopes);
    stand.provider.withhold_jwks(true);
    assert_eq!(stand.import("ada", &token).await.refused().reason, "PROVIDER_UNAVAILABLE");
    stand.provider.withhold_jwks(false);
    stand
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_does_not_put_an_old_import_over_a_newer_consent() {
    let mut stand = held().await;
    let consent =
        eventually("a consent", async || stand.exchange(stand.exchange_request("ada")).await.ok()).await;
    stand.restart().await;
    assert_eq!(stand.describe("ada").await, consent.grant.unwrap());
    assert_eq!(stand.provider.stats().revocations, 0);
}

/// A downgrade finds what a newer version wrote: it cannot be read, and is kept for
/// the one that can.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_in_a_newer_format_is_kept() {
    // Four bytes of magic, then the format.
    const TURN: &str =
        "UPDATE enrolment SET answer = CAST(substr(answer, 1, 4) || ?1 || substr(answer, 6) AS BLOB)";
    let mut stand = held().await;
    stand.stop().await;
    let format: Vec<u8> = {
        let file = stand.database();
        let format =
            file.query_row("SELECT substr(answer, 5, 1) FROM enrolment", [], |row| row.get(0)).unwrap();
        assert_eq!(file.execute(TURN, [b"\x7f".as_slice()]).unwrap(), 1);
        format
    };
    stand.start().await;
    assert_eq!(stand.try_describe("ada").await.refused().reason, "GRANT_NOT_FOUND");
    stand.stop().await;
    assert_eq!(stand.database().execute(TURN, [format]).unwrap(), 1, "it is still there");
    stand.start().await;
    assert_eq!(stand.describe("ada").await.state(), GrantState::Active);
    assert!(stand.provider.family_alive("ada"));
}

/// Whoever revokes means what is held as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_does_not_bring_back_what_was_revoked() {
    for consented in [false, true] {
        let mut stand = held().await;
        if consented {
            eventually("a consent", async || stand.exchange(stand.exchange_request("ada")).await.ok()).await;
        }
        assert_eq!(stand.revoke("ada").await.unwrap().revoked_at_provider, consented);
        assert_eq!(stand.revoke("ada").await.refused().reason, "GRANT_NOT_FOUND", "nothing is left");
        stand.restart().await;
        assert_eq!(stand.try_describe("ada").await.refused().reason, "GRANT_NOT_FOUND", "{consented}");
    }
}

/// The name was part of the fault: which claim names the user was set wrong, and
/// the import was made out to what that claim was thought to say.
#[tokio::test(flavor = "multi_thread")]
async fn a_held_import_is_finished_under_the_name_it_really_has() {
    let (mut stand, _, line) = misconfigured(another_claim).await;
    let scopes = ["mail.read", "offline_access", "openid"];
    let token = stand.provider.mint_refresh_token("vault", "ada", &scopes);
    assert_eq!(stand.import("ada@example.org", &token).await.refused().reason, "IDENTITY_UNPROVEN");
    corrected(&mut stand, &line).await;
    let before = stand.token_requests();
    stand.import("ada", &token).await.unwrap();
    assert_eq!(stand.token_requests(), before);
    assert_eq!(stand.try_describe("ada@example.org").await.refused().reason, "GRANT_NOT_FOUND");
    stand.advance(TOKENS_EXPIRED);
    stand.token("ada").await.unwrap();
    assert_eq!(stand.provider.stats().revocations, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_import_is_given_up_when_its_time_is_over() {
    // A tenant of its own, for its line in the log of all tests.
    const EXPIRING: &str = "holds-expire-here";
    let options = Options { tenant: EXPIRING.into(), ..Kind::Strict.options() };
    let mut settings = Kind::Strict.settings();
    settings.profile.push_str("\nsubject_claims = [\"email\"]");
    settings.more.push_str("[imports]\nhold_seconds = 3600\n");
    let stand = Stand::with(options, settings).await;
    stand.create(EXPIRING).await.unwrap();
    let scopes = ["mail.read", "offline_access", "openid"];
    let token = stand.provider.mint_refresh_token("vault", "ada", &scopes);
    let import = async || {
        let request = ImportGrantRequest { tenant: EXPIRING.into(), ..import_request("ada", &token) };
        stand.client("web").await.grants.import_grant(request).await.refused().reason
    };
    assert_eq!(import().await, "IDENTITY_UNPROVEN");
    let before = stand.token_requests();
    assert_eq!(import().await, "IDENTITY_UNPROVEN");
    assert_eq!(stand.token_requests(), before, "it is held");

    // Not from under one that has just been resumed.
    stand.advance(Duration::from_secs(3800));
    let given_up = |line: &str| line.contains(EXPIRING) && line.contains("is given up");
    eventually("the end of the hold", async || log::captured().lines().any(given_up).then_some(())).await;
    stand.expect_reuse();
    import().await;
    assert_eq!(stand.token_requests(), before + 1, "nothing is left of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_whose_answer_was_lost_is_not_sent_again_before_it_is_harmless() {
    // A page of somebody else's is no answer either.
    let torn = |consume| Fault::CloseBeforeAnswer { consume };
    let page = |consumes| Fault::Html { status: 200, consumes };
    let lost = Some("GRANT_LOST");
    for (fault, end) in [(torn(false), None), (torn(true), lost), (page(false), None), (page(true), lost)] {
        let mut stand = Stand::with(Kind::Strict.options(), Kind::Strict.settings()).await;
        stand.tenant().await;
        if end.is_some() {
            stand.expect_reuse();
        }
        let token = stand.minted("ada");
        stand.provider.script(fault, 1);
        let before = stand.token_requests();
        for restarted in [false, false, true] {
            if restarted {
                stand.restart().await;
            }
            let refusal = stand.import("ada", &token).await.refused();
            assert_eq!((refusal.code, refusal.reason.as_str()), (Code::Unavailable, "GRANT_IN_DOUBT"));
            assert!((100..=130).contains(&refusal.retry.unwrap().as_secs()), "{refusal:?}");
            assert_eq!(stand.token_requests(), before + 1);
        }
        stand.advance(HARMLESS);
        match (stand.import("ada", &token).await, end) {
            (Ok(imported), None) => {
                assert_eq!(imported.grant.unwrap().state(), GrantState::Active);
                assert!(stand.provider.family_alive("ada"));
            }
            (refused, Some(reason)) => assert_eq!(refused.refused().reason, reason),
            (Err(refused), None) => panic!("{refused:?}"),
        }
        assert_eq!((stand.token_requests(), stand.provider.stats().revocations), (before + 2, 0));
    }
}

/// A caller that gave up, and tries again while its first request is still out.
#[tokio::test(flavor = "multi_thread")]
async fn an_import_repeated_while_it_is_under_way_sends_one_request() {
    let stand = Stand::with(Kind::Strict.options(), Kind::Strict.settings()).await;
    stand.tenant().await;
    let token = stand.minted("ada");
    let gate = stand.hang();
    let before = stand.token_requests();
    let mut client = stand.client("web").await;
    let request = import_request("ada", &token);
    let first = tokio::spawn(async move { client.grants.import_grant(request).await });
    gate.reached(1).await;
    first.abort();
    let (again, ()) = tokio::join!(stand.import("ada", &token), async { gate.release() });
    assert_eq!(stand.provider.stats().reuse_detected, 0, "{again:?}");
    assert_eq!(stand.describe("ada").await.state(), GrantState::Active);
    stand.advance(TOKENS_EXPIRED);
    stand.token("ada").await.unwrap();
    assert_eq!(stand.token_requests(), before + 2);
}

/// What another system holds may be two rotations old. That is no evidence about
/// the grant the vault has.
#[tokio::test(flavor = "multi_thread")]
async fn a_superseded_token_is_refused_and_leaves_the_grant_alone() {
    let stand = Kind::Strict.stand().await;
    for stale in ["never-issued".to_owned(), stand.minted("ada") + "x"] {
        assert_eq!(stand.import("ada", &stale).await.refused().reason, "GRANT_REVOKED");
        assert_eq!(stand.describe("ada").await.state(), GrantState::Active);
    }
    assert!(stand.token("ada").await.unwrap().from_cache);
    stand.advance(TOKENS_EXPIRED);
    assert_eq!(stand.token("ada").await.unwrap().scopes, ["mail.read"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn subjects_that_differ_in_case_are_two_users() {
    let stand = Kind::Strict.stand().await;
    let shouting = stand.grant("ADA").await;
    let ada = stand.describe("ada").await;
    assert_ne!(ada.grant_id, shouting.grant_id);
    assert_ne!(
        stand.token("ada").await.unwrap().access_token,
        stand.token("ADA").await.unwrap().access_token
    );
    let refusal = stand.import("Ada", &stand.minted("ada")).await.refused();
    assert_eq!(refusal.reason, "IDENTITY_MISMATCH", "nothing is folded");
    assert_eq!(stand.try_describe("Ada").await.refused().reason, "GRANT_NOT_FOUND");
}

/// A refresh that was out when the user consented anew brings nothing back of
/// the consent before.
#[tokio::test(flavor = "multi_thread")]
async fn a_newer_consent_is_not_overwritten_by_an_older_refresh() {
    let stand = Kind::Strict.stand().await;
    stand.advance(TOKENS_EXPIRED);
    let gate = stand.hang();
    let asking = stand.ask("ada").await;
    gate.reached(1).await;
    let request = stand.exchange_request("ada");
    let mut client = stand.client("web").await;
    let consent = tokio::spawn(async move { client.grants.exchange_on_behalf_of(request).await });
    gate.release();
    consent.await.unwrap().unwrap();
    asking.await.unwrap().unwrap();
    let newest = stand.provider.current_refresh_token("ada", "vault").unwrap();
    stand.advance(TOKENS_EXPIRED);
    stand.token("ada").await.unwrap();
    assert_ne!(stand.provider.current_refresh_token("ada", "vault").unwrap(), newest, "its token was used");
    assert_eq!(stand.provider.stats().reuse_detected, 0);
}

/// A provider that spells what it granted in another way than it was asked.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_for_stays_askable_however_it_was_answered() {
    const ASKED: &str = "https://graph.example/.default";
    for answered in [
        "https://graph.example/Mail.Read offline_access",
        "Mail.Read",
        "https://GRAPH.example/.Default",
        "https://graph.example//.default",
    ] {
        let settings = obo_vault::demo::stand::Settings {
            profile: "profile = \"strict\"\nmulti_resource = false".into(),
            ..Kind::Strict.settings()
        };
        let (mut stand, wire) = Wire::stand(Kind::Strict, settings).await;
        let respelt = move |body: &str| {
            let mut body: serde_json::Value = serde_json::from_str(body).unwrap();
            body["scope"] = answered.into();
            crate::field_kit::success("content-type: application/json\r\n", body.to_string().as_bytes())
        };
        wire.next(respelt);
        let mut request = stand.exchange_request("ada");
        request.scopes = vec![ASKED.into()];
        let grant: Grant = stand.exchange(request).await.unwrap().grant.unwrap();
        let granted: Vec<String> = answered.split(' ').map(str::to_owned).collect();
        for scopes in [vec![ASKED.to_owned()], granted] {
            for restart in [false, true, true] {
                if restart {
                    stand.restart().await;
                    stand.advance(TOKENS_EXPIRED);
                }
                let token = stand.token_with("ada", |r| r.scopes.clone_from(&scopes)).await;
                token.unwrap_or_else(|refused| panic!("{answered}, {scopes:?}: {refused:?}"));
            }
        }
        let grant_now = stand.describe("ada").await;
        assert!(grant_now.generation > grant.generation && grant_now.asked_scopes == [ASKED]);
        let beyond =
            stand.token_with("ada", |r| r.scopes = vec!["https://graph.example/Mail.Send".into()]).await;
        assert_eq!(beyond.refused().reason, "SCOPE_NOT_GRANTED", "{answered}");
    }
}

/// Twenty days on one refresh token: it grows old by its provider's clock.
#[tokio::test(flavor = "multi_thread")]
async fn the_idle_time_moves_as_the_providers_does() {
    for (clock, moves) in [("", false), ("\nidle_clock = \"use\"", true)] {
        let mut settings = Kind::Strict.settings();
        settings.profile.push_str("\nidle_lifetime_seconds = 7776000");
        settings.profile.push_str(clock);
        let stand = Kind::Strict.stand_with(settings).await;
        let idle_end = async || stand.describe("ada").await.idle_expire_time.unwrap().seconds;
        let first = idle_end().await;
        stand.provider.script(Fault::NoRefreshToken, 20);
        for _ in 0..20 {
            stand.advance(DAY);
            assert!(!stand.token("ada").await.unwrap().from_cache);
        }
        let moved = idle_end().await - first;
        if moves {
            assert!(moved >= 20 * 86_400 - 5, "{moved}");
        } else {
            assert_eq!(moved, 0, "the same token is no younger");
        }
        // A new token starts it anew.
        stand.advance(DAY);
        stand.token("ada").await.unwrap();
        let now = ShiftedClock::now(&stand.clock).unix_seconds();
        assert!((idle_end().await - now - 7_776_000).abs() < 5);
    }
}
