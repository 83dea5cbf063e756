//! The judge's own line to NATS: it hears every question and every answer that blades send each other, and sends
//! questions again.

use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use base::Rng;
use serde_json::Value;

/// How long a read may wait before other things have their turn.
const PATIENCE: Duration = Duration::from_millis(20);
/// A question is sent again after up to so long, twice what a reservation lives.
const REPEAT_MS: u64 = 4_000;
/// Questions whose answers may be under way.
const OPEN: usize = 10_000;

/// Names a request over all blades and times: its blade, that process' incarnation, its number.
type Request = (String, u64, u64);
/// Names a lease: its home and agent, the login epoch, the data plane's incarnation, the counter.
type Lease = (u64, String, u64, u64, u64);

/// What was heard.
#[derive(Debug, Default)]
pub struct Heard {
    pub requests: u64,
    pub granted: u64,
    pub denied: u64,
    pub repeated: u64,
    /// Repeated requests that got the grant of the first again.
    pub same: u64,
    /// Connections that were lost, with the server.
    pub lost: u64,
    /// The first lease that two requests were granted.
    pub broken: Option<String>,
}

pub struct Judge {
    server: String,
    rng: Rng,
    line: Option<BufReader<TcpStream>>,
    /// Whose answer comes to that inbox, and whether it was asked by us.
    open: HashMap<String, (Request, bool)>,
    order: VecDeque<String>,
    grants: HashMap<Lease, Request>,
    again: VecDeque<(Instant, String, Vec<u8>, Request)>,
    repeats: u64,
    pub heard: Heard,
}

impl Judge {
    pub fn new(server: &str, seed: u64) -> Judge {
        Judge {
            server: server.to_owned(),
            rng: Rng::from_number(seed),
            line: None,
            open: HashMap::new(),
            order: VecDeque::new(),
            grants: HashMap::new(),
            again: VecDeque::new(),
            repeats: 0,
            heard: Heard::default(),
        }
    }

