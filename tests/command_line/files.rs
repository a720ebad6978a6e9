//! `sluice passwd` and `sluice certs`: the files that they make and change.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::thread;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tempfile::TempDir;

use super::{Running, ends, file, sluice};

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
        (&["/nowhere/users", "alice"], "x\n", "/nowhere/users: cannot be written: No such file"),
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
fn certificates_are_made_and_a_broker_starts_with_them() {
    let dir = TempDir::new().expect("a temporary directory");
    let out = dir.path().join("certs");
    let out = out.to_str().expect("it is text");
    let (status, said, err) = ends(sluice().args(["certs", "--out", out, "--host", "example.com"]));
    assert_eq!(status, 0, "{err}");
    assert!(said.contains("[listener.tls]") && said.contains("--cafile"), "{said}");
    let (status, _, err) = ends(sluice().args(["certs", "--out", out]));
    let there = |name| {
        format!("sluice: {out}/{name}: is there already; name another directory, or remove it\n")
    };
    assert_eq!((status, err), (1, there("ca.pem")), "nothing is written over");
    let other = dir.path().join("other");
    fs::create_dir(&other).expect("a directory");
    fs::copy(dir.path().join("certs/server.key"), other.join("server.key")).expect("it is there");
    let other = other.to_str().expect("it is text");
    let (status, _, err) = ends(sluice().args(["certs", "--out", other]));
    assert_eq!((status, err), (1, there("server.key").replace(out, other)));
    let files = fs::read_dir(other).expect("a directory").count();
    assert_eq!(files, 1, "nothing is written beside what fits nothing new");
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

/// `certs/make.sh`: it makes them next to itself, in the place of those that it made before, and they go
/// together.
#[test]
fn the_script_makes_certificates_next_to_itself() {
    let dir = TempDir::new().expect("a temporary directory");
    let certs = dir.path().join("certs");
    fs::create_dir(&certs).expect("a directory");
    let script = certs.join("make.sh");
    fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/certs/make.sh"), &script).expect("it is there");
    let [ca, certificate, key, client, client_key] =
        ["ca.pem", "server.pem", "server.key", "client.pem", "client.key"]
            .map(|name| certs.join(name));
    let config = format!(
        "[[listener]]\nbind = \"127.0.0.1:0\"\n[listener.tls]\ncertificate = {certificate:?}\n\
         key = {key:?}\nclient_certificates = \"required\"\nclient_ca = {ca:?}\n\
         [[listener.tls.more]]\ncertificate = {client:?}\nkey = {client_key:?}\n"
    );
    let (_dir, config) = file(&config);
    let mut made = Vec::new();
    for name in ["ann", "bob"] {
        let mut command = Command::new("bash");
        command.arg(&script).args(["--client", name]).current_dir("/");
        let (status, said, err) = ends(command.env("SLUICE", env!("CARGO_BIN_EXE_sluice")));
        assert_eq!(status, 0, "{err}");
        assert!(said.contains("certificate = \"certs/server.pem\""), "{said}");
        let (status, _, err) = ends(sluice().args(["check", &config]));
        assert_eq!(status, 0, "{err}");
        let shown = CertificateDer::from_pem_file(&client).expect("a certificate");
        let has_name = shown.windows(name.len()).any(|part| part == name.as_bytes());
        assert!(has_name, "the arguments are those of `sluice certs`");
        made.push(fs::read(&ca).expect("it is there"));
    }
    assert_ne!(made[0], made[1], "the second in the place of the first");
}
