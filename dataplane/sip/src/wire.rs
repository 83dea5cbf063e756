//! The SIP wire format (RFC 3261, 7 and 25): a lexer which allocates nothing, typed views, a
//! writer.
//!
//! [`lex`] walks a datagram once and notes where each header line lies; the bytes stay where they
//! are. What a header means is parsed when it is asked for: [`Message::via`], [`Message::from`] and
//! so on. Everything unknown (methods, headers, schemes, parameters) passes through as bytes.

mod error;
mod framer;
mod header;
mod lex;
mod message;
mod method;
mod name_addr;
mod params;
mod replaces;
mod scan;
mod typed;
mod uri;
mod via;
mod write;

#[cfg(test)]
mod tests;

pub use error::LexError;
pub use framer::{Frame, FrameError, Framer, MAX_BODY, MAX_HEAD};
pub use header::Header;
pub use lex::lex;
pub(crate) use message::is_one_word;
pub use message::{CSeq, Lines, Message, Start, Values};
pub use method::Method;
pub use name_addr::NameAddr;
pub use params::{Params, ParamsIter};
pub use replaces::Replaces;
pub(crate) use scan::hex_digit;
pub use scan::{Commas, is_token, same_token, split_commas, unescape, unquote};
pub use typed::{RAck, Refresher, SessionExpires};
pub use uri::Uri;
pub use via::Via;
pub use write::{RequestWriter, reason_phrase, response};

/// The most header lines that one message may have; a trunk's INVITE has 15 to 40.
pub const MAX_HEADERS: usize = 96;

/// The longest datagram that is lexed, in bytes; offsets are 16 bits, and UDP carries no more.
pub const MAX_DATAGRAM: usize = 65_535;
