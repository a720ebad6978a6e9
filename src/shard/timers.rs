//! What the timer wheel of a shard holds, and what happens when it is due.

use std::time::Duration;

use crate::mqtt::{ReasonCode, Version};
use crate::net::{ConnId, Driver};
use crate::router::SessionKey;
use crate::session::RetryOutcome;
use crate::timer::Time;

use super::Core;
use super::connection::State;
use super::ending::{EndedBy, Ending};
use super::settings::GiveUp;

/// Something due at a time. Whoever removes the connection or the session cancels it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    /// CONNECT, keep alive or the last write of a connection.
    Connection(ConnId),
    /// The end of a login that is valid for a time only.
    Login(ConnId),
    /// The will or the end of an absent session, or what expires in its queue; the redelivery of a present
    /// one.
    Session(SessionKey),
    /// A client may publish again.
    Rate(ConnId),
    /// A full receiver's patience.
    Patience(SessionKey),
    /// `$SYS` topics.
    Sys,
    /// Retained messages for subscribers that had no room.
    Scans,
    /// Expired retained messages, rate windows.
    Sweep,
}

/// Who has sent something that has not been read is not silent: he is looked at again after this.
const UNREAD_AGAIN: Duration = Duration::from_millis(100);

/// How often expired retained messages are looked for.
pub(super) const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

impl<S> Core<S> {
    /// Does what is due at `self.now`.
    pub(super) fn run_timers<D: Driver>(&mut self, driver: &mut D) {
        let mut due = std::mem::take(&mut self.due);
        self.timers.advance(self.now, &mut due);
        for timer in due.drain(..) {
            match timer {
                Timer::Connection(id) => self.connection_due(driver, id),
                Timer::Login(id) => self.login_over(id),
                Timer::Session(key) => self.session_due(key),
                Timer::Rate(id) => self.rate_due(id),
                Timer::Patience(key) => self.patience_over(key),
                Timer::Sys => self.publish_sys(),
                Timer::Scans => self.scans.wake(),
                Timer::Sweep => self.sweep(),
            }
        }
        self.due = due;
    }

    fn sweep(&mut self) {
        self.expiring = true;
        self.forget_passed();
        self.refuse_unstored();
        self.update_gauges();
        self.measure_memory();
        self.count_stored();
        self.log.follow_time(self.now);
        self.timers.insert(self.now.plus(SWEEP_INTERVAL), Timer::Sweep);
    }

    /// Removes some more of what is retained and expired.
    pub(super) fn expire_retained(&mut self) {
        if self.expiring {
            let mut expired = Vec::new();
            let stores = self.store.is_some();
            self.expiring = self.router.expire_retained(self.now, |topic, stamp| {
                if stores {
                    expired.push((topic.to_owned(), stamp));
                }
            });
            for (topic, stamp) in expired {
                self.note_retained(&topic, None, stamp);
            }
        }
    }

    fn connection_due<D: Driver>(&mut self, driver: &mut D, id: ConnId) {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.timer = None;
        if connection.state.awaits_client() && driver.is_unread(id) {
            let again = now.plus(UNREAD_AGAIN);
            connection.timer = Some(self.timers.insert(again, Timer::Connection(id)));
            return;
        }
        match connection.state {
            State::Handshaking => self.end(id, Ending::Silent("no TLS handshake in time")),
            State::AwaitingConnect => self.end(id, Ending::Silent("no CONNECT in time")),
            State::Committing => {
                self.end(
                    id,
                    Ending::Silent(
                        "its session could not be stored in time (limits.connect_timeout): the disk is slow",
                    ),
                );
            }
            State::Exchanging => {
                let detail = "not authenticated in time";
                self.refuse(id, Some(Version::V5), ReasonCode::NotAuthorized, detail);
            }
            State::Authenticating => {
                let version = Some(connection.version);
                let detail = "not authenticated in time";
                self.refuse(id, version, ReasonCode::ServerUnavailable, detail);
            }
            State::Connected => {
                // Traffic only notes its time; the timer finds out here how much patience is left.
                let patience = Duration::from_millis(connection.patience_ms.into());
                let deadline = connection.last_received.plus(patience);
                let unread = connection.ignores_answers(self.settings.qos0_backlog_bytes);
                if connection.held && !unread {
                    let again = now.plus(patience);
                    connection.timer = Some(self.timers.insert(again, Timer::Connection(id)));
                } else if deadline <= now {
                    self.end(
                        id,
                        Ending::Refused(ReasonCode::KeepAliveTimeout, "keep alive timeout"),
                    );
                } else {
                    connection.timer = Some(self.timers.insert(deadline, Timer::Connection(id)));
                }
            }
            State::Closing => {
                // It does not read what was written to it.
                connection.outbox = None;
                self.connections.touch(id);
            }
        }
    }

