//! A login over blades: a place of the leader, the end of an older login, the grant where the place is.
//!
//! Each step is a question that may find nobody. Without a leader a blade chooses for itself; a CCB whose
//! blade does not answer is one that refused, and the next one is tried.

use std::time::Duration;

use base::{CcbId, Instant};

use super::Blade;
use super::cluster::Waiting;
use crate::cluster::{Answer, Home, Place, Placed, Question};
use crate::login::{End, LoginKey};
use crate::message::{Granted, LoginRefusal, LoginRequest, Output};

/// Places that are tried for a login.
const TRIES: usize = 3;
/// How long a login may take, in milliseconds; its asker waits for five seconds.
const ENTER_MS: u64 = 3_500;
/// How long who has just joined may know too little of the others, in milliseconds.
const YOUNG_MS: u64 = 3_000;
/// How often logins that found no CCB look again, in milliseconds.
const AGAIN_MS: u64 = 100;
/// Logins that may look again at once; more are refused.
const HELD: usize = 1_024;

/// A login on its way.
#[derive(Debug)]
pub(super) struct Entering {
    reply: u64,
    request: LoginRequest,
    refused: Vec<CcbId>,
    /// A blade that has a place did not answer, or is just back from a pause.
    may_come_back: bool,
    due: Instant,
}

/// Logins that found no CCB while that may pass, and when they look again.
#[derive(Debug, Default)]
pub(super) struct Held {
    logins: Vec<Entering>,
    again_at: Option<Instant>,
}

impl Held {
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.again_at
    }
}

impl Entering {
    fn login(&self) -> LoginKey {
        let agent = &self.request.agent;
        LoginKey { tenant: agent.tenant, agent: agent.agent, epoch: self.request.epoch }
    }

    fn place(&self) -> Place {
        Place {
            login: self.login(),
            location: self.request.location.clone(),
            eligible: self.request.eligible.clone(),
            refused: self.refused.clone(),
        }
    }

    fn end(self, result: Result<Granted, LoginRefusal>, out: &mut Vec<Output>) {
        out.push(Output::Login { reply: self.reply, result });
    }

    /// The agent is in a call, and the login was not forced.
    pub(super) fn in_call(self, out: &mut Vec<Output>) {
        self.end(Err(LoginRefusal::InCall), out);
    }
}

impl Blade {
    /// Puts an authenticated login on a CCB of any blade; alone, on one of ours (S1-055).
    pub(super) fn enter(
        &mut self,
        now: Instant,
        reply: u64,
        request: LoginRequest,
        out: &mut Vec<Output>,
    ) {
        self.pool.shared.count_login();
        let due = now + Duration::from_millis(ENTER_MS);
        let entering = Entering { reply, request, refused: Vec::new(), may_come_back: false, due };
        self.begin_entering(now, Box::new(entering), out);
    }

    fn begin_entering(&mut self, now: Instant, entering: Box<Entering>, out: &mut Vec<Output>) {
        match self.cluster.as_ref().filter(|cluster| cluster.connected) {
            Some(cluster) if cluster.is_confirmed() => self.seek_place(now, entering, out),
            Some(_) => self.found_none(now, entering, out),
            None => match self.grant(now, entering.request.clone(), out) {
                Err(LoginRefusal::NoCcb) => self.found_none(now, entering, out),
                result => entering.end(result, out),
            },
        }
    }

    /// There is no CCB for it. Where that may pass it looks again: who has just joined has not heard of all CCBs yet,
    /// who was paused waits for its own report to come back, an AgentProxy for the bus.
    fn found_none(&mut self, now: Instant, entering: Box<Entering>, out: &mut Vec<Output>) {
        let may_pass = self.cluster.as_ref().is_some_and(|cluster| {
            let is_young = now < cluster.joined_at + Duration::from_millis(YOUNG_MS);
            let is_deaf = cluster.agent_proxy.is_some() && !cluster.connected;
            is_young || is_deaf || !cluster.is_confirmed() || entering.may_come_back
        });
        if !may_pass || now >= entering.due || self.held.logins.len() >= HELD {
            return entering.end(Err(LoginRefusal::NoCcb), out);
        }
        self.held.logins.push(*entering);
        self.held.again_at.get_or_insert(now + Duration::from_millis(AGAIN_MS));
    }

