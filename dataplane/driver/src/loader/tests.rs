use std::sync::mpsc::channel;
use std::time::Duration;

use super::*;

fn wav(samples: &[i16]) -> Vec<u8> {
    let data: Vec<u8> = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
    let mut file = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0".to_vec();
    file.extend_from_slice(&8_000u32.to_le_bytes());
    file.extend_from_slice(&16_000u32.to_le_bytes());
    file.extend_from_slice(&[2, 0, 16, 0]);
    file.extend_from_slice(b"data");
    file.extend_from_slice(&(data.len() as u32).to_le_bytes());
    file.extend_from_slice(&data);
    file
}

fn library(directory: &Path) -> Library {
    Library { directory: directory.to_owned(), kept: HashMap::new(), kept_bytes: 0, turn: 0 }
}

fn name(name: &str) -> Text<64> {
    Text::new(name.as_bytes()).expect("it is short")
}

#[test]
fn a_prompt_comes_from_its_file_and_stays_until_the_file_changes() {
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join("hello.wav");
    std::fs::write(&file, wav(&[1, -2, 3])).expect("it is written");
    let mut library = library(home.path());
    let first = library.read(name("hello.wav")).expect("it is there");
    assert_eq!(&*first, [1, -2, 3]);
    let again = library.read(name("hello.wav")).expect("it is there");
    assert!(Arc::ptr_eq(&first, &again));
    std::fs::write(&file, wav(&[4, 5, 6, 7])).expect("it is written");
    assert_eq!(&*library.read(name("hello.wav")).expect("it is there"), [4, 5, 6, 7]);
    assert_eq!(library.kept_bytes, 8);
}

#[test]
fn what_is_kept_is_bounded() {
    let home = tempfile::tempdir().expect("a directory");
    let mut library = library(home.path());
    let megabytes: Arc<[i16]> = vec![0; 25 << 20].into();
    for number in 0..20u64 {
        let kept = Kept { mark: (0, 0, 0, 0), samples: Arc::clone(&megabytes), used: number };
        library.keep(name(&number.to_string()), kept);
        assert!(library.kept_bytes <= CACHE_BYTES);
    }
    let mut left: Vec<_> = library.kept.keys().map(|name| name.as_str().to_owned()).collect();
    left.sort();
    assert_eq!(left, ["15", "16", "17", "18", "19"], "the last ones");
}

#[test]
fn names_do_not_leave_the_directory() {
    let home = tempfile::tempdir().expect("a directory");
    let prompts = home.path().join("prompts");
    std::fs::create_dir(&prompts).expect("a directory");
    std::fs::create_dir(prompts.join("folder")).expect("a directory");
    for place in [home.path().join("secret.wav"), prompts.join(".hidden.wav")] {
        std::fs::write(place, wav(&[1])).expect("it is written");
    }
    std::fs::write(prompts.join("text"), "no sound").expect("it is written");
    let made = std::process::Command::new("mkfifo").arg(prompts.join("pipe")).status();
    assert!(made.is_ok_and(|status| status.success()));
    let long = File::create(prompts.join("long")).expect("it is made");
    long.set_len(FILE_BYTES + 1).expect("a hole");
    let mut library = library(&prompts);
    for bad in [
        "../secret.wav",
        "/etc/passwd",
        ".hidden.wav",
        "",
        ".",
        "..",
        "a\0b",
        "folder",
        "pipe",
        "long",
        "text",
        "none",
    ] {
        assert!(library.read(name(bad)).is_err(), "{bad:?}");
    }
    assert!(library.read(Text::new(&[0xff, 0xfe]).expect("it is short")).is_err());
}

#[test]
fn answers_come_to_the_shelf_of_who_asked() {
    let home = tempfile::tempdir().expect("a directory");
    std::fs::write(home.path().join("a.wav"), wav(&[9; 160])).expect("it is written");
    let loader = Loader::start(home.path().to_owned()).expect("a thread");
    let (bell, rung) = channel();
    let shelf = Shelf::new(move || bell.send(()).expect("the test listens"));
    for wanted in ["a.wav", "b.wav"] {
        loader.load(name(wanted), &shelf);
        rung.recv_timeout(Duration::from_secs(20)).expect("it rings");
        let (answered, samples) = shelf.take().expect("it rang");
        assert_eq!(answered, name(wanted));
        assert_eq!(samples.map(|samples| samples.len()), (wanted == "a.wav").then_some(160));
    }
    assert!(shelf.is_empty());
}
