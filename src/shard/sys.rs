//! `$SYS` topics, the gauges behind them, and the log about clients.

use std::net::SocketAddr;

use tracing::field::display;
use tracing::{info, warn};

use crate::mqtt::{Message, QoS};
use crate::session::{DropCause, DropCounts, Session};
use crate::timer::Time;

use super::Core;
use super::remote::Publisher;
use super::sessions::Slot;
use super::stats::{Counter, ShardStats};
use super::timers::Timer;

/// The target of log lines about clients: errors of theirs at info, bounded; coming and going at
/// debug.
pub(super) const CLIENT_LOG: &str = "sluice::client";

/// Characters of a user name in the log.
const MAX_USER_CHARS: usize = 64;

/// Characters of what a client is refused, in the log.
const MAX_TOPIC_CHARS: usize = 256;

/// Bounds what clients can make a shard write to its log.
#[derive(Debug)]
pub(super) struct LogLimit {
    per_second: u32,
    second: u64,
    lines: u32,
    suppressed: u64,
}

impl LogLimit {
    pub(super) fn new(per_second: u32) -> Self {
        Self { per_second, second: 0, lines: 0, suppressed: 0 }
    }

    /// Logs why a client was refused or closed.
    pub(super) fn client(&mut self, now: Time, peer: SocketAddr, client_id: &str, detail: &str) {
        self.closed(now, peer, client_id, detail, None);
    }

    /// Logs what a client that stays connected did and should not have done.
    pub(super) fn offence(&mut self, now: Time, peer: SocketAddr, client_id: &str, detail: &str) {
        if self.has_room(now) {
            info!(target: CLIENT_LOG, %peer, client_id, "{detail}");
        }
    }

    /// Logs what a client that stays connected is refused: its message on a topic, or its subscription.
    pub(super) fn refused(
        &mut self,
        now: Time,
        peer: SocketAddr,
        slot: &Slot,
        topic: &str,
        detail: &str,
    ) {
        if self.has_room(now) {
            let (client_id, user) = (slot.session.client_id(), slot.user().map(shown_user));
            // Nobody has checked how long a filter is.
            let topic: String = topic.chars().take(MAX_TOPIC_CHARS).collect();
            info!(target: CLIENT_LOG, %peer, client_id, user, topic, "{detail}");
        }
    }

    /// Logs why somebody was not let in.
    pub(super) fn login(
        &mut self,
        now: Time,
        peer: SocketAddr,
        client_id: &str,
        user: Option<&str>,
        cause: &str,
    ) {
        if self.has_room(now) {
            let user = user.map(shown_user);
            info!(target: CLIENT_LOG, %peer, client_id, user, "refused: {cause}");
        }
    }

    /// Logs why the connection of a client was closed, and what its session has dropped, if anything.
    pub(super) fn closed(
        &mut self,
        now: Time,
        peer: SocketAddr,
        client_id: &str,
        detail: &str,
        dropped: Option<&DropCounts>,
    ) {
        if self.has_room(now) {
            let dropped = dropped.map(display);
            info!(target: CLIENT_LOG, %peer, client_id, dropped, "closed: {detail}");
        }
    }

    /// Logs that a session misses messages, though their publishers may be told that they are kept.
    /// With the topic of the first of them, if that is known.
    pub(super) fn queue_full(&mut self, now: Time, client_id: &str, topic: Option<&str>) {
        if self.has_room(now) {
            warn!(target: CLIENT_LOG, client_id, topic, "its queue is full, and it misses messages");
        }
    }

    /// Logs that a session has ended, and what was dropped in its life.
    pub(super) fn session_ended(&mut self, now: Time, session: &Session) {
        if self.has_room(now) {
            let (client_id, dropped) = (session.client_id(), session.drops());
            info!(target: CLIENT_LOG, client_id, %dropped, "its session has ended");
        }
    }

    /// Begins anew if a second is over. To be called now and then, or what was left out in the last one
    /// with too many lines would not be told.
    pub(super) fn follow_time(&mut self, now: Time) {
        let second = now.0 / 1000;
        if second != self.second {
            self.tell_suppressed();
            *self = Self { second, ..Self::new(self.per_second) };
        }
    }

    /// Tells how many lines were left out, if any.
    pub(super) fn tell_suppressed(&mut self) {
        let suppressed = std::mem::take(&mut self.suppressed);
        if suppressed > 0 {
            warn!(target: CLIENT_LOG, suppressed, "more lines about clients were left out");
        }
    }

