//! What ends before its time leaves a result: what was done until then, in every scenario.

use rustix::process::Signal;

use super::*;

const DIED: &str = "PROBLEM               the broker died: ";
const CUT_SHORT: &str = "PROBLEM               interrupted: the result is what was done until then";

/// The floor keeps nothing, and has nobody to acknowledge what no subscriber hears.
const RETAINED: &[&str] = &["run", "retained"];
const PERSISTENT: &[&str] = &["run", "persistent", "--publishers", "2", "-q", "1"];
const SLOW: &[&str] =
    &["run", "slow", "--subscribers", "3", "--stalled", "2", "-W", "60", "--warm-up", "0"];
const PAIRS: &[&str] = &["run", "p2p", "--publishers", "2", "-q", "1", "-W", "60"];

/// The beginning of a line of the result.
fn line(name: &str, value: &str) -> String {
    format!("  {name:<22}{value}")
}

#[test]
fn interrupted_a_run_keeps_its_result_and_says_so() {
    let mut runs = [
        (PAIRS, vec![line("acknowledgement", "p50 ")]),
        (SLOW, vec![line("while all read", ""), line("note", "it ended before anybody stopped")]),
        (RETAINED, vec![line("stored", "0, "), line("left behind", "the retained messages")]),
        (PERSISTENT, vec![line("filled", ""), line("left behind", "the sessions of this run")]),
    ]
    .map(|(arguments, lines)| {
        let (floor, address) = floor();
        (start_at(address, arguments), lines, floor)
    });
    runs.iter_mut().for_each(|(run, ..)| drop(run.wait_for("measuring")));
    // All of them now: what the floor does not answer one waits for only so long.
    runs.iter().for_each(|(run, ..)| run.signal(Signal::INT));
    for (mut run, lines, _floor) in runs {
        run.wait_for("interrupted");
        let (status, output, _) = run.end();
        assert_eq!(status, Some(INTERRUPTED), "{output}");
        assert!(output.contains(CUT_SHORT), "{output}");
        assert!(lines.iter().all(|line| output.contains(line)), "{output}");
        if output.starts_with("p2p") || output.starts_with("slow") {
            assert!(!output.contains(&line("delivered", "0 in")), "{output}");
        }
    }
}

#[test]
fn a_broker_that_dies_leaves_a_partial_result() {
    let mut runs = [
        (PAIRS, line("delivered", "")),
        (SLOW, line("note", "it ended before anybody stopped reading")),
        (RETAINED, line("stored", "0, ")),
        (PERSISTENT, line("PROBLEM", "the queues did not take")),
    ]
    .map(|(arguments, line)| {
        let (floor, address) = floor();
        (start_at(address, arguments), line, floor)
    });
    runs.iter_mut().for_each(|(run, ..)| drop(run.wait_for("measuring")));
    // As there.
    let runs = runs.map(|(run, line, floor)| {
        drop(floor);
        (run, line)
    });
    for (run, line) in runs {
        let (status, output, errors) = run.end();
        assert_eq!(status, Some(BROKER_DIED), "{output}{errors}");
        assert!(output.contains(DIED), "{output}");
        assert!(output.contains(&line), "{output}");
    }
}

/// Five are let in, and nobody else is answered.
#[test]
fn interrupted_a_crowd_keeps_who_is_in() {
    let (_floor, address) = floor();
    let mut runs = ["storm", "idle"]
        .map(|scenario| start_at(broker::front(address, 5), &["run", scenario, "-c", "20"]));
    runs.iter_mut().for_each(|run| drop(run.wait_for("5/20 connected")));
    for run in runs {
        run.signal(Signal::INT);
        let (status, output, errors) = run.end();
        assert_eq!(status, Some(INTERRUPTED), "{output}{errors}");
        assert!(output.contains(&line("let in", "5 in ")), "{output}");
        assert!(output.contains(CUT_SHORT), "{output}");
    }
}

#[test]
fn a_broker_that_dies_while_a_crowd_comes_leaves_who_was_in() {
    for scenario in ["storm", "idle"] {
        let (floor, address) = floor();
        let pid = floor.child.id().to_string();
        let mut run =
            start_at(broker::front(address, 5), &["run", scenario, "-c", "20", "--pid", &pid]);
        run.wait_for("5/20 connected");
        drop(floor);
        let (status, output, errors) = run.end();
        assert_eq!(status, Some(BROKER_DIED), "{output}{errors}");
        assert!(output.contains(&line("let in", "5 in ")), "{output}");
        assert!(output.contains(DIED), "{output}");
    }
}

/// Nothing was measured yet.
#[test]
fn a_broker_that_dies_while_everybody_connects_is_called_dead() {
    let (floor, address) = floor();
    let mut run = start_at(broker::front(address, 3), PAIRS);
    run.wait_for("3/4 connected");
    drop(floor);
    let line = run.wait_for("sluice-bench: ");
    assert!(line.contains("the broker died, and there is no result: "), "{line}");
    let (status, output, _) = run.end();
    assert_eq!((status, output.as_str()), (Some(BROKER_DIED), ""));
}

/// What is acknowledged has to reach the subscriber.
#[test]
fn a_loss_at_qos_1_or_2_is_a_status_of_its_own() {
    let address = broker::start(broker::Manner::Swallows);
    let runs = ["1", "2"].map(|qos| {
        let pairs = ["run", "p2p", "--publishers", "1", "-F", "2", "-W", "0.2", "--warm-up", "0"];
        start_at(address, &[&pairs[..], &["-q", qos]].concat())
    });
    for run in runs {
        let (status, output, errors) = run.end();
        assert_eq!(status, Some(MESSAGES), "{output}{errors}");
        assert!(output.contains(&line("PROBLEM", "2 messages were lost")), "{output}");
    }
}
