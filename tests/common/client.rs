//! A blocking client that sends what it is told and expects what it is told.
//!
//! Every wait has a deadline that only a failing test reaches. Absence is shown by something that
//! must come after what is absent (a PINGRESP, a later message), never by waiting.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::message::Message;
use super::packet::{Ack, Codes, ConnAck, Packet, Publish};
use super::property::{self, Properties, Property};
use super::wire::{self, Version, field};
use super::{Connect, code};

/// How long a packet may take; far more than any machine needs.
const DEADLINE: Duration = Duration::from_secs(15);

/// What comes next on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Packet(Packet),
    /// The broker closed the connection, by FIN or RST.
    Closed,
}

/// One connection.
pub(crate) struct Client {
    stream: TcpStream,
    pub(crate) version: Version,
    buffer: Vec<u8>,
    /// Packets that came while the test waited for another one, oldest first.
    set_aside: VecDeque<Packet>,
    last_id: u16,
    largest_packet: usize,
    deadline: Duration,
}

impl Client {
    /// A connection on which nothing was sent yet; `version` says how to read what comes.
    pub(crate) fn open(address: SocketAddr, version: Version) -> Self {
        let stream = TcpStream::connect(address).expect("the broker accepts");
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            version,
            buffer: Vec::new(),
            set_aside: VecDeque::new(),
            last_id: 0,
            largest_packet: 0,
            deadline: DEADLINE,
        }
    }

    /// Sends CONNECT and reads CONNACK, whatever it says.
    pub(crate) fn connect(address: SocketAddr, connect: &Connect) -> (Self, ConnAck) {
        let mut client = Self::open(address, connect.version);
        client.send(&connect.bytes());
        let answer = client.connack();
        (client, answer)
    }

    pub(crate) fn connack(&mut self) -> ConnAck {
        match self.next() {
            Packet::ConnAck(connack) => connack,
            other => panic!("CONNACK expected, got {other:?}"),
        }
    }

    pub(crate) fn local_address(&self) -> SocketAddr {
        self.stream.local_addr().unwrap()
    }

    /// Bytes of the largest packet that came so far.
    pub(crate) fn largest_packet(&self) -> usize {
        self.largest_packet
    }

    // Sending.

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.set_write_timeout(Some(self.deadline)).unwrap();
        self.stream.write_all(bytes).expect("the broker reads");
    }

    /// Sends what the broker may answer by a close before it has read all of it.
    pub(crate) fn send_lossy(&mut self, bytes: &[u8]) {
        self.stream.set_write_timeout(Some(self.deadline)).unwrap();
        let _ = self.stream.write_all(bytes);
    }

    /// The next Packet Identifier, one this client does not use yet.
    pub(crate) fn new_id(&mut self) -> u16 {
        self.last_id = self.last_id.checked_add(1).unwrap_or(1);
        self.last_id
    }

    /// PUBACK, PUBREC, PUBREL or PUBCOMP with Reason Code Success, in its short form.
    pub(crate) fn send_ack(&mut self, first_byte: u8, id: u16) {
        self.send(&wire::packet(first_byte, &id.to_be_bytes()));
    }

    /// The same with a Reason Code (version 5).
    pub(crate) fn send_ack_code(&mut self, first_byte: u8, id: u16, code: u8) {
        let [high, low] = id.to_be_bytes();
        self.send(&wire::packet(first_byte, &[high, low, code]));
    }

    // Receiving.

    /// The next packet, those set aside first; a close is an event too.
    pub(crate) fn event(&mut self) -> Event {
        match self.set_aside.pop_front() {
            Some(packet) => Event::Packet(packet),
            None => self.event_from_wire(),
        }
    }

    fn event_from_wire(&mut self) -> Event {
        let until = Instant::now() + self.deadline;
        loop {
            if let Some(packet) = self.take_packet() {
                return Event::Packet(packet);
            }
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "nothing came within {:?}", self.deadline);
            self.stream.set_read_timeout(Some(left)).unwrap();
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => {
                    assert!(self.buffer.is_empty(), "closed amid a packet: {:x?}", self.buffer);
                    return Event::Closed;
                }
                Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
                Err(error) if is_timeout(error.kind()) => {}
                Err(error) if is_close(error.kind()) => return Event::Closed,
                Err(error) => panic!("read: {error}"),
            }
        }
    }

    fn take_packet(&mut self) -> Option<Packet> {
        let first_byte = *self.buffer.first()?;
        let mut length = 0usize;
        let mut head = 1;
        loop {
            let byte = *self.buffer.get(head)?;
            length |= usize::from(byte & 0x7F) << (7 * (head - 1));
            head += 1;
            if byte & 0x80 == 0 {
                break;
            }
            assert!(head < 5, "a Remaining Length of more than four bytes");
        }
        let body = self.buffer.get(head..head + length)?;
        let packet = Packet::read(self.version, first_byte, body);
        self.largest_packet = self.largest_packet.max(head + length);
        self.buffer.drain(..head + length);
        Some(packet)
    }

    pub(crate) fn next(&mut self) -> Packet {
        match self.event() {
            Event::Packet(packet) => packet,
            Event::Closed => panic!("the broker closed the connection"),
        }
    }

    /// The next packet that `wanted` takes; others are set aside for later, in order.
    fn wait_for<T>(&mut self, what: &str, wanted: impl Fn(&Packet) -> Option<T>) -> T {
        for (at, packet) in self.set_aside.iter().enumerate() {
            if let Some(found) = wanted(packet) {
                self.set_aside.remove(at);
                return found;
            }
        }
        loop {
            match self.event_from_wire() {
                Event::Packet(packet) => match wanted(&packet) {
                    Some(found) => return found,
                    None => self.set_aside.push_back(packet),
                },
                Event::Closed => {
                    panic!("closed while waiting for {what}; before that: {:?}", self.set_aside)
                }
            }
        }
    }

    pub(crate) fn wait_puback(&mut self, id: u16) -> Ack {
        self.wait_for("PUBACK", |packet| match packet {
            Packet::PubAck(ack) if ack.id == id => Some(ack.clone()),
            _ => None,
        })
    }

    pub(crate) fn wait_pubrec(&mut self, id: u16) -> Ack {
        self.wait_for("PUBREC", |packet| match packet {
            Packet::PubRec(ack) if ack.id == id => Some(ack.clone()),
            _ => None,
        })
    }

    pub(crate) fn wait_pubrel(&mut self, id: u16) -> Ack {
        self.wait_for("PUBREL", |packet| match packet {
            Packet::PubRel(ack) if ack.id == id => Some(ack.clone()),
            _ => None,
        })
    }

    pub(crate) fn wait_pubcomp(&mut self, id: u16) -> Ack {
        self.wait_for("PUBCOMP", |packet| match packet {
            Packet::PubComp(ack) if ack.id == id => Some(ack.clone()),
            _ => None,
        })
    }

    // Ends.

    /// The connection closes without a further packet.
    #[track_caller]
    pub(crate) fn expect_closed(&mut self) {
        assert_eq!(self.event(), Event::Closed);
    }

    /// DISCONNECT with one of these codes and a close in version 5, a mere close before.
    #[track_caller]
    pub(crate) fn expect_disconnect(&mut self, codes: &[u8]) {
        if self.version.is_v5() {
            match self.event() {
                Event::Packet(Packet::Disconnect(reason)) => assert!(
                    codes.contains(&reason.code),
                    "DISCONNECT {:#04x}, expected one of {codes:#04x?}",
                    reason.code
                ),
                other => panic!("DISCONNECT {codes:#04x?} expected, got {other:?}"),
            }
        }
        self.expect_closed();
    }

    /// A refused CONNECT. Version 5: CONNACK with one of these codes, close. Before: a close, with
    /// a refusing CONNACK before it or not.
    #[track_caller]
    pub(crate) fn expect_refused_connect(&mut self, codes: &[u8]) {
        match self.event() {
            Event::Packet(Packet::ConnAck(connack)) => {
                let fine = !self.version.is_v5() || codes.contains(&connack.code);
                assert!(
                    fine && connack.code != code::SUCCESS,
                    "CONNACK {:#04x}, expected one of {codes:#04x?}",
                    connack.code
                );
                self.expect_closed();
            }
            Event::Closed if !self.version.is_v5() => {}
            other => panic!("CONNACK {codes:#04x?} expected, got {other:?}"),
        }
    }

    /// Everything the broker sends up to its close, not taken apart.
    pub(crate) fn raw_until_close(&mut self) -> Vec<u8> {
        self.stream.set_read_timeout(Some(self.deadline)).unwrap();
        let mut bytes = std::mem::take(&mut self.buffer);
        match self.stream.read_to_end(&mut bytes) {
            Ok(_) => bytes,
            Err(error) if is_close(error.kind()) => bytes,
            Err(error) => panic!("no close: {error}; came: {bytes:x?}"),
        }
    }

    /// Ends well: DISCONNECT, and the broker's close shows that it took note.
    pub(crate) fn disconnect(mut self) {
        self.send(&wire::packet(wire::DISCONNECT, &[]));
        self.expect_closed();
    }

    /// Version 5: DISCONNECT with a Reason Code and properties.
    pub(crate) fn disconnect_with(mut self, code: u8, properties: &[Property]) {
        self.send(&disconnect(code, properties));
        self.expect_closed();
    }

    /// Ends without DISCONNECT, as a lost network does; the broker's close shows that it took note.
    pub(crate) fn hang_up(mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
        while self.event() != Event::Closed {}
    }

    /// Ends without reading what the broker still sends, or waiting for it.
    pub(crate) fn hang_up_unread(self) {
        self.stream.shutdown(Shutdown::Both).unwrap();
    }

    /// Whether the connection answers a ping; whatever comes before counts for nothing.
    pub(crate) fn survives(&mut self) -> bool {
        self.send_lossy(&wire::packet(wire::PINGREQ, &[]));
        loop {
            match self.event() {
                Event::Closed => return false,
                Event::Packet(Packet::PingResp) => return true,
                Event::Packet(_) => {}
            }
        }
    }

    // Subscribing.

    /// Subscribes; the QoS asked for must be granted.
    #[track_caller]
    pub(crate) fn subscribe(&mut self, filter: &str, qos: u8) {
        let codes = self.subscribe_with(&[(filter, qos)], &[]).codes;
        assert_eq!(codes, [qos], "subscription to {filter}");
    }

    /// Subscribes with whole Subscription Options bytes and properties, to several filters.
    pub(crate) fn subscribe_with(
        &mut self,
        filters: &[(&str, u8)],
        properties: &[Property],
    ) -> Codes {
        let id = self.new_id();
        self.send(&subscribe(self.version, id, filters, properties));
        self.wait_suback(id)
    }

    pub(crate) fn wait_suback(&mut self, id: u16) -> Codes {
        self.wait_for("SUBACK", |packet| match packet {
            Packet::SubAck(codes) if codes.id == id => Some(codes.clone()),
            _ => None,
        })
    }

    pub(crate) fn unsubscribe(&mut self, filters: &[&str]) -> Codes {
        let id = self.new_id();
        self.send(&unsubscribe(self.version, id, filters));
        self.wait_for("UNSUBACK", |packet| match packet {
            Packet::UnsubAck(codes) if codes.id == id => Some(codes.clone()),
            _ => None,
        })
    }

    // Publishing.

    /// Publishes through the whole flow of its QoS; it must succeed.
    #[track_caller]
    pub(crate) fn publish(&mut self, topic: &str, payload: impl AsRef<[u8]>, qos: u8) {
        self.deliver(Message::new(topic, payload).qos(qos));
    }

    /// Publishes a retained message.
    #[track_caller]
    pub(crate) fn publish_retained(&mut self, topic: &str, payload: impl AsRef<[u8]>, qos: u8) {
        self.deliver(Message::new(topic, payload).qos(qos).retain());
    }

    /// Publishes through the whole flow; it must succeed, with subscribers or without.
    #[track_caller]
    pub(crate) fn deliver(&mut self, message: Message) {
        let topic = message.topic.clone();
        let code = self.try_publish(message);
        let fine = [code::SUCCESS, code::NO_MATCHING_SUBSCRIBERS].contains(&code);
        assert!(fine, "publishing to {topic} got {code:#04x}");
    }

    /// Publishes through the whole flow; returns the Reason Code of PUBACK or PUBREC.
    pub(crate) fn try_publish(&mut self, message: Message) -> u8 {
        let qos = message.qos;
        let id = self.start_publish(message);
        match qos {
            0 => code::SUCCESS,
            1 => self.wait_puback(id).code,
            _ => {
                let code = self.wait_pubrec(id).code;
                if code < 0x80 {
                    self.send_ack(wire::PUBREL, id);
                    assert_eq!(self.wait_pubcomp(id).code, code::SUCCESS);
                }
                code
            }
        }
    }

    /// Sends PUBLISH and nothing more; returns its Packet Identifier.
    pub(crate) fn start_publish(&mut self, mut message: Message) -> u16 {
        if message.qos > 0 && message.id == 0 {
            message.id = self.new_id();
        }
        self.send(&message.bytes(self.version));
        message.id
    }

    // Receiving messages.

    /// The first PUBLISH of those that came while the test waited for something else, if there is
    /// one.
    pub(crate) fn take_publish_if_any(&mut self) -> Option<Publish> {
        let is_publish = |packet: &Packet| matches!(packet, Packet::Publish(_));
        let at = self.set_aside.iter().position(is_publish)?;
        match self.set_aside.remove(at) {
            Some(Packet::Publish(publish)) => Some(publish),
            _ => None,
        }
    }

    /// The first PUBACK of those that came while the test waited for something else.
    pub(crate) fn take_puback_if_any(&mut self) -> Option<Ack> {
        let at = self.set_aside.iter().position(|packet| matches!(packet, Packet::PubAck(_)))?;
        match self.set_aside.remove(at) {
            Some(Packet::PubAck(ack)) => Some(ack),
            _ => None,
        }
    }

    /// The next packet, which must be a PUBLISH; not acknowledged.
    #[track_caller]
    pub(crate) fn take_publish(&mut self) -> Publish {
        match self.event() {
            Event::Packet(Packet::Publish(publish)) => publish,
            other => panic!("PUBLISH expected, got {other:?}"),
        }
    }

    /// The next message, acknowledged through the whole flow of its QoS.
    #[track_caller]
    pub(crate) fn receive(&mut self) -> Publish {
        let publish = self.take_publish();
        self.acknowledge(&publish);
        publish
    }

    /// The receiver's side of the flow.
    pub(crate) fn acknowledge(&mut self, publish: &Publish) {
        match publish.qos {
            0 => {}
            1 => self.send_ack(wire::PUBACK, publish.id),
            _ => {
                self.send_ack(wire::PUBREC, publish.id);
                self.wait_pubrel(publish.id);
                self.send_ack(wire::PUBCOMP, publish.id);
            }
        }
    }

    /// The next message, acknowledged; it must have this topic and payload.
    #[track_caller]
    pub(crate) fn expect(&mut self, topic: &str, payload: impl AsRef<[u8]>) -> Publish {
        let publish = self.receive();
        let wanted = (topic, String::from_utf8_lossy(payload.as_ref()));
        let got = (publish.topic.as_str(), String::from_utf8_lossy(&publish.payload));
        assert_eq!(got, wanted);
        publish
    }

    // Absence.

    /// PINGREQ, PINGRESP; what comes between is set aside.
    pub(crate) fn ping(&mut self) {
        self.send(&wire::packet(wire::PINGREQ, &[]));
        self.wait_for("PINGRESP", |packet| (*packet == Packet::PingResp).then_some(()));
    }

    /// The broker has sent nothing up to now: a PINGRESP is what comes next.
    #[track_caller]
    pub(crate) fn expect_nothing(&mut self) {
        self.send(&wire::packet(wire::PINGREQ, &[]));
        assert_eq!(self.event(), Event::Packet(Packet::PingResp));
    }

    /// Nothing that `publisher` has published so far is still on its way here: a message it
    /// publishes now is what comes next.
    #[track_caller]
    pub(crate) fn expect_nothing_from(&mut self, publisher: &mut Client) {
        static BARRIERS: AtomicU32 = AtomicU32::new(0);
        let topic = format!("barrier/{}", BARRIERS.fetch_add(1, Ordering::Relaxed));
        self.subscribe(&topic, 0);
        publisher.publish(&topic, "", 0);
        let publish = self.take_publish();
        assert_eq!(publish.topic, topic, "a message came that should not: {publish:?}");
        self.unsubscribe(&[&topic]);
    }

    /// The same for a publisher that is its own subscriber.
    #[track_caller]
    pub(crate) fn expect_nothing_from_itself(&mut self) {
        self.subscribe("barrier/own", 0);
        self.publish("barrier/own", "", 0);
        let publish = self.take_publish();
        assert_eq!(publish.topic, "barrier/own", "a message came that should not: {publish:?}");
        self.unsubscribe(&["barrier/own"]);
    }
}

/// SUBSCRIBE; each filter with its Subscription Options (before version 5: its QoS).
pub(crate) fn subscribe(
    version: Version,
    id: u16,
    filters: &[(&str, u8)],
    properties: &[Property],
) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if version.is_v5() {
        body.extend(property::block(properties));
    }
    for (filter, options) in filters {
        body.extend(field(filter));
        body.push(*options);
    }
    wire::packet(wire::SUBSCRIBE, &body)
}

pub(crate) fn unsubscribe(version: Version, id: u16, filters: &[&str]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if version.is_v5() {
        body.extend(property::block(&[]));
    }
    body.extend(filters.iter().flat_map(field));
    wire::packet(wire::UNSUBSCRIBE, &body)
}

/// DISCONNECT of version 5 in its long form.
pub(crate) fn disconnect(code: u8, properties: &[Property]) -> Vec<u8> {
    let mut body = vec![code];
    body.extend(property::block(properties));
    wire::packet(wire::DISCONNECT, &body)
}

/// Properties of a packet that has none, to compare with.
pub(crate) fn no_properties() -> Properties {
    Properties::default()
}

fn is_timeout(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

fn is_close(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted
    )
}
