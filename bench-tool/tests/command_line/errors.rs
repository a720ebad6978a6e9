//! What cannot be done, or does not get far, is one clear line.

use rustix::process::Signal;

use super::*;

#[test]
fn what_cannot_be_sent_is_refused_before_connecting() {
    let address = broker::nobody();
    let most = "which is what MQTT has a length for";
    for (arguments, expected) in [
        (
            &["pub", "-t", "a", "-s", "300000000"][..],
            format!("payload of 300000000 bytes: at most 268435452, {most}"),
        ),
        (
            &["run", "p2p", "-s", "30000000000000"],
            format!("payload of 30000000000000 bytes: at most 268435386, {most}"),
        ),
        (
            &["run", "p2p", "--rate", "0.001", "-W", "2"],
            "at 0.001/s of each of 50 publishers not one message is due in 2 s".into(),
        ),
        (&["run", "p2p", "--rate", "0"], "rate 0: at least 0.000001 messages a second".into()),
        (
            &["pub", "-t", "a", "--rate", "1e-300"],
            format!("rate {}: at least 0.000001 messages a second", 1e-300),
        ),
    ] {
        let (status, output, errors) = run_at(address, arguments);
        assert_eq!(status, Some(USAGE), "{arguments:?}: {errors}");
        assert_eq!(output, "");
        assert_eq!(errors.trim(), format!("sluice-bench: {expected}"));
    }
}

/// Whatever is wrong with the words of a command is one line, too.
#[test]
fn wrong_usage_is_one_line() {
    for (arguments, begins, ends) in [
        (&["walk"][..], "walk is not a command of sluice-bench", "; see sluice-bench --help"),
        (&["compar"], "compar is not a command", "; did you mean compare?"),
        (&["run"], "the following required arguments", "; see sluice-bench run --help"),
        (
            &["run", "p3p"],
            "invalid value 'p3p' for '<SCENARIO>' [possible values: p2p, fanout,",
            "; see sluice-bench run --help",
        ),
        (&["pub", "-q", "9"], "invalid value '9' for '--qos", "; see sluice-bench pub --help"),
        (&["--quick", "compare"], "unexpected argument '--quick'", "; see sluice-bench --help"),
        (&["sub", "--topik", "a"], "unexpected argument '--topik'", "; did you mean --topic?"),
    ] {
        let output = run(arguments);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout), (Some(USAGE), Vec::new()), "{errors}");
        assert!(errors.starts_with(&format!("sluice-bench: {begins}")), "{errors}");
        assert!(errors.ends_with(&format!("{ends}\n")), "{errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
    }
}

#[test]
fn a_core_that_is_not_there_is_named() {
    let (status, _, errors) = run_at(broker::nobody(), &["run", "p2p", "--core", "99999"]);
    assert_eq!(status, Some(USAGE));
    assert!(errors.starts_with("sluice-bench: core 99999: this machine has cores "), "{errors}");
}

#[test]
fn who_is_closed_at_once_is_no_bottleneck() {
    let address = broker::start(broker::Manner::ClosesAtOnce);
    let (status, output, errors) = run_at(address, &["pub", "-t", "a", "-I", "0"]);
    assert_eq!(status, Some(CONNECTIONS), "{output}{errors}");
    // What was sent too late is answered by a reset.
    let ends = ["closed by the broker", "Connection reset by peer", "Broken pipe"];
    assert!(ends.iter().any(|end| output.contains(end)), "{output}");
    assert!(!output.contains("bottleneck"), "{output}");
}

/// Status and the line that says why there is no result.
fn interrupt_while(address: SocketAddr, words: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let mut run = start_at(address, arguments);
    run.wait_for(words);
    run.signal(Signal::INT);
    let line = run.wait_for("there is no result");
    let (status, output, _) = run.end();
    assert_eq!(output, "");
    (status, line.trim().to_owned())
}

