//! The conformance behaviours of [sig-auth] as far as a server without nodes has them, each named by its test. What needs
//! a node (files in a container) is in `tests/e2e`; `kube-root-ca.crt` is in `controllers::namespace`.

use super::*;

const ACCOUNTS: &str = "/api/v1/namespaces/n/serviceaccounts";
const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

/// "[sig-auth] ServiceAccounts should create a serviceAccountToken and ensure a successful TokenReview"
#[tokio::test]
async fn a_token_is_made_and_reviewed() {
    let server = Server::new().await;
    let account = server.post(ACCOUNTS, json!({"metadata": {"name": "sa"}})).await.is(201);
    let made = server.post(&format!("{ACCOUNTS}/sa/token"), json!({"spec": {"expirationSeconds": 600}})).await.is(201);
    let token = made["status"]["token"].as_str().unwrap();
    assert!(!token.is_empty());
    let review = json!({"spec": {"token": token}});
    let told = server.post("/apis/authentication.k8s.io/v1/tokenreviews", review).await.is(201);
    let (status, user) = (&told["status"], &told["status"]["user"]);
    assert_eq!((&status["authenticated"], status.get("error")), (&json!(true), None));
    assert_eq!((&user["username"], &user["uid"]), (&json!("system:serviceaccount:n:sa"), &account["metadata"]["uid"]));
    let groups = json!(["system:serviceaccounts", "system:serviceaccounts:n", "system:authenticated"]);
    assert_eq!(user["groups"], groups);
    // Once the account is gone its token is nobody's.
    server.delete(&format!("{ACCOUNTS}/sa"), json!({})).await.is(200);
    let review = json!({"spec": {"token": token}});
    let told = server.post("/apis/authentication.k8s.io/v1/tokenreviews", review).await.is(201);
    assert_eq!(told["status"].get("authenticated"), None);
}

/// "[sig-auth] ServiceAccounts ServiceAccountIssuerDiscovery should support OIDC discovery of service account issuer"
#[tokio::test]
async fn a_token_verifies_against_the_published_keys() {
    let server = Server::new().await;
    let body = json!({"spec": {"audiences": ["oidc-discovery-test"]}});
    let made = server.post(&format!("{ACCOUNTS}/default/token"), body).await.is(201);
    let token = made["status"]["token"].as_str().unwrap();
    let discovery = server.get("/.well-known/openid-configuration").await.is(200);
    let place = discovery["jwks_uri"].as_str().unwrap();
    assert!(place.ends_with("/openid/v1/jwks"), "{place}");
    let keys = server.get_as("/openid/v1/jwks", "application/jwk-set+json").await;
    assert_eq!(keys.content_type, "application/jwk-set+json");
    let set: jsonwebtoken::jwk::JwkSet = serde_json::from_str(&keys.text).unwrap();
    let head = jsonwebtoken::decode_header(token).unwrap();
    let key = jsonwebtoken::DecodingKey::from_jwk(set.find(&head.kid.unwrap()).unwrap()).unwrap();
    let mut validation = jsonwebtoken::Validation::new(head.alg);
    validation.set_audience(&["oidc-discovery-test"]);
    validation.set_issuer(&[discovery["issuer"].as_str().unwrap()]);
    let claims = jsonwebtoken::decode::<Value>(token, &key, &validation).unwrap().claims;
    assert_eq!(claims["sub"], "system:serviceaccount:n:default");
    let supported = discovery["id_token_signing_alg_values_supported"].as_array().unwrap();
    assert!(supported.contains(&json!(format!("{:?}", head.alg))), "{supported:?}");
}

