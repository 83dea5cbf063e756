//! The torture tests of RFC 4475 and RFC 5118: what is valid is read, what is not has a named reason.
//!
//! Every message lies in `tests/data/torture`, with its verdict in the table beside it. What is read of
//! the more tortuous ones is spelt out here.

use sip::wire::{
    Header, LexError, Message, Method, NameAddr, RequestWriter, Start, Uri, Via, lex, response,
    unescape, unquote,
};

#[path = "../../../tests/data/torture/verdicts.rs"]
#[allow(dead_code, reason = "what the data plane answers is for its own tests")]
mod verdicts;

use verdicts::{Reading, VERDICTS, Verdict};

fn file(name: &str) -> &'static [u8] {
    let found = VERDICTS.iter().find(|verdict| verdict.name == name);
    found.unwrap_or_else(|| panic!("no message {name}")).bytes
}

fn reading(bytes: &[u8]) -> String {
    match lex(bytes).map(|message| message.check()) {
        Ok(Ok(())) => "valid".to_owned(),
        Ok(Err(error)) => format!("refused: {error}"),
        Err(error) => format!("noise: {error}"),
    }
}

#[test]
fn every_message_gets_its_verdict() {
    let count = |rfc| VERDICTS.iter().filter(|verdict| verdict.section.starts_with(rfc)).count();
    assert_eq!((count("4475"), count("5118")), (49, 12));
    for Verdict { name, section, bytes, reading: expected, says, .. } in VERDICTS {
        let expected = match expected {
            Reading::Valid => "valid".to_owned(),
            Reading::Refused(reason) => format!("refused: {reason}"),
            Reading::Noise(reason) => format!("noise: {reason}"),
        };
        assert_eq!(reading(bytes), expected, "{name} (RFC {section}): {says}");
    }
}

/// Its header lines, each as name and words; the two that a writer adds itself are left out.
fn lines(message: &Message<'_>) -> Vec<(Header, Vec<u8>, String)> {
    let own = [Header::ContentLength, Header::ContentType];
    let kept = message.lines().filter(|(header, _, _)| !own.contains(header));
    kept.map(|(header, name, value)| (header, name.to_vec(), words(value))).collect()
}

fn words(value: &[u8]) -> String {
    let words = value.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(&b' ').escape_ascii().to_string()
}

/// The message in our own writing; a response is written as the request that it could answer.
fn written(message: &Message<'_>) -> Vec<u8> {
    let (method, uri) = match message.start() {
        Start::Request { method, uri } => (method.as_bytes(), uri),
        Start::Response { .. } => (message.cseq().unwrap().method.as_bytes(), &b"sip:a@b"[..]),
    };
    let mut writer = RequestWriter::new(method, uri);
    for (header, name, value) in message.lines() {
        if !matches!(header, Header::ContentLength | Header::ContentType) {
            writer = writer.header(std::str::from_utf8(name).unwrap(), value);
        }
    }
    let content = message.header(Header::ContentType).map(|value| String::from_utf8_lossy(value));
    writer.finish(content.as_deref().map(|content| (content, message.body())))
}

#[test]
fn what_is_valid_is_the_same_when_it_is_written_and_read_again() {
    let mut requests = 0;
    for Verdict { name, bytes, .. } in VERDICTS.iter().filter(|v| v.reading == Reading::Valid) {
        let message = read(bytes);
        assert_eq!(message.spans().collect::<Vec<_>>().concat(), *bytes, "{name}");
        let out = written(&message);
        let again = read(&out);
        assert_eq!(lines(&again), lines(&message), "{name}");
        assert_eq!(again.body(), message.body(), "{name}");
        assert_eq!(written(&again), out, "{name}");
        match message.start() {
            Start::Request { .. } => {
                assert_eq!(again.start(), message.start(), "{name}");
                requests += 1;
            }
            Start::Response { status, reason } => {
                let reason = std::str::from_utf8(reason).unwrap();
                let from = "192.0.2.198:5060".parse().unwrap();
                let out = response(&again, status, reason, None, from, &[], None);
                let answer = read(&out);
                assert_eq!(answer.start(), message.start(), "{name}");
                for header in [Header::From, Header::To, Header::CallId, Header::CSeq] {
                    assert_eq!(answer.header(header), message.header(header), "{name}");
                }
                let vias = |m: &Message<'_>| m.headers(Header::Via).count();
                assert_eq!(vias(&answer), vias(&message), "{name}");
            }
        }
    }
    assert_eq!(requests, 38, "and three responses");
}

