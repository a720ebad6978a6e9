//! A client that goes on whatever happens, and what it saw.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use fastrand::Rng;
use sluice::mqtt::{
    AckKind, Disconnect, Packet, PacketId, QoS, ReasonCode, SubscribeFilter, Version, encode_ack,
};
use sluice::net::CloseCause;
use sluice::net::sim::{ClientId, World};
use sluice::timer::Time;

mod answers;

use super::collector::TOPICS;
use super::lifetimes::Hurried;
pub(crate) use super::role::{EndsBy, Role};
use crate::wire::{self, Hello};

/// Messages of a publisher that are not acknowledged, at most.
pub(crate) const OUTSTANDING: u16 = 6;
/// Of the numbers of a publisher that clears, the last of so many is an empty message.
pub(crate) const CLEARS_EVERY: u32 = 3;

/// What topics begin with whose messages expire after a second.
const BRIEF: &str = "e/";

/// The state of a message that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    Publish,
    Release,
}

#[derive(Debug)]
pub(crate) struct Actor {
    pub(crate) name: String,
    pub(crate) version: Version,
    pub(crate) role: Role,
    net: Option<ClientId>,
    out: Vec<u8>,
    input: Vec<u8>,
    admitted: bool,
    /// Its session is there, for all that the broker has said.
    was_here: bool,
    /// Whether it begins a session: a beginner's, a watcher's and a guest's end with the connection.
    clean: bool,
    /// Whether each of its connections has a session of its own, with which it forgets what was under way.
    is_guest: bool,
    /// Whether it is away most of the time.
    is_lazy: bool,
    /// A beginner's: whether its session is there, if it knows.
    there: Option<bool>,
    /// A beginner's: what Session Present has to be.
    expected: Option<bool>,
    /// CONNACK has come, whatever it says.
    is_answered: bool,
    /// The broker has ended its connection, in order.
    is_ended: bool,
    /// A CONNECT without CONNACK may be read after a later one.
    is_uncertain: bool,
    /// DISCONNECT that ends the session was sent: it may be there or not.
    left: bool,
    /// SUBACK has come in this session.
    pub(crate) subscribed: bool,
    pub(crate) open: BTreeMap<u32, (PacketId, Half)>,
    next_id: u16,
    /// Numbers below this were sent.
    pub(crate) sent: Rc<Cell<u32>>,
    pub(crate) acknowledged: BTreeSet<u32>,
    /// The broker may say that it cannot store something, or has no room for it.
    pub(crate) may_be_refused: bool,
    /// The broker has been told to stop, and lets nobody in.
    pub(crate) broker_stops: bool,
    /// What it publishes may find a full queue. In 3.x its connection is closed then, and it repeats what came
    /// before others that it had sent by then.
    pub(crate) may_be_full: bool,
    /// What it publishes may be dropped when others come.
    pub(crate) may_be_dropped: bool,
    pub(crate) refused: BTreeSet<u32>,
    /// Numbers that it has sent more than once.
    pub(crate) repeated: BTreeSet<u32>,
    half_done: BTreeSet<PacketId>,
    owed: Vec<(AckKind, PacketId)>,
    /// By topic, the numbers in the order in which they came.
    pub(crate) received: BTreeMap<String, Vec<u32>>,
}

impl Actor {
    pub(crate) fn new(name: &str, version: Version, role: Role) -> Self {
        Self {
            name: name.to_owned(),
            version,
            clean: matches!(role, Role::Watcher { .. }),
            is_guest: false,
            is_lazy: matches!(role, Role::Sleeper { .. }),
            role,
            net: None,
            out: Vec::new(),
            input: Vec::new(),
            admitted: false,
            was_here: false,
            there: Some(false),
            expected: None,
            is_answered: false,
            is_ended: false,
            is_uncertain: false,
            left: false,
            subscribed: false,
            open: BTreeMap::new(),
            next_id: 0,
            sent: Rc::default(),
            acknowledged: BTreeSet::new(),
            may_be_refused: false,
            broker_stops: false,
            may_be_full: false,
            may_be_dropped: false,
            refused: BTreeSet::new(),
            repeated: BTreeSet::new(),
            half_done: BTreeSet::new(),
            owed: Vec::new(),
            received: BTreeMap::new(),
        }
    }

