//! Enhanced authentication: SCRAM-SHA-256 between CONNECT and CONNACK, and again later.

use std::fs;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, Mac};
use pbkdf2::pbkdf2_hmac;
use sha2::{Digest, Sha256};
use sluice::auth::{PasswordFile, PasswordHash};
use tempfile::TempDir;

use crate::authentication::{BAD_USER_NAME_OR_PASSWORD, BANNED, refused};
use crate::common::property::{
    AUTHENTICATION_DATA, AUTHENTICATION_METHOD, Properties, Property, binary, maximum_packet_size,
    text,
};
use crate::common::{
    Broker, Client, Connect, Packet, V5, V311, Will, broker, code, property, wire,
};

const METHOD: &str = "SCRAM-SHA-256";
const SUCCESS: u8 = 0x00;
const CONTINUE: u8 = 0x18;
const RE_AUTHENTICATE: u8 = 0x19;

/// A password file with anna's password "secret" and bob's "other".
struct Users(TempDir);

impl Users {
    fn new() -> Self {
        let users = Self(TempDir::new().unwrap());
        let mut file = PasswordFile::default();
        for (user, password) in [("anna", "secret"), ("bob", "other")] {
            file.set(user, PasswordHash::new_scram(password.as_bytes(), 4096).unwrap());
        }
        file.save(&users.path()).unwrap();
        users
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("passwords")
    }

    fn toml(&self, more: &str) -> String {
        format!("[auth]\npassword_file = {:?}\n{more}", self.path())
    }

    fn broker(&self) -> Broker {
        broker(&self.toml("ban.exempt = [\"127.0.0.0/8\"]"))
    }
}

/// The client's side of an exchange.
struct Scram {
    header: &'static str,
    bare: String,
    password: &'static str,
}

impl Scram {
    fn new(user: &str, password: &'static str) -> Self {
        Self { header: "n,,", bare: format!("n={user},r=fyko+d2lbbFgONRv9qkxdawL"), password }
    }

    fn first(&self) -> Vec<u8> {
        format!("{}{}", self.header, self.bare).into()
    }

    /// The last message, and what the server has to say to it.
    fn last(&self, challenge: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let challenge = std::str::from_utf8(challenge).unwrap();
        let attribute = |name| challenge.split(',').find_map(|one| one.strip_prefix(name)).unwrap();
        let (nonce, iterations) = (attribute("r="), attribute("i=").parse().unwrap());
        let own = self.bare.split("r=").nth(1).unwrap().split(',').next().unwrap();
        assert!(nonce.starts_with(own) && nonce.len() > own.len() + 16);
        let salt = BASE64.decode(attribute("s=")).unwrap();
        let mut salted = [0; 32];
        pbkdf2_hmac::<Sha256>(self.password.as_bytes(), &salt, iterations, &mut salted);
        let last = format!("c={},r={nonce}", BASE64.encode(self.header));
        let said = format!("{},{challenge},{last}", self.bare);
        let client_key = hmac(&salted, b"Client Key");
        let signature = hmac(&Sha256::digest(&client_key), said.as_bytes());
        let proof: Vec<u8> = client_key.iter().zip(signature).map(|(a, b)| a ^ b).collect();
        let verified = hmac(&hmac(&salted, b"Server Key"), said.as_bytes());
        let last = format!("{last},p={}", BASE64.encode(proof));
        (last.into(), format!("v={}", BASE64.encode(verified)).into())
    }
}

fn hmac(key: &[u8], data: &[u8]) -> Vec<u8> {
    let mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.chain_update(data).finalize().into_bytes().to_vec()
}

fn with(method: &str, data: &[u8]) -> [Property; 2] {
    [text(AUTHENTICATION_METHOD, method), binary(AUTHENTICATION_DATA, data)]
}

fn auth(reason: u8, method: &str, data: &[u8]) -> Vec<u8> {
    wire::packet(wire::AUTH, &[vec![reason], property::block(&with(method, data))].concat())
}

fn connect(scram: &Scram) -> Connect {
    let [method, data] = with(METHOD, &scram.first());
    Connect::new(V5, "c").with(method).with(data)
}

/// The data of properties that name the method [MQTT-4.12.0-5].
#[track_caller]
fn data(properties: &Properties) -> Vec<u8> {
    assert_eq!(properties.text(AUTHENTICATION_METHOD), Some(METHOD));
    properties.binary(AUTHENTICATION_DATA).unwrap_or_default().to_vec()
}

