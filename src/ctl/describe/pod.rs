//! Pods and pod templates.

use serde_json::Value;

use super::{Out, annotations, controller, text, time};
use crate::api::value::ValueExt;
use crate::util::order::Arrange;

/// Describes a pod.
pub fn describe(out: &mut Out, pod: &Value) {
    let at = |path: &str| pod.str_at(path).unwrap_or_default();
    out.field(0, "Name", at("/metadata/name"));
    out.field(0, "Namespace", at("/metadata/namespace"));
    if let Some(priority) = pod.int_at("/spec/priority") {
        out.field(0, "Priority", priority.to_string());
    }
    out.some(0, "Priority Class Name", pod.str_at("/spec/priorityClassName"));
    out.some(0, "Runtime Class Name", pod.str_at("/spec/runtimeClassName"));
    out.some(0, "Service Account", pod.str_at("/spec/serviceAccountName"));
    match at("/spec/nodeName") {
        "" => out.field(0, "Node", "<none>"),
        node => out.field(0, "Node", format!("{node}/{}", at("/status/hostIP"))),
    }
    if let Some(start) = pod.str_at("/status/startTime") {
        out.field(0, "Start Time", time(start));
    }
    out.map(0, "Labels", &pod["metadata"]["labels"], "=");
    annotations(out, 0, pod);
    if let Some(deleted) = pod.str_at("/metadata/deletionTimestamp") {
        let lasts = crate::ctl::age::since(deleted, jiff::Timestamp::now());
        out.field(0, "Status", format!("Terminating (lasts {lasts})"));
        out.field(0, "Termination Grace Period", format!("{}s", text(&pod["metadata"]["deletionGracePeriodSeconds"])));
    } else {
        out.field(0, "Status", at("/status/phase"));
    }
    out.some(0, "Reason", pod.str_at("/status/reason"));
    out.some(0, "Message", pod.str_at("/status/message"));
    out.field(0, "IP", at("/status/podIP"));
    match pod.items_at("/status/podIPs") {
        [] => out.field(0, "IPs", "<none>"),
        ips => {
            out.line(0, "IPs:");
            ips.iter().for_each(|ip| out.field(1, "IP", text(&ip["ip"])));
        }
    }
    out.some(0, "Controlled By", controller(pod).as_deref());
    for (title, list, statuses) in [
        ("Init Containers", "/spec/initContainers", "/status/initContainerStatuses"),
        ("Containers", "/spec/containers", "/status/containerStatuses"),
        ("Ephemeral Containers", "/spec/ephemeralContainers", "/status/ephemeralContainerStatuses"),
    ] {
        if !pod.items_at(list).is_empty() {
            out.line(0, format!("{title}:"));
            containers(out, "", pod.items_at(list), Some(pod.items_at(statuses)));
        }
    }
    if !pod.items_at("/status/conditions").is_empty() {
        out.line(0, "Conditions:\n  Type\tStatus");
        for c in pod.items_at("/status/conditions") {
            out.line(1, format!("{} \t{} ", text(&c["type"]), text(&c["status"])));
        }
    }
    volumes(out, 0, pod.items_at("/spec/volumes"));
    out.some(0, "QoS Class", pod.str_at("/status/qosClass"));
    out.map(0, "Node-Selectors", &pod["spec"]["nodeSelector"], "=");
    tolerations(out, 0, pod.items_at("/spec/tolerations"));
}

/// Describes a pod template below its title.
pub fn pod_template(out: &mut Out, level: usize, template: &Value) {
    out.map(level, "Labels", &template["metadata"]["labels"], "=");
    if template["metadata"]["annotations"].as_object().is_some_and(|m| !m.is_empty()) {
        annotations(out, level, template);
    }
    out.some(level, "Service Account", template.str_at("/spec/serviceAccountName"));
    for (title, list) in [("Init Containers", "/spec/initContainers"), ("Containers", "/spec/containers")] {
        if !template.items_at(list).is_empty() {
            out.line(level, format!("{title}:"));
            // kubectl sets the names a blank further in than the rest.
            containers(out, " ", template.items_at(list), None);
        }
    }
    volumes(out, level, template.items_at("/spec/volumes"));
    out.some(level, "Priority Class Name", template.str_at("/spec/priorityClassName"));
    out.map(level, "Node-Selectors", &template["spec"]["nodeSelector"], "=");
    tolerations(out, level, template.items_at("/spec/tolerations"));
}

