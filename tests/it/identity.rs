//! An identity is what the certificates of now say at the time of the call: it
//! ends with them, and an authority names nobody outside its bounds.

use std::time::Duration;

use obo_vault::clock::Clock as _;
use obo_vault::demo::pki::Pki;
use obo_vault::demo::provider::Options;
use obo_vault::demo::stand::{RunningVault, Settings};
use obo_vault::proto::token_service_client::TokenServiceClient;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::harness::{Stand, eventually, token_request};
use crate::log::captured;
use crate::refusal::Refused as _;

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_ends_with_its_certificate_on_a_connection_that_stands() {
    let stand = Stand::new().await;
    stand.tenant().await;
    stand.grant("ada").await;
    // Less than the age of a connection.
    let until = stand.clock.now().plus(HOUR / 3);
    stand.files.pki().caller_until("mail", "spiffe://stand/mail", until).unwrap();
    let channel = stand.channel("mail").await;
    let mut tokens = TokenServiceClient::new(channel.clone());
    tokens.get_access_token(token_request("ada")).await.unwrap();
    let mut health = HealthClient::new(channel);
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    watch.message().await.unwrap().unwrap();

    stand.advance(HOUR / 2);
    refused_or_gone(tokens.get_access_token(token_request("ada")).await);
    refused_or_gone(health.check(HealthCheckRequest::default()).await);
    // A stream that was open does not outlive it, and nor does the connection.
    eventually("the stream ends", async || {
        let next = tokio::time::timeout(Duration::from_millis(20), watch.message()).await;
        matches!(next, Ok(Err(_) | Ok(None))).then_some(())
    })
    .await;
    assert!(!stand.is_let_in("mail").await, "nor does a new one begin");
    assert!(captured().contains("a certificate of the peer's chain has expired"));
    assert!(stand.is_let_in("operator").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_names_nobody_outside_its_bounds() {
    let partner = tempfile::tempdir().unwrap();
    let partner_pki = Pki::new(partner.path()).unwrap();
    let stand = Stand::unstarted(Options::default(), Settings::default(), |_| ()).await;
    bind_callers(&stand, partner.path());
    let mut stand = stand;
    stand.start().await;
    let issue = |file: &str, uri: &str| {
        partner_pki.caller(file, uri).unwrap();
        for end in ["pem", "key"] {
            let name = format!("{file}.{end}");
            std::fs::copy(partner.path().join(&name), stand.files.directory().join(&name)).unwrap();
        }
    };
    issue("forged", "spiffe://stand/operator");
    issue("sync", "spiffe://partner.example/sync");
    issue("elsewhere", "spiffe://partner.example/other");

    assert!(stand.is_let_in("operator").await);
    assert!(!stand.is_let_in("forged").await);
    assert!(!stand.is_let_in("elsewhere").await);
    assert!(captured().contains("the CA that issued the certificate may not name this caller"));
    let refusal = stand.client("sync").await.tokens.get_access_token(token_request("ada")).await.refused();
    assert_eq!(refusal.reason, "NOT_PERMITTED", "it is who it says, and the policy decides");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_authorities_for_everybody_are_refused_at_the_start() {
    let other = tempfile::tempdir().unwrap();
    Pki::new(other.path()).unwrap();
    let stand = Stand::unstarted(Options::default(), Settings::default(), |_| ()).await;
    let own = std::fs::read_to_string(stand.files.pki().ca()).unwrap();
    let other = std::fs::read_to_string(other.path().join("ca.pem")).unwrap();
    std::fs::write(stand.files.pki().ca(), format!("{own}{other}")).unwrap();
    let refused = RunningVault::start(&stand.files, stand.ambient()).await.unwrap_err().to_string();
    assert!(refused.contains("[[server.callers]]") && refused.contains("ca.pem"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_is_shown_to_new_connections() {
    let stand = Stand::new().await;
    assert_eq!(stand.reload_tls(), Ok(false));
    let before = stand.channel("mail").await;
    // Of another authority, so that clients tell one from the other.
    let renewed = tempfile::tempdir().unwrap();
    let pki = Pki::new(renewed.path()).unwrap();
    pki.server().unwrap();
    let own_ca = std::fs::read(stand.files.pki().ca()).unwrap();
    for name in ["server.pem", "server.key"] {
        std::fs::copy(renewed.path().join(name), stand.files.directory().join(name)).unwrap();
    }
    assert!(stand.is_let_in("mail").await, "until it is read, the old one is shown");
    assert_eq!(stand.reload_tls(), Ok(true));
    assert!(!stand.is_let_in("mail").await, "a client that trusts the old authority alone");
    let clients = tempfile::tempdir().unwrap();
    std::fs::copy(renewed.path().join("ca.pem"), clients.path().join("ca.pem")).unwrap();
    assert!(stand.is_let_in_trusting("mail", &clients.path().join("ca.pem")).await);
    let check = HealthClient::new(before).check(HealthCheckRequest::default()).await;
    assert!(check.is_ok(), "who was connected stays so");
    assert_eq!(std::fs::read(stand.files.pki().ca()).unwrap(), own_ca);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_is_taken_away_ends_the_connections_of_its_callers() {
    let partner = tempfile::tempdir().unwrap();
    Pki::new(partner.path()).unwrap();
    let stand = Stand::new().await;
    let mut tokens = TokenServiceClient::new(stand.channel("mail").await);
    tokens.get_access_token(token_request("ada")).await.refused();
    let bad = "-----BEGIN CERTIFICATE-----\n";
    let own = std::fs::read_to_string(stand.files.pki().ca()).unwrap();
    std::fs::write(stand.files.pki().ca(), bad).unwrap();
    assert!(stand.reload_tls().unwrap_err().contains("ca.pem"));
    assert_eq!(tokens.get_access_token(token_request("ada")).await.refused().reason, "GRANT_NOT_FOUND");
    std::fs::copy(partner.path().join("ca.pem"), stand.files.pki().ca()).unwrap();
    assert_eq!(stand.reload_tls(), Ok(true));
    refused_or_gone(tokens.get_access_token(token_request("ada")).await);
    std::fs::write(stand.files.pki().ca(), own).unwrap();
}

/// The call was refused for its caller's identity, or came when the connection
/// had been closed for it.
fn refused_or_gone<T>(answer: Result<T, tonic::Status>) {
    let Err(status) = answer else { panic!("it was answered") };
    if status.code() == Code::Unauthenticated {
        assert_eq!(Err::<(), _>(status).refused().reason, "CALLER_UNIDENTIFIED");
    } else {
        assert!(matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled), "{status:?}");
    }
}

/// The stand's own authority for its trust domain, the other's for one name.
fn bind_callers(stand: &Stand, partner: &std::path::Path) {
    let config = std::fs::read_to_string(stand.files.config()).unwrap();
    let lines = config.lines().filter(|line| !line.starts_with("client_ca_file"));
    let bound = format!(
        "[[server.callers]]\nca_file = {:?}\ntrust_domain = \"stand\"\n\n\
         [[server.callers]]\nca_file = {:?}\nnames = [\"spiffe://partner.example/sync\"]\n\n",
        stand.files.pki().ca(),
        partner.join("ca.pem"),
    );
    let config = lines.map(|line| format!("{line}\n")).collect::<String>();
    std::fs::write(stand.files.config(), format!("{config}\n{bound}")).unwrap();
}
