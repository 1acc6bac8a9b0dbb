//! What an entry may say. Every field is a checked name, a number, an
//! identifier that the vault made, or a word of the program itself: there is no
//! field that a token or a provider's text could get into (invariant 1).
//!
//! The JSON is written by hand into the buffer that goes to the file, since
//! this happens twice in every call.

use std::io::Write as _;

use crate::clock::Timestamp;
use crate::domain::grant::{AttemptId, Generation, GrantId};
use crate::domain::id::{CallerId, ClientId, SubjectId, TenantId};
use crate::domain::key::KeyVersion;
use crate::domain::reason::Reason;
use crate::domain::scope::{ClaimsDigest, Resource, ScopeSet};

use super::chain::Head;
use super::fields::{Writes, brief_list, brief_text, digest, hash, list, number, text, uuid};

/// What kind of entry it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Somebody asked for something; nothing has been done yet.
    Request,
    /// What came of it; nothing secret has left yet.
    Outcome,
    /// Something happened that nobody asked for.
    Event,
}

/// An entry of the audit log, under construction.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub struct Entry<'a> {
    kind: Kind,
    request_id: Option<&'a str>,
    caller: Option<&'a CallerId>,
    action: &'static str,
    tenant: Option<&'a TenantId>,
    client: Option<&'a ClientId>,
    subject: Option<&'a SubjectId>,
    grant: Option<GrantId>,
    scopes: Option<&'a ScopeSet>,
    resource: Option<&'a Resource>,
    claims_sha256: Option<ClaimsDigest>,
    granted_scopes: Option<&'a ScopeSet>,
    reason: Option<Reason>,
    generation: Option<Generation>,
    key_version: Option<KeyVersion>,
    attempt: Option<AttemptId>,
    count: Option<u64>,
    follows: Option<Head>,
    note: Option<&'static str>,
    brief: bool,
}

impl<'a> Entry<'a> {
    /// An entry about a request, or about what is done for it.
    pub fn new(kind: Kind, request_id: &'a str, action: &'static str) -> Self {
        Self { request_id: Some(request_id), ..Self::blank(kind, action) }
    }

    /// Something that happens on the vault's own account.
    pub fn event(action: &'static str) -> Self {
        Self::blank(Kind::Event, action)
    }

    fn blank(kind: Kind, action: &'static str) -> Self {
        Self {
            kind,
            request_id: None,
            caller: None,
            action,
            tenant: None,
            client: None,
            subject: None,
            grant: None,
            scopes: None,
            resource: None,
            claims_sha256: None,
            granted_scopes: None,
            reason: None,
            generation: None,
            key_version: None,
            attempt: None,
            count: None,
            follows: None,
            note: None,
            brief: false,
        }
    }

    /// Makes the entry one short line, whatever its fields hold: of scopes it
    /// says how many there are and their hash, of any other long text its hash.
    /// For calls of which nothing was done, so that what a stranger sends costs
    /// little.
    pub fn brief(self) -> Self {
        Self { brief: true, ..self }
    }

    /// Who asked, and why it was refused: by these refusals are counted.
    pub(super) fn refusal(&self) -> Option<(Option<&'a CallerId>, Reason)> {
        self.reason.map(|reason| (self.caller, reason))
    }
}

macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident: $type:ty),+ $(,)?) => {
        impl<'a> Entry<'a> {
            $(
                $(#[$doc])*
                pub fn $name(mut self, $name: impl Into<Option<$type>>) -> Self {
                    self.$name = $name.into();
                    self
                }
            )+
        }
    };
}

