//! What to say of a file that is not TOML.

/// What lines of a `mosquitto.conf` begin with.
const MOSQUITTO: &[&str] = &[
    "acl_file",
    "address",
    "allow_anonymous",
    "allow_zero_length_clientid",
    "auth_plugin",
    "autosave_interval",
    "bind_address",
    "bind_interface",
    "cafile",
    "capath",
    "certfile",
    "clientid_prefixes",
    "connection",
    "connection_messages",
    "crlfile",
    "global_plugin",
    "http_dir",
    "include_dir",
    "keyfile",
    "listener",
    "log_dest",
    "log_timestamp",
    "log_timestamp_format",
    "log_type",
    "max_connections",
    "max_inflight_bytes",
    "max_inflight_messages",
    "max_keepalive",
    "max_packet_size",
    "max_queued_bytes",
    "max_queued_messages",
    "memory_limit",
    "message_size_limit",
    "mount_point",
    "password_file",
    "per_listener_settings",
    "persistence",
    "persistence_file",
    "persistence_location",
    "persistent_client_expiration",
    "pid_file",
    "plugin",
    "port",
    "protocol",
    "psk_file",
    "queue_qos0_messages",
    "require_certificate",
    "retain_available",
    "set_tcp_nodelay",
    "socket_domain",
    "sys_interval",
    "tls_version",
    "topic",
    "use_identity_as_username",
    "use_username_as_clientid",
    "user",
    "websockets_log_level",
];

/// What to say of the line (from 1) at which a text turns out not to be TOML; `error` is what the parser says.
pub(super) fn wrong(text: &str, line: usize, error: &str) -> String {
    let line = text.lines().nth(line.saturating_sub(1)).unwrap_or_default().trim();
    if is_mosquitto(line) {
        return format!(
            "is not TOML, but looks like the configuration of Mosquitto ({line:?}); how its options are \
             written here is in the README, \"Coming from Mosquitto\""
        );
    }
    if let Some((key, value)) = unquoted(line) {
        return format!("is not TOML: text needs quotes: {key} = \"{value}\"");
    }
    format!("is not TOML: {error}")
}

/// A key and its value, if that is text that stands there without quotes.
fn unquoted(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once('=')?;
    let value = value.split_once('#').map_or(value, |(value, _)| value);
    let (key, value) = (key.trim(), value.trim());
    let is_key = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    let is_text = value.contains(|c: char| c.is_ascii_alphabetic());
    let is_plain = !value.contains(['"', '\'', '[', ']', '{', '}']);
    let is_known = ["true", "false", "inf", "nan"].contains(&value);
    (!key.is_empty() && key.chars().all(is_key) && is_text && is_plain && !is_known)
        .then_some((key, value))
}

fn is_mosquitto(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let option = words.next().is_some_and(|word| MOSQUITTO.contains(&word));
    option && words.next().is_some_and(|word| !word.starts_with('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_without_quotes_is_told() {
        for (line, key, value) in [
            ("durability = fsync", "durability", "fsync"),
            ("max_bytes=10GiB # of each", "max_bytes", "10GiB"),
            ("store.data = /var/lib/sluice", "store.data", "/var/lib/sluice"),
        ] {
            assert_eq!(unquoted(line), Some((key, value)), "{line}");
        }
        for line in ["a = \"b", "a = [b", "a = true", "a = 012", "a =", "[a]", "a b = c"] {
            assert_eq!(unquoted(line), None, "{line}");
        }
    }

    #[test]
    fn lines_of_mosquitto_are_told_from_toml() {
        for line in ["listener 1883", "allow_anonymous true", "log_dest file /var/log/a.log"] {
            assert!(is_mosquitto(line), "{line}");
        }
        for line in ["", "listener", "max_packet_size = 2MiB", "colour red", "[listener", "port=1"]
        {
            assert!(!is_mosquitto(line), "{line}");
        }
    }
}
