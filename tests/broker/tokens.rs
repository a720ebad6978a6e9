//! Who is let in by a JSON Web Token, as whom, for how long, and with which rights.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::authentication::{ALICE, BAD_USER_NAME_OR_PASSWORD, BANNED, refused};
use crate::common::fixture::config;
use crate::common::{Broker, Connect, Message, V5, V31, V311, broker, code};

const MAXIMUM_CONNECT_TIME: u8 = 0xA0;

/// Makers of tokens, and the configuration that trusts one of them.
struct Maker {
    dir: TempDir,
    key: EncodingKey,
    algorithm: Algorithm,
}

impl Maker {
    fn hs256(secret: &str) -> Self {
        let key = EncodingKey::from_secret(secret.as_bytes()).unwrap();
        Self::new(secret, key, Algorithm::HS256)
    }

    fn es256() -> Self {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let key = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).unwrap();
        Self::new(&pair.public_key_pem(), key, Algorithm::ES256)
    }

    fn rs256() -> Self {
        let pair = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
        let key = EncodingKey::from_rsa_pem(pair.serialize_pem().as_bytes()).unwrap();
        Self::new(&pair.public_key_pem(), key, Algorithm::RS256)
    }

    fn new(key_file: &str, key: EncodingKey, algorithm: Algorithm) -> Self {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("key"), key_file).unwrap();
        Self { dir, key, algorithm }
    }

    fn toml(&self, more: &str) -> String {
        let (path, algorithm) = (self.dir.path().join("key"), self.algorithm);
        format!("[auth.jwt]\nkey_file = {path:?}\nalgorithm = \"{algorithm:?}\"\n{more}")
    }

    fn token(&self, claims: &Value) -> String {
        encode(&Header::new(self.algorithm), claims, &self.key).unwrap()
    }

    /// Good for an hour.
    fn good(&self, user: &str) -> String {
        self.token(&json!({"sub": user, "exp": now() + 3600.0}))
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

const SECRETS: [&str; 2] = ["0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"];
/// What belongs to one's user name may be used.
const OWN: &str =
    "[acl]\ndefault = \"deny\"\n[[acl.rule]]\neffect = \"allow\"\ntopics = [\"%u/#\"]\n";

#[test]
fn a_token_says_who_a_client_is() {
    for maker in [Maker::hs256(SECRETS[0]), Maker::es256(), Maker::rs256()] {
        let broker = broker(&maker.toml(OWN));
        for version in [V31, V311, V5] {
            let connect = Connect::new(version, "c");
            let token = maker.good("anna");
            let mut client = broker.connect_with(&connect.clone().user("whoever", &token)).0;
            client.subscribe("anna/x", 1);
            client.publish("anna/x", "1", 1);
            client.expect("anna/x", "1");
            let expired = maker.token(&json!({"sub": "anna", "exp": now() - 60.0}));
            refused(&broker, &connect.clone().user("anna", &expired), code::NOT_AUTHORIZED);
            let forged = Maker::hs256(SECRETS[1]).good("anna");
            let forged = connect.clone().user("anna", &forged);
            refused(&broker, &forged, BAD_USER_NAME_OR_PASSWORD);
            let other = connect.clone().user("anna", "secret");
            refused(&broker, &other, BAD_USER_NAME_OR_PASSWORD);
            refused(&broker, &connect, code::NOT_AUTHORIZED);
        }
        let alone = Connect { password: Some(maker.good("anna").into()), ..Connect::new(V5, "c") };
        broker.connect_with(&alone);
    }
}

#[test]
fn tokens_and_passwords_go_together() {
    let maker = Maker::hs256(SECRETS[0]);
    let passwords = maker.dir.path().join("passwords");
    fs::write(&passwords, ALICE).unwrap();
    let broker = broker(&format!("[auth]\npassword_file = {passwords:?}\n{}", maker.toml("")));
    broker.connect_with(&Connect::new(V5, "a").user("alice", "wonderland"));
    broker.connect_with(&Connect::new(V5, "b").user("bob", &maker.good("bob")));
    refused(&broker, &Connect::new(V5, "a").user("alice", "x"), BAD_USER_NAME_OR_PASSWORD);
}

#[test]
fn a_connection_ends_with_its_token() {
    let maker = Maker::hs256(SECRETS[0]);
    let broker = broker(&maker.toml("leeway = \"0s\""));
    for version in [V311, V5] {
        let end = now() + 0.3;
        let token = maker.token(&json!({"sub": "anna", "exp": end}));
        let connect = Connect::new(version, "c").user("anna", &token);
        let mut client = broker.connect_with(&connect).0;
        if version.is_v5() {
            client.expect_disconnect(&[MAXIMUM_CONNECT_TIME]);
        } else {
            client.expect_closed();
        }
        // The loop's clock stands still in a turn, so that end may come some milliseconds early.
        crate::common::let_pass(std::time::Duration::from_secs_f64((end - now()).max(0.0)));
        refused(&broker, &connect, code::NOT_AUTHORIZED);
    }
    // Who has left by then, and whoever comes by the same socket number, is left alone.
    let token = maker.token(&json!({"sub": "anna", "exp": now() + 0.3}));
    broker.connect_with(&Connect::new(V5, "c").user("anna", &token)).0.disconnect();
    let mut other = broker.connect_with(&Connect::new(V5, "d").user("bob", &maker.good("bob"))).0;
    crate::common::let_pass(std::time::Duration::from_millis(400));
    assert!(other.survives());
}

#[test]
fn a_token_says_what_a_client_may_do() {
    let maker = Maker::hs256(SECRETS[0]);
    let toml = maker.toml(OWN);
    let broker = broker(&toml);
    let acl = json!({"publish": ["out/%c"], "subscribe": ["in/#"]});
    let token = maker.token(&json!({"sub": "anna", "exp": now() + 3600.0, "acl": acl}));
    let mut client = broker.connect_with(&Connect::new(V5, "c").user("anna", &token)).0;
    client.subscribe("in/#", 1);
    let denied = |topic: &str| Message::new(topic, "x").qos(1);
    let check = |client: &mut crate::common::Client| {
        client.publish("out/c", "x", 1);
        for topic in ["out/d", "in/x", "anna/x"] {
            assert_eq!(client.try_publish(denied(topic)), code::NOT_AUTHORIZED, "{topic}");
        }
    };
    check(&mut client);
    // The rules are others; what the token says counts still.
    broker.reload(&toml.replace("%u/#", "#")).unwrap();
    let free = maker.good("bob");
    let mut bob = broker.connect_with(&Connect::new(V5, "b").user("bob", &free)).0;
    bob.publish("in/x", "1", 1);
    client.expect("in/x", "1");
    check(&mut client);
}

#[test]
fn keys_are_read_again() {
    let [maker, next] = SECRETS.map(Maker::hs256);
    let broker = broker(&maker.toml(""));
    let connect = |maker: &Maker| Connect::new(V5, "c").user("anna", &maker.good("anna"));
    let mut before = broker.connect_with(&connect(&maker)).0;
    fs::write(maker.dir.path().join("key"), "short").unwrap();
    let error = broker.reload(&maker.toml("")).unwrap_err();
    assert!(error.contains("at least 32 bytes"), "{error}");
    assert!(before.survives());
    broker.connect_with(&connect(&maker));
    broker.reload(&next.toml("")).unwrap();
    broker.connect_with(&connect(&next));
    refused(&broker, &connect(&maker), BAD_USER_NAME_OR_PASSWORD);
}

/// `jwks_file`: the `kid` of a token names its key; one that is no longer in the set makes no more tokens.
#[test]
fn keys_of_a_set_come_and_go() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("keys.json");
    let encode_bytes = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    // 0x04, and both coordinates.
    let (x, y) = pair.public_key_raw()[1..].split_at(32);
    let [x, y] = [x, y].map(encode_bytes);
    let first = json!({"kty": "oct", "kid": "first", "k": encode_bytes(SECRETS[0].as_bytes())});
    let second = json!({"kty": "EC", "crv": "P-256", "kid": "second", "x": x, "y": y});
    let write = |keys: Value| fs::write(&path, json!({"keys": keys}).to_string()).unwrap();
    let connect = |key: &EncodingKey, algorithm, kid: &str| {
        let header = Header { kid: Some(kid.to_owned()), ..Header::new(algorithm) };
        let claims = json!({"sub": "anna", "exp": now() + 3600.0});
        Connect::new(V5, "c").user("anna", &encode(&header, &claims, key).unwrap())
    };
    let secret = EncodingKey::from_secret(SECRETS[0].as_bytes()).unwrap();
    let private = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).unwrap();
    let of_first = connect(&secret, Algorithm::HS256, "first");
    let of_second = connect(&private, Algorithm::ES256, "second");
    let astray = connect(&private, Algorithm::ES256, "first");

    write(json!([first, second]));
    let toml = format!("[auth.jwt]\njwks_file = {path:?}");
    let broker = broker(&toml);
    let mut connected =
        broker.connect_with(&Connect { client_id: "d".into(), ..of_first.clone() }).0;
    broker.connect_with(&of_first);
    broker.connect_with(&of_second);
    refused(&broker, &astray, BAD_USER_NAME_OR_PASSWORD);
    fs::write(&path, "nonsense").unwrap();
    let error = broker.reload(&toml).unwrap_err();
    assert!(error.contains("keys.json: is no JWK Set"), "{error}");
    broker.connect_with(&of_first);
    write(json!([second]));
    broker.reload(&toml).unwrap();
    refused(&broker, &of_first, BAD_USER_NAME_OR_PASSWORD);
    broker.connect_with(&of_second);
    assert!(connected.survives(), "it was let in before");
}

