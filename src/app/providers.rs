//! The providers and clients of the configuration, ready for use.

use crate::clock::SharedClock;
use crate::config::Config;
use crate::entropy::SharedEntropy;
use crate::idp::Idp;

use super::{StartError, failed};

/// Checks them once more as a whole, and loads their keys.
pub(super) fn build(
    config: &Config,
    clock: &SharedClock,
    entropy: &SharedEntropy,
) -> Result<Idp, StartError> {
    Idp::new(config.providers.values(), config.clients.values(), clock, entropy)
        .map_err(|e| failed("setting up the providers")(e.to_string()))
}
