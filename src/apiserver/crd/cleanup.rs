//! The end of a definition: its objects are deleted, then its finalizer goes.
//!
//! Rules: upstream `apiextensions-apiserver/pkg/controller/finalizer/crd_finalizer.go`.

use std::sync::Arc;

use serde_json::Value;

use super::write;
use crate::api::meta::GroupResource;
use crate::api::status::{ApiResult, Reason, Status};
use crate::api::user::UserInfo;
use crate::api::value::ValueExt;
use crate::registry::apiextensions::{CLEANUP_FINALIZER, set_condition};
use crate::registry::write::DeleteOptions;
use crate::registry::{Op, Registry, RequestCx, Resource, Target};
use crate::store::cache::Since;
use crate::util::backoff::Backoff;
use crate::util::clock::SharedClock;
use crate::util::tasks::Shutdown;

/// Cleans up for a definition, again and again until it is done or the server stops. Gives back the definition's name.
pub(super) async fn run(registry: Arc<Registry>, clock: SharedClock, name: String, stop: Shutdown) -> String {
    let mut failures = 0;
    while !stop.is_triggered() {
        match clean(&registry, &clock, &name).await {
            Ok(()) => break,
            Err(e) if e.reason == Reason::NotFound => break,
            Err(e) => {
                failures += 1;
                tracing::warn!(definition = name, failures, "cannot remove the objects of a definition: {e}");
                stop.or(tokio::time::sleep(Backoff::RESTART.delay(failures))).await;
            }
        }
    }
    name
}

async fn clean(registry: &Registry, clock: &SharedClock, name: &str) -> ApiResult<()> {
    let condition = |status: bool, reason: &'static str, message: &'static str| {
        let now = clock.now();
        move |old: &Value| {
            let mut new = old.clone();
            set_condition(&mut new, ("Terminating", status, reason, message), now);
            Ok(new)
        }
    };
    let status = || Op::Subresource("status".into());
    let begun = condition(true, "InstanceDeletionInProgress", "CustomResource deletion is in progress");
    write(registry, clock, name, status(), &begun).await?;
    let (plural, group) = name.split_once('.').unwrap_or((name, ""));
    let gr = GroupResource { group: group.to_owned().into(), resource: plural.to_owned().into() };
    // Names that were never accepted belong to nobody's objects.
    if let Some(res) = registry.resources().stored(&gr).filter(|r| r.custom.is_some()) {
        delete_all(registry, clock, &res, &gr).await?;
    }
    let done = condition(false, "InstanceDeletionCompleted", "removed all instances");
    write(registry, clock, name, status(), &done).await?;
    let release = |old: &Value| {
        let mut new = old.clone();
        let mut finalizers = old.items_at("/metadata/finalizers").to_vec();
        finalizers.retain(|f| f != CLEANUP_FINALIZER);
        new.set_at("/metadata/finalizers", finalizers);
        Ok(new)
    };
    write(registry, clock, name, Op::Update, &release).await
}

/// Deletes all objects and waits until the last one is gone: finalizers may keep some for long.
async fn delete_all(registry: &Registry, clock: &SharedClock, res: &Resource, gr: &GroupResource) -> ApiResult<()> {
    let cache = registry.cache().resource(gr);
    let mut cursor = cache.watch(Since::Now).map_err(Status::internal)?;
    let user = UserInfo::authenticated("system:apiserver", &[UserInfo::MASTERS]);
    loop {
        let objects = cache.list(None).0;
        if objects.is_empty() {
            return Ok(());
        }
        for o in objects.iter().filter(|o| !o.is_deleting()) {
            let cx = RequestCx::new(user.clone(), "kube-apiserver", clock.now());
            let at = Target { namespace: o.meta.namespace.to_string(), name: o.meta.name.to_string() };
            match registry.delete(res, &cx, &at, &DeleteOptions::default()).await {
                Err(e) if e.reason != Reason::NotFound => return Err(e),
                _ => {}
            }
        }
        if cache.count() > 0 {
            cursor.next_batch().await.map_err(Status::internal)?;
        }
    }
}
