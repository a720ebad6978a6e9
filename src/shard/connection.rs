//! The connections of a shard, and how the rest of it writes to them.

use bytes::Bytes;

use crate::hooks::{Client, PublishRights};
use crate::mqtt::{
    AckKind, Message, Packet, PacketId, PublishOut, ReasonCode, Version, encode, encode_ack,
    encode_publish, encode_publish_head,
};
use crate::net::{ClientCertificate, CloseMode, ConnId};
use crate::router::{RouteId, SessionKey};
use crate::session::{DropCause, Sink};
use crate::timer::{Time, TimerKey};

use super::outbox::{Outbox, Place, Pool};
use super::rate::Allotment;
use super::settings::Settings;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The TLS handshake is not done.
    Handshaking,
    /// CONNECT has not been read.
    AwaitingConnect,
    /// CONNECT is read and kept; who the client is is being found out elsewhere.
    Authenticating,
    /// CONNECT is read; AUTH goes back and forth.
    Exchanging,
    /// A session is attached; CONNACK waits for it to be stored, and nothing goes before that.
    Committing,
    /// A session is attached.
    Connected,
    /// Nothing more is read; what waits is written, then the socket closes.
    Closing,
}

impl State {
    /// Whether it ends if nothing comes of the client in time.
    pub(super) fn awaits_client(self) -> bool {
        matches!(
            self,
            Self::Handshaking | Self::AwaitingConnect | Self::Exchanging | Self::Connected
        )
    }
}

/// One socket's state beyond the driver's. Small: there are as many as there are clients.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) outbox: Option<Box<Outbox>>,
    /// The route of the last topic published: most publishers repeat themselves.
    pub(super) last_route: RouteId,
    /// How the client may publish there.
    pub(super) last_rights: PublishRights,
    pub(super) last_received: Time,
    pub(super) timer: Option<TimerKey>,
    pub(super) session: SessionKey,
    /// The client's Maximum Packet Size.
    pub(super) maximum_packet_size: u32,
    /// 1.5 times the keep alive, in milliseconds; 0 without one.
    pub(super) patience_ms: u32,
    pub(super) version: Version,
    pub(super) state: State,
    /// How the socket closes once everything is written.
    pub(super) close_mode: CloseMode,
    /// Stands in the list of connections to flush at the end of the turn.
    pub(super) touched: bool,
    /// The kernel's buffer is full: a completion follows when there is room.
    pub(super) blocked: bool,
    /// Its session has more to send when what was written is gone.
    pub(super) pumps: bool,
    /// A QoS 1 or 2 message, or PUBREL, was written since the last flush: its answer finishes what is under way.
    /// That of PUBREC does too, but comes from who publishes, and with more to begin.
    pub(super) expects: bool,
    /// Not read: a receiver or a shard behind it is full, or too much of its own is under way.
    pub(super) held: bool,
    /// Held for answers that it does not read.
    pub(super) held_for_output: bool,
    /// Held for answers that wait in its session's gate for other shards or the store.
    pub(super) held_for_gate: bool,
    /// Not every frame may go out as it is: the client limits their size, or see `singly`.
    pub(super) minds_frames: bool,
    /// The session has to see each message: it may use an alias, or have to wait in the queue.
    pub(super) singly: bool,
    /// Its subscriptions in 3.x are those of a bridge.
    pub(super) bridge: bool,
    /// The largest packet taken from it.
    pub(super) max_packet_size: u32,
    /// What it is allotted, if that is limited.
    pub(super) allotment: Option<Box<Allotment>>,
    pub(super) listener: u16,
    pub(super) peer: std::net::SocketAddr,
    /// What the client has shown, with a name in it.
    pub(super) certificate: Option<ClientCertificate>,
}

impl Connection {
    pub(super) fn new(
        listener: u16,
        peer: std::net::SocketAddr,
        max_packet_size: u32,
        now: Time,
    ) -> Self {
        Self {
            outbox: None,
            last_route: RouteId::NONE,
            last_rights: PublishRights::NONE,
            last_received: now,
            timer: None,
            session: SessionKey::MAX,
            maximum_packet_size: u32::MAX,
            patience_ms: 0,
            version: Version::V311,
            state: State::AwaitingConnect,
            close_mode: CloseMode::Abort,
            touched: false,
            blocked: false,
            pumps: false,
            expects: false,
            held: false,
            held_for_output: false,
            held_for_gate: false,
            minds_frames: false,
            singly: false,
            bridge: false,
            max_packet_size,
            allotment: None,
            listener,
            peer,
            certificate: None,
        }
    }

