//! SCRAM-SHA-256 (RFC 5802, RFC 7677): the messages, and the server's side of an exchange. Without
//! channel binding, which MQTT does not define.
//!
//! Whoever has what is stored here cannot log in with it, and whoever listens cannot find the password
//! faster than by trying. The long computation is the client's; the server's is two HMACs.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// The Authentication Method.
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";

/// The longest message that is read. A longer one is refused.
pub const MAX_SCRAM_MESSAGE: usize = 4096;

/// The length of a hash, and so of keys and proofs.
pub(super) const KEY_LEN: usize = 32;
pub(super) type Key = [u8; KEY_LEN];

/// What is wrong with a message. The client is told nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// The first message of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFirst<'a> {
    /// What it says of channel binding and of the user to act for; it says it again later.
    pub header: &'a str,
    /// The rest.
    pub bare: &'a str,
    /// The user, its escapes undone.
    pub user: String,
    /// The user to act for, if it names one.
    pub act_for: Option<String>,
    /// What it has made up.
    pub nonce: &'a str,
}

/// The last message of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFinal<'a> {
    /// The header of its first message again.
    pub header: Vec<u8>,
    /// What both sides have made up.
    pub nonce: &'a str,
    /// All of the message but the proof.
    pub without_proof: &'a str,
    /// The proof that it knows the password.
    pub proof: Key,
}

impl<'a> ClientFirst<'a> {
    /// Reads `n,,n=user,r=nonce`; further attributes are passed over (RFC 5802, 5.1), but `m`.
    ///
    /// # Errors
    /// It is malformed, or demands channel binding or an extension.
    pub fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let text = text(message)?;
        let (binding, rest) = text.split_once(',').ok_or(Malformed("cut short"))?;
        match binding {
            "n" | "y" => {}
            _ if binding.starts_with("p=") => return Err(Malformed("demands channel binding")),
            _ => return Err(Malformed("says nothing of channel binding")),
        }
        let (act_for, bare) = rest.split_once(',').ok_or(Malformed("cut short"))?;
        let act_for = match act_for {
            "" => None,
            named => Some(name(named.strip_prefix("a=").ok_or(Malformed("is out of order"))?)?),
        };
        let header = text.get(..text.len() - bare.len()).unwrap_or_default();
        let mut attributes = bare.split(',');
        let user = name(attribute(attributes.next(), "n=")?)?;
        let nonce = attribute(attributes.next(), "r=")?;
        if !nonce.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Malformed("has a nonce that cannot be printed"));
        }
        extensions(attributes)?;
        Ok(Self { header, bare, user, act_for, nonce })
    }
}

impl<'a> ClientFinal<'a> {
    /// Reads `c=biws,r=nonce,p=proof`; further attributes before the proof are passed over.
    ///
    /// # Errors
    /// It is malformed.
    pub fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let (without_proof, proof) =
            text(message)?.rsplit_once(",p=").ok_or(Malformed("has no proof at its end"))?;
        let proof = BASE64.decode(proof).ok().and_then(|proof| proof.try_into().ok());
        let proof = proof.ok_or(Malformed("has a proof that is none"))?;
        let mut attributes = without_proof.split(',');
        let header = BASE64.decode(attribute(attributes.next(), "c=")?);
        let header = header.map_err(|_| Malformed("is not base 64"))?;
        let nonce = attribute(attributes.next(), "r=")?;
        extensions(attributes)?;
        Ok(Self { header, nonce, without_proof, proof })
    }
}

fn text(message: &[u8]) -> Result<&str, Malformed> {
    if message.len() > MAX_SCRAM_MESSAGE {
        return Err(Malformed("is too long"));
    }
    let text = std::str::from_utf8(message).map_err(|_| Malformed("is not UTF-8"))?;
    if text.contains('\0') { Err(Malformed("has a null character")) } else { Ok(text) }
}

fn attribute<'a>(part: Option<&'a str>, name: &str) -> Result<&'a str, Malformed> {
    let value = part.and_then(|part| part.strip_prefix(name));
    value.filter(|value| !value.is_empty()).ok_or(Malformed("lacks an attribute in its place"))
}