/// "[sig-auth] ServiceAccounts should allow opting out of API token automount", "[sig-auth] ServiceAccounts should mount an
/// API token into pods" (that it is asked for; the files are a node's)
#[tokio::test]
async fn tokens_are_mounted_unless_the_pod_or_else_the_account_says_no() {
    let server = Server::new().await;
    let choices = [("default", Value::Null), ("mount", json!(true)), ("nomount", json!(false))];
    for (name, automount) in &choices[1..] {
        let account = json!({"metadata": {"name": name}, "automountServiceAccountToken": automount});
        server.post(ACCOUNTS, account).await.is(201);
    }
    for (account, of_account) in &choices {
        for (suffix, of_pod) in [("unset", Value::Null), ("yes", json!(true)), ("no", json!(false))] {
            let mut pod = json!({
                "metadata": {"name": format!("{account}-{suffix}")},
                "spec": {"serviceAccountName": account, "containers": [{"name": "c", "image": "i"}]},
            });
            if !of_pod.is_null() {
                pod["spec"]["automountServiceAccountToken"] = of_pod.clone();
            }
            let made = server.post("/api/v1/namespaces/n/pods", pod).await.is(201);
            let mounts = made["spec"]["containers"][0]["volumeMounts"].as_array().cloned().unwrap_or_default();
            let mounted = mounts.iter().any(|m| m["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount");
            let wanted = of_pod.as_bool().or(of_account.as_bool()).unwrap_or(true);
            assert_eq!(mounted, wanted, "{account}-{suffix}");
        }
    }
}

/// "[sig-auth] ServiceAccounts should run through the lifecycle of a ServiceAccount", "[sig-auth] ServiceAccounts should
/// update a ServiceAccount"
#[tokio::test]
async fn an_account_lives_and_is_watched() {
    let server = Server::new().await;
    let body = json!({"metadata": {"name": "sa", "labels": {"static": "yes"}}});
    let made = server.post(ACCOUNTS, body).await.is(201);
    let patch = json!({"automountServiceAccountToken": false});
    server.patch(&format!("{ACCOUNTS}/sa"), "application/strategic-merge-patch+json", patch).await.is(200);
    let all = server.get("/api/v1/serviceaccounts?labelSelector=static%3Dyes").await.is(200);
    assert_eq!(
        (&all["items"][0]["automountServiceAccountToken"], all["items"].as_array().unwrap().len()),
        (&json!(false), 1)
    );
    let mut now = server.get(&format!("{ACCOUNTS}/sa")).await.is(200);
    now["automountServiceAccountToken"] = true.into();
    let updated = server.put(&format!("{ACCOUNTS}/sa"), now).await.is(200);
    assert_eq!(updated["automountServiceAccountToken"], true);
    server.delete(ACCOUNTS, json!({})).await.is(200);
    let since = made["metadata"]["resourceVersion"].as_str().unwrap();
    let watch = format!("{ACCOUNTS}?watch=1&timeoutSeconds=1&labelSelector=static&resourceVersion={since}");
    assert_eq!(server.get(&watch).await.events(), ["MODIFIED sa", "MODIFIED sa", "DELETED sa"]);
}

/// "[sig-auth] SubjectReview should support SubjectReview API operations"
#[tokio::test]
async fn reviews_say_what_impersonated_requests_find() {
    let server = Server::new().await;
    server.post(ACCOUNTS, json!({"metadata": {"name": "sa"}})).await.is(201);
    let user = "system:serviceaccount:n:sa";
    let asks = json!({"group": "", "verb": "list", "resource": "configmaps", "namespace": "n", "version": "v1"});
    let spec = json!({"resourceAttributes": asks, "user": user, "groups": ["system:authenticated"]});
    let group = "/apis/authorization.k8s.io/v1";
    let local = json!({"metadata": {"namespace": "n"}, "spec": spec});
    for granted in [false, true] {
        if granted {
            let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/n";
            let rules = json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}]);
            server.post(&format!("{rbac}/roles"), json!({"metadata": {"name": "r"}, "rules": rules})).await.is(201);
            let binding = json!({
                "metadata": {"name": "b"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
                "subjects": [{"kind": "ServiceAccount", "name": "sa", "namespace": "n"}],
            });
            server.post(&format!("{rbac}/rolebindings"), binding).await.is(201);
            server.until_allowed(spec.clone()).await;
        }
        let found = server.as_user(user, "GET", MAPS, Value::Null).await.code == 200;
        assert_eq!(found, granted);
        let review = server.post(&format!("{group}/subjectaccessreviews"), json!({"spec": spec})).await.is(201);
        assert_eq!(review["status"]["allowed"], granted);
        let path = format!("{group}/namespaces/n/localsubjectaccessreviews");
        let review = server.post(&path, local.clone()).await.is(201);
        assert_eq!(review["status"]["allowed"], granted);
    }
}

