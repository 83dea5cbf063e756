//! `jackfield load` that makes calls, measured from the first call to the last.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What came of a load.
#[derive(Debug)]
pub struct Done<T> {
    /// The table that it printed.
    pub text: String,
    /// What it said of what went wrong.
    pub said: String,
    /// What was read when the calls began and when they had ended.
    pub read: [T; 2],
    /// How long the calls took.
    pub time: Duration,
}

/// Runs that load with `--progress`, its table into `file`. `read` is given its process id when the calls begin and when they
/// have ended. After `limit` it is killed with the next line that it says; it has an end of its own.
pub fn run<T>(
    command: &mut Command,
    file: &Path,
    limit: Duration,
    mut read: impl FnMut(u32) -> T,
) -> Result<Done<T>, String> {
    let failed = |error: std::io::Error| format!("jackfield load: {error}");
    command.stdin(Stdio::null()).stdout(File::create(file).map_err(failed)?);
    let mut child = command.arg("--progress").stderr(Stdio::piped()).spawn().map_err(failed)?;
    let end = Instant::now() + limit;
    let (mut begun, mut ended, mut said) = (None, None, String::new());
    for line in BufReader::new(child.stderr.take().ok_or("no pipe")?).lines() {
        let line = line.map_err(failed)?;
        match line.as_str() {
            "calls begin" => begun = Some((read(child.id()), Instant::now())),
            "calls ended" => ended = Some((read(child.id()), Instant::now())),
            other => said += other,
        }
        if Instant::now() > end {
            let _ = child.kill();
            break;
        }
    }
    child.wait().map_err(failed)?;
    let text = std::fs::read_to_string(file).map_err(failed)?;
    let Some(((before, begun), (after, ended))) = begun.zip(ended) else {
        return Err(format!("a load failed: {said} {text}"));
    };
    Ok(Done { text, said, read: [before, after], time: ended.duration_since(begun) })
}
