//! The binary as a user meets it.

use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Command, Output};

fn jackfield(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_jackfield")).args(arguments).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn the_example_configuration_is_good() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/jackfield.toml");
    let output = jackfield(&["config", "check", path(&example)]);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("location local: SIP udp 127.0.0.1:5060"), "{text}");
}

#[test]
fn config_check_names_every_fault_and_fails() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("bad.toml");
    std::fs::write(&file, "[control]\nhttp = \"here\"\nadmin = \"a\"\n[[ccb]]\nnumber = 0\n")
        .unwrap();
    let output = jackfield(&["config", "check", path(&file)]);
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    let name = path(&file);
    for expected in [
        format!("{name}:2: control.http: \"here\" must be ADDRESS:PORT"),
        format!("{name}:3: control.admin: \"a\" must be an absolute path of at most 103 bytes"),
        format!("{name}:5: ccb[0].number: must be a whole number in 1..=65535"),
        format!("{name}:4: ccb[0].cores: must be there"),
    ] {
        assert!(text.contains(&expected), "{expected}\n{text}");
    }
    let missing = jackfield(&["dataplane", "--config", "/nowhere/jackfield.toml"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(stderr(&missing).contains("/nowhere/jackfield.toml"));
}

#[test]
fn a_demo_names_the_port_that_is_in_use() {
    let temp = tempfile::tempdir().unwrap();
    let http = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = http.local_addr().unwrap().port().to_string();
    let dir = path(temp.path());
    // Away from the ports that the kernel chooses for the sockets below.
    let demo = |flags: &[&str]| {
        let common = ["demo", "--dir", dir, "--rtp-ports", "2000-2100"];
        jackfield(&[&common[..], flags].concat())
    };
    let output = demo(&["--http", &port, "--sip", "9"]);
    assert_eq!(output.status.code(), Some(1));
    let expected = format!("TCP port {port} at 127.0.0.1 is in use; choose another with --http");
    assert!(stderr(&output).contains(&expected), "{}", stderr(&output));
    drop(http);

    let sip = UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = sip.local_addr().unwrap().port().to_string();
    let output = demo(&["--http", &port, "--sip", &taken]);
    let expected = format!("UDP port {taken} at 127.0.0.1 is in use; choose another with --sip");
    assert!(stderr(&output).contains(&expected), "{}", stderr(&output));

    drop(sip);

    let far = "far=203.0.113.77";
    let output = demo(&["--http", &port, "--sip", &taken, "--location", far]);
    assert!(stderr(&output).contains("203.0.113.77 is no address of this machine"));

    for (flags, expected) in [
        (["--trunk", "10.0.0.0/8", "--trunk", "10.0.0.0/8"], "--trunk 10.0.0.0/8: that trunk"),
        (
            ["--route", "9=127.0.0.1:5080", "--route", "9=127.0.0.1:5081"],
            "--route 9=127.0.0.1:5081: that prefix",
        ),
    ] {
        let output = demo(&flags);
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    }
    let output = demo(&["--bind", "0.0.0.0"]);
    assert!(stderr(&output).contains("for '--bind <IP>'"), "{}", stderr(&output));
    let long = temp.path().join("x".repeat(100));
    let output = jackfield(&["demo", "--dir", path(&long)]);
    assert!(stderr(&output).contains("--dir ") && !long.exists(), "{}", stderr(&output));

    let output = demo(&["--http", &port, "--sip", "2050"]);
    assert!(stderr(&output).contains("--sip 2050 lies within --rtp-ports 2000-2100"));
}

#[test]
fn tools_say_where_they_looked() {
    let temp = tempfile::tempdir().unwrap();
    for tool in ["status", "agents", "calls", "top"] {
        let output = jackfield(&[tool, "--dir", path(temp.path())]);
        assert_eq!(output.status.code(), Some(1), "{tool}");
        assert!(stderr(&output).contains(path(temp.path())), "{tool}: {}", stderr(&output));
    }
}
