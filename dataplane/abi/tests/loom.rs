//! The cores under every interleaving that loom can think of, on loom's memory:
//! `RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom cargo test --release -p abi --test loom`
//!
//! Loom never lets a load see a store that comes later in its run, so what only keeps a load in
//! front of a later store (the release of a ring's tail, and its acquire) is not put to the test
//! here.

#![cfg(loom)]

use abi::lease::word;
use abi::ring::{Memory, Reader, Room, Shape, Taken, Writer};
use abi::sync::{AtomicU64, Ordering};
use abi::{Bell, LeaseState, Purpose, Share, Wake, cell, journal};
use base::{CcbId, Instant};
use loom::sync::Arc;
use loom::thread;

#[derive(Clone)]
struct Words(Arc<Vec<AtomicU64>>);

impl Words {
    fn zeroed(count: usize) -> Self {
        Words(Arc::new((0..count).map(|_| AtomicU64::new(0)).collect()))
    }
}

impl Memory for Words {
    fn words(&self) -> &[AtomicU64] {
        &self.0
    }
}

type Record = [u64; 1];

fn ring(shape: Shape) -> (Words, Writer<Words, Record>, Reader<Words, Record>) {
    let words = Words::zeroed(shape.words::<Record>());
    let writer = Writer::attach(words.clone(), shape);
    let reader = Reader::attach(words.clone(), shape);
    (words, writer, reader)
}

/// All models look at two preemptions a thread at least; the small ones at every interleaving.
fn model(preemptions: Option<usize>, run: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(run);
}

/// What a reader may take: numbers that grow, and the record and blob that went with the number.
fn check(taken: &Taken<Record>, last: &mut u64, blob: &[u8]) {
    assert_eq!(taken.number, *last + taken.missed + 1);
    *last = taken.number;
    assert_eq!(taken.record, [taken.number * 3]);
    let byte = taken.number as u8;
    assert!(blob.iter().all(|here| *here == byte), "the blob of another record");
}

#[test]
fn a_record_and_its_blob_are_whole() {
    let shape = Shape { slots: 2, blob_bytes: 16 };
    model(Some(3), move || {
        let (_, mut writer, mut reader) = ring(shape);
        let producer = thread::spawn(move || {
            for number in 1..=3u64 {
                let blob = [number as u8; 16];
                let len = if number == 2 { 9 } else { 16 };
                let _ = writer.push(&[number * 3], &blob[..len], Room::All);
            }
        });
        let mut last = 0;
        let mut blob = Vec::new();
        for _ in 0..2 {
            if let Some(taken) = reader.pop(&mut blob) {
                check(&taken.expect("it is sound"), &mut last, &blob);
            }
        }
        producer.join().unwrap();
        while let Some(taken) = reader.pop(&mut blob) {
            check(&taken.expect("it is sound"), &mut last, &blob);
        }
        assert!(last >= 1, "the first one finds an empty ring");
    });
}

#[test]
fn slots_are_used_again_only_when_they_are_free() {
    let shape = Shape { slots: 1, blob_bytes: 0 };
    model(None, move || {
        let (_, mut writer, mut reader) = ring(shape);
        let producer = thread::spawn(move || {
            (1..=3u64).filter(|n| writer.push(&[n * 3], &[], Room::All).is_ok()).count()
        });
        let mut last = 0;
        let mut blob = Vec::new();
        let mut got = 0;
        for _ in 0..2 {
            if let Some(taken) = reader.pop(&mut blob) {
                check(&taken.expect("it is sound"), &mut last, &blob);
                got += 1;
            }
        }
        let sent = producer.join().unwrap();
        while let Some(taken) = reader.pop(&mut blob) {
            check(&taken.expect("it is sound"), &mut last, &blob);
            got += 1;
        }
        assert_eq!(sent, got, "what was taken on comes out once");
    });
}

