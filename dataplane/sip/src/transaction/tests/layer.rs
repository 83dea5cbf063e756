//! One layer, with the peer written out.

use std::rc::Rc;

use super::*;
use crate::transaction::{Cancelling, ClientKey, Full, ServerKey};
use crate::wire::Header;

/// A flow of a stream.
const STREAM: Port = 60_000;

fn layer() -> Transactions<Port> {
    Transactions::new(100, 1)
}

/// Sends the request of that name, as a user with word 77 does.
fn send(layer: &mut Transactions<Port>, method: &str, out: &mut Out) -> (ClientKey, Vec<u8>) {
    let bytes = request(method, "z9hG4bKabc");
    let key = layer
        .request(at_ms(0), method_of(&bytes), bytes.clone(), b"z9hG4bKabc", PEER, 77, out)
        .expect("there is room");
    (key, bytes)
}

fn receive(layer: &mut Transactions<Port>, ms: u64, bytes: &[u8], out: &mut Out) -> Received {
    layer.receive(at_ms(ms), &lex(bytes), PEER, out)
}

fn new_request(received: Received) -> ServerKey {
    match received {
        Received::Request(key) => key,
        other => panic!("{other:?} is no new request"),
    }
}

#[test]
fn an_invite_without_response_doubles_and_ends() {
    let (mut layer, mut out) = (layer(), Out::new());
    let (key, _) = send(&mut layer, "INVITE", &mut out);
    assert_eq!(words(&out), ["INVITE"]);
    let (sent, fired) = run(&mut layer, at_ms(100_000));
    let times: Vec<u64> = sent.iter().map(|(ms, _)| *ms).collect();
    // 17.1.1.2: seven requests in all, at 0, T1, 3*T1, 7*T1, 15*T1, 31*T1, 63*T1.
    assert_eq!(times, [500, 1500, 3500, 7500, 15500, 31500]);
    assert_eq!(fired, [Fired::ClientTimeout { key, user: 77 }]);
    assert!(layer.is_empty());
    assert_eq!(layer.retransmissions(), 6);
}

#[test]
fn another_request_without_response_doubles_up_to_t2() {
    let (mut layer, mut out) = (layer(), Out::new());
    let (key, _) = send(&mut layer, "OPTIONS", &mut out);
    let (sent, fired) = run(&mut layer, at_ms(100_000));
    let times: Vec<u64> = sent.iter().map(|(ms, _)| *ms).collect();
    // 17.1.2.2: "500 ms, 1 s, 2 s, 4 s, 4 s, 4 s, etc."
    assert_eq!(times, [500, 1500, 3500, 7500, 11500, 15500, 19500, 23500, 27500, 31500]);
    assert_eq!(fired, [Fired::ClientTimeout { key, user: 77 }]);
    assert!(layer.is_empty());
}

#[test]
fn a_stream_sends_nothing_again_and_waits_for_nothing_that_comes_late() {
    const STREAM: Port = 60_000;
    for method in ["INVITE", "OPTIONS"] {
        let (mut layer, mut out) = (layer(), Out::new());
        let bytes = request(method, "z9hG4bKabc");
        let ask = |layer: &mut Transactions<Port>, out: &mut Out| {
            let method = method_of(&bytes);
            layer.request(at_ms(0), method, bytes.clone(), b"z9hG4bKabc", STREAM, 77, out)
        };
        let key = ask(&mut layer, &mut out).expect("there is room");
        // 17.1.1.2 and 17.1.2.2: no timer A or E; B and F run all the same.
        let (sent, fired) = run(&mut layer, at_ms(100_000));
        assert_eq!((sent, fired), (vec![], vec![Fired::ClientTimeout { key, user: 77 }]));
        // A refusal ends it at once: D and K are zero.
        ask(&mut layer, &mut out).expect("there is room");
        layer.receive(at_ms(100), &lex(&response(&bytes, 486)), STREAM, &mut out);
        run(&mut layer, at_ms(100));
        assert!(layer.is_empty(), "{method}");
    }
    // The other side: no timer G; J and I are zero.
    let (mut layer, mut out) = (layer(), Out::new());
    for method in ["INVITE", "OPTIONS"] {
        let bytes = request(method, "z9hG4bKabc");
        let key = new_request(layer.receive(at_ms(0), &lex(&bytes), STREAM, &mut out));
        assert!(layer.respond(at_ms(0), key, 486, response(&bytes, 486), &mut out));
        let (sent, _) = run(&mut layer, at_ms(5_000));
        assert_eq!(sent, vec![], "{method}");
    }
    let ack = request("ACK", "z9hG4bKabc");
    assert_eq!(layer.receive(at_ms(5_000), &lex(&ack), STREAM, &mut out), Received::Absorbed);
    run(&mut layer, at_ms(5_000));
    assert!(layer.is_empty());
}

