//! The command line.

use std::error::Error;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::{env, fs};

use clap::error::{ContextKind, ErrorKind};
use clap::{Parser, Subcommand};

use super::certs::Certs;
use super::error::{ConfigError, Origin, Origins};
use super::passwd::Passwd;
use super::reader::Change;
use super::schema::{Config, Listener};
use super::store_tool::StoreTool;
use super::value::{Address, Given, Kind};
use super::{check, read};

const ABOUT: &str = "\
Sluice is an MQTT broker: programs and devices connect to it, subscribe to topics, and receive \
what others publish to them. It speaks MQTT 3.1, 3.1.1 and 5.0.

Started without anything, it listens on 127.0.0.1:1883, where only programs of this machine reach \
it. It runs until it is interrupted (Ctrl-C) or told to end (SIGTERM). Sessions and messages that it
has to keep are in the directory sluice-data, and there when it starts again.";

const EXAMPLES: &str = "\
Examples:
  sluice                            listen on 127.0.0.1:1883
  sluice --bind 0.0.0.0:1883 --anonymous
                                    let other machines in, anyone who can reach it
  sluice --data /var/lib/sluice     keep sessions and messages there
  sluice --durability memory        keep nothing over a restart
  sluice config > sluice.toml       write all settings, their meaning and their defaults to a file
  sluice --config sluice.toml       take the settings from a file
  sluice store check sluice-data    say what is in a data directory, and whether all is well
  sluice check sluice.toml          say whether that file is right and what it changes, and end
  sluice --log debug                also tell of each client that comes and goes
  SLUICE_QUEUE_MAX_MESSAGES=500 sluice

Try it, in two more terminals:
  mosquitto_sub -t 'greetings/#' -v
  mosquitto_pub -t greetings/world -m hello

Every setting can also be set by an environment variable named after its section and key:
max_packet_size of [limits] is SLUICE_LIMITS_MAX_PACKET_SIZE. A flag goes before a variable, a
variable before the file.

The exit status is 0 after a stop, 1 if the broker cannot start or go on, and 2 if the command line
or the settings are wrong.";

/// The file of all settings, with their meaning and their defaults.
pub const EXAMPLE: &str = include_str!("../../sluice.toml");

/// What was asked for.
#[derive(Debug, Parser)]
#[command(name = "sluice", version, about = "An MQTT broker", long_about = ABOUT)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct CommandLine {
    /// Read the settings from this file (without it, none is read)
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Listen here instead of where the settings say, like 0.0.0.0:1883; may be given several times
    #[arg(short, long, value_name = "ADDR:PORT")]
    pub bind: Vec<String>,

    /// Let everybody in who gives no user name, from other machines too
    #[arg(long)]
    pub anonymous: bool,

    /// Run this many event loops, each a thread; 0, the default, is one a core
    #[arg(short, long, value_name = "N", allow_negative_numbers = true)]
    pub shards: Option<String>,

    /// Keep sessions and messages in this directory
    #[arg(short, long, value_name = "DIR")]
    pub data: Option<String>,

    /// What an acknowledged message survives: memory (nothing), os (the end of the process), fsync (the
    /// default: the end of the machine)
    #[arg(long, value_name = "WHAT")]
    pub durability: Option<String>,

    /// Log this and what is more severe: off, error, warn, info (the default), debug, trace
    #[arg(short, long, value_name = "LEVEL")]
    pub log: Option<String>,

    /// What to do instead of running the broker.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What can be done instead of running the broker.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print every setting with its meaning and its default: a settings file to begin with
    Config,
    /// Check a settings file the way a start would, say what it changes, and end
    Check {
        /// The file to check
        file: PathBuf,
    },
    /// Add a user to a password file, change its password, or remove it
    ///
    /// The password is asked for, or read from the first line of standard input if that is no terminal.
    /// A broker that runs takes the file in on SIGHUP.
    Passwd(Passwd),
    /// Make certificates to try TLS with: a CA, and a server and a client of it
    Certs(Certs),
    /// Look at a data directory that no broker runs on, write it out as text, fill one, or move it
    #[command(subcommand)]
    Store(StoreTool),
}

