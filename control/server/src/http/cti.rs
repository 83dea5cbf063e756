//! The CTI: a desk's WebSocket. The session behind it outlives it by 30 s and by a restart of control.

use std::sync::atomic::Ordering;
use std::time::Duration;

use abi::OpResult;
use axum::Extension;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use control_core::{
    CloseReason, DeskCommand, DeskMessage, DeskRefusal, End, Input, LoginKey, OpOutcome, SeatEvent,
    Supervision, reason,
};
use futures_util::SinkExt;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::serve::Visitor;
use super::{ApiError, App, forwards};
use crate::owner::{Ask, DESK_MESSAGES, ToDesk};
use crate::records;
use crate::secret::Secret;

/// The version of the messages.
const VERSION: u32 = 1;
/// The subprotocol that browsers may name beside their token.
const PROTOCOL: &str = "jackfield.cti";
/// How often a desk is pinged.
const PING_S: u64 = 10;
/// A desk that was silent for this long is gone: two pings and some seconds.
const SILENT_S: u64 = 25;
/// How long a desk may take to send its token.
const LOGIN_S: u64 = 5;
/// How long a desk may take to make room for a message.
const SEND_S: u64 = 5;
/// The longest message of a desk.
const MESSAGE_BYTES: usize = 16 * 1024;
/// Orders of one desk that wait for their answer; more are refused.
const ORDERS: usize = 16;
/// Messages that go to a desk in one write.
const TOLD: usize = 32;
/// The longest `id` of a message.
const ID_BYTES: usize = 64;
/// What is read ahead of a desk, and gathered for it.
const BUFFER_BYTES: usize = 4 * 1024;
/// What may wait for a desk in memory; our messages are short.
const MAX_BUFFER_BYTES: usize = 64 * 1024;

/// The token may come in the query, where headers cannot be set.
#[derive(Deserialize)]
pub struct TokenQuery {
    token: Option<Secret>,
}

/// A message of a desk.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromDesk {
    /// The first message, unless the token came with the request.
    Login {
        /// The login's token.
        #[schema(value_type = String)]
        token: Secret,
    },
    /// The agent logs out.
    Exit,
    /// Asks for a `pong`.
    Ping,
    /// The agent takes calls of queues. This and what follows is answered by one `reply` with the same `id`.
    Ready,
    /// The agent takes no calls of queues; during a call: after it.
    NotReady {
        /// Why, at most 24 bytes.
        #[serde(default)]
        reason: String,
    },
    /// A call is to end.
    HangUp {
        /// The call's serial number; none is the newest.
        call: Option<String>,
    },
    /// The agent's phone is to be called, and then a number.
    Dial {
        /// The number.
        to: String,
    },
    /// The agent's phone, which rings, is to answer.
    Answer {
        /// The call's serial number; none is the newest.
        call: Option<String>,
    },
    /// The other party of a call is to be put on hold.
    Hold {
        /// The call's serial number; none is the newest.
        call: Option<String>,
    },
    /// The other party is to be taken back.
    Retrieve {
        /// The call's serial number; none is the newest.
        call: Option<String>,
    },
    /// The phone of the agent, a supervisor with the right `supervise`, is called to hear another agent's call. While
    /// that is so, this changes how.
    Supervise {
        /// The other agent's number.
        agent: String,
        /// How.
        mode: Mode,
    },
    /// The supervisor leaves.
    StopSupervising,
    /// A number is called into a call, which becomes a conference of the agent's.
    ConferenceAdd {
        /// The call's serial number; none is the newest.
        call: Option<String>,
        /// The number.
        to: String,
    },
    /// A number leaves the conference.
    ConferenceDrop {
        /// The call's serial number; none is the newest.
        call: Option<String>,
        /// The number.
        to: String,
    },
    /// The other party of a call is to be given to a number.
    Transfer {
        /// The call's serial number; none is the newest.
        call: Option<String>,
        /// The number.
        to: String,
    },
}

/// How a supervisor hears a call.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Heard by nobody.
    Monitor,
    /// Heard by the agent alone.
    Whisper,
    /// Heard by all.
    Barge,
}

/// A message of a desk with the name of its answer.
#[derive(Debug, Deserialize)]
struct Framed {
    id: Option<AskId>,
    #[serde(flatten)]
    body: FromDesk,
}

/// A number or a text of a desk's, which comes back as it was.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(untagged)]
enum AskId {
    /// A number.
    Number(u64),
    /// A text.
    Text(String),
}

/// A message to a desk; events of calls are named after CSTA's (ECMA-269).
#[derive(Debug, Serialize, ToSchema)]
pub struct DeskText {
    /// The version of this format.
    v: u32,
    /// What it says.
    #[serde(flatten)]
    body: DeskBody,
}

