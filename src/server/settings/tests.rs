//! Each key of the configuration arrives where it belongs.

use super::*;
use crate::router::RouterLimits;

/// A layer that is used without the configuration behaves as with an empty one.
#[test]
fn the_layers_have_the_defaults_of_the_configuration() {
    let settings = settings(&Config::default());
    assert_eq!(settings.limits, Limits::default());
    assert_eq!(settings.session, SessionLimits::default());
    let router = RouterLimits::default();
    assert_eq!(settings.max_retained_messages, router.max_retained_messages);
    assert_eq!(settings.max_retained_bytes, router.max_retained_bytes);
    assert_eq!(settings.route_cache_entries, router.route_cache_entries);
    assert_eq!(settings.strategy, router.strategy);
}

const TOML: &str = r#"
    [[listener]]
    bind = "127.0.0.1:1"
    max_connections = 1
    proxy_protocol = true
    proxy_from = ["192.0.2.0/24"]
    [listener.limits]
    max_packet_size = "2KiB"
    max_keep_alive = "3s"
    connections_per_second = 4
    publish_messages_per_second = 5
    publish_bytes_per_second = "6B"
    publish_burst = "7s"
    [[listener]]
    bind = "127.0.0.1:2"
    [limits]
    max_packet_size = "8KiB"
    max_connect_size = "1009B"
    max_topic_bytes = "10B"
    max_topic_levels = 11
    max_user_properties = 12
    max_filters_per_packet = 13
    max_client_id_bytes = "114B"
    max_subscriptions_per_client = 15
    max_subscriptions = 16
    max_subscription_bytes = "17KiB"
    max_connections = 58
    max_sessions = 59
    connections_per_second = 21
    connections_per_second_per_address = 20
    connect_timeout = "22s"
    max_turn = "23s"
    max_memory = "24MiB"
    publish_messages_per_second = 25
    publish_bytes_per_second = "26B"
    publish_burst = "27s"
    [mqtt]
    receive_maximum = 28
    max_qos = 1
    topic_alias_maximum = 29
    topic_alias_maximum_outbound = 30
    max_keep_alive = "31s"
    max_session_expiry = "33s"
    v3_session_expiry = "32s"
    max_inflight = 34
    max_inflight_bytes = "35B"
    response_information_prefix = "36/"
    retry = { after = ["37s"], give_up = "never" }
    [queue]
    max_messages = 40
    max_bytes = "41KiB"
    in_memory = 38
    in_memory_bytes = "39KiB"
    max_total_bytes = "42KiB"
    qos0_backlog_bytes = "43KiB"
    [overflow]
    patience = "44s"
    online = "drop_newest"
    offline = "end_session"
    [retained]
    max_messages = 45
    max_bytes = "46KiB"
    [shared]
    strategy = "sticky"
    [sys]
    interval = "47s"
    [shutdown]
    timeout = "48s"
    [mailbox]
    max_bytes = "49KiB"
    [route_cache]
    entries = 50
    [log]
    client_lines_per_second = 51
    [[quota]]
    users = ["eve"]
    max_connections = 52
    publish_messages_per_second = 53
    publish_bytes_per_second = "54B"
    publish_burst = "55s"
    [[quota]]
    users = ["*"]
    max_connections = 56
"#;

/// The flags, in the order in which [`expected`] takes them.
const FLAGS: [(&str, &str); 9] = [
    ("SLUICE_MQTT_RETAIN_AVAILABLE", "false"),
    ("SLUICE_MQTT_WILDCARD_SUBSCRIPTION_AVAILABLE", "false"),
    ("SLUICE_MQTT_SHARED_SUBSCRIPTION_AVAILABLE", "false"),
    ("SLUICE_MQTT_VALIDATE_PAYLOAD_FORMAT", "false"),
    ("SLUICE_MQTT_ALLOW_ZERO_LENGTH_CLIENT_ID", "false"),
    ("SLUICE_QUEUE_STORE_QOS0_OFFLINE", "true"),
    ("SLUICE_ACL_V3_PUBLISHER", "disconnect"),
    ("SLUICE_OVERFLOW_V3_PUBLISHER", "acknowledge"),
    ("SLUICE_SHUTDOWN_PUBLISH_WILLS", "false"),
];

/// What becomes of the listeners of [`TOML`].
fn expected_listeners() -> Vec<ListenerSettings> {
    let rate = |messages, bytes, burst| PublishRate {
        messages_per_second: Some(messages),
        bytes_per_second: Some(bytes),
        burst: Duration::from_secs(burst),
    };
    let listener = |max_connections, proxies, connections_per_second, terms, publish_rate| {
        let handshake_timeout = None;
        let (max_packet_size, max_keep_alive) = terms;
        let terms = Terms { max_packet_size, max_keep_alive };
        ListenerSettings {
            max_connections,
            proxies,
            handshake_timeout,
            connections_per_second,
            terms,
            publish_rate,
        }
    };
    let proxies = vec!["192.0.2.0/24".parse().expect("a network")];
    vec![
        listener(1, Some(proxies), Some(4), (2 << 10, 3), rate(5, 6, 7)),
        listener(usize::MAX, None, None, (8 << 10, 31), rate(25, 26, 27)),
    ]
}

