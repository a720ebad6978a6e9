//! What is compared, by which scenarios.

use std::collections::BTreeMap;
use std::path::PathBuf;

use sluice::mqtt::Version;

use crate::engine::{Carrier, TlsOptions};
use crate::scenario::{Parameters, ScenarioName};

/// A checked comparison.
#[derive(Debug)]
pub(crate) struct Comparison {
    pub(crate) baseline: String,
    pub(crate) tool_cores: Vec<usize>,
    pub(crate) full: Pace,
    pub(crate) quick: Pace,
    pub(crate) targets: Vec<TargetPlan>,
    pub(crate) scenarios: Vec<ScenarioPlan>,
    /// Where targets keep their data, if what they do there is to be measured.
    pub(crate) disk: Option<PathBuf>,
    /// Where the file lies: relative paths and `prepare` start from there.
    pub(crate) directory: PathBuf,
}

/// How long and how often.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Pace {
    pub(crate) repetitions: u32,
    /// Measured in each run.
    pub(crate) seconds: f64,
    /// Before that.
    pub(crate) warm_up: f64,
    /// Seconds to wait, at most, until the rest of the machine is quiet.
    pub(crate) quiet_within: f64,
}

#[derive(Debug)]
pub(crate) struct TargetPlan {
    pub(crate) name: String,
    pub(crate) source: Source,
    /// Done once before all runs, in the directory of the file.
    pub(crate) prepare: Option<Vec<String>>,
    /// Prints its version.
    pub(crate) version: Option<Vec<String>>,
    /// Instead of the comparison's own CA.
    pub(crate) ca: Option<PathBuf>,
}

/// Where a target comes from.
#[derive(Debug)]
pub(crate) enum Source {
    /// It is started for each run, and listens on the port that it is told.
    Command {
        command: Vec<String>,
        cores: Vec<usize>,
        /// Written to a directory of its own before each start.
        files: BTreeMap<String, String>,
        /// Environment variables.
        env: BTreeMap<String, String>,
        ready_within: f64,
    },
    /// It is running.
    Addresses { addresses: Vec<Address>, pids: Vec<u32> },
}

/// Where a broker listens, and for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) carrier: Carrier,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Of WebSocket.
    pub(crate) path: String,
}

#[derive(Debug)]
pub(crate) struct ScenarioPlan {
    pub(crate) name: String,
    pub(crate) run: ScenarioName,
    pub(crate) version: Version,
    /// `None`: whatever a target has first.
    pub(crate) carrier: Option<Carrier>,
    /// What is asked of TLS.
    pub(crate) tls: TlsOptions,
    pub(crate) parameters: Parameters,
    /// The scenario whose throughput is halved to have this one's rate.
    pub(crate) half_of: Option<String>,
    /// Instead of the pace's.
    pub(crate) seconds: Option<f64>,
    /// Run with `--quick` too.
    pub(crate) is_quick: bool,
    /// Targets that cannot do this.
    pub(crate) skip: Vec<String>,
}

impl ScenarioPlan {
    pub(crate) fn runs_on(&self, target: &TargetPlan) -> bool {
        !self.skip.contains(&target.name) && target.speaks(self.carrier)
    }
}

impl TargetPlan {
    /// Whether its clients can come this way.
    fn speaks(&self, carrier: Option<Carrier>) -> bool {
        let Some(carrier) = carrier else { return true };
        match &self.source {
            Source::Addresses { addresses, .. } => {
                addresses.iter().any(|address| address.carrier == carrier)
            }
            Source::Command { .. } => self.mentions(&format!("{{{}}}", carrier.port_place())),
        }
    }

    /// Whether these words stand anywhere in what it is started with.
    pub(crate) fn mentions(&self, words: &str) -> bool {
        let Source::Command { command, files, env, .. } = &self.source else { return false };
        let mut texts = command.iter().chain(files.values()).chain(env.values());
        texts.any(|text| text.contains(words))
    }
}

/// Refuses a name that is not among those of the file.
fn are_known<'a>(
    what: &str,
    asked: &[String],
    names: impl Iterator<Item = &'a String>,
) -> Result<(), String> {
    let names: Vec<&str> = names.map(String::as_str).collect();
    match asked.iter().find(|one| !names.contains(&one.as_str())) {
        None => Ok(()),
        Some(unknown) => {
            Err(format!("there is no {what} \"{unknown}\", but \"{}\"", names.join("\", \"")))
        }
    }
}

impl Comparison {
    /// Drops what was not asked for; empty lists ask for everything.
    pub(crate) fn keep_only(
        &mut self,
        targets: &[String],
        scenarios: &[String],
    ) -> Result<(), String> {
        are_known("target", targets, self.targets.iter().map(|target| &target.name))?;
        are_known("scenario", scenarios, self.scenarios.iter().map(|one| &one.name))?;
        self.targets.retain(|target| targets.is_empty() || targets.contains(&target.name));
        let is_asked = |one: &&ScenarioPlan| scenarios.contains(&one.name);
        let asked = self.scenarios.iter().filter(is_asked);
        let bases: Vec<String> = asked.filter_map(|one| one.half_of.clone()).collect();
        self.scenarios.retain(|one| {
            scenarios.is_empty() || scenarios.contains(&one.name) || bases.contains(&one.name)
        });
        Ok(())
    }

    /// Drops what takes long, unless it was asked for by its name.
    pub(crate) fn keep_quick(&mut self, asked: &[String]) {
        self.scenarios.retain(|one| one.is_quick || asked.contains(&one.name));
    }

    /// Connections in the largest scenario.
    pub(crate) fn most_clients(&self) -> usize {
        let clients = self.scenarios.iter().map(|one| one.parameters.connections(one.run));
        clients.max().unwrap_or(0)
    }
}
