//! Each field of each session is over a kill what it was before, as its client sees it.
//!
//! Clients do one thing after the other, and a model says what has to come. `FIELDS_SEEDS=200 cargo test --test
//! durability fields` plays that many seeds, from a random one on or from `FIELDS_FROM`; `FIELDS_SEED=42` plays
//! one and tells what is done.

mod clients;
mod lives;
mod model;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Instant;

use fastrand::Rng;

use crate::common::property::{
    CONTENT_TYPE, CORRELATION_DATA, PAYLOAD_FORMAT_INDICATOR, Property, RESPONSE_TOPIC,
    TOPIC_ALIAS, binary, byte, message_expiry, text, topic_alias, user,
};
use crate::common::{Client, Connect, Message, Publish, V5, Version};
use crate::process::Broker;
use model::{Kept, Sent, Session, State};

/// Names that have what UTF-8 may have. The last client is given its name by the broker.
const NAMES: [&str; 4] = ["client", "\u{FFFF}/\u{1F600}+#", " \u{FEFF}\"\\\u{1}\u{85}", ""];
const CLIENTS: usize = NAMES.len();

const TOPICS: [&str; 9] =
    ["a/b", "a/b/c", "a", "a//b", "/", " ", "\u{E4}/\u{FFFF}", "a/\u{10FFFF}\"\\\u{7F}", "b/b"];
const FILTERS: [&str; 12] = [
    "a/b",
    "a/+",
    "a/#",
    "#",
    "+/b",
    "+/+",
    "a//b",
    "/+",
    "\u{E4}/\u{FFFF}",
    " ",
    "will/#",
    "a/+/c",
];

/// Sessions that nobody comes for: who waits until they all have a message waits for all shards.
const ANCHORS: usize = 12;

/// A connection, and what it was told.
struct Connection {
    client: Client,
    version: Version,
    window: usize,
    maximum_packet_size: usize,
    /// What is in flight and was sent on it.
    sent: BTreeSet<u16>,
    /// Too large, and nothing has come since: of QoS 2 each takes a commit to be gone.
    unseen: usize,
    /// The topics that stand behind Topic Aliases.
    aliases: BTreeMap<u32, String>,
}

struct World {
    broker: Broker,
    rng: Rng,
    names: [String; CLIENTS],
    sessions: [Option<Session>; CLIENTS],
    connections: [Option<Connection>; CLIENTS],
    publisher: Client,
    /// The topics that stand behind the Topic Aliases of the publisher.
    aliases: BTreeMap<u16, String>,
    retained: BTreeMap<String, Rc<Sent>>,
    max_inflight: usize,
    /// Bytes of a long message.
    long: usize,
    /// Messages that anchors have each.
    syncs: usize,
    /// Wills that the watcher has.
    watched: usize,
    count: u32,
    batch: u32,
    tells: bool,
}

impl World {
    fn new(seed: u64, tells: bool) -> Self {
        let mut rng = Rng::with_seed(seed);
        let engine = ["fjall", "sqlite"][rng.usize(..2)];
        let broker = Broker::start(engine, rng.u8(1..=3));
        let anchors = (0..ANCHORS).map(|n| (format!("anchor {n}"), "sync"));
        for (id, filter) in anchors.chain([("watcher".to_owned(), "will/#")]) {
            let mut client = broker.connect_with(&Connect::lasting(V5, &id)).0;
            client.subscribe(filter, 1);
            client.disconnect();
        }
        let publisher = broker.connect(V5, "publisher");
        Self {
            broker,
            rng,
            names: NAMES.map(str::to_owned),
            sessions: Default::default(),
            connections: Default::default(),
            publisher,
            aliases: BTreeMap::new(),
            retained: BTreeMap::new(),
            max_inflight: 1000,
            long: 6000,
            syncs: 0,
            watched: 0,
            count: 0,
            batch: 0,
            tells,
        }
    }

    fn tell(&self, what: impl FnOnce() -> String) {
        if self.tells {
            eprintln!("{}", what());
        }
    }

    /// One in so many times.
    fn one_in(&mut self, count: u32) -> bool {
        self.rng.u32(..count) == 0
    }

    fn properties(&mut self) -> Vec<Property> {
        let mut all = vec![
            byte(PAYLOAD_FORMAT_INDICATOR, self.rng.u8(..2)),
            text(CONTENT_TYPE, ["", "text/plain; charset=utf-8"][self.rng.usize(..2)]),
            text(RESPONSE_TOPIC, "answers/\u{1F600}\u{FFFE}"),
            binary(CORRELATION_DATA, &[0, 255, self.rng.u8(..)][..self.rng.usize(..=3)]),
        ];
        all.retain(|_| self.rng.bool());
        for _ in 0..self.rng.usize(..4) {
            let name = ["a", "b", "", "\u{1F600}"][self.rng.usize(..4)];
            all.push(user(name, &self.rng.u8(..9).to_string()));
        }
        all
    }