#[test]
fn three_colons_before_an_ipv4_address_are_two() {
    let hosts = ["ipv6-bug-abnf-3-colons", "ipv6-correct-abnf-2-colons"].map(|name| {
        Uri::parse(read(file(name)).request_uri().unwrap()).unwrap().host_ip().unwrap()
    });
    assert_eq!(hosts, ["2001:db8::192.0.2.1".parse::<std::net::IpAddr>().unwrap(); 2]);
    let host = |text: &str| Uri::parse(text.as_bytes()).ok().and_then(|uri| uri.host_ip());
    assert_eq!(host("sip:[:::192.0.2.1]"), host("sip:[::192.0.2.1]"));
    assert_eq!(host("sip:[1:2:3:4:5:::192.0.2.1]"), host("sip:[1:2:3:4:5::192.0.2.1]"));
    for wrong in ["2001:db8:::1", "1::2:::192.0.2.1", "1:2:3:4:5:6:::192.0.2.1", ":::", "a:::1.2.3"]
    {
        assert_eq!(host(&format!("sip:[{wrong}]")), None, "{wrong}");
    }
}

/// The headers that most of the RFC's messages share.
const COMMON: &str = "Via: SIP/2.0/UDP host.example.com;branch=z9hG4bKkdjuw\r\n\
    From: <sip:caller@example.com>;tag=93942939o2\r\n\
    To: <sip:user@example.com>\r\n\
    Call-ID: xyz.hungup\r\n\
    Max-Forwards: 70\r\n";

fn message(start: &str, more: &str) -> Vec<u8> {
    format!("{start}\r\n{COMMON}{more}\r\n").into_bytes()
}

fn read(bytes: &[u8]) -> Message<'_> {
    let message = lex(bytes).unwrap_or_else(|e| panic!("{e}: {}", bytes.escape_ascii()));
    message.check().unwrap_or_else(|e| panic!("{e}: {}", bytes.escape_ascii()));
    message
}

/// The reason to refuse, from the framing or from the check.
fn refused(bytes: &[u8]) -> LexError {
    match lex(bytes) {
        Ok(message) => message.check().expect_err("accepted"),
        Err(error) => error,
    }
}

const WSINV: &str = "INVITE sip:vivekg@chair-dnrc.example.com;unknownparam SIP/2.0\r\n\
TO :\r\n sip:vivekg@chair-dnrc.example.com ;   tag    = 1918181833n\r\n\
from   : \"J Rosenberg \\\\\\\"\"       <sip:jdrosen@example.com>\r\n  ;\r\n  tag = 98asjd8\r\n\
MaX-fOrWaRdS: 0068\r\n\
Call-ID: wsinv.ndaksdj@192.0.2.1\r\n\
Content-Length   : 150\r\n\
cseq: 0009\r\n  INVITE\r\n\
Via  : SIP  /   2.0\r\n /UDP\r\n    192.0.2.2;branch=390skdjuw\r\n\
s :\r\n\
NewFangledHeader:   newfangled value\r\n continued newfangled value\r\n\
UnknownHeaderWithUnusualValue: ;;,,;;,;\r\n\
Content-Type: application/sdp\r\n\
Route:\r\n <sip:services.example.com;lr;unknownwith=value;unknown-no-value>\r\n\
v:  SIP  / 2.0  / TCP     spindle.example.com   ;\r\n  branch  =   z9hG4bK9ikj8  ,\r\n \
SIP  /    2.0   / UDP  192.168.255.111   ; branch=\r\n z9hG4bK30239\r\n\
m:\"Quoted string \\\"\\\"\" <sip:jdrosen@example.com> ; newparam =\r\n      newvalue ;\r\n  \
secondparam ; q = 0.33\r\n\
\r\n";

