//! The flows of RFC 3665 (2: registrations, 3: sessions) and RFC 5359 (2: services), with SIPp's phones at both ends;
//! `baresips` and `transfer` have those that a baresip can do.
//!
//! | RFC | flow | here, elsewhere, or why not |
//! |---|---|---|
//! | 3665, 2.1 | a registration | every test here: 401, then 200 |
//! | 2.2 | another contact | `registrations`: it takes the place of the first, since an agent has one binding |
//! | 2.3 | what is registered | `registrations` |
//! | 2.4 | no more | `registrations`: `*`, Expires 0; callers hear 480 then |
//! | 2.5 | without a right proof | `registrations`: 401 again |
//! | 3.1 | a session | every test here |
//! | 3.2 | by two proxies | `kamailio`: a record-routing proxy, both ways |
//! | 3.3 | a proxy that asks for proof | every caller here that is an agent: 401, ACK, INVITE |
//! | 3.4 | a proxy that fails | `trunks_speak_the_extensions`: 503, then the next address |
//! | 3.5 | by an ALG | `two_baresips_talk_through_two_locations`: we are what it describes |
//! | 3.6 | redirected; SDP in ACK | `forwards`: we follow for the caller, as far as RFC.md, 8.1.3.4 says; SDP in ACK: `sessions` |
//! | 3.7 | a re-INVITE that moves media | `sessions` |
//! | 3.8 | no answer | `sessions`, `baresips`, `lossy/crowd`: CANCEL, 487; by our own limit: worker `a_phone_that_is_silent_times_out` |
//! | 3.9 | busy | `sessions`, `baresips`, `lossy/crowd` |
//! | 3.10 | no response | `lossy/crowd`: 408 after 64*T1; worker `a_phone_that_is_silent_times_out` in virtual time |
//! | 3.11 | unavailable | `sessions` |
//! | 3960 | early media | `sessions`, `baresips` |
//! | 5359, 2.1 | hold, retrieve | `holds`: sendonly, inactive, 0.0.0.0; `baresips` |
//! | 2.2 | consultation hold | `transfers`, `baresips` |
//! | 2.3 | music on hold | `holds`: ours, from the tenant's file; `baresips`: a softphone hears its tone |
//! | 2.4 | transfer, unattended | `transfers`, and `transfer` with baresip |
//! | 2.5 | transfer, attended | `transfers`: by who was called, and by who called; baresip 1.0 knows none |
//! | 2.6 | transfer of instant messages | no: MESSAGE is 405 |
//! | 2.7, 2.8, 2.9 | forwarding: always, busy, no answer | `forwards`; `transfer` and `baresips` with baresip at all ends |
//! | 2.10 | a third party is added | `supervision`, `media`: conferences of the desk |
//! | 2.11 | a third party joins | `supervision`: barge; the Join header is not known (420) |
//! | 2.12 | find-me | `forwards`: by a list of places, and by rules that lead from one number to the next; `transfer`, `baresips` |
//! | 2.13, 2.14 | screening | a policy of routes: `calls_come_from_trunks_and_leave_by_them` |
//! | 2.15 | park | `transfers`: a held call is taken by INVITE with Replaces |
//! | 2.16 | pickup | `transfers`: the test tells the dialog's name, which is the dialog event package's to tell (not known, 489) |
//! | 2.17 | automatic redial | no: the dialog event package is not known (489) |
//! | 2.18 | click to dial | `forwards`: by control's API instead of REFER out of a dialog (403); `transfer` with baresips |
//! | none | call waiting | `waiting`, with baresip; joined by the agent: worker `an_agent_joins_who_waited_with_who_talked` |

pub mod ladder;
mod party;

use std::net::UdpSocket;
use std::time::Duration;

use ladder::{Ladder, Sdp, TOLD, proof};
use party::{Floor, Party};

use crate::lab::{turn, wait_for};

/// The packets of half a second.
const SOME: u64 = 25;

/// Who is called by 1001 rings and answers, and talks.
fn answers(agent: &str) -> Ladder {
    let mut called = Ladder::is_called(&Floor::user(agent), &[("From:", "sip:1001@")]);
    called.answers(180, "", None).answers(200, "", Some(Sdp::Both)).is_asked("ACK", &[]).talks();
    called
}

