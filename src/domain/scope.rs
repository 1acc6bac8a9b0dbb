//! Scopes and resources: what an access token is asked for, with the claims of
//! [`claims`](super::claims).

use std::collections::BTreeSet;
use std::fmt;

use super::id::InvalidName;

pub use super::claims::{Claims, ClaimsDigest};

/// A set of scope tokens (RFC 6749 section 3.3), sorted, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ScopeSet(BTreeSet<Box<str>>);

impl ScopeSet {
    /// Most scopes that a request may ask for. What a provider grants is
    /// bounded by the size of its answer alone.
    pub const MOST_ASKED: usize = 64;

    /// Checks and collects the scopes of a request.
    ///
    /// # Errors
    ///
    /// A token that is empty, longer than 512 bytes or has characters outside
    /// RFC 6749 section 3.3; or more than [`Self::MOST_ASKED`] tokens.
    pub fn new<S: AsRef<str>>(tokens: impl IntoIterator<Item = S>) -> Result<Self, InvalidName> {
        let set = Self::stored(tokens)?;
        if set.0.len() > Self::MOST_ASKED {
            return Err(InvalidName { kind: "scopes", rule: "must be at most 64" });
        }
        Ok(set)
    }

    /// Checks and collects scopes that were granted once, however many.
    ///
    /// # Errors
    ///
    /// A token that breaks the rule of [`Self::new`].
    pub fn stored<S: AsRef<str>>(tokens: impl IntoIterator<Item = S>) -> Result<Self, InvalidName> {
        let mut set = BTreeSet::new();
        for token in tokens {
            let token = token.as_ref();
            if !is_scope_token(token) {
                return Err(InvalidName {
                    kind: "scope",
                    rule: "must be 1 to 512 characters of RFC 6749 section 3.3",
                });
            }
            set.insert(token.into());
        }
        Ok(Self(set))
    }

    /// Reads a space-separated list as providers send it and keeps all that is
    /// in it. Tokens that break the rule are left out, since the answer they
    /// came in must not be lost, and counted for the log.
    #[must_use]
    pub fn parse_lenient(list: &str) -> (Self, usize) {
        let (good, odd): (BTreeSet<&str>, BTreeSet<&str>) =
            list.split_ascii_whitespace().partition(|token| is_scope_token(token));
        (Self(good.into_iter().map(Into::into).collect()), odd.len())
    }

    /// The tokens in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(AsRef::as_ref)
    }

    /// Whether there is no scope in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether every scope of `other` is in this set.
    #[must_use]
    pub fn contains_all(&self, other: &Self) -> bool {
        other.0.is_subset(&self.0)
    }

    /// Whether every right in `granted` is in this set. The scopes that ask for
    /// a kind of answer (OpenID and offline access) are no rights.
    #[must_use]
    pub fn covers(&self, granted: &Self) -> bool {
        granted.rights().all(|right| self.0.contains(right))
    }

    /// This set without the scopes that ask for a kind of answer (OpenID and
    /// offline access) and not for a right at a resource.
    #[must_use]
    pub fn without_protocol_scopes(&self) -> Self {
        Self(self.rights().map(Into::into).collect())
    }

    fn rights(&self) -> impl Iterator<Item = &str> {
        self.iter().filter(|s| !matches!(*s, "openid" | "profile" | "email" | "offline_access"))
    }

    /// The space-separated form of RFC 6749.
    #[must_use]
    pub fn to_wire(&self) -> String {
        self.0.iter().map(AsRef::as_ref).collect::<Vec<&str>>().join(" ")
    }
}

/// Whether it is a scope token of RFC 6749 section 3.3, of bearable length.
fn is_scope_token(token: &str) -> bool {
    (1..=512).contains(&token.len()) && token.bytes().all(|b| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}

impl fmt::Display for ScopeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_wire())
    }
}

/// A resource indicator (RFC 8707): an absolute URI without a fragment.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Resource(Box<str>);

impl Resource {
    /// Checks the URI's shape.
    ///
    /// # Errors
    ///
    /// Not an absolute URI, with a fragment, or longer than 1024 bytes.
    pub fn new(uri: &str) -> Result<Self, InvalidName> {
        let scheme_end = uri.find(':').unwrap_or(0);
        let fits = uri.len() <= 1024
            && scheme_end > 0
            && scheme_end + 1 < uri.len()
            && uri[..scheme_end]
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
            && uri.bytes().all(|b| (0x21..=0x7e).contains(&b) && b != b'#' && b != b'"' && b != b'\\');
        if fits {
            Ok(Self(uri.into()))
        } else {
            Err(InvalidName {
                kind: "resource",
                rule: "must be an absolute URI without fragment, at most 1024 bytes (RFC 8707)",
            })
        }
    }

    /// The URI.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What an access token is for. Two requests may share an answer only when
/// this is equal in every part.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Target {
    /// The scopes asked for; empty means those of the grant.
    pub scopes: ScopeSet,
    /// The resource asked for.
    pub resource: Option<Resource>,
    /// The claims challenge to answer.
    pub claims: Option<Claims>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_repetition_of_scopes_do_not_matter() {
        let a = ScopeSet::new(["b", "a", "b"]).unwrap();
        let b = ScopeSet::new(["a", "b"]).unwrap();
        assert_eq!(a, b);
        assert_eq!(a.to_wire(), "a b");
    }

    #[test]
    fn a_scope_cannot_carry_a_second_one() {
        assert!(ScopeSet::new(["a b"]).is_err());
        assert!(ScopeSet::new(["a\"b"]).is_err());
        assert!(ScopeSet::new([""]).is_err());
    }

    #[test]
    fn protocol_scopes_are_no_rights() {
        let set = |list: &str| ScopeSet::parse_lenient(list).0;
        assert!(set("a").covers(&set("a openid profile email offline_access")));
        assert!(set("a b").covers(&set("a")));
        assert!(!set("a openid").covers(&set("a b")));
        assert!(set("").covers(&set("openid")));
        assert!(!set("").covers(&set("a")));
        assert!(!set("a").covers(&set("A")));
        assert_eq!(set("openid b a email").without_protocol_scopes(), set("a b"));
    }

    #[test]
    fn a_request_is_limited_and_a_grant_is_not() {
        let many: Vec<String> = (0..100).map(|n| format!("scope-{n}")).collect();
        assert!(ScopeSet::new(&many[..64]).is_ok());
        assert!(ScopeSet::new(&many[..65]).is_err());
        let (granted, odd) = ScopeSet::parse_lenient(&many.join(" "));
        assert_eq!((granted.iter().count(), odd), (100, 0));
        // What was written of a grant is read back whole.
        assert_eq!(ScopeSet::stored(granted.to_wire().split(' ')).unwrap(), granted);
    }

    #[test]
    fn odd_scopes_of_an_answer_are_counted_and_cost_nothing_else() {
        let long = "x".repeat(513);
        let (granted, odd) = ScopeSet::parse_lenient(&format!("a \"b\" c\\d b é {long}  a"));
        assert_eq!((granted.to_wire().as_str(), odd), ("a b", 4));
    }

    #[test]
    fn a_resource_is_an_absolute_uri() {
        assert!(Resource::new("https://graph.example").is_ok());
        assert!(Resource::new("api://vault").is_ok());
        for bad in ["", "graph", "https:", ":x", "https://a#b", "https://a b"] {
            assert!(Resource::new(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