    /// One whose session ends with each connection.
    pub(crate) fn guest(self) -> Self {
        Self { is_guest: true, clean: true, ..self }
    }

    /// One that is away most of the time.
    pub(crate) fn lazy(self) -> Self {
        Self { is_lazy: true, ..self }
    }

    /// What it publishes expires.
    pub(crate) fn is_brief(&self) -> bool {
        matches!(&self.role, Role::Publisher { topic, .. } if topic.starts_with(BRIEF))
    }

    /// Whether nothing is owed in either direction.
    pub(crate) fn is_settled(&self) -> bool {
        // A CONNACK that did not come may have told a deserter that what it has half done is nothing any more.
        let ready = match &self.role {
            Role::Fickle(fickle) => fickle.is_answered,
            Role::Collector(collector) => collector.is_answered,
            Role::Founder { count } => self.sent.get() == *count,
            _ => self.subscribed || !self.subscribes(),
        };
        self.admitted
            && ready
            && self.out.is_empty()
            && self.open.is_empty()
            && (self.half_done.is_empty() || matches!(self.role, Role::Deserter { .. }))
            && self.owed.is_empty()
    }

    pub(crate) fn subscribes(&self) -> bool {
        self.role.filter().is_some()
    }

    /// Moves bytes, handles what came, perhaps begins something; nothing new if `draining`.
    pub(crate) fn step(
        &mut self,
        world: &World,
        rng: &mut Rng,
        draining: bool,
    ) -> Result<(), String> {
        let Some(net) = self.net else {
            if let Role::Dying(dying) = &self.role
                && !dying.comes_back(world.now(), rng, draining)
            {
                return Ok(());
            }
            if !draining {
                if self.is_lazy && rng.u8(0..20) > 0 {
                    return Ok(());
                }
                self.clean = match self.role {
                    Role::Beginner => rng.bool(),
                    Role::Watcher { .. } => true,
                    Role::Dying(_) | Role::Deserter { by: EndsBy::CleanStart, .. } => {
                        self.version.is_v5() && rng.u8(0..4) == 0
                    }
                    _ => self.is_guest,
                };
            }
            self.connect(world);
            return Ok(());
        };
        if let Role::Mortal(mortal, _) = &mut self.role
            && !self.broker_stops
            && world.client_is_whole(net)
        {
            mortal.is_there();
        }
        if self.admitted && !draining {
            self.act(rng);
        }
        if let Role::Founder { count } = self.role
            && self.admitted
            && self.sent.get() < count
            && self.open.len() < usize::from(OUTSTANDING)
        {
            self.begin_message();
        }
        while !self.owed.is_empty() && (draining || rng.u8(0..4) > 0) {
            let (kind, id) = self.owed.remove(0);
            encode_ack(self.version, kind, id, ReasonCode::Success, &mut self.out);
        }
        if let Ok(sent) = world.client_send(net, &self.out) {
            self.out.drain(..sent);
        }
        self.listen(world, net)?;
        let patience = match self.role {
            Role::Beginner => 2,
            Role::Dying(_) => 5,
            Role::Reader(_) => 10,
            _ if self.is_lazy => 10,
            _ => 400,
        };
        let leaves = !draining && self.admitted && rng.u16(0..patience) == 0;
        let end = world.client_end(net);
        if end.is_some() || leaves {
            self.is_ended = end == Some(CloseCause::PeerClosed) && !self.broker_stops;
            self.forget(world, net);
        }
        Ok(())
    }

    /// Handles what has come.
    fn listen(&mut self, world: &World, net: ClientId) -> Result<(), String> {
        world.client_recv(net, &mut self.input);
        let mut input = std::mem::take(&mut self.input);
        let mut at = 0;
        loop {
            let handled =
                wire::first_packet(self.version, &input[at..], |packet| self.handle(&packet))?;
            let Some((len, result)) = handled else { break };
            result.map_err(|why| format!("{}: {why}", self.name))?;
            at += len;
        }
        input.drain(..at);
        self.input = input;
        Ok(())
    }

    fn forget(&mut self, world: &World, net: ClientId) {
        world.client_close(net);
        self.net = None;
        if let Role::Mortal(mortal, _) = &mut self.role {
            mortal.gone(self.admitted, self.is_ended);
        }
        (self.admitted, self.is_ended) = (false, false);
        self.is_uncertain |= !self.is_answered;
        self.input.clear();
        self.out.clear();
        self.owed.clear();
        if let Role::Dying(dying) = &mut self.role {
            dying.gone(world.now());
        }
    }

