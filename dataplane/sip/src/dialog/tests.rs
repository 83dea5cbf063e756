use proptest::prelude::*;

use super::*;
use crate::wire::{self, NameAddr};

const WHAT: Outgoing<'_> = Outgoing {
    branch: b"z9hG4bKnew",
    transport: base::Transport::Udp,
    sent_by: b"192.0.2.1:5060",
    contact: None,
    extra: &[],
    body: None,
};

fn lex(bytes: &[u8]) -> Message<'_> {
    let message = wire::lex(bytes).expect("a message");
    message.check().expect("a sane message");
    message
}

/// A message of the peer's `them` to us `us`, or a response of theirs to a request of ours.
fn message(first_line: &str, from_tag: &str, to_tag: &str, cseq: &str, more: &[&str]) -> Vec<u8> {
    let tag = |tag: &str| {
        if tag.is_empty() { String::new() } else { format!(";tag={tag}") }
    };
    let more: String = more.iter().map(|line| format!("{line}\r\n")).collect();
    format!(
        "{first_line}\r\nVia: SIP/2.0/UDP 192.0.2.7;branch=z9hG4bK1\r\n\
         From: \"Them, or us\" <sip:from@example.org;x=1>{}\r\nTo: <sip:to@example.com>{}\r\n\
         Call-ID: call\r\nCSeq: {cseq}\r\n{more}Content-Length: 0\r\n\r\n",
        tag(from_tag),
        tag(to_tag),
    )
    .into_bytes()
}

fn invite(more: &[&str]) -> Vec<u8> {
    message("INVITE sip:to@192.0.2.1 SIP/2.0", "theirs", "", "41 INVITE", more)
}

