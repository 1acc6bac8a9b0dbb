//! Imports that have redeemed their token and are not finished: held, since the
//! identity in the answer is not understood yet, or open, since nobody knows what
//! became of the request. The same import finds them by its mark, and the token
//! is not sent once more.

use std::sync::Arc;

use crate::domain::failure::Failure;
use crate::domain::grant::{Generation, GrantId, GrantKey};
use crate::domain::reason::Reason;
use crate::domain::scope::Target;
use crate::idp::{Client, RawAnswer, TokenAnswer, Verdict};
use crate::seal::Label;
use crate::secret::RefreshToken;
use crate::store::{Enrolment, EnrolmentStage, OpenEnrolment, StoreError};

use super::enrolment::{Enrolled, Enrolments, enrolment_place, enrolment_record};
use super::failures::key_failure;
use super::record::Origin;

impl Enrolments {
    /// Keeps the answer of an import for as long as the settings say. It is on
    /// disk already, sealed; nothing can redeem it but the same import.
    pub(super) async fn hold(&self, enrolment: &Enrolment, answer: &TokenAnswer) {
        let until = self.parts.clock.now().plus(self.parts.settings.hold_imports);
        self.set_stage(enrolment, EnrolmentStage::Held { until }).await;
        self.parts.metrics.import_held();
        tracing::error!(
            tenant.id = %enrolment.key.tenant, client.id = %enrolment.key.client,
            has_id_token = answer.id_token.is_some(), held_until = %until,
            "an import is held: its token was redeemed and whose it is could not be understood; \
             stop further imports, correct issuer or subject_claims, and repeat this one"
        );
    }

    /// Goes on with an import that was not finished. `None`: its request has
    /// become harmless without a trace, and the token may be tried again.
    pub(super) async fn resume(
        &self,
        client: &Arc<Client>,
        open: OpenEnrolment,
        key: &GrantKey,
        imported: &RefreshToken,
        target: &Target,
        origin: &Origin,
    ) -> Result<Option<Enrolled>, Failure> {
        let OpenEnrolment { enrolment, stage, answer } = open;
        let Some(sealed) = answer else {
            let now = self.parts.clock.now();
            let probe_after = match stage {
                EnrolmentStage::InDoubt { probe_after } => probe_after,
                // Under its lock nobody sends it any more.
                EnrolmentStage::Sending | EnrolmentStage::Held { .. } => {
                    self.suspend(client, &enrolment).await
                }
            };
            if now <= probe_after {
                let why = "an earlier import of this token has an unknown outcome";
                return Err(Failure::new(Reason::GrantInDoubt, why).retry_after(probe_after.since(now)));
            }
            self.abandon(&enrolment).await;
            return Ok(None);
        };
        let place = enrolment_place(Label::ProviderAnswer, &enrolment);
        let raw = self.sealer.open_answer(&place, &sealed).await.map_err(|e| key_failure(&e))?;
        let Some(mut answer) = raw.and_then(|raw| tokens(client, &raw)) else {
            self.abandon(&enrolment).await;
            return Err(Failure::new(
                Reason::GrantUnreadable,
                "the answer to an earlier import does not open",
            ));
        };
        if answer.refresh_token.is_none() {
            answer.refresh_token = Some(RefreshToken::new(imported.expose().to_owned()));
        }
        // What was wrong may have been the issuer, the subject or the scopes: as
        // they are named now.
        let (grant, generation) = if key == &enrolment.key {
            (enrolment.grant, enrolment.generation)
        } else {
            (GrantId(self.parts.fresh_id()?), Generation(1))
        };
        let enrolment = Enrolment {
            key: key.clone(),
            grant,
            generation,
            issuer: client.issuer(&key.tenant),
            scopes: target.scopes.without_protocol_scopes(),
            resource: target.resource.clone(),
            ..enrolment
        };
        let record = enrolment_record(&enrolment, "import", origin.clone());
        record.intent(&self.parts.audit).await?;
        let result = self.keep(client, &enrolment, answer).await;
        self.record_outcome(&record, &result).await?;
        result.map(Some)
    }

    /// Gives up the imports whose time is over.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub(super) async fn sweep(&self) -> Result<(), StoreError> {
        let now = self.parts.clock.now();
        for OpenEnrolment { enrolment, stage, .. } in self.parts.store.open_enrolments().await? {
            let over = match stage {
                EnrolmentStage::Sending => false,
                EnrolmentStage::Held { until } => until < now,
                EnrolmentStage::InDoubt { probe_after } => {
                    probe_after.plus(self.parts.settings.hold_imports) < now
                }
            };
            if over {
                tracing::warn!(
                    tenant.id = %enrolment.key.tenant, client.id = %enrolment.key.client,
                    "an import that was never finished is given up"
                );
                self.abandon(&enrolment).await;
            }
        }
        Ok(())
    }
}

fn tokens(client: &Client, raw: &RawAnswer) -> Option<TokenAnswer> {
    match client.classify(raw) {
        Verdict::Tokens(answer) => Some(answer),
        Verdict::Refused(_) => None,
    }
}
