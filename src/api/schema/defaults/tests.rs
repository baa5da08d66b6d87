use super::*;
use crate::api::schema::canonicalize;
use serde_json::json;
use test_case::test_case;

/// Canonical, defaulted, in order: what the server makes of a body before its hooks.
fn prepared(value: Value) -> Value {
    let api_version = value["apiVersion"].as_str().unwrap().to_owned();
    let (group, version) = crate::api::meta::gvk::split(&api_version);
    let def = table().kind(group, version, value["kind"].as_str().unwrap()).unwrap();
    let mut value = canonicalize(value, def).unwrap().value;
    apply(&mut value, def);
    canonicalize(value, def).unwrap().value
}

#[test]
fn rows_name_structs_and_fields_of_the_table() {
    for row in rows::ROWS {
        for name in row.structs {
            let def = table().by_name(name).unwrap_or_else(|| panic!("no struct {name}"));
            for (field, _) in row.fields {
                assert!(def.field(field).is_some(), "{name} has no {field}");
            }
        }
    }
    for hook in hooks::HOOKS.iter().chain(hooks_core::HOOKS) {
        assert!(hook.structs.iter().all(|name| table().by_name(name).is_some()), "{:?}", hook.structs);
    }
}

/// What the published schema calls a default is a default here, where the server applies it.
#[test]
fn the_schemas_defaults_are_applied() {
    for def in table().structs() {
        for field in def.fields() {
            let (Some(want), "core.v1") = (field.real_default(), def.package()) else { continue };
            let mut value = json!({});
            apply(&mut value, def);
            assert_eq!(value[field.json], want, "{}.{}", def.name, field.json);
        }
    }
}

#[test_case(json!({"apiVersion": "v1", "kind": "Service", "spec": {"ports": [{"port": 80}]}}), "/spec",
    json!({"ports": [{"protocol": "TCP", "port": 80, "targetPort": 80}], "type": "ClusterIP", "sessionAffinity": "None",
           "internalTrafficPolicy": "Cluster"}); "a service")]
#[test_case(json!({"apiVersion": "v1", "kind": "Secret", "data": {"a": "eA=="}, "stringData": {"b": "y", "a": "z"}}), "/data",
    json!({"a": "eg==", "b": "eQ=="}); "string data wins")]
#[test_case(json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "spec": {"podSelector": {}, "egress": [{}]}}),
    "/spec/policyTypes", json!(["Ingress", "Egress"]); "policy types")]
#[test_case(json!({"apiVersion": "batch/v1", "kind": "Job", "spec": {"parallelism": 3, "template": {"spec": {}}}}), "/spec/completions",
    json!(null); "a work queue has no completions")]
#[test_case(json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"strategy": {"type": "Recreate"}}}), "/spec/strategy",
    json!({"type": "Recreate"}); "recreate has no rolling update")]
#[test_case(json!({"apiVersion": "v1", "kind": "Service", "spec": {"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 1}}}}),
    "/spec/sessionAffinityConfig", json!(null); "no affinity, no configuration of it")]
#[test_case(json!({"apiVersion": "v1", "kind": "Pod", "spec": {"volumes": [{"name": "v", "image": {"reference": "a/b:v1"}}]}}),
    "/spec/volumes/0/image/pullPolicy", json!("IfNotPresent"); "a volume's image")]
#[test_case(json!({"apiVersion": "batch/v1", "kind": "Job", "spec": {"podFailurePolicy": {"rules": [{"onPodConditions":
    [{"type": "x", "status": ""}]}]}}}), "/spec/podFailurePolicy/rules/0/onPodConditions/0/status", json!("True"); "empty is unset")]
fn defaults(value: Value, at: &str, want: Value) {
    assert_eq!(prepared(value).pointer(at).cloned().unwrap_or_default(), want);
}

#[test]
fn defaulting_twice_changes_nothing() {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"hostNetwork": true, "volumes": [{"name": "v"}],
        "containers": [{"name": "a", "image": "x", "ports": [{"containerPort": 1}], "resources": {"limits": {"cpu": "1"}},
                        "livenessProbe": {"httpGet": {"port": 1}}}]}});
    let once = prepared(pod);
    assert_eq!(
        once["spec"]["containers"][0]["ports"][0],
        json!({"hostPort": 1, "containerPort": 1, "protocol": "TCP"})
    );
    assert_eq!(once["spec"]["containers"][0]["resources"]["requests"], json!({"cpu": "1"}));
    assert_eq!(prepared(once.clone()), once);
}

