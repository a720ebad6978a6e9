//! TLS: the same broker behind it.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned,
    SupportedProtocolVersion, version,
};
use tempfile::TempDir;

use crate::common::client::subscribe;
use crate::common::{Broker, Connect, Message, Packet, V5, V311, fixture, wire};

pub(crate) const TLS12: &SupportedProtocolVersion = &version::TLS12;
pub(crate) const TLS13: &SupportedProtocolVersion = &version::TLS13;

/// A CA of the test's own, and a directory for what it signs.
pub(crate) struct Ca {
    dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    serial: u64,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "a CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("ca.pem"), &pem).unwrap();
        Self { dir, issuer: Issuer::new(params, key), pem, serial: 1 }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Signs a certificate, writes it and its key to NAME.pem and NAME.key, and gives its serial.
    pub(crate) fn sign(&mut self, name: &str, hosts: &[&str], expired: bool) -> u64 {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        for host in hosts {
            params.subject_alt_names.push(SanType::DnsName((*host).try_into().unwrap()));
        }
        if expired {
            params.not_after = date_time_ymd(2001, 1, 1);
        }
        self.serial += 1;
        params.serial_number = Some(SerialNumber::from(self.serial));
        let key = KeyPair::generate().unwrap();
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        fs::write(self.path(&format!("{name}.pem")), pem).unwrap();
        fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
        self.serial
    }

    /// Writes a list of revoked certificates.
    pub(crate) fn revoke(&self, serials: &[u64]) {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2099, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let pem = list.signed_by(&self.issuer).unwrap().pem().unwrap();
        fs::write(self.path("crl.pem"), pem).unwrap();
    }

    /// The keys of a listener with the certificate "server".
    pub(crate) fn listener(&self, more: &str) -> String {
        let [certificate, key] = ["server.pem", "server.key"].map(|name| self.path(name));
        format!("[listener.tls]\ncertificate = {certificate:?}\nkey = {key:?}\n{more}")
    }

    pub(crate) fn with_clients(&self, which: &str, more: &str) -> String {
        let ca = self.path("ca.pem");
        self.listener(&format!("client_certificates = {which:?}\nclient_ca = {ca:?}\n{more}"))
    }
}

/// A CA that has signed a certificate for the server.
pub(crate) fn ca() -> Ca {
    let mut ca = Ca::new();
    ca.sign("server", &["localhost"], false);
    ca
}

/// How a client goes about it.
pub(crate) struct Tls {
    pub(crate) config: ClientConfig,
    host: &'static str,
}

impl Tls {
    /// Trusts the CA; shows a certificate that was signed under this name.
    pub(crate) fn new(
        trusted: &Ca,
        version: &'static SupportedProtocolVersion,
        own: Option<(&Ca, &str)>,
    ) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(trusted.pem.as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots);
        let config = match own {
            None => builder.with_no_client_auth(),
            Some((ca, name)) => {
                let chain = CertificateDer::from_pem_file(ca.path(&format!("{name}.pem")));
                let key = PrivateKeyDer::from_pem_file(ca.path(&format!("{name}.key")));
                builder.with_client_auth_cert(vec![chain.unwrap()], key.unwrap()).unwrap()
            }
        };
        Self { config, host: "localhost" }
    }

    pub(crate) fn open(&self, broker: &Broker) -> Client {
        self.over(TcpStream::connect(broker.address()).unwrap())
    }

    pub(crate) fn over(&self, socket: TcpStream) -> Client {
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        self.through(socket)
    }

    fn through<S: Read + Write>(&self, socket: S) -> Client<S> {
        let config = Arc::new(self.config.clone());
        let session = ClientConnection::new(config, self.host.try_into().unwrap()).unwrap();
        Client(StreamOwned::new(session, socket))
    }

    /// A client that was let in.
    #[track_caller]
    pub(crate) fn connect(&self, broker: &Broker, connect: &Connect) -> Client {
        let mut client = self.open(broker);
        client.connect(connect);
        client
    }

    /// Whether a client is let in, or hears no CONNACK at all.
    pub(crate) fn comes_in(&self, broker: &Broker) -> bool {
        let mut client = self.open(broker);
        let connect = Connect::new(V5, "c");
        let _ = client.0.write_all(&connect.bytes()).and_then(|()| client.0.flush());
        client.packet(&connect).is_some()
    }
}