fn answer(status: &str, to_tag: &str, more: &[&str]) -> Vec<u8> {
    message(&format!("SIP/2.0 {status}"), "ours", to_tag, "9 INVITE", more)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn value(built: &Built, header: Header) -> String {
    text(lex(&built.bytes).header(header).unwrap_or_default())
}

fn routes_of(built: &Built) -> Vec<String> {
    lex(&built.bytes).headers(Header::Route).map(text).collect()
}

fn request_uri_of(built: &Built) -> String {
    text(lex(&built.bytes).request_uri().expect("a request"))
}

const CONTACT: &str = "Contact: <sip:phone@192.0.2.7:5070;transport=udp>;expires=5";

#[test]
fn a_uas_takes_its_state_from_the_request() {
    // 12.1.1.
    let bytes = invite(&[
        "Record-Route: <sip:p2.example.org;lr;k=1>, <sip:p1.example.org;lr>",
        "Record-Route: <sip:p0.example.org;lr>",
        CONTACT,
    ]);
    let mut dialog = Dialog::uas(&lex(&bytes), b"ours").expect("a dialog");
    assert_eq!(dialog.state(), State::Early);
    assert_eq!(
        (dialog.call_id(), dialog.local_tag(), dialog.remote_tag()),
        (&b"call"[..], &b"ours"[..], &b"theirs"[..])
    );
    assert_eq!(dialog.remote_uri(), b"sip:from@example.org;x=1");
    assert_eq!(dialog.local_uri(), b"sip:to@example.com");
    assert_eq!(dialog.remote_target(), b"sip:phone@192.0.2.7:5070;transport=udp");
    assert_eq!(dialog.local_cseq(), None);
    dialog.confirm();
    assert_eq!(dialog.state(), State::Confirmed);
    let bye = dialog.request(Method::Bye, &WHAT);
    assert_eq!(request_uri_of(&bye), "sip:phone@192.0.2.7:5070;transport=udp");
    assert_eq!(value(&bye, Header::From), "<sip:to@example.com>;tag=ours");
    assert_eq!(value(&bye, Header::To), "<sip:from@example.org;x=1>;tag=theirs");
    assert_eq!(value(&bye, Header::Via), "SIP/2.0/UDP 192.0.2.1:5060;rport;branch=z9hG4bKnew");
    assert_eq!(value(&bye, Header::MaxForwards), "70");
    assert_eq!((value(&bye, Header::CSeq), bye.cseq), ("1 BYE".into(), 1));
    // The route set is in the order of Record-Route.
    assert_eq!(
        routes_of(&bye),
        ["<sip:p2.example.org;lr;k=1>", "<sip:p1.example.org;lr>", "<sip:p0.example.org;lr>"]
    );
    assert_eq!(text(&bye.next_hop), "sip:p2.example.org;lr;k=1");
}

#[test]
fn a_uac_takes_its_state_from_the_response() {
    // 12.1.2: the route set is reversed.
    let bytes = answer(
        "200 OK",
        "theirs",
        &["Record-Route: <sip:p2.example.org;lr>, <sip:p1.example.org;lr>", CONTACT],
    );
    let mut dialog = Dialog::uac(&lex(&bytes)).expect("a dialog");
    assert_eq!(dialog.state(), State::Confirmed);
    assert_eq!((dialog.local_tag(), dialog.remote_tag()), (&b"ours"[..], &b"theirs"[..]));
    assert_eq!(dialog.local_cseq(), Some(9));
    let ack = dialog.ack(9, &WHAT);
    assert_eq!((value(&ack, Header::CSeq), ack.cseq), ("9 ACK".into(), 9));
    assert_eq!(routes_of(&ack), ["<sip:p1.example.org;lr>", "<sip:p2.example.org;lr>"]);
    assert_eq!(text(&ack.next_hop), "sip:p1.example.org;lr");
    // 12.2.1.1: each new request counts one up; an ACK does not.
    assert_eq!(value(&dialog.request(Method::Info, &WHAT), Header::CSeq), "10 INFO");
    assert_eq!(value(&dialog.request(Method::Bye, &WHAT), Header::CSeq), "11 BYE");
    assert_eq!(dialog.local_cseq(), Some(11));
}

#[test]
fn a_request_carries_what_its_user_gives() {
    let bytes = answer("200 OK", "theirs", &[CONTACT]);
    let mut dialog = Dialog::uac(&lex(&bytes)).expect("a dialog");
    let built = dialog.request(
        Method::Invite,
        &Outgoing {
            contact: Some(b"<sip:us@192.0.2.1>"),
            extra: &[("User-Agent", b"Jackfield")],
            body: Some(("application/sdp", b"v=0\r\n")),
            ..WHAT
        },
    );
    let message = lex(&built.bytes);
    assert_eq!(message.header(Header::Contact), Some(&b"<sip:us@192.0.2.1>"[..]));
    assert_eq!(message.header(Header::UserAgent), Some(&b"Jackfield"[..]));
    assert_eq!(message.content_type(), Some(&b"application/sdp"[..]));
    assert_eq!(message.body(), b"v=0\r\n");
    assert!(!message.has(Header::Route));
    assert_eq!(text(&built.next_hop), "sip:phone@192.0.2.7:5070;transport=udp");
}

#[test]
fn a_strict_router_takes_the_place_of_the_target() {
    // 12.2.1.1, the second case, with its example.
    let bytes = answer(
        "200 OK",
        "theirs",
        &[
            "Record-Route: <sip:proxy4>, <sip:proxy3>, <sip:proxy2;lr>",
            "Record-Route: <sip:proxy1;method=INVITE;x=y?a=b>",
            "Contact: <sip:user@remoteua?Subject=no>",
        ],
    );
    let mut dialog = Dialog::uac(&lex(&bytes)).expect("a dialog");
    let built = dialog.request(Method::Bye, &WHAT);
    // "stripping any parameters that are not allowed in a Request-URI".
    assert_eq!(request_uri_of(&built), "sip:proxy1;x=y");
    assert_eq!(text(&built.next_hop), "sip:proxy1;x=y");
    assert_eq!(
        routes_of(&built),
        ["<sip:proxy2;lr>", "<sip:proxy3>", "<sip:proxy4>", "<sip:user@remoteua?Subject=no>"]
    );
}

#[test]
fn early_dialogs_differ_by_their_tags() {
    let ringing = |tag: &str| answer("180 Ringing", tag, &[CONTACT]);
    let (one, two) = (ringing("one"), ringing("two"));
    let mut first = Dialog::uac(&lex(&one)).expect("a dialog");
    let second = Dialog::uac(&lex(&two)).expect("a dialog");
    assert_eq!((first.state(), second.state()), (State::Early, State::Early));
    assert!(first.matches(&lex(&one)) && !first.matches(&lex(&two)));
    // 13.2.2.4: the 2xx confirms one of them, with the route set and the target of the 2xx.
    let ok = answer(
        "200 OK",
        "one",
        &["Record-Route: <sip:late.example.org;lr>", "Contact: <sip:desk@192.0.2.8>"],
    );
    assert!(first.matches(&lex(&ok)) && !second.matches(&lex(&ok)));
    first.refresh(&lex(&ok));
    assert_eq!((first.state(), second.state()), (State::Confirmed, State::Early));
    assert_eq!(first.remote_target(), b"sip:desk@192.0.2.8");
    assert_eq!(text(&first.ack(9, &WHAT).next_hop), "sip:late.example.org;lr");
    // 12.2: "these requests do not cause the dialog's route set to be modified, although they may
    // modify the remote target URI."
    let again = answer(
        "200 OK",
        "one",
        &["Record-Route: <sip:evil.example.org;lr>", "Contact: <sip:desk@192.0.2.9>"],
    );
    first.refresh(&lex(&again));
    assert_eq!(first.remote_target(), b"sip:desk@192.0.2.9");
    assert_eq!(text(&first.ack(9, &WHAT).next_hop), "sip:late.example.org;lr");
    // A 2xx to UPDATE renews the target too, that to INFO does not.
    let of = |method: &str, contact: &str| {
        let (cseq, line) = (format!("10 {method}"), format!("Contact: <{contact}>"));
        message("SIP/2.0 200 OK", "ours", "two", &cseq, &[&line])
    };
    let mut second = second;
    second.refresh(&lex(&of("UPDATE", "sip:updated@192.0.2.8")));
    second.refresh(&lex(&of("INFO", "sip:informed@192.0.2.8")));
    assert_eq!(second.remote_target(), b"sip:updated@192.0.2.8");
    assert_eq!(second.state(), State::Early);
    let refused = answer("488 No", "one", &["Contact: <sip:desk@192.0.2.10>"]);
    first.refresh(&lex(&refused));
    assert_eq!(first.remote_target(), b"sip:desk@192.0.2.9");
}

#[test]
fn what_makes_no_dialog() {
    let cases: [(Vec<u8>, DialogError); 7] = [
        (answer("100 Trying", "theirs", &[CONTACT]), DialogError::Kind),
        (answer("486 Busy", "theirs", &[CONTACT]), DialogError::Kind),
        (answer("180 Ringing", "", &[CONTACT]), DialogError::NoTag),
        (answer("200 OK", "theirs", &[]), DialogError::Contact),
        (answer("200 OK", "theirs", &["Contact: <tel:+1>"]), DialogError::Contact),
        (answer("200 OK", "theirs", &["Contact: \"broken"]), DialogError::Contact),
        (invite(&[CONTACT]), DialogError::Kind),
    ];
    for (bytes, want) in cases {
        assert_eq!(Dialog::uac(&lex(&bytes)), Err(want), "{}", text(&bytes));
    }
    let bytes = answer("200 OK", "theirs", &[CONTACT]);
    assert_eq!(Dialog::uas(&lex(&bytes), b"ours"), Err(DialogError::Kind));
    let bytes = invite(&[]);
    assert_eq!(Dialog::uas(&lex(&bytes), b"ours"), Err(DialogError::Contact));
}

#[test]
fn a_peer_after_rfc_2543_has_no_tag() {
    let bytes = message("INVITE sip:to@192.0.2.1 SIP/2.0", "", "", "41 INVITE", &[CONTACT]);
    let mut dialog = Dialog::uas(&lex(&bytes), b"ours").expect("a dialog");
    assert_eq!(dialog.remote_tag(), b"");
    // 12.2.1.1: "If the value of the remote or local tags is null, the tag parameter MUST be
    // omitted".
    let bye = dialog.request(Method::Bye, &WHAT);
    assert_eq!(value(&bye, Header::To), "<sip:from@example.org;x=1>");
    let theirs = message("BYE sip:us SIP/2.0", "", "ours", "42 BYE", &[]);
    assert!(dialog.matches(&lex(&theirs)));
    let tagged = message("BYE sip:us SIP/2.0", "some", "ours", "42 BYE", &[]);
    assert!(!dialog.matches(&lex(&tagged)));
    let ok = answer("200 OK", "", &[CONTACT]);
    assert!(Dialog::uac(&lex(&ok)).is_ok());
}

#[test]
fn requests_are_taken_in_the_order_of_their_numbers() {
    // 12.2.2; the INVITE had 41.
    let table = [
        ("40 INFO", Err(OldCSeq)),
        ("41 ACK", Ok(())),
        ("42 INFO", Ok(())),
        ("41 INFO", Err(OldCSeq)),
        ("41 ACK", Ok(())),
        ("41 CANCEL", Ok(())),
        // "It is possible for the CSeq sequence number to be higher than the remote sequence number
        // by more than one. This is not an error condition".
        ("1000 BYE", Ok(())),
        ("999 BYE", Err(OldCSeq)),
        ("1000 BYE", Ok(())),
    ];
    let bytes = invite(&[CONTACT]);
    let mut dialog = Dialog::uas(&lex(&bytes), b"ours").expect("a dialog");
    for (cseq, want) in table {
        let method = cseq.split(' ').nth(1).expect("a method");
        let bytes = message(&format!("{method} sip:us SIP/2.0"), "theirs", "ours", cseq, &[]);
        let request = lex(&bytes);
        assert!(dialog.matches(&request));
        assert_eq!(dialog.accept(&request), want, "{cseq}");
    }
    // A UAC knows no number of its peer until the first request comes.
    let ok = answer("200 OK", "theirs", &[CONTACT]);
    let mut dialog = Dialog::uac(&lex(&ok)).expect("a dialog");
    let bytes = message("BYE sip:us SIP/2.0", "theirs", "ours", "0 BYE", &[]);
    assert!(dialog.matches(&lex(&bytes)));
    assert_eq!(dialog.accept(&lex(&bytes)), Ok(()));
}

#[test]
fn invite_and_update_renew_the_target_when_they_are_in_order() {
    let bytes = invite(&[CONTACT]);
    let mut dialog = Dialog::uas(&lex(&bytes), b"ours").expect("a dialog");
    let mut accept = |cseq: &str, contact: &str| {
        let method = cseq.split(' ').nth(1).expect("a method");
        let line = format!("Contact: <{contact}>");
        let more: &[&str] = if contact.is_empty() { &[] } else { &[&line] };
        let bytes = message(&format!("{method} sip:us SIP/2.0"), "theirs", "ours", cseq, more);
        let _ = dialog.accept(&lex(&bytes));
        text(dialog.remote_target())
    };
    assert_eq!(accept("42 INVITE", "sip:new@192.0.2.8"), "sip:new@192.0.2.8");
    assert_eq!(accept("43 INFO", "sip:info@192.0.2.8"), "sip:new@192.0.2.8");
    assert_eq!(accept("44 UPDATE", "sip:newer@192.0.2.8"), "sip:newer@192.0.2.8");
    assert_eq!(accept("41 INVITE", "sip:old@192.0.2.8"), "sip:newer@192.0.2.8");
    assert_eq!(accept("45 INVITE", ""), "sip:newer@192.0.2.8");
    assert_eq!(accept("46 INVITE", "tel:+1"), "sip:newer@192.0.2.8");
}

#[test]
fn tags_and_call_ids_decide_on_both_directions() {
    let ok = answer("200 OK", "theirs", &[CONTACT]);
    let dialog = Dialog::uac(&lex(&ok)).expect("a dialog");
    let request = |from: &str, to: &str| message("BYE sip:us SIP/2.0", from, to, "1 BYE", &[]);
    assert!(dialog.matches(&lex(&request("theirs", "ours"))));
    assert!(!dialog.matches(&lex(&request("ours", "theirs"))), "our own request");
    assert!(!dialog.matches(&lex(&request("theirs", "other"))));
    let other_call = text(&request("theirs", "ours")).replace("Call-ID: call", "Call-ID: Call");
    assert!(!dialog.matches(&lex(other_call.as_bytes())), "Call-IDs are compared exactly (20.8)");
}

#[test]
fn a_folded_or_broken_record_route_breaks_no_request() {
    let bytes = answer(
        "200 OK",
        "theirs",
        &["Record-Route: \"a\r\n b\" <sip:p1;lr>,\r\n  <broken>, <sip:p2;lr>", CONTACT],
    );
    let mut dialog = Dialog::uac(&lex(&bytes)).expect("a dialog");
    let built = dialog.request(Method::Bye, &WHAT);
    let message = lex(&built.bytes);
    let uris: Vec<_> = message
        .headers(Header::Route)
        .map(|route| text(NameAddr::parse(route).expect("a route").uri))
        .collect();
    assert_eq!(uris, ["sip:p2;lr", "sip:p1;lr"]);
}

#[test]
fn a_dialog_comes_back_from_its_parts() {
    let routes =
        ["Record-Route: <sip:a.example.net;lr>", "Record-Route: \"B\" <sip:b.example.net;lr>;x=y"];
    let lines = [CONTACT, routes[0], routes[1]];
    let mut uas = Dialog::uas(&lex(&invite(&lines)), b"ours").expect("a dialog");
    let mut uac = Dialog::uac(&lex(&answer("200 OK", "theirs", &lines))).expect("a dialog");
    let old_peer = Dialog::uac(&lex(&answer("200 OK", "", &lines[..1]))).expect("a dialog");
    for dialog in [&mut uas, &mut uac] {
        for _ in 0..2 {
            let mut again = Dialog::restore(&dialog.parts()).expect("it was one");
            assert_eq!(again, *dialog);
            let (one, other) =
                (again.request(Method::Bye, &WHAT), dialog.request(Method::Bye, &WHAT));
            assert_eq!(one, other, "it goes on with the next number");
        }
    }
    assert_eq!(Dialog::restore(&old_peer.parts()).as_ref(), Ok(&old_peer));
}

#[test]
fn parts_of_no_dialog_make_none() {
    let dialog = Dialog::uas(&lex(&invite(&[CONTACT])), b"ours").expect("a dialog");
    let parts = dialog.parts();
    let cases = [
        (Parts { call_id: b"", ..parts.clone() }, DialogError::Header),
        (Parts { call_id: b"a\r\nb", ..parts.clone() }, DialogError::Header),
        (Parts { remote_uri: b"sip:x\0", ..parts.clone() }, DialogError::Header),
        (Parts { local_cseq: Some(1 << 31), ..parts.clone() }, DialogError::Header),
        (Parts { routes: vec![b"<<"], ..parts.clone() }, DialogError::Header),
        (Parts { local_tag: b"", ..parts.clone() }, DialogError::NoTag),
        (Parts { remote_target: b"tel:1", ..parts.clone() }, DialogError::Contact),
        (Parts { remote_target: b"", ..parts.clone() }, DialogError::Contact),
    ];
    for (parts, error) in cases {
        assert_eq!(Dialog::restore(&parts), Err(error), "{parts:?}");
    }
}

#[test]
fn a_request_uri_has_no_method_and_no_headers() {
    // 19.1.1, table 1.
    let table = [
        ("sip:a@b", "sip:a@b"),
        ("sip:a@b:5061;transport=udp;lr", "sip:a@b:5061;transport=udp;lr"),
        ("sip:a@b?x=y&z=1", "sip:a@b"),
        ("sip:a@b?", "sip:a@b"),
        ("sip:a@b;method=BYE", "sip:a@b"),
        ("sip:a@b;k=v;Method=BYE;lr?x=y", "sip:a@b;k=v;lr"),
        ("sip:a?b@c", "sip:a?b@c"),
        ("tel:+1;phone-context=x", "tel:+1;phone-context=x"),
        ("tel:+1;method=x?", "tel:+1;method=x?"),
        ("nonsense", "nonsense"),
    ];
    for (whole, want) in table {
        assert_eq!(text(&request_uri(whole.as_bytes())), want);
    }
}

/// Pieces of which broken and unbroken header values are made.
fn value_strategy() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "<",
        ">",
        ";",
        ",",
        "=",
        "\"",
        "\\",
        " ",
        "\r\n ",
        ":",
        "@",
        "?",
        "*",
        "%41",
        "[::1]",
        "sip:",
        "tel:",
        "lr",
        "tag",
        "method",
        "expires",
        "q",
        "h",
        "192.0.2.1",
        "5060",
        "0",
        "\u{e9}",
        "<sip:a@h;lr>",
        "sip:a@h",
        "<sip:a@h?x=y>",
        ";tag=x",
    ]);
    prop::collection::vec(piece, 0..10).prop_map(|pieces| pieces.concat())
}

