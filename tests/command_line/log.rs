//! What the log tells of clients.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, waitpid};

use super::{Running, ends, file, sluice};

/// The log names who was refused, from where, and why; the client is told no more than the code.
#[test]
fn a_refused_login_is_in_the_log() {
    let (dir, path) = file("");
    let passwords = dir.path().join("passwords").display().to_string();
    fs::write(&passwords, "").expect("the file is written");
    fs::write(&path, format!("[auth]\npassword_file = {passwords:?}\n")).expect("it is written");
    let mut command = sluice();
    command
        .args(["--config", &path, "--bind", "127.0.0.1:0", "--shards", "1"])
        .env("NO_COLOR", "1");
    let mut broker = Running::start(&mut command);
    let address = broker.addresses().remove(0);
    let cases: [(&[u8], _, &str); 2] = [
        (b"\x10\x0f\0\x04MQTT\x04\x02\0\0\0\x03dev", 5, "refused: no user name"),
        (
            b"\x10\x16\0\x04MQTT\x04\xc2\0\0\0\x03dev\0\x03eve\0\0",
            4,
            "refused: wrong user name or password",
        ),
    ];
    for (connect, code, cause) in cases {
        let mut client = TcpStream::connect(&address).expect("it listens");
        client.write_all(connect).expect("it is open");
        let peer = client.local_addr().expect("it has one").to_string();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).expect("a close");
        assert_eq!(answer, [0x20, 2, 0, code]);
        let line = broker.line();
        assert!(line.contains(cause) && line.contains(&peer) && line.contains("dev"), "{line}");
        assert_eq!(line.contains("eve"), code == 4, "{line}");
    }
    broker.signal(Signal::TERM);
    assert_eq!(broker.end().0, Some(0));
}

/// Who says by its Authentication Method who it is, and is not let in, is named as well.
#[test]
fn a_login_refused_by_a_method_is_in_the_log() {
    let sam = "sam:$scram-sha-256$i=4096$W22ZaJ0SNY7soEsUEjb6gQ$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY\
               $wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU\n";
    let (_users, users) = file(sam);
    let toml = format!("[auth]\npassword_file = {users:?}\nban.users = [\"mallory\"]\n");
    let (_dir, path) = file(&toml);
    let flags = ["--config", &path, "--bind", "127.0.0.1:0", "--shards", "1"];
    let mut broker = Running::start(sluice().args(flags).env("NO_COLOR", "1"));
    let address = broker.addresses().remove(0);
    let not_authorized = "refused: not authorized by its Authentication Method";
    for (first, code, cause, user) in [
        ("n,a=sam,n=eve,r=abc", 0x87, not_authorized, "user=\"eve\""),
        ("n,,n=mallory,r=abc", 0x8A, "refused: banned", "user=\"mallory\""),
        ("nonsense", 0x87, not_authorized, ""),
    ] {
        let text = |text: &str| [&[0, text.len() as u8], text.as_bytes()].concat();
        let properties = [&b"\x15"[..], &text("SCRAM-SHA-256"), b"\x16", &text(first)].concat();
        let head = b"\0\x04MQTT\x05\x02\0\0";
        let rest = [&head[..], &[properties.len() as u8], &properties, &text("dev")].concat();
        let connect = [&[0x10, rest.len() as u8][..], &rest].concat();
        let mut client = TcpStream::connect(&address).expect("it listens");
        client.write_all(&connect).expect("it is open");
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).expect("a close");
        assert_eq!((answer[0], answer[3]), (0x20, code), "{first}");
        let line = broker.line();
        assert!(line.contains(cause) && line.contains("client_id=\"dev\""), "{line}");
        assert!(line.contains(user) && line.contains("user=") != user.is_empty(), "{line}");
    }
}

