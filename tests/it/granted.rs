//! What was asked for, what was granted, and what is handed out.

use obo_vault::demo::provider::{Fault, Options};
use obo_vault::demo::stand::{POLICY, Settings};
use serde_json::{Value, json};
use tonic::Code;

use crate::harness::{Stand, TOKENS_EXPIRED, eventually};
use crate::refusal::Refused as _;

/// `mail` may have mail.read and mail.send in any combination, `files` whatever
/// there is.
fn narrow() -> String {
    POLICY.replacen(
        "when { context.client == \"portal\" }",
        "when { context.client == \"portal\" && [\"mail.read\", \"mail.send\"].containsAll(context.scopes) }",
        1,
    )
}

async fn stand(profile: &str) -> Stand {
    let settings = Settings { policy: narrow(), profile: profile.into(), ..Settings::default() };
    let stand = Stand::with(Options::default(), settings).await;
    stand.tenant().await;
    stand
}

const STRICT: &str = "profile = \"strict\"\nmulti_resource = true";

/// The provider's next answer grants these scopes, or says nothing of them.
fn grants(stand: &Stand, scopes: Option<&str>) {
    let mut body = json!({ "access_token": "at", "token_type": "Bearer", "expires_in": 3600 });
    if let Some(scopes) = scopes {
        body["scope"] = scopes.into();
    }
    answers(stand, &body);
}

/// The provider's next answer.
fn answers(stand: &Stand, body: &Value) {
    let answer = Fault::Status {
        status: 200,
        error: None,
        suberror: None,
        claims: None,
        retry_after: None,
        body: Some(body.to_string()),
        content_type: None,
        consumes: false,
    };
    stand.provider.script(answer, 1);
}

