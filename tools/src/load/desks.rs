//! `load --desks`: agents' desks without phones log in and are held. Who loses the WebSocket, or is told to log in
//! again, does so by token after a wait of its own, as the server advises (S1-080).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::cli;
use crate::desk::{Credentials, Desk, Grant};
use crate::http::{self, Answer, HttpError, Server};
use crate::process::{self, StopSignals};
use crate::show;

/// Open files of a desk: its WebSocket, and a login.
const FILES_A_DESK: u64 = 2;
/// Who lost the WebSocket waits for up to so long before the first try, in milliseconds: nobody advised anything.
const JITTER_MS: u64 = 1_000;
/// How often it is said how the desks do, when that changed.
const TELL: Duration = Duration::from_millis(100);
/// How long a desk may take to hear how far its login is.
const GREETING: Duration = Duration::from_secs(10);
/// How long the desks may take to log out.
const EXIT_LIMIT: Duration = Duration::from_secs(10);

/// How the desks do.
#[derive(Debug, Default)]
struct Tally {
    /// Who is logged in, by CCB.
    held: BTreeMap<u16, u64>,
    /// Logins that were granted, by CCB.
    granted: BTreeMap<u16, u64>,
    /// Logins of one second, of all seconds the most, by CCB.
    most_a_second: BTreeMap<u16, u64>,
    this_second: (u64, BTreeMap<u16, u64>),
    /// WebSockets that ended, and desks that were told to log in again.
    lost: u64,
    told: u64,
    /// Logins that were told to come later, or had no answer.
    retries: u64,
    /// Tokens that were not taken, so that the password was needed.
    by_password: u64,
    /// The longest time from a loss until the desk was there again, since all were there last.
    slowest: Duration,
}

impl Tally {
    fn desks(&self) -> u64 {
        self.held.values().sum()
    }

    fn grant(&mut self, ccb: u16, second: u64) {
        *self.granted.entry(ccb).or_default() += 1;
        if self.this_second.0 != second {
            self.this_second = (second, BTreeMap::new());
        }
        let now = self.this_second.1.entry(ccb).or_default();
        *now += 1;
        let most = self.most_a_second.entry(ccb).or_default();
        *most = (*most).max(*now);
    }

    fn line(&self, at: Duration) -> Value {
        json!({
            "at_ms": at.as_millis() as u64,
            "held": self.desks(),
            "by_ccb": self.held,
            "granted": self.granted,
            "most_a_second": self.most_a_second,
            "lost": self.lost,
            "told_again": self.told,
            "retries": self.retries,
            "by_password": self.by_password,
            "slowest_ms": self.slowest.as_millis() as u64,
        })
    }
}

/// What all desks share.
struct Hall {
    proxies: Vec<SocketAddr>,
    begun: Instant,
    tally: Mutex<Tally>,
    turns: Semaphore,
    over: watch::Receiver<bool>,
}

