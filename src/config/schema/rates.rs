//! Limits that hold for some clients: those of a listener, those of a user.

use std::time::Duration;

/// Limits of a listener (`[listener.limits]`) in place of those for all; `None`: as for all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ListenerLimits {
    /// In place of [`max_packet_size`](super::Limits::max_packet_size), which it must not be above.
    pub max_packet_size: Option<u32>,
    /// In place of [`max_keep_alive`](super::Mqtt::max_keep_alive).
    pub max_keep_alive: Option<Option<Duration>>,
    /// New connections a second on this listener, over all shards (default
    /// unlimited, but for [`connections_per_second`](super::Limits::connections_per_second)). Those beyond
    /// wait in the backlog of the listener.
    pub connections_per_second: Option<u32>,
    /// How much one client may publish.
    pub publish: PublishLimits,
}

/// What the clients of a user get (`[[quota]]`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Quota {
    /// The users, each of whom gets all of it; `*` is every user that no quota names. Required.
    pub users: Vec<String>,
    /// Connections of one user, over all shards and listeners (default unlimited). One more is refused with
    /// Quota exceeded (0x97, in 3.x return code 3), unless it takes the place of another of the user's.
    pub max_connections: Option<u32>,
    /// How much all clients of the user together may publish, over all shards, in place of what the listener
    /// says of each; each that has to wait has its turn.
    pub publish: PublishLimits,
}

/// How much one client may publish, in place of the limits of the same names for all clients; `None`: as for
/// all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PublishLimits {
    /// In place of [`publish_messages_per_second`](super::Limits::publish_messages_per_second).
    pub messages_per_second: Option<Option<u32>>,
    /// In place of [`publish_bytes_per_second`](super::Limits::publish_bytes_per_second).
    pub bytes_per_second: Option<Option<u64>>,
    /// In place of [`publish_burst`](super::Limits::publish_burst).
    pub burst: Option<Duration>,
}
