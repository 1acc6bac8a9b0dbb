//! `[clients.<name>]`: the OAuth clients as which the vault speaks.

use std::path::PathBuf;

use crate::domain::id::ClientId;
use crate::idp::{ClientAuth, ClientSpec, SigningAlg};
use crate::secret::ClientSecret;

use super::table::Table;
use super::{file, parse};

/// The files of a client's credentials, to be read again when they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFiles {
    method: Method,
    /// The secret, or the private key.
    secret: PathBuf,
    certificate: Option<PathBuf>,
    alg: SigningAlg,
    key_id: Option<String>,
}

impl ClientFiles {
    /// Those that are there to be read.
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        std::iter::once(&self.secret).chain(&self.certificate).cloned().collect()
    }

    /// Reads them as they are now.
    ///
    /// # Errors
    ///
    /// What is wrong with a file; nothing of what is in it.
    pub fn read(&self) -> Result<ClientAuth, String> {
        let secret = ClientSecret::new(file::read_private(&self.secret)?);
        Ok(match self.method {
            Method::SecretPost => ClientAuth::SecretPost(secret),
            Method::SecretBasic => ClientAuth::SecretBasic(secret),
            Method::PrivateKeyJwt => ClientAuth::PrivateKeyJwt {
                key_pem: secret,
                alg: self.alg,
                key_id: self.key_id.clone(),
                certificate_pem: self.certificate.as_deref().map(file::read).transpose()?,
            },
        })
    }
}

/// A client as read: its settings, and its files where it has any.
pub(super) struct Read {
    pub(super) spec: ClientSpec,
    pub(super) files: Option<ClientFiles>,
}

pub(super) fn read(id: Option<ClientId>, table: &mut Table<'_>, providers: &[String]) -> Option<Read> {
    let provider = table.required("provider", |v| {
        let name = parse::text(v)?;
        if providers.contains(&name) { Ok(name) } else { Err("must be the name of a provider".into()) }
    });
    let client_id = table.required("client_id", parse::text);
    table.refuse(
        "client_secret",
        "is refused: secrets are never written into settings. Put it into a file that only the vault's \
         user can read and name that in client_secret_file, or name an environment variable in \
         client_secret_env",
    );
    let secret = table.peek_path("client_secret_file").or_else(|| table.peek_path("key_file"));
    let certificate = table.peek_path("certificate_file");
    let auth = read_auth(table);
    let declares_cp1 = table.or("declares_cp1", false, parse::flag);
    let auth = auth?;
    let files = secret.map(|secret| {
        let (method, alg, key_id) = match &auth {
            ClientAuth::SecretPost(_) => (Method::SecretPost, SigningAlg::Ps256, None),
            ClientAuth::SecretBasic(_) => (Method::SecretBasic, SigningAlg::Ps256, None),
            ClientAuth::PrivateKeyJwt { alg, key_id, .. } => (Method::PrivateKeyJwt, *alg, key_id.clone()),
        };
        ClientFiles { method, secret, certificate, alg, key_id }
    });
    let spec = ClientSpec { id: id?, provider: provider?, client_id: client_id?, auth, declares_cp1 };
    Some(Read { spec, files })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    SecretPost,
    SecretBasic,
    PrivateKeyJwt,
}

const SECRET_KEYS: [&str; 2] = ["client_secret_file", "client_secret_env"];
const ASSERTION_KEYS: [&str; 4] = ["key_file", "algorithm", "key_id", "certificate_file"];

fn read_auth(table: &mut Table<'_>) -> Option<ClientAuth> {
    let words = [
        ("secret_post", Method::SecretPost),
        ("secret_basic", Method::SecretBasic),
        ("private_key_jwt", Method::PrivateKeyJwt),
    ];
    match table.required("auth", parse::word(&words)) {
        Some(Method::SecretPost) => read_secret(table).map(ClientAuth::SecretPost),
        Some(Method::SecretBasic) => read_secret(table).map(ClientAuth::SecretBasic),
        Some(Method::PrivateKeyJwt) => read_assertion(table),
        None => {
            // What they would have to be depends on `auth`, which has its fault.
            for key in SECRET_KEYS.iter().chain(&ASSERTION_KEYS) {
                table.optional(key, |_| Ok(()));
            }
            None
        }
    }
}

fn read_secret(table: &mut Table<'_>) -> Option<ClientSecret> {
    for key in ASSERTION_KEYS {
        table.refuse(key, "is for auth = \"private_key_jwt\" only");
    }
    let [file, variable] = SECRET_KEYS.map(|key| table.has(key));
    match (file, variable) {
        (true, false) => table.private_text("client_secret_file"),
        (false, true) => table.variable("client_secret_env"),
        (true, true) => {
            table.refuse("client_secret_file", "cannot stand beside client_secret_env: choose one");
            table.refuse("client_secret_env", "cannot stand beside client_secret_file: choose one");
            None
        }
        (false, false) => {
            table.fault("", "needs client_secret_file or client_secret_env");
            None
        }
    }
    .map(ClientSecret::new)
}

fn read_assertion(table: &mut Table<'_>) -> Option<ClientAuth> {
    for key in SECRET_KEYS {
        table.refuse(key, "is for auth = \"secret_post\" or \"secret_basic\" only");
    }
    let words = [("PS256", SigningAlg::Ps256), ("RS256", SigningAlg::Rs256), ("ES256", SigningAlg::Es256)];
    if !table.has("key_file") {
        table.fault("key_file", "is required");
    }
    let key = table.private_text("key_file");
    let alg = table.or("algorithm", SigningAlg::Ps256, parse::word(&words));
    let key_id = table.optional("key_id", parse::text);
    let certificate_pem = table.public_text("certificate_file");
    Some(ClientAuth::PrivateKeyJwt { key_pem: ClientSecret::new(key?), alg, key_id, certificate_pem })
}
