//! The graceful stop: route what was read, tell every client, write what waits, within a bound.

use std::sync::atomic::Ordering;

use crate::net::{ConnId, Driver};
use crate::timer::Time;

use super::Core;
use super::ending::Ending;
use super::remote::Item;

/// How far the stop of a shard has come.
#[derive(Debug, Default)]
pub(super) struct Stopping {
    phase: Phase,
    /// Shards that route nothing more.
    quiet: u64,
    deadline: Time,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Running,
    /// Every connection has been told; messages of other shards still come in.
    Quieting,
    /// What is written still leaves.
    Closing,
    Done,
}

impl Stopping {
    pub(super) fn is_stopping(&self) -> bool {
        self.phase != Phase::Running
    }

    /// When it has to be done, once it has begun.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.is_stopping().then_some(self.deadline)
    }

    pub(super) fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }

    pub(super) fn peer_is_quiet(&mut self, shard: u8) {
        self.quiet |= 1 << shard;
    }
}

impl<S> Core<S> {
    /// Goes on with the stop, if there is one.
    pub(super) fn check_stop<D: Driver<Socket = S>>(&mut self, driver: &mut D) {
        if self.stopping.phase == Phase::Running && self.shared.stop.load(Ordering::Acquire) {
            self.begin_stop(driver);
        }
        let late = self.now >= self.stopping.deadline;
        if self.stopping.phase == Phase::Quieting && (late || self.others_are_quiet()) {
            let ids: Vec<ConnId> = self.connections.ids().collect();
            for id in ids {
                self.end(id, Ending::Stopping);
            }
            self.stopping.phase = Phase::Closing;
        }
    }

    /// Ends the stop when everything has left, or at its deadline.
    pub(super) fn finish_stop(&mut self) {
        let late = self.now >= self.stopping.deadline;
        if self.stopping.phase == Phase::Closing && (late || self.has_let_all_go()) {
            self.log.tell_suppressed();
            self.stopping.phase = Phase::Done;
        }
    }

    /// When the stop has to go on whatever happens.
    pub(super) fn stop_deadline(&self) -> Option<Time> {
        self.stopping.deadline()
    }

    /// Whether the next phase of the stop can begin. Asked before a sleep, out of which a shard is
    /// not woken for it.
    pub(super) fn stop_goes_on(&self) -> bool {
        match self.stopping.phase {
            Phase::Running => self.shared.stop.load(Ordering::Acquire),
            Phase::Done => false,
            Phase::Quieting => self.others_are_quiet(),
            Phase::Closing => self.has_let_all_go(),
        }
    }

    /// Whether nobody is connected any more, and nothing of an ended session is stored.
    fn has_let_all_go(&self) -> bool {
        self.connections.open() == 0 && !self.has_stored_remains()
    }

    /// Whether no other shard routes anything more. One that failed never will.
    fn others_are_quiet(&self) -> bool {
        let silent = self.stopping.quiet | self.shared.failed.load(Ordering::Acquire);
        self.mailbox.others() & !silent == 0
    }

    /// Reads nothing more, publishes the wills if so configured, and says that it is quiet.
    fn begin_stop<D: Driver<Socket = S>>(&mut self, driver: &mut D) {
        self.stopping.phase = Phase::Quieting;
        self.stopping.deadline = self.now.plus(self.settings.shutdown_timeout);
        driver.stop_accepting();
        let ids: Vec<ConnId> = self.connections.ids().collect();
        for id in ids {
            driver.pause(id);
        }
        if self.settings.shutdown_wills {
            let keys: Vec<_> = self.sessions.keys().collect();
            for key in keys {
                let connected = self.sessions.get_mut(key).filter(|slot| slot.connection.is_some());
                if let Some(will) = connected.and_then(|slot| slot.session.take_will()) {
                    self.publish_will(key, will);
                }
            }
        }
        let mut others = self.mailbox.others();
        while others != 0 {
            self.mailbox.push(others.trailing_zeros() as u8, 0, Item::Quiet);
            others &= others - 1;
        }
    }
}
