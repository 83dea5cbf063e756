//! Forwarding rules, music on hold, SRTP, transfers and click to dial.

use abi::{OpResult, SrtpPolicy};
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use control_core::{Forward, Input, OpOutcome, PROMPT_RULE, When, is_prompt_name};
use serde::Deserialize;
use serde_json::{Value, json};

use super::admin::call_ref;
use super::orders::{self, OnCcb};
use super::{ApiError, App};
use crate::directory::{
    DESTINATION_RULE, LONGEST_RING_S, NUMBER_RULE, Tenant, is_destination, is_number,
};

type Answer = Result<Json<Value>, ApiError>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    /// `always`, `busy`, `no_answer`, `unavailable`.
    when: String,
    /// For `no_answer`, in seconds.
    #[serde(default)]
    after_s: u32,
    /// A number, or places that are tried in turn: `1001/15,1002/20`.
    to: String,
}

/// Which rule.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    when: Option<String>,
}

/// All rules of a tenant.
pub async fn list(State(app): State<App>, Path(tenant): Path<String>) -> Answer {
    let tenant = tenant_of(&app, &tenant).await?;
    let rules = app.directory.forwards().await?;
    let rules = rules.iter().filter(|rule| rule.tenant == tenant.id).map(|rule| {
        let mut value = json!({ "number": rule.number, "when": rule.when.name(), "to": rule.to });
        if let When::NoAnswer(after_s) = rule.when {
            value["after_s"] = after_s.into();
        }
        value
    });
    Ok(Json(json!({ "forwards": rules.collect::<Vec<_>>() })))
}

/// Sets a rule of a number. It holds for the next call.
pub async fn set(
    State(app): State<App>,
    Path((tenant, number)): Path<(String, String)>,
    body: Bytes,
) -> Answer {
    let tenant = tenant_of(&app, &tenant).await?;
    let rule: Rule = parsed(&body)?;
    let unknown = "must be always, busy, no_answer or unavailable";
    let when = When::named(&rule.when, rule.after_s);
    let when = when.ok_or_else(|| ApiError::malformed(Some("when"), unknown))?;
    if let When::NoAnswer(after_s) = when
        && !(1..=LONGEST_RING_S).contains(&after_s)
    {
        let range = format!("must be 1 to {LONGEST_RING_S}");
        return Err(ApiError::malformed(Some("after_s"), range));
    }
    let number = number_of(number, "number")?;
    let to = rule.to;
    if !is_destination(&to) {
        return Err(ApiError::malformed(Some("to"), DESTINATION_RULE));
    }
    if number == to {
        return Err(ApiError::malformed(Some("to"), "a number is not forwarded to itself"));
    }
    let rule = Forward { tenant: tenant.id, number, when, to };
    app.directory.put_forward(&rule).await?;
    tell(&app).await?;
    Ok(Json(json!({ "number": rule.number, "when": when.name(), "to": rule.to })))
}

