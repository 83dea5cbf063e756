use std::net::SocketAddr;

use super::*;

const INVITE: &[u8] = b"INVITE sip:1002@203.0.113.5:5060 SIP/2.0\r\n\
Via: SIP/2.0/UDP 10.0.0.9:5070;rport;branch=z9hG4bK-1;x=\"a;b\"\r\n\
Via: SIP/2.0/UDP a.example;branch=z9hG4bK-0 , SIP/2.0/TCP [2001:db8::9]:5062\r\n\
Max-Forwards: 70\r\n\
Record-Route: <sip:p1.example;lr>, <sip:p2.example;lr>\r\n\
From: \"Alice, \\\"the <first>\\\"\" <sip:1001.demo@203.0.113.5>;tag=a1\r\n\
To: <sip:1002@203.0.113.5>\r\n\
Call-ID: abc@10.0.0.9\r\n\
CSeq: 1 INVITE\r\n\
Contact: <sip:1001@10.0.0.9:5070;ob>;+sip.instance=\"<urn:uuid:1>\"\r\n\
Supported: replaces, outbound,,gruu\r\n\
Content-Type: application/sdp ; charset=utf-8\r\n\
X-Odd:   kept as it is\t\r\n\
Content-Length: 4\r\n\
\r\n\
v=0\nbeyond";

