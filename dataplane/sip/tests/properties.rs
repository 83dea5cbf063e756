//! Properties of the wire format, the descriptions and the digest over bytes that chance made.

use std::net::{IpAddr, Ipv4Addr};

use proptest::collection::vec;
use proptest::prelude::*;
use rsip::prelude::*;
use sip::digest::{Challenge, Credentials};
use sip::sdp::{self, Rewrite};
use sip::wire::{
    Frame, Framer, Header, Message, NameAddr, RequestWriter, Start, Uri, Via, lex, response,
    split_commas, unescape, unquote,
};

const INVITE: &str = "INVITE sip:1002@203.0.113.5:5060;x SIP/2.0\r\n\
Via: SIP/2.0/UDP 10.0.0.9:5070;rport;branch=z9hG4bK-1, SIP/2.0/UDP [::1];branch=z\r\n\
v: SIP / 2.0 / TCP a.example : 5061 ;branch=z9hG4bK-0\r\n\
Max-Forwards: 70\r\n\
Record-Route: <sip:p1.example;lr>, <sip:p2.example;lr>\r\n\
From: \"Alice, \\\"x\\\"\" <sip:1001.demo@203.0.113.5>;tag=a1\r\n\
t: <sip:1002@203.0.113.5>\r\n\
Call-ID: abc@10.0.0.9\r\n\
CSeq: 1 INVITE\r\n\
Contact: <sip:1001@10.0.0.9:5070;ob>;expires=60\r\n\
Subject: folded\r\n\tvalue\r\n\
Authorization: Digest username=\"a\", realm=\"r\", nonce=\"n\", uri=\"sip:x\", response=\"00\",\
\r\n \
qop=auth, nc=00000001, cnonce=\"c\"\r\n\
Content-Type: application/sdp\r\n\
Content-Length: 101\r\n\
\r\n\
v=0\r\no=- 1 1 IN IP4 10.0.0.9\r\ns=-\r\nc=IN IP4 10.0.0.9\r\nt=0 0\r\n\
m=audio 4000 RTP/AVP 0 8\r\na=sendonly\r\n";

const DESCRIPTION: &str = "v=0\r\no=- 1 1 IN IP4 10.66.1.2\r\ns=x\r\nc=IN IP4 10.66.1.2\r\n\
b=AS:99\r\nt=0 0\r\na=sendrecv\r\nm=audio 4000 RTP/AVP 96 0 101\r\nc=IN IP4 10.66.1.2\r\n\
b=TIAS:64000\r\n\
a=rtpmap:96 opus/48000/2\r\na=fmtp:96 useinbandfec=1;stereo=1\r\n\
a=rtpmap:101 telephone-event/8000\r\n\
a=fmtp:101 0-15\r\na=ptime:20\r\na=maxptime:60\r\na=recvonly\r\na=rtcp:4001 IN IP4 10.66.1.2\r\n\
a=candidate:1 1 UDP 1 10.66.1.2 4000 typ host\r\n\
m=video 5000 RTP/AVP 97 98\r\na=rtpmap:97 VP8/90000\r\n\
m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n";

/// Asks a message everything that there is to ask; panics are what is looked for.
fn exercise(message: &Message<'_>) {
    let _ = message.check();
    let _ = (message.via(), message.from(), message.to(), message.contact(), message.call_id());
    let _ = (message.cseq(), message.max_forwards(), message.expires(), message.content_type());
    let _ = format!("{message:?}");
    for header in Header::ALL.iter().chain([&Header::Other]) {
        for value in message.headers(*header) {
            typed(value);
        }
        assert_eq!(message.has(*header), message.lines().any(|(h, _, _)| h == *header));
    }
    let from = "192.0.2.1:9".parse().unwrap();
    let out = response(message, 200, "OK", Some("t"), from, &[], Some(("a/b", message.body())));
    let read = lex(&out).expect("a response lexes");
    assert_eq!(read.status(), Some(200));
    assert_eq!(read.body(), message.body());
    if let Ok(sdp) = sdp::parse(message.body()) {
        described(&sdp);
    }
}

fn typed(value: &[u8]) {
    let _ = Via::parse(value).map(|via| via.response_address("192.0.2.1:9".parse().unwrap()));
    let _ = NameAddr::parse(value).map(|addr| (addr.tag(), addr.parsed_uri(), addr.expires()));
    let _ = Uri::parse(value).map(|uri| (uri.host_ip(), uri.same_resource(&uri)));
    let _ = (Credentials::parse(value), Challenge::parse(value));
    let _ = (unquote(value), unescape(value), split_commas(value).count());
}

