//! Reading request bodies piece by piece, each within the client's time.

use super::{Resp, respond};
use bytes::Bytes;
use caelum_rest::Body;
use http_body::Body as _;
use http_body_util::BodyExt;
use std::time::Duration;
use tokio::time::Instant;

pub(super) struct Input {
    body: Body,
    timeout: Duration,
    deadline: Option<Instant>,
}

impl Input {
    pub fn new(body: Body, timeout: Duration) -> Self {
        Self { body, timeout, deadline: None }
    }

    /// The whole body must have come by then.
    #[must_use]
    pub fn until(mut self, limit: Duration) -> Self {
        self.deadline = Instant::now().checked_add(limit);
        self
    }

    /// Its length where it is known.
    pub fn exact_length(&self) -> Option<u64> {
        self.body.size_hint().exact()
    }

    /// The next piece; `None` at the end. Errors: 408, 499.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Resp> {
        loop {
            if self.deadline.is_some_and(|d| Instant::now() > d) {
                return Err(respond::error(408));
            }
            match tokio::time::timeout(self.timeout, self.body.frame()).await {
                Err(_) => return Err(respond::error(408)),
                Ok(None) => return Ok(None),
                Ok(Some(Err(_))) => return Err(respond::error(499)),
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data()
                        && !data.is_empty()
                    {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}
