//! How the token endpoint says no.

use serde_json::{Map, Value};

/// What the provider hands back to a user who has to show a second factor.
const SECOND_FACTOR_CLAIMS: &str =
    r#"{"access_token":{"acrs":{"essential":true,"values":["second-factor"]}}}"#;

/// An OAuth error (RFC 6749 section 5.2, with the additions of Entra).
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) error: &'static str,
    pub(super) description: &'static str,
    pub(super) suberror: Option<&'static str>,
    pub(super) claims: Option<&'static str>,
}

impl Refusal {
    pub(super) fn new(status: u16, error: &'static str, description: &'static str) -> Self {
        Self { status, error, description, suberror: None, claims: None }
    }

    pub(super) fn second_factor() -> Self {
        Self {
            suberror: Some("basic_action"),
            claims: Some(SECOND_FACTOR_CLAIMS),
            ..Self::new(400, "interaction_required", "the user must show a second factor")
        }
    }

    pub(super) fn to_json(&self) -> Map<String, Value> {
        let mut body = Map::new();
        body.insert("error".to_owned(), self.error.into());
        body.insert("error_description".to_owned(), self.description.into());
        if let Some(suberror) = self.suberror {
            body.insert("suberror".to_owned(), suberror.into());
        }
        if let Some(claims) = self.claims {
            body.insert("claims".to_owned(), claims.into());
        }
        body
    }
}
