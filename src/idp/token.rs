//! A user's token taken apart, with nothing checked yet, and the rules that
//! tell of what kind it is.
//!
//! A signature by the provider proves who made a token, not what for. The same
//! key signs ID tokens, logout tokens and the tokens of applications, and some
//! of these name the vault as their audience.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::clock::Timestamp;

/// Most bytes of a token.
pub(super) const MOST_TOKEN_BYTES: usize = 64 * 1024;

/// Most characters of an unverified token's value that are shown.
const MOST_SHOWN: usize = 64;

/// A token taken apart.
pub(super) struct Unchecked<'a> {
    pub(super) header: Map<String, Value>,
    pub(super) claims: Map<String, Value>,
    pub(super) message: &'a [u8],
    pub(super) signature: &'a str,
}

impl<'a> Unchecked<'a> {
    /// `None` when it is not a signed JWT.
    pub(super) fn read(token: &'a str) -> Option<Self> {
        if token.len() > MOST_TOKEN_BYTES {
            return None;
        }
        let (message, signature) = token.rsplit_once('.')?;
        let (header, claims) = message.split_once('.')?;
        let part = |text: &str| {
            let json = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).ok()?);
            serde_json::from_slice::<Map<String, Value>>(&json).ok()
        };
        Some(Self { header: part(header)?, claims: part(claims)?, message: message.as_bytes(), signature })
    }

    /// A claim that is a text and not empty.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.claims.get(name)?.as_str().filter(|text| !text.is_empty())
    }

    /// Whether a claim is there; null is as good as not.
    pub(super) fn has(&self, name: &str) -> bool {
        self.claims.get(name).is_some_and(|value| !value.is_null())
    }

    /// A claim that is a time (RFC 7519 section 2, NumericDate).
    pub(super) fn time(&self, name: &str) -> Option<Timestamp> {
        let value = self.claims.get(name)?;
        if let Some(seconds) = value.as_i64() {
            return Some(Timestamp(seconds.saturating_mul(1000)));
        }
        let seconds = value.as_f64().filter(|s| s.is_finite() && *s >= 0.0)?;
        let since = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        Some(Timestamp(0).plus(since))
    }

    /// Whom it is made out to.
    pub(super) fn audiences(&self) -> Vec<&str> {
        match self.claims.get("aud") {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }

    /// The media type in its header (RFC 7515 section 4.1.9), if there is one.
    fn media_type(&self) -> Option<String> {
        let typ = self.header.get("typ").filter(|typ| !typ.is_null())?;
        let typ = typ.as_str().unwrap_or("?").to_ascii_lowercase();
        Some(typ.strip_prefix("application/").unwrap_or(&typ).to_owned())
    }

    fn is(&self, name: &str, word: &str) -> bool {
        self.text(name).is_some_and(|own| own.eq_ignore_ascii_case(word))
    }

    /// Whether it names scopes, as a user's access token does.
    fn has_scopes(&self) -> bool {
        ["scp", "scope"].into_iter().any(|name| match self.claims.get(name) {
            Some(Value::String(list)) => !list.trim().is_empty(),
            Some(Value::Array(list)) => !list.is_empty(),
            _ => false,
        })
    }

    /// Why it is not a user's access token, as far as it says so itself.
    /// `client_id` is the vault's own name at the provider.
    pub(super) fn not_a_users_access_token(&self, client_id: &str) -> Option<String> {
        self.other_kind().or_else(|| self.id_token(client_id)).or_else(|| self.application())
    }

    /// Why it is not an ID token, as far as it says so itself.
    pub(super) fn not_an_id_token(&self) -> Option<String> {
        let typ = self.media_type().filter(|typ| typ.contains('+'));
        typ.map(|typ| format!("its type is {}, which is not that of an ID token", shown(&typ)))
            .or_else(|| self.event())
    }

    fn event(&self) -> Option<String> {
        // RFC 8417 section 2.2; also what makes a logout token one.
        self.has("events").then(|| "it is a security event or logout token: it has events".into())
    }

    fn other_kind(&self) -> Option<String> {
        if let Some(typ) = self.media_type().filter(|typ| !matches!(typ.as_str(), "jwt" | "at+jwt")) {
            return Some(format!("its type is {}, which is not that of an access token", shown(&typ)));
        }
        // Keycloak tells its tokens apart by a claim.
        let other = ["refresh", "offline", "logout"].into_iter().find(|kind| self.is("typ", kind));
        other.map(|kind| format!("it is a token of the kind {kind}")).or_else(|| self.event())
    }

    /// An ID token tells a client who its user is; it gives nobody access.
    fn id_token(&self, client_id: &str) -> Option<String> {
        let is_one = |why: &str| Some(format!("it is an ID token, not an access token: {why}"));
        // Keycloak's and Cognito's own words.
        if self.is("typ", "id") || self.is("token_use", "id") {
            return is_one("it says so");
        }
        // RFC 9068 section 2.1 was made to tell the two apart.
        if self.media_type().as_deref() == Some("at+jwt") {
            return None;
        }
        // OpenID Connect Core section 3.3.2.11: these vouch for other values
        // of the same answer, and only an ID token does.
        if let Some(hash) = ["at_hash", "c_hash", "s_hash"].into_iter().find(|hash| self.has(hash)) {
            return is_one(&format!("it has {hash}"));
        }
        if self.has_scopes() {
            return None;
        }
        if self.has("nonce") {
            return is_one("it has a nonce and no scope");
        }
        if self.audiences().contains(&client_id) {
            return is_one("it is made out to the client and has no scope");
        }
        None
    }

    /// An application's own token has no user.
    fn application(&self) -> Option<String> {
        let is_one = |why: String| Some(format!("it is an application's own token, not a user's: {why}"));
        // Entra's optional claim: "user", "app" or "device".
        if let Some(kind) = self.claims.get("idtyp").filter(|kind| !kind.is_null())
            && !self.is("idtyp", "user")
        {
            return is_one(format!("its idtyp is {}", shown_value(kind)));
        }
        if self.is("gty", "client-credentials") {
            return is_one("its gty is client-credentials".into());
        }
        let clients = ["client_id", "azp", "appid", "cid"];
        let client = |name: &&str| self.text(name).is_some_and(|client| self.text("sub") == Some(client));
        // RFC 9068 section 2.2: without a resource owner the subject is the client.
        if let Some(name) = clients.into_iter().find(client) {
            return is_one(format!("its sub is its {name}"));
        }
        let service = self.text("preferred_username").and_then(|name| name.strip_prefix("service-account-"));
        if service.is_some_and(|own| clients.into_iter().any(|name| self.is(name, own))) {
            return is_one("its user is the client's service account".into());
        }
        // Entra: a user's token has scopes, an application's may have roles, and
        // both its names are those of its one service principal.
        let of_entra = self.has("tid") && (self.has("appid") || self.has("azp"));
        if of_entra && !self.has_scopes() && (self.has("roles") || self.text("oid") == self.text("sub")) {
            return is_one("it has no scope".into());
        }
        None
    }
}

/// A value of a token that nobody has verified, cut to what can do no harm in
/// a log.
pub(super) fn shown(value: &str) -> String {
    let cut: String =
        value.chars().take(MOST_SHOWN).map(|c| if matches!(c, ' '..='~') { c } else { '?' }).collect();
    let more = if value.chars().nth(MOST_SHOWN).is_some() { "..." } else { "" };
    format!("\"{cut}{more}\"")
}

/// The same of a claim of any kind.
pub(super) fn shown_value(value: &Value) -> String {
    match value {
        Value::String(text) => shown(text),
        other => shown(&other.to_string()),
    }
}

/// The same of a claim that may be missing.
pub(super) fn shown_claim(claims: &Map<String, Value>, name: &str) -> String {
    claims.get(name).map_or_else(|| "missing".to_owned(), shown_value)
}
