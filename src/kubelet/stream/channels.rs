//! The channels of exec and attach over WebSockets, put into SPDY streams.
//!
//! A message is a channel's number and bytes: 0 stdin, 1 stdout, 2 stderr, 3 the final status, 4 terminal sizes. From v5 on
//! 255 and a channel's number close that channel. The `base64` protocols write the number as a digit and encode the rest.

use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use futures::{SinkExt, Stream, StreamExt};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, frame::coding::CloseCode};
use tokio_tungstenite::tungstenite::{self, Message};

use super::spdy::{self, Frame, Writer};
use crate::api::value::ValueExt;
use crate::kubelet::runtime::StreamOptions;

/// A sub-protocol of the WebSocket.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Protocol {
    pub(super) name: &'static str,
    base64: bool,
    /// Clients can close stdin.
    closes: bool,
    /// The final status is a Status; elder clients get its message, and nothing when all went well.
    tells_status: bool,
}

/// Newest first.
const PROTOCOLS: &[Protocol] = &[
    Protocol { name: "v5.channel.k8s.io", base64: false, closes: true, tells_status: true },
    Protocol { name: "v4.channel.k8s.io", base64: false, closes: false, tells_status: true },
    Protocol { name: "v4.base64.channel.k8s.io", base64: true, closes: false, tells_status: true },
    Protocol { name: "channel.k8s.io", base64: false, closes: false, tells_status: false },
    Protocol { name: "base64.channel.k8s.io", base64: true, closes: false, tells_status: false },
    UNNAMED,
];
/// What a client speaks that offers no protocol at all.
const UNNAMED: Protocol = Protocol { name: "", base64: false, closes: false, tells_status: false };
/// Names of the streams by channel; a stream's SPDY id is twice its channel and one.
const STREAM_TYPES: &[&str] = &["stdin", "stdout", "stderr", "error", "resize"];
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;
/// Pings that may wait for their answer.
pub(super) const PINGS: usize = 4;
/// Bytes taken from the runtime, and sent to it in one frame, at once.
pub(super) const READ_BYTES: usize = 32 << 10;

/// The newest protocol that was offered.
pub(super) fn negotiate(offered: &[&str]) -> Option<&'static Protocol> {
    PROTOCOLS.iter().find(|p| offered.contains(&p.name) || (p.name.is_empty() && offered.is_empty()))
}

/// What an elder client is told of the final status.
fn message_of(status: &[u8]) -> String {
    let status: Value = serde_json::from_slice(status).unwrap_or_default();
    match status.str_at("/status") {
        Some("Success") => String::new(),
        _ => status.str_at("/message").unwrap_or_default().to_owned(),
    }
}

fn stream_of(channel: u8) -> u32 {
    u32::from(channel) * 2 + 1
}

fn channel_of(stream: u32) -> Option<u8> {
    let channel = u8::try_from(stream / 2).ok()?;
    (stream % 2 == 1 && usize::from(channel) < STREAM_TYPES.len()).then_some(channel)
}

/// What a client's message asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Data(u8, Bytes),
    Close(u8),
    Nothing,
}

pub(super) fn decode(protocol: &Protocol, message: Message) -> Ask {
    let bytes = match message {
        Message::Binary(bytes) => bytes,
        Message::Text(text) => Bytes::from(text),
        _ => return Ask::Nothing,
    };
    let Some((&first, _)) = bytes.split_first() else { return Ask::Nothing };
    let rest = bytes.slice(1..);
    match (protocol.base64, first) {
        (true, digit) => match STANDARD.decode(&rest) {
            Ok(plain) => Ask::Data(digit.wrapping_sub(b'0'), plain.into()),
            Err(_) => Ask::Nothing,
        },
        (false, CLOSE) if protocol.closes => rest.first().map_or(Ask::Nothing, |c| Ask::Close(*c)),
        (false, channel) => Ask::Data(channel, rest),
    }
}

pub(super) fn encode(protocol: &Protocol, channel: u8, bytes: &[u8]) -> Message {
    if protocol.base64 {
        return Message::text(format!("{channel}{}", STANDARD.encode(bytes)));
    }
    let mut message = BytesMut::with_capacity(bytes.len() + 1);
    message.extend_from_slice(&[channel]);
    message.extend_from_slice(bytes);
    Message::Binary(message.freeze())
}

