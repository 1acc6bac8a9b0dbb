//! The composition root: checked settings in, a running vault out.
//!
//! [`App::build`] opens and checks everything that can be refused before a port
//! is bound; [`App::run`] serves until the shutdown is over. Start-up reads from
//! top to bottom in the order in which things depend on each other.

use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use crate::audit::{AuditLog, Durability};
use crate::authz::Authorizer;
use crate::clock::{SharedClock, SystemClock};
use crate::config::{self, Config};
use crate::domain::grant::Owner;
use crate::entropy::{self, OsEntropy, SharedEntropy};
use crate::grant::GrantService;
use crate::grpc::{self, Services, listen, page::Pages};
use crate::keyring::{FileRootKey, Keyring};
use crate::metrics::Counters;
use crate::pipeline::Pipeline;
use crate::redeem::{self, Redeemer};
use crate::rotation::{self, RotationService};
use crate::schedule::{self, Timetable};
use crate::shutdown::Shutdown;
use crate::store::Store;
use crate::store::sqlite::{SqliteKeyStore, SqliteStore};
use crate::tenant::TenantService;
use crate::token::TokenService;

mod providers;
mod tls;
mod upkeep;

/// The vault cannot start, or stopped serving.
#[derive(Debug)]
pub struct StartError {
    /// What was being done.
    pub doing: String,
    /// Why it failed and, where it is known, what to do.
    pub why: String,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.doing, self.why)
    }
}

impl std::error::Error for StartError {}

fn failed(doing: impl Into<String>) -> impl FnOnce(String) -> StartError {
    let doing = doing.into();
    move |why| StartError { doing, why }
}

/// What a vault takes from its surroundings; tests and the demonstration put
/// others in place.
#[derive(Clone)]
pub struct Ambient {
    /// The time.
    pub clock: SharedClock,
    /// Randomness.
    pub entropy: SharedEntropy,
}

impl Default for Ambient {
    fn default() -> Self {
        Self { clock: SystemClock::shared(), entropy: OsEntropy::shared() }
    }
}

/// A vault that is ready to serve.
pub struct App {
    listener: TcpListener,
    metrics_listener: Option<TcpListener>,
    security: listen::Security,
    pipeline: Arc<Pipeline>,
    pages: Pages,
    services: Services,
    options: grpc::Options,
    upkeep: upkeep::Upkeep,
    redeemer: Arc<Redeemer>,
    timetable: Timetable,
    metrics: Arc<Counters>,
    clock: SharedClock,
    drain: Duration,
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App").finish_non_exhaustive()
    }
}

/// Builds and runs a vault until the shutdown is over.
///
/// # Errors
///
/// What [`App::build`] and [`App::run`] refuse.
pub async fn serve(config: Config, shutdown: Shutdown) -> Result<(), StartError> {
    App::build(config, Ambient::default()).await?.run(shutdown).await
}

