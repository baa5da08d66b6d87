//! Volumes are attached to nodes before their pods mount them, and taken off when nobody there has them any more.
//!
//! In: pods with claims, by node; what each kubelet says that it uses. Out: VolumeAttachments, which a driver's own attacher
//! acts on, and `status.volumesAttached` of nodes, which kubelets wait for.
//!
//! Rules: upstream `pkg/controller/volume/attachdetach`.
//! **Invariant:** a volume is told to be attached only while its attachment stays; both sides write the Node by
//! compare-and-swap, so a kubelet that has said that it uses a volume and still sees it attached will keep it.

mod plan;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use aws_lc_rs::digest;
use parking_lot::Mutex;
use serde_json::{Value, json};

use self::plan::{Attachment, Node, Plan, Wanted};
use super::{claims_of, pods_using};
use crate::api::object::{Object, ObjectKey};
use crate::api::value::ValueExt;
use crate::client::{DeleteOptions, optional, res};
use crate::controllers::common::conditions;
use crate::runtime::{Cx, Error, Reconciler, Requeue, Watches};

/// Taint of a node that an administrator knows to be switched off.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// Since when, in seconds, attachments have not been wanted. What is not remembered counts from now.
#[derive(Default)]
struct Attacher {
    unwanted: Mutex<HashMap<String, i64>>,
}

/// For the list of controllers.
pub fn controller() -> Box<dyn Reconciler> {
    Box::new(Attacher::default())
}

#[async_trait]
impl Reconciler for Attacher {
    fn name(&self) -> &'static str {
        "attachdetach-controller"
    }

    fn watches(&self) -> Watches {
        // Heartbeats of nodes that have nothing attached are nobody's matter.
        Watches::own_changed(&res::NODES, |old, new, _| {
            let concerned = |n: &&Object| n.mentions("volumesAttached") || n.mentions("volumesInUse");
            let node = old.into_iter().chain(new).find(concerned);
            node.map(|n| ObjectKey::from(&n.meta)).into_iter().collect()
        })
        .mapped(&res::PODS, |pod, cx| if claims_of(pod).is_empty() { Vec::new() } else { node_of(pod, cx) })
        .mapped(&res::PERSISTENT_VOLUME_CLAIMS, |claim, cx| {
            let pods = pods_using(cx, &claim.meta.namespace, &claim.meta.name);
            pods.iter().flat_map(|p| node_of(p, cx)).collect()
        })
        .mapped(&res::VOLUME_ATTACHMENTS, of_attachment)
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        let object = cx.get(&res::NODES, key);
        let node = object.as_ref().map_or_else(|| Node { gone: true, ..Node::default() }, |o| view(&o.value()));
        let (wanted, pods) = wanted(cx, &key.name);
        let found = attachments(cx, &key.name);
        let known: Vec<Attachment> = found.iter().map(|(_, a)| self.with_wait(a, &wanted, cx)).collect();
        let plan = plan::plan(&node, &wanted, &known);
        if let (Some(report), Some(object)) = (&plan.report, &object) {
            say_attached(cx, object, report).await?;
            for (w, p) in wanted.iter().zip(&pods).filter(|(w, _)| is_news(&w.unique, report, &node)) {
                let message = format!("AttachVolume.Attach succeeded for volume \"{}\" ", w.volume);
                p.iter().for_each(|pod| cx.events.normal(pod, "SuccessfulAttachVolume", message.clone()));
            }
        }
        self.forget(&known, &plan);
        tell_failures(cx, &found, &wanted, &pods);
        act(cx, &key.name, &plan, &wanted, &pods).await?;
        Ok(Requeue::after_seconds(plan.again))
    }
}

fn is_news(unique: &String, report: &BTreeSet<String>, node: &Node) -> bool {
    report.contains(unique) && !node.reported.contains(unique)
}

impl Attacher {
    fn with_wait(&self, attachment: &Attachment, wanted: &[Wanted], cx: &Cx) -> Attachment {
        let mut unwanted = self.unwanted.lock();
        if wanted.iter().any(|w| w.unique == attachment.unique) {
            unwanted.remove(&attachment.name);
            return attachment.clone();
        }
        let now = cx.clock.ticks();
        let since = *unwanted.entry(attachment.name.clone()).or_insert(now);
        Attachment { unwanted_for: now - since, ..attachment.clone() }
    }

    /// Only what waits is remembered.
    fn forget(&self, known: &[Attachment], plan: &Plan) {
        let mut unwanted = self.unwanted.lock();
        for a in known.iter().filter(|a| !plan.waiting.contains(&a.name)) {
            unwanted.remove(&a.name);
        }
    }
}