fn containers(out: &mut Out, indent: &str, list: &[Value], statuses: Option<&[Value]>) {
    let level = 1;
    for container in list {
        let name = text(&container["name"]);
        let status = statuses.and_then(|s| s.iter().find(|s| s["name"] == container["name"]));
        out.line(level, format!("{indent}{name}:"));
        if let Some(status) = status {
            out.field(level + 1, "Container ID", text(&status["containerID"]));
        }
        out.field(level + 1, "Image", text(&container["image"]));
        if let Some(status) = status {
            out.field(level + 1, "Image ID", text(&status["imageID"]));
        }
        ports(out, level + 1, container.items_at("/ports"));
        for (title, words) in [("Command", "/command"), ("Args", "/args")] {
            if !container.items_at(words).is_empty() {
                out.line(level + 1, format!("{title}:"));
                let lines = container.items_at(words).iter().flat_map(|w| w.as_str().unwrap_or_default().split('\n'));
                lines.for_each(|l| out.line(level + 2, l));
            }
        }
        if let Some(status) = status {
            state(out, level + 1, "State", &status["state"]);
            if status["lastState"].as_object().is_some_and(|s| !s.is_empty()) {
                state(out, level + 1, "Last State", &status["lastState"]);
            }
            out.field(level + 1, "Ready", if status["ready"] == true { "True" } else { "False" });
            out.field(level + 1, "Restart Count", status.int_at("/restartCount").unwrap_or(0).to_string());
        }
        for (title, path) in [("Limits", "/resources/limits"), ("Requests", "/resources/requests")] {
            amounts(out, level + 1, title, container.get_at(path));
        }
        for (title, field) in
            [("Liveness", "livenessProbe"), ("Readiness", "readinessProbe"), ("Startup", "startupProbe")]
        {
            if container[field].is_object() {
                out.field(level + 1, title, probe(&container[field]));
            }
        }
        environment(out, level + 1, container);
        mounts(out, level + 1, container.items_at("/volumeMounts"));
    }
}

