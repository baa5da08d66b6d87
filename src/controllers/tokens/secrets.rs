//! Tokens without an end, in Secrets that ask for them (type `kubernetes.io/service-account-token`).
//!
//! Nobody makes such a Secret but people and charts; it is filled with the token, the cluster's authority and the namespace,
//! and goes when its account does. The API takes the token only as long as the Secret is there.
//!
//! Rules: upstream `pkg/controller/serviceaccount/tokens_controller.go`.

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::api::object::{Object, ObjectKey};
use crate::api::status::ApiResult;
use crate::api::value::ValueExt;
use crate::client::{DeleteOptions, optional, res};
use crate::runtime::{Cx, Error, Reconciler, Requeue, Watches};

/// Such a Secret.
pub(super) const TYPE: &str = "kubernetes.io/service-account-token";
/// The account that it names.
pub(super) const ACCOUNT: &str = "/metadata/annotations/kubernetes.io~1service-account.name";
/// Which one of that name.
pub(super) const ACCOUNT_UID: &str = "/metadata/annotations/kubernetes.io~1service-account.uid";

/// Makes the token of an account for a Secret of this name.
pub type Sign = Arc<dyn Fn(&Object, &str) -> ApiResult<String> + Send + Sync>;

/// Fills Secrets, where somebody signs.
struct Secrets {
    sign: Option<Sign>,
    /// Base64.
    ca: String,
}

/// For the list of controllers.
pub fn controller(sign: Option<Sign>, ca_pem: &str) -> Box<dyn Reconciler> {
    Box::new(Secrets { sign, ca: STANDARD.encode(ca_pem) })
}

/// The Secrets that name an account.
fn secrets_of(account: &Object, cx: &Cx) -> Vec<ObjectKey> {
    let names = |secret: &Arc<Object>| {
        secret.meta.namespace == account.meta.namespace
            && secret.only(&["metadata", "annotations"]).str_at(ACCOUNT) == Some(&account.meta.name)
    };
    let all = cx.lister(&res::SECRETS).by_index("type", TYPE);
    all.iter().filter(|s| names(s)).map(|s| ObjectKey::from(&s.meta)).collect()
}

#[async_trait]
impl Reconciler for Secrets {
    fn name(&self) -> &'static str {
        "serviceaccount-token-controller"
    }

    fn watches(&self) -> Watches {
        Watches::own_that(&res::SECRETS, |secret| secret.mentions(TYPE)).mapped(&res::SERVICE_ACCOUNTS, secrets_of)
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        let (Some(sign), Some(secret)) = (&self.sign, cx.get(&res::SECRETS, key)) else { return Ok(Requeue::Never) };
        let old = secret.value();
        if old.str_at("/type") != Some(TYPE) || secret.is_deleting() {
            return Ok(Requeue::Never);
        }
        let (name, uid) = (old.str_at(ACCOUNT).unwrap_or_default(), old.str_at(ACCOUNT_UID).unwrap_or_default());
        let account = cx.lister(&res::SERVICE_ACCOUNTS).get(&key.namespace, name);
        let Some(account) = account.filter(|a| uid.is_empty() || a.meta.uid == uid) else {
            let options = DeleteOptions::of_uid(&secret.meta.uid);
            optional(cx.client.delete(&res::SECRETS, &key.namespace, &key.name, &options).await)?;
            return Ok(Requeue::Never);
        };
        let mut new = old.clone();
        let lacks = |field: &str| old.str_at(field).is_none_or(str::is_empty);
        if old.str_at("/data/ca.crt") != Some(&self.ca) {
            new.set_at("/data/ca.crt", self.ca.as_str());
        }
        if lacks("/data/namespace") {
            new.set_at("/data/namespace", STANDARD.encode(&key.namespace));
        }
        if lacks("/data/token") {
            new.set_at("/data/token", STANDARD.encode(sign(&account, &key.name)?));
        }
        new.set_at(ACCOUNT_UID, account.meta.uid.as_str());
        if new != old {
            cx.client.update(&res::SECRETS, &key.namespace, &key.name, None, &new).await?;
        }
        Ok(Requeue::Never)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::fake::Cluster;
    use serde_json::{Value, json};

    fn secret(annotations: &Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Secret", "type": TYPE,
            "metadata": {"name": "s", "namespace": "n", "uid": "s1", "annotations": annotations}})
    }

    fn account(uid: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "a", "namespace": "n", "uid": uid}})
    }

    fn filling() -> Box<dyn Reconciler> {
        controller(Some(Arc::new(|account, secret| Ok(format!("{} in {secret}", account.meta.name)))), "CA")
    }

    #[tokio::test]
    async fn a_secret_is_filled_once() {
        let cluster = Cluster::new();
        cluster.put(account("u1"));
        cluster.put(secret(&json!({"kubernetes.io/service-account.name": "a"})));
        let filling = filling();
        cluster.reconcile(&*filling, "n", "s").await.unwrap();
        let filled = cluster.get(&res::SECRETS, "n", "s").unwrap();
        let data = ["token", "namespace", "ca.crt"].map(|k| filled["data"][k].as_str().unwrap().to_owned());
        assert_eq!(data, ["a in s", "n", "CA"].map(|text| STANDARD.encode(text)));
        assert_eq!(filled.str_at(ACCOUNT_UID), Some("u1"));
        cluster.api.take_log();
        cluster.reconcile(&*filling, "n", "s").await.unwrap();
        assert_eq!(cluster.api.take_log(), [] as [&str; 0]);
    }

    /// Its account is gone, or another one has its name now.
    #[test_case::test_case(None, json!({}))]
    #[test_case::test_case(Some("u2"), json!({"kubernetes.io/service-account.uid": "u1"}))]
    #[tokio::test]
    async fn a_secret_goes_with_its_account(uid: Option<&str>, more: Value) {
        let cluster = Cluster::new();
        uid.into_iter().for_each(|uid| drop(cluster.put(account(uid))));
        let mut annotations = more;
        annotations["kubernetes.io/service-account.name"] = "a".into();
        cluster.put(secret(&annotations));
        cluster.reconcile(&*filling(), "n", "s").await.unwrap();
        assert!(cluster.get(&res::SECRETS, "n", "s").is_none());
    }

    #[tokio::test]
    async fn an_account_wakes_its_secrets() {
        let cluster = Cluster::new();
        cluster.put(secret(&json!({"kubernetes.io/service-account.name": "a"})));
        let cx = cluster.cx();
        for (name, wakes) in [("a", 1), ("b", 0)] {
            let mut of = account("u1");
            of["metadata"]["name"] = name.into();
            assert_eq!(secrets_of(&Object::from_value(&of, &[]), &cx).len(), wakes, "{name}");
        }
    }
}
