//! Namespaces: emptying those on their way out, and what every other one contains from the start.
//!
//! A namespace that is being deleted keeps the finalizer `kubernetes` until nothing of any kind is left in it. Its pods go
//! first: what guards them (a NetworkPolicy) or what they need to end well stays until they are gone, as upstream's
//! `OrderedNamespaceDeletion` has it.

use async_trait::async_trait;
use serde_json::{Value, json};

use crate::api::object::ObjectKey;
use crate::api::status::Reason;
use crate::api::value::ValueExt;
use crate::client::{DeleteOptions, ListOptions, Propagation, Res, res};
use crate::controllers::common::conditions::{self, Condition};
use crate::controllers::common::discovery::{self, Found};
use crate::controllers::common::pods::time;
use crate::runtime::{Cx, Error, Reconciler, Requeue, Watches};
use crate::util::clock::rfc3339;
use crate::util::order::Arrange;

const FINALIZER: &str = "kubernetes";
/// Seconds until the next look at what finalizers and grace periods still hold. Pods report their end themselves.
const AGAIN_SECONDS: i64 = 5;

/// Deletion, for the list of controllers.
pub fn deletion() -> Box<dyn Reconciler> {
    Box::new(Deletion)
}

struct Deletion;

#[async_trait]
impl Reconciler for Deletion {
    fn name(&self) -> &'static str {
        "namespace-controller"
    }

    fn watches(&self) -> Watches {
        Watches::own(&res::NAMESPACES).mapped(&res::PODS, |pod, cx| {
            let ns = cx.lister(&res::NAMESPACES).get("", &pod.meta.namespace).filter(|n| n.is_deleting());
            ns.map(|n| ObjectKey::from(&n.meta)).into_iter().collect()
        })
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        let Some(ns) = cx.get(&res::NAMESPACES, key).filter(|n| n.is_deleting()) else { return Ok(Requeue::Never) };
        let mut value = ns.value();
        if !value.items_at("/spec/finalizers").iter().any(|f| f == FINALIZER) {
            return Ok(Requeue::Never);
        }
        let age = time(ns.meta.deleted.as_deref()).map_or(0, |t| cx.now().as_second() - t.as_second());
        let swept = sweep(cx, &key.name, age).await?;
        let mut all = value.items_at("/status/conditions").to_vec();
        let now = rfc3339(cx.now());
        swept.conditions().iter().for_each(|c| conditions::set(&mut all, c, &now));
        if value.items_at("/status/conditions") != all || value.str_at("/status/phase") != Some("Terminating") {
            value["status"]["phase"] = "Terminating".into();
            value["status"]["conditions"] = all.into();
            value = cx.client.update(&res::NAMESPACES, "", &key.name, Some("status"), &value).await?;
        }
        if !swept.is_empty() {
            return Ok(Requeue::after_seconds(Some(AGAIN_SECONDS)));
        }
        let left: Vec<Value> = value.items_at("/spec/finalizers").iter().filter(|f| *f != FINALIZER).cloned().collect();
        value["spec"]["finalizers"] = left.into();
        crate::client::optional(cx.client.update(&res::NAMESPACES, "", &key.name, Some("finalize"), &value).await)?;
        Ok(Requeue::Never)
    }
}

/// What one pass over a namespace found.
#[derive(Debug, Default)]
struct Swept {
    /// Resource and number of objects left.
    left: Vec<(String, usize)>,
    /// Finalizer and number of objects it holds.
    held: Vec<(String, usize)>,
    /// Why kinds could not be deleted.
    failures: Vec<String>,
    /// API groups that did not answer.
    silent: Vec<String>,
    /// Pods are left, or nobody knows: nothing else was touched.
    pods_remain: bool,
}

