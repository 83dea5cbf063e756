//! The torture messages of RFC 4475 and RFC 5118 against the running data plane: each gets the answer of the
//! table in `tests/data/torture`, and none costs a call in progress anything.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;
use sip::wire::{Header, Message, Method, RequestWriter, Start, lex};

use crate::demo::Demo;
use crate::lab::{turn, wait_for};
use crate::phone::Softphone;
use crate::{FLAGS, LOOPBACK, log_in};

#[path = "../data/torture/verdicts.rs"]
mod verdicts;

use verdicts::{Answer, Reading, Tcp, VERDICTS, Verdict};

const SBC: SocketAddr = SocketAddr::new(LOOPBACK, 15_060);
/// Nobody that the data plane knows.
const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9));
/// The address of a trunk.
const TRUNK: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 8));
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a message is sent over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Udp,
    Tcp,
}

#[test]
fn every_torture_message_gets_its_verdict_over_udp() {
    torture(Transport::Udp);
}

#[test]
fn every_torture_message_gets_its_verdict_over_tcp() {
    torture(Transport::Tcp);
}

fn torture(transport: Transport) {
    let _turn = turn();
    let mut demo = Demo::start(None, &[FLAGS, &["--trunk", "127.0.0.8/32"]].concat());
    let phones =
        ["1001", "1002"].map(|agent| Softphone::start(&log_in(agent, "local"), LOOPBACK, 440));
    phones.iter().for_each(Softphone::register);
    phones[0].call("1002");
    let registered = demo.counter("registrations");
    let begun = Instant::now();
    match transport {
        Transport::Udp => over_udp(&demo),
        Transport::Tcp => over_tcp(&demo),
    }
    // The call stands, and nothing else does.
    let alone = wait_for(PATIENCE, || {
        let names = ["calls_now", "leases_held", "ports_in_use"];
        (names.map(|name| demo.counter(name)) == [1, 2, 2]).then_some(())
    });
    assert!(alone.is_some(), "{:#?}", demo.ask("calls"));
    assert_eq!(demo.counter("registrations"), registered, "nobody registered");
    let lasted = begun.elapsed();
    phones[0].hang_up();
    phones[1].expect_end();
    demo.expect_all_free();
    // RFC 3261, 17.2.2, timer J: the last answers are kept for 32 s.
    let forgotten =
        wait_for(Duration::from_secs(45), || (demo.counter("transactions_now") == 0).then_some(()));
    assert!(forgotten.is_some(), "{} transactions are left", demo.counter("transactions_now"));
    for phone in phones {
        let heard = phone.end();
        // 50 packets a second, and no more than a fifth less on a machine that is late.
        let least = lasted.as_millis() as u64 / 25;
        assert!(heard.rtp_received > least && heard.rtp_sent > least, "{lasted:?}: {heard:?}");
        assert_eq!((heard.rtp_lost, heard.sip_unexpected), (0, 0), "{heard:?}");
    }
    demo.process.stop();
}

