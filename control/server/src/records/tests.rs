use super::*;
use base::{Instant, TenantId};
use control_core::Ender;
use serde_json::Value;

/// A call of two legs that ended on a second of its own.
fn record(slot: u32) -> Box<CallRecord> {
    let second = |n: u64| Instant::from_nanos(n * 1_000_000_000);
    let leg = |number: u32| LegRecord {
        leg: number,
        number: format!("100{}", number + 1),
        party: "agent",
        call_id: format!("{slot}-{number}@phone"),
        codec: "PCMU/8000".into(),
        started_at: second(10 + u64::from(number)),
        answered_at: Some(second(14)),
        ended_at: Some(second(20)),
        packets_in: 100 + u64::from(number),
        packets_out: 101 - u64::from(number),
        bytes_in: 17_200 + u64::from(number),
        jitter_us: 1_500,
        mos_hundredths: 437,
        ..LegRecord::default()
    };
    Box::new(CallRecord {
        ccb: CcbId(1),
        incarnation: 3,
        call: CallRef { slot, generation: 1 },
        serial: 100 + u64::from(slot),
        called: "1002".into(),
        tenant: TenantId(1),
        tenant_name: "demo".into(),
        cause: 0,
        ended_by: Some(Ender::Callee),
        started_at: second(10),
        answered_at: Some(second(14)),
        ended_at: second(20),
        peer_serial: None,
        legs: vec![leg(0), leg(1)],
    })
}