/// Compares with recorded answers of upstream, where `ORCH_ORACLE` names their directory: every field that upstream
/// answered and every one that we add must agree, but for what the server itself sets.
#[test]
fn agrees_with_recorded_answers() {
    let Some(dir) = std::env::var_os("ORCH_ORACLE").map(std::path::PathBuf::from) else { return };
    let mut samples = Map::new();
    for entry in std::fs::read_dir(dir.join("samples")).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        // Not ours: the recorder read `y` as a text.
        let document: Map<String, Value> = serde_yaml::from_str(&text).unwrap();
        samples.extend(document);
    }
    let text = std::fs::read_to_string(dir.join("answers.jsonl")).unwrap();
    let (mut compared, mut wrong) = (0, Vec::new());
    for line in text.lines().filter(|l| l.contains("\"defaults/")) {
        let recorded: Value = serde_json::from_str(line).unwrap();
        let Some(name) = recorded["name"].as_str().unwrap().strip_prefix("defaults/") else { continue };
        let answers = recorded["answers"].as_array().unwrap();
        let made = answers.iter().find(|a| a["code"] == 201 && a["body"]["metadata"].is_object());
        let (Some(made), Some(sample)) = (made, samples.get(name)) else { continue };
        compared += 1;
        let mut differences = Vec::new();
        differ("", &prepared(sample.clone()), &made["body"], &mut differences);
        wrong.extend(differences.into_iter().map(|d| format!("{name}: {d}")).filter(|d| !set_by_the_server(d)));
    }
    assert!(compared > 100, "only {compared} samples compared");
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}

fn differ(at: &str, ours: &Value, theirs: &Value, out: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))) {
                let none = Value::String("<absent>".into());
                differ(&format!("{at}/{key}"), a.get(key).unwrap_or(&none), b.get(key).unwrap_or(&none), out);
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                differ(&format!("{at}/{i}"), a, b, out);
            }
            if a.len() != b.len() {
                out.push(format!("{at}: ours {ours} theirs {theirs}"));
            }
        }
        (a, b) if a == b => {}
        (_, Value::String(text)) if text.contains('<') && text.contains('>') && text != "<absent>" => {}
        (Value::String(a), Value::String(b)) if a.replace("{uniq}", "") == b.replace("{uniq}", "") => {}
        _ => out.push(format!("{at}: ours {ours} theirs {theirs}")),
    }
}

/// Strategies, admission and allocators set or drop these, not defaulting.
fn set_by_the_server(difference: &str) -> bool {
    // A list with `$`: it got more elements; those that were sent are compared.
    const ANY: &[&str] = &["/metadata/", "/status"];
    const POD: &[&str] = &[
        "/volumeMounts$",
        "/spec/volumes$",
        "/spec/tolerations$",
        "/spec/priority",
        "/spec/preemptionPolicy",
        "/spec/serviceAccount",
        "/stopSignal",
        "/matchExpressions$",
    ];
    const BY_SAMPLE: &[(&str, &[&str])] = &[
        ("pod-", POD),
        ("pod-volumes-core", &["/clusterTrustBundle"]),
        // Read as a number by the YAML 1.2 of this test.
        ("pod-resources", &["/spec/containers/2/resources/requests/memory"]),
        ("job-", &["/spec/template/metadata/labels", "/spec/selector"]),
        ("csr", &["/spec/groups", "/spec/username"]),
        ("service-", &["/spec/clusterIPs", "/spec/ipFamilies", "/spec/ipFamilyPolicy"]),
        ("persistentvolumeclaim-", &["/spec/dataSource"]),
        ("endpointslice", &["/deprecatedTopology"]),
        ("namespace", &["/spec/finalizers"]),
        ("node", &["/spec/taints$"]),
    ];
    let (sample, rest) = difference.split_once(": ").unwrap();
    let (path, _) = rest.split_once(": ").unwrap();
    let named = BY_SAMPLE.iter().filter(|(s, _)| sample.starts_with(s)).flat_map(|(_, paths)| paths.iter());
    let is = |p: &&&str| p.strip_suffix('$').map_or_else(|| path.contains(**p), |list| path.ends_with(list));
    ANY.iter().any(|p| path.starts_with(p)) || named.into_iter().any(|p| is(&p))
}
