//! The keys that tokens are signed with, each bound to one algorithm: what a token says of itself chooses
//! among them, and never how one is used.

use std::fs;
use std::path::{Path, PathBuf};

use jsonwebtoken::jwk::{
    AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse,
};
use jsonwebtoken::{Algorithm, DecodingKey};

/// The fewest bytes of a secret: those of its hash (RFC 7518, 3.2).
const MIN_SECRET_LEN: usize = 32;

/// How what is in PEM begins.
const PEM: &[u8] = b"-----BEGIN ";

/// How tokens are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JwtAlgorithm {
    /// HMAC with SHA-256: who checks tokens can make them, too.
    Hs256,
    /// RSA (PKCS #1 v1.5) with SHA-256.
    Rs256,
    /// ECDSA over P-256 with SHA-256.
    Es256,
}

/// Why the keys of tokens are no use.
#[derive(Debug, thiserror::Error)]
pub enum JwtKeyError {
    /// A file cannot be read.
    #[error("{path}: cannot be read: {error}")]
    Unread {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// A file is wrong.
    #[error("{path}: {message}")]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
}

/// A key.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) id: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

/// Reads the one key of a file: in PEM, a secret as it is but for a line end after it.
pub(super) fn load_key(path: &Path, algorithm: JwtAlgorithm) -> Result<Key, JwtKeyError> {
    let bytes = read(path)?;
    let text = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let (algorithm, key) = match algorithm {
        JwtAlgorithm::Hs256 if text.len() < MIN_SECRET_LEN => {
            let message = format!("a secret for HS256 has at least {MIN_SECRET_LEN} bytes");
            return Err(wrong(path, message));
        }
        // Who has it could make tokens, and a public key everybody may have. PEM may have text before it.
        JwtAlgorithm::Hs256 if text.windows(PEM.len()).any(|part| part == PEM) => {
            let message =
                "is in PEM, which is no secret: write the algorithm of the key, RS256 or ES256";
            return Err(wrong(path, message.to_owned()));
        }
        JwtAlgorithm::Hs256 => (Algorithm::HS256, DecodingKey::from_secret(text)),
        JwtAlgorithm::Rs256 => (Algorithm::RS256, DecodingKey::from_rsa_pem(text)),
        JwtAlgorithm::Es256 => (Algorithm::ES256, DecodingKey::from_ec_pem(text)),
    };
    let key = key.map_err(|_| wrong(path, misfit(text, algorithm)))?;
    Ok(Key { id: None, algorithm, key })
}

/// Why a file has no key for the algorithm that it is read for.
fn misfit(text: &[u8], algorithm: Algorithm) -> String {
    let other = match algorithm {
        Algorithm::RS256 => DecodingKey::from_ec_pem(text).map(|_| ("EC", "ES256")),
        _ => DecodingKey::from_rsa_pem(text).map(|_| ("RSA", "RS256")),
    };
    match other {
        Ok((kind, named)) => format!(
            "its key is of {kind}, not for {algorithm:?}; write auth.jwt.algorithm = \"{named}\""
        ),
        Err(_) => {
            format!("is no public key for {algorithm:?} in PEM, which auth.jwt.algorithm asks for")
        }
    }
}

/// Reads a JWK Set (RFC 7517). Its keys for other uses and other algorithms are passed over.
pub(super) fn load_set(path: &Path) -> Result<Vec<Key>, JwtKeyError> {
    let set: JwkSet = serde_json::from_slice(&read(path)?)
        .map_err(|error| wrong(path, format!("is no JWK Set: {error}")))?;
    let mut keys: Vec<Key> = Vec::new();
    for jwk in &set.keys {
        let Some(algorithm) = algorithm_of(jwk) else { continue };
        let id = jwk.common.key_id.clone();
        let name = || id.as_deref().map_or("without a kid".to_owned(), |id| format!("{id:?}"));
        let key = DecodingKey::from_jwk(jwk)
            .map_err(|_| wrong(path, format!("the key {} is malformed", name())))?;
        if algorithm == Algorithm::HS256
            && key.try_get_as_bytes().is_ok_and(|secret| secret.len() < MIN_SECRET_LEN)
        {
            let message = format!("the key {} has fewer than {MIN_SECRET_LEN} bytes", name());
            return Err(wrong(path, message));
        }
        if keys.iter().any(|other| other.id == id && other.algorithm == algorithm) {
            return Err(wrong(path, format!("the key {} stands here twice", name())));
        }
        keys.push(Key { id, algorithm, key });
    }
    if keys.is_empty() {
        return Err(wrong(path, "has no key for HS256, RS256 or ES256".to_owned()));
    }
    Ok(keys)
}

/// What a key is used with: what it says, or what its type leaves.
fn algorithm_of(jwk: &Jwk) -> Option<Algorithm> {
    if jwk.common.public_key_use.as_ref().is_some_and(|one| *one != PublicKeyUse::Signature) {
        return None;
    }
    let (named, algorithm) = match &jwk.algorithm {
        AlgorithmParameters::OctetKey(_) => (KeyAlgorithm::HS256, Algorithm::HS256),
        AlgorithmParameters::RSA(_) => (KeyAlgorithm::RS256, Algorithm::RS256),
        AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => {
            (KeyAlgorithm::ES256, Algorithm::ES256)
        }
        _ => return None,
    };
    let fits = jwk.common.key_algorithm.as_ref().is_none_or(|one| *one == named);
    fits.then_some(algorithm)
}

fn read(path: &Path) -> Result<Vec<u8>, JwtKeyError> {
    fs::read(path).map_err(|error| JwtKeyError::Unread { path: path.to_owned(), error })
}

fn wrong(path: &Path, message: String) -> JwtKeyError {
    JwtKeyError::Wrong { path: path.to_owned(), message }
}
