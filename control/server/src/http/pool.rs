//! The pool: its slots, and orders to apply and release them (S1-016).

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use base::CcbId;
use control_core::{PoolOrder, PoolRefusal};
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
    /// The CCB; any free slot without.
    ccb: Option<u16>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Release {
    /// How long calls may take to end, in seconds.
    within_s: Option<u32>,
}

/// The slots of this blade.
pub async fn list(State(app): State<App>) -> Answer {
    let read = app.blade.look(|blade, now| {
        let slots = blade.slots().map(|(ccb, state)| {
            let known = blade.cdm().ccb(ccb);
            let left = blade.drain_deadline(ccb).map(|at| at.since(now).as_secs());
            json!({
                "ccb": ccb.0,
                "state": state.name(),
                "status": known.map(|ccb| ccb.status.name()),
                "logins": known.map_or(0, |ccb| ccb.load()),
                "capacity": known.map_or(0, |ccb| ccb.capacity),
                "stopped_within_s": left,
            })
        });
        json!({ "slots": slots.collect::<Vec<_>>() })
    });
    Ok(Json(read.await.ok_or_else(stopping)?))
}

/// Takes a slot into use.
pub async fn apply(State(app): State<App>, body: Bytes) -> Answer {
    let Apply { ccb } = parsed(&body)?;
    ordered(&app, PoolOrder::Apply { ccb: ccb.map(CcbId) }).await
}

/// Gives a CCB back; it drains first.
pub async fn release(State(app): State<App>, Path(ccb): Path<u16>, body: Bytes) -> Answer {
    let Release { within_s } = parsed(&body)?;
    if within_s.is_some_and(|seconds| seconds > LONGEST_DRAIN_S) {
        let rule = format!("must be 0 to {LONGEST_DRAIN_S}");
        return Err(ApiError::malformed(Some("within_s"), rule));
    }
    ordered(&app, PoolOrder::Release { ccb: CcbId(ccb), within_s }).await
}

async fn ordered(app: &App, order: PoolOrder) -> Answer {
    match app.blade.pool(order).await {
        Ok(ccb) => Ok(Json(json!({ "ccb": ccb.0 }))),
        Err(why @ PoolRefusal::NoSuchSlot) => Err(ApiError::not_found(why.text())),
        Err(why) => Err(ApiError::conflict(why.text())),
    }
}

fn parsed<'a, T: Deserialize<'a> + Default>(body: &'a [u8]) -> Result<T, ApiError> {
    if body.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(body).map_err(|error| ApiError::malformed(None, error.to_string()))
}
