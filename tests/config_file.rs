//! `sluice.toml` and the tables of the README say what the code does.

use std::fs;

use sluice::Config;
use sluice::config::{ClientCertificates, GiveUp};

fn text(name: &str) -> String {
    let path = format!("{}/{name}", env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The file with every commented-out key in force.
fn uncommented() -> String {
    let lines = text("sluice.toml");
    let lines = lines.lines().map(|line| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|c: char| c == '[' || c.is_ascii_lowercase()) => rest,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn as_it_is_the_file_changes_nothing() {
    let config = Config::parse("sluice.toml", &text("sluice.toml"), []);
    assert_eq!(config, Ok(Config::default()));
}

#[test]
fn what_it_says_are_the_defaults() {
    let config = Config::parse("sluice.toml", &uncommented(), []);
    assert_eq!(config, Ok(Config::default()));
}

#[test]
fn it_has_every_key() {
    let table: toml::Value = toml::from_str(&uncommented()).expect("the file is TOML");
    for key in Config::keys() {
        let absent = [
            "mqtt.retry.",
            "listener[0].tls.",
            "listener[0].websocket.",
            "listener[0].limits.",
            "auth.jwt.",
            "auth.http.",
        ];
        if absent.iter().any(|section| key.starts_with(section)) {
            continue; // By default: see their examples.
        }
        let path = key.replace("[0]", ".0");
        let found = path.split('.').try_fold(&table, |value, part| match part.parse::<usize>() {
            Ok(index) => value.get(index),
            Err(_) => value.get(part),
        });
        assert!(found.is_some(), "sluice.toml does not have {key}");
    }
}

#[test]
fn its_examples_are_right() {
    let text = text("sluice.toml");
    let examples: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# Example: ")).collect();
    assert_eq!(examples.len(), 1, "another example needs its own assertion here");
    let config = Config::parse("example", &format!("[mqtt]\n{}", examples[0]), []);
    let retry = config.expect("the example is right").mqtt.retry.expect("it sets retry");
    assert_eq!(retry.after.len(), 3);
    assert_eq!(retry.give_up, GiveUp::Disconnect);
}

/// The lines that are indented within comments.
#[test]
fn its_long_examples_are_right() {
    let text = text("sluice.toml");
    let indented = text.lines().filter_map(|line| line.strip_prefix("#     "));
    let example: Vec<&str> = indented.filter(|line| !line.starts_with(' ')).collect();
    let config = Config::parse("example", &example.join("\n"), []).expect("the example is right");
    assert_eq!(config.listeners[0].limits.max_packet_size, Some(16 * 1024));
    let tls = config.listeners[1].tls.as_ref().expect("it speaks TLS");
    assert_eq!(tls.client_certificates, ClientCertificates::Optional);
    let jwt = config.auth.jwt.as_ref().expect("it takes tokens");
    assert_eq!(jwt.audience, None);
    assert_eq!(config.quotas[0].max_connections, Some(10));
    assert!(config.auth.http.is_some());
    assert_eq!(config.acl.rules.len(), 3);
    assert_eq!(config.acl.groups.len(), 1);
}

/// Rows of the form `| key | value | … |` of the README, where the key is one of a section of the schema.
#[test]
fn the_readme_states_the_same_defaults() {
    let keys = Config::keys();
    let mut rows = 0;
    for line in text("README.md").lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line
            .split('|')
            .map(|cell| cell.trim().trim_matches('`'))
            .filter(|c| !c.is_empty())
            .collect();
        let [key, value, ..] = cells[..] else { continue };
        if value.starts_with("SLUICE_") {
            continue; // An example of a variable.
        }
        let section = |key: &str| key.split('.').next().map(str::to_owned);
        if !key.contains('.') || !keys.iter().any(|known| section(known) == section(key)) {
            continue; // A row of another table.
        }
        let line = format!("{key} = {value}\n");
        let config = Config::parse("README.md", &line, []);
        assert_eq!(config, Ok(Config::default()), "README.md: {line}");
        rows += 1;
    }
    assert!(rows >= 20, "the README lists {rows} limits only");
}