fn ports(out: &mut Out, level: usize, list: &[Value]) {
    let plural = if list.len() > 1 { "s" } else { "" };
    let show = |field: &str| {
        let one = |p: &Value| format!("{}/{}", p.int_at(field).unwrap_or(0), p.str_at("/protocol").unwrap_or("TCP"));
        list.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    let or_none = |text: String| if text.is_empty() { "<none>".to_owned() } else { text };
    let named = list.iter().map(|p| {
        let number = format!("{}/{}", p.int_at("/containerPort").unwrap_or(0), p.str_at("/protocol").unwrap_or("TCP"));
        p.str_at("/name").map_or(number.clone(), |name| format!("{number} ({name})"))
    });
    out.field(level, &format!("Port{plural}"), or_none(named.collect::<Vec<_>>().join(", ")));
    out.field(level, &format!("Host Port{plural}"), or_none(show("/hostPort")));
}

fn state(out: &mut Out, level: usize, title: &str, state: &Value) {
    if let Some(running) = state.get("running") {
        out.field(level, title, "Running");
        out.field(level + 1, "Started", time(&text(&running["startedAt"])));
    } else if let Some(ended) = state.get("terminated") {
        out.field(level, title, "Terminated");
        out.some(level + 1, "Reason", ended.str_at("/reason"));
        out.some(level + 1, "Message", ended.str_at("/message"));
        out.field(level + 1, "Exit Code", text(&ended["exitCode"]));
        if let Some(signal) = ended.int_at("/signal").filter(|s| *s > 0) {
            out.field(level + 1, "Signal", signal.to_string());
        }
        out.field(level + 1, "Started", time(&text(&ended["startedAt"])));
        out.field(level + 1, "Finished", time(&text(&ended["finishedAt"])));
    } else {
        out.field(level, title, "Waiting");
        out.some(level + 1, "Reason", state.str_at("/waiting/reason"));
        out.some(level + 1, "Message", state.str_at("/waiting/message"));
    }
}

fn amounts(out: &mut Out, level: usize, title: &str, map: Option<&Value>) {
    let Some(Value::Object(map)) = map.filter(|m| m.as_object().is_some_and(|m| !m.is_empty())) else { return };
    let mut pairs: Vec<_> = map.iter().collect();
    pairs.arrange_by(|a, b| a.0.cmp(b.0));
    out.line(level, format!("{title}:"));
    pairs.into_iter().for_each(|(k, v)| out.field(level + 1, k, text(v)));
}

/// A probe in one line, as upstream writes it.
fn probe(probe: &Value) -> String {
    let n = |field: &str| probe.get(field).and_then(Value::as_i64).unwrap_or(0);
    let attrs = format!(
        "delay={}s timeout={}s period={}s #success={} #failure={}",
        n("initialDelaySeconds"),
        n("timeoutSeconds"),
        n("periodSeconds"),
        n("successThreshold"),
        n("failureThreshold")
    );
    if let Some(exec) = probe.get("exec") {
        let words: Vec<&str> = exec.items_at("/command").iter().filter_map(Value::as_str).collect();
        return format!("exec [{}] {attrs}", words.join(" "));
    }
    if let Some(get) = probe.get("httpGet") {
        let scheme = get.str_at("/scheme").unwrap_or("http").to_lowercase();
        let (host, path) = (get.str_at("/host").unwrap_or_default(), get.str_at("/path").unwrap_or_default());
        return format!("http-get {scheme}://{host}:{}{path} {attrs}", text(&get["port"]));
    }
    if let Some(tcp) = probe.get("tcpSocket") {
        return format!("tcp-socket {}:{} {attrs}", tcp.str_at("/host").unwrap_or_default(), text(&tcp["port"]));
    }
    if let Some(grpc) = probe.get("grpc") {
        return format!("grpc <pod>:{} {} {attrs}", text(&grpc["port"]), grpc.str_at("/service").unwrap_or_default());
    }
    format!("unknown {attrs}")
}

fn environment(out: &mut Out, level: usize, container: &Value) {
    let from = container.items_at("/envFrom");
    if !from.is_empty() {
        out.line(level, "Environment Variables from:");
        for source in from {
            let (kind, reference) = match source.get("configMapRef") {
                Some(reference) => ("ConfigMap", reference),
                None => ("Secret", &source["secretRef"]),
            };
            let optional = reference["optional"] == true;
            out.line(level + 1, format!("{}\t{kind}\tOptional: {optional}", text(&reference["name"])));
        }
    }
    let vars = container.items_at("/env");
    if vars.is_empty() {
        return out.field(level, "Environment", "<none>");
    }
    out.line(level, "Environment:");
    for var in vars {
        let name = text(&var["name"]);
        match var.get("valueFrom") {
            None => {
                let value = text(&var["value"]);
                let mut lines = value.split('\n');
                out.line(level + 1, format!("{name}:\t{}", lines.next().unwrap_or_default()));
                lines.for_each(|l| out.line(level + 1, format!("\t{l}")));
            }
            Some(source) => out.line(level + 1, format!("{name}:\t{}", value_source(source))),
        }
    }
}

fn value_source(source: &Value) -> String {
    if let Some(field) = source.get("fieldRef") {
        return format!(" ({}:{})", field.str_at("/apiVersion").unwrap_or("v1"), text(&field["fieldPath"]));
    }
    if let Some(resource) = source.get("resourceFieldRef") {
        return format!("({})", text(&resource["resource"]));
    }
    for (key, kind) in [("secretKeyRef", "in secret"), ("configMapKeyRef", "of config map")] {
        if let Some(r) = source.get(key) {
            let optional = r["optional"] == true;
            return format!(
                "<set to the key '{}' {kind} '{}'>\tOptional: {optional}",
                text(&r["key"]),
                text(&r["name"])
            );
        }
    }
    String::new()
}

fn mounts(out: &mut Out, level: usize, list: &[Value]) {
    if list.is_empty() {
        return out.field(level, "Mounts", "<none>");
    }
    let mut list: Vec<&Value> = list.iter().collect();
    list.arrange_by_key(|m| text(&m["mountPath"]));
    out.line(level, "Mounts:");
    for mount in list {
        let mut flags = vec![if mount["readOnly"] == true { "ro".to_owned() } else { "rw".to_owned() }];
        if let Some(sub) = mount.str_at("/subPath").filter(|s| !s.is_empty()) {
            flags.push(format!("path=\"{sub}\""));
        }
        out.line(
            level + 1,
            format!("{} from {} ({})", text(&mount["mountPath"]), text(&mount["name"]), flags.join(",")),
        );
    }
}

/// What is told of a volume: its type with a word on it, and fields of the source.
type VolumeRow = (&'static str, &'static str, &'static str, &'static [(&'static str, &'static str)]);

const VOLUMES: &[VolumeRow] = &[
    (
        "emptyDir",
        "EmptyDir",
        "a temporary directory that shares a pod's lifetime",
        &[("Medium", "medium"), ("SizeLimit", "sizeLimit")],
    ),
    ("hostPath", "HostPath", "bare host directory volume", &[("Path", "path"), ("HostPathType", "type")]),
    ("configMap", "ConfigMap", "a volume populated by a ConfigMap", &[("Name", "name"), ("Optional", "optional")]),
    ("secret", "Secret", "a volume populated by a Secret", &[("SecretName", "secretName"), ("Optional", "optional")]),
    (
        "persistentVolumeClaim",
        "PersistentVolumeClaim",
        "a reference to a PersistentVolumeClaim in the same namespace",
        &[("ClaimName", "claimName"), ("ReadOnly", "readOnly")],
    ),
    (
        "nfs",
        "NFS",
        "an NFS mount that lasts the lifetime of a pod",
        &[("Server", "server"), ("Path", "path"), ("ReadOnly", "readOnly")],
    ),
    (
        "csi",
        "CSI",
        "a Container Storage Interface (CSI) volume source",
        &[("Driver", "driver"), ("FSType", "fsType"), ("ReadOnly", "readOnly")],
    ),
    (
        "image",
        "Image",
        "a container image or OCI artifact",
        &[("Reference", "reference"), ("PullPolicy", "pullPolicy")],
    ),
    ("downwardAPI", "DownwardAPI", "a volume populated by information about the pod", &[]),
    (
        "ephemeral",
        "EphemeralVolume",
        "an inline specification for a volume that gets created and deleted with the pod",
        &[],
    ),
];

fn volumes(out: &mut Out, level: usize, list: &[Value]) {
    if list.is_empty() {
        return out.field(level, "Volumes", "<none>");
    }
    out.line(level, "Volumes:");
    for volume in list {
        out.line(level + 1, format!("{}:", text(&volume["name"])));
        if let Some(projected) = volume.get("projected") {
            out.field(level + 2, "Type", "Projected (a volume that contains injected data from multiple sources)");
            projected.items_at("/sources").iter().for_each(|s| projection(out, level + 2, s));
            continue;
        }
        let Some((key, kind, words, fields)) = VOLUMES.iter().find(|(key, ..)| volume.get(*key).is_some()) else {
            out.line(level + 2, "<unknown>");
            continue;
        };
        out.field(level + 2, "Type", format!("{kind} ({words})"));
        for (title, field) in *fields {
            let value = match &volume[*key][*field] {
                Value::Null if matches!(*field, "readOnly" | "optional") => "false".to_owned(),
                Value::Null if *field == "sizeLimit" => "<unset>".to_owned(),
                other => text(other),
            };
            out.field(level + 2, title, value);
        }
    }
}

fn projection(out: &mut Out, level: usize, source: &Value) {
    if let Some(token) = source.get("serviceAccountToken") {
        out.field(level, "TokenExpirationSeconds", text(&token["expirationSeconds"]));
    }
    for (key, title, optional) in [("configMap", "ConfigMapName", "Optional"), ("secret", "SecretName", "Optional")] {
        if let Some(found) = source.get(key) {
            out.field(level, title, text(&found["name"]));
            let value = if found["optional"].is_null() { "false".to_owned() } else { text(&found["optional"]) };
            out.field(level, optional, value);
        }
    }
    if source.get("downwardAPI").is_some() {
        out.field(level, "DownwardAPI", "true");
    }
}

fn tolerations(out: &mut Out, level: usize, list: &[Value]) {
    if list.is_empty() {
        return out.field(level, "Tolerations", "<none>");
    }
    let mut lines: Vec<String> = list.iter().map(toleration).collect();
    lines.arrange();
    for (i, line) in lines.into_iter().enumerate() {
        let head = if i == 0 { "Tolerations:" } else { "" };
        out.line(level, format!("{head}\t{line}"));
    }
}

fn toleration(t: &Value) -> String {
    let at = |field: &str| t.get(field).and_then(Value::as_str).unwrap_or_default();
    let mut text = at("key").to_owned();
    if !at("value").is_empty() {
        text += &format!("={}", at("value"));
    }
    if !at("effect").is_empty() {
        text += &format!(":{}", at("effect"));
    }
    if at("operator") == "Exists" && at("value").is_empty() {
        text += if at("key").is_empty() && at("effect").is_empty() { "op=Exists" } else { " op=Exists" };
    }
    if let Some(seconds) = t.get("tolerationSeconds").and_then(Value::as_i64) {
        text += &format!(" for {seconds}s");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_has_kubectls_layout() {
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "labels": {"a": "b"}},
            "spec": {"nodeName": "node", "priority": 0, "serviceAccountName": "default", "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80, "name": "web"}],
                "readinessProbe": {"httpGet": {"path": "/", "port": 80, "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}}],
                "tolerations": [{"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]},
            "status": {"phase": "Running", "hostIP": "1.2.3.4", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}],
                "containerStatuses": [{"name": "c", "ready": true, "restartCount": 1, "state": {"waiting": {"reason": "X"}}}],
                "conditions": [{"type": "Ready", "status": "True"}]}});
        let mut out = Out::new();
        describe(&mut out, &pod);
        let text = out.text();
        for line in [
            "Name:             p\n",
            "Service Account:  default\n",
            "Node:             node/1.2.3.4\n",
            "IPs:\n  IP:  10.0.0.1\n",
            "    Port:           80/TCP (web)\n    Host Port:      0/TCP\n",
            "    State:          Waiting\n      Reason:       X\n    Ready:          True\n    Restart Count:  1\n",
            "    Readiness:      http-get http://:80/ delay=0s timeout=1s period=10s #success=1 #failure=3\n",
            "Conditions:\n  Type           Status\n  Ready          True \n",
            "k:NoExecute op=Exists for 300s\n",
        ] {
            assert!(text.contains(line), "{line:?} is not in\n{text}");
        }
    }
}