/// Who cannot be checked because nobody answers is told from who cannot be because too many wait.
#[test]
fn why_a_login_could_not_be_checked_is_in_the_log() {
    let server = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = server.local_addr().expect("it has one");
    let http = format!(
        "shards = 1\n[auth.http]\nurl = \"http://{address}/\"\nthreads = 1\nqueue = 1\ntimeout = \"1m\"\n"
    );
    let (_dir, path) = file(&http);
    let mut command = sluice();
    command.args(["--config", &path, "--bind", "127.0.0.1:0"]).env("NO_COLOR", "1");
    let mut broker = Running::start(&mut command);
    let address = broker.addresses().remove(0);
    let begin = || {
        let mut client = TcpStream::connect(&address).expect("it listens");
        client.write_all(b"\x10\x0f\0\x04MQTT\x04\x02\0\0\0\x03dev").expect("it is open");
        client
    };
    // The server is asked about one, another waits.
    let mut asked = begin();
    let question = server.accept().expect("it is asked").0;
    let _waits = begin();
    let _refused = begin();
    let line = broker.line();
    assert!(line.contains("refused: too many logins wait to be checked"), "{line}");
    drop((question, server));
    asked.read_to_end(&mut Vec::new()).expect("a close");
    let line = broker.line();
    assert!(line.contains("WARN") && line.contains("gives no answer"), "{line}");
    let line = broker.line();
    assert!(line.contains("refused: nobody can say now whether it may come in"), "{line}");
}

