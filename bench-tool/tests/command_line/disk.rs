//! What a run with `--disk` does beside the load.

use std::os::unix::fs::PermissionsExt;
use std::{env, fs, process};

use super::*;

/// How long the program that counts syncs takes to start here, and to end.
const SLOW_MS: f64 = 1_000.0;

/// Has a scenario run with a `perf` that is slow to start, answers then, and is slow to end. Returns its result.
fn run_beside_a_slow_counter(scenario: &[&str]) -> serde_json::Value {
    let directory = tempfile::tempdir().unwrap();
    let perf = directory.path().join("perf");
    let seconds = SLOW_MS / 1e3;
    let script = format!(
        "#!/bin/sh\ntrap 'sleep {seconds}; exit' INT\nsleep {seconds}\nwhile read -r order; do echo ack; done\n"
    );
    fs::write(&perf, script).unwrap();
    fs::set_permissions(&perf, fs::Permissions::from_mode(0o755)).unwrap();
    let mut path = directory.path().as_os_str().to_owned();
    path.push(":");
    path.push(env::var_os("PATH").unwrap());
    let text = "[[listener]]\nbind = \"127.0.0.1:0\"\n[store]\ndurability = \"memory\"\n";
    let broker = broker_of(text);
    let port = broker.addresses()[0].port().to_string();
    let (data, own) = (directory.path().to_str().unwrap(), process::id().to_string());
    let out = directory.path().join("out");
    let mut run = Command::new(PROGRAM);
    run.arg("run").args(scenario).args(["-p", &port, "--disk", data, "--pid", &own]);
    let output = run.arg("--out").arg(&out).env("PATH", path).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{errors}");
    let result: serde_json::Value =
        serde_json::from_slice(&fs::read(out.join("result.json")).unwrap()).unwrap();
    result["runs"][0].clone()
}

/// Who sends by the clock is behind by as long as anything keeps it.
#[test]
fn messages_do_not_wait_for_what_counts_syncs() {
    let pairs = ["p2p", "--publishers", "2", "-q", "1", "--rate", "500", "-W", "0.2"];
    let result = run_beside_a_slow_counter(&[&pairs[..], &["--warm-up", "0.1"]].concat());
    let p50_ms = result["acknowledged_p50_us"].as_f64().unwrap() / 1e3;
    assert!(p50_ms < SLOW_MS / 10.0, "{result}");
}

#[test]
fn the_time_to_fill_queues_and_fetch_is_without_what_counts_syncs() {
    let queues = ["persistent", "--publishers", "2", "--messages", "100", "-q", "1"];
    let result = run_beside_a_slow_counter(&queues);
    let seconds = 200.0 / result["taken_in_per_second"].as_f64().unwrap();
    assert!(seconds < SLOW_MS / 1e3, "{result}");
    assert!(result["seconds"].as_f64().unwrap() < SLOW_MS / 1e3, "{result}");
}
