//! From the parsed answer of an enrolment to the durable grant.

use std::sync::Arc;

use crate::domain::failure::Failure;
use crate::domain::reason::Reason;
use crate::idp::{Client, TokenAnswer};
use crate::seal::Label;
use crate::secret::RefreshToken;
use crate::store::{Enrolment, EnrolmentCommit, EnrolmentKind, EnrolmentRefused, Renewed};

use super::enrolment::{Enrolled, Enrolments, enrolment_place};
use super::failures::gone_failure;
use super::identity::{Identity, identify};
use super::sealer::{TenantGone, pause};

impl Enrolments {
    /// From the parsed answer to the durable grant; also what recovery and a
    /// resumed import do with an answer they find.
    pub(super) async fn keep(
        &self,
        client: &Arc<Client>,
        enrolment: &Enrolment,
        answer: TokenAnswer,
    ) -> Result<Enrolled, Failure> {
        if answer.refresh_token.is_none() {
            self.abandon(enrolment).await;
            return Err(Failure::new(Reason::NoRefreshToken, "the provider issued no refresh token"));
        }
        if matches!(enrolment.kind, EnrolmentKind::Import(_)) {
            match identify(client, &enrolment.key, &answer).await {
                Identity::Proven => {}
                Identity::SomebodyElses(failure) => {
                    self.orphan(client, enrolment, &answer).await;
                    self.abandon(enrolment).await;
                    return Err(failure);
                }
                Identity::NotUnderstood(failure) => {
                    self.hold(enrolment, &answer).await;
                    return Err(failure);
                }
            }
        }
        self.commit(client, enrolment, answer).await
    }

    async fn commit(
        &self,
        client: &Arc<Client>,
        enrolment: &Enrolment,
        answer: TokenAnswer,
    ) -> Result<Enrolled, Failure> {
        let now = self.parts.clock.now();
        let profile = client.profile();
        let scopes = answer.scopes.clone().unwrap_or_else(|| enrolment.scopes.clone());
        let mut enrolment = enrolment.clone();
        loop {
            let token = answer.refresh_token.as_ref().map_or("", RefreshToken::expose);
            let place = enrolment_place(Label::RefreshToken, &enrolment);
            let (key_version, sealed) = match self.sealer.seal(&place, token.as_bytes()).await {
                Ok(sealed) => sealed,
                Err(TenantGone) => return self.orphaned(client, &enrolment, &answer).await,
            };
            let commit = EnrolmentCommit {
                renewed: Renewed { generation: enrolment.generation, key_version, sealed },
                enrolment: enrolment.clone(),
                scopes: scopes.clone(),
                at: now,
                absolute_expires_at: profile.absolute_lifetime.map(|lifetime| now.plus(lifetime)),
                dates: self.parts.dates(profile, true, None, now),
            };
            match self.parts.store.commit_enrolment(commit).await {
                Ok(Ok((grant, replaced))) => return Ok(Enrolled { grant, replaced, answer, scopes }),
                Ok(Err(EnrolmentRefused::KeyVersionMoved)) => {}
                Ok(Err(EnrolmentRefused::PlaceMoved { grant, generation })) => {
                    (enrolment.grant, enrolment.generation) = (grant, generation);
                }
                Ok(Err(EnrolmentRefused::TenantGone | EnrolmentRefused::Orphaned)) => {
                    return self.orphaned(client, &enrolment, &answer).await;
                }
                Err(error) => {
                    tracing::error!(grant.id = %enrolment.grant, %error, "cannot commit a new grant, will try again");
                    pause().await;
                }
            }
        }
    }

    async fn orphaned<T>(
        &self,
        client: &Client,
        enrolment: &Enrolment,
        answer: &TokenAnswer,
    ) -> Result<T, Failure> {
        self.orphan(client, enrolment, answer).await;
        self.abandon(enrolment).await;
        Err(gone_failure(&*self.parts.store, &enrolment.key.tenant).await)
    }

    async fn orphan(&self, client: &Client, enrolment: &Enrolment, answer: &TokenAnswer) {
        self.revocations.orphan(client, &enrolment.key.tenant, &enrolment.issuer, answer).await;
    }
}