/// A small client over TLS.
pub(crate) struct Client<S: Read + Write = TcpStream>(pub(crate) StreamOwned<ClientConnection, S>);

impl<S: Read + Write> Client<S> {
    /// Connects; it must be let in.
    #[track_caller]
    fn connect(&mut self, connect: &Connect) {
        self.send(&connect.bytes());
        match self.packet(connect) {
            Some(Packet::ConnAck(connack)) => assert_eq!(connack.code, 0),
            other => panic!("CONNACK expected, got {other:?}"),
        }
    }

    /// Whether it answers a ping.
    pub(crate) fn survives(&mut self, connect: &Connect) -> bool {
        self.send(&wire::packet(wire::PINGREQ, &[]));
        self.packet(connect) == Some(Packet::PingResp)
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
        self.0.flush().unwrap();
    }

    /// The next packet; none if the connection ends first.
    pub(crate) fn packet(&mut self, connect: &Connect) -> Option<Packet> {
        read_packet(&mut self.0, connect)
    }
}

/// The next packet of a stream; none if it ends first.
pub(crate) fn read_packet(stream: &mut impl Read, connect: &Connect) -> Option<Packet> {
    let mut byte = [0; 1];
    stream.read_exact(&mut byte).ok()?;
    let [first] = byte;
    let (mut len, mut shift) = (0, 0);
    loop {
        stream.read_exact(&mut byte).ok()?;
        len |= usize::from(byte[0] & 0x7F) << shift;
        shift += 7;
        if byte[0] & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body).ok()?;
    Some(Packet::read(connect.version, first, &body))
}

/// A socket that counts the records of application data that come over it.
struct Records {
    socket: TcpStream,
    /// What has come of the head of a record.
    head: Vec<u8>,
    /// What is still to come of its body.
    body: usize,
    application_data: usize,
}

impl Records {
    const APPLICATION_DATA: u8 = 0x17;

    fn new(socket: TcpStream) -> Self {
        Self { socket, head: Vec::new(), body: 0, application_data: 0 }
    }

    fn count(&mut self, mut bytes: &[u8]) {
        while let Some((byte, rest)) = bytes.split_first() {
            if self.body > 0 {
                let here = self.body.min(bytes.len());
                self.body -= here;
                bytes = &bytes[here..];
                continue;
            }
            self.head.push(*byte);
            bytes = rest;
            if let [kind, _, _, high, low] = self.head[..] {
                self.application_data += usize::from(kind == Self::APPLICATION_DATA);
                self.body = usize::from(u16::from_be_bytes([high, low]));
                self.head.clear();
            }
        }
    }
}

impl Read for Records {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let len = self.socket.read(buf)?;
        self.count(&buf[..len]);
        Ok(len)
    }
}

impl Write for Records {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.socket.write(buf)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.socket.flush()
    }
}

#[test]
fn messages_of_every_size_pass_over_both_versions() {
    let ca = ca();
    let broker = fixture::broker_with_listener(3, &ca.listener(""), "");
    for (number, version) in [TLS12, TLS13].into_iter().enumerate() {
        for n in 0..6 {
            // Over three shards some are at home where they came in, and some are not.
            let connect =
                Connect::new(if n % 2 == 0 { V5 } else { V311 }, &format!("{number}-{n}"));
            let mut client = Tls::new(&ca, version, None).connect(&broker, &connect);
            client.send(&subscribe(connect.version, 1, &[("t", 0)], &[]));
            assert!(matches!(client.packet(&connect), Some(Packet::SubAck(_))));
            for len in [0, 1, 100, 16_384, 40_000, 300_000, 900_000] {
                let payload = vec![b'a' + n; len];
                client.send(&Message::new("t", &payload).bytes(connect.version));
                match client.packet(&connect) {
                    Some(Packet::Publish(publish)) => assert!(publish.payload == payload, "{len}"),
                    other => panic!("PUBLISH expected, got {other:?}"),
                }
            }
            client.send(&wire::packet(wire::DISCONNECT, &[]));
            assert_eq!(client.packet(&connect), None);
        }
    }
}

