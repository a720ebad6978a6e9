//! Threads for what takes long, behind a queue with a bound.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crossbeam_channel::{Sender, TrySendError};

use crate::hooks::Denial;

/// Is told that it is its turn, or why it never will be.
type Job = Box<dyn FnOnce(Result<(), Denial>) + Send>;

/// A few threads that do one thing after the other. They end when this is dropped and the queue is
/// empty.
#[derive(Clone, Debug)]
pub(super) struct Workers {
    queue: Sender<Job>,
}

impl Workers {
    /// Starts `threads` of them, for whom `queue` jobs may wait. `name` is what they are called.
    pub(super) fn start(name: &str, threads: usize, queue: usize) -> std::io::Result<Self> {
        let (sender, receiver) = crossbeam_channel::bounded::<Job>(queue);
        for number in 0..threads {
            let receiver = receiver.clone();
            // One job that panics must not take the thread from the others. It takes all it had with it.
            let begin = |job: Job| _ = catch_unwind(AssertUnwindSafe(|| job(Ok(()))));
            let work = move || receiver.iter().for_each(begin);
            std::thread::Builder::new().name(format!("{name}-{number}")).spawn(work)?;
        }
        Ok(Self { queue: sender })
    }

    /// Has a job done. If too many wait, or the threads have ended, it is told so here and now.
    pub(super) fn run(&self, job: impl FnOnce(Result<(), Denial>) + Send + 'static) {
        match self.queue.try_send(Box::new(job)) {
            Ok(()) => {}
            Err(TrySendError::Full(job)) => job(Err(Denial::Busy)),
            Err(TrySendError::Disconnected(job)) => job(Err(Denial::ServerUnavailable)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_queue_has_a_bound() {
        let workers = Workers::start("test", 1, 2).unwrap();
        let (started, has_started) = crossbeam_channel::bounded(1);
        let (release, released) = crossbeam_channel::bounded::<()>(0);
        let (done, is_done) = crossbeam_channel::unbounded();
        let run = |number: u32| {
            let (started, released, done) = (started.clone(), released.clone(), done.clone());
            workers.run(move |turn| {
                if turn.is_ok() {
                    let _ = started.try_send(());
                    let _ = released.recv();
                }
                let _ = done.send((number, turn));
            });
        };
        run(0);
        has_started.recv().unwrap();
        (1..=3).for_each(run);
        assert_eq!(is_done.try_recv(), Ok((3, Err(Denial::Busy))));
        drop(release);
        assert_eq!([(); 3].map(|()| is_done.recv().unwrap()), [0, 1, 2].map(|n| (n, Ok(()))));
    }

    #[test]
    fn a_thread_goes_on_after_a_panic() {
        let workers = Workers::start("test", 1, 3).unwrap();
        let (done, is_done) = crossbeam_channel::unbounded();
        workers.run(|_| panic!("as it should"));
        workers.run(move |turn| _ = done.send(turn));
        assert_eq!(is_done.recv_timeout(Duration::from_secs(60)), Ok(Ok(())));
    }
}
