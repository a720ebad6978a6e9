//! Mailboxes: the only way in which shards talk to each other.
//!
//! A shard collects what it has for each other shard during a turn and posts it as one batch. A lane (one
//! ordered pair of shards) is bounded in bytes: when the receiver is behind, the sender keeps the batch and
//! does not read from the publishers that would add to it. The receiver never waits for a lane to take
//! its mail, so two full lanes cannot block each other.
//!
//! Public for the benchmarks, and no interface: it changes as the shards need it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

use crossbeam_channel::{Receiver, Sender};

use crate::net::Wake;
use crate::session::STORE;
use crate::timer::Time;

/// The most shards of a broker: one bit each in a mask, and one bit is left for the store.
pub const MAX_SHARDS: u8 = 63;

/// The bit of the store among the lanes: no shard has it.
pub const STORE_LANE: u64 = 1 << STORE;
const _: () = assert!(MAX_SHARDS as u32 == STORE);

/// What one turn of a shard has for another.
#[derive(Debug)]
pub struct Batch<T> {
    /// The shard it comes from.
    pub from: u8,
    /// The sender's turn, for the confirmation.
    pub turn: u64,
    /// When that turn began.
    pub sent_at: Time,
    /// Whether the sender holds something back until the receiver has confirmed this turn.
    pub wants_confirmation: bool,
    /// What it brings, in the order of [`Mailbox::push`].
    pub items: Vec<T>,
    /// Frames that items refer to.
    pub bytes: Vec<u8>,
    weight: usize,
}

impl<T> Batch<T> {
    /// Bytes it is accounted with.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.weight
    }

    fn new(from: u8) -> Self {
        Self {
            from,
            turn: 0,
            sent_at: Time(0),
            wants_confirmation: false,
            items: Vec::new(),
            bytes: Vec::new(),
            weight: 0,
        }
    }
}

#[derive(Debug, Default)]
struct LaneState {
    /// Bytes posted and not yet taken in by the receiver.
    bytes: AtomicUsize,
    /// The sender keeps a batch and wants to be woken when there is room.
    sender_waits: AtomicBool,
}

/// Wakes a shard if it sleeps.
pub struct Bell {
    asleep: AtomicBool,
    waker: Box<dyn Wake>,
}

impl std::fmt::Debug for Bell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bell").field("asleep", &self.asleep).finish_non_exhaustive()
    }
}

impl Bell {
    /// The bell of the shard that `waker` wakes.
    #[must_use]
    pub fn new(waker: impl Wake) -> Arc<Self> {
        Arc::new(Self { asleep: AtomicBool::new(false), waker: Box::new(waker) })
    }

    /// Wakes the shard unless it is awake: then it looks at its mail before it sleeps.
    pub fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::SeqCst) {
            self.waker.wake();
        }
    }
}

#[derive(Debug)]
struct Lane<T> {
    sender: Sender<Batch<T>>,
    state: Arc<LaneState>,
    bell: Arc<Bell>,
    /// What this turn, and earlier ones if the lane was full, collected.
    outgoing: Batch<T>,
}

/// One shard's end of every lane.
#[derive(Debug)]
pub struct Mailbox<T> {
    shard: u8,
    receiver: Receiver<Batch<T>>,
    /// By shard; `None` for this one.
    lanes: Vec<Option<Lane<T>>>,
    /// By shard: the lanes that end here.
    incoming: Vec<(Arc<LaneState>, Arc<Bell>)>,
    bell: Arc<Bell>,
    max_bytes: usize,
    /// Lanes that have something to post.
    dirty: u64,
    /// Lanes that hold a batch that the receiver has no room for, or that have collected as much as
    /// a lane may hold.
    full: u64,
}

/// Makes the mailboxes of shards that wake by `bells`; each lane holds about `max_bytes` at most.
///
/// # Panics
/// Of more than [`MAX_SHARDS`].
#[must_use]
pub fn mailboxes<T>(bells: &[Arc<Bell>], max_bytes: usize) -> Vec<Mailbox<T>> {
    let count = bells.len();
    assert!(count <= usize::from(MAX_SHARDS), "at most {MAX_SHARDS} shards");
    let (senders, receivers): (Vec<_>, Vec<_>) =
        (0..count).map(|_| crossbeam_channel::unbounded()).unzip();
    let states: Vec<Vec<Arc<LaneState>>> =
        (0..count).map(|_| (0..count).map(|_| Arc::default()).collect()).collect();
    receivers
        .into_iter()
        .enumerate()
        .map(|(here, receiver)| Mailbox {
            shard: id(here),
            receiver,
            lanes: (0..count)
                .map(|to| {
                    (to != here).then(|| Lane {
                        sender: senders[to].clone(),
                        state: states[here][to].clone(),
                        bell: bells[to].clone(),
                        outgoing: Batch::new(id(here)),
                    })
                })
                .collect(),
            incoming: (0..count)
                .map(|from| (states[from][here].clone(), bells[from].clone()))
                .collect(),
            bell: bells[here].clone(),
            max_bytes,
            dirty: 0,
            full: 0,
        })
        .collect()
}

