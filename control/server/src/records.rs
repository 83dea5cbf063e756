//! Call records: a line of JSON for each finished call. The row of a call is given back only when its
//! line is written, so a call is lost by no restart; a line that is there already is not written again.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use base::{CallRef, CcbId};
use control_core::{CallRecord, path_name, reason_name};
use serde_json::{Value, json};

use crate::clock;

/// How much of the file's end is searched for lines whose acknowledgement was cut short.
const TAIL_BYTES: u64 = 4 << 20;
/// How long a write that failed (a full disk) waits for the next try.
const RETRY_MS: u64 = 1_000;

/// Where records are handed in.
pub type RecordSender = Sender<Box<CallRecord>>;

struct CallFile {
    file: File,
    /// The ids of the lines at the end of the file when it was opened.
    written: HashSet<String>,
    /// How long the file was before a write that failed and may have left half a line.
    torn: Option<u64>,
    path: PathBuf,
}

/// Opens `calls.jsonl` and starts the thread that writes to it; `recorded` is called for each record
/// when it is safe. The thread ends when the sender is dropped.
pub fn start(
    path: &Path,
    recorded: impl Fn(CcbId, CallRef) + Send + 'static,
) -> io::Result<RecordSender> {
    let mut calls = CallFile::open(path)?;
    let (sender, receiver): (RecordSender, Receiver<Box<CallRecord>>) = channel();
    std::thread::Builder::new().name("call-records".into()).spawn(move || {
        while let Ok(record) = receiver.recv() {
            while let Err(error) = calls.append(&record) {
                tracing::error!(%error, "a call record cannot be written; trying again");
                std::thread::sleep(Duration::from_millis(RETRY_MS));
            }
            recorded(record.ccb, record.call);
        }
    })?;
    Ok(sender)
}

impl CallFile {
    fn open(path: &Path) -> io::Result<CallFile> {
        let mut file =
            OpenOptions::new().read(true).append(true).create(true).mode(0o640).open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut tail = Vec::new();
        file.read_to_end(&mut tail)?;
        // A writer that was killed may have left half a line.
        if tail.last().is_some_and(|byte| *byte != b'\n') {
            file.write_all(b"\n")?;
        }
        let lines = tail.split(|byte| *byte == b'\n');
        let ids = lines.filter_map(|line| {
            let line: Value = serde_json::from_slice(line).ok()?;
            line.get("id")?.as_str().map(str::to_owned)
        });
        Ok(CallFile { written: ids.collect(), file, torn: None, path: path.to_owned() })
    }

    fn append(&mut self, record: &CallRecord) -> io::Result<()> {
        if self.written.remove(&id_of(record)) {
            return Ok(());
        }
        let mut line = json_of(record).to_string();
        line.push('\n');
        self.follow()?;
        if let Some(length) = self.torn {
            self.file.set_len(length)?;
            self.torn = None;
        }
        let length = self.file.metadata()?.len();
        let written = self.file.write_all(line.as_bytes());
        if written.is_err() {
            self.torn = Some(length);
            // When this fails, too, the next try begins with it.
            if self.file.set_len(length).is_ok() {
                self.torn = None;
            }
        }
        written
    }