    /// The clock has gone on while the broker did not.
    pub(crate) fn clock_went_on(&mut self, world: &World) {
        if let Role::Dying(dying) = &mut self.role {
            dying.clock_went_on(world.now());
        }
    }

    /// The broker has ended, and with it this world: the next one begins at time 0. What was on its way from the
    /// broker comes, or does not.
    pub(crate) fn broker_is_gone(&mut self, world: &World, hears: bool) -> Result<(), String> {
        if let Some(net) = self.net {
            if hears {
                self.listen(world, net)?;
            }
            self.forget(world, net);
        }
        (self.is_uncertain, self.broker_stops) = (false, false);
        match &mut self.role {
            Role::Dying(dying) => dying.broker_is_gone(Time(0)),
            Role::Setter(setter, _) => setter.broker_is_gone(),
            _ => {}
        }
        Ok(())
    }

    /// The broker is told to stop: it lets nobody in, and does not look who goes.
    pub(crate) fn broker_begins_to_stop(&mut self) {
        self.broker_stops = true;
        if let Role::Dying(dying) = &mut self.role {
            dying.broker_begins_to_stop();
        }
    }

    /// Another broker begins, at a time of day in milliseconds; the last one has come to a good end or not.
    pub(crate) fn broker_begins(&mut self, was_closed: bool, now: u64) {
        if let Role::Mortal(mortal, _) = &mut self.role {
            mortal.broker_is_gone(was_closed, now);
        }
    }

    /// Ends its connection, if it has one.
    pub(crate) fn leave(&mut self, world: &World) {
        if let Some(net) = self.net {
            self.forget(world, net);
        }
    }

    /// Ends its connection, if it has one, and begins another.
    pub(crate) fn reconnect(&mut self, world: &World, clean: bool) {
        self.leave(world);
        self.clean = clean;
        self.connect(world);
    }

    fn connect(&mut self, world: &World) {
        let ends = self.clean && matches!(self.role, Role::Beginner | Role::Watcher { .. });
        let ends = ends || self.is_guest;
        let will = match &mut self.role {
            Role::Dying(dying) => Some(dying.next(world.now())),
            _ => None,
        };
        let of_mortal = match &mut self.role {
            Role::Mortal(mortal, _) => Some(mortal.next()),
            Role::Patient(patient, _) => {
                patient.asks();
                None
            }
            _ => None,
        };
        let hello = Hello {
            version: self.version,
            client_id: self.name.clone(),
            clean_start: self.clean,
            session_expiry: match self.role {
                _ if ends => 0,
                Role::Deserter { by: EndsBy::Expiry, .. } => 1,
                _ => of_mortal.unwrap_or(1_000_000),
            },
            keep_alive: 0,
            receive_maximum: None,
            topic_alias_maximum: 0,
            will,
        };
        wire::put_connect(&hello, &mut self.out);
        self.expected = match self.clean {
            true => Some(false),
            false => self.there.filter(|_| !self.is_uncertain),
        };
        self.is_answered = false;
        // Whether this comes to something, only CONNACK tells.
        self.there = self.there.filter(|there| *there != self.clean);
        self.net = Some(world.connect());
    }

    fn act(&mut self, rng: &mut Rng) {
        match &mut self.role {
            Role::Publisher { .. }
                if self.open.len() < usize::from(OUTSTANDING) && rng.u8(0..4) == 0 =>
            {
                self.begin_message();
            }
            Role::Hurried(_) if self.open.len() < 3 && rng.u8(0..8) == 0 => self.begin_message(),
            Role::Setter(setter, _) if self.open.len() < 2 && setter.acts(rng) => {
                self.begin_message();
            }
            Role::Publisher { .. } if self.version == Version::V31 && rng.u8(0..8) == 0 => {
                self.say_again(rng);
            }
            Role::Collector(collector) if rng.u8(0..20) == 0 => {
                collector.ask(self.version, rng.bool(), &mut self.out);
            }
            Role::Fickle(fickle) if fickle.is_answered && rng.u8(0..6) == 0 => {
                fickle.turn(self.version, &mut self.out);
            }
            Role::Deserter { by: EndsBy::Disconnect, .. }
                if self.subscribed && rng.u8(0..30) == 0 =>
            {
                self.disconnect(Some(0));
                (self.left, self.subscribed) = (true, false);
            }
            Role::Mortal(mortal, _) if self.subscribed && rng.u8(0..20) == 0 => {
                if let Some(interval) = mortal.shortens(rng) {
                    self.disconnect(Some(interval));
                }
            }
            Role::Leaver { filter, .. } if self.subscribed && rng.u8(0..10) == 0 => {
                wire::put_unsubscribe(self.version, PacketId::MIN, filter, &mut self.out);
                self.subscribed = false;
                self.subscribe();
            }
            _ => {}
        }
    }

