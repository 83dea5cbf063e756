use proptest::prelude::*;

use super::*;
use crate::wire;

const LIMITS: Limits = Limits { default_s: 3600, min_s: 60, max_s: 7200 };
const NOW: Instant = Instant::from_nanos(1_000_000_000_000);

fn source() -> SocketAddr {
    "203.0.113.5:40000".parse().expect("an address")
}

fn register_bytes(call_id: &str, cseq: u32, lines: &str) -> Vec<u8> {
    let lines: String =
        lines.split('|').filter(|l| !l.is_empty()).map(|l| format!("{}\r\n", l.trim())).collect();
    format!(
        "REGISTER sip:demo.jackfield.local SIP/2.0\r\n\
         Via: SIP/2.0/UDP 192.168.1.5:5060;rport;branch=z9hG4bK1\r\nMax-Forwards: 70\r\n\
         From: <sip:1001.demo@192.0.2.1>;tag=1\r\nTo: <sip:1001.demo@192.0.2.1>\r\n\
         Call-ID: {call_id}\r\nCSeq: {cseq} REGISTER\r\n{lines}Content-Length: 0\r\n\r\n"
    )
    .into_bytes()
}

fn decide(call_id: &str, cseq: u32, lines: &str, current: Option<&Binding>) -> Decision {
    let bytes = register_bytes(call_id, cseq, lines);
    let message = wire::lex(&bytes).expect("a message");
    register(&message, NOW, source(), current, LIMITS)
}

fn binding(uri: &str, call_id: &str, cseq: u32, seconds: u64) -> Binding {
    Binding {
        contact: Text::new(uri.as_bytes()).expect("it fits"),
        source: source(),
        call_id_hash: call_id_hash(call_id.as_bytes()),
        cseq,
        expires_at: NOW + Duration::from_secs(seconds),
    }
}

const PHONE: &str = "sip:1001.demo@192.168.1.5:5060";

fn update(seconds: u64) -> Decision {
    Decision::Update(binding(PHONE, "c", 2, seconds))
}

#[test]
fn intervals() {
    use Decision::{IntervalTooBrief, Query};
    // 10.3, step 7, with no binding so far.
    let table: &[(&str, Decision)] = &[
        // "If the field value has an expires parameter, that value MUST be taken".
        ("Contact: <U>;expires=120|Expires: 900", update(120)),
        // "If there is no such parameter, but the request has an Expires header field".
        ("Contact: <U>|Expires: 900", update(900)),
        // "If there is neither, a locally-configured default value MUST be taken".
        ("Contact: <U>", update(3600)),
        // "The registrar MAY choose an expiration less than the requested".
        ("Contact: <U>;expires=86400", update(7200)),
        ("Contact: <U>;expires=99999999999999999999", update(7200)),
        // "greater than zero AND smaller than one hour AND less than a registrar-configured
        // minimum".
        ("Contact: <U>;expires=59", IntervalTooBrief(60)),
        ("Contact: <U>;expires=1", IntervalTooBrief(60)),
        ("Contact: <U>;expires=60", update(60)),
        ("Contact: <U>|Expires: 30", IntervalTooBrief(60)),
        // Zero is a removal, here of what is not there.
        ("Contact: <U>;expires=0", Query),
        ("Contact: <U>|Expires: 0", Query),
        // 10.2.1.1: "Malformed values SHOULD be treated as equivalent to 3600."
        ("Contact: <U>;expires=soon", update(3600)),
        ("Contact: <U>|Expires: -1", update(3600)),
    ];
    for (lines, want) in table {
        let lines = lines.replace('U', PHONE);
        assert_eq!(decide("c", 2, &lines, None), *want, "{lines}");
    }
}

#[test]
fn a_minimum_above_an_hour_refuses_no_hour() {
    let bytes = register_bytes("c", 2, &format!("Contact: <{PHONE}>;expires=3600"));
    let message = wire::lex(&bytes).expect("a message");
    let limits = Limits { min_s: 5000, ..LIMITS };
    assert_eq!(register(&message, NOW, source(), None, limits), update(3600));
}

