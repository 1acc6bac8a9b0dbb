//! Sealing and recording what must not be lost, until it is durable or belongs
//! to nobody any more (invariant I7).

use std::sync::Arc;
use std::time::Duration;

use crate::domain::key::KeyVersion;
use crate::domain::tenant::TenantState;
use crate::idp::RawAnswer;
use crate::keyring::{Keyring, KeyringError};
use crate::seal::{OpenError, Place, Sealed};
use crate::secret::Plaintext;
use crate::store::{AnswerOf, Store};

/// How often a write that must not be lost is tried again: every now and then,
/// for ever (rule 6).
const RETRY: Duration = Duration::from_millis(500);

/// Seals for the store.
#[derive(Clone)]
pub(super) struct Sealer {
    store: Arc<dyn Store>,
    keyring: Arc<Keyring>,
}

/// The tenant is gone: nothing may be sealed for it any more.
pub(super) struct TenantGone;

impl Sealer {
    pub(super) fn new(store: Arc<dyn Store>, keyring: Arc<Keyring>) -> Self {
        Self { store, keyring }
    }

    /// Rule 5: the raw answer is durable before it is parsed. Goes on until it is
    /// on disk, or its attempt or tenant is gone.
    pub(super) async fn record(&self, of: AnswerOf, place: &Place, raw: &RawAnswer) {
        let bytes = raw.without_access_token().to_bytes();
        let mut refused_under = None;
        loop {
            let Ok((version, sealed)) = self.seal(place, bytes.expose()).await else { return };
            if refused_under == Some(version) {
                // Not for its version, so the attempt is gone; commit 2 finds
                // out the same.
                return;
            }
            match self.store.record_answer(of, version, &sealed).await {
                Ok(true) => return,
                Ok(false) => refused_under = Some(version),
                Err(error) => {
                    tracing::error!(grant.id = %place.grant, %error, "cannot record an answer, will try again");
                    pause().await;
                }
            }
        }
    }

    /// Seals under the tenant's newest version, trying until it succeeds or the
    /// tenant is gone.
    pub(super) async fn seal(&self, place: &Place, plain: &[u8]) -> Result<(KeyVersion, Sealed), TenantGone> {
        loop {
            if let Some(version) = self.newest_version(place).await? {
                match self.keyring.seal(version, place, plain).await {
                    Ok(sealed) => return Ok((version, sealed)),
                    Err(KeyringError::TenantGone) => return Err(TenantGone),
                    // The version moved between the two reads: read again.
                    Err(KeyringError::Retired(..)) => continue,
                    Err(error) => {
                        tracing::error!(tenant.id = %place.tenant, %error, "cannot seal a token, will try again");
                    }
                }
            }
            pause().await;
        }
    }

    /// `None`: it cannot be read right now.
    async fn newest_version(&self, place: &Place) -> Result<Option<KeyVersion>, TenantGone> {
        match self.store.tenant(&place.tenant).await {
            Ok(None) => Err(TenantGone),
            Ok(Some(tenant)) => match tenant.state {
                TenantState::Pending { active_version }
                | TenantState::Active { active_version }
                | TenantState::PurgeScheduled { active_version, .. } => Ok(Some(active_version)),
                TenantState::Purging | TenantState::Purged { .. } => Err(TenantGone),
            },
            Err(error) => {
                tracing::error!(tenant.id = %place.tenant, %error, "cannot read the tenant, will try again");
                Ok(None)
            }
        }
    }

    /// Opens a sealed value.
    pub(super) async fn open(&self, place: &Place, sealed: &Sealed) -> Result<Plaintext, KeyringError> {
        self.keyring.open(place, sealed).await
    }

    /// A recorded answer; `None` when it can never be opened. Any other fault may
    /// pass, and must not cost the token in it: a format that is not known here is
    /// known to the version that wrote it.
    pub(super) async fn open_answer(
        &self,
        place: &Place,
        sealed: &Sealed,
    ) -> Result<Option<RawAnswer>, KeyringError> {
        let opened = match self.open(place, sealed).await {
            Ok(plain) => RawAnswer::from_bytes(&plain).map_err(KeyringError::Unreadable),
            Err(error) => Err(error),
        };
        let Err(error) = opened else { return opened.map(Some) };
        tracing::error!(tenant.id = %place.tenant, grant.id = %place.grant, %error, "cannot open a recorded answer");
        match error {
            KeyringError::Unreadable(OpenError::UnknownFormat(_)) => Err(error),
            KeyringError::Unreadable(_) | KeyringError::Destroyed(_) | KeyringError::TenantGone => Ok(None),
            error => Err(error),
        }
    }
}

/// Between two tries of a write.
pub(super) async fn pause() {
    tokio::time::sleep(RETRY).await;
}
