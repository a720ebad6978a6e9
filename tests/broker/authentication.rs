//! Who is let in [MQTT-3.1.4-2], and what waits until that is known.

use std::fs;
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sluice::hooks::{Answer, Asking, Authenticator, Client as Asked, Decision, Hooks, Reply};
use tempfile::TempDir;

use crate::common::fixture::config;
use crate::common::{Broker, Client, Connect, Version, Will, broker, code, wire};
use crate::common::{V5, V31, V311};

pub(crate) const BAD_USER_NAME_OR_PASSWORD: u8 = 0x86;
pub(crate) const SERVER_UNAVAILABLE: u8 = 0x88;
pub(crate) const BANNED: u8 = 0x8A;

/// By `mosquitto_passwd`: "wonderland".
pub(crate) const ALICE: &str = "alice:$7$101$1UgUSXaVnx0ngGbp$exXQbfMNxv27k5tV0k+TcukzjW0cv7GNEKMshu+e2gVulVkQh2Wsth7\
                     qVWRbGY94A0TL4mgncsdB1A5oR7G44A==\n";
/// By `mosquitto_passwd -H sha512`: "builder".
pub(crate) const BOB: &str = "bob:$6$F7FhNWo0KwjQvKzJ$+kiKtm/7q1LcWNsWdGmat9LTBLBZQWQgsz/QJ8LlVZEeIBG5baEhMVhjlsV98pI+\
                   CQOn+O1HUa9IwZMvjKEFUg==\n";
/// By the reference implementation of argon2: "password".
const CAROL: &str = "carol:$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2\
                     GRPPc\n";

/// A password file, and the configuration that names it.
pub(crate) struct Passwords {
    dir: TempDir,
}

impl Passwords {
    pub(crate) fn new(users: &[&str]) -> Self {
        let passwords = Self { dir: TempDir::new().unwrap() };
        passwords.write(&users.concat());
        passwords
    }

    fn write(&self, text: &str) {
        fs::write(self.dir.path().join("passwords"), text).unwrap();
    }

    pub(crate) fn toml(&self, more: &str) -> String {
        let path = self.dir.path().join("passwords");
        format!("[auth]\npassword_file = {path:?}\n{more}")
    }
}

#[track_caller]
pub(crate) fn refused(broker: &Broker, connect: &Connect, code: u8) {
    let mut client = broker.open(connect.version);
    client.send(&connect.bytes());
    if connect.version.is_v5() {
        client.expect_refused_connect(&[code]);
    } else {
        let return_code = match code {
            BAD_USER_NAME_OR_PASSWORD => 4,
            SERVER_UNAVAILABLE => 3,
            _ => 5,
        };
        assert_eq!(client.connack().code, return_code);
        client.expect_closed();
    }
}

#[test]
fn those_of_the_password_file_come_in_and_nobody_else() {
    let passwords = Passwords::new(&[ALICE, BOB, CAROL]);
    let broker = broker(&passwords.toml("ban.exempt = [\"127.0.0.0/8\"]"));
    for version in [V31, V311, V5] {
        for (user, password) in [("alice", "wonderland"), ("bob", "builder"), ("carol", "password")]
        {
            let connect = Connect::new(version, user);
            broker.connect_with(&connect.clone().user(user, password));
            for (user, wrong) in [(user, "Wonderland"), (user, ""), ("mallory", password)] {
                let connect = connect.clone().user(user, wrong);
                refused(&broker, &connect, BAD_USER_NAME_OR_PASSWORD);
            }
        }
        let without_password =
            Connect { username: Some("alice".to_owned()), ..Connect::new(version, "a") };
        refused(&broker, &without_password, BAD_USER_NAME_OR_PASSWORD);
        refused(&broker, &Connect::new(version, "a"), code::NOT_AUTHORIZED);
    }
}

#[test]
fn anonymous_is_who_gives_no_user_name() {
    let passwords = Passwords::new(&[ALICE]);
    let broker = broker(&passwords.toml("anonymous = true"));
    broker.connect(V5, "a");
    refused(&broker, &Connect::new(V5, "a").user("eve", "x"), BAD_USER_NAME_OR_PASSWORD);
    broker.connect_with(&Connect::new(V5, "a").user("alice", "wonderland"));
}

