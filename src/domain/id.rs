//! Names with their rules. A value of one of these types has been checked;
//! there is no other way to make one.

use std::fmt;
use std::sync::Arc;

use icu_properties::props::{DefaultIgnorableCodePoint, GeneralCategory};
use icu_properties::{CodePointMapData, CodePointSetData};

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
    ($(#[$doc:meta])* $type:ident, $kind:literal, $check:path, $check_stored:path) => {
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

            /// A name that a store has kept since before the rule was what it
            /// is now; what is kept must stay readable.
            ///
            /// # Errors
            ///
            /// The rule that even a name of then breaks.
            pub fn stored(name: &str) -> Result<Self, InvalidName> {
                match $check_stored(name) {
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
    check_token,
    check_token
);
name!(
    /// An OAuth client as the configuration names it.
    ClientId,
    "client",
    check_token,
    check_token
);
name!(
    /// A user within a tenant, as the configured claim rule derives it.
    SubjectId,
    "subject",
    check_printable,
    check_spaceless
);
name!(
    /// A caller of the API: the one URI or DNS name in its certificate.
    CallerId,
    "caller",
    check_printable,
    check_spaceless
);
name!(
    /// The issuer of a grant (OpenID Connect Discovery section 3).
    Issuer,
    "issuer",
    check_printable,
    check_spaceless
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

/// A name is compared byte by byte and read by people, so two names that look
/// alike must not differ by something that cannot be seen. It is refused, never
/// folded: a provider's `sub` is case-sensitive (OpenID Connect Core section 2),
/// and a name that was changed is another user's.
fn check_printable(name: &str) -> Result<(), &'static str> {
    const RULE: &str = "must be 1 to 255 bytes without white space and without characters that are invisible, \
                        change the direction of text, or have no meaning";
    check_spaceless(name)?;
    if name.chars().all(is_visible) { Ok(()) } else { Err(RULE) }
}

/// The rule of the first version.
fn check_spaceless(name: &str) -> Result<(), &'static str> {
    const RULE: &str = "must be 1 to 255 bytes without white space or control characters";
    let fits = (1..=255).contains(&name.len()) && !name.chars().any(|c| c.is_whitespace() || c.is_control());
    if fits { Ok(()) } else { Err(RULE) }
}

fn is_visible(c: char) -> bool {
    const BLANK_BRAILLE: char = '\u{2800}';
    if c.is_ascii() {
        return c.is_ascii_graphic();
    }
    let without_shape = matches!(
        CodePointMapData::<GeneralCategory>::new().get(c),
        GeneralCategory::Control
            | GeneralCategory::Format
            | GeneralCategory::LineSeparator
            | GeneralCategory::ParagraphSeparator
            | GeneralCategory::PrivateUse
            | GeneralCategory::SpaceSeparator
            | GeneralCategory::Surrogate
            | GeneralCategory::Unassigned
    );
    !without_shape && !CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c) && c != BLANK_BRAILLE
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

    #[test]
    fn two_names_that_look_alike_do_not_differ_by_what_cannot_be_seen() {
        let invisible = ['\u{200b}'..='\u{200f}', '\u{202a}'..='\u{202e}', '\u{2060}'..='\u{206f}']
            .into_iter()
            .chain(['\u{fe00}'..='\u{fe0f}', '\u{e0000}'..='\u{e01ef}', '\u{e000}'..='\u{e010}'])
            .chain(['\u{fdd0}'..='\u{fdef}', '\u{80}'..='\u{a0}', '\u{fff0}'..='\u{fffb}'])
            .flatten();
        let others = [
            '\u{ad}',
            '\u{34f}',
            '\u{378}',
            '\u{61c}',
            '\u{115f}',
            '\u{17b4}',
            '\u{180e}',
            '\u{2800}',
            '\u{3164}',
            '\u{feff}',
            '\u{ffa0}',
            '\u{1d173}',
            '\u{10fffd}',
            '\u{10ffff}',
            '\0',
            '\u{7f}',
            '\t',
            '\u{2028}',
        ];
        for c in invisible.chain(others) {
            let name = format!("user{c}-1");
            assert!(SubjectId::new(&name).is_err(), "{name:?} was accepted");
            assert!(CallerId::new(&name).is_err(), "{name:?} was accepted");
            assert!(Issuer::new(&name).is_err(), "{name:?} was accepted");
            assert!(TenantId::new(&name).is_err() && ClientId::new(&name).is_err(), "{name:?} was accepted");
        }
    }

    #[test]
    fn no_name_is_folded() {
        for (one, other) in [("Ada", "ada"), ("\u{e9}", "e\u{301}"), ("\u{212b}", "\u{c5}"), ("a", "\u{430}")]
        {
            let (one, other) = (SubjectId::new(one).unwrap(), SubjectId::new(other).unwrap());
            assert_ne!(one, other);
        }
        for good in ["Zoë", "日本語", "ユーザー", "अमित", "user#$%&'*+/=?^`{|}~!", "🦀", "عمر"]
        {
            assert_eq!(SubjectId::new(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn what_was_stored_stays_readable() {
        for name in ["user\u{200b}-1", "user\u{202e}-1", "\u{e000}"] {
            assert!(SubjectId::new(name).is_err());
            assert_eq!(SubjectId::stored(name).unwrap().as_str(), name);
            assert!(Issuer::stored(name).is_ok());
        }
        assert!(SubjectId::stored("a b").is_err() && TenantId::stored("a/b").is_err());
    }
}
