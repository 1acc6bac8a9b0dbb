//! Imports that were finished before. A caller that lost the answer asks again
//! with the same token, which the first import has used up: sent once more, it
//! would look like a theft, and cost the consent.

use crate::domain::failure::Failure;
use crate::domain::grant::{Grant, GrantKey, GrantState};
use crate::domain::profile::Reuse;
use crate::domain::reason::Reason;
use crate::idp::Client;
use crate::store::ImportMark;

use super::attempt::check_issuer;
use super::enrolment::Enrolments;

impl Enrolments {
    /// The grant that the same import has led to, as it is now. `None`: there is
    /// none, or none that the token could harm.
    pub(super) async fn finished(
        &self,
        client: &Client,
        key: &GrantKey,
        mark: ImportMark,
    ) -> Result<Option<Grant>, Failure> {
        let found = self.parts.store.imported_grant(&key.tenant, &key.client, mark).await?;
        let Some(grant) = found else { return Ok(None) };
        if grant.key != *key {
            return Err(Failure::new(Reason::IdentityMismatch, "the token was imported for another user"));
        }
        check_issuer(client, &grant)?;
        if !may_be_harmed(&grant, client.profile().reuse) {
            return Ok(None);
        }
        Ok(Some(grant))
    }
}

/// Whether the family that the token began may still be of use.
fn may_be_harmed(grant: &Grant, reuse: Reuse) -> bool {
    match grant.state {
        GrantState::Active | GrantState::Sending(_) | GrantState::InDoubt { .. } => true,
        // An old token may be tried again where the provider minds nothing.
        GrantState::Reauth { .. } => reuse != Reuse::Tolerated,
        GrantState::Revoked | GrantState::Lost { .. } => false,
    }
}
