//! Clients that go on whatever happens to the broker, and what they saw.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::wire::{self, field};
use crate::common::{Connect, Message, Packet, Version};

/// Messages of a publisher that are not acknowledged, at most.
const OUTSTANDING: usize = 20;
/// How long a client waits for its broker to be there.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection that may end at any time.
struct Link {
    stream: TcpStream,
    version: Version,
    buffer: Vec<u8>,
}

impl Link {
    /// Connects, as often as it takes; gives Session Present.
    fn open(address: SocketAddr, connect: &Connect) -> (Self, bool) {
        let until = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < until, "{} cannot connect", connect.client_id);
            match Self::try_open(address, connect) {
                Ok(opened) => return opened,
                Err(_) => thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    fn try_open(address: SocketAddr, connect: &Connect) -> io::Result<(Self, bool)> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let mut link = Self { stream, version: connect.version, buffer: Vec::new() };
        link.stream.write_all(&connect.bytes())?;
        let until = Instant::now() + PATIENCE;
        loop {
            match link.receive(Duration::from_millis(100))? {
                Some(Packet::ConnAck(connack)) => {
                    assert_eq!(connack.code, 0, "CONNECT of {}", connect.client_id);
                    return Ok((link, connack.session_present));
                }
                Some(other) => panic!("{other:?} before CONNACK [MQTT-3.2.0-1]"),
                None => assert!(Instant::now() < until, "no CONNACK for {}", connect.client_id),
            }
        }
    }

