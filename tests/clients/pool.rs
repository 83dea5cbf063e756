//! The pool over blades: CCBs and AgentProxies that come and go with the load or by order, and agents behind an HTTP
//! balancer (S1-016, S1-050 to S1-052, S1-067 to S1-070; issue "Many blades", line 5).

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::desk::Desk;
use crate::lab::{Host, Process, jackfield, run, signal, turn, wait_for};
use crate::phone::Softphone;
use crate::postgres::Postgres;
use crate::site::{LOCATION, TENANT, phones};

/// How long a process may take to start on a busy machine.
const START: Duration = Duration::from_secs(60);
/// Logins that each CCB has room for.
const PLACES: usize = 10;
/// How long the views of pool, CDM and processes may differ.
const DIFFER: Duration = Duration::from_secs(5);
const BUS: &str = "10.78.0.100";
const BALANCER: &str = "10.78.0.150";
const HAPROXY: &str = include_str!("../../tools/haproxy/jackfield.cfg");

/// What `[pool]` says besides its slots.
const BY_LOAD: &str = "high = 70\nlow = 30\nhold_s = 2\n";

/// What does for systemd as much as the driver asks of it: starts and stops a unit's process, and waits for its end.
const SYSTEMCTL: &str = r#"#!/bin/sh
verb=$3 unit=$4 number=${4#*@}
number=${number%.service}
case $unit in
    jackfield-ccb@*) set -- dataplane --config FOLDER/jackfield.toml --ccb "$number" ;;
    jackfield-agentproxy@*) set -- agentproxy --config FOLDER/jackfield.toml --number "$number" ;;
    *) exit 4 ;;
esac
case $verb in
    start)
        pid=$(cat "FOLDER/$unit.pid" 2> /dev/null) && [ -e "/proc/$pid/exe" ] && exit 0
        setsid JACKFIELD "$@" < /dev/null >> FOLDER/units.log 2>&1 &
        echo $! > "FOLDER/$unit.pid" ;;
    stop)
        pid=$(cat "FOLDER/$unit.pid")
        kill "$pid"
        while [ -e "/proc/$pid/exe" ]; do sleep 0.05; done ;;
esac
"#;

/// Two blades with slots for two CCBs and one AgentProxy each, and no process of any of them; the first starts them
/// itself, the second by systemd.
struct Rig {
    blades: Vec<Blade>,
    floor: Host,
    balancer: Host,
    // What goes last.
    haproxy: Option<Process>,
    bus: Process,
    _hosts: Vec<Host>,
    _postgres: Arc<Postgres>,
    folder: tempfile::TempDir,
}

struct Blade {
    host: Host,
    folder: PathBuf,
    control: Option<Process>,
}

impl Rig {
    fn start(agents: usize, places: usize, pool: &str) -> Rig {
        let folder = tempfile::tempdir().expect("a folder");
        let wire = Host::new("wire");
        wire.run("ip", &["link", "add", "br0", "type", "bridge"]);
        wire.run("ip", &["link", "set", "br0", "up"]);
        let plug = |name: &str, address: &str| {
            let host = Host::new(name);
            host.plug(&wire, address);
            host
        };
        let (floor, balancer) = (plug("floor", "10.78.0.200"), plug("balancer", BALANCER));
        let bus_host = plug("bus", BUS);
        let mut command = bus_host.command("nats-server");
        command.args(["-js", "-a", BUS, "-p", "4222", "-sd"]).arg(folder.path().join("nats"));
        let bus = Process::start(&mut command, folder.path(), "nats");
        let postgres = Postgres::shared();
        let url = postgres.database();
        let blades = (1..=2).map(|number| {
            let host = plug(&format!("blade{number}"), &format!("10.78.0.{number}"));
            Blade::new((number, host), folder.path(), &url, (places, pool))
        });
        let blades: Vec<Blade> = blades.collect();
        let _hosts = vec![bus_host, wire];
        let mut rig = Rig {
            blades,
            floor,
            balancer,
            haproxy: None,
            bus,
            _hosts,
            _postgres: postgres,
            folder,
        };
        rig.blades.iter_mut().for_each(Blade::start);
        rig.import(agents);
        rig
    }