#[test]
fn a_provisional_response_slows_another_request_to_t2() {
    let (mut layer, mut out) = (layer(), Out::new());
    let (key, bytes) = send(&mut layer, "OPTIONS", &mut out);
    let received = receive(&mut layer, 100, &response(&bytes, 100), &mut out);
    assert_eq!(received, Received::Response { key, user: 77 });
    let (sent, _) = run(&mut layer, at_ms(9_000));
    assert_eq!(sent.iter().map(|(ms, _)| *ms).collect::<Vec<_>>(), [500, 4500, 8500]);
}

#[test]
fn a_provisional_response_silences_an_invite() {
    let (mut layer, mut out) = (layer(), Out::new());
    let (key, bytes) = send(&mut layer, "INVITE", &mut out);
    let received = receive(&mut layer, 100, &response(&bytes, 180), &mut out);
    assert_eq!(received, Received::Response { key, user: 77 });
    let (sent, fired) = run(&mut layer, at_ms(300_000));
    assert_eq!((sent, fired), (vec![], vec![]));
    // Timer C is the user's: the transaction waits for as long as that lets it.
    assert_eq!(layer.len(), 1);
}

#[test]
fn a_refusal_is_acknowledged_as_17_1_1_3_says() {
    let (mut layer, mut out) = (layer(), Out::new());
    let (key, invite) = send(&mut layer, "INVITE", &mut out);
    out.clear();
    let refusal = response(&invite, 486);
    let received = receive(&mut layer, 100, &refusal, &mut out);
    assert_eq!(received, Received::Response { key, user: 77 });
    assert_eq!(words(&out), ["ACK"]);
    let (ack, invite, refusal) = (lex(&out[0].bytes), lex(&invite), lex(&refusal));
    assert_eq!(ack.check(), Ok(()));
    assert_eq!(ack.request_uri(), invite.request_uri());
    // "a single Via header field, and this MUST be equal to the top Via".
    let via: Vec<_> = ack.headers(Header::Via).collect();
    assert_eq!(via, [invite.header(Header::Via).expect("a Via")]);
    for header in [Header::From, Header::CallId, Header::Authorization] {
        assert_eq!(ack.header(header), invite.header(header), "{header:?}");
    }
    assert_eq!(ack.header(Header::To), refusal.header(Header::To));
    assert!(ack.to().expect("a To").tag().is_some());
    assert_eq!(ack.header(Header::CSeq), Some(&b"7 ACK"[..]));
    let routes =
        |message: &Message<'_>| message.headers(Header::Route).map(text).collect::<Vec<_>>();
    assert_eq!(routes(&ack), routes(&invite));
    assert!(ack.body().is_empty());
    assert!(!ack.has(Header::Contact));
}

#[test]
fn a_refusal_that_comes_again_gets_its_ack_again_and_is_absorbed() {
    let (mut layer, mut out) = (layer(), Out::new());
    let (_, invite) = send(&mut layer, "INVITE", &mut out);
    let refusal = response(&invite, 486);
    receive(&mut layer, 100, &refusal, &mut out);
    out.clear();
    assert_eq!(receive(&mut layer, 600, &refusal, &mut out), Received::Absorbed);
    assert_eq!(words(&out), ["ACK"]);
    assert_eq!(layer.retransmissions(), 1);
    // Timer D: gone 32 s after the refusal.
    run(&mut layer, at_ms(32_099));
    assert_eq!(layer.len(), 1);
    let (_, fired) = run(&mut layer, at_ms(32_100));
    assert!(fired.is_empty() && layer.is_empty());
    assert_eq!(receive(&mut layer, 33_000, &refusal, &mut out), Received::StrayResponse);
}

