//! The two clocks of the tool, both in nanoseconds.

use rustix::time::{ClockId, clock_gettime};

/// Time since an arbitrary point, the same for every process of this machine, so that a message sent by one
/// process can be timed by another.
pub(crate) fn monotonic_ns() -> u64 {
    read(ClockId::Monotonic)
}

/// CPU time that this process has used so far, user and system, over all of its threads.
pub(crate) fn own_cpu_ns() -> u64 {
    read(ClockId::ProcessCPUTime)
}

/// CPU time that this thread has used so far, user and system.
pub(crate) fn thread_cpu_ns() -> u64 {
    read(ClockId::ThreadCPUTime)
}

fn read(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}
