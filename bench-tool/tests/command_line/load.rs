//! `conn`, `pub` and `sub`.

use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use super::hearer::{Heard, Hearer, has_session};
use super::*;

/// By `mosquitto_passwd`, of "wonderland".
const HASH: &str = "$7$101$1UgUSXaVnx0ngGbp$exXQbfMNxv27k5tV0k+TcukzjW0cv7GNEKMshu+e2gVulVkQh2Wsth7\
                    qVWRbGY94A0TL4mgncsdB1A5oR7G44A==";

/// One that lets everybody in, unless there are users.
fn broker_with(users: &[&str]) -> (Broker, SocketAddr, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("users");
    let lines: Vec<String> = users.iter().map(|user| format!("{user}:{HASH}\n")).collect();
    fs::write(&file, lines.concat()).unwrap();
    let auth = if users.is_empty() {
        String::new()
    } else {
        format!("[auth]\npassword_file = {file:?}\n")
    };
    let text =
        format!("[[listener]]\nbind = \"127.0.0.1:0\"\n[store]\ndurability = \"memory\"\n{auth}");
    let broker = broker_of(&text);
    let address = broker.addresses()[0];
    (broker, address, directory)
}

/// `[MQTT-3.4.2-1]`
#[test]
fn what_the_broker_refuses_is_not_published() {
    let text = "[[listener]]\nbind = \"127.0.0.1:0\"\n[store]\ndurability = \"memory\"\n\
                [acl]\ndefault = \"deny\"\n";
    let broker = broker_of(text);
    let publish = ["pub", "-V", "5", "-t", "a", "-q", "1", "-I", "0", "-L", "3"];
    let (status, output, errors) = run_at(broker.addresses()[0], &publish);
    assert_eq!(status, Some(MESSAGES), "{output}{errors}");
    assert!(output.contains("published             0 in "), "{output}");
    assert!(output.contains("3 messages were refused by the broker"), "{output}");
    assert!(!output.contains("not acknowledged"), "{output}");
}

#[test]
fn connections_are_held_and_counted() {
    let (_floor, address) = floor();
    let (status, output, _) = run_at(address, &["conn", "-c", "20", "-i", "1", "-W", "0.3"]);
    assert_eq!(status, Some(0), "{output}");
    // However long the machine has kept it waiting.
    let (_, held) = output.split_once("held                  20 of 20 for ").expect(&output);
    let seconds = held.split(' ').next().and_then(|seconds| seconds.parse::<f64>().ok());
    assert!(seconds.is_some_and(|seconds| seconds >= 0.3), "{output}");
}

#[test]
fn sub_times_and_follows_what_pub_sends() {
    let (_floor, address) = floor();
    let publish =
        start_at(address, &["pub", "-c", "2", "-i", "0", "-t", "load/%i", "-I", "1", "-q", "1"]);
    let sub = ["sub", "-c", "1", "-t", "load/1", "-q", "1", "-L", "200"];
    let (status, output, _) = run_at(address, &sub);
    assert_eq!(status, Some(0), "{output}");
    assert!(output.contains("latency               p50 "), "{output}");
    assert!(output.contains("0 lost, 0 duplicates, 0 reordered"), "{output}");
    assert!(!output.contains("not measured"), "{output}");
    // The floor passes acknowledgements on from subscribers, and there is none any more.
    publish.signal(Signal::INT);
    let (_, output, _) = publish.end();
    assert!(output.contains("pub: 2 clients to load/%i, QoS 1, 1000/s each"), "{output}");
    assert!(!output.contains("interrupted"), "{output}");
}

#[test]
fn pub_ends_at_its_limit_and_sub_counts_what_is_not_measured() {
    let (_floor, address) = floor();
    let mut sub = start_at(address, &["sub", "-t", "text", "-L", "30"]);
    sub.wait_for("1/1 connected");
    let publish = ["pub", "-c", "3", "-i", "0", "-t", "text", "-m", "hello", "-I", "0", "-L", "30"];
    let (status, output, _) = run_at(address, &publish);
    assert_eq!(status, Some(0), "{output}");
    assert!(output.contains("published             30 in"), "{output}");
    let (status, output, _) = sub.end();
    assert_eq!(status, Some(0), "{output}");
    assert!(output.contains("30 messages that pub did not make"), "{output}");
}

