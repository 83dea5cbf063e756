//! A worker's datagrams without io_uring: epoll says which sockets have some, recvmmsg takes them, sendto
//! sends. It is what a worker uses on an old kernel, in a container whose seccomp filter refuses io_uring, or
//! where `kernel.io_uring_disabled` is set; and what io_uring is measured against.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use media::SocketSlot;
use rustix::event::epoll;

use crate::RingError;
use crate::addr::{self, KernelAddr};
use crate::datagrams::{
    BELLS, Completion, Datagram, Datagrams, MEDIA_BUFFER_BYTES, SIP_BUFFER_BYTES,
    SIP_SENDS_WAITING, Wait,
};
use crate::pool::{DATAGRAM_AT, Pool, Taken};
use crate::token::Token;

/// Media buffers: they are given back within the cycle that took them, and one takes as many datagrams as
/// half of these.
const MEDIA_BUFFERS: u16 = 2_048;
/// SIP buffers, given back likewise; what does not find one stays in its socket.
const SIP_BUFFERS: u16 = 128;
/// Sockets that one look at epoll tells of.
const READY: usize = 256;
/// How soon a full SIP socket is tried again.
const RETRY: Duration = Duration::from_millis(1);
/// The key of the first doorbell in epoll, behind which the others follow; sockets have their place's number.
const BELL: u64 = 1 << 32;

/// The sockets of one worker and what tells of them.
pub struct Mmsg {
    epoll: OwnedFd,
    places: Vec<Place>,
    bells: [Option<OwnedFd>; BELLS],
    /// What epoll told, in the order in which it came about, and how much of it was seen to.
    ready: Vec<epoll::Event>,
    seen: usize,
    /// Places whose sockets may have more than a batch took; epoll tells of new datagrams only.
    unfinished: VecDeque<u32>,
    /// Ends of receives and failed sends that were not told yet.
    done: VecDeque<Completion>,
    media: Pool,
    sip: Pool,
    sip_waiting: VecDeque<(u8, KernelAddr, Rc<[u8]>)>,
    /// False once the kernel refused to sleep for less than whole milliseconds.
    fine: bool,
}

#[derive(Debug, Default)]
struct Place {
    socket: Option<OwnedFd>,
    /// The receive that goes on.
    receive: Option<Token>,
}

impl Mmsg {
    fn receive(&mut self, place: u32, token: Token) {
        let Some(entry) = self.places.get_mut(place as usize) else { return };
        let Some(socket) = &entry.socket else { return };
        let key = epoll::EventData::new_u64(u64::from(place));
        match epoll::add(&self.epoll, socket, key, epoll::EventFlags::IN | epoll::EventFlags::ET) {
            Ok(()) => entry.receive = Some(token),
            Err(error) => self.ended(token, error.raw_os_error()),
        }
    }

    fn ended(&mut self, token: Token, errno: i32) {
        self.done.push_back(Completion { token, result: -errno, more: false, buffer: None });
    }

    /// Receives nothing at that place any more, for that reason.
    fn end(&mut self, place: u32, errno: i32) {
        let Some(entry) = self.places.get_mut(place as usize) else { return };
        if let (Some(token), Some(socket)) = (entry.receive.take(), &entry.socket) {
            // It was added, and is added no more than once.
            let _ = epoll::delete(&self.epoll, socket);
            self.ended(token, errno);
        }
    }

    /// Takes what waits in the socket at that place, as far as one batch goes.
    fn take(&mut self, place: u32, out: &mut Vec<Completion>) {
        let Some(entry) = self.places.get(place as usize) else { return };
        let (Some(token), Some(socket)) = (entry.receive, &entry.socket) else { return };
        let pool = match token {
            Token::SipReceive(_) => &mut self.sip,
            _ => &mut self.media,
        };
        let taken = pool.receive(socket.as_fd(), |buffer, len| {
            out.push(Completion { token, result: len, more: true, buffer: Some(buffer) });
        });
        match taken {
            Ok(Taken::All) => {}
            Ok(Taken::Some) => self.unfinished.push_back(place),
            Err(error) => self.end(place, error.raw_os_error().unwrap_or(libc::EIO)),
        }
    }

    fn hear(&mut self, number: u8, out: &mut Vec<Completion>) {
        if let Some(Some(bell)) = self.bells.get(usize::from(number)) {
            // Whoever rang is heard by this; a bell that is silent after all does no harm.
            let rings = rustix::io::read(bell, &mut [0u8; 8][..]).unwrap_or_default();
            out.push(Completion {
                token: Token::Bell(number),
                result: rings as i32,
                more: false,
                buffer: None,
            });
        }
    }