setters!(
    /// Who asked.
    caller: &'a CallerId,
    /// In which tenant.
    tenant: &'a TenantId,
    /// With which OAuth client.
    client: &'a ClientId,
    /// Whose grant.
    subject: &'a SubjectId,
    /// Which grant.
    grant: GrantId,
    /// The scopes asked for, or granted.
    scopes: &'a ScopeSet,
    /// The resource asked for.
    resource: &'a Resource,
    /// What names the claims challenge; the claims themselves are never here.
    claims_sha256: ClaimsDigest,
    /// The scopes of the token, where they are not those asked for.
    granted_scopes: &'a ScopeSet,
    /// Why it was refused or failed; without it an outcome is a success.
    reason: Reason,
    /// Number of the grant's refresh token.
    generation: Generation,
    /// Version of the tenant's key.
    key_version: KeyVersion,
    /// Which attempt at the provider.
    attempt: AttemptId,
    /// How many.
    count: u64,
    /// The last entry of the file that this one goes on from.
    follows: Head,
    /// A word of explanation, one of the program's own.
    note: &'static str,
);

impl Entry<'_> {
    /// Writes the entry as the inside of a JSON object, without braces. There
    /// is no line end in it, whatever the fields hold.
    pub(super) fn write(&self, out: &mut Vec<u8>, stamp: &mut Stamp, now: Timestamp) {
        let Self {
            kind,
            request_id,
            caller,
            action,
            tenant,
            client,
            subject,
            grant,
            scopes,
            resource,
            claims_sha256,
            granted_scopes,
            reason,
            generation,
            key_version,
            attempt,
            count,
            follows,
            note,
            brief,
        } = *self;
        let text: Writes<&str> = if brief { brief_text } else { text };
        let list: Writes<&ScopeSet> = if brief { brief_list } else { list };
        out.extend_from_slice(b"\"at\":\"");
        stamp.write(out, now);
        out.extend_from_slice(match kind {
            Kind::Request => b"\",\"kind\":\"request\"".as_slice(),
            Kind::Outcome => b"\",\"kind\":\"outcome\"",
            Kind::Event => b"\",\"kind\":\"event\"",
        });
        text(out, "action", Some(action));
        text(out, "request_id", request_id.map(usable_request_id));
        text(out, "caller", caller.map(CallerId::as_str));
        text(out, "tenant", tenant.map(TenantId::as_str));
        text(out, "client", client.map(ClientId::as_str));
        text(out, "subject", subject.map(SubjectId::as_str));
        uuid(out, "grant", grant.map(|g| g.0));
        list(out, "scopes", scopes);
        text(out, "resource", resource.map(Resource::as_str));
        digest(out, "claims_sha256", claims_sha256);
        list(out, "granted_scopes", granted_scopes);
        let outcome = match (kind, reason) {
            (_, Some(reason)) => Some(reason.as_str()),
            (Kind::Outcome, None) => Some("OK"),
            (Kind::Request | Kind::Event, None) => None,
        };
        text(out, "outcome", outcome);
        number(out, "generation", generation.map(|g| g.0));
        number(out, "key_version", key_version.map(|v| u64::from(v.0)));
        uuid(out, "attempt", attempt.map(|a| a.0));
        number(out, "count", count);
        number(out, FOLLOWS_SEQ, follows.map(|head| head.seq));
        hash(out, FOLLOWS_HASH, follows.map(|head| head.hash));
        text(out, "note", note);
    }
}

/// What a new file's first entry says of the file before.
pub(super) const FOLLOWS_SEQ: &str = "follows_seq";
pub(super) const FOLLOWS_HASH: &str = "follows_hash";

/// The vault makes the request ids, and those always fit. This keeps a text from
/// elsewhere out, should one ever get here: it is not cut, which would keep a
/// part of it, but replaced.
fn usable_request_id(id: &str) -> &str {
    let fits = (1..=64).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if fits { id } else { "unusable" }
}

/// Writes times as RFC 3339 and keeps the text of the last second, since most
/// entries share it with the one before.
#[derive(Debug, Default)]
pub(super) struct Stamp {
    second: Option<i64>,
    text: String,
}

