//! Certificates of clients: which are good, and who somebody is by one.

use sluice::config::Durability;
use tempfile::TempDir;

use crate::authentication::{ALICE, BAD_USER_NAME_OR_PASSWORD, Passwords};
use crate::common::client::subscribe;
use crate::common::property::session_expiry;
use crate::common::{Broker, Connect, Message, Packet, V5, code, fixture};
use crate::tls::{Ca, TLS12, TLS13, Tls, ca};

#[test]
fn a_certificate_has_to_be_good() {
    let (mut own, mut other) = (ca(), Ca::new());
    own.sign("ann", &[], false);
    own.sign("expired", &[], true);
    let revoked = own.sign("revoked", &[], false);
    own.revoke(&[revoked]);
    other.sign("stranger", &[], false);
    let crl = format!("client_crl = {:?}", own.path("crl.pem"));
    for (which, without) in [("required", false), ("optional", true)] {
        let broker = fixture::broker_with_listener(1, &own.with_clients(which, &crl), "");
        for version in [TLS12, TLS13] {
            let comes_in = |certificate| Tls::new(&own, version, certificate).comes_in(&broker);
            assert_eq!(comes_in(None), without, "{which} without");
            assert!(comes_in(Some((&own, "ann"))), "{which} ann");
            for bad in [(&own, "expired"), (&own, "revoked"), (&other, "stranger")] {
                assert!(!comes_in(Some(bad)), "{which} {}", bad.1);
            }
        }
    }
}

/// It counts in place of what CONNECT says, on whichever shard the client is at home.
#[test]
fn the_name_in_a_certificate_is_the_user() {
    let mut ca = ca();
    ca.sign("ann", &["bob.example.com"], false);
    for (from, user) in [("common_name", "ann"), ("subject_alternative_name", "bob.example.com")] {
        let listener = ca.with_clients("required", &format!("certificate_user = {from:?}"));
        let acl =
            "[acl]\ndefault = \"deny\"\n[[acl.rule]]\neffect = \"allow\"\ntopics = [\"%u\"]\n";
        let broker = fixture::broker_with_listener(3, &listener, acl);
        let tls = Tls::new(&ca, TLS13, Some((&ca, "ann")));
        for n in 0..6 {
            let connect = Connect::new(V5, &format!("c{n}")).user("eve", "x");
            let mut client = tls.connect(&broker, &connect);
            client.send(&subscribe(V5, 1, &[("eve", 0), (user, 0)], &[]));
            match client.packet(&connect) {
                Some(Packet::SubAck(codes)) => assert_eq!(codes.codes, [0x87, 0], "{from} {n}"),
                other => panic!("SUBACK expected, got {other:?}"),
            }
        }
    }
}

/// A certificate is one link, passwords are the next: who has one needs no other, who has none does not
/// come in.
#[test]
fn who_has_no_certificate_may_have_a_password() {
    let mut ca = ca();
    ca.sign("ann", &[], false);
    let passwords = Passwords::new(&[ALICE]);
    let listener = ca.with_clients("optional", "certificate_user = \"common_name\"");
    let acl = "[acl]\ndefault = \"deny\"\n[[acl.rule]]\neffect = \"allow\"\ntopics = [\"%u\"]";
    let broker = fixture::broker_with_listener(2, &listener, &passwords.toml(acl));
    let with = Tls::new(&ca, TLS13, Some((&ca, "ann")));
    let without = Tls::new(&ca, TLS13, None);
    let nobody = Connect::new(V5, "c");
    let alice = nobody.clone().user("alice", "wonderland");
    let wrong = nobody.clone().user("alice", "builder");
    for (tls, connect, who) in [
        (&with, &nobody, Ok("ann")),
        (&with, &wrong, Ok("ann")),
        (&without, &alice, Ok("alice")),
        (&without, &wrong, Err(BAD_USER_NAME_OR_PASSWORD)),
        (&without, &nobody, Err(code::NOT_AUTHORIZED)),
    ] {
        let mut client = tls.open(&broker);
        client.send(&connect.bytes());
        let Some(Packet::ConnAck(connack)) = client.packet(connect) else { panic!("no CONNACK") };
        assert_eq!(connack.code, who.err().unwrap_or(code::SUCCESS), "{who:?}");
        if let Ok(user) = who {
            client.send(&subscribe(V5, 1, &[("ann", 0), ("alice", 0)], &[]));
            let granted = ["ann", "alice"].map(|name| if name == user { 0 } else { 0x87 });
            let Some(Packet::SubAck(codes)) = client.packet(connect) else { panic!("no SUBACK") };
            assert_eq!(codes.codes, granted, "{user}");
        }
    }
}

