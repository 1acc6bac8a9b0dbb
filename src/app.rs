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
//! - `announce`: what the log says of it all;
//! - `tls`: certificates and authorities from files; `descriptors`: enough of
//!   them for connections;
//! - `upkeep`: what a serving vault does by itself;
//! - [`reload`]: renewing what comes from files; `renewals`: what that is;
//! - [`stopped`]: what an operator decides about the stores of one that does not
//!   serve.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::Signal;

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

mod announce;
mod assembly;
mod belonging;
mod descriptors;
mod foundations;
mod providers;
pub mod reload;
mod renewals;
pub mod stopped;
mod tls;
mod upkeep;

pub use assembly::Stores;
pub use tls::ServerTls;

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

impl StartError {
    /// Several at once, a line each; at least one.
    fn all(errors: impl Iterator<Item = Self>) -> Self {
        let mut lines = errors;
        let mut first = lines.next().unwrap_or_else(|| Self {
            doing: "starting".into(),
            why: "for a reason that was not kept".into(),
        });
        for error in lines {
            first.why.push_str(&format!("\n{error}"));
        }
        first
    }
}

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
    tls: Option<Arc<ServerTls>>,
    limits: grpc::limits::Limits,
    entropy: SharedEntropy,
    pipeline: Arc<Pipeline>,
    pages: Pages,
    services: Services,
    options: grpc::Options,
    upkeep: upkeep::Upkeep,
    reloader: reload::Reloader,
    /// SIGHUP, where the process is the vault's own.
    hangups: Option<Signal>,
    serving: announce::Serving,
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
    // Before anything else: one that comes during the start must not end it.
    let hangups = reload::hangups();
    let mut app = App::build(config, Ambient::default()).await?;
    app.hangups = hangups;
    app.run(shutdown).await
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
        announce::starting(&config);
        let foundations = Foundations::check(&config, &ambient)?;
        let renewals = renewals::all(&config, &foundations);
        let stores = open(&config.store)?;
        let (security, authorizer) = (foundations.security.clone(), Arc::clone(&foundations.authorizer));
        let tls = foundations.tls.clone();
        let vault = Assembly::put_together(&config, &ambient, foundations, stores).await?;
        vault.recover().await?;
        vault.first_signs_of_life().await?;
        let metrics_listener = match config.server.metrics_listen {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        let serving = announce::Serving {
            metrics: metrics_listener.as_ref().and_then(|listener| listener.local_addr().ok()),
            tenants: vault.tenants().await?,
            next_rotation: config.rotation.next_run(ambient.clock.now()),
        };
        Ok(Self {
            listener: bind(config.server.listen).await?,
            reloader: vault.reloader(renewals),
            hangups: None,
            serving,
            metrics_listener,
            security,
            tls,
            limits: descriptors::fit(&config.server.limits),
            entropy: Arc::clone(&ambient.entropy),
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

    /// Everything that [`App::build`] would refuse, as far as that shows without
    /// writing anything, binding a port or sending anything.
    #[must_use]
    pub fn check(config: &Config, ambient: &Ambient) -> Vec<StartError> {
        foundations::faults(config, ambient)
    }

    /// Where the API is served.
    ///
    /// # Errors
    ///
    /// When the system does not say.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The certificates, which can be read anew while the vault serves; none
    /// where it serves plain text.
    #[must_use]
    pub fn tls(&self) -> Option<Arc<ServerTls>> {
        self.tls.clone()
    }

    /// Serves until the shutdown is triggered, then ends what is under way.
    ///
    /// # Errors
    ///
    /// The schedule cannot be set up, or the server fails.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), StartError> {
        let address = self.address().map_err(because("serving"))?;
        let (api, health) = grpc::api(&self.pipeline, self.services.clone(), &self.pages, self.options)
            .map_err(because("setting up reflection"))?;
        let schedule = schedule::start(
            self.timetable,
            self.services.rotation.clone(),
            Arc::clone(&self.clock),
            Arc::clone(&self.metrics),
            shutdown.clone(),
        )
        .await
        .map_err(because("setting up the schedule"))?;
        let upkeep = tokio::spawn(self.upkeep.run(health, shutdown.clone()));
        tokio::spawn(self.reloader.run(self.hangups, shutdown.clone()));
        // A rotation would go on sending, and its watchers stay connected.
        let (rotation, stopping) = (self.services.rotation.clone(), shutdown.clone());
        tokio::spawn(async move {
            stopping.triggered().await;
            rotation.stop();
        });
        if let Some(listener) = self.metrics_listener {
            tokio::spawn(upkeep::serve_metrics(listener, Arc::clone(&self.metrics), shutdown.clone()));
        }

        self.serving.tell(address);
        let serving = listen::Serving {
            api,
            security: self.security,
            limits: self.limits,
            max_message_bytes: self.options.max_message_bytes,
            drain: self.drain,
            clock: self.clock,
            entropy: self.entropy,
            metrics: self.metrics,
        };
        tokio::select! {
            () = listen::serve(self.listener, serving, shutdown.clone()) => {}
            () = overdue(&shutdown, self.drain) => {
                tracing::warn!("calls are still under way after the drain time; leaving them");
            }
        }
        shutdown.trigger();

        // Rule 8: what is on its way to a provider is awaited, not dropped.
        let drained = self.redeemer.drain(self.drain).await;
        let _ = tokio::time::timeout(self.drain, self.pipeline.drain()).await;
        // What it waited for has ended; it goes on at the next start.
        self.services.rotation.drain(Duration::from_secs(1)).await;
        // What they hold is closed before this returns.
        let _ = tokio::time::timeout(self.drain, async { tokio::join!(upkeep, schedule) }).await;
        tracing::info!(drained, "stopped");
        Ok(())
    }
}

async fn overdue(shutdown: &Shutdown, drain: Duration) {
    shutdown.triggered().await;
    tokio::time::sleep(drain).await;
}

async fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(because(format!("listening on {address}")))
}
