//! The CTI: a desk's WebSocket. The session behind it outlives it by 30 s and by a restart of control.

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Extension;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use control_core::{CloseReason, DeskMessage, End, LoginKey};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::serve::Visitor;
use super::{ApiError, App};
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
    /// The CCB is given back to the pool: log in again with the token; the login ends after these milliseconds.
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
    loop {
        tokio::select! {
            message = messages.recv() => match message {
                Some(ToDesk::Say(message)) => say(ws, body_of(message)).await?,
                Some(ToDesk::Close(reason)) => {
                    match reason {
                        CloseReason::NoLogin => {
                            say(ws, DeskBody::Error { code: "unauthorized" }).await?;
                        }
                        CloseReason::Elsewhere => {
                            say(ws, DeskBody::Error { code: "elsewhere" }).await?;
                        }
                        CloseReason::Ended(_) | CloseReason::Taken => {}
                    }
                    return close(ws, reason).await;
                }
                // The owner dropped us: we were too slow, or the process stops.
                None => return Ok(()),
            },
            received = ws.recv() => {
                let Some(received) = received.transpose()? else { return Ok(()) };
                heard_at = Instant::now();
                match received {
                    Message::Text(text) => answer(app, ws, socket, text.as_str()).await?,
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

async fn answer(app: &App, ws: &mut WebSocket, socket: u64, text: &str) -> Result<(), axum::Error> {
    match serde_json::from_str(text) {
        Ok(FromDesk::Exit) => {
            app.blade.tell(Ask::DeskExit { socket }).await;
            Ok(())
        }
        Ok(FromDesk::Ping) => say(ws, DeskBody::Pong).await,
        Ok(FromDesk::Login { .. }) => say(ws, DeskBody::Error { code: "already_attached" }).await,
        Err(_) => say(ws, DeskBody::Error { code: "malformed" }).await,
    }
}

async fn say(ws: &mut WebSocket, body: DeskBody) -> Result<(), axum::Error> {
    let text = serde_json::to_string(&DeskText { v: VERSION, body });
    send(ws, Message::Text(text.map_err(axum::Error::new)?.into())).await
}

/// Sends, or gives up a desk that does not read.
async fn send(ws: &mut WebSocket, message: Message) -> Result<(), axum::Error> {
    let sent = tokio::time::timeout(Duration::from_secs(SEND_S), ws.send(message)).await;
    sent.map_err(axum::Error::new)?
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
        DeskMessage::Call { event, serial, party, incoming, cause } => {
            let direction = if incoming { "in" } else { "out" };
            let call = CallBody { call: records::serial_text(serial), party, direction, cause };
            match event {
                CallEvent::Originated => DeskBody::Originated(call),
                CallEvent::Delivered => DeskBody::Delivered(call),
                CallEvent::Established => DeskBody::Established(call),
                CallEvent::ConnectionCleared => DeskBody::ConnectionCleared(call),
            }
        }
    }
}