    /// Whether there may be another line in this second; it counts.
    fn has_room(&mut self, now: Time) -> bool {
        self.follow_time(now);
        if self.lines >= self.per_second {
            self.suppressed += 1;
            return false;
        }
        self.lines += 1;
        true
    }
}

/// A user name as the log has it: nobody has checked how long it is.
pub(super) fn shown_user(user: &str) -> String {
    user.chars().take(MAX_USER_CHARS).collect()
}

/// Rates over 1, 5 and 15 minutes, as Mosquitto's `$SYS/broker/load` has them.
#[derive(Debug, Default)]
pub(super) struct Sys {
    started: Time,
    last: Time,
    most_connected: u64,
    previous: [u64; LOADS.len()],
    loads: [[f64; 3]; LOADS.len()],
    stored: Stored,
    /// What was last told of the store.
    store_fails: bool,
}

/// The count of stored messages, which goes over the sessions bit by bit.
#[derive(Clone, Copy, Debug, Default)]
struct Stored {
    next: usize,
    up_to_next: u64,
}

/// Sessions looked at for it in one sweep: other work has to wait for that long.
const SESSIONS_PER_SWEEP: usize = 16 * 1024;

type Value = fn(&ShardStats) -> u64;

/// Name in `$SYS/broker/load/NAME/1min`, and what it counts.
const LOADS: [(&str, Value); 9] = [
    ("messages/received", |s| s.packets_received.value()),
    ("messages/sent", |s| s.packets_sent.value()),
    ("publish/received", |s| s.publishes_received.value()),
    ("publish/sent", |s| s.publishes_sent.value()),
    ("publish/dropped", |s| s.dropped.iter().map(Counter::value).sum()),
    ("bytes/received", |s| s.bytes_received.value()),
    ("bytes/sent", |s| s.bytes_sent.value()),
    ("sockets", |s| s.accepted.value()),
    ("connections", |s| s.connects.value()),
];

/// Topic below `$SYS/broker/`, and what it says.
const VALUES: [(&str, Value); 23] = [
    ("bytes/received", |s| s.bytes_received.value()),
    ("bytes/sent", |s| s.bytes_sent.value()),
    ("messages/received", |s| s.packets_received.value()),
    ("messages/sent", |s| s.packets_sent.value()),
    ("publish/messages/received", |s| s.publishes_received.value()),
    ("publish/messages/sent", |s| s.publishes_sent.value()),
    ("publish/messages/dropped", |s| s.dropped.iter().map(Counter::value).sum()),
    ("clients/connected", |s| s.connected.value()),
    ("clients/active", |s| s.connected.value()),
    ("clients/disconnected", |s| s.sessions.value().saturating_sub(s.connected.value())),
    ("clients/inactive", |s| s.sessions.value().saturating_sub(s.connected.value())),
    ("clients/total", |s| s.sessions.value()),
    ("clients/expired", |s| s.expired_sessions.value()),
    ("connections/accepted", |s| s.accepted.value()),
    ("connections/refused", |s| s.refused.value()),
    ("connections/refused/overload", |s| s.overload_refusals.value()),
    ("clients/errors", |s| s.client_errors.value()),
    ("clients/held/rate", |s| s.rate_holds.value()),
    ("subscriptions/refused", |s| s.refused_subscriptions.value()),
    ("subscriptions/count", |s| s.subscriptions.value()),
    ("messages/stored", |s| s.stored_messages.value()),
    ("store/messages/count", |s| s.stored_messages.value()),
    ("shards/turns", |s| s.turns.value()),
];

impl<S> Core<S> {
    /// Begins the `$SYS` topics, on one shard of all.
    pub(super) fn start_sys(&mut self) {
        self.sys.started = self.now;
        self.sys.last = self.now;
        if self.id == 0 && !self.settings.sys_interval.is_zero() {
            self.publish_sys();
        }
    }

    /// Brings the gauges up to date.
    pub(super) fn update_gauges(&mut self) {
        let stats = &self.stats;
        stats.connected.set(self.connected);
        stats.sessions.set(self.sessions.len() as u64);
        stats.subscriptions.set(self.router.subscription_count() as u64);
        stats.retained.set(self.router.retained_count() as u64);
        stats.retained_bytes.set(self.router.retained_bytes() as u64);
        stats.turns.set(self.turn);
    }

