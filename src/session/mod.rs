//! One client's protocol state, without I/O: in-flight windows, QoS flows, queue, gate, aliases,
//! will, expiry.
//!
//! The loop calls a [`Session`] with what a connection brought, and the session answers through a
//! [`Sink`]. Time is handed in. What belongs to a connection is replaced by
//! [`Session::connect`]; the rest survives it:
//!
//! - CONNECT: [`Session::connect`], [`Session::set_will`], CONNACK, [`Session::resume`];
//! - to the client: [`Session::deliver`], answered by [`Session::puback`], [`Session::pubrec`],
//!   [`Session::pubcomp`];
//! - from the client: [`Session::begin_publish`], routing, [`Session::finish_publish`], later
//!   [`Session::refuse`] and [`Session::confirm`], and [`Session::pubrel`];
//! - the end of a connection: [`Session::disconnect`], then [`Session::will_due`] and
//!   [`Session::ends_at`]; the end of the session: [`Session::take_for_redistribution`].
//!
//! A session that is stored notes what it does in a [`Journal`].

mod alias;
mod change;
mod durable;
mod expiry;
mod gate;
mod inbound;
mod journal;
mod limits;
mod link;
mod outbound;
mod paging;
mod queue;
mod retry;
mod shared;
mod will;
mod window;

#[cfg(test)]
mod tests;

pub use alias::AliasUse;
pub use change::{
    CameBy, Change, IdentityRecord, PageRequest, Paged, QueuedRecord, SessionNumber, SessionRecord,
    SubscriptionRecord, Waiter,
};
pub use durable::Restored;
pub use gate::{PublishOutcome, STORE, Unkept, Verdict};
pub use inbound::Begin;
pub use journal::{Changes, Journal, Noted};
pub use limits::{DropCause, DropCounts, InMemory, SessionLimits};
pub use link::LinkParameters;
pub use outbound::{Acked, Delivered, Delivery, Direct};
pub use paging::{ExpiredOnDisk, PageOfQueue, PageTaken};
pub use queue::QueuedBytes;
pub use retry::RetryOutcome;
pub use shared::Redistribution;
pub use will::{Departure, Will, WillDue};

use std::collections::VecDeque;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use crate::mqtt::{AckKind, DecodeError, Message, PacketId, PublishOut, ReasonCode, Version};
use crate::timer::Time;
use link::Link;

/// Where a connected session writes. Everything is written in the order of the calls.
pub trait Sink {
    /// Writes a PUBLISH; `publish` borrows from `message`, which a large payload may be written
    /// from by reference.
    fn publish(&mut self, publish: &PublishOut<'_>, message: &Message);

    /// Writes PUBACK, PUBREC, PUBREL or PUBCOMP. 3.x is given no reason but Success.
    fn ack(&mut self, kind: AckKind, packet_id: PacketId, reason: ReasonCode);

    /// Writes a whole frame.
    fn raw(&mut self, bytes: &[u8]);

    /// Whether output may still grow. If not, QoS 1 and 2 stay in the queue, and QoS 0 is dropped
    /// as [`DropCause::SlowReader`]; call [`Session::pump`] when there is room again.
    fn has_room(&self) -> bool {
        true
    }

    /// Whether the queue may be sent on. If not, though there is room, [`Session::pump`] is called
    /// when what was written is gone.
    fn may_pump(&mut self) -> bool {
        self.has_room()
    }

    /// Told of a message that was dropped while the queue was being sent; it is in the session's
    /// own counts already. [`Session::deliver`] tells its drops by what it returns.
    fn dropped(&mut self, cause: DropCause) {
        let _ = cause;
    }
}

/// The state of one client, connected or not.
#[derive(Debug)]
pub struct Session {
    client_id: Box<str>,
    active: Option<Box<Active>>,
    will: Option<Box<Will>>,
    /// What a session has that is stored.
    durable: durable::Noter,
    disconnected_at: Time,
    link: Link,
    drops: DropCounts,
    session_expiry_interval: u32,
    /// What its queue is counted in.
    queued_bytes: QueuedBytes,
}

/// What only a session with messages of QoS 1 or 2, or with pending acknowledgements, needs.
#[derive(Debug)]
struct Active {
    window: window::Window,
    queue: queue::Queue,
    held: inbound::Held,
    gate: VecDeque<gate::Pending>,
}

impl Active {
    fn new(queued_bytes: QueuedBytes) -> Box<Self> {
        Box::new(Self {
            window: window::Window::new(),
            queue: queue::Queue::new(queued_bytes),
            held: inbound::Held::default(),
            gate: VecDeque::new(),
        })
    }

    fn is_idle(&self) -> bool {
        self.window.in_flight() == 0
            && self.queue.is_empty()
            && self.held.is_empty()
            && self.gate.is_empty()
    }
}

impl Session {
    /// A session that was never connected; it has ended at once unless
    /// [connected](Self::connect).
    #[must_use]
    pub fn new(client_id: &str) -> Self {
        Self::counted(client_id, QueuedBytes::default())
    }

    /// As [`new`](Self::new); what waits in its queue is counted in `queued_bytes`.
    #[must_use]
    pub fn counted(client_id: &str, queued_bytes: QueuedBytes) -> Self {
        Self {
            queued_bytes,
            client_id: client_id.into(),
            active: None,
            will: None,
            durable: None,
            disconnected_at: Time::default(),
            link: Link::none(Version::V311, false),
            drops: DropCounts::default(),
            session_expiry_interval: 0,
        }
    }