/// Deletes everything in a namespace, which has been on its way out for `age` seconds, and counts what is still there.
async fn sweep(cx: &Cx, namespace: &str, age: i64) -> Result<Swept, Error> {
    let (found, silent) = discovery::resources(&cx.client).await?;
    let mut swept = Swept { silent, ..Swept::default() };
    let mut kinds: Vec<&Found> = found.iter().filter(|f| f.res.namespaced && f.can(&["list", "delete"])).collect();
    let is_pods = |kind: &Found| kind.res.group.is_empty() && kind.res.plural == "pods";
    kinds.arrange_by_key(|kind| !is_pods(kind));
    for kind in kinds {
        if !is_pods(kind) && swept.pods_remain {
            break;
        }
        match sweep_kind(cx, kind, namespace).await {
            Ok(left) if left.objects.is_empty() => {}
            Ok(left) => {
                let grace = if is_pods(kind) { left.grace } else { 0 };
                swept.count(&kind.res, namespace, &left.objects, age < grace);
                swept.pods_remain |= is_pods(kind);
            }
            Err(Error::Api(e)) if matches!(e.reason, Reason::MethodNotAllowed | Reason::NotFound) => {}
            Err(e) => {
                swept.failures.push(e.to_string());
                swept.pods_remain |= is_pods(kind);
            }
        }
    }
    Ok(swept)
}

/// What is left of a kind.
struct Left {
    objects: Vec<Value>,
    /// The longest grace period of those that had not ended.
    grace: i64,
}

async fn sweep_kind(cx: &Cx, kind: &Found, namespace: &str) -> Result<Left, Error> {
    let items = |mut list: Value| match list.remove_at("/items") {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    };
    let all = ListOptions::default();
    let present = items(cx.client.list(&kind.res, Some(namespace), &all).await?);
    let lives = |o: &&Value| !matches!(o.str_at("/status/phase"), Some("Succeeded" | "Failed"));
    let graces = present.iter().filter(lives).filter_map(|o| o.int_at("/spec/terminationGracePeriodSeconds"));
    let grace = graces.max().unwrap_or(0);
    if present.iter().all(|o| o.str_at("/metadata/deletionTimestamp").is_some()) {
        return Ok(Left { objects: present, grace });
    }
    let options = DeleteOptions { propagation: Some(Propagation::Background), ..DeleteOptions::default() };
    if kind.can(&["deletecollection"]) {
        cx.client.delete_collection(&kind.res, namespace, &all, &options).await?;
    } else {
        for object in &present {
            let name = object.str_at("/metadata/name").unwrap_or_default();
            crate::client::optional(cx.client.delete(&kind.res, namespace, name, &options).await)?;
        }
    }
    Ok(Left { objects: items(cx.client.list(&kind.res, Some(namespace), &all).await?), grace })
}

impl Swept {
    fn is_empty(&self) -> bool {
        self.left.is_empty() && self.failures.is_empty() && self.silent.is_empty()
    }

    /// Counts what is left of a kind, by its finalizers too. Objects that nothing holds should be gone, unless they may still
    /// `linger`. Rule: upstream `deleteAllContentForGroupVersionResource`.
    fn count(&mut self, res: &Res, namespace: &str, left: &[Value], linger: bool) {
        let finalizers = left.iter().flat_map(|o| o.items_at("/metadata/finalizers")).filter_map(Value::as_str);
        let mut is_held = false;
        for finalizer in finalizers {
            is_held = true;
            match self.held.iter_mut().find(|(f, _)| f == finalizer) {
                Some((_, n)) => *n += 1,
                None => self.held.push((finalizer.to_owned(), 1)),
            }
        }
        // With the point also where the group has no name.
        self.left.push((format!("{}.{}", res.plural, res.group), left.len()));
        if !is_held && !linger {
            self.failures.push(format!(
                "unexpected items still remain in namespace: {namespace} for gvr: {}/{}, Resource={}",
                res.group, res.version, res.plural
            ));
        }
    }