    fn session_due(&mut self, key: SessionKey) {
        let now = self.now;
        let Some(slot) = self.sessions.get_mut(key) else { return };
        slot.timer = None;
        if slot.connection.is_some() {
            self.redeliver(key);
            return;
        }
        if slot.will_at.is_some_and(|at| at <= now) {
            slot.will_at = None;
            let will = slot.session.take_will();
            self.note_and_publish(key, will);
        }
        let Some(slot) = self.sessions.get_mut(key) else { return };
        if slot.session.ends_at().is_some_and(|at| at <= now) {
            self.stats.expired_sessions.add(1);
            self.end_session(key, EndedBy::Other);
        } else {
            if slot.session.next_expiry().is_some_and(|at| at <= now) {
                self.expiring_queues.insert(key);
            }
            self.arm_absent(key);
        }
    }

    /// The Will of an absent session is due at that time, if it was to be later.
    pub(super) fn will_is_due(&mut self, key: SessionKey, at: Option<Time>) {
        if let Some(slot) = self.sessions.get_mut(key)
            && let Some(at) = at
            && slot.will_at.is_some_and(|later| later > at)
        {
            slot.will_at = Some(at);
            slot.note();
            self.arm_absent(key);
        }
    }

    /// Does what an absent session is due: its client may come in the same turn.
    pub(super) fn catch_up(&mut self, key: SessionKey) {
        let Some(slot) = self.sessions.get_mut(key) else { return };
        if slot.will_at.into_iter().chain(slot.session.ends_at()).any(|at| at <= self.now) {
            if let Some(timer) = slot.timer.take() {
                self.timers.cancel(timer);
            }
            self.session_due(key);
        }
    }

    /// Sets the timer of an absent session to its will, its end, or what expires in its queue, whichever is
    /// first.
    pub(super) fn arm_absent(&mut self, key: SessionKey) {
        let expiry = self.expiry_due(key);
        let Some(slot) = self.sessions.get_mut(key) else { return };
        if let Some(timer) = slot.timer.take() {
            self.timers.cancel(timer);
        }
        let at = [slot.will_at, slot.session.ends_at(), expiry].into_iter().flatten().min();
        slot.timer = at.map(|at| self.timers.insert(at, Timer::Session(key)));
    }

    /// Sends again what a 3.x client has not acknowledged in time.
    fn redeliver(&mut self, key: SessionKey) {
        let Some(retry) = &self.settings.retry else { return };
        let Some(slot) = self.sessions.get_mut(key) else { return };
        let Some(id) = slot.connection else { return };
        let Some(mut out) = self.connections.live_out(id, &self.settings) else { return };
        let repeat_last = retry.give_up == GiveUp::Never;
        let RetryOutcome { next, give_up } =
            slot.session.retry(self.now, &retry.after, repeat_last, &mut out);
        if give_up && !repeat_last {
            self.end(id, Ending::Silent("a message was not acknowledged in time"));
            return;
        }
        // What is sent from now on is first due then.
        let first = self.now.plus(retry.after.first().copied().unwrap_or(SWEEP_INTERVAL));
        let next = next.map_or(first, |next| next.min(first));
        slot.timer = Some(self.timers.insert(next, Timer::Session(key)));
    }

    /// Starts timed redelivery for a session that has just connected, if it is configured.
    pub(super) fn arm_redelivery(&mut self, key: SessionKey) {
        let Some(retry) = &self.settings.retry else { return };
        let Some(first) = retry.after.first() else { return };
        let Some(slot) = self.sessions.get_mut(key) else { return };
        if !slot.session.version().is_v5() {
            slot.timer = Some(self.timers.insert(self.now.plus(*first), Timer::Session(key)));
        }
    }
}
