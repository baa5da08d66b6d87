//! DaemonSets: one pod on each node that is meant.
//!
//! Reads the set, its revisions and pods, and all nodes; plans; acts; reports. The scheduler binds the pods, which can go
//! to their node only.
//! **Invariant:** while a pod is on a node, even one on its way out that has not ended, no second one is made there, but with
//! surge.

pub mod nodes;
pub mod plan;

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::Value;

use self::plan::{Daemon, Daemons, Nodes, Plan};
use crate::api::object::{Object, ObjectKey};
use crate::api::status::Status;
use crate::api::value::ValueExt;
use crate::client::res;
use crate::controllers::common::pods::{self, PodView};
use crate::controllers::common::revisions::{self, History, POD_REVISION};
use crate::controllers::common::{batch, claim, status as common};
use crate::controllers::replicaset::{create_pod, delete_pod};
use crate::runtime::{Cx, Error, Reconciler, Requeue, Watches};
use crate::util::backoff::Backoff;

/// Between failures of pods of one set on one node; upstream's.
const FAILURES: Backoff = Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(15 * 60) };
/// Seconds without a failure after which they are forgotten; upstream's twice the cap.
const FORGOTTEN_AFTER: i64 = 2 * 15 * 60;
/// The template's number, as an older version had it.
const TEMPLATE_GENERATION: &str = "/metadata/annotations/deprecated.daemonset.template.generation";

/// The controller.
#[derive(Default)]
pub struct DaemonSets {
    /// By set's uid and node: failures in a row, and when the last one was, in seconds. Forgotten with the time.
    failures: Mutex<HashMap<(String, String), (u32, i64)>>,
}

/// For the list of controllers.
pub fn controller() -> Box<dyn Reconciler> {
    Box::new(DaemonSets::default())
}

#[async_trait]
impl Reconciler for DaemonSets {
    fn name(&self) -> &'static str {
        "daemon-set-controller"
    }

    fn speaks_as(&self) -> &'static str {
        "daemonset-controller"
    }

    fn watches(&self) -> Watches {
        Watches::own(&res::DAEMON_SETS)
            .owned(&res::PODS)
            .owned(&res::CONTROLLER_REVISIONS)
            .mapped(&res::PODS, |pod, cx| claim::adopters(&res::DAEMON_SETS, pod, cx))
            .changed(&res::NODES, |old, new, cx| {
                // Nodes tell of themselves all the time; where daemons belong seldom changes with that.
                if matches!((old, new), (Some(old), Some(new)) if nodes::means_the_same(old, new)) {
                    return Vec::new();
                }
                cx.lister(&res::DAEMON_SETS).list(None).iter().map(|d| ObjectKey::from(&d.meta)).collect()
            })
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        let Some(object) = cx.get(&res::DAEMON_SETS, key).filter(|o| !o.is_deleting()) else {
            return Ok(Requeue::Never);
        };
        let value = object.value();
        let selector = claim::label_selector(&value)?;
        if selector.is_empty() {
            let message = "This daemon set is selecting all pods. A non-empty selector is required.";
            cx.events.warning(&object, "SelectingAll", message);
            return Ok(Requeue::Never);
        }
        let history = revisions::sync(cx, &revisions::DAEMON_SET, &object, &selector).await?;
        let owned = claim::claim(cx, &res::DAEMON_SETS, &object, &selector, &res::PODS).await?;
        let template = nodes::with_tolerations(&value["spec"]["template"]);
        let all = cx.lister(&res::NODES).list(None);
        let nodes: Nodes = all.iter().map(|n| (n.meta.name.clone(), nodes::fit(&template, &nodes::view(n)))).collect();
        let ds = Daemons::new(&object, &value);
        let daemons = daemons(&owned, &history);
        let now = cx.now();
        let wait = |node: &str| self.wait(&object.meta.uid, node, now.as_second());
        let plan = plan::plan(&ds, &nodes, &daemons, &wait, now);
        let outcome = self.act(cx, &object, &value, &template, &plan, &owned, &history).await;
        let owned = cx.lister(&res::PODS).by_index("owner", &object.meta.uid);
        if let Some(fresh) = cx.get(&res::DAEMON_SETS, key).filter(|o| o.meta.uid == object.meta.uid) {
            let (old, daemons) = (fresh.value(), self::daemons(&owned, &history));
            let new = plan::status(old.get("status"), &ds, &nodes, &daemons, history.collisions, cx.now());
            common::write(cx, &res::DAEMON_SETS, &fresh, new).await?;
        }
        outcome?;
        let hashes: BTreeSet<&str> = owned.iter().filter_map(|p| p.meta.label(POD_REVISION)).collect();
        let live = history.all.iter().filter(|r| r.name == history.update.name || hashes.contains(r.hash.as_str()));
        revisions::truncate(cx, &revisions::DAEMON_SET, &object, &history, &live.map(|r| r.name.clone()).collect())
            .await?;
        Ok(Requeue::after_seconds(plan.after))
    }
}

