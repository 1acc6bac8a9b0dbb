//! The certified OpenID provider (npm `oidc-provider`), run as it is shipped:
//! the independent referee of the refresh protocol. What it is set up to do
//! stands in `tests/oidc-provider/op.mjs`.
//!
//! Needs Node.js and, once per checkout, the npm registry.

#![expect(clippy::expect_used, reason = "a harness that cannot work stops its test")]

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{KeyPair, PublicKeyData as _};
use serde_json::{Value, json};

/// A running certified provider. It ends when this is dropped, or with the
/// test process, whichever comes first.
pub(crate) struct OidcProvider {
    process: Child,
    /// The provider ends when its standard input does.
    _lifeline: ChildStdin,
    issuer: String,
    client_key: KeyPair,
}

/// What a test may choose.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// How long access tokens live.
    pub(crate) access_token_lifetime: Duration,
    /// The `tid` of its users.
    pub(crate) tenant: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self { access_token_lifetime: Duration::from_secs(3600), tenant: "contoso".to_owned() }
    }
}

/// What the provider has counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Token requests to redeem a refresh token, whatever their outcome.
    pub(crate) refreshes: u64,
    /// Token requests to exchange on behalf of a user, whatever their outcome.
    pub(crate) exchanges: u64,
    /// Grants revoked.
    pub(crate) grants_revoked: u64,
    /// Refresh tokens that would be accepted now.
    pub(crate) alive: u64,
}

impl OidcProvider {
    /// The client that proves itself with [`Self::CLIENT_SECRET`]
    /// (`client_secret_post`).
    pub(crate) const CLIENT: &str = "vault";
    /// Its secret.
    pub(crate) const CLIENT_SECRET: &str = "certified-secret";
    /// The client that proves itself with [`Self::client_key_pem`]
    /// (`private_key_jwt`, ES256).
    pub(crate) const CERT_CLIENT: &str = "vault-cert";
    /// The audience of the assertions it exchanges.
    pub(crate) const AUDIENCE: &str = "api://vault";
    /// A resource it knows, with the scopes `.default`, `mail.read` and `read`.
    pub(crate) const GRAPH: &str = "https://graph.example";
    /// Another one, with the same scopes.
    pub(crate) const FILES: &str = "https://files.example";

    /// Starts it with the usual settings.
    pub(crate) fn start() -> Self {
        Self::start_with(&Settings::default())
    }

