use std::collections::BTreeSet;
use std::time::Duration;

use super::*;

fn parse(text: &str) -> Result<Config, String> {
    Config::parse("sluice.toml", text, []).map_err(|error| error.to_string())
}

fn with(variables: &[(&str, &str)], text: &str) -> Result<Config, String> {
    let variables = variables.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    Config::parse("sluice.toml", text, variables).map_err(|error| error.to_string())
}

/// Each text, and the whole line it is refused with.
fn refused(cases: &[(&str, &str)]) {
    for (text, line) in cases {
        assert_eq!(parse(text).expect_err(text), *line);
    }
}

#[test]
fn nothing_is_the_default() {
    assert_eq!(parse(""), Ok(Config::default()));
    assert_eq!(Config::default().check(), Ok(()));
    let config = Config::default();
    assert!(config.listeners.iter().all(|listener| listener.bind.is_local()));
    assert!(config.shard_count() >= 1);
}

#[test]
fn values_are_read() {
    let config = parse(
        "shards = 3\n[[listener]]\nbind = \"0.0.0.0:1\"\n[[listener]]\nbind = \"[::1]:2\"\nnodelay = false\n\
         [limits]\nmax_packet_size = \"512KiB\"\nconnections_per_second = \"unlimited\"\n\
         [mqtt]\nmax_keep_alive = \"5m\"\nretry = { after = [\"1s\"], give_up = \"never\" }\n\
         [overflow]\nonline = \"drop_oldest\"\n\
         [auth]\nanonymous = true\npassword_file = \"users\"\n\
         [auth.ban]\naddresses = [\"192.0.2.0/24\"]\nfailures_by_user = \"unlimited\"\n",
    );
    let config = config.unwrap();
    assert_eq!(config.shards, 3);
    assert_eq!(config.shard_count(), 3);
    let binds: Vec<String> = config.listeners.iter().map(|l| l.bind.to_string()).collect();
    assert_eq!(binds, ["0.0.0.0:1", "[::1]:2"]);
    assert!(config.listeners[0].nodelay && !config.listeners[1].nodelay);
    assert_eq!(config.limits.max_packet_size, 512 << 10);
    assert_eq!(config.limits.connections_per_second, None);
    assert_eq!(config.mqtt.max_keep_alive, Some(Duration::from_secs(300)));
    let retry = Retry { after: vec![Duration::from_secs(1)], give_up: GiveUp::Never };
    assert_eq!(config.mqtt.retry, Some(retry));
    assert_eq!(config.overflow.online, OnlineOverflow::DropOldest);
    assert!(config.auth.anonymous);
    assert_eq!(config.auth.password_file, Some("users".into()));
    assert_eq!(config.auth.ban.addresses, ["192.0.2.0/24".parse().unwrap()]);
    assert_eq!(config.auth.ban.failures_by_user, None);
}

