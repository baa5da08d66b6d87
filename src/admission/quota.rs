//! ResourceQuota: what a namespace may use in all.
//!
//! In: the new object and the namespace's quotas. Out: a refusal, or usage written into `status.used` of every quota
//! that counts the object. What is then not stored is given back by the quota controller, as upstream.
//!
//! Rules: upstream `apiserver/pkg/admission/plugin/resourcequota` and `pkg/quota/v1/evaluator/core`.
//!
//! **Invariant:** usage is checked and written in one compare-and-swap: two writers cannot both take the last of it.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::api::object::Object;
use crate::api::quota;
use crate::api::status::{ApiResult, Status};
use crate::api::usage::{self, Amounts, amounts};
use crate::api::user::UserInfo;
use crate::api::value::ValueExt;
use crate::registry::{Admission, Op, Registry, RequestCx, Target, View};

use super::{is_resize, name_of, refuse};

/// Charges the new object to the quotas of its namespace, or refuses it. Without a registry nothing is written.
pub async fn charge(
    a: &Admission<'_>,
    new: &Value,
    old: Option<&Value>,
    view: &dyn View,
    registry: Option<&Registry>,
) -> ApiResult<()> {
    let namespace = &a.target.namespace;
    let counts = a.subresource.is_empty() || is_resize(a);
    if namespace.is_empty() || !counts || !matches!(a.operation, "CREATE" | "UPDATE") {
        return Ok(());
    }
    let quotas = view.list("", "resourcequotas", Some(namespace));
    if quotas.is_empty() {
        return Ok(());
    }
    let wanted = usage_of(a, new, view);
    let mut due = Vec::new();
    for known in quotas {
        let body = known.value();
        if !in_scope(a, new, &body) {
            continue;
        }
        let hard = amounts(&body["status"]["hard"]);
        if old.is_none() || is_resize(a) {
            demand(a, new, &known.meta.name, &hard)?;
        }
        let mut delta: Amounts =
            wanted.iter().filter(|(k, _)| hard.contains_key(*k)).map(|(k, v)| (k.clone(), *v)).collect();
        if let Some(old) = old.filter(|o| in_scope(a, o, &body)) {
            for (name, was) in usage_of(a, old, view) {
                if let Some(now) = delta.get_mut(&name) {
                    *now = now.minus(was);
                }
            }
        }
        delta.retain(|_, amount| amount.nanos() > 0);
        if !delta.is_empty() {
            charged(a, new, &body, &delta)?;
            due.push((known.meta.name.clone(), delta));
        }
    }
    let Some(registry) = registry.filter(|_| !a.cx.dry_run) else { return Ok(()) };
    for (name, delta) in due {
        write(a, new, &name, &delta, registry).await?;
    }
    Ok(())
}

async fn write(a: &Admission<'_>, new: &Value, name: &str, delta: &Amounts, registry: &Registry) -> ApiResult<()> {
    let quotas = registry.resources().get("", "v1", "resourcequotas").ok_or_else(|| Status::internal("no quotas"))?;
    let user = UserInfo::authenticated("system:apiserver", &[UserInfo::MASTERS]);
    let cx = RequestCx::new(user, "kube-apiserver", a.cx.now);
    let at = Target { namespace: a.target.namespace.clone(), name: name.to_owned() };
    let change = |quota: &Value| {
        let mut changed = quota.clone();
        changed["status"]["used"] = charged(a, new, quota, delta)?;
        if let Some(metadata) = changed["metadata"].as_object_mut() {
            // The one that is written is the one that was read: a lost race is tried again.
            metadata.shift_remove("resourceVersion");
        }
        Ok(changed)
    };
    match registry.update(&quotas, &cx, &at, &Op::Subresource("status".into()), &change, None).await {
        Err(e) if e.code == 404 => Ok(()),
        done => done.map(|_| ()),
    }
}

