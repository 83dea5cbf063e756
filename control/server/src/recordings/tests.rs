use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::process::{Command, Stdio};

use abi::spool::{
    BLOCK_STEP, RecordingId, SideCounts, SpoolCodec, SpoolSide, SpoolWriter, clock_block,
};
use base::Instant;
use rustix::fs::{FlockOperation, flock};
use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;

use super::*;

const SIDES: [SpoolSide; 2] = [SpoolSide::Caller, SpoolSide::Called];
static NEVER: AtomicBool = AtomicBool::new(false);

/// A data plane's worker with segments of its own size.
struct Plane {
    directory: PathBuf,
    stem: String,
    writer: SpoolWriter,
    segment: Option<(File, u64)>,
    number: u32,
    segment_bytes: u64,
    alive: Option<File>,
}

impl Plane {
    fn new(directory: &Path, start: u64, segment_bytes: u64) -> Plane {
        std::fs::create_dir_all(directory).expect("a directory");
        let stem = format!("{start:015}-0000000001-000");
        let alive = File::create(directory.join(format!("{stem}.alive"))).expect("a file");
        flock(&alive, FlockOperation::NonBlockingLockExclusive).expect("a new file");
        Plane {
            directory: directory.to_owned(),
            stem,
            writer: SpoolWriter::new(),
            segment: None,
            number: 0,
            segment_bytes,
            alive: Some(alive),
        }
    }

    fn path(&self, number: u32) -> PathBuf {
        self.directory.join(format!("{}-{number:08}.spool", self.stem))
    }

    fn append(&mut self, block: &[u8]) {
        if self.segment.as_ref().is_some_and(|(_, at)| at + block.len() as u64 > self.segment_bytes)
        {
            self.segment = None;
        }
        if self.segment.is_none() {
            self.number += 1;
            let file = File::create_new(self.path(self.number)).expect("a new segment");
            file.set_len(self.segment_bytes).expect("there is room");
            let clock = clock_block(Instant::from_nanos(5_000_000_000), 1_700_000_000_000_000_000);
            file.write_all_at(&clock, 0).expect("it writes");
            self.segment = Some((file, BLOCK_STEP as u64));
        }
        let (file, at) = self.segment.as_mut().expect("it is open");
        file.write_all_at(block, *at).expect("it writes");
        *at += block.len() as u64;
    }

    fn write_full(&mut self) {
        while let Some(block) = self.writer.take_full() {
            self.append(&block);
        }
    }

    fn flush(&mut self) {
        while let Some(block) = self.writer.flush() {
            self.append(&block);
        }
    }

    fn die(&mut self) {
        self.alive = None;
    }
}

struct Home {
    home: tempfile::TempDir,
}

impl Home {
    fn new() -> Home {
        Home { home: tempfile::tempdir().expect("a directory") }
    }

    fn spool(&self) -> PathBuf {
        self.home.path().join("spool")
    }

    fn recordings(&self) -> PathBuf {
        self.home.path().join("recordings")
    }

    fn follower(&self) -> Follower {
        Follower::new(Config { directory: self.recordings(), spools: vec![self.spool()] })
    }

    /// The names in a directory, sorted.
    fn names(&self, directory: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.home.path().join(directory)) else {
            return vec![];
        };
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        names
            .map(|name| name.into_string().expect("text"))
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect()
    }

    fn json(&self, name: &str) -> Value {
        let bytes =
            std::fs::read(self.recordings().join(format!("{name}.json"))).expect("an account");
        serde_json::from_slice(&bytes).expect("JSON")
    }

    /// The samples of both sides.
    fn wav(&self, name: &str) -> [Vec<i16>; 2] {
        let bytes = std::fs::read(self.recordings().join(format!("{name}.wav"))).expect("a file");
        assert_eq!(&bytes[..4], b"RIFF");
        assert_eq!(
            &bytes[8..40],
            b"WAVEfmt \x10\0\0\0\x01\0\x02\0\x40\x1f\0\0\0\x7d\0\0\x04\0\x10\0data"
        );
        let length = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four"));
        assert_eq!(length(40) as usize, bytes.len() - 44);
        assert_eq!(length(4) as usize, bytes.len() - 8);
        let (samples, _) = bytes[44..].as_chunks::<4>();
        [0, 2].map(|at| {
            samples.iter().map(|both| i16::from_le_bytes([both[at], both[at + 1]])).collect()
        })
    }
}

