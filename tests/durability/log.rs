//! What a process says, line by line, while it runs.

use std::io::{BufRead, BufReader};
use std::process::ChildStderr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// How long a line may take to come.
const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Said {
    text: String,
    has_ended: bool,
}

/// It is read to its end, so that it is never full.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<(Mutex<Said>, Condvar)>);

impl Log {
    pub(crate) fn of(from: ChildStderr) -> Self {
        let log = Self::default();
        let to = log.clone();
        std::thread::spawn(move || {
            let mut from = BufReader::new(from);
            let mut line = String::new();
            while from.read_line(&mut line).is_ok_and(|read| read > 0) {
                if std::env::var_os("SHOW_LOG").is_some() {
                    eprint!("{line}");
                }
                to.said().text.push_str(&line);
                to.0.1.notify_all();
                line.clear();
            }
            to.said().has_ended = true;
            to.0.1.notify_all();
        });
        log
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.0.0.lock().expect("nobody panics with it")
    }

    pub(crate) fn text(&self) -> String {
        self.said().text.clone()
    }

    /// Waits until something stands in it; says whether it came.
    pub(crate) fn wait_for(&self, words: &str) -> bool {
        let goes_on = |said: &mut Said| !said.text.contains(words) && !said.has_ended;
        let waited = self.0.1.wait_timeout_while(self.said(), DEADLINE, goes_on);
        waited.expect("nobody panics with it").0.text.contains(words)
    }
}
