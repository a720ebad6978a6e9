//! The command line.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use serde::Deserialize;
use sluice::mqtt::{QoS, Version};

use crate::Misuse;
use crate::disk::DiskArgs;
use crate::engine::{
    self, Carrier, Endpoint, FlowSpec, Login, MAX_WINDOW, MIN_PAYLOAD, WebSocketTarget,
};
use crate::measure::{self, ProcessGroup};
use crate::scenario::{Parameters, ScenarioName};

mod load;
mod torture;
mod transport;

pub(crate) use load::{ClientArgs, ConnArgs, PubArgs, SubArgs};
pub(crate) use torture::{TortureArgs, run as run_torture};
pub(crate) use transport::{TlsArgs, TlsVersionArg, WebSocketArgs};

/// What a scenario takes, and the words of its result.
const ABOUT_RUN: &str = "\
What is not given has the scenario's own default, which the result names.

The result says:
  broker's CPU  CPU time of the broker's processes (--pid) for each message
  missing       while it runs: a later message has come, or at QoS 0 nobody
                waits for it any more; it may still come
  lost          sent and, at QoS 1 and 2, acknowledged, and not received
  not acknowledged
                sent at QoS 1 or 2, and not answered by the broker
  duplicates    received once more than sent
  reordered     received behind a later message of the same publisher
  stalled       publishers that wait for messages, or acknowledgements, that
                do not come
  memory        what the broker has grown by for each connection: start it
                afresh before

Exit status:
  0 all went well
  1 there is no result: wrong file, no such host
  2 wrong usage
  3 messages were lost, repeated, overtaken, refused or not acknowledged
    although their QoS forbids it
  4 connections were refused, or were lost while the broker went on
  5 the broker died
  130 it was interrupted";

/// How to begin.
const EXAMPLES: &str = "\
Examples, with a broker at 127.0.0.1:1883:
  50 pairs exchange messages as fast as they can:
    sluice-bench run p2p --pid \"$(pidof mosquitto)\"
  How much memory a connection takes:
    sluice-bench run idle -c 10000 --pid \"$(pidof mosquitto)\"
  Receive and count; and, in another terminal, publish 100 messages a second:
    sluice-bench sub -t 'a/#' -q 1
    sluice-bench pub -t 'a/%i' -c 10 -q 1 -I 100
  Sluice, Mosquitto and EMQX side by side:
    sluice-bench compare bench-tool/compare.toml --quick

-h is the broker's host, as in mosquitto_pub; for help of a command: --help.";

/// Loads, measures and compares MQTT brokers.
#[derive(Debug, Parser)]
#[command(version, disable_help_flag = true, after_help = EXAMPLES)]
pub(crate) struct Cli {
    /// Print help.
    #[arg(long, action = ArgAction::Help, global = true)]
    help: Option<bool>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Open connections, hold them and watch them.
    Conn(Box<ConnArgs>),
    /// Publish, at a rate or as fast as a window allows.
    Pub(Box<PubArgs>),
    /// Subscribe and count; messages of `pub` are timed and followed.
    Sub(Box<SubArgs>),
    /// Run one scenario against one broker and report what it cost.
    #[command(after_help = ABOUT_RUN)]
    Run(Box<RunArgs>),
    /// Run scenarios against several brokers in turn and put the results side by side.
    Compare(CompareArgs),
    /// Kill brokers again and again, and say what became of what they had acknowledged.
    Torture(TortureArgs),
    /// Append and sync, and do nothing else: what this disk allows.
    Disk(DiskArgs),
    /// Be the relay that does nothing but forward frames: the physical limit.
    Floor(FloorArgs),
}

