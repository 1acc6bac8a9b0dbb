//! What an answer proves about the refresh token that was sent, as a pure
//! function of the provider's profile, the HTTP status, `error` and
//! `suberror`.
//!
//! The one dangerous mistake is to call a token unused, or dead, when it is
//! not. So a grant ends only by the word `invalid_grant`, and not when a failing
//! or throttling server says it; a token counts as unused only where the
//! profile vouches for it; and all the rest is in doubt. Message texts and numbers decide nothing: providers
//! change them.

use std::time::Duration;

use chrono::NaiveDateTime;
use serde::de::IgnoredAny;
use serde_json::Value;
use url::Url;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::answer::{RawAnswer, TokenAnswer};
use super::fields::Fields;
use crate::domain::profile::{Profile, Reuse};
use crate::domain::scope::Claims;

/// What an answer is.
#[derive(Debug)]
pub enum Verdict {
    /// It holds tokens.
    Tokens(TokenAnswer),
    /// It does not.
    Refused(Refusal),
}

/// An answer without tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What it says.
    pub kind: RefusalKind,
    /// Whether it proves that the refresh token was not used up. Means nothing
    /// for `InvalidGrant` and `InteractionRequired`, which say more, and is
    /// false there.
    pub proves_unused: bool,
    /// Whether it is a complete OAuth error of the provider itself (RFC 6749
    /// section 5.2), and so the end of the request: nothing of it is still on
    /// its way. What a proxy says in the provider's place is none.
    pub complete: bool,
    /// Status, known words, numbers and identifiers, for the log.
    pub detail: String,
    /// How long the provider asks to wait.
    pub retry_after: Option<Duration>,
}

/// What an answer without tokens says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefusalKind {
    /// The refresh token or assertion is of no use any more.
    InvalidGrant,
    /// The user has to act, and can.
    InteractionRequired {
        /// What to pass on in the authorization request, verbatim.
        claims: Option<Claims>,
        /// The `error`.
        error: &'static str,
        /// The `suberror`, empty when there is none that is known.
        suberror: &'static str,
    },
    /// The client is not accepted, or not for this token: the operator has to
    /// act.
    ClientRejected,
    /// The scopes or the resource are not to be had.
    ScopeRejected,
    /// Too many requests.
    Throttled,
    /// The provider is unavailable.
    Unavailable,
    /// It points elsewhere; it was not followed.
    Redirected,
    /// It says yes and holds no token, or is no answer of a token endpoint.
    Malformed,
    /// It says no, in no word that is known.
    Other,
}

/// Reads an answer. Pure, and never fails.
#[must_use]
pub fn classify(profile: &Profile, answer: &RawAnswer) -> Verdict {
    let text = answer.text();
    let fields = Fields::read(&text);
    if answer.is_success()
        && let Some(tokens) = TokenAnswer::of(answer, &fields)
    {
        return Verdict::Tokens(tokens);
    }
    let error = known(&ERRORS, &fields, "error");
    let suberror = known(&SUBERRORS, &fields, "suberror");
    let kind = match answer.status() {
        300..400 => RefusalKind::Redirected,
        429 => RefusalKind::Throttled,
        // Whatever words a failing server finds, they end no grant.
        503 if answer.retry_after().is_some() => RefusalKind::Throttled,
        500..600 | 408 => RefusalKind::Unavailable,
        // A few providers say no with 200.
        200..300 | 400..500 => by_word(error, suberror, &fields).unwrap_or(match answer.status() {
            401 => RefusalKind::ClientRejected,
            400..500 => RefusalKind::Other,
            _ => RefusalKind::Malformed,
        }),
        _ => RefusalKind::Other,
    };
    Verdict::Refused(Refusal {
        proves_unused: proves_unused(profile, &kind, error),
        complete: is_complete_error(answer, &fields),
        detail: detail(answer.status(), &fields, error, suberror),
        retry_after: answer.retry_after(),
        kind,
    })
}

