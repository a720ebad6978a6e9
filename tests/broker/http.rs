//! A server that is asked over HTTP who a client is: what it says, and what happens when it does not.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::authentication::{
    ALICE, BAD_USER_NAME_OR_PASSWORD, Passwords, SERVER_UNAVAILABLE, refused,
};
use crate::common::{Broker, Client, Connect, Message, V5, V311, broker, code, let_pass};

const MAXIMUM_CONNECT_TIME: u8 = 0xA0;

/// What a request said: its head, and its body.
type Request = (String, Value);

/// A server of a few lines, which answers as it is told.
struct Server {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// `answer` makes the status and the body of what was asked.
    fn new(answer: impl Fn(&Value) -> (u16, String) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (all, answer) = (asked.clone(), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (all, answer) = (all.clone(), answer.clone());
                thread::spawn(move || serve(BufReader::new(stream), &all, &*answer));
            }
        });
        Self { address, asked }
    }

    /// Goes by the user name: `200` and so on, or what is to stand in the body.
    fn by_user() -> Self {
        Self::new(|question| {
            let user = question["username"].as_str().unwrap_or("none");
            match user.parse() {
                Ok(status) => (status, String::new()),
                Err(_) => (200, answer_to(user)),
            }
        })
    }

    fn toml(&self, more: &str) -> String {
        format!(
            "ban.exempt = [\"127.0.0.0/8\"]\n[auth.http]\nurl = \"http://{}/mqtt\"\n{more}",
            self.address
        )
    }

    fn broker(&self, more: &str) -> Broker {
        broker(&format!("[auth]\n{}", self.toml(more)))
    }

    fn asked(&self) -> Vec<Request> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

fn answer_to(user: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    match user {
        "allow" | "deny" | "ignore" | "perhaps" => json!({"result": user}).to_string(),
        "super" => json!({"result": "allow", "is_superuser": true}).to_string(),
        "null" => json!({"result": "allow", "acl": null, "expire_at": null}).to_string(),
        "acl" => json!({"result": "allow", "acl": {"publish": ["%u/#"]}}).to_string(),
        "wrong-acl" => json!({"result": "allow", "acl": "all"}).to_string(),
        "short" => json!({"result": "allow", "expire_at": now + 0.3}).to_string(),
        "past" => json!({"result": "allow", "expire_at": now - 1.0}).to_string(),
        "long" => " ".repeat(70_000) + &json!({"result": "allow"}).to_string(),
        _ => "no JSON".to_owned(),
    }
}

/// Answers the requests of one connection.
fn serve<S: Read + Write>(
    mut stream: BufReader<S>,
    asked: &Mutex<Vec<Request>>,
    answer: &(dyn Fn(&Value) -> (u16, String) + Send + Sync),
) {
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            match stream.read_line(&mut head) {
                Ok(1..) => {}
                _ => return,
            }
        }
        let lower = head.to_ascii_lowercase();
        let len = lower.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        let mut body = vec![0; len.parse().unwrap()];
        stream.read_exact(&mut body).unwrap();
        let question: Value = serde_json::from_slice(&body).unwrap();
        asked.lock().unwrap().push((head, question.clone()));
        let (status, body) = answer(&question);
        let len = body.len();
        let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {len}\r\n\r\n");
        if stream.get_mut().write_all(format!("{head}{body}").as_bytes()).is_err() {
            return;
        }
    }
}

fn connect(user: &str) -> Connect {
    Connect::new(V5, "c").user(user, "secret")
}

