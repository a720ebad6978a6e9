//! What each client is allotted: how much it may publish in a second, and its place among the connections
//! of its user. Whoever publishes more is not read until it may go on; nothing is dropped.

use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;

use crate::hooks::Login;
use crate::mqtt::{PacketType, frame_head};
use crate::net::ConnId;
use crate::router::SessionKey;
use crate::timer::{Time, TimerKey};

use super::Core;
use super::input::{Reader, Source, Taken, Then};
use super::settings::PublishRate;
use super::timers::Timer;
use super::user_rate::UserBuckets;

const SECOND: u64 = 1_000_000_000;
const MILLISECOND: u64 = 1_000_000;

/// Clients of a shard whose buckets are remembered when they leave. Beyond it those of no more are.
const MAX_LEFT: usize = 4096;

/// What a client is allotted, if that is limited.
#[derive(Debug)]
pub(super) struct Allotment {
    buckets: Buckets,
    /// What it shares with the other clients of its user.
    of_user: Option<Arc<UserBuckets>>,
    /// The message that it is to publish next, and has paid for.
    reserved: Option<Reserved>,
    /// Reads it again.
    timer: Option<TimerKey>,
    /// The log knows that it publishes too much.
    told: bool,
    /// Counted among the connections of this user.
    user: Option<Arc<str>>,
    /// Frames of it are handled: what they cost is known when that is done.
    pays: bool,
    /// The Client Identifier of one that has left meanwhile.
    leaves: Option<Box<str>>,
}

/// Those of a user wait one behind the other: who has to wait pays at once, for a time that nobody else has.
#[derive(Clone, Copy, Debug)]
struct Reserved {
    /// In nanoseconds.
    due: u64,
    len: usize,
}

/// What a client may go on with.
#[derive(Debug)]
struct Paid {
    /// Where it ends.
    end: usize,
    /// The length of the frame there that has to wait.
    waits: Option<usize>,
    before: Buckets,
    reserved: Option<Reserved>,
}

impl Allotment {
    /// Pays for the frames of `bytes` as far as that goes.
    fn pay(&mut self, bytes: &[u8], max_packet_size: u32, now: Time) -> Paid {
        let reserved = self.reserved;
        let due = reserved.map(|reserved| reserved.due);
        loop {
            let mut before = self.buckets;
            if let Some(user) = &self.of_user {
                user.look(&mut before);
            }
            let mut after = before;
            let (end, waits) = after.pay(bytes, max_packet_size, now, due);
            if self.of_user.as_ref().is_none_or(|user| user.take(&before, &after, now)) {
                self.buckets = after;
                if end > 0 {
                    self.reserved = None;
                }
                return Paid { end, waits, before, reserved };
            }
        }
    }

    /// What was not taken after all is not paid for: only `bytes` were.
    fn take_back(&mut self, paid: Paid, bytes: &[u8], max_packet_size: u32, now: Time) {
        let mut buckets = paid.before;
        buckets.pay(bytes, max_packet_size, now, paid.reserved.map(|reserved| reserved.due));
        if let Some(user) = &self.of_user {
            user.give_back(&self.buckets, &buckets, now);
        }
        self.buckets = buckets;
        if bytes.is_empty() {
            self.reserved = paid.reserved;
        }
    }

    /// When a client may publish its next message, of so many bytes.
    fn wait(&mut self, len: usize, now: Time) -> Time {
        let Some(user) = &self.of_user else { return self.buckets.ready_at() };
        let reserved = self.reserved.unwrap_or_else(|| {
            loop {
                let mut before = self.buckets;
                user.look(&mut before);
                let mut after = before;
                after.take(len, nanoseconds(now));
                if user.take(&before, &after, now) {
                    self.buckets = after;
                    break Reserved { due: before.ready_ns(), len };
                }
            }
        });
        self.reserved = Some(reserved);
        Time(reserved.due.div_ceil(MILLISECOND))
    }

