//! What a trace shows of a message.

use std::net::SocketAddr;

use control_server::rfc3339;
use serde_json::{Value, json};
use sip::hep::Capture;
use sip::sdp;
use sip::wire::{Message, Start};

use super::lossy;

/// A message in brief.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Who sent it.
    pub from: SocketAddr,
    /// To whom.
    pub to: SocketAddr,
    /// When, in UTC.
    pub time: String,
    /// `udp` or `tcp`.
    pub transport: &'static str,
    /// The call's serial number; empty when it belongs to none.
    pub serial: String,
    /// A request's method.
    pub method: Option<String>,
    /// A response's status and reason.
    pub status: Option<(u16, String)>,
    /// The number and the method of CSeq.
    pub cseq: (u32, String),
    /// The direction of the described audio, or `SDP` for a description without audio.
    pub sdp: Option<&'static str>,
    /// The users of From and To.
    pub users: [String; 2],
    call_id: String,
    text: Value,
}

impl Shown {
    /// Of a copy and its message.
    pub fn new(capture: &Capture<'_>, message: &Message<'_>) -> Shown {
        let text = |bytes: &[u8]| clean(&String::from_utf8_lossy(bytes));
        let (method, status) = match message.start() {
            Start::Request { method, .. } => (Some(text(method.as_bytes())), None),
            Start::Response { status, reason } => (None, Some((status, text(reason)))),
        };
        let cseq = message.cseq().map(|cseq| (cseq.number, text(cseq.method.as_bytes())));
        let user = |address: Option<sip::wire::NameAddr<'_>>| {
            let uri = address.and_then(|address| address.parsed_uri().ok());
            uri.map(|uri| text(uri.user)).unwrap_or_default()
        };
        let unix_ms = u64::try_from(capture.at.as_millis()).unwrap_or(u64::MAX);
        Shown {
            from: capture.from,
            to: capture.to,
            time: rfc3339(unix_ms),
            transport: capture.transport.name(),
            serial: text(capture.correlation),
            method,
            status,
            cseq: cseq.unwrap_or_default(),
            sdp: direction(message),
            users: [user(message.from().ok()), user(message.to().ok())],
            call_id: text(message.call_id().unwrap_or_default()),
            text: lossy(capture.payload),
        }
    }

    /// All of it.
    pub fn json(&self) -> Value {
        json!({
            "time": self.time,
            "from": self.from,
            "to": self.to,
            "transport": self.transport,
            "serial": (!self.serial.is_empty()).then_some(&self.serial),
            "call_id": self.call_id,
            "method": self.method,
            "status": self.status.as_ref().map(|(status, _)| status),
            "reason": self.status.as_ref().map(|(_, reason)| reason),
            "cseq": format!("{} {}", self.cseq.0, self.cseq.1),
            "sdp": self.sdp,
            "message": self.text,
        })
    }

    /// The words on its arrow, in `room` characters: what it is, its CSeq, what it describes.
    pub fn words(&self, room: usize) -> String {
        let (head, mut tail) = match (&self.method, &self.status) {
            (Some(method), _) => (method.clone(), format!(" {}", self.cseq.0)),
            (None, Some((status, reason))) => {
                let (number, method) = &self.cseq;
                (format!("{status} {reason}"), format!(" ({number} {method})"))
            }
            (None, None) => (String::new(), String::new()),
        };
        match self.sdp {
            Some("sendrecv" | "SDP") => tail += " SDP",
            Some(direction) => tail += &format!(" SDP {direction}"),
            None => {}
        }
        // A long reason gives way.
        let left = room.saturating_sub(tail.chars().count());
        let head = if head.chars().count() > left {
            head.chars().take(left.saturating_sub(1)).chain(['…']).collect()
        } else {
            head
        };
        (head + &tail).chars().take(room).collect()
    }
}

/// Without what a terminal would obey.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn direction(message: &Message<'_>) -> Option<&'static str> {
    let is_sdp = message.content_type()?.eq_ignore_ascii_case(b"application/sdp");
    if !is_sdp || message.body().is_empty() {
        return None;
    }
    let parsed = sdp::parse(message.body()).ok();
    let audio = parsed.as_ref().and_then(|parsed| sdp::audio(parsed).ok());
    Some(audio.map_or("SDP", |audio| audio.direction.name()))
}