#[test]
fn tls_needs_what_belongs_together() {
    let listener = "[[listener]]\nbind = \"127.0.0.1:1\"\n[listener.tls]\n";
    let files = "certificate = \"a\"\nkey = \"b\"\n";
    let tls = |more: &str| parse(&format!("{listener}{more}"));
    assert!(tls(files).is_ok_and(|config| config.listeners[0].tls.is_some()));
    for (more, part) in [
        ("key = \"b\"", "sluice.toml:3: listener[0].tls.certificate: TLS needs a certificate"),
        ("certificate = \"a\"", "listener[0].tls.key: TLS needs a key"),
        (&format!("{files}client_ca = \"c\""), "listener[0].tls.client_ca: clients are not asked"),
        (&format!("{files}client_certificates = \"required\""), "has no use without client_ca"),
    ] {
        let error = tls(more).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
    let required = format!("{files}client_certificates = \"required\"\nclient_ca = \"c\"\n");
    let open = |more: &str| parse(&format!("{listener}{more}").replace("127.0.0.1", "0.0.0.0"));
    assert!(open(files).is_err() && open(&required).is_ok(), "certificates decide who comes in");
}

#[test]
fn other_machines_are_let_in_only_if_somebody_decides_about_clients() {
    for (bind, is_loopback) in [("127.9.9.9:1", true), ("[::1]:1", true), ("0.0.0.0:1", false)] {
        let text = format!("[[listener]]\nbind = \"{bind}\"\n");
        assert_eq!(parse(&text).is_ok(), is_loopback, "{bind}");
        let links = [
            "anonymous = true",
            "password_file = \"users\"",
            "jwt.key_file = \"key\"",
            "http.url = \"http://a\"",
        ];
        for link in links {
            assert!(parse(&format!("{text}[auth]\n{link}")).is_ok(), "{bind} {link}");
        }
    }
}

#[test]
fn users_are_named_by_a_listener_that_asks_for_them() {
    let tls = "[listener.tls]\ncertificate = \"a\"\nkey = \"b\"\nclient_certificates = \"optional\"\n\
               client_ca = \"c\"\n";
    let all = "[auth]\nanonymous = true\npassword_file = \"users\"\nhttp.url = \"http://a\"\njwt.key_file = \"key\"\n";
    let links = |links: &str| format!("authentication = {links}\n{all}");
    for (more, named) in [
        ("", false),
        ("[auth]\nanonymous = true\n", false),
        ("[auth]\nanonymous = true\npassword_file = \"users\"\n", true),
        ("[auth]\nhttp.url = \"http://a\"\n", true),
        ("[auth]\njwt.key_file = \"key\"\n", true),
        ("[auth]\njwt = { key_file = \"key\", user_claim = \"\" }\n", false),
        (&links("[\"anonymous\"]"), false),
        (&links("[]"), false),
        (&links("[\"anonymous\", \"password_file\"]"), true),
        (&links("[\"http\"]"), true),
        (&links("[\"jwt\"]"), true),
        (tls, false),
        (&format!("{tls}certificate_user = \"common_name\"\n"), true),
    ] {
        let text = format!("[[listener]]\nbind = \"127.0.0.1:1\"\n{more}");
        assert_eq!(parse(&text).unwrap().names_users(), named, "{more}");
    }
}

#[test]
fn rules_for_certificates_need_a_listener_that_asks_for_them() {
    let rule = "[acl]\ndefault = \"allow\"\n[[acl.rule]]\neffect = \"deny\"\ntopics = [\"a\"]\n\
                certificates = [\"ann\"]\n";
    let listener =
        "[[listener]]\nbind = \"127.0.0.1:1\"\n[listener.tls]\ncertificate = \"a\"\nkey = \"b\"\n";
    let wrong = ":6: acl.rule[0].certificates: no client is asked for a certificate; write \
                 client_certificates = \"optional\" or \"required\" in a [listener.tls], or take it out";
    for more in ["", listener] {
        assert_eq!(parse(&format!("{rule}{more}")), Err(format!("sluice.toml{wrong}")), "{more}");
    }
    let asks = "client_certificates = \"optional\"\nclient_ca = \"c\"\n";
    let config = parse(&format!("{rule}{listener}{asks}")).unwrap();
    assert_eq!(config.acl.rules[0].certificates, ["ann"]);
}

/// Blamed is what is missing, where it would be: not a rule, which is right as it stands.
#[test]
fn rules_need_a_default() {
    let rule = "[[acl.rule]]\neffect = \"deny\"\ntopics = [\"a\"]\n";
    let wrong = "acl.default: has to be stated when there are rules, for what none of them speaks of; write \
                 default = \"deny\" or default = \"allow\" below [acl]";
    for (text, line) in [
        (format!("shards = 1\n{rule}"), 2),
        (format!("shards = 1\n\n[acl]\n\n{rule}"), 3),
        (format!("{rule}[acl]\n"), 4),
        (format!("[acl]\ndefault = \"unstated\"\n{rule}"), 2),
    ] {
        assert_eq!(parse(&text).unwrap_err(), format!("sluice.toml:{line}: {wrong}"), "{text}");
    }
    let rule = [("SLUICE_ACL_RULE_0_EFFECT", "deny"), ("SLUICE_ACL_RULE_0_TOPICS", "a")];
    let error = with(&rule, "").unwrap_err();
    assert!(error.starts_with("SLUICE_ACL_DEFAULT: has to be stated"), "{error}");
}

/// Who lowers one limit need not lower those that it takes in; who sets one of these is told that it could
/// never count.
#[test]
fn limits_that_could_never_count_are_refused() {
    for (low, high) in [
        ("limits.max_client_id_bytes = \"1KiB\"", "limits.max_connect_size = \"512B\""),
        ("limits.max_connect_size = \"128KiB\"", "limits.max_packet_size = \"64KiB\""),
        ("queue.in_memory_bytes = \"2MiB\"", "queue.max_bytes = \"1MiB\""),
        ("queue.in_memory = 1000", "queue.max_messages = 100"),
        ("limits.max_subscriptions_per_client = 10", "limits.max_subscriptions = 9"),
        ("limits.connections_per_second_per_address = 9", "limits.connections_per_second = 8"),
        ("quota = [{ users = [\"a\"], max_connections = 5 }]", "limits.max_connections = 4"),
        (
            "listener = [{ bind = \"127.0.0.1:1\", max_connections = 5 }]",
            "limits.max_connections = 4",
        ),
        (
            "listener = [{ bind = \"127.0.0.1:1\", limits.connections_per_second = 60 }]",
            "limits.connections_per_second = 50",
        ),
    ] {
        assert!(parse(high).is_ok(), "{high}");
        let error = parse(&format!("{low}\n{high}\n")).expect_err(low);
        let (key, _) = high.split_once(' ').unwrap();
        let said = format!("sluice.toml:2: {key}: ");
        assert!(error.starts_with(&said) && error.contains(" is less than "), "{error}");
    }
    assert!(parse("[queue]\nmax_bytes = \"2GiB\"").is_ok(), "on disk");
    refused(&[(
        "[queue]\nmax_bytes = \"2GiB\"\n[store]\ndurability = \"memory\"",
        "sluice.toml:2: queue.max_bytes: \"2GiB\" is more than queue.max_total_bytes, \"1GiB\", so the \
         lower limit alone would count; write at most \"1GiB\", or raise queue.max_total_bytes",
    )]);
}

#[test]
fn tokens_need_what_belongs_together() {
    for (text, part) in [
        ("[auth.jwt]\nissuer = \"us\"", "sluice.toml:1: auth.jwt.key_file: tokens need a key"),
        (
            "[auth.jwt]\nkey_file = \"k\"\nmust_be_user_name = true\ntoken = \"user_name\"",
            "sluice.toml:3: auth.jwt.must_be_user_name: needs token = \"password\"",
        ),
        (
            "[auth.jwt]\nkey_file = \"k\"\nmust_be_user_name = true\nuser_claim = \"\"",
            "and a user_claim",
        ),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
    let jwt = parse("[auth.jwt]\njwks_file = \"k\"\nuser_claim = \"\"").unwrap().auth.jwt;
    assert_eq!(jwt.map(|jwt| (jwt.user_claim, jwt.must_expire)), Some((None, true)));
}

#[test]
fn a_listener_has_links_that_are_there() {
    let listener = |bind: &str, links: &str| {
        format!("[[listener]]\nbind = \"{bind}:1\"\nauthentication = {links}\n")
    };
    let read = |text: &str| parse(text).map(|config| config.listeners[0].authentication.clone());
    assert_eq!(read(&listener("127.0.0.1", "\"inherit\"")), Ok(None));
    assert_eq!(read(&listener("127.0.0.1", "[]")), Ok(Some(vec![])));
    // It says who comes in, so others may reach it.
    let everybody = read(&listener("0.0.0.0", "[\"anonymous\"]"));
    assert_eq!(everybody, Ok(Some(vec![AuthLink::Anonymous])));
    assert!(read(&listener("0.0.0.0", "\"inherit\"")).is_err());
    for link in ["password_file", "jwt", "http"] {
        let error = read(&listener("127.0.0.1", &format!("[{link:?}]"))).unwrap_err();
        let expected = format!(
            "sluice.toml:3: listener[0].authentication: [auth] has nothing for {link:?}; write"
        );
        assert!(error.starts_with(&expected), "{error}");
    }
    assert!(read(&listener("127.0.0.1", "[\"scram\"]")).is_err());
}

#[test]
fn a_server_to_ask_has_a_url() {
    for (text, part) in [
        ("[auth.http]\ntimeout = \"1s\"", "sluice.toml:1: auth.http.url: there has to be a server"),
        ("[auth.http]\nurl = \"ftp://a\"", "\"ftp://a\" is not a URL"),
        ("[auth.http]\nurl = \"http://\"", "is not a URL"),
        ("[auth.http]\nurl = \"https://a\"", "sluice.toml:2: auth.http.url: needs a ca_file"),
        ("[auth.http]\nurl = \"http://a\"\nauthorization = \"a\\nb\"", "no header may have"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
    let secret = parse("[auth.http]\nauthorization = \"Bearer sésame\"").unwrap_err();
    assert!(secret.starts_with("sluice.toml:2: auth.http.authorization: it has"), "{secret}");
    assert!(!secret.contains("Bearer"), "it is a secret: {secret}");
    let http = parse("[auth.http]\nurl = \"https://a\"\nca_file = \"ca\"").unwrap().auth.http;
    assert_eq!(http.map(|http| http.without_answer), Some(WithoutAnswer::Deny));
}

#[test]
fn an_empty_retry_has_its_own_defaults() {
    assert_eq!(parse("[mqtt.retry]").unwrap().mqtt.retry, Some(Retry::default()));
    assert_eq!(parse("[mqtt]").unwrap().mqtt.retry, None);
}

#[test]
fn unknown_keys_are_refused() {
    refused(&[
        ("shard = 1", "sluice.toml:1: shard: is not a known key; did you mean shards?"),
        (
            "bind = \"[::]:1\"",
            "sluice.toml:1: bind: is not a known key here; it belongs below a line [[listener]], as bind",
        ),
        (
            "[limits]\n\nmax_paket_size = 1",
            "sluice.toml:3: limits.max_paket_size: is not a known key; did you mean max_packet_size?",
        ),
        ("[limit]", "sluice.toml:1: limit: is not a known key; did you mean limits?"),
        (
            "[limits]\nreceive_maximum = 1",
            "sluice.toml:2: limits.receive_maximum: is not a known key here; did you mean \
             mqtt.receive_maximum?",
        ),
        (
            "[sys]\ncolour = 1",
            "sluice.toml:2: sys.colour: is not a known key; known here: interval",
        ),
        (
            "[mqtt]\nretry = { untl = 1 }",
            "sluice.toml:2: mqtt.retry.untl: is not a known key; known here: after, give_up",
        ),
        (
            "[retry]\ngive_up = \"never\"",
            "sluice.toml:1: retry: is not a known section here; did you mean [mqtt.retry]?",
        ),
        (
            "[tls]",
            "sluice.toml:1: tls: is not a known section here; did you mean [listener.tls] below a line \
             [[listener]]?",
        ),
    ]);
}

#[test]
fn wrong_values_are_refused() {
    refused(&[
        (
            "shards = 64",
            "sluice.toml:1: shards: 64 is out of range; write a whole number from 0 to 63",
        ),
        (
            "shards = -1",
            "sluice.toml:1: shards: -1 is out of range; write a whole number from 0 to 63",
        ),
        (
            "shards = \"2\"",
            "sluice.toml:1: shards: \"2\" is not a whole number; write a whole number from 0 to 63",
        ),
        (
            "[mqtt]\nreceive_maximum = 0",
            "sluice.toml:2: mqtt.receive_maximum: 0 is out of range; write a whole number from 1 to \
             65535",
        ),
        (
            "[limits]\nmax_packet_size = 1048576",
            "sluice.toml:2: limits.max_packet_size: 1048576 has no unit; write a size from \"64B\" \
             to \"255MiB\", in B, KiB, MiB or GiB",
        ),
        (
            "[queue]\nqos0_backlog_bytes = \"2GiB\"",
            "sluice.toml:2: queue.qos0_backlog_bytes: \"2GiB\" is out of range; write a size from \
             \"1KiB\" to \"1GiB\", in B, KiB, MiB or GiB",
        ),
        (
            "[limits]\nmax_packet_size = \"1MB\"",
            "sluice.toml:2: limits.max_packet_size: \"1MB\" has a unit that is not known, \"MB\"; \
             write a size from \"64B\" to \"255MiB\", in B, KiB, MiB or GiB",
        ),
        (
            "[overflow]\npatience = \"2 s\"",
            "sluice.toml:2: overflow.patience: \"2 s\" has a unit that is not known, \" s\"; write a \
             duration from \"0s\" to \"1d\", in ms, s, m, h or d",
        ),
        (
            "[overflow]\nonline = \"explode\"",
            "sluice.toml:2: overflow.online: \"explode\" is not known; write \"disconnect\" | \
             \"drop_oldest\" | \"drop_newest\"",
        ),
        (
            "[mqtt]\nmax_keep_alive = \"1500ms\"",
            "sluice.toml:2: mqtt.max_keep_alive: \"1500ms\" is not in whole seconds; write \
             \"unlimited\" or a duration from \"1s\" to \"65535s\", in s, m, h or d",
        ),
        (
            "[[listener]]\nbind = \"localhost:1883\"",
            "sluice.toml:2: listener[0].bind: \"localhost:1883\" is not an IP address and a port; \
             write an IP address and a port, like \"127.0.0.1:1883\", \"0.0.0.0:1883\" or \
             \"[::]:1883\", \
             or \"unix:PATH\"",
        ),
        (
            "[auth.ban]\naddresses = [\"10.0.0.0/40\"]",
            "sluice.toml:2: auth.ban.addresses: a list has \"10.0.0.0/40\", which has no such number \
             of bits; write a list of 0 to 1024, each an IP address or a network, like \
             \"192.0.2.1\", \"192.0.2.0/24\" or \"2001:db8::/32\"",
        ),
        (
            "[mqtt]\nretry.after = [\"10s\", \"20\"]",
            "sluice.toml:2: mqtt.retry.after: a list has \"20\", which has no unit; write a list of \
             1 to 16, each a duration from \"1s\" to \"1d\", in ms, s, m, h or d",
        ),
    ]);
}

#[test]
fn wrong_shapes_are_refused() {
    refused(&[
        (
            "\n[[listener]]\nnodelay = true",
            "sluice.toml:2: listener[0].bind: is missing, and has no default here; write an IP \
             address and a port, like \"127.0.0.1:1883\", \"0.0.0.0:1883\" or \"[::]:1883\", \
             or \"unix:PATH\"",
        ),
        (
            "listener = []",
            "sluice.toml:1: listener: is a list; write [[listener]] above each of its entries",
        ),
        (
            "[listener]\nbind = \"127.0.0.1:1\"",
            "sluice.toml:1: listener: is a list; write [[listener]] above each of its entries",
        ),
        ("limits = 3", "sluice.toml:1: limits: 3 is not a section; write [limits]"),
        (
            "[[listener]]\nbind = \"127.0.0.1:1\"\ntls = true",
            "sluice.toml:3: listener[0].tls: true is not a section; write [listener.tls]",
        ),
        (
            "[acl.rule]",
            "sluice.toml:1: acl.rule: is a list; write [[acl.rule]] above each of its entries",
        ),
    ]);
    let syntax = parse("shards = 1\n[limits\n").unwrap_err();
    assert!(syntax.starts_with("sluice.toml:2: is not TOML: "), "{syntax}");
    assert!(!syntax.contains('\n'), "{syntax}");
    let twice = parse("shards = 1\nshards = 2\n").unwrap_err();
    assert!(twice.starts_with("sluice.toml:2: "), "{twice}");
}

#[test]
fn what_the_largest_packet_does_not_fit_in_is_refused() {
    refused(&[
        (
            "[queue]\nmax_bytes = \"1KiB\"",
            "sluice.toml:2: queue.max_bytes: \"1KiB\" is less than limits.max_packet_size, \
             \"1MiB\", so the largest packet would never fit; write at least \"1MiB\", or lower \
             limits.max_packet_size",
        ),
        (
            "[queue]\nmax_total_bytes = \"1KiB\"",
            "sluice.toml:2: queue.max_total_bytes: \"1KiB\" is less than limits.max_packet_size, \
             \"1MiB\", so the largest packet would never fit; write at least \"1MiB\", or lower \
             limits.max_packet_size",
        ),
        (
            "[limits]\nmax_packet_size = \"8MiB\"",
            "sluice.toml:2: limits.max_packet_size: \"8MiB\" is more than queue.qos0_backlog_bytes, \
             \"1MiB\", so the largest packet would never fit; write at most \"1MiB\", or raise \
             queue.qos0_backlog_bytes and mailbox.max_bytes",
        ),
        (
            "[limits]\nmax_packet_size = \"4MiB\"",
            "sluice.toml:2: limits.max_packet_size: \"4MiB\" is more than queue.qos0_backlog_bytes, \
             \"1MiB\", so the largest packet would never fit; write at most \"1MiB\", or raise \
             queue.qos0_backlog_bytes",
        ),
        (
            "[limits]\nmax_packet_size = \"4MiB\"\n[mailbox]\nmax_bytes = \"2MiB\"",
            "sluice.toml:2: limits.max_packet_size: \"4MiB\" is more than queue.qos0_backlog_bytes, \
             \"1MiB\", so the largest packet would never fit; write at most \"1MiB\", or raise \
             queue.qos0_backlog_bytes and mailbox.max_bytes",
        ),
        (
            "[limits]\nmax_packet_size = \"1KiB\"\nmax_topic_bytes = \"2KiB\"",
            "sluice.toml:2: limits.max_packet_size: \"1KiB\" is less than limits.max_topic_bytes, \
             \"2KiB\", so the longest topic would fit in no packet; write at least \"2KiB\", or lower \
             limits.max_topic_bytes",
        ),
    ]);
    let off = "[mqtt]\nretain_available = false\n[retained]\nmax_bytes = \"1KiB\"";
    assert!(parse(off).is_ok());
}

#[test]
fn contradictions_are_refused() {
    refused(&[
        (
            "[limits]\nmax_connections = 2000000",
            "sluice.toml:2: limits.max_connections: 2000000 is more than limits.max_sessions, \
             1000000, but each connection has a session; write at most 1000000, or raise \
             limits.max_sessions",
        ),
        (
            "[limits]\nconnections_per_second = 5\nconnections_per_second_per_address = 9",
            "sluice.toml:2: limits.connections_per_second: 5 is less than \
             limits.connections_per_second_per_address, 9, so the lower limit alone would count; \
             write at least 9, or lower limits.connections_per_second_per_address",
        ),
        (
            "[mqtt]\nmax_session_expiry = \"1h\"\nv3_session_expiry = \"2h\"",
            "sluice.toml:2: mqtt.max_session_expiry: \"1h\" is less than mqtt.v3_session_expiry, \
             \"2h\", but no session lives longer; write at least \"2h\", or lower mqtt.v3_session_expiry",
        ),
    ]);
    let mut by_hand = Config::default();
    by_hand.listeners.clear();
    let error = by_hand.check().unwrap_err().to_string();
    assert_eq!(error, "listener: there must be at least one");
}

#[test]
fn listeners_that_contradict_themselves_or_others_are_refused() {
    refused(&[(
        "[[listener]]\nbind = \"127.0.0.1:1\"\n[[listener]]\nbind = \"127.0.0.1:1\"",
        "sluice.toml:4: listener[1].bind: 127.0.0.1:1 is bound by another listener already",
    )]);
    for (keys, wanted) in [
        ("bind = \"unix:\"", "bind: \"unix:\" is not a path of 1 to 107 bytes"),
        (
            "bind = \"unix:/a\"\nsocket_mode = \"660\"",
            "socket_mode: \"660\" is not four octal digits",
        ),
        ("bind = \"127.0.0.1:1\"\nproxy_protocol = true", "proxy_protocol: needs proxy_from"),
        ("bind = \"127.0.0.1:1\"\nproxy_from = [\"10.0.0.0/8\"]", "proxy_from: has no use without"),
        (
            "bind = \"unix:/a\"\n[[listener]]\nbind = \"unix:/a\"",
            "bind: unix:/a is bound by another",
        ),
    ] {
        let error = parse(&format!("[[listener]]\n{keys}")).expect_err(keys).to_string();
        assert!(error.contains(wanted), "{error}");
    }
    // Nobody else reaches it, so nobody has to be asked.
    let socket = parse("[[listener]]\nbind = \"unix:/a\"\nproxy_protocol = true").unwrap();
    assert_eq!(socket.listeners[0].bind.to_string(), "unix:/a");
    let several_chosen_by_the_system = "[[listener]]\nbind = \"127.0.0.1:0\"\n".repeat(2);
    assert_eq!(parse(&several_chosen_by_the_system).unwrap().listeners.len(), 2);
}

#[test]
fn variables_go_before_the_file() {
    let config = with(
        &[
            ("SLUICE_SHARDS", "4"),
            ("SLUICE_LIMITS_MAX_PACKET_SIZE", "64KiB"),
            ("SLUICE_MQTT_RETRY_AFTER", "1s,2s"),
            ("SLUICE_QUEUE_STORE_QOS0_OFFLINE", "true"),
            ("SLUICE_LISTENER_0_BIND", "127.0.0.1:7"),
            ("SLUICE_LISTENER_1_BIND", "127.0.0.1:8"),
            ("SLUICE_LISTENER_1_BACKLOG", "9"),
            ("PATH", "/bin"),
            ("SLUICE_SERVICE_HOST", "10.0.0.1"),
        ],
        "shards = 2\n[limits]\nmax_topic_levels = 5\n",
    );
    let config = config.unwrap();
    assert_eq!(config.shards, 4);
    assert_eq!(config.limits.max_packet_size, 64 << 10);
    assert_eq!(config.limits.max_topic_levels, 5);
    assert_eq!(config.mqtt.retry.unwrap().after, [1, 2].map(Duration::from_secs));
    assert!(config.queue.store_qos0_offline);
    let listeners: Vec<_> =
        config.listeners.iter().map(|l| (l.bind.to_string(), l.backlog)).collect();
    assert_eq!(listeners, [("127.0.0.1:7".to_owned(), 1024), ("127.0.0.1:8".to_owned(), 9)]);
}

#[test]
fn wrong_variables_are_refused() {
    let cases = [
        (
            ("SLUICE_LIMITS_MAX_PACKT_SIZE", "1MiB"),
            "SLUICE_LIMITS_MAX_PACKT_SIZE: is not a known variable; did you mean \
             SLUICE_LIMITS_MAX_PACKET_SIZE?",
        ),
        (
            ("SLUICE_X", "1"),
            "SLUICE_X: is not a known variable; each is SLUICE_<SECTION>_<KEY>, and all sections and keys \
             are listed by sluice config",
        ),
        (
            ("SLUICE_SYS_INTERVAL", "10"),
            "SLUICE_SYS_INTERVAL: \"10\" has no unit; write a duration from \"0s\" to \
             \"1d\", in ms, s, m, h or d",
        ),
        (
            ("SLUICE_LISTENER_1_NODELAY", "true"),
            "SLUICE_LISTENER_1_BIND: is missing, and has no default here; write an IP \
             address and a port, like \"127.0.0.1:1883\", \"0.0.0.0:1883\" or \"[::]:1883\", \
             or \"unix:PATH\"",
        ),
        (
            ("SLUICE_QUEUE_MAX_BYTES", "1KiB"),
            "SLUICE_QUEUE_MAX_BYTES: \"1KiB\" is less than limits.max_packet_size, \
             \"1MiB\", so the largest packet would never fit; write at least \"1MiB\", or lower \
             limits.max_packet_size",
        ),
        (
            ("SLUICE_AUTH_JWT_ISSUER", "us"),
            "SLUICE_AUTH_JWT_KEY_FILE: tokens need a key; write the path of its file, or that of jwks_file",
        ),
    ];
    for (variable, line) in cases {
        assert_eq!(with(&[variable], "").unwrap_err(), line);
    }
}

/// A control character is wrong for every key but those of files and claims, which take it.
#[test]
fn each_key_has_a_variable_of_its_own() {
    let text = "[[listener]]\nbind = \"127.0.0.1:1\"\n[listener.tls]\ncertificate = \"c\"\nkey = \"k\"\n\
                client_certificates = \"optional\"\nclient_ca = \"ca\"\n\
                [auth.jwt]\nkey_file = \"k\"\n[auth.http]\nurl = \"https://a.example/\"\nca_file = \"c\"\n";
    let base = parse(text).expect("a configuration");
    let mut variables = BTreeSet::new();
    for key in Config::keys() {
        let name = key.replace("[0]", "_0").replace('.', "_").to_uppercase();
        let variable = format!("SLUICE_{name}");
        match with(&[(&variable, "\u{1}")], text) {
            Ok(config) => assert_eq!(config.differences(&base), [key]),
            Err(error) => {
                let (place, message) = error.split_once(": ").expect("it says where");
                assert_eq!(place, variable);
                assert!(message.contains("; write ") && !message.contains("variable"), "{error}");
            }
        }
        assert!(variables.insert(variable));
    }
    assert!(variables.len() > 100, "{} keys", variables.len());
}
