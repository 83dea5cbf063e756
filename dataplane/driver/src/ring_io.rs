//! One worker's io_uring: all its datagrams in and out, and its doorbells.
//!
//! Receives are multishot and draw on two groups of buffers that the kernel fills by itself, small ones
//! for media and ones that hold any datagram for SIP. A receive that waits takes 860 bytes of the kernel,
//! a poll 256: where packets are seconds apart, on RTCP sockets, a poll waits, and what it tells of is
//! received after it:
//!
//! ```text
//! receive_media --> poll --readable--> receive --socket is empty--> (last completion) receive_media
//! ```
//!
//! A media packet is sent out of the buffer that it
//! came in, and the buffer is offered again right after the submission: see [`Ring::send_now`].

use std::collections::VecDeque;
use std::io;
use std::mem::ManuallyDrop;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::Duration;

use io_uring::types::{CancelBuilder, Fixed, RecvMsgOut, SubmitArgs, Timespec};
use io_uring::{Builder, IoUring, cqueue, opcode, squeue};
use media::SocketSlot;

use crate::addr::{self, KernelAddr, NAME_LEN};
use crate::buffers::Buffers;
use crate::datagrams::{
    BELLS, Completion, Datagram, Datagrams, MEDIA_BUFFER_BYTES, SIP_BUFFER_BYTES,
    SIP_SENDS_WAITING, Wait,
};
use crate::token::Token;

/// Requests between two submissions; more are submitted in between.
const SUBMISSIONS: u32 = 1_024;
/// Completions that the kernel can leave without its slow overflow list: a burst on every socket.
const COMPLETIONS: u32 = 16_384;

/// Media buffers. After 80 ms without the core each of 2,000 streams has four packets in its socket,
/// and the kernel empties all the sockets in one turn; a socket that finds no buffer ends its receive.
const MEDIA_BUFFERS: u16 = 8_192;
/// So many of them are offered at first: what 150,000 packets a second bring in 7 ms. The others cost no
/// memory before a burst that is too much for these; see [`Buffers::widen`].
const MEDIA_BUFFERS_AT_FIRST: u16 = 1_024;
const MEDIA_GROUP: u16 = 0;

/// SIP buffers. They are given back within the cycle that took them, but the kernel takes 32 datagrams
/// of a socket in a turn, and a cycle that fills the queue of submissions with its replies gives it
/// several turns: 64 were just short of that.
const SIP_BUFFERS: u16 = 128;
const SIP_GROUP: u16 = 1;

/// SIP datagrams on their way at a time; more wait in a queue.
const SIP_SENDS: usize = 1_024;
/// Packets of our own making between two submissions: a turn of 1,000 prompts and mixes, and as many more
/// when the turn came late.
const MADE_SENDS: usize = 2_048;

/// Completions that end a time of gathering.
const GATHERED: usize = 64;

/// Times that a queue of submissions is offered to the kernel before what needs it empty fails. Each
/// takes all of it, unless memory is so short that not one request can be made.
const FLUSH_TRIES: u32 = 64;

/// How long the end of a worker waits for the kernel to let go of its memory.
const QUIESCE_MS: u64 = 1_000;

/// Where a datagram begins in its buffer: behind the kernel's four words and the sender's name.
const DATAGRAM_AT: usize = 16 + NAME_LEN;

/// The rings of one worker. It belongs to the thread that opened it (`IORING_SETUP_SINGLE_ISSUER`).
pub struct Ring {
    uring: IoUring,
    /// What the kernel may read and write; freed only when it has let go.
    memory: ManuallyDrop<Box<Memory>>,
    sip_waiting: VecDeque<(u8, KernelAddr, Rc<[u8]>)>,
    sip_free: Vec<u32>,
    /// Requests that found the queue of submissions full, in their order.
    later: VecDeque<squeue::Entry>,
    /// The kernel knows of a least time to wait (Linux 6.12).
    gathers: bool,
    /// Requests whose last completion has not been seen.
    in_flight: usize,
    /// Media buffers whose packets the next submission sends.
    going: Vec<u16>,
    /// RTCP sockets that a poll told of, while their receives are not started.
    ready: Vec<(SocketSlot, u32)>,
    /// In which place each pair's RTCP socket lies, while one of its requests is in flight.
    rtcp_places: Vec<u32>,
}

struct Memory {
    media: Buffers,
    /// Where the packet in each media buffer is being sent.
    media_to: Vec<KernelAddr>,
    /// Packets of our own making that the next submission sends; it never grows beyond its capacity.
    made: Vec<(KernelAddr, Box<[u8]>)>,
    sip: Buffers,
    sip_sends: Vec<SipSend>,
    /// The shape of a received message: a name, no control data. Only its lengths are read.
    shape: libc::msghdr,
    rings: [u64; BELLS],
}