/// What is to be done, everything read and checked.
#[derive(Debug)]
pub enum Task {
    /// Run a broker; what was asked for has the settings read again.
    Run(Box<Config>, Box<CommandLine>),
    /// Print the [`EXAMPLE`].
    Example,
    /// Say that this file is right, if those it names are, and what it changes, the environment included.
    Check(PathBuf, Box<Config>, Vec<Change>),
    /// Edit a password file.
    Passwd(Passwd),
    /// Make certificates.
    Certs(Certs),
    /// Do something with a data directory.
    Store(StoreTool),
}

impl CommandLine {
    /// Takes what this process was started with, reads the file and the environment, and lays the
    /// flags over them. If help or the version is asked for, it is printed, and the process ends.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong in any of them, on one line.
    pub fn task() -> Result<Task, Box<dyn Error>> {
        let asked = parsed::<Self>()?;
        match asked.command {
            Some(Command::Config) => Ok(Task::Example),
            Some(Command::Passwd(passwd)) => Ok(Task::Passwd(passwd)),
            Some(Command::Certs(certs)) => Ok(Task::Certs(certs)),
            Some(Command::Store(tool)) => Ok(Task::Store(tool)),
            Some(Command::Check { file }) => {
                let variables = variables(env::vars_os())?;
                let (config, changes) = load(Some(&file), variables, &Flags::default())?;
                Ok(Task::Check(file, Box::new(config), changes))
            }
            None => Ok(Task::Run(Box::new(asked.config()?), Box::new(asked))),
        }
    }

    /// The settings for a broker to run with: the file, the environment, and the flags.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong in any of them.
    pub fn config(&self) -> Result<Config, ConfigError> {
        let Self { bind, anonymous, shards, data, durability, log, .. } = self;
        let flags = Flags {
            bind: bind.clone(),
            anonymous: *anonymous,
            shards: shards.clone(),
            data: data.clone(),
            durability: durability.clone(),
            log: log.clone(),
        };
        let (config, _) = load(self.config.as_deref(), variables(env::vars_os())?, &flags)?;
        Ok(config)
    }
}

/// What this process was started with. If help or the version is asked for, it is printed, and the process
/// ends.
///
/// # Errors
///
/// What is wrong, on one line.
pub fn parsed<C: Parser>() -> Result<C, String> {
    C::try_parse().map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => error.exit(),
        _ => one_line(C::command(), &error, env::args_os().skip(1)),
    })
}

/// What the parser of the command line of a program says of these arguments, without its advice of several
/// lines.
fn one_line(
    program: clap::Command,
    error: &clap::Error,
    arguments: impl Iterator<Item = OsString>,
) -> String {
    let context = |kind| error.get(kind).map(ToString::to_string);
    let known = |word: &str| program.find_subcommand(word).is_some();
    if let Some(word) = context(ContextKind::InvalidSubcommand)
        && known(&word)
    {
        let name = program.get_name();
        return format!("{word} takes no options before it; see {name} {word} --help");
    }
    let command = command(program, arguments);
    if let Some(word) = context(ContextKind::InvalidSubcommand) {
        return match context(ContextKind::SuggestedSubcommand) {
            Some(known) => format!("{word} is not a command; did you mean {known}?"),
            None if command != "sluice" => {
                format!("{word} is not a command of {command}; see {command} --help")
            }
            None => format!(
                "{word} is not a command; to start with the settings of a file, write \
                 sluice --config {word}"
            ),
        };
    }
    let text = error.to_string();
    let first = text.split("\n\n").next().unwrap_or_default();
    let lines: Vec<&str> = first.lines().map(str::trim).collect();
    let line = lines.join(" ");
    let line = line.strip_prefix("error: ").unwrap_or(&line);
    let known_elsewhere = match context(ContextKind::InvalidArg).as_deref() {
        _ if command != "sluice" => None,
        Some("-p" | "--port") => Some("the port is part of --bind, like --bind 127.0.0.1:1884"),
        Some("-v" | "--verbose") => Some("--log debug tells more"),
        _ => None,
    };
    match (known_elsewhere, context(ContextKind::SuggestedArg)) {
        (Some(way), _) => format!("{line}; {way}"),
        (None, Some(known)) => format!("{line}; did you mean {known}?"),
        (None, None) => format!("{line}; see {command} --help"),
    }
}