/// The first agent calls the second and talks.
fn calls_the_second(floor: &Floor) -> Ladder {
    let mut caller = floor.calls("1001", "1002", Some(Sdp::Both));
    caller.hears(180, &[]).hears_of(200, &[("", "m=audio")]).acks(None).talks();
    caller
}

fn both(floor: &Floor, name: &str, caller: &Ladder, called: &Ladder) -> [Party; 2] {
    let called = floor.phone(&format!("{name}-called"), "1002", called);
    [floor.phone(&format!("{name}-caller"), "1001", caller), called]
}

/// RFC 3665, 2.2 to 2.5, by the second's phone, which has registered (2.1).
fn registrations(floor: &Floor) {
    let user = Floor::user("1002");
    let right = proof(&user, floor.secret("1002"));
    let at = |port: u16| format!("sip:{user}@127.0.0.1:{port}");
    let own = format!("Contact: <sip:{user}@[local_ip]:[local_port]>\nExpires: 1800\n");
    let [first, other] = [at(16_102), at(16_202)];

    let mut asks = Ladder::registrant(&user);
    asks.asks_registrar("", &right, &[("Contact:", &first)]);
    // A stranger learns nothing and moves nothing.
    asks.asks_registrar_in_vain("", &proof(&user, "wrong"));
    asks.asks_registrar_in_vain(&own, &proof(&user, "wrong"));
    floor.line("asks", "1002", &asks).ends_well();
    let calls = |name: &str, is_at_line: bool| {
        let (mut caller, mut called) = (calls_the_second(floor), answers("1002"));
        caller.waits().hangs_up();
        called.is_hung_up_on();
        let start = if is_at_line { Floor::line } else { Floor::phone };
        let called = start(floor, &format!("{name}-called"), "1002", &called);
        let caller = floor.phone(&format!("{name}-caller"), "1001", &caller);
        floor.talk(["1001", "1002"], SOME);
        caller.go();
        floor.is_over(vec![caller, called]);
    };
    calls("first", false);

    let mut moves = Ladder::registrant(&user);
    moves.asks_registrar(&own, &right, &[("Contact:", &other), ("Contact:", "expires=1800")]);
    moves.asks_registrar("", &right, &[("Contact:", &other)]);
    floor.line("moves", "1002", &moves).ends_well();
    calls("moved", true);

    let mut leaves = Ladder::registrant(&user);
    leaves.asks_registrar("Contact: *\nExpires: 0\n", &right, &[("Contact:", "!sip:")]);
    leaves.asks_registrar("", &right, &[("Contact:", "!sip:")]);
    floor.line("leaves", "1002", &leaves).ends_well();
    let mut caller = floor.calls("1001", "1002", Some(Sdp::Both));
    caller.hears(480, &[]).acks_refusal();
    floor.is_over(vec![floor.phone("nobody", "1001", &caller)]);
}

/// RFC 3665, 2.
#[test]
fn registrations_go_as_the_rfc_draws_them() {
    let _turn = turn();
    let mut floor = Floor::start(&["1001", "1002"], &[]);
    registrations(&floor);
    floor.demo.process.stop();
}

/// RFC 3665, 3.1: the caller hangs up; then the called party does.
fn a_session(floor: &Floor) {
    for ends in [0, 1] {
        let (mut caller, mut called) = (calls_the_second(floor), answers("1002"));
        let (first, last) =
            if ends == 0 { (&mut caller, &mut called) } else { (&mut called, &mut caller) };
        first.waits().hangs_up();
        last.is_hung_up_on();
        let parties = both(floor, "session", &caller, &called);
        floor.talk(["1001", "1002"], SOME);
        parties[ends].go();
        floor.is_over(parties.into());
    }
}

/// RFC 3665, 3.6 without the redirection: the offer is in the 2xx, the answer in the ACK (RFC 3261, 13.2.1).
fn a_late_offer(floor: &Floor) {
    let mut caller = floor.calls("1001", "1002", None);
    caller.hears(180, &[("", "!m=")]).hears_of(200, &[("", "m=audio")]).acks(Some(Sdp::Both));
    caller.talks().waits().hangs_up();
    let mut called = Ladder::is_called(&Floor::user("1002"), &[("", "!m=")]);
    called.answers(180, "", None).answers(200, "", Some(Sdp::Both));
    called.is_asked("ACK", &[("", "m=audio")]).talks().is_hung_up_on();
    let parties = both(floor, "late", &caller, &called);
    floor.talk(["1001", "1002"], SOME);
    parties[0].go();
    floor.is_over(parties.into());
}