/// What becomes of its quotas.
fn expected_quotas() -> Quotas {
    let publish_rate = PublishRateChange {
        messages_per_second: Some(Some(53)),
        bytes_per_second: Some(Some(54)),
        burst: Some(Duration::from_secs(55)),
    };
    let eve = Quota { max_connections: Some(52), publish_rate };
    let others = Quota { max_connections: Some(56), publish_rate: PublishRateChange::default() };
    Quotas { by_user: [("eve".into(), eve)].into(), others: Some(others) }
}

/// What becomes of it all, with one of the [`FLAGS`] another.
fn expected(flag: usize) -> Settings {
    const KIB: usize = 1 << 10;
    let seconds = Duration::from_secs;
    Settings {
        limits: Limits {
            max_packet_size: 8 << 10,
            max_topic_bytes: 10,
            max_topic_levels: 11,
            max_user_properties: 12,
            max_filters_per_packet: 13,
            max_client_id_bytes: 114,
        },
        listeners: expected_listeners(),
        quotas: expected_quotas(),
        max_connections: 58,
        max_sessions: 59,
        connections_per_second: Some(21),
        connections_per_second_per_address: Some(20),
        max_turn: Some(seconds(23)),
        max_memory: Some(24 << 20),
        connect_timeout: seconds(22),
        max_connect_size: 1009,
        receive_maximum: NonZeroU16::new(28).expect("it is not zero"),
        maximum_qos: QoS::AtLeastOnce,
        topic_alias_maximum: 29,
        topic_alias_maximum_outbound: 30,
        max_session_expiry: 33,
        persistent_session_expiry: 32,
        retain_available: flag != 0,
        wildcard_subscription_available: flag != 1,
        shared_subscription_available: flag != 2,
        validate_payload_format: flag != 3,
        response_information_prefix: "36/".into(),
        allow_zero_length_client_id: flag != 4,
        max_subscriptions_per_client: 15,
        max_subscriptions: 16,
        max_subscription_bytes: 17 * KIB,
        max_total_queued_bytes: 42 << 10,
        session: SessionLimits {
            max_inflight: 34,
            max_inflight_bytes: 35,
            max_queued_messages: 40,
            max_queued_bytes: 41 << 10,
            queue_qos0: flag == 5,
            in_memory: InMemory { messages: 38, bytes: 39 << 10 },
        },
        qos0_backlog_bytes: 43 * KIB,
        retry: Some(Retry { after: vec![seconds(37)], give_up: GiveUp::Never }),
        patience: seconds(44),
        overflow_online: OverflowOnline::DropNewest,
        overflow_offline: OverflowOffline::EndSession,
        acknowledge_denied: flag != 6,
        acknowledge_unkept: flag == 7,
        strategy: Strategy::Sticky,
        max_retained_messages: 45,
        max_retained_bytes: 46 * KIB,
        route_cache_entries: 50,
        mailbox_bytes: 49 * KIB,
        sys_interval: seconds(47),
        shutdown_timeout: seconds(48),
        shutdown_wills: flag != 8,
        client_lines_per_second: 51,
    }
}

/// Each value differs from all others, so that none can be in the place of another.
#[test]
fn each_setting_is_its_own_key() {
    for (flag, (name, value)) in FLAGS.into_iter().enumerate() {
        let config = Config::parse("test.toml", TOML, [(name.into(), value.into())]);
        assert_eq!(settings(&config.expect("a configuration")), expected(flag), "{name}");
    }
}

#[test]
fn each_option_of_a_listener_is_what_it_says() {
    let options = |keys: &str| {
        let text = format!("[[listener]]\nbind = \"[::1]:0\"\n{keys}");
        let config = Config::parse("test.toml", &text, []).unwrap();
        listen_options(&config.listeners[0])
    };
    let kept_at_default = ListenOptions { defer_accept: true, ..ListenOptions::default() };
    assert_eq!(options(""), kept_at_default);
    let [idle, interval] = [77, 9].map(Duration::from_secs);
    let keep_alive = "keepalive = \"77s\"\nkeepalive_interval = \"9s\"\nkeepalive_probes = 3";
    let default = || kept_at_default.clone();
    for (keys, changed) in [
        ("v6only = true", ListenOptions { only_v6: true, ..default() }),
        ("nodelay = false", ListenOptions { nodelay: false, ..default() }),
        ("defer_accept = false", ListenOptions { defer_accept: false, ..default() }),
        (
            "receive_buffer = \"30000B\"",
            ListenOptions { receive_buffer: Some(30_000), ..default() },
        ),
        ("send_buffer = \"20000B\"", ListenOptions { send_buffer: Some(20_000), ..default() }),
        (
            keep_alive,
            ListenOptions {
                keep_alive: Some(KeepAlive { idle, interval, probes: 3 }),
                ..default()
            },
        ),
    ] {
        assert_eq!(options(keys), changed, "{keys}");
    }
}