#[test]
fn wsinv_a_short_tortuous_invite() {
    let mut bytes = WSINV.as_bytes().to_vec();
    bytes.extend_from_slice(&[b'v'; 150]);
    let m = read(&bytes);
    assert_eq!(m.method(), Some(Method::Invite));
    assert_eq!(m.to().unwrap().uri, b"sip:vivekg@chair-dnrc.example.com");
    assert_eq!(m.to().unwrap().tag(), Some(&b"1918181833n"[..]));
    let from = m.from().unwrap();
    assert_eq!(unquote(from.display).as_ref(), b"J Rosenberg \\\"");
    assert_eq!((from.uri, from.tag()), (&b"sip:jdrosen@example.com"[..], Some(&b"98asjd8"[..])));
    assert_eq!((m.max_forwards(), m.cseq().unwrap().number), (Ok(Some(68)), 9));
    let vias: Vec<_> = m.headers(Header::Via).map(|v| Via::parse(v).unwrap()).collect();
    let hosts: Vec<_> = vias.iter().map(|v| v.host).collect();
    assert_eq!(hosts, [&b"192.0.2.2"[..], b"spindle.example.com", b"192.168.255.111"]);
    assert_eq!(vias[2].branch, Some(&b"z9hG4bK30239"[..]));
    assert_eq!(m.header(Header::Subject), Some(&b""[..]));
    assert_eq!(m.header_named("unknownheaderwithunusualvalue"), Some(&b";;,,;;,;"[..]));
    let contact = m.contact().unwrap().unwrap();
    assert_eq!(
        (contact.param("q"), contact.param("secondparam")),
        (Some(&b"0.33"[..]), Some(&b""[..]))
    );
    let route = NameAddr::parse(m.header(Header::Route).unwrap()).unwrap();
    assert_eq!(route.parsed_uri().unwrap().param("unknownwith"), Some(&b"value"[..]));
    assert_eq!(m.body().len(), 150);
}

#[test]
fn intmeth_wide_range_of_valid_characters() {
    let method = "!interesting-Method0123456789_*+`.%indeed'~";
    let uri = "sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*:&it+has=1,weird!*pas$wo~d_too.\
               (doesn't-it)@example.com";
    let bytes = format!(
        "{method} {uri} SIP/2.0\r\n\
         Via: SIP/2.0/TCP host1.example.com;branch=z9hG4bK-.!%66*_+`'~\r\n\
         To: \"BEL:\\\x07 NUL:\\\0 DEL:\\\x7f\" \
         <sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*@example.com>\r\n\
         From: token1~` token2'+_ token3*%!.- <sip:mundane@example.com>;fromParam''~+*_!.-%=\
         \"\u{440}\u{430}\u{431}\u{43e}\u{442}\u{430}\u{44e}\u{449}\u{438}\u{439}\";\
         tag=_token~1'+`*%!-.\r\n\
         Call-ID: intmeth.word%ZK-!.*_+'@word`~)(><:\\/\"][?}}{{\r\nCSeq: 139122385 {method}\r\n\
         Max-Forwards: 255\r\n\
         extensionHeader-!.%*+_`'~:\u{fffd}\u{5927}\u{505c}\u{96fb}\r\nContent-Length: 0\r\n\r\n"
    );
    let m = read(bytes.as_bytes());
    assert_eq!(m.method(), Some(Method::Other(method.as_bytes())));
    let parsed = Uri::parse(m.request_uri().unwrap()).unwrap();
    assert_eq!(parsed.user, b"1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*");
    assert_eq!(parsed.host, b"example.com");
    assert_eq!(m.from().unwrap().tag(), Some(&b"_token~1'+`*%!-."[..]));
    assert_eq!(m.via().unwrap().branch, Some(&b"z9hG4bK-.!%66*_+`'~"[..]));
}

