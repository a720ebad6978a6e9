//! How turns are received: what is acknowledged at once is not to be written before.
//!
//! Most messages go to clients that are there, and are acknowledged in less time than a commit takes. Who published
//! them need not wait for the commit then, nor is there anything to commit. So turns are let come for a while if they
//! have such messages, before they are taken in. If all that has come by then is settled, there is no commit; or else
//! there is one of it, and not of what has come meanwhile, which has had no time. If receivers do not acknowledge so
//! soon, the next commits are put off for less, and with each time that this was tried again in vain for more of them.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::link::State;
use super::{TURNS_PER_COMMIT, Turn, Writer};

/// How long turns are let come. What comes meanwhile may wait for as long again.
pub(super) const PATIENCE: Duration = Duration::from_micros(500);

/// The same where it is of no use: half the time of a commit, within this and [`PATIENCE`].
pub(super) const MIN_PATIENCE: Duration = Duration::from_micros(100);

/// How long they are let come for a shard that has so much to do that it has not had a look at the answers.
pub(super) const MAX_DELAY: Duration = Duration::from_millis(5);

/// For so many times at most it is not tried again whether it is of use: 2 to the power of this.
const MAX_DOUBT: u32 = 6;

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
    pub(super) min_patience: Duration,
    /// How often in a row they were let come in vain.
    pub(super) doubt: u32,
    /// How often they are not to be let come for long.
    pub(super) skip: u32,
    /// Since when there has been something that nobody waits for and that is not committed.
    pub(super) left_since: Option<Instant>,
}

impl Inbox {
    pub(super) fn new(turns: Receiver<Turn>) -> Self {
        Self {
            turns,
            come: Vec::new(),
            are_alone: false,
            min_patience: MIN_PATIENCE,
            doubt: 0,
            skip: 0,
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
        let hopes = self.skip == 0;
        self.skip = self.skip.saturating_sub(1);
        let begun = Instant::now();
        let mut until = begun + if hopes { PATIENCE } else { self.min_patience };
        // When nothing is open any more, who waits does so for the commit.
        while self.are_open() || self.are_all_settled() {
            let now = Instant::now();
            if state.take_hurry() {
                return;
            }
            if now < until {
                std::thread::park_timeout(until - now);
                continue;
            }
            let has_looked = |turn: &Turn| state.has_looked(turn.shard, turn.turn);
            let is_done = !hopes || !self.are_open() || now >= begun + MAX_DELAY;
            if is_done || self.come.iter().all(has_looked) {
                break;
            }
            until = look_again(begun, now);
        }
        self.are_alone = true;
        if !self.are_open() {
            (self.doubt, self.skip) = (0, 0);
        } else if hopes {
            self.doubt = MAX_DOUBT.min(self.doubt + 1);
            self.skip = 1 << self.doubt;
        }
    }

    /// Whether something may be acknowledged yet of what has come.
    fn are_open(&self) -> bool {
        self.come.iter().any(|turn| turn.changes.are_open())
    }

    /// Whether nobody waits for what has come.
    fn are_all_settled(&self) -> bool {
        self.come.iter().all(|turn| turn.changes.are_settled())
    }

    /// The same of turns that were let come.
    fn are_settled(&self) -> bool {
        self.are_alone && self.are_all_settled()
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
        self.min_patience = (time / 2).clamp(MIN_PATIENCE, PATIENCE);
    }

    /// All that was taken is committed.
    pub(super) fn forget_left(&mut self) {
        self.left_since = None;
    }
}

/// When shards are looked at again that had not looked.
pub(super) fn look_again(begun: Instant, now: Instant) -> Instant {
    (now + (now - begun)).min(begun + MAX_DELAY)
}

impl Writer {
    /// Waits for turns that somebody waits for; until a time, if there is one. Says whether all links have gone.
    pub(super) fn receive(&mut self, until: Option<Instant>) -> bool {
        loop {
            // If the store fails, that is for the next attempt.
            let left_since = self.inbox.left_since.filter(|_| !self.fails());
            let left_until = left_since.map(|since| since + LEFT_FOR);
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
