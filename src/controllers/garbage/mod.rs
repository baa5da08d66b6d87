//! Garbage: objects whose owners are gone, and deletions that wait for dependents or let them go.
//!
//! There is no graph of its own here: an owner is looked up by name and uid, dependents by the `owner` index, in the listers
//! of every resource there is. Custom kinds join when their definition appears.
//! **Invariant:** an owner of a kind that is unknown or not synced counts as alive.

pub mod plan;
pub mod pods;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{BoxStream, FuturesUnordered, SelectAll};
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::time::Instant;

use self::plan::{Act, Item, Owner};
use crate::api::meta::gvk;
use crate::api::object::{Object, OwnerRef};
use crate::api::value::ValueExt;
use crate::client::{DeleteOptions, Patch, Propagation, Res, optional};
use crate::controllers::common::discovery::{self, Found};
use crate::runtime::queue::Queue;
use crate::runtime::{Cx, Delta, Error, Lister};
use crate::util::backoff::Backoff;
use crate::util::tasks::Shutdown;

/// Objects worked on at once.
const WORKERS: usize = 20;
/// After a definition changed, until its kind is looked for.
const REDISCOVER: Duration = Duration::from_secs(1);
/// Backoff of an object whose owner cannot be judged, and of failed writes.
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(5), cap: Duration::from_secs(60) };

/// A resource by its number, namespace, name.
type Key = (usize, String, String);

/// All resources that can hold garbage, and their listers.
#[derive(Clone)]
struct Kinds {
    cx: Cx,
    all: Vec<(Res, Arc<dyn Lister>)>,
    by_kind: HashMap<(String, String), usize>,
    /// All versions (`group/version`) that each kind is served in.
    served: HashSet<(String, String)>,
}

type Deltas = SelectAll<BoxStream<'static, (usize, Option<Delta>)>>;

/// Runs the collector until the shutdown.
pub async fn run(cx: Cx, shutdown: Shutdown) -> Result<(), Error> {
    let mut kinds = Arc::new(Kinds { cx, all: Vec::new(), by_kind: HashMap::new(), served: HashSet::new() });
    let mut deltas = Deltas::new();
    Arc::make_mut(&mut kinds).discover(&mut deltas).await?;
    let mut queue: Queue<Key> = Queue::new(BACKOFF);
    let mut working = FuturesUnordered::new();
    let mut rediscover: Option<Instant> = None;
    loop {
        while working.len() < WORKERS {
            let Some(key) = queue.next(Instant::now()) else { break };
            let kinds = kinds.clone();
            working.push(async move {
                let outcome = kinds.collect(&key).await;
                (key, outcome)
            });
        }
        let wake = [queue.deadline(), rediscover].into_iter().flatten().min();
        tokio::select! {
            biased;
            () = shutdown.wait() => return Ok(()),
            Some((i, delta)) = deltas.next() => match delta {
                Some(delta) => {
                    if kinds.all[i].0.plural == "customresourcedefinitions" {
                        rediscover = Some(Instant::now() + REDISCOVER);
                    }
                    kinds.concerns(i, &delta).into_iter().for_each(|k| queue.add(k));
                }
                None => {
                    Arc::make_mut(&mut kinds).by_kind.retain(|_, at| *at != i);
                    rediscover = Some(Instant::now() + REDISCOVER);
                }
            },
            Some((key, outcome)) = working.next(), if !working.is_empty() => match outcome {
                Ok(()) => queue.done(&key),
                Err(error) => {
                    queue.failed(&key, Instant::now());
                    tracing::debug!(namespace = key.1, name = key.2, "garbage stays for now: {error}");
                }
            },
            () = tokio::time::sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {
                if rediscover.is_some_and(|at| at <= Instant::now()) {
                    let found = Arc::make_mut(&mut kinds).discover(&mut deltas).await;
                    rediscover = found.is_err().then(|| Instant::now() + BACKOFF.cap);
                }
            }
        }
    }
}

impl Kinds {
    /// Adds the resources that are not known yet.
    async fn discover(&mut self, deltas: &mut Deltas) -> Result<(), Error> {
        let (found, _) = discovery::resources(&self.cx.client).await?;
        // One whose version is not served any more is asked for in another.
        for &i in self.by_kind.values() {
            if let Some(other) = served_as(&self.all[i].0, found.iter().map(|f| &f.res)) {
                self.all[i].0 = other.clone();
            }
        }
        self.served = found.iter().flat_map(served).collect();
        for kind in found.into_iter().filter(|f| f.can(&["list", "watch", "delete"]) && f.res.kind != "Event") {
            let key = (kind.res.group.to_string(), kind.res.kind.to_string());
            if self.by_kind.contains_key(&key) {
                continue;
            }
            let (i, lister) = (self.all.len(), self.cx.lister(&kind.res));
            let follow = lister.deltas().map(Some).chain(stream::once(async { None }));
            deltas.push(follow.map(move |d| (i, d)).boxed());
            self.by_kind.insert(key, i);
            self.all.push((kind.res, lister));
        }
        Ok(())
    }

