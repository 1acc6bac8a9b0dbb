//! End to end: a vault behind its real door, a real provider over HTTP, callers
//! with certificates. One file per RPC, then races, restarts, faults.

mod harness;
mod harness_more;
mod purge;
mod rotation;
mod smoke;
mod tenants;
