//! The flows of RFC 3665 (3: sessions) and RFC 5359 (2: services), with SIPp's phones at both ends.
//!
//! | RFC | flow | here, elsewhere, or why not |
//! |---|---|---|
//! | 3665, 3.1 | a session | every test here |
//! | 3.2 | by two proxies | `kamailio`: a record-routing proxy, both ways |
//! | 3.3 | a proxy that asks for proof | every caller here that is an agent: 401, ACK, INVITE |
//! | 3.4 | a proxy that fails | `trunks_speak_the_extensions`: 503, then the next address |
//! | 3.5 | by an ALG | `two_baresips_talk_through_two_locations`: we are what it describes |
//! | 3.6 | redirected; SDP in ACK | SDP in ACK: `sessions`; redirections are not followed (RFC.md, 8.1.3.4) |
//! | 3.7 | a re-INVITE that moves media | `sessions` |
//! | 3.8 | no answer | `sessions`: CANCEL, 487; by our own limit: worker `a_phone_that_is_silent_times_out` |
//! | 3.9 | busy | `sessions` |
//! | 3.10 | no response | worker `a_phone_that_is_silent_times_out`: 64*T1 in virtual time |
//! | 3.11 | unavailable | `sessions` |
//! | 5359, 2.1 | hold, retrieve | `holds`: sendonly, inactive, 0.0.0.0 |
//! | 2.2 | consultation hold | `transfers` |
//! | 2.3 | music on hold | `holds`: ours, from the tenant's file; heard by `baresips` |
//! | 2.4 | transfer, unattended | `transfers`, and `transfer` with baresip |
//! | 2.5 | transfer, attended | `transfers` |
//! | 2.6 | transfer of instant messages | no: MESSAGE is 405 |
//! | 2.7, 2.8, 2.9 | forwarding: always, busy, no answer | `forwards` |
//! | 2.10 | a third party is added | `supervision`, `media`: conferences of the desk |
//! | 2.11 | a third party joins | `supervision`: barge; the Join header is not known (420) |
//! | 2.12 | find-me | `forwards` |
//! | 2.13, 2.14 | screening | a policy of routes: `calls_come_from_trunks_and_leave_by_them` |
//! | 2.15 | park | `transfers`: a held call is taken by INVITE with Replaces |
//! | 2.16 | pickup | `transfers` |
//! | 2.17 | automatic redial | no: the dialog event package is not known (489) |
//! | 2.18 | click to dial | `forwards`: by control's API instead of REFER out of a dialog (403) |

mod ladder;
mod party;

use std::net::UdpSocket;
use std::time::Duration;

use ladder::{Ladder, Sdp, TOLD};
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

/// RFC 3665, 3.1: the caller hangs up; then the called party does.
fn a_session(floor: &Floor) {
    for ends in [0, 1] {
        let (mut caller, mut called) = (calls_the_second(floor), answers("1002"));
        match ends {
            0 => drop((caller.waits().hangs_up(), called.is_hung_up_on())),
            _ => drop((called.waits().hangs_up(), caller.is_hung_up_on())),
        }
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
    called.answers(180, "", None).is_asked("CANCEL", &[("CSeq:", " 1 CANCEL")]).answers(200, "", None);
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
