//! ServiceAccount: pods run as one, and get its token mounted.
//!
//! Rules: upstream `plugin/pkg/admission/serviceaccount`.

use serde_json::{Value, json};

use crate::api::status::{ApiResult, Status};
use crate::api::value::ValueExt;
use crate::registry::meta::generate_name;
use crate::registry::{Admission, View};
use crate::runtime::references::references;

use super::{Plugin, is_new_pod, name_of, refuse};

/// Where the token is mounted.
const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Life of a mounted token, seconds: an hour, and a little so that clients see a round number of refreshes.
const TOKEN_SECONDS: i64 = 3607;
/// Marks pods that a kubelet made from files.
const MIRROR: &str = "/metadata/annotations/kubernetes.io~1config.mirror";

/// Marks accounts whose pods get no secrets but those that the account names.
const ENFORCE: &str = "/metadata/annotations/kubernetes.io~1enforce-mountable-secrets";

/// The plugin.
pub struct ServiceAccount;

impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn mutate(&self, a: &Admission<'_>, new: &mut Value, _old: Option<&Value>, view: &dyn View) -> ApiResult<()> {
        if !is_new_pod(a) || new.get_at(MIRROR).is_some() {
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

    fn validate(&self, a: &Admission<'_>, new: Option<&Value>, _old: Option<&Value>, view: &dyn View) -> ApiResult<()> {
        let later = a.is("", "pods") && a.subresource == "ephemeralcontainers";
        let Some(new) = new.filter(|_| is_new_pod(a) || later) else { return Ok(()) };
        if later || new.get_at(MIRROR).is_none() {
            let name = new.str_at("/spec/serviceAccountName").unwrap_or_default();
            let account = view.get("", "serviceaccounts", &a.target.namespace, name);
            let why = account.and_then(|account| kept_from(new, &account.value()));
            return why.map_or(Ok(()), |why| Err(refuse(a, name_of(new), why)));
        }
        if new.str_at("/spec/serviceAccountName").is_some_and(|s| !s.is_empty()) {
            return Err(refuse(a, name_of(new), "a mirror pod may not reference service accounts"));
        }
        if references(new).iter().any(|r| r.plural == "secrets") {
            return Err(refuse(a, name_of(new), "a mirror pod may not reference secrets"));
        }
        let token = |v: &Value| v.items_at("/projected/sources").iter().any(|s| s.get("serviceAccountToken").is_some());
        if new.items_at("/spec/volumes").iter().any(token) {
            return Err(refuse(a, name_of(new), "a mirror pod may not use ServiceAccountToken volume projections"));
        }
        Ok(())
    }
}

/// Why a pod may not run as an account that lets its pods have only the secrets that it names.
fn kept_from(pod: &Value, account: &Value) -> Option<String> {
    if !account.get_at(ENFORCE).is_some_and(|v| matches!(v.as_str(), Some("true" | "True" | "TRUE" | "t" | "T" | "1")))
    {
        return None;
    }
    let name = account.str_at("/metadata/name").unwrap_or_default();
    let names = |list: &str, secret: &str| account.items_at(list).iter().any(|s| s.str_at("/name") == Some(secret));
    for (i, pull) in pod.items_at("/spec/imagePullSecrets").iter().enumerate() {
        let secret = pull.str_at("/name").unwrap_or_default();
        if !names("/imagePullSecrets", secret) {
            return Some(format!(
                "imagePullSecrets[{i}].name={secret:?} is not allowed because service account {name} does not reference that imagePullSecret"
            ));
        }
    }
    let mut without_pull = pod.clone();
    without_pull.remove_at("/spec/imagePullSecrets");
    let secrets = references(&without_pull).into_iter().filter(|r| r.plural == "secrets");
    let missing = secrets.map(|r| r.name).find(|secret| !names("/secrets", secret))?;
    Some(format!("secret {missing:?} is not allowed because service account {name} does not reference that secret"))
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
    use test_case::test_case;

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

    #[test_case(json!({"volumes": [{"name": "v", "secret": {"secretName": "mine"}}]}), None; "a secret of the account's")]
    #[test_case(json!({"volumes": [{"name": "v", "secret": {"secretName": "other"}}]}), Some("\"other\""); "another in a volume")]
    #[test_case(json!({"containers": [{"envFrom": [{"secretRef": {"name": "other"}}]}]}), Some("\"other\""); "another in variables")]
    #[test_case(json!({"imagePullSecrets": [{"name": "pull"}]}), None; "for images")]
    #[test_case(json!({"imagePullSecrets": [{"name": "mine"}]}), Some("imagePullSecrets[0]"); "not for images")]
    fn secrets_of_the_account(spec: Value, want: Option<&str>) {
        let mut account =
            json!({"metadata": {"name": "a"}, "secrets": [{"name": "mine"}], "imagePullSecrets": [{"name": "pull"}]});
        let pod = json!({ "spec": spec });
        assert_eq!(kept_from(&pod, &account), None, "nobody asked for it");
        account.set_at(ENFORCE, "true");
        let why = kept_from(&pod, &account);
        assert_eq!(why.is_some(), want.is_some(), "{why:?}");
        assert!(why.unwrap_or_default().contains(want.unwrap_or_default()));
    }
}
