//! Who gets which frames.

use std::collections::HashMap;
use std::io;
use std::ops::Range;

use mio::net::TcpStream;
use sluice::mqtt::{
    self, ConnAck, Limits, Packet, PacketType, Properties, ReasonCode, SubAck, topic,
};

use super::peer::Peer;

/// Read at once from one socket, in bytes.
const READ_CHUNK: usize = 64 * 1024;

/// A turn is cut when its buffer holds this much, so that it is written while it is still in the cache.
const TURN_BYTES: usize = 64 * 1024;

const MAX_PACKET: u32 = mqtt::MAX_REMAINING_LENGTH;

struct Route {
    topic: Box<[u8]>,
    subscribers: Vec<usize>,
}

/// All connections and routes.
pub(super) struct Relay {
    peers: Vec<Option<Peer>>,
    vacant: Vec<usize>,
    routes: Vec<Route>,
    by_topic: HashMap<Box<[u8]>, usize>,
    wildcards: Vec<(String, usize)>,
    /// What was read in this turn.
    buffer: Vec<u8>,
    filled: usize,
    queued: Vec<usize>,
}

impl Relay {
    pub(super) fn new() -> Self {
        Self {
            peers: Vec::new(),
            vacant: Vec::new(),
            routes: Vec::new(),
            by_topic: HashMap::new(),
            wildcards: Vec::new(),
            buffer: vec![0; TURN_BYTES + READ_CHUNK],
            filled: 0,
            queued: Vec::new(),
        }
    }

    /// The index that the next connection gets.
    pub(super) fn vacant(&self) -> usize {
        self.vacant.last().copied().unwrap_or(self.peers.len())
    }

    pub(super) fn add(&mut self, socket: TcpStream) {
        let peer = Some(Peer::new(socket));
        match self.vacant.pop() {
            Some(index) => self.peers[index] = peer,
            None => self.peers.push(peer),
        }
    }

    pub(super) fn on_writable(&mut self, index: usize) {
        if self.peer(index).is_some_and(|peer| peer.on_writable().is_err()) {
            self.remove(index);
        }
    }