#[test]
fn it_is_asked_who_a_client_is() {
    let server = Server::by_user();
    let broker = server.broker("authorization = \"Bearer abc\"");
    for user in ["allow", "204", "super", "null"] {
        broker.connect_with(&connect(user));
        broker.connect_with(&Connect { version: V311, ..connect(user) });
    }
    let (head, question) = server.asked().remove(0);
    let head = head.to_ascii_lowercase();
    assert!(head.starts_with("post /mqtt http/1.1\r\n"), "{head}");
    assert!(head.contains("\r\ncontent-type: application/json\r\n"), "{head}");
    assert!(head.contains("\r\nauthorization: bearer abc\r\n"), "{head}");
    let expected = json!({
        "clientid": "c", "username": "allow", "password": "secret", "peerhost": "127.0.0.1",
    });
    assert_eq!(question, expected);
    for user in ["deny", "ignore", "401", "403", "404"] {
        refused(&broker, &connect(user), BAD_USER_NAME_OR_PASSWORD);
        refused(&broker, &Connect { version: V311, ..connect(user) }, BAD_USER_NAME_OR_PASSWORD);
    }
    refused(&broker, &connect("past"), code::NOT_AUTHORIZED);
    for user in ["perhaps", "nonsense", "wrong-acl", "long", "301", "408", "429", "500", "503"] {
        refused(&broker, &connect(user), SERVER_UNAVAILABLE);
    }
    // Who gives no user name is asked about, too.
    refused(&broker, &Connect::new(V5, "c"), SERVER_UNAVAILABLE);
}

#[test]
fn it_says_what_a_client_may_do_and_how_long() {
    let server = Server::by_user();
    let broker = server.broker("[acl]\ndefault = \"deny\"");
    let try_publish = |user: &str, topic: &str| {
        let mut client = broker.connect_with(&connect(user)).0;
        client.try_publish(Message::new(topic, "x").qos(1))
    };
    assert_eq!(try_publish("allow", "t"), code::NOT_AUTHORIZED);
    assert_eq!(try_publish("super", "t"), code::NO_MATCHING_SUBSCRIBERS);
    assert_eq!(try_publish("acl", "acl/t"), code::NO_MATCHING_SUBSCRIBERS);
    assert_eq!(try_publish("acl", "t"), code::NOT_AUTHORIZED);
    let mut short = broker.connect_with(&connect("short")).0;
    let latest_end = Instant::now() + Duration::from_millis(300);
    short.expect_disconnect(&[MAXIMUM_CONNECT_TIME]);
    // The loop's clock stands still in a turn, so that end may come some milliseconds early.
    let_pass(latest_end.saturating_duration_since(Instant::now()));
    // The answer is remembered, and so is its end.
    refused(&broker, &connect("short"), code::NOT_AUTHORIZED);
}

#[test]
fn what_it_said_is_remembered_for_a_while() {
    let server = Server::by_user();
    // That there was no answer is not remembered.
    for (cache, questions) in [("cache_time = \"1h\"", 3 + 2), ("cache_time = \"0s\"", 6 + 2)] {
        let broker = server.broker(cache);
        for _ in 0..2 {
            broker.connect_with(&connect("allow"));
            broker.connect_with(&Connect::new(V5, "other").user("allow", "secret"));
            refused(&broker, &connect("deny"), BAD_USER_NAME_OR_PASSWORD);
            refused(&broker, &connect("500"), SERVER_UNAVAILABLE);
        }
        assert_eq!(server.asked().len(), questions, "{cache}");
    }
}

#[test]
fn without_it_clients_are_refused_or_let_in() {
    let server = Server::by_user();
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    // Nobody is banned for it.
    let toml = |more: &str| {
        format!("[auth]\nban.failures_by_address = 1\n[auth.http]\nurl = \"http://{gone}\"\n{more}")
    };
    let broker = broker(&toml(""));
    for version in [V311, V5] {
        for _ in 0..2 {
            refused(&broker, &Connect { version, ..connect("allow") }, SERVER_UNAVAILABLE);
        }
    }
    broker.reload(&toml("without_answer = \"allow\"")).unwrap();
    broker.connect_with(&connect("allow"));
    broker.connect_with(&Connect::new(V5, "c"));
    broker.reload(&format!("[auth]\n{}", server.toml(""))).unwrap();
    broker.connect_with(&connect("allow"));
    refused(&broker, &connect("deny"), BAD_USER_NAME_OR_PASSWORD);
}

/// A server that answers when a test says so, or never.
fn held() -> (Server, Arc<Mutex<()>>) {
    let hold = Arc::new(Mutex::new(()));
    let held = hold.clone();
    let server = Server::new(move |_| {
        let _held = held.lock().unwrap();
        (204, String::new())
    });
    (server, hold)
}

fn begin(broker: &Broker, client_id: &str) -> Client {
    let mut client = broker.open(V5);
    client.send(&Connect::new(V5, client_id).user("u", "p").bytes());
    client
}

