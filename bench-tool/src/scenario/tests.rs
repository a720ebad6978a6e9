//! Whole runs over real sockets.

mod bad_relay;
mod broker;
mod damage;

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::Duration;

use sluice::mqtt::Version;

use super::*;
use crate::engine::Unacknowledged;
use crate::floor::Floor;
use crate::report::{Work, status_of};

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn setup(target: SocketAddr, version: Version) -> Setup {
    let login = Login { version, keep_alive_seconds: 0, username: None, password: None };
    Setup {
        endpoint: Endpoint { address: target, tls: None, web_socket: None },
        login,
        id_prefix: "test".into(),
        connect_burst: 8,
        threads: 1,
        broker: ProcessGroup::new(vec![std::process::id()]),
        disk: None,
        stop: Arc::default(),
        monitor: Arc::default(),
    }
}

fn short(scenario: ScenarioName) -> Parameters {
    Parameters {
        clients: 20,
        publishers: 3,
        subscribers: 4,
        seconds: 0.2,
        warm_up_seconds: 0.05,
        window: 8,
        ..scenario.defaults()
    }
}

fn floor() -> SocketAddr {
    let floor = Floor::bind(LOOPBACK).unwrap();
    let address = floor.address().unwrap();
    thread::spawn(|| floor.serve());
    address
}

#[test]
fn pairs_lose_nothing_over_the_floor_at_any_qos_and_version() {
    let address = floor();
    for version in [Version::V31, Version::V311, Version::V5] {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let parameters = Parameters { qos, ..short(ScenarioName::P2p) };
            let outcome = ScenarioName::P2p.run(&setup(address, version), &parameters).unwrap();
            assert_eq!(outcome.problems, [], "{version:?} {qos:?}");
            assert_eq!(outcome.faults.lost, 0, "{version:?} {qos:?}");
            assert!(outcome.work.count() > 20, "{version:?} {qos:?}");
            assert!(outcome.broker_cpu_ns.unwrap() > 0);
            assert!(outcome.latencies.count() >= outcome.work.count());
        }
    }
}

#[test]
fn several_threads_work_as_one() {
    let address = floor();
    for scenario in [ScenarioName::P2p, ScenarioName::Fanin, ScenarioName::Fanout] {
        let setup = Setup { threads: 3, ..setup(address, Version::V311) };
        let outcome = scenario.run(&setup, &short(scenario)).unwrap();
        assert_eq!(outcome.problems, [], "{scenario:?}");
        assert_eq!(outcome.faults, Default::default(), "{scenario:?}");
        assert!(outcome.work.count() > 20, "{scenario:?}");
        assert!(outcome.own_busiest_ns.unwrap() <= outcome.own_cpu_ns);
        assert!(outcome.latencies.count() >= outcome.work.count());
    }
    let setup = Setup { threads: 2, ..setup(address, Version::V5) };
    let outcome = ScenarioName::Storm.run(&setup, &short(ScenarioName::Storm)).unwrap();
    assert_eq!(outcome.latencies.count(), 20);
}

#[test]
fn a_fan_in_hears_everybody_and_a_fan_out_reaches_everybody() {
    let address = floor();
    for scenario in [ScenarioName::Fanin, ScenarioName::Fanout] {
        let parameters = short(scenario);
        let outcome = scenario.run(&setup(address, Version::V311), &parameters).unwrap();
        assert_eq!(outcome.problems, []);
        assert_eq!(outcome.faults, Default::default());
        assert!(outcome.work.count() > 4 * outcome.sent / 2);
    }
}

#[test]
fn wildcards_beside_ballast_and_large_payloads_pass_the_floor() {
    let address = floor();
    for scenario in [ScenarioName::Wildcard, ScenarioName::Large] {
        let parameters = Parameters { ballast: 200, topics: 5, ..short(scenario) };
        let outcome = scenario.run(&setup(address, Version::V5), &parameters).unwrap();
        assert_eq!(outcome.problems, [], "{scenario:?}");
        assert!(outcome.work.count() > 5);
    }
}

#[test]
fn bursts_keep_the_rate_and_the_window() {
    let bursts =
        Parameters { rate: Some(400.0), burst: 20, window: 30, ..short(ScenarioName::P2p) };
    let parameters = Parameters { seconds: 0.5, qos: QoS::AtLeastOnce, ..bursts };
    let outcome = ScenarioName::P2p.run(&setup(floor(), Version::V5), &parameters).unwrap();
    assert_eq!(outcome.problems, []);
    let share = outcome.per_second() / (3.0 * 400.0);
    assert!((0.5..1.7).contains(&share), "{share}");
    assert!(
        outcome.label.contains("400/s each in bursts of 20, 30 outstanding"),
        "{}",
        outcome.label
    );
}

