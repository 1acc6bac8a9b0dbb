//! Field reports about what providers answer (docs/FIELD-REPORTS.md): a token
//! that arrived is kept, whatever it arrived in; what proves nothing ends
//! nothing; and nothing is asked again and again.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use obo_vault::demo::provider::Fault;
use obo_vault::proto::GrantState;
use serde_json::{Map, Value};

use crate::field_kit::{KINDS, Kind, Meter, Wire, alerts, answers, says, success};
use crate::harness::{Stand, TOKENS_EXPIRED};
use crate::refusal::Refused as _;

/// What a minute of waiting callers is.
const MINUTE: Duration = Duration::from_secs(60);

const JSON: &str = "content-type: application/json\r\n";

/// For 42 minutes a caller asks each minute; returns how often the provider was.
async fn forty_two_minutes(stand: &Stand) -> u64 {
    let before = stand.token_requests();
    for _ in 0..42 {
        let refusal = stand.token("ada").await.refused();
        assert!(
            ["GRANT_IN_DOUBT", "PROVIDER_REFUSED", "PROVIDER_BACK_OFF", "PROVIDER_UNAVAILABLE"]
                .contains(&refusal.reason.as_str()),
            "{refusal:?}"
        );
        stand.advance(MINUTE);
    }
    stand.token_requests() - before
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_never_helps_is_asked_for_ever_more_rarely_and_said_aloud() {
    let unhelpful = [
        Fault::EmptyBody400,
        // What a dead token is called by some servers, in place of invalid_grant.
        Fault::error(400, "invalid_request"),
        answers(403, "text/html", "<h1>Forbidden</h1>"),
        Fault::error(404, "not_found"),
        // A success by its status, and none by its words.
        answers(200, "application/json", r#"{"error":"bad_refresh_token"}"#),
    ];
    for kind in [Kind::Strict, Kind::Tolerant] {
        for fault in &unhelpful {
            let mut settings = kind.settings();
            let meter = Meter::on(&mut settings);
            let stand = kind.stand_with(settings).await;
            stand.advance(TOKENS_EXPIRED);
            stand.provider.fault_when(Default::default(), fault.clone(), usize::MAX);
            let asked = forty_two_minutes(&stand).await;
            // Strict: when the request is harmless, and then twice as long each
            // time. Tolerant: after 5 seconds first.
            let most = if kind == Kind::Strict { 6 } else { 10 };
            assert!((4..=most).contains(&asked), "{kind:?} {fault:?}: {asked} requests");
            let listed = stand.listed("ada").await;
            assert_eq!(listed.state(), GrantState::Stalled, "{kind:?} {fault:?}");
            assert!(listed.next_attempt_time.is_some() && listed.unhelpful_answers >= 3);
            assert_eq!(alerts(&listed, "nothing that helps"), 1, "{kind:?} {fault:?}");
            assert_eq!(meter.read("grants_stalled_total").await, 1, "{kind:?} {fault:?}");

            stand.provider.clear_script();
            stand.advance(Duration::from_secs(4 * 3600));
            stand.token("ada").await.unwrap();
            assert_eq!(stand.listed("ada").await.state(), GrantState::Active, "{kind:?} {fault:?}");
            assert_eq!(stand.provider.stats().reuse_detected, 0);
        }
    }
}

/// A user who comes back ends the waiting.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_consent_ends_a_stalled_grant() {
    for kind in KINDS {
        let stand = kind.stand().await;
        stand.advance(TOKENS_EXPIRED);
        stand.provider.script(Fault::EmptyBody400, 42);
        forty_two_minutes(&stand).await;
        assert_eq!(stand.describe("ada").await.state(), GrantState::Stalled, "{kind:?}");
        stand.provider.clear_script();
        let grant = stand.grant("ada").await;
        assert_eq!((grant.state(), grant.unhelpful_answers), (GrantState::Active, 0), "{kind:?}");
        stand.advance(TOKENS_EXPIRED);
        stand.token("ada").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_token_is_believed_from_the_provider_whatever_its_status() {
    for status in [200, 400, 401, 403] {
        for kind in KINDS {
            let stand = kind.stand().await;
            stand.advance(TOKENS_EXPIRED);
            stand.provider.script(Fault::error(status, "invalid_grant"), 1);
            assert_eq!(stand.token("ada").await.refused().reason, "GRANT_REVOKED", "{kind:?} {status}");
            let asked = stand.token_requests();
            assert_eq!(stand.token("ada").await.refused().reason, "GRANT_REVOKED");
            assert_eq!(stand.token_requests(), asked, "{kind:?} {status}: it is not asked again");
        }
    }
}

/// What stands in front of a provider has no say about a user's consent.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_ends_no_grant() {
    let faults = [
        answers(401, "text/html", "<h1>Sign in to the network</h1>"),
        answers(403, "text/html", "<h1>Blocked: invalid_grant</h1>"),
        answers(200, "text/html", "<h1>Welcome to the airport</h1>"),
        says(500, "invalid_grant", None, false),
        says(502, "invalid_grant", None, false),
        says(429, "invalid_grant", None, false),
        Fault::throttled(Some(20)),
    ];
    for kind in KINDS {
        for fault in &faults {
            let stand = kind.stand().await;
            stand.advance(TOKENS_EXPIRED);
            stand.provider.script(fault.clone(), 1);
            stand.token("ada").await.refused();
            let state = stand.describe("ada").await.state();
            let waits = if kind == Kind::Tolerant { GrantState::Active } else { GrantState::InDoubt };
            assert_eq!(state, waits, "{kind:?} {fault:?}");
            stand.advance(Duration::from_secs(150));
            stand.until("ada", GrantState::Active).await;
            // A grace window covers one token: the next waits for the first.
            stand.advance(Duration::from_secs(150));
            stand.token("ada").await.unwrap();
            assert_eq!(stand.provider.stats().reuse_detected, 0, "{kind:?} {fault:?}");
        }
    }
}

/// Past an hour nothing is gained by waiting, whatever a header says.
#[tokio::test(flavor = "multi_thread")]
async fn a_pause_is_kept_and_no_longer_than_an_hour() {
    for asked_for in [1800, 31_536_000, u64::MAX] {
        let stand = Kind::Tolerant.stand().await;
        stand.advance(TOKENS_EXPIRED);
        stand.provider.script(Fault::throttled(Some(asked_for)), 1);
        let refusal = stand.token("ada").await.refused();
        assert_eq!(refusal.reason, "PROVIDER_THROTTLED");
        let pause = asked_for.min(3600);
        assert_eq!(refusal.retry, Some(Duration::from_secs(pause)));
        let before = stand.token_requests();
        stand.advance(Duration::from_secs(pause - 60));
        for _ in 0..3 {
            assert!(stand.token("ada").await.refused().retry.is_some());
        }
        assert_eq!(stand.token_requests(), before);
        stand.advance(Duration::from_secs(61));
        stand.token("ada").await.unwrap();
    }
}

/// The same tokens in another wrapping, at a provider that has used the old one
/// up by then.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_kept_in_whatever_it_arrives() {
    type Wrap = fn(&str) -> Vec<u8>;
    fn gzip(text: &str) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }
    fn object(text: &str) -> Map<String, Value> {
        serde_json::from_str(text).unwrap()
    }
    fn form(text: &str) -> Vec<u8> {
        let pairs = object(text);
        let pairs = pairs.iter().map(|(name, value)| {
            format!("{name}={}", value.as_str().map_or_else(|| value.to_string(), str::to_owned))
        });
        pairs.collect::<Vec<_>>().join("&").into_bytes()
    }
    let wraps: [(&str, Wrap); 16] = [
        ("a form", |text| success("content-type: application/x-www-form-urlencoded\r\n", &form(text))),
        ("a form, compressed", |text| success("", &gzip(&String::from_utf8(form(text)).unwrap()))),
        ("a form on a connection that breaks", |text| {
            let head = format!("HTTP/1.1 200 OK\r\n{JSON}content-length: 90000\r\n\r\n");
            [head.as_bytes(), &form(text), b"&cut=o"].concat()
        }),
        ("chunks without their end", |text| {
            let head = format!("HTTP/1.1 200 OK\r\n{JSON}transfer-encoding: chunked\r\n\r\n");
            format!("{head}{:x}\r\n{text}\r\n", text.len()).into_bytes()
        }),
        ("more announced than came", |text| {
            format!("HTTP/1.1 200 OK\r\n{JSON}content-length: 90000\r\n\r\n{text}").into_bytes()
        }),
        ("no length", |text| format!("HTTP/1.1 200 OK\r\n{JSON}\r\n{text}").into_bytes()),
        ("gzip that no header names", |text| success(JSON, &gzip(text))),
        ("gzip, named in odd case", |text| {
            success("content-type: application/json\r\nContent-encoding: GZip\r\n", &gzip(text))
        }),
        ("named gzip and plain", |text| {
            success("content-type: application/json\r\ncontent-encoding: gzip\r\n", text.as_bytes())
        }),
        ("a byte order mark", |text| success(JSON, format!("\u{feff}{text}").as_bytes())),
        ("white space around it", |text| success(JSON, format!("\r\n\t {text}\n\n").as_bytes())),
        ("another content type", |text| success("content-type: text/plain\r\n", text.as_bytes())),
        ("no content type", |text| success("", text.as_bytes())),
        ("scopes in an array", |text| {
            let mut body = object(text);
            body.insert("scope".into(), serde_json::json!(["mail.read"]));
            success(JSON, Value::Object(body).to_string().as_bytes())
        }),
        ("an error beside the tokens", |text| {
            let mut body = object(text);
            body.insert("error".into(), "".into());
            success(JSON, Value::Object(body).to_string().as_bytes())
        }),
        ("201", |text| {
            let length = text.len();
            format!("HTTP/1.1 201 Created\r\n{JSON}content-length: {length}\r\n\r\n{text}").into_bytes()
        }),
    ];
    let (stand, wire) = Wire::stand(Kind::Strict, Kind::Strict.settings()).await;
    for (n, (name, wrap)) in wraps.into_iter().enumerate() {
        let user = format!("user-{n}");
        stand.grant(&user).await;
        stand.advance(TOKENS_EXPIRED);
        wire.next(wrap);
        let answer = stand.token(&user).await.unwrap_or_else(|refused| panic!("{name}: {refused:?}"));
        assert_eq!(answer.scopes, ["mail.read"], "{name}");
        let grant = stand.describe(&user).await;
        assert_eq!((grant.state(), grant.generation), (GrantState::Active, 2), "{name}");
        stand.advance(TOKENS_EXPIRED);
        stand.token(&user).await.unwrap();
        assert!(stand.provider.family_alive(&user), "{name}");
    }
    assert_eq!(stand.provider.stats().reuse_detected, 0);
}