    /// Starts it; returns when it accepts connections.
    pub(crate) fn start_with(settings: &Settings) -> Self {
        install_once();
        let client_key = KeyPair::generate().expect("a P-256 key is made");
        let mut process = Command::new("node")
            .arg("op.mjs")
            .current_dir(home())
            .env("ACCESS_TOKEN_SECONDS", settings.access_token_lifetime.as_secs().to_string())
            .env("TENANT", &settings.tenant)
            .env("VAULT_CERT_JWK", public_jwk(&client_key).to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("node starts");
        let lifeline = process.stdin.take().expect("its input is piped");
        let output = BufReader::new(process.stdout.take().expect("its output is piped"));
        let issuer = output
            .lines()
            .map_while(Result::ok)
            .find(|line| line.starts_with("http://"))
            .expect("the certified provider ended before it was ready; its reason is above");
        Self { process, _lifeline: lifeline, issuer, client_key }
    }

    /// Its issuer, also the base of every address.
    pub(crate) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Where tokens are asked for.
    pub(crate) fn token_endpoint(&self) -> String {
        format!("{}/token", self.issuer)
    }

    /// Where its signing keys are published.
    pub(crate) fn jwks_uri(&self) -> String {
        format!("{}/jwks", self.issuer)
    }

    /// Where refresh tokens are revoked.
    pub(crate) fn revocation_endpoint(&self) -> String {
        format!("{}/token/revocation", self.issuer)
    }

    /// The private key of [`Self::CERT_CLIENT`], PKCS#8 in PEM.
    pub(crate) fn client_key_pem(&self) -> String {
        self.client_key.serialize_pem()
    }

    /// The access token with which `user` calls the vault's API.
    pub(crate) fn user_token(&self, user: &str) -> String {
        self.user_token_for(user, Self::AUDIENCE, 3600)
    }

    /// The same for another audience or lifetime; negative: expired that long
    /// ago.
    pub(crate) fn user_token_for(&self, user: &str, audience: &str, expires_in_seconds: i64) -> String {
        let expires_in = expires_in_seconds.to_string();
        let query = [("user", user), ("audience", audience), ("expires_in", &expires_in)];
        text(&self.control("user-token", &query)["token"])
    }

    /// A refresh token of `user`, the first of its grant.
    pub(crate) fn refresh_token(&self, client: &str, user: &str, scopes: &[&str]) -> String {
        self.mint(client, user, scopes, 1).pop().expect("one was asked for").1
    }

    /// Refresh tokens of `count` users named `user-0`, `user-1` and so on.
    pub(crate) fn refresh_tokens(
        &self,
        client: &str,
        user: &str,
        scopes: &[&str],
        count: usize,
    ) -> Vec<(String, String)> {
        assert!(count > 1, "for a single one there is `refresh_token`");
        self.mint(client, user, scopes, count)
    }

    fn mint(&self, client: &str, user: &str, scopes: &[&str], count: usize) -> Vec<(String, String)> {
        let (scope, count) = (scopes.join(" "), count.to_string());
        let query = [("client", client), ("user", user), ("scope", &scope), ("count", &count)];
        let minted = self.control("refresh-tokens", &query);
        let minted = minted.as_array().expect("a list of refresh tokens");
        minted.iter().map(|one| (text(&one["user"]), text(&one["token"]))).collect()
    }

    /// Makes it ask `user` for a second factor, or no longer.
    pub(crate) fn require_second_factor(&self, user: &str, required: bool) {
        self.control("second-factor", &[("user", user), ("required", &required.to_string())]);
    }

    /// Makes it do the work of the next `count` token requests and close the
    /// connection in place of the answer.
    pub(crate) fn lose_answers(&self, count: usize) {
        self.control("lose-answers", &[("count", &count.to_string())]);
    }

    /// Moves its clock ahead.
    pub(crate) fn advance(&self, span: Duration) {
        self.control("advance", &[("seconds", &span.as_secs().to_string())]);
    }

    /// What it has counted so far.
    pub(crate) fn counts(&self) -> Counts {
        let counts = self.control("counts", &[]);
        let number = |value: &Value| value.as_u64().unwrap_or(0);
        Counts {
            refreshes: number(&counts["token"]["refresh_token"]),
            exchanges: number(&counts["token"]["urn:ietf:params:oauth:grant-type:jwt-bearer"]),
            grants_revoked: number(&counts["grants_revoked"]),
            alive: number(&counts["alive"]),
        }
    }

    fn control(&self, lever: &str, query: &[(&str, &str)]) -> Value {
        let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
        let (status, body) = self.post(&format!("/control/{lever}?{query}"), &[]);
        assert_eq!(status, 200, "the lever {lever} failed: {body}");
        body
    }

    /// A request of the test's own, a form to a path of the provider. Returns
    /// the status and the body as JSON.
    pub(crate) fn post(&self, path: &str, form: &[(&str, &str)]) -> (u16, Value) {
        let form = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let authority = self.issuer.trim_start_matches("http://");
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\nAccept: application/json\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
            form.len()
        );
        let mut stream = TcpStream::connect(authority).expect("the certified provider listens");
        stream.write_all(request.as_bytes()).expect("the request goes out");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the answer comes in");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        (status, serde_json::from_str(body).unwrap_or_default())
    }
}

impl Drop for OidcProvider {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("the provider answers with text here").to_owned()
}

fn public_jwk(key: &KeyPair) -> Value {
    // An uncompressed point (SEC 1 section 2.3.3): 4, then both coordinates.
    let point = key.der_bytes();
    let [x, y] = [&point[1..33], &point[33..65]].map(|coordinate| URL_SAFE_NO_PAD.encode(coordinate));
    json!({ "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "vault-cert", "x": x, "y": y })
}

fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oidc-provider")
}

/// Installs what the lock file names, once per checkout, however many test
/// processes ask for it at the same time.
fn install_once() {
    check_node();
    let guard = File::create(Path::new(env!("CARGO_TARGET_TMPDIR")).join("oidc-provider.lock"))
        .expect("the lock beside the build can be made");
    guard.lock().expect("the lock beside the build can be taken");

    // The mark is a copy of the lock file, so a changed one installs anew.
    let (lock_file, mark) = (home().join("package-lock.json"), home().join("node_modules/.installed"));
    let wanted = fs::read(lock_file).expect("the lock file is in the repository");
    if fs::read(&mark).is_ok_and(|installed| installed == wanted) {
        return;
    }
    let output = run("npm", &["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
    assert!(
        output.status.success(),
        "the certified provider could not be installed (`npm ci` in tests/oidc-provider); \
         it needs the npm registry once:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    fs::write(mark, wanted).expect("node_modules can be written");
}

fn check_node() {
    let version = String::from_utf8_lossy(&run("node", &["--version"]).stdout).trim().to_owned();
    let major: u32 =
        version.trim_start_matches('v').split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0);
    assert!(major >= 20, "{MISSING} Found Node.js {version}.");
}

const MISSING: &str = "The tests against the certified OpenID provider need Node.js 20 or newer with npm: \
                       install it (the package `nodejs` with `npm` of most systems) and run the tests again.";

fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .current_dir(home())
        .output()
        .unwrap_or_else(|error| panic!("{MISSING} `{program}` could not be started: {error}."))
}