/// RFC 3665, 3.7: the caller's media moves to another port; only its own side sees that.
fn a_move(floor: &Floor) {
    let (mut caller, mut called) = (calls_the_second(floor), answers("1002"));
    caller.waits().reinvites(Sdp::Moved, &[("", "m=audio")]).waits().hangs_up();
    called.is_reinvited(&[("", "m=audio"), ("CSeq:", " 2 INVITE")], Sdp::Both).is_hung_up_on();
    let parties = both(floor, "move", &caller, &called);
    floor.talk(["1001", "1002"], SOME);
    let new = UdpSocket::bind(("127.0.0.1", parties[0].media_port + 20)).expect("a port");
    new.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
    parties[0].go();
    let mut packet = [0; 1_500];
    for _ in 0..SOME {
        let (len, _) = new.recv_from(&mut packet).expect("RTP at the new port");
        assert_eq!((len, packet[1] & 0x7f), (172, 0), "20 ms of u-law");
    }
    parties[0].go();
    floor.is_over(parties.into());
}

/// RFC 3665, 3.8: nobody answers, and the caller gives up.
fn no_answer(floor: &Floor) {
    let mut caller = floor.calls("1001", "1002", Some(Sdp::Both));
    caller.hears_of(180, &[]).waits().cancels("1002").hears(200, &[("CSeq:", "CANCEL")]);
    caller.hears(487, &[("CSeq:", "2 INVITE")]).acks_refusal();
    let mut called = Ladder::is_called(&Floor::user("1002"), &[]);
    called
        .answers(180, "", None)
        .is_asked("CANCEL", &[("CSeq:", " 1 CANCEL")])
        .answers(200, "", None);
    called.refuses_the_invite(487).is_asked("ACK", &[("CSeq:", " 1 ACK")]);
    let parties = both(floor, "no-answer", &caller, &called);
    parties[0].go();
    floor.is_over(parties.into());
}

/// RFC 3665, 3.9 and 3.11.
fn refusals(floor: &Floor) {
    for (said, heard) in [(486, 486), (480, 480), (603, 603)] {
        let mut caller = floor.calls("1001", "1002", Some(Sdp::Both));
        caller.may_hear(180).hears(heard, &[("To:", ";tag=")]).acks_refusal();
        let mut called = Ladder::is_called(&Floor::user("1002"), &[]);
        called.answers(180, "", None).answers(said, "", None).is_asked("ACK", &[]);
        floor.is_over(both(floor, "refusal", &caller, &called).into());
    }
}

/// 183 with a description: the caller hears the other side before anybody answered (RFC 3960).
fn early_media(floor: &Floor) {
    let mut caller = floor.calls("1001", "1002", Some(Sdp::Both));
    caller.hears_of(183, &[("", "m=audio")]).talks().hears_of(200, &[]).acks(None);
    caller.waits().hangs_up();
    let mut called = Ladder::is_called(&Floor::user("1002"), &[]);
    called.answers(183, "", Some(Sdp::Both)).talks().waits().answers_later(200, Sdp::Both);
    called.is_asked("ACK", &[]).is_hung_up_on();
    let parties = both(floor, "early", &caller, &called);
    let before = ["rtp_sent", "calls_answered"].map(|name| floor.demo.counter(name));
    let heard = wait_for(Duration::from_secs(10), || {
        (floor.demo.counter("rtp_sent") > before[0] + SOME).then_some(())
    });
    assert!(heard.is_some(), "no early media");
    assert_eq!(floor.demo.counter("calls_answered"), before[1], "nobody has answered");
    parties[1].go();
    floor.talk(["1001", "1002"], SOME);
    parties[0].go();
    floor.is_over(parties.into());
}

