//! What strangers cost a good caller: how long it waits for a token, on its
//! connection and on one it opens anew, while nobody else is there and while
//! silent connections, denied calls and made-up tenants come all at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use obo_vault::client::Client;
use obo_vault::clock::{Clock as _, SystemClock};
use obo_vault::demo::stand::RunningVault;
use obo_vault::proto::{ExchangeOnBehalfOfRequest, GetAccessTokenRequest};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::bed::{self, Bed};
use crate::{Scale, print_table};

/// Connections that say nothing, from the good caller's address and others.
const SILENT: usize = 600;
/// Calls of a caller that has no right to them, each with the most and the
/// longest scopes.
const DENIED: usize = 10_000;
/// Calls with a token of another tenant each.
const TENANTS: usize = 1000;
/// Calls of each kind of stranger at once.
const AT_ONCE: usize = 32;
/// Calls of the good caller while nobody else is there.
const QUIET: usize = 200;
const GRANTS: usize = 100;

pub(crate) fn run(_scale: Scale) {
    let many = |endpoint: &str| {
        format!(
            "[providers.many]\nissuer = \"{endpoint}/{{tenant}}/v2.0\"\ntoken_endpoint = \"{endpoint}/token\"\n\
             jwks_uri = \"{endpoint}/{{tenant}}/keys\"\naudience = [\"api://vault\"]\ntenant_claim = \"tid\"\n\
             profile = \"strict\"\n\n\
             [clients.many]\nprovider = \"many\"\nclient_id = \"vault\"\nauth = \"secret_post\"\n\
             client_secret_file = \"client.secret\"\n"
        )
    };
    let bed = Bed::with(GRANTS, "fsync", 10, many);
    let vault = bed.start();
    let audit = bed.directory.path().join("audit.jsonl");
    let audit_bytes = || std::fs::metadata(&audit).unwrap().len();
    let (quiet, flooded, bytes) = bed.callers.block_on(async {
        let quiet = good_caller(&bed, &vault, || QUIET).await;
        let before = audit_bytes();
        let flooded = flood(&bed, &vault).await;
        (quiet, flooded, audit_bytes() - before)
    });
    report(&quiet, &flooded, bytes);
    bed.stop(vault);
}

/// What the good caller waited, in milliseconds.
#[derive(Default)]
struct Waited {
    connected: Vec<f64>,
    connecting: Vec<f64>,
}

/// Asks one token after the other, by turns on the connection it has and on a
/// new one, until as many as `until` says.
async fn good_caller(bed: &Bed, vault: &RunningVault, until: impl Fn() -> usize) -> Waited {
    let (clock, requests) = (SystemClock::new(), bed::requests(GRANTS));
    let mut connection = vault.client(&bed.files, "mail").await.unwrap();
    let mut waited = Waited::default();
    for n in 0.. {
        if n >= until() {
            break;
        }
        let anew = n % 2 == 1;
        let asked = clock.instant();
        if anew {
            // A refused connection is tried again: the wait counts to its end.
            connection = loop {
                if let Ok(another) = vault.client(&bed.files, "mail").await {
                    break another;
                }
            };
        }
        connection.tokens.get_access_token(requests[n % requests.len()].clone()).await.unwrap();
        let millis = clock.instant().since(asked).as_secs_f64() * 1e3;
        if anew { waited.connecting.push(millis) } else { waited.connected.push(millis) }
    }
    waited
}

/// The good caller while the strangers are there; it ends when they have done
/// all they meant to, their silent connections still open.
async fn flood(bed: &Bed, vault: &RunningVault) -> Waited {
    let over = Arc::new(AtomicBool::new(false));
    let strangers = {
        let over = Arc::clone(&over);
        let (denied, made_up) =
            (vault.client(&bed.files, "auditor").await, vault.client(&bed.files, "rotator").await);
        let (denied, made_up, address) = (denied.unwrap(), made_up.unwrap(), vault.address());
        let provider = bed.provider.clone();
        tokio::spawn(async move {
            let silent = silent(address).await;
            tokio::join!(denied_calls(denied), made_up_tenants(made_up, provider));
            over.store(true, Ordering::Relaxed);
            drop(silent);
        })
    };
    let waited = good_caller(bed, vault, || if over.load(Ordering::Relaxed) { 0 } else { usize::MAX }).await;
    strangers.await.unwrap();
    waited
}

