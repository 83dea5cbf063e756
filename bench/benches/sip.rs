//! The lexer on a 1 KB INVITE, beside rsip's and rsipstack's parsers on the same bytes.
//!
//! "typed" also parses what every request is judged by: Via, From, To, CSeq, Call-ID, Contact.
//! Allocations are counted by `sip_allocations`, for counting costs those who allocate time.

use std::hint::black_box;

use criterion::Throughput;
use house_bench::{INVITE, criterion};

mod parsers;

/// The product's allocator, which is kinder to the peers than the C library's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let mut criterion = criterion();
    let mut group = criterion.benchmark_group("sip");
    group.throughput(Throughput::Bytes(INVITE.len() as u64));
    let invite = INVITE.as_bytes();
    group.bench_function("ours, lex", |b| b.iter(|| parsers::ours(black_box(invite))));
    group.bench_function("rsip, parse", |b| b.iter(|| parsers::rsip(black_box(invite))));
    group.bench_function("rsipstack, parse", |b| b.iter(|| parsers::rsipstack(black_box(invite))));
    group.bench_function("ours, typed", |b| b.iter(|| parsers::ours_typed(black_box(invite))));
    group.bench_function("rsip, typed", |b| b.iter(|| parsers::rsip_typed(black_box(invite))));
    group.bench_function("rsipstack, typed", |b| {
        b.iter(|| parsers::rsipstack_typed(black_box(invite)));
    });
    group.finish();
    criterion.final_summary();
}
