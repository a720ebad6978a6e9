//! What must be true of a broker, held against what its clients see.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use sluice::mqtt::QoS;
use sluice::shard::OverflowOffline;
use sluice::timer::Time;

use crate::broker::Event;
use crate::plan::Plan;
use crate::session::Session;
use crate::turns::Turns;

/// How late the end of a session may be noticed.
const EXPIRY_MARGIN_MS: u64 = 2_000;

/// Who publishes, on which topic, at which QoS, and at which QoS it is delivered: what is in order.
pub(crate) type Flow = (usize, String, QoS, QoS);

/// A message that somebody published, once or again.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) publisher: usize,
    pub(crate) topic: String,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    /// An empty payload, which clears what is retained.
    pub(crate) clears: bool,
    pub(crate) will: bool,
    /// The moments at which it was sent.
    pub(crate) sendings: Vec<u64>,
    /// When the publisher was told that it is kept.
    pub(crate) acknowledged: Option<u64>,
    /// The publisher has been told that it is not.
    pub(crate) refused: bool,
    /// How often a member of a shared group got it as a new message at QoS 2.
    deliveries: u32,
}

impl Message {
    pub(crate) fn is_shared(&self) -> bool {
        self.topic.starts_with('s')
    }

    fn first_sent(&self) -> u64 {
        self.sendings.first().copied().unwrap_or(u64::MAX)
    }
}

/// Takes a flow on to a delivery; fails with how far it was if that has to be later, and is not. What is
/// retained may come again, but not after something newer.
fn advance(
    order: &mut BTreeMap<Flow, u64>,
    flow: Flow,
    delivery: &Delivery<'_>,
    has_to_be_later: bool,
) -> Result<(), u64> {
    let Delivery { sending, retain, .. } = *delivery;
    let last = order.entry(flow).or_insert(0);
    if has_to_be_later && (sending < *last || sending == *last && !retain) {
        return Err(*last);
    }
    *last = sending.max(*last);
    Ok(())
}

/// One connection of the simulated network.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) client: String,
    pub(crate) clean_start: bool,
    /// Seconds that its session outlives it.
    pub(crate) expiry: u32,
    pub(crate) will: Option<usize>,
    pub(crate) will_delayed: bool,
    pub(crate) keeps_alive: bool,
    /// The client has begun to send DISCONNECT.
    pub(crate) goodbye: bool,
    /// The session that the broker let it into, and whether that was there before.
    pub(crate) session: Option<(usize, bool)>,
    over: bool,
    /// How far each flow has come on this connection.
    order: BTreeMap<Flow, u64>,
}

impl Link {
    pub(crate) fn new(client: &str, clean_start: bool, expiry: u32) -> Self {
        Self {
            client: client.to_owned(),
            clean_start,
            expiry,
            will: None,
            will_delayed: false,
            keeps_alive: false,
            goodbye: false,
            session: None,
            over: false,
            order: BTreeMap::new(),
        }
    }
}

/// A PUBLISH that reached a client.
pub(crate) struct Delivery<'a> {
    pub(crate) message: usize,
    pub(crate) sending: u64,
    pub(crate) topic: &'a str,
    pub(crate) qos: QoS,
    pub(crate) dup: bool,
    pub(crate) retain: bool,
}

pub(crate) struct Model {
    pub(crate) messages: Vec<Message>,
    pub(crate) links: BTreeMap<u32, Link>,
    pub(crate) sessions: Vec<Session>,
    /// The newest session of each client.
    of_client: BTreeMap<String, usize>,
    pub(crate) turns: Turns,
    /// Counts what clients do: the time by which causes and effects are told apart.
    moment: u64,
    lossless: bool,
    honest: bool,
    retries: bool,
    /// Sessions whose queues overflow while they are absent end.
    overflow_ends: bool,
    /// Not even QoS 0 is lost.
    calm: bool,
    /// Only clients end connections.
    peaceful: bool,
    /// Wills that have to be published, and since when.
    wills: Vec<(usize, u64)>,
    trace: DefaultHasher,
    verbose: bool,
    pub(crate) delivered: u64,
}