/// `[MQTT-3.3.4-9]`
#[test]
fn receive_maximum_is_kept() {
    let address = broker::start(broker::Manner::TakesTwo);
    let publish = ["pub", "-V", "5", "-t", "a", "-q", "1", "-s", "28", "-I", "0", "-L", "6"];
    let (status, output, errors) = run_at(address, &publish);
    assert_eq!(status, Some(0), "{output}{errors}");
    assert!(output.contains("published             6 in"), "{output}");
}

/// `[MQTT-3.1.2-20]`
#[test]
fn a_silent_client_pings_and_a_silent_broker_is_noticed() {
    let (address, seen) = broker::watched(broker::Manner::NeverCloses);
    let (status, output, _) = run_at(address, &["conn", "-c", "1", "-k", "1", "-W", "20"]);
    assert_eq!(status, Some(CONNECTIONS), "{output}");
    assert!(output.contains("PINGREQ was not answered in time"), "{output}");
    let types: Vec<u8> = seen.try_iter().collect();
    assert_eq!(types, [1, 12]);
}

#[test]
fn what_is_no_topic_is_refused_before_connecting() {
    let address = broker::nobody();
    let (status, _, errors) = run_at(address, &["pub", "-t", "a/#"]);
    assert_eq!(
        (status, errors.trim()),
        (Some(USAGE), "sluice-bench: \"a/#\" is no topic to publish to")
    );
    let (status, _, errors) = run_at(address, &["sub", "-t", "a/#/b"]);
    assert_eq!(
        (status, errors.trim()),
        (Some(USAGE), "sluice-bench: \"a/#/b\" is no topic filter")
    );
}

/// Identifiers and user names have the client's number, and topics have them.
#[test]
fn who_a_client_is_stands_in_its_topic_and_its_password_counts() {
    let (_broker, address, _directory) = broker_with(&["reader", "u2", "u3"]);
    let right = ["-P", "wonderland"];
    let reader = ["sub", "-u", "reader", "-t", "a/n2/u2", "-t", "a/n3/u3", "-L", "2", "-W", "20"];
    let mut sub = start_at(address, &[&reader[..], &right].concat());
    sub.wait_for("1/1 connected");
    let publish =
        ["pub", "-c", "2", "-i", "0", "-n", "1", "--id", "n%i", "-u", "u%i", "-t", "a/%c/%u"];
    let publish = [&publish[..], &["-I", "0", "-L", "2", "-W", "20"]].concat();
    let (status, output, errors) = run_at(address, &[&publish[..], &right].concat());
    assert_eq!(status, Some(0), "{output}{errors}");
    let (status, output, errors) = sub.end();
    assert_eq!(status, Some(0), "{output}{errors}");
    assert!(output.contains("delivered             2 in"), "{output}");
    assert!(output.contains("0 lost, 0 duplicates, 0 reordered"), "{output}");
    for wrong in [&["-P", "looking-glass"][..], &[]] {
        let (status, _, errors) = run_at(address, &[&publish[..], wrong].concat());
        assert_eq!(status, Some(CONNECTIONS), "{errors}");
        assert!(errors.contains("refused by the broker: Bad User Name or Password"), "{errors}");
    }
}

#[test]
fn who_is_refused_does_not_keep_the_others_from_their_end() {
    let (_broker, address, _directory) = broker_with(&["u1"]);
    let who = ["pub", "-c", "2", "-i", "0", "-u", "u%i", "-P", "wonderland"];
    let what = ["-t", "a", "-I", "0", "-L", "2", "-W", "20"];
    let (status, output, errors) = run_at(address, &[&who[..], &what].concat());
    assert_eq!(status, Some(CONNECTIONS), "{output}{errors}");
    assert!(output.contains("published             1 in "), "{output}");
    assert!(!output.contains(" in 20."), "{output}");
    assert!(output.contains("refused by the broker: Bad User Name or Password"), "{output}");
}