    /// Lets the logins that found no CCB look again.
    pub(super) fn look_again(&mut self, now: Instant, out: &mut Vec<Output>) {
        if self.held.again_at.is_none_or(|at| now < at) {
            return;
        }
        self.held.again_at = None;
        for mut entering in std::mem::take(&mut self.held.logins) {
            entering.refused.clear();
            self.begin_entering(now, Box::new(entering), out);
        }
    }

    fn seek_place(&mut self, now: Instant, entering: Box<Entering>, out: &mut Vec<Output>) {
        if entering.refused.len() >= TRIES || now >= entering.due {
            return self.found_none(now, entering, out);
        }
        let Some(cluster) = self.cluster.as_mut() else { return };
        match cluster.leader(now) {
            Some(leader) if leader == cluster.name => {
                match cluster.choose(now, &entering.place()) {
                    Some(placed) => self.take_place(now, entering, placed, out),
                    None => self.found_none(now, entering, out),
                }
            }
            Some(leader) => {
                let question = Question::Place(entering.place());
                cluster.ask(leader, question, Waiting::Placed(entering), out);
            }
            None => self.place_ourselves(now, entering, out),
        }
    }

    /// The leader answered, or nobody did.
    pub(super) fn entering_placed(
        &mut self,
        now: Instant,
        entering: Box<Entering>,
        answer: Option<Answer>,
        out: &mut Vec<Output>,
    ) {
        match answer {
            Some(Answer::Placed(Some(placed))) => self.take_place(now, entering, placed, out),
            Some(Answer::Placed(None)) => self.found_none(now, entering, out),
            _ => self.place_ourselves(now, entering, out),
        }
    }

    /// Nobody leads: each blade chooses for itself by what is reported, the better of two at random, so that a storm of
    /// logins at one AgentProxy does not end on one CCB (G-10).
    fn place_ourselves(&mut self, now: Instant, entering: Box<Entering>, out: &mut Vec<Output>) {
        let Some(cluster) = self.cluster.as_mut() else { return };
        match cluster.choose(now, &entering.place()) {
            Some(placed) => self.take_place(now, entering, placed, out),
            None => self.found_none(now, entering, out),
        }
    }

    /// There is a place. An older login of the agent elsewhere goes first, unless it is in a call (G-24).
    fn take_place(
        &mut self,
        now: Instant,
        entering: Box<Entering>,
        placed: Placed,
        out: &mut Vec<Output>,
    ) {
        let login = entering.login();
        let Some(cluster) = self.cluster.as_mut() else { return };
        let number = (login.tenant, entering.request.agent.number.clone());
        let home = cluster.homes.get(&number).filter(|home| home.agent == login.agent);
        match home.cloned() {
            Some(home) if home.epoch > login.epoch => {
                entering.end(Err(LoginRefusal::Overtaken), out);
            }
            // That blade replaces its own older login itself.
            Some(home) if home.blade == placed.blade || home.epoch == login.epoch => {
                self.enter_at(now, entering, placed, out);
            }
            Some(home) if home.blade == cluster.name => {
                let older = LoginKey { epoch: home.epoch, ..login };
                match entering.request.force || !self.is_in_call(older) {
                    true => self.enter_at(now, entering, placed, out),
                    false => entering.in_call(out),
                }
            }
            Some(home) => {
                let older = LoginKey { epoch: home.epoch, ..login };
                let question = Question::Leave { login: older, force: entering.request.force };
                cluster.ask(home.blade, question, Waiting::Left(entering, placed), out);
            }
            None => self.enter_at(now, entering, placed, out),
        }
    }