/// What a call of one number sounds like: no two places are alike for long.
fn code(number: u64, side: SpoolSide, position: u64) -> u8 {
    let tone =
        position.wrapping_mul(number * 2 + 1 + side as u64) ^ (position >> 7) ^ (number << 3);
    (tone % 251) as u8
}

fn id(number: u64) -> RecordingId {
    RecordingId { serial: 1_000 + number, number }
}

fn codec(side: SpoolSide) -> SpoolCodec {
    [SpoolCodec::Pcmu, SpoolCodec::Pcma][side as usize]
}

fn packet(number: u64, side: SpoolSide, position: u64) -> Vec<u8> {
    (position..position + 160).map(|position| code(number, side, position)).collect()
}

fn say(plane: &mut Plane, number: u64, side: SpoolSide, position: u64) {
    plane.writer.audio(id(number), side, codec(side), position, &packet(number, side, position));
    plane.write_full();
}

fn sound(number: u64, side: SpoolSide, samples: u64) -> Vec<i16> {
    let table = take::samples(codec(side));
    (0..samples).map(|at| i16::from_le_bytes(table[usize::from(code(number, side, at))])).collect()
}

fn begin(plane: &mut Plane, number: u64) {
    plane.writer.start(id(number), Instant::from_nanos(6_000_000_000));
    plane.write_full();
}

fn end(plane: &mut Plane, number: u64, samples: u64) {
    let counts = SideCounts { received: samples, ..SideCounts::default() };
    plane.writer.end(id(number), Instant::from_nanos(7_000_000_000), samples, [counts; 2]);
    plane.write_full();
}

fn check_whole(home: &Home, number: u64, samples: u64) {
    let name = format!("{}-{number}", 1_000 + number);
    let account = home.json(&name);
    assert_eq!(account["complete"], true, "{account:#}");
    assert_eq!(account["caller"]["written"], samples);
    assert_eq!(account["called"]["written"], samples);
    let wav = home.wav(&name);
    for side in SIDES {
        assert!(wav[side as usize] == sound(number, side, samples), "{name} {side:?}");
    }
}

#[test]
fn codes_are_the_samples_of_the_standard() {
    let sample = |codec, code: u8| i16::from_le_bytes(take::samples(codec)[usize::from(code)]);
    for (code, expected) in [(0xff, 0), (0x7f, 0), (0x00, -32_124), (0x80, 32_124), (0xfe, 8)] {
        assert_eq!(sample(SpoolCodec::Pcmu, code), expected);
    }
    for (code, expected) in [(0xd5, 8), (0x55, -8), (0xaa, 32_256), (0x2a, -32_256), (0xc5, 264)] {
        assert_eq!(sample(SpoolCodec::Pcma, code), expected);
    }
}