#[expect(clippy::cast_possible_truncation, reason = "at most MAX_SHARDS")]
fn id(index: usize) -> u8 {
    index as u8
}

impl<T> Mailbox<T> {
    /// What wakes this shard.
    #[must_use]
    pub fn bell(&self) -> Arc<Bell> {
        self.bell.clone()
    }

    /// A bit for every other shard.
    #[must_use]
    pub fn others(&self) -> u64 {
        ((1u64 << self.lanes.len()) - 1) & !(1 << self.shard)
    }

    /// Counts the store among the full lanes, or not any more.
    pub fn set_store_full(&mut self, full: bool) {
        self.full = self.full & !STORE_LANE | if full { STORE_LANE } else { 0 };
    }

    /// Whether the store counts among the full lanes.
    #[must_use]
    pub fn is_store_full(&self) -> bool {
        self.full & STORE_LANE != 0
    }

    /// The lanes that cannot take more now: a publisher that would add to them is not read.
    #[inline]
    #[must_use]
    pub fn full(&self) -> u64 {
        self.full
    }

    /// Adds an item for `to`, accounted with `weight` bytes. Nothing is ever refused here: see [`Self::full`].
    #[inline]
    pub fn push(&mut self, to: u8, weight: usize, item: T) {
        let Some(Some(lane)) = self.lanes.get_mut(to as usize) else {
            debug_assert!(false, "no lane to shard {to}");
            return;
        };
        lane.outgoing.items.push(item);
        lane.outgoing.weight += weight + size_of::<T>();
        self.dirty |= 1 << to;
        if lane.outgoing.weight >= self.max_bytes {
            self.full |= 1 << to;
        }
    }

    /// Adds frames for `to`; the item gets their range in [`Batch::bytes`].
    #[inline]
    pub fn push_bytes(&mut self, to: u8, bytes: &[u8], item: impl FnOnce(usize, usize) -> T) {
        let Some(Some(lane)) = self.lanes.get_mut(to as usize) else {
            debug_assert!(false, "no lane to shard {to}");
            return;
        };
        let start = lane.outgoing.bytes.len();
        lane.outgoing.bytes.extend_from_slice(bytes);
        let item = item(start, start + bytes.len());
        self.push(to, bytes.len(), item);
    }

    /// Asks each shard in `mask` to confirm what this turn posts to it.
    #[inline]
    pub fn ask_confirmation(&mut self, mut mask: u64) {
        while mask != 0 {
            let to = mask.trailing_zeros() as usize;
            mask &= mask - 1;
            if let Some(Some(lane)) = self.lanes.get_mut(to) {
                lane.outgoing.wants_confirmation = true;
                self.dirty |= 1 << to;
            }
        }
    }

    /// Posts what has been collected, as far as there is room. `turn` is what confirmations will name, `now`
    /// when it began.
    pub fn post(&mut self, turn: u64, now: Time) {
        let mut dirty = std::mem::take(&mut self.dirty) | self.full;
        while dirty != 0 {
            let to = dirty.trailing_zeros() as usize;
            dirty &= dirty - 1;
            self.post_to(to, turn, now);
        }
    }

