//! `call ...`: asks control for something that concerns a call.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use crate::admin::text;
use crate::cli::{CallCommand, Leg, To, Transfer, Where};
use crate::http::{self, Answer, HttpError, Server};
use crate::place;
use crate::show::{CONTROL_AWAY, say};

/// There is no such call, leg or prompt.
const NOT_FOUND: u8 = 4;
/// It was stopped before its end, or digits did not come in time.
const CUT_SHORT: u8 = 5;
/// How long control may take beyond what the order itself takes.
const ANSWER: Duration = Duration::from_secs(15);

/// A request to control.
struct Request<'a> {
    to: &'a To,
    path: String,
    body: Value,
    limit: Duration,
}

/// Asks for it and prints what became of it.
pub fn run(command: &CallCommand) -> Result<ExitCode, String> {
    let request = request(command);
    let config = place::find(&request.to.at)?;
    let admin = Server::Unix(config.control.admin.clone());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let Request { to, path, body, limit } = request;
    let asked = runtime.block_on(http::post_for(&admin, &path, &body, limit));
    let value = match heard(&admin, asked)? {
        Heard::Value(value) => value,
        Heard::Exit(code) => return Ok(code),
    };
    match to.json {
        true => say(&value.to_string())?,
        false => say(&words(command, &value))?,
    }
    let short = value["result"] == "stopped"
        || ["timeout", "stopped"].iter().any(|cause| value["cause"] == *cause);
    Ok(if short { CUT_SHORT.into() } else { ExitCode::SUCCESS })
}

/// Asks control at a path, with a body to be posted or none, and prints what it says.
pub fn ask(
    at: &Where,
    is_json: bool,
    path: &str,
    body: Option<Value>,
    words: impl FnOnce(&Value) -> String,
) -> Result<ExitCode, String> {
    let admin = Server::Unix(place::find(at)?.control.admin.clone());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let asked = match &body {
        Some(body) => runtime.block_on(http::post_for(&admin, path, body, ANSWER)),
        None => runtime.block_on(http::get(&admin, path)),
    };
    match heard(&admin, asked)? {
        Heard::Value(value) => {
            say(&if is_json { value.to_string() } else { words(&value) })?;
            Ok(ExitCode::SUCCESS)
        }
        Heard::Exit(code) => Ok(code),
    }
}

/// What control said, or how the program ends without it.
pub enum Heard {
    /// It said this.
    Value(Value),
    /// It said no, or nothing; the user was told.
    Exit(ExitCode),
}

/// What became of a request.
pub fn heard(admin: &Server, asked: Result<Answer, HttpError>) -> Result<Heard, String> {
    let answer = match asked {
        Ok(answer) => answer,
        Err(HttpError::Away(error)) => {
            eprintln!("jackfield: control at {admin} is away: {error}");
            return Ok(Heard::Exit(ExitCode::from(CONTROL_AWAY)));
        }
        Err(HttpError::Broken(why)) => return Err(format!("control at {admin}: {why}")),
    };
    let value = answer.json().map_err(|why| format!("control at {admin}: {why}"))?;
    if (200..300).contains(&answer.status) {
        return Ok(Heard::Value(value));
    }
    eprintln!("jackfield: {}", fault(&value));
    let code = if answer.status == 404 { NOT_FOUND.into() } else { ExitCode::FAILURE };
    Ok(Heard::Exit(code))
}

