//! What the command line reaches, over a UNIX socket that only its owner may open.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use abi::{CallState, Counter, LeaseState, Region};
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use base::{CallRef, CcbId, Instant, WorkerId};
use control_core::{
    CcbView, Counts, End, LeaseView, LoginView, OpOutcome, SeatState, TrunkView, spool_name,
};
use serde_json::{Map, Value, json};
use std::sync::Arc;

use super::{ApiError, App, blades, directory, forwards, orders, pool, queues, traces};
use crate::bus::BusState;
use crate::directory::{DirectoryError, Identity};
use crate::records::RecordState;
use crate::{clock, records};

/// The router of what the command line reaches.
pub fn router(app: App) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/blades", get(blades::blades))
        .route("/v1/agents", get(agents))
        .route("/v1/leases", get(leases))
        .route("/v1/agents/{tenant}/{agent}/logout", post(logout))
        .route("/v1/calls", get(calls).post(forwards::dial))
        .route("/v1/calls/{call}/legs/{leg}/transfer", post(forwards::transfer))
        .route("/v1/tenants/{tenant}/forwards", get(forwards::list))
        .route("/v1/tenants/{tenant}/forwards/{number}", post(forwards::set))
        .route("/v1/tenants/{tenant}/forwards/{number}/remove", post(forwards::remove))
        .route("/v1/queues", get(queues::list))
        .route("/v1/tenants/{tenant}/queues/{queue}", post(queues::set))
        .route("/v1/tenants/{tenant}/queues/{queue}/remove", post(queues::remove))
        .route("/v1/tenants/{tenant}/seats/{number}", post(queues::seat))
        .route("/v1/tenants/{tenant}/hold-music", post(forwards::hold_music))
        .route("/v1/tenants/{tenant}/srtp", post(forwards::srtp))
        .route("/v1/calls/{call}/release", post(release))
        .route("/v1/calls/{call}/legs/{leg}/orders", post(orders::order))
        .route("/v1/ccbs/{ccb}/calls/{call}/release", post(release_on))
        .route(
            "/v1/directory",
            get(directory::export)
                .put(directory::import)
                .layer(DefaultBodyLimit::max(directory::IMPORT_BYTES)),
        )
        .route("/v1/pool", get(pool::list))
        .route("/v1/pool/apply", post(pool::apply))
        .route("/v1/pool/{ccb}/release", post(pool::release))
        .route("/v1/pool/agent_proxy/{number}/release", post(pool::release_proxy))
        .route("/v1/traces", post(traces::start))
        .route("/v1/traces/{trace}", delete(traces::stop))
        .with_state(app)
}

type Answer = Result<Json<Value>, ApiError>;

/// What a request is told while the process stops.
pub fn stopping() -> ApiError {
    ApiError::internal(&"the process is stopping")
}

async fn status(State(app): State<App>) -> Answer {
    let started_at = app.started_at;
    let logins = app.door.counts();
    let records = app.records.as_deref().map(records_json);
    let directory = json!({
        "place": app.directory.place().to_string(),
        "kind": app.directory.place().kind(),
        "state": if app.directory.is_away() { "away" } else { "there" },
    });
    let bus = app.bus.as_deref().map(BusState::json);
    let read = app.blade.look(move |blade, now| {
        let ccbs: Vec<Value> = blade.ccbs().map(|view| ccb_json(&view, now)).collect();
        json!({
            "uptime_s": now.since(started_at).as_secs(),
            "pid": std::process::id(),
            "version": env!("CARGO_PKG_VERSION"),
            "online": blade.cdm().iter().map(|(_, ccb)| ccb.online).sum::<u32>(),
            "logins_ok": logins.ok,
            "logins_refused": logins.refused,
            "logins_throttled": logins.throttled,
            "records": records,
            "directory": directory,
            "bus": bus,
            "blade": blade.cluster(now).map(|view| blades::summary(&view)),
            "ccbs": ccbs,
        })
    });
    Ok(Json(read.await.ok_or_else(stopping)?))
}

fn records_json(state: &RecordState) -> Value {
    let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
    json!({
        "state": if state.is_failing.load(Ordering::Relaxed) { "failing" } else { "writing" },
        "written": count(&state.written),
        "failed": count(&state.failed),
        "waiting": count(&state.waiting),
        "left": count(&state.left),
    })
}

fn ccb_json(view: &CcbView, now: Instant) -> Value {
    let mut ccb = json!({
        "ccb": view.ccb.0,
        "status": view.status.name(),
        "linked": view.linked,
        "online": view.online,
        "phones": view.phones,
        "grants": view.grants,
        "capacity": view.capacity,
        "calls": view.calls,
        "open_commands": view.open_ops,
        "spool": { "state": spool_name(view.spool.state), "lost_bytes": view.spool.lost },
        "trunks": view.trunks.iter().map(trunk_json).collect::<Vec<_>>(),
        "control": counts_json(&view.counts),
    });
    if let (Some(region), Some(fields)) = (&view.region, ccb.as_object_mut()) {
        fields.extend(region_json(region, now));
    }
    ccb
}