    pub(super) fn on_readable(&mut self, index: usize, is_closed: bool) {
        loop {
            let Some(kept) = self.peer(index).map(|peer| peer.kept()) else { return };
            if self.filled >= TURN_BYTES {
                self.end_turn();
            }
            let needed = self.filled + kept + READ_CHUNK;
            if self.buffer.len() < needed {
                self.buffer.resize(needed, 0);
            }
            let start = self.filled;
            let Some(peer) = self.peers.get_mut(index).and_then(Option::as_mut) else { return };
            match peer.read(&mut self.buffer[start..start + kept + READ_CHUNK]) {
                Ok((count, drained)) => {
                    self.filled += count;
                    if self.take_in(index, start).is_err() {
                        return self.remove(index);
                    }
                    if drained && !is_closed {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return self.remove(index),
            }
        }
    }

    /// Writes what was forwarded, and empties the buffer.
    pub(super) fn end_turn(&mut self) {
        while let Some(index) = self.queued.pop() {
            let Some(peer) = self.peers.get_mut(index).and_then(Option::as_mut) else { continue };
            peer.queued = false;
            if peer.write_runs(&self.buffer[..self.filled]).is_err() {
                self.remove(index);
            }
        }
        self.filled = 0;
    }

    /// Finds the frames from `start` on and forwards them, neighbours with one destination as one stretch.
    fn take_in(&mut self, index: usize, start: usize) -> Result<(), ReasonCode> {
        let mut run = start..start;
        let mut run_type = PacketType::Publish;
        let mut at = start;
        while let Some(head) = mqtt::frame_head(&self.buffer[at..self.filled], MAX_PACKET)
            .map_err(|error| error.reason)?
        {
            let end = at + head.frame_len();
            if end > self.filled {
                break;
            }
            let body = at + usize::from(head.head_len)..end;
            let packet_type = head.packet_type().ok_or(ReasonCode::MalformedPacket)?;
            let joins = packet_type == run_type
                && (packet_type != PacketType::Publish || self.is_same_route(index, &body));
            if !joins {
                self.forward(index, run_type, run);
                run = at..at;
                run_type = packet_type;
                if packet_type == PacketType::Publish {
                    self.change_route(index, &body)?;
                }
            }
            run.end = end;
            if !is_forwarded(packet_type) {
                self.answer(index, head.first_byte, body)?;
                run = end..end;
            }
            at = end;
        }
        self.forward(index, run_type, run);
        if let Some(peer) = self.peers.get_mut(index).and_then(Option::as_mut) {
            peer.keep(&self.buffer[at..self.filled]);
        }
        Ok(())
    }

    #[inline]
    fn is_same_route(&self, index: usize, body: &Range<usize>) -> bool {
        let route = self.peers.get(index).and_then(Option::as_ref).and_then(|peer| peer.route);
        let Some(route) = route.and_then(|route| self.routes.get(route)) else { return false };
        topic_of(&self.buffer[body.clone()]) == Some(&*route.topic)
    }

    fn change_route(&mut self, index: usize, body: &Range<usize>) -> Result<(), ReasonCode> {
        let topic = topic_of(&self.buffer[body.clone()]).ok_or(ReasonCode::MalformedPacket)?;
        let route = match self.by_topic.get(topic) {
            Some(route) => *route,
            None => {
                let topic = topic.to_vec();
                self.add_route(&topic)?
            }
        };
        if let Some(peer) = self.peer(index) {
            peer.route = Some(route);
        }
        Ok(())
    }

    fn forward(&mut self, index: usize, packet_type: PacketType, run: Range<usize>) {
        if run.is_empty() {
            return;
        }
        let Some(peer) = self.peers.get(index).and_then(Option::as_ref) else { return };
        let route = peer.route.and_then(|route| self.routes.get(route));
        match packet_type {
            PacketType::Publish | PacketType::PubRel => {
                let Some(route) = route else { return };
                for (rank, &target) in route.subscribers.iter().enumerate() {
                    let Some(peer) = self.peers.get_mut(target).and_then(Option::as_mut) else {
                        continue;
                    };
                    peer.publisher = (rank == 0).then_some(index);
                    enqueue(peer, target, run.clone(), &mut self.queued);
                }
            }
            _ => {
                let Some(target) = peer.publisher else { return };
                if let Some(peer) = self.peers.get_mut(target).and_then(Option::as_mut) {
                    enqueue(peer, target, run, &mut self.queued);
                }
            }
        }
    }

    fn answer(
        &mut self,
        index: usize,
        first_byte: u8,
        body: Range<usize>,
    ) -> Result<(), ReasonCode> {
        let Some(peer) = self.peers.get_mut(index).and_then(Option::as_mut) else { return Ok(()) };
        let body = &self.buffer[body];
        let mut out = Vec::new();
        if first_byte >> 4 == 1 {
            let connect =
                mqtt::decode_connect(body, &Limits::NONE).map_err(|error| error.error.reason)?;
            peer.version = connect.version;
            let packet = Packet::ConnAck(ConnAck::new(false, ReasonCode::Success));
            mqtt::encode(peer.version, &packet, MAX_PACKET, &mut out);
            return peer.say(&out).map_err(|_| ReasonCode::UnspecifiedError);
        }
        let version = peer.version;
        let packet = mqtt::decode(version, first_byte, body, &Limits::NONE);
        match packet.map_err(|error| error.reason)? {
            Packet::Subscribe(subscribe) => {
                let filters: Vec<(String, u8)> = subscribe
                    .filters
                    .iter()
                    .map(|filter| (filter.filter.to_owned(), filter.qos.as_u8()))
                    .collect();
                let reasons: Vec<u8> = filters.iter().map(|(_, qos)| *qos).collect();
                let packet_id = subscribe.packet_id;
                let packet = SubAck { packet_id, reasons: &reasons, properties: Properties::EMPTY };
                mqtt::encode(version, &Packet::SubAck(packet), MAX_PACKET, &mut out);
                for (filter, _) in filters {
                    self.subscribe(index, filter)?;
                }
            }
            Packet::PingReq => {
                mqtt::encode(version, &Packet::PingResp, MAX_PACKET, &mut out);
            }
            _ => return Err(ReasonCode::ProtocolError),
        }
        let peer = self.peer(index).ok_or(ReasonCode::UnspecifiedError)?;
        peer.say(&out).map_err(|_| ReasonCode::UnspecifiedError)
    }

    fn subscribe(&mut self, index: usize, filter: String) -> Result<(), ReasonCode> {
        if topic::has_wildcard(&filter) {
            for route in &mut self.routes {
                if matches(&filter, &route.topic) {
                    route.subscribers.push(index);
                }
            }
            self.wildcards.push((filter.clone(), index));
        } else {
            let route = match self.by_topic.get(filter.as_bytes()) {
                Some(route) => *route,
                None => self.add_route(filter.as_bytes())?,
            };
            self.routes[route].subscribers.push(index);
        }
        if let Some(peer) = self.peer(index) {
            peer.filters.push(filter);
        }
        Ok(())
    }

    fn add_route(&mut self, topic: &[u8]) -> Result<usize, ReasonCode> {
        topic::check_name(topic, &Limits::NONE).map_err(|error| error.reason)?;
        let matching = self.wildcards.iter().filter(|(filter, _)| matches(filter, topic));
        let subscribers = matching.map(|(_, index)| *index).collect();
        self.by_topic.insert(topic.into(), self.routes.len());
        self.routes.push(Route { topic: topic.into(), subscribers });
        Ok(self.routes.len() - 1)
    }

    fn remove(&mut self, index: usize) {
        let Some(peer) = self.peers.get_mut(index).and_then(Option::take) else { return };
        self.vacant.push(index);
        for filter in &peer.filters {
            if let Some(route) = self.by_topic.get(filter.as_bytes()) {
                self.routes[*route].subscribers.retain(|subscriber| *subscriber != index);
            } else {
                self.wildcards.retain(|(_, subscriber)| *subscriber != index);
                for route in &mut self.routes {
                    route.subscribers.retain(|subscriber| *subscriber != index);
                }
            }
        }
    }

    fn peer(&mut self, index: usize) -> Option<&mut Peer> {
        self.peers.get_mut(index).and_then(Option::as_mut)
    }
}

fn enqueue(peer: &mut Peer, index: usize, run: Range<usize>, queued: &mut Vec<usize>) {
    peer.push_run(run);
    if !peer.queued {
        peer.queued = true;
        queued.push(index);
    }
}

fn is_forwarded(packet_type: PacketType) -> bool {
    use PacketType::{PubAck, PubComp, PubRec, PubRel, Publish};
    matches!(packet_type, Publish | PubAck | PubRec | PubRel | PubComp)
}

#[inline]
fn topic_of(body: &[u8]) -> Option<&[u8]> {
    let (len, rest) = body.split_first_chunk()?;
    rest.get(..usize::from(u16::from_be_bytes(*len)))
}

fn matches(filter: &str, topic: &[u8]) -> bool {
    std::str::from_utf8(topic).is_ok_and(|topic| topic::matches(filter, topic))
}