    /// Gives back what is paid for a message that does not come.
    fn cancel(&mut self, now: Time) {
        if let (Some(reserved), Some(user)) = (self.reserved.take(), &self.of_user) {
            let mut after = self.buckets;
            user.look(&mut after);
            let before = after;
            after.take(reserved.len, nanoseconds(now));
            user.give_back(&after, &before, now);
            self.buckets.give_back_own(reserved.len);
        }
    }

    /// Gives up its timer.
    pub(super) fn take_timer(&mut self) -> Option<TimerKey> {
        self.timer.take()
    }

    /// Gives up its place among those of its user.
    pub(super) fn take_user(&mut self) -> Option<Arc<str>> {
        self.user.take()
    }
}

/// The token buckets of a client. What may be taken at once is what `burst` brings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Buckets {
    pub(super) messages: Option<Bucket>,
    pub(super) bytes: Option<Bucket>,
    burst: u64,
}

/// One bucket, kept as the time when it is full again: full buckets need no filling.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    per_second: u64,
    /// In nanoseconds.
    pub(super) full_at: u64,
    /// With the other clients of the user.
    pub(super) is_shared: bool,
}

/// A time in nanoseconds.
pub(super) fn nanoseconds(time: Time) -> u64 {
    time.0.saturating_mul(MILLISECOND)
}

impl Bucket {
    fn new(per_second: u64) -> Self {
        Self { per_second, full_at: 0, is_shared: false }
    }

    /// When there is a token in it, if nothing is taken before. Then something may be taken, however much:
    /// what is missing is waited for afterwards.
    fn ready_at(&self, burst: u64) -> u64 {
        // A burst of less than one token has to do.
        self.full_at.saturating_add(self.time_for(1).min(burst)).saturating_sub(burst)
    }

    pub(super) fn take(&mut self, count: u64, now: u64) {
        self.full_at = self.full_at.max(now).saturating_add(self.time_for(count));
    }

    /// How long it takes to fill in so many tokens.
    fn time_for(&self, count: u64) -> u64 {
        count.saturating_mul(SECOND) / self.per_second
    }
}

impl Buckets {
    pub(super) fn new(rate: &PublishRate) -> Self {
        Self {
            messages: rate.messages_per_second.map(|rate| Bucket::new(rate.into())),
            bytes: rate.bytes_per_second.map(Bucket::new),
            burst: u64::try_from(rate.burst.as_nanos()).unwrap_or(u64::MAX),
        }
    }

    fn each(&self) -> impl Iterator<Item = &Bucket> {
        self.messages.iter().chain(&self.bytes)
    }

    /// Pays for the frames of `bytes` as far as that goes. Gives where it ends, and the length of the frame
    /// there that has to wait, if one does. What is no whole frame costs nothing, and neither does the first,
    /// which may pass when it is `due`, if there is such a time.
    fn pay(
        &mut self,
        bytes: &[u8],
        max_packet_size: u32,
        now: Time,
        mut due: Option<u64>,
    ) -> (usize, Option<usize>) {
        if self.each().next().is_none() {
            return (bytes.len(), None);
        }
        let now = nanoseconds(now);
        let mut at = 0;
        loop {
            let rest = bytes.get(at..).unwrap_or_default();
            let Ok(Some(head)) = frame_head(rest, max_packet_size) else { break };
            let len = head.frame_len();
            if rest.len() < len {
                break;
            }
            if head.packet_type() == Some(PacketType::Publish) {
                let paid = due.take();
                if paid.unwrap_or_else(|| self.ready_ns()) > now {
                    return (at, Some(len));
                }
                if paid.is_none() {
                    self.take(len, now);
                }
            }
            at += len;
        }
        (bytes.len(), None)
    }

    /// Takes what a PUBLISH of so many bytes costs.
    fn take(&mut self, len: usize, now: u64) {
        if let Some(messages) = &mut self.messages {
            messages.take(1, now);
        }
        if let Some(bytes) = &mut self.bytes {
            bytes.take(len as u64, now);
        }
    }

    /// Gives those that are the client's alone back what a PUBLISH of so many bytes cost.
    fn give_back_own(&mut self, len: usize) {
        for (bucket, count) in [(&mut self.messages, 1), (&mut self.bytes, len as u64)] {
            if let Some(bucket) = bucket.as_mut().filter(|bucket| !bucket.is_shared) {
                bucket.full_at = bucket.full_at.saturating_sub(bucket.time_for(count));
            }
        }
    }