impl Command {
    /// The directory that the result is written to.
    pub(crate) fn out(&self) -> Option<&Path> {
        match self {
            Self::Conn(args) => args.clients.out.as_deref(),
            Self::Pub(args) => args.clients.out.as_deref(),
            Self::Sub(args) => args.clients.out.as_deref(),
            Self::Run(args) => args.out.as_deref(),
            Self::Compare(args) => args.out.as_deref(),
            Self::Torture(_) | Self::Disk(_) | Self::Floor(_) => None,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// What is run.
    pub(crate) scenario: ScenarioName,
    #[command(flatten)]
    pub(crate) parameters: ParameterArgs,
    /// Write a page, charts, JSON, CSV and percentile files to this directory.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// A directory on the disk where the broker (--pid) keeps its data: measure what it does there, and what the disk
    /// allows.
    #[arg(long, value_name = "DIR", requires = "pid")]
    pub(crate) disk: Option<PathBuf>,
    /// Pin this tool to a core.
    #[arg(long)]
    pub(crate) core: Option<usize>,
    #[command(flatten)]
    pub(crate) broker: BrokerArgs,
}

#[derive(Debug, Args)]
pub(crate) struct BrokerArgs {
    /// The broker's host name or address.
    #[arg(short = 'h', long, default_value = "127.0.0.1")]
    pub(crate) host: String,
    /// The broker's port [default: 1883, with TLS 8883, with --ws 8083 and 8084].
    #[arg(short, long)]
    port: Option<u16>,
    /// The broker's process on this machine, to measure with its descendants; several, or the option repeated, are
    /// added up.
    #[arg(long)]
    pid: Vec<Pids>,
    /// Protocol version: 3.1, 3.1.1 or 5.
    #[arg(short = 'V', long = "mqtt-version", default_value = "3.1.1")]
    version: VersionArg,
    /// User name; for conn, pub and sub with %i for the client's number and %c for its identifier.
    #[arg(short = 'u', long)]
    username: Option<String>,
    /// Password.
    #[arg(short = 'P', long)]
    password: Option<String>,
    /// Keep alive in seconds; 0: none.
    #[arg(short = 'k', long, visible_alias = "keepalive", default_value_t = 60)]
    keep_alive: u16,
    /// First part of every client identifier.
    #[arg(long, visible_alias = "prefix")]
    pub(crate) id_prefix: Option<String>,
    /// Threads that the clients are spread over, one a core at most.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Clients that connect at the same time, at most.
    #[arg(long, default_value_t = 64)]
    pub(crate) connect_burst: usize,
    // Last, as what follows a heading stands under it.
    #[command(flatten)]
    tls: TlsArgs,
    #[command(flatten)]
    web_socket: WebSocketArgs,
}

/// What a scenario can be told; each has defaults of its own for the rest.
#[derive(Debug, Default, Args)]
pub(crate) struct ParameterArgs {
    /// Clients that only connect and subscribe (idle, storm); the other scenarios have publishers and subscribers.
    #[arg(short, long)]
    clients: Option<u32>,
    /// Publishers.
    #[arg(long)]
    publishers: Option<u32>,
    /// Subscribers.
    #[arg(long)]
    subscribers: Option<u32>,
    /// Quality of Service: 0, 1 or 2.
    #[arg(short, long, value_parser = clap::value_parser!(u8).range(..3))]
    qos: Option<u8>,
    /// Messages that each publisher may have outstanding: not received by all, or not acknowledged. Default: 64, or
    /// with a rate 16,384.
    #[arg(short = 'F', long, visible_alias = "inflight")]
    window: Option<u32>,
    /// Bytes of each payload.
    #[arg(short = 's', long)]
    size: Option<usize>,
    /// Messages a second of each publisher, however the earlier ones fare (open loop); latency then counts from
    /// when a message was due.
    #[arg(long)]
    rate: Option<f64>,
    /// Messages that a publisher sends at once, as often as its rate takes; publishers take turns. Default: what is
    /// due in a millisecond.
    #[arg(long, requires = "rate")]
    burst: Option<u32>,
    /// Retained messages (retained), or messages for each absent client (persistent).
    #[arg(long)]
    messages: Option<u32>,
    /// Subscribers that stop reading (slow).
    #[arg(long)]
    stalled: Option<u32>,
    /// Subscriptions with wildcards that no message matches.
    #[arg(long)]
    ballast: Option<u32>,
    /// Topics of each publisher (wildcard).
    #[arg(long)]
    topics: Option<u32>,
    /// Subscribers have sessions that outlive their connections; they are ended after the run.
    #[arg(long)]
    lasting: bool,
    /// Poll without sleeping, so that neither the broker pays for waking this tool nor a message waits for that. It
    /// takes a core of its own.
    #[arg(long)]
    spin: bool,
    /// Seconds that are measured.
    #[arg(short = 'W', long)]
    seconds: Option<f64>,
    /// Seconds before that.
    #[arg(long)]
    warm_up: Option<f64>,
}

#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// The targets and scenarios, as TOML.
    pub(crate) file: PathBuf,
    /// Short runs, once each, without the scenarios that take long: a hundred seconds for compare.toml.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Only targets with these names; may be repeated.
    #[arg(long)]
    pub(crate) target: Vec<String>,
    /// Only scenarios with these names; may be repeated.
    #[arg(long)]
    pub(crate) scenario: Vec<String>,
    /// Write a page, charts, JSON, CSV and percentile files to this directory.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// How often each scenario is run against each target.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) repetitions: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct FloorArgs {
    /// The address and port to listen on.
    #[arg(long, default_value = "127.0.0.1:1883", value_parser = listening_address)]
    pub(crate) bind: SocketAddr,
}

/// Processes as `pidof` names them: with blanks, or commas, between them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pids(Vec<u32>);

impl FromStr for Pids {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words = text.split([' ', ',', '\n']).filter(|word| !word.is_empty());
        let pid = |word: &str| word.parse().map_err(|_| format!("\"{word}\" is no process id"));
        let pids: Vec<u32> = words.map(pid).collect::<Result<_, String>>()?;
        if pids.is_empty() {
            return Err("it names no process: is the broker running?".into());
        }
        Ok(Self(pids))
    }
}

