//! Agents as control tells them to the data plane.

use super::*;
use crate::lease::{MAX_AT_ONCE, OWN_AT_ONCE};

row! {
    /// An agent (S1-032); its writer is the control process.
    #[derive(Debug)]
    pub struct AgentRow: AgentSlot, in a journal {
        /// An [`AgentState`].
        pub state: u32,
        /// Grows with each login of this row (G-24).
        pub login_epoch: u32,
        /// The tenant (S1-031).
        pub tenant: u32,
        /// The location that the agent logged in from, as a [`LocationId`].
        pub location: u32,
        /// The row of the directory.
        pub agent_id: u64,
        /// The directory number, unique in the tenant; zeros behind it.
        pub number: [u8; 24],
        /// The SIP user, unique in the region; zeros behind it.
        pub user: [u8; 48],
        /// The display name; zeros behind it.
        pub name: [u8; 64],
        /// When the login was granted, ns of the clock.
        pub granted_at: u64,
        /// A [`CtiState`].
        pub cti_state: u32,
        /// The directory's number for voice, chat, universal or supervisor (G-26).
        pub agent_type: u32,
        /// Since when `cti_state` holds, ns of the clock.
        pub cti_since: u64,
        /// When control is to be asked where a call to the agent goes instead: [`Self::ALWAYS`] and what follows
        /// it.
        pub forwards: u32,
        /// How long the phone rings before that, in seconds, where [`Self::NO_ANSWER`] is among them.
        pub no_answer_s: u32,
        /// How many calls the agent may have at the same time before a caller hears that it is busy, and one; 0 where
        /// nothing is said (S1-032).
        pub incoming_limit: u32,
        /// How many calls of its own the agent may have at the same time, and one; 0 where nothing is said.
        pub outgoing_limit: u32,
        /// A [`WorkState`]: whether the agent takes calls of queues.
        pub work: u32,
        /// A [`NextWork`]: what follows the call that the agent is in.
        pub next_work: u32,
        /// Since when `work` holds; of a ready agent, since when it is idle; ns of the clock.
        pub work_since: u64,
        /// Until when the work after a call lasts, ns of the clock; 0 when that is not bounded.
        pub work_until: u64,
        /// Why the agent is not ready; zeros behind it.
        pub reason: [u8; 24],
        /// Why the agent will not be ready after the call; zeros behind it.
        pub next_reason: [u8; 24],
    }
}

impl AgentRow {
    /// In `forwards`: before the phone rings.
    pub const ALWAYS: u32 = 1;
    /// In `forwards`: when the agent is in a call, or the phone says so.
    pub const BUSY: u32 = 2;
    /// In `forwards`: when the phone was not answered.
    pub const NO_ANSWER: u32 = 4;
    /// In `forwards`: when no phone can be reached.
    pub const UNAVAILABLE: u32 = 8;

    /// What the row is; [`AgentState::Empty`] when the number means nothing.
    pub fn state(&self) -> AgentState {
        AgentState::of(self.state).unwrap_or_default()
    }

    /// How many calls the agent may have at the same time, its own among them, before a caller hears that it is
    /// busy: one where nothing is said. With more, a further caller rings the phone (call waiting).
    pub fn incoming_limit(&self) -> u16 {
        said(self.incoming_limit).map_or(1, |limit| limit.max(1))
    }

    /// How many calls of its own the agent may have at the same time: [`OWN_AT_ONCE`] where nothing is said.
    pub fn outgoing_limit(&self) -> u16 {
        said(self.outgoing_limit).unwrap_or(OWN_AT_ONCE)
    }

    /// Sets both limits; more than [`MAX_AT_ONCE`] are as many as that.
    pub fn set_limits(&mut self, incoming: Option<u32>, outgoing: Option<u32>) {
        let word = |limit: u32| limit.min(MAX_AT_ONCE.into()) + 1;
        self.incoming_limit = incoming.map_or(0, word);
        self.outgoing_limit = outgoing.map_or(0, word);
    }

    /// What [`Self::set_limits`] was told.
    pub fn limits(&self) -> (Option<u32>, Option<u32>) {
        (self.incoming_limit.checked_sub(1), self.outgoing_limit.checked_sub(1))
    }

    /// What is known of the CTI session.
    pub fn cti_state(&self) -> CtiState {
        CtiState::of(self.cti_state).unwrap_or_default()
    }

    /// The tenant.
    pub fn tenant(&self) -> TenantId {
        TenantId(self.tenant)
    }

    /// The location; None when no location has that number.
    pub fn location(&self) -> Option<LocationId> {
        u8::try_from(self.location).ok().map(LocationId)
    }

    /// Whether the agent takes calls of queues.
    pub fn work(&self) -> WorkState {
        WorkState::of(self.work).unwrap_or_default()
    }

    /// What follows the call that the agent is in.
    pub fn next_work(&self) -> NextWork {
        NextWork::of(self.next_work).unwrap_or_default()
    }

    /// Why the agent is not ready.
    pub fn reason(&self) -> Text<24> {
        text(&self.reason)
    }

    /// Sets why the agent is not ready.
    pub fn set_reason(&mut self, reason: Text<24>) {
        self.reason = field(reason);
    }

    /// Why the agent will not be ready after the call.
    pub fn next_reason(&self) -> Text<24> {
        text(&self.next_reason)
    }

    /// Sets why the agent will not be ready after the call.
    pub fn set_next_reason(&mut self, reason: Text<24>) {
        self.next_reason = field(reason);
    }

    /// The directory number.
    pub fn number(&self) -> Text<24> {
        text(&self.number)
    }

    /// Sets the directory number.
    pub fn set_number(&mut self, number: Text<24>) {
        self.number = field(number);
    }

    /// The SIP user.
    pub fn user(&self) -> Text<48> {
        text(&self.user)
    }

    /// Sets the SIP user.
    pub fn set_user(&mut self, user: Text<48>) {
        self.user = field(user);
    }

    /// The display name.
    pub fn name(&self) -> Text<64> {
        text(&self.name)
    }

    /// Sets the display name.
    pub fn set_name(&mut self, name: Text<64>) {
        self.name = field(name);
    }
}

/// The limit of a row's word.
fn said(word: u32) -> Option<u16> {
    Some(word.checked_sub(1)?.min(MAX_AT_ONCE.into()) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_what_was_said_or_one_and_four() {
        let mut row = AgentRow::default();
        assert_eq!((row.incoming_limit(), row.outgoing_limit()), (1, OWN_AT_ONCE));
        for (said, counts) in [
            ((None, None), (1, OWN_AT_ONCE)),
            ((Some(2), None), (2, OWN_AT_ONCE)),
            ((Some(0), Some(0)), (1, 0)),
            ((None, Some(1)), (1, 1)),
            ((Some(u32::MAX), Some(u32::MAX)), (MAX_AT_ONCE, MAX_AT_ONCE)),
        ] {
            row.set_limits(said.0, said.1);
            assert_eq!((row.incoming_limit(), row.outgoing_limit()), counts, "{said:?}");
            let most = u32::from(MAX_AT_ONCE);
            let kept = [said.0, said.1].map(|limit| limit.map(|it: u32| it.min(most)));
            assert_eq!(row.limits(), (kept[0], kept[1]));
        }
        (row.incoming_limit, row.outgoing_limit) = (u32::MAX, u32::MAX);
        assert_eq!((row.incoming_limit(), row.outgoing_limit()), (MAX_AT_ONCE, MAX_AT_ONCE));
    }
}
