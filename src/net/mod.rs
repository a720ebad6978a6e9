//! Bytes in and out: the driver seam, its implementations, and the transports.
//!
//! An event loop talks to a [`Driver`] in completions and never sees a socket: [`MioDriver`] moves real
//! bytes.

mod acceptor;
mod arena;
mod driver;
mod kept;
mod mio_driver;
mod slots;
mod tcp;

pub use arena::Arena;
pub use driver::{
    ACCEPTS_PER_TURN, CloseCause, CloseMode, Completion, ConnId, Driver, LARGE_FRAME, READ_CHUNK,
    Wake,
};
pub use mio_driver::{MioDriver, MioSocket, MioWaker};
pub use tcp::{ListenOptions, bind, bind_group};
