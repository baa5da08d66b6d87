//! The status of a pod as it is written: conditions, addresses, states of containers, claims.
//!
//! Rules: upstream `ValidatePodStatusUpdate`.

use std::net::IpAddr;

use serde_json::Value;

use crate::api::meta::names;
use crate::api::value::ValueExt;

use super::Field;

const CONTAINER_LISTS: [(&str, &str); 3] = [
    ("containerStatuses", "containers"),
    ("initContainerStatuses", "initContainers"),
    ("ephemeralContainerStatuses", "ephemeralContainers"),
];
const HEALTH: &[&str] = &["Healthy", "Unhealthy", "Unknown"];

/// A write to `status`.
pub fn status(pod: &Field<'_>, old: &Value) {
    let (status, spec) = (pod.at("status"), pod.at("spec"));
    conditions(pod, &status);
    if let Some(was) = old.get_at("/status/qosClass").and_then(Value::as_str)
        && status.text("qosClass") != was
    {
        status.errs.at("qosClass").invalid(status.text("qosClass"), "field is immutable");
    }
    let (now, was) = (status.text("nominatedNodeName"), old.str_at("/status/nominatedNodeName").unwrap_or_default());
    if !now.is_empty() && now != was {
        status.errs.at("nominatedNodeName").all_invalid(now, names::dns1123_subdomain(now));
    }
    addresses(&status, "podIPs");
    addresses(&status, "hostIPs");
    let first = status.items("hostIPs").next();
    if let Some(first) = first.filter(|first| first.text("ip") != status.text("hostIP")) {
        first.at("ip").invalid("must be equal to `hostIP`");
    }
    claims(&status, &spec);
    for (list, containers) in CONTAINER_LISTS {
        terminated_stay(&status, list, old, &spec);
        for container in status.items(list) {
            user(&container, spec.at("os").text("name"));
            allocated(&container, &spec, containers);
        }
    }
}

/// Kinds of conditions are qualified names, but for Kubernetes' own. Upstream tells of them below `metadata`.
fn conditions(pod: &Field<'_>, status: &Field<'_>) {
    let errs = pod.errs.at("metadata").at("conditions");
    for (i, condition) in status.items("conditions").enumerate() {
        let kind = condition.text("type");
        if !matches!(kind, "PodScheduled" | "Ready" | "Initialized") {
            errs.index(i).at("Type").all_invalid(kind, names::qualified_name(kind));
        }
    }
}

/// One address of a family, and valid ones.
fn addresses(status: &Field<'_>, list: &str) {
    let mut families: Vec<IpAddr> = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    let count = status.count(list);
    for entry in status.items(list) {
        let at = Field { value: entry.value.get("ip").unwrap_or(&Value::Null), errs: entry.errs.clone() };
        families.extend(super::ip(&at));
        if seen.contains(&at.as_text()) {
            entry.errs.duplicate(entry.value.clone());
        }
        seen.push(at.as_text());
    }
    if count < 2 {
        return;
    }
    if families.len() < count {
        status.errs.at(list).internal("failed to check for dual stack: not all of them are addresses");
    }
    let v4 = families.iter().filter(|ip| ip.is_ipv4()).count();
    if families.len() < count || count > 2 || v4 != 1 {
        status.at(list).invalid("may specify no more than one IP for each IP family");
    }
}

/// Claims that were made for the pod are named as the pod names them.
fn claims(status: &Field<'_>, spec: &Field<'_>) {
    let mut seen: Vec<&str> = Vec::new();
    for claim in status.items("resourceClaimStatuses") {
        let name = claim.text("name");
        let at = claim.errs.at("name");
        if !spec.items("resourceClaims").any(|c| c.text("name") == name) {
            at.invalid(name, "must match the name of an entry in `spec.resourceClaims`");
        }
        if seen.contains(&name) {
            at.duplicate(name);
        }
        seen.push(name);
        if claim.has("resourceClaimName") {
            let made = claim.text("resourceClaimName");
            at.all_invalid(made, names::dns1123_subdomain(made));
        }
    }
}

/// What has terminated does not run again, where the restart policy says so. Upstream tells of it by the place that the
/// container's state had before.
fn terminated_stay(status: &Field<'_>, list: &str, old: &Value, spec: &Field<'_>) {
    // Ephemeral containers are never started again.
    let policy = if list == "ephemeralContainerStatuses" { "Never" } else { spec.text("restartPolicy") };
    if policy == "Always" {
        return;
    }
    let is_sidecar = |name: &str| {
        spec.items("initContainers").any(|c| c.text("name") == name && c.text("restartPolicy") == "Always")
    };
    for (i, was) in old.items_at(&format!("/status/{list}")).iter().enumerate() {
        let Some(code) = was.get_at("/state/terminated").map(|t| t.int_at("/exitCode").unwrap_or(0)) else { continue };
        let name = was.str_at("/name").unwrap_or_default();
        if policy == "OnFailure" && code != 0 || list == "initContainerStatuses" && is_sidecar(name) {
            continue;
        }
        if status.items(list).any(|c| c.text("name") == name && !c.at("state").has("terminated")) {
            let at = status.errs.at(list).index(i).at("state");
            at.forbidden("may not be transitioned to non-terminated state");
        }
    }
}

