//! GetAccessToken from memory, with client certificates, policy and audit,
//! against a bare tonic handler of the same service with the same certificates
//! and an answer of the same size.

use std::fs;
use std::path::Path;
use std::time::Duration;

use obo_vault::clock::{Clock as _, SystemClock};
use obo_vault::demo::stand::RunningVault;
use obo_vault::proto::token_service_client::TokenServiceClient;
use obo_vault::proto::token_service_server::{TokenService, TokenServiceServer};
use obo_vault::proto::{GetAccessTokenRequest, GetAccessTokenResponse};
use tokio::net::TcpListener;
use tonic::transport::{Certificate, Channel, Identity, Server, ServerTlsConfig};

use crate::bed::{self, Bed, CONNECTIONS, TOKEN_BYTES};
use crate::load::{self, Round, Until};
use crate::{Scale, floor, median, print_table};

const GRANTS: usize = 500;

struct Contender {
    name: &'static str,
    bed: Bed,
    vault: Option<RunningVault>,
    connections: Vec<TokenServiceClient<Channel>>,
    rounds: Vec<Round>,
}

pub(crate) fn run(scale: Scale) {
    let bare = bare();
    let mut contenders = vec![
        bare,
        vault("vault, audit fsync, 10 policies", "fsync", 10),
        vault("vault, audit fsync, 1,000 policies", "fsync", 1000),
        vault("vault, audit os, 10 policies", "os", 10),
        vault("vault, audit os, 1,000 policies", "os", 1000),
    ];
    let requests = bed::requests(GRANTS);
    for contender in &contenders {
        // Fills the memories and warms up.
        for until in [Until::AllAnswered, Until::Passed(Duration::from_millis(scale.round_millis / 4))] {
            contender.bed.callers.block_on(load::round(&contender.connections, &requests, until));
        }
    }
    for _ in 0..scale.rounds {
        for contender in &mut contenders {
            let until = Until::Passed(Duration::from_millis(scale.round_millis));
            let round = contender.bed.callers.block_on(load::round(&contender.connections, &requests, until));
            contender.rounds.push(round);
        }
    }
    let flush = floor::flush_millis(contenders[0].bed.directory.path());
    report(&contenders);
    println!("\none flush of the audit log's disk: {flush:.2} ms");
    for contender in contenders {
        if let Some(vault) = contender.vault {
            contender.bed.stop(vault);
        }
    }
}

fn report(contenders: &[Contender]) {
    let bare = &contenders[0].rounds;
    let rows: Vec<_> = contenders
        .iter()
        .map(|Contender { name, rounds, .. }| {
            // Each round against the bare handler's right before it.
            let ratio = median(rounds.iter().zip(bare).map(|(r, b)| r.per_second / b.per_second));
            let micros = rounds.iter().map(|r| r.server_micros).collect::<Option<Vec<f64>>>();
            let cells = vec![
                format!("{:.0}", median(rounds.iter().map(|r| r.per_second))),
                format!("{ratio:.2}"),
                format!("{:.2}", median(rounds.iter().map(|r| r.p50))),
                format!("{:.2}", median(rounds.iter().map(|r| r.p99))),
                micros.map_or_else(|| "-".to_owned(), |micros| format!("{:.1}", median(micros))),
            ];
            ((*name).to_owned(), cells)
        })
        .collect();
    print_table(
        &format!(
            "GetAccessToken from memory: {CONNECTIONS} connections, {} calls in flight, tokens of {TOKEN_BYTES} bytes",
            load::IN_FLIGHT
        ),
        &["calls/s", "ratio", "p50 ms", "p99 ms", "server µs/call"],
        &rows,
    );
}

fn vault(name: &'static str, durability: &'static str, policies: usize) -> Contender {
    let bed = Bed::new(GRANTS, durability, policies);
    let vault = bed.start();
    let connections = bed.connect(&vault, "mail", CONNECTIONS).into_iter().map(|c| c.tokens).collect();
    Contender { name, bed, vault: Some(vault), connections, rounds: Vec::new() }
}

/// Answers every request with the same token.
struct Bare(GetAccessTokenResponse);

#[tonic::async_trait]
impl TokenService for Bare {
    #[expect(clippy::disallowed_types, reason = "the signature is the generated one")]
    async fn get_access_token(
        &self,
        request: tonic::Request<GetAccessTokenRequest>,
    ) -> Result<tonic::Response<GetAccessTokenResponse>, tonic::Status> {
        drop(request.into_inner());
        Ok(tonic::Response::new(self.0.clone()))
    }
}

fn bare() -> Contender {
    let bed = Bed::new(0, "os", 10);
    let now = SystemClock::new().now().unix_seconds();
    let answer = GetAccessTokenResponse {
        access_token: "a".repeat(TOKEN_BYTES),
        token_type: "Bearer".to_owned(),
        expire_time: Some(prost_types::Timestamp { seconds: now + 3600, nanos: 1 }),
        scopes: vec!["mail.read".to_owned()],
        from_cache: true,
    };
    let ca = bed.files.pki().ca();
    let pem = |path: &Path| fs::read(path).unwrap();
    let directory = bed.directory.path();
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(pem(&directory.join("server.pem")), pem(&directory.join("server.key"))))
        .client_ca_root(Certificate::from_pem(pem(&ca)));
    let address = bed.servers.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
        let server =
            Server::builder().tls_config(tls).unwrap().add_service(TokenServiceServer::new(Bare(answer)));
        tokio::spawn(server.serve_with_incoming(incoming));
        address
    });
    let connect = || {
        let address = bed.files.address(address, "mail");
        bed.callers.block_on(obo_vault::client::Client::connect(&address)).unwrap().tokens
    };
    let connections = (0..CONNECTIONS).map(|_| connect()).collect();
    Contender { name: "bare tonic handler", bed, vault: None, connections, rounds: Vec::new() }
}