/// What an agent in a call gets: nobody else's call (S5-015, S5-024). The caller hears 486, the phone does not ring.
fn a_busy_agent(floor: &Floor) {
    let (mut caller, mut called) = (calls_the_second(floor), answers("1002"));
    caller.waits().hangs_up();
    called.is_hung_up_on();
    let parties = both(floor, "busy", &caller, &called);
    floor.talk(["1001", "1002"], SOME);
    let mut third = floor.calls("1003", "1002", Some(Sdp::Both));
    third.hears(486, &[]).acks_refusal();
    floor.phone("third", "1003", &third).ends_well();
    floor.talk(["1001", "1002"], SOME);
    parties[0].go();
    floor.is_over(parties.into());
}

/// RFC 3665, 3.
#[test]
fn sessions_go_as_the_rfc_draws_them() {
    let _turn = turn();
    let mut floor = Floor::start(&["1001", "1002", "1003"], &[]);
    a_session(&floor);
    a_late_offer(&floor);
    a_move(&floor);
    no_answer(&floor);
    refusals(&floor);
    early_media(&floor);
    a_busy_agent(&floor);
    floor.demo.process.stop();
}

/// RFC 5359, 2.1 and 2.3: the caller holds in one of three ways and retrieves; who is held hears music where the
/// way of holding lets it hear anything.
fn a_hold(floor: &Floor, how: Sdp, shown: &str, answered: Sdp, music: bool) {
    let (mut caller, mut called) = (calls_the_second(floor), answers("1002"));
    caller.waits().reinvites(how, &[]).is_silent().waits();
    caller.reinvites(Sdp::Both, &[("", "!a=(recvonly|inactive)")]).talks_again().waits().hangs_up();
    called.is_reinvited(&[("", shown)], answered).is_silent();
    called.is_reinvited(&[("", "!a=(sendonly|inactive)")], Sdp::Both).talks_again().is_hung_up_on();
    let parties = both(floor, "hold", &caller, &called);
    floor.talk(["1001", "1002"], SOME);
    let made = floor.demo.counter("rtp_made");
    parties[0].go();
    parties[0].is_there();
    if music {
        floor.passes(
            &[("1002", "packets_out")],
            SOME,
            &[("1001", "packets_out"), ("1002", "packets_in")],
        );
    }
    parties[0].go();
    floor.talk(["1001", "1002"], SOME);
    assert_eq!(floor.demo.counter("rtp_made") > made, music, "music while it was {shown}");
    parties[0].go();
    floor.is_over(parties.into());
}

#[test]
fn holds_go_as_the_rfc_draws_them() {
    let _turn = turn();
    let prompts = crate::media::prompts();
    let folder = prompts.path().to_str().expect("a path");
    let mut floor = Floor::start(&["1001", "1002"], &["--prompts", folder]);
    floor.tool(&["hold-music", "welcome.wav"]);
    a_hold(&floor, Sdp::SendOnly, "a=sendonly", Sdp::RecvOnly, true);
    a_hold(&floor, Sdp::Inactive, "a=inactive", Sdp::Inactive, false);
    a_hold(&floor, Sdp::Zeros, "a=(sendonly|inactive)", Sdp::RecvOnly, true);
    floor.demo.process.stop();
}

/// The agent of a call with 1001 holds it.
fn holds(agent: &str) -> Ladder {
    let mut ladder = answers(agent);
    ladder.waits().reinvites(Sdp::SendOnly, &[("", "a=recvonly")]);
    ladder
}

/// The agent's second line calls the third agent.
fn asks_the_third(floor: &Floor) -> [Ladder; 2] {
    let mut asking = floor.calls("1002", "1003", Some(Sdp::Both));
    asking.hears(180, &[]).hears_of(200, &[]).acks(None).talks();
    let mut asked = Ladder::is_called(&Floor::user("1003"), &[("From:", "sip:1002@")]);
    asked.answers(180, "", None).answers(200, "", Some(Sdp::Both)).is_asked("ACK", &[]).talks();
    [asking, asked]
}

/// RFC 5359, 2.2: who was called holds, asks a third, and comes back.
fn a_consultation(floor: &Floor) {
    let mut first = calls_the_second(floor);
    first.is_reinvited(&[("", "a=sendonly")], Sdp::RecvOnly);
    first.is_reinvited(&[("", "!a=sendonly")], Sdp::Both).waits().hangs_up();
    let mut second = holds("1002");
    second.waits().reinvites(Sdp::Both, &[]).is_hung_up_on();
    let [mut line, mut third] = asks_the_third(floor);
    line.waits().hangs_up();
    third.is_hung_up_on();
    let [first, second] = both(floor, "consultation", &first, &second);
    floor.talk(["1001", "1002"], SOME);
    second.go();
    second.is_there();
    let third = floor.phone("third", "1003", &third);
    let line = floor.line("line", "1002", &line);
    floor.talk(["1002", "1003"], SOME);
    line.go();
    line.ends_well();
    second.go();
    floor.talk(["1001", "1002"], SOME);
    first.go();
    floor.is_over(vec![first, second, third]);
}

