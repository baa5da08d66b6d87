//! Certificate signing requests: those of nodes are approved, what is approved is signed, what is old goes.
//!
//! A node's name belongs to the machine that joined under it first: to its key, whose hash is kept in the ConfigMap
//! `kube-system/<node>.node-identity`. A key is what every request proves anyway; so, other than with k3s's node password,
//! there is no second secret to send and to keep, and the machine that comes back with its data directory is known by it.
//! The ConfigMap is owned by the Node, once that is there, and goes with it: deleting the Node frees the name. A machine
//! whose name another one has got is not let in any more, whatever its certificate says (`apiserver::auth::authn`).
//!
//! **Invariant:** nothing is approved whose sender may not have it: a SubjectAccessReview says so, as upstream's.
//! **Invariant:** one worker decides over names: two machines never get the same.

pub mod plan;

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use serde_json::{Value, json};

use crate::api::node_identity::{self, NAMESPACE};
use crate::api::object::ObjectKey;
use crate::api::value::ValueExt;
use crate::client::{DeleteOptions, optional, res};
use crate::pki::Ca;
use crate::runtime::{Cx, Error, Reconciler, Requeue, Watches};
use plan::{Owner, Record, View, What, Wish};

/// The CAs that sign, for the list of controllers.
#[derive(Debug, Clone)]
pub struct Signing {
    /// Of clients of the API.
    pub client_ca: Arc<Ca>,
    /// Of servers.
    pub server_ca: Arc<Ca>,
}

/// Approves what nodes ask for.
pub fn approving() -> Box<dyn Reconciler> {
    Box::new(Approving)
}

/// Signs what is approved.
pub fn signing(cas: Option<Signing>) -> Box<dyn Reconciler> {
    Box::new(Sign(cas))
}

/// Removes old requests.
pub fn cleaner() -> Box<dyn Reconciler> {
    Box::new(Cleaner)
}

/// Ties the records of names to their Nodes.
pub fn names() -> Box<dyn Reconciler> {
    Box::new(Names)
}

struct Approving;

#[async_trait]
impl Reconciler for Approving {
    fn name(&self) -> &'static str {
        "certificate-controller"
    }

    fn watches(&self) -> Watches {
        Watches::own(&res::CERTIFICATE_SIGNING_REQUESTS)
    }

    fn workers(&self) -> usize {
        1
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        let Some(object) = cx.get(&res::CERTIFICATE_SIGNING_REQUESTS, key) else { return Ok(Requeue::Never) };
        let csr = object.value();
        let Some(wish) = plan::wish(&csr) else { return Ok(Requeue::Never) };
        let Some(message) = permitted(&csr, wish.what, cx).await? else {
            // It waits for somebody who may approve it.
            tracing::info!(csr = key.name, node = wish.node, "its sender may not have a node's certificate");
            return Ok(Requeue::Never);
        };
        let refused = match wish.what {
            What::Serve => plan::foreign_name(&csr, &wish.node, &addresses_of_others(&wish.node, cx)),
            What::Join | What::Renew => own(&wish, cx).await?,
        };
        let condition = match &refused {
            None => {
                json!({"type": "Approved", "status": "True", "reason": "AutoApproved", "message": message})
            }
            Some(why) => json!({"type": "Denied", "status": "True", "reason": "NodeIdentity", "message": why}),
        };
        if let Some(why) = refused {
            tracing::warn!(csr = key.name, node = wish.node, "denied a certificate: {why}");
        }
        let mut decided = csr;
        let mut conditions = decided.items_at("/status/conditions").to_vec();
        conditions.push(condition);
        decided.set_at("/status/conditions", conditions);
        cx.client.update(&res::CERTIFICATE_SIGNING_REQUESTS, "", &key.name, Some("approval"), &decided).await?;
        Ok(Requeue::Never)
    }
}

/// What the approval says if the sender may have what he asks for; none when he may not.
async fn permitted(csr: &Value, what: What, cx: &Cx) -> Result<Option<&'static str>, Error> {
    if what == What::Serve {
        return Ok(Some(plan::SERVING_MESSAGE));
    }
    for (subresource, message) in what.permissions() {
        if allowed(csr, subresource, cx).await? {
            return Ok(Some(message));
        }
    }
    Ok(None)
}

/// Asks whether the sender may create the request's subresource.
async fn allowed(csr: &Value, subresource: &str, cx: &Cx) -> Result<bool, Error> {
    let spec = &csr["spec"];
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {
        "user": spec["username"], "uid": spec["uid"], "groups": spec["groups"], "extra": spec["extra"],
        "resourceAttributes": {"group": "certificates.k8s.io", "resource": "certificatesigningrequests",
            "subresource": subresource, "verb": "create"}}});
    let answer = cx.client.create(&res::SUBJECT_ACCESS_REVIEWS, "", &review).await?;
    Ok(answer.bool_at("/status/allowed") == Some(true))
}