/// The channels that the runtime's server waits for, no more and no fewer.
fn expected(options: StreamOptions) -> Vec<u8> {
    let StreamOptions { stdin, stdout, stderr, tty } = options;
    let wanted = [(STDIN, stdin), (STDOUT, stdout), (STDERR, stderr && !tty), (ERROR, true), (RESIZE, tty)];
    wanted.into_iter().filter(|(_, is_wanted)| *is_wanted).map(|(channel, _)| channel).collect()
}

/// Puts bytes into frames of a stream.
pub(super) fn data(stream: u32, bytes: &[u8], out: &mut BytesMut) {
    for part in bytes.chunks(READ_BYTES) {
        spdy::data(stream, part, false, out);
    }
}

/// Sends `out` to the runtime, and then what a client's messages become by `frames`, until there are no more of them.
/// Answers to the runtime's pings go in between.
pub(super) async fn inward<C, R>(
    protocol: &Protocol,
    from_client: &mut C,
    to_runtime: &mut R,
    pongs: &mut mpsc::Receiver<Bytes>,
    mut out: BytesMut,
    frames: impl Fn(Ask, &mut BytesMut),
) -> io::Result<()>
where
    C: Stream<Item = tungstenite::Result<Message>> + Unpin,
    R: AsyncWrite + Unpin,
{
    loop {
        to_runtime.write_all_buf(&mut out).await?;
        tokio::select! {
            Some(ping) = pongs.recv() => out.extend_from_slice(&ping),
            message = from_client.next() => match message {
                None => return Ok(()),
                Some(message) => frames(decode(protocol, message.map_err(io::Error::other)?), &mut out),
            },
        }
    }
}

