//! What is wrong is said on one line, before anything is bound.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use tempfile::TempDir;

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
        (
            &["-p", "1884"],
            "unexpected argument '-p' found; the port is part of",
            "--bind 127.0.0.1:1884",
        ),
        (&["--confg", "a"], "unexpected argument '--confg'", "did you mean --config?"),
        (&["--config"], "a value is required for '--config <FILE>'", "see sluice --help"),
        (&["check"], "the following required arguments", "<FILE>; see sluice check --help"),
        (&["check", "--bogus"], "unexpected argument '--bogus'", "see sluice check --help"),
        (&["store", "--bogus"], "unexpected argument '--bogus'", "see sluice store --help"),
        (&["store", "dump", "--bogus"], "unexpected argument", "see sluice store dump --help"),
        (&["certs"], "the following required arguments", "--out <DIR>; see sluice certs --help"),
        (&["passwd", "a"], "the following required arguments", "<USER>; see sluice passwd --help"),
        (&["chek"], "chek is not a command", "did you mean check?"),
        (&["store", "chek"], "chek is not a command", "did you mean check?"),
        (&["store", "a"], "a is not a command of sluice store", "see sluice store --help"),
        (&["--shards", "1", "check", "a"], "check takes no options", "see sluice check --help"),
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
        (
            "SLUICE_NONSENSE",
            "1",
            "SLUICE_<SECTION>_<KEY>, and all sections and keys are listed by sluice config",
        ),
    ] {
        let begins = if contains.starts_with(':') { name } else { "SLUICE_" };
        wrong(sluice().env(name, value), begins, contains);
    }
    for (text, contains) in [
        ("[[listener]]\nport = 1883\n", ":1: listener[0].bind: is missing"),
        ("[mqtt]\nretry = true\n", ":2: mqtt.retry: true is not a section; write [mqtt.retry]"),
        (
            "# Mosquitto\npid_file /run/mosquitto.pid\nlistener 1883\n",
            ":2: is not TOML, but looks like the configuration of Mosquitto (\"pid_file \
             /run/mosquitto.pid\"); how its options are written here is in the README, \
             \"Coming from Mosquitto\"",
        ),
        ("listeners:\n  tcp: 1883\n", ":1: is not TOML: "),
        (
            "[store]\ndurability = fsync\n",
            ":2: is not TOML: text needs quotes: durability = \"fsync\"\n",
        ),
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
    assert!(err.starts_with("sluice: --bind: 0.0.0.0:0 can be reached"), "{err}");
    for way in
        ["auth.password_file", "sluice passwd", "[auth.jwt]", "[auth.http]", "[listener.tls]"]
    {
        assert!(err.contains(way), "{way}: {err}");
    }
    assert!(err.ends_with("let everybody in: --anonymous, or auth.anonymous = true\n"), "{err}");
    let open = Running::start(sluice().args(args).arg("--anonymous"));
    let log = open.start.concat();
    assert!(log.contains("WARN") && log.contains("auth.anonymous"), "{log}");
    let own = Running::start(sluice().args(["--bind", "127.0.0.1:0", "--shards", "1"]));
    assert!(!own.start.concat().contains("other machines"), "{:?}", own.start);
}

/// Whole paths, as who reads a log need not know where the broker was started, and how to go on.
#[test]
fn a_data_directory_that_cannot_be_used_is_said() {
    let dir = TempDir::new().expect("a temporary directory");
    let root = dir.path().canonicalize().expect("it is there");
    fs::write(root.join("file"), "").expect("it is written");
    fs::create_dir(root.join("lite")).expect("it is made");
    fs::write(root.join("lite/format"), "2 sqlite\n").expect("it is written");
    fs::create_dir(root.join("newer")).expect("it is made");
    fs::write(root.join("newer/format"), "3 fjall\n").expect("it is written");
    symlink("not-mounted", root.join("link")).expect("it is made");
    let whole = |name: &str| root.join(name).display().to_string();
    let newer = format!("the data directory {} has format 3, this version knows 2", whole("newer"));
    let has_to = "; it has to be a directory that the broker can make, or write to: name one with --data, or \
                  store.data";
    for (name, said, way) in [
        (
            "file",
            format!("cannot use the data directory {}: it is a file", whole("file")),
            has_to.to_owned(),
        ),
        (
            "file/new",
            format!("cannot use the data directory {}: ", whole("file/new")),
            has_to.to_owned(),
        ),
        (
            "link",
            format!(
                "cannot use the data directory {}: it is a link to what is not there",
                whole("link")
            ),
            has_to.to_owned(),
        ),
        (
            "lite",
            format!(
                "the data directory {} is of the engine \"sqlite\", not \"fjall\"",
                whole("lite")
            ),
            format!(
                "; write store.engine = \"sqlite\" (SLUICE_STORE_ENGINE=sqlite) to go on with it, or copy it \
                 for the other: sluice store migrate {} NEW",
                whole("lite")
            ),
        ),
        ("newer", newer.clone(), ": use a newer version".to_owned()),
    ] {
        let args = ["--bind", "127.0.0.1:0", "--shards", "1", "--log", "error", "--data", name];
        let (status, _, err) = ends(sluice().args(args).current_dir(&root));
        assert_eq!(status, 1, "{err}");
        assert!(err.starts_with(&format!("sluice: {said}")), "{err}");
        assert!(err.ends_with(&format!("{way}\n")) && err.lines().count() == 1, "{err}");
    }
    // Nor does anything else touch it.
    for tool in [&["check", "newer"][..], &["dump", "newer"], &["migrate", "newer", "new"]] {
        let (status, out, err) = ends(sluice().arg("store").args(tool).current_dir(&root));
        assert_eq!((status, out.as_str()), (1, ""), "{err}");
        assert_eq!(err, format!("sluice: {newer}: use a newer version\n"));
    }
    let left = fs::read_to_string(root.join("newer/format")).expect("it is there");
    assert_eq!((left.as_str(), root.join("new").exists()), ("3 fjall\n", false));
}

/// The same of what the settings name: a file that is looked for somewhere else is found out by its whole path.
#[test]
fn a_file_that_is_not_there_is_named_by_its_whole_path() {
    let dir = TempDir::new().expect("a temporary directory");
    let root = dir.path().canonicalize().expect("it is there");
    let tls = "[[listener]]\nbind = \"127.0.0.1:0\"\n[listener.tls]\ncertificate = \"a/missing\"\nkey = \"k\"\n";
    for (settings, said) in [
        ("[auth]\npassword_file = \"a/missing\"\n", "cannot be read: No such file"),
        ("[acl]\nmosquitto_file = \"a/missing\"\n", "cannot be read: No such file"),
        ("[auth.jwt]\nkey_file = \"a/missing\"\n", "cannot be read: No such file"),
        (tls, "is not there"),
    ] {
        fs::write(root.join("sluice.toml"), settings).expect("it is written");
        let (status, _, err) = ends(sluice().args(["check", "sluice.toml"]).current_dir(&root));
        assert_eq!(status, 1, "{err}");
        let line = format!("sluice: {}: {said}", root.join("a/missing").display());
        assert!(err.starts_with(&line), "{err}");
    }
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
    assert!(err.ends_with("; name another address with --bind, or listener.bind\n"), "{err}");
    // TEST-NET-1, which nobody has.
    let (status, _, err) = ends(sluice().args(["--bind", "192.0.2.1:1883", "--anonymous"]));
    assert_eq!(status, 1, "{err}");
    assert!(err.contains("this machine does not have that address"), "{err}");
    assert!(!err.contains("auth.anonymous"), "nobody can reach it: {err}");
}
