//! The command line against a running vault, and against what else may listen
//! in its place: each thing that can go wrong has its sentence, says what to do,
//! and has its exit code.

#![cfg(feature = "demo")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use obo_vault::app::Ambient;
use obo_vault::clock::ShiftedClock;
use obo_vault::demo::pki::Pki;
use obo_vault::demo::provider::{DevProvider, Fault, Options, UserClaims};
use obo_vault::demo::stand::{Files, RunningVault, Settings, Upstream};
use obo_vault::entropy::OsEntropy;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use serde_json::{Value, json};

/// A running vault with its provider.
struct Bed {
    directory: tempfile::TempDir,
    files: Files,
    provider: DevProvider,
    vault: RunningVault,
}

/// What a command has written, and how it ended.
struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Bed {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = Arc::new(ShiftedClock::new());
        let provider =
            DevProvider::start(Options::default(), clock.clone(), OsEntropy::shared()).await.unwrap();
        let upstream = Upstream::of(&provider);
        let files = Files::create(directory.path(), &upstream, &Settings::default(), 0).unwrap();
        let ambient = Ambient { clock, entropy: OsEntropy::shared() };
        let vault = RunningVault::start(&files, ambient).await.unwrap();
        Self { directory, files, provider, vault }
    }

    fn endpoint(&self) -> String {
        format!("https://{}", self.vault.address())
    }

    /// The binary as the caller of that name.
    fn command(&self, caller: &str) -> Command {
        let mut command = binary();
        command.env("OBO_VAULT_ENDPOINT", self.endpoint()).env("OBO_VAULT_CA", self.files.pki().ca());
        self.identify(&mut command, caller);
        command
    }

    fn identify(&self, command: &mut Command, caller: &str) {
        let file = |kind: &str| self.directory.path().join(format!("{caller}.{kind}"));
        command.env("OBO_VAULT_CERT", file("pem")).env("OBO_VAULT_KEY", file("key"));
    }

    fn run(&self, caller: &str, arguments: &[&str]) -> Ran {
        ran(self.command(caller).args(arguments))
    }

    /// Enrols a user by the command line.
    fn enrol(&self, user: &str) {
        let claims = UserClaims { tenant: Some("acme".to_owned()), ..UserClaims::default() };
        let file = self.directory.path().join("user.jwt");
        fs::write(&file, self.provider.user_token_with(user, claims)).unwrap();
        let file = file.to_str().unwrap();
        let enrolled = self.run(
            "web",
            &["grant", "exchange", "--client", "portal", "--token-file", file, "--scope", "mail.read"],
        );
        assert_eq!(enrolled.code, Some(0), "{}", enrolled.stderr);
    }
}

fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_obo-vault"));
    command.env_clear().stdin(Stdio::null());
    command
}

/// Runs a command while the vault of this process goes on.
fn ran(command: &mut Command) -> Ran {
    let output = tokio::task::block_in_place(|| command.output()).unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

impl Ran {
    /// It failed with that code, in a sentence with these words.
    #[track_caller]
    fn failed(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{}", self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not said: {}", self.stderr);
        }
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
    }
}

/// A caller's files that are not the vault's, for servers that are none.
fn caller_files(directory: &Path) -> [String; 6] {
    let pki = Pki::new(directory).unwrap();
    let pair = pki.caller("caller", "spiffe://stand/operator").unwrap();
    let text = |path: PathBuf| path.to_str().unwrap().to_owned();
    ["--ca".into(), text(pki.ca()), "--cert".into(), text(pair.certificate), "--key".into(), text(pair.key)]
}

/// A server that does one thing with each connection.
fn server(handle: impl Fn(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || listener.incoming().flatten().for_each(handle));
    address
}

