//! Jobs: so many pods that have to end well.
//!
//! Reads the Job and its pods, plans, acts, and counts what ended.
//! **Invariant:** an ended pod is counted exactly once, whatever crashes: a finalizer keeps it until its uid is in the
//! status, and its uid becomes a number only when the finalizer is gone ([`status`]).

pub mod indexes;
pub mod model;
pub mod plan;
pub mod policy;
pub mod status;
pub mod ttl;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};

use self::model::{FINALIZER, INDEX, INDEX_FAILURES, INDEX_IGNORED, JOB_NAME, Job, JobPod};
use self::plan::{End, NewPod, Plan};
use crate::api::meta::labels::Selector;
use crate::api::object::{Object, ObjectKey};
use crate::api::status::{Reason, Status};
use crate::api::value::ValueExt;
use crate::client::{Patch, res};
use crate::controllers::common::claim::{self, Rule};
use crate::controllers::common::{batch, pods, status as common};
use crate::controllers::replicaset::{create_pod, delete_pod};
use crate::runtime::{Cx, Error, Reconciler, Requeue, Watches};

/// Names of pods are so long before index and random part at most.
const PREFIX_MAX: usize = 58;
/// Environment variable with the completion index.
const INDEX_ENV: &str = "JOB_COMPLETION_INDEX";

/// The controller.
pub struct Jobs;

/// For the list of controllers.
pub fn controller() -> Box<dyn Reconciler> {
    Box::new(Jobs)
}

#[async_trait]
impl Reconciler for Jobs {
    fn name(&self) -> &'static str {
        "job-controller"
    }

    fn watches(&self) -> Watches {
        Watches::own(&res::JOBS).owned(&res::PODS).mapped(&res::PODS, |pod, _| {
            let left = pod.meta.controller().is_none();
            let name = pod.meta.label(JOB_NAME).filter(|_| left);
            name.map(|n| ObjectKey::new(&pod.meta.namespace, n)).into_iter().collect()
        })
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        let object = cx.get(&res::JOBS, key);
        release_strangers(cx, key, object.as_deref()).await?;
        let Some(object) = object else { return Ok(Requeue::Never) };
        let job = Job::new(&object);
        if job.is_foreign() || job.is_finished() {
            return Ok(Requeue::Never);
        }
        let value = object.value();
        let selector = claim::label_selector(&value)?;
        let claimed =
            claim::claim_by(cx, &res::JOBS, &object, &res::PODS, Rule::of(&selector).with_finalizer(FINALIZER)).await?;
        let pods: Vec<JobPod> = claimed.iter().map(|p| JobPod::new(p)).collect();
        let plan = plan::plan(&job, &pods, cx.now());
        let outcome = act(cx, &object, &value, &plan, &claimed).await;
        report(cx, key, &object.meta.uid, &selector, plan.end.as_ref()).await?;
        outcome?;
        Ok(Requeue::after_seconds(plan.after))
    }
}

/// Pods that a Job left behind lose the finalizer: nobody will count them any more.
async fn release_strangers(cx: &Cx, key: &ObjectKey, job: Option<&Object>) -> Result<(), Error> {
    let of_name = Selector::from_map(&json!({JOB_NAME: key.name}));
    for pod in cx.lister(&res::PODS).select(Some(&key.namespace), &of_name) {
        let owner = pod.meta.controller().map(|o| o.uid.as_str());
        let left = match (job, owner) {
            (Some(job), Some(uid)) => job.meta.uid != uid,
            // One without an owner may be adopted.
            (Some(job), None) => job.is_deleting(),
            (None, _) => true,
        };
        if left {
            untrack(cx, &pod).await?;
        }
    }
    Ok(())
}

/// Takes the finalizer off a pod; one that has none, or is gone, is as good.
async fn untrack(cx: &Cx, pod: &Object) -> Result<(), Error> {
    let left: Vec<&str> = pod.meta.finalizers.iter().map(|f| &**f).filter(|f| *f != FINALIZER).collect();
    if left.len() == pod.meta.finalizers.len() {
        return Ok(());
    }
    let patch =
        json!({"metadata": {"uid": pod.meta.uid, "resourceVersion": pod.revision.to_string(), "finalizers": left}});
    match cx.client.patch(&res::PODS, &pod.meta.namespace, &pod.meta.name, None, Patch::Merge(&patch)).await {
        Err(e) if e.reason != Reason::NotFound => Err(e.into()),
        _ => Ok(()),
    }
}

