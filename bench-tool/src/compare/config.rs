//! The file of a comparison, read and checked.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sluice::mqtt::QoS;
use toml::Spanned;

use super::place;
use super::plan::{Address, Comparison, Pace, ScenarioPlan, Source, TargetPlan};
use crate::cli::{self, TlsVersionArg, VersionArg};
use crate::engine::{Carrier, TlsOptions, USUAL_PATH};
use crate::measure;
use crate::scenario::{Parameters, ScenarioName};

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
    tool_cores: Vec<Spanned<usize>>,
    disk: Option<PathBuf>,
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
    command: Option<Vec<Spanned<String>>>,
    prepare: Option<Vec<Spanned<String>>>,
    version: Option<Vec<Spanned<String>>>,
    #[serde(default)]
    env: BTreeMap<String, Spanned<String>>,
    #[serde(default)]
    cores: Vec<Spanned<usize>>,
    #[serde(default)]
    files: BTreeMap<String, String>,
    ready_within: Option<Spanned<f64>>,
    address: Option<Spanned<String>>,
    addresses: Option<Vec<Spanned<String>>>,
    #[serde(default)]
    pids: Vec<u32>,
    ca: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScenarioFile {
    name: Spanned<String>,
    run: ScenarioName,
    #[serde(default)]
    version: VersionArg,
    carrier: Option<Carrier>,
    tls_version: Option<TlsVersionArg>,
    #[serde(default)]
    tls_resume: bool,
    clients: Option<u32>,
    publishers: Option<u32>,
    subscribers: Option<u32>,
    qos: Option<u8>,
    window: Option<u32>,
    size: Option<usize>,
    rate: Option<f64>,
    half_of: Option<Spanned<String>>,
    burst: Option<u32>,
    messages: Option<u32>,
    stalled: Option<u32>,
    ballast: Option<u32>,
    topics: Option<u32>,
    #[serde(default)]
    lasting: bool,
    #[serde(default)]
    spin: bool,
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
    let cores = measure::allowed_cores();
    Checker { text: &text, path: &shown, cores: &cores }.check(directory)
}

struct Checker<'a> {
    text: &'a str,
    path: &'a str,
    /// That there are.
    cores: &'a [usize],
}

