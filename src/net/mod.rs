//! Bytes in and out: the driver seam, its implementations, and the transports.
//!
//! An event loop talks to a [`Driver`] in completions and never sees a socket.

mod arena;
mod driver;

pub use arena::Arena;
pub use driver::{
    ACCEPTS_PER_TURN, CloseCause, CloseMode, Completion, ConnId, Driver, LARGE_FRAME, READ_CHUNK,
    Wake,
};
