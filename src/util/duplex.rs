//! Bytes both ways, whatever carries them: a socket, a stream of a tunnel, TLS over either.

use tokio::io::{AsyncRead, AsyncWrite};

/// Bytes both ways.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection to something.
pub type Stream = Box<dyn Duplex>;
