//! Containers of pods and pod templates: plain, init and ephemeral.

use serde_json::Value;

use crate::api::meta::names;

use super::probes::{Probe, lifecycle, probe};
use super::{Field, env, local_descending_path, pod_security, ports, resources};

/// What of the pod a container's rules depend on.
pub struct PodCx<'a> {
    /// Valid volumes: name and source.
    pub volumes: Vec<(&'a str, &'a Value)>,
    /// Names of resource claims.
    pub claims: Vec<&'a str>,
    /// The pod's grace period, seconds.
    pub grace: i64,
    /// `linux`, `windows` or empty.
    pub os: &'a str,
    /// The pod's restart policy.
    pub restart_policy: &'a str,
    /// False only when the pod has a user namespace of its own.
    pub host_users: bool,
    /// A pod, not a template: images are held to more.
    pub is_pod: bool,
}

/// `containers`.
pub fn containers(spec: &Field<'_>, cx: &PodCx<'_>) {
    if spec.count("containers") == 0 {
        spec.errs.at("containers").required("");
        return;
    }
    let mut seen = Vec::new();
    for c in spec.items("containers") {
        common(&c, cx);
        unique_name(&c, &mut seen);
        if c.has("lifecycle") {
            lifecycle(&c.at("lifecycle"), cx.grace, cx.os);
        }
        all_probes(&c, cx.grace);
        restart_policy(&c, &["Always", "Never", "OnFailure"]);
    }
    ports::of_host(spec.items("containers"));
}

/// `initContainers`; one with restart policy `Always` is a sidecar and may have probes.
pub fn init_containers(spec: &Field<'_>, cx: &PodCx<'_>) {
    let mut seen: Vec<&str> = spec.items("containers").map(|c| c.text("name")).collect();
    for c in spec.items("initContainers") {
        common(&c, cx);
        if !c.text("name").is_empty() {
            unique_name(&c, &mut seen);
        }
        restart_policy(&c, &["Always", "Never", "OnFailure"]);
        if c.text("restartPolicy") == "Always" {
            if c.has("lifecycle") {
                lifecycle(&c.at("lifecycle"), cx.grace, cx.os);
            }
            all_probes(&c, cx.grace);
        } else {
            for name in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"].iter().filter(|n| c.has(n)) {
                c.errs.at(name).forbidden("may not be set for init containers without restartPolicy=Always");
            }
        }
        ports::of_host(std::iter::once(c));
    }
}

/// What an ephemeral container may have.
const EPHEMERAL: &[&str] = &[
    "name",
    "image",
    "command",
    "args",
    "workingDir",
    "envFrom",
    "env",
    "volumeMounts",
    "volumeDevices",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "imagePullPolicy",
    "securityContext",
    "stdin",
    "stdinOnce",
    "tty",
    "targetContainerName",
];

/// `ephemeralContainers`.
pub fn ephemeral_containers(spec: &Field<'_>, cx: &PodCx<'_>) {
    let others: Vec<&str> =
        ["containers", "initContainers"].iter().flat_map(|list| spec.items(list)).map(|c| c.text("name")).collect();
    let mut seen = others.clone();
    for c in spec.items("ephemeralContainers") {
        common(&c, cx);
        unique_name(&c, &mut seen);
        trimmed_image(&c);
        let target = c.text("targetContainerName");
        if !target.is_empty() && !others.contains(&target) {
            c.errs.at("targetContainerName").not_found(target);
        }
        for (name, value) in c.value.as_object().into_iter().flatten() {
            let empty = value.is_null()
                || value.as_array().is_some_and(Vec::is_empty)
                || value.as_object().is_some_and(serde_json::Map::is_empty);
            if !EPHEMERAL.contains(&name.as_str()) && !empty {
                c.errs.at(name).forbidden("cannot be set for an Ephemeral Container");
            }
        }
        for mount in c.items("volumeMounts") {
            for path in ["subPath", "subPathExpr"].iter().filter(|p| !mount.text(p).is_empty()) {
                mount.errs.at(path).forbidden("cannot be set for an Ephemeral Container");
            }
        }
    }
}

fn unique_name<'a>(c: &Field<'a>, seen: &mut Vec<&'a str>) {
    let name = c.text("name");
    if seen.contains(&name) {
        c.errs.at("name").duplicate(name);
    } else {
        seen.push(name);
    }
}

