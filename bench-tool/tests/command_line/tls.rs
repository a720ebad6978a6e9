//! TLS, against the broker and against OpenSSL.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{ChildStderr, ChildStdin};

use rcgen::{CertificateParams, DnType, Issuer, KeyPair, date_time_ymd};
use rustix::process::Signal;
use sluice::config::certs::Certs;
use tempfile::TempDir;

use super::*;

/// A CA, a server and a client of it, each a .pem and a .key.
pub(crate) fn certificates() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().to_owned();
    Certs { out, host: Vec::new(), client: "client".into() }.run().unwrap();
    directory
}

pub(crate) fn path(directory: &TempDir, name: &str) -> String {
    directory.path().join(name).to_str().unwrap().to_owned()
}

/// A broker with a listener, of TLS if there is a certificate of a name; `more` are further keys.
pub(crate) fn broker(directory: &TempDir, name: Option<&str>, more: &str) -> (Broker, SocketAddr) {
    let tls = name.map_or_else(String::new, |name| {
        let certificate = path(directory, &format!("{name}.pem"));
        let key = path(directory, &format!("{name}.key"));
        format!("[listener.tls]\ncertificate = {certificate:?}\nkey = {key:?}\n")
    });
    let text = format!(
        "[[listener]]\nbind = \"127.0.0.1:0\"\n{tls}{more}\n[store]\ndurability = \"memory\"\n"
    );
    let broker = broker_of(&text);
    let address = broker.addresses()[0];
    (broker, address)
}

fn requires_certificates(directory: &TempDir) -> (Broker, SocketAddr) {
    let ca = path(directory, "ca.pem");
    let more = format!("client_certificates = \"required\"\nclient_ca = {ca:?}");
    broker(directory, Some("server"), &more)
}

#[test]
fn messages_pass_over_both_versions() {
    let directory = certificates();
    let (_broker, address) = broker(&directory, Some("server"), "");
    let ca = path(&directory, "ca.pem");
    for (version, shown) in [("1.2", "TLS 1.2"), ("tlsv1.3", "TLS 1.3")] {
        for size in ["64", "300000"] {
            let pairs = ["run", "p2p", "--publishers", "2", "-q", "1", "-F", "4", "-s", size];
            let tls = ["--cafile", &ca, "--tls-version", version];
            let (status, output, errors) = pass_at(address, &[&pairs[..], &tls].concat());
            assert_eq!(status, Some(0), "{output}{errors}");
            assert!(output.contains("0 lost, 0 duplicates, 0 reordered"), "{output}");
            assert!(!output.contains("delivered             0 in"), "{output}");
            assert!(output.contains(&format!("  TLS                   {shown}, ")), "{output}");
            assert!(output.contains(", 4 full handshakes, 0 resumed"), "{output}");
        }
    }
}

#[test]
fn pub_and_sub_take_the_options_of_emqtt_bench() {
    let directory = certificates();
    let (_broker, address) = broker(&directory, Some("server"), "");
    let ca = path(&directory, "ca.pem");
    let mut sub = start_at(address, &["sub", "-S", "--insecure", "-t", "text", "-L", "3"]);
    sub.wait_for("1/1 connected");
    let publish = ["pub", "--ssl", "--cacertfile", &ca, "-t", "text", "-I", "0", "-L", "3"];
    let (status, output, errors) = run_at(address, &publish);
    assert_eq!(status, Some(0), "{output}{errors}");
    let (status, output, errors) = sub.end();
    assert_eq!(status, Some(0), "{output}{errors}");
    assert!(output.contains("delivered             3 in"), "{output}");
}

