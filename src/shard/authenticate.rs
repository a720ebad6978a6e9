//! Clients whose authentication takes time: they wait in a state of their own, at the cost of an entry.
//!
//! CONNECT and what follows it stay with the driver, which does not read the connection. When the
//! decision comes, they are read again, and CONNECT finds it here.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use hashbrown::HashMap;

use crate::hooks::{Answer, Asking, Decision, Denial, Inbox, Login};
use crate::mqtt::{Connect, ReasonCode};
use crate::net::ConnId;
use crate::timer::TimerKey;

use super::Core;
use super::connection::State;
use super::ending::Ending;
use super::exchange::Enhanced;
use super::mail::Bell;
use super::timers::Timer;

/// Where the decisions for the clients of one shard arrive.
struct Delivery {
    sender: Sender<(u64, Decision)>,
    bell: Arc<Bell>,
}

impl Inbox for Delivery {
    fn deliver(&self, ticket: u64, decision: Decision) {
        // Without the shard there is nobody to tell.
        if self.sender.send((ticket, decision)).is_ok() {
            self.bell.ring();
        }
    }
}

/// The clients that wait, and the decisions that have come.
pub(super) struct Authentication {
    inbox: Arc<dyn Inbox>,
    /// Holds a decision for each client asked about at most.
    receiver: Receiver<(u64, Decision)>,
    waiting: HashMap<ConnId, Waiting, foldhash::fast::RandomState>,
    serial: u32,
    /// When the logins of those who are connected end, if they do.
    expiries: HashMap<ConnId, TimerKey, foldhash::fast::RandomState>,
    /// Those who named an Authentication Method.
    pub(super) enhanced: HashMap<ConnId, Enhanced, foldhash::fast::RandomState>,
}

/// A client that was asked about.
struct Waiting {
    /// Tells it from an earlier one under the same id.
    serial: u32,
    decision: Option<Decision>,
}

/// How far the authentication of a client has come.
pub(super) enum Outcome {
    /// It may come in.
    In(Login),
    Refused(Denial),
    Waits,
}

impl Authentication {
    pub(super) fn new(bell: Arc<Bell>) -> Self {
        let (sender, receiver) = crossbeam_channel::unbounded();
        let inbox = Arc::new(Delivery { sender, bell });
        Self {
            inbox,
            receiver,
            waiting: HashMap::default(),
            serial: 0,
            expiries: HashMap::default(),
            enhanced: HashMap::default(),
        }
    }

    /// Whether a decision lies here that was not looked at. Asked before a sleep.
    pub(super) fn has_news(&self) -> bool {
        !self.waiting.is_empty() && !self.receiver.is_empty()
    }

    /// Forgets a client that has gone; gives its timer.
    pub(super) fn forget(&mut self, id: ConnId) -> Option<TimerKey> {
        if !self.waiting.is_empty() {
            self.waiting.remove(&id);
        }
        if !self.enhanced.is_empty() {
            self.enhanced.remove(&id);
        }
        if self.expiries.is_empty() { None } else { self.expiries.remove(&id) }
    }
}

impl<S> Core<S> {
    /// Asks about a client, or takes the decision that has come meanwhile.
    pub(super) fn authenticate(&mut self, id: ConnId, connect: &Connect<'_>) -> Outcome {
        let Some(connection) = self.connections.get_mut(id) else { return Outcome::Waits };
        let authentication = &mut self.authentication;
        let decided = authentication.waiting.remove(&id).and_then(|waiting| waiting.decision);
        let decision = match decided {
            Some(decision) => decision,
            None => {
                authentication.serial = authentication.serial.wrapping_add(1);
                let serial = authentication.serial;
                let client =
                    connection.client(connect.client_id, connect.username, connect.version);
                let asking = Asking::new(&authentication.inbox, ticket(id, serial));
                let authenticator = self.shared.hooks.authenticator.as_ref();
                let answer = authenticator
                    .map(|one| one.authenticate(&client, connect.password, asking))
                    .unwrap_or(Answer::Now(Decision::Allow));
                match answer {
                    Answer::Now(decision) => decision,
                    Answer::Later => {
                        connection.state = State::Authenticating;
                        connection.version = connect.version;
                        let waiting = Waiting { serial, decision: None };
                        authentication.waiting.insert(id, waiting);
                        return Outcome::Waits;
                    }
                }
            }
        };
        match decision {
            Decision::Allow => Outcome::In(Login::user(connect.username.map(Arc::from))),
            Decision::AllowAs(login) => Outcome::In(login),
            Decision::Deny(denial) => Outcome::Refused(denial),
        }
    }

    /// A client that was let in may stay so long, or as long as it likes.
    pub(super) fn limit_login(&mut self, id: ConnId, valid_for: Option<Duration>) {
        let expiries = &mut self.authentication.expiries;
        if let Some(before) = expiries.remove(&id) {
            self.timers.cancel(before);
        }
        if let Some(valid_for) = valid_for {
            // The clock has whole milliseconds: rounded up, lest it ends before its time.
            let end = self.now.plus(valid_for + Duration::from_millis(1));
            let timer = self.timers.insert(end, Timer::Login(id));
            expiries.insert(id, timer);
        }
    }

    /// The login of a client has ended.
    pub(super) fn login_over(&mut self, id: ConnId) {
        self.authentication.expiries.remove(&id);
        self.end(id, Ending::Refused(ReasonCode::MaximumConnectTime, "its login has expired"));
    }

    /// Goes on with the clients about whom it is decided.
    pub(super) fn take_decisions(&mut self) {
        if self.authentication.waiting.is_empty() {
            return;
        }
        while let Ok((ticket, decision)) = self.authentication.receiver.try_recv() {
            let (id, serial) = (ConnId(ticket as u32), (ticket >> 32) as u32);
            let Some(waiting) = self.authentication.waiting.get_mut(&id) else { continue };
            let Some(connection) = self.connections.get_mut(id) else { continue };
            if waiting.serial == serial && connection.state == State::Authenticating {
                waiting.decision = Some(decision);
                connection.state = State::AwaitingConnect;
                if !self.stopping.is_stopping() {
                    self.resumed.push(id);
                }
            }
        }
    }
}

fn ticket(id: ConnId, serial: u32) -> u64 {
    u64::from(serial) << 32 | u64::from(id.0)
}
