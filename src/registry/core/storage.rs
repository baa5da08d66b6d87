//! PersistentVolumes and PersistentVolumeClaims.

use serde_json::{Value, json};

use crate::api::meta::names;
use crate::api::meta::quantity::Quantity;
use crate::api::scheme::{Column, KindInfo, STATUS_ONLY};
use crate::api::value::ValueExt;
use crate::registry::Resource;
use crate::registry::errors::FieldErrors;
use crate::registry::strategy::{HookCx, Op, Strategy};
use crate::registry::validate::claims::{self, VOLUME_MODES};
use crate::registry::validate::resources::{self, amount};
use crate::registry::validate::volume_sources::{self as sources, Check};
use crate::registry::validate::{Field, affinity, no_backsteps};
use crate::util::clock::rfc3339;

/// The class in an annotation, from before there was a field.
const CLASS_ANNOTATION: &str = "/metadata/annotations/volume.beta.kubernetes.io~1storage-class";

const VOLUME_COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Capacity", |v, _| storage(v, "/spec/capacity/storage")),
    Column::new("Access Modes", |v, _| access_modes(v, "/spec/accessModes")),
    Column::text("Reclaim Policy", "/spec/persistentVolumeReclaimPolicy"),
    Column::new("Status", |v, _| phase(v)),
    Column::new("Claim", |v, _| match v.pointer("/spec/claimRef") {
        Some(claim) => {
            let text = |f: &str| claim.get(f).and_then(Value::as_str).unwrap_or_default().to_owned();
            format!("{}/{}", text("namespace"), text("name")).into()
        }
        None => "".into(),
    }),
    Column::new("StorageClass", |v, _| class(v)),
    Column::new("VolumeAttributesClass", |v, _| or_unset(v, "/spec/volumeAttributesClassName")),
    Column::text("Reason", "/status/reason"),
    Column::AGE,
    Column::new("VolumeMode", |v, _| or_unset(v, "/spec/volumeMode")).wide(),
];

const CLAIM_COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Status", |c, _| phase(c)),
    Column::text("Volume", "/spec/volumeName"),
    Column::new("Capacity", |c, _| {
        bound(c, |c| c.pointer("/status/capacity/storage").map_or(Quantity::units(0), amount).to_string().into())
    }),
    Column::new("Access Modes", |c, _| bound(c, |c| access_modes(c, "/status/accessModes"))),
    Column::new("StorageClass", |c, _| class(c)),
    Column::new("VolumeAttributesClass", |c, _| or_unset(c, "/spec/volumeAttributesClassName")),
    Column::AGE,
    Column::new("VolumeMode", |c, _| or_unset(c, "/spec/volumeMode")).wide(),
];

/// PersistentVolumes.
pub fn volume() -> Resource {
    let info = KindInfo::cluster("", "v1", "PersistentVolume", "persistentvolumes", "persistentvolume").short(&["pv"]);
    Resource::new(info.subresources(STATUS_ONLY).columns(VOLUME_COLUMNS), Box::new(Volumes))
}

/// PersistentVolumeClaims.
pub fn claim() -> Resource {
    let info =
        KindInfo::namespaced("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", "persistentvolumeclaim");
    Resource::new(info.short(&["pvc"]).subresources(STATUS_ONLY).columns(CLAIM_COLUMNS), Box::new(Claims))
}

fn storage(object: &Value, at: &str) -> Value {
    object.pointer(at).map_or_else(String::new, |q| amount(q).to_string()).into()
}

fn or_unset(object: &Value, at: &str) -> Value {
    object.str_at(at).filter(|t| !t.is_empty()).unwrap_or("<unset>").into()
}

fn class(object: &Value) -> Value {
    object.str_at(CLASS_ANNOTATION).or(object.str_at("/spec/storageClassName")).unwrap_or_default().into()
}

fn phase(object: &Value) -> Value {
    match object.str_at("/metadata/deletionTimestamp") {
        Some(_) => "Terminating".into(),
        None => object.str_at("/status/phase").unwrap_or_default().into(),
    }
}

/// What is known of a claim once a volume is named.
fn bound(claim: &Value, cell: fn(&Value) -> Value) -> Value {
    if claim.str_at("/spec/volumeName").unwrap_or_default().is_empty() { "".into() } else { cell(claim) }
}

