//! `compare`, with the floor as the only broker.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use sluice::config::certs::Certs;

use super::*;

/// A program that stands outside of the tests' PATH.
const TR: &str = "/usr/bin/tr";

/// What is compared where nothing else is asked.
pub(crate) const FILE: &str = r#"baseline = "floor"
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
fn one_scenario_has_half_the_rate_of_another_and_the_disk_is_looked_at() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("compare.toml");
    let half = "run = \"p2p\"\npublishers = 2\nqos = 1\nhalf_of = \"pairs\"";
    let text = FILE.replace("run = \"idle\"\nclients = 10", half);
    let text = format!("disk = \"data\"\n{text}").replace("repetitions = 2", "repetitions = 1");
    // Long enough for an acknowledgement on a machine that has much else to do.
    let text = text.replace("seconds = 0.2", "seconds = 0.5");
    fs::write(&file, text.replace("\"pairs\"\nrun", "\"pairs\"\nqos = 1\nrun")).unwrap();
    let out = directory.path().join("out");
    let (file, shown) = (file.to_str().unwrap(), out.to_str().unwrap());
    // What is halved is run although it was not asked for.
    let output = run(&["compare", file, "--quick", "--scenario", "idle", "--out", shown]);
    let (text, errors) = (output.stdout, String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(0), "{errors}");
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("until acknowledged, p50 / p99"), "{text}");
    let result: serde_json::Value =
        serde_json::from_slice(&fs::read(out.join("result.json")).unwrap()).unwrap();
    let [whole, half] = [0, 1].map(|run| &result["runs"][run]);
    let sent = whole["sent"].as_f64().unwrap();
    let half_of_it = sent / whole["seconds"].as_f64().unwrap() / 2.0;
    let rate = half["rate"].as_f64().unwrap() * 2.0;
    assert!((half_of_it..half_of_it + 2.0).contains(&rate), "{rate} of {half_of_it}");
    assert!(half["written_bytes_each"].is_number(), "{half}");
    assert!(half["acknowledged_p99_us"].as_f64().unwrap() > 0.0, "{half}");
    assert!(fs::read_dir(directory.path().join("data")).unwrap().next().is_none());
}

