//! A loopback port that greets like a VNC server, shared by all simulated guests of a host.

use crate::VncEndpoint;
use caelum_base::{Error, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OnceCell, Semaphore};

/// Open connections at most; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 32;

#[derive(Default)]
pub(super) struct Listener(OnceCell<(u16, Task)>);

struct Task(tokio::task::JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Listener {
    /// Starts listening on the first call.
    pub(super) async fn endpoint(&self) -> Result<VncEndpoint> {
        let (port, _) = self.0.get_or_try_init(start).await?;
        Ok(VncEndpoint::Tcp { host: "127.0.0.1".to_owned(), port: *port })
    }
}

async fn start() -> Result<(u16, Task)> {
    let error = |e: std::io::Error| Error::unavailable("No port is free for the simulated console.").caused_by(e);
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(error)?;
    let port = listener.local_addr().map_err(error)?.port();
    let slots = std::sync::Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let task = tokio::spawn(async move {
        while let Ok(slot) = slots.clone().acquire_owned().await {
            let Ok((stream, _)) = listener.accept().await else { continue };
            tokio::spawn(async move {
                // The peer going away ends the greeting; there is nothing to report.
                let _ = greet(stream).await;
                drop(slot);
            });
        }
    });
    Ok((port, Task(task)))
}

async fn greet(mut stream: TcpStream) -> std::io::Result<()> {
    stream.write_all(b"RFB 003.008\n").await?;
    let mut buffer = [0; 256];
    while stream.read(&mut buffer).await? > 0 {}
    Ok(())
}
