//! Claims of devices: makes those that pods want from templates, and ends what nobody uses any more.
//!
//! Two reconcilers under one account: [`making`] over pods, [`claims`] over claims. The scheduler gives devices and
//! reserves claims; here both are taken back. Pods that came with a node never met the scheduler: their claims are
//! reserved here, once they have devices.
//! Rule: upstream `pkg/controller/resourceclaim`.

mod plan;

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use crate::api::object::{Object, ObjectKey};
use crate::api::status::{Reason, Status};
use crate::api::value::ValueExt;
use crate::client::{DeleteOptions, Patch, optional, res};
use crate::controllers::common::pods::{DEVICE_CLAIMS, device_claims};
use crate::runtime::{Cx, Error, Reconciler, Requeue, Watches};

/// Makes claims.
struct Making;

/// Ends claims.
struct Claims;

/// For the list of controllers.
pub fn making() -> Box<dyn Reconciler> {
    Box::new(Making)
}

/// For the list of controllers.
pub fn claims() -> Box<dyn Reconciler> {
    Box::new(Claims)
}

/// The claims that a pod owns: for which of its claims, and their names.
fn made_for(pod: &Object, cx: &Cx) -> Vec<(String, String)> {
    let all = cx.lister(&res::RESOURCE_CLAIMS).list(Some(&pod.meta.namespace));
    let own = all.iter().filter(|c| c.meta.controller().is_some_and(|o| o.uid == pod.meta.uid) && !c.is_deleting());
    let named = own.filter_map(|c| {
        Some((
            c.value().get_at("/metadata/annotations")?.get(plan::POD_CLAIM)?.as_str()?.to_owned(),
            c.meta.name.clone(),
        ))
    });
    named.collect()
}

#[async_trait]
impl Reconciler for Making {
    fn name(&self) -> &'static str {
        "resource-claim-making-controller"
    }

    fn speaks_as(&self) -> &'static str {
        "resource_claim"
    }

    fn watches(&self) -> Watches {
        Watches::own_that(&res::PODS, |pod| pod.mentions(DEVICE_CLAIMS))
            .owned(&res::RESOURCE_CLAIMS)
            // A template that was missing may be there now.
            .mapped(&res::RESOURCE_CLAIM_TEMPLATES, |template, cx| {
                let uses = |pod: &&Arc<Object>| {
                    if !pod.mentions(DEVICE_CLAIMS) {
                        return false;
                    }
                    let pod = pod.value();
                    let mut claims = pod.items_at("/spec/resourceClaims").iter();
                    claims.any(|c| c.str_at("/resourceClaimTemplateName") == Some(&template.meta.name))
                };
                let pods = cx.lister(&res::PODS).list(Some(&template.meta.namespace));
                pods.iter().filter(uses).map(|p| ObjectKey::from(&p.meta)).collect()
            })
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        let found = cx.get(&res::PODS, key).filter(|o| !o.is_deleting() && o.mentions(DEVICE_CLAIMS));
        let Some(object) = found else { return Ok(Requeue::Never) };
        let pod = object.value();
        if pod.items_at("/spec/resourceClaims").is_empty() || plan::is_done(&pod) {
            return Ok(Requeue::Never);
        }
        let plan::Needs { make, mut note } = plan::needs(&pod, &made_for(&object, cx));
        let mut failed = None;
        for wanted in make {
            match make_one(&pod, key, &wanted, cx).await {
                Ok(name) => note.push((wanted.name, name)),
                Err(error) => {
                    let message = format!("PodResourceClaim {}: {error}", wanted.name);
                    cx.events.warning(&*object, "FailedResourceClaimCreation", message);
                    failed = Some(error);
                }
            }
        }
        if !note.is_empty() {
            let mut body = plan::noted(&pod, &note);
            body.set_at("/metadata/uid", object.meta.uid.as_str());
            let patch = Patch::Merge(&body);
            cx.client.patch(&res::PODS, &key.namespace, &key.name, Some("status"), patch).await?;
        }
        if let Some(failed) = failed {
            return Err(failed);
        }
        if pod.str_at("/spec/nodeName").is_some_and(|node| !node.is_empty()) {
            reserve(&pod, key, cx).await?;
        }
        Ok(Requeue::Never)
    }
}

/// Reserves the claims of a pod that has a node already, those that have devices.
async fn reserve(pod: &Value, key: &ObjectKey, cx: &Cx) -> Result<(), Error> {
    // What has just been noted in the pod's status comes with the next look.
    let named: Vec<(&str, bool)> = plan::named(pod).collect();
    for (name, made) in named {
        let Some(claim) = cx.lister(&res::RESOURCE_CLAIMS).get(&key.namespace, name) else { continue };
        if let Some(reserved) = plan::reserved_for(pod, &claim.value(), made) {
            let body = serde_json::json!({"status": {"reservedFor": reserved}});
            cx.change(&res::RESOURCE_CLAIMS, &claim, Some("status"), &body).await?;
        }
    }
    Ok(())
}

async fn make_one(pod: &Value, key: &ObjectKey, wanted: &plan::Templated, cx: &Cx) -> Result<String, Error> {
    let template = cx.get(&res::RESOURCE_CLAIM_TEMPLATES, &ObjectKey::new(&*key.namespace, &*wanted.template));
    let template = template.ok_or_else(|| {
        let name = &wanted.template;
        let why =
            format!("resource claim template \"{name}\": resourceclaimtemplate.resource.k8s.io \"{name}\" not found");
        Status::new(Reason::NotFound, why)
    })?;
    let claim = plan::claim(pod, &wanted.name, &template.value());
    let made = cx.client.create(&res::RESOURCE_CLAIMS, &key.namespace, &claim).await?;
    Ok(made.str_at("/metadata/name").unwrap_or_default().to_owned())
}

