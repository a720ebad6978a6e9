//! Sluice, an MQTT 3.1, 3.1.1 and 5.0 broker on sharded event loops.
//!
//! The program `sluice` is this library behind a command line. Another program can have a broker
//! within itself, and code of its own at the broker's ports:
//!
//! ```
//! use std::sync::Arc;
//!
//! use sluice::hooks::{Answer, Asking, Authenticator, Client, Decision, Denial, Hook, Hooks};
//! use sluice::{Broker, Config};
//!
//! /// Only clients of the fleet come in.
//! struct Fleet;
//!
//! impl Authenticator for Fleet {
//!     fn authenticate(&self, client: &Client<'_>, _: Option<&[u8]>, _: Asking<'_>) -> Answer {
//!         Answer::Now(match client.client_id.starts_with("fleet-") {
//!             true => Decision::Allow,
//!             false => Decision::Deny(Denial::NotAuthorized),
//!         })
//!     }
//! }
//!
//! /// Is told who does.
//! struct Roll;
//!
//! impl Hook for Roll {
//!     fn connected(&self, client: &Client<'_>, _session_present: bool) {
//!         println!("{} from {}", client.client_id, client.peer);
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let settings = r#"
//!     shards = 2
//!     [[listener]]
//!     bind = "127.0.0.1:0"
//! "#;
//! let config = Config::parse("broker.toml", settings, std::env::vars())?;
//! let authenticator = Some(Arc::new(Fleet) as Arc<dyn Authenticator>);
//! let hooks = Hooks { hook: Arc::new(Roll), authenticator, ..Hooks::default() };
//! let broker = Broker::start_with(config, hooks)?;
//! println!("clients are welcome at {}", broker.addresses()[0]);
//!
//! // ... until the program ends:
//! broker.stop()?;
//! # Ok(())
//! # }
//! ```
//!
//! - [`Config`] holds every setting with its default. It is read by [`Config::parse`], or made by
//!   hand; nothing else reads files or variables. Log lines are events of `tracing`, which the
//!   program shows or not.
//! - [`Broker`] runs on threads of its own and leaves signals and the limit on open files to the
//!   program. [`Broker::watch`] tells of a thread of it that ended by itself, [`Broker::stats`]
//!   what is counted.
//! - [`run`] does all that the program `sluice` does, with [`Hooks`](hooks::Hooks): for a broker of
//!   one's own that is nothing else.
//!
//! These, [`config`] and [`hooks`] are the face of the library. The other modules are its inside,
//! public for the tests, benchmarks and tools of this repository, and change as it needs.
//!
//! The modules stand in layer order; a module imports only from layers above its own in this list.

// Layer 0: memory.
pub mod chunks;

// Layer 1: time, without a clock.
pub mod timer;

// Layer 2: the wire.
pub mod mqtt;

// Layer 3: the protocol without sockets, threads and clocks.
pub mod hooks;
pub mod router;
pub mod session;

// Layer 4: bytes in and out, and who may send them.
pub mod auth;
pub mod net;
pub mod store;

// Layer 5: one event loop.
pub mod shard;

// Layer 6: what people touch.
pub mod config;

// Layer 7: everything put together.
pub mod server;

pub use config::{Config, ConfigError};
pub use server::{Broker, BrokerThread, RunError, StartError, ThreadFailure, Watch, run};
pub use shard::{Counter, ShardStats};