/// The newest outcome of an action in the audit log.
fn outcome(stand: &Stand, action: &str) -> Value {
    let log = std::fs::read_to_string(stand.files.directory().join("audit.jsonl")).unwrap();
    let entries = log.lines().rev().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut outcomes = entries.filter(|entry| entry["kind"] == "outcome" && entry["action"] == action);
    outcomes.next().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_with_more_than_its_caller_may_have_stays_inside() {
    let stand = stand(STRICT).await;
    stand.grant("ada").await;
    stand.advance(TOKENS_EXPIRED);
    grants(&stand, Some("mail.read Files.ReadWrite.All openid"));
    let asked = stand.provider.stats().token_requests;
    // Fetched, and then from memory.
    for _ in 0..2 {
        let refusal = stand.token("ada").await.refused();
        assert_eq!(
            (refusal.code, refusal.reason.as_str()),
            (Code::PermissionDenied, "GRANTED_SCOPES_NOT_PERMITTED")
        );
        assert!(!refusal.shown.contains("ReadWrite"), "what others consented to is no news for this caller");
        let outcome = outcome(&stand, "GetAccessToken");
        assert_eq!(outcome["outcome"], "GRANTED_SCOPES_NOT_PERMITTED");
        assert_eq!(outcome["scopes"], json!(["mail.read"]));
        assert_eq!(outcome["granted_scopes"], json!(["Files.ReadWrite.All", "mail.read", "openid"]));
    }
    // Who may have them all gets the same token.
    let request = crate::harness::token_request("ada");
    let wide = stand.client("files").await.tokens.get_access_token(request).await.unwrap().into_inner();
    assert!(wide.from_cache);
    assert_eq!(wide.scopes, ["Files.ReadWrite.All", "mail.read", "openid"]);
    assert_eq!(outcome(&stand, "GetAccessToken")["granted_scopes"], json!(wide.scopes));
    assert_eq!(stand.provider.stats().token_requests, asked + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_scopes_of_a_grant_are_judged_by_what_they_are() {
    let stand = stand(STRICT).await;
    let mut request = stand.exchange_request("ada");
    request.scopes = vec!["mail.read".into(), "mail.send".into()];
    stand.exchange(request).await.unwrap();
    let mut request = stand.exchange_request("bob");
    request.scopes = vec!["mail.read".into(), "files.read".into()];
    stand.exchange(request).await.unwrap();

    // No scopes asked stands for all: the policy permits that to begin with.
    let answer = stand.token_with("ada", |r| r.scopes.clear()).await.unwrap();
    assert_eq!(answer.scopes, ["mail.read", "mail.send"]);
    assert_eq!(outcome(&stand, "GetAccessToken")["granted_scopes"], json!(["mail.read", "mail.send"]));
    let refusal = stand.token_with("bob", |r| r.scopes.clear()).await.refused();
    assert_eq!(refusal.reason, "GRANTED_SCOPES_NOT_PERMITTED");
}

#[tokio::test(flavor = "multi_thread")]
async fn fewer_scopes_than_asked_and_unnamed_ones_are_handed_out() {
    let stand = stand(STRICT).await;
    let mut request = stand.exchange_request("ada");
    request.scopes = vec!["mail.read".into(), "files.read".into()];
    stand.exchange(request).await.unwrap();

    // RFC 6749 section 5.1: nothing said is as asked, not as much as the grant has.
    grants(&stand, None);
    assert_eq!(stand.token("ada").await.unwrap().scopes, ["mail.read"]);
    assert_eq!(outcome(&stand, "GetAccessToken").get("granted_scopes"), None);

    grants(&stand, Some("mail.read"));
    let both = || vec!["mail.read".to_owned(), "mail.send".to_owned()];
    let less = stand.token_with("ada", |r| r.scopes = both()).await.unwrap();
    assert_eq!(less.scopes, ["mail.read"]);
    assert_eq!(outcome(&stand, "GetAccessToken")["granted_scopes"], json!(["mail.read"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_every_token_has_all_consented_scopes_they_are_shown_and_not_judged() {
    let stand = stand("profile = \"tolerant\"").await;
    stand.grant("ada").await;
    stand.advance(TOKENS_EXPIRED);
    grants(&stand, Some("mail.read Files.ReadWrite.All"));
    for from_cache in [false, true] {
        let answer = stand.token("ada").await.unwrap();
        assert_eq!(answer.from_cache, from_cache);
        assert_eq!(answer.scopes, ["Files.ReadWrite.All", "mail.read"]);
        let outcome = outcome(&stand, "GetAccessToken");
        assert_eq!(outcome["granted_scopes"], json!(["Files.ReadWrite.All", "mail.read"]));
    }
    // What may be asked is judged there as everywhere.
    let refusal = stand.token_with("ada", |r| r.scopes = vec!["files.read".into()]).await.refused();
    assert_eq!(refusal.reason, "NOT_PERMITTED");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_granted_scope_is_lost_on_the_way() {
    let mut stand = stand("profile = \"tolerant\"").await;
    let many: Vec<String> = (100..200).map(|n| format!("scope.{n}")).collect();
    let all = many.join(" ");
    let enrolled =
        json!({ "access_token": "at", "refresh_token": "rt", "token_type": "Bearer", "scope": all });
    answers(&stand, &enrolled);
    assert_eq!(stand.grant("ada").await.scopes, many);
    stand.restart().await;
    assert_eq!(stand.describe("ada").await.scopes, many);
    grants(&stand, Some(&all));
    assert_eq!(stand.token("ada").await.unwrap().scopes, many);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_challenge_is_one_redemption_however_it_is_written() {
    let stand = stand(STRICT).await;
    stand.grant("ada").await;
    let asked = stand.provider.stats().token_requests;
    let mut tokens = std::collections::BTreeSet::new();
    for n in 0..40 {
        let space = " ".repeat(n);
        let claims = if n % 2 == 0 {
            format!("{{\"access_token\":{space}{{\"nbf\":null,\"x\":1}}}}")
        } else {
            format!("{{{space}\"\\u0061ccess_token\":{{\"x\":1,{space}\"nbf\":null}}}}\n")
        };
        tokens.insert(stand.token_with("ada", |r| r.claims_challenge = claims).await.unwrap().access_token);
    }
    assert_eq!((tokens.len(), stand.provider.stats().token_requests), (1, asked + 1));

    let log = std::fs::read_to_string(stand.files.directory().join("audit.jsonl")).unwrap();
    let entries = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let (digests, entries): (std::collections::BTreeSet<String>, Vec<_>) = entries
        .filter_map(|entry| Some((entry["claims_sha256"].as_str()?.to_owned(), entry["kind"].clone())))
        .unzip();
    // SHA-256 of {"access_token":{"nbf":null,"x":1}}, in request and outcome.
    assert_eq!(
        digests,
        ["817f840a793567f618f5df1c9ca402e08040447fb8804a7c9b7720dad4602324".to_owned()].into()
    );
    assert_eq!(entries.len(), 80);
    assert_eq!(entries.iter().filter(|kind| *kind == "request").count(), 40);
    assert!(!log.contains("nbf"), "the claims themselves are in no entry");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_is_for_those_whom_the_policy_names() {
    let stand = stand(STRICT).await;
    stand.grant("ada").await;
    let before = stand.provider.stats();
    let mut request = crate::harness::token_request("ada");
    let mut files = stand.client("files").await;
    files.tokens.get_access_token(request.clone()).await.unwrap();
    request.claims_challenge = r#"{"access_token":{"nbf":null}}"#.into();
    assert_eq!(files.tokens.get_access_token(request).await.refused().reason, "NOT_PERMITTED");
    // Nobody waits for the disk when nothing leaves.
    eventually("the refusal is on record", async || {
        outcome(&stand, "GetAccessToken")["claims_sha256"].is_string().then_some(())
    })
    .await;
    assert_eq!(stand.provider.stats(), before);
}
