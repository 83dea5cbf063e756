//! What is fuzzed: one function for each target, which panics where a property does not hold.
//!
//! `tools/fuzz.sh` looks for inputs that do so, guided by coverage; `tests/replay.rs` gives them the
//! corpus in `tests/data/fuzz` and the torture messages on every test run.

mod digest;
mod framing;
mod lexer;
mod sdp;
mod transactions;

/// Every target by its name, which is that of its corpus's folder.
pub const TARGETS: &[(&str, fn(&[u8]))] = &[
    ("lexer", lexer),
    ("sdp", sdp),
    ("digest", digest),
    ("framing", framing),
    ("transactions", transactions),
];

/// A datagram: it is lexed without loss, asked for everything, answered, and written again.
pub fn lexer(bytes: &[u8]) {
    lexer::target(bytes);
}

/// A session description: what is passed on can be read, says the same, and names no address of the other
/// side.
pub fn sdp(bytes: &[u8]) {
    sdp::target(bytes);
}

/// An Authorization or WWW-Authenticate header: nobody proves what they do not know, and who knows the
/// password can answer every challenge that can be read.
pub fn digest(bytes: &[u8]) {
    digest::target(bytes);
}

/// A stream: it is cut into the same messages in whatever pieces it comes, and each is whole.
pub fn framing(bytes: &[u8]) {
    framing::target(bytes);
}

/// A script of messages, of a user's calls and of time: the table stays within its bounds, sends only what
/// can be read, and forgets all in the end.
pub fn transactions(bytes: &[u8]) {
    transactions::target(bytes);
}