/// Why an agent is not ready.
fn reason_of(seat: &SeatState) -> Option<String> {
    match seat {
        SeatState::NotReady(why) => Some(why.as_str().to_owned()),
        _ => None,
    }
}

fn trunk_json(trunk: &TrunkView) -> Value {
    let is_up = trunk.outage == abi::Outage::None;
    let mut json = json!({ "address": trunk.address.to_string(), "up": is_up });
    if !is_up {
        json["why"] = trunk.outage.text().into();
    }
    if trunk.unverified {
        json["unverified"] = true.into();
    }
    json
}

fn counts_json(counts: &Counts) -> Value {
    json!({
        "events": counts.events,
        "events_missed": counts.events_missed,
        "events_corrupt": counts.events_corrupt,
        "sources_refused": counts.sources_refused,
        "commands": counts.commands,
        "commands_waited": counts.commands_waited,
        "commands_lost": counts.commands_lost,
        "completions_stray": counts.completions_stray,
        "asked_dialled": counts.asked_dialled,
        "asked_rejected": counts.asked_rejected,
        "asked_served": counts.asked_served,
        "asked_forwarded": counts.asked_forwarded,
        "digits": counts.digits,
        "spool_changes": counts.spool_changes,
        "asked_hosted": counts.asked_hosted,
        "leases_expired": counts.leases_expired,
    })
}

fn region_json(region: &Arc<Region>, now: Instant) -> Map<String, Value> {
    let (header, counters) = (region.header(), region.counters());
    let data_plane = header.data_plane();
    let age_ms = |at: Instant| u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX);
    let by_name = |count: &dyn Fn(Counter) -> u64| -> Map<String, Value> {
        Counter::ALL.iter().map(|one| (one.name().to_owned(), count(*one).into())).collect()
    };
    let drops = Counter::ALL.iter().filter(|one| one.name().starts_with("drop_"));
    let workers = (0..region.layout().workers).map(WorkerId).map(|worker| {
        let usage = region.ring_usage(worker);
        json!({
            "worker": worker.0,
            "heartbeat_age_ms": header.worker_heartbeat(worker).map(age_ms),
            "events_waiting": usage.events,
            "commands_waiting": usage.commands,
            "counters": by_name(&|one| counters.get(worker, one)),
        })
    });
    let fields = json!({
        "incarnation": data_plane.incarnation,
        "data_plane_pid": data_plane.process.pid,
        "heartbeat_age_ms": age_ms(data_plane.heartbeat),
        "control_incarnation": header.control().incarnation,
        "events_lost": counters.total(Counter::EventsLost),
        "leases_held": region.leases().held(),
        "drops_total": drops.map(|one| counters.total(*one)).sum::<u64>(),
        "counters": by_name(&|one| counters.total(one)),
        "workers": workers.collect::<Vec<_>>(),
    });
    match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

async fn agents(State(app): State<App>) -> Answer {
    let read = app.blade.look(|blade, now| (blade.logins().collect::<Vec<_>>(), now));
    let (logins, now) = read.await.ok_or_else(stopping)?;
    let names = match app.directory.agent_names().await {
        // Who is logged in is known without it.
        Err(DirectoryError::Away(_)) => HashMap::new(),
        names => names?,
    };
    let agents: Vec<Value> = logins.iter().map(|view| agent_json(view, &names, now)).collect();
    Ok(Json(json!({ "agents": agents })))
}

fn agent_json(view: &LoginView, names: &HashMap<u64, (String, String)>, now: Instant) -> Value {
    let (tenant, agent) = names.get(&view.login.agent).cloned().unwrap_or_default();
    let lease = match view.lease {
        LeaseState::Free { .. } => "free",
        LeaseState::Reserved { .. } => "reserved",
        LeaseState::Bound { .. } => "bound",
        LeaseState::NoSuchSlot => "unknown",
    };
    let hosted_by = view.lease.holder().filter(|holder| *holder != view.ccb);
    json!({
        "tenant": tenant,
        "agent": agent,
        "hosted_by": hosted_by.map(|ccb| ccb.0),
        "number": view.record.number,
        "user": view.record.user,
        "name": view.record.name,
        "state": view.state,
        "seat": view.seat.name(),
        "reason": reason_of(&view.seat),
        "hosted": view.hosted.map(|ccb| ccb.0),
        "online": view.online,
        "ccb": view.ccb.0,
        "location": view.location,
        "phone": view.phone.map(|phone| phone.to_string()),
        "since_unix_ms": clock::unix_ms(view.since),
        "age_s": now.since(view.since).as_secs(),
        "epoch": view.login.epoch,
        "lease": lease,
    })
}

