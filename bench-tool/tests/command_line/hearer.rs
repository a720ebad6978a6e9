//! A client that subscribes, and shows what it hears byte by byte; or that only asks for its session.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::broker;

/// A PUBLISH of QoS 0.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) topic: String,
    pub(crate) payload: String,
    pub(crate) retain: bool,
}

impl Heard {
    pub(crate) fn new(topic: &str, payload: &str, retain: bool) -> Self {
        Self { topic: topic.into(), payload: payload.into(), retain }
    }
}

pub(crate) struct Hearer {
    socket: TcpStream,
    /// What came before SUBACK, as it may.
    early: VecDeque<Heard>,
}

impl Hearer {
    pub(crate) fn new(address: SocketAddr, filter: &str) -> Self {
        let (mut socket, _) = connect(address, "", 2);
        let len = filter.len() as u8;
        let head = [0x82, 5 + len, 0, 1, 0, len];
        socket.write_all(&[&head, filter.as_bytes(), &[0]].concat()).unwrap();
        let mut early = VecDeque::new();
        loop {
            match broker::packet(&mut socket).unwrap() {
                (0x90, body) => assert_eq!(body, [0, 1, 0]),
                (first, body) => {
                    early.push_back(heard(first, &body));
                    continue;
                }
            }
            return Self { socket, early };
        }
    }

    /// The next so many messages.
    pub(crate) fn hear(&mut self, count: usize) -> Vec<Heard> {
        (0..count).map(|_| self.next()).collect()
    }

    fn next(&mut self) -> Heard {
        self.early.pop_front().unwrap_or_else(|| {
            let (first, body) = broker::packet(&mut self.socket).unwrap();
            heard(first, &body)
        })
    }
}

fn heard(first: u8, body: &[u8]) -> Heard {
    assert_eq!(first & !1, 0x30, "a PUBLISH of QoS 0");
    let (topic, payload) = body[2..].split_at(usize::from(body[1]));
    let [topic, payload] = [topic, payload].map(|text| std::str::from_utf8(text).unwrap());
    Heard::new(topic, payload, first & 1 == 1)
}

/// Whether the broker has kept a session of this client `[MQTT-3.2.2-2]`.
pub(crate) fn has_session(address: SocketAddr, client_id: &str) -> bool {
    connect(address, client_id, 0).1
}

/// 3.1.1, with these flags. Returns Session Present, too.
fn connect(address: SocketAddr, client_id: &str, flags: u8) -> (TcpStream, bool) {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let len = client_id.len() as u8;
    let head = [&[0x10, 12 + len, 0, 4][..], b"MQTT", &[4, flags, 0, 0, 0, len]].concat();
    socket.write_all(&[&head, client_id.as_bytes()].concat()).unwrap();
    let mut answer = [0; 4];
    socket.read_exact(&mut answer).unwrap();
    assert_eq!((answer[0], answer[3]), (0x20, 0));
    (socket, answer[2] == 1)
}