#[test]
fn a_recording_is_heard_as_it_was_said() {
    let home = Home::new();
    let mut plane = Plane::new(&home.spool(), 1, 1 << 20);
    let mut follower = home.follower();
    let counts = SideCounts { received: 480, lost: 320, duplicates: 160, late: 0 };
    let of = RecordingId { serial: 7, number: 9 };
    let at = Instant::from_nanos;
    plane.writer.start(of, at(6_000_000_000));
    // The second side begins late, and one packet comes after the next.
    for (side, position) in [(0, 160), (0, 0), (1, 80_000), (0, 640)] {
        let side = SIDES[side];
        plane.writer.audio(of, side, SpoolCodec::Pcmu, position, &packet(9, side, position));
    }
    plane.writer.lost(of, SpoolSide::Caller, 320, 320);
    plane.writer.pause(of, 80_160);
    plane.flush();
    follower.look(&NEVER);
    assert_eq!(home.names("recordings"), [".7-9-000000000000001-0000000001-000.part"]);
    plane.writer.resume(of, 90_000);
    plane.writer.pause(of, 99_000);
    let called = SideCounts { received: 160, ..SideCounts::default() };
    plane.writer.end(of, at(17_500_000_000), 100_000, [counts, called]);
    plane.flush();
    follower.look(&NEVER);
    assert_eq!(home.names("recordings"), ["7-9.json", "7-9.wav"]);
    let account = home.json("7-9");
    assert_eq!(account["start_unix_ms"], 1_700_000_001_000u64);
    assert_eq!(account["end_unix_ms"], 1_700_000_012_500u64);
    assert_eq!(account["samples"], 100_000);
    assert_eq!(account["caller"]["received"], 480);
    assert_eq!(account["caller"]["lost"], 320);
    assert_eq!(account["caller"]["duplicates"], 160);
    let pauses =
        serde_json::json!([{"from": 80_160, "to": 90_000}, {"from": 99_000, "to": 100_000}]);
    assert_eq!(account["pauses"], pauses);
    assert_eq!(account["complete"], true);
    let mut expected = [vec![0; 100_000], vec![0; 100_000]];
    for (side, position) in [(0, 160), (0, 0), (1, 80_000), (0, 640)] {
        for (at, code) in (position..).zip(packet(9, SIDES[side], position as u64)) {
            let sample = take::samples(SpoolCodec::Pcmu)[usize::from(code)];
            expected[side][at] = i16::from_le_bytes(sample);
        }
    }
    assert!(home.wav("7-9") == expected);
}

/// Segments go when their takes are safe, though the takes go on; who starts anew goes on there.
#[test]
fn long_recordings_do_not_hold_segments() {
    let home = Home::new();
    let mut plane = Plane::new(&home.spool(), 1, 256 << 10);
    let mut follower = home.follower();
    begin(&mut plane, 1);
    for round in 0..50u64 {
        for step in 0..50 {
            for side in SIDES {
                say(&mut plane, 1, side, (round * 50 + step) * 160);
            }
        }
        plane.flush();
        follower.look(&NEVER);
        if round % 7 == 0 {
            follower = home.follower();
        }
        let names = home.names("spool");
        let segments = names.iter().filter(|name| name.ends_with(".spool")).count();
        assert!(segments <= 1, "{names:?}");
    }
    assert!(plane.number > 4);
    end(&mut plane, 1, 50 * 50 * 160);
    plane.flush();
    follower.look(&NEVER);
    check_whole(&home, 1, 50 * 50 * 160);
    plane.die();
    follower.look(&NEVER);
    assert_eq!(home.names("spool"), Vec::<String>::new());
}

#[test]
fn recordings_of_a_dead_data_plane_end() {
    let home = Home::new();
    let mut follower = home.follower();
    for start in [1, 2] {
        let mut plane = Plane::new(&home.spool(), start, 256 << 10);
        begin(&mut plane, 1);
        for step in 0..100 {
            say(&mut plane, 1, SpoolSide::Caller, step * 160);
        }
        plane.flush();
        follower.look(&NEVER);
        plane.append(&[0xaa; BLOCK_STEP]);
        plane.die();
        follower.look(&NEVER);
    }
    let expected = ["1001-1-2.json", "1001-1-2.wav", "1001-1.json", "1001-1.wav"];
    assert_eq!(home.names("recordings"), expected, "nothing is written over");
    for name in ["1001-1", "1001-1-2"] {
        assert_eq!(home.json(name)["complete"], false);
        let [caller, called] = home.wav(name);
        assert!(caller == sound(1, SpoolSide::Caller, 16_000));
        assert!(called == vec![0; 16_000]);
    }
    assert_eq!(home.names("spool"), Vec::<String>::new());
}

