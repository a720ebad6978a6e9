//! What makes a run a failure, and the exit status that tells so.

use std::fmt;

use crate::engine::{EngineError, Fleet};

/// The tool's exit statuses, as the README lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Status {
    Success = 0,
    /// There is no result: a wrong file, no such host, nothing to compare.
    Error = 1,
    /// What was asked for makes no sense; the command line parser ends with it, too.
    Usage = 2,
    /// Stopped by SIGINT or SIGTERM; the result is what was done until then.
    Interrupted = 130,
    /// Connections were refused, or were lost.
    Connections = 4,
    /// Messages were lost, repeated, overtaken or refused although their QoS forbids it.
    Messages = 3,
    /// The broker went away; the result is what was done until then.
    BrokerDied = 5,
}

impl Status {
    /// Which of several statuses a run ends with: the higher, the more it says.
    fn weight(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Interrupted => 1,
            Self::Error | Self::Usage => 2,
            Self::Connections => 3,
            Self::Messages => 4,
            Self::BrokerDied => 5,
        }
    }

    /// The one that says more.
    pub(crate) fn and(self, other: Status) -> Status {
        if other.weight() > self.weight() { other } else { self }
    }
}

/// One line about what went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) status: Status,
    text: String,
}

impl Problem {
    pub(crate) fn new(status: Status, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }

    /// What became of the connections, if any failed.
    pub(crate) fn with_connections(engine: &Fleet) -> Option<Self> {
        let failed = engine.counters().failed;
        let first = engine.first_failure().unwrap_or_default();
        let address = engine.address();
        let text = format!("{failed} connections to {address} failed, the first: {first}");
        if failed == 0 {
            return None;
        }
        Some(if engine.broker_is_gone() {
            Self::new(Status::BrokerDied, format!("the broker died: {text}"))
        } else if engine.is_abandoned() {
            let text = format!("no connection is left, and the broker is still there: {text}");
            Self::new(Status::Connections, text)
        } else {
            Self::new(Status::Connections, text)
        })
    }

    /// What ended a run before its time, if what was done until then is a result. What became of connections is
    /// told [apart](Self::with_connections).
    ///
    /// # Errors
    /// If there is no result.
    pub(crate) fn with_end(ended: Result<(), EngineError>) -> Result<Option<Self>, EngineError> {
        match ended {
            Ok(()) | Err(EngineError::NotConnected { .. }) => Ok(None),
            Err(EngineError::Interrupted) => Ok(Some(Self::interrupted())),
            Err(error @ EngineError::ConnectTimeout { .. }) => {
                Ok(Some(Self::new(Status::Connections, error.to_string())))
            }
            Err(error @ EngineError::Io(_)) => Err(error),
        }
    }

    pub(crate) fn interrupted() -> Self {
        Self::new(Status::Interrupted, "interrupted: the result is what was done until then")
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What all of them together end with.
pub(crate) fn status_of<'a>(problems: impl IntoIterator<Item = &'a Problem>) -> Status {
    problems.into_iter().fold(Status::Success, |status, problem| status.and(problem.status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_problem_gives_the_status() {
        let problem = |status| Problem::new(status, "");
        assert_eq!(status_of([]), Status::Success);
        let both = [problem(Status::Messages), problem(Status::Interrupted)];
        assert_eq!(status_of(&both), Status::Messages);
        let both = [problem(Status::Connections), problem(Status::BrokerDied)];
        assert_eq!(status_of(&both), Status::BrokerDied);
    }
}
