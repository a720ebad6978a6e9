//! What a run leaves at a broker, and that it is removed.

use std::sync::Arc;

use super::{RunError, Setup};
use crate::engine::ClientSpec;
use crate::report::{Outcome, Problem, Status};

/// What could not be removed after a run does not take its result away.
pub(super) fn note_left_behind(what: &str, removed: Result<(), RunError>, outcome: &mut Outcome) {
    let Err(error) = removed else { return };
    outcome.remarks.push(("left behind", format!("the {what} of this run: {error}")));
    if outcome.problems.is_empty() {
        let text = format!("the {what} of this run could not be removed: {error}");
        let status = match error.status() {
            Status::Interrupted => Status::Interrupted,
            _ => Status::Connections,
        };
        outcome.problems.push(Problem::new(status, text));
    }
}

/// A clean start under the names of so many subscribers leaves nothing of their sessions.
pub(super) fn forget_sessions(setup: &Setup, subscribers: u32) -> Result<(), RunError> {
    // Whoever watches the run is not shown those who are no part of it.
    let apart = Setup { monitor: Arc::default(), ..setup.clone() };
    let mut engine = apart.engine(subscribers as usize, false)?;
    for n in 0..subscribers {
        let client_id = format!("{}-s{n}", setup.id_prefix);
        engine.add_client(ClientSpec { client_id, ..ClientSpec::default() });
    }
    engine.connect_all()?;
    engine.disconnect_all()?;
    Ok(())
}
