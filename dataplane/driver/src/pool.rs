//! Buffers that recvmmsg fills.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::addr::NAME_LEN;
use crate::pages::Pages;

/// Datagrams taken from a socket by one call: two packets of a stream that came together, and a burst after
/// a pause in a few calls.
const BATCH: usize = 8;

/// Where a datagram begins in its buffer: behind its sender's name, at a cache line.
pub const DATAGRAM_AT: usize = 64;

/// Equal buffers. Each is free, laid out for the next call, or ours: received and not yet given back.
#[derive(Debug)]
pub struct Pool {
    memory: Pages,
    size: usize,
    free: Vec<u16>,
    state: Vec<State>,
    /// The buffers laid out for the next call, and what the kernel is told of them.
    laid_out: Vec<u16>,
    headers: Box<[libc::mmsghdr; BATCH]>,
    parts: Box<[libc::iovec; BATCH]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Kernels,
    Ours { truncated: bool },
}

/// How much of what waits in a socket was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// All of it.
    All,
    /// There may be more.
    Some,
}

impl Pool {
    /// So many buffers of so many bytes each. They take memory as they are used, the last used first.
    pub fn new(count: u16, size: usize) -> Self {
        assert!(size > DATAGRAM_AT, "a buffer holds a datagram");
        // SAFETY: both are plain data of the kernel's, for which zeros are a value: null pointers and no
        // lengths.
        let (headers, parts) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        Pool {
            memory: Pages::zeroed(usize::from(count) * size),
            size,
            free: (0..count).rev().collect(),
            state: vec![State::Kernels; usize::from(count)],
            laid_out: Vec::with_capacity(BATCH),
            headers: Box::new(headers),
            parts: Box::new(parts),
        }
    }

    /// Takes what waits in a socket, up to a batch and as far as there are free buffers, and tells each buffer
    /// and its datagram's length.
    pub fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        mut tell: impl FnMut(u16, i32),
    ) -> io::Result<Taken> {
        while self.laid_out.len() < BATCH
            && let Some(buffer) = self.free.pop()
        {
            self.laid_out.push(buffer);
            self.lay_out(self.laid_out.len() - 1);
        }
        let most = self.laid_out.len();
        if most == 0 {
            return Ok(Taken::Some);
        }
        // SAFETY: the first `laid_out.len()` headers were written by `lay_out`: each has a name and one part
        // within a buffer that is laid out, so nobody has a slice of it, and `parts` is behind a Box that
        // does not move.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                most as u32,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        if count < 0 {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::EAGAIN) => Ok(Taken::All),
                Some(libc::EINTR) => Ok(Taken::Some),
                _ => Err(error),
            };
        }
        for nth in 0..count as usize {
            let (buffer, header) = (self.laid_out[nth], &self.headers[nth]);
            let truncated = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
            self.state[usize::from(buffer)] = State::Ours { truncated };
            tell(buffer, header.msg_len as i32);
        }
        for nth in (0..count as usize).rev() {
            match self.free.pop() {
                Some(buffer) => self.laid_out[nth] = buffer,
                None => drop(self.laid_out.swap_remove(nth)),
            }
            if nth < self.laid_out.len() {
                self.lay_out(nth);
            }
        }
        Ok(if count as usize == most { Taken::Some } else { Taken::All })
    }

    /// A buffer that is ours: its sender's name, and at [`DATAGRAM_AT`] the datagram.
    pub fn bytes_mut(&mut self, buffer: u16) -> &mut [u8] {
        let state = self.state[usize::from(buffer)];
        assert!(state != State::Kernels, "the kernel may write to it");
        // SAFETY: `state` has an entry for each buffer, so it lies within `memory`; it is ours, so it is not
        // laid out for the kernel; `&mut self` keeps other slices away.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.memory.start().add(usize::from(buffer) * self.size),
                self.size,
            )
        }
    }

    /// True when the datagram was longer than its buffer.
    pub fn is_truncated(&self, buffer: u16) -> bool {
        self.state[usize::from(buffer)] == State::Ours { truncated: true }
    }

    /// A buffer that is ours is free again.
    pub fn give_back(&mut self, buffer: u16) {
        let state = std::mem::replace(&mut self.state[usize::from(buffer)], State::Kernels);
        assert!(state != State::Kernels, "a buffer is given back once");
        self.free.push(buffer);
    }

    /// Tells the kernel of the buffer that is the `nth` of the next call.
    fn lay_out(&mut self, nth: usize) {
        let buffer = usize::from(self.laid_out[nth]);
        // SAFETY: buffers are numbered below their count, so this one lies within `memory`, and so does what
        // is behind its name, as it is longer than DATAGRAM_AT.
        let (name, data) = unsafe {
            let start = self.memory.start().add(buffer * self.size);
            (start, start.add(DATAGRAM_AT))
        };
        self.parts[nth] = libc::iovec { iov_base: data.cast(), iov_len: self.size - DATAGRAM_AT };
        let header = &mut self.headers[nth].msg_hdr;
        header.msg_name = name.cast();
        header.msg_namelen = NAME_LEN as u32;
        header.msg_iov = &raw mut self.parts[nth];
        header.msg_iovlen = 1;
        header.msg_flags = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn each_datagram_comes_once_and_in_order_though_buffers_run_out() {
        let (own, peer) = (UdpSocket::bind("127.0.0.1:0"), UdpSocket::bind("127.0.0.1:0"));
        let (own, peer) = (own.expect("a port"), peer.expect("a port"));
        let mut pool = Pool::new(12, DATAGRAM_AT + 8);
        let mut sent = 0u8;
        let mut seen = 0u8;
        for round in 0..40usize {
            for _ in 0..round % 14 {
                let long = 1 + usize::from(sent % 12);
                peer.send_to(&vec![sent; long], own.local_addr().expect("bound")).expect("sent");
                sent += 1;
            }
            let mut ours = Vec::new();
            while seen < sent {
                let before = ours.len();
                let taken = pool
                    .receive(own.as_fd(), |buffer, len| ours.push((buffer, len)))
                    .expect("it works");
                for (buffer, len) in &ours[before..] {
                    let long = 1 + usize::from(seen % 12);
                    let len = *len as usize;
                    assert_eq!((len, pool.is_truncated(*buffer)), (long.min(8), long > 8));
                    let bytes = &pool.bytes_mut(*buffer)[DATAGRAM_AT..DATAGRAM_AT + len];
                    assert!(bytes.iter().all(|byte| *byte == seen));
                    seen += 1;
                }
                if ours.len() == before {
                    assert_eq!(taken, Taken::Some);
                    assert_eq!(ours.len(), 12, "all of them are ours");
                    ours.drain(..).for_each(|(buffer, _)| pool.give_back(buffer));
                }
            }
            ours.drain(..).for_each(|(buffer, _)| pool.give_back(buffer));
        }
        assert!(sent > 200);
        let refused = pool.receive(std::io::stdin().as_fd(), |_, _| {}).expect_err("no socket");
        assert_eq!(refused.raw_os_error(), Some(libc::ENOTSOCK));
    }
}