/// The block with the end may be lost while the data plane lives on.
#[test]
fn a_recording_whose_call_is_gone_ends() {
    let home = Home::new();
    let mut plane = Plane::new(&home.spool(), 1, 256 << 10);
    let mut follower = home.follower();
    for number in [1, 2] {
        begin(&mut plane, number);
        say(&mut plane, number, SpoolSide::Caller, 0);
    }
    plane.flush();
    follower.look(&NEVER);
    let at = |seconds: u64| Instant::from_nanos(seconds * 1_000_000_000);
    let live = |serials: &[u64]| Live::from([(home.spool(), serials.iter().copied().collect())]);
    let (one, other) = (id(1).serial, id(2).serial);
    // Of other data planes, and of one that is not known, it says nothing.
    follower.finish_gone(&Live::from([(home.recordings(), HashSet::new())]), at(1));
    follower.finish_gone(&Live::new(), at(50));
    for (serials, seconds) in [
        (&[one, other][..], 100),
        (&[other], 101),
        (&[one, other], 110),
        (&[other], 112),
        (&[other], 122),
    ] {
        follower.finish_gone(&live(serials), at(seconds));
        assert!(!home.names("recordings").iter().any(|name| name.ends_with(".wav")), "{seconds}");
    }
    // What comes late counts anew.
    say(&mut plane, 1, SpoolSide::Caller, 160);
    plane.flush();
    follower.look(&NEVER);
    follower.finish_gone(&live(&[other]), at(123));
    follower.finish_gone(&live(&[other]), at(133));
    assert_eq!(home.names("recordings").len(), 2, "both are being made");
    follower.finish_gone(&live(&[other]), at(134));
    assert_eq!(home.json("1001-1")["complete"], false);
    assert_eq!(home.json("1001-1")["samples"], 320);
    // Records that come all the same change nothing.
    end(&mut plane, 1, 320);
    end(&mut plane, 2, 160);
    plane.flush();
    follower.look(&NEVER);
    assert_eq!(home.json("1001-1")["complete"], false);
    assert!(home.names("recordings").contains(&"1002-2.wav".to_owned()));
}

#[test]
fn checkpoints_are_plain_files_of_ours() {
    let home = Home::new();
    std::fs::create_dir_all(home.spool()).expect("a directory");
    let secret = home.home.path().join("secret");
    std::fs::write(&secret, b"secret").expect("it writes");
    for kind in ["link", "pipe", "fresh"] {
        let mut plane = Plane::new(&home.spool(), 1, 256 << 10);
        let taken = home.spool().join(format!("{}.taken", plane.stem));
        let fresh = home.spool().join(format!(".{}.taken", plane.stem));
        match kind {
            "link" => std::os::unix::fs::symlink(&secret, &taken).expect("a link"),
            "fresh" => std::os::unix::fs::symlink(&secret, &fresh).expect("a link"),
            _ => {
                let made = Command::new("mkfifo").arg(&taken).status();
                assert!(made.is_ok_and(|status| status.success()));
            }
        }
        begin(&mut plane, 1);
        say(&mut plane, 1, SpoolSide::Caller, 0);
        end(&mut plane, 1, 160);
        plane.flush();
        plane.die();
        let mut follower = home.follower();
        follower.look(&NEVER);
        assert!(!follower.has_failed, "{kind}");
        assert_eq!(home.json("1001-1")["samples"], 160, "{kind}");
        assert_eq!(home.names("spool"), Vec::<String>::new(), "{kind}");
        assert_eq!(std::fs::read(&secret).expect("it is there"), b"secret", "{kind}");
    }
}