#[test]
fn esc01_esc02_escnull_escapes() {
    let start = "INVITE sip:sips%3Auser%40example.com@example.net SIP/2.0";
    let bytes = message(start, "CSeq: 1 INVITE\r\n");
    let uri = Uri::parse(read(&bytes).request_uri().unwrap()).unwrap();
    assert_eq!(unescape(uri.user).as_ref(), b"sips:user@example.com");
    assert_eq!(uri.host, b"example.net");
    // A percent sign in a method is a character like others.
    let bytes =
        message("RE%47IST%45R sip:registrar.example.com SIP/2.0", "CSeq: 29344 RE%47IST%45R\r\n");
    assert_eq!(read(&bytes).method(), Some(Method::Other(b"RE%47IST%45R")));
    let more = "CSeq: 1 REGISTER\r\nContact: <sip:%00@host5.example.com>\r\n\
        Contact: <sip:%00%00@host5.example.com>\r\n";
    let bytes = message("REGISTER sip:example.com SIP/2.0", more);
    let users: Vec<_> = read(&bytes)
        .headers(Header::Contact)
        .map(|c| NameAddr::parse(c).unwrap().parsed_uri().unwrap().user)
        .collect();
    assert_eq!(users, [&b"%00"[..], b"%00%00"]);
}

#[test]
fn lwsdisp_semiuri_transports() {
    let bytes = b"OPTIONS sip:user;par=u%40example.net@example.com SIP/2.0\r\n\
        To: sip:j_user@example.com\r\nFrom: caller<sip:caller@example.com>;tag=323\r\n\
        Max-Forwards: 70\r\nCall-ID: lwsdisp.1234abcd@funky.example.com\r\nCSeq: 60 OPTIONS\r\n\
        Via: SIP/2.0/UDP t1.example.com;branch=z9hG4bKkdjuw\r\n\
        Via: SIP/2.0/SCTP t2.example.com;branch=z9hG4bKklasjdhf\r\n\
        Via: SIP/2.0/TLS t3.example.com;branch=z9hG4bK2980unddj\r\n\
        Via: SIP/2.0/UNKNOWN t4.example.com;branch=z9hG4bKasd0f3en\r\n\
        Via: SIP/2.0/TCP t5.example.com;branch=z9hG4bK0a9idfnee\r\nl: 0\r\n\r\n";
    let m = read(bytes);
    assert_eq!(
        (m.from().unwrap().display, m.from().unwrap().tag()),
        (&b"caller"[..], Some(&b"323"[..]))
    );
    assert_eq!(Uri::parse(m.request_uri().unwrap()).unwrap().user, b"user;par=u%40example.net");
    let transports: Vec<_> =
        m.headers(Header::Via).map(|v| Via::parse(v).unwrap().transport).collect();
    assert_eq!(transports, [&b"UDP"[..], b"SCTP", b"TLS", b"UNKNOWN", b"TCP"]);
}

#[test]
fn longreq_long_values() {
    let long = |n: usize, s: &str| s.repeat(n);
    let bytes = format!(
        "INVITE sip:user@example.com SIP/2.0\r\n\
         To: \"I have a user name of {}\" <sip:user@example.com:6000;\
         unknownparam1={};longparam{}>;longtag{}\r\n\
         F: sip:{}@host.example.net;tag={};unknownheaderparam{}\r\n\
         Call-ID: longreq.one{}longcallid\r\nCSeq: 3882340 INVITE\r\n\
         Unknown-{}-Name: unknown-{}-value;unknown-param=x\r\n\
         Via: SIP/2.0/TCP sip33.example.com\r\n\
         v: SIP/2.0/TCP sip32.example.com, SIP/2.0/TCP sip31.example.com\r\n\r\n",
        long(40, "extreme"),
        long(20, "very"),
        long(30, "long"),
        long(50, "x"),
        long(60, "amazinglylong"),
        long(80, "1234"),
        long(30, "name"),
        long(40, "really"),
        long(30, "Long"),
        long(30, "long"),
    );
    let m = read(bytes.as_bytes());
    assert_eq!(m.from().unwrap().tag().unwrap().len(), 320);
    assert_eq!(m.headers(Header::Via).count(), 3);
}