    /// The five conditions, with upstream's types, reasons and texts. Rule: upstream `status_condition_utils.go`.
    fn conditions(&self) -> [Condition<'static>; 5] {
        let list = |texts: &mut dyn Iterator<Item = String>| {
            let mut texts: Vec<String> = texts.collect();
            texts.arrange();
            texts.join(", ")
        };
        let count = |all: &[(String, usize)], what: &str| {
            list(&mut all.iter().map(|(name, n)| format!("{name}{what}{n} resource instances")))
        };
        let silent = list(&mut self.silent.iter().map(|s| s.trim_start_matches("/apis/").to_owned()));
        let row = |kind, bad: bool, why_bad, why_good, text: String, good: &str| {
            let (status, reason, text) =
                if bad { ("True", why_bad, text) } else { ("False", why_good, good.to_owned()) };
            Condition::new(kind, status, reason, text)
        };
        [
            row(
                "NamespaceDeletionDiscoveryFailure",
                !self.silent.is_empty(),
                "DiscoveryFailed",
                "ResourcesDiscovered",
                format!(
                    "Discovery failed for some groups, {} failing: unable to retrieve the complete list of server APIs: {silent}",
                    self.silent.len()
                ),
                "All resources successfully discovered",
            ),
            row(
                "NamespaceDeletionGroupVersionParsingFailure",
                false,
                "GroupVersionParsingFailed",
                "ParsedGroupVersions",
                String::new(),
                "All legacy kube types successfully parsed",
            ),
            row(
                "NamespaceDeletionContentFailure",
                !self.failures.is_empty(),
                "ContentDeletionFailed",
                "ContentDeleted",
                format!(
                    "Failed to delete all resource types, {} remaining: {}",
                    self.failures.len(),
                    list(&mut self.failures.iter().cloned())
                ),
                "All content successfully deleted, may be waiting on finalization",
            ),
            row(
                "NamespaceContentRemaining",
                !self.left.is_empty(),
                "SomeResourcesRemain",
                "ContentRemoved",
                format!("Some resources are remaining: {}", count(&self.left, " has ")),
                "All content successfully removed",
            ),
            row(
                "NamespaceFinalizersRemaining",
                !self.held.is_empty(),
                "SomeFinalizersRemain",
                "ContentHasNoFinalizers",
                format!("Some content in the namespace has finalizers remaining: {}", count(&self.held, " in ")),
                "All content-preserving finalizers finished",
            ),
        ]
    }
}

/// What an object is for, for people.
const DESCRIPTION: &str = "kubernetes.io/description";
/// What upstream's publisher says there of the CA, word for word: tools compare.
const OF_THE_CA: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

/// An object that every namespace has.
pub struct Given {
    name: &'static str,
    res: &'static Res,
    object: &'static str,
    /// What must stand in it, beside the name.
    body: Value,
}

/// The service account that pods use by default.
pub fn default_service_account() -> Box<dyn Reconciler> {
    let body = json!({"apiVersion": "v1", "kind": "ServiceAccount"});
    Box::new(Given { name: "service-account-controller", res: &res::SERVICE_ACCOUNTS, object: "default", body })
}

/// The CA that the API server's certificate is of, for pods to read.
pub fn root_ca(ca_pem: &str) -> Box<dyn Reconciler> {
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"annotations": {(DESCRIPTION): OF_THE_CA}},
        "data": {"ca.crt": ca_pem}});
    Box::new(Given { name: "root-ca-certificate-publisher", res: &res::CONFIG_MAPS, object: "kube-root-ca.crt", body })
}

impl Given {
    /// The object with our data, and described, if not in our words; none when it is so already.
    /// Rule: upstream `rootcacertpublisher`, `syncNamespace`.
    fn corrected(&self, known: Value) -> Option<Value> {
        let mut new = known.clone();
        if let Some(data) = self.body.get("data") {
            new["data"] = data.clone();
        }
        let at = ["/metadata/annotations/", &DESCRIPTION.replace('/', "~1")].concat();
        if let Some(text) = self.body.get_at(&at)
            && new.str_at(&at).is_none_or(str::is_empty)
        {
            new.set_at(&at, text.clone());
        }
        (new != known).then_some(new)
    }
}

