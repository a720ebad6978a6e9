//! Ctrl-C: the first ends a run early and keeps its result, the second ends the process.

use std::io;
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::report::Status;

/// Processes that this one has started.
static CHILDREN: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// A flag that SIGINT and SIGTERM set; a second one ends the process, and what it has started, at once.
pub(crate) fn stop_on_signal() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let is_stopped = Arc::clone(&stop);
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        for _ in signals.forever() {
            if is_stopped.swap(true, Ordering::Relaxed) {
                for child in CHILDREN.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                    let _ = kill_process(*child, Signal::KILL);
                }
                process::exit(i32::from(Status::Interrupted as u8));
            }
            say!("\ninterrupted: keeping the result; once more to end at once");
        }
    })?;
    Ok(stop)
}

/// Ends this process too when the whole is ended at once.
pub(crate) fn adopt(child: Pid) {
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner).push(child);
}

/// It has ended by itself.
pub(crate) fn release(child: Pid) {
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner).retain(|one| *one != child);
}
