//! What the tools ask control over its admin socket.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::http::{self, HttpError, Server};

/// What a desk says to log out.
pub const EXIT_MESSAGE: &str = r#"{"type":"exit"}"#;
/// A CCB that takes logins.
const NORMAL: &str = "normal";
/// How often control is asked while something is waited for.
const ASK_EVERY: Duration = Duration::from_millis(20);

/// Asks for JSON.
pub async fn ask(server: &Server, path: &str) -> Result<Value, HttpError> {
    let answer = http::get(server, path).await?;
    answer.success().and_then(|answer| answer.json()).map_err(HttpError::Broken)
}

/// What keeps control from saying that every CCB runs normally; none when nothing does.
pub async fn not_running(server: &Server) -> Option<String> {
    let status = match ask(server, "/v1/status").await {
        Ok(status) => status,
        Err(error) => return Some(format!("control: {error}")),
    };
    let ccbs = status["ccbs"].as_array()?;
    let other = ccbs.iter().find(|ccb| ccb["status"] != NORMAL)?;
    Some(format!("control says that CCB {} is {}", other["ccb"], text(&other["status"])))
}

/// Waits until that many agents are online on these blades together.
pub async fn wait_online(servers: &[Server], agents: usize, limit: Duration) -> Result<(), String> {
    let begun = Instant::now();
    loop {
        let mut online = 0;
        for server in servers {
            let answer = ask(server, "/v1/agents").await.map_err(|error| error.to_string())?;
            let rows = answer["agents"].as_array().map_or(&[][..], Vec::as_slice);
            online += rows.iter().filter(|agent| agent["online"] == true).count();
        }
        if online >= agents {
            return Ok(());
        }
        if begun.elapsed() > limit {
            return Err(format!(
                "{online} of {agents} agents are online after {} s",
                limit.as_secs()
            ));
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// A value for people: texts without quotes, nothing for null.
pub fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
