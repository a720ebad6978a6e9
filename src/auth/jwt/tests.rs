use std::time::{Duration, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::mqtt::QoS;

/// The keys of RFC 7515, A.1 to A.3, and the tokens signed with them: from joe, until 1300819380.
const EXPIRY: u64 = 1_300_819_380;
const JWKS: &str = r#"{"keys": [
    {"kty": "oct", "kid": "a1",
     "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"},
    {"kty": "RSA", "kid": "a2", "e": "AQAB", "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"},
    {"kty": "EC", "kid": "a3", "crv": "P-256",
     "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
     "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"},
    {"kty": "EC", "kid": "other", "crv": "P-521", "x": "AA", "y": "AA"}
]}"#;
const PAYLOAD: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
const SIGNED: [[&str; 2]; 3] = [
    ["eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9", "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"],
    [
        "eyJhbGciOiJSUzI1NiJ9",
        "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
    ],
    [
        "eyJhbGciOiJFUzI1NiJ9",
        "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
    ],
];
const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

fn settings() -> JwtSettings {
    JwtSettings {
        in_user_name: false,
        key: None,
        jwks: None,
        user_claim: Some("sub".to_owned()),
        must_be_user_name: false,
        leeway: Duration::from_secs(30),
        must_expire: true,
        issuer: None,
        audience: None,
        acl_claim: Some("acl".to_owned()),
    }
}

/// The tokens of a key file or set with this text.
fn load(text: &[u8], algorithm: Option<JwtAlgorithm>) -> Result<Tokens, String> {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("keys");
    std::fs::write(&path, text).unwrap();
    let settings = match algorithm {
        Some(algorithm) => JwtSettings { key: Some((path, algorithm)), ..settings() },
        None => JwtSettings { jwks: Some(path), ..settings() },
    };
    Tokens::load(&settings).map_err(|error| error.to_string())
}

fn claim(token: &str) -> Claim {
    Claim {
        client_id: "c".into(),
        user: Some("u".into()),
        password: Some(token.as_bytes().into()),
        address: [192, 0, 2, 1].into(),
    }
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

const EXPIRED: Verdict =
    Verdict::Deny { denial: Denial::Token("its token has expired (exp)"), is_guess: false };
const FORGED: Verdict = Verdict::Deny { denial: Denial::TokenSignature, is_guess: true };

#[test]
fn tokens_of_the_specification() {
    let mut tokens = load(JWKS.as_bytes(), None).unwrap();
    tokens.settings.user_claim = Some("iss".to_owned());
    for [header, signature] in SIGNED {
        let token = claim(&format!("{header}.{PAYLOAD}.{signature}"));
        let login = |left| Login {
            user: Some("joe".into()),
            rights: None,
            valid_for: Some(Duration::from_secs(left)),
        };
        assert_eq!(tokens.check(&token, at(EXPIRY - 10)), Verdict::Allow(login(40)));
        assert_eq!(tokens.check(&token, at(EXPIRY + 29)), Verdict::Allow(login(1)));
        assert_eq!(tokens.check(&token, at(EXPIRY + 30)), EXPIRED);
        let other = signature.replacen(|c| c != 'A', "A", 1);
        let forged = claim(&format!("{header}.{PAYLOAD}.{other}"));
        assert_eq!(tokens.check(&forged, at(EXPIRY - 10)), FORGED);
    }
}

fn signed(algorithm: Algorithm, kid: Option<&str>, claims: &Value, secret: &[u8]) -> Claim {
    let header = Header { kid: kid.map(str::to_owned), ..Header::new(algorithm) };
    let key = EncodingKey::from_secret(secret).unwrap();
    claim(&encode(&header, claims, &key).unwrap())
}

/// A public key is no secret, and a token cannot say that it is one (RFC 8725, 2.1).
#[test]
fn a_key_is_used_with_its_own_algorithm_alone() {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let pem = pair.public_key_pem();
    let tokens = load(pem.as_bytes(), Some(JwtAlgorithm::Es256)).unwrap();
    let claims = json!({"sub": "a", "exp": 2_000_000_000u64});
    for secret in [pem.as_bytes(), pem.trim_end().as_bytes()] {
        let token = signed(Algorithm::HS256, None, &claims, secret);
        assert_eq!(tokens.check(&token, at(1)), FORGED);
    }
    let key = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).unwrap();
    let good = encode(&Header::new(Algorithm::ES256), &claims, &key).unwrap();
    assert!(matches!(tokens.check(&claim(&good), at(1)), Verdict::Allow(_)));

    let set = load(JWKS.as_bytes(), None).unwrap();
    let other = signed(Algorithm::HS256, Some("a2"), &claims, SECRET);
    assert_eq!(set.check(&other, at(1)), FORGED);
    let stronger = signed(Algorithm::HS512, None, &claims, SECRET);
    let secret = load(SECRET, Some(JwtAlgorithm::Hs256)).unwrap();
    assert_eq!(secret.check(&stronger, at(1)), FORGED);
    // {"alg":"none"}: no token at all.
    let unsigned = claim(&format!("eyJhbGciOiJub25lIn0.{PAYLOAD}."));
    assert_eq!(set.check(&unsigned, at(1)), Verdict::Pass);
}