#[test]
fn a_register_against_the_binding() {
    use Decision::{Query, Refused, Remove};
    let table: &[(&str, u32, &str, Decision)] = &[
        // Step 6: without Contact "it skips to the last step".
        ("c", 2, "", Query),
        ("c", 0, "Expires: 0", Query),
        // Step 7: the Call-ID agrees, and CSeq is higher: "update or remove".
        ("c", 2, "Contact: <U>", update(3600)),
        ("c", 2, "Contact: <U>;expires=0", Remove),
        ("c", 2, "Contact: <U>|Expires: 0", Remove),
        // "If not, the update MUST be aborted and the request fails."
        ("c", 1, "Contact: <U>", Refused(500)),
        ("c", 0, "Contact: <U>", Refused(500)),
        ("c", 1, "Contact: <U>;expires=0", Refused(500)),
        // With one binding, another Contact of the same phone is ordered alike.
        ("c", 1, "Contact: <sip:other@192.168.1.5>", Refused(500)),
        // "If the Call-ID value differs": removed "if the expiration time is zero and updated
        // otherwise".
        ("d", 0, "Contact: <U>;expires=0", Remove),
        // A Contact that is not bound is not removed.
        ("c", 2, "Contact: <sip:other@192.168.1.5>;expires=0", Query),
        ("c", 2, "Contact: <sip:1001.demo@192.168.1.5:5061>;expires=0", Query),
        // 19.1.4: the host's letters and escapes make no difference.
        ("c", 2, "Contact: <SIP:%31001.demo@192.168.1.5:5060>;expires=0", Remove),
        // Step 6: the asterisk.
        ("c", 2, "Contact: *|Expires: 0", Remove),
        ("d", 0, "Contact: *|Expires: 0", Remove),
        ("c", 1, "Contact: *|Expires: 0", Refused(500)),
        ("c", 2, "Contact: *|Expires: 1", Refused(400)),
        ("c", 2, "Contact: *", Refused(400)),
        ("c", 2, "Contact: *;expires=0", Refused(400)),
        ("c", 2, "Contact: *|Contact: <U>|Expires: 0", Refused(400)),
        ("c", 2, "Contact: <U>, *|Expires: 0", Refused(400)),
        // A phone that moved removes the old Contact in the request that brings the new one.
        (
            "c",
            2,
            "Contact: <U>;expires=0, <sip:1001.demo@10.0.0.1>;expires=600",
            Decision::Update(binding("sip:1001.demo@10.0.0.1", "c", 2, 600)),
        ),
        ("c", 2, "Contact: <sip:1001.demo@10.0.0.1>;expires=0|Contact: <U>", update(3600)),
        // What cannot be called.
        ("c", 2, "Contact: <tel:+4930123>", Refused(400)),
        ("c", 2, "Contact: <mailto:a@b>", Refused(400)),
        ("c", 2, "Contact: \"broken", Refused(400)),
        ("c", 2, "Contact: <U>, <tel:+4930123>", Refused(400)),
    ];
    let current = binding(PHONE, "c", 1, 500);
    for (call_id, cseq, lines, want) in table {
        let lines = lines.replace('U', PHONE);
        assert_eq!(
            decide(call_id, *cseq, &lines, Some(&current)),
            *want,
            "{call_id} {cseq} {lines}"
        );
    }
}

#[test]
fn another_phone_takes_the_place_of_the_first() {
    let current = binding(PHONE, "c", 100, 500);
    let decision = decide("other", 1, "Contact: <sip:1001.demo@192.168.1.9>", Some(&current));
    let want = binding("sip:1001.demo@192.168.1.9", "other", 1, 3600);
    assert_eq!(decision, Decision::Update(want));
}

#[test]
fn a_binding_that_ended_orders_nothing() {
    for (seconds, want) in [(0, update(3600)), (1, Decision::Refused(500))] {
        let current = binding(PHONE, "c", 2, seconds);
        let decision = decide("c", 2, &format!("Contact: <{PHONE}>"), Some(&current));
        assert_eq!(decision, want, "{seconds} s left");
    }
    let ended = binding(PHONE, "c", 1, 0);
    assert_eq!(decide("c", 2, "Contact: *|Expires: 0", Some(&ended)), Decision::Query);
}

