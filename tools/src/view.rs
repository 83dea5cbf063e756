//! What a region says by itself, mapped read-only: for when control is away, and for `top`.

use std::collections::BTreeMap;
use std::sync::Arc;

use abi::{AgentRow, AgentState, CallState, Counter, CtiState, DataPlaneState, Region};
use base::{AgentSlot, WorkerId};
use control_server::{path_name, reason_name};
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
    /// Lease words that somebody holds.
    pub leases_held: u32,
    /// Its workers.
    pub workers: Vec<Worker>,
    /// Calls that stand.
    pub calls: Vec<Call>,
    /// Who is logged in, when it was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub logged_in: Vec<Agent>,
}

/// A login as its rows show it.
#[derive(Clone, Debug, Serialize)]
pub struct Agent {
    /// The tenant's name.
    pub tenant: String,
    /// The directory number.
    pub number: String,
    /// The user part of the phone's SIP address.
    pub user: String,
    /// The agent's name.
    pub name: String,
    /// In control's words.
    pub state: &'static str,
    /// The location's name.
    pub location: String,
    /// Where the phone is, while it is registered.
    pub phone: Option<String>,
    /// Seconds since the login was granted.
    pub age_s: u64,
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
    /// RTP and RTCP packets from others than the party, all dropped.
    pub foreign: u64,
    /// Which way the party's packets go.
    pub path: &'static str,
    /// Why they do not take the bypass; empty when they do.
    pub path_reason: &'static str,
    /// Jitter, microseconds.
    pub jitter_us: u32,
    /// Round trip, microseconds, once it is known.
    pub round_trip_us: Option<u32>,
    /// Mean opinion score of what the party sends, once there is one.
    pub mos: Option<f64>,
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
        agents: logins(region).count() as u32,
        registered: registered.count() as u32,
        leases_held: region.leases().held(),
        workers: (0..region.layout().workers).map(|w| worker(region, WorkerId(w))).collect(),
        calls: calls(region),
        logged_in: Vec::new(),
    }
}

/// [`read`], and who is logged in.
pub fn read_with_agents(region: &Arc<Region>) -> View {
    View { logged_in: agents(region), ..read(region) }
}

fn logins(region: &Region) -> impl Iterator<Item = (AgentSlot, AgentRow)> {
    let is_login =
        |row: &AgentRow| matches!(row.state(), AgentState::LoggedIn | AgentState::Draining);
    region.agents().iter().filter(move |(_, row)| is_login(row))
}

fn agents(region: &Region) -> Vec<Agent> {
    let now = clock::now();
    let tenants: BTreeMap<u32, String> =
        region.tenants().iter().map(|(_, row)| (row.tenant, row.name().to_string())).collect();
    let agents = logins(region).map(|(slot, row)| {
        let phone = region.registrations().read(slot).filter(|phone| {
            let is_of_login = phone.epoch == row.login_epoch;
            is_of_login && phone.is_registered() && phone.expires_at > now.as_nanos()
        });
        let location = row.location().and_then(|id| region.locations().read(id));
        Agent {
            tenant: tenants.get(&row.tenant).cloned().unwrap_or_default(),
            number: row.number().to_string(),
            user: row.user().to_string(),
            name: row.name().to_string(),
            state: match (row.cti_state(), &phone) {
                (CtiState::Lost, _) => "lost",
                (CtiState::Connected, Some(_)) => "online",
                (CtiState::Connected, None) => "waiting_for_phone",
                (CtiState::None, Some(_)) => "registered",
                (CtiState::None, None) => "granted",
            },
            location: location.map(|row| row.name().to_string()).unwrap_or_default(),
            phone: phone.map(|phone| phone.addr().to_string()),
            age_s: now.since(base::Instant::from_nanos(row.granted_at)).as_secs(),
        }
    });
    agents.collect()
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
            foreign: row.foreign,
            path: path_name(row.path()),
            path_reason: reason_name(row.path_reason()),
            jitter_us: row.jitter_us,
            round_trip_us: (row.round_trip_us != 0).then_some(row.round_trip_us),
            mos: (row.mos_hundredths != 0).then(|| f64::from(row.mos_hundredths) / 100.0),
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
