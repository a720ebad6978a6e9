//! What processes write to disk, and how often they wait until it is there.

use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::fs::statfs;
use rustix::process::{Pid, Signal, kill_process};

use super::ProcessGroup;

/// What `perf` counts, by the number of the file system: how often it has data brought to the disk. Those who do not
/// sync pay nothing for that.
const COUNTED: [(u32, &str); 4] = [
    (0xef53, "ext4:ext4_sync_file_enter"),
    (0x5846_5342, "xfs:xfs_file_fsync"),
    (0x9123_683e, "btrfs:btrfs_sync_file"),
    (0xf2f5_2010, "f2fs:f2fs_sync_file_enter"),
];

/// On others: the calls that return when the disk has the data. While they are counted, every system call of
/// the machine takes a little longer.
const COUNTED_ELSEWHERE: &str = "syscalls:sys_enter_fsync,syscalls:sys_enter_fdatasync";

/// What it says when it has done as it was told.
const ACKNOWLEDGED: &str = "ack\n";

/// The bytes of a batch at most: if more could wait for one sync, nothing is known of what does.
const MAX_BATCH_BYTES: usize = 64 << 20;

/// Attached before a load begins, begun before the work that is measured, ended after it, and asked when nothing is
/// measured any more.
pub(crate) struct DiskMeter {
    written_before: Option<u64>,
    /// Since then, when it has ended.
    written: Option<u64>,
    /// If it could be started.
    syncs: Option<SyncCounter>,
}

/// `perf stat` on the broker's processes; dropping it ends it.
struct SyncCounter {
    perf: Child,
    counted: &'static str,
}

/// What a broker did with the disk while it took messages in.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct DiskUse {
    /// Messages that it took in.
    pub(crate) messages: u64,
    /// That can be without acknowledgement at the same time.
    pub(crate) outstanding: u64,
    /// Whether the clock says how many come, and not the broker.
    pub(crate) paced: bool,
    /// The length of one as a PUBLISH packet.
    pub(crate) message_bytes: usize,
    pub(crate) elapsed: Duration,
    /// Bytes handed to the disk, if the processes may be asked.
    pub(crate) written_bytes: Option<u64>,
    /// How often it had data brought to the disk (fsync, fdatasync), if that could be counted.
    pub(crate) syncs: Option<u64>,
    /// What the disk allows, if it was measured.
    pub(crate) alone: Option<Alone>,
}

/// Appending and syncing with nothing else done, in batches as large as the broker's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Alone {
    pub(crate) batches_per_second: f64,
    /// Of one batch.
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    /// What who comes at any time waits: for the rest of the batch under way, and one of its own.
    pub(crate) wait_p50: Duration,
    pub(crate) wait_p99: Duration,
}

impl DiskMeter {
    /// For a broker that keeps its data in this directory, or another of the same file system. Nothing is counted yet:
    /// to start a program takes tens of milliseconds, and they would be missing to who sends by the clock.
    pub(crate) fn attach(broker: &ProcessGroup, directory: &Path) -> Self {
        let counted = counted_on(directory);
        let syncs = (!broker.is_empty()).then(|| SyncCounter::attach(broker, counted).ok());
        Self { written_before: None, written: None, syncs: syncs.flatten() }
    }

    /// From here on it counts.
    pub(crate) fn begin(mut self, broker: &ProcessGroup) -> Self {
        self.syncs = self.syncs.and_then(|counter| counter.told("enable").ok());
        self.written_before = broker.written_bytes().ok().filter(|_| !broker.is_empty());
        self
    }

    /// Up to here.
    pub(crate) fn end(mut self, broker: &ProcessGroup) -> Self {
        let written = broker.written_bytes().ok().zip(self.written_before);
        self.written = written.map(|(now, before)| now.saturating_sub(before));
        self.syncs = self.syncs.and_then(|counter| counter.told("disable").ok());
        self
    }