/// The command of a program that these arguments name, like `sluice store check`.
fn command(program: clap::Command, arguments: impl Iterator<Item = OsString>) -> String {
    let mut command = program;
    let mut named = vec![command.get_name().to_owned()];
    for argument in arguments {
        let Some(found) = command.find_subcommand(&argument) else { break };
        named.push(found.get_name().to_owned());
        command = found.clone();
    }
    named.join(" ")
}

/// The settings that have a flag.
#[derive(Debug, Default)]
struct Flags {
    bind: Vec<String>,
    anonymous: bool,
    shards: Option<String>,
    data: Option<String>,
    durability: Option<String>,
    log: Option<String>,
}

fn load(
    file: Option<&Path>,
    variables: Vec<(String, String)>,
    flags: &Flags,
) -> Result<(Config, Vec<Change>), ConfigError> {
    let name = file.map(|path| path.display().to_string()).unwrap_or_default();
    let text = file.map_or(Ok(String::new()), |path| read_file(path, &name))?;
    let (mut config, mut seen) = read(&name, &text, variables, |reader| {
        let anonymous = flags.anonymous.then(|| "true".to_owned());
        reader.flag("--anonymous", "auth.anonymous", anonymous);
        reader.flag("--shards", "shards", flags.shards.clone());
        reader.flag("--data", "store.data", flags.data.clone());
        reader.flag("--durability", "store.durability", flags.durability.clone());
        reader.flag("--log", "log.level", flags.log.clone());
    })?;
    if !flags.bind.is_empty() {
        check_variables_of_listeners(&seen.origins)?;
        config.listeners =
            flags.bind.iter().map(|text| listener(text)).collect::<Result<_, _>>()?;
        seen.origins.retain(|key, _| !key.starts_with("listener["));
        for index in 0..flags.bind.len() {
            seen.origins.insert(format!("listener[{index}].bind"), Origin::Flag("--bind"));
        }
    }
    check::check(&config, &seen.origins)?;
    Ok((config, seen.changes))
}

/// `--bind` stands for all listeners, and overrides where they bind as any flag does a variable. What else
/// a variable says of one would count for nothing.
fn check_variables_of_listeners(origins: &Origins) -> Result<(), ConfigError> {
    let is_idle = |key: &str| key.starts_with("listener[") && !key.ends_with("].bind");
    let idle =
        origins.iter().find(|(key, origin)| is_idle(key) && matches!(origin, Origin::Variable(_)));
    idle.map_or(Ok(()), |(_, origin)| {
        let message = "has no effect, because --bind replaces every listener; take one of them out";
        Err(ConfigError::new(origin.clone(), "", message.to_owned()))
    })
}

/// The listener of one `--bind`.
fn listener(text: &str) -> Result<Listener, ConfigError> {
    let given = Given::Variable(text);
    Address.take(given).map(Listener::on).map_err(|wrong| {
        let message = format!("{given} {wrong}; write {}", Address.allowed());
        ConfigError::new(Origin::Flag("--bind"), "listener.bind", message)
    })
}

fn read_file(path: &Path, name: &str) -> Result<String, ConfigError> {
    let wrong = |line: usize, message: String| {
        ConfigError::new(Origin::File(name.to_owned(), line), "", message)
    };
    let bytes = fs::read(path).map_err(|error| ConfigError {
        origin: Origin::Unread(name.to_owned()),
        key: String::new(),
        message: format!("cannot be read: {error}"),
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let good = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
        let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
        wrong(line, "is not UTF-8 text".to_owned())
    })
}

/// The variables that may be ours, as text.
fn variables(
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Vec<(String, String)>, ConfigError> {
    environment
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| name.starts_with(super::reader::PREFIX))
        .map(|(name, value)| match value.into_string() {
            Ok(value) => Ok((name, value)),
            Err(_) => Err(ConfigError::new(Origin::Variable(name), "", "is not UTF-8 text")),
        })
        .collect()
}
