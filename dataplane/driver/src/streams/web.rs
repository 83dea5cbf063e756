//! SIP over WebSocket (RFC 7118): one message a frame.

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use sip::wire::{MAX_BODY, MAX_HEAD};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::{timeout, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode, header};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::Letter;
use super::connection::{End, Patience};
use super::hub::{Hub, Line, Post, Visit};

/// How long a peer may take for its handshake, and for one message that is written to it.
const LIMIT: Duration = Duration::from_secs(10);
/// Bytes that a connection reads and writes at a time: a message.
const BUFFER_BYTES: usize = 4_096;
/// The subprotocol (RFC 7118, 4.1).
const SIP: &str = "sip";

/// Shakes hands, then reads and writes frames until the connection ends.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(visit: &mut Visit, stream: S) -> End {
    let largest = Some(MAX_HEAD + MAX_BODY);
    let config = WebSocketConfig::default()
        .read_buffer_size(BUFFER_BYTES)
        .write_buffer_size(BUFFER_BYTES)
        .max_message_size(largest)
        .max_frame_size(largest);
    let shaken = tokio_tungstenite::accept_hdr_async_with_config(stream, choose, Some(config));
    let Ok(Ok(stream)) = timeout(LIMIT, shaken).await else {
        return End::Handshake;
    };
    let (mut writer, mut reader) = stream.split();
    let Visit { hub, line, posts, in_hand, .. } = visit;
    let end = tokio::select! {
        end = read(hub, line, &mut reader) => end,
        end = write(&mut writer, posts, in_hand) => end,
        () = line.is_slow.notified() => End::Slow,
    };
    // Who does not listen any more misses nothing.
    let _ = timeout(Duration::from_secs(1), writer.close()).await;
    end
}

/// RFC 7118, 4.1: "The client MUST include the value "sip" in the Sec-WebSocket-Protocol header in its handshake
/// request. The 101 reply from the server MUST contain "sip" in its corresponding Sec-WebSocket-Protocol header."
#[expect(clippy::result_large_err, reason = "the callback's type is the library's")]
fn choose(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    let offered = request.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL);
    let offered = offered.iter().filter_map(|value| value.to_str().ok());
    let mut offered = offered.flat_map(|value| value.split(',')).map(str::trim);
    if !offered.any(|protocol| protocol.eq_ignore_ascii_case(SIP)) {
        let mut refusal = ErrorResponse::new(Some("subprotocol sip is spoken here".to_owned()));
        *refusal.status_mut() = StatusCode::BAD_REQUEST;
        return Err(refusal);
    }
    let value = HeaderValue::from_static(SIP);
    response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, value);
    Ok(response)
}

async fn read<S: AsyncRead + AsyncWrite + Unpin>(
    hub: &Hub,
    line: &Line,
    reader: &mut SplitStream<WebSocketStream<S>>,
) -> End {
    let mut patience = Patience::new(hub.limits.whole);
    loop {
        let message = match timeout_at(patience.ends(line), reader.next()).await {
            Ok(Some(Ok(message))) => message,
            Ok(Some(Err(error))) if is_foul(&error) => return End::Malformed,
            Ok(Some(Err(_)) | None) => return End::Peer,
            Err(_) if patience.is_over(line) => return End::Idle,
            Err(_) => continue,
        };
        let bytes: &[u8] = match &message {
            Message::Text(text) => text.as_bytes(),
            Message::Binary(bytes) => bytes,
            Message::Ping(_) | Message::Pong(_) => {
                patience.on_ping(line);
                continue;
            }
            Message::Close(_) => return End::Peer,
            Message::Frame(_) => continue,
        };
        if bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n')) {
            patience.on_ping(line);
            hub.pong(line);
            continue;
        }
        // RFC 7118, 5: "Each SIP message MUST be carried within a single WebSocket message, and a WebSocket
        // message MUST NOT contain more than one SIP message."
        hub.deliver(line, bytes.into()).await;
        patience.on_message();
    }
}

/// True for an error of what came, rather than of the connection.
fn is_foul(error: &tokio_tungstenite::tungstenite::Error) -> bool {
    use tokio_tungstenite::tungstenite::Error;
    match error {
        Error::Capacity(_) | Error::Utf8(_) => true,
        Error::Protocol(error) => !matches!(
            error,
            tokio_tungstenite::tungstenite::error::ProtocolError::ResetWithoutClosingHandshake
        ),
        _ => false,
    }
}

async fn write<S: AsyncRead + AsyncWrite + Unpin>(
    writer: &mut SplitSink<WebSocketStream<S>, Message>,
    posts: &mut mpsc::Receiver<Post>,
    in_hand: &mut Option<Letter>,
) -> End {
    loop {
        if in_hand.is_none() {
            *in_hand = match posts.recv().await {
                Some(Post::Letter(letter)) => Some(letter),
                Some(Post::Pong) => None,
                None => return End::Peer,
            };
        }
        let bytes = in_hand.as_ref().map_or(&b"\r\n"[..], |letter| &letter.message);
        let message = match str::from_utf8(bytes) {
            Ok(text) => Message::text(text),
            Err(_) => Message::binary(bytes.to_vec()),
        };
        match timeout(LIMIT, writer.send(message)).await {
            Ok(Ok(())) => *in_hand = None,
            Ok(Err(_)) => return End::Peer,
            Err(_) => return End::Slow,
        }
    }
}
