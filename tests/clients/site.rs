//! A site of several blades: each on a host of its own, with NATS, PostgreSQL and one network between them.

use std::io::{Read as _, Write as _};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::desk::Desk;
use crate::lab::{Host, Process, jackfield, run, wait_for};
use crate::phone::Softphone;
use crate::postgres::Postgres;

/// The tenant of every agent.
pub const TENANT: &str = "acme";
/// Where the agents are.
pub const LOCATION: &str = "floor";
/// Where the phones are.
pub const PHONES: [u8; 4] = [10, 78, 0, 200];
/// Where customers call from.
pub const CARRIER: [u8; 4] = [10, 78, 0, 201];
/// The number that leads to the queue.
pub const ACCESS: &str = "702";
/// The queue that it leads to.
pub const QUEUE: &str = "support";
/// Where NATS is.
const BUS: &str = "10.78.0.100";
/// How long a process may take to start on a busy machine.
const START: Duration = Duration::from_secs(60);

/// Everything that runs.
pub struct Site {
    pub blades: Vec<BladeHost>,
    /// Where desks and phones are.
    pub floor: Host,
    /// Where customers call from, a trunk of every blade.
    pub carrier: Host,
    bus_host: Host,
    pub bus: Option<Process>,
    // The bridge of the network, which goes last.
    wire: Host,
    pub postgres: Arc<Postgres>,
    database: String,
    folder: tempfile::TempDir,
}

/// What a site is made of.
pub struct Plan {
    pub blades: usize,
    pub agents: usize,
    /// Where the data planes have their prompts.
    pub prompts: Option<PathBuf>,
    /// The database of the directory.
    pub postgres: Arc<Postgres>,
    /// The hash of every agent's password, where `secret-NUMBER` for each takes too long.
    pub password_hash: Option<String>,
}

/// One blade: a control process and a data plane.
pub struct BladeHost {
    pub number: usize,
    host: Host,
    folder: PathBuf,
    region: PathBuf,
    pub control: Option<Process>,
    pub dataplane: Option<Process>,
}

impl Site {
    /// Starts so many blades, and imports so many agents.
    pub fn start(blades: usize, agents: usize) -> Site {
        let postgres = Postgres::shared();
        Site::of(Plan { blades, agents, prompts: None, postgres, password_hash: None })
    }

    /// Starts what is planned.
    pub fn of(plan: Plan) -> Site {
        let Plan { blades, agents, prompts, postgres, password_hash } = plan;
        let folder = tempfile::tempdir().expect("a folder");
        let wire = Host::new("wire");
        wire.run("ip", &["link", "add", "br0", "type", "bridge"]);
        wire.run("ip", &["link", "set", "br0", "up"]);
        let plug = |name: &str, address: &str| {
            let host = Host::new(name);
            host.plug(&wire, address);
            host
        };
        let (floor, bus_host) = (plug("floor", "10.78.0.200"), plug("bus", BUS));
        let carrier = plug("carrier", "10.78.0.201");
        let url = postgres.database();
        let database = url.split(['/', '?']).nth(3).expect("a name").to_owned();
        let hosts = (1..=blades).map(|number| {
            let host = plug(&format!("blade{number}"), &format!("10.78.0.{number}"));
            BladeHost::new(number, host, folder.path(), &url, prompts.as_deref())
        });
        let blades: Vec<BladeHost> = hosts.collect();
        let bus = None;
        let mut site =
            Site { blades, floor, carrier, bus_host, bus, wire, postgres, database, folder };
        site.start_bus();
        site.blades.iter_mut().for_each(BladeHost::start);
        site.import(agents, password_hash.as_deref());
        site.expect_normal();
        site
    }

    /// Where its files are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// NATS with JetStream, with what it kept.
    pub fn start_bus(&mut self) {
        let store = self.folder.path().join("nats");
        let mut command = self.bus_host.command("nats-server");
        command.args(["-js", "-a", BUS, "-p", "4222", "-sd"]).arg(store);
        self.bus = Some(Process::start(&mut command, self.folder.path(), "nats"));
    }

    /// kill -9.
    pub fn kill_bus(&mut self) {
        if let Some(mut bus) = self.bus.take() {
            bus.kill();
        }
    }