    fn import(&self, agents: usize) {
        let mut text = format!(
            "[[tenant]]\nname = \"{TENANT}\"\nrealm = \"{TENANT}.example\"\ndefault_location = \"{LOCATION}\"\n\
             [[location]]\ntenant = \"{TENANT}\"\nname = \"{LOCATION}\"\n"
        );
        for number in (1001..).take(agents) {
            text += &format!(
                "[[agent]]\ntenant = \"{TENANT}\"\nagent = \"{number}\"\noperator = \"op{number}\"\n\
                 number = \"{number}\"\nname = \"Agent {number}\"\npassword = \"secret-{number}\"\n"
            );
        }
        for ccb in 1..=4_u16 {
            let (blade, sip) = (ccb.div_ceil(2), sip_port(ccb));
            // The CTI of a blade is reached by a port of the balancer.
            text += &format!(
                "[[mapping]]\nccb = {ccb}\nlocation = \"{LOCATION}\"\ncti = [\"ws:{BALANCER}:808{blade}\"]\n\
                 sbc = [\"udp:10.78.0.{blade}:{sip}\"]\nown = [\"http:10.78.0.{blade}:8080\"]\n"
            );
        }
        let file = self.folder.path().join("rig.toml");
        std::fs::write(&file, text).expect("written");
        let imported = wait_for(START, || {
            let mut command = Command::new(jackfield());
            command.args(["directory", "import"]).arg(&file).arg("--dir");
            run(command.arg(&self.blades[0].folder)).status.success().then_some(())
        });
        assert!(imported.is_some(), "no control took the import: {}", self.blades[0].log());
    }

    /// The balancer, by the example that is shipped.
    fn start_balancer(&mut self) {
        let text = HAPROXY
            .replace("192.0.2.11", "10.78.0.1")
            .replace("192.0.2.12", "10.78.0.2")
            .replace("192.0.2.1:", &format!("{BALANCER}:"));
        let file = self.folder.path().join("haproxy.cfg");
        std::fs::write(&file, text).expect("written");
        let mut command = self.balancer.command("haproxy");
        command.arg("-db").arg("-f").arg(&file);
        self.haproxy = Some(Process::start(&mut command, self.folder.path(), "haproxy"));
        let up = wait_for(START, || (self.get(BALANCER, 80, "/ready") == 200).then_some(()));
        let said = self.haproxy.as_ref().map(Process::output);
        assert!(up.is_some(), "nobody is ready behind the balancer: {said:?}");
    }

