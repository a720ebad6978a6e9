//! How passwords are kept, and whether one is the right one.

use std::fmt;
use std::ops::RangeInclusive;

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use pbkdf2::pbkdf2_hmac;
use sha2::{Digest, Sha256, Sha512};
use subtle::ConstantTimeEq;

use super::scram::{self, KEY_LEN, Verifier};

/// Base 64 without padding, which is ignored when read: Mosquitto writes it, PHC strings do not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What a new hash costs: 19 MiB, two passes, one lane.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const SALT_LEN: usize = 16;
const HASH_LEN: usize = 32;

/// The most that a hash in a file may cost to check: somebody's slip must not stop the workers.
const MAX_MEMORY_KIB: u32 = 1024 * 1024;
const MAX_PASSES: u32 = 64;
const MAX_LANES: u32 = 16;
const MAX_ROUNDS: u32 = 10_000_000;
const MAX_HASH_LEN: usize = 128;

/// The iterations that SCRAM-SHA-256 may have: clients compute them, and do not take fewer (RFC 7677, 4).
pub const SCRAM_ITERATIONS: RangeInclusive<u32> = 4096..=MAX_ROUNDS;

#[cfg(test)]
thread_local! {
    /// How often this thread has held a password against a hash.
    pub(super) static VERIFICATIONS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// The hash of a password, in one of the forms that verify:
/// - `$argon2id$v=19$m=…,t=…,p=…$salt$hash`, the form of new ones, and Mosquitto's newest;
/// - `$7$rounds$salt$hash`, Mosquitto's PBKDF2 with HMAC-SHA512;
/// - `$6$salt$hash`, Mosquitto's older SHA512;
/// - `$scram-sha-256$i=…$salt$stored key$server key`, with which SCRAM-SHA-256 works as well.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash {
    kind: Kind,
    salt: Box<[u8]>,
    hash: Box<[u8]>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Argon2id {
        memory_kib: u32,
        passes: u32,
        lanes: u32,
    },
    Pbkdf2Sha512 {
        rounds: u32,
    },
    Sha512,
    /// The hash is both keys, one behind the other.
    Scram {
        iterations: u32,
    },
}

impl PasswordHash {
    /// Hashes a new password, with argon2id and a salt from the system's random numbers.
    ///
    /// # Errors
    /// The system has no random numbers or no memory.
    pub fn new(password: &[u8]) -> Result<Self, &'static str> {
        let kind = Kind::Argon2id { memory_kib: MEMORY_KIB, passes: PASSES, lanes: 1 };
        Self::compute(kind, password, HASH_LEN)
    }

    /// Makes what SCRAM-SHA-256 needs of a new password.
    ///
    /// # Errors
    /// As [`PasswordHash::new`]; or the password is no text that can be one (RFC 4013).
    pub fn new_scram(password: &[u8], iterations: u32) -> Result<Self, &'static str> {
        Self::compute(Kind::Scram { iterations }, password, 2 * KEY_LEN)
    }

    fn compute(kind: Kind, password: &[u8], len: usize) -> Result<Self, &'static str> {
        let mut salt = [0; SALT_LEN];
        let filled = rustix::rand::getrandom(&mut salt, rustix::rand::GetRandomFlags::empty());
        if filled != Ok(SALT_LEN) {
            return Err("the system gives no random numbers");
        }
        let mut hash = vec![0; len];
        if !kind.compute(password, &salt, &mut hash) {
            return Err("the password cannot be hashed");
        }
        Ok(Self { kind, salt: salt.into(), hash: hash.into() })
    }

    /// Reads a hash.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let mut parts = text
            .strip_prefix('$')
            .ok_or("is not a password hash, as sluice passwd writes it")?
            .split('$');
        let mut next = || parts.next().ok_or("is cut short");
        let kind = match next()? {
            "argon2id" => {
                if next()? != "v=19" {
                    return Err("is of an argon2 version that is not 19");
                }
                argon2_costs(next()?).ok_or("has argon2 costs that are wrong or too high")?
            }
            "7" => {
                let rounds =
                    next()?.parse().ok().filter(|rounds| (1..=MAX_ROUNDS).contains(rounds));
                Kind::Pbkdf2Sha512 { rounds: rounds.ok_or("has a wrong number of rounds")? }
            }
            "6" => Kind::Sha512,
            "scram-sha-256" => {
                let iterations = next()?.strip_prefix("i=").and_then(|text| text.parse().ok());
                let iterations = iterations.filter(|number| SCRAM_ITERATIONS.contains(number));
                Kind::Scram { iterations: iterations.ok_or("has a wrong number of iterations")? }
            }
            _ => return Err("is of a kind that is not known"),
        };
        let mut decode = || BASE64.decode(next()?).map_err(|_| "is not base 64");
        let (salt, mut hash) = (decode()?, decode()?);
        if matches!(kind, Kind::Scram { .. }) {
            hash.extend(decode()?);
        }
        if parts.next().is_some() {
            return Err("has more than a salt and a hash");
        }
        let lengths = match kind {
            Kind::Argon2id { .. } => salt.len() >= 8 && (16..=MAX_HASH_LEN).contains(&hash.len()),
            Kind::Pbkdf2Sha512 { .. } | Kind::Sha512 | Kind::Scram { .. } => {
                !salt.is_empty() && hash.len() == 64
            }
        };
        if !lengths {
            return Err("has a salt or a hash of a wrong length");
        }
        Ok(Self { kind, salt: salt.into(), hash: hash.into() })
    }

    /// Whether this is the password. Takes as long whether or not it is.
    #[must_use]
    pub fn verify(&self, password: &[u8]) -> bool {
        #[cfg(test)]
        VERIFICATIONS.set(VERIFICATIONS.get() + 1);
        let mut computed = vec![0; self.hash.len()];
        let done = self.kind.compute(password, &self.salt, &mut computed);
        done & bool::from(computed.ct_eq(&self.hash))
    }

    /// What SCRAM-SHA-256 needs, if this has it.
    pub(super) fn verifier(&self) -> Option<Verifier> {
        let Kind::Scram { iterations } = self.kind else { return None };
        let (stored_key, server_key) = self.hash.split_at_checked(KEY_LEN)?;
        Some(Verifier {
            iterations,
            salt: self.salt.to_vec(),
            stored_key: stored_key.try_into().ok()?,
            server_key: server_key.try_into().ok()?,
        })
    }
}

