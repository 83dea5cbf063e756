use abi::lease::word;
use abi::sync::AtomicU64;
use abi::{Fence, Purpose};
use base::{AgentSlot, CcbId, Instant, TenantId};

use super::*;
use crate::cluster::{BladeName, Denial, Grant, LeaseRequest, Token};

const T0: Instant = Instant::from_nanos(1_000_000_000_000);
const TENANT: TenantId = TenantId(1);
const SLOT: AgentSlot = AgentSlot(3);
const OURS: CcbId = CcbId(1);
const THEIRS: CcbId = CcbId(2);

fn at(ms: u64) -> Instant {
    T0 + Duration::from_millis(ms)
}

fn desk(word: &AtomicU64) -> Desk<'_> {
    Desk { slot: SLOT, word, epoch: 7, incarnation: 5 }
}

fn wanted(number: &str, caller: (&str, u64)) -> Wanted {
    Wanted {
        blade: "home".into(),
        home: OURS,
        holder: THEIRS,
        holder_incarnation: 9,
        tenant: TENANT,
        number: number.into(),
        purpose: Purpose::Call,
        caller: caller.0.into(),
        caller_agent: Some(caller.1),
        serial: 77,
        queue: None,
    }
}

fn request(holder: &mut Holder<u32>, call: u32) -> LeaseRequest {
    holder.ask(T0, wanted("1001", ("2001", 20)), call)
}

fn grant_of(fence: Fence) -> Grant {
    Grant {
        fence,
        token: Token([1; 16]),
        home: OURS,
        sip: ([10, 0, 0, 1], 5060).into(),
        agent: 10,
        number: "1001".into(),
        user: "1001.demo".into(),
        name: String::new(),
        agent_type: 1,
        phone: None,
        state: "online".into(),
        ttl_ms: 2_000,
    }
}

#[test]
fn a_denial_says_what_the_agent_does() {
    let home = Home::new(OURS);
    let reserved = |holder, purpose| {
        let word = AtomicU64::new(0);
        let counter = word::reserve(&word, holder, purpose, T0).expect("it is free");
        (word, counter)
    };
    let bound = |holder, purpose, opens: bool| {
        let (word, counter) = reserved(holder, purpose);
        assert!(word::bind(&word, holder, counter));
        assert!(!opens || word::open(&word, holder, counter));
        word
    };
    let says = |word: &AtomicU64| home.denial(word::read(word));
    assert_eq!(says(&reserved(OURS, Purpose::Call).0), Denial::Ringing);
    assert_eq!(says(&reserved(OURS, Purpose::Outgoing).0), Denial::Busy);
    assert_eq!(says(&reserved(THEIRS, Purpose::Call).0), Denial::Hosted(2));
    assert_eq!(says(&bound(OURS, Purpose::Call, false)), Denial::Ringing);
    assert_eq!(says(&bound(OURS, Purpose::Call, true)), Denial::Busy);
    assert_eq!(says(&bound(OURS, Purpose::Outgoing, false)), Denial::Busy);
    assert_eq!(says(&bound(THEIRS, Purpose::Queue, true)), Denial::Hosted(2));
    assert_eq!(home.denial(abi::LeaseState::NoSuchSlot), Denial::LoggedOut);
}

#[test]
fn who_is_not_seen_grants_nothing() {
    let (mut home, mut holder) = (Home::new(OURS), Holder::new(1));
    let (word, from) = (AtomicU64::new(0), BladeName::from("b2"));
    let request = request(&mut holder, 0);
    let wins = |home: &mut Home, ms| home.win(at(ms), Some(&from), &request, desk(&word));
    assert_eq!(wins(&mut home, 0), Err(Denial::OwnerAway), "nobody has heard of us");
    home.confirm(at(10), at(5));
    assert_eq!(wins(&mut home, 20), Err(Denial::OwnerAway), "it has not listened yet");
    home.confirm(at(500), at(495));
    // A pause: what was sent before it says nothing any more.
    assert_eq!(wins(&mut home, 2_000), Err(Denial::OwnerAway));
    home.confirm(at(2_010), at(2_005));
    home.confirm(at(2_300), at(2_295));
    let fence = wins(&mut home, 2_310);
    assert_eq!(fence, Ok(Fence { epoch: 7, incarnation: 5, counter: 0 }));
    assert_eq!(wins(&mut home, 2_320), Err(Denial::Hosted(2)));
    // A CCB of the same blade needs nobody's belief.
    let other = AtomicU64::new(0);
    assert!(Home::new(OURS).win(T0, None, &request, desk(&other)).is_ok());
}