#[test]
fn interrupted_before_anything_is_measured_it_says_so() {
    let silent = broker::start(broker::Manner::NeverAnswers);
    let pairs = ["run", "p2p", "--publishers", "2", "-W", "60"];
    let (status, line) = interrupt_while(silent, "0/4 connected", &pairs);
    assert_eq!(status, Some(INTERRUPTED));
    let with = |stage, connected| {
        format!(
            "sluice-bench: interrupted while {stage}, with {connected} of 4 clients connected: there is no result"
        )
    };
    assert_eq!(line, with("connecting", 0));
    let (_floor, address) = floor();
    let warm_up = [&pairs[..], &["--warm-up", "60"]].concat();
    let (status, line) = interrupt_while(address, "warming up", &warm_up);
    assert_eq!(status, Some(INTERRUPTED));
    assert_eq!(line, with("warming up", 4));
}

#[test]
fn queues_that_take_nothing_are_a_result() {
    let address = broker::start(broker::Manner::ClosesPublishers);
    let persistent = ["run", "persistent", "--publishers", "2", "--messages", "10", "-s", "28"];
    let (status, output, errors) = run_at(address, &persistent);
    assert_eq!(status, Some(CONNECTIONS), "{output}{errors}");
    let told = "PROBLEM               the queues did not take 20 messages, and none was fetched: \
                the broker closed publishers after ";
    assert!(output.contains(told), "{output}");
    assert!(output.contains("0 lost, 0 duplicates, 0 reordered"), "{output}");
}

#[test]
fn what_is_not_there_is_named() {
    for (arguments, status, expected) in [
        (
            &["run", "p2p", "-h", "no.such.host.invalid"][..],
            ERROR,
            "host \"no.such.host.invalid\": ",
        ),
        (&["sub", "-t", "a", "-h", ""], ERROR, "host \"\": "),
        (&["disk", "/no/such/place"], ERROR, "/no/such/place: is no directory"),
        (&["floor", "--bind", "192.0.2.1:1"], ERROR, "192.0.2.1:1: "),
        (&["run", "p2p", "--pid", "99999999"], ERROR, "there is no process 99999999 (--pid)"),
        (&["conn", "--pid", "99999999"], ERROR, "there is no process 99999999 (--pid)"),
        (&["run", "p2p", "--pid", ""], USAGE, "it names no process: is the broker running?"),
        (&["run", "p2p", "--pid", "1 x"], USAGE, "\"x\" is no process id"),
    ] {
        let output = run(arguments);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {errors}");
        assert!(errors.contains(expected), "{arguments:?}: {errors}");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "");
    }
}

#[test]
fn what_a_scenario_has_no_use_for_is_refused() {
    for (arguments, expected) in [
        (&["run", "p2p", "-c", "5"][..], "p2p has no use for --clients: it takes --publishers, "),
        (&["run", "idle", "-W", "5"], "idle has no use for --seconds: it takes --clients\n"),
        (&["run", "storm", "--spin"], "storm has no use for --spin: it takes --clients\n"),
        (&["run", "fanin", "--topics", "5"], "fanin has no use for --topics: it takes "),
    ] {
        let (status, output, errors) = run_at(broker::nobody(), arguments);
        assert_eq!((status, output.as_str()), (Some(USAGE), ""), "{errors}");
        assert!(errors.starts_with(&format!("sluice-bench: {expected}")), "{errors}");
    }
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    for (arguments, expected) in [
        // [MQTT-3.1.2-22]
        (&["run", "p2p", "-P", "x"][..], "--password: before 5.0 it needs a --username"),
        (&["conn", "-P", "x", "-V", "3.1"], "--password: before 5.0 it needs a --username"),
        (&["sub", "-t", "a", "-x", "9"], "--session-expiry: it takes 5.0 (-V 5)"),
        (&["conn", "--id", "a", "-c", "2"], "--id: without %i in it, clients would take each"),
        (&["pub", "-t", "a", "-m", "x", "-s", "5"], "'--size <SIZE>' cannot be used with"),
        // What a broker writes is asked of its processes.
        (&["run", "p2p", "--disk", "/tmp"], "--pid <PID>"),
        (&["compare", "x.toml", "--repetitions", "0"], "--repetitions"),
        (&["torture", "x.toml", "--kills", "0"], "--kills"),
    ] {
        let output = run(arguments);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(USAGE), "{arguments:?}: {errors}");
        assert!(errors.contains(expected), "{arguments:?}: {errors}");
    }
    // 5.0 has passwords without a user name.
    let (_floor, address) = floor();
    let conn = ["conn", "-c", "1", "-P", "x", "-V", "5", "-W", "0"];
    let (status, output, errors) = run_at(address, &conn);
    assert_eq!(status, Some(0), "{output}{errors}");
}

