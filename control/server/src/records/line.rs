//! What a record says, as JSON.

use std::io;
use std::net::SocketAddr;

use control_core::{CallRecord, LegRecord, path_name, reason_name};
use serde::Serialize;
use serde_json::{Value, json};

use crate::clock;

/// A call's serial number as it is written everywhere: 20 digits (G-16).
pub fn serial_text(serial: u64) -> String {
    format!("{serial:020}")
}

/// What tells the legs of all calls apart, over all restarts: the CCB, the call's serial number and the
/// leg's number.
pub type LegKey = (u64, String, u64);

/// The key of a leg.
pub fn key_of(record: &CallRecord, leg: &LegRecord) -> LegKey {
    (u64::from(record.ccb.0), serial_text(record.serial), u64::from(leg.leg))
}

/// The key that a line holds; none when it is no record.
pub fn key_in(line: &[u8]) -> Option<LegKey> {
    let line: Value = serde_json::from_slice(line).ok()?;
    let serial = line["serial"].as_str()?.to_owned();
    Some((line["ccb"].as_u64()?, serial, line["leg"].as_u64()?))
}

/// A line, in the order that it is written in.
#[derive(Serialize)]
struct Line<'a> {
    serial: &'a str,
    leg: u32,
    blade: &'a str,
    ccb: u16,
    incarnation: u64,
    call: &'a str,
    tenant: &'a str,
    direction: &'a str,
    party: &'a str,
    agent: Option<&'a str>,
    trunk: Option<&'a str>,
    peer_ccb: Option<u16>,
    hosted_by: Option<Value>,
    number: &'a str,
    caller: Option<&'a str>,
    called: &'a str,
    sip_call_id: &'a str,
    location: &'a str,
    started: String,
    answered: Option<String>,
    ended: String,
    ring_ms: u64,
    talk_ms: u64,
    duration_ms: u64,
    cause: u32,
    ended_by: Option<&'a str>,
    codec: Option<&'a str>,
    #[serde(rename = "in")]
    heard: Heard,
    #[serde(rename = "out")]
    said: Said,
    round_trip_ms: Option<f64>,
    foreign: u64,
    path: &'a str,
    path_reason: &'a str,
    rtp_port: u32,
    media: Option<SocketAddr>,
}

/// What came from the party.
#[derive(Serialize)]
struct Heard {
    packets: u64,
    bytes: u64,
    lost: u64,
    jitter_ms: f64,
    mos: Option<f64>,
}

/// What went to it.
#[derive(Serialize)]
struct Said {
    packets: u64,
    bytes: Option<u64>,
    reported_loss: f64,
}

/// Appends the line of one leg of a call that is over, without its end; `blade` is this machine's name.
pub fn push_leg_line(
    text: &mut Vec<u8>,
    blade: &str,
    record: &CallRecord,
    leg: &LegRecord,
) -> io::Result<()> {
    let caller = record.legs.iter().find(|leg| leg.leg == 0);
    let started = if leg.started_at.as_nanos() == 0 { record.started_at } else { leg.started_at };
    let ended = leg.ended_at.unwrap_or(record.ended_at);
    let line = Line {
        serial: &serial_text(record.serial),
        leg: leg.leg,
        blade,
        ccb: record.ccb.0,
        incarnation: record.incarnation,
        call: &record.call.to_string(),
        tenant: &record.tenant_name,
        direction: if leg.leg == 0 { "in" } else { "out" },
        party: leg.party,
        agent: (leg.party == "agent").then_some(&leg.number),
        trunk: leg.trunk.as_deref(),
        peer_ccb: leg.peer.map(|ccb| ccb.0),
        hosted_by: hosted_by(record),
        number: &leg.number,
        caller: caller.map(|caller| &*caller.number),
        called: &record.called,
        sip_call_id: &leg.call_id,
        location: &leg.location,
        started: rfc3339(clock::unix_ms(started)),
        answered: leg.answered_at.map(|at| rfc3339(clock::unix_ms(at))),
        ended: rfc3339(clock::unix_ms(ended)),
        ring_ms: ms(leg.answered_at.unwrap_or(ended).since(started)),
        talk_ms: leg.answered_at.map_or(0, |at| ms(ended.since(at))),
        duration_ms: ms(ended.since(started)),
        cause: record.cause,
        ended_by: record.ended_by.map(|by| by.name()),
        codec: (!leg.codec.is_empty()).then_some(&leg.codec),
        heard: Heard {
            packets: leg.packets_in,
            bytes: leg.bytes_in,
            lost: leg.lost,
            jitter_ms: f64::from(leg.jitter_us) / 1e3,
            mos: mos(leg),
        },
        said: Said {
            packets: leg.packets_out,
            bytes: record.bytes_out(leg),
            reported_loss: f64::from(leg.reported_loss) / 256.0,
        },
        round_trip_ms: (leg.round_trip_us != 0).then(|| f64::from(leg.round_trip_us) / 1e3),
        foreign: leg.foreign,
        path: path_name(leg.path),
        path_reason: reason_name(leg.path_reason),
        rtp_port: leg.rtp_port,
        media: leg.media,
    };
    serde_json::to_writer(text, &line).map_err(io::Error::other)
}

