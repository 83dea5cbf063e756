use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// A record with a payload of its own.
#[derive(Clone, Debug)]
enum Owned {
    Plain(Record<'static>),
    Audio { of: RecordingId, side: SpoolSide, codec: SpoolCodec, position: u64, payload: Vec<u8> },
}

impl Owned {
    fn record(&self) -> Record<'_> {
        match self {
            Owned::Plain(record) => *record,
            Owned::Audio { of, side, codec, position, payload } => {
                Record::Audio { of: *of, side: *side, codec: *codec, position: *position, payload }
            }
        }
    }
}

fn side() -> impl Strategy<Value = SpoolSide> {
    prop_oneof![Just(SpoolSide::Caller), Just(SpoolSide::Called)]
}

fn counts() -> impl Strategy<Value = SideCounts> {
    any::<[u64; 4]>().prop_map(|[received, lost, duplicates, late]| SideCounts {
        received,
        lost,
        duplicates,
        late,
    })
}

fn record() -> impl Strategy<Value = Owned> {
    let of = any::<(u64, u64)>().prop_map(|(serial, number)| RecordingId { serial, number });
    let codec = prop_oneof![Just(SpoolCodec::Pcmu), Just(SpoolCodec::Pcma)];
    let plain = (0..5, of.clone(), side(), any::<[u64; 2]>(), [counts(), counts()]).prop_map(
        |(kind, of, side, [a, position], counts)| {
            let at = Instant::from_nanos(a);
            Owned::Plain(match kind {
                0 => Record::Start { of, at },
                1 => Record::Lost { of, side, position, samples: a },
                2 => Record::Pause { of, position },
                3 => Record::Resume { of, position },
                _ => Record::End { of, at, position, counts },
            })
        },
    );
    let audio = (of, side(), codec, any::<u64>(), vec(any::<u8>(), 1..=MAX_PAYLOAD)).prop_map(
        |(of, side, codec, position, payload)| Owned::Audio { of, side, codec, position, payload },
    );
    prop_oneof![1 => plain, 4 => audio]
}

/// What a worker does: append, take what is full, sometimes flush.
fn written(records: &[(Owned, u8)]) -> Vec<Vec<u8>> {
    let mut writer = SpoolWriter::new();
    let mut blocks = Vec::new();
    for (record, flush) in records {
        writer.append(&record.record());
        blocks.extend(writer.take_full());
        if *flush < 5 {
            blocks.extend(writer.flush());
        }
    }
    blocks.extend(writer.flush());
    assert!(writer.is_empty() && writer.flush().is_none() && writer.take_lost() == 0);
    blocks
}

