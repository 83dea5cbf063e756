use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

use abi::spool::{
    BLOCK_STEP, Record, RecordingId, SpoolCodec, SpoolReader, SpoolSide, SpoolWriter,
};
use base::WorkerId;

use super::*;

/// A disk that takes a block when it is told to, and as it is told to.
struct Disk {
    orders: Receiver<io::Result<()>>,
    written: Arc<Mutex<Vec<u8>>>,
}

impl Sink for Disk {
    fn write(&mut self, block: &[u8]) -> io::Result<()> {
        // Without orders it is as fast as can be.
        self.orders.recv().unwrap_or(Ok(()))?;
        self.written.lock().expect("nobody panics").push(block[0]);
        Ok(())
    }

    fn close(&mut self) {}
}

type Orders = Sender<io::Result<()>>;

fn disk() -> (Spool, Orders, Arc<Mutex<Vec<u8>>>) {
    let (order, orders) = channel();
    let written = Arc::default();
    let disk = Disk { orders, written: Arc::clone(&written) };
    (Spool::start("spool".to_owned(), disk).expect("a thread"), order, written)
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = clock::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(clock::now() < end, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_slow_disk_never_blocks_and_its_losses_are_told() {
    let (mut spool, order, written) = disk();
    let begun = clock::now();
    let results: Vec<_> = (0..300u32).map(|n| spool.write(vec![n as u8; 65_536])).collect();
    let took = clock::now().since(begun);
    let lost = results.iter().filter(|result| result.is_err()).count();
    assert_eq!(lost, 300 - 128, "8 MiB wait");
    assert!(took < Duration::from_secs(1), "{took:?} for 300 blocks that nobody takes");
    assert_eq!(spool.news(begun), Some((SpoolState::Slow, lost as u64 * 65_536)));
    assert_eq!(spool.news(begun), None);
    assert_eq!(spool.write(vec![0; 4_096]), Err(BlockLost(4_096)));
    assert_eq!(spool.news(begun), None, "more is told once a second");
    let later = begun + Duration::from_secs(1);
    assert_eq!(spool.news(later), Some((SpoolState::Slow, 4_096)));
    drop(order);
    until("the queue is written", || spool.news(later) == Some((SpoolState::Writing, 0)));
    spool.close();
    assert_eq!(*written.lock().expect("nobody panics"), (0..128).collect::<Vec<u8>>());
}

#[test]
fn a_write_that_fails_is_tried_again_with_the_same_block() {
    let (mut spool, order, written) = disk();
    spool.write(vec![1; 4_096]).expect("there is room");
    spool.write(vec![2; 4_096]).expect("there is room");
    order.send(Err(io::ErrorKind::StorageFull.into())).expect("it writes");
    let now = clock::now();
    until("the failure is told", || spool.news(now) == Some((SpoolState::Failed, 0)));
    order.send(Ok(())).expect("it writes");
    until("it is written again", || spool.news(now) == Some((SpoolState::Writing, 0)));
    assert!(clock::now().since(now) > Duration::from_millis(RETRY_MS / 2), "not at once");
    order.send(Ok(())).expect("it writes");
    spool.close();
    assert_eq!(*written.lock().expect("nobody panics"), [1, 2]);
}

#[test]
fn a_spool_is_closed_while_its_disk_fails() {
    let (mut spool, order, written) = disk();
    spool.write(vec![1; 4_096]).expect("there is room");
    order.send(Err(io::ErrorKind::StorageFull.into())).expect("it writes");
    until("the failure is told", || spool.news(clock::now()).is_some());
    spool.close();
    assert!(written.lock().expect("nobody panics").is_empty());
}

const OF: RecordingId = RecordingId { serial: 7, number: 9 };

fn block(number: u64, writer: &mut SpoolWriter) -> Vec<u8> {
    writer.pause(OF, number);
    writer.flush().expect("a record")
}

/// The numbers of all blocks in the directory in order, and how many segments they lie in.
fn numbers(directory: &Path) -> (Vec<u64>, usize) {
    let mut paths: Vec<_> = std::fs::read_dir(directory)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "spool"))
        .collect();
    paths.sort();
    let mut numbers = Vec::new();
    for path in &paths {
        let bytes = std::fs::read(path).expect("a segment");
        let mut blocks = SpoolReader::new(&bytes);
        assert_eq!(blocks.next().map(|block| block.sequence), Some(0), "the clock comes first");
        for block in blocks.by_ref() {
            numbers.extend(block.records().filter_map(|record| match record {
                Record::Pause { position, .. } | Record::Audio { position, .. } => Some(position),
                _ => None,
            }));
        }
        assert_eq!(blocks.skipped(), 0);
    }
    (numbers, paths.len())
}

fn segments(directory: &Path, bytes: u64) -> Segments {
    let place = Place::prepare(directory, 3).expect("a directory");
    Segments::new(place(WorkerId(1)).with_segments_of(bytes))
}

#[test]
fn segments_follow_each_other_and_are_as_long_as_what_is_in_them() {
    // /tmp takes direct writes on most machines, /dev/shm only buffered ones.
    for base in ["/tmp", "/dev/shm"] {
        let home = tempfile::tempdir_in(base).expect("a directory");
        let directory = home.path().join("a/spool");
        let mut writer = SpoolWriter::new();
        let mut segments = segments(&directory, 65_536);
        for number in 0..40 {
            segments.write(&block(number, &mut writer)).expect("it writes");
        }
        let held = std::fs::read_dir(&directory).expect("a directory").count();
        assert_eq!(held, 4, "three segments and the lock");
        segments.close();
        assert_eq!(numbers(&directory), ((0..40).collect(), 3));
        let lengths = std::fs::read_dir(&directory)
            .expect("a directory")
            .map(|entry| entry.expect("an entry").metadata().expect("a file").len());
        assert_eq!(lengths.sum::<u64>(), (40 + 3) * BLOCK_STEP as u64);
    }
}

