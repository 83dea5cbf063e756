//! What a control process that begins finds of calls over blades.

use super::*;

#[test]
fn sessions_with_agents_of_other_ccbs_are_found_again() {
    let mut world = World::new(1);
    let (ours, _) = world.online(1001, 1);
    let slot = world.slot(ours.login);
    world.planes[0].call(1, CallState::Answered, [slot, slot], true);
    let legs = world.planes[0].region.legs();
    let mut leg = legs.read(6).expect("the called one's");
    leg.set_party(Party::Peer(CcbId(9)));
    leg.set_number(Text::new(b"2001").expect("it fits"));
    legs.write(6, &leg);
    world.restart_control();
    let leases = world.blade.leases();
    let [lease] = &leases[..] else { panic!("{leases:?}") };
    let found = (lease.number.as_str(), lease.owner, lease.holder, lease.state);
    assert_eq!(found, ("2001", CcbId(9), CcbId(1), "dialled"));
    world.attach_all();
    assert_eq!(world.blade.leases().len(), 1, "once");
    let ended = LegRow { state: LegState::Ended.into(), ..leg };
    world.planes[0].region.legs().write(6, &ended);
    let call = CallRef { slot: 1, generation: 7 };
    let event = Event::CallChanged { call, serial: 777, state: CallState::Answered, cause: 0 };
    world.planes[0].event(0, event, &[]);
    world.give(Input::Pump);
    world.pass(1_000);
    assert_eq!(world.blade.leases(), []);
}
