//! PersistentVolumes and PersistentVolumeClaims.

use serde_json::{Value, json};

use crate::api::meta::quantity::Quantity;
use crate::api::schema;
use crate::api::scheme::{Column, KindInfo, STATUS_ONLY};
use crate::api::value::ValueExt;
use crate::registry::Resource;
use crate::registry::errors::FieldErrors;
use crate::registry::strategy::{HookCx, Op, Strategy};
use crate::registry::validate::claims;
use crate::registry::validate::resources::amount;
use crate::registry::validate::{Field, persistent};
use crate::util::clock::rfc3339;

/// The class in an annotation, from before there was a field.
const CLASS_ANNOTATION: &str = "/metadata/annotations/volume.beta.kubernetes.io~1storage-class";

const VOLUME_COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Capacity", |v, _| storage(v, "/spec/capacity/storage")),
    Column::new("Access Modes", |v, _| access_modes(v, "/spec/accessModes")),
    Column::text("Reclaim Policy", "/spec/persistentVolumeReclaimPolicy"),
    Column::new("Status", |v, _| phase(v)),
    Column::new("Claim", |v, _| match v.get_at("/spec/claimRef") {
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
        bound(c, |c| c.get_at("/status/capacity/storage").map_or(Quantity::units(0), amount).to_string().into())
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
    object.get_at(at).map_or_else(String::new, |q| amount(q).to_string()).into()
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
                    new.get_at("/status/lastPhaseTransitionTime") == old.get_at("/status/lastPhaseTransitionTime");
                if moved {
                    new.set_at("/status/lastPhaseTransitionTime", rfc3339(cx.now));
                }
            }
            Some(_) => {}
        }
    }

    fn warnings(&self, new: &Value, _old: Option<&Value>, _: &HookCx<'_>) -> Vec<String> {
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
        persistent::spec(&spec, volume.at("metadata").text("name"));
        if let Some(old) = old {
            volume_update(&spec, old, errs);
        }
    }
}

/// Source, mode and node stay. A few secrets' references may be added later.
fn volume_update(spec: &Field<'_>, old: &Value, errs: &FieldErrors) {
    if persistent::source_differs(spec.value, &old["spec"]) {
        spec.errs.at("persistentvolumesource").forbidden("spec.persistentvolumesource is immutable after creation");
    }
    let (mode, was) = (spec.value.get("volumeMode"), old.get_at("/spec/volumeMode"));
    if mode != was {
        errs.at("volumeMode").invalid(spec.at("volumeMode").value.clone(), "field is immutable");
    }
    if let Some(was) = old.get_at("/spec/nodeAffinity")
        && !persistent::same_nodes(spec.at("nodeAffinity").value, was)
    {
        let why = "field is immutable, except for updating from beta label to GA";
        errs.at("nodeAffinity").invalid(spec.at("nodeAffinity").value.clone(), why);
    }
    if old.get_at("/spec/volumeAttributesClassName").is_some() && !spec.has("volumeAttributesClassName") {
        spec.errs.at("volumeAttributesClassName").forbidden("update from non-nil value to nil is forbidden");
    }
}

struct Claims;

impl Strategy for Claims {
    fn returns_deleted(&self) -> bool {
        true
    }

    fn default(&self, new: &mut Value, cx: &HookCx<'_>) {
        if cx.op == Op::Create {
            drop_odd_source(new);
        }
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
            return claims::status(&claim);
        }
        let spec = claim.at("spec");
        claims::spec(&spec);
        if let Some(old) = old {
            claim_update(&spec, new, old, errs);
        }
    }
}

/// Of old, `dataSource` was dropped where it named neither a claim nor a snapshot; `dataSourceRef` is checked instead.
fn drop_odd_source(claim: &mut Value) {
    let Some(source) = claim.get_at("/spec/dataSource") else { return };
    let of = (source.str_at("/apiGroup").unwrap_or_default(), source.str_at("/kind").unwrap_or_default());
    if !matches!(of, ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")) {
        claim.remove_at("/spec/dataSource");
    }
}

/// `dataSource` and `dataSourceRef` say the same where only one of them is given.
fn mirror_sources(claim: &mut Value) {
    let (one, other) = ("/spec/dataSource", "/spec/dataSourceRef");
    match (claim.get_at(one).cloned(), claim.get_at(other).cloned()) {
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
    const ATTRIBUTES: &str = "/volumeAttributesClassName";
    let was = &old["spec"];
    let mut compared = spec.value.clone();
    if was.str_at("/volumeName").unwrap_or_default().is_empty() {
        compared.remove_at("/volumeName");
        if let Some(name) = was.get("volumeName") {
            compared["volumeName"] = name.clone();
        }
    }
    class_update(spec, &mut compared, new, old, errs);
    let bound = new.str_at("/status/phase") == Some("Bound");
    for field in [STORAGE, ATTRIBUTES] {
        if !bound || compared.get_at(field).is_none() {
            continue;
        }
        match was.get_at(field) {
            Some(v) => compared.set_at(field, v.clone()),
            None => drop(compared.remove_at(field)),
        }
    }
    if !schema::equal_as("core.v1.PersistentVolumeClaimSpec", &compared, was) {
        spec.errs.forbidden(
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
        );
    }
    let size = |v: &Value, at: &str| v.get_at(at).map_or(Quantity::units(0), amount);
    let (now, before) = (size(spec.value, STORAGE), size(was, STORAGE));
    if now < before && now <= size(old, "/status/capacity/storage") {
        spec.errs.at("resources").at("requests").at("storage").forbidden("field can not be less than status.capacity");
    }
    if spec.value.get("volumeMode") != was.get("volumeMode") {
        errs.at("volumeMode").invalid(spec.at("volumeMode").value.clone(), "field is immutable");
    }
}

/// A class may be named later, and may move from its old annotation to its field.
fn class_update(spec: &Field<'_>, compared: &mut Value, new: &Value, old: &Value, errs: &FieldErrors) {
    let (is, was) = (new.str_at(CLASS_ANNOTATION), old.str_at(CLASS_ANNOTATION));
    let named = spec.has("storageClassName") && old.get_at("/spec/storageClassName").is_none();
    let as_before = was.is_none_or(|was| was == spec.text("storageClassName"));
    let moves = named && was.is_some() && as_before && (is.is_none() || is == was);
    if !moves && is.unwrap_or_default() != was.unwrap_or_default() {
        errs.at("metadata")
            .at("annotations")
            .at("volume.beta.kubernetes.io/storage-class")
            .invalid(is.unwrap_or_default(), "field is immutable");
    }
    if named && as_before {
        compared.remove_at("/storageClassName");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case(json!({"kind": "PersistentVolumeClaim", "name": "a"}), true; "a claim")]
    #[test_case(json!({"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "a"}), true; "a snapshot")]
    #[test_case(json!({"apiGroup": "", "kind": "VolumeSnapshot", "name": "a"}), false; "of no group")]
    #[test_case(json!({"apiGroup": "example.com", "kind": "X", "name": "a"}), false; "anything else")]
    fn sources(source: Value, kept: bool) {
        let mut claim = json!({"spec": {"dataSource": source}});
        drop_odd_source(&mut claim);
        assert_eq!(claim.pointer("/spec/dataSource").is_some(), kept);
    }
}
