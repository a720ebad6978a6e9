//! How turns are received: what is acknowledged at once is not to be written before.
//!
//! Most messages go to clients that are there, and are acknowledged in less time than a commit takes. Who published
//! them need not wait for the commit then, nor is there anything to commit. So turns are let come for a while if they
//! have such messages, before they are taken in. If all that has come by then is settled, there is no commit; or else
//! there is one of it, and not of what has come meanwhile, which has had no time. Receivers that do not acknowledge
//! so soon have the next commit put off for less.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::link::State;
use super::{TURNS_PER_COMMIT, Turn, Writer};

/// The longest that turns are let come. What comes meanwhile may wait for as long again.
pub(super) const MAX_PATIENCE: Duration = Duration::from_micros(500);

/// The longest for shards that have so much to do that they have not had a look at the answers.
const MAX_DELAY: Duration = Duration::from_millis(5);

/// The least of that: half the time of a commit, and no less than this.
pub(super) const MIN_PATIENCE: Duration = Duration::from_micros(100);

/// How long it takes at most until that is committed whose commit nobody waits for.
const LEFT_FOR: Duration = Duration::from_millis(10);

/// Turns on their way in.
#[derive(Debug)]
pub(super) struct Inbox {
    turns: Receiver<Turn>,
    /// Those that were received and are not taken in.
    come: Vec<Turn>,
    /// They were let come, and no others are to be taken in with them.
    are_alone: bool,
    /// How long they are let come.
    pub(super) patience: Duration,
    pub(super) min_patience: Duration,
    /// Since when there has been something that nobody waits for and that is not committed.
    pub(super) left_since: Option<Instant>,
}

impl Inbox {
    pub(super) fn new(turns: Receiver<Turn>) -> Self {
        Self {
            turns,
            come: Vec::new(),
            are_alone: false,
            patience: MIN_PATIENCE,
            min_patience: MIN_PATIENCE,
            left_since: None,
        }
    }

    /// Waits until turns have come, or until a time.
    fn wait(&mut self, until: Option<Instant>, state: &State) -> Result<(), RecvTimeoutError> {
        let first = match until {
            None => self.turns.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(until) => self.turns.recv_deadline(until),
        };
        self.come.push(first?);
        self.come.extend(self.turns.try_iter().take(TURNS_PER_COMMIT));
        self.let_come(state);
        Ok(())
    }

    /// Lets turns come while all of them can wait.
    fn let_come(&mut self, state: &State) {
        if !self.come.iter().all(Turn::can_wait) {
            return;
        }
        let begun = Instant::now();
        let mut until = begun + self.patience;
        loop {
            let now = Instant::now();
            if state.take_hurry() {
                return;
            }
            if now < until {
                std::thread::park_timeout(until - now);
                continue;
            }
            let has_looked = |turn: &Turn| state.has_looked(turn.shard, turn.turn);
            if now >= begun + MAX_DELAY || self.come.iter().all(has_looked) {
                break;
            }
            until = now + (now - begun);
        }
        self.are_alone = true;
        self.patience = match self.are_settled() {
            true => (self.patience * 2).min(MAX_PATIENCE),
            false => (self.patience / 2).max(self.min_patience),
        };
    }

    /// Whether nobody waits for those that were let come.
    fn are_settled(&self) -> bool {
        self.are_alone && self.come.iter().all(|turn| turn.changes.are_settled())
    }

    /// Takes what has come, and what is behind it if that is to be taken in as well.
    pub(super) fn take(&mut self, state: &State) -> Vec<Turn> {
        let mut come = std::mem::take(&mut self.come);
        if !std::mem::take(&mut self.are_alone) {
            // Of what comes from now on.
            state.take_hurry();
            come.extend(self.turns.try_iter().take(TURNS_PER_COMMIT));
        }
        come
    }

    /// A commit took so long, of all that was taken.
    pub(super) fn took(&mut self, time: Duration) {
        self.min_patience = (time / 2).clamp(MIN_PATIENCE, MAX_PATIENCE);
    }

    /// All that was taken is committed.
    pub(super) fn are_committed(&mut self) {
        self.left_since = None;
    }
}

impl Writer {
    /// Waits for turns that somebody waits for; until a time, if there is one. Says whether all links have gone.
    pub(super) fn receive(&mut self, until: Option<Instant>) -> bool {
        loop {
            let left_until = self.inbox.left_since.map(|since| since + LEFT_FOR);
            let until = until.into_iter().chain(left_until).min();
            if let Err(error) = self.inbox.wait(until, &self.state) {
                return error == RecvTimeoutError::Disconnected;
            }
            let now = Instant::now();
            if !self.inbox.are_settled() || until.is_some_and(|until| until <= now) {
                return false;
            }
            self.inbox.left_since.get_or_insert(now);
            for turn in self.inbox.take(&self.state) {
                self.take(turn);
            }
            if self.news != 0 {
                return false;
            }
        }
    }
}
