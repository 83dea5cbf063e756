//! SRTP of legs, its keys in SDP (RFC 4568), and RTCP by the port of RTP (RFC 5761).
//!
//! Both end here: each leg has keys of its own, and between legs everything is plain, so a leg that is encrypted may be
//! joined to one that is not, recorded, mixed and played to. What we say to a peer mirrors what it said last: the
//! profile, the tag and the suite that it chose, and RTCP's port. Only a first offer is ours to make, and that is what
//! [`SrtpPolicy`] is about. A key of ours lives as long as its leg; a peer's, until it tells another.

use abi::{Counter, KeyRow, Party, SrtpPolicy};
use base::{Instant, Rng, TenantId};
use media::srtp::{self, KEY_BYTES, MasterKey, Mki, Progress};
use media::{Keys, PairId, StreamImage};
use sip::sdp::{self, Audio, Crypto, KEY_AND_SALT, SdpError, Secured, Suite};
use sip::wire::{self, Method};

use crate::call::{Inviting, Leg, LegRef, Phase};
use crate::dial::{Change, changed};
use crate::refusal::Refusal;
use crate::worker::Worker;

/// The SRTP of a leg that was offered it, or offered it.
#[derive(Debug)]
pub struct Sdes {
    /// Our keys, one for each suite that was offered; none was ever another leg's.
    ours: [Option<Own>; Suite::ALL.len()],
    agreed: Option<Agreed>,
}

/// A key of ours, which `Debug` does not show.
#[derive(Clone, Copy)]
struct Own([u8; KEY_AND_SALT]);

impl core::fmt::Debug for Own {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Own(..)")
    }
}

/// What the peer's last description chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Agreed {
    tag: u32,
    suite: Suite,
    /// It was `RTP/SAVP`.
    profile: bool,
}

impl Sdes {
    const NEW: Sdes = Sdes { ours: [None; Suite::ALL.len()], agreed: None };

    /// Our key for a suite.
    fn key(&mut self, suite: Suite, rng: &mut Rng) -> [u8; KEY_AND_SALT] {
        let draw = || {
            let mut key = [0; KEY_AND_SALT];
            rng.fill(&mut key);
            Own(key)
        };
        self.ours[suite as usize].get_or_insert_with(draw).0
    }

    /// Takes what the peer chose now. A key that was used is not used again after another, or after plain RTP: peers
    /// count from zero then, and no index of a key may come twice (RFC 3711, 9.1).
    fn choose(&mut self, agreed: Option<Agreed>, was_used: bool) {
        let left = self.agreed.filter(|before| Some(before.suite) != agreed.map(|now| now.suite));
        if let Some(left) = left.filter(|_| was_used) {
            self.ours[left.suite as usize] = None;
        }
        self.agreed = agreed;
    }

    /// The one line that goes with what the peer chose.
    fn line(&mut self, agreed: Agreed, mux: bool, rng: &mut Rng) -> Secured {
        let line = Crypto::new(agreed.tag, agreed.suite, self.key(agreed.suite, rng));
        Secured { profile: agreed.profile, crypto: [Some(line), None], mux }
    }
}

fn master(suite: Suite, bytes: &[u8; KEY_AND_SALT]) -> MasterKey {
    let suite = match suite {
        Suite::Sha1Tag80 => srtp::Suite::Sha1Tag80,
        Suite::Sha1Tag32 => srtp::Suite::Sha1Tag32,
    };
    let mut master = MasterKey { suite, ..MasterKey::default() };
    master.key.copy_from_slice(&bytes[..KEY_BYTES]);
    master.salt.copy_from_slice(&bytes[KEY_BYTES..]);
    master
}

fn agreed_of(audio: &Audio<'_>) -> Option<Agreed> {
    let crypto = audio.crypto?;
    Some(Agreed { tag: crypto.tag, suite: crypto.suite, profile: audio.secure })
}

/// Whether audio may be as it is described. RFC 8643, 3.1: what is offered as plain with a key "MUST" be taken as
/// plain by who does not want it.
fn judge(policy: SrtpPolicy, audio: &Audio<'_>) -> Result<(), SdpError> {
    match policy {
        SrtpPolicy::Never if audio.secure => Err(SdpError::Crypto),
        SrtpPolicy::Required if audio.crypto.is_none() => Err(SdpError::Plain),
        _ => Ok(()),
    }
}

