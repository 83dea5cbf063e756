//! What the bypass tells a worker by itself.

use std::collections::VecDeque;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::doorbell::Doorbell;

/// More than this many untaken telephone-events are dropped: a worker takes them each cycle, and an event's
/// packets come 20 ms apart.
const EVENTS: usize = 4_096;

/// What happened to a row without its owner's doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// A telephone-event was relayed (RFC 4733); these are the first bytes of the RTP packet as it came.
    TelephoneEvent(u32, [u8; 16]),
    /// The next hop or an interface of a row is gone: its packets come to the process again. Call
    /// [`super::Bypass::remove`] for its counts.
    Gone(u32),
}

/// A worker's ear: it becomes readable when there are [`News`] of the worker's rows.
#[derive(Clone, Debug)]
pub struct Listener(pub(super) Arc<Mailbox>);

/// Where news of some rows wait to be taken.
#[derive(Debug)]
pub(super) struct Mailbox {
    rows: Range<u32>,
    news: Mutex<VecDeque<News>>,
    /// False where nothing was put since it was looked at; set behind each put, before the bell rings.
    is_told: AtomicBool,
    bell: Doorbell,
}

impl Listener {
    /// Takes all news, in order, and makes the descriptor unreadable if there was some.
    pub fn take(&self, mut told: impl FnMut(News)) {
        // Each cycle looks, and there is nothing as a rule: that must cost no system call, and no lock.
        if !self.0.is_told.load(Ordering::Relaxed) {
            return;
        }
        // What is put from here on sets it again.
        self.0.is_told.swap(false, Ordering::Acquire);
        let news = std::mem::take(&mut *self.0.lock());
        if !news.is_empty() {
            let _ = rustix::io::read(&self.0.bell, &mut [0; 8]);
            news.into_iter().for_each(&mut told);
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.bell.as_fd()
    }
}

impl Mailbox {
    pub fn new(rows: Range<u32>) -> std::io::Result<Mailbox> {
        let (news, is_told) = (Mutex::default(), AtomicBool::new(false));
        Ok(Mailbox { rows, news, is_told, bell: Doorbell::new()? })
    }

    /// Puts in news of `row`, if it is one of these rows.
    pub fn put(&self, row: u32, news: News) {
        if !self.rows.contains(&row) {
            return;
        }
        let mut waiting = self.lock();
        if waiting.len() < EVENTS || matches!(news, News::Gone(_)) {
            waiting.push_back(news);
        }
        drop(waiting);
        self.is_told.store(true, Ordering::Release);
        self.bell.ring();
    }

    /// Forgets that a row is gone, which its owner has just found out.
    pub fn forget_gone(&self, row: u32) {
        if self.rows.contains(&row) {
            self.lock().retain(|news| *news != News::Gone(row));
        }
    }

    /// Forgets all news of a row, which is another flow's from now on.
    pub fn forget(&self, row: u32) {
        if self.rows.contains(&row) {
            self.lock().retain(|news| match news {
                News::TelephoneEvent(of, _) | News::Gone(of) => *of != row,
            });
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<News>> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