fn daemons(pods: &[Arc<Object>], history: &History) -> Vec<Daemon> {
    let daemon = |pod: &Arc<Object>| {
        let value = pod.value();
        let mut view = PodView::new(pod);
        let bound = !view.node.is_empty();
        view.node = nodes::node_of(&value).unwrap_or_default().to_owned();
        Daemon { view, bound, updated: pod.meta.label(POD_REVISION) == Some(&history.update.hash) }
    };
    pods.iter().map(daemon).collect()
}

impl DaemonSets {
    /// Seconds until a failed pod may be replaced.
    fn wait(&self, uid: &str, node: &str, now: i64) -> i64 {
        let known = self.failures.lock().get(&(uid.to_owned(), node.to_owned())).copied();
        known.map_or(0, |(failures, last)| {
            last + i64::try_from(FAILURES.delay(failures).as_secs()).unwrap_or(i64::MAX) - now
        })
    }

    fn failed(&self, uid: &str, node: &str, now: i64) {
        let mut all = self.failures.lock();
        all.retain(|_, (_, last)| *last + FORGOTTEN_AFTER > now);
        let known = all.entry((uid.to_owned(), node.to_owned())).or_insert((0, now));
        *known = (known.0.saturating_add(1), now);
    }

    #[allow(clippy::too_many_arguments)] // one pass's knowledge
    async fn act(
        &self,
        cx: &Cx,
        object: &Arc<Object>,
        value: &Value,
        template: &Value,
        plan: &Plan,
        owned: &[Arc<Object>],
        history: &History,
    ) -> Result<(), Error> {
        let now = cx.now().as_second();
        for (pod, node, well) in &plan.ended {
            let place = format!("daemon pod {}/{pod} on node {node}", object.meta.namespace);
            if *well {
                let message = format!("Found succeeded {place}, will try to delete it");
                cx.events.normal(object, "SucceededDaemonPod", message);
            } else {
                self.failed(&object.meta.uid, node, now);
                let message = format!("Found failed {place}, will try to kill it");
                cx.events.warning(object, "FailedDaemonPod", message);
            }
        }
        let reference = claim::owner_reference(&res::DAEMON_SETS, object);
        let make = |i: usize| {
            let mut pod = pods::from_template(template, &object.meta.name, reference.clone());
            pod["metadata"]["labels"][POD_REVISION] = history.update.hash.as_str().into();
            if let Some(generation) = value.str_at(TEMPLATE_GENERATION) {
                pod["metadata"]["labels"]["pod-template-generation"] = generation.into();
            }
            nodes::pin(&mut pod, &plan.create[i]);
            create_pod(cx, object, pod)
        };
        let (_, error): (Vec<Value>, Option<Box<Status>>) = batch::slow_start(plan.create.len(), make).await;
        // What is there goes with its namespace.
        let error = error.filter(|e| !e.has_cause("NamespaceTerminating"));
        let going = owned.iter().filter(|p| plan.delete.contains(&p.meta.name));
        let (_, unable) = batch::all(going.map(|p| delete_pod(cx, object, p)).collect()).await;
        error.or(unable).map_or(Ok(()), |e| Err(e.into()))
    }
}
