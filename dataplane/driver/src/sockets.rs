//! UDP sockets, and which pairs of them a worker has open.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use base::LocationId;
use media::{PairId, SocketSlot};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, socket_with, sockopt};
use worker::Location;

use crate::DriverError;
use crate::token::GENERATIONS;

/// What the kernel keeps of SIP while a worker is busy: a second of 4,000 messages of 1 KiB, each of
/// which it accounts with as much again of its own.
const SIP_RECEIVE_BYTES: usize = 8 << 20;
/// Less than this loses messages at the first burst: some 400 of them.
pub const SIP_RECEIVE_LEAST_BYTES: usize = 1 << 20;
/// DSCP CS3, signalling (RFC 4594, 4.1), in the upper six bits.
pub const TOS_SIGNALLING: u8 = 24 << 2;
/// DSCP EF, telephony (RFC 4594, 4.1).
const TOS_MEDIA: u8 = 46 << 2;

/// The ports of a killed process stay bound while the kernel takes its ring apart: 16,000 of them about
/// 100 ms.
pub const BIND_RETRY_MS: u64 = 1_000;
/// How long a bind rests before it is tried again.
pub const BIND_RETRY_STEP_MS: u64 = 10;

/// The SIP sockets of a location, one for each worker.
pub fn bind_sip(location: &Location, workers: usize) -> Result<Vec<OwnedFd>, DriverError> {
    let addr = SocketAddr::new(location.ip, location.sip_port);
    let name = |source| DriverError::Io {
        what: format!("SIP port of location {}: bind {addr}/udp", location.name),
        source,
    };
    let mut tries = BIND_RETRY_MS / BIND_RETRY_STEP_MS;
    loop {
        match sip_group(addr, workers) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries > 0 => {
                tries -= 1;
                std::thread::sleep(Duration::from_millis(BIND_RETRY_STEP_MS));
            }
            result => return result.map_err(name),
        }
    }
}

fn sip_group(addr: SocketAddr, workers: usize) -> io::Result<Vec<OwnedFd>> {
    // SO_REUSEPORT would share the port with the ring of a killed predecessor, or with another data
    // plane that is configured alike, and lose messages to it. A socket without it tells.
    drop(udp(addr, TOS_SIGNALLING, false)?);
    let sockets = (0..workers).map(|_| {
        let socket = udp(addr, TOS_SIGNALLING, true)?;
        // Beyond net.core.rmem_max it takes CAP_NET_ADMIN; without it the limit is what we get.
        sockopt::set_socket_recv_buffer_size_force(&socket, SIP_RECEIVE_BYTES)
            .or_else(|_| sockopt::set_socket_recv_buffer_size(&socket, SIP_RECEIVE_BYTES))?;
        Ok(socket)
    });
    sockets.collect()
}

/// What the kernel keeps for a socket, in bytes, its own accounts included.
pub fn receive_bytes(socket: &OwnedFd) -> io::Result<usize> {
    Ok(sockopt::socket_recv_buffer_size(socket)?)
}

/// The two sockets of a pair of ports: RTP at `port`, RTCP at the next.
pub fn bind_pair(ip: IpAddr, port: u16) -> io::Result<Vec<OwnedFd>> {
    let rtp = udp(SocketAddr::new(ip, port), TOS_MEDIA, false)?;
    let above = port.checked_add(1).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(vec![rtp, udp(SocketAddr::new(ip, above), TOS_MEDIA, false)?])
}

fn udp(addr: SocketAddr, tos: u8, shared: bool) -> io::Result<OwnedFd> {
    let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::DGRAM, flags, Some(ipproto::UDP))?;
    if addr.is_ipv4() {
        sockopt::set_ip_tos(&socket, tos)?;
    } else {
        sockopt::set_ipv6_v6only(&socket, true)?;
        sockopt::set_ipv6_tclass(&socket, u32::from(tos))?;
    }
    if shared {
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    bind(&socket, &addr)?;
    Ok(socket)
}

/// Which pairs of media sockets are open, and in which places they lie.
///
/// ```text
/// Closed --open--> Open --close--> Closing --last receive completed--> Closed
/// ```
///
/// A pair that closes is not bound again before both its receives have completed; a bind that comes
/// in between is kept until then.
#[derive(Debug)]
pub struct MediaSockets {
    pairs: Vec<Pair>,
    /// Free places, each for two sockets.
    free: Vec<u32>,
    wanted: VecDeque<(PairId, LocationId, u16)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Pair {
    state: State,
    generation: u32,
    place: u32,
    /// Whether a receive of RTP and of RTCP is in flight.
    armed: [bool; 2],
    wanted: Option<(LocationId, u16)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Closed,
    Open,
    Closing,
}

/// What to do about the end of a receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Start it again, at this place.
    Again(u32),
    /// The pair is closed: empty this place and the next.
    Clear(u32),
    /// It is of an earlier use, or the pair's other socket still closes.
    Nothing,
}

impl MediaSockets {
    /// No pair is open; places from `first` up to `end` are free.
    pub fn new(first: u32, end: u32) -> Self {
        let free = (first..end).step_by(2).filter(|place| place + 1 < end).collect::<Vec<_>>();
        MediaSockets {
            pairs: Vec::new(),
            free: free.into_iter().rev().collect(),
            wanted: VecDeque::new(),
        }
    }

    /// Notes that a pair is to be bound.
    pub fn want(&mut self, pair: PairId, location: LocationId, port: u16) {
        let entry = self.entry(pair);
        if entry.state == State::Closing {
            entry.wanted = Some((location, port));
        } else {
            self.wanted.push_back((pair, location, port));
        }
    }

