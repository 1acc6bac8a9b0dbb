//! The words of the trade. No I/O, no async, no serialisation but the canonical
//! form of claims: everything here is data with its rules, and every other
//! module speaks in it.
//!
//! In reading order:
//!
//! - [`id`]: names with their rules: tenant, subject, client, caller, issuer;
//! - [`scope`]: scopes and what an access token is asked for;
//! - [`claims`]: what a token must say beyond its scopes;
//! - [`key`]: versions of a tenant's key and their states;
//! - [`tenant`]: a tenant and its states;
//! - [`grant`]: a grant, its states, and an attempt to redeem its token;
//! - [`profile`]: how a provider behaves, as data;
//! - [`protocol`]: how a refresh token is redeemed, as pure functions;
//! - [`rotation`]: a run of the rotation job;
//! - [`action`]: what a caller may ask for;
//! - [`reason`]: why something was refused, in stable words;
//! - [`failure`]: a refused or failed operation, on its way to the caller;
//! - [`chain`]: an error with what led to it.

pub mod action;
pub mod chain;
pub mod claims;
pub mod failure;
pub mod grant;
pub mod id;
pub mod key;
pub mod profile;
pub mod protocol;
pub mod reason;
pub mod rotation;
pub mod scope;
pub mod tenant;