impl App {
    /// Opens and checks everything, finishes what a crash left behind, and binds
    /// the ports.
    ///
    /// # Errors
    ///
    /// A file that cannot be opened or is not as it must be, a policy that does
    /// not hold, a port that is taken.
    pub async fn build(config: Config, ambient: Ambient) -> Result<Self, StartError> {
        let Config {
            server,
            store,
            root_key_file,
            audit,
            policy_file,
            tenants,
            cache,
            imports,
            rotation,
            ..
        } = &config;
        let Ambient { clock, entropy } = ambient;
        let metrics = Arc::new(Counters::new());

        let security = tls::security(&server.transport)?;
        let authorizer = Arc::new(load_policy(policy_file)?);
        let idp = Arc::new(providers::build(&config, &clock, &entropy)?);
        let audit = open_audit(audit, &clock)?;
        let root =
            FileRootKey::load(root_key_file).map_err(|e| failed("reading the root key")(e.to_string()))?;
        let keys = SqliteKeyStore::open(&store.key_path)
            .map_err(|e| failed("opening the key store")(e.to_string()))?;
        let tokens =
            SqliteStore::open(&store.path).map_err(|e| failed("opening the token store")(e.to_string()))?;
        let tokens: Arc<dyn Store> = Arc::new(tokens);
        let keyring = Keyring::new(
            Arc::new(root),
            Arc::new(keys),
            Arc::clone(&clock),
            Arc::clone(&entropy),
            Default::default(),
        );
        let keyring = Arc::new(keyring);

        let candidate = entropy::uuid(&*entropy).map_err(|e| failed("starting")(e.to_string()))?;
        let deployment = tokens.deployment(candidate).await;
        let deployment =
            deployment.map_err(|e| failed("reading the deployment's identity")(e.to_string()))?;

        let redeemer = Arc::new(Redeemer::new(redeem::Parts {
            store: Arc::clone(&tokens),
            keyring: Arc::clone(&keyring),
            idp: Arc::clone(&idp),
            audit: Arc::clone(&audit),
            clock: Arc::clone(&clock),
            entropy: Arc::clone(&entropy),
            metrics: Arc::clone(&metrics),
            deployment,
            owner: Owner(entropy::uuid(&*entropy).map_err(|e| failed("starting")(e.to_string()))?),
            settings: redeem_settings(cache, imports, rotation),
        }));
        let services = Services {
            token: TokenService::new(
                Arc::clone(&redeemer),
                Arc::clone(&authorizer),
                Arc::clone(&idp),
                cache.min_remaining,
            ),
            grant: GrantService::new(Arc::clone(&redeemer), Arc::clone(&tokens), Arc::clone(&idp)),
            tenant: TenantService::new(
                Arc::clone(&redeemer),
                Arc::clone(&tokens),
                Arc::clone(&keyring),
                Arc::clone(&audit),
                Arc::clone(&clock),
                tenants.purge_protection,
            ),
            rotation: RotationService::new(rotation::Parts {
                redeemer: Arc::clone(&redeemer),
                store: Arc::clone(&tokens),
                keyring,
                idp,
                audit: Arc::clone(&audit),
                clock: Arc::clone(&clock),
                entropy: Arc::clone(&entropy),
                metrics: Arc::clone(&metrics),
                settings: rotation::Settings {
                    key_max_age: rotation.key_max_age,
                    batch_size: rotation.batch_size,
                },
            }),
        };
        recover(&redeemer, &services.tenant).await?;
        // So that an alert on their age does not fire for want of a first value.
        let newest_run = services.rotation.newest().await;
        let newest_run = newest_run.map_err(|e| failed("reading the newest rotation")(e.to_string()))?;
        if let Some(ended_at) = newest_run.and_then(|run| run.ended_at) {
            metrics.rotation_succeeded(ended_at);
        }
        metrics.scheduler_tick(clock.now());

        let run = entropy::bytes::<4>(&*entropy).map_err(|e| failed("starting")(e.to_string()))?;
        let run = run.iter().map(|b| format!("{b:02x}")).collect();
        let pages = Pages::new(*deployment.as_bytes());
        let pipeline = Arc::new(Pipeline::new(authorizer, Arc::clone(&audit), Arc::clone(&metrics), run));
        let upkeep = upkeep::Upkeep {
            redeemer: Arc::clone(&redeemer),
            tenants: services.tenant.clone(),
            store: tokens,
            audit,
            metrics: Arc::clone(&metrics),
        };
        let metrics_listener = match server.metrics_listen {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        Ok(Self {
            listener: bind(server.listen).await?,
            metrics_listener,
            security,
            pipeline,
            pages,
            services,
            options: grpc::Options {
                max_message_bytes: server.max_message_bytes,
                reflection: server.reflection,
                create_tenant_at_intake: tenants.create_at_first_intake,
            },
            upkeep,
            redeemer,
            timetable: Timetable {
                expression: rotation.schedule.clone(),
                time_zone: rotation.time_zone,
                catch_up: rotation.catch_up,
            },
            metrics,
            clock,
            drain: server.drain,
        })
    }

    /// Where the API is served.
    ///
    /// # Errors
    ///
    /// When the system does not say.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the shutdown is triggered, then ends what is under way.
    ///
    /// # Errors
    ///
    /// The schedule cannot be set up, or the server fails.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), StartError> {
        let address = self.address().map_err(|e| failed("serving")(e.to_string()))?;
        let (router, health) = grpc::router(&self.pipeline, self.services.clone(), &self.pages, self.options)
            .map_err(|e| failed("setting up reflection")(e.to_string()))?;
        let schedule = schedule::start(
            self.timetable,
            self.services.rotation.clone(),
            self.clock,
            Arc::clone(&self.metrics),
            shutdown.clone(),
        )
        .await
        .map_err(|e| failed("setting up the schedule")(e.to_string()))?;
        let upkeep = tokio::spawn(self.upkeep.run(health, shutdown.clone()));
        // A rotation would go on sending, and its watchers stay connected.
        let (rotation, stopping) = (self.services.rotation.clone(), shutdown.clone());
        tokio::spawn(async move {
            stopping.triggered().await;
            rotation.stop();
        });
        if let Some(listener) = self.metrics_listener {
            tokio::spawn(upkeep::serve_metrics(listener, self.metrics, shutdown.clone()));
        }

        tracing::info!(address = %address, "serving");
        let connections = listen::connections(self.listener, self.security);
        let stopping = shutdown.clone();
        let serving =
            router.serve_with_incoming_shutdown(connections, async move { stopping.triggered().await });
        let mut serving = std::pin::pin!(serving);
        let served = tokio::select! {
            served = &mut serving => served,
            () = overdue(&shutdown, self.drain) => {
                tracing::warn!("callers are still connected after the drain time; leaving them");
                Ok(())
            }
        };
        shutdown.trigger();

        // Rule 8: what is on its way to a provider is awaited, not dropped.
        let drained = self.redeemer.drain(self.drain).await;
        let _ = tokio::time::timeout(self.drain, self.pipeline.drain()).await;
        // What it waited for has ended; it goes on at the next start.
        self.services.rotation.drain(Duration::from_secs(1)).await;
        // What they hold is closed before this returns.
        let _ = tokio::time::timeout(self.drain, async { tokio::join!(upkeep, schedule) }).await;
        tracing::info!(drained, "stopped");
        served.map_err(|e| failed("serving")(e.to_string()))
    }
}

