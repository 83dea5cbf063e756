//! Loading the program, attaching it, and pinning both so that they outlive the process.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aya::maps::{DevMapHash, Map, MapData, RingBuf};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::{XdpLink, XdpLinkId};
use aya::programs::{Xdp, XdpMode as Flags};
use aya::{Ebpf, EbpfLoader};

use super::netlink::Attached;
use super::row::{PAIRS, Row, SLOTS};
use super::table::{Flows, Table};

/// The object that `xdp/build.sh` makes.
static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/xdp/relay.bpf.o"));

/// The version of what lies in the maps: another one cannot be taken over.
const LAYOUT: u32 = 3;
const MAPS: [&str; 4] = ["flows", "rows", "ports", "events"];
/// What `statfs` says of a bpffs (linux/magic.h).
const BPF_FS_MAGIC: rustix::fs::FsWord = 0xcafe_4a11;

/// The loaded program with its maps.
pub struct Program {
    ebpf: Ebpf,
    pub flows: Flows,
    pub table: Arc<Table>,
    ports: DevMapHash<MapData>,
    links: BTreeMap<u32, Held>,
    pins: Option<PathBuf>,
}

/// A link: it lives as long as its descriptor or its pin.
enum Held {
    Pinned { _link: FdLink },
    Own(XdpLinkId),
}

/// The ring of telephone-events.
pub type Events = RingBuf<MapData>;

impl Program {
    /// Loads the program with `rows` rows; with `pins`, a directory in a bpffs, with the maps that are
    /// pinned there, if they are such as this program would make.
    pub fn load(rows: u32, pins: Option<&Path>) -> Result<(Program, Events), String> {
        let mut loader = EbpfLoader::new();
        loader.btf(None).map_max_entries("rows", rows);
        if let Some(pins) = pins {
            fs::create_dir_all(pins).map_err(|error| format!("{}: {error}", pins.display()))?;
            if !fits(pins, rows) {
                unpin_each(pins);
            }
            for map in MAPS {
                loader.map_pin_path(map, pin_of_map(pins, map));
            }
        }
        let mut ebpf = loader.load(OBJECT).map_err(|error| reason(&error))?;
        let program: &mut Xdp = ebpf
            .program_mut("relay")
            .expect("the object has this program")
            .try_into()
            .expect("it is an XDP program");
        program.load().map_err(|error| reason(&error))?;
        let mut take = |map| ebpf.take_map(map).expect("the object has this map");
        let ports = take("ports").try_into().map_err(|error| reason(&error))?;
        let events = take("events").try_into().map_err(|error| reason(&error))?;
        let (Map::Array(slots), Map::Array(array)) = (take("flows"), take("rows")) else {
            return Err("its rows are no array".into());
        };
        let unmapped = |error| format!("the rows cannot be mapped: {error}");
        let flows = Flows::map(slots.fd().as_fd()).map_err(unmapped)?;
        let table = Arc::new(Table::map(array.fd().as_fd(), rows).map_err(unmapped)?);
        let pins = pins.map(Path::to_path_buf);
        let links = BTreeMap::new();
        Ok((Program { ebpf, flows, table, ports, links, pins }, events))
    }

    /// Attaches the program to an interface. A pinned link of an earlier process gets this program, without
    /// a packet between them, where its mode (`now`) is the wanted one.
    pub fn attach(
        &mut self,
        ifindex: u32,
        mode: Attached,
        now: Option<Attached>,
    ) -> io::Result<()> {
        let pin = self.pins.as_ref().map(|pins| pins.join(format!("link-{ifindex}")));
        let earlier = pin.as_ref().and_then(|pin| PinnedLink::from_pin(pin).ok());
        let program = xdp(&mut self.ebpf);
        let mut attached = None;
        match earlier {
            Some(link) if now == Some(mode) => {
                let link = XdpLink::try_from(FdLink::from(link)).map_err(io::Error::other)?;
                attached = program.attach_to_link(link).ok();
            }
            Some(link) => drop(link.unpin()?),
            None => {}
        }
        let id = match attached {
            Some(id) => id,
            None => {
                // What is still pinned is a link to an interface that is gone.
                if let Some(pin) = &pin {
                    let _ = fs::remove_file(pin);
                }
                let flags = if mode == Attached::Native { Flags::Driver } else { Flags::Skb };
                program.attach_to_if_index(ifindex, flags).map_err(os_error)?
            }
        };
        let held = match &pin {
            None => Held::Own(id),
            Some(pin) => {
                let link = program.take_link(id).map_err(io::Error::other)?;
                let link = FdLink::try_from(link).map_err(io::Error::other)?;
                let link = if pin.exists() {
                    link
                } else {
                    link.pin(pin).map_err(io::Error::other)?.into()
                };
                Held::Pinned { _link: link }
            }
        };
        self.links.insert(ifindex, held);
        self.ports.insert(ifindex, ifindex, None, 0).map_err(io::Error::other)
    }

