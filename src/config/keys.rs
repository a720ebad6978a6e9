//! The schema as the reader sees it: one line a key, with what it takes.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;

use crate::auth::JwtAlgorithm;
use crate::shard::MAX_SHARDS;
use crate::store;

use super::error::ConfigError;
use super::reader::Reader;
use super::schema::{
    Acl, AclAction, AclDefault, AclEffect, AclGroup, AclRule, Auth, AuthLink, Ban,
    ClientCertificates, Config, Durability, GiveUp, HttpAuth, Jwt, Limits, Listener,
    ListenerCertificate, ListenerLimits, ListenerTls, ListenerWebSocket, Log, LogFormat, LogLevel,
    Mqtt, OfflineOverflow, OnlineOverflow, Overflow, PublishLimits, Queue, Quota, Retained, Retry,
    SharedStrategy, Store, StoreEngine, TlsVersion, TokenPlace, UserFrom, V3Publisher,
    WithoutAnswer,
};
use super::value::{
    Address, AddressRange, Count, Directory, File, Flag, HeaderValue, Keyword, List, Name,
    OrInherit, OrNone, OrUnlimited, Permissions, Size, Span, TopicFilter, TopicPrefix, Url,
    UrlPath, UserName, WebOrigin, Word,
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;
const U16: u64 = u16::MAX as u64;
const MAX_NAME_BYTES: u64 = store::MAX_NAME_BYTES as u64;
const U32: u64 = u32::MAX as u64;

type Read = Result<(), ConfigError>;

impl Config {
    pub(super) fn read(&mut self, reader: &mut Reader<'_>) -> Read {
        reader
            .key("shards", &mut self.shards, Count(0..=u64::from(MAX_SHARDS)))?
            .list("listener", &mut self.listeners, unbound, |r, l, new| l.read(r, new))?
            .section("auth", |r| self.auth.read(r))?
            .section("acl", |r| self.acl.read(r))?
            .section("limits", |r| self.limits.read(r))?
            .list("quota", &mut self.quotas, Quota::default, |r, quota, _| quota.read(r))?
            .section("mqtt", |r| self.mqtt.read(r))?
            .section("queue", |r| self.queue.read(r))?
            .section("overflow", |r| self.overflow.read(r))?
            .section("retained", |r| self.retained.read(r))?
            .section("store", |r| self.store.read(r))?
            .section("shared", |r| {
                r.key("strategy", &mut self.shared.strategy, Word)?;
                Ok(())
            })?
            .section("sys", |r| {
                r.key("interval", &mut self.sys.interval, Span::ms(0..=DAY_MS))?;
                Ok(())
            })?
            .section("shutdown", |r| {
                r.key("timeout", &mut self.shutdown.timeout, Span::ms(0..=DAY_MS))?;
                r.key("publish_wills", &mut self.shutdown.publish_wills, Flag)?;
                Ok(())
            })?
            .section("mailbox", |r| {
                r.key("max_bytes", &mut self.mailbox.max_bytes, Size(KIB..=TIB))?;
                Ok(())
            })?
            .section("route_cache", |r| {
                r.key("entries", &mut self.route_cache.entries, Count(1..=1 << 28))?;
                Ok(())
            })?
            .section("log", |r| self.log.read(r))?;
        Ok(())
    }
}

/// A listener before its address is read.
fn unbound() -> Listener {
    Listener::on(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))
}