#[test]
fn a_2xx_goes_up_each_time_until_timer_m() {
    let (mut layer, mut out) = (layer(), Out::new());
    let (key, invite) = send(&mut layer, "INVITE", &mut out);
    out.clear();
    let success = response(&invite, 200);
    for ms in [100, 600, 32_000] {
        run(&mut layer, at_ms(ms));
        let received = receive(&mut layer, ms, &success, &mut out);
        assert_eq!(received, Received::Response { key, user: 77 }, "at {ms} ms");
    }
    assert!(out.is_empty(), "the user sends the ACK");
    run(&mut layer, at_ms(32_100));
    assert!(layer.is_empty());
    assert_eq!(receive(&mut layer, 32_200, &success, &mut out), Received::StrayResponse);
}

#[test]
fn a_final_response_that_comes_again_is_absorbed_for_t4() {
    let (mut layer, mut out) = (layer(), Out::new());
    let (key, bytes) = send(&mut layer, "BYE", &mut out);
    let ok = response(&bytes, 200);
    assert_eq!(receive(&mut layer, 100, &ok, &mut out), Received::Response { key, user: 77 });
    assert_eq!(receive(&mut layer, 200, &ok, &mut out), Received::Absorbed);
    let (sent, _) = run(&mut layer, at_ms(5_099));
    assert_eq!((sent.len(), layer.len()), (0, 1));
    run(&mut layer, at_ms(5_100));
    assert!(layer.is_empty());
}

#[test]
fn responses_are_matched_by_branch_and_cseq_method() {
    let (mut layer, mut out) = (layer(), Out::new());
    send(&mut layer, "INVITE", &mut out);
    // 17.1.3: both must match.
    let other_branch = response(&request("INVITE", "z9hG4bKxyz"), 180);
    let other_method = response(&request("OPTIONS", "z9hG4bKabc"), 200);
    for stray in [other_branch, other_method] {
        assert_eq!(receive(&mut layer, 10, &stray, &mut out), Received::StrayResponse);
    }
    // 7.3.1: capitals and small letters are the same.
    let folded = response(&request("INVITE", "Z9HG4bkABC"), 180);
    assert!(matches!(receive(&mut layer, 10, &folded, &mut out), Received::Response { .. }));
}

#[test]
fn a_cancel_waits_for_a_provisional_response() {
    let (mut layer, mut out) = (layer(), Out::new());
    let (key, invite) = send(&mut layer, "INVITE", &mut out);
    out.clear();
    assert_eq!(layer.cancel(at_ms(50), key, &mut out), Cancelling::Held);
    assert_eq!(layer.cancel(at_ms(60), key, &mut out), Cancelling::Held);
    assert!(out.is_empty());
    let received = receive(&mut layer, 100, &response(&invite, 100), &mut out);
    assert_eq!(received, Received::Response { key, user: 77 });
    assert_eq!(words(&out), ["CANCEL"]);
    assert_eq!(layer.cancel(at_ms(110), key, &mut out), Cancelling::Sent);
    assert_eq!(out.len(), 1, "there is one CANCEL only");
    let (cancel, invite) = (lex(&out[0].bytes), lex(&invite));
    assert_eq!(cancel.check(), Ok(()));
    assert_eq!(cancel.request_uri(), invite.request_uri());
    let via: Vec<_> = cancel.headers(Header::Via).collect();
    assert_eq!(via, [invite.header(Header::Via).expect("a Via")]);
    for header in [Header::From, Header::To, Header::CallId] {
        assert_eq!(cancel.header(header), invite.header(header), "{header:?}");
    }
    assert_eq!(cancel.header(Header::CSeq), Some(&b"7 CANCEL"[..]));
    assert_eq!(cancel.headers(Header::Route).count(), 2);
    assert!(!cancel.has(Header::Authorization));
}

#[test]
fn the_answer_to_a_cancel_stays_in_the_layer() {
    let (mut layer, mut out) = (layer(), Out::new());
    let (key, invite) = send(&mut layer, "INVITE", &mut out);
    receive(&mut layer, 10, &response(&invite, 180), &mut out);
    out.clear();
    assert_eq!(layer.cancel(at_ms(20), key, &mut out), Cancelling::Sent);
    let cancel = out[0].bytes.to_vec();
    assert_eq!(receive(&mut layer, 30, &response(&cancel, 200), &mut out), Received::Absorbed);
    let received = receive(&mut layer, 40, &response(&invite, 487), &mut out);
    assert_eq!(received, Received::Response { key, user: 77 });
    assert_eq!(words(&out), ["CANCEL", "ACK"]);
    let (sent, fired) = run(&mut layer, at_ms(100_000));
    assert!(sent.is_empty() && fired.is_empty() && layer.is_empty());
}

