//! Deployments, replica sets, stateful sets and daemon sets.

use serde_json::Value;

use super::{Out, annotations, controller, pod_template, pods_status, text, time};
use crate::api::value::ValueExt;
use crate::client::res::REPLICA_SETS;
use crate::ctl::cx::{Cx, Done};
use crate::ctl::pods::{map_query, selector_query};
use crate::util::order::Arrange;

fn head(out: &mut Out, object: &Value) {
    out.field(0, "Name", text(&object["metadata"]["name"]));
    out.field(0, "Namespace", text(&object["metadata"]["namespace"]));
}

fn selector(object: &Value) -> String {
    let query = match object.str_at("/kind") {
        Some("ReplicationController") => map_query(&object["spec"]["selector"]),
        _ => selector_query(&object["spec"]["selector"]),
    };
    match query {
        empty if empty.is_empty() => "<none>".into(),
        text => text,
    }
}

fn n(object: &Value, path: &str) -> i64 {
    object.int_at(path).unwrap_or(0)
}

/// Describes a deployment.
pub async fn deployment(cx: &Cx, out: &mut Out, d: &Value) -> Done {
    head(out, d);
    out.field(0, "CreationTimestamp", time(&text(&d["metadata"]["creationTimestamp"])));
    out.map(0, "Labels", &d["metadata"]["labels"], "=");
    annotations(out, 0, d);
    out.field(0, "Selector", selector(d));
    out.field(
        0,
        "Replicas",
        format!(
            "{} desired | {} updated | {} total | {} available | {} unavailable",
            n(d, "/spec/replicas"),
            n(d, "/status/updatedReplicas"),
            n(d, "/status/replicas"),
            n(d, "/status/availableReplicas"),
            n(d, "/status/unavailableReplicas")
        ),
    );
    out.field(0, "StrategyType", text(&d["spec"]["strategy"]["type"]));
    out.field(0, "MinReadySeconds", n(d, "/spec/minReadySeconds").to_string());
    if let Some(rolling) = d.get_at("/spec/strategy/rollingUpdate") {
        let (unavailable, surge) = (text(&rolling["maxUnavailable"]), text(&rolling["maxSurge"]));
        out.field(0, "RollingUpdateStrategy", format!("{unavailable} max unavailable, {surge} max surge"));
    }
    out.line(0, "Pod Template:");
    pod_template(out, 1, &d["spec"]["template"]);
    if !d.items_at("/status/conditions").is_empty() {
        out.line(0, "Conditions:\n  Type\tStatus\tReason");
        out.line(1, "----\t------\t------");
        for c in d.items_at("/status/conditions") {
            out.line(1, format!("{} \t{}\t{}", text(&c["type"]), text(&c["status"]), text(&c["reason"])));
        }
    }
    let ns = d.str_at("/metadata/namespace").unwrap_or_default();
    let uid = d.str_at("/metadata/uid");
    let mut sets = cx.items(&REPLICA_SETS, ns, &selector_query(&d["spec"]["selector"]), "").await?;
    sets.retain(|s| s.items_at("/metadata/ownerReferences").iter().any(|o| o.str_at("/uid") == uid));
    let by_age = |s: &Value| (text(&s["metadata"]["creationTimestamp"]), text(&s["metadata"]["name"]));
    sets.arrange_by_key(by_age);
    let is_newest = |s: &Value| {
        let mut template = s["spec"]["template"].clone();
        template.remove_at("/metadata/labels/pod-template-hash");
        template == d["spec"]["template"]
    };
    let show = |sets: Vec<&Value>| {
        let one = |s: &Value| {
            let (is, wanted) = (n(s, "/status/replicas"), n(s, "/spec/replicas"));
            format!("{} ({is}/{wanted} replicas created)", text(&s["metadata"]["name"]))
        };
        if sets.is_empty() { "<none>".to_owned() } else { sets.into_iter().map(one).collect::<Vec<_>>().join(", ") }
    };
    let (new, old): (Vec<&Value>, Vec<&Value>) = sets.iter().partition(|s| is_newest(s));
    out.field(0, "OldReplicaSets", show(old));
    out.field(0, "NewReplicaSet", show(new));
    Ok(())
}

