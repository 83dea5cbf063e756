//! NATS alone: a request and its reply between two connections, without anything of ours.

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// As long as a request for a lease, and its grant, are about.
const REQUEST: [u8; 300] = [b'q'; 300];
const REPLY: [u8; 420] = [b'a'; 420];
const LIMIT: Duration = Duration::from_secs(2);

/// One connection that speaks the protocol as far as is needed here.
struct Line {
    reader: BufReader<TcpStream>,
}

/// A message that came: where its reply goes.
struct Message {
    reply: String,
}

impl Line {
    fn open(server: &str, subject: &str) -> Result<Line, String> {
        let failed = |error: std::io::Error| format!("NATS at {server}: {error}");
        let stream = TcpStream::connect(server).map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        stream.set_read_timeout(Some(LIMIT)).map_err(failed)?;
        let mut line = Line { reader: BufReader::new(stream) };
        line.line()?;
        line.write(b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\n")?;
        line.write(format!("SUB {subject} 1\r\nPING\r\n").as_bytes())?;
        // The subscription stands when the server answers what came after it.
        while line.line()? != "PONG" {}
        Ok(line)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.reader.get_mut().write_all(bytes).map_err(|error| format!("NATS: {error}"))
    }

    fn line(&mut self) -> Result<String, String> {
        let mut text = String::new();
        match self.reader.read_line(&mut text) {
            Ok(0) => Err("NATS closed the connection".to_owned()),
            Ok(_) => Ok(text.trim_end().to_owned()),
            Err(error) => Err(format!("NATS: {error}")),
        }
    }

    fn publish(&mut self, subject: &str, reply: &str, body: &[u8]) -> Result<(), String> {
        let reply = if reply.is_empty() { String::new() } else { format!("{reply} ") };
        let mut bytes = format!("PUB {subject} {reply}{}\r\n", body.len()).into_bytes();
        bytes.extend_from_slice(body);
        bytes.extend_from_slice(b"\r\n");
        self.write(&bytes)
    }

    fn message(&mut self) -> Result<Message, String> {
        loop {
            let line = self.line()?;
            let words: Vec<&str> = line.split(' ').collect();
            match words.as_slice() {
                ["PING"] => self.write(b"PONG\r\n")?,
                ["MSG", _, _, rest @ .., length] => {
                    let length: usize = length.parse().map_err(|_| format!("NATS says {line}"))?;
                    let reply = rest.first().map(|reply| (*reply).to_owned()).unwrap_or_default();
                    let mut body = vec![0; length + 2];
                    self.reader.read_exact(&mut body).map_err(|error| format!("NATS: {error}"))?;
                    return Ok(Message { reply });
                }
                _ => {}
            }
        }
    }
}

/// Asks so many times, `every` so often, and returns how long each took, the shortest first.
pub fn rounds(server: &str, count: usize, every: Duration) -> Result<Vec<Duration>, String> {
    let mut answers = Line::open(server, "bare.home")?;
    let mut asks = Line::open(server, "bare.asker")?;
    let over = Arc::new(AtomicBool::new(false));
    let is_over = Arc::clone(&over);
    let home = std::thread::spawn(move || {
        while !is_over.load(Ordering::Relaxed) {
            let message = answers.message()?;
            answers.publish(&message.reply, "", &REPLY)?;
        }
        Ok::<_, String>(())
    });
    let mut took = Vec::with_capacity(count);
    let begun = Instant::now();
    for round in 0..count {
        let at = begun + every * u32::try_from(round).unwrap_or(u32::MAX);
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        over.store(round + 1 == count, Ordering::Relaxed);
        let asked = Instant::now();
        asks.publish("bare.home", "bare.asker", &REQUEST)?;
        asks.message()?;
        took.push(asked.elapsed());
    }
    home.join().map_err(|_| "the home's thread ended".to_owned())??;
    took.sort_unstable();
    Ok(took)
}

/// The value that this part of them do not exceed.
pub fn percentile(sorted: &[Duration], part: f64) -> Duration {
    let place = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(place.saturating_sub(1)).or(sorted.last()).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks() {
        let sorted: Vec<Duration> = (1..=200).map(Duration::from_micros).collect();
        assert_eq!(percentile(&sorted, 0.5), Duration::from_micros(100));
        assert_eq!(percentile(&sorted, 0.99), Duration::from_micros(198));
        assert_eq!(percentile(&[], 0.5), Duration::ZERO);
    }
}