#[test]
fn a_cancelled_invite_without_final_response_ends() {
    let (mut layer, mut out) = (layer(), Out::new());
    let (key, invite) = send(&mut layer, "INVITE", &mut out);
    receive(&mut layer, 10, &response(&invite, 180), &mut out);
    layer.cancel(at_ms(1_000), key, &mut out);
    let (sent, fired) = run(&mut layer, at_ms(33_000));
    assert!(sent.iter().all(|(_, word)| word == "CANCEL") && sent.len() == 10);
    assert_eq!(fired, [Fired::ClientTimeout { key, user: 77 }]);
    assert!(layer.is_empty());
}

#[test]
fn it_is_too_late_to_cancel_an_answered_invite_or_anything_else() {
    for status in [200, 486] {
        let (mut layer, mut out) = (layer(), Out::new());
        let (key, invite) = send(&mut layer, "INVITE", &mut out);
        layer.cancel(at_ms(5), key, &mut out);
        receive(&mut layer, 10, &response(&invite, status), &mut out);
        assert_eq!(layer.cancel(at_ms(20), key, &mut out), Cancelling::TooLate);
        assert!(!words(&out).contains(&"CANCEL".to_owned()));
    }
    let (mut layer, mut out) = (layer(), Out::new());
    let (key, _) = send(&mut layer, "OPTIONS", &mut out);
    assert_eq!(layer.cancel(at_ms(20), key, &mut out), Cancelling::TooLate);
}

#[test]
fn a_request_that_comes_again_gets_the_last_response_again() {
    let (mut layer, mut out) = (layer(), Out::new());
    let bytes = request("OPTIONS", "z9hG4bKabc");
    let key = new_request(receive(&mut layer, 0, &bytes, &mut out));
    assert_eq!(receive(&mut layer, 500, &bytes, &mut out), Received::Absorbed);
    assert!(out.is_empty(), "17.2.2: in Trying it is discarded");
    assert!(layer.respond(at_ms(600), key, 200, response(&bytes, 200), &mut out));
    assert!(!layer.respond(at_ms(610), key, 500, response(&bytes, 500), &mut out));
    assert_eq!(receive(&mut layer, 700, &bytes, &mut out), Received::Absorbed);
    assert_eq!(words(&out), ["200", "200"]);
    // Sending again shares the bytes.
    assert!(std::rc::Rc::ptr_eq(&out[0].bytes, &out[1].bytes));
    run(&mut layer, at_ms(32_599));
    assert_eq!(layer.len(), 1);
    run(&mut layer, at_ms(32_600));
    assert!(layer.is_empty());
}

#[test]
fn a_request_that_is_never_answered_is_given_up() {
    let (mut layer, mut out) = (layer(), Out::new());
    let key = new_request(receive(&mut layer, 0, &request("INFO", "z9hG4bKabc"), &mut out));
    layer.set_user(key, 5);
    let (_, fired) = run(&mut layer, at_ms(40_000));
    assert_eq!(fired, [Fired::Unanswered { key, user: 5 }]);
    assert!(layer.is_empty() && layer.answered(key));
}

#[test]
fn a_refusal_goes_out_until_its_ack() {
    let (mut layer, mut out) = (layer(), Out::new());
    let invite = request("INVITE", "z9hG4bKabc");
    let key = new_request(receive(&mut layer, 0, &invite, &mut out));
    layer.respond(at_ms(0), key, 100, response(&invite, 100), &mut out);
    assert!(!layer.answered(key));
    assert_eq!(receive(&mut layer, 0, &invite, &mut out), Received::Absorbed);
    layer.respond(at_ms(0), key, 486, response(&invite, 486), &mut out);
    assert!(layer.answered(key));
    assert_eq!(words(&out), ["100", "100", "486"]);
    let (sent, _) = run(&mut layer, at_ms(12_000));
    assert_eq!(sent.iter().map(|(ms, _)| *ms).collect::<Vec<_>>(), [500, 1500, 3500, 7500, 11500]);
    let ack = request("ACK", "z9hG4bKabc");
    assert_eq!(receive(&mut layer, 12_000, &ack, &mut out), Received::Absorbed);
    assert_eq!(receive(&mut layer, 12_100, &ack, &mut out), Received::Absorbed);
    let (sent, fired) = run(&mut layer, at_ms(17_000));
    assert!(sent.is_empty() && fired.is_empty() && layer.is_empty(), "timer I is T4");
}

