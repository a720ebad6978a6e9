//! An allocator that counts what the threads of shards do, while somebody wants to know.

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::fs::File;
use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static WATCHING: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static LIVE_BYTES: AtomicI64 = AtomicI64::new(0);
static WANTS_STACK: AtomicBool = AtomicBool::new(false);
static FIRST_STACK: Mutex<Option<Backtrace>> = Mutex::new(None);
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Unknown,
    Shard,
    Other,
}

thread_local! {
    static KIND: Cell<Kind> = const { Cell::new(Kind::Unknown) };
}

/// Counts from here on.
pub(crate) struct Watch<'a>(#[allow(dead_code, reason = "held, not read")] &'a Alone);

/// While it lives, no other test of this binary has shards.
pub(crate) struct Alone(#[allow(dead_code, reason = "held, not read")] MutexGuard<'static, ()>);

/// What threads of shards did since the watch began.
#[derive(Debug)]
pub(crate) struct Counted {
    pub(crate) allocations: u64,
    /// Allocated less freed.
    pub(crate) live_bytes: i64,
    /// Where the first allocation was made.
    pub(crate) first_stack: Option<Backtrace>,
}

/// Waits for the other tests of this binary. To be called before a broker starts, so that it has stopped
/// when the next test begins.
pub(crate) fn alone() -> Alone {
    Alone(ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner))
}

impl<'a> Watch<'a> {
    /// Begins to count; `stack` says whether to remember where the first allocation was made.
    pub(crate) fn begin(alone: &'a Alone, stack: bool) -> Self {
        ALLOCATIONS.store(0, Ordering::SeqCst);
        LIVE_BYTES.store(0, Ordering::SeqCst);
        WANTS_STACK.store(stack, Ordering::SeqCst);
        WATCHING.store(true, Ordering::SeqCst);
        Self(alone)
    }

    pub(crate) fn live_bytes(&self) -> i64 {
        LIVE_BYTES.load(Ordering::SeqCst)
    }

    /// Ends the watch.
    pub(crate) fn end(self) -> Counted {
        WATCHING.store(false, Ordering::SeqCst);
        Counted {
            allocations: ALLOCATIONS.load(Ordering::SeqCst),
            live_bytes: LIVE_BYTES.load(Ordering::SeqCst),
            first_stack: FIRST_STACK.lock().unwrap_or_else(PoisonError::into_inner).take(),
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        WATCHING.store(false, Ordering::SeqCst);
    }
}

/// Whether this thread runs a shard. Asked only while somebody watches: by then it has its name.
fn is_shard() -> bool {
    let kind = KIND.try_with(Cell::get).unwrap_or(Kind::Other);
    if kind != Kind::Unknown {
        return kind == Kind::Shard;
    }
    // What finding out allocates is nobody's.
    let _ = KIND.try_with(|kind| kind.set(Kind::Other));
    let mut name = [0; 6];
    let read = File::open("/proc/thread-self/comm").and_then(|mut file| file.read_exact(&mut name));
    let is_shard = read.is_ok() && name == *b"shard-";
    if is_shard {
        let _ = KIND.try_with(|kind| kind.set(Kind::Shard));
    }
    is_shard
}

fn count(allocations: u64, bytes: i64) {
    if !WATCHING.load(Ordering::Relaxed) || !is_shard() {
        return;
    }
    ALLOCATIONS.fetch_add(allocations, Ordering::SeqCst);
    LIVE_BYTES.fetch_add(bytes, Ordering::SeqCst);
    if allocations > 0 && WANTS_STACK.swap(false, Ordering::SeqCst) {
        let _ = KIND.try_with(|kind| kind.set(Kind::Other));
        let stack = Backtrace::force_capture();
        *FIRST_STACK.lock().unwrap_or_else(PoisonError::into_inner) = Some(stack);
        let _ = KIND.try_with(|kind| kind.set(Kind::Shard));
    }
}

#[expect(clippy::cast_possible_wrap, reason = "no allocation is that large")]
fn signed(len: usize) -> i64 {
    len as i64
}

// SAFETY: everything is done by the system's allocator; counting touches none of its memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, signed(layout.size()));
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(1, signed(layout.size()));
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        count(1, signed(len) - signed(layout.size()));
        // SAFETY: as the caller promises.
        unsafe { System.realloc(pointer, layout, len) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, -signed(layout.size()));
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[test]
fn only_threads_of_shards_count() {
    let alone = alone();
    let (start, started) = std::sync::mpsc::channel::<()>();
    let (run, runs) = std::sync::mpsc::channel::<()>();
    let named = std::thread::Builder::new().name("shard-7".into());
    let shard = named.spawn(move || {
        run.send(()).expect("it waits");
        started.recv().expect("told to start");
        let mut text = String::from("a");
        text.push_str("and more");
        std::hint::black_box(vec![0_u8; 10_000].leak());
    });
    let shard = shard.expect("a thread");
    // A thread that allocates before it has its name is taken for another for good.
    runs.recv().expect("it begins");
    let watch = Watch::begin(&alone, true);
    std::hint::black_box(vec![0_u8; 1_000_000].leak());
    start.send(()).expect("it lives");
    shard.join().expect("no panic");
    let counted = watch.end();
    assert!((3..100).contains(&counted.allocations), "{}", counted.allocations);
    // A thread that begins and ends has some bytes of its own, and frees some that its starter made.
    assert!((8_000..11_000).contains(&counted.live_bytes), "{}", counted.live_bytes);
    assert!(counted.first_stack.is_some());
}