fn described(sdp: &sdp::Sdp<'_>) {
    let with = Rewrite {
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        port: 9,
        video_port: Some(11),
        session_id: 1,
        version: 1,
        secured: sdp::Secured::default(),
    };
    let audio = sdp::audio(sdp);
    let Ok(out) = sdp::rewrite(sdp, with) else {
        return;
    };
    let again = sdp::parse(&out).expect("what we write parses");
    let there = sdp::audio(&again).expect("what we write has audio");
    let here = audio.expect("what was rewritten has audio");
    assert_eq!(again.media().len(), sdp.media().len());
    assert_eq!(there.section, here.section);
    assert_eq!(there.address, "127.0.0.1:9".parse().unwrap());
    assert_eq!(there.held, here.held);
    let numbers = |a: &sdp::Audio<'_>| a.payloads.iter().map(|p| p.number).collect::<Vec<_>>();
    assert_eq!(numbers(&there), numbers(&here));
}

fn lossless(bytes: &[u8]) {
    if let Ok(message) = lex(bytes) {
        assert_eq!(message.spans().collect::<Vec<_>>().concat(), bytes);
        exercise(&message);
    }
}

/// A piece of SIP or of nonsense.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    const PIECES: &[&str] = &[
        "\r\n",
        "\n",
        "\r",
        " ",
        "\t",
        ":",
        ";",
        ",",
        "\"",
        "\\",
        "<",
        ">",
        "@",
        "[",
        "]",
        "=",
        "%",
        "/",
        "?",
        "SIP/2.0",
        "INVITE",
        "sip:",
        "Via: ",
        "v:",
        "From: ",
        "Content-Length: ",
        "l: 5",
        "4294967296",
        "\r\n ",
        "\r\n\r\n",
        "rport",
        "tag=",
        "Digest ",
        "m=audio 1 RTP/AVP 0\n",
        "a=",
    ];
    prop_oneof![
        3 => prop::sample::select(PIECES).prop_map(|p| p.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 1..8),
    ]
}

#[derive(Clone, Debug)]
enum Mutation {
    Flip(usize, u8),
    Cut(usize, usize),
    Insert(usize, Vec<u8>),
    Repeat(usize, usize),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Mutation::Flip(at, byte)),
        (any::<usize>(), 1..40_usize).prop_map(|(at, len)| Mutation::Cut(at, len)),
        (any::<usize>(), piece()).prop_map(|(at, piece)| Mutation::Insert(at, piece)),
        (any::<usize>(), 1..120_usize).prop_map(|(at, len)| Mutation::Repeat(at, len)),
    ]
}

fn mutate(bytes: &mut Vec<u8>, mutation: &Mutation) {
    let place = |at: usize| at % bytes.len().max(1);
    match mutation {
        _ if bytes.is_empty() => {}
        Mutation::Flip(at, byte) => {
            let at = place(*at);
            bytes[at] = *byte;
        }
        Mutation::Cut(at, len) => {
            let at = place(*at);
            bytes.drain(at..(at + len).min(bytes.len()));
        }
        Mutation::Insert(at, piece) => {
            let at = place(*at);
            bytes.splice(at..at, piece.iter().copied());
        }
        Mutation::Repeat(at, len) => {
            let at = place(*at);
            let copy = bytes[at..(at + len).min(bytes.len())].to_vec();
            bytes.splice(at..at, copy);
        }
    }
}

/// Header lines of every shape that is valid, with their values.
fn header_line() -> impl Strategy<Value = (String, String, String)> {
    let name = prop_oneof![
        "X-[A-Za-z0-9.!%*_+`'~-]{1,20}",
        prop::sample::select(Header::ALL)
            .prop_filter("its value is read by the lexer", |h| *h != Header::ContentLength)
            .prop_map(|h| h.name().to_owned()),
    ];
    let colon = prop::sample::select(vec![":", ": ", " :", " \t: ", ":\r\n ", ":\n\t"]);
    (
        name,
        colon.prop_map(str::to_owned),
        "([!-~]([ -~]{0,30}[!-~])?)?((\r\n|\n)[ \t]+[!-~]{1,10}){0,2}",
    )
}

fn words(value: &[u8]) -> String {
    String::from_utf8_lossy(value).split_whitespace().collect::<Vec<_>>().join(" ")
}

fn config() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) }
}