impl Listener {
    fn read(&mut self, reader: &mut Reader<'_>, new: bool) -> Read {
        // What Linux takes at most.
        let seconds = || Span::whole_seconds(1..=32_767);
        let proxies = List { of: AddressRange, least: 0, most: 1024 };
        if new {
            reader.required("bind", &mut self.bind, Address)?;
        } else {
            reader.key("bind", &mut self.bind, Address)?;
        }
        reader
            .key("socket_mode", &mut self.socket_mode, Permissions)?
            .key("v6only", &mut self.v6only, Flag)?
            .key("backlog", &mut self.backlog, Count(1..=U16))?
            .key("nodelay", &mut self.nodelay, Flag)?
            .key("defer_accept", &mut self.defer_accept, Flag)?
            .key("keepalive", &mut self.keepalive, OrUnlimited(seconds()))?
            .key("keepalive_interval", &mut self.keepalive_interval, seconds())?
            .key("keepalive_probes", &mut self.keepalive_probes, Count(1..=127))?
            .key("receive_buffer", &mut self.receive_buffer, OrNone(Size(KIB..=GIB)))?
            .key("send_buffer", &mut self.send_buffer, OrNone(Size(KIB..=GIB)))?
            .key("proxy_protocol", &mut self.proxy_protocol, Flag)?
            .key("proxy_from", &mut self.proxy_from, proxies)?
            .key("max_connections", &mut self.max_connections, OrUnlimited(Count(1..=U32)))?
            .key("authentication", &mut self.authentication, OrInherit(links()))?
            .section("limits", |r| self.limits.read(r))?
            .optional("tls", &mut self.tls, |r, tls: &mut ListenerTls| tls.read(r))?
            .optional("websocket", &mut self.websocket, |r, ws: &mut ListenerWebSocket| {
                ws.read(r)
            })?;
        Ok(())
    }
}

/// Links of a chain.
fn links() -> List<Word> {
    List { of: Word, least: 0, most: 4 }
}

impl ListenerTls {
    fn read(&mut self, reader: &mut Reader<'_>) -> Read {
        reader
            .key("certificate", &mut self.certificate, File)?
            .key("key", &mut self.key, File)?
            .list("more", &mut self.more, ListenerCertificate::default, |r, more, _| {
                r.required("certificate", &mut more.certificate, File)?;
                r.required("key", &mut more.key, File)?;
                Ok(())
            })?
            .key("client_certificates", &mut self.client_certificates, Word)?
            .key("client_ca", &mut self.client_ca, File)?
            .key("client_crl", &mut self.client_crl, File)?
            .key("certificate_user", &mut self.certificate_user, Word)?
            .key("min_version", &mut self.min_version, Word)?
            .key("handshake_timeout", &mut self.handshake_timeout, Span::ms(100..=DAY_MS))?;
        Ok(())
    }
}

impl ListenerWebSocket {
    fn read(&mut self, reader: &mut Reader<'_>) -> Read {
        reader
            .key("path", &mut self.path, UrlPath)?
            .key("origins", &mut self.origins, List { of: WebOrigin, least: 0, most: 1024 })?
            .key("max_head_bytes", &mut self.max_head_bytes, Size(512..=64 * KIB))?
            .key("max_frame_bytes", &mut self.max_frame_bytes, Size(64..=U32))?;
        Ok(())
    }
}

impl Auth {
    fn read(&mut self, reader: &mut Reader<'_>) -> Read {
        reader
            .key("anonymous", &mut self.anonymous, Flag)?
            .key("password_file", &mut self.password_file, File)?
            .optional("jwt", &mut self.jwt, |r, jwt: &mut Jwt| jwt.read(r))?
            .optional("http", &mut self.http, |r, http: &mut HttpAuth| http.read(r))?
            .key("threads", &mut self.threads, Count(0..=64))?
            .key("queue", &mut self.queue, Count(1..=65_536))?
            .section("ban", |r| self.ban.read(r))?;
        Ok(())
    }
}

impl Jwt {
    fn read(&mut self, reader: &mut Reader<'_>) -> Read {
        reader
            .key("token", &mut self.token, Word)?
            .key("algorithm", &mut self.algorithm, Word)?
            .key("key_file", &mut self.key_file, File)?
            .key("jwks_file", &mut self.jwks_file, File)?
            .key("user_claim", &mut self.user_claim, OrNone(Name))?
            .key("must_be_user_name", &mut self.must_be_user_name, Flag)?
            .key("leeway", &mut self.leeway, Span::ms(0..=DAY_MS))?
            .key("must_expire", &mut self.must_expire, Flag)?
            .key("issuer", &mut self.issuer, OrNone(Name))?
            .key("audience", &mut self.audience, OrNone(Name))?
            .key("acl_claim", &mut self.acl_claim, OrNone(Name))?;
        Ok(())
    }
}

