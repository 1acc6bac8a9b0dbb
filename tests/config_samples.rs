//! The sample configurations in deploy/ are what the vault reads, and a
//! configuration with many faults is told all of them.

#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up must fail")]

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use obo_vault::config::{Config, Durability, Environment, Transport};
use obo_vault::domain::id::{CallerId, ClientId};
use obo_vault::domain::profile::Reuse;
use obo_vault::idp::{ClientAuth, SigningAlg, TenantRule};

/// A directory with a sample, its policy, and keys and certificates for those it
/// names.
struct Directory(tempfile::TempDir);

impl Directory {
    fn with(config: &str) -> Self {
        let dir = Self(tempfile::tempdir().unwrap());
        let (key, certificate) = client_key();
        for (private, text) in [
            ("root.key", "stand-in\n"),
            ("tls/server.key", key),
            ("secrets/portal.key", key),
            ("secrets/mobile", "stand-in\n"),
        ] {
            dir.write(private, text, 0o600);
        }
        for public in [
            "tls/server.pem",
            "tls/callers-ca.pem",
            "tls/partner-ca.pem",
            "tls/id-ca.pem",
            "secrets/portal.pem",
        ] {
            dir.write(public, certificate, 0o644);
        }
        dir.write("policy.cedar", &fs::read_to_string("deploy/policy.cedar").unwrap(), 0o644);
        for writable in ["var/lib/obo-vault", "var/lib/obo-vault-keys", "var/log/obo-vault"] {
            fs::create_dir_all(dir.path(writable)).unwrap();
        }
        dir.write("obo-vault.toml", config, 0o644);
        dir
    }

    /// The system's directories are put into this one.
    fn sample(name: &str) -> Self {
        Self::with(&fs::read_to_string(Path::new("deploy").join(name)).unwrap().replace("\"/var/", "\"var/"))
    }

    /// The production sample with one text in place of another.
    fn changed(from: &str, to: &str) -> Self {
        let sample = Self::sample("obo-vault.production.toml");
        let text = fs::read_to_string(sample.path("obo-vault.toml")).unwrap();
        assert!(text.contains(from), "{from} is not in the sample");
        sample.write("obo-vault.toml", &text.replacen(from, to, 1), 0o644);
        sample
    }

