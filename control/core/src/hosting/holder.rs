//! The CCB that hosts: what it asked for, and the sessions that it makes of what it was granted.

use std::collections::BTreeMap;
use std::time::Duration;

use abi::{Fence, Purpose};
use base::{CcbId, Instant, TenantId};

use super::WANTED_MS;
use crate::cluster::{BladeName, Denial, FromQueue, Grant, HeldLease, LeaseRequest};

/// Whom a call wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The blade of the agent's home.
    pub blade: BladeName,
    /// The home.
    pub home: CcbId,
    /// Our CCB.
    pub holder: CcbId,
    /// The incarnation of its data plane.
    pub holder_incarnation: u64,
    /// The tenant.
    pub tenant: TenantId,
    /// The agent's directory number.
    pub number: String,
    /// What for.
    pub purpose: Purpose,
    /// The caller's number.
    pub caller: String,
    /// The caller's key in the directory, when an agent calls.
    pub caller_agent: Option<u64>,
    /// The call's serial number.
    pub serial: u64,
    /// The queue that it came by.
    pub queue: Option<FromQueue>,
}

/// How far a session with a hosted agent is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The home was asked.
    Asking,
    /// The agent is ours, and nobody was called yet (S2-011).
    Virtual(Box<Grant>),
    /// The INVITE is ordered (S2-014).
    Dialled(Box<Grant>),
    /// An earlier control process dialled, and the call stands.
    Found,
}

/// A session with an agent of another CCB. `C` is what the call is to its keeper.
#[derive(Clone, Debug)]
pub struct Session<C> {
    /// Whom it is with.
    pub wanted: Wanted,
    /// How far it is.
    pub stage: Stage,
    /// When the home was asked.
    pub since: Instant,
    /// The call.
    pub call: C,
}

/// What comes after an answer of a home.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<C> {
    /// The agent is to be called.
    Dial(C, Box<Grant>),
    /// It cannot be had; none is no answer at all.
    Refused(C, Option<Denial>),
    /// Nobody wants it any more: to be given back to that blade.
    GiveBack(BladeName, Fence, TenantId, String),
    /// Nothing.
    Nothing,
}

/// Of two agents who call each other, whose call goes on (G-03).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Glare {
    /// Ours: theirs is denied.
    Ours,
    /// Theirs: ours gives way.
    Theirs,
}

/// All sessions of a blade with agents of other CCBs.
#[derive(Debug)]
pub struct Holder<C> {
    incarnation: u64,
    next: u64,
    sessions: BTreeMap<u64, Session<C>>,
}

impl<C: Clone> Holder<C> {
    /// None yet; `incarnation` is one that no earlier control process of this blade had.
    pub fn new(incarnation: u64) -> Self {
        Holder { incarnation, next: 0, sessions: BTreeMap::new() }
    }

    /// What is hosted here and what was asked for, by request.
    pub fn sessions(&self) -> impl Iterator<Item = (u64, &Session<C>)> {
        self.sessions.iter().map(|(id, session)| (*id, session))
    }

    /// That session.
    pub fn session(&self, id: u64) -> Option<&Session<C>> {
        self.sessions.get(&id)
    }

    /// A call wants an agent of another CCB: the request for the home (S2-006, S2-007).
    pub fn ask(&mut self, now: Instant, wanted: Wanted, call: C) -> LeaseRequest {
        self.next += 1;
        let id = self.next;
        let request = LeaseRequest {
            id,
            incarnation: self.incarnation,
            holder: wanted.holder,
            holder_incarnation: wanted.holder_incarnation,
            tenant: wanted.tenant,
            number: wanted.number.clone(),
            purpose: wanted.purpose,
            caller: wanted.caller.clone(),
            caller_agent: wanted.caller_agent,
            serial: wanted.serial,
            ttl_ms: WANTED_MS,
            queue: wanted.queue.clone(),
        };
        let session = Session { wanted, stage: Stage::Asking, since: now, call };
        self.sessions.insert(id, session);
        request
    }

    /// A call that an earlier control process made stands with an agent of another CCB.
    pub fn found(&mut self, now: Instant, wanted: Wanted, call: C) {
        self.next += 1;
        let session = Session { wanted, stage: Stage::Found, since: now, call };
        self.sessions.insert(self.next, session);
    }

