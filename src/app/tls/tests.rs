#![cfg(feature = "demo")]

use std::collections::BTreeSet;
use std::fs;

use rustls::{ClientConfig, HandshakeKind};
use rustls_pki_types::ServerName;
use tempfile::TempDir;
use tokio_rustls::TlsConnector;

use super::*;
use crate::authn::TrustDomain;
use crate::clock::{Clock as _, ShiftedClock};
use crate::demo::pki::Pki;

struct Stand {
    directory: TempDir,
    pki: Pki,
    clock: Arc<ShiftedClock>,
}

impl Stand {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::new(directory.path()).unwrap();
        pki.server().unwrap();
        pki.caller("mail", "spiffe://stand/mail").unwrap();
        Self { directory, pki, clock: Arc::new(ShiftedClock::new()) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn start(&self, names: Names) -> Result<ServerTls, String> {
        let callers =
            vec![Callers { key: "server.tls.client_ca_file".into(), ca_file: self.pki.ca(), names }];
        let files = TlsFiles { certificate: self.path("server.pem"), key: self.path("server.key"), callers };
        let metrics = Arc::new(Counters::new());
        ServerTls::start(files, self.clock.clone(), metrics).map_err(|e| e.to_string())
    }

    /// A client that resumes where it is let.
    fn client(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("ca.pem")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let chain = vec![CertificateDer::from_pem_file(self.path("mail.pem")).unwrap()];
        let key = PrivateKeyDer::from_pem_file(self.path("mail.key")).unwrap();
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .unwrap();
        Arc::new(config)
    }
}

/// The server's certificate, and how the handshake went.
async fn handshake(tls: &ServerTls, client: &Arc<ClientConfig>) -> (Vec<u8>, Option<HandshakeKind>) {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let server = tls.live.acceptor().accept(ours);
    let name = ServerName::try_from("localhost").unwrap();
    let client = TlsConnector::from(Arc::clone(client)).connect(name, theirs);
    let (server, client) = tokio::join!(server, client);
    let (mut server, mut client) = (server.unwrap(), client.unwrap());
    // What follows the handshake, tickets too, has arrived with this.
    tokio::io::AsyncWriteExt::write_all(&mut server, b"x").await.unwrap();
    tokio::io::AsyncWriteExt::flush(&mut server).await.unwrap();
    tokio::io::AsyncReadExt::read_exact(&mut client, &mut [0]).await.unwrap();
    let certificate = client.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    (certificate, server.get_ref().1.handshake_kind())
}

#[tokio::test]
async fn no_session_is_resumed() {
    let stand = Stand::new();
    let tls = stand.start(Names::Any).unwrap();
    let client = stand.client();
    for _ in 0..3 {
        assert_eq!(handshake(&tls, &client).await.1, Some(HandshakeKind::Full));
    }
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_once_it_is_read_and_a_bad_one_never() {
    let stand = Stand::new();
    let tls = stand.start(Names::Any).unwrap();
    let client = stand.client();
    let before = handshake(&tls, &client).await.0;
    assert_eq!(tls.reload(stand.clock.now()), Ok(false));

    // The certificate is there, its key is not yet.
    let old_key = fs::read(stand.path("server.key")).unwrap();
    stand.pki.server().unwrap();
    let new_key = fs::read(stand.path("server.key")).unwrap();
    fs::write(stand.path("server.key"), old_key).unwrap();
    let why = tls.reload(stand.clock.now()).unwrap_err();
    assert!(why.contains("server.pem") && why.contains("server.key"), "{why}");
    assert_eq!(handshake(&tls, &client).await.0, before);

    fs::write(stand.path("server.key"), new_key).unwrap();
    assert_eq!(tls.reload(stand.clock.now()), Ok(true));
    let after = handshake(&tls, &client).await.0;
    assert_ne!(after, before);

    for (name, text) in [("server.pem", ""), ("server.key", "nothing"), ("ca.pem", "nothing")] {
        let good = fs::read(stand.path(name)).unwrap();
        fs::write(stand.path(name), text).unwrap();
        let why = tls.reload(stand.clock.now()).unwrap_err();
        assert!(why.contains(name), "{name}: {why}");
        fs::remove_file(stand.path(name)).unwrap();
        assert!(tls.reload(stand.clock.now()).unwrap_err().contains(name));
        fs::write(stand.path(name), good).unwrap();
        set_mode(&stand.path(name), 0o600);
    }
    assert_eq!(tls.reload(stand.clock.now()), Ok(false));
    assert_eq!(handshake(&tls, &client).await.0, after);
}

#[test]
fn several_authorities_that_may_name_anybody_are_refused_with_what_to_do() {
    let stand = Stand::new();
    let other = tempfile::tempdir().unwrap();
    let other = fs::read_to_string(Pki::new(other.path()).unwrap().ca()).unwrap();
    let own = fs::read_to_string(stand.pki.ca()).unwrap();
    fs::write(stand.pki.ca(), format!("{own}{own}")).unwrap();
    stand.start(Names::Any).unwrap();
    fs::write(stand.pki.ca(), format!("{own}{other}")).unwrap();
    let why = stand.start(Names::Any).unwrap_err();
    assert!(why.contains("2 CAs") && why.contains("[[server.callers]]"), "{why}");
    let domains = vec![TrustDomain::new("stand").unwrap()];
    stand.start(Names::Bound { domains, callers: BTreeSet::new() }).unwrap();
}

#[test]
fn certificates_that_have_ended_are_refused_by_name() {
    let stand = Stand::new();
    let until = stand.clock.now().plus(Duration::from_secs(3600));
    let pair = stand.pki.caller_until("server", "spiffe://stand/server", until).unwrap();
    assert_eq!(pair.certificate, stand.path("server.pem"));
    let tls = stand.start(Names::Any).unwrap();
    // Another one, which would be read.
    stand.pki.caller_until("server", "spiffe://stand/server", until).unwrap();
    stand.clock.advance(Duration::from_secs(2 * 3600));
    for why in [tls.reload(stand.clock.now()).unwrap_err(), stand.start(Names::Any).unwrap_err()] {
        assert!(why.contains("server.pem") && why.contains("expired on"), "{why}");
    }
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;

    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn what_others_could_have_changed_or_read_is_not_taken_into_force() {
    let stand = Stand::new();
    let tls = stand.start(Names::Any).unwrap();
    let other = Stand::new();
    for (name, mode) in [("ca.pem", 0o666), ("server.pem", 0o666), ("server.key", 0o644)] {
        let before = fs::read(stand.path(name)).unwrap();
        fs::write(stand.path(name), fs::read(other.path(name)).unwrap()).unwrap();
        set_mode(&stand.path(name), mode);
        let why = tls.reload(stand.clock.now()).unwrap_err();
        assert!(why.contains(name) && !why.contains("consistent"), "{name}: {why}");
        fs::write(stand.path(name), before).unwrap();
        set_mode(&stand.path(name), 0o600);
    }
    assert_eq!(tls.reload(stand.clock.now()), Ok(false));
}