/// `auth.queue`: who comes when so many wait for a thread is refused at once; those who wait are not.
#[test]
fn who_finds_the_queue_full_is_refused() {
    let passwords = Passwords::new(&[CAROL]);
    let broker = broker(&passwords.toml("threads = 1\nqueue = 1"));
    let connect = |n: usize| {
        let version = if n.is_multiple_of(2) { V311 } else { V5 };
        Connect::new(version, &format!("c{n}")).user("carol", "password")
    };
    let mut clients: Vec<Client> = (0..12).map(|n| broker.open(connect(n).version)).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(&connect(n).bytes());
    }
    let mut let_in = 0;
    for client in &mut clients {
        let code = client.connack().code;
        if code == code::SUCCESS {
            let_in += 1;
            assert!(client.survives());
        } else {
            assert_eq!(code, if client.version.is_v5() { SERVER_UNAVAILABLE } else { 3 });
            client.expect_closed();
        }
    }
    assert!((1..12).contains(&let_in), "{let_in} of 12");
    broker.connect_with(&connect(0));
}

#[test]
fn without_a_password_file_a_user_name_counts_for_nothing() {
    for toml in ["", "[auth]\nanonymous = true"] {
        broker(toml).connect_with(&Connect::new(V311, "a").user("eve", "x"));
    }
}

/// A Server may not process them before it knows the client, if at all [MQTT-3.1.4-5].
#[test]
fn what_follows_connect_waits_for_the_decision() {
    let passwords = Passwords::new(&[CAROL]);
    let broker = broker(&passwords.toml(""));
    let mut watcher = broker.connect_with(&Connect::new(V5, "watcher").user("carol", "password")).0;
    watcher.subscribe("t", 0);
    for (number, version) in [V311, V5].into_iter().enumerate() {
        for (password, payload_len) in [("password", 10), ("password", 100_000), ("wrong", 10)] {
            let client_id = format!("c{number}");
            let connect = Connect::new(version, &client_id).user("carol", password);
            let connect = connect.will(Will::new("will", &"w".repeat(payload_len / 2)));
            let mut client = broker.open(version);
            let payload = "p".repeat(payload_len);
            let publish = publish(version, "t", payload.as_bytes());
            let ping = wire::packet(wire::PINGREQ, &[]);
            client.send(&[connect.bytes(), publish, ping].concat());
            if password == "wrong" {
                assert_ne!(client.connack().code, code::SUCCESS);
                client.expect_closed();
                watcher.expect_nothing_from_itself();
            } else {
                assert_eq!(client.connack().code, code::SUCCESS);
                assert!(client.survives());
                watcher.expect("t", &payload);
            }
        }
    }
}

fn publish(version: Version, topic: &str, payload: &[u8]) -> Vec<u8> {
    let properties: &[u8] = if version.is_v5() { &[0] } else { &[] };
    wire::packet(0x30, &[&wire::field(topic), properties, payload].concat())
}

/// [MQTT-3.1.4-3] holds for clients that were let in.
#[test]
fn who_is_refused_takes_nobody_over() {
    let passwords = Passwords::new(&[ALICE]);
    let broker = broker(&passwords.toml(""));
    let alice = Connect::new(V5, "c").user("alice", "wonderland");
    let mut first = broker.connect_with(&alice).0;
    refused(&broker, &Connect::new(V5, "c").user("alice", "guess"), BAD_USER_NAME_OR_PASSWORD);
    assert!(first.survives());
    broker.connect_with(&alice);
    first.expect_disconnect(&[code::SESSION_TAKEN_OVER]);
}

#[test]
fn who_fails_too_often_is_banned() {
    let passwords = Passwords::new(&[ALICE]);
    let alice = Connect::new(V5, "a").user("alice", "wonderland");
    for limit in ["failures_by_address = 3", "failures_by_user = 3"] {
        let broker = broker(&passwords.toml(&format!("[auth.ban]\n{limit}")));
        for _ in 0..3 {
            broker.connect_with(&alice);
            let wrong = Connect::new(V5, "b").user("alice", "guess");
            refused(&broker, &wrong, BAD_USER_NAME_OR_PASSWORD);
        }
        refused(&broker, &alice, BANNED);
        refused(&broker, &Connect { version: V311, ..alice.clone() }, BANNED);
        let exempt = format!("[auth.ban]\n{limit}\nexempt = [\"127.0.0.1\"]");
        broker.reload(&passwords.toml(&exempt)).unwrap();
        broker.connect_with(&alice);
    }
}