    fn disconnect(&mut self, session_expiry_interval: Option<u32>) {
        let reason = ReasonCode::Success;
        let packet = Disconnect { session_expiry_interval, ..Disconnect::new(reason) };
        wire::put(self.version, &Packet::Disconnect(packet), &mut self.out);
        self.admitted = false;
    }

    /// A publisher's.
    pub(crate) fn begin_message(&mut self) {
        let number = self.sent.get();
        self.sent.set(number + 1);
        match &mut self.role {
            Role::Setter(setter, _) => setter.begins(number),
            Role::Hurried(hurried) => hurried.begins(),
            _ => {}
        }
        self.next_id = self.next_id % 50 + 1;
        let id = PacketId::new(self.next_id).expect("not 0");
        self.open.insert(number, (id, Half::Publish));
        self.publish(number, id, false);
    }

    /// 3.1 lets a client that has no answer yet send again what it has sent.
    fn say_again(&mut self, rng: &mut Rng) {
        let open = rng.choice(self.open.clone());
        open.into_iter().for_each(|(number, (id, half))| self.repeat(number, id, half));
    }

    fn repeat(&mut self, number: u32, id: PacketId, half: Half) {
        match half {
            Half::Publish => {
                self.repeated.insert(number);
                self.publish(number, id, true);
            }
            Half::Release => {
                let (kind, reason) = (AckKind::PubRel, ReasonCode::Success);
                encode_ack(self.version, kind, id, reason, &mut self.out);
            }
        }
    }

    fn publish(&mut self, number: u32, id: PacketId, dup: bool) {
        if let Role::Founder { .. } = self.role {
            let (topic, text) = (format!("{TOPICS}{number}"), number.to_string());
            let (flags, more) = ((QoS::ExactlyOnce, dup, true), (Some(id), None));
            let content = (&*topic, text.as_bytes());
            return wire::put_publish(self.version, content, flags, more, &mut self.out);
        }
        if let Role::Setter(setter, qos) = &self.role {
            let (flags, more) = ((*qos, dup, true), (Some(id), None));
            let content = (setter.topic, &*setter.payload(number));
            let content = (content.0, content.1.as_bytes());
            return wire::put_publish(self.version, content, flags, more, &mut self.out);
        }
        if let Role::Hurried(Hurried { topic, qos, retain, .. }) = &self.role {
            let (text, interval) = (number.to_string(), Hurried::interval(number));
            let (flags, more) = ((*qos, dup, *retain), (Some(id), Some(interval)));
            let content = (*topic, text.as_bytes());
            return wire::put_publish(self.version, content, flags, more, &mut self.out);
        }
        let Role::Publisher { topic, qos, retain, clears } = &self.role else { return };
        let is_empty = *clears && (number + 1).is_multiple_of(CLEARS_EVERY);
        let text = if is_empty { String::new() } else { number.to_string() };
        let (flags, more) = ((*qos, dup, *retain), (Some(id), self.is_brief().then_some(1)));
        wire::put_publish(self.version, (topic, text.as_bytes()), flags, more, &mut self.out);
    }

    fn subscribe(&mut self) {
        match &mut self.role {
            Role::Reader(reader) => reader.asks(),
            Role::Mortal(mortal, _) => mortal.subscribes(),
            _ => {}
        }
        let Some((filter, qos)) = self.role.filter() else { return };
        let filter = SubscribeFilter::new(filter, qos);
        wire::put_subscribe(self.version, PacketId::MIN, filter, None, &mut self.out);
    }
}
