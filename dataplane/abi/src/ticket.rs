//! What one CCB shows another that it may call an agent of its (S2-007, S2-014): the fence of the lease that it
//! was granted, and the secret that came with the grant.
//!
//! ```text
//! Jackfield-Lease: 7.42.1234;token=00112233445566778899aabbccddeeff;purpose=call;by=3
//!                  |  |  `- the lease word's counter               |            `- the CCB that holds the lease
//!                  |  `- the incarnation of the home's data plane  `- see [`Purpose::name`]
//!                  `- the agent's login epoch
//! ```
//! Nobody knows the token but the home's control, which draws it and writes it into the agent's
//! [`crate::SecretRow`], and who got the grant. It is used up with the lease: a word is bound once.

use core::fmt;
use core::str::FromStr;

use base::CcbId;
use subtle::ConstantTimeEq as _;

use crate::lease::{LEASE_COUNTER_MASK, Purpose};

/// What a grant of a lease names, compared for equality only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Fence {
    /// The agent's login epoch.
    pub epoch: u32,
    /// The incarnation of the home's data plane.
    pub incarnation: u64,
    /// The lease word's counter.
    pub counter: u32,
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.epoch, self.incarnation, self.counter)
    }
}

/// A text is no fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadFence;

impl fmt::Display for BadFence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a fence is three numbers with dots between them")
    }
}

impl std::error::Error for BadFence {}

impl FromStr for Fence {
    type Err = BadFence;

    fn from_str(text: &str) -> Result<Fence, BadFence> {
        let mut parts = text.split('.');
        let mut next = || parts.next().and_then(number).ok_or(BadFence);
        let (epoch, incarnation, counter) = (next()?, next()?, next()?);
        let fence = Fence {
            epoch: u32::try_from(epoch).map_err(|_| BadFence)?,
            incarnation,
            counter: u32::try_from(counter).map_err(|_| BadFence)?,
        };
        let is_whole = parts.next().is_none() && fence.counter <= LEASE_COUNTER_MASK;
        is_whole.then_some(fence).ok_or(BadFence)
    }
}

/// Digits and nothing else: no sign, no blank.
fn number(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

/// The secret of one grant: 128 bits that nobody can guess. It does not print.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct LeaseToken(pub [u8; 16]);

impl LeaseToken {
    /// True when it is the same; takes the same time wherever they differ. No token is the same as none.
    pub fn is(&self, other: &[u8; 16]) -> bool {
        let is_same = self.0.ct_eq(other);
        let is_one = !other.ct_eq(&[0; 16]);
        bool::from(is_same & is_one)
    }

    fn parse(text: &str) -> Option<LeaseToken> {
        let digit = |byte: &u8| Some(char::from(*byte).to_digit(16)? as u8);
        let text: &[u8; 32] = text.as_bytes().try_into().ok()?;
        let mut token = [0; 16];
        for (byte, two) in token.iter_mut().zip(text.chunks_exact(2)) {
            *byte = digit(&two[0])? << 4 | digit(&two[1])?;
        }
        Some(LeaseToken(token))
    }
}

impl fmt::Debug for LeaseToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LeaseToken(..)")
    }
}

/// The value of the header field with which one CCB invites an agent of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTicket {
    /// The lease.
    pub fence: Fence,
    /// Its secret.
    pub token: LeaseToken,
    /// What the agent was won for.
    pub purpose: Purpose,
    /// Who won: the CCB that sends it.
    pub by: CcbId,
}

impl LeaseTicket {
    /// The name of the header field.
    pub const HEADER: &'static str = "Jackfield-Lease";

    /// The value of the header field, with its secret; it is for SIP to that CCB and for nobody else.
    pub fn to_value(&self) -> String {
        let token: String = self.token.0.iter().map(|byte| format!("{byte:02x}")).collect();
        let (fence, purpose, by) = (self.fence, self.purpose.name(), self.by);
        format!("{fence};token={token};purpose={purpose};by={by}")
    }

