//! Streams through an rtpengine, made by its ng protocol: a cookie and a bencoded dictionary in a
//! datagram, and the same back.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use sip::sdp::{self, Codec, Direction, Own};

/// How long one answer may take, and how often it is asked for.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
const TRIES: u32 = 3;
/// The largest answer.
const ANSWER_BYTES: usize = 16_384;
/// Bencoded values within values.
const DEPTH: u32 = 16;

/// The way to rtpengine, and the calls that were made.
pub struct Ng {
    socket: UdpSocket,
    cookie: u64,
    calls: Vec<String>,
}

impl Ng {
    /// Nothing is sent yet.
    pub fn new(engine: SocketAddr) -> Result<Ng, String> {
        let any = if engine.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let failed = |error: std::io::Error| format!("{engine}: {error}");
        let socket = UdpSocket::bind(any).map_err(failed)?;
        socket.connect(engine).map_err(failed)?;
        socket.set_read_timeout(Some(ANSWER_LIMIT)).map_err(failed)?;
        Ok(Ng { socket, cookie: u64::from(std::process::id()) << 32, calls: Vec::new() })
    }

    /// An address of this machine from which rtpengine is reached.
    pub fn own(&self) -> Result<SocketAddr, String> {
        self.socket.local_addr().map_err(|error| error.to_string())
    }

    /// A call between these two; where the one and where the other sends to.
    pub fn call(
        &mut self,
        one: SocketAddr,
        other: SocketAddr,
    ) -> Result<(SocketAddr, SocketAddr), String> {
        let name = format!("load-{:x}", self.cookie);
        self.calls.push(name.clone());
        let (first, second) = (describe(one), describe(other));
        let tags = [("call-id", name.as_str()), ("from-tag", "a"), ("ICE", "remove")];
        let offer = [&tags[..], &[("command", "offer"), ("sdp", &first)]].concat();
        let for_other = self.ask(&offer)?;
        let answer =
            [&tags[..], &[("to-tag", "b"), ("command", "answer"), ("sdp", &second)]].concat();
        let for_one = self.ask(&answer)?;
        Ok((address(&for_one)?, address(&for_other)?))
    }

    /// Ends all calls.
    pub fn end(&mut self) -> Result<(), String> {
        for name in std::mem::take(&mut self.calls) {
            self.ask(&[("call-id", &name), ("from-tag", "a"), ("command", "delete")])?;
        }
        Ok(())
    }

    fn ask(&mut self, fields: &[(&str, &str)]) -> Result<BTreeMap<String, Vec<u8>>, String> {
        self.cookie += 1;
        let cookie = format!("{:x} ", self.cookie);
        let request = [cookie.as_bytes(), &dictionary(fields)].concat();
        let mut buffer = vec![0; ANSWER_BYTES];
        for _ in 0..TRIES {
            self.socket.send(&request).map_err(|error| format!("ng: {error}"))?;
            // The answer to an earlier try may come first; its cookie is another.
            while let Ok(length) = self.socket.recv(&mut buffer) {
                if let Some(body) = buffer[..length].strip_prefix(cookie.as_bytes()) {
                    return success(read_dictionary(body).ok_or("ng: an answer is garbled")?);
                }
            }
        }
        Err("ng: rtpengine does not answer".to_owned())
    }
}

fn success(fields: BTreeMap<String, Vec<u8>>) -> Result<BTreeMap<String, Vec<u8>>, String> {
    match fields.get("result").map(Vec::as_slice) {
        Some(b"ok") => Ok(fields),
        _ => {
            let why = fields.get("error-reason").cloned().unwrap_or_default();
            Err(format!("ng: refused: {}", String::from_utf8_lossy(&why)))
        }
    }
}

fn describe(at: SocketAddr) -> String {
    let own = Own {
        address: at.ip(),
        port: at.port(),
        session_id: u64::from(at.port()),
        version: 1,
        direction: Direction::SendRecv,
        codecs: &[Codec::Pcma],
    };
    String::from_utf8_lossy(&sdp::offer(&own)).into_owned()
}

fn address(fields: &BTreeMap<String, Vec<u8>>) -> Result<SocketAddr, String> {
    let text = fields.get("sdp").ok_or("ng: an answer without sdp")?;
    let parsed = sdp::parse(text).map_err(|error| format!("ng: its sdp: {error}"))?;
    Ok(sdp::audio(&parsed).map_err(|error| format!("ng: its sdp: {error}"))?.address)
}

fn dictionary(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut sorted = fields.to_vec();
    sorted.sort_unstable();
    let string = |text: &str| format!("{}:{text}", text.len());
    let inner: String = sorted.iter().map(|(key, value)| string(key) + &string(value)).collect();
    format!("d{inner}e").into_bytes()
}

/// The texts of a dictionary; what is not a text is skipped.
fn read_dictionary(bytes: &[u8]) -> Option<BTreeMap<String, Vec<u8>>> {
    let mut rest = bytes.strip_prefix(b"d")?;
    let mut fields = BTreeMap::new();
    while !rest.starts_with(b"e") {
        let (key, after) = read_text(rest)?;
        rest = if after.first()?.is_ascii_digit() {
            let (value, after) = read_text(after)?;
            fields.insert(String::from_utf8_lossy(key).into_owned(), value.to_vec());
            after
        } else {
            skip(after, DEPTH)?
        };
    }
    Some(fields)
}

fn read_text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = bytes.iter().position(|byte| *byte == b':')?;
    let length: usize = std::str::from_utf8(&bytes[..colon]).ok()?.parse().ok()?;
    let rest = &bytes[colon + 1..];
    (length <= rest.len()).then(|| rest.split_at(length))
}

fn skip(bytes: &[u8], depth: u32) -> Option<&[u8]> {
    match bytes.first()? {
        b'i' => {
            let end = bytes.iter().position(|byte| *byte == b'e')?;
            Some(&bytes[end + 1..])
        }
        b'l' | b'd' if depth > 0 => {
            let mut rest = &bytes[1..];
            while !rest.starts_with(b"e") {
                rest = skip(rest, depth - 1)?;
            }
            Some(&rest[1..])
        }
        byte if byte.is_ascii_digit() => read_text(bytes).map(|(_, rest)| rest),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let bytes = dictionary(&[("sdp", "v=0\r\n"), ("result", "ok")]);
        assert_eq!(bytes, b"d6:result2:ok3:sdp5:v=0\r\ne");
        let fields = read_dictionary(&bytes).unwrap();
        assert_eq!((fields["result"].as_slice(), fields["sdp"].len()), (&b"ok"[..], 5));
    }

    #[test]
    fn other_values_are_skipped_and_garbage_is_refused() {
        let fields = read_dictionary(b"d1:ai5e1:bl1:xd1:yi-1eee1:c2:oke").unwrap();
        assert_eq!(fields.len(), 1);
        assert_eq!(fields["c"], b"ok");
        for bytes in [&b""[..], b"d", b"d1:a", b"d1:a9:xe", b"d1:alle", b"x", b"d1:ai5", b"d:e"] {
            assert_eq!(read_dictionary(bytes), None, "{bytes:?}");
        }
    }
}
