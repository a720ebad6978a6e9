//! One run of a scenario against a target.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use sluice::mqtt::Version;

use super::certs::Certificates;
use super::plan::{Comparison, Pace, ScenarioPlan, TargetPlan};
use super::target::Running;
use crate::disk;
use crate::engine::{Login, Monitor};
use crate::live::Live;
use crate::measure::wait_until_quiet;
use crate::report::Outcome;
use crate::scenario::{Parameters, Setup};

/// How long the disk is measured alone after a run.
pub(super) const DISK_ALONE: Duration = Duration::from_secs(1);

/// What is to be run, and against whom.
pub(super) struct Run<'a> {
    pub(super) comparison: &'a Comparison,
    pub(super) certs: &'a Certificates,
    pub(super) pace: &'a Pace,
    pub(super) scenario: &'a ScenarioPlan,
    pub(super) target: &'a TargetPlan,
    pub(super) stop: &'a Arc<AtomicBool>,
}

impl Run<'_> {
    /// Starts the target, runs the scenario, and ends the target; then the disk is measured alone, if that is
    /// asked for. `whole` is what this one is to have half of, messages a second, if it is.
    pub(super) fn once(
        &self,
        name: &str,
        whole: Option<Option<f64>>,
    ) -> Result<Outcome, crate::Error> {
        let parameters = self.parameters(whole)?;
        let mut outcome = self.against_target(name, &parameters)?;
        if let Some(directory) = &self.comparison.disk {
            disk::measure_alone(&mut outcome, directory, DISK_ALONE, self.stop);
        }
        Ok(outcome)
    }

    fn parameters(&self, whole: Option<Option<f64>>) -> Result<Parameters, String> {
        let mut parameters = self.scenario.parameters;
        parameters.seconds = self.scenario.seconds.unwrap_or(self.pace.seconds);
        parameters.warm_up_seconds = self.pace.warm_up;
        if let Some(per_second) = whole {
            let whole = per_second.ok_or("there is no throughput to take half of")?;
            parameters.rate = Some((whole / 2.0 / f64::from(parameters.publishers)).ceil());
        }
        Ok(parameters)
    }

    fn against_target(&self, name: &str, parameters: &Parameters) -> Result<Outcome, crate::Error> {
        let Self { scenario, target, stop, .. } = *self;
        let running = Running::start(target, scenario, self.comparison, self.certs, stop)?;
        if self.comparison.disk.is_some() {
            // What earlier runs have left to be written is not this one's.
            rustix::fs::sync();
        }
        wait_until_quiet(Duration::from_secs_f64(self.pace.quiet_within));
        let monitor = Arc::new(Monitor::default());
        let setup = Setup {
            endpoint: running.endpoint()?,
            login: login(scenario.version),
            id_prefix: "bench".into(),
            connect_burst: 64,
            threads: self.comparison.tool_cores.len().max(1),
            broker: running.processes(),
            disk: self.comparison.disk.clone(),
            stop: Arc::clone(stop),
            monitor: Arc::clone(&monitor),
        };
        let live = Live::start(&monitor, name.into());
        let outcome = scenario.run.run(&setup, parameters);
        drop(live);
        match (outcome, running.said()) {
            (Err(error), Some(said)) => {
                say!("{}: it said: {said}", target.name);
                Err(error.into())
            }
            (outcome, _) => Ok(outcome?),
        }
    }
}

/// Of every client.
pub(super) fn login(version: Version) -> Login {
    Login { version, keep_alive_seconds: 0, username: None, password: None }
}
