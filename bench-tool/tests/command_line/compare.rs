//! `compare`, with the floor as the only broker.

use std::fs;

use super::*;

const FILE: &str = r#"baseline = "floor"
[quick]
repetitions = 2
seconds = 0.2
warm_up = 0.0
quiet_within = 0.0
[[target]]
name = "floor"
command = ["{self}", "floor", "--bind", "127.0.0.1:{port}"]
[[target]]
name = "nowhere"
command = ["no-such-broker", "{port}"]
[[scenario]]
name = "pairs"
run = "p2p"
publishers = 2
[[scenario]]
name = "idle"
run = "idle"
clients = 10
"#;

#[test]
fn a_quick_comparison_writes_everything() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("compare.toml");
    fs::write(&file, FILE).unwrap();
    let out = directory.path().join("out");
    let (file, shown) = (file.to_str().unwrap(), out.to_str().unwrap());
    let output = run(&["compare", file, "--quick", "--out", shown]);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{errors}");
    assert!(errors.contains("nowhere: skipped, no-such-broker is not installed"), "{errors}");
    for name in ["report.html", "result.json", "result.csv", "cpu.svg", "pairs-floor.hgrm"] {
        assert!(fs::metadata(out.join(name)).unwrap().len() > 100, "{name}");
    }
    let csv = fs::read_to_string(out.join("result.csv")).unwrap();
    assert_eq!(csv.lines().count(), 1 + 2 * 2);
}

#[test]
fn an_error_in_the_file_is_one_line_with_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("compare.toml");
    fs::write(&file, FILE.replace("publishers = 2", "publishers = \"two\"")).unwrap();
    let output = run(&["compare", file.to_str().unwrap()]);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(ERROR));
    assert_eq!(errors.lines().count(), 1, "{errors}");
    assert!(errors.contains("compare.toml:16: invalid type: string"), "{errors}");
}
