//! The streams of a container over a web socket: `v5.channel.k8s.io`, or v4 with servers that have no v5.
//!
//! Each message begins with a byte that names the channel. Flow: stdin and window sizes out; stdout, stderr and the final
//! Status in.
//!
//! **Invariant:** what the remote side wrote is written here before the command ends.

use futures::{SinkExt, StreamExt};
use http::Request;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::{self, Message};

use super::cx::{Cx, Done};
use super::fail::{Failure, os};
use crate::api::status::Status;
use crate::api::value::ValueExt;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// v5: the channel named by the next byte is closed.
const CLOSE: u8 = 255;

/// Bytes of one message of standard input.
const STDIN_CHUNK: usize = 32 * 1024;
/// Windows sizes that may wait to be sent.
const RESIZE_QUEUE: usize = 4;

/// The near ends of the streams.
pub struct Ends<I, O, E> {
    /// Sent to the container; `None` where it gets no input.
    pub stdin: Option<I>,
    /// Written by the container.
    pub stdout: O,
    /// Written by the container.
    pub stderr: E,
    /// Columns and rows of the terminal, whenever they change.
    pub sizes: Option<mpsc::Receiver<(u16, u16)>>,
}

/// Columns and rows.
type Size = (u16, u16);

/// A queue of window sizes.
pub fn sizes() -> (mpsc::Sender<Size>, mpsc::Receiver<Size>) {
    mpsc::channel(RESIZE_QUEUE)
}

/// The client for web sockets.
pub fn kube(cx: &Cx) -> Done<&kube::Client> {
    cx.client.kube().ok_or_else(|| Failure::Plain("the server is reached without a connection".to_owned()))
}

/// Connects to `path` and joins the streams until the remote side ends. Gives the exit code of the remote command.
pub async fn join<I, O, E>(cx: &Cx, path: &str, mut ends: Ends<I, O, E>) -> Done<u8>
where
    I: AsyncRead + Unpin,
    O: AsyncWrite + Unpin,
    E: AsyncWrite + Unpin,
{
    let request = Request::get(path).body(Vec::new()).map_err(|e| Failure::Plain(format!("{path}: {e}")))?;
    let connection = kube(cx)?.connect(request).await.map_err(refused)?;
    let can_close = connection.supports_stream_close();
    let (mut sink, mut stream) = connection.into_stream().split();
    let mut buffer = vec![0; STDIN_CHUNK];
    let mut status = None;
    loop {
        tokio::select! {
            message = stream.next() => match message {
                None | Some(Ok(Message::Close(_))) => break,
                // Servers end the connection behind the status, some of them roughly.
                Some(Err(_)) if status.is_some() => break,
                Some(Err(e)) => return Err(lost(&e)),
                Some(Ok(message)) => match message.into_data().split_first() {
                    Some((&STDOUT, data)) => write(&mut ends.stdout, data).await?,
                    Some((&STDERR, data)) => write(&mut ends.stderr, data).await?,
                    Some((&ERROR, data)) if !data.is_empty() => {
                        status = Some(serde_json::from_slice::<Value>(data).unwrap_or_else(|_| {
                            json!({"status": "Failure", "message": String::from_utf8_lossy(data)})
                        }));
                    }
                    _ => {}
                },
            },
            read = read(&mut ends.stdin, &mut buffer) => {
                let n = read?;
                if n == 0 {
                    ends.stdin = None;
                    if can_close {
                        sink.send(Message::binary(vec![CLOSE, STDIN])).await.map_err(|e| lost(&e))?;
                    }
                } else {
                    let mut data = Vec::with_capacity(n + 1);
                    data.push(STDIN);
                    data.extend_from_slice(&buffer[..n]);
                    sink.send(Message::binary(data)).await.map_err(|e| lost(&e))?;
                }
            }
            size = next(&mut ends.sizes) => match size {
                None => ends.sizes = None,
                Some((columns, rows)) => {
                    let mut data = vec![RESIZE];
                    data.extend(json!({"Width": columns, "Height": rows}).to_string().bytes());
                    sink.send(Message::binary(data)).await.map_err(|e| lost(&e))?;
                }
            },
        }
    }
    ends.stdout.flush().await?;
    ends.stderr.flush().await?;
    outcome(status.as_ref())
}

/// A connection that ended before its time.
pub fn lost(error: &tungstenite::Error) -> Failure {
    Failure::Plain(match error {
        tungstenite::Error::Io(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            "the server closed the connection".into()
        }
        tungstenite::Error::Io(e) => format!("the connection to the server broke: {}", os(e)),
        other => format!("the connection to the server broke: {other}"),
    })
}

async fn write(to: &mut (impl AsyncWrite + Unpin), data: &[u8]) -> Done {
    to.write_all(data).await?;
    Ok(to.flush().await?)
}

async fn read(from: &mut Option<impl AsyncRead + Unpin>, buffer: &mut [u8]) -> Done<usize> {
    match from {
        Some(from) => Ok(from.read(buffer).await?),
        None => std::future::pending().await,
    }
}

async fn next(sizes: &mut Option<mpsc::Receiver<(u16, u16)>>) -> Option<(u16, u16)> {
    match sizes {
        Some(sizes) => sizes.recv().await,
        None => std::future::pending().await,
    }
}

/// What the server said instead of upgrading.
pub fn refused(error: kube::Error) -> Failure {
    match error {
        kube::Error::Api(status) => {
            let value = serde_json::to_value(&*status).unwrap_or_default();
            Status::from_value(&value, status.code).into()
        }
        other => Failure::Plain(format!("unable to upgrade connection: {other}")),
    }
}

/// The exit code in the final Status.
fn outcome(status: Option<&Value>) -> Done<u8> {
    let Some(status) = status else { return Ok(0) };
    if status["status"] == "Success" {
        return Ok(0);
    }
    if status["reason"] == "NonZeroExitCode" {
        let cause = status.items_at("/details/causes").iter().find(|c| c["reason"] == "ExitCode");
        let code = cause.and_then(|c| c.str_at("/message")).and_then(|m| m.parse::<i32>().ok());
        return Ok(code.map_or(1, |code| (code & 0xff) as u8));
    }
    Err(Failure::Plain(status.str_at("/message").unwrap_or("the remote command failed").to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes() {
        assert_eq!(outcome(None).unwrap(), 0);
        assert_eq!(outcome(Some(&json!({"status": "Success"}))).unwrap(), 0);
        let failed = json!({"status": "Failure", "reason": "NonZeroExitCode", "message": "command terminated with exit code 3",
            "details": {"causes": [{"reason": "ExitCode", "message": "3"}]}});
        assert_eq!(outcome(Some(&failed)).unwrap(), 3);
        let other = json!({"status": "Failure", "message": "container not found (\"x\")"});
        assert_eq!(outcome(Some(&other)).unwrap_err().to_string(), "error: container not found (\"x\")");
    }
}