async fn act(cx: &Cx, job: &Arc<Object>, value: &Value, plan: &Plan, pods: &[Arc<Object>]) -> Result<(), Error> {
    let delete = |pod: Arc<Object>| async move {
        // Of a Job that goes on, a pod that is not wanted any more is no failure.
        if plan.end.is_none() {
            untrack(cx, &pod).await?;
        }
        delete_pod(cx, job, &pod).await.map_err(Error::from)
    };
    let going = pods.iter().filter(|p| plan.delete.contains(&p.meta.name)).cloned();
    let (_, error) = batch::all(going.map(delete).collect()).await;
    if let Some(error) = error {
        return Err(error);
    }
    let owner = claim::owner_reference(&res::JOBS, job);
    let create = |i: usize| create_pod(cx, job, new_pod(job, value, &plan.create[i], &owner));
    let (_, error): (Vec<Value>, Option<Box<Status>>) = batch::slow_start(plan.create.len(), create).await;
    error.map_or(Ok(()), |e| Err(e.into()))
}

/// A pod from the Job's template.
fn new_pod(job: &Object, value: &Value, new: &NewPod, owner: &Value) -> Value {
    let name = &job.meta.name;
    let mut pod = pods::from_template(&value["spec"]["template"], name, owner.clone());
    let mut finalizers = pod.items_at("/metadata/finalizers").to_vec();
    finalizers.push(FINALIZER.into());
    pod["metadata"]["finalizers"] = finalizers.into();
    let Some(index) = new.index else { return pod };
    let suffix = format!("-{index}-");
    let room = PREFIX_MAX.saturating_sub(suffix.len());
    let short: String = name.chars().take(room).collect();
    pod["metadata"]["generateName"] = format!("{short}{suffix}").into();
    pod["metadata"]["annotations"][INDEX] = index.to_string().into();
    pod["metadata"]["labels"][INDEX] = index.to_string().into();
    if let Some((failures, ignored)) = new.failures {
        pod["metadata"]["annotations"][INDEX_FAILURES] = failures.to_string().into();
        if ignored > 0 {
            pod["metadata"]["annotations"][INDEX_IGNORED] = ignored.to_string().into();
        }
    }
    pod["spec"]["hostname"] = format!("{name}-{index}").into();
    for list in ["initContainers", "containers"] {
        for container in pod["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let mut env = container.items_at("/env").to_vec();
            if env.iter().all(|e| e.str_at("/name") != Some(INDEX_ENV)) {
                let field = json!({"fieldPath": format!("metadata.labels['{INDEX}']")});
                env.push(json!({"name": INDEX_ENV, "valueFrom": {"fieldRef": field}}));
                container["env"] = env.into();
            }
        }
    }
    pod
}

/// Reads everything again after the deed; writes down, takes finalizers off, counts.
async fn report(cx: &Cx, key: &ObjectKey, uid: &str, selector: &Selector, end: Option<&End>) -> Result<(), Error> {
    let read = || {
        let object = cx.get(&res::JOBS, key).filter(|o| o.meta.uid == uid)?;
        let mut pods = cx.lister(&res::PODS).by_index("owner", uid);
        pods.retain(|p| selector.matches(|k| p.meta.label(k)));
        let views: Vec<JobPod> = pods.iter().map(|p| JobPod::new(p)).collect();
        Some((Job::new(&object), object, pods, views))
    };
    let Some((job, object, pods, views)) = read() else { return Ok(()) };
    let noted = status::note(&job, &views, end, cx.now());
    common::write(cx, &res::JOBS, &object, noted.status).await?;
    match noted.suspended {
        Some(true) => cx.events.normal(&object, "Suspended", "Job suspended"),
        Some(false) => cx.events.normal(&object, "Resumed", "Job resumed"),
        None => {}
    }
    let going = pods.iter().filter(|p| noted.untrack.contains(&p.meta.name));
    let (_, error) = batch::all(going.map(|p| untrack(cx, p)).collect()).await;
    if let Some((job, object, _, views)) = read() {
        let settled = status::settle(&job, &views, end, cx.now());
        let written = common::write(cx, &res::JOBS, &object, settled).await?;
        if let Some(now) = cx.get(&res::JOBS, key).filter(|_| written).map(|o| Job::new(&o)) {
            tell(cx, &object, &now);
        }
    }
    error.map_or(Ok(()), Err)
}

fn tell(cx: &Cx, object: &Arc<Object>, job: &Job) {
    if job.condition("Complete").is_some() {
        if job.completions.is_some_and(|n| job.status.int_at("/succeeded").unwrap_or(0) > n) {
            let message = "Too many succeeded pods running after completion count reached";
            cx.events.warning(object, "TooManySucceededPods", message);
        }
        cx.events.normal(object, "Completed", "Job completed");
    } else if let Some(failed) = job.condition("Failed") {
        let text = |at: &str| failed.str_at(at).unwrap_or_default().to_owned();
        cx.events.warning(object, &text("/reason"), text("/message"));
    }
}
