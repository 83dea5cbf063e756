//! What a worker needs of the operating system: datagrams in and out, and its doorbells.
//!
//! [`crate::ring_io`] does it by io_uring, [`crate::mmsg`] by epoll, recvmmsg and sendto, where io_uring is
//! refused or not wanted. Sockets lie in numbered places: a SIP socket for each location, then pairs of
//! media sockets. What comes in lies in numbered buffers, which are given back, or sent.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use media::SocketSlot;

use crate::RingError;
use crate::token::Token;

/// SIP datagrams that wait until the kernel takes them: what 1,000 calls that end at once have to say, and
/// again.
pub const SIP_SENDS_WAITING: usize = 16_384;

/// An Ethernet frame's datagram with its address, and room for what a relay adds.
pub const MEDIA_BUFFER_BYTES: usize = 2_048;

/// The largest UDP datagram, 65,507 bytes, with its address.
pub const SIP_BUFFER_BYTES: usize = 66 * 1_024;

/// How many doorbells a worker listens to: its own, and that of the bypass.
pub const BELLS: usize = 2;

/// A request that completed or failed, or one of the many datagrams of a receive.
#[derive(Clone, Copy, Debug)]
pub struct Completion {
    /// What it belongs to.
    pub token: Token,
    /// The result, or the error as a negative errno.
    pub result: i32,
    /// False for a request's last completion.
    pub more: bool,
    /// The buffer that now is ours.
    pub buffer: Option<u16>,
}

/// A received datagram in its buffer.
#[derive(Clone, Debug)]
pub struct Datagram {
    /// Who sent it.
    pub from: SocketAddr,
    /// Where in the buffer it lies.
    pub range: Range<usize>,
    /// It was longer than the buffer.
    pub truncated: bool,
}

/// How long a submission may sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all.
    No,
    /// Until something completes, at most so long.
    Any(Duration),
    /// Until so many have completed, at most so long.
    Batch(u32, Duration),
    /// As `Any` with the second, but what completes within the first wakes nobody before that is over. Where the kernel cannot
    /// (before Linux 6.12), and without io_uring, it is `Any`.
    Gather(Duration, Duration),
}

/// A worker's sockets and its doorbells. It belongs to the thread that opened it.
pub trait Datagrams: Sized {
    /// The name in logs and in the configuration.
    const NAME: &'static str;

    /// No socket yet, and `places` for them.
    fn open(places: u32) -> Result<Self, RingError>;

    /// Puts sockets into consecutive places.
    fn put(&mut self, first: u32, sockets: Vec<OwnedFd>) -> io::Result<()>;

    /// Empties two consecutive places on which nothing is received any more; their ports are free then.
    fn clear_pair(&mut self, first: u32) -> io::Result<()>;

    /// Waits for a doorbell, one of [`BELLS`]; [`Token::Bell`] completes once.
    fn listen(&mut self, number: u8, bell: BorrowedFd<'_>);

    /// Receives SIP on the socket at `location`'s place, until a completion says that no more come.
    fn receive_sip(&mut self, location: u8);

    /// Receives media on the socket at a place, until a completion says that no more come.
    fn receive_media(&mut self, socket: SocketSlot, generation: u32, place: u32);

    /// Ends a receive of media; its last completion follows.
    fn end_receive(&mut self, socket: SocketSlot, generation: u32, place: u32);

    /// Sends a SIP datagram from a location's socket, later if the socket is full. False when too many
    /// wait already.
    #[must_use]
    fn send_sip(&mut self, location: u8, to: SocketAddr, datagram: Rc<[u8]>) -> bool;

    /// Sends what lies in `range` of a media buffer that is ours from the socket at a place, now or with the
    /// next submission. The buffer is given back with that. A full socket drops the packet: late media is
    /// worth less than its buffer.
    fn send_media(&mut self, buffer: u16, range: Range<usize>, place: u32, to: SocketAddr);

    /// Sends a packet of our own making likewise. False when too many wait already.
    #[must_use]
    fn send_made(&mut self, packet: Box<[u8]>, place: u32, to: SocketAddr) -> bool;

    /// Takes up to `limit` completions: datagrams, ends of receives, the bell, and sends that failed.
    fn completions(&mut self, limit: usize, out: &mut Vec<Completion>);

    /// True when a completion waits to be taken.
    fn has_completions(&mut self) -> bool;

    /// The SIP datagram of a receive's completion, and its buffer.
    fn sip_datagram(&mut self, buffer: u16, result: i32) -> Option<(Datagram, &mut [u8])>;

    /// The packet of a receive's completion, and its buffer.
    fn media_datagram(&mut self, buffer: u16, result: i32) -> Option<(Datagram, &mut [u8])>;

    /// Gives a SIP buffer back.
    fn give_back_sip(&mut self, buffer: u16);

    /// Gives a media buffer back.
    fn give_back_media(&mut self, buffer: u16);

    /// Lets all go that was asked for, and sleeps.
    fn submit(&mut self, wait: Wait) -> io::Result<()>;
}