/// A protocol version as people write it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
pub(crate) enum VersionArg {
    #[value(name = "3.1", alias = "mqttv31", alias = "3", alias = "31")]
    #[serde(rename = "3.1")]
    V31,
    #[default]
    #[value(name = "3.1.1", alias = "mqttv311", alias = "4", alias = "311")]
    #[serde(rename = "3.1.1")]
    V311,
    #[value(name = "5", alias = "5.0", alias = "mqttv5")]
    #[serde(rename = "5")]
    V5,
}

impl From<VersionArg> for Version {
    fn from(version: VersionArg) -> Self {
        match version {
            VersionArg::V31 => Self::V31,
            VersionArg::V311 => Self::V311,
            VersionArg::V5 => Self::V5,
        }
    }
}

impl BrokerArgs {
    /// The broker's processes.
    pub(crate) fn processes(&self) -> ProcessGroup {
        ProcessGroup::new(self.pid.iter().flat_map(|pids| &pids.0).copied().collect())
    }

    pub(crate) fn login(&self) -> Login {
        Login {
            version: self.version.into(),
            keep_alive_seconds: self.keep_alive,
            username: self.username.clone(),
            password: self.password.clone(),
        }
    }

    /// Refuses what no broker would let in.
    pub(crate) fn check(&self) -> Result<(), Misuse> {
        if self.password.is_some() && self.username.is_none() && self.version != VersionArg::V5 {
            // [MQTT-3.1.2-22]
            return Err("--password: before 5.0 it needs a --username".into());
        }
        Ok(())
    }

    pub(crate) fn threads(&self) -> Result<usize, Misuse> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        match self.threads {
            threads if (1..=cores).contains(&threads) => Ok(threads),
            threads => {
                Err(format!("{threads} threads: 1 to {cores}, the cores of this machine").into())
            }
        }
    }

    fn carrier(&self) -> Carrier {
        Carrier::of(self.tls.options().is_some(), self.web_socket.path().is_some())
    }

    fn port(&self) -> u16 {
        self.port.unwrap_or_else(|| self.carrier().usual_port())
    }

    pub(crate) fn endpoint(&self) -> Result<Endpoint, String> {
        let address = resolve(&self.host, self.port())?;
        let tls = self.tls.options().map(|options| options.load(&self.host)).transpose()?;
        let web_socket = self.web_socket.path();
        let web_socket = web_socket.map(|path| WebSocketTarget { host: self.shown(), path });
        Ok(Endpoint { address, tls: tls.map(Arc::new), web_socket })
    }

    /// The broker, as it was named.
    pub(crate) fn shown(&self) -> String {
        format!("{}:{}", self.host, self.port())
    }
}

