//! A PostgreSQL of the tests' own, from Debian's package `postgresql`: a cluster in a folder for temporary
//! files, on a UNIX socket, that dies with the tests.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

/// How long a cluster may take to answer on a busy machine.
const START: Duration = Duration::from_secs(60);

/// A cluster; those who test at the same time share one.
pub struct Postgres {
    folder: tempfile::TempDir,
    programs: PathBuf,
    orders: mpsc::Sender<(Order, mpsc::Sender<()>)>,
    databases: AtomicU32,
}

enum Order {
    Kill,
    Start,
    Stop,
}

static SHARED: Mutex<Weak<Postgres>> = Mutex::new(Weak::new());

impl Postgres {
    /// The cluster that all share who have not dropped it.
    pub fn shared() -> Arc<Postgres> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let fresh = Arc::new(Postgres::start());
            *shared = Arc::downgrade(&fresh);
            fresh
        })
    }

    /// A cluster for one test alone, which may kill it.
    pub fn start() -> Postgres {
        Postgres::start_in(&std::env::temp_dir())
    }

    /// The same, with all its files below that folder.
    pub fn start_in(parent: &Path) -> Postgres {
        let programs = programs();
        let folder = tempfile::Builder::new().prefix("jackfield-pg-").tempdir_in(parent);
        let folder = folder.expect("a folder");
        let data = folder.path().join("data");
        std::fs::create_dir(&data).expect("a folder");
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("a mode");
        if is_root() {
            for path in [folder.path(), &data] {
                run(Command::new("chown").arg("postgres").arg(path));
            }
        }
        run(as_postgres(&programs.join("initdb"))
            .arg("-D")
            .arg(&data)
            // A collation that is not SQLite's, as real clusters have.
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync", "--locale=C.UTF-8"])
            .args(["--locale-provider=icu", "--icu-locale=en"]));
        let (orders, taken) = mpsc::channel();
        let keeper =
            Keeper { program: programs.join("postgres"), folder: folder.path().to_owned() };
        // The cluster dies with the thread that started it.
        std::thread::spawn(move || keeper.run(&taken));
        let cluster = Postgres { folder, programs, orders, databases: AtomicU32::new(0) };
        cluster.wait();
        cluster
    }

    /// The URL of a new, empty database.
    pub fn database(&self) -> String {
        let name = format!("t{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("CREATE DATABASE {name}"));
        self.url(&name)
    }

    /// The URL of the database of that name.
    pub fn url(&self, name: &str) -> String {
        format!("postgres://postgres@localhost/{name}?host={}", self.folder.path().display())
    }

    /// Says something to a database by psql.
    pub fn sql(&self, database: &str, text: &str) {
        run(self.psql(database).args(["-c", text]));
    }

    /// Kills every process of the cluster at once, as a power cut does.
    pub fn kill(&self) {
        self.order(Order::Kill);
    }

    /// Starts it again and waits until it answers.
    pub fn start_again(&self) {
        self.order(Order::Start);
        self.wait();
    }

    /// Starts it again if it does not answer.
    #[allow(dead_code, reason = "only who fills its disk needs it")]
    pub fn see_to_it(&self) {
        let mut ask = self.psql("postgres");
        ask.args(["-c", "CHECKPOINT"]).stdout(Stdio::null()).stderr(Stdio::null());
        if !ask.status().expect("psql runs").success() {
            self.kill();
            self.start_again();
        }
    }

    fn order(&self, order: Order) {
        let (done, answer) = mpsc::channel();
        self.orders.send((order, done)).expect("the keeper runs");
        answer.recv().expect("the keeper answers");
    }

    fn psql(&self, database: &str) -> Command {
        let mut psql = Command::new(self.programs.join("psql"));
        psql.arg("-h").arg(self.folder.path()).args(["-U", "postgres", "-q", "-d", database]);
        psql
    }

    fn wait(&self) {
        let begun = Instant::now();
        let mut ask = self.psql("postgres");
        ask.args(["-c", "SELECT 1"]).stdout(Stdio::null()).stderr(Stdio::null());
        while !ask.status().expect("psql runs").success() {
            assert!(begun.elapsed() < START, "PostgreSQL does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.order(Order::Stop);
    }
}

/// Starts and ends the cluster.
struct Keeper {
    program: PathBuf,
    folder: PathBuf,
}

impl Keeper {
    fn run(&self, orders: &mpsc::Receiver<(Order, mpsc::Sender<()>)>) {
        let mut child = Some(self.spawn());
        let stopped = loop {
            let Ok((order, done)) = orders.recv() else { break None };
            match order {
                Order::Start => child = Some(self.spawn()),
                Order::Kill => end(child.take(), Signal::KILL),
                Order::Stop => break Some(done),
            }
            let _ = done.send(());
        };
        // "Immediate Shutdown": no checkpoint, but shared memory is given back.
        end(child.take(), Signal::QUIT);
        if let Some(done) = stopped {
            let _ = done.send(());
        }
    }

    fn spawn(&self) -> Child {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if is_root() {
            command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]);
        }
        command.arg(&self.program).arg("-D").arg(self.folder.join("data"));
        command.arg("-k").arg(&self.folder);
        for setting in
            ["listen_addresses=", "fsync=off", "max_connections=60", "logging_collector=off"]
        {
            command.args(["-c", setting]);
        }
        let log = std::fs::File::create(self.folder.join("log")).expect("a log");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.spawn().expect("setpriv starts PostgreSQL")
    }
}

/// A signal for the postmaster, whose children end with it.
fn end(child: Option<Child>, signal: Signal) {
    let Some(mut child) = child else { return };
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a pid");
    let _ = rustix::process::kill_process(pid, signal);
    let _ = child.wait();
}

/// A command that runs as PostgreSQL's user; initdb refuses root.
fn as_postgres(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]).arg(program);
    command
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// Where the newest PostgreSQL of Debian's packages has its programs.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let found = versions.filter_map(|entry| {
        let path = entry.ok()?.path();
        let version: u32 = path.file_name()?.to_str()?.parse().ok()?;
        path.join("bin/initdb").exists().then(|| (version, path.join("bin")))
    });
    let newest = found.max().map(|(_, path)| path);
    newest.expect("PostgreSQL is not installed; apt-get install postgresql, or tools/test.sh")
}

fn run(command: &mut Command) {
    let done = command.stdin(Stdio::null()).output().expect("it starts");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{command:?}: {said}");
}
