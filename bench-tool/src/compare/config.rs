//! The file of a comparison: what is compared, by which scenarios.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sluice::mqtt::{QoS, Version};
use toml::Spanned;

use crate::cli::{self, VersionArg};
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
    Address { host: String, port: u16, pids: Vec<u32> },
}

#[derive(Debug)]
pub(crate) struct ScenarioPlan {
    pub(crate) name: String,
    pub(crate) run: ScenarioName,
    pub(crate) version: Version,
    pub(crate) parameters: Parameters,
    /// Instead of the pace's.
    pub(crate) seconds: Option<f64>,
    /// Run with `--quick` too.
    pub(crate) is_quick: bool,
    /// Targets that cannot do this.
    pub(crate) skip: Vec<String>,
}

/// What is wrong with the file, and on which line.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {message}")]
pub(crate) struct ConfigError {
    place: String,
    message: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    baseline: Spanned<String>,
    #[serde(default)]
    tool_cores: Vec<usize>,
    #[serde(default)]
    full: PaceFile,
    #[serde(default)]
    quick: PaceFile,
    #[serde(rename = "target")]
    targets: Vec<TargetFile>,
    #[serde(rename = "scenario")]
    scenarios: Vec<ScenarioFile>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct PaceFile {
    repetitions: Option<Spanned<u32>>,
    seconds: Option<Spanned<f64>>,
    warm_up: Option<Spanned<f64>>,
    quiet_within: Option<Spanned<f64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TargetFile {
    name: Spanned<String>,
    command: Option<Vec<String>>,
    prepare: Option<Vec<String>>,
    version: Option<Vec<String>>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    cores: Vec<usize>,
    #[serde(default)]
    files: BTreeMap<String, String>,
    ready_within: Option<Spanned<f64>>,
    address: Option<Spanned<String>>,
    #[serde(default)]
    pids: Vec<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScenarioFile {
    name: Spanned<String>,
    run: ScenarioName,
    #[serde(default)]
    version: VersionArg,
    clients: Option<u32>,
    publishers: Option<u32>,
    subscribers: Option<u32>,
    qos: Option<u8>,
    window: Option<u32>,
    size: Option<usize>,
    rate: Option<f64>,
    messages: Option<u32>,
    stalled: Option<u32>,
    ballast: Option<u32>,
    topics: Option<u32>,
    seconds: Option<f64>,
    quick: Option<bool>,
    #[serde(default)]
    skip: Vec<Spanned<String>>,
}

/// Reads and checks a file.
pub(crate) fn load(path: &Path) -> Result<Comparison, ConfigError> {
    let shown = path.display().to_string();
    let text = fs::read_to_string(path)
        .map_err(|error| ConfigError { place: shown.clone(), message: error.to_string() })?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new(".")).to_owned();
    Checker { text: &text, path: &shown }.check(directory)
}

struct Checker<'a> {
    text: &'a str,
    path: &'a str,
}

impl Checker<'_> {
    fn check(&self, directory: PathBuf) -> Result<Comparison, ConfigError> {
        let file: File = toml::from_str(self.text).map_err(|error| {
            self.error(error.span().unwrap_or(0..0), error.message().replace('\n', ", "))
        })?;
        let defaults = Pace { repetitions: 3, seconds: 5.0, warm_up: 1.0, quiet_within: 20.0 };
        let full = self.pace(file.full, defaults)?;
        let quick_defaults = Pace { repetitions: 1, seconds: 2.0, warm_up: 0.5, quiet_within: 2.0 };
        let quick = self.pace(file.quick, quick_defaults)?;
        self.check_names("target", file.targets.iter().map(|target| &target.name))?;
        self.check_names("scenario", file.scenarios.iter().map(|scenario| &scenario.name))?;
        let is_baseline = |target: &TargetFile| target.name.get_ref() == file.baseline.get_ref();
        if !file.targets.iter().any(is_baseline) {
            let message = format!("baseline \"{}\" is no target", file.baseline.get_ref());
            return Err(self.error(file.baseline.span(), message));
        }
        for skipped in file.scenarios.iter().flat_map(|scenario| &scenario.skip) {
            if !file.targets.iter().any(|target| target.name.get_ref() == skipped.get_ref()) {
                let message = format!("skip \"{}\" is no target", skipped.get_ref());
                return Err(self.error(skipped.span(), message));
            }
        }
        let targets = file.targets.into_iter().map(|target| self.target(target));
        let scenarios = file.scenarios.into_iter().map(|scenario| self.scenario(scenario));
        Ok(Comparison {
            baseline: file.baseline.into_inner(),
            tool_cores: file.tool_cores,
            full,
            quick,
            targets: targets.collect::<Result<_, _>>()?,
            scenarios: scenarios.collect::<Result<_, _>>()?,
            directory,
        })
    }

