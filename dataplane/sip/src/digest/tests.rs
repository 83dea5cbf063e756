use std::time::Duration;

use super::*;

const REALM: &str = "demo.jackfield.local";
const KEY: NonceKey = NonceKey::new([7; 32]);
const URI: &[u8] = b"sip:demo.jackfield.local";

fn at(ms: u64) -> Instant {
    Instant::from_nanos(ms * 1_000_000)
}

fn verify(value: &[u8], now: Instant, method: &[u8], secret: &[u8]) -> Verdict {
    let credentials = Credentials::parse(value).unwrap();
    let ha1 = ha1(credentials.algorithm, credentials.username, REALM.as_bytes(), secret);
    let verifier = Verifier { key: &KEY, realm: REALM.as_bytes(), now };
    verifier.verify(&credentials, method, ha1.as_bytes())
}

fn register(challenge_value: &[u8], nc: u32) -> Vec<u8> {
    let challenge = Challenge::parse(challenge_value).unwrap();
    answer(&challenge, "1001.demo", "secret", b"REGISTER", URI, nc, "c0ffee")
}

#[test]
fn rfc_2617_3_5_example() {
    let value = br#"Digest
                 realm="testrealm@host.com",
                 qop="auth,auth-int",
                 nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093",
                 opaque="5ccc069c403ebaf9f0171e9517f40e41""#;
    let challenge = Challenge::parse(value).unwrap();
    let given =
        answer(&challenge, "Mufasa", "Circle Of Life", b"GET", b"/dir/index.html", 1, "0a4f113b");
    let credentials = Credentials::parse(&given).unwrap();
    assert_eq!(credentials.response, b"6629fae49393a05397450978507c4ef1");
    assert_eq!(credentials.opaque, Some(&b"5ccc069c403ebaf9f0171e9517f40e41"[..]));
    assert_eq!(credentials.nc, Some(&b"00000001"[..]));
}

