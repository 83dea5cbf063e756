//! Queues: how they do, and what they are.

use abi::OpResult;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use base::TenantId;
use control_core::{
    DeskCommand, Input, LoginView, MAX_QUEUES, OpOutcome, PROMPT_RULE, QUEUE_RULE, QueueSpec,
    QueueView, is_prompt_name, is_queue_name, reason,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::admin::stopping;
use super::forwards::{number_of, parsed, tell, tenant_of};
use super::{ApiError, App};

/// The most skills that a queue asks for.
const SKILLS: usize = 32;
/// The longest name of a skill, in bytes.
const SKILL_BYTES: usize = 48;
/// The longest times, in seconds: a day.
const DAY_S: u32 = 86_400;

type Answer = Result<Json<Value>, ApiError>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    #[serde(default)]
    skills: Vec<String>,
    ring_s: Option<u32>,
    after_call_s: Option<u32>,
    max_wait_s: Option<u32>,
    max_callers: Option<u32>,
    overflow: Option<String>,
    prompt: Option<String>,
    #[serde(default)]
    priority: u32,
}

/// Every queue: who waits, who could serve them, what became of callers.
pub async fn list(State(app): State<App>) -> Answer {
    let known = app.directory.provision().await.map_err(|error| ApiError::internal(&error))?;
    let views = app.blade.look(|blade, now| blade.queues(now)).await.ok_or_else(stopping)?;
    let name = |id: TenantId| known.tenants.iter().find(|one| one.id == id);
    let queues = views.iter().map(|(view, longest_ms)| {
        let mut value = view_json(view, *longest_ms);
        value["tenant"] = name(view.queue.tenant).map(|tenant| tenant.name.clone()).into();
        value
    });
    Ok(Json(json!({ "queues": queues.collect::<Vec<_>>() })))
}

fn view_json(view: &QueueView, longest_ms: u64) -> Value {
    let (queue, tally) = (&view.queue, &view.tally);
    json!({
        "queue": queue.name,
        "skills": queue.skills,
        "priority": queue.priority,
        "ring_s": queue.ring_s,
        "after_call_s": queue.after_call_s,
        "max_wait_s": queue.max_wait_s,
        "max_callers": queue.max_callers,
        "overflow": queue.overflow,
        "prompt": queue.prompt,
        "waiting": view.waiting,
        "offered": view.offered,
        "longest_wait_ms": longest_ms,
        "agents_idle": view.idle,
        "agents_busy": view.agents - view.idle,
        "joined": tally.joined,
        "connected": tally.connected,
        "abandoned": tally.abandoned,
        "overflowed": tally.overflowed,
        "not_taken": tally.not_taken,
    })
}

/// Creates a queue, or changes it; callers who wait keep their places.
pub async fn set(
    State(app): State<App>,
    Path((tenant, name)): Path<(String, String)>,
    body: Bytes,
) -> Answer {
    let tenant = tenant_of(&app, &tenant).await?;
    let queue = queue_of(tenant.id, name, parsed(&body)?)?;
    let known = app.directory.queues().await.map_err(|error| ApiError::internal(&error))?;
    if known.len() >= MAX_QUEUES {
        return Err(ApiError::conflict("there are as many queues as there may be"));
    }
    app.directory.put_queue(&queue).await.map_err(|error| ApiError::internal(&error))?;
    tell(&app).await?;
    Ok(Json(json!({ "queue": queue.name })))
}

fn queue_of(tenant: TenantId, name: String, body: Body) -> Result<QueueSpec, ApiError> {
    let usual = QueueSpec::new(tenant, &name);
    let within = |field, value: Option<u32>, least: u32, most: u32, usual: u32| match value {
        None => Ok(usual),
        Some(value) if (least..=most).contains(&value) => Ok(value),
        Some(_) => Err(ApiError::malformed(Some(field), format!("must be {least} to {most}"))),
    };
    if !is_queue_name(&name) {
        return Err(ApiError::malformed(Some("name"), QUEUE_RULE));
    }
    let is_skill = |skill: &String| (1..=SKILL_BYTES).contains(&skill.len());
    if body.skills.len() > SKILLS || !body.skills.iter().all(is_skill) {
        let rule = format!("must be at most {SKILLS} of 1 to {SKILL_BYTES} bytes");
        return Err(ApiError::malformed(Some("skills"), rule));
    }
    if body.prompt.as_deref().is_some_and(|prompt| !is_prompt_name(prompt)) {
        return Err(ApiError::malformed(Some("prompt"), PROMPT_RULE));
    }
    let overflow = body.overflow.map(|number| number_of(number, "overflow")).transpose()?;
    Ok(QueueSpec {
        skills: body.skills,
        ring_s: within("ring_s", body.ring_s, 1, 180, usual.ring_s)?,
        after_call_s: within("after_call_s", body.after_call_s, 0, DAY_S, usual.after_call_s)?,
        max_wait_s: within("max_wait_s", body.max_wait_s, 0, DAY_S, usual.max_wait_s)?,
        max_callers: within("max_callers", body.max_callers, 0, 1_000_000, usual.max_callers)?,
        overflow,
        prompt: body.prompt,
        priority: within("priority", Some(body.priority), 0, 1_000, 0)?,
        ..usual
    })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seat {
    /// `ready` or `not_ready`.
    state: String,
    reason: Option<String>,
}

/// Makes an agent ready, or not ready, as the agent's desk would.
pub async fn seat(
    State(app): State<App>,
    Path((tenant, number)): Path<(String, String)>,
    body: Bytes,
) -> Answer {
    let tenant = tenant_of(&app, &tenant).await?.id;
    let seat: Seat = parsed(&body)?;
    let command = match seat.state.as_str() {
        "ready" => DeskCommand::Ready,
        "not_ready" => DeskCommand::NotReady(reason(seat.reason.as_deref().unwrap_or(""))),
        _ => return Err(ApiError::malformed(Some("state"), "must be ready or not_ready")),
    };
    let known = number.clone();
    let login = app.blade.look(move |blade, _| {
        let mut logins = blade.logins();
        let is_this =
            |view: &LoginView| view.login.tenant == tenant && view.record.number == number;
        logins.find(is_this).map(|view| view.login)
    });
    let login = login.await.ok_or_else(stopping)?.ok_or_else(|| ApiError::not_found("agent"))?;
    let made = move |reply| Input::SeatCommand { reply, login, command };
    match app.blade.command(made).await {
        OpOutcome::Done(OpResult::Ok) => Ok(Json(json!({ "number": known, "state": seat.state }))),
        _ => Err(ApiError::not_found("agent")),
    }
}

/// Removes a queue; who waits in it is let go.
pub async fn remove(
    State(app): State<App>,
    Path((tenant, name)): Path<(String, String)>,
) -> Answer {
    let tenant = tenant_of(&app, &tenant).await?;
    let removed = app.directory.remove_queue(tenant.id, &name).await;
    if !removed.map_err(|error| ApiError::internal(&error))? {
        return Err(ApiError::not_found("queue"));
    }
    tell(&app).await?;
    Ok(Json(json!({ "removed": name })))
}
