//! The bypass: RTP of locked streams relayed by an XDP program, past the process.
//!
//! ```text
//!            flows: our port -> rows                            interface
//!   install -+                                                     |
//!   counted  +- rows: one for each port pair, shared memory <- relay.bpf.c -> next hop
//!   remove  -+                                                     |
//!   Listener <---------- events: telephone-events -----------------+
//!   next hops (a thread) -> MAC addresses in the rows
//! ```
//!
//! The caller numbers the rows. The program judges packets as `media::Streams` does and counts by the same
//! arithmetic; what it is not sure of comes to the process as ever.
//!
//! An interface that takes VLAN tags off (`ethtool -k`: rx-vlan-offload) hides them from the program. The
//! interfaces of VLANs above it are not used. Its own rows take frames of other VLANs as frames without a
//! tag, where everything else is as the row says: switch the offload off where VLANs are to be kept apart.
//! It is looked at once, at the start.

mod ethtool;
mod hops;
mod netlink;
mod news;
mod program;
mod row;
mod table;
mod watch;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;

use media::{FlowSpec, FlowStats, WhyNot};

use crate::doorbell::Doorbell;
use hops::{Effect, Found, Hops, Seen};
use netlink::{Attached, Change, Link, Netlink, Route};
use news::Mailbox;
use program::Program;
use row::{Row, Way};
use table::Table;
use watch::Bells;

pub use news::{Listener, News};

/// The rights that the bypass needs, for the one who lacks them.
const RIGHTS: &str = "it takes the capabilities CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, or root";

/// How an interface is to be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpMode {
    /// Native where the driver has it, else generic. One end of a veth pair is used generically: natively,
    /// its frames reach only a peer that has an XDP program as well.
    #[default]
    Auto,
    /// In the driver, before the kernel makes a buffer of the frame; refused where the driver cannot.
    Native,
    /// In the kernel's network stack; works with every Ethernet interface.
    Generic,
    /// Not at all.
    Off,
}

/// What the bypass is told at its start.
#[derive(Clone, Debug, Default)]
pub struct BypassConfig {
    /// How interfaces are used that `modes` does not name.
    pub mode: XdpMode,
    /// How the named interfaces are used. The name of a VLAN's interface (`eth0.5`) stands for the one below.
    pub modes: BTreeMap<String, XdpMode>,
    /// The addresses of the locations; the interfaces that have them are used.
    pub addresses: Vec<IpAddr>,
    /// A directory in a bpffs to pin in, this process's own; without one, streams end with the process.
    pub bpffs: Option<PathBuf>,
    /// How many rows there are.
    pub rows: u32,
}

/// Why there is no bypass at all, in one line.
#[derive(Debug)]
pub enum BypassRefused {
    /// It is switched off for every interface, or nothing is to be relayed.
    Off,
    /// The kernel does not take the program, or rights are missing.
    Kernel(String),
    /// No interface takes it; what is said of each.
    Interfaces(Vec<InterfaceUse>),
}

/// What was decided for one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceUse {
    /// Its name, or the address where none has it.
    pub interface: String,
    /// Native or Generic; Off where it is not used.
    pub mode: XdpMode,
    /// One line that says so, and why.
    pub line: String,
}

/// The bypass of a process; its workers share it.
pub struct Bypass {
    shared: Arc<Shared>,
    uses: Vec<InterfaceUse>,
    pinning: String,
    stop: Arc<Doorbell>,
    watch: Option<JoinHandle<()>>,
}

/// What the workers and the thread that watches next hops share.
struct Shared {
    table: Arc<Table>,
    inner: Mutex<Inner>,
    mailboxes: RwLock<Vec<Arc<Mailbox>>>,
}

struct Inner {
    program: Program,
    hops: Hops,
    placed: HashMap<u32, Placed>,
}

/// A row in use.
#[derive(Clone, Debug)]
struct Placed {
    port: u16,
    from: IpAddr,
    to: IpAddr,
    way: Way,
    route: Route,
    /// The interface that its packets come in on.
    ingress: u32,
}

