//! Sluice, an MQTT 3.1, 3.1.1 and 5.0 broker on sharded event loops.
//!
//! The modules stand in layer order; a module imports only from layers above its own in this list.

// Layer 0: time, without a clock.
pub mod timer;

// Layer 1: the wire.
pub mod mqtt;

// Layer 2: the protocol without sockets, threads and clocks.
pub mod hooks;
pub mod router;
pub mod session;

// Layer 3: bytes in and out, and who may send them.
pub mod auth;
pub mod net;
pub mod store;

// Layer 4: one event loop.
pub mod shard;

// Layer 5: what people touch.
pub mod config;

// Layer 6: everything put together.
pub mod server;

pub use config::Config;
pub use hooks::Hook;
pub use server::{Broker, StartError};
