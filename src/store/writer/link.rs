//! The shards' ends of the writer: what they hand over, and what they are told.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;

use crossbeam_channel::{Receiver, Sender};

use crate::session::{Change, Changes, PageOfQueue, PageRequest, SessionNumber, Waiter};
use crate::store::acts::ActId;

/// Changes that may wait to be taken in, and bytes of messages among them. What would add to them and can wait has to.
const MAX_WAITING: usize = 1 << 17;
const MAX_WAITING_BYTES: usize = 64 << 20;

/// So many changes are worth a commit.
pub(super) const ENOUGH: usize = MAX_WAITING / 4;

/// In so many turns after that in which it was sent a message, a client that is near has acknowledged it.
const TURNS_TO_ANSWER: u64 = 3;

/// What one turn of a shard changes.
#[derive(Debug, Default)]
pub struct Turn {
    /// The shard.
    pub shard: u8,
    /// Its number.
    pub turn: u64,
    /// The changes, in their order.
    pub changes: Changes,
    /// Which of them are parts of acts; in their order, none in two.
    pub parts: Vec<Part>,
    /// Acts that this shard handed a part of to the shards of a mask, in this turn.
    pub handed: Vec<(ActId, u64)>,
    /// Acts of which a part went back to the shard where they began, which has to
    /// [take it back](Self::taken_back).
    pub returned: Vec<ActId>,
    /// Acts of which this shard took a part back, and did it or handed it to another shard.
    pub taken_back: Vec<ActId>,
    /// Acts that pass on what was in memory only, in this turn.
    pub unstored: Vec<ActId>,
    /// Acts of other shards of which this one has done its share: up to that turn of each.
    pub done: Vec<ActId>,
    /// Parts of queues that it wants to have.
    pub asked: Vec<PageRequest>,
}

impl Turn {
    /// Whether nobody waits for it but publishers of what was sent to clients that may acknowledge it at once.
    pub(super) fn can_wait(&self) -> bool {
        !self.changes.is_urgent()
            && self.handed.is_empty()
            && self.returned.is_empty()
            && self.taken_back.is_empty()
            && self.unstored.is_empty()
            && self.done.is_empty()
            && self.asked.is_empty()
    }
}

/// The next part of a queue.
#[derive(Debug)]
pub struct Page {
    /// Whose it is.
    pub session: SessionNumber,
    /// Who asked.
    pub waiter: Waiter,
    /// What was read.
    pub page: PageOfQueue,
}

/// Changes that belong to an act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Of the first of them in [`Turn::changes`].
    pub first: usize,
    /// Of the first that does not belong.
    pub end: usize,
    /// The act.
    pub act: ActId,
}

/// Twice the turn that a shard is in, and 1 if it has nothing to do in that before something comes. Each shard writes
/// its own twice a turn, in cache lines of its own.
#[derive(Debug)]
#[repr(align(128))]
struct At(AtomicU64);

#[derive(Debug)]
pub(super) struct State {
    /// By shard: the last turn that is committed, as all before it are.
    pub(super) committed: Vec<AtomicU64>,
    pub(super) failing: AtomicBool,
    /// Nobody commits any more, nor takes anything in.
    pub(super) gone: AtomicBool,
    /// Changes that were handed over and not taken in.
    waiting: AtomicUsize,
    /// About the bytes of the messages among them.
    waiting_bytes: AtomicUsize,
    /// By shard: pages that it has asked for, and that cannot be read now; those that
    /// [pass on](PageRequest::passes_on) beside the others.
    pub(super) put_off: Vec<[AtomicUsize; 2]>,
    /// By shard.
    at: Vec<At>,
    /// What has been handed over is not to be let wait.
    hurries: AtomicBool,
    /// The writer's thread, once that runs.
    writer: OnceLock<Thread>,
}

impl State {
    pub(super) fn new(shards: u8) -> Self {
        Self {
            committed: (0..shards).map(|_| AtomicU64::new(0)).collect(),
            failing: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            waiting_bytes: AtomicUsize::new(0),
            put_off: (0..shards).map(|_| Default::default()).collect(),
            at: (0..shards).map(|_| At(AtomicU64::new(1))).collect(),
            hurries: AtomicBool::new(false),
            writer: OnceLock::new(),
        }
    }

