//! What of a new configuration is put in force while the broker runs.

use std::sync::PoisonError;

use super::settings::{access_settings, settings, tls_settings};
use super::{Broker, StartError};
use crate::config::{self, Config};
use crate::net::TlsError;

impl Broker {
    /// Puts in force what can change while the broker runs, as a whole or not at all:
    ///
    /// - `[auth]` and `[acl]`, with the files they name: clients lose the subscriptions that they may have
    ///   no longer;
    /// - of each listener `authentication`, `max_connections`, its limits and its TLS, with the files that
    ///   names;
    /// - `[[quota]]`, and of `[limits]` `max_connections`, the connections in a second, and how much may
    ///   be published.
    ///
    /// Limits are for those who connect from now on. The log names the keys that have changed besides: they
    /// are for the next start.
    ///
    /// # Errors
    /// The configuration contradicts itself, or a file is no use: then nothing is changed.
    pub fn reload(&self, config: &Config) -> Result<(), StartError> {
        config.check()?;
        let mut running = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        let next = changed(&running, config);
        next.check()?;
        let tls = self.tls.iter().zip(&next.listeners).filter_map(|(acceptor, listener)| {
            let tls = tls_settings(listener.tls.as_ref()?, listener.websocket.as_ref());
            Some((acceptor.as_ref()?, tls))
        });
        let tls = tls.map(|(acceptor, (settings, user))| Ok((acceptor, settings.load()?, user)));
        let tls: Vec<_> = tls.collect::<Result<_, TlsError>>()?;
        self.access.reload(&access_settings(&next))?;
        for (acceptor, new, user) in tls {
            acceptor.replace(new, user);
        }
        self.shared.change_settings(settings(&next));
        self.shared.rules_changed();
        for bell in &self.bells {
            bell.ring();
        }
        let left = next.differences(config);
        if !left.is_empty() {
            let keys = left.join(", ");
            tracing::warn!(
                "this cannot change while the broker runs, and is for the next start: {keys}"
            );
        }
        *running = next;
        Ok(())
    }
}

/// The running configuration with what can change of a new one.
fn changed(running: &Config, new: &Config) -> Config {
    let limits = config::Limits {
        max_connections: new.limits.max_connections,
        connections_per_second: new.limits.connections_per_second,
        connections_per_second_per_address: new.limits.connections_per_second_per_address,
        publish_messages_per_second: new.limits.publish_messages_per_second,
        publish_bytes_per_second: new.limits.publish_bytes_per_second,
        publish_burst: new.limits.publish_burst,
        ..running.limits.clone()
    };
    let auth = config::Auth {
        threads: running.auth.threads,
        queue: running.auth.queue,
        http: new.auth.http.clone().map(|http| match &running.auth.http {
            Some(old) => config::HttpAuth { threads: old.threads, queue: old.queue, ..http },
            None => http,
        }),
        ..new.auth.clone()
    };
    Config {
        auth,
        acl: config::Acl { v3_publisher: running.acl.v3_publisher, ..new.acl.clone() },
        limits,
        quotas: new.quotas.clone(),
        listeners: listeners(running, new),
        ..running.clone()
    }
}

/// The listeners that there are, each with what the new configuration says of who comes in there: one that
/// is to go, or to come, does so with the next start.
fn listeners(running: &Config, new: &Config) -> Vec<config::Listener> {
    let listeners = running.listeners.iter().enumerate().map(|(place, running)| {
        let is_it = |new: &&config::Listener| new.bind == running.bind;
        let same = new.listeners.get(place).filter(is_it);
        let Some(new) = same.or_else(|| new.listeners.iter().find(is_it)) else {
            return running.clone();
        };
        config::Listener {
            authentication: new.authentication.clone(),
            max_connections: new.max_connections,
            limits: new.limits.clone(),
            tls: running.tls.as_ref().map(|old| new.tls.as_ref().unwrap_or(old).clone()),
            ..running.clone()
        }
    });
    listeners.collect()
}
