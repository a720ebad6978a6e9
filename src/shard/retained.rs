//! Retained messages among shards: every one has all of them, and one of them notes those of a topic.

use crate::mqtt::Message;
use crate::mqtt::topic::is_reserved;
use crate::router::{Stamp, stable_hash};
use crate::session::Change;

use super::Core;

impl<S> Core<S> {
    /// Takes in what another shard has retained. That had room for it, and so has this one, whatever came from
    /// elsewhere at the same moment: or else the two would differ.
    pub(super) fn take_retained(&mut self, message: &Message, stamp: Stamp) {
        self.clock = self.clock.max(stamp.0);
        let topic = message.topic();
        let retained = (!message.payload().is_empty()).then(|| message.clone());
        if self.router.accept_retained(topic, retained.clone(), stamp, self.now) {
            self.note_retained(topic, retained.as_ref(), stamp);
        } else if self.notes(topic) {
            // Who published it is told when the newer one is committed.
            self.wait_for_commit();
        }
    }

    /// Notes a change of a retained message: one shard does so for each topic, so that the changes
    /// are in their order.
    pub(super) fn note_retained(&self, topic: &str, message: Option<&Message>, stamp: Stamp) {
        if let Some(store) = self.store.as_ref().filter(|_| self.notes(topic)) {
            let stamp = (stamp.0, stamp.1);
            store.journal.note(Change::Retained(topic.into(), stamp, message.cloned()));
        }
    }

    /// Whether this shard notes what is retained of a topic.
    fn notes(&self, topic: &str) -> bool {
        let home = stable_hash(topic.as_bytes()) % u64::from(self.shards);
        self.store.is_some() && home == u64::from(self.id) && !is_reserved(topic.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::remote::Publisher;
    use super::super::settings::Settings;
    use super::super::{Shard, Shared, Stored};
    use super::*;
    use crate::hooks::Hooks;
    use crate::mqtt::QoS;
    use crate::net::sim::{Faults, SimDriver, SimOptions, World};
    use crate::store::{Memory, Writer};

    /// Two shards over a store.
    struct Two {
        memory: Memory,
        writer: Writer,
        shards: Vec<Shard<SimDriver>>,
    }

    impl Two {
        fn start(memory: Memory, max_retained_messages: usize) -> Self {
            let (stored, writer) = Stored::in_memory(&memory, 2);
            let settings = Settings { max_retained_messages, ..Settings::for_tests() };
            let shared = Shared::new(settings, Hooks::default(), 2, 1).into();
            let world = World::new(1, SimOptions { faults: Faults::NONE, buffer_bytes: 1 });
            let drivers = vec![world.add_driver(), world.add_driver()];
            let shards = Shard::assemble_stored(drivers, &shared, stored);
            Self { memory, writer, shards }
        }

        /// Publishes at a shard, which knows nothing yet of what others have not posted. Says whether that
        /// is retained.
        fn publish(&mut self, shard: usize, topic: &str, payload: &str) -> bool {
            let core = &mut self.shards[shard].core;
            let payload = payload.as_bytes();
            let message = Message::new(topic, QoS::AtLeastOnce, true, payload, &[], None, core.now);
            core.publish_message(&message, Publisher::NOBODY).retained
        }

        fn turn(&mut self, shard: usize) {
            let goes_on = self.shards[shard].turn(false).expect("a simulated driver does not fail");
            assert!(goes_on);
        }

        fn retained(&self, shard: usize) -> Vec<String> {
            let Core { router, now, .. } = &self.shards[shard].core;
            let mut found = Vec::new();
            let _ = router.retained("#", None, 10, *now, |one| found.push(one.topic().to_owned()));
            found
        }

        fn stored(&self) -> Vec<String> {
            let retained = Stored::in_memory(&self.memory.crashed(), 2).0.recovered.retained;
            let text = |one: &[u8]| String::from_utf8(one.to_vec()).expect("text");
            retained.iter().map(|one| text(one.message.payload())).collect()
        }
    }

    /// A topic that a shard notes.
    fn topic_of(shard: u64) -> String {
        let mut topics = (0..100).map(|n| format!("topic/{n}"));
        topics.find(|topic| stable_hash(topic.as_bytes()) % 2 == shard).expect("every other one")
    }

    /// An older value arrives where a newer one is noted and not committed: its publisher is told of it when
    /// that is on disk, or else a crash would leave what was retained before both.
    #[test]
    fn what_is_older_is_confirmed_when_the_newer_is_committed() {
        let mut two = Two::start(Memory::default(), usize::MAX);
        let topic = topic_of(1);
        two.publish(0, &topic, "older");
        let core = &mut two.shards[0].core;
        core.gate.told(0b10, core.turn);
        core.mailbox.ask_confirmation(0b10);
        two.publish(1, &topic, "newer");
        two.turn(1);
        for shard in [0, 1, 0] {
            two.turn(shard);
        }
        assert_eq!(two.stored(), Vec::<String>::new());
        assert_eq!(two.shards[0].core.gate.uninformed(), 0b10, "it has to wait");
        two.writer.step();
        for shard in [1, 0] {
            two.turn(shard);
        }
        assert_eq!((two.stored(), two.shards[0].core.gate.uninformed()), (vec!["newer".into()], 0));
    }

    /// Two shards take the last place at the same moment: both messages are retained everywhere, on disk,
    /// too, and nothing more is.
    #[test]
    fn what_one_shard_had_room_for_all_retain() {
        let mut two = Two::start(Memory::default(), 1);
        // Each goes to the other one to be noted.
        let (x, y) = (topic_of(1), topic_of(0));
        assert!(two.publish(0, &x, "x") && two.publish(1, &y, "y"));
        for shard in [0, 1, 0, 1] {
            two.turn(shard);
        }
        two.writer.step();
        let mut both = [x, y];
        both.sort();
        assert_eq!((two.retained(0), two.retained(1)), (both.to_vec(), both.to_vec()));
        assert_eq!(two.stored().len(), 2);
        assert!(!two.publish(0, "one/more", "z") && !two.publish(1, "one/more", "z"));
        let again = Two::start(two.memory.crashed(), 1);
        assert_eq!((again.retained(0), again.retained(1)), (both.to_vec(), both.to_vec()));
    }

    /// A turn takes in mail of a turn that began after it: no Message Expiry Interval grows by that
    /// [MQTT-3.3.2-6].
    #[test]
    fn nothing_is_taken_in_before_it_was_sent() {
        let mut two = Two::start(Memory::default(), usize::MAX);
        let core = &mut two.shards[0].core;
        core.now = core.now.plus(Duration::from_secs(2));
        let message = Message::new("a", QoS::AtLeastOnce, true, b"x", &[], Some(60), core.now);
        core.publish_message(&message, Publisher::NOBODY);
        core.mailbox.post(core.turn, core.now);
        two.shards[1].take_mail();
        let Core { router, now, .. } = &two.shards[1].core;
        let mut intervals = Vec::new();
        let _ = router.retained("#", None, 10, *now, |one| {
            intervals.push(one.message_expiry_interval(*now));
        });
        assert_eq!(intervals, [Some(60)]);
    }
}
