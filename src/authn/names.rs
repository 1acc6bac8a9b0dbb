//! Which callers a certificate authority may name.
//!
//! An authority that may name anybody is trusted with everybody's rights. Where
//! there is more than one, each is bound to a SPIFFE trust domain, to a part of
//! one, or to single names.

use std::collections::BTreeSet;
use std::fmt;

use crate::domain::id::CallerId;

use super::is_trust_domain;

/// The callers that an authority may name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Names {
    /// Everybody; for a vault that trusts one authority alone.
    Any,
    /// These.
    Bound {
        /// SPIFFE trust domains, or parts of them.
        domains: Vec<TrustDomain>,
        /// Single callers, as policies name them.
        callers: BTreeSet<CallerId>,
    },
}

impl Names {
    /// Whether the caller is one of them.
    #[must_use]
    pub fn include(&self, caller: &CallerId) -> bool {
        match self {
            Self::Any => true,
            Self::Bound { domains, callers } => {
                callers.contains(caller) || domains.iter().any(|domain| domain.contains(caller.as_str()))
            }
        }
    }
}

/// A SPIFFE trust domain, or the part of it below a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustDomain {
    name: String,
    /// Empty, or `/` and whole segments.
    path: String,
}

/// Text that is no trust domain, or no path in one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidTrustDomain(&'static str);

impl fmt::Display for InvalidTrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for InvalidTrustDomain {}

impl TrustDomain {
    /// The trust domain of that name, without a scheme.
    ///
    /// # Errors
    ///
    /// The name is none.
    pub fn new(name: &str) -> Result<Self, InvalidTrustDomain> {
        if is_trust_domain(name) {
            Ok(Self { name: name.to_owned(), path: String::new() })
        } else {
            Err(InvalidTrustDomain(
                "must be the name of a SPIFFE trust domain: lower-case letters, digits, '.', '-' and '_', \
                 for example example.org",
            ))
        }
    }

    /// The part of it whose paths begin with these whole segments.
    ///
    /// # Errors
    ///
    /// The path is none.
    pub fn below(self, path: &str) -> Result<Self, InvalidTrustDomain> {
        let path = path.strip_suffix('/').unwrap_or(path);
        if path.starts_with('/') && super::is_spiffe_id(&format!("spiffe://{}{path}", self.name)) {
            Ok(Self { path: path.to_owned(), ..self })
        } else {
            Err(InvalidTrustDomain("must begin with '/' and have whole segments, for example /ns/partner"))
        }
    }

    /// Whether the identity, in canonical form, is in it.
    fn contains(&self, identity: &str) -> bool {
        identity
            .strip_prefix("spiffe://")
            .and_then(|rest| rest.strip_prefix(self.name.as_str()))
            .and_then(|path| path.strip_prefix(self.path.as_str()))
            .is_some_and(|rest| rest.starts_with('/') || (rest.is_empty() && !self.path.is_empty()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    fn caller(name: &str) -> CallerId {
        CallerId::new(name).unwrap()
    }

    fn within(domain: TrustDomain) -> Names {
        Names::Bound { domains: vec![domain], callers: BTreeSet::new() }
    }

    #[test]
    fn a_trust_domain_names_its_own_workloads_alone() {
        let names = within(TrustDomain::new("example.org").unwrap());
        for inside in ["spiffe://example.org/operator", "spiffe://example.org/ns/mail/sa/web"] {
            assert!(names.include(&caller(inside)), "{inside}");
        }
        for outside in [
            "spiffe://example.org.evil/operator",
            "spiffe://example.orgs/operator",
            "spiffe://partner.example.org/operator",
            "spiffe://partner/example.org/operator",
            "https://example.org/operator",
            "dns:example.org",
            "urn:spiffe://example.org/operator",
        ] {
            assert!(!names.include(&caller(outside)), "{outside}");
        }
    }

    #[test]
    fn a_path_is_whole_segments() {
        let names = within(TrustDomain::new("example.org").unwrap().below("/ns/partner/").unwrap());
        for inside in ["spiffe://example.org/ns/partner", "spiffe://example.org/ns/partner/a"] {
            assert!(names.include(&caller(inside)), "{inside}");
        }
        for outside in [
            "spiffe://example.org/ns/partners",
            "spiffe://example.org/ns",
            "spiffe://example.org/x/ns/partner",
        ] {
            assert!(!names.include(&caller(outside)), "{outside}");
        }
    }

    #[test]
    fn what_is_no_trust_domain_is_refused() {
        for bad in ["", "Example.org", "spiffe://example.org", "example.org/", "a b", "*.example.org", "a:1"]
        {
            assert!(TrustDomain::new(bad).is_err(), "{bad:?}");
        }
        for bad in ["", "/", "ns", "/ns//a", "/ns/../a", "/ns/*", "/a?b"] {
            assert!(TrustDomain::new("example.org").unwrap().below(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_listed_name_is_exact() {
        let callers = BTreeSet::from([caller("dns:db.example"), caller("spiffe://a/b")]);
        let names = Names::Bound { domains: Vec::new(), callers };
        assert!(names.include(&caller("dns:db.example")) && names.include(&caller("spiffe://a/b")));
        assert!(!names.include(&caller("dns:DB.example")) && !names.include(&caller("spiffe://a/b/c")));
    }

    proptest! {
        /// Whatever follows: an identity is inside only when its trust domain is
        /// the very one and its path begins with the very segments.
        #[test]
        fn nothing_outside_passes_for_inside(
            domain in "[a-c.]{1,3}", path in "(/[a-b]{1,2}){0,3}",
            other in "[a-c.]{1,4}", rest in "(/[a-b]{1,2}){1,4}",
        ) {
            let bound = TrustDomain::new(&domain).unwrap();
            let bound = if path.is_empty() { bound } else { bound.below(&path).unwrap() };
            let inside = other == domain
                && rest.split('/').collect::<Vec<_>>().starts_with(&path.split('/').collect::<Vec<_>>());
            prop_assert_eq!(bound.contains(&format!("spiffe://{other}{rest}")), inside);
        }
    }
}