/// What a turn has for a client shares its records.
#[test]
fn many_small_messages_at_once_keep_their_order_and_share_records() {
    let ca = ca();
    let broker = fixture::broker_with_listener(2, &ca.listener(""), "");
    for version in [TLS12, TLS13] {
        let connect = Connect::new(V311, "c");
        let socket = TcpStream::connect(broker.address()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut client = Tls::new(&ca, version, None).through(Records::new(socket));
        client.connect(&connect);
        client.send(&subscribe(V311, 1, &[("t", 0)], &[]));
        assert!(matches!(client.packet(&connect), Some(Packet::SubAck(_))));
        let burst: Vec<u8> =
            (0..2000).flat_map(|n: u32| Message::new("t", n.to_string()).bytes(V311)).collect();
        client.send(&burst);
        let before = client.0.sock.application_data;
        for n in 0..2000 {
            match client.packet(&connect) {
                Some(Packet::Publish(publish)) => assert_eq!(publish.payload_text(), n.to_string()),
                other => panic!("PUBLISH {n} expected, got {other:?}"),
            }
        }
        let records = client.0.sock.application_data - before;
        assert!((1..100).contains(&records), "{records} records");
    }
}

/// What waits for a client that does not read leaves when it does.
#[test]
fn a_client_that_reads_late_gets_it_all() {
    let ca = ca();
    let broker = fixture::broker_with_listener(1, &ca.listener(""), "");
    let connect = Connect::new(V5, "slow");
    let mut slow = Tls::new(&ca, TLS13, None).connect(&broker, &connect);
    slow.send(&subscribe(V5, 1, &[("t", 1)], &[]));
    assert!(matches!(slow.packet(&connect), Some(Packet::SubAck(_))));
    let publisher = Connect::new(V5, "publisher");
    let mut fast = Tls::new(&ca, TLS13, None).connect(&broker, &publisher);
    let payload = vec![b'x'; 200_000];
    for id in 1..=40 {
        fast.send(&Message::new("t", &payload).qos(1).id(id).bytes(V5));
        assert!(matches!(fast.packet(&publisher), Some(Packet::PubAck(_))));
    }
    for _ in 0..40 {
        match slow.packet(&connect) {
            Some(Packet::Publish(publish)) => {
                assert!(publish.payload == payload);
                slow.send(&wire::packet(0x40, &publish.id.to_be_bytes()));
            }
            other => panic!("PUBLISH expected, got {other:?}"),
        }
    }
}

#[test]
fn what_is_not_tls_is_turned_away_and_others_go_on() {
    let ca = ca();
    let broker = fixture::broker_with_listener(1, &ca.listener(""), "");
    let mut good = Tls::new(&ca, TLS13, None).connect(&broker, &Connect::new(V5, "good"));
    let connect = Connect::new(V5, "plain");
    for garbage in [&connect.bytes()[..], b"GET / HTTP/1.1\r\n\r\n", &[0x16, 3, 1, 0xFF, 0xFF, 0]] {
        let mut socket = TcpStream::connect(broker.address()).unwrap();
        socket.write_all(garbage).unwrap();
        socket.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
        assert!(answer.is_empty() || answer[0] == 0x15, "an alert, if anything: {answer:x?}");
    }
    good.send(&wire::packet(wire::PINGREQ, &[]));
    assert_eq!(good.packet(&connect), Some(Packet::PingResp));
}

#[test]
fn the_host_that_is_asked_for_chooses_the_certificate() {
    let mut ca = ca();
    ca.sign("second", &["two.example.com", "*.three.example.com"], false);
    let [certificate, key] = ["second.pem", "second.key"].map(|name| ca.path(name));
    let more = format!("[[listener.tls.more]]\ncertificate = {certificate:?}\nkey = {key:?}");
    let broker = fixture::broker_with_listener(1, &ca.listener(&more), "");
    for (host, served) in [
        ("localhost", true),
        ("two.example.com", true),
        ("a.three.example.com", true),
        ("four.example.com", false),
    ] {
        let tls = Tls { host, ..Tls::new(&ca, TLS13, None) };
        assert_eq!(tls.comes_in(&broker), served, "{host}");
    }
}

/// By any shard: the ticket is the client's to keep.
#[test]
fn a_client_that_comes_again_resumes() {
    let ca = ca();
    let broker = fixture::broker_with_listener(4, &ca.listener(""), "");
    for version in [TLS12, TLS13] {
        let tls = Tls::new(&ca, version, None);
        let connect = Connect::new(V5, "c");
        let mut first = tls.connect(&broker, &connect);
        first.send(&wire::packet(wire::PINGREQ, &[]));
        assert_eq!(first.packet(&connect), Some(Packet::PingResp));
        assert_eq!(first.0.conn.handshake_kind(), Some(HandshakeKind::Full));
        for _ in 0..4 {
            let again = tls.connect(&broker, &connect);
            assert_eq!(again.0.conn.handshake_kind(), Some(HandshakeKind::Resumed));
        }
    }
}

#[test]
fn the_protocol_is_mqtt() {
    let ca = ca();
    let broker = fixture::broker_with_listener(1, &ca.listener(""), "");
    for (offered, served) in [("mqtt", true), ("h2", false)] {
        let mut tls = Tls::new(&ca, TLS13, None);
        tls.config.alpn_protocols = vec![offered.into()];
        assert_eq!(tls.comes_in(&broker), served, "{offered}");
    }
}

#[test]
fn only_1_3_is_only_1_3() {
    let ca = ca();
    let broker = fixture::broker_with_listener(1, &ca.listener("min_version = \"1.3\""), "");
    assert!(Tls::new(&ca, TLS13, None).comes_in(&broker));
    assert!(!Tls::new(&ca, TLS12, None).comes_in(&broker));
}

/// A refusal is read before the end.
#[test]
fn who_is_refused_is_told() {
    let ca = ca();
    let broker = fixture::broker_with_listener(1, &ca.listener(""), "");
    let mut client = Tls::new(&ca, TLS13, None).open(&broker);
    let connect = Connect::new(V5, &"x".repeat(2000));
    client.send(&connect.bytes());
    match client.packet(&connect) {
        Some(Packet::ConnAck(connack)) => assert_eq!(connack.code, 0x85),
        other => panic!("CONNACK expected, got {other:?}"),
    }
    assert_eq!(client.0.read(&mut [0; 1]).unwrap(), 0, "close_notify");
}

/// A connection that has begun a handshake and does not go on.
fn half_a_handshake(broker: &Broker) -> TcpStream {
    let mut socket = TcpStream::connect(broker.address()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    // The type of a handshake record.
    socket.write_all(&[0x16]).unwrap();
    socket
}

/// `handshake_timeout` is for the handshake alone: CONNECT has its own time after it.
#[test]
fn a_handshake_is_done_in_time() {
    let ca = ca();
    let listener = ca.listener("handshake_timeout = \"300ms\"");
    let broker = fixture::broker_with_listener(2, &listener, "[limits]\nconnect_timeout = \"1h\"");
    let mut done = Tls::new(&ca, TLS13, None).open(&broker);
    while done.0.conn.is_handshaking() {
        done.0.conn.complete_io(&mut done.0.sock).unwrap();
    }
    let mut half = half_a_handshake(&broker);
    assert_eq!(half.read(&mut [0]).unwrap_or(0), 0, "closed");
    let connect = Connect::new(V5, "c");
    done.send(&connect.bytes());
    assert!(matches!(done.packet(&connect), Some(Packet::ConnAck(connack)) if connack.code == 0));
}

/// `limits.max_handshakes`: who would begin one more waits; who is connected does not.
#[test]
fn handshakes_wait_for_others_to_end() {
    let ca = ca();
    let listener = ca.listener("handshake_timeout = \"500ms\"");
    let broker = fixture::broker_with_listener(1, &listener, "[limits]\nmax_handshakes = 1");
    let tls = Tls::new(&ca, TLS13, None);
    let connect = Connect::new(V311, "connected");
    let mut connected = tls.connect(&broker, &connect);
    let mut half = half_a_handshake(&broker);
    half.set_nonblocking(true).unwrap();
    connected.send(&wire::packet(wire::PINGREQ, &[]));
    assert!(matches!(connected.packet(&connect), Some(Packet::PingResp)));
    tls.connect(&broker, &Connect::new(V311, "waits"));
    let end = half.read(&mut [0]);
    let still = end.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
    assert!(!still, "it was closed before: {end:?}");
    // Those that failed and those that ended give room.
    for n in 0..5 {
        drop(half_a_handshake(&broker));
        tls.connect(&broker, &Connect::new(V311, &format!("next-{n}")));
    }
}
