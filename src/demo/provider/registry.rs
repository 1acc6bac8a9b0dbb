//! The clients that a provider knows, and what proves each.

use std::collections::HashMap;

use jsonwebtoken::{Algorithm, DecodingKey};

use super::options::{DevClientAuth, Options};

/// The clients the provider knows.
pub(super) struct Registry(HashMap<String, Proof>);

/// What proves a client.
pub(super) enum Proof {
    Secret(String),
    Key(DecodingKey, Algorithm),
}

impl Registry {
    pub(super) fn new(options: &Options) -> Result<Self, String> {
        let mut clients = HashMap::new();
        for (id, auth) in &options.clients {
            let proof = match auth {
                DevClientAuth::Secret(secret) => Proof::Secret(secret.clone()),
                DevClientAuth::PublicKeyPem(pem, algorithm) => Proof::Key(
                    public_key(pem, *algorithm).map_err(|e| format!("client {id}: {e}"))?,
                    *algorithm,
                ),
            };
            clients.insert(id.clone(), proof);
        }
        Ok(Self(clients))
    }

    pub(super) fn proof(&self, client: &str) -> Option<&Proof> {
        self.0.get(client)
    }
}

fn public_key(pem: &str, algorithm: Algorithm) -> Result<DecodingKey, jsonwebtoken::errors::Error> {
    match algorithm {
        Algorithm::ES256 | Algorithm::ES384 => DecodingKey::from_ec_pem(pem.as_bytes()),
        Algorithm::EdDSA => DecodingKey::from_ed_pem(pem.as_bytes()),
        _ => DecodingKey::from_rsa_pem(pem.as_bytes()),
    }
}
