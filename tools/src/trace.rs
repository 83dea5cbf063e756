//! `trace`: live signalling as a ladder. Control asks the data planes for copies of the messages, which
//! come to a UDP port of this tool as HEP3.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};
use sip::hep::Capture;
use sip::wire;
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use crate::cli;
use crate::config::Config;
use crate::http::{self, HttpError, Server};
use crate::order::fault;
use crate::place;
use crate::process::StopSignals;
use crate::show::{CONTROL_AWAY, say};

mod ladder;
mod message;

use ladder::Ladder;
use message::Shown;

/// There is no such call.
const NOT_FOUND: u8 = 4;
/// The longest HEP3 packet.
const PACKET_BYTES: usize = 65_535;
/// What the kernel keeps of a burst for us.
const BURST_BYTES: usize = 4 << 20;
/// What is under way when the time is up still comes.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// The width of a page that is not on a terminal.
const PAGE_COLUMNS: usize = 200;

/// Shows signalling until the time is up or somebody stops it.
pub fn run(options: &cli::Trace) -> Result<ExitCode, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    runtime.block_on(trace(options))
}

async fn trace(options: &cli::Trace) -> Result<ExitCode, String> {
    let config = place::find(&options.at)?;
    let admin = Server::Unix(config.control.admin.clone());
    let mut signals = StopSignals::new().map_err(|error| format!("signals: {error}"))?;
    let socket = UdpSocket::bind(options.to).await;
    let socket = socket.map_err(|error| format!("{}: {error}", options.to))?;
    // As much as the kernel allows.
    let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, BURST_BYTES);
    let to = socket.local_addr().map_err(|error| error.to_string())?;
    let body = json!({
        "to": to, "seconds": options.seconds, "call": options.call, "number": options.number,
    });
    let answer = match http::post(&admin, "/v1/traces", &body).await {
        Ok(answer) => answer,
        Err(HttpError::Away(error)) => {
            eprintln!("jackfield: control at {admin} is away: {error}");
            return Ok(ExitCode::from(CONTROL_AWAY));
        }
        Err(HttpError::Broken(why)) => return Err(format!("control at {admin}: {why}")),
    };
    let value = answer.json().map_err(|why| format!("control at {admin}: {why}"))?;
    if !(200..300).contains(&answer.status) {
        eprintln!("jackfield: {}", fault(&value));
        return Ok(if answer.status == 404 { NOT_FOUND.into() } else { ExitCode::FAILURE });
    }
    // Scripts wait for this line before they make the call.
    eprintln!("jackfield: tracing for {} s; Ctrl-C ends it", options.seconds);
    let shown = tokio::select! {
        shown = show(options, &config, &socket) => shown,
        () = signals.next() => Ok(()),
    };
    // It would end by itself; nobody is left to see it.
    let _ = http::delete(&admin, &format!("/v1/traces/{}", value["trace"])).await;
    shown.map(|()| ExitCode::SUCCESS)
}

async fn show(options: &cli::Trace, config: &Config, socket: &UdpSocket) -> Result<(), String> {
    let end = Instant::now() + Duration::from_secs(options.seconds) + LAST_WORDS;
    let is_terminal = std::io::stdout().is_terminal();
    let columns = match ratatui::crossterm::terminal::size() {
        Ok((columns, _)) if is_terminal && columns > 0 => usize::from(columns),
        _ => PAGE_COLUMNS,
    };
    let is_one = options.call.is_some();
    let mut ladder = Ladder::new(own_addresses(config), columns, is_terminal, !is_one);
    let mut packet = vec![0; PACKET_BYTES];
    loop {
        let length = match timeout_at(end, socket.recv(&mut packet)).await {
            Err(_) => return Ok(()),
            Ok(Ok(length)) => length,
            Ok(Err(error)) => return Err(format!("receiving: {error}")),
        };
        // Anybody on this machine may send to the port; what is no copy is not shown.
        let Ok(capture) = Capture::decode(&packet[..length]) else { continue };
        let Ok(message) = wire::lex(capture.payload) else { continue };
        let shown = Shown::new(&capture, &message);
        match options.json {
            true => say(&shown.json().to_string())?,
            false => {
                for line in ladder.rows(&shown) {
                    say(&line)?;
                }
            }
        }
    }
}

/// The SIP addresses of the CCBs, and what a ladder calls them.
fn own_addresses(config: &Config) -> Vec<(SocketAddr, String)> {
    let ccbs = config.ccbs.iter().flat_map(|ccb| {
        let name = format!("CCB {}", ccb.number);
        ccb.locations.iter().map(move |at| (SocketAddr::new(at.ip, at.sip_port), name.clone()))
    });
    ccbs.collect()
}

/// A text for JSON, whatever bytes it has.
fn lossy(bytes: &[u8]) -> Value {
    String::from_utf8_lossy(bytes).into_owned().into()
}