    /// The queue, the number that leads to it, and the trunk of the customers; agents have no work after calls.
    pub fn add_queue(&self, more: &[&str]) {
        let trunk = "INSERT INTO trunks SELECT id, 'carrier', '10.78.0.201/32' FROM tenants";
        let route =
            format!("INSERT INTO routes SELECT id, '{ACCESS}', 'queue:{QUEUE}', NULL FROM tenants");
        self.postgres.sql(&self.database, trunk);
        self.postgres.sql(&self.database, &route);
        let usual = ["queue", "set", QUEUE, "--tenant", TENANT, "--ring", "5", "--after-call", "0"];
        self.blades[0].tell(&[&usual[..], more].concat());
        for blade in &self.blades {
            let known = wait_for(START, || blade.queue());
            assert!(known.is_some(), "blade {} has no queue: {}", blade.number, blade.log());
        }
    }

    /// A customer's phone, which calls by that blade.
    pub fn customer(&self, number: &str, blade: usize) -> Softphone {
        let login = json!({ "phone": {
            "addresses": [{ "host": format!("10.78.0.{blade}"), "port": 5060 }],
            "user": number, "auth_user": number, "realm": "none", "secret": "none",
        }});
        Softphone::start_on(&self.carrier, &login, CARRIER.into(), 440)
    }

    /// The desk of an agent who is logged in.
    pub fn desk(&self, login: &Value) -> Desk {
        self.floor.enter(|| Desk::open(login))
    }

    /// Cuts the cable of a blade, or joins it again.
    pub fn set_cable(&self, blade: usize, is_joined: bool) {
        let cable = format!("p10780{blade}");
        self.wire.run("ip", &["link", "set", &cable, if is_joined { "up" } else { "down" }]);
    }

    fn import(&self, agents: usize, hash: Option<&str>) {
        let mut text = format!(
            "[[tenant]]\nname = \"{TENANT}\"\nrealm = \"{TENANT}.example\"\ndefault_location = \"{LOCATION}\"\n\
             [[location]]\ntenant = \"{TENANT}\"\nname = \"{LOCATION}\"\n"
        );
        for number in (1001..).take(agents) {
            let proof = match hash {
                Some(hash) => format!("password_hash = \"{hash}\""),
                None => format!("password = \"secret-{number}\""),
            };
            text += &format!(
                "[[agent]]\ntenant = \"{TENANT}\"\nagent = \"{number}\"\noperator = \"op{number}\"\n\
                 number = \"{number}\"\nname = \"Agent {number}\"\n{proof}\n"
            );
            // The last one may listen to the others.
            if number == 1_000 + agents {
                text += "type = \"supervisor\"\nrights = [\"call\", \"supervise\"]\n";
            }
        }
        for blade in &self.blades {
            let ip = format!("10.78.0.{}", blade.number);
            text += &format!(
                "[[mapping]]\nccb = {}\nlocation = \"{LOCATION}\"\ncti = [\"ws:{ip}:8080\"]\n\
                 sbc = [\"udp:{ip}:5060\"]\nown = [\"http:{ip}:8080\"]\n",
                blade.number
            );
        }
        let file = self.folder.path().join("site.toml");
        std::fs::write(&file, text).expect("written");
        let imported = wait_for(START, || {
            let mut command = Command::new(jackfield());
            command.args(["directory", "import"]).arg(&file).arg("--dir");
            let output = run(command.arg(&self.blades[0].folder));
            let why = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(
                output.status.success() || why.contains("away"),
                "the import failed: {why} {}",
                String::from_utf8_lossy(&output.stdout)
            );
            output.status.success().then_some(())
        });
        assert!(imported.is_some(), "no control took the import");
    }

