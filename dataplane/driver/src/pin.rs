//! A thread's core, and the process's limits.

use std::io;

use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};

/// Keeps the calling thread on `core`.
pub fn to_core(core: usize) -> io::Result<()> {
    if core >= CpuSet::MAX_CPU {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let mut set = CpuSet::new();
    set.set(core);
    Ok(sched_setaffinity(None, &set)?)
}

/// How long a worker goes on at a stretch where others want its core, in nanoseconds: the least that the kernel takes. Who asks
/// for short turns gets them soon: a worker that wakes does not wait until somebody else's turn of some milliseconds is over.
const TURN_NS: u64 = 100_000;
/// What a worker is to the others on its core, control among them: nine times as much as what is not nice at all.
const NICE: i32 = -10;

/// What [`go_first`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// The thread goes before others.
    Yes,
    /// Its turns are short, and it has no more of the core than others: the process has not CAP_SYS_NICE.
    ShortTurns,
    /// Somebody gave the thread a class of its own, which stays.
    Left,
}

/// Lets the calling thread go before others on its core: packets and callers wait for it, and what it leaves to control is not
/// urgent. Linux before 6.12 does not know of turns, and takes the rest.
pub fn go_first() -> io::Result<First> {
    let mut attr = scheduling()?;
    if attr.sched_policy != libc::SCHED_OTHER as u32 {
        return Ok(First::Left);
    }
    let nice = attr.sched_nice;
    attr.sched_runtime = TURN_NS;
    attr.sched_nice = nice.min(NICE);
    match set_scheduling(&attr) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            attr.sched_nice = nice;
            set_scheduling(&attr).map(|()| First::ShortTurns)
        }
        result => result.map(|()| First::Yes),
    }
}

fn scheduling() -> io::Result<libc::sched_attr> {
    // SAFETY: plain data of the kernel's, for which zeros are a value.
    let mut attr: libc::sched_attr = unsafe { std::mem::zeroed() };
    let size = size_of::<libc::sched_attr>() as u32;
    // SAFETY: thread 0 is the calling one; the kernel writes at most `size` bytes within the call, and `attr` has as many.
    let got = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attr, size, 0) };
    if got != 0 {
        return Err(io::Error::last_os_error());
    }
    attr.size = size;
    Ok(attr)
}

fn set_scheduling(attr: &libc::sched_attr) -> io::Result<()> {
    // SAFETY: thread 0 is the calling one; the kernel reads `attr.size` bytes within the call, and `scheduling` set that to
    // all of them.
    let set = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const *attr, 0) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Raises the soft limit of open files to the hard one and returns it: each pair of ports takes two
/// places in a ring's table of files, and the limit bounds the table.
pub fn raise_open_files() -> io::Result<u64> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        setrlimit(Resource::Nofile, limit)?;
    }
    Ok(limit.current.unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_goes_first_as_far_as_it_may() {
        // On a thread of its own, so that other tests keep their ways.
        let went = std::thread::spawn(|| {
            let before = scheduling().expect("the kernel tells");
            let first = go_first().expect("short turns take no privilege");
            (before, first, scheduling().expect("the kernel tells"))
        });
        let (before, first, after) = went.join().expect("no panic");
        assert_eq!(after.sched_policy, before.sched_policy);
        let nice = match first {
            First::Yes => before.sched_nice.min(NICE),
            First::ShortTurns => before.sched_nice,
            // The whole test runs in a class that somebody chose.
            First::Left => return assert_ne!(before.sched_policy, libc::SCHED_OTHER as u32),
        };
        assert_eq!(after.sched_nice, nice);
        // 0 where the kernel does not know of turns.
        assert!([0, TURN_NS].contains(&after.sched_runtime), "{}", after.sched_runtime);
    }
}