    /// Grants it at its place, here or at another blade.
    pub(super) fn enter_at(
        &mut self,
        now: Instant,
        entering: Box<Entering>,
        placed: Placed,
        out: &mut Vec<Output>,
    ) {
        let Some(cluster) = self.cluster.as_mut() else { return };
        let request = LoginRequest { eligible: vec![placed.ccb], ..entering.request.clone() };
        let turn = entering.refused.len() as u32;
        if placed.blade == cluster.name {
            let result = self.grant(now, request, out);
            self.home_turns(result.as_ref().ok().map(|granted| granted.login), turn, out);
            let answer = Some(Answer::Login(result));
            return self.entered(now, entering, placed, answer, out);
        }
        let question = Question::Login { ccb: placed.ccb, request: Box::new(request), turn };
        let to = placed.blade.clone();
        cluster.ask(to, question, Waiting::Entered(entering, placed), out);
    }

    /// The place granted it, refused it or said nothing.
    pub(super) fn entered(
        &mut self,
        now: Instant,
        mut entering: Box<Entering>,
        placed: Placed,
        answer: Option<Answer>,
        out: &mut Vec<Output>,
    ) {
        let login = entering.login();
        match answer {
            Some(Answer::Login(Ok(granted))) => {
                // The newer home is known before the older login goes, which else would take it away.
                if let Some(cluster) = self.cluster.as_mut() {
                    let turn = entering.refused.len() as u32;
                    let Placed { blade, ccb } = placed;
                    let home = Home { blade, ccb, agent: login.agent, epoch: login.epoch, turn };
                    let number = entering.request.agent.number.clone();
                    cluster.home_told((login.tenant, number), home);
                }
                // Who asks here for a place elsewhere had the older login here.
                let older = self.login_of(login.tenant, login.agent);
                if let Some(older) = older.filter(|older| older.epoch < login.epoch) {
                    self.end(now, older, End::Replaced, out);
                }
                entering.end(Ok(granted), out);
            }
            Some(Answer::Login(Err(why))) if why != LoginRefusal::NoCcb => {
                entering.end(Err(why), out);
            }
            refused => {
                entering.may_come_back |= matches!(refused, None | Some(Answer::NotHere));
                if refused.is_none()
                    && let Some(cluster) = self.cluster.as_mut()
                {
                    // The grant may have been made and its answer lost.
                    let question = Question::Leave { login, force: true };
                    cluster.ask(placed.blade, question, Waiting::Nothing, out);
                }
                entering.refused.push(placed.ccb);
                self.seek_place(now, entering, out);
            }
        }
    }

    /// Makes a login on a CCB of ours that another blade authenticated.
    pub(super) fn login_for_other(
        &mut self,
        now: Instant,
        (ccb, turn): (CcbId, u32),
        request: LoginRequest,
        out: &mut Vec<Output>,
    ) -> Answer {
        let is_confirmed = self.cluster.as_ref().is_some_and(|cluster| cluster.is_confirmed());
        match is_confirmed {
            true => {
                let request = LoginRequest { eligible: vec![ccb], ..request };
                let result = self.grant(now, request, out);
                self.home_turns(result.as_ref().ok().map(|granted| granted.login), turn, out);
                Answer::Login(result)
            }
            false => Answer::NotHere,
        }
    }

    /// Ends an older login of ours for a newer one elsewhere; false when its agent is in a call.
    pub(super) fn leave_older(
        &mut self,
        now: Instant,
        login: LoginKey,
        force: bool,
        out: &mut Vec<Output>,
    ) -> bool {
        if !force && self.is_in_call(login) {
            return false;
        }
        self.end(now, login, End::Replaced, out);
        true
    }

    /// Ends a login wherever it stands.
    pub(super) fn leave(
        &mut self,
        now: Instant,
        reply: u64,
        login: LoginKey,
        end: End,
        out: &mut Vec<Output>,
    ) {
        let elsewhere = self.home_of(login).filter(|_| !self.is_alive(login));
        if let (Some(blade), Some(cluster)) = (elsewhere, self.cluster.as_mut())
            && blade != cluster.name
        {
            let question = Question::Logout { login, end };
            return cluster.ask(blade, question, Waiting::Logout { reply }, out);
        }
        let stood = self.is_alive(login);
        self.end(now, login, end, out);
        out.push(Output::Left { reply, stood });
    }
}
