use std::net::SocketAddr;

use sip::wire::{Frame, FrameError, Framer, MAX_BODY, MAX_HEAD, lex};

/// What came out of a stream: messages, none for a ping, and how it ended.
#[derive(Debug, PartialEq, Eq)]
struct Cut {
    frames: Vec<Option<Vec<u8>>>,
    error: Option<FrameError>,
    refusal: Option<Vec<u8>>,
    is_amid: bool,
}

pub(crate) fn target(bytes: &[u8]) {
    // The first byte says how long the pieces are.
    let Some((&first, stream)) = bytes.split_first() else { return };
    let whole = cut(stream, stream.len().max(1));
    for piece in [usize::from(first % 64) + 1, 1] {
        let again = cut(stream, piece);
        assert_eq!(again.frames, whole.frames, "in pieces of {piece}");
        assert_eq!((again.error, again.refusal), (whole.error, whole.refusal.clone()));
        assert!(again.error.is_some() || again.is_amid == whole.is_amid);
    }
    let mut length = 0;
    for message in whole.frames.iter().flatten() {
        length += message.len();
        let read = lex(message).unwrap_or_else(|e| panic!("{e}: {}", message.escape_ascii()));
        assert!(read.spans().last().is_some_and(<[u8]>::is_empty), "bytes after a message");
        assert!(message.len() <= MAX_HEAD + MAX_BODY && read.body().len() <= MAX_BODY);
    }
    assert!(length <= stream.len(), "more came out than went in");
    if let Some(refusal) = &whole.refusal {
        let read = lex(refusal).unwrap_or_else(|e| panic!("{e}: {}", refusal.escape_ascii()));
        assert!(read.status().is_some_and(|status| status >= 400));
    }
}

fn cut(stream: &[u8], piece: usize) -> Cut {
    let mut framer = Framer::default();
    let mut frames = Vec::new();
    let from = SocketAddr::from(([192, 0, 2, 1], 9));
    for bytes in stream.chunks(piece) {
        framer.feed(bytes);
        loop {
            match framer.next_frame() {
                Ok(Some(Frame::Message(message))) => frames.push(Some(message.to_vec())),
                Ok(Some(Frame::Ping)) => frames.push(None),
                Ok(None) => break,
                Err(error) => {
                    let refusal = framer.refusal(error, from);
                    return Cut { frames, error: Some(error), refusal, is_amid: false };
                }
            }
        }
    }
    let is_amid = framer.is_amid_message();
    Cut { frames, error: None, refusal: None, is_amid }
}
