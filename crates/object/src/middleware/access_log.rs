use crate::env::{Req, Resp, environ};
use crate::http::text;
use caelum_rest::{Body, HttpService};
use futures_util::future::BoxFuture;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

/// Writes one line per request when its answer has gone out (`log.filter = info,object_access=debug` shows them). No header that could hold a secret is in it, and of
/// the query only the names.
pub struct AccessLog {
    next: Arc<dyn HttpService>,
}

impl AccessLog {
    pub fn new(next: Arc<dyn HttpService>) -> Self {
        Self { next }
    }
}

struct Entry {
    started: Instant,
    method: http::Method,
    path: String,
    remote: String,
    agent: String,
    trans_id: String,
    status: u16,
    sent: u64,
    ended: bool,
}

impl Entry {
    fn of(req: &Req) -> Self {
        let environ = environ(req);
        let query = req.uri().query().unwrap_or_default().split('&').filter_map(|p| p.split('=').next()).filter(|n| !n.is_empty());
        let names = query.collect::<Vec<_>>().join("&");
        let path = req.uri().path();
        Self {
            started: Instant::now(),
            method: req.method().clone(),
            path: if names.is_empty() { path.to_string() } else { format!("{path}?{names}") },
            remote: environ.and_then(|e| e.remote).map_or_else(|| "-".into(), |a| a.to_string()),
            agent: text(req.headers(), "user-agent").unwrap_or("-").chars().take(128).collect(),
            trans_id: environ.map(|e| e.trans_id.clone()).unwrap_or_default(),
            status: 0,
            sent: 0,
            ended: false,
        }
    }

    fn write(&self) {
        // A client that goes away in the middle has no status of its own.
        let status = if self.ended { self.status } else { 499 };
        let (remote, method, path, agent) = (&self.remote, &self.method, &self.path, &self.agent);
        let ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::debug!(target: "object_access", %remote, %method, ?path, status, sent = self.sent, ms, ?agent, trans_id = self.trans_id, "request");
    }
}

/// Counts what goes out and writes the line at the end.
struct Counted {
    body: Body,
    entry: Entry,
}

impl http_body::Body for Counted {
    type Data = bytes::Bytes;
    type Error = caelum_rest::BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                self.entry.sent += frame.data_ref().map_or(0, |d| d.len() as u64);
                self.entry.ended = self.body.is_end_stream();
            }
            Poll::Ready(None) => self.entry.ended = true,
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.entry.write();
    }
}

impl HttpService for AccessLog {
    fn call(&self, req: Req) -> BoxFuture<'static, http::Response<Body>> {
        if !tracing::enabled!(target: "object_access", tracing::Level::DEBUG) {
            return self.next.call(req);
        }
        let mut entry = Entry::of(&req);
        let answer = self.next.call(req);
        Box::pin(async move {
            let resp: Resp = answer.await;
            entry.status = resp.status().as_u16();
            entry.ended = resp.body().is_end_stream();
            resp.map(|body| Counted { body, entry }.boxed_unsync())
        })
    }
}
