//! `sluice certs`: a CA of one's own and what it has signed, to try TLS with.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use clap::Args;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// Which certificates to make.
#[derive(Clone, Debug, Args)]
pub struct Certs {
    /// The directory to write them to, which is made if need be
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,

    /// A name or address the server is reached by, besides localhost; may be given several times
    #[arg(long, value_name = "NAME")]
    pub host: Vec<String>,

    /// The name of the client
    #[arg(long, value_name = "NAME", default_value = "client")]
    pub client: String,
}

/// Why there are no certificates.
#[derive(Debug, thiserror::Error)]
pub enum CertsError {
    /// A name cannot stand in a certificate.
    #[error("cannot make a certificate with these names: {0}")]
    Certificate(#[from] rcgen::Error),
    /// A file is there already, and none is written over.
    #[error("{0}: is there already; name another directory, or remove it")]
    Exists(PathBuf),
    /// A file cannot be written.
    #[error("{path}: cannot be written: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

impl Certs {
    /// Makes a CA, a certificate for the server and one for a client, each with its key; says how to use
    /// them.
    ///
    /// # Errors
    /// A name is no good, or a file is there already.
    pub fn run(&self) -> Result<String, CertsError> {
        let mut ca = named("Sluice development CA")?;
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca_key = KeyPair::generate()?;
        let ca_pem = ca.self_signed(&ca_key)?.pem();
        let issuer = Issuer::new(ca, &ca_key);

        let hosts = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let mut server = CertificateParams::new([&hosts[..], &self.host].concat())?;
        server.distinguished_name.push(DnType::CommonName, "localhost");
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let server_key = KeyPair::generate()?;
        let server_pem = server.signed_by(&server_key, &issuer)?.pem();

        let mut client = named(&self.client)?;
        client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let client_key = KeyPair::generate()?;
        let client_pem = client.signed_by(&client_key, &issuer)?.pem();

        let dir_error = |error| CertsError::File { path: self.out.clone(), error };
        std::fs::create_dir_all(&self.out).map_err(dir_error)?;
        let files = [
            ("ca.pem", ca_pem, 0o644),
            ("ca.key", ca_key.serialize_pem(), 0o600),
            ("server.pem", server_pem, 0o644),
            ("server.key", server_key.serialize_pem(), 0o600),
            ("client.pem", client_pem, 0o644),
            ("client.key", client_key.serialize_pem(), 0o600),
        ];
        // What is left from another time would not fit what is new.
        if let Some(there) = files
            .each_ref()
            .map(|file| self.out.join(file.0))
            .into_iter()
            .find(|path| path.exists())
        {
            return Err(CertsError::Exists(there));
        }
        for (name, text, mode) in files {
            self.write(name, &text, mode)?;
        }
        Ok(self.advice())
    }

    fn write(&self, name: &str, text: &str, mode: u32) -> Result<(), CertsError> {
        let path = self.out.join(name);
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path);
        file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| {
            match error.kind() {
                io::ErrorKind::AlreadyExists => CertsError::Exists(path),
                _ => CertsError::File { path, error },
            }
        })
    }

    fn advice(&self) -> String {
        let dir = self.out.display();
        format!(
            "{dir}: ca, server and client, each a .pem and a .key; for trying, not for keeping\n\n\
             In the configuration:\n\n\
             [[listener]]\nbind = \"127.0.0.1:8883\"\n[listener.tls]\n\
             certificate = \"{dir}/server.pem\"\nkey = \"{dir}/server.key\"\n\n\
             Then:\n\n\
             mosquitto_sub -p 8883 --cafile {dir}/ca.pem -t '#' -v\n"
        )
    }
}

fn named(common_name: &str) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, common_name);
    Ok(params)
}