fn request(command: &CallCommand) -> Request<'_> {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let on = |leg: &Leg, to, body| Request {
        path: format!("/v1/calls/{}/legs/{}/orders{}", leg.call(), leg.leg, on_ccb(to)),
        to,
        body,
        limit: ANSWER,
    };
    match command {
        CallCommand::Play(play) => {
            let (prompt, times, wait) = (&play.name, play.times, play.wait);
            let body = json!({"order": "play", "prompt": prompt, "times": times, "wait": wait});
            let request = on(&play.leg, &play.to, body);
            // It lasts as long as it lasts.
            Request { limit: if wait { Duration::MAX } else { ANSWER }, ..request }
        }
        CallCommand::Stop(stop) => on(&stop.leg, &stop.to, json!({"order": "stop_playing"})),
        CallCommand::Collect(collect) => {
            let body = json!({
                "order": "collect",
                "max": collect.max,
                "first_ms": ms(collect.first),
                "next_ms": ms(collect.next),
                "ends": collect.end,
                "barge_in": collect.barge_in,
            });
            let limit = collect.first + collect.next * u32::from(collect.max) + ANSWER;
            Request { limit, ..on(&collect.leg, &collect.to, body) }
        }
        CallCommand::Record(record) => {
            let order = match (record.pause, record.resume, record.stop) {
                (true, ..) => "pause_recording",
                (_, true, _) => "resume_recording",
                (_, _, true) => "stop_recording",
                _ => "record",
            };
            on(&record.leg, &record.to, json!({ "order": order }))
        }
        CallCommand::Mix(mix) => {
            let (number, role) = (mix.mix, mix.role.name());
            let mut body = json!({"order": "mix", "mix": number, "role": role});
            if let Some(listener) = &mix.listener {
                body["to"] = listener.call().into();
                body["to_leg"] = listener.leg.into();
            }
            on(&mix.leg, &mix.to, body)
        }
        CallCommand::Leave(leave) => on(&leave.leg, &leave.to, json!({"order": "leave_mix"})),
        CallCommand::Transfer(transfer) => {
            let Transfer { leg, number, to } = transfer;
            let path = format!("/v1/calls/{}/legs/{}/transfer{}", leg.call(), leg.leg, on_ccb(to));
            Request { to, path, body: json!({ "to": number }), limit: ANSWER }
        }
        CallCommand::Dial(dial) => {
            let (tenant, from, number) = (&dial.tenant, &dial.from, &dial.number);
            let body = json!({ "tenant": tenant, "from": from, "to": number });
            Request { to: &dial.to, path: "/v1/calls".into(), body, limit: ANSWER }
        }
        CallCommand::HangUp(end) => {
            let call = end.call.call();
            let path = match end.to.ccb {
                Some(ccb) => format!("/v1/ccbs/{ccb}/calls/{call}/release"),
                None => format!("/v1/calls/{call}/release"),
            };
            Request { to: &end.to, path, body: json!({}), limit: ANSWER }
        }
    }
}

fn on_ccb(to: &To) -> String {
    to.ccb.map_or(String::new(), |ccb| format!("?ccb={ccb}"))
}

/// What control did, for people. What scripts want stands alone: digits, a recording's number.
fn words(command: &CallCommand, answer: &Value) -> String {
    let stopped = answer["result"] == "stopped";
    match command {
        CallCommand::Collect(_) => text(&answer["digits"]),
        CallCommand::Record(record) if !(record.pause || record.resume || record.stop) => {
            text(&answer["recording"])
        }
        CallCommand::Play(play) if answer["result"] == "begun" => {
            format!("{} is being played to {}", play.name, play.leg)
        }
        CallCommand::Play(play) if stopped => format!("{} was stopped", play.name),
        CallCommand::Play(play) => format!("{} was played to {}", play.name, play.leg),
        CallCommand::HangUp(end) => format!("{} is over", end.call.call()),
        CallCommand::Transfer(transfer) => format!("{} is called", transfer.number),
        CallCommand::Dial(dial) => format!("the phone of {} is called", dial.from),
        _ => text(&answer["result"]),
    }
}

/// What control refused, with the field when there is one.
pub fn fault(answer: &Value) -> String {
    let error = &answer["error"];
    match error["field"].as_str() {
        Some(field) => format!("{field}: {}", text(&error["message"])),
        None => text(&error["message"]),
    }
}
