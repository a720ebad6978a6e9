//! What is measured: losses and order per stream, latencies, and what processes spend.

mod clock;
mod detector;
mod disk;
mod latency;
mod machine;
mod process;
mod reading;

pub(crate) use clock::{monotonic_ns, own_cpu_ns, thread_cpu_ns};
pub(crate) use detector::{Seen, SequenceTracker, StreamFaults};
pub(crate) use disk::{Alone, DiskMeter, DiskUse};
pub(crate) use latency::Latencies;
pub(crate) use machine::{
    LEAST_MEASURED, LEAST_STEADY, MachineCpu, QUIET_CORES, STEADY_CORES, allowed_cores,
    check_memory, no_such_core, wait_until_quiet,
};
pub(crate) use process::{ProcessGroup, Usage};
pub(crate) use reading::{Reading, Spent};
