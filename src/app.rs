//! The composition root: checked settings in, a running vault out.
//!
//! [`App::build`] opens and checks everything that can be refused before a port
//! is bound; [`App::run`] serves until the shutdown is over. In the order of the
//! start:
//!
//! - `foundations`: what can be checked without making a file: TLS, policy,
//!   providers, audit log, root key;
//! - `assembly`: the stores, and the vault's parts put together over them;
//! - `belonging`: whether the stores belong together, and whether one is an older
//!   copy;
//! - `upkeep`: what a serving vault does by itself;
//! - [`stopped`]: what an operator decides about the stores of one that does not
//!   serve.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use crate::clock::{SharedClock, SystemClock};
use crate::config::{self, Config};
use crate::domain::chain::error_chain;
use crate::entropy::{OsEntropy, SharedEntropy};
use crate::grpc::{self, Services, listen, page::Pages};
use crate::metrics::Counters;
use crate::pipeline::Pipeline;
use crate::redeem::Redeemer;
use crate::schedule::{self, Timetable};
use crate::shutdown::Shutdown;

mod assembly;
mod belonging;
mod foundations;
mod providers;
pub mod stopped;
mod tls;
mod upkeep;

pub use assembly::Stores;

use assembly::Assembly;
use foundations::Foundations;

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

/// The same for an error with its causes.
fn because<E: std::error::Error + 'static>(doing: impl Into<String>) -> impl FnOnce(E) -> StartError {
    let doing = doing.into();
    move |error| StartError { doing, why: error_chain(&error) }
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
        Self::build_over(config, ambient, Stores::open).await
    }

    /// The same over stores of the caller's choice; `open` is called once
    /// everything that makes no file has been checked.
    ///
    /// # Errors
    ///
    /// As [`App::build`].
    pub async fn build_over(
        config: Config,
        ambient: Ambient,
        open: impl FnOnce(&config::Store) -> Result<Stores, StartError>,
    ) -> Result<Self, StartError> {
        let foundations = Foundations::check(&config, &ambient)?;
        let stores = open(&config.store)?;
        let (security, authorizer) = (foundations.security.clone(), Arc::clone(&foundations.authorizer));
        let vault = Assembly::put_together(&config, &ambient, foundations, stores).await?;
        vault.recover().await?;
        vault.first_signs_of_life().await?;
        let metrics_listener = match config.server.metrics_listen {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        Ok(Self {
            listener: bind(config.server.listen).await?,
            metrics_listener,
            security,
            pipeline: vault.pipeline(authorizer, &ambient)?,
            pages: vault.pages(),
            options: grpc::Options {
                max_message_bytes: config.server.max_message_bytes,
                reflection: config.server.reflection,
                create_tenant_at_enrolment: config.tenants.create_at_first_intake,
            },
            timetable: Timetable {
                expression: config.rotation.schedule.clone(),
                time_zone: config.rotation.time_zone,
                catch_up: config.rotation.catch_up,
            },
            upkeep: vault.upkeep(),
            services: vault.services,
            redeemer: vault.redeemer,
            metrics: vault.metrics,
            clock: ambient.clock,
            drain: config.server.drain,
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
        let address = self.address().map_err(because("serving"))?;
        let (router, health) = grpc::router(&self.pipeline, self.services.clone(), &self.pages, self.options)
            .map_err(because("setting up reflection"))?;
        let schedule = schedule::start(
            self.timetable,
            self.services.rotation.clone(),
            self.clock,
            Arc::clone(&self.metrics),
            shutdown.clone(),
        )
        .await
        .map_err(because("setting up the schedule"))?;
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
        served.map_err(because("serving"))
    }
}

async fn overdue(shutdown: &Shutdown, drain: Duration) {
    shutdown.triggered().await;
    tokio::time::sleep(drain).await;
}

async fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(because(format!("listening on {address}")))
}