impl Model {
    pub(crate) fn new(plan: &Plan, verbose: bool) -> Self {
        Self {
            messages: Vec::new(),
            links: BTreeMap::new(),
            sessions: Vec::new(),
            of_client: BTreeMap::new(),
            turns: Turns::new(plan.shards),
            moment: 0,
            lossless: plan.lossless,
            honest: plan.honest,
            retries: plan.retries,
            overflow_ends: !plan.lossless
                && plan.settings.overflow_offline == OverflowOffline::EndSession,
            calm: plan.calm,
            peaceful: plan.lossless && !plan.retries && plan.options.faults.reset == 0.0,
            wills: Vec::new(),
            trace: DefaultHasher::new(),
            verbose,
            delivered: 0,
        }
    }

    /// Adds a line to the history of the run.
    pub(crate) fn note(&mut self, now: Time, line: std::fmt::Arguments<'_>) {
        let line = line.to_string();
        if self.verbose {
            eprintln!("{:>8} {line}", now.0);
        }
        (now.0, line).hash(&mut self.trace);
    }

    /// What the history so far amounts to.
    pub(crate) fn trace(&self) -> u64 {
        self.trace.finish()
    }

    pub(crate) fn tick(&mut self) -> u64 {
        self.moment += 1;
        self.moment
    }

    pub(crate) fn session(&mut self, connection: u32) -> Option<&mut Session> {
        let (session, _) = self.links.get(&connection)?.session?;
        self.sessions.get_mut(session)
    }

    pub(crate) fn publish(&mut self, publisher: usize, topic: &str, qos: QoS) -> usize {
        self.messages.push(Message {
            publisher,
            topic: topic.to_owned(),
            qos,
            retain: false,
            clears: false,
            will: false,
            sendings: Vec::new(),
            acknowledged: None,
            refused: false,
            deliveries: 0,
        });
        self.messages.len() - 1
    }

    /// A message is sent, or sent again.
    pub(crate) fn send(&mut self, message: usize) -> u64 {
        let moment = self.tick();
        self.messages[message].sendings.push(moment);
        moment
    }

    /// The publisher has PUBACK or PUBREC: sessions on other shards have the message, too.
    pub(crate) fn acknowledged(
        &mut self,
        publisher: &str,
        message: usize,
        reason: u8,
        now: Time,
    ) -> Result<(), String> {
        let moment = self.tick();
        let it = &mut self.messages[message];
        if reason >= 0x80 {
            it.refused = true;
            if self.lossless && (reason != 0x97 || !it.is_shared()) {
                return Err(format!("message {message} is refused with {reason:#x}: {it:?}"));
            }
            return Ok(());
        }
        it.acknowledged = Some(moment);
        let (topic, sent) = (it.topic.clone(), it.first_sent());
        if it.is_shared() || it.clears {
            return Ok(());
        }
        for session in self.sessions.iter_mut().filter(|session| session.alive) {
            if session.wants_since(&topic) < sent {
                session.expected.insert(message);
                let ended = session.ends_at.is_some_and(|end| end <= now) || self.overflow_ends;
                if !ended && !self.turns.heard(publisher, &session.client, sent) {
                    let client = &session.client;
                    return Err(format!("message {message} is acknowledged, not kept by {client}"));
                }
            }
        }
        Ok(())
    }

    /// What the broker says of itself.
    pub(crate) fn told(&mut self, shard: usize, event: Event, now: Time) -> Result<(), String> {
        self.note(now, format_args!("{event:?}"));
        match event {
            Event::Connected { connection, client, present } => {
                self.turns.settle(&client, shard);
                self.let_in(connection, &client, present, now)
            }
            Event::Disconnected { client } => self.let_go(&client, now),
        }
    }

    fn let_in(
        &mut self,
        connection: u32,
        client: &str,
        present: bool,
        now: Time,
    ) -> Result<(), String> {
        let Some(link) = self.links.get_mut(&connection) else {
            return Err(format!("unknown connection {connection} was let in"));
        };
        if link.client != client || link.session.is_some() {
            return Err(format!("connection {connection} of {} let in as {client}", link.client));
        }
        let known = self.of_client.get(client).copied().filter(|&it| self.sessions[it].alive);
        if let Some(session) = known {
            let session = &self.sessions[session];
            if let Some(other) = session.connection {
                return Err(format!("{client} has connections {other} and {connection} at once"));
            }
            let early = session.ends_at.is_none_or(|end| now < end) && !self.overflow_ends;
            let late = session.ends_at.is_some_and(|end| now.0 > end.0 + EXPIRY_MARGIN_MS);
            if present && late || !present && early && !link.clean_start {
                let end = session.ends_at;
                return Err(format!("session present {present} for {client}; it ends at {end:?}"));
            }
        } else if present {
            return Err(format!("session present for {client}, which has none"));
        }
        if present && link.clean_start {
            return Err(format!("session present for {client}, which wanted a clean start"));
        }
        let session = match known.filter(|_| present) {
            Some(session) => session,
            None => {
                if let Some(old) = known {
                    self.sessions[old].alive = false;
                }
                self.sessions.push(Session::new(client));
                self.of_client.insert(client.to_owned(), self.sessions.len() - 1);
                self.sessions.len() - 1
            }
        };
        link.session = Some((session, present));
        self.sessions[session].connection = Some(connection);
        self.sessions[session].ends_at = None;
        Ok(())
    }