    /// Objects that a change may have made garbage, or free to go.
    fn concerns(&self, i: usize, delta: &Delta) -> Vec<Key> {
        let me = |o: &Object| (i, o.meta.namespace.clone(), o.meta.name.clone());
        match delta {
            Delta::Synced => Vec::new(),
            Delta::Upsert { old, new } => {
                let mut keys = self.owners(new);
                // Whom it blocked may not be whom it blocks now.
                keys.extend(old.iter().flat_map(|old| self.owners(old)));
                if !new.meta.owners.is_empty() || !new.meta.finalizers.is_empty() {
                    keys.push(me(new));
                }
                if new.is_deleting() && Item::new(new).foreground {
                    keys.extend(self.dependents(&new.meta.uid).into_iter().map(|(k, _)| k));
                }
                keys
            }
            Delta::Delete(last) => {
                let mut keys = self.owners(last);
                keys.extend(self.dependents(&last.meta.uid).into_iter().map(|(k, _)| k));
                keys
            }
        }
    }

    /// Owners that wait for this object.
    fn owners(&self, object: &Object) -> Vec<Key> {
        let waiting = object.meta.owners.iter().filter(|o| o.block_owner_deletion);
        let find = |o: &OwnerRef| self.owner(object, o).filter(|(_, o)| o.as_ref().is_some_and(|o| o.is_deleting()));
        waiting.filter_map(find).map(|(key, _)| key).collect()
    }

    /// Where an owner has to be, and what is there. None when that cannot be told.
    fn owner(&self, object: &Object, owner: &OwnerRef) -> Option<(Key, Option<Arc<Object>>)> {
        let group = gvk::split(&owner.api_version).0;
        let i = *self.by_kind.get(&(group.to_owned(), owner.kind.clone()))?;
        let (res, lister) = &self.all[i];
        // A cluster-scoped object cannot be owned by a namespaced one.
        if !lister.synced() || (res.namespaced && object.meta.namespace.is_empty()) {
            return None;
        }
        let namespace = if res.namespaced { &*object.meta.namespace } else { "" };
        let found = lister.get(namespace, &owner.name).filter(|o| o.meta.uid == owner.uid);
        Some(((i, namespace.to_owned(), owner.name.clone()), found))
    }

    fn dependents(&self, uid: &str) -> Vec<(Key, Arc<Object>)> {
        let of_kind = |(i, (_, lister)): (usize, &(Res, Arc<dyn Lister>))| {
            let found = lister.by_index("owner", uid).into_iter();
            found.map(move |o| ((i, o.meta.namespace.clone(), o.meta.name.clone()), o)).collect::<Vec<_>>()
        };
        self.all.iter().enumerate().flat_map(of_kind).collect()
    }

    /// Says so when an owner is where it cannot own: in another namespace than its dependent, or in one at all when the
    /// dependent is in none.
    fn tell_of_misplaced(&self, object: &Object, owner: &OwnerRef) {
        let key = (gvk::split(&owner.api_version).0.to_owned(), owner.kind.clone());
        let Some((res, lister)) = self.by_kind.get(&key).map(|i| &self.all[*i]).filter(|(res, _)| res.namespaced)
        else {
            return;
        };
        let there = |ns: &str| lister.get(ns, &owner.name).is_some_and(|o| o.meta.uid == owner.uid);
        let elsewhere = || {
            let namespaces = self.cx.lister(&crate::client::res::NAMESPACES).list(None);
            namespaces.iter().any(|n| n.meta.name != object.meta.namespace && there(&n.meta.name))
        };
        if object.meta.namespace.is_empty() || elsewhere() {
            let (ns, OwnerRef { api_version, name, uid, .. }) = (&object.meta.namespace, owner);
            let identity = format!("[{api_version}/{}, namespace: {ns}, name: {name}, uid: {uid}]", res.kind);
            let message = format!("ownerRef {identity} does not exist in namespace {ns:?}");
            self.cx.events.named("garbage-collector-controller").warning(object, "OwnerRefInvalidNamespace", message);
        }
    }

