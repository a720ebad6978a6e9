//! How turns are received: what is acknowledged at once is not to be written before.
//!
//! Most messages go to clients that are there, and are acknowledged in less time than a commit takes. So a writer
//! that has nothing to do lets turns come for a part of that time, if they have such messages, before it takes
//! them in: what has been taken back by then is never written, and if that is all, there is no commit. While a
//! commit goes on, that happens anyway.

use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;

use super::{Turn, Writer};

/// The longest that a commit is put off.
const MAX_PATIENCE: Duration = Duration::from_micros(500);

/// So many changes are worth a commit.
const ENOUGH: usize = 2048;

impl Writer {
    /// Waits for turns; for the first one until a time, if there is one. Says whether all links have gone.
    pub(super) fn receive(&mut self, until: Option<Instant>) -> bool {
        let is_behind = !self.inbox.is_empty();
        let received = match until {
            None => self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(until) => self.inbox.recv_deadline(until),
        };
        match received {
            Ok(turn) => self.come.push(turn),
            Err(error) => return error == RecvTimeoutError::Disconnected,
        }
        // What came during a commit has waited.
        if !is_behind {
            self.let_come();
        }
        false
    }

    /// Lets turns come while all of them can wait.
    pub(super) fn let_come(&mut self) {
        let until = Instant::now() + self.patience;
        while can_wait(&self.come)
            && let Ok(turn) = self.inbox.recv_deadline(until)
        {
            self.come.push(turn);
        }
    }

    /// A commit took so long: the next is put off for half of that at most.
    pub(super) fn took(&mut self, time: Duration) {
        self.patience = (time / 2).min(MAX_PATIENCE);
    }
}

fn can_wait(turns: &[Turn]) -> bool {
    let changes = turns.iter().map(|turn| turn.changes.len()).sum::<usize>();
    changes < ENOUGH && turns.iter().all(Turn::can_wait)
}
