//! One login of one agent, from its grant to its end.
//!
//! ```text
//!              phone registers            desk attaches
//!   granted ------------------> registered -----------> online
//!      |                            ^                     | ^
//!      | desk attaches              +- registration lost -+ |
//!      v                                                    |
//!   waiting for phone ---------- phone registers -----------+
//! ```
//!
//! It is online only while its phone is registered and its CTI session lives (S1-063); a CTI session
//! lives for 30 s without its WebSocket. A login that never had a desk lives as long as its phone.

use core::time::Duration;

use base::{Instant, TenantId};

/// How long a CTI session lives without its WebSocket.
pub const DESK_AWAY_MS: u64 = 30_000;
/// How long a login lives after its grant when neither phone nor desk comes.
pub const GRANT_MS: u64 = 5 * 60_000;
/// How long a login without a desk lives after its registration is gone.
pub const PHONE_AWAY_MS: u64 = 30_000;

/// Names one login over all tenants and times.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct LoginKey {
    /// The agent's tenant.
    #[serde(with = "crate::cluster::wire::tenant")]
    pub tenant: TenantId,
    /// The agent's key in the directory.
    pub agent: u64,
    /// Which of the agent's logins; the newest has the highest.
    pub epoch: u32,
}

/// The phone of a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phone {
    /// It has not registered yet.
    Never,
    /// It is registered.
    Registered,
    /// Its registration is gone since then.
    Lost(Instant),
}

/// The CTI session of a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Desk {
    /// It has not attached yet.
    Never,
    /// It is attached by the WebSocket of that number.
    Attached(u64),
    /// It lost its WebSocket at that time.
    Away(Instant),
}

/// What may happen to a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The phone is registered, now or still.
    PhoneRegistered,
    /// The phone is not registered.
    PhoneLost,
    /// That WebSocket attached.
    DeskAttached(u64),
    /// That WebSocket is gone.
    DeskLost(u64),
}

/// What a change made of the login; the desk is told these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing that anybody needs to know.
    Same,
    /// The phone registered and no desk is there: the grant is reported.
    Registered,
    /// Phone and desk are there: the login is complete (S1-063), or is again.
    Online,
    /// The desk came first and waits for the phone.
    Waiting,
    /// The desk is back and nothing else changed; `taken` is the WebSocket that it had before.
    Resumed {
        /// The older WebSocket, which is to be closed.
        taken: Option<u64>,
    },
    /// The phone is gone and the login is not online any more, when it was.
    PhoneGone,
    /// The desk's WebSocket is gone; its session lives on for [`DESK_AWAY_MS`].
    DeskGone,
}

/// Why a login ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The agent said so.
    Exit,
    /// 30 s without the WebSocket.
    DeskAway,
    /// Neither phone nor desk came, or the phone alone went.
    Lapsed,
    /// A newer login of the same agent (G-24).
    Replaced,
    /// The administrator said so.
    Ordered,
    /// Its CCB is given back to the pool (G-09).
    Drained,
}

impl End {
    /// The word that desks and logs see.
    pub fn name(self) -> &'static str {
        match self {
            End::Exit => "exit",
            End::DeskAway => "desk_away",
            End::Lapsed => "lapsed",
            End::Replaced => "replaced",
            End::Ordered => "ordered",
            End::Drained => "drained",
        }
    }
}

/// The state of one login.
#[derive(Clone, Copy, Debug)]
pub struct Login {
    /// When it was granted.
    pub granted_at: Instant,
    /// Its phone.
    pub phone: Phone,
    /// Its desk.
    pub desk: Desk,
    /// When the desk's part last changed.
    pub desk_since: Instant,
}

impl Login {
    /// A login that was granted now.
    pub fn granted(now: Instant) -> Self {
        Login { granted_at: now, phone: Phone::Never, desk: Desk::Never, desk_since: now }
    }

    /// A login that an earlier control process knew: a desk that it had gets its full time to
    /// come back from now on, and a phone that is not there gets what a lost one gets.
    pub fn rebuilt(granted_at: Instant, had_desk: bool, registered: bool, now: Instant) -> Self {
        let phone = match registered {
            true => Phone::Registered,
            false if now < granted_at + Duration::from_millis(GRANT_MS) => Phone::Never,
            false => Phone::Lost(now),
        };
        let desk = if had_desk { Desk::Away(now) } else { Desk::Never };
        Login { granted_at, phone, desk, desk_since: now }
    }

    /// True while the phone is registered and the CTI session lives.
    pub fn is_online(&self) -> bool {
        self.phone == Phone::Registered && self.desk != Desk::Never
    }

