//! The log of the process: its lines go to stderr by way of a thread.
//!
//! Who reads them may be slow, or stop to, and a shard must not wait for that. So they wait in memory. What has no
//! room there is left out, which the log says as soon as there is room again. (`tracing-appender` bounds the number
//! of lines, of which one can be as long as a topic, and does not say where some are missing.)

use std::io::{self, IsTerminal, Write};
use std::panic;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use super::schema::{Log, LogFormat, LogLevel};

/// Bytes of lines that may wait. When there are more, lines are left out until half of them have gone.
const MAX_WAITING: usize = 1 << 20;

/// How long the end of the process waits for who reads its last lines.
const END_WITHIN: Duration = Duration::from_secs(1);

/// Writes the log to stderr from here on. What it gives is to be dropped last: then all lines are out, if somebody
/// reads them.
pub fn start(log: &Log) -> Rest {
    let level = match log.level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let lines = Lines::to(io::stderr()).map(Arc::new);
    let writer = match &lines {
        Ok(lines) => BoxMakeWriter::new(lines.clone()),
        // Without a thread whoever logs has to wait.
        Err(_) => BoxMakeWriter::new(io::stderr),
    };
    let lines = lines.ok();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(writer)
        .with_ansi(io::stderr().is_terminal())
        // Of a line that cannot be written it would tell on stderr, and panic where that cannot be written either.
        .log_internal_errors(false)
        .with_max_level(level);
    // It fails only where a log was set up already, which then stays.
    let set_up = match log.format {
        LogFormat::Full => subscriber.try_init(),
        LogFormat::Short => subscriber.without_time().with_target(false).try_init(),
    };
    let rest = Rest(lines.filter(|_| set_up.is_ok()));
    if let Rest(Some(lines)) = &rest {
        // It may be the end of the process: what led to it is to be seen.
        let (lines, before) = (lines.clone(), panic::take_hook());
        panic::set_hook(Box::new(move |panic| {
            lines.wait();
            before(panic);
        }));
    }
    rest
}

/// The lines that are not written yet. Dropped, it waits for them, for a second at most.
pub struct Rest(Option<Arc<Lines>>);

impl Drop for Rest {
    fn drop(&mut self) {
        if let Some(lines) = &self.0 {
            lines.wait();
        }
    }
}

enum Entry {
    Line(Vec<u8>),
    /// All before it are written when this is dropped.
    Wait(Sender<()>),
}

/// The lines on their way.
struct Lines {
    queue: Sender<Entry>,
    /// Bytes.
    waiting: Arc<AtomicUsize>,
    left_out: AtomicU64,
}

impl Lines {
    /// Starts the thread that writes them, and ends with the process.
    fn to(mut to: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, coming) = crossbeam_channel::unbounded();
        let waiting = Arc::new(AtomicUsize::new(0));
        let lines = Self { queue, waiting: waiting.clone(), left_out: AtomicU64::new(0) };
        let write = move || write(&coming, &waiting, &mut to);
        thread::Builder::new().name("log".to_owned()).spawn(write)?;
        Ok(lines)
    }

    fn put(&self, line: Vec<u8>) {
        self.waiting.fetch_add(line.len(), Ordering::Relaxed);
        // The thread ends with the process.
        let _ = self.queue.send(Entry::Line(line));
    }

    fn tell_left_out(&self) {
        match self.left_out.swap(0, Ordering::Relaxed) {
            0 => {}
            count => self.put(
                format!("{count} lines of the log were left out here: it was not read\n").into(),
            ),
        }
    }

    /// Waits until all lines are written, for a second at most.
    fn wait(&self) {
        self.tell_left_out();
        let (told, ended) = crossbeam_channel::bounded(0);
        let _ = self.queue.send(Entry::Wait(told));
        let _ = ended.recv_timeout(END_WITHIN);
    }
}

/// Takes a whole line each time.
impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let leaves_out = self.left_out.load(Ordering::Relaxed) > 0;
        let most = if leaves_out { MAX_WAITING / 2 } else { MAX_WAITING };
        if self.waiting.load(Ordering::Relaxed) > most {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        } else {
            self.tell_left_out();
            self.put(line.to_vec());
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write(coming: &Receiver<Entry>, waiting: &AtomicUsize, to: &mut impl Write) {
    for entry in coming {
        match entry {
            Entry::Line(line) => {
                // There is nobody to tell that it cannot be written.
                let _ = to.write_all(&line);
                waiting.fetch_sub(line.len(), Ordering::Relaxed);
            }
            Entry::Wait(told) => drop(told),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes a line when it is told to, and passes it on.
    struct Slow(Receiver<()>, Sender<String>);

    impl Write for Slow {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.recv().map_err(io::Error::other)?;
            let text = String::from_utf8_lossy(line).into_owned();
            self.1.send(text).map_err(io::Error::other)?;
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_has_no_room_is_left_out_and_counted_where_it_was() {
        const LINE: usize = 1 << 15;
        const ROOM: usize = MAX_WAITING / LINE + 1;
        let (take, taking) = crossbeam_channel::unbounded();
        let (read, reading) = crossbeam_channel::unbounded();
        let lines = Lines::to(Slow(taking, read)).expect("a thread");
        let say = |n: usize| (&lines).write_all(format!("{n:<LINE$}").as_bytes()).expect("taken");
        let next = || {
            take.send(()).expect("it lives");
            reading.recv().expect("a line").trim_end().to_owned()
        };
        (0..ROOM + 3).for_each(say);
        for n in 0..ROOM / 4 {
            assert_eq!(next(), n.to_string());
        }
        say(100);
        for n in ROOM / 4..ROOM {
            assert_eq!(next(), n.to_string());
        }
        // It is counted out when it was written.
        while lines.waiting.load(Ordering::Relaxed) > 0 {
            thread::yield_now();
        }
        say(101);
        assert_eq!(next(), "4 lines of the log were left out here: it was not read");
        assert_eq!(next(), "101");
    }
}
