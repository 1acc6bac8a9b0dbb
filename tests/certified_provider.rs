//! The whole path against the certified OpenID provider, set up as strictly as
//! they come: it rotates the refresh token on every use and revokes the family
//! when it sees an old one again. It is not ours, so what it counts is a fact.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]
#![expect(clippy::disallowed_types, reason = "callers see statuses")]

mod support;

#[path = "certified_provider/delayed.rs"]
mod delayed;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use obo_vault::app::Ambient;
use obo_vault::client::Client;
use obo_vault::clock::ShiftedClock;
use obo_vault::demo::stand::{Files, POLICY, RunningVault, Settings, Upstream};
use obo_vault::entropy::OsEntropy;
use obo_vault::proto;
use obo_vault::proto::GrantState;
use prost::Message as _;
use support::oidc_provider::{self, OidcProvider};
use tempfile::TempDir;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

const TENANT: &str = "contoso";
const MAIL: &str = "https://graph.example/mail.read";
/// The client with a secret, and the one with a key.
const SECRET: &str = "portal";
const KEY: &str = "keyed";
/// How long access tokens live, and a bit more.
const LIFE: Duration = Duration::from_secs(600);
const EXPIRED: Duration = Duration::from_secs(610);
/// An unknown outcome is resolved by then.
const FENCED: Duration = Duration::from_secs(300);

