use std::collections::VecDeque;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;

type Record = [u64; 2];

#[derive(Clone)]
struct Shared(Arc<Vec<AtomicU64>>);

impl Memory for Shared {
    fn words(&self) -> &[AtomicU64] {
        &self.0
    }
}

fn memory(shape: Shape) -> Shared {
    Shared(Arc::new((0..shape.words::<Record>()).map(|_| AtomicU64::new(0)).collect()))
}

const SHAPE: Shape = Shape { slots: 8, blob_bytes: 64 };

/// What the model does next.
#[derive(Clone, Debug)]
enum Step {
    Push {
        value: u64,
        blob: Vec<u8>,
        room: Room,
    },
    Pop,
    /// The producer is killed and another takes over.
    NewWriter,
    /// The producer is killed after it took a number.
    WriterDiesWithNumber,
    /// The producer is killed after it gave out blob bytes and wrote a slot, before it published.
    WriterDiesBeforeHead {
        blob: u64,
    },
    NewReader,
    /// The consumer is killed after it stored tail, before it gave the blob back.
    ReaderDiesAfterTail,
    /// The consumer is killed after it gave the blob back, before it noted the number.
    ReaderDiesAfterBlobTail,
}

fn step() -> impl Strategy<Value = Step> {
    let room = prop_oneof![Just(Room::All), Just(Room::Most), Just(Room::None)];
    let blob = proptest::collection::vec(any::<u8>(), 0..30);
    prop_oneof![
        6 => (any::<u64>(), blob, room).prop_map(|(value, blob, room)| Step::Push {
            value, blob, room
        }),
        5 => Just(Step::Pop),
        1 => Just(Step::NewWriter),
        1 => Just(Step::WriterDiesWithNumber),
        1 => (0u64..6).prop_map(|words| Step::WriterDiesBeforeHead { blob: words * 8 }),
        1 => Just(Step::NewReader),
        1 => Just(Step::ReaderDiesAfterTail),
        1 => Just(Step::ReaderDiesAfterBlobTail),
    ]
}

/// The ring as a queue, with the numbers that were given out.
#[derive(Default)]
struct Model {
    queue: VecDeque<(u64, Record, Vec<u8>)>,
    number: u64,
    /// The number that the consumer's process noted last.
    seen: u64,
}

struct World {
    memory: Shared,
    writer: Writer<Shared, Record>,
    reader: Reader<Shared, Record>,
    model: Model,
    blob: Vec<u8>,
}

impl World {
    fn new() -> Self {
        let memory = memory(SHAPE);
        let writer = Writer::attach(memory.clone(), SHAPE);
        let reader = Reader::attach(memory.clone(), SHAPE);
        World { memory, writer, reader, model: Model::default(), blob: Vec::new() }
    }

    fn word(&self, word: usize) -> u64 {
        self.memory.0[word].load(Ordering::Relaxed)
    }

    fn set(&self, word: usize, value: u64) {
        self.memory.0[word].store(value, Ordering::Relaxed);
    }

    fn push(&mut self, value: u64, blob: &[u8], room: Room) {
        self.model.number += 1;
        let record = [value, !value];
        let full = self.model.queue.len() as u64 >= room.of(SHAPE.slots);
        match self.writer.push(&record, blob, room) {
            Ok(number) => {
                assert!(!full, "a record in a full ring");
                assert_eq!(number, self.model.number);
                self.model.queue.push_back((number, record, blob.to_vec()));
            }
            Err(Full) => {
                let fits = !full && whole_words(blob.len()) <= room.of(SHAPE.blob_bytes);
                assert!(!fits || !self.model.queue.is_empty(), "an empty ring takes what fits it");
                assert!(full || !blob.is_empty(), "a record without a blob needs a slot only");
            }
        }
    }

    fn pop(&mut self) {
        let Some((number, record, blob)) = self.model.queue.pop_front() else {
            assert_eq!(self.reader.pop(&mut self.blob), None);
            return;
        };
        assert!(!self.reader.is_empty());
        let missed = number - self.model.seen - 1;
        self.model.seen = number;
        let taken = self.reader.pop(&mut self.blob);
        assert_eq!(taken, Some(Ok(Taken { number, missed, record })));
        assert_eq!(self.blob, blob);
    }

    fn new_writer(&mut self) {
        self.writer = Writer::attach(self.memory.clone(), SHAPE);
        assert_eq!(self.writer.number(), self.model.number);
    }