    /// The status that a GET is answered by.
    fn get(&self, host: &str, port: u16, path: &str) -> u16 {
        let mut command = self.floor.command("curl");
        command.args(["-s", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}"]);
        let output = run(command.arg(format!("http://{host}:{port}{path}")));
        String::from_utf8_lossy(&output.stdout).parse().expect("a status")
    }

    fn try_log_in(&self, agent: usize, at: &str, proof: Value) -> (u16, Value) {
        let mut body = proof;
        if body["token"].is_null() {
            body = json!({
                "tenant": TENANT, "agent": agent.to_string(), "location": LOCATION,
                "password": format!("secret-{agent}"),
            });
        }
        self.floor.post(&format!("http://{at}/v1/login"), &body)
    }

    fn log_in(&self, agent: usize) -> Value {
        let (status, answer) = self.try_log_in(agent, BALANCER, Value::Null);
        assert_eq!(status, 200, "agent {agent}: {answer}");
        answer
    }

    fn log_out(&self, login: &Value) {
        let url = format!("http://{BALANCER}/v1/logout");
        let (status, answer) = self.floor.post(&url, &json!({ "token": login["token"] }));
        assert_eq!(status, 204, "{answer}");
    }

    fn desk(&self, login: &Value) -> Desk {
        self.floor.enter(|| Desk::open(login))
    }

    fn phone(&self, login: &Value) -> Softphone {
        let phone = Softphone::start_on(&self.floor, login, phones(), 440);
        phone.register();
        phone
    }

    /// The views of the pool, of the CDM and of the machine.
    fn views(&self) -> Views {
        let running = |blade: &Blade| blade.slots().map(|slots| in_state(&slots, "ccb", "running"));
        let normal = |blade: &Blade| {
            let blades = blade.ask(&["blades"])?;
            let ccbs = blades["blades"].as_array()?.iter().filter_map(|one| one["ccbs"].as_array());
            let normal = ccbs.flatten().filter(|ccb| ccb["status"] == "normal");
            Some(normal.filter_map(|ccb| ccb["ccb"].as_u64()).collect())
        };
        Views {
            pool: self.blades.iter().map(running).collect(),
            cdm: self.blades.iter().map(normal).collect(),
            processes: self.processes("--ccb").into_keys().collect(),
        }
    }

    /// The processes that the blades' drivers started, by the number that follows that flag.
    fn processes(&self, flag: &str) -> BTreeMap<u64, u32> {
        self.blades.iter().flat_map(|blade| processes(&blade.folder, flag)).collect()
    }

    /// Waits until so many CCBs run, and every view is of the same ones.
    fn expect_ccbs(&self, count: usize, limit: Duration) -> BTreeSet<u64> {
        let mut last = None;
        let agreed = wait_for(limit, || {
            let views = self.views();
            let ccbs = views.agreed().filter(|ccbs| ccbs.len() == count);
            last = Some(views);
            ccbs
        });
        agreed.unwrap_or_else(|| {
            let logs: Vec<String> = self.blades.iter().map(Blade::log).collect();
            let bus = self.bus.output();
            panic!("not {count} CCBs: {last:?}\n{}\n---\n{bus}", logs.join("\n---\n"))
        })
    }

    fn expect_slot(&self, at: usize, kind: &str, number: u64, state: &str) -> Value {
        let mut last = None;
        let seen = wait_for(START, || {
            last = self.blades[at].slots();
            let slot = last.as_ref()?.iter().find(|slot| slot[kind] == number)?;
            (slot["state"] == state).then(|| slot.clone())
        });
        seen.unwrap_or_else(|| panic!("{kind} {number} is not {state}: {last:#?}"))
    }
}

/// Which CCBs run.
#[derive(Debug, Clone)]
struct Views {
    /// As `jackfield pool` says at each blade.
    pool: Vec<Option<BTreeSet<u64>>>,
    /// As `jackfield blades` says at each blade.
    cdm: Vec<Option<BTreeSet<u64>>>,
    /// The processes that there are.
    processes: BTreeSet<u64>,
}

impl Views {
    fn agreed(&self) -> Option<BTreeSet<u64>> {
        let is = |view: &Option<BTreeSet<u64>>| view.as_ref() == Some(&self.processes);
        self.pool.iter().chain(&self.cdm).all(is).then(|| self.processes.clone())
    }
}

fn in_state(slots: &[Value], kind: &str, state: &str) -> BTreeSet<u64> {
    let of_kind = slots.iter().filter(|slot| slot["kind"] == kind && slot["state"] == state);
    of_kind.filter_map(|slot| slot[kind].as_u64()).collect()
}

/// The processes whose command line names that folder's configuration, by the number that follows `flag`.
fn processes(folder: &Path, flag: &str) -> BTreeMap<u64, u32> {
    let file = folder.join("jackfield.toml").display().to_string();
    let found = std::fs::read_dir("/proc").expect("procfs").flatten().filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        let words: Vec<&str> = line
            .split(|byte| *byte == 0)
            .filter_map(|word| std::str::from_utf8(word).ok())
            .collect();
        let place = words.iter().position(|word| *word == flag)?;
        let number = words.get(place + 1)?.parse().ok()?;
        words.contains(&file.as_str()).then_some((number, pid))
    });
    found.collect()
}