#[test]
fn a_refusal_without_ack_ends() {
    let (mut layer, mut out) = (layer(), Out::new());
    let invite = request("INVITE", "z9hG4bKabc");
    let key = new_request(receive(&mut layer, 0, &invite, &mut out));
    layer.set_user(key, 9);
    layer.respond(at_ms(0), key, 486, response(&invite, 486), &mut out);
    let (sent, fired) = run(&mut layer, at_ms(40_000));
    assert_eq!(sent.len(), 10);
    assert_eq!(fired, [Fired::RefusalNotAcked { key, user: 9 }]);
    assert!(layer.is_empty());
}

#[test]
fn a_2xx_goes_out_until_the_user_saw_its_ack() {
    let (mut layer, mut out) = (layer(), Out::new());
    let invite = request("INVITE", "z9hG4bKabc");
    let key = new_request(receive(&mut layer, 0, &invite, &mut out));
    layer.respond(at_ms(0), key, 200, response(&invite, 200), &mut out);
    let (sent, _) = run(&mut layer, at_ms(4_000));
    assert_eq!(sent.iter().map(|(ms, _)| *ms).collect::<Vec<_>>(), [500, 1500, 3500]);
    // RFC 6026: the INVITE that comes again is not a new one, and not answered.
    out.clear();
    assert_eq!(receive(&mut layer, 4_000, &invite, &mut out), Received::Absorbed);
    // The ACK to a 2xx has a branch of its own.
    let ack = request("ACK", "z9hG4bKother");
    assert_eq!(receive(&mut layer, 4_000, &ack, &mut out), Received::Ack);
    layer.acked(key);
    let (sent, fired) = run(&mut layer, at_ms(31_999));
    assert_eq!((sent, fired, layer.len()), (vec![], vec![], 1));
    assert_eq!(receive(&mut layer, 31_999, &invite, &mut out), Received::Absorbed);
    let (_, fired) = run(&mut layer, at_ms(32_000));
    assert!(fired.is_empty() && layer.is_empty() && out.is_empty());
}

#[test]
fn a_2xx_without_ack_ends_after_64_t1() {
    let (mut layer, mut out) = (layer(), Out::new());
    let invite = request("INVITE", "z9hG4bKabc");
    let key = new_request(receive(&mut layer, 0, &invite, &mut out));
    layer.set_user(key, 3);
    layer.respond(at_ms(0), key, 200, response(&invite, 200), &mut out);
    let (sent, fired) = run(&mut layer, at_ms(40_000));
    assert_eq!(sent.len(), 10);
    assert_eq!(fired, [Fired::NoAck { key, user: 3 }]);
    assert!(layer.is_empty());
}

#[test]
fn requests_are_matched_by_branch_sent_by_and_method() {
    let (mut layer, mut out) = (layer(), Out::new());
    let bytes = request("OPTIONS", "z9hG4bKabc");
    new_request(receive(&mut layer, 0, &bytes, &mut out));
    let again = |from: &str, to: &str| text(&bytes).replace(from, to).into_bytes();
    // The same: letters' case, whatever is not compared.
    for same in [again("z9hG4bKabc", "Z9hg4bKABC"), again("a-call", "b-call")] {
        assert_eq!(receive(&mut layer, 1, &same, &mut out), Received::Absorbed);
    }
    // 17.2.3: another branch, another host, another port, another method.
    for new in [
        again("z9hG4bKabc", "z9hG4bKabd"),
        again("192.0.2.1:5070;rport", "192.0.2.3:5070;rport"),
        again("192.0.2.1:5070;rport", "192.0.2.1;rport"),
        again("OPTIONS", "INFO"),
    ] {
        new_request(receive(&mut layer, 1, &new, &mut out));
    }
    // 18.2.2: no port is 5060.
    let named = again("192.0.2.1:5070;rport", "192.0.2.1:5060;rport");
    assert_eq!(receive(&mut layer, 1, &named, &mut out), Received::Absorbed);
}

