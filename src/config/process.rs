//! What the broker asks of its process: open files, signals.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;
use signal_hook::iterator::{Handle, Signals};

use super::schema::{Config, Durability, Listener};

/// Files that are open besides connections: standard streams, what the runtime holds.
const OTHER_FILES: u64 = 32;
/// Files of one shard besides its connections and listeners: poll, waker, spare.
const FILES_PER_SHARD: u64 = 8;

/// Has a write beyond the limit on a file's size (`ulimit -f`) fail as one to a full disk does. By itself the system ends
/// the process for it, without a word.
pub fn outlive_file_size() {
    // It fails only for signals that nobody may take.
    let _ = flag::register(SIGXFSZ, Arc::default());
}

/// Says aloud what a careful operator would want to know of these listeners; `anonymous`: whether they let
/// in who gives no user name.
pub fn warn_about(listeners: &[Listener], anonymous: bool) {
    for listener in listeners {
        if !listener.bind.is_local() && anonymous {
            tracing::warn!(
                "{} can be reached by other machines, and auth.anonymous lets in whoever gives no user \
                 name",
                listener.bind
            );
        }
    }
}

/// Raises the limit on open files as far as it is allowed and needed, and lowers
/// `limits.max_connections` to what it can serve, with a warning.
pub fn raise_open_files(config: &mut Config) {
    let shards = u64::from(config.shard_count());
    let listeners = config.listeners.len() as u64;
    let store = match config.store.durability {
        Durability::Memory => 0,
        Durability::Os | Durability::Fsync => crate::store::OPEN_FILES as u64,
    };
    // Of each listener one may wait to be let in.
    let reserved = OTHER_FILES + store + shards * (FILES_PER_SHARD + 2 * listeners);
    let wanted = u64::from(config.limits.max_connections) + reserved;
    let allowed = raise_to(wanted);
    let served = allowed.saturating_sub(reserved);
    if served < u64::from(config.limits.max_connections) {
        tracing::warn!(
            "this process may open {allowed} files, so {served} clients can be connected at once, \
             not the {} of limits.max_connections; a higher limit (ulimit -n, LimitNOFILE=) or a \
             lower max_connections ends this warning",
            config.limits.max_connections
        );
        config.limits.max_connections = u32::try_from(served).unwrap_or(u32::MAX);
    }
}

/// Raises the limit to at least `wanted` if that can be, and tells what it is then.
fn raise_to(wanted: u64) -> u64 {
    let now = getrlimit(Resource::Nofile);
    let current = now.current.unwrap_or(u64::MAX);
    if current >= wanted {
        return current;
    }
    let hard = now.maximum.unwrap_or(u64::MAX);
    // Above the hard limit only a privileged process gets.
    let attempts = [
        Rlimit { current: Some(wanted), maximum: now.maximum.map(|hard| hard.max(wanted)) },
        Rlimit { current: Some(hard.min(wanted)), maximum: now.maximum },
    ];
    for attempt in attempts {
        if setrlimit(Resource::Nofile, attempt).is_ok() {
            break;
        }
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// To read the settings again (SIGHUP).
    Reload,
    /// To stop: which signal it was, none if it was an [`Ender`].
    Stop(Option<&'static str>),
}

/// The signals that the broker takes.
pub struct Asks {
    signals: Signals,
    armed: Arc<AtomicBool>,
}

/// A supervisor may send the first signal twice: to the process, and to its group. Only one that
/// comes this much later is meant to end the stop itself.
const SECOND_SIGNAL_AFTER: Duration = Duration::from_secs(1);

impl Asks {
    /// Takes over SIGHUP, SIGTERM and SIGINT; a second of the latter two while the broker stops, a second
    /// or more later, ends the process at once, with status 1.
    ///
    /// # Errors
    ///
    /// If the system refuses.
    pub fn register() -> io::Result<Self> {
        let armed = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            flag::register_conditional_shutdown(signal, 1, Arc::clone(&armed))?;
        }
        Ok(Self { signals: Signals::new([SIGTERM, SIGINT, SIGHUP])?, armed })
    }

    /// Ends the [`wait`](Self::wait) of another thread.
    #[must_use]
    pub fn ender(&self) -> Ender {
        Ender(self.signals.handle())
    }

    /// Waits for the next signal, or an [`Ender`].
    pub fn wait(&mut self) -> Asked {
        let signal = match self.signals.forever().next() {
            Some(SIGHUP) => return Asked::Reload,
            Some(SIGTERM) => Some("SIGTERM"),
            Some(SIGINT) => Some("SIGINT"),
            _ => None,
        };
        let armed = Arc::clone(&self.armed);
        std::thread::spawn(move || {
            std::thread::sleep(SECOND_SIGNAL_AFTER);
            armed.store(true, Ordering::Relaxed);
        });
        Asked::Stop(signal)
    }
}

/// Ends the broker as a signal does.
pub struct Ender(Handle);

impl Ender {
    /// Does it.
    pub fn end(&self) {
        self.0.close();
    }
}
