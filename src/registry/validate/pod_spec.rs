//! The specification of a pod, as pods and templates have it.
//!
//! Rules: upstream `ValidatePodSpec`, `ValidatePodTemplateSpec`.

use serde_json::Value;

use crate::api::meta::names;

use super::containers::{self, PodCx};
use super::{
    Field, affinity, labels, meta, pod_annotations, pod_security, ports, resources, scheduling, volumes, windows,
};

/// Seconds that a pod may be active at most.
const DEADLINE_MAX: i64 = i32::MAX as i64;

/// What the caller is.
#[derive(Clone, Copy, Default)]
pub struct Options<'a> {
    /// A pod, not a template.
    pub is_pod: bool,
    /// The pod's name; empty for templates.
    pub name: &'a str,
}

/// A pod template at its field: labels, annotations, spec.
pub fn template(field: &Field<'_>) {
    let metadata = field.at("metadata");
    // Upstream's paths leave `metadata` out here.
    labels::labels(&Field { value: metadata.at("labels").value, errs: field.errs.at("labels") });
    let annotations = Field { value: metadata.at("annotations").value, errs: field.errs.at("annotations") };
    meta::annotations(&annotations);
    let spec = field.at("spec");
    pod_annotations::check(&annotations, &spec);
    pod_spec(&spec, Options::default());
    pod_annotations::agree(annotations.value, &spec);
    if spec.count("ephemeralContainers") > 0 {
        spec.errs.at("ephemeralContainers").forbidden("ephemeral containers not allowed in pod template");
    }
}

/// A pod's specification.
pub fn pod_spec(spec: &Field<'_>, options: Options<'_>) {
    let valid = volumes::volumes(spec, options);
    resource_claims(spec);
    let cx = PodCx {
        volumes: valid,
        claims: containers::claim_names(spec.value),
        grace: spec.int("terminationGracePeriodSeconds").unwrap_or(0),
        os: spec.value.get("os").and_then(|os| os.get("name")).and_then(Value::as_str).unwrap_or_default(),
        restart_policy: spec.text("restartPolicy"),
        host_users: !spec.has("hostUsers") || spec.flag("hostUsers"),
        is_pod: options.is_pod,
    };
    containers::containers(spec, &cx);
    containers::init_containers(spec, &cx);
    containers::ephemeral_containers(spec, &cx);
    if spec.flag("hostNetwork") {
        ports::on_host_network(spec.items("containers"), options.is_pod);
        ports::on_host_network(spec.items("initContainers"), options.is_pod);
    }
    host_users(spec);
    spec.needs_one_of("restartPolicy", &["Always", "OnFailure", "Never"]);
    scheduling::dns(spec);
    labels::labels(&spec.at("nodeSelector"));
    pod_security::of_pod(spec);
    affinity::affinity(&spec.at("affinity"));
    scheduling::gates(spec);
    scheduling::spread(spec);
    scheduling::tolerations(spec);
    scheduling::host_aliases(spec);
    windows::os(spec);
    windows::host_process(spec);
    named(spec);
    if spec.has("activeDeadlineSeconds") {
        spec.in_range("activeDeadlineSeconds", 1, DEADLINE_MAX);
    }
    spec.optional_one_of("preemptionPolicy", &["Never", "PreemptLowerPriority"]);
    if spec.has("overhead") {
        overhead(spec);
    }
    resources::of_pod(spec, &containers::claim_names(spec.value));
}

/// What is asked of pods beyond their specification's own rules: annotations, and tokens for an account.
pub fn pod(pod: &Field<'_>) {
    let spec = pod.at("spec");
    pod_annotations::check(&pod.at("metadata").at("annotations"), &spec);
    pod_spec(&spec, Options { is_pod: true, name: pod.at("metadata").text("name") });
    if spec.text("serviceAccountName").is_empty() {
        let sources = spec.items("volumes").flat_map(|v| v.at("projected").items("sources"));
        for source in sources.filter(|s| s.has("serviceAccountToken")) {
            source.errs.at("serviceAccountToken").forbidden("must not be specified when serviceAccountName is not set");
        }
    }
}

/// Names of other objects, and the pod's own.
fn named(spec: &Field<'_>) {
    for name in ["serviceAccountName", "nodeName", "priorityClassName", "runtimeClassName"] {
        if !spec.text(name).is_empty() {
            spec.at(name).reasons(names::dns1123_subdomain(spec.text(name)));
        }
    }
    for name in ["hostname", "subdomain"] {
        if !spec.text(name).is_empty() {
            spec.at(name).reasons(names::dns1123_label(spec.text(name)));
        }
    }
    if spec.has("hostnameOverride") {
        let at = spec.at("hostnameOverride");
        if spec.flag("hostNetwork") {
            at.invalid("may not be set when hostNetwork is true");
        }
        if spec.flag("setHostnameAsFQDN") {
            at.invalid("may not be set when setHostnameAsFQDN is true");
        }
        at.reasons(names::dns1123_subdomain(at.as_text()));
    }
}

/// `overhead` is judged as a container's limits.
fn overhead(spec: &Field<'_>) {
    let as_limits = serde_json::json!({"limits": spec.at("overhead").value});
    resources::of_container(&Field { value: &as_limits, errs: spec.errs.at("overhead") }, &[]);
}

