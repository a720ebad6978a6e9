//! A broker of the test's own, in this process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use sluice::config::Durability;

use super::connect::Connect;
use super::packet::ConnAck;
use super::wire::Version;
use super::{Client, code};

/// The environment variable with which every broker has a store.
const STORED: &str = "TEST_STORED";

/// A running broker; it ends with the test.
pub(crate) struct Broker {
    address: SocketAddr,
    inner: Option<sluice::Broker>,
    /// Its data directory, which goes with it.
    data: Option<PathBuf>,
}

/// Starts a broker with two shards on a free loopback port; `toml` is further configuration.
pub(crate) fn broker(toml: &str) -> Broker {
    broker_with_shards(2, toml)
}

/// The same with this many shards.
pub(crate) fn broker_with_shards(shards: u16, toml: &str) -> Broker {
    broker_with_listener(shards, "", toml)
}

/// The same with further keys of its listener.
pub(crate) fn broker_with_listener(shards: u16, listener: &str, toml: &str) -> Broker {
    let config = config(shards, listener, toml);
    let data = std::env::var_os(STORED).map(|_| config.store.data.clone());
    let mut broker = Broker::of(sluice::Broker::start(config).expect("the broker starts"));
    broker.data = data;
    broker
}

/// A configuration with a listener on a free loopback port.
pub(crate) fn config(shards: u16, listener: &str, toml: &str) -> sluice::Config {
    let text =
        format!("shards = {shards}\n[[listener]]\nbind = \"127.0.0.1:0\"\n{listener}\n{toml}\n");
    let mut config = sluice::Config::parse("test.toml", &text, [])
        .unwrap_or_else(|error| panic!("{error}\n{text}"));
    // What else the machine does holds turns up, too, and is not what refuses a client here.
    if !toml.contains("max_turn") {
        config.limits.max_turn = None;
    }
    // Nothing is stored, unless all tests are to be run with a store.
    config.store.durability = match std::env::var_os(STORED) {
        Some(_) => Durability::Os,
        None => Durability::Memory,
    };
    config.store.data = new_data();
    config
}

/// The name of a directory that is not there yet.
fn new_data() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let (process, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    std::env::temp_dir().join(format!("sluice-test-{process}-{count}"))
}

impl Broker {
    /// One that was started in another way.
    pub(crate) fn of(inner: sluice::Broker) -> Self {
        Self { address: inner.addresses()[0], inner: Some(inner), data: None }
    }

    /// Gives it a new configuration; two shards.
    pub(crate) fn reload(&self, toml: &str) -> Result<(), String> {
        self.reload_with_listener("", toml)
    }

    /// The same with further keys of its listener.
    pub(crate) fn reload_with_listener(&self, listener: &str, toml: &str) -> Result<(), String> {
        let inner = self.inner.as_ref().expect("it runs");
        inner.reload(&config(2, listener, toml)).map_err(|error| error.to_string())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where its other listeners are, by their place in the configuration.
    pub(crate) fn address_of(&self, listener: usize) -> SocketAddr {
        self.inner.as_ref().expect("it runs").addresses()[listener]
    }

    /// A connection on which nothing was sent yet.
    pub(crate) fn open(&self, version: Version) -> Client {
        Client::open(self.address, version)
    }

    /// A clean connection.
    #[track_caller]
    pub(crate) fn connect(&self, version: Version, client_id: &str) -> Client {
        self.connect_with(&Connect::new(version, client_id)).0
    }

    /// A connection that must be accepted, and its CONNACK.
    #[track_caller]
    pub(crate) fn connect_with(&self, connect: &Connect) -> (Client, ConnAck) {
        let (client, connack) = Client::connect(self.address, connect);
        assert_eq!(connack.code, code::SUCCESS, "CONNECT of {}", connect.client_id);
        (client, connack)
    }

    /// Stops it gracefully; returns when it has stopped.
    pub(crate) fn stop(mut self) {
        assert_eq!(self.inner.take().expect("it runs").stop(), Ok(()));
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        drop(self.inner.take());
        if let Some(data) = &self.data {
            let _ = std::fs::remove_dir_all(data);
        }
    }
}