    fn let_go(&mut self, client: &str, now: Time) -> Result<(), String> {
        let session = self.of_client.get(client).copied();
        let taken = session.and_then(|it| self.sessions[it].connection.take().map(|c| (it, c)));
        let Some((session, connection)) = taken else {
            return Err(format!("{client} was disconnected, and was not connected"));
        };
        let moment = self.tick();
        let Some(link) = self.links.get_mut(&connection) else { return Ok(()) };
        link.over = true;
        match link.expiry {
            0 => self.sessions[session].alive = false,
            u32::MAX => {}
            seconds => {
                let end = Time(now.0 + u64::from(seconds) * 1000);
                self.sessions[session].ends_at = Some(end);
            }
        }
        let kept = |will: &usize| self.messages[*will].qos > QoS::AtMostOnce;
        if let Some(will) = link.will.filter(kept)
            && !(link.goodbye || link.will_delayed)
        {
            self.wills.push((will, moment));
        }
        Ok(())
    }

    /// A client has a message: QoS 2 for the first time.
    pub(crate) fn deliver(
        &mut self,
        connection: u32,
        delivery: &Delivery<'_>,
    ) -> Result<(), String> {
        self.delivered += 1;
        let Delivery { message, sending, topic, qos, dup, retain } = *delivery;
        let is_will = self.messages.get(message).is_some_and(|it| it.will);
        let in_peace = is_will && self.left_in_peace(message);
        let Some(link) = self.links.get_mut(&connection) else { return Ok(()) };
        let Some((session, present)) = link.session else {
            return Err(format!("{} gets messages before it is let in", link.client));
        };
        let session = &mut self.sessions[session];
        let Some(it) = self.messages.get_mut(message) else {
            return Err(format!("message {message} was never published"));
        };
        let describe =
            || format!("message {message}.{sending} at {qos:?} dup {dup} to {}", link.client);
        if it.topic != topic || !(it.sendings.contains(&sending) || it.will) || qos > it.qos {
            return Err(format!("{} on {topic}, which is {it:?}", describe()));
        }
        if dup && !present && !self.retries {
            return Err(format!("{}: the session is new", describe()));
        }
        if retain && !it.retain {
            return Err(format!("{}: retained, which it is not", describe()));
        }
        // When a will was published is not known so exactly.
        let since = if it.will { u64::MIN } else { sending };
        if !session.may_want(topic, since, qos) {
            return Err(format!("{}: nobody asked for it, {session:?}", describe()));
        }
        session.got.insert(message);
        if it.retain {
            session.retained.insert(topic.to_owned(), message);
        }
        if it.is_shared() {
            // At QoS 1 a message may go to another member when one leaves.
            it.deliveries += u32::from(qos == QoS::ExactlyOnce);
            if it.deliveries > 1 {
                return Err(format!("{}: another member had it", describe()));
            }
            return Ok(());
        }
        if it.will {
            if in_peace {
                return Err(format!("{}: its client said goodbye", describe()));
            }
            if !session.wills.insert(message) && !dup {
                return Err(format!("{}: a will comes twice", describe()));
            }
            return Ok(());
        }
        if it.qos == QoS::ExactlyOnce
            && qos == QoS::ExactlyOnce
            && !retain
            && !session.got_once.insert(message)
        {
            return Err(format!("{}: QoS 2 comes twice", describe()));
        }
        let flow: Flow = (it.publisher, topic.to_owned(), it.qos, qos);
        advance(&mut session.order, flow.clone(), delivery, !dup)
            .map_err(|last| format!("{} retain {retain}: after {last}", describe()))?;
        advance(&mut link.order, flow, delivery, !self.retries)
            .map_err(|last| format!("{}: after {last} on this connection", describe()))
    }