/// Finishes what a crash left between two stores and on the way to providers.
async fn recover(redeemer: &Redeemer, tenants: &TenantService) -> Result<(), StartError> {
    tenants.reconcile().await.map_err(|e| failed("looking at the tenants' keys")(e.to_string()))?;
    let recovered = redeemer.recover().await.map_err(|e| failed("recovering")(e.to_string()))?;
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

async fn overdue(shutdown: &Shutdown, drain: Duration) {
    shutdown.triggered().await;
    tokio::time::sleep(drain).await;
}

async fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|e| failed(format!("listening on {address}"))(e.to_string()))
}

fn load_policy(path: &Path) -> Result<Authorizer, StartError> {
    let doing = || format!("loading the policy {}", path.display());
    let text = fs::read_to_string(path).map_err(|e| failed(doing())(e.to_string()))?;
    Authorizer::load(&text).map_err(|e| failed(doing())(e.to_string()))
}

fn open_audit(audit: &config::Audit, clock: &SharedClock) -> Result<Arc<AuditLog>, StartError> {
    let durability = match audit.durability {
        config::Durability::Fsync => Durability::Fsync,
        config::Durability::Os => Durability::Os,
    };
    let path: &PathBuf = &audit.file;
    let log = AuditLog::open(path, durability, Arc::clone(clock));
    log.map(Arc::new).map_err(|e| failed(format!("opening the audit log {}", path.display()))(e.to_string()))
}

fn redeem_settings(
    cache: &config::Cache,
    imports: &config::Imports,
    rotation: &config::Rotation,
) -> redeem::Settings {
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
    }
}
