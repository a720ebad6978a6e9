//! The one thread that writes: takes the turns of all shards, commits them together, and says so.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::acts::{ActId, Acts};
use super::staging::Staging;
use crate::hooks::{Commit, Store, StoreError};
use crate::session::Change;

/// How long after a failure the store is opened anew.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// The most turns in one commit.
const TURNS_PER_COMMIT: usize = 4096;

/// Changes that may wait to be taken in. What would add to them and need not be answered has to wait.
const MAX_WAITING: usize = 1 << 17;

/// What one turn of a shard changes.
#[derive(Debug, Default)]
pub struct Turn {
    /// The shard.
    pub shard: u8,
    /// Its number.
    pub turn: u64,
    /// The changes, in their order.
    pub changes: Vec<Change>,
    /// Which of them are parts of acts; in their order, none in two.
    pub parts: Vec<Part>,
    /// Acts that this shard handed a part of to the shards of a mask, in this turn.
    pub handed: Vec<(ActId, u64)>,
    /// Acts of which a part went back to the shard where they began, which has to
    /// [take it back](Self::taken_back).
    pub returned: Vec<ActId>,
    /// Acts of which this shard took a part back, and did it or handed it to another shard.
    pub taken_back: Vec<ActId>,
    /// Acts of other shards of which this one has done its share: up to that turn of each.
    pub done: Vec<ActId>,
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

#[derive(Debug)]
struct State {
    /// By shard: the last turn that is committed, as all before it are.
    committed: Vec<AtomicU64>,
    failing: AtomicBool,
    /// Changes that were handed over and not taken in.
    waiting: AtomicUsize,
}

/// A shard's end of the writer.
#[derive(Clone, Debug)]
pub struct Link {
    shard: u8,
    turns: Sender<Turn>,
    state: Arc<State>,
}

impl Link {
    /// Hands a turn over.
    pub fn submit(&self, turn: Turn) {
        self.state.waiting.fetch_add(turn.changes.len(), Ordering::Relaxed);
        // The writer goes when all links have gone.
        let _ = self.turns.send(turn);
    }

    /// The last turn of this shard that is committed, as all before it are.
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.state.committed.get(usize::from(self.shard)).map_or(0, |at| at.load(Ordering::Acquire))
    }

    /// Whether the writer is so far behind that nothing should be added that can wait.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.state.waiting.load(Ordering::Relaxed) >= MAX_WAITING
    }

    /// Whether the last commit failed. What was handed over stays, and is tried again.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.state.failing.load(Ordering::Relaxed)
    }
}

/// Opens the records, at the start and after a failure.
pub type Open = Box<dyn FnMut() -> Result<Box<dyn Store>, StoreError> + Send>;

/// Writes what shards hand over.
pub struct Writer {
    open: Open,
    store: Option<Box<dyn Store>>,
    commit: Commit,
    inbox: Receiver<Turn>,
    /// Taken from the inbox.
    waiting: VecDeque<Turn>,
    state: Arc<State>,
    staging: Staging,
    acts: Acts,
    /// By shard: the last turn taken in.
    taken: Vec<u64>,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("taken", &self.taken).finish_non_exhaustive()
    }
}

impl Writer {
    pub(super) fn new(
        open: Open,
        store: Box<dyn Store>,
        commit: Commit,
        staging: Staging,
        shards: u8,
    ) -> (Self, Vec<Link>) {
        let (turns, inbox) = crossbeam_channel::unbounded();
        let committed = (0..shards).map(|_| AtomicU64::new(0)).collect();
        let state = Arc::new(State {
            committed,
            failing: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
        });
        let link = |shard| Link { shard, turns: turns.clone(), state: state.clone() };
        let links = (0..shards).map(link).collect();
        let writer = Self {
            open,
            store: Some(store),
            commit,
            inbox,
            waiting: VecDeque::new(),
            state,
            staging,
            acts: Acts::default(),
            taken: vec![0; usize::from(shards)],
        };
        (writer, links)
    }

    /// Writes until all links have gone and everything is written, or cannot be. `tell` is called after
    /// each commit, and when the store begins to fail or ends to.
    pub fn run(mut self, mut tell: impl FnMut()) {
        loop {
            let gone = match self.state.failing.load(Ordering::Relaxed) {
                false => self.inbox.recv().map(|turn| self.waiting.push_back(turn)).is_err(),
                true => match self.inbox.recv_timeout(RETRY_AFTER) {
                    Ok(turn) => {
                        self.waiting.push_back(turn);
                        // What comes meanwhile waits with the rest.
                        std::thread::sleep(RETRY_AFTER);
                        false
                    }
                    Err(RecvTimeoutError::Timeout) => false,
                    Err(RecvTimeoutError::Disconnected) => true,
                },
            };
            self.step();
            tell();
            if gone {
                return;
            }
        }
    }

    /// Commits what has come by now.
    pub fn step(&mut self) {
        self.waiting.extend(self.inbox.try_iter().take(TURNS_PER_COMMIT));
        while let Some(turn) = self.waiting.pop_front() {
            self.take(turn);
        }
        if self.staging.is_empty() {
            self.publish();
            return;
        }
        let writes = self.staging.take();
        let done = match &mut self.store {
            Some(store) => store.commit(&writes, self.commit),
            None => (self.open)().and_then(|mut store| {
                store.commit(&writes, self.commit)?;
                self.store = Some(store);
                Ok(())
            }),
        };
        match done {
            Ok(()) => {
                if self.state.failing.swap(false, Ordering::Relaxed) {
                    tracing::warn!("the store works again");
                }
                self.publish();
            }
            Err(error) => {
                self.store = None;
                self.staging.put_back(writes);
                if !self.state.failing.swap(true, Ordering::Relaxed) {
                    tracing::error!(
                        "the store fails, nothing more is kept until it works again: {error}"
                    );
                }
            }
        }
    }

    fn take(&mut self, turn: Turn) {
        let Turn { shard, turn, changes, parts, handed, returned, taken_back, done } = turn;
        self.state.waiting.fetch_sub(changes.len(), Ordering::Relaxed);
        let mut changes = changes.into_iter().enumerate().peekable();
        let mut parts = parts.into_iter().peekable();
        while let Some(&(index, _)) = changes.peek() {
            while parts.peek().is_some_and(|part| part.end <= index) {
                parts.next();
            }
            if let Some(Part { act, end, .. }) = parts.next_if(|part| part.first <= index) {
                let own = std::iter::from_fn(|| changes.next_if(|(at, _)| *at < end));
                self.acts.add(act, (shard, turn), own.map(|(_, change)| change));
            } else if let Some((_, change)) = changes.next()
                && let Some(change) = self.acts.reconcile(change)
            {
                self.staging.stage(change);
            }
        }
        for (act, with) in handed {
            self.acts.handed(act, with, (shard, turn));
        }
        for act in returned {
            self.acts.returned(act);
        }
        for act in taken_back {
            self.acts.taken_back(act);
        }
        for act in done {
            self.acts.done(shard, act);
        }
        for change in self.acts.complete() {
            self.staging.stage(change);
        }
        if let Some(taken) = self.taken.get_mut(usize::from(shard)) {
            *taken = turn;
        }
    }

    /// Tells the shards how far they are committed: everything staged is.
    fn publish(&self) {
        for (shard, (&taken, committed)) in (0..).zip(self.taken.iter().zip(&self.state.committed))
        {
            let until = self.acts.first_turn(shard).map_or(taken, |first| taken.min(first - 1));
            committed.store(until, Ordering::Release);
        }
    }
}