impl ParameterArgs {
    /// Refuses what a scenario has no use for.
    ///
    /// # Errors
    /// What that is, and what it takes, in one line.
    pub(crate) fn check_used(&self, scenario: ScenarioName) -> Result<(), String> {
        use ScenarioName::{
            Fanin, Fanout, Idle, Large, P2p, Persistent, Retained, Shared, Slow, Storm, Wildcard,
        };
        let is_crowd = matches!(scenario, Idle | Storm);
        let is_steady = !is_crowd && !matches!(scenario, Retained | Persistent);
        let is_pairs = matches!(scenario, P2p | Wildcard | Large | Persistent);
        let is_stored = matches!(scenario, Retained | Persistent);
        let is_many_to_many = matches!(scenario, Fanout | Fanin | Shared | Slow);
        let all = [
            ("--clients", self.clients.is_some(), is_crowd),
            ("--publishers", self.publishers.is_some(), is_pairs || is_many_to_many),
            ("--subscribers", self.subscribers.is_some(), is_many_to_many || scenario == Retained),
            ("--qos", self.qos.is_some(), !is_crowd),
            ("--window", self.window.is_some(), !is_crowd),
            ("--size", self.size.is_some(), !is_crowd),
            ("--rate", self.rate.is_some(), is_steady || scenario == Persistent),
            ("--burst", self.burst.is_some(), is_steady || scenario == Persistent),
            ("--messages", self.messages.is_some(), is_stored),
            ("--stalled", self.stalled.is_some(), scenario == Slow),
            ("--ballast", self.ballast.is_some(), is_steady),
            ("--topics", self.topics.is_some(), scenario == Wildcard),
            ("--lasting", self.lasting, is_steady),
            ("--seconds", self.seconds.is_some(), is_steady),
            ("--warm-up", self.warm_up.is_some(), is_steady),
            ("--spin", self.spin, !is_crowd),
        ];
        let Some((name, ..)) = all.iter().find(|(_, is_given, is_used)| *is_given && !is_used)
        else {
            return Ok(());
        };
        let used = all.iter().filter(|(_, _, is_used)| *is_used).map(|(name, ..)| *name);
        let used = used.collect::<Vec<_>>().join(", ");
        let scenario = scenario.to_possible_value();
        let scenario = scenario.as_ref().map_or("it", |value| value.get_name());
        Err(format!("{scenario} has no use for {name}: it takes {used}"))
    }

    /// Puts what was given in place of the scenario's defaults.
    pub(crate) fn apply(&self, defaults: Parameters) -> Result<Parameters, String> {
        let qos = match self.qos {
            None => defaults.qos,
            Some(value) => QoS::from_u8(value).ok_or_else(|| format!("QoS {value}: 0 to 2"))?,
        };
        let parameters = Parameters {
            clients: self.clients.unwrap_or(defaults.clients),
            publishers: self.publishers.unwrap_or(defaults.publishers),
            subscribers: self.subscribers.unwrap_or(defaults.subscribers),
            qos,
            window: self.window.unwrap_or(defaults.window(self.rate.is_some())),
            payload_len: self.size.unwrap_or(defaults.payload_len),
            rate: self.rate,
            burst: self.burst.unwrap_or(defaults.burst),
            messages: self.messages.unwrap_or(defaults.messages),
            stalled: self.stalled.unwrap_or(defaults.stalled),
            ballast: self.ballast.unwrap_or(defaults.ballast),
            topics: self.topics.unwrap_or(defaults.topics),
            lasting: self.lasting || defaults.lasting,
            spin: self.spin,
            seconds: self.seconds.unwrap_or(defaults.seconds),
            warm_up_seconds: self.warm_up.unwrap_or(defaults.warm_up_seconds),
        };
        check(&parameters)?;
        Ok(parameters)
    }
}

