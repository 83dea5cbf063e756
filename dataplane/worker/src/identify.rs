//! Who sends a request: an agent who proves it by digest, or a trunk known by its address or its certificate.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::time::Duration;

use abi::{AgentRow, AgentState, Class, Counter, Event, Party, TenantRow, TrunkRow};
use base::{AgentSlot, Instant, LocationId, TenantId, Text, Transport};
use sip::digest::{self, Algorithm, Credentials, MalformedAuth, Verdict, Verifier};
use sip::wire::{Header, Message, Method};

use crate::call::{Flow, Number, is_dialable};
use crate::carried::{asserted, is_withheld};
use crate::guard::Stranger;
use crate::intake::Arrival;
use crate::refusal::Refusal;
use crate::worker::Worker;

/// Who stands behind a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub tenant: TenantId,
    pub party: Party,
    /// The directory number of an agent; what a trunk says of its caller.
    pub number: Number,
}

/// Which algorithms a challenge offers, and in which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Offers {
    /// SHA-256, then MD5: RFC 8760, 2.3 lets the server put first what it prefers.
    Both,
    /// MD5, then SHA-256: for who does not say what it is. Such are small devices and test tools
    /// (SIPp 3.6) that look at the first challenge only and know only MD5.
    Md5First,
    /// MD5: for phones that give up when any challenge names an algorithm they do not know.
    Md5Only,
}

/// The User-Agents of such phones; the libre under these baresips answers SHA-256 with ENOSYS.
const MD5_ONLY: [&[u8]; 3] = [b"baresip v0.", b"baresip v1.", b"baresip v2."];

impl Offers {
    fn to(user_agent: Option<&[u8]>) -> Offers {
        match user_agent {
            None => Offers::Md5First,
            Some(agent) if MD5_ONLY.iter().any(|known| agent.starts_with(known)) => Offers::Md5Only,
            Some(_) => Offers::Both,
        }
    }
}

impl Worker {
    /// The trunk whose certificate was shown or whose network it comes from, else the agent that the credentials prove; a challenge
    /// when they do not.
    pub(crate) fn identify(
        &mut self,
        now: Instant,
        arrival: Arrival<'_>,
    ) -> Result<Identity, Refusal> {
        let mut trunk = self.trunk_at(arrival.flow(), arrival.message);
        if trunk.is_none() && self.read_provision(now) {
            trunk = self.trunk_at(arrival.flow(), arrival.message);
        }
        if let Some(identity) = trunk {
            self.watch_connection(arrival.channel);
            return Ok(identity);
        }
        let (agent, row) = self.prove_agent(now, arrival)?;
        if !self.serves(arrival.location, &row) {
            // The secret was minted for one location (G-13).
            self.count(Counter::DropSipUnknownSource);
            return Err(Refusal::status(403));
        }
        let number = Number::new(row.number().as_bytes()).unwrap_or_default();
        let party = Party::Agent(agent, row.login_epoch);
        Ok(Identity { tenant: TenantId(row.tenant), party, number })
    }

    /// True when a request is from somebody who is in: a trunk, the peer of a call, a phone that is registered
    /// where the request comes from, another blade. It is not proved by that, only heard.
    pub(crate) fn is_known(&self, message: &Message<'_>, came: Flow) -> bool {
        let from = came.peer;
        if message.status().is_some() || self.trunk_behind(came).is_some() {
            return true;
        }
        let is_registered_there = || {
            let (agent, _) = self.agent_of_address(message)?;
            let row = self.region.registrations().read(agent)?;
            Some(row.is_registered() && row.addr().ip() == from.ip())
        };
        self.leg_of(message).is_some()
            || is_registered_there().unwrap_or(false)
            || self.is_fenced(message)
    }

    /// A request that proves nothing: it is answered unless its source has asked too much already.
    pub(crate) fn admit_stranger(
        &mut self,
        now: Instant,
        came: Flow,
        message: &Message<'_>,
    ) -> Result<(), Refusal> {
        let from = came.peer;
        if self.trunk_behind(came).is_some() {
            return Ok(());
        }
        match self.guard.stranger(now, from.ip()) {
            Stranger::Answer => return Ok(()),
            // A registered phone renews however many strangers share its address.
            Stranger::Later if self.is_known(message, came) => return Ok(()),
            Stranger::Later => self.count(Counter::DropSipRate),
            Stranger::Ban(ban) => self.ban(from, ban),
        }
        Err(Refusal::silence())
    }

    /// A source is banned: control hears of it.
    pub(crate) fn ban(&mut self, from: SocketAddr, ban: Duration) {
        self.count(Counter::SourcesBanned);
        let seconds = u32::try_from(ban.as_secs()).unwrap_or(u32::MAX);
        let event = Event::SourceBanned { addr: from, seconds };
        self.tell_as(event, &[], Class::Statistic);
    }

    fn trunk_at(&self, came: Flow, message: &Message<'_>) -> Option<Identity> {
        let (index, row) = self.trunk_behind(came)?;
        let number = self.number_of_caller(message);
        Some(Identity { tenant: TenantId(row.tenant), party: Party::Trunk(index), number })
    }

