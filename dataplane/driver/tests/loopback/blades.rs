//! Two data planes of two blades, control of both played by the test: a call of the one to an agent of the other.

use abi::{
    Command, Counter, Event, Fence, LeaseState, LeaseTicket, LeaseToken, Purpose, SecretRow,
};
use base::{AgentSlot, CallRef, CcbId, LocationId, Medium, Transport, WorkerId};
use driver::MediaChoice;

use crate::call::{Phone, hang_up_over, relay_both_ways, set_up_over, write_tables};
use crate::link::Control;
use crate::plane::{Plane, config, wait_for};

const HOLDER: CcbId = CcbId(7);
const HOME: CcbId = CcbId(8);
/// The agent that the tables of a data plane under test have.
const AGENT: AgentSlot = AgentSlot(3);

/// The home's control grants its agent's lease to the other blade.
fn grant(home: &Plane, minted: u8) -> LeaseTicket {
    let region = home.region();
    let clock = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let now = clock.tv_sec as u64 * 1_000_000_000 + clock.tv_nsec as u64;
    let now = base::Instant::from_nanos(now);
    let counter = region.leases().reserve(AGENT, Medium::Voice, HOLDER, Purpose::Call, now);
    let counter = counter.expect("the agent is free");
    let secret = region.secrets().read(AGENT).expect("a row");
    let (lease_counter, lease_token) = (counter, [minted; 16]);
    region.secrets().write(AGENT, &SecretRow { lease_counter, lease_token, ..secret });
    let incarnation = region.header().data_plane().incarnation;
    let fence = Fence { epoch: 1, incarnation, counter };
    LeaseTicket { fence, token: LeaseToken(lease_token), purpose: Purpose::Call, by: HOLDER }
}

/// The question that some worker asks.
fn asked(plane: &Plane) -> (u64, CallRef) {
    let (region, mut found, mut blob) = (plane.region(), None, Vec::new());
    wait_for("control is asked", || {
        for worker in (0..plane.config.cores.len()).map(|worker| WorkerId(worker as u8)) {
            while let Some(event) = region.event_receiver(worker).pop(&mut blob) {
                if let Event::Asked { op, call, .. } = event.expect("a whole one").value {
                    found = Some((op, call));
                }
            }
        }
        found.is_some()
    });
    found.expect("it was found")
}

on_both!(a_call_goes_over_two_data_planes);
fn a_call_goes_over_two_data_planes(media: MediaChoice) {
    let one = Plane::start(2, media);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let of_home = driver::Config { ccb: HOME, ..config(&folder, 2, media) };
    let two = Plane::start_with(folder, of_home);
    write_tables(&one);
    write_tables(&two);
    let control = Control::attach(&one);
    wait_for("control is attached", || one.region().header().control().attached);
    let (caller, callee) = (Phone::new("127.0.0.3"), Phone::new("127.0.0.4"));
    callee.register(two.sip(1));
    for plane in [&one, &two] {
        wait_for("ports are bound ahead", || plane.count(Counter::PortsReady) > 20);
    }
    let word = || two.region().leases().read(AGENT, Medium::Voice);
    for number in 0..5_u8 {
        let id = format!("over{number}");
        let call = set_up_over([&one, &two], "2001", [&caller, &callee], &id, || {
            let (ask, call) = asked(&one);
            let blob = format!("1001.demo\n1001\n{}", grant(&two, number + 1).to_value());
            let host = Command::Host {
                op: 1,
                ask,
                call,
                home: HOME,
                address: two.sip(0),
                location: LocationId(0),
                transport: Transport::Udp,
            };
            let region = one.region();
            let worker = region.calls().owner(call.slot).expect("a worker has it");
            control.order(&region, worker, host, blob.as_bytes());
        });
        assert!(matches!(word(), LeaseState::Bound { holder: HOLDER, .. }), "{:?}", word());
        relay_both_ways(&caller, &callee, &call, 0..200);
        hang_up_over([&one, &two], [&caller, &callee], &call, &id);
        wait_for("the agent is free", || matches!(word(), LeaseState::Free { .. }));
    }
    for plane in [&one, &two] {
        wait_for("no port is in use", || plane.count(Counter::PortsInUse) == 0);
        assert_eq!(plane.count(Counter::RtpSent), 2_000);
        assert_eq!(plane.count(Counter::SendFailed), 0);
    }
    assert_eq!((one.count(Counter::CallsHosted), two.count(Counter::CallsFenced)), (5, 5));
    one.stop();
    two.stop();
}
