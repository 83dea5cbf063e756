//! One thread's streams: a loop that sends what is due and takes what has come, and never sleeps.
//!
//! A socket is looked at just before each of its sends, when what its peer sent a round earlier lies
//! there: one call of the system a packet each way, and no asking which sockets have any. So packets
//! wait in their sockets, and when they arrived only the kernel's timestamps say.

use std::io::{self, IoSliceMut};
use std::net::UdpSocket;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use media::wire::RtpHeader;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, recvmmsg, setsockopt, sockopt::ReceiveTimestampns};
use nix::sys::time::TimeSpec;
use rustix::net::{RecvFlags, SendFlags};

use super::account::{Arrival, Arrivals, Counted};
use crate::clock;

/// Of a 20 ms frame of G.711 with its RTP header.
pub const PACKET_BYTES: usize = 172;
/// Where the stamp lies: time of sending, the stream, the packet's number; then a mark.
const STAMP: usize = RtpHeader::LEN;
const STAMP_END: usize = STAMP + 20;
/// The mark of packets of ours; the least significant half of the stamp's end.
const MARK: u32 = 0x4a41_434b;
/// Packets sent before the clock is looked at again.
const SENDS: u64 = 16;
/// Packets taken from a socket by one call of the system, where they have timestamps.
const BATCH: usize = 2;
/// Each so many visits a socket is emptied, for a relay that paused sends several at once.
const EMPTIED: u32 = 4;
/// No datagram of a relay's is longer than that, or it is none of ours.
const BUFFER: usize = 256;
/// Packets that are later than this are not sent any more.
const LATEST: Duration = Duration::from_millis(5);
/// After the last send: how long nothing may arrive until nothing will, and how long that may take.
const SILENCE: Duration = Duration::from_millis(200);
const DRAIN: Duration = Duration::from_secs(2);

/// One window's order to a thread.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    /// Packets a second of this thread.
    pub rate: f64,
    /// When sending begins.
    pub begin: Instant,
    /// When packets begin to count.
    pub first: Instant,
    /// When sending ends.
    pub last: Instant,
}

/// The streams of one thread.
pub struct Lane {
    /// The number of the first stream.
    base: u32,
    streams: Vec<Stream>,
    buffers: Box<[[u8; BUFFER]; BATCH]>,
    stamp: bool,
    next: usize,
    counted: Counted,
}

/// What the system fills in; it holds addresses, so that it stays on its thread.
type Headers = MultiHeaders<()>;

struct Stream {
    socket: Arc<UdpSocket>,
    packet: [u8; PACKET_BYTES],
    header: RtpHeader,
    /// Packets sent so far.
    number: u32,
    /// Packets with a higher number count.
    counts_after: u32,
    /// Of the packets of this stream, which arrive at its peer.
    arrivals: Arrivals,
}

impl Lane {
    /// Streams with numbers from `base` on, an even number of them.
    pub fn new(base: u32, sockets: &[Arc<UdpSocket>], stamp: bool) -> io::Result<Lane> {
        let mut streams = Vec::new();
        for (place, socket) in sockets.iter().enumerate() {
            if stamp {
                setsockopt(socket, ReceiveTimestampns, &true)?;
            }
            streams.push(Stream::new(base + place as u32, Arc::clone(socket)));
        }
        Ok(Lane {
            base,
            streams,
            buffers: Box::new([[0; BUFFER]; BATCH]),
            stamp,
            next: 0,
            counted: Counted::default(),
        })
    }

    /// Sends and receives for one window.
    pub fn run(&mut self, turn: &Turn) -> io::Result<Counted> {
        self.counted = Counted::default();
        for stream in &mut self.streams {
            stream.counts_after = u32::MAX;
        }
        let control = self.stamp.then(|| nix::cmsg_space!(TimeSpec));
        let headers = &mut MultiHeaders::preallocate(BATCH, control);
        let mut counting = false;
        let mut done = 0;
        let latest = (LATEST.as_secs_f64() * turn.rate) as u64 + 1;
        loop {
            let now = Instant::now();
            if now >= turn.last || self.streams.is_empty() {
                break;
            }
            if !counting && now >= turn.first {
                counting = true;
                self.begin_counting();
            }
            let since = now.saturating_duration_since(turn.begin);
            let due = (since.as_secs_f64() * turn.rate) as u64;
            if due > done + latest {
                let missed = due - done - latest;
                done += missed;
                self.counted.missed += if counting { missed } else { 0 };
            }
            let end = due.min(done + SENDS);
            while done < end {
                done += 1;
                let place = self.next;
                self.next = if place + 1 == self.streams.len() { 0 } else { place + 1 };
                self.receive(place, headers)?;
                self.send(place, counting);
            }
        }
        self.drain(headers)?;
        Ok(std::mem::take(&mut self.counted))
    }

    fn begin_counting(&mut self) {
        for stream in &mut self.streams {
            stream.counts_after = stream.number;
        }
    }

    /// Takes what is still under way.
    fn drain(&mut self, headers: &mut Headers) -> io::Result<()> {
        let end = Instant::now() + DRAIN;
        let mut quiet = Instant::now() + SILENCE;
        while Instant::now() < quiet.min(end) {
            let mut some = false;
            for place in 0..self.streams.len() {
                while self.take(place, headers)? > 0 {
                    some = true;
                }
            }
            if some {
                quiet = Instant::now() + SILENCE;
            }
        }
        Ok(())
    }

