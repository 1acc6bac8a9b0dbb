//! What a newcomer, a test and a benchmark need around the vault and a
//! production build leaves out (feature `demo`).
//!
//! - [`provider`]: the development identity provider: real HTTP, strict
//!   rotation, faults on demand.

pub mod provider;
