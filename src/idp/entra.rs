//! The production sample held against the tokens that Entra issues: recorded
//! claim sets with the names exchanged, signed with a key of the test. A sample
//! that is well-formed and accepts no real token is a defect.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use super::testing::{Reply, RsaKey, Server, StillClock};
use super::{AssertionError, Client, ClientAuth, ClientSpec, Idp, VerifiedUser};
use crate::clock::Clock as _;
use crate::config::{Config, Environment};
use crate::domain::id::{CallerId, ClientId, TenantId};
use crate::entropy::OsEntropy;
use crate::secret::{ClientSecret, UnverifiedAssertion};

/// A directory of Entra, as a tenant of the vault.
const CONTOSO: &str = "72f988bf-86f1-41af-91ab-2d7cd011db47";
/// Another one.
const FABRIKAM: &str = "0a1f2c3d-1111-4222-8333-944455556666";
/// The API that the user's token is made out to, which is the vault's client.
const API: &str = "5a3d1f0e-7b52-4a39-8c26-0b6a0f1c9d34";
const ADA: &str = "2f6a1a3e-4c7e-4b70-9d6e-5c3b9b8a7f10";

/// The production sample's Entra block and the client that uses it, with the keys
/// of a server of the test. Nothing else of it is changed.
struct Sample {
    key: RsaKey,
    server: Server,
    clock: Arc<StillClock>,
    client: Arc<Client>,
}

impl Sample {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = production_sample(directory.path());
        let key = RsaKey::generate();
        // As they stand in discovery/v2.0/keys, which serves both forms.
        let mut published = key.published("k1");
        published["issuer"] = "https://login.microsoftonline.com/{tenantid}/v2.0".into();
        let server = Server::start(Reply::keys(&[published])).await;
        let clock = Arc::new(StillClock::new());
        let mut provider = config.providers["entra"].clone();
        provider.jwks_uri = format!("{}/{{tenant}}/discovery/v2.0/keys", server.base);
        let id = ClientId::new("portal").unwrap();
        // The sample's own proof needs a real private key; it is of no concern here.
        let portal = &config.clients[&id];
        let client = ClientSpec {
            id: id.clone(),
            provider: provider.name.clone(),
            client_id: portal.client_id.clone(),
            auth: ClientAuth::SecretPost(ClientSecret::new("secret".into())),
            declares_cp1: portal.declares_cp1,
        };
        let shared: crate::clock::SharedClock = clock.clone();
        let idp = Idp::new([&provider], [&client], &shared, &OsEntropy::shared()).unwrap();
        let client = Arc::clone(idp.client(&id).unwrap());
        Self { key, server, clock, client }
    }

    /// A v1.0 access token, which an API gets whose manifest does not ask for
    /// another form.
    fn v1(&self, tenant: &str) -> Value {
        let now = self.clock.now().unix_seconds();
        json!({
            "aud": "api://obo-vault", "iss": format!("https://sts.windows.net/{tenant}/"),
            "iat": now - 60, "nbf": now - 60, "exp": now + 4000, "acr": "1",
            "aio": "ATQAy/8TAAAAn7Xw", "amr": ["pwd", "mfa"],
            "appid": "d44e7f0b-1111-4f5a-9d2b-0c6b4c9f1a22", "appidacr": "0",
            "family_name": "Lovelace", "given_name": "Ada", "ipaddr": "203.0.113.7",
            "name": "Ada Lovelace", "oid": ADA, "rh": "0.AXkA", "scp": "access_as_user",
            "sub": "bYH4b9mY0kX1sJt2v3o5u7w9y", "tid": tenant, "unique_name": "ada@contoso.example",
            "upn": "ada@contoso.example", "uti": "q1w2e3r4t5y6u7i8o9p0AA", "ver": "1.0",
        })
    }

    /// A v2.0 access token.
    fn v2(&self, tenant: &str) -> Value {
        let now = self.clock.now().unix_seconds();
        json!({
            "aud": API, "iss": format!("https://login.microsoftonline.com/{tenant}/v2.0"),
            "iat": now - 60, "nbf": now - 60, "exp": now + 4000, "aio": "AWQAm/8TAAAA",
            "azp": "d44e7f0b-1111-4f5a-9d2b-0c6b4c9f1a22", "azpacr": "0", "name": "Ada Lovelace",
            "oid": ADA, "preferred_username": "ada@contoso.example", "rh": "0.AXkA",
            "scp": "access_as_user", "sub": "bYH4b9mY0kX1sJt2v3o5u7w9y", "tid": tenant,
            "uti": "q1w2e3r4t5y6u7i8o9p0AA", "ver": "2.0",
        })
    }

    async fn verify(&self, claims: &Value) -> Result<VerifiedUser, AssertionError> {
        let token = self.key.token(Some("k1"), claims);
        let caller = CallerId::new("web").unwrap();
        self.client.verify_assertion(&caller, &UnverifiedAssertion::new(token)).await
    }
}