#[test]
fn a_new_end_goes_on_while_the_other_runs() {
    let shape = Shape { slots: 2, blob_bytes: 16 };
    model(Some(2), move || {
        let (words, mut writer, mut reader) = ring(shape);
        let shared = words.clone();
        let producer = thread::spawn(move || {
            let _ = writer.push(&[3], &[1; 16], Room::All);
            let mut writer = Writer::<_, Record>::attach(shared, shape);
            let _ = writer.push(&[6], &[2; 16], Room::All);
        });
        let mut last = 0;
        let mut blob = Vec::new();
        if let Some(taken) = reader.pop(&mut blob) {
            check(&taken.expect("it is sound"), &mut last, &blob);
        }
        let mut reader = Reader::<_, Record>::attach(words, shape);
        if let Some(taken) = reader.pop(&mut blob) {
            check(&taken.expect("it is sound"), &mut last, &blob);
        }
        producer.join().unwrap();
    });
}

#[test]
fn a_row_read_is_a_row_written() {
    model(None, || {
        let cell = Words::zeroed(cell::words::<[u64; 2]>());
        let shared = cell.clone();
        let writer = thread::spawn(move || {
            cell::write(&shared.0, &[1u64, 10]);
            cell::write(&shared.0, &[2u64, 20]);
        });
        let mut last = 0;
        for _ in 0..2 {
            if let Some([a, b]) = cell::read::<[u64; 2]>(&cell.0) {
                assert_eq!(b, a * 10, "half of one row and half of another");
                assert!(a >= last, "rows do not go back");
                last = a;
            }
        }
        writer.join().unwrap();
        assert_eq!(cell::read(&cell.0), Some([2u64, 20]));
    });
}

/// As the last, where the writer is another thread the second time: a restarted process.
#[test]
fn a_restarted_writer_does_not_tear_a_row() {
    model(Some(3), || {
        let cell = Words::zeroed(cell::words::<[u64; 2]>());
        let shared = cell.clone();
        let writer = thread::spawn(move || {
            let first = shared.clone();
            thread::spawn(move || cell::write(&first.0, &[1u64, 10])).join().unwrap();
            cell::write(&shared.0, &[2u64, 20]);
        });
        if let Some([a, b]) = cell::read::<[u64; 2]>(&cell.0) {
            assert_eq!(b, a * 10);
        }
        writer.join().unwrap();
    });
}

type Row = [u64; 2];

/// Two cells and one journal of them.
fn journalled() -> (Words, Words) {
    let cells = Words::zeroed(2 * journal::words::<Row>());
    (cells, Words::zeroed(journal::journal_words::<Row>()))
}

#[test]
fn a_journalled_row_read_is_a_row_written() {
    for second in [0, 1] {
        model(Some(2), move || {
            let (cells, log) = journalled();
            let (shared, own) = (cells.clone(), log.clone());
            let writer = thread::spawn(move || {
                journal::write::<Row>(&shared.0, &own.0, 0, 0, &[1, 10]);
                journal::write::<Row>(&shared.0, &own.0, 0, second, &[2, 20]);
            });
            let mut last = 0;
            for _ in 0..2 {
                if let Some([a, b]) = journal::read_prefix::<Row, Row>(&cells.0, &log.0, 0) {
                    assert_eq!(b, a * 10, "half of one row and half of another");
                    assert!(a >= last && a <= 2 - u64::from(second), "rows do not go back");
                    last = a;
                }
            }
            writer.join().unwrap();
            let row = journal::read_prefix::<Row, Row>(&cells.0, &log.0, 0);
            assert_eq!(row.map(|[a, _]| a), Some(2 - u64::from(second)));
        });
    }
}

/// A writer died between its mark and the end; its successor writes another row while somebody reads this one.
#[test]
fn a_journalled_row_is_finished_before_the_journal_is_used_again() {
    model(Some(3), || {
        let (cells, log) = journalled();
        journal::write::<Row>(&cells.0, &log.0, 0, 0, &[1, 10]);
        let store = |words: &Words, at: usize, value| words.0[at].store(value, Ordering::Relaxed);
        store(&log, 1, 2);
        store(&log, 2, 20);
        store(&log, 0, (1 << 32) | 2);
        store(&cells, 0, (2 << 9) | 1);
        store(&cells, 2, 20);
        let (shared, own) = (cells.clone(), log.clone());
        let writer = thread::spawn(move || {
            journal::write::<Row>(&shared.0, &own.0, 0, 1, &[7, 70]);
        });
        if let Some(row) = journal::read_prefix::<Row, Row>(&cells.0, &log.0, 0) {
            assert_eq!(row, [2, 20]);
        }
        writer.join().unwrap();
        assert_eq!(journal::read_prefix::<Row, Row>(&cells.0, &log.0, 0), Some([2, 20]));
    });
}