    /// When there is something in all of them.
    fn ready_at(&self) -> Time {
        Time(self.ready_ns().div_ceil(MILLISECOND))
    }

    fn ready_ns(&self) -> u64 {
        self.each().map(|bucket| bucket.ready_at(self.burst)).max().unwrap_or(0)
    }
}

/// The buckets of clients that have left, as long as they are not full: to come again fills none.
#[derive(Debug, Default)]
pub(super) struct LeftBuckets {
    /// By Client Identifier: when that of messages and that of bytes is full.
    full_at: HashMap<Box<str>, [u64; 2], foldhash::fast::RandomState>,
}

impl LeftBuckets {
    fn put(&mut self, client_id: &str, buckets: &Buckets, now: Time) {
        let now = nanoseconds(now);
        let own = |one: Option<Bucket>| one.filter(|one| !one.is_shared);
        let full_at =
            [buckets.messages, buckets.bytes].map(|one| own(one).map_or(0, |one| one.full_at));
        let is_left = |full_at: &[u64; 2]| full_at.iter().any(|at| *at > now);
        if !is_left(&full_at) {
            return;
        }
        if self.full_at.len() >= MAX_LEFT {
            self.full_at.retain(|_, full_at| is_left(full_at));
        }
        if self.full_at.len() < MAX_LEFT {
            self.full_at.insert(client_id.into(), full_at);
        }
    }

    fn take(&mut self, client_id: &str, buckets: &mut Buckets) {
        let Some([messages, bytes]) = self.full_at.remove(client_id) else { return };
        for (bucket, full_at) in [(&mut buckets.messages, messages), (&mut buckets.bytes, bytes)] {
            if let Some(bucket) = bucket.as_mut().filter(|bucket| !bucket.is_shared) {
                bucket.full_at = full_at;
            }
        }
    }
}

impl<S> Core<S> {
    /// Remembers what a client that leaves has taken.
    pub(super) fn leave_buckets(&mut self, id: ConnId, client: SessionKey) {
        let connection = self.connections.get_mut(id);
        let Some(allotment) = connection.and_then(|one| one.allotment.as_mut()) else { return };
        let Some(slot) = self.sessions.get(client) else { return };
        let client_id = slot.session.client_id();
        if allotment.pays {
            allotment.leaves = Some(client_id.into());
        } else {
            allotment.cancel(self.now);
            self.left_buckets.put(client_id, &allotment.buckets, self.now);
        }
    }

    /// Has a client that comes again go on with what it had left.
    pub(super) fn take_up_buckets(&mut self, id: ConnId, client_id: &str) {
        let connection = self.connections.get_mut(id);
        if let Some(allotment) = connection.and_then(|one| one.allotment.as_mut()) {
            self.left_buckets.take(client_id, &mut allotment.buckets);
        }
    }

    /// Allots a client what its listener and the quota of its user give; nothing of its own if nothing is
    /// limited. An error if its user has enough connections.
    pub(super) fn allot(
        &self,
        id: ConnId,
        client_id: &str,
        login: &Login,
    ) -> Result<Option<Box<Allotment>>, ()> {
        let settings = &self.settings;
        let listener = self.connections.get(id).map_or(0, |connection| connection.listener);
        let rate = settings.listeners.get(usize::from(listener)).map(|one| one.publish_rate);
        let mut rate = rate.unwrap_or_default();
        let (mut user, mut shares) = (None, [false; 2]);
        if let Some(name) = &login.user
            && let Some(quota) = settings.quotas.of(name)
        {
            let change = &quota.publish_rate;
            rate = change.over(rate);
            shares = [change.messages_per_second.is_some(), change.bytes_per_second.is_some()];
            if let Some(most) = quota.max_connections {
                let replaces = self.takes_over_own(client_id, name);
                if !self.shared.admission.admit_user(name, most, replaces) {
                    return Err(());
                }
                user = Some(name.clone());
            }
        }
        if user.is_none() && rate.is_unlimited() {
            return Ok(None);
        }
        let mut buckets = Buckets::new(&rate);
        let mut is_shared = false;
        for (bucket, shares) in [&mut buckets.messages, &mut buckets.bytes].into_iter().zip(shares)
        {
            if let Some(bucket) = bucket {
                bucket.is_shared = shares;
                is_shared |= shares;
            }
        }
        let name = login.user.as_ref().filter(|_| is_shared);
        let of_user = name.map(|name| self.shared.admission.user_rates.of(name, self.now));
        Ok(Some(Box::new(Allotment {
            buckets,
            of_user,
            reserved: None,
            timer: None,
            told: false,
            user,
            pays: false,
            leaves: None,
        })))
    }