    /// The client of this will sent DISCONNECT, and nothing but that can have ended its connection.
    fn left_in_peace(&self, will: usize) -> bool {
        let mut links = self.links.values();
        self.peaceful
            && links.any(|link| link.will == Some(will) && link.goodbye && !link.keeps_alive)
    }

    /// What has to have arrived by now, and has not.
    pub(crate) fn missing(&self) -> Option<String> {
        let here = || self.sessions.iter().filter(|it| it.alive && it.connection.is_some());
        if self.lossless {
            for session in here() {
                if let Some(message) = session.expected.difference(&session.got).next() {
                    let it = &self.messages[*message];
                    let client = &session.client;
                    return Some(format!("{client} never got message {message}: {it:?}"));
                }
            }
            for &(will, since) in &self.wills {
                let topic = &self.messages[will].topic;
                let without = |s: &&Session| s.wants_since(topic) < since && !s.got.contains(&will);
                if let Some(session) = here().find(without) {
                    return Some(format!("{} never got the will {will}", session.client));
                }
            }
        }
        self.messages.iter().enumerate().find_map(|(number, it)| {
            let sent = it.first_sent();
            if it.qos == QoS::AtMostOnce && self.calm && !it.is_shared() && !it.clears && !it.will {
                let lacks =
                    |s: &&Session| s.wants_since(&it.topic) < sent && !s.got.contains(&number);
                let session = self.all_connected().then(|| here().find(lacks))?;
                return session.map(|it| format!("{} never got message {number}", it.client));
            }
            let kept = match (it.is_shared(), self.lossless) {
                (true, true) => it.qos == QoS::AtLeastOnce,
                (false, false) => self.honest && self.all_stay(it),
                _ => false,
            };
            let wanted = || here().any(|it_s| it_s.wants_since(&it.topic) < sent);
            let got = || self.sessions.iter().any(|session| session.got.contains(&number));
            (it.acknowledged.is_some() && kept && !it.retain && wanted() && !got())
                .then(|| format!("nobody got message {number}: {it:?}"))
        })
    }

    /// No connection has ended.
    fn all_connected(&self) -> bool {
        self.links.values().all(|link| !link.over)
    }

    /// Nobody who may have been given the message has left, nor had it at QoS 0.
    fn all_stay(&self, message: &Message) -> bool {
        let Message { topic, acknowledged: Some(moment), .. } = message else { return false };
        let concerned = self.sessions.iter().filter(|it| it.asked_before(topic, *moment));
        concerned.into_iter().all(|session| {
            session.alive
                && session.connection.is_some()
                && session.wants_since(topic) < message.first_sent()
                && !session.ever_at_most_once(topic)
        })
    }

    /// The messages that may be retained on a topic of one writer, when all is quiet; `None` among
    /// them if nothing may be.
    pub(crate) fn may_be_retained(&self, topic: &str) -> BTreeSet<Option<usize>> {
        let on_topic =
            || self.messages.iter().enumerate().filter(|(_, it)| it.retain && it.topic == topic);
        let settled =
            on_topic().filter(|(_, it)| it.acknowledged.is_some()).map(|(_, it)| it.first_sent());
        let newest = settled.max();
        let mut may: BTreeSet<_> = on_topic()
            .filter(|(_, it)| newest.is_none_or(|newest| it.sendings.iter().any(|&s| s >= newest)))
            .map(|(number, it)| (!it.clears).then_some(number))
            .collect();
        if newest.is_none() {
            may.insert(None);
        }
        may
    }

    pub(crate) fn topics_retained(&self) -> BTreeSet<String> {
        self.messages.iter().filter(|it| it.retain).map(|it| it.topic.clone()).collect()
    }
}

/// Whether a filter, shared or not, wants a topic: all are of two levels.
pub(crate) fn wants(filter: &str, topic: &str) -> bool {
    let plain = match filter.strip_prefix("$share/") {
        Some(shared) => shared.split_once('/').map_or(shared, |(_, filter)| filter),
        None => filter,
    };
    match plain.as_bytes() {
        [before @ .., b'+' | b'#'] => topic.as_bytes().starts_with(before),
        exact => exact == topic.as_bytes(),
    }
}
