//! Where a broker is, and what MQTT travels over on the way there.

use std::net::SocketAddr;
use std::sync::Arc;

use serde::Deserialize;

use super::tls::TlsClient;

/// What carries MQTT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Carrier {
    #[default]
    Tcp,
    Tls,
}

/// How to reach a broker.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    pub(crate) tls: Option<Arc<TlsClient>>,
}

impl Carrier {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }

    /// Of an address; those of mosquitto_pub and of emqtt_bench, too.
    pub(crate) fn of_scheme(scheme: &str) -> Option<Self> {
        match scheme {
            "tcp" | "mqtt" => Some(Self::Tcp),
            "tls" | "mqtts" | "ssl" => Some(Self::Tls),
            _ => None,
        }
    }

    /// The port that brokers usually have for it.
    pub(crate) fn usual_port(self) -> u16 {
        match self {
            Self::Tcp => 1883,
            Self::Tls => 8883,
        }
    }
}

impl Endpoint {
    pub(crate) fn carrier(&self) -> Carrier {
        if self.tls.is_some() { Carrier::Tls } else { Carrier::Tcp }
    }

    /// What there is to tell of the connections, by name.
    pub(crate) fn remark(&self) -> Option<(&'static str, String)> {
        self.tls.as_ref().map(|tls| ("TLS", tls.describe()))
    }
}
