//! WebSocket: frames made by hand, handshakes that are refused, and the same broker behind it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use sluice::net::ws::{
    ClientHandshake, Control, Decoder, HandshakeError, Opcode, Role, append_frame,
};

use crate::common::client::subscribe;
use crate::common::fixture::broker_with_listener;
use crate::common::{Broker, Connect, Message, Packet, V5, V31, V311, Version, Will, let_pass};

use super::tls::{TLS13, Tls, ca};

const LISTENER: &str = "[listener.websocket]";

fn broker(more: &str) -> Broker {
    broker_with_listener(2, &format!("{LISTENER}\n{more}"), "")
}

/// What a connection can be: TCP, or TLS over it.
pub(crate) trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

/// One client.
pub(crate) struct Ws {
    stream: Box<dyn Stream>,
    decoder: Decoder,
    /// Payload that has come.
    payload: Vec<u8>,
    controls: Vec<String>,
}

fn tcp(broker: &Broker) -> TcpStream {
    let socket = TcpStream::connect(broker.address()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket.set_nodelay(true).unwrap();
    socket
}

/// Reads until `enough` or the end.
fn read_until(stream: &mut impl Read, enough: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut got = Vec::new();
    let mut byte = [0];
    while !enough(&got) && stream.read(&mut byte).unwrap() == 1 {
        got.push(byte[0]);
    }
    got
}

impl Ws {
    pub(crate) fn open(mut stream: impl Stream + 'static) -> Self {
        let handshake = ClientHandshake::new(*b"sixteen bytes...");
        stream.write_all(&handshake.request("localhost", "/mqtt")).unwrap();
        stream.flush().unwrap();
        let answer = read_until(&mut stream, |got| handshake.check(got).unwrap().is_some());
        assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
        Self {
            stream: Box::new(stream),
            decoder: Decoder::new(Role::Client, u64::MAX),
            payload: Vec::new(),
            controls: Vec::new(),
        }
    }

    fn connect(broker: &Broker, connect: &Connect) -> Self {
        let mut ws = Self::open(tcp(broker));
        ws.send(&connect.bytes());
        assert!(matches!(ws.packet(connect), Some(Packet::ConnAck(ack)) if ack.code == 0));
        ws
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
        self.stream.flush().unwrap();
    }

    /// Sends a frame whose first byte is this.
    fn frame(&mut self, first: u8, payload: &[u8]) {
        self.raw(&frame(first, payload));
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.frame(0x82, bytes);
    }

    /// Reads once; false at the end.
    fn read(&mut self) -> bool {
        let mut buf = vec![0; 64 * 1024];
        let len = self.stream.read(&mut buf).unwrap();
        let controls = &mut self.controls;
        let payload = self.decoder.decode(&mut buf[..len], |control| match control {
            Control::Ping(payload) => controls.push(format!("ping {payload:?}")),
            Control::Pong(payload) => controls.push(format!("pong {payload:?}")),
            Control::Close(code) => controls.push(format!("close {}", code.unwrap_or_default())),
        });
        self.payload.extend_from_slice(&buf[..payload.unwrap()]);
        len > 0
    }

    pub(crate) fn packet(&mut self, connect: &Connect) -> Option<Packet> {
        loop {
            if let Some((first, body_at, len)) = head(&self.payload)
                && self.payload.len() >= body_at + len
            {
                let packet =
                    Packet::read(connect.version, first, &self.payload[body_at..body_at + len]);
                self.payload.drain(..body_at + len);
                return Some(packet);
            }
            if !self.read() {
                return None;
            }
        }
    }

    /// Reads on until a control frame has come.
    fn control(&mut self) -> String {
        while self.controls.is_empty() {
            assert!(self.read(), "the connection ends");
        }
        self.controls.remove(0)
    }

    /// The connection ends with a close frame with this code.
    #[track_caller]
    fn ends_with(&mut self, code: u16) {
        assert_eq!(self.control(), format!("close {code}"));
        while self.read() {}
        assert!(self.controls.is_empty());
    }
}

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    append_frame(&mut frame, Opcode::Binary, payload, Some([9, 8, 7, 6]));
    frame[0] = first;
    frame
}

/// First byte, offset of the body and its length of a packet.
fn head(bytes: &[u8]) -> Option<(u8, usize, usize)> {
    let (mut len, mut at) = (0, 1);
    loop {
        let byte = *bytes.get(at)?;
        len |= usize::from(byte & 0x7F) << (7 * (at - 1));
        at += 1;
        if byte & 0x80 == 0 {
            return Some((bytes[0], at, len));
        }
    }
}