    /// Reads the value of the header field. Parameters come in any order, and unknown ones are a later
    /// version's; none when it is no ticket.
    pub fn parse(value: &[u8]) -> Option<LeaseTicket> {
        let mut parts = core::str::from_utf8(value).ok()?.split(';').map(str::trim);
        let fence = parts.next()?.parse().ok()?;
        let (mut token, mut purpose, mut by) = (None, None, None);
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            match name {
                "token" if token.is_none() => token = Some(LeaseToken::parse(value)?),
                "purpose" if purpose.is_none() => purpose = Some(Purpose::named(value)?),
                "by" if by.is_none() => by = Some(number(value)?),
                "token" | "purpose" | "by" => return None,
                _ => {}
            }
        }
        let by = CcbId(u16::try_from(by?).ok().filter(|ccb| *ccb != 0)?);
        Some(LeaseTicket { fence, token: token?, purpose: purpose?, by })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VALUE: &str = "7.42.1234;token=00112233445566778899aabbccddeeff;purpose=transfer;by=3";

    fn ticket() -> LeaseTicket {
        let token = [0, 17, 34, 51, 68, 85, 102, 119, 136, 153, 170, 187, 204, 221, 238, 255];
        LeaseTicket {
            fence: Fence { epoch: 7, incarnation: 42, counter: 1_234 },
            token: LeaseToken(token),
            purpose: Purpose::Transfer,
            by: CcbId(3),
        }
    }

    #[test]
    fn a_ticket_has_one_text() {
        assert_eq!(ticket().to_value(), VALUE);
        assert_eq!(LeaseTicket::parse(VALUE.as_bytes()), Some(ticket()));
        let later =
            b"7.42.1234; by=3;x=1; purpose=transfer ;y;token=00112233445566778899AABBCCDDEEFF";
        assert_eq!(LeaseTicket::parse(later), Some(ticket()));
    }

    #[test]
    fn what_is_no_ticket_is_none() {
        for (part, by) in [
            ("7.42", "7"),
            ("7.42", "+7.42"),
            ("7.42", "4294967296.42"),
            ("1234;", "1234.5;"),
            ("1234;", "268435456;"),
            ("=00", "=0"),
            ("=00", "=000"),
            ("=00", "=0x"),
            ("=transfer", "=Transfer"),
            ("by=3", "by=0"),
            ("by=3", "by=65536"),
            ("by=3", "by=3;by=3"),
            (";by=3", ""),
            (";purpose=transfer", ""),
        ] {
            let wrong = VALUE.replacen(part, by, 1);
            assert_ne!(wrong, VALUE);
            assert_eq!(LeaseTicket::parse(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(LeaseTicket::parse(b"\xff"), None);
    }

    #[test]
    fn a_token_is_itself_and_never_none() {
        let token = ticket().token;
        assert!(token.is(&token.0));
        let mut other = token.0;
        other[15] ^= 1;
        assert!(!token.is(&other));
        assert!(!LeaseToken([0; 16]).is(&[0; 16]), "no token was minted");
        assert!(!format!("{:?}", ticket()).contains("11"), "{:?}", ticket());
    }

    proptest! {
        #[test]
        fn every_ticket_comes_back(
            (epoch, incarnation, counter) in any::<(u32, u64, u32)>(),
            token in any::<[u8; 16]>(),
            purpose in 0..Purpose::ALL.len(),
            by in 1..u16::MAX,
        ) {
            let fence = Fence { epoch, incarnation, counter: counter & LEASE_COUNTER_MASK };
            let purpose = Purpose::ALL[purpose];
            let ticket = LeaseTicket { fence, token: LeaseToken(token), purpose, by: CcbId(by) };
            prop_assert_eq!(LeaseTicket::parse(ticket.to_value().as_bytes()), Some(ticket));
            prop_assert_eq!(fence.to_string().parse(), Ok(fence));
        }

        #[test]
        fn any_bytes_are_borne(bytes in any::<Vec<u8>>()) {
            LeaseTicket::parse(&bytes);
        }
    }
}
