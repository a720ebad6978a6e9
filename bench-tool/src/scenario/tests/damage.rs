//! Against a relay that does damage on purpose: all of it is found, and judged by QoS.

use super::bad_relay::{Damage, bad_fan_out, bad_relay};
use super::*;

const EVERY_QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

/// What came of one publisher and one subscriber at each QoS.
fn damaged(damage: Damage) -> [Outcome; 3] {
    let run = |qos| {
        let parameters = Parameters { publishers: 1, qos, ..short(ScenarioName::P2p) };
        ScenarioName::P2p.run(&setup(bad_relay(damage), Version::V311), &parameters).unwrap()
    };
    thread::scope(|scope| {
        let runs = EVERY_QOS.map(|qos| scope.spawn(move || run(qos)));
        runs.map(|run| run.join().unwrap())
    })
}

/// Of each ten messages one was damaged, and nothing else happened; warm-up and drain have their share, too.
fn assert_counted(outcome: &Outcome, damaged: u64, others: u64) {
    assert!(outcome.sent > 20, "{outcome:?}");
    assert!((outcome.sent / 10..=outcome.sent).contains(&damaged), "{outcome:?}");
    assert!(others <= 1, "{outcome:?}"); // a message held for a swap when the run ends
}

/// The one line about it, if it is a failure.
fn assert_judged(outcome: &Outcome, is_failure: bool, words: &str) {
    let told = outcome.problems.iter().filter(|one| one.to_string().ends_with(words)).count();
    assert_eq!(told, usize::from(is_failure), "{:?}", outcome.problems);
    let status = if is_failure { Status::Messages } else { Status::Success };
    assert_eq!(status_of(&outcome.problems), status, "{:?}", outcome.problems);
}

#[test]
fn a_loss_is_a_failure_at_qos_1_and_2() {
    for (qos, outcome) in EVERY_QOS.iter().zip(damaged(Damage::Loses(10))) {
        let faults = outcome.faults;
        assert_counted(&outcome, faults.lost, faults.duplicates + faults.reordered);
        assert_judged(&outcome, *qos != QoS::AtMostOnce, "were lost");
        // What later ones have overtaken does not close the window.
        assert_eq!(outcome.stalled, 0, "{qos:?}");
    }
}

#[test]
fn a_duplicate_is_a_failure_but_at_qos_1() {
    for (qos, outcome) in EVERY_QOS.iter().zip(damaged(Damage::Repeats(10))) {
        let faults = outcome.faults;
        assert_counted(&outcome, faults.duplicates, faults.lost + faults.reordered);
        assert_judged(&outcome, *qos != QoS::AtLeastOnce, "came twice");
    }
}

/// `[MQTT-4.6.0-5]`
#[test]
fn a_swap_is_a_failure_at_any_qos() {
    for outcome in damaged(Damage::Swaps(10)) {
        let faults = outcome.faults;
        assert_counted(&outcome, faults.reordered, faults.lost + faults.duplicates);
        assert_judged(&outcome, true, "were overtaken");
    }
}

#[test]
fn who_waits_in_vain_is_told_and_ends_the_run() {
    let assert_told = |(damage, lost, unacknowledged, what)| {
        let qos = QoS::AtLeastOnce;
        let parameters =
            Parameters { publishers: 1, qos, seconds: 60.0, ..short(ScenarioName::P2p) };
        let setup = setup(bad_relay(damage), Version::V311);
        let monitor = Arc::clone(&setup.monitor);
        let outcome = ScenarioName::P2p.run(&setup, &parameters).unwrap();
        let expected = format!(
            "1 of 1 publishers stalled, waiting for {what}; the run was ended when nothing had happened for 5.00 s"
        );
        assert_eq!(outcome.problems[0].to_string(), expected);
        assert_eq!(status_of(&outcome.problems), Status::Messages);
        assert_eq!((outcome.faults.lost, outcome.unacknowledged), (lost, unacknowledged));
        assert_eq!(monitor.snapshot().counters.stalled, 1);
        assert!(outcome.elapsed < Duration::from_secs(30));
    };
    let swallowed = "messages that were acknowledged and did not come";
    let ignored = "acknowledgements that did not come";
    thread::scope(|scope| {
        scope.spawn(|| assert_told((Damage::SwallowsAfter(100), 8, 0, swallowed)));
        scope.spawn(|| assert_told((Damage::IgnoresAfter(100), 0, 8, ignored)));
    });
}