    fn send(&mut self, place: u32, bytes: &[u8], to: &KernelAddr) -> Result<(), i32> {
        let socket = self.places.get(place as usize).and_then(|place| place.socket.as_ref());
        let Some(socket) = socket else { return Err(libc::EBADF) };
        send(socket.as_fd(), bytes, to)
    }

    fn send_waiting_sip(&mut self) {
        while let Some((location, to, datagram)) = self.sip_waiting.pop_front() {
            match self.send(u32::from(location), &datagram, &to) {
                Err(libc::EAGAIN | libc::ENOBUFS | libc::EINTR) => {
                    self.sip_waiting.push_front((location, to, datagram));
                    return;
                }
                Err(errno) => self.ended(Token::SipSend(0), errno),
                Ok(()) => {}
            }
        }
    }

    /// Sleeps until a socket has something, and notes which.
    fn look(&mut self, wait: Duration) -> io::Result<()> {
        self.ready.clear();
        self.seen = 0;
        if self.fine {
            match wait_fine(self.epoll.as_fd(), &mut self.ready, wait) {
                // An old kernel, or a filter that does not know the call.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
                    self.fine = false;
                }
                result => return result,
            }
        }
        let ms = wait.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128) as i64;
        let time = rustix::event::Timespec { tv_sec: ms / 1_000, tv_nsec: ms % 1_000 * 1_000_000 };
        let space = rustix::buffer::spare_capacity(&mut self.ready);
        epoll::wait(&self.epoll, space, Some(&time))?;
        Ok(())
    }
}

impl Datagrams for Mmsg {
    const NAME: &'static str = "recvmmsg";

    fn open(places: u32) -> Result<Self, RingError> {
        let missing =
            |source: rustix::io::Errno| RingError { missing: "epoll", source: source.into() };
        Ok(Mmsg {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC).map_err(missing)?,
            places: (0..places).map(|_| Place::default()).collect(),
            bells: Default::default(),
            ready: Vec::with_capacity(READY),
            seen: 0,
            unfinished: VecDeque::new(),
            done: VecDeque::new(),
            media: Pool::new(MEDIA_BUFFERS, MEDIA_BUFFER_BYTES),
            sip: Pool::new(SIP_BUFFERS, SIP_BUFFER_BYTES),
            sip_waiting: VecDeque::new(),
            fine: true,
        })
    }

    fn put(&mut self, first: u32, sockets: Vec<OwnedFd>) -> io::Result<()> {
        let places = self.places.get_mut(first as usize..first as usize + sockets.len());
        let places = places.ok_or(io::ErrorKind::InvalidInput)?;
        for (place, socket) in places.iter_mut().zip(sockets) {
            *place = Place { socket: Some(socket), receive: None };
        }
        Ok(())
    }

    fn clear_pair(&mut self, first: u32) -> io::Result<()> {
        let places = self.places.get_mut(first as usize..first as usize + 2);
        places.ok_or(io::ErrorKind::InvalidInput)?.fill_with(Place::default);
        Ok(())
    }

    fn listen(&mut self, number: u8, bell: BorrowedFd<'_>) {
        let entry = &mut self.bells[usize::from(number)];
        if entry.is_some() {
            return;
        }
        let key = epoll::EventData::new_u64(BELL + u64::from(number));
        let added = bell.try_clone_to_owned().and_then(|bell| {
            epoll::add(&self.epoll, &bell, key, epoll::EventFlags::IN)?;
            *entry = Some(bell);
            Ok(())
        });
        if let Err(error) = added {
            // The worker goes round twenty times a second all the same.
            tracing::error!(%error, "a worker's doorbell");
        }
    }

    fn receive_sip(&mut self, location: u8) {
        self.receive(u32::from(location), Token::SipReceive(location));
    }

    fn receive_media(&mut self, socket: SocketSlot, generation: u32, place: u32) {
        self.receive(place, Token::MediaReceive(socket, generation));
    }

    fn end_receive(&mut self, _: SocketSlot, _: u32, place: u32) {
        self.end(place, libc::ECANCELED);
    }

    fn send_sip(&mut self, location: u8, to: SocketAddr, datagram: Rc<[u8]>) -> bool {
        if self.sip_waiting.len() >= SIP_SENDS_WAITING {
            return false;
        }
        self.sip_waiting.push_back((location, KernelAddr::new(to), datagram));
        if self.sip_waiting.len() == 1 {
            self.send_waiting_sip();
        }
        true
    }

    fn send_media(&mut self, buffer: u16, range: Range<usize>, place: u32, to: SocketAddr) {
        let socket = self.places.get(place as usize).and_then(|place| place.socket.as_ref());
        let sent = match socket {
            Some(socket) => {
                let bytes = &self.media.bytes_mut(buffer)[range];
                send(socket.as_fd(), bytes, &KernelAddr::new(to))
            }
            None => Err(libc::EBADF),
        };
        self.media.give_back(buffer);
        if let Err(errno) = sent {
            self.ended(Token::MediaSend, errno);
        }
    }

    fn send_made(&mut self, packet: Box<[u8]>, place: u32, to: SocketAddr) -> bool {
        if let Err(errno) = self.send(place, &packet, &KernelAddr::new(to)) {
            self.ended(Token::MediaSend, errno);
        }
        true
    }

    fn completions(&mut self, limit: usize, out: &mut Vec<Completion>) {
        while out.len() < limit
            && let Some(done) = self.done.pop_front()
        {
            out.push(done);
        }
        while out.len() < limit
            && let Some(event) = self.ready.get(self.seen)
        {
            self.seen += 1;
            match event.data.u64() {
                bell @ BELL.. => self.hear((bell - BELL) as u8, out),
                place => self.take(place as u32, out),
            }
        }
        for _ in 0..self.unfinished.len() {
            if out.len() < limit
                && let Some(place) = self.unfinished.pop_front()
            {
                self.take(place, out);
            }
        }
    }

    fn has_completions(&mut self) -> bool {
        let unseen = self.seen < self.ready.len();
        unseen || !self.done.is_empty() || !self.unfinished.is_empty()
    }

    fn sip_datagram(&mut self, buffer: u16, result: i32) -> Option<(Datagram, &mut [u8])> {
        datagram(&mut self.sip, buffer, result)
    }

    fn media_datagram(&mut self, buffer: u16, result: i32) -> Option<(Datagram, &mut [u8])> {
        datagram(&mut self.media, buffer, result)
    }

    fn give_back_sip(&mut self, buffer: u16) {
        self.sip.give_back(buffer);
    }

    fn give_back_media(&mut self, buffer: u16) {
        self.media.give_back(buffer);
    }

    fn submit(&mut self, wait: Wait) -> io::Result<()> {
        self.send_waiting_sip();
        if self.seen < self.ready.len() {
            return Ok(());
        }
        let wait = match wait {
            _ if self.has_completions() => Duration::ZERO,
            Wait::No => Duration::ZERO,
            Wait::Any(wait) | Wait::Gather(_, wait) if self.sip_waiting.is_empty() => wait,
            Wait::Any(wait) | Wait::Gather(_, wait) => wait.min(RETRY),
            // epoll wakes at the first of them, so the sleep comes before.
            Wait::Batch(_, wait) => {
                std::thread::sleep(wait);
                Duration::ZERO
            }
        };
        match self.look(wait) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            result => result,
        }
    }
}