fn all_probes(c: &Field<'_>, grace: i64) {
    probe(&c.at("livenessProbe"), Probe::Liveness, grace);
    probe(&c.at("readinessProbe"), Probe::Readiness, grace);
    probe(&c.at("startupProbe"), Probe::Startup, grace);
}

/// Exit codes of one rule.
const EXIT_CODES_MAX: usize = 255;
/// Rules of one container.
const RESTART_RULES_MAX: usize = 20;

fn restart_policy(c: &Field<'_>, allowed: &[&str]) {
    c.optional_one_of("restartPolicy", allowed);
    if c.count("restartPolicyRules") == 0 {
        return;
    }
    if !c.has("restartPolicy") {
        c.errs.at("restartPolicy").required("must specify restartPolicy when restart rules are used");
    }
    if c.count("restartPolicyRules") > RESTART_RULES_MAX {
        c.errs.at("restartPolicyRules").too_many(c.count("restartPolicyRules"), RESTART_RULES_MAX);
    }
    for rule in c.items("restartPolicyRules") {
        if rule.text("action").is_empty() {
            rule.errs.at("action").required("must specify action");
        } else {
            rule.one_of("action", &["Restart", "RestartAllContainers"]);
        }
        if rule.has("exitCodes") {
            let codes = rule.at("exitCodes");
            codes.one_of("operator", &["In", "NotIn"]);
            match codes.count("values") {
                0 => codes.errs.at("values").required("must not be empty"),
                n if n > EXIT_CODES_MAX => codes.errs.at("values").too_many(n, EXIT_CODES_MAX),
                _ => {}
            }
        } else {
            rule.errs.at("exitCodes").required("must be specified");
        }
    }
}

/// What holds for containers of every sort.
fn common(c: &Field<'_>, cx: &PodCx<'_>) {
    if c.needs("name") {
        c.at("name").reasons(names::dns1123_label(c.text("name")));
    }
    c.needs("image");
    if cx.is_pod {
        trimmed_image(c);
    }
    c.needs_one_of("terminationMessagePolicy", &["File", "FallbackToLogsOnError"]);
    c.needs_one_of("imagePullPolicy", &["Always", "IfNotPresent", "Never"]);
    ports::of_container(c);
    let empty_dirs: Vec<&str> =
        cx.volumes.iter().filter(|(_, source)| source.get("emptyDir").is_some()).map(|(name, _)| *name).collect();
    env::of_container(c, &empty_dirs);
    let devices: Vec<(&str, &str)> = c.items("volumeDevices").map(|d| (d.text("name"), d.text("devicePath"))).collect();
    mounts(c, cx, &devices);
    volume_devices(c, cx);
    resources::of_container(&c.at("resources"), &cx.claims);
    resize_policy(c, cx.restart_policy);
    pod_security::of_container(&c.at("securityContext"), cx.host_users);
}

fn trimmed_image(c: &Field<'_>) {
    if c.text("image").trim() != c.text("image") {
        c.at("image").invalid("must not have leading or trailing whitespace");
    }
}

fn resize_policy(c: &Field<'_>, pod_restart: &str) {
    let list = c.errs.at("resizePolicy");
    let mut seen = Vec::new();
    for policy in c.items("resizePolicy") {
        let resource = policy.text("resourceName");
        if seen.contains(&resource) {
            policy.errs.duplicate(resource);
        }
        seen.push(resource);
        match resource {
            "cpu" | "memory" => {}
            "" => list.required(""),
            other => list.not_supported(other, &["cpu", "memory"]),
        }
        match policy.text("restartPolicy") {
            "NotRequired" | "RestartContainer" => {}
            "" => list.required(""),
            other => list.not_supported(other, &["NotRequired", "RestartContainer"]),
        }
        let restarts = policy.text("restartPolicy") != "NotRequired";
        if restarts && pod_restart == "Never" && c.text("restartPolicy").is_empty() {
            list.invalid(policy.text("restartPolicy"), "must be 'NotRequired' when `restartPolicy` is 'Never'");
        }
    }
}

