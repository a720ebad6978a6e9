//! The command line.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::{env, fs};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Parser, Subcommand, value_parser};

use crate::shard::MAX_SHARDS;

use super::error::{ConfigError, Origin};
use super::schema::{Config, Durability, Listener, LogLevel};
use super::value::{ADDRESS_FORM, Keyword, word};
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
  sluice --bind 0.0.0.0:1883        let other machines in, anyone who can reach it
  sluice --data /var/lib/sluice     keep sessions and messages there
  sluice --durability memory        keep nothing over a restart
  sluice --config sluice.toml       take the settings from a file
  sluice check sluice.toml          say whether that file is right, and end

Try it, in two more terminals:
  mosquitto_sub -t 'greetings/#' -v
  mosquitto_pub -t greetings/world -m hello

Every setting, its meaning and its default is in the file sluice.toml of the source. Each can also
be set by an environment variable named after its section and key: max_packet_size of [limits] is
SLUICE_LIMITS_MAX_PACKET_SIZE. A flag goes before a variable, a variable before the file.";

/// What was asked for.
#[derive(Debug, Parser)]
#[command(name = "sluice", version, about = "An MQTT broker", long_about = ABOUT)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct CommandLine {
    /// Read the settings from this file (without it, none is read)
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Listen here instead of where the settings say; may be given several times
    #[arg(short, long, value_name = "ADDR:PORT", value_parser = parse_address)]
    pub bind: Vec<SocketAddr>,

    /// Run this many event loops, each a thread; 0 is one a core
    #[arg(short, long, value_name = "N", value_parser = value_parser!(u8).range(0..=i64::from(MAX_SHARDS)))]
    pub shards: Option<u8>,

    /// Keep sessions and messages in this directory
    #[arg(short, long, value_name = "DIR")]
    pub data: Option<PathBuf>,

    /// What an acknowledged message survives: nothing, the end of the process, or of the machine
    #[arg(long, value_name = "WHAT", value_parser = durability())]
    pub durability: Option<Durability>,

    /// Log lines of this level and the more severe ones
    #[arg(short, long, value_name = "LEVEL", value_parser = log_level())]
    pub log: Option<LogLevel>,

    /// What to do instead of running the broker.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What can be done instead of running the broker.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check a settings file the way a start would, and end
    Check {
        /// The file to check
        file: PathBuf,
    },
}

/// What is to be done, everything read and checked.
#[derive(Debug)]
pub enum Task {
    /// Run a broker.
    Run(Box<Config>),
    /// Say that this file is right.
    Checked(PathBuf),
}

impl CommandLine {
    /// Reads the file and this process's environment, and lays the flags over them.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong in any of them.
    pub fn task(self) -> Result<Task, ConfigError> {
        let variables = variables(env::vars_os())?;
        if let Some(Command::Check { file }) = self.command {
            load(Some(&file), variables, &Flags::default())?;
            return Ok(Task::Checked(file));
        }
        let flags = Flags {
            bind: self.bind,
            shards: self.shards,
            data: self.data,
            durability: self.durability,
            log: self.log,
        };
        let config = load(self.config.as_deref(), variables, &flags)?;
        Ok(Task::Run(Box::new(config)))
    }
}

/// The settings that have a flag.
#[derive(Debug, Default)]
struct Flags {
    bind: Vec<SocketAddr>,
    shards: Option<u8>,
    data: Option<PathBuf>,
    durability: Option<Durability>,
    log: Option<LogLevel>,
}

fn load(
    file: Option<&Path>,
    variables: Vec<(String, String)>,
    flags: &Flags,
) -> Result<Config, ConfigError> {
    let name = file.map(|path| path.display().to_string()).unwrap_or_default();
    let text = file.map_or(Ok(String::new()), |path| read_file(path, &name))?;
    let (mut config, mut seen) = read(&name, &text, variables)?;
    if !flags.bind.is_empty() {
        config.listeners = flags.bind.iter().copied().map(Listener::on).collect();
        seen.origins.retain(|key, _| !key.starts_with("listener["));
        for index in 0..flags.bind.len() {
            seen.origins.insert(format!("listener[{index}].bind"), Origin::Flag("--bind"));
        }
    }
    if let Some(shards) = flags.shards {
        config.shards = shards;
        seen.origins.insert("shards".to_owned(), Origin::Flag("--shards"));
    }
    if let Some(data) = &flags.data {
        config.store.data.clone_from(data);
        seen.origins.insert("store.data".to_owned(), Origin::Flag("--data"));
    }
    if let Some(durability) = flags.durability {
        config.store.durability = durability;
        seen.origins.insert("store.durability".to_owned(), Origin::Flag("--durability"));
    }
    if let Some(level) = flags.log {
        config.log.level = level;
        seen.origins.insert("log.level".to_owned(), Origin::Flag("--log"));
    }
    check::check(&config, &seen.origins)?;
    Ok(config)
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

fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("write {ADDRESS_FORM}"))
}

fn durability() -> impl TypedValueParser<Value = Durability> {
    let words = Durability::WORDS.iter().map(|(word, _)| *word);
    PossibleValuesParser::new(words).try_map(|text| word(&text).ok_or("none of them"))
}

fn log_level() -> impl TypedValueParser<Value = LogLevel> {
    let words = LogLevel::WORDS.iter().map(|(word, _)| *word);
    PossibleValuesParser::new(words).try_map(|text| word(&text).ok_or("not a level"))
}
