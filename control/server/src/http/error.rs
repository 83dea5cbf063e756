use axum::Json;
use axum::extract::rejection::BytesRejection;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::directory::DirectoryError;

/// The code of each 401.
pub const UNAUTHORIZED: &str = "unauthorized";
/// The code of a login that is to come later.
pub const BUSY: &str = "busy";
/// When to ask again while the directory is away.
const DIRECTORY_AWAY_S: u32 = 2;

/// An answer that is not a success.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ApiError,
}

/// What went wrong.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ApiError {
    #[serde(skip)]
    #[schema(ignore)]
    status: u16,
    /// A word for programs.
    pub code: &'static str,
    /// A sentence for people.
    pub message: String,
    /// The field of the request that breaks a rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<&'static str>,
    /// The locations that the tenant has, when the one of the request is not among them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locations: Option<Vec<String>>,
    #[serde(skip)]
    #[schema(ignore)]
    retry_after_s: Option<u32>,
}

impl ApiError {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        ApiError {
            status: status.as_u16(),
            code,
            message: message.into(),
            field: None,
            locations: None,
            retry_after_s: None,
        }
    }

    /// 400: the body, or that field of it, is not what it must be.
    pub fn malformed(field: Option<&'static str>, rule: impl Into<String>) -> Self {
        ApiError { field, ..Self::new(StatusCode::BAD_REQUEST, "malformed", rule) }
    }

    /// 413 or 400: the body is too long, or did not come.
    pub fn unreadable(why: &BytesRejection) -> Self {
        Self::new(why.status(), "unreadable", why.body_text())
    }

    /// 401: one and the same for each thing that may be wrong.
    pub fn unauthorized() -> Self {
        let message = "tenant, agent or operator, password or token do not match";
        Self::new(StatusCode::UNAUTHORIZED, UNAUTHORIZED, message)
    }

    /// 422: the tenant has no such location (G-12).
    pub fn unknown_location(locations: Vec<String>) -> Self {
        let message = format!("the tenant's locations are: {}", locations.join(", "));
        ApiError {
            field: Some("location"),
            locations: Some(locations),
            ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "unknown_location", message)
        }
    }

    /// 409: the agent is in a call (G-24).
    pub fn in_call() -> Self {
        let message = "the agent is in a call; \"force\": true takes the login anyway";
        Self::new(StatusCode::CONFLICT, "in_call", message)
    }

    /// 503: no CCB runs normally and has room (S1-081).
    pub fn no_ccb(retry_after_s: u32) -> Self {
        let message = "no CCB is running normally for this location";
        ApiError {
            retry_after_s: Some(retry_after_s),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "no_ccb", message)
        }
    }

    /// 503: too many logins at a time, or too many wrong passwords for this name.
    pub fn busy(retry_after_s: u32) -> Self {
        let message = "too many logins; try again later";
        ApiError {
            retry_after_s: Some(retry_after_s),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, BUSY, message)
        }
    }

    /// 408: the request did not come, or was not done, in time.
    pub fn too_slow() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "too_slow", "the request took too long")
    }

    /// 404: there is no such thing.
    pub fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", format!("there is no such {what}"))
    }

    /// 409: it does not fit the state that things are in.
    pub fn conflict(why: &str) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", why)
    }

    /// 502: the data plane refused or did not answer.
    pub fn refused(why: &str) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, "refused", format!("the data plane says: {why}"))
    }

    /// 503: nobody can be looked up now.
    fn directory_away() -> Self {
        let message = "the directory is away; try again later";
        ApiError {
            retry_after_s: Some(DIRECTORY_AWAY_S),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "directory_away", message)
        }
    }

    /// 500; the reason goes to the log only.
    pub fn internal(why: &dyn std::fmt::Display) -> Self {
        tracing::error!(%why, "a request failed");
        let message = "the server could not do this; its log says why";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    }
}

impl From<DirectoryError> for ApiError {
    fn from(error: DirectoryError) -> Self {
        match error {
            // The log was told when it went.
            DirectoryError::Away(_) => ApiError::directory_away(),
            error => ApiError::internal(&error),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::BAD_REQUEST);
        let retry_after_s = self.retry_after_s;
        let mut response = (status, Json(ErrorBody { error: self })).into_response();
        if let Some(seconds) = retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}
