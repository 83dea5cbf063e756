//! How often each parser allocates on a 1 KB INVITE; ours must not at all.

use allocation_counter::measure;
use house_bench::{INVITE, is_wanted};

mod parsers;

fn main() {
    if !is_wanted("sip_allocations") {
        return;
    }
    let invite = INVITE.as_bytes();
    let count = |parse: fn(&[u8])| {
        // Whatever is set up once is not of the message.
        parse(invite);
        measure(|| parse(invite)).count_total
    };
    let figures = [
        ("ours, lex", count(parsers::ours)),
        ("rsip, parse", count(parsers::rsip)),
        ("rsipstack, parse", count(parsers::rsipstack)),
        ("ours, typed", count(parsers::ours_typed)),
        ("rsip, typed", count(parsers::rsip_typed)),
        ("rsipstack, typed", count(parsers::rsipstack_typed)),
    ];
    for (name, allocations) in figures {
        println!("sip_allocations/{name}: {allocations} allocations");
        assert!(allocations == 0 || !name.starts_with("ours"), "the lexer allocates");
    }
    assert!(figures[1].1 > 0, "the counter counts nothing");
}