/// Where the answer breaks off behind the refresh token, that is what is kept.
#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_token_is_kept_of_an_answer_that_breaks_off_behind_it() {
    type Cut = fn(&str) -> Vec<u8>;
    /// Up to the end of the refresh token and its quotation mark.
    fn until_token(text: &str) -> &str {
        let at = text.find("\"refresh_token\":\"").unwrap() + 17;
        &text[..at + text[at..].find('"').unwrap() + 1]
    }
    let cuts: [(&str, Cut); 4] = [
        ("closed", |text| {
            let head = format!("HTTP/1.1 200 OK\r\n{JSON}content-length: {}\r\n\r\n", text.len());
            format!("{head}{}", until_token(text)).into_bytes()
        }),
        ("a length that is too short", |text| success(JSON, until_token(text).as_bytes())),
        ("a chunk that is not whole", |text| {
            let head = format!("HTTP/1.1 200 OK\r\n{JSON}transfer-encoding: chunked\r\n\r\n");
            format!("{head}{:x}\r\n{}", text.len(), until_token(text)).into_bytes()
        }),
        ("nonsense behind it", |text| success(JSON, format!("{},<html>", until_token(text)).as_bytes())),
    ];
    let (stand, wire) = Wire::stand(Kind::Strict, Kind::Strict.settings()).await;
    for (n, (name, cut)) in cuts.into_iter().enumerate() {
        let user = format!("user-{n}");
        stand.grant(&user).await;
        stand.advance(TOKENS_EXPIRED);
        wire.next(cut);
        let refusal = stand.token(&user).await.refused();
        assert_eq!(refusal.reason, "NO_ACCESS_TOKEN", "{name}");
        let grant = stand.describe(&user).await;
        assert_eq!((grant.state(), grant.generation), (GrantState::Active, 2), "{name}");
        stand.token(&user).await.unwrap();
        assert!(stand.provider.family_alive(&user), "{name}");
    }
    assert_eq!(stand.provider.stats().reuse_detected, 0);
}