    /// Begins a connection: also a takeover, which ends the one before. Its Will and its aliases
    /// are gone [MQTT-3.1.3-9]; what has to become of the Will on takeover is said by
    /// [`Session::will_due`], to be called before this.
    pub fn connect(&mut self, parameters: &LinkParameters, limits: &SessionLimits, now: Time) {
        if self.link.connected {
            self.disconnect(now);
        }
        self.will = None;
        self.link = Link::new(parameters, limits);
        self.session_expiry_interval = parameters.session_expiry_interval;
    }

    /// Ends a connection. What is in flight stays, for the next one.
    pub fn disconnect(&mut self, now: Time) {
        self.disconnected_at = now;
        self.uncharge_all();
        self.forget_uncommitted();
        self.link = Link::none(self.link.version, self.link.acknowledge_unkept);
        if let Some(active) = self.active.as_mut() {
            active.disarm_gate();
        }
        self.shrink();
    }

    /// Gives back memory that nothing in flight, queued, held or pending needs: for a session that
    /// has been quiet for a while. Packet identifiers may start over.
    pub fn shrink(&mut self) {
        match self.active.as_mut() {
            Some(active) if !active.is_idle() => active.window.shrink(),
            _ => self.active = None,
        }
    }

    /// The Client Identifier.
    #[must_use]
    pub fn client_id(&self) -> &str {
        &self.client_id
    }

    /// The protocol version of the connection, or of the last one.
    #[inline]
    #[must_use]
    pub fn version(&self) -> Version {
        self.link.version
    }

    /// Whether its client is told, or closed, when there was no room for a message of its: see
    /// [`LinkParameters::acknowledge_unkept`].
    #[must_use]
    pub fn is_told_of_unkept(&self) -> bool {
        self.link.version.is_v5() || !self.link.acknowledge_unkept
    }

    /// Whether there is a connection.
    #[inline]
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.link.connected
    }

    /// The client's Maximum Packet Size in bytes; `u32::MAX` when it gave none.
    #[must_use]
    pub fn maximum_packet_size(&self) -> u32 {
        self.link.maximum_packet_size
    }

    /// Whether acknowledgements may carry reason strings and user properties [MQTT-3.1.2-29].
    #[must_use]
    pub fn request_problem_information(&self) -> bool {
        self.link.request_problem_information
    }

    /// The Session Expiry Interval in seconds; `u32::MAX` never ends.
    #[must_use]
    pub fn session_expiry_interval(&self) -> u32 {
        self.session_expiry_interval
    }

    /// Takes the Session Expiry Interval of a DISCONNECT, cut to the maximum of this connection.
    ///
    /// # Errors
    /// 0x82 when it was zero in CONNECT: it must not be set then (section 3.14.2.2.2).
    pub fn change_session_expiry_interval(&mut self, seconds: u32) -> Result<(), DecodeError> {
        let maximum = self.link.session_expiry_maximum;
        if self.session_expiry_interval == 0 && seconds != 0 && maximum != 0 {
            return Err(DecodeError::protocol("Session Expiry Interval was zero in CONNECT"));
        }
        self.session_expiry_interval = seconds.min(maximum);
        Ok(())
    }

    /// Sets the Session Expiry Interval to what it was before a CONNECT that comes to nothing.
    pub fn restore_session_expiry_interval(&mut self, seconds: u32) {
        self.session_expiry_interval = seconds;
    }

    /// When the session ends; `None` while it is connected, and if it never does.
    #[must_use]
    pub fn ends_at(&self) -> Option<Time> {
        if self.link.connected || self.session_expiry_interval == u32::MAX {
            return None;
        }
        let interval = Duration::from_secs(self.session_expiry_interval.into());
        Some(self.disconnected_at.plus(interval))
    }

    /// The topic a PUBLISH with a Topic Alias is about. `topic` is the checked topic it carries:
    /// then the alias stands for it from now on [MQTT-3.3.2-12]; or empty: then the alias says.
    ///
    /// # Errors
    /// 0x94 for an alias above our maximum [MQTT-3.3.2-9], and one that was not set.
    #[inline]
    pub fn resolve_topic_alias(
        &mut self,
        alias: NonZeroU16,
        topic: &str,
    ) -> Result<&Arc<str>, DecodeError> {
        let (aliases, maximum) = self.link.inbound_aliases();
        aliases.resolve(alias, topic, maximum)
    }

    /// Messages in flight to the client: QoS 1 not acknowledged, QoS 2 not completed.
    #[inline]
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.active.as_ref().map_or(0, |active| active.window.in_flight().into())
    }

    /// Messages in the queue.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.active.as_ref().map_or(0, |active| active.queue.len())
    }

    /// Messages in flight and in the queue.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.in_flight() + self.queued()
    }

    /// Bytes in the queue, by [`Message::size`].
    #[must_use]
    pub fn queued_bytes(&self) -> u64 {
        self.active.as_ref().map_or(0, |active| active.queue.bytes())
    }

    /// Messages that the client may not have got: queued, or sent and answered by neither PUBACK nor
    /// PUBREC. A look at all that is in flight.
    #[must_use]
    pub fn undelivered(&self) -> usize {
        let in_flight = self.active.as_ref().map_or(0, |active| active.window.unacknowledged());
        in_flight + self.queued()
    }

    /// Messages dropped in the life of this session, by cause.
    #[must_use]
    pub fn drops(&self) -> &DropCounts {
        &self.drops
    }

    /// Counts messages that the caller dropped: after [`Delivered::Full`], or QoS 0 by
    /// [`Direct`].
    pub fn count_drops(&mut self, cause: DropCause, count: u64) {
        self.drops.add(cause, u32::try_from(count).unwrap_or(u32::MAX));
    }

    #[inline]
    fn active_mut(&mut self) -> &mut Active {
        let Self { active, queued_bytes, .. } = self;
        active.get_or_insert_with(|| Active::new(queued_bytes.clone()))
    }
}
