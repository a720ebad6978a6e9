//! Start and stop: listeners, shards and the threads they run on.

mod bind;
mod failure;
mod reload;
mod run;
mod settings;
mod storage;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crossbeam_channel::Receiver;

pub use self::failure::{BrokerThread, ThreadFailure, Watch};
pub use self::run::{RunError, run};
use self::settings::own_access;
pub use self::settings::{access_settings, settings};

use self::bind::{Bound, bind_all};
use self::failure::Handle;
use self::settings::tls_settings;
use crate::auth::{Access, AccessError};
use crate::config::{self, Bind, Config, ConfigError};
use crate::hooks::{Hooks, StoreError};
use crate::net::{MioDriver, SocketFile, TlsAcceptor, TlsError};
use crate::shard::{Bell, Shard, ShardStats, Shared};
use crate::store::{DirectoryError, room, whole};

/// A running broker. Dropped, it stops as by [`Broker::stop`].
#[derive(Debug)]
pub struct Broker {
    addresses: Vec<Bind>,
    /// Removed when it has stopped.
    files: Vec<SocketFile>,
    shared: Arc<Shared>,
    bells: Vec<Arc<Bell>>,
    shards: Vec<Handle>,
    failures: Receiver<ThreadFailure>,
    /// Ends when the shards have.
    writer: Option<Handle>,
    /// Who decides about clients, as far as the embedding program does not.
    access: Arc<Access>,
    /// That program does, or says what clients may do.
    has_own: bool,
    /// By listener.
    tls: Vec<Option<Arc<TlsAcceptor>>>,
    /// The configuration in force, but for what is lowered to the system's limits.
    config: Mutex<Config>,
}

/// Why a broker does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration contradicts itself.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An address cannot be listened on.
    #[error(
        "cannot listen on {address}: {}{error}{}",
        bind::why(address, error),
        bind::way_out(error)
    )]
    Bind {
        /// The address.
        address: Bind,
        /// What the system says.
        error: io::Error,
    },
    /// TLS cannot be set up with what the configuration names.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A file that says who may come in is no use.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// A shard or the store's thread cannot be set up.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] io::Error),
    /// The data directory cannot be used.
    #[error("{}{}", .0, storage::way_out(.0))]
    Directory(#[from] DirectoryError),
    /// What is in it cannot be read.
    #[error("cannot open the store in {}: {error}{}", whole(.directory), room(.directory, &.error.0))]
    Store {
        /// Where.
        directory: PathBuf,
        /// Why.
        error: StoreError,
    },
}

impl Broker {
    /// Starts a broker: when this returns, clients can connect.
    ///
    /// # Errors
    /// If the configuration contradicts itself, a file it names is no use, the data directory or what is in
    /// it cannot be used, an address cannot be listened on, or the system gives no thread or poll. Another
    /// process that has the directory or an address is given a second to end, as one that was killed may
    /// have to.
    pub fn start(config: Config) -> Result<Self, StartError> {
        Self::start_with(config, Hooks::default())
    }

    /// Reads the files that a configuration names, for passwords, rules and TLS, as a start does, and starts
    /// nothing. Gives what the log would warn of, and limits that may not be meant as they are.
    ///
    /// # Errors
    /// The first that cannot be read or is wrong.
    pub fn check_files(config: &Config) -> Result<Vec<String>, StartError> {
        let mut warnings = Access::check(&access_settings(config))?;
        tls_acceptors(config)?;
        warnings.extend(config.queue.narrow());
        Ok(warnings)
    }

