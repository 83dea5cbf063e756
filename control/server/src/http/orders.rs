//! Orders for the media of a leg: prompts, digits, recordings, mixes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use abi::{DigitsCause, MediaOrder, MixRole, OpResult};
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use base::{CallRef, CcbId};
use control_core::{Collected, MIX_RULE, MIXES, OpOutcome, Order, PROMPT_RULE, is_prompt_name};
use serde::Deserialize;
use serde_json::{Value, json};

use super::admin::{call_ref, stopping};
use super::{ApiError, App};
use crate::{clock, records};

/// How long an order that lasts is watched when nobody waits for its end: a prompt that is not there
/// is told by then.
const BEGIN_MS: u64 = 500;
/// The longest time that a digit may be waited for.
const DIGIT_MS: u32 = 3_600_000;
/// Digits in the order of their numbers (RFC 4733, 3.2).
const DIGITS: &str = "0123456789*#ABCD";

/// Mints the numbers of recordings: milliseconds since 1970 and a count, so that they grow and are
/// unique over restarts.
#[derive(Debug, Default)]
pub struct RecordingNumbers(AtomicU64);

impl RecordingNumbers {
    fn next(&self) -> u64 {
        let now = clock::unix_ms(clock::now()) << 16;
        let step = |last: u64| Some(now.max(last + 1));
        let last = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step);
        now.max(last.unwrap_or(0) + 1)
    }
}

/// Where calls of the same name stand on several CCBs.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OnCcb {
    pub ccb: Option<u16>,
}