fn publish(topic: &str, payload: &[u8], version: u8) -> Vec<u8> {
    let mut body = Vec::from((topic.len() as u16).to_be_bytes());
    body.extend_from_slice(topic.as_bytes());
    if version == 5 {
        body.push(0);
    }
    body.extend_from_slice(payload);
    let mut packet = vec![0x30];
    let mut len = body.len();
    while len > 127 {
        packet.push((len & 0x7F) as u8 | 0x80);
        len >>= 7;
    }
    packet.push(len as u8);
    packet.extend(body);
    packet
}

/// What is sent over WebSocket arrives over TCP, and the other way round.
#[test]
fn messages_of_every_size_pass() {
    let ws_only = LISTENER;
    let toml = "[[listener]]\nbind = \"127.0.0.1:0\"";
    let inner = sluice::Broker::start(crate::common::fixture::config(2, ws_only, toml)).unwrap();
    let plain = inner.addresses()[1];
    let broker = Broker::of(inner);
    for version in [V31, V311, V5] {
        let connect = Connect::new(version, "ws");
        let mut ws = Ws::connect(&broker, &connect);
        let (mut tcp, _) = crate::common::Client::connect(plain, &Connect::new(version, "tcp"));
        tcp.subscribe("up", 0);
        ws.send(&subscribe(version, 1, &[("down", 0)], &[]));
        assert!(matches!(ws.packet(&connect), Some(Packet::SubAck(_))));
        for len in [0, 1, 100, 200, 20_000, 33_000, 70_000, 900_000] {
            let payload = vec![b'x'; len];
            let v = if version == V5 { 5 } else { 4 };
            ws.send(&publish("up", &payload, v));
            tcp.expect("up", &payload);
            tcp.publish("down", &payload, 0);
            match ws.packet(&connect) {
                Some(Packet::Publish(publish)) => assert_eq!(publish.payload, payload),
                other => panic!("{other:?}"),
            }
        }
    }
}

/// [MQTT-6.0.0-2]: a packet may lie across frames, a frame may have several; frames in pieces, with empty
/// ones and pings between.
#[test]
fn packets_and_frames_are_cut_anywhere() {
    let broker = broker("");
    for version in [V311, V5] {
        cut_anywhere(&broker, version);
    }
}

fn cut_anywhere(broker: &Broker, version: Version) {
    let connect = Connect::new(version, "cut");
    let mut stream = Vec::new();
    stream.extend(connect.bytes());
    stream.extend(subscribe(version, 1, &[("t", 0)], &[]));
    for n in 0..20 {
        stream.extend(Message::new("t", vec![n; usize::from(n) * 10]).bytes(version));
    }
    for step in [1, 2, 3, 7, 50, stream.len()] {
        let mut ws = Ws::open(tcp(broker));
        let mut wire = Vec::new();
        let pieces: Vec<_> = stream.chunks(step).collect();
        for (at, piece) in pieces.iter().enumerate() {
            let first = if at == 0 { 0x02 } else { 0x00 };
            let last = if at + 1 == pieces.len() { 0x80 } else { 0x00 };
            wire.extend(frame(first | last, piece));
            wire.extend(frame(0x8A, b"unasked"));
        }
        ws.raw(&wire);
        assert!(matches!(ws.packet(&connect), Some(Packet::ConnAck(_))));
        // The SUBACK may come between the messages.
        let packets: Vec<_> = (0..21).map(|_| ws.packet(&connect).expect("it is open")).collect();
        let payloads = packets.into_iter().filter_map(|packet| match packet {
            Packet::Publish(publish) => Some(publish.payload),
            _ => None,
        });
        let wanted: Vec<_> = (0..20).map(|n| vec![n; usize::from(n) * 10]).collect();
        assert_eq!(payloads.collect::<Vec<_>>(), wanted);
    }
}

/// Bytes that come one by one, the handshake included.
#[test]
fn bytes_may_come_one_by_one() {
    let broker = broker("");
    let connect = Connect::new(V5, "slow");
    let handshake = ClientHandshake::new(*b"sixteen bytes...");
    let mut socket = tcp(&broker);
    for byte in handshake.request("localhost", "/mqtt") {
        socket.write_all(&[byte]).unwrap();
    }
    read_until(&mut socket, |got| handshake.check(got).unwrap().is_some());
    for byte in frame(0x82, &connect.bytes()) {
        socket.write_all(&[byte]).unwrap();
    }
    let got = read_until(&mut socket, |got| got.len() >= 3);
    assert_eq!((got[0], got[2]), (0x82, 0x20), "a CONNACK");
}