fn node_of(pod: &Object, cx: &Cx) -> Vec<ObjectKey> {
    let pods = cx.lister(&res::PODS);
    let node = pods.field(pod, "spec.nodeName");
    if node.is_empty() { Vec::new() } else { vec![ObjectKey::new("", node)] }
}

/// Its own node, and those whose pods wait until another one has let the volume go.
fn of_attachment(attachment: &Object, cx: &Cx) -> Vec<ObjectKey> {
    let value = attachment.value();
    let mut out: Vec<ObjectKey> = value.str_at("/spec/nodeName").map(|n| ObjectKey::new("", n)).into_iter().collect();
    let volume = value.str_at("/spec/source/persistentVolumeName").unwrap_or_default();
    let Some(volume) = cx.lister(&res::PERSISTENT_VOLUMES).get("", volume).map(|v| v.value()) else { return out };
    if let (Some(ns), Some(name)) = (volume.str_at("/spec/claimRef/namespace"), volume.str_at("/spec/claimRef/name")) {
        out.extend(pods_using(cx, ns, name).iter().flat_map(|p| node_of(p, cx)));
    }
    out
}

fn view(node: &Value) -> Node {
    let names = |at: &str, field: &str| {
        let text = |v: &Value| v.str_at(field).map(str::to_owned);
        node.items_at(at).iter().filter_map(text).collect()
    };
    Node {
        gone: false,
        ready: conditions::is_true(node.items_at("/status/conditions"), "Ready"),
        out_of_service: node.items_at("/spec/taints").iter().any(|t| t.str_at("/key") == Some(OUT_OF_SERVICE)),
        in_use: names("/status/volumesInUse", ""),
        reported: names("/status/volumesAttached", "/name"),
    }
}

/// True while a pod holds on to its volumes: it has not ended, and is not on its way out with nothing running.
fn holds(pod: &Object) -> bool {
    let value = pod.value();
    if matches!(value.str_at("/status/phase"), Some("Succeeded" | "Failed")) {
        return false;
    }
    let running = |list: &str| {
        let all = value.items_at(list);
        all.iter().any(|c| c.get_at("/state/terminated").is_none() && c.get_at("/state/waiting").is_none())
    };
    !pod.is_deleting() || running("/status/containerStatuses") || running("/status/initContainerStatuses")
}

/// The volumes that pods of a node want attached, each with these pods.
fn wanted(cx: &Cx, node: &str) -> (Vec<Wanted>, Vec<Vec<Arc<Object>>>) {
    let (mut out, mut pods): (Vec<Wanted>, Vec<Vec<Arc<Object>>>) = Default::default();
    for pod in cx.lister(&res::PODS).by_index("spec.nodeName", node) {
        let claims = claims_of(&pod);
        if claims.is_empty() || !holds(&pod) {
            continue;
        }
        for (claim, _) in claims {
            let Some(volume) = volume_of(cx, &pod.meta.namespace, &claim) else { continue };
            let Some(mut one) = attachable(cx, &volume, node) else { continue };
            if let Some(at) = out.iter().position(|w| w.unique == one.unique) {
                pods[at].push(pod.clone());
                continue;
            }
            one.elsewhere = elsewhere(cx, &one.volume, node);
            out.push(one);
            pods.push(vec![pod.clone()]);
        }
    }
    (out, pods)
}

/// The volume that a claim is bound to.
fn volume_of(cx: &Cx, namespace: &str, claim: &str) -> Option<Value> {
    let object = cx.lister(&res::PERSISTENT_VOLUME_CLAIMS).get(namespace, claim)?;
    let claim = object.value();
    let volume = cx.lister(&res::PERSISTENT_VOLUMES).get("", claim.str_at("/spec/volumeName")?)?.value();
    (volume.str_at("/spec/claimRef/uid") == Some(&object.meta.uid)).then_some(volume)
}

/// What is to be known of a volume for attaching it; none for one that is not attached.
fn attachable(cx: &Cx, volume: &Value, node: &str) -> Option<Wanted> {
    let (driver, handle) = (volume.str_at("/spec/csi/driver")?, volume.str_at("/spec/csi/volumeHandle")?);
    let described = cx.lister(&res::CSI_DRIVERS).get("", driver).map(|d| d.value());
    if described.is_some_and(|d| d.bool_at("/spec/attachRequired") == Some(false)) {
        return None;
    }
    let modes = volume.items_at("/spec/accessModes");
    let many = |m: &Value| matches!(m.as_str(), Some("ReadWriteMany" | "ReadOnlyMany"));
    let hash = digest::digest(&digest::SHA256, format!("{handle}{driver}{node}").as_bytes());
    Some(Wanted {
        unique: format!("kubernetes.io/csi/{driver}^{handle}"),
        volume: volume.str_at("/metadata/name")?.to_owned(),
        driver: driver.to_owned(),
        attachment: format!("csi-{}", crate::pki::hex(hash.as_ref())),
        shared: modes.is_empty() || modes.iter().any(many),
        elsewhere: Vec::new(),
    })
}