#[test]
fn dblreq_octets_beyond_the_message_are_not_part_of_it() {
    let mut bytes =
        message("REGISTER sip:example.com SIP/2.0", "CSeq: 8 REGISTER\r\nContent-Length: 0\r\n");
    bytes.extend_from_slice(&message("INVITE sip:joe@example.com SIP/2.0", "CSeq: 8 INVITE\r\n"));
    let m = read(&bytes);
    assert_eq!((m.method(), m.body()), (Some(Method::Register), &b""[..]));
}

#[test]
fn mpart01_a_body_of_any_bytes() {
    let mut bytes =
        message("MESSAGE sip:kumiko@example.org SIP/2.0", "CSeq: 127 MESSAGE\r\nl: 256\r\n");
    let body: Vec<u8> = (0..=255).collect();
    bytes.extend_from_slice(&body);
    assert_eq!(read(&bytes).body(), body);
}

#[test]
fn unreason_noreason_responses() {
    let reason = "= 2**3 * 5**2 \u{43d}\u{43e}";
    let bytes = message(&format!("SIP/2.0 200 {reason}"), "CSeq: 35 INVITE\r\n");
    assert_eq!(read(&bytes).start(), Start::Response { status: 200, reason: reason.as_bytes() });
    let bytes = message("SIP/2.0 100 ", "CSeq: 35 INVITE\r\n");
    assert_eq!(read(&bytes).start(), Start::Response { status: 100, reason: b"" });
}

#[test]
fn badinv01_extraneous_separators() {
    // What can be read is, so that the refusal finds its way; what is left of ";,;,," is no Via, and is
    // not written into it.
    let m = lex(file("badinv01")).unwrap();
    assert_eq!(m.via().unwrap().host, b"192.0.2.15");
    assert!(Via::parse(m.headers(Header::Via).nth(1).unwrap()).is_none());
    let out = response(&m, 400, "Bad Request", None, "192.0.2.15:5060".parse().unwrap(), &[], None);
    assert_eq!(read(&out).headers(Header::Via).count(), 1);
    // A comma too many in a list is none of ours to mind.
    let start = "INVITE sip:user@example.com SIP/2.0";
    read(&message(start, "CSeq: 8 INVITE\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK1,\r\n"));
}

#[test]
fn clerr_and_ncl_lengths() {
    let start = "INVITE sip:user@example.com SIP/2.0";
    let bytes = message(start, "CSeq: 8 INVITE\r\nContent-Length: 9999\r\n");
    assert_eq!(refused(&bytes), LexError::Truncated);
    let bytes = message(start, "CSeq: 8 INVITE\r\nContent-Length: -999\r\n");
    assert_eq!(refused(&bytes), LexError::ContentLength);
    // mcl01: two values.
    let bytes = message(start, "CSeq: 8 INVITE\r\nContent-Length: 0\r\nContent-Length: 2\r\n");
    assert_eq!(refused(&bytes), LexError::ContentLength);
}

