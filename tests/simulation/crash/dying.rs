//! A client that leaves a Will with each connection, and breaks it off.

use std::collections::BTreeSet;
use std::time::Duration;

use fastrand::Rng;
use sluice::mqtt::QoS;
use sluice::timer::Time;

use super::register::Register;
use crate::wire::Testament;

/// The broker has noticed by then that a connection is gone, and done what was due.
const SLACK: Duration = Duration::from_millis(500);
/// Of two steps in which it is away it comes back in one of so many, unless it has to.
const AWAY: u8 = 20;

/// What became of the last CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    /// It has no answer yet.
    Sent,
    /// CONNACK has told that its Will is kept.
    Kept,
    /// It will never have one.
    Lost,
}

/// The Wills of a client, which are numbered as its connections are. The session outlives all of them, or
/// another takes its place.
#[derive(Clone, Debug)]
pub(crate) struct Dying {
    pub(crate) topic: &'static str,
    /// Seconds.
    delay: u32,
    /// The numbers below were given to connections.
    pub(crate) begun: u32,
    /// Those that had to be published.
    pub(crate) due: BTreeSet<u32>,
    /// The last of them, until a CONNACK tells that the broker has heard of the connection's end.
    unheard: Option<u32>,
    last: Last,
    /// The Will of the connection before the last one is kept.
    has_former: bool,
    /// Since then, at the latest, the broker counts the delay.
    gone_at: Time,
    /// A CONNECT without CONNACK may be read after a later one, and call off the Will of that.
    is_uncertain: bool,
    /// No Will is published because the broker is told to stop; whether it is, and was since the last CONNECT.
    quiet_stop: bool,
    is_stopping: bool,
    is_excused: bool,
    /// What retains its Wills, if anything does.
    pub(crate) heritage: Option<Heritage>,
}

/// The topic that retains the Wills of a client.
#[derive(Clone, Debug)]
pub(crate) struct Heritage {
    register: Register,
    first: u32,
    /// Those that the broker has kept.
    kept: BTreeSet<u32>,
}

impl Heritage {
    fn clears(number: u32) -> bool {
        number % 7 == 6
    }
}

impl Dying {
    pub(crate) fn new(topic: &'static str, delay: u32) -> Self {
        Self {
            topic,
            delay,
            begun: 0,
            due: BTreeSet::new(),
            unheard: None,
            last: Last::Lost,
            has_former: false,
            gone_at: Time(0),
            is_uncertain: false,
            quiet_stop: false,
            is_stopping: false,
            is_excused: false,
            heritage: None,
        }
    }

    /// One whose broker publishes no Wills when it is told to stop.
    pub(crate) fn without_wills_at_a_stop(self, without: bool) -> Self {
        Self { quiet_stop: without, ..self }
    }

    /// One whose Wills are retained.
    pub(crate) fn retained(self, register: &Register) -> Self {
        let (register, first) = (register.clone(), register.add_writer());
        Self { heritage: Some(Heritage { register, first, kept: BTreeSet::new() }), ..self }
    }

    /// Whether it comes back now. At the end it does so when its Will must have been published.
    pub(crate) fn comes_back(&self, now: Time, rng: &mut Rng, draining: bool) -> bool {
        self.delay == 0 || self.is_overdue(now) || (!draining && rng.u8(0..AWAY) == 0)
    }

    fn is_overdue(&self, now: Time) -> bool {
        let delay = Duration::from_secs(self.delay.into());
        now >= self.gone_at.plus(delay + SLACK)
    }

    /// The Will of its next connection.
    pub(crate) fn next(&mut self, now: Time) -> Testament {
        self.has_former = self.last == Last::Kept && !self.is_excused;
        self.is_excused = self.is_stopping;
        let is_published = self.delay == 0 || (self.is_overdue(now) && !self.is_uncertain);
        if self.has_former && is_published {
            self.due.insert(self.begun - 1);
            self.unheard = Some(self.begun - 1);
        }
        self.last = Last::Sent;
        let number = self.begun;
        self.begun += 1;
        let payload = match &self.heritage {
            None => number.to_string(),
            Some(Heritage { register, first, kept }) => {
                let (value, clears) = (first + number, Heritage::clears(number));
                register.begin(value, clears, kept.clone());
                if clears { String::new() } else { value.to_string() }
            }
        };
        Testament {
            topic: self.topic.to_owned(),
            payload: payload.into_bytes(),
            qos: QoS::ExactlyOnce,
            retain: self.heritage.is_some(),
            delay: self.delay,
        }
    }

    /// CONNACK has come. By a Clean Start the session before has ended, and its Will is due
    /// [MQTT-3.1.3-9].
    pub(crate) fn admitted(&mut self, clean: bool) {
        self.last = Last::Kept;
        self.unheard = None;
        if clean && self.has_former && !self.is_uncertain {
            self.due.insert(self.begun - 2);
        }
        let Some(Heritage { register, first, kept }) = &mut self.heritage else { return };
        kept.insert(*first + self.begun - 1);
        // What is due is published by now; what is not, never.
        self.due.iter().for_each(|number| register.is_sure(*first + number));
        if !self.is_uncertain {
            (0..self.begun - 1).for_each(|number| register.is_over(*first + number));
        }
    }

    /// Its connection has ended.
    pub(crate) fn gone(&mut self, now: Time) {
        self.gone_at = now;
        if self.last == Last::Sent {
            (self.last, self.is_uncertain) = (Last::Lost, true);
        }
    }

    /// The clock has gone on while no shard did: what it has not noticed by now it counts from now on.
    pub(crate) fn clock_went_on(&mut self, now: Time) {
        self.gone_at = now;
    }

    /// Its Wills may be published no more, if Wills are not at a stop: the one of a connection whose end the
    /// broker has not heard of neither.
    pub(crate) fn broker_begins_to_stop(&mut self) {
        if let Some(number) = self.unheard.take_if(|_| self.quiet_stop) {
            self.due.remove(&number);
        }
        (self.is_stopping, self.is_excused) = (self.quiet_stop, self.quiet_stop);
    }

    /// The broker has ended, and with it all that was under way to it.
    pub(crate) fn broker_is_gone(&mut self, now: Time) {
        self.is_stopping = false;
        (self.gone_at, self.is_uncertain) = (now, false);
        if self.last == Last::Sent {
            self.last = Last::Lost;
        }
    }
}