/// Writes down whose the name is; why it cannot be this machine's.
async fn own(wish: &Wish, cx: &Cx) -> Result<Option<String>, Error> {
    let name = node_identity::name_of(&wish.node);
    let known = optional(cx.client.get(&res::CONFIG_MAPS, NAMESPACE, &name).await)?;
    let record_of = |v: &Value| Record {
        key_hash: node_identity::key_hash(v).to_owned(),
        since: v.str_at("/metadata/creationTimestamp").and_then(|t| t.parse().ok()).unwrap_or_default(),
        registered: !v.items_at("/metadata/ownerReferences").is_empty(),
    };
    let exists = cx.lister(&res::NODES).get("", &wish.node).is_some();
    let new = || node_identity::record(&wish.node, &wish.key_hash);
    match plan::owner(wish, known.as_ref().map(record_of).as_ref(), exists, cx.now()) {
        Owner::Same => {}
        Owner::Other(why) => return Ok(Some(why)),
        Owner::Claim => drop(cx.client.create(&res::CONFIG_MAPS, NAMESPACE, &new()).await?),
        Owner::Replace => {
            // Made anew, so that its age is the new machine's.
            optional(cx.client.delete(&res::CONFIG_MAPS, NAMESPACE, &name, &DeleteOptions::default()).await)?;
            cx.client.create(&res::CONFIG_MAPS, NAMESPACE, &new()).await?;
        }
    }
    Ok(None)
}

/// Addresses that a node's certificate may not say: those of other nodes, of the API server, of Services.
fn addresses_of_others(node: &str, cx: &Cx) -> Vec<IpAddr> {
    let mut out = Vec::new();
    let parsed = |text: Option<&str>| text.and_then(|t| t.parse::<IpAddr>().ok());
    for other in cx.lister(&res::NODES).list(None).iter().filter(|n| n.meta.name != node) {
        let value = other.value();
        out.extend(value.items_at("/status/addresses").iter().filter_map(|a| parsed(a.str_at("/address"))));
    }
    if let Some(slice) = cx.lister(&res::ENDPOINT_SLICES).get("default", "kubernetes") {
        let value = slice.value();
        let all = value.items_at("/endpoints").iter().flat_map(|e| e.items_at("/addresses"));
        out.extend(all.filter_map(|a| parsed(a.as_str())));
    }
    for service in cx.lister(&res::SERVICES).list(None) {
        let value = service.value();
        out.extend(value.items_at("/spec/clusterIPs").iter().filter_map(|a| parsed(a.as_str())));
    }
    out
}

struct Sign(Option<Signing>);

#[async_trait]
impl Reconciler for Sign {
    fn name(&self) -> &'static str {
        "certificate-signing-controller"
    }

    fn watches(&self) -> Watches {
        Watches::own(&res::CERTIFICATE_SIGNING_REQUESTS)
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        let Some(cas) = &self.0 else { return Ok(Requeue::Never) };
        let Some(object) = cx.get(&res::CERTIFICATE_SIGNING_REQUESTS, key) else { return Ok(Requeue::Never) };
        let csr = object.value();
        let signed = csr.str_at("/status/certificate").is_some_and(|c| !c.is_empty());
        let signer = csr.str_at("/spec/signerName").unwrap_or_default();
        let ca = match signer {
            plan::CLIENT | plan::NODE_CLIENT => &cas.client_ca,
            plan::NODE_SERVING => &cas.server_ca,
            // Somebody else's.
            _ => return Ok(Requeue::Never),
        };
        if signed || !plan::has(&csr, "Approved") || plan::has(&csr, "Failed") {
            return Ok(Requeue::Never);
        }
        let certificate = View::of(&csr).and_then(|view| {
            let profile = view.profile()?;
            ca.sign_request(&view.pem, &profile, view.seconds(), cx.now()).map_err(|e| e.to_string())
        });
        let mut new = csr;
        match certificate {
            Ok(pem) => new.set_at("/status/certificate", base64::engine::general_purpose::STANDARD.encode(pem)),
            Err(why) => {
                let mut conditions = new.items_at("/status/conditions").to_vec();
                conditions.push(json!({"type": "Failed", "status": "True", "reason": "SignerValidationFailure",
                    "message": why}));
                new.set_at("/status/conditions", conditions);
            }
        }
        cx.client.update(&res::CERTIFICATE_SIGNING_REQUESTS, "", &key.name, Some("status"), &new).await?;
        Ok(Requeue::Never)
    }
}

struct Cleaner;

#[async_trait]
impl Reconciler for Cleaner {
    fn name(&self) -> &'static str {
        "certificate-cleaner"
    }

    fn watches(&self) -> Watches {
        Watches::own(&res::CERTIFICATE_SIGNING_REQUESTS)
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        let Some(csr) = cx.get(&res::CERTIFICATE_SIGNING_REQUESTS, key) else { return Ok(Requeue::Never) };
        let left = plan::seconds_left(&csr.value(), cx.now());
        if left.is_none_or(|left| left > 0) {
            return Ok(Requeue::after_seconds(left));
        }
        let options = DeleteOptions::default();
        optional(cx.client.delete(&res::CERTIFICATE_SIGNING_REQUESTS, "", &key.name, &options).await)?;
        Ok(Requeue::Never)
    }
}

