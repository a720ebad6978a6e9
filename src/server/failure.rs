//! The threads of a broker, and what is told of those that end by themselves.

use std::any::Any;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{Builder, JoinHandle};

use crossbeam_channel::{Receiver, Sender};

/// A thread of a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokerThread {
    /// A shard, by its number, from 0.
    Shard(u8),
    /// The one that writes what all shards have stored.
    Store,
}

impl fmt::Display for BrokerThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shard(shard) => write!(f, "shard {shard}"),
            Self::Store => f.write_str("the store's thread"),
        }
    }
}

/// A thread ended by itself: by a panic, of the broker or of a hook, or because the system failed it. The
/// clients of a shard are disconnected, and the others wait for it in vain; without the store's, nothing
/// more is kept, as with a store that fails. The broker has to be stopped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{thread} {why}")]
pub struct ThreadFailure {
    /// Which.
    pub thread: BrokerThread,
    /// What it did: "panicked: …", "failed: …".
    pub why: String,
}

/// Waits for a thread of a broker that ends by itself, see [`Broker::watch`](super::Broker::watch).
#[derive(Clone, Debug)]
pub struct Watch(Receiver<ThreadFailure>);

impl Watch {
    pub(super) fn new(failures: Receiver<ThreadFailure>) -> Self {
        Self(failures)
    }

    /// Waits until a thread ends by itself, or, `None`, the broker has stopped. Of several that
    /// wait, one is told.
    #[must_use]
    pub fn wait(&self) -> Option<ThreadFailure> {
        self.0.recv().ok()
    }
}

/// A thread that tells how it ended.
pub(super) type Handle = JoinHandle<Result<(), ThreadFailure>>;

/// Starts a thread. If it ends by itself, `failed` is called, the log says so, and who watches is told.
pub(super) fn spawn(
    thread: BrokerThread,
    failures: Sender<ThreadFailure>,
    run: impl FnOnce() -> io::Result<()> + Send + 'static,
    failed: impl FnOnce() + Send + 'static,
) -> io::Result<Handle> {
    let name = match thread {
        BrokerThread::Shard(shard) => format!("shard-{shard}"),
        BrokerThread::Store => "store".to_owned(),
    };
    Builder::new().name(name).spawn(move || {
        catch(thread, run).inspect_err(|failure| {
            failed();
            tracing::error!("{failure}; the broker has to be stopped");
            // Whether anybody watches is not its concern.
            let _ = failures.send(failure.clone());
        })
    })
}

/// Runs a thread, and makes of its end what it was.
fn catch(thread: BrokerThread, run: impl FnOnce() -> io::Result<()>) -> Result<(), ThreadFailure> {
    // Nothing of it is looked at afterwards.
    let why = match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => format!("failed: {error}"),
        Err(panic) => format!("panicked: {}", text(panic.as_ref())),
    };
    Err(ThreadFailure { thread, why })
}

/// What a panic says, on one line.
fn text(panic: &(dyn Any + Send)) -> String {
    let literal = panic.downcast_ref::<&str>().copied();
    let text = literal.or_else(|| panic.downcast_ref().map(String::as_str));
    let lines: Vec<&str> = text.unwrap_or("without a text").lines().map(str::trim).collect();
    lines.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_as_what_it_was() {
        let shard = BrokerThread::Shard(3);
        let why =
            |run: fn() -> io::Result<()>| catch(shard, run).map_err(|failure| failure.to_string());
        assert_eq!(why(|| Ok(())), Ok(()));
        let failing = || Err(io::Error::from_raw_os_error(9));
        let told = why(failing).unwrap_err();
        assert!(told.starts_with("shard 3 failed: ") && told.contains("os error 9"), "{told}");
        assert_eq!(why(|| panic!("plain")), Err("shard 3 panicked: plain".to_owned()));
        let number = std::hint::black_box(7);
        let panicking = || panic!("with {number}\n  left: 1");
        let told = catch(BrokerThread::Store, panicking).unwrap_err();
        assert_eq!(told.to_string(), "the store's thread panicked: with 7, left: 1");
    }
}