    /// Waits until every blade that runs sees every other one run normally, and a leader.
    pub fn expect_normal(&self) {
        let running: Vec<_> = self.blades.iter().filter(|blade| blade.control.is_some()).collect();
        for blade in &running {
            let mut last = None;
            let settled = wait_for(START, || {
                last = blade.ask(&["blades"]);
                let seen = last.as_ref()?["blades"].as_array()?.clone();
                let normal = |one: &&Value| {
                    one["ccbs"].as_array().is_some_and(|ccbs| {
                        !ccbs.is_empty() && ccbs.iter().all(|ccb| ccb["status"] == "normal")
                    })
                };
                let is_all = seen.iter().filter(normal).count() == running.len();
                (is_all && last.as_ref()?["leader"].is_string()).then_some(())
            });
            assert!(settled.is_some(), "blade {}: {last:#?}\n{}", blade.number, blade.log());
        }
    }

    /// The number of the blade that leads the CDM.
    pub fn leader(&self) -> usize {
        let leads = wait_for(START, || {
            let blades =
                self.blades.iter().find(|blade| blade.control.is_some())?.ask(&["blades"])?;
            blades["leader"].as_str()?.strip_prefix("blade-")?.parse().ok()
        });
        leads.expect("a blade leads")
    }

    /// Logs an agent in at the AgentProxy of that blade; the status and the answer.
    pub fn try_log_in(&self, agent: usize, blade: usize, proof: Value) -> (u16, Value) {
        let mut body =
            json!({ "tenant": TENANT, "agent": agent.to_string(), "location": LOCATION });
        for (field, value) in proof.as_object().expect("fields") {
            body[field] = value.clone();
        }
        if body.get("token").is_some() {
            body.as_object_mut().expect("fields").retain(|field, _| field == "token");
        }
        self.floor.post(&format!("http://10.78.0.{blade}:8080/v1/login"), &body)
    }

    /// Logs an agent in by its password, as often as it is told to come again.
    pub fn log_in(&self, agent: usize, blade: usize) -> Value {
        let end = Instant::now() + START;
        loop {
            let password = json!({ "password": format!("secret-{agent}") });
            let (status, answer) = self.try_log_in(agent, blade, password);
            match status {
                200 => return answer,
                503 if Instant::now() < end => std::thread::sleep(Duration::from_millis(250)),
                _ => panic!("agent {agent} at blade {blade}: {status} {answer}"),
            }
        }
    }

    /// Waits until no blade has a call, a port or a lease left.
    pub fn expect_all_free(&self) {
        for blade in self.blades.iter().filter(|blade| blade.control.is_some()) {
            let mut last = String::new();
            let free = wait_for(Duration::from_secs(40), || {
                let status = blade.ask(&["status"])?;
                let counters = &status["ccbs"][0]["counters"];
                let left = ["calls_now", "ports_in_use", "leases_held"];
                let left = left.map(|name| counters[name].as_u64());
                last = format!("calls, ports, leases: {left:?}");
                (left == [Some(0); 3]).then_some(())
            });
            assert!(free.is_some(), "blade {}: something is left: {last}", blade.number);
        }
    }

    /// Waits until no blade that runs knows of a lease.
    pub fn expect_no_lease(&self) {
        for blade in self.blades.iter().filter(|blade| blade.control.is_some()) {
            // What a holder knows of another blade's agent follows by the bus.
            let none =
                wait_for(Duration::from_secs(15), || blade.leases()?.is_empty().then_some(()));
            assert!(none.is_some(), "blade {}: {:#?}", blade.number, blade.leases());
        }
    }
}

impl BladeHost {
    fn new(
        number: usize,
        host: Host,
        folder: &Path,
        directory: &str,
        prompts: Option<&Path>,
    ) -> BladeHost {
        let folder = folder.join(format!("b{number}"));
        std::fs::create_dir(&folder).expect("a folder");
        let region = PathBuf::from(format!("/dev/shm/jackfield-{}-{number}", std::process::id()));
        let (shown, ip) = (folder.display(), format!("10.78.0.{number}"));
        let key = folder.parent().expect("a folder").join("token.key");
        let prompts = prompts.map(|folder| format!("prompts = \"{}\"\n", folder.display()));
        let text = format!(
            "[control]\nhttp = [\"{ip}:8080\"]\nadmin = \"{shown}/admin.sock\"\ndirectory = \"{directory}\"\n\
             state = \"{shown}/state\"\nrecords = \"{shown}/records\"\nblade = \"blade-{number}\"\n\
             cluster = \"test\"\nbus = \"nats://{BUS}:4222\"\ntoken_key = \"{}\"\n\n\
             [[ccb]]\nnumber = {number}\nregion = \"{}\"\nsocket = \"{shown}/ccb.sock\"\ncores = [{}]\n\
             rtp_ports = \"20000-20999\"\nmedia = \"io_uring\"\n{}\n[[ccb.location]]\nname = \"{LOCATION}\"\nip = \"{ip}\"\n",
            key.display(),
            region.display(),
            (number - 1) % 2,
            prompts.unwrap_or_default(),
        );
        std::fs::write(folder.join("jackfield.toml"), text).expect("written");
        BladeHost { number, host, folder, region, control: None, dataplane: None }
    }