    fn pace(&self, file: PaceFile, defaults: Pace) -> Result<Pace, ConfigError> {
        let repetitions = match file.repetitions {
            None => defaults.repetitions,
            Some(count) if (1..=1000).contains(count.get_ref()) => *count.get_ref(),
            Some(count) => return Err(self.error(count.span(), "repetitions: 1 to 1000".into())),
        };
        Ok(Pace {
            repetitions,
            seconds: self.seconds(file.seconds, defaults.seconds, 0.1)?,
            warm_up: self.seconds(file.warm_up, defaults.warm_up, 0.0)?,
            quiet_within: self.seconds(file.quiet_within, defaults.quiet_within, 0.0)?,
        })
    }

    fn seconds(
        &self,
        given: Option<Spanned<f64>>,
        default: f64,
        least: f64,
    ) -> Result<f64, ConfigError> {
        let Some(given) = given else { return Ok(default) };
        if (least..=3600.0).contains(given.get_ref()) {
            return Ok(*given.get_ref());
        }
        Err(self.error(given.span(), format!("{} seconds: {least} to 3600", given.get_ref())))
    }

    fn check_names<'s>(
        &self,
        what: &str,
        names: impl Iterator<Item = &'s Spanned<String>>,
    ) -> Result<(), ConfigError> {
        let mut seen = Vec::new();
        for name in names {
            if seen.contains(&name.get_ref()) {
                let message = format!("two of the {what}s are named \"{}\"", name.get_ref());
                return Err(self.error(name.span(), message));
            }
            seen.push(name.get_ref());
        }
        if seen.is_empty() {
            return Err(self.error(0..0, format!("there is no {what}")));
        }
        Ok(())
    }

    fn target(&self, file: TargetFile) -> Result<TargetPlan, ConfigError> {
        let name_at = file.name.span();
        let name = file.name.into_inner();
        let source = match (file.command, file.address) {
            (Some(command), None) if !command.is_empty() => Source::Command {
                command,
                cores: file.cores,
                files: file.files,
                env: file.env,
                ready_within: self.seconds(file.ready_within, 10.0, 0.1)?,
            },
            (None, Some(address)) => {
                let parts = address.get_ref().rsplit_once(':');
                let Some((host, Ok(port))) = parts.map(|(host, port)| (host, port.parse())) else {
                    let message = format!("address \"{}\" is not HOST:PORT", address.get_ref());
                    return Err(self.error(address.span(), message));
                };
                let host = host.trim_matches(['[', ']']).to_owned();
                Source::Address { host, port, pids: file.pids }
            }
            _ => {
                let message = format!("target \"{name}\" needs either a command or an address");
                return Err(self.error(name_at, message));
            }
        };
        let words = |words: Option<Vec<String>>| words.filter(|words| !words.is_empty());
        let (prepare, version) = (words(file.prepare), words(file.version));
        Ok(TargetPlan { name, source, prepare, version })
    }

    fn scenario(&self, file: ScenarioFile) -> Result<ScenarioPlan, ConfigError> {
        let at = file.name.span();
        let fail = |message: String| {
            self.error(at.clone(), format!("scenario \"{}\": {message}", file.name.get_ref()))
        };
        let defaults = file.run.defaults();
        let qos = match file.qos {
            None => defaults.qos,
            Some(value) => {
                QoS::from_u8(value).ok_or_else(|| fail(format!("qos {value}: 0 to 2")))?
            }
        };
        let parameters = Parameters {
            clients: file.clients.unwrap_or(defaults.clients),
            publishers: file.publishers.unwrap_or(defaults.publishers),
            subscribers: file.subscribers.unwrap_or(defaults.subscribers),
            qos,
            window: file.window.unwrap_or(defaults.window),
            payload_len: file.size.unwrap_or(defaults.payload_len),
            rate: file.rate,
            messages: file.messages.unwrap_or(defaults.messages),
            stalled: file.stalled.unwrap_or(defaults.stalled),
            ballast: file.ballast.unwrap_or(defaults.ballast),
            topics: file.topics.unwrap_or(defaults.topics),
            seconds: file.seconds.unwrap_or(defaults.seconds),
            warm_up_seconds: defaults.warm_up_seconds,
        };
        cli::check(&parameters).map_err(fail)?;
        Ok(ScenarioPlan {
            name: file.name.into_inner(),
            run: file.run,
            version: file.version.into(),
            parameters,
            seconds: file.seconds,
            is_quick: file.quick.unwrap_or(true),
            skip: file.skip.into_iter().map(Spanned::into_inner).collect(),
        })
    }

    fn error(&self, at: Range<usize>, message: String) -> ConfigError {
        let before = self.text.get(..at.start).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        ConfigError { place: format!("{}:{line}", self.path), message }
    }
}

impl ScenarioPlan {
    pub(crate) fn runs_on(&self, target: &TargetPlan) -> bool {
        !self.skip.contains(&target.name)
    }
}

