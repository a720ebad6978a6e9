//! The configuration: one schema; defaults, file, environment and flags, each over the one before.
//!
//! - The file is TOML, see `sluice.toml`. Sizes and durations carry their unit (`"64KiB"`,
//!   `"500ms"`), and what is not known is refused.
//! - Every key can be overridden by a variable: `SLUICE_`, the section and the key in capitals with
//!   `_` between them. `limits.max_packet_size` is `SLUICE_LIMITS_MAX_PACKET_SIZE`,
//!   `mqtt.retry.after` is `SLUICE_MQTT_RETRY_AFTER` (lists have commas), `shards` is
//!   `SLUICE_SHARDS`, and `bind` of the first listener is `SLUICE_LISTENER_0_BIND`.
//! - The flags are in [`cli`].
//!
//! All of it is read and checked before anything is bound, and whatever is wrong is one
//! [`ConfigError`].

pub mod certs;
pub mod cli;
pub mod log;
pub mod passwd;
pub mod process;
pub mod store_tool;

mod check;
mod error;
mod keys;
mod reader;
mod schema;
mod syntax;
mod value;

use std::num::NonZeroUsize;
use std::thread;

pub use error::{ConfigError, Origin};
pub use reader::Change;
pub use schema::{
    Acl, AclAction, AclDefault, AclEffect, AclGroup, AclRule, Auth, AuthLink, Ban, Bind,
    ClientCertificates, Config, Durability, GiveUp, HttpAuth, Jwt, Limits, Listener,
    ListenerCertificate, ListenerLimits, ListenerTls, ListenerWebSocket, Log, LogFormat, LogLevel,
    Mailbox, Mqtt, OfflineOverflow, OnlineOverflow, Overflow, PublishLimits, Queue, Quota,
    Retained, Retry, RouteCache, Shared, SharedStrategy, Shutdown, Store, StoreEngine, Sys,
    TlsVersion, TokenPlace, UserFrom, V3Publisher, WithoutAnswer,
};

pub use crate::auth::JwtAlgorithm;
use crate::shard::MAX_SHARDS;
use error::Origins;
use reader::{Reader, Seen};

impl Config {
    /// Reads the text of a file (`file_name` is for errors) and the variables of an environment, of
    /// which all that begin with `SLUICE_` must be known.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong.
    pub fn parse(
        file_name: &str,
        text: &str,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let (config, seen) = read(file_name, text, environment, |_| {})?;
        check::check(&config, &seen.origins)?;
        Ok(config)
    }

    /// Every key there is, with its section; those of a listener as `listener[0].bind`.
    #[must_use]
    pub fn keys() -> Vec<String> {
        read("", "", [], |_| {}).map(|(_, seen)| seen.keys).unwrap_or_default()
    }

    /// The keys that have another value in another configuration, or that only one of them has.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let [one, two] = [self, other].map(|config| Reader::values_of(config).unwrap_or_default());
        let keys = one.keys().chain(two.keys().filter(|key| !one.contains_key(*key)));
        keys.filter(|key| one.get(*key) != two.get(*key)).cloned().collect()
    }

    /// Checks a configuration made by hand for contradictions. A limit that could never count because one that
    /// takes it in is lower is none here: nobody can tell whether it was set, or is as by default.
    ///
    /// # Errors
    ///
    /// The first contradiction.
    pub fn check(&self) -> Result<(), ConfigError> {
        check::check(self, &Origins::new())
    }

    /// Whether some clients have a user name that counts: by a password, a token, the server that is asked, or
    /// a certificate.
    #[must_use]
    pub fn names_users(&self) -> bool {
        self.listeners.iter().any(|listener| {
            let own = listener.authentication.as_deref();
            let counts = |link| own.map_or_else(|| self.auth.has(link), |own| own.contains(&link));
            let has_tokens = self.auth.jwt.as_ref().is_some_and(|jwt| jwt.user_claim.is_some());
            let tls = listener.tls.as_ref();
            tls.is_some_and(|tls| tls.certificate_user != UserFrom::None)
                || counts(AuthLink::PasswordFile)
                || counts(AuthLink::Http)
                || counts(AuthLink::Jwt) && has_tokens
        })
    }

    /// The number of shards to start: `shards`, or one a core.
    #[must_use]
    pub fn shard_count(&self) -> u8 {
        if self.shards != 0 {
            return self.shards;
        }
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        u8::try_from(cores).unwrap_or(u8::MAX).min(MAX_SHARDS)
    }
}

fn read(
    file_name: &str,
    text: &str,
    environment: impl IntoIterator<Item = (String, String)>,
    prepare: impl FnOnce(&mut Reader<'_>),
) -> Result<(Config, Seen), ConfigError> {
    let mut config = Config::default();
    let mut reader = Reader::new(file_name, text, environment)?;
    prepare(&mut reader);
    config.read(&mut reader)?;
    Ok((config, reader.finish()?))
}

#[cfg(test)]
mod tests;
