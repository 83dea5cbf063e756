//! Slots whose processes control starts itself.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use control_core::{SlotId, SlotOrder};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::process::Command;
use tokio::sync::{mpsc, watch};

use super::Event;

/// A process that lived shorter than this died of something that a restart does not cure at once.
const QUICK_DEATH: Duration = Duration::from_secs(1);
/// The first pause after the second quick death; it doubles from there.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long a process may take to stop before it is killed.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// A slot and how its process is started.
pub(super) struct Slot {
    pub(super) slot: SlotId,
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<String>,
    /// How long it may take to stop before it is killed.
    pub(super) grace: Duration,
    pub(super) events: mpsc::UnboundedSender<Event>,
}

/// A process that is watched by its descriptor, whoever's child it is.
struct Watched {
    fd: Arc<OwnedFd>,
    /// True once it ended.
    ended: watch::Receiver<bool>,
    since: Instant,
}

impl Watched {
    async fn end(&self) {
        // A thread that is gone without a word means the same.
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }
}

impl Slot {
    /// Does what it is ordered. `known` is the process that an earlier control process started here.
    pub(super) async fn keep(
        self,
        known: Option<(u32, u64)>,
        mut orders: mpsc::UnboundedReceiver<SlotOrder>,
    ) {
        let mut runs = known.and_then(adopt);
        let mut wanted = runs.is_some();
        let mut quick_deaths = 0_u32;
        loop {
            if !wanted {
                if let Some(process) = runs.take() {
                    self.stop(&process).await;
                }
                match orders.recv().await {
                    None => return,
                    Some(SlotOrder::Stop) => self.say(Event::Stopped(self.slot)),
                    Some(SlotOrder::Start) => (wanted, quick_deaths) = (true, 0),
                }
                continue;
            }
            let Some(process) = &runs else {
                runs = self.start();
                if runs.is_none() {
                    quick_deaths += 1;
                    wanted = !self.is_stopped_within(pause_after(quick_deaths), &mut orders).await;
                }
                continue;
            };
            tokio::select! {
                order = orders.recv() => match order {
                    // Its processes outlive control.
                    None => return,
                    Some(SlotOrder::Start) => {}
                    Some(SlotOrder::Stop) => {
                        self.stop(process).await;
                        runs = None;
                        wanted = false;
                        self.say(Event::Stopped(self.slot));
                    }
                },
                () = process.end() => {
                    let lived = process.since.elapsed();
                    tracing::warn!(slot = %self.slot, lived_s = lived.as_secs_f32(), "the process of a slot died");
                    quick_deaths = if lived < QUICK_DEATH { quick_deaths + 1 } else { 0 };
                    runs = None;
                    wanted = !self.is_stopped_within(pause_after(quick_deaths), &mut orders).await;
                }
            }
        }
    }

    fn say(&self, event: Event) {
        let _ = self.events.send(event);
    }

    /// Waits that long; true when it is ordered to stop meanwhile.
    async fn is_stopped_within(
        &self,
        pause: Duration,
        orders: &mut mpsc::UnboundedReceiver<SlotOrder>,
    ) -> bool {
        let until = tokio::time::Instant::now() + pause;
        while let Ok(order) = tokio::time::timeout_at(until, orders.recv()).await {
            if order != Some(SlotOrder::Start) {
                self.say(Event::Stopped(self.slot));
                return true;
            }
        }
        false
    }

    fn start(&self) -> Option<Watched> {
        let mut command = Command::new(&self.program);
        // A signal to control's group, as a terminal sends it, is not for the calls.
        command.args(&self.arguments).stdin(Stdio::null()).process_group(0).kill_on_drop(false);
        let started = command.spawn();
        let mut child = match started {
            Ok(child) => child,
            Err(error) => {
                tracing::error!(slot = %self.slot, %error, "the process of a slot does not start");
                return None;
            }
        };
        let pid = child.id()?;
        let watched = watch(pid);
        // Nobody else reaps it.
        tokio::spawn(async move {
            let _ = child.wait().await;
        });
        let started_at = started_at(pid)?;
        tracing::info!(slot = %self.slot, pid, "a slot's process was started");
        self.say(Event::Runs(self.slot, (pid, started_at)));
        watched
    }

    /// Ends it, first kindly.
    async fn stop(&self, process: &Watched) {
        for (signal, grace) in [(Signal::TERM, self.grace), (Signal::KILL, GRACE)] {
            if pidfd_send_signal(&process.fd, signal).is_err() {
                return;
            }
            if tokio::time::timeout(grace, process.end()).await.is_ok() {
                tracing::info!(slot = %self.slot, "a slot's process was stopped");
                return;
            }
        }
        tracing::error!(slot = %self.slot, "the process of a slot cannot be ended");
    }
}

/// How long to wait after so many quick deaths in a row.
fn pause_after(quick_deaths: u32) -> Duration {
    match quick_deaths {
        0 | 1 => Duration::ZERO,
        more => FIRST_PAUSE.saturating_mul(1 << (more - 2).min(10)).min(LONGEST_PAUSE),
    }
}

/// Watches the process that an earlier control process started, if it still is that one.
fn adopt((pid, started): (u32, u64)) -> Option<Watched> {
    let watched = watch(pid)?;
    // Opened first, compared then: the number may be another process's by now.
    (started_at(pid) == Some(started)).then_some(watched)
}

fn watch(pid: u32) -> Option<Watched> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    let fd = Arc::new(pidfd_open(pid, PidfdFlags::empty()).ok()?);
    let (tell, ended) = watch::channel(false);
    let watched = Arc::clone(&fd);
    // A thread, for what tokio offers for descriptors of others is unsafe to make. It ends with that process.
    let wait = move || {
        let mut fds = [PollFd::new(&watched, PollFlags::IN)];
        while matches!(poll(&mut fds, None), Err(Errno::INTR)) {}
        tell.send_replace(true);
    };
    std::thread::Builder::new().name("slot".into()).spawn(wait).ok()?;
    Some(Watched { fd, ended, since: Instant::now() })
}

/// When that process started, in ticks since boot: field 22 of its `stat` (proc(5)).
fn started_at(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is a name in parentheses that may hold anything.
    let (_, rest) = text.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}