/// What is hosted where: our agents that other CCBs have, and theirs that ours have.
async fn leases(State(app): State<App>) -> Answer {
    let read = app.blade.look(|blade, now| (blade.leases(), now));
    let (leases, now) = read.await.ok_or_else(stopping)?;
    let lease_json = |lease: &LeaseView| {
        json!({
            "tenant": lease.tenant.0,
            "number": lease.number,
            "owner": lease.owner.0,
            "holder": lease.holder.0,
            "purpose": lease.purpose.name(),
            "fence": lease.fence.map(|fence| fence.to_string()),
            "state": lease.state,
            "since_unix_ms": clock::unix_ms(lease.since),
            "age_ms": now.since(lease.since).as_millis() as u64,
        })
    };
    Ok(Json(json!({ "leases": leases.iter().map(lease_json).collect::<Vec<_>>() })))
}

async fn logout(
    State(app): State<App>,
    Path((tenant, agent)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let tenant = app.directory.tenant(&tenant).await?;
    let tenant = tenant.ok_or_else(|| ApiError::not_found("tenant"))?.id;
    let agent = app.directory.agent(tenant, Identity::Agent(&agent)).await?;
    let agent = agent.ok_or_else(|| ApiError::not_found("agent"))?;
    let (key, number) = (agent.id, agent.number);
    let login = app.blade.look(move |blade, _| blade.login_anywhere(tenant, key, &number)).await;
    let login = login.flatten().ok_or_else(|| ApiError::not_found("login"))?;
    match app.blade.logout(login, End::Ordered).await {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(ApiError::not_found("login")),
    }
}

async fn calls(State(app): State<App>) -> Answer {
    let read = app.blade.look(|blade, _| {
        let ccbs = blade.cdm().iter().map(|(ccb, _)| ccb);
        ccbs.flat_map(|ccb| blade.calls(ccb)).collect::<Vec<_>>()
    });
    let calls = read.await.ok_or_else(stopping)?;
    let calls: Vec<Value> = calls
        .iter()
        .map(|(state, record)| {
            let mut call = records::call_json(record);
            call["state"] = state_name(*state).into();
            call
        })
        .collect();
    Ok(Json(json!({ "calls": calls })))
}

fn state_name(state: CallState) -> &'static str {
    match state {
        CallState::Free => "free",
        CallState::Asked => "asked",
        CallState::Calling => "calling",
        CallState::Ringing => "ringing",
        CallState::Answered => "answered",
        CallState::Ended => "ended",
    }
}

/// Releases a call by its slot and generation; where two CCBs have such a call, the first of them.
async fn release(State(app): State<App>, Path(call): Path<String>) -> Answer {
    let call = call_ref(&call)?;
    let found = app.blade.look(move |blade, _| {
        let mut ccbs = blade.cdm().iter().map(|(ccb, _)| ccb);
        ccbs.find(|ccb| blade.calls(*ccb).iter().any(|(_, record)| record.call == call))
    });
    let ccb = found.await.flatten().ok_or_else(|| ApiError::not_found("call"))?;
    release_call(&app, ccb, call).await
}

/// Releases a call of that CCB.
async fn release_on(State(app): State<App>, Path((ccb, call)): Path<(u16, String)>) -> Answer {
    release_call(&app, CcbId(ccb), call_ref(&call)?).await
}

async fn release_call(app: &App, ccb: CcbId, call: CallRef) -> Answer {
    match app.blade.release(ccb, call).await {
        OpOutcome::Done(abi::OpResult::Ok) => Ok(Json(json!({ "released": call.to_string() }))),
        OpOutcome::Done(abi::OpResult::NoSuchCall) | OpOutcome::Unknown => {
            Err(ApiError::not_found("call"))
        }
        OpOutcome::Gone => Err(ApiError::refused("nothing; it is gone")),
        OpOutcome::Lost => Err(ApiError::refused("nothing in time")),
        other => Err(ApiError::refused(&format!("{other:?}"))),
    }
}

/// The call of that name.
pub fn call_ref(text: &str) -> Result<CallRef, ApiError> {
    let parts = text.split_once('.').and_then(|(slot, generation)| {
        Some(CallRef { slot: slot.parse().ok()?, generation: generation.parse().ok()? })
    });
    let rule = "a call is named by its slot and generation, such as 12.3";
    parts.ok_or_else(|| ApiError::malformed(Some("call"), rule))
}