/// Whoever sets up a proxy or a page finds in the log what is wrong with what it sends.
#[test]
fn a_refused_transport_is_in_the_log() {
    let (_dir, path) = file(
        "shards = 1\n[[listener]]\nbind = \"127.0.0.1:0\"\n[listener.websocket]\n\
         [[listener]]\nbind = \"127.0.0.1:0\"\nproxy_protocol = true\nproxy_from = [\"127.0.0.1\"]\n\
         [[listener]]\nbind = \"127.0.0.1:0\"\n",
    );
    let mut broker = Running::start(sluice().args(["--config", &path]).env("NO_COLOR", "1"));
    let addresses = broker.addresses();
    let cases: [(usize, &[u8], &str); 9] = [
        (0, b"GET /chat HTTP/1.1\r\n\r\n", "closed: there is no such path"),
        (0, b"\x10\x0c\0\x04MQTT\x04\x02\0\0\0\0", "closed: the request is not HTTP"),
        (1, b"\x10\x0c\0\x04MQTT\x04\x02\0\0\0\0", "closed: there is no PROXY header"),
        (2, b"\x16\x03\x01\x02\0\x01\0\x01\xfc", "closed: it speaks TLS, and"),
        (2, b"GET /mqtt HTTP/1.1\r\n\r\n", "closed: it speaks HTTP, and"),
        (2, b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", "closed: it begins with a PROXY header"),
        (2, b"\r\n\r\n\0\r\nQUIT\n", "closed: it begins with a PROXY header"),
        (2, b"\xC0\0", "closed: the first packet is not CONNECT"),
        (2, b"hello\r\n", "closed: reserved packet type or flags"),
    ];
    for (listener, bytes, cause) in cases {
        let mut client = TcpStream::connect(&addresses[listener]).expect("it listens");
        client.write_all(bytes).expect("it is open");
        let peer = client.local_addr().expect("it has one").to_string();
        let line = broker.line();
        assert!(line.contains(cause) && line.contains(&peer), "{line}");
    }
    broker.signal(Signal::TERM);
    assert_eq!(broker.end().0, Some(0));
}

/// The message of a client on a topic that is not its own goes nowhere; the client stays, and the log does
/// not say otherwise.
#[test]
fn the_log_does_not_call_a_client_closed_that_stays() {
    let (_dir, path) = file(
        "[[listener]]\nbind = \"127.0.0.1:0\"\n[auth]\nanonymous = true\n[acl]\ndefault = \"deny\"\n",
    );
    let mut broker = Running::start(sluice().args(["--config", &path]));
    let mut client = TcpStream::connect(&broker.addresses()[0]).expect("it listens");
    client.write_all(b"\x10\x10\0\x04MQTT\x04\x02\0\x3C\0\x04pump").expect("it is sent");
    client.read_exact(&mut [0; 4]).expect("CONNACK comes");
    client.write_all(b"\x32\x06\0\x01a\0\x01x").expect("PUBLISH is sent");
    client.read_exact(&mut [0; 4]).expect("PUBACK comes");
    let line = broker.line();
    assert!(line.contains(": published where it may not "), "{line}");
    assert!(!line.contains("closed"), "{line}");
}

/// Who writes rules finds in the log who was refused what.
#[test]
fn what_the_rules_refuse_is_in_the_log() {
    let bob = "bob:$6$YWJjZGVmZ2hpamts$m7eOX5ZHdUXNDr3MLnsKk2gba4zcxIKDbsyRp3pyWjXZgDJSXHJT9KmXBu0\
               fTbQHLha1eke74YY7/f+PyPf6PQ==\n";
    let (_users, users) = file(bob);
    for (v3_publisher, denied) in [
        ("acknowledge", "published where it may not peer="),
        ("disconnect", "closed: published where it may not: \"a/b\" peer="),
    ] {
        let (_dir, path) = file(&format!(
            "[[listener]]\nbind = \"127.0.0.1:0\"\n[auth]\npassword_file = {users:?}\n\
             [acl]\ndefault = \"deny\"\nv3_publisher = {v3_publisher:?}\n"
        ));
        let flags = ["--config", &path, "--log", "debug"];
        let mut broker = Running::start(sluice().args(flags).env("NO_COLOR", "1"));
        let mut client = TcpStream::connect(&broker.addresses()[0]).expect("it listens");
        let connect = b"\x10\x1d\0\x04MQTT\x04\xc2\0\x3C\0\x04pump\0\x03bob\0\x06sponge";
        assert_eq!(ask(&mut client, connect, 4), [0x20, 2, 0, 0]);
        let line = broker.line();
        assert!(line.contains(": connected ") && line.contains("user=\"bob\""), "{line}");

        let suback = ask(&mut client, b"\x82\x08\0\x01\0\x03c/#\x01", 5);
        assert_eq!(suback, [0x90, 3, 0, 1, 0x80]);
        let line = broker.line();
        let said = ["its subscription is refused: Not authorized", "user=\"bob\" topic=\"c/#\""];
        assert!(said.iter().all(|part| line.contains(part)), "{line}");

        client.write_all(b"\x32\x08\0\x03a/b\0\x01x").expect("PUBLISH is sent");
        let line = broker.line();
        assert!(line.contains(denied), "{line}");
        let is_closed = v3_publisher == "disconnect";
        assert!(is_closed || line.contains("user=\"bob\" topic=\"a/b\""), "{line}");
    }
}

/// At level debug the log tells of each client that comes and goes, at info of none that behaves.
#[test]
fn the_log_tells_of_clients_if_asked() {
    for (level, told) in [("debug", true), ("info", false)] {
        let flags = ["--bind", "127.0.0.1:0", "--shards", "2", "--log", level];
        let broker = Running::start(sluice().args(flags));
        let mut client = TcpStream::connect(&broker.addresses()[0]).expect("it listens");
        client.write_all(b"\x10\x10\0\x04MQTT\x04\x02\0\x3C\0\x04pump").expect("it is sent");
        client.read_exact(&mut [0; 4]).expect("CONNACK comes");
        client.write_all(b"\xE0\0").expect("DISCONNECT is sent");
        assert_eq!(client.read(&mut [0; 1]).expect("it is closed in good order"), 0);
        broker.signal(Signal::TERM);
        let (_, log) = broker.end();
        assert_eq!(log.contains("client_id=\"pump\" version=3.1.1 keep_alive=60"), told, "{log}");
        assert_eq!(log.contains("disconnected: it said goodbye"), told, "{log}");
    }
}

/// A client of 3.1.1 that was let in.
fn connect(address: &str, client_id: &str, clean: bool) -> TcpStream {
    let mut client = TcpStream::connect(address).expect("it listens");
    let length = u8::try_from(client_id.len()).expect("a short name");
    let head = [0x10, 12 + length];
    let rest = [u8::from(clean) << 1, 0, 60, 0, length];
    let connect = [&head, b"\0\x04MQTT\x04".as_slice(), &rest, client_id.as_bytes()].concat();
    let connack = ask(&mut client, &connect, 4);
    assert_eq!((connack[0], connack[3]), (0x20, 0));
    client
}

/// Sends a packet, and takes so many bytes of what comes.
fn ask(client: &mut TcpStream, packet: &[u8], answer: usize) -> Vec<u8> {
    client.write_all(packet).expect("it is open");
    let mut bytes = vec![0; answer];
    client.read_exact(&mut bytes).expect("an answer");
    bytes
}

/// Ends well, and returns when the broker has taken note.
fn say_goodbye(mut client: TcpStream) {
    client.write_all(b"\xE0\0").expect("DISCONNECT is sent");
    client.read_to_end(&mut Vec::new()).expect("a close");
}

/// What was dropped for a client is told when it goes, and when its session ends.
#[test]
fn the_log_tells_what_was_dropped_for_a_client() {
    let mut command = sluice();
    command
        .args(["--bind", "127.0.0.1:0", "--shards", "1", "--log", "debug"])
        .env("SLUICE_QUEUE_MAX_MESSAGES", "1")
        .env("SLUICE_OVERFLOW_OFFLINE", "drop_oldest")
        .env("NO_COLOR", "1");
    let broker = Running::start(&mut command);
    let address = &broker.addresses()[0];
    let mut pump = connect(address, "pump", false);
    ask(&mut pump, b"\x82\x06\0\x01\0\x01t\x01", 5);
    say_goodbye(pump);
    let mut publisher = connect(address, "publisher", true);
    for _ in 0..3 {
        ask(&mut publisher, b"\x32\x06\0\x01t\0\x01x", 4);
    }
    ask(&mut publisher, b"\x30\x04\0\x01tx\xC0\0", 2);
    let mut pump = connect(address, "pump", false);
    pump.read_exact(&mut [0; 8]).expect("the last message comes");
    say_goodbye(pump);
    let mut pump = connect(address, "pump", false);
    pump.write_all(b"\xF0\0").expect("it is open");
    pump.read_to_end(&mut Vec::new()).expect("a close");
    say_goodbye(connect(address, "pump", true));
    say_goodbye(publisher);
    broker.signal(Signal::TERM);
    let log = broker.end().1;
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| {
            line.contains("disconnected") || line.contains("closed:") || line.contains("ended")
        })
        .collect();
    let [first, second, bad, ended, last, other] = lines[..] else { panic!("{log}") };
    for (line, what, dropped) in [
        (first, "disconnected: it said goodbye", ""),
        (second, "disconnected: it said goodbye", " dropped=queue_full:2,offline:1"),
        (bad, "closed: ", " dropped=queue_full:2,offline:1"),
        (ended, "its session has ended", " dropped=queue_full:2,offline:1"),
        (last, "disconnected: it said goodbye", ""),
    ] {
        assert!(line.contains(what) && line.contains("client_id=\"pump\""), "{line}");
        assert!(
            line.ends_with(dropped) && line.contains("dropped") != dropped.is_empty(),
            "{line}"
        );
    }
    assert!(ended.contains("INFO") && other.contains("publisher"), "{log}");
}

