//! What the actors are there for.

use sluice::mqtt::QoS;

use super::collector::Collector;
use super::dying::Dying;
use super::fickle::Fickle;
use super::lifetimes::{Hurried, Patient};
use super::mortal::Mortal;
use super::register::{Reader, Setter};

/// What an actor is there for.
#[derive(Clone, Debug)]
pub(crate) enum Role {
    /// Publishes numbers from 0 on to a topic of its own; what is retained there it may clear now and then.
    Publisher { topic: String, qos: QoS, retain: bool, clears: bool },
    /// Notes what it gets.
    Subscriber { filter: &'static str, qos: QoS },
    /// A subscriber that ends its session now and then, and begins another.
    Deserter { filter: &'static str, qos: QoS, by: EndsBy },
    /// A subscriber that unsubscribes now and then, and subscribes again at once.
    Leaver { filter: &'static str, qos: QoS },
    /// A subscriber that is away most of the time, to messages that expire.
    Sleeper { filter: &'static str, qos: QoS },
    /// Resumes its session or begins one that ends with the connection, by chance.
    Beginner,
    /// A subscriber whose sessions end with their connections: nothing is stored for it.
    Watcher { filter: &'static str, qos: QoS },
    /// Leaves Wills.
    Dying(Dying),
    /// Subscribes and unsubscribes.
    Fickle(Fickle),
    /// Publishes numbers from 0 on, each to a topic of its own that retains it, at QoS 2.
    Founder { count: u32 },
    /// Subscribes anew again and again to what is retained there.
    Collector(Collector),
    /// Publishes numbers to a topic that retains the last one, and sees those of others.
    Setter(Setter, QoS),
    /// Subscribes to that with each connection.
    Reader(Reader),
    /// Publishes what expires.
    Hurried(Hurried),
    /// Waits for that.
    Patient(Patient, QoS),
    /// A subscriber whose sessions end.
    Mortal(Mortal, QoS),
}

impl Role {
    /// What it subscribes to, all the time.
    pub(crate) fn filter(&self) -> Option<(&'static str, QoS)> {
        match *self {
            Self::Setter(Setter { topic, .. }, _) | Self::Reader(Reader { topic, .. }) => {
                Some((topic, QoS::AtMostOnce))
            }
            Self::Mortal(Mortal { filter, .. }, qos)
            | Self::Patient(Patient { filter, .. }, qos)
            | Self::Subscriber { filter, qos }
            | Self::Deserter { filter, qos, .. }
            | Self::Leaver { filter, qos }
            | Self::Sleeper { filter, qos }
            | Self::Watcher { filter, qos } => Some((filter, qos)),
            Self::Publisher { .. }
            | Self::Founder { .. }
            | Self::Beginner
            | Self::Dying(_)
            | Self::Hurried(_)
            | Self::Fickle(_)
            | Self::Collector(_) => None,
        }
    }
}

impl Role {
    /// How many subscriptions of a collector had something.
    pub(crate) fn collected(&self) -> u64 {
        match self {
            Self::Collector(collector) => collector.count(),
            Self::Reader(reader) => reader.count,
            Self::Mortal(mortal, _) => mortal.count(),
            Self::Patient(patient, _) => patient.count,
            _ => 0,
        }
    }
}

/// How a deserter's session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndsBy {
    /// DISCONNECT says so.
    Disconnect,
    /// CONNECT begins another one.
    CleanStart,
    /// It lasts for a second without a connection.
    Expiry,
}
