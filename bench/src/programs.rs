//! The programs that are measured.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::lab::{Lab, Running, SBC};

/// rtpengine's control port.
const NG_PORT: u16 = 2223;
const START_LIMIT: Duration = Duration::from_secs(60);

/// The program under test, beside this one.
pub fn jackfield() -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let program = own.with_file_name("jackfield");
    if program.exists() {
        return Ok(program);
    }
    Err(format!("{} is missing: cargo build --release --bin jackfield", program.display()))
}

/// Starts rtpengine on the SBC, in user space with one thread; also where it is told what to do.
pub fn rtpengine(lab: &Lab) -> Result<(Running, String), String> {
    let ng = format!("{SBC}:{NG_PORT}");
    let mut command = lab.on_sbc(Path::new("rtpengine"));
    // Not what the machine's own rtpengine is configured with.
    command.args(["--config-file=none", "--foreground", "--table=-1", "--num-threads=1"]);
    command.args(["--log-stderr", "--log-level=3", "--port-min=10000", "--port-max=65000"]);
    command.args(["--delete-delay=0", &format!("--interface={SBC}"), &format!("--listen-ng={ng}")]);
    let mut process = lab.start(&mut command, "rtpengine")?;
    listens(&mut process, NG_PORT)?;
    Ok((process, ng))
}

/// Waits until somebody listens at a UDP port of that process' network.
pub fn listens(process: &mut Running, port: u16) -> Result<(), String> {
    let pid = process.pid();
    process.wait_for(START_LIMIT, move |_| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/net/udp")).ok()?;
        text.contains(&format!(":{port:04X} ")).then_some(())
    })
}
