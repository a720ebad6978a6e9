//! What the log tells of clients.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use rustix::process::Signal;

use super::{Running, file, sluice};

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
         [[listener]]\nbind = \"127.0.0.1:0\"\nproxy_protocol = true\nproxy_from = [\"127.0.0.1\"]\n",
    );
    let mut broker = Running::start(sluice().args(["--config", &path]).env("NO_COLOR", "1"));
    let addresses = broker.addresses();
    let cases: [(usize, &[u8], &str); 3] = [
        (0, b"GET /chat HTTP/1.1\r\n\r\n", "closed: there is no such path"),
        (0, b"\x10\x0c\0\x04MQTT\x04\x02\0\0\0\0", "closed: the request is not HTTP"),
        (1, b"\x10\x0c\0\x04MQTT\x04\x02\0\0\0\0", "closed: there is no PROXY header"),
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
