//! What lies between MQTT and TCP, as mosquitto_pub and emqtt_bench name it.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Deserialize;
use sluice::net::CertificateFiles;

use crate::engine::{TlsOptions, TlsVersion, USUAL_PATH};

#[derive(Debug, Default, Args)]
#[command(next_help_heading = "TLS")]
pub(crate) struct TlsArgs {
    /// Speak TLS; each of the following says so, too.
    #[arg(short = 'S', long, visible_alias = "ssl")]
    tls: bool,
    /// Trust the CAs in this file (PEM) instead of those that this system trusts.
    #[arg(long, visible_alias = "cacertfile", value_name = "FILE")]
    cafile: Option<PathBuf>,
    /// Show this certificate (PEM).
    #[arg(long, visible_alias = "certfile", value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, visible_alias = "keyfile", value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Take whatever certificate the broker shows.
    #[arg(long)]
    insecure: bool,
    /// The name that the broker's certificate has to be for, instead of the host.
    #[arg(long, value_name = "NAME")]
    servername: Option<String>,
    /// Speak this version alone: 1.2 or 1.3 (without it, both).
    #[arg(long, visible_alias = "ssl-version", value_name = "VERSION")]
    tls_version: Option<TlsVersionArg>,
    /// Resume sessions of earlier connections; without it each handshake is a full one.
    #[arg(long)]
    tls_resume: bool,
}

#[derive(Debug, Default, Args)]
#[command(next_help_heading = "WebSocket")]
pub(crate) struct WebSocketArgs {
    /// Speak WebSocket.
    #[arg(long)]
    ws: bool,
    /// The path that is asked for [default: /mqtt].
    #[arg(long, value_name = "PATH")]
    ws_path: Option<String>,
}

impl WebSocketArgs {
    /// `None` without WebSocket.
    pub(crate) fn path(&self) -> Option<String> {
        let usual = self.ws.then(|| USUAL_PATH.to_owned());
        self.ws_path.clone().or(usual)
    }
}

#[derive(Clone, Copy, Debug, Deserialize, ValueEnum)]
pub(crate) enum TlsVersionArg {
    #[value(name = "1.2", alias = "tlsv1.2")]
    #[serde(rename = "1.2")]
    V12,
    #[value(name = "1.3", alias = "tlsv1.3")]
    #[serde(rename = "1.3")]
    V13,
}

impl From<TlsVersionArg> for TlsVersion {
    fn from(version: TlsVersionArg) -> Self {
        match version {
            TlsVersionArg::V12 => Self::V12,
            TlsVersionArg::V13 => Self::V13,
        }
    }
}

impl TlsArgs {
    /// `None` without TLS.
    pub(crate) fn options(&self) -> Option<TlsOptions> {
        let certificate = self.cert.clone().zip(self.key.clone());
        let options = TlsOptions {
            ca: self.cafile.clone(),
            certificate: certificate.map(|(chain, key)| CertificateFiles { chain, key }),
            insecure: self.insecure,
            server_name: self.servername.clone(),
            version: self.tls_version.map(Into::into),
            resume: self.tls_resume,
        };
        (self.tls || options != TlsOptions::default()).then_some(options)
    }
}