impl HttpAuth {
    fn read(&mut self, reader: &mut Reader<'_>) -> Read {
        reader
            .key("url", &mut self.url, Url)?
            .key("ca_file", &mut self.ca_file, File)?
            .key("authorization", &mut self.authorization, OrNone(HeaderValue))?
            .key("timeout", &mut self.timeout, Span::ms(10..=60_000))?
            .key("threads", &mut self.threads, Count(1..=255))?
            .key("queue", &mut self.queue, Count(1..=65_536))?
            .key("cache_time", &mut self.cache_time, Span::ms(0..=DAY_MS))?
            .key("cache_entries", &mut self.cache_entries, Count(1..=1_000_000))?
            .key("without_answer", &mut self.without_answer, Word)?;
        Ok(())
    }
}

impl Ban {
    fn read(&mut self, reader: &mut Reader<'_>) -> Read {
        let failures = || OrUnlimited(Count(1..=U32));
        let addresses = || List { of: AddressRange, least: 0, most: 1024 };
        let users = || List { of: UserName, least: 0, most: 1024 };
        reader
            .key("failures_by_address", &mut self.failures_by_address, failures())?
            .key("failures_by_user", &mut self.failures_by_user, failures())?
            .key("within", &mut self.within, Span::ms(1000..=DAY_MS))?
            .key("duration", &mut self.duration, Span::ms(1000..=DAY_MS))?
            .key("addresses", &mut self.addresses, addresses())?
            .key("users", &mut self.users, users())?
            .key("exempt", &mut self.exempt, addresses())?
            .key("exempt_users", &mut self.exempt_users, users())?;
        Ok(())
    }
}

/// Entries of one list of an ACL.
const ACL_ENTRIES: usize = 1024;

impl Acl {
    fn read(&mut self, reader: &mut Reader<'_>) -> Read {
        reader
            .key("default", &mut self.default, Word)?
            .key("mosquitto_file", &mut self.mosquitto_file, File)?
            .key("v3_publisher", &mut self.v3_publisher, Word)?
            .list("group", &mut self.groups, AclGroup::default, |r, group, _| group.read(r))?
            .list("rule", &mut self.rules, AclRule::default, |r, rule, _| rule.read(r))?;
        Ok(())
    }
}

impl AclGroup {
    fn read(&mut self, reader: &mut Reader<'_>) -> Read {
        let users = List { of: UserName, least: 0, most: ACL_ENTRIES };
        reader.required("name", &mut self.name, Name)?.required("users", &mut self.users, users)?;
        Ok(())
    }
}

impl AclRule {
    fn read(&mut self, reader: &mut Reader<'_>) -> Read {
        let names = || List { of: Name, least: 0, most: ACL_ENTRIES };
        let users = List { of: UserName, least: 0, most: ACL_ENTRIES };
        let topics = List { of: TopicFilter, least: 1, most: ACL_ENTRIES };
        let addresses = List { of: AddressRange, least: 0, most: ACL_ENTRIES };
        reader
            .required("effect", &mut self.effect, Word)?
            .key("action", &mut self.action, Word)?
            .required("topics", &mut self.topics, topics)?
            .key("users", &mut self.users, users)?
            .key("groups", &mut self.groups, names())?
            .key("clients", &mut self.clients, names())?
            .key("addresses", &mut self.addresses, addresses)?
            .key("certificates", &mut self.certificates, names())?
            .key("max_qos", &mut self.max_qos, Count(0..=2))?
            .key("retain", &mut self.retain, Flag)?;
        Ok(())
    }
}

const MESSAGE_RATE: OrUnlimited<Count> = OrUnlimited(Count(1..=10_000_000));
const BYTE_RATE: OrUnlimited<Size> = OrUnlimited(Size(1..=GIB));
const PUBLISH_BURST_MS: RangeInclusive<u64> = 1..=60 * 60 * 1000;

