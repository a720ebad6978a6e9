//! A broker as a program of its own: log, limits of the process, signals.

use std::io;

use super::{Broker, StartError, ThreadFailure};
use crate::config::process::{Asked, Asks, raise_open_files, warn_about};
use crate::config::{Config, ConfigError, log};
use crate::hooks::Hooks;

/// Why a broker that is a program ended otherwise than by a signal.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The system does not let it have the signals.
    #[error("cannot take over the signals: {0}")]
    Signals(#[source] io::Error),
    /// It did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// One of its threads ended by itself.
    #[error(transparent)]
    Thread(#[from] ThreadFailure),
}

/// Runs a broker until SIGTERM or SIGINT, as the program `sluice` does: sets up the log, raises
/// the limit on open files, warns, takes over the signals of the process, and stops in good order. On
/// SIGHUP it reads the configuration `again`, and puts in force what can change while it runs.
///
/// # Errors
/// If it does not start, or one of its threads ends by itself, after which the rest is stopped.
pub fn run(
    mut config: Config,
    hooks: Hooks,
    again: impl Fn() -> Result<Config, ConfigError>,
) -> Result<(), RunError> {
    let _rest = log::start(&config.log);
    let asked = config.limits.max_connections;
    raise_open_files(&mut config);
    let served = config.limits.max_connections;
    let mut signals = Asks::register().map_err(RunError::Signals)?;
    let shards = config.shard_count();
    let (listeners, anonymous) = (config.listeners.clone(), config.auth.anonymous);
    let broker = Broker::start_with(config, hooks)?;
    warn_about(&listeners, anonymous);
    let addresses: Vec<String> = broker.listeners().iter().map(ToString::to_string).collect();
    tracing::info!(
        "sluice {} listening on {} with {shards} shard{}",
        env!("CARGO_PKG_VERSION"),
        addresses.join(", "),
        if shards == 1 { "" } else { "s" }
    );
    let (watch, end) = (broker.watch(), signals.ender());
    std::thread::spawn(move || {
        if watch.wait().is_some() {
            tracing::error!("the broker stops");
            end.end();
        }
    });
    let signal = loop {
        match signals.wait() {
            Asked::Reload => match again().map_err(StartError::from).and_then(|mut new| {
                if new.limits.max_connections == asked {
                    new.limits.max_connections = served;
                } else {
                    raise_open_files(&mut new);
                }
                broker.reload(&new)
            }) {
                Ok(()) => tracing::info!("SIGHUP: users, rules, limits and TLS are read again"),
                Err(error) => tracing::error!("SIGHUP: nothing is changed: {error}"),
            },
            Asked::Stop(signal) => break signal,
        }
    };
    if let Some(signal) = signal {
        tracing::info!("{signal}: stopping");
    }
    broker.stop()?;
    tracing::info!("stopped");
    Ok(())
}