/// What AUTH brings [MQTT-4.12.0-2].
#[track_caller]
fn expect_auth(client: &mut Client, reason: u8) -> Vec<u8> {
    let Packet::Auth(auth) = client.next() else { panic!("this is no AUTH") };
    assert_eq!(auth.code, reason, "[MQTT-3.15.2-1]");
    data(&auth.properties)
}

/// A connection that was opened, CONNECT sent, and what the server said to it.
#[track_caller]
fn begin(broker: &Broker, scram: &Scram) -> (Client, Vec<u8>) {
    let mut client = broker.open(V5);
    client.send(&connect(scram).bytes());
    let challenge = expect_auth(&mut client, CONTINUE);
    (client, challenge)
}

#[track_caller]
fn let_in(broker: &Broker, scram: &Scram) -> Client {
    let (mut client, challenge) = begin(broker, scram);
    let (last, verified) = scram.last(&challenge);
    client.send(&auth(CONTINUE, METHOD, &last));
    let connack = client.connack();
    assert_eq!(connack.code, code::SUCCESS);
    assert_eq!(data(&connack.properties), verified);
    client
}

const OWN: &str =
    "[acl]\ndefault = \"deny\"\n[[acl.rule]]\neffect = \"allow\"\ntopics = [\"%u/#\"]\n";

/// [MQTT-4.12.0-1] [MQTT-4.12.0-5]
#[test]
fn who_proves_it_comes_in_as_its_user() {
    let users = Users::new();
    let broker = broker(&users.toml(OWN));
    for header in ["n,,", "y,,", "n,a=anna,"] {
        let scram = Scram { header, ..Scram::new("anna", "secret") };
        let mut client = let_in(&broker, &scram);
        client.subscribe("anna/x", 1);
        client.publish("anna/x", "1", 1);
        client.expect("anna/x", "1");
    }
    let extended = Scram { bare: "n=anna,r=abc,x=more".to_owned(), ..Scram::new("", "secret") };
    let_in(&broker, &extended);
    // The same password in CONNECT.
    for version in [V311, V5] {
        broker.connect_with(&Connect::new(version, "p").user("anna", "secret"));
        let wrong = Connect::new(version, "p").user("anna", "Secret");
        refused(&broker, &wrong, BAD_USER_NAME_OR_PASSWORD);
    }
}

#[test]
fn what_follows_the_proof_is_read_after_connack() {
    let broker = Users::new().broker();
    let scram = Scram::new("anna", "secret");
    let (mut client, challenge) = begin(&broker, &scram);
    let ping = wire::packet(wire::PINGREQ, &[]);
    let frame = auth(CONTINUE, METHOD, &scram.last(&challenge).0);
    // In pieces, and with a packet behind it.
    let (first, rest) = frame.split_at(7);
    client.send(first);
    client.send(&[rest, &ping].concat());
    assert_eq!(client.connack().code, code::SUCCESS);
    assert_eq!(client.next(), Packet::PingResp);
    assert!(client.survives());
}

/// [MQTT-4.12.0-4]
#[test]
fn who_cannot_prove_it_is_refused() {
    let broker = Users::new().broker();
    let mut watcher = let_in(&broker, &Scram::new("bob", "other"));
    watcher.subscribe("will", 0);
    let wrong = [Scram::new("anna", "other"), Scram::new("mallory", "secret")];
    for scram in wrong {
        let will = Will::new("will", "x");
        let mut client = broker.open(V5);
        client.send(&Connect { client_id: "w".to_owned(), ..connect(&scram) }.will(will).bytes());
        let challenge = expect_auth(&mut client, CONTINUE);
        client.send(&auth(CONTINUE, METHOD, &scram.last(&challenge).0));
        client.expect_refused_connect(&[code::NOT_AUTHORIZED]);
    }
    watcher.expect_nothing_from_itself();
    let refused = |first: &str| {
        let mut client = broker.open(V5);
        let [method, data] = with(METHOD, first.as_bytes());
        client.send(&Connect::new(V5, "c").with(method).with(data).bytes());
        client.expect_refused_connect(&[code::NOT_AUTHORIZED]);
    };
    for first in [
        "p=tls-exporter,,n=anna,r=abc",
        "n,a=bob,n=anna,r=abc",
        "n,,m=x,n=anna,r=abc",
        "n,,n=anna",
        "n,,n=\u{7},r=abc",
        "hello",
    ] {
        refused(first);
    }
}

