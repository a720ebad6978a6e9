//! Three shards do things by chance, many of them as acts that meet: messages go on, are dropped, and end before
//! they are stored. After each commit the machine might stop: the store holds what a model says it may.

mod check;

use std::collections::VecDeque;

use fastrand::Rng;
use sluice::mqtt::{Message, QoS};
use sluice::session::{Change, SubscriptionRecord};
use sluice::store::{ActId, Memory, Part, Turn};

use crate::turns::{Bench, START, id, message, queued, retained, session};

const SEEDS: u64 = 100;
const SHARDS: usize = 3;
const CLIENTS: usize = 6;
/// Messages of a queue beyond which the oldest is dropped, now and then.
const MAX_QUEUED: usize = 3;
const FILTER: &str = "$share/g/a/b";

/// What a shard has for another.
enum Mail {
    /// A message for a client that is at home there.
    Part(ActId, usize, usize),
    /// One that goes back to where its act began.
    Returned(ActId, usize),
}

/// A shard, and the turn that it is in.
#[derive(Default)]
struct Shard {
    turn: u64,
    changes: Vec<Change>,
    parts: Vec<Part>,
    handed: Vec<(ActId, u64)>,
    returned: Vec<ActId>,
    taken_back: Vec<ActId>,
    done: Vec<ActId>,
    /// The act at hand, the shards it was handed to, and its first change.
    act: Option<(ActId, u64, usize)>,
    outgoing: [Vec<Mail>; SHARDS],
    /// By sender: turns.
    incoming: [VecDeque<(u64, Vec<Mail>)>; SHARDS],
    /// Values of its topic, with the turns in which they were noted.
    retained: Vec<(u64, u64)>,
}

struct Client {
    number: u64,
    next_place: u64,
    /// What is queued, oldest first.
    queue: VecDeque<usize>,
    /// The turn in which its session began; nothing comes to it before that is committed.
    began: u64,
    sessions: Vec<(u64, Option<u64>)>,
    subscribed: Vec<(u64, bool)>,
}

/// A QoS 2 message as it came from a client.
struct Publication {
    client: usize,
    session: u64,
    packet_id: u16,
    turn: u64,
    /// The turn in which the identifier was freed, and whether the session had ended.
    freed: Option<(u64, bool)>,
}

/// A stay of a message with a session.
struct Stay {
    place: (u64, u64),
    shard: usize,
    came: u64,
    left: Option<u64>,
}

/// A message for one receiver, whoever that is by now.
struct Delivery {
    publication: usize,
    message: Message,
    flew: bool,
    gone: bool,
    stays: Vec<Stay>,
}

struct World {
    rng: Rng,
    bench: Bench,
    shards: [Shard; SHARDS],
    clients: Vec<Client>,
    publications: Vec<Publication>,
    deliveries: Vec<Delivery>,
    next_number: u64,
}

fn home(client: usize) -> usize {
    client % SHARDS
}

fn name(client: usize) -> String {
    format!("client {client}")
}

fn topic(shard: usize) -> String {
    format!("topic {shard}")
}