fn at(ms: u64) -> Instant {
    Instant::from_nanos(ms * 1_000_000)
}

#[test]
fn no_lease_is_won_twice() {
    model(None, || {
        let word = Words::zeroed(1);
        let won = Words::zeroed(4);
        let contenders = [CcbId(1), CcbId(2)].map(|holder| {
            let (word, won) = (word.clone(), won.clone());
            thread::spawn(move || {
                let word = &word.0[0];
                if let Ok(counter) = word::reserve(word, holder, Purpose::Call, at(0)) {
                    let before = won.0[counter as usize].fetch_add(1, Ordering::Relaxed);
                    assert_eq!(before, 0, "one winner for each counter");
                    assert!(word::bind(word, holder, counter), "it is ours and young");
                    assert!(word::release(word, holder, counter, Share::Waiting));
                    assert!(!word::release(word, holder, counter, Share::Waiting));
                }
            })
        });
        for contender in contenders {
            contender.join().unwrap();
        }
        let wins: u64 = won.0.iter().map(|word| word.load(Ordering::Relaxed)).sum();
        assert_eq!(word::read(&word.0[0]), LeaseState::Free { counter: wins as u32 });
    });
}

#[test]
fn a_stale_reservation_goes_to_one() {
    model(None, || {
        let word = Words::zeroed(1);
        let late = at(10_000);
        let old = word::reserve(&word.0[0], CcbId(1), Purpose::Call, at(0)).expect("it is free");
        let taker = {
            let word = word.clone();
            thread::spawn(move || word::reserve(&word.0[0], CcbId(2), Purpose::Queue, late))
        };
        let expirer = {
            let word = word.clone();
            thread::spawn(move || word::expire(&word.0[0], late))
        };
        let bound = word::bind(&word.0[0], CcbId(1), old);
        let taken = taker.join().unwrap();
        let expired = expirer.join().unwrap();
        let state = word::read(&word.0[0]);
        match taken {
            Ok(counter) => {
                assert!(!bound, "it cannot be both bound and taken over");
                assert_eq!(counter, old + 1);
                assert_eq!(state.holder(), Some(CcbId(2)));
            }
            Err(_) => assert!(bound && !expired && state.holder() == Some(CcbId(1))),
        }
    });
}

#[test]
fn no_wake_up_is_lost() {
    let shape = Shape { slots: 2, blob_bytes: 0 };
    model(None, move || {
        let (_, mut writer, mut reader) = ring(shape);
        let asleep = Words::zeroed(1);
        let bell = asleep.clone();
        let producer = thread::spawn(move || {
            writer.push(&[3], &[], Room::All).expect("there is room");
            Bell::new(&bell.0[0]).wake()
        });
        let bell = Bell::new(&asleep.0[0]);
        let mut blob = Vec::new();
        let mut blocked = false;
        if reader.pop(&mut blob).is_none() {
            bell.sleep();
            blocked = reader.is_empty();
            if !blocked {
                bell.awake();
                assert!(reader.pop(&mut blob).is_some());
            }
        }
        let wake = producer.join().unwrap();
        assert!(!blocked || wake == Wake::Needed, "it sleeps on a record and nobody rings");
    });
}

#[test]
fn of_two_producers_one_rings() {
    model(None, || {
        let words = Words::zeroed(3);
        let producers = [1, 2].map(|ring: usize| {
            let words = words.clone();
            thread::spawn(move || {
                words.0[ring].store(1, Ordering::Release);
                Bell::new(&words.0[0]).wake()
            })
        });
        let bell = Bell::new(&words.0[0]);
        bell.sleep();
        let seen = (1..3).filter(|&ring| words.0[ring].load(Ordering::Acquire) == 1).count();
        let rings = producers.map(|producer| producer.join().unwrap());
        let rung = rings.iter().filter(|&&wake| wake == Wake::Needed).count();
        assert!(rung <= 1, "the eventfd is written once");
        assert!(seen == 2 || rung == 1, "it sleeps on a record and nobody rings");
    });
}