struct SipSend {
    to: KernelAddr,
    datagram: Option<Rc<[u8]>>,
}

/// io_uring is not there, or cannot do what is needed.
#[derive(Debug)]
pub struct RingError {
    /// What is missing.
    pub missing: &'static str,
    /// What the kernel said.
    pub source: io::Error,
}

impl Ring {
    fn build(files: u32, builder: &mut Builder) -> Result<Self, RingError> {
        let missing = |missing| move |source| RingError { missing, source };
        let uring: IoUring = builder
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)
            .map_err(|source| RingError { missing: why_no_ring(&source), source })?;
        let submitter = uring.submitter();
        submitter.register_files_sparse(files).map_err(missing(
            "a table of files in the ring (is RLIMIT_NOFILE below the sockets that are needed?)",
        ))?;
        let buffers = "rings of provided buffers (Linux 5.19 or later)";
        // SAFETY: both groups live in `Memory`, which `Ring::drop` frees only when no request of this
        // ring is in flight any more, and leaks otherwise.
        let (media, sip) = unsafe {
            (
                Buffers::register(
                    &submitter,
                    MEDIA_GROUP,
                    MEDIA_BUFFERS,
                    MEDIA_BUFFERS_AT_FIRST,
                    MEDIA_BUFFER_BYTES,
                )
                .map_err(missing(buffers))?,
                Buffers::register(
                    &submitter,
                    SIP_GROUP,
                    SIP_BUFFERS,
                    SIP_BUFFERS,
                    SIP_BUFFER_BYTES,
                )
                .map_err(missing(buffers))?,
            )
        };
        // SAFETY: a msghdr of zeros is one without name, data and control: null pointers, no lengths.
        let mut shape: libc::msghdr = unsafe { std::mem::zeroed() };
        shape.msg_namelen = NAME_LEN as u32;
        let sip_sends = (0..SIP_SENDS).map(|_| SipSend { to: KernelAddr::NONE, datagram: None });
        let memory = Memory {
            media,
            media_to: vec![KernelAddr::NONE; usize::from(MEDIA_BUFFERS)],
            made: Vec::with_capacity(MADE_SENDS),
            sip,
            sip_sends: sip_sends.collect(),
            shape,
            rings: [0; BELLS],
        };
        Ok(Ring {
            gathers: uring.params().is_feature_min_timeout(),
            uring,
            memory: ManuallyDrop::new(Box::new(memory)),
            sip_waiting: VecDeque::new(),
            sip_free: (0..SIP_SENDS as u32).rev().collect(),
            later: VecDeque::new(),
            in_flight: 0,
            going: Vec::new(),
            ready: Vec::new(),
            rtcp_places: Vec::new(),
        })
    }

    /// Has a packet sent by the next submission, which is done with it when it returns.
    ///
    /// The kernel copies a datagram within the send. With MSG_DONTWAIT the request is `REQ_F_NOWAIT`: the
    /// send is tried while the request is taken from the queue, and fails at once where it would have to
    /// wait; it is never put off to a worker thread or a poll. `IOSQE_CQE_SKIP_SUCCESS`: only a failure
    /// completes, so a packet that was sent costs no completion.
    fn send_now(
        &mut self,
        bytes: (*const u8, usize),
        place: u32,
        to: (*const libc::sockaddr, u32),
    ) {
        let entry = opcode::Send::new(Fixed(place), bytes.0, bytes.1 as u32)
            .flags(libc::MSG_DONTWAIT)
            .dest_addr(to.0)
            .dest_addr_len(to.1 as _)
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS);
        self.queue(entry.user_data(Token::MediaSend.encode()));
    }

    /// Offers the buffers again, and drops the packets, that the last submission sent: all of them, once
    /// nothing is queued any more.
    fn release_sent(&mut self) {
        if self.going.is_empty() && self.memory.made.is_empty() {
            return;
        }
        if self.later.is_empty() && self.uring.submission().is_empty() {
            for buffer in self.going.drain(..) {
                self.memory.media.give_back(buffer);
            }
            self.memory.made.clear();
            self.memory.media.publish();
        }
    }

    /// Waits until there is something to receive on an RTCP socket.
    fn poll_rtcp(&mut self, socket: SocketSlot, generation: u32, place: u32) {
        let index = socket.pair().index();
        if index >= self.rtcp_places.len() {
            self.rtcp_places.resize(index + 1, 0);
        }
        self.rtcp_places[index] = place;
        let poll = opcode::PollAdd::new(Fixed(place), libc::POLLIN as u32).build();
        self.push(poll, Token::MediaReady(socket, generation));
    }

    /// Receives what polls told of, until the sockets are empty.
    fn receive_ready(&mut self) {
        while let Some((socket, generation)) = self.ready.pop() {
            let shape = &raw const self.memory.shape;
            let file = Fixed(self.rtcp_places[socket.pair().index()]);
            // With MSG_DONTWAIT an empty socket ends the receive by EAGAIN.
            let entry = opcode::RecvMsgMulti::new(file, shape, MEDIA_GROUP)
                .flags(libc::MSG_DONTWAIT as u32)
                .build();
            self.push(entry, Token::MediaReceive(socket, generation));
        }
    }

    fn start_sip_sends(&mut self) {
        while let Some(place) = self.sip_free.pop() {
            let Some((location, to, datagram)) = self.sip_waiting.pop_front() else {
                self.sip_free.push(place);
                return;
            };
            let send = &mut self.memory.sip_sends[place as usize];
            send.to = to;
            let bytes = send.datagram.insert(datagram);
            let file = Fixed(u32::from(location));
            let entry = opcode::Send::new(file, bytes.as_ptr(), bytes.len() as u32)
                .dest_addr(send.to.as_ptr())
                .dest_addr_len(send.to.len())
                .build();
            self.push(entry, Token::SipSend(place));
        }
    }

    /// The request is on its way from here on: what the queue has no room for goes with a later
    /// submission.
    fn push(&mut self, entry: squeue::Entry, token: Token) {
        self.in_flight += 1;
        self.queue(entry.user_data(token.encode()));
    }

    fn queue(&mut self, entry: squeue::Entry) {
        if self.later.is_empty() && self.try_push(&entry) {
            return;
        }
        self.later.push_back(entry);
        self.push_later();
    }

    /// Moves what waits into the queue, submitting whenever that is full, as long as the kernel takes
    /// it.
    fn push_later(&mut self) {
        while let Some(entry) = self.later.pop_front() {
            if self.try_push(&entry) {
                continue;
            }
            // What could not be started completes with an error of its own (IORING_SETUP_SUBMIT_ALL);
            // what was not even taken is still in the queue.
            let _ = self.uring.submit();
            if !self.try_push(&entry) {
                self.later.push_front(entry);
                return;
            }
        }
    }

    /// Puts a request into the queue of submissions; false when that is full.
    fn try_push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: everything that the entries of this file point at lies in `Memory`, behind a Box that
        // does not move: the shape and the counters of rings in place; media buffers and `media_to`,
        // `sip_sends` in vectors that never grow, as `made` does not beyond its capacity. A SIP datagram is
        // kept by its place until its completion. A media buffer is not given back, nor a made packet
        // dropped, before `release_sent` has seen that the kernel took all of the queue, and then it is
        // done with them (see `send_now`). `Ring::drop` leaks `Memory` if a request may be in flight;
        // what it leaves in the queue the kernel never looks at.
        unsafe { self.uring.submission().push(entry) }.is_ok()
    }

    /// Submits all that was asked for. A change of the table of files is at once, so it would overtake
    /// a send that is queued, and that would go out of whatever socket has its place next.
    fn flush(&mut self) -> io::Result<()> {
        for _ in 0..FLUSH_TRIES {
            self.push_later();
            if self.later.is_empty() && self.uring.submission().is_empty() {
                return Ok(());
            }
            self.submit(Wait::No)?;
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }

    /// Ends all requests and waits for their last completions. True when none is left.
    fn quiesce(&mut self) -> bool {
        let step = Duration::from_millis(10);
        let mut last = Vec::new();
        for _ in 0..QUIESCE_MS / 10 {
            let _ = self.submit(Wait::No);
            // What is not found has completed; any other failure shows in the count below.
            let _ = self.uring.submitter().register_sync_cancel(None, CancelBuilder::any().all());
            last.clear();
            self.completions(usize::MAX, &mut last);
            if self.in_flight == 0 {
                return true;
            }
            let _ = self.submit(Wait::Any(step));
        }
        false
    }
}