impl Worker {
    /// What a party's SRTP is to be.
    fn srtp_policy(&self, tenant: TenantId, party: Party) -> SrtpPolicy {
        let number = match party {
            Party::Agent(..) => {
                let mut tenants = self.provision.tenants.iter();
                tenants.find(|row| row.tenant == tenant.0).map(|row| row.srtp)
            }
            Party::Trunk(index) => {
                let mut trunks = self.provision.trunks.iter();
                trunks.find(|(at, _)| *at == index).map(|(_, row)| row.srtp)
            }
            Party::Peer(_) => None,
        };
        number.and_then(SrtpPolicy::of).unwrap_or_default()
    }

    fn srtp_policy_of(&self, leg: LegRef) -> SrtpPolicy {
        let Some(call) = self.calls.find(leg.call) else { return SrtpPolicy::default() };
        if self.is_inside(leg) {
            // Both ends are ours, on one machine.
            return SrtpPolicy::Never;
        }
        let party = call.leg(leg.leg).map(|leg| leg.party);
        party.map_or(SrtpPolicy::default(), |party| self.srtp_policy(call.tenant, party))
    }

    /// Refuses a description that has SRTP where it may not be, or has none where it must.
    pub(crate) fn check_srtp(
        &self,
        tenant: TenantId,
        party: Party,
        body: &[u8],
    ) -> Result<(), Refusal> {
        self.check_srtp_by(self.srtp_policy(tenant, party), body)
    }

    /// The same of a leg that is there.
    pub(crate) fn check_srtp_of(&self, leg: LegRef, body: &[u8]) -> Result<(), Refusal> {
        self.check_srtp_by(self.srtp_policy_of(leg), body)
    }

    fn check_srtp_by(&self, policy: SrtpPolicy, body: &[u8]) -> Result<(), Refusal> {
        let Ok(sdp) = sdp::parse(body) else { return Ok(()) };
        let Ok(audio) = sdp::audio(&sdp) else { return Ok(()) };
        judge(policy, &audio).map_err(|error| {
            self.count(Counter::CallsSrtpRefused);
            let warning = format!("399 jackfield \"{}\"", error.name());
            Refusal::status(error.status()).with("Warning", warning.as_bytes())
        })
    }

    /// How what we describe to a leg is protected.
    pub(crate) fn secured(&mut self, leg: LegRef) -> Secured {
        let policy = self.srtp_policy_of(leg);
        let Some(entry) = self.calls.leg_unchanged(leg) else { return Secured::default() };
        let mux = entry.mux;
        if let Some(sdes) = &mut entry.secure
            && let Some(agreed) = sdes.agreed
        {
            return sdes.line(agreed, mux, &mut self.rng);
        }
        // Who has told us what it does is offered nothing else; a leg of an earlier incarnation has.
        let is_first = entry.described.is_empty() && entry.phase != Phase::Established;
        let offers = match policy {
            SrtpPolicy::Never => false,
            SrtpPolicy::Allowed => entry.flow.channel.transport.is_secure(),
            SrtpPolicy::Offered | SrtpPolicy::Required => true,
        };
        if !is_first || !offers {
            return Secured { mux, ..Secured::default() };
        }
        let profile = policy == SrtpPolicy::Required;
        let crypto = self.all_lines(leg).unwrap_or_default();
        Secured { profile, crypto, mux }
    }

    /// How our answer to an offer of a leg is protected.
    pub(crate) fn secured_answer(
        &mut self,
        leg: LegRef,
        audio: &Audio<'_>,
    ) -> Result<Secured, SdpError> {
        let policy = self.srtp_policy_of(leg);
        judge(policy, audio)?;
        let agreed = agreed_of(audio).filter(|_| policy != SrtpPolicy::Never);
        let Some(entry) = self.calls.leg_unchanged(leg) else { return Ok(Secured::default()) };
        let Some(agreed) = agreed else {
            return Ok(Secured { mux: audio.mux, ..Secured::default() });
        };
        let sdes = entry.secure.get_or_insert_with(|| Box::new(Sdes::NEW));
        Ok(sdes.line(agreed, audio.mux, &mut self.rng))
    }

