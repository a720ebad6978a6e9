//! From bytes to packets: parses every whole frame in place and has it handled.

use bytes::Bytes;

use crate::hooks::PublishRights;
use crate::mqtt::{
    AckKind, DecodeError, FrameHead, Packet, PacketType, ReasonCode, Version, check_flags, decode,
    decode_ack, decode_connect, frame_head,
};
use crate::net::ConnId;
use crate::router::{RouteId, SessionKey};
use crate::session::Acked;

use super::Core;
use super::connection::State;
use super::ending::Ending;
use super::long_packets::LEVELS_AT_ONCE;
use super::remote::Publisher;
use super::runs::Run;

/// What 5.0 calls malformed, and 3.x does not forbid [MQTT-1.5.5-1].
pub(super) const PADDED: DecodeError =
    DecodeError::malformed("Remaining Length longer than need be");

/// Bytes of a CONNECT after which its version is known: those of the longer Protocol Name, and the
/// Protocol Version.
const MAX_VERSION_LEN: usize = 2 + "MQIsdp".len() + 1;

/// What a client speaks that has come by the wrong port, if what it began with shows that.
fn other_protocol(bytes: &[u8]) -> Option<&'static str> {
    Some(match bytes {
        // A handshake record (RFC 8446, 5.1).
        [0x16, 3, ..] => "it speaks TLS, and this listener has no [listener.tls]",
        [b'G', b'E', b'T', b' ', ..] => {
            "it speaks HTTP, and this listener has no [listener.websocket]"
        }
        [b'P', b'R', b'O', b'X', b'Y', b' ', ..] | [b'\r', b'\n', b'\r', b'\n', 0, ..] => {
            "it begins with a PROXY header, and this listener has no proxy_protocol"
        }
        _ => return None,
    })
}

/// Where the bytes of an input lie.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    /// In the arena, from this offset on.
    Arena(usize),
    /// In a buffer of their own: one large frame.
    Frame(&'a Bytes),
}

/// What became of an input.
pub(super) struct Taken {
    /// Bytes handled.
    pub(super) consumed: usize,
    /// Length of the frame that begins after them, if known.
    pub(super) frame_len: Option<usize>,
    pub(super) then: Then,
}

/// How a connection goes on after an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// Reading.
    Continue,
    /// Reading, once what the turn has written so far is flushed.
    Flush,
    /// Not reading, until there is room for what it asks for; what is left is handled then.
    Hold,
    /// Closing: nothing more of it is handled.
    Stop,
    /// On another shard, which is the home of its client.
    Move(u8),
}

/// A connection while one input of it is handled: what every packet needs at hand.
pub(super) struct Reader<'a> {
    pub(super) id: ConnId,
    pub(super) session: SessionKey,
    pub(super) version: Version,
    /// The largest packet taken from it.
    pub(super) max_packet_size: u32,
    pub(super) route: RouteId,
    /// How it may publish on the topic of `route`.
    pub(super) rights: PublishRights,
    /// QoS 0 publishes that are handed on as one.
    pub(super) run: Option<Run>,
    pub(super) input: &'a [u8],
    /// Where in the arena the input begins.
    pub(super) base: usize,
    /// Found out when first needed.
    pub(super) publisher: Option<Publisher>,
    /// What it has done of SUBSCRIBE and UNSUBSCRIBE, in levels of filters.
    pub(super) levels: usize,
    /// What it may do of them in this read.
    pub(super) most_levels: usize,
}

impl<S> Core<S> {
    /// Handles every whole frame in `bytes`.
    pub(super) fn receive(&mut self, id: ConnId, bytes: &[u8], source: Source<'_>) -> Taken {
        let Some(connection) = self.connections.get_mut(id) else {
            return Taken { consumed: bytes.len(), frame_len: None, then: Then::Stop };
        };
        connection.last_received = self.now;
        if connection.state == State::Connected
            && connection.ignores_answers(self.settings.qos0_backlog_bytes)
        {
            // Once a read is enough: no packet has an answer much longer than itself.
            connection.held_for_output = true;
            let frame_len = matches!(source, Source::Frame(_)).then_some(bytes.len());
            return Taken { consumed: 0, frame_len, then: Then::Hold };
        }
        let mut reader = Reader {
            id,
            session: connection.session,
            version: connection.version,
            max_packet_size: connection.max_packet_size,
            route: connection.last_route,
            rights: connection.last_rights,
            run: None,
            input: bytes,
            base: match source {
                Source::Arena(base) => base,
                Source::Frame(_) => 0,
            },
            publisher: None,
            levels: 0,
            most_levels: LEVELS_AT_ONCE,
        };
        let taken = match connection.state {
            State::Closing => Taken { consumed: 0, frame_len: None, then: Then::Stop },
            State::Authenticating => Taken { consumed: 0, frame_len: None, then: Then::Hold },
            State::Handshaking | State::AwaitingConnect => {
                self.first_frames(&mut reader, bytes, source)
            }
            State::Exchanging => self.exchange_frames(&mut reader, bytes, 0, source),
            State::Committing => Taken { consumed: 0, frame_len: None, then: Then::Hold },
            State::Connected => self.frames_within_rate(&mut reader, bytes, 0, source),
        };
        self.flush_run(&mut reader);
        self.stats.bytes_received.add(taken.consumed as u64);
        if let Some(connection) = self.connections.get_mut(id) {
            connection.last_route = reader.route;
            connection.last_rights = reader.rights;
        }
        taken
    }