struct Names;

#[async_trait]
impl Reconciler for Names {
    fn name(&self) -> &'static str {
        "node-identity-controller"
    }

    fn watches(&self) -> Watches {
        Watches::own(&res::NODES).mapped(&res::CONFIG_MAPS, |map, _| {
            let node = node_identity::node_of(&map.meta.name).filter(|_| map.meta.namespace == NAMESPACE);
            node.map(|n| ObjectKey::new("", n)).into_iter().collect()
        })
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        let Some(node) = cx.get(&res::NODES, key) else { return Ok(Requeue::Never) };
        let Some(record) = cx.lister(&res::CONFIG_MAPS).get(NAMESPACE, &node_identity::name_of(&key.name)) else {
            return Ok(Requeue::Never);
        };
        let owners = json!([{"apiVersion": "v1", "kind": "Node", "name": key.name, "uid": node.meta.uid}]);
        let has = record.value().items_at("/metadata/ownerReferences").iter().any(|o| o["uid"] == *node.meta.uid);
        if !has && !node.is_deleting() {
            cx.change(&res::CONFIG_MAPS, &record, None, &json!({"metadata": {"ownerReferences": owners}})).await?;
        }
        Ok(Requeue::Never)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Profile, request};
    use crate::runtime::fake::Cluster;

    fn signing_for_tests() -> Signing {
        let ca = |name: &str| {
            let key = rcgen::KeyPair::generate().unwrap();
            Arc::new(Ca::new(name, key, "2026-01-01T00:00:00Z".parse().unwrap()).unwrap())
        };
        Signing { client_ca: ca("client"), server_ca: ca("server") }
    }

    fn put(cluster: &Cluster, name: &str, key: &str) {
        let pem = request::make(key, &Profile::kubelet_client("n")).unwrap();
        cluster.put(json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
            "metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"username": "system:bootstrap:x", "groups": ["system:bootstrappers"], "signerName": plan::NODE_CLIENT,
                "usages": ["digital signature", "client auth"],
                "request": base64::engine::general_purpose::STANDARD.encode(pem)}}));
    }

    fn condition(cluster: &Cluster, name: &str) -> Option<String> {
        let csr = cluster.get(&res::CERTIFICATE_SIGNING_REQUESTS, "", name)?;
        csr.str_at("/status/conditions/0/type").map(str::to_owned)
    }

    /// The fake API allows nobody anything: without the review's yes a request waits.
    #[tokio::test]
    async fn who_may_not_have_a_certificate_waits() {
        let cluster = Cluster::new();
        put(&cluster, "c", &request::new_key().unwrap());
        cluster.reconcile(&Approving, "", "c").await.unwrap();
        assert_eq!(condition(&cluster, "c"), None);
    }

    #[tokio::test]
    async fn what_is_approved_is_signed_by_the_clients_ca() {
        let cluster = Cluster::new();
        let sign = Sign(Some(signing_for_tests()));
        put(&cluster, "c", &request::new_key().unwrap());
        cluster.reconcile(&sign, "", "c").await.unwrap();
        let certificate = |cluster: &Cluster| {
            let csr = cluster.get(&res::CERTIFICATE_SIGNING_REQUESTS, "", "c").unwrap();
            csr.str_at("/status/certificate").map(str::to_owned)
        };
        assert_eq!(certificate(&cluster), None, "not approved");
        let mut csr = cluster.get(&res::CERTIFICATE_SIGNING_REQUESTS, "", "c").unwrap();
        csr.set_at("/status/conditions", json!([{"type": "Approved", "status": "True"}]));
        cluster.put(csr);
        cluster.reconcile(&sign, "", "c").await.unwrap();
        let pem = base64::engine::general_purpose::STANDARD.decode(certificate(&cluster).unwrap()).unwrap();
        assert!(pem.starts_with(b"-----BEGIN CERTIFICATE"));
    }

    #[tokio::test]
    async fn a_name_is_its_machines_until_the_node_is_deleted() {
        let cluster = Cluster::new();
        let wish = |key: &str| Wish { node: "n".into(), key_hash: key.into(), what: What::Join };
        let cx = cluster.cx();
        assert_eq!(own(&wish("a"), &cx).await.unwrap(), None);
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "uid": "u"}});
        cluster.put(node);
        cluster.reconcile(&Names, "", "n").await.unwrap();
        let kept = cluster.get(&res::CONFIG_MAPS, NAMESPACE, "n.node-identity").unwrap();
        assert_eq!(kept.str_at("/metadata/ownerReferences/0/uid"), Some("u"));
        assert!(own(&wish("b"), &cx).await.unwrap().unwrap().contains("is another machine"));
        assert_eq!(own(&wish("a"), &cx).await.unwrap(), None);
        cluster.client().delete(&res::NODES, "", "n", &Default::default()).await.unwrap();
        assert_eq!(own(&wish("b"), &cx).await.unwrap(), None);
        assert!(own(&wish("a"), &cx).await.unwrap().is_some());
    }
}
