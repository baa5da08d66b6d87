//! Whose word counts: OpenID issuers, token and authorization webhooks, encryption at rest, over real services.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use orch::apiserver::auth::token_webhook;
use orch::store::sealed;

use super::services::Service;
use super::*;

const NODES: &str = "/api/v1/nodes";
const TTL: Duration = Duration::from_secs(60);

/// A key of an issuer: what signs, and its public half.
fn key() -> (EncodingKey, Value) {
    let pair = rcgen::KeyPair::generate().unwrap();
    let (x, y) = pair.public_key_raw()[1..].split_at(32);
    let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let jwk =
        json!({"kty": "EC", "crv": "P-256", "kid": "k", "alg": "ES256", "use": "sig", "x": part(x), "y": part(y)});
    (EncodingKey::from_ec_der(&pair.serialize_der()), jwk)
}

/// Binds a ClusterRole that may read nodes to a group or user.
async fn let_read_nodes(server: &Server, kind: &str, name: &str) {
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let rules = json!([{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list"]}]);
    server.post(&format!("{rbac}/clusterroles"), json!({"metadata": {"name": "nodes"}, "rules": rules})).await.is(201);
    let body = json!({
        "metadata": {"name": "nodes"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "nodes"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}],
    });
    server.post(&format!("{rbac}/clusterrolebindings"), body).await.is(201);
    let list = json!({"verb": "list", "resource": "nodes"});
    let who = if kind == "Group" { json!([name]) } else { json!([]) };
    server.until_allowed(json!({"user": name, "groups": who, "resourceAttributes": list})).await;
}

#[tokio::test]
async fn an_openid_issuer_is_believed_as_its_configuration_says_and_the_file_is_followed() {
    let (key, jwk) = key();
    let base = Arc::new(std::sync::OnceLock::<String>::new());
    let own = base.clone();
    let issuer = Service::start(Box::new(move |path, _| match path {
        "/.well-known/openid-configuration" => {
            let url = own.get().cloned().unwrap_or_default();
            (200, json!({"issuer": url, "jwks_uri": format!("{url}/keys")}))
        }
        _ => (200, json!({"keys": [jwk]})),
    }))
    .await;
    base.set(issuer.url.clone()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("authn.yaml");
    let config = |anonymous: Value| {
        json!({
            "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration", "anonymous": anonymous,
            "jwt": [{
                "issuer": {"url": issuer.url, "certificateAuthority": issuer.ca, "audiences": ["orch"]},
                "claimMappings": {
                    "username": {"expression": "'oidc:' + claims.sub"}, "groups": {"claim": "groups", "prefix": "oidc:"},
                    "extra": [{"key": "example.com/team", "valueExpression": "claims.team"}],
                },
                "userValidationRules": [{"expression": "user.username != 'oidc:root'", "message": "not you"}],
            }],
        })
    };
    std::fs::write(&file, config(json!({"enabled": true})).to_string()).unwrap();
    let access = Settings { authentication: Some(file.clone()), ..Settings::default() };
    let server = Server::with(Setup { access, ..Setup::default() }).await;
    let_read_nodes(&server, "Group", "oidc:ops").await;

    let now = SystemClock.now().as_second();
    let token = |sub: &str, seconds: i64| {
        let claims =
            json!({"iss": issuer.url, "aud": "orch", "sub": sub, "groups": ["ops"], "team": "x", "exp": now + seconds});
        jsonwebtoken::encode(&Header { kid: Some("k".into()), ..Header::new(Algorithm::ES256) }, &claims, &key).unwrap()
    };
    let jane = token("jane", 600);
    let nodes = server.outside("GET", NODES, Some(&jane), Value::Null).await;
    assert_eq!(nodes.names(), [] as [&str; 0]);
    server.outside("GET", MAPS, Some(&jane), Value::Null).await.is(403);
    for bad in [token("root", 600), token("jane", -1), format!("{jane}x")] {
        server.outside("GET", NODES, Some(&bad), Value::Null).await.is(401);
    }
    // A TokenReview tells the same.
    let review = json!({"spec": {"token": jane}});
    let told = server.post("/apis/authentication.k8s.io/v1/tokenreviews", review).await.is(201);
    assert_eq!(
        (&told["status"]["authenticated"], &told["status"]["user"]["username"]),
        (&json!(true), &json!("oidc:jane"))
    );
    assert_eq!(told["status"]["user"]["extra"]["example.com/team"], json!(["x"]));

    // Without credentials one comes as far as authorization; the file changes, and then only to one path.
    server.outside("GET", NODES, None, Value::Null).await.is(403);
    let conditions = json!({"enabled": true, "conditions": [{"path": "/livez"}]});
    std::fs::write(&file, config(conditions).to_string()).unwrap();
    let mut code = 403;
    let deadline = tokio::time::Instant::now() + TTL;
    while code != 401 && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
        code = server.outside("GET", NODES, None, Value::Null).await.code;
    }
    assert_eq!(code, 401);
    server.outside("GET", "/cacerts", None, Value::Null).await.is(403);
    assert_eq!(server.outside("GET", NODES, Some(&jane), Value::Null).await.code, 200);
}

#[tokio::test]
async fn tokens_are_told_of_by_a_webhook_and_its_answers_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let webhook = Service::start(Box::new(|path, review| {
        assert_eq!((path, &review["kind"]), ("/tokens", &json!("TokenReview")));
        let status = match review["spec"]["token"].as_str() {
            Some("jane's") => {
                json!({"authenticated": true, "user": {"username": "jane", "groups": ["ops"], "extra": {"k": ["v"]}}})
            }
            Some("broken") => return (500, json!({})),
            _ => json!({"authenticated": false}),
        };
        (200, json!({"apiVersion": review["apiVersion"], "kind": "TokenReview", "status": status}))
    }))
    .await;
    let file = webhook.kubeconfig(dir.path(), "tokens");
    let token_webhook = Some(token_webhook::Settings { file, version: "v1".into(), ttl: TTL });
    let server =
        Server::with(Setup { access: Settings { token_webhook, ..Settings::default() }, ..Setup::default() }).await;
    let_read_nodes(&server, "Group", "ops").await;
    for _ in 0..3 {
        server.outside("GET", NODES, Some("jane's"), Value::Null).await.is(200);
        server.outside("GET", NODES, Some("nobody's"), Value::Null).await.is(401);
    }
    assert_eq!(webhook.seen().len(), 2, "each was asked once");
    assert_eq!(webhook.seen()[0]["spec"]["audiences"], json!(["https://kubernetes.default.svc.cluster.local"]));
    server.outside("GET", NODES, Some("broken"), Value::Null).await.is(401);
    // Tokens of the cluster itself need no webhook.
    let made = server.post("/api/v1/namespaces/n/serviceaccounts/default/token", json!({"spec": {}})).await.is(201);
    let before = webhook.seen().len();
    server.outside("GET", NODES, made["status"]["token"].as_str(), Value::Null).await.is(403);
    assert_eq!(webhook.seen().len(), before);
}

/// The authorization webhook of the tests: `boss` may everything, `thief` nothing whatever his roles; it has no opinion of
/// others, and breaks for `chaos`.
async fn judge() -> Service {
    Service::start(Box::new(|path, review| {
        assert_eq!((path, &review["kind"]), ("/authz", &json!("SubjectAccessReview")));
        let status = match review["spec"]["user"].as_str() {
            Some("boss") => json!({"allowed": true, "reason": "the boss"}),
            Some("thief") => json!({"allowed": false, "denied": true, "reason": "a thief"}),
            Some("chaos") => return (400, json!({})),
            _ => json!({"allowed": false}),
        };
        (200, json!({"apiVersion": review["apiVersion"], "kind": "SubjectAccessReview", "status": status}))
    }))
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authorization_webhook_decides_where_its_conditions_hold() {
    let dir = tempfile::tempdir().unwrap();
    let webhook = judge().await;
    let config = json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthorizationConfiguration",
        "authorizers": [
            {"type": "Webhook", "name": "judge", "webhook": {
                "timeout": "5s", "authorizedTTL": "60s", "unauthorizedTTL": "60s", "subjectAccessReviewVersion": "v1",
                "matchConditionSubjectAccessReviewVersion": "v1", "failurePolicy": "Deny",
                "connectionInfo": {"type": "KubeConfigFile", "kubeConfigFile": webhook.kubeconfig(dir.path(), "authz")},
                "matchConditions": [{"expression": "has(request.resourceAttributes)"}, {"expression": "!('system:nodes' in request.groups)"}],
            }},
            {"type": "Node", "name": "node"}, {"type": "RBAC", "name": "rbac"},
        ],
    });
    let file = dir.path().join("authz.yaml");
    std::fs::write(&file, config.to_string()).unwrap();
    let access = Settings { authorization: Some(file), ..Settings::default() };
    let server = Server::with(Setup { access, ..Setup::default() }).await;
    for user in ["thief", "jane"] {
        let rbac = "/apis/rbac.authorization.k8s.io/v1";
        let rules = json!([{"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]}]);
        server.post(&format!("{rbac}/clusterroles"), json!({"metadata": {"name": user}, "rules": rules})).await.is(201);
        let body = json!({
            "metadata": {"name": user},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": user},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
        });
        server.post(&format!("{rbac}/clusterrolebindings"), body).await.is(201);
    }
    assert!(webhook.seen().is_empty(), "administrators are not asked about");
    server.until_allowed(json!({"user": "jane", "resourceAttributes": {"verb": "list", "resource": "nodes"}})).await;
    let list = |user: &'static str| server.as_user(user, "GET", "/api/v1/nodes?labelSelector=a%3Db", Value::Null);
    list("boss").await.is(200);
    list("jane").await.is(200);
    let refused = list("thief").await.is(403);
    assert!(refused["message"].as_str().unwrap().ends_with(": a thief"), "{}", refused["message"]);
    list("chaos").await.is(403);
    let asked = webhook.seen().len();
    list("boss").await.is(200);
    list("thief").await.is(403);
    assert_eq!(webhook.seen().len(), asked, "answers are kept");
    let selector = json!({"requirements": [{"key": "a", "operator": "In", "values": ["b"]}]});
    assert!(webhook.seen().iter().any(|review| review["spec"]["resourceAttributes"]["labelSelector"] == selector));
    // Paths are none of its business.
    server.as_user("boss", "GET", "/version", Value::Null).await.is(403);
    assert_eq!(webhook.seen().len(), asked);
    // Reviews ask it, and so do admission plugins: who may grant what they do not have is asked of all.
    let review =
        |user: &str| json!({"spec": {"user": user, "resourceAttributes": {"verb": "delete", "resource": "pods"}}});
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let told = server.post(path, review("boss")).await.is(201);
    assert_eq!((&told["status"]["allowed"], &told["status"]["reason"]), (&json!(true), &json!("the boss")));
    let told = server.post(path, review("thief")).await.is(201);
    assert_eq!((&told["status"]["allowed"], &told["status"]["denied"]), (&json!(false), &json!(true)));
    let rules = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]);
    let role = json!({"metadata": {"name": "all"}, "rules": rules});
    server.as_user("boss", "POST", "/apis/rbac.authorization.k8s.io/v1/clusterroles", role).await.is(201);
}

#[tokio::test]
async fn secrets_are_sealed_and_keys_rotate_through_the_api() {
    let dir = tempfile::tempdir().unwrap();
    let raw: Arc<dyn Store> = Arc::new(Memory::new());
    let settings = sealed::Settings { file: None, managed: true, own: dir.path().join("cred/keys.json") };
    let encryption = Encryption::open(raw.clone(), settings).unwrap();
    let server = Server::with(Setup { encryption: Some(encryption), ..Setup::default() }).await;
    let body = json!({"metadata": {"name": "s"}, "stringData": {"password": "hunter2"}});
    let made = server.post("/api/v1/namespaces/n/secrets", body).await.is(201);
    server.config_map("m", json!({})).await.is(201);
    let stored = async |prefix: &str| raw.snapshot(prefix.as_bytes()).await.unwrap().entries.remove(0).value;
    let sealed = stored("/registry/core/secrets/n/s").await;
    assert!(sealed.starts_with(b"k8s:enc:aesgcm:v1:orch-"));
    assert!(stored("/registry/core/configmaps/n/m").await.starts_with(b"{"));

    let before = server.get("/orch/encryption").await.is(200);
    assert_eq!((&before["enabled"], &before["sealed"], &before["stale"]), (&json!(true), &json!(1), &json!(0)));
    let done = server.post("/orch/encryption", json!({"action": "rotate-keys"})).await.is(200);
    assert_eq!(done, json!({"rewritten": 1}));
    let after = server.get("/orch/encryption").await.is(200);
    assert!(after["key"] != before["key"] && stored("/registry/core/secrets/n/s").await != sealed);
    let read = server.get("/api/v1/namespaces/n/secrets/s").await.is(200);
    assert_eq!((&read["data"], &read["metadata"]["uid"]), (&made["data"], &made["metadata"]["uid"]));
    server.post("/orch/encryption", json!({"action": "disable"})).await.is(200);
    assert!(stored("/registry/core/secrets/n/s").await.starts_with(b"{"));
    server.post("/orch/encryption", json!({"action": "open sesame"})).await.is(400);
    server.as_user("jane", "GET", "/orch/encryption", Value::Null).await.is(403);
}
