//! Two agents of two blades call each other at the same moment (G-03).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use softphone::{Event, Order, Why};

use crate::lab::{turn, wait_for};
use crate::phone::Softphone;
use crate::site::{BladeHost, Site, phones};

/// How often without `GLARES_REAL`.
const TIMES: usize = 20;
/// Long enough for a call on a busy machine.
const LIMIT: Duration = Duration::from_secs(10);
/// How long the two talk: some packets of each.
const TALK: Duration = Duration::from_millis(200);

/// What became of one side's own call, and whether the other's came.
#[derive(Debug, Default)]
struct Side {
    incoming: usize,
    answered: usize,
    refused: Vec<u16>,
    rang: usize,
    events: Vec<Event>,
}

impl Side {
    fn hear(&mut self, event: Event) {
        match &event {
            Event::Incoming { .. } => self.incoming += 1,
            Event::Answered => self.answered += 1,
            Event::Ringing => self.rang += 1,
            Event::Ended(Why::Refused(status)) => self.refused.push(*status),
            _ => {}
        }
        self.events.push(event);
    }
}

/// Listens to both until a call stands and the other one is refused, or both are. On a busy machine one of them may
/// be called before it calls: then nothing is refused.
fn outcome(phones: [&Softphone; 2]) -> [Side; 2] {
    let mut end = Instant::now() + LIMIT;
    let mut sides = [Side::default(), Side::default()];
    let mut stood = false;
    loop {
        for (side, phone) in sides.iter_mut().zip(phones) {
            while let Some(event) = phone.next(Duration::from_millis(1)) {
                side.hear(event);
            }
        }
        let [one, two] = &sides;
        let stands = one.answered > 0 && two.answered > 0;
        let refused = one.refused.len() + two.refused.len();
        if stands && !stood {
            (stood, end) = (true, Instant::now() + Duration::from_secs(1));
        }
        if stands && refused > 0 || refused > 1 || Instant::now() > end {
            return sides;
        }
    }
}

/// Issue "Many blades", line 6: exactly one call survives each time, and no phone rings for the other.
#[test]
fn of_two_who_call_each_other_one_call_survives() {
    let _turn = turn();
    let times = std::env::var("GLARES_REAL").map_or(TIMES, |text| text.parse().expect("a number"));
    let site = Site::start(2, 2);
    let logins = [1001, 1002].map(|number| site.log_in(number, 1));
    let ccbs = logins.each_ref().map(|login| login["ccb"]["device_number"].clone());
    assert_ne!(ccbs[0], ccbs[1], "both are at one blade");
    let phones =
        logins.each_ref().map(|login| Softphone::start_on(&site.floor, login, phones(), 440));
    phones.iter().for_each(Softphone::register);
    let pair = [&phones[0], &phones[1]];
    let mut split = BTreeMap::new();
    let (mut met, mut time) = (0, 0);
    while met < times {
        time += 1;
        assert!(time <= 2 * times + 20, "they met {met} times only");
        let order = |from: usize| {
            let to = ["1002", "1001"][from];
            phones[from].order(Order::Call(to.to_owned()));
        };
        // Who is told first takes turns; the phones look for orders in times of their own.
        [time % 2, 1 - time % 2].into_iter().for_each(order);
        let sides = outcome(pair);
        let [one, two] = &sides;
        let answered = (one.answered, two.answered, one.incoming + two.incoming);
        assert_eq!(answered, (1, 1, 1), "{time}: {sides:#?}");
        let caller = usize::from(one.incoming == 1);
        assert!(sides[caller].refused.is_empty(), "{time}: {sides:#?}");
        if let [status] = sides[1 - caller].refused[..] {
            met += 1;
            *split.entry((["1001", "1002"][caller], status)).or_insert(0_usize) += 1;
        }
        // They talk for as long.
        std::thread::sleep(TALK);
        phones[time % 2].hang_up();
        phones[1 - time % 2].expect_end();
        let free = wait_for(LIMIT, || {
            let none = |blade: &BladeHost| Some(blade.leases()?.is_empty());
            (site.blades.iter().all(|blade| none(blade) == Some(true))).then_some(())
        });
        assert!(free.is_some(), "{time}: a lease is left");
    }
    println!(
        "{met} of {time} times they met; (whose call survived, what the other heard): {split:?}"
    );
    site.expect_all_free();
    site.expect_no_lease();
    for phone in phones {
        let report = phone.end();
        let least = times as u64 * 4;
        assert!(report.rtp_lost == 0 && report.rtp_received > least, "{report:?}");
    }
}
