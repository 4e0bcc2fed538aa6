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

/// The beginning of RFB 3.8 without authentication: a small black screen that never changes.
async fn greet(mut stream: TcpStream) -> std::io::Result<()> {
    stream.write_all(b"RFB 003.008\n").await?;
    let mut version = [0; 12];
    stream.read_exact(&mut version).await?;
    // One security type, "none", and word that it was accepted.
    stream.write_all(&[1, 1]).await?;
    let mut byte = [0; 1];
    stream.read_exact(&mut byte).await?;
    stream.write_all(&0u32.to_be_bytes()).await?;
    stream.read_exact(&mut byte).await?;
    stream.write_all(&screen()).await?;
    let mut buffer = [0; 256];
    while stream.read(&mut buffer).await? > 0 {}
    Ok(())
}

/// The server's half of the initialisation: size, pixel format, name.
fn screen() -> Vec<u8> {
    let name = b"simulated guest";
    let mut out = Vec::with_capacity(24 + name.len());
    out.extend_from_slice(&720u16.to_be_bytes());
    out.extend_from_slice(&400u16.to_be_bytes());
    // 32 bits, depth 24, little endian, true colour; maxima 255; shifts 16, 8, 0; padding.
    out.extend_from_slice(&[32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0]);
    out.extend_from_slice(&15u32.to_be_bytes());
    out.extend_from_slice(name);
    out
}
