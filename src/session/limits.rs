//! What a session may hold, and the count of what it had to drop.

use std::fmt;

/// Bounds of one session, from the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// Most QoS 1 and 2 messages in flight to the client at a time, whatever larger Receive
    /// Maximum it announces. At least 1.
    pub max_inflight: u16,
    /// Most bytes of such messages in flight at a time, by
    /// [`Message::size`](crate::mqtt::Message::size); a larger message is in flight alone.
    pub max_inflight_bytes: u32,
    /// Most messages in the queue; what is in flight does not count.
    pub max_queued_messages: u32,
    /// Most bytes in the queue, by [`Message::size`](crate::mqtt::Message::size).
    pub max_queued_bytes: u64,
    /// Whether QoS 0 messages wait for an absent client, too.
    pub queue_qos0: bool,
    /// What of the queue of a stored session is in memory; the rest is in the store only.
    pub in_memory: InMemory,
}

/// How much of a queue is in memory, if the rest can be in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InMemory {
    /// Messages.
    pub messages: u32,
    /// Bytes, by [`Message::size`](crate::mqtt::Message::size).
    pub bytes: u64,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self {
            max_inflight: 1000,
            max_inflight_bytes: 16 * 1024 * 1024,
            max_queued_messages: 1000,
            max_queued_bytes: 16 * 1024 * 1024,
            queue_qos0: false,
            in_memory: InMemory { messages: 1000, bytes: 1024 * 1024 },
        }
    }
}

/// Why a message never reached a client.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropCause {
    /// The queue was full, and the policy was to drop the newest or the oldest.
    QueueFull = 0,
    /// QoS 0 to a connection whose output does not drain.
    SlowReader = 1,
    /// The Message Expiry Interval passed before delivery began [MQTT-3.3.2-5].
    Expired = 2,
    /// Larger than the client's Maximum Packet Size [MQTT-3.1.2-24].
    PacketTooLarge = 3,
    /// QoS 0 to an absent client.
    Offline = 4,
    /// Left behind by a member of a shared group that nobody else is in.
    Orphaned = 5,
    /// The session is stored, and the store fails.
    StoreFailed = 6,
    /// The session ended, by no doing of its client, while it was queued or not acknowledged.
    SessionEnded = 7,
    /// It was to be retained, and there are as many, or as many bytes, as there may be. Its publisher was
    /// told, or else it was delivered all the same.
    NotRetained = 8,
}

impl DropCause {
    /// How many causes there are.
    pub const COUNT: usize = 9;
    /// Every cause, in the order of their values.
    pub const ALL: [Self; Self::COUNT] = [
        Self::QueueFull,
        Self::SlowReader,
        Self::Expired,
        Self::PacketTooLarge,
        Self::Offline,
        Self::Orphaned,
        Self::StoreFailed,
        Self::SessionEnded,
        Self::NotRetained,
    ];

    /// The cause's name in metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::SlowReader => "slow_reader",
            Self::Expired => "expired",
            Self::PacketTooLarge => "packet_too_large",
            Self::Offline => "offline",
            Self::Orphaned => "orphaned",
            Self::StoreFailed => "store_failed",
            Self::SessionEnded => "session_ended",
            Self::NotRetained => "not_retained",
        }
    }
}

/// Drops by cause; each count stops at `u32::MAX`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DropCounts(Option<Box<[u32; DropCause::COUNT]>>);

impl DropCounts {
    /// Counts one more.
    #[inline]
    pub fn record(&mut self, cause: DropCause) {
        self.add(cause, 1);
    }

    /// Counts so many more.
    #[inline]
    pub fn add(&mut self, cause: DropCause, more: u32) {
        // Most sessions never drop anything.
        if more > 0
            && let Some(count) = self.0.get_or_insert_default().get_mut(cause as usize)
        {
            *count = count.saturating_add(more);
        }
    }

    /// How many were dropped for `cause`.
    #[must_use]
    pub fn get(&self, cause: DropCause) -> u32 {
        self.0.as_ref().and_then(|counts| counts.get(cause as usize)).copied().unwrap_or(0)
    }

    /// How many were dropped for any cause.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().flat_map(|counts| counts.iter()).map(|&count| u64::from(count)).sum()
    }
}

/// `queue_full:3,expired:1`; causes that were not are left out.
impl fmt::Display for DropCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let causes = DropCause::ALL.into_iter().filter(|cause| self.get(*cause) > 0);
        for (place, cause) in causes.enumerate() {
            let comma = if place > 0 { "," } else { "" };
            write!(f, "{comma}{}:{}", cause.name(), self.get(cause))?;
        }
        Ok(())
    }
}
