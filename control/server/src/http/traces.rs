//! Traces: signalling that is shown to an administrator's tool, for a while.

use std::net::SocketAddr;
use std::time::Duration;

use abi::OpResult;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use base::{CcbId, Instant, WorkerId};
use control_core::{OpOutcome, Trace};
use serde::Deserialize;
use serde_json::{Value, json};

use super::admin::{call_ref, stopping};
use super::{ApiError, App};
use crate::clock;

/// The longest time that a trace may take, in seconds: nobody looks for longer, and a tool that was
/// killed is shown no more after it.
const LONGEST_S: u64 = 3_600;
/// The longest number that is looked for.
const NUMBER_BYTES: usize = 48;

/// The body of a request. With neither `call` nor `number` all is shown.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    /// Where copies of the messages go, as HEP3 over UDP.
    to: SocketAddr,
    /// For how long.
    seconds: u64,
    /// A call's serial number, or its slot and generation.
    call: Option<String>,
    /// A number that has a part in the calls.
    number: Option<String>,
}

/// Starts a trace on every CCB that answers.
pub async fn start(State(app): State<App>, body: Bytes) -> Result<Json<Value>, ApiError> {
    let body: Body = serde_json::from_slice(&body)
        .map_err(|error| ApiError::malformed(None, error.to_string()))?;
    let ip = body.to.ip().to_canonical();
    if !ip.is_loopback() && !app.trace_to.iter().any(|net| net.contains(ip)) {
        let rule =
            "traces go to loopback addresses, and to those of `trace_to` in the configuration";
        return Err(ApiError::malformed(Some("to"), rule));
    }
    if !(1..=LONGEST_S).contains(&body.seconds) {
        let rule = format!("seconds must be 1 to {LONGEST_S}");
        return Err(ApiError::malformed(Some("seconds"), rule));
    }
    let serial = match body.call {
        Some(call) => serial_of(&app, &call).await?,
        None => 0,
    };
    let number = body.number.unwrap_or_default();
    let is_number = number.bytes().all(|b| b.is_ascii_alphanumeric() || b"+*#._-".contains(&b));
    if number.len() > NUMBER_BYTES || !is_number {
        return Err(ApiError::malformed(Some("number"), "number must be one that can be dialled"));
    }
    let until = clock::now() + Duration::from_secs(body.seconds);
    let id = app.next_trace.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let trace = Trace { id, to: body.to, until, serial, number };
    let workers = order(&app, &trace).await;
    let result = match workers {
        Ok(0) => Err(ApiError::refused("nothing: no data plane answers")),
        Ok(workers) => Ok(Json(json!({
            "trace": id,
            "workers": workers,
            "until_unix_ms": clock::unix_ms(until),
        }))),
        Err(error) => Err(error),
    };
    if result.is_err() {
        let _ = order(&app, &Trace { until: Instant::ZERO, ..trace }).await;
    }
    result
}

/// Ends a trace; one that has ended by itself is no fault.
pub async fn stop(
    State(app): State<App>,
    Path(trace): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let id = trace.parse();
    let id =
        id.map_err(|_| ApiError::malformed(Some("trace"), "a trace is named by its number"))?;
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 9));
    let ended = Trace { id, to: nowhere, until: Instant::ZERO, serial: 0, number: String::new() };
    order(&app, &ended).await?;
    Ok(Json(json!({ "ended": id })))
}

/// The serial number that `call` is, or that the call of that name has now.
async fn serial_of(app: &App, call: &str) -> Result<u64, ApiError> {
    if let Some(serial) = call.parse().ok().filter(|serial| *serial > 0) {
        return Ok(serial);
    }
    let rule =
        "a call is named by its serial number, or as `jackfield calls` prints it, such as 12.3";
    let name = call_ref(call).map_err(|_| ApiError::malformed(Some("call"), rule))?;
    let found = app.blade.look(move |blade, _| {
        let mut calls = blade.cdm().iter().flat_map(|(ccb, _)| blade.calls(ccb));
        calls.find(|(_, record)| record.call == name).map(|(_, record)| record.serial)
    });
    found.await.flatten().ok_or_else(|| ApiError::not_found("call"))
}

/// Orders it of every worker of every CCB whose data plane answers; returns how many there are.
async fn order(app: &App, trace: &Trace) -> Result<usize, ApiError> {
    let workers = app.blade.look(|blade, _| {
        let ccbs = blade.ccbs().filter(|view| view.linked);
        let ccbs = ccbs.filter_map(|view| Some((view.ccb, view.region?.layout().workers)));
        let workers = |(ccb, count): (CcbId, u8)| (0..count).map(move |id| (ccb, WorkerId(id)));
        ccbs.flat_map(workers).collect::<Vec<_>>()
    });
    let workers = workers.await.ok_or_else(stopping)?;
    let mut ordered = 0;
    for (ccb, worker) in workers {
        match app.blade.trace(ccb, worker, trace.clone()).await {
            OpOutcome::Done(OpResult::Ok) => ordered += 1,
            OpOutcome::Done(OpResult::Full) => {
                return Err(ApiError::conflict("four traces run already; more are not allowed"));
            }
            // It died meanwhile, and shows nothing.
            OpOutcome::Gone => {}
            OpOutcome::Lost => return Err(ApiError::refused("nothing in time")),
            other => return Err(ApiError::refused(&format!("{other:?}"))),
        }
    }
    Ok(ordered)
}