impl Bypass {
    /// Loads and attaches the program, and takes over what an earlier process left pinned; that ends where
    /// it cannot be taken over.
    pub fn open(config: &BypassConfig) -> Result<Bypass, BypassRefused> {
        let opened = Bypass::try_open(config);
        if let (Err(_), Some(bpffs)) = (&opened, &config.bpffs) {
            unpin(bpffs);
        }
        opened
    }

    fn try_open(config: &BypassConfig) -> Result<Bypass, BypassRefused> {
        let is_off =
            config.mode == XdpMode::Off && config.modes.values().all(|mode| *mode == XdpMode::Off);
        if is_off || config.rows == 0 || config.addresses.is_empty() {
            return Err(BypassRefused::Off);
        }
        let kernel = |error: std::io::Error| BypassRefused::Kernel(error.to_string());
        // Changes are heard from before the first look on, so that none is missed.
        let changes = Netlink::open_listening().map_err(kernel)?;
        let bells = Bells {
            stop: Arc::new(Doorbell::new().map_err(kernel)?),
            wanted: Arc::new(Doorbell::new().map_err(kernel)?),
        };
        let mut hops = Hops::read(Arc::clone(&bells.wanted)).map_err(kernel)?;
        let (pins, pinning) = pinning(config.bpffs.clone());
        let (mut program, events) =
            Program::load(config.rows, pins.as_deref()).map_err(BypassRefused::Kernel)?;
        let uses = attach(config, &mut hops, &mut program);
        if uses.iter().all(|used| used.mode == XdpMode::Off) {
            return Err(BypassRefused::Interfaces(uses));
        }
        program.drop_other_pins();
        let table = Arc::clone(&program.table);
        let mut inner = Inner { program, hops, placed: HashMap::new() };
        inner.adopt();
        let mailboxes = RwLock::default();
        let shared = Arc::new(Shared { table, inner: Mutex::new(inner), mailboxes });
        let stop = Arc::clone(&bells.stop);
        let watch = watch::start(Arc::clone(&shared), changes, events, bells);
        let watch = Some(watch.map_err(kernel)?);
        Ok(Bypass { shared, uses, pinning, stop, watch })
    }

    /// What is used, and why.
    pub fn uses(&self) -> &[InterfaceUse] {
        &self.uses
    }

    /// One line on whether streams outlive the process.
    pub fn pinning(&self) -> &str {
        &self.pinning
    }

    /// An ear for news of `rows`. News of rows that nobody listens to are dropped.
    pub fn listen(&self, rows: Range<u32>) -> std::io::Result<Listener> {
        let mailbox = Arc::new(Mailbox::new(rows)?);
        let mut mailboxes = self.shared.mailboxes.write().unwrap_or_else(PoisonError::into_inner);
        mailboxes.push(Arc::clone(&mailbox));
        Ok(Listener(mailbox))
    }

    /// Relays a flow in `row` from the next packet on; what `row` had is removed. Refused with
    /// [`WhyNot::NextHop`] while the next hop is looked for: ask again a second later.
    pub fn install(&self, row: u32, flow: &FlowSpec) -> Result<(), WhyNot> {
        if row >= self.shared.table.rows() {
            return Err(WhyNot::TableFull);
        }
        let mut inner = self.shared.lock();
        inner.take_out(row);
        self.shared.table.free(row);
        self.shared.each_mailbox(|mailbox| mailbox.forget(row));
        let found = inner.hops.find(flow)?;
        let value = Row::new(flow, found.ingress.1, &found.way).ok_or(WhyNot::Interface)?;
        self.shared.table.write(row, &value);
        inner.place(row, flow, found)
    }

    /// Ends a row and returns what it counted; zeros for a free one.
    pub fn remove(&self, row: u32) -> FlowStats {
        if row >= self.shared.table.rows() {
            return FlowStats::default();
        }
        let mut inner = self.shared.lock();
        inner.take_out(row);
        self.shared.each_mailbox(|mailbox| mailbox.forget_gone(row));
        let stats = self.shared.table.read(row).stats();
        self.shared.table.free(row);
        stats
    }

    /// What a row has counted since it was installed; zeros for a free one. No system call and no lock.
    pub fn counted(&self, row: u32) -> FlowStats {
        if row >= self.shared.table.rows() {
            return FlowStats::default();
        }
        self.shared.table.read(row).stats()
    }