#[test]
fn of_several_contacts_the_most_preferred_is_bound() {
    let table = [
        ("Contact: <sip:a@h>;q=0.5, <sip:b@h>;q=0.9, <sip:c@h>;q=0.7", "sip:b@h"),
        ("Contact: <sip:a@h>, <sip:b@h>", "sip:a@h"),
        ("Contact: <sip:a@h>;q=0.9|Contact: <sip:b@h>", "sip:b@h"),
        ("Contact: <sip:a@h>;q=0.1|Contact: <sip:b@h>;q=NaN", "sip:b@h"),
        ("Contact: <sip:a@h>;q=1;expires=0, <sip:b@h>;q=0", "sip:b@h"),
    ];
    for (lines, want) in table {
        let Decision::Update(bound) = decide("c", 2, lines, None) else { panic!("{lines}") };
        assert_eq!(bound.contact.as_str(), want, "{lines}");
    }
}

#[test]
fn the_flow_is_where_the_request_came_from() {
    let Decision::Update(bound) = decide("c", 2, &format!("Contact: <{PHONE}>"), None) else {
        panic!("an update")
    };
    assert_eq!(bound.source, source());
    assert_eq!(bound.contact.as_str(), PHONE);
}

#[test]
fn a_contact_fits_or_is_refused() {
    let uri = |len: usize| format!("sip:{}@h", "a".repeat(len - 6));
    let decision = decide("c", 2, &format!("Contact: <{}>", uri(CONTACT_LIMIT)), None);
    assert!(matches!(decision, Decision::Update(_)));
    let decision = decide("c", 2, &format!("Contact: <{}>", uri(CONTACT_LIMIT + 1)), None);
    assert_eq!(decision, Decision::Refused(400));
}

#[test]
fn a_message_without_call_id_or_cseq_is_refused() {
    let bytes = b"REGISTER sip:d SIP/2.0\r\nContact: <sip:a@h>\r\n\r\n";
    let message = wire::lex(bytes).expect("a message");
    let decision = register(&message, NOW, source(), None, LIMITS);
    assert_eq!(decision, Decision::Refused(400));
}

#[test]
fn the_answer_tells_what_is_left() {
    // Step 8: "each Contact value MUST feature an expires parameter".
    let bound = binding(PHONE, "c", 1, 500);
    let value = |after_ms| {
        let now = NOW + Duration::from_millis(after_ms);
        String::from_utf8(bound.contact_value(now)).expect("text")
    };
    assert_eq!(value(0), format!("<{PHONE}>;expires=500"));
    assert_eq!(value(1_500), format!("<{PHONE}>;expires=499"));
    assert_eq!(value(600_000), format!("<{PHONE}>;expires=0"));
}

#[test]
fn the_hash_of_a_call_id_is_fnv_1a() {
    // The published vectors of FNV-1a with 64 bits.
    assert_eq!(call_id_hash(b""), 0xcbf2_9ce4_8422_2325);
    assert_eq!(call_id_hash(b"a"), 0xaf63_dc4c_8601_ec8c);
    assert_eq!(call_id_hash(b"foobar"), 0x8594_4171_f739_67e8);
}

proptest! {
    /// Whatever a phone writes, the decision is one, and what it binds is sane.
    #[test]
    fn any_contact_gets_a_decision(
        lines in prop::collection::vec("(Contact|Expires|m): [<>;,=\"* a-z0-9:@?.%-]{0,40}", 0..4),
        sip in prop::collection::vec(
            "Contact: <sip:[a-z]{1,5}@h>(;expires=[0-9]{1,11})?(;q=[0-9.]{0,4})?",
            0..3,
        ),
        cseq in 0..5_u32,
    ) {
        let lines = [lines.join("|"), sip.join("|")].join("|");
        let bytes = register_bytes("c", cseq, &lines);
        let Ok(message) = wire::lex(&bytes) else { return Ok(()) };
        let current = binding(PHONE, "c", 2, 100);
        for current in [None, Some(&current)] {
            if let Decision::Update(bound) = register(&message, NOW, source(), current, LIMITS) {
                prop_assert!(current.is_none() || cseq > 2);
                let left = bound.remaining_s(NOW);
                prop_assert!((LIMITS.min_s..=LIMITS.max_s).contains(&left), "{} s", left);
                prop_assert!(Uri::parse(bound.contact.as_bytes()).is_ok());
            }
        }
    }
}