impl Kind {
    fn compute(self, password: &[u8], salt: &[u8], out: &mut [u8]) -> bool {
        match self {
            Self::Argon2id { memory_kib, passes, lanes } => {
                let Ok(params) = Params::new(memory_kib, passes, lanes, Some(out.len())) else {
                    return false;
                };
                let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
                argon2.hash_password_into(password, salt, out).is_ok()
            }
            Self::Pbkdf2Sha512 { rounds } => {
                pbkdf2_hmac::<Sha512>(password, salt, rounds, out);
                true
            }
            Self::Sha512 => {
                let digest = Sha512::new().chain_update(password).chain_update(salt).finalize();
                out.copy_from_slice(&digest);
                true
            }
            Self::Scram { iterations } => {
                let text = std::str::from_utf8(password).ok();
                let text = text.and_then(|text| stringprep::saslprep(text).ok());
                let Some(text) = text.filter(|text| !text.is_empty()) else { return false };
                let mut salted = [0; KEY_LEN];
                pbkdf2_hmac::<Sha256>(text.as_bytes(), salt, iterations, &mut salted);
                let (stored_key, server_key) = scram::keys(&salted);
                out.copy_from_slice(&[stored_key, server_key].concat());
                true
            }
        }
    }
}

/// Reads `m=19456,t=2,p=1`.
fn argon2_costs(text: &str) -> Option<Kind> {
    let mut parts = text.split(',');
    let mut cost = |name: &str, most: u32| {
        let value: u32 = parts.next()?.strip_prefix(name)?.parse().ok()?;
        (1..=most).contains(&value).then_some(value)
    };
    let (memory_kib, passes, lanes) =
        (cost("m=", MAX_MEMORY_KIB)?, cost("t=", MAX_PASSES)?, cost("p=", MAX_LANES)?);
    let possible = parts.next().is_none() && Params::new(memory_kib, passes, lanes, None).is_ok();
    possible.then_some(Kind::Argon2id { memory_kib, passes, lanes })
}

/// The form that [`PasswordHash::parse`] reads.
impl fmt::Display for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Argon2id { memory_kib, passes, lanes } => {
                write!(f, "$argon2id$v=19$m={memory_kib},t={passes},p={lanes}")?;
            }
            Kind::Pbkdf2Sha512 { rounds } => write!(f, "$7${rounds}")?,
            Kind::Sha512 => f.write_str("$6")?,
            Kind::Scram { iterations } => {
                write!(f, "$scram-sha-256$i={iterations}${}", BASE64.encode(&self.salt))?;
                return self
                    .hash
                    .chunks(KEY_LEN)
                    .try_for_each(|key| write!(f, "${}", BASE64.encode(key)));
            }
        }
        write!(f, "${}${}", BASE64.encode(&self.salt), BASE64.encode(&self.hash))
    }
}

