//! What threads that drive clients tell each other: who received a message that another thread has sent, and when
//! a stage of the run is over for all of them.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};

use mio::{Registry, Token, Waker};

use super::Counters;
use crate::measure::Seen;

/// Under which another thread's word is reported.
pub(crate) const WAKER: Token = Token(usize::MAX - 1);

/// Threads at most: a bit each.
pub(crate) const MAX_THREADS: usize = 64;

/// Receivers of one thread have these messages of one publisher of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Receipt {
    /// Its index on the thread that it belongs to.
    pub(crate) flow: u32,
    pub(crate) sequences: Range<u64>,
    pub(crate) kind: ReceiptKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReceiptKind {
    Received(Seen),
    PassedOver,
}

/// Where all threads of a run meet.
#[derive(Debug)]
pub(crate) struct Meeting {
    /// A bit for each thread.
    everybody: u64,
    /// Who has nothing left to do in this stage.
    done: AtomicU64,
    /// Who has lost every connection.
    abandoned: AtomicU64,
    /// By thread.
    progress: Vec<Progress>,
}

/// How far a thread is, on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Progress {
    delivered: AtomicU64,
    received: AtomicU64,
    /// Everything that is sent, received or acknowledged.
    all: AtomicU64,
    /// Publishers, and those of them that are stalled.
    publishers: AtomicU64,
    stalled: AtomicU64,
}

/// One thread's side.
#[derive(Debug)]
pub(crate) struct Peers {
    own: u32,
    count: u32,
    meeting: Arc<Meeting>,
    inbox: Receiver<Vec<Receipt>>,
    links: Vec<Link>,
    /// Receipts of this turn, by thread.
    outboxes: Vec<Vec<Receipt>>,
}

/// The way to one thread.
#[derive(Clone, Debug)]
struct Link {
    sender: Sender<Vec<Receipt>>,
    waker: Arc<OnceLock<Waker>>,
}

/// Where a publisher is at home.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Home {
    /// Here, under this index.
    Here(u32),
    There {
        thread: u32,
        flow: u32,
    },
}

impl Peers {
    /// The sides of so many threads, 1 to [`MAX_THREADS`].
    pub(crate) fn group(threads: usize) -> Vec<Self> {
        let meeting = Arc::new(Meeting {
            everybody: u64::MAX >> (MAX_THREADS - threads),
            done: AtomicU64::new(0),
            abandoned: AtomicU64::new(0),
            progress: (0..threads).map(|_| Progress::default()).collect(),
        });
        let (senders, inboxes): (Vec<_>, Vec<_>) = (0..threads).map(|_| channel()).unzip();
        let link = |sender| Link { sender, waker: Arc::default() };
        let links: Vec<Link> = senders.into_iter().map(link).collect();
        let side = |(own, inbox)| Self {
            own,
            count: threads as u32,
            meeting: Arc::clone(&meeting),
            inbox,
            links: links.clone(),
            outboxes: vec![Vec::new(); threads],
        };
        (0..).zip(inboxes).map(side).collect()
    }

    /// Lets others wake the loop of this registry.
    pub(crate) fn register(&self, registry: &Registry) -> io::Result<()> {
        if self.count > 1
            && let Some(link) = self.links.get(self.own as usize)
        {
            let _ = link.waker.set(Waker::new(registry, WAKER)?);
        }
        Ok(())
    }

    /// Publishers are dealt out to the threads in turn.
    #[inline]
    pub(crate) fn home(&self, publisher: u32) -> Home {
        if self.count == 1 {
            return Home::Here(publisher);
        }
        let (thread, flow) = (publisher % self.count, publisher / self.count);
        if thread == self.own { Home::Here(flow) } else { Home::There { thread, flow } }
    }

    /// The number, in the whole run, of the flow with this index here.
    pub(crate) fn publisher(&self, flow: u32) -> u32 {
        flow * self.count + self.own
    }

    /// Notes for another thread what was received here; told at the end of the turn.
    pub(crate) fn note(&mut self, thread: u32, receipt: Receipt) {
        let Some(outbox) = self.outboxes.get_mut(thread as usize) else { return };
        match outbox.last_mut() {
            Some(last) if last.goes_on_as(&receipt) => last.sequences.end = receipt.sequences.end,
            _ => outbox.push(receipt),
        }
    }

    /// Tells the others, waking each once.
    pub(crate) fn send(&mut self) {
        for (outbox, link) in self.outboxes.iter_mut().zip(&self.links) {
            if outbox.is_empty() || link.sender.send(std::mem::take(outbox)).is_err() {
                continue;
            }
            if let Some(waker) = link.waker.get() {
                let _ = waker.wake();
            }
        }
    }

    /// What another thread has told.
    pub(crate) fn receive(&self) -> Option<Vec<Receipt>> {
        if self.count == 1 { None } else { self.inbox.try_recv().ok() }
    }

