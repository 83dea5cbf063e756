//! The link to a data plane: its UNIX socket gives the doorbells, and its end is the first word of
//! the data plane's death.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use abi::Region;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};
use tokio::io::unix::AsyncFd;

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
const HELLO_MS: u64 = 1_000;

/// What the first message gives.
struct Hello {
    /// Rung when control sleeps.
    control: OwnedFd,
    /// Rung when that worker sleeps.
    workers: Vec<OwnedFd>,
}

/// Keeps the link to one CCB's data plane: connects, tells the owner, waits for the end, again.
pub async fn keep(config: CcbConfig, blade: BladeHandle) {
    let mut complaint = String::new();
    loop {
        match attach(&config).await {
            Ok((socket, hello, region)) => {
                complaint.clear();
                tracing::info!(ccb = config.id.0, workers = hello.workers.len(), "data plane attached");
                if let Err(error) = serve(&config, &blade, socket, hello, region).await {
                    tracing::warn!(ccb = config.id.0, %error, "the link to a data plane broke");
                }
                blade.tell(Ask::Gone { ccb: config.id }).await;
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
        tokio::time::sleep(Duration::from_millis(RETRY_MS)).await;
    }
}

async fn attach(config: &CcbConfig) -> io::Result<(AsyncFd<OwnedFd>, Hello, Arc<Region>)> {
    let socket = connect(&config.socket)?;
    let hello = tokio::time::timeout(Duration::from_millis(HELLO_MS), read_hello(&socket));
    let hello = hello.await.map_err(|_| io::Error::other("the data plane says nothing"))??;
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

fn connect(path: &Path) -> io::Result<AsyncFd<OwnedFd>> {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    AsyncFd::new(socket)
}

async fn read_hello(socket: &AsyncFd<OwnedFd>) -> io::Result<Hello> {
    loop {
        let mut ready = socket.readable().await?;
        match ready.try_io(|socket| receive_hello(socket.get_ref())) {
            Ok(result) => return result,
            Err(_would_block) => continue,
        }
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
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
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
async fn serve(
    config: &CcbConfig,
    blade: &BladeHandle,
    socket: AsyncFd<OwnedFd>,
    hello: Hello,
    region: Arc<Region>,
) -> io::Result<()> {
    let doorbell = AsyncFd::new(hello.control)?;
    blade.tell(Ask::Attached { ccb: config.id, region, doorbells: hello.workers }).await;
    loop {
        tokio::select! {
            ready = socket.readable() => {
                let read = ready?.try_io(|socket| {
                    let mut bytes = [0; 64];
                    Ok(rustix::io::read(socket.get_ref(), &mut bytes)?)
                });
                if let Ok(length) = read && length? == 0 {
                    return Ok(());
                }
            }
            ready = doorbell.readable() => {
                let read = ready?.try_io(|doorbell| {
                    let mut count = [0; 8];
                    Ok(rustix::io::read(doorbell.get_ref(), &mut count)?)
                });
                if let Ok(length) = read {
                    length?;
                    blade.tell(Ask::Rung).await;
                }
            }
        }
    }
}
