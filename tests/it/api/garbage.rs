//! Requests that nobody should send: every answer is a client's error or a success, never the server's failure.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::StreamExt;

use super::*;
use crate::fuzz::{Dice, asked, mutated};

/// Requests that run together.
const AT_ONCE: usize = 32;
const BODIES: &[&[u8]] = &[
    br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","labels":{"k":"v"},"ownerReferences":[{"uid":"u"}]},"data":{"k":"v"}}"#,
    br#"{"kind":"Pod","apiVersion":"v1","metadata":{"generateName":"p-"},"spec":{"containers":[{"name":"a","image":"i","resources":{"limits":{"cpu":"1"}}}]}}"#,
    br#"[{"op":"add","path":"/data/x","value":"y"}]"#,
    b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {k: v}\n",
    br#"{"kind":"DeleteOptions","apiVersion":"v1","preconditions":{"uid":"u"},"propagationPolicy":"Foreground"}"#,
];
const QUERIES: &[&[u8]] = &[
    b"labelSelector=a%3Db&fieldSelector=metadata.name%3Dx&limit=5&continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEifQ",
    b"watch=1&timeoutSeconds=1&resourceVersion=1&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan",
    b"fieldManager=me&force=true&dryRun=All&fieldValidation=Strict&pretty=true&gracePeriodSeconds=-1",
];
const TYPES: &[&str] = &[
    JSON,
    MERGE,
    APPLY,
    "application/json-patch+json",
    "application/strategic-merge-patch+json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
];
const ACCEPTS: &[&str] = &[
    JSON,
    TABLE,
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
    "*/*;q=0.1, text/html",
];

#[tokio::test]
async fn no_request_is_the_servers_failure() {
    let s = Server::new().await;
    s.config_map("a", json!({})).await.is(201);
    let (cases, seed) = asked();
    // Watches take their second: many at a time.
    let all = futures::stream::iter(0..cases).map(|case| one(&s, seed, case));
    all.buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
}

async fn one(s: &Server, seed: u64, case: u64) {
    let mut dice = Dice::of(seed, case);
    let body = mutated(&mut dice, BODIES);
    let query: String = mutated(&mut dice, QUERIES)
        .iter()
        .map(|b| if b.is_ascii_graphic() && !b"#<>\"`{}|\\^".contains(b) { char::from(*b) } else { '+' })
        .take(2000)
        .collect();
    let method = dice.pick(&["GET", "POST", "PUT", "PATCH", "DELETE"]);
    let path = dice.pick(&[
        MAPS,
        "/api/v1/namespaces/n/configmaps/a",
        "/api/v1/namespaces/n/pods",
        "/api/v1/namespaces/n/pods/p/status",
        "/apis/apps/v1/namespaces/n/deployments/d/scale",
        "/apis/authorization.k8s.io/v1/subjectaccessreviews",
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
    ]);
    // A watch that nothing ends ends by itself.
    let target = format!("{path}?timeoutSeconds=1&{query}");
    let headers = [(header::CONTENT_TYPE, dice.pick(TYPES)), (header::ACCEPT, dice.pick(ACCEPTS))];
    let asking = s.send_raw(method, &target, &headers, body.clone().into());
    let (code, answer) = tokio::time::timeout(super::custom::LONG, asking).await.unwrap_or_else(|_| {
        panic!("case {case} of seed {seed} has no end: {method} {target}");
    });
    let shown = || {
        format!(
            "{method} {target} {headers:?} {:?}\n{}",
            String::from_utf8_lossy(&body),
            String::from_utf8_lossy(&answer)
        )
    };
    assert!(code < 500 || code == 504, "case {case} of seed {seed}: {code}: {}", shown());
}

/// Tokens that are changed in what they say, in how that is written, or anywhere: each is nobody's.
#[tokio::test]
async fn no_token_but_the_one_that_was_signed_is_believed() {
    let s = Server::new().await;
    let account = "/api/v1/namespaces/n/serviceaccounts/default/token";
    let made = s.post(account, json!({"spec": {}})).await.is(201)["status"]["token"].as_str().unwrap().to_owned();
    s.outside("GET", "/api/v1/nodes", Some(&made), Value::Null).await.is(403);
    let parts: Vec<&str> = made.split('.').collect();
    let decoded: Vec<Vec<u8>> = parts[..2].iter().map(|p| URL_SAFE_NO_PAD.decode(p).unwrap()).collect();
    let none = br#"{"alg":"none","typ":"JWT"}"#;
    let (cases, seed) = asked();
    for case in 0..cases {
        let mut dice = Dice::of(seed, case);
        let token = match dice.below(3) {
            0 => String::from_utf8_lossy(&mutated(&mut dice, &[made.as_bytes()])).into_owned(),
            1 => {
                let claims = URL_SAFE_NO_PAD.encode(mutated(&mut dice, &[&decoded[1]]));
                format!("{}.{claims}.{}", parts[0], parts[2])
            }
            _ => {
                let header = URL_SAFE_NO_PAD.encode(mutated(&mut dice, &[&decoded[0], none]));
                format!("{header}.{}.{}", parts[1], dice.pick(&[parts[2], "", "AA"]))
            }
        };
        // What cannot stand in a header as text is no token, and who shows none is nobody.
        let is_text = header::HeaderValue::from_str(&token).is_ok_and(|v| v.to_str().is_ok());
        if token == made || !is_text || token.trim().is_empty() {
            continue;
        }
        let got = s.outside("GET", "/api/v1/nodes", Some(&token), Value::Null).await;
        assert_eq!(got.code, 401, "case {case} of seed {seed}: {token}\n{}", got.text);
        let review = json!({"spec": {"token": token}});
        let told = s.post("/apis/authentication.k8s.io/v1/tokenreviews", review).await.is(201);
        assert_ne!(told["status"]["authenticated"], true, "case {case} of seed {seed}: {token}");
    }
}

#[tokio::test]
async fn depth_and_aliases_are_a_clients_error() {
    let s = Server::new().await;
    let deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
    let body = format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"x"}},"data":{deep}}}"#);
    let mut bomb =
        String::from("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\na0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for i in 1..12 {
        bomb.push_str(&format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 9].join(", ")));
    }
    for (content_type, body) in [(JSON, &body), ("application/yaml", &body), ("application/yaml", &bomb)] {
        let got = s.send("POST", MAPS, &[(header::CONTENT_TYPE, content_type)], body.clone().into()).await;
        assert_eq!(got.is(400)["reason"], "BadRequest");
    }
    for (content_type, body) in [(MERGE, &body), (APPLY, &bomb), ("application/json-patch+json", &deep)] {
        let path = format!("{MAPS}/kube-root-ca.crt?fieldManager=me");
        s.send("PATCH", &path, &[(header::CONTENT_TYPE, content_type)], body.clone().into()).await.is(400);
    }
}