/// Its publisher may be told that it is kept, as others have it.
#[test]
fn the_log_tells_of_the_first_message_that_a_full_queue_misses() {
    for policy in ["drop_newest", "drop_oldest"] {
        let mut command = sluice();
        command
            .args(["--bind", "127.0.0.1:0", "--shards", "1"])
            .env("SLUICE_QUEUE_MAX_MESSAGES", "1")
            .env("SLUICE_OVERFLOW_OFFLINE", policy)
            .env("NO_COLOR", "1");
        let broker = Running::start(&mut command);
        let address = &broker.addresses()[0];
        let mut pump = connect(address, "pump", false);
        ask(&mut pump, b"\x82\x06\0\x01\0\x01t\x01", 5);
        say_goodbye(pump);
        let mut publisher = connect(address, "publisher", true);
        ask(&mut publisher, b"\x82\x06\0\x01\0\x01t\0", 5);
        for _ in 0..4 {
            // PUBACK, and the message.
            ask(&mut publisher, b"\x32\x06\0\x01t\0\x01x", 4 + 6);
        }
        say_goodbye(publisher);
        broker.signal(Signal::TERM);
        let log = broker.end().1;
        let told: Vec<&str> = log.lines().filter(|line| line.contains("queue is full")).collect();
        let [line] = told[..] else { panic!("{policy}: {log}") };
        assert!(line.contains("WARN") && line.contains("client_id=\"pump\""), "{line}");
    }
}