impl Comparison {
    /// Drops what was not asked for; empty lists ask for everything.
    pub(crate) fn keep_only(
        &mut self,
        targets: &[String],
        scenarios: &[String],
    ) -> Result<(), String> {
        for name in targets {
            if !self.targets.iter().any(|target| target.name == *name) {
                return Err(format!("there is no target \"{name}\""));
            }
        }
        for name in scenarios {
            if !self.scenarios.iter().any(|scenario| scenario.name == *name) {
                return Err(format!("there is no scenario \"{name}\""));
            }
        }
        self.targets.retain(|target| targets.is_empty() || targets.contains(&target.name));
        self.scenarios.retain(|one| scenarios.is_empty() || scenarios.contains(&one.name));
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

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    const GOOD: &str = r#"
baseline = "b"
[[target]]
name = "a"
address = "[::1]:1883"
[[target]]
name = "b"
command = ["b", "{port}"]
[[scenario]]
name = "pairs"
run = "p2p"
window = 1
"#;

    fn check(text: &str) -> Result<Comparison, String> {
        let checker = Checker { text, path: "c.toml" };
        checker.check(PathBuf::from(".")).map_err(|error| error.to_string())
    }

    /// The error of the good file after a replacement.
    fn error(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from));
        let error = check(&GOOD.replace(from, to)).unwrap_err();
        assert!(!error.contains('\n'), "one line: {error}");
        error
    }

    #[test]
    fn a_good_file_is_taken() {
        let comparison = check(GOOD).unwrap();
        assert_eq!(comparison.scenarios[0].parameters.window, 1);
        assert_eq!(comparison.full.repetitions, 3);
        let Source::Address { host, port, .. } = &comparison.targets[0].source else { panic!() };
        assert_eq!((host.as_str(), *port), ("::1", 1883));
        assert!(comparison.most_clients() >= 100);
    }

    #[test]
    fn each_error_names_its_line() {
        assert_eq!(
            error("baseline = \"b\"", "baseline = \"x\""),
            "c.toml:2: baseline \"x\" is no target"
        );
        assert!(error("window = 1", "windw = 1").starts_with("c.toml:12: unknown field `windw`"));
        assert!(
            error("run = \"p2p\"", "run = \"p3p\"").starts_with("c.toml:11: unknown variant `p3p`")
        );
        assert!(error("window = 1", "window = \"1\"").starts_with("c.toml:12: invalid type"));
        assert_eq!(
            error("window = 1", "window = 0"),
            "c.toml:10: scenario \"pairs\": window 0: 1 to 16384"
        );
        assert_eq!(error("window = 1", "qos = 3"), "c.toml:10: scenario \"pairs\": qos 3: 0 to 2");
        assert_eq!(error("\"a\"", "\"b\""), "c.toml:7: two of the targets are named \"b\"");
        assert_eq!(
            error("address = \"[::1]:1883\"", "address = \"nowhere\""),
            "c.toml:5: address \"nowhere\" is not HOST:PORT"
        );
        assert_eq!(
            error("address = \"[::1]:1883\"", ""),
            "c.toml:4: target \"a\" needs either a command or an address"
        );
        assert!(
            error("[[target]]\nname = \"a\"", "[[target]\nname = \"a\"").starts_with("c.toml:3: ")
        );
        let pace = error("[[scenario]]", "[quick]\nrepetitions = 0\n[[scenario]]");
        assert_eq!(pace, "c.toml:10: repetitions: 1 to 1000");
        assert_eq!(error("window = 1", "skip = [\"c\"]"), "c.toml:12: skip \"c\" is no target");
        let pace = error("[[scenario]]", "[full]\nseconds = -1.0\n[[scenario]]");
        assert_eq!(pace, "c.toml:10: -1 seconds: 0.1 to 3600");
    }

    #[test]
    fn a_quick_comparison_leaves_out_what_takes_long() {
        let mut comparison = check(&GOOD.replace("window = 1", "quick = false")).unwrap();
        comparison.keep_quick(&["pairs".into()]);
        assert_eq!(comparison.scenarios.len(), 1);
        comparison.keep_quick(&[]);
        assert_eq!(comparison.scenarios.len(), 0);
    }

    #[test]
    fn what_was_not_asked_for_is_dropped() {
        let mut comparison = check(GOOD).unwrap();
        comparison.keep_only(&["b".into()], &[]).unwrap();
        assert_eq!(comparison.targets.len(), 1);
        assert_eq!(comparison.scenarios.len(), 1);
        assert!(comparison.keep_only(&[], &["x".into()]).is_err());
    }

    #[test]
    fn the_file_that_ships_is_good() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("compare.toml");
        let comparison = load(&path).unwrap();
        assert_eq!(comparison.baseline, "mosquitto");
        for name in ScenarioName::value_variants() {
            assert!(comparison.scenarios.iter().any(|one| one.run == *name), "{name:?}");
        }
    }
}