/// `status.used` with the usage added; 403 when it would be too much.
fn charged(a: &Admission<'_>, new: &Value, quota: &Value, delta: &Amounts) -> ApiResult<Value> {
    let name = quota.str_at("/metadata/name").unwrap_or_default();
    let (hard, used) = (amounts(&quota["status"]["hard"]), amounts(&quota["status"]["used"]));
    let unknown: Vec<&str> = delta.keys().filter(|k| !used.contains_key(*k)).map(String::as_str).collect();
    if !unknown.is_empty() {
        let why = format!("status unknown for quota: {name}, resources: {}", unknown.join(","));
        return Err(refuse(a, name_of(new), why));
    }
    let mut all = used.clone();
    usage::add(&mut all, delta);
    let exceeded: Vec<&String> = delta.keys().filter(|k| hard.get(*k).is_some_and(|h| all[*k] > *h)).collect();
    if !exceeded.is_empty() {
        let show = |of: &Amounts| -> String {
            let one = |k: &&String| of.get(*k).map(|v| format!("{k}={v}"));
            exceeded.iter().filter_map(one).collect::<Vec<_>>().join(",")
        };
        let why = format!(
            "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
            show(delta),
            show(&used),
            show(&hard)
        );
        return Err(refuse(a, name_of(new), why));
    }
    let map: Map<String, Value> = all.into_iter().map(|(k, v)| (k, v.to_string().into())).collect();
    Ok(Value::Object(map))
}

/// What an object counts as.
fn usage_of(a: &Admission<'_>, object: &Value, view: &dyn View) -> Amounts {
    quota::usage_of(&a.resource.info.gvk.group, &a.resource.info.plural, object, a.cx.now, &Seen(view))
}

/// What there is, as plugins see it.
struct Seen<'a>(&'a dyn View);

impl quota::Others for Seen<'_> {
    fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.0.get(group, plural, namespace, name)
    }

    fn list(&self, group: &str, plural: &str, namespace: &str) -> Vec<Arc<Object>> {
        self.0.list(group, plural, Some(namespace))
    }
}

/// True when a quota counts the object.
fn in_scope(a: &Admission<'_>, object: &Value, quota: &Value) -> bool {
    quota::in_scope(&a.resource.info.gvk.group, &a.resource.info.plural, object, quota)
}

/// What every container must name where a quota limits it; of nothing else upstream asks that.
const DEMANDED: [&str; 6] = ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];

/// Refuses a pod with a container that leaves out what the quota limits.
fn demand(a: &Admission<'_>, pod: &Value, quota: &str, hard: &Amounts) -> ApiResult<()> {
    match lacking(pod, hard).filter(|_| a.is("", "pods")) {
        Some(what) => Err(refuse(a, name_of(pod), format!("failed quota: {quota}: must specify {what}"))),
        None => Ok(()),
    }
}

/// What which containers of a pod leave out, of what a quota limits.
fn lacking(pod: &Value, hard: &Amounts) -> Option<String> {
    let mut missing: Vec<(String, Vec<&str>)> = Vec::new();
    for name in DEMANDED.iter().filter(|n| hard.contains_key(**n)) {
        let (which, resource) = name.split_once('.').unwrap_or(("requests", name));
        let at_pod = pod["spec"]["resources"][which].get(resource).is_some();
        let lacks = |c: &&Value| c["resources"][which].get(resource).is_none();
        let all = ["/spec/containers", "/spec/initContainers"].iter().flat_map(|p| pod.items_at(p));
        let lacking: Vec<&str> = all.filter(lacks).filter_map(|c| c.str_at("/name")).collect();
        if !at_pod && !lacking.is_empty() {
            missing.push(((*name).to_owned(), lacking));
        }
    }
    missing.sort();
    let told: Vec<String> = missing.iter().map(|(name, of)| format!("{name} for: {}", of.join(","))).collect();
    (!told.is_empty()).then(|| told.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use test_case::test_case;

    #[test_case(json!({"limits.cpu": "1", "memory": "1"}), Some("limits.cpu for: b; memory for: a,b"); "processor and memory")]
    #[test_case(json!({"requests.ephemeral-storage": "1Gi", "pods": "1"}), None; "nothing else is demanded")]
    fn demands(hard: Value, want: Option<&str>) {
        let pod =
            json!({"spec": {"containers": [{"name": "a", "resources": {"limits": {"cpu": "1"}}}, {"name": "b"}]}});
        assert_eq!(lacking(&pod, &amounts(&hard)).as_deref(), want);
    }

    #[test]
    fn a_pod_may_ask_for_all_its_containers() {
        let pod = json!({"spec": {"resources": {"limits": {"cpu": "1"}}, "containers": [{"name": "a"}]}});
        assert_eq!(lacking(&pod, &amounts(&json!({"limits.cpu": "1"}))), None);
    }
}
