//! What certificates say: of a client, which user it is; of a server, which names it serves.

use std::sync::Arc;

use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Which name of a client's certificate is its user name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CertificateUser {
    /// None: a certificate lets a client as far as the next link.
    #[default]
    None,
    /// The Common Name of its subject.
    CommonName,
    /// The first DNS name, e-mail address or URI of its Subject Alternative Name.
    SubjectAlternativeName,
}

/// The name in a client's certificate, which is verified: the one that may be a user name; if none may, the
/// Common Name of its subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The name.
    pub name: Arc<str>,
    /// Whether it is the client's user name.
    pub is_user: bool,
}

impl ClientCertificate {
    /// The user it names.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.is_user.then_some(&*self.name)
    }

    /// `None` if there is no such name in the certificate.
    pub(super) fn read(der: &[u8], which: CertificateUser) -> Option<Self> {
        let name = name_in(der, which)?.into();
        Some(Self { name, is_user: which != CertificateUser::None })
    }
}

fn name_in(der: &[u8], which: CertificateUser) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let name = match which {
        CertificateUser::None | CertificateUser::CommonName => {
            let name = certificate.subject().iter_common_name().next()?;
            name.as_str().ok().map(str::to_owned)
        }
        CertificateUser::SubjectAlternativeName => {
            let names = certificate.subject_alternative_name().ok()??;
            names.value.general_names.iter().find_map(|name| match name {
                GeneralName::DNSName(name)
                | GeneralName::RFC822Name(name)
                | GeneralName::URI(name) => Some((*name).to_owned()),
                _ => None,
            })
        }
    };
    name.filter(|name| !name.is_empty() && !name.contains(char::is_control))
}

/// The host names that a server's certificate is for, in small letters.
pub(super) fn dns_names(der: &[u8]) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return Vec::new() };
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let names = names.value.general_names.iter();
    names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        })
        .collect()
}

/// Whether a certificate's name is one for this host: the same, or `*` in the place of its first label.
pub(super) fn is_for(name: &str, host: &str) -> bool {
    match name.strip_prefix("*.") {
        None => name == host,
        Some(domain) => {
            host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == domain)
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn certificate(common_name: &str, alternatives: &[SanType]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.subject_alt_names = alternatives.to_vec();
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn names_of_a_client() {
        use CertificateUser::{CommonName, None as Nobody, SubjectAlternativeName};
        let email = SanType::Rfc822Name("ann@example.com".try_into().unwrap());
        let ip = SanType::IpAddress([127, 0, 0, 1].into());
        let ann = certificate("ann", &[ip, email]);
        for (which, name, is_user) in [
            (CommonName, "ann", true),
            (SubjectAlternativeName, "ann@example.com", true),
            (Nobody, "ann", false),
        ] {
            let read = ClientCertificate::read(&ann, which);
            assert_eq!(read, Some(ClientCertificate { name: name.into(), is_user }));
            assert_eq!(read.unwrap().user(), is_user.then_some(name));
        }
        let bare = certificate("", &[]);
        assert_eq!(
            [CommonName, SubjectAlternativeName, Nobody].map(|which| name_in(&bare, which)),
            [None, None, None]
        );
        assert_eq!(name_in(&certificate("a\nb", &[]), CommonName), None);
        for cut in 0..ann.len() {
            assert_eq!(name_in(&ann[..cut], CommonName), None);
        }
    }

    #[test]
    fn hosts_of_a_server() {
        let names =
            ["Example.com", "*.example.org"].map(|name| SanType::DnsName(name.try_into().unwrap()));
        let names = dns_names(&certificate("x", &names));
        assert_eq!(names, ["example.com", "*.example.org"]);
        for (name, host, is) in [
            ("example.com", "example.com", true),
            ("example.com", "a.example.com", false),
            ("*.example.org", "a.example.org", true),
            ("*.example.org", "a.b.example.org", false),
            ("*.example.org", "example.org", false),
            ("*.example.org", ".example.org", false),
        ] {
            assert_eq!(is_for(name, host), is, "{name} {host}");
        }
    }
}
