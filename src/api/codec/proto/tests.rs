use super::*;
use crate::api::schema::{Type, canonicalize, table};
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

/// Objects and the bytes that upstream's Go types give for them. `ORCH_PROTO` names a longer file of the same form.
#[test]
fn the_bytes_are_upstreams() {
    let longer = std::env::var_os("ORCH_PROTO").map(|path| std::fs::read_to_string(path).unwrap());
    let text = longer.unwrap_or_else(|| include_str!("fixtures.jsonl").to_owned());
    let mut wrong = Vec::new();
    for line in text.lines() {
        let fixture: Value = serde_json::from_str(line).unwrap();
        let object = &fixture["object"];
        let def = def(object);
        let value = canonicalize(object.clone(), def).unwrap().value;
        let hex: String = encode(&value, def).iter().map(|b| format!("{b:02x}")).collect();
        if hex != fixture["hex"].as_str().unwrap() {
            wrong.push(format!("{object}\n  ours {hex}\n  want {}", fixture["hex"]));
            continue;
        }
        let bytes = encode(&value, def);
        let back = canonicalize(decode(&open(&bytes).unwrap(), def).unwrap(), def).unwrap();
        assert_eq!(encode(&back.value, def), bytes);
    }
    assert!(text.lines().count() > 10 && wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Makes values of any type of the table from a seed.
struct Maker(u64);

impl Maker {
    fn next(&mut self, below: u64) -> u64 {
        // xorshift64
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }

    fn of_struct(&mut self, def: &'static StructDef, depth: u32) -> Value {
        let mut members = Map::new();
        for field in def.fields() {
            // Nested objects lose kind and apiVersion in protobuf, which have no number.
            if field.pb != 0 && depth < 7 && self.next(u64::from(depth) + 2) == 0 {
                let value = self.of_type(&field.ty, depth);
                // An empty list is nothing in protobuf, also where JSON can tell it from none.
                if !(field.keeps_empty && value == json!([])) {
                    members.insert(field.json.into(), value);
                }
            }
        }
        Value::Object(members)
    }

    fn of_type(&mut self, ty: &'static Type, depth: u32) -> Value {
        let text = ["", "a", "x-y", "é\n", "0"][self.next(5) as usize];
        let small = self.next(7) as i64 - 3;
        match ty {
            Type::String => text.into(),
            Type::Bool => (small > 0).into(),
            Type::Int32 => small.into(),
            Type::Int64 => (small << 40).into(),
            Type::Float => [json!(0.5), json!(-3), json!(1e300)][self.next(3) as usize].clone(),
            Type::Bytes => ["", "AA==", "AAEC"][self.next(3) as usize].into(),
            Type::Quantity => ["0", "500m", "1Gi", "1e3"][self.next(4) as usize].into(),
            Type::IntOrString => [json!(small), json!(text)][self.next(2) as usize].clone(),
            Type::Time => "2026-01-02T03:04:05Z".into(),
            Type::MicroTime => "2026-01-02T03:04:05.000120Z".into(),
            Type::Duration => ["0s", "1m30s", "-100ms"][self.next(3) as usize].into(),
            Type::FieldsV1 | Type::RawExtension | Type::Json => json!({"k": [small, null, {"t": text}]}),
            Type::Items => json!([text, "b"]),
            Type::Schema(_) if self.next(2) == 0 => {
                self.of_struct(table().by_name("apiextensions.v1.JSONSchemaProps").unwrap(), depth + 1)
            }
            Type::Schema(crate::api::schema::SchemaOr::Bool) => (small > 0).into(),
            Type::Schema(crate::api::schema::SchemaOr::Strings) => json!([text]),
            Type::Schema(crate::api::schema::SchemaOr::Array) => json!([{"type": "string"}]),
            Type::Struct(def) => self.of_struct(def, depth + 1),
            Type::List(element) => (0..self.next(3)).map(|_| self.of_type(element, depth + 1)).collect(),
            Type::Map(element) => {
                let keys = (0..self.next(3)).map(|i| format!("k{i}"));
                keys.map(|key| (key, self.of_type(element, depth + 1))).collect::<Map<_, _>>().into()
            }
        }
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() })]

    /// Every kind that protobuf carries survives both ways, and canonicalizing is idempotent.
    #[test]
    fn every_kind_comes_back(seed in 1u64..) {
        let mut maker = Maker(seed);
        // Kinds of JSON only have fields without a number.
        let kinds = table().structs().iter().filter(|d| d.kind && d.fields()[2..].iter().all(|f| f.pb != 0));
        for def in kinds {
            let mut value = maker.of_struct(def, 0);
            value["kind"] = def.short_name().into();
            value["apiVersion"] = "v1".into();
            let value = canonicalize(value, def).unwrap().value;
            proptest::prop_assert_eq!(&canonicalize(value.clone(), def).unwrap().value, &value);
            let bytes = encode(&value, def);
            let back = canonicalize(decode(&open(&bytes).unwrap(), def).unwrap(), def).unwrap();
            proptest::prop_assert_eq!(back.value.to_string(), value.to_string(), "{}", def.name);
        }
    }
}

/// A body within a body within a body: raw content may be a whole protobuf body, whose raw content may be one.
#[test]
fn bodies_within_bodies_have_an_end() {
    let mut body = b"{}".to_vec();
    for _ in 0..500 {
        body = seal("apps/v1", "ControllerRevision", |w| w.message(2, |w| w.bytes(1, &body)));
    }
    let def = table().kind("apps", "v1", "ControllerRevision").unwrap();
    assert_eq!(decode(&open(&body).unwrap(), def), Err(ProtoError::Depth));
}

/// Each schema is a level of its own and one of the map that it stands in: what is stored must be readable as JSON.
#[test]
fn nesting_counts_as_in_json() {
    let nested = |n: usize| (0..n).fold(json!({"type": "string"}), |s, _| json!({"properties": {"p": s}}));
    let crd = |n: usize| {
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "spec": {"versions": [{"schema": {"openAPIV3Schema": nested(n)}}]}})
    };
    let decoded = |n: usize| {
        let def = def(&crd(n));
        decode(&open(&encode(&crd(n), def)).unwrap(), def).map(drop)
    };
    assert_eq!((decoded(40), decoded(70)), (Ok(()), Err(ProtoError::Depth)));
}
