//! Somebody with other tools: Python's gRPC, a client certificate, and nothing
//! else. What the API is, the vault tells by reflection.
//!
//! Needs Python 3 with venv and, once per checkout, the Python package index.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use obo_vault::app::Ambient;
use obo_vault::clock::ShiftedClock;
use obo_vault::demo::provider::{DevProvider, Options};
use obo_vault::demo::stand::{Files, RunningVault, Settings, Upstream};
use obo_vault::entropy::OsEntropy;
use obo_vault::proto;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Python 3.10 with venv: cargo test --test outsider -- --ignored, as .ci/run does"]
async fn python_gets_a_token_over_mutual_tls_by_reflection() {
    let python = tokio::task::spawn_blocking(python).await.unwrap();
    let clock = Arc::new(ShiftedClock::new());
    let provider = DevProvider::start(Options::default(), clock.clone(), OsEntropy::shared()).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let files = Files::create(directory.path(), &Upstream::of(&provider), &Settings::default(), 0).unwrap();
    let ambient = Ambient { clock, entropy: OsEntropy::shared() };
    let vault = RunningVault::start(&files, ambient).await.unwrap();
    let tenant = proto::CreateTenantRequest { tenant: "contoso".into() };
    vault.client(&files, "operator").await.unwrap().tenants.create_tenant(tenant).await.unwrap();
    let exchange = proto::ExchangeOnBehalfOfRequest {
        client: "portal".into(),
        user_access_token: provider.user_token("ada", "api://vault"),
        scopes: vec!["mail.read".into()],
        ..Default::default()
    };
    vault.client(&files, "web").await.unwrap().grants.exchange_on_behalf_of(exchange).await.unwrap();

    let get_token = async |caller: &str, subject: &str| {
        let mut command = Command::new(&python);
        command.arg(folder().join("get_token.py"));
        let address = files.address(vault.address(), caller);
        let paths = [
            ("--ca", address.ca_file),
            ("--certificate", address.certificate_file),
            ("--key", address.key_file),
        ];
        for (option, path) in paths {
            command.arg(option).arg(path.unwrap());
        }
        command.arg("--target").arg(format!("localhost:{}", vault.address().port()));
        command.args([
            "--tenant",
            "contoso",
            "--client",
            "portal",
            "--scope",
            "mail.read",
            "--subject",
            subject,
        ]);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let got = get_token("mail", "ada").await;
    let length: usize = got.strip_prefix("token ").unwrap_or_else(|| panic!("{got}")).parse().unwrap();
    assert!(length > 100, "{got}");
    assert_eq!(get_token("mail", "nobody").await, "refused NOT_FOUND GRANT_NOT_FOUND");
    assert_eq!(get_token("auditor", "ada").await, "refused PERMISSION_DENIED NOT_PERMITTED");
    vault.stop().await.unwrap();
}

/// The interpreter of an environment with Python's gRPC in it. Made once,
/// however many test processes ask for it at the same time.
fn python() -> PathBuf {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let guard = File::create(scratch.join("python.lock")).unwrap();
    guard.lock().unwrap();
    let made = Command::new(folder().join("setup.sh"))
        .env("CARGO_TARGET_DIR", scratch.parent().unwrap())
        .output()
        .unwrap_or_else(|error| panic!("tests/python/setup.sh needs bash: {error}"));
    assert!(
        made.status.success(),
        "The test with Python's gRPC needs Python 3.10 or newer with venv (the packages `python3` and \
         `python3-venv` of most systems) and, once, the Python package index:\n{}",
        String::from_utf8_lossy(&made.stderr)
    );
    String::from_utf8(made.stdout).unwrap().trim().into()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python")
}