    fn set_mode(&self, name: &str, mode: u32) {
        use std::os::unix::fs::PermissionsExt as _;

        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Everything in it, with its length.
    fn files(&self) -> Vec<(PathBuf, u64)> {
        let mut files = Vec::new();
        let mut directories = vec![self.0.path().to_owned()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    directories.push(path.clone());
                }
                files.push((path.clone(), fs::metadata(&path).unwrap().len()));
            }
        }
        files.sort();
        files
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

/// An RSA key and its certificate, PEM.
fn client_key() -> (&'static str, &'static str) {
    static MADE: LazyLock<(String, String)> = LazyLock::new(|| {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        let parameters = rcgen::CertificateParams::new(["client.example".into()]).unwrap();
        (key.serialize_pem(), parameters.self_signed(&key).unwrap().pem())
    });
    (&MADE.0, &MADE.1)
}

const SECRET: [(&str, &str); 2] = [("PORTAL_CLIENT_SECRET", "hunter2"), ("BATCH_CLIENT_SECRET", "hunter2\n")];

#[test]
fn the_minimal_sample_is_a_configuration() {
    let dir = Directory::sample("obo-vault.minimal.toml");
    let config = dir.load(&SECRET).unwrap();
    assert!(matches!(config.server.transport, Transport::PlainText { .. }));
    assert_eq!(config.store.path, dir.path("vault.db"));
    assert_eq!(config.store.key_path, dir.path("keys.db"));
    assert_eq!(config.warnings, []);
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
    assert_eq!(config.store.path, dir.path("var/lib/obo-vault/vault.db"));
    assert_eq!(config.warnings, []);
    assert_eq!(config.rotation.time_zone.name(), "Europe/Berlin");
    assert!(config.tenants.purge_protection.is_some());
    let cloud = &config.providers["cloud"];
    assert_eq!(cloud.profile.reuse, Reuse::Grace { window: Duration::from_secs(30) });
    assert_eq!(cloud.profile.idle_lifetime, Some(Duration::from_secs(2_592_000)));
    let client = |name: &str| &config.clients[&ClientId::new(name).unwrap()].auth;
    let ClientAuth::PrivateKeyJwt { key_pem, alg, .. } = client("portal") else { panic!("not an assertion") };
    assert_eq!((key_pem.expose(), *alg), (client_key().0.trim_end(), SigningAlg::Ps256));
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
    let faults = dir
        .load(&[("OBO_VAULT__TENANTS__PURGE_PROTECTION", "maybe"), ("OBO_VAULT__SERVRE__LISTEN", "x")])
        .unwrap_err();
    assert!(!faults.contains("hunter2"), "{faults}");
    let own = fs::metadata(dir.path("obo-vault.toml")).unwrap();
    let faults =
        faults.replace(&format!("user {}, group {}", own.uid(), own.gid()), "user [own], group [own]");
    insta::assert_snapshot!(faults);
}

/// Each of these the vault once started with.
#[test]
fn what_is_well_formed_and_cannot_work_is_refused() {
    for (from, to, fault) in [
        ("127.0.0.1:9464", "127.0.0.1:8443", "server.metrics_listen: takes the port"),
        ("0 0 3 * * *", "0 0 3 30 2 *", "rotation.schedule: never fires"),
        ("0 0 3 * * *", "0 0 3 * * * 2020", "rotation.schedule: never fires"),
        (
            "var/log/obo-vault/audit.jsonl",
            "var/lib/obo-vault/vault.db",
            "audit.file: is the same file as store.path",
        ),
        ("var/log/obo-vault/audit.jsonl", "policy.cedar", "is the same file as audit.file"),
        ("var/log/obo-vault/audit.jsonl", "root.key", "audit.file: is the same file as root_key.file"),
        ("var/log/obo-vault/audit.jsonl", "obo-vault.toml", "is the same file as"),
        ("var/log/obo-vault/audit.jsonl", "var/lib/obo-vault/vault.db-wal", "keeps beside store.path"),
        ("var/log/obo-vault/audit.jsonl", "var/log/nowhere/audit.jsonl", "nowhere is not there: make it"),
        ("var/log/obo-vault/audit.jsonl", "var/log", "is not a file"),
        (
            "var/lib/obo-vault-keys/keys.db",
            "var/lib/../lib/obo-vault/vault.db",
            "is the same file as store.path",
        ),
        ("tls/id-ca.pem", "tls/server.key", "providers.cloud.ca_file: holds no certificate"),
        ("secrets/portal.pem", "secrets/portal.key", "clients.portal: its certificate"),
        ("file = \"policy.cedar\"", "file = \"secrets/mobile\"", "policy.file: line 1: "),
        ("tenant_claim = \"tid\"", "tenant_claim = \"iss\"", "entra.tenant_claim: cannot be `iss`"),
        (
            "subject_claims = [\"sub\"]",
            "subject_claims = [\"jti\"]",
            "cloud.subject_claims: cannot have `jti`",
        ),
        ("[\"https://vault.example.com\"]", "[\"api://{client_id}\"]", "cloud.audience: has a placeholder"),
        (
            "client_id = \"mobile\"",
            "client_id = \"<client-id>\"",
            "clients.mobile.client_id: has a placeholder",
        ),
        ("client_id = \"mobile\"", "client_id = \"mobile \"", "must not begin or end with white space"),
        ("{tenant}/v2.0", "common/v2.0", "providers.entra.issuer: has `common`"),
        (
            "https://id.example.com/\"",
            "https://id.example.com/.well-known/openid-configuration\"",
            "metadata",
        ),
        (
            "https://id.example.com/oauth/revoke",
            "https://id.example.com/oauth/token",
            "same as token_endpoint",
        ),
        (
            "BATCH_CLIENT_SECRET",
            "NO_SUCH_SECRET",
            "the environment variable NO_SUCH_SECRET, which is not set",
        ),
        ("BATCH_CLIENT_SECRET", "8Q~hunter2", "its name is not shown here"),
    ] {
        let faults = Directory::changed(from, to).load(&SECRET).unwrap_err();
        assert!(faults.contains(fault), "{to}: {faults}");
        assert!(!faults.contains("hunter2"), "{faults}");
    }
}

#[test]
fn a_vault_without_providers_or_clients_is_refused() {
    let text = "[server]\nplain_text_caller = \"spiffe://example.org/operator\"\n\
                [root_key]\nfile = \"root.key\"\n[policy]\nfile = \"policy.cedar\"\n";
    let faults = Directory::with(text).load(&[]).unwrap_err();
    assert!(
        faults.contains("providers: there is none") && faults.contains("clients: there is none"),
        "{faults}"
    );
}

#[test]
fn what_works_and_is_hardly_meant_is_a_warning() {
    for (from, to, warning) in [
        ("drain_seconds = 130", "drain_seconds = 30", "server.drain_seconds"),
        ("0 0 3 * * *", "*/5 * * * * *", "rotation.schedule"),
        ("0 0 3 * * *", "0 0 3 1 1 *", "rotation.schedule"),
        (
            "idle_lifetime_seconds = 2592000",
            "idle_lifetime_seconds = 3600",
            "providers.cloud.idle_lifetime_seconds",
        ),
        (
            "absolute_lifetime_seconds = 31536000",
            "absolute_lifetime_seconds = 60",
            "providers.cloud.idle_lifetime",
        ),
        ("provider = \"entra\"", "provider = \"cloud\"", "providers.entra"),
    ] {
        let config = Directory::changed(from, to).load(&SECRET).unwrap();
        assert!(config.warnings.iter().any(|w| w.path.starts_with(warning)), "{to}: {:?}", config.warnings);
    }
    let mut environment = SECRET.to_vec();
    environment.extend([("OBO_VAULT_LISTEN", "127.0.0.1:1"), ("OBO_VAULT_PORT", "tcp://10.0.0.1:8443")]);
    let config = Directory::sample("obo-vault.minimal.toml").load(&environment).unwrap();
    let warned: Vec<&str> = config.warnings.iter().map(|warning| warning.path.as_str()).collect();
    assert_eq!(warned, ["OBO_VAULT_LISTEN"]);
}

#[test]
fn an_environment_variable_is_named_by_its_own_name_and_an_empty_one_is_none() {
    let dir = Directory::sample("obo-vault.minimal.toml");
    let load = |more: &[(&str, &str)]| dir.load(&[&SECRET[..], more].concat());
    let faults = load(&[
        ("OBO_VAULT__SERVRE__LISTEN", "127.0.0.1:1"),
        ("OBO_VAULT__SERVER__LISTNE", "127.0.0.1:1"),
        ("OBO_VAULT__CACHE__MAX_TOKENS", "many"),
    ])
    .unwrap_err();
    let mut lines: Vec<&str> = faults.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "OBO_VAULT__CACHE__MAX_TOKENS (cache.max_tokens): must be a whole number from 1 to 100000000",
            "OBO_VAULT__SERVER__LISTNE: sets server.listne, which is not a key the vault knows",
            "OBO_VAULT__SERVRE__LISTEN: sets servre.listen, which is not a key the vault knows",
        ]
    );
    let config = load(&[("OBO_VAULT__SERVER__LISTEN", ""), ("OBO_VAULT__SERVRE__LISTEN", "")]).unwrap();
    assert_eq!(config.server.listen.port(), 8443);
    let fault = dir.load(&[("PORTAL_CLIENT_SECRET", "")]).unwrap_err();
    assert!(fault.contains("PORTAL_CLIENT_SECRET, which is not set or empty"), "{fault}");
}

