//! Shards that end by themselves.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crossbeam_channel::Receiver;

/// A shard ended by itself: by a panic, of the broker or of a hook, or because the system failed it.
/// Its clients are disconnected, and the others wait for it in vain: the broker has to be stopped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("shard {shard} {why}")]
pub struct ShardFailure {
    /// Which, from 0.
    pub shard: u8,
    /// What it did: "panicked: …", "failed: …".
    pub why: String,
}

/// Waits for a shard of a broker that ends by itself, see [`Broker::watch`](super::Broker::watch).
#[derive(Clone, Debug)]
pub struct Watch(Receiver<ShardFailure>);

impl Watch {
    pub(super) fn new(failures: Receiver<ShardFailure>) -> Self {
        Self(failures)
    }

    /// Waits until a shard ends by itself, or, `None`, the broker has stopped. Of several that
    /// wait, one is told.
    #[must_use]
    pub fn wait(&self) -> Option<ShardFailure> {
        self.0.recv().ok()
    }
}

/// Runs a shard, and makes of its end what it was.
pub(super) fn catch(shard: u8, run: impl FnOnce() -> io::Result<()>) -> Result<(), ShardFailure> {
    // Nothing of the shard is looked at afterwards.
    let why = match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => format!("failed: {error}"),
        Err(panic) => format!("panicked: {}", text(panic.as_ref())),
    };
    Err(ShardFailure { shard, why })
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
        let why =
            |run: fn() -> io::Result<()>| catch(3, run).map_err(|failure| failure.to_string());
        assert_eq!(why(|| Ok(())), Ok(()));
        let failing = || Err(io::Error::from_raw_os_error(9));
        let told = why(failing).unwrap_err();
        assert!(told.starts_with("shard 3 failed: ") && told.contains("os error 9"), "{told}");
        assert_eq!(why(|| panic!("plain")), Err("shard 3 panicked: plain".to_owned()));
        let number = std::hint::black_box(7);
        let panicking = || panic!("with {number}\n  left: 1");
        let told = catch(0, panicking).unwrap_err();
        assert_eq!(told.why, "panicked: with 7, left: 1");
    }
}