#[test]
fn a_restarted_writer_writes_nothing_over_and_sorts_later() {
    let home = tempfile::tempdir().expect("a directory");
    let mut expected = Vec::new();
    for start in 0..5 {
        let mut writer = SpoolWriter::new();
        let mut segments = segments(home.path(), 65_536);
        for number in start * 10..start * 10 + 10 {
            segments.write(&block(number, &mut writer)).expect("it writes");
            expected.push(number);
        }
        // A predecessor that was killed closes nothing.
        std::mem::forget(segments);
    }
    assert_eq!(numbers(home.path()), (expected, 5));
}

#[test]
fn what_is_empty_leaves_no_segment() {
    let home = tempfile::tempdir().expect("a directory");
    segments(home.path(), 65_536).close();
    assert_eq!(std::fs::read_dir(home.path()).expect("a directory").count(), 0);
}

/// Mounts a small file system; none when this process may not.
fn small_mount(directory: &Path) -> Option<impl Drop> {
    struct Mounted(std::path::PathBuf);
    impl Drop for Mounted {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg(&self.0).status();
        }
    }
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "none"])
        .arg(directory)
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    mounted.then(|| Mounted(directory.to_owned()))
}

#[test]
fn a_full_disk_is_told_and_nothing_is_lost_once_there_is_room() {
    let home = tempfile::tempdir().expect("a directory");
    let Some(_mounted) = small_mount(home.path()) else {
        eprintln!("skipped: mounting a small file system takes root");
        return;
    };
    let filler = home.path().join("filler");
    std::fs::write(&filler, vec![0; 900_000]).expect("it fits");
    let mut spool =
        Spool::start("spool".to_owned(), segments(home.path(), 256 << 10)).expect("a thread");
    let mut writer = SpoolWriter::new();
    for number in 0..20 {
        spool.write(block(number, &mut writer)).expect("there is room in the queue");
    }
    let now = clock::now();
    until("the full disk is told", || spool.news(now) == Some((SpoolState::Failed, 0)));
    std::fs::remove_file(&filler).expect("it is there");
    until("it is written again", || spool.news(now) == Some((SpoolState::Writing, 0)));
    spool.close();
    assert_eq!(numbers(home.path()), ((0..20).collect(), 1));
}

const CHILD: &str = "SPOOL_TEST_DIRECTORY";

/// The process that the next test kills: records one side of a call in real time.
#[test]
fn as_a_child() {
    let Some(directory) = std::env::var_os(CHILD) else { return };
    let sink = segments(Path::new(&directory), 1 << 20);
    let mut spool = Spool::start("spool".to_owned(), sink).expect("a thread");
    let mut writer = SpoolWriter::new();
    let begun = clock::now();
    for packet in 0.. {
        writer.audio(OF, SpoolSide::Caller, SpoolCodec::Pcmu, packet, &[0; 160]);
        if packet % 10 == 0
            && let Some(block) = writer.flush()
        {
            spool.write(block).expect("there is room");
        }
        println!("{packet}");
        let next = begun + Duration::from_millis(20 * (packet + 1));
        thread::sleep(next.since(clock::now()));
    }
}

#[test]
fn a_writer_that_is_killed_loses_at_most_a_second() {
    use std::io::{BufRead as _, BufReader};
    let home = tempfile::tempdir().expect("a directory");
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "spool::tests::as_a_child", "--nocapture"])
        .env(CHILD, home.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a process");
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let mut packets = lines.by_ref().filter_map(|line| line.ok()?.trim().parse::<u64>().ok());
    let last = packets.by_ref().find(|packet| *packet >= 120).expect("it goes on");
    child.kill().expect("it runs");
    child.wait().expect("it runs");
    let last = packets.last().unwrap_or(last);
    let (numbers, _) = numbers(home.path());
    assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>());
    let lost = last + 1 - numbers.len() as u64;
    assert!(lost <= 50, "{lost} packets of {last}, more than a second");
}

/// CPU time of this thread, in microseconds.
fn cpu_us() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec * 1_000_000 + time.tv_nsec / 1_000
}

#[test]
fn a_recorded_call_costs_little() {
    const CALLS: u64 = 200;
    const SECONDS: u64 = 5;
    let home = tempfile::tempdir().expect("a directory");
    let mut segments = segments(home.path(), 64 << 20);
    let mut writer = SpoolWriter::new();
    let (mut packing, mut writing) = (0, 0);
    for packet in 0..SECONDS * 50 {
        let begun = cpu_us();
        let mut blocks = Vec::new();
        for number in 0..CALLS * 2 {
            let of = RecordingId { serial: number / 2, number: 1 };
            writer.audio(of, SpoolSide::Caller, SpoolCodec::Pcmu, packet * 160, &[0; 160]);
            blocks.extend(writer.take_full());
        }
        packing += cpu_us() - begun;
        let begun = cpu_us();
        for block in blocks {
            segments.write(&block).expect("it writes");
        }
        writing += cpu_us() - begun;
    }
    segments.close();
    let each = |us: i64| us as f64 / (CALLS * SECONDS) as f64;
    println!(
        "a recorded call: {:.1} us a second in the worker, {:.1} us in the spool's thread",
        each(packing),
        each(writing)
    );
    assert!(each(packing + writing) < 1_000.0, "a thousandth of a core");
}
