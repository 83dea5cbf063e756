//! A data plane that may die: its workers and sockets go, its region stays.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use abi::{DataPlaneState, Layout, LocationRow, Process, Region};
use base::{CcbId, Instant, LocationId, Rng, Text, WorkerId};
use worker::{
    Config, Effect, Input, Limits, Location, Packet, Passed, SocketSlot, Verdict, Worker, recover,
};

pub const WORKERS: u8 = 2;
pub const SIP_PORT: u16 = 5060;

pub struct Ccb {
    pub id: CcbId,
    pub region: Arc<Region>,
    /// Empty while the data plane is dead.
    pub workers: Vec<Worker>,
    pub locations: Vec<Location>,
    sockets: BTreeMap<SocketAddr, (WorkerId, SocketSlot)>,
    addresses: BTreeMap<(WorkerId, SocketSlot), SocketAddr>,
    rng: Rng,
}

/// What comes out of a CCB.
pub enum Out {
    Send { from: SocketAddr, to: SocketAddr, bytes: Vec<u8> },
    Mesh { to: WorkerId, passed: Passed },
    WakeControl,
}

impl Ccb {
    pub fn new(id: CcbId, rng: Rng) -> Ccb {
        let layout = Layout {
            ccb: id,
            workers: WORKERS,
            agents: 16,
            calls_per_worker: 16,
            legs_per_worker: 48,
            ring_slots: 256,
            blob_bytes: 16_384,
            tenants: 2,
            trunks: 2,
            locations: 2,
        };
        let location = |number: u8, name: &str| Location {
            name: name.into(),
            ip: IpAddr::from([10, 0, id.0 as u8, number]),
            sip_port: SIP_PORT,
            streams: worker::StreamPorts::default(),
        };
        Ccb {
            id,
            region: Region::in_memory(layout),
            workers: Vec::new(),
            locations: vec![location(1, "local"), location(2, "west")],
            sockets: BTreeMap::new(),
            addresses: BTreeMap::new(),
            rng,
        }
    }

    /// The data plane starts, on what the last one left.
    pub fn start(&mut self, now: Instant, recovers: bool) {
        self.region.header().start_data_plane(Process { pid: 1, start_time: 1 }, now);
        for (number, location) in self.locations.iter().enumerate() {
            let mut row = LocationRow::default();
            row.set_name(Text::new(location.name.as_bytes()).expect("fits"));
            row.set_sip((location.ip, location.sip_port).into());
            self.region.locations().write(LocationId(number as u8), &row);
        }
        let mut nonce_key = [0; 32];
        self.rng.fill(&mut nonce_key);
        for id in (0..WORKERS).map(WorkerId) {
            let mut seed = [0; 32];
            self.rng.fill(&mut seed);
            let config = Config {
                session: Default::default(),
                id,
                workers: WORKERS,
                ccb: self.id,
                locations: self.locations.clone(),
                rtp_ports: (30_000, 30_079),
                seed,
                nonce_key,
                limits: Limits::default(),
                media: worker::MediaConfig::default(),
            };
            if id.0 == 0 && recovers {
                recover(&self.region, &config, now);
            }
            self.workers.push(Worker::new(config, self.region.clone(), now));
        }
        self.region.header().set_data_plane_state(DataPlaneState::Running);
        self.region.header().beat_data_plane(now);
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.workers.clear();
        self.sockets.clear();
        self.addresses.clear();
    }

    pub fn is_up(&self) -> bool {
        !self.workers.is_empty()
    }

    pub fn has(&self, ip: IpAddr) -> bool {
        self.locations.iter().any(|location| location.ip == ip)
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.workers.iter().filter_map(Worker::deadline).min()
    }

    /// Something for one worker, and what comes of it.
    pub fn input(&mut self, now: Instant, worker: WorkerId, input: Input<'_>, out: &mut Vec<Out>) {
        let mut effects = Vec::new();
        let Some(target) = self.workers.get_mut(usize::from(worker.0)) else { return };
        target.handle(now, input, &mut effects);
        for effect in effects {
            match effect {
                Effect::Sip { location, to, datagram, .. } => {
                    let from = &self.locations[usize::from(location.0)];
                    let from = SocketAddr::new(from.ip, from.sip_port);
                    out.push(Out::Send { from, to, bytes: datagram.to_vec() });
                }
                // The world has datagrams only.
                Effect::Watch { .. } => {}
                Effect::Mesh { to, passed } => out.push(Out::Mesh { to, passed }),
                Effect::Bind { pair, location, port } => {
                    // The kernel refuses now and then: somebody else has the port.
                    let ok = !self.rng.chance(3);
                    if ok {
                        let ip = self.locations[usize::from(location.0)].ip;
                        for (slot, port) in [(pair.rtp(), port), (pair.rtcp(), port + 1)] {
                            let address = SocketAddr::new(ip, port);
                            let before = self.sockets.insert(address, (worker, slot));
                            assert!(before.is_none(), "{address} is bound twice");
                            self.addresses.insert((worker, slot), address);
                        }
                    }
                    self.input(now, worker, Input::Bound { pair, ok }, out);
                }
                Effect::Close { pair } => {
                    for slot in [pair.rtp(), pair.rtcp()] {
                        let address = self.addresses.remove(&(worker, slot));
                        self.sockets.remove(&address.expect("what is closed was bound"));
                    }
                }
                Effect::Media { .. }
                | Effect::EnterBypass { .. }
                | Effect::LeaveBypass { .. }
                | Effect::Load { .. }
                | Effect::Mirror(_)
                | Effect::Spool { .. } => {}
                Effect::WakeControl => out.push(Out::WakeControl),
            }
        }
    }

    /// A datagram for one of the CCB's addresses.
    pub fn receive(
        &mut self,
        now: Instant,
        from: SocketAddr,
        to: SocketAddr,
        bytes: &[u8],
        out: &mut Vec<Out>,
    ) {
        if to.port() == SIP_PORT {
            let location = self.locations.iter().position(|location| location.ip == to.ip());
            let location = LocationId(location.expect("asked before") as u8);
            // The kernel spreads sources over the sockets that share a port.
            let worker = WorkerId((from.port() % u16::from(WORKERS)) as u8);
            return self.input(
                now,
                worker,
                Input::Sip { location, from, channel: base::Channel::UDP, datagram: bytes },
                out,
            );
        }
        let Some(&(worker, slot)) = self.sockets.get(&to) else { return };
        let mut buffer = bytes.to_vec();
        let len = buffer.len();
        let mut packet = Packet::new(&mut buffer, 0..len);
        let verdict = self.workers[usize::from(worker.0)].forward(now, slot, from, &mut packet);
        if let Verdict::Send { socket, to } = verdict {
            let from = self.addresses[&(worker, socket)];
            out.push(Out::Send { from, to, bytes: packet.bytes().to_vec() });
        }
    }
}
