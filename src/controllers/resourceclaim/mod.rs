//! Claims of devices: makes those that pods want from templates, and ends what nobody uses any more.
//!
//! Two reconcilers under one account: [`making`] over pods, [`claims`] over claims. The scheduler gives devices and
//! reserves claims; here both are taken back.
//! Rule: upstream `pkg/controller/resourceclaim`.

mod plan;

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use crate::api::object::{Object, ObjectKey};
use crate::api::status::{Reason, Status};
use crate::api::value::ValueExt;
use crate::client::{DeleteOptions, Patch, optional, res};
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

/// What only a pod with claims has: most have none, and are not decoded to find that out.
const OF_PODS: &str = "resourceClaims";

/// The same of a claim that the scheduler made for extended resources; such a pod may have no other.
const OF_EXTENDED: &str = "extendedResourceClaimStatus";

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

    fn watches(&self) -> Watches {
        Watches::own_that(&res::PODS, |pod| pod.mentions(OF_PODS))
            .owned(&res::RESOURCE_CLAIMS)
            // A template that was missing may be there now.
            .mapped(&res::RESOURCE_CLAIM_TEMPLATES, |template, cx| {
                let uses = |pod: &&Arc<Object>| {
                    if !pod.mentions(OF_PODS) {
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
        let found = cx.get(&res::PODS, key).filter(|o| !o.is_deleting() && o.mentions(OF_PODS));
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
        failed.map_or(Ok(Requeue::Never), Err)
    }
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

    fn watches(&self) -> Watches {
        Watches::own(&res::RESOURCE_CLAIMS).mapped(&res::PODS, |pod, _| {
            if !pod.mentions(OF_PODS) && !pod.mentions(OF_EXTENDED) {
                return Vec::new();
            }
            let (ns, pod) = (pod.meta.namespace.clone(), pod.value());
            let all = pod.items_at("/spec/resourceClaims").iter().chain(pod.items_at("/status/resourceClaimStatuses"));
            all.chain(pod.get_at("/status/extendedResourceClaimStatus"))
                .filter_map(|c| c.str_at("/resourceClaimName"))
                .map(|name| ObjectKey::new(&*ns, name))
                .collect()
        })
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
}