#[test]
fn the_log_names_who_is_refused() {
    let mut command = sluice();
    command
        .args(["--bind", "127.0.0.1:0", "--shards", "1"])
        .env("SLUICE_LIMITS_MAX_SESSIONS", "1")
        .env("SLUICE_LIMITS_MAX_CONNECTIONS", "1")
        .env("NO_COLOR", "1");
    let broker = Running::start(&mut command);
    let address = &broker.addresses()[0];
    say_goodbye(connect(address, "first", false));
    let mut second = TcpStream::connect(address).expect("it listens");
    second.write_all(b"\x10\x12\0\x04MQTT\x04\x02\0\0\0\x06second").expect("it is open");
    let mut answer = Vec::new();
    second.read_to_end(&mut answer).expect("a close");
    assert_eq!(answer, b"\x20\x02\0\x03");
    broker.signal(Signal::TERM);
    let log = broker.end().1;
    let line = log.lines().find(|line| line.contains("max_sessions is reached"));
    assert!(line.is_some_and(|line| line.contains("client_id=\"second\"")), "{log}");
}

/// Packets of bad clients are counted, and the log bounded: what is left out is told, though nothing
/// more is to be said.
#[test]
fn bad_packets_are_counted_and_the_log_is_bounded() {
    let mut command = sluice();
    command
        .args(["--bind", "127.0.0.1:0", "--shards", "1"])
        .env("SLUICE_LOG_CLIENT_LINES_PER_SECOND", "2")
        .env("SLUICE_SYS_INTERVAL", "1s")
        .env("NO_COLOR", "1");
    let mut broker = Running::start(&mut command);
    let address = broker.addresses().remove(0);
    let bad: [&[u8]; 8] = [
        b"\xF0\0",
        b"\x36\x05\0\x01t\0\x01",
        b"\x31\x03\0\0x",
        b"\x30\x03\0\x01#",
        b"\x80\x06\0\x01\0\x01t\0",
        b"\x82\x06\0\0\0\x01t\0",
        b"\xC0\x80\x80\x80\x80\x01",
        b"\x20\x02\0\0",
    ];
    let mut clients: Vec<TcpStream> =
        (0..bad.len()).map(|n| connect(&address, &format!("bad-{n}"), true)).collect();
    // All of it comes in one turn.
    broker.signal(Signal::STOP);
    waitpid(Some(Pid::from_child(&broker.child)), WaitOptions::UNTRACED).expect("it stops");
    for (client, packet) in clients.iter_mut().zip(bad) {
        client.write_all(packet).expect("it is open");
    }
    broker.signal(Signal::CONT);
    for client in &mut clients {
        client.read_to_end(&mut Vec::new()).expect("a close");
    }
    for _ in 0..2 {
        let line = broker.line();
        assert!(line.contains("closed: ") && line.contains("client_id=\"bad-"), "{line}");
    }
    let line = broker.line();
    assert!(line.contains("WARN") && line.contains("suppressed=6"), "{line}");
    let mut watcher = connect(&address, "watcher", true);
    let topic = b"$SYS/broker/clients/errors";
    let subscribe = [b"\x82\x1F\0\x01\0\x1A".as_slice(), topic, b"\0"].concat();
    ask(&mut watcher, &subscribe, 5);
    let mut value = String::new();
    while value != "8" {
        let mut head = [0; 4];
        watcher.read_exact(&mut head).expect("PUBLISH comes");
        let mut rest = vec![0; usize::from(head[1]) - 2];
        watcher.read_exact(&mut rest).expect("all of it comes");
        assert_eq!(rest[..topic.len()], *topic);
        value = String::from_utf8(rest.split_off(topic.len())).expect("a number");
        assert!(["0", "8"].contains(&&*value), "{value}");
    }
}

