//! Threads for what takes long, behind a queue with a bound.

use crossbeam_channel::{Sender, TrySendError};

type Job = Box<dyn FnOnce() + Send>;

/// A few threads that do one thing after the other. They end when this is dropped and the queue is
/// empty.
#[derive(Clone, Debug)]
pub(super) struct Workers {
    queue: Sender<Job>,
}

/// The queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Busy;

impl Workers {
    /// Starts `threads` of them, for whom `queue` jobs may wait. `name` is what they are called.
    pub(super) fn start(name: &str, threads: usize, queue: usize) -> std::io::Result<Self> {
        let (sender, receiver) = crossbeam_channel::bounded::<Job>(queue);
        for number in 0..threads {
            let receiver = receiver.clone();
            let work = move || receiver.iter().for_each(|job| job());
            std::thread::Builder::new().name(format!("{name}-{number}")).spawn(work)?;
        }
        Ok(Self { queue: sender })
    }

    /// Has a job done, unless too many wait.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) -> Result<(), Busy> {
        match self.queue.try_send(Box::new(job)) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => Err(Busy),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_has_a_bound() {
        let workers = Workers::start("test", 1, 2).unwrap();
        let (started, has_started) = crossbeam_channel::bounded(1);
        let (release, released) = crossbeam_channel::bounded::<()>(0);
        let (done, is_done) = crossbeam_channel::unbounded();
        let job = |number: u32| {
            let (started, released, done) = (started.clone(), released.clone(), done.clone());
            move || {
                let _ = started.try_send(());
                let _ = released.recv();
                let _ = done.send(number);
            }
        };
        assert_eq!(workers.run(job(0)), Ok(()));
        has_started.recv().unwrap();
        assert_eq!(
            [workers.run(job(1)), workers.run(job(2)), workers.run(job(3))],
            [Ok(()), Ok(()), Err(Busy)]
        );
        drop(release);
        assert_eq!([0, 1, 2].map(|_| is_done.recv().unwrap()), [0, 1, 2]);
    }
}
