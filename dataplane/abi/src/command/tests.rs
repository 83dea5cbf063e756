use proptest::prelude::*;

use super::*;
use crate::event::tests::{address, call, layout, party};
use crate::order::MixRole;

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        (any::<(u64, u64, u8)>(), call(), address(), 0..5u32).prop_map(
            |((op, ask, location), call, address, transport)| Command::Dial {
                op,
                ask,
                call,
                address,
                location: LocationId(location),
                transport: Transport::from_number(transport).unwrap_or_default(),
            }
        ),
        (any::<(u64, u64, u8, u16)>(), call(), address(), 0..5u32).prop_map(
            |((op, ask, location, home), call, address, transport)| Command::Host {
                op,
                ask,
                call,
                home: CcbId(home),
                address,
                location: LocationId(location),
                transport: Transport::from_number(transport).unwrap_or_default(),
            }
        ),
        (any::<(u64, u64)>(), call()).prop_map(|((op, ask), call)| Command::Yield {
            op,
            ask,
            call
        }),
        (any::<(u64, u64, u16, u32)>(), call()).prop_map(
            |((op, ask, status, retry_after_s), call)| Command::Reject {
                op,
                ask,
                call,
                status,
                retry_after_s,
            }
        ),
        (any::<(u64, u16)>(), call()).prop_map(|((op, cause), call)| Command::Release {
            op,
            call,
            cause
        }),
        (any::<(u64, u8)>(), call()).prop_map(|((op, leg), call)| Command::Probe { op, call, leg }),
        (any::<(u64, u8)>(), call()).prop_map(|((op, leg), call)| Command::Drop { op, call, leg }),
        (any::<(u64, u8)>(), call()).prop_map(|((op, leg), call)| Command::Talk { op, call, leg }),
        (any::<(u64, u8, bool)>(), call()).prop_map(|((op, leg, on), call)| Command::Park {
            op,
            call,
            leg,
            on
        }),
        (any::<(u64, u32, u32, u32, u8)>(), party(), call(), 0..7usize, 1..=4u32).prop_map(
            |((op, tenant, mix, ring_s, to_leg), by, to, purpose, guest)| Command::Summon {
                op,
                tenant: TenantId(tenant),
                by,
                purpose: Purpose::ALL[purpose],
                mix,
                guest: GuestKind::of(guest).expect("one of them"),
                to,
                to_leg,
                ring_s,
            }
        ),
        any::<(u64, u32, u32)>().prop_map(|(op, agent, epoch)| Command::Forget {
            op,
            agent: AgentSlot(agent),
            epoch,
        }),
        any::<(u64, bool)>().prop_map(|(op, on)| Command::Drain { op, on }),
        (any::<(u64, u32, u64, u64)>(), address()).prop_map(|((op, trace, until, serial), to)| {
            Command::Trace { op, trace, to, until, serial }
        }),
        (any::<(u64, u8, u32)>(), address(), 0..5u32).prop_map(
            |((op, location, every_s), address, transport)| Command::Watch {
                op,
                address,
                location: LocationId(location),
                transport: Transport::from_number(transport).unwrap_or_default(),
                every_s,
            }
        ),
        (any::<(u64, u64)>(), call()).prop_map(|((op, ask), call)| Command::Answer {
            op,
            ask,
            call
        }),
        (any::<(u64, u8, u32, bool)>(), call()).prop_map(|((op, leg, ring_s, overflow), call)| {
            Command::Offer { op, call, leg, ring_s, overflow }
        }),
        (any::<(u64, u64)>(), call()).prop_map(|((op, ask), call)| Command::Forward {
            op,
            ask,
            call
        }),
        (any::<(u64, u8)>(), call()).prop_map(|((op, leg), call)| Command::Transfer {
            op,
            call,
            leg
        }),
        any::<(u64, u32, u32)>().prop_map(|(op, agent, epoch)| Command::Originate {
            op,
            agent: AgentSlot(agent),
            epoch,
        }),
        (any::<(u64, u8)>(), call(), order())
            .prop_map(|((op, leg), call, order)| { Command::Media { op, call, leg, order } }),
    ]
}

fn order() -> impl Strategy<Value = MediaOrder> {
    let roles = [MixRole::Participant, MixRole::Monitor, MixRole::Whisper];
    prop_oneof![
        any::<u32>().prop_map(|times| MediaOrder::Play { times }),
        Just(MediaOrder::StopPlaying),
        any::<(u8, u32, u32, u16, bool)>().prop_map(|(max, first_ms, next_ms, ends, barge_in)| {
            MediaOrder::Collect { max, first_ms, next_ms, ends, barge_in }
        }),
        any::<u64>().prop_map(|recording| MediaOrder::Record { recording }),
        Just(MediaOrder::PauseRecording),
        Just(MediaOrder::ResumeRecording),
        Just(MediaOrder::StopRecording),
        (any::<(u32, u8)>(), call(), proptest::sample::select(roles.to_vec()))
            .prop_map(|((mix, to_leg), to, role)| MediaOrder::Mix { mix, role, to, to_leg }),
        any::<(u32, bool)>().prop_map(|(mix, organiser)| MediaOrder::Confer { mix, organiser }),
        Just(MediaOrder::LeaveMix),
    ]
}

proptest! {
    #[test]
    fn a_command_comes_out_as_it_went_in(command in command()) {
        prop_assert_eq!(Command::decode(&command.encode()), Ok(command));
    }

    #[test]
    fn any_record_is_a_command_or_corrupt(
        kind in prop_oneof![0u64..32, any::<u64>()],
        fields in any::<[u64; 12]>(),
        shift in 0u32..64,
    ) {
        let raw = Raw { kind, fields: fields.map(|field| field >> shift) };
        if let Ok(command) = Command::decode(&raw) {
            prop_assert_eq!(command.encode(), raw, "what is accepted says all that was written");
        }
    }
}

#[test]
fn a_command_reaches_its_worker_with_its_blob_and_rings_its_bell() {
    let region = Region::in_memory(layout());
    let worker = WorkerId(1);
    let mut sender = region.command_sender(worker);
    let mut receiver = region.command_receiver(worker);
    let mut blob = Vec::new();
    assert_eq!(receiver.pop(&mut blob), None);
    region.header().worker_bell(worker).expect("it is in the layout").sleep();
    assert!(receiver.is_empty());
    let command = Command::Forget { op: 9, agent: AgentSlot(3), epoch: 2 };
    assert_eq!(sender.push(&command, b"95555"), Ok(Wake::Needed));
    assert_eq!(receiver.pop(&mut blob), Some(Ok(command)));
    assert_eq!(blob, b"95555");
    assert_eq!(sender.push(&command, &[0; MAX_BLOB_BYTES + 1]), Err(Full));
    assert_eq!(sender.push(&command, &[7; MAX_BLOB_BYTES]), Ok(Wake::NotNeeded));
    assert_eq!(receiver.pop(&mut blob), Some(Ok(command)));
    assert_eq!(blob, [7; MAX_BLOB_BYTES]);
}
