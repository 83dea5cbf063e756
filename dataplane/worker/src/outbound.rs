//! Flows that phones keep alive (RFC 5626): STUN over datagrams, and what a REGISTER says of Outbound. CRLF over
//! connections is answered where these are.
//!
//! An agent has one phone, and so one flow: a REGISTER with another reg-id takes the place of the first.

use std::net::IpAddr;

use abi::Counter;
use base::{Channel, Instant, Transport};
use sip::stun::{self, Stun};
use sip::transaction::Sent;
use sip::wire::{Header, Message, NameAddr};

use crate::call::Flow;
use crate::refusal::Refusal;
use crate::worker::Worker;

/// STUN requests of one source that are answered in a second: a NAT with two thousand phones sends some 80.
const STUN_A_SECOND: u32 = 200;
/// Sources that are counted apart; more share their counts.
const SOURCES: usize = 1_024;
/// What Flow-Timer says over datagrams and over connections, in seconds: a phone sends a keep-alive in 80 to 100 % of it
/// (RFC 5626, 4.4.1).
const FLOW_TIMER_S: (u32, u32) = (30, 120);

/// How much STUN of each source was answered in the present second.
#[derive(Debug)]
pub(crate) struct StunLimit {
    counts: Box<[(u64, u32)]>,
    seed: u64,
}

impl StunLimit {
    pub fn new(seed: u64) -> StunLimit {
        StunLimit { counts: vec![(0, 0); SOURCES].into_boxed_slice(), seed }
    }

    fn admits(&mut self, now: Instant, ip: IpAddr) -> bool {
        let net = match ip.to_canonical() {
            IpAddr::V4(ip) => u64::from(ip.to_bits()),
            // The /64 of an IPv6 address.
            IpAddr::V6(ip) => (ip.to_bits() >> 64) as u64,
        };
        let hash = (net ^ self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54;
        let second = now.as_nanos() / 1_000_000_000;
        let count = &mut self.counts[hash as usize % SOURCES];
        if count.0 != second {
            *count = (second, 0);
        }
        count.1 += 1;
        count.1 <= STUN_A_SECOND
    }
}

impl Worker {
    /// Answers a STUN keep-alive on a SIP port; false when the datagram is none.
    ///
    /// RFC 5626, 4.4.2: who keeps a flow sees by the XOR-MAPPED-ADDRESS whether its address is still the same.
    pub(crate) fn answer_stun(&mut self, now: Instant, came: Flow, datagram: &[u8]) -> bool {
        let answer = match stun::look(datagram, came.peer) {
            _ if came.channel.transport != Transport::Udp => return false,
            Stun::None => return false,
            Stun::Malformed => {
                self.count(Counter::DropStunMalformed);
                return true;
            }
            Stun::Answer(answer) => answer,
        };
        if !self.stun_limit.admits(now, came.peer.ip()) || self.guard.is_banned(now, came.peer.ip())
        {
            self.count(Counter::DropStunRate);
            return true;
        }
        self.count(Counter::StunAnswered);
        self.sent.push(Sent { flow: came, bytes: answer.into() });
        true
    }
}

/// What a REGISTER says of Outbound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outbound {
    /// Nothing, or what the registrar does not do.
    No,
    /// Its flow is kept: the answer says so.
    Yes,
}

impl Outbound {
    /// RFC 5626, 6: it is asked for by the option tag in Supported, with `reg-id` and `+sip.instance` of the Contact.
    pub fn of(message: &Message<'_>) -> Result<Outbound, Refusal> {
        let tags = || {
            let lists = [Header::Supported, Header::Require].map(|header| message.headers(header));
            lists.into_iter().flatten()
        };
        let is_supported = tags().any(|tag| tag.trim_ascii().eq_ignore_ascii_case(b"outbound"));
        let contacts = message.headers(Header::Contact).filter_map(NameAddr::parse);
        let mut flows = contacts.filter(|contact| {
            contact.param("reg-id").is_some() && contact.param("+sip.instance").is_some()
        });
        if !is_supported || flows.next().is_none() {
            return Ok(Outbound::No);
        }
        // RFC 5626, 11.6: 439 says that the registrar supports Outbound, "but that the first outbound proxy that the user
        // is attempting to register through does not". One that does has put `ob` into its Path.
        let is_direct = message.headers(Header::Via).count() == 1;
        let first_hop = message.headers(Header::Path).last().and_then(NameAddr::parse);
        let has_ob = first_hop
            .and_then(|hop| hop.parsed_uri().ok())
            .is_some_and(|uri| uri.params.iter().any(|(name, _)| name.eq_ignore_ascii_case(b"ob")));
        match is_direct || has_ob {
            true => Ok(Outbound::Yes),
            false => Err(Refusal::status(439)),
        }
    }

    /// What the 200 says of it.
    pub fn lines(self, channel: Channel) -> Vec<(&'static str, Vec<u8>)> {
        let (datagrams, streams) = FLOW_TIMER_S;
        let seconds = if channel.transport.is_reliable() { streams } else { datagrams };
        match self {
            Outbound::No => Vec::new(),
            // RFC 5626, 6: the response to such a REGISTER has the option tag in Require.
            Outbound::Yes => vec![
                ("Require", b"outbound".to_vec()),
                ("Flow-Timer", seconds.to_string().into_bytes()),
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn a_source_is_answered_so_often_a_second() {
        let mut limit = StunLimit::new(7);
        let at = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        let [one, other]: [SocketAddr; 2] =
            ["192.0.2.1:1", "[2001:db8::1]:1"].map(|text| text.parse().expect("an address"));
        for second in 5..7 {
            let answered = |limit: &mut StunLimit, ip| {
                (0..500).filter(|ms| limit.admits(at(second * 1_000 + ms), ip)).count()
            };
            assert_eq!(answered(&mut limit, one.ip()), STUN_A_SECOND as usize);
            assert_eq!(answered(&mut limit, other.ip()), STUN_A_SECOND as usize);
        }
    }
}
