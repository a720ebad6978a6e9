//! What belongs to one connection of a session, and is replaced at each CONNECT.

use std::num::NonZeroU16;

use super::alias::{AliasUse, InboundAliases, OutboundAliases};
use super::limits::SessionLimits;
use super::window::WindowSize;
use crate::mqtt::Version;

/// What CONNECT and CONNACK agreed upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkParameters {
    /// The protocol version of this connection.
    pub version: Version,
    /// The client's Receive Maximum; 65,535 when it gave none, and in 3.x.
    pub receive_maximum: u16,
    /// The client's Maximum Packet Size in bytes; `u32::MAX` when it gave none, and in 3.x.
    pub maximum_packet_size: u32,
    /// How many aliases the server may assign: at most the client's Topic Alias Maximum; 0 in 3.x.
    /// The session keeps a copy of the topic of each, so the caller bounds it by configuration.
    pub topic_alias_maximum: u16,
    /// Whether the client wants reason strings and user properties in acknowledgements.
    pub request_problem_information: bool,
    /// Session Expiry Interval in force, in seconds; `u32::MAX` never ends. For 3.x: 0 with Clean
    /// Session, else what the configuration says.
    pub session_expiry_interval: u32,
    /// The largest Session Expiry Interval a DISCONNECT may ask for.
    pub session_expiry_maximum: u32,
    /// Our Receive Maximum as announced: most unacknowledged QoS 1 and 2 messages the client may
    /// have under way. For 3.x: beyond how many the connection is closed.
    pub our_receive_maximum: u16,
    /// Our Topic Alias Maximum as announced; 0 in 3.x.
    pub our_topic_alias_maximum: u16,
    /// Whether a 3.x client is told success for a message that there was no room for, instead of
    /// being closed. A v5 client is told the truth.
    pub acknowledge_unkept: bool,
}

impl LinkParameters {
    /// What a client of `version` gets that asks for nothing special, and cleans its session.
    #[must_use]
    pub const fn new(version: Version) -> Self {
        Self {
            version,
            receive_maximum: u16::MAX,
            maximum_packet_size: u32::MAX,
            topic_alias_maximum: 0,
            request_problem_information: true,
            session_expiry_interval: 0,
            session_expiry_maximum: u32::MAX,
            our_receive_maximum: 1000,
            our_topic_alias_maximum: 0,
            acknowledge_unkept: false,
        }
    }
}

/// The state of one connection.
#[derive(Debug)]
pub(super) struct Link {
    inbound_aliases: Option<Box<InboundAliases>>,
    outbound_aliases: Option<Box<OutboundAliases>>,
    pub(super) maximum_packet_size: u32,
    pub(super) session_expiry_maximum: u32,
    /// Most messages in flight to the client.
    pub(super) window: WindowSize,
    pub(super) our_receive_maximum: u16,
    /// Messages the client has under way, against our Receive Maximum. It can be more than 16 bits say:
    /// what is said again on a new connection is charged, too.
    pub(super) charged: u32,
    topic_alias_maximum: u16,
    our_topic_alias_maximum: u16,
    pub(super) version: Version,
    pub(super) acknowledge_unkept: bool,
    /// It may have to be closed for something in the gate, as a 3.x client's: [that has to be looked
    /// at](super::Session::refuses_perhaps).
    pub(super) doubtful: bool,
    pub(super) connected: bool,
    /// Whether the session was resumed on this connection: nothing is sent before.
    pub(super) live: bool,
    pub(super) request_problem_information: bool,
}

impl Link {
    /// No connection, after one of this version.
    pub(super) fn none(version: Version, acknowledge_unkept: bool) -> Self {
        let parameters = LinkParameters { acknowledge_unkept, ..LinkParameters::new(version) };
        let limits = SessionLimits::default();
        Self { connected: false, ..Self::new(&parameters, &limits) }
    }

    pub(super) fn new(p: &LinkParameters, limits: &SessionLimits) -> Self {
        Self {
            inbound_aliases: None,
            outbound_aliases: None,
            maximum_packet_size: p.maximum_packet_size,
            session_expiry_maximum: p.session_expiry_maximum,
            // 65,535 would leave no identifier free to be given.
            window: WindowSize {
                messages: p.receive_maximum.min(limits.max_inflight).clamp(1, u16::MAX - 1),
                bytes: limits.max_inflight_bytes,
            },
            our_receive_maximum: p.our_receive_maximum,
            charged: 0,
            topic_alias_maximum: p.topic_alias_maximum,
            our_topic_alias_maximum: p.our_topic_alias_maximum,
            version: p.version,
            acknowledge_unkept: p.acknowledge_unkept,
            doubtful: false,
            connected: true,
            live: false,
            request_problem_information: p.request_problem_information,
        }
    }

    /// Whether every PUBLISH goes out as it is: no alias to set, no size to mind.
    #[inline]
    pub(super) fn is_plain(&self) -> bool {
        self.topic_alias_maximum == 0 && self.maximum_packet_size == u32::MAX
    }

    pub(super) fn plan_alias(&self, topic: &[u8]) -> AliasUse {
        if self.topic_alias_maximum == 0 {
            return AliasUse::None;
        }
        match &self.outbound_aliases {
            Some(aliases) => aliases.plan(topic),
            None => AliasUse::First(NonZeroU16::MIN),
        }
    }

    pub(super) fn assign_alias(&mut self, topic: &[u8], alias: NonZeroU16) {
        let maximum = self.topic_alias_maximum;
        self.outbound_aliases
            .get_or_insert_with(|| Box::new(OutboundAliases::new(maximum)))
            .assign(topic, alias);
    }

    pub(super) fn inbound_aliases(&mut self) -> (&mut InboundAliases, u16) {
        (self.inbound_aliases.get_or_insert_default(), self.our_topic_alias_maximum)
    }
}
