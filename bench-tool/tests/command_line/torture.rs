//! `torture`: what stands in its file, and what it ends with.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::{ERROR, MESSAGES, PROGRAM, USAGE, run};

fn file(text: &str) -> (TempDir, String) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("brokers.toml");
    fs::write(&path, text).unwrap();
    let path = path.display().to_string();
    (directory, path)
}

/// What a torture of the broker beside this tool ends with: `more` goes on with its command.
fn torture(more: &str) -> (Option<i32>, String, String) {
    let broker = Path::new(PROGRAM).with_file_name("sluice");
    assert!(broker.exists(), "cargo test --workspace makes it");
    let (_directory, path) = file(&format!(
        "[[target]]\nname = \"a\"\ncommand = [\"{{beside}}/sluice\", \"--bind\", \"127.0.0.1:{{port}}\", \
         \"--shards\", \"2\", \"--data\", \"{{files}}/data\", {more}]\n"
    ));
    let few = ["--kills", "2", "--kill-after", "50..150", "--overdue", "1", "--seed", "5"];
    let output = run(&[&["torture", path.as_str()][..], &few].concat());
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_broker_that_keeps_its_word_is_a_success() {
    let (status, said, errors) = torture(r#""--durability", "os""#);
    assert_eq!(status, Some(0), "{said}{errors}");
    assert!(said.starts_with("a, killed 2 times, --seed 5\n"), "{said}");
    assert!(said.contains("nothing was lost, repeated, overtaken or forgotten"), "{said}");
    assert!(errors.contains("a: killed 2 of 2 times"), "{errors}");
}

#[test]
fn a_broker_that_does_not_has_a_status_of_its_own() {
    let (status, said, errors) = torture(r#""--durability", "memory""#);
    assert_eq!(status, Some(MESSAGES), "{said}{errors}");
    for violated in ["that were lost", "with a wrong Session Present"] {
        let is_it = |line: &str| line.contains("VIOLATED: ") && line.ends_with(violated);
        assert!(said.lines().any(is_it), "{violated}: {said}");
    }
    assert!(errors.contains("a said: "), "{errors}");
}

fn errors(arguments: &[&str]) -> (Option<i32>, String) {
    let output = run(arguments);
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_wrong_file_is_told() {
    let (status, said) = errors(&["torture", "/nowhere/brokers.toml"]);
    assert_eq!(status, Some(ERROR));
    assert!(said.contains("/nowhere/brokers.toml: No such file"), "{said}");
    let (_directory, path) = file("[[target]]\nname = \"a\"\ncommand = []\ncow = 1\n");
    let (status, said) = errors(&["torture", &path]);
    assert_eq!((status, said.lines().count()), (Some(ERROR), 1), "{said}");
    assert!(said.contains(&format!("{path}:4: unknown field `cow`")), "{said}");
}

#[test]
fn a_target_that_is_not_there_is_told() {
    let (_directory, path) = file("[[target]]\nname = \"a\"\ncommand = [\"no-such-broker\"]\n");
    let (status, said) = errors(&["torture", &path, "b"]);
    assert_eq!(status, Some(USAGE));
    assert!(said.contains("has no target b, but a"), "{said}");
    let (status, said) = errors(&["torture", &path]);
    assert_eq!(status, Some(ERROR));
    assert!(said.contains("a: skipped: no-such-broker: No such file"), "{said}");
    assert!(said.contains("none of the targets is installed"), "{said}");
}

#[test]
fn a_broker_that_does_not_start_is_told_with_what_it_said() {
    let command = r#"["sh", "-c", "echo no {port} for me; exit 7"]"#;
    let (_directory, path) = file(&format!("[[target]]\nname = \"a\"\ncommand = {command}\n"));
    let (status, said) = errors(&["torture", &path]);
    assert_eq!(status, Some(ERROR));
    assert!(said.contains("a: it ended with exit status: 7; it said: no "), "{said}");
    assert!(!said.contains("{port}"), "{said}");
}

#[test]
fn a_broker_that_refuses_all_is_quoted() {
    let (_directory, path) = file(
        r#"
[[target]]
name = "a"
command = ["{beside}/sluice", "--config", "{files}/sluice.toml"]
ready_within = 3
[target.files]
"sluice.toml" = '''
shards = 1
[[listener]]
bind = "127.0.0.1:{port}"
[store]
durability = "memory"
[auth]
password_file = "{files}/users"
'''
"users" = ""
"#,
    );
    let (status, said) = errors(&["torture", &path]);
    assert_eq!(status, Some(ERROR), "{said}");
    assert!(
        said.contains("a: it lets nobody in: CONNACK says Not authorized; it said: "),
        "{said}"
    );
}

#[test]
fn wrong_options_are_told() {
    for wrong in [
        ["--overdue", "soon"],
        ["--overdue", "-1"],
        ["--kill-after", "9..3"],
        ["--kill-after", "9"],
        ["--kills", "many"],
    ] {
        let (status, said) = errors(&["torture", "brokers.toml", wrong[0], wrong[1]]);
        assert_eq!(status, Some(USAGE), "{said}");
    }
    let (status, said) = errors(&["torture", "brokers.toml", "--rate", "0"]);
    assert_eq!((status, said.contains("a rate of 0: more than 0")), (Some(USAGE), true), "{said}");
}