    /// Begins a stage; to be called while no thread is at work.
    pub(crate) fn begin_stage(&self) {
        self.meeting.done.store(0, Ordering::Relaxed);
        self.meeting.abandoned.store(0, Ordering::Relaxed);
    }

    /// Tells that this thread has nothing left to do in this stage. Returns whether nobody has.
    pub(crate) fn are_all_done(&self, is_done: bool) -> bool {
        let own = u64::from(is_done) << self.own;
        let bits = self.meeting.done.fetch_or(own, Ordering::AcqRel) | own;
        bits == self.meeting.everybody
    }

    /// The same for a thread without an open connection.
    pub(crate) fn are_all_abandoned(&self, is_abandoned: bool) -> bool {
        if !is_abandoned {
            return false;
        }
        let own = 1 << self.own;
        let bits = self.meeting.abandoned.fetch_or(own, Ordering::AcqRel) | own;
        bits == self.meeting.everybody
    }

    /// Tells how far this thread is.
    pub(crate) fn show(&self, counters: &Counters, publishers: usize) {
        let Some(progress) = self.meeting.progress.get(self.own as usize) else { return };
        let all = counters.delivered + counters.acknowledged + counters.sent;
        progress.delivered.store(counters.delivered, Ordering::Relaxed);
        progress.received.store(counters.received, Ordering::Relaxed);
        progress.all.store(all, Ordering::Relaxed);
        progress.publishers.store(publishers as u64, Ordering::Relaxed);
        progress.stalled.store(counters.stalled, Ordering::Relaxed);
    }

    /// Of all threads.
    pub(crate) fn delivered(&self) -> u64 {
        self.sum(|one| &one.delivered)
    }

    /// Of all threads.
    pub(crate) fn received(&self) -> u64 {
        self.sum(|one| &one.received)
    }

    /// Whether there are publishers, and all of them, on all threads, are stalled.
    pub(crate) fn are_all_stalled(&self) -> bool {
        let stalled = self.sum(|one| &one.stalled);
        stalled > 0 && stalled == self.sum(|one| &one.publishers)
    }

    /// Grows while any thread gets on.
    pub(crate) fn progress(&self) -> u64 {
        self.sum(|one| &one.all)
    }

    fn sum(&self, of: impl Fn(&Progress) -> &AtomicU64) -> u64 {
        self.meeting.progress.iter().map(|one| of(one).load(Ordering::Relaxed)).sum()
    }
}

impl Receipt {
    fn goes_on_as(&self, next: &Receipt) -> bool {
        self.flow == next.flow
            && self.kind == next.kind
            && self.sequences.end == next.sequences.start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(flow: u32, sequences: Range<u64>) -> Receipt {
        Receipt { flow, sequences, kind: ReceiptKind::Received(Seen::Fresh) }
    }

    #[test]
    fn publishers_are_dealt_out_and_found_again() {
        let sides = Peers::group(3);
        for publisher in 0..10 {
            let homes: Vec<Home> = sides.iter().map(|side| side.home(publisher)).collect();
            let here = homes.iter().position(|home| matches!(home, Home::Here(_))).unwrap();
            let Home::Here(flow) = homes[here] else { panic!() };
            assert_eq!(sides[here].publisher(flow), publisher);
            let expected = Home::There { thread: here as u32, flow };
            assert_eq!(homes[(here + 1) % 3], expected);
        }
        assert_eq!(Peers::group(1)[0].home(7), Home::Here(7));
    }

    #[test]
    fn neighbours_are_told_as_one() {
        let mut sides = Peers::group(2);
        for sequences in [0..1, 1..2, 2..3, 5..6] {
            sides[0].note(1, receipt(4, sequences));
        }
        sides[0].note(1, receipt(5, 6..7));
        sides[0].send();
        let told = sides[1].receive().unwrap();
        assert_eq!(told, [receipt(4, 0..3), receipt(4, 5..6), receipt(5, 6..7)]);
        assert!(sides[1].receive().is_none());
    }

    #[test]
    fn all_are_stalled_when_each_is_on_every_thread() {
        let sides = Peers::group(2);
        let stalled = |stalled| Counters { stalled, ..Counters::default() };
        assert!(!sides[0].are_all_stalled());
        sides[0].show(&stalled(2), 2);
        sides[1].show(&stalled(1), 2);
        assert!(!sides[0].are_all_stalled());
        sides[1].show(&stalled(2), 2);
        assert!(sides[0].are_all_stalled());
    }

    #[test]
    fn a_stage_is_over_when_all_are_done() {
        let sides = Peers::group(2);
        assert!(!sides[0].are_all_done(true));
        assert!(!sides[1].are_all_done(false));
        assert!(sides[1].are_all_done(true));
        assert!(sides[0].are_all_done(true));
        sides[0].begin_stage();
        assert!(!sides[0].are_all_done(true));
        let largest = Peers::group(MAX_THREADS);
        assert!(!largest.iter().take(63).any(|side| side.are_all_done(true)));
        assert!(largest[63].are_all_done(true));
    }
}
