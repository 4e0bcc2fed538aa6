use bytes::Bytes;
use caelum_base::{Error, Result};
use futures_util::StreamExt;
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use tokio::sync::mpsc;

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Request and response bodies, streamed.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|e| match e {}).boxed_unsync()
}

pub fn empty() -> Body {
    Empty::new().map_err(|e| match e {}).boxed_unsync()
}

/// A body fed through a bounded channel; an `Err` item breaks the transfer off, so that the client
/// sees a truncated body and never a short one that looks whole.
pub fn stream_channel(capacity: usize) -> (mpsc::Sender<Result<Bytes, BoxError>>, Body) {
    let (tx, rx) = mpsc::channel::<Result<Bytes, BoxError>>(capacity);
    let stream = futures_util::stream::unfold(rx, |mut rx| async move { rx.recv().await.map(|item| (item, rx)) });
    let body = StreamBody::new(stream.map(|item| item.map(Frame::data))).boxed_unsync();
    (tx, body)
}

/// Reads a whole body of at most `limit` bytes. Errors: `TooLarge` beyond it, `Invalid` when the
/// client breaks off.
pub async fn read_limited(mut body: Body, limit: usize) -> Result<Bytes> {
    let mut first = Bytes::new();
    let mut out = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Error::invalid("The request body ended early."))?;
        let Ok(data) = frame.into_data() else { continue };
        if first.len().max(out.len()) + data.len() > limit {
            return Err(Error::too_large("Request is too large."));
        }
        if first.is_empty() {
            // Often all there is; then nothing is copied.
            first = data;
            continue;
        }
        if out.is_empty() {
            out.extend_from_slice(&first);
        }
        out.extend_from_slice(&data);
    }
    Ok(if out.is_empty() { first } else { out.into() })
}
