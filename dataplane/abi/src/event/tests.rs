use core::net::{Ipv4Addr, Ipv6Addr, SocketAddrV6};

use proptest::prelude::*;

use super::*;
use crate::plan::Layout;

pub(crate) fn address() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        (any::<u32>(), any::<u16>())
            .prop_map(|(ip, port)| SocketAddr::from((Ipv4Addr::from(ip), port))),
        (any::<u128>(), any::<u16>(), any::<u32>()).prop_filter_map(
            "an IPv6 address that is none of IPv4",
            |(ip, port, scope)| {
                let ip = Ipv6Addr::from(ip);
                let v6 = SocketAddr::from(SocketAddrV6::new(ip, port, 0, scope));
                ip.to_ipv4_mapped().is_none().then_some(v6)
            }
        ),
    ]
}

pub(crate) fn call() -> impl Strategy<Value = CallRef> {
    any::<(u32, u32)>().prop_map(|(slot, generation)| CallRef { slot, generation })
}

pub(crate) fn party() -> impl Strategy<Value = Party> {
    prop_oneof![
        any::<(u32, u32)>().prop_map(|(slot, epoch)| Party::Agent(AgentSlot(slot), epoch)),
        any::<u32>().prop_map(Party::Trunk),
        any::<u16>().prop_map(|ccb| Party::Peer(CcbId(ccb))),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let causes = [
        UnregisterCause::Expired,
        UnregisterCause::Removed,
        UnregisterCause::Ordered,
        UnregisterCause::Disconnected,
    ];
    let results = [
        OpResult::Ok,
        OpResult::NoSuchCall,
        OpResult::NoSuchAgent,
        OpResult::Full,
        OpResult::Refused,
        OpResult::NoSuchPrompt,
        OpResult::Stopped,
        OpResult::Denied,
        OpResult::NoAnswer,
        OpResult::Declined,
    ];
    let ends = [DigitsCause::Full, DigitsCause::Ended, DigitsCause::Timeout, DigitsCause::Stopped];
    let spool = [SpoolState::Writing, SpoolState::Slow, SpoolState::Failed];
    let select = proptest::sample::select::<CallState>(CallState::ALL);
    prop_oneof![
        (any::<(u32, u32, u8, u32)>(), address()).prop_map(
            |((agent, epoch, location, expires_ms), addr)| Event::Registered {
                agent: AgentSlot(agent),
                epoch,
                location: LocationId(location),
                addr,
                expires_ms,
            }
        ),
        (any::<(u32, u32)>(), 0..3usize).prop_map(move |((agent, epoch), cause)| {
            Event::Unregistered { agent: AgentSlot(agent), epoch, cause: causes[cause] }
        }),
        (any::<(u64, u32, u8)>(), call(), party(), 1..=9u32).prop_map(
            |((op, tenant, location), call, caller, why)| Event::Asked {
                op,
                call,
                tenant: TenantId(tenant),
                caller,
                location: LocationId(location),
                why: Why::of(why).expect("one of them"),
            }
        ),
        (any::<u8>(), call()).prop_map(|(leg, call)| Event::Alive { call, leg }),
        (any::<u64>(), call()).prop_map(|(op, call)| Event::Summoned { op, call }),
        (any::<(u8, bool)>(), call()).prop_map(|((leg, on), call)| Event::Held { call, leg, on }),
        (any::<(u64, u16)>(), call(), select).prop_map(|((serial, cause), call, state)| {
            Event::CallChanged { call, serial, state, cause }
        }),
        (any::<u64>(), 0..7usize)
            .prop_map(move |(op, result)| Event::Done { op, result: results[result] }),
        (any::<(u8, u8, u16)>(), call()).prop_map(|((leg, digit, duration_ms), call)| {
            Event::Digit { call, leg, digit, duration_ms }
        }),
        (any::<(u64, u8)>(), call(), 0..4usize).prop_map(move |((op, leg), call, cause)| {
            Event::Digits { op, call, leg, cause: ends[cause] }
        }),
        (any::<u64>(), 0..3usize)
            .prop_map(move |(lost, state)| Event::Spool { state: spool[state], lost }),
        (any::<u8>(), call(), address()).prop_map(|(leg, call, addr)| Event::SourceRefused {
            call,
            leg,
            addr
        }),
        (any::<u32>(), address()).prop_map(|(seconds, addr)| Event::SourceBanned { addr, seconds }),
        (proptest::sample::select(Outage::ALL), address())
            .prop_map(|(outage, addr)| Event::Trunk { addr, outage }),
    ]
}

proptest! {
    #[test]
    fn an_event_comes_out_as_it_went_in(event in event()) {
        prop_assert_eq!(Event::decode(&event.encode()), Ok(event));
    }

    #[test]
    fn any_record_is_an_event_or_corrupt(
        kind in prop_oneof![0u64..32, any::<u64>()],
        fields in any::<[u64; 12]>(),
        shift in 0u32..64,
    ) {
        let raw = Raw { kind, fields: fields.map(|field| field >> shift) };
        if let Ok(event) = Event::decode(&raw) {
            prop_assert_eq!(event.encode(), raw, "what is accepted says all that was written");
        }
    }

    #[test]
    fn one_wrong_field_is_noticed_or_is_another_event(event in event(), at in 0usize..12) {
        let mut raw = event.encode();
        raw.fields[at] ^= 1 << 60;
        prop_assert_ne!(Event::decode(&raw), Ok(event));
    }
}

pub(crate) fn layout() -> Layout {
    Layout {
        ccb: base::CcbId(1),
        workers: 2,
        agents: 16,
        calls_per_worker: 4,
        legs_per_worker: 8,
        ring_slots: 8,
        blob_bytes: 4096,
        tenants: 2,
        trunks: 2,
        locations: 2,
    }
}

#[test]
fn numbers_go_on_over_restarts_and_tell_what_is_missing() {
    let region = Region::in_memory(layout());
    let worker = WorkerId(1);
    let done = |op| Event::Done { op, result: OpResult::Ok };
    let mut blob = Vec::new();
    let mut sender = region.event_sender(worker);
    for op in 1..=10 {
        let sent = sender.push(&done(op), b"", Class::Statistic);
        assert_eq!(sent.is_ok(), op <= 6, "six of eight slots are for statistics");
    }
    drop(sender);
    let mut receiver = region.event_receiver(worker);
    let first = receiver.pop(&mut blob).expect("it is there").expect("it is sound");
    assert_eq!(first, Numbered { number: 1, missed: 0, value: done(1) });
    drop(receiver);
    let mut sender = region.event_sender(worker);
    assert!(sender.push(&done(11), b"called", Class::Call).is_ok());
    let mut receiver = region.event_receiver(worker);
    assert_eq!(receiver.issued(), 11);
    for op in 2..=6 {
        let next = receiver.pop(&mut blob).expect("it is there").expect("it is sound");
        assert_eq!(next, Numbered { number: op, missed: 0, value: done(op) });
    }
    let last = receiver.pop(&mut blob).expect("it is there").expect("it is sound");
    assert_eq!(last, Numbered { number: 11, missed: 4, value: done(11) });
    assert_eq!(blob, b"called");
    assert!(receiver.is_empty());
    assert_eq!(receiver.pop(&mut blob), None);
    assert_eq!(region.ring_usage(worker).issued, 11);
    assert_eq!(region.event_receiver(WorkerId(0)).pop(&mut blob), None, "rings are apart");
}

#[test]
fn the_one_who_finds_the_sleeper_rings() {
    let region = Region::in_memory(layout());
    let event = Event::Done { op: 1, result: OpResult::Ok };
    let mut senders = [WorkerId(0), WorkerId(1)].map(|worker| region.event_sender(worker));
    let mut push = |sender: usize| senders[sender].push(&event, b"", Class::Call);
    assert_eq!(push(0), Ok(Wake::NotNeeded));
    region.header().control_bell().sleep();
    assert_eq!(push(1), Ok(Wake::Needed));
    assert_eq!(push(0), Ok(Wake::NotNeeded), "one of them is enough");
    region.header().control_bell().sleep();
    region.header().control_bell().awake();
    assert_eq!(push(0), Ok(Wake::NotNeeded));
}

#[test]
fn a_record_of_nonsense_is_counted_and_skipped() {
    let region = Region::in_memory(layout());
    let (ring, shape) = region.ring(WorkerId(0), RingKind::Events);
    let mut writer = Writer::<_, Raw>::attach(ring, shape);
    let nonsense = Raw { kind: 77, fields: [1; 12] };
    writer.push(&nonsense, b"", Room::All).expect("there is room");
    drop(writer);
    let event = Event::Done { op: 5, result: OpResult::Refused };
    assert!(region.event_sender(WorkerId(0)).push(&event, b"", Class::Call).is_ok());
    let mut receiver = region.event_receiver(WorkerId(0));
    let mut blob = Vec::new();
    assert_eq!(receiver.pop(&mut blob), Some(Err(Corrupt { what: "the kind of an event" })));
    assert_eq!(receiver.corrupt(), 1);
    let next = receiver.pop(&mut blob).expect("it is there").expect("it is sound");
    assert_eq!(next.value, event);
}
