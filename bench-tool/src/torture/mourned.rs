//! Clients that leave a Will with each connection, and break it off.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use fastrand::Rng;
use sluice::mqtt::QoS;

use super::history::Published;
use super::link::{Link, Persona, Session};
use super::stage::{PATIENCE, Stage};

/// One of them; its session stays.
pub(super) struct Mourned {
    pub(super) persona: Persona,
    pub(super) topic: String,
}

impl Mourned {
    /// Comes and dies, again and again. The Will of each connection that CONNACK has told of is owed
    /// `[MQTT-3.1.2-8]`, also if it was the broker that ended it.
    pub(super) fn run(&self, stage: &Stage, mut rng: Rng) -> Published {
        let mut history = Published {
            client: self.persona.name.clone(),
            topic: self.topic.clone(),
            qos: QoS::ExactlyOnce,
            sent: 0,
            acknowledged: BTreeSet::new(),
            refused: BTreeSet::new(),
            // Of two connections the later one may end first.
            is_ordered: false,
        };
        let mut until = Instant::now() + PATIENCE;
        while !stage.has_ended() && Instant::now() < until {
            let number = history.sent;
            history.sent += 1;
            let will = Some((self.topic.as_str(), number));
            let opened = Link::try_open_with(stage.address, &self.persona, Session::Resume, will);
            if opened.is_ok() {
                history.acknowledged.insert(number);
                until = Instant::now() + PATIENCE;
            }
            std::thread::sleep(Duration::from_millis(rng.u64(5..60)));
        }
        history
    }
}