/// What it started would outlive a tool that ends for this.
#[test]
fn progress_that_nobody_reads_ends_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("compare.toml");
    fs::write(&file, FILE).unwrap();
    let mut child = Command::new(PROGRAM)
        .args(["compare", file.to_str().unwrap(), "--quick", "--repetitions", "1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stderr.take());
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("Throughput per second"), "{text}");
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

/// Puts a program of this name into a directory; `script` is what a shell does for it.
fn install(directory: &Path, name: &str, script: &str) {
    let program = directory.join(name);
    fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Runs the comparison that ships, with a PATH of this directory alone.
fn compare_shipped(path: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("compare.toml");
    // Wherever the tests run, a core of their own is not to be had.
    let text = fs::read_to_string(file).unwrap();
    let lines = text.lines().filter(|line| !line.contains("cores = ["));
    let file = path.join("compare.toml");
    fs::write(&file, lines.collect::<Vec<_>>().join("\n")).unwrap();
    let mut command = Command::new(PROGRAM);
    command.arg("compare").arg(file).args(arguments).env("PATH", path);
    let output = command.stdin(Stdio::null()).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

const EMQX: [&str; 6] =
    ["--quick", "--target", "emqx", "--scenario", "p2p 50 pairs, QoS 0, 64 outstanding", "--out"];

/// EMQX is told everything by its environment, as HOCON.
#[test]
fn emqx_is_started_in_the_foreground_and_asked_whether_it_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let script = format!(
        r#"[ "$*" = foreground ] || exit 64
[ -f "$(echo "$EMQX_LISTENERS__SSL__DEFAULT__SSL_OPTIONS__CERTFILE" | {TR} -d '"')" ] || exit 65
[ "$EMQX_DASHBOARD__LISTENERS__HTTP__BIND" = 0 ] || exit 66
[ -d "$EMQX_NODE__DATA_DIR" ] || exit 67
exec {PROGRAM} floor --bind "$(echo "$EMQX_LISTENERS__TCP__DEFAULT__BIND" | {TR} -d '"')"
"#
    );
    install(directory.path(), "emqx", &script);
    let out = directory.path().join("out");
    let arguments = [&EMQX[..], &[out.to_str().unwrap()]].concat();
    let (status, errors) = compare_shipped(directory.path(), &arguments);
    assert_eq!(status, Some(0), "{errors}");
    assert!(errors.contains("1 runs of 1 targets, about "), "{errors}");
    assert!(errors.contains("[1/1] p2p 50 pairs, QoS 0, 64 outstanding, emqx: 0."), "{errors}");
    assert!(fs::metadata(out.join("report.html")).unwrap().len() > 100);
}

#[test]
fn emqx_that_does_not_start_is_quoted_and_one_that_is_not_there_is_skipped() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("out");
    let arguments = [&EMQX[..], &[out.to_str().unwrap()]].concat();
    let (status, errors) = compare_shipped(directory.path(), &arguments);
    assert_eq!(status, Some(ERROR), "{errors}");
    assert!(errors.contains("emqx: skipped, emqx is not installed"), "{errors}");
    assert!(errors.contains("none of the targets is available"), "{errors}");
    install(directory.path(), "emqx", "echo no node name; exit 3");
    let (status, errors) = compare_shipped(directory.path(), &arguments);
    assert_eq!(status, Some(ERROR), "{errors}");
    assert!(errors.contains("FAILED: ended at once with exit status: 3"), "{errors}");
    assert!(errors.contains("it said: no node name"), "{errors}");
}

/// With certificates of its own, which all targets show.
#[test]
fn a_scenario_over_tls_is_run_where_it_can_be() {
    let directory = tempfile::tempdir().unwrap();
    let certs = directory.path().join("certs");
    Certs { out: certs.clone(), host: Vec::new(), client: "client".into() }.run().unwrap();
    let broker = tls_broker(&certs);
    let (plain, tls) = (broker.addresses()[0], broker.addresses()[1]);
    let other = format!(
        "name = \"other\"\naddresses = [\"{plain}\", \"mqtts://{tls}\"]\nca = \"certs/ca.pem\""
    );
    let text =
        FILE.replace("name = \"nowhere\"\ncommand = [\"no-such-broker\", \"{port}\"]", &other);
    let text = text.replace("name = \"idle\"", "name = \"idle\"\ncarrier = \"tls\"");
    let file = directory.path().join("compare.toml");
    fs::write(&file, text).unwrap();
    let out = directory.path().join("out");
    let (file, shown) = (file.to_str().unwrap(), out.to_str().unwrap());
    let output = run(&["compare", file, "--quick", "--repetitions", "1", "--out", shown]);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{errors}");
    let csv = fs::read_to_string(out.join("result.csv")).unwrap();
    assert_eq!(csv.lines().filter(|line| line.contains("\"tcp\"")).count(), 2, "{csv}");
    let over_tls: Vec<&str> = csv.lines().filter(|line| line.contains("\"tls\"")).collect();
    assert_eq!(over_tls.len(), 1, "{csv}");
    assert!(over_tls[0].starts_with("\"idle\",\"other\""), "{csv}");
    assert!(over_tls[0].contains("10 full handshakes, 0 resumed"), "{csv}");
}

/// Plain TCP, and TLS.
fn tls_broker(certs: &Path) -> Broker {
    let [certificate, key] = ["server.pem", "server.key"].map(|name| certs.join(name));
    let text = format!(
        "[[listener]]\nbind = \"127.0.0.1:0\"\n[[listener]]\nbind = \"127.0.0.1:0\"\n\
         [listener.tls]\ncertificate = {certificate:?}\nkey = {key:?}\n\
         [store]\ndurability = \"memory\"\n"
    );
    broker_of(&text)
}
