//! What a driver does to frames before anybody sees them (ethtool).

use std::io;
use std::os::fd::AsRawFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// Gets the flags of an interface, and the one that it takes VLAN tags off (linux/ethtool.h).
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETH_FLAG_RXVLAN: u32 = 1 << 8;

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// True when an interface takes VLAN tags off the frames that come in, so that the program sees none.
pub fn takes_tags_off(interface: &str) -> io::Result<bool> {
    let name = interface.as_bytes();
    // The last byte ends the name.
    if name.len() >= libc::IFNAMSIZ {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let mut value = Value { command: ETHTOOL_GFLAGS, data: 0 };
    // SAFETY: all zeros is a value of this plain structure, with a null pointer.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the kernel reads an `ifreq` with a terminated name and, for this command, reads and writes the
    // `ethtool_value` that it points to; both live through the call and nobody else has them.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(value.data & ETH_FLAG_RXVLAN != 0)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use rustix::thread::{UnshareFlags, unshare_unsafe};

    use super::*;

    #[test]
    fn a_veth_takes_tags_off_unless_it_is_told_not_to() {
        // The namespace goes with the thread.
        let run = || {
            // SAFETY: of the thread's own things only the network is new; descriptors stay shared.
            if unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.is_err() {
                println!("skipped: network namespaces need root");
                return;
            }
            let run = |command: &str, arguments: &str| {
                let status = Command::new(command).args(arguments.split(' ')).status();
                status.map(|status| assert!(status.success(), "{command} {arguments}"))
            };
            run("ip", "link add one type veth peer name other")
                .expect("ip (Debian: iproute2) runs");
            assert!(takes_tags_off("one").expect("it is there"));
            if run("ethtool", "-K one rxvlan off").is_ok() {
                assert!(!takes_tags_off("one").expect("it is there"));
            }
            assert!(takes_tags_off("other").expect("it is there"));
            assert!(!takes_tags_off("lo").expect("it is there"));
            assert!(takes_tags_off("none").is_err());
            assert!(takes_tags_off("a name that is long").is_err());
        };
        std::thread::spawn(run).join().expect("the test");
    }
}