    /// `used` says what was done meanwhile, and this adds what it did to the disk. Waits until the program that counts
    /// has ended.
    pub(crate) fn count(self, used: DiskUse) -> DiskUse {
        let syncs = self.syncs.and_then(SyncCounter::count);
        DiskUse { written_bytes: self.written, syncs, ..used }
    }
}

impl DiskUse {
    /// Messages taken in a second.
    pub(crate) fn messages_per_second(&self) -> f64 {
        self.messages as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// Bytes handed to the disk for each message.
    pub(crate) fn written_bytes_each(&self) -> Option<f64> {
        Some(self.written_bytes? as f64 / self.messages.max(1) as f64)
    }

    /// If they could be counted.
    pub(crate) fn syncs_per_second(&self) -> Option<f64> {
        Some(self.syncs? as f64 / self.elapsed.as_secs_f64().max(1e-9))
    }

    /// Messages that share a sync, if there was one.
    pub(crate) fn messages_per_sync(&self) -> Option<f64> {
        let syncs = self.syncs_per_second().filter(|syncs| *syncs > 0.0)?;
        Some(self.messages_per_second() / syncs)
    }

    /// Messages of a batch: those that share a sync, but no more than can wait for it. What is delivered and done
    /// with before a sync is written by nobody, and shares it all the same.
    fn batch(&self) -> Option<f64> {
        // Who keeps nothing there is not compared with it.
        if self.syncs? == 0 && self.written_bytes.unwrap_or(0) == 0 {
            return None;
        }
        let most = self.outstanding as f64;
        Some(self.messages_per_sync().map_or(most, |each| each.min(most)))
    }

    /// Bytes of a batch.
    pub(crate) fn batch_bytes(&self) -> Option<usize> {
        let bytes = (self.batch()? * self.message_bytes as f64).ceil() as usize;
        Some(bytes).filter(|bytes| (1..=MAX_BATCH_BYTES).contains(bytes))
    }

    /// Messages a second that the disk allows in such batches.
    pub(crate) fn allowed_per_second(&self) -> Option<f64> {
        Some(self.alone?.batches_per_second * self.batch()?)
    }

    /// The part of that which the broker reached, if it was to reach as much as it could.
    pub(crate) fn share(&self) -> Option<f64> {
        let allowed = self.allowed_per_second().filter(|_| !self.paced)?;
        Some(self.messages_per_second() / allowed)
    }
}

impl SyncCounter {
    /// Returns when it could count.
    fn attach(broker: &ProcessGroup, counted: &'static str) -> io::Result<Self> {
        let pids: Vec<String> = broker.members().iter().map(ToString::to_string).collect();
        let mut perf = Command::new("perf");
        // It starts without counting, is told on its standard input, and says on its standard output that it has done so.
        perf.args(["stat", "-x", ",", "-e", counted, "-D", "-1", "--control", "fd:0,1"]);
        perf.args(["-p", &pids.join(",")]).env("LC_ALL", "C");
        perf.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self { perf: perf.spawn()?, counted }.told("disable")
    }

    fn told(mut self, what: &str) -> io::Result<Self> {
        let (Some(orders), Some(answers)) = (&mut self.perf.stdin, &mut self.perf.stdout) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        writeln!(orders, "{what}")?;
        answers.read_exact(&mut [0; ACKNOWLEDGED.len()])?;
        Ok(self)
    }

    fn count(mut self) -> Option<u64> {
        self.end();
        let mut text = String::new();
        self.perf.stderr.take()?.read_to_string(&mut text).ok()?;
        parse_syncs(&text, self.counted)
    }

    fn end(&self) {
        let _ = kill_process(Pid::from_child(&self.perf), Signal::INT);
    }
}

impl Drop for SyncCounter {
    fn drop(&mut self) {
        self.end();
        let _ = self.perf.wait();
    }
}

fn counted_on(directory: &Path) -> &'static str {
    // The number has 32 bits, and a type that differs between machines.
    let number = statfs(directory).map_or(0, |system| system.f_type as u32);
    let known = COUNTED.iter().find(|(known, _)| *known == number);
    known.map_or(COUNTED_ELSEWHERE, |(_, counted)| counted)
}

