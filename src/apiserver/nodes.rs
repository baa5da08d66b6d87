//! How nodes are reached: the one of this process directly, others over the connection that their agent opened.
//!
//! **Invariant:** a node may have several connections at one time (it reconnects before the old one is known to be dead);
//! the newest is used, and each takes only itself away.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderValue, StatusCode, header};
use hyper_util::rt::TokioIo;
use parking_lot::RwLock;

use crate::api::status::{ApiResult, Reason, Status};
use crate::runtime::node_api::NodeApi;
use crate::runtime::remote_node::RemoteNode;
use crate::runtime::tunnel::{PROTOCOL, Tunnel};

use super::auth::node;
use super::respond::{self, Answer};
use super::{Api, Call};

/// Ways to one node by their numbers, the newest last.
type Ways = Vec<(u64, Arc<dyn NodeApi>)>;

/// Ways to the nodes, by name.
#[derive(Default)]
pub(super) struct Nodes {
    ways: RwLock<HashMap<String, Ways>>,
    next: AtomicU64,
}

impl Nodes {
    /// Adds a way; gives its number.
    pub(super) fn attach(&self, name: &str, node: Arc<dyn NodeApi>) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.ways.write().entry(name.to_owned()).or_default().push((number, node));
        number
    }

    fn detach(&self, name: &str, number: u64) {
        let mut all = self.ways.write();
        if let Some(ways) = all.get_mut(name) {
            ways.retain(|(n, _)| *n != number);
            if ways.is_empty() {
                all.remove(name);
            }
        }
    }

    /// The newest way to a node.
    pub(super) fn get(&self, name: &str) -> ApiResult<Arc<dyn NodeApi>> {
        let all = self.ways.read();
        let newest = all.get(name).and_then(|ways| ways.last());
        newest.map(|(_, node)| node.clone()).ok_or_else(|| {
            let why = format!("node {name} cannot be reached: its agent is not connected to this server");
            Status::new(Reason::ServiceUnavailable, why)
        })
    }
}

impl Api {
    /// Takes the connection of an agent: from its upgrade on, this server asks over it.
    pub(super) fn take_tunnel(&self, mut call: Call) -> ApiResult<Answer> {
        let Some(name) = node::identity(&call.user).filter(|n| !n.is_empty()).map(str::to_owned) else {
            return Err(super::auth::forbidden(&call.info.attributes, &call.user, "only nodes connect here"));
        };
        let wanted = call.headers.get(header::UPGRADE).is_some_and(|u| u == PROTOCOL);
        let Some(upgrade) = call.upgrade.take().filter(|_| wanted) else {
            return Err(Status::bad_request(format!("an upgrade to {PROTOCOL} is needed here")));
        };
        let (nodes, stop) = (self.nodes.clone(), self.shutdown.clone());
        // Belongs to the agent's connection, and ends with it or with the server.
        tokio::spawn(async move {
            let opened = async { Tunnel::over(TokioIo::new(upgrade.await.map_err(std::io::Error::other)?)).await };
            let (tunnel, connection) = match opened.await {
                Ok(opened) => opened,
                Err(error) => return tracing::debug!(node = name, "its connection failed at once: {error}"),
            };
            let number = nodes.attach(&name, Arc::new(RemoteNode::new(&name, tunnel)));
            tracing::info!(node = name, "its agent is connected");
            let end = stop.or(connection).await;
            nodes.detach(&name, number);
            match end {
                Some(Err(error)) => tracing::info!(node = name, "its agent's connection broke: {error}"),
                Some(Ok(())) => tracing::info!(node = name, "its agent has disconnected"),
                None => {}
            }
        });
        let mut answer = respond::nothing();
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        answer.headers_mut().insert(header::UPGRADE, HeaderValue::from_static(PROTOCOL));
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        Ok(answer)
    }
}
