//! The vault's parts put together over its stores.

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

use crate::audit::AuditLog;
use crate::authz::Authorizer;
use crate::clock::SharedClock;
use crate::config::{self, Config};
use crate::domain::grant::Owner;
use crate::entropy;
use crate::grant::GrantService;
use crate::grpc::{Services, page::Pages};
use crate::keyring::Keyring;
use crate::metrics::Counters;
use crate::pipeline::Pipeline;
use crate::redeem::{self, Redeemer};
use crate::rotation::{self, RotationService};
use crate::store::sqlite::{SqliteKeyStore, SqliteStore};
use crate::store::{KeyStore, Store};
use crate::tenant::TenantService;
use crate::token::TokenService;

use super::belonging::{self, Older, Watermark};
use super::foundations::Foundations;
use super::reload::{Reloadable, Reloader};
use super::upkeep::Upkeep;
use super::{Ambient, StartError, announce, because};

/// Where a vault keeps what it keeps.
pub struct Stores {
    /// Tenants, grants, attempts, rotation runs.
    pub tokens: Arc<dyn Store>,
    /// Wrapped tenant keys.
    pub keys: Arc<dyn KeyStore>,
}

impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stores").finish_non_exhaustive()
    }
}

impl Stores {
    /// The two files of the configuration.
    ///
    /// # Errors
    ///
    /// A file that cannot be opened, or that another process has.
    pub fn open(settings: &config::Store) -> Result<Self, StartError> {
        let keys = SqliteKeyStore::open(&settings.key_path).map_err(because("opening the key store"))?;
        let tokens = SqliteStore::open_beside(&settings.path, &keys);
        let tokens = tokens.map_err(because("opening the token store"))?;
        Ok(Self { tokens: Arc::new(tokens), keys: Arc::new(keys) })
    }
}

/// A vault without its sockets.
pub(super) struct Assembly {
    pub(super) redeemer: Arc<Redeemer>,
    pub(super) services: Services,
    pub(super) metrics: Arc<Counters>,
    deployment: Uuid,
    store: Arc<dyn Store>,
    audit: Arc<AuditLog>,
    clock: SharedClock,
    watermark: Watermark,
    older: Older,
}

impl Assembly {
    pub(super) async fn put_together(
        config: &Config,
        ambient: &Ambient,
        foundations: Foundations,
        stores: Stores,
    ) -> Result<Self, StartError> {
        let Foundations { metrics, security: _, tls: _, authorizer, idp, audit, root, audit_has_entries } =
            foundations;
        let Stores { tokens: store, keys } = stores;
        let Ambient { clock, entropy } = ambient.clone();
        let fresh = entropy::uuid(&*entropy).map_err(because("starting"))?;
        let deployment = belonging::settle(&*store, &*keys, audit_has_entries, fresh).await?;
        let keyring = Arc::new(Keyring::new(
            Arc::new(root),
            keys,
            Arc::clone(&clock),
            Arc::clone(&entropy),
            Default::default(),
        ));
        let watermark = Watermark { store: Arc::clone(&store), keyring: Arc::clone(&keyring) };
        let older = watermark.older().await?;

        let redeemer = Arc::new(Redeemer::new(redeem::Parts {
            store: Arc::clone(&store),
            keyring: Arc::clone(&keyring),
            idp: Arc::clone(&idp),
            audit: Arc::clone(&audit),
            clock: Arc::clone(&clock),
            entropy: Arc::clone(&entropy),
            metrics: Arc::clone(&metrics),
            deployment,
            owner: Owner(entropy::uuid(&*entropy).map_err(because("starting"))?),
            settings: redeem_settings(config, older),
        }));
        let services = Services {
            token: TokenService::new(
                Arc::clone(&redeemer),
                authorizer,
                Arc::clone(&idp),
                config.cache.min_remaining,
            ),
            grant: GrantService::new(Arc::clone(&redeemer), Arc::clone(&store), Arc::clone(&idp)),
            tenant: TenantService::new(
                Arc::clone(&redeemer),
                Arc::clone(&store),
                Arc::clone(&keyring),
                Arc::clone(&audit),
                Arc::clone(&clock),
                config.tenants.purge_protection,
            ),
            rotation: RotationService::new(rotation::Parts {
                redeemer: Arc::clone(&redeemer),
                store: Arc::clone(&store),
                keyring,
                idp,
                audit: Arc::clone(&audit),
                clock: Arc::clone(&clock),
                entropy,
                metrics: Arc::clone(&metrics),
                settings: rotation_settings(config),
            }),
        };
        Ok(Self { redeemer, services, metrics, deployment, store, audit, clock, watermark, older })
    }

