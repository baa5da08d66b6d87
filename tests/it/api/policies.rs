//! Admission policies, the conditions of webhooks and the rules of custom resources, through the whole API.
//!
//! Conformance, [sig-api-machinery]: "ValidatingAdmissionPolicy should allow expressions to refer variables",
//! "ValidatingAdmissionPolicy should validate against a Deployment",
//! "MutatingAdmissionPolicy should support MutatingAdmissionPolicy API operations", "MutatingAdmissionPolicy should mutate a
//! Deployment", "MutatingAdmissionPolicy should mutate a Deployment with annotations", "AdmissionWebhook should reject validating
//! webhook configurations with invalid match conditions".

use test_case::test_case;

use super::*;

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";

impl Server {
    /// A policy named `p` for ConfigMaps and its binding, with `spec` and `binding` over what both need.
    pub(super) async fn policy(&self, kind: &str, spec: Value, binding: Value) {
        let rule = json!({"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE", "DELETE"],
            "resources": ["configmaps"]});
        let mut policy = json!({"metadata": {"name": "p"}, "spec": {"matchConstraints": {"resourceRules": [rule]}}});
        if kind == "mutating" {
            policy["spec"]["matchConstraints"]["resourceRules"][0]["operations"] = json!(["CREATE", "UPDATE"]);
            policy["spec"]["reinvocationPolicy"] = "Never".into();
        }
        let mut bound = json!({"metadata": {"name": "b"}, "spec": {"policyName": "p"}});
        for (object, more) in [(&mut policy, spec), (&mut bound, binding)] {
            object["spec"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        }
        self.post(&format!("{GROUP}/{kind}admissionpolicies"), policy).await.is(201);
        self.post(&format!("{GROUP}/{kind}admissionpolicybindings"), bound).await.is(201);
    }
}

fn deny() -> Value {
    json!({"validationActions": ["Deny"]})
}

#[test_case(json!({"validations": [{"expression": "object.metadata.name != 'm'", "message": "no"}]}), 422,
    "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no"; "a message")]
#[test_case(json!({"validations": [{"expression": "request.userInfo.username != 'admin'", "reason": "Forbidden"}]}), 403,
    "failed expression: request.userInfo.username != 'admin'"; "a reason, and who asks")]
#[test_case(json!({"variables": [{"name": "n", "expression": "int(object.data.n)"}, {"name": "m", "expression": "variables.n + 1"}],
    "validations": [{"expression": "variables.m < 5", "messageExpression": "'m is ' + string(variables.m)"}]}), 422,
    "m is 6"; "variables of variables")]
#[test_case(json!({"validations": [{"expression": "object.data.zz == 'x'"}]}), 422,
    "expression 'object.data.zz == 'x'' resulted in error: no such key: zz"; "what cannot be told is refused")]
#[test_case(json!({"failurePolicy": "Ignore", "validations": [{"expression": "object.data.zz == 'x'"}]}), 201, "";
    "or ignored")]
#[test_case(json!({"matchConditions": [{"name": "c", "expression": "has(object.metadata.labels)"}],
    "validations": [{"expression": "false"}]}), 201, ""; "a condition that does not hold")]
#[test_case(json!({"validations": [{"expression": "namespaceObject.metadata.name == 'n' && request.namespace == 'n'"}]}), 201, "";
    "the namespace")]
#[test_case(json!({"validations": [{"expression":
    "authorizer.group('').resource('secrets').namespace('n').check('get').allowed() && authorizer.requestResource.check('create').allowed()"}]}),
    201, ""; "the authorizer")]
#[test_case(json!({"validations": [{"expression":
    "!authorizer.serviceAccount('n', 'default').group('').resource('secrets').namespace('n').check('get').allowed()"}]}),
    201, ""; "the authorizer about somebody else")]
