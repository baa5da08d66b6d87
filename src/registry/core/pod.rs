//! Pods.
//!
//! Rules: upstream `pkg/registry/core/pod` (strategy), `pkg/printers/internalversion` (columns).

mod print;
mod qos;

use serde_json::{Value, json};

use crate::api::meta::Gvk;
use crate::api::scheme::{Column, KindInfo, STATUS, Selectable, Subresource, Verbs};
use crate::api::value::ValueExt;
use crate::registry::errors::FieldErrors;
use crate::registry::strategy::{Generation, HookCx, Op, Strategy, keep_all_but};
use crate::registry::validate::{Field, pod_annotations, pod_spec, pod_status, pod_update, warnings};
use crate::registry::{Resource, cells};
use crate::util::clock::rfc3339;

const SUBRESOURCES: &[Subresource] = &[
    Subresource::of("attach", Verbs::CREATE.and(Verbs::GET), Gvk::new("", "v1", "PodAttachOptions")),
    Subresource::of("binding", Verbs::CREATE, Gvk::new("", "v1", "Binding")),
    Subresource::own("ephemeralcontainers", Verbs::STATUS),
    Subresource::of("eviction", Verbs::CREATE, Gvk::new("policy", "v1", "Eviction")),
    Subresource::of("exec", Verbs::CREATE.and(Verbs::GET), Gvk::new("", "v1", "PodExecOptions")),
    Subresource::own("log", Verbs::GET),
    Subresource::of("portforward", Verbs::CREATE.and(Verbs::GET), Gvk::new("", "v1", "PodPortForwardOptions")),
    Subresource::of(
        "proxy",
        Verbs::CREATE.and(Verbs::DELETE).and(Verbs::GET).and(Verbs::PATCH).and(Verbs::UPDATE),
        Gvk::new("", "v1", "PodProxyOptions"),
    ),
    Subresource::own("resize", Verbs::STATUS),
    STATUS,
];

const FIELDS: &[Selectable] = &[
    Selectable::new("spec.nodeName", "/spec/nodeName"),
    Selectable::new("spec.restartPolicy", "/spec/restartPolicy"),
    Selectable::new("spec.schedulerName", "/spec/schedulerName"),
    Selectable::new("spec.serviceAccountName", "/spec/serviceAccountName"),
    Selectable::or("spec.hostNetwork", "/spec/hostNetwork", "false"),
    Selectable::new("status.phase", "/status/phase"),
    Selectable::new("status.podIP", "/status/podIP"),
    Selectable::new("status.nominatedNodeName", "/status/nominatedNodeName"),
];

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Ready", print::ready),
    Column::new("Status", |pod, _| print::summary(pod).reason.into()),
    Column::new("Restarts", print::restarts),
    Column::AGE,
    Column::new("IP", |pod, _| cells::or_none(pod, "/status/podIPs/0/ip")).wide(),
    Column::new("Node", |pod, _| cells::or_none(pod, "/spec/nodeName")).wide(),
    Column::new("Nominated Node", |pod, _| cells::or_none(pod, "/status/nominatedNodeName")).wide(),
    Column::new("Readiness Gates", print::readiness_gates).wide(),
];

/// The kind.
pub fn kind() -> Resource {
    let mut info = KindInfo::namespaced("", "v1", "Pod", "pods", "pod")
        .short(&["po"])
        .categories(&["all"])
        .subresources(SUBRESOURCES)
        .selectable(FIELDS)
        .columns(COLUMNS);
    info.row_conditions = Some(print::row_conditions);
    Resource::new(info, Box::new(Pods))
}

struct Pods;

impl Strategy for Pods {
    fn generation(&self) -> Generation {
        Generation::Spec
    }

    fn returns_deleted(&self) -> bool {
        true
    }

    /// A pod that no node runs, or that has ended, needs no grace.
    fn grace(&self, pod: &Value, asked: Option<i64>) -> Option<i64> {
        let idle = pod.str_at("/spec/nodeName").unwrap_or_default().is_empty()
            || matches!(pod.str_at("/status/phase"), Some("Failed" | "Succeeded"));
        let grace = asked.or(pod.int_at("/spec/terminationGracePeriodSeconds")).unwrap_or(0);
        Some(match grace {
            _ if idle => 0,
            g if g < 0 => 1,
            g => g,
        })
    }

