//! Redeeming a refresh token: the only irreversible thing the vault does. What
//! may happen to one is decided by [`crate::domain::protocol`]; here it happens.
//!
//! In reading order:
//!
//! - [`engine`]: the ways in: get an access token from memory or by one flight
//!   per grant, refresh, enrol, revoke, recover;
//! - `attempt`: an attempt, from the plan to the claim to the request;
//! - `target`: whose wishes a request carries;
//! - `ending`: an answer made durable, then parsed, then commit 2; any other end;
//!   `alerts`: what a refusal says, and whom it is told;
//! - [`enrolment`]: the same for a grant that the vault acquires; `identity`,
//!   `held`, `finished`: whose an imported token is, what happens while that is not
//!   clear, and an import that is repeated;
//! - [`recovery`]: what a dead process left behind, and probes;
//! - `revocation`: the end of a token;
//! - [`cache`], `memory`, [`guard`], [`flight`]: access tokens in memory, tenants in and out
//!   of service, one owner per grant and turns for all;
//! - `sealer`: what must not be lost is sealed and written until it is durable;
//! - `probes`: which probes are under way; `elapsed`: how long ago an attempt was
//!   made, whatever the wall clock says;
//! - [`failures`], [`handed`]: what each end of an attempt is to its caller, and what it is given;
//! - [`record`], `marks`, `parts`: audit entries, keyed hashes, what all work with.

pub mod cache;
pub mod engine;
pub mod enrolment;
pub mod failures;
pub mod flight;
pub mod guard;
pub mod handed;
pub mod record;
pub mod recovery;

mod alerts;
mod attempt;
mod elapsed;
mod ending;
mod finished;
mod held;
mod identity;
mod keeping;
mod marks;
mod memory;
mod parts;
mod probes;
mod revocation;
mod sealer;
mod target;

pub use engine::Redeemer;
pub use parts::{Parts, Settings};
pub use record::Origin;