/// "[sig-auth] Certificates API [Privileged:ClusterAdmin] should support CSR API operations"
#[tokio::test]
async fn signing_requests_have_all_their_verbs() {
    let server = Server::new().await;
    let groups = server.get("/apis/certificates.k8s.io").await.is(200);
    assert!(groups["versions"].as_array().unwrap().iter().any(|v| v["version"] == "v1"));
    let list = server.get("/apis/certificates.k8s.io/v1").await.is(200);
    let verbs = |name: &str| {
        let resources = list["resources"].as_array().unwrap();
        let mut verbs = resources.iter().find(|r| r["name"] == name).unwrap()["verbs"].as_array().unwrap().clone();
        verbs.sort_by_key(Value::to_string);
        json!(verbs)
    };
    let all = json!(["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]);
    assert_eq!(verbs("certificatesigningrequests"), all);
    for part in ["approval", "status"] {
        assert_eq!(verbs(&format!("certificatesigningrequests/{part}")), json!(["get", "patch", "update"]));
    }

    let pair = rcgen::KeyPair::generate().unwrap();
    let pem = rcgen::CertificateParams::default().serialize_request(&pair).unwrap().pem().unwrap();
    let request = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, pem);
    let body = json!({
        "metadata": {"generateName": "e2e-example-csr-", "labels": {"t": "x"}},
        "spec": {"request": request, "signerName": "example.com/e2e", "expirationSeconds": 3600, "usages": ["digital signature"]},
    });
    let made = server.post(REQUESTS, body).await.is(201);
    let path = format!("{REQUESTS}/{}", made["metadata"]["name"].as_str().unwrap());
    assert_eq!(made["spec"]["username"], "admin");
    let since = made["metadata"]["resourceVersion"].as_str().unwrap();
    let labelled = server.patch(&path, MERGE, json!({"metadata": {"annotations": {"patched": "true"}}})).await.is(200);
    assert_eq!(labelled["metadata"]["annotations"]["patched"], "true");
    let mut updated = labelled.clone();
    updated["metadata"]["annotations"]["updated"] = "true".into();
    server.put(&path, updated).await.is(200);
    assert_eq!(server.get(&format!("{REQUESTS}?labelSelector=t")).await.names().len(), 1);

    let condition = |kind: &str| json!([{"type": kind, "status": "True", "reason": "R", "message": "set"}]);
    let approval = format!("{path}/approval");
    server.get(&approval).await.is(200);
    let approved =
        server.patch(&approval, MERGE, json!({"status": {"conditions": condition("ApprovalPatch")}})).await.is(200);
    assert_eq!(approved["status"]["conditions"][0]["type"], "ApprovalPatch");
    let mut approved = server.get(&approval).await.is(200);
    approved["status"]["conditions"] = condition("ApprovalUpdate");
    let approved = server.put(&approval, approved).await.is(200);
    assert_eq!(approved["status"]["conditions"][0]["type"], "ApprovalUpdate");
    let status = format!("{path}/status");
    server.get(&status).await.is(200);
    let conditions: Vec<Value> =
        [condition("ApprovalUpdate"), condition("StatusPatch")].iter().map(|c| c[0].clone()).collect();
    let patched = server.patch(&status, MERGE, json!({"status": {"conditions": conditions}})).await.is(200);
    assert_eq!(patched["status"]["conditions"][1]["type"], "StatusPatch");

    server.delete(&path, json!({})).await.is(200);
    server.get(&path).await.is(404);
    server.delete(&format!("{REQUESTS}?labelSelector=t"), json!({})).await.is(200);
    let watch = format!("{REQUESTS}?watch=1&timeoutSeconds=1&labelSelector=t&resourceVersion={since}");
    let events = server.get(&watch).await.events();
    assert!(events.len() >= 5 && events.last().unwrap().starts_with("DELETED"), "{events:?}");
}

/// Somebody who may be jane, and may list ConfigMaps as others, lists them as jane and does nothing else as her.
#[tokio::test]
async fn impersonation_is_constrained_to_deeds() {
    let server = Server::new().await;
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let grant = async |name: &str, user: &str, rules: Value| {
        server.post(&format!("{rbac}/clusterroles"), json!({"metadata": {"name": name}, "rules": rules})).await.is(201);
        let subject = json!([{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}]);
        let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name});
        let binding = json!({"metadata": {"name": name}, "roleRef": role, "subjects": subject});
        server.post(&format!("{rbac}/clusterrolebindings"), binding).await.is(201);
    };
    let rule = |group: &str, resource: &str, verb: &str| json!({"apiGroups": [group], "resources": [resource], "verbs": [verb]});
    grant("jane", "jane", json!([rule("", "configmaps", "*")])).await;
    let mut person = rule("authentication.k8s.io", "users", "impersonate:user-info");
    person["resourceNames"] = json!(["jane"]);
    grant("agent", "agent", json!([rule("", "configmaps", "impersonate-on:user-info:list"), person])).await;
    grant("old", "old", json!([rule("", "users", "impersonate")])).await;
    for (user, group, verb, resource) in [
        ("jane", "", "list", "configmaps"),
        ("agent", "authentication.k8s.io", "impersonate:user-info", "users"),
        ("old", "", "impersonate", "users"),
    ] {
        let asks = json!({"group": group, "verb": verb, "resource": resource, "name": "jane", "version": "v1"});
        server.until_allowed(json!({"resourceAttributes": asks, "user": user})).await;
    }
    let as_jane = async |user: &str, method: &str, path: &str, wish: &str| {
        // Who is already impersonated cannot impersonate: this is who asks.
        let service = InProcess::new(server.api.clone(), UserInfo::authenticated(user, &[]));
        let request = Request::builder().method(method).uri(path).header("impersonate-user", wish);
        let answer = service.clone().call(request.body(Full::new(Bytes::new())).unwrap()).await.unwrap();
        Got::read(answer).await
    };
    as_jane("agent", "GET", MAPS, "jane").await.is(200);
    let other_deed = as_jane("agent", "DELETE", &format!("{MAPS}/none"), "jane").await.is(403);
    let message = other_deed["message"].as_str().unwrap();
    assert!(message.contains("cannot impersonate-on:user-info:delete resource \"configmaps\""), "{message}");
    let other_person = as_jane("agent", "GET", MAPS, "joe").await.is(403);
    let message = other_person["message"].as_str().unwrap();
    assert!(message.contains("cannot impersonate:user-info resource \"users\""), "{message}");
    // Nodes and service accounts are no such people.
    as_jane("agent", "GET", MAPS, "system:node:n1").await.is(403);
    // The way that is not constrained is as it was: all that jane may, twice in a row.
    as_jane("old", "GET", MAPS, "jane").await.is(200);
    as_jane("old", "DELETE", &format!("{MAPS}/none"), "jane").await.is(404);
}
