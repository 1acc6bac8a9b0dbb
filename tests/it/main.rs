//! End to end: a vault behind its real API, a real provider over HTTP, callers
//! with certificates. One file per RPC, then races, restarts, faults.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(clippy::disallowed_types, reason = "callers see statuses")]

mod bad_input;
mod callers;
mod clocks;
mod counts;
mod deadlines;
mod describe_and_list;
mod exchange;
mod faults;
#[path = "../support/faulty_store.rs"]
mod faulty_store;
mod field;
mod field_answers;
mod field_kit;
mod field_settings;
mod files;
mod get_access_token;
mod granted;
mod harness;
mod harness_more;
mod identity;
mod import;
mod log;
mod pending_tenants;
mod provider_faults;
mod provider_keys;
mod purge;
mod refusal;
mod relay;
mod reload;
mod restore;
mod revoke;
mod rights;
mod rotation;
mod secrets;
mod smoke;
mod strangers;
mod tenants;
mod waiting;