#[tokio::test]
async fn a_validating_policy(spec: Value, code: u16, message: &str) {
    let server = Server::new().await;
    server.policy("validating", spec, deny()).await;
    let got = server.post(MAPS, json!({"metadata": {"name": "m"}, "data": {"n": "5"}})).await;
    let said = got.is(code);
    assert!(said["message"].as_str().unwrap_or_default().ends_with(message), "{said}");
}

#[tokio::test]
async fn a_policy_warns_and_lets_go_on() {
    let server = Server::new().await;
    let spec = json!({"validations": [{"expression": "false", "message": "careful"}]});
    server.policy("validating", spec, json!({"validationActions": ["Warn", "Audit"]})).await;
    let got = server.post(MAPS, json!({"metadata": {"name": "m"}})).await;
    got.is(201);
    assert_eq!(got.warnings, 1);
}

#[tokio::test]
async fn a_policy_sees_old_objects_and_deletions() {
    let server = Server::new().await;
    server.post(MAPS, json!({"metadata": {"name": "m"}, "data": {"a": "1"}})).await.is(201);
    let spec = json!({"validations": [
        {"expression": "request.operation != 'UPDATE' || object.data.a == oldObject.data.a", "message": "a is fixed"},
        {"expression": "request.operation != 'DELETE' || object == null && oldObject.data.a != '1'", "message": "keep it"}]});
    server.policy("validating", spec, deny()).await;
    let path = format!("{MAPS}/m");
    let merge = "application/merge-patch+json";
    server.patch(&path, merge, json!({"data": {"b": "2"}})).await.is(200);
    server.patch(&path, merge, json!({"data": {"a": "2"}})).await.is(422);
    server.delete(&path, json!({})).await.is(422);
}

#[test_case(json!({"name": "limits", "parameterNotFoundAction": "Deny"}), &[("2", 201), ("9", 422)]; "by name")]
#[test_case(json!({"selector": {"matchLabels": {"limits": "yes"}}, "parameterNotFoundAction": "Deny"}), &[("2", 201), ("9", 422)];
    "by labels")]
#[test_case(json!({"name": "none", "parameterNotFoundAction": "Deny"}), &[("2", 422)]; "none, denied")]
#[test_case(json!({"name": "none", "parameterNotFoundAction": "Allow"}), &[("9", 201)]; "none, allowed")]
#[tokio::test]
async fn parameters(param: Value, want: &[(&str, u16)]) {
    let server = Server::new().await;
    let limits = json!({"metadata": {"name": "limits", "labels": {"limits": "yes"}}, "data": {"max": "5"}});
    server.post(MAPS, limits).await.is(201);
    let spec = json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "validations": [{"expression": "int(object.data.n) <= int(params.data.max)"}]});
    server.policy("validating", spec, json!({"validationActions": ["Deny"], "paramRef": param})).await;
    for (n, code) in want {
        server
            .post(&format!("{MAPS}?dryRun=All"), json!({"metadata": {"name": "m"}, "data": {"n": n}}))
            .await
            .is(*code);
    }
}

#[test_case(json!({"patchType": "JSONPatch", "jsonPatch": {"expression":
    "[JSONPatch{op: 'add', path: '/metadata/annotations/' + jsonpatch.escapeKey('a/b'), value: object.metadata.name}]"}}),
    json!([{"x": "y", "a/b": "m"}, {"k": "v"}]); "operations")]
#[test_case(json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression":
    "Object{data: Object.data{more: 'x'}}"}}), json!([{"x": "y"}, {"k": "v", "more": "x"}]); "a part of the object")]
#[tokio::test]
async fn a_mutating_policy(mutation: Value, want: Value) {
    let server = Server::new().await;
    server.policy("mutating", json!({"mutations": [mutation]}), json!({})).await;
    let map = json!({"metadata": {"name": "m", "annotations": {"x": "y"}}, "data": {"k": "v"}});
    let made = server.post(MAPS, map).await.is(201);
    assert_eq!(json!([made["metadata"]["annotations"], made["data"]]), want);
}