/// Whom a container runs as.
fn user(container: &Field<'_>, os: &str) {
    let user = container.at("user").at("linux");
    if user.value.is_null() {
        return;
    }
    // Upstream leaves `user` out of the path.
    let user = Field { value: user.value, errs: container.errs.at("linux") };
    match os {
        "windows" => user.errs.forbidden("cannot be set for a windows pod"),
        "" | "linux" => {
            user.id("uid");
            user.id("gid");
            for group in user.items("supplementalGroups") {
                if !(0..=super::ID_MAX).contains(&group.value.as_i64().unwrap_or(0)) {
                    group.invalid(format!("must be between 0 and {}, inclusive", super::ID_MAX));
                }
            }
        }
        _ => {}
    }
}

/// The health of devices that a container asked for.
fn allocated(container: &Field<'_>, spec: &Field<'_>, list: &str) {
    let name = "allocatedResourcesStatus";
    if list == "ephemeralContainers" {
        if container.count(name) > 0 {
            container.errs.at(name).forbidden("must not be specified in container status");
        }
        return;
    }
    let asking = spec.items(list).find(|c| c.text("name") == container.text("name"));
    for resource in container.items(name) {
        let kind = resource.text("name");
        if asking.as_ref().is_some_and(|c| !asks_for(&c.at("resources"), kind)) {
            resource.at("name").invalid("must match one of the container's resource requests or claims");
        }
        let mut seen: Vec<&str> = Vec::new();
        for device in resource.items("resources") {
            device.one_of("health", HEALTH);
            let id = device.text("resourceID");
            if seen.contains(&id) {
                device.errs.at("resourceID").duplicate(id);
            }
            seen.push(id);
        }
    }
}

fn asks_for(resources: &Field<'_>, kind: &str) -> bool {
    match kind.strip_prefix("claim:") {
        None => resources.at("requests").value.get(kind).is_some(),
        Some(claim) => resources.items("claims").any(|c| match c.text("request") {
            "" => claim == c.text("name"),
            request => claim.split_once('/') == Some((c.text("name"), request)),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::errors::FieldErrors;
    use serde_json::json;
    use test_case::test_case;

    #[test_case(json!({"conditions": [{"type": "Ready"}, {"type": "a b"}]}), &["metadata.conditions[1].Type"]; "no kind of condition")]
    #[test_case(json!({"podIPs": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}]}), &["status.podIPs"]; "two of a family")]
    #[test_case(json!({"podIPs": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.1"}]}), &["status.podIPs[1]", "status.podIPs"]; "one twice")]
    #[test_case(json!({"hostIP": "10.0.0.1", "hostIPs": [{"ip": "10.0.0.2"}]}), &["status.hostIPs[0].ip"]; "the first is another")]
    #[test_case(json!({"resourceClaimStatuses": [{"name": "x", "resourceClaimName": "A"}]}),
        &["status.resourceClaimStatuses[0].name", "status.resourceClaimStatuses[0].name"]; "no claim of the pod's")]
    #[test_case(json!({"containerStatuses": [{"name": "c", "state": {"running": {}}}]}),
        &["status.containerStatuses[0].state"]; "ended, and runs")]
    #[test_case(json!({"initContainerStatuses": [{"name": "s", "state": {"running": {}}}]}), &[]; "a sidecar may")]
    #[test_case(json!({"containerStatuses": [{"name": "c", "state": {"terminated": {}}, "user": {"linux": {"uid": -1}},
        "allocatedResourcesStatus": [{"name": "claim:a/r", "resources": [{"resourceID": "1", "health": "x"}]}]}]}),
        &["status.containerStatuses[0].linux.uid", "status.containerStatuses[0].allocatedResourcesStatus[0].resources[0].health"]; "devices")]
    fn writes(status: Value, paths: &[&str]) {
        let spec = json!({"restartPolicy": "Never", "initContainers": [{"name": "s", "restartPolicy": "Always"}],
            "containers": [{"name": "c", "resources": {"claims": [{"name": "a", "request": "r"}]}}]});
        let ended = json!({"state": {"terminated": {"exitCode": 0}}, "name": "c"});
        let mut sidecar = ended.clone();
        sidecar["name"] = "s".into();
        let old = json!({"spec": spec, "status": {"containerStatuses": [ended], "initContainerStatuses": [sidecar]}});
        let new = json!({"spec": spec, "status": status});
        let errs = FieldErrors::new();
        super::status(&Field::root(&new, &errs), &old);
        assert_eq!(errs.take().into_iter().map(|c| c.field).collect::<Vec<_>>(), paths);
    }
}