#[test]
fn an_invite_that_was_forked_to_here_twice_is_merged() {
    let (mut layer, mut out) = (layer(), Out::new());
    let (first, second) = (request("INVITE", "z9hG4bKa"), request("INVITE", "z9hG4bKb"));
    let key = new_request(receive(&mut layer, 0, &first, &mut out));
    let received = receive(&mut layer, 1, &second, &mut out);
    let Received::Merged(merged) = received else { panic!("{received:?}") };
    layer.respond(at_ms(1), merged, 482, response(&second, 482), &mut out);
    assert_eq!(words(&out), ["482"]);
    // Within a dialog, and in another one, it is none.
    let within = text(&second).replace("1002.demo@192.0.2.2>", "1002.demo@192.0.2.2>;tag=there");
    new_request(receive(
        &mut layer,
        2,
        within.replace("z9hG4bKb", "z9hG4bKc").as_bytes(),
        &mut out,
    ));
    let next = text(&second).replace("CSeq: 7", "CSeq: 8").replace("z9hG4bKb", "z9hG4bKd");
    new_request(receive(&mut layer, 2, next.as_bytes(), &mut out));
    // When the first is over, there is nothing to merge with.
    layer.forget(key);
    new_request(receive(&mut layer, 3, &request("INVITE", "z9hG4bKe"), &mut out));
}

#[test]
fn a_cancel_says_why() {
    let (mut layer, mut out) = (layer(), Out::new());
    let (key, invite) = send(&mut layer, "INVITE", &mut out);
    let reasons = [b"SIP;cause=200".to_vec(), b"Q.850;cause=16".to_vec()];
    assert_eq!(layer.cancel_because(at_ms(1), key, &reasons, &mut out), Cancelling::Held);
    out.clear();
    receive(&mut layer, 2, &response(&invite, 180), &mut out);
    assert_eq!(words(&out), ["CANCEL"]);
    let cancel = lex(&out[0].bytes);
    let said: Vec<_> = cancel.headers(Header::Reason).collect();
    assert_eq!(said, reasons);
}

#[test]
fn a_cancel_finds_its_invite() {
    let (mut layer, mut out) = (layer(), Out::new());
    let invite = request("INVITE", "z9hG4bKabc");
    let key = new_request(receive(&mut layer, 0, &invite, &mut out));
    let cancel = request("CANCEL", "z9hG4bKabc");
    let Received::Cancel { server, invite: Some(found) } =
        receive(&mut layer, 10, &cancel, &mut out)
    else {
        panic!("a CANCEL")
    };
    assert_eq!(found, key);
    assert!(!layer.answered(key));
    layer.respond(at_ms(10), server, 200, response(&cancel, 200), &mut out);
    layer.respond(at_ms(10), key, 487, response(&invite, 487), &mut out);
    assert_eq!(words(&out), ["200", "487"]);
    assert_eq!(receive(&mut layer, 20, &cancel, &mut out), Received::Absorbed);
    assert_eq!(words(&out), ["200", "487", "200"]);
    let stray = request("CANCEL", "z9hG4bKnone");
    let received = receive(&mut layer, 20, &stray, &mut out);
    assert!(matches!(received, Received::Cancel { invite: None, .. }));
}