/// The two CCBs of a blade share its address.
fn sip_port(ccb: u16) -> u16 {
    if ccb % 2 == 1 { 5060 } else { 5070 }
}

impl Blade {
    fn new(
        (number, host): (u16, Host),
        folder: &Path,
        directory: &str,
        (places, pool): (usize, &str),
    ) -> Blade {
        let key = folder.join("token.key");
        let folder = folder.join(format!("b{number}"));
        std::fs::create_dir(&folder).expect("a folder");
        let (shown, ip) = (folder.display(), format!("10.78.0.{number}"));
        let mut text = format!(
            "[control]\nhttp = [\"{ip}:8080\"]\nadmin = \"{shown}/admin.sock\"\ndirectory = \"{directory}\"\n\
             state = \"{shown}/state\"\nblade = \"blade-{number}\"\ncluster = \"test\"\n\
             bus = \"nats://{BUS}:4222\"\ntoken_key = \"{}\"\nbalancers = [\"{BALANCER}\"]\n",
            key.display(),
        );
        for (place, ccb) in [number * 2 - 1, number * 2].into_iter().enumerate() {
            let (low, sip) = (20_000 + place * 1_000, sip_port(ccb));
            text += &format!(
                "[[ccb]]\nnumber = {ccb}\nregion = \"{}\"\nsocket = \"{shown}/ccb-{ccb}.sock\"\ncores = [{place}]\n\
                 rtp_ports = \"{low}-{}\"\nmedia = \"io_uring\"\nagents = {places}\n\
                 [[ccb.location]]\nname = \"{LOCATION}\"\nip = \"{ip}\"\nsip_port = {sip}\n",
                region(ccb).display(),
                low + 999,
            );
        }
        text += &format!(
            "[[agent_proxy]]\nnumber = {number}\nhttp = [\"{ip}:809{number}\"]\n\
             admin = \"{shown}/proxy.sock\"\ndrain_s = 4\n\
             [pool]\nslots = [{}, {}]\nagent_proxies = [{number}]\ndriver = \"{}\"\n{pool}",
            number * 2 - 1,
            number * 2,
            if number == 1 { "process" } else { "systemd" },
        );
        let systemctl = SYSTEMCTL
            .replace("FOLDER", &shown.to_string())
            .replace("JACKFIELD", &jackfield().display().to_string());
        let file = folder.join("systemctl");
        std::fs::write(&file, systemctl).expect("written");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).expect("a mode");
        std::fs::write(folder.join("jackfield.toml"), text).expect("written");
        Blade { host, folder, control: None }
    }

    fn start(&mut self) {
        let mut command = self.host.command(jackfield());
        command.arg("control").arg("--config").arg(self.folder.join("jackfield.toml"));
        let path = std::env::var("PATH").expect("there is one");
        command.env("PATH", format!("{}:{path}", self.folder.display()));
        self.control = Some(Process::start(&mut command, &self.folder, "control"));
    }

    /// What `jackfield WHAT --json` prints, or why it does not.
    fn say(&self, what: &[&str]) -> Result<Value, String> {
        let output =
            run(Command::new(jackfield()).args(what).arg("--json").arg("--dir").arg(&self.folder));
        match output.status.success() {
            true => Ok(serde_json::from_slice(&output.stdout).expect("JSON")),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    fn ask(&self, what: &[&str]) -> Option<Value> {
        self.say(what).ok()
    }

    fn slots(&self) -> Option<Vec<Value>> {
        self.ask(&["pool", "list"])?["slots"].as_array().cloned()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("control.log")).unwrap_or_default()
    }
}

fn region(ccb: u16) -> PathBuf {
    PathBuf::from(format!("/dev/shm/jackfield-{}-pool-{ccb}", std::process::id()))
}

