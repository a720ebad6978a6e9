//! Raw sockets that speak just enough MQTT, and a broker for them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

/// Only a failing test waits so long.
const DEADLINE: Duration = Duration::from_secs(30);

/// A broker of this many shards that does nothing of its own accord while a test looks at it.
pub(crate) fn broker(shards: u16, toml: &str) -> sluice::Broker {
    let text = format!(
        "shards = {shards}\n[[listener]]\nbind = \"127.0.0.1:0\"\n[sys]\ninterval = \"0s\"\n{toml}\n"
    );
    let mut config = sluice::Config::parse("test.toml", &text, [])
        .unwrap_or_else(|error| panic!("{error}\n{text}"));
    // What else the machine does holds turns up, too.
    config.limits.max_turn = None;
    sluice::Broker::start(config).expect("the broker starts")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V311 = 4,
    V5 = 5,
}
pub(crate) use Version::{V5, V311};

/// A whole packet.
pub(crate) fn packet(first_byte: u8, body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    let mut packet = vec![first_byte];
    let mut left = body.len();
    while left >= 0x80 {
        packet.push(left as u8 | 0x80);
        left >>= 7;
    }
    packet.push(left as u8);
    packet.extend_from_slice(&body);
    packet
}

/// A text behind its length.
pub(crate) fn text(text: &str) -> Vec<u8> {
    [&u16::try_from(text.len()).expect("short").to_be_bytes(), text.as_bytes()].concat()
}

/// A PUBLISH; `properties` counts in 5.0 only.
pub(crate) fn publish(
    version: Version,
    topic: &str,
    id: Option<u16>,
    properties: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let properties = properties_of(version, properties);
    let first_byte = if id.is_some() { 0x32 } else { 0x30 };
    let id = id.map(u16::to_be_bytes);
    let id = id.as_ref().map_or(&[][..], |id| id);
    packet(first_byte, &[&text(topic), id, &properties, payload])
}

fn properties_of(version: Version, properties: &[u8]) -> Vec<u8> {
    match version {
        V311 => Vec::new(),
        V5 => [&[u8::try_from(properties.len()).expect("few")], properties].concat(),
    }
}

pub(crate) struct Client {
    stream: TcpStream,
    pub(crate) version: Version,
    buffer: Vec<u8>,
    /// Where in the buffer the bytes lie that were read and not yet looked at.
    start: usize,
    end: usize,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr, version: Version, id: &str) -> Self {
        Self::connect_with(address, version, id, &[])
    }

    /// `properties` are CONNECT's.
    pub(crate) fn connect_with(
        address: SocketAddr,
        version: Version,
        id: &str,
        properties: &[u8],
    ) -> Self {
        let stream = TcpStream::connect(address).expect("the broker accepts");
        Self::log_in(stream, version, id, properties)
    }

    /// A connection of which the kernel holds as little as it can while the client does not read.
    pub(crate) fn connect_narrow(address: SocketAddr, version: Version, id: &str) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).expect("socket");
        socket.set_recv_buffer_size(4096).expect("a small buffer");
        // The sender's first buffer is some segments long, and a segment of loopback is 64 KiB.
        socket.set_tcp_mss(536).expect("small segments");
        socket.connect(&address.into()).expect("the broker accepts");
        Self::log_in(socket.into(), version, id, &[])
    }

    fn log_in(stream: TcpStream, version: Version, id: &str, properties: &[u8]) -> Self {
        stream.set_nodelay(true).expect("TCP_NODELAY");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        stream.set_write_timeout(Some(DEADLINE)).expect("a timeout");
        let mut client = Self { stream, version, buffer: vec![0; 64 * 1024], start: 0, end: 0 };
        let properties = properties_of(version, properties);
        let head = [4, version as u8, 0x02, 0, 0];
        let connect = packet(0x10, &[&[0, 4], b"MQTT", &head[1..], &properties, &text(id)]);
        client.send(&connect);
        let connack = client.packet();
        assert_eq!((connack[0], connack[3]), (0x20, 0), "CONNACK {connack:?}");
        client
    }

    /// `properties` are SUBSCRIBE's.
    pub(crate) fn subscribe(&mut self, filter: &str, options: u8, properties: &[u8]) {
        let properties = properties_of(self.version, properties);
        self.send(&packet(0x82, &[&[0, 1], &properties, &text(filter), &[options]]));
        let suback = self.packet();
        assert_eq!(suback[0], 0x90, "SUBACK {suback:?}");
        assert!(suback.last().is_some_and(|code| *code <= 2), "SUBACK {suback:?}");
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the broker reads");
    }

    /// The next packet, whole.
    pub(crate) fn packet(&mut self) -> Vec<u8> {
        loop {
            let bytes = &self.buffer[self.start..self.end];
            if let Some(len) = frame_len(bytes).filter(|len| *len <= bytes.len()) {
                let packet = bytes[..len].to_vec();
                self.start += len;
                return packet;
            }
            self.read_more();
        }
    }

    /// Reads `count` packets, all of which must be PUBLISH; says how many bytes they had.
    pub(crate) fn publishes(&mut self, count: usize) -> usize {
        let mut left = count;
        let mut total = 0;
        while left > 0 {
            let bytes = &self.buffer[self.start..self.end];
            match frame_len(bytes).filter(|len| *len <= bytes.len()) {
                Some(len) => {
                    assert_eq!(bytes[0] >> 4, 3, "PUBLISH");
                    self.start += len;
                    total += len;
                    left -= 1;
                }
                None => self.read_more(),
            }
        }
        total
    }

    fn read_more(&mut self) {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.end == self.buffer.len() {
            self.buffer.resize(2 * self.end, 0);
        }
        let count = self.stream.read(&mut self.buffer[self.end..]).expect("the broker writes");
        assert!(count > 0, "the broker closed the connection");
        self.end += count;
    }
}

/// Bytes of the packet at the front, if its length is there.
fn frame_len(bytes: &[u8]) -> Option<usize> {
    let mut len = 0;
    for (at, byte) in bytes.iter().skip(1).enumerate() {
        len |= usize::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            return Some(2 + at + len);
        }
    }
    None
}