    fn first_frames(&mut self, reader: &mut Reader<'_>, bytes: &[u8], source: Source<'_>) -> Taken {
        let (then, consumed, frame_len) = match self.first_frame(reader, bytes) {
            Ok(Some(len)) => (Then::Continue, len, None),
            Ok(None) => {
                let most = self.settings.max_connect_size.min(reader.max_packet_size);
                let head = frame_head(bytes, most);
                let frame_len = head.ok().flatten().map(|head| head.frame_len());
                return Taken { consumed: 0, frame_len, then: Then::Continue };
            }
            Err((then, consumed, frame_len)) => (then, consumed, frame_len),
        };
        if then != Then::Continue {
            return Taken { consumed, frame_len, then };
        }
        match self.connections.get(reader.id).map(|connection| connection.state) {
            Some(State::Exchanging) => self.exchange_frames(reader, bytes, consumed, source),
            _ => self.frames_after_connack(reader, bytes, consumed, source),
        }
    }

    /// Handles what follows when CONNACK was sent.
    pub(super) fn frames_after_connack(
        &mut self,
        reader: &mut Reader<'_>,
        bytes: &[u8],
        consumed: usize,
        source: Source<'_>,
    ) -> Taken {
        let Some(connection) = self.connections.get(reader.id) else {
            return Taken { consumed, frame_len: None, then: Then::Stop };
        };
        reader.session = connection.session;
        reader.version = connection.version;
        if self.is_held_from_afar(reader.session) {
            // A new connection is no way out.
            return Taken { consumed, frame_len: None, then: Then::Hold };
        }
        self.frames_within_rate(reader, bytes, consumed, source)
    }

    /// Whether CONNECT was handled, and its answer waits for the store.
    fn is_committing(&self, id: ConnId) -> bool {
        self.connections.get(id).is_some_and(|connection| connection.state == State::Committing)
    }

    /// Handles CONNECT: gives its length, nothing if it is not whole, or what follows instead and
    /// how much was handled.
    fn first_frame(
        &mut self,
        reader: &mut Reader<'_>,
        bytes: &[u8],
    ) -> Result<Option<usize>, (Then, usize, Option<usize>)> {
        let head = match frame_head(bytes, u32::MAX) {
            Ok(Some(head)) => head,
            Ok(None) => return Ok(None),
            Err(error) => {
                self.end(reader.id, Ending::Silent(other_protocol(bytes).unwrap_or(error.detail)));
                return Err((Then::Stop, 0, None));
            }
        };
        if head.packet_type() != Some(PacketType::Connect) {
            let detail = other_protocol(bytes).unwrap_or("the first packet is not CONNECT");
            self.end(reader.id, Ending::Silent(detail));
            return Err((Then::Stop, 0, None));
        }
        let most = self.settings.max_connect_size.min(reader.max_packet_size);
        if head.frame_len() > most as usize {
            let body = bytes.get(usize::from(head.head_len)..).unwrap_or_default();
            if body.len() < MAX_VERSION_LEN {
                return Ok(None);
            }
            self.refuse_large_connect(reader.id, body);
            return Err((Then::Stop, 0, None));
        }
        let Some(frame) = bytes.get(..head.frame_len()) else { return Ok(None) };
        let body = frame.get(usize::from(head.head_len)..).unwrap_or_default();
        let then = self.connect(reader.id, head, body);
        if matches!(then, Then::Continue | Then::Stop) || self.is_committing(reader.id) {
            self.stats.packets_received.add(1);
        }
        match then {
            Then::Continue => Ok(Some(frame.len())),
            Then::Hold if self.is_committing(reader.id) => Err((then, frame.len(), None)),
            Then::Hold => Err((then, 0, Some(frame.len()))),
            other => Err((other, 0, None)),
        }
    }

    /// Refuses a CONNECT that is too large, of which as much is there as says in which version.
    fn refuse_large_connect(&mut self, id: ConnId, body: &[u8]) {
        let version = match decode_connect(body, &self.settings.limits) {
            Ok(connect) => Some(connect.version),
            Err(error) => error.version,
        };
        let detail = "CONNECT is larger than limits.max_connect_size";
        self.refuse(id, version, ReasonCode::PacketTooLarge, detail);
    }

