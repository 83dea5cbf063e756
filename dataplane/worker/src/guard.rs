//! Strangers: how much of one source's unproved SIP is answered, and when it is not answered at all.
//!
//! A source is an IPv4 address or an IPv6 /64. Each challenge that it gets is a debt, which a request that
//! proves itself pays back and time forgives: a site whose phones all start at once is answered in its turn,
//! for its phones pay; a scanner never does. Who stays in debt for [`PATIENCE`], or guesses [`GUESSES`] times
//! wrong, is banned: its requests are dropped unanswered, for longer each time.
//!
//! Bans do not touch trunks, requests within our dialogs, and phones that are registered from the banned
//! source (there may be an office behind it), so that who forges a source cannot shut anybody out who is in.
//!
//! The table is of one size and searched in one set of [`WAYS`] places: a flood of forged sources costs each
//! request the same, and pushes out the least guilty.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use base::Instant;

/// Debt that is forgiven each second.
const FORGIVEN_A_SECOND: u32 = 10;
/// How long a source may stay in full debt, without one request that proves itself.
const PATIENCE: Duration = Duration::from_secs(10);
/// Wrong digests until a ban; one is forgotten every [`GUESS_AGE`].
const GUESSES: u32 = 20;
const GUESS_AGE: Duration = Duration::from_secs(10);
/// The first ban; each further one lasts twice as long.
const FIRST_BAN: Duration = Duration::from_secs(60);
const LONGEST_BAN: Duration = Duration::from_secs(3_600);

const SETS: usize = 1_024;
const WAYS: usize = 4;

/// What is known of the sources of unproved requests.
#[derive(Debug)]
pub(crate) struct Guard {
    seed: u64,
    /// Challenges that one source may owe.
    debt_limit: u32,
    sets: Box<[[Source; WAYS]]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Source {
    /// 0 is none: `::` sends nothing.
    net: u128,
    debt: u32,
    guesses: u32,
    bans: u32,
    seen: Instant,
    guessed: Instant,
    /// Since when it has been near full debt, once it was in it.
    full_since: Option<Instant>,
    banned_until: Option<Instant>,
}

/// What becomes of a request that proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stranger {
    /// It is answered.
    Answer,
    /// It is dropped: the source owes too much, and sends it again.
    Later,
    /// It is dropped, and so is all that follows for this time: a ban begins.
    Ban(Duration),
}

impl Guard {
    pub fn new(seed: u64, debt_limit: u32) -> Guard {
        Guard { seed, debt_limit, sets: vec![[Source::default(); WAYS]; SETS].into_boxed_slice() }
    }

    /// True while the source is banned.
    pub fn is_banned(&self, now: Instant, ip: IpAddr) -> bool {
        let net = net_of(ip);
        let set = &self.sets[self.set(net)];
        let found = set.iter().find(|source| source.net == net);
        found.and_then(|source| source.banned_until).is_some_and(|until| now < until)
    }

    /// A request came that proves nothing.
    pub fn stranger(&mut self, now: Instant, ip: IpAddr) -> Stranger {
        let limit = self.debt_limit;
        let source = self.source(now, ip);
        if source.debt < limit / 2 {
            source.full_since = None;
        }
        let is_full = source.debt >= limit;
        if is_full {
            source.full_since.get_or_insert(now);
        }
        // What is forgiven meanwhile is answered, and is no sign of better manners.
        if source.full_since.is_some_and(|since| now.since(since) >= PATIENCE) {
            return Stranger::Ban(source.ban(now));
        }
        if is_full {
            return Stranger::Later;
        }
        source.debt += 1;
        Stranger::Answer
    }

    /// A request came with a wrong digest. The ban, if it brings one.
    pub fn wrong(&mut self, now: Instant, ip: IpAddr) -> Option<Duration> {
        let source = self.source(now, ip);
        let forgotten = now.since(source.guessed).as_nanos() / GUESS_AGE.as_nanos();
        source.guesses = source.guesses.saturating_sub(forgotten.min(1_000) as u32) + 1;
        source.guessed = now;
        (source.guesses >= GUESSES).then(|| source.ban(now))
    }

    /// A request proved itself: it pays for its own challenge and for one that was lost on the way.
    pub fn proved(&mut self, now: Instant, ip: IpAddr) {
        let net = net_of(ip);
        let set = self.set(net);
        if let Some(source) = self.sets[set].iter_mut().find(|source| source.net == net) {
            source.forgive(now);
            source.debt = source.debt.saturating_sub(2);
            source.full_since = None;
        }
    }

    fn source(&mut self, now: Instant, ip: IpAddr) -> &mut Source {
        let net = net_of(ip);
        let set = self.set(net);
        let set = &mut self.sets[set];
        let place = set.iter().position(|source| source.net == net).unwrap_or_else(|| {
            let least = (0..WAYS).min_by_key(|way| set[*way].guilt(now)).unwrap_or(0);
            set[least] = Source { net, seen: now, guessed: now, ..Source::default() };
            least
        });
        let source = &mut set[place];
        source.forgive(now);
        source
    }