/// What follows the request in the same segment is not lost.
#[test]
fn a_client_may_send_ahead() {
    let broker = broker("");
    let handshake = ClientHandshake::new(*b"sixteen bytes...");
    let mut socket = tcp(&broker);
    let mut bytes = handshake.request("localhost", "/mqtt");
    bytes.extend(frame(0x82, &Connect::new(V5, "ahead").bytes()));
    bytes.extend(frame(0x82, b"\xC0\x00"));
    socket.write_all(&bytes).unwrap();
    let got = read_until(&mut socket, |got| got.ends_with(&[0xD0, 0x00]));
    assert!(got.ends_with(&[0xD0, 0x00]), "no PINGRESP");
}

#[test]
fn what_breaks_the_protocol_is_closed_with_its_code() {
    let broker = broker("max_frame_bytes = \"1MiB\"");
    for (bytes, code) in [
        (frame(0x81, b"text"), 1003), // [MQTT-6.0.0-1]
        (vec![0x82, 0x02, 0xC0, 0x00], 1002),
        (frame(0xC2, b""), 1002),
        (frame(0x80, b""), 1002),
        (frame(0x89, &[0; 126]), 1002),
        (vec![0x82, 0xFF, 0, 0, 0, 0, 0, 0x10, 0, 1, 1, 2, 3, 4], 1009),
    ] {
        let mut ws = Ws::connect(&broker, &Connect::new(V5, "wrong"));
        ws.raw(&bytes);
        ws.ends_with(code);
    }
}

/// The network connection is closed [MQTT-6.0.0-1], so the will is published.
#[test]
fn text_ends_the_connection_for_mqtt_too() {
    let broker = broker("");
    let watcher = Connect::new(V311, "watcher");
    let mut watching = Ws::connect(&broker, &watcher);
    watching.send(&subscribe(V311, 1, &[("gone", 0)], &[]));
    assert!(matches!(watching.packet(&watcher), Some(Packet::SubAck(_))));
    let will = Will::new("gone", "so it is");
    let mut ws = Ws::connect(&broker, &Connect::new(V311, "wrong").will(will));
    ws.frame(0x81, b"\xC0\x00");
    ws.ends_with(1003);
    assert!(matches!(watching.packet(&watcher), Some(Packet::Publish(p)) if p.topic == "gone"));
}

#[test]
fn pings_are_answered_and_a_close_too() {
    let broker = broker("");
    let mut ws = Ws::connect(&broker, &Connect::new(V5, "p"));
    ws.frame(0x89, b"");
    assert_eq!(ws.control(), "pong []");
    ws.frame(0x89, &[7; 125]);
    assert_eq!(ws.control(), format!("pong {:?}", [7; 125]));
    ws.frame(0x88, &[0x0F, 0xA0, b'!']);
    ws.ends_with(4000);
    let mut ws = Ws::connect(&broker, &Connect::new(V5, "p"));
    ws.frame(0x88, b"");
    ws.ends_with(0);
    // The client says DISCONNECT first.
    let mut ws = Ws::connect(&broker, &Connect::new(V5, "p"));
    ws.send(b"\xE0\x00");
    ws.ends_with(1000);
    // The broker ends it: DISCONNECT, then the close frame.
    let connect = Connect::new(V5, "p");
    let mut ws = Ws::connect(&broker, &connect);
    let _other = Ws::connect(&broker, &connect);
    assert!(matches!(ws.packet(&connect), Some(Packet::Disconnect(ack)) if ack.code == 0x8E));
    ws.ends_with(1000);
}

/// RFC 6455, 5.5.1: what was sent before the close frame is answered before that is.
#[test]
fn what_came_before_a_close_is_answered() {
    let broker = broker("");
    let connect = Connect::new(V5, "short");
    for code in [1000_u16, 1001, 4000] {
        let mut ws = Ws::open(tcp(&broker));
        let packets = [&connect.bytes()[..], b"\xC0\x00"].concat();
        ws.raw(&[frame(0x82, &packets), frame(0x88, &code.to_be_bytes())].concat());
        assert!(matches!(ws.packet(&connect), Some(Packet::ConnAck(ack)) if ack.code == 0));
        assert!(matches!(ws.packet(&connect), Some(Packet::PingResp)));
        ws.ends_with(code);
    }
}