#[test]
fn a_checkpoint_makes_no_recording_longer_than_one_may_be() {
    let home = Home::new();
    let mut plane = Plane::new(&home.spool(), 1, 256 << 10);
    begin(&mut plane, 1);
    plane.flush();
    home.follower().look(&NEVER);
    let account = serde_json::json!({"serial": 1001, "number": 1, "start_unix_ms": 1,
        "end_unix_ms": null, "samples": u64::MAX, "pauses": [], "lost_blocks": 0, "left_out": 0,
        "sides": [{"written": 0, "lost": 0, "end": null}, {"written": 0, "lost": 0, "end": null}]});
    let checkpoint = serde_json::json!({"segment": 2, "sequence": 9, "takes": [account]});
    let taken = home.spool().join(format!("{}.taken", plane.stem));
    std::fs::write(taken, checkpoint.to_string()).expect("it writes");
    plane.die();
    home.follower().look(&NEVER);
    assert_eq!(home.json("1001-1")["samples"], 24 * 3_600 * 8_000);
}

#[tokio::test]
async fn a_thread_that_panics_is_followed_by_another() {
    let (told, mut turns) = tokio::sync::mpsc::unbounded_channel();
    let (stop, stopped) = watch::channel(false);
    let has_begun = AtomicBool::new(false);
    let task = tokio::spawn(keep_running(stopped, move |flag| {
        told.send(()).expect("the test listens");
        assert!(has_begun.swap(true, Ordering::AcqRel), "the first one panics");
        while !flag.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }));
    turns.recv().await.expect("it begins");
    turns.recv().await.expect("it begins again");
    stop.send(true).expect("it runs");
    task.await.expect("it ends when it is told to");
}

#[test]
fn a_lost_block_is_told() {
    let home = Home::new();
    let mut plane = Plane::new(&home.spool(), 1, 256 << 10);
    begin(&mut plane, 1);
    plane.flush();
    plane.writer.audio(id(1), SpoolSide::Caller, SpoolCodec::Pcmu, 0, &[0; 160]);
    assert!(plane.writer.flush().is_some(), "and it is dropped");
    let counts = [SideCounts { received: 160, ..SideCounts::default() }, SideCounts::default()];
    plane.writer.end(id(1), Instant::ZERO, 160, counts);
    plane.flush();
    home.follower().look(&NEVER);
    let account = home.json("1001-1");
    assert_eq!(account["complete"], false);
    assert_eq!(account["spool_blocks_lost"], 1);
    assert_eq!(account["caller"]["received"], 160);
    assert_eq!(account["caller"]["written"], 0);
}

/// Garbage between blocks costs nothing but itself, also more of it than is read at once.
#[test]
fn blocks_are_found_behind_garbage() {
    let home = Home::new();
    let mut plane = Plane::new(&home.spool(), 1, 4 << 20);
    begin(&mut plane, 1);
    for step in 0..2_000 {
        for side in SIDES {
            say(&mut plane, 1, side, step * 160);
        }
        if step % 500 == 0 {
            plane.append(&vec![step as u8; BLOCK_STEP * (step as usize / 5 + 1)]);
        }
    }
    end(&mut plane, 1, 2_000 * 160);
    plane.flush();
    plane.die();
    home.follower().look(&NEVER);
    check_whole(&home, 1, 2_000 * 160);
}

