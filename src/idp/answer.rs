//! The provider's raw answer, and reading tokens out of it.
//!
//! A refresh token that came is never lost to something else in the answer
//! that is odd: each field is read on its own, what cannot be read is taken as
//! not there, and a body that breaks off after the token still gives it.

use std::fmt;
use std::time::Duration;

use serde_json::Value;
use zeroize::Zeroizing;

use super::fields::Fields;
use crate::domain::scope::ScopeSet;
use crate::seal::OpenError;
use crate::secret::{AccessToken, Plaintext, RefreshToken, UnverifiedIdToken};

/// First byte of the binary form.
const VERSION: u8 = 1;
/// Version, status, and Retry-After in seconds and one, zero for none.
const HEAD_BYTES: usize = 1 + 2 + 4;

/// Most bytes of an answer, decoded, that the vault reads.
pub const MOST_ANSWER_BYTES: usize = 1024 * 1024;

/// Longest `expires_in` that is read as it stands; a longer one is cut to it.
const LONGEST_EXPIRES_IN_SECONDS: f64 = 366.0 * 86_400.0;

/// The fields of an answer that are kept on disk: all that is read of it, but
/// the access token. What is not listed may hold anything, another access
/// token included.
const KEPT_FIELDS: [&str; 12] = [
    "claims",
    "correlation_id",
    "error",
    "error_codes",
    "error_uri",
    "id_token",
    "refresh_token",
    "scope",
    "suberror",
    "timestamp",
    "token_type",
    "trace_id",
];

/// An answer as it came, not yet read.
pub struct RawAnswer {
    status: u16,
    retry_after: Option<Duration>,
    body: Zeroizing<Vec<u8>>,
    torn: bool,
}

impl RawAnswer {
    /// An answer with its HTTP status and the wait its Retry-After asks for, in
    /// whole seconds.
    #[must_use]
    pub fn new(status: u16, retry_after: Option<Duration>, body: impl Into<Zeroizing<Vec<u8>>>) -> Self {
        let retry_after = retry_after.map(|wait| {
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            Duration::from_secs(seconds.min(u64::from(u32::MAX - 1)))
        });
        Self { status, retry_after, body: body.into(), torn: false }
    }

    /// An answer of which not all has arrived.
    #[must_use]
    pub fn torn(status: u16, retry_after: Option<Duration>, body: impl Into<Zeroizing<Vec<u8>>>) -> Self {
        Self { torn: true, ..Self::new(status, retry_after, body) }
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// How long the provider asks to wait.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The binary form, to be sealed.
    #[must_use]
    pub fn to_bytes(&self) -> Plaintext {
        let wait = self.retry_after.map_or(0, |wait| u32::try_from(wait.as_secs() + 1).unwrap_or(u32::MAX));
        let mut bytes = Vec::with_capacity(HEAD_BYTES + self.body.len());
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.status.to_be_bytes());
        bytes.extend_from_slice(&wait.to_be_bytes());
        bytes.extend_from_slice(&self.body);
        Plaintext::new(bytes)
    }

    /// Reads the binary form.
    ///
    /// # Errors
    ///
    /// When it is not one, or one of another version of the vault.
    pub fn from_bytes(bytes: &Plaintext) -> Result<Self, OpenError> {
        let (head, body) =
            bytes.expose().split_first_chunk::<HEAD_BYTES>().ok_or(OpenError::NotAnEnvelope)?;
        let [version, s0, s1, w0, w1, w2, w3] = *head;
        if version != VERSION {
            return Err(OpenError::UnknownFormat(version));
        }
        let wait = u32::from_be_bytes([w0, w1, w2, w3]);
        Ok(Self {
            status: u16::from_be_bytes([s0, s1]),
            retry_after: wait.checked_sub(1).map(|seconds| Duration::from_secs(seconds.into())),
            body: Zeroizing::new(body.to_vec()),
            torn: false,
        })
    }