/// One pair, for as long as it takes until the relay ends it.
fn until_it_ends() -> Parameters {
    Parameters { publishers: 1, seconds: 60.0, ..short(ScenarioName::P2p) }
}

#[test]
fn a_relay_that_dies_leaves_a_partial_result() {
    let parameters = until_it_ends();
    let setup = setup(bad_relay(Damage::DiesAfter(500)), Version::V311);
    let outcome = ScenarioName::P2p.run(&setup, &parameters).unwrap();
    let text = outcome.problems[0].to_string();
    assert!(text.contains("connections to "), "{text}");
    assert_eq!(status_of(&outcome.problems), Status::BrokerDied);
    assert!(matches!(outcome.work, Work::Messages(_)));
}

#[test]
fn a_broker_that_closes_every_connection_is_not_called_dead() {
    let parameters = until_it_ends();
    let setup = setup(bad_relay(Damage::ClosesAfter(500)), Version::V311);
    let outcome = ScenarioName::P2p.run(&setup, &parameters).unwrap();
    let text = outcome.problems[0].to_string();
    assert!(text.starts_with("no connection is left, and the broker is still there"), "{text}");
    assert_eq!(status_of(&outcome.problems), Status::Connections);
}

#[test]
fn several_threads_count_losses_and_notice_a_death() {
    let parameters = Parameters { publishers: 1, ..short(ScenarioName::P2p) };
    let run = |damage, parameters| {
        let setup = Setup { threads: 2, ..setup(bad_relay(damage), Version::V311) };
        ScenarioName::P2p.run(&setup, parameters).unwrap()
    };
    let outcome = run(Damage::Loses(10), &parameters);
    assert!(outcome.faults.lost >= outcome.sent / 10);
    let outcome = run(Damage::DiesAfter(500), &until_it_ends());
    assert_eq!(status_of(&outcome.problems), Status::BrokerDied);
}

#[test]
fn a_slow_broker_shows_in_an_open_loop_and_not_in_a_closed_one() {
    let parameters = Parameters { publishers: 1, ..short(ScenarioName::P2p) };
    for (rate, window, is_open) in [(None, 1, false), (Some(1_000.0), OPEN_WINDOW, true)] {
        let address = bad_relay(Damage::StallsAfter(40, Duration::from_millis(150)));
        let parameters =
            Parameters { rate, window, warm_up_seconds: 0.0, seconds: 0.4, ..parameters };
        let outcome = ScenarioName::P2p.run(&setup(address, Version::V311), &parameters).unwrap();
        assert_eq!(outcome.problems, []);
        // One message waited in a closed loop; every one that was due then in an open loop.
        let waited = outcome.latencies.count_above(Duration::from_millis(20));
        assert_eq!(waited > 50, is_open, "{waited} waited");
        assert!(waited >= 1);
    }
}

#[test]
fn a_relay_that_a_stalled_subscriber_stops_fails_the_slow_scenario() {
    let parameters = Parameters {
        publishers: 1,
        subscribers: 1,
        stalled: 1,
        qos: QoS::AtLeastOnce,
        ..short(ScenarioName::Slow)
    };
    let setup = setup(bad_fan_out(2, Damage::Waits), Version::V311);
    let outcome = ScenarioName::Slow.run(&setup, &parameters).unwrap();
    let (name, while_all_read) = &outcome.remarks[0];
    assert_eq!(*name, "while all read");
    assert!(!while_all_read.starts_with("0/s"), "{while_all_read}");
    assert!(outcome.unacknowledged > 0, "{:?}", outcome.problems);
    assert_eq!(status_of(&outcome.problems), Status::Messages, "{:?}", outcome.problems);
}