fn from() -> SocketAddr {
    "198.51.100.7:40000".parse().unwrap()
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

#[test]
fn an_invite_is_read() {
    let message = lex(INVITE).unwrap();
    message.check().unwrap();
    let uri: &[u8] = b"sip:1002@203.0.113.5:5060";
    assert_eq!(message.start(), Start::Request { method: Method::Invite, uri });
    assert_eq!(message.body(), b"v=0\n");
    let via = message.via().unwrap();
    assert_eq!((via.transport, via.host, via.port), (&b"UDP"[..], &b"10.0.0.9"[..], Some(5070)));
    assert_eq!((via.branch, via.rport), (Some(&b"z9hG4bK-1"[..]), Some(None)));
    assert_eq!(via.params.value("x"), Some(&b"\"a;b\""[..]));
    assert_eq!(message.headers(Header::Via).count(), 3);
    let last = Via::parse(message.headers(Header::Via).nth(2).unwrap()).unwrap();
    assert_eq!((last.host, last.port, last.branch), (&b"[2001:db8::9]"[..], Some(5062), None));
    let caller = message.from().unwrap();
    assert_eq!(unquote(caller.display).as_ref(), b"Alice, \"the <first>\"");
    assert_eq!((caller.uri, caller.tag()), (&b"sip:1001.demo@203.0.113.5"[..], Some(&b"a1"[..])));
    assert_eq!(caller.parsed_uri().unwrap().user, b"1001.demo");
    assert_eq!(message.to().unwrap().tag(), None);
    assert_eq!(message.call_id().unwrap(), b"abc@10.0.0.9");
    assert_eq!(message.cseq().unwrap(), CSeq { number: 1, method: Method::Invite });
    let contact = message.contact().unwrap().unwrap();
    assert_eq!(contact.param("+SIP.instance"), Some(&b"\"<urn:uuid:1>\""[..]));
    assert_eq!(contact.parsed_uri().unwrap().param("ob"), Some(&b""[..]));
    assert_eq!(message.max_forwards(), Ok(Some(70)));
    let supported: Vec<_> = message.headers(Header::Supported).collect();
    assert_eq!(supported, [&b"replaces"[..], b"outbound", b"gruu"]);
    assert_eq!(message.content_type(), Some(&b"application/sdp"[..]));
    assert_eq!(message.header_named("x-odd"), Some(&b"kept as it is"[..]));
    assert_eq!(message.header_named("v"), message.header(Header::Via));
    assert_eq!(message.header_named("x-none"), None);
    assert_eq!(message.spans().collect::<Vec<_>>().concat(), INVITE);
    assert_eq!(message.lines().count(), 13);
}

#[test]
fn every_header_name_is_found_in_any_case_and_compact() {
    for header in Header::ALL {
        let name = header.name();
        assert_eq!(Header::new(name.as_bytes()), *header);
        assert_eq!(Header::new(name.to_lowercase().as_bytes()), *header);
        assert_eq!(Header::new(name.to_uppercase().as_bytes()), *header);
        assert_eq!(Header::new(format!("{name}x").as_bytes()), Header::Other);
    }
    let compact = "a b c d e f i j k l m o r s t u v x y";
    for letter in compact.split(' ') {
        assert_ne!(Header::new(letter.as_bytes()), Header::Other, "{letter}");
        let upper = letter.to_uppercase();
        assert_eq!(Header::new(letter.as_bytes()), Header::new(upper.as_bytes()));
    }
    assert_eq!(Header::new(b"i"), Header::CallId);
    assert_eq!(Header::new(b"M"), Header::Contact);
    for other in [&b"z"[..], b"", b"@", b"\xff", b"Viaa"] {
        assert_eq!(Header::new(other), Header::Other);
    }
}

#[test]
fn the_limits_have_names() {
    let head = b"OPTIONS sip:x SIP/2.0\r\n".to_vec();
    let lines = |count| {
        let mut message = head.clone();
        message.extend_from_slice(&b"A: b\r\n".repeat(count));
        message.extend_from_slice(b"\r\n");
        message
    };
    assert_eq!(lex(&lines(MAX_HEADERS)).unwrap().lines().count(), MAX_HEADERS);
    assert_eq!(lex(&lines(MAX_HEADERS + 1)).unwrap_err(), LexError::TooManyHeaders);
    let mut long = lines(1);
    long.resize(MAX_DATAGRAM, b'x');
    assert_eq!(lex(&long).unwrap().body().len(), MAX_DATAGRAM - lines(1).len());
    long.push(b'x');
    assert_eq!(lex(&long).unwrap_err(), LexError::TooLarge);
}

#[test]
fn what_is_no_message_has_a_named_reason() {
    let cases: [(&[u8], &str); 31] = [
        (b"", "keep_alive"),
        (b"\r\n\r\n", "keep_alive"),
        (b"\0\0\0\0", "keep_alive"),
        (b"\0A", "start_line"),
        (b"\r\n\r\nINVITE", "no_empty_line"),
        (b"INVITE sip:x SIP/2.0", "no_empty_line"),
        (b"INVITE sip:x SIP/2.0\r\n", "no_empty_line"),
        (b"INVITE sip:x SIP/2.0\r\nA: b\r\n", "no_empty_line"),
        (b"INVITE sip:x SIP/2.0\r\nA: b\r\n b\r\n", "no_empty_line"),
        (b"INVITE sip:x SIP/2.0\r\nA: b", "no_empty_line"),
        (b"INVITE sip:x SIP/2.0\r\nA: b\rC: d\r\n\r\n", "bare_cr"),
        (b"INVITE sip:x SIP/2.0\rA: b\r\n\r\n", "bare_cr"),
        (b"INVITE sip:x SIP/2.0\r\n A: b\r\n\r\n", "header_name"),
        (b"INVITE sip:x SIP/2.0\r\n: b\r\n\r\n", "header_name"),
        (b"INVITE sip:x SIP/2.0\r\nA b: c\r\n\r\n", "header_name"),
        (b"INVITE sip:x SIP/2.0\r\nA\r\n\r\n", "header_name"),
        (b"INVITE sip:x SIP/2.0\r\n\xc3\xa4: c\r\n\r\n", "header_name"),
        (b"INVITE  sip:x SIP/2.0\r\n\r\n", "start_line"),
        (b"INVITE sip:x  SIP/2.0\r\n\r\n", "start_line"),
        (b"INVITE sip:x SIP/2.0 \r\n\r\n", "start_line"),
        (b"INVITE <sip:x> SIP/2.0\r\n\r\n", "start_line"),
        (b"INVITE sip:x HTTP/1.1\r\n\r\n", "start_line"),
        (b"INV(ITE sip:x SIP/2.0\r\n\r\n", "start_line"),
        (b"SIP/2.0 99 x\r\n\r\n", "start_line"),
        (b"SIP/2.0 700 x\r\n\r\n", "start_line"),
        (b"SIP/2.0 0200 x\r\n\r\n", "start_line"),
        (b"SIP/2 200 x\r\n\r\n", "start_line"),
        (b"A sip:x SIP/2.0\r\nl: 1\r\n\r\n", "truncated"),
        (b"A sip:x SIP/2.0\r\nl: 4294967296\r\n\r\n", "content_length"),
        (b"A sip:x SIP/2.0\r\nContent-Length: -1\r\n\r\n", "content_length"),
        (b"A sip:x SIP/2.0\r\nl: 0\r\nContent-Length: 1\r\n\r\nx", "content_length"),
    ];
    // Of these a request is left that can be answered.
    let kept =
        ["INVITE  sip:x S", "INVITE sip:x  S", "INVITE sip:x SIP/2.0 \r", "INVITE <sip", "A sip:"];
    for (bytes, name) in cases {
        let is_kept = kept.iter().any(|start| bytes.starts_with(start.as_bytes()));
        let error = match lex(bytes) {
            Ok(message) if is_kept => message.check().unwrap_err(),
            read => read.unwrap_err(),
        };
        assert_eq!(error.name(), name, "{}", bytes.escape_ascii());
    }
}

#[test]
fn the_body_is_as_long_as_content_length_says() {
    let with = |length: &str| format!("A sip:x SIP/2.0\r\n{length}\r\nbody").into_bytes();
    assert_eq!(lex(&with("")).unwrap().body(), b"body");
    assert_eq!(lex(&with("l:2\r\n")).unwrap().body(), b"bo");
    assert_eq!(lex(&with("l: 4\r\nl: 4\r\n")).unwrap().body(), b"body");
    assert_eq!(lex(&with("Content-Length : 0\r\n")).unwrap().body(), b"");
    for (length, error) in [("l: 5", LexError::Truncated), ("l: x", LexError::ContentLength)] {
        let bytes = with(&format!("{length}\r\n"));
        let message = lex(&bytes).unwrap();
        assert_eq!((message.check(), message.body()), (Err(error), &b"body"[..]));
    }
}

#[test]
fn what_every_message_must_have_is_checked() {
    let base = "Via: SIP/2.0/UDP h\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:a@b>\r\nCall-ID: c\r\n\
                CSeq: 1 BYE\r\nMax-Forwards: 70\r\n";
    let check = |headers: &str, start: &str| {
        let bytes = format!("{start}\r\n{headers}\r\n").into_bytes();
        lex(&bytes).unwrap().check()
    };
    let bye = "BYE sip:x SIP/2.0";
    assert_eq!(check(base, bye), Ok(()));
    assert_eq!(check(base, "SIP/2.0 200"), Ok(()));
    assert_eq!(check(base, "ACK sip:x SIP/2.0"), Err(LexError::CSeqMethod));
    assert_eq!(check(base, "BYE sip:x SIP/7.0"), Err(LexError::Version));
    assert_eq!(LexError::Version.status(), 505);
    for header in [Header::Via, Header::From, Header::To, Header::CallId, Header::CSeq] {
        let without: String =
            base.split_inclusive("\r\n").filter(|l| !l.starts_with(header.name())).collect();
        assert_eq!(check(&without, bye), Err(LexError::Missing(header)));
    }
    for header in [Header::From, Header::To, Header::CallId, Header::CSeq, Header::MaxForwards] {
        let line = base.split_inclusive("\r\n").find(|l| l.starts_with(header.name())).unwrap();
        assert_eq!(check(&format!("{base}{line}"), bye), Err(LexError::Repeated(header)));
    }
    for (good, bad, header) in [
        ("SIP/2.0/UDP h", "SIP/2.0/UDP", Header::Via),
        ("<sip:a@b>;tag=1", "\"x <sip:a@b>", Header::From),
        ("<sip:a@b>;tag=1", "<sip:a@b>;tag=1\r\n 2", Header::From),
        ("<sip:a@b>\r\nCall", "<sip:a@b>;tag=1\0\r\nCall", Header::To),
        ("SIP/2.0/UDP h", "SIP/2.0/UDP h;branch=z9hG4bK1 2", Header::Via),
        ("SIP/2.0/UDP h", "SIP/2.0/UDP h;branch=z9hG4bK\"1", Header::Via),
        ("<sip:a@b>;tag=1", "<sip:a@b>;x=\"\";y=\"z\\\";tag=1", Header::From),
        ("<sip:a@b>\r\nCall", "sip:a@b;x=\"y\r\nCall", Header::To),
        ("<sip:a@b>\r\nCall", "\r\nCall", Header::To),
        (": c\r", ": a b\r", Header::CallId),
        ("1 BYE", "2147483648 BYE", Header::CSeq),
        ("1 BYE", "1", Header::CSeq),
        ("1 BYE", "x BYE", Header::CSeq),
        ("70", "256", Header::MaxForwards),
        ("70", "-1", Header::MaxForwards),
    ] {
        assert_eq!(check(&base.replace(good, bad), bye), Err(LexError::Bad(header)), "{bad}");
    }
}

#[test]
fn via_values() {
    let good: [(&str, &str, Option<u16>); 8] = [
        ("SIP/2.0/UDP host", "host", None),
        (
            "SIP  / 2.0\r\n /\tUDP  first.example.com: 4000;ttl=16 ;maddr=1.2.3.4",
            "first.example.com",
            Some(4000),
        ),
        ("sip/2.0/udp 10.0.0.1 :\t5062 ; rport", "10.0.0.1", Some(5062)),
        ("SIP/2.0/TLS-SCTP [::1]", "[::1]", None),
        ("SIP/2.0/WSS df7jal23ls0d.invalid;branch=z", "df7jal23ls0d.invalid", None),
        ("SIP/2.0/UDP [2001:db8::1]:5061;x", "[2001:db8::1]", Some(5061)),
        ("SIP/7.0/UDP h:1", "h", Some(1)),
        ("SIP/2.0/UDP my_host.lan:65535", "my_host.lan", Some(65_535)),
    ];
    for (value, host, port) in good {
        let via = Via::parse(value.as_bytes()).unwrap_or_else(|| panic!("{value}"));
        assert_eq!((via.host, via.port), (host.as_bytes(), port), "{value}");
    }
    for bad in [
        "",
        "SIP/2.0",
        "SIP/2.0/UDP",
        "SIP/2.0/UDP ",
        "SIP/2.0/UDPhost",
        "SIP//UDP h",
        "HTTP/2.0/UDP h",
        "SIP/2.0/UDP h:65536",
        "SIP/2.0/UDP h:",
        "SIP/2.0/UDP h:1:2",
        "SIP/2.0/UDP h h",
        "SIP/2.0/UDP [::1",
        "SIP/2.0/UDP [x]",
        "SIP/2.0/UDP h;rport=70000",
    ] {
        assert_eq!(Via::parse(bad.as_bytes()), None, "{bad}");
    }
    let via = Via::parse(b"SIP/2.0/UDP h:5070;received=1.2.3.4;RPORT=99;branch = z9 ").unwrap();
    let expected = (Some(&b"1.2.3.4"[..]), Some(Some(99)), Some(&b"z9"[..]));
    assert_eq!((via.received, via.rport, via.branch), expected);
}

#[test]
fn responses_go_where_rfc_3581_sends_them() {
    let to = |via: &[u8]| Via::parse(via).unwrap().response_address(from()).to_string();
    assert_eq!(to(b"SIP/2.0/UDP 10.0.0.1:5070;rport"), "198.51.100.7:40000");
    assert_eq!(to(b"SIP/2.0/UDP 10.0.0.1:5070"), "198.51.100.7:5070");
    assert_eq!(to(b"SIP/2.0/UDP 10.0.0.1;maddr=192.0.2.9"), "198.51.100.7:5060");
}

#[test]
fn uris() {
    let uri =
        Uri::parse(b"sips:al%69ce;x=y?z:pa:ss@[2001:db8::1]:5061;Transport=tcp;lr?a=b").unwrap();
    assert!(uri.is_secure());
    assert_eq!((uri.user, uri.password), (&b"al%69ce;x=y?z"[..], Some(&b"pa:ss"[..])));
    assert_eq!(unescape(uri.user).as_ref(), b"alice;x=y?z");
    assert_eq!((uri.host, uri.port), (&b"[2001:db8::1]"[..], Some(5061)));
    assert_eq!(uri.host_ip(), Some("2001:db8::1".parse().unwrap()));
    assert_eq!((uri.param("transport"), uri.param("lr")), (Some(&b"tcp"[..]), Some(&b""[..])));
    assert_eq!((uri.param("none"), uri.headers), (None, &b"a=b"[..]));
    let uri = Uri::parse(b"sip:example.com").unwrap();
    assert_eq!((uri.user, uri.host, uri.host_ip()), (&b""[..], &b"example.com"[..], None));
    let uri = Uri::parse(b"tel:+44-20;phone-context=example.com").unwrap();
    assert_eq!((uri.user, uri.param("phone-context")), (&b"+44-20"[..], Some(&b"example.com"[..])));
    let uri = Uri::parse(b"nobodyKnowsThisScheme:totallyopaquecontent").unwrap();
    assert_eq!((uri.host, uri.rest), (&b""[..], &b"totallyopaquecontent"[..]));
    let uri = Uri::parse(b"sip:null-%00-null@example.com").unwrap();
    assert_eq!(unescape(uri.user).as_ref(), b"null-\0-null");
    assert_eq!(unescape(b"%zz%4").as_ref(), b"%zz%4");
    for bad in [
        "",
        "sip",
        ":x",
        "1sip:x",
        "sip:",
        "sip:@h",
        "sip:a@",
        "sip:a@b@c",
        "sip:a b@c",
        "sip:a@h:x",
        "sip:a@h:70000",
        "sip:a@[::1",
        "sip:a@h/x",
        "<sip:a@h>",
    ] {
        assert_eq!(Uri::parse(bad.as_bytes()), Err(LexError::Uri), "{bad}");
    }
}

#[test]
fn resources_are_compared_as_19_1_4_says() {
    let same = |a: &str, b: &str| {
        Uri::parse(a.as_bytes()).unwrap().same_resource(&Uri::parse(b.as_bytes()).unwrap())
    };
    assert!(same("sip:%61lice@atlanta.com;transport=TCP", "sip:alice@AtLanTa.CoM"));
    assert!(same("sip:a@[2001:DB8::1]", "sip:a@[2001:db8:0::1]"));
    assert!(same("tel:+1", "tel:+1") && same("urn:x", "URN:x"));
    for (a, b) in [
        ("SIP:ALICE@h", "sip:alice@h"),
        ("sip:bob@h", "sip:bob@h:5060"),
        ("sip:a@h", "sips:a@h"),
        ("sip:a@h", "sip:h"),
        ("urn:x", "urn:y"),
        ("tel:+1", "tel:+2"),
    ] {
        assert!(!same(a, b), "{a} {b}");
    }
}

#[test]
fn name_addrs() {
    let parse = |value: &'static str| NameAddr::parse(value.as_bytes()).unwrap();
    let addr = parse("  The Caller   <sip:a@b;lr>  ;\r\n tag = 7 ; flag");
    assert_eq!((addr.display, addr.uri), (&b"The Caller"[..], &b"sip:a@b;lr"[..]));
    assert_eq!((addr.tag(), addr.param("FLAG")), (Some(&b"7"[..]), Some(&b""[..])));
    let addr = parse("sip:a@b;tag=9;x");
    assert_eq!((addr.uri, addr.tag(), addr.display), (&b"sip:a@b"[..], Some(&b"9"[..]), &b""[..]));
    assert!(addr.has_scheme("SIP") && !addr.has_scheme("sips"));
    let addr = parse("\"\"<sip:a@b>");
    assert_eq!((addr.display, addr.uri), (&b"\"\""[..], &b"sip:a@b"[..]));
    let addr = parse("\"a\\\\\" <sip:a@b>;q=\"x;tag=no\";tag=yes");
    assert_eq!(addr.tag(), Some(&b"yes"[..]));
    assert!(parse("*").is_star());
    assert_eq!(parse("<sip:a@b>;expires=60").expires(), Some(60));
    assert_eq!(parse("<sip:a@b>;expires=99999999999").expires(), Some(u32::MAX));
    assert_eq!(parse("<sip:a@b>;expires=soon").expires(), None);
    assert_eq!(parse("<sip:a@b>;tag=").tag(), None);
    for bad in [
        "",
        "<>",
        "<sip:a@b",
        "\"open <sip:a@b>",
        "\"q\"",
        "\"q\" sip:a@b",
        "\"q\" x <sip:a@b>",
        "<sip:a@b> junk",
        "<<sip:a@b>>",
        "sip:a@b?x=y",
        "sip:a,b@c",
        "a b",
        "x \"y\" <sip:a@b>",
    ] {
        assert_eq!(NameAddr::parse(bad.as_bytes()), None, "{bad}");
    }
}

#[test]
fn lists_split_at_top_level_commas_only() {
    let list: Vec<_> = split_commas(b" a , \"b,\\\",\" <x,y>;z=\"1,2\",, c,").collect();
    assert_eq!(list, [&b"a"[..], b"\"b,\\\",\" <x,y>;z=\"1,2\"", b"c"]);
    assert_eq!(split_commas(b"a \"open, b").collect::<Vec<_>>(), [b"a \"open, b"]);
    assert_eq!(split_commas(b"<open, b").count(), 1);
    assert_eq!(split_commas(b" ,\r\n ,").count(), 0);
}

#[test]
fn a_response_copies_what_it_must() {
    let request = lex(INVITE).unwrap();
    let extra: [(&str, &[u8]); 2] =
        [("Contact", b"<sip:203.0.113.5>"), ("X-Two", b"one\r\nInjected: yes")];
    let body = Some(("application/sdp", &b"v=0\r\n"[..]));
    let out = text(response(&request, 200, "OK", Some("t9"), from(), &extra, body));
    let expected = "SIP/2.0 200 OK\r\n\
        Via: SIP/2.0/UDP 10.0.0.9:5070;rport=40000;branch=z9hG4bK-1;x=\"a;b\";\
        received=198.51.100.7\r\n\
        Via: SIP/2.0/UDP a.example;branch=z9hG4bK-0, SIP/2.0/TCP [2001:db8::9]:5062\r\n\
        Record-Route: <sip:p1.example;lr>, <sip:p2.example;lr>\r\n\
        From: \"Alice, \\\"the <first>\\\"\" <sip:1001.demo@203.0.113.5>;tag=a1\r\n\
        To: <sip:1002@203.0.113.5>;tag=t9\r\n\
        Call-ID: abc@10.0.0.9\r\n\
        CSeq: 1 INVITE\r\n\
        Contact: <sip:203.0.113.5>\r\n\
        X-Two: one Injected: yes\r\n\
        Content-Type: application/sdp\r\n\
        Content-Length: 5\r\n\r\nv=0\r\n";
    assert_eq!(out, expected);
    lex(out.as_bytes()).unwrap().check().unwrap();
}

#[test]
fn a_response_keeps_a_to_tag_and_has_record_route_only_where_a_dialog_may_be() {
    let bytes = INVITE.to_vec();
    let with_tag =
        text(bytes.clone()).replace("To: <sip:1002@203.0.113.5>", "To: <sip:1002@x> ; TAG=t1");
    let request = lex(with_tag.as_bytes()).unwrap();
    for (status, routes) in [(100, 0), (180, 2), (200, 2), (302, 0), (486, 0)] {
        let out = response(&request, status, "", Some("t2"), from(), &[], None);
        let read = lex(&out).unwrap();
        assert_eq!(read.to().unwrap().tag(), Some(&b"t1"[..]));
        assert_eq!(read.headers(Header::RecordRoute).count(), routes, "{status}");
        assert_eq!(read.status(), Some(status));
    }
    let request = lex(&bytes).unwrap();
    let trying = response(&request, 100, reason_phrase(100), None, from(), &[], None);
    assert_eq!(lex(&trying).unwrap().to().unwrap().tag(), None);
    assert!(trying.starts_with(b"SIP/2.0 100 Trying\r\n"));
}

#[test]
fn the_top_via_gets_received_and_rport() {
    let top = |via: &str, source: &str| {
        let request = format!("OPTIONS sip:x SIP/2.0\r\nVia: {via}\r\n\r\n").into_bytes();
        let request = lex(&request).unwrap();
        let out = response(&request, 200, "OK", None, source.parse().unwrap(), &[], None);
        String::from_utf8(lex(&out).unwrap().header(Header::Via).unwrap().to_vec()).unwrap()
    };
    let source = "10.0.0.9:5060";
    assert_eq!(top("SIP/2.0/UDP 10.0.0.9;branch=b", source), "SIP/2.0/UDP 10.0.0.9;branch=b");
    assert_eq!(
        top("SIP/2.0/UDP 10.0.0.9;rport;branch=b", source),
        "SIP/2.0/UDP 10.0.0.9;rport=5060;branch=b;received=10.0.0.9"
    );
    assert_eq!(
        top("SIP/2.0/UDP host;branch=b;received=6.6.6.6", source),
        "SIP/2.0/UDP host;branch=b;received=10.0.0.9"
    );
    assert_eq!(
        top("SIP/2.0/UDP 10.0.0.8;rport=6;rport;branch=b", source),
        "SIP/2.0/UDP 10.0.0.8;rport=5060;branch=b;received=10.0.0.9"
    );
    assert_eq!(
        top("SIP/2.0/UDP [::1];rport", "[2001:db8::2]:9"),
        "SIP/2.0/UDP [::1];rport=9;received=2001:db8::2"
    );
    // An IPv4 source on a socket of both families is still IPv4.
    assert_eq!(top("SIP/2.0/UDP 10.0.0.9", "[::ffff:10.0.0.9]:9"), "SIP/2.0/UDP 10.0.0.9");
    // What is no Via would lead nowhere.
    let request = lex(b"OPTIONS sip:x SIP/2.0\r\nVia: broken\r\n\r\n").unwrap();
    let out = response(&request, 400, "Bad", None, source.parse().unwrap(), &[], None);
    assert!(!lex(&out).unwrap().has(Header::Via));
}

#[test]
fn folded_values_are_unfolded_in_a_response() {
    let request = b"OPTIONS sip:x SIP/2.0\nv: SIP/2.0/UDP 10.0.0.9\n ;branch=b,\n\tSIP/2.0/UDP c\n\
        f: A\r\n\tB <sip:a@b>\n ;tag=1\nt:\r\n sip:c@d\ni: x\nCSeq:\r\n 1\r\n OPTIONS\r\n\r\n";
    let request = lex(request).unwrap();
    request.check().unwrap();
    let source = "10.0.0.9:5060".parse().unwrap();
    let out = text(response(&request, 404, "Not Found", Some("t"), source, &[], None));
    let expected = "SIP/2.0 404 Not Found\r\nVia: SIP/2.0/UDP 10.0.0.9 ;branch=b, \
        SIP/2.0/UDP c\r\nFrom: A B <sip:a@b> ;tag=1\r\nTo: sip:c@d;tag=t\r\nCall-ID: x\r\n\
        CSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(out, expected);
}

#[test]
fn a_response_has_no_more_lines_than_its_request() {
    let many = |value: &str| vec![value; MAX_HEADERS + 1].join(",");
    let request = format!(
        "OPTIONS sip:x SIP/2.0\r\nVia: {},broken\r\nVia: broken\r\nRecord-Route: {}\r\nRecord-Route: ,\r\n\
        From: <sip:a@b>;tag=1\r\nTo: <sip:c@d>\r\nCall-ID: x\r\nCSeq: 1 OPTIONS\r\n\r\n",
        many("SIP/2.0/UDP h"),
        many("<sip:p;lr>"),
    );
    let request = lex(request.as_bytes()).unwrap();
    let out = response(&request, 200, "OK", Some("t"), from(), &[], None);
    let read = lex(&out).unwrap();
    assert_eq!(read.lines().count(), 7, "Content-Length besides");
    assert_eq!(read.headers(Header::Via).count(), MAX_HEADERS + 1);
    assert_eq!(read.headers(Header::RecordRoute).count(), MAX_HEADERS + 1);
}

#[test]
fn a_request_is_written() {
    let out = RequestWriter::new(b"BYE", b"sip:a@b")
        .header("Via", "SIP/2.0/UDP h;branch=z9hG4bK1")
        .header_fmt("CSeq", format_args!("{} BYE", 7))
        .header("X", b"a\r\n\r\nb".as_slice())
        .finish(None);
    let expected = "BYE sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nCSeq: 7 BYE\r\n\
        X: a b\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(text(out), expected);
    let out = RequestWriter::new(b"A", b"sip:x").finish(Some(("text/plain", b"hi")));
    let expected = "A sip:x SIP/2.0\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nhi";
    assert_eq!(text(out), expected);
}

#[test]
fn every_status_has_a_phrase() {
    for status in 100..700 {
        assert!(!reason_phrase(status).is_empty());
    }
    assert_eq!(reason_phrase(486), "Busy Here");
    assert_eq!(reason_phrase(599), "Server Failure");
    assert_eq!(reason_phrase(699), "Global Failure");
}