    /// The answer as it may be kept on disk, sealed: a JSON object of the
    /// fields that are read of it, with "-" for the access token, which never
    /// goes there (invariant 1). In an answer that breaks off an access token
    /// cannot be told from the rest, so of that one the refresh token alone is
    /// kept.
    #[must_use]
    pub fn without_access_token(&self) -> Self {
        let text = self.text();
        let fields = Fields::read(&text);
        let mut kept = Zeroizing::new(Vec::with_capacity(self.body.len() + HEAD_BYTES));
        kept.push(b'{');
        let mut keep = |name: &str, value: &str| {
            if kept.len() > 1 {
                kept.push(b',');
            }
            for part in ["\"", name, "\":", value] {
                kept.extend_from_slice(part.as_bytes());
            }
        };
        if self.is_torn_as(&fields) {
            if let Some(token) = fields.last_text_as_it_came("refresh_token") {
                keep("refresh_token", token);
            }
        } else {
            for (name, value) in fields.each() {
                if name == "access_token" {
                    keep(name, "\"-\"");
                } else if KEPT_FIELDS.contains(&name) {
                    keep(name, value);
                }
            }
        }
        kept.push(b'}');
        Self { status: self.status, retry_after: self.retry_after, body: kept, torn: false }
    }

    /// Whether part of the answer is missing: the transport said so, or an
    /// answer of success is a JSON object without its end.
    #[must_use]
    pub fn is_torn(&self) -> bool {
        self.is_torn_as(&Fields::read(&self.text()))
    }

    fn is_torn_as(&self, fields: &Fields<'_>) -> bool {
        self.torn || self.is_success() && fields.break_off()
    }

    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Whether a refresh token stands whole in it.
    pub(super) fn has_refresh_token(&self) -> bool {
        Fields::read(&self.text()).text("refresh_token").is_some()
    }

    /// The body as text; bytes that are none are replaced, so that they spoil
    /// only the field they are in.
    pub(super) fn text(&self) -> Zeroizing<String> {
        Zeroizing::new(String::from_utf8_lossy(&self.body).into_owned())
    }
}

impl fmt::Debug for RawAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawAnswer")
            .field("status", &self.status)
            .field("retry_after", &self.retry_after)
            .field("body_bytes", &self.body.len())
            .field("torn", &self.torn)
            .finish()
    }
}

/// The tokens of an answer, and what it says about them.
#[derive(Debug)]
pub struct TokenAnswer {
    /// The access token.
    pub access_token: Option<AccessToken>,
    /// How it is used; "Bearer" unless the provider says otherwise.
    pub token_type: String,
    /// The new refresh token; `None`: the old one stays.
    pub refresh_token: Option<RefreshToken>,
    /// How long the access token lives.
    pub expires_in: Option<Duration>,
    /// The scopes it was given, where the provider says so.
    pub scopes: Option<ScopeSet>,
    /// The ID token.
    pub id_token: Option<UnverifiedIdToken>,
}

impl TokenAnswer {
    /// `None` when there is neither an access token nor a refresh token. What
    /// an answer that breaks off says of its access token may be missing, so
    /// only what stands for itself is read of it.
    pub(super) fn of(answer: &RawAnswer, fields: &Fields<'_>) -> Option<Self> {
        if !answer.is_torn_as(fields) {
            return Self::read(fields);
        }
        Some(Self {
            refresh_token: Some(RefreshToken::new(fields.text("refresh_token")?)),
            id_token: fields.text("id_token").map(UnverifiedIdToken::new),
            access_token: None,
            token_type: "Bearer".into(),
            expires_in: None,
            scopes: fields.parsed("scope").and_then(|value| scopes(&value)),
        })
    }

    fn read(fields: &Fields<'_>) -> Option<Self> {
        let answer = Self {
            access_token: fields.text("access_token").map(AccessToken::new),
            token_type: fields.text("token_type").filter(|t| is_token_type(t)).unwrap_or("Bearer".into()),
            refresh_token: fields.text("refresh_token").map(RefreshToken::new),
            expires_in: fields.parsed("expires_in").and_then(|value| lifetime(&value)),
            scopes: fields.parsed("scope").and_then(|value| scopes(&value)),
            id_token: fields.text("id_token").map(UnverifiedIdToken::new),
        };
        (answer.access_token.is_some() || answer.refresh_token.is_some()).then_some(answer)
    }
}

