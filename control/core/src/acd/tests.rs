use base::Rng;

use super::*;

const TENANT: TenantId = TenantId(1);
const SKILLS: [&str; 4] = ["german", "english", "billing", "network"];

fn login(agent: u64) -> LoginKey {
    LoginKey { tenant: TENANT, agent, epoch: 1 }
}

fn at(seconds: u64) -> Instant {
    Instant::from_nanos(seconds * 1_000_000_000)
}

fn named(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn queue(name: &str, skills: &[&str]) -> QueueSpec {
    QueueSpec { skills: named(skills), ..QueueSpec::new(TENANT, name) }
}

fn acd(queues: &[QueueSpec]) -> Acd {
    let mut acd = Acd::default();
    assert_eq!(acd.set_queues(queues), []);
    acd
}

fn join(acd: &mut Acd, caller: CallerId, queue: &str, seconds: i64) -> Option<(CallerId, u64)> {
    assert!(acd.join(caller, TENANT, queue, seconds * 1_000_000_000));
    acd.match_of(caller).map(|found| (found.caller, found.agent.agent))
}

fn seat(acd: &mut Acd, agent: u64, skills: &[&str], idle: u64) -> Option<(CallerId, u64)> {
    let found = acd.seat(login(agent), &named(skills), Some(at(idle)));
    found.map(|found| (found.caller, found.agent.agent))
}

#[test]
fn the_longest_idle_agent_with_all_skills_is_chosen() {
    let mut acd = acd(&[queue("q", &["german", "billing"])]);
    assert_eq!(seat(&mut acd, 1, &["german"], 1), None);
    assert_eq!(seat(&mut acd, 2, &["billing", "german"], 30), None);
    assert_eq!(seat(&mut acd, 3, &["german", "network", "billing"], 20), None);
    assert_eq!(seat(&mut acd, 4, &["german", "billing"], 25), None);
    for (caller, agent) in [(1, Some(3)), (2, Some(4)), (3, Some(2)), (4, None)] {
        let found = join(&mut acd, caller, "q", 100);
        assert_eq!(found, agent.map(|agent| (caller, agent)));
    }
    let other = acd.seat(
        LoginKey { tenant: TenantId(2), ..login(9) },
        &named(&["german", "billing"]),
        Some(at(1)),
    );
    assert_eq!(other, None, "of another tenant");
}

#[test]
fn the_caller_with_the_highest_priority_and_then_the_longest_wait_comes_first() {
    let urgent = QueueSpec { priority: 5, ..queue("urgent", &[]) };
    let mut acd = acd(&[queue("b", &["english"]), urgent, queue("a", &[])]);
    for (caller, queue, since) in [(1, "a", 10), (2, "b", 5), (3, "urgent", 50), (4, "a", 7)] {
        assert_eq!(join(&mut acd, caller, queue, since), None);
    }
    assert_eq!(seat(&mut acd, 1, &["german"], 100), Some((3, 1)));
    assert_eq!(seat(&mut acd, 2, &["german"], 100), Some((4, 2)), "it cannot serve the oldest");
    assert_eq!(seat(&mut acd, 3, &["english"], 100), Some((2, 3)));
    assert_eq!(seat(&mut acd, 4, &["german"], 100), Some((1, 4)));
    assert_eq!(seat(&mut acd, 5, &["english"], 100), None);
}

#[test]
fn who_is_not_taken_keeps_the_place() {
    let mut acd = acd(&[queue("q", &[])]);
    join(&mut acd, 1, "q", 10);
    join(&mut acd, 2, "q", 20);
    assert_eq!(seat(&mut acd, 1, &[], 100), Some((1, 1)));
    assert_eq!(acd.position(2), Some(0));
    assert_eq!(acd.put_back(1), None, "nobody else is idle");
    assert_eq!(acd.position(2), Some(1));
    assert_eq!(seat(&mut acd, 2, &[], 100), Some((1, 2)), "before the newer one");
    assert_eq!(acd.leave(1, Ending::Connected), Some(10_000_000_000));
    assert_eq!(acd.leave(1, Ending::Abandoned), None, "only once");
    assert_eq!(acd.put_back(1), None);
}

#[test]
fn waits_of_before_this_machine_s_start_count() {
    let mut acd = acd(&[queue("q", &[])]);
    let early = place(at(10), 60_000_000_000);
    assert_eq!(waited_ns(at(10), early), 60_000_000_000);
    acd.join(1, TENANT, "q", place(at(10), 5_000_000_000));
    acd.join(2, TENANT, "q", early);
    assert_eq!(seat(&mut acd, 1, &[], 1), Some((2, 1)));
}

#[test]
fn overdue_are_those_who_waited_for_too_long_and_are_not_offered() {
    let mut acd = acd(&[QueueSpec { max_wait_s: 30, max_callers: 3, ..queue("q", &[]) }]);
    join(&mut acd, 1, "q", 0);
    join(&mut acd, 2, "q", 5);
    assert!(acd.has_room(TENANT, "q"));
    join(&mut acd, 3, "q", 10);
    assert!(!acd.has_room(TENANT, "q") && !acd.has_room(TENANT, "r"));
    assert_eq!(acd.overdue(at(29)), []);
    assert_eq!(acd.overdue(at(36)), [1, 2]);
    assert_eq!(seat(&mut acd, 1, &[], 1), Some((1, 1)));
    assert_eq!(acd.overdue(at(36)), [2]);
    acd.leave(2, Ending::Overflowed);
    assert_eq!(acd.overdue(at(36)), []);
}

#[test]
fn callers_of_before_are_gathered_before_anybody_is_matched() {
    let mut acd = acd(&[queue("q", &[]), queue("r", &[])]);
    acd.hold();
    assert_eq!(seat(&mut acd, 1, &[], 1), None);
    assert_eq!(join(&mut acd, 1, "q", 20), None);
    assert_eq!(join(&mut acd, 2, "r", 10), None);
    assert_eq!(acd.next_match(), None);
    acd.release();
    let found = acd.next_match().expect("an agent is idle");
    assert_eq!((found.caller, found.agent.agent, found.queue.name.as_str()), (2, 1, "r"));
    assert_eq!(acd.next_match(), None);
}

#[test]
fn queues_change_under_those_who_wait() {
    let mut acd = acd(&[queue("a", &["german"]), queue("b", &[])]);
    join(&mut acd, 1, "a", 1);
    join(&mut acd, 2, "b", 2);
    join(&mut acd, 3, "a", 3);
    assert_eq!(seat(&mut acd, 7, &["english"], 1), Some((2, 7)));
    acd.put_back(2);
    assert_eq!(acd.set_queues(&[queue("c", &[]), queue("a", &["english"])]), [2]);
    assert_eq!(acd.next_match(), None, "the agent was not put back");
    assert_eq!(seat(&mut acd, 7, &["english"], 9), Some((1, 7)), "the skills are others now");
    assert_eq!(acd.views().map(|view| view.waiting).collect::<Vec<_>>(), [0, 1]);
    assert!(!acd.join(4, TENANT, "b", 0) && !acd.join(3, TENANT, "a", 0));
}

/// What the queues should do, by looking at everybody each time.
#[derive(Default)]
struct Model {
    waiting: Vec<(CallerId, usize, Place)>,
    offered: Vec<(CallerId, usize, Place, u64)>,
    idle: Vec<(u64, u64, Vec<String>)>,
    came: u64,
    ended: [u64; 3],
}

impl Model {
    fn fits(queues: &[QueueSpec], queue: usize, skills: &[String]) -> bool {
        queues[queue].skills.iter().all(|skill| skills.contains(skill))
    }

    /// A match is one that is right, and is taken out.
    fn take(&mut self, queues: &[QueueSpec], found: &Match, by_agent: bool) {
        let (caller, agent) = (found.caller, found.agent.agent);
        let who = self.waiting.iter().position(|one| one.0 == caller).expect("it waited");
        let (_, queue, place) = self.waiting.remove(who);
        let idle = self.idle.iter().position(|one| one.0 == agent).expect("it was idle");
        let (_, since, skills) = self.idle.remove(idle);
        assert_eq!(queues[queue].name, found.queue.name);
        assert!(Model::fits(queues, queue, &skills));
        for (other, of, older) in &self.waiting {
            let is_older = (*older, *other) < (place, caller);
            assert!(*of != queue || !is_older, "{other} waits for longer than {caller}");
            let is_first = (queues[*of].priority, -*older) > (queues[queue].priority, -place);
            let fits = Model::fits(queues, *of, &skills);
            assert!(!by_agent || !fits || !is_first, "{other} should go before {caller}");
        }
        for (other, longer, their) in &self.idle {
            let fits = Model::fits(queues, queue, their);
            assert!(!fits || *longer >= since, "{other} is idle for longer than {agent}");
        }
        self.offered.push((caller, queue, place, agent));
    }

    /// Nobody waits for whom somebody is idle.
    fn is_settled(&self, queues: &[QueueSpec]) -> bool {
        let fits = |queue: usize| {
            self.idle.iter().any(|(_, _, skills)| Model::fits(queues, queue, skills))
        };
        self.waiting.iter().all(|(_, queue, _)| !fits(*queue))
    }
}

fn some_skills(rng: &mut Rng, percent: u64) -> Vec<String> {
    let some = SKILLS.iter().filter(|_| rng.chance(percent));
    some.map(|skill| (*skill).to_owned()).collect()
}

#[test]
fn nobody_is_overtaken_and_everybody_ends_once() {
    for seed in 0..256 {
        let mut rng = Rng::from_number(seed);
        let queues: Vec<QueueSpec> = (0..6)
            .map(|number| QueueSpec {
                skills: some_skills(&mut rng, 30),
                priority: rng.below(3) as u32,
                ..QueueSpec::new(TENANT, &format!("q{number}"))
            })
            .collect();
        let mut acd = acd(&queues);
        let agents: Vec<Vec<String>> = (0..8).map(|_| some_skills(&mut rng, 60)).collect();
        let mut model = Model::default();
        for step in 0..400_u64 {
            let now = 1_000 + step;
            let (found, by_agent) = match rng.below(6) {
                0 | 1 => {
                    let (queue, place) = (rng.below(6) as usize, rng.below(now) as Place);
                    model.came += 1;
                    model.waiting.push((step, queue, place));
                    assert!(acd.join(step, TENANT, &queues[queue].name, place));
                    (acd.match_of(step), false)
                }
                2 | 3 => {
                    let agent = rng.below(8);
                    let is_out = model.offered.iter().any(|one| one.3 == agent);
                    if is_out || model.idle.iter().any(|one| one.0 == agent) {
                        continue;
                    }
                    let since = rng.below(now);
                    model.idle.push((agent, since, agents[agent as usize].clone()));
                    let since = Some(Instant::from_nanos(since));
                    (acd.seat(login(agent), &agents[agent as usize], since), true)
                }
                4 if !model.offered.is_empty() => {
                    let which = rng.below(model.offered.len() as u64) as usize;
                    let (caller, queue, place, _) = model.offered.remove(which);
                    if rng.chance(50) {
                        model.ended[0] += 1;
                        assert_eq!(acd.leave(caller, Ending::Connected), Some(place));
                        continue;
                    }
                    model.waiting.push((caller, queue, place));
                    (acd.put_back(caller), false)
                }
                _ if !model.waiting.is_empty() => {
                    let which = rng.below(model.waiting.len() as u64) as usize;
                    let (caller, _, place) = model.waiting.remove(which);
                    let is_over = rng.chance(50);
                    let ending = if is_over { Ending::Overflowed } else { Ending::Abandoned };
                    model.ended[1 + usize::from(is_over)] += 1;
                    assert_eq!(acd.leave(caller, ending), Some(place));
                    continue;
                }
                _ => continue,
            };
            if let Some(found) = found {
                model.take(&queues, &found, by_agent);
            }
            assert!(model.is_settled(&queues), "seed {seed}, step {step}");
            assert_eq!(acd.next_match(), None, "seed {seed}, step {step}");
        }
        let tally = |of: fn(&Tally) -> u64| acd.views().map(|view| of(&view.tally)).sum::<u64>();
        assert_eq!(tally(|tally| tally.joined), model.came);
        let ended =
            [tally(|one| one.connected), tally(|one| one.abandoned), tally(|one| one.overflowed)];
        assert_eq!(ended, model.ended);
        let still: usize = acd.views().map(|view| view.waiting + view.offered).sum();
        assert_eq!(still, model.waiting.len() + model.offered.len());
        assert_eq!(model.came, ended.iter().sum::<u64>() + still as u64, "seed {seed}");
    }
}