/// Removes the rules of a number, or the one for that case.
pub async fn remove(
    State(app): State<App>,
    Path((tenant, number)): Path<(String, String)>,
    body: Bytes,
) -> Answer {
    let tenant = tenant_of(&app, &tenant).await?;
    let which: Which = parsed(&body)?;
    let removed = app.directory.remove_forwards(tenant.id, &number, which.when.as_deref()).await?;
    if removed == 0 {
        return Err(ApiError::not_found("rule"));
    }
    tell(&app).await?;
    Ok(Json(json!({ "removed": removed })))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Music {
    prompt: Option<String>,
}

/// Sets what held parties of a tenant hear.
pub async fn hold_music(State(app): State<App>, Path(tenant): Path<String>, body: Bytes) -> Answer {
    let tenant = tenant_of(&app, &tenant).await?;
    let music: Music = parsed(&body)?;
    if music.prompt.as_deref().is_some_and(|name| !is_prompt_name(name)) {
        return Err(ApiError::malformed(Some("prompt"), PROMPT_RULE));
    }
    app.directory.set_hold_music(tenant.id, music.prompt.as_deref()).await?;
    tell(&app).await?;
    Ok(Json(json!({ "hold_music": music.prompt })))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Srtp {
    /// `no`, `allowed`, `offered` or `required`.
    policy: String,
    /// The trunk whose peers it is about; without it the tenant's phones.
    trunk: Option<String>,
}

/// Sets whether the phones of a tenant, or the peers of a trunk, speak SRTP. It holds for the next call.
pub async fn srtp(State(app): State<App>, Path(tenant): Path<String>, body: Bytes) -> Answer {
    let tenant = tenant_of(&app, &tenant).await?;
    let srtp: Srtp = parsed(&body)?;
    let Some(policy) = SrtpPolicy::named(&srtp.policy) else {
        let rule = "must be no, allowed, offered or required";
        return Err(ApiError::malformed(Some("policy"), rule));
    };
    if !app.directory.set_srtp(tenant.id, srtp.trunk.as_deref(), policy).await? {
        return Err(ApiError::not_found("trunk"));
    }
    tell(&app).await?;
    Ok(Json(json!({ "policy": policy.name(), "trunk": srtp.trunk })))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Transfer {
    to: String,
}

/// Gives the peer of a leg to a number. The answer says that it begins.
pub async fn transfer(
    State(app): State<App>,
    Path((call, leg)): Path<(String, String)>,
    Query(on): Query<OnCcb>,
    body: Bytes,
) -> Answer {
    let call = call_ref(&call)?;
    let rule = "a leg is named by its number in the call, 0 is the caller's";
    let leg: u8 = leg.parse().map_err(|_| ApiError::malformed(Some("leg"), rule))?;
    let body: Transfer = parsed(&body)?;
    let to = number_of(body.to, "to")?;
    let (ccb, _) = orders::find(&app, call, on.ccb).await?;
    let told = to.clone();
    let outcome =
        app.blade.command(move |reply| Input::Transfer { reply, ccb, call, leg, to }).await;
    begun(outcome, "the leg has no peer that could be given away")?;
    Ok(Json(json!({ "call": call.to_string(), "leg": leg, "to": told, "result": "begun" })))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Dial {
    tenant: String,
    from: String,
    to: String,
}

/// Calls an agent's phone, and then a number. The answer says that the phone is being called.
pub async fn dial(State(app): State<App>, body: Bytes) -> Answer {
    let Dial { tenant, from, to } = parsed(&body)?;
    let tenant = tenant_of(&app, &tenant).await?.id;
    let (from, to) = (number_of(from, "from")?, number_of(to, "to")?);
    let (caller, called) = (from.clone(), to.clone());
    let outcome = app.blade.command(move |reply| Input::Dial { reply, tenant, from, to }).await;
    begun(outcome, "the agent has no phone that could be called, or is in a call")?;
    Ok(Json(json!({ "from": caller, "to": called, "result": "begun" })))
}

fn begun(outcome: OpOutcome, refused: &str) -> Result<(), ApiError> {
    match outcome {
        OpOutcome::Done(OpResult::Ok) => Ok(()),
        OpOutcome::Done(OpResult::NoSuchAgent) => Err(ApiError::not_found("agent")),
        OpOutcome::Done(OpResult::NoSuchCall) | OpOutcome::Unknown => {
            Err(ApiError::not_found("call"))
        }
        OpOutcome::NoSuchLeg => Err(ApiError::not_found("leg")),
        OpOutcome::Done(OpResult::Refused) => Err(ApiError::conflict(refused)),
        OpOutcome::Gone => Err(ApiError::refused("nothing; it is gone")),
        OpOutcome::Lost => Err(ApiError::refused("nothing in time")),
        other => Err(ApiError::refused(&format!("{other:?}"))),
    }
}

/// The tenant of that name, or the only one for `-`.
pub async fn tenant_of(app: &App, name: &str) -> Result<Tenant, ApiError> {
    let mut name = name.to_owned();
    if name == "-" {
        let known = app.directory.provision().await?;
        let [tenant] = &known.tenants[..] else {
            return Err(ApiError::malformed(Some("tenant"), "there are several, say which"));
        };
        name.clone_from(&tenant.name);
    }
    app.directory.tenant(&name).await?.ok_or_else(|| ApiError::not_found("tenant"))
}

/// The core takes what the directory holds now.
pub async fn tell(app: &App) -> Result<(), ApiError> {
    app.keeper.refresh().await?;
    Ok(())
}

pub fn parsed<'a, T: Deserialize<'a>>(body: &'a Bytes) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| ApiError::malformed(None, error.to_string()))
}

/// A number as the data plane takes it.
pub fn number_of(number: String, field: &'static str) -> Result<String, ApiError> {
    if is_number(&number) { Ok(number) } else { Err(ApiError::malformed(Some(field), NUMBER_RULE)) }
}