    fn set(&self, net: u128) -> usize {
        let mixed = (net as u64 ^ self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15)
            ^ ((net >> 64) as u64 ^ self.seed.rotate_left(32)).wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
        (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as usize % SETS
    }
}

impl Source {
    fn forgive(&mut self, now: Instant) {
        let seconds =
            now.since(self.seen).as_millis() as u64 * u64::from(FORGIVEN_A_SECOND) / 1_000;
        // What is less than one is not lost: the clock of the source stands until it is one.
        if seconds > 0 {
            self.debt = self.debt.saturating_sub(u32::try_from(seconds).unwrap_or(u32::MAX));
            self.seen = now;
        }
    }

    fn ban(&mut self, now: Instant) -> Duration {
        let ban = (FIRST_BAN * (1 << self.bans.min(6))).min(LONGEST_BAN);
        self.bans += 1;
        self.guesses = 0;
        self.debt = 0;
        self.full_since = None;
        self.banned_until = Some(now + ban);
        ban
    }

    /// Who is least guilty makes room: none, then who is not banned and owes least, then who came first.
    fn guilt(&self, now: Instant) -> (bool, bool, u32, Instant) {
        let is_banned = self.banned_until.is_some_and(|until| now < until);
        (self.net != 0, is_banned, self.debt + self.guesses * 10, self.seen)
    }
}

fn net_of(ip: IpAddr) -> u128 {
    match ip.to_canonical() {
        IpAddr::V4(ip) => u128::from(ip.to_ipv6_mapped()),
        IpAddr::V6(ip) => u128::from(Ipv6Addr::from(u128::from(ip) >> 64 << 64)) | 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(1_000_000_000 + ms * 1_000_000)
    }

    #[test]
    fn a_scanner_is_throttled_then_banned_for_longer_each_time() {
        let mut guard = Guard::new(7, 200);
        let (mut now, mut answered, mut bans) = (0, 0, Vec::new());
        // Fifty a second without end, as svwar does.
        while bans.len() < 8 {
            now += 20;
            if guard.is_banned(at(now), A) {
                continue;
            }
            match guard.stranger(at(now), A) {
                Stranger::Answer => answered += 1,
                Stranger::Later => {}
                Stranger::Ban(ban) => bans.push(ban.as_secs()),
            }
            assert_eq!(guard.stranger(at(now), B), Stranger::Answer, "another pays nothing for it");
            guard.proved(at(now), B);
        }
        assert_eq!(bans, [60, 120, 240, 480, 960, 1_920, 3_600, 3_600]);
        assert!(answered < 8 * 400, "{answered}");
    }

    #[test]
    fn a_site_that_starts_at_once_is_served() {
        let mut guard = Guard::new(7, 200);
        // 2,000 phones behind one address: each asks until it is challenged, then proves itself.
        let (mut waiting, mut now, mut challenged) = (2_000_u32, 0_u64, 0_u32);
        while waiting > 0 {
            now += 5;
            match guard.stranger(at(now), A) {
                Stranger::Answer => challenged += 1,
                Stranger::Later => {}
                Stranger::Ban(_) => panic!("{waiting} wait still"),
            }
            // Its proof comes some 20 ms later.
            if challenged > 4 || waiting < 5 {
                guard.proved(at(now), A);
                (challenged, waiting) = (challenged.saturating_sub(1), waiting - 1);
            }
        }
        assert!(now < 60_000, "{now} ms");
    }

    #[test]
    fn guesses_are_few_and_forgotten_in_time() {
        let mut guard = Guard::new(7, 200);
        let mut first = (1..).find(|n| guard.wrong(at(n * 100), A).is_some());
        assert_eq!(first.take(), Some(u64::from(GUESSES)));
        assert!(guard.is_banned(at(3_000), A) && !guard.is_banned(at(3_000), B));
        assert!(!guard.is_banned(at(70_000), A));
        // One wrong password every ten seconds is a phone with an old secret.
        assert!((0..1_000).all(|n| guard.wrong(at(n * 10_000), B).is_none()));
    }

    #[test]
    fn an_ipv6_source_is_its_network() {
        let of = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert_eq!(net_of(of("2001:db8::1")), net_of(of("2001:db8::2")));
        assert_ne!(net_of(of("2001:db8::1")), net_of(of("2001:db8:0:1::1")));
        assert_eq!(net_of(of("::ffff:192.0.2.1")), net_of(A));
    }

    #[test]
    fn a_flood_of_forged_sources_leaves_the_banned_banned() {
        let mut guard = Guard::new(7, 200);
        while guard.wrong(at(0), A).is_none() {}
        for n in 0..100_000_u32 {
            guard.stranger(at(1), IpAddr::V4(std::net::Ipv4Addr::from(0x0a00_0000 + n)));
        }
        assert!(guard.is_banned(at(2), A));
    }
}