#[test]
fn who_is_listed_is_banned() {
    let passwords = Passwords::new(&[ALICE, BOB]);
    let broker = broker(&passwords.toml("[auth.ban]\nusers = [\"bob\"]"));
    broker.connect_with(&Connect::new(V5, "a").user("alice", "wonderland"));
    refused(&broker, &Connect::new(V5, "b").user("bob", "builder"), BANNED);
    broker.reload(&passwords.toml("[auth.ban]\naddresses = [\"127.0.0.0/8\"]")).unwrap();
    refused(&broker, &Connect::new(V5, "a").user("alice", "wonderland"), BANNED);
}

#[test]
fn a_reload_is_all_or_nothing() {
    let passwords = Passwords::new(&[ALICE]);
    let broker = broker(&passwords.toml(""));
    let (alice, bob) = (
        Connect::new(V5, "a").user("alice", "wonderland"),
        Connect::new(V5, "b").user("bob", "builder"),
    );
    passwords.write(BOB);
    let wrong = "anonymous = true\n[acl]\nmosquitto_file = \"/nowhere/acl\"";
    let error = broker.reload(&passwords.toml(wrong)).unwrap_err();
    assert!(error.contains("/nowhere/acl: cannot be read"), "{error}");
    broker.connect_with(&alice);
    refused(&broker, &bob, BAD_USER_NAME_OR_PASSWORD);
    refused(&broker, &Connect::new(V5, "c"), code::NOT_AUTHORIZED);
    broker.reload(&passwords.toml("")).unwrap();
    broker.connect_with(&bob);
    refused(&broker, &alice, BAD_USER_NAME_OR_PASSWORD);
}

/// Who was let in before is let in, and nobody else.
#[test]
fn a_file_of_mosquitto_with_wrong_lines_is_read_as_mosquitto_does() {
    let bob_as_alice = BOB.replace("bob", "alice");
    let passwords = Passwords::new(&[&bob_as_alice, "nobody\neve:\nbob:plain\n", BOB, ALICE]);
    let broker = broker(&passwords.toml(""));
    broker.connect_with(&Connect::new(V5, "a").user("alice", "wonderland"));
    broker.connect_with(&Connect::new(V5, "b").user("bob", "builder"));
    for (user, password) in
        [("alice", "builder"), ("bob", "plain"), ("eve", ""), ("nobody", ""), ("eve", "x")]
    {
        let connect = Connect::new(V5, "c").user(user, password);
        refused(&broker, &connect, BAD_USER_NAME_OR_PASSWORD);
    }
    passwords.write(&format!("{BOB}nobody\n"));
    broker.reload(&passwords.toml("")).unwrap();
    let alice = Connect::new(V5, "a").user("alice", "wonderland");
    refused(&broker, &alice, BAD_USER_NAME_OR_PASSWORD);
}

/// Half a file has fewer users than the file: it is not put in force while somebody seems to write it.
#[test]
fn a_file_in_the_middle_of_being_written_is_not_put_in_force() {
    let passwords = Passwords::new(&[ALICE, BOB]);
    let broker = broker(&passwords.toml(""));
    passwords.write(&[ALICE, &BOB[..BOB.len() / 2]].concat());
    let error = broker.reload(&passwords.toml("")).unwrap_err();
    assert!(
        error.ends_with("passwords:2: is cut short, as if somebody were writing it"),
        "{error}"
    );
    broker.connect_with(&Connect::new(V5, "b").user("bob", "builder"));
    // Whoever starts with it has nothing else.
    let other = crate::common::broker(&passwords.toml(""));
    other.connect_with(&Connect::new(V5, "a").user("alice", "wonderland"));
    passwords.write(ALICE);
    broker.reload(&passwords.toml("")).unwrap();
    let bob = Connect::new(V5, "b").user("bob", "builder");
    refused(&broker, &bob, BAD_USER_NAME_OR_PASSWORD);
}

/// Keeps all who ask, and decides when a test says so.
#[derive(Clone, Default)]
struct Undecided(Arc<Mutex<Vec<(String, Reply)>>>);

