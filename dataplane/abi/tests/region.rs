//! The region as files: who makes it, who finds it again, who may do what.

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use abi::{
    AgentRow, AgentState, CallRow, CallState, Class, Counter, DataPlaneState, Event, Key, Layout,
    LeaseState, OpResult, Opened, Process, Purpose, Region, RegionError, SecretRow,
};
use base::{AgentSlot, CallRef, CcbId, Instant, LocationId, Medium, TenantId, Text, WorkerId};
use tempfile::TempDir;

const LAYOUT: Layout = Layout {
    ccb: CcbId(7),
    workers: 2,
    agents: 100,
    calls_per_worker: 10,
    legs_per_worker: 20,
    ring_slots: 64,
    blob_bytes: 4096,
    tenants: 4,
    trunks: 3,
    locations: 2,
};

fn place() -> (TempDir, PathBuf) {
    let dir = TempDir::new().expect("a directory");
    let path = dir.path().join("ccb-7");
    (dir, path)
}

fn create(path: &Path) -> std::sync::Arc<Region> {
    let (region, opened) = Region::open_or_create(path, LAYOUT).expect("it can be made");
    assert_eq!(opened, Opened::Created);
    region
}

fn now() -> Instant {
    Instant::from_nanos(1_000_000_000)
}

#[test]
fn what_was_written_is_there_after_a_restart() {
    let (_dir, path) = place();
    let region = create(&path);
    assert_eq!(region.layout(), LAYOUT);
    region.header().set_control_attached(true);
    assert_eq!(region.header().start_data_plane(Process::current(), now()), 1);
    assert!(!region.header().control().attached, "a new data plane has no socket yet");
    region.header().set_data_plane_state(DataPlaneState::Running);
    let control = Region::open(&path).expect("it is there");
    let slot = AgentSlot(42);
    let mut row = AgentRow { state: AgentState::LoggedIn.into(), tenant: 3, ..Default::default() };
    row.set_number(Text::new(b"1001").expect("it fits"));
    assert!(control.agents().write(slot, &row));
    let number = Key::Number { tenant: TenantId(3), number: b"1001" };
    control.agents().index_insert(number, slot).expect("there is room");
    let secret =
        SecretRow { epoch: 1, ha1_md5: [1; 16], ha1_sha256: [2; 32], ..Default::default() };
    assert!(control.secrets().write(slot, &secret));
    assert_eq!(format!("{secret:?}"), "SecretRow { epoch: 1, .. }");
    assert_eq!(region.agents().find_number(TenantId(3), b"1001"), Some((slot, row)));
    assert_eq!(region.secrets().read(slot), Some(secret));
    let leases = region.leases();
    let won = leases.reserve(slot, Medium::Voice, CcbId(7), Purpose::Call, now());
    let event = Event::Done { op: 1, result: OpResult::Ok };
    assert!(region.event_sender(WorkerId(1)).push(&event, b"x", Class::Call).is_ok());
    let creation = region.header().creation();
    drop(region);

    let (region, opened) = Region::open_or_create(&path, LAYOUT).expect("it is there");
    assert_eq!(opened, Opened::Reattached);
    assert_eq!(region.header().creation(), creation);
    assert!(control.is_current(&path));
    assert_eq!(region.header().data_plane().state, DataPlaneState::Running, "as it was left");
    assert_eq!(region.header().start_data_plane(Process::current(), now()), 2);
    assert_eq!(region.agents().find_number(TenantId(3), b"1001"), Some((slot, row)));
    assert_eq!(region.secrets().read(slot), Some(secret));
    assert_eq!(region.leases().read(slot, Medium::Voice).counter(), won.ok());
    assert_eq!(region.leases().free_all_of(CcbId(7)), 1);
    let mut blob = Vec::new();
    let numbered = control.event_receiver(WorkerId(1)).pop(&mut blob);
    assert_eq!(numbered.expect("it is there").expect("it is sound").value, event);
    assert_eq!(region.event_sender(WorkerId(1)).number(), 1, "numbers go on");
}

