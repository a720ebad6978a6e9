//! `disk`: what appending and syncing costs, with nothing else done. A broker that answers when its log is
//! on disk can do no more.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::measure::{Alone, DiskUse, Latencies};
use crate::report::Status;
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
}

pub(crate) fn run(args: &DiskArgs, stop: &AtomicBool) -> Result<Status, crate::Error> {
    if !(args.seconds.is_finite() && args.seconds > 0.0) || args.batch.contains(&0) {
        return Err("seconds and bytes have to be more than 0".into());
    }
    let mut text = format!(
        "{:>10} {:>10} {:>12} {:>10} {:>10} {:>10}\n",
        "bytes", "batches/s", "bytes/s", "p50 ms", "p99 ms", "max ms"
    );
    for &bytes in &args.batch {
        let Measured { batches, took, times } =
            measure(&args.directory, bytes, Duration::from_secs_f64(args.seconds), stop)?;
        let rate = batches as f64 / took.as_secs_f64();
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        text += &format!(
            "{bytes:>10} {rate:>10.0} {:>12.0} {:>10.3} {:>10.3} {:>10.3}\n",
            rate * bytes as f64,
            ms(times.percentile(50.0)),
            ms(times.percentile(99.0)),
            ms(times.max()),
        );
    }
    crate::print(&text)?;
    let interrupted = stop.load(Ordering::Relaxed);
    Ok(if interrupted { Status::Interrupted } else { Status::Success })
}

/// Measures what the disk of `directory` allows in batches as large as a broker's, for so long. Nothing if it has
/// no batches.
pub(crate) fn measure_alone(
    used: &mut DiskUse,
    directory: &Path,
    within: Duration,
    stop: &AtomicBool,
) -> Result<(), String> {
    let Some(bytes) = used.batch_bytes() else { return Ok(()) };
    let Measured { batches, took, times } = measure(directory, bytes, within, stop)?;
    used.alone = Some(Alone {
        batches_per_second: batches as f64 / took.as_secs_f64().max(1e-9),
        p50: times.percentile(50.0),
        p99: times.percentile(99.0),
    });
    Ok(())
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
    let mut times = Latencies::new();
    let (mut batches, mut written) = (0, 0);
    let mut file = File::create(path)?;
    let start = Instant::now();
    while start.elapsed() < within && !stop.load(Ordering::Relaxed) {
        if written >= FILE_BYTES {
            (file, written) = (File::create(path)?, 0);
        }
        let begun = Instant::now();
        file.write_all(&batch)?;
        file.sync_data()?;
        times.record(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX), 1);
        batches += 1;
        written += bytes as u64;
    }
    Ok(Measured { batches, took: start.elapsed(), times })
}