fn is_token_type(word: &str) -> bool {
    word.len() <= 64 && word.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// Seconds as a number or as text; less than nothing is nothing.
fn lifetime(value: &Value) -> Option<Duration> {
    let seconds = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse::<f64>().ok().filter(|s| s.is_finite())?,
        _ => return None,
    };
    Duration::try_from_secs_f64(seconds.clamp(0.0, LONGEST_EXPIRES_IN_SECONDS)).ok()
}

/// A space-separated list, or a list proper as some send it.
fn scopes(value: &Value) -> Option<ScopeSet> {
    let (scopes, odd) = match value {
        Value::String(list) => ScopeSet::parse_lenient(list),
        Value::Array(list) => {
            let words: Vec<&str> = list.iter().filter_map(Value::as_str).collect();
            ScopeSet::parse_lenient(&words.join(" "))
        }
        _ => return None,
    };
    if odd > 0 {
        tracing::warn!(odd, "scopes in a provider's answer are no scope tokens (RFC 6749) and are left out");
    }
    (!scopes.is_empty()).then_some(scopes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(body: &str) -> Option<TokenAnswer> {
        TokenAnswer::read(&Fields::read(body))
    }

    fn refresh_token(body: &str) -> Option<String> {
        read(body).and_then(|answer| answer.refresh_token).map(|token| token.expose().to_owned())
    }

    #[test]
    fn a_plain_answer_is_read_whole() {
        let answer = read(
            r#"{"token_type":"DPoP","scope":"b a","expires_in":3599,"ext_expires_in":1,
                "access_token":"at","refresh_token":"rt","id_token":"it"}"#,
        )
        .unwrap();
        assert_eq!(answer.access_token.unwrap().expose(), "at");
        assert_eq!(answer.refresh_token.unwrap().expose(), "rt");
        assert_eq!(answer.id_token.unwrap().expose(), "it");
        assert_eq!((answer.token_type.as_str(), answer.scopes.unwrap().to_wire().as_str()), ("DPoP", "a b"));
        assert_eq!(answer.expires_in, Some(Duration::from_secs(3599)));
    }

    #[test]
    fn what_is_kept_on_disk_has_everything_but_the_access_token() {
        let body = r#"{"access_token":"se\u0063ret","x":[1, 2],"refresh_token":"rt","access_token" : "secret2" ,"id_token":"it"}"#;
        let nested = r#","user":{"access_token":"secret3"},"accessToken":"secret4"}"#;
        let body = body.replace('}', nested);
        let kept = RawAnswer::new(200, None, body.into_bytes()).without_access_token();
        let text = kept.text();
        assert!(!text.contains("secret") && !text.contains("ret\""), "{}", *text);
        let answer = read(&text).unwrap();
        assert_eq!(answer.refresh_token.unwrap().expose(), "rt");
        assert_eq!(answer.id_token.unwrap().expose(), "it");
        assert_eq!(answer.access_token.unwrap().expose(), "-");
        let spoilt = RawAnswer::new(200, None, b"{\"x\":\"\xff\",\"access_token\":\"secret\"}".to_vec());
        assert!(!spoilt.without_access_token().text().contains("secret"));
        for (odd, kept) in [
            ("", "{}"),
            ("{", "{}"),
            ("<html>", "{}"),
            (r#"{"access_token":1}"#, r#"{"access_token":"-"}"#),
            (r#"{"access_token":"ab"#, "{}"),
            ("\u{feff}{}", "{}"),
            (r#"{"error":"invalid_grant"} {"access_token":"secret"}"#, r#"{"error":"invalid_grant"}"#),
        ] {
            let answer = RawAnswer::new(200, None, odd.as_bytes().to_vec()).without_access_token();
            assert_eq!(*answer.text(), kept, "{odd}");
        }
    }

    #[test]
    fn of_an_answer_that_breaks_off_only_the_refresh_token_is_kept() {
        let body = r#"{"access_token":"se\u0063ret","refresh_token":"r\"t","id_token":"it","access_token":"secret"}"#;
        for cut in 0..body.len() {
            let part = body.as_bytes()[..cut].to_vec();
            for answer in [RawAnswer::torn(200, None, part.clone()), RawAnswer::new(200, None, part)] {
                let whole = cut >= body.find(",\"id_token").unwrap();
                let kept = if whole { r#"{"refresh_token":"r\"t"}"# } else { "{}" };
                assert_eq!(*answer.without_access_token().text(), kept, "{cut}");
                assert_eq!(
                    (answer.is_torn(), answer.has_refresh_token()),
                    (answer.torn || cut > 0, whole),
                    "{cut}"
                );
            }
        }
    }

    #[test]
    fn what_a_broken_answer_says_of_its_access_token_is_not_believed() {
        let body =
            br#"{"access_token":"at","scope":"a","expires_in":60,"id_token":"it","refresh_token":"rt","#;
        let answer = RawAnswer::torn(200, None, body.to_vec());
        let tokens = TokenAnswer::of(&answer, &Fields::read(&answer.text())).unwrap();
        assert!(tokens.access_token.is_none() && tokens.expires_in.is_none());
        assert_eq!(tokens.scopes.unwrap().to_wire(), "a", "what stands whole is the grant's");
        assert_eq!(tokens.refresh_token.unwrap().expose(), "rt");
        assert_eq!(tokens.id_token.unwrap().expose(), "it");
        let without = RawAnswer::torn(200, None, br#"{"access_token":"at","#.to_vec());
        assert!(TokenAnswer::of(&without, &Fields::read(&without.text())).is_none());
    }

    /// As the first version of the vault recorded them.
    #[test]
    fn answers_recorded_before_are_still_read() {
        let recorded =
            b"\x01\x00\xc8\x00\x00\x00\x08{\"access_token\":\"-\"        ,\"refresh_token\":\"rt\"";
        let answer = RawAnswer::from_bytes(&Plaintext::new(recorded.to_vec())).unwrap();
        assert_eq!((answer.status(), answer.retry_after()), (200, Some(Duration::from_secs(7))));
        let tokens = TokenAnswer::of(&answer, &Fields::read(&answer.text())).unwrap();
        assert_eq!(tokens.refresh_token.unwrap().expose(), "rt");
    }

    #[test]
    fn a_life_may_come_in_any_form() {
        for (text, seconds) in [
            ("3600", Some(3600.0)),
            ("3600.5", Some(3600.5)),
            (r#""3600""#, Some(3600.0)),
            (r#"" 3600.0 ""#, Some(3600.0)),
            ("-1", Some(0.0)),
            (r#""-1""#, Some(0.0)),
            ("0", Some(0.0)),
            ("99999999999999999999999", Some(LONGEST_EXPIRES_IN_SECONDS)),
            ("1e999", None),
            (r#""soon""#, None),
            (r#""NaN""#, None),
            (r#""inf""#, None),
            ("null", None),
            ("[3600]", None),
        ] {
            let answer = read(&format!(r#"{{"expires_in":{text},"refresh_token":"rt"}}"#)).unwrap();
            assert_eq!(answer.expires_in.map(|lifetime| lifetime.as_secs_f64()), seconds, "{text}");
            assert!(answer.refresh_token.is_some(), "{text}");
        }
        assert_eq!(read(r#"{"access_token":"at"}"#).unwrap().expires_in, None);
    }

    #[test]
    fn no_null_and_empty_refresh_token_leave_the_old_one() {
        for body in [
            r#"{"access_token":"at"}"#,
            r#"{"access_token":"at","refresh_token":null}"#,
            r#"{"access_token":"at","refresh_token":""}"#,
            r#"{"access_token":"at","refresh_token":7}"#,
        ] {
            assert!(read(body).unwrap().refresh_token.is_none(), "{body}");
        }
    }

    #[test]
    fn a_refresh_token_without_an_access_token_counts() {
        assert_eq!(refresh_token(r#"{"refresh_token":"rt"}"#).as_deref(), Some("rt"));
        assert!(read("{}").is_none());
    }

    #[test]
    fn nothing_odd_beside_it_loses_a_refresh_token() {
        let deep = "[".repeat(300) + &"]".repeat(300);
        for odd in [
            r#""x":1e999"#,
            r#""x":"\ud800""#,
            r#""\ud800":1"#,
            r#""refresh_token":null"#,
            r#""refresh_token":"""#,
            r#""scope":{"a":1}"#,
            r#""scope":["a","b c"]"#,
            r#""token_type":["Bearer"]"#,
            r#""id_token":7"#,
            &format!(r#""x":{deep}"#),
        ] {
            for body in [
                format!(r#"{{"refresh_token":"rt",{odd}}}"#),
                format!(r#"{{{odd},"refresh_token":"rt"}}"#),
                format!("\u{feff} {{{odd},\"refresh_token\":\"rt\"}} <!-- -->"),
            ] {
                assert_eq!(refresh_token(&body).as_deref(), Some("rt"), "{body}");
            }
        }
    }

    #[test]
    fn a_body_that_breaks_off_after_the_token_still_gives_it() {
        for rest in ["", ",", r#","sco"#, r#","scope":"#, r#","scope":"a"#, ",nonsense"] {
            let body = format!(r#"{{"refresh_token":"rt"{rest}"#);
            assert_eq!(refresh_token(&body).as_deref(), Some("rt"), "{body}");
        }
        assert_eq!(refresh_token(r#"{"refresh_token":"rt"#), None, "half a token is none");
    }

    #[test]
    fn bytes_that_are_no_text_spoil_only_their_own_field() {
        let body = b"{\"x\":\"\xff\",\"refresh_token\":\"rt\"}".to_vec();
        assert_eq!(refresh_token(&RawAnswer::new(200, None, body).text()).as_deref(), Some("rt"));
    }

    #[test]
    fn an_answer_prints_nothing_of_its_body() {
        let answer = RawAnswer::new(200, None, br#"{"refresh_token":"hunter2"}"#.to_vec());
        let tokens = TokenAnswer::read(&Fields::read(&answer.text()));
        assert!(!format!("{answer:?} {tokens:?}").contains("hunter2"));
    }

    #[test]
    fn foreign_bytes_are_no_answer() {
        let form = RawAnswer::new(200, None, b"x".to_vec()).to_bytes();
        assert!(RawAnswer::from_bytes(&form).is_ok());
        for bad in [&[][..], &form.expose()[..6], &[&[2], &form.expose()[1..]].concat()] {
            assert!(RawAnswer::from_bytes(&Plaintext::new(bad.to_vec())).is_err());
        }
    }

    proptest! {
        #[test]
        fn taking_the_access_token_out_never_loses_the_refresh_token(
            token in "[ -~]{1,40}", access in "[ -~]{1,40}", tail in "[ -~]{0,40}"
        ) {
            let body = format!("{}{tail}", serde_json::json!({"access_token": access, "refresh_token": token}));
            let whole = RawAnswer::new(200, None, body.clone().into_bytes());
            prop_assert_eq!(refresh_token(&whole.without_access_token().text()), refresh_token(&body));
        }

        #[test]
        fn the_binary_form_keeps_everything(
            status: u16,
            wait in proptest::option::of(0..100_000u64),
            body: Vec<u8>,
        ) {
            let answer = RawAnswer::new(status, wait.map(Duration::from_secs), body.clone());
            let again = RawAnswer::from_bytes(&answer.to_bytes()).unwrap();
            prop_assert_eq!(again.status, status);
            prop_assert_eq!(again.retry_after, wait.map(Duration::from_secs));
            prop_assert_eq!(&*again.body, &body);
        }
    }
}