/// RFC 6455, 7.4.1: a server that stops says 1001, after DISCONNECT with 0x8B.
#[test]
fn a_stop_says_that_it_goes_away() {
    let broker = broker("");
    let connects = [V311, V5].map(|version| Connect::new(version, &format!("{version:?}")));
    let mut clients = connects.each_ref().map(|connect| Ws::connect(&broker, connect));
    let mut silent = Ws::open(tcp(&broker));
    broker.stop();
    let goodbye = clients[1].packet(&connects[1]);
    assert!(matches!(goodbye, Some(Packet::Disconnect(ack)) if ack.code == 0x8B));
    for ws in clients.iter_mut().chain([&mut silent]) {
        ws.ends_with(1001);
    }
}

/// However many pings come without anybody reading the answers: what waits is one answer, and others are
/// served meanwhile.
#[test]
fn a_flood_of_pings_costs_others_nothing() {
    let broker = broker("");
    let mut flood = Ws::connect(&broker, &Connect::new(V311, "flood"));
    let calm_connect = Connect::new(V311, "calm");
    let mut calm = Ws::connect(&broker, &calm_connect);
    let pings = frame(0x89, b"ping").repeat(20_000);
    for _ in 0..20 {
        flood.raw(&pings);
        calm.send(b"\xC0\x00");
        assert!(matches!(calm.packet(&calm_connect), Some(Packet::PingResp)));
    }
    flood.frame(0x89, b"last");
    flood.send(b"\xC0\x00");
    assert!(matches!(flood.packet(&Connect::new(V311, "flood")), Some(Packet::PingResp)));
    while flood.controls.last().is_none_or(|last| *last != format!("pong {:?}", b"last")) {
        assert!(flood.read());
    }
    assert!(flood.controls.len() < 400_000);
}

