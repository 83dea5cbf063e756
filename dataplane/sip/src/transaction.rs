//! Transactions: RFC 3261, 17, with the Accepted states of RFC 6026.
//!
//! [`Transactions`] stands between the datagrams and their user (a B2BUA, a registrar, a phone). It
//! sends requests and responses again until they arrive, tells repeated messages from new ones, and
//! acknowledges refusals. Each of the four machines is drawn in the file of its name; this layer
//! finds the transaction of a message (`key`), lets its machine step, and does what that asks.
//!
//! It does no I/O: datagrams to send are pushed to `out`, time comes in as `now`. What goes out
//! depends on the calls alone, never on the order of a hash table.
//!
//! What stays with the user, because only it can know:
//! * 100 Trying. A new INVITE is to be answered at once, by 100 at least (17.2.1); [`Transactions::delay_trying`]
//!   keeps that 100 for a while.
//! * The ACK to a 2xx (13.2.2.4) and the BYE after [`Fired::NoAck`] (13.3.1.4).
//! * Timer C: how long an INVITE may ring ([`Transactions::cancel`] ends it), and that every INVITE
//!   that came is answered in the end; its transaction waits for that as long as it takes.
//! * Where to send: a flow is given with each request, and a response goes back on the flow of its
//!   request, so that is to be where 18.2.2 and RFC 3581 want the response.

use core::fmt;
use core::time::Duration;
use std::collections::HashMap;
use std::rc::Rc;

use base::{Instant, Slab, SlabKey, Timers};
use foldhash::SharedSeed;
use foldhash::fast::SeedableRandomState;

use crate::wire::{Message, Start};
use action::Timer;

pub use action::{LIFE, T1, T2, T4};

mod action;
mod build;
mod client;
mod client_invite;
mod client_other;
mod key;
mod server;
mod server_invite;
mod server_other;
#[cfg(test)]
mod tests;

/// Where a message goes to or came from.
pub trait Hop: Copy {
    /// True when nothing is lost on the way, so that nothing is to be sent again.
    fn is_reliable(self) -> bool;
}

impl Hop for std::net::SocketAddr {
    /// An address alone is one of datagrams.
    fn is_reliable(self) -> bool {
        false
    }
}

/// The transactions of one worker; `F` is where a datagram goes and comes from.
pub struct Transactions<F> {
    limit: u32,
    clients: Slab<client::Client<F>>,
    servers: Slab<server::Server<F>>,
    client_index: Index,
    server_index: Index,
    /// New INVITEs by what they have in common when a proxy forks one to us on several ways (8.2.2.2).
    merge_index: Index,
    timers: Timers<(Owner, Timer)>,
    retransmissions: u64,
    /// How long a 100 waits.
    trying_after: Duration,
    /// Keys are built here, so that finding a transaction allocates nothing.
    scratch: Vec<u8>,
}

/// A transaction whose request was sent from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientKey(SlabKey);

/// A transaction whose request came from a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerKey(SlabKey);

impl ServerKey {
    /// The key of no transaction: there is nothing to respond by.
    pub const NONE: ServerKey = ServerKey(SlabKey { index: u32::MAX, generation: u32::MAX });
}

/// A datagram to send; sending it again shares its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent<F> {
    /// Where to.
    pub flow: F,
    /// The whole message.
    pub bytes: Rc<[u8]>,
}

/// What a message is to the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// A new request, neither ACK nor CANCEL: answer it by [`Transactions::respond`].
    Request(ServerKey),
    /// A new INVITE that another one came before on another way, and that one lives: it is to be answered
    /// by 482 (8.2.2.2).
    Merged(ServerKey),
    /// A new CANCEL (9.2): answer it by 200, or by 481 when there is no INVITE to it.
    Cancel {
        /// The CANCEL itself.
        server: ServerKey,
        /// The INVITE that it means. Unless [`Transactions::answered`], it is to get a 487.
        invite: Option<ServerKey>,
    },
    /// An ACK to a 2xx; its dialog tells which, then call [`Transactions::acked`].
    Ack,
    /// A response to a request of the user. A 2xx to an INVITE comes each time that it arrives, and
    /// wants its ACK again each time.
    Response {
        /// The request's transaction.
        key: ClientKey,
        /// The word given with the request.
        user: u64,
    },
    /// A response to no request that is known. A 2xx to an INVITE may still belong to a dialog.
    StrayResponse,
    /// It was a repetition, or concerned the transaction only; all is done.
    Absorbed,
    /// A new request, but [`Transactions::new`]'s limit is reached; it was not taken.
    Full,
    /// It lacks what is needed to find its transaction; `Message::check` tells what.
    Malformed,
}