    fn post_to(&mut self, to: usize, turn: u64, now: Time) {
        let (shard, max_bytes) = (self.shard, self.max_bytes);
        let Some(Some(lane)) = self.lanes.get_mut(to) else { return };
        lane.outgoing.turn = turn;
        lane.outgoing.sent_at = now;
        if lane.state.bytes.load(Ordering::Acquire) >= max_bytes {
            lane.state.sender_waits.store(true, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            if lane.state.bytes.load(Ordering::Acquire) >= max_bytes {
                self.full |= 1 << to;
                return;
            }
        }
        self.full &= !(1 << to);
        let batch = std::mem::replace(&mut lane.outgoing, Batch::new(shard));
        lane.state.bytes.fetch_add(batch.weight, Ordering::AcqRel);
        // The receiver's shard outlives the lanes except while the broker stops: then nobody reads it.
        let _ = lane.sender.send(batch);
        lane.bell.ring();
    }

    /// The next batch, if one is there.
    pub fn take(&mut self) -> Option<Batch<T>> {
        self.receiver.try_recv().ok()
    }

    /// Gives the batch's room back to its sender.
    pub fn taken(&mut self, batch: &Batch<T>) {
        let Some((state, bell)) = self.incoming.get(batch.from as usize) else { return };
        let before = state.bytes.fetch_sub(batch.weight, Ordering::AcqRel);
        fence(Ordering::SeqCst);
        if before - batch.weight < self.max_bytes
            && state.sender_waits.swap(false, Ordering::SeqCst)
        {
            bell.ring();
        }
    }

    /// Prepares to sleep: false if there is mail, and no sleep must follow.
    #[must_use]
    pub fn may_sleep(&self) -> bool {
        self.bell.asleep.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if self.receiver.is_empty() {
            return true;
        }
        self.bell.asleep.store(false, Ordering::SeqCst);
        false
    }

    /// Says that the shard is awake: posts to it need no wake-up until it sleeps again.
    pub fn awake(&self) {
        self.bell.asleep.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Count(Arc<AtomicUsize>);

    impl Wake for Count {
        fn wake(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn pair(max_bytes: usize) -> (Mailbox<u32>, Mailbox<u32>, [Count; 2]) {
        let counts = [Count::default(), Count::default()];
        let bells: Vec<_> = counts.iter().map(|count| Bell::new(count.clone())).collect();
        let mut boxes = mailboxes(&bells, max_bytes).into_iter();
        let (Some(a), Some(b)) = (boxes.next(), boxes.next()) else { unreachable!() };
        (a, b, counts)
    }

    #[test]
    fn one_batch_and_one_wake_up_for_a_turn() {
        let (mut a, mut b, counts) = pair(1 << 20);
        assert!(b.may_sleep());
        a.push(1, 10, 1);
        a.push(1, 10, 2);
        a.post(7, Time(0));
        a.push(1, 10, 3);
        a.post(8, Time(0));
        assert_eq!(counts[1].0.load(Ordering::SeqCst), 1, "the second post finds it woken");
        assert!(!b.may_sleep(), "there is mail");
        b.awake();
        let first = b.take().expect("a batch");
        assert_eq!((first.from, first.turn, &first.items[..]), (0, 7, &[1, 2][..]));
        assert_eq!(b.take().expect("a batch").items, [3]);
        assert!(b.take().is_none());
    }

    #[test]
    fn a_full_lane_keeps_the_batch_until_there_is_room() {
        let (mut a, mut b, counts) = pair(100);
        a.push(1, 100, 1);
        a.post(1, Time(0));
        assert_eq!(a.full(), 0);
        a.push(1, 5, 2);
        a.post(2, Time(0));
        assert_eq!(a.full(), 0b10);
        a.push(1, 5, 3);
        a.post(3, Time(0));
        assert!(a.may_sleep());
        let first = b.take().expect("the first");
        assert!(b.take().is_none(), "the second was kept");
        b.taken(&first);
        assert_eq!(counts[0].0.load(Ordering::SeqCst), 1, "the sender is told of the room");
        a.awake();
        a.post(4, Time(0));
        assert_eq!(a.full(), 0);
        let second = b.take().expect("the second");
        assert_eq!((second.turn, &second.items[..]), (4, &[2, 3][..]));
    }

    #[test]
    fn a_lane_is_full_when_one_turn_fills_it() {
        let (mut a, mut b, _) = pair(100);
        a.push(1, 50, 1);
        assert_eq!(a.full(), 0);
        a.push(1, 50, 2);
        assert_eq!(a.full(), 0b10);
        a.post(1, Time(0));
        assert_eq!(a.full(), 0, "what it collected is on its way");
        let batch = b.take().expect("a batch");
        assert_eq!((&batch.items[..], batch.weight()), (&[1, 2][..], 108));
    }

    #[test]
    fn frames_travel_with_their_ranges() {
        let (mut a, mut b, _) = pair(1 << 20);
        a.push_bytes(1, b"abc", |start, end| u32::try_from(start * 10 + end).expect("small"));
        a.push_bytes(1, b"de", |start, end| u32::try_from(start * 10 + end).expect("small"));
        a.ask_confirmation(0b10);
        a.post(1, Time(0));
        let batch = b.take().expect("a batch");
        assert_eq!(batch.bytes, b"abcde");
        assert_eq!(batch.items, [3, 35]);
        assert!(batch.wants_confirmation);
    }

    #[test]
    fn no_wake_up_is_lost_between_threads() {
        struct Unpark(std::thread::Thread);
        impl Wake for Unpark {
            fn wake(&self) {
                self.0.unpark();
            }
        }
        const ROUNDS: u32 = 20_000;
        let (send_box, receive_box) = crossbeam_channel::bounded::<Mailbox<u32>>(1);
        let reader = std::thread::spawn(move || {
            let mut mailbox: Mailbox<u32> = receive_box.recv().expect("the mailbox");
            let mut next = 0;
            while next < ROUNDS {
                if mailbox.may_sleep() {
                    let asleep = std::time::Instant::now();
                    std::thread::park_timeout(std::time::Duration::from_secs(20));
                    assert!(asleep.elapsed().as_secs() < 19, "slept through its mail");
                }
                mailbox.awake();
                while let Some(batch) = mailbox.take() {
                    for item in &batch.items {
                        assert_eq!(*item, next);
                        next += 1;
                    }
                    mailbox.taken(&batch);
                }
            }
        });
        let bells = [Bell::new(Count::default()), Bell::new(Unpark(reader.thread().clone()))];
        let mut boxes = mailboxes(&bells, 1 << 20).into_iter();
        let mut writer = boxes.next().expect("two");
        send_box.send(boxes.next().expect("two")).expect("the reader lives");
        for item in 0..ROUNDS {
            writer.push(1, 1, item);
            writer.post(u64::from(item), Time(0));
            if writer.full() != 0 {
                std::thread::yield_now();
            }
        }
        while writer.full() != 0 {
            std::thread::yield_now();
            writer.post(u64::from(ROUNDS), Time(0));
        }
        reader.join().expect("all items in order");
    }
}
