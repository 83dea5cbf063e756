//! The bypass on interfaces of our own: phone A -- SBC -- phone B, each a network namespace. The phones are
//! packet sockets, so that every bit that comes and goes is known.

mod frame;
mod lab;
mod relay;
mod takeover;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use driver::xdp::{Bypass, BypassConfig, BypassRefused, XdpMode};
use media::{FlowSpec, WhyNot};

use frame::{Frame, rtp};
use lab::{Host, Passes, Port, Wire};

const SSRC: u32 = 0x1020_3040;
const EVENT_TYPE: u8 = 101;
/// Long enough for a frame on a busy machine.
const SOON: Duration = Duration::from_secs(10);
/// Long enough to believe that no frame comes.
const NEVER: Duration = Duration::from_millis(200);

/// Phone A, the SBC and phone B.
struct Lab {
    a: Phone,
    b: Phone,
    sbc: Host,
    sbc_a: Port,
    sbc_b: Port,
}

struct Phone {
    host: Host,
    port: Port,
    wire: Wire,
    _passes: Passes,
}

impl Lab {
    /// Addresses are 10.0.N.1 and fd00:N::1 of the SBC, .2 and .3 of the phone, with N 1 and 2. None, with
    /// the reason printed, where that is not allowed.
    fn new() -> Option<Lab> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: network namespaces need root");
            return None;
        }
        let (sbc, a, b) = (Host::new("sbc"), Host::new("a"), Host::new("b"));
        let (sbc_a, port_a) = sbc.connect("leg-a", &a, "phone-a");
        let (sbc_b, port_b) = sbc.connect("leg-b", &b, "phone-b");
        sbc.address(&sbc_a, &[our(false, 1), our(true, 1)]);
        sbc.address(&sbc_b, &[our(false, 2), our(true, 2)]);
        let phone = |host: Host, port: Port, network| {
            for is_v6 in [false, true] {
                host.address(&port, &[phone(is_v6, network, 2), phone(is_v6, network, 3)]);
            }
            let (wire, passes) = (Wire::on(&host, &port), Passes::on(&host, &port));
            Phone { host, port, wire, _passes: passes }
        };
        let (a, b) = (phone(a, port_a, 1), phone(b, port_b, 2));
        Some(Lab { a, b, sbc, sbc_a, sbc_b })
    }

    fn config(&self, mode: XdpMode) -> BypassConfig {
        let addresses = vec![our(false, 1), our(false, 2), our(true, 1), our(true, 2)];
        BypassConfig { mode, addresses, rows: 16, ..BypassConfig::default() }
    }

    fn open(&self, config: &BypassConfig) -> Result<Bypass, BypassRefused> {
        self.sbc.run(|| Bypass::open(config))
    }

    /// The bypass in one mode; it must be used as it is told to be.
    fn bypass(&self, mode: XdpMode) -> Bypass {
        let bypass = self.open(&self.config(mode)).expect("root may");
        assert!(bypass.uses().iter().all(|used| used.mode == mode), "{:?}", bypass.uses());
        bypass
    }

    /// A flow from phone A to phone B, or back to A's second address, where the ways are by one interface.
    fn flow(&self, is_v6: bool, crosses: bool) -> FlowSpec {
        let (network, host) = if crosses { (2, 2) } else { (1, 3) };
        FlowSpec {
            from: SocketAddr::new(our(is_v6, network), 30_000),
            to: SocketAddr::new(phone(is_v6, network, host), 5_000),
            ..flow(is_v6, 20_000)
        }
    }

    /// Phone A's frame with a sequence number.
    fn frame(&self, flow: &FlowSpec, sequence: u16) -> Frame {
        let payload = [sequence as u8; 160];
        let timestamp = u32::from(sequence) * 160;
        let rtp = rtp(0, sequence, timestamp, flow.ssrc, &payload);
        let mut frame = Frame::new(flow.source, flow.local, rtp);
        (frame.to_mac, frame.from_mac) = (self.sbc_a.mac, self.a.port.mac);
        frame
    }

    /// The frame that is to come out for it.
    fn relayed(&self, flow: &FlowSpec, came: &Frame) -> Frame {
        let crosses = flow.to.ip() != phone(flow.to.is_ipv6(), 1, 3);
        let (ours, hop) =
            if crosses { (&self.sbc_b, &self.b.port) } else { (&self.sbc_a, &self.a.port) };
        let mut frame = came.clone();
        (frame.to_mac, frame.from_mac) = (hop.mac, ours.mac);
        (frame.source, frame.destination) = (flow.from, flow.to);
        (frame.tos, frame.hops, frame.flow_label) = (flow.dscp << 2, 64, 0);
        frame
    }

    /// Where the flow's frames come out.
    fn hears(&self, flow: &FlowSpec) -> &Wire {
        if flow.from.ip() == our(flow.from.is_ipv6(), 1) { &self.a.wire } else { &self.b.wire }
    }
}

/// A flow from phone A, that comes to a port of ours, to phone B.
fn flow(is_v6: bool, port: u16) -> FlowSpec {
    FlowSpec {
        local: SocketAddr::new(our(is_v6, 1), port),
        source: SocketAddr::new(phone(is_v6, 1, 2), 4_000),
        ssrc: SSRC,
        newest: 999,
        transit: 0,
        jitter: 0,
        from: SocketAddr::new(our(is_v6, 2), port + 10_000),
        to: SocketAddr::new(phone(is_v6, 2, 2), port - 15_000),
        splice: None,
        telephone_event: Some(EVENT_TYPE),
        dscp: 46,
    }
}

/// The flow that two processes put in a row.
fn flow_of_row(row: u32) -> FlowSpec {
    flow(false, 20_000 + row as u16 * 2)
}

fn our(is_v6: bool, network: u8) -> IpAddr {
    phone(is_v6, network, 1)
}

fn phone(is_v6: bool, network: u8, host: u8) -> IpAddr {
    if is_v6 {
        IpAddr::from([0xfd00, network.into(), 0, 0, 0, 0, 0, host.into()])
    } else {
        IpAddr::from([10, 0, network, host])
    }
}

/// Installs a flow; its next hop may have to be looked for first.
fn install(bypass: &Bypass, row: u32, flow: &FlowSpec) {
    lab::until("a next hop", || match bypass.install(row, flow) {
        Ok(()) => Some(()),
        Err(WhyNot::NextHop) => None,
        Err(why) => panic!("{why:?}"),
    });
}
