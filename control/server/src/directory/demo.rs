use std::net::IpAddr;

use abi::SrtpPolicy;
use base::{CcbId, TenantId, Transport};
use control_core::{Destination, QueueSpec, Route, TrunkKey};
use sqlx::query;

use super::{Address, AddressKind, Agent, Directory, DirectoryError, Parameters};
use crate::config::HashCost;
use crate::password;

/// The employee number of the first agent; the others follow.
const FIRST_AGENT: u32 = 1001;
/// Keys of the agents of one tenant: its number times this, and their employee number.
const KEYS_A_TENANT: u64 = 1_000_000_000;

/// The tenant that `jackfield demo` shows: employees 1001.., password `NAME-1001`.., the directory
/// number is the employee number, the operator `op1001`...
#[derive(Clone, Debug)]
pub struct DemoSpec {
    /// The tenant's name, in the demo `demo`.
    pub tenant: String,
    /// How many agents it has.
    pub agents: u32,
    /// The CCBs that serve it, with its locations there; the first location is the default.
    pub ccbs: Vec<(CcbId, Vec<DemoLocation>)>,
    /// Peers that are trusted by address or by certificate and may call any agent.
    pub trunks: Vec<TrunkKey>,
    /// Its queues, which all of its agents can serve.
    pub queues: Vec<String>,
    /// Whether its phones speak SRTP.
    pub srtp: SrtpPolicy,
    /// Numbers that are no agent's: a prefix, and where they go.
    pub routes: Vec<(String, Destination)>,
}

/// A location and the ports that serve it.
#[derive(Clone, Debug)]
pub struct DemoLocation {
    /// Its name.
    pub name: String,
    /// The address that its firewall and its SBC map to.
    pub ip: IpAddr,
    /// By what SIP is spoken there, and at which ports.
    pub sip: Vec<(Transport, u16)>,
    /// The port of HTTP and of the CTI WebSocket.
    pub http_port: u16,
}

impl Directory {
    /// Creates the demo tenant with everything that it needs, or makes what is there equal to `spec`;
    /// agents beyond `spec.agents` go. Password hashes are cheap ([`HashCost::DEMO`]).
    pub async fn create_demo(&self, spec: &DemoSpec) -> Result<TenantId, DirectoryError> {
        let first = spec.ccbs.first().map_or(&[][..], |(_, locations)| locations);
        let names: Vec<String> = first.iter().map(|at| at.name.clone()).collect();
        let realm = format!("{}.jackfield.local", spec.tenant);
        let tenant = self.put_tenant(&spec.tenant, &realm, &names).await?;
        let all = spec.ccbs.iter().flat_map(|(ccb, at)| at.iter().map(move |at| (*ccb, at)));
        for (ccb, location) in all {
            let address = |transport: &str, port| Address {
                host: location.ip.to_string(),
                port,
                transport: transport.into(),
            };
            let sip = location.sip.iter().map(|(transport, port)| address(transport.name(), *port));
            for (kind, addresses) in [
                (AddressKind::Cti, vec![address("ws", location.http_port)]),
                (AddressKind::Sbc, sip.collect()),
                (AddressKind::Ccb, vec![address("http", location.http_port)]),
            ] {
                self.put_addresses(ccb, &location.name, kind, &addresses).await?;
            }
        }
        let (name, count) = (spec.tenant.clone(), spec.agents);
        let agents =
            tokio::task::spawn_blocking(move || demo_agents(&name, tenant, count))
                .await
                .map_err(|_| DirectoryError::Field("the hashes of the demo's passwords".into()))?;
        self.put_agents(tenant, &agents).await?;
        let beyond = query("DELETE FROM agents WHERE tenant_id = $1 AND id >= $2")
            .bind(i64::from(tenant.0))
            .bind(i64::try_from(key_of(tenant, spec.agents)).unwrap_or(i64::MAX));
        let mut writer = self.database.write().await?;
        writer.execute(beyond).await?;
        writer.commit().await?;
        // A row has room for a name of 48 bytes.
        let name = |by: &TrunkKey| by.to_string().chars().take(48).collect();
        let trunks: Vec<(String, TrunkKey)> =
            spec.trunks.iter().map(|by| (name(by), by.clone())).collect();
        let routes: Vec<Route> = spec
            .routes
            .iter()
            .map(|(prefix, to)| Route { tenant, prefix: prefix.clone(), to: to.clone() })
            .collect();
        self.put_trunks(tenant, &trunks, &routes).await?;
        self.set_srtp(tenant, None, spec.srtp).await?;
        for name in &spec.queues {
            self.put_queue(&QueueSpec::new(tenant, name)).await?;
        }
        Ok(tenant)
    }
}

fn key_of(tenant: TenantId, index: u32) -> u64 {
    u64::from(tenant.0) * KEYS_A_TENANT + u64::from(FIRST_AGENT) + u64::from(index)
}

/// The agents with their hashes, which all cores make: hashing is what takes the time.
fn demo_agents(tenant_name: &str, tenant: TenantId, count: u32) -> Vec<Agent> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u32;
    let share = count.div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        let parts: Vec<_> = (0..threads)
            .map(|part| {
                let indices = (part * share).min(count)..((part + 1) * share).min(count);
                scope.spawn(move || {
                    indices.map(|index| demo_agent(tenant_name, tenant, index)).collect::<Vec<_>>()
                })
            })
            .collect();
        parts.into_iter().flat_map(|part| part.join().expect("hashing does not panic")).collect()
    })
}

fn demo_agent(tenant_name: &str, tenant: TenantId, index: u32) -> Agent {
    let employee = FIRST_AGENT + index;
    Agent {
        id: key_of(tenant, index),
        agent_id: employee.to_string(),
        operator_id: format!("op{employee}"),
        number: employee.to_string(),
        name: format!("Agent {employee}"),
        password: password::hash(&format!("{tenant_name}-{employee}"), HashCost::DEMO),
        parameters: Parameters {
            skills: vec!["general".into()],
            recording_path: format!("/{tenant_name}/{employee}"),
            ..Parameters::default()
        },
    }
}