impl Hall {
    fn tally(&self, change: impl FnOnce(&mut Tally)) {
        change(&mut self.tally.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Any of the AgentProxies, as a balancer would give one.
    fn proxy(&self) -> Server {
        Server::Tcp(self.proxies[below(self.proxies.len() as u64) as usize])
    }
}

/// Runs until it is interrupted.
pub fn run(options: &cli::Load, desks: u32, proxies: Vec<SocketAddr>) -> Result<ExitCode, String> {
    let needed = u64::from(desks) * FILES_A_DESK + 64;
    let allowed = process::raise_open_files();
    if allowed < needed {
        return Err(format!(
            "{desks} desks need {needed} open files, and {allowed} are allowed; raise `ulimit -Hn`"
        ));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    runtime.block_on(hold(options, desks, proxies))
}

async fn hold(
    options: &cli::Load,
    desks: u32,
    proxies: Vec<SocketAddr>,
) -> Result<ExitCode, String> {
    let mut signals = StopSignals::new().map_err(|error| error.to_string())?;
    let (stop, over) = watch::channel(false);
    let hall = Arc::new(Hall {
        proxies,
        begun: Instant::now(),
        tally: Mutex::default(),
        turns: Semaphore::new(usize::from(options.logins)),
        over,
    });
    let tasks: Vec<_> = (0..desks)
        .map(|place| tokio::spawn(agent(Arc::clone(&hall), options.credentials(place))))
        .collect();
    let mut ticks = interval(TELL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut said = (0, 0, 0);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = signals.next() => break,
        }
        let mut line = None;
        hall.tally(|tally| {
            let now = (tally.desks(), tally.lost + tally.told, tally.retries);
            if now != said {
                said = now;
                line = Some(tally.line(hall.begun.elapsed()));
            }
            if now.0 == u64::from(desks) {
                tally.slowest = Duration::ZERO;
            }
        });
        if let Some(line) = line {
            show::say(&line.to_string())?;
        }
    }
    let _ = stop.send(true);
    let all = async {
        for task in tasks {
            let _ = task.await;
        }
    };
    let _ = timeout(EXIT_LIMIT, all).await;
    Ok(ExitCode::SUCCESS)
}

/// One agent's desk, for as long as the program runs.
async fn agent(hall: Arc<Hall>, who: Credentials) {
    let mut token: Option<String> = None;
    let mut old: Option<Desk> = None;
    let mut lost_at: Option<Instant> = None;
    let mut over = hall.over.clone();
    loop {
        let entering = enter(&hall, &who, token.take(), lost_at.is_none());
        let (grant, mut desk) = tokio::select! {
            entered = entering => entered,
            _ = over.changed() => return,
        };
        // The older session is over by now.
        drop(old.take());
        let ccb = grant.ccb.device_number;
        hall.tally(|tally| {
            *tally.held.entry(ccb).or_default() += 1;
            let took = lost_at.map_or(Duration::ZERO, |at| at.elapsed());
            tally.slowest = tally.slowest.max(took);
        });
        let is_told = tokio::select! {
            is_told = desk.gone() => is_told,
            _ = over.changed() => {
                let _ = desk.exit().await;
                return;
            }
        };
        lost_at = Some(Instant::now());
        hall.tally(|tally| {
            *tally.held.entry(ccb).or_default() -= 1;
            match is_told {
                true => tally.told += 1,
                false => tally.lost += 1,
            }
        });
        token = Some(grant.token);
        // One that is only told keeps its session meanwhile.
        old = is_told.then_some(desk);
        sleep(Duration::from_millis(below(JITTER_MS))).await;
    }
}

/// Logs in and attaches, however often that takes. `in_turn` logs in as one of few at a time.
async fn enter(
    hall: &Hall,
    who: &Credentials,
    mut token: Option<String>,
    in_turn: bool,
) -> (Grant, Desk) {
    loop {
        let turn = match in_turn {
            true => hall.turns.acquire().await.ok(),
            false => None,
        };
        let body = match &token {
            Some(token) => json!({ "token": token }),
            None => who.body(),
        };
        let asked = http::post(&hall.proxy(), "/v1/login", &body).await;
        let wait = match asked {
            Ok(answer) if answer.status == 200 => match granted(&answer) {
                Some(grant) => {
                    let second = hall.begun.elapsed().as_secs();
                    hall.tally(|tally| tally.grant(grant.ccb.device_number, second));
                    match attach(&grant).await {
                        Some(desk) => return (grant, desk),
                        None => {
                            token = Some(grant.token);
                            Duration::ZERO
                        }
                    }
                }
                None => Duration::from_secs(1),
            },
            Ok(answer) if answer.status == 401 && token.take().is_some() => {
                hall.tally(|tally| tally.by_password += 1);
                continue;
            }
            Ok(answer) => Duration::from_secs(answer.retry_after_s.unwrap_or(1)),
            // Another AgentProxy may be there.
            Err(HttpError::Away(_)) => Duration::ZERO,
            Err(HttpError::Broken(_)) => Duration::ZERO,
        };
        drop(turn);
        hall.tally(|tally| tally.retries += 1);
        // What the server advises is already spread by whole seconds.
        sleep(wait.mul_f64(0.5) + Duration::from_millis(below(wait.as_millis() as u64 / 2 + 250)))
            .await;
    }
}

fn granted(answer: &Answer) -> Option<Grant> {
    serde_json::from_slice(&answer.body).ok()
}

async fn attach(grant: &Grant) -> Option<Desk> {
    let mut desk = Desk::attach(grant).await.ok()?;
    desk.greeted(GREETING).await.then_some(desk)
}

/// A number below `end`, or 0.
fn below(end: u64) -> u64 {
    getrandom::u64().unwrap_or(0) % end.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_logins_of_a_second_are_counted_by_ccb() {
        let mut tally = Tally::default();
        for (ccb, second) in [(1, 0), (1, 0), (2, 0), (1, 1), (2, 1), (2, 1), (2, 2)] {
            tally.grant(ccb, second);
        }
        assert_eq!(tally.most_a_second, BTreeMap::from([(1, 2), (2, 2)]));
        assert_eq!(tally.granted, BTreeMap::from([(1, 3), (2, 4)]));
    }
}
