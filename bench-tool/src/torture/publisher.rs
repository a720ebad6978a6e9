//! A client that publishes numbers to a topic of its own, and does not give one up.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fastrand::Rng;
use sluice::mqtt::{AckKind, PacketId, QoS, ReasonCode, Version};

use super::history::{Published, clears};
use super::link::{Incoming, Link, Persona, Session};
use super::stage::{PATIENCE, Progress, Stage};

/// Messages that are not acknowledged, at most.
const OUTSTANDING: usize = 20;
/// Messages that are sent at once, at most.
const BURST: u32 = 10;
/// Of a connection that is in order, the chance to be given up after a packet: one in so many.
const BREAKS: u32 = 2_000;

/// What is sent again when a connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Half {
    Publish,
    Release,
}

pub(super) struct Publisher {
    pub(super) persona: Persona,
    pub(super) topic: String,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    /// The last of so many numbers is sent as an empty message; 0: none is.
    pub(super) clears_every: u32,
}

struct State<'a> {
    publisher: &'a Publisher,
    stage: &'a Stage,
    progress: Option<&'a Progress>,
    rng: Rng,
    history: Published,
    open: BTreeMap<u32, (PacketId, Half)>,
    next_id: PacketId,
    next_burst: Instant,
    /// When patience is at its end.
    until: Option<Instant>,
}

impl Publisher {
    /// Publishes until that has ended, then until everything is answered.
    pub(super) fn run(&self, stage: &Stage, rng: Rng) -> Published {
        let history = Published {
            client: self.persona.name.clone(),
            topic: self.topic.clone(),
            qos: self.qos,
            sent: 0,
            acknowledged: BTreeSet::new(),
            refused: BTreeSet::new(),
            is_ordered: true,
        };
        let mut state = State {
            publisher: self,
            stage,
            progress: stage.progress_of(&self.topic),
            rng,
            history,
            open: BTreeMap::new(),
            next_id: PacketId::MIN,
            next_burst: Instant::now(),
            until: None,
        };
        let mut expected = Some(false);
        while let Some((mut link, present)) =
            stage.connect(&self.persona, Session::Resume, expected)
        {
            if !present && self.persona.version != Version::V31 {
                // Nothing is left of a session that is gone: what was to be released was taken.
                state.open.retain(|_, (_, half)| *half == Half::Publish);
            }
            expected = Some(true);
            if state.go_on(&mut link).is_ok() {
                break;
            }
        }
        state.history
    }
}

impl State<'_> {
    /// Until all is done, or the connection has ended.
    fn go_on(&mut self, link: &mut Link) -> io::Result<()> {
        for (number, (id, half)) in self.open.clone() {
            match half {
                Half::Publish => self.send(link, number, id, true)?,
                Half::Release => link.ack(AckKind::PubRel, id)?,
            }
        }
        loop {
            if self.stage.has_ended() {
                if self.open.is_empty() {
                    return Ok(());
                }
                if Instant::now() > *self.until.get_or_insert_with(|| Instant::now() + PATIENCE) {
                    let count = self.open.len();
                    let name = &self.publisher.persona.name;
                    self.stage.odd(format!("{name}: {count} messages are never answered"));
                    return Ok(());
                }
            } else if Instant::now() >= self.next_burst {
                self.burst(link)?;
            }
            let within = self.next_burst.saturating_duration_since(Instant::now());
            let within = within.clamp(Duration::from_millis(1), Duration::from_millis(20));
            if let Some(packet) = link.receive(within)? {
                self.take(link, packet)?;
                if self.rng.u32(..BREAKS) == 0 {
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
            }
        }
    }

    fn burst(&mut self, link: &mut Link) -> io::Result<()> {
        let count = self.rng.u32(1..=BURST);
        self.next_burst += Duration::from_secs_f64(f64::from(count) / self.stage.rate);
        // Time in which there was no broker is not made up for.
        self.next_burst = self.next_burst.max(Instant::now());
        for _ in 0..count {
            if self.open.len() >= OUTSTANDING {
                break;
            }
            let number = self.history.sent;
            self.history.sent += 1;
            if let Some(progress) = self.progress {
                progress.sent.store(self.history.sent, Ordering::SeqCst);
            }
            while self.open.values().any(|(id, _)| *id == self.next_id) {
                self.next_id = following(self.next_id);
            }
            let id = self.next_id;
            self.next_id = following(id);
            self.open.insert(number, (id, Half::Publish));
            self.send(link, number, id, false)?;
        }
        Ok(())
    }

    fn send(&self, link: &mut Link, number: u32, id: PacketId, dup: bool) -> io::Result<()> {
        let Publisher { topic, qos, retain, clears_every, .. } = self.publisher;
        let is_empty = clears(number, *clears_every);
        let payload = if is_empty { String::new() } else { number.to_string() };
        link.publish((topic, &payload), (*qos, *retain, dup), id)
    }

    fn take(&mut self, link: &mut Link, packet: Incoming) -> io::Result<()> {
        let Incoming::Ack(kind, id, reason) = packet else {
            return match packet {
                Incoming::Disconnect => Err(io::ErrorKind::ConnectionAborted.into()),
                other => self.odd(format!("{other} for a publisher")),
            };
        };
        let Some((&number, &(_, half))) = self.open.iter().find(|(_, (of, _))| *of == id) else {
            return self.odd(format!("{kind:?} of {id:?} answers nothing"));
        };
        match (kind, half) {
            (AckKind::PubAck | AckKind::PubRec, Half::Publish) if reason.is_error() => {
                self.history.refused.insert(number);
                self.open.remove(&number);
            }
            (AckKind::PubAck, Half::Publish) if self.publisher.qos == QoS::AtLeastOnce => {
                self.history.acknowledged.insert(number);
                self.open.remove(&number);
                self.in_force(number);
            }
            (AckKind::PubRec, _) if self.publisher.qos == QoS::ExactlyOnce => {
                self.history.acknowledged.insert(number);
                self.open.insert(number, (id, Half::Release));
                link.ack(AckKind::PubRel, id)?;
            }
            // That the broker does not know it any more is as good as its release.
            (AckKind::PubComp, Half::Release)
                if !reason.is_error() || reason == ReasonCode::PacketIdentifierNotFound =>
            {
                self.open.remove(&number);
                self.in_force(number);
            }
            _ => return self.odd(format!("{kind:?} of {id:?} with {reason:?}, {half:?} before")),
        }
        Ok(())
    }

    /// Whoever subscribes now gets it, or a later one. A broker may hand a QoS 2 message on at PUBREL.
    fn in_force(&self, number: u32) {
        if let Some(progress) = self.progress {
            progress.acknowledged.fetch_max(number.into(), Ordering::SeqCst);
        }
    }

    /// Such a connection is given up.
    fn odd(&self, what: String) -> io::Result<()> {
        self.stage.odd(format!("{}: {what}", self.publisher.persona.name));
        Err(io::ErrorKind::InvalidData.into())
    }
}

fn following(id: PacketId) -> PacketId {
    PacketId::new(id.get() % 1_000 + 1).unwrap_or(PacketId::MIN)
}