#[test]
fn sessions_are_resumed_if_that_is_asked_for() {
    let directory = certificates();
    let (_broker, address) = broker(&directory, Some("server"), "");
    let ca = path(&directory, "ca.pem");
    for version in ["1.2", "1.3"] {
        let storm = ["run", "storm", "-c", "20", "--connect-burst", "1", "--tls-resume"];
        let tls = ["--cafile", &ca, "--tls-version", version];
        let (status, output, errors) = run_at(address, &[&storm[..], &tls].concat());
        assert_eq!(status, Some(0), "{output}{errors}");
        assert!(output.contains(", 1 full handshakes, 19 resumed"), "{output}");
    }
}

/// A certificate of the CA's that was good until 2001.
fn sign_expired(directory: &TempDir) {
    let read = |name| fs::read_to_string(directory.path().join(name)).unwrap();
    let ca_key = KeyPair::from_pem(&read("ca.key")).unwrap();
    let mut ca = CertificateParams::default();
    ca.distinguished_name.push(DnType::CommonName, "Sluice development CA");
    let mut expired = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
    expired.not_after = date_time_ymd(2001, 1, 1);
    let key = KeyPair::generate().unwrap();
    let certificate = expired.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
    fs::write(directory.path().join("expired.pem"), certificate.pem()).unwrap();
    fs::write(directory.path().join("expired.key"), key.serialize_pem()).unwrap();
}

/// One line, and the status of connections that were refused.
pub(crate) fn assert_refused(address: SocketAddr, tls: &[&str], expected: &str) {
    let command = [&["conn", "-c", "2", "-i", "0"][..], tls].concat();
    let (status, output, errors) = run_at(address, &command);
    assert_eq!(status, Some(CONNECTIONS), "{tls:?}: {errors}");
    assert_eq!(output, "", "{tls:?}");
    assert_eq!(lines_told(&errors), 1, "{tls:?}: {errors}");
    assert!(errors.contains("2 of 2 clients could not connect"), "{tls:?}: {errors}");
    assert!(errors.trim().ends_with(expected), "{tls:?}: {errors}");
}

#[test]
fn a_broker_that_is_not_trusted_is_one_line() {
    let (ours, others) = (certificates(), certificates());
    sign_expired(&ours);
    let (_broker, address) = broker(&ours, Some("server"), "");
    let (_expired_broker, expired) = broker(&ours, Some("expired"), "");
    let (ca, other_ca) = (path(&ours, "ca.pem"), path(&others, "ca.pem"));
    let unknown = "the broker's certificate is of no CA that is trusted (--cafile)";
    assert_refused(address, &["--cafile", &other_ca], unknown);
    assert_refused(expired, &["--cafile", &ca], "the broker's certificate has expired");
    let name = ["--cafile", &ca, "--servername", "other.example"];
    assert_refused(address, &name, "is not for other.example (--servername)");
    let (status, output, errors) = run_at(expired, &["conn", "-c", "1", "-W", "0.1", "--insecure"]);
    assert_eq!(status, Some(0), "{output}{errors}");
}

#[test]
fn a_client_certificate_is_shown_and_one_that_is_refused_is_one_line() {
    let (ours, others) = (certificates(), certificates());
    let (_broker, address) = requires_certificates(&ours);
    let ca = path(&ours, "ca.pem");
    let with = |directory: &TempDir| ["client.pem", "client.key"].map(|name| path(directory, name));
    let ([cert, key], [other_cert, other_key]) = (with(&ours), with(&others));
    let good = ["conn", "-c", "2", "-W", "0.1", "--cafile", &ca, "--cert", &cert, "--key", &key];
    let (status, output, errors) = run_at(address, &good);
    assert_eq!(status, Some(0), "{output}{errors}");
    for version in ["1.2", "1.3"] {
        let common = ["--cafile", &ca, "--tls-version", version];
        assert_refused(address, &common, "the broker asks for a certificate (--cert, --key)");
        let other = ["--cert", &other_cert, "--key", &other_key];
        // It is of another CA of the same name.
        let refused = "the broker refuses the client's certificate: DecryptError";
        assert_refused(address, &[&common[..], &other].concat(), refused);
    }
}

