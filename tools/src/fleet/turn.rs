//! Whose turn it is while a call is set up, so that a busy generator does not count as a slow peer.
//!
//! A message is the peer's until the kernel has it for us, and ours from then until we send the next one. Of a caller's
//! time from INVITE to 200, what neither of the two phones had is the peer's.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use base::Instant;
use nix::sys::socket::sockopt::ReceiveTimestampns;
use nix::sys::socket::{MsgFlags, SockaddrStorage, recvmsg, setsockopt};

use crate::clock;

/// Has the kernel note when it received what comes to this socket.
pub fn stamp(socket: &UdpSocket) -> io::Result<()> {
    Ok(setsockopt(socket, ReceiveTimestampns, &true)?)
}

/// Room for what the kernel says beside a datagram.
pub fn room() -> Vec<u8> {
    nix::cmsg_space!(nix::libc::timespec)
}

/// A datagram, its sender, and when the kernel had it; `room` is used again and again.
pub fn receive(
    socket: &UdpSocket,
    buffer: &mut [u8],
    room: &mut [u8],
) -> io::Result<(usize, SocketAddr, Instant)> {
    let mut slices = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::empty();
    let received = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut slices, Some(room), flags)?;
    let stamped = received.cmsgs()?.find_map(clock::stamp);
    let from = received.address.as_ref().and_then(|from| {
        let four = from.as_sockaddr_in().map(|from| SocketAddr::V4((*from).into()));
        four.or_else(|| from.as_sockaddr_in6().map(|from| SocketAddr::V6((*from).into())))
    });
    let from = from.ok_or(io::ErrorKind::AddrNotAvailable)?;
    Ok((received.bytes, from, stamped.map_or_else(clock::now, monotonic)))
}

/// What the kernel's stamp is on our clock: a second ago at most, whoever sets the time of day meanwhile.
fn monotonic(stamped: u64) -> Instant {
    let (now, day) = (clock::now(), clock::realtime());
    let ago = day.saturating_sub(stamped).min(1_000_000_000);
    Instant::from_nanos(now.as_nanos().saturating_sub(ago))
}

/// The set-up of a phone's call, as far as it is its own doing.
#[derive(Debug, Default)]
pub struct Turn {
    /// A call was ordered, and its first INVITE is not sent yet.
    ordered: bool,
    /// When that was sent.
    begun: Option<Instant>,
    /// When the INVITE came that is not answered yet.
    invited: Option<Instant>,
    /// When the datagram came that is taken now.
    came: Option<Instant>,
    /// For how long it was this phone's turn.
    own: Duration,
}

impl Turn {
    /// A call is ordered.
    pub fn order(&mut self) {
        *self = Turn { ordered: true, ..Turn::default() };
    }

    /// A datagram that the kernel had at `came` is taken from now on.
    pub fn take(&mut self, came: Instant, datagram: &[u8]) {
        self.came = Some(came);
        if datagram.starts_with(b"INVITE ") && self.invited.is_none() {
            *self = Turn { invited: Some(came), came: Some(came), ..Turn::default() };
        }
    }

    /// What followed from it is done.
    pub fn taken(&mut self) {
        self.came = None;
    }

    /// A datagram is sent now.
    pub fn send(&mut self, now: Instant, datagram: &[u8]) {
        if datagram.starts_with(b"INVITE ") {
            if std::mem::take(&mut self.ordered) {
                self.begun = Some(now);
            } else if let Some(came) = self.came {
                // A challenge is answered.
                self.own += now.since(came);
            }
        } else if datagram.starts_with(b"SIP/2.0 200 ")
            && let Some(invited) = self.invited.take()
        {
            self.own = now.since(invited);
        }
    }

    /// The phone's call is answered: of a caller, for how long it was others' turn; of a called one, for how long it
    /// was its own.
    pub fn answered(&self) -> Duration {
        match (self.begun, self.came) {
            (Some(begun), Some(came)) => came.since(begun).saturating_sub(self.own),
            _ => self.own,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn what_neither_phone_had_is_the_peers() {
        let (mut caller, mut called) = (Turn::default(), Turn::default());
        caller.order();
        caller.send(at(10), b"INVITE sip:1 SIP/2.0");
        caller.take(at(11), b"SIP/2.0 407 Proxy Authentication Required");
        caller.send(at(16), b"ACK sip:1 SIP/2.0");
        caller.send(at(17), b"INVITE sip:1 SIP/2.0");
        caller.taken();
        called.take(at(19), b"INVITE sip:2 SIP/2.0");
        called.taken();
        called.send(at(40), b"SIP/2.0 180 Ringing");
        called.send(at(60), b"SIP/2.0 200 OK");
        caller.take(at(63), b"SIP/2.0 200 OK");
        assert_eq!(caller.answered(), Duration::from_millis(47));
        // One to the challenge, two to the INVITE, three to the 200.
        assert_eq!(caller.answered() - called.answered(), Duration::from_millis(6));
    }

    #[test]
    fn the_kernels_time_is_before_ours() {
        let one = UdpSocket::bind("127.0.0.1:0").unwrap();
        let other = UdpSocket::bind("[::1]:0").unwrap();
        for socket in [&one, &other] {
            stamp(socket).unwrap();
            let before = clock::now();
            socket.send_to(b"hello", socket.local_addr().unwrap()).unwrap();
            let mut buffer = [0; 16];
            let (length, from, came) = receive(socket, &mut buffer, &mut room()).unwrap();
            assert_eq!((&buffer[..length], from), (&b"hello"[..], socket.local_addr().unwrap()));
            // The two clocks are not read at the same moment.
            let slack = Duration::from_millis(1);
            assert!(before < came + slack && came < clock::now() + slack, "{before:?} {came:?}");
        }
    }
}