#[test]
fn hostile_spools_write_nothing_outside_and_do_not_stop_others() {
    let home = Home::new();
    let mut plane = Plane::new(&home.spool(), 1, 4 << 20);
    let spool = home.spool();
    for name in
        ["x.spool", "1-2-3-x.spool", "..-1-1-1.spool", "1-1-1-99999999999.spool", "1-2.alive"]
    {
        std::fs::write(spool.join(name), b"garbage").expect("it writes");
    }
    let secret = home.home.path().join("secret");
    std::fs::write(&secret, b"secret").expect("it writes");
    std::os::unix::fs::symlink(&secret, spool.join("9-9-9-00000001.spool")).expect("a link");
    let pipe = Command::new("mkfifo").arg(spool.join("8-8-8-00000001.spool")).status();
    assert!(pipe.is_ok_and(|status| status.success()));
    std::fs::write(spool.join("7-7-7-00000001.spool"), vec![0x55; 300_000]).expect("it writes");
    std::fs::write(spool.join("7-7-7.taken"), b"{").expect("it writes");
    let audio = |plane: &mut Plane, of, position| {
        plane.writer.audio(of, SpoolSide::Caller, SpoolCodec::Pcmu, position, &[1; 160]);
    };
    begin(&mut plane, 1);
    for position in [u64::MAX, u64::MAX - 100, 1 << 40, 24 * 3_600 * 8_000 - 100] {
        audio(&mut plane, id(1), position);
    }
    for number in 0..5_000 {
        audio(&mut plane, RecordingId { serial: u64::MAX, number: u64::MAX - number }, 0);
        plane.write_full();
    }
    plane.writer.pause(id(1), u64::MAX);
    plane.writer.lost(id(1), SpoolSide::Called, 5, u64::MAX);
    plane.writer.lost(id(1), SpoolSide::Called, 5, u64::MAX);
    let most =
        SideCounts { received: u64::MAX, lost: u64::MAX, duplicates: u64::MAX, late: u64::MAX };
    plane.writer.end(id(1), Instant::from_nanos(u64::MAX), 8_000, [most; 2]);
    plane.flush();
    let mut follower = home.follower();
    follower.look(&NEVER);
    assert!(!follower.has_failed);
    assert_eq!(home.json("1001-1")["complete"], false);
    assert_eq!(home.json("1001-1")["records_left_out"], 4);
    assert_eq!(home.names("recordings").len(), 4_095 + 2);
    assert_eq!(home.names(""), ["recordings", "secret", "spool"]);
    assert_eq!(std::fs::read(&secret).expect("it is there"), b"secret");
    assert!(!home.names("spool").iter().any(|name| name.starts_with("7-7-7")), "it is taken");
}

/// CPU time of this thread, in seconds.
fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

#[test]
fn two_hundred_recordings_are_sample_accurate_and_cheap() {
    const RECORDINGS: u64 = 200;
    const STEPS: u64 = 500;
    let home = Home::new();
    let mut plane = Plane::new(&home.spool(), 1, 64 << 20);
    let mut follower = home.follower();
    (0..RECORDINGS).for_each(|number| begin(&mut plane, number));
    plane.flush();
    // Making 200 files at once is the file system's work, and is not repeated.
    follower.look(&NEVER);
    let mut used = 0.0;
    for step in 0..STEPS {
        for number in 0..RECORDINGS {
            for side in SIDES {
                say(&mut plane, number, side, step * 160);
            }
        }
        // Each fifth of a second, as in life.
        if step % 10 == 9 {
            plane.flush();
            // A data plane writes past the page cache.
            if let Some((file, _)) = &plane.segment {
                file.sync_data().expect("it writes");
            }
            let before = cpu();
            follower.look(&NEVER);
            used += cpu() - before;
        }
    }
    (0..RECORDINGS).for_each(|number| end(&mut plane, number, STEPS * 160));
    plane.flush();
    follower.look(&NEVER);
    (0..RECORDINGS).for_each(|number| check_whole(&home, number, STEPS * 160));
    let core = used / (STEPS as f64 / 50.0);
    println!(
        "200 recordings: {:.2} % of a core, {:.1} us a second each",
        core * 100.0,
        core * 1e6 / 200.0
    );
    assert!(core < 0.1, "{core} of a core");
}

const CHILD: &str = "RECORDINGS_TEST_HOME";

