//! Clients that receive: those who stay, those who go and come back, those who are taken over.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fastrand::Rng;
use sluice::mqtt::{AckKind, PacketId, QoS, Version};

use super::history::{Read, Received};
use super::link::{Delivery, Incoming, Link, Persona, Session};
use super::stage::{PATIENCE, Stage};

/// After this long without a message, nothing more will come to who has all that is owed.
const QUIET: Duration = Duration::from_millis(500);
/// How long one waits for packets before it looks around.
const GLANCE: Duration = Duration::from_millis(20);

/// Between two looks at what is retained.
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);

/// What a subscriber does besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Habit {
    /// It stays.
    Stays,
    /// It disconnects now and then, and comes back.
    Leaves,
    /// It connects again now and then while it is connected `[MQTT-3.1.4-3]`.
    TakesOver,
}

pub(super) struct Subscriber {
    pub(super) persona: Persona,
    pub(super) filter: String,
    pub(super) qos: QoS,
    pub(super) habit: Habit,
}

/// How a connection ended.
enum End {
    /// Nothing more comes.
    Drained,
    Left,
    Taken(Link),
}

struct State<'a> {
    subscriber: &'a Subscriber,
    stage: &'a Stage,
    rng: Rng,
    /// QoS 2 messages whose PUBREL has not come.
    half_done: BTreeSet<PacketId>,
    is_subscribed: bool,
    /// When patience is at its end.
    until: Option<Instant>,
    history: Received,
}

impl Subscriber {
    /// Whose messages it gets: its own, or its group's.
    fn unit(&self) -> &str {
        if self.filter.starts_with("$share/") { &self.filter } else { &self.persona.name }
    }

    /// Receives until nothing comes any more. `ready` is called once it is subscribed.
    pub(super) fn run(&self, stage: &Stage, rng: Rng, ready: impl FnOnce()) -> Received {
        let history = Received {
            client: self.persona.name.clone(),
            filter: self.filter.clone(),
            qos: self.qos,
            numbers: BTreeMap::new(),
        };
        let mut state = State {
            subscriber: self,
            stage,
            rng,
            half_done: BTreeSet::new(),
            is_subscribed: false,
            until: None,
            history,
        };
        let mut ready = Some(ready);
        let mut expected = Some(false);
        let mut next = None;
        loop {
            let mut link = match next.take() {
                Some(link) => link,
                None => {
                    let opened = stage.connect(&self.persona, Session::Resume, expected);
                    let Some((link, present)) = opened else { break };
                    if !present && self.persona.version != Version::V31 {
                        state.half_done.clear();
                        state.is_subscribed = false;
                    }
                    expected = Some(true);
                    link
                }
            };
            let end = state.go_on(&mut link, &mut ready);
            match end {
                Ok(End::Drained) => break,
                Ok(End::Left) => {
                    let _ = link.disconnect();
                    std::thread::sleep(Duration::from_millis(state.rng.u64(20..200)));
                }
                Ok(End::Taken(other)) => next = Some(other),
                Err(_) => {}
            }
        }
        // Whoever waits for it does so no longer.
        if let Some(ready) = ready {
            ready();
        }
        state.history
    }
}

impl State<'_> {
    fn go_on(&mut self, link: &mut Link, ready: &mut Option<impl FnOnce()>) -> io::Result<End> {
        if !self.is_subscribed {
            link.subscribe(&self.subscriber.filter, self.subscriber.qos)?;
        }
        let stays_until = Instant::now() + Duration::from_millis(self.rng.u64(50..500));
        let mut quiet_since = Instant::now();
        loop {
            match link.receive(GLANCE)? {
                Some(Incoming::SubAck { is_granted: true }) => {
                    self.is_subscribed = true;
                    if let Some(ready) = ready.take() {
                        ready();
                    }
                }
                Some(Incoming::Publish(delivery)) => {
                    quiet_since = Instant::now();
                    self.take(link, delivery)?;
                }
                Some(Incoming::Ack(AckKind::PubRel, id, _)) => {
                    quiet_since = Instant::now();
                    self.half_done.remove(&id);
                    link.ack(AckKind::PubComp, id)?;
                }
                Some(Incoming::Disconnect) => return Err(io::ErrorKind::ConnectionAborted.into()),
                Some(other) => {
                    let name = &self.subscriber.persona.name;
                    self.stage.odd(format!("{name}: {other} for a subscriber"));
                    return Err(io::ErrorKind::InvalidData.into());
                }
                None => {}
            }
            if self.stage.is_drained() {
                if self.is_drained(quiet_since) {
                    return Ok(End::Drained);
                }
            } else if self.is_subscribed && Instant::now() > stays_until {
                match self.subscriber.habit {
                    Habit::Stays => {}
                    Habit::Leaves => return Ok(End::Left),
                    Habit::TakesOver => {
                        let persona = &self.subscriber.persona;
                        let taken = self.stage.try_connect(persona, Session::Resume, Some(true))?;
                        return Ok(End::Taken(taken));
                    }
                }
            }
        }
    }

    /// Whether nothing more will come, or should have by now.
    fn is_drained(&mut self, quiet_since: Instant) -> bool {
        let quiet = quiet_since.elapsed();
        let is_done = self.is_subscribed && self.half_done.is_empty();
        let subscriber = self.subscriber;
        if is_done
            && quiet > QUIET
            && self.stage.is_all_there(subscriber.unit(), &subscriber.filter)
        {
            return true;
        }
        let until = *self.until.get_or_insert_with(|| Instant::now() + 4 * PATIENCE);
        let is_over = quiet > self.stage.overdue || Instant::now() > until;
        if is_over && !is_done {
            let (name, count) = (&subscriber.persona.name, self.half_done.len());
            self.stage.odd(format!("{name}: it does not end; {count} PUBRELs never came"));
        }
        is_over
    }

    fn take(&mut self, link: &mut Link, delivery: Delivery) -> io::Result<()> {
        let Delivery { topic, number, qos, id, .. } = delivery;
        let is_new = match (qos, id) {
            (QoS::ExactlyOnce, Some(id)) => self.half_done.insert(id),
            _ => true,
        };
        match number {
            Some(number) if is_new => {
                self.stage.has_come(self.subscriber.unit(), &topic, number);
                self.history.numbers.entry(topic).or_default().push(number);
            }
            Some(_) => {}
            None => {
                let name = &self.subscriber.persona.name;
                self.stage.odd(format!("{name}: a payload on {topic} that nobody sent"));
            }
        }
        match (qos, id) {
            (QoS::AtLeastOnce, Some(id)) => link.ack(AckKind::PubAck, id),
            (QoS::ExactlyOnce, Some(id)) => link.ack(AckKind::PubRec, id),
            _ => Ok(()),
        }
    }
}