#[test]
fn others_go_on_while_it_thinks() {
    let (server, hold) = held();
    let guard = hold.lock().unwrap();
    let broker = broker(&format!("[auth]\nanonymous = true\n{}", server.toml("threads = 2")));
    let mut waiting: Vec<Client> = (0..10).map(|n| begin(&broker, &format!("w{n}"))).collect();
    let mut other = broker.connect(V5, "other");
    other.subscribe("t", 1);
    other.publish("t", "1", 1);
    other.expect("t", "1");
    drop(guard);
    for client in &mut waiting {
        assert_eq!(client.connack().code, code::SUCCESS);
        assert!(client.survives());
    }
}

#[test]
fn waiting_for_it_has_limits() {
    let (server, hold) = held();
    let guard = hold.lock().unwrap();
    let broker =
        broker(&format!("[auth]\n{}", server.toml("threads = 1\nqueue = 1\ntimeout = \"300ms\"")));
    // One at most is asked about, and one waits: of three at least one is refused at once, the others
    // when there is no answer in time.
    let clients: Vec<Client> = (0..3).map(|n| begin(&broker, &format!("w{n}"))).collect();
    for mut client in clients {
        client.expect_refused_connect(&[SERVER_UNAVAILABLE]);
    }
    assert!(server.asked().len() <= 2);
    drop(guard);
    broker.connect_with(&connect("u"));
}

/// Nobody waits for the time-outs of all who came before.
#[test]
fn a_server_that_is_down_does_not_hold_up_the_queue() {
    let (server, hold) = held();
    let _guard = hold.lock().unwrap();
    let broker = broker(&format!("[auth]\n{}", server.toml("threads = 1\ntimeout = \"300ms\"")));
    let clients: Vec<Client> = (0..8).map(|n| begin(&broker, &format!("w{n}"))).collect();
    for mut client in clients {
        client.expect_refused_connect(&[SERVER_UNAVAILABLE]);
    }
    let asked = server.asked().len();
    assert!((1..=4).contains(&asked), "asked about {asked} of 8");
}

#[test]
fn it_is_asked_about_those_whom_nobody_else_knows() {
    let server = Server::by_user();
    let passwords = Passwords::new(&[ALICE]);
    let broker = broker(&passwords.toml(&server.toml("")));
    broker.connect_with(&Connect::new(V5, "a").user("alice", "wonderland"));
    refused(&broker, &Connect::new(V5, "a").user("alice", "guess"), BAD_USER_NAME_OR_PASSWORD);
    assert_eq!(server.asked().len(), 0);
    broker.connect_with(&connect("allow"));
    assert_eq!(server.asked().len(), 1);
}

#[test]
fn it_may_speak_tls() {
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let dir = TempDir::new().unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, pair.cert.pem()).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(pair.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![pair.cert.der().clone()], key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let config = Arc::new(config);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            serve_tls(stream, config.clone());
        }
    });
    let toml = |url: &str, ca: &std::path::Path| {
        format!("[auth.http]\nurl = \"https://{url}:{port}/\"\nca_file = {ca:?}\n")
    };
    let broker = broker(&toml("localhost", &ca));
    broker.connect_with(&connect("u"));
    // Another name, and another CA.
    let other = dir.path().join("other.pem");
    let stranger = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&other, stranger.cert.pem()).unwrap();
    for toml in [toml("127.0.0.1", &ca), toml("localhost", &other)] {
        broker.reload(&toml).unwrap();
        refused(&broker, &connect("u"), SERVER_UNAVAILABLE);
    }
    std::fs::write(&other, "nothing").unwrap();
    let error = broker.reload(&toml("localhost", &other)).unwrap_err();
    assert!(error.contains("has no certificate in PEM"), "{error}");
}

fn serve_tls(stream: TcpStream, config: Arc<rustls::ServerConfig>) {
    thread::spawn(move || {
        let Ok(connection) = rustls::ServerConnection::new(config) else { return };
        let stream = rustls::StreamOwned::new(connection, stream);
        serve(BufReader::new(stream), &Mutex::default(), &|_| (204, String::new()));
    });
}
