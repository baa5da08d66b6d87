//! StatefulSets: pods that have names, one after the other, and claims that stay theirs.
//!
//! Reads the set, its revisions, pods and claims; plans; acts in the plan's order; reports.
//! **Invariant:** a pod is deleted by uid, and its successor has its name: it can only be made when the pod is gone.

pub mod plan;
pub mod pod;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt::Display;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};

use self::plan::{Member, Set, Step};
use self::pod::Takers;
use crate::api::object::{Object, ObjectKey};
use crate::api::status::Reason;
use crate::api::value::ValueExt;
use crate::client::{DeleteOptions, optional, res};
use crate::controllers::common::claim::{self, Rule};
use crate::controllers::common::pods::PodView;
use crate::controllers::common::revisions::{self, History, POD_REVISION, Revision};
use crate::controllers::common::status as common;
use crate::runtime::{Cx, Error, Reconciler, Requeue, Watches};

/// The controller.
pub struct StatefulSets;

/// For the list of controllers.
pub fn controller() -> Box<dyn Reconciler> {
    Box::new(StatefulSets)
}

#[async_trait]
impl Reconciler for StatefulSets {
    fn name(&self) -> &'static str {
        "statefulset-controller"
    }

    fn watches(&self) -> Watches {
        Watches::own(&res::STATEFUL_SETS)
            .owned(&res::PODS)
            .owned(&res::CONTROLLER_REVISIONS)
            .mapped(&res::PODS, |pod, cx| claim::adopters(&res::STATEFUL_SETS, pod, cx))
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        let Some(object) = cx.get(&res::STATEFUL_SETS, key) else { return Ok(Requeue::Never) };
        let value = object.value();
        let selector = claim::label_selector(&value)?;
        if selector.is_empty() {
            return Ok(Requeue::Never);
        }
        let rule = Rule::of(&selector).only(|set, pod| plan::ordinal(&set.meta.name, &pod.meta.name).is_some());
        let pods = claim::claim_by(cx, &res::STATEFUL_SETS, &object, &res::PODS, rule).await?;
        let history = revisions::sync(cx, &revisions::STATEFUL_SET, &object, &selector).await?;
        let work = Work { cx, set: Set::new(&object, &value), object: &object, value: &value, history: &history };
        let members = work.members(&pods);
        let steps = plan::plan(&work.set, &members, &history.update.name, cx.now());
        let outcome = work.act(&steps, &pods).await;
        let members = work.report(key).await?;
        outcome?;
        work.truncate(&members).await?;
        Ok(Requeue::after_seconds(plan::next_available(&work.set, &members, cx.now())))
    }
}

/// One pass over one set.
struct Work<'a> {
    cx: &'a Cx,
    set: Set,
    object: &'a Arc<Object>,
    value: &'a Value,
    history: &'a History,
}

