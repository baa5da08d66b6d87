use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;
use rcgen::KeyPair;
use serde_json::{Value, json};
use test_case::test_case;

use super::authn::*;
use super::lookup::fake::Objects;
use super::node::NodeAuthorizer;
use super::rbac::Rbac;
use super::restriction::{NodeWrite, Operation};
use super::review::{self, Access};
use super::tokens::ServiceAccountTokens;
use super::*;
use crate::api::object::Object;
use crate::util::clock::ManualClock;

const NOW: i64 = 1_780_272_000;
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

fn account() -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "sa", "namespace": "a", "uid": "u-sa"}})
}

fn pod() -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "a", "uid": "u-p"},
        "status": {"extendedResourceClaimStatus": {"resourceClaimName": "gpu"}},
        "spec": {"nodeName": "n1", "serviceAccountName": "sa",
            "imagePullSecrets": [{"name": "pull"}],
            "containers": [{"name": "c", "envFrom": [{"configMapRef": {"name": "env"}}],
                "env": [{"name": "x", "valueFrom": {"secretKeyRef": {"name": "key"}}}]}],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "claim"}},
                {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"audience": "vault"}}, {"configMap": {"name": "ca"}}]}}]}})
}

fn objects() -> Objects {
    Objects::default()
        .with("", "serviceaccounts", account())
        .with("", "pods", pod())
        .with("", "nodes", json!({"metadata": {"name": "n1", "uid": "u-n"}}))
        .with(
            "",
            "persistentvolumeclaims",
            json!({"metadata": {"name": "claim", "namespace": "a"}, "spec": {"volumeName": "pv"}}),
        )
        .with("", "persistentvolumes", json!({"metadata": {"name": "pv"}, "spec": {"csi": {"driver": "d"}}}))
        .with(
            "storage.k8s.io",
            "csidrivers",
            json!({"metadata": {"name": "d"}, "spec": {"tokenRequests": [{"audience": "cloud"}]}}),
        )
}

fn tokens_with(key: &KeyPair, issuer: &str, objects: Objects, at: i64) -> ServiceAccountTokens {
    tokens_of(&key.serialize_pem(), issuer, objects, at)
}

fn tokens_of(pem: &str, issuer: &str, objects: Objects, at: i64) -> ServiceAccountTokens {
    let keys = crate::pki::keys::parse(pem).unwrap();
    ServiceAccountTokens::new(&keys, issuer.into(), Arc::new(objects), Arc::new(ManualClock::at(at)))
}

fn api() -> Vec<String> {
    vec![ISSUER.to_owned()]
}

fn issue(tokens: &ServiceAccountTokens, body: &Value) -> String {
    let out = tokens.request(&Object::from_value(&account(), &[]), body).unwrap();
    out["status"]["token"].as_str().unwrap().to_owned()
}

