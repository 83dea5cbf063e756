//! `[[agent_proxy]]`: control processes without CCBs, which take logins for all blades (S1-067).

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use control_server::{LONGEST_DRAIN_S, PROXY_DRAIN_S};

use super::read::Table;
use super::{ABSOLUTE_RULE, Control, SOCKET_RULE, parse_absolute, parse_socket};

/// `[[agent_proxy]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentProxy {
    /// Its number, unique over all blades.
    pub number: u16,
    /// Where it takes logins, at least one address.
    pub http: Vec<SocketAddr>,
    /// The UNIX socket of the command line tools.
    pub admin: PathBuf,
    /// A folder of its own for what control processes keep; none of it is missed when it is lost.
    pub state: PathBuf,
    /// How long it still takes logins when it is to stop, in seconds.
    pub drain_s: u32,
}

/// Reads one; what it does not say follows `control`.
pub(super) fn read(table: &Table<'_, '_>, control: Option<&Control>) -> Option<AgentProxy> {
    let number = table.required_number("number", 1..65_536);
    let http =
        table.required_parsed_list("http", "must be ADDRESS:PORT, as in 192.0.2.1:8090", |text| {
            text.parse::<SocketAddr>().ok().filter(|address| address.port() != 0)
        });
    let admin = table.required_parsed("admin", SOCKET_RULE, parse_socket);
    let place = number.as_ref().map_or(0, |number| number.value);
    let beside = control.map(|control| control.state.join(format!("agentproxy-{place}")));
    let state = table.parsed("state", ABSOLUTE_RULE, parse_absolute);
    let state = table.or("state", state, beside.unwrap_or_default());
    let drain_s = table.number("drain_s", 0..u64::from(LONGEST_DRAIN_S) + 1);
    let drain_s = table.or("drain_s", drain_s, PROXY_DRAIN_S.into());
    table.finish();
    if control.is_some_and(|control| control.bus.server.is_none()) {
        let rule = "needs a bus in [control]: it has no CCB of its own";
        table.report().fault(table.span(), table.name("number"), rule);
    }
    Some(AgentProxy {
        number: u16::try_from(number?.value).ok()?,
        http: http?.value,
        admin: admin?.value,
        state: state?,
        drain_s: u32::try_from(drain_s?).ok()?,
    })
}

impl AgentProxy {
    /// What it is called among blades.
    pub fn blade(&self, control: &Control) -> String {
        let end = format!("-proxy-{}", self.number);
        let host = &control.bus.blade;
        // A blade's name has 64 bytes, of letters, digits, dashes and underscores only.
        format!("{}{end}", &host[..host.len().min(64 - end.len())])
    }

    /// For people.
    pub(super) fn summary(&self) -> String {
        let http: Vec<_> = self.http.iter().map(|at| format!("http://{at}")).collect();
        format!(
            "AgentProxy {}: logins at {}, for {} s more when it stops",
            self.number,
            http.join(" and "),
            self.drain_s
        )
    }

    /// The table that says this.
    pub(super) fn to_toml(&self) -> String {
        let quote = |path: &Path| toml::Value::from(path.display().to_string()).to_string();
        let http: Vec<_> = self.http.iter().map(SocketAddr::to_string).collect();
        let mut text = format!("\n[[agent_proxy]]\nnumber = {}\nhttp = {http:?}\n", self.number);
        let _ = write!(
            text,
            "admin = {}\nstate = {}\ndrain_s = {}\n",
            quote(&self.admin),
            quote(&self.state),
            self.drain_s
        );
        text
    }
}