fn subscribed(session: u64) -> Change {
    let record = SubscriptionRecord {
        filter: FILTER.into(),
        qos: QoS::ExactlyOnce,
        no_local: false,
        retain_as_published: false,
        identifier: 0,
        retained_after: None,
    };
    Change::Subscribed(session, Box::new(record))
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            rng: Rng::with_seed(seed),
            bench: Bench::on(Memory::default(), SHARDS as u8, START),
            shards: std::array::from_fn(|_| Shard {
                turn: 1,
                retained: vec![(0, 0)],
                ..Shard::default()
            }),
            clients: Vec::new(),
            publications: Vec::new(),
            deliveries: Vec::new(),
            next_number: 1,
        };
        for client in 0..CLIENTS {
            let number = world.next_number();
            world.clients.push(Client {
                number,
                next_place: 1,
                queue: VecDeque::new(),
                began: 1,
                sessions: vec![(0, None), (1, Some(number))],
                subscribed: vec![(0, false), (1, true)],
            });
            world.note(home(client), session(&name(client), number));
            world.note(home(client), subscribed(number));
        }
        world
    }

    fn next_number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    fn committed(&self, shard: usize) -> u64 {
        self.bench.links[shard].committed()
    }

    fn is_there(&self, client: usize) -> bool {
        self.clients[client].began <= self.committed(home(client))
    }

    fn any_client(&mut self) -> usize {
        self.rng.usize(0..CLIENTS)
    }

    fn note(&mut self, shard: usize, change: Change) {
        self.shards[shard].changes.push(change);
    }

    fn begin_act(&mut self, shard: usize) {
        let act = (shard as u8, self.shards[shard].turn);
        self.join_act(shard, act);
    }

    fn join_act(&mut self, shard: usize, act: ActId) {
        let shard = &mut self.shards[shard];
        shard.act = Some((act, 0, shard.changes.len()));
    }

    fn end_act(&mut self, shard: usize) {
        let shard = &mut self.shards[shard];
        let (act, with, first) = shard.act.take().expect("it was begun");
        let end = shard.changes.len();
        if end > first {
            shard.parts.push(Part { first, end, act });
        }
        if with != 0 {
            shard.handed.push((act, with));
        }
    }

    /// Something that goes with what comes now, by chance.
    fn by_the_way(&mut self, shard: usize) {
        match self.rng.u8(0..8) {
            0 => self.retain(shard),
            1..3 => self.fly(shard),
            _ => {}
        }
    }

    /// Gives a message to a client, from a shard where an act is at hand.
    fn give(&mut self, from: usize, delivery: usize, client: usize) {
        let to = home(client);
        if to == from {
            return self.queue(delivery, client);
        }
        let shard = &mut self.shards[from];
        let (act, with, _) = shard.act.as_mut().expect("it is part of one");
        *with |= 1 << to;
        let part = Mail::Part(*act, delivery, client);
        shard.outgoing[to].push(part);
    }

    fn queue(&mut self, delivery: usize, client: usize) {
        if !self.is_there(client) {
            self.deliveries[delivery].gone = true;
            return;
        }
        if self.clients[client].queue.len() >= MAX_QUEUED && self.rng.bool() {
            let oldest = self.clients[client].queue[0];
            self.take(oldest, client);
            self.deliveries[oldest].gone = true;
        }
        let shard = home(client);
        let came = self.shards[shard].turn;
        let to = &mut self.clients[client];
        let place = (to.number, to.next_place);
        to.next_place += 1;
        to.queue.push_back(delivery);
        let this = &mut self.deliveries[delivery];
        this.stays.push(Stay { place, shard, came, left: None });
        this.flew = false;
        let change = queued(place.0, place.1, &this.message);
        self.note(shard, change);
    }

    /// Takes a message from a client.
    fn take(&mut self, delivery: usize, client: usize) {
        let shard = home(client);
        let turn = self.shards[shard].turn;
        self.clients[client].queue.retain(|one| *one != delivery);
        let this = &mut self.deliveries[delivery];
        let stay = this.stays.last_mut().expect("it is somewhere");
        stay.left = Some(turn);
        let ((session, place), message, number) = (stay.place, this.message.clone(), 0);
        let flew = this.flew;
        self.note(shard, Change::Removed { session, place, message, number, flew });
    }

    /// A client sends a QoS 2 message to some others.
    fn publish(&mut self) {
        let client = self.any_client();
        let shard = home(client);
        if !self.is_there(client) {
            return;
        }
        let (turn, session) = (self.shards[shard].turn, self.clients[client].number);
        let publication = self.publications.len();
        let packet_id = publication as u16 + 1;
        self.publications.push(Publication { client, session, packet_id, turn, freed: None });
        self.begin_act(shard);
        let message = message(&publication.to_string());
        for _ in 0..self.rng.usize(1..4) {
            let (message, stays) = (message.clone(), Vec::new());
            let delivery = self.deliveries.len();
            self.deliveries.push(Delivery {
                publication,
                message,
                flew: false,
                gone: false,
                stays,
            });
            let to = self.any_client();
            self.give(shard, delivery, to);
            self.by_the_way(shard);
        }
        self.note(shard, Change::Held(session, id(packet_id)));
        self.end_act(shard);
    }

    /// Takes in what a shard handed another in one turn.
    fn take_mail(&mut self) -> bool {
        let (shard, from) = (self.rng.usize(0..SHARDS), self.rng.usize(0..SHARDS));
        let Some((turn, items)) = self.shards[shard].incoming[from].pop_front() else {
            return false;
        };
        for item in items {
            match item {
                Mail::Part(act, delivery, client) => {
                    if self.rng.u8(0..8) == 0 && usize::from(act.0) != shard {
                        self.shards[shard].returned.push(act);
                        self.shards[shard].outgoing[usize::from(act.0)]
                            .push(Mail::Returned(act, delivery));
                        continue;
                    }
                    self.join_act(shard, act);
                    let to = if self.is_there(client) { client } else { self.any_client() };
                    self.give(shard, delivery, to);
                    self.by_the_way(shard);
                    self.end_act(shard);
                }
                Mail::Returned(act, delivery) => {
                    self.join_act(shard, act);
                    let to = self.any_client();
                    self.give(shard, delivery, to);
                    self.end_act(shard);
                    self.shards[shard].taken_back.push(act);
                }
            }
        }
        self.shards[shard].done.push((from as u8, turn));
        true
    }

    /// A client leaves its group: what is queued goes to others.
    fn unsubscribe(&mut self) {
        let client = self.any_client();
        let shard = home(client);
        let is_member = self.clients[client].subscribed.last().is_some_and(|(_, there)| *there);
        if !is_member || !self.is_there(client) {
            return;
        }
        self.begin_act(shard);
        let (turn, number) = (self.shards[shard].turn, self.clients[client].number);
        self.note(shard, Change::Unsubscribed(number, FILTER.into()));
        self.clients[client].subscribed.push((turn, false));
        self.give_away(client);
        self.end_act(shard);
    }

    fn subscribe(&mut self) {
        let client = self.any_client();
        if !self.is_there(client) {
            return;
        }
        let shard = home(client);
        let (turn, number) = (self.shards[shard].turn, self.clients[client].number);
        self.note(shard, subscribed(number));
        self.clients[client].subscribed.push((turn, true));
    }

    fn give_away(&mut self, client: usize) {
        for delivery in self.clients[client].queue.clone() {
            self.take(delivery, client);
            let to = self.any_client();
            if to == client {
                self.deliveries[delivery].gone = true;
            } else {
                self.give(home(client), delivery, to);
            }
            self.by_the_way(home(client));
        }
    }

    /// A session ends, and its client begins another.
    fn end_session(&mut self) {
        let client = self.any_client();
        let shard = home(client);
        let (turn, number) = (self.shards[shard].turn, self.clients[client].number);
        self.begin_act(shard);
        self.note(shard, Change::Unsubscribed(number, FILTER.into()));
        self.give_away(client);
        for index in 0..self.publications.len() {
            let one = &mut self.publications[index];
            if one.session == number && one.freed.is_none() {
                one.freed = Some((turn, true));
                let freed = Change::Freed(number, id(one.packet_id));
                self.note(shard, freed);
            }
        }
        self.note(shard, Change::Ended { client_id: name(client).into() });
        self.end_act(shard);
        let number = self.next_number();
        self.note(shard, session(&name(client), number));
        let this = &mut self.clients[client];
        this.sessions.extend([(turn, None), (turn, Some(number))]);
        (this.number, this.began, this.next_place) = (number, turn, 1);
        this.subscribed = vec![(0, false)];
    }

    /// A client has what it was sent.
    fn acknowledge(&mut self) {
        let client = self.any_client();
        let queue = &self.clients[client].queue;
        if let Some(delivery) = self.rng.choice(queue.iter().take(2)).copied() {
            self.take(delivery, client);
            self.deliveries[delivery].gone = true;
        }
    }

    /// Something is sent to a client of a shard.
    fn fly(&mut self, shard: usize) {
        let client = self.any_client();
        let waiting = self.clients[client].queue.iter().copied();
        let Some(delivery) = waiting.into_iter().find(|one| !self.deliveries[*one].flew) else {
            return;
        };
        let this = &mut self.deliveries[delivery];
        let stay = this.stays.last().expect("it is somewhere");
        if stay.shard == shard {
            this.flew = true;
            let (session, place) = stay.place;
            self.note(shard, Change::InFlight(session, place, id(place as u16)));
        }
    }

    /// PUBREL for a message whose PUBREC has left.
    fn release(&mut self) {
        if self.publications.is_empty() {
            return;
        }
        let index = self.rng.usize(0..self.publications.len());
        let Publication { client, turn, freed, .. } = self.publications[index];
        let shard = home(client);
        if freed.is_none() && turn <= self.committed(shard) {
            let one = &mut self.publications[index];
            one.freed = Some((self.shards[shard].turn, false));
            let freed = Change::Freed(one.session, id(one.packet_id));
            self.note(shard, freed);
        }
    }

    /// The topic of which a shard is the home has a new value.
    fn retain(&mut self, shard: usize) {
        let this = &mut self.shards[shard];
        let stamp = this.retained.len() as u64;
        this.retained.push((this.turn, stamp));
        let change = retained(&topic(shard), (stamp, shard as u8), &stamp.to_string());
        self.note(shard, change);
    }

    fn end_turn(&mut self, shard: usize) {
        let this = std::mem::take(&mut self.shards[shard]);
        let Shard { turn, incoming, retained, outgoing, .. } = this;
        self.bench.links[shard].submit(Turn {
            shard: shard as u8,
            turn,
            changes: this.changes.into(),
            parts: this.parts,
            handed: this.handed,
            returned: this.returned,
            taken_back: this.taken_back,
            done: this.done,
            ..Turn::default()
        });
        self.shards[shard] = Shard { turn: turn + 1, incoming, retained, ..Shard::default() };
        for (to, items) in outgoing.into_iter().enumerate() {
            if !items.is_empty() {
                self.shards[to].incoming[shard].push_back((turn, items));
            }
        }
    }

    fn act_by_chance(&mut self) {
        let shard = self.rng.usize(0..SHARDS);
        match self.rng.u8(0..40) {
            0..6 => self.publish(),
            6..18 => _ = self.take_mail(),
            18..20 => self.unsubscribe(),
            20..22 => self.subscribe(),
            22 => self.end_session(),
            23..26 => self.acknowledge(),
            26 => self.fly(shard),
            27 => self.release(),
            28 => self.retain(shard),
            29..36 => self.end_turn(shard),
            36 => self.fail(),
            _ => self.commit(),
        }
    }

    fn commit(&mut self) {
        self.bench.writer.step();
        self.check();
    }

    /// A commit that fails, and may be made later.
    fn fail(&mut self) {
        self.bench.memory.fail(Some("full"));
        self.bench.writer.step();
        self.bench.memory.fail(None);
    }

    /// Everything that was begun comes to its end.
    fn settle(&mut self) {
        loop {
            (0..SHARDS).for_each(|shard| self.end_turn(shard));
            let has_mail = |shard: &Shard| shard.incoming.iter().any(|lane| !lane.is_empty());
            if !self.shards.iter().any(has_mail) {
                break;
            }
            while self.take_mail() {}
        }
        self.commit();
    }
}

/// A QoS 2 message is stored with the identifier it came under and for all its receivers, or not at all
/// [MQTT-4.3.3-10]; and for one of those between whom it was handed on.
#[test]
fn acts_that_meet_are_each_stored_as_a_whole() {
    for seed in 0..SEEDS {
        eprintln!("seed {seed}");
        let mut world = World::new(seed);
        for _ in 0..world.rng.usize(100..600) {
            world.act_by_chance();
        }
        world.settle();
        world.check_settled();
    }
}
