//! `sluice.toml` and the tables of the README say what the code does.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use sluice::Config;
use sluice::config::{ClientCertificates, Retry};

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

/// The sections that are absent by default, and the least that makes one.
const ABSENT: [(&str, &str); 5] = [
    ("listener.limits", "[[listener]]\nbind = \"127.0.0.1:1\"\n[listener.limits]\n"),
    (
        "listener.tls",
        "[[listener]]\nbind = \"127.0.0.1:1\"\n[listener.tls]\ncertificate = \"c\"\nkey = \"k\"\n",
    ),
    ("listener.websocket", "[[listener]]\nbind = \"127.0.0.1:1\"\n[listener.websocket]\n"),
    ("auth.jwt", "[auth.jwt]\nkey_file = \"k\"\n"),
    ("auth.http", "[auth.http]\nurl = \"http://127.0.0.1/\"\n"),
];

/// The section of [`ABSENT`] that a key belongs to, and its name there.
fn in_absent(key: &str) -> Option<(&'static str, &'static str, String)> {
    let key = key.replace("[0]", "");
    ABSENT.into_iter().find_map(|(section, least)| {
        let name = key.strip_prefix(section)?.strip_prefix('.')?;
        Some((section, least, name.to_owned()))
    })
}

#[test]
fn it_has_every_key() {
    let table: toml::Value = toml::from_str(&uncommented()).expect("the file is TOML");
    for key in Config::keys() {
        if key.starts_with("mqtt.retry.") || in_absent(&key).is_some() {
            continue; // By default: see its example, and what is said of them.
        }
        let path = key.replace("[0]", ".0");
        let found = path.split('.').try_fold(&table, |value, part| match part.parse::<usize>() {
            Ok(index) => value.get(index),
            Err(_) => value.get(part),
        });
        assert!(found.is_some(), "sluice.toml does not have {key}");
    }
}

/// What is said of the keys of a section that is absent by default: where its example is, lines that begin with
/// the name of one, or of several.
fn described(section: &str) -> BTreeMap<String, String> {
    let text = text("sluice.toml");
    let example = format!("#     [{section}]");
    let block = text.split("\n\n").find(|block| block.lines().any(|line| line == example));
    let mut keys = BTreeMap::new();
    let mut last: Vec<String> = Vec::new();
    for line in block.expect("the section has an example").lines() {
        let Some(rest) = line.strip_prefix("#   ") else { continue };
        if rest.starts_with(|c: char| c.is_ascii_lowercase()) {
            let several = rest.split(' ').take_while(|word| word.ends_with(',')).count();
            last = rest.split(' ').take(several + 1).map(|word| word.replace(',', "")).collect();
        } else if !rest.starts_with("        ") {
            last.clear();
        }
        for key in &last {
            let said: &mut String = keys.entry(key.clone()).or_default();
            *said += &format!(" {}", rest.trim());
        }
    }
    keys
}

#[test]
fn what_it_says_of_absent_sections_is_so() {
    let mut keys = BTreeSet::new();
    for (section, least, key) in Config::keys().iter().filter_map(|key| in_absent(key)) {
        let base = Config::parse("least", least, []).expect("a configuration");
        let described = described(section);
        let said = described.get(&key).unwrap_or_else(|| panic!("{section}: nothing of {key}"));
        let default = said.split_once("the default is ").map(|(_, rest)| {
            let value = rest.split(' ').next().unwrap_or(rest);
            value.trim_end_matches([';', '.', ','])
        });
        let nothing = ["\"inherit\"", "\"unlimited\"", "\"\"", "[]"];
        let values = default.as_ref().map_or(&nothing[..], std::slice::from_ref);
        let is_default = |value: &&str| {
            let line = format!("{least}{key} = {value}\n");
            Config::parse("sluice.toml", &line, []).as_ref() == Ok(&base)
        };
        let has_none = least.contains(&format!("\n{key} = "));
        assert!(has_none || values.iter().any(is_default), "[{section}] {key}:{said}");
        keys.insert((section, key));
    }
    for (section, _) in ABSENT {
        for key in described(section).into_keys() {
            assert!(keys.contains(&(section, key.clone())), "[{section}] has no {key}");
        }
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
    assert_eq!(retry, Retry::default());
    for key in Config::keys().iter().filter_map(|key| key.strip_prefix("mqtt.retry.")) {
        assert!(examples[0].contains(&format!("{key} = ")), "{key}");
    }
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