/// Looks at attributes that nothing is known of.
fn extensions<'a>(attributes: impl Iterator<Item = &'a str>) -> Result<(), Malformed> {
    for attribute in attributes {
        match attribute.as_bytes() {
            [b'm', b'=', ..] => return Err(Malformed("demands an extension")),
            [letter, b'=', _, ..] if letter.is_ascii_alphabetic() => {}
            _ => return Err(Malformed("has an attribute that is none")),
        }
    }
    Ok(())
}

/// A name with `=2C` for `,` and `=3D` for `=`.
fn name(escaped: &str) -> Result<String, Malformed> {
    let mut parts = escaped.split('=');
    let mut name = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (letter, rest) = match part.as_bytes() {
            [b'2', b'C', ..] => (',', part.get(2..)),
            [b'3', b'D', ..] => ('=', part.get(2..)),
            _ => return Err(Malformed("has a name with a bare =")),
        };
        name.push(letter);
        name.push_str(rest.unwrap_or_default());
    }
    if name.is_empty() { Err(Malformed("has an empty name")) } else { Ok(name) }
}

/// What is kept of a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verifier {
    pub(super) iterations: u32,
    pub(super) salt: Vec<u8>,
    pub(super) stored_key: Key,
    pub(super) server_key: Key,
}

/// The server's side, once the client has said who it is.
#[derive(Debug)]
pub(super) struct Challenge {
    verifier: Verifier,
    header: Box<str>,
    client_first: Box<str>,
    server_first: Box<str>,
    nonce: Box<str>,
}

impl Challenge {
    /// Answers the first message; `nonce` is new.
    pub(super) fn new(first: &ClientFirst<'_>, nonce: &str, verifier: Verifier) -> Self {
        let nonce = format!("{}{nonce}", first.nonce);
        let salt = BASE64.encode(&verifier.salt);
        let server_first = format!("r={nonce},s={salt},i={}", verifier.iterations);
        Self {
            verifier,
            header: first.header.into(),
            client_first: first.bare.into(),
            server_first: server_first.into(),
            nonce: nonce.into(),
        }
    }

    /// The server's first message.
    pub(super) fn message(&self) -> &str {
        &self.server_first
    }

    /// The server's last message, if the client has proved that it knows the password.
    pub(super) fn verify(&self, last: &ClientFinal<'_>) -> Option<String> {
        let said = format!("{},{},{}", self.client_first, self.server_first, last.without_proof);
        let mut key = hmac(&self.verifier.stored_key, said.as_bytes());
        key.iter_mut().zip(last.proof).for_each(|(byte, proof)| *byte ^= proof);
        let is_known = Key::from(Sha256::digest(key)).ct_eq(&self.verifier.stored_key);
        let is_this_one = last.nonce == &*self.nonce && last.header == self.header.as_bytes();
        if !(bool::from(is_known) & is_this_one) {
            return None;
        }
        let signature = hmac(&self.verifier.server_key, said.as_bytes());
        Some(format!("v={}", BASE64.encode(signature)))
    }
}

/// The two keys that are kept of a password, from what it was salted to.
pub(super) fn keys(salted: &Key) -> (Key, Key) {
    let client_key = hmac(salted, b"Client Key");
    (Sha256::digest(client_key).into(), hmac(salted, b"Server Key"))
}

pub(super) fn hmac(key: &[u8], data: &[u8]) -> Key {
    // Keys may have any length.
    let mac = Hmac::<Sha256>::new_from_slice(key).map(|mac| mac.chain_update(data).finalize());
    mac.map_or([0; KEY_LEN], |mac| mac.into_bytes().into())
}

#[cfg(test)]
mod tests {
    use pbkdf2::pbkdf2_hmac;

    use super::*;

    /// RFC 7677, 3: the user "user" with the password "pencil".
    const FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const CHALLENGE: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                             s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    const LAST: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                        p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    const VERIFIED: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

