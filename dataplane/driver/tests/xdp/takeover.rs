//! A process is killed; its streams go on, and the next process takes them over.

use std::fs::DirEntry;
use std::io::{BufRead as _, BufReader};
use std::net::UdpSocket;
use std::os::unix::fs::DirEntryExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use driver::xdp::{Bypass, BypassConfig, BypassRefused, XdpMode, unpin};

use super::lab::{Host, until};
use super::{Lab, NEVER, SOON, install, our};

/// Set for a process that is to be killed: where it pins.
const VICTIM: &str = "JACKFIELD_XDP_VICTIM";

/// A bpffs of our own.
struct Bpffs(PathBuf);

impl Bpffs {
    fn new(name: &str) -> Bpffs {
        let name = format!("jackfield-bpffs-{}-{name}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).expect("a directory");
        let status = Command::new("mount").args(["-t", "bpf", "bpf"]).arg(&dir).status();
        assert!(status.expect("mount runs").success());
        Bpffs(dir)
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
        let _ = std::fs::remove_dir(&self.0);
    }
}

fn config(pins: &Path, rows: u32) -> BypassConfig {
    BypassConfig {
        mode: XdpMode::Native,
        addresses: vec![our(false, 1), our(false, 2)],
        bpffs: Some(pins.to_path_buf()),
        rows,
        ..BypassConfig::default()
    }
}

/// Not a test by itself: what the other process does, in the SBC's namespace, until it is killed.
#[test]
fn victim() {
    let Some(pins) = std::env::var_os(VICTIM) else { return };
    let bypass = Bypass::open(&config(Path::new(&pins), 64)).expect("root may");
    println!("ready {}", bypass.pinning());
    // Flows come by standard input: the row of each of the lab's.
    for line in std::io::stdin().lines() {
        let row = line.expect("a line").parse().expect("a row");
        install(&bypass, row, &super::flow_of_row(row));
        println!("installed {row}");
    }
}

fn start(host: &Host, pins: &Path, rows: &[u32]) -> Child {
    let mut child = Command::new("ip")
        .args(["netns", "exec", &host.name])
        .arg(std::env::current_exe().expect("this program"))
        .args(["--exact", "takeover::victim", "--nocapture", "--test-threads=1"])
        .env(VICTIM, pins)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a process");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut wait = |word: &str| {
        lines.by_ref().map(|line| line.expect("a line")).any(|line| line.contains(word))
    };
    assert!(wait("ready"), "the process starts");
    for row in rows {
        use std::io::Write as _;
        let mut input = child.stdin.as_ref().expect("a pipe");
        writeln!(input, "{row}").expect("it listens");
        assert!(wait(&format!("installed {row}")));
    }
    child
}

#[test]
fn streams_outlive_a_killed_process() {
    let Some(lab) = Lab::new() else { return };
    let bpffs = Bpffs::new("killed");
    let pins = bpffs.0.join("ccb-1");
    let mut child = start(&lab.sbc, &pins, &[5, 6]);
    let flow = super::flow_of_row(5);
    let send = |sequences: std::ops::Range<u16>| {
        for sequence in sequences {
            let came = lab.frame(&flow, sequence);
            lab.a.wire.send(&came.bytes());
            let out = lab.b.wire.next_to(flow.to.port(), SOON).expect("the frame is relayed");
            assert_eq!(out, lab.relayed(&flow, &came).bytes());
        }
    };
    send(1_000..1_010);
    child.kill().expect("`ip netns exec` becomes the process");
    child.wait().expect("it is gone");
    send(1_010..1_020);

    // The next process has the rows, with all that was counted, and counts on.
    let bypass = lab.open(&config(&pins, 64)).expect("root may");
    assert!(bypass.uses().iter().all(|used| used.mode == XdpMode::Native), "{:?}", bypass.uses());
    send(1_020..1_030);
    let adopted = bypass.adopt();
    assert_eq!(adopted.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [5, 6]);
    let mut expected = flow;
    (expected.newest, expected.transit, expected.jitter) =
        (1_029, adopted[0].1.transit, adopted[0].1.jitter);
    assert_eq!(adopted[0].1, expected);
    assert_eq!(bypass.counted(5).packets, 30);
    // Nobody claims the other.
    bypass.sweep(|row| row == 5);
    assert_eq!(bypass.adopt().len(), 1);
    send(1_030..1_040);
    assert_eq!(bypass.remove(5).packets, 40);

    // It ends as it should, and leaves nothing.
    drop(bypass);
    assert!(!pins.exists());
    until("it is detached", || {
        (!lab.sbc.ip(&["link", "show", "leg-a"]).contains("prog/xdp")).then_some(())
    });
}

