//! Redeeming a refresh token: the only irreversible thing the vault does.
//!
//! In reading order:
//!
//! - [`step`](mod@step): the protocol as one pure function, the same that
//!   `tests/protocol_model.rs` checks over all interleavings;
//! - [`engine`]: get an access token: memory, else one flight per grant;
//! - [`attempt`]: one attempt, from commit 1 to the provider's answer;
//! - [`answer`]: an answer made durable, then parsed, then commit 2;
//! - [`intake`]: the same for a grant that is being taken in;
//! - [`recovery`]: what a dead process left behind, and doubts whose time has
//!   come;
//! - [`cache`], [`gate`], [`flight`]: access tokens in memory, tenants in and
//!   out of service, one owner per grant;
//! - [`versions`]: a new version of a tenant's key;
//! - [`failures`]: what each end of an attempt is to its caller;
//! - [`record`]: the audit entries of all this.

pub mod answer;
pub mod attempt;
pub mod cache;
pub mod engine;
pub mod failures;
pub mod flight;
pub mod gate;
pub mod intake;
pub mod record;
pub mod recovery;
pub mod step;
pub mod versions;

pub use engine::{Parts, Redeemer, Settings};
pub use record::Origin;