/// Bytes that the topics of all scenarios stay below.
const LONGEST_TOPIC: usize = 64;

/// What no scenario can do.
pub(crate) fn check(parameters: &Parameters) -> Result<(), String> {
    let Parameters { window, payload_len, seconds, warm_up_seconds, .. } = *parameters;
    if !(1..=MAX_WINDOW).contains(&window) {
        return Err(format!("window {window}: 1 to {MAX_WINDOW}"));
    }
    parameters.rate.map_or(Ok(()), engine::check_rate)?;
    if !(1..=MAX_WINDOW).contains(&parameters.burst) {
        return Err(format!("burst {}: 1 to {MAX_WINDOW}", parameters.burst));
    }
    if parameters.messages == 0 || parameters.topics == 0 {
        return Err("messages and topics: at least 1".into());
    }
    if payload_len < MIN_PAYLOAD {
        return Err(format!(
            "payload of {payload_len} bytes: at least {MIN_PAYLOAD}, which hold publisher, number and time"
        ));
    }
    let longest_topic = "-".repeat(LONGEST_TOPIC);
    FlowSpec::new(longest_topic, QoS::ExactlyOnce, payload_len, window).check_size(Version::V5)?;
    measure::check_memory(parameters.publishers, payload_len)?;
    if parameters.publishers == 0 || parameters.subscribers == 0 || parameters.clients == 0 {
        return Err("publishers, subscribers and clients: at least 1".into());
    }
    let is_time = |seconds: f64| seconds.is_finite() && (0.0..=86_400.0).contains(&seconds);
    if !is_time(seconds) || seconds == 0.0 || !is_time(warm_up_seconds) {
        return Err("seconds and warm-up: above 0, at most a day".into());
    }
    Ok(())
}

/// The first address of a host.
pub(crate) fn resolve(host: &str, port: u16) -> Result<SocketAddr, String> {
    let mut addresses =
        (host, port).to_socket_addrs().map_err(|error| format!("host \"{host}\": {error}"))?;
    addresses.next().ok_or_else(|| format!("host \"{host}\": it has no address"))
}

fn listening_address(text: &str) -> Result<SocketAddr, String> {
    let address = text.to_socket_addrs().ok().and_then(|mut addresses| addresses.next());
    address.ok_or_else(|| "no address and port of this machine, such as 127.0.0.1:1883".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn h_is_the_host_as_in_mosquitto_pub() {
        let cli =
            Cli::try_parse_from(["sluice-bench", "run", "p2p", "-h", "::1", "-p", "1", "-q", "2"]);
        let Command::Run(run) = cli.unwrap().command else { panic!("not run") };
        assert_eq!(run.broker.endpoint().unwrap().address, "[::1]:1".parse().unwrap());
        let parameters = run.parameters.apply(run.scenario.defaults()).unwrap();
        assert_eq!(parameters.qos, QoS::ExactlyOnce);
    }

    #[test]
    fn processes_are_named_as_pidof_does() {
        for (text, pids) in [("7", vec![7]), ("7 8\n", vec![7, 8]), ("7,8, 9", vec![7, 8, 9])] {
            assert_eq!(text.parse(), Ok(Pids(pids)), "{text}");
        }
        for text in ["", " ", "sluice", "-1", "1.5"] {
            assert!(text.parse::<Pids>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_measured_is_refused() {
        let args = ParameterArgs { size: Some(10), ..ParameterArgs::default() };
        let error = args.apply(ScenarioName::P2p.defaults()).unwrap_err();
        assert!(error.starts_with("payload of 10 bytes"), "{error}");
        let args = ParameterArgs { window: Some(0), ..ParameterArgs::default() };
        assert!(args.apply(ScenarioName::P2p.defaults()).is_err());
    }
}