/// What a REFER is told of how it goes (RFC 3515, 2.4.5 and 2.4.7).
fn is_told(ladder: &mut Ladder, status: &str, state: &str) {
    let looks = [("Event:", "refer"), ("Subscription-State:", state), ("", status)];
    ladder.is_asked("NOTIFY", &looks).answers(200, "", None);
}

/// RFC 5359, 2.4: who was called gives the caller to a third, who answers.
fn a_blind_transfer(floor: &Floor) {
    let mut first = calls_the_second(floor);
    first.is_reinvited(&[("", "a=sendonly")], Sdp::RecvOnly);
    first.is_reinvited(&[("", "!a=sendonly")], Sdp::Both).waits().hangs_up();
    let mut second = holds("1002");
    second.says("REFER", "Refer-To: <sip:1003@[remote_ip]>\n", None).hears(202, &[]);
    is_told(&mut second, "SIP/2.0 100", "active");
    is_told(&mut second, "SIP/2.0 180", "active");
    is_told(&mut second, "SIP/2.0 200", "terminated;reason=noresource");
    second.hangs_up();
    let looks = [("From:", "sip:1001@"), ("Referred-By:", "sip:1002@")];
    let mut third = Ladder::is_called(&Floor::user("1003"), &looks);
    third.answers(180, "", None).waits().answers_later(200, Sdp::Both).is_asked("ACK", &[]);
    third.talks().is_hung_up_on();
    let third = floor.phone("third", "1003", &third);
    let [first, second] = both(floor, "blind", &first, &second);
    floor.talk(["1001", "1002"], SOME);
    second.go();
    third.go();
    second.ends_well();
    floor.talk(["1001", "1003"], SOME);
    first.go();
    floor.is_over(vec![first, third]);
}

/// The same, but the third is busy: the two who talked go on.
fn a_blind_transfer_to_who_is_busy(floor: &Floor) {
    let mut first = calls_the_second(floor);
    first.is_reinvited(&[("", "a=sendonly")], Sdp::RecvOnly);
    first.is_reinvited(&[("", "!a=sendonly")], Sdp::Both).waits().hangs_up();
    let mut second = holds("1002");
    second.says("REFER", "Refer-To: <sip:1003@[remote_ip]>\n", None).hears(202, &[]);
    is_told(&mut second, "SIP/2.0 100", "active");
    is_told(&mut second, "SIP/2.0 486", "terminated;reason=noresource");
    second.reinvites(Sdp::Both, &[]).is_hung_up_on();
    let mut third = Ladder::is_called(&Floor::user("1003"), &[]);
    third.answers(486, "", None).is_asked("ACK", &[]);
    let third = floor.phone("third", "1003", &third);
    let [first, second] = both(floor, "blind-busy", &first, &second);
    floor.talk(["1001", "1002"], SOME);
    second.go();
    third.ends_well();
    floor.talk(["1001", "1002"], SOME);
    first.go();
    floor.is_over(vec![first, second]);
}

/// RFC 5359, 2.5: who was called asks a third by a second line, and joins the two (RFC 3891).
fn an_attended_transfer(floor: &Floor) {
    let mut first = calls_the_second(floor);
    first.is_reinvited(&[("", "a=sendonly")], Sdp::RecvOnly);
    first.is_reinvited(&[("", "!a=sendonly")], Sdp::Both).waits().hangs_up();
    let mut second = holds("1002");
    second.waits().says("REFER", &format!("Refer-To:{TOLD}\n"), None).hears(202, &[]);
    is_told(&mut second, "SIP/2.0 100", "active");
    is_told(&mut second, "SIP/2.0 200", "terminated;reason=noresource");
    second.hangs_up();
    let [mut line, mut third] = asks_the_third(floor);
    line.is_known().is_hung_up_on();
    third.is_reinvited(&[], Sdp::Both).is_hung_up_on();
    let third = floor.phone("third", "1003", &third);
    let [first, second] = both(floor, "attended", &first, &second);
    floor.talk(["1001", "1002"], SOME);
    second.go();
    second.is_there();
    let line = floor.line("line", "1002", &line);
    floor.talk(["1002", "1003"], SOME);
    second.go_with(&format!("<sip:1003@127.0.0.1?Replaces={}>", line.replaces_escaped()));
    second.ends_well();
    line.ends_well();
    floor.talk(["1001", "1003"], SOME);
    first.go();
    floor.is_over(vec![first, third]);
}

