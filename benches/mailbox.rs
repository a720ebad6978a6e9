//! The mailbox: what a turn's batch costs its sender and its receiver, and what it costs to wake one.

#![allow(missing_docs)]

use std::hint::black_box;
use std::time::Instant;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sluice::net::{Driver, MioDriver};
use sluice::shard::Bell;
use sluice::shard::mail::{Mailbox, mailboxes};
use sluice::timer::Time;

/// As large as what shards send each other.
type Item = [u64; 8];

const FRAME: [u8; 80] = [b'.'; 80];

/// Two ends whose bells ring as a broker's do: by an eventfd. The drivers keep those open.
fn pair() -> (Mailbox<Item>, Mailbox<Item>, Vec<MioDriver>) {
    let start = Instant::now();
    let drivers: Vec<_> = (0..2)
        .map(|_| MioDriver::new(Vec::<std::net::TcpListener>::new(), start).expect("a poll"))
        .collect();
    let bells: Vec<_> = drivers.iter().map(|driver| Bell::new(driver.waker())).collect();
    let mut boxes = mailboxes(&bells, 4 << 20).into_iter();
    let (Some(a), Some(b)) = (boxes.next(), boxes.next()) else { unreachable!() };
    (a, b, drivers)
}

fn take_all(mailbox: &mut Mailbox<Item>) {
    while let Some(batch) = mailbox.take() {
        mailbox.taken(&batch);
        black_box((batch.items, batch.bytes));
    }
}

fn mailbox(c: &mut Criterion) {
    let mut group = c.benchmark_group("mailbox");
    for asleep in [false, true] {
        let receiver = if asleep { "asleep" } else { "awake" };
        for items in [1, 64] {
            let (mut a, mut b, _drivers) = pair();
            group.throughput(Throughput::Elements(items));
            group.bench_function(format!("post_take_{items}_items_{receiver}"), |bencher| {
                bencher.iter(|| {
                    assert!(!asleep || b.may_sleep());
                    for n in 0..items {
                        a.push(1, 100, black_box([n; 8]));
                    }
                    a.post(1, Time(0));
                    b.awake();
                    take_all(&mut b);
                });
            });
        }
    }

    let (mut a, mut b, _drivers) = pair();
    let run = FRAME.repeat(64);
    group.throughput(Throughput::Elements(64));
    group.bench_function("post_take_a_run_of_64_frames_awake", |bencher| {
        bencher.iter(|| {
            a.push_bytes(1, black_box(&run), |start, end| {
                [start as u64, end as u64, 0, 0, 0, 0, 0, 0]
            });
            a.post(1, Time(0));
            take_all(&mut b);
        });
    });

    let (mut a, b, _drivers) = pair();
    group.throughput(Throughput::Elements(1));
    group.bench_function("a_turn_without_mail", |bencher| {
        bencher.iter(|| {
            a.post(1, Time(0));
            assert!(black_box(b.may_sleep()));
            b.awake();
        });
    });
    group.finish();
}

criterion_group!(benches, mailbox);
criterion_main!(benches);
