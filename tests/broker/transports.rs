//! Where clients come in: sockets of this machine, and proxies that say whose connection they bring.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use tempfile::TempDir;

use crate::common::client::subscribe;
use crate::common::fixture::{broker_with_listener, config};
use crate::common::{Broker, Client, Connect, Event, Packet, V5, V311, code};

use super::tls::{TLS13, Tls, ca, read_packet};

const PROXIED: &str = "proxy_protocol = true\nproxy_from = [\"127.0.0.0/8\"]\n";

/// A header of version 1.
fn line(peer: &str) -> Vec<u8> {
    format!("PROXY TCP4 {peer} 192.0.2.2 12345 1883\r\n").into_bytes()
}

/// A header of version 2 with this command, and some bytes behind the addresses.
fn binary(command: u8, peer: [u8; 4], more: usize) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([command, 0x11]);
    header.extend(u16::try_from(12 + more).unwrap().to_be_bytes());
    header.extend(peer);
    header.extend([192, 0, 2, 2, 0x30, 0x39, 0x07, 0x5B]);
    header.extend(vec![0xEE; more]);
    header
}

/// What a client behind a proxy is answered.
fn answered(broker: &Broker, header: &[u8], connect: &Connect) -> u8 {
    let mut client = broker.open(connect.version);
    client.send(&[header, &connect.bytes()].concat());
    client.connack().code
}

/// The address that a proxy names is the one that is banned, and that rules speak of; that of the proxy is
/// nobody's.
#[test]
fn a_proxy_says_who_connects() {
    let toml = "[auth]\nanonymous = true\n[auth.ban]\naddresses = [\"203.0.113.7\"]\n\
                [acl]\ndefault = \"deny\"\n[[acl.rule]]\neffect = \"allow\"\ntopics = [\"t\"]\n\
                addresses = [\"198.51.100.0/24\"]";
    let broker = broker_with_listener(2, PROXIED, toml);
    let connect = Connect::new(V5, "c");
    assert_eq!(answered(&broker, &line("198.51.100.1"), &connect), code::SUCCESS);
    assert_eq!(answered(&broker, &line("203.0.113.7"), &connect), 0x8A);
    assert_eq!(answered(&broker, &binary(0x21, [203, 0, 113, 7], 0), &connect), 0x8A);
    assert_eq!(answered(&broker, &binary(0x21, [203, 0, 113, 8], 2000), &connect), code::SUCCESS);
    // A proxy that connects for itself, to see whether the broker is there.
    assert_eq!(answered(&broker, &binary(0x20, [203, 0, 113, 7], 0), &connect), code::SUCCESS);
    assert_eq!(answered(&broker, b"PROXY UNKNOWN\r\n", &connect), code::SUCCESS);
    for (peer, granted) in [("198.51.100.9", 0), ("192.0.2.1", 0x87)] {
        let mut client = broker.open(V5);
        client.send(&[line(peer), connect.bytes()].concat());
        assert_eq!(client.connack().code, code::SUCCESS);
        client.send(&subscribe(V5, 1, &[("t", 0)], &[]));
        assert!(matches!(client.next(), Packet::SubAck(codes) if codes.codes == [granted]));
    }
}

#[test]
fn the_limit_of_an_address_is_that_of_the_client() {
    let toml = "[limits]\nconnections_per_second_per_address = 1";
    let broker = broker_with_listener(2, PROXIED, toml);
    for last in 1..=20 {
        let peer = line(&format!("198.51.100.{last}"));
        assert_eq!(answered(&broker, &peer, &Connect::new(V5, "c")), code::SUCCESS);
    }
    // Of ten in a row some are in the same second.
    let refused = (0..10).filter(|_| {
        let mut client = broker.open(V5);
        client.send_lossy(&[line("203.0.113.1"), Connect::new(V5, "d").bytes()].concat());
        client.event() == Event::Closed
    });
    assert!(refused.count() >= 5);
}

/// Bytes one by one, and what is behind the header at once with it.
#[test]
fn headers_may_come_in_pieces() {
    let broker = broker_with_listener(2, PROXIED, "");
    for header in [line("198.51.100.1"), binary(0x21, [198, 51, 100, 1], 10)] {
        let mut client = broker.open(V311);
        for byte in [header, Connect::new(V311, "slow").bytes()].concat() {
            client.send(&[byte]);
        }
        assert_eq!(client.connack().code, code::SUCCESS);
        client.ping();
    }
}

#[test]
fn without_a_header_nobody_comes_in() {
    let toml = "[limits]\nconnect_timeout = \"300ms\"";
    let broker = broker_with_listener(2, PROXIED, toml);
    let too_long = binary(0x21, [198, 51, 100, 1], 5000);
    for bytes in [Connect::new(V5, "c").bytes(), too_long, b"PROXY TCP4 ".to_vec()] {
        let mut client = broker.open(V5);
        client.send_lossy(&bytes);
        client.expect_closed();
    }
    // And one that ends in the middle of it takes nobody's time.
    let client = broker.open(V5);
    drop(client);
    assert_eq!(answered(&broker, &line("198.51.100.1"), &Connect::new(V5, "c")), code::SUCCESS);
}

#[test]
fn who_is_no_proxy_is_turned_away() {
    let listener = "proxy_protocol = true\nproxy_from = [\"10.0.0.0/8\", \"127.0.0.2\"]";
    let broker = broker_with_listener(2, listener, "");
    let mut client = broker.open(V5);
    client.send_lossy(&[line("198.51.100.1"), Connect::new(V5, "c").bytes()].concat());
    client.expect_closed();
}

