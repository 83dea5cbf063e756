//! HTTP/1.1 as the tools speak it: one request, one answer, connection closed.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, RETRY_AFTER};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// How long one request may take: a login hashes a password on a busy machine.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// The largest answer that is read: 100,000 agents at some 500 bytes each.
const LARGEST_ANSWER_BYTES: usize = 64 << 20;

/// Whom to ask.
#[derive(Clone, Debug)]
pub enum Server {
    /// The admin socket.
    Unix(PathBuf),
    /// The AgentProxy.
    Tcp(SocketAddr),
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Server::Unix(path) => path.display().fmt(f),
            Server::Tcp(address) => address.fmt(f),
        }
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
    /// When to come again, in seconds, if it says so.
    pub retry_after_s: Option<u64>,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Result<Value, String> {
        serde_json::from_slice(&self.body)
            .map_err(|error| format!("the answer is no JSON: {error}"))
    }

    /// The answer when it is a success, else what it says.
    pub fn success(self) -> Result<Answer, String> {
        if (200..300).contains(&self.status) {
            return Ok(self);
        }
        let text = String::from_utf8_lossy(&self.body);
        Err(format!("status {}: {}", self.status, text.trim()))
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub enum HttpError {
    /// Nobody listens there.
    Away(std::io::Error),
    /// The connection was made, then something went wrong.
    Broken(String),
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HttpError::Away(error) => write!(f, "nobody answers: {error}"),
            HttpError::Broken(why) => f.write_str(why),
        }
    }
}

/// Asks `server` for `path`.
pub async fn get(server: &Server, path: &str) -> Result<Answer, HttpError> {
    ask(server, Method::GET, path, None, REQUEST_TIMEOUT).await
}

/// Asks `server` for `path` and waits for the answer for so long.
pub async fn get_for(server: &Server, path: &str, limit: Duration) -> Result<Answer, HttpError> {
    ask(server, Method::GET, path, None, limit).await
}

/// Posts JSON to `path`.
pub async fn post(server: &Server, path: &str, body: &Value) -> Result<Answer, HttpError> {
    post_for(server, path, body, REQUEST_TIMEOUT).await
}

/// Posts JSON to `path` and waits for the answer for so long.
pub async fn post_for(
    server: &Server,
    path: &str,
    body: &Value,
    limit: Duration,
) -> Result<Answer, HttpError> {
    ask(server, Method::POST, path, Some(body.to_string()), limit).await
}

/// Puts JSON to `path` and waits for the answer for so long.
pub async fn put_for(
    server: &Server,
    path: &str,
    body: &Value,
    limit: Duration,
) -> Result<Answer, HttpError> {
    ask(server, Method::PUT, path, Some(body.to_string()), limit).await
}

/// Deletes `path`.
pub async fn delete(server: &Server, path: &str) -> Result<Answer, HttpError> {
    ask(server, Method::DELETE, path, None, REQUEST_TIMEOUT).await
}

async fn ask(
    server: &Server,
    method: Method,
    path: &str,
    body: Option<String>,
    limit: Duration,
) -> Result<Answer, HttpError> {
    let host = match server {
        Server::Unix(_) => "localhost".to_owned(),
        Server::Tcp(address) => address.to_string(),
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, host)
        .header(CONNECTION, "close")
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body.unwrap_or_default())))
        .map_err(|error| HttpError::Broken(error.to_string()))?;
    let exchange = async {
        match server {
            Server::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(HttpError::Away)?;
                send(stream, request).await
            }
            Server::Tcp(address) => {
                let stream = TcpStream::connect(address).await.map_err(HttpError::Away)?;
                send(stream, request).await
            }
        }
    };
    match tokio::time::timeout(limit, exchange).await {
        Ok(result) => result,
        Err(_) => Err(HttpError::Broken(format!("no answer within {limit:?}"))),
    }
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<Answer, HttpError> {
    let broken = |error: hyper::Error| HttpError::Broken(error.to_string());
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(broken)?;
    let status = response.status().as_u16();
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after_s = retry_after.and_then(|text| text.trim().parse().ok());
    let body = Limited::new(response.into_body(), LARGEST_ANSWER_BYTES)
        .collect()
        .await
        .map_err(|error| HttpError::Broken(error.to_string()))?
        .to_bytes()
        .to_vec();
    connection.abort();
    Ok(Answer { status, body, retry_after_s })
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn asks_over_a_unix_socket() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("admin.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let serve = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap();
            let answer = "HTTP/1.1 503 Service Unavailable\r\nretry-after: 3\r\ncontent-length: 7\r\n\r\n{\"a\":1}";
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(request[..length].to_vec()).unwrap()
        });
        let answer = get(&Server::Unix(path), "/v1/status").await.unwrap();
        assert_eq!((answer.status, answer.json().unwrap()["a"].as_u64()), (503, Some(1)));
        assert_eq!(answer.retry_after_s, Some(3));
        assert!(answer.success().is_err());
        let request = serve.await.unwrap();
        assert!(request.starts_with("GET /v1/status HTTP/1.1\r\n"), "{request}");
    }

    #[tokio::test]
    async fn nobody_there_is_told_from_a_broken_answer() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("admin.sock");
        let answer = get(&Server::Unix(path.clone()), "/").await;
        assert!(matches!(answer, Err(HttpError::Away(_))));
        let listener = UnixListener::bind(&path).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.write_all(b"nonsense\r\n\r\n").await;
        });
        let answer = get(&Server::Unix(path), "/").await;
        assert!(matches!(answer, Err(HttpError::Broken(_))));
    }
}
