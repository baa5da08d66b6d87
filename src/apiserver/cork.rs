//! What a connection writes, passed on once for each turn of its task instead of once for each frame.
//!
//! HTTP/2 flushes after every frame with a body. For an event that a thousand watchers see that would be a thousand TLS
//! records and system calls, and one more for every answer of a group that was committed together. So [`Corked`] keeps
//! what is written, and [`Driven`], the connection's task, lets every task that is ready have its turn before it passes on
//! what they all wrote.
//!
//! In: a stream and the future that serves it. Out: the same bytes in the same order.
//!
//! **Invariant:** what is written goes out without further writes: the task does not sleep on it.
//! **Invariant:** when the serving future has ended (an upgrade has taken the stream over) nothing is kept back any more.

use std::any::Any;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What ends with a connection. Requests have it among their extensions: who answers one with an upgrade leaves here what is
/// to be dropped when the stream behind it has ended, whoever has that stream by then.
#[derive(Clone, Default)]
pub struct ConnectionEnd(Arc<Mutex<Vec<Box<dyn Any + Send>>>>);

impl ConnectionEnd {
    /// Drops it when the connection has ended.
    pub fn keep(&self, what: impl Any + Send) {
        self.0.lock().push(Box::new(what));
    }
}

/// Makes it so.
struct Ends(ConnectionEnd);

impl Drop for Ends {
    fn drop(&mut self) {
        let kept = std::mem::take(&mut *self.0.0.lock());
        // Without the lock: what is dropped may do anything.
        drop(kept);
    }
}

/// Bytes that are kept at most.
const CORK_BYTES: usize = 64 << 10;
/// Bytes that are passed on without waiting for more.
const FULL_BYTES: usize = 32 << 10;
/// A write of so many bytes is not copied.
const DIRECT_BYTES: usize = 8 << 10;
/// Room that a connection keeps while it has nothing to write.
const IDLE_BYTES: usize = 4 << 10;

struct Output<T> {
    io: T,
    /// Dropped with it.
    _end: Ends,
    kept: Vec<u8>,
    /// How much of it has been passed on.
    sent: usize,
    /// The stream below may hold something that it has not sent.
    dirty: bool,
    /// Nothing is kept back any more.
    open: bool,
    /// The stream failed; later writes are told.
    failed: Option<io::ErrorKind>,
}

impl<T: AsyncWrite + Unpin> Output<T> {
    fn is_empty(&self) -> bool {
        self.kept.is_empty() && !self.dirty
    }

    fn check(&self) -> io::Result<()> {
        self.failed.map_or(Ok(()), |kind| Err(kind.into()))
    }

