//! Debian's SIPp as a crowd of phones.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::lab::Process;

/// A running SIPp.
pub struct Sipp {
    process: Process,
    name: String,
}

/// One of SIPp's phones: its user, its secret, whom it calls.
pub type Line = [String; 3];

impl Sipp {
    /// Plays `tests/data/sipp/NAME.xml` against `peer` from `port`, as often as there are lines.
    pub fn start(
        name: &str,
        peer: &str,
        port: u16,
        lines: &[Line],
        flags: &[&str],
        folder: &Path,
    ) -> Sipp {
        Sipp::start_at("127.0.0.1", name, peer, port, lines, flags, folder)
    }

    /// The same from another address of this machine.
    pub fn start_at(
        ip: &str,
        name: &str,
        peer: &str,
        port: u16,
        lines: &[Line],
        flags: &[&str],
        folder: &Path,
    ) -> Sipp {
        let scenario = folder.join(format!("{name}.xml"));
        let source =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("data/sipp").join(format!("{name}.xml"));
        let text = fs::read_to_string(&source)
            .unwrap_or_else(|error| panic!("{}: {error}", source.display()));
        let text = text.replace("TONE", &tone(folder).to_string_lossy());
        fs::write(&scenario, text).expect("written");
        let mut command = Command::new("sipp");
        command.arg(peer).args(["-i", ip, "-p", &port.to_string(), "-m", &lines.len().to_string()]);
        command
            .args(["-nostdin", "-trace_err", "-error_file"])
            .arg(folder.join(format!("{name}-{port}.err")));
        command.args(["-timeout", "120", "-timeout_error", "-sf"]).arg(&scenario);
        if name != "callee" {
            let mut table = String::from("SEQUENTIAL\n");
            for [user, secret, number] in lines {
                let proof = format!("[authentication username={user} password={secret}]");
                writeln!(table, "{user};{proof};{number}").expect("a String takes all");
            }
            let file = folder.join(format!("{name}-{port}.csv"));
            fs::write(&file, table).expect("written");
            command.arg("-inf").arg(file);
        }
        command.args(flags);
        let process = Process::start(&mut command, folder, &format!("sipp-{name}-{port}"));
        Sipp { process, name: format!("{name}-{port}") }
    }

    /// SIPp's exit code is 0 when every call went by the book.
    pub fn expect_success(&mut self, folder: &Path) {
        let code = self.process.wait(Duration::from_secs(130));
        let errors =
            fs::read_to_string(folder.join(format!("{}.err", self.name))).unwrap_or_default();
        let output = self.process.output();
        let tail = output
            .chars()
            .rev()
            .take(3_000)
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .collect::<String>();
        assert_eq!(
            code,
            0,
            "sipp {}: {}\n{tail}",
            self.name,
            errors.chars().take(3_000).collect::<String>()
        );
    }
}

impl Sipp {
    /// SIPp gave up because of this answer.
    pub fn expect_failure(&mut self, status: &str) {
        assert_eq!(self.process.wait(Duration::from_secs(30)), 1, "{}", self.process.output());
        let wanted = format!("received 'SIP/2.0 {status} ");
        assert!(self.process.output().contains(&wanted), "{}", self.process.output());
    }
}

/// A second of silence in u-law.
fn tone(folder: &Path) -> PathBuf {
    let file = folder.join("silence.ulaw");
    fs::write(&file, vec![0xff; 8_000]).expect("written");
    file
}