impl Drop for Rig {
    fn drop(&mut self) {
        for blade in &mut self.blades {
            if let Some(mut control) = blade.control.take() {
                control.kill();
            }
            // The processes of slots outlive control.
            for flag in ["--ccb", "--number"] {
                processes(&blade.folder, flag).values().for_each(|pid| signal(*pid, Signal::KILL));
            }
        }
        for ccb in 1..=4 {
            for suffix in ["", ".secrets", ".lock", ".control.lock"] {
                let mut file = region(ccb).into_os_string();
                file.push(suffix);
                let _ = std::fs::remove_file(file);
            }
        }
    }
}

/// Looks at all views all the time; how long they differed at most.
fn watch(rig: &Rig, over: &AtomicBool) -> (Duration, u32) {
    let (mut longest, mut since, mut looks) = (Duration::ZERO, None::<Instant>, 0);
    while !over.load(Ordering::Relaxed) {
        let views = rig.views();
        looks += 1;
        match views.agreed() {
            Some(_) => since = None,
            None => {
                let from = *since.get_or_insert_with(Instant::now);
                if from.elapsed() > longest {
                    longest = from.elapsed();
                    assert!(longest < DIFFER, "they differ: {views:?}");
                }
            }
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    (longest, looks)
}

/// Line 5: four CCBs of two blades are deployed and released by load alone while calls go on; nothing is dropped;
/// the pool, the CDM and the processes agree throughout.
#[test]
fn the_pool_grows_and_shrinks_by_load_alone_while_calls_go_on() {
    let _turn = turn();
    let mut rig = Rig::start(40, PLACES, &format!("{BY_LOAD}logins_s = 1000\n"));
    let first = rig.expect_ccbs(1, START);
    rig.start_balancer();
    let over = AtomicBool::new(false);
    let rig = &rig;
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| watch(rig, &over));
        // However this ends, the watch ends with it.
        let _end = End(&over);
        grow_and_shrink(rig, &first);
        over.store(true, Ordering::Relaxed);
        let (longest, looks) = watching.join().expect("they agree");
        println!(
            "pool, CDM and processes were looked at {looks} times, and differed for {longest:?} at most"
        );
    });
}

struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn grow_and_shrink(rig: &Rig, first: &BTreeSet<u64>) {
    let ccb_of = |login: &Value| login["ccb"]["device_number"].as_u64().expect("a number");
    // Two calls that stand all the while, on the first CCB.
    let talkers: Vec<Value> = (1001..=1004).map(|agent| rig.log_in(agent)).collect();
    assert!(talkers.iter().all(|login| first.contains(&ccb_of(login))));
    let talking: Vec<Softphone> = talkers.iter().map(|login| rig.phone(login)).collect();
    talking[0].call("1002");
    talking[2].call("1004");
    // Each group of agents is too much for the CCBs that run.
    let (mut phones, mut desks) = (Vec::new(), Vec::new());
    let mut agent = 1004;
    for (ccbs, logins) in [(2, 8), (3, 15), (4, 22)] {
        while agent < 1000 + logins {
            agent += 1;
            let login = rig.log_in(agent);
            match agent % 2 == 0 {
                true => desks.push((agent, rig.desk(&login), login)),
                false => phones.push((agent, rig.phone(&login), login)),
            }
        }
        let begun = Instant::now();
        let running = rig.expect_ccbs(ccbs, START);
        println!("{logins} agents: CCBs {running:?} run after {:?}", begun.elapsed());
    }
    // Those who come now are spread, so there is a desk on another CCB, and a call over two of them.
    for agent in 1023..=1034 {
        let login = rig.log_in(agent);
        match agent % 2 == 0 {
            true => desks.push((agent, rig.desk(&login), login)),
            false => phones.push((agent, rig.phone(&login), login)),
        }
    }
    let away = |login: &Value| !first.contains(&ccb_of(login));
    let place = desks.iter().position(|(_, _, login)| away(login)).expect("they are spread");
    let (mover, desk, moved_from) = desks.swap_remove(place);
    let place = phones.iter().position(|(_, _, login)| away(login)).expect("they are spread");
    let (abroad, caller, caller_login) = phones.swap_remove(place);
    let place = phones.iter().position(|(_, _, login)| ccb_of(login) != ccb_of(&caller_login));
    let (callee_number, callee, _) = &phones[place.expect("they are spread")];
    caller.call(&callee_number.to_string());
    std::thread::sleep(Duration::from_secs(1));
    caller.hang_up();
    callee.expect_end();
    // All go home, but those who talk, and one who is left on a CCB that nobody else needs.
    println!("all log out, but {mover}, {abroad} and those who talk");
    rig.log_out(&caller_login);
    let abroad = caller.end();
    let mut reports = vec![abroad];
    for (_, desk, _) in &desks {
        desk.exit();
    }
    for (_, phone, login) in phones {
        rig.log_out(&login);
        reports.push(phone.end());
    }
    let begun = Instant::now();
    let told = wait_for(START, || {
        desk.next(Duration::from_millis(200)).filter(|message| message["type"] == "log_in_again")
    });
    assert!(told.is_some(), "whose CCB goes is told");
    let back = json!({ "token": moved_from["token"] });
    let (status, again) = rig.try_log_in(mover, BALANCER, back);
    assert_eq!(status, 200, "{again}");
    assert_ne!(ccb_of(&again), ccb_of(&moved_from));
    let moved = rig.desk(&again);
    let left = rig.expect_ccbs(1, Duration::from_secs(120));
    println!("CCB {left:?} is left after {:?}", begun.elapsed());
    assert_eq!(&left, first, "who talks is not moved");
    moved.exit();
    talking[0].hang_up();
    talking[1].expect_end();
    talking[3].hang_up();
    talking[2].expect_end();
    let long: Vec<_> = talking.into_iter().map(Softphone::end).collect();
    for heard in &long {
        assert!(heard.rtp_received > 500, "{heard:?}");
    }
    for heard in reports.iter().chain(&long) {
        assert_eq!((heard.rtp_lost, heard.failed), (0, 0), "{heard:?}");
    }
    let counts: Vec<u64> = long.iter().map(|heard| heard.rtp_received).collect();
    println!("RTP packets that came in the calls that stood, none lost: {counts:?}");
}

/// Orders at one blade reach the slots of another; an AgentProxy tells balancers before it goes; a blade that is dead
/// is said to be away.
#[test]
fn orders_reach_the_slots_of_other_blades() {
    let _turn = turn();
    let mut rig = Rig::start(4, PLACES, "automatic = false\n");
    rig.expect_slot(0, "ccb", 4, "free");
    rig.expect_slot(1, "ccb", 1, "free");
    let [one, two] = [&rig.blades[0], &rig.blades[1]];
    assert_eq!(two.say(&["pool", "apply", "1"]), Ok(json!({ "ccb": 1 })));
    rig.expect_slot(1, "ccb", 1, "running");
    assert_eq!(one.say(&["pool", "apply"]), Ok(json!({ "ccb": 3 })), "the blade with fewer");
    let slot = rig.expect_slot(0, "ccb", 3, "running");
    assert_eq!((&slot["blade"], &slot["capacity"]), (&json!("blade-2"), &json!(PLACES)));
    rig.expect_ccbs(2, START);
    let unknown = one.say(&["pool", "apply", "9"]).expect_err("there is none");
    assert!(unknown.contains("no such slot in the pool"), "{unknown}");
    // An AgentProxy, on the other blade.
    let order = ["pool", "apply", "2", "--agent-proxy"];
    assert_eq!(one.say(&order), Ok(json!({ "agent_proxy": 2 })));
    let slot = rig.expect_slot(0, "agent_proxy", 2, "running");
    assert_eq!(slot["http"], json!(["10.78.0.2:8092"]));
    let ready = wait_for(START, || (rig.get("10.78.0.2", 8092, "/ready") == 200).then_some(()));
    assert!(ready.is_some(), "the AgentProxy takes no logins");
    let (status, login) = rig.try_log_in(1001, "10.78.0.2:8092", Value::Null);
    assert_eq!(status, 200, "{login}");
    // It is given back: first it says so, and still serves, then it is gone.
    let order = ["pool", "release", "2", "--agent-proxy"];
    assert_eq!(one.say(&order), Ok(json!({ "agent_proxy": 2 })));
    let drains = wait_for(START, || (rig.get("10.78.0.2", 8092, "/ready") == 503).then_some(()));
    assert!(drains.is_some(), "it does not say that it goes");
    let (status, login) = rig.try_log_in(1002, "10.78.0.2:8092", Value::Null);
    assert_eq!(status, 200, "{login}");
    rig.expect_slot(0, "agent_proxy", 2, "free");
    assert!(rig.processes("--number").is_empty());
    // A CCB goes back: idle, at once.
    assert_eq!(two.say(&["pool", "release", "1", "--within", "1"]), Ok(json!({ "ccb": 1 })));
    assert_eq!(rig.expect_ccbs(1, START), BTreeSet::from([3]));
    // A dead blade has slots that nobody can order.
    if let Some(mut control) = rig.blades[1].control.take() {
        control.kill();
    }
    rig.expect_slot(0, "ccb", 3, "away");
    let away = rig.blades[0].say(&["pool", "release", "3"]).expect_err("nobody answers");
    assert!(away.contains("the blade of that slot does not answer"), "{away}");
    rig.blades[1].start();
    rig.expect_slot(0, "ccb", 3, "running");
    assert_eq!(rig.blades[0].say(&["pool", "release", "3"]), Ok(json!({ "ccb": 3 })));
    rig.expect_ccbs(0, START);
}

