//! SPDY inside a WebSocket: binary messages are pieces of one byte stream.

use std::io;

use bytes::BytesMut;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

/// Largest message to the client, bytes.
const MESSAGE_BYTES: usize = 32 << 10;

/// Carries bytes both ways until one side ends.
pub(super) async fn carry<C, R>(client: C, runtime: R) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
    R: AsyncRead + AsyncWrite,
{
    let (mut to_client, mut from_client) = WebSocketStream::from_raw_socket(client, Role::Server, None).await.split();
    let (mut from_runtime, mut to_runtime) = tokio::io::split(runtime);
    let inward = async {
        while let Some(message) = from_client.next().await {
            if let Message::Binary(bytes) = message.map_err(io::Error::other)? {
                to_runtime.write_all(&bytes).await?;
            }
        }
        to_runtime.shutdown().await
    };
    let outward = async {
        let mut buffer = BytesMut::with_capacity(MESSAGE_BYTES);
        while from_runtime.read_buf(&mut buffer).await? > 0 {
            to_client.send(Message::Binary(buffer.split().freeze())).await.map_err(io::Error::other)?;
            buffer.reserve(MESSAGE_BYTES);
        }
        to_client.close().await.map_err(io::Error::other)
    };
    tokio::select! {
        end = inward => end,
        end = outward => end,
    }
}