    /// Whether a shard that was handed something in its turn has looked since whether there is an answer.
    pub(super) fn has_looked(&self, shard: u8, turn: u64) -> bool {
        let at = self.at.get(usize::from(shard)).map_or(0, |at| at.0.load(Ordering::Relaxed));
        at / 2 >= turn + TURNS_TO_ANSWER || at % 2 == 1
    }

    /// The thread that calls this is the writer's.
    pub(super) fn set_writer(&self) {
        let _ = self.writer.set(std::thread::current());
    }

    /// What was handed over before is to be taken in without delay.
    fn hurry(&self) {
        if !self.hurries.swap(true, Ordering::Release)
            && let Some(writer) = self.writer.get()
        {
            writer.unpark();
        }
    }

    /// Whether something was handed over since that was not to be let wait.
    pub(super) fn take_hurry(&self) -> bool {
        self.hurries.swap(false, Ordering::Acquire)
    }

    fn hand_over(&self, changes: &Changes) {
        self.waiting.fetch_add(changes.count(), Ordering::Relaxed);
        self.waiting_bytes.fetch_add(changes.message_bytes(), Ordering::Relaxed);
    }

    /// Takes changes in. Says as well whether [too many](Link::is_full) waited before, and do no more.
    pub(super) fn take(&self, changes: &Changes) -> (Vec<Change>, bool) {
        let taken = changes.take();
        let falls = |waiting: &AtomicUsize, by: usize, most: usize| {
            let before = waiting.fetch_sub(by, Ordering::Relaxed);
            before >= most && before.saturating_sub(by) < most
        };
        let are_fewer = falls(&self.waiting, changes.count(), MAX_WAITING);
        let are_smaller = falls(&self.waiting_bytes, changes.message_bytes(), MAX_WAITING_BYTES);
        (taken, are_fewer || are_smaller)
    }

    pub(super) fn put_off(&self, shard: u8, passes_on: bool) -> Option<&AtomicUsize> {
        self.put_off.get(usize::from(shard))?.get(usize::from(passes_on))
    }
}

/// A shard's end of the writer.
#[derive(Clone, Debug)]
pub struct Link {
    pub(super) shard: u8,
    pub(super) turns: Sender<Turn>,
    pub(super) pages: Receiver<Page>,
    pub(super) state: Arc<State>,
}

impl Link {
    /// Hands a turn over.
    pub fn submit(&self, turn: Turn) {
        self.state.hand_over(&turn.changes);
        let is_enough = self.state.waiting.load(Ordering::Relaxed) >= ENOUGH;
        let hurries = is_enough || !turn.can_wait();
        // A writer that is gone before all links are counts as one that fails.
        let _ = self.turns.send(turn);
        if hurries {
            self.state.hurry();
        }
    }

    /// Tells which turn this shard is in, and whether it has nothing to do in that before something comes.
    pub fn is_at(&self, turn: u64, sleeps: bool) {
        if let Some(at) = self.state.at.get(usize::from(self.shard)) {
            at.0.store(turn * 2 + u64::from(sleeps), Ordering::Relaxed);
        }
    }

    /// A page that this shard asked for, if one has come.
    #[must_use]
    pub fn take_page(&self) -> Option<Page> {
        self.pages.try_recv().ok()
    }

    /// Whether a page has come.
    #[must_use]
    pub fn has_page(&self) -> bool {
        !self.pages.is_empty()
    }

    /// How many pages that this shard has asked for cannot be read now: of those that
    /// [pass on](PageRequest::passes_on), or of the others. They are tried again, and nobody else is to wait for
    /// them.
    #[must_use]
    pub fn put_off(&self, passes_on: bool) -> usize {
        self.state.put_off(self.shard, passes_on).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// The last turn of this shard that is committed, as all before it are.
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.state.committed.get(usize::from(self.shard)).map_or(0, |at| at.load(Ordering::Acquire))
    }

    /// Whether the writer is so far behind that nothing should be added that can wait.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let State { waiting, waiting_bytes, .. } = &*self.state;
        let is_full = waiting.load(Ordering::Relaxed) >= MAX_WAITING
            || waiting_bytes.load(Ordering::Relaxed) >= MAX_WAITING_BYTES;
        is_full && !self.is_gone()
    }

    /// Whether the last commit failed: what was handed over stays, and is tried again; pages are read. Or
    /// the writer is gone: then nothing is committed any more.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.state.failing.load(Ordering::Relaxed) || self.is_gone()
    }

    fn is_gone(&self) -> bool {
        self.state.gone.load(Ordering::Relaxed)
    }
}