/// The body of a request.
#[derive(Debug, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case", deny_unknown_fields)]
enum Body {
    Play {
        prompt: String,
        /// 0 is until it is stopped.
        #[serde(default = "once")]
        times: u32,
        /// True to answer when it has been played.
        #[serde(default)]
        wait: bool,
    },
    StopPlaying {},
    Collect {
        max: u8,
        first_ms: u32,
        next_ms: u32,
        #[serde(default)]
        ends: String,
        #[serde(default)]
        barge_in: bool,
    },
    Record {},
    PauseRecording {},
    ResumeRecording {},
    StopRecording {},
    Mix {
        mix: u32,
        #[serde(default)]
        role: Role,
        /// The call that is whispered to.
        to: Option<String>,
        /// Of that call; 0, the caller's, when it is left out.
        to_leg: Option<u8>,
    },
    LeaveMix {},
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Role {
    #[default]
    Participant,
    Monitor,
    Whisper,
}

fn once() -> u32 {
    1
}

/// Takes an order for a leg and answers when it is done; an order that lasts and that nobody waits
/// for is answered when it has begun.
pub async fn order(
    State(app): State<App>,
    Path((call, leg)): Path<(String, String)>,
    Query(on): Query<OnCcb>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let call = call_ref(&call)?;
    let rule = "a leg is named by its number in the call, 0 is the caller's";
    let leg: u8 = leg.parse().map_err(|_| ApiError::malformed(Some("leg"), rule))?;
    let body: Body = serde_json::from_slice(&body)
        .map_err(|error| ApiError::malformed(None, error.to_string()))?;
    let waits = match &body {
        Body::Play { wait, .. } => *wait,
        _ => true,
    };
    let (ccb, serial) = find(&app, call, on.ccb).await?;
    let (what, prompt) = what(&app, call, body)?;
    if matches!(what, MediaOrder::Record { .. }) && !app.spoolers.contains(&ccb) {
        let rule = format!("CCB {} cannot record: its configuration sets no `spool`", ccb.0);
        return Err(ApiError::conflict(&rule));
    }
    let done = app.blade.order(Order { ccb, call, leg, what, prompt }).await;
    let mut answer = json!({ "ccb": ccb.0, "call": call.to_string(), "leg": leg });
    if let MediaOrder::Record { recording } = what {
        answer["recording"] = recording.to_string().into();
        answer["serial"] = records::serial_text(serial).into();
    }
    let ended = if waits {
        done.await
    } else {
        match tokio::time::timeout(Duration::from_millis(BEGIN_MS), done).await {
            Ok(ended) => ended,
            Err(_) => {
                answer["result"] = "begun".into();
                return Ok(Json(answer));
            }
        }
    };
    let (outcome, digits) = ended.map_err(|_| stopping())?;
    let result = result_of(outcome, &what)?;
    answer["result"] = result.into();
    if let Some(Collected { digits, cause }) = digits {
        answer["digits"] = digits.into();
        answer["cause"] = cause_name(cause).into();
    }
    Ok(Json(answer))
}

/// The CCB that has the call, and the call's serial number.
pub async fn find(app: &App, call: CallRef, on: Option<u16>) -> Result<(CcbId, u64), ApiError> {
    let found = app.blade.look(move |blade, _| {
        let ccbs = blade.cdm().iter().map(|(ccb, _)| ccb);
        let ccbs = ccbs.filter(|ccb| on.is_none_or(|on| ccb.0 == on));
        let serial = |ccb| {
            let mut calls = blade.calls(ccb).into_iter();
            let known = calls.find(|(_, record)| record.call == call)?;
            Some((ccb, known.1.serial))
        };
        ccbs.filter_map(serial).collect::<Vec<_>>()
    });
    match found.await.ok_or_else(stopping)?.as_slice() {
        [] => Err(ApiError::not_found("call")),
        [only] => Ok(*only),
        several => {
            let names: Vec<_> = several.iter().map(|(ccb, _)| ccb.to_string()).collect();
            let rule = format!("several CCBs have a call {call}, name one: {}", names.join(", "));
            Err(ApiError::malformed(Some("ccb"), rule))
        }
    }
}

/// The order, when its fields are what they must be.
fn what(app: &App, call: CallRef, body: Body) -> Result<(MediaOrder, String), ApiError> {
    let wrong = |field, rule: &str| Err(ApiError::malformed(Some(field), rule));
    let what = match body {
        Body::Play { prompt, .. } if !is_prompt_name(&prompt) => {
            return wrong("prompt", PROMPT_RULE);
        }
        Body::Play { prompt, times, .. } => return Ok((MediaOrder::Play { times }, prompt)),
        Body::StopPlaying {} => MediaOrder::StopPlaying,
        Body::Collect { max, .. } if !(1..=64).contains(&max) => {
            return wrong("max", "1 to 64 digits may be collected");
        }
        Body::Collect { first_ms, .. } if !(1..=DIGIT_MS).contains(&first_ms) => {
            return wrong("first_ms", "a digit may take 1 ms to an hour");
        }
        Body::Collect { next_ms, .. } if !(1..=DIGIT_MS).contains(&next_ms) => {
            return wrong("next_ms", "a digit may take 1 ms to an hour");
        }
        Body::Collect { max, first_ms, next_ms, ends, barge_in } => {
            let Some(ends) = digit_set(&ends) else {
                return wrong("ends", "the digits that end it are of 0 to 9, *, #, A to D");
            };
            MediaOrder::Collect { max, first_ms, next_ms, ends, barge_in }
        }
        Body::Record {} => MediaOrder::Record { recording: app.recordings.next() },
        Body::PauseRecording {} => MediaOrder::PauseRecording,
        Body::ResumeRecording {} => MediaOrder::ResumeRecording,
        Body::StopRecording {} => MediaOrder::StopRecording,
        Body::Mix { mix, .. } if !(1..=MIXES).contains(&mix) => return wrong("mix", MIX_RULE),
        Body::Mix { mix, role, to, to_leg } => {
            let role = match (role, &to) {
                (Role::Whisper, Some(_)) => MixRole::Whisper,
                (Role::Whisper, None) => return wrong("to", "a whisper needs the call it is for"),
                (_, Some(_)) => return wrong("to", "only a whisper is for one call"),
                (Role::Participant, None) => MixRole::Participant,
                (Role::Monitor, None) => MixRole::Monitor,
            };
            if to.is_none() && to_leg.is_some() {
                return wrong("to_leg", "a leg is of the call that `to` names");
            }
            let to = to.map_or(Ok(call), |to| call_ref(&to))?;
            MediaOrder::Mix { mix, role, to, to_leg: to_leg.unwrap_or(0) }
        }
        Body::LeaveMix {} => MediaOrder::LeaveMix,
    };
    Ok((what, String::new()))
}

/// The digits as bits by their numbers; `None` when one is none.
fn digit_set(text: &str) -> Option<u16> {
    text.chars().try_fold(0, |set, digit| {
        let number = DIGITS.chars().position(|one| one == digit.to_ascii_uppercase())?;
        Some(set | 1 << number)
    })
}

/// `done` or `stopped`, or the error that names what does not fit.
fn result_of(outcome: OpOutcome, what: &MediaOrder) -> Result<&'static str, ApiError> {
    match outcome {
        OpOutcome::Done(OpResult::Ok) => Ok("done"),
        OpOutcome::Done(OpResult::Stopped) => Ok("stopped"),
        OpOutcome::Done(OpResult::NoSuchCall) | OpOutcome::Unknown => {
            Err(ApiError::not_found("call"))
        }
        OpOutcome::NoSuchLeg => Err(ApiError::not_found("leg")),
        OpOutcome::Done(OpResult::NoSuchPrompt) => Err(ApiError::not_found("prompt")),
        OpOutcome::NoSuchListener => Err(ApiError::not_found("call to whisper to")),
        OpOutcome::ListenerElsewhere => {
            Err(ApiError::conflict("the leg to whisper to is not in that mix"))
        }
        OpOutcome::NoSuchMix => Err(ApiError::malformed(Some("mix"), MIX_RULE)),
        OpOutcome::Done(OpResult::Refused) => Err(ApiError::conflict(unfit(what))),
        OpOutcome::Done(OpResult::Full) => Err(ApiError::conflict("the worker has no room for it")),
        OpOutcome::Done(other) => Err(ApiError::refused(&format!("{other:?}"))),
        OpOutcome::No(no) => Err(ApiError::conflict(&no.rule())),
        OpOutcome::Gone => Err(ApiError::refused("nothing; it is gone")),
        OpOutcome::Lost => Err(ApiError::refused("nothing in time")),
    }
}