#[tokio::test]
async fn a_mutating_policy_cannot_rename() {
    let server = Server::new().await;
    let expression = "[JSONPatch{op: 'replace', path: '/metadata/name', value: 'other'}]";
    let mutation = json!({"patchType": "JSONPatch", "jsonPatch": {"expression": expression}});
    server.policy("mutating", json!({"mutations": [mutation]}), json!({})).await;
    server.post(MAPS, json!({"metadata": {"name": "m"}})).await.is(422);
}

/// A rule for the resource of a group in one version.
fn rule(group: &str, version: &str, resource: &str) -> Value {
    json!({"resourceRules": [{"apiGroups": [group], "apiVersions": [version], "operations": ["CREATE", "UPDATE"],
        "resources": [resource]}]})
}

const SCALERS: &str = "/apis/autoscaling/v1/namespaces/n/horizontalpodautoscalers";

fn scaler() -> Value {
    json!({"metadata": {"name": "s"}, "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 50,
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}})
}

#[test_case("Equivalent", "object.spec.metrics[0].resource.target.averageUtilization > 60", 422; "in the version that it names")]
#[test_case("Equivalent", "request.kind.version == 'v2' && request.requestKind.version == 'v1' && object.apiVersion == 'autoscaling/v2'", 201; "and knows the other")]
#[test_case("Exact", "false", 201; "or is not asked")]
#[tokio::test]
async fn a_policy_sees_the_same_object_of_another_version(matching: &str, expression: &str, code: u16) {
    let server = Server::new().await;
    let mut constraints = rule("autoscaling", "v2", "horizontalpodautoscalers");
    constraints["matchPolicy"] = matching.into();
    let spec = json!({"matchConstraints": constraints, "validations": [{"expression": expression}]});
    server.policy("validating", spec, deny()).await;
    server.post(SCALERS, scaler()).await.is(code);
}

#[tokio::test]
async fn a_mutation_of_another_version_comes_back_in_this_one() {
    let server = Server::new().await;
    let expression =
        "[JSONPatch{op: 'replace', path: '/spec/metrics/0/resource/target/averageUtilization', value: 70}]";
    let mutation = json!({"patchType": "JSONPatch", "jsonPatch": {"expression": expression}});
    let constraints = rule("autoscaling", "v2", "horizontalpodautoscalers");
    server.policy("mutating", json!({"matchConstraints": constraints, "mutations": [mutation]}), json!({})).await;
    let made = server.post(SCALERS, scaler()).await.is(201);
    assert_eq!(
        json!([made["apiVersion"], made["spec"]["targetCPUUtilizationPercentage"]]),
        json!(["autoscaling/v1", 70])
    );
}

#[test_case("Object{metadata: Object.metadata{annotations: {'mutated-by': 'admission-policy'}}}",
    json!({"annotations": "admission-policy", "replicas": 1}); "annotations")]
#[test_case("Object{spec: Object.spec{replicas: 1337}}", json!({"annotations": null, "replicas": 1337}); "replicas")]
#[tokio::test]
async fn a_deployment_is_changed(expression: &str, want: Value) {
    let server = Server::new().await;
    let mutation = json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}});
    let mut constraints = rule("apps", "v1", "deployments");
    constraints["namespaceSelector"] = json!({"matchLabels": {"kubernetes.io/metadata.name": "n"}});
    let spec = json!({"matchConstraints": constraints, "mutations": [mutation]});
    server.policy("mutating", spec, json!({"matchResources": {"namespaceSelector": {}}})).await;
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let spec = json!({"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": template});
    let body = json!({"metadata": {"name": "d"}, "spec": spec});
    let made = server.post("/apis/apps/v1/namespaces/n/deployments", body).await.is(201);
    let got =
        json!({"annotations": made["metadata"]["annotations"]["mutated-by"], "replicas": made["spec"]["replicas"]});
    assert_eq!(got, want);
}