    /// A message that is new; what is retained is short.
    fn message(&mut self, topic: &str, qos: u8, retain: bool, version: Version) -> Sent {
        self.count += 1;
        let long = if retain || self.one_in(2) { 0 } else { self.long };
        let long = if long > 600 && self.one_in(8) { 40_000 } else { long };
        let mut payload = format!("{}{:long$}", self.count, "").into_bytes();
        let is_text = !self.one_in(4);
        if !is_text {
            payload.extend([0xFF, 0, 0xC3]);
        }
        let mut message = Message::new(topic, payload).qos(qos);
        message.retain = retain;
        if !version.is_v5() {
            return Sent { message, expires: None };
        }
        message.properties = self.properties();
        // What is said to be text has to be.
        message.properties.retain(|property| is_text || property.id != PAYLOAD_FORMAT_INDICATOR);
        let expires = self.one_in(3).then(|| (self.rng.u32(1000..2000), Instant::now()));
        Sent { message, expires }
    }

    /// Publishes: from a client, or from one without a session.
    fn publish(&mut self, from: Option<usize>) {
        let version = from.and_then(|it| self.connections[it].as_ref()).map_or(V5, |it| it.version);
        let retain = self.one_in(3);
        let topic = TOPICS[self.rng.usize(..TOPICS.len())];
        let qos = self.rng.u8(u8::from(retain)..=2);
        let mut sent = self.message(topic, qos, retain, version);
        if retain && self.one_in(4) {
            sent.message.payload.clear();
        }
        self.tell(|| format!("{from:?} publishes {}", sent.told()));
        let mut message = sent.message.clone();
        message.properties.extend(sent.expires.map(|(seconds, _)| message_expiry(seconds)));
        match from.and_then(|it| self.connections[it].as_mut()) {
            Some(connection) => connection.client.deliver(message),
            None => {
                if self.one_in(3) {
                    self.use_alias(&mut message);
                }
                self.publisher.deliver(message);
            }
        }
        self.route(&Rc::new(sent), from, 0);
        if qos == 0 {
            // It has no answer.
            self.sync(0);
        }
    }

    /// The topic goes by a Topic Alias, which stays that of the connection.
    fn use_alias(&mut self, message: &mut Message) {
        let alias = self.rng.u16(1..=3);
        message.properties.push(topic_alias(alias));
        let before = self.aliases.insert(alias, message.topic.clone());
        if before.is_some_and(|topic| topic == message.topic) {
            message.topic.clear();
        }
    }

    /// What becomes of a message; those who are there are looked at.
    fn route(&mut self, sent: &Rc<Sent>, from: Option<usize>, batch: u32) {
        let Message { topic, payload, retain, .. } = &sent.message;
        if *retain {
            match payload.is_empty() {
                true => _ = self.retained.remove(topic),
                false => _ = self.retained.insert(topic.clone(), sent.clone()),
            }
        }
        for at in 0..CLIENTS {
            let Some(session) = &mut self.sessions[at] else { continue };
            let Some(kept) = session.delivery(sent, from == Some(at), batch) else { continue };
            if kept.qos > 0 {
                session.kept.push(kept);
                self.pump(at);
            } else if let Some(connection) = &mut self.connections[at] {
                connection.expect_at_once(vec![kept]);
            }
        }
    }

    /// Looks at what a client that is there has to be sent.
    fn pump(&mut self, at: usize) {
        if let (Some(session), Some(connection)) =
            (&mut self.sessions[at], &mut self.connections[at])
        {
            connection.resend(session);
            connection.send_queued(session);
        }
    }

    /// All that was done so far is stored; what comes by it is of a batch.
    fn sync(&mut self, batch: u32) {
        for connection in self.connections.iter_mut().flatten() {
            connection.client.ping();
        }
        let message = Message::new("sync", self.syncs.to_string()).qos(1);
        self.tell(|| format!("sync {}", self.syncs));
        self.syncs += 1;
        self.publisher.deliver(message.clone());
        self.route(&Rc::new(Sent { message, expires: None }), None, batch);
    }

    /// What is too large for a client is gone.
    fn settle(&mut self, at: usize) {
        let unseen = self.connections[at].as_mut().map(|it| std::mem::take(&mut it.unseen));
        for _ in 0..unseen.unwrap_or(0) {
            self.sync(0);
        }
    }

