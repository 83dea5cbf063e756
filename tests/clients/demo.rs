//! A running Jackfield with the demo's tenant.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::lab::{Host, Process, jackfield, run, signal, wait_for};

/// Control and a data plane, started by `jackfield demo` or one by one.
pub struct Demo {
    dir: tempfile::TempDir,
    pub process: Process,
}

impl Demo {
    /// `jackfield demo` with these flags, on a host of its own or on this one, running normally.
    pub fn start(host: Option<&Host>, flags: &[&str]) -> Demo {
        let dir = tempfile::tempdir().expect("a folder");
        let mut command =
            host.map_or_else(|| Command::new(jackfield()), |host| host.command(jackfield()));
        command.arg("demo").arg("--dir").arg(dir.path().join("demo")).args(flags);
        let process = Process::start(&mut command, dir.path(), "demo");
        let mut demo = Demo { dir, process };
        demo.expect_normal();
        demo
    }

    /// The folder of the test: logs, and the demo's own folder.
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    pub fn dir(&self) -> PathBuf {
        self.dir.path().join("demo")
    }

    pub fn expect_normal(&mut self) {
        let normal = wait_for(Duration::from_secs(60), || {
            assert!(self.process.is_running(), "the demo ended: {}", self.process.output());
            let status = self.status()?;
            (status["ccbs"][0]["status"] == "normal").then_some(())
        });
        assert!(normal.is_some(), "no CCB runs normally: {}", self.process.output());
    }

    /// What `jackfield WHAT --json` prints; None while it fails.
    pub fn ask(&self, what: &str) -> Option<Value> {
        let output =
            run(Command::new(jackfield()).arg(what).arg("--json").arg("--dir").arg(self.dir()));
        if !output.status.success() {
            return None;
        }
        serde_json::from_slice(&output.stdout).ok()
    }

    pub fn status(&self) -> Option<Value> {
        self.ask("status")
    }

    /// The lines of the call records, a line for each leg.
    pub fn records(&self) -> Vec<Value> {
        let Ok(folder) = std::fs::read_dir(self.dir().join("records")) else { return Vec::new() };
        let mut files: Vec<_> = folder.map(|file| file.expect("a file").path()).collect();
        files.sort();
        let text = files.iter().map(|file| std::fs::read_to_string(file).expect("text"));
        let text: String = text.collect();
        // A line that does not end yet is being written, or its writer was killed.
        let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        lines.map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// A counter's sum over the workers.
    pub fn counter(&self, name: &str) -> u64 {
        let status = self.status().expect("status answers");
        let value = &status["ccbs"][0]["counters"][name];
        value.as_u64().unwrap_or_else(|| panic!("no counter {name} in {status:#}"))
    }

    /// Waits until no call, port or lease is left.
    pub fn expect_all_free(&self) {
        let mut last = String::new();
        let free = wait_for(Duration::from_secs(40), || {
            let status = self.status()?;
            let counters = &status["ccbs"][0]["counters"];
            let left =
                ["calls_now", "ports_in_use", "leases_held"].map(|name| counters[name].as_u64());
            last = format!("calls, ports, leases: {left:?}");
            (left == [Some(0); 3]).then_some(())
        });
        assert!(free.is_some(), "something is left: {last}");
    }
}

impl Drop for Demo {
    /// A demo that is asked to stop removes its region, also after a test that failed.
    fn drop(&mut self) {
        if self.process.is_running() {
            signal(self.process.pid(), Signal::TERM);
            let _ = wait_for(Duration::from_secs(5), || (!self.process.is_running()).then_some(()));
        }
    }
}
