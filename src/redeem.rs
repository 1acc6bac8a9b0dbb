//! Redeeming a refresh token: the only irreversible thing the vault does.
//!
//! In reading order:
//!
//! - [`step`](mod@step): the protocol as one pure function, the same that
//!   `tests/protocol_model.rs` checks over all interleavings.

pub mod cache;
pub mod flight;
pub mod gate;
pub mod step;