/// Why a worker refuses an order.
fn unfit(what: &MediaOrder) -> &'static str {
    match what {
        MediaOrder::StopPlaying => "nothing is played to the leg",
        MediaOrder::Record { .. } => "the leg is not answered, or is recorded already",
        MediaOrder::PauseRecording => "the leg is not recorded, or is paused already",
        MediaOrder::ResumeRecording => "the leg is not recorded, or is not paused",
        MediaOrder::StopRecording => "the leg is not recorded",
        MediaOrder::LeaveMix => "the leg is in no mix",
        MediaOrder::Play { .. }
        | MediaOrder::Collect { .. }
        | MediaOrder::Mix { .. }
        | MediaOrder::Confer { .. } => {
            "the leg is not answered, or has no audio that this works on"
        }
    }
}

fn cause_name(cause: DigitsCause) -> &'static str {
    match cause {
        DigitsCause::Full => "full",
        DigitsCause::Ended => "ended",
        DigitsCause::Timeout => "timeout",
        DigitsCause::Stopped => "stopped",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recordings_have_numbers_that_grow() {
        let numbers = RecordingNumbers::default();
        let all: Vec<u64> = (0..200_000).map(|_| numbers.next()).collect();
        assert!(all.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(all[0] >> 16 > 1_700_000_000_000);
    }

    #[test]
    fn digits_are_a_set() {
        for (text, set) in
            [("", Some(0)), ("#", Some(1 << 11)), ("0*d", Some(1 | 1 << 10 | 1 << 15)), ("E", None)]
        {
            assert_eq!(digit_set(text), set, "{text}");
        }
    }
}