impl Limits {
    fn read(&mut self, reader: &mut Reader<'_>) -> Read {
        let rate = || OrUnlimited(Count(1..=10_000_000));
        reader
            .key("max_packet_size", &mut self.max_packet_size, Size(64..=255 * MIB))?
            .key("max_connect_size", &mut self.max_connect_size, Size(64..=255 * MIB))?
            .key("max_topic_bytes", &mut self.max_topic_bytes, Size(1..=MAX_NAME_BYTES))?
            .key("max_topic_levels", &mut self.max_topic_levels, Count(1..=U16))?
            .key("max_user_properties", &mut self.max_user_properties, Count(0..=U16))?
            .key("max_filters_per_packet", &mut self.max_filters_per_packet, Count(1..=U16))?
            .key("max_client_id_bytes", &mut self.max_client_id_bytes, Size(23..=MAX_NAME_BYTES))?
            .key(
                "max_subscriptions_per_client",
                &mut self.max_subscriptions_per_client,
                Count(1..=U32),
            )?
            .key("max_subscriptions", &mut self.max_subscriptions, Count(1..=U32))?
            .key("max_subscription_bytes", &mut self.max_subscription_bytes, Size(KIB..=TIB))?
            .key("max_connections", &mut self.max_connections, Count(1..=U32))?
            .key("max_sessions", &mut self.max_sessions, Count(1..=U32))?
            .key("connections_per_second", &mut self.connections_per_second, rate())?
            .key(
                "connections_per_second_per_address",
                &mut self.connections_per_second_per_address,
                rate(),
            )?
            .key("connect_timeout", &mut self.connect_timeout, Span::ms(100..=DAY_MS))?
            .key("max_handshakes", &mut self.max_handshakes, Count(1..=U32))?
            .key("max_turn", &mut self.max_turn, OrUnlimited(Span::ms(1..=DAY_MS)))?
            .key("max_memory", &mut self.max_memory, OrUnlimited(Size(MIB..=TIB)))?
            .key(
                "publish_messages_per_second",
                &mut self.publish_messages_per_second,
                MESSAGE_RATE,
            )?
            .key("publish_bytes_per_second", &mut self.publish_bytes_per_second, BYTE_RATE)?
            .key("publish_burst", &mut self.publish_burst, Span::ms(PUBLISH_BURST_MS))?;
        Ok(())
    }
}

impl ListenerLimits {
    fn read(&mut self, reader: &mut Reader<'_>) -> Read {
        let keep_alive = OrInherit(OrUnlimited(Span::whole_seconds(1..=U16)));
        reader
            .key("max_packet_size", &mut self.max_packet_size, OrInherit(Size(64..=255 * MIB)))?
            .key("max_keep_alive", &mut self.max_keep_alive, keep_alive)?
            .key(
                "connections_per_second",
                &mut self.connections_per_second,
                OrUnlimited(Count(1..=10_000_000)),
            )?;
        self.publish.read(reader)
    }
}

impl PublishLimits {
    fn read(&mut self, reader: &mut Reader<'_>) -> Read {
        let (messages, bytes, burst) =
            (&mut self.messages_per_second, &mut self.bytes_per_second, &mut self.burst);
        reader
            .key("publish_messages_per_second", messages, OrInherit(MESSAGE_RATE))?
            .key("publish_bytes_per_second", bytes, OrInherit(BYTE_RATE))?
            .key("publish_burst", burst, OrInherit(Span::ms(PUBLISH_BURST_MS)))?;
        Ok(())
    }
}

impl Quota {
    fn read(&mut self, reader: &mut Reader<'_>) -> Read {
        let users = List { of: UserName, least: 1, most: 65_536 };
        reader.required("users", &mut self.users, users)?.key(
            "max_connections",
            &mut self.max_connections,
            OrUnlimited(Count(1..=U32)),
        )?;
        self.publish.read(reader)
    }
}