/// The same by who called: it is the other side of the first dialog that is joined.
fn an_attended_transfer_by_the_caller(floor: &Floor) {
    let mut first = calls_the_second(floor);
    first.waits().reinvites(Sdp::SendOnly, &[("", "a=recvonly")]);
    first.waits().says("REFER", &format!("Refer-To:{TOLD}\n"), None).hears(202, &[]);
    is_told(&mut first, "SIP/2.0 100", "active");
    is_told(&mut first, "SIP/2.0 200", "terminated;reason=noresource");
    first.hangs_up();
    let mut second = answers("1002");
    second.is_reinvited(&[("", "a=sendonly")], Sdp::RecvOnly);
    second.is_reinvited(&[("", "!a=sendonly")], Sdp::Both).is_hung_up_on();
    let mut line = floor.calls("1001", "1003", Some(Sdp::Both));
    line.hears(180, &[]).hears_of(200, &[]).acks(None).talks().is_known().is_hung_up_on();
    let mut third = answers("1003");
    third.is_reinvited(&[], Sdp::Both).waits().hangs_up();
    let third = floor.phone("third", "1003", &third);
    let [first, second] = both(floor, "attended-back", &first, &second);
    floor.talk(["1001", "1002"], SOME);
    first.go();
    first.is_there();
    let line = floor.line("line", "1001", &line);
    floor.talk(["1001", "1003"], SOME);
    first.go_with(&format!("<sip:1003@127.0.0.1?Replaces={}>", line.replaces_escaped()));
    first.ends_well();
    line.ends_well();
    floor.talk(["1002", "1003"], SOME);
    third.go();
    floor.is_over(vec![second, third]);
}

/// RFC 5359, 2.15: who was called holds; a third takes the held caller by an INVITE that names the dialog.
fn a_park(floor: &Floor) {
    let mut first = calls_the_second(floor);
    first.is_reinvited(&[("", "a=sendonly")], Sdp::RecvOnly);
    first.is_reinvited(&[("", "!a=sendonly")], Sdp::Both).waits().hangs_up();
    let mut second = holds("1002");
    second.is_known().is_hung_up_on();
    let [first, second] = both(floor, "park", &first, &second);
    floor.talk(["1001", "1002"], SOME);
    second.go();
    let lines = format!("Replaces: {}\nRequire: replaces\n", second.replaces());
    let (user, secret) = (Floor::user("1003"), Some(floor.secret("1003")));
    let mut third = Ladder::calls_with(&user, secret, "1002", &lines, Some(Sdp::Both));
    third.hears_of(200, &[("", "m=audio")]).acks(None).talks().is_hung_up_on();
    let third = floor.phone("third", "1003", &third);
    second.ends_well();
    floor.talk(["1001", "1003"], SOME);
    first.go();
    floor.is_over(vec![first, third]);
}

/// RFC 5359, 2.16: the second's phone rings, the third takes the call by an INVITE that names the early dialog.
fn a_pickup(floor: &Floor) {
    let mut first = floor.calls("1001", "1002", Some(Sdp::Both));
    first.hears(180, &[]).hears_of(200, &[("", "m=audio")]).acks(None).talks().waits().hangs_up();
    let mut second = Ladder::is_called(&Floor::user("1002"), &[]);
    second.answers(180, "", None).is_known().is_asked("CANCEL", &[("Reason:", "cause=200")]);
    second.answers(200, "", None).refuses_the_invite(487).is_asked("ACK", &[]);
    let parties = both(floor, "pickup", &first, &second);
    let lines = format!("Replaces: {};early-only\nRequire: replaces\n", parties[1].replaces());
    let (user, secret) = (Floor::user("1003"), Some(floor.secret("1003")));
    let mut third = Ladder::calls_with(&user, secret, "1002", &lines, Some(Sdp::Both));
    third.hears_of(200, &[("", "m=audio")]).acks(None).talks().is_hung_up_on();
    let third = floor.phone("third", "1003", &third);
    let [first, second] = parties;
    second.ends_well();
    floor.talk(["1001", "1003"], SOME);
    first.go();
    floor.is_over(vec![first, third]);
}

