//! Clients that go away before they have their answer.

#![allow(clippy::unwrap_used, reason = "tests")]

use caelum_rest::{Body, HttpService, Server, empty};
use futures_util::future::BoxFuture;
use http::{Request, Response};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};

/// Says when a request has begun, waits for leave, and says how it ended.
struct Slow {
    leave: Arc<Semaphore>,
    events: mpsc::UnboundedSender<&'static str>,
}

struct Ending(mpsc::UnboundedSender<&'static str>, &'static str);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.send(self.1).unwrap();
    }
}

impl HttpService for Slow {
    fn call(&self, _: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        let (leave, events) = (self.leave.clone(), self.events.clone());
        Box::pin(async move {
            let mut ending = Ending(events.clone(), "dropped");
            events.send("begun").unwrap();
            let _ = leave.acquire().await.unwrap();
            ending.1 = "done";
            Response::new(empty())
        })
    }
}

#[tokio::test]
async fn what_a_request_changes_is_not_left_half_done() {
    for (method, end) in [("GET", "dropped"), ("POST", "done"), ("DELETE", "done"), ("PUT", "done")] {
        let leave = Arc::new(Semaphore::new(0));
        let (events, mut told) = mpsc::unbounded_channel();
        let slow = Arc::new(Slow { leave: leave.clone(), events });
        let server = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap().start(slow).unwrap();
        let mut client = TcpStream::connect(server.addr).await.unwrap();
        client.write_all(format!("{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").as_bytes()).await.unwrap();
        assert_eq!(told.recv().await, Some("begun"));
        drop(client);
        if end == "dropped" {
            assert_eq!(told.recv().await, Some(end), "{method}");
            continue;
        }
        assert!(tokio::time::timeout(Duration::from_millis(100), told.recv()).await.is_err(), "{method} has not ended");
        // A server that stops waits for it.
        let stopping = tokio::spawn(server.stop(Duration::from_secs(60)));
        leave.add_permits(1);
        assert_eq!(told.recv().await, Some(end), "{method}");
        stopping.await.unwrap();
    }
}