    /// The number of a caller whom a trunk or another blade vouches for.
    pub(crate) fn number_of_caller(&self, message: &Message<'_>) -> Number {
        let from = message.from().ok();
        let user = from.and_then(|from| Some(from.parsed_uri().ok()?.user)).unwrap_or_default();
        // RFC 3325, 9.1: what is asserted by who is trusted goes before what a caller says of itself.
        let said =
            Number::new(user).ok().filter(|number| !number.is_empty() && is_dialable(number));
        // RFC 3323, 4.1.1.3: who does not say who it is, or not so that it fits a URI, or wants to be nobody.
        let number = match is_withheld(message) {
            true => None,
            false => asserted(message).or(said),
        };
        number.unwrap_or_else(|| Number::new(b"anonymous").unwrap_or_default())
    }

    /// The logged-in agent that the Authorization header proves (RFC 3261, 22; RFC 8760).
    ///
    /// Who is unknown is challenged and refused exactly as who is wrong, at the same cost.
    pub(crate) fn prove_agent(
        &mut self,
        now: Instant,
        arrival: Arrival<'_>,
    ) -> Result<(AgentSlot, AgentRow), Refusal> {
        let message = arrival.message;
        let given = message.headers(Header::Authorization).map(Credentials::parse);
        // RFC 4475, 3.3.7: a scheme that we do not know is no proof: "reject this request with a 401,
        // issuing a new challenge with a scheme it understands".
        let mut given = given.filter(|read| !matches!(read, Err(MalformedAuth::Scheme))).peekable();
        if given.peek().is_none() {
            self.admit_stranger(now, arrival.flow(), message)?;
            return Err(self.challenge(now, message, false));
        }
        let Some(credentials) = given.find_map(Result::ok) else {
            return Err(Refusal::status(400));
        };
        let found = self.region.agents().find_user(credentials.username);
        let known = found
            .filter(|(_, row)| matches!(row.state(), AgentState::LoggedIn | AgentState::Draining));
        let secret = known.and_then(|(agent, row)| {
            self.region.secrets().read(agent).filter(|secret| secret.epoch == row.login_epoch)
        });
        let realm = self.realm_of(now, known.map(|(_, row)| row.tenant()));
        // Nobody's secret is all zeros, so who is unknown fails after the same work.
        let secret = secret.unwrap_or_default();
        let ha1: &[u8] = match credentials.algorithm {
            Algorithm::Md5 => &secret.ha1_md5,
            Algorithm::Sha256 => &secret.ha1_sha256,
        };
        let method = message.method().map_or(&b""[..], |method| method.as_bytes());
        let verifier = Verifier { key: &self.nonces, realm: realm.as_bytes(), now };
        let verdict = verifier.verify(&credentials, method, ha1);
        let is_known = secret.epoch != 0;
        match (verdict, known) {
            (Verdict::Ok { nonce_time, nc }, Some((agent, row))) if is_known => {
                // RFC 3261, 22.4: the URI of the digest "may refer to different users, due to
                // forwarding at some proxy", so it is not held against the Request-URI; what was
                // proved once is of no use again, for the nonce count is used up.
                if self.admit_nonce(agent, nonce_time, nc) {
                    self.guard.proved(now, arrival.from.ip());
                    self.watch_connection(arrival.channel);
                    return Ok((agent, row));
                }
                self.count(Counter::StaleNonce);
                Err(self.challenge(now, message, true))
            }
            (Verdict::Stale, Some(_)) if is_known => {
                self.count(Counter::StaleNonce);
                Err(self.challenge(now, message, true))
            }
            _ => {
                self.count(Counter::DropSipUnauthorised);
                if let Some(ban) = self.guard.wrong(now, arrival.from.ip()) {
                    self.ban(arrival.from, ban);
                    return Err(Refusal::silence());
                }
                Err(self.challenge(now, message, false))
            }
        }
    }

    /// Takes a nonce count that was not used before (RFC 7616, 3.4). One word an agent says which was
    /// the last, so that a replay fails on every worker.
    fn admit_nonce(&self, agent: AgentSlot, nonce_time: u64, count: u32) -> bool {
        let Some(word) = self.region.agents().nonce_word(agent) else {
            return false;
        };
        let mut last = word.load(Ordering::Acquire);
        while let Some(next) = digest::admit(last, nonce_time, count) {
            match word.compare_exchange(last, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return true,
                Err(newer) => last = newer,
            }
        }
        false
    }