#[test]
fn a_tag_or_a_uri_of_two_words_names_no_dialog() {
    for (from, to) in
        [("<sip:a@h>;tag=x ,", "<sip:b@h>;tag=y"), ("<sip:a@h>;tag=x", "sip:b@h;tag=y z")]
    {
        let bytes = format!(
            "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: {from}\r\nTo: {to}\r\n\
             Contact: <sip:b@h>\r\nCall-ID: call\r\nCSeq: 1 INVITE\r\n\r\n"
        );
        let message = wire::lex(bytes.as_bytes()).expect("a message");
        assert_eq!(Dialog::uac(&message).err(), Some(DialogError::Header), "{from} {to}");
    }
}

proptest! {
    /// Whatever a peer writes, what makes a dialog makes requests that can be read.
    #[test]
    fn what_a_dialog_builds_can_be_read(
        from in value_strategy(),
        to in value_strategy(),
        contact in value_strategy(),
        routes in prop::collection::vec(value_strategy(), 0..3),
        is_request in any::<bool>(),
    ) {
        let first = if is_request { "INVITE sip:us SIP/2.0" } else { "SIP/2.0 200 OK" };
        let routes: String = routes.iter().map(|r| format!("Record-Route: {r}\r\n")).collect();
        let bytes = format!(
            "{first}\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: {from}\r\nTo: {to}\r\n\
             Contact: {contact}\r\n{routes}Call-ID: call\r\nCSeq: 1 INVITE\r\n\r\n"
        );
        let Ok(message) = wire::lex(bytes.as_bytes()) else { return Ok(()) };
        let dialog = match is_request {
            true => Dialog::uas(&message, b"ours"),
            false => Dialog::uac(&message),
        };
        let Ok(mut dialog) = dialog else { return Ok(()) };
        dialog.refresh(&message);
        let _ = dialog.accept(&message);
        for built in [dialog.request(Method::Bye, &WHAT), dialog.ack(1, &WHAT)] {
            let request = wire::lex(&built.bytes).expect("a message");
            prop_assert_eq!(request.check(), Ok(()), "{}", text(&built.bytes));
            prop_assert_eq!(request.from().expect("From").uri, dialog.local_uri());
            prop_assert_eq!(request.to().expect("To").uri, dialog.remote_uri());
        }
    }
}
