//! Brokers that misbehave on purpose, each a thread.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// CONNACK with return code 5.
    Refuses,
    /// Takes connections, and says nothing.
    NeverAnswers,
    /// Answers CONNECT, and nothing else.
    NeverCloses,
    /// Answers CONNECT, and closes.
    ClosesAtOnce,
    /// Takes subscriptions, and closes whoever publishes.
    ClosesPublishers,
    /// Acknowledges at every QoS, and passes nothing on.
    Swallows,
    /// 5.0: takes two messages unacknowledged, and acknowledges when it has both.
    TakesTwo,
}

const CONNECT: u8 = 1;
const PUBLISH: u8 = 3;
const PUBREL: u8 = 6;
const SUBSCRIBE: u8 = 8;
const DISCONNECT: u8 = 14;

/// An address where nobody listens.
pub(crate) fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

pub(crate) fn start(manner: Manner) -> SocketAddr {
    watched(manner).0
}

/// A broker, and the type of each packet it gets.
pub(crate) fn watched(manner: Manner) -> (SocketAddr, Receiver<u8>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (types, seen) = channel();
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let types = types.clone();
            thread::spawn(move || serve(socket, manner, &types));
        }
    });
    (address, seen)
}

fn serve(mut socket: TcpStream, manner: Manner, types: &Sender<u8>) -> io::Result<()> {
    let mut unacknowledged = Vec::new();
    loop {
        let packet = match packet(&mut socket) {
            // The socket stays open until the peer gives up.
            Err(_) if manner == Manner::NeverCloses => loop {
                thread::park();
            },
            packet => packet?,
        };
        let packet_type = packet.0 >> 4;
        let _ = types.send(packet_type);
        match (packet_type, manner) {
            (CONNECT, Manner::Refuses) => socket.write_all(&[0x20, 2, 0, 5])?,
            (CONNECT, Manner::NeverCloses | Manner::ClosesPublishers | Manner::Swallows) => {
                socket.write_all(&[0x20, 2, 0, 0])?;
            }
            (CONNECT, Manner::ClosesAtOnce) => return socket.write_all(&[0x20, 2, 0, 0]),
            (SUBSCRIBE, Manner::ClosesPublishers | Manner::Swallows) => {
                let [high, low] = [packet.1[0], packet.1[1]];
                socket.write_all(&[0x90, 3, high, low, 1])?;
            }
            (PUBLISH, Manner::ClosesPublishers) => return Ok(()),
            (DISCONNECT, Manner::ClosesPublishers | Manner::Swallows) => return Ok(()),
            (PUBLISH, Manner::Swallows) => {
                let [high, low] = packet_id(&packet.1);
                let is_at_least_once = packet.0 & 0x06 == 0x02;
                let first = if is_at_least_once { 0x40 } else { 0x50 };
                socket.write_all(&[first, 2, high, low])?;
            }
            (PUBREL, Manner::Swallows) => {
                socket.write_all(&[0x70, 2, packet.1[0], packet.1[1]])?;
            }
            // Receive Maximum 2
            (CONNECT, Manner::TakesTwo) => socket.write_all(&[0x20, 6, 0, 0, 3, 0x21, 0, 2])?,
            (PUBLISH, Manner::TakesTwo) => {
                unacknowledged.push(packet_id(&packet.1));
                if unacknowledged.len() == 2 {
                    is_nothing_more(&mut socket)?;
                    for [high, low] in unacknowledged.drain(..) {
                        socket.write_all(&[0x40, 2, high, low])?;
                    }
                }
            }
            _ => {}
        }
    }
}

/// Of a PUBLISH of QoS 1 or 2.
fn packet_id(body: &[u8]) -> [u8; 2] {
    let topic_len = usize::from(body[1]);
    [body[2 + topic_len], body[3 + topic_len]]
}

/// Answers the first who connects, and closes all others unheard.
pub(crate) fn lets_one_in() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || -> io::Result<()> {
        let (mut first, _) = listener.accept()?;
        packet(&mut first)?;
        first.write_all(&[0x20, 2, 0, 0])?;
        listener.incoming().for_each(drop);
        Ok(())
    });
    address
}

/// In front of a broker: passes on the first connections, holds the others unanswered, and is gone when the
/// broker is.
pub(crate) fn front(broker: SocketAddr, passed_on: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut watch = TcpStream::connect(broker).unwrap();
    thread::spawn(move || {
        // Nothing is ever said here: it can only end.
        let _ = watch.read(&mut [0]);
        while TcpStream::connect(broker).is_ok() {
            thread::yield_now();
        }
        let _ = TcpStream::connect(address);
    });
    thread::spawn(move || -> io::Result<()> {
        let mut ways_back = Vec::new();
        let mut held = Vec::new();
        for number in 0.. {
            let (client, _) = listener.accept()?;
            if number < passed_on {
                let there = TcpStream::connect(broker)?;
                pass_on(client.try_clone()?, there.try_clone()?);
                ways_back.push(pass_on(there, client));
            } else if TcpStream::connect(broker).is_ok() {
                held.push(client);
            } else {
                break;
            }
        }
        // First who was let in, then the door, then who waits behind it.
        ways_back.into_iter().for_each(|way| way.join().unwrap());
        drop(listener);
        drop(held);
        Ok(())
    });
    address
}

fn pass_on(mut from: TcpStream, mut to: TcpStream) -> JoinHandle<()> {
    thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    })
}

/// A moment in which nothing comes.
fn is_nothing_more(socket: &mut TcpStream) -> io::Result<()> {
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    let more = socket.read(&mut [0]);
    socket.set_read_timeout(None)?;
    match more {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        _ => Err(io::Error::other("more than Receive Maximum")),
    }
}

/// First byte and body; lengths below 128 only.
pub(crate) fn packet(socket: &mut TcpStream) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    socket.read_exact(&mut head)?;
    let mut body = vec![0; usize::from(head[1])];
    socket.read_exact(&mut body)?;
    Ok((head[0], body))
}