/// Mounts. Upstream tells of much of them at the list, without the element.
fn mounts(c: &Field<'_>, cx: &PodCx<'_>, devices: &[(&str, &str)]) {
    let list = c.errs.at("volumeMounts");
    let mut paths = Vec::new();
    for m in c.items("volumeMounts") {
        let (name, path) = (m.text("name"), m.text("mountPath"));
        m.needs("name");
        if !cx.volumes.iter().any(|(n, _)| *n == name) {
            m.errs.at("name").not_found(name);
        }
        m.needs("mountPath");
        if paths.contains(&path) {
            m.at("mountPath").invalid("must be unique");
        }
        paths.push(path);
        if devices.iter().any(|(n, _)| *n == name) {
            m.at("name").invalid("must not already exist in volumeDevices");
        }
        if devices.iter().any(|(_, p)| *p == path) {
            m.at("mountPath").invalid("must not already exist as a path in volumeDevices");
        }
        for sub in ["subPath", "subPathExpr"].iter().filter(|s| !m.text(s).is_empty()) {
            local_descending_path(&Field { value: m.at(sub).value, errs: list.at(sub) });
        }
        if !m.text("subPath").is_empty() && !m.text("subPathExpr").is_empty() {
            m.at("subPathExpr").invalid("subPathExpr and subPath are mutually exclusive");
        }
        propagation(&m, c, &list);
        read_only(&m, &list);
    }
}

fn propagation(m: &Field<'_>, c: &Field<'_>, list: &super::FieldErrors) {
    let here = Field { value: m.value, errs: list.clone() };
    here.optional_one_of("mountPropagation", &["Bidirectional", "HostToContainer", "None"]);
    if m.text("mountPropagation") == "Bidirectional" && !c.at("securityContext").flag("privileged") {
        list.at("mountPropagation")
            .forbidden("Bidirectional mount propagation is available only to privileged containers");
    }
}

/// Recursive read-only mounts.
fn read_only(m: &Field<'_>, list: &super::FieldErrors) {
    if !m.has("recursiveReadOnly") {
        return;
    }
    let errs = list.at("recursiveReadOnly");
    match m.text("recursiveReadOnly") {
        "Disabled" => {}
        mode @ ("Enabled" | "IfPossible") => {
            if !m.flag("readOnly") {
                errs.forbidden("may only be specified when readOnly is true");
            }
            if !matches!(m.text("mountPropagation"), "" | "None") {
                errs.forbidden(format!("may not be {mode} with mountPropagation"));
            }
        }
        other => errs.not_supported(other, &["Disabled", "Enabled", "IfPossible"]),
    }
}

fn volume_devices(c: &Field<'_>, cx: &PodCx<'_>) {
    let mounted: Vec<(&str, &str)> = c.items("volumeMounts").map(|m| (m.text("name"), m.text("mountPath"))).collect();
    let (mut names, mut paths): (Vec<&str>, Vec<&str>) = Default::default();
    for d in c.items("volumeDevices") {
        let (name, path) = (d.text("name"), d.text("devicePath"));
        if d.needs("name") && names.contains(&name) {
            d.at("name").invalid("must be unique");
        }
        names.push(name);
        match cx.volumes.iter().find(|(n, _)| *n == name) {
            None => d.errs.at("name").not_found(name),
            Some((_, source)) if source.get("persistentVolumeClaim").is_none() && source.get("ephemeral").is_none() => {
                d.at("name")
                    .invalid("can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode");
            }
            Some(_) => {}
        }
        d.needs("devicePath");
        if paths.contains(&path) {
            d.at("devicePath").invalid("must be unique");
        }
        super::no_backsteps(&d.at("devicePath"));
        paths.push(path);
        if mounted.iter().any(|(n, _)| *n == name) {
            d.at("name").invalid("must not already exist in volumeMounts");
        }
        if mounted.iter().any(|(_, p)| *p == path) {
            d.at("devicePath").invalid("must not already exist as a path in volumeMounts");
        }
    }
}

/// Names of a pod's containers of one sort.
pub fn container_names<'a>(spec: &'a Value, list: &str) -> Vec<&'a str> {
    let items = spec.get(list).and_then(Value::as_array).into_iter().flatten();
    items.filter_map(|c| c.get("name")?.as_str()).collect()
}

/// Claims of a pod by name.
pub fn claim_names(spec: &Value) -> Vec<&str> {
    let items = spec.get("resourceClaims").and_then(Value::as_array).into_iter().flatten();
    items.filter_map(|c| c.get("name")?.as_str()).collect()
}