fn list(endpoint: &str, more: &[String]) -> Ran {
    ran(binary().args(["tenant", "list", "--endpoint", endpoint]).args(more))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_where_nothing_listens_is_unavailable() {
    let directory = tempfile::tempdir().unwrap();
    let files = caller_files(directory.path());
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    for endpoint in [format!("https://{free}"), format!("http://{free}")] {
        let refused = list(&endpoint, &files);
        refused.failed(7, &["refused", "is the vault running"]);
        assert!(!refused.stderr.contains("certificate"), "{}", refused.stderr);
    }
    list("https://no-such-host.invalid:1", &files).failed(7, &["no-such-host.invalid has no known address"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_text_and_tls_are_told_apart() {
    let bed = Bed::new().await;
    let plain = format!("http://{}", bed.vault.address());
    list(&plain, &[]).failed(3, &["the port speaks TLS", "use https://"]);

    let directory = tempfile::tempdir().unwrap();
    let files = caller_files(directory.path());
    // Servers of HTTP/1 and of plain HTTP/2.
    for answer in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], &SETTINGS[..]] {
        let address = server(move |mut peer| {
            let _ = peer.read(&mut [0; 1024]);
            let _ = peer.write_all(answer);
        });
        list(&format!("https://{address}"), &files).failed(3, &["does not speak TLS", "http://"]);
    }
    let address = server(|mut peer| {
        let _ = peer.read(&mut [0; 1024]);
        let _ = peer.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        let _ = peer.read(&mut [0; 1024]);
    });
    list(&format!("http://{address}"), &[]).failed(3, &["does not speak gRPC"]);
}

/// The frame with which every server of HTTP/2 begins.
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_is_not_trusted_is_no_vault_that_is_down() {
    let bed = Bed::new().await;
    let other = tempfile::tempdir().unwrap();
    Pki::new(other.path()).unwrap();
    let ca = other.path().join("ca.pem");
    let unknown = ran(bed.command("operator").args(["tenant", "list", "--ca"]).arg(&ca));
    unknown.failed(3, &["unknown authority", "--ca"]);

    let wrong = bed.run("operator", &["tenant", "list", "--server-name", "vault.example"]);
    wrong.failed(3, &["is for localhost, 127.0.0.1 and not for vault.example", "--server-name"]);

    let empty = other.path().join("empty.pem");
    fs::write(&empty, "no certificate\n").unwrap();
    let none = ran(bed.command("operator").args(["tenant", "list", "--ca"]).arg(&empty));
    none.failed(3, &["empty.pem: has no certificate", "--ca"]);
    let none = ran(bed.command("operator").args(["tenant", "list", "--cert"]).arg(&empty));
    none.failed(3, &["empty.pem: has no certificate"]);
    let none = ran(bed.command("operator").args(["tenant", "list", "--key"]).arg(&empty));
    none.failed(3, &["empty.pem: has no private key"]);
    let exchanged = bed.directory.path().join("mail.key");
    let exchanged = ran(bed.command("operator").args(["tenant", "list", "--key"]).arg(exchanged));
    exchanged.failed(3, &["mail.key: is not the key of the certificate in"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_the_vault_refuses_is_said_with_the_reason() {
    let bed = Bed::new().await;
    let other = tempfile::tempdir().unwrap();
    let stranger = Pki::new(other.path()).unwrap().caller("operator", "spiffe://stand/operator").unwrap();
    let mut command = bed.command("operator");
    command.env("OBO_VAULT_CERT", &stranger.certificate).env("OBO_VAULT_KEY", &stranger.key);
    // More than once: the alert races the end of the connection.
    for _ in 0..10 {
        ran(command.args(["tenant", "list"])).failed(4, &["refused the client certificate"]);
        command = bed.command("operator");
        command.env("OBO_VAULT_CERT", &stranger.certificate).env("OBO_VAULT_KEY", &stranger.key);
    }
    // The vault's own certificate is for servers.
    bed.run("server", &["tenant", "list"]).failed(4, &["it is not for client use", "clientAuth"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_have_expired_are_called_that() {
    let bed = Bed::new().await;
    let directory = tempfile::tempdir().unwrap();
    let expired = Expired::new(directory.path());
    let address = expired.serve();
    let mut command = bed.command("operator");
    command.env("OBO_VAULT_ENDPOINT", format!("https://{address}")).env("OBO_VAULT_CA", &expired.ca);
    ran(command.args(["tenant", "list"])).failed(6, &["the vault's certificate has expired", "renew"]);

    // A server that knows the authority of the caller's certificate, and finds
    // it expired.
    let address = expired.serve_callers();
    let mut command = bed.command("operator");
    command.env("OBO_VAULT_ENDPOINT", format!("https://{address}")).env("OBO_VAULT_CA", &expired.ca);
    command.env("OBO_VAULT_CERT", &expired.certificate).env("OBO_VAULT_KEY", &expired.key);
    ran(command.args(["tenant", "list"])).failed(
        4,
        &["refused the client certificate: it has expired", "renew the certificate that --cert names"],
    );
}

/// An authority with certificates whose time is over.
struct Expired {
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
    authority: rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
}

impl Expired {
    fn new(directory: &Path) -> Self {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority =
            rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap();
        let file = |name: &str| directory.join(name);
        let expired = Self { ca: file("ca.pem"), certificate: file("c.pem"), key: file("c.key"), authority };
        fs::write(&expired.ca, expired.authority.pem()).unwrap();
        let (certificate, key) = expired.issue(true);
        fs::write(&expired.certificate, certificate.pem()).unwrap();
        fs::write(&expired.key, key.serialize_pem()).unwrap();
        expired
    }

    fn issue(&self, expired: bool) -> (rcgen::Certificate, rcgen::KeyPair) {
        let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        if expired {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        }
        let key = rcgen::KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.authority).unwrap(), key)
    }

    /// A server whose own certificate has expired.
    fn serve(&self) -> SocketAddr {
        self.tls(true, WebPkiClientVerifier::no_client_auth())
    }

    /// A server that asks for certificates of this authority.
    fn serve_callers(&self) -> SocketAddr {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.authority.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
        self.tls(false, verifier.unwrap())
    }

    fn tls(&self, expired: bool, verifier: Arc<dyn ClientCertVerifier>) -> SocketAddr {
        let (certificate, key) = self.issue(expired);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let config = Arc::new(config);
        server(move |mut peer| {
            let mut tls = rustls::ServerConnection::new(config.clone()).unwrap();
            while tls.is_handshaking() {
                if tls.complete_io(&mut peer).is_err() {
                    // The alert that says why.
                    while tls.wants_write() && tls.write_tls(&mut peer).is_ok() {}
                    return;
                }
            }
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_says_nothing_is_not_waited_for_without_end() {
    let directory = tempfile::tempdir().unwrap();
    let files = caller_files(directory.path());
    // Holds every connection open and never writes.
    let address = server(|peer| drop(std::thread::spawn(move || hold(peer))));
    let timeout = ["--timeout".to_owned(), "1s".to_owned()];
    let with_timeout = [files.as_slice(), timeout.as_slice()].concat();
    list(&format!("https://{address}"), &with_timeout).failed(7, &["said nothing for 1s", "--timeout"]);
    list(&format!("http://{address}"), &timeout).failed(7, &["within 1s", "--timeout"]);
    let nothing = list(&format!("http://{address}"), &["--timeout".to_owned(), "0".to_owned()]);
    nothing.failed(2, &["longer than nothing"]);

    // One that begins as HTTP/2 does and goes no further.
    let address = server(|mut peer| {
        let _ = peer.write_all(&SETTINGS);
        std::thread::spawn(move || hold(peer));
    });
    list(&format!("http://{address}"), &timeout).failed(7, &["no answer", "within 1s"]);
    let run = ["rotation", "run", "--timeout", "1s", "--endpoint"];
    ran(binary().args(run).arg(format!("http://{address}"))).failed(7, &["no answer", "within 1s"]);
}

/// Reads until the other end has had enough.
fn hold(mut peer: TcpStream) {
    while peer.read(&mut [0; 1024]).is_ok_and(|read| read > 0) {}
}

/// What a killed process leaves: its connections end in the middle of a call.
#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_dies_in_the_middle_is_unavailable() {
    for unread in [false, true] {
        let address = server(move |mut peer| {
            let _ = peer.write_all(&SETTINGS);
            // What is left unread makes the system reset the connection.
            let mut bytes = [0; 16];
            let _ = if unread { peer.read_exact(&mut bytes) } else { peer.read(&mut [0; 4096]).map(drop) };
        });
        let ended = list(&format!("http://{address}"), &[]);
        ended.failed(7, &["ended before the vault's answer", "still running"]);
        assert!(!ended.stderr.contains("certificate"), "{}", ended.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_who_leaves_and_a_full_disk_are_no_panic() {
    let closed = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        writer
    };
    let check = ["policy", "check", "--file", "deploy/policy.cedar"];
    for arguments in [&check[..], &["--help"], &["--version"], &["grant", "list", "--help"]] {
        let left = ran(binary().args(arguments).stdout(closed()));
        assert_eq!((left.code, left.stderr.as_str()), (Some(0), ""), "{arguments:?}");
        let full = File::options().write(true).open("/dev/full").unwrap();
        let full = ran(binary().args(arguments).stdout(full));
        full.failed(10, &["the result cannot be written", "No space left"]);
    }
    // Nobody to tell, and the code is the same.
    for arguments in [&["frobnicate"][..], &["policy", "check", "--file", "no-such-file"]] {
        let told = ran(binary().args(arguments)).code;
        assert_eq!(ran(binary().args(arguments).stderr(closed())).code, told);
        let full = File::options().write(true).open("/dev/full").unwrap();
        assert_eq!(ran(binary().args(arguments).stderr(full)).code, told);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_variable_that_is_set_to_nothing_is_not_set() {
    let bed = Bed::new().await;
    let mut command = bed.command("auditor");
    for name in ["OBO_VAULT_OUTPUT", "OBO_VAULT_SERVER_NAME", "OBO_VAULT_TIMEOUT"] {
        command.env(name, "");
    }
    let list = ran(command.args(["tenant", "list"]));
    assert_eq!(list.code, Some(0), "{}", list.stderr);
    let mut command = bed.command("operator");
    ran(command.env("OBO_VAULT_CA", "").args(["tenant", "list"])).failed(2, &["needs the CA"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn grants_are_listed_for_people_and_for_scripts() {
    let bed = Bed::new().await;
    assert_eq!(bed.run("operator", &["tenant", "create", "acme"]).code, Some(0));
    let grants = ["grant", "list", "--tenant", "acme"];

    let empty = bed.run("auditor", &grants);
    assert_eq!((empty.code, empty.stdout.as_str()), (Some(0), ""));
    assert_eq!(empty.stderr, "tenant acme has no grants\n");
    let empty = bed.run("auditor", &[&grants[..], &["--output", "json"]].concat());
    assert_eq!(serde_json::from_str::<Value>(&empty.stdout).unwrap()["grants"], json!([]));
    assert_eq!(empty.stderr, "");

    let long = "8f14e45f-ceea-467f-a8d5-90f3a4b2c6d1-and-more-than-fits-in-a-table";
    for user in ["ada", "bob", long] {
        bed.enrol(user);
    }
    let table = bed.run("auditor", &grants);
    assert!(table.stdout.lines().all(|line| line.chars().count() <= 80), "{}", table.stdout);
    assert!(table.stdout.contains("ada") && table.stdout.contains("active"), "{}", table.stdout);
    assert!(!table.stdout.contains(long), "{}", table.stdout);
    let json = bed.run("auditor", &[&grants[..], &["--output", "json"]].concat());
    assert!(json.stdout.contains(long), "{}", json.stdout);

    // The search goes over all pages.
    bed.provider.require_mfa("bob", true);
    let run = bed.run("rotator", &["rotation", "run", "--refresh-all"]);
    run.failed(7, &["1 sealed token could not be refreshed", "run it again"]);
    assert!(run.stdout.contains("refresh_failed"), "the counts are shown: {}", run.stdout);
    let found = bed.run("auditor", &[&grants[..], &["--page-size", "1", "--state", "reauth"]].concat());
    assert!(found.stdout.contains("bob") && !found.stdout.contains("ada"), "{}", found.stdout);
    let none = bed.run("auditor", &[&grants[..], &["--state", "lost"]].concat());
    assert_eq!(none.stderr, "tenant acme has no such grants\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_that_failed_ends_as_a_failure() {
    let bed = Bed::new().await;
    assert_eq!(bed.run("operator", &["tenant", "create", "acme"]).code, Some(0));
    bed.enrol("ada");
    let run = ["rotation", "run", "--refresh-all"];
    let well = bed.run("rotator", &run);
    assert_eq!((well.code, well.stderr.as_str()), (Some(0), ""));
    bed.provider.script(Fault::error(400, "invalid_grant"), 1);
    let failed = bed.run("rotator", &[&run[..], &["--output", "json"]].concat());
    assert_eq!(failed.code, Some(7), "{}", failed.stderr);
    assert_eq!(serde_json::from_str::<Value>(&failed.stdout).unwrap()["refresh_failed"], 1);
    let error: Value = serde_json::from_str(&failed.stderr).unwrap();
    assert_eq!(error["message"], "the run ended with failures: 1 sealed token could not be refreshed");
}

#[tokio::test(flavor = "multi_thread")]
async fn values_may_begin_with_a_hyphen_and_errors_are_json_where_results_are() {
    let bed = Bed::new().await;
    assert_eq!(bed.run("operator", &["tenant", "create", "acme"]).code, Some(0));
    let revoke = ["grant", "revoke", "--tenant", "acme", "--subject", "-Ab12", "--client", "portal"];
    bed.run("operator", &revoke).failed(5, &["GRANT_NOT_FOUND", "nothing to revoke"]);

    let failed = bed.run("operator", &[&revoke[..], &["--output", "json"]].concat());
    assert_eq!((failed.code, failed.stdout.as_str()), (Some(5), ""));
    let error: Value = serde_json::from_str(&failed.stderr).unwrap();
    assert_eq!((&error["code"], &error["reason"]), (&json!(5), &json!("GRANT_NOT_FOUND")));
    for field in ["status", "message", "what_to_do", "request_id"] {
        assert!(error[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {error}");
    }
    for wrong in [&["frobnicate"][..], &["tenant", "list", "--endpoint", "http://127.0.0.1:1"]] {
        let wrong = ran(binary().args(wrong).args(["--output", "json"]));
        let error: Value = serde_json::from_str(&wrong.stderr).unwrap();
        assert_eq!(error["code"].as_i64(), wrong.code.map(i64::from), "{error}");
        assert!(error["what_to_do"].as_str().is_some_and(|text| !text.is_empty()), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_purge_everybody_is_told_what_applies() {
    let bed = Bed::new().await;
    assert_eq!(bed.run("operator", &["tenant", "create", "acme"]).code, Some(0));
    bed.enrol("ada");
    let purge = ["tenant", "purge", "acme", "--confirm", "acme"];
    let first = bed.run("purger", &purge);
    assert_eq!(first.stderr, "tenant acme is purged: its keys are destroyed and its grants deleted\n");
    let second = bed.run("purger", &purge);
    assert_eq!(second.code, Some(0));
    assert!(second.stderr.starts_with("tenant acme was purged already, at 20"), "{}", second.stderr);
    let json = bed.run("purger", &[&purge[..], &["--output", "json"]].concat());
    assert_eq!(serde_json::from_str::<Value>(&json.stdout).unwrap()["already_purged"], true);

    let get = ["token", "get", "--tenant", "acme", "--subject", "ada", "--client", "portal"];
    let refused = bed.run("mail", &get);
    refused.failed(6, &["TENANT_PURGED", "stop asking"]);
    assert!(!refused.stderr.contains("another name"), "{}", refused.stderr);
    bed.run("operator", &["tenant", "create", "acme"]).failed(6, &["choose another name"]);
}

#[test]
fn help_is_wrapped_at_words() {
    let output = binary().args(["token", "get", "--help"]).output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
    assert!(help.contains("--timeout"), "{help}");
}