/// Whatever name the client gives, and whether or not that in its certificate is a user name.
#[test]
fn a_rule_may_be_for_certificates() {
    let mut ca = ca();
    ca.sign("ann", &["ann.example.com"], false);
    ca.sign("bob", &["bob.example.com"], false);
    let acl = "[acl]\ndefault = \"deny\"\n\
               [[acl.rule]]\neffect = \"deny\"\ntopics = [\"t\"]\ncertificates = [\"bob\"]\n\
               [[acl.rule]]\neffect = \"allow\"\ntopics = [\"t\", \"u\"]\n\
               [[acl.rule]]\neffect = \"allow\"\ntopics = [\"ann\"]\ncertificates = [\"ann\", \"ann.example.com\"]\n";
    for (from, bob) in [
        ("none", [0x87, 0, 0x87]),
        ("common_name", [0x87, 0, 0x87]),
        ("subject_alternative_name", [0, 0, 0x87]),
    ] {
        let listener = ca.with_clients("optional", &format!("certificate_user = {from:?}"));
        let broker = fixture::broker_with_listener(3, &listener, acl);
        let cases = [(Some("ann"), [0, 0, 0]), (Some("bob"), bob), (None, [0, 0, 0x87])];
        for (n, (name, granted)) in cases.into_iter().cycle().take(9).enumerate() {
            let tls = Tls::new(&ca, TLS13, name.map(|name| (&ca, name)));
            let connect = Connect::new(V5, &format!("ann{n}")).user("ann", "x");
            let mut client = tls.connect(&broker, &connect);
            client.send(&subscribe(V5, 1, &[("t", 0), ("u", 0), ("ann", 0)], &[]));
            match client.packet(&connect) {
                Some(Packet::SubAck(codes)) => assert_eq!(codes.codes, granted, "{from} {name:?}"),
                other => panic!("SUBACK expected, got {other:?}"),
            }
        }
    }
}

/// What a session had by the certificate of its client it has after a restart.
#[test]
fn a_stored_session_has_the_certificate_of_its_client() {
    let mut ca = ca();
    ca.sign("ann", &[], false);
    let data = TempDir::new().unwrap();
    let start = || {
        let acl = "[acl]\ndefault = \"deny\"\n\
                   [[acl.rule]]\neffect = \"allow\"\ntopics = [\"t\"]\ncertificates = [\"ann\"]\n";
        let mut config = fixture::config(2, &ca.with_clients("required", ""), acl);
        config.store.durability = Durability::Os;
        config.store.data = data.path().to_owned();
        Broker::of(sluice::Broker::start(config).unwrap())
    };
    let tls = Tls::new(&ca, TLS13, Some((&ca, "ann")));
    let connect = Connect::new(V5, "c").resume().with(session_expiry(600));
    let broker = start();
    let mut client = tls.connect(&broker, &connect);
    client.send(&subscribe(V5, 1, &[("t", 1)], &[]));
    assert!(matches!(client.packet(&connect), Some(Packet::SubAck(codes)) if codes.codes == [1]));
    drop(broker);
    let broker = start();
    let mut client = tls.connect(&broker, &connect);
    client.send(&Message::new("t", "x").bytes(V5));
    match client.packet(&connect) {
        Some(Packet::Publish(publish)) => assert_eq!(publish.topic, "t"),
        other => panic!("PUBLISH expected, got {other:?}"),
    }
}