fn datagram(pool: &mut Pool, buffer: u16, result: i32) -> Option<(Datagram, &mut [u8])> {
    let truncated = pool.is_truncated(buffer);
    let bytes = pool.bytes_mut(buffer);
    let from = addr::parse(&bytes[..DATAGRAM_AT])?;
    let end = DATAGRAM_AT + usize::try_from(result).ok()?;
    Some((Datagram { from, range: DATAGRAM_AT..end.min(bytes.len()), truncated }, bytes))
}

fn send(socket: BorrowedFd<'_>, bytes: &[u8], to: &KernelAddr) -> Result<(), i32> {
    // SAFETY: the bytes and the address are borrowed for the call, with their own lengths, and the kernel
    // keeps neither.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            to.as_ptr(),
            to.len(),
        )
    };
    if sent < 0 { Err(errno()) } else { Ok(()) }
}

fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// epoll_pwait2, which knows nanoseconds (Linux 5.11).
fn wait_fine(
    epoll: BorrowedFd<'_>,
    ready: &mut Vec<epoll::Event>,
    wait: Duration,
) -> io::Result<()> {
    let time = libc::timespec {
        tv_sec: wait.as_secs().min(i32::MAX as u64) as libc::time_t,
        tv_nsec: wait.subsec_nanos().into(),
    };
    let space = ready.spare_capacity_mut();
    // SAFETY: `epoll::Event` has the layout of the kernel's `epoll_event`; there is room for as many as are
    // said, and the time is read within the call. A null set of signals changes none.
    let count = unsafe {
        libc::syscall(
            libc::SYS_epoll_pwait2,
            epoll.as_raw_fd(),
            space.as_mut_ptr(),
            space.len(),
            &raw const time,
            std::ptr::null::<libc::sigset_t>(),
            0usize,
        )
    };
    if count < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel wrote so many events, into the room behind the vector's end.
    unsafe { ready.set_len(ready.len() + count as usize) };
    Ok(())
}
