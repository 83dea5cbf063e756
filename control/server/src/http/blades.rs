//! The blades that meet on the bus, as the command line shows them.

use axum::Json;
use axum::extract::State;
use control_core::ClusterView;
use control_core::cluster::CcbReport;
use serde_json::{Value, json};

use super::admin::stopping;
use super::{ApiError, App};
use crate::bus::BusState;

/// `GET /v1/blades`: every blade that reports, with its CCBs.
pub async fn blades(State(app): State<App>) -> Result<Json<Value>, ApiError> {
    let read = app.blade.look(|blade, now| blade.cluster(now)).await;
    let Some(view) = read.ok_or_else(stopping)? else {
        return Ok(Json(json!({ "bus": null, "blades": [] })));
    };
    let mut answer = summary(&view);
    answer["bus"] = app.bus.as_deref().map(BusState::json).unwrap_or_default();
    let blades = view.blades.iter().map(|blade| {
        let ccbs = blade.report.ccbs.iter();
        json!({
            "blade": &*blade.name,
            "leads": view.leader.as_ref() == Some(&blade.name),
            "age_ms": blade.age_ms,
            "incarnation": blade.report.incarnation,
            "agent_proxy": blade.report.is_agent_proxy,
            "agent_proxy_number": blade.report.agent_proxy,
            "logins_s": blade.report.logins_s,
            "ccbs": ccbs.map(|(ccb, report)| ccb_json(*ccb, report)).collect::<Vec<_>>(),
        })
    });
    answer["blades"] = blades.collect::<Vec<_>>().into();
    Ok(Json(answer))
}

/// What `status` says of it.
pub fn summary(view: &ClusterView) -> Value {
    json!({
        "name": &*view.name,
        "connected": view.connected,
        "confirmed": view.confirmed,
        "leader": view.leader.as_deref(),
        "term": view.term,
        "homes": view.homes,
        "strategy": view.strategy.name(),
        "blades_seen": view.blades.len(),
    })
}

fn ccb_json(ccb: u16, report: &CcbReport) -> Value {
    json!({
        "ccb": ccb,
        "status": report.status.name(),
        "incarnation": report.incarnation,
        "online": report.online,
        "phones": report.phones,
        "granted": report.granted,
        "capacity": report.capacity,
        "calls": report.calls,
        "locations": report.locations,
        "slot": report.slot.map(|slot| slot.name()),
    })
}
