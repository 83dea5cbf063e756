use std::net::{IpAddr, Ipv4Addr};

use sip::sdp::{self, Audio, Rewrite};

/// How the addresses begin that the side has that is to be hidden.
const HIDDEN: &[u8] = b"10.66.";

pub(crate) fn target(bytes: &[u8]) {
    let Ok(description) = sdp::parse(bytes) else { return };
    let with = Rewrite {
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        port: 9,
        video_port: Some(11),
        session_id: 1,
        version: 1,
        secured: sdp::Secured::default(),
    };
    let audio = sdp::audio(&description);
    let Ok(out) = sdp::rewrite(&description, with) else { return };
    assert!(out.len() <= 2 * bytes.len() + 512, "{} bytes of {}", out.len(), bytes.len());
    assert!(!names_address(&out), "an address came through: {}", out.escape_ascii());
    let again = sdp::parse(&out).unwrap_or_else(|e| panic!("{e:?}: {}", out.escape_ascii()));
    let there = sdp::audio(&again).unwrap_or_else(|e| panic!("{e:?}: {}", out.escape_ascii()));
    let here = audio.expect("what was rewritten has audio");
    assert_eq!(again.media().len(), description.media().len());
    assert_eq!(there.section, here.section);
    assert_eq!((there.address.to_string(), there.held), ("127.0.0.1:9".to_owned(), here.held));
    let numbers = |audio: &Audio<'_>| -> Vec<u8> {
        audio.payloads.iter().map(|payload| payload.number).collect()
    };
    assert_eq!(numbers(&there), numbers(&here));
    let twice = sdp::rewrite(&again, with).expect("what was rewritten can be again");
    assert_eq!(twice.escape_ascii().to_string(), out.escape_ascii().to_string());
}

/// True when a whole address is in it.
fn names_address(text: &[u8]) -> bool {
    let starts = (0..text.len()).filter(|at| text[*at..].starts_with(HIDDEN));
    starts.into_iter().any(|at| {
        let mut numbers = text[at + HIDDEN.len()..].split(|byte| *byte == b'.');
        let is_number = |digits: &[u8]| digits.first().is_some_and(u8::is_ascii_digit);
        let whole = |digits: &[u8]| is_number(digits) && digits.iter().all(u8::is_ascii_digit);
        numbers.next().is_some_and(whole) && numbers.next().is_some_and(is_number)
    })
}
