//! What `conn`, `pub` and `sub` can be told. Where emqtt_bench and mosquitto_pub use one letter for different
//! things, it means here what it means in emqtt_bench.

use std::path::PathBuf;

use clap::{ArgAction, Args};

use super::BrokerArgs;
use crate::engine::MAX_WINDOW;

#[derive(Debug, Args)]
pub(crate) struct ConnArgs {
    /// Number of clients.
    #[arg(short, long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) count: u32,
    #[command(flatten)]
    pub(crate) clients: ClientArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PubArgs {
    /// Number of clients.
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) count: u32,
    /// Topic; %i, %c and %u stand for the client's number, identifier and user name.
    #[arg(short, long)]
    pub(crate) topic: String,
    /// Quality of Service: 0, 1 or 2.
    #[arg(short, long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(..3))]
    pub(crate) qos: u8,
    /// Publish retained messages.
    #[arg(short, long)]
    pub(crate) retain: bool,
    /// Bytes of each payload; from 28 on it carries what `sub` measures by.
    #[arg(short, long, default_value_t = 256, conflicts_with = "payload")]
    pub(crate) size: usize,
    /// Publish this text, as it is.
    #[arg(short, long, group = "payload")]
    pub(crate) message: Option<String>,
    /// Publish what is in this file, as it is.
    #[arg(short, long, group = "payload", value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Publish the lines of standard input in turn; each client takes all of them, over and over.
    #[arg(short = 'l', long, group = "payload")]
    pub(crate) stdin_lines: bool,
    /// Milliseconds between two messages of one client; 0: as fast as the window allows.
    #[arg(short = 'I', long, default_value_t = 1000.0, group = "pace", value_name = "MS")]
    pub(crate) interval_of_msg: f64,
    /// Messages a second of each client, instead of -I.
    #[arg(long, group = "pace")]
    pub(crate) rate: Option<f64>,
    /// QoS 1 and 2 messages that each client may have unacknowledged; never more than the broker's Receive
    /// Maximum. Default: 64, or with a rate what comes up in ten seconds.
    #[arg(short = 'F', long, visible_alias = "window", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_WINDOW)))]
    pub(crate) inflight: Option<u32>,
    /// End after so many messages of all clients together; 0: no limit.
    #[arg(short = 'L', long, visible_alias = "repeat", default_value_t = 0)]
    pub(crate) limit: u64,
    #[command(flatten)]
    pub(crate) clients: ClientArgs,
}

#[derive(Debug, Args)]
pub(crate) struct SubArgs {
    /// Number of clients.
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) count: u32,
    /// Topic filter, may be repeated; %i, %c and %u stand for the client's number, identifier and user name.
    #[arg(short, long, required = true)]
    pub(crate) topic: Vec<String>,
    /// Quality of Service: 0, 1 or 2.
    #[arg(short, long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(..3))]
    pub(crate) qos: u8,
    /// End after so many messages to all clients together; 0: no limit.
    #[arg(short = 'L', long, default_value_t = 0)]
    pub(crate) limit: u64,
    #[command(flatten)]
    pub(crate) clients: ClientArgs,
}

/// What all three have in common.
#[derive(Debug, Args)]
pub(crate) struct ClientArgs {
    /// The clients are numbered from one more than this.
    #[arg(short = 'n', long, visible_alias = "start-number", default_value_t = 0)]
    pub(crate) startnumber: u32,
    /// Client identifier, with %i for the client's number if there are several.
    #[arg(long, value_name = "ID")]
    pub(crate) id: Option<String>,
    /// Milliseconds from connecting one client to the next.
    #[arg(short, long, default_value_t = 10.0, group = "connecting", value_name = "MS")]
    pub(crate) interval: f64,
    /// Clients to connect a second, instead of -i; 0: as fast as they are let in.
    #[arg(short = 'R', long, group = "connecting")]
    pub(crate) connrate: Option<f64>,
    /// Start a clean session.
    #[arg(short = 'C', long, default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub(crate) clean: bool,
    /// Session Expiry Interval in seconds (5.0).
    #[arg(short = 'x', long, default_value_t = 0)]
    pub(crate) session_expiry: u32,
    /// End after so many seconds; without it Ctrl-C ends it.
    #[arg(short = 'W', long)]
    pub(crate) seconds: Option<f64>,
    /// Write a page, charts, JSON, CSV and percentile files to this directory.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) broker: BrokerArgs,
}
