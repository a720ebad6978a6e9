//! The commit gate: what a message costs that other shards have to confirm, in windows of several lengths;
//! and what one costs that they say something of, each by itself.

#![allow(missing_docs)]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sluice::mqtt::{AckKind, Message, PacketId, PublishOut, QoS, ReasonCode, Version};
use sluice::session::{LinkParameters, PublishOutcome, Session, SessionLimits, Sink, Verdict};
use sluice::timer::Time;
use std::hint::black_box;

/// The other shards.
const SHARDS: u8 = 7;
const MASK: u64 = (1 << SHARDS) - 1;

#[derive(Default)]
struct Acks(u64);

impl Sink for Acks {
    fn publish(&mut self, publish: &PublishOut<'_>, _: &Message) {
        black_box(publish);
    }

    fn ack(&mut self, _: AckKind, _: PacketId, _: ReasonCode) {
        self.0 += 1;
    }

    fn raw(&mut self, bytes: &[u8]) {
        black_box(bytes);
    }
}

/// A client of 5.0 that may have a thousand messages under way.
fn session() -> Session {
    let mut session = Session::new("client");
    let parameters = LinkParameters::new(Version::V5);
    session.connect(&parameters, &SessionLimits::default(), Time(0));
    session
}

/// What a shard says of a message.
type Say = fn(&mut Session, u8, u64);

fn gate(c: &mut Criterion) {
    let says: [(&str, Say); 3] = [
        ("nothing", |_, _, _| {}),
        ("refused", |session, shard, number| session.refuse(shard, number, false)),
        ("passed", Session::pass),
    ];
    let mut group = c.benchmark_group("gate");
    for (what, say) in says {
        for window in [10, 100, 1000] {
            group.throughput(Throughput::Elements(window));
            group.bench_function(BenchmarkId::new(what, window), |b| {
                let (mut session, mut acks) = (session(), Acks::default());
                let (mut number, mut turn) = (0, 0);
                b.iter(|| turn_of(&mut session, &mut acks, (&mut number, &mut turn), window, say));
                assert_eq!(acks.0, number, "each is acknowledged");
            });
        }
    }
    group.finish();
}

/// A window of messages is read in one turn; then every shard says something of each, and confirms.
fn turn_of(
    session: &mut Session,
    acks: &mut Acks,
    (number, turn): (&mut u64, &mut u64),
    window: u64,
    say: Say,
) {
    *turn += 1;
    let first = *number + 1;
    for packet_id in (1..).map_while(PacketId::new).take(window as usize) {
        let qos = QoS::AtLeastOnce;
        session.begin_publish(qos, packet_id, false, acks);
        *number += 1;
        let outcome = PublishOutcome {
            number: *number,
            turn: *turn,
            waiting: MASK,
            wanted: MASK,
            kept: false,
            ..PublishOutcome::KEPT
        };
        let verdict = session.finish_publish(qos, packet_id, outcome, acks);
        assert_eq!(verdict, Verdict::Continue);
    }
    let mut confirmed = [0; 64];
    for shard in 0..SHARDS {
        for number in first..=*number {
            say(session, shard, number);
        }
        confirmed[usize::from(shard)] = *turn;
    }
    assert_eq!(session.confirm(&confirmed, Some(acks)), Verdict::Continue);
}

criterion_group!(benches, gate);
criterion_main!(benches);
