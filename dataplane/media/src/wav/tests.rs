use proptest::prelude::*;

use super::*;
use crate::g711::Law;
use crate::tone::{Tone, share};

#[derive(Clone)]
struct File {
    tag: u16,
    channels: u16,
    rate: u32,
    align: u16,
    bits: u16,
    /// What follows the sixteen bytes of the format.
    more: Vec<u8>,
    data: Vec<u8>,
}

impl File {
    fn new(tag: u16, channels: u16, rate: u32, bits: u16, data: Vec<u8>) -> Self {
        File { tag, channels, rate, align: channels * bits.div_ceil(8), bits, more: vec![], data }
    }

    fn format(&self) -> Vec<u8> {
        let mut format = Vec::new();
        format.extend(self.tag.to_le_bytes());
        format.extend(self.channels.to_le_bytes());
        format.extend(self.rate.to_le_bytes());
        format.extend((self.rate * u32::from(self.align)).to_le_bytes());
        format.extend(self.align.to_le_bytes());
        format.extend(self.bits.to_le_bytes());
        format.extend(&self.more);
        format
    }

    fn bytes(&self) -> Vec<u8> {
        riff(&[(b"fmt ", &self.format()), (b"data", &self.data)])
    }
}

fn riff(chunks: &[(&[u8; 4], &[u8])]) -> Vec<u8> {
    let mut bytes = b"RIFF\0\0\0\0WAVE".to_vec();
    for (name, body) in chunks {
        bytes.extend(*name);
        bytes.extend((body.len() as u32).to_le_bytes());
        bytes.extend(*body);
        if body.len() % 2 == 1 {
            bytes.push(0);
        }
    }
    let length = (bytes.len() - 8) as u32;
    bytes[4..8].copy_from_slice(&length.to_le_bytes());
    bytes
}

fn tone() -> Vec<i16> {
    Tone::new(440, 8_000).take(800).collect()
}

fn pcm16(samples: &[i16]) -> Vec<u8> {
    samples.iter().flat_map(|sample| sample.to_le_bytes()).collect()
}

#[test]
fn codings_give_the_same_sound() {
    let tone = tone();
    let law = |law: Law| tone.iter().map(|&sample| law.encode(sample)).collect::<Vec<u8>>();
    let pcm8 = tone.iter().map(|&sample| ((sample >> 8) + 128) as u8).collect();
    let pcm24 = tone
        .iter()
        .flat_map(|sample| {
            let [a, b] = sample.to_le_bytes();
            [0x55, a, b]
        })
        .collect();
    let mut extensible = File::new(0xfffe, 1, 8_000, 16, pcm16(&tone));
    extensible.more =
        b"\x16\0\x10\0\x04\0\0\0\x01\0\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71".to_vec();
    for (name, bytes, error) in [
        ("16.wav", File::new(1, 1, 8_000, 16, pcm16(&tone)).bytes(), 0),
        ("8.wav", File::new(1, 1, 8_000, 8, pcm8).bytes(), 256),
        ("24.wav", File::new(1, 1, 8_000, 24, pcm24).bytes(), 0),
        ("a.wav", File::new(6, 1, 8_000, 8, law(Law::A)).bytes(), 256),
        ("mu.wav", File::new(7, 1, 8_000, 8, law(Law::Mu)).bytes(), 256),
        ("extensible.wav", extensible.bytes(), 0),
        ("no ending", File::new(1, 1, 8_000, 16, pcm16(&tone)).bytes(), 0),
        ("raw.alaw", law(Law::A), 256),
        ("raw.PCMA", law(Law::A), 256),
        ("raw.ulaw", law(Law::Mu), 256),
        ("raw.b.pcmu", law(Law::Mu), 256),
    ] {
        let samples = read(name, &bytes).expect(name);
        assert_eq!(samples.len(), tone.len(), "{name}");
        let worst = samples.iter().zip(&tone).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(worst <= Some(error), "{name}: {worst:?}");
    }
}

#[test]
fn stereo_is_mixed_down_and_rates_are_changed() {
    for rate in [8_000u32, 16_000, 44_100, 48_000] {
        // 440 Hz at the left, 1,000 Hz at the right.
        let wave = |frequency: f32, at: u32| {
            ((at as f32 * frequency / rate as f32 * std::f32::consts::TAU).sin() * 12_000.0) as i16
        };
        let both: Vec<i16> =
            (0..rate / 2).flat_map(|at| [wave(440.0, at), wave(1_000.0, at)]).collect();
        let file = File::new(1, 2, rate, 16, pcm16(&both));
        let samples = read("stereo.wav", &file.bytes()).expect("it is right");
        assert_eq!(samples.len(), 4_000, "{rate}");
        for frequency in [440, 1_000] {
            let share = share(&samples[400..3_600], frequency);
            assert!((0.48..0.52).contains(&share), "{rate} {frequency}: {share}");
        }
        let peak = samples.iter().max().expect("there is sound");
        assert!((11_000..=12_100).contains(peak), "{rate}: {peak}");
    }
    let loud = File::new(1, 2, 8_000, 16, pcm16(&[i16::MIN, i16::MIN, i16::MAX, i16::MAX]));
    assert_eq!(read("loud.wav", &loud.bytes()), Ok(vec![i16::MIN, i16::MAX]));
}

