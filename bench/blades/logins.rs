//! Logins at one AgentProxy that need no password hash: agents who come back with their tokens.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::site::{HTTP_PORT, Site, Spent, between};

/// Clients that ask at a time.
const CLIENTS: usize = 8;
/// Agents of each.
const AGENTS: usize = 4;
/// How long they do.
const TIME: Duration = Duration::from_secs(5);
const LIMIT: Duration = Duration::from_secs(20);

/// What came of it.
pub struct Outcome {
    /// Logins granted.
    pub granted: u32,
    /// In so long.
    pub time: Duration,
    /// How long one took: the median and the 99th percentile.
    pub took: [Duration; 2],
    /// CPU time of all processes.
    pub spent: Spent,
    /// A login by password took so long, one after the other: argon2id is most of it.
    pub by_password: Duration,
}

/// Agents log in by password, then again and again by token; each login is a request of its own, is placed by the
/// leader, ends the one before, wherever that is, and draws an epoch from the directory.
pub fn run(site: &Site) -> Result<Outcome, String> {
    let begun = Instant::now();
    let mut tokens = Vec::new();
    for number in (1001..).take(CLIENTS * AGENTS) {
        let body = json!({ "tenant": "demo", "agent": number.to_string(),
            "password": format!("demo-{number}"), "location": "local" });
        tokens.push(log_in(&body)?);
    }
    let by_password = begun.elapsed() / tokens.len().max(1) as u32;
    let (tell, heard) = mpsc::channel();
    let before = site.spent();
    let begun = Instant::now();
    let clients = tokens.chunks(AGENTS).map(|tokens| {
        let (mut tokens, tell) = (tokens.to_vec(), tell.clone());
        std::thread::spawn(move || {
            let mut turn = 0;
            while begun.elapsed() < TIME {
                let (count, asked) = (tokens.len(), Instant::now());
                let token = &mut tokens[turn % count];
                *token = log_in(&json!({ "token": token }))?;
                // Who counts waits until all are done.
                let _ = tell.send(asked.elapsed());
                turn += 1;
            }
            Ok::<_, String>(())
        })
    });
    let clients: Vec<_> = clients.collect();
    for client in clients {
        client.join().map_err(|_| "a client's thread ended".to_owned())??;
    }
    let (time, spent) = (begun.elapsed(), between(&before, &site.spent()));
    drop(tell);
    let mut took: Vec<Duration> = heard.into_iter().collect();
    took.sort_unstable();
    let took_of = |part| crate::bare::percentile(&took, part);
    let granted = u32::try_from(took.len()).unwrap_or(u32::MAX);
    Ok(Outcome { granted, time, took: [took_of(0.5), took_of(0.99)], spent, by_password })
}

/// The token of a login.
fn log_in(body: &Value) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("a login: {error}");
    let at = format!("127.0.0.1:{HTTP_PORT}");
    let mut stream = TcpStream::connect(&at).map_err(failed)?;
    stream.set_read_timeout(Some(LIMIT)).map_err(failed)?;
    let body = body.to_string();
    let request = format!(
        "POST /v1/login HTTP/1.1\r\nHost: {at}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).map_err(failed)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(failed)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let granted = serde_json::from_str::<Value>(body).ok().filter(|_| head.contains(" 200 "));
    let token = granted.and_then(|granted| granted["token"].as_str().map(str::to_owned));
    token.ok_or_else(|| format!("a login was answered {}", answer.replace(['\r', '\n'], " ")))
}
