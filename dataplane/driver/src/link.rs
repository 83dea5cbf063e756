//! The data plane's end of the socket to control.
//!
//! The data plane listens on a UNIX socket of type SOCK_SEQPACKET. Control connects and reads one
//! message of 12 bytes:
//!
//! | bytes | what |
//! |---|---|
//! | 0..4 | `JKLN` |
//! | 4..8 | 1, the version of this format, u32, little endian |
//! | 8..12 | how many workers there are, u32, little endian |
//!
//! With it, as SCM_RIGHTS, come `workers + 1` eventfds: control's doorbell first, then each worker's in
//! order. Control sleeps on the first and writes 1 to the others, by the asleep words in the region's
//! header. Nothing else is ever said on the socket; its end of file is the news of a death, for either
//! side. One control process is attached at a time: when another connects, the older one's socket is
//! closed.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base::Instant;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, accept_with, bind, listen, recv, sendmsg, socket_with,
};

use crate::clock;
use crate::mesh::Mesh;

const MAGIC: &[u8; 4] = b"JKLN";
const VERSION: u32 = 1;

/// Connections that wait to be accepted: one control process, and the one that takes its place.
const BACKLOG: i32 = 4;

/// How long nobody is accepted after the kernel could not: who knocks goes on knocking, so it would be
/// asked again at once.
const DEAF_MS: u64 = 1_000;

/// The listening socket and the control process that is attached.
pub struct Listener {
    socket: OwnedFd,
    path: PathBuf,
    control: Option<OwnedFd>,
    /// Nobody is accepted until then.
    deaf_until: Instant,
}

/// What happened on the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// A control process attached; an older one, if there was one, is let go.
    Attached,
    /// The attached control process is gone.
    Gone,
}

impl Listener {
    /// Listens at `path`, for the owner of this process only. What an earlier process left there is
    /// removed; the caller makes sure that it is dead.
    pub fn open(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        // Nobody can connect before the socket listens, so nobody connects before this.
        rustix::fs::chmod(path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?;
        listen(&socket, BACKLOG)?;
        Ok(Listener {
            socket,
            path: path.to_owned(),
            control: None,
            deaf_until: Instant::default(),
        })
    }

    /// Waits at most `wait` for something to happen.
    pub fn wait(&mut self, wait: Duration, mesh: &Mesh) -> io::Result<Option<News>> {
        let timeout =
            Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) };
        let is_deaf = clock::now() < self.deaf_until;
        let listened = if is_deaf { PollFlags::empty() } else { PollFlags::IN };
        let mut fds = vec![PollFd::new(&self.socket, listened)];
        if let Some(control) = &self.control {
            fds.push(PollFd::new(control, PollFlags::IN));
        }
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let knocks = !is_deaf && !fds[0].revents().is_empty();
        let speaks = fds.get(1).is_some_and(|fd| !fd.revents().is_empty());
        if knocks && self.accept(mesh)? {
            return Ok(Some(News::Attached));
        }
        if speaks && self.hung_up() {
            self.control = None;
            return Ok(Some(News::Gone));
        }
        Ok(None)
    }

    /// Accepts whoever knocks. False when it was gone before it could be greeted, or the kernel has no
    /// descriptor or memory left for it.
    fn accept(&mut self, mesh: &Mesh) -> io::Result<bool> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let control = match accept_with(&self.socket, flags) {
            Ok(control) => control,
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return Ok(false),
            Err(error) => {
                tracing::warn!(%error, "a control process could not be accepted");
                self.deaf_until = clock::now() + Duration::from_millis(DEAF_MS);
                return Ok(false);
            }
        };
        if let Err(error) = greet(&control, mesh) {
            tracing::info!(%error, "a control process went away while it attached");
            return Ok(false);
        }
        self.control = Some(control);
        Ok(true)
    }

    fn hung_up(&self) -> bool {
        let Some(control) = &self.control else {
            return false;
        };
        let mut nothing = [0u8; 64];
        match recv(control, &mut nothing, RecvFlags::DONTWAIT) {
            Ok((0, _)) => true,
            Ok(_) => false,
            Err(error) => !matches!(error, Errno::AGAIN | Errno::INTR),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Best effort: the next data plane removes it as well.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn greet(control: &OwnedFd, mesh: &Mesh) -> io::Result<()> {
    let workers = mesh.bells().len() as u32;
    let mut hello = MAGIC.to_vec();
    hello.extend(VERSION.to_le_bytes());
    hello.extend(workers.to_le_bytes());
    let mut fds: Vec<BorrowedFd<'_>> = vec![mesh.control_bell().as_fd()];
    fds.extend(mesh.bells().iter().map(AsFd::as_fd));
    let rights = SendAncillaryMessage::ScmRights(&fds);
    let mut space = vec![MaybeUninit::uninit(); rights.size()];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(rights), "the space was made for it");
    sendmsg(control, &[IoSlice::new(&hello)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

#[cfg(test)]
mod tests;