/// Agents log in and attach their desks through HAProxy; AgentProxies come with the logins a second; one is killed, and
/// nobody notices; they go again (S1-067, S1-070).
#[test]
fn agents_behind_a_balancer_do_not_notice_the_death_of_an_agent_proxy() {
    let _turn = turn();
    // Each login counts until it is reported, and there are many of the same few agents.
    let mut rig = Rig::start(6, 500, "high = 70\nlow = 5\nhold_s = 2\nlogins_s = 1\n");
    rig.expect_ccbs(1, START);
    rig.start_balancer();
    let rig = &rig;
    let login = rig.log_in(1001);
    let desk = rig.desk(&login);
    assert_eq!(desk.expect("login_progress")["state"], "waiting_for_phone", "the upgrade passes");
    let (over, logins) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (over, logins) = (&over, &logins);
            scope.spawn(move || {
                let _end = End(over);
                while !over.load(Ordering::Relaxed) {
                    let agent = 1002 + thread * 2 + logins.fetch_add(1, Ordering::Relaxed) % 2;
                    rig.log_in(agent);
                }
            });
        }
        let _end = End(&over);
        for number in [1, 2] {
            rig.expect_slot(0, "agent_proxy", number, "running");
        }
        let before = rig.processes("--number");
        assert_eq!(before.len(), 2, "{before:?}");
        let begun = logins.load(Ordering::Relaxed);
        signal(before[&1], Signal::KILL);
        let again = wait_for(START, || {
            let now = rig.processes("--number");
            (now.get(&1)? != &before[&1] && rig.get("10.78.0.1", 8091, "/ready") == 200)
                .then_some(())
        });
        assert!(again.is_some(), "it is not started again");
        let more = wait_for(START, || (logins.load(Ordering::Relaxed) > begun + 40).then_some(()));
        assert!(more.is_some() && !over.load(Ordering::Relaxed), "logins go on");
    });
    println!("{} logins through the balancer, none refused", logins.load(Ordering::Relaxed));
    for number in [1, 2] {
        rig.expect_slot(1, "agent_proxy", number, "free");
    }
    let gone = wait_for(DIFFER, || rig.processes("--number").is_empty().then_some(()));
    assert!(gone.is_some(), "{:?}", rig.processes("--number"));
    assert_eq!(rig.get(BALANCER, 80, "/ready"), 200, "the blades' own controls serve logins");
    desk.exit();
}