    /// Hears what comes for a while; a server that is away is tried again with the next turn.
    pub fn turn(&mut self) {
        if self.line.is_none() {
            self.line = self.connect();
            if self.line.is_none() {
                std::thread::sleep(PATIENCE);
                return;
            }
        }
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            self.repeat();
            match self.message() {
                Ok(Some((subject, reply, body))) => self.take(&subject, &reply, &body),
                Ok(None) => {}
                Err(()) => {
                    self.heard.lost += 1;
                    self.line = None;
                    return;
                }
            }
        }
    }

    fn connect(&self) -> Option<BufReader<TcpStream>> {
        let stream = TcpStream::connect(&self.server).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let mut line = BufReader::new(stream);
        let hello = "CONNECT {\"verbose\":false,\"pedantic\":false}\r\nSUB jackfield.*.blade.* 1\r\n\
                     SUB _INBOX.> 2\r\nSUB repeat.* 3\r\n";
        line.get_mut().write_all(hello.as_bytes()).ok()?;
        Some(line)
    }

    /// The next message: its subject, where its answer goes, its body. None when nothing came.
    fn message(&mut self) -> Result<Option<(String, String, Vec<u8>)>, ()> {
        let line = self.line.as_mut().ok_or(())?;
        // What came of a line stays in the buffer until all of it is there.
        match line.fill_buf() {
            Ok([]) => return Err(()),
            Ok(_) => {}
            Err(error) if is_late(&error) => return Ok(None),
            Err(_) => return Err(()),
        }
        let mut text = Vec::new();
        while text.last() != Some(&b'\n') {
            match line.read_until(b'\n', &mut text) {
                Ok(0) => return Err(()),
                Ok(_) => {}
                Err(error) if is_late(&error) => {}
                Err(_) => return Err(()),
            }
        }
        let text = String::from_utf8(text).map_err(drop)?;
        let words: Vec<&str> = text.trim_end().split(' ').collect();
        match words.as_slice() {
            ["PING"] => {
                line.get_mut().write_all(b"PONG\r\n").map_err(drop)?;
                Ok(None)
            }
            ["MSG", subject, _, reply @ .., length] => {
                let mut body = vec![0; length.parse::<usize>().map_err(drop)? + 2];
                let mut filled = 0;
                while filled < body.len() {
                    match line.read(&mut body[filled..]) {
                        Ok(0) => return Err(()),
                        Ok(read) => filled += read,
                        Err(error) if is_late(&error) => {}
                        Err(_) => return Err(()),
                    }
                }
                body.truncate(filled - 2);
                let reply = reply.first().copied().unwrap_or_default();
                Ok(Some(((*subject).to_owned(), reply.to_owned(), body)))
            }
            _ => Ok(None),
        }
    }

    fn take(&mut self, subject: &str, reply: &str, body: &[u8]) {
        let Ok(said) = serde_json::from_slice::<Value>(body) else { return };
        if subject.starts_with("jackfield.") {
            // Our own repeats are heard, too.
            if reply.starts_with("repeat.") {
                return;
            }
            let lease = &said["body"]["lease"];
            let name = said["from"].as_str().zip(lease["incarnation"].as_u64());
            let Some(((from, incarnation), id)) = name.zip(lease["id"].as_u64()) else { return };
            let request = (from.to_owned(), incarnation, id);
            self.heard.requests += 1;
            self.expect(reply, request.clone(), false);
            if self.rng.chance(10) {
                let after = Duration::from_millis(self.rng.below(REPEAT_MS));
                let due = (Instant::now() + after, subject.to_owned(), body.to_vec(), request);
                let place = self.again.partition_point(|(at, ..)| *at <= due.0);
                self.again.insert(place, due);
            }
            return;
        }
        let Some((request, is_ours)) = self.open.remove(subject) else { return };
        let answer = &said["body"]["lease"];
        let grant = &answer["Ok"];
        let fence: Vec<u64> =
            grant["fence"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
        let (Some(home), [epoch, incarnation, counter]) = (grant["home"].as_u64(), &fence[..])
        else {
            self.heard.denied += u64::from(answer["Err"].is_string() || answer["Err"].is_object());
            return;
        };
        self.heard.granted += u64::from(!is_ours);
        let number = grant["number"].as_str().unwrap_or_default().to_owned();
        let lease = (home, number, *epoch, *incarnation, *counter);
        match self.grants.get(&lease) {
            Some(first) if *first != request && self.heard.broken.is_none() => {
                self.heard.broken =
                    Some(format!("lease {lease:?} was granted to {first:?} and to {request:?}"));
            }
            Some(_) => self.heard.same += u64::from(is_ours),
            None => _ = self.grants.insert(lease, request),
        }
    }

    fn expect(&mut self, inbox: &str, request: Request, is_ours: bool) {
        self.open.insert(inbox.to_owned(), (request, is_ours));
        self.order.push_back(inbox.to_owned());
        if self.order.len() > OPEN
            && let Some(oldest) = self.order.pop_front()
        {
            self.open.remove(&oldest);
        }
    }

    /// Sends again what is due.
    fn repeat(&mut self) {
        while self.again.front().is_some_and(|(at, ..)| *at <= Instant::now()) {
            let Some((_, subject, body, request)) = self.again.pop_front() else { return };
            self.repeats += 1;
            let inbox = format!("repeat.{}", self.repeats);
            let mut bytes = format!("PUB {subject} {inbox} {}\r\n", body.len()).into_bytes();
            bytes.extend_from_slice(&body);
            bytes.extend_from_slice(b"\r\n");
            let sent = self.line.as_mut().map(|line| line.get_mut().write_all(&bytes));
            if matches!(sent, Some(Ok(()))) {
                self.heard.repeated += 1;
                self.expect(&inbox, request, true);
            }
        }
    }
}

fn is_late(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}