    /// As [`Broker::start`], with code of the embedding program at the ports. An authenticator of its own
    /// decides in place of `[auth]`, an authorizer in place of `[acl]`.
    ///
    /// # Errors
    /// As [`Broker::start`].
    pub fn start_with(config: Config, mut hooks: Hooks) -> Result<Self, StartError> {
        config.check()?;
        let has_own = hooks.authenticator.is_some() || hooks.authorizer.is_some();
        let access = Arc::new(Access::new(&own_access(&config, has_own))?);
        hooks.authenticator.get_or_insert(access.clone());
        hooks.authorizer.get_or_insert(access.clone());
        let shards = usize::from(config.shard_count());
        let tls = tls_acceptors(&config)?;
        // A second broker on the directory must not listen even for a moment.
        let directory = storage::directory(&config.store)?;
        let Bound { by_shard: listeners, addresses, files } = bind_all(&config, shards, &tls)?;
        let start = Instant::now();
        let epoch = storage::epoch();
        let storage =
            directory.map(|directory| storage::open(directory, &config, epoch)).transpose()?;
        let drivers = listeners
            .into_iter()
            .map(|listeners| {
                let driver = MioDriver::new(listeners, start)?;
                Ok(driver.with_max_handshakes(config.limits.max_handshakes as usize))
            })
            .collect::<io::Result<Vec<_>>>()
            .map_err(StartError::Thread)?;
        let shared = Arc::new(Shared::new(settings(&config), hooks, shards, random_seed()));
        let (shards, writer) = match storage {
            None => (Shard::assemble(drivers, &shared), None),
            Some((stored, writer)) => {
                (Shard::assemble_stored(drivers, &shared, stored), Some(writer))
            }
        };
        let bells: Vec<_> = shards.iter().map(Shard::bell).collect();
        let (tell, failures) = crossbeam_channel::unbounded();
        let writer = writer.map(|writer| storage::run(writer, bells.clone(), start, tell.clone()));
        let writer = writer.transpose().map_err(StartError::Thread)?;
        let mut broker = Self {
            addresses,
            files,
            shared,
            bells,
            shards: Vec::new(),
            failures,
            writer,
            access,
            has_own,
            tls,
            config: Mutex::new(config),
        };
        for (id, shard) in (0..).zip(shards) {
            let (shared, bells) = (broker.shared.clone(), broker.bells.clone());
            let failed = move || {
                shared.shard_failed(id);
                bells.iter().for_each(|bell| bell.ring());
            };
            let thread = BrokerThread::Shard(id);
            let thread = failure::spawn(thread, tell.clone(), move || shard.run(), failed)
                .map_err(StartError::Thread)?;
            broker.shards.push(thread);
        }
        Ok(broker)
    }

    /// The addresses of IP where it listens, in the order of the configuration.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let ip = |bind: &Bind| match bind {
            Bind::Ip(address) => Some(*address),
            Bind::Unix(_) => None,
        };
        self.addresses.iter().filter_map(ip).collect()
    }

    /// Where it listens, in the order of the configuration: with the ports that the system chose.
    #[must_use]
    pub fn listeners(&self) -> &[Bind] {
        &self.addresses
    }

    /// What each shard counts.
    #[must_use]
    pub fn stats(&self) -> &[Arc<ShardStats>] {
        &self.shared.stats
    }

    /// Waits on any thread for one of the broker's that ends by itself.
    #[must_use]
    pub fn watch(&self) -> Watch {
        Watch::new(self.failures.clone())
    }

    /// Stops it: accepts nobody more, tells 5.0 clients (0x8B), publishes wills if so configured, and
    /// writes what waits for clients, for at most `shutdown.timeout`. Returns when all that is to be kept
    /// is stored, or cannot be.
    ///
    /// # Errors
    /// The first thread that had ended by itself, now or earlier.
    pub fn stop(mut self) -> Result<(), ThreadFailure> {
        self.join().into_iter().next().map_or(Ok(()), Err)
    }

    /// Stops it, and gives what failed: the log has said so.
    fn join(&mut self) -> Vec<ThreadFailure> {
        self.shared.stop();
        for bell in &self.bells {
            bell.ring();
        }
        // A panic is caught within the thread.
        let failure = |thread: Handle| thread.join().ok()?.err();
        let mut failures: Vec<_> = self.shards.drain(..).filter_map(failure).collect();
        self.files.clear();
        failures.extend(self.writer.take().and_then(failure));
        failures
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.join();
    }
}

/// What the TLS of each listener goes by.
fn tls_acceptors(config: &Config) -> Result<Vec<Option<Arc<TlsAcceptor>>>, TlsError> {
    let acceptor = |listener: &config::Listener| {
        let Some(tls) = &listener.tls else { return Ok(None) };
        let (settings, user) = tls_settings(tls, listener.websocket.as_ref());
        Ok(Some(TlsAcceptor::new(settings.load()?, user)))
    };
    config.listeners.iter().map(acceptor).collect()
}

