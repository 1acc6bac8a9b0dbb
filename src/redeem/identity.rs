//! Whose an imported token is, as far as the provider's answer proves it.

use std::time::Duration;

use crate::domain::failure::Failure;
use crate::domain::grant::GrantKey;
use crate::domain::reason::Reason;
use crate::idp::{Client, IdentityError, TokenAnswer};

/// How often the provider's keys are asked for before the answer is held.
const TRIES: u32 = 3;

/// Longer than the provider's keys are remembered as missing.
const BETWEEN_TRIES: Duration = Duration::from_millis(1200);

/// What an answer proves about its user.
pub(super) enum Identity {
    /// The token is the expected user's.
    Proven,
    /// It is proven to be somebody else's.
    SomebodyElses(Failure),
    /// It is not understood, perhaps by a fault of the vault's own configuration:
    /// no evidence in either direction.
    NotUnderstood(Failure),
}

/// Says whose the tokens of an answer are.
pub(super) async fn identify(client: &Client, expected: &GrantKey, answer: &TokenAnswer) -> Identity {
    let mut tries = 0;
    loop {
        match client.identify(answer, &expected.tenant).await {
            Ok(user) if user.tenant == expected.tenant && user.subject == expected.subject => {
                return Identity::Proven;
            }
            // Which claim names the user is a setting. Where the expected name
            // stands in another claim of the proof, the setting may be wrong.
            Ok(user) if user.names(&expected.subject) => {
                return Identity::NotUnderstood(Failure::new(
                    Reason::IdentityUnproven,
                    "the subject stands in another claim than subject_claims says",
                ));
            }
            Ok(_) => {
                return Identity::SomebodyElses(Failure::new(
                    Reason::IdentityMismatch,
                    "the token belongs to another user",
                ));
            }
            Err(IdentityError::Unproven(detail)) => {
                return Identity::NotUnderstood(Failure::new(Reason::IdentityUnproven, detail));
            }
            Err(IdentityError::KeysUnavailable(fault)) => {
                tries += 1;
                if tries >= TRIES {
                    let failure = Failure::new(fault.reason(), fault.to_string());
                    return Identity::NotUnderstood(failure.retry_after(BETWEEN_TRIES * 4));
                }
                tokio::time::sleep(BETWEEN_TRIES).await;
            }
        }
    }
}