#[test]
fn what_is_no_token_is_for_others() {
    let tokens = load(SECRET, Some(JwtAlgorithm::Hs256)).unwrap();
    for password in ["", "secret", "a.b.c", "..", "eyJhbGciOiJIUzI1NiJ9", "\u{1F511}.\u{1F511}.x"] {
        assert_eq!(tokens.check(&claim(password), at(1)), Verdict::Pass, "{password}");
    }
    let without = Claim { password: None, ..claim("") };
    assert_eq!(tokens.check(&without, at(1)), Verdict::Pass);
}

#[test]
fn what_a_token_says_is_looked_at() {
    let tokens = || {
        load(format!("{}\n", str::from_utf8(SECRET).unwrap()).as_bytes(), Some(JwtAlgorithm::Hs256))
            .unwrap()
    };
    let with = |change: fn(&mut JwtSettings)| {
        let mut tokens = tokens();
        change(&mut tokens.settings);
        tokens
    };
    let plain = tokens();
    let issued = with(|s| s.issuer = Some("us".to_owned()));
    let meant = with(|s| s.audience = Some("mqtt".to_owned()));
    let own = with(|s| s.must_be_user_name = true);
    let nobody = with(|s| s.user_claim = None);
    let endless = with(|s| s.must_expire = false);
    let deaf = with(|s| s.acl_claim = None);
    // Settings, claims, then the user it is, or whether it is a guess that it is not.
    type Found<'a> = Result<Option<&'a str>, bool>;
    let cases: [(&Tokens, Value, Found<'_>); 30] = [
        (&plain, json!({"sub": "u", "exp": 1100}), Ok(Some("u"))),
        (&plain, json!({"sub": "u", "exp": 1000.5}), Ok(Some("u"))),
        (&plain, json!({"sub": "u", "exp": 1e300}), Ok(Some("u"))),
        (&plain, json!({"sub": "u", "exp": 970}), Err(false)),
        (&plain, json!({"sub": "u", "exp": -1}), Err(false)),
        (&plain, json!({"sub": "u", "exp": "1100"}), Err(false)),
        (&plain, json!({"sub": "u"}), Err(false)),
        (&endless, json!({"sub": "u"}), Ok(Some("u"))),
        (&endless, json!({"sub": "u", "exp": 970}), Err(false)),
        (&plain, json!({"sub": "u", "exp": 1100, "nbf": 1030}), Ok(Some("u"))),
        (&plain, json!({"sub": "u", "exp": 1100, "nbf": 1031}), Err(false)),
        (&plain, json!({"exp": 1100}), Err(true)),
        (&plain, json!({"sub": "", "exp": 1100}), Err(true)),
        (&plain, json!({"sub": 7, "exp": 1100}), Err(true)),
        (&nobody, json!({"sub": 7, "exp": 1100}), Ok(None)),
        (&own, json!({"sub": "u", "exp": 1100}), Ok(Some("u"))),
        (&own, json!({"sub": "U", "exp": 1100}), Err(true)),
        (&issued, json!({"sub": "u", "exp": 1100, "iss": "us"}), Ok(Some("u"))),
        (&issued, json!({"sub": "u", "exp": 1100, "iss": "them"}), Err(true)),
        (&issued, json!({"sub": "u", "exp": 1100}), Err(true)),
        (&meant, json!({"sub": "u", "exp": 1100, "aud": "mqtt"}), Ok(Some("u"))),
        (&meant, json!({"sub": "u", "exp": 1100, "aud": ["web", "mqtt"]}), Ok(Some("u"))),
        (&meant, json!({"sub": "u", "exp": 1100, "aud": ["web"]}), Err(true)),
        (&meant, json!({"sub": "u", "exp": 1100}), Err(true)),
        (&plain, json!({"sub": "u", "exp": 1100, "acl": {}}), Ok(Some("u"))),
        (&plain, json!({"sub": "u", "exp": 1100, "acl": []}), Err(true)),
        (&plain, json!({"sub": "u", "exp": 1100, "acl": {"publish": "t"}}), Err(true)),
        (&plain, json!({"sub": "u", "exp": 1100, "acl": {"all": ["a/#/b"]}}), Err(true)),
        (&plain, json!({"sub": "u", "exp": 1100, "acl": {"read": ["t"]}}), Err(true)),
        (&deaf, json!({"sub": "u", "exp": 1100, "acl": []}), Ok(Some("u"))),
    ];
    for (tokens, claims, expected) in cases {
        let token = signed(Algorithm::HS256, Some("any"), &claims, SECRET);
        let found = match tokens.check(&token, at(1000)) {
            Verdict::Allow(login) => Ok(login.user),
            Verdict::Deny { is_guess, .. } => Err(is_guess),
            Verdict::Pass => panic!("{claims} is a token"),
        };
        assert_eq!(found, expected.map(|user| user.map(Arc::from)), "{claims}");
    }
}

/// Who sets tokens up finds in the log which setting or claim is wrong.
#[test]
fn what_is_wrong_with_a_token_is_named() {
    let mut tokens = load(SECRET, Some(JwtAlgorithm::Hs256)).unwrap();
    tokens.settings.issuer = Some("us".to_owned());
    tokens.settings.audience = Some("mqtt".to_owned());
    tokens.settings.must_be_user_name = true;
    let right = json!({"sub": "u", "exp": 1100, "iss": "us", "aud": "mqtt"});
    let check = |claims: &Value| {
        let token = signed(Algorithm::HS256, None, claims, SECRET);
        tokens.check(&token, at(1000))
    };
    assert!(matches!(check(&right), Verdict::Allow(_)));
    for (name, value, part) in [
        ("exp", json!(900), "has expired (exp)"),
        ("exp", Value::Null, "has a time (nbf, exp) that is no number"),
        ("nbf", json!(1050), "is not valid yet (nbf)"),
        ("sub", json!(7), "auth.jwt.user_claim"),
        ("sub", json!("v"), "auth.jwt.must_be_user_name"),
        ("iss", json!("them"), "auth.jwt.issuer"),
        ("aud", json!("web"), "auth.jwt.audience"),
        ("acl", json!([]), "auth.jwt.acl_claim"),
    ] {
        let mut claims = right.clone();
        claims[name] = value;
        let Verdict::Deny { denial: Denial::Token(cause), .. } = check(&claims) else {
            panic!("{claims} is refused for what is in it")
        };
        assert!(cause.contains(part), "{claims}: {cause}");
    }
}

/// Nobody is called what would end a line of the log, or a text in C.
#[test]
fn a_user_name_has_no_control_characters() {
    let tokens = load(SECRET, Some(JwtAlgorithm::Hs256)).unwrap();
    let verdict = |user: &str| {
        let claims = json!({"sub": user, "exp": 2_000.0});
        tokens.check(&signed(Algorithm::HS256, None, &claims, SECRET), at(1_000))
    };
    assert!(matches!(verdict("ann é"), Verdict::Allow(_)));
    for user in ["", "ann\0", "ann\nbob", "\rann", "\x1b[1m", "ann\x7f", "ann\u{85}"] {
        let denial = Denial::Token("its token has no user in auth.jwt.user_claim");
        assert_eq!(verdict(user), Verdict::Deny { denial, is_guess: true }, "{user:?}");
    }
}

#[test]
fn a_token_may_be_the_user_name() {
    let mut tokens = load(SECRET, Some(JwtAlgorithm::Hs256)).unwrap();
    tokens.settings.in_user_name = true;
    let token = signed(Algorithm::HS256, None, &json!({"sub": "a", "exp": 1100}), SECRET);
    assert_eq!(tokens.check(&token, at(1000)), Verdict::Pass, "the user name is u");
    let text = token.password.as_deref().map(|bytes| str::from_utf8(bytes).unwrap().into());
    let token = Claim { user: text, password: None, ..token };
    assert!(matches!(tokens.check(&token, at(1000)), Verdict::Allow(_)));
}

#[test]
fn rights_are_what_the_claim_lists() {
    let acl = json!({"publish": ["p/%u/%c"], "sub": ["s/+"], "all": ["both", "%u/%c/#"]});
    let rights = super::rights(&acl, Some("anna"), "c").unwrap();
    let publishes = |topic| rights.publish(topic).allows(QoS::ExactlyOnce, true);
    for (topic, publish, receive) in [
        ("p/anna/c", true, false),
        ("p/anna/d", false, false),
        ("s/x", false, true),
        ("both", true, true),
        ("anna/c/x", true, true),
        ("else", false, false),
    ] {
        assert_eq!((publishes(topic), rights.receives(topic)), (publish, receive), "{topic}");
    }
    assert_eq!(rights.subscribe("s/+", true), Some(QoS::ExactlyOnce));
    assert_eq!(rights.subscribe("#", false), None);
    // A name that is a filter of its own gains nothing.
    for client_id in ["#", "+", "x/y", ""] {
        let rights = super::rights(&json!({"all": ["%c"]}), None, client_id).unwrap();
        assert_eq!(rights.subscribe("x", false), None, "{client_id}");
    }
}

/// Who has a key of the other kind is told what to write.
#[test]
fn a_key_for_another_algorithm_says_for_which() {
    for (algorithm, set, named) in [
        (&rcgen::PKCS_ECDSA_P256_SHA256, JwtAlgorithm::Rs256, "ES256"),
        (&rcgen::PKCS_RSA_SHA256, JwtAlgorithm::Es256, "RS256"),
    ] {
        let pem = rcgen::KeyPair::generate_for(algorithm).unwrap().public_key_pem();
        let error = load(pem.as_bytes(), Some(set)).map(drop).unwrap_err();
        let end = format!("write auth.jwt.algorithm = \"{named}\"");
        assert!(error.ends_with(&end), "{error}");
    }
}

#[test]
fn key_files_that_are_no_use() {
    for (text, algorithm, part) in [
        ("short", Some(JwtAlgorithm::Hs256), "at least 32 bytes"),
        (
            "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYI\n",
            Some(JwtAlgorithm::Hs256),
            "is no secret",
        ),
        (
            "\u{FEFF}\nPublic-Key: (256 bit)\n-----BEGIN PUBLIC KEY-----\n",
            Some(JwtAlgorithm::Hs256),
            "is no secret",
        ),
        ("no key", Some(JwtAlgorithm::Rs256), "no public key for RS256 in PEM"),
        ("no key", Some(JwtAlgorithm::Es256), "no public key for ES256 in PEM"),
        ("{}", None, "is no JWK Set"),
        (r#"{"keys": []}"#, None, "has no key for"),
        (r#"{"keys": [{"kty": "oct", "kid": "k", "k": "c2hvcnQ"}]}"#, None, "fewer than 32"),
        (
            r#"{"keys": [{"kty": "RSA", "kid": "k", "use": "enc", "n": "AQAB", "e": "AQAB"}]}"#,
            None,
            "has no key for",
        ),
        (
            r#"{"keys": [{"kty": "RSA", "alg": "RS512", "n": "AQAB", "e": "AQAB"}]}"#,
            None,
            "has no key for",
        ),
        (
            r#"{"keys": [{"kty": "RSA", "kid": "k", "n": "AQAB", "e": "AQAB"},
                         {"kty": "RSA", "kid": "k", "n": "AQAB", "e": "AQAB"}]}"#,
            None,
            "\"k\" stands here twice",
        ),
    ] {
        let error = load(text.as_bytes(), algorithm).map(drop).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
}
