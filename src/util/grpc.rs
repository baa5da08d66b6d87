//! gRPC over unix sockets: the way to a container runtime, to drivers, to a plugin that keeps keys.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tonic::transport::{Channel, Endpoint, Uri};

/// Deadline for reaching the socket.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A gRPC channel to a unix socket, connected at the first call and again after a loss. A path that begins with a NUL
/// byte names a socket without a file.
pub fn channel(socket: &Path) -> Channel {
    let path: PathBuf = socket.to_owned();
    // The authority is never resolved: the connector ignores it. containerd wants one that is a valid host name.
    Endpoint::from_static("http://localhost").connect_timeout(CONNECT_TIMEOUT).connect_with_connector_lazy(
        tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { tokio::net::UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
        }),
    )
}
