//! `torture`: what stands in its file, and what it ends with.

use std::fs;

use tempfile::TempDir;

use super::{ERROR, USAGE, run};

fn file(text: &str) -> (TempDir, String) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("brokers.toml");
    fs::write(&path, text).unwrap();
    let path = path.display().to_string();
    (directory, path)
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
    assert_eq!(status, Some(ERROR));
    assert!(said.contains("unknown field `cow`"), "{said}");
}

#[test]
fn a_target_that_is_not_there_is_told() {
    let (_directory, path) = file("[[target]]\nname = \"a\"\ncommand = [\"no-such-broker\"]\n");
    let (status, said) = errors(&["torture", &path, "b"]);
    assert_eq!(status, Some(ERROR));
    assert!(said.contains("has no target b"), "{said}");
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
fn wrong_options_are_told() {
    for wrong in [["--kill-after", "9..3"], ["--kill-after", "9"], ["--kills", "many"]] {
        let (status, said) = errors(&["torture", "brokers.toml", wrong[0], wrong[1]]);
        assert_eq!(status, Some(USAGE), "{said}");
    }
    let (status, said) = errors(&["torture", "brokers.toml", "--rate", "0"]);
    assert_eq!((status, said.contains("a rate of 0: more than 0")), (Some(ERROR), true), "{said}");
}