/// Clients must not be able to tell which hash they meet.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::time::Duration;

    use super::*;
    use crate::config::{Durability, Listener, Store};

    fn broker() -> Broker {
        broker_with_shards(2)
    }

    fn broker_with_shards(shards: u8) -> Broker {
        let listeners = vec![Listener::on(SocketAddr::from(([127, 0, 0, 1], 0)))];
        let store = Store { durability: Durability::Memory, ..Store::default() };
        let config = Config { shards, listeners, store, ..Config::default() };
        Broker::start(config).expect("a free port")
    }

    #[test]
    fn as_many_shards_as_the_configuration_allows_do_start() {
        let broker = broker_with_shards(crate::shard::MAX_SHARDS);
        assert_eq!(broker.stop(), Ok(()));
    }

    #[test]
    fn an_idle_broker_stops_at_once() {
        let stop = || {
            let broker = broker();
            let start = Instant::now();
            assert_eq!(broker.stop(), Ok(()));
            start.elapsed()
        };
        // A shard that sleeps on in the middle of it takes a second.
        let quick = |_| stop() < Duration::from_millis(300);
        assert!((0..5).any(quick), "all five stops took long");
    }

    /// A hook that panics takes its shard with it: who watches is told, and the stop of the others,
    /// which would wait for a word from it, does not.
    #[test]
    fn a_shard_that_ends_by_itself_is_told() {
        struct Fuse;
        impl crate::hooks::Hook for Fuse {
            fn connected(&self, client: &crate::hooks::Client<'_>, _: bool) {
                panic!("no {}", client.client_id);
            }
        }
        let listeners = vec![Listener::on(SocketAddr::from(([127, 0, 0, 1], 0)))];
        let store = Store { durability: Durability::Memory, ..Store::default() };
        let config = Config { shards: 3, listeners, store, ..Config::default() };
        let hooks = Hooks { hook: Arc::new(Fuse), ..Hooks::default() };
        let broker = Broker::start_with(config, hooks).expect("a free port");
        let watch = broker.watch();
        assert_eq!(answer(&broker, b"\x10\x0D\0\x04MQTT\x04\x02\0\0\0\x01a"), Vec::<u8>::new());
        let failure = watch.wait().expect("it goes by itself");
        assert_eq!(failure.why, "panicked: no a");
        assert!(matches!(failure.thread, BrokerThread::Shard(0..3)), "{failure}");
        let start = Instant::now();
        assert_eq!(broker.stop(), Err(failure));
        assert!(start.elapsed() < Duration::from_secs(5), "took {:?}", start.elapsed());
        assert_eq!(watch.wait(), None, "all have ended");
    }

    #[test]
    fn who_watches_a_broker_that_stops_is_told_nothing() {
        let broker = broker();
        let watch = broker.watch();
        let watching = std::thread::spawn(move || watch.wait());
        assert_eq!(broker.stop(), Ok(()));
        assert_eq!(watching.join().unwrap(), None);
    }

    /// What the broker answers to these bytes, up to the end of the connection.
    fn answer(broker: &Broker, bytes: &[u8]) -> Vec<u8> {
        let mut socket = TcpStream::connect(broker.addresses()[0]).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket.write_all(bytes).unwrap();
        socket.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).unwrap();
        answer
    }

    /// Who cannot be told that it was let in is not [MQTT-3.1.2-24].
    #[test]
    fn a_client_without_room_for_connack_is_refused() {
        let broker = broker();
        let answer = |maximum_packet_size: u8| {
            let head = b"\x10\x12\0\x04MQTT\x05\x02\0\0\x05\x27\0\0\0";
            answer(&broker, &[&head[..], &[maximum_packet_size, 0, 0]].concat())
        };
        let accepted = answer(u8::MAX);
        assert_eq!((accepted[0], accepted[3]), (0x20, 0x00));
        let len = u8::try_from(accepted.len()).unwrap();
        assert_eq!(answer(len).len(), accepted.len());
        for too_few in [len - 1, 5] {
            assert_eq!(answer(too_few), [0x20, 3, 0, 0x95, 0]);
        }
        assert_eq!(answer(4), Vec::<u8>::new());
    }

    /// Its own errors do not count: their reason codes are not DISCONNECT's [MQTT-3.1.0-2].
    #[test]
    fn a_second_connect_is_a_protocol_error() {
        let broker = broker();
        let first = b"\x10\x0D\0\x04MQTT\x05\x02\0\0\0\0\0";
        let seconds: [&[u8]; 3] =
            [first, b"\x10\x0E\0\x06MQIsdp\x03\x02\0\0\0\0", b"\x10\x07\0\x04MQTT\x09"];
        for second in seconds {
            let answer = answer(&broker, &[first, second].concat());
            let connack_len = 2 + usize::from(answer[1]);
            assert_eq!(answer[connack_len], 0xE0);
            assert_eq!(answer[connack_len + 2], 0x82);
        }
    }
}