impl Datagrams for Ring {
    const NAME: &'static str = "io_uring";

    fn open(places: u32) -> Result<Self, RingError> {
        Self::build(places, &mut IoUring::builder())
    }

    fn put(&mut self, first: u32, sockets: Vec<OwnedFd>) -> io::Result<()> {
        self.flush()?;
        // The ring holds them from here on.
        let raw: Vec<RawFd> = sockets.iter().map(AsRawFd::as_raw_fd).collect();
        self.uring.submitter().register_files_update(first, &raw).map(drop)
    }

    fn clear_pair(&mut self, first: u32) -> io::Result<()> {
        self.flush()?;
        self.uring.submitter().register_files_update(first, &[-1, -1]).map(drop)
    }

    fn listen(&mut self, number: u8, bell: BorrowedFd<'_>) {
        let to = (&raw mut self.memory.rings[usize::from(number)]).cast();
        let fd = io_uring::types::Fd(bell.as_raw_fd());
        self.push(opcode::Read::new(fd, to, 8).build(), Token::Bell(number));
    }

    fn receive_sip(&mut self, location: u8) {
        let shape = &raw const self.memory.shape;
        let entry = opcode::RecvMsgMulti::new(Fixed(u32::from(location)), shape, SIP_GROUP).build();
        self.push(entry, Token::SipReceive(location));
    }