    /// The home answered that request, or nobody did. A grant that comes later than it was waited for, for a call
    /// that is over or a second time is nobody's.
    pub fn answered(
        &mut self,
        now: Instant,
        id: u64,
        answer: Option<Result<Grant, Denial>>,
    ) -> Next<C> {
        let waits = |session: &&mut Session<C>| session.stage == Stage::Asking;
        let session = self.sessions.get_mut(&id).filter(waits);
        match (session, answer) {
            (Some(session), Some(Ok(grant))) => {
                let grant = Box::new(grant);
                if now >= session.since + Duration::from_millis(u64::from(WANTED_MS)) {
                    let call = session.call.clone();
                    self.sessions.remove(&id);
                    return Next::Refused(call, None);
                }
                session.stage = Stage::Virtual(grant.clone());
                Next::Dial(session.call.clone(), grant)
            }
            (Some(session), other) => {
                let call = session.call.clone();
                self.sessions.remove(&id);
                Next::Refused(call, other.and_then(Result::err))
            }
            (None, _) => Next::Nothing,
        }
    }

    /// What a grant that nobody waits for is given back as; [`Next::Nothing`] for the one that a session has.
    pub fn unwanted(&self, blade: &BladeName, tenant: TenantId, id: u64, grant: &Grant) -> Next<C> {
        let has = |session: &Session<C>| session.fence() == Some(grant.fence);
        if self.sessions.get(&id).is_some_and(has) {
            return Next::Nothing;
        }
        Next::GiveBack(blade.clone(), grant.fence, tenant, grant.number.clone())
    }

    /// The INVITE of that session was ordered.
    pub fn dialled(&mut self, id: u64) {
        if let Some(session) = self.sessions.get_mut(&id)
            && let Stage::Virtual(grant) = &session.stage
        {
            session.stage = Stage::Dialled(grant.clone());
        }
    }

    /// That session is over; what it has not used is given back.
    pub fn over(&mut self, id: u64) -> Next<C> {
        match self.sessions.remove(&id) {
            Some(Session {
                stage: Stage::Virtual(grant) | Stage::Dialled(grant), wanted, ..
            }) => Next::GiveBack(wanted.blade, grant.fence, wanted.tenant, wanted.number),
            _ => Next::Nothing,
        }
    }

    /// Whether a lease that the words of that home say we have is ours. A fence is one agent's at one home.
    pub fn holds(&self, home: CcbId, lease: &HeldLease) -> bool {
        self.sessions.values().any(|session| {
            let wanted = &session.wanted;
            session.fence() == Some(lease.fence)
                && (wanted.home, wanted.tenant) == (home, lease.tenant)
                && wanted.number == lease.number
        })
    }

    /// An agent of ours is asked for by one whom that agent asks for: whose call goes on (G-03)? None when they
    /// do not call each other. `agent` is our agent's key in the directory.
    pub fn glare(&self, agent: u64, request: &LeaseRequest) -> Option<(Glare, u64, &Session<C>)> {
        let theirs = request.caller_agent?;
        let meets = |session: &&Session<C>| {
            session.wanted.caller_agent == Some(agent)
                && session.wanted.tenant == request.tenant
                && session.wanted.number == request.caller
                && session.stage == Stage::Asking
        };
        let (id, session) = self.sessions.iter().find(|(_, session)| meets(session))?;
        let whose = if agent < theirs { Glare::Ours } else { Glare::Theirs };
        Some((whose, *id, session))
    }
}

impl Stage {
    /// `asked`, `virtual` or `dialled`.
    pub fn name(&self) -> &'static str {
        match self {
            Stage::Asking => "asked",
            Stage::Virtual(_) => "virtual",
            Stage::Dialled(_) | Stage::Found => "dialled",
        }
    }
}

impl<C> Session<C> {
    /// The lease, once it was granted.
    pub fn fence(&self) -> Option<Fence> {
        match &self.stage {
            Stage::Asking | Stage::Found => None,
            Stage::Virtual(grant) | Stage::Dialled(grant) => Some(grant.fence),
        }
    }
}
