//! Tenants, agents, locations and mappings from files and to files, over the admin socket.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{ApiError, App};
use crate::directory::{Format, ImportError, ImportOptions, SourceFile};

/// The longest body of an import: 100,000 agents at some 600 bytes each.
pub const IMPORT_BYTES: usize = 64 << 20;

/// What of the directory is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Export {
    format: Option<Format>,
    tenant: Option<String>,
    #[serde(default)]
    secrets: bool,
}

/// `GET /v1/directory`: everything, or everything of one tenant, as files.
pub async fn export(
    State(app): State<App>,
    Query(asked): Query<Export>,
) -> Result<Json<Value>, ApiError> {
    if let Some(name) = &asked.tenant {
        app.directory.tenant(name).await?.ok_or_else(|| ApiError::not_found("tenant"))?;
    }
    let format = asked.format.unwrap_or(Format::Toml);
    let files = app.directory.export(format, asked.tenant.as_deref(), asked.secrets).await?;
    if asked.secrets {
        tracing::warn!(event = "security", "the hashes of all passwords were exported");
    }
    Ok(Json(json!({ "files": files })))
}

/// How files are imported.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Import {
    #[serde(default)]
    check: bool,
    #[serde(default)]
    prune: bool,
    tenant: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Files {
    files: Vec<SourceFile>,
}

/// `PUT /v1/directory`: makes the directory what the files say, all of it or nothing.
pub async fn import(
    State(app): State<App>,
    Query(asked): Query<Import>,
    body: Bytes,
) -> Result<Response, ApiError> {
    // What is wrong with it may lie beside a password, so that the text itself is not shown.
    let body: Files = serde_json::from_slice(&body).map_err(|error| {
        let rule = format!("must be {{\"files\":[{{\"name\",\"text\"}}]}}, at {}", error.column());
        ApiError::malformed(Some("files"), rule)
    })?;
    let options = ImportOptions {
        check: asked.check,
        prune: asked.prune,
        tenant: asked.tenant,
        cost: Some(app.hash_cost),
    };
    let imported = match app.directory.import(&body.files, &options).await {
        Ok(imported) => imported,
        Err(ImportError::Directory(error)) => return Err(error.into()),
        Err(ImportError::Faults(faults)) => {
            let count = faults.faults.len() + faults.more;
            let message = format!("{count} faults; nothing was changed");
            let error = json!({ "code": "faults", "message": message });
            let body = json!({ "error": error, "faults": faults.faults, "more": faults.more });
            return Ok((StatusCode::UNPROCESSABLE_ENTITY, Json(body)).into_response());
        }
    };
    let changed = imported.changed();
    let logged_out = match changed > 0 && !asked.check {
        true => app.keeper.refresh().await?,
        false => 0,
    };
    if changed > 0 && !asked.check {
        tracing::info!(changed, logged_out, "an import changed the directory");
    }
    let body = json!({
        "check": asked.check,
        "changed": changed,
        "tables": imported.tables,
        "changes": imported.changes,
        "logged_out": logged_out,
    });
    Ok(Json(body).into_response())
}
