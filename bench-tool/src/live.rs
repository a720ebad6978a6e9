//! What a run shows while it is under way, on standard error: one line that is written over on a terminal, a line
//! every second or so elsewhere.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::engine::{Monitor, Snapshot};
use crate::measure::Latencies;
use crate::report::{short, thousands};

const ON_TERMINAL: Duration = Duration::from_millis(250);
const ELSEWHERE: Duration = Duration::from_secs(1);

/// Columns of a terminal that does not say.
const USUAL_WIDTH: usize = 100;

/// Shows a run from when it is made until it is dropped.
pub(crate) struct Live {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Live {
    /// One of several runs has a `name` that goes in front of its line; it is shown on a terminal only, as each of
    /// them leaves a line of its own.
    pub(crate) fn start(monitor: &Arc<Monitor>, name: String) -> Self {
        let is_terminal = io::stderr().is_terminal();
        if !is_terminal && !name.is_empty() {
            return Self { end: None, thread: None };
        }
        let (end, ended) = mpsc::channel();
        let monitor = Arc::clone(monitor);
        let show = move || {
            let every = if is_terminal { ON_TERMINAL } else { ELSEWHERE };
            let mut view = View::new(monitor.snapshot());
            while ended.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                let line = format!("{name}{}", view.line(monitor.snapshot(), Instant::now()));
                let _ = if is_terminal {
                    let line: String = line.chars().take(width()).collect();
                    write!(io::stderr(), "\r\x1b[2K{line}")
                } else {
                    writeln!(io::stderr(), "{line}")
                };
            }
            if is_terminal {
                let _ = write!(io::stderr(), "\r\x1b[2K");
            }
        };
        let thread = thread::Builder::new().name("live".into()).spawn(show).ok();
        Self { end: Some(end), thread }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn width() -> usize {
    let size = rustix::termios::tcgetwinsize(io::stderr());
    let columns = size.map_or(0, |size| usize::from(size.ws_col));
    if columns == 0 { USUAL_WIDTH } else { columns.saturating_sub(1).max(20) }
}

/// Turns what has happened in all into what happened since the last line.
struct View {
    started: Instant,
    last: Snapshot,
    last_at: Instant,
}

impl View {
    fn new(first: Snapshot) -> Self {
        let now = Instant::now();
        Self { started: now, last: first, last_at: now }
    }

    fn line(&mut self, next: Snapshot, now: Instant) -> String {
        let seconds = now.duration_since(self.last_at).as_secs_f64().max(1e-3);
        let (counters, last) = (next.counters, self.last.counters);
        let rate = |now: u64, before: u64| thousands(now.saturating_sub(before) as f64 / seconds);
        let stands = counters.ready.saturating_sub(counters.closed);
        let mut line = format!(
            "{:>5.1} s  {}  {stands}/{} connected",
            now.duration_since(self.started).as_secs_f64(),
            next.stage.name(),
            next.clients,
        );
        if counters.stalled > 0 {
            line += &format!("  STALLED: {} publishers", counters.stalled);
        }
        if counters.sent > 0 {
            line += &format!("  sent {}/s", rate(counters.sent, last.sent));
        }
        if counters.received > 0 {
            line += &format!("  received {}/s", rate(counters.received, last.received));
        }
        let latencies = since(&next.latencies, &self.last.latencies);
        if latencies.count() > 0 {
            let (p50, p99) = (latencies.percentile(50.0), latencies.percentile(99.0));
            line += &format!("  p50 {} p99 {}", short(p50), short(p99));
        }
        let missing = counters.missing + counters.given_up;
        let errors = counters.failed + counters.refused;
        line += &format!("  missing {missing}  errors {errors}");
        (self.last, self.last_at) = (next, now);
        line
    }
}

/// What has come since an earlier moment; everything if it was begun anew in between.
fn since(now: &Latencies, before: &Latencies) -> Latencies {
    now.minus(before).unwrap_or_else(|| now.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Counters, Stage};

    #[test]
    fn a_line_tells_what_happened_since_the_last() {
        let monitor = Monitor::default();
        let mut view = View::new(monitor.snapshot());
        let mut latencies = Latencies::new();
        latencies.record(1_000_000, 10);
        let counters =
            Counters { ready: 9, closed: 2, sent: 500, received: 1_000, ..view.last.counters };
        let first = Snapshot { stage: Stage::Measuring, clients: 10, counters, latencies };
        let start = view.started;
        let line = view.line(first.clone(), start + Duration::from_secs(1));
        assert_eq!(
            line,
            "  1.0 s  measuring  7/10 connected  sent 500/s  received 1.0k/s  p50 1.00 ms p99 1.00 ms  missing 0  errors 0"
        );
        let mut second = first;
        second.counters.sent += 100;
        second.counters.missing = 3;
        second.counters.failed = 1;
        second.counters.stalled = 2;
        second.latencies.record(50_000_000, 1);
        let line = view.line(second, start + Duration::from_secs(3));
        assert_eq!(
            line,
            "  3.0 s  measuring  7/10 connected  STALLED: 2 publishers  sent 50/s  received 0/s  p50 50.0 ms p99 50.0 ms  missing 3  errors 1"
        );
    }
}
