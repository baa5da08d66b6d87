//! Jobs: so many pods that have to end well.
//!
//! Reads the Job and its pods, plans, acts, and counts what ended.
//! **Invariant:** an ended pod is counted exactly once, whatever crashes: a finalizer keeps it until its uid is in the
//! status, and its uid becomes a number only when the finalizer is gone ([`status`]).

pub mod backoff;
pub mod indexes;
pub mod model;
pub mod plan;
pub mod policy;
pub mod status;
pub mod ttl;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::{Value, json};

use self::backoff::Streak;
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
#[derive(Default)]
pub struct Jobs {
    /// What failed lately, by Job and its uid; a Job whose pods never ended is not there.
    streaks: Mutex<HashMap<ObjectKey, (String, Streak)>>,
}

/// For the list of controllers.
pub fn controller() -> Box<dyn Reconciler> {
    Box::new(Jobs::default())
}

impl Jobs {
    /// The failures in a row, with those of these pods.
    fn streak(&self, key: &ObjectKey, uid: &str, job: &Job, pods: &[JobPod]) -> Streak {
        let known = self.streaks.lock().get(key).filter(|(of, _)| of == uid).map(|(_, known)| *known);
        known.map_or_else(|| Streak::of(job, pods), |known| known.and(job, pods))
    }

    /// Keeps it, once the pods that it counts are written down.
    fn remember(&self, key: &ObjectKey, uid: &str, job: &Job, pods: &[JobPod]) {
        // Limits per index have their own count, in the pods.
        if job.per_index.is_some() {
            return;
        }
        let streak = self.streak(key, uid, job, pods);
        let mut all = self.streaks.lock();
        if streak != Streak::default() || all.contains_key(key) {
            all.insert(key.clone(), (uid.to_owned(), streak));
        }
    }
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
        let job = object.as_deref().map(Job::new);
        release_strangers(cx, key, object.as_deref().zip(job.as_ref())).await?;
        let (Some(object), Some(job)) = (object, job.filter(|j| !j.is_foreign() && !j.is_finished())) else {
            self.streaks.lock().remove(key);
            return Ok(Requeue::Never);
        };
        let value = object.value();
        let selector = claim::label_selector(&value)?;
        let claimed =
            claim::claim_by(cx, &res::JOBS, &object, &res::PODS, Rule::of(&selector).with_finalizer(FINALIZER)).await?;
        let pods: Vec<JobPod> = claimed.iter().map(|p| JobPod::new(p)).collect();
        let uid = &object.meta.uid;
        let streak = self.streak(key, uid, &job, &pods);
        let plan = plan::plan(&job, &pods, streak, cx.now());
        let cut: HashSet<&str> = plan.delete.iter().map(String::as_str).collect();
        let gone = claimed.iter().filter(|p| cut.contains(&*p.meta.name)).cloned().collect();
        let outcome = act(cx, &object, &value, &plan, gone).await;
        // While a pod could not be deleted, the Job is not over.
        let end = plan.end.as_ref().filter(|_| outcome.is_ok());
        let report = Report { cx, key, uid, selector: &selector, end, cut: &cut };
        if let Some(Seen { job, views, pods, .. }) = report.note().await? {
            self.remember(key, uid, &job, &views);
            report.settle(pods).await?;
        }
        outcome?;
        Ok(Requeue::after_seconds(plan.after))
    }
}

/// Pods that nobody will count any more lose the finalizer: those that a Job left behind, and those of one that is over.
/// Rule: upstream `syncOrphanPod`, `cleanupPodFinalizers`.
async fn release_strangers(cx: &Cx, key: &ObjectKey, job: Option<(&Object, &Job)>) -> Result<(), Error> {
    let of_name = Selector::from_map(&json!({JOB_NAME: key.name}));
    for pod in cx.lister(&res::PODS).select(Some(&key.namespace), &of_name) {
        let owner = pod.meta.controller().map(|o| o.uid.as_str());
        let left = match (job, owner) {
            (Some((job, view)), Some(uid)) => job.meta.uid != uid || (view.is_finished() && !view.is_foreign()),
            // One without an owner may be adopted.
            (Some((job, view)), None) => {
                job.is_deleting() || pod.is_deleting() || view.is_finished() || !is_selected(job, &pod)
            }
            (None, _) => true,
        };
        if left {
            untrack(cx, &pod).await?;
        }
    }
    Ok(())
}