impl Mqtt {
    fn read(&mut self, reader: &mut Reader<'_>) -> Read {
        // A Session Expiry Interval of 0xFFFFFFFF is written "unlimited".
        let expiry = || OrUnlimited(Span::whole_seconds(0..=U32 - 1));
        let keep_alive = OrUnlimited(Span::whole_seconds(1..=U16));
        reader
            .key("receive_maximum", &mut self.receive_maximum, Count(1..=U16))?
            .key("max_qos", &mut self.max_qos, Count(0..=2))?
            .key("topic_alias_maximum", &mut self.topic_alias_maximum, Count(0..=U16))?
            .key(
                "topic_alias_maximum_outbound",
                &mut self.topic_alias_maximum_outbound,
                Count(0..=U16),
            )?
            .key("max_keep_alive", &mut self.max_keep_alive, keep_alive)?
            .key("max_session_expiry", &mut self.max_session_expiry, expiry())?
            .key("v3_session_expiry", &mut self.v3_session_expiry, expiry())?
            .key("max_inflight", &mut self.max_inflight, Count(1..=U16))?
            .key("max_inflight_bytes", &mut self.max_inflight_bytes, Size(1..=U32))?
            .key("retain_available", &mut self.retain_available, Flag)?
            .key(
                "wildcard_subscription_available",
                &mut self.wildcard_subscription_available,
                Flag,
            )?
            .key("shared_subscription_available", &mut self.shared_subscription_available, Flag)?
            .key("validate_payload_format", &mut self.validate_payload_format, Flag)?
            .key("response_information_prefix", &mut self.response_information_prefix, TopicPrefix)?
            .key("allow_zero_length_client_id", &mut self.allow_zero_length_client_id, Flag)?
            .optional("retry", &mut self.retry, |r, retry: &mut Retry| retry.read(r))?;
        Ok(())
    }
}

impl Retry {
    fn read(&mut self, reader: &mut Reader<'_>) -> Read {
        reader
            .key(
                "after",
                &mut self.after,
                List { of: Span::ms(1000..=DAY_MS), least: 1, most: 16 },
            )?
            .key("give_up", &mut self.give_up, Word)?;
        Ok(())
    }
}

impl Queue {
    fn read(&mut self, reader: &mut Reader<'_>) -> Read {
        reader
            .key("max_messages", &mut self.max_messages, Count(1..=U32))?
            .key("max_bytes", &mut self.max_bytes, Size(KIB..=TIB))?
            .key("in_memory", &mut self.in_memory, Count(1..=U32))?
            .key("in_memory_bytes", &mut self.in_memory_bytes, Size(KIB..=TIB))?
            .key("max_total_bytes", &mut self.max_total_bytes, Size(KIB..=TIB))?
            .key("qos0_backlog_bytes", &mut self.qos0_backlog_bytes, Size(KIB..=GIB))?
            .key("store_qos0_offline", &mut self.store_qos0_offline, Flag)?;
        Ok(())
    }
}

impl Overflow {
    fn read(&mut self, reader: &mut Reader<'_>) -> Read {
        reader
            .key("patience", &mut self.patience, Span::ms(0..=DAY_MS))?
            .key("online", &mut self.online, Word)?
            .key("offline", &mut self.offline, Word)?
            .key("v3_publisher", &mut self.v3_publisher, Word)?;
        Ok(())
    }
}

impl Retained {
    fn read(&mut self, reader: &mut Reader<'_>) -> Read {
        reader.key("max_messages", &mut self.max_messages, Count(1..=U32))?.key(
            "max_bytes",
            &mut self.max_bytes,
            Size(KIB..=TIB),
        )?;
        Ok(())
    }
}

impl Store {
    fn read(&mut self, reader: &mut Reader<'_>) -> Read {
        reader.key("data", &mut self.data, Directory)?.key("engine", &mut self.engine, Word)?.key(
            "durability",
            &mut self.durability,
            Word,
        )?;
        Ok(())
    }
}

