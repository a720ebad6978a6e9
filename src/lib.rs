//! Sluice, an MQTT 3.1, 3.1.1 and 5.0 broker on sharded event loops.
//!
//! The modules stand in layer order; a module imports only from those above it in this list.

// Layer 1: the wire and the clockless tools.
pub mod mqtt;
pub mod timer;

// Layer 3: bytes in and out, credentials, stores.
pub mod net;
// Layer 2: one client, and who wants what.
pub mod session;
// Layer 2: the protocol without sockets, threads and clocks.
pub mod hooks;

// Layer 5: what people touch.
pub mod config;

// Layer 6: everything put together.
pub mod server;

pub use config::Config;
pub use server::{Broker, StartError};