/// The frames of a stream that comes in pieces of these sizes, again and again; true when it ended by an error.
fn framed(stream: &[u8], sizes: &[usize]) -> (Vec<Option<Vec<u8>>>, bool) {
    let (mut framer, mut frames) = (Framer::default(), Vec::new());
    let (mut rest, mut sizes) = (stream, sizes.iter().cycle());
    while !rest.is_empty() {
        let (piece, left) = rest.split_at(rest.len().min(*sizes.next().expect("there is one")));
        rest = left;
        framer.feed(piece);
        loop {
            match framer.next_frame() {
                Ok(Some(Frame::Message(message))) => frames.push(Some(message.to_vec())),
                Ok(Some(Frame::Ping)) => frames.push(None),
                Ok(None) => break,
                Err(_) => return (frames, true),
            }
        }
    }
    (frames, false)
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..300)) {
        lossless(&bytes);
        typed(&bytes);
    }

    #[test]
    fn random_pieces_never_panic(pieces in vec(piece(), 0..60)) {
        let bytes = pieces.concat();
        lossless(&bytes);
        lossless(&[b"A sip:x SIP/2.0\r\n", bytes.as_slice(), b"\r\n\r\n"].concat());
        typed(&bytes);
        if let Ok(sdp) = sdp::parse(&[b"v=0\r\n", bytes.as_slice()].concat()) {
            described(&sdp);
        }
    }

    #[test]
    fn a_mutated_invite_never_panics(mutations in vec(mutation(), 1..6)) {
        let mut bytes = INVITE.as_bytes().to_vec();
        for mutation in &mutations {
            mutate(&mut bytes, mutation);
        }
        lossless(&bytes);
    }

    /// However a stream is cut, the same messages come out of it, and the lexer reads each as it was framed.
    #[test]
    fn a_stream_is_framed_the_same_however_it_is_cut(
        mutations in vec(mutation(), 0..4),
        cuts in vec(1..200_usize, 1..40),
        apart in "(\r\n){0,4}",
    ) {
        let mut stream = Vec::new();
        for _ in 0..3 {
            stream.extend(apart.as_bytes());
            stream.extend(INVITE.as_bytes());
        }
        for mutation in &mutations {
            mutate(&mut stream, mutation);
        }
        let whole = framed(&stream, &[stream.len().max(1)]);
        prop_assert_eq!(&whole, &framed(&stream, &cuts));
        for message in whole.0.iter().flatten() {
            prop_assert_eq!(lex(message).map(|message| message.bytes().to_vec()), Ok(message.clone()));
        }
    }

    /// Topology hiding: an address of one side never reaches the other.
    #[test]
    fn no_address_of_a_description_survives(
        address in prop::sample::select(vec!["10.66.1.2", "2001:db8::66:2", "::ffff:10.66.1.2"]),
        places in vec((any::<usize>(), "[ ;:=/,.x0-9\\[\"]?", "[ ;:=/,.x0-9\\]\"]?"), 1..6),
    ) {
        let mut bytes = DESCRIPTION.as_bytes().to_vec();
        for (at, before, after) in &places {
            let at = at % bytes.len();
            bytes.splice(at..at, format!("{before}{address}{after}").into_bytes());
        }
        let with = Rewrite {
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 9,
            video_port: Some(11),
            session_id: 1,
            version: 1,
            secured: sdp::Secured::default(),
        };
        if let Ok(out) = sdp::parse(&bytes).and_then(|sdp| sdp::rewrite(&sdp, with)) {
            let out = String::from_utf8(out).unwrap();
            prop_assert!(!out.contains("10.66.") && !out.contains("db8"), "{}", out);
        }
    }

    #[test]
    fn a_valid_message_is_read_without_loss(
        leading in prop::sample::select(vec!["", "\r\n", "\r\n\r\n", "\n"]),
        lines in vec((header_line(), prop::sample::select(vec!["\r\n", "\n"])), 0..30),
        body in vec(any::<u8>(), 0..100),
        surplus in vec(any::<u8>(), 0..20),
    ) {
        let mut bytes = format!("{leading}FOO x:y SIP/2.0\r\n").into_bytes();
        for ((name, colon, value), end) in &lines {
            bytes.extend_from_slice(format!("{name}{colon}{value}{end}").as_bytes());
        }
        bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
        bytes.extend_from_slice(&body);
        bytes.extend_from_slice(&surplus);
        let message = lex(&bytes).unwrap();
        prop_assert_eq!(message.spans().collect::<Vec<_>>().concat(), bytes.clone());
        prop_assert_eq!(message.body(), &body);
        prop_assert_eq!(message.lines().count(), lines.len() + 1);
        for (((name, _, value), _), line) in lines.iter().zip(message.lines()) {
            let (header, read_name, read) = line;
            prop_assert_eq!(read_name, name.as_bytes());
            prop_assert_eq!(read, value.trim().as_bytes());
            prop_assert_eq!(header, Header::new(name.as_bytes()));
        }
        exercise(&message);
    }

    #[test]
    fn what_is_written_reads_back(
        headers in vec(("X-[a-z]{1,8}", "[ -~\r\n\t]{0,40}"), 0..20),
        body in vec(any::<u8>(), 0..50),
    ) {
        let mut writer = RequestWriter::new(b"FOO", b"sip:a@b");
        for (name, value) in &headers {
            writer = writer.header(name, value);
        }
        let bytes = writer.finish(Some(("x/y", &body)));
        let message = lex(&bytes).unwrap();
        prop_assert_eq!(message.body(), &body);
        prop_assert_eq!(message.lines().count(), headers.len() + 2);
        for ((name, value), (_, read_name, read)) in headers.iter().zip(message.lines()) {
            prop_assert_eq!(read_name, name.as_bytes());
            prop_assert_eq!(words(read), words(value.as_bytes()));
        }
    }

    /// rsip reads only a part of SIP (no folding, no compact names, one value a line, no dot in a
    /// user); on it both agree.
    #[test]
    fn rsip_agrees(
        status in prop::option::of(prop::sample::select(vec![100_u16, 180, 200, 404, 486, 503])),
        user in "[a-z][a-z0-9]{0,10}",
        host in "[a-z]{1,8}\\.example",
        port in prop::option::of(1..=u16::MAX),
        name in prop::option::of("[A-Za-z]{1,8}( [A-Za-z]{1,8})?"),
        tag in "[a-z0-9]{1,12}",
        branch in "z9hG4bK[a-zA-Z0-9]{1,20}",
        call_id in "[a-z0-9-]{1,20}@[a-z0-9.]{1,10}",
        number in 0..(1_u32 << 31),
        forwards in any::<u8>(),
        body in "[ -~]{0,60}",
    ) {
        let port_text = port.map(|p| format!(":{p}")).unwrap_or_default();
        let uri = format!("sip:{user}@{host}{port_text}");
        let start = match status {
            Some(status) => format!("SIP/2.0 {status} {}", sip::wire::reason_phrase(status)),
            None => format!("INVITE {uri} SIP/2.0"),
        };
        let display = name.as_ref().map(|n| format!("\"{n}\" ")).unwrap_or_default();
        let text = format!(
            "{start}\r\nVia: SIP/2.0/UDP {host}{port_text};branch={branch}\r\n\
             Max-Forwards: {forwards}\r\nFrom: {display}<{uri}>;tag={tag}\r\nTo: <{uri}>\r\n\
             Call-ID: {call_id}\r\nCSeq: {number} INVITE\r\n\
             Contact: <{uri};ob>\r\nX-Own: {tag}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let ours = lex(text.as_bytes()).unwrap();
        ours.check().unwrap();
        let theirs = rsip::SipMessage::try_from(text.as_bytes()).unwrap();
        match (&theirs, ours.start()) {
            (rsip::SipMessage::Request(r), Start::Request { method, uri }) => {
                prop_assert_eq!(r.method.to_string(), method.to_string());
                prop_assert_eq!(r.uri.to_string().into_bytes(), uri);
            }
            (rsip::SipMessage::Response(r), Start::Response { status, .. }) => {
                prop_assert_eq!(r.status_code.code(), status);
            }
            _ => prop_assert!(false, "a request is no response"),
        }
        let via = ours.via().unwrap();
        let their_via = theirs.via_header().unwrap().typed().unwrap();
        prop_assert_eq!(their_via.branch().unwrap().value().as_bytes(), via.branch.unwrap());
        prop_assert_eq!(their_via.uri.host_with_port.host.to_string().into_bytes(), via.host);
        prop_assert_eq!(their_via.uri.host_with_port.port.map(|p| *p.value()), via.port);
        let caller = theirs.from_header().unwrap().typed().unwrap();
        let our_caller = ours.from().unwrap();
        prop_assert_eq!(caller.tag().unwrap().value().as_bytes(), our_caller.tag().unwrap());
        prop_assert_eq!(caller.uri.to_string().into_bytes(), our_caller.uri);
        let our_uri = our_caller.parsed_uri().unwrap();
        prop_assert_eq!(caller.uri.auth.as_ref().unwrap().user.as_bytes(), our_uri.user);
        let their_port = caller.uri.host_with_port.port.as_ref().map(|p| *p.value());
        prop_assert_eq!(their_port, our_uri.port);
        let their_id = theirs.call_id_header().unwrap().value();
        prop_assert_eq!(their_id.as_bytes(), ours.call_id().unwrap());
        let cseq = theirs.cseq_header().unwrap().typed().unwrap();
        prop_assert_eq!(cseq.seq, ours.cseq().unwrap().number);
        prop_assert_eq!(cseq.method.to_string(), ours.cseq().unwrap().method.to_string());
        let contact = theirs.contact_header().unwrap().typed().unwrap();
        let our_contact = ours.contact().unwrap().unwrap();
        prop_assert_eq!(contact.uri.to_string().into_bytes(), our_contact.uri);
        prop_assert_eq!(theirs.body().as_slice(), ours.body());
    }
}