fn host_users(spec: &Field<'_>) {
    if spec.has("hostUsers") && !spec.flag("hostUsers") {
        let errs = spec.errs.clone();
        for (name, at) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
            if spec.flag(name) {
                errs.at(at).forbidden("when `hostUsers` is false");
            }
        }
        for container in spec.items("containers").filter(|c| c.count("volumeDevices") > 0) {
            container.errs.at("volumeDevices").forbidden("volume devices are not supported when hostUsers is false");
        }
    }
}

fn resource_claims(spec: &Field<'_>) {
    let mut seen = Vec::new();
    for claim in spec.items("resourceClaims") {
        let name = claim.text("name");
        if claim.needs("name") {
            if seen.contains(&name) {
                claim.errs.at("name").duplicate(name);
            } else {
                claim.at("name").reasons(names::dns1123_label(name));
            }
            seen.push(name);
        }
        match (claim.has("resourceClaimName"), claim.has("resourceClaimTemplateName")) {
            (true, true) => {
                claim.invalid("at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified")
            }
            (false, false) => claim.invalid("must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"),
            _ => {}
        }
        for name in ["resourceClaimName", "resourceClaimTemplateName"].iter().filter(|n| claim.has(n)) {
            claim.at(name).reasons(names::dns1123_subdomain(claim.text(name)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::errors::FieldErrors;
    use serde_json::json;
    use test_case::test_case;

    fn pod(change: impl Fn(&mut Value)) -> Value {
        let mut spec = json!({"restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "terminationGracePeriodSeconds": 30,
            "containers": [{"name": "c", "image": "i", "terminationMessagePolicy": "File", "imagePullPolicy": "Always"}]});
        change(&mut spec);
        spec
    }

    #[test_case(|_| {}, &[]; "plain")]
    #[test_case(|s| s["containers"] = json!([]), &["containers"]; "nothing to run")]
    #[test_case(|s| s["containers"][0]["image"] = json!(" i"), &["containers[0].image"]; "padded image")]
    #[test_case(|s| s["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/x"}]),
        &["containers[0].volumeMounts[0].name"]; "a mount of nothing")]
    #[test_case(|s| s["containers"][0]["livenessProbe"] = json!({"successThreshold": 2}),
        &["containers[0].livenessProbe", "containers[0].livenessProbe.successThreshold"]; "a probe without handler")]
    #[test_case(|s| s["initContainers"] = s["containers"].clone(), &["initContainers[0].name"]; "one name twice")]
    #[test_case(|s| s["tolerations"] = json!([{"operator": "Equal"}]), &["tolerations[0].operator"]; "toleration of all by value")]
    #[test_case(|s| s["topologySpreadConstraints"] = json!([{"maxSkew": 0, "topologyKey": "k", "whenUnsatisfiable": "DoNotSchedule"}]),
        &["topologySpreadConstraints[0].maxSkew"]; "no skew")]
    #[test_case(|s| s["securityContext"] = json!({"fsGroup": -1, "seccompProfile": {"type": "Localhost"}}),
        &["securityContext.fsGroup", "securityContext.seccompProfile.localhostProfile"]; "security")]
    #[test_case(|s| s["volumes"] = json!([{"name": "e", "ephemeral": {"volumeClaimTemplate": {"metadata": {"name": "x"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1"}}}}}},
            {"name": "c", "persistentVolumeClaim": {"claimName": "p-e"}}]),
        &["volumes[0].ephemeral.volumeClaimTemplate.metadata.name", "volumes[1].persistentVolumeClaim.claimName"]; "a claim of its own making")]
    #[test_case(|s| { s["volumes"] = json!([{"name": "v", "emptyDir": {}}]);
            s["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/a", "subPath": "/x", "mountPropagation": "Bidirectional"}]); },
        &["containers[0].volumeMounts.subPath", "containers[0].volumeMounts.mountPropagation"]; "mounts are told of at the list")]
    #[test_case(|s| s["topologySpreadConstraints"] = json!([{"maxSkew": 1, "topologyKey": "a b", "whenUnsatisfiable": "ScheduleAnyway"},
            {"maxSkew": 2, "topologyKey": "a b", "whenUnsatisfiable": "ScheduleAnyway"}]),
        &["topologySpreadConstraints[0].{topologyKey, whenUnsatisfiable}"]; "the first of two is told of")]
    #[test_case(|s| s["schedulingGates"] = json!([{"name": "a b"}]), &["schedulingGates[0]"]; "no gate's name")]
    #[test_case(|s| s["dnsConfig"] = json!({"searches": ["", ".", "_a.b"]}), &["dnsConfig.searches[0]"]; "an empty domain")]
    #[test_case(|s| s["volumes"] = json!([{"name": "a", "emptyDir": {}, "hostPath": {"path": "/"}}]),
        &["volumes[0].hostPath"]; "two sources")]
    fn specs(change: fn(&mut Value), paths: &[&str]) {
        let (spec, errs) = (pod(change), FieldErrors::new());
        pod_spec(&Field::root(&spec, &errs), Options { is_pod: true, name: "p" });
        assert_eq!(errs.take().into_iter().map(|c| c.field).collect::<Vec<_>>(), paths);
    }
}