    /// Counts what is stored in some more sessions; when it was in all, tells.
    pub(super) fn count_stored(&mut self) {
        let Stored { next, up_to_next } = self.sys.stored;
        let (more, next) = self.sessions.stored_messages(next, SESSIONS_PER_SWEEP);
        self.sys.stored = match next {
            Some(next) => Stored { next, up_to_next: up_to_next + more },
            None => {
                self.stats.stored_messages.set(up_to_next + more);
                Stored::default()
            }
        };
    }

    /// Publishes every `$SYS` topic, and arms the next time.
    pub(super) fn publish_sys(&mut self) {
        self.update_gauges();
        let shared = self.shared.clone();
        let sum = |value: Value| shared.stats.iter().map(|stats| value(stats)).sum::<u64>();
        let version = concat!("sluice version ", env!("CARGO_PKG_VERSION"));
        self.publish_sys_value("version", version);
        let uptime = self.now.since(self.sys.started).as_secs();
        self.publish_sys_value("uptime", &format!("{uptime} seconds"));
        self.publish_sys_value("shards/count", &self.shards.to_string());
        // Every shard has a copy of what is retained: one is counted.
        let retained = self.stats.retained.value();
        self.publish_sys_value("retained messages/count", &retained.to_string());
        self.sys.most_connected = self.sys.most_connected.max(sum(|s| s.connected.value()));
        let most_connected = self.sys.most_connected.to_string();
        self.publish_sys_value("clients/maximum", &most_connected);
        for (name, value) in VALUES {
            self.publish_sys_value(name, &sum(value).to_string());
        }
        for cause in DropCause::ALL {
            let count = sum_dropped(&shared.stats, cause);
            let name = format!("publish/messages/dropped/{}", cause.name());
            self.publish_sys_value(&name, &count.to_string());
        }
        self.publish_store();
        self.publish_loads(sum);
        self.timers.insert(self.now.plus(self.settings.sys_interval), Timer::Sys);
    }

    /// Tells at once when the store begins to fail, and when it works again.
    #[inline]
    pub(super) fn follow_store(&mut self) {
        let is_told = self.id == 0 && !self.settings.sys_interval.is_zero();
        if is_told && self.store_fails() != self.sys.store_fails {
            self.publish_store();
        }
    }

    fn publish_store(&mut self) {
        self.sys.store_fails = self.store_fails();
        let text = if self.sys.store_fails { "1" } else { "0" };
        self.publish_sys_value("store/failing", text);
    }

    fn publish_loads(&mut self, sum: impl Fn(Value) -> u64) {
        let elapsed = self.now.since(self.sys.last).as_secs_f64();
        self.sys.last = self.now;
        for (index, (name, value)) in LOADS.into_iter().enumerate() {
            let total = sum(value);
            let increase = total.saturating_sub(self.sys.previous[index]);
            self.sys.previous[index] = total;
            for (place, minutes) in [1.0, 5.0, 15.0].into_iter().enumerate() {
                let load = &mut self.sys.loads[index][place];
                if elapsed > 0.0 {
                    let per_minute = increase as f64 / elapsed * 60.0;
                    let keep = (-elapsed / (minutes * 60.0)).exp();
                    *load = per_minute + keep * (*load - per_minute);
                }
                let text = format!("{load:.2}");
                self.publish_sys_value(&format!("load/{name}/{minutes}min"), &text);
            }
        }
    }

    fn publish_sys_value(&mut self, name: &str, text: &str) {
        let topic = format!("$SYS/broker/{name}");
        let (qos, retain) = (QoS::AtMostOnce, true);
        let message = Message::new(&topic, qos, retain, text.as_bytes(), &[], None, self.now);
        self.publish_message(&message, Publisher::NOBODY);
    }
}

fn sum_dropped(stats: &[std::sync::Arc<ShardStats>], cause: DropCause) -> u64 {
    stats.iter().map(|stats| stats.dropped[cause as usize].value()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_bounded_by_the_second() {
        let mut log = LogLimit::new(2);
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let mut suppressed = |now| {
            log.client(Time(now), peer, "a", "what it did");
            log.suppressed
        };
        assert_eq!([1000, 1001, 1500, 1999].map(&mut suppressed), [0, 0, 1, 2]);
        assert_eq!(suppressed(2000), 0, "a new second tells how many, and begins anew");
        assert_eq!([2001, 2002].map(suppressed), [0, 1]);
        log.follow_time(Time(2999));
        assert_eq!(log.suppressed, 1, "its second is not over");
        log.follow_time(Time(3000));
        assert_eq!(log.suppressed, 0, "it was told without another line");
    }
}