/// 408 and 429 are excepted: what stands in front of a provider says them too,
/// and copies its form.
fn is_complete_error(answer: &RawAnswer, fields: &Fields<'_>) -> bool {
    matches!(answer.status(), 400..=407 | 409..=428 | 430..=499)
        && !answer.is_torn()
        && fields.are_whole()
        && fields.text("error").is_some()
}

/// What `error` and `suberror` say, where they are known.
fn by_word(error: &'static str, suberror: &'static str, fields: &Fields<'_>) -> Option<RefusalKind> {
    let interaction = || RefusalKind::InteractionRequired { claims: claims(fields), error, suberror };
    Some(match (error, suberror) {
        (
            "invalid_grant",
            "basic_action"
            | "additional_action"
            | "message_only"
            | "user_password_expired"
            | "consent_required",
        )
        | (
            "interaction_required"
            | "login_required"
            | "consent_required"
            | "account_selection_required"
            | "mfa_required",
            _,
        ) => interaction(),
        // The token was issued to another client, or a policy asks for a client
        // that manages the device. The user can do nothing about it and the
        // token is not dead, so ending the grant would throw the consent away:
        // the operator has to fix the client.
        ("invalid_grant", "client_mismatch" | "protection_policy_required")
        | ("invalid_client" | "unauthorized_client", _) => RefusalKind::ClientRejected,
        ("invalid_grant", _) => RefusalKind::InvalidGrant,
        ("invalid_scope" | "invalid_target" | "invalid_resource", _) => RefusalKind::ScopeRejected,
        ("slow_down", _) => RefusalKind::Throttled,
        ("temporarily_unavailable" | "server_error", _) => RefusalKind::Unavailable,
        _ => return None,
    })
}

fn proves_unused(profile: &Profile, kind: &RefusalKind, error: &str) -> bool {
    let vouched = match kind {
        // These two say what became of the token; "unused" is not the question.
        RefusalKind::InvalidGrant | RefusalKind::InteractionRequired { .. } => return false,
        // A 401 without the word may come from something in front of the
        // provider, or behind it.
        RefusalKind::ClientRejected => {
            profile.client_error_proves_unused && matches!(error, "invalid_client" | "unauthorized_client")
        }
        RefusalKind::Throttled => profile.throttle_proves_unused,
        RefusalKind::ScopeRejected
        | RefusalKind::Unavailable
        | RefusalKind::Redirected
        | RefusalKind::Malformed
        | RefusalKind::Other => false,
    };
    // Where an old token stays valid, no answer uses one up.
    vouched || profile.reuse == Reuse::Tolerated
}

/// The claims for the user's way back, verbatim: a JSON text, or as some
/// providers have it the object itself.
fn claims(fields: &Fields<'_>) -> Option<Claims> {
    let text = fields.text("claims").or_else(|| fields.raw("claims").map(str::to_owned))?;
    serde_json::from_str::<IgnoredAny>(&text).ok()?;
    Claims::new(&text).ok()
}

const ERRORS: [&str; 20] = [
    "access_denied",
    "account_selection_required",
    "consent_required",
    "interaction_required",
    "invalid_client",
    "invalid_dpop_proof",
    "invalid_grant",
    "invalid_request",
    "invalid_resource",
    "invalid_scope",
    "invalid_target",
    "login_required",
    "mfa_required",
    "server_error",
    "slow_down",
    "temporarily_unavailable",
    "unauthorized_client",
    "unsupported_grant_type",
    "unsupported_response_type",
    "use_dpop_nonce",
];

const SUBERRORS: [&str; 9] = [
    "additional_action",
    "bad_token",
    "basic_action",
    "client_mismatch",
    "consent_required",
    "message_only",
    "protection_policy_required",
    "token_expired",
    "user_password_expired",
];

/// The field's word from the list; empty when it is none of them.
fn known(words: &[&'static str], fields: &Fields<'_>, name: &str) -> &'static str {
    let word = fields.text(name).unwrap_or_default();
    words.iter().find(|known| **known == word).copied().unwrap_or_default()
}

