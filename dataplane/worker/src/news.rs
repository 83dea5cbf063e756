//! What control is told, and when it is woken for that.
//!
//! Waking it costs both sides more than the event itself. What it must answer wakes it at once; how calls and
//! registrations go on may wait a moment, in which more of that comes together.

use core::time::Duration;

use abi::{Class, Counter, Event, EventSender, Wake};
use base::Instant;

use crate::Effect;
use crate::worker::Worker;

/// How long news waits that nobody waits for, counted from when control was woken last, in milliseconds: whoever
/// wakes a quiet control is heard at once.
pub const NEWS_WAIT_MS: u64 = 10;

/// The way to control.
#[derive(Debug)]
pub struct News {
    events: EventSender,
    /// What the ring holds that control was not woken for.
    untold: Untold,
    woken_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Untold {
    Nothing,
    /// It may wait.
    News,
    /// Somebody waits for what control does about it.
    Urgent,
}

impl News {
    /// Nothing was told.
    pub fn new(events: EventSender) -> News {
        News { events, untold: Untold::Nothing, woken_at: None }
    }

    /// When [`News::wake`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        match self.untold {
            Untold::Nothing => None,
            Untold::News => Some(self.rests_until().unwrap_or(Instant::ZERO)),
            Untold::Urgent => Some(Instant::ZERO),
        }
    }

    /// True when control is to be rung for now.
    fn wake(&mut self, now: Instant) -> bool {
        if self.deadline().is_none_or(|deadline| deadline > now) {
            return false;
        }
        self.untold = Untold::Nothing;
        let needed = self.events.wake() == Wake::Needed;
        if needed {
            self.woken_at = Some(now);
        }
        needed
    }

    fn rests_until(&self) -> Option<Instant> {
        self.woken_at.map(|at| at + Duration::from_millis(NEWS_WAIT_MS))
    }
}

/// True for what nobody waits for.
fn may_wait(event: &Event) -> bool {
    matches!(
        event,
        Event::CallChanged { .. }
            | Event::Held { .. }
            | Event::Registered { .. }
            | Event::Unregistered { .. }
            | Event::Digit { .. }
            | Event::SourceRefused { .. }
            | Event::SourceBanned { .. }
    )
}

impl Worker {
    /// Tells control something that it must know.
    pub(crate) fn tell(&mut self, event: Event) {
        self.tell_with(event, &[]);
    }

    /// The same, with what does not fit a record.
    pub(crate) fn tell_with(&mut self, event: Event, blob: &[u8]) {
        self.tell_as(event, blob, Class::Call);
    }

    /// The same, of a class: statistics leave room to calls.
    pub(crate) fn tell_as(&mut self, event: Event, blob: &[u8], class: Class) {
        let urgency = if may_wait(&event) { Untold::News } else { Untold::Urgent };
        match self.news.events.put(&event, blob, class) {
            Ok(()) => self.news.untold = self.news.untold.max(urgency),
            // The numbers of events tell control that one is missing; it reads the tables then.
            Err(_) if class == Class::Statistic => self.count(Counter::EventsGaveWay),
            Err(_) => self.count(Counter::EventsLost),
        }
    }

    /// One ring of control's bell however many events there are.
    pub(crate) fn ring_control(&mut self, now: Instant, out: &mut Vec<Effect>) {
        if self.news.wake(now) {
            out.push(Effect::WakeControl);
        }
    }
}

#[cfg(test)]
mod tests {
    use abi::{CallState, Layout, OpResult, Region};
    use base::{CallRef, CcbId, WorkerId};

    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn news_waits_from_the_last_ring_and_what_is_urgent_does_not() {
        let region = Region::in_memory(Layout {
            ccb: CcbId(1),
            workers: 1,
            agents: 4,
            calls_per_worker: 4,
            legs_per_worker: 8,
            ring_slots: 16,
            blob_bytes: 4096,
            tenants: 1,
            trunks: 1,
            locations: 1,
        });
        let bell = region.header().control_bell();
        let mut news = News::new(region.event_sender(WorkerId(0)));
        let call = CallRef { slot: 0, generation: 1 };
        let state = CallState::Answered;
        let changed = Event::CallChanged { call, serial: 7, state, cause: 0 };
        let done = Event::Done { op: 1, result: OpResult::Ok };
        let tell = |news: &mut News, event: Event, urgency| {
            news.events.put(&event, &[], Class::Call).expect("there is room");
            news.untold = news.untold.max(urgency);
        };
        assert!(may_wait(&changed) && !may_wait(&done));
        assert!(news.deadline().is_none() && !news.wake(at(0)));
        // A quiet control is woken at once.
        bell.sleep();
        tell(&mut news, changed, Untold::News);
        assert!(news.wake(at(10)));
        assert_eq!(news.deadline(), None);
        // It sleeps again; now news gathers.
        bell.sleep();
        tell(&mut news, changed, Untold::News);
        assert_eq!(news.deadline(), Some(at(10 + NEWS_WAIT_MS)));
        assert!(!news.wake(at(10)) && !news.wake(at(9 + NEWS_WAIT_MS)));
        assert!(bell.is_asleep(), "whoever has something urgent may ring");
        tell(&mut news, done, Untold::Urgent);
        assert!(news.wake(at(11)));
        // An awake control is not rung, and looks before it sleeps.
        tell(&mut news, changed, Untold::News);
        assert!(!news.wake(at(12 + NEWS_WAIT_MS)));
        assert_eq!(news.deadline(), None);
        bell.sleep();
        tell(&mut news, changed, Untold::News);
        assert!(news.wake(at(30)), "the last ring was long ago");
    }
}