fn for_pod() -> Value {
    json!({"spec": {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u-p"}}})
}

#[test]
fn a_token_says_who_and_where() {
    let key = KeyPair::generate().unwrap();
    let tokens = tokens_with(&key, ISSUER, objects(), NOW);
    let answer = tokens.request(&Object::from_value(&account(), &[]), &for_pod()).unwrap();
    assert_eq!(answer["status"]["expirationTimestamp"], "2026-06-01T01:00:00Z");
    assert_eq!(answer["spec"]["audiences"], json!([ISSUER]));
    let found = tokens.verify(answer["status"]["token"].as_str().unwrap(), &api()).unwrap().unwrap();
    assert_eq!((&*found.user.name, &*found.user.uid), ("system:serviceaccount:a:sa", "u-sa"));
    assert_eq!(found.user.groups, ["system:serviceaccounts", "system:serviceaccounts:a"]);
    let extra = |k: &str| found.user.extra[&format!("authentication.kubernetes.io/{k}")][0].clone();
    assert_eq!(["pod-name", "pod-uid", "node-name", "node-uid"].map(extra), ["p", "u-p", "n1", "u-n"]);
    assert!(extra("credential-id").starts_with("JTI="));
}

#[test_case(599, false)]
#[test_case(600, true)]
#[test_case(1 << 32, true)]
#[test_case((1 << 32) + 1, false)]
fn lifetimes_are_bounded(seconds: i64, allowed: bool) {
    let tokens = tokens_with(&KeyPair::generate().unwrap(), ISSUER, objects(), NOW);
    let account = Object::from_value(&account(), &[]);
    let answer = tokens.request(&account, &json!({"spec": {"expirationSeconds": seconds}}));
    assert_eq!(answer.map_err(|e| e.code).err(), (!allowed).then_some(422));
}

#[test_case(json!({"apiVersion": "v1", "kind": "Pod", "name": "none"}), 404; "an absent pod")]
#[test_case(json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "other"}), 409; "another pod of that name")]
#[test_case(json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "p"}), 400; "a kind that cannot be bound to")]
fn bad_bindings_are_refused(reference: Value, code: u16) {
    let tokens = tokens_with(&KeyPair::generate().unwrap(), ISSUER, objects(), NOW);
    let body = json!({"spec": {"boundObjectRef": reference}});
    assert_eq!(tokens.request(&Object::from_value(&account(), &[]), &body).unwrap_err().code, code);
}

#[test_case(3_660, true; "an hour and the leeway")]
#[test_case(3_661, false; "expired")]
#[test_case(-60, true; "a clock that is behind")]
#[test_case(-61, false; "not yet valid")]
fn tokens_are_valid_for_their_time(after: i64, valid: bool) {
    let key = KeyPair::generate().unwrap();
    let token = issue(&tokens_with(&key, ISSUER, objects(), NOW), &json!({}));
    let later = tokens_with(&key, ISSUER, objects(), NOW + after);
    assert_eq!(later.verify(&token, &api()).is_ok(), valid);
}

#[test]
fn wrong_keys_issuers_and_audiences_are_refused() {
    let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let ours = tokens_with(&key, ISSUER, objects(), NOW);
    let forged = issue(&tokens_with(&other, ISSUER, objects(), NOW), &json!({}));
    assert!(ours.verify(&forged, &api()).is_err(), "another key");
    let foreign = issue(&tokens_with(&key, "https://elsewhere", objects(), NOW), &json!({}));
    assert_eq!(ours.verify(&foreign, &api()), Ok(None), "another issuer's is none of ours");
    let vault = issue(&ours, &json!({"spec": {"audiences": ["vault"]}}));
    assert!(ours.verify(&vault, &api()).is_err(), "for somebody else");
    assert_eq!(ours.verify(&vault, &["vault".into()]).unwrap().unwrap().audiences, ["vault"]);
    for garbage in ["", "garbage", "a.b.c", "..", "e30.e30.e30"] {
        assert_eq!(ours.verify(garbage, &api()), Ok(None), "{garbage}");
    }
}

#[test_case(r#"{"alg":"none"}"#, ""; "alg none without a signature")]
#[test_case(r#"{"alg":"none"}"#, "keep"; "alg none with the signature")]
#[test_case(r#"{"alg":"HS256"}"#, "keep"; "a symmetric algorithm")]
#[test_case(r#"{"alg":"ES256"}"#, ""; "no signature")]
fn forged_headers_are_refused(header: &str, signature: &str) {
    let tokens = tokens_with(&KeyPair::generate().unwrap(), ISSUER, objects(), NOW);
    let token = issue(&tokens, &json!({}));
    let parts: Vec<&str> = token.split('.').collect();
    let signature = if signature == "keep" { parts[2] } else { "" };
    let forged = format!("{}.{}.{signature}", URL_SAFE_NO_PAD.encode(header), parts[1]);
    tokens.verify(&forged, &api()).unwrap_err();
}

#[test]
fn a_changed_claim_breaks_the_signature() {
    let tokens = tokens_with(&KeyPair::generate().unwrap(), ISSUER, objects(), NOW);
    let token = issue(&tokens, &json!({}));
    let parts: Vec<&str> = token.split('.').collect();
    let mut claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap();
    claims["exp"] = (NOW + 1_000_000).into();
    let forged = format!("{}.{}.{}", parts[0], URL_SAFE_NO_PAD.encode(claims.to_string()), parts[2]);
    tokens.verify(&forged, &api()).unwrap_err();
}

#[test]
fn tokens_die_with_what_they_are_bound_to() {
    let key = KeyPair::generate().unwrap();
    let token = issue(&tokens_with(&key, ISSUER, objects(), NOW), &for_pod());
    let verify = |o: Objects, at| tokens_with(&key, ISSUER, o, at).verify(&token, &api());
    let without_account = Objects::default().with("", "pods", pod());
    assert_eq!(verify(without_account, NOW).unwrap_err().0, "serviceaccounts \"sa\" not found");
    let without_pod = Objects::default().with("", "serviceaccounts", account());
    assert_eq!(verify(without_pod, NOW).unwrap_err().0, "pods \"p\" not found");
    let mut reborn = account();
    reborn["metadata"]["uid"] = "u-2".into();
    assert!(verify(Objects::default().with("", "serviceaccounts", reborn).with("", "pods", pod()), NOW).is_err());
    let mut dying = pod();
    dying["metadata"]["deletionTimestamp"] = "2026-06-01T00:00:00Z".into();
    let dying = || Objects::default().with("", "serviceaccounts", account()).with("", "pods", dying.clone());
    assert!(verify(dying(), NOW + 60).is_ok(), "within the grace");
    assert!(verify(dying(), NOW + 61).is_err(), "after the grace");
}

#[test_case(json!({}), true, true; "for the first time")]
#[test_case(json!({"kubernetes.io/legacy-token-last-used": "2026-06-01"}), true, false; "today again")]
#[test_case(json!({"kubernetes.io/legacy-token-last-used": "2026-05-31"}), true, true; "today")]
#[test_case(json!({"kubernetes.io/legacy-token-invalid-since": "2026-05-31"}), false, true; "marked invalid")]
fn uses_of_tokens_in_secrets_are_told(labels: Value, valid: bool, told: bool) {
    let key = KeyPair::generate().unwrap();
    let token = tokens_with(&key, ISSUER, objects(), NOW).legacy(&Object::from_value(&account(), &[]), "s").unwrap();
    let data = json!({"token": base64::engine::general_purpose::STANDARD.encode(&token)});
    let secret = json!({"metadata": {"name": "s", "namespace": "a", "labels": labels}, "data": data});
    let tokens = tokens_with(&key, ISSUER, objects().with("", "secrets", secret), NOW);
    let mut uses = tokens.uses();
    let found = tokens.verify(&token, &api());
    assert_eq!(found.as_ref().is_ok(), valid, "{found:?}");
    assert_eq!(uses.try_recv().ok(), told.then(|| crate::api::object::ObjectKey::new("a", "s")));
}

#[test]
fn the_published_key_verifies_what_we_sign() {
    let tokens = tokens_with(&KeyPair::generate().unwrap(), ISSUER, objects(), NOW);
    let token = issue(&tokens, &json!({}));
    let set = tokens.jwks();
    let key = &set["keys"][0];
    let part = |p: &str| key[p].as_str().unwrap().to_owned();
    let decoding = jsonwebtoken::DecodingKey::from_ec_components(&part("x"), &part("y")).unwrap();
    let mut validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::ES256);
    (validation.validate_exp, validation.validate_aud) = (false, false);
    jsonwebtoken::decode::<Value>(&token, &decoding, &validation).unwrap();
    assert_eq!(jsonwebtoken::decode_header(&token).unwrap().kid, Some(part("kid")));
    assert_eq!(tokens.openid_configuration("https://h:6443")["jwks_uri"], "https://h:6443/openid/v1/jwks");
}

fn bearer(kinds: Vec<Arc<dyn TokenAuthenticator>>) -> BearerTokens {
    BearerTokens { kinds, audiences: api() }
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut out = HeaderMap::new();
    for (name, value) in pairs {
        out.append(*name, value.parse().unwrap());
    }
    out
}

fn join_tokens(expires: Option<i64>) -> Arc<JoinTokens> {
    let record = TokenRecord {
        id: "abcdef".into(),
        hash: crate::pki::token::hash("0123456789abcdef"),
        expires: expires.map(|s| jiff::Timestamp::from_second(s).unwrap()),
        groups: vec!["system:bootstrappers:edge".into()],
    };
    Arc::new(JoinTokens { records: vec![Arc::new(vec![record])], clock: Arc::new(ManualClock::at(NOW)) })
}

#[test_case("abcdef.0123456789abcdef", None, true)]
#[test_case("abcdef.0123456789abcdeF", None, false; "wrong secret")]
#[test_case("abcdeg.0123456789abcdef", None, false; "unknown id")]
#[test_case("abcdef.0123456789abcdef", Some(NOW), false; "expired")]
#[test_case("abcdef.0123456789abcdef", Some(NOW + 1), true; "not yet expired")]
fn join_tokens_are_checked(text: &str, expires: Option<i64>, valid: bool) {
    let found = futures::executor::block_on(bearer(vec![join_tokens(expires)]).user(text, &api()));
    assert_eq!(found.is_ok(), valid);
    if let Ok(found) = found {
        assert_eq!(found.user.name, "system:bootstrap:abcdef");
        assert_eq!(found.user.groups, ["system:bootstrappers", "system:bootstrappers:edge"]);
    }
}

fn client(not_after: i64) -> Peer {
    let (name, groups) = ("jane".into(), vec!["devs".into()]);
    Peer::Client { name, groups, fingerprint: "f".into(), key_hash: "k".into(), not_after }
}

/// A node's certificate, which is of the key `k`.
fn node(name: &str) -> Peer {
    let (name, groups) = (format!("system:node:{name}"), vec!["system:nodes".into()]);
    Peer::Client { name, groups, fingerprint: "f".into(), key_hash: "k".into(), not_after: NOW + 1 }
}

fn chain() -> Chain {
    let clock = Arc::new(ManualClock::at(NOW));
    let record = |node: &str, key: &str| ("", "configmaps", crate::api::node_identity::record(node, key));
    let records = [record("own", "k"), record("replaced", "another")];
    let records = records.into_iter().fold(Objects::default(), |all, (g, r, o)| all.with(g, r, o));
    Chain(vec![
        Arc::new(FrontProxy { allowed_names: vec!["system:auth-proxy".into()], clock: clock.clone() }),
        Arc::new(ClientCertificates { clock, records: Arc::new(records) }),
        Arc::new(bearer(vec![join_tokens(None)])),
    ])
}

fn proxy(name: &str) -> Peer {
    Peer::Proxy { name: name.into(), not_after: NOW + 1 }
}

#[test_case(Peer::None, &[], Ok("system:anonymous"); "nothing is anonymous")]
#[test_case(client(NOW + 1), &[], Ok("jane"); "a certificate")]
#[test_case(client(NOW - 1), &[], Err(()); "an expired certificate on a living connection")]
#[test_case(Peer::Unknown, &[], Err(()); "a stranger's certificate")]
#[test_case(node("own"), &[], Ok("system:node:own"); "a node")]
#[test_case(node("unknown"), &[], Ok("system:node:unknown"); "a node of which nothing was written down")]
#[test_case(node("replaced"), &[], Err(()); "a node whose name another machine has")]
#[test_case(Peer::None, &[("authorization", "Bearer abcdef.0123456789abcdef")], Ok("system:bootstrap:abcdef"); "a token")]
#[test_case(Peer::None, &[("authorization", "Bearer wrong")], Err(()); "a wrong token is not anonymous")]
#[test_case(Peer::None, &[("sec-websocket-protocol", "base64url.bearer.authorization.k8s.io.YWJjZGVmLjAxMjM0NTY3ODlhYmNkZWY, v5.channel.k8s.io")], Ok("system:bootstrap:abcdef"); "a token of a websocket")]
#[test_case(Peer::None, &[("x-remote-user", "root")], Ok("system:anonymous"); "headers without a proxy mean nothing")]
#[test_case(client(NOW + 1), &[("x-remote-user", "root")], Ok("jane"); "nor with a user's certificate")]
#[test_case(proxy("system:auth-proxy"), &[("x-remote-user", "joe"), ("x-remote-group", "g")], Ok("joe"); "a proxy's user")]
#[test_case(proxy("other"), &[("x-remote-user", "joe")], Err(()); "a proxy that is not allowed")]
#[test_case(proxy("system:auth-proxy"), &[], Ok("system:anonymous"); "a proxy is no user itself")]
fn the_chain_decides(peer: Peer, given: &[(&'static str, &str)], want: Result<&str, ()>) {
    let headers = headers(given);
    let found = futures::executor::block_on(chain().authenticate(Credentials { peer: &peer, headers: &headers }));
    if let Ok(user) = &found {
        let group = if user.name == UserInfo::ANONYMOUS { UserInfo::UNAUTHENTICATED } else { UserInfo::AUTHENTICATED };
        assert!(user.in_group(group), "{user:?}");
    }
    let status = found.as_ref().map_err(|e| e.to_status()).err();
    assert!(status.is_none_or(|s| (s.code, &*s.message) == (401, "Unauthorized")));
    assert_eq!(found.as_ref().map(|u| &*u.name).map_err(|_| ()), want);
}

#[test]
fn a_connection_is_identified_by_the_ca_that_signed_it() {
    use crate::pki::{Ca, Profile, tls::ClientVerifier};
    let now = jiff::Timestamp::from_second(NOW).unwrap();
    let ca = |name| Ca::new(name, KeyPair::generate().unwrap(), now).unwrap();
    let (clients, proxies, strangers) = (ca("c"), ca("p"), ca("s"));
    let verifier = |ca: &Ca| ClientVerifier::new(&ca.cert).unwrap();
    let identify = |by: &Ca| {
        let chain = by.issue(&Profile::client("x", &["g", "h"]), now).unwrap().chain().unwrap();
        Peer::identify(&chain, &verifier(&clients), &verifier(&proxies), now)
    };
    assert!(matches!(identify(&clients), Peer::Client { groups, .. } if groups == ["g", "h"]));
    assert!(matches!(identify(&proxies), Peer::Proxy { name, .. } if name == "x"));
    assert_eq!(identify(&strangers), Peer::Unknown);
}

#[test]
fn impersonation_asks_for_each_part() {
    let wish = impersonate::requested(&headers(&[
        ("impersonate-user", "system:serviceaccount:a:sa"),
        ("impersonate-uid", "7"),
        ("impersonate-extra-acme.com%2fproject", "x"),
    ]))
    .unwrap()
    .unwrap();
    let ways = impersonate::ways(&UserInfo::default(), &wish, &Attributes::default());
    let [only] = &ways[..] else { panic!("{ways:?}") };
    let told = |step: &impersonate::Step| match step {
        impersonate::Step::One(a) => {
            format!("{}/{}/{}/{}/{}", a.group, a.resource, a.subresource, a.namespace, a.name)
        }
        other => format!("{other:?}"),
    };
    assert_eq!(
        only.steps.iter().map(told).collect::<Vec<_>>(),
        [
            "/serviceaccounts//a/sa",
            "authentication.k8s.io/uids///7",
            "authentication.k8s.io/userextras/acme.com/project//x",
        ]
    );
    assert_eq!(only.target.groups, ["system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated"]);
    assert_eq!(impersonate::requested(&HeaderMap::new()).unwrap(), None);
    let error = impersonate::requested(&headers(&[("impersonate-group", "g")])).unwrap_err();
    assert_eq!(
        error.message,
        "requested &user.DefaultInfo{Name:\"\", UID:\"\", Groups:[]string{\"g\"}, Extra:map[string][]string(nil)} \
         without impersonating a user name"
    );
}

fn ask(verb: &str, what: &str, namespace: &str, name: &str) -> Attributes {
    let mut parts = what.split('/');
    Attributes {
        verb: verb.into(),
        group: parts.next().unwrap_or_default().into(),
        resource: parts.next().unwrap_or_default().into(),
        subresource: parts.next().unwrap_or_default().into(),
        namespace: namespace.into(),
        name: name.into(),
        ..Attributes::default()
    }
}

#[test]
fn forbidden_reads_as_upstreams() {
    let jane = UserInfo::authenticated("jane", &[]);
    let status = forbidden(&ask("patch", "apps/deployments/scale", "a", "x"), &jane, "");
    assert_eq!(
        status.message,
        "deployments.apps \"x\" is forbidden: User \"jane\" cannot patch resource \"deployments/scale\" in API group \
         \"apps\" in the namespace \"a\""
    );
    let path = Attributes { verb: "get".into(), path: "/metrics".into(), ..Attributes::default() };
    assert_eq!(forbidden(&path, &jane, "").message, "forbidden: User \"jane\" cannot get path \"/metrics\"");
}

#[test_case("get", "/secrets", "a", "pull", true; "image pull secret")]
#[test_case("get", "/secrets", "a", "key", true; "secret of an env")]
#[test_case("get", "/secrets", "a", "other", false; "a secret nobody refers to")]
#[test_case("get", "/secrets", "b", "pull", false; "of another namespace")]
#[test_case("list", "/secrets", "a", "", false; "all secrets")]
#[test_case("watch", "/configmaps", "a", "ca", true; "projected config map")]
#[test_case("get", "/configmaps", "a", "env", true; "config map of an envFrom")]
#[test_case("update", "/configmaps", "a", "env", false; "never written")]
#[test_case("get", "/persistentvolumeclaims", "a", "claim", true; "claim")]
#[test_case("get", "resource.k8s.io/resourceclaims", "a", "gpu", true; "claim for extended resources")]
#[test_case("get", "resource.k8s.io/resourceclaims", "a", "other", false; "claim of another")]
#[test_case("get", "/persistentvolumes", "", "pv", true; "volume of the claim")]
#[test_case("get", "/persistentvolumes", "", "pv2", false; "volume of nobody")]
#[test_case("create", "/serviceaccounts/token", "a", "sa", true; "token of its pod's account")]
#[test_case("create", "/serviceaccounts/token", "a", "other", false; "token of another account")]
#[test_case("get", "/nodes", "", "n1", true; "itself")]
#[test_case("get", "/nodes", "", "n2", false; "not another")]
#[test_case("update", "coordination.k8s.io/leases", "kube-node-lease", "n1", true; "its lease")]
#[test_case("update", "coordination.k8s.io/leases", "kube-node-lease", "n2", false; "not another's")]
#[test_case("get", "/pods", "a", "p", true; "its pod")]
#[test_case("list", "/pods", "", "", false; "all pods")]
#[test_case("patch", "/pods/status", "a", "p", true; "the status of pods, for NodeRestriction to look at")]
#[test_case("create", "/events", "a", "", true; "events")]
#[test_case("delete", "apps/deployments", "a", "d", false; "nothing else")]
fn a_node_may(verb: &str, what: &str, namespace: &str, name: &str, allowed: bool) {
    let authorizer = NodeAuthorizer::new(Arc::new(objects()));
    let attributes = ask(verb, what, namespace, name);
    let node = UserInfo::authenticated("system:node:n1", &["system:nodes"]);
    assert_eq!(authorizer.authorize(&attributes, &node) == Decision::Allow, allowed);
    let other = UserInfo::authenticated("system:node:n1", &[]);
    assert_eq!(authorizer.authorize(&attributes, &other), Decision::NoOpinion(String::new()), "not in the group");
}

#[test]
fn a_node_lists_its_own_pods_only() {
    let authorizer = NodeAuthorizer::new(Arc::new(objects()));
    let node = UserInfo::authenticated("system:node:n1", &["system:nodes"]);
    let list = |selector: &str| Attributes { field_selector: selector.into(), ..ask("list", "/pods", "", "") };
    assert_eq!(authorizer.authorize(&list("spec.nodeName=n1"), &node), Decision::Allow);
    assert_ne!(authorizer.authorize(&list("spec.nodeName=n2"), &node), Decision::Allow);
}

fn labelled(labels: Value) -> Value {
    json!({"metadata": {"name": "n1", "labels": labels}})
}

#[test_case(Operation::Update, "n1", labelled(json!({"kubernetes.io/hostname": "n1", "own.example.com/x": "y"})), true; "its own labels")]
#[test_case(Operation::Update, "n1", labelled(json!({"node-restriction.kubernetes.io/x": "y"})), false; "a restricted label")]
#[test_case(Operation::Update, "n1", labelled(json!({"node-role.kubernetes.io/control-plane": ""})), false; "a role")]
#[test_case(Operation::Update, "n1", json!({"metadata": {"name": "n1"}, "spec": {"taints": [{"key": "k"}]}}), false; "its taints")]
#[test_case(Operation::Create, "n1", json!({"metadata": {"name": "n1"}, "spec": {"taints": [{"key": "k"}]}}), true; "taints when it registers")]
#[test_case(Operation::Update, "n2", json!({"metadata": {"name": "n2"}}), false; "another node")]
#[test_case(Operation::Delete, "n1", Value::Null, false; "deleting itself")]
fn a_node_writes_its_node(operation: Operation, name: &str, new: Value, allowed: bool) {
    let old = json!({"metadata": {"name": name}});
    let old = if operation == Operation::Create { &Value::Null } else { &old };
    let write = NodeWrite {
        node: "n1",
        group: "",
        resource: "nodes",
        subresource: "",
        namespace: "",
        name,
        operation,
        new: &new,
        old,
    };
    assert_eq!(restriction::check(&write, &objects()).map_err(|e| e.code).err(), (!allowed).then_some(403));
}

#[test_case(json!({"phase": "Running"}), true; "the phase")]
#[test_case(json!({"resourceClaimStatuses": [{"name": "gpu", "resourceClaimName": "c"}]}), false; "its claims")]
#[test_case(json!({"extendedResourceClaimStatus": {"requestMappings": [], "resourceClaimName": "c"}}), false;
    "the claim for its extended resources")]
fn a_node_writes_the_status_of_its_pods(status: Value, allowed: bool) {
    let old = json!({"metadata": {"name": "p", "namespace": "a"}, "spec": {"nodeName": "n1"}});
    let mut new = old.clone();
    new["status"] = status;
    let write = NodeWrite {
        node: "n1",
        group: "",
        resource: "pods",
        subresource: "status",
        namespace: "a",
        name: "p",
        operation: Operation::Update,
        new: &new,
        old: &old,
    };
    assert_eq!(restriction::check(&write, &objects()).is_ok(), allowed);
}

#[test_case(json!({"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": "u-p"}), &[], true; "bound to its pod")]
#[test_case(json!({"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": "u-p"}), &["vault"], true; "for an audience of a volume")]
#[test_case(json!({"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": "u-p"}), &["bank"], false; "for another audience")]
#[test_case(json!({"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": "u-p"}), &["cloud"], true; "for the driver of a volume")]
#[test_case(json!({"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": "old"}), &[], false; "bound to another pod of the name")]
#[test_case(Value::Null, &[], false; "bound to nothing")]
fn a_node_asks_for_tokens(reference: Value, audiences: &[&str], allowed: bool) {
    let new = json!({"spec": {"boundObjectRef": reference, "audiences": audiences}});
    let write = NodeWrite {
        node: "n1",
        group: "",
        resource: "serviceaccounts",
        subresource: "token",
        namespace: "a",
        name: "sa",
        operation: Operation::Create,
        new: &new,
        old: &Value::Null,
    };
    assert_eq!(restriction::check(&write, &objects()).is_ok(), allowed);
}

fn reviewed(
    which: review::Access,
    body: &Value,
    namespace: &str,
    caller: &UserInfo,
    authorizer: &dyn Authorizer,
) -> crate::api::status::ApiResult<Value> {
    let (a, user) = review::access_question(which, body, namespace, caller)?;
    Ok(review::access_answer(which, body, authorizer.explain(&a, &user)))
}

#[test]
fn access_reviews_answer_and_complain_as_upstream() {
    let rbac = Rbac::default();
    let root = UserInfo::authenticated("root", &["system:masters"]);
    let pods = json!({"verb": "get", "resource": "pods", "namespace": "a"});
    let own = |body: Value| reviewed(Access::Own, &body, "", &root, &rbac);
    let answer = own(json!({"spec": {"resourceAttributes": pods}})).unwrap();
    assert_eq!(
        answer,
        json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "metadata": {},
        "spec": {"resourceAttributes": pods}, "status": {"allowed": true}})
    );
    assert_eq!(
        own(json!({"spec": {}})).unwrap_err().message,
        ".authorization.k8s.io \"\" is invalid: spec.resourceAttributes: Invalid value: null: exactly one of \
         nonResourceAttributes or resourceAttributes must be specified"
    );
    let both = json!({"spec": {"resourceAttributes": pods, "nonResourceAttributes": {"path": "/", "verb": "get"}}});
    assert!(
        own(both).unwrap_err().message.contains(r#"{"Path":"/","Verb":"get"}: cannot be specified in combination"#)
    );
    let subject = json!({"spec": {"user": "x", "resourceAttributes": pods}});
    let answer = reviewed(Access::Subject, &subject, "", &root, &rbac).unwrap();
    assert_eq!(answer["status"], json!({"allowed": false}));
    let error = reviewed(Access::Local, &subject, "b", &root, &rbac).unwrap_err();
    assert!(error.message.contains("spec.resourceAttributes.namespace: Invalid value: \"a\": must match"), "{error}");
    let nobody = json!({"spec": {"resourceAttributes": pods}});
    assert_eq!(reviewed(Access::Subject, &nobody, "", &root, &rbac).unwrap_err().code, 422);
}

#[test]
fn token_reviews_tell_the_user_or_why_not() {
    let tokens = Arc::new(tokens_with(&KeyPair::generate().unwrap(), ISSUER, objects(), NOW));
    let token = issue(&tokens, &json!({}));
    let bearer = bearer(vec![tokens]);
    let ask = |body: Value| futures::executor::block_on(review::token_review(&body, &bearer));
    let answer = ask(json!({"spec": {"token": token}})).unwrap();
    assert_eq!(
        answer["status"]["user"]["groups"],
        json!(["system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated"])
    );
    assert_eq!(answer["status"]["authenticated"], true);
    let garbage = ask(json!({"spec": {"token": "garbage"}})).unwrap();
    assert_eq!(garbage["status"], json!({"user": {}, "error": "invalid bearer token"}));
    let other = ask(json!({"spec": {"token": token, "audiences": ["other"]}})).unwrap();
    assert!(other["status"].get("authenticated").is_none());
    assert_eq!(ask(json!({"spec": {}})).unwrap_err().code, 400);
}

#[test_case(&rcgen::PKCS_RSA_SHA256, jsonwebtoken::Algorithm::RS256, "RSA"; "what k3s and kubeadm make")]
#[test_case(&rcgen::PKCS_ECDSA_P384_SHA384, jsonwebtoken::Algorithm::ES384, "EC"; "a larger curve")]
fn keys_that_a_cluster_brings_sign(
    kind: &'static rcgen::SignatureAlgorithm,
    algorithm: jsonwebtoken::Algorithm,
    family: &str,
) {
    let key = KeyPair::generate_for(kind).unwrap();
    let tokens = tokens_with(&key, ISSUER, objects(), NOW);
    let token = issue(&tokens, &for_pod());
    assert!(tokens.verify(&token, &api()).unwrap().is_some());
    assert_eq!(jsonwebtoken::decode_header(&token).unwrap().alg, algorithm);
    let jwk = &tokens.jwks()["keys"][0];
    assert_eq!(jwk["kty"], family);
    // Another's verifier finds the key in the published set.
    let set: jsonwebtoken::jwk::JwkSet = serde_json::from_value(tokens.jwks()).unwrap();
    let published = jsonwebtoken::DecodingKey::from_jwk(&set.keys[0]).unwrap();
    let mut validation = jsonwebtoken::Validation::new(algorithm);
    (validation.validate_exp, validation.validate_aud) = (false, false);
    jsonwebtoken::decode::<Value>(&token, &published, &validation).unwrap();
}

/// A new key stands before the old one: both verify, the new one signs.
#[test]
fn keys_are_rotated() {
    let (old, new) = (KeyPair::generate().unwrap(), KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap());
    let before = issue(&tokens_with(&old, ISSUER, objects(), NOW), &for_pod());
    let both = tokens_of(&(new.serialize_pem() + &old.serialize_pem()), ISSUER, objects(), NOW);
    assert!(both.verify(&before, &api()).unwrap().is_some());
    let after = issue(&both, &for_pod());
    assert!(tokens_with(&new, ISSUER, objects(), NOW).verify(&after, &api()).unwrap().is_some());
    assert!(tokens_with(&old, ISSUER, objects(), NOW).verify(&after, &api()).is_err());
    assert_eq!(both.openid_configuration("")["id_token_signing_alg_values_supported"], json!(["ES384", "ES256"]));
}