    fn receive_media(&mut self, socket: SocketSlot, generation: u32, place: u32) {
        if socket.is_rtcp() {
            return self.poll_rtcp(socket, generation, place);
        }
        let shape = &raw const self.memory.shape;
        let entry = opcode::RecvMsgMulti::new(Fixed(place), shape, MEDIA_GROUP).build();
        self.push(entry, Token::MediaReceive(socket, generation));
    }

    fn end_receive(&mut self, socket: SocketSlot, generation: u32, _: u32) {
        let receive = Token::MediaReceive(socket, generation).encode();
        self.push(opcode::AsyncCancel::new(receive).build(), Token::Cancel);
        if socket.is_rtcp() {
            // One of the two is in flight. A receive that is started after this ends by itself.
            let poll = Token::MediaReady(socket, generation).encode();
            self.push(opcode::AsyncCancel::new(poll).build(), Token::Cancel);
        }
    }

    fn send_sip(&mut self, location: u8, to: SocketAddr, datagram: Rc<[u8]>) -> bool {
        if self.sip_waiting.len() >= SIP_SENDS_WAITING {
            return false;
        }
        self.sip_waiting.push_back((location, KernelAddr::new(to), datagram));
        self.start_sip_sends();
        true
    }

    fn send_media(&mut self, buffer: u16, range: Range<usize>, place: u32, to: SocketAddr) {
        let memory = &mut **self.memory;
        let bytes = &memory.media.bytes_mut(buffer)[range];
        let addr = &mut memory.media_to[usize::from(buffer)];
        *addr = KernelAddr::new(to);
        let (bytes, addr) = ((bytes.as_ptr(), bytes.len()), (addr.as_ptr(), addr.len()));
        self.going.push(buffer);
        self.send_now(bytes, place, addr);
    }

    fn send_made(&mut self, packet: Box<[u8]>, place: u32, to: SocketAddr) -> bool {
        let made = &mut self.memory.made;
        if made.len() >= MADE_SENDS {
            return false;
        }
        made.push((KernelAddr::new(to), packet));
        let (addr, packet) = &made[made.len() - 1];
        let (bytes, addr) = ((packet.as_ptr(), packet.len()), (addr.as_ptr(), addr.len()));
        self.send_now(bytes, place, addr);
        true
    }

    fn completions(&mut self, limit: usize, out: &mut Vec<Completion>) {
        let mut is_short = false;
        for entry in self.uring.completion().take(limit) {
            let (more, mut result) = (cqueue::more(entry.flags()), entry.result());
            let Some(mut token) = Token::decode(entry.user_data()) else {
                continue;
            };
            // Sends of media are counted nowhere: they complete only when they fail.
            self.in_flight -= usize::from(!more && token != Token::MediaSend);
            let buffer = match token {
                Token::SipReceive(_) => &mut self.memory.sip,
                Token::MediaReceive(..) => &mut self.memory.media,
                Token::SipSend(place) => {
                    self.memory.sip_sends[place as usize].datagram = None;
                    self.sip_free.push(place);
                    if result < 0 {
                        out.push(Completion { token, result, more, buffer: None });
                    }
                    continue;
                }
                Token::Cancel => continue,
                Token::MediaReady(socket, generation) if result > 0 => {
                    self.ready.push((socket, generation));
                    continue;
                }
                Token::MediaReady(socket, generation) => {
                    // Cancelled or failed in the place of its receive.
                    token = Token::MediaReceive(socket, generation);
                    out.push(Completion { token, result, more, buffer: None });
                    continue;
                }
                Token::MediaSend | Token::Bell(_) => {
                    out.push(Completion { token, result, more, buffer: None });
                    continue;
                }
            };
            let buffer = cqueue::buffer_select(entry.flags()).filter(|&number| buffer.take(number));
            is_short |= result == -libc::ENOBUFS && matches!(token, Token::MediaReceive(..));
            if result == -libc::EAGAIN {
                // The socket is empty, so this receive is done, and did not fail.
                result = 0;
            }
            out.push(Completion { token, result, more, buffer });
        }
        if is_short {
            // Once for all receives that ended in this turn.
            self.memory.media.widen();
        }
        self.receive_ready();
        self.start_sip_sends();
    }

