//! Where a Jackfield keeps its files, and how the tools find it.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use crate::cli::Where;
use crate::config::Config;

/// The file's name in every folder that the tools look at.
pub const CONFIG_FILE: &str = "jackfield.toml";
/// The file in a demo's folder that is locked while the demo runs.
const LOCK_FILE: &str = "lock";
/// How often a claim is tried: a tool that looks whether a demo runs holds the lock for a moment.
const CLAIMS: u32 = 5;
/// The pause between two of them.
const CLAIM_PAUSE: Duration = Duration::from_millis(10);
/// Where Jackfields pin what XDP is to keep when they die.
const PINS: &str = "/sys/fs/bpf/jackfield";
/// Where an installed Jackfield has it.
const INSTALLED: &str = "/etc/jackfield";

/// The demo's folder when the user names none.
pub fn demo_dir() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| Path::new(dir).is_dir()) {
        Some(dir) => PathBuf::from(dir).join("jackfield-demo"),
        None => {
            let uid = rustix::process::getuid().as_raw();
            std::env::temp_dir().join(format!("jackfield-demo-{uid}"))
        }
    }
}

/// The configuration of the Jackfield that the user means.
pub fn find(at: &Where) -> Result<Config, String> {
    let load = |dir: &Path| {
        let file = dir.join(CONFIG_FILE);
        file.exists().then(|| Config::load(&file))
    };
    if let Some(dir) = &at.dir {
        let missing = || Err(format!("no {CONFIG_FILE} in {}", dir.display()));
        return load(dir).unwrap_or_else(missing);
    }
    let demo = demo_dir();
    let found = is_claimed(&demo).then(|| load(&demo)).flatten();
    found.or_else(|| load(Path::new(INSTALLED))).unwrap_or_else(|| {
        Err(format!(
            "no demo runs in {} and there is no {CONFIG_FILE} in {INSTALLED}; name the folder with \
             --dir",
            demo.display()
        ))
    })
}

/// True while a demo has that folder; what is left of one that ended says nothing of now.
fn is_claimed(dir: &Path) -> bool {
    let lock = File::open(dir.join(LOCK_FILE));
    lock.is_ok_and(|lock| flock(&lock, FlockOperation::NonBlockingLockShared).is_err())
}

/// A demo's folder, locked for as long as this lives.
pub struct DemoDir {
    path: PathBuf,
    _lock: File,
}

impl DemoDir {
    /// Makes the folder with mode 0700 and takes its lock, or says who has it.
    pub fn claim(path: &Path) -> Result<DemoDir, String> {
        let shown = path.display();
        let say = |what: &str, error: std::io::Error| format!("{shown}: {what}: {error}");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|error| say("cannot make the folder", error))?;
        let path = path.canonicalize().map_err(|error| say("cannot resolve", error))?;
        let meta = fs::metadata(&path).map_err(|error| say("cannot look at it", error))?;
        if meta.uid() != rustix::process::getuid().as_raw() {
            return Err(format!("{shown}: belongs to another user; name a folder with --dir"));
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700))
            .map_err(|error| say("cannot set mode 0700", error))?;
        let mut lock = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path.join(LOCK_FILE))
            .map_err(|error| say("cannot open its lock", error))?;
        let claim = |attempt: u32| {
            if attempt > 0 {
                std::thread::sleep(CLAIM_PAUSE);
            }
            flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok()
        };
        if !(0..CLAIMS).any(claim) {
            let mut owner = String::new();
            let _ = lock.read_to_string(&mut owner);
            return Err(format!(
                "{shown}: a demo with pid {} runs there already; stop it, or name another folder \
                 with --dir",
                owner.trim()
            ));
        }
        lock.set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .map_err(|error| say("cannot write its lock", error))?;
        Ok(DemoDir { path, _lock: lock })
    }

    /// The folder, without symbolic links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file in the folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The file of the demo's region: in memory, under a name that no other folder's demo has.
    pub fn region(&self) -> PathBuf {
        let shm = Path::new("/dev/shm");
        let name = format!("jackfield-demo-{:016x}", self.hash());
        if shm.is_dir() { shm.join(name) } else { self.path.join("region") }
    }

    /// The folder of the demo's XDP pins: beside those of the CCBs that are installed, under a name that
    /// the next demo of this folder finds again.
    pub fn pins(&self) -> PathBuf {
        PathBuf::from(format!("{PINS}/demo-{:08x}", self.hash() as u32))
    }

    fn hash(&self) -> u64 {
        fnv1a(self.path.as_os_str().as_encoded_bytes())
    }
}

/// FNV-1a: the same name for the same folder in every version of the program.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_claimed_once() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("deep/demo");
        let dir = DemoDir::claim(&path).unwrap();
        assert_eq!(fs::metadata(dir.path()).unwrap().permissions().mode() & 0o777, 0o700);
        let error = DemoDir::claim(&path).map(|_| ()).unwrap_err();
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
        assert!(is_claimed(dir.path()));
        drop(dir);
        assert!(!is_claimed(&path));
        assert!(DemoDir::claim(&path).is_ok());
    }

    #[test]
    fn two_folders_have_two_regions_and_pins() {
        let temp = tempfile::tempdir().unwrap();
        let one = DemoDir::claim(&temp.path().join("one")).unwrap();
        let two = DemoDir::claim(&temp.path().join("two")).unwrap();
        assert_ne!(one.region(), two.region());
        assert_ne!(one.pins(), two.pins());
        assert!(one.pins().starts_with(format!("{PINS}/")));
        let pins = one.pins();
        drop(one);
        let again = DemoDir::claim(&temp.path().join("one")).unwrap();
        assert_eq!(again.pins(), pins, "a killed demo's are found again");
    }

    #[test]
    fn a_folder_without_a_configuration_is_named() {
        let temp = tempfile::tempdir().unwrap();
        let error = find(&Where { dir: Some(temp.path().into()) }).unwrap_err();
        assert!(error.contains(&temp.path().display().to_string()), "{error}");
    }
}