/// What came of a [`Transactions::cancel`] (9.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelling {
    /// The CANCEL is on its way; the final response is still to come, or [`Fired::ClientTimeout`].
    Sent,
    /// No provisional response came so far; the CANCEL follows the first one.
    Held,
    /// There is a final response, or no such INVITE: it is too late.
    TooLate,
}

/// A transaction ended without what it waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fired {
    /// No final response to a request; it counts as answered by 408 (8.1.3.1).
    ClientTimeout {
        /// The request's transaction, gone by now.
        key: ClientKey,
        /// The word given with the request.
        user: u64,
    },
    /// No ACK to a 2xx within 64*T1: the session is to be ended by BYE (13.3.1.4).
    NoAck {
        /// The INVITE's transaction, gone by now.
        key: ServerKey,
        /// The word of [`Transactions::set_user`], or 0.
        user: u64,
    },
    /// No ACK to a refusal of an INVITE within 64*T1 (timer H); nothing is to be done.
    RefusalNotAcked {
        /// The INVITE's transaction, gone by now.
        key: ServerKey,
        /// The word of [`Transactions::set_user`], or 0.
        user: u64,
    },
    /// The user left a request other than INVITE without final response for 64*T1.
    Unanswered {
        /// The request's transaction, gone by now.
        key: ServerKey,
        /// The word of [`Transactions::set_user`], or 0.
        user: u64,
    },
}

/// The limit of requests at a time is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Whose timer it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Client(ClientKey),
    Server(ServerKey),
}

/// Finds transactions by the bytes of [`key`]. It is never iterated over.
type Index = HashMap<Box<[u8]>, SlabKey, SeedableRandomState>;

impl<F: Hop> Transactions<F> {
    /// A table for `limit` transactions of requests that come, and `limit` of requests that go, so
    /// that a flood of calls cannot keep the BYE of another call from being sent. A CANCEL is above
    /// the limit, for one that is not sent leaves a phone ringing. `seed` keys the hash tables.
    pub fn new(limit: u32, seed: u64) -> Self {
        let index = |seed| {
            HashMap::with_hasher(SeedableRandomState::with_seed(seed, SharedSeed::global_fixed()))
        };
        Transactions {
            limit,
            // Each request has one CANCEL at most, and none is admitted beyond `limit` while the
            // CANCELs count, so twice the limit is never exceeded.
            clients: Slab::with_limit(limit.saturating_mul(2)),
            servers: Slab::with_limit(limit),
            client_index: index(seed),
            server_index: index(seed.rotate_left(32)),
            merge_index: index(seed.rotate_left(16)),
            timers: Timers::default(),
            retransmissions: 0,
            trying_after: Duration::ZERO,
            scratch: Vec::new(),
        }
    }

    /// A 100 that answers an INVITE from now on waits for so long, or until the INVITE comes again; another response
    /// that is given before takes its place.
    ///
    /// RFC 3261, 17.2.1: "The server transaction MUST generate a 100 (Trying) response unless it knows that the TU will
    /// generate a provisional or final response within 200 ms". So `delay` is to be less, by what
    /// [`Transactions::timeouts`] may come too late.
    pub fn delay_trying(&mut self, delay: Duration) {
        self.trying_after = delay;
    }

    /// Takes a message that came on `flow`. Its mandatory headers should have been checked.
    pub fn receive(
        &mut self,
        now: Instant,
        message: &Message<'_>,
        flow: F,
        out: &mut Vec<Sent<F>>,
    ) -> Received {
        match message.start() {
            Start::Request { method, .. } => self.receive_request(now, message, method, flow, out),
            Start::Response { status, .. } => self.receive_response(now, message, status, out),
        }
    }

    /// Lets the timers fire that are due, and tells in `fired` what ended unfinished.
    pub fn timeouts(&mut self, now: Instant, out: &mut Vec<Sent<F>>, fired: &mut Vec<Fired>) {
        while let Some((_, (owner, timer))) = self.timers.due(now) {
            fired.extend(match owner {
                Owner::Client(key) => self.client_fires(now, key, timer, out),
                Owner::Server(key) => self.server_fires(now, key, timer, out),
            });
        }
    }

    /// When [`Self::timeouts`] is to be called next. It may come too early, but never too late.
    pub fn deadline(&self) -> Option<Instant> {
        self.timers.deadline()
    }

    /// How many transactions live, of both sides.
    pub fn len(&self) -> usize {
        self.clients.len() + self.servers.len()
    }

    /// True when none lives.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many datagrams were sent again so far.
    pub fn retransmissions(&self) -> u64 {
        self.retransmissions
    }
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no room for another transaction")
    }
}

impl core::error::Error for Full {}
