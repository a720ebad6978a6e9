//! Bytes in and out: the driver seam, its implementations, and the transports.
//!
//! An event loop talks to a [`Driver`] in completions and never sees a socket: [`MioDriver`] moves real
//! bytes, [`sim`] is a network in memory with virtual time and seeded faults.

mod acceptor;
mod arena;
mod certificate;
mod driver;
mod kept;
mod mio_driver;
pub mod proxy;
pub mod sim;
mod slots;
mod tcp;
mod tls;
mod tls_config;
mod tls_stream;
mod unix;
pub mod ws;

pub use acceptor::{ListenSocket, Listening};
pub use arena::Arena;
pub use certificate::{CertificateUser, ClientCertificate};
pub use driver::{
    ACCEPTS_PER_TURN, CloseCause, CloseMode, Completion, ConnId, Driver, LARGE_FRAME, READ_CHUNK,
    Turnstile, Wake,
};
pub use mio_driver::{MioDriver, MioSocket, MioWaker};
pub use tcp::{KeepAlive, ListenOptions, bind, bind_group};
pub use tls::TlsAcceptor;
pub use tls_config::{
    ALPN_HTTP, ALPN_MQTT, CertificateFiles, ClientCa, ClientCertificates, TlsError, TlsSettings,
    trusted_roots,
};
pub use tls_stream::TlsStream;
pub use unix::{SocketFile, bind_unix};