#[test]
fn a_generic_link_is_taken_over_as_it_is() {
    let Some(lab) = Lab::new() else { return };
    // A bridge has no native XDP.
    lab.sbc.ip(&["link", "add", "plain", "type", "bridge"]);
    lab.sbc.ip(&["address", "add", "10.0.9.1/24", "dev", "plain"]);
    lab.sbc.ip(&["link", "set", "plain", "up"]);
    let bpffs = Bpffs::new("generic");
    let pins = bpffs.0.join("ccb-4");
    let config = BypassConfig {
        mode: XdpMode::Auto,
        addresses: vec![[10, 0, 9, 1].into()],
        ..config(&pins, 64)
    };
    let bypass = lab.open(&config).expect("root may");
    assert!(bypass.uses()[0].line.starts_with("xdp: plain: generic: not natively: "));
    let link = || {
        let mut pins = std::fs::read_dir(&pins).expect("pins").flatten();
        let is_link = |pin: &DirEntry| pin.file_name().to_string_lossy().starts_with("link-");
        pins.find(is_link).expect("a link").ino()
    };
    let before = link();
    // As if it had been killed: what is pinned stays.
    std::mem::forget(bypass);
    let bypass = lab.open(&config).expect("root may");
    assert_eq!(bypass.uses()[0].line, "xdp: plain: generic: as an earlier process had it");
    assert_eq!(link(), before);
}

#[test]
fn a_process_without_the_bypass_ends_what_was_left() {
    let Some(lab) = Lab::new() else { return };
    let bpffs = Bpffs::new("off");
    let pins = bpffs.0.join("ccb-3");
    let off = |config: BypassConfig| {
        assert!(matches!(lab.open(&config), Err(BypassRefused::Off)));
    };
    let nowhere = |config: BypassConfig| {
        let addresses = vec![our(false, 9)];
        let opened = lab.open(&BypassConfig { addresses, ..config });
        assert!(matches!(opened, Err(BypassRefused::Interfaces(_))));
    };
    let refused = |config: BypassConfig| {
        // As many rows are more memory than a map may have.
        let opened = lab.open(&BypassConfig { rows: u32::MAX, ..config });
        assert!(matches!(opened, Err(BypassRefused::Kernel(_))));
    };
    let unwanted = |_| unpin(&pins);
    let ways: [(&str, &dyn Fn(BypassConfig)); 4] =
        [("off", &off), ("nowhere", &nowhere), ("refused", &refused), ("unwanted", &unwanted)];
    let flow = super::flow_of_row(5);
    let socket = lab.sbc.run(|| UdpSocket::bind(flow.local)).expect("a free port");
    socket.set_read_timeout(Some(NEVER)).expect("a timeout");
    // A new call on the same port, from somebody else.
    let mut frame = lab.frame(&flow, 1_000);
    frame.source.set_port(4_002);
    let mut buffer = [0; 2_048];
    for (name, way) in ways {
        let mut child = start(&lab.sbc, &pins, &[5]);
        child.kill().expect("`ip netns exec` becomes the process");
        child.wait().expect("it is gone");
        lab.a.wire.send(&frame.bytes());
        assert!(socket.recv_from(&mut buffer).is_err(), "{name}");
        let mut config = config(&pins, 64);
        if name == "off" {
            config.mode = XdpMode::Off;
        }
        way(config);
        assert!(!pins.exists(), "{name}");
        until(name, || {
            lab.a.wire.send(&frame.bytes());
            socket.recv_from(&mut buffer).ok()
        });
    }
}

#[test]
fn pins_of_another_layout_are_not_taken_over() {
    let Some(lab) = Lab::new() else { return };
    let bpffs = Bpffs::new("layout");
    let pins = bpffs.0.join("ccb-2");
    let mut child = start(&lab.sbc, &pins, &[5]);
    child.kill().expect("`ip netns exec` becomes the process");
    child.wait().expect("it is gone");
    let bypass = lab.open(&config(&pins, 32)).expect("root may");
    assert_eq!(bypass.adopt(), []);
    let flow = super::flow_of_row(5);
    lab.a.wire.send(&lab.frame(&flow, 1_000).bytes());
    assert!(lab.b.wire.next_to(flow.to.port(), NEVER).is_none());
    install(&bypass, 5, &flow);
    lab.a.wire.send(&lab.frame(&flow, 1_000).bytes());
    assert!(lab.b.wire.next_to(flow.to.port(), SOON).is_some());
}
