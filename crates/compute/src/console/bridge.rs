//! Bytes between a WebSocket and a VNC server. Each direction holds at most one message, so a slow
//! side slows the other down instead of filling memory.

use bytes::Bytes;
use caelum_base::{Error, Result};
use caelum_hypervisor::VncEndpoint;
use futures_util::{SinkExt, StreamExt};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig};

/// Bytes taken from the VNC server at once.
const CHUNK: usize = 32 << 10;
/// Largest message from a client; a pasted text is the largest there is.
const MAX_MESSAGE: usize = 1 << 20;
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// A peer that takes nothing for this long is gone.
const STALL_TIME: Duration = Duration::from_secs(60);

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection to a guest's VNC server.
pub(super) struct Vnc(Box<dyn Stream>);

/// Errors: `Unavailable` when nothing answers there.
pub(super) async fn connect(at: &VncEndpoint) -> Result<Vnc> {
    let gone = |e: std::io::Error| Error::unavailable("The console does not answer.").caused_by(e);
    let connecting = async {
        Ok(match at {
            VncEndpoint::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(gone)?;
                let _ = stream.set_nodelay(true);
                Vnc(Box::new(stream))
            }
            VncEndpoint::Unix { path } => Vnc(Box::new(UnixStream::connect(path).await.map_err(gone)?)),
        })
    };
    tokio::time::timeout(CONNECT_TIME, connecting).await.map_err(|_| Error::unavailable("The console does not answer."))?
}

/// Carries bytes until either side ends.
pub(super) async fn run<S: AsyncRead + AsyncWrite + Unpin>(client: S, vnc: Vnc) {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
        .write_buffer_size(CHUNK)
        .max_write_buffer_size(4 * CHUNK);
    let mut socket = WebSocketStream::from_raw_socket(client, Role::Server, Some(config)).await;
    let mut vnc = vnc.0;
    let mut buffer = vec![0; CHUNK];
    loop {
        let moved = tokio::select! {
            read = vnc.read(&mut buffer) => match read {
                Ok(n) if n > 0 => {
                    let message = Message::Binary(Bytes::copy_from_slice(&buffer[..n]));
                    within(socket.send(message)).await
                }
                _ => false,
            },
            message = socket.next() => match message {
                Some(Ok(Message::Binary(bytes))) => within(vnc.write_all(&bytes)).await,
                // RFB is binary; a text message is a mistake of the client.
                Some(Ok(Message::Text(_) | Message::Close(_))) | Some(Err(_)) | None => false,
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => true,
            },
        };
        if !moved {
            break;
        }
    }
    // Both may be gone already.
    let _ = tokio::time::timeout(CONNECT_TIME, socket.close(None)).await;
    let _ = vnc.shutdown().await;
}

async fn within<T, E>(f: impl Future<Output = std::result::Result<T, E>>) -> bool {
    matches!(tokio::time::timeout(STALL_TIME, f).await, Ok(Ok(_)))
}