#[test]
fn transfers_go_as_the_rfc_draws_them() {
    let _turn = turn();
    let mut floor = Floor::start(&["1001", "1002", "1003"], &[]);
    a_consultation(&floor);
    a_blind_transfer(&floor);
    a_blind_transfer_to_who_is_busy(&floor);
    an_attended_transfer(&floor);
    an_attended_transfer_by_the_caller(&floor);
    a_park(&floor);
    a_pickup(&floor);
    assert_eq!(floor.demo.counter("transfers_completed"), 4);
    floor.demo.process.stop();
}

/// RFC 5359, 2.7 to 2.9: the call goes to the third, who is told from whom it comes.
fn a_forward(floor: &Floor, rule: &[&str], second: Option<Ladder>, reason: &str) {
    floor.tool(&[&["forward", "set", "1002"], rule].concat());
    let mut first = floor.calls("1001", "1002", Some(Sdp::Both));
    let rang = second.is_some();
    if rang {
        first.hears(180, &[]);
    }
    first.hears(181, &[]).hears(180, &[]).hears_of(200, &[]).acks(None).talks().waits().hangs_up();
    let diversion = format!("sip:1002@.*reason={reason}");
    let looks = [("From:", "sip:1001@"), ("Diversion:", diversion.as_str())];
    let mut third = Ladder::is_called(&Floor::user("1003"), &looks);
    third.answers(180, "", None).answers(200, "", Some(Sdp::Both)).is_asked("ACK", &[]).talks();
    third.is_hung_up_on();
    let mut parties: Vec<Party> =
        second.iter().map(|second| floor.phone("second", "1002", second)).collect();
    parties.push(floor.phone("third", "1003", &third));
    let first = floor.phone("first", "1001", &first);
    floor.talk(["1001", "1003"], SOME);
    first.go();
    parties.push(first);
    floor.is_over(parties);
    floor.tool(&["forward", "remove", "1002"]);
}

/// A phone that rings until it is told to stop.
fn rings_in_vain(agent: &str) -> Ladder {
    let mut phone = Ladder::is_called(&Floor::user(agent), &[]);
    phone.answers(180, "", None).is_asked("CANCEL", &[]).answers(200, "", None);
    phone.refuses_the_invite(487).is_asked("ACK", &[]);
    phone
}

/// RFC 5359, 2.12, by rules of which one leads to the next: nobody answers, the next is busy, the last takes the call.
fn a_find_me(floor: &Floor) {
    floor.tool(&["forward", "set", "1002", "--no-answer", "1003", "--after", "1"]);
    floor.tool(&["forward", "set", "1003", "--busy", "1004"]);
    let mut first = floor.calls("1001", "1002", Some(Sdp::Both));
    // It is told twice that its call goes elsewhere, by the same bytes, which SIPp takes for one message.
    first.hears(180, &[]).hears(181, &[]).hears(180, &[]).hears_of(200, &[]).acks(None);
    first.talks().waits().hangs_up();
    let mut third =
        Ladder::is_called(&Floor::user("1003"), &[("Diversion:", "sip:1002@.*no-answer")]);
    third.answers(486, "", None).is_asked("ACK", &[]);
    let looks = [("From:", "sip:1001@"), ("Diversion:", "sip:1003@.*user-busy")];
    let mut fourth = Ladder::is_called(&Floor::user("1004"), &looks);
    fourth.answers(180, "", None).answers(200, "", Some(Sdp::Both)).is_asked("ACK", &[]).talks();
    fourth.is_hung_up_on();
    let mut parties = vec![
        floor.phone("second", "1002", &rings_in_vain("1002")),
        floor.phone("third", "1003", &third),
        floor.phone("fourth", "1004", &fourth),
    ];
    let first = floor.phone("first", "1001", &first);
    floor.talk(["1001", "1004"], SOME);
    first.go();
    parties.push(first);
    floor.is_over(parties);
    for number in ["1002", "1003"] {
        floor.tool(&["forward", "remove", number]);
    }
}