    /// The word that `agents` shows.
    pub fn state_name(&self) -> &'static str {
        match (self.phone, self.desk) {
            (_, Desk::Away(_)) => "lost",
            (Phone::Registered, Desk::Attached(_)) => "online",
            (_, Desk::Attached(_)) => "waiting_for_phone",
            (Phone::Registered, Desk::Never) => "registered",
            (Phone::Lost(_), Desk::Never) => "phone_lost",
            (Phone::Never, Desk::Never) => "granted",
        }
    }

    /// Makes the change; changes that tell nothing new are [`Step::Same`].
    pub fn step(&mut self, now: Instant, change: Change) -> Step {
        match change {
            Change::PhoneRegistered if self.phone == Phone::Registered => Step::Same,
            Change::PhoneRegistered => {
                self.phone = Phone::Registered;
                if self.desk == Desk::Never { Step::Registered } else { Step::Online }
            }
            Change::PhoneLost if self.phone == Phone::Registered => {
                self.phone = Phone::Lost(now);
                Step::PhoneGone
            }
            Change::PhoneLost => Step::Same,
            Change::DeskAttached(socket) => {
                let before = std::mem::replace(&mut self.desk, Desk::Attached(socket));
                self.desk_since = now;
                match before {
                    Desk::Never if self.phone == Phone::Registered => Step::Online,
                    Desk::Never => Step::Waiting,
                    Desk::Attached(old) if old != socket => Step::Resumed { taken: Some(old) },
                    Desk::Attached(_) | Desk::Away(_) => Step::Resumed { taken: None },
                }
            }
            // A WebSocket that another one took the session from says nothing about the session.
            Change::DeskLost(socket) if self.desk == Desk::Attached(socket) => {
                self.desk = Desk::Away(now);
                self.desk_since = now;
                Step::DeskGone
            }
            Change::DeskLost(_) => Step::Same,
        }
    }

    /// When time alone ends the login, as it stands, and why.
    pub fn deadline(&self) -> Option<(Instant, End)> {
        match (self.desk, self.phone) {
            (Desk::Attached(_), _) | (Desk::Never, Phone::Registered) => None,
            (Desk::Away(since), _) => {
                Some((since + Duration::from_millis(DESK_AWAY_MS), End::DeskAway))
            }
            (Desk::Never, Phone::Never) => {
                Some((self.granted_at + Duration::from_millis(GRANT_MS), End::Lapsed))
            }
            (Desk::Never, Phone::Lost(since)) => {
                Some((since + Duration::from_millis(PHONE_AWAY_MS), End::Lapsed))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Instant = Instant::from_nanos(1_000_000_000);
    const T1: Instant = Instant::from_nanos(2_000_000_000);

    const PHONES: [Phone; 3] = [Phone::Never, Phone::Registered, Phone::Lost(T0)];
    const DESKS: [Desk; 3] = [Desk::Never, Desk::Attached(1), Desk::Away(T0)];
    const CHANGES: [Change; 6] = [
        Change::PhoneRegistered,
        Change::PhoneLost,
        Change::DeskAttached(1),
        Change::DeskAttached(2),
        Change::DeskLost(1),
        Change::DeskLost(2),
    ];

    /// The whole machine: the rows are phone x desk, the columns the changes in their order.
    #[test]
    fn every_state_takes_every_change() {
        use Step::*;
        const KEPT: Step = Resumed { taken: None };
        const TAKEN: Step = Resumed { taken: Some(1) };
        let expected = [
            // Never x (Never, Attached, Away)
            [Registered, Same, Waiting, Waiting, Same, Same],
            [Online, Same, KEPT, TAKEN, DeskGone, Same],
            [Online, Same, KEPT, KEPT, Same, Same],
            // Registered
            [Same, PhoneGone, Online, Online, Same, Same],
            [Same, PhoneGone, KEPT, TAKEN, DeskGone, Same],
            [Same, PhoneGone, KEPT, KEPT, Same, Same],
            // Lost
            [Registered, Same, Waiting, Waiting, Same, Same],
            [Online, Same, KEPT, TAKEN, DeskGone, Same],
            [Online, Same, KEPT, KEPT, Same, Same],
        ];
        let mut row = 0;
        for phone in PHONES {
            for desk in DESKS {
                for (change, expected) in CHANGES.iter().zip(expected[row]) {
                    let mut login = Login { phone, desk, ..Login::granted(T0) };
                    let before = login.is_online();
                    let step = login.step(T1, *change);
                    assert_eq!(step, expected, "{phone:?} {desk:?} {change:?}");
                    match step {
                        Online => assert!(!before && login.is_online()),
                        PhoneGone | Waiting | Registered => assert!(!login.is_online()),
                        Same | DeskGone | Resumed { .. } => assert_eq!(before, login.is_online()),
                    }
                }
                row += 1;
            }
        }
    }

    #[test]
    fn time_ends_what_nobody_holds() {
        let ends = |phone, desk| {
            let login = Login { phone, desk, ..Login::granted(T0) };
            login.deadline().map(|(at, end)| (at.since(T0).as_secs(), end))
        };
        assert_eq!(ends(Phone::Never, Desk::Never), Some((300, End::Lapsed)));
        assert_eq!(ends(Phone::Registered, Desk::Never), None);
        assert_eq!(ends(Phone::Lost(T1), Desk::Never), Some((31, End::Lapsed)));
        for phone in PHONES {
            assert_eq!(ends(phone, Desk::Attached(1)), None);
            assert_eq!(ends(phone, Desk::Away(T1)), Some((31, End::DeskAway)));
        }
    }

    #[test]
    fn a_rebuilt_login_gets_its_time_anew() {
        let late = T0 + Duration::from_secs(3600);
        let login = Login::rebuilt(T0, true, true, late);
        assert!(login.is_online());
        assert_eq!(login.deadline(), Some((late + Duration::from_secs(30), End::DeskAway)));
        let login = Login::rebuilt(T0, false, false, late);
        assert_eq!(login.deadline(), Some((late + Duration::from_secs(30), End::Lapsed)));
        assert_eq!(Login::rebuilt(T0, false, true, late).deadline(), None);
    }
}