/// Behind the header anything may follow.
#[test]
fn tls_and_websocket_lie_behind_the_header() {
    let ca = ca();
    let listener = format!("{PROXIED}[listener.websocket]\n{}", ca.listener(""));
    let broker = broker_with_listener(2, &listener, "[auth.ban]\naddresses = [\"203.0.113.7\"]");
    for (peer, answer) in [([203, 0, 113, 7], 0x8A), ([203, 0, 113, 8], 0)] {
        let socket = TcpStream::connect(broker.address()).unwrap();
        (&socket).write_all(&binary(0x21, peer, 100)).unwrap();
        let mut client = Tls::new(&ca, TLS13, None).over(socket);
        let handshake = sluice::net::ws::ClientHandshake::new([5; 16]);
        client.0.write_all(&handshake.request("localhost", "/mqtt")).unwrap();
        let mut got = Vec::new();
        while handshake.check(&got).unwrap().is_none() {
            let mut byte = [0];
            client.0.read_exact(&mut byte).unwrap();
            got.push(byte[0]);
        }
        let mut frame = Vec::new();
        let connect = Connect::new(V5, "c").bytes();
        let mask = Some([1, 2, 3, 4]);
        sluice::net::ws::append_frame(&mut frame, sluice::net::ws::Opcode::Binary, &connect, mask);
        client.0.write_all(&frame).unwrap();
        let mut connack = [0; 6];
        client.0.read_exact(&mut connack).unwrap();
        assert_eq!((connack[0], connack[2], connack[5]), (0x82, 0x20, answer));
    }
}

fn unix_config(path: &std::path::Path, more: &str) -> sluice::Config {
    let bind = format!("unix:{}", path.display());
    config(3, "", &format!("[[listener]]\nbind = {bind:?}\n{more}"))
}

/// Clients of every shard come in over the one socket, and meet those of TCP; the file has the permissions
/// that are configured, and is gone with the broker.
#[test]
fn programs_of_this_machine_come_over_a_socket() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("mqtt");
    // What a process that died has left.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let inner =
        sluice::Broker::start(unix_config(&path, "socket_mode = \"0600\"")).expect("it starts");
    assert_eq!(inner.addresses().len(), 1);
    assert_eq!(inner.listeners()[1].to_string(), format!("unix:{}", path.display()));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let second = sluice::Broker::start(unix_config(&path, "")).expect_err("it is in use");
    assert!(second.to_string().contains("a program listens there already"), "{second}");
    let broker = Broker::of(inner);
    let mut watcher = broker.connect(V311, "watcher");
    watcher.subscribe("t/#", 0);
    for n in 0..20 {
        let mut socket = UnixStream::connect(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        socket.write_all(&Connect::new(V311, &format!("unix{n}")).bytes()).unwrap();
        let mut connack = [0; 4];
        socket.read_exact(&mut connack).unwrap();
        assert_eq!(connack, [0x20, 2, 0, 0]);
        socket.write_all(&[0x30, 6, 0, 3, b't', b'/', b'u', n]).unwrap();
        watcher.expect("t/u", [n]);
        socket.write_all(&[0xE0, 0]).unwrap();
        assert_eq!(socket.read(&mut connack).unwrap(), 0);
    }
    broker.stop();
    assert!(!path.exists());
}

/// A proxy on this machine may come over a socket of it: whom it names is who connects.
#[test]
fn a_proxy_may_come_over_a_socket() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("mqtt");
    let toml = "proxy_protocol = true\n[auth]\nanonymous = true\n\
                [auth.ban]\naddresses = [\"203.0.113.7\", \"127.0.0.1\"]";
    let inner = sluice::Broker::start(unix_config(&path, toml)).expect("it starts");
    let _broker = Broker::of(inner);
    let connect = Connect::new(V5, "c");
    let answer = |header: &[u8]| {
        let mut socket = UnixStream::connect(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        socket.write_all(&[header, &connect.bytes()].concat()).unwrap();
        read_packet(&mut socket, &connect)
    };
    for (header, code) in [
        (line("203.0.113.7"), 0x8A),
        (line("203.0.113.8"), code::SUCCESS),
        (binary(0x21, [203, 0, 113, 7], 10), 0x8A),
        (binary(0x21, [203, 0, 113, 8], 10), code::SUCCESS),
    ] {
        match answer(&header) {
            Some(Packet::ConnAck(connack)) => assert_eq!(connack.code, code, "{header:x?}"),
            other => panic!("CONNACK expected, got {other:?}"),
        }
    }
    assert_eq!(answer(&[]), None, "without a header it is closed");
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("mqtt");
    std::fs::write(&path, "precious").unwrap();
    let refused = sluice::Broker::start(unix_config(&path, "")).expect_err("it does not start");
    assert!(refused.to_string().contains("something that is no socket is there"), "{refused}");
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}

/// `[::]` is for IPv4, too; a client of it has the address it has without IPv6.
#[test]
fn one_listener_for_both_versions_of_ip() {
    let toml = "[auth]\nanonymous = true\n[auth.ban]\naddresses = [\"127.0.0.1\"]\n\
                [[listener]]\nbind = \"[::]:0\"";
    let inner = sluice::Broker::start(config(2, "", toml)).expect("it starts");
    let port = inner.addresses()[1].port();
    let _broker = Broker::of(inner);
    for (address, answer) in [("127.0.0.1", 0x8A), ("::1", code::SUCCESS)] {
        let address = std::net::SocketAddr::new(address.parse().unwrap(), port);
        let (_, connack) = Client::connect(address, &Connect::new(V5, "c"));
        assert_eq!(connack.code, answer);
    }
}
