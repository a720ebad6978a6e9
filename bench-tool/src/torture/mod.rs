//! A broker that is killed again and again while clients publish and receive, and what they saw.
//!
//! The clients go on whatever happens: they connect again, send again what was not acknowledged, and
//! note what they see. What a broker has acknowledged, it has to keep; [`check`] finds what it did not.

mod check;
mod history;
mod link;
mod mourned;
mod process;
mod publisher;
mod stage;
mod subscriber;
mod waverer;

pub use check::{Kind, Verdict, Violations, check};
pub use history::{History, Presence, Published, Read, Received};
pub use process::{Process, Target, Targets, Watch};

use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use fastrand::Rng;
use sluice::mqtt::{QoS, Version};

use link::Persona;
use mourned::Mourned;
use publisher::Publisher;
use stage::Stage;
use subscriber::{Ender, Habit, Reader, Subscriber};
use waverer::Waverer;

/// Of the numbers of a publisher that clears what is retained, the last of so many does.
const CLEARS_EVERY: u32 = 3;

/// A broker that can be killed and started again, on the same address and on what it has kept.
pub trait Broker {
    /// Where it listens.
    fn address(&self) -> SocketAddr;

    /// Kills it as it stands, and starts it again.
    ///
    /// # Errors
    /// It does not start.
    fn restart(&mut self) -> io::Result<()>;
}

/// How a broker is tortured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How often it is killed.
    pub kills: u32,
    /// Milliseconds between the start of the broker and the kill.
    pub kill_after_ms: RangeInclusive<u64>,
    /// Messages a second of each publisher, about.
    pub rate: f64,
    /// After this long without a message, at the end, what is owed counts as lost.
    pub overdue: Duration,
    /// What chance begins with.
    pub seed: u64,
}

impl Default for Plan {
    fn default() -> Self {
        let overdue = Duration::from_secs(6);
        Self { kills: 20, kill_after_ms: 50..=500, rate: 200.0, overdue, seed: 1 }
    }
}

/// Plays a plan against a broker that runs; `tell` is called after each kill with how many there were.
/// Ends early, with what was seen until then, when `stop` is set.
///
/// # Errors
/// The broker does not start again.
pub fn play(
    broker: &mut dyn Broker,
    plan: &Plan,
    stop: &AtomicBool,
    mut tell: impl FnMut(u32),
) -> io::Result<History> {
    let mut rng = Rng::with_seed(plan.seed);
    let (publishers, subscribers) = (publishers(), subscribers());
    let stage = &Stage::new(broker.address(), plan, &publishers);
    let reader =
        Reader { persona: persona("reader", Version::V5), filter: "retained/#".to_owned() };
    let ender = Ender { persona: persona("ender", Version::V311) };
    let (mourned, topic) = (mourned(), "queued/two-a".to_owned());
    let waverer = Waverer { persona: persona("wavers", Version::V5), topic };
    let ready = &Barrier::new(subscribers.len() + 1);
    thread::scope(|scope| {
        let receiving: Vec<_> = subscribers
            .iter()
            .map(|one| {
                let rng = rng.fork();
                scope.spawn(move || one.run(stage, rng, || _ = ready.wait()))
            })
            .collect();
        ready.wait();
        let publishing: Vec<_> = publishers
            .iter()
            .map(|one| {
                let rng = rng.fork();
                scope.spawn(move || one.run(stage, rng))
            })
            .collect();
        let dying: Vec<_> = mourned
            .iter()
            .map(|one| {
                let rng = rng.fork();
                scope.spawn(move || one.run(stage, rng))
            })
            .collect();
        scope.spawn(|| reader.run(stage));
        let [chance, other] = [rng.fork(), rng.fork()];
        scope.spawn(|| waverer.run(stage, chance));
        scope.spawn(|| ender.run(stage, other));
        let mut killed = Ok(());
        for kill in 1..=plan.kills {
            thread::sleep(Duration::from_millis(rng.u64(plan.kill_after_ms.clone())));
            if stop.load(Ordering::Relaxed) {
                break;
            }
            killed = broker.restart();
            if killed.is_err() {
                break;
            }
            stage.starts.fetch_add(1, Ordering::SeqCst);
            tell(kill);
        }
        stage.ended.store(true, Ordering::Relaxed);
        let publishing = publishing.into_iter().chain(dying);
        let published: Vec<_> = publishing.map(joined).collect();
        // Nobody sends anything again: what is there now is what has been kept.
        let killed = killed.and_then(|()| broker.restart());
        stage.drain(&published);
        let received = receiving.into_iter().map(joined).collect();
        killed.map(|()| (published, received))
    })
    .map(|(published, received)| {
        let notes = std::mem::take(&mut *stage.notes());
        let (presences, reads, oddities) = (notes.presences, notes.reads, notes.oddities);
        History { published, received, presences, reads, oddities }
    })
}

/// What a client saw. Without it, less would be owed.
fn joined<T>(client: ScopedJoinHandle<'_, T>) -> T {
    client.join().unwrap_or_else(|panicked| std::panic::resume_unwind(panicked))
}

fn persona(name: &str, version: Version) -> Persona {
    Persona { name: format!("torture-{name}"), version }
}

fn publishers() -> Vec<Publisher> {
    let publisher = |name: &str, version, qos, retain| Publisher {
        persona: persona(name, version),
        topic: format!("{}/{name}", if retain { "retained" } else { "queued" }),
        qos,
        retain,
        clears_every: if name.ends_with("cleared") { CLEARS_EVERY } else { 0 },
    };
    vec![
        publisher("one-a", Version::V311, QoS::AtLeastOnce, false),
        publisher("one-b", Version::V5, QoS::AtLeastOnce, false),
        publisher("two-a", Version::V311, QoS::ExactlyOnce, false),
        publisher("two-b", Version::V5, QoS::ExactlyOnce, false),
        publisher("two-c", Version::V5, QoS::ExactlyOnce, false),
        publisher("value-one", Version::V5, QoS::AtLeastOnce, true),
        publisher("value-two", Version::V311, QoS::ExactlyOnce, true),
        publisher("value-cleared", Version::V5, QoS::AtLeastOnce, true),
    ]
}

fn mourned() -> [Mourned; 2] {
    let mourned = |name: &str, version| Mourned {
        persona: persona(name, version),
        topic: format!("queued/{name}"),
    };
    [mourned("dies-a", Version::V311), mourned("dies-b", Version::V5)]
}

fn subscribers() -> Vec<Subscriber> {
    let subscriber = |name: &str, version, filter: &str, qos, habit| Subscriber {
        persona: persona(name, version),
        filter: filter.to_owned(),
        qos,
        habit,
    };
    let (one, two) = (QoS::AtLeastOnce, QoS::ExactlyOnce);
    vec![
        subscriber("stays", Version::V311, "queued/#", two, Habit::Stays),
        subscriber("stays-one", Version::V5, "queued/#", one, Habit::Stays),
        subscriber("leaves", Version::V5, "queued/+", two, Habit::Leaves),
        subscriber("takes-over", Version::V311, "queued/#", two, Habit::TakesOver),
        subscriber("member-a", Version::V5, "$share/group/queued/#", two, Habit::Stays),
        subscriber("member-b", Version::V5, "$share/group/queued/#", two, Habit::Stays),
    ]
}
