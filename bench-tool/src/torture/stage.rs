//! What all clients of a run share.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::history::{Presence, Read};
use super::link::{Link, Persona, Session};

/// How long a client waits for the broker to be there, or to answer, before it gives up.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);

/// How far a publisher has come, for those who look at its retained message.
#[derive(Debug)]
pub(super) struct Progress {
    pub(super) topic: String,
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

#[derive(Debug)]
pub(super) struct Stage {
    pub(super) address: SocketAddr,
    /// Messages a second of each publisher, about.
    pub(super) rate: f64,
    /// Publishers begin nothing new.
    pub(super) ended: AtomicBool,
    /// Everybody goes once nothing comes any more.
    pub(super) drained: AtomicBool,
    pub(super) progress: Vec<Progress>,
    /// How often the broker has been started again.
    pub(super) starts: AtomicU32,
    notes: Mutex<Notes>,
}

impl Stage {
    pub(super) fn new(address: SocketAddr, rate: f64, retained: Vec<String>) -> Self {
        let (sent, acknowledged) = (|| AtomicU32::new(0), || AtomicI64::new(-1));
        let progress = retained
            .into_iter()
            .map(|topic| Progress { topic, sent: sent(), acknowledged: acknowledged() })
            .collect();
        let (ended, drained) = (AtomicBool::new(false), AtomicBool::new(false));
        let starts = AtomicU32::new(0);
        Self { address, rate, ended, drained, progress, starts, notes: Mutex::default() }
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
        expected: Option<bool>,
    ) -> Option<(Link, bool)> {
        let opened = Link::open(self.address, persona, session, Instant::now() + PATIENCE);
        let (link, present) = opened
            .map_err(|error| self.odd(format!("{} cannot connect: {error}", persona.name)))
            .ok()?;
        self.presence(persona, expected, present);
        Some((link, present))
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