#[test]
fn scalar02_and_scalarlg_overlarge_values() {
    let start = "REGISTER sip:example.com SIP/2.0";
    let bytes = message(start, "CSeq: 36893488147419103232 REGISTER\r\n");
    assert_eq!(refused(&bytes), LexError::Bad(Header::CSeq));
    let bytes = message(start, "CSeq: 1 REGISTER\r\nExpires: 10000000000000000000000\r\n");
    assert_eq!(read(&bytes).expires(), Some(u32::MAX));
    let bytes = String::from_utf8(bytes).unwrap().replace("Forwards: 70", "Forwards: 300");
    assert_eq!(refused(bytes.as_bytes()), LexError::Bad(Header::MaxForwards));
    let bytes =
        message("SIP/2.0 503 Service Unavailable", "CSeq: 9292394834772304023312 OPTIONS\r\n");
    assert_eq!(refused(&bytes), LexError::Bad(Header::CSeq));
}

#[test]
fn quotbal_an_unterminated_quoted_string() {
    let bytes =
        String::from_utf8(message("INVITE sip:user@example.com SIP/2.0", "CSeq: 8 INVITE\r\n"));
    let bytes = bytes.unwrap().replace("To: <", "To: \"Mr. J. User <");
    assert_eq!(refused(bytes.as_bytes()), LexError::Bad(Header::To));
}

#[test]
fn request_lines_with_brackets_and_blanks() {
    for start in [
        // ltgtruri
        "INVITE <sip:user@example.com> SIP/2.0",
        // lwsruri
        "INVITE sip:user@example.com; lr SIP/2.0",
        // lwsstart
        "INVITE  sip:user@example.com  SIP/2.0",
        // trws
        "OPTIONS sip:remote-target@example.com SIP/2.0  ",
        // bigcode
        "SIP/2.0 4294967301 better not break the receiver",
    ] {
        assert_eq!(refused(&message(start, "CSeq: 8 INVITE\r\n")), LexError::StartLine, "{start}");
    }
    // Of a request there is enough to answer it; a response is nobody's.
    let m = lex(file("lwsstart")).unwrap();
    assert_eq!(
        (m.method(), m.request_uri()),
        (Some(Method::Invite), Some(&b"sip:user@example.com"[..]))
    );
    assert_eq!(lex(file("bigcode")).unwrap_err(), LexError::StartLine);
}

#[test]
fn regbadct_and_badaspec_urls_without_brackets() {
    let more =
        "CSeq: 8 REGISTER\r\nContact: sip:user@example.com?Route=%3Csip:sip.example.com%3E\r\n";
    let bytes = message("REGISTER sip:example.com SIP/2.0", more);
    assert_eq!(refused(&bytes), LexError::Bad(Header::Contact));
    let bytes =
        String::from_utf8(message("OPTIONS sip:user@example.org SIP/2.0", "CSeq: 8 OPTIONS\r\n"));
    let bytes = bytes
        .unwrap()
        .replace("<sip:user@example.com>", "\"Bell, Alexander\" sip:a.g.bell@bell-tel.com");
    assert_eq!(refused(bytes.as_bytes()), LexError::Bad(Header::To));
    // baddn: non-token characters in a display name are borne.
    let bytes =
        bytes.replace("\"Bell, Alexander\" sip:a.g.bell@bell-tel.com", "Bell, Alexander <sip:a@b>");
    assert_eq!(read(bytes.as_bytes()).to().unwrap().display, b"Bell, Alexander");
}

#[test]
fn badvers_mismatch_and_branch() {
    let bytes = message("OPTIONS sip:t.watson@example.org SIP/7.0", "CSeq: 8 OPTIONS\r\n");
    assert_eq!((refused(&bytes), refused(&bytes).status()), (LexError::Version, 505));
    let bytes = message("OPTIONS sip:user@example.com SIP/2.0", "CSeq: 8 INVITE\r\n");
    assert_eq!(refused(&bytes), LexError::CSeqMethod);
    let bytes = message("NEWMETHOD sip:user@example.com SIP/2.0", "CSeq: 8 INVITE\r\n");
    assert_eq!(refused(&bytes), LexError::CSeqMethod);
    // badbranch: "z9hG4bK" with nothing after it; the transaction layer treats it as RFC 2543.
    let bytes =
        String::from_utf8(message("OPTIONS sip:u@h SIP/2.0", "CSeq: 8 OPTIONS\r\n")).unwrap();
    let bytes = bytes.replace("z9hG4bKkdjuw", "z9hG4bK");
    assert_eq!(read(bytes.as_bytes()).via().unwrap().branch, Some(&b"z9hG4bK"[..]));
}