impl Checker<'_> {
    fn check(&self, directory: PathBuf) -> Result<Comparison, ConfigError> {
        let file: File =
            toml::from_str(self.text).map_err(|error| toml_error(self.path, self.text, &error))?;
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
        self.check_halves(&file.scenarios)?;
        let own_directory = directory.clone();
        let targets = file.targets.into_iter().map(|target| self.target(target, &own_directory));
        let scenarios = file.scenarios.into_iter().map(|scenario| self.scenario(scenario));
        Ok(Comparison {
            baseline: file.baseline.into_inner(),
            tool_cores: self.cores(file.tool_cores)?,
            full,
            quick,
            targets: targets.collect::<Result<_, _>>()?,
            scenarios: scenarios.collect::<Result<_, _>>()?,
            disk: file.disk.map(|disk| directory.join(disk)),
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

    /// What is halved has to be known before.
    fn check_halves(&self, scenarios: &[ScenarioFile]) -> Result<(), ConfigError> {
        for (index, scenario) in scenarios.iter().enumerate() {
            let Some(half_of) = &scenario.half_of else { continue };
            let mut before = scenarios[..index].iter();
            let base = before.find(|one| one.name.get_ref() == half_of.get_ref());
            let name = half_of.get_ref();
            let message = match base {
                None => format!("half_of \"{name}\" is no scenario before this one"),
                Some(_) if scenario.rate.is_some() => "either rate or half_of".into(),
                Some(base) if base.quick == Some(false) && scenario.quick != Some(false) => {
                    format!("half_of \"{name}\": that is not run with --quick, and this is")
                }
                Some(_) => continue,
            };
            return Err(self.error(half_of.span(), message));
        }
        Ok(())
    }

    fn target(&self, file: TargetFile, directory: &Path) -> Result<TargetPlan, ConfigError> {
        let name_at = file.name.span();
        let name = file.name.into_inner();
        let command = self.words(file.command)?;
        let addresses = match (file.address, file.addresses) {
            (Some(one), None) => Some(vec![one]),
            (None, several) => several.filter(|several| !several.is_empty()),
            (Some(one), Some(_)) => {
                let message = format!("target \"{name}\": either address or addresses");
                return Err(self.error(one.span(), message));
            }
        };
        let source = match (command, addresses) {
            (Some(command), None) => Source::Command {
                command,
                cores: self.cores(file.cores)?,
                files: file.files,
                env: self.env(file.env)?,
                ready_within: self.seconds(file.ready_within, 10.0, 0.1)?,
            },
            (None, Some(addresses)) => {
                let addresses = addresses.iter().map(|address| self.address(address));
                let addresses = addresses.collect::<Result<_, _>>()?;
                Source::Addresses { addresses, pids: file.pids }
            }
            _ => {
                let message = format!("target \"{name}\" needs either a command or an address");
                return Err(self.error(name_at, message));
            }
        };
        let (prepare, version) = (self.words(file.prepare)?, self.words(file.version)?);
        let ca = file.ca.map(|ca| directory.join(ca));
        Ok(TargetPlan { name, source, prepare, version, ca })
    }

    /// A command; `None` if there is not one word.
    fn words(
        &self,
        words: Option<Vec<Spanned<String>>>,
    ) -> Result<Option<Vec<String>>, ConfigError> {
        let words = words.unwrap_or_default().into_iter().map(|word| self.known(word));
        let words: Vec<String> = words.collect::<Result<_, _>>()?;
        Ok((!words.is_empty()).then_some(words))
    }

    fn env(
        &self,
        env: BTreeMap<String, Spanned<String>>,
    ) -> Result<BTreeMap<String, String>, ConfigError> {
        env.into_iter().map(|(name, value)| Ok((name, self.known(value)?))).collect()
    }

    /// A text in which every word in braces stands for something.
    fn known(&self, text: Spanned<String>) -> Result<String, ConfigError> {
        if let Some(unknown) = place::unknown(text.get_ref()) {
            let known: Vec<String> =
                place::NAMES.iter().map(|name| format!("{{{name}}}")).collect();
            let message = format!("{unknown} stands for nothing: {}", known.join(", "));
            return Err(self.error(text.span(), message));
        }
        Ok(text.into_inner())
    }

    fn cores(&self, cores: Vec<Spanned<usize>>) -> Result<Vec<usize>, ConfigError> {
        if let Some(core) = cores.iter().find(|core| !self.cores.contains(core.get_ref())) {
            let message = measure::no_such_core(*core.get_ref(), self.cores);
            return Err(self.error(core.span(), message));
        }
        Ok(cores.into_iter().map(Spanned::into_inner).collect())
    }

    /// `HOST:PORT`, with a scheme in front if it is not plain TCP.
    fn address(&self, text: &Spanned<String>) -> Result<Address, ConfigError> {
        let whole = text.get_ref().as_str();
        let (scheme, rest) = whole.split_once("://").unwrap_or(("tcp", whole));
        let (place, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let path = if path.is_empty() { USUAL_PATH } else { path }.to_owned();
        let parts = place.rsplit_once(':').map(|(host, port)| (host, port.parse()));
        match (Carrier::of_scheme(scheme), parts) {
            (Some(carrier), Some((host, Ok(port)))) => {
                let host = host.trim_matches(['[', ']']).to_owned();
                Ok(Address { carrier, host, port, path })
            }
            _ => {
                let message = format!(
                    "address \"{whole}\" is not [mqtt://, mqtts://, ws:// or wss://]HOST:PORT"
                );
                Err(self.error(text.span(), message))
            }
        }
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
        let is_open = file.rate.is_some() || file.half_of.is_some();
        if file.burst.is_some() && !is_open {
            return Err(fail("burst without a rate".into()));
        }
        let parameters = Parameters {
            clients: file.clients.unwrap_or(defaults.clients),
            publishers: file.publishers.unwrap_or(defaults.publishers),
            subscribers: file.subscribers.unwrap_or(defaults.subscribers),
            qos,
            window: file.window.unwrap_or(defaults.window(is_open)),
            payload_len: file.size.unwrap_or(defaults.payload_len),
            rate: file.rate,
            burst: file.burst.unwrap_or(defaults.burst),
            messages: file.messages.unwrap_or(defaults.messages),
            stalled: file.stalled.unwrap_or(defaults.stalled),
            ballast: file.ballast.unwrap_or(defaults.ballast),
            topics: file.topics.unwrap_or(defaults.topics),
            lasting: file.lasting,
            spin: file.spin,
            seconds: file.seconds.unwrap_or(defaults.seconds),
            warm_up_seconds: defaults.warm_up_seconds,
        };
        cli::check(&parameters).and_then(|()| file.run.check(&parameters)).map_err(fail)?;
        let tls = TlsOptions {
            version: file.tls_version.map(Into::into),
            resume: file.tls_resume,
            ..TlsOptions::default()
        };
        Ok(ScenarioPlan {
            name: file.name.into_inner(),
            run: file.run,
            version: file.version.into(),
            carrier: file.carrier,
            tls,
            parameters,
            half_of: file.half_of.map(Spanned::into_inner),
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

/// What is wrong with a file that is no TOML, or has not what is expected in it, as one line.
pub(crate) fn toml_error(path: &str, text: &str, error: &toml::de::Error) -> ConfigError {
    let checker = Checker { text, path, cores: &[] };
    checker.error(error.span().unwrap_or(0..0), error.message().replace('\n', ", "))
}

/// The comparison that comes with this tool, on a machine with two cores.
#[cfg(test)]
pub(super) fn shipped() -> Comparison {
    let text = include_str!("../../compare.toml");
    Checker { text, path: "compare.toml", cores: &[0, 1] }.check(PathBuf::from(".")).unwrap()
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;
    use crate::engine::TlsVersion;

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
        let checker = Checker { text, path: "c.toml", cores: &[0, 1] };
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
        assert!(!comparison.scenarios[0].parameters.spin);
        let spins = check(&GOOD.replace("window = 1", "spin = true")).unwrap();
        assert!(spins.scenarios[0].parameters.spin);
        assert_eq!(comparison.full.repetitions, 3);
        let Source::Addresses { addresses, .. } = &comparison.targets[0].source else { panic!() };
        let path = USUAL_PATH.into();
        let expected = Address { carrier: Carrier::Tcp, host: "::1".into(), port: 1883, path };
        assert_eq!(*addresses, [expected]);
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
            "c.toml:5: address \"nowhere\" is not [mqtt://, mqtts://, ws:// or wss://]HOST:PORT"
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
        let storm = error("run = \"p2p\"", "run = \"storm\"\nlasting = true");
        assert!(storm.starts_with("c.toml:10: scenario \"pairs\": lasting sessions: "), "{storm}");
        let half = error("window = 1", "half_of = \"pairs\"");
        assert_eq!(half, "c.toml:12: half_of \"pairs\" is no scenario before this one");
        let burst = error("window = 1", "burst = 4");
        assert_eq!(burst, "c.toml:10: scenario \"pairs\": burst without a rate");
        let burst = error("window = 1", "rate = 10.0\nburst = 0");
        assert_eq!(burst, "c.toml:10: scenario \"pairs\": burst 0: 1 to 16384");
        let pace = error("[[scenario]]", "[full]\nseconds = -1.0\n[[scenario]]");
        assert_eq!(pace, "c.toml:10: -1 seconds: 0.1 to 3600");
    }

    #[test]
    fn cores_and_words_in_braces_are_checked() {
        let both = "this machine has cores 0, 1";
        let tool = error("baseline = \"b\"", "baseline = \"b\"\ntool_cores = [1, 99]");
        assert_eq!(tool, format!("c.toml:3: core 99: {both}"));
        let broker = error("name = \"b\"", "name = \"b\"\ncores = [5000]");
        assert_eq!(broker, format!("c.toml:8: core 5000: {both}"));
        let known =
            "{port}, {tls_port}, {ws_port}, {wss_port}, {certs}, {files}, {here}, {self}, {beside}";
        let place = error("{port}", "{prot}");
        assert_eq!(place, format!("c.toml:8: {{prot}} stands for nothing: {known}"));
        let version = error("name = \"b\"", "name = \"b\"\nversion = [\"b\", \"{tls}\"]");
        assert_eq!(version, format!("c.toml:8: {{tls}} stands for nothing: {known}"));
        check(&GOOD.replace("\"{port}\"", "\"{port}\", \"{}\", \"{ a: 1 }\"")).unwrap();
    }

    #[test]
    fn a_scenario_runs_on_targets_that_have_its_carrier() {
        let over_tls = GOOD.replace("window = 1", "carrier = \"tls\"\ntls_version = \"1.3\"");
        let on = |text: &str| {
            let comparison = check(text).unwrap();
            let scenario = &comparison.scenarios[0];
            assert_eq!(scenario.tls.version, Some(TlsVersion::V13));
            let runs_on = |target: &&TargetPlan| scenario.runs_on(target);
            let names = comparison.targets.iter().filter(runs_on).map(|one| one.name.clone());
            names.collect::<Vec<_>>()
        };
        assert!(on(&over_tls).is_empty());
        assert_eq!(on(&over_tls.replace("{port}", "{tls_port}")), ["b"]);
        let address = "address = \"[::1]:1883\"";
        assert_eq!(on(&over_tls.replace(address, "address = \"tls://h:1\"")), ["a"]);
        let web_socket = "address = \"ws://h:1/path\"";
        assert!(on(&over_tls.replace(address, web_socket)).is_empty());
        let over_web_socket = over_tls.replace("\"tls\"", "\"ws\"");
        assert_eq!(on(&over_web_socket.replace(address, web_socket)), ["a"]);
        let both = "addresses = [\"mqtt://h:1\", \"mqtts://h:2\"]";
        assert_eq!(on(&over_tls.replace(address, both)), ["a"]);
        assert_eq!(
            error(address, &format!("{address}\n{both}")),
            "c.toml:5: target \"a\": either address or addresses"
        );
        assert!(error(address, "address = \"http://h:1\"").contains("is not [mqtt://"));
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
    fn so_is_the_one_for_the_disk() {
        let mut comparison = check(include_str!("../../durable.toml")).unwrap();
        assert_eq!(comparison.disk, Some(PathBuf::from("./../target")));
        comparison.keep_quick(&[]);
        let half = |one: &ScenarioPlan| one.half_of.is_some() && one.parameters.lasting;
        assert!(comparison.scenarios.iter().any(half));
    }

    #[test]
    fn so_is_the_one_for_web_socket() {
        let comparison = check(include_str!("../../websocket.toml")).unwrap();
        let runs_on = |target: &TargetPlan| {
            comparison.scenarios.iter().all(|scenario| scenario.runs_on(target))
        };
        assert!(comparison.targets.iter().all(runs_on));
    }

    #[test]
    fn the_file_that_ships_is_good() {
        let comparison = shipped();
        assert_eq!(comparison.baseline, "mosquitto");
        for name in ScenarioName::value_variants() {
            assert!(comparison.scenarios.iter().any(|one| one.run == *name), "{name:?}");
        }
    }
}
