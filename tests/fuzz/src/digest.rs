use std::time::Duration;

use base::Instant;
use sip::digest::{
    Algorithm, Challenge, Credentials, NonceKey, Verdict, Verifier, admit, answer, challenge, ha1,
};

const REALM: &str = "fuzz.example";
const USER: &str = "1001.fuzz";
const PASSWORD: &str = "not what the input holds";

pub(crate) fn target(bytes: &[u8]) {
    let key = NonceKey::new([7; 32]);
    let now = Instant::ZERO + Duration::from_secs(1_000);
    let verifier = Verifier { key: &key, realm: REALM.as_bytes(), now };
    let secret = |hash| ha1(hash, USER.as_bytes(), REALM.as_bytes(), PASSWORD.as_bytes());
    if let Ok(credentials) = Credentials::parse(bytes) {
        let secret = secret(credentials.algorithm);
        let verdict = verifier.verify(&credentials, b"REGISTER", secret.as_bytes());
        assert!(!matches!(verdict, Verdict::Ok { .. }), "proved: {}", bytes.escape_ascii());
    }
    with_a_nonce_of_ours(bytes, &verifier);
    if let Ok(theirs) = Challenge::parse(bytes) {
        let said = answer(&theirs, USER, PASSWORD, b"REGISTER", b"sip:a", 1, "c");
        let read = Credentials::parse(&said);
        let read = read.unwrap_or_else(|e| panic!("{}: {}", e.name(), said.escape_ascii()));
        assert_eq!((read.nonce, read.realm), (theirs.nonce, theirs.realm));
        assert_eq!((read.opaque, read.algorithm), (theirs.opaque, theirs.algorithm));
    }
    let number = |at: usize| bytes.get(at..at + 8).and_then(|part| part.try_into().ok());
    if let (Some(word), Some(time)) = (number(0), number(8)) {
        let (word, time) = (u64::from_le_bytes(word), u64::from_le_bytes(time));
        let count = u32::from(bytes.get(16).copied().unwrap_or(1));
        if let Some(next) = admit(word, time, count) {
            assert_eq!(admit(next, time, count), None, "the same count is admitted twice");
        }
    }
}

/// The true answer to a challenge of ours is taken, and is not once a byte of it is another.
fn with_a_nonce_of_ours(bytes: &[u8], verifier: &Verifier<'_>) {
    let [at, to, ..] = bytes else { return };
    for offered in challenge(verifier.key, verifier.now, REALM, false) {
        let Ok(ours) = Challenge::parse(&offered) else { panic!("our own challenge") };
        let method: &[u8] = if bytes.len() % 2 == 0 { b"REGISTER" } else { b"INVITE" };
        let mut said = answer(&ours, USER, PASSWORD, method, b"sip:a", 1, "c");
        let secret = ha1(ours.algorithm, USER.as_bytes(), REALM.as_bytes(), PASSWORD.as_bytes());
        let verify = |said: &[u8]| {
            let read = Credentials::parse(said).ok()?;
            let same = read.algorithm == ours.algorithm && read.username == USER.as_bytes();
            Some((verifier.verify(&read, method, secret.as_bytes()), same, read.response.len()))
        };
        assert!(matches!(verify(&said), Some((Verdict::Ok { .. }, true, _))));
        let find = |name: &[u8]| said.windows(name.len()).position(|window| window == name);
        let start = find(b"response=\"").expect("a response") + b"response=\"".len();
        let length = match ours.algorithm {
            Algorithm::Md5 => 32,
            Algorithm::Sha256 => 64,
        };
        let at = start + usize::from(*at) % length;
        if !said[at].eq_ignore_ascii_case(to) {
            said[at] = *to;
            let verdict = verify(&said).map(|(verdict, _, _)| verdict);
            assert!(!matches!(verdict, Some(Verdict::Ok { .. })), "{}", said.escape_ascii());
        }
    }
}
