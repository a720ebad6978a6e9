//! TLS, as its log tells of it.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::process::Signal;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tempfile::TempDir;

use super::{Running, ends, file, sluice};

/// A CA of this name, and what it has signed.
fn certs(dir: &TempDir, name: &str) -> PathBuf {
    let out = dir.path().join(name);
    let (status, _, err) = ends(sluice().arg("certs").arg("--out").arg(&out));
    assert_eq!(status, 0, "{err}");
    out
}

/// A client that trusts the CA of one directory, and shows the client's certificate of another.
fn tls_client(trusted: &Path, shown: Option<&Path>) -> ClientConnection {
    let certificate = |path| CertificateDer::from_pem_file(path).expect("a certificate");
    let mut roots = RootCertStore::empty();
    roots.add(certificate(trusted.join("ca.pem"))).expect("a CA");
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("1.2 and 1.3")
        .with_root_certificates(roots);
    let config = match shown {
        None => builder.with_no_client_auth(),
        Some(dir) => {
            let key = PrivateKeyDer::from_pem_file(dir.join("client.key")).expect("a key");
            let chain = vec![certificate(dir.join("client.pem"))];
            builder.with_client_auth_cert(chain, key).expect("they go together")
        }
    };
    let name = "localhost".try_into().expect("a name");
    ClientConnection::new(Arc::new(config), name).expect("a client")
}

/// What rustls found, or what the client says it did.
#[test]
fn why_a_handshake_failed_is_in_the_log() {
    let dir = TempDir::new().expect("a temporary directory");
    let [own, other] = ["own", "other"].map(|name| certs(&dir, name));
    let [ca, certificate, key] = ["ca.pem", "server.pem", "server.key"].map(|name| own.join(name));
    let (_dir, path) = file(&format!(
        "shards = 1\n[[listener]]\nbind = \"127.0.0.1:0\"\n[listener.tls]\n\
         certificate = {certificate:?}\nkey = {key:?}\n\
         client_certificates = \"required\"\nclient_ca = {ca:?}\n"
    ));
    let mut broker = Running::start(sluice().args(["--config", &path]).env("NO_COLOR", "1"));
    let address = broker.addresses().remove(0);
    for (trusted, shown, cause) in [
        (&own, None, "peer sent no certificates"),
        // Its CA has the same name and another key.
        (&other, None, "received fatal alert: DecryptError"),
        (&own, Some(&other), "invalid peer certificate: BadSignature"),
    ] {
        let mut socket = TcpStream::connect(&address).expect("it listens");
        let peer = socket.local_addr().expect("it has one").to_string();
        let mut client = tls_client(trusted, shown.map(PathBuf::as_path));
        // In TLS 1.3 the client is done before the server has looked at its certificate.
        while client.complete_io(&mut socket).is_ok() && client.wants_read() {}
        let line = broker.line();
        assert!(line.contains(&format!("closed: TLS: {cause}")), "{line}");
        assert!(line.contains(&peer), "{line}");
    }
    let mut socket = TcpStream::connect(&address).expect("it listens");
    socket.write_all(b"\x10\x0c\0\x04MQTT\x04\x02\0\0\0\0").expect("it is open");
    let line = broker.line();
    assert!(line.contains("closed: TLS: what came is no TLS"), "{line}");
    broker.signal(Signal::TERM);
    assert_eq!(broker.end().0, Some(0));
}

/// Listeners of TLS, each with the certificate of a directory.
fn listeners(all: &[(&str, &Path)]) -> String {
    let listener = |(bind, dir): &(&str, &Path)| {
        let [certificate, key] = ["server.pem", "server.key"].map(|name| dir.join(name));
        format!(
            "[[listener]]\nbind = {bind:?}\n[listener.tls]\ncertificate = {certificate:?}\nkey = {key:?}\n"
        )
    };
    all.iter().map(listener).collect()
}

/// A reload knows a listener by its address, wherever it stands in the file.
#[test]
fn each_listener_keeps_its_certificate() {
    let dir = TempDir::new().expect("a temporary directory");
    let all = ["one", "two", "three"].map(|name| certs(&dir, name));
    let [one, two, three] = all.each_ref().map(PathBuf::as_path);
    let (a, b, c) = ("127.0.0.1:0", "127.0.0.2:0", "127.0.0.3:0");
    let (_dir, path) = file(&listeners(&[(a, one), (b, two)]));
    let mut broker = Running::start(sluice().args(["--config", &path]).env("NO_COLOR", "1"));
    let addresses = broker.addresses();
    let serve = |expected: [&Path; 2]| {
        for (address, expected) in addresses.iter().zip(expected) {
            for trusted in [one, two, three] {
                let mut socket = TcpStream::connect(address).expect("it listens");
                let mut client = tls_client(trusted, None);
                let is_its_own = client.complete_io(&mut socket).is_ok();
                assert_eq!(is_its_own, trusted == expected, "{address} {trusted:?}");
            }
        }
    };
    serve([one, two]);
    let (added, gone) =
        ("listener[0] on 127.0.0.3:0 (added)", "the listener on 127.0.0.1:0 (removed)");
    for (text, expected, left) in [
        (listeners(&[(b, two), (a, one)]), [one, two], None),
        (listeners(&[(b, three), (a, one)]), [one, three], None),
        (listeners(&[(c, three), (b, two), (a, one)]), [one, two], Some(added)),
        (listeners(&[(b, three)]), [one, three], Some(gone)),
        (
            listeners(&[(b, one), (a, two)]).replace("bind", "backlog = 9\nbind"),
            [two, one],
            Some("listener[0].backlog, listener[1].backlog"),
        ),
    ] {
        fs::write(&path, text).expect("the file is written");
        broker.signal(Signal::HUP);
        let mut told = None;
        loop {
            let line = broker.line();
            if line.contains("read again") {
                break;
            }
            // Clients that trust another CA are in the log, too.
            if let Some((_, list)) = line.trim_end().split_once("is for the next start: ") {
                told = Some(list.to_owned());
            }
        }
        assert_eq!(told.as_deref(), left);
        serve(expected);
    }
}