/// `[MQTT-3.3.1-5]`
#[test]
fn files_and_lines_are_published_as_they_are_and_can_be_retained() {
    let (_broker, address, directory) = broker_with(&[]);
    let file = directory.path().join("payload");
    fs::write(&file, "two\nlines\n").unwrap();
    let retained =
        ["pub", "-c", "2", "-i", "0", "-n", "4", "-t", "kept/%i", "-r", "-I", "0", "-L", "2", "-f"];
    let retained = [&retained[..], &[file.to_str().unwrap()]].concat();
    let (status, output, errors) = run_at(address, &retained);
    assert_eq!(status, Some(0), "{output}{errors}");
    for topic in ["kept/5", "kept/6"] {
        let heard = Hearer::new(address, topic).hear(1);
        assert_eq!(heard, [Heard::new(topic, "two\nlines\n", true)]);
    }
    let mut hearer = Hearer::new(address, "#");
    assert_eq!(hearer.hear(2).len(), 2);
    let port = address.port().to_string();
    let mut lines = Command::new(PROGRAM)
        .args(["pub", "-p", &port, "-t", "log", "-l", "-I", "0", "-L", "3"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    lines.stdin.take().unwrap().write_all(b"one\n\ntwo").unwrap();
    assert_eq!(lines.wait().unwrap().code(), Some(0));
    let expected = ["one", "two", "one"].map(|text| Heard::new("log", text, false));
    assert_eq!(hearer.hear(3), expected);
    let (status, _, errors) = run_at(address, &["pub", "-t", "a", "-f", "/no/such/file"]);
    assert_eq!(status, Some(ERROR), "{errors}");
    assert!(errors.starts_with("sluice-bench: /no/such/file: "), "{errors}");
}

/// `[MQTT-3.1.2-4]`, `[MQTT-3.1.2-5]`
#[test]
fn a_session_is_kept_if_it_is_asked_for() {
    let (_broker, address, _directory) = broker_with(&[]);
    for (client, arguments, is_kept) in [
        ("a1", &[][..], false),
        ("b1", &["-C", "false"], true),
        ("c1", &["-V", "5"], false),
        ("d1", &["-V", "5", "-C", "false"], false),
        ("e1", &["-V", "5", "-x", "100"], true),
    ] {
        let id = client.replace('1', "%i");
        let conn = ["conn", "-c", "1", "-W", "0", "--id", &id];
        let (status, output, errors) = run_at(address, &[&conn[..], arguments].concat());
        assert_eq!(status, Some(0), "{output}{errors}");
        assert_eq!(has_session(address, client), is_kept, "{arguments:?}");
    }
    // One that was there is ended by a clean start, and goes on without.
    for (arguments, is_kept) in [(&["-C", "false"][..], true), (&["-C"], false)] {
        assert!(has_session(address, "b1"));
        let conn = ["conn", "-c", "1", "-W", "0", "--id", "b%i"];
        let (status, output, errors) = run_at(address, &[&conn[..], arguments].concat());
        assert_eq!(status, Some(0), "{output}{errors}");
        assert_eq!(has_session(address, "b1"), is_kept, "{arguments:?}");
    }
}

#[test]
fn clients_come_at_their_rate() {
    let (_floor, address) = floor();
    let conn = ["conn", "-c", "5", "-W", "0"];
    for (pace, least) in [(["-R", "10"], 400), (["-i", "100"], 400), (["-R", "0"], 0)] {
        let began = Instant::now();
        let (status, output, errors) = run_at(address, &[&conn[..], &pace].concat());
        assert_eq!(status, Some(0), "{output}{errors}");
        assert!(output.contains("let in                5 in"), "{output}");
        assert!(began.elapsed() >= Duration::from_millis(least), "{pace:?}");
    }
    let (status, _, errors) = run_at(address, &[&conn[..], &["-R", "NaN"]].concat());
    assert_eq!((status, errors.trim()), (Some(USAGE), "sluice-bench: connrate: at least 0"));
}

#[test]
fn threads_beyond_the_cores_are_refused() {
    let cores = std::thread::available_parallelism().unwrap();
    let more = (cores.get() + 1).to_string();
    for arguments in [&["conn"][..], &["pub", "-t", "a"], &["sub", "-t", "a"], &["run", "p2p"]] {
        for threads in ["0", more.as_str()] {
            let threads = ["--threads", threads];
            let (status, _, errors) = run_at(broker::nobody(), &[arguments, &threads[..]].concat());
            assert_eq!(status, Some(USAGE), "{errors}");
            let told = format!("{} threads: 1 to {cores}, the cores of this machine", threads[1]);
            assert_eq!(errors.trim(), format!("sluice-bench: {told}"));
        }
    }
}
