//! How a CCB moves media: `media`, `[ccb.xdp]`, prompts, the spool.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::read::Table;
use super::{ABSOLUTE_RULE, parse_absolute};

/// How long an answered call may be silent in both directions before it is ended, in seconds.
const TIMEOUT_S: u64 = 300;
/// A day.
const LONGEST_TIMEOUT_S: u64 = 86_400;
/// How often sessions are renewed, in seconds (RFC 4028, 4: 1800 is recommended).
const SESSION_S: u64 = 1_800;
/// The least that RFC 4028, 4 allows, in seconds.
const SESSION_MIN_S: u64 = 90;
/// The longest name of an interface (IFNAMSIZ less its NUL).
const INTERFACE_BYTES: usize = 15;

/// The way that RTP takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Media {
    /// The better one that this machine allows; `status` and `calls` say which
    #[default]
    Auto,
    /// Through the process by io_uring
    #[value(name = "io_uring")]
    IoUring,
    /// Through the process by recvmmsg
    Recvmmsg,
    /// Past the process by XDP, where an interface allows it
    Xdp,
}

impl Media {
    const ALL: [Media; 4] = [Media::Auto, Media::IoUring, Media::Recvmmsg, Media::Xdp];

    /// As it stands in the file.
    pub fn name(self) -> &'static str {
        match self {
            Media::Auto => "auto",
            Media::IoUring => "io_uring",
            Media::Recvmmsg => "recvmmsg",
            Media::Xdp => "xdp",
        }
    }
}

/// How an XDP program is attached to an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum XdpMode {
    /// Native, else generic
    #[default]
    Auto,
    /// By the driver
    Native,
    /// By the kernel, after it has made its own buffer of the packet
    Generic,
    /// Not at all
    Off,
}

impl XdpMode {
    const ALL: [XdpMode; 4] = [XdpMode::Auto, XdpMode::Native, XdpMode::Generic, XdpMode::Off];

    /// As it stands in the file.
    pub fn name(self) -> &'static str {
        match self {
            XdpMode::Auto => "auto",
            XdpMode::Native => "native",
            XdpMode::Generic => "generic",
            XdpMode::Off => "off",
        }
    }
}

/// How a CCB moves media.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaConfig {
    /// The way that RTP takes.
    pub media: Media,
    /// How XDP is attached where `interfaces` says nothing else.
    pub mode: XdpMode,
    /// How XDP is attached to interfaces by their names.
    pub interfaces: BTreeMap<String, XdpMode>,
    /// Where links and maps of XDP are pinned, so that they outlive the process; on a bpffs.
    pub bpffs: PathBuf,
    /// The folder of prompts; without one none is played.
    pub prompts: Option<PathBuf>,
    /// The folder of the workers' spools of recordings; without one nothing is recorded.
    pub spool: Option<PathBuf>,
    /// After so many seconds of silence of both parties an answered call is ended, unless it is on
    /// hold; 0 is never.
    pub timeout_s: u32,
    /// The session interval that is asked for, in seconds (RFC 4028).
    pub session_s: u32,
    /// The least that is accepted, in seconds; 90 at least.
    pub session_min_s: u32,
}

impl MediaConfig {
    /// What a file says that says nothing.
    pub fn of_ccb(number: u16) -> Self {
        MediaConfig {
            media: Media::Auto,
            mode: XdpMode::Auto,
            interfaces: BTreeMap::new(),
            bpffs: PathBuf::from(format!("/sys/fs/bpf/jackfield/ccb-{number}")),
            prompts: None,
            spool: None,
            timeout_s: TIMEOUT_S as u32,
            session_s: SESSION_S as u32,
            session_min_s: SESSION_MIN_S as u32,
        }
    }

    /// Reads the fields of `[[ccb]]` and its table `xdp`.
    pub(super) fn read(table: &Table<'_, '_>, number: u16) -> Option<Self> {
        let default = MediaConfig::of_ccb(number);
        let media = one_of(table, "media", &Media::ALL, Media::name);
        let prompts = optional_path(table, "prompts");
        let spool = optional_path(table, "spool");
        let timeout = table.number("media_timeout_s", 0..LONGEST_TIMEOUT_S + 1);
        let timeout = table.or("media_timeout_s", timeout, TIMEOUT_S);
        let least = table.number("session_min_s", SESSION_MIN_S..LONGEST_TIMEOUT_S + 1);
        let least = table.or("session_min_s", least, SESSION_MIN_S);
        let session = table.number("session_s", SESSION_MIN_S..LONGEST_TIMEOUT_S + 1);
        let session = table.or("session_s", session, SESSION_S);
        let (mut mode, mut interfaces) = (Some(default.mode), Some(default.interfaces));
        let mut bpffs = Some(default.bpffs.clone());
        if table.has("xdp") {
            let xdp = table.table("xdp")?;
            mode = one_of(&xdp, "mode", &XdpMode::ALL, XdpMode::name);
            let pins = xdp.parsed("bpffs", ABSOLUTE_RULE, parse_absolute);
            bpffs = xdp.or("bpffs", pins, default.bpffs);
            interfaces = read_interfaces(&xdp);
            xdp.finish();
        } else {
            table.allow("xdp");
        }
        Some(MediaConfig {
            media: media?,
            mode: mode?,
            interfaces: interfaces?,
            bpffs: bpffs?,
            prompts: prompts?,
            spool: spool?,
            timeout_s: u32::try_from(timeout?).ok()?,
            session_s: u32::try_from(session?).ok()?.max(u32::try_from(least?).ok()?),
            session_min_s: u32::try_from(least?).ok()?,
        })
    }

