//! `disk`: what appending and syncing costs, with nothing else done. A broker that answers when its log is
//! on disk can do no more.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::Misuse;
use crate::measure::{Alone, Latencies};
use crate::report::{Outcome, Status};
use clap::Args;

/// Bytes after which a file is begun anew, as logs are.
const FILE_BYTES: u64 = 64 << 20;

/// How to write.
#[derive(Debug, Args)]
pub(crate) struct DiskArgs {
    /// A directory on the disk that is meant; the file in it is removed at the end.
    directory: PathBuf,
    /// Bytes that are appended before each fdatasync; may be repeated, each is measured by itself.
    #[arg(long, value_name = "BYTES", default_values_t = [512, 65_536, 1_048_576])]
    batch: Vec<usize>,
    /// Seconds that each is measured.
    #[arg(short = 'W', long, default_value_t = 2.0)]
    seconds: f64,
}

/// What was measured for one size.
struct Measured {
    batches: u64,
    took: Duration,
    /// Of append and sync.
    times: Latencies,
    /// Of who comes at any time: what is left of the sync under way, and one of its own.
    waits: Latencies,
}

/// How often somebody comes, to whom a slow sync happens as long as it lasts, and not once.
const COMES_EVERY: Duration = Duration::from_micros(20);

pub(crate) fn run(args: &DiskArgs, stop: &AtomicBool) -> Result<Status, crate::Error> {
    if !(args.seconds.is_finite() && args.seconds > 0.0) || args.batch.contains(&0) {
        return Err(Misuse::from("--seconds and --batch: more than 0").into());
    }
    if !args.directory.is_dir() {
        return Err(format!("{}: is no directory", args.directory.display()).into());
    }
    let mut text = format!(
        "{:>10} {:>10} {:>12} {:>10} {:>10} {:>10} {:>13} {:>13}\n",
        "bytes", "batches/s", "bytes/s", "p50 ms", "p99 ms", "max ms", "wait p50 ms", "wait p99 ms"
    );
    for &bytes in &args.batch {
        let Measured { batches, took, times, waits } =
            measure(&args.directory, bytes, Duration::from_secs_f64(args.seconds), stop)?;
        if waits.count() == 0 {
            // Interrupted before there was anything to tell of it.
            break;
        }
        let rate = batches as f64 / took.as_secs_f64();
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        text += &format!(
            "{bytes:>10} {rate:>10.0} {:>12.0} {:>10.3} {:>10.3} {:>10.3} {:>13.3} {:>13.3}\n",
            rate * bytes as f64,
            ms(times.percentile(50.0)),
            ms(times.percentile(99.0)),
            ms(times.max()),
            ms(waits.percentile(50.0)),
            ms(waits.percentile(99.0)),
        );
    }
    crate::print(&text)?;
    let interrupted = stop.load(Ordering::Relaxed);
    Ok(if interrupted { Status::Interrupted } else { Status::Success })
}

/// Measures what the disk of `directory` allows in batches as large as a run's, for so long. Nothing if that has
/// no batches; where it fails, the run's result says so.
pub(crate) fn measure_alone(
    outcome: &mut Outcome,
    directory: &Path,
    within: Duration,
    stop: &AtomicBool,
) {
    let Some(used) = &mut outcome.disk else { return };
    let Some(bytes) = used.batch_bytes() else { return };
    let Measured { batches, took, times, waits } = match measure(directory, bytes, within, stop) {
        Ok(measured) => measured,
        Err(error) => return outcome.remarks.push(("disk alone", error)),
    };
    used.alone = Some(Alone {
        batches_per_second: batches as f64 / took.as_secs_f64().max(1e-9),
        p50: times.percentile(50.0),
        p99: times.percentile(99.0),
        wait_p50: waits.percentile(50.0),
        wait_p99: waits.percentile(99.0),
    });
}

/// In a file of its own, which is removed again.
fn measure(
    directory: &Path,
    bytes: usize,
    within: Duration,
    stop: &AtomicBool,
) -> Result<Measured, String> {
    let path = directory.join(format!("sluice-bench-disk-{}", std::process::id()));
    let measured = append(&path, bytes, within, stop);
    let removed = fs::remove_file(&path);
    measured
        .and_then(|measured| removed.map(|()| measured))
        .map_err(|error| format!("{}: {error}", path.display()))
}