    /// The rows in use and their flows, with `newest`, `transit` and `jitter` as they are now: after
    /// [`Bypass::open`], those that an earlier process left.
    pub fn adopt(&self) -> Vec<(u32, FlowSpec)> {
        let inner = self.shared.lock();
        let flow = |row: &u32| Some((*row, self.shared.table.read(*row).flow()?));
        let mut rows: Vec<_> = inner.placed.keys().filter_map(flow).collect();
        rows.sort_unstable_by_key(|(row, _)| *row);
        rows
    }

    /// Removes the rows in use that `keep` does not want.
    pub fn sweep(&self, keep: impl Fn(u32) -> bool) {
        let rows: Vec<u32> = self.shared.lock().placed.keys().copied().collect();
        for row in rows.into_iter().filter(|row| !keep(*row)) {
            self.remove(row);
        }
    }
}

impl Drop for Bypass {
    fn drop(&mut self) {
        self.stop.ring();
        if let Some(watch) = self.watch.take() {
            let _ = watch.join();
        }
    }
}

impl fmt::Debug for Bypass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bypass").field("uses", &self.uses).finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn each_mailbox(&self, f: impl Fn(&Mailbox)) {
        let mailboxes = self.mailboxes.read().unwrap_or_else(PoisonError::into_inner);
        mailboxes.iter().for_each(|mailbox| f(mailbox));
    }

    /// Takes a row out whose way is gone, and tells its owner.
    fn give_up(&self, inner: &mut Inner, row: u32) {
        inner.take_out(row);
        self.each_mailbox(|mailbox| mailbox.put(row, News::Gone(row)));
    }

    /// Takes in what changed in the kernel, and then all of it where it was read again; true when routes
    /// have to be asked for again.
    fn change(&self, changes: Vec<Change>, seen: Option<Seen>) -> bool {
        let mut inner = self.lock();
        let mut effects = Vec::new();
        for change in changes {
            inner.hops.change(change, &mut effects);
        }
        if let Some(seen) = seen {
            inner.hops.replace(seen, &mut effects);
        }
        let mut reroute = false;
        for effect in effects {
            match effect {
                Effect::Moved(route, mac) => inner.move_rows(route, mac),
                Effect::Lost(route) => {
                    let lost = inner.rows(|placed| placed.route == route);
                    if !lost.is_empty() {
                        inner.hops.ask(route);
                    }
                    lost.into_iter().for_each(|row| self.give_up(&mut inner, row));
                }
                Effect::Down(index) => {
                    let down = inner.rows(|placed| placed.uses(index));
                    down.into_iter().for_each(|row| self.give_up(&mut inner, row));
                }
                Effect::Reroute => reroute = true,
            }
        }
        reroute
    }

    /// Asks for the routes of all rows again; those that go another way now are taken out, and their owner
    /// comes again.
    fn reroute(&self, netlink: &mut Netlink) {
        let placed: Vec<(u32, Placed)> = {
            let inner = self.lock();
            inner.placed.iter().map(|(row, placed)| (*row, placed.clone())).collect()
        };
        let mut known = HashMap::new();
        for (row, Placed { from, to, route, .. }) in placed {
            let ask = || netlink.route(from, to).ok().flatten();
            let now = *known.entry((from, to)).or_insert_with(ask);
            let mut inner = self.lock();
            let is_same =
                |placed: &Placed| (placed.from, placed.to, placed.route) == (from, to, route);
            if now != Some(route) && inner.placed.get(&row).is_some_and(is_same) {
                self.give_up(&mut inner, row);
            }
        }
    }

    /// The next hops to ask for: those that are wanted, or else all that are in use too.
    fn next_hops(&self, all: bool) -> HashSet<Route> {
        let mut inner = self.lock();
        let mut routes = inner.hops.take_wanted();
        if all {
            routes.extend(inner.placed.values().map(|placed| placed.route));
        }
        routes
    }

    /// Passes a telephone-event on to its row's owner.
    fn telephone_event(&self, row: u32, rtp: [u8; 16]) {
        self.each_mailbox(|mailbox| mailbox.put(row, News::TelephoneEvent(row, rtp)));
    }
}