    /// The next packet, if one comes within that time.
    fn receive(&mut self, within: Duration) -> io::Result<Option<Packet>> {
        let until = Instant::now() + within;
        loop {
            if let Some(packet) = self.take() {
                return Ok(Some(packet));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.stream.set_read_timeout(Some(left))?;
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn take(&mut self) -> Option<Packet> {
        let mut length = 0;
        let mut head = 1;
        loop {
            let byte = *self.buffer.get(head)?;
            length |= usize::from(byte & 0x7F) << (7 * (head - 1));
            head += 1;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let body = self.buffer.get(head..head + length)?;
        let packet = Packet::read(self.version, self.buffer[0], body);
        self.buffer.drain(..head + length);
        Some(packet)
    }

    fn ack(&mut self, first_byte: u8, id: u16) -> io::Result<()> {
        self.stream.write_all(&wire::packet(first_byte, &id.to_be_bytes()))
    }
}

/// What a publisher did.
#[derive(Debug, Default)]
pub(crate) struct Published {
    /// The messages it sent: numbers from 0 on, up to this one.
    pub(crate) sent: u32,
    /// Those that were acknowledged.
    pub(crate) acknowledged: BTreeSet<u32>,
}

/// A client that publishes numbers to a topic of its own, and does not give one up.
pub(crate) struct Publisher {
    pub(crate) connect: Connect,
    pub(crate) topic: String,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Half {
    Publish,
    Release,
}

impl Publisher {
    /// Publishes until told to stop, then until everything is acknowledged.
    pub(crate) fn run(&self, address: SocketAddr, stop: &AtomicBool) -> Published {
        let mut history = Published::default();
        let mut open: BTreeMap<u32, (u16, Half)> = BTreeMap::new();
        let mut next_id = 1;
        let mut was_here = false;
        let mut until = None;
        loop {
            let (mut link, present) = Link::open(address, &self.connect);
            if !self.connect.clean && link.version != Version::V31 {
                assert!(present || !was_here, "the session of {} is lost", self.connect.client_id);
            }
            was_here = true;
            let again: Vec<_> = open.iter().map(|(n, (id, half))| (*n, *id, *half)).collect();
            let mut broken = again.into_iter().try_for_each(|(number, id, half)| match half {
                Half::Publish => self.send(&mut link, number, id, true),
                Half::Release => link.ack(wire::PUBREL, id),
            });
            while broken.is_ok() {
                if stop.load(Ordering::Relaxed) {
                    let until = *until.get_or_insert_with(|| Instant::now() + PATIENCE);
                    if open.is_empty() {
                        return history;
                    }
                    assert!(Instant::now() < until, "{} is not answered", self.topic);
                } else if open.len() < OUTSTANDING {
                    let number = history.sent;
                    history.sent += 1;
                    open.insert(number, (next_id, Half::Publish));
                    broken = self.send(&mut link, number, next_id, false);
                    next_id = next_id % 1000 + 1;
                    continue;
                }
                broken = link.receive(Duration::from_millis(5)).and_then(|packet| {
                    packet.map_or(Ok(()), |packet| {
                        self.take(&mut link, packet, &mut open, &mut history)
                    })
                });
            }
        }
    }

    fn send(&self, link: &mut Link, number: u32, id: u16, again: bool) -> io::Result<()> {
        let mut message = Message::new(&self.topic, number.to_string()).qos(self.qos).id(id);
        message.dup = again;
        message.retain = self.retain;
        link.stream.write_all(&message.bytes(link.version))
    }

    fn take(
        &self,
        link: &mut Link,
        packet: Packet,
        open: &mut BTreeMap<u32, (u16, Half)>,
        history: &mut Published,
    ) -> io::Result<()> {
        let (Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubComp(ack)) = &packet else {
            panic!("{packet:?} for a publisher");
        };
        assert!(ack.code < 0x80 || ack.code == 0x92, "{packet:?}");
        let Some((&number, _)) = open.iter().find(|(_, (id, _))| *id == ack.id) else {
            panic!("{packet:?} answers nothing");
        };
        match packet {
            Packet::PubRec(_) => {
                history.acknowledged.insert(number);
                open.insert(number, (ack.id, Half::Release));
                link.ack(wire::PUBREL, ack.id)
            }
            _ => {
                history.acknowledged.insert(number);
                open.remove(&number);
                Ok(())
            }
        }
    }
}

/// A client that subscribes, and notes what it gets: by topic, in order.
pub(crate) struct Subscriber {
    pub(crate) connect: Connect,
    pub(crate) filter: &'static str,
    pub(crate) qos: u8,
}

/// By topic, the numbers in the order in which they came.
pub(crate) type Received = BTreeMap<String, Vec<u32>>;

impl Subscriber {
    /// Receives until told to stop, then until nothing comes any more. `ready` once it is subscribed.
    pub(crate) fn run(
        &self,
        address: SocketAddr,
        stop: &AtomicBool,
        ready: impl FnOnce(),
    ) -> Received {
        let mut received = Received::new();
        let mut half_done = BTreeSet::new();
        let mut ready = Some(ready);
        let mut was_here = false;
        loop {
            let (mut link, present) = Link::open(address, &self.connect);
            if link.version != Version::V31 {
                assert!(present || !was_here, "the session of {} is lost", self.connect.client_id);
            }
            was_here = true;
            let mut broken = Ok(());
            if ready.is_some() {
                broken = self.subscribe(&mut link);
            }
            let mut quiet_since = Instant::now();
            while broken.is_ok() {
                broken = match link.receive(Duration::from_millis(20)) {
                    Err(error) => Err(error),
                    Ok(None) => {
                        let quiet = quiet_since.elapsed() > Duration::from_millis(300);
                        if stop.load(Ordering::Relaxed) && quiet {
                            return received;
                        }
                        Ok(())
                    }
                    Ok(Some(Packet::SubAck(_))) => {
                        ready.take().expect("it subscribes once")();
                        Ok(())
                    }
                    Ok(Some(packet)) => {
                        quiet_since = Instant::now();
                        take(&mut link, packet, &mut half_done, &mut received)
                    }
                };
            }
        }
    }

    fn subscribe(&self, link: &mut Link) -> io::Result<()> {
        let mut body = vec![0, 1];
        if link.version.is_v5() {
            body.push(0);
        }
        body.extend(field(self.filter));
        body.push(self.qos);
        link.stream.write_all(&wire::packet(wire::SUBSCRIBE, &body))
    }
}

fn take(
    link: &mut Link,
    packet: Packet,
    half_done: &mut BTreeSet<u16>,
    received: &mut Received,
) -> io::Result<()> {
    match packet {
        Packet::Publish(publish) => {
            let first = publish.qos < 2 || half_done.insert(publish.id);
            if first {
                let number = publish.payload_text().parse().expect("a number");
                received.entry(publish.topic).or_default().push(number);
            }
            match publish.qos {
                0 => Ok(()),
                1 => link.ack(wire::PUBACK, publish.id),
                _ => link.ack(wire::PUBREC, publish.id),
            }
        }
        Packet::PubRel(ack) => {
            half_done.remove(&ack.id);
            link.ack(wire::PUBCOMP, ack.id)
        }
        other => panic!("{other:?} for a subscriber"),
    }
}