    /// The client that asks to be let in over this connection.
    pub(super) fn client<'a>(
        &'a self,
        client_id: &'a str,
        username: Option<&'a str>,
        version: Version,
    ) -> Client<'a> {
        Client {
            client_id,
            username,
            certificate: self.certificate.as_ref().and_then(ClientCertificate::user),
            certificate_name: self.certificate.as_ref().map(|one| &*one.name),
            peer: self.peer,
            listener: Some(self.listener),
            protocol_version: version as u8,
        }
    }

    /// Whether so much waits for the client to read that nothing may be added that can be lost.
    #[inline]
    pub(super) fn is_slow(&self, limit: usize) -> bool {
        self.blocked && self.backlog() >= limit
    }

    /// Whether so many answers wait for the client to read that it is not read either. Messages
    /// stop at `limit`; what comes on top of that are answers.
    #[inline]
    pub(super) fn ignores_answers(&self, limit: usize) -> bool {
        self.is_slow(limit.saturating_mul(2))
    }

    /// Bytes that wait to be written.
    #[inline]
    pub(super) fn backlog(&self) -> usize {
        self.outbox.as_ref().map_or(0, |outbox| outbox.len())
    }
}

/// Places that the tables of connections and sessions have from the start: up to that many, nothing is copied
/// when they grow. Places that nobody has used take no memory. In chunks each message would have one more
/// place to look at.
pub(super) const PLACES_RESERVED: usize = 1 << 16;

/// The connections of a shard, by the driver's id.
#[derive(Debug, Default)]
pub(super) struct Connections {
    slots: Vec<Option<Connection>>,
    pub(super) pool: Pool,
    /// To flush at the end of the turn.
    pub(super) touched: Vec<ConnId>,
    /// Frames of this turn that are written to more than one connection.
    pub(super) scratch: Vec<u8>,
    open: usize,
    pub(super) written: Written,
}

/// Output since the last flush.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// Memory that PUBLISH packets of a connection's own, and references to shared ones, take.
    pub(super) bytes: usize,
    pub(super) packets: u64,
    pub(super) publishes: u64,
    /// Messages that sessions dropped while sending their queues.
    pub(super) dropped: [u64; DropCause::COUNT],
    /// A small message with its payload as one that is referenced: see [`share`](Self::share).
    shared: Option<(Message, Bytes)>,
}

impl Written {
    /// The payload of a message to be referenced, not copied. One message may go to very many receivers
    /// before there is a flush: then a small one is referenced, too.
    #[cold]
    fn share(&mut self, message: &Message) -> Option<Bytes> {
        if let Some(payload) = message.payload_shared() {
            return Some(payload);
        }
        if message.payload().len() < SHARED_PAYLOAD {
            return None;
        }
        match &self.shared {
            Some((known, payload)) if known.ptr_eq(message) => Some(payload.clone()),
            _ => {
                let payload = Bytes::copy_from_slice(message.payload());
                self.shared = Some((message.clone(), payload.clone()));
                Some(payload)
            }
        }
    }
}

/// Memory that output may take before it is flushed in the middle of a turn.
pub(super) const MAX_UNFLUSHED: usize = 1024 * 1024;
/// The smallest payload that is referenced when output takes more than that.
const SHARED_PAYLOAD: usize = 128;
/// About what a reference to bytes elsewhere takes.
const REFERENCE: usize = 32;

impl Connections {
    /// Whether the turn has written so much that it is to be flushed before the next packet.
    #[inline]
    pub(super) fn wants_flush(&self) -> bool {
        self.written.bytes + self.scratch.len() >= MAX_UNFLUSHED
    }

    pub(super) fn insert(&mut self, id: ConnId, connection: Connection) {
        let index = id.0 as usize;
        self.slots.reserve(PLACES_RESERVED.saturating_sub(self.slots.len()));
        if index >= self.slots.len() {
            self.slots.resize_with(index + 1, || None);
        }
        debug_assert!(self.slots[index].is_none(), "the driver reused an id");
        self.slots[index] = Some(connection);
        self.open += 1;
    }

    pub(super) fn remove(&mut self, id: ConnId) -> Option<Connection> {
        let mut connection = self.slots.get_mut(id.0 as usize)?.take()?;
        self.open -= 1;
        if let Some(outbox) = connection.outbox.take() {
            self.pool.give(outbox);
        }
        Some(connection)
    }

    pub(super) fn open(&self) -> usize {
        self.open
    }

    #[inline]
    pub(super) fn get(&self, id: ConnId) -> Option<&Connection> {
        self.slots.get(id.0 as usize)?.as_ref()
    }

    #[inline]
    pub(super) fn get_mut(&mut self, id: ConnId) -> Option<&mut Connection> {
        self.slots.get_mut(id.0 as usize)?.as_mut()
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = ConnId> + '_ {
        self.slots.iter().enumerate().filter(|(_, slot)| slot.is_some()).map(|(index, _)| {
            #[expect(clippy::cast_possible_truncation, reason = "ids are u32")]
            ConnId(index as u32)
        })
    }

