//! What the API server asks of a node: logs, streams into containers, figures. In one process it calls the kubelet
//! through this; a node elsewhere is asked over HTTPS by something that implements this too.

use std::io;
use std::net::SocketAddr;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use http::{Request, Response};
use jiff::Timestamp;
use serde_json::Value;

use crate::api::status::{ApiResult, Reason, Status};

/// A container of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Target {
    /// Namespace.
    pub namespace: String,
    /// Pod.
    pub pod: String,
    /// Container; empty for the only one.
    pub container: String,
}

/// What of a log is wanted, as `v1.PodLogOptions`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogOptions {
    /// Go on with what is written later, until the container ends.
    pub follow: bool,
    /// Of the container before the present one.
    pub previous: bool,
    /// Only so many lines from the end.
    pub tail_lines: Option<u64>,
    /// Only lines from this moment on.
    pub since: Option<Timestamp>,
    /// Each line begins with its time.
    pub timestamps: bool,
    /// At most so many bytes.
    pub limit_bytes: Option<u64>,
    /// `Stdout`, `Stderr`; none for both.
    pub stream: Option<String>,
}

/// Which streams an exec or attach connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Streams {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// A terminal.
    pub tty: bool,
}

/// Bytes of a log as they come.
pub type LogStream = BoxStream<'static, io::Result<Bytes>>;

/// A connection to something on a node.
pub type NodeStream = crate::util::duplex::Stream;

/// What on a node a connection leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// The node's own API, plain HTTP/1: who comes this way has been authorized.
    Kubelet,
    /// A TCP port of one of its pods, or of the node itself.
    Port(SocketAddr),
}

/// A node, as the API server sees it.
///
/// The streaming calls take the client's upgrade request (its `hyper` upgrade in the extensions, the body left behind) and
/// give the answer to send back; the bytes flow after that.
#[async_trait]
pub trait NodeApi: Send + Sync {
    /// The log of a container.
    async fn logs(&self, target: &Target, options: &LogOptions) -> ApiResult<LogStream>;
    /// Runs a command.
    async fn exec(
        &self,
        target: &Target,
        command: &[String],
        streams: Streams,
        request: Request<()>,
    ) -> ApiResult<Response<()>>;
    /// Connects to the container's main process.
    async fn attach(&self, target: &Target, streams: Streams, request: Request<()>) -> ApiResult<Response<()>>;
    /// Connects to ports of the pod; `target.container` does not matter.
    async fn port_forward(&self, target: &Target, ports: &[u16], request: Request<()>) -> ApiResult<Response<()>>;
    /// Opens a connection; an error says why there is none.
    async fn open(&self, door: Door) -> io::Result<NodeStream>;
    /// `/stats/summary`.
    async fn stats_summary(&self) -> ApiResult<Value>;
    /// `/metrics/resource`: what is used, in Prometheus' text form.
    async fn resource_metrics(&self) -> ApiResult<String>;
    /// `/healthz`: the reason why not, or nothing.
    async fn healthz(&self) -> Result<(), String>;
    /// `/pods`: the node's pods as a PodList.
    async fn pods(&self) -> ApiResult<Value>;
    /// Makes a directory of this name in the node's storage directory; gives its path.
    async fn make_local_volume(&self, name: &str) -> ApiResult<String> {
        Err(Status::new(Reason::NotFound, format!("this node keeps no volumes: {name}")))
    }
    /// Removes such a directory with all that is in it. One that is gone is no error.
    async fn remove_local_volume(&self, path: &str) -> ApiResult<()> {
        Err(Status::new(Reason::NotFound, format!("this node keeps no volumes: {path}")))
    }
    /// `/metrics`: figures of the node agent, in Prometheus' text form.
    async fn metrics(&self) -> ApiResult<String>;
}