fn access_modes(object: &Value, at: &str) -> Value {
    const SHORT: &[(&str, &str)] =
        &[("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let modes = object.items_at(at);
    SHORT.iter().filter(|(m, _)| modes.iter().any(|x| x == m)).map(|(_, s)| *s).collect::<Vec<_>>().join(",").into()
}

/// Sources of volumes, in upstream's order.
const SOURCES: &[(&str, Check)] = &[
    ("hostPath", sources::host_path),
    ("gcePersistentDisk", sources::gce_disk),
    ("awsElasticBlockStore", sources::aws_disk),
    ("glusterfs", |f| {
        f.needs("endpoints");
        f.needs("path");
    }),
    ("flocker", |_| {}),
    ("nfs", sources::nfs),
    ("rbd", sources::rbd),
    ("quobyte", |_| {}),
    ("cephfs", sources::ceph),
    ("iscsi", sources::iscsi),
    ("cinder", |f| needs(f, "volumeID")),
    ("fc", sources::fibre_channel),
    ("azureFile", |f| {
        f.needs("secretName");
        f.needs("shareName");
    }),
    ("vsphereVolume", |f| needs(f, "volumePath")),
    ("photonPersistentDisk", |f| needs(f, "pdID")),
    ("portworxVolume", |f| needs(f, "volumeID")),
    ("azureDisk", |f| {
        f.needs("diskName");
        f.needs("diskURI");
    }),
    ("scaleIO", |f| {
        f.needs("gateway");
        f.needs("system");
        f.needs("volumeName");
    }),
    ("local", |f| {
        if f.needs("path") {
            no_backsteps(&f.at("path"));
        }
    }),
    ("storageos", |_| {}),
    ("csi", csi),
];

fn needs(field: &Field<'_>, name: &str) {
    field.needs(name);
}

fn csi(field: &Field<'_>) {
    sources::csi_driver(field);
    field.needs("volumeHandle");
    for name in
        ["controllerPublishSecretRef", "controllerExpandSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef"]
    {
        if !field.has(name) {
            continue;
        }
        let secret = field.at(name);
        secret.needs("name");
        if secret.needs("namespace") {
            secret.at("namespace").reasons(names::dns1123_label(secret.text("namespace")));
        }
    }
}

struct Volumes;

impl Strategy for Volumes {
    fn returns_deleted(&self) -> bool {
        true
    }

    fn prepare(&self, new: &mut Value, old: Option<&Value>, cx: &HookCx<'_>) {
        let phase = |o: &Value| o.str_at("/status/phase").map(str::to_owned);
        match old {
            None => {
                new["status"] = json!({"phase": "Pending", "lastPhaseTransitionTime": rfc3339(cx.now)});
            }
            Some(old) if matches!(cx.op, Op::Subresource(_)) && phase(new) != phase(old) => {
                let moved =
                    new.pointer("/status/lastPhaseTransitionTime") == old.pointer("/status/lastPhaseTransitionTime");
                if moved {
                    new.set_at("/status/lastPhaseTransitionTime", rfc3339(cx.now));
                }
            }
            Some(_) => {}
        }
    }

    fn warnings(&self, new: &Value, _: &HookCx<'_>) -> Vec<String> {
        if new.str_at("/spec/persistentVolumeReclaimPolicy") == Some("Recycle") {
            return vec![
                "spec.persistentVolumeReclaimPolicy: Recycle is deprecated, use dynamic provisioning".to_owned(),
            ];
        }
        Vec::new()
    }

    fn validate(&self, new: &Value, old: Option<&Value>, cx: &HookCx<'_>, errs: &FieldErrors) {
        let volume = Field::root(new, errs);
        if matches!(cx.op, Op::Subresource(_)) {
            return;
        }
        let spec = volume.at("spec");
        volume_spec(&spec);
        if let Some(old) = old {
            volume_update(&spec, old, errs);
        }
    }
}

fn volume_spec(spec: &Field<'_>) {
    if spec.count("accessModes") == 0 {
        spec.errs.at("accessModes").required("");
    }
    claims::access_modes(spec);
    let capacity = spec.at("capacity");
    let names_found: Vec<&str> = capacity.value.as_object().into_iter().flatten().map(|(k, _)| k.as_str()).collect();
    if names_found.is_empty() {
        capacity.errs.required("");
    }
    if names_found != ["storage"] {
        capacity.errs.not_supported(capacity.value.clone(), &["storage"]);
    }
    for (name, field) in spec.entries("capacity") {
        resources::value(name, &field);
        if amount(field.value) <= Quantity::units(0) {
            field.invalid("must be greater than zero");
        }
    }
    spec.optional_one_of("persistentVolumeReclaimPolicy", &["Delete", "Recycle", "Retain"]);
    if spec.has("nodeAffinity") {
        let node = spec.at("nodeAffinity");
        if node.has("required") {
            affinity::node_selector(&node.at("required"), true);
        } else {
            node.errs.at("required").required("must specify required node constraints");
        }
    } else if spec.has("local") {
        spec.errs.at("nodeAffinity").required("Local volume requires node affinity");
    }
    let mut found = 0;
    for (name, check) in SOURCES.iter().filter(|(name, _)| spec.has(name)) {
        found += 1;
        if found > 1 {
            spec.errs.at(name).forbidden("may not specify more than one volume type");
        } else {
            check(&spec.at(name));
        }
    }
    if found == 0 {
        spec.errs.required("must specify a volume type");
    }
    if spec.text("persistentVolumeReclaimPolicy") == "Recycle" && spec.at("hostPath").text("path") == "/" {
        spec.errs.at("persistentVolumeReclaimPolicy").forbidden("may not be 'recycle' for a hostPath mount of '/'");
    }
    for class in ["storageClassName", "volumeAttributesClassName"] {
        if !spec.text(class).is_empty() {
            spec.at(class).reasons(names::dns1123_subdomain(spec.text(class)));
        }
    }
    spec.optional_one_of("volumeMode", VOLUME_MODES);
}

/// Source, mode and node stay. A few secrets' references may be added later.
fn volume_update(spec: &Field<'_>, old: &Value, errs: &FieldErrors) {
    let source = |of: &Value| -> Vec<(&str, Value)> {
        let mut all: Vec<_> = SOURCES.iter().filter_map(|(n, _)| Some((*n, of.get(n)?.clone()))).collect();
        for (_, csi) in all.iter_mut().filter(|(n, _)| *n == "csi") {
            for late in ["controllerExpandSecretRef", "nodeExpandSecretRef"] {
                if old.pointer(&format!("/spec/csi/{late}")).is_none() {
                    csi.remove_at(&format!("/{late}"));
                }
            }
        }
        all
    };
    if source(spec.value) != source(&old["spec"]) {
        spec.errs.at("persistentvolumesource").forbidden("spec.persistentvolumesource is immutable after creation");
    }
    let (mode, was) = (spec.value.get("volumeMode"), old.pointer("/spec/volumeMode"));
    if mode != was {
        errs.at("volumeMode").invalid(spec.at("volumeMode").value.clone(), "field is immutable");
    }
    if let Some(was) = old.pointer("/spec/nodeAffinity")
        && spec.value.get("nodeAffinity") != Some(was)
    {
        let why = "field is immutable, except for updating from beta label to GA";
        errs.at("nodeAffinity").invalid(spec.at("nodeAffinity").value.clone(), why);
    }
}

struct Claims;

impl Strategy for Claims {
    fn returns_deleted(&self) -> bool {
        true
    }

    fn default(&self, new: &mut Value, _: &HookCx<'_>) {
        mirror_sources(new);
    }

    fn prepare(&self, new: &mut Value, old: Option<&Value>, _: &HookCx<'_>) {
        if old.is_none() {
            new["status"] = json!({"phase": "Pending"});
        }
    }

    fn validate(&self, new: &Value, old: Option<&Value>, cx: &HookCx<'_>, errs: &FieldErrors) {
        let claim = Field::root(new, errs);
        if matches!(cx.op, Op::Subresource(_)) {
            for (name, field) in claim.at("status").entries("capacity") {
                resources::value(name, &field);
            }
            return;
        }
        let spec = claim.at("spec");
        claims::spec(&spec);
        if let Some(old) = old {
            claim_update(&spec, new, old, errs);
        }
    }
}

/// `dataSource` and `dataSourceRef` say the same where only one of them is given.
fn mirror_sources(claim: &mut Value) {
    let (one, other) = ("/spec/dataSource", "/spec/dataSourceRef");
    match (claim.pointer(one).cloned(), claim.pointer(other).cloned()) {
        (Some(source), None) => {
            claim.set_at(other, source);
        }
        (None, Some(reference)) if reference.get("namespace").is_none_or(Value::is_null) => {
            claim.set_at(one, reference);
        }
        _ => {}
    }
}

/// A claim stays what it is; a bound one may grow, and change its attributes.
fn claim_update(spec: &Field<'_>, new: &Value, old: &Value, errs: &FieldErrors) {
    const STORAGE: &str = "/resources/requests/storage";
    let was = &old["spec"];
    let mut compared = spec.value.clone();
    if was.str_at("/volumeName").unwrap_or_default().is_empty() {
        compared.remove_at("/volumeName");
        if let Some(name) = was.get("volumeName") {
            compared["volumeName"] = name.clone();
        }
    }
    if was.get("storageClassName").is_none() && old.pointer(CLASS_ANNOTATION).is_none() {
        compared.remove_at("/storageClassName");
    }
    if new.str_at("/status/phase") == Some("Bound") {
        for field in [STORAGE, "/volumeAttributesClassName"] {
            match was.pointer(field) {
                Some(v) => compared.set_at(field, v.clone()),
                None => drop(compared.remove_at(field)),
            }
        }
    }
    if compared != *was {
        spec.errs.forbidden(
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
        );
    }
    let size = |v: &Value, at: &str| v.pointer(at).map_or(Quantity::units(0), amount);
    let (now, before) = (size(spec.value, STORAGE), size(was, STORAGE));
    let granted = size(old, "/status/capacity/storage");
    if now < before && (granted == Quantity::units(0) || now < granted) {
        spec.errs.at("resources").at("requests").at("storage").forbidden("field can not be less than status.capacity");
    }
    if spec.value.get("volumeMode") != was.get("volumeMode") {
        errs.at("volumeMode").invalid(spec.at("volumeMode").value.clone(), "field is immutable");
    }
}