#[test]
fn insuf_and_multi01_missing_and_repeated_headers() {
    let bytes = b"INVITE sip:user@example.com SIP/2.0\r\nCSeq: 193942 INVITE\r\n\
        Via: SIP/2.0/UDP 192.0.2.95;branch=z9hG4bKkdj.insuf\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(refused(bytes), LexError::Missing(Header::From));
    let bytes =
        message("INVITE sip:user@example.com SIP/2.0", "CSeq: 8 INVITE\r\nf: <sip:b@c>;tag=2\r\n");
    assert_eq!(refused(&bytes), LexError::Repeated(Header::From));
}

#[test]
fn unkscm_novelsc_unksm2_unknown_schemes() {
    for uri in [
        "nobodyKnowsThisScheme:totallyopaquecontent",
        "soap.beep://192.0.2.103:3002",
        "name:John_Smith",
        "urn:service:sos",
    ] {
        let bytes = message(&format!("OPTIONS {uri} SIP/2.0"), "CSeq: 8 OPTIONS\r\n");
        let uri = Uri::parse(read(&bytes).request_uri().unwrap()).unwrap();
        assert!(uri.host.is_empty() && !uri.rest.is_empty());
    }
}

#[test]
fn cparam_regescrt_bext01_zeromf_inv2543() {
    let contact = "Contact: sip:+19725552222@gw1.example.net;unknownparam\r\n";
    let bytes =
        message("REGISTER sip:example.com SIP/2.0", &format!("CSeq: 8 REGISTER\r\n{contact}"));
    let found = read(&bytes).contact().unwrap().unwrap();
    assert_eq!(
        (found.uri, found.param("unknownparam")),
        (&b"sip:+19725552222@gw1.example.net"[..], Some(&b""[..]))
    );
    let contact = "Contact: <sip:user@example.com?Route=%3Csip:sip.example.com%3E>\r\n";
    let bytes =
        message("REGISTER sip:example.com SIP/2.0", &format!("CSeq: 8 REGISTER\r\n{contact}"));
    let found = read(&bytes).contact().unwrap().unwrap().parsed_uri().unwrap();
    assert_eq!(found.headers, b"Route=%3Csip:sip.example.com%3E");
    let more = "CSeq: 8 OPTIONS\r\nRequire: nothingSupportsThis, nothingSupportsThisEither\r\n";
    let bytes = message("OPTIONS sip:user@example.com SIP/2.0", more);
    assert_eq!(read(&bytes).headers(Header::Require).count(), 2);
    let zero = String::from_utf8(bytes).unwrap().replace("Forwards: 70", "Forwards: 0");
    assert_eq!(read(zero.as_bytes()).max_forwards(), Ok(Some(0)));
    // inv2543: no branch, no tags, no Max-Forwards.
    let bytes = b"INVITE sip:UserB@example.com SIP/2.0\r\nVia: SIP/2.0/UDP iftgw.example.com\r\n\
        From: <sip:+13035551111@ift.client.example.net;user=phone>\r\n\
        Record-Route: <sip:UserB@example.com;maddr=ss1.example.com>\r\n\
        To: sip:+16505552222@ss1.example.net;user=phone\r\n\
        Call-ID: inv2543.1717@ift.client.example.com\r\nCSeq: 56 INVITE\r\n\r\n";
    let m = read(bytes);
    assert_eq!((m.via().unwrap().branch, m.from().unwrap().tag()), (None, None));
    assert_eq!(m.max_forwards(), Ok(None));
}