#[test]
fn another_layout_makes_another_region() {
    let (_dir, path) = place();
    let region = create(&path);
    region.header().start_data_plane(Process::current(), now());
    let control = Region::open(&path).expect("it is there");
    control.header().start_control(Process::current(), now());
    drop(region);
    let wider = Layout { agents: 200, ..LAYOUT };
    let (region, opened) = Region::open_or_create(&path, wider).expect("it can be made");
    assert_eq!(opened, Opened::Created);
    assert!(!control.is_current(&path), "control sees that its mapping is of the past");
    assert!(region.is_current(&path));
    assert_eq!(region.header().start_data_plane(Process::current(), now()), 2, "it only grows");
    assert_eq!(region.header().control().incarnation, 1);
    assert_eq!(control.layout(), LAYOUT, "the old memory stays mapped and whole");
    fs::remove_file(&path).expect("it is there");
    assert!(!region.is_current(&path));
}

#[test]
fn two_data_planes_do_not_share_a_region() {
    let (_dir, path) = place();
    let region = create(&path);
    let pid = std::process::id();
    for layout in [LAYOUT, Layout { agents: 9, ..LAYOUT }] {
        match Region::open_or_create(&path, layout) {
            Err(RegionError::AlreadyRunning { pid: other }) => assert_eq!(other, pid),
            other => panic!("{other:?}"),
        }
    }
    assert!(region.is_current(&path));
    drop(region);
    assert!(Region::open_or_create(&path, LAYOUT).is_ok());
}

#[test]
fn files_have_their_modes_and_pages() {
    let (dir, path) = place();
    let _region = create(&path);
    let mode = |name: &str| {
        let meta = fs::metadata(dir.path().join(name)).expect("it is there");
        meta.permissions().mode() & 0o777
    };
    assert_eq!(mode("ccb-7") & !0o640, 0);
    assert_eq!(mode("ccb-7.secrets"), 0o600);
    let mut names: Vec<_> = fs::read_dir(dir.path())
        .expect("it is there")
        .map(|entry| entry.expect("it can be read").file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["ccb-7", "ccb-7.lock", "ccb-7.secrets"], "no half-made file is left");
}

#[test]
fn a_reader_writes_nothing() {
    let (_dir, path) = place();
    let region = create(&path);
    let slot = AgentSlot(1);
    let row = AgentRow { state: 1, tenant: 1, ..Default::default() };
    region.agents().write(slot, &row);
    let before = fs::read(&path).expect("it can be read");
    let reader = Region::open_read_only(&path).expect("it is there");
    assert_eq!(reader.agents().read(slot), Some(row));
    assert!(!reader.agents().write(slot, &AgentRow::default()));
    assert!(reader.agents().index_insert(Key::User(b"u"), slot).is_err());
    assert!(!reader.agents().index_remove(Key::User(b"u"), slot));
    assert!(reader.agents().nonce_word(slot).is_none());
    assert_eq!(reader.secrets().len(), 0, "secrets are not for tools");
    assert_eq!(reader.secrets().read(slot), None);
    let leases = reader.leases();
    let refused = leases.reserve(slot, Medium::Voice, CcbId(7), Purpose::Call, now());
    assert_eq!(refused, Err(LeaseState::NoSuchSlot));
    assert_eq!(leases.read(slot, Medium::Voice), LeaseState::Free { counter: 0 });
    assert_eq!(leases.free_all_of(CcbId(7)), 0);
    reader.counters().add(WorkerId(0), Counter::SipSent, 1);
    reader.counters().set(WorkerId(0), Counter::CallsNow, 1);
    reader.header().beat_control(now());
    reader.header().beat_worker(WorkerId(0), now());
    reader.header().start_data_plane(Process::current(), now());
    reader.header().provision_changed();
    assert!(!reader.calls().acknowledge(CallRef::default()));
    assert_eq!(reader.ring_usage(WorkerId(0)).issued, 0);
    assert!(std::panic::catch_unwind(|| reader.event_receiver(WorkerId(0))).is_err());
    assert!(std::panic::catch_unwind(|| reader.header().control_bell()).is_err());
    assert_eq!(fs::read(&path).expect("it can be read"), before);
}