/// A proof that somebody has overheard is of no use: the server's nonce is another.
#[test]
fn a_proof_is_good_once() {
    let broker = Users::new().broker();
    let scram = Scram::new("anna", "secret");
    let (mut client, challenge) = begin(&broker, &scram);
    let last = scram.last(&challenge).0;
    client.send(&auth(CONTINUE, METHOD, &last));
    assert_eq!(client.connack().code, code::SUCCESS);
    let (mut again, other) = begin(&broker, &scram);
    assert_ne!(challenge, other);
    again.send(&auth(CONTINUE, METHOD, &last));
    again.expect_refused_connect(&[code::NOT_AUTHORIZED]);
}

/// Nobody finds out by asking who has an account.
#[test]
fn who_is_unknown_is_asked_the_same() {
    let users = Users::new();
    let salt = |broker: &Broker, user: &str| {
        let challenge = begin(broker, &Scram::new(user, "x")).1;
        let text = String::from_utf8(challenge).unwrap();
        let (_, rest) = text.split_once(",s=").unwrap();
        rest.to_owned()
    };
    let (first, second) = (users.broker(), users.broker());
    let [anna, eve, mallory] = ["anna", "eve", "mallory"].map(|user| salt(&first, user));
    assert_eq!(anna.len(), eve.len());
    assert!(eve.ends_with(",i=4096") && eve != mallory && eve != anna);
    assert_eq!(eve, salt(&first, "eve"));
    assert_eq!(eve, salt(&second, "eve"), "after a restart, too");
}

#[test]
fn only_auth_comes_before_connack() {
    let broker = Users::new().broker();
    let scram = Scram::new("anna", "secret");
    // What is sent in place of the proof [MQTT-3.1.2-30] [MQTT-4.12.0-3], and the answer.
    let cases: [(Vec<u8>, u8); 7] = [
        (wire::packet(wire::PINGREQ, &[]), code::PROTOCOL_ERROR),
        (Connect::new(V5, "c").bytes(), code::PROTOCOL_ERROR),
        (auth(RE_AUTHENTICATE, METHOD, b"x"), code::PROTOCOL_ERROR),
        (auth(SUCCESS, METHOD, b"x"), code::PROTOCOL_ERROR),
        (wire::packet(wire::AUTH, &[]), code::PROTOCOL_ERROR),
        (auth(CONTINUE, "SCRAM-SHA-1", b"x"), code::BAD_AUTHENTICATION_METHOD),
        (auth(CONTINUE, METHOD, b"x"), code::NOT_AUTHORIZED),
    ];
    for (bytes, expected) in cases {
        let mut client = begin(&broker, &scram).0;
        client.send(&bytes);
        client.expect_refused_connect(&[expected]);
    }
    let mut client = begin(&broker, &scram).0;
    client.send(&[0xE0, 0]);
    client.expect_closed();
    let mut first = broker.open(V5);
    first.send(&auth(CONTINUE, METHOD, b"x"));
    first.expect_closed();
}

#[test]
fn a_client_may_let_the_server_begin() {
    let broker = Users::new().broker();
    let scram = Scram::new("anna", "secret");
    let mut client = broker.open(V5);
    client.send(&Connect::new(V5, "c").with(text(AUTHENTICATION_METHOD, METHOD)).bytes());
    assert_eq!(expect_auth(&mut client, CONTINUE), Vec::<u8>::new());
    client.send(&auth(CONTINUE, METHOD, &scram.first()));
    let challenge = expect_auth(&mut client, CONTINUE);
    client.send(&auth(CONTINUE, METHOD, &scram.last(&challenge).0));
    assert_eq!(client.connack().code, code::SUCCESS);
}

#[test]
fn the_connect_timeout_runs_on() {
    let broker = broker(&Users::new().toml("[limits]\nconnect_timeout = \"200ms\""));
    let (mut client, _) = begin(&broker, &Scram::new("anna", "secret"));
    client.expect_refused_connect(&[code::NOT_AUTHORIZED]);
}

/// Whoever is not in yet takes nobody over [MQTT-3.1.4-3].
#[test]
fn a_session_is_taken_over_by_who_has_proved_it() {
    let broker = Users::new().broker();
    let scram = Scram::new("anna", "secret");
    let mut first = let_in(&broker, &scram);
    let (mut second, challenge) = begin(&broker, &scram);
    assert!(first.survives());
    second.send(&auth(CONTINUE, METHOD, &scram.last(&challenge).0));
    assert_eq!(second.connack().code, code::SUCCESS);
    first.expect_disconnect(&[code::SESSION_TAKEN_OVER]);
}

