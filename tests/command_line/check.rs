//! `sluice check`: whether a file is right, and what it changes.

use rustix::process::Signal;

use super::{Running, ends, file, sluice};

#[test]
fn check_says_whether_a_file_is_right() {
    let (_dir, right) = file("[limits]\nmax_packet_size = \"64KiB\"\n");
    let (status, out, err) = ends(sluice().args(["check", &right]));
    let said = format!(
        "{right}: right\nlimits.max_packet_size = \"64KiB\"  # {right}:2, by default \"1MiB\"\n"
    );
    assert_eq!((status, out, err), (0, said, String::new()));

    let (_dir, wrong) = file("# a file\n[limits]\nmax_packet_size = 64\n");
    let (status, out, err) = ends(sluice().args(["check", &wrong]));
    assert_eq!((status, out.as_str()), (2, ""));
    let line = format!("sluice: {wrong}:3: limits.max_packet_size: 64 has no unit; write a size ");
    assert!(err.starts_with(&line), "{err}");
    assert_eq!(err.lines().count(), 1, "{err}");

    let (status, _, err) = ends(sluice().args(["check", "/nowhere/sluice.toml"]));
    assert_eq!(status, 2);
    assert!(err.starts_with("sluice: /nowhere/sluice.toml: cannot be read: "), "{err}");
    let (status, _, err) = ends(sluice().args(["check", env!("CARGO_MANIFEST_DIR")]));
    assert_eq!(status, 2);
    assert!(err.contains(": cannot be read: Is a directory"), "{err}");
}

/// Who wants long queues may have raised one limit only.
#[test]
fn check_warns_of_queues_whose_bytes_end_long_before_their_messages() {
    let (_dir, path) = file("[queue]\nmax_messages = 1000000\n");
    let (status, out, err) = ends(sluice().args(["check", &path]));
    let said = "sluice: warning: queue.max_bytes = \"16MiB\" is 16 bytes for each of queue.max_messages = \
                1000000\n";
    assert_eq!((status, err.as_str()), (0, said), "{out}");
    let (_dir, path) = file("[queue]\nmax_messages = 1000000\nmax_bytes = \"1GiB\"\n");
    let (status, _, err) = ends(sluice().args(["check", &path]));
    assert_eq!((status, err.as_str()), (0, ""));
}

/// Who has the program alone has its settings, too.
#[test]
fn config_prints_a_file_that_changes_nothing() {
    let (status, out, err) = ends(sluice().arg("config"));
    assert_eq!((status, err.as_str()), (0, ""));
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/sluice.toml");
    assert_eq!(out, std::fs::read_to_string(source).expect("it is there"));
    let (_dir, path) = file(&out);
    let (status, said, err) = ends(sluice().args(["check", &path]));
    assert_eq!((status, err.as_str()), (0, ""));
    assert_eq!(said.lines().count(), 1, "{said}");
}

/// A start would end over them, and so does a check.
#[test]
fn check_reads_the_files_that_are_named() {
    for text in [
        "[auth]\npassword_file = \"/nowhere/users\"\n",
        "[acl]\nmosquitto_file = \"/nowhere/users\"\n",
        "[[listener]]\nbind = \"127.0.0.1:0\"\n\
         [listener.tls]\ncertificate = \"/nowhere/users\"\nkey = \"/nowhere/key\"\n",
    ] {
        let (_dir, path) = file(text);
        let (status, out, err) = ends(sluice().args(["check", &path]));
        assert_eq!((status, out.as_str()), (1, ""), "{text}: {err}");
        assert!(err.starts_with("sluice: ") && err.contains("/nowhere/users"), "{text}: {err}");
        assert_eq!(err.lines().count(), 1, "{err}");
    }
}

/// A denial for a user that nobody is would deny nothing, a quota limit nobody.
#[test]
fn what_is_for_users_needs_somebody_who_asks_for_them() {
    let dir = tempfile::TempDir::new().expect("a temporary directory");
    let [users, for_ann, for_names, for_all] =
        ["users", "for_ann", "for_names", "for_all"].map(|name| dir.path().join(name));
    std::fs::write(&users, "").expect("it is written");
    std::fs::write(&for_ann, "topic read a\nuser ann\ntopic deny b\n").expect("it is written");
    std::fs::write(&for_names, "# names\n\npattern write a/%u\n").expect("it is written");
    std::fs::write(&for_all, "topic a/%u\npattern write a/%c\n").expect("it is written");
    let rule = |more: &str| {
        format!(
            "[acl]\ndefault = \"allow\"\n[[acl.group]]\nname = \"g\"\nusers = []\n\
                 [[acl.rule]]\neffect = \"deny\"\ntopics = [\"a\"]\n\
                 [[acl.rule]]\neffect = \"deny\"\n{more}\n"
        )
    };
    for (acl, place) in [
        (rule("topics = [\"b\"]\nusers = [\"ann\"]"), "acl.rule[1] is for users, "),
        (rule("topics = [\"b\"]\ngroups = [\"g\"]"), "acl.rule[1] is for users, "),
        (rule("topics = [\"b\", \"b/%u/#\"]"), "acl.rule[1].topics: %u is for users, "),
        (rule("topics = [\"b/%c\"]\nclients = [\"c\"]"), ""),
        (
            "[[quota]]\nusers = [\"ann\"]\nmax_connections = 1\n".to_owned(),
            "quota[0] is for users, ",
        ),
        (format!("[acl]\nmosquitto_file = {for_ann:?}\n"), "for_ann:2: this is for users, "),
        (format!("[acl]\nmosquitto_file = {for_names:?}\n"), "for_names:3: this is for users, "),
        (format!("[acl]\nmosquitto_file = {for_all:?}\n"), ""),
    ] {
        for (auth, asks) in [
            ("", false),
            ("[auth]\nanonymous = true\n", false),
            (&*format!("[auth]\nanonymous = true\npassword_file = {users:?}\n"), true),
        ] {
            let (_dir, path) = file(&format!("{auth}{acl}"));
            let (status, _, err) = ends(sluice().args(["check", &path]));
            let is_right = asks || place.is_empty();
            assert_eq!(status, i32::from(!is_right), "{auth}{acl}{err}");
            let said = err.starts_with("sluice: ") && err.contains(place);
            assert!(said || is_right, "{err}");
            if !is_right {
                let start = ends(sluice().args(["--config", &path, "--bind", "127.0.0.1:0"]));
                assert!(
                    start.0 == 1 && start.2.ends_with(&err),
                    "a start fails like a check: {}",
                    start.2
                );
            }
        }
    }
}