#[test]
fn what_is_no_region_is_refused_by_control_and_replaced_by_the_data_plane() {
    type Spoil = fn(&mut Vec<u8>);
    let spoils: [(&str, Spoil); 8] = [
        ("empty", |bytes| bytes.clear()),
        ("short header", |bytes| bytes.truncate(100)),
        ("short", |bytes| bytes.truncate(bytes.len() - 8)),
        ("long", |bytes| bytes.extend([0; 8])),
        ("magic", |bytes| bytes[0] ^= 1),
        ("version", |bytes| bytes[8] ^= 1),
        ("shape", |bytes| bytes[16] ^= 1),
        ("layout", |bytes| bytes[64 + 5 * 8] ^= 1),
    ];
    for (name, spoil) in spoils {
        let (_dir, path) = place();
        drop(create(&path));
        let mut bytes = fs::read(&path).expect("it can be read");
        spoil(&mut bytes);
        fs::write(&path, bytes).expect("it can be written");
        for opened in [Region::open(&path), Region::open_read_only(&path)] {
            let error = opened.expect_err(name);
            assert!(matches!(error, RegionError::Foreign { .. }), "{name}: {error}");
        }
        drop(create(&path));
        assert!(Region::open(&path).is_ok());
    }
}

fn start(region: &Region) -> u64 {
    region.header().start_data_plane(Process::current(), now())
}

#[test]
fn an_incarnation_is_never_used_twice() {
    type Spoil = fn(&Path);
    let spoils: [(&str, Spoil); 4] = [
        ("no secrets", |path| fs::remove_file(beside(path, ".secrets")).expect("they are there")),
        ("other secrets", |path| fs::write(beside(path, ".secrets"), [0; 16]).expect("written")),
        ("another build", |path| spoil(path, 16)),
        ("another boot", |path| spoil(path, 56)),
    ];
    fn spoil(path: &Path, at: usize) {
        let mut bytes = fs::read(path).expect("it can be read");
        bytes[at] ^= 1;
        fs::write(path, bytes).expect("it can be written");
    }
    for (name, spoil) in spoils {
        let (_dir, path) = place();
        assert_eq!(start(&create(&path)), 1);
        Region::open(&path).expect(name).header().start_control(Process::current(), now());
        spoil(&path);
        let region = create(&path);
        assert_eq!(start(&region), 2, "{name}");
        assert_eq!(region.header().control().incarnation, 1, "{name}");
    }
    let (_dir, path) = place();
    start(&create(&path));
    spoil(&path, 0);
    assert_eq!(start(&create(&path)), 1, "what is no region has no incarnation");
}

#[test]
fn what_cannot_be_opened_for_the_moment_is_kept() {
    let (dir, path) = place();
    let creation = create(&path).header().creation();
    let (secrets, saved) = (beside(&path, ".secrets"), dir.path().join("saved"));
    fs::rename(&secrets, &saved).expect("they are there");
    fs::create_dir(&secrets).expect("the name is free");
    let error = Region::open_or_create(&path, LAYOUT).expect_err("a folder is no file");
    assert!(matches!(error, RegionError::Io { what: "open", .. }), "{error}");
    fs::remove_dir(&secrets).expect("it is there");
    fs::rename(&saved, &secrets).expect("it is there");
    let (region, opened) = Region::open_or_create(&path, LAYOUT).expect("it is there");
    assert_eq!((opened, region.header().creation()), (Opened::Reattached, creation));
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", path.display()))
}

const REGION_FILES: [&str; 3] = ["", ".secrets", ".lock"];

