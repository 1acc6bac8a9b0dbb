//! Imports that have redeemed their token and are not finished: held, since the
//! identity in the answer is not understood yet, or open, since nobody knows what
//! became of the request. The same import finds them by its mark, and the token
//! is not sent once more.

use std::sync::Arc;

use url::Url;

use crate::domain::failure::Failure;
use crate::domain::grant::{Generation, GrantId, GrantKey};
use crate::domain::protocol::bounds::HARD_LIMIT;
use crate::domain::reason::Reason;
use crate::domain::scope::Target;
use crate::idp::{Client, TokenAnswer, Verdict};
use crate::seal::{Label, Sealed};
use crate::secret::RefreshToken;
use crate::store::{Enrolment, EnrolmentStage, OpenEnrolment, StoreError};

use super::enrolment::{Enrolled, Enrolments, Source, enrolment_place, enrolment_record};
use super::record::Origin;

/// An import that is told again.
struct Again<'a> {
    key: &'a GrantKey,
    target: &'a Target,
    origin: &'a Origin,
}

impl Enrolments {
    /// Keeps the answer of an import for as long as the settings say, counted from
    /// the first time: who repeats it does not keep it for ever. It is on disk
    /// already, sealed; nothing can redeem it but the same import.
    pub(super) async fn hold(&self, enrolment: &Enrolment, answer: &TokenAnswer) {
        let hold_for = self.parts.settings.hold_imports;
        let until = self.parts.clock.now().plus(hold_for);
        self.set_stage(enrolment, EnrolmentStage::Held { until }).await;
        self.parts.metrics.import_held();
        tracing::error!(
            tenant.id = %enrolment.key.tenant, client.id = %enrolment.key.client,
            has_id_token = answer.id_token.is_some(), hold_seconds = hold_for.as_secs(),
            "an import is held: its token was redeemed and whose it is could not be understood; \
             stop further imports, correct issuer or subject_claims, and repeat this one"
        );
    }

    /// The tokens that an open enrolment was answered with. `None`: none have come
    /// yet, as far as is known.
    ///
    /// # Errors
    ///
    /// When what was recorded cannot be opened: never, and it is forgotten, or
    /// just now, and it stays.
    pub(super) async fn answered(
        &self,
        client: &Client,
        enrolment: &Enrolment,
        answer: Option<&Sealed>,
    ) -> Result<Option<TokenAnswer>, Failure> {
        let Some(sealed) = answer else { return Ok(None) };
        let place = enrolment_place(Label::ProviderAnswer, enrolment);
        let Some(raw) = self.sealer.open_answer(&place, sealed).await? else {
            self.abandon(enrolment).await;
            let why = "the answer to an earlier enrolment does not open";
            return Err(Failure::new(Reason::GrantUnreadable, why));
        };
        Ok(match client.classify(&raw) {
            Verdict::Tokens(answer) => Some(answer),
            // Not the provider's own word, so its request has an unknown outcome.
            Verdict::Refused(_) => None,
        })
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
        if matches!(stage, EnrolmentStage::Held { until } if until < self.parts.clock.now()) {
            self.abandon(&enrolment).await;
            let why = "the import was held for as long as it may be, and is given up";
            return Err(Failure::new(Reason::IdentityUnproven, why));
        }
        let Some(mut answer) = self.answered(client, &enrolment, answer.as_ref()).await? else {
            check_same_provider(client, &enrolment)?;
            return self.wait_or_give_up(client, &enrolment, stage).await.map(|()| None);
        };
        if answer.refresh_token.is_none() {
            answer.refresh_token = Some(RefreshToken::new(imported.expose().to_owned()));
        }
        if answer.id_token.is_none() {
            return self
                .redeem_held(client, &enrolment, answer, Again { key, target, origin })
                .await
                .map(Some);
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

    /// An import whose answer never came is left alone until its request is
    /// harmless; then it is forgotten.
    async fn wait_or_give_up(
        &self,
        client: &Client,
        enrolment: &Enrolment,
        stage: EnrolmentStage,
    ) -> Result<(), Failure> {
        let now = self.parts.clock.now();
        let probe_after = match stage {
            EnrolmentStage::InDoubt { probe_after } => probe_after,
            // Under its lock nobody sends it any more.
            EnrolmentStage::Sending | EnrolmentStage::Held { .. } => self.suspend(client, enrolment).await,
        };
        if now <= probe_after {
            let why = "an earlier import of this token has an unknown outcome";
            return Err(Failure::new(Reason::GrantInDoubt, why).retry_after(probe_after.since(now)));
        }
        self.abandon(enrolment).await;
        Ok(())
    }

    /// An answer without an ID token proves nothing once its access token is gone,
    /// which is never kept. The token that is held is redeemed for another answer,
    /// which takes its place in the store in one step with being held or kept.
    async fn redeem_held(
        &self,
        client: &Arc<Client>,
        held: &Enrolment,
        answer: TokenAnswer,
        again: Again<'_>,
    ) -> Result<Enrolled, Failure> {
        let Again { key, target, origin } = again;
        check_same_provider(client, held)?;
        let Some(token) = answer.refresh_token else {
            return Err(Failure::new(Reason::NoRefreshToken, "the answer held has no refresh token"));
        };
        let enrolment = self.plan(client, key.clone(), held.kind, target).await?;
        let source = Source::Import(token);
        let result = self.exchange(client, enrolment, source, target, origin.clone()).await;
        let is_dead =
            |failure: &Failure| matches!(failure.reason(), Reason::IdentityMismatch | Reason::GrantRevoked);
        if result.as_ref().is_err_and(is_dead) {
            self.abandon(held).await;
        }
        result
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
                // Whoever resumed it in time has it to the exchange's end.
                EnrolmentStage::Held { until } => until.plus(HARD_LIMIT) < now,
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

/// A token goes only to where it came from. What is corrected in an issuer is its
/// spelling; another origin is another provider.
fn check_same_provider(client: &Client, enrolment: &Enrolment) -> Result<(), Failure> {
    let now = client.issuer(&enrolment.key.tenant);
    if now == enrolment.issuer || same_origin(now.as_str(), enrolment.issuer.as_str()) {
        Ok(())
    } else {
        let why =
            format!("the import was begun at {}, its client's provider is another now", enrolment.issuer);
        Err(Failure::new(Reason::IssuerChanged, why))
    }
}

fn same_origin(one: &str, other: &str) -> bool {
    match (Url::parse(one), Url::parse(other)) {
        (Ok(one), Ok(other)) => one.host().is_some() && one.origin() == other.origin(),
        (Err(_), _) | (_, Err(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_corrected_spelling_is_the_same_provider_and_another_host_is_not() {
        let right = "https://login.example/t1/v2.0";
        for same in ["https://login.example/t1/v2.0/", "https://login.example", "https://LOGIN.example:443/x"]
        {
            assert!(same_origin(right, same), "{same}");
        }
        for other in ["https://login.example.org/t1/v2.0", "http://login.example/t1/v2.0", "login", "urn:x"] {
            assert!(!same_origin(right, other), "{other}");
        }
    }
}