impl Inner {
    /// Lets the program find a row that is written already.
    fn place(&mut self, row: u32, flow: &FlowSpec, found: Found) -> Result<(), WhyNot> {
        let port = flow.local.port();
        if !port.is_multiple_of(2) || !self.program.flows.insert(port, row) {
            return Err(WhyNot::TableFull);
        }
        self.placed.insert(row, Placed::new(port, flow.from, flow.to, found));
        Ok(())
    }

    /// Lets the program find a row no more. The row keeps its counts.
    fn take_out(&mut self, row: u32) {
        if let Some(placed) = self.placed.remove(&row) {
            self.program.flows.remove(placed.port, row);
        }
    }

    fn rows(&self, is_meant: impl Fn(&Placed) -> bool) -> Vec<u32> {
        self.placed.iter().filter(|(_, placed)| is_meant(placed)).map(|(row, _)| *row).collect()
    }

    fn move_rows(&mut self, route: Route, mac: [u8; 6]) {
        for (row, placed) in &mut self.placed {
            if placed.route == route {
                placed.way.hop = mac;
                self.program.table.set_hop(*row, placed.way.hop_word());
            }
        }
    }

    /// Takes over the rows of an earlier process. Rows and ports that do not belong together, of a process
    /// that was killed between writing the one and the other, are freed.
    fn adopt(&mut self) {
        let table = Arc::clone(&self.program.table);
        let found: Vec<(u16, u32)> = self.program.flows.rows().collect();
        for (port, row) in found {
            let flow = (row < table.rows()).then(|| table.read(row).flow()).flatten();
            let flow = flow.filter(|flow| flow.local.port() == port);
            if let Some(flow) = flow
                && !self.placed.contains_key(&row)
                && !self.adopt_row(row, &flow)
            {
                self.program.flows.remove(port, row);
            } else if flow.is_none() {
                self.program.flows.remove(port, row);
            }
        }
        for row in (0..table.rows()).filter(|row| !self.placed.contains_key(row)) {
            if table.read(row).flow().is_some() {
                table.free(row);
            }
        }
    }

    /// Takes over one row; false if its way is gone. A neighbour that the kernel has forgotten meanwhile is
    /// believed to be where it was, and asked for.
    fn adopt_row(&mut self, row: u32, flow: &FlowSpec) -> bool {
        let table = Arc::clone(&self.program.table);
        let Ok(found) = self.hops.find_with(flow, Some(table.read(row).hop())) else {
            return false;
        };
        let Some(value) = Row::new(flow, found.ingress.1, &found.way) else {
            return false;
        };
        if value.is_way_of(&table.read(row)) {
            table.set_hop(row, found.way.hop_word());
            self.placed.insert(row, Placed::new(flow.local.port(), flow.from, flow.to, found));
            return true;
        }
        // The row says another interface; it must not be read while it is between the two.
        self.program.flows.remove(flow.local.port(), row);
        table.write_head(row, &value);
        self.place(row, flow, found).is_ok()
    }
}

impl Placed {
    fn new(port: u16, from: SocketAddr, to: SocketAddr, found: Found) -> Placed {
        Placed {
            port,
            from: from.ip().to_canonical(),
            to: to.ip().to_canonical(),
            way: found.way,
            route: found.route,
            ingress: found.ingress.0,
        }
    }

    fn uses(&self, ifindex: u32) -> bool {
        [self.ingress, self.way.ifindex, self.route.ifindex].contains(&ifindex)
    }
}

/// Attaches the program to the interfaces of all addresses, each as configured.
fn attach(config: &BypassConfig, hops: &mut Hops, program: &mut Program) -> Vec<InterfaceUse> {
    let mut uses: Vec<InterfaceUse> = Vec::new();
    for address in &config.addresses {
        let Some((upper, link, vlan)) = hops.interface(*address) else {
            let line = format!("xdp: {address}: not used: no interface has this address");
            uses.push(InterfaceUse { interface: address.to_string(), mode: XdpMode::Off, line });
            continue;
        };
        let (name, link) = (upper.name.clone(), link.clone());
        let named = config.modes.get(&link.name).or_else(|| config.modes.get(&name));
        let mode = named.copied().unwrap_or(config.mode);
        let hides_tags = mode != XdpMode::Off
            && vlan.is_some()
            && ethtool::takes_tags_off(&link.name).unwrap_or(false);
        let used_name = if hides_tags { &name } else { &link.name };
        if uses.iter().any(|used| used.interface == *used_name) {
            continue;
        }
        if hides_tags {
            hops.hides_tags(link.index);
            uses.push(without_tags(name, &link));
            continue;
        }
        let (mode, why) = match attach_one(&link, mode, program) {
            Ok((attached, why)) => {
                hops.attached(link.index, attached);
                let mode = match attached {
                    Attached::Native => XdpMode::Native,
                    Attached::Generic | Attached::Other => XdpMode::Generic,
                };
                (mode, why)
            }
            Err(why) => (XdpMode::Off, why),
        };
        let said = match mode {
            XdpMode::Native => "native",
            XdpMode::Generic => "generic",
            XdpMode::Auto | XdpMode::Off => "not used",
        };
        let line = format!("xdp: {}: {said}: {why}", link.name);
        uses.push(InterfaceUse { interface: link.name, mode, line });
    }
    uses
}