impl Work<'_> {
    fn members(&self, pods: &[Arc<Object>]) -> Vec<Member> {
        let member = |pod: &Arc<Object>| {
            let ordinal = plan::ordinal(&self.set.name, &pod.meta.name)?;
            Some(Member {
                view: PodView::new(pod),
                ordinal,
                revision: pod.meta.label(POD_REVISION).unwrap_or_default().to_owned(),
                mistaken: pod::is_mistaken(&pod.value(), &self.set, self.value, ordinal),
            })
        };
        pods.iter().filter_map(member).collect()
    }

    /// The revision of pods that are not updated yet.
    fn current(&self) -> &Revision {
        let name = self.value.str_at("/status/currentRevision");
        self.history.all.iter().find(|r| Some(r.name.as_str()) == name).unwrap_or(&self.history.update)
    }

    /// In order: with `OrderedReady` what comes later counts on what came before.
    async fn act(&self, steps: &[Step], pods: &[Arc<Object>]) -> Result<(), Error> {
        let find = |ordinal: &i64| {
            let name = self.set.pod_name(*ordinal);
            pods.iter().find(|p| p.meta.name == name)
        };
        for pod in pods.iter().filter(|_| !self.set.deleting) {
            self.settle_claims(pod).await?;
        }
        for step in steps {
            match step {
                Step::Create { ordinal, updated } => {
                    let revision = if *updated { &self.history.update } else { self.current() };
                    self.create(*ordinal, revision).await?;
                }
                Step::Claims(ordinal) => self.make_claims(*ordinal).await.map_err(|(_, error)| error)?,
                Step::Fix(ordinal) => {
                    let Some(pod) = find(ordinal) else { continue };
                    let mut new = pod.value();
                    pod::identify(&mut new, &self.set, self.value, *ordinal);
                    let (ns, name) = (&pod.meta.namespace, &pod.meta.name);
                    let outcome = self.cx.client.update(&res::PODS, ns, name, None, &new).await;
                    self.tell(("Update", "update"), name, outcome.as_ref().err());
                    outcome?;
                }
                Step::Delete(ordinal) => {
                    let Some(pod) = find(ordinal) else { continue };
                    let (ns, name) = (&pod.meta.namespace, &pod.meta.name);
                    let options = DeleteOptions::of_uid(&pod.meta.uid);
                    let outcome = optional(self.cx.client.delete(&res::PODS, ns, name, &options).await);
                    if !matches!(outcome, Ok(None)) {
                        self.tell(("Delete", "delete"), name, outcome.as_ref().err());
                    }
                    outcome?;
                }
            }
        }
        Ok(())
    }

    /// Tells people what became of a pod. Rule: upstream `recordPodEvent`.
    fn tell(&self, (reason, verb): (&str, &str), pod: &str, error: Option<&impl Display>) {
        let what = format!("{verb} Pod {pod} in StatefulSet {}", self.set.name);
        let events = &self.cx.events;
        match error {
            None => events.normal(self.object, &format!("Successful{reason}"), format!("{what} successful")),
            Some(e) => events.warning(self.object, &format!("Failed{reason}"), format!("{what} failed error: {e}")),
        }
    }

    /// Makes the claims of an ordinal that are missing, and its pod.
    async fn create(&self, ordinal: i64, revision: &Revision) -> Result<(), Error> {
        let verb = ("Create", "create");
        if let Err((text, error)) = self.make_claims(ordinal).await {
            if let Some(text) = text {
                self.tell(verb, &self.set.pod_name(ordinal), Some(&text));
            }
            return Err(error);
        }
        let pod = pod::pod(&self.set, self.object, self.value, ordinal, revision);
        let outcome = self.cx.client.create(&res::PODS, &self.object.meta.namespace, &pod).await;
        // A pod of another's is in the way, or the lister does not show it yet: the next pass sees which.
        if !outcome.as_ref().is_err_and(|e| e.reason == Reason::AlreadyExists) {
            self.tell(verb, &self.set.pod_name(ordinal), outcome.as_ref().err());
        }
        outcome?;
        Ok(())
    }

    /// Makes the claims of an ordinal. One that is going, or that was to go with a pod that is gone, has to be gone first.
    /// An error has beside it what people are told of it; what goes with a pod goes without a word.
    async fn make_claims(&self, ordinal: i64) -> Result<(), (Option<String>, Error)> {
        let ns = &self.object.meta.namespace;
        let with_pods = Takers::new(self.value).with_pod;
        for claim in pod::claims(&self.set, self.object, self.value, ordinal) {
            let name = claim.str_at("/metadata/name").unwrap_or_default();
            let Some(known) = self.cx.lister(&res::PERSISTENT_VOLUME_CLAIMS).get(ns, name) else {
                let whose = format!("Pod {} in StatefulSet {}", self.set.pod_name(ordinal), self.set.name);
                match self.cx.client.create(&res::PERSISTENT_VOLUME_CLAIMS, ns, &claim).await {
                    Ok(_) => {
                        let message = format!("create Claim {name} {whose} success");
                        self.cx.events.normal(self.object, "SuccessfulCreate", message);
                    }
                    Err(error) => {
                        if error.reason != Reason::AlreadyExists {
                            let message = format!("create Claim {name} for {whose} failed error: {error}");
                            self.cx.events.warning(self.object, "FailedCreate", message);
                        }
                        return Err((Some(format!("failed to create PVC {name}: {error}")), error.into()));
                    }
                }
                continue;
            };
            let pods = self.cx.lister(&res::PODS);
            let lost = |o: &crate::api::object::OwnerRef| {
                o.kind == "Pod" && pods.get(ns, &o.name).is_none_or(|p| p.meta.uid != o.uid)
            };
            // Rule: upstream `PodClaimIsStale`.
            let stale = with_pods && known.meta.owners.iter().any(lost);
            if stale || known.is_deleting() {
                let error = Error::Object { what: format!("claim {name}"), reason: "it is being deleted".into() };
                return Err(((!stale).then(|| format!("pvc {name} is being deleted")), error));
            }
        }
        Ok(())
    }

    /// Sees to it that the claims of a pod go with whom they should.
    async fn settle_claims(&self, pod: &Arc<Object>) -> Result<(), Error> {
        let Some(ordinal) = plan::ordinal(&self.set.name, &pod.meta.name) else { return Ok(()) };
        let leaving = (!self.set.has(ordinal)).then_some(&**pod);
        let takers = Takers::new(self.value);
        for (_, name) in pod::claim_names(&self.set, self.value, ordinal) {
            let claim = self.cx.lister(&res::PERSISTENT_VOLUME_CLAIMS).get(&pod.meta.namespace, &name);
            let Some(claim) = claim.filter(|c| !c.is_deleting()) else { continue };
            let known = claim.value();
            let known = known.items_at("/metadata/ownerReferences");
            if pod::is_foreign(known, self.object) {
                let message = format!(
                    "PersistentVolumeClaim {name} has a conflicting OwnerReference that acts as a manging controller, the retention \
                     policy is ignored for this claim"
                );
                self.cx.events.warning(self.object, "ConflictingController", message);
            }
            if let Some(owners) = pod::owners(known, &takers, self.object, leaving) {
                let body = json!({"metadata": {"ownerReferences": owners}});
                self.cx.change(&res::PERSISTENT_VOLUME_CLAIMS, &claim, None, &body).await?;
            }
        }
        Ok(())
    }

    /// Reads the pods again, after the deed, and writes the status where it changed.
    async fn report(&self, key: &ObjectKey) -> Result<Vec<Member>, Error> {
        let pods = self.cx.lister(&res::PODS).by_index("owner", &self.object.meta.uid);
        let members = self.members(&pods);
        let fresh = self.cx.get(&res::STATEFUL_SETS, key).filter(|o| o.meta.uid == self.object.meta.uid);
        if let Some(fresh) = fresh {
            let old = fresh.value();
            let names = (self.current().name.as_str(), self.history.update.name.as_str());
            let collisions = self.history.collisions;
            let new = plan::status(old.get("status"), &self.set, &members, names, collisions, self.cx.now());
            common::write(self.cx, &res::STATEFUL_SETS, &fresh, new).await?;
        }
        Ok(members)
    }

    async fn truncate(&self, members: &[Member]) -> Result<(), Error> {
        if self.set.deleting {
            return Ok(());
        }
        let mut live: BTreeSet<String> = members.iter().map(|m| m.revision.clone()).collect();
        live.extend([self.current().name.clone(), self.history.update.name.clone()]);
        revisions::truncate(self.cx, &revisions::STATEFUL_SET, self.object, self.history, &live).await
    }
}