    /// Handles the frames of `bytes` from `at` on.
    pub(super) fn frames(
        &mut self,
        reader: &mut Reader<'_>,
        bytes: &[u8],
        mut at: usize,
        source: Source<'_>,
    ) -> Taken {
        let max_packet_size = reader.max_packet_size;
        let mut packets = 0;
        let mut publishes = 0;
        let (frame_len, then) = loop {
            let rest = bytes.get(at..).unwrap_or_default();
            let head = match frame_head(rest, max_packet_size) {
                Ok(Some(head)) => head,
                Ok(None) => break (None, Then::Continue),
                Err(error) => {
                    self.flush_run(reader);
                    self.fail(reader.id, error);
                    break (None, Then::Stop);
                }
            };
            if head.head_len > 2 && reader.version.is_v5() && !head.is_minimal() {
                self.flush_run(reader);
                self.fail(reader.id, PADDED);
                break (None, Then::Stop);
            }
            let Some(frame) = rest.get(..head.frame_len()) else {
                break (Some(head.frame_len()), Then::Continue);
            };
            let is_publish = head.first_byte >> 4 == PacketType::Publish as u8;
            packets += 1;
            publishes += u64::from(is_publish);
            let handled = if is_publish {
                self.publish(reader, head, frame, at, source)
            } else {
                self.flush_run(reader);
                self.packet(reader, head, frame)
            };
            match handled {
                Ok(Then::Continue) => {
                    at += frame.len();
                    if self.connections.wants_flush() {
                        break (None, Then::Flush);
                    }
                }
                Ok(Then::Hold) => {
                    packets -= 1;
                    publishes -= u64::from(is_publish);
                    break (Some(frame.len()), Then::Hold);
                }
                Ok(then) => break (None, then),
                Err(error) => {
                    self.flush_run(reader);
                    self.fail(reader.id, error);
                    break (None, Then::Stop);
                }
            }
        };
        self.stats.packets_received.add(packets);
        self.stats.publishes_received.add(publishes);
        Taken { consumed: at, frame_len, then }
    }

    /// Handles any packet but PUBLISH.
    fn packet(
        &mut self,
        reader: &mut Reader<'_>,
        head: FrameHead,
        frame: &[u8],
    ) -> Result<Then, DecodeError> {
        let body = frame.get(usize::from(head.head_len)..).unwrap_or_default();
        let kind = match PacketType::from_first_byte(head.first_byte) {
            Some(PacketType::PubAck) => AckKind::PubAck,
            Some(PacketType::PubRec) => AckKind::PubRec,
            Some(PacketType::PubRel) => AckKind::PubRel,
            Some(PacketType::PubComp) => AckKind::PubComp,
            _ => return self.other_packet(reader, head, body),
        };
        check_flags(reader.version, head.first_byte)?;
        let ack = decode_ack(reader.version, kind, body, &self.settings.limits)?;
        let Some(slot) = self.sessions.get_mut(reader.session) else { return Ok(Then::Stop) };
        let Some(mut out) = self.connections.out(reader.id) else { return Ok(Then::Stop) };
        let session = &mut slot.session;
        out.backlog_limit = self.settings.qos0_backlog_bytes;
        let packet_id = ack.packet_id;
        let acked = match kind {
            AckKind::PubAck => session.puback(packet_id, self.now, &mut out)?,
            AckKind::PubRec => session.pubrec(packet_id, ack.reason, self.now, &mut out)?,
            AckKind::PubComp => session.pubcomp(packet_id, self.now, &mut out)?,
            AckKind::PubRel => {
                session.pubrel(packet_id, &mut out)?;
                Acked::Released
            }
        };
        if acked == Acked::Done && self.pressure.any() {
            self.relieve(reader.session);
        }
        Ok(Then::Continue)
    }

    fn other_packet(
        &mut self,
        reader: &mut Reader<'_>,
        head: FrameHead,
        body: &[u8],
    ) -> Result<Then, DecodeError> {
        if head.packet_type() == Some(PacketType::Connect) {
            // Whatever is in it [MQTT-3.1.0-2].
            return Err(DecodeError::protocol("a second CONNECT"));
        }
        let limits = self.settings.limits;
        match decode(reader.version, head.first_byte, body, &limits)? {
            Packet::Subscribe(subscribe) => self.subscribe(reader, &subscribe),
            Packet::Unsubscribe(unsubscribe) => self.unsubscribe(reader, &unsubscribe),
            Packet::PingReq => {
                if let Some(mut out) = self.connections.out(reader.id) {
                    out.packet(&Packet::PingResp);
                }
                Ok(Then::Continue)
            }
            Packet::Disconnect(disconnect) => self.client_disconnect(reader, &disconnect),
            Packet::Auth(auth) => self.authenticate_again(reader.id, &auth),
            _ => Err(DecodeError::protocol("a packet that only a server sends")),
        }
    }

    /// Ends a connection for an error of its client.
    fn fail(&mut self, id: ConnId, error: DecodeError) {
        self.stats.client_errors.add(1);
        self.end(id, Ending::Refused(error.reason, error.detail));
    }
}