    fn step(&mut self) {
        let at = self.rng.usize(..CLIENTS);
        let is_there = self.connections[at].is_some();
        match self.rng.u32(..36) {
            _ if !is_there && self.one_in(3) => self.connect(at),
            0 => self.connect(at),
            1 if is_there => self.leave(at),
            2 if is_there => self.hang_up(at),
            3..=9 if is_there => self.subscribe(at),
            10 if is_there => self.unsubscribe(at),
            11..=15 if is_there => self.publish(Some(at)),
            16..=18 if is_there => self.hold(at),
            19 | 20 if is_there => self.let_go(at),
            21..=28 if is_there => self.acknowledge(at),
            29 => self.restart(),
            _ => self.publish(None),
        }
    }
}

impl Connection {
    /// What comes next, with its topic by name.
    fn take_publish(&mut self) -> Publish {
        let mut publish = self.client.take_publish();
        if let Some(alias) = publish.properties.number(TOPIC_ALIAS) {
            match publish.topic.as_str() {
                "" => publish.topic.clone_from(&self.aliases[&alias]),
                topic => _ = self.aliases.insert(alias, topic.to_owned()),
            }
            publish.properties.0.retain(|property| property.id != TOPIC_ALIAS);
        }
        publish
    }

    fn fits(&self, kept: &Kept) -> bool {
        kept.size(self.version) <= self.maximum_packet_size
    }

    /// What does not wait comes, in any order.
    fn expect_at_once(&mut self, mut all: Vec<Kept>) {
        all.retain(|kept| self.fits(kept));
        while !all.is_empty() {
            let publish = self.take_publish();
            let found = all.iter().position(|kept| kept.is_what_came(&publish));
            let found = found.unwrap_or_else(|| panic!("{publish:?} is none of {all:#?}"));
            all.swap_remove(found).assert_is(&publish, false, self.version);
        }
    }

    /// What was in flight comes again, in its order and under its identifiers [MQTT-4.4.0-1], as far as the
    /// window goes; what is too large is gone [MQTT-3.1.2-25].
    fn resend(&mut self, session: &mut Session) {
        let mut at = 0;
        while let Some(kept) = session.kept.get(at) {
            match kept.state {
                State::InFlight(id) if !self.sent.contains(&id) => {
                    if session.released() + self.sent.len() >= self.window {
                        return;
                    }
                    if !self.fits(kept) {
                        session.kept.remove(at);
                        continue;
                    }
                    let publish = self.take_publish();
                    kept.assert_is(&publish, true, self.version);
                    assert_eq!(publish.id, id, "the identifier of {}", kept.sent.told());
                    self.sent.insert(id);
                }
                _ => {}
            }
            at += 1;
        }
    }

    /// What is queued comes, as far as the window goes.
    fn send_queued(&mut self, session: &mut Session) {
        let is_unsent =
            |kept: &Kept| matches!(kept.state, State::InFlight(id) if !self.sent.contains(&id));
        if session.kept.iter().any(is_unsent) {
            return;
        }
        while let Some(at) = session.position(State::Queued)
            && session.released() + self.sent.len() < self.window
        {
            if !self.fits(&session.kept[at]) {
                session.kept.remove(at);
                self.unseen += 1;
                continue;
            }
            let publish = self.take_publish();
            self.unseen = 0;
            let batch = session.kept[at].batch;
            let same = |kept: &&Kept| batch > 0 && kept.batch == batch;
            let count = session.kept[at..].iter().take_while(same).count();
            let found =
                session.kept[at..at + count].iter().position(|it| it.is_what_came(&publish));
            let mut kept = session.kept.remove(at + found.unwrap_or(0));
            kept.assert_is(&publish, false, self.version);
            let is_free = |kept: &Kept| match kept.state {
                State::Queued => true,
                State::InFlight(id) | State::Released(id, _) => id != publish.id,
            };
            assert!(session.kept.iter().all(is_free), "{} is in use", publish.id);
            (kept.state, kept.batch) = (State::InFlight(publish.id), 0);
            session.kept.insert(at, kept);
            self.sent.insert(publish.id);
        }
    }
}

/// So many things are done with one broker.
const STEPS: u32 = 140;

fn play(seed: u64, tells: bool) {
    let mut world = World::new(seed, tells);
    for _ in 0..STEPS {
        world.step();
    }
    world.restart();
    world.drain();
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn fields_of_sessions() {
    if let Some(seed) = variable("FIELDS_SEED") {
        return play(seed, true);
    }
    let count = variable("FIELDS_SEEDS");
    let random = if count.is_some() { fastrand::u64(..1 << 40) } else { 0 };
    let first = variable("FIELDS_FROM").unwrap_or(random);
    for seed in first..first + count.unwrap_or(2) {
        let played = std::panic::catch_unwind(|| play(seed, false));
        assert!(played.is_ok(), "again: FIELDS_SEED={seed} cargo test --test durability fields");
    }
}
