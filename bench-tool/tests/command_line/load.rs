//! `conn`, `pub` and `sub`.

use rustix::process::Signal;

use super::*;

#[test]
fn connections_are_held_and_counted() {
    let (_floor, address) = floor();
    let (status, output, _) = run_at(address, &["conn", "-c", "20", "-i", "1", "-W", "0.3"]);
    assert_eq!(status, Some(0), "{output}");
    assert!(output.contains("held                  20 of 20 for 0.3 s"), "{output}");
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
        (Some(ERROR), "sluice-bench: \"a/#\" is no topic to publish to")
    );
    let (status, _, errors) = run_at(address, &["sub", "-t", "a/#/b"]);
    assert_eq!(
        (status, errors.trim()),
        (Some(ERROR), "sluice-bench: \"a/#/b\" is no topic filter")
    );
}