/// A client that looks at retained messages, with a new subscription each time.
pub(super) struct Reader {
    pub(super) persona: Persona,
    pub(super) filter: String,
}

impl Reader {
    /// Looks again and again, the last time when everything is drained.
    pub(super) fn run(&self, stage: &Stage) {
        loop {
            let is_last = stage.is_drained();
            let Some((mut link, _)) = stage.connect(&self.persona, Session::Clean, Some(false))
            else {
                return;
            };
            if self.look(&mut link, stage).is_ok() && is_last {
                let _ = link.disconnect();
                return;
            }
            std::thread::sleep(BETWEEN_LOOKS);
        }
    }

    /// All that is there is sent at once: what is not within the time is not there.
    fn look(&self, link: &mut Link, stage: &Stage) -> io::Result<()> {
        let retained = stage.progress.iter().filter(|progress| progress.retain);
        let mut looks: Vec<_> = retained
            .map(|progress| (progress, progress.acknowledged.load(Ordering::SeqCst), None))
            .collect();
        link.subscribe(&self.filter, QoS::AtMostOnce)?;
        let mut until = Instant::now() + 4 * QUIET;
        while looks.iter().any(|(.., found)| found.is_none()) && Instant::now() < until {
            match link.receive(GLANCE)? {
                Some(Incoming::Publish(Delivery { topic, number, retain: true, .. })) => {
                    let look = looks.iter_mut().find(|(progress, ..)| progress.topic == topic);
                    if let Some((.., found)) = look {
                        *found = found.or(number);
                    }
                }
                Some(Incoming::SubAck { .. }) => until = Instant::now() + QUIET,
                Some(Incoming::Disconnect) => return Err(io::ErrorKind::ConnectionAborted.into()),
                _ => {}
            }
        }
        let mut notes = stage.notes();
        for (progress, acknowledged, found) in looks {
            notes.reads.push(Read {
                topic: progress.topic.clone(),
                acknowledged: u32::try_from(acknowledged).ok(),
                found,
                sent: progress.sent.load(Ordering::SeqCst),
                clears_every: progress.clears_every,
            });
        }
        Ok(())
    }
}

/// A client that begins sessions and ends them. What CONNACK has said of the end of one is as good as
/// an acknowledgement: it must not come back.
pub(super) struct Ender {
    pub(super) persona: Persona,
}

impl Ender {
    pub(super) fn run(&self, stage: &Stage, mut rng: Rng) {
        let mut is_there = Some(false);
        // A CONNECT that was not answered may be read after a later one, while that broker runs.
        let mut unknown_in = None;
        while !stage.is_drained() {
            let session = if rng.bool() { Session::Resume } else { Session::Clean };
            let start = stage.starts.load(Ordering::SeqCst);
            let is_known = unknown_in != Some(start);
            let expected = match session {
                Session::Resume => is_there.filter(|_| is_known),
                Session::Clean => Some(false),
            };
            is_there = match stage.try_connect(&self.persona, session, expected) {
                Ok(_) if is_known => Some(session == Session::Resume),
                Ok(_) => None,
                // It was made or not.
                Err(_) => {
                    unknown_in = Some(start);
                    None
                }
            };
            std::thread::sleep(Duration::from_millis(rng.u64(1..30)));
        }
    }
}
