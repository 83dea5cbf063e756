//! Where little is allowed: io_uring refused, no privileges, few open files.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use driver::{DriverError, MediaChoice};
use tempfile::TempDir;

use crate::plane::{Plane, ask_options, ask_options_at, config};
use crate::restart::Killed;

/// From here on, this thread and those that it starts are refused io_uring, as in many containers.
fn refuse_io_uring() {
    const LOAD_NUMBER: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut filter = [
        step(LOAD_NUMBER, 0, 0, 0),
        step(JUMP_IF_EQUAL, 0, 1, libc::SYS_io_uring_setup as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program and its filter live until the call returns, which copies them.
    let set = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
    };
    assert!(set, "{}", std::io::Error::last_os_error());
}

fn refused<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(|| {
        refuse_io_uring();
        test()
    });
    thread.join().expect("it does not panic")
}

#[test]
fn where_io_uring_is_refused_recvmmsg_serves() {
    refused(|| {
        let plane = Plane::start(2, MediaChoice::Auto);
        for number in 0..4 {
            ask_options(&plane, number % 2, &format!("f{number}"));
        }
        plane.stop();
    });
}

#[test]
fn who_wants_io_uring_alone_is_told_that_it_is_refused() {
    let error = refused(|| {
        let folder = TempDir::new().expect("a temporary folder");
        driver::run(config(&folder, 1, MediaChoice::IoUring), Default::default())
    });
    let error = error.expect_err("it is refused");
    assert!(matches!(error, DriverError::Ring(_)), "{error}");
    assert!(error.to_string().contains("the permission to use io_uring"), "{error}");
}

#[test]
fn without_privileges_and_with_few_files_it_serves() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: it takes root to give privileges up");
    }
    let folder = TempDir::new().expect("a temporary folder");
    let config = config(&folder, 1, MediaChoice::Auto);
    let own = folder.path().join("of-nobody");
    std::fs::create_dir(&own).expect("a folder");
    std::os::unix::fs::chown(&own, Some(65_534), Some(65_534)).expect("root may");
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open).expect("it is ours");
    let mut command = Command::new("prlimit");
    command
        .args(["--nofile=1024:1024", "setpriv", "--reuid=65534", "--regid=65534"])
        .args(["--clear-groups", "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"])
        .args(["unshare", "--user", "--"])
        .arg(std::env::current_exe().expect("this test"))
        .args(["restart::killed_child", "--exact", "--nocapture"])
        .env("JACKFIELD_TEST_FOLDER", &own)
        .env("JACKFIELD_TEST_SIP", config.locations[0].sip_port.to_string())
        .env("JACKFIELD_TEST_MEDIA", "auto")
        .stdout(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => Killed(child),
        Err(error) => return eprintln!("skipped: prlimit: {error}"),
    };
    let output = BufReader::new(child.0.stdout.take().expect("it is piped"));
    let lines: Vec<String> =
        output.lines().map_while(Result::ok).take_while(|line| line != "running").collect();
    let ended = child.0.try_wait().expect("it is our child");
    assert_eq!(ended, None, "{lines:?}");
    for location in &config.locations {
        ask_options_at((location.ip, location.sip_port).into(), &location.name);
    }
}
