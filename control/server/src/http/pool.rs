//! The pool: its slots, and orders to apply and release them (S1-016).

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use control_core::{PoolOrder, PoolRefusal, SlotId, SlotKind, SlotView};
use serde::Deserialize;
use serde_json::{Value, json};

use super::admin::stopping;
use super::{ApiError, App};

/// The longest time that calls may be given to end, in seconds.
const LONGEST_DRAIN_S: u32 = 86_400;

type Answer = Result<Json<Value>, ApiError>;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Apply {
    /// What is to run there; a CCB when it is not said.
    kind: SlotKind,
    /// The number of the CCB or the AgentProxy; any free slot without.
    #[serde(alias = "ccb")]
    number: Option<u16>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Release {
    /// How long calls may take to end, in seconds.
    within_s: Option<u32>,
}

/// The slots of all blades.
pub async fn list(State(app): State<App>) -> Answer {
    let slots = app.blade.look(|blade, now| blade.pool_view(now)).await.ok_or_else(stopping)?;
    let slots: Vec<Value> = slots.iter().map(view_json).collect();
    Ok(Json(json!({ "slots": slots })))
}

fn view_json(view: &SlotView) -> Value {
    let mut json = named(view.slot);
    json["kind"] = view.slot.kind().name().into();
    json["blade"] = view.blade.as_deref().into();
    json["state"] = view.state.map_or("away", |state| state.name()).into();
    json["status"] = view.status.name().into();
    json["logins"] = view.logins.into();
    if view.slot.kind() == SlotKind::AgentProxy {
        let http: Vec<String> = view.http.iter().map(|address| address.to_string()).collect();
        json["http"] = http.into();
        return json;
    }
    json["capacity"] = view.capacity.into();
    json["calls"] = view.calls.into();
    json["stopped_within_s"] = view.stops_in_s.into();
    json
}

/// A slot by its number.
fn named(slot: SlotId) -> Value {
    json!({ (slot.kind().name()): slot.number() })
}

/// Takes a slot into use.
pub async fn apply(State(app): State<App>, body: Bytes) -> Answer {
    let Apply { kind, number } = parsed(&body)?;
    ordered(&app, PoolOrder::Apply { kind, number }).await
}

/// Gives a CCB back; it drains first.
pub async fn release(State(app): State<App>, Path(ccb): Path<u16>, body: Bytes) -> Answer {
    give_back(&app, SlotId::new(SlotKind::Ccb, ccb), &body).await
}

/// Gives an AgentProxy back; it tells balancers that it takes no more logins, and stops.
pub async fn release_proxy(State(app): State<App>, Path(number): Path<u16>, body: Bytes) -> Answer {
    give_back(&app, SlotId::AgentProxy(number), &body).await
}

async fn give_back(app: &App, slot: SlotId, body: &[u8]) -> Answer {
    let Release { within_s } = parsed(body)?;
    if within_s.is_some_and(|seconds| seconds > LONGEST_DRAIN_S) {
        let rule = format!("must be 0 to {LONGEST_DRAIN_S}");
        return Err(ApiError::malformed(Some("within_s"), rule));
    }
    ordered(app, PoolOrder::Release { slot, within_s }).await
}

async fn ordered(app: &App, order: PoolOrder) -> Answer {
    match app.blade.pool(order).await {
        Ok(slot) => Ok(Json(named(slot))),
        Err(PoolRefusal::NoSuchSlot) => Err(ApiError::not_found("slot in the pool")),
        Err(why) => Err(ApiError::conflict(why.text())),
    }
}

fn parsed<'a, T: Deserialize<'a> + Default>(body: &'a [u8]) -> Result<T, ApiError> {
    if body.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(body).map_err(|error| ApiError::malformed(None, error.to_string()))
}
