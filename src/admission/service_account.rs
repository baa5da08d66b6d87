//! ServiceAccount: pods run as one, and get its token mounted.
//!
//! Rules: upstream `plugin/pkg/admission/serviceaccount`.

use serde_json::{Value, json};

use crate::api::status::{ApiResult, Status};
use crate::api::value::ValueExt;
use crate::registry::meta::generate_name;
use crate::registry::{Admission, View};

use super::{Plugin, is_new_pod, name_of, refuse};

/// Where the token is mounted.
const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Life of a mounted token, seconds: an hour, and a little so that clients see a round number of refreshes.
const TOKEN_SECONDS: i64 = 3607;
/// Marks pods that a kubelet made from files.
const MIRROR: &str = "/metadata/annotations/kubernetes.io~1config.mirror";

/// The plugin.
pub struct ServiceAccount;

impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn mutate(&self, a: &Admission<'_>, new: &mut Value, _old: Option<&Value>, view: &dyn View) -> ApiResult<()> {
        if !is_new_pod(a) || new.pointer(MIRROR).is_some() {
            return Ok(());
        }
        let name = match new.str_at("/spec/serviceAccountName").unwrap_or_default() {
            "" => "default".to_owned(),
            name => name.to_owned(),
        };
        let Some(account) = view.get("", "serviceaccounts", &a.target.namespace, &name) else {
            let why = format!(
                "error looking up service account {}/{name}: {}",
                a.target.namespace,
                Status::not_found("", "serviceaccounts", &name)
            );
            return Err(refuse(a, name_of(new), why));
        };
        let account = account.value();
        new.set_at("/spec/serviceAccountName", name.clone());
        new.set_at("/spec/serviceAccount", name);
        let wanted = new
            .bool_at("/spec/automountServiceAccountToken")
            .or(account.bool_at("/automountServiceAccountToken"))
            .unwrap_or(true);
        if wanted {
            mount_token(new);
        }
        let secrets = account.items_at("/imagePullSecrets");
        if new.items_at("/spec/imagePullSecrets").is_empty() && !secrets.is_empty() {
            new.set_at("/spec/imagePullSecrets", secrets.to_vec());
        }
        Ok(())
    }

    fn validate(
        &self,
        a: &Admission<'_>,
        new: Option<&Value>,
        _old: Option<&Value>,
        _view: &dyn View,
    ) -> ApiResult<()> {
        let Some(new) = new.filter(|_| is_new_pod(a)) else { return Ok(()) };
        if new.pointer(MIRROR).is_none() {
            return Ok(());
        }
        if new.str_at("/spec/serviceAccountName").is_some_and(|s| !s.is_empty()) {
            return Err(refuse(a, name_of(new), "a mirror pod may not reference service accounts"));
        }
        let token = |v: &Value| v.items_at("/projected/sources").iter().any(|s| s.get("serviceAccountToken").is_some());
        if new.items_at("/spec/volumes").iter().any(token) {
            return Err(refuse(a, name_of(new), "a mirror pod may not use ServiceAccountToken volume projections"));
        }
        Ok(())
    }
}

/// Mounts a projected token into every container that has nothing at its place.
fn mount_token(pod: &mut Value) {
    let existing = pod
        .items_at("/spec/volumes")
        .iter()
        .find_map(|v| v.str_at("/name").filter(|n| n.starts_with("kube-api-access-")).map(str::to_owned));
    let name = existing.clone().unwrap_or_else(|| generate_name("kube-api-access-"));
    let mut used = false;
    for list in ["initContainers", "containers"] {
        let Some(containers) = pod["spec"].get_mut(list).and_then(Value::as_array_mut) else { continue };
        for container in containers {
            if container.items_at("/volumeMounts").iter().any(|m| m.str_at("/mountPath") == Some(TOKEN_PATH)) {
                continue;
            }
            if !container["volumeMounts"].is_array() {
                container["volumeMounts"] = json!([]);
            }
            let mounts = container["volumeMounts"].as_array_mut().expect("made an array above");
            mounts.push(json!({"name": name, "readOnly": true, "mountPath": TOKEN_PATH}));
            used = true;
        }
    }
    if !used || existing.is_some() {
        return;
    }
    if !pod["spec"]["volumes"].is_array() {
        pod["spec"]["volumes"] = json!([]);
    }
    let volumes = pod["spec"]["volumes"].as_array_mut().expect("made an array above");
    volumes.push(json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace",
            "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}}));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_mounted_once() {
        let mut pod = json!({"spec": {"containers": [{"name": "a"},
            {"name": "b", "volumeMounts": [{"name": "x", "mountPath": TOKEN_PATH}]}]}});
        mount_token(&mut pod);
        assert_eq!(pod.items_at("/spec/volumes").len(), 1);
        assert_eq!(pod.items_at("/spec/containers/0/volumeMounts").len(), 1);
        assert_eq!(pod.items_at("/spec/containers/1/volumeMounts")[0]["name"], "x");
        mount_token(&mut pod);
        assert_eq!(pod.items_at("/spec/volumes").len(), 1);
    }
}