#[tokio::test(flavor = "multi_thread")]
async fn from_enrolment_over_ten_rotations_and_a_restart_to_the_purge() {
    for client in [SECRET, KEY] {
        let mut stand = Stand::new().await;
        stand.exchange(client, "ada").await.unwrap();
        assert!(stand.token(client, "ada").await.unwrap().from_cache, "the enrolment's token is used");
        assert_eq!((stand.provider.counts().exchanges, stand.provider.counts().refreshes), (1, 0));

        let mut tokens = BTreeSet::new();
        for rotation in 1..=10 {
            if rotation == 6 {
                stand.restart().await;
            }
            stand.advance(EXPIRED);
            let token = stand.token(client, "ada").await.unwrap();
            assert!(!token.from_cache && tokens.insert(token.access_token), "rotation {rotation}");
            let grant = stand.describe(client, "ada").await;
            assert_eq!((grant.state(), grant.generation), (GrantState::Active, 1 + rotation));
            assert_eq!(stand.provider.counts().refreshes, rotation);
        }
        let counts = stand.provider.counts();
        assert_eq!((counts.grants_revoked, counts.alive), (0, 1), "the family did not survive");

        stand.purge().await;
        let refused = stand.token(client, "ada").await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::FailedPrecondition, "TENANT_PURGED"));
        stand.restart().await;
        assert_eq!(reason(&stand.token(client, "ada").await.unwrap_err()), "TENANT_PURGED");
        let again = stand.exchange(client, "ada").await.unwrap_err();
        assert_eq!(reason(&again), "TENANT_PURGED");
        assert_eq!(stand.provider.counts().refreshes, 10, "a purged tenant's token was used");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_callers_of_an_expired_token_cause_one_request() {
    for client in [SECRET, KEY] {
        let stand = Stand::new().await;
        stand.exchange(client, "ada").await.unwrap();
        for round in 1..=3 {
            stand.advance(EXPIRED);
            let connections = [stand.client("mail").await, stand.client("files").await];
            let callers = (0..50).map(|n: usize| {
                let mut connection = connections[n % 2].clone();
                let request = token_request(client, "ada");
                tokio::spawn(async move { connection.tokens.get_access_token(request).await })
            });
            let mut tokens = BTreeSet::new();
            for caller in callers.collect::<Vec<_>>() {
                tokens.insert(caller.await.unwrap().unwrap().into_inner().access_token);
            }
            assert_eq!(tokens.len(), 1);
            assert_eq!(stand.provider.counts().refreshes, round);
        }
        assert_eq!(stand.provider.counts().grants_revoked, 0);
        assert_eq!(stand.describe(client, "ada").await.generation, 4);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_for_different_resources_take_turns_on_one_family() {
    let stand = Stand::new().await;
    stand.exchange(KEY, "ada").await.unwrap();
    let connection = stand.client("mail").await;
    let scopes =
        [MAIL, "https://graph.example/read", "https://files.example/read", "https://files.example/.default"];
    let callers = scopes.iter().cycle().take(40).map(|scope| {
        let mut connection = connection.clone();
        let request =
            proto::GetAccessTokenRequest { scopes: vec![(*scope).into()], ..token_request(KEY, "ada") };
        tokio::spawn(async move { connection.tokens.get_access_token(request).await })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap().unwrap();
    }
    let counts = stand.provider.counts();
    assert_eq!((counts.refreshes, counts.grants_revoked, counts.alive), (3, 0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_claims_of_a_second_factor_reach_the_caller() {
    let stand = Stand::new().await;
    stand.exchange(SECRET, "ada").await.unwrap();
    stand.provider.require_second_factor("ada", true);
    let at_enrolment = stand.exchange(SECRET, "ada").await.unwrap_err();
    stand.advance(EXPIRED);
    let at_refresh = stand.token(SECRET, "ada").await.unwrap_err();
    for refused in [at_enrolment, at_refresh] {
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert_eq!(reason(&refused), "INTERACTION_REQUIRED");
        let asked = interaction(&refused);
        assert_eq!((asked.error.as_str(), asked.suberror.as_str()), ("interaction_required", "basic_action"));
        assert_eq!(
            asked.claims,
            r#"{"access_token":{"acrs":{"essential":true,"values":["second-factor"]}}}"#
        );
    }
    let grant = stand.describe(SECRET, "ada").await;
    assert_eq!((grant.state(), grant.cause.as_str()), (GrantState::Reauth, "interaction_required"));

    stand.provider.require_second_factor("ada", false);
    let renewed = stand.exchange(SECRET, "ada").await.unwrap();
    assert!(renewed.replaced);
    stand.token(SECRET, "ada").await.unwrap();
    stand.advance(EXPIRED);
    stand.token(SECRET, "ada").await.unwrap();
    assert_eq!(stand.provider.counts().grants_revoked, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn refresh_tokens_of_another_system_are_taken_over() {
    let stand = Stand::new().await;
    let kept = stand.provider.refresh_tokens(OidcProvider::CLIENT, "user", &[MAIL], 20);
    for (user, token) in &kept {
        let grant = stand.import(SECRET, user, &format!(" {token}\r\n")).await.unwrap();
        assert_eq!((grant.subject.as_str(), grant.state()), (user.as_str(), GrantState::Active));
        assert!(stand.token(SECRET, user).await.unwrap().from_cache, "the proof's token is used");
    }
    assert_eq!(stand.provider.counts().refreshes, 20);
    stand.advance(EXPIRED);
    for (user, _) in &kept {
        stand.token(SECRET, user).await.unwrap();
    }
    let counts = stand.provider.counts();
    assert_eq!((counts.refreshes, counts.grants_revoked, counts.alive), (40, 0, 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_token_of_somebody_else_is_not_taken_over() {
    let stand = Stand::new().await;
    let token = stand.provider.refresh_token(OidcProvider::CLIENT, "mallory", &[MAIL]);
    let refused = stand.import(SECRET, "ada", &token).await.unwrap_err();
    assert_eq!(reason(&refused), "IDENTITY_MISMATCH");
    assert_eq!(reason(&stand.token(SECRET, "ada").await.unwrap_err()), "GRANT_NOT_FOUND");
    assert_eq!(stand.provider.counts().alive, 0, "what was not kept is revoked");

    let spent = stand.import(SECRET, "mallory", &token).await.unwrap_err();
    assert_eq!(reason(&spent), "GRANT_REVOKED");
    let nonsense = stand.import(SECRET, "mallory", "nonsense").await.unwrap_err();
    assert_eq!(reason(&nonsense), "GRANT_REVOKED");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_assertions_do_not_reach_the_provider() {
    let stand = Stand::new().await;
    let provider = &stand.provider;
    let bad = [
        (provider.user_token_for("ada", "api://other", 3600), "ASSERTION_REJECTED"),
        (provider.user_token_for("ada", OidcProvider::AUDIENCE, -600), "ASSERTION_EXPIRED"),
        ("no-token".to_owned(), "ASSERTION_MALFORMED"),
    ];
    for (assertion, expected) in bad {
        let refused = stand.exchange_with(SECRET, assertion).await.unwrap_err();
        assert_eq!(reason(&refused), expected);
    }
    assert_eq!(stand.provider.counts().exchanges, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_lost_with_its_answer_is_reported_as_lost() {
    for client in [SECRET, KEY] {
        let stand = Stand::new().await;
        stand.exchange(client, "ada").await.unwrap();
        stand.advance(EXPIRED);
        stand.provider.lose_answers(1);
        let refused = stand.token(client, "ada").await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unavailable, "GRANT_IN_DOUBT"));
        let retry = refused.get_details_retry_info().unwrap().retry_delay.unwrap();
        stand.waits_for_the_fence(client, "ada", 1).await;

        stand.advance(retry + Duration::from_secs(1));
        let grant = stand.settled(client, "ada").await;
        assert_eq!((grant.state(), grant.cause.as_str()), (GrantState::Lost, "interrupted"));
        assert_eq!(reason(&stand.token(client, "ada").await.unwrap_err()), "GRANT_LOST");
        stand.exchange(client, "ada").await.unwrap();
        stand.advance(EXPIRED);
        stand.token(client, "ada").await.unwrap();
    }
}

/// The fence that reaches the provider: a request that was held up on its way
/// and comes after the vault has given it up carries an assertion that has
/// expired, so the token in it is not looked at and the family lives.
#[tokio::test(flavor = "multi_thread")]
async fn a_family_survives_a_request_that_comes_after_the_fence() {
    let stand = Stand::new().await;
    stand.exchange(KEY, "ada").await.unwrap();
    stand.advance(EXPIRED);
    stand.network.hold_next();
    let refused = stand.token(KEY, "ada").await.unwrap_err();
    assert_eq!(reason(&refused), "GRANT_IN_DOUBT");
    stand.waits_for_the_fence(KEY, "ada", 0).await;

    stand.advance(FENCED);
    let grant = stand.settled(KEY, "ada").await;
    assert_eq!((grant.state(), grant.generation), (GrantState::Active, 2), "the probe did not renew it");
    let late = stand.network.deliver_held().await;
    assert_eq!(late, 401, "the provider accepted a request from before the fence");
    let counts = stand.provider.counts();
    assert_eq!((counts.grants_revoked, counts.alive), (0, 1), "the family did not survive");
    stand.advance(EXPIRED);
    stand.token(KEY, "ada").await.unwrap();
    assert_eq!(stand.describe(KEY, "ada").await.generation, 3);
}

/// A certified provider, a vault, and the network between them.
struct Stand {
    provider: OidcProvider,
    network: delayed::Network,
    clock: Arc<ShiftedClock>,
    files: Files,
    vault: Option<RunningVault>,
    _directory: TempDir,
}

impl Stand {
    async fn new() -> Self {
        let settings =
            oidc_provider::Settings { access_token_lifetime: LIFE, ..oidc_provider::Settings::default() };
        let provider =
            tokio::task::spawn_blocking(move || OidcProvider::start_with(&settings)).await.unwrap();
        let network = delayed::Network::to(provider.issuer()).await;
        let upstream = Upstream {
            issuer: provider.issuer().to_owned(),
            token_endpoint: network.through(&provider.token_endpoint()),
            jwks_uri: provider.jwks_uri(),
            revocation_endpoint: Some(provider.revocation_endpoint()),
            tenant_rule: format!("tenant = \"{TENANT}\"\nsubject_claims = [\"sub\"]"),
            client_id: OidcProvider::CLIENT.to_owned(),
            client_secret: OidcProvider::CLIENT_SECRET.to_owned(),
        };
        let keyed = format!(
            "[clients.{KEY}]\nprovider = \"dev\"\nclient_id = \"{}\"\nauth = \"private_key_jwt\"\n\
             key_file = \"client.key\"\nalgorithm = \"ES256\"\nkey_id = \"vault-cert\"\n",
            OidcProvider::CERT_CLIENT
        );
        let settings = Settings {
            policy: POLICY.replace(
                "context.client == \"portal\"",
                &format!("[\"{SECRET}\", \"{KEY}\"].contains(context.client)"),
            ),
            more: keyed,
            ..Settings::default()
        };
        let directory = tempfile::tempdir().unwrap();
        let files = Files::create(directory.path(), &upstream, &settings, 0).unwrap();
        private(&directory.path().join("client.key"), &provider.client_key_pem());
        let clock = Arc::new(ShiftedClock::new());
        let mut stand = Self { provider, network, clock, files, vault: None, _directory: directory };
        stand.start().await;
        let request = proto::CreateTenantRequest { tenant: TENANT.into() };
        stand.client("operator").await.tenants.create_tenant(request).await.unwrap();
        stand
    }

    async fn start(&mut self) {
        let ambient = Ambient { clock: self.clock.clone(), entropy: OsEntropy::shared() };
        self.vault = Some(RunningVault::start(&self.files, ambient).await.unwrap());
    }

    async fn restart(&mut self) {
        self.vault.take().unwrap().stop().await.unwrap();
        self.start().await;
    }

    /// Moves the clocks of both sides.
    fn advance(&self, span: Duration) {
        self.clock.advance(span);
        self.provider.advance(span);
    }

    async fn client(&self, caller: &str) -> Client {
        self.vault.as_ref().unwrap().client(&self.files, caller).await.unwrap()
    }

    async fn exchange(&self, client: &str, user: &str) -> Result<proto::ExchangeOnBehalfOfResponse, Status> {
        let assertion = self.provider.user_token(user);
        self.exchange_with(client, assertion).await
    }

    async fn exchange_with(
        &self,
        client: &str,
        user_access_token: String,
    ) -> Result<proto::ExchangeOnBehalfOfResponse, Status> {
        let request = proto::ExchangeOnBehalfOfRequest {
            client: client.into(),
            user_access_token,
            scopes: vec![MAIL.into()],
            ..Default::default()
        };
        let answer = self.client("web").await.grants.exchange_on_behalf_of(request).await;
        answer.map(tonic::Response::into_inner)
    }

    async fn import(&self, client: &str, user: &str, token: &str) -> Result<proto::Grant, Status> {
        let request = proto::ImportGrantRequest {
            tenant: TENANT.into(),
            subject: user.into(),
            client: client.into(),
            imported_token: token.into(),
            scopes: vec![MAIL.into()],
            ..Default::default()
        };
        let answer = self.client("web").await.grants.import_grant(request).await?;
        Ok(answer.into_inner().grant.unwrap())
    }

    async fn token(&self, client: &str, user: &str) -> Result<proto::GetAccessTokenResponse, Status> {
        let request = token_request(client, user);
        let answer = self.client("mail").await.tokens.get_access_token(request).await;
        answer.map(tonic::Response::into_inner)
    }

    async fn describe(&self, client: &str, user: &str) -> proto::Grant {
        let request = proto::DescribeGrantRequest {
            tenant: TENANT.into(),
            subject: user.into(),
            client: client.into(),
        };
        let answer = self.client("auditor").await.grants.describe_grant(request).await.unwrap();
        answer.into_inner().grant.unwrap()
    }

    /// Nothing is sent for a grant in doubt before its time.
    async fn waits_for_the_fence(&self, client: &str, user: &str, seen: u64) {
        self.advance(Duration::from_secs(30));
        for _ in 0..3 {
            assert_eq!(reason(&self.token(client, user).await.unwrap_err()), "GRANT_IN_DOUBT");
        }
        let grant = self.describe(client, user).await;
        assert_eq!((grant.state(), grant.cause.as_str()), (GrantState::InDoubt, "interrupted"));
        assert_eq!(self.provider.counts().refreshes, seen, "the provider was asked before the fence");
    }

    /// Waits until the vault has found out how an unknown outcome is resolved.
    async fn settled(&self, client: &str, user: &str) -> proto::Grant {
        let patience = Duration::from_secs(60);
        let settled = async {
            loop {
                let grant = self.describe(client, user).await;
                if !matches!(grant.state(), GrantState::InDoubt | GrantState::Sending) {
                    return grant;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(patience, settled).await.expect("the outcome stayed unknown")
    }

    async fn purge(&self) {
        let request = proto::PurgeTenantNowRequest { tenant: TENANT.into(), confirm: TENANT.into() };
        let purged = self.client("purger").await.tenants.purge_tenant_now(request).await.unwrap();
        let purged = purged.into_inner();
        assert!(purged.trial_open_failed, "a sealed token still opens: {purged:?}");
        assert_eq!(purged.grants_deleted, 1);
    }
}

fn token_request(client: &str, user: &str) -> proto::GetAccessTokenRequest {
    proto::GetAccessTokenRequest {
        tenant: TENANT.into(),
        subject: user.into(),
        client: client.into(),
        scopes: vec![MAIL.into()],
        ..Default::default()
    }
}

fn reason(status: &Status) -> String {
    let info = status.get_details_error_info();
    info.unwrap_or_else(|| panic!("{status:?} has no ErrorInfo")).reason
}

fn interaction(status: &Status) -> proto::InteractionRequired {
    let details = tonic_types::pb::Status::decode(status.details()).unwrap();
    let detail = details.details.iter().find(|any| any.type_url.ends_with("obovault.v1.InteractionRequired"));
    proto::InteractionRequired::decode(detail.expect("what the user must do").value.as_slice()).unwrap()
}

fn private(path: &std::path::Path, text: &str) {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.unwrap().write_all(text.as_bytes()).unwrap();
}
