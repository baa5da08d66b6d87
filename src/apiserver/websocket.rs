//! Logs and watches over WebSockets, for clients that can read no other stream: browsers, and what lives in them.
//!
//! In: the answer that other clients get, whose body comes in parts. Out: one that takes the connection over; each part of
//! a log, and each event of a watch, is a message. What the client sends is read and dropped, but for its goodbye.
//!
//! Rules: upstream `apimachinery/pkg/util/httpstream/wsstream` (`Reader`) and `apiserver/pkg/endpoints/handlers/watch.go`
//! (`HandleWS`).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

use crate::api::status::{ApiResult, Status};
use crate::api::websocket;

use super::Call;
use super::respond::{self, Answer, Body};

/// Protocols of a log: bytes, or bytes in base64.
const BINARY: &str = "binary.k8s.io";
const BASE64: &str = "base64.binary.k8s.io";
/// Bytes of one event that are waited for; more is no event of ours.
const MAX_EVENT_BYTES: usize = 16 << 20;

/// How a body becomes messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pieces {
    /// As its parts come, as bytes.
    Bytes,
    /// The same, in base64.
    Base64,
    /// A line is a message.
    Lines,
}

/// A log, over a WebSocket where the client wants one.
///
/// # Errors
/// 400 where it speaks no protocol of a log.
pub(super) fn log(answer: Answer, call: &mut Call) -> ApiResult<Answer> {
    let offered = websocket::offered(&call.headers);
    let (protocol, pieces) = match offered.as_slice() {
        [] => ("", Pieces::Bytes),
        offered if offered.contains(&BINARY) => (BINARY, Pieces::Bytes),
        offered if offered.contains(&BASE64) => (BASE64, Pieces::Base64),
        _ if !websocket::is_asked(&call.headers) => return Ok(answer),
        offered => {
            return Err(Status::bad_request(format!("none of the websocket protocols {offered:?} is supported")));
        }
    };
    over(answer, call, protocol, pieces)
}

/// A watch, over a WebSocket where the client wants one.
pub(super) fn watch(answer: Answer, call: &mut Call) -> ApiResult<Answer> {
    let protocol = match websocket::offered(&call.headers).as_slice() {
        [one] => (*one).to_owned(),
        _ => String::new(),
    };
    over(answer, call, &protocol, Pieces::Lines)
}

fn over(answer: Answer, call: &mut Call, protocol: &str, pieces: Pieces) -> ApiResult<Answer> {
    if !websocket::is_asked(&call.headers) || !answer.status().is_success() {
        return Ok(answer);
    }
    let head = websocket::accepted(&call.headers, protocol);
    let (Some(head), Some(upgrade)) = (head, call.upgrade.take()) else {
        return Err(Status::bad_request("a websocket needs Sec-WebSocket-Key and a connection of its own"));
    };
    let body = answer.into_body();
    // Belongs to the request: it ends with the client's connection or with the body.
    tokio::spawn(async move {
        match upgrade.await {
            Ok(client) => carry(TokioIo::new(client), body, pieces).await,
            Err(error) => tracing::debug!("the client went away before its stream began: {error}"),
        }
    });
    head.body(respond::full(Bytes::new())).map_err(|e| Status::internal(e.to_string()))
}

async fn carry<C: AsyncRead + AsyncWrite + Unpin>(client: C, mut body: Body, pieces: Pieces) {
    let (mut to_client, mut from_client) = WebSocketStream::from_raw_socket(client, Role::Server, None).await.split();
    let outward = async {
        let mut line = BytesMut::new();
        while let Some(Ok(frame)) = body.frame().await {
            let Ok(data) = frame.into_data() else { continue };
            for message in messages(data, &mut line, pieces) {
                to_client.send(message).await?;
            }
        }
        let close = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        to_client.send(Message::Close(Some(close))).await
    };
    let inward = async { while let Some(Ok(_)) = from_client.next().await {} };
    tokio::select! {
        end = outward => {
            if let Err(error) = end {
                tracing::debug!("a websocket ended: {error}");
            }
        }
        () = inward => {}
    }
}