/// Who was let in by Mosquitto goes on to be; the lines that it skips are named.
#[test]
fn check_names_the_lines_that_are_skipped() {
    let (_users, users) = file("# users\nann\n");
    let (_dir, path) = file(&format!("[auth]\npassword_file = {users:?}\n"));
    let (status, out, err) = ends(sluice().args(["check", &path]));
    assert_eq!(status, 0, "{err}");
    assert!(out.starts_with(&format!("{path}: right\n")), "{out}");
    assert_eq!(err, format!("sluice: warning: {users}:2: has no ':'; the line is skipped\n"));
    let mut broker = Running::start(sluice().args([
        "--config",
        &path,
        "--bind",
        "127.0.0.1:0",
        "--shards",
        "1",
    ]));
    let said = format!("{users}:2: has no ':'; the line is skipped");
    assert!(broker.start.concat().contains(&said), "{:?}", broker.start);
    broker.signal(Signal::HUP);
    assert!(broker.line().contains(&said), "a reload says so, too");
    broker.signal(Signal::TERM);
    assert_eq!(broker.end().0, Some(0));
}

/// What differs from the defaults, whoever says so, each with what it would be.
#[test]
fn check_says_what_is_changed() {
    let (_dir, path) = file(
        "shards = 2\n[[listener]]\nbind = \"127.0.0.1:0\"\nbacklog = 1024\n\
         [limits]\nconnections_per_second = \"unlimited\"\n[queue]\nmax_messages = 1000\n\
         [mqtt]\nretry = { after = [\"5s\", \"1m\"] }\n[overflow]\nonline = \"drop_oldest\"\n",
    );
    let mut command = sluice();
    command.args(["check", &path]).env("SLUICE_SHARDS", "3").env("SLUICE_SYS_INTERVAL", "60s");
    let (status, out, err) = ends(&mut command);
    assert_eq!((status, err.as_str()), (0, ""));
    let lines: Vec<&str> = out.lines().skip(1).collect();
    assert_eq!(
        lines,
        [
            "shards = 3  # SLUICE_SHARDS, by default 0".to_owned(),
            format!("listener[0].bind = \"127.0.0.1:0\"  # {path}:3"),
            format!("limits.connections_per_second = \"unlimited\"  # {path}:6, by default 50000"),
            format!(
                "mqtt.retry.after = [\"5s\", \"1m\"]  # {path}:10, \
                 by default [\"10s\", \"20s\", \"1m\"]"
            ),
            format!("overflow.online = \"drop_oldest\"  # {path}:12, by default \"disconnect\""),
            "sys.interval = \"1m\"  # SLUICE_SYS_INTERVAL, by default \"10s\"".to_owned(),
        ]
    );
}

/// What is there or not there is shown though its values are the defaults, and so is what has to be set.
#[test]
fn check_says_what_is_switched_on() {
    let (_dir, path) = file(
        "[[listener]]\nbind = \"127.0.0.1:0\"\n[listener.websocket]\n[mqtt]\nretry = {}\n\
         [acl]\ndefault = \"deny\"\n[[acl.rule]]\neffect = \"deny\"\ntopics = [\"a\"]\n",
    );
    let (status, out, err) = ends(sluice().args(["check", &path]));
    assert_eq!((status, err.as_str()), (0, ""));
    let lines: Vec<&str> = out.lines().skip(1).collect();
    assert_eq!(
        lines,
        [
            format!("listener[0].bind = \"127.0.0.1:0\"  # {path}:2"),
            format!(
                "listener[0].websocket = {{ path = \"/mqtt\", origins = [], max_head_bytes = \"8KiB\", \
                 max_frame_bytes = \"16MiB\" }}  # {path}:3, by default off"
            ),
            format!("acl.default = \"deny\"  # {path}:7, by default \"unstated\""),
            format!("acl.rule[0].effect = \"deny\"  # {path}:9"),
            format!("acl.rule[0].topics = [\"a\"]  # {path}:10"),
            format!(
                "mqtt.retry = {{ after = [\"10s\", \"20s\", \"1m\"], give_up = \"disconnect\" }}  \
                 # {path}:5, by default off"
            ),
        ]
    );
}

/// `sluice check FILE | head -n 1`, with nobody left to read the rest.
#[test]
fn what_nobody_reads_is_no_error() {
    let (_dir, path) = file("shards = 3\n");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let ended = ends(sluice().args(["check", &path]).stdout(writer));
    assert_eq!(ended, (0, String::new(), String::new()));
}

#[test]
fn check_takes_the_commented_file() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/sluice.toml");
    assert_eq!(ends(sluice().args(["check", path])).0, 0);
}
