//! Prompts: one thread for the process reads and decodes them, and keeps what it read.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Builder;

use base::Text;
use crossbeam::queue::SegQueue;

use self::wav::WavError;

pub mod wav;

/// The longest file of a prompt: over an hour of WAV at 8 kHz.
const FILE_BYTES: u64 = 64 << 20;
/// What is kept of prompts that were read, in bytes of samples: 4.6 hours.
const CACHE_BYTES: usize = 256 << 20;
/// Prompts that wait to be read, of all workers; more are refused.
const WAITING: usize = 1_024;

/// A prompt and its samples, none when it cannot be read.
pub type Loaded = (Text<64>, Option<Arc<[i16]>>);

/// What asks the thread for prompts. It ends when the last of these is gone.
#[derive(Clone, Debug)]
pub struct Loader(SyncSender<Wanted>);

struct Wanted {
    name: Text<64>,
    shelf: Arc<Shelf>,
}

/// Where the answers for one worker lie.
pub struct Shelf {
    answers: SegQueue<Loaded>,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl Shelf {
    /// A shelf whose owner is woken by `wake` when something is put there.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Arc<Shelf> {
        Arc::new(Shelf { answers: SegQueue::new(), wake: Box::new(wake) })
    }

    /// The next answer.
    pub fn take(&self) -> Option<Loaded> {
        self.answers.pop()
    }

    /// True when there is no answer.
    pub fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }

    /// Puts an answer there, and wakes the owner.
    pub fn put(&self, loaded: Loaded) {
        self.answers.push(loaded);
        (self.wake)();
    }
}

impl Loader {
    /// Starts the thread that reads the prompts in `directory`.
    pub fn start(directory: PathBuf) -> io::Result<Loader> {
        let (loader, wanted) = sync_channel(WAITING);
        let library = Library { directory, kept: HashMap::new(), kept_bytes: 0, turn: 0 };
        Builder::new().name("prompts".to_owned()).spawn(move || library.serve(&wanted))?;
        Ok(Loader(loader))
    }

    /// Asks for a prompt; the answer comes to `shelf`.
    pub fn load(&self, name: Text<64>, shelf: &Arc<Shelf>) {
        if self.0.try_send(Wanted { name, shelf: Arc::clone(shelf) }).is_err() {
            shelf.put((name, None));
        }
    }
}

struct Library {
    directory: PathBuf,
    kept: HashMap<Text<64>, Kept>,
    kept_bytes: usize,
    turn: u64,
}

struct Kept {
    /// What tells that the file is another one: time of its last change, length, inode.
    mark: (i64, i64, u64, u64),
    samples: Arc<[i16]>,
    used: u64,
}

#[derive(Debug)]
enum Unreadable {
    Name,
    NoFile,
    TooLong,
    Io(io::Error),
    Wav(WavError),
}

impl Library {
    fn serve(mut self, wanted: &Receiver<Wanted>) {
        for Wanted { name, shelf } in wanted {
            let samples = match self.read(name) {
                Ok(samples) => Some(samples),
                Err(error) => {
                    tracing::warn!(name = name.as_str(), %error, "a prompt cannot be read");
                    None
                }
            };
            shelf.put((name, samples));
        }
    }

    fn read(&mut self, name: Text<64>) -> Result<Arc<[i16]>, Unreadable> {
        let path = path(&self.directory, name).ok_or(Unreadable::Name)?;
        // A pipe with no writer must not hold the thread up.
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(path)?;
        let about = file.metadata()?;
        if !about.is_file() {
            return Err(Unreadable::NoFile);
        }
        if about.len() > FILE_BYTES {
            return Err(Unreadable::TooLong);
        }
        let mark = (about.mtime(), about.mtime_nsec(), about.len(), about.ino());
        self.turn += 1;
        if let Some(kept) = self.kept.get_mut(&name)
            && kept.mark == mark
        {
            kept.used = self.turn;
            return Ok(Arc::clone(&kept.samples));
        }
        let samples: Arc<[i16]> = decode(name, &mut file)?.into();
        self.keep(name, Kept { mark, samples: Arc::clone(&samples), used: self.turn });
        Ok(samples)
    }

    /// Keeps a prompt; those that were not used for the longest time make room.
    fn keep(&mut self, name: Text<64>, new: Kept) {
        let bytes = new.bytes();
        self.forget(name);
        while self.kept_bytes + bytes > CACHE_BYTES {
            let Some(oldest) = self.kept.iter().min_by_key(|(_, kept)| kept.used) else { return };
            self.forget(*oldest.0);
        }
        self.kept_bytes += bytes;
        self.kept.insert(name, new);
    }

    fn forget(&mut self, name: Text<64>) {
        if let Some(old) = self.kept.remove(&name) {
            self.kept_bytes -= old.bytes();
        }
    }
}

impl Kept {
    fn bytes(&self) -> usize {
        self.samples.len() * size_of::<i16>()
    }
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Unreadable::Name => write!(f, "a prompt's name is that of a file in the directory"),
            Unreadable::NoFile => write!(f, "it is no plain file"),
            Unreadable::TooLong => write!(f, "it is longer than {FILE_BYTES} bytes"),
            Unreadable::Io(error) => error.fmt(f),
            Unreadable::Wav(error) => write!(f, "{error:?}"),
        }
    }
}

impl From<io::Error> for Unreadable {
    fn from(error: io::Error) -> Self {
        Unreadable::Io(error)
    }
}

/// The file of a prompt, when its name is one: it neither leaves the directory nor is hidden in it.
fn path(directory: &Path, name: Text<64>) -> Option<PathBuf> {
    let name = std::str::from_utf8(name.as_bytes()).ok()?;
    let is_name = !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0']);
    is_name.then(|| directory.join(name))
}

fn decode(name: Text<64>, file: &mut File) -> Result<Vec<i16>, Unreadable> {
    let mut bytes = Vec::new();
    // A file that grows while it is read is not read without end.
    file.take(FILE_BYTES).read_to_end(&mut bytes)?;
    wav::read(name.as_str(), &bytes).map_err(Unreadable::Wav)
}

#[cfg(test)]
mod tests;