    /// Looks at one object and does what has to be done.
    async fn collect(&self, (i, namespace, name): &Key) -> Result<(), Error> {
        let (res, lister) = &self.all[*i];
        let Some(object) = lister.get(namespace, name) else { return Ok(()) };
        let mut item = Item::new(&object);
        for owner in &object.meta.owners {
            let unknown = |reason: &str| Error::Object {
                what: format!("owner {} {} of {namespace}/{name}", owner.kind, owner.name),
                reason: reason.into(),
            };
            // Nobody can look there: it is not known to be gone. Upstream: `apiResource`.
            if !self.served.contains(&(owner.api_version.clone(), owner.kind.clone())) {
                return Err(unknown(&format!("its kind is not known in {}", owner.api_version)));
            }
            let state = match self.owner(&object, owner) {
                None if self
                    .by_kind
                    .contains_key(&(gvk::split(&owner.api_version).0.to_owned(), owner.kind.clone())) =>
                {
                    self.tell_of_misplaced(&object, owner);
                    Owner::Solid
                }
                None => return Err(unknown("its kind is not known")),
                Some((_, None)) => {
                    self.tell_of_misplaced(&object, owner);
                    Owner::Absent
                }
                Some((_, Some(o))) if o.is_deleting() && Item::new(&o).foreground => Owner::Waiting,
                Some(_) => Owner::Solid,
            };
            item.owners.push((owner.uid.clone(), state));
        }
        let dependents = self.dependents(&object.meta.uid);
        let blocks = |o: &Object| o.meta.owners.iter().any(|r| r.uid == object.meta.uid && r.block_owner_deletion);
        item.dependents = dependents.len();
        item.blocking = dependents.iter().filter(|(_, o)| blocks(o)).count();
        item.circle = dependents.iter().any(|(_, o)| o.is_deleting() && Item::new(o).foreground);
        match plan::decide(&item) {
            Act::Nothing => Ok(()),
            Act::Delete(propagation) => self.delete(res, &object, propagation).await,
            Act::Forget(uids) => self.forget(res, &object, &uids).await,
            Act::Release(finalizer) => self.release(res, &object, finalizer).await,
            Act::Unblock => self.unblock(res, &object).await,
            Act::OrphanDependents => {
                for ((at, ..), dependent) in dependents {
                    self.forget(&self.all[at].0, &dependent, std::slice::from_ref(&object.meta.uid)).await?;
                }
                self.release(res, &object, plan::ORPHAN).await
            }
        }
    }

    async fn delete(&self, res: &Res, object: &Object, propagation: Propagation) -> Result<(), Error> {
        let options = DeleteOptions {
            propagation: Some(propagation),
            // An owner that was added meanwhile must be seen first.
            resource_version: Some(object.revision.to_string()),
            ..DeleteOptions::of_uid(&object.meta.uid)
        };
        optional(self.cx.client.delete(res, &object.meta.namespace, &object.meta.name, &options).await)?;
        Ok(())
    }

    async fn forget(&self, res: &Res, object: &Object, uids: &[String]) -> Result<(), Error> {
        let value = object.value();
        let known = |r: &&Value| !r.str_at("/uid").is_some_and(|u| uids.iter().any(|x| x == u));
        let left: Vec<&Value> = value.items_at("/metadata/ownerReferences").iter().filter(known).collect();
        self.patch(res, object, json!({"ownerReferences": left})).await
    }

    async fn unblock(&self, res: &Res, object: &Object) -> Result<(), Error> {
        let mut owners = object.value().items_at("/metadata/ownerReferences").to_vec();
        owners.iter_mut().for_each(|o| o["blockOwnerDeletion"] = false.into());
        self.patch(res, object, json!({"ownerReferences": owners})).await
    }

    async fn release(&self, res: &Res, object: &Object, finalizer: &str) -> Result<(), Error> {
        let left: Vec<&str> = object.meta.finalizers.iter().map(|f| &**f).filter(|f| *f != finalizer).collect();
        self.patch(res, object, json!({"finalizers": left})).await
    }

    async fn patch(&self, res: &Res, object: &Object, mut metadata: Value) -> Result<(), Error> {
        metadata["uid"] = object.meta.uid.as_str().into();
        metadata["resourceVersion"] = object.revision.to_string().into();
        let body = json!({"metadata": metadata});
        let (ns, name) = (&object.meta.namespace, &object.meta.name);
        optional(self.cx.client.patch(res, ns, name, None, Patch::Merge(&body)).await)?;
        Ok(())
    }
}

/// The versions that a kind is served in, as owner references name it.
fn served(found: &Found) -> impl Iterator<Item = (String, String)> {
    let of = move |version: &String| (gvk::join(&found.res.group, version), found.res.kind.to_string());
    found.versions.iter().map(of)
}

