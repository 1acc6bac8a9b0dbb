//! Settings of providers and clients to what `idp` takes.

use std::sync::Arc;

use crate::clock::SharedClock;
use crate::config::{self, Config};
use crate::entropy::SharedEntropy;
use crate::idp::{Budget, ClientAuth, ClientSpec, Idp, ProviderSpec, SigningAlg, TenantRule};
use crate::secret::ClientSecret;

use super::{StartError, failed};

/// The providers and clients of the configuration.
pub(super) fn build(
    config: &Config,
    clock: &SharedClock,
    entropy: &SharedEntropy,
) -> Result<Idp, StartError> {
    let providers = config.providers.iter().map(|(name, provider)| self::provider(name, provider)).collect();
    let clients = config
        .clients
        .iter()
        .map(|(id, client)| ClientSpec {
            id: id.clone(),
            provider: client.provider.clone(),
            client_id: client.client_id.clone(),
            auth: auth(&client.auth),
            declares_cp1: client.declares_cp1,
        })
        .collect();
    Idp::new(providers, clients, Arc::clone(clock), Arc::clone(entropy))
        .map_err(|e| failed("setting up the providers")(e.to_string()))
}

fn provider(name: &str, provider: &config::Provider) -> ProviderSpec {
    let config::Provider {
        issuer,
        token_endpoint,
        jwks_uri,
        revocation_endpoint,
        audience,
        tenant,
        subject_claims,
        profile,
        budget,
        ca_pem,
    } = provider;
    ProviderSpec {
        name: name.to_owned(),
        issuer: issuer.clone(),
        token_endpoint: token_endpoint.clone(),
        revocation_endpoint: revocation_endpoint.clone(),
        jwks_uri: jwks_uri.clone(),
        audience: audience.clone(),
        tenant: match tenant {
            config::TenantRule::Claim(claim) => TenantRule::Claim(claim.clone()),
            config::TenantRule::Fixed(tenant) => TenantRule::Fixed(tenant.clone()),
        },
        subject_claims: subject_claims.clone(),
        profile: profile.clone(),
        ca_file_pem: ca_pem.as_ref().map(|pem| pem.clone().into_bytes()),
        budget: Budget {
            requests_per_second: f64::from(budget.requests_per_second),
            concurrency: usize::try_from(budget.concurrency).unwrap_or(usize::MAX),
        },
    }
}

fn auth(auth: &config::ClientAuth) -> ClientAuth {
    match auth {
        config::ClientAuth::SecretPost(secret) => ClientAuth::SecretPost(again(secret)),
        config::ClientAuth::SecretBasic(secret) => ClientAuth::SecretBasic(again(secret)),
        config::ClientAuth::PrivateKeyJwt { key_pem, algorithm, key_id, certificate_pem } => {
            ClientAuth::PrivateKeyJwt {
                key_pem: again(key_pem),
                alg: match algorithm {
                    config::SigningAlgorithm::Ps256 => SigningAlg::Ps256,
                    config::SigningAlgorithm::Rs256 => SigningAlg::Rs256,
                    config::SigningAlgorithm::Es256 => SigningAlg::Es256,
                },
                key_id: key_id.clone(),
                certificate_pem: certificate_pem.clone(),
            }
        }
    }
}

/// A secret once more: the configuration keeps its own until it is dropped.
fn again(secret: &ClientSecret) -> ClientSecret {
    ClientSecret::new(secret.expose().to_owned())
}
