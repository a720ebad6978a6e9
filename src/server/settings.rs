//! From the configuration to what the shards take.

use std::num::{NonZeroU16, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use crate::auth::{
    AccessSettings, AclRule, AclSettings, BanSettings, HttpSettings, JwtSettings, Link, Network,
};
use crate::config::{self, Config};
use crate::hooks::Effect;
use crate::mqtt::{Limits, QoS};
use crate::net::ws::WsSettings;
use crate::net::{
    ALPN_HTTP, ALPN_MQTT, CertificateFiles, CertificateUser, ClientCa, ClientCertificates,
    KeepAlive, ListenOptions, TlsSettings,
};
use crate::router::Strategy;
use crate::session::{InMemory, SessionLimits};
use crate::shard::{
    GiveUp, ListenerSettings, OverflowOffline, OverflowOnline, PublishRate, PublishRateChange,
    Quota, Quotas, Retry, Settings, Terms,
};
use crate::store::absolute;

fn seconds(limit: Option<Duration>) -> u32 {
    limit.map_or(u32::MAX, |limit| u32::try_from(limit.as_secs()).unwrap_or(u32::MAX))
}

/// A file that the configuration names, as errors are to name it.
fn whole(file: &Option<PathBuf>) -> Option<PathBuf> {
    file.as_deref().map(absolute)
}

/// Who may come in, by the configuration.
#[must_use]
pub fn access_settings(config: &Config) -> AccessSettings {
    let config::Auth { anonymous, password_file, jwt, http, threads, queue, ban } = &config.auth;
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    AccessSettings {
        anonymous: *anonymous,
        password_file: whole(password_file),
        jwt: jwt.as_ref().map(jwt_settings),
        http: http.as_ref().map(http_settings),
        listeners: config.listeners.iter().map(links).collect(),
        threads: if *threads == 0 { cores.div_ceil(2) } else { usize::from(*threads) },
        queue: *queue as usize,
        names_users: config.names_users(),
        for_users: (!config.quotas.is_empty()).then(|| "quota[0]".to_owned()),
        bans: BanSettings {
            failures_by_address: ban.failures_by_address,
            failures_by_user: ban.failures_by_user,
            within: ban.within,
            duration: ban.duration,
            addresses: ban.addresses.clone(),
            users: ban.users.clone(),
            exempt: ban.exempt.clone(),
            exempt_users: ban.exempt_users.clone(),
        },
        acl: acl_settings(&config.acl),
    }
}

/// The same for a broker of which, with `has_own`, other code says who a client is, or what it may do.
pub(super) fn own_access(config: &Config, has_own: bool) -> AccessSettings {
    let settings = access_settings(config);
    AccessSettings { names_users: settings.names_users || has_own, ..settings }
}

/// The links of a listener that has some of its own.
fn links(listener: &config::Listener) -> Option<Vec<Link>> {
    let link = |link: &config::AuthLink| match link {
        config::AuthLink::Anonymous => Link::Anonymous,
        config::AuthLink::PasswordFile => Link::PasswordFile,
        config::AuthLink::Jwt => Link::Jwt,
        config::AuthLink::Http => Link::Http,
    };
    listener.authentication.as_ref().map(|links| links.iter().map(link).collect())
}

fn http_settings(http: &config::HttpAuth) -> HttpSettings {
    HttpSettings {
        url: http.url.clone(),
        ca: whole(&http.ca_file),
        authorization: http.authorization.clone(),
        timeout: http.timeout,
        threads: usize::from(http.threads),
        queue: http.queue as usize,
        cache_time: http.cache_time,
        cache_entries: http.cache_entries as usize,
        allow_without_answer: http.without_answer == config::WithoutAnswer::Allow,
    }
}

fn jwt_settings(jwt: &config::Jwt) -> JwtSettings {
    JwtSettings {
        in_user_name: jwt.token == config::TokenPlace::UserName,
        key: whole(&jwt.key_file).map(|file| (file, jwt.algorithm)),
        jwks: whole(&jwt.jwks_file),
        user_claim: jwt.user_claim.clone(),
        must_be_user_name: jwt.must_be_user_name,
        leeway: jwt.leeway,
        must_expire: jwt.must_expire,
        issuer: jwt.issuer.clone(),
        audience: jwt.audience.clone(),
        acl_claim: jwt.acl_claim.clone(),
    }
}

/// The TLS of a listener, and which name in a certificate is a user.
pub(super) fn tls_settings(
    tls: &config::ListenerTls,
    websocket: Option<&config::ListenerWebSocket>,
) -> (TlsSettings, CertificateUser) {
    let files = |chain: &Option<PathBuf>, key: &Option<PathBuf>| CertificateFiles {
        chain: whole(chain).unwrap_or_default(),
        key: whole(key).unwrap_or_default(),
    };
    let more = tls.more.iter().map(|more| files(&more.certificate, &more.key));
    let ca =
        || ClientCa { ca: whole(&tls.client_ca).unwrap_or_default(), crl: whole(&tls.client_crl) };
    let settings = TlsSettings {
        certificates: [files(&tls.certificate, &tls.key)].into_iter().chain(more).collect(),
        clients: match tls.client_certificates {
            config::ClientCertificates::None => ClientCertificates::None,
            config::ClientCertificates::Optional => ClientCertificates::Optional(ca()),
            config::ClientCertificates::Required => ClientCertificates::Required(ca()),
        },
        only_1_3: tls.min_version == config::TlsVersion::Tls13,
        alpn: if websocket.is_some() { ALPN_HTTP } else { ALPN_MQTT },
    };
    let user = match tls.certificate_user {
        config::UserFrom::None => CertificateUser::None,
        config::UserFrom::CommonName => CertificateUser::CommonName,
        config::UserFrom::SubjectAlternativeName => CertificateUser::SubjectAlternativeName,
    };
    (settings, user)
}

/// How the sockets of a listener are set up.
pub(super) fn listen_options(listener: &config::Listener) -> ListenOptions {
    let keep_alive = listener.keepalive.map(|idle| KeepAlive {
        idle,
        interval: listener.keepalive_interval,
        probes: u32::from(listener.keepalive_probes),
    });
    ListenOptions {
        only_v6: listener.v6only,
        keep_alive,
        nodelay: listener.nodelay,
        defer_accept: listener.defer_accept,
        receive_buffer: listener.receive_buffer.map(|size| size as usize),
        send_buffer: listener.send_buffer.map(|size| size as usize),
    }
}

/// The networks of the proxies in front of a listener, if there are any.
fn proxies(listener: &config::Listener) -> Option<Vec<Network>> {
    let proxies = match &listener.bind {
        config::Bind::Ip(_) => listener.proxy_from.clone(),
        // All count as 127.0.0.1; the file says who may connect.
        config::Bind::Unix(_) => "127.0.0.1".parse().into_iter().collect(),
    };
    listener.proxy_protocol.then_some(proxies)
}

/// What the WebSocket of a listener goes by.
pub(super) fn ws_settings(websocket: &config::ListenerWebSocket) -> WsSettings {
    WsSettings {
        path: websocket.path.clone(),
        origins: websocket.origins.clone(),
        max_head: websocket.max_head_bytes as usize,
        max_frame: u64::from(websocket.max_frame_bytes),
    }
}

fn acl_settings(acl: &config::Acl) -> AclSettings {
    if let Some(file) = whole(&acl.mosquitto_file) {
        return AclSettings::MosquittoFile(file);
    }
    if acl.default == config::AclDefault::Unstated {
        return AclSettings::Open;
    }
    let rules = acl.rules.iter().map(|rule| acl_rule(rule, &acl.groups)).collect();
    AclSettings::Rules { rules, otherwise: acl.default == config::AclDefault::Allow }
}

fn acl_rule(rule: &config::AclRule, groups: &[config::AclGroup]) -> AclRule {
    let members = groups.iter().filter(|group| rule.groups.contains(&group.name));
    let members = members.flat_map(|group| group.users.iter().cloned());
    // A rule for a group that has nobody in it is for nobody.
    let is_for_users = !(rule.users.is_empty() && rule.groups.is_empty());
    let max_qos = QoS::from_u8(rule.max_qos).unwrap_or(QoS::ExactlyOnce);
    AclRule {
        effect: match rule.effect {
            config::AclEffect::Allow => Effect::Allow { max_qos, retain: rule.retain },
            config::AclEffect::Deny => Effect::Deny,
        },
        publish: rule.action != config::AclAction::Subscribe,
        subscribe: rule.action != config::AclAction::Publish,
        topics: rule.topics.clone(),
        users: is_for_users.then(|| rule.users.iter().cloned().chain(members).collect()),
        clients: rule.clients.clone(),
        addresses: rule.addresses.clone(),
        certificates: rule.certificates.clone(),
    }
}

/// The configuration as the shards take it, for those who put shards together themselves.
#[must_use]
pub fn settings(config: &Config) -> Settings {
    let Config { limits, mqtt, queue, overflow, retained, .. } = config;
    let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    Settings {
        limits: packet_limits(limits),
        listeners: config.listeners.iter().map(|one| listener_settings(one, config)).collect(),
        quotas: quotas(&config.quotas),
        max_connections: limits.max_connections as usize,
        max_sessions: limits.max_sessions as usize,
        connections_per_second: limits.connections_per_second,
        connections_per_second_per_address: limits.connections_per_second_per_address,
        max_turn: limits.max_turn,
        max_memory: limits.max_memory,
        connect_timeout: limits.connect_timeout,
        max_connect_size: limits.max_connect_size.min(limits.max_packet_size),
        receive_maximum: NonZeroU16::new(mqtt.receive_maximum).unwrap_or(NonZeroU16::MAX),
        maximum_qos: QoS::from_u8(mqtt.max_qos).unwrap_or(QoS::ExactlyOnce),
        topic_alias_maximum: mqtt.topic_alias_maximum,
        topic_alias_maximum_outbound: mqtt.topic_alias_maximum_outbound,
        max_session_expiry: seconds(mqtt.max_session_expiry),
        persistent_session_expiry: seconds(mqtt.v3_session_expiry),
        retain_available: mqtt.retain_available,
        wildcard_subscription_available: mqtt.wildcard_subscription_available,
        shared_subscription_available: mqtt.shared_subscription_available,
        validate_payload_format: mqtt.validate_payload_format,
        response_information_prefix: mqtt.response_information_prefix.clone(),
        allow_zero_length_client_id: mqtt.allow_zero_length_client_id,
        max_subscriptions_per_client: limits.max_subscriptions_per_client as usize,
        max_subscriptions: limits.max_subscriptions as usize,
        max_subscription_bytes: bytes(limits.max_subscription_bytes),
        max_total_queued_bytes: queue.max_total_bytes,
        session: session_limits(mqtt, queue),
        qos0_backlog_bytes: bytes(queue.qos0_backlog_bytes),
        retry: mqtt.retry.as_ref().map(retry),
        patience: overflow.patience,
        overflow_online: overflow_online(overflow.online),
        overflow_offline: overflow_offline(overflow.offline),
        acknowledge_denied: config.acl.v3_publisher == config::V3Publisher::Acknowledge,
        acknowledge_unkept: overflow.v3_publisher == config::V3Publisher::Acknowledge,
        strategy: strategy(config.shared.strategy),
        max_retained_messages: retained.max_messages as usize,
        max_retained_bytes: bytes(retained.max_bytes),
        route_cache_entries: config.route_cache.entries as usize,
        mailbox_bytes: bytes(config.mailbox.max_bytes),
        sys_interval: config.sys.interval,
        shutdown_timeout: config.shutdown.timeout,
        shutdown_wills: config.shutdown.publish_wills,
        client_lines_per_second: config.log.client_lines_per_second,
    }
}

fn packet_limits(limits: &config::Limits) -> Limits {
    Limits {
        max_packet_size: limits.max_packet_size,
        max_topic_bytes: limits.max_topic_bytes,
        max_topic_levels: limits.max_topic_levels,
        max_user_properties: limits.max_user_properties,
        max_filters_per_packet: limits.max_filters_per_packet,
        max_client_id_bytes: limits.max_client_id_bytes,
    }
}

fn session_limits(mqtt: &config::Mqtt, queue: &config::Queue) -> SessionLimits {
    SessionLimits {
        max_inflight: mqtt.max_inflight,
        max_inflight_bytes: mqtt.max_inflight_bytes,
        max_queued_messages: queue.max_messages,
        max_queued_bytes: queue.max_bytes,
        queue_qos0: queue.store_qos0_offline,
        in_memory: InMemory { messages: queue.in_memory, bytes: queue.in_memory_bytes },
    }
}

fn retry(retry: &config::Retry) -> Retry {
    let give_up = match retry.give_up {
        config::GiveUp::Disconnect => GiveUp::Disconnect,
        config::GiveUp::Never => GiveUp::Never,
    };
    Retry { after: retry.after.clone(), give_up }
}

fn overflow_online(overflow: config::OnlineOverflow) -> OverflowOnline {
    match overflow {
        config::OnlineOverflow::Disconnect => OverflowOnline::Disconnect,
        config::OnlineOverflow::DropOldest => OverflowOnline::DropOldest,
        config::OnlineOverflow::DropNewest => OverflowOnline::DropNewest,
    }
}

fn overflow_offline(overflow: config::OfflineOverflow) -> OverflowOffline {
    match overflow {
        config::OfflineOverflow::DropNewest => OverflowOffline::DropNewest,
        config::OfflineOverflow::DropOldest => OverflowOffline::DropOldest,
        config::OfflineOverflow::EndSession => OverflowOffline::EndSession,
    }
}

fn listener_settings(listener: &config::Listener, config: &Config) -> ListenerSettings {
    let (own, all) = (&listener.limits, &config.limits);
    let max_keep_alive = own.max_keep_alive.unwrap_or(config.mqtt.max_keep_alive);
    let publish_rate = PublishRate {
        messages_per_second: all.publish_messages_per_second,
        bytes_per_second: all.publish_bytes_per_second,
        burst: all.publish_burst,
    };
    ListenerSettings {
        max_connections: listener.max_connections.map_or(usize::MAX, |max| max as usize),
        proxies: proxies(listener),
        handshake_timeout: listener.tls.as_ref().map(|tls| tls.handshake_timeout),
        connections_per_second: own.connections_per_second,
        terms: Terms {
            max_packet_size: own.max_packet_size.unwrap_or(all.max_packet_size),
            max_keep_alive: max_keep_alive
                .map_or(0, |max| u16::try_from(max.as_secs()).unwrap_or(u16::MAX)),
        },
        publish_rate: rate_change(&own.publish).over(publish_rate),
    }
}

fn rate_change(publish: &config::PublishLimits) -> PublishRateChange {
    PublishRateChange {
        messages_per_second: publish.messages_per_second,
        bytes_per_second: publish.bytes_per_second,
        burst: publish.burst,
    }
}

fn quotas(all: &[config::Quota]) -> Quotas {
    let mut quotas = Quotas::default();
    for one in all {
        let quota =
            Quota { max_connections: one.max_connections, publish_rate: rate_change(&one.publish) };
        for user in &one.users {
            match user.as_str() {
                "*" => quotas.others = Some(quota),
                user => _ = quotas.by_user.insert(user.to_owned(), quota),
            }
        }
    }
    quotas
}

fn strategy(strategy: config::SharedStrategy) -> Strategy {
    match strategy {
        config::SharedStrategy::RoundRobin => Strategy::RoundRobin,
        config::SharedStrategy::Random => Strategy::Random,
        config::SharedStrategy::LeastInFlight => Strategy::LeastInFlight,
        config::SharedStrategy::Sticky => Strategy::Sticky,
        config::SharedStrategy::ClientId => Strategy::ClientId,
        config::SharedStrategy::Topic => Strategy::Topic,
    }
}

#[cfg(test)]
mod tests;