fn contents<'a>(blocks: impl Iterator<Item = Block<'a>>) -> Vec<(u64, Vec<Record<'a>>)> {
    blocks.map(|block| (block.sequence, block.records().collect())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn records_come_out_as_they_went_in(records in vec((record(), any::<u8>()), 0..600)) {
        let blocks = written(&records);
        for block in &blocks {
            prop_assert!(block.len() <= MAX_BLOCK && block.len().is_multiple_of(BLOCK_STEP));
            prop_assert_eq!(block.capacity(), block.len());
        }
        let file = blocks.concat();
        let mut reader = SpoolReader::new(&file);
        let mut read = Vec::new();
        for (number, block) in reader.by_ref().enumerate() {
            prop_assert_eq!(block.sequence, number as u64 + 1);
            let mut records = block.records();
            read.extend(records.by_ref());
            prop_assert_eq!(records.left(), 0);
        }
        prop_assert_eq!(read, records.iter().map(|(record, _)| record.record()).collect::<Vec<_>>());
        prop_assert_eq!((reader.consumed(), reader.skipped()), (file.len(), 0));
    }

    #[test]
    fn a_cut_or_a_flipped_byte_costs_the_block_that_it_hits(
        records in vec((record(), any::<u8>()), 1..600),
        at in any::<prop::sample::Index>(),
        flip in prop::option::of(1u8..),
    ) {
        let blocks = written(&records);
        let whole = blocks.concat();
        let mut file = whole.clone();
        let at = at.index(file.len());
        match flip {
            Some(bits) => file[at] ^= bits,
            None => file.truncate(at),
        }
        let mut end = 0;
        let expected = contents(SpoolReader::new(&whole)).into_iter().zip(&blocks).filter(|(_, block)| {
            let begin = end;
            end += block.len();
            if flip.is_some() { !(begin..end).contains(&at) } else { end <= at }
        });
        let expected: Vec<_> = expected.map(|(contents, _)| contents).collect();
        prop_assert_eq!(contents(SpoolReader::new(&file)), expected);
    }

    #[test]
    fn whatever_is_in_a_record_is_read_without_a_panic(
        records in vec(any::<u8>(), 0..5_000),
        kind in 0u8..9,
        length in 0u32..600,
    ) {
        let mut block = vec![0; RECORDS];
        block.extend_from_slice(&[kind, 1, 0, 0]);
        block.extend_from_slice(&length.to_le_bytes());
        block.extend_from_slice(&records);
        let block = seal(&block, 7);
        let block = Block::parse(&block).expect("its checksum is right");
        for record in block.records() {
            if let Record::Audio { payload, .. } = record {
                prop_assert!(payload.len() <= MAX_PAYLOAD);
            }
        }
    }

    #[test]
    fn whatever_is_in_a_head_is_read_without_a_panic(
        length in prop_oneof![any::<u32>(), 0u32..70_000],
        used in prop_oneof![any::<u32>(), 0u32..70_000],
        bytes in 32usize..70_000,
    ) {
        let mut block = vec![0; bytes];
        block[..8].copy_from_slice(&MAGIC);
        block[LENGTH..SEQUENCE].copy_from_slice(&length.to_le_bytes());
        block[USED..USED + 4].copy_from_slice(&used.to_le_bytes());
        let end = block.len().min(length as usize).max(LENGTH);
        let checksum = crc32fast::hash(&block[LENGTH..end]);
        block[CHECKSUM..LENGTH].copy_from_slice(&checksum.to_le_bytes());
        let count = SpoolReader::new(&block).count();
        prop_assert!(count <= 1);
    }
}

const OF: RecordingId = RecordingId { serial: 7, number: 9 };

#[test]
fn a_long_payload_becomes_several_records() {
    let mut writer = SpoolWriter::new();
    writer.audio(OF, SpoolSide::Called, SpoolCodec::Pcma, 100, &[3; 1_000]);
    let block = writer.flush().expect("something was appended");
    let block = Block::parse(&block).expect("a whole block");
    let parts: Vec<_> = block
        .records()
        .map(|record| match record {
            Record::Audio { position, payload, .. } => (position, payload.len()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(parts, [(100, 480), (580, 480), (1_060, 40)]);
}

#[test]
fn blocks_that_nobody_takes_are_bounded_and_counted() {
    let mut writer = SpoolWriter::new();
    for position in 0..20_000 {
        writer.audio(OF, SpoolSide::Caller, SpoolCodec::Pcmu, position * 160, &[0; 160]);
    }
    let taken = std::iter::from_fn(|| writer.take_full()).count();
    assert_eq!(taken, FULL_BLOCKS);
    assert!(writer.take_lost() > 1 << 20);
}

#[test]
fn a_clock_has_a_block_that_is_not_counted() {
    let block = clock_block(Instant::from_nanos(5), 6);
    let block = Block::parse(&block).expect("a whole block");
    assert_eq!((block.sequence, block.length), (0, BLOCK_STEP));
    let expected = Record::Clock { at: Instant::from_nanos(5), unix_ns: 6 };
    assert_eq!(block.records().collect::<Vec<_>>(), [expected]);
}