/// What is said of a VLAN's interface whose tags the program does not get to see.
fn without_tags(interface: String, lower: &Link) -> InterfaceUse {
    let lower = &lower.name;
    let line = format!(
        "xdp: {interface}: not used: {lower} takes tags off (`ethtool -K {lower} rxvlan off` has it leave them)"
    );
    InterfaceUse { interface, mode: XdpMode::Off, line }
}

/// Attaches the program to one interface; says how and why, or why not.
fn attach_one(
    link: &Link,
    mode: XdpMode,
    program: &mut Program,
) -> Result<(Attached, String), String> {
    if mode == XdpMode::Off {
        return Err("switched off".into());
    }
    if link.is_loopback {
        return Err("the loopback interface has no next hops".into());
    }
    if link.mac.is_none() {
        return Err("not an Ethernet interface".into());
    }
    let mut attach = |mode| {
        program.attach(link.index, mode, link.xdp).map_err(|error| match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => RIGHTS.into(),
            Some(libc::EBUSY | libc::EEXIST) => "another XDP program is attached to it".into(),
            _ => error.to_string(),
        })
    };
    match mode {
        XdpMode::Native => {
            attach(Attached::Native).map(|()| (Attached::Native, "as configured".into()))
        }
        XdpMode::Generic => {
            attach(Attached::Generic).map(|()| (Attached::Generic, "as configured".into()))
        }
        _ if link.is_veth => attach(Attached::Generic)
            .map(|()| (Attached::Generic, "a veth's peer may not take native frames".to_owned())),
        // Trying natively would cut off a pinned link's packets, for a driver that had refused before.
        _ if link.xdp == Some(Attached::Generic) => attach(Attached::Generic)
            .map(|()| (Attached::Generic, "as an earlier process had it".to_owned())),
        _ => match attach(Attached::Native) {
            Ok(()) => Ok((Attached::Native, "its driver has it".into())),
            Err(native) => attach(Attached::Generic)
                .map(|()| (Attached::Generic, format!("not natively: {native}"))),
        },
    }
}

/// Ends what an earlier process left pinned in a directory, for one that starts without the bypass: packets
/// of its ports would never come to anybody else.
pub fn unpin(bpffs: &Path) {
    if program::is_bpffs(bpffs) {
        program::unpin_all(bpffs);
    }
}

/// Where to pin, and one line on it.
fn pinning(bpffs: Option<PathBuf>) -> (Option<PathBuf>, String) {
    match bpffs {
        Some(dir) if program::is_bpffs(&dir) => {
            let line = format!("xdp: streams outlive the process: pinned in {}", dir.display());
            (Some(dir), line)
        }
        Some(dir) => {
            let line = format!("xdp: streams end with the process: {} is no bpffs", dir.display());
            (None, line)
        }
        None => (None, "xdp: streams end with the process: no bpffs is configured".into()),
    }
}

impl fmt::Display for BypassRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BypassRefused::Off => f.write_str("xdp: not used: switched off"),
            BypassRefused::Kernel(why) => write!(f, "xdp: not used: {why}"),
            BypassRefused::Interfaces(uses) => {
                let lines: Vec<&str> = uses.iter().map(|used| used.line.as_str()).collect();
                f.write_str(&lines.join("; "))
            }
        }
    }
}

impl std::error::Error for BypassRefused {}
