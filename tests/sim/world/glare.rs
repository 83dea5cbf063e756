//! Two agents of two blades who call each other within the same millisecond, over and over (G-03).

use softphone::{Event, Why};

use super::*;

/// What came of all rounds.
#[derive(Debug, Default)]
pub struct Glares {
    pub rounds: u64,
    /// Calls of the first agent that went on, and of the second.
    pub won: [u64; 2],
    /// Calls that gave way in the data plane.
    pub yielded: u64,
}

/// Plays so many rounds on a good network; an error says in which one not exactly one call went on, or a phone rang
/// for the other.
pub fn glare(rounds: u64) -> Result<Glares, String> {
    let seed = (0..).find(|seed| World::new(*seed, Plant::Nothing).bus.is_some());
    let mut world = World::new(seed.expect("half of them have"), Plant::Nothing);
    world.network = Network::quiet(Rng::from_number(1));
    world.bus = Some(Bus::quiet(Rng::from_number(2)));
    world.listens = true;
    world.acts.clear();
    for which in 0..2 {
        world.after_ms(0, Act::StartDataPlane(which));
        world.after_ms(1, Act::StartControl(which));
        world.after_ms(2_000, Act::Login(which));
    }
    world.after_ms(50, Act::Beat);
    world.play_for(Duration::from_secs(8));
    let mut sum = Glares::default();
    for round in 0..rounds {
        world.round(&mut sum).map_err(|what| format!("round {round}: {what}"))?;
    }
    let counters = world.ccbs.iter().map(|ccb| ccb.region.counters());
    sum.yielded = counters.map(|counters| counters.total(Counter::CallsYielded)).sum();
    for ccb in &world.ccbs {
        let held = ccb.region.leases().held();
        expect(held == 0, || format!("CCB {}: {held} lease words are held", ccb.id))?;
    }
    Ok(sum)
}

impl World {
    fn play_for(&mut self, time: Duration) {
        let end = self.now + time;
        self.play_until(end);
    }

    fn round(&mut self, sum: &mut Glares) -> Result<(), String> {
        self.heard.clear();
        let (first, lag) = (self.rng.below(2) as usize, self.rng.below(1_000));
        for (desk, us) in [(first, 0), (1 - first, lag)] {
            self.play_for(Duration::from_micros(us));
            let other = self.desks[1 - desk].number.clone();
            self.phone(desk, PhoneInput::Order(Order::Call(other)));
        }
        self.play_for(Duration::from_millis(900));
        let times = |desk: usize, is: fn(&Event) -> bool| {
            self.heard.iter().filter(|(of, event)| *of == desk && is(event)).count()
        };
        let answered = [0, 1].map(|desk| times(desk, |event| *event == Event::Answered));
        let rang = [0, 1].map(|desk| times(desk, |it| matches!(it, Event::Incoming { .. })));
        let refused =
            [0, 1].map(|desk| times(desk, |it| matches!(it, Event::Ended(Why::Refused(486)))));
        let winner = if rang[1] == 1 { 0 } else { 1 };
        let is_one = answered == [1, 1] && rang[1 - winner] == 1;
        let is_quiet = rang[winner] == 0 && refused[winner] == 0 && refused[1 - winner] == 1;
        expect(is_one && is_quiet, || format!("lag {lag} us after {first}: {:?}", self.heard))?;
        sum.rounds += 1;
        sum.won[winner] += 1;
        let who = self.rng.below(2) as usize;
        self.phone(who, PhoneInput::Order(Order::HangUp));
        self.play_for(Duration::from_millis(100));
        let is_over = self.desks[..2].iter().all(|desk| !desk.phone.is_busy());
        expect(is_over, || "a call does not end".into())
    }
}