#[async_trait]
impl Reconciler for Given {
    fn name(&self) -> &'static str {
        self.name
    }

    fn watches(&self) -> Watches {
        Watches::own(&res::NAMESPACES).mapped(self.res, |object, _| match &*object.meta.name {
            "default" | "kube-root-ca.crt" => vec![ObjectKey::new("", &object.meta.namespace)],
            _ => Vec::new(),
        })
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        if cx.get(&res::NAMESPACES, key).is_none_or(|n| n.is_deleting()) {
            return Ok(Requeue::Never);
        }
        let ns = &key.name;
        let Some(known) = cx.lister(self.res).get(ns, self.object) else {
            let mut object = self.body.clone();
            object.set_at("/metadata/name", self.object);
            return match cx.client.create(self.res, ns, &object).await {
                Err(e) if e.reason != Reason::AlreadyExists => Err(e.into()),
                _ => Ok(Requeue::Never),
            };
        };
        if let Some(new) = self.corrected(known.value()) {
            cx.client.update(self.res, ns, self.object, None, &new).await?;
        }
        Ok(Requeue::Never)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Patch;
    use crate::runtime::fake::Cluster;
    use test_case::test_case;

    fn namespace() -> Value {
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}, "spec": {"finalizers": ["kubernetes"]}})
    }

    #[tokio::test]
    async fn a_namespace_goes_when_it_is_empty() {
        let cluster = Cluster::new();
        cluster.put(namespace());
        for (name, finalizers) in [("a", json!([])), ("b", json!(["example.com/hold"]))] {
            cluster.put(json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": name, "namespace": "n", "finalizers": finalizers}}));
        }
        cluster.client().delete(&res::NAMESPACES, "", "n", &DeleteOptions::default()).await.unwrap();
        let again = cluster.reconcile(&Deletion, "", "n").await.unwrap();
        assert_eq!(again, Requeue::after_seconds(Some(AGAIN_SECONDS)));
        let going = cluster.get(&res::NAMESPACES, "", "n").unwrap();
        let remaining = conditions::get(going.items_at("/status/conditions"), "NamespaceFinalizersRemaining").unwrap();
        assert!(remaining.str_at("/message").unwrap().contains("example.com/hold in 1"), "{remaining}");
        let free = json!({"metadata": {"finalizers": null}});
        cluster.client().patch(&res::CONFIG_MAPS, "n", "b", None, Patch::Merge(&free)).await.unwrap();
        cluster.reconcile(&Deletion, "", "n").await.unwrap();
        assert!(cluster.get(&res::NAMESPACES, "", "n").is_none());
    }

    #[test]
    fn conditions_say_what_is_left_in_upstreams_words() {
        let held = |n: usize| vec![json!({"metadata": {"finalizers": ["z.com/hold"]}}); n];
        let mut swept =
            Swept { silent: vec!["/apis/b/v1: down".into(), "/apis/a/v1: down".into()], ..Swept::default() };
        swept.count(&res::PODS, "n", &[json!({}), json!({})], true);
        swept.count(&res::DEPLOYMENTS, "n", &held(1), false);
        swept.count(&res::CONFIG_MAPS, "n", &[json!({"metadata": {"finalizers": ["a.com/hold"]}})], false);
        assert_eq!(swept.failures, [] as [&str; 0], "pods have their time, others are held");
        swept.count(&res::PODS, "n", &[json!({})], false);
        swept.failures.push("b is forbidden".into());
        let texts = swept.conditions().map(|c| c.message);
        assert_eq!(
            texts[0],
            "Discovery failed for some groups, 2 failing: unable to retrieve the complete list of server APIs: a/v1: down, b/v1: down"
        );
        assert_eq!(
            texts[2],
            "Failed to delete all resource types, 2 remaining: b is forbidden, unexpected items still remain in namespace: n for gvr: /v1, Resource=pods"
        );
        let left = "configmaps. has 1 resource instances, deployments.apps has 1 resource instances, pods. has 1 resource instances, pods. has 2 resource instances";
        assert_eq!(texts[3], format!("Some resources are remaining: {left}"));
        let held = "a.com/hold in 1 resource instances, z.com/hold in 1 resource instances";
        assert_eq!(texts[4], format!("Some content in the namespace has finalizers remaining: {held}"));
    }

    /// A pod that a kubelet should have ended by now, and one that still has its time.
    #[test_case(29, "False")]
    #[test_case(30, "True")]
    #[tokio::test]
    async fn pods_have_their_grace_period_to_go(age: i64, failure: &str) {
        let cluster = Cluster::new();
        let mut going = namespace();
        going["metadata"]["deletionTimestamp"] = rfc3339(cluster.cx().now()).into();
        cluster.put(going);
        cluster.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n",
            "deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"terminationGracePeriodSeconds": 30}}));
        cluster.clock.advance(age);
        cluster.reconcile(&Deletion, "", "n").await.unwrap();
        let ns = cluster.get(&res::NAMESPACES, "", "n").unwrap();
        let found = conditions::get(ns.items_at("/status/conditions"), "NamespaceDeletionContentFailure").unwrap();
        assert_eq!(found.str_at("/status"), Some(failure), "{found}");
    }

    /// Conformance, [sig-api-machinery]: "OrderedNamespaceDeletion namespace deletion should delete pod first".
    #[tokio::test]
    async fn nothing_goes_before_the_pods() {
        let cluster = Cluster::new();
        cluster.put(namespace());
        for (kind, finalizers) in [("ConfigMap", json!([])), ("Pod", json!(["example.com/hold"]))] {
            cluster.put(json!({"apiVersion": "v1", "kind": kind,
                "metadata": {"name": "a", "namespace": "n", "finalizers": finalizers}}));
        }
        cluster.client().delete(&res::NAMESPACES, "", "n", &DeleteOptions::default()).await.unwrap();
        cluster.reconcile(&Deletion, "", "n").await.unwrap();
        assert!(cluster.get(&res::PODS, "n", "a").is_some_and(|p| p.str_at("/metadata/deletionTimestamp").is_some()));
        assert!(cluster.get(&res::CONFIG_MAPS, "n", "a").is_some());
        let free = json!({"metadata": {"finalizers": null}});
        cluster.client().patch(&res::PODS, "n", "a", None, Patch::Merge(&free)).await.unwrap();
        cluster.reconcile(&Deletion, "", "n").await.unwrap();
        assert!(cluster.get(&res::NAMESPACES, "", "n").is_none());
    }

    /// "[sig-auth] ServiceAccounts should guarantee kube-root-ca.crt exist in any namespace"
    #[tokio::test]
    async fn what_every_namespace_has_comes_back() {
        let cluster = Cluster::new();
        cluster.put(namespace());
        let ca = root_ca("PEM");
        cluster.reconcile(&*default_service_account(), "", "n").await.unwrap();
        cluster.reconcile(&*ca, "", "n").await.unwrap();
        assert!(cluster.get(&res::SERVICE_ACCOUNTS, "n", "default").is_some());
        let described =
            || cluster.get(&res::CONFIG_MAPS, "n", "kube-root-ca.crt").unwrap()["metadata"]["annotations"].clone();
        assert_eq!(described(), json!({(DESCRIPTION): OF_THE_CA}));
        for (theirs, ours) in [("", OF_THE_CA), ("of mine", "of mine")] {
            let other = json!({"metadata": {"annotations": {(DESCRIPTION): theirs, "a": "b"}}});
            cluster
                .client()
                .patch(&res::CONFIG_MAPS, "n", "kube-root-ca.crt", None, Patch::Merge(&other))
                .await
                .unwrap();
            cluster.reconcile(&*ca, "", "n").await.unwrap();
            assert_eq!(described(), json!({(DESCRIPTION): ours, "a": "b"}));
        }
        let broken = json!({"data": {"ca.crt": "other", "x": "y"}});
        cluster.client().patch(&res::CONFIG_MAPS, "n", "kube-root-ca.crt", None, Patch::Merge(&broken)).await.unwrap();
        cluster.reconcile(&*ca, "", "n").await.unwrap();
        assert_eq!(cluster.get(&res::CONFIG_MAPS, "n", "kube-root-ca.crt").unwrap()["data"], json!({"ca.crt": "PEM"}));
    }
}