/// The same words of an answer that is not one of the token endpoint.
pub(super) fn error_detail(status: u16, body: &[u8]) -> String {
    let text = Zeroizing::new(String::from_utf8_lossy(body).into_owned());
    let fields = Fields::read(&text);
    let (error, suberror) = (known(&ERRORS, &fields, "error"), known(&SUBERRORS, &fields, "suberror"));
    detail(status, &fields, error, suberror)
}

/// Words for the log, none of them the provider's own: what is not a known
/// word, a number or a UUID may hold anything, a token included.
fn detail(status: u16, fields: &Fields<'_>, error: &str, suberror: &str) -> String {
    let mut detail = format!("status={status}");
    for (name, word) in [("error", error), ("suberror", suberror)] {
        let there = fields.text(name).is_some();
        match word {
            "" if there => detail.push_str(&format!(" {name}=unknown")),
            "" => {}
            word => detail.push_str(&format!(" {name}={word}")),
        }
    }
    if let Some(Value::Array(codes)) = fields.parsed("error_codes") {
        let codes: Vec<String> =
            codes.iter().filter_map(Value::as_u64).take(8).map(|code| code.to_string()).collect();
        if !codes.is_empty() {
            detail.push_str(&format!(" error_codes={}", codes.join(",")));
        }
    }
    for name in ["correlation_id", "trace_id"] {
        if let Some(id) = fields.text(name).and_then(|id| Uuid::try_parse(&id).ok()) {
            detail.push_str(&format!(" {name}={id}"));
        }
    }
    if let Some(at) = fields.text("timestamp").and_then(|at| timestamp(&at)) {
        detail.push_str(&format!(" timestamp={at}"));
    }
    if let Some(code) = fields.text("error_uri").and_then(|uri| error_page(&uri)) {
        detail.push_str(&format!(" error_uri_code={code}"));
    }
    detail
}

