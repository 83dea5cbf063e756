//! Call records: a line of JSON for each finished call. The row of a call is given back only when its
//! line is written, so a call is lost by no restart; a line that is there already is not written again.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use base::{CallRef, CcbId};
use control_core::CallRecord;
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
        Ok(CallFile { written: ids.collect(), file })
    }

    fn append(&mut self, record: &CallRecord) -> io::Result<()> {
        if self.written.remove(&id_of(record)) {
            return Ok(());
        }
        let mut line = json_of(record).to_string();
        line.push('\n');
        self.file.write_all(line.as_bytes())
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