    /// Whether a connection of the same client is counted for this user, and ends when the new one comes.
    fn takes_over_own(&self, client_id: &str, user: &str) -> bool {
        let session = self.sessions.find(client_id).and_then(|key| self.sessions.get(key));
        let old = session.and_then(|slot| self.connections.get(slot.connection?));
        let allotment = old.and_then(|old| old.allotment.as_ref());
        allotment.is_some_and(|allotment| allotment.user.as_deref() == Some(user))
    }

    /// Handles the frames of `bytes` from `at` on, as far as the client may publish them now.
    #[inline]
    pub(super) fn frames_within_rate(
        &mut self,
        reader: &mut Reader<'_>,
        bytes: &[u8],
        at: usize,
        source: Source<'_>,
    ) -> Taken {
        let connection = self.connections.get_mut(reader.id);
        match connection.and_then(|connection| connection.allotment.as_mut()) {
            None => self.frames(reader, bytes, at, source),
            Some(allotment) => {
                let rest = bytes.get(at..).unwrap_or_default();
                let paid = allotment.pay(rest, reader.max_packet_size, self.now);
                allotment.pays = true;
                self.limited_frames(reader, bytes, at, source, paid)
            }
        }
    }

    fn limited_frames(
        &mut self,
        reader: &mut Reader<'_>,
        bytes: &[u8],
        at: usize,
        source: Source<'_>,
        paid: Paid,
    ) -> Taken {
        let (end, waits) = (at + paid.end, paid.waits);
        let taken = self.frames(reader, bytes.get(..end).unwrap_or_default(), at, source);
        let connection = self.connections.get_mut(reader.id);
        let allotment = connection.and_then(|connection| connection.allotment.as_mut());
        let Some(allotment) = allotment else { return taken };
        allotment.pays = false;
        if taken.consumed < end {
            let bytes = bytes.get(at..taken.consumed).unwrap_or_default();
            allotment.take_back(paid, bytes, reader.max_packet_size, self.now);
        }
        if let Some(client_id) = allotment.leaves.take() {
            allotment.cancel(self.now);
            self.left_buckets.put(&client_id, &allotment.buckets, self.now);
        }
        let Some(len) = waits.filter(|_| taken.then == Then::Continue) else { return taken };
        self.hold_for_rate(reader.id, len);
        Taken { frame_len: waits, then: Then::Hold, ..taken }
    }

    /// Has a client that is not read any more be read again when it may publish.
    fn hold_for_rate(&mut self, id: ConnId, len: usize) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let Some(allotment) = &mut connection.allotment else { return };
        if allotment.timer.is_none() {
            self.stats.rate_holds.add(1);
            let at = allotment.wait(len, self.now);
            allotment.timer = Some(self.timers.insert(at, Timer::Rate(id)));
        }
        if !std::mem::replace(&mut allotment.told, true) {
            let client = self.sessions.get(connection.session);
            let client_id = client.map_or("", |slot| slot.session.client_id());
            let detail = "publishes more than it may: it is read no faster than that";
            self.log.offence(self.now, connection.peer, client_id, detail);
        }
    }

    /// A client may publish again.
    pub(super) fn rate_due(&mut self, id: ConnId) {
        let connection = self.connections.get_mut(id);
        if let Some(allotment) = connection.and_then(|connection| connection.allotment.as_mut()) {
            allotment.timer = None;
            self.resumed.push(id);
        }
    }
}

