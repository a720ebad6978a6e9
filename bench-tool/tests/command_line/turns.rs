//! The runs of a comparison, one after the other: their order, their cores, and what ends them.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;

use super::*;

/// A target that writes down what it is, and relays then.
const NOTES: &str = r#"command = ["sh", "-c", "{note} exec {self} floor --bind 127.0.0.1:{port}"]"#;

/// Two targets, two scenarios.
fn comparison(directory: &Path, target: &str, seconds: &str) -> String {
    let text = format!(
        r#"baseline = "one"
[quick]
repetitions = 2
seconds = {seconds}
warm_up = 0.0
quiet_within = 0.0
[[target]]
name = "one"
{target}
[[target]]
name = "two"
{target}
[[scenario]]
name = "pairs"
run = "p2p"
publishers = 2
[[scenario]]
name = "crowd"
run = "storm"
clients = 10
"#
    );
    let file = directory.join("compare.toml");
    fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

fn notes(note: &str) -> String {
    NOTES.replace("{note}", note)
}

#[test]
fn runs_are_interleaved() {
    let directory = tempfile::tempdir().unwrap();
    let file = comparison(directory.path(), &notes(""), "0.5");
    let output = run(&["compare", &file, "--quick"]);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{errors}");
    let runs = errors.lines().filter(|line| line.starts_with('['));
    let runs: Vec<&str> = runs.map(|line| line.rsplit_once(": ").unwrap().0).collect();
    let expected = [
        "[1/8] pairs, one",
        "[2/8] pairs, two",
        "[3/8] crowd, one",
        "[4/8] crowd, two",
        "[5/8] pairs, one",
        "[6/8] pairs, two",
        "[7/8] crowd, one",
        "[8/8] crowd, two",
    ];
    assert_eq!(runs, expected, "{errors}");
}

/// The cores of a process, as the system writes them.
fn cores(status: &str) -> &str {
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    line.unwrap().trim()
}

#[test]
fn a_broker_runs_on_the_cores_that_the_file_names() {
    let directory = tempfile::tempdir().unwrap();
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let ends = cores(&own).split([',', '-']).map(|core| core.parse::<usize>().unwrap());
    let (first, last) = (ends.clone().min().unwrap(), ends.max().unwrap());
    for core in [first, last] {
        let target = notes("cat /proc/self/status > {here}/status;");
        let file = comparison(directory.path(), &format!("{target}\ncores = [{core}]"), "0.1");
        let once = ["--quick", "--repetitions", "1", "--scenario", "crowd", "--target", "two"];
        let output = run(&[&["compare", &file][..], &once].concat());
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{errors}");
        let status = fs::read_to_string(directory.path().join("status")).unwrap();
        assert_eq!(cores(&status), core.to_string());
    }
}

#[test]
fn interrupted_a_comparison_keeps_the_runs_that_it_has() {
    let directory = tempfile::tempdir().unwrap();
    let file = comparison(directory.path(), &notes(""), "0.3");
    let out = directory.path().join("out");
    let mut compare =
        Running::start(&["compare", &file, "--quick", "--out", out.to_str().unwrap()]);
    compare.wait_for("[2/8] pairs, two: ");
    compare.signal(Signal::INT);
    let (status, output, errors) = compare.end();
    assert_eq!(status, Some(INTERRUPTED), "{output}{errors}");
    assert!(!errors.contains("[8/8]"), "{errors}");
    assert!(output.contains("Throughput per second"), "{output}");
    assert!(output.contains("PROBLEM: interrupted"), "{output}");
    let row = output.lines().find(|line| line.starts_with("pairs")).unwrap();
    assert_eq!(row.matches("µs").count(), 2, "{row}");
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains(row.trim_end()), "{page}");
    let csv = fs::read_to_string(out.join("result.csv")).unwrap();
    assert!((3..8).contains(&csv.lines().count()), "{csv}");
}

/// Milliseconds that a process has been on a core.
fn busy(pid: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
    text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0) / 1_000_000
}

#[test]
fn a_broker_that_dies_in_a_comparison_leaves_a_result() {
    let directory = tempfile::tempdir().unwrap();
    let file = comparison(directory.path(), &notes("echo $$ > {here}/pid;"), "60");
    let out = directory.path().join("out");
    let pairs = ["--quick", "--repetitions", "1", "--scenario", "pairs"];
    let arguments = ["--target", "one", "--out", out.to_str().unwrap()];
    let mut compare = Running::start(&[&["compare", &file][..], &pairs, &arguments].concat());
    // What it takes for a start, and to let somebody in, is much less.
    let pid = loop {
        let pid = fs::read_to_string(directory.path().join("pid")).unwrap_or_default();
        if busy(pid.trim()) >= 100 {
            break pid.trim().parse().unwrap();
        }
        assert_eq!(compare.child.try_wait().unwrap(), None);
        std::thread::sleep(Duration::from_millis(2));
    };
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    let (status, output, errors) = compare.end();
    assert_eq!(status, Some(BROKER_DIED), "{output}{errors}");
    assert!(errors.contains("[1/1] pairs, one: "), "{errors}");
    let problem = "PROBLEM: pairs, one: the broker died: ";
    assert!(output.contains(problem), "{output}");
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("<p class=\"problem\">pairs, one: the broker died: "), "{page}");
}
