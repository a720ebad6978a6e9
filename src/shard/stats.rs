//! What a shard counts. One writer each, any number of readers.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::session::DropCause;

/// A number that one shard writes and anyone reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds without a locked instruction: only the owning shard writes.
    #[inline]
    pub(super) fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Sets a gauge.
    #[inline]
    pub(super) fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The value now.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters and gauges of one shard.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ShardStats {
    /// Bytes read from sockets.
    pub bytes_received: Counter,
    /// Bytes the kernel took.
    pub bytes_sent: Counter,
    /// Control packets received.
    pub packets_received: Counter,
    /// Control packets sent.
    pub packets_sent: Counter,
    /// PUBLISH packets received.
    pub publishes_received: Counter,
    /// PUBLISH packets sent, retransmissions included.
    pub publishes_sent: Counter,
    /// Connections accepted.
    pub accepted: Counter,
    /// Clients let in.
    pub connects: Counter,
    /// Connections refused before CONNECT (limits).
    pub refused: Counter,
    /// Connections closed for an error of the client.
    pub client_errors: Counter,
    /// Connections refused because the broker was overloaded.
    pub overload_refusals: Counter,
    /// Times that clients were not read because they had published enough.
    pub rate_holds: Counter,
    /// Sessions with a connection now.
    pub connected: Counter,
    /// Sessions now.
    pub sessions: Counter,
    /// Sessions that ended by expiry.
    pub expired_sessions: Counter,
    /// Subscriptions refused because there were enough.
    pub refused_subscriptions: Counter,
    /// Subscriptions now.
    pub subscriptions: Counter,
    /// Retained messages in this shard's copy.
    pub retained: Counter,
    /// Bytes of retained messages in this shard's copy.
    pub retained_bytes: Counter,
    /// Turns of the loop.
    pub turns: Counter,
    /// Messages queued or in flight. Counted over 16,384 sessions a second, so not up to date with more.
    pub stored_messages: Counter,
    /// Messages not delivered, by [`DropCause`].
    pub dropped: [Counter; DropCause::COUNT],
}