    /// Takes what a leg's peer says of its keys. False when it may not be so; then nothing is taken, and the peer is
    /// neither heard nor sent to at an address that came with it.
    pub(crate) fn learn_srtp(
        &mut self,
        now: Instant,
        leg: LegRef,
        pair: PairId,
        audio: &Audio<'_>,
    ) -> bool {
        let policy = self.srtp_policy_of(leg);
        if judge(policy, audio).is_err() {
            self.count(Counter::CallsSrtpRefused);
            return false;
        }
        let was_used = self.streams.image(pair).sealed.is_some();
        let Some(entry) = self.calls.leg_mut(leg) else { return false };
        entry.mux = audio.mux;
        self.streams.mux(pair, audio.mux);
        let agreed = agreed_of(audio).filter(|_| policy != SrtpPolicy::Never);
        let (Some(agreed), Some(theirs)) = (agreed, audio.crypto) else {
            if let Some(sdes) = &mut entry.secure {
                sdes.choose(None, was_used);
            }
            self.streams.secure(now, pair, None);
            return true;
        };
        let sdes = entry.secure.get_or_insert_with(|| Box::new(Sdes::NEW));
        sdes.choose(Some(agreed), was_used);
        let ours = sdes.key(agreed.suite, &mut self.rng);
        let (bytes, length) = theirs.mki;
        let mki = bytes.get(..usize::from(length)).and_then(Mki::new).unwrap_or_default();
        let keys = Keys {
            ours: master(agreed.suite, &ours),
            theirs: master(agreed.suite, &theirs.key),
            mki,
        };
        self.streams.secure(now, pair, Some(keys));
        true
    }

    /// The called party does not take what was offered (488), which was plain or might be: it is invited again with
    /// SRTP alone. Phones that insist on it refuse `RTP/AVP` even with a key. False when it is not.
    pub(crate) fn invite_secure(&mut self, now: Instant, leg: LegRef) -> bool {
        self.invite_again_with_srtp(now, leg).is_some()
    }

    fn invite_again_with_srtp(&mut self, now: Instant, leg: LegRef) -> Option<()> {
        let policy = self.srtp_policy_of(leg);
        let serial = self.calls.find(leg.call)?.serial;
        let entry = self.calls.leg(leg)?;
        let key = entry.inviting.as_ref().filter(|inviting| inviting.offered)?.key;
        let may = matches!(policy, SrtpPolicy::Allowed | SrtpPolicy::Offered);
        if !may || matches!(entry.party, Party::Peer(_)) {
            return None;
        }
        let flow = entry.flow;
        let old = self.transactions.request_of(key)?.to_vec();
        let refused = sdp::parse(wire::lex(&old).ok()?.body()).ok()?;
        let audio = sdp::audio(&refused).ok().filter(|audio| !audio.secure)?;
        let lines = self.all_lines(leg)?;
        let entry = self.calls.leg_mut(leg)?;
        entry.sdp_version += 1;
        let with = sdp::Rewrite {
            address: audio.address.ip(),
            port: audio.address.port(),
            video_port: sdp::video(&refused).map(|video| video.address.port()),
            session_id: serial + u64::from(leg.leg),
            version: entry.sdp_version,
            secured: Secured { profile: true, crypto: lines, mux: false },
        };
        let described = sdp::rewrite(&refused, with).ok()?;
        let branch = self.fresh_branch();
        let via = self.via(flow, &branch);
        let change = Change { uri: None, via: &via, interval_s: None, body: Some(&described) };
        let bytes = changed(&old, &change)?;
        let key = self.send_request(now, Method::Invite, bytes, &branch, flow, leg)?;
        self.note_events_of(leg, &described);
        let entry = self.calls.leg_mut(leg)?;
        entry.ext.early.clear();
        entry.ext.saying = Some(described.into());
        entry.inviting = Some(Inviting { key, offered: true, renews: false });
        Some(())
    }

    /// A line for each suite, with our keys.
    fn all_lines(&mut self, leg: LegRef) -> Option<[Option<Crypto>; Suite::ALL.len()]> {
        let entry = self.calls.leg_unchanged(leg)?;
        let sdes = entry.secure.get_or_insert_with(|| Box::new(Sdes::NEW));
        let rng = &mut self.rng;
        let line = |suite: Suite| Some(Crypto::new(suite as u32 + 1, suite, sdes.key(suite, rng)));
        Some(Suite::ALL.map(line))
    }

    /// True when what a leg's peer sends is encrypted.
    pub(crate) fn is_srtp(&self, leg: LegRef) -> bool {
        let pair = self.calls.leg(leg).and_then(|leg| leg.pair);
        pair.is_some_and(|pair| self.streams.is_secure(pair))
    }

    /// How many legs are encrypted.
    pub(crate) fn srtp_now(&self) -> u64 {
        let is_secure = |pair: &PairId| self.streams.is_secure(*pair);
        let legs = self.calls.iter().flat_map(|call| call.legs.iter());
        legs.filter_map(|leg| leg.pair).filter(is_secure).count() as u64
    }