    /// Finishes what a crash left between two stores and on the way to providers.
    pub(super) async fn recover(&self) -> Result<(), StartError> {
        let tenants = &self.services.tenant;
        let keys_are_older = self.older == Older::Keys;
        tenants.reconcile(keys_are_older).await.map_err(because("looking at the tenants' keys"))?;
        self.note_standing().await?;
        let recovered = self.redeemer.recover().await.map_err(because("recovering"))?;
        if recovered != redeem::recovery::Recovered::default() {
            tracing::warn!(
                finished = recovered.finished,
                in_doubt = recovered.in_doubt,
                abandoned = recovered.abandoned,
                "recovered what an earlier process left behind"
            );
        }
        // One that cannot be finished now is tried again while serving; its tenant
        // is out of service since its tombstone.
        if let Err(failure) = tenants.purge_due().await {
            tracing::error!(%failure, "a purge is not finished yet");
        }
        Ok(())
    }

    /// Says aloud which store is an older copy. From here on, a copy that was taken
    /// before this start is known for one.
    async fn note_standing(&self) -> Result<(), StartError> {
        let without_keys = self.redeemer.guards().count_without_keys();
        self.metrics.tenants_without_keys(without_keys);
        self.metrics.restore_unconfirmed(self.older == Older::Tokens);
        match self.older {
            Older::Tokens => {
                tracing::error!(
                    "the token store is older than the mark in the key store: nothing is redeemed; stop the vault and \
                     put the newest token store back, or confirm this one with `obo-vault store confirm-restore`"
                );
                return Ok(());
            }
            Older::Keys => tracing::error!(
                "the key store is older than the token store: keys that were made since are missing, and each tenant \
                 gets a new version at the next rotation; put the newest key store back if there is one"
            ),
            Older::Neither => {}
        }
        self.watermark.advance(0).await
    }

    /// So that an alert on their age does not fire for want of a first value.
    pub(super) async fn first_signs_of_life(&self) -> Result<(), StartError> {
        let newest_run = self.services.rotation.newest().await;
        let newest_run = newest_run.map_err(because("reading the newest rotation"))?;
        let now = self.clock.now();
        // A vault that has never run the job has not missed one.
        self.metrics.rotation_succeeded(newest_run.and_then(|run| run.ended_at).unwrap_or(now));
        self.metrics.scheduler_tick(now);
        Ok(())
    }

    /// What every call goes through.
    pub(super) fn pipeline(
        &self,
        authorizer: Arc<Authorizer>,
        ambient: &Ambient,
    ) -> Result<Arc<Pipeline>, StartError> {
        let run = entropy::bytes::<4>(&*ambient.entropy).map_err(because("starting"))?;
        let run = run.iter().map(|b| format!("{b:02x}")).collect();
        let (audit, metrics) = (Arc::clone(&self.audit), Arc::clone(&self.metrics));
        Ok(Arc::new(Pipeline::new(authorizer, audit, metrics, run)))
    }

    /// Page tokens, the same for every process of the deployment.
    pub(super) fn pages(&self) -> Pages {
        Pages::new(*self.deployment.as_bytes())
    }

    /// How many tenants it has.
    pub(super) async fn tenants(&self) -> Result<usize, StartError> {
        announce::tenants(&*self.store).await.map_err(because("counting the tenants"))
    }

    pub(super) fn reloader(&self, items: Vec<Box<dyn Reloadable>>) -> Reloader {
        Reloader::new(
            items,
            Arc::clone(&self.clock),
            Arc::clone(&self.metrics),
            Some(Arc::clone(&self.audit)),
        )
    }

    pub(super) fn upkeep(&self) -> Upkeep {
        Upkeep {
            redeemer: Arc::clone(&self.redeemer),
            tenants: self.services.tenant.clone(),
            store: Arc::clone(&self.store),
            audit: Arc::clone(&self.audit),
            metrics: Arc::clone(&self.metrics),
            // The mark is not moved under a copy that nobody has confirmed.
            watermark: (self.older != Older::Tokens).then(|| self.watermark.clone()),
        }
    }
}

fn rotation_settings(config: &Config) -> rotation::Settings {
    let Config { rotation, keys, .. } = config;
    rotation::Settings {
        key_max_age: rotation.key_max_age,
        batch_size: rotation.batch_size,
        key_retention: keys.retention,
    }
}

fn redeem_settings(config: &Config, older: Older) -> redeem::Settings {
    let Config { cache, imports, rotation, .. } = config;
    redeem::Settings {
        cache: redeem::cache::Limits {
            max_tokens: cache.max_tokens,
            max_bytes: cache.max_bytes,
            negative: cache.negative,
            max_negative: cache.max_negative,
        },
        refresh_every: rotation.refresh_every,
        refresh_before_idle: rotation.refresh_before_idle,
        refresh_jitter: rotation.jitter,
        hold_imports: imports.hold,
        restore_unconfirmed: older == Older::Tokens,
    }
}