/// What a message says.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
enum DeskBody {
    /// How far the login is: `waiting_for_phone` or `logged_in`.
    LoginProgress { state: &'static str },
    /// The phone registered.
    PhoneRegistered { address: String },
    /// The phone's registration is gone.
    PhoneLost,
    /// A newer login of the same agent took over.
    Replaced,
    /// The CCB is given back to the pool, or is away: log in again with the token; the login stands for these milliseconds.
    LogInAgain { within_ms: u32 },
    /// The login is over.
    LoggedOut { reason: &'static str },
    /// The agent calls.
    #[serde(rename = "Originated")]
    Originated(CallBody),
    /// The called party rings.
    #[serde(rename = "Delivered")]
    Delivered(CallBody),
    /// The parties talk.
    #[serde(rename = "Established")]
    Established(CallBody),
    /// The call is over.
    #[serde(rename = "ConnectionCleared")]
    ConnectionCleared(CallBody),
    /// The agent called a queue and waits in it.
    #[serde(rename = "Queued")]
    Queued(CallBody),
    /// The other party was put on hold.
    #[serde(rename = "Held")]
    Held(CallBody),
    /// The other party was taken back.
    #[serde(rename = "Retrieved")]
    Retrieved(CallBody),
    /// The phone was not answered in time, or refused the call; its caller waits on.
    #[serde(rename = "Failed")]
    Failed(CallBody),
    /// Phone and desk are there.
    #[serde(rename = "AgentLoggedOn")]
    AgentLoggedOn,
    /// The login is over.
    #[serde(rename = "AgentLoggedOff")]
    AgentLoggedOff,
    /// The agent is idle and takes calls of queues.
    #[serde(rename = "AgentReady")]
    AgentReady,
    /// The agent takes no calls of queues.
    #[serde(rename = "AgentNotReady")]
    AgentNotReady {
        /// Why.
        reason: String,
    },
    /// A call came, or is on its way.
    #[serde(rename = "AgentBusy")]
    AgentBusy,
    /// The agent works on what the call was about.
    #[serde(rename = "AgentWorkingAfterCall")]
    AgentWorkingAfterCall {
        /// For how long, unless the desk says `ready` before.
        ms: u64,
    },
    /// The answer to a message with that `id`.
    Reply {
        /// As it was given.
        id: Option<AskId>,
        /// `ok`, `refused`, `unknown` (no such call), `no_agent`, `full`, `gone` (the data plane is away), `lost`,
        /// `malformed`, `too_many` (16 wait for their answers).
        result: &'static str,
        /// Of `refused`, the field that it is about, where one is.
        #[serde(skip_serializing_if = "Option::is_none")]
        field: Option<&'static str>,
        /// The rule that it breaks.
        #[serde(skip_serializing_if = "Option::is_none")]
        rule: Option<String>,
    },
    /// A digit was pressed in the call.
    #[serde(rename = "DTMFDetected")]
    DtmfDetected(DigitBody),
    /// The answer to `ping`.
    Pong,
    /// The desk's message was not understood or not allowed.
    Error { code: &'static str },
}

/// A call as one of its agents sees it.
#[derive(Debug, Serialize, ToSchema)]
struct CallBody {
    /// The call's serial number, digits.
    call: String,
    /// The other party's number.
    party: String,
    /// `in` when the other party called the agent, else `out`.
    direction: &'static str,
    /// Why it ended, a SIP status; 0 when it ended well or has not ended.
    cause: u32,
    /// The queue that it came by.
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<String>,
    /// How long the caller waited there, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    waited_ms: Option<u64>,
}

/// A digit that was pressed in a call.
#[derive(Debug, Serialize, ToSchema)]
struct DigitBody {
    /// The call's serial number, digits.
    call: String,
    /// The number of who pressed it.
    party: String,
    /// `own` when the agent pressed it, else `other`.
    by: &'static str,
    /// `0` to `9`, `*`, `#`, `A` to `D`, or `!` for a hook flash.
    digit: char,
    /// For how long, in milliseconds.
    duration_ms: u16,
}

/// Attaches a desk to its login. The token comes as `Authorization: Bearer`, as `token` in the query,
/// as a subprotocol beside `jackfield.cti`, or in a first message `{"type":"login","token":...}`.
#[utoipa::path(
    get, path = "/v1/cti",
    params(("token" = Option<String>, Query, description = "The login's token")),
    responses(
        (status = 101, description = "WebSocket of JSON messages: FromDesk and DeskText"),
        (status = 401, body = super::ErrorBody, description = "The token is not one of ours"),
    )
)]
pub async fn cti(
    State(app): State<App>,
    Query(query): Query<TokenQuery>,
    Extension(visitor): Extension<Visitor>,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Response {
    let login = match query.token.or_else(|| token_of(&headers)) {
        None => None,
        Some(token) => match app.tokens.read(&token) {
            Some(claims) => Some(claims.login()),
            None => return ApiError::unauthorized().into_response(),
        },
    };
    let upgrade = upgrade
        .protocols([PROTOCOL])
        .max_message_size(MESSAGE_BYTES)
        .max_frame_size(MESSAGE_BYTES)
        .read_buffer_size(BUFFER_BYTES)
        .write_buffer_size(BUFFER_BYTES)
        .max_write_buffer_size(MAX_BUFFER_BYTES);
    upgrade.on_upgrade(move |socket| desk(app, visitor, socket, login))
}

fn token_of(headers: &HeaderMap) -> Option<Secret> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(bearer) = text(header::AUTHORIZATION) {
        return bearer.strip_prefix("Bearer ").map(Secret::new);
    }
    let protocols = text(header::SEC_WEBSOCKET_PROTOCOL)?;
    protocols.split(',').map(str::trim).find(|name| *name != PROTOCOL).map(Secret::new)
}

/// One WebSocket from its upgrade to its end, for which it keeps its seat.
async fn desk(app: App, visitor: Visitor, mut ws: WebSocket, login: Option<LoginKey>) {
    let login = match login {
        Some(login) => login,
        None => match first_message(&app, &mut ws).await {
            Some(login) => login,
            None => return refuse(&mut ws).await,
        },
    };
    visitor.settle();
    let socket = app.next_socket.fetch_add(1, Ordering::Relaxed);
    let (sender, messages) = mpsc::channel(DESK_MESSAGES);
    app.blade.tell(Ask::DeskAttached { socket, login, desk: sender }).await;
    // What ends the loop is a socket that is gone, or a close that was sent.
    let _ = talk(&app, &mut ws, socket, messages).await;
    app.blade.tell(Ask::DeskLost { socket }).await;
}

async fn first_message(app: &App, ws: &mut WebSocket) -> Option<LoginKey> {
    let first = tokio::time::timeout(Duration::from_secs(LOGIN_S), async {
        loop {
            match ws.recv().await {
                Some(Ok(Message::Text(text))) => return Some(text),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                _ => return None,
            }
        }
    });
    match serde_json::from_str(first.await.ok()??.as_str()) {
        Ok(FromDesk::Login { token }) => app.tokens.read(&token).map(|claims| claims.login()),
        _ => None,
    }
}

async fn refuse(ws: &mut WebSocket) {
    let _ = say(ws, DeskBody::Error { code: "unauthorized" }).await;
    let _ = close(ws, CloseReason::NoLogin).await;
}

/// Carries messages both ways until one side ends it.
async fn talk(
    app: &App,
    ws: &mut WebSocket,
    socket: u64,
    mut messages: mpsc::Receiver<ToDesk>,
) -> Result<(), axum::Error> {
    let mut pings = tokio::time::interval(Duration::from_secs(PING_S));
    let mut heard_at = Instant::now();
    let (answers, mut answered) = mpsc::channel(ORDERS);
    let mut told = Vec::new();
    loop {
        tokio::select! {
            // We hold a sender, so that it never ends.
            Some(reply) = answered.recv() => say(ws, reply).await?,
            count = messages.recv_many(&mut told, TOLD) => {
                // The owner dropped us: we were too slow, or the process stops.
                if count == 0 {
                    return Ok(());
                }
                for message in told.drain(..) {
                    match message {
                        ToDesk::Say(message) => feed(ws, body_of(message)).await?,
                        ToDesk::Close(reason) => return part(ws, reason).await,
                    }
                }
                in_time(ws.flush()).await?;
            },
            received = ws.recv() => {
                let Some(received) = received.transpose()? else { return Ok(()) };
                heard_at = Instant::now();
                match received {
                    Message::Text(text) => {
                        answer(app, ws, socket, text.as_str(), &answers).await?;
                    }
                    Message::Binary(_) => say(ws, DeskBody::Error { code: "not_text" }).await?,
                    Message::Close(_) => return Ok(()),
                    Message::Ping(_) | Message::Pong(_) => {}
                }
            },
            _ = pings.tick() => {
                if heard_at.elapsed() > Duration::from_secs(SILENT_S) {
                    return Ok(());
                }
                send(ws, Message::Ping(Default::default())).await?;
            }
        }
    }
}

async fn answer(
    app: &App,
    ws: &mut WebSocket,
    socket: u64,
    text: &str,
    answers: &mpsc::Sender<DeskBody>,
) -> Result<(), axum::Error> {
    let Ok(Framed { id, body }) = serde_json::from_str(text) else {
        return say(ws, DeskBody::Error { code: "malformed" }).await;
    };
    let is_long = |id: &AskId| matches!(id, AskId::Text(text) if text.len() > ID_BYTES);
    match body {
        _ if id.as_ref().is_some_and(is_long) => {
            say(ws, DeskBody::Error { code: "malformed" }).await
        }
        FromDesk::Exit => {
            app.blade.tell(Ask::DeskExit { socket }).await;
            Ok(())
        }
        FromDesk::Ping => say(ws, DeskBody::Pong).await,
        FromDesk::Login { .. } => say(ws, DeskBody::Error { code: "already_attached" }).await,
        body => {
            let Some(command) = command_of(body) else {
                return say(ws, reply_of(id, "malformed")).await;
            };
            // Each order has a place for its answer until that is sent.
            let Ok(place) = answers.clone().try_reserve_owned() else {
                return say(ws, reply_of(id, "too_many")).await;
            };
            let blade = app.blade.clone();
            tokio::spawn(async move {
                let made = move |reply| Input::DeskCommand { reply, socket, command };
                place.send(outcome_of(id, blade.command(made).await));
            });
            Ok(())
        }
    }
}

/// Says why, if the desk cannot know it, and closes.
async fn part(ws: &mut WebSocket, reason: CloseReason) -> Result<(), axum::Error> {
    match reason {
        CloseReason::NoLogin => say(ws, DeskBody::Error { code: "unauthorized" }).await?,
        CloseReason::Elsewhere => say(ws, DeskBody::Error { code: "elsewhere" }).await?,
        CloseReason::Ended(_) | CloseReason::Taken => {}
    }
    close(ws, reason).await
}

async fn say(ws: &mut WebSocket, body: DeskBody) -> Result<(), axum::Error> {
    feed(ws, body).await?;
    in_time(ws.flush()).await
}

/// Writes a message that goes out with the next flush.
async fn feed(ws: &mut WebSocket, body: DeskBody) -> Result<(), axum::Error> {
    let text = serde_json::to_string(&DeskText { v: VERSION, body });
    in_time(ws.feed(Message::Text(text.map_err(axum::Error::new)?.into()))).await
}

async fn send(ws: &mut WebSocket, message: Message) -> Result<(), axum::Error> {
    in_time(ws.send(message)).await
}

/// Gives up a desk that does not read.
async fn in_time(
    sending: impl Future<Output = Result<(), axum::Error>>,
) -> Result<(), axum::Error> {
    tokio::time::timeout(Duration::from_secs(SEND_S), sending).await.map_err(axum::Error::new)?
}

/// Closes with a code of the range that RFC 6455, 7.4.2 leaves to applications, or normally.
async fn close(ws: &mut WebSocket, reason: CloseReason) -> Result<(), axum::Error> {
    let (code, reason) = match reason {
        CloseReason::Ended(End::Exit) => (1000, "exit"),
        CloseReason::Ended(end) => (4001, end.name()),
        CloseReason::Taken => (4002, "taken"),
        CloseReason::NoLogin => (4401, "unauthorized"),
        // As HTTP's 421, Misdirected Request.
        CloseReason::Elsewhere => (4421, "elsewhere"),
    };
    let frame = CloseFrame { code, reason: reason.into() };
    send(ws, Message::Close(Some(frame))).await
}

fn body_of(message: DeskMessage) -> DeskBody {
    use control_core::CallEvent;
    match message {
        DeskMessage::LoginProgress { complete } => {
            let state = if complete { "logged_in" } else { "waiting_for_phone" };
            DeskBody::LoginProgress { state }
        }
        DeskMessage::PhoneRegistered { address } => {
            DeskBody::PhoneRegistered { address: address.to_string() }
        }
        DeskMessage::PhoneLost => DeskBody::PhoneLost,
        DeskMessage::Replaced => DeskBody::Replaced,
        DeskMessage::LogInAgain { within_ms } => DeskBody::LogInAgain { within_ms },
        DeskMessage::LoggedOut { end } => DeskBody::LoggedOut { reason: end.name() },
        DeskMessage::Digit { serial, party, own, digit, duration_ms } => {
            let (call, by) = (records::serial_text(serial), if own { "own" } else { "other" });
            DeskBody::DtmfDetected(DigitBody { call, party, by, digit, duration_ms })
        }
        DeskMessage::Agent(event) => seat_body(event),
        DeskMessage::Call { event, serial, party, incoming, cause, queue } => {
            let direction = if incoming { "in" } else { "out" };
            let (queue, waited_ms) = queue.unzip();
            let call = records::serial_text(serial);
            let call = CallBody { call, party, direction, cause, queue, waited_ms };
            match event {
                CallEvent::Originated => DeskBody::Originated(call),
                CallEvent::Delivered => DeskBody::Delivered(call),
                CallEvent::Established => DeskBody::Established(call),
                CallEvent::Queued => DeskBody::Queued(call),
                CallEvent::Held => DeskBody::Held(call),
                CallEvent::Retrieved => DeskBody::Retrieved(call),
                CallEvent::Failed => DeskBody::Failed(call),
                CallEvent::ConnectionCleared => DeskBody::ConnectionCleared(call),
            }
        }
    }
}

fn seat_body(event: SeatEvent) -> DeskBody {
    match event {
        SeatEvent::AgentLoggedOn => DeskBody::AgentLoggedOn,
        SeatEvent::AgentLoggedOff => DeskBody::AgentLoggedOff,
        SeatEvent::AgentReady => DeskBody::AgentReady,
        SeatEvent::AgentNotReady(why) => {
            DeskBody::AgentNotReady { reason: why.as_str().to_owned() }
        }
        SeatEvent::AgentBusy => DeskBody::AgentBusy,
        SeatEvent::AgentWorkingAfterCall(time) => {
            DeskBody::AgentWorkingAfterCall { ms: time.as_millis() as u64 }
        }
    }
}

/// What a desk's order is to the core; none when it names no call or number that could be.
fn command_of(body: FromDesk) -> Option<DeskCommand> {
    let serial = |call: Option<String>| match call {
        None => Some(None),
        Some(text) => text.parse().ok().map(Some),
    };
    let number = |to: String| forwards::number_of(to, "to").ok();
    match body {
        FromDesk::Ready => Some(DeskCommand::Ready),
        FromDesk::NotReady { reason: why } => Some(DeskCommand::NotReady(reason(&why))),
        FromDesk::HangUp { call } => Some(DeskCommand::HangUp(serial(call)?)),
        FromDesk::Dial { to } => Some(DeskCommand::Dial(number(to)?)),
        FromDesk::Transfer { call, to } => Some(DeskCommand::Transfer(serial(call)?, number(to)?)),
        FromDesk::Answer { call } => Some(DeskCommand::Answer(serial(call)?)),
        FromDesk::Hold { call } => Some(DeskCommand::Hold(serial(call)?)),
        FromDesk::Retrieve { call } => Some(DeskCommand::Retrieve(serial(call)?)),
        FromDesk::Supervise { agent, mode } => {
            let how = match mode {
                Mode::Monitor => Supervision::Monitor,
                Mode::Whisper => Supervision::Whisper,
                Mode::Barge => Supervision::Barge,
            };
            Some(DeskCommand::Supervise(number(agent)?, how))
        }
        FromDesk::StopSupervising => Some(DeskCommand::StopSupervising),
        FromDesk::ConferenceAdd { call, to } => {
            Some(DeskCommand::ConferenceAdd(serial(call)?, number(to)?))
        }
        FromDesk::ConferenceDrop { call, to } => {
            Some(DeskCommand::ConferenceDrop(serial(call)?, number(to)?))
        }
        FromDesk::Login { .. } | FromDesk::Exit | FromDesk::Ping => None,
    }
}

fn reply_of(id: Option<AskId>, result: &'static str) -> DeskBody {
    DeskBody::Reply { id, result, field: None, rule: None }
}

/// The answer to an order.
fn outcome_of(id: Option<AskId>, outcome: OpOutcome) -> DeskBody {
    let result = result_name(outcome);
    match outcome {
        OpOutcome::No(no) => {
            DeskBody::Reply { id, result, field: Some(no.field()), rule: Some(no.rule()) }
        }
        _ => reply_of(id, result),
    }
}

fn result_name(outcome: OpOutcome) -> &'static str {
    match outcome {
        OpOutcome::Done(OpResult::Ok) => "ok",
        OpOutcome::Done(OpResult::NoSuchCall)
        | OpOutcome::Unknown
        | OpOutcome::NoSuchLeg
        | OpOutcome::No(DeskRefusal::NoCall) => "unknown",
        OpOutcome::Done(OpResult::NoSuchAgent) => "no_agent",
        OpOutcome::Done(OpResult::Full) => "full",
        OpOutcome::Gone => "gone",
        OpOutcome::Lost => "lost",
        _ => "refused",
    }
}
