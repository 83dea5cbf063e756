//! Routes and trunks.

use super::*;

#[test]
fn a_number_that_is_no_agents_goes_by_its_prefix_and_no_trunk_may_use_a_trunk() {
    let mut world = World::new(1);
    let agent = Party::Agent(AgentSlot(0), 1);
    let table = [
        (&b"95555"[..], agent, Some((5060, 1))),
        (b"85555", agent, None),
        (b"", agent, None),
        (b"95555", Party::Trunk(0), None),
    ];
    for (at, (number, caller, expected)) in table.into_iter().enumerate() {
        let call = CallRef { slot: at as u32, generation: 1 };
        let (op, location) = (at as u64 + 50, LocationId(0));
        world.planes[0].event(
            0,
            Event::Asked { op, call, tenant: TENANT, caller, location, why: abi::Why::Called },
            number,
        );
        world.give(Input::Pump);
        let commands = world.planes[0].commands(0);
        match (&commands[..], expected) {
            (
                [(Command::Dial { ask, call: of, address, location, .. }, blob)],
                Some((port, at)),
            ) => {
                assert_eq!((*ask, *of, address.port(), location.0), (op, call, port, at));
                assert_eq!(blob, number);
            }
            ([(Command::Reject { ask, call: of, status: 404, .. }, _)], None) => {
                assert_eq!((*ask, *of), (op, call));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn trunks_of_routes_are_watched_and_calls_go_to_one_that_is_up() {
    let mut world = World::new(1);
    let addresses: Vec<SocketAddr> =
        [1, 2].map(|host| SocketAddr::from(([10, 1, 2, host], 5060))).to_vec();
    let mut provision = provision();
    provision.options_s = 30;
    let to = Destination::Trunk {
        name: None,
        addresses: addresses.clone(),
        transport: base::Transport::Udp,
        location: None,
        tls: crate::routes::TrunkTls::default(),
    };
    provision.routes = vec![Route { tenant: TENANT, prefix: "9".into(), to }];
    let watched = |world: &mut World| {
        let all = (0..WORKERS).flat_map(|worker| world.planes[0].commands(usize::from(worker)));
        let of = |(command, _)| match command {
            Command::Watch { address, every_s, .. } => (address, every_s),
            other => panic!("{other:?}"),
        };
        let mut all: Vec<_> = all.map(of).collect();
        all.sort();
        all
    };
    world.give(Input::Provision(provision.clone()));
    assert_eq!(watched(&mut world), [(addresses[0], 30), (addresses[1], 30)]);
    world.now = world.now + Duration::from_secs(3);
    world.give(Input::Timeout);
    assert_eq!(watched(&mut world), [], "once");
    let dialled = |world: &mut World| {
        let call = CallRef { slot: 0, generation: 1 };
        let (caller, location) = (Party::Agent(AgentSlot(0), 1), LocationId(0));
        let asked =
            Event::Asked { op: 5, call, tenant: TENANT, caller, location, why: abi::Why::Called };
        world.planes[0].event(0, asked, b"95");
        let out = world.give(Input::Pump);
        let commands = world.planes[0].commands(0);
        let [(Command::Dial { address, .. }, blob)] = &commands[..] else { panic!("{commands:?}") };
        (*address, String::from_utf8(blob.clone()).expect("text"), out)
    };
    let (address, blob, _) = dialled(&mut world);
    assert_eq!((address, blob.as_str()), (addresses[0], "95\n10.1.2.2:5060"));
    let outage = abi::Outage::TlsName;
    world.planes[0].event(0, Event::Trunk { addr: addresses[0], outage }, &[]);
    let (address, blob, out) = dialled(&mut world);
    assert_eq!((address, blob.as_str()), (addresses[1], "95\n10.1.2.1:5060"));
    let down = |out: &Output| matches!(out, Output::Trunk { outage: abi::Outage::TlsName, .. });
    assert_eq!(out.iter().filter(|out| down(out)).count(), 1);
    world.planes[0].event(0, Event::Trunk { addr: addresses[0], outage }, &[]);
    let (_, _, out) = dialled(&mut world);
    assert!(!out.iter().any(down), "it is told once");
    let states: Vec<abi::Outage> =
        world.blade.ccbs().flat_map(|ccb| ccb.trunks).map(|trunk| trunk.outage).collect();
    assert_eq!(states, [outage, abi::Outage::None]);
    // What no route leads to any more is let be.
    provision.routes.clear();
    world.give(Input::Provision(provision));
    assert_eq!(watched(&mut world), [(addresses[0], 0), (addresses[1], 0)]);
}

/// What routes say of TLS is written for each address of theirs, as DNS tells them; callers are known by what their
/// certificate says.
#[test]
fn how_tls_is_spoken_to_trunks_is_in_the_tables() {
    let mut world = World::new(1);
    let mut provision = provision();
    let to: Destination = "10.1.2.1:5061,10.1.2.2:5061;transport=tls;tls_ca=acme;tls_verify=no"
        .parse()
        .expect("it is one");
    let mut named: Destination = "carrier.example;tls_identity=us".parse().expect("it is one");
    let Destination::Trunk { addresses, transport, .. } = &mut named else { panic!("a trunk") };
    (*addresses, *transport) =
        (vec![SocketAddr::from(([10, 1, 2, 3], 5061))], base::Transport::Tls);
    let route = |prefix: &str, to| Route { tenant: TENANT, prefix: prefix.into(), to };
    provision.routes.extend([route("8", to), route("7", named)]);
    provision.trunks.push(TrunkRecord {
        tenant: TENANT,
        name: "acme".into(),
        by: "tls:SIP.acme.example".parse().expect("a name"),
        srtp: Default::default(),
    });
    world.give(Input::Provision(provision.clone()));
    let rows = |world: &World| -> Vec<_> {
        let region = world.planes[0].region.clone();
        let rows = region.trunk_tls().iter().map(|(_, row)| row).filter(|row| row.state != 0);
        rows.map(|row| {
            let texts = [row.domain(), Text::new(row.ca().as_bytes()).expect("it fits")];
            let texts = texts.map(|text| text.as_str().to_owned());
            (
                row.address.get().to_string(),
                row.unverified,
                texts,
                row.identity().as_str().to_owned(),
            )
        })
        .collect()
    };
    let row = |address: &str, unverified, domain: &str, ca: &str, identity: &str| {
        (address.to_owned(), unverified, [domain.to_owned(), ca.to_owned()], identity.to_owned())
    };
    assert_eq!(
        rows(&world),
        [
            row("10.1.2.1:5061", 1, "", "acme", ""),
            row("10.1.2.2:5061", 1, "", "acme", ""),
            row("10.1.2.3:5061", 0, "carrier.example", "", "us"),
        ]
    );
    let trunks: Vec<_> = world.planes[0].region.trunks().iter().map(|(_, row)| row).collect();
    assert!(trunks[0].state == 1 && !trunks[0].is_by_certificate());
    assert!(trunks[1].is_by_certificate());
    assert_eq!(trunks[1].domain().as_str(), "sip.acme.example");
    provision.routes.clear();
    world.give(Input::Provision(provision));
    assert_eq!(rows(&world), []);
}