/// Attachments whose text has this word, decoded.
fn attachments_with(cx: &Cx, word: &str) -> Vec<(Arc<Object>, Value)> {
    let all = cx.lister(&res::VOLUME_ATTACHMENTS).list(None);
    all.into_iter().filter(|a| a.mentions(word)).map(|a| (a.clone(), a.value())).collect()
}

fn elsewhere(cx: &Cx, volume: &str, node: &str) -> Vec<String> {
    let of = |(_, a): (Arc<Object>, Value)| {
        let same = a.str_at("/spec/source/persistentVolumeName") == Some(volume);
        a.str_at("/spec/nodeName").filter(|n| same && *n != node).map(str::to_owned)
    };
    attachments_with(cx, volume).into_iter().filter_map(of).collect()
}

/// The attachments to a node. One whose volume is gone is left to its attacher.
fn attachments(cx: &Cx, node: &str) -> Vec<(Value, Attachment)> {
    let of = |(object, a): (Arc<Object>, Value)| {
        let name = a.str_at("/spec/source/persistentVolumeName")?;
        let volume = cx.lister(&res::PERSISTENT_VOLUMES).get("", name)?.value();
        let (driver, handle) = (volume.str_at("/spec/csi/driver")?, volume.str_at("/spec/csi/volumeHandle")?);
        let attachment = Attachment {
            name: object.meta.name.clone(),
            unique: format!("kubernetes.io/csi/{driver}^{handle}"),
            attached: a.bool_at("/status/attached") == Some(true),
            deleting: object.is_deleting(),
            unwanted_for: 0,
        };
        (a.str_at("/spec/nodeName") == Some(node)).then_some((a, attachment))
    };
    attachments_with(cx, node).into_iter().filter_map(of).collect()
}

async fn say_attached(cx: &Cx, node: &Object, report: &BTreeSet<String>) -> Result<(), Error> {
    let list: Vec<Value> = report.iter().map(|name| json!({"name": name, "devicePath": ""})).collect();
    let body = json!({"status": {"volumesAttached": list}});
    cx.change(&res::NODES, node, Some("status"), &body).await?;
    Ok(())
}

/// Pods hear why their volume cannot be attached.
fn tell_failures(cx: &Cx, found: &[(Value, Attachment)], wanted: &[Wanted], pods: &[Vec<Arc<Object>>]) {
    for (value, a) in found.iter().filter(|(_, a)| !a.attached && !a.deleting) {
        let Some(error) = value.str_at("/status/attachError/message") else { continue };
        for (w, pods) in wanted.iter().zip(pods).filter(|(w, _)| w.unique == a.unique) {
            let message = format!("AttachVolume.Attach failed for volume \"{}\" : {error}", w.volume);
            pods.iter().for_each(|pod| cx.events.warning(pod, "FailedAttachVolume", message.clone()));
        }
    }
}

async fn act(cx: &Cx, node: &str, plan: &Plan, wanted: &[Wanted], pods: &[Vec<Arc<Object>>]) -> Result<(), Error> {
    for name in &plan.detach {
        tracing::info!(node, attachment = name, "nobody there uses its volume any more; detaching it");
        optional(cx.client.delete(&res::VOLUME_ATTACHMENTS, "", name, &DeleteOptions::default()).await)?;
    }
    for &i in &plan.blocked {
        let w = &wanted[i];
        let mut there: Vec<(String, String)> = Vec::new();
        for other in &w.elsewhere {
            let (theirs, users) = self::wanted(cx, other);
            let users = theirs.iter().zip(users).filter(|(t, _)| t.unique == w.unique).flat_map(|(_, u)| u);
            there.extend(users.map(|p| (p.meta.namespace.clone(), p.meta.name.clone())));
        }
        for pod in &pods[i] {
            let message = plan::blocked_message(&w.volume, &pod.meta.namespace, &there);
            cx.events.warning(pod, "FailedAttachVolume", message);
        }
    }
    for &i in &plan.attach {
        let w = &wanted[i];
        let body = json!({"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment", "metadata": {"name": w.attachment},
            "spec": {"attacher": w.driver, "nodeName": node, "source": {"persistentVolumeName": w.volume}}});
        cx.client.create(&res::VOLUME_ATTACHMENTS, "", &body).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
