//! What a newcomer, a test and a benchmark need around the vault and a
//! production build leaves out (feature `demo`).
//!
//! - [`provider`]: the development identity provider: real HTTP, strict
//!   rotation, faults on demand;
//! - [`pki`]: a certificate authority that lives as long as its directory;
//! - [`stand`]: a provider, a vault with its files in a temporary directory,
//!   and callers with certificates;
//! - [`story`]: `obo-vault demo`: the vault at work, told step by step.

pub mod pki;
pub mod provider;
pub mod stand;
pub mod story;