/// The CCB that hosted our agent for this call, and the call's serial number there (S2-013).
fn hosted_by(record: &CallRecord) -> Option<Value> {
    let ccb = record.legs.iter().find(|leg| leg.leg == 0)?.peer?;
    Some(json!({ "ccb": ccb.0, "serial": record.peer_serial.map(serial_text) }))
}

/// A call as `jackfield calls` shows it: one that stands, or one whose record is not written yet.
pub fn call_json(record: &CallRecord) -> Value {
    let legs = record.legs.iter().map(|leg| {
        json!({
            "leg": leg.leg,
            "party": leg.party,
            "peer_ccb": leg.peer.map(|ccb| ccb.0),
            "number": leg.number,
            "agent": leg.login.map(|login| login.agent),
            "location": leg.location,
            "codec": (!leg.codec.is_empty()).then_some(&leg.codec),
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
            "mos": mos(leg),
            "reported_loss": f64::from(leg.reported_loss) / 256.0,
        })
    });
    let is_over = record.ended_at > record.started_at;
    let end = if is_over { record.ended_at } else { clock::now() };
    json!({
        "ccb": record.ccb.0,
        "call": record.call.to_string(),
        "serial": serial_text(record.serial),
        "called": record.called,
        "tenant": record.tenant.0,
        "cause": record.cause,
        "started_unix_ms": clock::unix_ms(record.started_at),
        "answered_unix_ms": record.answered_at.map(clock::unix_ms),
        "ended_unix_ms": is_over.then(|| clock::unix_ms(record.ended_at)),
        "duration_ms": ms(end.since(record.started_at)),
        "talk_ms": record.answered_at.map_or(0, |at| ms(end.since(at))),
        "legs": legs.collect::<Vec<_>>(),
    })
}

fn mos(leg: &LegRecord) -> Option<f64> {
    (leg.mos_hundredths != 0).then(|| f64::from(leg.mos_hundredths) / 100.0)
}

fn ms(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A moment in UTC as RFC 3339 writes it, with milliseconds; `unix_ms` is since 1970.
pub fn rfc3339(unix_ms: u64) -> String {
    let (seconds, ms) = (unix_ms / 1_000, unix_ms % 1_000);
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z", date(unix_ms))
}

/// The day of a moment in UTC, as `2026-01-31`; `unix_ms` is since 1970.
pub fn date(unix_ms: u64) -> String {
    let days = unix_ms / 86_400_000;
    // Years that begin in March, so that a leap day is the last: 400 of them are 146,097 days, and the
    // first such age that counts began on 1 March of the year 0, 719,468 days before 1970.
    let day = days + 719_468;
    let (age, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    format!("{:04}-{month:02}-{day:02}", age * 400 + year + next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_rfc_3339_says() {
        for (unix_s, text) in [
            (0, "1970-01-01T00:00:00.007Z"),
            (951_782_399, "2000-02-28T23:59:59.007Z"),
            (951_782_400, "2000-02-29T00:00:00.007Z"),
            (951_868_800, "2000-03-01T00:00:00.007Z"),
            (1_709_164_800, "2024-02-29T00:00:00.007Z"),
            (1_735_689_599, "2024-12-31T23:59:59.007Z"),
            (1_735_689_600, "2025-01-01T00:00:00.007Z"),
            (1_772_323_199, "2026-02-28T23:59:59.007Z"),
            (1_772_323_200, "2026-03-01T00:00:00.007Z"),
            (4_107_542_400, "2100-03-01T00:00:00.007Z"),
        ] {
            assert_eq!(rfc3339(unix_s * 1_000 + 7), text);
        }
    }
}
