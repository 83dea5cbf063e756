//! The corpus of the fuzzer, given to its targets by an ordinary test.

use std::fs;
use std::path::{Path, PathBuf};

use house_fuzz::TARGETS;

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("it lies in tests").join("data")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let listed = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<PathBuf> = listed.map(|entry| entry.expect("readable").path()).collect();
    paths.sort();
    paths
}

fn replay(path: &Path, name: &str, target: fn(&[u8])) {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    // What the test prints names the input that it failed on.
    println!("{name}: {}", path.display());
    target(&bytes);
}

#[test]
fn the_corpus_of_each_target_holds() {
    for (name, target) in TARGETS {
        let corpus = files(&data().join("fuzz").join(name));
        assert!(corpus.len() >= 10, "{name} has a corpus of {}", corpus.len());
        corpus.iter().for_each(|path| replay(path, name, *target));
    }
}

#[test]
fn the_torture_messages_hold_in_each_target() {
    let mut messages = files(&data().join("torture"));
    messages.retain(|path| path.extension().is_some_and(|ending| ending == "sip"));
    assert_eq!(messages.len(), 61);
    for (name, target) in TARGETS {
        messages.iter().for_each(|path| replay(path, name, *target));
    }
}