    /// Lets go of the links that an earlier process pinned to interfaces not in use any more.
    pub fn drop_other_pins(&self) {
        let Some(pins) = &self.pins else { return };
        let ours: BTreeSet<String> =
            self.links.keys().map(|ifindex| format!("link-{ifindex}")).collect();
        for name in names(pins) {
            if name.starts_with("link-") && !ours.contains(&name) {
                let _ = fs::remove_file(pins.join(name));
            }
        }
    }

    /// The running program, to try it on packets.
    #[cfg(test)]
    pub fn xdp(&mut self) -> &mut Xdp {
        xdp(&mut self.ebpf)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(pins) = &self.pins {
            unpin_all(pins);
        }
        for held in std::mem::take(&mut self.links).into_values() {
            if let Held::Own(id) = held {
                let _ = xdp(&mut self.ebpf).detach(id);
            }
        }
    }
}

/// True for a directory in a bpffs, or one that could be made there.
pub fn is_bpffs(dir: &Path) -> bool {
    let there = dir.ancestors().find(|dir| dir.exists());
    there
        .and_then(|dir| rustix::fs::statfs(dir).ok())
        .is_some_and(|stat| stat.f_type == BPF_FS_MAGIC)
}

fn xdp(ebpf: &mut Ebpf) -> &mut Xdp {
    let program = ebpf.program_mut("relay").expect("the object has this program");
    program.try_into().expect("it is an XDP program")
}

fn pin_of_map(pins: &Path, map: &str) -> PathBuf {
    pins.join(format!("{map}-{LAYOUT}"))
}

/// True when all maps are pinned, with the layout of this program.
fn fits(pins: &Path, rows: u32) -> bool {
    let shape = |map: &str| {
        let map = MapData::from_pin(pin_of_map(pins, map)).ok()?;
        let info = map.info().ok()?;
        Some((info.key_size(), info.value_size(), info.max_entries()))
    };
    shape("flows") == Some((4, (PAIRS * SLOTS * 4) as u32, 1))
        && shape("rows") == Some((4, size_of::<Row>() as u32, rows))
        && shape("ports").is_some()
        && shape("events").is_some()
}

/// Removes what is pinned, and then the directory; links detach when nobody else holds them.
pub fn unpin_all(pins: &Path) {
    unpin_each(pins);
    let _ = fs::remove_dir(pins);
}

/// Removes what a program like this one, of whatever layout, has pinned.
fn unpin_each(pins: &Path) {
    let is_ours = |name: &str| {
        name.split_once('-').is_some_and(|(what, _)| what == "link" || MAPS.contains(&what))
    };
    for name in names(pins).iter().filter(|name| is_ours(name)) {
        let _ = fs::remove_file(pins.join(name));
    }
}

fn names(pins: &Path) -> Vec<String> {
    let entries = fs::read_dir(pins).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// The operating system's error at the root of another.
fn os_error(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    match errno(&error) {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => io::Error::other(error),
    }
}

fn errno(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(errno) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return Some(errno);
        }
        cause = error.source();
    }
    None
}

/// One line on why the kernel does not load the program.
fn reason(error: &(dyn std::error::Error + 'static)) -> String {
    match errno(error) {
        Some(libc::EPERM | libc::EACCES) => super::RIGHTS.into(),
        Some(libc::ENOSYS) => "this kernel has no BPF".into(),
        Some(libc::EINVAL) => {
            format!("the kernel refuses the program (Linux 5.9 takes it): {error}")
        }
        _ => {
            let text = error.to_string();
            text.lines().next().unwrap_or_default().to_owned()
        }
    }
}

#[cfg(test)]
mod tests;