    fn has_completions(&mut self) -> bool {
        !self.uring.completion().is_empty()
    }

    fn sip_datagram(&mut self, buffer: u16, result: i32) -> Option<(Datagram, &mut [u8])> {
        let memory = &mut **self.memory;
        let bytes = memory.sip.bytes_mut(buffer);
        Some((datagram(&memory.shape, bytes, result)?, bytes))
    }

    fn media_datagram(&mut self, buffer: u16, result: i32) -> Option<(Datagram, &mut [u8])> {
        let memory = &mut **self.memory;
        let bytes = memory.media.bytes_mut(buffer);
        Some((datagram(&memory.shape, bytes, result)?, bytes))
    }

    fn give_back_sip(&mut self, buffer: u16) {
        self.memory.sip.give_back(buffer);
    }

    fn give_back_media(&mut self, buffer: u16) {
        self.memory.media.give_back(buffer);
    }

    fn submit(&mut self, wait: Wait) -> io::Result<()> {
        self.memory.media.publish();
        self.memory.sip.publish();
        self.push_later();
        let (count, least, wait) = match wait {
            // What still waits for the queue is tried again at once.
            _ if !self.later.is_empty() => (0, Duration::ZERO, Duration::ZERO),
            Wait::No => (0, Duration::ZERO, Duration::ZERO),
            Wait::Any(wait) => (1, Duration::ZERO, wait),
            Wait::Batch(count, wait) => (count as usize, Duration::ZERO, wait),
            Wait::Gather(least, wait) if self.gathers => (GATHERED, least, wait),
            Wait::Gather(_, wait) => (1, Duration::ZERO, wait),
        };
        let result = match count {
            1.. => {
                let time = Timespec::new().sec(wait.as_secs()).nsec(wait.subsec_nanos());
                let args = SubmitArgs::new().timespec(&time);
                let args = args.min_wait_usec(least.as_micros() as u32);
                self.uring.submitter().submit_with_args(count, &args)
            }
            0 => {
                let queue = self.uring.submission();
                let nothing = queue.is_empty() && !queue.taskrun() && !queue.cq_overflow();
                drop(queue);
                if nothing { Ok(0) } else { self.uring.submit() }
            }
        };
        self.release_sent();
        match result {
            Ok(_) => Ok(()),
            // Nothing completed in time, a signal came, or completions must be taken first.
            Err(error) => match error.raw_os_error() {
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.sip_waiting.clear();
        if self.quiesce() {
            // SAFETY: no request is in flight, so none reads or writes the memory; the buffer groups
            // are only drawn on by requests, and `self.uring` takes none any more. It is not used after.
            unsafe { ManuallyDrop::drop(&mut self.memory) }
        } else {
            tracing::error!(in_flight = self.in_flight, "the ring did not come to rest");
        }
        // At once, so that the next process finds the ports free; the ring itself is torn down later.
        let _ = self.uring.submitter().unregister_files();
    }
}

fn datagram(shape: &libc::msghdr, buffer: &[u8], result: i32) -> Option<Datagram> {
    let received = buffer.get(..usize::try_from(result).ok()?)?;
    let message = RecvMsgOut::parse(received, shape).ok()?;
    Some(Datagram {
        from: addr::parse(message.name_data())?,
        range: DATAGRAM_AT..DATAGRAM_AT + message.payload_data().len(),
        truncated: message.is_payload_truncated(),
    })
}

fn why_no_ring(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => "io_uring (this kernel is built without it)",
        Some(libc::EPERM) => {
            "the permission to use io_uring (sysctl kernel.io_uring_disabled, or a seccomp filter)"
        }
        Some(libc::EINVAL) => "io_uring with SINGLE_ISSUER and DEFER_TASKRUN (Linux 6.1 or later)",
        Some(libc::ENOMEM) => "memory for the rings (RLIMIT_MEMLOCK, or the cgroup's limit)",
        _ => "a working io_uring",
    }
}

#[cfg(test)]
mod tests;