/// Opening as a data plane and as control is refused, and the error names the file and the rule.
fn assert_untrusted(path: &Path, suffix: &str, rule: &str) {
    let expected = format!("{}{suffix} is not to be trusted: {rule}", path.display());
    let error = Region::open_or_create(path, LAYOUT).expect_err(rule);
    assert_eq!(error.to_string(), expected);
    // Control has a lock of its own.
    if suffix != ".lock" {
        let error = Region::open(path).expect_err(rule);
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn a_link_is_not_followed() {
    for suffix in [&REGION_FILES[..], &[".control.lock"]].concat() {
        let (dir, path) = place();
        drop(create(&path));
        drop(Region::open(&path).expect("it is there"));
        let (file, target) = (beside(&path, suffix), dir.path().join("target"));
        fs::rename(&file, &target).expect("it is there");
        let before = fs::read(&target).expect("it can be read");
        symlink(&target, &file).expect("the name is free");
        if suffix == ".control.lock" {
            let error = Region::open(&path).expect_err("it is a link").to_string();
            assert!(error.ends_with(".control.lock is not to be trusted: it is a symbolic link"));
        } else {
            assert_untrusted(&path, suffix, "it is a symbolic link");
        }
        if suffix.is_empty() {
            let error = Region::open_read_only(&path).expect_err("nor by a tool");
            assert!(matches!(error, RegionError::Untrusted { .. }), "{error}");
        }
        assert_eq!(fs::read(&target).expect("it can be read"), before);
    }
}

#[test]
fn a_file_that_others_may_write_is_not_used() {
    for (suffix, mode, rule) in [
        ("", 0o660, "its group or others may write to it"),
        ("", 0o642, "its group or others may write to it"),
        (".lock", 0o620, "its group or others may write to it"),
        (".secrets", 0o640, "its group or others have access to it"),
        (".secrets", 0o604, "its group or others have access to it"),
    ] {
        let (_dir, path) = place();
        drop(create(&path));
        let file = beside(&path, suffix);
        fs::set_permissions(&file, Permissions::from_mode(mode)).expect("it is ours");
        assert_untrusted(&path, suffix, rule);
        assert!(Region::open_read_only(&path).is_ok(), "a tool may look at it");
    }
}

#[test]
fn what_is_no_file_is_not_used_and_not_waited_for() {
    for suffix in REGION_FILES {
        let (_dir, path) = place();
        drop(create(&path));
        let file = beside(&path, suffix);
        fs::remove_file(&file).expect("it is there");
        let made = Command::new("mkfifo").arg("-m600").arg(&file).status();
        assert!(made.expect("mkfifo is there").success());
        assert_untrusted(&path, suffix, "it is not a regular file");
        if suffix.is_empty() {
            let error = Region::open_read_only(&path).expect_err("nor by a tool");
            assert!(matches!(error, RegionError::Untrusted { .. }), "{error}");
        }
    }
}

#[test]
fn a_file_of_another_user_is_read_by_tools_only() {
    const NOBODY: u32 = 65_534;
    for suffix in REGION_FILES {
        let (dir, path) = place();
        drop(create(&path));
        // Only root can give a file away; who is not root cannot have it given to them either.
        if fs::metadata(dir.path()).expect("it is there").uid() != 0 {
            return;
        }
        chown(beside(&path, suffix), Some(NOBODY), Some(NOBODY)).expect("we are root");
        assert_untrusted(&path, suffix, "it belongs to another user");
        assert!(Region::open_read_only(&path).is_ok());
    }
}

const OTHER_CONTROL: &str = "ABI_OTHER_CONTROL";

/// The other process of the test below: says whether it got the region, and holds it until it is
/// told to end. By itself it does nothing.
#[test]
fn other_control() {
    let Some(path) = std::env::var_os(OTHER_CONTROL) else { return };
    let region = Region::open(Path::new(&path));
    match &region {
        Ok(_) => println!("\nit has it"),
        Err(error) => println!("\n{error}"),
    }
    let _ = std::io::stdin().read_line(&mut String::new());
}

struct Other(Child);

impl Other {
    /// The other process, and what it says.
    fn start(path: &Path) -> (Other, String) {
        use std::io::BufRead as _;
        let mut child = Command::new(std::env::current_exe().expect("this program has a path"))
            .args(["--exact", "other_control", "--nocapture"])
            .env(OTHER_CONTROL, path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program runs again");
        let output = std::io::BufReader::new(child.stdout.take().expect("it is piped"));
        let said = output
            .lines()
            .map_while(Result::ok)
            .find(|line| line.starts_with("it has") || line.contains("control process"));
        (Other(child), said.expect("it says how it went"))
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn two_control_processes_do_not_share_a_region() {
    let (dir, path) = place();
    let _plane = create(&path);
    let first = Region::open(&path).expect("it is there");
    let again = Region::open(&path).expect("this process has it already");
    let refusal =
        format!("a control process already runs on this region, process {}", std::process::id());
    assert_eq!(Other::start(&path).1, refusal);
    drop(first);
    assert_eq!(Other::start(&path).1, refusal, "the second use of it holds it too");
    drop(again);
    let (other, said) = Other::start(&path);
    assert_eq!(said, "it has it");
    match Region::open(&path) {
        Err(RegionError::ControlRunning { pid }) => assert_eq!(pid, other.0.id()),
        opened => panic!("{opened:?}"),
    }
    assert!(Region::open_read_only(&path).is_ok(), "tools are not in the way");
    drop(other);
    let region = Region::open(&path).expect("the other was killed");
    let elsewhere = dir.path().join("ccb-8");
    drop(create(&elsewhere));
    let (_other, said) = Other::start(&elsewhere);
    assert_eq!(said, "it has it", "another region is another matter");
    drop(region);
}

#[test]
fn control_opens_the_next_region_before_it_lets_go_of_the_last() {
    let (_dir, path) = place();
    drop(create(&path));
    let mut control = Region::open(&path).expect("it is there");
    for agents in [200, 300] {
        let wider = Layout { agents, ..LAYOUT };
        let _plane = Region::open_or_create(&path, wider).expect("it can be made");
        let next = Region::open(&path).expect("this process has the lock");
        assert!(!control.is_current(&path) && next.is_current(&path));
        control = next;
    }
    drop(control);
    assert_eq!(Other::start(&path).1, "it has it");
}

#[test]
fn every_header_of_chance_is_judged_without_a_fault() {
    let (_dir, path) = place();
    drop(create(&path));
    let good = fs::read(&path).expect("it can be read")[..18 * 8].to_vec();
    let file = fs::OpenOptions::new().write(true).open(&path).expect("it can be written");
    let mut rng = base::Rng::from_number(3);
    for _ in 0..2000 {
        let mut bytes = good.clone();
        for _ in 0..=rng.below(3) {
            let word = (3 + rng.below(15)) as usize * 8;
            let shift = rng.below(64);
            bytes[word..word + 8].copy_from_slice(&(rng.next_u64() >> shift).to_ne_bytes());
        }
        file.write_all_at(&bytes, 0).expect("it can be written");
        if let Ok(region) = Region::open_read_only(&path) {
            let layout = Layout { ccb: LAYOUT.ccb, ..region.layout() };
            assert_eq!(layout, LAYOUT, "no other sizes have these lengths by chance");
        }
    }
}

#[test]
fn secrets_belong_to_their_region() {
    let (dir, path) = place();
    drop(create(&path));
    let other = dir.path().join("ccb-8");
    drop(create(&other));
    fs::copy(dir.path().join("ccb-8.secrets"), dir.path().join("ccb-7.secrets"))
        .expect("it can be copied");
    assert!(matches!(Region::open(&path), Err(RegionError::Foreign { .. })));
    assert!(Region::open_read_only(&path).is_ok());
    drop(create(&path));
    fs::remove_file(dir.path().join("ccb-7.secrets")).expect("it is there");
    assert!(matches!(Region::open(&path), Err(RegionError::Io { .. })));
    drop(create(&path));
}

#[test]
fn a_region_of_another_boot_is_not_taken_over() {
    let (_dir, path) = place();
    drop(create(&path));
    let mut bytes = fs::read(&path).expect("it can be read");
    bytes[56] ^= 1;
    fs::write(&path, bytes).expect("it can be written");
    drop(create(&path));
}

#[test]
fn a_place_that_cannot_be_used_is_named() {
    let path = PathBuf::from("/no/such/directory/ccb");
    let error = Region::open_or_create(&path, LAYOUT).expect_err("there is no directory");
    assert!(error.to_string().contains("/no/such/directory/ccb"), "{error}");
    let error = Region::open(&path).expect_err("there is no file");
    assert!(error.to_string().starts_with("cannot open /no/such/directory/ccb: "), "{error}");
    let bad = Layout { ring_slots: 100, ..LAYOUT };
    let error = Region::open_or_create(&path, bad).expect_err("it is no power of two");
    assert_eq!(error.to_string(), "bad layout: ring_slots is a power of two, 4 to 1048576");
}

#[test]
fn slots_outside_a_table_do_nothing() {
    let region = Region::in_memory(LAYOUT);
    for slot in [100, 101, u32::MAX] {
        assert_eq!(region.agents().read(AgentSlot(slot)), None);
        assert!(!region.agents().write(AgentSlot(slot), &AgentRow::default()));
        assert!(region.agents().nonce_word(AgentSlot(slot)).is_none());
        assert_eq!(region.calls().read(slot), None);
        assert_eq!(region.calls().owner(slot), None);
        assert!(!region.calls().acknowledge(CallRef { slot, generation: 1 }));
        assert_eq!(region.calls().acknowledged(slot), None);
        assert_eq!(region.legs().read(slot), None);
    }
    assert_eq!(region.locations().read(LocationId(2)), None);
    region.counters().add(WorkerId(2), Counter::SipSent, 1);
    region.counters().set(WorkerId(200), Counter::SipSent, 1);
    assert_eq!(region.counters().total(Counter::SipSent), 0);
    assert_eq!(region.counters().get(WorkerId(200), Counter::SipSent), 0);
    assert!(region.header().worker_bell(WorkerId(2)).is_none());
    assert!(region.header().worker_heartbeat(WorkerId(2)).is_none());
    assert_eq!(region.calls().range(WorkerId(2)), 0..0);
}

#[test]
fn calls_have_owners_and_stay_until_they_are_acknowledged() {
    let region = Region::in_memory(LAYOUT);
    let calls = region.calls();
    assert_eq!(calls.len(), 20);
    assert_eq!(calls.range(WorkerId(1)), 10..20);
    assert_eq!(calls.owner(9), Some(WorkerId(0)));
    assert_eq!(calls.owner(10), Some(WorkerId(1)));
    assert_eq!(region.legs().range(WorkerId(1)), 20..40);
    let call = CallRef { slot: 12, generation: 0 };
    let row = CallRow { state: CallState::Ended.into(), serial: 99, ..Default::default() };
    assert!(calls.write(call.slot, &row));
    assert_eq!(calls.find(call), Some(row));
    assert_eq!(calls.find(CallRef { generation: 1, ..call }), None);
    assert!(!calls.is_acknowledged(call), "generation 0 is not acknowledged by a zero word");
    assert!(calls.acknowledge(call));
    assert!(calls.is_acknowledged(call));
    assert!(!calls.is_acknowledged(CallRef { generation: 1, ..call }));
    assert_eq!(calls.iter().filter(|(_, row)| row.state() != CallState::Free).count(), 1);
}

#[test]
fn counters_add_up() {
    let region = Region::in_memory(LAYOUT);
    let counters = region.counters();
    for (n, counter) in Counter::ALL.iter().enumerate() {
        assert_eq!(*counter as usize, n);
        counters.add(WorkerId(0), *counter, 1);
        counters.add(WorkerId(1), *counter, n as u64);
        counters.add_control(*counter, 100);
        assert_eq!(counters.total(*counter), 101 + n as u64);
        assert_eq!(counters.get_control(*counter), 100);
    }
    counters.set(WorkerId(1), Counter::CallsNow, 5);
    assert_eq!(counters.get(WorkerId(1), Counter::CallsNow), 5);
    let mut names: Vec<_> = Counter::ALL.iter().map(|counter| counter.name()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Counter::COUNT);
}

#[test]
fn a_process_is_known_by_its_start() {
    let us = Process::current();
    assert!(us.is_alive());
    assert!(!Process { start_time: us.start_time + 1, ..us }.is_alive());
    assert!(!Process::default().is_alive());
}