/// The process that the next test kills.
#[test]
fn as_a_child() {
    let Some(home) = std::env::var_os(CHILD) else { return };
    let home = PathBuf::from(home);
    let (directory, spools) = (home.join("recordings"), vec![home.join("spool")]);
    let mut follower = Follower::new(Config { directory, spools });
    println!("ready");
    std::io::stdout().flush().expect("a pipe");
    loop {
        follower.look(&NEVER);
        assert!(!follower.has_failed);
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn killed_fifty_times_it_makes_the_same_recordings() {
    use std::io::{BufRead as _, BufReader};
    const TOGETHER: u64 = 10;
    const STEPS: u64 = 300;
    let home = Home::new();
    let mut plane = Plane::new(&home.spool(), 1, 192 << 10);
    // Ten at a time, each begun a while after the one before, so that they end in different segments.
    let mut clock = 0;
    let total = 40;
    let mut tick = |plane: &mut Plane| {
        for number in 0..total {
            let Some(step) = u64::checked_sub(clock, number * STEPS / TOGETHER) else { continue };
            if step == 0 {
                begin(plane, number);
            }
            if step < STEPS {
                SIDES.iter().for_each(|side| say(plane, number, *side, step * 160));
            }
            if step == STEPS {
                end(plane, number, STEPS * 160);
            }
        }
        clock += 1;
        clock <= total * STEPS / TOGETHER + STEPS
    };
    let mut goes_on = true;
    for kill in 0..50u64 {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "recordings::tests::as_a_child", "--nocapture"])
            .env(CHILD, home.home.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let is_ready = lines.map_while(Result::ok).any(|line| line.ends_with("ready"));
        assert!(is_ready, "it failed");
        for _ in 0..31 {
            goes_on = goes_on && tick(&mut plane);
        }
        plane.flush();
        std::thread::sleep(Duration::from_micros(kill * 7_919 % 17_000));
        assert!(child.try_wait().expect("a child").is_none(), "it failed");
        child.kill().expect("it runs");
        child.wait().expect("it runs");
    }
    assert!(!goes_on && plane.number > 20, "all is said, in {} segments", plane.number);
    plane.die();
    home.follower().look(&NEVER);
    (0..total).for_each(|number| check_whole(&home, number, STEPS * 160));
    assert_eq!(home.names("recordings").len() as u64, 2 * total, "{:?}", home.names("recordings"));
    assert_eq!(home.names("spool"), Vec::<String>::new());
}

#[test]
fn a_full_disk_delays_recordings_and_costs_none() {
    let home = Home::new();
    std::fs::create_dir(home.recordings()).expect("a directory");
    struct Mounted(PathBuf);
    impl Drop for Mounted {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg(&self.0).status();
        }
    }
    let mount = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=2m", "none"])
        .arg(home.recordings())
        .stderr(Stdio::null())
        .status();
    if !mount.is_ok_and(|status| status.success()) {
        eprintln!("skipped: mounting a small file system takes root");
        return;
    }
    let _mounted = Mounted(home.recordings());
    let filler = home.recordings().join("filler");
    std::fs::write(&filler, vec![0; 1_500_000]).expect("it fits");
    let mut plane = Plane::new(&home.spool(), 1, 256 << 10);
    let mut follower = home.follower();
    begin(&mut plane, 1);
    for step in 0..2_000 {
        SIDES.iter().for_each(|side| say(&mut plane, 1, *side, step * 160));
        if step % 100 == 0 {
            follower.look(&NEVER);
        }
    }
    end(&mut plane, 1, 2_000 * 160);
    plane.flush();
    follower.look(&NEVER);
    assert!(follower.has_failed);
    std::fs::remove_file(&filler).expect("it is there");
    for _ in 0..=RETRY_LOOKS {
        follower.look(&NEVER);
    }
    assert!(!follower.has_failed);
    check_whole(&home, 1, 2_000 * 160);
}

#[tokio::test]
async fn it_follows_until_it_is_told_to_stop() {
    let home = Home::new();
    let mut plane = Plane::new(&home.spool(), 1, 256 << 10);
    let (stop, stopped) = watch::channel(false);
    let config = Config { directory: home.recordings(), spools: vec![home.spool()] };
    let (_live, live) = watch::channel(Arc::default());
    let following = tokio::spawn(follow(config, live, stopped));
    begin(&mut plane, 1);
    end(&mut plane, 1, 0);
    plane.flush();
    let made = home.recordings().join("1001-1.wav");
    let wait = async {
        while !made.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("it is made");
    stop.send(true).expect("it listens");
    following.await.expect("it ends");
}
