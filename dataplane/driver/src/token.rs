//! What a completion belongs to, in the 64 bits of `user_data`.
//!
//! ```text
//! 63      56 55                32 31                 0
//! |  kind   |     generation     |        index       |
//! ```

use media::SocketSlot;

/// What a completion belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// The multishot receive of a location's SIP socket.
    SipReceive(u8),
    /// A SIP datagram sent from a place in the pool of sends.
    SipSend(u32),
    /// The multishot receive of an RTP or RTCP socket, in one use of its pair.
    MediaReceive(SocketSlot, u32),
    /// The poll of an RTCP socket on which nothing is received just now; its receive follows.
    MediaReady(SocketSlot, u32),
    /// A media packet sent; only a failure completes.
    MediaSend,
    /// The read of a doorbell.
    Bell(u8),
    /// A cancellation; what it cancelled completes by itself.
    Cancel,
}

/// Generations are told apart modulo this.
pub const GENERATIONS: u32 = 1 << 24;

impl Token {
    /// The token as `user_data`.
    pub fn encode(self) -> u64 {
        let (kind, generation, index) = match self {
            Token::SipReceive(location) => (1, 0, u32::from(location)),
            Token::SipSend(place) => (2, 0, place),
            Token::MediaReceive(socket, generation) => (3, generation % GENERATIONS, socket.0),
            Token::MediaSend => (4, 0, 0),
            Token::Bell(number) => (5, 0, u32::from(number)),
            Token::Cancel => (6, 0, 0),
            Token::MediaReady(socket, generation) => (7, generation % GENERATIONS, socket.0),
        };
        kind << 56 | u64::from(generation) << 32 | u64::from(index)
    }

    /// The token in `user_data`; none when we never made it.
    pub fn decode(user_data: u64) -> Option<Token> {
        let (generation, index) = ((user_data >> 32) as u32 % GENERATIONS, user_data as u32);
        match user_data >> 56 {
            1 => Some(Token::SipReceive(index as u8)),
            2 => Some(Token::SipSend(index)),
            3 => Some(Token::MediaReceive(SocketSlot(index), generation)),
            4 => Some(Token::MediaSend),
            5 => Some(Token::Bell(index as u8)),
            6 => Some(Token::Cancel),
            7 => Some(Token::MediaReady(SocketSlot(index), generation)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives() {
        for token in [
            Token::SipReceive(255),
            Token::SipSend(u32::MAX),
            Token::MediaReceive(SocketSlot(u32::MAX), GENERATIONS - 1),
            Token::MediaReceive(SocketSlot(0), 0),
            Token::MediaSend,
            Token::Bell(1),
            Token::Cancel,
            Token::MediaReady(SocketSlot(u32::MAX), GENERATIONS - 1),
        ] {
            assert_eq!(Token::decode(token.encode()), Some(token));
        }
        assert_eq!(Token::decode(0), None);
        assert_eq!(Token::decode(u64::MAX), None);
    }
}