#[test_case("Object{spec: Object.spec{tolerations: [Object.spec.tolerations{operator: 'Exists'}]}}", 422; "a list that has no keys")]
#[test_case("Object{metadata: Object.metadata{labels: Object.metadata.labels{a: 'b'}}}", 201; "a map")]
#[tokio::test]
async fn a_configuration_replaces_no_whole_lists(expression: &str, code: u16) {
    let server = Server::new().await;
    let mutation = json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}});
    let spec = json!({"matchConstraints": rule("", "v1", "pods"), "mutations": [mutation]});
    server.policy("mutating", spec, json!({})).await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    server.post("/api/v1/namespaces/n/pods", pod).await.is(code);
}

#[tokio::test]
async fn a_policy_is_told_what_its_expressions_get_wrong() {
    let server = Server::new().await;
    let spec = json!({"matchConstraints": rule("apps", "v1", "deployments"), "validations": [
        {"expression": "object.spec.replicas > '1'", "messageExpression": "'wants replicas > 1, got ' + object.spec.replicas"}]});
    server.policy("validating", spec, deny()).await;
    let path = format!("{GROUP}/validatingadmissionpolicies/p");
    let seen = |generation: i64| move |_: u16, policy: &Value| policy["status"]["observedGeneration"] == generation;
    server.until(&path, "is type checked", seen(1)).await;
    let policy = server.get(&path).await.is(200);
    let warnings = policy["status"]["typeChecking"]["expressionWarnings"].as_array().unwrap();
    let at: Vec<&str> = warnings.iter().filter_map(|w| w["fieldRef"].as_str()).collect();
    assert_eq!(at, ["spec.validations[0].expression", "spec.validations[0].messageExpression"]);
    let right = json!({"spec": {"validations": [{"expression": "object.spec.replicas > 1"}]}});
    server.patch(&path, MERGE, right).await.is(200);
    server.until(&path, "is type checked again", seen(2)).await;
    assert_eq!(server.get(&path).await.is(200)["status"]["typeChecking"], json!({}));
}

#[test_case("object.metadata.name == 'asked'", &[("m", 201), ("asked", 500)]; "that tells")]
#[test_case("object.zz == 1", &[("m", 403)]; "that cannot tell")]
#[tokio::test]
async fn a_webhook_with_a_condition(condition: &str, want: &[(&str, u16)]) {
    let server = Server::new().await;
    // Nobody listens there: whoever is asked about fails.
    let hook = json!({"name": "a.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"url": "https://127.0.0.1:1/"}, "matchConditions": [{"name": "c", "expression": condition}],
        "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]});
    let configuration = json!({"metadata": {"name": "w"}, "webhooks": [hook]});
    server.post(&format!("{GROUP}/validatingwebhookconfigurations"), configuration).await.is(201);
    for (name, code) in want {
        server.post(MAPS, json!({"metadata": {"name": name}})).await.is(*code);
    }
}

#[test_case(json!({"validations": [{"expression": "object.x +"}]}), "spec.validations[0].expression"; "syntax")]
#[test_case(json!({"validations": [{"expression": "1 + 1"}]}), "spec.validations[0].expression"; "no boolean")]
#[test_case(json!({"validations": [{"expression": "request.nope == ''"}]}), "spec.validations[0].expression"; "no such field")]
#[test_case(json!({"variables": [{"name": "v", "expression": "'x'"}], "validations": [{"expression": "variables.v > 1"}]}),
    "spec.validations[0].expression"; "the type of a variable")]
#[test_case(json!({"validations": [{"expression": "true", "messageExpression": "string(authorizer.path('/').check('get').allowed())"}]}),
    "spec.validations[0].messageExpression"; "messages do not ask the authorizer")]
#[tokio::test]
async fn what_does_not_compile_is_refused(spec: Value, field: &str) {
    let server = Server::new().await;
    let mut policy = json!({"metadata": {"name": "p"}, "spec": {"matchConstraints": {"resourceRules": [
        {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}]}}});
    policy["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    let said = server.post(&format!("{GROUP}/validatingadmissionpolicies"), policy).await.is(422);
    assert_eq!(said["details"]["causes"][0]["field"], field);
}