    /// Opens the file anew when it is another one by now, or none: logs are rotated by a rename.
    fn follow(&mut self) -> io::Result<()> {
        let held = self.file.metadata()?;
        let is_ours = match std::fs::metadata(&self.path) {
            Ok(found) => (found.dev(), found.ino()) == (held.dev(), held.ino()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        if !is_ours {
            let fresh = CallFile::open(&self.path)?;
            self.written.extend(fresh.written);
            (self.file, self.torn) = (fresh.file, None);
        }
        Ok(())
    }
}

/// Names a call over all restarts.
fn id_of(record: &CallRecord) -> String {
    format!("{}-{}-{}-{}", record.ccb, record.incarnation, record.call, record.serial)
}

/// A call's serial number as it is written everywhere: 20 digits (G-16).
pub fn serial_text(serial: u64) -> String {
    format!("{serial:020}")
}

/// A record, or a call that stands, as JSON.
pub fn json_of(record: &CallRecord) -> Value {
    let legs = record.legs.iter().map(|leg| {
        json!({
            "leg": leg.leg,
            "party": leg.party,
            "number": leg.number,
            "agent": leg.login.map(|login| login.agent),
            "location": leg.location,
            "rtp_port": leg.rtp_port,
            "media": leg.media.map(|media| media.to_string()),
            "packets_in": leg.packets_in,
            "packets_out": leg.packets_out,
            "lost": leg.lost,
            "foreign": leg.foreign,
            "path": path_name(leg.path),
            "path_reason": reason_name(leg.path_reason),
            "jitter_us": leg.jitter_us,
            "round_trip_us": (leg.round_trip_us != 0).then_some(leg.round_trip_us),
            "mos": (leg.mos_hundredths != 0).then(|| f64::from(leg.mos_hundredths) / 100.0),
            "reported_loss": f64::from(leg.reported_loss) / 256.0,
        })
    });
    let is_over = record.ended_at > record.started_at;
    let end = if is_over { record.ended_at } else { clock::now() };
    let talk = record.answered_at.map_or(0, |at| end.since(at).as_millis());
    json!({
        "id": id_of(record),
        "ccb": record.ccb.0,
        "call": record.call.to_string(),
        "serial": serial_text(record.serial),
        "called": record.called,
        "tenant": record.tenant.0,
        "cause": record.cause,
        "started_unix_ms": clock::unix_ms(record.started_at),
        "answered_unix_ms": record.answered_at.map(clock::unix_ms),
        "ended_unix_ms": is_over.then(|| clock::unix_ms(record.ended_at)),
        "duration_ms": u64::try_from(end.since(record.started_at).as_millis()).unwrap_or(u64::MAX),
        "talk_ms": u64::try_from(talk).unwrap_or(u64::MAX),
        "legs": legs.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::{Instant, TenantId};

    fn record(slot: u32) -> Box<CallRecord> {
        Box::new(CallRecord {
            ccb: CcbId(1),
            incarnation: 3,
            call: CallRef { slot, generation: 1 },
            serial: 99,
            called: "1002".into(),
            tenant: TenantId(1),
            cause: 0,
            started_at: Instant::from_nanos(1),
            answered_at: None,
            ended_at: Instant::from_nanos(2),
            legs: Vec::new(),
        })
    }

    #[test]
    fn a_file_that_was_renamed_away_is_followed_by_a_new_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("calls.jsonl");
        let mut calls = CallFile::open(&path).expect("it opens");
        calls.append(&record(1)).expect("it is written");
        let old = folder.path().join("calls.jsonl.1");
        std::fs::rename(&path, &old).expect("it is renamed");
        calls.append(&record(2)).expect("it is written");
        let lines = |path: &Path| {
            let text = std::fs::read_to_string(path).expect("it is there");
            text.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!((lines(&old).len(), lines(&path).len()), (1, 1));
        assert!(lines(&path)[0].contains("\"call\":\"2.1\""));
    }

    #[test]
    fn half_a_line_of_a_write_that_failed_is_cut_off_before_the_next() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("calls.jsonl");
        let mut calls = CallFile::open(&path).expect("it opens");
        calls.append(&record(1)).expect("it is written");
        let whole = std::fs::metadata(&path).expect("it is there").len();
        // As a full disk leaves it when the file cannot be cut either.
        calls.file.write_all(b"{\"id\":\"ha").expect("it is written");
        calls.torn = Some(whole);
        calls.append(&record(2)).expect("it is written");
        let text = std::fs::read_to_string(&path).expect("it is there");
        assert_eq!(text.lines().count(), 2);
        assert!(text.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{text}");
    }

    fn write(path: &Path, slots: &[u32]) {
        let (done, told) = channel();
        let sender = start(path, move |_, call| done.send(call.slot).expect("it is waited for"));
        let sender = sender.expect("it opens");
        for slot in slots {
            sender.send(record(*slot)).expect("the thread runs");
            assert_eq!(told.recv(), Ok(*slot));
        }
    }

    #[test]
    fn a_line_is_written_once_also_over_a_restart_and_after_half_a_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("calls.jsonl");
        write(&path, &[1, 2]);
        let mut file = OpenOptions::new().append(true).open(&path).expect("it is there");
        file.write_all(b"{\"id\":\"cut").expect("it is written");
        write(&path, &[2, 3]);
        let text = std::fs::read_to_string(&path).expect("it is there");
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let calls: Vec<_> = lines.map(|line| line["call"].as_str().map(str::to_owned)).collect();
        let expected = ["1.1", "2.1", "3.1"].map(|call| Some(call.to_owned()));
        assert_eq!(calls, expected);
    }
}
