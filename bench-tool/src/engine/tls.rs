//! TLS of the clients: whom they trust, what they show, and which sessions they resume.

use std::collections::VecDeque;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::tls_verify::{ChecksOnce, TakesAny};
use rustls::client::{
    ClientConfig, ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::{
    AlertDescription, CertificateError, ClientConnection, HandshakeKind, NamedGroup,
    ProtocolVersion, SupportedProtocolVersion, version,
};
use sluice::net::{CertificateFiles, trusted_roots};

/// Where systems keep the CAs that they trust, in PEM; `SSL_CERT_FILE` goes before.
const SYSTEM_CAS: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// Tickets kept at most: one for each of the clients that wait to come again.
const MAX_TICKETS: usize = 100_000;

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TlsOptions {
    /// Whose certificates are good, in PEM; `None`: those that this system trusts.
    pub(crate) ca: Option<PathBuf>,
    /// What the clients show of themselves.
    pub(crate) certificate: Option<CertificateFiles>,
    /// Whatever the broker shows is good.
    pub(crate) insecure: bool,
    /// What the broker's certificate has to be for, instead of the host.
    pub(crate) server_name: Option<String>,
    /// Only this one; `None`: 1.2 and 1.3.
    pub(crate) version: Option<TlsVersion>,
    /// Sessions of earlier connections are resumed.
    pub(crate) resume: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TlsVersion {
    V12,
    V13,
}

/// What all clients of a run go by.
#[derive(Debug)]
pub(crate) struct TlsClient {
    pub(super) config: Arc<ClientConfig>,
    pub(super) name: ServerName<'static>,
    full: AtomicU64,
    resumed: AtomicU64,
    /// Version and cipher suite of the first connection.
    spoken: OnceLock<String>,
}

impl TlsOptions {
    /// Reads the files; `host` is where the broker is.
    ///
    /// # Errors
    /// What is wrong with which file, in one line.
    pub(crate) fn load(&self, host: &str) -> Result<TlsClient, String> {
        let name = self.server_name.as_deref().unwrap_or(host);
        let name = ServerName::try_from(name.to_owned())
            .map_err(|_| format!("\"{name}\" is no name of a server"))?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let versions: &[&SupportedProtocolVersion] = match self.version {
            None => &[&version::TLS13, &version::TLS12],
            Some(TlsVersion::V12) => &[&version::TLS12],
            Some(TlsVersion::V13) => &[&version::TLS13],
        };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(|error| error.to_string())?;
        let builder = if self.insecure {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(TakesAny::new(provider)))
        } else {
            let ca = self.ca.clone().map_or_else(system_cas, Ok)?;
            let roots = trusted_roots(&ca).map_err(|error| error.to_string())?;
            let verifier = ChecksOnce::new(roots, provider).map_err(|error| error.to_string())?;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        };
        let mut config = match &self.certificate {
            None => builder.with_no_client_auth(),
            Some(files) => {
                let (chain, key) = files.read().map_err(|error| error.to_string())?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| format!("{}: {error}", files.key.display()))?
            }
        };
        config.resumption = match self.resume {
            true => Resumption::store(Arc::new(Sessions::default())),
            false => Resumption::disabled(),
        };
        Ok(TlsClient {
            config: Arc::new(config),
            name,
            full: AtomicU64::new(0),
            resumed: AtomicU64::new(0),
            spoken: OnceLock::new(),
        })
    }
}

fn system_cas() -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os("SSL_CERT_FILE") {
        return Ok(path.into());
    }
    let found = SYSTEM_CAS.iter().map(Path::new).find(|path| path.is_file());
    found
        .map(Path::to_owned)
        .ok_or_else(|| "this system has no file of CAs that it trusts: name one (--cafile)".into())
}

impl TlsClient {
    /// Counts a handshake that is done.
    pub(super) fn note(&self, session: &ClientConnection) {
        let count = match session.handshake_kind() {
            Some(HandshakeKind::Resumed) => &self.resumed,
            _ => &self.full,
        };
        count.fetch_add(1, Ordering::Relaxed);
        self.spoken.get_or_init(|| {
            let version = match session.protocol_version() {
                Some(ProtocolVersion::TLSv1_3) => "TLS 1.3",
                _ => "TLS 1.2",
            };
            let suite = session.negotiated_cipher_suite().map(|suite| suite.suite());
            let suite = suite.and_then(|suite| suite.as_str()).unwrap_or_default();
            format!("{version}, {suite}")
        });
    }

    /// What was agreed on, and how often.
    pub(crate) fn describe(&self) -> String {
        let (full, resumed) =
            (self.full.load(Ordering::Relaxed), self.resumed.load(Ordering::Relaxed));
        let spoken = self.spoken.get().map_or("", String::as_str);
        format!("{spoken}, {full} full handshakes, {resumed} resumed")
    }
}

/// What went wrong, in words that say what to do about it.
pub(super) fn describe(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(error) => certificate(error),
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::CertificateRequired => {
                "the broker asks for a certificate (--cert, --key)".into()
            }
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::DecryptError => {
                format!("the broker refuses the client's certificate: {alert:?}")
            }
            AlertDescription::ProtocolVersion => "the broker does not speak this version".into(),
            AlertDescription::UnrecognisedName => {
                "the broker does not know this name (--servername)".into()
            }
            other => format!("the broker ends it: {other:?}"),
        },
        rustls::Error::InvalidMessage(_) => "what the broker sends is no TLS".into(),
        other => other.to_string(),
    }
}

fn certificate(error: &CertificateError) -> String {
    let broker = "the broker's certificate";
    match error {
        // The latter is another CA of the same name.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            format!("{broker} is of no CA that is trusted (--cafile)")
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("{broker} has expired")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!("{broker} is not valid yet")
        }
        CertificateError::NotValidForNameContext { expected, .. } => {
            format!("{broker} is not for {} (--servername)", expected.to_str())
        }
        other => format!("{broker}: {other}"),
    }
}

/// Sessions with the one broker of a run. Each ticket of 1.3 is used once; the session of 1.2 by all.
#[derive(Default)]
struct Sessions(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    group: Option<NamedGroup>,
    session: Option<Tls12ClientSessionValue>,
    tickets: VecDeque<Tls13ClientSessionValue>,
}

impl Sessions {
    fn with<T>(&self, act: impl FnOnce(&mut Kept) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").finish_non_exhaustive()
    }
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, _name: ServerName<'static>, group: NamedGroup) {
        self.with(|kept| kept.group = Some(group));
    }

    fn kx_hint(&self, _name: &ServerName<'_>) -> Option<NamedGroup> {
        self.with(|kept| kept.group)
    }

    fn set_tls12_session(&self, _name: ServerName<'static>, session: Tls12ClientSessionValue) {
        self.with(|kept| kept.session = Some(session));
    }

    fn tls12_session(&self, _name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.with(|kept| kept.session.clone())
    }

    fn remove_tls12_session(&self, _name: &ServerName<'static>) {
        self.with(|kept| kept.session = None);
    }

    fn insert_tls13_ticket(&self, _name: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        self.with(|kept| {
            if kept.tickets.len() < MAX_TICKETS {
                kept.tickets.push_back(ticket);
            }
        });
    }

    fn take_tls13_ticket(&self, _name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.with(|kept| kept.tickets.pop_front())
    }
}
