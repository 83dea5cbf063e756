use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use abi::{Command, Event, OpResult, Region, Wake};
use base::WorkerId;
use driver::MediaChoice;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix,
    SocketFlags, SocketType, connect, recv, recvmsg, socket_with,
};

use crate::plane::{Plane, wait_for};

/// Control's end: the socket and the doorbells.
pub struct Control {
    socket: OwnedFd,
    own_bell: OwnedFd,
    worker_bells: Vec<OwnedFd>,
}

impl Control {
    /// Connects as link.rs describes it.
    pub fn attach(plane: &Plane) -> Control {
        let flags = SocketFlags::CLOEXEC;
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).expect("a socket");
        let addr = SocketAddrUnix::new(&plane.config.socket).expect("a path");
        connect(&socket, &addr).expect("the data plane listens");
        let mut hello = [0u8; 64];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(129))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            &socket,
            &mut [IoSliceMut::new(&mut hello)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )
        .expect("a greeting");
        let workers = plane.config.cores.len() as u32;
        let expected = [&b"JKLN"[..], &1u32.to_le_bytes(), &workers.to_le_bytes()].concat();
        assert_eq!(hello[..received.bytes], expected);
        let mut fds: Vec<OwnedFd> = ancillary
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                _ => None,
            })
            .flatten()
            .collect();
        assert_eq!(fds.len(), 1 + workers as usize);
        let own_bell = fds.remove(0);
        Control { socket, own_bell, worker_bells: fds }
    }

    /// Orders something of a worker.
    pub fn order(&self, region: &Arc<Region>, worker: WorkerId, command: Command, blob: &[u8]) {
        let pushed = region.command_sender(worker).push(&command, blob);
        if pushed.expect("the ring has room") == Wake::Needed {
            let bell = &self.worker_bells[usize::from(worker.0)];
            rustix::io::write(bell, &1u64.to_ne_bytes()).expect("an eventfd");
        }
    }

    fn is_let_go(&self) -> bool {
        recv(&self.socket, &mut [0u8; 8], RecvFlags::DONTWAIT).is_ok_and(|(len, _)| len == 0)
    }
}

fn rings(bell: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(bell, PollFlags::IN)];
    let patience = Timespec { tv_sec: 5, tv_nsec: 0 };
    poll(&mut fds, Some(&patience)).expect("poll") == 1
}

on_both!(control_attaches_the_newest_wins_and_its_end_is_seen);
fn control_attaches_the_newest_wins_and_its_end_is_seen(media: MediaChoice) {
    let plane = Plane::start(2, media);
    let region = plane.region();
    assert!(!region.header().control().attached);
    let first = Control::attach(&plane);
    wait_for("control is attached", || region.header().control().attached);
    assert!(!first.is_let_go());
    let second = Control::attach(&plane);
    wait_for("the older is let go", || first.is_let_go());
    assert!(!second.is_let_go() && region.header().control().attached);
    drop(second);
    wait_for("control is gone", || !region.header().control().attached);
    drop(first);
    let third = Control::attach(&plane);
    wait_for("control is attached again", || region.header().control().attached);
    plane.stop();
    wait_for("control sees the end", || third.is_let_go());
}

on_both!(a_command_wakes_a_worker_and_its_completion_wakes_control);
fn a_command_wakes_a_worker_and_its_completion_wakes_control(media: MediaChoice) {
    let plane = Plane::start(2, media);
    let region = plane.region();
    let control = Control::attach(&plane);
    for (number, bell) in control.worker_bells.iter().enumerate() {
        let worker = WorkerId(number as u8);
        let mut commands = region.command_sender(worker);
        let mut events = region.event_receiver(worker);
        for op in 1..=50 {
            region.header().control_bell().sleep();
            let pushed = commands.push(&Command::Drain { op, on: false }, &[]);
            if pushed.expect("the ring has room") == Wake::Needed {
                rustix::io::write(bell, &1u64.to_ne_bytes()).expect("an eventfd");
            }
            assert!(rings(&control.own_bell), "worker {number}, operation {op}");
            rustix::io::read(&control.own_bell, &mut [0u8; 8][..]).expect("an eventfd");
            region.header().control_bell().awake();
            let done = events.pop(&mut Vec::new()).expect("an event").expect("a whole one");
            assert_eq!(done.value, Event::Done { op, result: OpResult::Ok });
        }
    }
    plane.stop();
}