    fn prepare(&self, new: &mut Value, old: Option<&Value>, cx: &HookCx<'_>) {
        match (&cx.op, old) {
            (Op::Create, _) => {
                new["status"] = json!({"phase": "Pending", "qosClass": qos::class(&new["spec"])});
                if !new.items_at("/spec/schedulingGates").is_empty() {
                    new["status"]["conditions"] = json!([{"type": "PodScheduled", "status": "False",
                        "lastProbeTime": null, "lastTransitionTime": rfc3339(cx.now), "reason": "SchedulingGated",
                        "message": "Scheduling is blocked due to non-empty scheduling gates"}]);
                }
                merge_label_keys(new);
                drop_disabled(&mut new["spec"]);
            }
            (Op::Update, _) => drop_disabled(&mut new["spec"]),
            (Op::Subresource(sub), Some(old)) if sub == "ephemeralcontainers" => {
                keep_all_but(new, old, &["/spec/ephemeralContainers"]);
            }
            (Op::Subresource(sub), Some(old)) if sub == "resize" => only_resources(new, old),
            (Op::Subresource(sub), Some(old)) if sub == "status" => {
                addresses(new, old);
                if let Some(qos) = old.get_at("/status/qosClass").cloned() {
                    new.set_if_absent("/status/qosClass", qos);
                }
            }
            _ => {}
        }
    }

    fn warnings(&self, new: &Value, _old: Option<&Value>, cx: &HookCx<'_>) -> Vec<String> {
        // People do not update pods.
        if cx.op != Op::Create {
            return Vec::new();
        }
        let mut out = warnings::pod_spec(&new["spec"], "spec");
        out.extend(warnings::host_name(new, "the Pod's hostname"));
        out
    }

    fn prepare_status(&self, new: &mut Value, old: &Value) {
        // The kubelet writes labels and annotations this way too; owners are not its business.
        let owners = old.get_at("/metadata/ownerReferences").cloned();
        new["spec"] = old["spec"].clone();
        match owners {
            Some(owners) => new.set_at("/metadata/ownerReferences", owners),
            None => drop(new.remove_at("/metadata/ownerReferences")),
        }
    }

    fn validate(&self, new: &Value, old: Option<&Value>, cx: &HookCx<'_>, errs: &FieldErrors) {
        let pod = Field::root(new, errs);
        let spec = pod.at("spec");
        let annotations = pod.at("metadata").at("annotations");
        if let Op::Subresource(sub) = &cx.op
            && let Some(old) = old
        {
            match &**sub {
                "status" => {
                    pod_annotations::check_update(&annotations, old);
                    return pod_status::status(&pod, old);
                }
                "ephemeralcontainers" => pod_update::ephemeral(&pod, old),
                "resize" => {
                    let classes = (qos::class(&new["spec"]), old.str_at("/status/qosClass").unwrap_or_default());
                    pod_update::resize(&pod, old, classes);
                }
                _ => {}
            }
        }
        pod_spec::pod(&pod);
        if let Some(old) = old {
            pod_annotations::check_update(&annotations, old);
        } else {
            pod_annotations::agree(annotations.value, &spec);
        }
        match (&cx.op, old) {
            (Op::Create, _) if spec.count("ephemeralContainers") > 0 => {
                spec.errs.at("ephemeralContainers").forbidden("cannot be set on create");
            }
            (Op::Create, _) if !spec.text("nodeName").is_empty() && spec.count("schedulingGates") > 0 => {
                spec.errs.at("nodeName").forbidden("cannot be set until all schedulingGates have been cleared");
            }
            (Op::Update, Some(old)) => pod_update::update(&spec, &old["spec"]),
            _ => {}
        }
    }
}

/// Fields of features that are off by default.
fn drop_disabled(spec: &mut Value) {
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            container.remove_at("/lifecycle/stopSignal");
        }
    }
    for volume in spec.get_mut("volumes").and_then(Value::as_array_mut).into_iter().flatten() {
        let sources = volume.pointer_mut("/projected/sources").and_then(Value::as_array_mut);
        for source in sources.into_iter().flatten() {
            source.remove_at("/clusterTrustBundle");
        }
    }
}

