//! Start and stop.

use std::io;
use std::net::{SocketAddr, TcpListener};

use crate::config::{Config, ConfigError};

/// A running broker.
pub struct Broker {
    listeners: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
}

/// Why a broker does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration contradicts itself.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {error}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
}

impl Broker {
    /// Starts a broker.
    ///
    /// # Errors
    ///
    /// If the configuration contradicts itself, or an address cannot be listened on.
    pub fn start(config: Config) -> Result<Self, StartError> {
        config.check()?;
        let (mut listeners, mut addresses) = (Vec::new(), Vec::new());
        for listener in &config.listeners {
            let bound = TcpListener::bind(listener.bind)
                .and_then(|socket| Ok((socket.local_addr()?, socket)))
                .map_err(|error| StartError::Bind { address: listener.bind, error })?;
            addresses.push(bound.0);
            listeners.push(bound.1);
        }
        Ok(Self { listeners, addresses })
    }

    /// Where it listens, in the order of the configuration.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Stops it.
    pub fn stop(self) {
        drop(self.listeners);
    }
}
