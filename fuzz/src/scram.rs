//! The messages of SCRAM-SHA-256: what is read is what was written, and nothing panics.

use sluice::auth::{ClientFinal, ClientFirst, MAX_SCRAM_MESSAGE};

/// Takes `data` for a message of a client, first or last.
pub fn run(data: &[u8]) {
    if let Ok(first) = ClientFirst::parse(data) {
        assert!(data.len() <= MAX_SCRAM_MESSAGE);
        assert_eq!([first.header, first.bare].concat().as_bytes(), data);
        assert!(matches!(first.header.as_bytes().first(), Some(b'n' | b'y')));
        assert!(!first.user.is_empty() && !first.nonce.is_empty());
        // The same user, escaped.
        let escape = |name: &str| name.replace('=', "=3D").replace(',', "=2C");
        let act_for = first.act_for.as_deref().map(|name| format!("a={}", escape(name)));
        let (act_for, user) = (act_for.unwrap_or_default(), escape(&first.user));
        let again = format!("n,{act_for},n={user},r={}", first.nonce);
        if again.len() <= MAX_SCRAM_MESSAGE {
            let again = ClientFirst::parse(again.as_bytes()).expect("it is well formed");
            assert_eq!((&again.user, &again.act_for), (&first.user, &first.act_for));
            assert_eq!(again.nonce, first.nonce);
        }
    }
    if let Ok(last) = ClientFinal::parse(data) {
        assert!(data.starts_with(last.without_proof.as_bytes()));
        assert!(!last.nonce.is_empty() && last.without_proof.contains(last.nonce));
        assert!(ClientFirst::parse(data).is_err(), "no message is both");
    }
}