/// The sample with stand-ins for the files it names, all of it read as `serve`
/// reads it.
fn production_sample(directory: &Path) -> Config {
    use std::os::unix::fs::PermissionsExt as _;

    let deploy = |name: &str| {
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)).unwrap()
    };
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let certificate = rcgen::CertificateParams::new(["client.example".into()]).unwrap();
    let certificate = certificate.self_signed(&key).unwrap().pem();
    // The system's directories are put into this one.
    let text = deploy("obo-vault.production.toml").replace("\"/var/", "\"var/");
    let named = text.lines().filter_map(|line| line.trim_start_matches("# ").split_once(" = \""));
    for (setting, file) in named.filter(|(key, _)| key.ends_with("file") || key.ends_with("path")) {
        let path = directory.join(file.trim_end_matches('"'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let text = match setting {
            "path" | "key_path" => continue,
            "key_file" => key.serialize_pem(),
            "certificate_file" | "ca_file" | "client_ca_file" => certificate.clone(),
            _ if file.starts_with("policy") => deploy("policy.cedar"),
            _ => "stand-in\n".to_owned(),
        };
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let path = directory.join("obo-vault.toml");
    fs::write(&path, text).unwrap();
    let variables = HashMap::from([("BATCH_CLIENT_SECRET".into(), "secret".into())]);
    Config::load_with(&path, &Environment::from(variables)).unwrap()
}

fn with(mut claims: Value, name: &str, value: &str) -> Value {
    claims[name] = value.into();
    claims
}

#[tokio::test]
async fn the_production_sample_accepts_both_forms_of_entras_tokens() {
    let sample = Sample::new().await;
    let app_id_uri = format!("api://{API}");
    for tenant in [CONTOSO, FABRIKAM] {
        for claims in [
            sample.v2(tenant),
            sample.v1(tenant),
            with(sample.v1(tenant), "aud", API),
            with(sample.v1(tenant), "aud", &app_id_uri),
        ] {
            let user = sample.verify(&claims).await.unwrap();
            assert_eq!((user.tenant.as_str(), user.subject.as_str()), (tenant, ADA), "{claims}");
            // One user, one grant, under one issuer: the form may alternate.
            let issuer = sample.client.issuer(&user.tenant);
            assert_eq!(issuer.as_str(), format!("https://login.microsoftonline.com/{tenant}/v2.0"));
        }
    }
    let one_set_each = sample.server.requests().len();
    assert_eq!(one_set_each, 2, "both forms are checked with one key set of their tenant");
}

#[tokio::test]
async fn a_form_is_believed_with_its_own_audience_and_tenant_only() {
    let sample = Sample::new().await;
    let v1_of = |tenant: &str| format!("https://sts.windows.net/{tenant}/");
    let v2_of = |tenant: &str| format!("https://login.microsoftonline.com/{tenant}/v2.0");
    for (claims, why) in [
        // Never issued: an application of another tenant may have the same URI.
        (with(sample.v2(CONTOSO), "aud", "api://obo-vault"), "its audience is"),
        (with(sample.v1(CONTOSO), "aud", "https://graph.microsoft.com"), "its audience is"),
        (with(sample.v2(CONTOSO), "aud", "00000003-0000-0000-c000-000000000000"), "its audience is"),
        (with(sample.v1(CONTOSO), "iss", &v1_of(FABRIKAM)), "its issuer is"),
        (with(sample.v2(CONTOSO), "iss", &v2_of(FABRIKAM)), "its issuer is"),
        (with(sample.v1(CONTOSO), "iss", "https://sts.windows.net/{tenant}/"), "its issuer is"),
        (with(sample.v1(CONTOSO), "iss", v1_of(CONTOSO).trim_end_matches('/')), "its issuer is"),
        (with(sample.v1(CONTOSO), "idtyp", "app"), "its idtyp is"),
    ] {
        let outcome = sample.verify(&claims).await;
        let Err(AssertionError::Rejected(detail)) = outcome else { panic!("{claims}: {outcome:?}") };
        assert!(detail.starts_with(why) || detail.contains(why), "{detail}");
    }
    // What came and all that would have done.
    let stranger = with(sample.v1(CONTOSO), "iss", "https://evil.example/");
    let Err(AssertionError::Rejected(detail)) = sample.verify(&stranger).await else { panic!() };
    let (v1, v2) = (v1_of(CONTOSO), v2_of(CONTOSO));
    assert_eq!(detail, format!("its issuer is \"https://evil.example/\", expected \"{v2}\" or \"{v1}\""));
    let tenant = TenantId::new(CONTOSO).unwrap();
    assert_eq!(sample.client.issuer(&tenant).as_str(), v2);
}

/// An ID token has the same audience and issuer as a v2.0 access token.
#[tokio::test]
async fn an_id_token_of_entra_is_no_access_token() {
    let sample = Sample::new().await;
    for form in [sample.v1(CONTOSO), sample.v2(CONTOSO)] {
        let mut claims = with(form, "aud", API);
        for access in ["scp", "azp", "azpacr", "appid", "appidacr"] {
            claims.as_object_mut().unwrap().remove(access);
        }
        let outcome = sample.verify(&claims).await;
        let Err(AssertionError::Rejected(detail)) = outcome else { panic!("{claims}: {outcome:?}") };
        assert!(detail.contains("an ID token"), "{detail}");
    }
}