#[test]
fn a_peer_after_rfc_2543_is_matched_by_its_headers() {
    for branch in ["1", "abcdefg", "z9hG4b"] {
        let (mut layer, mut out) = (layer(), Out::new());
        let invite = request("INVITE", branch);
        let key = new_request(receive(&mut layer, 0, &invite, &mut out));
        assert_eq!(receive(&mut layer, 1, &invite, &mut out), Received::Absorbed);
        let changed = |from: &str, to: &str| text(&invite).replace(from, to).into_bytes();
        for (from, to) in
            [("CSeq: 7", "CSeq: 8"), ("a-call", "b-call"), ("tag=here", "tag=elsewhere")]
        {
            new_request(receive(&mut layer, 2, &changed(from, to), &mut out));
        }
        // Nor are these the same, but they may come of it.
        for (from, to) in [
            ("INVITE sip:1002", "INVITE sip:1003"),
            ("192.0.2.1:5070;rport", "192.0.2.3:5070;rport"),
        ] {
            let received = receive(&mut layer, 2, &changed(from, to), &mut out);
            assert!(matches!(received, Received::Merged(_)), "{received:?}");
        }
        let cancel = request("CANCEL", branch);
        let received = receive(&mut layer, 3, &cancel, &mut out);
        assert!(matches!(received, Received::Cancel { invite: Some(found), .. } if found == key));
        let ack = text(&request("ACK", branch))
            .replace("<sip:1002.demo@192.0.2.2>", "<sip:1002.demo@192.0.2.2>;tag=there");
        assert_eq!(receive(&mut layer, 4, ack.as_bytes(), &mut out), Received::Ack);
        layer.respond(at_ms(5), key, 487, response(&invite, 487), &mut out);
        // 17.2.3: the ACK has the To tag of the response.
        let foreign = ack.replace("tag=there", "tag=nowhere");
        assert_eq!(receive(&mut layer, 6, foreign.as_bytes(), &mut out), Received::Ack);
        assert_eq!(receive(&mut layer, 6, ack.as_bytes(), &mut out), Received::Absorbed);
        out.clear();
        assert_eq!(receive(&mut layer, 7, &invite, &mut out), Received::Absorbed);
        assert!(out.is_empty(), "Confirmed answers nothing");
    }
}

#[test]
fn the_limit_holds_on_both_sides_but_not_for_a_cancel() {
    let (mut layer, mut out) = (Transactions::new(1, 1), Out::new());
    let (key, invite) = send(&mut layer, "INVITE", &mut out);
    let bye = request("BYE", "z9hG4bKbye");
    let sent = layer.request(at_ms(0), Method::Bye, bye, b"z9hG4bKbye", PEER, 0, &mut out);
    assert_eq!(sent, Err(Full));
    new_request(receive(&mut layer, 0, &request("OPTIONS", "z9hG4bK1"), &mut out));
    let second = request("OPTIONS", "z9hG4bK2");
    assert_eq!(receive(&mut layer, 0, &second, &mut out), Received::Full);
    receive(&mut layer, 0, &response(&invite, 180), &mut out);
    assert_eq!(layer.cancel(at_ms(0), key, &mut out), Cancelling::Sent);
    assert_eq!(layer.len(), 3);
    run(&mut layer, at_ms(0) + LIFE);
    assert!(layer.is_empty());
    new_request(receive(&mut layer, 40_000, &second, &mut out));
}

#[test]
fn a_forgotten_request_is_new_when_it_comes_again() {
    let (mut layer, mut out) = (layer(), Out::new());
    let bytes = request("INVITE", "z9hG4bKabc");
    let key = new_request(receive(&mut layer, 0, &bytes, &mut out));
    assert_eq!((layer.user(key), layer.flow(key)), (Some(0), Some(PEER)));
    layer.forget(key);
    assert!(layer.is_empty());
    assert_eq!((layer.user(key), layer.flow(key)), (None, None));
    assert!(!layer.respond(at_ms(1), key, 200, response(&bytes, 200), &mut out));
    assert_ne!(new_request(receive(&mut layer, 1, &bytes, &mut out)), key);
}

#[test]
fn a_flood_of_forgotten_requests_is_bounded() {
    let (mut layer, mut out) = (Transactions::new(2, 1), Out::new());
    let mut taken = 0;
    for number in 0..1_000 {
        let bytes = request("OPTIONS", &format!("z9hG4bK{number}"));
        match receive(&mut layer, 0, &bytes, &mut out) {
            Received::Request(key) => {
                layer.forget(key);
                taken += 1;
            }
            other => assert_eq!(other, Received::Full),
        }
    }
    assert_eq!((taken, layer.timers.len()), (64, 64));
    run(&mut layer, at_ms(32_000));
    new_request(receive(&mut layer, 32_000, &request("OPTIONS", "z9hG4bK"), &mut out));
}

