//! The binary as a user meets it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixListener;
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
    for tool in [&["status"][..], &["agents"], &["calls"], &["top"], &["call", "stop", "1.2"]] {
        let output = jackfield(&[tool, &["--dir", path(temp.path())]].concat());
        assert_eq!(output.status.code(), Some(1), "{tool:?}");
        assert!(stderr(&output).contains(path(temp.path())), "{tool:?}: {}", stderr(&output));
    }
}

/// A folder whose configuration names an admin socket, and that socket.
fn folder_of_control() -> (tempfile::TempDir, UnixListener) {
    let temp = tempfile::tempdir().unwrap();
    let dir = path(temp.path());
    let text = include_str!("../systemd/jackfield.toml")
        .replace("/run/jackfield/", &format!("{dir}/"))
        .replace("/dev/shm/jackfield-1", &format!("{dir}/region"));
    std::fs::write(temp.path().join("jackfield.toml"), text).unwrap();
    let listener = UnixListener::bind(temp.path().join("admin.sock")).unwrap();
    (temp, listener)
}

/// Answers one request; returns its first line and its body.
fn answer(listener: &UnixListener, status: u16, body: &str) -> (String, String) {
    let (mut stream, _) = listener.accept().unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut lines = Vec::new();
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
        lines.push(line.trim().to_owned());
    }
    let mut sent = vec![0; length];
    reader.read_exact(&mut sent).unwrap();
    let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all((head + body).as_bytes()).unwrap();
    (lines.remove(0), String::from_utf8(sent).unwrap())
}