/// RFC 5359, 2.12, by a list: the agent's own phone for a second, then one that is busy, then one that takes the call.
fn a_hunt(floor: &Floor) {
    floor.tool(&["forward", "set", "1002", "--always", "1002/1,1003/20,1004"]);
    let mut first = floor.calls("1001", "1002", Some(Sdp::Both));
    first.hears(181, &[]).hears(180, &[]).may_hear(180).hears_of(200, &[]).acks(None);
    first.talks().waits().hangs_up();
    let mut third = Ladder::is_called(&Floor::user("1003"), &[("From:", "sip:1001@")]);
    third.answers(486, "", None).is_asked("ACK", &[]);
    let looks = [("From:", "sip:1001@"), ("Diversion:", "sip:1002@.*unconditional")];
    let mut fourth = Ladder::is_called(&Floor::user("1004"), &looks);
    fourth.answers(180, "", None).answers(200, "", Some(Sdp::Both)).is_asked("ACK", &[]).talks();
    fourth.is_hung_up_on();
    let mut parties = vec![
        floor.phone("second", "1002", &rings_in_vain("1002")),
        floor.phone("third", "1003", &third),
        floor.phone("fourth", "1004", &fourth),
    ];
    let first = floor.phone("first", "1001", &first);
    floor.talk(["1001", "1004"], SOME);
    first.go();
    parties.push(first);
    floor.is_over(parties);
    floor.tool(&["forward", "remove", "1002"]);
    assert_eq!(floor.demo.counter("calls_hunted"), 1);
}

/// RFC 3665, 3.6, where we follow for the caller: the second's phone names the third.
fn a_redirection(floor: &Floor) {
    let mut second = Ladder::is_called(&Floor::user("1002"), &[("From:", "sip:1001@")]);
    second.answers(302, "Contact: <sip:1003@127.0.0.1:15060>\n", None).is_asked("ACK", &[]);
    let mut first = calls_the_second(floor);
    first.waits().hangs_up();
    let mut third = answers("1003");
    third.is_hung_up_on();
    let mut parties =
        vec![floor.phone("second", "1002", &second), floor.phone("third", "1003", &third)];
    let first = floor.phone("first", "1001", &first);
    floor.talk(["1001", "1003"], SOME);
    first.go();
    parties.push(first);
    floor.is_over(parties);
    assert_eq!(floor.demo.counter("calls_redirected"), 1);
}

/// RFC 5359, 2.18: control calls the first's phone and then the second's, as one who has both (RFC 3725, 4.1).
fn a_click(floor: &Floor) {
    let mut first =
        Ladder::is_called(&Floor::user("1001"), &[("From:", "sip:1002@"), ("", "m=audio")]);
    first.answers(180, "", None).answers(200, "", Some(Sdp::Both)).is_asked("ACK", &[]).talks();
    first.is_reinvited(&[], Sdp::Both).waits().hangs_up();
    let mut second = answers("1002");
    second.is_hung_up_on();
    let parties = both(floor, "click", &first, &second);
    floor.tool(&["call", "dial", "--from", "1001", "--to", "1002"]);
    floor.talk(["1001", "1002"], SOME);
    parties[0].go();
    floor.is_over(parties.into());
}

#[test]
fn forwards_go_as_the_rfc_draws_them() {
    let _turn = turn();
    let mut floor = Floor::start(&["1001", "1002", "1003", "1004"], &[]);
    a_forward(&floor, &["--always", "1003"], None, "unconditional");
    let mut busy = Ladder::is_called(&Floor::user("1002"), &[]);
    busy.answers(180, "", None).answers(486, "", None).is_asked("ACK", &[]);
    a_forward(&floor, &["--busy", "1003"], Some(busy), "user-busy");
    let late = ["--no-answer", "1003", "--after", "1"];
    a_forward(&floor, &late, Some(rings_in_vain("1002")), "no-answer");
    a_find_me(&floor);
    a_hunt(&floor);
    a_redirection(&floor);
    a_click(&floor);
    floor.demo.process.stop();
}