impl Log {
    fn read(&mut self, reader: &mut Reader<'_>) -> Read {
        reader.key("level", &mut self.level, Word)?.key("format", &mut self.format, Word)?.key(
            "client_lines_per_second",
            &mut self.client_lines_per_second,
            Count(0..=1_000_000),
        )?;
        Ok(())
    }
}

impl Keyword for ClientCertificates {
    const WORDS: &'static [(&'static str, Self)] =
        &[("none", Self::None), ("optional", Self::Optional), ("required", Self::Required)];
}

impl Keyword for UserFrom {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("none", Self::None),
        ("common_name", Self::CommonName),
        ("subject_alternative_name", Self::SubjectAlternativeName),
    ];
}

impl Keyword for TlsVersion {
    const WORDS: &'static [(&'static str, Self)] = &[("1.2", Self::Tls12), ("1.3", Self::Tls13)];
}

impl Keyword for AuthLink {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("anonymous", Self::Anonymous),
        ("password_file", Self::PasswordFile),
        ("jwt", Self::Jwt),
        ("http", Self::Http),
    ];
}

impl Keyword for WithoutAnswer {
    const WORDS: &'static [(&'static str, Self)] = &[("deny", Self::Deny), ("allow", Self::Allow)];
}

impl Keyword for TokenPlace {
    const WORDS: &'static [(&'static str, Self)] =
        &[("password", Self::Password), ("user_name", Self::UserName)];
}

impl Keyword for JwtAlgorithm {
    const WORDS: &'static [(&'static str, Self)] =
        &[("HS256", Self::Hs256), ("RS256", Self::Rs256), ("ES256", Self::Es256)];
}

impl Keyword for AclDefault {
    const WORDS: &'static [(&'static str, Self)] =
        &[("unstated", Self::Unstated), ("allow", Self::Allow), ("deny", Self::Deny)];
}

impl Keyword for AclEffect {
    const WORDS: &'static [(&'static str, Self)] = &[("allow", Self::Allow), ("deny", Self::Deny)];
}

impl Keyword for AclAction {
    const WORDS: &'static [(&'static str, Self)] =
        &[("publish", Self::Publish), ("subscribe", Self::Subscribe), ("all", Self::All)];
}

impl Keyword for GiveUp {
    const WORDS: &'static [(&'static str, Self)] =
        &[("disconnect", Self::Disconnect), ("never", Self::Never)];
}

impl Keyword for OnlineOverflow {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("disconnect", Self::Disconnect),
        ("drop_oldest", Self::DropOldest),
        ("drop_newest", Self::DropNewest),
    ];
}

impl Keyword for OfflineOverflow {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("drop_newest", Self::DropNewest),
        ("drop_oldest", Self::DropOldest),
        ("end_session", Self::EndSession),
    ];
}

impl Keyword for V3Publisher {
    const WORDS: &'static [(&'static str, Self)] =
        &[("disconnect", Self::Disconnect), ("acknowledge", Self::Acknowledge)];
}

impl Keyword for StoreEngine {
    const WORDS: &'static [(&'static str, Self)] =
        &[("fjall", Self::Fjall), ("sqlite", Self::Sqlite)];
}

impl Keyword for Durability {
    const WORDS: &'static [(&'static str, Self)] =
        &[("memory", Self::Memory), ("os", Self::Os), ("fsync", Self::Fsync)];
}

impl Keyword for SharedStrategy {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("round_robin", Self::RoundRobin),
        ("random", Self::Random),
        ("least_in_flight", Self::LeastInFlight),
        ("sticky", Self::Sticky),
        ("client_id", Self::ClientId),
        ("topic", Self::Topic),
    ];
}

impl Keyword for LogLevel {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("off", Self::Off),
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("info", Self::Info),
        ("debug", Self::Debug),
        ("trace", Self::Trace),
    ];
}

impl Keyword for LogFormat {
    const WORDS: &'static [(&'static str, Self)] = &[("full", Self::Full), ("short", Self::Short)];
}
