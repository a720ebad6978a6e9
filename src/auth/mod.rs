//! Who may come in, and what they may do.
//!
//! [`Access`] is a chain: each link allows a client, denies it, or passes it on to the next. First come
//! the bans, then certificates that name a user, then tokens, the password file, the clients
//! without a User Name. Hashing takes a few milliseconds by design, and so may a signature, so this is
//! done by workers; shards go on meanwhile.
//!
//! What a client may do follows from rules when it connects, and again when the rules change: its rights
//! are a plain value from then on.

mod access;
mod acl;
mod ban;
mod chain;
mod enhanced;
mod http;
mod jwt;
mod network;
mod password;
mod password_file;
mod scram;
mod workers;

pub use access::{Access, AccessError, AccessSettings};
pub use acl::{AclFileError, AclRule, AclSettings};
pub use ban::BanSettings;
pub use chain::Link;
pub use http::{HttpError, HttpSettings};
pub use jwt::{JwtAlgorithm, JwtKeyError, JwtSettings};
pub(crate) use network::NETWORK_FORM;
pub use network::Network;
pub use password::{PasswordHash, SCRAM_ITERATIONS};
pub(crate) use password_file::check_user;
pub use password_file::{Known, PasswordFile, PasswordFileError};
pub use scram::{ClientFinal, ClientFirst, MAX_SCRAM_MESSAGE, Malformed, SCRAM_SHA_256};
