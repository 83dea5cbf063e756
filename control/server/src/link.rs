//! The link to a data plane: its UNIX socket gives the doorbells, and its end is the first word of
//! the data plane's death.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use abi::Region;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;

use crate::config::CcbConfig;
use crate::owner::{Ask, BladeHandle};

/// What a data plane's first message begins with.
const MAGIC: &[u8; 4] = b"JKLN";
/// The version of the link that we speak.
const VERSION: u32 = 1;
/// The first message: magic, version, number of workers.
const HELLO_BYTES: usize = 12;
/// File descriptors that one message may carry on Linux.
const MAX_FDS: usize = 253;
/// How long we wait before we try a data plane again that does not answer.
const RETRY_MS: u64 = 50;
/// How long a data plane may take from accepting us to its first message.
const HELLO_MS: i64 = 1_000;
/// How often the thread looks whether the owner still is there.
const LOOK_UP_MS: i64 = 200;

/// What the first message gives.
struct Hello {
    /// Rung when control sleeps.
    control: OwnedFd,
    /// Rung when that worker sleeps.
    workers: Vec<OwnedFd>,
}

/// Starts the thread that keeps the link to one CCB's data plane: it connects, tells the owner, waits
/// for the end, and again. It ends soon after the owner. Called in the runtime of the owner, which hears the doorbell
/// itself.
pub fn start(config: CcbConfig, blade: BladeHandle) -> io::Result<()> {
    let (name, runtime) = (format!("link-{}", config.id), Handle::current());
    std::thread::Builder::new().name(name).spawn(move || keep(&config, &blade, &runtime)).map(drop)
}

fn keep(config: &CcbConfig, blade: &BladeHandle, runtime: &Handle) {
    let mut complaint = String::new();
    while !blade.is_closed() {
        match attach(config) {
            Ok((socket, hello, region)) => {
                complaint.clear();
                let workers = hello.workers.len();
                tracing::info!(ccb = config.id.0, workers, "data plane attached");
                if let Err(error) = serve(config, blade, runtime, &socket, hello, region) {
                    tracing::warn!(ccb = config.id.0, %error, "the link to a data plane broke");
                }
                blade.tell_blocking(Ask::Gone { ccb: config.id });
            }
            Err(error) => {
                // A data plane that is away is tried twenty times a second and logged once.
                let text = error.to_string();
                if text != complaint {
                    tracing::info!(ccb = config.id.0, error = text, "waiting for the data plane");
                    complaint = text;
                }
            }
        }
        std::thread::sleep(Duration::from_millis(RETRY_MS));
    }
}

fn attach(config: &CcbConfig) -> io::Result<(OwnedFd, Hello, Arc<Region>)> {
    let socket = connect(&config.socket)?;
    if !wait(&socket, HELLO_MS)? {
        return Err(io::Error::other("the data plane says nothing"));
    }
    let hello = receive_hello(&socket)?;
    let region = Region::open(&config.region).map_err(io::Error::other)?;
    let layout = region.layout();
    if layout.ccb != config.id {
        let why = format!("the region is that of CCB {}, not of CCB {}", layout.ccb, config.id);
        return Err(io::Error::other(why));
    }
    if usize::from(layout.workers) != hello.workers.len() {
        return Err(io::Error::other("the region and the socket differ in the number of workers"));
    }
    Ok((socket, hello, region))
}

fn connect(path: &Path) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Waits until a descriptor has something, or its end, to be read; false when the time is over.
fn wait(fd: &OwnedFd, timeout_ms: i64) -> io::Result<bool> {
    let timeout = Timespec { tv_sec: timeout_ms / 1_000, tv_nsec: timeout_ms % 1_000 * 1_000_000 };
    let mut polled = [PollFd::new(fd, PollFlags::IN)];
    match rustix::event::poll(&mut polled, Some(&timeout)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn receive_hello(socket: &OwnedFd) -> io::Result<Hello> {
    let mut bytes = [0; HELLO_BYTES + 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let message = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut fds: Vec<OwnedFd> = Vec::new();
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            fds.extend(rights);
        }
    }
    let word =
        |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let invalid = |why| io::Error::new(io::ErrorKind::InvalidData, why);
    match message.bytes {
        0 => return Err(io::ErrorKind::UnexpectedEof.into()),
        HELLO_BYTES if bytes.starts_with(MAGIC) => {}
        _ => return Err(invalid("the data plane's first message is not ours")),
    }
    if word(4) != VERSION {
        return Err(invalid("the data plane speaks another version of the link"));
    }
    if fds.is_empty() || fds.len() != word(8) as usize + 1 {
        return Err(invalid("the data plane's first message lacks doorbells"));
    }
    let control = fds.remove(0);
    // Only ours: the flag belongs to the eventfd, not to the descriptor, and the workers read theirs.
    rustix::io::ioctl_fionbio(&control, true)?;
    Ok(Hello { control, workers: fds })
}

/// Passes rings on until the socket ends.
fn serve(
    config: &CcbConfig,
    blade: &BladeHandle,
    runtime: &Handle,
    socket: &OwnedFd,
    hello: Hello,
    region: Arc<Region>,
) -> io::Result<()> {
    let Hello { control, workers } = hello;
    blade.tell_blocking(Ask::Attached { ccb: config.id, region, doorbells: workers });
    // Not by this thread, which would be woken only to wake the owner.
    let ear = runtime.spawn(hear(control, blade.clone()));
    let ended = wait_for_end(blade, socket);
    ear.abort();
    ended
}

fn wait_for_end(blade: &BladeHandle, socket: &OwnedFd) -> io::Result<()> {
    while !blade.is_closed() {
        if wait(socket, LOOK_UP_MS)? && read(socket, &mut [0; 64])? == Some(0) {
            return Ok(());
        }
    }
    Ok(())
}

/// Tells the owner of each ring.
async fn hear(bell: OwnedFd, blade: BladeHandle) {
    let heard = async {
        #[expect(deprecated, reason = "its successor is unsafe, and an OwnedFd is what that wants")]
        let bell = AsyncFd::with_interest(bell, Interest::READABLE)?;
        while !blade.is_closed() {
            let mut ready = bell.readable().await?;
            // Nothing there any more: the next ring is waited for.
            let Ok(rings) = ready.try_io(|bell| match read(bell.get_ref(), &mut [0; 8])? {
                Some(_) => Ok(()),
                None => Err(io::ErrorKind::WouldBlock.into()),
            }) else {
                continue;
            };
            rings?;
            blade.tell(Ask::Rung).await;
        }
        Ok::<(), io::Error>(())
    };
    if let Err(error) = heard.await {
        tracing::error!(%error, "a doorbell cannot be heard");
    }
}

/// Reads what is there; `None` when nothing is.
fn read(fd: &OwnedFd, bytes: &mut [u8]) -> io::Result<Option<usize>> {
    match rustix::io::read(fd, bytes) {
        Ok(length) => Ok(Some(length)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