/// `podIP` is the first of `podIPs`, and the other way round; `hostIP` likewise.
fn addresses(new: &mut Value, old: &Value) {
    for (one, all) in [("podIP", "podIPs"), ("hostIP", "hostIPs")] {
        let (one, all) = (format!("/status/{one}"), format!("/status/{all}"));
        let first = format!("{all}/0/ip");
        let single = new.str_at(&one).unwrap_or_default().to_owned();
        let listed = new.str_at(&first).unwrap_or_default().to_owned();
        let was = old.str_at(&one).unwrap_or_default();
        if !single.is_empty() && single != listed && (listed.is_empty() || single != was) {
            new.set_at(&all, json!([{"ip": single}]));
        } else if !listed.is_empty() && single != listed {
            new.set_at(&one, listed);
        }
    }
}

/// Takes the amounts of containers that are the same by name, and nothing else.
fn only_resources(new: &mut Value, old: &Value) {
    let mut kept = old.clone();
    for list in ["/spec/containers", "/spec/initContainers"] {
        let wanted = new.items_at(list);
        let Some(mine) = kept.pointer_mut(list).and_then(Value::as_array_mut) else { continue };
        if mine.len() != wanted.len() {
            continue;
        }
        for (container, wanted) in mine.iter_mut().zip(wanted).filter(|(c, w)| c["name"] == w["name"]) {
            for field in ["resources", "resizePolicy"] {
                match wanted.get(field) {
                    Some(v) => container[field] = v.clone(),
                    None => drop(container.remove_at(&format!("/{field}"))),
                }
            }
        }
    }
    keep_all_but(new, &kept, &[]);
}

/// `matchLabelKeys` name labels of the pod that its own selector takes over.
fn merge_label_keys(pod: &mut Value) {
    let labels = pod.get_at("/metadata/labels").cloned().unwrap_or_default();
    let merge = |term: &mut Value| {
        for (list, operator) in [("/matchLabelKeys", "In"), ("/mismatchLabelKeys", "NotIn")] {
            let keys: Vec<String> = term.items_at(list).iter().filter_map(Value::as_str).map(str::to_owned).collect();
            for key in keys {
                let (Some(value), true) = (labels.get(&key).cloned(), term.get("labelSelector").is_some()) else {
                    continue;
                };
                let mut all = term.items_at("/labelSelector/matchExpressions").to_vec();
                all.push(json!({"key": key, "operator": operator, "values": [value]}));
                term.set_at("/labelSelector/matchExpressions", all);
            }
        }
    };
    if let Some(list) = pod.pointer_mut("/spec/topologySpreadConstraints").and_then(Value::as_array_mut) {
        list.iter_mut().for_each(merge);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let at = format!("/spec/affinity/{kind}");
        let Some(rules) = pod.pointer_mut(&at) else { continue };
        let list = rules.get_mut("requiredDuringSchedulingIgnoredDuringExecution").and_then(Value::as_array_mut);
        list.into_iter().flatten().for_each(merge);
        let list = rules.get_mut("preferredDuringSchedulingIgnoredDuringExecution").and_then(Value::as_array_mut);
        list.into_iter().flatten().filter_map(|p| p.get_mut("podAffinityTerm")).for_each(merge);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case(json!({"spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30}}), None, 30; "its own")]
    #[test_case(json!({"spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30}}), Some(5), 5; "as asked")]
    #[test_case(json!({"spec": {"terminationGracePeriodSeconds": 30}}), Some(5), 0; "unscheduled")]
    #[test_case(json!({"spec": {"nodeName": "n"}, "status": {"phase": "Failed"}}), Some(5), 0; "ended")]
    #[test_case(json!({"spec": {"nodeName": "n", "terminationGracePeriodSeconds": -1}}), None, 1; "negative")]
    fn grace(pod: Value, asked: Option<i64>, want: i64) {
        assert_eq!(Pods.grace(&pod, asked), Some(want));
    }

    #[test]
    fn resize_takes_amounts_only() {
        let old =
            json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i", "resources": {}}]}});
        let mut new = json!({"metadata": {"name": "p", "labels": {"a": "b"}}, "spec": {"containers": [
            {"name": "c", "image": "other", "resources": {"limits": {"cpu": "1"}}}]}});
        only_resources(&mut new, &old);
        assert_eq!(
            new["spec"]["containers"][0],
            json!({"name": "c", "image": "i", "resources": {"limits": {"cpu": "1"}}})
        );
        assert_eq!(new.pointer("/metadata/labels"), None);
    }
}