#[test]
fn h_alone_is_a_question() {
    for (arguments, words) in [
        (&["-h"][..], "-h is the broker's host"),
        (&["--help"], "-h is the broker's host"),
        (&["run", "--help"], "lost          sent and, at QoS 1 and 2, acknowledged"),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(0));
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn several_processes_are_added_up() {
    let (floor, address) = floor();
    let pids = format!("{} {}", floor.child.id(), std::process::id());
    let storm = ["run", "storm", "-c", "2", "--pid", &pids];
    let (status, output, errors) = run_at(address, &storm);
    assert_eq!(status, Some(0), "{output}{errors}");
    assert!(output.contains("broker's CPU"), "{output}");
}

#[test]
fn another_carrier_on_the_port_is_suspected() {
    let directory = tls::certificates();
    let web_socket = "[listener.websocket]\npath = \"/mqtt\"";
    let (_plain, plain) = tls::broker(&directory, None, "");
    let (_ws, ws) = tls::broker(&directory, None, web_socket);
    let (_tls, tls) = tls::broker(&directory, Some("server"), "");
    let (_wss, wss) = tls::broker(&directory, Some("server"), web_socket);
    for (address, how, flag) in [
        (ws, &[][..], "(--ws)"),
        (tls, &[], "(--tls)"),
        (wss, &[], "(--tls)"),
        (plain, &["--insecure"], "does that port speak TLS, "),
        (ws, &["--insecure"], "does that port speak TLS, "),
        (wss, &["--insecure"], "(--ws)"),
        (plain, &["--ws"], "does that port speak WebSocket, "),
        (tls, &["--ws"], "(--tls)"),
        (wss, &["--ws"], "(--tls)"),
        (tls, &["--ws", "--insecure"], "does that port speak WebSocket, "),
        (ws, &["--ws", "--insecure"], "over TLS?"),
    ] {
        let (status, _, errors) = run_at(address, &[&["conn", "-c", "1"], how].concat());
        assert_eq!(status, Some(CONNECTIONS), "{how:?}: {errors}");
        assert!(errors.contains(flag), "{how:?}, {flag}: {errors}");
        assert_eq!(lines_told(&errors), 1, "{how:?}: {errors}");
    }
}

#[test]
fn a_port_that_lets_some_in_is_not_suspected() {
    let conn = ["conn", "-c", "2", "-i", "200", "-W", "0"];
    let (status, output, errors) = run_at(broker::lets_one_in(), &conn);
    assert_eq!(status, Some(CONNECTIONS), "{output}{errors}");
    assert!(output.contains("1 connections to "), "{output}");
    assert!(!output.contains("is that port for"), "{output}");
}

#[test]
fn a_disk_that_is_not_there_is_named_before_the_run() {
    let own = std::process::id().to_string();
    let pairs = ["run", "p2p", "--disk", "/no/such/place", "--pid", &own];
    let (status, output, errors) = run_at(broker::nobody(), &pairs);
    assert_eq!((status, output.as_str()), (Some(ERROR), ""));
    assert_eq!(errors, "sluice-bench: /no/such/place: is no directory\n");
}