#[test]
fn a_client_without_room_is_refused() {
    let broker = Users::new().broker();
    let scram = Scram::new("anna", "secret");
    let mut client = broker.open(V5);
    client.send(&connect(&scram).with(maximum_packet_size(64)).bytes());
    client.expect_refused_connect(&[code::PACKET_TOO_LARGE]);
}

/// [MQTT-4.12.1-1]: the same method, while messages go on.
#[test]
fn a_client_can_authenticate_again() {
    let broker = Users::new().broker();
    let scram = Scram::new("anna", "secret");
    let mut client = let_in(&broker, &scram);
    client.subscribe("t", 0);
    for _ in 0..2 {
        client.send(&auth(RE_AUTHENTICATE, METHOD, &scram.first()));
        let challenge = expect_auth(&mut client, CONTINUE);
        client.publish("t", "meanwhile", 0);
        client.expect("t", "meanwhile");
        let (last, verified) = scram.last(&challenge);
        client.send(&auth(CONTINUE, METHOD, &last));
        assert_eq!(expect_auth(&mut client, SUCCESS), verified);
    }
    assert!(client.survives());
}

/// [MQTT-4.12.1-2]
#[test]
fn who_fails_to_is_disconnected() {
    let broker = Users::new().broker();
    let scram = Scram::new("anna", "secret");
    let again = |other: Scram| {
        let mut client = let_in(&broker, &scram);
        client.send(&auth(RE_AUTHENTICATE, METHOD, &other.first()));
        let challenge = expect_auth(&mut client, CONTINUE);
        client.send(&auth(CONTINUE, METHOD, &other.last(&challenge).0));
        client.expect_disconnect(&[code::NOT_AUTHORIZED]);
    };
    again(Scram::new("anna", "wrong"));
    // Right, but somebody else.
    again(Scram::new("bob", "other"));
    let cases = [
        (auth(RE_AUTHENTICATE, "SCRAM-SHA-1", &scram.first()), code::BAD_AUTHENTICATION_METHOD),
        (auth(CONTINUE, METHOD, &scram.first()), code::PROTOCOL_ERROR),
        (auth(SUCCESS, METHOD, b""), code::PROTOCOL_ERROR),
        (wire::packet(wire::AUTH, &[]), code::PROTOCOL_ERROR),
        (auth(RE_AUTHENTICATE, METHOD, b"nonsense"), code::NOT_AUTHORIZED),
    ];
    for (bytes, expected) in cases {
        let mut client = let_in(&broker, &scram);
        client.send(&bytes);
        client.expect_disconnect(&[expected]);
    }
    let mut twice = let_in(&broker, &scram);
    twice.send(&auth(RE_AUTHENTICATE, METHOD, &scram.first()));
    expect_auth(&mut twice, CONTINUE);
    twice.send(&auth(RE_AUTHENTICATE, METHOD, &scram.first()));
    twice.expect_disconnect(&[code::PROTOCOL_ERROR]);
}

#[test]
fn who_fails_too_often_is_banned() {
    let broker = broker(&Users::new().toml("[auth.ban]\nfailures_by_user = 2"));
    for _ in 0..2 {
        let scram = Scram::new("anna", "wrong");
        let (mut client, challenge) = begin(&broker, &scram);
        client.send(&auth(CONTINUE, METHOD, &scram.last(&challenge).0));
        client.expect_refused_connect(&[code::NOT_AUTHORIZED]);
    }
    let mut client = broker.open(V5);
    client.send(&connect(&Scram::new("anna", "secret")).bytes());
    client.expect_refused_connect(&[BANNED]);
    let_in(&broker, &Scram::new("bob", "other"));
}

/// [MQTT-4.12.0-1]: without such passwords there is no such method.
#[test]
fn the_method_is_there_with_the_first_user_who_can_use_it() {
    let users = Users::new();
    let scrams = fs::read(users.path()).unwrap();
    fs::write(users.path(), crate::authentication::ALICE).unwrap();
    let broker = broker(&users.toml(""));
    let scram = Scram::new("anna", "secret");
    let mut client = broker.open(V5);
    client.send(&connect(&scram).bytes());
    client.expect_refused_connect(&[code::BAD_AUTHENTICATION_METHOD]);
    fs::write(users.path(), scrams).unwrap();
    broker.reload(&users.toml("")).unwrap();
    let_in(&broker, &scram);
}