#[test]
fn a_copy_of_a_request_gets_the_same_answer_and_memory_is_bounded() {
    let (mut home, mut holder) = (Home::new(OURS), Holder::new(1));
    let from = BladeName::from("b2");
    let first = request(&mut holder, 0);
    home.remember(&from, &first, Err(Denial::Busy));
    assert_eq!(home.answered(&from, &first), Some(&Err(Denial::Busy)));
    let of_another_process = LeaseRequest { incarnation: 2, ..first.clone() };
    assert_eq!(home.answered(&from, &of_another_process), None);
    assert_eq!(home.answered(&"b3".into(), &first), None);
    for _ in 0..ANSWERS {
        let other = request(&mut holder, 0);
        home.remember(&from, &other, Err(Denial::Busy));
    }
    assert_eq!(home.answered(&from, &first), None);
}

#[test]
fn a_lease_that_its_invite_reached_is_not_given_back() {
    let (mut home, mut holder) = (Home::new(OURS), Holder::new(1));
    let word = AtomicU64::new(0);
    let request = request(&mut holder, 0);
    let fence = home.win(T0, None, &request, desk(&word)).expect("it is free");
    assert!(word::bind(&word, THEIRS, fence.counter));
    home.give_back(SLOT, &word, THEIRS, fence.counter);
    assert_eq!(word::read(&word).holder(), Some(THEIRS));
    assert!(word::release(&word, THEIRS, fence.counter, abi::Share::Waiting));
    let fence = home.win(T0, None, &request, desk(&word)).expect("it is free again");
    home.give_back(SLOT, &word, THEIRS, fence.counter);
    assert_eq!(word::read(&word).holder(), None);
    assert_eq!(home.hosted().count(), 0);
}

#[test]
fn a_grant_that_nobody_waits_for_is_given_back() {
    let mut holder = Holder::new(1);
    let fence = |counter| Fence { epoch: 7, incarnation: 5, counter };
    let blade = BladeName::from("home");
    let late = request(&mut holder, 4).id;
    let grant = grant_of(fence(1));
    let after = at(u64::from(WANTED_MS));
    assert_eq!(holder.answered(after, late, Some(Ok(grant.clone()))), Next::Refused(4, None));
    let back = Next::GiveBack(blade.clone(), fence(1), TENANT, "1001".into());
    assert_eq!(holder.unwanted(&blade, TENANT, late, &grant), back);
    let good = request(&mut holder, 5).id;
    let next = holder.answered(at(100), good, Some(Ok(grant.clone())));
    assert_eq!(next, Next::Dial(5, Box::new(grant.clone())));
    // The same once more is not given back while the session has it.
    assert_eq!(holder.answered(at(110), good, Some(Ok(grant.clone()))), Next::Nothing);
    assert_eq!(holder.unwanted(&blade, TENANT, good, &grant), Next::Nothing);
    holder.dialled(good);
    assert_eq!(holder.over(good), back);
    assert_eq!(holder.over(good), Next::Nothing);
}

#[test]
fn of_two_who_call_each_other_the_lower_key_goes_on() {
    for (ours, theirs, expected) in [(10, 20, Glare::Ours), (20, 10, Glare::Theirs)] {
        let mut holder = Holder::new(1);
        holder.ask(T0, wanted("2001", ("1001", ours)), 1);
        let from = |caller: &str, key| {
            let mut other = Holder::new(2);
            other.ask(T0, wanted("1001", (caller, key)), 2)
        };
        let met = holder.glare(ours, &from("2001", theirs)).map(|(whose, ..)| whose);
        assert_eq!(met, Some(expected));
        assert!(holder.glare(ours, &from("2002", theirs)).is_none(), "somebody else calls");
    }
}