#[test]
fn what_others_can_change_is_refused() {
    let dir = Directory::sample("obo-vault.production.toml");
    dir.write("var/log/obo-vault/audit.jsonl", "", 0o600);
    dir.write("var/lib/obo-vault/vault.db", "", 0o600);
    dir.load(&SECRET).unwrap();
    for name in [
        "obo-vault.toml",
        "policy.cedar",
        "root.key",
        "tls/server.pem",
        "tls/server.key",
        "tls/callers-ca.pem",
        "tls/id-ca.pem",
        "secrets/portal.pem",
        "secrets/portal.key",
        "secrets/mobile",
        "var/log/obo-vault/audit.jsonl",
        "var/lib/obo-vault/vault.db",
        "tls",
        "secrets",
        "var/log/obo-vault",
        "var/lib/obo-vault-keys",
        "var/lib",
    ] {
        use std::os::unix::fs::PermissionsExt as _;

        let good = fs::metadata(dir.path(name)).unwrap().permissions().mode() & 0o7777;
        dir.set_mode(name, good | 0o006);
        let faults = dir.load(&SECRET).unwrap_err();
        assert!(faults.contains(&format!("[dir]/{name} (mode")), "{name}: {faults}");
        assert!(faults.contains("run `chmod"), "{name}: {faults}");
        dir.set_mode(name, good);
    }
    dir.load(&SECRET).unwrap();
}

/// `obo-vault config check` on the directory: exit code and JSON document.
fn check(dir: &Directory) -> (Option<i32>, serde_json::Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_obo-vault"))
        .args(["--output", "json", "config", "check", "--config"])
        .arg(dir.path("obo-vault.toml"))
        .env_clear()
        .envs(SECRET)
        .output()
        .unwrap();
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap())
}

#[test]
fn a_check_finds_what_a_start_would_and_writes_nothing() {
    let dir = Directory::sample("obo-vault.minimal.toml");
    let (code, document) = check(&dir);
    assert_eq!(code, Some(3), "{document}");
    assert_eq!(document["usable"], false);
    assert!(document["findings"][0]["what"].as_str().unwrap().contains("root.key"), "{document}");

    fs::remove_file(dir.path("root.key")).unwrap();
    obo_vault::keyring::FileRootKey::create(&dir.path("root.key")).unwrap();
    let before = dir.files();
    let (code, document) = check(&dir);
    assert_eq!(code, Some(0), "{document}");
    assert_eq!((&document["usable"], &document["findings"]), (&true.into(), &serde_json::json!([])));
    assert_eq!(dir.files(), before, "the check left something behind");

    for (name, text) in [("audit.jsonl", "no entry\n"), ("vault.db", "no database"), ("keys.db", "neither")] {
        dir.write(name, text, 0o600);
        let (code, document) = check(&dir);
        assert_eq!(code, Some(3), "{document}");
        assert!(document["findings"][0]["setting"].as_str().unwrap().contains(name), "{document}");
        fs::remove_file(dir.path(name)).unwrap();
    }

    let text = fs::read_to_string(dir.path("obo-vault.toml")).unwrap();
    dir.write("obo-vault.toml", &format!("{text}\n[cache]\nmax_tokens = 0\nmax_tokenz = 1\n"), 0o644);
    let (code, document) = check(&dir);
    assert_eq!(code, Some(3));
    assert_eq!(document["findings"].as_array().unwrap().len(), 2, "{document}");
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