/// Opens the streams and carries their bytes until a side ends.
pub(super) async fn carry<C, R>(client: C, runtime: R, protocol: &Protocol, options: StreamOptions) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
    R: AsyncRead + AsyncWrite,
{
    let channels = expected(options);
    let (mut to_client, mut from_client) = WebSocketStream::from_raw_socket(client, Role::Server, None).await.split();
    let (mut from_runtime, mut to_runtime) = tokio::io::split(runtime);
    let (pong, mut pongs) = mpsc::channel::<Bytes>(PINGS);
    let mut opening = BytesMut::new();
    let mut writer = Writer::default();
    for channel in &channels {
        writer.open(stream_of(*channel), &[("streamtype", STREAM_TYPES[usize::from(*channel)])], &mut opening);
    }
    let frames = |ask: Ask, out: &mut BytesMut| match ask {
        Ask::Data(channel, bytes) if channels.contains(&channel) => data(stream_of(channel), &bytes, out),
        Ask::Close(channel) if channels.contains(&channel) => spdy::data(stream_of(channel), &[], true, out),
        _ => {}
    };
    let inward = inward(protocol, &mut from_client, &mut to_runtime, &mut pongs, opening, frames);
    let outward = async {
        let mut buffer = BytesMut::with_capacity(READ_BYTES);
        let mut status = Vec::new();
        loop {
            while let Some(frame) = spdy::take(&mut buffer) {
                match frame {
                    Frame::Data(stream, bytes, _) if !bytes.is_empty() => {
                        let Some(channel) = channel_of(stream) else { continue };
                        if channel == ERROR && !protocol.tells_status {
                            status.extend_from_slice(&bytes);
                            continue;
                        }
                        to_client.send(encode(protocol, channel, &bytes)).await.map_err(io::Error::other)?;
                    }
                    Frame::Ping(ping) => {
                        let _ = pong.try_send(ping);
                    }
                    _ => {}
                }
            }
            // The runtime's server closes the connection after the final status.
            if from_runtime.read_buf(&mut buffer).await? == 0 {
                let told = message_of(&status);
                if !told.is_empty() {
                    to_client.send(encode(protocol, ERROR, told.as_bytes())).await.map_err(io::Error::other)?;
                }
                let close = CloseFrame { code: CloseCode::Normal, reason: "".into() };
                return to_client.send(Message::Close(Some(close))).await.map_err(io::Error::other);
            }
        }
    };
    tokio::select! {
        end = inward => end,
        end = outward => end,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    const ALL: StreamOptions = StreamOptions { stdin: true, stdout: true, stderr: true, tty: false };

    #[test_case(ALL => vec![0, 1, 2, 3])]
    #[test_case(StreamOptions { tty: true, ..ALL } => vec![0, 1, 3, 4]; "a terminal has no stderr but a size")]
    #[test_case(StreamOptions::default() => vec![3])]
    fn streams(options: StreamOptions) -> Vec<u8> {
        expected(options)
    }

    #[test]
    fn messages_by_protocol() {
        let by = |name| negotiate(&[name]).unwrap();
        let close = || Message::Binary(Bytes::from_static(&[255, 0]));
        assert_eq!(decode(by("v5.channel.k8s.io"), close()), Ask::Close(0));
        assert_eq!(decode(by("v4.channel.k8s.io"), close()), Ask::Data(255, Bytes::from_static(&[0])));
        assert_eq!(
            decode(by("v4.base64.channel.k8s.io"), Message::text("0aGk=")),
            Ask::Data(0, Bytes::from_static(b"hi"))
        );
        assert_eq!(encode(by("v4.base64.channel.k8s.io"), 1, b"hi"), Message::text("1aGk="));
        assert_eq!(encode(by("v5.channel.k8s.io"), 2, b"x"), Message::Binary(Bytes::from_static(b"\x02x")));
    }

    #[test]
    fn elder_clients_are_told_of_failures_only() {
        assert_eq!(message_of(br#"{"status": "Success"}"#), "");
        assert_eq!(message_of(br#"{"status": "Failure", "message": "exit code 3"}"#), "exit code 3");
        assert!(!negotiate(&["channel.k8s.io"]).unwrap().tells_status);
        assert_eq!(negotiate(&[]).unwrap().name, "");
        assert_eq!(negotiate(&["unknown"]), None);
    }

    #[test]
    fn channels_and_streams_match() {
        (0..5).for_each(|c| assert_eq!(channel_of(stream_of(c)), Some(c)));
        assert_eq!(channel_of(11), None);
        assert_eq!(channel_of(2), None);
    }

    /// Whatever a client and a runtime say to each other, the stream between them ends when they do.
    #[tokio::test]
    async fn bytes_that_are_no_frames_end_the_stream() {
        const CASES: u64 = 300;
        let frame = |kind: u8, body: &[u8]| [&[0x80 | kind, 0x80 | body.len() as u8, 0, 0, 0, 0], body].concat();
        let from_client = [
            frame(2, b"\0input"),
            frame(2, b"\xff\0"),
            frame(1, b"0aGk="),
            frame(8, &[3, 232]),
            frame(9, b""),
            vec![2, 3, 4],
        ];
        let mut spoken = BytesMut::new();
        data(stream_of(STDOUT), b"output", &mut spoken);
        data(stream_of(ERROR), br#"{"status": "Success"}"#, &mut spoken);
        let ping = b"\x80\x03\0\x06\0\0\0\x04\0\0\0\x01".to_vec();
        let from_runtime =
            [spoken.to_vec(), ping, b"\x80\x03\0\x07\0\0\0\x08\0\0\0\0\0\0\0\0".to_vec(), vec![0x80, 3, 0, 2, 1]];
        let slices = |all: &'static [Vec<u8>]| all.iter().map(Vec::as_slice).collect::<Vec<&[u8]>>();
        let (from_client, from_runtime) =
            (slices(Box::leak(Box::new(from_client))), slices(Box::leak(Box::new(from_runtime))));
        for seed in 0..CASES {
            let protocol = &PROTOCOLS[seed as usize % PROTOCOLS.len()];
            let (asks, says) = (
                crate::util::random::mangled(seed, &from_client),
                crate::util::random::mangled(seed ^ 0xffff, &from_runtime),
            );
            let ((client, theirs), (runtime, its)) = (tokio::io::duplex(512), tokio::io::duplex(512));
            let talk = |side: tokio::io::DuplexStream, bytes: Vec<u8>| async move {
                let (mut read, mut write) = tokio::io::split(side);
                let sent = async {
                    // The other side may hang up at any byte.
                    let _ = write.write_all(&bytes).await;
                    let _ = write.shutdown().await;
                };
                let mut got = Vec::new();
                let _ = tokio::join!(sent, read.read_to_end(&mut got));
            };
            let all =
                futures::future::join3(carry(client, runtime, protocol, ALL), talk(theirs, asks), talk(its, says));
            let end = tokio::time::timeout(std::time::Duration::from_secs(20), all).await;
            assert!(end.is_ok(), "seed {seed}: the stream does not end");
        }
    }
}
