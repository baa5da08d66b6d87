use super::*;
use crate::api::schema::{canonicalize, table};
use serde_json::json;

fn def(value: &Value) -> &'static StructDef {
    let (group, version) = crate::api::meta::gvk::split(value["apiVersion"].as_str().unwrap());
    table().kind(group, version, value["kind"].as_str().unwrap()).unwrap()
}

fn round_trip(value: Value) {
    let def = def(&value);
    let value = canonicalize(value, def).unwrap().value;
    let bytes = encode(&value, def);
    let envelope = open(&bytes).unwrap();
    let back = canonicalize(decode(&envelope, def).unwrap(), def).unwrap();
    assert_eq!(back.value.to_string(), value.to_string());
    assert!(back.unknown.is_empty(), "{:?}", back.unknown);
}

#[test]
fn what_every_special_type_is() {
    round_trip(json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "creationTimestamp": "2026-01-02T03:04:05Z", "labels": {"a": "b", "c": ""}, "managedFields": [
            {"manager": "m", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:x": {}}}, "time": "2026-01-02T03:04:05Z"}]},
        "spec": {"volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}, {"name": "w", "configMap": {"name": "c", "defaultMode": 0}}],
            "hostUsers": false, "terminationGracePeriodSeconds": 0, "securityContext": {"supplementalGroups": [1, -5]},
            "containers": [{"name": "c", "livenessProbe": {"httpGet": {"port": "web", "path": "/"}, "initialDelaySeconds": 3},
                            "readinessProbe": {"tcpSocket": {"port": 80}},
                            "resources": {"limits": {"cpu": "500m"}}, "env": [{"name": "E", "valueFrom": {"configMapKeyRef": {"name": "n", "key": "k"}}}]}],
            "ephemeralContainers": [{"name": "e", "targetContainerName": "c"}]}}));
    round_trip(json!({"apiVersion": "v1", "kind": "Secret", "data": {"a": "AAEC", "b": ""}, "immutable": false}));
    round_trip(json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "spec": {"holderIdentity": "h", "renewTime": "2026-01-02T03:04:05.000120Z", "leaseDurationSeconds": 40}}));
    round_trip(
        json!({"apiVersion": "apps/v1", "kind": "ControllerRevision", "data": {"z": 1, "a": [null]}, "revision": 3}),
    );
    round_trip(json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {"user": "u", "extra": {"k": ["a", "b"], "e": []}}}));
    round_trip(
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "spec": {"group": "g", "versions": [
        {"name": "v1", "served": true, "storage": false, "schema": {"openAPIV3Schema": {"type": "object", "maximum": 1.5, "default": {"a": 1},
            "additionalProperties": false, "items": {"type": "string"}, "enum": ["a", 1, null],
            "properties": {"p": {"additionalProperties": {"type": "integer"}, "items": [{"type": "string"}]}},
            "dependencies": {"a": ["b"], "c": {"type": "object"}}}}}]}}),
    );
    round_trip(json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound",
        "details": {"name": "x", "causes": [{"field": "f"}]}}));
    round_trip(
        json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "propagationPolicy": "Foreground",
        "preconditions": {"uid": "u"}, "dryRun": ["All"]}),
    );
    round_trip(json!({"apiVersion": "v1", "kind": "ConfigMapList", "metadata": {"resourceVersion": "5"}, "items": [
        {"metadata": {"name": "a"}, "data": {"k": "v"}}]}));
}

#[test]
fn watch_frames() {
    let pod = canonicalize(
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}),
        def(&json!({"apiVersion": "v1", "kind": "Pod"})),
    );
    let pod = pod.unwrap().value;
    let body = encode(&pod, def(&pod));
    let frame = watch_frame("ADDED", &body);
    assert_eq!(u32::from_be_bytes(frame[..4].try_into().unwrap()) as usize, frame.len() - 4);
    assert_eq!(read_watch_event(&frame[4..]).unwrap(), ("ADDED", &body[..]));
}

#[test]
fn broken_bytes_are_errors() {
    assert_eq!(open(b"{}"), Err(ProtoError::NoMagic));
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"a": "b"}}});
    let whole = encode(&pod, def(&pod));
    for end in 4..whole.len() {
        if let Ok(envelope) = open(&whole[..end]) {
            let _ = decode(&envelope, def(&pod));
        }
    }
    let envelope = open(&whole).unwrap();
    let cut = Envelope { raw: &envelope.raw[..envelope.raw.len() - 1], ..envelope };
    assert_eq!(decode(&cut, def(&pod)), Err(ProtoError::Truncated));
}

/// A schema nested deeper than any body may be.
#[test]
fn deep_messages_are_refused() {
    let mut raw = Vec::new();
    for _ in 0..10_000 {
        // JSONSchemaProps.not is field 28.
        let mut w = wire::Writer::new();
        w.bytes(28, &raw);
        raw = w.finish();
        if raw.len() > 200_000 {
            break;
        }
    }
    let def = table().by_name("apiextensions.v1.JSONSchemaProps").unwrap();
    let envelope = Envelope { raw: &raw, ..Envelope::default() };
    assert_eq!(decode(&envelope, def), Err(ProtoError::Depth));
}