fn is_selected(job: &Object, pod: &Object) -> bool {
    let selector = claim::label_selector(&job.only(&["spec", "selector"]));
    selector.is_ok_and(|s| s.matches(|k| pod.meta.label(k)))
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

async fn act(cx: &Cx, job: &Arc<Object>, value: &Value, plan: &Plan, gone: Vec<Arc<Object>>) -> Result<(), Error> {
    let delete = |pod: Arc<Object>| async move {
        // Of a Job that goes on, a pod that is not wanted any more is no failure.
        if plan.end.is_none() {
            untrack(cx, &pod).await?;
        }
        delete_pod(cx, job, &pod).await.map_err(Error::from)
    };
    let (_, error) = batch::all(gone.into_iter().map(delete).collect()).await;
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

/// What comes after the deed: reads everything again, writes down, takes finalizers off, counts.
struct Report<'a> {
    cx: &'a Cx,
    key: &'a ObjectKey,
    uid: &'a str,
    selector: &'a Selector,
    end: Option<&'a End>,
    /// Names of the pods that were deleted just now.
    cut: &'a HashSet<&'a str>,
}

/// The Job and its pods, as they are stored and as plans see them.
struct Seen {
    job: Job,
    object: Arc<Object>,
    pods: Vec<Arc<Object>>,
    views: Vec<JobPod>,
}

impl Report<'_> {
    fn read(&self) -> Option<Seen> {
        let object = self.cx.get(&res::JOBS, self.key).filter(|o| o.meta.uid == self.uid)?;
        let mut pods = self.cx.lister(&res::PODS).by_index("owner", self.uid);
        pods.retain(|p| self.selector.matches(|k| p.meta.label(k)));
        let view = |p: &Arc<Object>| JobPod { cut: self.cut.contains(&*p.meta.name), ..JobPod::new(p) };
        Some(Seen { job: Job::new(&object), views: pods.iter().map(view).collect(), object, pods })
    }

    /// Gives back what was written down, of the pods those that may lose the finalizer now.
    async fn note(&self) -> Result<Option<Seen>, Error> {
        let Some(mut seen) = self.read() else { return Ok(None) };
        let noted = status::note(&seen.job, &seen.views, self.end, self.cx.now());
        common::write(self.cx, &res::JOBS, &seen.object, noted.status).await?;
        match noted.suspended {
            Some(true) => self.cx.events.normal(&seen.object, "Suspended", "Job suspended"),
            Some(false) => self.cx.events.normal(&seen.object, "Resumed", "Job resumed"),
            None => {}
        }
        let going: HashSet<String> = noted.untrack.into_iter().collect();
        seen.pods.retain(|p| going.contains(&p.meta.name));
        Ok(Some(seen))
    }

    /// Lets pods go, and counts those that are.
    async fn settle(&self, going: Vec<Arc<Object>>) -> Result<(), Error> {
        let (_, error) = batch::all(going.iter().map(|p| untrack(self.cx, p)).collect()).await;
        if let Some(Seen { job, object, views, .. }) = self.read() {
            let settled = status::settle(&job, &views, self.end, self.cx.now());
            let written = common::write(self.cx, &res::JOBS, &object, settled).await?;
            if let Some(now) = self.cx.get(&res::JOBS, self.key).filter(|_| written).map(|o| Job::new(&o)) {
                tell(self.cx, &object, &now);
            }
        }
        error.map_or(Ok(()), Err)
    }
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
