//! What a TLS handshake costs a server: rustls in memory, as it comes and as a listener has it set up. Only
//! the server's side is timed.
//!
//! What the broker spends beside that: storms with and without TLS, of which one takes the difference.
//!
//! ```sh
//! cargo run --release -p sluice-bench -- run storm -c 2000 --port 8883 --cafile certs/ca.pem --pid PID
//! cargo run --release -p sluice-bench -- run storm -c 2000 --port 1883 --pid PID
//! ```

#![allow(missing_docs)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::aws_lc_rs;
use rustls::server::ServerConfig;
use rustls::{
    ClientConnection, HandshakeKind, ServerConnection, SupportedProtocolVersion, version,
};
use sluice::config::certs::Certs;
use sluice::net::{ALPN_MQTT, CertificateFiles, ClientCertificates, TlsSettings, trusted_roots};

/// Certificates as `sluice certs` makes them.
struct Files {
    directory: tempfile::TempDir,
}

impl Files {
    fn make() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let out = directory.path().to_owned();
        Certs { out, host: Vec::new(), client: "client".to_owned() }.run().expect("certificates");
        Self { directory }
    }

    fn server(&self) -> CertificateFiles {
        let at = |name| self.directory.path().join(name);
        CertificateFiles { chain: at("server.pem"), key: at("server.key") }
    }

    /// What a listener goes by.
    fn listener(&self) -> Arc<ServerConfig> {
        let settings = TlsSettings {
            certificates: vec![self.server()],
            clients: ClientCertificates::None,
            only_1_3: false,
            alpn: ALPN_MQTT,
        };
        settings.load().expect("a configuration")
    }

    /// What rustls does if it is told nothing.
    fn rustls(&self) -> Arc<ServerConfig> {
        let (chain, key) = self.server().read().expect("a certificate");
        let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions");
        let config = builder.with_no_client_auth().with_single_cert(chain, key);
        Arc::new(config.expect("a certificate with its key"))
    }

    fn client(
        &self,
        version: &'static SupportedProtocolVersion,
        resumes: bool,
    ) -> Arc<ClientConfig> {
        let roots = trusted_roots(&self.directory.path().join("ca.pem")).expect("a CA");
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[version])
            .expect("a version");
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        if !resumes {
            config.resumption = Resumption::disabled();
        }
        Arc::new(config)
    }
}

/// One handshake, and the tickets after it. Gives how long the server's side took, and of which kind it was.
fn handshake(server: &Arc<ServerConfig>, client: &Arc<ClientConfig>) -> (Duration, HandshakeKind) {
    let name = "localhost".try_into().expect("a name");
    let mut client = ClientConnection::new(client.clone(), name).expect("a client");
    let began = Instant::now();
    let mut server = ServerConnection::new(server.clone()).expect("a server");
    let mut spent = began.elapsed();
    let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
    while client.is_handshaking() || server.is_handshaking() || client.wants_write() {
        to_server.clear();
        while client.wants_write() {
            client.write_tls(&mut to_server).expect("memory");
        }
        to_client.clear();
        let began = Instant::now();
        let mut bytes = to_server.as_slice();
        while !bytes.is_empty() {
            server.read_tls(&mut bytes).expect("memory");
            server.process_new_packets().expect("TLS");
        }
        while server.wants_write() {
            server.write_tls(&mut to_client).expect("memory");
        }
        spent += began.elapsed();
        let mut bytes = to_client.as_slice();
        while !bytes.is_empty() {
            client.read_tls(&mut bytes).expect("memory");
            client.process_new_packets().expect("TLS");
        }
    }
    let kind = server.handshake_kind().expect("it is done");
    let began = Instant::now();
    drop(server);
    (spent + began.elapsed(), kind)
}

fn handshakes(c: &mut Criterion) {
    let files = Files::make();
    let mut group = c.benchmark_group("handshake");
    for (name, server) in [("rustls", files.rustls()), ("listener", files.listener())] {
        for (version_name, version) in [("1.3", &version::TLS13), ("1.2", &version::TLS12)] {
            for (how, resumes) in [("full", false), ("resumed", true)] {
                let client = files.client(version, resumes);
                handshake(&server, &client);
                group.bench_function(format!("{version_name}_{how}_{name}"), |bencher| {
                    bencher.iter_custom(|times| {
                        let one = || {
                            let (spent, kind) = handshake(&server, &client);
                            assert_eq!(kind == HandshakeKind::Resumed, resumes);
                            spent
                        };
                        (0..times).map(|_| one()).sum()
                    });
                });
            }
        }
    }
    group.finish();
}

criterion_group!(benches, handshakes);
criterion_main!(benches);
