//! Keeps the demo's two processes running: restarts whichever dies, and takes both down at the end.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tracing::{error, info, warn};

/// A process that lived shorter than this died of something that a restart does not cure at once.
const QUICK_DEATH: Duration = Duration::from_secs(1);
/// The first pause after the second quick death; it doubles from there.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long a process may take to stop cleanly before it is killed.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// What to run.
#[derive(Clone, Debug)]
pub struct Program {
    /// The name in the log.
    pub name: &'static str,
    /// The executable.
    pub executable: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

/// Runs `program` until `stop` says true, restarting it whenever it ends; then stops and reaps it.
///
/// `pids` always holds the id of the process that runs now. Call it on the thread that lives as
/// long as the supervisor: the children are told by the kernel when their parent *thread* ends.
pub async fn supervise(
    program: Program,
    mut stop: watch::Receiver<bool>,
    pids: watch::Sender<Option<u32>>,
) {
    let mut quick_deaths = 0_u32;
    while !*stop.borrow() {
        let started = Instant::now();
        match start(&program) {
            Ok(mut child) => {
                let _ = pids.send(child.id());
                tokio::select! {
                    status = child.wait() => {
                        let reason = status.map_or_else(|error| error.to_string(), exit_reason);
                        let lived = started.elapsed();
                        warn!("{} {reason} after {:.1} s", program.name, lived.as_secs_f64());
                    }
                    () = until(&mut stop) => {
                        end(program.name, &mut child).await;
                        let _ = pids.send(None);
                        return;
                    }
                }
            }
            Err(error) => error!("{}: cannot start: {error}", program.name),
        }
        quick_deaths = if started.elapsed() < QUICK_DEATH { quick_deaths + 1 } else { 0 };
        let pause = pause_after(quick_deaths);
        if !pause.is_zero() {
            warn!("{} is started again in {} ms", program.name, pause.as_millis());
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = until(&mut stop) => {}
            }
        }
    }
}

/// Waits for the order to stop; a supervisor that is gone is one too.
async fn until(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// The pause before a restart: none unless the process died quickly more than once in a row.
fn pause_after(quick_deaths: u32) -> Duration {
    match quick_deaths {
        0 | 1 => Duration::ZERO,
        deaths => FIRST_PAUSE.saturating_mul(1 << (deaths - 2).min(10)).min(LONGEST_PAUSE),
    }
}

fn start(program: &Program) -> std::io::Result<Child> {
    let child = Command::new(&program.executable)
        .args(&program.arguments)
        .stdin(std::process::Stdio::null())
        // A group of its own, so that Ctrl-C reaches the supervisor alone and it stops them in
        // order.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    info!("{} started, pid {}", program.name, child.id().unwrap_or(0));
    Ok(child)
}

async fn end(name: &str, child: &mut Child) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        let _ = kill_process(pid, Signal::TERM);
    }
    if tokio::time::timeout(STOP_GRACE, child.wait()).await.is_err() {
        warn!("{name} did not stop within {} s and is killed", STOP_GRACE.as_secs());
        let _ = child.kill().await;
    }
}

/// How a process ended, for people.
fn exit_reason(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(signal)) => {
            let name = match signal {
                2 => " (SIGINT)",
                6 => " (SIGABRT)",
                7 => " (SIGBUS)",
                9 => " (SIGKILL)",
                11 => " (SIGSEGV)",
                15 => " (SIGTERM)",
                _ => "",
            };
            format!("was ended by signal {signal}{name}")
        }
        (None, None) => "ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Program {
        Program {
            name: "test",
            executable: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
        }
    }

    #[test]
    fn only_repeated_quick_deaths_cost_a_pause() {
        let pauses: Vec<u128> = (0..10).map(|n| pause_after(n).as_millis()).collect();
        assert_eq!(pauses, [0, 0, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(pause_after(u32::MAX), LONGEST_PAUSE);
    }

    #[tokio::test]
    async fn a_killed_process_is_restarted_at_once_and_reaped_at_the_end() {
        let (stop, stopped) = watch::channel(false);
        let (pids, mut pid) = watch::channel(None);
        let task = tokio::spawn(supervise(shell("exec sleep 60"), stopped, pids));
        let first = pid.wait_for(Option::is_some).await.unwrap().unwrap();
        let killed = Instant::now();
        let raw = Pid::from_raw(i32::try_from(first).unwrap()).unwrap();
        kill_process(raw, Signal::KILL).unwrap();
        let second =
            pid.wait_for(|pid| pid.is_some_and(|pid| pid != first)).await.unwrap().unwrap();
        assert!(killed.elapsed() < Duration::from_millis(90), "{:?}", killed.elapsed());
        stop.send(true).unwrap();
        task.await.unwrap();
        assert!(!std::path::Path::new(&format!("/proc/{second}")).exists());
    }

    #[tokio::test]
    async fn a_process_that_keeps_dying_is_not_restarted_in_a_loop() {
        let temp = tempfile::tempdir().unwrap();
        let count = temp.path().join("count");
        let (stop, stopped) = watch::channel(false);
        let (pids, _pid) = watch::channel(None);
        let script = format!("echo x >> {}; exit 3", count.display());
        let task = tokio::spawn(supervise(shell(&script), stopped, pids));
        tokio::time::sleep(Duration::from_millis(500)).await;
        stop.send(true).unwrap();
        task.await.unwrap();
        let starts = std::fs::read_to_string(&count).unwrap().lines().count();
        assert!((3..=5).contains(&starts), "{starts}");
    }
}