    /// Starts what does not run.
    pub fn start(&mut self) {
        let file = self.folder.join("jackfield.toml");
        let start = |arguments: &[&str]| {
            let mut command = self.host.command(jackfield());
            command.args(arguments).arg("--config").arg(&file);
            Process::start(&mut command, &self.folder, arguments[0])
        };
        if self.dataplane.is_none() {
            self.dataplane = Some(start(&["dataplane"]));
        }
        if self.control.is_none() {
            self.control = Some(start(&["control"]));
        }
    }

    /// kill -9 of control.
    pub fn kill_control(&mut self) {
        if let Some(mut control) = self.control.take() {
            control.kill();
        }
    }

    /// kill -9 of the data plane.
    pub fn kill_dataplane(&mut self) {
        if let Some(mut dataplane) = self.dataplane.take() {
            dataplane.kill();
        }
    }

    /// kill -9 of both.
    pub fn kill(&mut self) {
        self.kill_control();
        self.kill_dataplane();
    }

    /// `jackfield WHAT...`, which must do.
    pub fn tell(&self, what: &[&str]) {
        let output = run(Command::new(jackfield()).args(what).arg("--dir").arg(&self.folder));
        let why = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "blade {}: {what:?}: {why}", self.number);
    }

    /// What it says of the queue.
    pub fn queue(&self) -> Option<Value> {
        self.ask(&["queues"])?["queues"].as_array()?.first().cloned()
    }

    /// What `jackfield leases` prints.
    pub fn leases(&self) -> Option<Vec<Value>> {
        self.ask(&["leases"])?["leases"].as_array().cloned()
    }

    /// What `jackfield WHAT --json` prints; None while it fails.
    pub fn ask(&self, what: &[&str]) -> Option<Value> {
        let output =
            run(Command::new(jackfield()).args(what).arg("--json").arg("--dir").arg(&self.folder));
        if !output.status.success() {
            return None;
        }
        serde_json::from_slice(&output.stdout).ok()
    }

    /// What its control answers at that path of its admin socket; None while it does not, or not in time.
    pub fn get(&self, path: &str) -> Option<Value> {
        let limit = Some(Duration::from_secs(1));
        let mut stream = UnixStream::connect(self.folder.join("admin.sock")).ok()?;
        stream.set_read_timeout(limit).ok()?;
        stream.set_write_timeout(limit).ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: blade\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        head.starts_with("HTTP/1.1 200").then(|| serde_json::from_str(body).ok())?
    }

    /// What its control said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("control.log")).unwrap_or_default()
    }

    /// What its data plane said.
    pub fn dataplane_log(&self) -> String {
        std::fs::read_to_string(self.folder.join("dataplane.log")).unwrap_or_default()
    }

    /// A counter of its CCB.
    pub fn counter(&self, name: &str) -> u64 {
        let status = self.ask(&["status"]).expect("status answers");
        let value = &status["ccbs"][0]["counters"][name];
        value.as_u64().unwrap_or_else(|| panic!("no counter {name} in {status:#}"))
    }
}

impl Drop for BladeHost {
    fn drop(&mut self) {
        self.kill();
        for suffix in ["", ".secrets", ".lock", ".control.lock"] {
            let mut file = self.region.clone().into_os_string();
            file.push(suffix);
            let _ = std::fs::remove_file(file);
        }
    }
}

/// The phones' address.
pub fn phones() -> IpAddr {
    PHONES.into()
}
