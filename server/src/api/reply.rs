//! Answers: their bodies, and how a Status becomes one.

use std::pin::Pin;
use std::task::{Context, Poll};

use coracle_shared::api::status::Status;
use futures_lite::Stream;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WARNING};
use hyper::{Response, StatusCode};
use serde_json::Value;

pub const JSON: &str = "application/json";

/// A body that ends early: hyper cuts the connection, so that a client does not take it for the whole.
#[derive(Debug)]
pub struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the answer was cut off")
    }
}

impl std::error::Error for Cut {}

/// The bytes of an answer.
pub enum Payload {
    Whole(Bytes),
    /// Made piece by piece while it is sent: a list does not stand in memory as a whole.
    Pieces(Box<dyn Iterator<Item = Bytes> + Send>),
    /// For as long as there is something to say: watches and logs.
    Stream(Pin<Box<dyn Stream<Item = Result<Bytes, Cut>> + Send>>),
}

pub type Reply = Response<Payload>;

impl Body for Payload {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match &mut *self {
            Payload::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Payload::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Payload::Pieces(pieces) => Poll::Ready(pieces.next().map(|piece| Ok(Frame::data(piece)))),
            Payload::Stream(stream) => stream.as_mut().poll_next(cx).map(|piece| piece.map(|p| p.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Payload::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Payload::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            _ => SizeHint::default(),
        }
    }
}

/// An answer of a content type.
pub fn respond(code: StatusCode, content_type: &'static str, payload: Payload) -> Reply {
    let mut reply = Response::new(payload);
    *reply.status_mut() = code;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

pub fn json(code: StatusCode, bytes: impl Into<Bytes>) -> Reply {
    respond(code, JSON, Payload::Whole(bytes.into()))
}

pub fn value(code: StatusCode, value: &Value) -> Reply {
    // Writing JSON into memory fails for no value that serde_json itself made.
    json(code, serde_json::to_vec(value).expect("a value is JSON"))
}

pub fn text(code: StatusCode, text: impl Into<Bytes>) -> Reply {
    respond(code, "text/plain; charset=utf-8", Payload::Whole(text.into()))
}

/// What the client has is still right. No content type: caches write a 304's headers over those of the
/// answer that they keep.
pub fn unchanged() -> Reply {
    let mut reply = json(StatusCode::NOT_MODIFIED, Vec::new());
    reply.headers_mut().remove(CONTENT_TYPE);
    reply
}

/// A refusal.
pub fn refuse(status: &Status) -> Reply {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut reply = value(code, &status.to_value());
    if let Some(seconds) = status.details.as_ref().map(|d| d.retry_after_seconds).filter(|s| *s > 0) {
        reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    reply
}

/// Longest text of one warning, and how many there may be: headers are bounded on the other side as well.
const MAX_WARNING: usize = 256;
const MAX_WARNINGS: usize = 50;

/// Adds `Warning: 299 - "text"` headers, which kubectl prints.
pub fn warn(reply: &mut Reply, warnings: &[String]) {
    for warning in warnings.iter().take(MAX_WARNINGS) {
        let quoted: String = warning
            .chars()
            .take(MAX_WARNING)
            .flat_map(|c| match c {
                '"' | '\\' => vec!['\\', c],
                c if c.is_control() => vec![' '],
                c => vec![c],
            })
            .collect();
        if let Ok(header) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            reply.headers_mut().append(WARNING, header);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_carries_its_status_and_when_to_come_back() {
        let reply = refuse(&Status::too_many_requests("slow down", 3));
        assert_eq!(reply.status(), 429);
        assert_eq!(reply.headers()[RETRY_AFTER], "3");
        assert_eq!(reply.headers()[CONTENT_TYPE], JSON);
    }

    #[test]
    fn warnings_are_quoted_and_bounded() {
        let mut reply = text(StatusCode::OK, "");
        warn(&mut reply, &["unknown field \"a\"\n".into()]);
        assert_eq!(reply.headers()[WARNING], "299 - \"unknown field \\\"a\\\" \"");
        let many: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        warn(&mut reply, &many);
        assert_eq!(reply.headers().get_all(WARNING).iter().count(), 1 + MAX_WARNINGS);
    }
}
