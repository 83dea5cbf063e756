//! What every process of Jackfield does about its parent, its signals and its limits.

use rustix::fs::Mode;
use rustix::process::{
    Resource, Signal, getppid, getrlimit, set_parent_process_death_signal, setrlimit,
};
use tokio::signal::unix::{SignalKind, signal};

/// Asks the kernel to end this process when the one that started it, `parent`, is gone.
pub fn die_with_parent(parent: Option<u32>) -> Result<(), String> {
    let Some(parent) = parent else { return Ok(()) };
    set_parent_process_death_signal(Some(Signal::TERM))
        .map_err(|error| format!("cannot ask for the parent's death signal: {error}"))?;
    // The parent may have gone before the kernel was asked.
    let now = getppid().map(|pid| pid.as_raw_nonzero().get());
    if now != i32::try_from(parent).ok() {
        return Err(format!("the parent process {parent} is gone already"));
    }
    Ok(())
}

/// Calls `then` once, on a thread of its own, at SIGTERM or SIGINT.
pub fn on_stop_signal(then: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("cannot wait for signals: {error}");
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(failed)?;
    // The signals are caught from here on, not only when the thread has begun.
    let waiter = {
        let _inside = runtime.enter();
        StopSignals::new().map_err(failed)?
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            runtime.block_on(waiter.wait());
            then();
        })
        .map_err(failed)?;
    Ok(())
}

/// What a shell says of a command that Ctrl-C ended.
pub const INTERRUPTED: u8 = 130;

/// The signals that mean: stop in order.
pub struct StopSignals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
}

impl StopSignals {
    /// Catches them from now on; within a tokio runtime.
    pub fn new() -> std::io::Result<Self> {
        Ok(StopSignals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the first of them.
    pub async fn wait(mut self) {
        self.next().await;
    }

    /// Waits for the next of them.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}

/// Makes every file that this process and its children create its user's alone. To be called before
/// there are threads.
pub fn keep_files_private() {
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
}

/// Raises the soft limit of open files to the hard one, and says what it is now.
pub fn raise_open_files() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
