//! Where a broker is, and what MQTT travels over on the way there.

use std::net::SocketAddr;
use std::sync::Arc;

use serde::Deserialize;

use super::tls::TlsClient;
use super::web_socket::WebSocketTarget;

/// What carries MQTT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Carrier {
    #[default]
    Tcp,
    Tls,
    /// WebSocket over TCP.
    Ws,
    /// WebSocket over TLS.
    Wss,
}

/// How to reach a broker.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    pub(crate) tls: Option<Arc<TlsClient>>,
    pub(crate) web_socket: Option<WebSocketTarget>,
}

impl Carrier {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }

    /// Of an address; those of mosquitto_pub and of emqtt_bench, too.
    pub(crate) fn of_scheme(scheme: &str) -> Option<Self> {
        match scheme {
            "tcp" | "mqtt" => Some(Self::Tcp),
            "tls" | "mqtts" | "ssl" => Some(Self::Tls),
            "ws" => Some(Self::Ws),
            "wss" => Some(Self::Wss),
            _ => None,
        }
    }

    /// The port that brokers usually have for it.
    pub(crate) fn usual_port(self) -> u16 {
        match self {
            Self::Tcp => 1883,
            Self::Tls => 8883,
            Self::Ws => 8083,
            Self::Wss => 8084,
        }
    }

    /// What these two make together.
    pub(crate) fn of(is_tls: bool, is_web_socket: bool) -> Self {
        match (is_tls, is_web_socket) {
            (false, false) => Self::Tcp,
            (true, false) => Self::Tls,
            (false, true) => Self::Ws,
            (true, true) => Self::Wss,
        }
    }

    /// What may be wrong if nothing sensible comes back.
    pub(super) fn doubt(self) -> &'static str {
        match self {
            Self::Tcp => "is that port for TLS (--tls) or WebSocket (--ws)?",
            Self::Tls => "does that port speak TLS, and without WebSocket (--ws)?",
            Self::Ws => "does that port speak WebSocket, and without TLS (--tls)?",
            Self::Wss => "does that port speak WebSocket, and over TLS?",
        }
    }

    pub(crate) fn is_tls(self) -> bool {
        matches!(self, Self::Tls | Self::Wss)
    }

    pub(crate) fn is_web_socket(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }
}

impl Endpoint {
    pub(crate) fn carrier(&self) -> Carrier {
        Carrier::of(self.tls.is_some(), self.web_socket.is_some())
    }

    /// What there is to tell of the connections, by name.
    pub(crate) fn remark(&self) -> Option<(&'static str, String)> {
        self.tls.as_ref().map(|tls| ("TLS", tls.describe()))
    }
}