/// A time by the provider's clock, as Entra writes it (`2026-08-21 10:11:12Z`).
fn timestamp(text: &str) -> Option<String> {
    let at = NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%SZ");
    let at = at.or_else(|_| NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%SZ")).ok()?;
    Some(at.format("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// Which page an `error_uri` leads to: the number of the code in its query, as
/// Entra has it (`https://login.microsoftonline.com/error?code=70008`). The rest of
/// an address may hold anything.
fn error_page(uri: &str) -> Option<u32> {
    let uri = Url::parse(uri).ok()?;
    uri.query_pairs().find(|(name, _)| name == "code")?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn refusal(profile: &Profile, status: u16, wait: Option<u64>, body: &str) -> Refusal {
        let answer = RawAnswer::new(status, wait.map(Duration::from_secs), body.as_bytes().to_vec());
        match classify(profile, &answer) {
            Verdict::Refused(refusal) => refusal,
            Verdict::Tokens(tokens) => panic!("tokens from {status} {body}: {tokens:?}"),
        }
    }

    fn error(word: &str) -> String {
        json!({ "error": word }).to_string()
    }

    #[test]
    fn the_table_of_what_an_answer_proves() {
        use RefusalKind::*;
        let strict = Profile::strict();
        let grace = Profile::grace(Duration::from_secs(30));
        let trusting =
            Profile { client_error_proves_unused: true, throttle_proves_unused: true, ..Profile::strict() };
        let tolerant = Profile::tolerant();
        // status, Retry-After, body, kind, unused at: strict, strict that
        // vouches for its client errors and throttling, tolerant
        for (status, wait, body, kind, unused) in [
            (400, None, error("invalid_grant"), InvalidGrant, [false; 3]),
            (401, None, error("invalid_client"), ClientRejected, [false, true, true]),
            (400, None, error("unauthorized_client"), ClientRejected, [false, true, true]),
            (401, None, String::new(), ClientRejected, [false, false, true]),
            (400, None, error("invalid_scope"), ScopeRejected, [false, false, true]),
            (400, None, error("invalid_target"), ScopeRejected, [false, false, true]),
            (429, None, String::new(), Throttled, [false, true, true]),
            (429, Some(7), error("invalid_grant"), Throttled, [false, true, true]),
            (503, Some(7), String::new(), Throttled, [false, true, true]),
            (503, None, String::new(), Unavailable, [false, false, true]),
            (500, None, "<html>oops".into(), Unavailable, [false, false, true]),
            (500, None, error("invalid_grant"), Unavailable, [false, false, true]),
            (400, None, error("temporarily_unavailable"), Unavailable, [false, false, true]),
            (302, None, String::new(), Redirected, [false, false, true]),
            (307, None, error("invalid_grant"), Redirected, [false, false, true]),
            (200, None, "<html>hello".into(), Malformed, [false, false, true]),
            (200, None, "{}".into(), Malformed, [false, false, true]),
            (200, None, String::new(), Malformed, [false, false, true]),
            (200, None, error("invalid_grant"), InvalidGrant, [false; 3]),
            (400, None, String::new(), Other, [false, false, true]),
            (400, None, error("invalid_request"), Other, [false, false, true]),
            (404, None, "<html>".into(), Other, [false, false, true]),
            (400, None, error("out_of_cheese"), Other, [false, false, true]),
        ] {
            for (profile, unused) in [&strict, &trusting, &tolerant].into_iter().zip(unused) {
                let refusal = refusal(profile, status, wait, &body);
                assert_eq!(
                    (&refusal.kind, refusal.proves_unused),
                    (&kind, unused),
                    "{status} {body} {profile:?}"
                );
                assert_eq!(refusal.retry_after, wait.map(Duration::from_secs));
            }
            assert_eq!(refusal(&grace, status, wait, &body), refusal(&strict, status, wait, &body));
        }
    }

    #[test]
    fn a_complete_error_is_one_of_the_provider_itself() {
        let complete = |status, body: &str| refusal(&Profile::strict(), status, None, body).complete;
        for status in [400, 401, 403, 404, 422, 499] {
            for word in ["invalid_grant", "invalid_request", "out_of_cheese"] {
                assert!(complete(status, &error(word)), "{status} {word}");
            }
        }
        for status in [200, 302, 408, 429, 500, 502, 503, 600] {
            assert!(!complete(status, &error("invalid_request")), "{status}");
        }
        for body in ["", "<html>", "{}", r#"{"error":""}"#, r#"{"error":{"code":7}}"#, r#"{"error":7}"#] {
            assert!(!complete(400, body), "{body}");
        }
        for body in [r#"{"error":"invalid_request""#, r#"{"error":"invalid_request","x"#, r#"["error"]"#] {
            assert!(!complete(400, body), "{body}");
        }
        let torn = RawAnswer::torn(400, None, error("invalid_request").into_bytes());
        let Verdict::Refused(refusal) = classify(&Profile::strict(), &torn) else { panic!() };
        assert!(!refusal.complete);
    }

    #[test]
    fn what_the_user_can_fix_is_told_apart_from_what_is_dead() {
        let kind = |suberror: &str| {
            let body = json!({ "error": "invalid_grant", "suberror": suberror }).to_string();
            refusal(&Profile::tolerant(), 400, None, &body).kind
        };
        for word in
            ["basic_action", "additional_action", "message_only", "user_password_expired", "consent_required"]
        {
            let expected =
                RefusalKind::InteractionRequired { claims: None, error: "invalid_grant", suberror: word };
            assert_eq!(kind(word), expected);
        }
        for word in ["bad_token", "token_expired", "", "news"] {
            assert_eq!(kind(word), RefusalKind::InvalidGrant, "{word}");
        }
        for word in ["client_mismatch", "protection_policy_required"] {
            assert_eq!(kind(word), RefusalKind::ClientRejected, "{word}");
        }
    }

    #[test]
    fn claims_reach_the_caller_verbatim() {
        let wanted = r#"{"access_token": {"capolids":{"essential":true,"values":["c1"]}}}"#;
        let claims_of = |claims: &str| {
            let body =
                format!(r#"{{"error":"interaction_required","suberror":"basic_action","claims":{claims}}}"#);
            match refusal(&Profile::strict(), 400, None, &body).kind {
                RefusalKind::InteractionRequired { claims, error, suberror } => {
                    assert_eq!((error, suberror), ("interaction_required", "basic_action"));
                    claims.map(|c| c.as_str().to_owned())
                }
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(claims_of(&json!(wanted).to_string()).as_deref(), Some(wanted), "a JSON text in JSON");
        assert_eq!(claims_of(wanted).as_deref(), Some(wanted), "the object itself");
        for none in ["null", r#""""#, r#""{nonsense}""#, "7", r#""[]""#] {
            assert_eq!(claims_of(none), None, "{none}");
        }
    }

    /// As Entra answers.
    #[test]
    fn the_detail_has_what_a_providers_support_asks_for() {
        let body = json!({
            "error": "invalid_grant", "error_description": "AADSTS70008: hunter2",
            "error_codes": [70008], "timestamp": "2026-08-21 10:11:12Z",
            "trace_id": "255d1aef-8c98-452f-ac51-23d051240864",
            "correlation_id": "0e4bd5ac-0a15-4b1c-9d2e-6a4f2e4d1c55",
            "error_uri": "https://login.microsoftonline.com/error?code=70008",
        });
        let wanted = "status=400 error=invalid_grant error_codes=70008 \
             correlation_id=0e4bd5ac-0a15-4b1c-9d2e-6a4f2e4d1c55 \
             trace_id=255d1aef-8c98-452f-ac51-23d051240864 \
             timestamp=2026-08-21T10:11:12Z error_uri_code=70008";
        assert_eq!(refusal(&Profile::strict(), 400, None, &body.to_string()).detail, wanted);
        // Wherever it is read: of a revocation and of a key set too.
        assert_eq!(error_detail(400, body.to_string().as_bytes()), wanted);
        assert_eq!(error_detail(502, b"<html>hunter2"), "status=502");
        for odd in ["https://hunter2.example/hunter2?code=hunter2", "https://x.example/?c=1", "hunter2"] {
            let body = json!({ "timestamp": "hunter2", "error_uri": odd }).to_string();
            assert_eq!(error_detail(400, body.as_bytes()), "status=400");
        }
    }

    #[test]
    fn the_detail_holds_no_text_of_the_providers() {
        let id = "0e4bd5ac-0a15-4b1c-9d2e-6a4f2e4d1c55";
        let body = json!({
            "error": "hunter2", "error_description": "hunter2", "suberror": "hunter2",
            "error_codes": [70000, "hunter2", 50173], "correlation_id": id, "trace_id": "hunter2",
            "claims": "hunter2", "error_uri": "hunter2",
        });
        let refusal = refusal(&Profile::strict(), 400, None, &body.to_string());
        assert_eq!(
            refusal.detail,
            format!("status=400 error=unknown suberror=unknown error_codes=70000,50173 correlation_id={id}")
        );
        assert!(!format!("{refusal:?}").contains("hunter2"));
    }

    proptest! {
        #[test]
        fn any_answer_is_classified(status: u16, wait in proptest::option::of(0..9999u64), body: Vec<u8>) {
            let answer = RawAnswer::new(status, wait.map(Duration::from_secs), body);
            for profile in [Profile::strict(), Profile::tolerant()] {
                let _verdict = classify(&profile, &answer);
            }
        }

        #[test]
        fn no_200_loses_its_refresh_token(
            token in "\\PC{1,40}",
            others in proptest::collection::btree_map("[a-z_]{1,12}|expires_in|scope|error|id_token", any_json(), 0..6),
        ) {
            let mut body: serde_json::Map<String, Value> = others.into_iter().collect();
            body.insert("refresh_token".into(), token.clone().into());
            let answer = RawAnswer::new(200, None, Value::Object(body).to_string().into_bytes());
            let Verdict::Tokens(tokens) = classify(&Profile::strict(), &answer) else {
                panic!("the token was lost");
            };
            let refresh_token = tokens.refresh_token.unwrap();
            prop_assert_eq!(refresh_token.expose(), token);
        }

        #[test]
        fn only_the_word_ends_a_grant(status: u16, word in "[a-z_]{0,20}") {
            let refusal = refusal(&Profile::strict(), status, None, &error(&word));
            prop_assert!(refusal.kind != RefusalKind::InvalidGrant || word == "invalid_grant");
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,20}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map(".{0,5}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }
}