fn lines(folder: &Path) -> Vec<Value> {
    let path = folder.join(format!("{}{ENDING}", today()));
    let text = std::fs::read_to_string(path).expect("it is there");
    assert!(text.is_empty() || text.ends_with('\n'), "whole lines: {text:?}");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// The slots and legs that have lines.
fn written(folder: &Path) -> Vec<(String, u64)> {
    let key = |line: Value| Some((line["call"].as_str()?.to_owned(), line["leg"].as_u64()?));
    lines(folder).into_iter().filter_map(key).collect()
}

fn expected(slots: &[u32]) -> Vec<(String, u64)> {
    slots.iter().flat_map(|slot| [0, 1].map(|leg| (format!("{slot}.1"), leg))).collect()
}

/// Writes calls as a process does that ends in order.
fn write(folder: &Path, slots: &[u32]) {
    let (done, told) = channel();
    let state = Arc::new(RecordState::default());
    let recorded = move |calls: Vec<(CcbId, CallRef)>| {
        calls.iter().for_each(|(_, call)| done.send(call.slot).expect("it is waited for"));
    };
    let sender = start(folder, state, recorded).expect("it opens");
    for slot in slots {
        sender.send(record(*slot));
        assert_eq!(told.recv(), Ok(*slot));
    }
}

#[test]
fn each_leg_has_a_line_with_times_cause_codec_and_both_directions() {
    let temp = tempfile::tempdir().expect("a folder");
    write(temp.path(), &[7]);
    let lines = lines(temp.path());
    assert_eq!(lines.len(), 2);
    let line = &lines[1];
    for (name, value) in serde_json::json!({
        "serial": "00000000000000000107", "leg": 1, "ccb": 1, "call": "7.1", "tenant": "demo",
        "direction": "out", "party": "agent", "agent": "1002", "trunk": null, "number": "1002",
        "caller": "1001", "called": "1002", "sip_call_id": "7-1@phone", "ring_ms": 3_000,
        "talk_ms": 6_000, "duration_ms": 9_000, "cause": 0, "ended_by": "callee",
        "codec": "PCMU/8000", "round_trip_ms": null, "path": "none",
        "in": {"packets": 101, "bytes": 17_201, "lost": 0, "jitter_ms": 1.5, "mos": 4.37},
        "out": {"packets": 100, "bytes": 17_200, "reported_loss": 0.0},
    })
    .as_object()
    .expect("an object")
    {
        assert_eq!(&line[name], value, "{name}");
    }
    for time in ["started", "answered", "ended"] {
        let text = line[time].as_str().expect("a time");
        assert!(text.len() == 24 && text.ends_with('Z'), "{text}");
    }
    assert_eq!(lines[0]["direction"], "in");
    assert!(line["blade"].as_str().is_some_and(|blade| !blade.is_empty()));
}

#[test]
fn a_line_is_written_once_also_over_a_restart_and_after_half_a_line() {
    let temp = tempfile::tempdir().expect("a folder");
    write(temp.path(), &[1, 2]);
    let path = temp.path().join(format!("{}{ENDING}", today()));
    let whole = std::fs::read(&path).expect("it is there");
    // Killed in mid-write of a call's second leg: the first is whole, and the row not acknowledged.
    let mut half = Vec::new();
    push_leg_line(&mut half, "blade", &record(3), &record(3).legs[0]).expect("it is text");
    let mut torn = [&whole[..], &half, b"\n"].concat();
    torn.extend(&half[..half.len() / 2]);
    std::fs::write(&path, torn).expect("it is written");
    write(temp.path(), &[2, 3, 4]);
    assert_eq!(written(temp.path()), expected(&[1, 2, 3, 4]));
}

#[test]
fn what_the_last_day_that_has_a_file_holds_is_not_written_again() {
    let temp = tempfile::tempdir().expect("a folder");
    write(temp.path(), &[1, 2]);
    let path = temp.path().join(format!("{}{ENDING}", today()));
    std::fs::rename(&path, temp.path().join("2026-01-31.jsonl")).expect("it is renamed");
    // Names of others are left alone.
    std::fs::write(temp.path().join("notes.jsonl"), "half a line").expect("it is written");
    write(temp.path(), &[2, 3]);
    assert_eq!(written(temp.path()), expected(&[3]));
    let notes = std::fs::read_to_string(temp.path().join("notes.jsonl")).expect("it is there");
    assert_eq!(notes, "half a line");
}

#[test]
fn a_file_that_is_moved_away_is_followed_by_a_new_one() {
    let temp = tempfile::tempdir().expect("a folder");
    let mut folder = Folder::open(temp.path()).expect("it opens");
    assert_eq!(folder.write(&[record(1)]).expect("it is written"), 2);
    let path = temp.path().join(format!("{}{ENDING}", today()));
    std::fs::rename(&path, temp.path().join("old")).expect("it is renamed");
    assert_eq!(folder.write(&[record(2)]).expect("it is written"), 2);
    assert_eq!(written(temp.path()), expected(&[2]));
}

#[test]
fn what_a_failed_write_left_is_cut_off_before_the_next() {
    let temp = tempfile::tempdir().expect("a folder");
    let mut folder = Folder::open(temp.path()).expect("it opens");
    folder.write(&[record(1)]).expect("it is written");
    // As a full disk leaves it when the file cannot be cut either.
    let day = folder.day.as_mut().expect("it is open");
    day.file.write_all(b"{\"serial\":\"ha").expect("it is written");
    folder.write(&[record(2)]).expect("it is written");
    assert_eq!(written(temp.path()), expected(&[1, 2]));
}

#[test]
fn a_call_whose_legs_are_unknown_has_a_line_too() {
    let temp = tempfile::tempdir().expect("a folder");
    let mut folder = Folder::open(temp.path()).expect("it opens");
    let call = Box::new(CallRecord { legs: Vec::new(), ..*record(5) });
    assert_eq!(folder.write(&[call]).expect("it is written"), 1);
    assert_eq!(written(temp.path()), [("5.1".to_owned(), 0)]);
    assert_eq!(lines(temp.path())[0]["duration_ms"], 10_000);
}

/// The disk is full, the row waits; the disk has room again, and the line is written once.
#[test]
fn a_full_disk_keeps_the_rows_waiting_and_calls_go_on() {
    let temp = tempfile::tempdir().expect("a folder");
    let (done, told) = channel();
    let state = Arc::new(RecordState::default());
    let recorded = move |calls: Vec<(CcbId, CallRef)>| {
        let slots: Vec<u32> = calls.iter().map(|(_, call)| call.slot).collect();
        done.send(slots).expect("it is waited for");
    };
    let sender = start(temp.path(), Arc::clone(&state), recorded).expect("it opens");
    // A file that nobody can open, not even root: a folder has its name.
    let path = temp.path().join(format!("{}{ENDING}", today()));
    std::fs::remove_file(&path).expect("it is there");
    std::fs::create_dir(&path).expect("it is made");
    for slot in [1, 2, 3] {
        sender.send(record(slot));
    }
    assert_eq!(told.recv_timeout(Duration::from_millis(700)), Err(RecvTimeoutError::Timeout));
    assert!(state.is_failing.load(Ordering::Relaxed));
    assert!(state.failed.load(Ordering::Relaxed) >= 1);
    assert_eq!(state.waiting.load(Ordering::Relaxed), 3);
    std::fs::remove_dir(&path).expect("it is removed");
    assert_eq!(told.recv(), Ok(vec![1, 2, 3]), "once for all of them");
    assert_eq!(written(temp.path()), expected(&[1, 2, 3]));
    assert!(!state.is_failing.load(Ordering::Relaxed));
    assert_eq!(state.waiting.load(Ordering::Relaxed), 0);
}
