//! What a region says by itself, mapped read-only: for when control is away, and for `top`.

use std::collections::BTreeMap;
use std::sync::Arc;

use abi::{CallState, Counter, DataPlaneState, Region};
use base::WorkerId;
use serde::Serialize;

use crate::clock;
use crate::config::Ccb;

/// One CCB as its region shows it.
#[derive(Clone, Debug, Serialize)]
pub struct View {
    /// Its device number.
    pub ccb: u16,
    /// Its data plane.
    pub data_plane: DataPlane,
    /// The control process, as the data plane sees it.
    pub control: Control,
    /// Agents that are logged in.
    pub agents: u32,
    /// Agents whose phone is registered.
    pub registered: u32,
    /// Its workers.
    pub workers: Vec<Worker>,
    /// Calls that stand.
    pub calls: Vec<Call>,
}

/// The data plane of a CCB.
#[derive(Clone, Debug, Serialize)]
pub struct DataPlane {
    /// Its process.
    pub pid: u32,
    /// Whether that process lives.
    pub alive: bool,
    /// `starting`, `running`, `draining` or `stopped`.
    pub state: &'static str,
    /// Grows with each start.
    pub incarnation: u64,
    /// Milliseconds since its last heartbeat.
    pub heartbeat_ms: u64,
}

/// The control process of a CCB.
#[derive(Clone, Debug, Serialize)]
pub struct Control {
    /// Its process.
    pub pid: u32,
    /// Whether that process lives.
    pub alive: bool,
    /// Whether the data plane has its socket.
    pub attached: bool,
}

/// A worker's counters by name; those that are 0 are left out.
#[derive(Clone, Debug, Serialize)]
pub struct Worker {
    /// Which.
    pub worker: u8,
    /// Events that wait for control.
    pub events_waiting: u64,
    /// What it counts.
    pub counters: BTreeMap<&'static str, u64>,
}

/// A call that stands.
#[derive(Clone, Debug, Serialize)]
pub struct Call {
    /// Its slot and generation.
    pub call: String,
    /// Its serial number.
    pub serial: String,
    /// How far it is.
    pub state: &'static str,
    /// The number that was called.
    pub called: String,
    /// Seconds since it began.
    pub age_s: u64,
    /// Its parties.
    pub legs: Vec<Leg>,
}

/// A party of a call.
#[derive(Clone, Debug, Serialize)]
pub struct Leg {
    /// Its number in the call.
    pub leg: u32,
    /// The party's number.
    pub number: String,
    /// RTP packets from the party.
    pub packets_in: u64,
    /// RTP packets to the party.
    pub packets_out: u64,
    /// RTP packets that never came.
    pub lost: u64,
}

/// Maps the region of `ccb` for reading only.
pub fn open(ccb: &Ccb) -> Result<Arc<Region>, String> {
    Region::open_read_only(&ccb.region).map_err(|error| error.to_string())
}

/// What the region says of its data plane.
pub fn data_plane(region: &Region) -> DataPlane {
    let record = region.header().data_plane();
    DataPlane {
        pid: record.process.pid,
        alive: record.process.is_alive(),
        state: state_name(record.state),
        incarnation: record.incarnation,
        heartbeat_ms: clock::now().since(record.heartbeat).as_millis() as u64,
    }
}

/// Reads everything that there is to show.
pub fn read(region: &Arc<Region>) -> View {
    let now = clock::now();
    let control = region.header().control();
    let logged_in = region.agents().iter().filter(|(_, row)| row.state == 1 || row.state == 2);
    let registered = region
        .registrations()
        .iter()
        .filter(|(_, row)| row.is_registered() && row.expires_at > now.as_nanos());
    View {
        ccb: region.layout().ccb.0,
        data_plane: data_plane(region),
        control: Control {
            pid: control.process.pid,
            alive: control.process.is_alive(),
            attached: control.attached,
        },
        agents: logged_in.count() as u32,
        registered: registered.count() as u32,
        workers: (0..region.layout().workers).map(|w| worker(region, WorkerId(w))).collect(),
        calls: calls(region),
    }
}

fn worker(region: &Arc<Region>, worker: WorkerId) -> Worker {
    let counters = region.counters();
    let all = Counter::ALL.iter().map(|counter| (counter.name(), counters.get(worker, *counter)));
    Worker {
        worker: worker.0,
        events_waiting: region.ring_usage(worker).events,
        counters: all.filter(|(_, value)| *value != 0).collect(),
    }
}

fn calls(region: &Region) -> Vec<Call> {
    let now = clock::now();
    let mut legs: BTreeMap<(u32, u32), Vec<Leg>> = BTreeMap::new();
    for (_, row) in region.legs().iter().filter(|(_, row)| row.state != 0) {
        legs.entry((row.call_slot, row.call_generation)).or_default().push(Leg {
            leg: row.leg,
            number: row.number().to_string(),
            packets_in: row.packets_in,
            packets_out: row.packets_out,
            lost: row.lost,
        });
    }
    let mut calls = Vec::new();
    for (slot, row) in region.calls().iter() {
        if matches!(row.state(), CallState::Free | CallState::Ended) {
            continue;
        }
        let mut legs = legs.remove(&(slot, row.generation)).unwrap_or_default();
        legs.sort_by_key(|leg| leg.leg);
        calls.push(Call {
            call: format!("{slot}.{}", row.generation),
            serial: format!("{:020}", row.serial),
            state: call_state_name(row.state()),
            called: row.called().to_string(),
            age_s: now.since(base::Instant::from_nanos(row.started_at)).as_secs(),
            legs,
        });
    }
    calls
}

fn state_name(state: DataPlaneState) -> &'static str {
    match state {
        DataPlaneState::Starting => "starting",
        DataPlaneState::Running => "running",
        DataPlaneState::Draining => "draining",
        DataPlaneState::Stopped => "stopped",
    }
}

fn call_state_name(state: CallState) -> &'static str {
    match state {
        CallState::Free => "free",
        CallState::Asked => "asked",
        CallState::Calling => "calling",
        CallState::Ringing => "ringing",
        CallState::Answered => "answered",
        CallState::Ended => "ended",
    }
}