#[test]
fn rfc_7616_3_9_1_examples() {
    let cases: [(&str, &[u8]); 2] = [
        ("MD5", b"8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", b"753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ];
    for (name, response) in cases {
        let value = format!(
            "Digest realm=\"http-auth@example.org\", qop=\"auth, auth-int\", algorithm={name}, \
             nonce=\"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v\", \
             opaque=\"FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS\""
        );
        let challenge = Challenge::parse(value.as_bytes()).unwrap();
        let cnonce = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ";
        let given =
            answer(&challenge, "Mufasa", "Circle of Life", b"GET", b"/dir/index.html", 1, cnonce);
        assert_eq!(Credentials::parse(&given).unwrap().response, response, "{name}");
    }
}

#[test]
fn a_server_of_rfc_2069_is_answered_without_qop() {
    let challenge =
        Challenge::parse(b"Digest realm=\"testrealm@host.com\", nonce=\"abc\"").unwrap();
    assert!(!challenge.qop_auth);
    let given = answer(&challenge, "u", "p", b"REGISTER", b"sip:x", 1, "c");
    let credentials = Credentials::parse(&given).unwrap();
    assert_eq!((credentials.qop, credentials.nc, credentials.cnonce), (None, None, None));
    let ha1 = Hex::new(ha1(Algorithm::Md5, b"u", b"testrealm@host.com", b"p").as_bytes());
    let ha2 = Hex::new(Algorithm::Md5.hash(&[b"REGISTER", b"sip:x"]).as_bytes());
    let expected = Algorithm::Md5.hash(&[ha1.as_bytes(), b"abc", ha2.as_bytes()]);
    assert_eq!(credentials.response, Hex::new(expected.as_bytes()).as_bytes());
}

#[test]
fn both_algorithms_are_offered_the_better_one_first_and_both_verify() {
    let values = challenge(&KEY, at(1000), REALM, false);
    let algorithms = values.each_ref().map(|v| Challenge::parse(v).unwrap().algorithm);
    assert_eq!(algorithms, [Algorithm::Sha256, Algorithm::Md5]);
    let chosen = Challenge::choose(values.iter().map(Vec::as_slice)).unwrap();
    assert_eq!(chosen.algorithm, Algorithm::Sha256);
    assert!(!chosen.stale);
    for value in &values {
        let given = register(value, 3);
        let verdict = verify(&given, at(1500), b"REGISTER", b"secret");
        assert_eq!(verdict, Verdict::Ok { nonce_time: 100_000, nc: 3 });
        assert_eq!(verify(&given, at(1500), b"REGISTER", b"Secret"), Verdict::Wrong);
        assert_eq!(verify(&given, at(1500), b"INVITE", b"secret"), Verdict::Wrong);
    }
}

#[test]
fn a_nonce_goes_stale_and_one_of_another_key_or_realm_is_stale() {
    let [value, _] = challenge(&KEY, at(1000), REALM, false);
    let given = register(&value, 1);
    let last = at(1000 + NONCE_LIFE_MS);
    assert!(matches!(verify(&given, last, b"REGISTER", b"secret"), Verdict::Ok { .. }));
    let late = last + Duration::from_micros(10);
    assert_eq!(verify(&given, late, b"REGISTER", b"secret"), Verdict::Stale);
    assert_eq!(verify(&given, late, b"REGISTER", b"wrong"), Verdict::Wrong);
    assert_eq!(verify(&given, at(999), b"REGISTER", b"secret"), Verdict::Stale);
    let [other, _] = challenge(&NonceKey::new([8; 32]), at(1000), REALM, true);
    assert!(Challenge::parse(&other).unwrap().stale);
    assert_eq!(verify(&register(&other, 1), at(1001), b"REGISTER", b"secret"), Verdict::Stale);
    let nonce = KEY.nonce(at(1000), b"a");
    assert_eq!(KEY.nonce_time(&nonce, b"a"), Some(100_000));
    assert_eq!(KEY.nonce_time(&nonce, b"b"), None);
    assert_eq!(KEY.nonce_time(&nonce[..47], b"a"), None);
}

#[test]
fn every_changed_character_of_the_answer_is_refused() {
    let [value, _] = challenge(&KEY, at(1000), REALM, false);
    let given = register(&value, 1);
    for at_byte in 0..given.len() {
        let mut changed = given.clone();
        changed[at_byte] ^= 1;
        let Ok(credentials) = Credentials::parse(&changed) else {
            continue;
        };
        let ha1 = ha1(credentials.algorithm, b"1001.demo", REALM.as_bytes(), b"secret");
        let verifier = Verifier { key: &KEY, realm: REALM.as_bytes(), now: at(1001) };
        let verdict = verifier.verify(&credentials, b"REGISTER", ha1.as_bytes());
        // What is not hashed: the names of the parameters that may be absent, the user's name (the
        // caller chose the HA1 by it), and the case of hexadecimal digits.
        let same = credentials.username != b"1001.demo" || changed.eq_ignore_ascii_case(&given);
        assert!(same || !matches!(verdict, Verdict::Ok { .. }), "byte {at_byte}: {verdict:?}");
    }
}

#[test]
fn credentials_are_read_with_tokens_quotes_blanks_and_unknown_parameters() {
    let value = b"dIgEsT  Username = \"a\\\"b\" ,\r\n realm=\"x, y\",nonce=n, uri=sip:a@b;c=d, \
                  response=\"00\",ALGORITHM=\"md5\",qop=\"auth\",nc=0000000A,\
                  cnonce=z,foo=bar,,b=\"\"";
    let credentials = Credentials::parse(value).unwrap();
    assert_eq!(credentials.username, b"a\\\"b");
    assert_eq!(credentials.realm, b"x, y");
    assert_eq!(credentials.uri, b"sip:a@b;c=d");
    assert_eq!(credentials.algorithm, Algorithm::Md5);
    assert_eq!(credentials.count(), Some((&b"0000000A"[..], 10, &b"z"[..])));
}

#[test]
fn bad_credentials_have_named_reasons() {
    let rest = "username=\"u\", realm=\"r\", nonce=\"n\", uri=\"sip:x\", response=\"00\"";
    let cases = [
        ("Basic dTpw".to_owned(), "auth_scheme"),
        ("Digest".to_owned(), "auth_scheme"),
        (format!("Digestx {rest}"), "auth_scheme"),
        (format!("Digest {rest}, nonce=\"m\""), "auth_parameter"),
        (format!("Digest {rest}, flag"), "auth_parameter"),
        (format!("Digest {rest}, opaque=\"x"), "auth_parameter"),
        (format!("Digest {rest}, algorithm=SHA-512-256"), "auth_algorithm"),
        (format!("Digest {rest}, algorithm=MD5-sess"), "auth_algorithm"),
        ("Digest username=\"u\"".to_owned(), "auth_missing"),
    ];
    for (value, reason) in cases {
        assert_eq!(Credentials::parse(value.as_bytes()).unwrap_err().name(), reason, "{value}");
    }
    let only_int = b"Digest realm=\"r\", nonce=\"n\", qop=\"auth-int\"";
    assert_eq!(Challenge::parse(only_int).unwrap_err().name(), "auth_qop");
}

#[test]
fn without_qop_count_or_with_another_realm_it_is_malformed() {
    let base = format!(
        "Digest username=\"u\", realm=\"{REALM}\", nonce=\"n\", uri=\"sip:x\", \
         response=\"00000000000000000000000000000000\""
    );
    for more in ["", ", qop=auth", ", qop=auth, nc=00000001", ", qop=auth, nc=1, cnonce=\"c\""] {
        let value = format!("{base}{more}");
        assert_eq!(verify(value.as_bytes(), at(0), b"X", b"s"), Verdict::Malformed, "{more}");
    }
    for (more, verdict) in [
        (", qop=auth, nc=00000000, cnonce=c", Verdict::Malformed),
        (", qop=auth-int, nc=00000001, cnonce=c", Verdict::Malformed),
        (", qop=auth, nc=00000001, cnonce=c", Verdict::Wrong),
    ] {
        assert_eq!(verify(format!("{base}{more}").as_bytes(), at(0), b"X", b"s"), verdict);
    }
    let foreign = base.replace(REALM, "else") + ", qop=auth, nc=00000001, cnonce=c";
    assert_eq!(verify(foreign.as_bytes(), at(0), b"X", b"s"), Verdict::Malformed);
    assert_eq!(Credentials::for_realm([foreign.as_bytes()].into_iter(), REALM.as_bytes()), None);
}

#[test]
fn an_empty_ha1_is_never_right() {
    let [value, _] = challenge(&KEY, at(1000), REALM, false);
    let challenge = Challenge::parse(&value).unwrap();
    let proof = Proof {
        nonce: challenge.nonce,
        qop: Some((b"00000001", b"c")),
        method: b"REGISTER",
        uri: URI,
    };
    let response = proof.response(Algorithm::Sha256, b"");
    let hex = Hex::new(response.as_bytes());
    let credentials = Credentials {
        username: b"1001.demo",
        realm: REALM.as_bytes(),
        nonce: challenge.nonce,
        uri: URI,
        response: hex.as_bytes(),
        algorithm: Algorithm::Sha256,
        qop: Some(b"auth"),
        nc: Some(b"00000001"),
        cnonce: Some(b"c"),
        opaque: None,
    };
    let verifier = Verifier { key: &KEY, realm: REALM.as_bytes(), now: at(1001) };
    assert_eq!(verifier.verify(&credentials, b"REGISTER", b""), Verdict::Wrong);
}

#[test]
fn the_hashed_uri_is_compared_by_resource() {
    let value = b"Digest username=u, realm=r, nonce=n, uri=\"sip:%61@H.com\", response=00";
    let credentials = Credentials::parse(value).unwrap();
    assert!(credentials.is_for(b"sip:%61@H.com"));
    assert!(credentials.is_for(b"sip:a@h.COM;transport=udp"));
    assert!(!credentials.is_for(b"sip:b@h.com"));
    assert!(!credentials.is_for(b"sip:a@h.com:5062"));
    assert!(!credentials.is_for(b"tel:1"));
}

#[test]
fn a_replay_is_not_admitted() {
    let word = admit(0, 100, 1).unwrap();
    assert_eq!(admit(word, 100, 1), None);
    assert_eq!(admit(word, 99, 2), None);
    let later = admit(word, 100, 5).unwrap();
    assert_eq!(admit(later, 100, 4), None);
    let newer = admit(later, 101, 1).unwrap();
    assert_eq!(admit(newer, 100, 6), None);
    assert_eq!(admit(0, 1 << 44, 1), None);
    assert_eq!(admit(0, 1, 1 << 20), None);
    assert_eq!(admit(0, 1, 0), None);
    assert!(admit(0, (1 << 44) - 1, (1 << 20) - 1).is_some());
}

#[test]
fn a_value_is_one_quoted_string_or_none() {
    let nonce = |text: &str| format!("Digest realm=\"r\", nonce={text}").into_bytes();
    for good in ["\"\"", "\"a\\\"b\"", "\"a\\\\\"", "plain"] {
        let value = nonce(good);
        let challenge = Challenge::parse(&value).unwrap_or_else(|e| panic!("{good}: {e}"));
        let said = answer(&challenge, "u", "p", b"REGISTER", URI, 1, "c");
        assert_eq!(Credentials::parse(&said).unwrap().nonce, challenge.nonce, "{good}");
    }
    for bad in ["\"a\"b\"", "\"a\\\"", "\"a", "a\"b\"", "a\"", "a\\"] {
        assert_eq!(Challenge::parse(&nonce(bad)), Err(MalformedAuth::Parameter), "{bad}");
    }
}