#[test]
fn orders_for_a_call_reach_control_and_its_word_comes_back() {
    let (temp, listener) = folder_of_control();
    let not_found = r#"{"error":{"code":"not_found","message":"there is no such prompt"}}"#;
    let malformed = r#"{"error":{"code":"malformed","message":"name one","field":"ccb"}}"#;
    for (line, status, reply, request, part, code, printed) in [
        (
            "collect 9.4:1 --max 4 --end #",
            200,
            r#"{"digits":"42","cause":"ended"}"#,
            "POST /v1/calls/9.4/legs/1/orders HTTP/1.1",
            r##""ends":"#""##,
            0,
            "42",
        ),
        (
            "collect 9.4",
            200,
            r#"{"digits":"4","cause":"timeout"}"#,
            "POST /v1/calls/9.4/legs/0/orders HTTP/1.1",
            r#""first_ms":5000"#,
            5,
            "4",
        ),
        (
            "record 9.4",
            200,
            r#"{"recording":"77","result":"done"}"#,
            "POST /v1/calls/9.4/legs/0/orders HTTP/1.1",
            r#""order":"record""#,
            0,
            "77",
        ),
        (
            "record 9.4 --pause",
            200,
            r#"{"result":"done"}"#,
            "POST /v1/calls/9.4/legs/0/orders HTTP/1.1",
            r#""order":"pause_recording""#,
            0,
            "done",
        ),
        (
            "play 9.4 hi.wav --wait",
            200,
            r#"{"result":"stopped"}"#,
            "POST /v1/calls/9.4/legs/0/orders HTTP/1.1",
            r#""wait":true"#,
            5,
            "hi.wav was stopped",
        ),
        (
            "play 9.4 no.wav",
            404,
            not_found,
            "POST /v1/calls/9.4/legs/0/orders HTTP/1.1",
            r#""prompt":"no.wav""#,
            4,
            "no such prompt",
        ),
        (
            "mix 9.4 1 --role whisper --to 8.1:1 --ccb 2",
            200,
            r#"{"result":"done"}"#,
            "POST /v1/calls/9.4/legs/0/orders?ccb=2 HTTP/1.1",
            r#""to":"8.1""#,
            0,
            "done",
        ),
        (
            "leave 9.4",
            400,
            malformed,
            "POST /v1/calls/9.4/legs/0/orders HTTP/1.1",
            "leave_mix",
            1,
            "ccb: name one",
        ),
        (
            "hang-up 9.4",
            200,
            r#"{"released":"9.4"}"#,
            "POST /v1/calls/9.4/release HTTP/1.1",
            "{}",
            0,
            "9.4 is over",
        ),
    ] {
        let mut arguments: Vec<&str> = vec!["call"];
        arguments.extend(line.split(' '));
        arguments.extend(["--dir", path(temp.path())]);
        let (seen, output) = std::thread::scope(|scope| {
            let asked = scope.spawn(|| answer(&listener, status, reply));
            let output = jackfield(&arguments);
            (asked.join().unwrap(), output)
        });
        assert_eq!(seen.0, request, "{line}");
        assert!(seen.1.contains(part), "{line}: {}", seen.1);
        assert_eq!(output.status.code(), Some(code), "{line}: {}", stderr(&output));
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &stderr(&output);
        assert!(text.contains(printed), "{line}: {text}");
    }
    drop(listener);
    let output = jackfield(&["call", "stop", "1.2", "--dir", path(temp.path())]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
}

/// A control process without a data plane; it dies with this.
struct Control {
    folder: tempfile::TempDir,
    process: std::process::Child,
}

impl Control {
    fn start() -> Control {
        let folder = tempfile::tempdir().unwrap();
        let dir = path(folder.path());
        let http = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let text = include_str!("../systemd/jackfield.toml")
            .replace("127.0.0.1:8080", &http.to_string())
            .replace("/run/jackfield/", &format!("{dir}/"))
            .replace("/run/jackfield-ccb-1/", &format!("{dir}/"))
            .replace("/var/lib/jackfield", dir)
            .replace("/var/spool/jackfield-ccb-1", &format!("{dir}/spool"))
            .replace("/dev/shm/jackfield-1", &format!("{dir}/region"));
        let file = folder.path().join("jackfield.toml");
        std::fs::write(&file, text).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_jackfield"));
        command.args(["control", "--config", path(&file)]).stderr(log.try_clone().unwrap());
        let process = command.stdout(log).spawn().unwrap();
        let control = Control { folder, process };
        let begun = std::time::Instant::now();
        while !control.tool(&["status"]).status.success() {
            let log = std::fs::read_to_string(control.folder.path().join("log")).unwrap();
            assert!(begun.elapsed() < std::time::Duration::from_secs(30), "{log}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        control
    }

    fn tool(&self, arguments: &[&str]) -> Output {
        jackfield(&[arguments, &["--dir", path(self.folder.path())]].concat())
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_directory_goes_into_files_and_comes_back() {
    let control = Control::start();
    let files = tempfile::tempdir().unwrap();
    let file = |name: &str| path(&files.path().join(name)).to_owned();
    let good = file("good.toml");
    let text = "[[tenant]]\nname = \"acme\"\nrealm = \"acme.example\"\n\n\
                [[agent]]\ntenant = \"acme\"\nagent = \"7\"\noperator = \"op7\"\n\
                number = \"70\"\nname = \"Grace\"\npassword = \"hunter2\"\n";
    std::fs::write(&good, text).unwrap();
    let said = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();

    let checked = control.tool(&["directory", "import", &good, "--check"]);
    assert!(said(&checked).ends_with("2 would be changed\n"), "{checked:?}");
    let done = control.tool(&["directory", "import", &good]);
    assert!(done.status.success(), "{done:?}");
    let expected = "added tenant acme\nadded agent acme/7\n\
                    agent    1 added, 0 changed, 0 removed, 0 as before\n\
                    tenant   1 added, 0 changed, 0 removed, 0 as before\n2 changed\n";
    assert_eq!(said(&done), expected);

    let printed = control.tool(&["directory", "export"]);
    assert!(said(&printed).contains("operator = \"op7\""), "{printed:?}");
    assert!(!said(&printed).contains("argon2"), "{printed:?}");
    let table = control.tool(&["directory", "export", "--format", "csv", "--table", "tenants"]);
    let tenants = "name,realm,default_location,hold_music,srtp\nacme,acme.example,,,\n";
    assert_eq!(said(&table), tenants);
    let folder = file("csv");
    let saved =
        control.tool(&["directory", "export", "--format", "csv", "--with-secrets", "-o", &folder]);
    assert!(saved.status.success(), "{saved:?}");
    let agents = std::fs::read_to_string(Path::new(&folder).join("agents.csv")).unwrap();
    assert!(agents.contains("$argon2id$"), "{agents}");
    let again = control.tool(&["directory", "import", &folder, "--prune"]);
    assert!(said(&again).ends_with("\n0 changed\n"), "{again:?}");

    let wrong = file("wrong.toml");
    std::fs::write(&wrong, text.replace("number = \"70\"", "number = \"7 0\"\nshoe = 44")).unwrap();
    let refused = control.tool(&["directory", "import", &wrong]);
    assert_eq!(refused.status.code(), Some(1));
    let expected = format!("{wrong}:5: agent.number: must be 1 to 24 of the letters");
    assert!(stderr(&refused).contains(&expected), "{refused:?}");
    assert!(
        stderr(&refused).contains(&format!("{wrong}:10: agent.shoe: unknown field")),
        "{refused:?}"
    );
    assert!(stderr(&refused).ends_with("2 faults; nothing was changed\n"), "{refused:?}");
    let missing = control.tool(&["directory", "export", "--tenant", "nobody"]);
    assert_eq!(missing.status.code(), Some(4), "{missing:?}");
    let log = std::fs::read_to_string(control.folder.path().join("log")).unwrap();
    assert!(!log.contains("hunter2"), "{log}");
}
