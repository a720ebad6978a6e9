//! What of a new configuration is put in force while the broker runs.

use std::sync::PoisonError;

use super::settings::{own_access, settings, tls_settings};
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
        let pairs = pairs(&running.listeners, &config.listeners);
        let next = changed(&running, config, &pairs);
        next.check()?;
        let tls = self.tls.iter().zip(&next.listeners).filter_map(|(acceptor, listener)| {
            let tls = tls_settings(listener.tls.as_ref()?, listener.websocket.as_ref());
            Some((acceptor.as_ref()?, tls))
        });
        let tls = tls.map(|(acceptor, (settings, user))| Ok((acceptor, settings.load()?, user)));
        let tls: Vec<_> = tls.collect::<Result<_, TlsError>>()?;
        self.access.reload(&own_access(&next, self.has_own))?;
        for (acceptor, new, user) in tls {
            acceptor.replace(new, user);
        }
        self.shared.change_settings(settings(&next));
        self.shared.rules_changed();
        for bell in &self.bells {
            bell.ring();
        }
        let left = left(&next, config, &pairs);
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
fn changed(running: &Config, new: &Config, pairs: &[Option<usize>]) -> Config {
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
        listeners: listeners(running, new, pairs),
        ..running.clone()
    }
}

/// Which of the new listeners each of the running ones is: that which listens where it does, at the same
/// place if several do.
fn pairs(running: &[config::Listener], new: &[config::Listener]) -> Vec<Option<usize>> {
    let is_it = |running: &config::Listener, place: usize| {
        new.get(place).is_some_and(|new| new.bind == running.bind)
    };
    let at_its_place = |(place, running)| is_it(running, place).then_some(place);
    let mut pairs: Vec<_> = running.iter().enumerate().map(at_its_place).collect();
    for (place, running) in running.iter().enumerate() {
        let free = |other: &usize| is_it(running, *other) && !pairs.contains(&Some(*other));
        let moved = (0..new.len()).find(free);
        if let Some(pair) = pairs.get_mut(place) {
            *pair = pair.or(moved);
        }
    }
    pairs
}

/// The listeners that there are, each with what the new configuration says of who comes in there: one that
/// is to go, or to come, does so with the next start.
fn listeners(running: &Config, new: &Config, pairs: &[Option<usize>]) -> Vec<config::Listener> {
    let listeners = running.listeners.iter().zip(pairs).map(|(running, pair)| {
        let Some(new) = pair.and_then(|pair| new.listeners.get(pair)) else {
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

/// What is not in force of a new configuration: keys, counted as it counts them, and listeners.
fn left(in_force: &Config, new: &Config, pairs: &[Option<usize>]) -> Vec<String> {
    let of = |place| pairs.iter().position(|pair| *pair == Some(place));
    let is = |place| of(place).and_then(|of| in_force.listeners.get(of));
    let all = || new.listeners.iter().enumerate();
    let listeners = all().map(|(place, new)| is(place).unwrap_or(new).clone()).collect();
    let mut left = Config { listeners, ..in_force.clone() }.differences(new);
    let added = all().filter(|(place, _)| is(*place).is_none());
    left.extend(added.map(|(place, new)| format!("listener[{place}] on {} (added)", new.bind)));
    let gone = in_force.listeners.iter().zip(pairs).filter(|(_, pair)| pair.is_none());
    left.extend(gone.map(|(old, _)| format!("the listener on {} (removed)", old.bind)));
    left
}
