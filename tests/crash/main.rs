//! The binary under what machines do to processes: `kill -9`, SIGTERM, a full
//! disk. The provider is in the test's own process and outlives the vault.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]
#![expect(clippy::disallowed_types, reason = "callers see statuses")]

mod full_disk;
mod hangup;
mod kill;
mod process;
mod terminate;
mod world;