impl Undecided {
    /// The replies, once so many clients have asked.
    fn wait(&self, count: usize) -> Vec<(String, Reply)> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let mut asked = self.0.lock().unwrap();
            if asked.len() >= count {
                return std::mem::take(&mut asked);
            }
            assert!(Instant::now() < deadline, "{} of {count} asked", asked.len());
            drop(asked);
            std::thread::yield_now();
        }
    }
}

impl Authenticator for Undecided {
    fn authenticate(&self, client: &Asked<'_>, _: Option<&[u8]>, asking: Asking<'_>) -> Answer {
        if client.username.is_none() {
            return Answer::Now(Decision::Allow);
        }
        self.0.lock().unwrap().push((client.client_id.to_owned(), asking.reply()));
        Answer::Later
    }
}

fn undecided(toml: &str) -> (Broker, Undecided) {
    let undecided = Undecided::default();
    let hooks = Hooks { authenticator: Some(Arc::new(undecided.clone())), ..Hooks::default() };
    let inner = sluice::Broker::start_with(config(1, "", toml), hooks).unwrap();
    (Broker::of(inner), undecided)
}

fn begin(broker: &Broker, client_id: &str) -> Client {
    let mut client = broker.open(V5);
    client.send(&Connect::new(V5, client_id).user("u", "p").bytes());
    client
}

#[test]
fn others_go_on_while_a_client_waits() {
    let (broker, undecided) = undecided("");
    let mut waiting: Vec<Client> = (0..50).map(|n| begin(&broker, &format!("w{n}"))).collect();
    let replies = undecided.wait(50);
    let mut other = broker.connect(V5, "other");
    other.subscribe("t", 1);
    other.publish("t", "1", 1);
    other.expect("t", "1");
    for (_, reply) in replies {
        reply.decide(Decision::Allow);
    }
    for client in &mut waiting {
        assert_eq!(client.connack().code, code::SUCCESS);
        assert!(client.survives());
    }
}

/// A quota where nobody is a user would limit nobody; an authenticator of one's own may know users.
#[test]
fn a_quota_needs_somebody_who_says_who_users_are() {
    let quota = "[[quota]]\nusers = [\"u\"]\nmax_connections = 1";
    let error = sluice::Broker::start(config(1, "", quota)).unwrap_err().to_string();
    assert!(
        error.starts_with("quota[0] is for users, but nobody is asked who they are"),
        "{error}"
    );
    let (broker, undecided) = undecided(quota);
    let [mut first, mut second] = ["a", "b"].map(|client_id| {
        let client = begin(&broker, client_id);
        undecided.wait(1).into_iter().for_each(|(_, reply)| reply.decide(Decision::Allow));
        client
    });
    assert_eq!(first.connack().code, code::SUCCESS);
    second.expect_refused_connect(&[code::QUOTA_EXCEEDED]);
    assert!(broker.reload("").is_ok() && broker.reload(quota).is_ok());
}

#[test]
fn a_decision_that_nobody_makes_is_a_refusal() {
    let (broker, undecided) = undecided("");
    let mut client = begin(&broker, "c");
    drop(undecided.wait(1));
    client.expect_refused_connect(&[SERVER_UNAVAILABLE]);
}

#[test]
fn the_connect_timeout_runs_on_while_a_client_waits() {
    let (broker, undecided) = undecided("[limits]\nconnect_timeout = \"200ms\"");
    let mut client = begin(&broker, "c");
    let replies = undecided.wait(1);
    client.expect_refused_connect(&[SERVER_UNAVAILABLE]);
    for (_, late) in replies {
        late.decide(Decision::Allow);
    }
    assert!(broker.connect(V5, "d").survives());
}

#[test]
fn a_client_that_gave_up_is_forgotten() {
    let (broker, undecided) = undecided("");
    let address = broker.address();
    begin(&broker, "c").hang_up_unread();
    for (_, reply) in undecided.wait(1) {
        reply.decide(Decision::Allow);
    }
    let _unrelated = TcpStream::connect(address).unwrap();
    let mut again = begin(&broker, "c");
    for (_, reply) in undecided.wait(1) {
        reply.decide(Decision::Allow);
    }
    assert_eq!(again.connack().code, code::SUCCESS);
    assert!(again.survives());
}

#[test]
fn a_stop_does_not_wait_for_a_decision() {
    let (broker, undecided) = undecided("");
    let mut client = begin(&broker, "c");
    let _replies = undecided.wait(1);
    broker.stop();
    client.expect_closed();
}