/// A line for each event: its count, its unit, its name, and what does not matter here.
fn parse_syncs(text: &str, counted: &str) -> Option<u64> {
    let counts = counted.split(',').map(|name| {
        let mut lines = text.lines().map(|line| line.split(','));
        lines.find_map(|mut cells| {
            let count = cells.next()?;
            // So it says when none of the threads has run.
            let count = if count == "<not counted>" { "0" } else { count };
            (cells.nth(1)? == name).then(|| count.parse::<u64>().ok())?
        })
    });
    counts.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used() -> DiskUse {
        DiskUse {
            messages: 100_000,
            outstanding: 1_000,
            paced: false,
            message_bytes: 300,
            elapsed: Duration::from_secs(2),
            written_bytes: Some(40_000_000),
            syncs: Some(1_000),
            alone: None,
        }
    }

    #[test]
    fn of_a_broker_that_is_not_named_nothing_is_known() {
        let (nobody, here) = (ProcessGroup::default(), std::env::temp_dir());
        let used =
            DiskMeter::attach(&nobody, &here).begin(&nobody).end(&nobody).count(DiskUse::default());
        assert_eq!((used.written_bytes, used.syncs), (None, None));
    }

    #[test]
    fn a_share_is_of_what_the_disk_allows_in_the_same_batches() {
        let (p50, p99) = (Duration::from_millis(1), Duration::from_millis(2));
        let alone =
            Some(Alone { batches_per_second: 800.0, p50, p99, wait_p50: p50, wait_p99: p99 });
        let used = DiskUse { alone, ..used() };
        assert_eq!(used.written_bytes_each(), Some(400.0));
        assert_eq!(used.messages_per_sync(), Some(100.0));
        assert_eq!(used.batch_bytes(), Some(30_000));
        assert_eq!(used.allowed_per_second(), Some(80_000.0));
        assert_eq!(used.share(), Some(0.625));
        let paced = DiskUse { paced: true, ..used };
        assert_eq!((paced.allowed_per_second(), paced.share()), (Some(80_000.0), None));
    }

    #[test]
    fn a_batch_is_no_larger_than_what_waits() {
        let used = DiskUse { syncs: Some(40), ..used() };
        assert_eq!(used.messages_per_sync(), Some(2_500.0));
        assert_eq!(used.batch_bytes(), Some(300_000));
    }

    #[test]
    fn who_does_not_sync_is_compared_with_a_batch_of_all_that_can_wait() {
        let used = DiskUse { syncs: Some(0), ..used() };
        assert_eq!(used.messages_per_sync(), None);
        assert_eq!(used.batch_bytes(), Some(300_000));
        let memory = DiskUse { written_bytes: Some(0), ..used };
        assert_eq!((memory.batch_bytes(), memory.share()), (None, None));
        let open = DiskUse { outstanding: 1 << 20, ..used };
        assert_eq!(open.batch_bytes(), None, "nor is so much known to wait");
        let uncounted = DiskUse { syncs: None, ..used };
        assert_eq!((uncounted.messages_per_sync(), uncounted.batch_bytes()), (None, None));
    }

    #[test]
    fn what_perf_says_is_counts_and_names() {
        let text = "10,,syscalls:sys_enter_fsync,1,100.00,,\n\
                    30,,syscalls:sys_enter_fdatasync,1,100.00,,\n";
        let parse_syncs = |text: &str| parse_syncs(text, COUNTED_ELSEWHERE);
        assert_eq!(parse_syncs(text), Some(40));
        assert_eq!(parse_syncs(&text.replace("10,,", "<not counted>,,")), Some(30));
        assert_eq!(parse_syncs(&text.replace("10,,", "<not supported>,,")), None);
        assert_eq!(parse_syncs("event syntax error"), None);
    }
}
