//! obo-vault keeps OAuth 2.0 On-Behalf-Of refresh tokens sealed under versioned
//! tenant keys and hands out access tokens to internal services over gRPC.
//!
//! The modules, from the bottom up; each may use those above it in this list
//! that its layer allows (docs/ARCHITECTURE.md, tested by
//! `tests/architecture.rs`):
//!
//! - terms, and the redemption protocol as pure functions: [`domain`]; beside it
//!   [`secret`], [`clock`], [`entropy`], [`file_access`], [`metrics`], [`place`] and
//!   [`shutdown`];
//! - pure cryptography: [`seal`];
//! - ports and their adapters: [`store`], [`idp`], [`authn`], [`authz`];
//! - capabilities with state: [`keyring`], [`audit`];
//! - attempts and enrolments, which redeem refresh tokens: [`redeem`];
//! - what the product does: [`token`], [`grant`], [`tenant`], [`rotation`];
//! - what every request goes through: [`pipeline`];
//! - transports and the schedule: [`grpc`], [`schedule`], beside them [`proto`] and [`client`];
//! - wiring and processes: [`app`], [`cli`], [`config`], [`telemetry`], and
//!   with the feature `demo` the development provider and the demonstration.
//!
//! To understand the product, read [`domain::protocol`] first, then [`redeem`].

pub mod app;
pub mod audit;
pub mod authn;
pub mod authz;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
#[cfg(feature = "demo")]
pub mod demo;
pub mod domain;
pub mod entropy;
pub mod file_access;
pub mod grant;
pub mod grpc;
pub mod idp;
pub mod keyring;
pub mod metrics;
pub mod pipeline;
pub mod place;
pub mod proto;
pub mod redeem;
pub mod rotation;
pub mod schedule;
pub mod seal;
pub mod secret;
pub mod shutdown;
pub mod store;
pub mod telemetry;
pub mod tenant;
pub mod token;
