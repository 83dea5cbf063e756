//! What the comparisons account and write down: CPU time of processes, and a table in RESULTS.md.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The time on a CPU of all threads of processes and of what they started.
pub fn cpu(pids: &[u32]) -> Duration {
    tree(pids).into_iter().map(own_cpu).sum()
}

/// The time on a CPU of all threads of one process.
pub fn own_cpu(pid: u32) -> Duration {
    let first = |text: String| text.split_whitespace().next().and_then(|word| word.parse().ok());
    let spent = |task: std::fs::DirEntry| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        first(text).unwrap_or(0_u64)
    };
    Duration::from_nanos(tasks(pid).map(spent).sum())
}

/// Processes and all that they started.
pub fn tree(pids: &[u32]) -> Vec<u32> {
    let mut all = Vec::new();
    let mut waiting = pids.to_vec();
    while let Some(pid) = waiting.pop() {
        for task in tasks(pid) {
            let text = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            waiting.extend(text.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
        all.push(pid);
    }
    all
}

fn tasks(pid: u32) -> impl Iterator<Item = std::fs::DirEntry> {
    std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten()
}

/// The day, the commit, and what else runs.
pub fn origin() -> String {
    let say = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output();
        output
            .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
            .unwrap_or_default()
    };
    let day = say("date", &["+%F"]);
    let commit = say("git", &["-C", env!("CARGO_MANIFEST_DIR"), "rev-parse", "--short", "HEAD"]);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!("{day}, {commit}, load average {}", load.split_whitespace().next().unwrap_or("?"))
}

/// Adds a table to RESULTS.md of the sources that this program was built from.
pub fn append(text: &str) -> Result<(), String> {
    let file: &Path = &PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("RESULTS.md");
    let failed = |error: std::io::Error| format!("{}: {error}", file.display());
    let mut results = std::fs::read_to_string(file).map_err(failed)?;
    results.push('\n');
    results.push_str(text);
    std::fs::write(file, results).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_time_and_our_children_are_found() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep runs");
        let own = std::process::id();
        assert!(tree(&[own]).contains(&child.id()));
        let before = own_cpu(own);
        let mut sum = 0_u64;
        while own_cpu(own) < before + Duration::from_millis(20) {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(cpu(&[own]) >= own_cpu(child.id()));
        child.kill().and_then(|()| child.wait()).expect("it ends");
    }
}
