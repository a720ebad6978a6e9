//! From certificates and keys in files to what TLS goes by.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerConfig, VerifierBuilderError,
    WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, SupportedProtocolVersion, version};

use super::certificate::{dns_names, is_for};

/// What a listener of TLS is set up with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// Certificates with their keys. A client that names a host gets the first that is for it, others the
    /// first.
    pub certificates: Vec<CertificateFiles>,
    /// Whether clients show certificates.
    pub clients: ClientCertificates,
    /// Whether only TLS 1.3 is spoken; otherwise 1.2 is, too.
    pub only_1_3: bool,
    /// What is spoken within: [`ALPN_MQTT`] or [`ALPN_HTTP`].
    pub alpn: &'static [u8],
}

/// MQTT, to clients that ask what is spoken within TLS.
pub const ALPN_MQTT: &[u8] = b"mqtt";
/// HTTP, and WebSocket that begins with it.
pub const ALPN_HTTP: &[u8] = b"http/1.1";

/// A certificate and its key, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate, and those between it and the CA behind it.
    pub chain: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Whether clients show certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientCertificates {
    /// They are not asked to.
    None,
    /// They are, and those who have none go on without.
    Optional(ClientCa),
    /// Who has none does not come in.
    Required(ClientCa),
}

/// Whose certificates are good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCa {
    /// The CA's certificate, or several, in PEM.
    pub ca: PathBuf,
    /// What the CA has revoked, in PEM.
    pub crl: Option<PathBuf>,
}

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or has not in it what it should.
    #[error("{path}: {message}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
}

fn wrong(path: &Path, message: impl ToString) -> TlsError {
    TlsError::File { path: path.to_owned(), message: message.to_string() }
}

impl TlsSettings {
    /// Reads the files, and checks that they go together.
    ///
    /// # Errors
    /// What is wrong with which file.
    pub fn load(&self) -> Result<Arc<ServerConfig>, TlsError> {
        const BOTH: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];
        const ONLY_1_3: &[&SupportedProtocolVersion] = &[&version::TLS13];
        let provider = Arc::new(aws_lc_rs::default_provider());
        let versions = if self.only_1_3 { ONLY_1_3 } else { BOTH };
        let certificates = self.certificates.iter().map(CertificateFiles::load);
        let certificates = Certificates(certificates.collect::<Result<_, _>>()?);
        let first = self.certificates.first().map(|files| files.chain.clone()).unwrap_or_default();
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .map_err(|error| wrong(&first, error))?;
        let builder = match &self.clients {
            ClientCertificates::None => builder.with_no_client_auth(),
            ClientCertificates::Optional(ca) | ClientCertificates::Required(ca) => {
                let roots = Arc::new(trusted_roots(&ca.ca)?);
                let crls = ca.revocations()?;
                let mut verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                    .with_crls(crls)
                    .only_check_end_entity_revocation();
                if matches!(self.clients, ClientCertificates::Optional(_)) {
                    verifier = verifier.allow_unauthenticated();
                }
                let verifier = verifier.build().map_err(|error| match (&error, &ca.crl) {
                    (VerifierBuilderError::InvalidCrl(_), Some(crl)) => wrong(crl, error),
                    _ => wrong(&ca.ca, error),
                })?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(certificates));
        config.alpn_protocols = vec![self.alpn.to_vec()];
        // Tickets are the client's to keep, so that any shard can resume. The keys are new with each load:
        // who was let in under other rules shows its certificate again.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = aws_lc_rs::Ticketer::new().map_err(|error| wrong(&first, error))?;
        config.send_tls13_tickets = 1;
        Ok(Arc::new(config))
    }
}

impl CertificateFiles {
    /// Reads both.
    ///
    /// # Errors
    /// What is wrong with which file.
    pub fn read(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
        let chain = read_pem(&self.chain, "certificate")?;
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|error| wrong(&self.key, pem_message(&error, "private key")))?;
        Ok((chain, key))
    }

    fn load(&self) -> Result<Served, TlsError> {
        let (chain, key) = self.read()?;
        let names = chain.first().map(|first| dns_names(first)).unwrap_or_default();
        let key = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map_err(
            |error| wrong(&self.key, format!("does not go with the certificate: {error}")),
        )?;
        Ok(Served { names, key: Arc::new(key) })
    }
}

/// The CAs in a PEM file; at least one.
///
/// # Errors
/// What is wrong with the file.
pub fn trusted_roots(ca: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in read_pem(ca, "certificate")? {
        roots.add(certificate).map_err(|error| wrong(ca, error))?;
    }
    Ok(roots)
}

impl ClientCa {
    fn revocations(&self) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
        match &self.crl {
            Some(path) => read_pem(path, "CRL"),
            None => Ok(Vec::new()),
        }
    }
}

/// All that a PEM file has of one kind; at least one.
fn read_pem<T: PemObject>(path: &Path, what: &str) -> Result<Vec<T>, TlsError> {
    let items = T::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<T>, _>>);
    let items = items.map_err(|error| wrong(path, pem_message(&error, what)))?;
    if items.is_empty() {
        return Err(wrong(path, format!("has no {what} in PEM in it")));
    }
    Ok(items)
}

fn pem_message(error: &pem::Error, what: &str) -> String {
    match error {
        pem::Error::Io(error) if error.kind() == io::ErrorKind::NotFound => {
            "is not there".to_owned()
        }
        pem::Error::Io(error) => format!("cannot be read: {error}"),
        pem::Error::NoItemsFound => format!("has no {what} in PEM in it"),
        other => format!("is no good PEM: {other}"),
    }
}

/// A certificate, and the hosts it is for.
#[derive(Debug)]
struct Served {
    names: Vec<String>,
    key: Arc<CertifiedKey>,
}

#[derive(Debug)]
struct Certificates(Vec<Served>);

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let host = hello.server_name().map(str::to_ascii_lowercase);
        let named = host.and_then(|host| {
            self.0.iter().find(|served| served.names.iter().any(|name| is_for(name, &host)))
        });
        named.or(self.0.first()).map(|served| served.key.clone())
    }
}