/// Half of them come from the address of the good caller.
async fn silent(address: SocketAddr) -> Vec<TcpStream> {
    let mut open = Vec::new();
    for n in 0..SILENT {
        let from = if n % 2 == 0 { 1 } else { 2 + n % 8 };
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("127.0.0.{from}:0").parse().unwrap()).unwrap();
        // One that is refused is not there; that is the vault's right.
        open.extend(
            tokio::time::timeout(Duration::from_secs(5), socket.connect(address)).await.into_iter().flatten(),
        );
    }
    open
}

async fn denied_calls(client: Client) {
    let scopes: Vec<String> = (0..64).map(|n| format!("https://graph.example/{n:0>460}")).collect();
    let request = GetAccessTokenRequest {
        tenant: "contoso".to_owned(),
        subject: "nobody".to_owned(),
        client: "portal".to_owned(),
        scopes,
        ..GetAccessTokenRequest::default()
    };
    repeat(DENIED, move |_| {
        let (mut client, request) = (client.clone(), request.clone());
        async move { assert!(client.tokens.get_access_token(request).await.is_err()) }
    })
    .await;
}

async fn made_up_tenants(client: Client, provider: String) {
    repeat(TENANTS, move |n| {
        let (mut client, provider) = (client.clone(), provider.clone());
        async move {
            let part = |json: String| URL_SAFE_NO_PAD.encode(json);
            let tenant = format!("00000000-0000-4000-8000-{n:012}");
            let claims = format!(
                "{{\"iss\":\"{provider}/{tenant}/v2.0\",\"tid\":\"{tenant}\",\"aud\":\"api://vault\",\"sub\":\"s\",\"exp\":4000000000}}"
            );
            let token = [
                part("{\"alg\":\"RS256\",\"kid\":\"1\"}".to_owned()),
                part(claims),
                part("x".repeat(256)),
            ];
            let request = ExchangeOnBehalfOfRequest {
                client: "many".to_owned(),
                user_access_token: token.join("."),
                scopes: vec!["mail.read".to_owned()],
                ..ExchangeOnBehalfOfRequest::default()
            };
            assert!(client.grants.exchange_on_behalf_of(request).await.is_err());
        }
    })
    .await;
}

/// Does it so many times, [`AT_ONCE`] at once.
async fn repeat<F: Future<Output = ()> + Send + 'static>(
    times: usize,
    what: impl Fn(usize) -> F + Clone + Send + 'static,
) {
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (next, what) = (Arc::clone(&next), what.clone());
        tasks.spawn(async move {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= times {
                    return;
                }
                what(n).await;
            }
        });
    }
    tasks.join_all().await;
}

fn report(quiet: &Waited, flooded: &Waited, audit_bytes: u64) {
    let row = |name: &str, waited: &[f64]| {
        let mut sorted = waited.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let at =
            |percent: usize| format!("{:.1}", sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]);
        (name.to_owned(), vec![sorted.len().to_string(), at(50), at(99), at(100)])
    };
    print_table(
        &format!(
            "A good caller beside {SILENT} silent connections, {DENIED} denied calls and {TENANTS} made-up tenants"
        ),
        &["calls", "p50 ms", "p99 ms", "worst ms"],
        &[
            row("alone, on its connection", &quiet.connected),
            row("alone, on a new connection", &quiet.connecting),
            row("with strangers, on its connection", &flooded.connected),
            row("with strangers, on a new connection", &flooded.connecting),
        ],
    );
    println!("\nthe audit log grew by {:.1} MB meanwhile", audit_bytes as f64 / 1e6);
}