/// How a kind is asked for when the version that was known of it is not served any more; none when it is, or none is.
fn served_as<'a>(known: &Res, all: impl Iterator<Item = &'a Res> + Clone) -> Option<&'a Res> {
    let mut same = all.filter(|r| r.group == known.group && r.kind == known.kind);
    match same.clone().any(|r| r.version == known.version) {
        true => None,
        false => same.next(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::res;
    use crate::runtime::fake::Cluster;

    #[test]
    fn a_kind_whose_version_goes_is_asked_for_in_another() {
        let of = |version: &'static str| Res { version: version.into(), ..res::DEPLOYMENTS.clone() };
        let (v1, v2, pods) = (of("v1"), of("v2"), res::PODS.clone());
        let as_version = |all: &[&Res]| served_as(&v1, all.iter().copied()).map(|r| r.version.to_string());
        assert_eq!(as_version(&[&pods, &v2]), Some("v2".into()));
        assert_eq!(as_version(&[&v2, &v1]), None);
        assert_eq!(as_version(&[&pods]), None);
    }

    /// Deployment, ReplicaSet, two pods, each owned by the one before.
    fn tree(cluster: &Cluster) {
        let owned = |kind: &str, name: &str| {
            json!([{"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": format!("uid-{name}"),
                "controller": true, "blockOwnerDeletion": true}])
        };
        let meta = |name: &str, owners: Value| json!({"name": name, "namespace": "n", "ownerReferences": owners});
        cluster.put(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta("d", json!([]))}));
        cluster.put(
            json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": meta("r", owned("Deployment", "d"))}),
        );
        for pod in ["a", "b"] {
            cluster.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": meta(pod, owned("ReplicaSet", "r"))}));
        }
    }

    async fn delete_and_collect(cluster: &Cluster, propagation: Propagation, done: impl Fn(&Cluster) -> bool) {
        let options = DeleteOptions { propagation: Some(propagation), ..DeleteOptions::default() };
        cluster.client().delete(&res::DEPLOYMENTS, "n", "d", &options).await.unwrap();
        cluster.until(run, done).await;
    }

    fn count(cluster: &Cluster) -> [usize; 3] {
        [&res::DEPLOYMENTS, &res::REPLICA_SETS, &res::PODS].map(|r| cluster.api.all(r).len())
    }

    #[tokio::test]
    async fn background_deletion_takes_the_tree_from_the_top() {
        let cluster = Cluster::new();
        tree(&cluster);
        delete_and_collect(&cluster, Propagation::Background, |c| count(c) == [0, 0, 0]).await;
    }

    #[tokio::test]
    async fn foreground_deletion_ends_with_the_owner() {
        let cluster = Cluster::new();
        tree(&cluster);
        delete_and_collect(&cluster, Propagation::Foreground, |c| count(c) == [0, 0, 0]).await;
        let log = cluster.api.take_log();
        let at = |text: &str| log.iter().rposition(|l| l.contains(text)).unwrap();
        assert!(at("/pods/a") < at("/replicasets/r"), "{log:?}");
        assert!(at("/replicasets/r") < at("/deployments/d"), "{log:?}");
    }

    /// Conformance, [sig-api-machinery]: "Garbage collector should not be blocked by dependency circle".
    #[tokio::test]
    async fn a_circle_of_owners_goes() {
        let cluster = Cluster::new();
        for (pod, owner) in [("a", "c"), ("b", "a"), ("c", "b")] {
            let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": owner, "uid": format!("uid-{owner}"),
                "controller": true, "blockOwnerDeletion": true}]);
            let meta = json!({"name": pod, "namespace": "n", "ownerReferences": owner});
            cluster.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": meta}));
        }
        let options = DeleteOptions { propagation: Some(Propagation::Foreground), ..DeleteOptions::default() };
        cluster.client().delete(&res::PODS, "n", "a", &options).await.unwrap();
        cluster.until(run, |c| count(c)[2] == 0).await;
    }

    #[tokio::test]
    async fn an_owner_of_a_version_that_nobody_serves_is_not_known_to_be_gone() {
        let cluster = Cluster::new();
        for (name, version) in [("kept", "apps/v1beta9"), ("goes", "apps/v1")] {
            let owner = json!([{"apiVersion": version, "kind": "ReplicaSet", "name": "gone", "uid": "gone"}]);
            let meta = json!({"name": name, "namespace": "n", "ownerReferences": owner});
            cluster.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": meta}));
        }
        cluster.until(run, |c| count(c)[2] == 1).await;
        assert!(cluster.get(&res::PODS, "n", "kept").is_some());
    }

    #[tokio::test]
    async fn orphans_stay_and_forget_their_owner() {
        let cluster = Cluster::new();
        tree(&cluster);
        delete_and_collect(&cluster, Propagation::Orphan, |c| count(c) == [0, 1, 2]).await;
        let orphan = cluster.get(&res::REPLICA_SETS, "n", "r").unwrap();
        assert!(orphan.items_at("/metadata/ownerReferences").is_empty());
    }
}