    /// What it means, for people.
    pub fn summary(&self) -> String {
        let mut text = format!("media {}", self.media.name());
        if matches!(self.media, Media::Auto | Media::Xdp) {
            let _ = write!(text, ", XDP {}", self.mode.name());
            for (name, mode) in &self.interfaces {
                let _ = write!(text, ", {} on {name}", mode.name());
            }
        }
        let shown = |path: &Option<PathBuf>, none: &str| {
            path.as_ref().map_or(none.to_owned(), |path| path.display().to_string())
        };
        let _ = write!(
            text,
            "; prompts {}; recordings' spool {}; ",
            shown(&self.prompts, "none"),
            shown(&self.spool, "none: nothing is recorded"),
        );
        let _ = match self.timeout_s {
            0 => write!(text, "silent calls stand"),
            seconds => write!(text, "silent calls end after {seconds} s"),
        };
        text
    }

    /// The fields of `[[ccb]]` that say this; [`MediaConfig::xdp_toml`] follows them.
    pub fn to_toml(&self) -> String {
        let mut text =
            format!("media = \"{}\"\nmedia_timeout_s = {}\n", self.media.name(), self.timeout_s);
        let _ = writeln!(
            text,
            "session_s = {}\nsession_min_s = {}",
            self.session_s, self.session_min_s
        );
        for (field, path) in [("prompts", &self.prompts), ("spool", &self.spool)] {
            if let Some(path) = path {
                let _ = writeln!(text, "{field} = {}", quote(path));
            }
        }
        text
    }

    /// The table `[ccb.xdp]`.
    pub fn xdp_toml(&self) -> String {
        let interfaces: Vec<_> = self
            .interfaces
            .iter()
            .map(|(name, mode)| {
                format!("{} = \"{}\"", toml::Value::from(name.as_str()), mode.name())
            })
            .collect();
        format!(
            "\n[ccb.xdp]\nmode = \"{}\"\ninterfaces = {{ {} }}\nbpffs = {}\n",
            self.mode.name(),
            interfaces.join(", "),
            quote(&self.bpffs),
        )
    }
}

fn quote(path: &Path) -> String {
    toml::Value::from(path.display().to_string()).to_string()
}

/// One of a few words; the first of them when the field is absent.
fn one_of<T: Copy>(
    table: &Table<'_, '_>,
    field: &'static str,
    all: &[T],
    name: fn(T) -> &'static str,
) -> Option<T> {
    let names: Vec<_> = all.iter().map(|one| name(*one)).collect();
    let rule = format!("must be one of {}", names.join(", "));
    let found =
        table.parsed(field, &rule, |text| all.iter().copied().find(|one| name(*one) == text));
    table.or(field, found, all[0])
}

fn optional_path(table: &Table<'_, '_>, field: &'static str) -> Option<Option<PathBuf>> {
    let found = table.parsed(field, ABSOLUTE_RULE, |text| parse_absolute(text).map(Some));
    table.or(field, found, None)
}

fn read_interfaces(xdp: &Table<'_, '_>) -> Option<BTreeMap<String, XdpMode>> {
    let mut interfaces = BTreeMap::new();
    let mut is_good = true;
    for (name, mode, span) in xdp.texts("interfaces")? {
        let found = XdpMode::ALL.into_iter().find(|one| Some(one.name()) == mode.as_deref());
        let is_name = (1..=INTERFACE_BYTES).contains(&name.len())
            && !name.bytes().any(|byte| byte == b'/' || byte.is_ascii_whitespace());
        match found.filter(|_| is_name) {
            Some(mode) => {
                interfaces.insert(name, mode);
            }
            None => {
                let rule = format!(
                    "{name}: must be an interface's name and one of auto, native, generic, off"
                );
                xdp.report().fault(&span, xdp.name("interfaces"), rule);
                is_good = false;
            }
        }
    }
    is_good.then_some(interfaces)
}