#[test]
fn other_chunks_and_cut_files_are_read() {
    let tone = tone();
    let file = File::new(1, 1, 8_000, 16, pcm16(&tone));
    let odd = riff(&[
        (b"LIST", b"odd"),
        (b"fmt ", &file.format()),
        (b"fact", &[0; 4]),
        (b"data", &file.data),
        (b"tail", b"x"),
    ]);
    assert_eq!(read("x.wav", &odd), Ok(tone.clone()));
    // Killed while it was written, in the middle of a sample.
    let bytes = file.bytes();
    assert_eq!(read("x.wav", &bytes[..bytes.len() - 101]), Ok(tone[..800 - 51].to_vec()));
    // Written to a pipe: the length is not known.
    for length in [0u32, u32::MAX] {
        let mut piped = bytes.clone();
        piped[40..44].copy_from_slice(&length.to_le_bytes());
        assert_eq!(read("x.wav", &piped), Ok(tone.clone()), "{length}");
    }
}

#[test]
fn what_is_wrong_is_named() {
    let good = File::new(1, 1, 8_000, 16, pcm16(&tone()));
    let with = |change: &dyn Fn(&mut File)| {
        let mut file = good.clone();
        change(&mut file);
        file.bytes()
    };
    let format = good.format();
    for (bytes, said) in [
        (vec![], "file: it must be RIFF WAVE, or raw G.711 named .ulaw, .pcmu, .alaw or .pcma"),
        (riff(&[]), "data chunk: it must be there"),
        (riff(&[(b"fmt ", &format)]), "data chunk: it must be there"),
        (riff(&[(b"data", &[0; 8])]), "format chunk: it must be before the sound"),
        (
            riff(&[(b"fmt ", &format[..14])]),
            "format chunk's length is 14: it must be 16 bytes or more",
        ),
        (with(&|file| file.data.clear()), "sound is 0: it must be at least one sample"),
        (with(&|file| file.tag = 3), "format is 3: it must be 1 (PCM), 6 (A-law) or 7 (mu-law)"),
        (with(&|file| file.tag = 0xfffe), "extensible format: it must be PCM or G.711"),
        (with(&|file| file.tag = 6), "bits a sample of G.711 is 16: it must be 8"),
        (with(&|file| file.bits = 32), "bits a sample of PCM is 32: it must be 8, 16 or 24"),
        (with(&|file| file.channels = 6), "number of channels is 6: it must be 1 or 2"),
        (with(&|file| file.channels = 0), "number of channels is 0: it must be 1 or 2"),
        (with(&|file| file.rate = 7_999), "sample rate is 7999: it must be 8,000 to 192,000 Hz"),
        (
            with(&|file| file.rate = 192_001),
            "sample rate is 192001: it must be 8,000 to 192,000 Hz",
        ),
        (with(&|file| file.align = 4), "block size is 4: it must be the channels' bytes a sample"),
    ] {
        assert_eq!(read("x.wav", &bytes).expect_err(said).to_string(), said);
    }
    let long = vec![0xff; 8_000 * 601];
    assert_eq!(
        read("long.ulaw", &long).expect_err("too long").to_string(),
        "duration in seconds is 601: it must be 600 at most"
    );
    assert_eq!(read("just.ulaw", &long[..8_000 * 600]).map(|samples| samples.len()), Ok(4_800_000));
    assert_eq!(read("empty.alaw", &[]).expect_err("empty").field, "sound");
}

proptest! {
    #[test]
    fn anything_is_survived(
        mut bytes in prop::collection::vec(any::<u8>(), 0..200), tag in 0u16..8, rate: u32, change in 0usize..60, to: u8,
        channels in 0u16..4, bits in prop::sample::select(&[8u16, 16, 24, 32, 0]), align: bool,
    ) {
        let _ = read("x.wav", &bytes);
        let _ = read("x.pcma", &bytes);
        let mut file = File::new(tag, channels, 8_000 + rate % 200_000, bits, std::mem::take(&mut bytes));
        if align {
            file.align = file.align.wrapping_add(1);
        }
        let mut bytes = file.bytes();
        let change = change.min(bytes.len() - 1);
        let _ = read("x.wav", &bytes);
        bytes[change] = to;
        let _ = read("x.wav", &bytes);
        let _ = read("x.wav", &bytes[..change]);
    }
}
