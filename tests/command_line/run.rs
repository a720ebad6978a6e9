//! Start, signals, stop.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use super::{Running, ends, file, sluice};

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
fn that_nothing_is_stored_is_said_at_the_start() {
    let args = ["--bind", "127.0.0.1:0", "--shards", "1", "--durability", "memory"];
    let broker = Running::start(sluice().args(args));
    let log = broker.start.concat();
    assert!(log.contains("nothing is stored (store.durability)"), "{log}");
}

/// By its whole path: who starts it somewhere else has a new and empty one.
#[test]
fn where_things_are_stored_is_said_at_the_start() {
    let dir = TempDir::new().expect("a temporary directory");
    let args = ["--bind", "127.0.0.1:0", "--shards", "1", "--durability", "os", "--data", "kept"];
    let broker = Running::start(sluice().args(args).current_dir(&dir));
    let root = dir.path().canonicalize().expect("it is there");
    let log = broker.start.concat();
    assert!(log.contains(&format!(" {}: 0 records", root.join("kept").display())), "{log}");
}

/// It does not need to be told by `ulimit` first.
#[test]
fn the_limit_on_open_files_is_raised() {
    let start = |limits: &str| {
        let mut command = Command::new("sh");
        command
            .args([
                "-c",
                &format!("ulimit {limits}; exec \"$0\" \"$@\""),
                env!("CARGO_BIN_EXE_sluice"),
            ])
            .args(["--bind", "127.0.0.1:0", "--shards", "1"])
            .env("SLUICE_LIMITS_MAX_CONNECTIONS", "300")
            .stdin(Stdio::null());
        let broker = Running::start(&mut command);
        let path = format!("/proc/{}/limits", broker.child.id());
        let limits = fs::read_to_string(path).expect("it runs");
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
        let words = line.expect("it says so").split_whitespace();
        let limits: Vec<u32> = words.map_while(|word| word.parse().ok()).collect();
        (limits, broker.start.concat())
    };
    let (limits, log) = start("-Sn 100 -Hn 2000");
    assert!(limits[0] > 300 && !log.contains("WARN"), "{limits:?} {log}");
    let (limits, log) = start("-n 200");
    assert_eq!(limits, [200, 200]);
    assert!(log.contains("WARN") && log.contains("limits.max_connections"), "{log}");
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

/// A second signal ends a stop that takes long, at once and with status 1; one that comes within a
/// second of the first is taken for the same.
#[test]
fn a_second_signal_ends_the_stop() {
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