    /// Passes on all that is kept.
    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = ready!(self.try_drain(cx));
        if let Err(error) = &done {
            self.failed = Some(error.kind());
            (self.kept, self.sent, self.dirty) = (Vec::new(), 0, false);
        }
        Poll::Ready(done)
    }

    fn try_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        while self.sent < self.kept.len() {
            self.dirty = true;
            let n = ready!(Pin::new(&mut self.io).poll_write(cx, &self.kept[self.sent..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += n;
        }
        self.kept.clear();
        self.kept.shrink_to(IDLE_BYTES);
        self.sent = 0;
        if self.dirty {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.dirty = false;
        }
        Poll::Ready(Ok(()))
    }

    fn write(&mut self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.check()?;
        let length: usize = parts.iter().map(|p| p.len()).sum();
        if self.open || length >= DIRECT_BYTES || self.kept.len() + length > CORK_BYTES {
            ready!(self.drain(cx))?;
        }
        if self.open || length >= DIRECT_BYTES {
            self.dirty = true;
            return Pin::new(&mut self.io).poll_write_vectored(cx, parts);
        }
        parts.iter().for_each(|p| self.kept.extend_from_slice(p));
        Poll::Ready(Ok(length))
    }
}

/// The connection's end of a stream.
pub struct Corked<T>(Arc<Mutex<Output<T>>>);

impl<T> Corked<T> {
    /// Over a stream. The serving future gets one of the two, [`Driven`] the other.
    pub fn pair(io: T, end: ConnectionEnd) -> (Self, Self) {
        let output = Output { io, _end: Ends(end), kept: Vec::new(), sent: 0, dirty: false, open: false, failed: None };
        let shared = Arc::new(Mutex::new(output));
        (Self(shared.clone()), Self(shared))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Corked<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.lock().io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Corked<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.lock().write(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.lock().write(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// The task does it at the end of its turn.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut output = self.0.lock();
        if output.open { output.drain(cx) } else { Poll::Ready(output.check()) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut output = self.0.lock();
        // What cannot be sent any more is no reason not to close.
        let _ = ready!(output.drain(cx));
        Pin::new(&mut output.io).poll_shutdown(cx)
    }
}

/// Serves a connection and passes on what it writes.
pub struct Driven<C: Future, T> {
    connection: Pin<Box<C>>,
    output: Corked<T>,
    /// The others had their turn.
    waited: bool,
    ended: Option<C::Output>,
}

impl<C: Future, T> Driven<C, T> {
    /// `connection` serves the other half of `output`.
    pub fn new(connection: C, output: Corked<T>) -> Self {
        Self { connection: Box::pin(connection), output, waited: false, ended: None }
    }
}

impl<C: Future, T> Unpin for Driven<C, T> {}

impl<C: Future, T: AsyncWrite + Unpin> Future for Driven<C, T> {
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        let this = &mut *self;
        if this.ended.is_none()
            && let Poll::Ready(ended) = this.connection.as_mut().poll(cx)
        {
            this.ended = Some(ended);
        }
        let mut output = this.output.0.lock();
        if this.ended.is_some() {
            output.open = true;
            // The connection's own result counts.
            let _ = ready!(output.drain(cx));
            drop(output);
            return this.ended.take().map_or(Poll::Pending, Poll::Ready);
        }
        if output.is_empty() {
            this.waited = false;
            return Poll::Pending;
        }
        if !this.waited && output.kept.len() < FULL_BYTES {
            // Behind all tasks that are ready now.
            this.waited = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        this.waited = false;
        // An error is kept for the connection's next write; pending has left the waker with the stream.
        let _ = output.drain(cx);
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Keeps each write apart; takes at most `room` bytes at once.
    struct Recorder {
        writes: Arc<Mutex<Vec<Vec<u8>>>>,
        room: usize,
    }

    impl AsyncWrite for Recorder {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            let n = buf.len().min(self.room);
            self.writes.lock().push(buf[..n].to_vec());
            Poll::Ready(Ok(n))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    type Writes = Arc<Mutex<Vec<Vec<u8>>>>;

    fn recorder(room: usize) -> (Writes, Corked<Recorder>, Corked<Recorder>) {
        let writes = Arc::new(Mutex::new(Vec::new()));
        let (a, b) = Corked::pair(Recorder { writes: writes.clone(), room }, Default::default());
        (writes, a, b)
    }

    #[tokio::test]
    async fn what_is_written_in_one_turn_goes_out_at_once() {
        let (writes, mut stream, output) = recorder(usize::MAX);
        let (go, gone) = tokio::sync::oneshot::channel::<()>();
        let serving = async move {
            for part in ["a", "b", "c"] {
                stream.write_all(part.as_bytes()).await.unwrap();
                stream.flush().await.unwrap();
            }
            let _ = gone.await;
            stream.write_all(b"d").await.unwrap();
        };
        let mut driven = Driven::new(serving, output);
        assert!(poll_fn(|cx| Poll::Ready(Pin::new(&mut driven).poll(cx).is_pending())).await);
        assert!(writes.lock().is_empty(), "the others have their turn first");
        assert!(poll_fn(|cx| Poll::Ready(Pin::new(&mut driven).poll(cx).is_pending())).await);
        assert_eq!(*writes.lock(), [b"abc".to_vec()]);
        drop(go);
        driven.await;
        assert_eq!(writes.lock().concat(), b"abcd", "the end passes on what is left");
    }

    #[tokio::test]
    async fn order_is_kept_whatever_is_copied() {
        for room in [usize::MAX, 1000, 7] {
            let (writes, mut stream, output) = recorder(room);
            let parts: Vec<Vec<u8>> = [10, DIRECT_BYTES, 100, CORK_BYTES - 1, 3, 2 * CORK_BYTES, 5]
                .iter()
                .enumerate()
                .map(|(i, n)| vec![i as u8; *n])
                .collect();
            let whole = parts.concat();
            let serving = async move {
                for part in &parts {
                    stream.write_all(part).await.unwrap();
                }
                stream.shutdown().await.unwrap();
            };
            Driven::new(serving, output).await;
            assert_eq!(writes.lock().concat(), whole);
        }
    }

    #[tokio::test]
    async fn an_upgraded_stream_is_not_kept_back() {
        let (near, mut far) = tokio::io::duplex(1 << 10);
        let end = ConnectionEnd::default();
        let (mut stream, output) = Corked::pair(near, end.clone());
        let (kept, mut ended) = tokio::sync::oneshot::channel::<()>();
        end.keep(kept);
        stream.write_all(b"101 ").await.unwrap();
        stream.flush().await.unwrap();
        Driven::new(std::future::ready(()), output).await;
        stream.write_all(b"hello").await.unwrap();
        stream.flush().await.unwrap();
        let mut got = [0; 9];
        far.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"101 hello");
        far.write_all(b"yes").await.unwrap();
        let mut got = [0; 3];
        stream.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"yes");
        assert_eq!(ended.try_recv(), Err(tokio::sync::oneshot::error::TryRecvError::Empty));
        drop(stream);
        assert_eq!(ended.try_recv(), Err(tokio::sync::oneshot::error::TryRecvError::Closed), "ends with the stream");
    }

    #[tokio::test]
    async fn a_stream_that_failed_says_so() {
        let (near, far) = tokio::io::duplex(8);
        drop(far);
        let (mut stream, output) = Corked::pair(near, Default::default());
        let serving = async move {
            stream.write_all(b"lost").await.unwrap();
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            stream.write_all(b"more").await.unwrap_err().kind()
        };
        assert_eq!(Driven::new(serving, output).await, io::ErrorKind::BrokenPipe);
    }
}