    fn verifier(password: &str) -> Verifier {
        let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let mut salted = [0; KEY_LEN];
        pbkdf2_hmac::<Sha256>(password.as_bytes(), &salt, 4096, &mut salted);
        let (stored_key, server_key) = keys(&salted);
        Verifier { iterations: 4096, salt, stored_key, server_key }
    }

    fn challenge(first: &str, password: &str) -> Challenge {
        let first = ClientFirst::parse(first.as_bytes()).unwrap();
        Challenge::new(&first, SERVER_NONCE, verifier(password))
    }

    fn answer(challenge: &Challenge, last: &str) -> Option<String> {
        challenge.verify(&ClientFinal::parse(last.as_bytes()).unwrap())
    }

    #[test]
    fn the_exchange_of_the_specification() {
        let challenge = challenge(FIRST, "pencil");
        assert_eq!(challenge.message(), CHALLENGE);
        assert_eq!(answer(&challenge, LAST).as_deref(), Some(VERIFIED));
    }

    #[test]
    fn a_proof_is_for_one_exchange() {
        assert_eq!(answer(&challenge(FIRST, "Pencil"), LAST), None);
        // Another header, user or nonce.
        for other in [
            "y,,n=user,r=rOprNGfwEbeRWgbNEkqO",
            "n,,n=user,r=another",
            "n,,n=eve,r=rOprNGfwEbeRWgbNEkqO",
        ] {
            assert_eq!(answer(&challenge(other, "pencil"), LAST), None, "{other}");
        }
        for (from, to) in
            [("c=biws", "c=eSws"), ("hNlF$k0", "hNlF$k1"), (",p=dH", ",x=1,p=dH"), ("p=dH", "p=dI")]
        {
            let last = LAST.replace(from, to);
            assert_eq!(answer(&challenge(FIRST, "pencil"), &last), None, "{last}");
        }
    }

    #[test]
    fn first_messages() {
        let read = |text: &'static str| ClientFirst::parse(text.as_bytes());
        let first = read("y,a=anna=2Cb,n=an=3Dna,r=x=y,z=more").unwrap();
        assert_eq!((first.header, first.bare), ("y,a=anna=2Cb,", "n=an=3Dna,r=x=y,z=more"));
        assert_eq!((first.user.as_str(), first.act_for.as_deref()), ("an=na", Some("anna,b")));
        assert_eq!(first.nonce, "x=y");
        for bad in [
            "",
            "n",
            "n,",
            "n,,",
            "n,,n=u",
            "n,,n=u,",
            "n,,n=u,r=",
            "n,,r=x,n=u",
            "n,,n=,r=x",
            "n,,n=u=,r=x",
            "n,,n=u=2c,r=x",
            "n,,n=u,r=a b",
            "n,,n=u,r=\u{e9}",
            "n,,n=u\0,r=x",
            "n,,m=x,n=u,r=x",
            "n,,n=u,r=x,m=x",
            "n,,n=u,r=x,",
            "n,,n=u,r=x,1=x",
            "n,,n=u,r=x,z=",
            "p=tls-exporter,,n=u,r=x",
            "x,,n=u,r=x",
            "n,u,n=u,r=x",
            "n=u,r=x",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(ClientFirst::parse(b"n,,n=\xFF,r=x").is_err());
        let long = format!("n,,n=u,r={}", "x".repeat(MAX_SCRAM_MESSAGE));
        assert_eq!(ClientFirst::parse(long.as_bytes()), Err(Malformed("is too long")));
    }

    #[test]
    fn last_messages() {
        let more = LAST.replace(",p=", ",x=1,p=");
        assert!(ClientFinal::parse(more.as_bytes()).unwrap().without_proof.ends_with(",x=1"));
        for bad in [
            "",
            "c=biws",
            "c=biws,r=x",
            "c=biws,r=x,p=",
            "c=biws,r=x,p=AAAA",
            "c=!,r=x,p=AA",
            "r=x,c=biws,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
            "c=biws,r=x,m=1,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
            "c=biws,r=x,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ",
            "c=biws,r=x,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=,x=1",
        ] {
            assert!(ClientFinal::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