#[async_trait]
impl Reconciler for Claims {
    fn name(&self) -> &'static str {
        "resource-claim-controller"
    }

    fn speaks_as(&self) -> &'static str {
        "resource_claim"
    }

    fn watches(&self) -> Watches {
        Watches::own(&res::RESOURCE_CLAIMS).mapped(&res::PODS, |pod, _| device_claims(pod))
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        let Some(object) = cx.get(&res::RESOURCE_CLAIMS, key) else { return Ok(Requeue::Never) };
        let pods = cx.lister(&res::PODS);
        let known =
            |name: &str| pods.get(&key.namespace, name).map(|pod| (pod.meta.uid.clone(), plan::is_done(&pod.value())));
        let review = plan::review(&object.value(), known);
        let mut now = object.value();
        if review.writes_status() {
            if let Some(reserved) = &review.reserved {
                now.set_at("/status/reservedFor", reserved.clone());
            }
            if review.free {
                now.remove_at("/status/allocation");
                now.remove_at("/status/devices");
            }
            now = cx.client.update(&res::RESOURCE_CLAIMS, &key.namespace, &key.name, Some("status"), &now).await?;
        }
        if review.release {
            let rest: Vec<Value> =
                now.items_at("/metadata/finalizers").iter().filter(|f| **f != plan::FINALIZER).cloned().collect();
            now.set_at("/metadata/finalizers", rest);
            cx.client.update(&res::RESOURCE_CLAIMS, &key.namespace, &key.name, None, &now).await?;
        }
        if review.delete {
            let options = DeleteOptions::of_uid(&object.meta.uid);
            optional(cx.client.delete(&res::RESOURCE_CLAIMS, &key.namespace, &key.name, &options).await)?;
        }
        Ok(Requeue::Never)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::fake::Cluster;
    use serde_json::json;

    fn pod(phase: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "t"}]}, "status": {"phase": phase}})
    }

    #[tokio::test]
    async fn claims_come_from_templates_and_go_with_their_pods() {
        let cluster = Cluster::new();
        cluster.put(pod("Pending"));
        let missing = cluster.reconcile(&Making, "n", "p").await;
        assert!(missing.is_err(), "without the template it is tried again");
        cluster.put(json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate",
            "metadata": {"name": "t", "namespace": "n"}, "spec": {"metadata": {"labels": {"a": "b"}},
                "spec": {"devices": {"requests": [{"name": "r"}]}}}}));
        cluster.reconcile(&Making, "n", "p").await.unwrap();
        let claims = cluster.api.all(&res::RESOURCE_CLAIMS);
        let name = claims[0].str_at("/metadata/name").unwrap().to_owned();
        assert!(name.starts_with("p-gpu-") && claims.len() == 1, "{claims:?}");
        assert_eq!(
            (&claims[0]["metadata"]["labels"], &claims[0]["spec"]["devices"]["requests"][0]["name"]),
            (&json!({"a": "b"}), &json!("r"))
        );
        let status = cluster.get(&res::PODS, "n", "p").unwrap()["status"].clone();
        assert_eq!(status["resourceClaimStatuses"], json!([{"name": "gpu", "resourceClaimName": name}]));
        cluster.reconcile(&Making, "n", "p").await.unwrap();
        assert_eq!(cluster.api.all(&res::RESOURCE_CLAIMS).len(), 1, "once is enough");

        // The scheduler gives it a device; the pod ends.
        let mut claim = claims[0].clone();
        claim.set_at("/metadata/finalizers", json!([plan::FINALIZER]));
        claim.set_at(
            "/status",
            json!({"allocation": {"devices": {}}, "reservedFor": [{"resource": "pods", "name": "p", "uid": "u"}]}),
        );
        cluster.put(claim);
        cluster.reconcile(&Claims, "n", &name).await.unwrap();
        let held = cluster.get(&res::RESOURCE_CLAIMS, "n", &name).unwrap();
        assert!(held.pointer("/status/allocation").is_some(), "in use");
        cluster.put(pod("Succeeded"));
        cluster.reconcile(&Claims, "n", &name).await.unwrap();
        assert_eq!(cluster.get(&res::RESOURCE_CLAIMS, "n", &name), None, "given back, released and deleted");
    }

    #[tokio::test]
    async fn a_pod_that_came_with_its_node_gets_its_claim_reserved() {
        let cluster = Cluster::new();
        let mut pod = pod("Pending");
        pod["spec"] = json!({"nodeName": "a", "resourceClaims": [{"name": "gpu", "resourceClaimName": "c"}]});
        cluster.put(pod);
        cluster.put(json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
            "metadata": {"name": "c", "namespace": "n"}, "status": {"allocation": {"devices": {}}}}));
        cluster.reconcile(&Making, "n", "p").await.unwrap();
        let claim = cluster.get(&res::RESOURCE_CLAIMS, "n", "c").unwrap();
        assert_eq!(claim["status"]["reservedFor"], json!([{"resource": "pods", "name": "p", "uid": "u"}]));
        cluster.api.take_log();
        cluster.reconcile(&Making, "n", "p").await.unwrap();
        assert_eq!(cluster.api.take_log(), [] as [&str; 0], "once");
    }
}
