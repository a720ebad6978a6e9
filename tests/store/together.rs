//! Changes that are committed together leave what they leave when each is committed by itself.

use fastrand::Rng;
use sluice::hooks::Table;
use sluice::mqtt::Message;
use sluice::session::Change;
use sluice::store::{Epoch, Memory, Turn};

use crate::engines::records;
use crate::turns::{Bench, id, message, queued, session};

const SEEDS: u64 = 200;
const SESSIONS: u64 = 3;

/// How far a message of a session has come.
#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Queued,
    InFlight,
    Released,
}

struct Waiting {
    session: u64,
    place: u64,
    message: Message,
    stage: Stage,
}

/// What sessions do, as long as it makes sense.
struct Sessions {
    rng: Rng,
    waiting: Vec<Waiting>,
    messages: Vec<Message>,
    next_place: u64,
}

impl Sessions {
    fn change(&mut self) -> Change {
        if self.waiting.is_empty() || self.rng.u8(0..5) < 2 {
            return self.queue();
        }
        let at = self.rng.usize(0..self.waiting.len().min(8));
        let Waiting { session, place, message, stage } = &mut self.waiting[at];
        let (session, place, message) = (*session, *place, message.clone());
        let (number, packet_id) = (0, id(place as u16 + 1));
        match (*stage, self.rng.u8(0..3)) {
            (Stage::Queued, 0) => {
                *stage = Stage::InFlight;
                Change::InFlight(session, place, packet_id)
            }
            (Stage::Queued | Stage::InFlight, 1) => {
                let (order, flew) = (place, *stage == Stage::InFlight);
                *stage = Stage::Released;
                Change::Released { session, place, message, number, packet_id, order, flew }
            }
            (Stage::Released, _) => {
                self.waiting.remove(at);
                Change::Completed(session, place)
            }
            _ => {
                let flew = self.waiting.remove(at).stage == Stage::InFlight;
                Change::Removed { session, place, message, number, flew }
            }
        }
    }

    fn queue(&mut self) -> Change {
        // A message may be for several.
        if self.messages.is_empty() || self.rng.bool() {
            self.messages.push(message(&self.next_place.to_string()));
        }
        let message = self.messages[self.messages.len() - 1].clone();
        let (session, place) = (self.rng.u64(1..=SESSIONS), self.next_place);
        self.next_place += 1;
        let change = queued(session, place, &message);
        self.waiting.push(Waiting { session, place, message, stage: Stage::Queued });
        change
    }
}

#[test]
fn many_changes_in_one_commit_leave_what_they_leave_one_by_one() {
    for seed in 0..SEEDS {
        eprintln!("seed {seed}");
        let rng = Rng::with_seed(seed);
        let (waiting, messages) = (Vec::new(), Vec::new());
        let mut sessions = Sessions { rng, waiting, messages, next_place: 1 };
        let epoch = Epoch { unix_ms: 1_700_000_000_000 };
        let (mut together, mut apart) =
            (Bench::on(Memory::default(), 1, epoch), Bench::on(Memory::default(), 1, epoch));
        let begin: Vec<_> = (1..=SESSIONS).map(|n| session(&n.to_string(), n)).collect();
        together.commit(1, begin.clone());
        apart.commit(1, begin);
        for turn in 2..sessions.rng.u64(3..300) {
            let change = sessions.change();
            apart.commit(turn, vec![change.clone()]);
            together.links[0].submit(Turn {
                turn,
                changes: vec![change].into(),
                ..Turn::default()
            });
            match sessions.rng.u8(0..30) {
                0..4 => _ = together.writer.step(),
                // What may have been written has to go when its record goes.
                4 => {
                    together.memory.fail(Some("full"));
                    together.writer.step();
                    together.memory.fail(None);
                }
                _ => {}
            }
        }
        together.writer.step();
        for table in Table::ALL {
            let (left, right) = (records(&together.memory, table), records(&apart.memory, table));
            assert_eq!(left, right, "{table:?}");
        }
    }
}
