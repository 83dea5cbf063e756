use std::net::{IpAddr, Ipv4Addr};

use sip::sdp::{self, Audio, Rewrite};

/// An address that the side that is to be hidden has; inputs that hold it are worth more.
const HIDDEN: &[u8] = b"10.66.";

pub(crate) fn target(bytes: &[u8]) {
    let Ok(description) = sdp::parse(bytes) else { return };
    let with = Rewrite {
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        port: 9,
        video_port: Some(11),
        session_id: 1,
        version: 1,
    };
    let audio = sdp::audio(&description);
    let Ok(out) = sdp::rewrite(&description, with) else { return };
    assert!(out.len() <= 2 * bytes.len() + 512, "{} bytes of {}", out.len(), bytes.len());
    let hidden = out.windows(HIDDEN.len()).any(|window| window == HIDDEN);
    assert!(!hidden, "an address came through: {}", out.escape_ascii());
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