#[test]
fn a_rate_is_kept() {
    let parameters = Parameters { rate: Some(500.0), seconds: 0.5, ..short(ScenarioName::P2p) };
    let outcome = ScenarioName::P2p.run(&setup(floor(), Version::V311), &parameters).unwrap();
    // What is late is made up for, so that a busy machine moves the edges only.
    let share = outcome.per_second() / (3.0 * 500.0);
    assert!((0.6..1.5).contains(&share), "{share}");
}

#[test]
fn stopping_keeps_the_partial_result() {
    let setup = setup(floor(), Version::V311);
    let stop = Arc::clone(&setup.stop);
    thread::spawn(move || {
        thread::sleep(Duration::from_millis(400));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let parameters = Parameters { seconds: 30.0, ..short(ScenarioName::P2p) };
    let outcome = ScenarioName::P2p.run(&setup, &parameters).unwrap();
    assert_eq!(outcome.problems, [Problem::interrupted()]);
    assert!(outcome.work.count() > 20);
    assert!(outcome.elapsed < Duration::from_secs(5));
}

#[test]
fn payloads_larger_than_any_buffer_pass() {
    let parameters = Parameters { payload_len: 300_000, ..short(ScenarioName::P2p) };
    let setup = setup(floor(), Version::V311);
    let outcome = ScenarioName::P2p.run(&setup, &parameters).unwrap();
    assert_eq!(outcome.problems, []);
    assert!(outcome.work.count() > 3);
}

#[test]
fn crowds_are_let_in() {
    let address = floor();
    for scenario in [ScenarioName::Idle, ScenarioName::Storm] {
        let outcome = scenario.run(&setup(address, Version::V5), &short(scenario)).unwrap();
        assert_eq!(outcome.work.count(), 20);
        assert_eq!(outcome.latencies.count(), 20);
    }
}

#[test]
fn a_refused_connection_is_one_clear_error() {
    let nobody = TcpListener::bind(LOOPBACK).unwrap().local_addr().unwrap();
    let error = ScenarioName::P2p
        .run(&setup(nobody, Version::V311), &short(ScenarioName::P2p))
        .unwrap_err();
    let error = error.to_string();
    assert!(error.starts_with("7 of 7 clients") || error.starts_with("6 of 6 clients"), "{error}");
    assert!(error.contains("refused"), "{error}");
}

/// Its memory cannot be read any more.
#[test]
fn a_process_that_ends_while_connections_idle_leaves_a_result() {
    let mut process = Command::new("sleep").arg("60").spawn().unwrap();
    let broker = ProcessGroup::new(vec![process.id()]);
    let setup = Setup { broker, ..setup(floor(), Version::V311) };
    let monitor = Arc::clone(&setup.monitor);
    let run = thread::spawn(move || ScenarioName::Idle.run(&setup, &short(ScenarioName::Idle)));
    while monitor.snapshot().counters.ready < 20 {
        thread::yield_now();
    }
    process.kill().unwrap();
    process.wait().unwrap();
    let outcome = run.join().unwrap().unwrap();
    assert_eq!(outcome.work, Work::Connections(20));
    assert_eq!((outcome.resident_bytes, outcome.bytes_each()), (None, None));
    assert_eq!(status_of(&outcome.problems), Status::BrokerDied);
}

#[test]
fn what_was_not_acknowledged_is_not_lost_by_whoever_waits_for_it() {
    let waiting = |messages, deliveries| Unacknowledged { messages, deliveries };
    assert_eq!(steady::lost(7, waiting(0, 0), 0), 7);
    // Two of them are there, and wait for three deliveries.
    assert_eq!(steady::lost(7, waiting(2, 3), 0), 4);
    // Ten come to fetch when all has been sent.
    assert_eq!(steady::lost(27, waiting(2, 0), 10), 7);
    // One has come although it was not acknowledged.
    assert_eq!(steady::lost(1, waiting(2, 0), 1), 0);
}

#[test]
fn who_interrupts_the_clearing_up_is_told_so() {
    for (error, status) in [
        (EngineError::Interrupted, Status::Interrupted),
        (EngineError::Io(io::ErrorKind::TimedOut.into()), Status::Connections),
    ] {
        let mut outcome = Outcome::default();
        leftovers::note_left_behind("sessions", Err(error.into()), &mut outcome);
        assert_eq!(status_of(&outcome.problems), status);
        assert_eq!(outcome.remarks[0].0, "left behind");
    }
}
