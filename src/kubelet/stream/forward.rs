//! port-forward over channels in WebSocket messages, as clients other than kubectl speak it.
//!
//! Each port that was asked for has two channels: an even one with its bytes, both ways, and the odd one after it with an
//! error, from the server alone. The first message on either carries the port's number.
//!
//! Rules: upstream `kubelet/pkg/cri/streaming/portforward/websocket.go`.

use std::collections::BTreeSet;
use std::io;

use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

use super::channels::{Ask, PINGS, Protocol, READ_BYTES, data, encode, inward};
use super::spdy::{self, Frame, Writer};

/// Ports of one connection; a channel's number has eight bits.
pub(super) const MAX_PORTS: usize = 100;

/// The SPDY stream of a channel: the runtime wants a port's error stream to be opened before its data stream.
fn stream_of(channel: u8) -> u32 {
    u32::from(channel ^ 1) * 2 + 1
}

fn channel_of(stream: u32, ports: usize) -> Option<u8> {
    let channel = u8::try_from(stream / 2).ok()? ^ 1;
    (stream % 2 == 1 && usize::from(channel) < ports * 2).then_some(channel)
}

/// Opens two streams for each port.
fn open(ports: &[u16], writer: &mut Writer, out: &mut BytesMut) {
    for (port, channel) in ports.iter().zip((0u8..).step_by(2)) {
        let (request, port) = ((channel / 2).to_string(), port.to_string());
        for (kind, channel) in [("error", channel + 1), ("data", channel)] {
            let headers = [("streamtype", kind), ("port", port.as_str()), ("requestid", request.as_str())];
            writer.open(stream_of(channel), &headers, out);
        }
    }
}

/// Carries the bytes of all ports until each of them has ended, or a side goes away.
pub(super) async fn carry<C, R>(client: C, runtime: R, protocol: &Protocol, ports: &[u16]) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
    R: AsyncRead + AsyncWrite,
{
    let (mut to_client, mut from_client) = WebSocketStream::from_raw_socket(client, Role::Server, None).await.split();
    let (mut from_runtime, mut to_runtime) = tokio::io::split(runtime);
    let (pong, mut pongs) = mpsc::channel::<Bytes>(PINGS);
    let mut opening = BytesMut::new();
    open(ports, &mut Writer::default(), &mut opening);
    let frames = |ask: Ask, out: &mut BytesMut| match ask {
        // Nobody but the server says what is wrong.
        Ask::Data(channel, bytes) if channel % 2 == 0 && usize::from(channel) < ports.len() * 2 => {
            data(stream_of(channel), &bytes, out);
        }
        _ => {}
    };
    let inward = inward(protocol, &mut from_client, &mut to_runtime, &mut pongs, opening, frames);
    let outward = async {
        for (port, channel) in ports.iter().zip((0u8..).step_by(2)) {
            for channel in [channel, channel + 1] {
                to_client.send(encode(protocol, channel, &port.to_le_bytes())).await.map_err(io::Error::other)?;
            }
        }
        let mut buffer = BytesMut::with_capacity(READ_BYTES);
        // The data channels that have not ended.
        let mut open: BTreeSet<u8> = (0u8..).step_by(2).take(ports.len()).collect();
        while !open.is_empty() {
            while let Some(frame) = spdy::take(&mut buffer) {
                match frame {
                    Frame::Data(stream, bytes, last) => {
                        let Some(channel) = channel_of(stream, ports.len()) else { continue };
                        if !bytes.is_empty() {
                            to_client.send(encode(protocol, channel, &bytes)).await.map_err(io::Error::other)?;
                        }
                        if last {
                            open.remove(&channel);
                        }
                    }
                    Frame::Ping(ping) => {
                        let _ = pong.try_send(ping);
                    }
                    Frame::Reset(stream) => {
                        channel_of(stream, ports.len()).map(|channel| open.remove(&channel));
                    }
                    Frame::GoAway => open.clear(),
                    _ => {}
                }
            }
            if !open.is_empty() && from_runtime.read_buf(&mut buffer).await? == 0 {
                break;
            }
        }
        let close = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        to_client.send(Message::Close(Some(close))).await.map_err(io::Error::other)
    };
    tokio::select! {
        end = inward => end,
        end = outward => end,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_and_streams_match() {
        assert_eq!([0, 1, 2, 3].map(stream_of), [3, 1, 7, 5], "error streams first, ids upward");
        (0..4).for_each(|c| assert_eq!(channel_of(stream_of(c), 2), Some(c)));
        assert_eq!((channel_of(9, 2), channel_of(2, 2)), (None, None));
    }
}