impl Stamp {
    fn write(&mut self, out: &mut Vec<u8>, now: Timestamp) {
        let second = now.unix_seconds();
        if self.second != Some(second) {
            self.text = Timestamp(second.saturating_mul(1000)).to_string();
            self.text.truncate(self.text.rfind('.').unwrap_or(self.text.len()));
            self.second = Some(second);
        }
        out.extend_from_slice(self.text.as_bytes());
        let _ = write!(out, ".{:03}Z", now.0.rem_euclid(1000));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::fields::escape;
    use crate::domain::scope::Claims;

    use proptest::prelude::*;
    use serde_json::{Value, json};
    use uuid::Uuid;

    fn parsed(entry: Entry<'_>, now: Timestamp) -> Value {
        let mut out = vec![b'{'];
        entry.write(&mut out, &mut Stamp::default(), now);
        out.push(b'}');
        assert!(!out.contains(&b'\n'));
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn an_entry_reads_back_as_it_was_meant() {
        let caller = CallerId::new("spiffe://acme/mail").unwrap();
        let tenant = TenantId::new("acme").unwrap();
        let client = ClientId::new("mail").unwrap();
        let subject = SubjectId::new("back\\slash\"quote").unwrap();
        let scopes = ScopeSet::new(["b", "a"]).unwrap();
        let resource = Resource::new("https://graph.example").unwrap();
        let granted = ScopeSet::new(["a", "c"]).unwrap();
        let entry = Entry::new(Kind::Outcome, "req-1", "GetAccessToken")
            .caller(&caller)
            .tenant(Some(&tenant))
            .client(&client)
            .subject(&subject)
            .grant(GrantId(Uuid::from_u128(1)))
            .scopes(&scopes)
            .resource(&resource)
            .claims_sha256(Claims::canonical("{ }").unwrap().sha256())
            .granted_scopes(&granted)
            .reason(Reason::GrantInDoubt)
            .generation(Generation(7))
            .key_version(KeyVersion(2))
            .attempt(AttemptId(Uuid::from_u128(2)))
            .count(3)
            .follows(Head::EMPTY)
            .note("owner_died");
        assert_eq!(
            parsed(entry, Timestamp(1_700_000_000_123)),
            json!({
                "at": "2023-11-14T22:13:20.123Z",
                "kind": "outcome",
                "action": "GetAccessToken",
                "request_id": "req-1",
                "caller": "spiffe://acme/mail",
                "tenant": "acme",
                "client": "mail",
                "subject": "back\\slash\"quote",
                "grant": "00000000-0000-0000-0000-000000000001",
                "scopes": ["a", "b"],
                "resource": "https://graph.example",
                "claims_sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
                "granted_scopes": ["a", "c"],
                "outcome": "GRANT_IN_DOUBT",
                "generation": 7,
                "key_version": 2,
                "attempt": "00000000-0000-0000-0000-000000000002",
                "count": 3,
                "follows_seq": 0,
                "follows_hash": "0".repeat(64),
                "note": "owner_died",
            })
        );
    }

    #[test]
    fn an_outcome_without_a_reason_is_a_success_and_a_request_has_no_outcome() {
        assert_eq!(parsed(Entry::new(Kind::Outcome, "r", "a"), Timestamp(0))["outcome"], "OK");
        assert_eq!(parsed(Entry::new(Kind::Request, "r", "a"), Timestamp(0)).get("outcome"), None);
    }

    /// Each field is named here with its type. One that could hold any text,
    /// added to `Entry`, breaks this test's build and so asks for a second look
    /// at invariant 1.
    #[test]
    fn no_field_can_hold_a_secret() {
        let Entry {
            kind,
            request_id,
            caller,
            action,
            tenant,
            client,
            subject,
            grant,
            scopes,
            resource,
            claims_sha256,
            granted_scopes,
            reason,
            generation,
            key_version,
            attempt,
            count,
            follows,
            note,
            brief,
        } = Entry::event("x");
        let _words: (Kind, &'static str, Option<&'static str>, Option<Reason>) = (kind, action, note, reason);
        let _numbers: (Option<Generation>, Option<KeyVersion>, Option<u64>) =
            (generation, key_version, count);
        let _made_here: (Option<GrantId>, Option<AttemptId>) = (grant, attempt);
        let _names: (Option<&CallerId>, Option<&TenantId>, Option<&ClientId>, Option<&SubjectId>) =
            (caller, tenant, client, subject);
        let _wishes: (Option<&ScopeSet>, Option<&Resource>, Option<&ScopeSet>) =
            (scopes, resource, granted_scopes);
        let _digests: (Option<ClaimsDigest>, Option<Head>) = (claims_sha256, follows);
        let _how_it_is_written: bool = brief;

        // The one text that is not checked when it is made is checked when it
        // is written.
        let _checked_when_written: Option<&str> = request_id;
        for secret in ["eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln+/=", &"a".repeat(65), "two words", ""] {
            assert_eq!(
                parsed(Entry::new(Kind::Request, secret, "x"), Timestamp(0))["request_id"],
                "unusable"
            );
        }
    }

    #[test]
    fn a_brief_entry_names_what_is_short_and_hashes_what_is_long() {
        let caller = CallerId::new("spiffe://acme/mail").unwrap();
        let subject = SubjectId::new(&"s".repeat(255)).unwrap();
        let scopes = ScopeSet::new(["b", "a"]).unwrap();
        let entry = Entry::new(Kind::Outcome, "r", "GetAccessToken").caller(&caller).subject(&subject);
        let entry = parsed(entry.scopes(&scopes).brief(), Timestamp(0));
        assert_eq!(entry["caller"], "spiffe://acme/mail");
        // Computed with sha256sum.
        let sha256 = "c8687a08aa5d6ed2044328fa6a697ab8e96dc34291e8c2034ae8c38e6fcc6d65";
        assert_eq!(entry["scopes"], json!({"count": 2, "sha256": sha256}));
        let subject = entry["subject"].as_str().unwrap();
        assert!(subject.starts_with("sha256:") && subject.len() == 7 + 64, "{subject}");
    }

    proptest! {
        #[test]
        fn a_brief_entry_is_short_whatever_is_asked_for(
            tenant in "[a-z]{1,128}", client in "[a-z]{1,128}", subject in "[a-z\"\\\\]{1,255}",
            scopes in prop::collection::vec("[a-z]{1,512}", 0..64), path in "[a-z]{0,2000}",
        ) {
            let caller = CallerId::new(&format!("spiffe://acme/{}", "c".repeat(200))).unwrap();
            let tenant = TenantId::new(&tenant).unwrap();
            let client = ClientId::new(&client).unwrap();
            let subject = SubjectId::new(&subject).unwrap();
            let scopes = ScopeSet::new(scopes).unwrap();
            let resource = Resource::new(&format!("https://a.example/{path}")).ok();
            let mut out = Vec::new();
            Entry::new(Kind::Outcome, &"r".repeat(64), "ExchangeOnBehalfOf")
                .caller(&caller).tenant(&tenant).client(&client).subject(&subject)
                .scopes(&scopes).resource(resource.as_ref())
                .claims_sha256(Claims::canonical("{ }").unwrap().sha256())
                .reason(Reason::NotPermitted)
                .brief()
                .write(&mut out, &mut Stamp::default(), Timestamp(0));
            prop_assert!(out.len() < 1200, "{} bytes", out.len());
        }

        #[test]
        fn any_text_survives_escaping(chars in prop::collection::vec(any::<char>(), 0..40)) {
            let value = String::from_iter(chars);
            let mut out = vec![b'"'];
            escape(&mut out, &value);
            out.push(b'"');
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), value);
        }

        #[test]
        fn times_are_those_of_the_clock_type(millis in prop::collection::vec(-62_000_000_000_000i64..253_000_000_000_000, 1..5)) {
            let mut stamp = Stamp::default();
            for now in millis.into_iter().flat_map(|m| [Timestamp(m), Timestamp(m + 1)]) {
                let mut out = Vec::new();
                stamp.write(&mut out, now);
                prop_assert_eq!(String::from_utf8(out).unwrap(), now.to_string());
            }
        }
    }
}