    fn send(&mut self, place: usize, counting: bool) {
        let stream = &mut self.streams[place];
        stream.prepare();
        match rustix::net::send(&stream.socket, &stream.packet, SendFlags::DONTWAIT) {
            Ok(_) => self.counted.sent += u64::from(counting),
            Err(_) => {
                stream.take_back();
                self.counted.refused += u64::from(counting);
            }
        }
    }

    /// Takes what a visit of that socket takes; does not wait.
    fn receive(&mut self, place: usize, headers: &mut Headers) -> io::Result<()> {
        let to_the_last = self.streams[place].number.is_multiple_of(EMPTIED);
        while self.take(place, headers)? > 0 && to_the_last {}
        Ok(())
    }

    /// Takes some packets from one socket; how many there were.
    fn take(&mut self, place: usize, headers: &mut Headers) -> io::Result<usize> {
        if self.stamp {
            return self.take_stamped(place, headers);
        }
        let buffer = &mut self.buffers[0];
        match rustix::net::recv(&self.streams[place].socket, &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((length, _)) => {
                let stamp = Stamp::read(&self.buffers[0][..length.min(BUFFER)]);
                self.count(place as u32, stamp, None);
                Ok(1)
            }
            // A port that refused an earlier packet says so here, once.
            Err(
                rustix::io::Errno::AGAIN | rustix::io::Errno::INTR | rustix::io::Errno::CONNREFUSED,
            ) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// The same with the kernel's timestamps.
    fn take_stamped(&mut self, place: usize, headers: &mut Headers) -> io::Result<usize> {
        let hearer = place as u32;
        let socket = self.streams[place].socket.as_raw_fd();
        let mut buffers = self.buffers.each_mut().map(|buffer| [IoSliceMut::new(buffer)]);
        let mut stamps = [None; BATCH];
        let mut lengths = [0; BATCH];
        let flags = MsgFlags::MSG_DONTWAIT;
        let mut taken = 0;
        match recvmmsg(socket, headers, &mut buffers, flags, None) {
            Ok(messages) => {
                for message in messages {
                    lengths[taken] = message.bytes;
                    if self.stamp {
                        stamps[taken] =
                            message.cmsgs().ok().and_then(|mut all| all.find_map(clock::stamp));
                    }
                    taken += 1;
                }
            }
            // A port that refused an earlier packet says so here, once.
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNREFUSED) => return Ok(0),
            Err(error) => return Err(error.into()),
        }
        for (packet, (length, arrived)) in lengths.into_iter().zip(stamps).take(taken).enumerate() {
            let read = Stamp::read(&self.buffers[packet][..length.min(BUFFER)]);
            self.count(hearer, read, arrived);
        }
        Ok(taken)
    }

    fn count(&mut self, hearer: u32, stamp: Option<Stamp>, arrived: Option<u64>) {
        let sender = stamp.and_then(|stamp| stamp.stream.checked_sub(self.base));
        let (Some(stamp), Some(sender)) = (stamp, sender) else {
            self.counted.stray += 1;
            return;
        };
        if sender ^ 1 != hearer {
            self.counted.stray += 1;
            return;
        }
        let stream = &mut self.streams[sender as usize];
        let arrival = stream.arrivals.note(stamp.number);
        if stamp.number <= stream.counts_after {
            return;
        }
        match arrival {
            Arrival::Again => {
                self.counted.duplicated += 1;
                return;
            }
            Arrival::Late => self.counted.reordered += 1,
            Arrival::InOrder => {}
        }
        self.counted.received += 1;
        if let Some(arrived) = arrived {
            // A clock that was set back makes no negative delay.
            self.counted.delays.add(Duration::from_nanos(arrived.saturating_sub(stamp.sent)));
        }
    }
}

impl Stream {
    fn new(number: u32, socket: Arc<UdpSocket>) -> Stream {
        let mut packet = [0xd5; PACKET_BYTES];
        packet[STAMP + 8..STAMP + 12].copy_from_slice(&number.to_be_bytes());
        packet[STAMP + 16..STAMP_END].copy_from_slice(&MARK.to_be_bytes());
        let header = RtpHeader {
            marker: false,
            payload_type: 8,
            sequence: 0,
            timestamp: 0,
            ssrc: ssrc(number),
        };
        Stream {
            socket,
            packet,
            header,
            number: 0,
            counts_after: u32::MAX,
            arrivals: Arrivals::default(),
        }
    }

    fn prepare(&mut self) {
        self.number += 1;
        self.header.sequence = self.number as u16;
        self.header.timestamp = self.header.timestamp.wrapping_add(160);
        self.packet[..STAMP].copy_from_slice(&self.header.bytes());
        self.packet[STAMP + 12..STAMP + 16].copy_from_slice(&self.number.to_be_bytes());
        self.packet[STAMP..STAMP + 8].copy_from_slice(&clock::realtime().to_be_bytes());
    }

    fn take_back(&mut self) {
        self.number -= 1;
        self.header.timestamp = self.header.timestamp.wrapping_sub(160);
    }
}

/// A stream's SSRC: any will do that no other stream has.
pub fn ssrc(stream: u32) -> u32 {
    0x4a46_0000 ^ stream
}

/// What a packet of ours carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    sent: u64,
    stream: u32,
    number: u32,
}

impl Stamp {
    fn read(packet: &[u8]) -> Option<Stamp> {
        let bytes = packet.get(STAMP..STAMP_END)?;
        let word = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        if packet.len() != PACKET_BYTES || word(16)? != MARK {
            return None;
        }
        let sent = (u64::from(word(0)?) << 32) | u64::from(word(4)?);
        Some(Stamp { sent, stream: word(8)?, number: word(12)? })
    }
}
