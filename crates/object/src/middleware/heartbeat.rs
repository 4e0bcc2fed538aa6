//! Answers that begin before their work is done: blanks keep the connection alive, the outcome comes last.

use bytes::Bytes;
use caelum_rest::{Body, BoxError, stream_channel};
use std::future::Future;
use std::time::Duration;
use tokio::sync::mpsc;

/// The way to a client that waits.
pub(super) struct Beat {
    tx: mpsc::Sender<caelum_base::Result<Bytes, BoxError>>,
    every: Duration,
    /// What the first sign of life is; a blank afterwards.
    first: Option<Bytes>,
    beaten: bool,
}

impl Beat {
    /// `first`: what goes out instead of the first blank (an XML declaration).
    pub fn new(every: Duration, first: Option<&'static str>) -> (Self, Body) {
        let (tx, body) = stream_channel(1);
        (Self { tx, every, first: first.map(Bytes::from), beaten: false }, body)
    }

    /// Sends a sign of life. `false`: the client has gone.
    pub async fn beat(&mut self) -> bool {
        self.beaten = true;
        let sign = self.first.take().unwrap_or_else(|| Bytes::from_static(b" "));
        self.tx.send(Ok(sign)).await.is_ok()
    }

    /// Waits for `work`, with a sign of life from time to time. `None`: the client has gone, and the work was
    /// dropped where it stood.
    pub async fn during<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + self.every, self.every);
        let gone = self.tx.clone();
        loop {
            tokio::select! {
                done = work.as_mut() => return Some(done),
                () = gone.closed() => return None,
                _ = tick.tick() => if !self.beat().await { return None },
            }
        }
    }

    /// The outcome; two empty lines part it from signs of life.
    pub async fn finish(self, outcome: String) {
        let text = if self.beaten { format!("\r\n\r\n{outcome}") } else { outcome };
        // Nobody is left to tell when this fails.
        let _ = self.tx.send(Ok(text.into())).await;
    }

    /// The outcome right behind the signs of life.
    pub async fn finish_plain(self, outcome: String) {
        // Nobody is left to tell when this fails.
        let _ = self.tx.send(Ok(outcome.into())).await;
    }
}
