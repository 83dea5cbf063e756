//! A thousand blades on one bus: how many messages of which kind, how many bytes, and what a control's core spends.
//!
//! The cores, the hub and what they say to each other are real; the bus is memory, time is virtual, data planes are
//! regions that are said to live. `THOUSAND_BLADES=1000 cargo test --release -p house-tests --test thousand --
//! --nocapture` prints the long run; without it there are fewer.

mod bus;
mod world;

use std::time::Duration;

use base::{CcbId, Instant, TenantId};
use control_core::cluster::{Fact, Heard, Home, Key};
use control_core::{Blade, Input, Strategy};

use world::{World, resident};

/// What one run of the tests takes.
const BLADES: usize = 60;
/// Homes that one control is told of.
const HOMES: u64 = 50_000;

fn wanted() -> usize {
    std::env::var("THOUSAND_BLADES").ok().and_then(|it| it.parse().ok()).unwrap_or(BLADES)
}

#[test]
fn a_thousand_blades_at_rest_at_a_shifts_begin_and_at_deaths() {
    let blades = wanted();
    let empty = resident();
    let mut world = World::new(blades);
    world.pass(Duration::from_secs(3));
    assert_eq!(world.leaders(), 1);
    println!("{blades} blades: {} MB of this process", (resident() - empty) >> 20);
    // At rest.
    let rest = world.measure("at rest", Duration::from_secs(2));
    let reports = rest.a_second("report");
    let each = reports / blades as f64;
    assert!((1.9..2.2).contains(&each), "{each} reports a second and blade");
    assert!(rest.a_second("claim") < 5.0, "one leader claims");
    for blade in 0..blades {
        assert_eq!(world.seen_by(blade), blades, "blade {blade}");
    }
    // A shift of a million agents on a thousand blades begins within a quarter of an hour.
    let rate = blades * 11 / 10;
    world.logins_a_second = rate;
    let shift = world.measure("a shift begins", Duration::from_secs(2));
    world.logins_a_second = 0;
    world.pass(Duration::from_millis(100));
    let granted = world.granted;
    assert!(granted >= rate as u64 * 2 - 2, "{granted} logins");
    let (least, most) = world.spread();
    assert!(most - least <= 1, "{least} to {most} logins a blade");
    let homes = shift.count("home");
    assert!(homes >= granted - rate as u64 / 10, "{homes} homes of {granted} logins");
    // Deaths, and agents who log in again within 5 s, a thousand of each.
    let mut dead = 0;
    for deaths in [1, 10, 100].into_iter().filter(|deaths| deaths * 5 <= blades) {
        let victims: Vec<usize> = (0..blades)
            .filter(|it| !world.is_leader(*it) && world.lives(*it))
            .take(deaths)
            .collect();
        victims.iter().for_each(|victim| world.kill(*victim));
        dead += deaths;
        world.logins_a_second = (200 * deaths).min(rate * 2);
        let name = format!("{deaths} dead, {} logins/s", world.logins_a_second);
        let after = world.measure(&name, Duration::from_secs(2));
        world.logins_a_second = 0;
        assert!(after.count("report") > 0);
        let witness = (0..blades).find(|it| world.lives(*it)).expect("somebody lives");
        assert_eq!(world.seen_by(witness), blades - dead, "who is dead is not seen");
    }
    // The leader.
    let leader = (0..blades).find(|it| world.is_leader(*it)).expect("somebody leads");
    world.kill(leader);
    let died = world.now;
    let mut led = None;
    let claims = world.measure_until("the leader is dead", Duration::from_secs(3), |world| {
        led = led.or((world.leaders() == 1).then_some(world.now));
        false
    });
    let led = led.expect("another one leads").since(died);
    println!("another leads after {} ms; {} claims", led.as_millis(), claims.count("claim"));
    assert!(led < Duration::from_secs(2), "{led:?}");
    assert!(claims.count("claim") <= 2 * blades as u64 + 16, "a storm of claims");
}

/// What an agent of another blade costs each control.
#[test]
fn homes_of_other_blades_agents() {
    let homes =
        std::env::var("THOUSAND_HOMES").ok().and_then(|it| it.parse().ok()).unwrap_or(HOMES);
    let start = Instant::from_nanos(1_000_000_000);
    let mut blade = Blade::new(start, abi::Process::default(), &[CcbId(1)]);
    blade.join("b1".into(), 1, Strategy::LeastAgents);
    let mut out = Vec::new();
    let before = (resident(), world::cpu());
    for agent in 1..=homes {
        let number = Key::Number(TenantId(1), format!("{}", 100_000 + agent));
        let (blade_name, ccb) = (format!("b{}", agent % 999 + 2), CcbId((agent % 999 + 2) as u16));
        let home = Home { blade: blade_name.as_str().into(), ccb, agent, epoch: 1, turn: 0 };
        let heard = Heard::Fact { key: number, fact: Some(Fact::Home(home)) };
        blade.handle(start, Input::Bus(heard), &mut out);
        out.clear();
    }
    let (bytes, time) = (resident() - before.0, world::cpu() - before.1);
    println!(
        "{homes} homes: {} bytes and {:.2} us each in the core of a control",
        bytes / homes as usize,
        time.as_secs_f64() * 1e6 / homes as f64
    );
    assert_eq!(blade.cluster(start).expect("it joined").homes as u64, homes);
    assert!(bytes / (homes as usize) < 1_024, "{bytes} bytes");
}
