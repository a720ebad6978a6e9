//! What the threads that drive clients show of themselves while they work.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::Counters;
use crate::measure::Latencies;

/// How often a thread shows its latencies, in nanoseconds.
const LATENCIES_EVERY_NS: u64 = 200_000_000;

/// Read by whoever shows a run live. Cheap to keep: a few stores a turn, and a copy of the latencies now and then.
#[derive(Debug, Default)]
pub(crate) struct Monitor {
    boards: Mutex<Vec<Arc<Board>>>,
    stage: AtomicUsize,
}

/// What one thread shows.
#[derive(Debug)]
pub(crate) struct Board {
    counters: [AtomicU64; Counters::COUNT],
    clients: AtomicUsize,
    shown: Mutex<Shown>,
}

#[derive(Debug)]
struct Shown {
    next_ns: u64,
    latencies: Latencies,
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Connecting,
    WarmingUp,
    Measuring,
    Draining,
    Disconnecting,
}

/// Everything at one moment, over all threads.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) stage: Stage,
    pub(crate) clients: usize,
    pub(crate) counters: Counters,
    pub(crate) latencies: Latencies,
}

impl Monitor {
    /// A place for one more thread.
    pub(crate) fn board(&self) -> Arc<Board> {
        let board = Arc::new(Board {
            counters: Default::default(),
            clients: AtomicUsize::new(0),
            shown: Mutex::new(Shown { next_ns: 0, latencies: Latencies::new() }),
        });
        let mut boards = self.boards.lock().unwrap_or_else(PoisonError::into_inner);
        boards.push(Arc::clone(&board));
        board
    }

    pub(crate) fn enter(&self, stage: Stage) {
        self.stage.store(stage as usize, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let boards = self.boards.lock().unwrap_or_else(PoisonError::into_inner);
        let mut counters = [0; Counters::COUNT];
        let mut latencies = Latencies::new();
        let mut clients = 0;
        for board in boards.iter() {
            for (sum, value) in counters.iter_mut().zip(&board.counters) {
                *sum += value.load(Ordering::Relaxed);
            }
            clients += board.clients.load(Ordering::Relaxed);
            let shown = board.shown.lock().unwrap_or_else(PoisonError::into_inner);
            latencies.merge(&shown.latencies);
        }
        let stage = match self.stage.load(Ordering::Relaxed) {
            0 => Stage::Connecting,
            1 => Stage::WarmingUp,
            2 => Stage::Measuring,
            3 => Stage::Draining,
            _ => Stage::Disconnecting,
        };
        Snapshot { stage, clients, counters: Counters::from_array(counters), latencies }
    }
}

impl Board {
    /// Shows where a thread stands.
    #[inline]
    pub(crate) fn show(
        &self,
        now_ns: u64,
        clients: usize,
        counters: &Counters,
        latencies: &Latencies,
    ) {
        for (shown, value) in self.counters.iter().zip(counters.to_array()) {
            shown.store(value, Ordering::Relaxed);
        }
        self.clients.store(clients, Ordering::Relaxed);
        let Ok(mut shown) = self.shown.try_lock() else { return };
        if now_ns >= shown.next_ns {
            shown.next_ns = now_ns + LATENCIES_EVERY_NS;
            shown.latencies.clone_from(latencies);
        }
    }
}

impl Stage {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::WarmingUp => "warming up",
            Self::Measuring => "measuring",
            Self::Draining => "waiting for the last",
            Self::Disconnecting => "disconnecting",
        }
    }
}
