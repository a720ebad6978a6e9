//! What a reload changes for those who come over TLS, and that a broken file changes nothing.

use std::fs;

use rustls::HandshakeKind;

use crate::common::{Connect, V5, fixture};
use crate::tls::{Ca, TLS12, TLS13, Tls, ca};

#[test]
fn a_reload_is_for_new_connections_and_a_broken_file_for_none() {
    let mut ca = ca();
    let (listener, other) = (ca.listener(""), self::ca());
    let broker = fixture::broker_with_listener(2, &listener, "");
    let tls = Tls::new(&ca, TLS13, None);
    let connect = Connect::new(V5, "old");
    let mut old = tls.connect(&broker, &connect);
    fs::write(ca.path("server.key"), "nonsense").unwrap();
    let error = broker.reload_with_listener(&listener, "").unwrap_err();
    assert!(error.contains("server.key: has no private key"), "{error}");
    assert!(tls.comes_in(&broker), "the old one is in force");
    fs::copy(other.path("server.key"), ca.path("server.key")).unwrap();
    let error = broker.reload_with_listener(&listener, "").unwrap_err();
    assert!(error.contains("does not go with the certificate"), "{error}");
    fs::copy(other.path("server.pem"), ca.path("server.pem")).unwrap();
    broker.reload_with_listener(&listener, "").unwrap();
    assert!(!Tls::new(&ca, TLS13, None).comes_in(&broker));
    assert!(Tls::new(&other, TLS13, None).comes_in(&broker));
    assert!(old.survives(&connect));
    ca.sign("server", &["localhost"], false);
    broker.reload_with_listener(&listener, "").unwrap();
    assert!(Tls::new(&ca, TLS13, None).comes_in(&broker));
}

/// A certificate that is revoked is no good from the reload on: neither shown nor with a ticket that was got
/// before. Who is connected stays.
#[test]
fn a_reload_reads_what_is_revoked() {
    let mut ca = ca();
    ca.sign("ann", &[], false);
    let bob = ca.sign("bob", &[], false);
    ca.revoke(&[]);
    let crl = ca.path("crl.pem");
    let listener = ca.with_clients("required", &format!("client_crl = {crl:?}"));
    let broker = fixture::broker_with_listener(2, &listener, "");
    let connect = |name: &str| Connect::new(V5, name);
    let comes_in = |name| Tls::new(&ca, TLS13, Some((&ca, name))).comes_in(&broker);
    let mut connected = Vec::new();
    let with_tickets = [TLS12, TLS13].map(|version| {
        let tls = Tls::new(&ca, version, Some((&ca, "bob")));
        for (n, kind) in [HandshakeKind::Full, HandshakeKind::Resumed].into_iter().enumerate() {
            let connect = connect(&format!("{:?}-{n}", version.version));
            let mut client = tls.connect(&broker, &connect);
            assert!(client.survives(&connect));
            assert_eq!(client.0.conn.handshake_kind(), Some(kind));
            connected.push((client, connect));
        }
        tls
    });
    ca.revoke(&[bob]);
    assert!(comes_in("bob"), "it was not read yet");
    broker.reload_with_listener(&listener, "").unwrap();
    for tls in &with_tickets {
        assert!(!tls.comes_in(&broker));
    }
    let empty = "-----BEGIN X509 CRL-----\nbm90aGluZw==\n-----END X509 CRL-----\n";
    for broken in ["nonsense", empty] {
        assert!(!comes_in("bob") && comes_in("ann"));
        fs::write(&crl, broken).unwrap();
        let error = broker.reload_with_listener(&listener, "").unwrap_err();
        assert!(error.contains("crl.pem: "), "{error}");
    }
    assert!(!comes_in("bob") && comes_in("ann"), "the old one is in force");
    for (client, connect) in &mut connected {
        assert!(client.survives(connect));
    }
}

/// The same of a CA that is trusted no more, and of another in its place.
#[test]
fn a_reload_reads_who_is_trusted() {
    let (mut old, mut new) = (ca(), Ca::new());
    old.sign("ann", &[], false);
    new.sign("ann", &[], false);
    let path = old.path("ca.pem");
    let listener = old.with_clients("required", "");
    let broker = fixture::broker_with_listener(2, &listener, "");
    let comes_in = |ca| Tls::new(&old, TLS13, Some((ca, "ann"))).comes_in(&broker);
    let of_old = Tls::new(&old, TLS13, Some((&old, "ann")));
    let connect = Connect::new(V5, "connected");
    let mut connected = of_old.connect(&broker, &connect);
    assert!(connected.survives(&connect));
    let empty = "-----BEGIN CERTIFICATE-----\nbm90aGluZw==\n-----END CERTIFICATE-----\n";
    for broken in ["nonsense", empty] {
        fs::write(&path, broken).unwrap();
        let error = broker.reload_with_listener(&listener, "").unwrap_err();
        assert!(error.contains("ca.pem: "), "{error}");
        assert!(comes_in(&old) && !comes_in(&new), "the old one is in force");
    }
    fs::copy(new.path("ca.pem"), &path).unwrap();
    broker.reload_with_listener(&listener, "").unwrap();
    assert!(!comes_in(&old) && comes_in(&new));
    assert!(!of_old.comes_in(&broker), "nor with a ticket");
    assert!(connected.survives(&connect));
}