/// Says the kind only: logs are no place for hashes.
impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Argon2id { .. } => "argon2id",
            Kind::Pbkdf2Sha512 { .. } => "PBKDF2-SHA512",
            Kind::Sha512 => "SHA512",
            Kind::Scram { .. } => "SCRAM-SHA-256",
        };
        write!(f, "PasswordHash({kind})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHERS: [(&str, &str); 4] = [
        (
            "$7$101$1UgUSXaVnx0ngGbp$exXQbfMNxv27k5tV0k+TcukzjW0cv7GNEKMshu+e2gVulVkQh2Wsth7qVWRbGY9\
             4A0TL4mgncsdB1A5oR7G44A==",
            "wonderland",
        ),
        (
            "$6$F7FhNWo0KwjQvKzJ$+kiKtm/7q1LcWNsWdGmat9LTBLBZQWQgsz/QJ8LlVZEeIBG5baEhMVhjlsV98pI+CQO\
             n+O1HUa9IwZMvjKEFUg==",
            "builder",
        ),
        (
            "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ\
             $CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
            "password",
        ),
        (
            "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ=\
             $CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc=",
            "password",
        ),
    ];

    #[test]
    fn a_new_hash_verifies_its_password_alone() {
        let hash = PasswordHash::new(b"secret").unwrap();
        let read = PasswordHash::parse(&hash.to_string()).unwrap();
        assert_eq!(read, hash);
        assert!(read.verify(b"secret"));
        for other in [&b"secret "[..], b"", b"Secret"] {
            assert!(!read.verify(other));
        }
        assert_ne!(PasswordHash::new(b"secret").unwrap(), hash, "each has a salt of its own");
    }

    /// As `mosquitto_passwd`, `openssl` and the reference implementation of argon2 make them.
    #[test]
    fn hashes_of_others_verify() {
        for (text, password) in OTHERS {
            let hash = PasswordHash::parse(text).unwrap_or_else(|wrong| panic!("{text} {wrong}"));
            assert!(hash.verify(password.as_bytes()), "{text}");
            assert!(!hash.verify(b"another"), "{text}");
        }
    }

    #[test]
    fn what_is_no_hash_is_refused() {
        let argon = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ";
        let hash = "$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        assert!(PasswordHash::parse(&format!("{argon}{hash}")).is_ok());
        for bad in [
            "",
            "secret",
            "$",
            "$5$c2FsdA$aGFzaA",
            "$6$c2FsdA",
            "$6$c2FsdA$aGFzaA",
            "$7$0$c2FsdA$aGFzaA",
            "$7$99999999$c2FsdA$aGFzaA",
            argon,
            &format!("{argon}$!"),
            &format!("{argon}{hash}$more"),
            &format!("$argon2i$v=19$m=65536,t=2,p=1$c29tZXNhbHQ{hash}"),
            &format!("$argon2id$v=16$m=65536,t=2,p=1$c29tZXNhbHQ{hash}"),
            &format!("$argon2id$v=19$m=4294967295,t=2,p=1$c29tZXNhbHQ{hash}"),
            &format!("$argon2id$v=19$m=65536,t=0,p=1$c29tZXNhbHQ{hash}"),
            &format!("$argon2id$v=19$m=8,t=1,p=8$c29tZXNhbHQ{hash}"),
            &format!("$argon2id$v=19$m=65536,t=2,p=1,x=1$c29tZXNhbHQ{hash}"),
            &format!("$argon2id$v=19$m=65536,t=2,p=1$c2Fs{hash}"),
        ] {
            assert!(PasswordHash::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn scram_has_its_keys_here() {
        // RFC 7677, 3.
        let salt = "W22ZaJ0SNY7soEsUEjb6gQ";
        let made = PasswordHash::new_scram(b"pencil", 4096).unwrap();
        assert!(made.to_string().starts_with("$scram-sha-256$i=4096$"));
        assert_eq!(PasswordHash::parse(&made.to_string()).as_ref(), Ok(&made));
        assert!(made.verify(b"pencil") && !made.verify(b"Pencil") && !made.verify(b""));
        let keys = "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY$wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU";
        let hash = PasswordHash::parse(&format!("$scram-sha-256$i=4096${salt}${keys}")).unwrap();
        assert!(hash.verify(b"pencil"));
        // What looks the same is the same (RFC 4013).
        let hash = PasswordHash::new_scram("I\u{AD}X \u{2168}".as_bytes(), 4096).unwrap();
        assert!(hash.verify(b"IX IX"));
        assert!(PasswordHash::new_scram(b"\x07", 4096).is_err());
        for bad in ["i=4095", "i=99999999", "4096", "i="] {
            let text = format!("$scram-sha-256${bad}${salt}${keys}");
            assert!(PasswordHash::parse(&text).is_err(), "{bad}");
        }
        assert!(PasswordHash::parse(&format!("$scram-sha-256$i=4096${salt}$AAAA$AAAA")).is_err());
        assert_eq!(PasswordHash::new(b"x").unwrap().verifier(), None);
    }

    #[test]
    fn a_hash_is_not_shown() {
        let hash = PasswordHash::parse(OTHERS[0].0).unwrap();
        assert_eq!(format!("{hash:?}"), "PasswordHash(PBKDF2-SHA512)");
    }
}
