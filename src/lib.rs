//! Sluice, an MQTT 3.1, 3.1.1 and 5.0 broker on sharded event loops.
//!
//! The modules stand in layer order; a module imports only from those above it in this list.

// Layer 1: the wire and the clockless tools.
pub mod mqtt;
pub mod timer;

// Layer 2: one client's state, and who wants a message.
pub mod router;