fn append(path: &Path, bytes: usize, within: Duration, stop: &AtomicBool) -> io::Result<Measured> {
    let mut random = fastrand::Rng::with_seed(1);
    let batch: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(bytes).collect();
    let (mut times, mut waits) = (Latencies::new(), Latencies::new());
    let (mut batches, mut written, mut before) = (0, 0, None);
    let mut file = File::create(path)?;
    let start = Instant::now();
    // Two at least: who comes at any time waits for one and then has its own.
    while (start.elapsed() < within || batches < 2) && !stop.load(Ordering::Relaxed) {
        if written >= FILE_BYTES {
            (file, written) = (File::create(path)?, 0);
        }
        let begun = Instant::now();
        file.write_all(&batch)?;
        file.sync_data()?;
        let took = begun.elapsed();
        times.record(nanoseconds(took), 1);
        if let Some(before) = before.replace(took) {
            record_waits(&mut waits, before, took);
        }
        batches += 1;
        written += bytes as u64;
    }
    Ok(Measured { batches, took: start.elapsed(), times, waits })
}

/// Of those who came while one sync was under way, and are answered after the next.
fn record_waits(waits: &mut Latencies, under_way: Duration, own: Duration) {
    let mut left = under_way;
    while !left.is_zero() {
        waits.record(nanoseconds(left + own), 1);
        left = left.saturating_sub(COMES_EVERY);
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::DiskUse;

    /// A second in which this many syncs were shared by 100 messages each.
    fn run_with(syncs: u64) -> Outcome {
        let disk = DiskUse {
            messages: 100 * syncs,
            outstanding: 1_000,
            paced: false,
            message_bytes: 50,
            elapsed: Duration::from_secs(1),
            written_bytes: None,
            syncs: Some(syncs),
            alone: None,
        };
        Outcome { disk: Some(disk), ..Outcome::default() }
    }

    #[test]
    fn the_disk_alone_is_measured_in_the_batches_of_the_run() {
        let directory = tempfile::tempdir().unwrap();
        let within = Duration::from_millis(20);
        let mut run = run_with(50);
        measure_alone(&mut run, directory.path(), within, &AtomicBool::new(false));
        let used = run.disk.unwrap();
        let alone = used.alone.unwrap();
        assert!(alone.p50 > Duration::ZERO && alone.p50 <= alone.p99, "{alone:?}");
        // How they differ from the times of syncs hangs on a few syncs of a disk that others use, too.
        assert!(alone.wait_p50 > Duration::ZERO && alone.wait_p50 <= alone.wait_p99, "{alone:?}");
        assert_eq!(used.allowed_per_second(), Some(alone.batches_per_second * 100.0));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        let mut unsynced = run_with(0);
        measure_alone(&mut unsynced, directory.path(), within, &AtomicBool::new(false));
        assert_eq!(unsynced.disk.unwrap().alone, None);
    }

    #[test]
    fn a_slow_sync_is_waited_for_by_all_who_come_meanwhile() {
        let mut waits = Latencies::new();
        let (usual, slow) = (Duration::from_micros(100), Duration::from_millis(4));
        for (before, next) in [(usual, usual), (usual, slow), (slow, usual)] {
            record_waits(&mut waits, before, next);
        }
        // Five come in each of the usual ones, and two hundred in the slow one.
        assert_eq!(waits.count(), 210);
        assert_eq!(waits.count_above(Duration::from_micros(250)), 5 + 193);
        assert!(waits.max() >= Duration::from_micros(4_090), "{:?}", waits.max());
    }

    #[test]
    fn a_disk_that_cannot_be_written_to_leaves_the_result() {
        let directory = tempfile::tempdir().unwrap();
        let nowhere = directory.path().join("nowhere");
        let mut run = run_with(50);
        measure_alone(&mut run, &nowhere, Duration::from_millis(20), &AtomicBool::new(false));
        assert_eq!(run.disk.unwrap().alone, None);
        let (name, error) = &run.remarks[0];
        assert_eq!(*name, "disk alone");
        assert!(error.starts_with(nowhere.to_str().unwrap()), "{error}");
    }
}
