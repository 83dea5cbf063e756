//! The machines one by one, the layer around them, and two layers over a network that loses.

mod garbage;
mod layer;
mod lossy;
mod machines;

use core::time::Duration;

use base::Instant;

use super::{Fired, Received, Sent, Transactions};
use crate::wire::{self, Message, Method};

/// The flow of most tests: a port is all there is of an address; from 60,000 on it is a stream's.
type Port = u16;

impl super::Hop for Port {
    fn is_reliable(self) -> bool {
        self >= 60_000
    }
}
type Out = Vec<Sent<Port>>;

const PEER: Port = 5060;

fn at_ms(ms: u64) -> Instant {
    Instant::from_nanos(ms * 1_000_000)
}

fn lex(bytes: &[u8]) -> Message<'_> {
    wire::lex(bytes).unwrap_or_else(|error| panic!("{error}: {}", text(bytes)))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn request(method: &str, branch: &str) -> Vec<u8> {
    format!(
        "{method} sip:1002.demo@192.0.2.2 SIP/2.0\r\n\
         Via: SIP/2.0/UDP 192.0.2.1:5070;rport;branch={branch}\r\n\
         Via: SIP/2.0/UDP 198.51.100.1;branch=z9hG4bKbelow\r\n\
         Max-Forwards: 70\r\n\
         Route: <sip:192.0.2.9;lr>, <sip:192.0.2.10;lr>\r\n\
         From: <sip:1001.demo@192.0.2.1>;tag=here\r\n\
         To: <sip:1002.demo@192.0.2.2>\r\n\
         Call-ID: a-call\r\n\
         CSeq: 7 {method}\r\n\
         Authorization: Digest username=\"1001.demo\"\r\n\
         Contact: <sip:1001.demo@192.0.2.1:5070>\r\n\
         Content-Length: 0\r\n\r\n"
    )
    .into_bytes()
}

fn response(request: &[u8], status: u16) -> Vec<u8> {
    let source = "192.0.2.1:5070".parse().expect("an address");
    let tag = (status > 100).then_some("there");
    wire::response(&lex(request), status, wire::reason_phrase(status), tag, source, &[], None)
}

/// Runs the timers up to `end`: the datagrams with the time that each was sent, and what fired.
fn run(layer: &mut Transactions<Port>, end: Instant) -> (Vec<(u64, String)>, Vec<Fired>) {
    let (mut sent, mut fired, mut out) = (Vec::new(), Vec::new(), Out::new());
    while let Some(now) = layer.deadline().filter(|&now| now <= end) {
        layer.timeouts(now, &mut out, &mut fired);
        sent.extend(out.drain(..).map(|datagram| (now.as_millis(), first_word(&datagram.bytes))));
    }
    (sent, fired)
}

/// The method of a request, the status of a response.
fn first_word(bytes: &[u8]) -> String {
    let message = lex(bytes);
    match message.status() {
        Some(status) => status.to_string(),
        None => text(message.method().expect("a request").as_bytes()),
    }
}

fn words(out: &Out) -> Vec<String> {
    out.iter().map(|datagram| first_word(&datagram.bytes)).collect()
}

fn method_of<'a>(bytes: &'a [u8]) -> Method<'a> {
    lex(bytes).method().expect("a request")
}

const LIFE: Duration = super::LIFE;
