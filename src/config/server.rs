//! `[server]`: the API.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::authn::Names;
use crate::domain::id::CallerId;
use crate::grpc::limits::Limits;

use super::callers::{self, Callers};
use super::file::Privacy;
use super::limits;
use super::parse;
use super::table::Table;

/// The API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Where it listens.
    pub listen: SocketAddr,
    /// How callers are known.
    pub transport: Transport,
    /// Whether the API describes itself to tools.
    pub reflection: bool,
    /// Most bytes of a request.
    pub max_message_bytes: usize,
    /// How long a shutdown waits for what is under way.
    pub drain: Duration,
    /// How much strangers and callers can hold.
    pub limits: Limits,
    /// Where counters are served over HTTP, if anywhere.
    pub metrics_listen: Option<SocketAddr>,
}

/// How callers are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// By their certificate.
    MutualTls {
        /// The vault's certificate chain, PEM.
        certificate_file: PathBuf,
        /// Its private key, PEM.
        key_file: PathBuf,
        /// Who issues callers' certificates, and whom each may name.
        callers: Vec<Callers>,
    },
    /// Not at all: everyone who can connect over loopback is this caller.
    PlainText {
        /// The caller.
        caller: CallerId,
    },
}

pub(super) fn read(table: &mut Table<'_>) -> Option<Server> {
    let listen = table.or("listen", SocketAddr::from(([127, 0, 0, 1], 8443)), parse::socket);
    let transport = read_transport(table, listen);
    let reflection = table.or("reflection", false, parse::flag);
    let max_message_bytes = table.or("max_message_bytes", 65_536, parse::whole(4096..=4_194_304_usize));
    let drain = table.or("drain_seconds", Duration::from_secs(130), parse::seconds(1..=3600));
    let limits = table.section("limits", limits::read);
    let metrics_listen = table.optional("metrics_listen", parse::socket);
    if metrics_listen == Some(listen) && listen.port() != 0 {
        table.fault("metrics_listen", "must differ from server.listen");
    }
    Some(Server {
        listen,
        transport: transport?,
        reflection,
        max_message_bytes,
        drain,
        limits: limits?,
        metrics_listen,
    })
}

fn read_transport(table: &mut Table<'_>, listen: SocketAddr) -> Option<Transport> {
    if !table.has("plain_text_caller") {
        let bound = table.has("callers");
        let callers = table.each("callers", callers::read);
        return table.section("tls", |table| read_tls(table, bound, callers));
    }
    for key in ["tls", "callers"] {
        table.refuse(key, "must be left out where plain_text_caller is set: choose one");
    }
    if !listen.ip().is_loopback() {
        table.fault("plain_text_caller", "is allowed only where server.listen is a loopback address");
    }
    let caller = table.optional("plain_text_caller", parse::checked(CallerId::new))?;
    Some(Transport::PlainText { caller })
}

/// `bound`: whether `[[server.callers]]` is there, however faulty.
fn read_tls(table: &mut Table<'_>, bound: bool, mut callers: Vec<Callers>) -> Option<Transport> {
    for key in ["certificate_file", "key_file"] {
        if !table.has(key) {
            table.fault(key, "is required; without TLS, set server.plain_text_caller");
        }
    }
    let certificate_file = table.file("certificate_file");
    let key_file = table.private_file("key_file", Privacy::Group);
    if bound {
        table.refuse("client_ca_file", "must be left out where [[server.callers]] is there: choose one");
    } else if table.has("client_ca_file") {
        let ca_file = table.file("client_ca_file")?;
        callers.push(Callers { key: "server.tls.client_ca_file".into(), ca_file, names: Names::Any });
    } else {
        table.fault(
            "client_ca_file",
            "is required, or [[server.callers]]; without TLS, set server.plain_text_caller",
        );
    }
    if callers.is_empty() {
        return None;
    }
    Some(Transport::MutualTls { certificate_file: certificate_file?, key_file: key_file?, callers })
}
