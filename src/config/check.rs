//! What each key allows alone may still contradict another.

use std::collections::HashSet;

use crate::shard::MAX_SHARDS;

use super::error::{ConfigError, Origin, Origins};
use super::reader::variable_of;
use super::schema::{
    AclDefault, AclEffect, AuthLink, Bind, ClientCertificates, Config, Durability, Listener,
    ListenerTls, TokenPlace, UserFrom,
};
use super::value::{Kind, Word, show_duration, show_size};

/// Finds the first contradiction, and blames a key that somebody set.
pub(super) fn check(config: &Config, origins: &Origins) -> Result<(), ConfigError> {
    let checker = Checker { origins };
    checker.listeners(config)?;
    checker.links(config)?;
    checker.acl(config)?;
    checker.quotas(config)?;
    checker.sizes(config)?;
    checker.idle_limits(config)?;
    checker.connections(config)?;
    checker.sessions(config)
}

struct Checker<'a> {
    origins: &'a Origins,
}

impl Checker<'_> {
    fn listeners(&self, config: &Config) -> Result<(), ConfigError> {
        if config.listeners.is_empty() {
            return Err(self.blame(&["listener"], "there must be at least one"));
        }
        if config.shards > MAX_SHARDS {
            return Err(self.blame(&["shards"], &format!("there may be at most {MAX_SHARDS}")));
        }
        for (index, listener) in config.listeners.iter().enumerate() {
            let own = listener.authentication.as_deref();
            let missing = own.and_then(|links| {
                // It is the listener that says so.
                links.iter().find(|link| **link != AuthLink::Anonymous && !config.auth.has(**link))
            });
            if let Some(missing) = missing {
                let message = format!(
                    "[auth] has nothing for {}; write {} or take it out",
                    Word.show(missing),
                    match missing {
                        AuthLink::Anonymous => "auth.anonymous = true",
                        AuthLink::PasswordFile => "auth.password_file",
                        AuthLink::Jwt => "an [auth.jwt]",
                        AuthLink::Http => "an [auth.http]",
                    }
                );
                return Err(self.blame(&[&format!("listener[{index}].authentication")], &message));
            }
            let decides = own.map_or_else(|| config.auth.decides(), |_| true);
            let decided = decides || listener.demands_certificates();
            if !listener.bind.is_local() && !decided {
                let message = format!(
                    "{} can be reached by other machines, but nobody is asked who they are; name the \
                     users in auth.password_file (sluice passwd FILE USER makes one), write an [auth.jwt] \
                     or an [auth.http], have [listener.tls] demand client certificates, or let everybody in: \
                     --anonymous, or auth.anonymous = true",
                    listener.bind
                );
                return Err(self.blame(&[&format!("listener[{index}].bind")], &message));
            }
            self.not_above(
                (
                    &format!("listener[{index}].limits.max_packet_size"),
                    listener.limits.max_packet_size,
                ),
                ("limits.max_packet_size", Some(config.limits.max_packet_size)),
                |bytes| show_size(u64::from(*bytes)),
                "which is the largest packet anywhere",
            )?;
            if let Some(tls) = &listener.tls {
                self.tls(index, tls)?;
            }
            if let Some(websocket) = &listener.websocket {
                let key = format!("listener[{index}].websocket.max_frame_bytes");
                self.not_above(
                    ("limits.max_packet_size", Some(config.limits.max_packet_size)),
                    (&key, Some(websocket.max_frame_bytes)),
                    |bytes| show_size(u64::from(*bytes)),
                    "but clients send a packet in one frame",
                )?;
            }
            self.proxies(index, listener)?;
            let first = config.listeners.iter().position(|other| other.bind == listener.bind);
            if !listener.bind.is_open() && first != Some(index) {
                let message = format!("{} is bound by another listener already", listener.bind);
                return Err(self.blame(&[&format!("listener[{index}].bind")], &message));
            }
        }
        Ok(())
    }

    fn proxies(&self, index: usize, listener: &Listener) -> Result<(), ConfigError> {
        let keys = ["proxy_protocol", "proxy_from"].map(|name| format!("listener[{index}].{name}"));
        let [protocol, from] = &keys;
        if !listener.proxy_from.is_empty() && !listener.proxy_protocol {
            return Err(self.blame(&[from], "has no use without proxy_protocol = true"));
        }
        let over_ip = matches!(listener.bind, Bind::Ip(_));
        if listener.proxy_protocol && listener.proxy_from.is_empty() && over_ip {
            let message = "needs proxy_from, the addresses of the proxies: anybody else could say to be \
                           anybody";
            return Err(self.blame(&[protocol], message));
        }
        Ok(())
    }

    fn tls(&self, index: usize, tls: &ListenerTls) -> Result<(), ConfigError> {
        let key = |name: &str| format!("listener[{index}].tls.{name}");
        for (name, file) in [("certificate", &tls.certificate), ("key", &tls.key)] {
            if file.is_none() {
                let message = format!("TLS needs a {name}; write the path of its file, in PEM");
                return Err(self.missing(&key(name), &message));
            }
        }
        if tls.client_certificates == ClientCertificates::None {
            let idle = [
                ("client_ca", tls.client_ca.is_some()),
                ("client_crl", tls.client_crl.is_some()),
                ("certificate_user", tls.certificate_user != UserFrom::None),
            ];
            if let Some((name, _)) = idle.iter().find(|(_, set)| *set) {
                let message = "clients are not asked for certificates; write client_certificates = \
                               \"required\" or \"optional\"";
                return Err(self.blame(&[&key(name)], message));
            }
        } else if tls.client_ca.is_none() {
            let message = "has no use without client_ca, the CA whose certificates are good";
            return Err(self.blame(&[&key("client_certificates")], message));
        }
        Ok(())
    }

    fn links(&self, config: &Config) -> Result<(), ConfigError> {
        if let Some(http) = &config.auth.http {
            if http.url.is_empty() {
                let message = "there has to be a server to ask; write its URL";
                return Err(self.missing("auth.http.url", message));
            }
            if http.url.starts_with("https:") && http.ca_file.is_none() {
                let message = "needs a ca_file, the CA of its certificate";
                return Err(self.blame(&["auth.http.url"], message));
            }
        }
        let Some(jwt) = &config.auth.jwt else { return Ok(()) };
        if jwt.key_file.is_none() && jwt.jwks_file.is_none() {
            let message = "tokens need a key; write the path of its file, or that of jwks_file";
            return Err(self.missing("auth.jwt.key_file", message));
        }
        if jwt.must_be_user_name && (jwt.token == TokenPlace::UserName || jwt.user_claim.is_none())
        {
            let message = "needs token = \"password\" and a user_claim";
            return Err(self.blame(&["auth.jwt.must_be_user_name"], message));
        }
        Ok(())
    }

    fn quotas(&self, config: &Config) -> Result<(), ConfigError> {
        let mut named = HashSet::new();
        for (index, quota) in config.quotas.iter().enumerate() {
            if let Some(user) = quota.users.iter().find(|user| !named.insert(user.as_str())) {
                let message = format!("{user:?} has a quota already; name each user once");
                return Err(self.blame(&[&format!("quota[{index}].users")], &message));
            }
        }
        Ok(())
    }

    fn acl(&self, config: &Config) -> Result<(), ConfigError> {
        let acl = &config.acl;
        if !acl.rules.is_empty() && acl.mosquitto_file.is_some() {
            let message = "there are rules, too; write either rules or mosquitto_file";
            return Err(self.blame(&["acl.mosquitto_file"], message));
        }
        if !acl.rules.is_empty() && acl.default == AclDefault::Unstated {
            let message = "has to be stated when there are rules, for what none of them speaks of; write \
                           default = \"deny\" or default = \"allow\" below [acl]";
            return Err(self.missing("acl.default", message));
        }
        for (index, rule) in acl.rules.iter().enumerate() {
            let known = |name: &String| acl.groups.iter().any(|group| group.name == *name);
            if let Some(unknown) = rule.groups.iter().find(|name| !known(name)) {
                let message =
                    format!("there is no group {unknown:?}; write an [[acl.group]] for it");
                return Err(self.blame(&[&format!("acl.rule[{index}].groups")], &message));
            }
            let asks = |listener: &Listener| {
                let tls = listener.tls.as_ref();
                tls.is_some_and(|tls| tls.client_certificates != ClientCertificates::None)
            };
            if !rule.certificates.is_empty() && !config.listeners.iter().any(asks) {
                let message = "no client is asked for a certificate; write client_certificates = \"optional\" \
                               or \"required\" in a [listener.tls], or take it out";
                return Err(self.blame(&[&format!("acl.rule[{index}].certificates")], message));
            }
            if rule.effect == AclEffect::Deny && (rule.max_qos != 2 || !rule.retain) {
                let message = "denies, so it has no limits; take max_qos and retain out";
                return Err(self.blame(&[&format!("acl.rule[{index}].effect")], message));
            }
        }
        Ok(())
    }

    fn sizes(&self, config: &Config) -> Result<(), ConfigError> {
        let packet = ("limits.max_packet_size", Some(u64::from(config.limits.max_packet_size)));
        let topic = ("limits.max_topic_bytes", Some(u64::from(config.limits.max_topic_bytes)));
        let show = |bytes: &u64| show_size(*bytes);
        self.not_above(topic, packet, show, "so the longest topic would fit in no packet")?;
        let never = "so the largest packet would never fit";
        let mut buffers = [
            ("queue.max_bytes", config.queue.max_bytes),
            ("queue.max_total_bytes", config.queue.max_total_bytes),
            ("queue.qos0_backlog_bytes", config.queue.qos0_backlog_bytes),
            ("mailbox.max_bytes", config.mailbox.max_bytes),
        ];
        buffers.sort_by_key(|(_, bytes)| *bytes);
        let [(smallest, bytes), others @ ..] = buffers;
        self.not_above(packet, (smallest, Some(bytes)), show, never).map_err(|mut error| {
            // Who raises the packet is not to find out about the buffers one by one.
            if error.key == packet.0 {
                let too_small = others.iter().filter(|(_, bytes)| Some(*bytes) < packet.1);
                too_small.for_each(|(key, _)| error.message.push_str(&format!(" and {key}")));
            }
            error
        })?;
        if config.mqtt.retain_available {
            let retained = ("retained.max_bytes", Some(config.retained.max_bytes));
            self.not_above(packet, retained, show, never)?;
        }
        Ok(())
    }

    /// Limits that could never count, as another that takes them in is lower. One that is as by default does
    /// no harm then, but who sets one has something else in mind.
    fn idle_limits(&self, config: &Config) -> Result<(), ConfigError> {
        let (limits, queue) = (&config.limits, &config.queue);
        let size = |bytes: &u64| show_size(*bytes);
        let packet = ("limits.max_packet_size", Some(u64::from(limits.max_packet_size)));
        let connect = ("limits.max_connect_size", Some(u64::from(limits.max_connect_size)));
        let client_id = ("limits.max_client_id_bytes", Some(u64::from(limits.max_client_id_bytes)));
        let waiting = ("queue.max_bytes", Some(queue.max_bytes));
        self.idle(connect, packet, size)?;
        self.idle(client_id, connect, size)?;
        self.idle(("queue.in_memory_bytes", Some(queue.in_memory_bytes)), waiting, size)?;
        // What waits for a session that is stored need not be in memory.
        if config.store.durability == Durability::Memory {
            self.idle(waiting, ("queue.max_total_bytes", Some(queue.max_total_bytes)), size)?;
        }

        let number = |number: &u32| number.to_string();
        let of_client = Some(limits.max_subscriptions_per_client);
        let connections = ("limits.max_connections", Some(limits.max_connections));
        let rate = ("limits.connections_per_second", limits.connections_per_second);
        let of_address = limits.connections_per_second_per_address;
        self.idle(
            ("limits.max_subscriptions_per_client", of_client),
            ("limits.max_subscriptions", Some(limits.max_subscriptions)),
            number,
        )?;
        self.idle(
            ("queue.in_memory", Some(queue.in_memory)),
            ("queue.max_messages", Some(queue.max_messages)),
            number,
        )?;
        self.idle(("limits.connections_per_second_per_address", of_address), rate, number)?;
        for (index, quota) in config.quotas.iter().enumerate() {
            let key = format!("quota[{index}].max_connections");
            self.idle((&key, quota.max_connections), connections, number)?;
        }
        for (index, listener) in config.listeners.iter().enumerate() {
            let key = format!("listener[{index}].max_connections");
            self.idle((&key, listener.max_connections), connections, number)?;
            let key = format!("listener[{index}].limits.connections_per_second");
            self.idle((&key, listener.limits.connections_per_second), rate, number)?;
        }
        Ok(())
    }

    /// Fails if the first limit is above the second, which takes it in, and somebody set the first.
    fn idle<T: PartialOrd>(
        &self,
        low: (&str, Option<T>),
        high: (&str, Option<T>),
        show: impl Fn(&T) -> String,
    ) -> Result<(), ConfigError> {
        if !self.origins.contains_key(low.0) {
            return Ok(());
        }
        self.not_above(low, high, show, "so the lower limit alone would count")
    }

    fn connections(&self, config: &Config) -> Result<(), ConfigError> {
        let limits = &config.limits;
        self.not_above(
            ("limits.max_connections", Some(limits.max_connections)),
            ("limits.max_sessions", Some(limits.max_sessions)),
            |number| number.to_string(),
            "but each connection has a session",
        )
    }

    fn sessions(&self, config: &Config) -> Result<(), ConfigError> {
        let mqtt = &config.mqtt;
        // "unlimited" for 3.x means: as long as any session may live.
        if mqtt.v3_session_expiry.is_some() {
            self.not_above(
                ("mqtt.v3_session_expiry", mqtt.v3_session_expiry),
                ("mqtt.max_session_expiry", mqtt.max_session_expiry),
                |duration| show_duration(*duration),
                "but no session lives longer",
            )?;
        }
        Ok(())
    }

    /// Fails if the first of two limits is above the second; `None` in the first place is no claim,
    /// in the second no limit.
    fn not_above<T: PartialOrd>(
        &self,
        (low_key, low): (&str, Option<T>),
        (high_key, high): (&str, Option<T>),
        show: impl Fn(&T) -> String,
        consequence: &str,
    ) -> Result<(), ConfigError> {
        let (Some(low), Some(high)) = (low, high) else { return Ok(()) };
        if low <= high {
            return Ok(());
        }
        let (low, high) = (show(&low), show(&high));
        let blamed = self.blamed(&[low_key, high_key]);
        let message = if blamed == high_key {
            format!(
                "{high} is less than {low_key}, {low}, {consequence}; write at least {low}, or lower \
                 {low_key}"
            )
        } else {
            format!(
                "{low} is more than {high_key}, {high}, {consequence}; write at most {high}, or raise \
                 {high_key}"
            )
        };
        Err(self.blame(&[blamed], &message))
    }

    /// Blames a key that has to be set and is not: where it is missing, or its variable if its section is in
    /// no file.
    fn missing(&self, key: &str, message: &str) -> ConfigError {
        if self.origins.contains_key(key) {
            return self.blame(&[key], message);
        }
        let section = key.rsplit_once('.').map_or("", |(section, _)| section);
        let in_section = || self.origins.keys().any(|set| set.starts_with(section));
        let origin = match self.origins.get(section) {
            Some(origin) => origin.clone(),
            None if in_section() => Origin::Variable(variable_of(key)),
            None => Origin::Default,
        };
        ConfigError::new(origin, key, message)
    }

    /// The key of these to blame: the last that somebody set.
    fn blamed<'k>(&self, keys: &[&'k str]) -> &'k str {
        let set = keys.iter().rev().find(|key| self.origins.contains_key(**key));
        set.or(keys.first()).copied().unwrap_or_default()
    }

    fn blame(&self, keys: &[&str], message: &str) -> ConfigError {
        let key = self.blamed(keys);
        let origin = self.origins.get(key).cloned().unwrap_or(Origin::Default);
        ConfigError::new(origin, key, message)
    }
}
