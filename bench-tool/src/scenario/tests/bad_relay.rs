//! A relay for one publisher and its subscribers, which damages what it forwards.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use sluice::mqtt::{
    self, ConnAck, Limits, Packet, PacketId, PacketType, Properties, ReasonCode, SubAck, Version,
};

use super::LOOPBACK;

/// What it does to the PUBLISH packets, counted from 1.
#[derive(Clone, Copy, Debug)]
pub(super) enum Damage {
    /// None; but it waits for the PUBACK of each subscriber, so that who does not read stops everybody.
    Waits,
    Loses(u64),
    Repeats(u64),
    Swaps(u64),
    DiesAfter(u64),
    StallsAfter(u64, Duration),
    /// Closes all connections, and lets others in.
    ClosesAfter(u64),
    /// Forwards no more, but acknowledges.
    SwallowsAfter(u64),
    /// Neither forwards nor acknowledges any more.
    IgnoresAfter(u64),
}

/// For one subscriber.
pub(super) fn bad_relay(damage: Damage) -> SocketAddr {
    bad_fan_out(1, damage)
}

/// They connect at once: which is which shows in what they say.
pub(super) fn bad_fan_out(subscribers: usize, damage: Damage) -> SocketAddr {
    let listener = TcpListener::bind(LOOPBACK).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || -> io::Result<()> {
        let accepted = (0..=subscribers).map(|_| listener.accept());
        let accepted = accepted.collect::<io::Result<Vec<_>>>()?;
        let mut receivers = Vec::new();
        let mut publisher = None;
        for (socket, _) in accepted {
            let mut end = Frames::new(socket);
            let (_, connect) = end.next()?;
            assert_eq!(connect[0] >> 4, 1);
            end.say(&Packet::ConnAck(ConnAck::new(false, ReasonCode::Success)))?;
            if connect.windows(6).any(|bytes| bytes == b"test-p") {
                publisher = Some(end);
                continue;
            }
            let _ = end.next()?;
            let (packet_id, properties) = (PacketId::MIN, Properties::EMPTY);
            end.say(&Packet::SubAck(SubAck { packet_id, reasons: &[2], properties }))?;
            receivers.push(Receiver::new(end)?);
        }
        let Some(publisher) = publisher else { return Ok(()) };
        if let Damage::ClosesAfter(_) = damage {
            forward(publisher, &receivers, damage)?;
            drop(receivers);
            return listener.incoming().try_for_each(|other| other.map(drop));
        }
        drop(listener);
        forward(publisher, &receivers, damage)
    });
    address
}

fn forward(mut publisher: Frames, receivers: &[Receiver], damage: Damage) -> io::Result<()> {
    let send = |frame: &[u8]| receivers.iter().try_for_each(|receiver| receiver.send(frame));
    let mut held = None;
    let mut count = 0;
    loop {
        let (packet_type, frame) = publisher.next()?;
        match packet_type {
            PacketType::PubRel => {
                publisher.socket.write_all(&[0x70, 2, frame[2], frame[3]])?;
                continue;
            }
            PacketType::Publish => count += 1,
            _ => return Ok(()),
        }
        if matches!(damage, Damage::IgnoresAfter(last) if count > last) {
            continue;
        }
        if let Some(answer) = answer(&frame) {
            publisher.socket.write_all(&answer)?;
        }
        match damage {
            Damage::Loses(nth) if count % nth == 0 => continue,
            Damage::SwallowsAfter(last) if count > last => continue,
            Damage::Repeats(nth) if count % nth == 0 => send(&frame)?,
            Damage::Swaps(nth) if count % nth == 0 => {
                held = Some(frame);
                continue;
            }
            Damage::StallsAfter(nth, time) if count == nth => thread::sleep(time),
            Damage::DiesAfter(last) | Damage::ClosesAfter(last) if count > last => return Ok(()),
            _ => {}
        }
        send(&frame)?;
        if let Damage::Waits = damage {
            receivers.iter().try_for_each(Receiver::wait)?;
        }
        if let Some(held) = held.take() {
            send(&held)?;
        }
    }
}

/// PUBACK or PUBREC for a PUBLISH that wants one.
fn answer(frame: &[u8]) -> Option<[u8; 4]> {
    let first = match frame[0] >> 1 & 3 {
        0 => return None,
        1 => 0x40,
        _ => 0x50,
    };
    let head = mqtt::frame_head(frame, u32::MAX).ok()??;
    let body = &frame[usize::from(head.head_len)..];
    let topic_len = usize::from(u16::from_be_bytes([body[0], body[1]]));
    Some([first, 2, body[2 + topic_len], body[3 + topic_len]])
}

/// Who is forwarded to.
struct Receiver {
    socket: Arc<Mutex<TcpStream>>,
    /// Something for each PUBACK.
    acknowledged: mpsc::Receiver<()>,
}

impl Receiver {
    /// Its PUBREC is answered with PUBREL.
    fn new(mut end: Frames) -> io::Result<Self> {
        let socket = Arc::new(Mutex::new(end.socket.try_clone()?));
        let out = Arc::clone(&socket);
        let (tell, acknowledged) = mpsc::channel();
        thread::spawn(move || -> io::Result<()> {
            loop {
                match end.next()? {
                    (PacketType::PubAck, _) => drop(tell.send(())),
                    (PacketType::PubRec, frame) => {
                        out.lock().unwrap().write_all(&[0x62, 2, frame[2], frame[3]])?;
                    }
                    _ => {}
                }
            }
        });
        Ok(Self { socket, acknowledged })
    }

    fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.socket.lock().unwrap().write_all(frame)
    }

    /// Until it has acknowledged one more.
    fn wait(&self) -> io::Result<()> {
        self.acknowledged.recv().map_err(io::Error::other)
    }
}

impl Drop for Receiver {
    /// The thread that hears it has the socket, too.
    fn drop(&mut self) {
        let _ = self.socket.lock().unwrap().shutdown(Shutdown::Both);
    }
}

pub(super) struct Frames {
    pub(super) socket: TcpStream,
    kept: Vec<u8>,
}

impl Frames {
    pub(super) fn new(socket: TcpStream) -> Self {
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self { socket, kept: Vec::new() }
    }

    pub(super) fn next(&mut self) -> io::Result<(PacketType, Vec<u8>)> {
        loop {
            let head = mqtt::frame_head(&self.kept, u32::MAX).map_err(io::Error::other)?;
            if let Some(head) = head.filter(|head| head.frame_len() <= self.kept.len()) {
                let frame = self.kept.drain(..head.frame_len()).collect();
                return Ok((head.packet_type().unwrap(), frame));
            }
            let mut chunk = [0; 4096];
            match self.socket.read(&mut chunk)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self.kept.extend_from_slice(&chunk[..count]),
            }
        }
    }

    pub(super) fn say(&mut self, packet: &Packet<'_>) -> io::Result<()> {
        let mut out = Vec::new();
        mqtt::encode(Version::V311, packet, Limits::NONE.max_packet_size, &mut out);
        self.socket.write_all(&out)
    }
}