impl PublishRate {
    /// Whether it limits nothing.
    fn is_unlimited(&self) -> bool {
        self.messages_per_second.is_none() && self.bytes_per_second.is_none()
    }
}

impl Default for PublishRate {
    fn default() -> Self {
        Self { messages_per_second: None, bytes_per_second: None, burst: Duration::from_secs(1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: u32 = 1 << 20;

    fn buckets(messages: Option<u32>, bytes: Option<u64>) -> Buckets {
        let burst = Duration::from_secs(1);
        Buckets::new(&PublishRate { messages_per_second: messages, bytes_per_second: bytes, burst })
    }

    /// So many PUBLISH packets of 10 bytes.
    fn publishes(count: usize) -> Vec<u8> {
        b"\x30\x08\x00\x01t12345".repeat(count)
    }

    #[test]
    fn a_full_bucket_gives_its_burst_and_then_its_rate() {
        let mut buckets = buckets(Some(10), None);
        let bytes = publishes(30);
        assert_eq!(buckets.pay(&bytes, MAX, Time(5_000), None), (100, Some(10)));
        assert_eq!(buckets.pay(&bytes, MAX, Time(5_000), None), (0, Some(10)));
        let ready = buckets.ready_at();
        assert_eq!(ready, Time(5_100));
        assert_eq!(buckets.pay(&bytes, MAX, Time(5_099), None), (0, Some(10)));
        assert_eq!(buckets.pay(&bytes, MAX, ready, None), (10, Some(10)));
        assert_eq!(buckets.ready_at(), Time(5_200));
        assert_eq!(
            buckets.pay(&bytes, MAX, Time(60_000), None),
            (100, Some(10)),
            "no more than a burst"
        );
    }

    #[test]
    fn bytes_are_paid_for_afterwards() {
        let mut buckets = buckets(None, Some(25));
        let bytes = publishes(5);
        assert_eq!(buckets.pay(&bytes, MAX, Time(1_000), None), (30, Some(10)));
        let ready = buckets.ready_at();
        assert_eq!(
            ready,
            Time(1_240),
            "5 bytes are missing, and one has to be there, of 25 a second"
        );
        assert_eq!(buckets.pay(&bytes, MAX, ready, None), (10, Some(10)));
    }

    #[test]
    fn a_burst_of_less_than_a_token_lets_one_pass() {
        let burst = Duration::from_millis(1);
        let rate = PublishRate { messages_per_second: Some(2), bytes_per_second: None, burst };
        let mut buckets = Buckets::new(&rate);
        assert_eq!(buckets.pay(&publishes(2), MAX, Time(7), None), (10, Some(10)));
        assert_eq!(buckets.ready_at(), Time(507));
    }

    #[test]
    fn so_many_buckets_are_remembered() {
        let mut left = LeftBuckets::default();
        let mut taken = buckets(Some(1), None);
        taken.pay(&publishes(1), MAX, Time(0), None);
        for n in 0..=MAX_LEFT {
            left.put(&n.to_string(), &taken, Time(0));
        }
        assert_eq!(left.full_at.len(), MAX_LEFT);
        left.put("full", &taken, Time(1_000));
        assert_eq!(left.full_at.len(), MAX_LEFT, "what is full is not remembered");
        taken.pay(&publishes(1), MAX, Time(1_000), None);
        left.put("later", &taken, Time(1_000));
        assert_eq!(left.full_at.len(), 1, "the others are full by now");
    }

    #[test]
    fn only_whole_publishes_cost() {
        let mut buckets = buckets(Some(1), Some(1));
        let mut bytes = b"\xc0\x00".repeat(9);
        assert_eq!(buckets.pay(&bytes, MAX, Time(0), None), (18, None));
        bytes.extend(&publishes(1)[..9]);
        assert_eq!(buckets.pay(&bytes, MAX, Time(0), None), (27, None));
        bytes.extend(b"5");
        assert_eq!(buckets.pay(&bytes, MAX, Time(0), None), (28, None));
        assert_eq!(buckets.pay(&bytes, MAX, Time(0), None), (18, Some(10)));
    }
}
