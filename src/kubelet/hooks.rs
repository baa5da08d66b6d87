//! Lifecycle hooks: what a container wants done right after its start and before its end.
//!
//! Rules: upstream `pkg/kubelet/lifecycle`.

use std::time::Duration;

use k8s_openapi::api::core::v1::LifecycleHandler;

use super::ask::{self, Answer};
use super::pod::Member;
use super::runtime::Runtime;

/// Runs a hook to its end or to `limit`.
pub async fn run(
    runtime: &dyn Runtime,
    id: &str,
    member: &Member,
    handler: &LifecycleHandler,
    address: &str,
    limit: Duration,
) -> Result<(), String> {
    let work = async {
        if let Some(exec) = &handler.exec {
            return ask::command(runtime, id, exec, limit).await;
        }
        if let Some(get) = &handler.http_get {
            return ask::http_reach(member, get, address).await;
        }
        if let Some(sleep) = &handler.sleep {
            tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        }
        // tcpSocket is accepted by the API and does nothing, upstream too.
        Answer::Success
    };
    match tokio::time::timeout(limit, work).await {
        Ok(Answer::Success) => Ok(()),
        Ok(Answer::Failure(why) | Answer::Unknown(why)) => Err(why),
        Err(_) => Err(format!("did not end within {} s", limit.as_secs())),
    }
}