/// The messages that a part makes; `line` keeps the start of the next one.
fn messages(data: Bytes, line: &mut BytesMut, pieces: Pieces) -> Vec<Message> {
    match pieces {
        Pieces::Bytes => vec![Message::Binary(data)],
        Pieces::Base64 => vec![Message::text(STANDARD.encode(&data))],
        Pieces::Lines => {
            line.extend_from_slice(&data);
            let mut made = Vec::new();
            while let Some(end) = line.iter().position(|b| *b == b'\n') {
                let event = line.split_to(end);
                line.advance(1);
                made.push(Message::text(String::from_utf8_lossy(&event).into_owned()));
            }
            if line.len() > MAX_EVENT_BYTES {
                line.clear();
            }
            made
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_become_messages() {
        let mut line = BytesMut::new();
        let part = |text: &'static str| Bytes::from_static(text.as_bytes());
        assert_eq!(messages(part("a\nb"), &mut line, Pieces::Bytes), [Message::Binary(part("a\nb"))]);
        assert_eq!(messages(part("hi"), &mut line, Pieces::Base64), [Message::text("aGk=")]);
        assert_eq!(messages(part("{\"a\""), &mut line, Pieces::Lines), []);
        let two = messages(part(":1}\n{}\n{"), &mut line, Pieces::Lines);
        assert_eq!(two, [Message::text("{\"a\":1}"), Message::text("{}")]);
        assert_eq!(&line[..], b"{");
    }

    #[tokio::test]
    async fn a_body_is_carried_to_its_end() {
        let (here, there) = tokio::io::duplex(1024);
        let body = respond::full(Bytes::from_static(b"one\ntwo\n"));
        let serving = tokio::spawn(carry(here, body, Pieces::Lines));
        let mut client = WebSocketStream::from_raw_socket(there, Role::Client, None).await;
        let mut got = Vec::new();
        while let Some(Ok(message)) = client.next().await {
            got.push(message);
        }
        serving.await.unwrap();
        assert_eq!(got[..2], [Message::text("one"), Message::text("two")]);
        assert!(got[2].is_close());
    }

    /// Whatever bytes a client sends instead of frames, its stream ends, and nothing but frames was sent to it.
    #[tokio::test]
    async fn bytes_that_are_no_frames_end_the_stream() {
        const CASES: u64 = 400;
        let masked = |head: &[u8], mask: [u8; 4], text: &[u8]| {
            let body = text.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m);
            [head, &mask, &body.collect::<Vec<u8>>()].concat()
        };
        // A text, an empty ping, a goodbye, the first part of a message, a length that never comes, no mask.
        let samples = [
            masked(&[0x81, 0x85], [1, 2, 3, 4], b"hello"),
            masked(&[0x89, 0x80], [9; 4], b""),
            masked(&[0x88, 0x82], [7; 4], &1000_u16.to_be_bytes()),
            masked(&[0x02, 0x83], [0; 4], b"abc"),
            masked(&[0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], [5; 4], b"much"),
            vec![0x81, 0x02, b'h', b'i'],
        ];
        let samples: Vec<&[u8]> = samples.iter().map(Vec::as_slice).collect();
        for seed in 0..CASES {
            let bytes = crate::util::random::mangled(seed, &samples);
            let (here, mut there) = tokio::io::duplex(1 << 10);
            // A body that does not end by itself: a watch.
            let (events, body) = tokio::sync::mpsc::channel::<Bytes>(1);
            events.send(Bytes::from_static(b"{}\n")).await.unwrap();
            let body = futures::stream::unfold(body, |mut body| async move {
                let part = body.recv().await?;
                Some((part, body))
            });
            let body = respond::stream(body);
            let serving = carry(here, body, Pieces::Lines);
            let client = async {
                use tokio::io::{AsyncReadExt, AsyncWriteExt};
                let (mut read, mut write) = tokio::io::split(&mut there);
                let sent = async {
                    // The server may hang up at any byte.
                    let _ = write.write_all(&bytes).await;
                    let _ = write.shutdown().await;
                };
                let mut got = Vec::new();
                let _ = tokio::join!(sent, read.read_to_end(&mut got));
                got
            };
            let both = futures::future::join(serving, client);
            let end = tokio::time::timeout(std::time::Duration::from_secs(20), both).await;
            let Ok(((), got)) = end else { panic!("seed {seed}: the stream does not end: {bytes:?}") };
            assert!(got.is_empty() || got[0] & 0x80 != 0, "seed {seed}: {got:?}");
            drop(events);
        }
    }
}
