//! The sample configurations in deploy/ are what the vault reads, and a
//! configuration with many faults is told all of them.

#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up must fail")]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use obo_vault::config::{Config, Durability, Environment, Transport};
use obo_vault::domain::id::{CallerId, ClientId};
use obo_vault::domain::profile::Reuse;
use obo_vault::idp::{ClientAuth, SigningAlg, TenantRule};

/// A directory with a sample, a policy, and stand-ins for the secrets it names.
struct Directory(tempfile::TempDir);

impl Directory {
    fn with(config: &str) -> Self {
        let dir = Self(tempfile::tempdir().unwrap());
        for private in ["root.key", "tls/server.key", "secrets/portal.key", "secrets/mobile"] {
            dir.write(private, "stand-in\n", 0o600);
        }
        for public in [
            "policy.cedar",
            "tls/server.pem",
            "tls/callers-ca.pem",
            "tls/partner-ca.pem",
            "tls/id-ca.pem",
            "secrets/portal.pem",
        ] {
            dir.write(public, "stand-in\n", 0o644);
        }
        dir.write("obo-vault.toml", config, 0o644);
        dir
    }

    fn sample(name: &str) -> Self {
        Self::with(&fs::read_to_string(Path::new("deploy").join(name)).unwrap())
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        use std::os::unix::fs::PermissionsExt as _;

        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn load(&self, environment: &[(&str, &str)]) -> Result<Config, String> {
        let environment: Environment = environment
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect::<HashMap<_, _>>();
        Config::load_with(&self.path("obo-vault.toml"), &environment)
            .map_err(|faults| faults.to_string().replace(self.0.path().to_str().unwrap(), "[dir]"))
    }
}

const SECRET: [(&str, &str); 2] = [("PORTAL_CLIENT_SECRET", "hunter2"), ("BATCH_CLIENT_SECRET", "hunter2\n")];

#[test]
fn the_minimal_sample_is_a_configuration() {
    let dir = Directory::sample("obo-vault.minimal.toml");
    let config = dir.load(&SECRET).unwrap();
    assert!(matches!(config.server.transport, Transport::PlainText { .. }));
    assert_eq!(config.store.path, dir.path("vault.db"));
    assert_eq!(config.store.key_path, dir.path("keys.db"));
    assert_eq!(config.audit.durability, Durability::Fsync);
    let provider = &config.providers["example"];
    assert_eq!(provider.profile.reuse, Reuse::Strict);
    assert_eq!(provider.tenant, TenantRule::Claim("tid".into()));
    let client = &config.clients[&ClientId::new("portal").unwrap()];
    assert!(matches!(&client.auth, ClientAuth::SecretPost(secret) if secret.expose() == "hunter2"));
}

#[test]
fn the_production_sample_is_a_configuration() {
    let dir = Directory::sample("obo-vault.production.toml");
    let config = dir.load(&SECRET).unwrap();
    let Transport::MutualTls { key_file, callers, .. } = &config.server.transport else { panic!("not mTLS") };
    assert_eq!(*key_file, dir.path("tls/server.key"));
    let (own, partner) = (&callers[0], &callers[1]);
    assert_eq!(own.ca_file, dir.path("tls/callers-ca.pem"));
    for (callers, caller, named) in [
        (own, "spiffe://example.org/operator", true),
        (own, "spiffe://partner.example/sync", false),
        (partner, "spiffe://partner.example/sync", true),
        (partner, "dns:batch.partner.example", true),
        (partner, "spiffe://example.org/operator", false),
    ] {
        assert_eq!(callers.names.include(&CallerId::new(caller).unwrap()), named, "{caller}");
    }
    assert_eq!(config.store.path, Path::new("/var/lib/obo-vault/vault.db"));
    assert_eq!(config.rotation.time_zone.name(), "Europe/Berlin");
    assert!(config.tenants.purge_protection);
    let cloud = &config.providers["cloud"];
    assert_eq!(cloud.profile.reuse, Reuse::Grace { window: Duration::from_secs(30) });
    assert_eq!(cloud.profile.idle_lifetime, Some(Duration::from_secs(2_592_000)));
    let client = |name: &str| &config.clients[&ClientId::new(name).unwrap()].auth;
    let ClientAuth::PrivateKeyJwt { key_pem, alg, .. } = client("portal") else { panic!("not an assertion") };
    assert_eq!((key_pem.expose(), *alg), ("stand-in", SigningAlg::Ps256));
    assert!(matches!(client("mobile"), ClientAuth::SecretBasic(secret) if secret.expose() == "stand-in"));
    assert!(matches!(client("batch"), ClientAuth::SecretPost(secret) if secret.expose() == "hunter2"));
}

/// The sample is the reference of keys: what it gives a default for is the
/// default in the code.
#[test]
fn the_defaults_are_those_the_sample_names() {
    let minimal = Directory::sample("obo-vault.minimal.toml").load(&SECRET).unwrap();
    let production = Directory::sample("obo-vault.production.toml").load(&SECRET).unwrap();
    assert_eq!(minimal.cache, production.cache);
    assert_eq!(minimal.log, production.log);
    assert_eq!(minimal.rotation.schedule, production.rotation.schedule);
    assert_eq!(minimal.rotation.key_max_age, production.rotation.key_max_age);
    assert_eq!(minimal.rotation.refresh_before_idle, production.rotation.refresh_before_idle);
    assert_eq!(minimal.rotation.batch_size, production.rotation.batch_size);
    assert_eq!(minimal.rotation.jitter, production.rotation.jitter);
    assert_eq!(minimal.rotation.refresh_every, None);
    assert_eq!(minimal.server.max_message_bytes, production.server.max_message_bytes);
    assert_eq!(minimal.server.drain, production.server.drain);
    assert_eq!(minimal.server.limits, production.server.limits);
    assert_eq!(minimal.providers["example"].budget, production.providers["entra"].budget);
    assert_eq!(minimal.providers["example"].subject_claims, ["oid", "sub"]);
}

#[test]
fn the_environment_wins_over_the_file() {
    let dir = Directory::sample("obo-vault.minimal.toml");
    let mut environment = SECRET.to_vec();
    environment.extend([
        ("OBO_VAULT__SERVER__LISTEN", "127.0.0.1:9000"),
        ("OBO_VAULT__SERVER__REFLECTION", "true"),
        ("OBO_VAULT__CACHE__MAX_TOKENS", "7"),
        ("OBO_VAULT__PROVIDERS__EXAMPLE__AUDIENCE", "api://a, api://b"),
        ("OBO_VAULT__CLIENTS__PORTAL__CLIENT_ID", "0123"),
        ("OBO_VAULT_ENDPOINT", "https://not.a.setting"),
    ]);
    let config = dir.load(&environment).unwrap();
    assert_eq!(config.server.listen.port(), 9000);
    assert!(config.server.reflection);
    assert_eq!(config.cache.max_tokens, 7);
    assert_eq!(config.providers["example"].audience, ["api://a", "api://b"]);
    assert_eq!(config.clients[&ClientId::new("portal").unwrap()].client_id, "0123");
}

#[test]
fn all_faults_are_reported_at_once() {
    let dir = Directory::with(
        r#"
        colour = "blue"

        [server]
        listen = "0.0.0.0:8443"
        plain_text_caller = "a b"
        max_message_bytes = "65536"
        reflection = 1
        tls.key_file = "tls/server.key"

        [store]
        path = "same.db"
        key_path = "same.db"

        [root_key]
        file = "loose.key"

        [policy]
        file = "tls"

        [audit]
        durability = "sometimes"

        [cache]
        max_tokens = 0

        [rotation]
        schedule = "0 3 * * *"
        time_zone = "Mars/Olympus"
        batchsize = 5

        [log]
        level = "inof"

        [providers.entra]
        issuer = "login"
        token_endpoint = "http://login.example.com/token"
        jwks_uri = "https://user:hunter2@login.example.com/keys"
        audience = []
        tenant = "acme"
        tenant_claim = "tid"
        profile = "strict"
        grace_seconds = 30
        ca_file = "absent.pem"

        [providers.half]
        profile = "grace"

        [providers."a b"]
        issuer = "https://a.example.com"
        token_endpoint = "https://a.example.com"
        jwks_uri = "http://127.0.0.1/keys"
        audience = ["a"]
        tenant = "../acme"
        profile = "lenient"

        [clients.portal]
        provider = "entra"
        client_id = "portal"
        client_secret = "hunter2"
        auth = "secret_post"

        [clients."up/down"]
        provider = "nowhere"
        auth = "private_key_jwt"
        client_secret_file = "secrets/mobile"
        algorithm = "none"

        [clients.both]
        provider = "half"
        client_id = 5
        auth = "secret_basic"
        client_secret_file = "secrets/mobile"
        client_secret_env = "NOT_SET"

        [clients.unset]
        provider = "half"
        client_id = "unset"
        auth = "secret_basic"
        client_secret_env = "NOT_SET"

        [clients.open]
        provider = "half"
        client_id = "open"
        auth = "secret_basic"
        client_secret_file = "open-secret"
        key_id = "k"
        "#,
    );
    dir.write("loose.key", "stand-in", 0o644);
    dir.write("open-secret", "hunter2", 0o604);
    let faults = dir.load(&[("OBO_VAULT__TENANTS__PURGE_PROTECTION", "maybe")]).unwrap_err();
    assert!(!faults.contains("hunter2"), "{faults}");
    insta::assert_snapshot!(faults);
}

#[test]
fn whom_an_authority_may_name_is_checked() {
    let tls = "[server]\nlisten = \"127.0.0.1:8443\"\ntls.certificate_file = \"tls/server.pem\"\n\
               tls.key_file = \"tls/server.key\"\n";
    let cases = [
        ("[[server.callers]]\ntrust_domain = \"a\"", "server.callers[0].ca_file: is required"),
        (
            "[[server.callers]]\nca_file = \"tls/id-ca.pem\"",
            "server.callers[0]: needs trust_domain, or names",
        ),
        (
            "[[server.callers]]\nca_file = \"tls/id-ca.pem\"\ntrust_domain = \"*.org\"",
            "trust_domain: must be",
        ),
        ("[[server.callers]]\nca_file = \"tls/id-ca.pem\"\nnames = [\"spiffe://a/*\"]", "names: must be"),
        ("[[server.callers]]\nca_file = \"tls/id-ca.pem\"\nnames = [\"dns:A.example\"]", "names: must be"),
        (
            "[[server.callers]]\nca_file = \"tls/id-ca.pem\"\npath_prefix = \"/a\"\nnames = [\"urn:a\"]",
            "path_prefix: is a part",
        ),
        (
            "[[server.callers]]\nca_file = \"tls/id-ca.pem\"\ntrust_domain = \"a\"\npath_prefix = \"a\"",
            "path_prefix: must begin",
        ),
        (
            "[[server.callers]]\nca_file = \"tls/id-ca.pem\"\ntrust_domain = \"a\"\nname = \"x\"",
            "server.callers[0].name: is not a key",
        ),
        (
            "[[server.callers]]\nca_file = \"tls/absent.pem\"\ntrust_domain = \"a\"",
            "tls/absent.pem cannot be read",
        ),
        ("callers = []", "server.callers: must be tables"),
        ("callers = [\"a\"]", "server.callers: must be tables"),
        ("", "server.tls.client_ca_file: is required, or [[server.callers]]"),
        (
            "tls.client_ca_file = \"tls/id-ca.pem\"\n[[server.callers]]\nca_file = \"tls/id-ca.pem\"\ntrust_domain = \"a\"",
            "client_ca_file: must be left out",
        ),
        (
            "plain_text_caller = \"urn:a\"\n[[server.callers]]\nca_file = \"tls/id-ca.pem\"\ntrust_domain = \"a\"",
            "server.callers: must be left out",
        ),
    ];
    for (callers, expected) in cases {
        let faults = Directory::with(&format!("{tls}{callers}\n")).load(&[]).unwrap_err();
        assert!(faults.contains(expected), "{callers}:\n{faults}");
    }
}

#[test]
fn a_file_that_is_no_toml_does_not_show_its_line() {
    let dir = Directory::with("[clients.portal]\nclient_secret = \"hunter2\n");
    let fault = dir.load(&[]).unwrap_err();
    assert!(fault.contains("line 2") && !fault.contains("hunter2"), "{fault}");
}

#[test]
fn an_absent_file_is_one_fault() {
    let fault = Config::load_with(Path::new("no-such-file.toml"), &Environment::new()).unwrap_err();
    assert_eq!(fault.faults().len(), 1);
    assert!(fault.to_string().starts_with("no-such-file.toml: cannot be read"), "{fault}");
}