    /// The next pair to be bound.
    pub fn next_wanted(&mut self) -> Option<(PairId, LocationId, u16)> {
        self.wanted.pop_front()
    }

    /// True when a pair waits to be bound.
    pub fn is_wanting(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// A place for two sockets.
    pub fn take_place(&mut self) -> Option<u32> {
        self.free.pop()
    }

    /// Gives a place back that was not used after all.
    pub fn give_place_back(&mut self, place: u32) {
        self.free.push(place);
    }

    /// The pair is bound, its sockets lie at `place` and the next, and both receive. Returns the
    /// generation of this use.
    pub fn open(&mut self, pair: PairId, place: u32) -> u32 {
        let entry = self.entry(pair);
        assert_eq!(entry.state, State::Closed, "a pair is opened once");
        entry.generation = (entry.generation + 1) % GENERATIONS;
        *entry = Pair { state: State::Open, place, armed: [true; 2], ..*entry };
        entry.generation
    }

    /// True when the pair is open.
    pub fn is_open(&self, pair: PairId) -> bool {
        self.pairs.get(pair.index()).is_some_and(|entry| entry.state == State::Open)
    }

    /// In which place an open socket lies.
    pub fn place(&self, socket: SocketSlot) -> Option<u32> {
        let entry = self.pairs.get(socket.pair().index())?;
        (entry.state == State::Open).then_some(entry.place + u32::from(socket.is_rtcp()))
    }

    /// True while packets of that use of the socket are to be judged.
    pub fn hears(&self, socket: SocketSlot, generation: u32) -> bool {
        self.pairs
            .get(socket.pair().index())
            .is_some_and(|entry| entry.state == State::Open && entry.generation == generation)
    }

    /// The pair is to be closed; returns the generation and the place whose receives are to be ended.
    pub fn close(&mut self, pair: PairId) -> Option<(u32, u32)> {
        // It may not have been bound yet.
        self.wanted.retain(|(wanted, ..)| *wanted != pair);
        let entry = self.pairs.get_mut(pair.index())?;
        entry.wanted = None;
        if entry.state != State::Open {
            return None;
        }
        entry.state = State::Closing;
        Some((entry.generation, entry.place))
    }

    /// A receive completed for the last time, and has rested if it failed.
    pub fn ended(&mut self, socket: SocketSlot, generation: u32) -> Ended {
        let Some(entry) = self.pairs.get_mut(socket.pair().index()) else {
            return Ended::Nothing;
        };
        if entry.generation != generation || entry.state == State::Closed {
            return Ended::Nothing;
        }
        if entry.state == State::Open {
            return Ended::Again(entry.place + u32::from(socket.is_rtcp()));
        }
        entry.armed[usize::from(socket.is_rtcp())] = false;
        if entry.armed != [false; 2] {
            return Ended::Nothing;
        }
        entry.state = State::Closed;
        let place = entry.place;
        if let Some((location, port)) = entry.wanted.take() {
            self.wanted.push_back((socket.pair(), location, port));
        }
        self.free.push(place);
        Ended::Clear(place)
    }

    fn entry(&mut self, pair: PairId) -> &mut Pair {
        if pair.index() >= self.pairs.len() {
            self.pairs.resize(pair.index() + 1, Pair::default());
        }
        &mut self.pairs[pair.index()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_closes_when_both_receives_have_ended() {
        let mut sockets = MediaSockets::new(3, 8);
        let pair = PairId(5);
        sockets.want(pair, LocationId(1), 30_010);
        assert_eq!(sockets.next_wanted(), Some((pair, LocationId(1), 30_010)));
        let place = sockets.take_place().expect("there are two");
        assert_eq!(place, 3);
        let first = sockets.open(pair, place);
        assert_eq!(sockets.place(pair.rtcp()), Some(4));
        assert!(sockets.hears(pair.rtp(), first) && !sockets.hears(pair.rtp(), first + 1));
        // A receive that ends in an open pair is started again.
        assert_eq!(sockets.ended(pair.rtcp(), first), Ended::Again(4));
        assert_eq!(sockets.close(pair), Some((first, place)));
        assert_eq!(sockets.close(pair), None);
        assert!(!sockets.hears(pair.rtp(), first));
        assert_eq!(sockets.place(pair.rtp()), None);
        // Wanted again while it closes: it waits.
        sockets.want(pair, LocationId(1), 30_010);
        assert!(!sockets.is_wanting());
        assert_eq!(sockets.ended(pair.rtp(), first), Ended::Nothing);
        assert_eq!(sockets.ended(pair.rtcp(), first), Ended::Clear(3));
        assert_eq!(sockets.next_wanted(), Some((pair, LocationId(1), 30_010)));
        let place = sockets.take_place().expect("it is free again");
        let second = sockets.open(pair, place);
        assert_ne!(first, second);
        // Late completions of the first use change nothing.
        assert_eq!(sockets.ended(pair.rtp(), first), Ended::Nothing);
        assert_eq!(sockets.ended(PairId(99).rtp(), first), Ended::Nothing);
        assert!(sockets.is_open(pair));
    }

    #[test]
    fn places_run_out_and_a_closed_pair_is_not_bound() {
        let mut sockets = MediaSockets::new(1, 6);
        assert_eq!([sockets.take_place(), sockets.take_place()], [Some(1), Some(3)]);
        assert_eq!(sockets.take_place(), None, "the last place has room for one socket only");
        sockets.want(PairId(0), LocationId(0), 30_000);
        assert_eq!(sockets.close(PairId(0)), None);
        assert!(!sockets.is_wanting());
    }
}