#[test]
fn tls_on_one_side_only_is_told() {
    let directory = certificates();
    let (_broker, address) = broker(&directory, Some("server"), "");
    let told = "the broker answers with TLS, which was not asked for (--tls)";
    assert_refused(address, &[], told);
    let (_floor, plain) = floor();
    let told = "closed by the broker in the middle of the handshake (does that port speak TLS, and without WebSocket (--ws)?)";
    assert_refused(plain, &["--insecure"], told);
}

#[test]
fn files_that_are_no_good_are_named() {
    let directory = certificates();
    let (ca, key) = (path(&directory, "ca.pem"), path(&directory, "ca.key"));
    let address = broker::nobody();
    for (arguments, expected) in [
        (&["--cafile", "/nowhere.pem"][..], "/nowhere.pem: is not there".to_owned()),
        (&["--cafile", &key], format!("{key}: has no certificate in PEM in it")),
        (
            &["--insecure", "--cert", &ca, "--key", &ca],
            format!("{ca}: has no private key in PEM in it"),
        ),
        (&["--insecure", "--servername", "a b"], "\"a b\" is no name of a server".into()),
    ] {
        let (status, _, errors) = run_at(address, &[&["conn"], arguments].concat());
        assert_eq!(status, Some(ERROR), "{errors}");
        assert_eq!(errors.trim(), format!("sluice-bench: {expected}"));
    }
    assert_eq!(run(&["conn", "--cert", &ca]).status.code(), Some(USAGE));
}

/// `openssl s_server`, which sends what is written to its standard input and ends with it.
struct OpenSsl {
    child: Child,
    input: Option<ChildStdin>,
    _errors: ChildStderr,
}

impl OpenSsl {
    fn start(directory: &TempDir) -> (Self, SocketAddr) {
        let [cert, key]: [PathBuf; 2] =
            ["server.pem", "server.key"].map(|name| directory.path().join(name));
        let mut child = Command::new("openssl")
            .args(["s_server", "-accept", "127.0.0.1:0", "-cert"])
            .arg(cert)
            .arg("-key")
            .arg(key)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines.find(|line| line.as_ref().unwrap().starts_with("ACCEPT ")).unwrap();
        let address = line.unwrap().trim_start_matches("ACCEPT ").parse().unwrap();
        // What it tells of the connection is not to fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        let (input, errors) = (child.stdin.take(), child.stderr.take().unwrap());
        (Self { child, input, _errors: errors }, address)
    }

    fn say(&mut self, bytes: &[u8]) {
        let input = self.input.as_mut().unwrap();
        input.write_all(bytes).and_then(|()| input.flush()).unwrap();
    }
}

impl Drop for OpenSsl {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_packet_in_several_records_is_one_and_close_notify_is_an_end() {
    let directory = certificates();
    let ca = path(&directory, "ca.pem");
    let (mut openssl, address) = OpenSsl::start(&directory);
    let mut conn = start_at(address, &["conn", "-c", "1", "-W", "60", "--cafile", &ca]);
    conn.wait_for("0/1 connected");
    // CONNACK
    openssl.say(&[0x20, 2]);
    conn.wait_for("0/1 connected");
    openssl.say(&[0, 0]);
    conn.wait_for("1/1 connected");
    drop(openssl.input.take());
    let (status, output, _) = conn.end();
    assert_eq!(status, Some(BROKER_DIED), "{output}");
    assert!(output.contains("closed by the broker"), "{output}");
}

#[test]
fn interrupted_in_a_handshake_it_says_so() {
    // It takes connections and says nothing.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut conn = start_at(address, &["conn", "-c", "1", "--insecure"]);
    conn.wait_for("0/1 connected");
    conn.signal(Signal::INT);
    let (status, output, errors) = conn.end();
    assert_eq!(status, Some(INTERRUPTED), "{output}{errors}");
}