/// At level trace, too, nothing is said of a message.
#[test]
fn no_message_is_worth_a_line() {
    let flags = ["--bind", "127.0.0.1:0", "--shards", "1", "--log", "trace"];
    let broker = Running::start(sluice().args(flags).env("NO_COLOR", "1"));
    let address = broker.addresses().remove(0);
    let mut client = connect(&address, "client", true);
    ask(&mut client, b"\x82\x06\0\x01\0\x01t\x02", 5);
    let _before = connect(&address, "before", true);
    for _ in 0..100 {
        assert_eq!(ask(&mut client, b"\x30\x04\0\x01tx", 6), b"\x30\x04\0\x01tx");
        ask(&mut client, b"\x32\x06\0\x01t\0\x01x", 12);
        ask(&mut client, b"\x34\x06\0\x01t\0\x01x", 12);
        ask(&mut client, b"\x62\x02\0\x01", 4);
    }
    say_goodbye(connect(&address, "after", true));
    broker.signal(Signal::TERM);
    let log = broker.end().1;
    let lines: Vec<&str> = log.lines().collect();
    let place = |id| lines.iter().position(|line| line.contains(&format!("client_id=\"{id}\"")));
    let between = &lines[place("before").expect("it is told")..place("after").expect("it is told")];
    assert_eq!(between.len(), 1, "{between:#?}");
}

/// Its disk is full, or what its lines were piped to has ended.
#[test]
fn a_log_that_cannot_be_written_stops_nothing() {
    let args = ["--bind", "127.0.0.1:0", "--shards", "1"];
    let mut broker = Running::start(sluice().args(args));
    let address = broker.addresses().remove(0);
    broker.log = BufReader::new(Box::new(io::empty()));
    let answer_to = |bytes: &[u8], answer: &mut [u8]| {
        let mut client = TcpStream::connect(&address).expect("it listens");
        client.write_all(bytes).expect("it is open");
        client.read(answer).expect("an answer, or a close")
    };
    // The log has a line about it.
    assert_eq!(answer_to(b"\x10\x00", &mut [0; 1]), 0);
    let mut connack = [0; 4];
    assert_eq!(answer_to(b"\x10\x0D\0\x04MQTT\x04\x02\0\0\0\x01a", &mut connack), 4);
    assert_eq!(connack, [0x20, 2, 0, 0]);
    broker.signal(Signal::TERM);
    assert_eq!(broker.end().0, Some(0));
}

/// A disk that is full under the lines does not change what is told by the exit status.
#[test]
fn the_exit_status_does_not_need_a_line() {
    let full = || File::options().write(true).open("/dev/full").expect("Linux has it");
    let (_dir, wrong) = file("[stor]\n");
    let (_dir, right) = file("[auth]\npassword_file = \"/nobody/has/this\"\n");
    for (args, expected) in [(["check", &wrong], 2), (["check", &right], 1)] {
        assert_eq!(ends(sluice().args(args).stderr(full())).0, expected, "{args:?}");
    }
}

/// Whoever reads the log may stop to: it goes into a pager, or the machine has too much to do. No client waits for
/// that.
#[test]
fn who_does_not_read_the_log_keeps_no_client_waiting() {
    const NAME: usize = 10_000;
    /// What the log says of them has room neither in the pipe nor in memory.
    const CLIENTS: usize = 120;
    let flags = ["--bind", "127.0.0.1:0", "--shards", "1", "--log", "debug"];
    let broker =
        Running::start(sluice().args(flags).env("SLUICE_LIMITS_MAX_CLIENT_ID_BYTES", "10KiB"));
    let address = broker.addresses().remove(0);
    let len = NAME + 12;
    let head = [0x10, len as u8 | 0x80, (len >> 7) as u8, 0, 4];
    let connect = [&head, &b"MQTT\x04\x02\0\0"[..], &(NAME as u16).to_be_bytes(), &[b'n'; NAME]];
    let connect = connect.concat();
    for n in 0..CLIENTS {
        let mut client = TcpStream::connect(&address).expect("it listens");
        client.set_read_timeout(Some(Duration::from_secs(10))).expect("there is time");
        client.write_all(&connect).expect("it is open");
        let mut answer = [0; 4];
        client.read_exact(&mut answer).unwrap_or_else(|error| panic!("client {n}: {error}"));
        assert_eq!(answer, *b"\x20\x02\0\0");
    }
    broker.signal(Signal::TERM);
    let (status, rest) = broker.end();
    assert_eq!(status, Some(0));
    let told = rest.lines().filter(|line| line.contains("lines of the log were left out"));
    assert_eq!(told.count(), 1, "{}", rest.len());
}
