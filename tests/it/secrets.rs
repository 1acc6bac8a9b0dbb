//! No secret in a file, in the log, in an error or in what is printed of an
//! answer, after a story in which every kind of secret went through the vault.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use obo_vault::demo::provider::{AccessTokenForm, Fault, Options};
use obo_vault::demo::stand::Settings;
use obo_vault::proto::{ImportGrantRequest, RevokeGrantRequest};

use crate::harness::{Stand, TENANT, TOKENS_EXPIRED, token_request};
use crate::log;
use crate::refusal::Refused as _;

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_nowhere_but_where_they_belong() {
    for form in [AccessTokenForm::Jwt, AccessTokenForm::Opaque { bytes: 900 }] {
        let options = Options { access_token: form, ..Options::default() };
        let mut stand = Stand::with(options, Settings::default()).await;
        stand.tenant().await;
        let mut story = Story::default();
        story.live(&stand).await;
        story.check_files(stand.files.directory());
        // What is in memory now is sealed or dropped.
        stand.restart().await;
        stand.token("carol").await.unwrap();
        stand.stop().await;
        story.check_files(stand.files.directory());

        let left = |name: &str| stand.files.directory().join(name).exists();
        assert!(
            !left("vault.db-wal") && !left("keys.db-wal"),
            "a vault that has stopped has closed its files"
        );

        let log = log::captured();
        // All tests of this process write to one log: look for a line of this one.
        let own = |line: &str| line.contains(&story.doubted) && line.contains("GRANT_IN_DOUBT");
        assert!(!story.doubted.is_empty() && log.lines().any(own), "the log of this story is there");
        story.check("the log", log.as_bytes());
        assert!(story.seen.len() > 10);
        for seen in &story.seen {
            story.check("what a caller sees", seen.as_bytes());
        }
    }
}

/// The secrets of a story, and what its callers could print.
#[derive(Default)]
struct Story {
    secrets: BTreeSet<String>,
    seen: Vec<String>,
    /// The request whose redemption ended in doubt.
    doubted: String,
}

impl Story {
    async fn live(&mut self, stand: &Stand) {
        self.secrets.insert("development-secret".into());
        for user in ["ada", "bob", "carol"] {
            let request = stand.exchange_request(user);
            self.jwt(&request.user_access_token);
            self.seen.push(format!("{request:?}"));
            let answer = stand.exchange(request).await.unwrap();
            self.seen.push(format!("{answer:?}"));
            self.token(stand, user).await;
            stand.advance(TOKENS_EXPIRED);
            self.token(stand, user).await;
        }

        let pasted = stand.provider.mint_refresh_token("vault", "dora", &["mail.read", "openid"]);
        self.refresh_token(&pasted);
        for subject in ["ada", "dora"] {
            let request = ImportGrantRequest {
                tenant: TENANT.into(),
                subject: subject.into(),
                client: "portal".into(),
                imported_token: pasted.clone(),
                scopes: vec!["openid".into()],
                ..Default::default()
            };
            self.seen.push(format!("{request:?}"));
            let answer = stand.client("web").await.grants.import_grant(request).await;
            self.remember_refresh_token(stand, "dora");
            self.seen.push(answer.refused().shown);
        }

        // Answers that tell secrets in the wrong place.
        let current = stand.provider.current_refresh_token("ada", "vault").unwrap();
        let echo = |status, consumes| Fault::Status {
            status,
            error: Some(current.clone()),
            suberror: Some(current.clone()),
            claims: Some(current.clone()),
            retry_after: None,
            body: None,
            content_type: None,
            consumes,
        };
        for (user, fault) in [("ada", echo(400, false)), ("bob", echo(500, true))] {
            stand.advance(TOKENS_EXPIRED);
            stand.provider.script(fault, 1);
            let refusal = stand.token(user).await.refused();
            self.seen.push(refusal.shown);
            self.doubted = refusal.request_id;
            self.remember_refresh_token(stand, user);
        }
        let mut request = stand.exchange_request("ada");
        request.user_access_token.push_str("AAAA");
        self.jwt(&request.user_access_token);
        self.seen.push(stand.exchange(request).await.refused().shown);
        stand.provider.script(Fault::HalfBody { consume: true }, 1);
        self.seen.push(stand.exchange(stand.exchange_request("emil")).await.refused().shown);
        self.remember_refresh_token(stand, "emil");

        let request =
            RevokeGrantRequest { tenant: TENANT.into(), subject: "ada".into(), client: "portal".into() };
        let answer = stand.client("operator").await.grants.revoke_grant(request).await.unwrap();
        self.seen.push(format!("{answer:?} {:?}", stand.describe("carol").await));
        self.token(stand, "carol").await;
    }

    async fn token(&mut self, stand: &Stand, user: &str) {
        let request = token_request(user);
        let answer = stand.client("mail").await.tokens.get_access_token(request).await.unwrap().into_inner();
        if answer.access_token.split('.').count() == 3 {
            self.jwt(&answer.access_token);
        } else {
            self.secrets.insert(answer.access_token.clone());
        }
        self.remember_refresh_token(stand, user);
        self.seen.push(format!("{answer:?}"));
    }

    fn remember_refresh_token(&mut self, stand: &Stand, user: &str) {
        if let Some(token) = stand.provider.current_refresh_token(user, "vault") {
            self.refresh_token(&token);
        }
    }

    /// The part that differs from token to token.
    fn refresh_token(&mut self, token: &str) {
        self.secrets.insert(token.split('.').nth(1).unwrap().to_owned());
    }

    /// Its claims and its signature, each of which would be too much.
    fn jwt(&mut self, token: &str) {
        self.secrets.extend(token.split('.').skip(1).map(str::to_owned));
    }

    fn check_files(&self, directory: &Path) {
        let (mut files, mut found_user) = (0, false);
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.ends_with("client.secret") {
                continue;
            }
            let bytes = fs::read(&path).unwrap_or_else(|e| panic!("{} {e}", path.display()));
            found_user |=
                path.ends_with("vault.db") | path.ends_with("vault.db-wal") && contains(&bytes, b"carol");
            self.check(&path.display().to_string(), &bytes);
            files += 1;
        }
        assert!(files > 5 && found_user, "the search finds what is there");
    }

    fn check(&self, place: &str, bytes: &[u8]) {
        assert!(self.secrets.len() > 15);
        for secret in &self.secrets {
            assert!(secret.len() > 15, "{secret} is too short to be looked for");
            assert!(!contains(bytes, secret.as_bytes()), "{place} has a secret in plain text");
        }
    }
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    // Looked for by its first byte, which is much faster than window by window.
    let first = wanted[0];
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|&b| b == first) {
        if rest[at..].starts_with(wanted) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}