#[test]
fn a_message_without_what_is_matched_is_malformed() {
    let (mut layer, mut out) = (layer(), Out::new());
    for bytes in [
        &b"OPTIONS sip:a SIP/2.0\r\n\r\n"[..],
        b"OPTIONS sip:a SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=old\r\n\r\n",
        b"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\n\r\n",
    ] {
        assert_eq!(receive(&mut layer, 0, bytes, &mut out), Received::Malformed);
    }
    assert!(layer.is_empty() && out.is_empty());
}

/// RFC 4475, 3.2.1: the magic cookie with nothing after it names no transaction.
#[test]
fn a_branch_of_the_cookie_alone_tells_nothing() {
    let mut layer = Transactions::new(8, 1);
    let mut out = Out::new();
    let first = request("OPTIONS", "z9hG4bK");
    let other = text(&first).replace("a-call", "another-call").into_bytes();
    let mut receive = |bytes: &[u8]| layer.receive(at_ms(0), &lex(bytes), PEER, &mut out);
    assert!(matches!(receive(&first), Received::Request(_)));
    assert!(matches!(receive(&other), Received::Request(_)), "another request of the same peer");
    assert_eq!(receive(&first), Received::Absorbed);
}

#[test]
fn a_request_that_turns_to_datagrams_is_sent_again_until_it_is_answered() {
    let (mut layer, mut out) = (layer(), Out::new());
    let (key, user) = {
        let bytes = request("INVITE", "z9hG4bKabc");
        let branch = b"z9hG4bKabc";
        layer
            .request(at_ms(0), Method::Invite, bytes.clone(), branch, STREAM, 77, &mut out)
            .expect("there is room");
        layer.sent_request(&lex(&bytes)).expect("it is known by its bytes")
    };
    assert_eq!(user, 77);
    let turned: Rc<[u8]> = request("INVITE", "z9hG4bKabc").into();
    out.clear();
    layer.send_by(at_ms(100), key, turned, PEER, &mut out);
    assert_eq!((words(&out), out[0].flow), (vec!["INVITE".to_owned()], PEER));
    let (sent, fired) = run(&mut layer, at_ms(100_000));
    let times: Vec<u64> = sent.iter().map(|(ms, _)| *ms).collect();
    assert_eq!(times, [600, 1600, 3600, 7600, 15600, 31600]);
    assert_eq!(fired, [Fired::ClientTimeout { key, user: 77 }]);
    assert!(layer.is_empty());
}

#[test]
fn a_request_that_cannot_be_sent_is_over_at_once() {
    let (mut layer, mut out) = (layer(), Out::new());
    let (key, bytes) = send(&mut layer, "OPTIONS", &mut out);
    layer.give_up(key);
    assert!(layer.is_empty());
    assert_eq!(layer.sent_request(&lex(&bytes)), None);
    assert_eq!(run(&mut layer, at_ms(100_000)), (Vec::new(), Vec::new()));
}

#[test]
fn a_100_waits_for_something_better() {
    let invite = request("INVITE", "z9hG4bKabc");
    let begin = || {
        let (mut layer, mut out) = (layer(), Out::new());
        layer.delay_trying(Duration::from_millis(100));
        let key = new_request(receive(&mut layer, 0, &invite, &mut out));
        assert!(layer.respond(at_ms(0), key, 100, response(&invite, 100), &mut out));
        assert!(out.is_empty(), "{:?}", words(&out));
        (layer, key, out)
    };
    // Nothing better came.
    let (mut layer, _, _) = begin();
    assert_eq!(run(&mut layer, at_ms(400)).0, [(100, "100".to_owned())]);
    // 180 came.
    let (mut layer, key, mut out) = begin();
    assert!(layer.respond(at_ms(50), key, 180, response(&invite, 180), &mut out));
    assert!(layer.respond(at_ms(60), key, 100, response(&invite, 100), &mut out), "needless");
    assert_eq!((words(&out), run(&mut layer, at_ms(400)).0), (vec!["180".to_owned()], vec![]));
    // The INVITE came again.
    let (mut layer, _, mut out) = begin();
    assert_eq!(receive(&mut layer, 50, &invite, &mut out), Received::Absorbed);
    assert_eq!(layer.retransmissions(), 0);
    assert_eq!(receive(&mut layer, 60, &invite, &mut out), Received::Absorbed);
    assert_eq!(layer.retransmissions(), 1);
    assert_eq!((words(&out), run(&mut layer, at_ms(400)).0), (vec!["100".into(); 2], vec![]));
}