/// Some servers refuse a refresh that names any scope, others one that asks for
/// offline_access; some give no new refresh token to one that does not.
#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_names_scopes_where_the_profile_says_so() {
    for kind in KINDS {
        let mut settings = kind.settings();
        settings.profile.push_str("\nrequests_per_second = 1000");
        let stand = kind.stand_with(settings).await;
        stand.rotate(false, true).await;
        let sent = stand.provider.last_refresh();
        let sent: Option<BTreeSet<&str>> = sent.get("scope").map(|scopes| scopes.split(' ').collect());
        match kind {
            Kind::Strict | Kind::Grace => assert_eq!(sent, None, "{kind:?}"),
            Kind::Tolerant => assert!(sent.is_some_and(|sent| sent.contains("mail.read")), "{kind:?}"),
        }
        assert_eq!(stand.describe("ada").await.generation, 2, "{kind:?}");
    }
}

/// The caller's scopes are refused, and the grant's own request, which names
/// none, is what keeps it alive.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_every_named_scope_still_keeps_its_grants() {
    let stand = Kind::Strict.stand().await;
    stand.advance(TOKENS_EXPIRED);
    stand.provider.fault_when(
        crate::field_kit::with_scope("mail.read"),
        Fault::error(400, "invalid_scope"),
        usize::MAX,
    );
    for _ in 0..3 {
        assert_eq!(
            stand
                .token_with("ada", |r| r.scopes = vec!["mail.read".into(), "x".into()])
                .await
                .refused()
                .reason,
            "PROVIDER_REFUSED"
        );
    }
    let own = stand.token_with("ada", |r| r.scopes.clear()).await.unwrap();
    assert!(own.from_cache, "it came with the grant's own request");
    let grant = stand.describe("ada").await;
    assert_eq!((grant.state(), grant.generation), (GrantState::Active, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn scopes_in_any_order_are_one_token() {
    let stand = Kind::Strict.stand().await;
    stand.advance(TOKENS_EXPIRED);
    stand.provider.script(Fault::OddScopeOrder, 1);
    let before = stand.token_requests();
    let mut tokens = BTreeSet::new();
    for scopes in [["b", "a", "c"], ["a", "b", "c"], ["c", "b", "a"]] {
        let scopes = scopes.map(str::to_owned).to_vec();
        let answer = stand.token_with("ada", |r| r.scopes = scopes).await.unwrap();
        assert_eq!(answer.scopes, ["a", "b", "c"]);
        tokens.insert(answer.access_token);
    }
    assert_eq!((tokens.len(), stand.token_requests()), (1, before + 1));
}
