//! Who is calling, how it is found out, and that everybody else stays outside.

use obo_vault::client::{Address, Client};
use obo_vault::demo::pki::Pki;
use obo_vault::demo::provider::Options;
use obo_vault::demo::stand::{Files, POLICY, RunningVault, Settings, Upstream};
use obo_vault::proto::{
    DescribeGrantRequest, GetAccessTokenRequest, ImportGrantRequest, ListGrantsRequest, RevokeGrantRequest,
};
use rcgen::SanType;
use tonic::Code;

use crate::harness::{Stand, TENANT, token_request};
use crate::log::captured;
use crate::refusal::{Refusal, Refused as _};

/// Whoever has no usable name gets no connection, and so neither health nor
/// reflection, nor a place among callers.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_must_name_exactly_one_caller() {
    let stand = Stand::new().await;
    let cases = [
        ("two-uris", vec![uri("spiffe://stand/mail"), uri("spiffe://stand/operator")]),
        ("none", vec![]),
        ("two-hosts", vec![host("mail.example"), host("web.example")]),
        ("wildcard", vec![host("*.example")]),
        ("reserved", vec![uri("system:rotation")]),
        ("other-spelling", vec![uri("spiffe://STAND/mail")]),
    ];
    for (file, names) in cases {
        stand.files.pki().client(file, &names).unwrap();
        assert!(!stand.is_let_in(file).await, "{file}");
    }
    assert!(stand.is_let_in("mail").await);
    let said = captured();
    for why in ["more than one URI name", "neither a URI nor a DNS name", "a wildcard", "kept for the vault"]
    {
        assert!(said.contains(why), "the log does not say: {why}");
    }
    let audit = std::fs::read_to_string(stand.files.directory().join("audit.jsonl")).unwrap();
    assert!(!audit.contains("GetAccessToken"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_name_is_an_identity_of_its_own() {
    let policy = format!(
        "{POLICY}\n{}",
        r#"permit (principal == Caller::"dns:db.example", action == Action::"GetAccessToken", resource);"#
    );
    let stand = Stand::with(Options::default(), Settings { policy, ..Settings::default() }).await;
    stand.tenant().await;
    stand.grant("ada").await;
    stand.files.pki().client("db", &[host("DB.example")]).unwrap();
    stand.files.pki().client("other", &[host("other.example")]).unwrap();
    // The first of two kinds of name wins; that of the host is not asked.
    stand.files.pki().client("both", &[host("db.example"), uri("spiffe://stand/rotator")]).unwrap();

    stand.client("db").await.tokens.get_access_token(token_request("ada")).await.unwrap();
    for file in ["other", "both"] {
        assert_eq!(ask(&stand, file, token_request("ada")).await.reason, "NOT_PERMITTED", "{file}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_does_not_get_through_the_handshake() {
    let stand = Stand::new().await;
    stand.tenant().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let foreign = Pki::new(elsewhere.path()).unwrap().caller("mail", "spiffe://stand/mail").unwrap();
    let forged = Address {
        certificate_file: Some(foreign.certificate),
        key_file: Some(foreign.key),
        ..stand.files.address(stand.address(), "mail")
    };
    // A client learns of it at the connection or at its first call.
    let refused = match Client::connect(&forged).await {
        Err(_) => true,
        Ok(mut client) => {
            let answer = client.tokens.get_access_token(token_request("ada")).await;
            !matches!(answer.unwrap_err().code(), Code::NotFound | Code::Ok)
        }
    };
    assert!(refused);

    for endpoint in ["https", "http"] {
        let anonymous = stand.anonymous_channel(endpoint).await;
        let refused = match anonymous {
            Err(_) => true,
            Ok(channel) => {
                let answer = Client::over(channel).tokens.get_access_token(token_request("ada")).await;
                !matches!(answer.unwrap_err().code(), Code::NotFound | Code::Unauthenticated | Code::Ok)
            }
        };
        assert!(refused, "{endpoint} without a certificate");
    }
    let audit = std::fs::read_to_string(stand.files.directory().join("audit.jsonl")).unwrap();
    assert!(!audit.contains("GetAccessToken"), "no call of a stranger's gets as far as the audit log");
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_do_not_overlap() {
    let stand = Stand::new().await;
    stand.tenant().await;
    stand.grant("ada").await;
    for role in ["web", "operator", "auditor", "rotator", "purger"] {
        let refusal = ask(&stand, role, token_request("ada")).await;
        assert_eq!(
            (refusal.code, refusal.reason.as_str()),
            (Code::PermissionDenied, "NOT_PERMITTED"),
            "{role}"
        );
    }
    for role in ["mail", "operator", "auditor", "rotator", "purger"] {
        let request = stand.exchange_request("bob");
        let refusal = stand.client(role).await.grants.exchange_on_behalf_of(request).await.refused();
        assert_eq!(refusal.reason, "NOT_PERMITTED", "{role}");
    }
    assert_eq!(stand.provider.stats().token_requests, 1);
}

/// What exists is told to nobody whom the policy does not permit to ask.
#[tokio::test(flavor = "multi_thread")]
async fn whether_a_client_is_configured_is_told_only_to_the_permitted() {
    let stand = Stand::new().await;
    stand.tenant().await;
    for client in ["portal", "nothing"] {
        let (tenant, subject, client) = (TENANT.to_owned(), "ada".to_owned(), client.to_owned());
        let mut rotator = stand.client("rotator").await;
        let token = GetAccessTokenRequest { client: client.clone(), ..token_request("ada") };
        let import = ImportGrantRequest {
            tenant: tenant.clone(),
            subject: subject.clone(),
            client: client.clone(),
            imported_token: "x".into(),
            scopes: vec!["a".into()],
            ..Default::default()
        };
        let describe =
            DescribeGrantRequest { tenant: tenant.clone(), subject: subject.clone(), client: client.clone() };
        let revoke =
            RevokeGrantRequest { tenant: tenant.clone(), subject: subject.clone(), client: client.clone() };
        let list = ListGrantsRequest { tenant: tenant.clone(), client, ..Default::default() };
        for refusal in [
            rotator.tokens.get_access_token(token).await.refused(),
            rotator.grants.import_grant(import).await.refused(),
            rotator.grants.describe_grant(describe).await.refused(),
            rotator.grants.revoke_grant(revoke).await.refused(),
            rotator.grants.list_grants(list).await.refused(),
        ] {
            assert_eq!(refusal.reason, "NOT_PERMITTED");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_text_has_one_caller_who_is_named() {
    let mut stand = unsecured("127.0.0.1:0", "plain_text_caller = \"spiffe://stand/mail\"").await;
    stand.start().await;
    let address = Address { endpoint: format!("http://{}", stand.address()), ..Address::default() };
    let mut client = Client::connect(&address).await.unwrap();
    let refusal = client.tokens.get_access_token(token_request("ada")).await.refused();
    assert_eq!(refusal.reason, "GRANT_NOT_FOUND", "it may ask for tokens");
    let request = obo_vault::proto::CreateTenantRequest { tenant: TENANT.into() };
    assert_eq!(client.tenants.create_tenant(request).await.refused().reason, "NOT_PERMITTED");
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_text_is_served_on_loopback_only_and_never_by_default() {
    for (listen, server) in [
        ("0.0.0.0:0", "plain_text_caller = \"spiffe://stand/mail\""),
        ("[::]:0", "plain_text_caller = \"spiffe://stand/mail\""),
        ("127.0.0.1:0", ""),
        ("127.0.0.1:0", "plain_text_caller = \"\""),
    ] {
        let stand = unsecured(listen, server).await;
        let refused = RunningVault::start(&stand.files, stand.ambient()).await.unwrap_err().to_string();
        assert!(refused.contains("plain_text_caller"), "{listen} {server}: {refused}");
    }
    // Nor beside certificates, where it would be a way around them.
    let stand = Stand::unstarted(
        Options::default(),
        Settings { server: "plain_text_caller = \"spiffe://stand/mail\"".into(), ..Settings::default() },
        |_: &mut Upstream| (),
    )
    .await;
    let refused = RunningVault::start(&stand.files, stand.ambient()).await.unwrap_err().to_string();
    assert!(refused.contains("tls"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_id_comes_back_with_the_refusal_and_is_in_the_audit_log() {
    let stand = Stand::new().await;
    let ask = async |id: Option<&str>| {
        let mut request = tonic::Request::new(token_request("ada"));
        if let Some(id) = id {
            request.metadata_mut().insert("x-request-id", id.parse().unwrap());
        }
        stand.client("mail").await.tokens.get_access_token(request).await.refused().request_id
    };
    assert_eq!(ask(Some("req-7.of_mine")).await, "req-7.of_mine");
    let (first, second) = (ask(None).await, ask(None).await);
    assert!(!first.is_empty() && first != second);
    // One that could break a line of the log is not taken over.
    for bad in ["two words", "\"quoted\"", &"x".repeat(65)] {
        let given = ask(Some(bad)).await;
        assert!(!given.is_empty() && given != bad, "{given}");
    }
    let audit = std::fs::read_to_string(stand.files.directory().join("audit.jsonl")).unwrap();
    for id in ["req-7.of_mine", &first, &second] {
        let entries = audit.lines().filter(|line| line.contains(id)).count();
        assert!(entries >= 2, "{id}: {entries} entries");
    }
    assert!(audit.contains("spiffe://stand/mail"));
}

async fn ask(stand: &Stand, caller: &str, request: GetAccessTokenRequest) -> Refusal {
    stand.client(caller).await.tokens.get_access_token(request).await.refused()
}

/// A stand whose vault is configured without TLS.
async fn unsecured(listen: &str, server: &str) -> Stand {
    let settings = Settings { server: server.to_owned(), ..Settings::default() };
    let stand = Stand::unstarted(Options::default(), settings, |_| ()).await;
    let config = without_tls(&stand.files).replace("127.0.0.1:0\"", &format!("{listen}\""));
    std::fs::write(stand.files.config(), config).unwrap();
    stand
}

pub(crate) fn without_tls(files: &Files) -> String {
    let config = std::fs::read_to_string(files.config()).unwrap();
    let (before, rest) = config.split_once("[server.tls]").unwrap();
    let (_, after) = rest.split_once("[store]").unwrap();
    format!("{before}[store]{after}")
}

fn uri(name: &str) -> SanType {
    SanType::URI(name.try_into().unwrap())
}

fn host(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}
