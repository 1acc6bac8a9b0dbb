//! Names with their rules. A value of one of these types has been checked;
//! there is no other way to make one.

use std::fmt;
use std::sync::Arc;

/// A name that breaks its rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidName {
    /// What kind of name it was to be, for example "tenant".
    pub kind: &'static str,
    /// The rule it breaks.
    pub rule: &'static str,
}

impl fmt::Display for InvalidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.rule)
    }
}

impl std::error::Error for InvalidName {}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $kind:literal, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(Arc<str>);

        impl $type {
            /// Checks the name against its rule.
            ///
            /// # Errors
            ///
            /// The rule that the name breaks.
            pub fn new(name: &str) -> Result<Self, InvalidName> {
                match $check(name) {
                    Ok(()) => Ok(Self(name.into())),
                    Err(rule) => Err(InvalidName { kind: $kind, rule }),
                }
            }

            /// The name.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({:?})", stringify!($type), &*self.0)
            }
        }
    };
}

name!(
    /// A tenant: a customer whose users' tokens are kept under keys of its own.
    TenantId,
    "tenant",
    check_token
);
name!(
    /// An OAuth client as the configuration names it.
    ClientId,
    "client",
    check_token
);
name!(
    /// A user within a tenant, as the configured claim rule derives it.
    SubjectId,
    "subject",
    check_printable
);
name!(
    /// A caller of the API: the one URI or DNS name in its certificate.
    CallerId,
    "caller",
    check_printable
);
name!(
    /// The issuer of a grant (OpenID Connect Discovery section 3).
    Issuer,
    "issuer",
    check_printable
);

/// A tenant's or client's name goes into URLs and file names: letters that can
/// do no harm there, and no leading dot.
fn check_token(name: &str) -> Result<(), &'static str> {
    const RULE: &str = "must be 1 to 128 characters of [A-Za-z0-9._-], no leading dot";
    let fits = (1..=128).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if fits { Ok(()) } else { Err(RULE) }
}

fn check_printable(name: &str) -> Result<(), &'static str> {
    const RULE: &str = "must be 1 to 255 bytes without white space or control characters";
    let fits = (1..=255).contains(&name.len()) && !name.chars().any(|c| c.is_whitespace() || c.is_control());
    if fits { Ok(()) } else { Err(RULE) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_name_cannot_leave_its_place_in_a_url_or_path() {
        for bad in ["", ".", "..", ".x", "a/b", "a b", "a\n", "é", "a%2f", &"x".repeat(129)] {
            assert!(TenantId::new(bad).is_err(), "{bad:?} was accepted");
        }
        assert!(TenantId::new("72f988bf-86f1-41af-91ab-2d7cd011db47").is_ok());
    }

    #[test]
    fn a_subject_may_be_what_providers_use() {
        for good in ["auth0|5f7c", "user@example.com", "248289761001", "é"] {
            assert!(SubjectId::new(good).is_ok(), "{good:?} was refused");
        }
        for bad in ["", "a b", "a\0", "a\u{2028}b"] {
            assert!(SubjectId::new(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
