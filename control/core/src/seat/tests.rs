use super::*;

const T0: Instant = Instant::from_nanos(1_000_000_000_000);
const WRAP: Duration = Duration::from_secs(10);
const NONE: Duration = Duration::ZERO;

fn at(seconds: u64) -> Instant {
    T0 + Duration::from_secs(seconds)
}

fn why(name: &str) -> Reason {
    reason(name)
}

fn seat(work: Work, engaged: Engaged) -> Seat {
    let talked = matches!(engaged, Engaged::Talking | Engaged::Held);
    Seat { work, engaged, talked, reachable: true, ..Seat::new(T0) }
}

const WORKS: [Work; 3] = [
    Work::NotReady(Reason::EMPTY),
    Work::Ready,
    Work::AfterCall(Instant::from_nanos(1_005_000_000_000)),
];
const ENGAGED: [Engaged; 5] =
    [Engaged::Free, Engaged::Reserved, Engaged::Ringing, Engaged::Held, Engaged::Talking];

/// The whole machine, 3 s after it began: rows are what the agent wants and is in, columns the changes; shown is
/// what is seen of the seat afterwards.
#[test]
fn every_state_takes_every_change() {
    let changes = [
        SeatChange::Ready,
        SeatChange::NotReady(why("lunch")),
        SeatChange::Unanswered,
        SeatChange::Phone(false),
        SeatChange::Engaged(Engaged::Free, WRAP),
        SeatChange::Engaged(Engaged::Ringing, NONE),
        SeatChange::Engaged(Engaged::Talking, NONE),
        SeatChange::Time,
    ];
    // n not ready, r ready, a after call, R reserved, i ringing, h held, t talking, u unreachable
    let expected = [
        // not ready x (free, reserved, ringing, held, talking)
        "rnnunitn", "RRRRnitR", "iiiiniti", "hhhhnith", "ttttnitt",
        // ready: who talked works after the call
        "rnnuritr", "RRRRritR", "iiiiriti", "hhhhaith", "ttttaitt",
        // after a call, whose time is not over
        "rnnuaita", "RRRRaitR", "iiiiaiti", "hhhhaith", "ttttaitt",
    ];
    let mut rows = expected.iter();
    for work in WORKS {
        for engaged in ENGAGED {
            let row = rows.next().expect("a row each");
            for (change, expected) in changes.iter().zip(row.chars()) {
                let mut seat = seat(work, engaged);
                seat.step(at(3), *change);
                let is = match seat.state() {
                    SeatState::Unreachable => 'u',
                    SeatState::NotReady(_) => 'n',
                    SeatState::Ready(_) => 'r',
                    SeatState::Reserved => 'R',
                    SeatState::Ringing => 'i',
                    SeatState::Talking => 't',
                    SeatState::Held => 'h',
                    SeatState::AfterCall(_) => 'a',
                };
                assert_eq!(is, expected, "{work:?} {engaged:?} {change:?}");
            }
        }
    }
}

#[test]
fn a_day_at_a_desk() {
    use Engaged::{Free, Held, Reserved, Ringing, Talking};
    use SeatChange::{Engaged as In, NotReady, Phone, Ready, Time, Unanswered};
    use SeatEvent::*;
    let mut seat = Seat::new(T0);
    let log_on = why(LOGGED_ON);
    for (seconds, change, told, idle) in [
        (1, Phone(true), Some(AgentNotReady(log_on)), None),
        (2, Ready, Some(AgentReady), Some(2)),
        (3, Ready, None, Some(2)),
        (4, In(Reserved, NONE), Some(AgentBusy), None),
        (5, In(Ringing, NONE), None, None),
        (6, In(Free, WRAP), Some(AgentReady), Some(2)),
        (7, In(Ringing, NONE), Some(AgentBusy), None),
        (8, In(Talking, NONE), None, None),
        (9, In(Held, NONE), None, None),
        (10, In(Talking, NONE), None, None),
        (11, In(Free, WRAP), Some(AgentWorkingAfterCall(WRAP)), None),
        (20, Time, None, None),
        (21, Time, Some(AgentReady), Some(21)),
        (22, In(Talking, NONE), Some(AgentBusy), None),
        (23, NotReady(why("lunch")), None, None),
        (24, In(Free, WRAP), Some(AgentNotReady(why("lunch"))), None),
        (25, Ready, Some(AgentReady), Some(25)),
        (26, In(Talking, NONE), Some(AgentBusy), None),
        (27, Ready, None, None),
        (28, In(Free, WRAP), Some(AgentReady), Some(28)),
        (29, In(Reserved, NONE), Some(AgentBusy), None),
        (30, Unanswered, None, None),
        (31, In(Free, NONE), Some(AgentNotReady(why(NO_ANSWER))), None),
        (32, Ready, Some(AgentReady), Some(32)),
        (33, In(Talking, NONE), Some(AgentBusy), None),
        (34, In(Free, WRAP), Some(AgentWorkingAfterCall(WRAP)), None),
        (35, Ready, Some(AgentReady), Some(35)),
        (36, Phone(false), Some(AgentNotReady(why("unreachable"))), None),
        (37, Phone(true), Some(AgentReady), Some(35)),
        (38, In(Talking, NONE), Some(AgentBusy), None),
        (39, In(Free, NONE), Some(AgentReady), Some(39)),
    ] {
        assert_eq!(seat.step(at(seconds), change), told, "{seconds}");
        assert_eq!(seat.idle_since(), idle.map(at), "{seconds}");
    }
}

#[test]
fn not_ready_that_was_taken_back_during_a_call_leaves_what_was() {
    let mut seat = seat(Work::Ready, Engaged::Talking);
    seat.step(at(1), SeatChange::NotReady(why("lunch")));
    seat.step(at(2), SeatChange::Ready);
    seat.step(at(3), SeatChange::Engaged(Engaged::Free, WRAP));
    assert_eq!(seat.state(), SeatState::AfterCall(at(13)));
}

#[test]
fn who_is_hosted_is_not_chosen() {
    let mut seat = seat(Work::Ready, Engaged::Free);
    assert_eq!(seat.step(at(1), SeatChange::Hosted(Some(CcbId(2)))), None);
    assert_eq!(seat.idle_since(), None);
    seat.step(at(2), SeatChange::Hosted(None));
    assert_eq!(seat.idle_since(), Some(T0), "and has waited all the while");
}

#[test]
fn what_an_agent_wants_outlives_control() {
    let nexts = [Next::Unchanged, Next::Ready, Next::NotReady(why("meeting"))];
    for work in [Work::NotReady(why("lunch")), Work::Ready, Work::AfterCall(at(9))] {
        for next in nexts {
            let mut row = AgentRow::default();
            let before = Seat { next, since: at(5), ..seat(work, Engaged::Talking) };
            before.write(&mut row);
            let after = Seat::rebuilt(&row);
            assert_eq!((after.work, after.next, after.since), (work, next, at(5)));
            assert_eq!(after.engaged, Engaged::Free, "the rows of calls tell that");
        }
    }
    assert_eq!(Seat::rebuilt(&AgentRow::default()).work, Work::NotReady(Reason::EMPTY));
    assert_eq!(reason("ääääääääääääääää").as_bytes().len(), 24, "cut between letters");
}
