//! A body that breaks off when it becomes longer than it may.

use bytes::Bytes;
use caelum_rest::{Body, BoxError};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

/// Tells afterwards whether the body was too long.
#[derive(Clone, Default)]
pub struct Overrun(Arc<AtomicBool>);

impl Overrun {
    pub fn happened(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

struct Capped {
    inner: Body,
    left: u64,
    overrun: Overrun,
}

/// `body` with at most `limit` bytes. Beyond them it ends with an error, so that nobody takes what has
/// passed for the whole.
pub fn capped(body: Body, limit: u64) -> (Body, Overrun) {
    let overrun = Overrun::default();
    (Capped { inner: body, left: limit, overrun: overrun.clone() }.boxed_unsync(), overrun)
}

impl HttpBody for Capped {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if this.overrun.happened() {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut this.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            let n = frame.data_ref().map_or(0, |d| d.len() as u64);
            if n > this.left {
                this.overrun.0.store(true, Ordering::Release);
                return Poll::Ready(Some(Err("the body is longer than it may be".into())));
            }
            this.left -= n;
        }
        Poll::Ready(frame)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
