//! What all clients of a run share.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::Plan;
use super::check::selects;
use super::history::{Presence, Published, Read};
use super::link::{Link, Persona, Session};
use super::publisher::Publisher;

/// How long a client waits for the broker to be there, or to answer, before it gives up.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);

/// Between two attempts to connect.
const CONNECT_AGAIN: Duration = Duration::from_millis(2);

/// How far a publisher has come.
#[derive(Debug)]
pub(super) struct Progress {
    pub(super) topic: String,
    pub(super) retain: bool,
    /// As a [publisher](super::publisher::Publisher)'s.
    pub(super) clears_every: u32,
    /// Of numbers, how many were sent.
    pub(super) sent: AtomicU32,
    /// The highest number whose flow is at its end; -1: none.
    pub(super) acknowledged: AtomicI64,
}

#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) presences: Vec<Presence>,
    pub(super) reads: Vec<Read>,
    pub(super) oddities: Vec<String>,
}

/// Numbers, by topic.
type Numbers = BTreeMap<String, BTreeSet<u32>>;

#[derive(Debug)]
pub(super) struct Stage {
    pub(super) address: SocketAddr,
    /// Messages a second of each publisher, about.
    pub(super) rate: f64,
    /// After this long without a message, what is owed is lost.
    pub(super) overdue: Duration,
    /// Publishers begin nothing new.
    pub(super) ended: AtomicBool,
    /// Everybody goes once nothing comes any more.
    drained: AtomicBool,
    pub(super) progress: Vec<Progress>,
    /// How often the broker has been started again.
    pub(super) starts: AtomicU32,
    /// What the broker has acknowledged, once nothing more is published.
    owed: OnceLock<Numbers>,
    /// What has come, by client or, for a shared filter, by filter.
    come: Mutex<BTreeMap<String, Numbers>>,
    notes: Mutex<Notes>,
}

impl Stage {
    pub(super) fn new(address: SocketAddr, plan: &Plan, publishers: &[Publisher]) -> Self {
        let (sent, acknowledged) = (|| AtomicU32::new(0), || AtomicI64::new(-1));
        let progress = |of: &Publisher| Progress {
            topic: of.topic.clone(),
            retain: of.retain,
            clears_every: of.clears_every,
            sent: sent(),
            acknowledged: acknowledged(),
        };
        let progress = publishers.iter().map(progress).collect();
        let (ended, drained) = (AtomicBool::new(false), AtomicBool::new(false));
        let starts = AtomicU32::new(0);
        let (owed, come, notes) = (OnceLock::new(), Mutex::default(), Mutex::default());
        let Plan { rate, overdue, .. } = *plan;
        Self { address, rate, overdue, ended, drained, progress, starts, owed, come, notes }
    }

    /// Nothing more is published, and the broker has been started for the last time.
    pub(super) fn drain(&self, published: &[Published]) {
        let owed = published.iter().map(|one| (one.topic.clone(), one.acknowledged.clone()));
        self.owed.get_or_init(|| owed.collect());
        self.drained.store(true, Ordering::Relaxed);
    }

    /// How far the publisher of a topic has come.
    pub(super) fn progress_of(&self, topic: &str) -> Option<&Progress> {
        self.progress.iter().find(|progress| progress.topic == topic)
    }

    /// A message has come to a client, or to one of a group.
    pub(super) fn has_come(&self, unit: &str, topic: &str, number: u32) {
        let mut come = self.come.lock().unwrap_or_else(PoisonError::into_inner);
        let numbers = come.entry(unit.to_owned()).or_default();
        numbers.entry(topic.to_owned()).or_default().insert(number);
    }

    /// Whether all has come that is owed to a client, or group, with this filter.
    pub(super) fn is_all_there(&self, unit: &str, filter: &str) -> bool {
        let come = self.come.lock().unwrap_or_else(PoisonError::into_inner);
        let come = |topic| come.get(unit).and_then(|numbers| numbers.get(topic));
        self.owed.get().is_some_and(|owed| {
            owed.iter().filter(|(topic, _)| selects(filter, topic)).all(|(topic, numbers)| {
                numbers.is_empty() || come(topic).is_some_and(|come| come.is_superset(numbers))
            })
        })
    }

    pub(super) fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn odd(&self, text: String) {
        self.notes().oddities.push(text);
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    pub(super) fn is_drained(&self) -> bool {
        self.drained.load(Ordering::Relaxed)
    }

    /// Connects, however long the broker is away, and notes whether Session Present is as `expected`;
    /// `None` when patience is at its end.
    pub(super) fn connect(
        &self,
        persona: &Persona,
        session: Session,
        mut expected: Option<bool>,
    ) -> Option<(Link, bool)> {
        let until = Instant::now() + PATIENCE;
        loop {
            let error = match Link::try_open(self.address, persona, session) {
                Ok((link, present)) => {
                    self.presence(persona, expected, present);
                    return Some((link, present));
                }
                Err(error) => error,
            };
            if Instant::now() > until {
                self.odd(format!("{} cannot connect: {error}", persona.name));
                return None;
            }
            // The session may have begun, though nobody said so.
            if session == Session::Resume && error.kind() != ErrorKind::ConnectionRefused {
                expected = expected.filter(|is_there| *is_there);
            }
            thread::sleep(CONNECT_AGAIN);
        }
    }

    /// Connects once; what is wrong with CONNACK is noted.
    pub(super) fn try_connect(
        &self,
        persona: &Persona,
        session: Session,
        expected: Option<bool>,
    ) -> io::Result<Link> {
        let (link, present) =
            Link::try_open(self.address, persona, session).inspect_err(|error| {
                if error.kind() == ErrorKind::PermissionDenied {
                    self.odd(format!("{}: {error}", persona.name));
                }
            })?;
        self.presence(persona, expected, present);
        Ok(link)
    }

    fn presence(&self, persona: &Persona, expected: Option<bool>, found: bool) {
        // 3.1 has no Session Present.
        let Some(expected) = expected.filter(|_| persona.version != sluice::mqtt::Version::V31)
        else {
            return;
        };
        let client = persona.name.clone();
        self.notes().presences.push(Presence { client, expected, found });
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use sluice::mqtt::Version;

    use super::*;

    /// A broker that was killed may have kept the session of a CONNECT that it did not answer.
    #[test]
    fn what_an_unanswered_connect_did_is_not_known() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it has one");
        let broker = thread::spawn(move || {
            for answer in [&[][..], &[0x20, 2, 1, 0]].repeat(2) {
                let (mut client, _) = listener.accept().expect("it connects");
                assert!(client.read(&mut [0; 100]).expect("a CONNECT") > 0);
                client.write_all(answer).expect("it reads");
            }
        });
        let stage = Stage::new(address, &Plan::default(), &[]);
        let persona = Persona { name: "one".to_owned(), version: Version::V311 };
        let first = stage.connect(&persona, Session::Resume, Some(false));
        assert!(first.is_some_and(|(_, present)| present));
        assert_eq!(stage.notes().presences.len(), 0);
        // Of one that was kept, and of none, it is known all the same.
        stage.connect(&persona, Session::Clean, Some(false)).expect("it connects");
        let notes = stage.notes();
        assert!(notes.presences.iter().any(|it| it.found && !it.expected), "{:?}", notes.presences);
        broker.join().expect("it ends");
    }
}
