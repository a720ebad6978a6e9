//! Why a connection ended, and why a run cannot go on.

use std::io;
use std::net::SocketAddr;

use sluice::mqtt::{DecodeError, QoS, ReasonCode};
use sluice::net::ws;

use super::tls;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Socket(io::Error),
    #[error("TLS: {}", tls::describe(.0))]
    Tls(rustls::Error),
    #[error("WebSocket: {0}")]
    WebSocket(String),
    #[error("WebSocket: {0}")]
    NoWebSocket(String),
    #[error("closed by the broker in the middle of the handshake")]
    ClosedInHandshake,
    #[error("the broker answers with TLS, which was not asked for (--tls)")]
    SpeaksTls,
    #[error("the broker answers with HTTP: that is a port for WebSocket (--ws)")]
    SpeaksHttp,
    #[error("closed by the broker")]
    ClosedByBroker,
    #[error("connection refused by the broker: {}", .0.name())]
    Refused(ReasonCode),
    #[error("subscription refused with 0x{0:02x}")]
    NotSubscribed(u8),
    #[error("disconnected by the broker: {}", .0.name())]
    Disconnected(ReasonCode),
    #[error("the broker sent what is no MQTT: {0}")]
    Codec(#[from] DecodeError),
    #[error("PINGREQ was not answered in time")]
    NoPingResp,
    #[error("a PUBLISH of {frame} bytes, and the broker takes {most} at most")]
    LargerThanMaximum { frame: usize, most: u32 },
    #[error("the broker does not take QoS {}", .0.as_u8())]
    QosNotSupported(QoS),
    #[error("the broker does not take retained messages")]
    RetainNotSupported,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let inner = error.get_ref();
        match inner.and_then(|inner| inner.downcast_ref::<ws::HandshakeError>()) {
            Some(answer @ ws::HandshakeError::Answer(_)) => {
                return Self::NoWebSocket(answer.to_string());
            }
            Some(refusal) => return Self::WebSocket(refusal.to_string()),
            None => {}
        }
        if inner.is_some_and(|inner| inner.is::<ws::Violation>()) {
            return Self::WebSocket(error.to_string());
        }
        match error.downcast() {
            Ok(error) => Self::Tls(error),
            Err(error) => Self::Socket(error),
        }
    }
}

impl Failure {
    /// Whether this is how it ends when a port is for something else than what is spoken there.
    pub(super) fn may_be_another_carrier(&self) -> bool {
        match self {
            Self::Socket(error) => {
                matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
            }
            Self::Tls(error) => matches!(error, rustls::Error::InvalidMessage(_)),
            Self::NoWebSocket(_) | Self::ClosedInHandshake | Self::ClosedByBroker => true,
            Self::Codec(_) => true,
            _ => false,
        }
    }
}

/// Why a run cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{failed} of {clients} clients could not connect to {address}, the first: {first}")]
    NotConnected { failed: u64, clients: usize, address: SocketAddr, first: String },
    #[error(
        "{missing} of {clients} clients were still not connected to {address} after {seconds} s without progress{hint}"
    )]
    ConnectTimeout {
        missing: u64,
        clients: usize,
        address: SocketAddr,
        seconds: u64,
        /// What may be the reason, if nobody got in.
        hint: String,
    },
    #[error("interrupted")]
    Interrupted,
}