    /// The place to write packets for `id`.
    #[inline]
    pub(super) fn out(&mut self, id: ConnId) -> Option<Out<'_>> {
        let connection = self.slots.get_mut(id.0 as usize)?.as_mut()?;
        Some(Out {
            id,
            connection,
            pool: &mut self.pool,
            touched: &mut self.touched,
            written: &mut self.written,
            backlog_limit: usize::MAX,
        })
    }

    /// The place to write packets for `id`, if its session may be written to.
    pub(super) fn live_out(&mut self, id: ConnId, settings: &Settings) -> Option<Out<'_>> {
        let mut out = self.out(id)?;
        if out.connection.state != State::Connected {
            return None;
        }
        out.backlog_limit = settings.qos0_backlog_bytes;
        Some(out)
    }

    /// Marks `id` to be looked at when the turn ends.
    pub(super) fn touch(&mut self, id: ConnId) {
        if let Some(connection) = self.get_mut(id)
            && !connection.touched
        {
            connection.touched = true;
            self.touched.push(id);
        }
    }
}

/// Writes packets for one connection.
pub(super) struct Out<'a> {
    id: ConnId,
    pub(super) connection: &'a mut Connection,
    pool: &'a mut Pool,
    touched: &'a mut Vec<ConnId>,
    written: &'a mut Written,
    /// Bytes that may wait before a session keeps its messages to itself.
    pub(super) backlog_limit: usize,
}

impl Out<'_> {
    #[inline]
    fn outbox(&mut self) -> &mut Outbox {
        if !self.connection.touched {
            self.connection.touched = true;
            self.touched.push(self.id);
        }
        self.connection.outbox.get_or_insert_with(|| self.pool.take())
    }

    /// Writes `packet` in the client's version, within its Maximum Packet Size.
    pub(super) fn packet(&mut self, packet: &Packet<'_>) {
        let (version, max) = (self.connection.version, self.connection.maximum_packet_size);
        let mut fits = true;
        self.outbox().append(|own| fits = encode(version, packet, max, own));
        self.written.packets += u64::from(fits);
    }

    /// Writes `count` whole PUBLISH frames that lie in one of the turn's buffers.
    #[inline]
    pub(super) fn frames(&mut self, place: Place, start: usize, end: usize, count: u64) {
        self.written.packets += count;
        self.written.publishes += count;
        self.written.bytes += REFERENCE;
        self.outbox().push(place, start, end);
    }

    /// Writes a payload whose head was written before.
    pub(super) fn shared(&mut self, payload: Bytes) {
        self.outbox().push_shared(payload);
    }

    /// Writes a PUBLISH whose payload may be referenced instead of copied.
    #[inline]
    pub(super) fn publish_from(&mut self, publish: &PublishOut<'_>, large: Option<Bytes>) {
        let version = self.connection.version;
        self.written.packets += 1;
        self.written.publishes += 1;
        self.connection.expects |= publish.packet_id.is_some();
        let outbox = self.outbox();
        let before = outbox.len();
        match large {
            None => {
                outbox.append(|own| encode_publish(version, publish, own));
                let more = outbox.len() - before;
                self.written.bytes += more;
            }
            Some(payload) => {
                outbox.append(|own| encode_publish_head(version, publish, own));
                outbox.push_shared(payload);
                self.written.bytes += publish.topic.len() + REFERENCE;
            }
        }
    }
}

impl Sink for Out<'_> {
    #[inline]
    fn publish(&mut self, publish: &PublishOut<'_>, message: &Message) {
        let shared = if self.written.bytes < MAX_UNFLUSHED {
            message.payload_shared()
        } else {
            self.written.share(message)
        };
        self.publish_from(publish, shared);
    }

    #[inline]
    fn ack(&mut self, kind: AckKind, packet_id: PacketId, reason: ReasonCode) {
        let version = self.connection.version;
        self.written.packets += 1;
        self.connection.expects |= kind == AckKind::PubRel;
        self.outbox().append(|own| encode_ack(version, kind, packet_id, reason, own));
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.written.packets += 1;
        self.outbox().append(|own| own.extend_from_slice(bytes));
    }

    #[inline]
    fn has_room(&self) -> bool {
        !self.connection.is_slow(self.backlog_limit)
    }

    /// However much the kernel may take: as much as may wait, and then others have their turn.
    fn may_pump(&mut self) -> bool {
        if !self.has_room() {
            return false;
        }
        self.connection.pumps = self.connection.backlog() >= self.backlog_limit;
        !self.connection.pumps
    }

    fn dropped(&mut self, cause: DropCause) {
        self.written.dropped[cause as usize] += 1;
    }
}