/// A subscriber that reads late: frames are cut where the socket has no room, and go on there.
#[test]
fn a_slow_reader_gets_whole_frames() {
    let broker = broker("");
    let connect = Connect::new(V311, "late");
    let mut late = Ws::connect(&broker, &connect);
    late.send(&subscribe(V311, 1, &[("t", 1)], &[]));
    assert!(matches!(late.packet(&connect), Some(Packet::SubAck(_))));
    let publisher_connect = Connect::new(V311, "early");
    let mut publisher = Ws::connect(&broker, &publisher_connect);
    let payload = |n: u16| vec![n as u8; 40_000 + usize::from(n)];
    for n in 1..=200_u16 {
        let mut packet = publish("t", &[&n.to_be_bytes()[..], &payload(n)].concat(), 4);
        packet[0] = 0x32;
        publisher.send(&packet);
        assert!(matches!(publisher.packet(&publisher_connect), Some(Packet::PubAck(_))));
    }
    late.frame(0x89, b"in between");
    for n in 1..=200 {
        match late.packet(&connect) {
            Some(Packet::Publish(publish)) => {
                assert!(publish.payload == payload(n), "message {n}");
                late.send(&[&[0x40, 0x02][..], &publish.id.to_be_bytes()].concat());
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(late.control(), format!("pong {:?}", b"in between"));
}

fn request(more: &str) -> String {
    format!(
        "GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
    )
}

/// The head of the answer.
fn answered(broker: &Broker, request: &str) -> String {
    let mut socket = tcp(broker);
    socket.write_all(request.as_bytes()).unwrap();
    let answer = read_until(&mut socket, |got| got.ends_with(b"\r\n\r\n"));
    let answer = String::from_utf8(answer).unwrap();
    if !answer.starts_with("HTTP/1.1 101 ") {
        // The connection ends in good order.
        socket.read_to_end(&mut Vec::new()).unwrap();
    }
    answer
}

/// [MQTT-6.0.0-3] and [MQTT-6.0.0-4]: the subprotocol is asked for and answered.
#[test]
fn the_subprotocol_has_to_be_asked_for() {
    let broker = broker("");
    let status = |more: &str| answered(&broker, &request(more));
    assert!(status("").starts_with("HTTP/1.1 400 "));
    assert!(status("Sec-WebSocket-Protocol: chat\r\n").starts_with("HTTP/1.1 400 "));
    for (asked, answer) in [("mqtt", "mqtt"), ("mqttv3.1", "mqttv3.1"), ("chat, mqtt", "mqtt")] {
        let head = status(&format!("Sec-WebSocket-Protocol: {asked}\r\n"));
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.contains(&format!("Sec-WebSocket-Protocol: {answer}\r\n")), "{head}");
    }
}

#[test]
fn handshakes_are_refused_in_http() {
    let broker =
        broker("path = \"/x\"\norigins = [\"https://a.example\"]\nmax_head_bytes = \"512B\"");
    let mqtt = "Sec-WebSocket-Protocol: mqtt\r\n";
    let right = |more: &str| request(&format!("{mqtt}{more}")).replace("/mqtt", "/x");
    for (request, status) in [
        (right(""), 101),
        (right("Origin: https://a.example\r\n"), 101),
        (right("Origin: https://b.example\r\n"), 403),
        (request(mqtt), 404),
        (right("").replace("GET", "POST"), 405),
        (right("Content-Length: 0\r\n"), 101),
        (right("Content-Length: 2\r\n"), 400),
        (right("Transfer-Encoding: chunked\r\n"), 400),
        (right("").replace("Upgrade: websocket\r\n", ""), 426),
        (right("").replace("Version: 13", "Version: 12"), 426),
        (right(&format!("X: {}\r\n", "x".repeat(512))), 431),
        ("\x10\x0c\0\x04MQTT\x04\x02\0\0\0\0".to_owned(), 400),
    ] {
        let head = answered(&broker, &request);
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{request}\n{head}");
    }
    let handshake = ClientHandshake::new([1; 16]);
    let mut socket = tcp(&broker);
    socket.write_all(&handshake.request("localhost", "/other")).unwrap();
    let answer = read_until(&mut socket, |got| got.ends_with(b"\r\n\r\n"));
    assert_eq!(handshake.check(&answer), Err(HandshakeError::Status(404)));
}

/// [MQTT-3.1.0-1], and limits.connect_timeout: it runs from the connection on, through the handshake and
/// whatever pings come.
#[test]
fn the_handshake_counts_in_the_connect_timeout() {
    let toml = "[limits]\nconnect_timeout = \"400ms\"";
    let broker = broker_with_listener(2, LISTENER, toml);
    let mut half = tcp(&broker);
    half.write_all(b"GET /mqtt HTTP/1.1\r\nHost: a\r\n").unwrap();
    assert!(read_until(&mut half, |_| false).is_empty());
    let mut ws = Ws::open(tcp(&broker));
    let began = std::time::Instant::now();
    while began.elapsed() < Duration::from_secs(15) {
        if ws.stream.write_all(&frame(0x89, b"")).is_err() {
            return;
        }
        let_pass(Duration::from_millis(10));
    }
    panic!("pings keep it open");
}

#[test]
fn the_same_over_tls() {
    let ca = ca();
    let broker = broker_with_listener(2, &format!("{LISTENER}\n{}", ca.listener("")), "");
    let connect = Connect::new(V5, "wss");
    let mut clients: Vec<Ws> = Vec::new();
    for _ in 0..4 {
        let mut tls = Tls::new(&ca, TLS13, None);
        // As browsers do.
        tls.config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut ws = Ws::open(tls.open(&broker).0);
        let connect = Connect::new(V5, &format!("wss{}", clients.len()));
        ws.send(&connect.bytes());
        assert!(matches!(ws.packet(&connect), Some(Packet::ConnAck(ack)) if ack.code == 0));
        ws.send(&subscribe(V5, 1, &[("t", 0)], &[]));
        assert!(matches!(ws.packet(&connect), Some(Packet::SubAck(_))));
        clients.push(ws);
    }
    for len in [0, 5, 20_000, 500_000] {
        let payload = vec![b'y'; len];
        clients[0].send(&publish("t", &payload, 5));
        for ws in &mut clients {
            match ws.packet(&connect) {
                Some(Packet::Publish(publish)) => assert_eq!(publish.payload, payload),
                other => panic!("{other:?}"),
            }
        }
    }
    for ws in &mut clients {
        ws.frame(0x89, b"x");
        assert_eq!(ws.control(), "pong [120]");
        ws.frame(0x81, b"x");
        ws.ends_with(1003);
    }
}

/// The certificate that was shown below WebSocket still says who the client is.
#[test]
fn a_certificate_names_the_user_over_websocket() {
    let mut ca = ca();
    ca.sign("ann", &[], false);
    let listener = ca.with_clients("required", "certificate_user = \"common_name\"");
    let toml = "[acl]\ndefault = \"deny\"\n[[acl.rule]]\neffect = \"allow\"\ntopics = [\"t\"]\nusers = [\"ann\"]";
    let broker = broker_with_listener(2, &format!("{LISTENER}\n{listener}"), toml);
    let connect = Connect::new(V5, "c");
    let mut ws = Ws::open(Tls::new(&ca, TLS13, Some((&ca, "ann"))).open(&broker).0);
    ws.send(&connect.bytes());
    assert!(matches!(ws.packet(&connect), Some(Packet::ConnAck(ack)) if ack.code == 0));
    ws.send(&subscribe(V5, 1, &[("t", 0)], &[]));
    assert!(matches!(ws.packet(&connect), Some(Packet::SubAck(codes)) if codes.codes == [0]));
}
