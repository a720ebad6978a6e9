//! A topic that retains the last of what several clients have it retain, their Wills among it.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use fastrand::Rng;

/// Numbers of one client, at most.
const EACH: u32 = 1_000_000;

/// A value that was given to be retained. Whoever writes has a number range of its own.
#[derive(Clone, Debug)]
struct Write {
    value: u32,
    /// Nothing is to be retained.
    clears: bool,
    begun: u64,
    /// If it is made at all, it is made by then.
    until: Option<u64>,
    /// It was made.
    is_sure: bool,
    /// Values that were there before it, as its writer knows.
    after: BTreeSet<u32>,
}

/// What happened to the topic, by a clock that counts what its clients do.
#[derive(Debug, Default)]
struct Inner {
    clock: u64,
    writes: Vec<Write>,
    writers: u32,
    /// Those of them that repeat what is not acknowledged.
    repeating: BTreeSet<u32>,
}

/// What all who write to the topic and read it know together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Register(Rc<RefCell<Inner>>);

impl Register {
    /// The first number of one more writer.
    pub(crate) fn add_writer(&self) -> u32 {
        let mut inner = self.0.borrow_mut();
        inner.writers += 1;
        inner.writers * EACH
    }

    pub(crate) fn now(&self) -> u64 {
        let mut inner = self.0.borrow_mut();
        inner.clock += 1;
        inner.clock
    }

    pub(crate) fn begin(&self, value: u32, clears: bool, after: BTreeSet<u32>) {
        let begun = self.now();
        let write = Write { value, clears, begun, until: None, is_sure: false, after };
        self.0.borrow_mut().writes.push(write);
    }

    /// Whether a value may be written once more after it was seen: its publisher repeats it.
    fn is_repeated(&self, value: u32) -> bool {
        self.0.borrow().repeating.contains(&(value / EACH))
    }

    /// A value is not written any more; perhaps it was.
    pub(crate) fn is_over(&self, value: u32) {
        let now = self.now();
        let mut inner = self.0.borrow_mut();
        let write = inner.writes.iter_mut().find(|write| write.value == value);
        write.into_iter().for_each(|write| _ = write.until.get_or_insert(now));
    }

    /// A value was written.
    pub(crate) fn is_sure(&self, value: u32) {
        self.is_over(value);
        let mut inner = self.0.borrow_mut();
        let write = inner.writes.iter_mut().find(|write| write.value == value);
        write.into_iter().for_each(|write| write.is_sure = true);
    }

    /// The broker has ended: what somebody of these numbers has seen may not have been stored, and come again.
    fn forget_order(&self, first: u32) {
        let mut inner = self.0.borrow_mut();
        let own = |write: &&mut Write| write.value / EACH == first / EACH && !write.is_sure;
        inner.writes.iter_mut().filter(own).for_each(|write| write.after.clear());
    }

    /// A value was found, or none: what was asked for then may be that.
    pub(crate) fn check(&self, found: Option<u32>, asked: u64) -> Result<(), String> {
        let inner = self.0.borrow();
        // What has come in the place of something that was there by then.
        let newer = |value: Option<u32>, until: Option<u64>| {
            inner.writes.iter().find(|newer| {
                let is_done = newer.is_sure && newer.until.is_some_and(|until| until < asked);
                let is_before = until.is_some_and(|until| until < newer.begun);
                is_done && (is_before || value.is_some_and(|value| newer.after.contains(&value)))
            })
        };
        let Some(value) = found else {
            let nothing = inner.writes.iter().filter(|write| write.clears);
            let mut nothing = nothing.map(|write| (Some(write.value), write.until));
            let first = newer(None, Some(0));
            return match first {
                Some(newer_one) if nothing.all(|(value, until)| newer(value, until).is_some()) => {
                    Err(format!("nothing is retained, and {newer_one:?} should be"))
                }
                _ => Ok(()),
            };
        };
        let write = inner.writes.iter().find(|write| write.value == value && !write.clears);
        let Some(write) = write else { return Err(format!("nobody wrote {value}")) };
        match newer(Some(value), write.until) {
            None => Ok(()),
            Some(newer) => Err(format!("{write:?} was found, and there was {newer:?}")),
        }
    }
}

/// One who has values retained, and sees those of others.
#[derive(Clone, Debug)]
pub(crate) struct Setter {
    pub(crate) topic: &'static str,
    register: Register,
    first: u32,
    /// The Wills that came by now.
    seen: BTreeSet<u32>,
    /// One has come since it has published.
    is_alarmed: bool,
}

impl Setter {
    pub(crate) fn new(topic: &'static str, register: &Register) -> Self {
        let (register, first) = (register.clone(), register.add_writer());
        register.0.borrow_mut().repeating.insert(first / EACH);
        Self { topic, register, first, seen: BTreeSet::new(), is_alarmed: false }
    }

    /// What it publishes as its message of that number.
    pub(crate) fn payload(&self, number: u32) -> String {
        let value = self.first + number;
        if Self::clears(number) { String::new() } else { value.to_string() }
    }

    fn clears(number: u32) -> bool {
        number % 5 == 4
    }

    /// Whether it publishes now: at once if somebody has died.
    pub(crate) fn acts(&self, rng: &mut Rng) -> bool {
        rng.u8(0..12) == 0 || (self.is_alarmed && rng.bool())
    }

    pub(crate) fn begins(&mut self, number: u32) {
        self.is_alarmed = false;
        self.register.begin(self.first + number, Self::clears(number), self.seen.clone());
    }

    pub(crate) fn acknowledged(&self, number: u32) {
        self.register.is_sure(self.first + number);
    }

    pub(crate) fn broker_is_gone(&mut self) {
        self.seen.clear();
        self.register.forget_order(self.first);
    }

    pub(crate) fn sees(&mut self, value: u32) {
        if !self.register.is_repeated(value) {
            self.is_alarmed |= self.seen.insert(value);
        }
    }
}

/// One who subscribes anew with each connection, to see what is retained.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    pub(crate) topic: &'static str,
    register: Register,
    asked: u64,
    /// How often it has found something.
    pub(crate) count: u64,
}

impl Reader {
    pub(crate) fn new(topic: &'static str, register: &Register) -> Self {
        Self { topic, register: register.clone(), asked: 0, count: 0 }
    }

    pub(crate) fn asks(&mut self) {
        self.asked = self.register.now();
    }

    pub(crate) fn finds(&mut self, value: u32) -> Result<(), String> {
        self.count += 1;
        self.register.check(Some(value), self.asked)
    }
}
