//! What is wrong is said on one line, before anything is bound.

use std::process::Command;

use super::{Running, ends, file, sluice};

#[test]
fn what_is_wrong_is_said_before_anything_is_bound() {
    let (_dir, wrong) = file("colour = 1\n[[listener]]\nbind = \"127.0.0.1:0\"\n");
    let (status, _, err) = ends(sluice().args(["--config", &wrong]));
    assert_eq!(status, 2);
    assert!(err.contains(":1: colour: is not a known key"), "{err}");
    assert!(!err.contains("listening"), "{err}");

    let (status, _, err) = ends(sluice().env("SLUICE_QUEUE_MAX_BYTE", "1MiB"));
    assert_eq!(status, 2);
    assert!(err.contains("did you mean SLUICE_QUEUE_MAX_BYTES?"), "{err}");

    let twice = ["--bind", "127.0.0.1:2", "--bind", "127.0.0.1:2"];
    let (status, _, err) = ends(sluice().args(twice));
    assert_eq!(status, 2);
    assert!(err.starts_with("sluice: --bind: 127.0.0.1:2 is bound by another"), "{err}");

    let bind = ["--bind", "127.0.0.1:2", "--bind", "127.0.0.1:2"];
    let (status, _, err) = ends(sluice().args(bind).env("SLUICE_LISTENER_0_BACKLOG", "5"));
    assert_eq!(status, 2);
    let begin =
        "sluice: SLUICE_LISTENER_0_BACKLOG: has no effect, because --bind replaces every listener";
    assert!(err.starts_with(begin), "{err}");
    // Where it listens is overridden, as by any flag.
    let (_, _, err) = ends(sluice().args(bind).env("SLUICE_LISTENER_0_BIND", "127.0.0.1:3"));
    assert!(err.starts_with("sluice: --bind: 127.0.0.1:2 is bound by another"), "{err}");
}

/// Whatever is wrong is one line that begins alike, names who said it, and says what to write.
#[test]
fn errors_are_one_line() {
    let wrong = |command: &mut Command, begins: &str, contains: &str| {
        let (status, out, err) = ends(command);
        assert_eq!((status, out.as_str()), (2, ""), "{err}");
        assert!(err.starts_with(&format!("sluice: {begins}")) && err.contains(contains), "{err}");
        assert_eq!(err.lines().count(), 1, "{err}");
    };
    for (flags, begins, contains) in [
        (&["--bind", "localhost:1883"][..], "--bind: \"localhost:1883\" is not", "127.0.0.1:1883"),
        (&["--bind", "1883"], "--bind: \"1883\" is not", "127.0.0.1:1883"),
        (&["--shards", "99"], "--shards: \"99\" is out of range", "from 0 to 63"),
        (&["--shards", "-1"], "--shards: \"-1\" is out of range", "from 0 to 63"),
        (&["--shards", "many"], "--shards: \"many\" is not a whole number", "from 0 to 63"),
        (&["--log", "loud"], "--log: \"loud\" is not known", "\"debug\""),
        (&["--colour", "red"], "unexpected argument '--colour'", "see sluice --help"),
        (&["--confg", "a"], "unexpected argument '--confg'", "did you mean --config?"),
        (&["--config"], "a value is required for '--config <FILE>'", "see sluice --help"),
        (&["check"], "the following required arguments", "<FILE>; see sluice --help"),
        (&["chek"], "chek is not a command", "did you mean check?"),
        (&["--shards", "1", "check", "a"], "check takes no options before it", "see sluice --help"),
        (&["my.toml"], "my.toml is not a command", "write sluice --config my.toml"),
        (&["--config", "/nowhere/a"], "/nowhere/a: cannot be read", "No such file"),
    ] {
        wrong(sluice().args(flags), begins, contains);
    }
    for (name, value, contains) in [
        ("SLUICE_SHARDS", "x", ": \"x\" is not a whole number; write a whole number from 0 to 63"),
        ("SLUICE_LISTENER_1_BACKLOG", "5", "SLUICE_LISTENER_1_BIND: is missing"),
        ("SLUICE_LISTENER_5_BIND", "127.0.0.1:0", ": leaves out a number; the next would begin"),
        ("SLUICE_LISTENER_0_BIMD", "127.0.0.1:0", "did you mean SLUICE_LISTENER_0_BIND?"),
        ("SLUICE_LOG", "debug", ": is not a known variable; did you mean SLUICE_LOG_LEVEL?"),
        ("SLUICE_BIND", "127.0.0.1:0", "did you mean SLUICE_LISTENER_0_BIND?"),
        ("SLUICE_CONFIG", "a.toml", "a file is named by --config FILE"),
        ("SLUICE_NONSENSE", "1", "they are named SLUICE_<SECTION>_<KEY>"),
    ] {
        let begins = if contains.starts_with(':') { name } else { "SLUICE_" };
        wrong(sluice().env(name, value), begins, contains);
    }
    for (text, contains) in [
        ("[[listener]]\nport = 1883\n", ":1: listener[0].bind: is missing"),
        ("[mqtt]\nretry = true\n", ":2: mqtt.retry: true is not a section; write [mqtt.retry]"),
    ] {
        let (_dir, path) = file(text);
        wrong(sluice().args(["check", &path]), &path, contains);
    }
}

#[test]
fn others_reach_it_only_if_somebody_says_so() {
    let args = ["--bind", "0.0.0.0:0", "--shards", "1"];
    let (status, _, err) = ends(sluice().args(args));
    assert_eq!(status, 2, "{err}");
    assert!(err.starts_with("sluice: --bind: ") && err.contains("auth.password_file"), "{err}");
    let open = Running::start(sluice().args(args).arg("--anonymous"));
    let log = open.start.concat();
    assert!(log.contains("WARN") && log.contains("auth.anonymous"), "{log}");
    let own = Running::start(sluice().args(["--bind", "127.0.0.1:0", "--shards", "1"]));
    assert!(!own.start.concat().contains("other machines"), "{:?}", own.start);
}

#[test]
fn a_taken_address_is_said() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = taken.local_addr().expect("it has an address").to_string();
    let (status, _, err) =
        ends(sluice().args(["--bind", &address, "--shards", "1", "--durability", "memory"]));
    assert_eq!(status, 1, "{err}");
    let line = format!("sluice: cannot listen on {address}: a program listens there already: ");
    assert!(err.lines().last().is_some_and(|last| last.starts_with(&line)), "{err}");
    // TEST-NET-1, which nobody has.
    let (status, _, err) = ends(sluice().args(["--bind", "192.0.2.1:1883", "--anonymous"]));
    assert_eq!(status, 1, "{err}");
    assert!(err.contains("this machine does not have that address"), "{err}");
    assert!(!err.contains("auth.anonymous"), "nobody can reach it: {err}");
}
