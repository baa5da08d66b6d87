//! Volumes, claims of them, and their classes.

use serde_json::Value;

use super::{Out, annotations, text, time};
use crate::api::value::ValueExt;
use crate::client::res::PODS;
use crate::ctl::cx::{Cx, Done};

/// `[a b]`, as Go prints a list.
fn list(object: &Value, path: &str) -> String {
    let items: Vec<&str> = object.items_at(path).iter().filter_map(Value::as_str).collect();
    format!("[{}]", items.join(" "))
}

/// `RWO,ROX`, each once.
fn modes(object: &Value, path: &str) -> String {
    let given: Vec<&str> = object.items_at(path).iter().filter_map(Value::as_str).collect();
    let known =
        [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    known.iter().filter(|(mode, _)| given.contains(mode)).map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}

/// The phase; of what is being deleted that it is.
fn phase(object: &Value) -> String {
    match object.str_at("/metadata/deletionTimestamp") {
        Some(since) => format!("Terminating (lasts {})", crate::ctl::age::since(since, jiff::Timestamp::now())),
        None => text(&object["status"]["phase"]),
    }
}

/// The class of a claim or a volume, wherever it is named.
fn class(object: &Value) -> String {
    let old = object.str_at("/metadata/annotations/volume.beta.kubernetes.io~1storage-class");
    old.or(object.str_at("/spec/storageClassName")).unwrap_or_default().to_owned()
}

/// Describes a claim.
pub async fn claim(cx: &Cx, out: &mut Out, claim: &Value) -> Done {
    let at = |path: &str| claim.str_at(path).unwrap_or_default();
    out.field(0, "Name", at("/metadata/name"));
    out.field(0, "Namespace", at("/metadata/namespace"));
    out.field(0, "StorageClass", class(claim));
    out.field(0, "Status", phase(claim));
    out.field(0, "Volume", at("/spec/volumeName"));
    out.map(0, "Labels", &claim["metadata"]["labels"], "=");
    annotations(out, 0, claim);
    out.field(0, "Finalizers", list(claim, "/metadata/finalizers"));
    let bound = !at("/spec/volumeName").is_empty();
    out.field(0, "Capacity", if bound { at("/status/capacity/storage") } else { "" });
    out.field(0, "Access Modes", if bound { modes(claim, "/status/accessModes") } else { String::new() });
    out.some(0, "VolumeMode", claim.str_at("/spec/volumeMode"));
    if claim["spec"]["dataSource"].is_object() {
        out.line(0, "DataSource:");
        out.some(1, "APIGroup", claim.str_at("/spec/dataSource/apiGroup"));
        out.field(1, "Kind", at("/spec/dataSource/kind"));
        out.field(1, "Name", at("/spec/dataSource/name"));
    }
    let name = at("/metadata/name");
    let uses = |pod: &Value| {
        let own = pod.str_at("/metadata/name").unwrap_or_default();
        pod.items_at("/spec/volumes").iter().any(|v| {
            let ephemeral =
                v["ephemeral"].is_object() && format!("{own}-{}", v.str_at("/name").unwrap_or_default()) == name;
            v.str_at("/persistentVolumeClaim/claimName") == Some(name) || ephemeral
        })
    };
    let pods = cx.items(&PODS, at("/metadata/namespace"), "", "").await?;
    let users: Vec<String> = pods.iter().filter(|p| uses(p)).map(|p| text(&p["metadata"]["name"])).collect();
    out.field(0, "Used By", users.first().map_or("<none>", String::as_str));
    users.iter().skip(1).for_each(|u| out.line(0, format!("\t{u}")));
    if !claim.items_at("/status/conditions").is_empty() {
        out.line(0, "Conditions:\n  Type\tStatus\tLastProbeTime\tLastTransitionTime\tReason\tMessage");
        out.line(1, "----\t------\t-----------------\t------------------\t------\t-------");
        for c in claim.items_at("/status/conditions") {
            let times = [time(&text(&c["lastProbeTime"])), time(&text(&c["lastTransitionTime"]))].join("\t");
            let rest = [text(&c["reason"]), text(&c["message"])].join("\t");
            out.line(1, format!("{} \t{} \t{times} \t{rest}", text(&c["type"]), text(&c["status"])));
        }
    }
    Ok(())
}

/// Describes a volume.
pub fn volume(out: &mut Out, volume: &Value) {
    let at = |path: &str| volume.str_at(path).unwrap_or_default();
    out.field(0, "Name", at("/metadata/name"));
    out.map(0, "Labels", &volume["metadata"]["labels"], "=");
    annotations(out, 0, volume);
    out.field(0, "Finalizers", list(volume, "/metadata/finalizers"));
    out.field(0, "StorageClass", class(volume));
    out.field(0, "Status", phase(volume));
    let claim = match at("/spec/claimRef/name") {
        "" => String::new(),
        name => format!("{}/{name}", at("/spec/claimRef/namespace")),
    };
    out.field(0, "Claim", claim);
    out.field(0, "Reclaim Policy", at("/spec/persistentVolumeReclaimPolicy"));
    out.field(0, "Access Modes", modes(volume, "/spec/accessModes"));
    out.some(0, "VolumeMode", volume.str_at("/spec/volumeMode"));
    out.field(0, "Capacity", at("/spec/capacity/storage"));
    affinity(out, volume.items_at("/spec/nodeAffinity/required/nodeSelectorTerms"));
    out.field(0, "Message", at("/status/message"));
    source(out, &volume["spec"]);
}

fn affinity(out: &mut Out, terms: &[Value]) {
    if terms.is_empty() {
        return out.field(0, "Node Affinity", "<none>");
    }
    out.line(0, "Node Affinity:\t");
    out.line(1, "Required Terms:\t");
    for (i, term) in terms.iter().enumerate() {
        for (j, e) in term.items_at("/matchExpressions").iter().enumerate() {
            let values: Vec<String> = e.items_at("/values").iter().map(text).collect();
            let operator = text(&e["operator"]).to_lowercase();
            let label = if j == 0 { format!("Term {i}:") } else { String::new() };
            out.line(2, format!("{label}\t{} {operator} [{}]", text(&e["key"]), values.join(", ")));
        }
    }
}

/// Title and name of a field.
type Titled = (&'static str, &'static str);

/// Kinds of sources: field, what is told of them, and their own fields with titles.
const SOURCES: [(&str, &str, &[Titled]); 5] = [
    ("hostPath", "HostPath (bare host directory volume)", &[("Path", "path"), ("HostPathType", "type")]),
    ("local", "LocalVolume (a persistent volume backed by local storage on a node)", &[("Path", "path")]),
    (
        "nfs",
        "NFS (an NFS mount that lasts the lifetime of a pod)",
        &[("Server", "server"), ("Path", "path"), ("ReadOnly", "readOnly")],
    ),
    (
        "csi",
        "CSI (a Container Storage Interface (CSI) volume source)",
        &[("Driver", "driver"), ("FSType", "fsType"), ("VolumeHandle", "volumeHandle"), ("ReadOnly", "readOnly")],
    ),
    (
        "iscsi",
        "ISCSI (an ISCSI Disk resource that is attached to a kubelet's host machine and then exposed to the pod)",
        &[("TargetPortal", "targetPortal"), ("IQN", "iqn"), ("Lun", "lun"), ("FSType", "fsType")],
    ),
];

fn source(out: &mut Out, spec: &Value) {
    out.line(0, "Source:");
    match SOURCES.iter().find(|(field, ..)| spec[*field].is_object()) {
        Some((field, title, fields)) => {
            out.field(2, "Type", title);
            for (title, key) in *fields {
                let value = &spec[*field][*key];
                out.field(2, title, if *key == "readOnly" && value.is_null() { "false".into() } else { text(value) });
            }
        }
        None => out.line(2, "<unknown>"),
    }
}

/// Describes a storage class.
pub fn storage_class(out: &mut Out, class: &Value) {
    let at = |path: &str| class.str_at(path).unwrap_or_default();
    out.field(0, "Name", at("/metadata/name"));
    let default = at("/metadata/annotations/storageclass.kubernetes.io~1is-default-class") == "true";
    out.field(0, "IsDefaultClass", if default { "Yes" } else { "No" });
    out.pairs(0, "Annotations", &class["metadata"]["annotations"]);
    out.field(0, "Provisioner", at("/provisioner"));
    out.pairs(0, "Parameters", &class["parameters"]);
    let expands = class.bool_at("/allowVolumeExpansion").map_or("<unset>", |e| if e { "True" } else { "False" });
    out.field(0, "AllowVolumeExpansion", expands);
    let options: Vec<String> = class.items_at("/mountOptions").iter().map(text).collect();
    if options.is_empty() {
        out.field(0, "MountOptions", "<none>");
    } else {
        out.line(0, "MountOptions:");
        options.iter().for_each(|o| out.line(1, o));
    }
    out.some(0, "ReclaimPolicy", class.str_at("/reclaimPolicy"));
    out.some(0, "VolumeBindingMode", class.str_at("/volumeBindingMode"));
    let topologies = class.items_at("/allowedTopologies");
    if !topologies.is_empty() {
        out.line(0, "AllowedTopologies:\t");
        for (i, term) in topologies.iter().enumerate() {
            for (j, e) in term.items_at("/matchLabelExpressions").iter().enumerate() {
                let values: Vec<String> = e.items_at("/values").iter().map(text).collect();
                let label = if j == 0 { format!("Term {i}:") } else { String::new() };
                out.line(1, format!("{label}\t{} in [{}]", text(&e["key"]), values.join(", ")));
            }
        }
    }
}