    fn new_reader(&mut self) {
        self.reader = Reader::attach(self.memory.clone(), SHAPE);
        assert_eq!(self.reader.waiting(), self.model.queue.len() as u64);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Push { value, blob, room } => self.push(value, &blob, room),
            Step::Pop => self.pop(),
            Step::NewWriter => self.new_writer(),
            Step::WriterDiesWithNumber => {
                self.model.number += 1;
                self.set(NUMBER, self.model.number);
                self.new_writer();
            }
            Step::WriterDiesBeforeHead { blob } => {
                self.model.number += 1;
                self.set(NUMBER, self.model.number);
                let used = self.word(BLOB_HEAD).wrapping_sub(self.word(BLOB_TAIL));
                if self.model.queue.len() < SHAPE.slots as usize {
                    let slot = SHAPE.slot::<Record>(self.word(HEAD));
                    self.memory.0[slot].iter().for_each(|word| word.store(7, Ordering::Relaxed));
                    if used + blob <= u64::from(SHAPE.blob_bytes) {
                        self.set(BLOB_HEAD, self.word(BLOB_HEAD) + blob);
                    }
                }
                self.new_writer();
            }
            Step::NewReader => self.new_reader(),
            Step::ReaderDiesAfterTail | Step::ReaderDiesAfterBlobTail => {
                if self.model.queue.is_empty() {
                    return;
                }
                let (blob_tail, seen) = (self.word(BLOB_TAIL), self.word(SEEN));
                self.pop();
                self.set(SEEN, seen);
                self.model.seen = seen;
                if matches!(step, Step::ReaderDiesAfterTail) {
                    self.set(BLOB_TAIL, blob_tail);
                }
                self.new_reader();
            }
        }
    }

    /// The ring is as good as new once it is empty and one more record went through, whatever died
    /// meanwhile: bytes that a killed consumer did not give back are given back with that record.
    fn drain_and_refill(&mut self) {
        while !self.model.queue.is_empty() {
            self.pop();
        }
        self.push(0, &[0; SHAPE.blob_bytes as usize], Room::All);
        assert_eq!(self.model.queue.len(), 1, "an empty ring takes what fits it");
        self.pop();
        for value in 0..u64::from(SHAPE.slots) {
            self.push(value, b"8 bytes!", Room::All);
        }
        assert_eq!(self.model.queue.len(), SHAPE.slots as usize);
        while !self.model.queue.is_empty() {
            self.pop();
        }
        self.pop();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_ring_is_a_queue_whoever_dies(steps in proptest::collection::vec(step(), 0..200)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.drain_and_refill();
    }

    #[test]
    fn nonsense_in_the_ring_is_survived(
        words in proptest::collection::vec((0usize..200, any::<u64>()), 1..60),
        small in any::<bool>(),
    ) {
        let memory = memory(SHAPE);
        let mut writer = Writer::<_, Record>::attach(memory.clone(), SHAPE);
        let mut reader = Reader::<_, Record>::attach(memory.clone(), SHAPE);
        let mut blob = Vec::new();
        for (word, value) in words {
            let value = if small { value % 200 } else { value };
            memory.0[word % memory.0.len()].store(value, Ordering::Relaxed);
            let _ = writer.push(&[1, 2], b"blob", Room::All);
            for _ in 0..2 {
                if let Some(Ok(_)) = reader.pop(&mut blob) {
                    prop_assert!(blob.len() <= SHAPE.blob_bytes as usize);
                }
            }
            let mut other = Writer::<_, Record>::attach(memory.clone(), SHAPE);
            let _ = other.push(&[3, 4], b"", Room::Most);
            let _ = Reader::<_, Record>::attach(memory.clone(), SHAPE).pop(&mut blob);
        }
        // Each pop takes at least one record or finds the end, so a drain is bounded.
        let pops = (0..1000).take_while(|_| reader.pop(&mut blob).is_some()).count();
        prop_assert!(pops <= SHAPE.slots as usize + 1);
    }
}

#[test]
fn a_foreign_head_is_skipped_once_and_heals() {
    let memory = memory(SHAPE);
    let mut writer = Writer::<_, Record>::attach(memory.clone(), SHAPE);
    let mut reader = Reader::<_, Record>::attach(memory.clone(), SHAPE);
    let mut blob = Vec::new();
    memory.0[HEAD].store(1 << 40, Ordering::Relaxed);
    assert_eq!(reader.pop(&mut blob), Some(Err(Corrupt { what: "the producer's index" })));
    assert_eq!(reader.pop(&mut blob), None);
    writer.push(&[1, 1], b"", Room::All).expect("the ring is empty");
    assert!(matches!(reader.pop(&mut blob), Some(Err(_))), "what came meanwhile is gone");
    writer.push(&[2, 2], b"", Room::All).expect("there is room");
    let Some(Ok(taken)) = reader.pop(&mut blob) else { panic!("the ring has healed") };
    assert_eq!(taken.record, [2, 2]);
    assert_eq!(reader.corrupt(), 2);
}

#[test]
fn the_last_quarter_is_kept_for_what_must_not_be_lost() {
    let memory = memory(SHAPE);
    let mut writer = Writer::<_, Record>::attach(memory.clone(), SHAPE);
    let sent = (0..20).filter(|_| writer.push(&[0, 0], b"", Room::Most).is_ok()).count();
    assert_eq!(sent, 6);
    let sent = (0..20).filter(|_| writer.push(&[0, 0], b"", Room::All).is_ok()).count();
    assert_eq!(sent, 2);
}

#[test]
fn two_threads_see_every_record_whole() {
    const COUNT: u64 = 200_000;
    let (mut producer, mut consumer) = spsc_with_blob::<Record>(64, 1024);
    let sender = std::thread::spawn(move || {
        for value in 0..COUNT {
            let blob = [value as u8; 40];
            while producer.push_with(&[value, !value], &blob[..value as usize % 41]).is_err() {
                std::thread::yield_now();
            }
        }
    });
    let mut blob = Vec::new();
    for value in 0..COUNT {
        let record = loop {
            match consumer.pop_with(&mut blob) {
                Some(record) => break record,
                None => std::thread::yield_now(),
            }
        };
        assert_eq!(record, [value, !value]);
        assert_eq!(blob, &[value as u8; 40][..value as usize % 41]);
    }
    sender.join().expect("the sender ends");
}
