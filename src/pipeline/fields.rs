//! The checks of single fields, for every transport. Each names the broken rule
//! in constant words, which the caller is told.

use std::time::Duration;

use crate::domain::failure::Failure;
use crate::domain::id::{ClientId, InvalidName, SubjectId, TenantId};
use crate::domain::reason::Reason;
use crate::domain::scope::{Claims, Resource, ScopeSet, Target};
use crate::secret::{RefreshToken, UnverifiedAssertion};
use crate::token::MAX_MIN_LIFE;

/// Most items of a page, and how many when none are named.
const LARGEST_PAGE: u32 = 1000;
const DEFAULT_PAGE: u32 = 100;

/// Largest user token taken, in bytes.
const LARGEST_ASSERTION: usize = 32 * 1024;
/// Largest refresh token taken, in bytes.
const LARGEST_IMPORT: usize = 16 * 1024;

/// A tenant.
///
/// # Errors
///
/// The rule it breaks.
pub fn tenant_id(name: &str) -> Result<TenantId, Failure> {
    TenantId::new(name).map_err(|e| invalid(&e))
}

/// An OAuth client. Whether it is configured is not asked here: that is told
/// only to whom the policy permits to ask.
///
/// # Errors
///
/// The rule it breaks.
pub fn client_id(name: &str) -> Result<ClientId, Failure> {
    ClientId::new(name).map_err(|e| invalid(&e))
}

/// A user.
///
/// # Errors
///
/// The rule it breaks.
pub fn subject_id(name: &str) -> Result<SubjectId, Failure> {
    SubjectId::new(name).map_err(|e| invalid(&e))
}

/// What a token is for. An empty resource or challenge is none; a challenge is
/// put into its canonical form.
///
/// # Errors
///
/// The first rule that is broken.
pub fn target(scopes: &[String], resource: &str, claims_challenge: &str) -> Result<Target, Failure> {
    let scopes = ScopeSet::new(scopes).map_err(|e| invalid(&e))?;
    let resource = match resource {
        "" => None,
        uri => Some(Resource::new(uri).map_err(|e| invalid(&e))?),
    };
    let claims = match claims_challenge {
        "" => None,
        json => Some(Claims::canonical(json).map_err(|e| invalid(&e))?),
    };
    Ok(Target { scopes, resource, claims })
}

/// The Least remaining lifetime of a token; `None` is no duration at all.
///
/// # Errors
///
/// More than [`MAX_MIN_LIFE`], or none.
pub fn min_life(span: Option<Duration>) -> Result<Duration, Failure> {
    let span = span.filter(|span| *span <= MAX_MIN_LIFE);
    span.ok_or_else(|| invalid_request("min_remaining_life must be 0 to 10 minutes"))
}

/// The size of a page; 0 is the usual one.
///
/// # Errors
///
/// More than 1000.
pub fn page_size(size: u32) -> Result<u32, Failure> {
    match size {
        0 => Ok(DEFAULT_PAGE),
        1..=LARGEST_PAGE => Ok(size),
        _ => Err(invalid_request("page_size must be at most 1000")),
    }
}

/// A user's token, not yet verified.
///
/// # Errors
///
/// It is empty or too large.
pub fn assertion(token: String) -> Result<UnverifiedAssertion, Failure> {
    let assertion = UnverifiedAssertion::new(token);
    if (1..=LARGEST_ASSERTION).contains(&assertion.expose().len()) {
        Ok(assertion)
    } else {
        Err(invalid_request("user_access_token must be 1 byte to 32 KiB"))
    }
}

/// A refresh token from elsewhere. White space around it is a matter of copying
/// and taken off; inside there is none.
///
/// # Errors
///
/// It is empty, too large, or has white space or control characters inside.
pub fn imported_token(token: String) -> Result<RefreshToken, Failure> {
    let pasted = RefreshToken::new(token);
    let token = pasted.expose().trim();
    let fits = (1..=LARGEST_IMPORT).contains(&token.len())
        && !token.chars().any(|c| c.is_whitespace() || c.is_control());
    if fits {
        Ok(RefreshToken::new(token.to_owned()))
    } else {
        Err(invalid_request("imported_token must be 1 byte to 16 KiB without white space inside"))
    }
}

/// A field that breaks a rule; `what` is constant text and goes to the caller.
#[must_use]
pub fn invalid_request(what: &str) -> Failure {
    Failure::new(Reason::InvalidRequest, what)
}

/// A name that breaks its rule.
pub(crate) fn invalid(error: &InvalidName) -> Failure {
    invalid_request(&error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_challenge_is_the_same_target() {
        let target = |claims: &str| target(&["a".to_owned()], "", claims).unwrap();
        assert_eq!(
            target(r#"{"b":{"y":1,"x":[1, 2]},"a":"\u0062"}"#),
            target(" { \"a\":\"b\",\n\"b\":{\"x\":[1,2],\"y\":1} }")
        );
        assert_ne!(target(r#"{"b":[1,2]}"#), target(r#"{"b":[2,1]}"#));
        assert_eq!(target("").claims, None);
    }

    #[test]
    fn a_pasted_token_is_freed_of_what_copying_adds() {
        assert_eq!(imported_token(" token\n".to_owned()).unwrap().expose(), "token");
        for bad in ["", " \n", "to ken", "to\u{0}ken", &"x".repeat(LARGEST_IMPORT + 1)] {
            assert!(imported_token(bad.to_owned()).is_err());
        }
    }
}
