//! The command line, as a shell sees it: output, exit status, signals.

mod log;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// The program with an environment that sets nothing of its own.
fn sluice() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("SLUICE_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// Exit status, standard output, standard error of a run that ends by itself.
fn ends(command: &mut Command) -> (i32, String, String) {
    let output = command.output().expect("the program starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

fn file(text: &str) -> (TempDir, String) {
    let dir = TempDir::new().expect("a temporary directory");
    let path = dir.path().join("sluice.toml");
    fs::write(&path, text).expect("the file is written");
    let path = path.display().to_string();
    (dir, path)
}

/// A broker that is running.
struct Running {
    child: Child,
    log: BufReader<std::process::ChildStderr>,
    /// The lines of its log up to the one that says where it listens.
    start: Vec<String>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        command.env("SLUICE_STORE_DURABILITY", "memory");
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the program starts");
        let mut log = BufReader::new(child.stderr.take().expect("its log is a pipe"));
        let mut start = Vec::new();
        while !start.last().is_some_and(|line: &String| line.contains(" listening on ")) {
            let mut line = String::new();
            let read = log.read_line(&mut line).expect("its log can be read");
            assert_ne!(read, 0, "it ended before it listened: {start:?}");
            start.push(line);
        }
        Self { child, log, start }
    }

    fn started(&self) -> &str {
        self.start.last().expect("it has started")
    }

    fn addresses(&self) -> Vec<String> {
        let line = self.started();
        let (_, rest) = line.split_once(" listening on ").expect("it says where it listens");
        let (addresses, _) = rest.split_once(" with ").expect("it says how many shards it has");
        addresses.split(", ").map(str::to_owned).collect()
    }

    /// The next line of its log.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.log.read_line(&mut line).expect("its log can be read");
        line
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("the signal is sent");
    }

    /// The exit status and the rest of the log.
    fn end(mut self) -> (Option<i32>, String) {
        // The log ends with the process.
        let pid = Pid::from_child(&self.child);
        let (ended, is_ended) = mpsc::channel::<()>();
        let watchdog = thread::spawn(move || {
            if is_ended.recv_timeout(Duration::from_secs(20)) == Err(RecvTimeoutError::Timeout) {
                kill_process(pid, Signal::KILL).expect("it is ours");
            }
        });
        let mut rest = String::new();
        self.log.read_to_string(&mut rest).expect("its log can be read");
        let status = self.child.wait().expect("its status can be asked");
        drop(ended);
        watchdog.join().expect("it ends");
        (status.code(), rest)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn help_shows_a_newcomer_around() {
    let (status, help, _) = ends(sluice().arg("--help"));
    assert_eq!(status, 0);
    for word in [
        "MQTT",
        "127.0.0.1:1883",
        "mosquitto_sub",
        "--config",
        "--bind",
        "--shards",
        "--log",
        "check",
    ] {
        assert!(help.contains(word), "{word} is not in:\n{help}");
    }
    let (status, version, _) = ends(sluice().arg("--version"));
    assert_eq!((status, version), (0, format!("sluice {}\n", env!("CARGO_PKG_VERSION"))));
}

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
fn it_says_where_it_listens_and_stops_on_a_signal() {
    for signal in [Signal::TERM, Signal::INT] {
        let flags = ["--bind", "127.0.0.1:0", "--bind", "127.0.0.1:0", "--shards", "2"];
        let broker = Running::start(sluice().args(flags));
        assert!(broker.started().contains(" with 2 shards"), "{}", broker.started());
        let addresses = broker.addresses();
        assert_eq!(addresses.len(), 2, "{addresses:?}");
        for address in &addresses {
            TcpStream::connect(address).expect("it listens where it says");
        }
        broker.signal(signal);
        let (status, log) = broker.end();
        assert_eq!(status, Some(0), "{log}");
        assert!(log.contains("stopped"), "{log}");
    }
}

#[test]
fn a_hang_up_has_it_read_its_settings_again() {
    let (dir, path) = file("[auth]\nanonymous = true\n");
    let mut command = sluice();
    command.args(["--config", &path, "--bind", "127.0.0.1:0", "--shards", "1"]);
    let mut broker = Running::start(&mut command);
    assert!(broker.started().trim_end().ends_with(" with 1 shard"), "{}", broker.started());
    let passwords = dir.path().join("passwords").display().to_string();
    let mut reload = |text: &str| {
        fs::write(&path, text).expect("the file is written");
        broker.signal(Signal::HUP);
        broker.line()
    };
    let good = format!("[auth]\npassword_file = {passwords:?}\n");
    let missing = reload(&good);
    assert!(missing.contains("ERROR") && missing.contains("nothing is changed"), "{missing}");
    assert!(missing.contains(&passwords), "{missing}");
    fs::write(&passwords, "").expect("the file is written");
    assert!(reload(&good).contains("INFO"));
    let wrong = reload("[auth]\npasword_file = \"\"\n");
    assert!(wrong.contains("sluice.toml:2: auth.pasword_file"), "{wrong}");
    let text = "[limits]\nmax_packet_size = \"512KiB\"\npublish_messages_per_second = 5\n[mqtt]\nmax_qos = 1\n";
    let more = reload(&format!("{good}{text}"));
    let keys = ": limits.max_packet_size, mqtt.max_qos\n";
    assert!(more.contains("WARN") && more.ends_with(keys), "{more}");
    broker.signal(Signal::TERM);
    let (status, log) = broker.end();
    assert_eq!(status, Some(0), "{log}");
}

/// Runs `sluice passwd` with this on its standard input.
fn passwd(args: &[&str], input: &str) -> (i32, String, String) {
    let mut command = sluice();
    command.arg("passwd").args(args).stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let mut stdin = child.stdin.take().expect("its input is a pipe");
    // It may end without reading.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

#[test]
fn certificates_are_made_and_a_broker_starts_with_them() {
    let dir = TempDir::new().expect("a temporary directory");
    let out = dir.path().join("certs");
    let out = out.to_str().expect("it is text");
    let (status, said, err) = ends(sluice().args(["certs", "--out", out, "--host", "example.com"]));
    assert_eq!(status, 0, "{err}");
    assert!(said.contains("[listener.tls]") && said.contains("--cafile"), "{said}");
    let (status, _, err) = ends(sluice().args(["certs", "--out", out]));
    assert_eq!(status, 1, "nothing is written over: {err}");
    let (_, config) = said.split_once("In the configuration:").expect("it says how to go on");
    let (config, _) = config.split_once("Then:").expect("and what then");
    let (_dir, path) = file(&config.replace(":8883", ":0"));
    let broker = Running::start(sluice().args(["--config", &path, "--shards", "1"]));
    let mut socket = TcpStream::connect(&broker.addresses()[0]).expect("it listens");
    socket.write_all(b"\x10\x0D\0\x04MQTT\x04\x02\0\0\0\x01a").expect("it takes bytes");
    socket.shutdown(std::net::Shutdown::Write).expect("it is open");
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    assert_eq!(answer.first(), Some(&0x15), "an alert of TLS: {answer:x?}");
}

#[test]
fn a_password_file_is_edited() {
    let dir = TempDir::new().expect("a temporary directory");
    let path = dir.path().join("passwords");
    let path = path.to_str().expect("it is text");
    let users = || -> Vec<String> {
        let text = fs::read_to_string(path).expect("the file is there");
        text.lines().map(|line| line.split(':').next().unwrap_or_default().to_owned()).collect()
    };
    let done = |(status, out, err): (i32, String, String)| {
        assert_eq!(status, 0, "{err}");
        out
    };
    assert!(done(passwd(&[path, "alice"], "secret\n")).contains("1 user added"));
    let first = fs::read_to_string(path).expect("the file is there");
    assert!(first.starts_with("alice:$argon2id$"), "{first}");
    assert!(done(passwd(&[path, "alice"], "other\n")).contains("1 user changed"));
    assert_ne!(fs::read_to_string(path).expect("the file is there"), first);
    assert!(done(passwd(&[path, "sam", "--scram"], "secret\n")).contains("1 user added"));
    let scram = fs::read_to_string(path).unwrap();
    assert!(scram.contains("sam:$scram-sha-256$i=15000$"), "{scram}");
    assert!(done(passwd(&[path, "sam", "--delete"], "")).contains("1 user removed"));
    let both = done(passwd(&[path, "--batch"], "bob:one\nalice:two\n"));
    assert!(both.contains("1 user added, 1 user changed"), "{both}");
    assert_eq!(users(), ["alice", "bob"]);
    assert!(done(passwd(&[path, "alice", "--delete"], "")).contains("1 user removed"));
    assert_eq!(users(), ["bob"]);

    for (args, input, part) in [
        (&[path, "alice", "--delete"][..], "", "\"alice\" is not in the file"),
        (&[path, "a:b"], "x\n", "the user name has a : in it"),
        (&[path, "alice"], "\n", "has an empty password"),
        (&[path, "--batch"], "carol:three\ndave\n", "line 2 of the input has no ':'"),
    ] {
        let (status, _, err) = passwd(args, input);
        assert_eq!(status, 1, "{err}");
        assert!(err.contains(part), "{err}");
        assert_eq!(users(), ["bob"], "nothing is changed");
    }
}

#[test]
fn who_edits_a_password_file_at_the_same_time_loses_nobody() {
    let dir = TempDir::new().expect("a temporary directory");
    let path = dir.path().join("passwords");
    let path = path.to_str().expect("it is text");
    let users: Vec<String> = (0..8).map(|number| format!("user{number}")).collect();
    thread::scope(|scope| {
        for user in &users {
            scope.spawn(move || {
                let (status, said, err) = passwd(&[path, user], "secret\n");
                assert!(status == 0 && said.contains("1 user added"), "{said}{err}");
            });
        }
    });
    let text = fs::read_to_string(path).expect("the file is there");
    let mut there: Vec<&str> = text.lines().filter_map(|line| line.split(':').next()).collect();
    there.sort_unstable();
    assert_eq!(there, users);
}

#[test]
fn a_flag_goes_before_a_variable_and_a_variable_before_the_file() {
    let (_dir, path) = file("shards = 1\n[[listener]]\nbind = \"127.0.0.2:0\"\n");
    let from_file = Running::start(sluice().args(["--config", &path]));
    assert!(from_file.started().contains("127.0.0.2:"), "{}", from_file.started());
    assert!(from_file.started().contains(" 1 shard"), "{}", from_file.started());

    let mut command = sluice();
    command.args(["--config", &path]).env("SLUICE_SHARDS", "2");
    command.env("SLUICE_LISTENER_0_BIND", "127.0.0.3:0");
    let from_variable = Running::start(&mut command);
    assert!(from_variable.started().contains("127.0.0.3:"), "{}", from_variable.started());
    assert!(from_variable.started().contains(" 2 shards"), "{}", from_variable.started());

    command.args(["--shards", "3", "--bind", "127.0.0.4:0"]);
    let from_flag = Running::start(&mut command);
    assert!(from_flag.started().contains("127.0.0.4:"), "{}", from_flag.started());
    assert!(from_flag.started().contains(" 3 shards"), "{}", from_flag.started());
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
fn connections_it_cannot_serve_are_worth_a_warning() {
    let (_dir, path) = file("[limits]\nmax_connections = 4000000000\nmax_sessions = 4000000000\n");
    let args = ["--config", &path, "--bind", "127.0.0.1:0", "--shards", "1"];
    let broker = Running::start(sluice().args(args));
    let log = broker.start.concat();
    assert!(log.contains("WARN") && log.contains("limits.max_connections"), "{log}");
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

/// A second signal ends a stop that takes long, at once and with status 1; one that comes within a
/// second of the first is taken for the same.
#[test]
fn a_second_signal_ends_the_stop() {
    use std::io::Write;
    let (_dir, path) = file("shards = 1\n[shutdown]\ntimeout = \"1h\"\n");
    let args = ["--config", &path, "--bind", "127.0.0.1:0"];
    let mut broker = Running::start(sluice().args(args));
    let mut client = TcpStream::connect(&broker.addresses()[0]).expect("it listens");
    client.write_all(b"\x10\x0D\0\x04MQTT\x04\x02\0\0\0\x01a").expect("CONNECT is sent");
    client.write_all(b"\x82\x06\0\x01\0\x01t\0").expect("SUBSCRIBE is sent");
    client.read_exact(&mut [0; 9]).expect("CONNACK and SUBACK come");
    // More than the system takes for a client that does not read: the stop has to wait for it.
    let publish = [&b"\x30\x83\x80\x20\0\x01t"[..], &[b'x'; 512 * 1024]].concat();
    for _ in 0..32 {
        client.write_all(&publish).expect("PUBLISH is sent");
    }
    let first = Instant::now();
    broker.signal(Signal::TERM);
    while broker.child.try_wait().expect("its status can be asked").is_none() {
        assert!(first.elapsed() < Duration::from_secs(20), "it does not end");
        // What is tried is that one too early does nothing, and a later one does.
        thread::sleep(Duration::from_millis(50));
        broker.signal(Signal::TERM);
    }
    assert!(first.elapsed() >= Duration::from_secs(1), "ended after {:?}", first.elapsed());
    let (status, log) = broker.end();
    assert_eq!(status, Some(1), "{log}");
    assert!(log.contains("SIGTERM: stopping") && !log.contains("stopped"), "{log}");
}
