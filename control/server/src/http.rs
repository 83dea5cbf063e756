//! What agents reach: login, logout, the CTI WebSocket, the description of it all, health.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use base::CcbId;
use control_core::{Cidr, End};
use serde::Deserialize;
use utoipa::{OpenApi, ToSchema};

use crate::bus::BusState;
use crate::config::HashCost;
use crate::directory::Directory;
use crate::keeper::Keeper;
use crate::owner::BladeHandle;
use crate::password::PasswordCheck;
use crate::records::RecordState;
use crate::secret::Secret;
use crate::token::Tokens;

pub mod admin;
mod blades;
mod cti;
mod directory;
pub mod door;
mod error;
mod forwards;
mod login;
mod orders;
mod pool;
mod queues;
pub mod serve;
mod traces;

pub use error::{ApiError, ErrorBody};
pub use orders::RecordingNumbers;

/// The longest body of a request.
const BODY_BYTES: usize = 16 * 1024;

/// What every request may use.
pub type App = Arc<Parts>;

/// What every request may use.
pub struct Parts {
    /// The directory.
    pub directory: Directory,
    /// Keeps the core equal to the directory.
    pub keeper: Arc<Keeper>,
    /// Checks passwords.
    pub passwords: PasswordCheck,
    /// What hashes of passwords cost that this process makes.
    pub hash_cost: HashCost,
    /// Counts logins and keeps those out who guess.
    pub door: door::Door,
    /// Signs and reads tokens.
    pub tokens: Tokens,
    /// The core.
    pub blade: BladeHandle,
    /// How long a SIP registration may last.
    pub registration_life: Duration,
    /// The number that the next WebSocket gets.
    pub next_socket: AtomicU64,
    /// Mints the numbers of recordings.
    pub recordings: RecordingNumbers,
    /// The CCBs that have a spool, so that they can record.
    pub spoolers: HashSet<CcbId>,
    /// How the writing of call records goes; none when none are kept.
    pub records: Option<Arc<RecordState>>,
    /// How it goes with the bus; none when the blade is alone.
    pub bus: Option<Arc<BusState>>,
    /// The number that the next trace gets.
    pub next_trace: AtomicU32,
    /// Where traces may be sent besides this machine.
    pub trace_to: Vec<Cidr>,
    /// True once this process is to stop.
    pub draining: AtomicBool,
    /// When this process began to serve.
    pub started_at: base::Instant,
}

#[derive(OpenApi)]
#[openapi(
    info(title = "Jackfield", description = "Agents log in here and attach their desks."),
    paths(login::login, logout, cti::cti, health, ready, openapi),
    components(schemas(
        login::LoginBody,
        login::LoginAnswer,
        LogoutBody,
        ErrorBody,
        cti::FromDesk,
        cti::DeskText
    ))
)]
struct Api;

/// The router of what agents reach.
pub fn router(app: App) -> Router {
    Router::new()
        .route("/v1/login", post(login::login).layer(map_response(close)))
        .route("/v1/logout", post(logout))
        .route("/v1/cti", get(cti::cti))
        .route("/v1/openapi.json", get(openapi))
        .route("/healthz", get(health))
        .route("/ready", get(ready))
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .with_state(app)
}

/// Marks an answer, whichever it is, as the last of its connection (S1-066) and as nobody's to keep.
async fn close(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// `POST /v1/logout`: the login to end.
#[derive(Debug, Deserialize, ToSchema)]
pub struct LogoutBody {
    /// The token of the login.
    #[schema(value_type = String)]
    token: Secret,
}

/// Ends a login; its SIP secret and its registration go with it.
#[utoipa::path(
    post, path = "/v1/logout", request_body = LogoutBody,
    responses(
        (status = 204, description = "The login is over"),
        (status = 400, body = ErrorBody, description = "The body holds no token"),
        (status = 401, body = ErrorBody, description = "The token is not of a login that stands"),
    )
)]
async fn logout(
    State(app): State<App>,
    body: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, ApiError> {
    let body = body.map_err(|why| ApiError::unreadable(&why))?;
    let body: LogoutBody = serde_json::from_slice(&body)
        .map_err(|_| ApiError::malformed(Some("token"), "token must be given, as a text"))?;
    let claims = app.tokens.read(&body.token).ok_or_else(ApiError::unauthorized)?;
    match app.blade.logout(claims.login(), End::Exit).await {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(ApiError::unauthorized()),
    }
}

/// This description.
#[utoipa::path(get, path = "/v1/openapi.json", responses((status = 200, description = "OpenAPI")))]
async fn openapi() -> Json<utoipa::openapi::OpenApi> {
    Json(Api::openapi())
}

/// Whether a login would find the directory and a CCB.
#[utoipa::path(
    get, path = "/healthz",
    responses(
        (status = 200, description = "A CCB runs normally, the directory answers"),
        (status = 503, description = "No CCB runs normally, or the directory is away"),
    )
)]
async fn health(State(app): State<App>) -> (StatusCode, &'static str) {
    let normal = app.blade.look(|blade, _| blade.serves());
    match normal.await {
        Some(true) if app.directory.is_away() => {
            (StatusCode::SERVICE_UNAVAILABLE, "the directory is away\n")
        }
        Some(true) => (StatusCode::OK, "ok\n"),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "no CCB is running normally\n"),
    }
}

/// Whether balancers should send logins here.
#[utoipa::path(
    get, path = "/ready",
    responses(
        (status = 200, description = "Logins are welcome"),
        (status = 503, description = "This process stops, or no login would find the directory and a CCB; an \
            AgentProxy without a bus finds none"),
    )
)]
async fn ready(State(app): State<App>) -> (StatusCode, &'static str) {
    if app.draining.load(Ordering::Relaxed) {
        return (StatusCode::SERVICE_UNAVAILABLE, "this process stops\n");
    }
    health(State(app)).await
}