/// Who is banned as a user is so whatever CONNECT says.
#[test]
fn the_user_of_a_token_may_be_banned() {
    let maker = Maker::hs256(SECRETS[0]);
    let broker = broker(&maker.toml("[auth.ban]\nusers = [\"eve\"]"));
    let connect = |user: &str| Connect::new(V5, "c").user("anna", &maker.good(user));
    refused(&broker, &connect("eve"), BANNED);
    broker.connect_with(&connect("anna"));
}

/// A stored session keeps what its token granted, though no rule would: what it may have next time its
/// client brings along.
#[test]
fn what_a_token_granted_outlives_a_restart() {
    let maker = Maker::hs256(SECRETS[0]);
    let data = TempDir::new().unwrap();
    let start = || {
        let mut config = config(2, "", &maker.toml("[acl]\ndefault = \"deny\""));
        config.store.durability = sluice::config::Durability::Os;
        config.store.data = data.path().into();
        Broker::of(sluice::Broker::start(config).unwrap())
    };
    let token =
        |acl: Value| maker.token(&json!({"sub": "anna", "exp": now() + 3600.0, "acl": acl}));
    let subscriber = token(json!({"subscribe": ["t"]}));
    let connect = Connect::lasting(V5, "c").user("anna", &subscriber);
    let broker = start();
    let mut client = broker.connect_with(&connect).0;
    client.subscribe("t", 1);
    client.disconnect();
    broker.stop();
    let broker = start();
    let publisher = Connect::new(V5, "p").user("anna", &token(json!({"publish": ["t"]})));
    broker.connect_with(&publisher).0.publish("t", "1", 1);
    let (mut client, connack) = broker.connect_with(&connect);
    assert!(connack.session_present);
    client.expect("t", "1");
    // With a token that grants less it has less.
    client.disconnect();
    let less = Connect::lasting(V5, "c").user("anna", &token(json!({})));
    let mut client = broker.connect_with(&less).0;
    assert_eq!(client.unsubscribe(&["t"]).codes, [code::NO_SUBSCRIPTION_EXISTED]);
}