fn over_udp(demo: &Demo) {
    let mut wrong = Vec::new();
    for (ip, is_trunk) in [(STRANGER, false), (TRUNK, true)] {
        let peer = Peer::bind(ip);
        for verdict in VERDICTS {
            let expected = if is_trunk { verdict.trunk } else { verdict.stranger };
            let bytes = match is_trunk {
                true => renamed(verdict, &format!("trunk.{}", verdict.name)),
                false => first(verdict),
            };
            match expected {
                Answer::Status(status) => {
                    let answer = peer.ask(verdict, &bytes);
                    wrong.extend(judge(verdict, status, &bytes, &answer));
                    peer.acknowledge(&bytes, &answer);
                }
                Answer::Dropped(counter) => {
                    let before = demo.counter(counter);
                    peer.send(&bytes);
                    let counted =
                        wait_for(PATIENCE, || (demo.counter(counter) > before).then_some(()));
                    assert!(counted.is_some(), "{}: not counted as {counter}", verdict.name);
                }
            }
        }
        peer.expect_silence();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The message as it is sent first. Two have the branch, sent-by and method of another, and would be one
/// transaction with it.
fn first(verdict: &Verdict) -> Vec<u8> {
    match verdict.name {
        "novelsc" | "ipv6-correct-abnf-2-colons" => renamed(verdict, "other"),
        _ => verdict.bytes.to_vec(),
    }
}

/// The message under another Call-ID and branch, so that it is not one that was sent before.
fn renamed(verdict: &Verdict, by: &str) -> Vec<u8> {
    let mut bytes = verdict.bytes.to_vec();
    let mut insert = |after: &str| {
        let Some(at) = find(&bytes, after.as_bytes()) else { return false };
        let rest = &bytes[at + after.len()..];
        let blanks = rest.iter().position(|byte| *byte != b' ').unwrap_or_default();
        // The cookie alone stays alone.
        if rest[blanks].is_ascii_graphic() {
            let at = at + after.len() + blanks;
            bytes.splice(at..at, format!("{by}-").into_bytes());
        }
        true
    };
    insert("z9hG4bK");
    let _ = insert("Call-ID:") || insert("\r\ni:") || insert("\r\nI:");
    bytes
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

/// What is wrong with an answer by the table.
fn judge(verdict: &Verdict, status: u16, bytes: &[u8], answer: &[u8]) -> Option<String> {
    let shown = text(answer);
    let (Ok(request), Ok(answer)) = (lex(bytes), lex(answer)) else {
        return Some(format!("{}: not a message: {shown}", verdict.name));
    };
    let same = |header| answer.header(header).map(words) == request.header(header).map(words);
    let vias = |message: &Message<'_>| message.headers(Header::Via).count();
    // RFC 3261, 22.1, 21.4.6, 21.4.13, 21.4.15, 11.2.
    let must: &[Header] = match status {
        401 => &[Header::WwwAuthenticate],
        405 => &[Header::Allow],
        415 => &[Header::Accept],
        420 => &[Header::Unsupported],
        200 if request.method() == Some(Method::Options) => &[Header::Allow, Header::Accept],
        _ => &[],
    };
    let is_sound = verdict.reading == Reading::Valid;
    let wrong = [
        (answer.status() != Some(status), "status"),
        (!same(Header::CallId) || !same(Header::CSeq), "Call-ID or CSeq"),
        (is_sound && answer.check().is_err(), "grammar"),
        (is_sound && vias(&answer) != vias(&request), "Via"),
        // RFC 3261, 8.2.6.2.
        (is_sound && !answer.to().is_ok_and(|to| to.tag().is_some()), "To tag"),
        (!must.iter().all(|header| answer.has(*header)), "header that the status asks for"),
        (
            !verdict.with.iter().all(|line| shown.contains(&format!("\r\n{line}\r\n"))),
            "header of the table",
        ),
    ];
    let (_, what) = wrong.iter().find(|(is_wrong, _)| *is_wrong)?;
    let Verdict { name, section, says, .. } = verdict;
    Some(format!("{name} (RFC {section}) wants {status}, wrong {what}: {says}\n{shown}"))
}

fn words(value: &[u8]) -> Vec<Vec<u8>> {
    let words = value.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    words.map(<[u8]>::to_vec).collect()
}

/// Somebody who sends from port 5060 and hears what is sent to each port that a message's Via names.
struct Peer {
    sockets: Vec<UdpSocket>,
}

impl Peer {
    fn bind(ip: IpAddr) -> Peer {
        let mut ports = vec![5060];
        for verdict in VERDICTS {
            let port = lex(verdict.bytes).ok().and_then(|message| message.via().ok()?.port);
            ports.extend(port.filter(|port| !ports.contains(port)));
        }
        let sockets = ports.into_iter().map(|port| {
            let socket = UdpSocket::bind((ip, port)).expect("a port of its own");
            socket.set_nonblocking(true).expect("set");
            socket
        });
        Peer { sockets: sockets.collect() }
    }

    fn send(&self, bytes: &[u8]) {
        let sent = self.sockets[0].send_to(bytes, SBC).expect("sent");
        assert_eq!(sent, bytes.len());
    }

    /// Sends a request and waits for its final answer; those to earlier requests may come again meanwhile.
    fn ask(&self, verdict: &Verdict, bytes: &[u8]) -> Vec<u8> {
        self.send(bytes);
        let end = Instant::now() + PATIENCE;
        let request = lex(bytes).expect("it can be answered");
        let mine = (request.header(Header::CallId), request.header(Header::CSeq).map(words));
        while let Some(datagram) = self.receive(end.saturating_duration_since(Instant::now())) {
            let Ok(answer) = lex(&datagram) else { continue };
            let its = (answer.header(Header::CallId), answer.header(Header::CSeq).map(words));
            if answer.status().is_some_and(|status| status >= 200) && its == mine {
                return datagram;
            }
        }
        panic!("{}: no answer ({})", verdict.name, verdict.says)
    }

    /// RFC 3261, 17.1.1.3: the ACK to the refusal of an INVITE.
    fn acknowledge(&self, request: &[u8], answer: &[u8]) {
        let (request, answer) = (lex(request).expect("lexed"), lex(answer).expect("lexed"));
        let Start::Request { method: Method::Invite, uri } = request.start() else { return };
        let (Some(via), Some(from), Some(to), Some(call_id), Ok(cseq)) = (
            request.header(Header::Via),
            request.header(Header::From),
            answer.header(Header::To),
            request.header(Header::CallId),
            request.cseq(),
        ) else {
            return;
        };
        let ack = RequestWriter::new(b"ACK", uri)
            .header("Via", via)
            .header("Max-Forwards", "70")
            .header("From", from)
            .header("To", to)
            .header("Call-ID", call_id)
            .header("CSeq", format!("{} ACK", cseq.number))
            .finish(None);
        self.send(&ack);
    }

    fn receive(&self, wait: Duration) -> Option<Vec<u8>> {
        let wait =
            Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) };
        let mut fds: Vec<_> =
            self.sockets.iter().map(|socket| PollFd::new(socket, PollFlags::IN)).collect();
        poll(&mut fds, Some(&wait)).expect("polled");
        let mut buffer = vec![0; 65_536];
        self.sockets.iter().find_map(|socket| match socket.recv_from(&mut buffer) {
            Ok((len, _)) => Some(buffer[..len].to_vec()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("{error}"),
        })
    }

    /// What was answered stays so: whatever is still to come is said again, of requests that were made.
    fn expect_silence(&self) {
        while let Some(datagram) = self.receive(Duration::from_millis(100)) {
            let answer = lex(&datagram).expect("an answer");
            let call_id = answer.header(Header::CallId).unwrap_or_default();
            let responses = VERDICTS.iter().filter(|verdict| {
                let message = lex(verdict.bytes);
                message.is_ok_and(|m| {
                    m.status().is_some() && m.header(Header::CallId) == Some(call_id)
                })
            });
            assert_eq!(responses.count(), 0, "a response is answered: {}", text(&datagram));
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn over_tcp(demo: &Demo) {
    let malformed = demo.counter("drop_sip_malformed");
    let mut wrong = Vec::new();
    for verdict in VERDICTS {
        let bytes = first(verdict);
        let name = verdict.name;
        let mut line = Line::connect();
        line.stream.write_all(&bytes).expect("sent");
        let mut answer = || line.read().unwrap_or_else(|| panic!("{name}: closed"));
        match (verdict.tcp, verdict.stranger) {
            (Tcp::Same, Answer::Status(status)) => {
                wrong.extend(judge(verdict, status, &bytes, &answer()));
                line.expect_open(name);
            }
            (Tcp::Same, Answer::Dropped(_)) => line.expect_open(name),
            (Tcp::Closes, _) => {
                if !matches!(verdict.reading, Reading::Noise(_)) {
                    wrong.extend(judge(verdict, 400, &bytes, &answer()));
                }
                assert_eq!(line.read(), None, "{name}: still open");
            }
            (Tcp::Waits, _) => {
                line.stream.shutdown(Shutdown::Write).expect("half closed");
                assert_eq!(line.read(), None, "{name}: answered");
            }
            (Tcp::Two(first, second), _) => {
                let statuses =
                    [answer(), answer()].map(|bytes| lex(&bytes).ok().and_then(|m| m.status()));
                assert_eq!(statuses, [Some(first), Some(second)], "{name}");
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(demo.counter("drop_sip_malformed") > malformed);
}

/// A TCP connection to the data plane.
struct Line {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Line {
    fn connect() -> Line {
        let stream = TcpStream::connect(SBC).expect("the data plane listens on TCP");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        Line { stream, read: Vec::new() }
    }

    /// The next final answer; nothing when the connection is closed before.
    fn read(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(head) = find(&self.read, b"\r\n\r\n") {
                let message = lex(&self.read).expect("a message");
                let length = message.header(Header::ContentLength).expect("its length");
                let length: usize = text(length).parse().expect("a number");
                let is_final = message.status().is_some_and(|status| status >= 200);
                let whole = head + 4 + length;
                if self.read.len() >= whole {
                    let rest = self.read.split_off(whole);
                    let message = std::mem::replace(&mut self.read, rest);
                    if is_final {
                        return Some(message);
                    }
                    continue;
                }
            }
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(len) => self.read.extend_from_slice(&buffer[..len]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The connection still carries requests and their answers.
    fn expect_open(&mut self, name: &str) {
        let ping = format!(
            "OPTIONS sip:{SBC} SIP/2.0\r\nVia: SIP/2.0/TCP 127.0.0.1;branch=z9hG4bKping-{name}\r\n\
             From: <sip:ping@127.0.0.1>;tag=1\r\nTo: <sip:{SBC}>\r\nCall-ID: ping.{name}\r\n\
             CSeq: 1 OPTIONS\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
        );
        self.stream.write_all(ping.as_bytes()).expect("sent");
        let answer = self.read().unwrap_or_else(|| panic!("{name}: closed"));
        let answer = lex(&answer).expect("an answer");
        let call_id = answer.call_id().map(text);
        assert_eq!((answer.status(), call_id), (Some(200), Ok(format!("ping.{name}"))), "{name}");
    }
}