/// Describes a replica set.
pub async fn replica_set(cx: &Cx, out: &mut Out, rs: &Value) -> Done {
    head(out, rs);
    out.field(0, "Selector", selector(rs));
    out.map(0, "Labels", &rs["metadata"]["labels"], "=");
    annotations(out, 0, rs);
    out.some(0, "Controlled By", controller(rs).as_deref());
    out.field(0, "Replicas", format!("{} current / {} desired", n(rs, "/status/replicas"), n(rs, "/spec/replicas")));
    out.field(0, "Pods Status", pods_status(cx, rs).await?);
    out.line(0, "Pod Template:");
    pod_template(out, 1, &rs["spec"]["template"]);
    if !rs.items_at("/status/conditions").is_empty() {
        out.line(0, "Conditions:\n  Type\tStatus\tReason");
        out.line(1, "----\t------\t------");
        for c in rs.items_at("/status/conditions") {
            out.line(1, format!("{} \t{}\t{}", text(&c["type"]), text(&c["status"]), text(&c["reason"])));
        }
    }
    Ok(())
}

/// Describes a stateful set.
pub async fn stateful_set(cx: &Cx, out: &mut Out, set: &Value) -> Done {
    head(out, set);
    out.field(0, "CreationTimestamp", time(&text(&set["metadata"]["creationTimestamp"])));
    out.field(0, "Selector", selector(set));
    out.map(0, "Labels", &set["metadata"]["labels"], "=");
    annotations(out, 0, set);
    out.field(0, "Replicas", format!("{} desired | {} total", n(set, "/spec/replicas"), n(set, "/status/replicas")));
    out.field(0, "Update Strategy", text(&set["spec"]["updateStrategy"]["type"]));
    if let Some(partition) = set.int_at("/spec/updateStrategy/rollingUpdate/partition") {
        out.field(1, "Partition", partition.to_string());
    }
    out.field(0, "Pods Status", pods_status(cx, set).await?);
    out.line(0, "Pod Template:");
    pod_template(out, 1, &set["spec"]["template"]);
    match set.items_at("/spec/volumeClaimTemplates") {
        [] => out.field(0, "Volume Claims", "<none>"),
        claims => {
            out.line(0, "Volume Claims:");
            for claim in claims {
                out.field(1, "Name", text(&claim["metadata"]["name"]));
                out.field(1, "StorageClass", text(&claim["spec"]["storageClassName"]));
                out.map(1, "Labels", &claim["metadata"]["labels"], "=");
                annotations(out, 1, claim);
                out.field(1, "Capacity", text(&claim["spec"]["resources"]["requests"]["storage"]));
                let modes: Vec<String> = claim.items_at("/spec/accessModes").iter().map(text).collect();
                out.field(1, "Access Modes", format!("[{}]", modes.join(" ")));
            }
        }
    }
    Ok(())
}

/// Describes a daemon set.
pub async fn daemon_set(cx: &Cx, out: &mut Out, set: &Value) -> Done {
    head(out, set);
    out.field(0, "Selector", selector(set));
    out.map(0, "Node-Selector", &set["spec"]["template"]["spec"]["nodeSelector"], "=");
    out.map(0, "Labels", &set["metadata"]["labels"], "=");
    annotations(out, 0, set);
    for (title, field) in [
        ("Desired Number of Nodes Scheduled", "/status/desiredNumberScheduled"),
        ("Current Number of Nodes Scheduled", "/status/currentNumberScheduled"),
        ("Number of Nodes Scheduled with Up-to-date Pods", "/status/updatedNumberScheduled"),
        ("Number of Nodes Scheduled with Available Pods", "/status/numberAvailable"),
        ("Number of Nodes Misscheduled", "/status/numberMisscheduled"),
    ] {
        out.line(0, format!("{title}: {}", n(set, field)));
    }
    out.field(0, "Pods Status", pods_status(cx, set).await?);
    out.line(0, "Pod Template:");
    pod_template(out, 1, &set["spec"]["template"]);
    Ok(())
}