    /// Writes a leg's keys, or that it has none, where it ever had some.
    pub(crate) fn note_keys(&self, place: u32, leg: LegRef, image: &StreamImage) {
        let Some(sdes) = self.calls.leg(leg).and_then(|leg| leg.secure.as_ref()) else { return };
        self.region.keys().write(place, &key_row(leg, sdes, image));
    }

    /// What an earlier incarnation agreed on with a leg's peer, into the leg and its stream's image.
    pub(crate) fn recall_keys(&mut self, place: u32, leg: LegRef, image: &mut StreamImage) {
        let Some(row) = self.region.keys().read(place) else { return };
        let is_its = (row.call_slot, row.call_generation) == (leg.call.slot, leg.call.generation)
            && row.leg == u32::from(leg.leg);
        if !is_its || row.flags & KeyRow::IN_USE == 0 {
            return;
        }
        if let Some(entry) = self.calls.leg_mut(leg) {
            recall(&row, entry, image);
        }
    }
}

fn key_row(leg: LegRef, sdes: &Sdes, image: &StreamImage) -> KeyRow {
    let (Some(keys), Some(agreed)) = (image.keys, sdes.agreed) else { return KeyRow::default() };
    let flag = |holds: bool, flag: u32| if holds { flag } else { 0 };
    let (opened, sealed) = (image.opened, image.sealed);
    let mut row = KeyRow {
        call_slot: leg.call.slot,
        call_generation: leg.call.generation,
        leg: u32::from(leg.leg),
        flags: KeyRow::IN_USE
            | flag(agreed.suite == Suite::Sha1Tag32, KeyRow::SHORT)
            | flag(agreed.profile, KeyRow::PROFILE)
            | flag(opened.is_some_and(|it| it.rtp.is_some()), KeyRow::OPENED)
            | flag(sealed.is_some_and(|it| it.rtp.is_some()), KeyRow::SEALED),
        tag: agreed.tag,
        mki_bytes: keys.mki.bytes().len() as u32,
        ours: bytes_of(&keys.ours),
        theirs: bytes_of(&keys.theirs),
        ..KeyRow::default()
    };
    row.mki[..keys.mki.bytes().len()].copy_from_slice(keys.mki.bytes());
    let next = |progress: Progress| progress.rtcp.map_or(0, |last| last + 1);
    if let Some(opened) = opened {
        (row.opened_ssrc, row.opened_rtcp) = (opened.ssrc, next(opened));
        row.opened_rtp = opened.rtp.unwrap_or(0);
    }
    if let Some(sealed) = sealed {
        (row.sealed_ssrc, row.sealed_rtcp) = (sealed.ssrc, next(sealed));
        row.sealed_rtp = sealed.rtp.unwrap_or(0);
    }
    row
}

fn recall(row: &KeyRow, entry: &mut Leg, image: &mut StreamImage) {
    let has = |flag| row.flags & flag != 0;
    let suite = if has(KeyRow::SHORT) { Suite::Sha1Tag32 } else { Suite::Sha1Tag80 };
    let (ours, theirs) = (key_of(&row.ours), key_of(&row.theirs));
    let mki = row.mki.get(..row.mki_bytes as usize).and_then(Mki::new).unwrap_or_default();
    image.keys = Some(Keys { ours: master(suite, &ours), theirs: master(suite, &theirs), mki });
    let progress = |flag, ssrc, rtp, next: u32| {
        let rtp = has(flag).then_some(rtp);
        let rtcp = next.checked_sub(1);
        (rtp.is_some() || rtcp.is_some()).then_some(Progress { ssrc, rtp, rtcp })
    };
    image.opened = progress(KeyRow::OPENED, row.opened_ssrc, row.opened_rtp, row.opened_rtcp);
    image.sealed = progress(KeyRow::SEALED, row.sealed_ssrc, row.sealed_rtp, row.sealed_rtcp);
    let mut sdes = Sdes::NEW;
    sdes.ours[suite as usize] = Some(Own(ours));
    sdes.agreed = Some(Agreed { tag: row.tag, suite, profile: has(KeyRow::PROFILE) });
    entry.secure = Some(Box::new(sdes));
}

/// A master key and its salt as a row has them.
fn bytes_of(key: &MasterKey) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..KEY_BYTES].copy_from_slice(&key.key);
    bytes[KEY_BYTES..KEY_AND_SALT].copy_from_slice(&key.salt);
    bytes
}

fn key_of(bytes: &[u8; 32]) -> [u8; KEY_AND_SALT] {
    std::array::from_fn(|at| bytes[at])
}
