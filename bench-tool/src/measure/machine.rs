//! What the rest of the machine is doing: a figure measured beside a busy neighbour is too high.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

/// Kernel clock ticks a second in /proc/stat, the same on every Linux that Rust supports.
const TICK_MS: u64 = 10;

/// In less time than this nothing shows who was busy.
pub(crate) const LEAST_MEASURED: Duration = Duration::from_millis(200);

/// In less than this one tick is more than [`STEADY_CORES`].
pub(crate) const LEAST_STEADY: Duration = Duration::from_millis(500);

/// Use by others, in cores, below which the machine counts as quiet.
pub(crate) const QUIET_CORES: f64 = 0.15;

/// What the host may take away, in cores: a virtual machine that stands still for a hundredth of the time has a 99th
/// percentile that is the host's. Twice that, as broker and tool have a core each.
pub(crate) const STEADY_CORES: f64 = 0.02;

/// CPU time since the machine was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MachineCpu {
    /// Used by processes and by the kernel.
    pub(crate) busy: Duration,
    /// Of a virtual machine, while it had something to do and its host did not let it.
    pub(crate) stolen: Duration,
}

impl MachineCpu {
    /// `None` where there is no /proc.
    pub(crate) fn now() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/stat").ok()?)
    }

    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            busy: self.busy.saturating_sub(earlier.busy),
            stolen: self.stolen.saturating_sub(earlier.stolen),
        }
    }

    /// The first line: user, nice, system, idle, iowait, irq, softirq, steal; guest time is in user already.
    fn parse(stat: &str) -> Option<Self> {
        let fields = stat.lines().next()?.strip_prefix("cpu ")?;
        let ticks = fields.split_ascii_whitespace().take(8).map(str::parse);
        let ticks: Vec<u64> = ticks.collect::<Result<_, _>>().ok()?;
        let [user, nice, system, _idle, _iowait, irq, softirq, steal] = *ticks.as_slice() else {
            return None;
        };
        let time = |ticks: u64| Duration::from_millis(ticks.saturating_mul(TICK_MS));
        let busy = [user, nice, system, irq, softirq].into_iter().fold(0, u64::saturating_add);
        Some(Self { busy: time(busy), stolen: time(steal) })
    }
}

/// Waits until the machine is quiet, for `patience` at most. Returns whether it is.
pub(crate) fn wait_until_quiet(patience: Duration) -> bool {
    let sample = Duration::from_millis(300);
    let started = Instant::now();
    loop {
        let before = MachineCpu::now();
        let sampled = Instant::now();
        thread::sleep(sample);
        let (Some(before), Some(after)) = (before, MachineCpu::now()) else { return true };
        let spent = after.since(before);
        let in_use = (spent.busy + spent.stolen).as_secs_f64() / sampled.elapsed().as_secs_f64();
        if in_use < QUIET_CORES {
            return true;
        }
        if started.elapsed() >= patience {
            return false;
        }
    }
}

/// Whether this machine has memory for so many payloads.
///
/// # Errors
/// What they take and what there is, in one line.
pub(crate) fn check_memory(publishers: u32, payload_len: usize) -> Result<(), String> {
    let takes = u64::from(publishers).saturating_mul(payload_len as u64);
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    match parse_available(&text).filter(|available| takes > *available) {
        None => Ok(()),
        Some(available) => Err(format!(
            "{publishers} publishers with {payload_len} bytes each take {} MiB, and {} MiB are available",
            takes >> 20,
            available >> 20
        )),
    }
}

fn parse_available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

/// The cores that this process may use.
pub(crate) fn allowed_cores() -> Vec<usize> {
    let set = rustix::thread::sched_getaffinity(None);
    let set = set.unwrap_or_else(|_| rustix::thread::CpuSet::new());
    (0..rustix::thread::CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect()
}

/// What to say of a core that is not among them.
pub(crate) fn no_such_core(core: usize, allowed: &[usize]) -> String {
    let allowed: Vec<String> = allowed.iter().map(ToString::to_string).collect();
    format!("core {core}: this machine has cores {}", allowed.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_waiting_are_not_busy() {
        let stat = "cpu  100 1 50 99999999999 777 2 3 4 9 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        let (busy, stolen) = (Duration::from_millis(1_560), Duration::from_millis(40));
        assert_eq!(MachineCpu::parse(stat), Some(MachineCpu { busy, stolen }));
        assert_eq!(MachineCpu::parse("cpu  1 2"), None);
        assert_eq!(MachineCpu::parse(""), None);
    }

    #[test]
    fn memory_that_is_not_there_is_not_taken() {
        assert_eq!(parse_available("MemFree: 1 kB\nMemAvailable:    20 kB\n"), Some(20 * 1024));
        assert!(check_memory(50, 1 << 10).is_ok());
        let error = check_memory(1 << 30, 1 << 20).unwrap_err();
        assert!(
            error.starts_with("1073741824 publishers with 1048576 bytes each take "),
            "{error}"
        );
    }

    #[test]
    fn the_machine_has_been_busy_at_some_time() {
        assert!(MachineCpu::now().unwrap().busy > Duration::ZERO);
    }
}
