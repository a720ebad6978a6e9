//! The timer wheel: what a keep alive costs, set anew with each packet, and an advance with nothing due.

#![allow(missing_docs)]

use criterion::{Criterion, criterion_group, criterion_main};
use sluice::timer::{Time, Wheel};
use std::hint::black_box;

const TIMERS: u64 = 100_000;

fn filled() -> (Wheel<u32>, Vec<sluice::timer::TimerKey>) {
    let mut wheel = Wheel::new(Time(0));
    let keys = (0..TIMERS).map(|n| wheel.insert(Time(60_000 + n * 7 % 90_000), n as u32)).collect();
    (wheel, keys)
}

fn wheel(c: &mut Criterion) {
    let (mut wheel, mut keys) = filled();
    let mut n = 0usize;
    c.bench_function("wheel/cancel_insert_of_100k", |b| {
        b.iter(|| {
            let place = n * 7919 % keys.len();
            n += 1;
            wheel.cancel(keys[place]);
            keys[place] = wheel.insert(Time(90_000 + (n % 1000) as u64), place as u32);
        });
    });

    let (mut wheel, _) = filled();
    let mut expired = Vec::new();
    let mut now = 0;
    c.bench_function("wheel/advance_1ms_nothing_due", |b| {
        b.iter(|| {
            now = (now + 1) % 59_000;
            wheel.advance(Time(black_box(now)), &mut expired);
        });
    });

    let mut wheel = Wheel::new(Time(0));
    let mut now = 0;
    c.bench_function("wheel/insert_and_fire", |b| {
        b.iter(|| {
            now += 1;
            wheel.insert(Time(now + 1500), 1u32);
            wheel.advance(Time(now), &mut expired);
            expired.clear();
        });
    });
}

criterion_group!(benches, wheel);
criterion_main!(benches);
