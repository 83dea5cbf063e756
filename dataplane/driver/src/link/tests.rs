use std::process::Command;

use rustix::net::connect;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::*;

const CHILD: &str = "JACKFIELD_TEST_DEAF";

/// In a process of its own, which may run out of descriptors; by itself it does nothing.
#[test]
fn deaf_child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("control.sock");
    let mut listener = Listener::open(&path).expect("it listens");
    let mesh = Mesh::new(1).expect("doorbells");
    let control =
        socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .expect("a socket");
    connect(&control, &SocketAddrUnix::new(&path).expect("a path")).expect("it listens");

    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(3), ..limit }).expect("it only sinks");
    let step = Duration::from_millis(20);
    let begun = std::time::Instant::now();
    for _ in 0..11 {
        assert_eq!(listener.wait(step, &mesh).expect("it is no end"), None);
    }
    let waited = begun.elapsed();
    assert!(waited >= 10 * step, "it spins: 11 waits of 20 ms took {waited:?}");

    setrlimit(Resource::Nofile, limit).expect("it was so before");
    let mut news = None;
    while news.is_none() && begun.elapsed() < Duration::from_secs(5) {
        news = listener.wait(step, &mesh).expect("it is no end");
    }
    assert_eq!(news, Some(News::Attached), "who went on knocking is let in");
}

#[test]
fn without_descriptors_it_does_not_spin_and_accepts_later() {
    let output = Command::new(std::env::current_exe().expect("this program has a path"))
        .args(["--exact", "link::tests::deaf_child", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .expect("this program runs again");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