    /// A 401 in the realm of the tenant that the request seems to be of.
    fn challenge(&mut self, now: Instant, message: &Message<'_>, stale: bool) -> Refusal {
        let tenant = self.tenant_claimed(message);
        let realm = self.realm_of(now, tenant);
        let [sha256, md5] = digest::challenge(&self.nonces, now, realm.as_str(), stale);
        let offers = Offers::to(message.header(Header::UserAgent));
        let refusal = Refusal::status(401);
        match offers {
            Offers::Both => {
                refusal.with("WWW-Authenticate", &sha256).with("WWW-Authenticate", &md5)
            }
            Offers::Md5First => {
                refusal.with("WWW-Authenticate", &md5).with("WWW-Authenticate", &sha256)
            }
            Offers::Md5Only => refusal.with("WWW-Authenticate", &md5),
        }
    }

    /// The tenant that a request says it is of: by the suffix of its SIP user, or by its domain. Whether
    /// there is such a user plays no part, so that a challenge does not tell.
    fn tenant_claimed(&self, message: &Message<'_>) -> Option<TenantId> {
        let is_register = message.method() == Some(Method::Register);
        let address = if is_register { message.to() } else { message.from() }.ok()?;
        let uri = address.parsed_uri().ok()?;
        let suffix = uri.user.rsplit(|byte| *byte == b'.').next().unwrap_or_default();
        let is_claimed = |row: &&TenantRow| {
            row.name().as_bytes() == suffix || row.realm().as_bytes().eq_ignore_ascii_case(uri.host)
        };
        self.provision.tenants.iter().find(is_claimed).map(|row| TenantId(row.tenant))
    }

    /// The agent whose address of record a request is from (REGISTER: for): a SIP user, or a directory
    /// number at the tenant's realm.
    pub(crate) fn agent_of_address(&self, message: &Message<'_>) -> Option<(AgentSlot, AgentRow)> {
        let is_register = message.method() == Some(Method::Register);
        let address = if is_register { message.to() } else { message.from() }.ok()?;
        let uri = address.parsed_uri().ok()?;
        let agents = self.region.agents();
        agents.find_user(uri.user).or_else(|| {
            let mut tenants = self.provision.tenants.iter();
            let tenant =
                tenants.find(|row| row.realm().as_bytes().eq_ignore_ascii_case(uri.host))?;
            agents.find_number(TenantId(tenant.tenant), uri.user)
        })
    }

    /// The realm of a tenant; that of the first tenant for who is unknown, so that strangers learn
    /// nothing from a challenge.
    fn realm_of(&mut self, now: Instant, tenant: Option<TenantId>) -> Text<64> {
        let find = |worker: &Worker| {
            let mut rows = worker.provision.tenants.iter();
            rows.find(|row| tenant.is_none_or(|tenant| row.tenant == tenant.0))
                .map(|row| row.realm())
        };
        let mut found = find(self);
        if found.is_none() && self.read_provision(now) {
            found = find(self);
        }
        found.unwrap_or_default()
    }

    /// The trunk that a message comes from: the one whose certificate its connection has shown, else by address.
    pub(crate) fn trunk_behind(&self, came: Flow) -> Option<(u32, TrunkRow)> {
        self.trunk_proved(came.channel.proof).or_else(|| self.trunk_of(came.peer.ip()))
    }

    /// The trunk that is called at an address; [`u32::MAX`] for one that never calls us.
    pub(crate) fn trunk_called(&self, at: Flow) -> u32 {
        let proofs = || self.provision.proofs.iter();
        let proof = match at.channel.transport {
            Transport::Tls => proofs().find(|(address, _)| *address == at.peer),
            _ => None,
        };
        let found = proof.and_then(|(_, proof)| self.trunk_proved(*proof));
        found.or_else(|| self.trunk_of(at.peer.ip())).map_or(u32::MAX, |(row, _)| row)
    }

    fn trunk_proved(&self, proof: u64) -> Option<(u32, TrunkRow)> {
        let mut trunks = self.provision.trunks.iter().filter(|_| proof != 0);
        trunks.find(|(_, row)| row.is_by_certificate() && row.proof() == proof).copied()
    }

    /// The trunk with the most specific network around an address.
    pub(crate) fn trunk_of(&self, ip: IpAddr) -> Option<(u32, TrunkRow)> {
        let trunks = self.provision.trunks.iter().copied();
        trunks.filter(|(_, row)| row.contains(ip)).max_by_key(|(_, row)| row.prefix_bits)
    }

    /// True when the login of `row` is for the location that `at` is an address of.
    pub(crate) fn serves(&self, at: LocationId, row: &AgentRow) -> bool {
        let locations = &self.config.locations;
        let name = |id: usize| locations.get(id).map(|location| location.name.as_str());
        match (name(usize::from(at.0)), name(row.location as usize)) {
            (Some(here), Some(there)) => here == there,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phones_get_the_challenge_they_can_take() {
        let cases: [(Option<&[u8]>, Offers); 4] = [
            (None, Offers::Md5First),
            (Some(b"baresip v1.0.0 (x86_64/linux)"), Offers::Md5Only),
            (Some(b"baresip v3.16.0 (x86_64/Linux)"), Offers::Both),
            (Some(b"Linphone/5"), Offers::Both),
        ];
        for (agent, offers) in cases {
            assert_eq!(Offers::to(agent), offers, "{agent:?}");
        }
    }
}
