//! Each machine, all of it: every pair of state and event, against the RFC's drawing as a table.
//! What a table leaves out changes nothing and does nothing.

use core::fmt::Debug;

use crate::transaction::action::{
    Action::{self, Ack, GiveUp, Pass, Repeat, RepeatSlowly, Send, Start},
    Timer,
};
use crate::transaction::{client_invite, client_other, server_invite, server_other};

const TIMERS: [Timer; 16] = [
    Timer::A,
    Timer::B,
    Timer::D,
    Timer::E,
    Timer::F,
    Timer::G,
    Timer::H,
    Timer::I,
    Timer::J,
    Timer::K,
    Timer::L,
    Timer::M,
    Timer::Success,
    Timer::Cancelled,
    Timer::Unanswered,
    Timer::Trying,
];

type Row<S, E> = (S, E, S, &'static [Action]);

fn check<S, E>(
    states: &[S],
    events: &[E],
    table: &[Row<S, E>],
    step: impl Fn(S, E) -> (S, &'static [Action]),
) where
    S: Copy + Debug + PartialEq,
    E: Copy + Debug + PartialEq,
{
    for &(state, event, ..) in table {
        assert!(states.contains(&state) && events.contains(&event), "{state:?} {event:?}");
        let same = table.iter().filter(|row| row.0 == state && row.1 == event).count();
        assert_eq!(same, 1, "{state:?} {event:?} stands twice in the table");
    }
    for &state in states {
        for &event in events {
            let row = table.iter().find(|row| row.0 == state && row.1 == event);
            let want = row.map_or((state, &[][..]), |row| (row.2, row.3));
            assert_eq!(step(state, event), want, "{state:?} on {event:?}");
        }
    }
}

fn with_timers<E>(events: &[E], fired: impl Fn(Timer) -> E) -> Vec<E>
where
    E: Copy,
{
    events.iter().copied().chain(TIMERS.map(fired)).collect()
}

#[test]
fn invite_client() {
    use client_invite::{Event, State, step};
    use client_invite::{Event::*, State::*};
    let states: [State; 5] = [Calling, Proceeding, Completed, Accepted, Terminated];
    let events = with_timers(&[Provisional, Success, Refusal], Event::Fired);
    let table: [Row<State, Event>; 13] = [
        (Calling, Provisional, Proceeding, &[Pass]),
        (Calling, Success, Accepted, &[Pass, Start(Timer::M)]),
        (Calling, Refusal, Completed, &[Ack, Pass, Start(Timer::D)]),
        (Calling, Fired(Timer::A), Calling, &[Send, Repeat(Timer::A)]),
        (Calling, Fired(Timer::B), Terminated, &[GiveUp]),
        (Proceeding, Provisional, Proceeding, &[Pass]),
        (Proceeding, Success, Accepted, &[Pass, Start(Timer::M)]),
        (Proceeding, Refusal, Completed, &[Ack, Pass, Start(Timer::D)]),
        (Proceeding, Fired(Timer::Cancelled), Terminated, &[GiveUp]),
        (Completed, Refusal, Completed, &[Ack]),
        (Completed, Fired(Timer::D), Terminated, &[]),
        (Accepted, Success, Accepted, &[Pass]),
        (Accepted, Fired(Timer::M), Terminated, &[]),
    ];
    check(&states, &events, &table, step);
    assert_eq!(client_invite::START, [Send, Start(Timer::A), Start(Timer::B)]);
}

#[test]
fn other_client() {
    use client_other::{Event, State, step};
    use client_other::{Event::*, State::*};
    let states: [State; 4] = [Trying, Proceeding, Completed, Terminated];
    let events = with_timers(&[Provisional, Final], Event::Fired);
    let table: [Row<State, Event>; 9] = [
        (Trying, Provisional, Proceeding, &[Pass]),
        (Trying, Final, Completed, &[Pass, Start(Timer::K)]),
        (Trying, Fired(Timer::E), Trying, &[Send, Repeat(Timer::E)]),
        (Trying, Fired(Timer::F), Terminated, &[GiveUp]),
        (Proceeding, Provisional, Proceeding, &[Pass]),
        (Proceeding, Final, Completed, &[Pass, Start(Timer::K)]),
        (Proceeding, Fired(Timer::E), Proceeding, &[Send, RepeatSlowly(Timer::E)]),
        (Proceeding, Fired(Timer::F), Terminated, &[GiveUp]),
        (Completed, Fired(Timer::K), Terminated, &[]),
    ];
    check(&states, &events, &table, step);
    assert_eq!(client_other::START, [Send, Start(Timer::E), Start(Timer::F)]);
}

#[test]
fn invite_server() {
    use server_invite::{Event, State, step};
    use server_invite::{Event::Fired, State::*};
    let states: [State; 6] = [Proceeding, Completed, Confirmed, Accepted, Acknowledged, Terminated];
    let events = with_timers(
        &[
            Event::Invite,
            Event::Ack,
            Event::Provisional,
            Event::Success,
            Event::Refusal,
            Event::Acknowledged,
        ],
        Event::Fired,
    );
    let table: [Row<State, Event>; 18] = [
        (Proceeding, Event::Invite, Proceeding, &[Send]),
        (Proceeding, Fired(Timer::Trying), Proceeding, &[Send]),
        (Proceeding, Event::Provisional, Proceeding, &[Send]),
        (Proceeding, Event::Refusal, Completed, &[Send, Start(Timer::G), Start(Timer::H)]),
        (Proceeding, Event::Success, Accepted, &[Send, Start(Timer::L), Start(Timer::Success)]),
        (Completed, Event::Invite, Completed, &[Send]),
        (Completed, Event::Ack, Confirmed, &[Start(Timer::I)]),
        (Completed, Fired(Timer::G), Completed, &[Send, Repeat(Timer::G)]),
        (Completed, Fired(Timer::H), Terminated, &[GiveUp]),
        (Confirmed, Fired(Timer::I), Terminated, &[]),
        (Accepted, Event::Ack, Accepted, &[Pass]),
        (Accepted, Event::Success, Accepted, &[Send]),
        (Accepted, Event::Acknowledged, Acknowledged, &[]),
        (Accepted, Fired(Timer::Success), Accepted, &[Send, Repeat(Timer::Success)]),
        (Accepted, Fired(Timer::L), Terminated, &[GiveUp]),
        (Acknowledged, Event::Ack, Acknowledged, &[Pass]),
        (Acknowledged, Event::Success, Acknowledged, &[Send]),
        (Acknowledged, Fired(Timer::L), Terminated, &[]),
    ];
    check(&states, &events, &table, step);
    assert_eq!(server_invite::START, [Pass]);
}

#[test]
fn other_server() {
    use server_other::{Event, State, step};
    use server_other::{Event::*, State::*};
    let states: [State; 4] = [Trying, Proceeding, Completed, Terminated];
    let events = with_timers(&[Request, Provisional, Final], Event::Fired);
    let table: [Row<State, Event>; 9] = [
        (Trying, Provisional, Proceeding, &[Send]),
        (Trying, Final, Completed, &[Send, Start(Timer::J)]),
        (Trying, Fired(Timer::Unanswered), Terminated, &[GiveUp]),
        (Proceeding, Request, Proceeding, &[Send]),
        (Proceeding, Provisional, Proceeding, &[Send]),
        (Proceeding, Final, Completed, &[Send, Start(Timer::J)]),
        (Proceeding, Fired(Timer::Unanswered), Terminated, &[GiveUp]),
        (Completed, Request, Completed, &[Send]),
        (Completed, Fired(Timer::J), Terminated, &[]),
    ];
    check(&states, &events, &table, step);
    assert_eq!(server_other::START, [Pass, Start(Timer::Unanswered)]);
}

/// Table 4 of RFC 3261, and RFC 6026, for UDP; in milliseconds.
#[test]
fn timer_lengths() {
    let first = |timer: Timer| timer.first().as_millis();
    let repeating = [Timer::A, Timer::E, Timer::G, Timer::Success];
    for timer in TIMERS {
        let want = match timer {
            _ if repeating.contains(&timer) => 500,
            Timer::I | Timer::K => 5_000,
            _ => 32_000,
        };
        assert_eq!(first(timer), want, "{timer:?}");
        assert_eq!(timer.repeats(), repeating.contains(&timer), "{timer:?}");
    }
    for timer in repeating {
        let mut interval = timer.first();
        let mut intervals = vec![interval.as_millis()];
        for _ in 0..5 {
            interval = timer.next(interval);
            intervals.push(interval.as_millis());
        }
        let want = match timer {
            Timer::A => [500, 1000, 2000, 4000, 8000, 16000],
            _ => [500, 1000, 2000, 4000, 4000, 4000],
        };
        assert_eq!(intervals, want, "{timer:?}");
    }
}
