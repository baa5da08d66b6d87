//! The flags of access on a server that was started with them, each seen to act: audit, authentication, authorization,
//! encryption at rest; on the command line and in the configuration file.

#[allow(dead_code, reason = "the API's own tests use more of it")]
#[path = "../it/api/services.rs"]
mod services;

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use test_case::test_case;

use self::services::Service;
use crate::harness::Cluster;

/// What only encryption hides, and what nothing hides.
const HIDDEN: &str = "hunter2-is-hidden";
const PLAIN: &str = "hunter3-is-plain";
const POLICY: &str = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n\
    - {level: Metadata, resources: [{group: '', resources: [secrets]}]}\n- {level: None}\n";

/// An issuer of tokens for `jane`, and a webhook that lets her do anything and `thief` nothing.
struct Outside {
    issuer: Service,
    judge: Service,
    key: EncodingKey,
    /// What the services run on, on the cluster's machine.
    _runtime: tokio::runtime::Runtime,
}

impl Outside {
    fn start(cluster: &Cluster) -> Self {
        let pair = rcgen::KeyPair::generate().unwrap();
        let (x, y) = pair.public_key_raw()[1..].split_at(32);
        let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let jwk =
            json!({"kty": "EC", "crv": "P-256", "kid": "k", "alg": "ES256", "use": "sig", "x": part(x), "y": part(y)});
        // Its threads are on the machine that they were started on.
        let build = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let runtime = cluster.machine.run(build);
        let base = std::sync::Arc::new(std::sync::OnceLock::<String>::new());
        let own = base.clone();
        let issuer = runtime.spawn(Service::start(Box::new(move |path, _| match path {
            "/.well-known/openid-configuration" => {
                let url = own.get().cloned().unwrap_or_default();
                (200, json!({"issuer": url, "jwks_uri": format!("{url}/keys")}))
            }
            _ => (200, json!({"keys": [jwk]})),
        })));
        let judge = runtime.spawn(Service::start(Box::new(|_, review| {
            let status = match review["spec"]["user"].as_str() {
                Some("oidc:jane") => json!({"allowed": true}),
                Some("thief") => json!({"allowed": false, "denied": true, "reason": "a thief"}),
                _ => json!({"allowed": false}),
            };
            (200, json!({"apiVersion": review["apiVersion"], "kind": "SubjectAccessReview", "status": status}))
        })));
        let (issuer, judge) = runtime.block_on(async { (issuer.await.unwrap(), judge.await.unwrap()) });
        base.set(issuer.url.clone()).unwrap();
        Self { issuer, judge, key: EncodingKey::from_ec_der(&pair.serialize_der()), _runtime: runtime }
    }

    fn token(&self, sub: &str) -> String {
        let expiry = jiff::Timestamp::now().as_second() + 600;
        let claims = json!({"iss": self.issuer.url, "aud": "orch", "sub": sub, "exp": expiry});
        let header = Header { kid: Some("k".into()), ..Header::new(Algorithm::ES256) };
        jsonwebtoken::encode(&header, &claims, &self.key).unwrap()
    }

    /// The files that the flags name, by flag.
    fn files(&self, dir: &Path) -> Vec<(&'static str, PathBuf)> {
        let write = |name: &str, text: String| {
            let path = dir.join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let kind = |kind: &str| json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": kind});
        let mut authentication = kind("AuthenticationConfiguration");
        authentication["jwt"] = json!([{
            "issuer": {"url": self.issuer.url, "certificateAuthority": self.issuer.ca, "audiences": ["orch"]},
            "claimMappings": {"username": {"claim": "sub", "prefix": "oidc:"}}}]);
        let mut authorization = kind("AuthorizationConfiguration");
        let judge = self.judge.kubeconfig(dir, "authz");
        authorization["authorizers"] = json!([
            {"type": "Webhook", "name": "judge", "webhook": {"timeout": "5s", "authorizedTTL": "60s",
                "unauthorizedTTL": "60s", "subjectAccessReviewVersion": "v1", "failurePolicy": "Deny",
                "matchConditionSubjectAccessReviewVersion": "v1",
                "connectionInfo": {"type": "KubeConfigFile", "kubeConfigFile": judge},
                "matchConditions": [{"expression": "request.user in ['oidc:jane', 'thief']"}]}},
            {"type": "Node", "name": "node"}, {"type": "RBAC", "name": "rbac"}]);
        let mut encryption = kind("EncryptionConfiguration");
        let key = json!({"name": "one", "secret": STANDARD.encode([7; 32])});
        encryption["resources"] =
            json!([{"resources": ["secrets"], "providers": [{"aesgcm": {"keys": [key]}}, {"identity": {}}]}]);
        vec![
            ("audit-policy-file", write("audit.yaml", POLICY.into())),
            ("audit-log-path", dir.join("audit.log")),
            ("authentication-config", write("authentication.json", authentication.to_string())),
            ("authorization-config", write("authorization.json", authorization.to_string())),
            ("encryption-provider-config", write("encryption.json", encryption.to_string())),
        ]
    }
}

/// True when a file below the directory holds the text.
fn stored(dir: &Path, text: &str) -> bool {
    std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).any(|path| match path.is_dir() {
        true => stored(&path, text),
        false => path.is_file() && memchr::memmem::find(&std::fs::read(&path).unwrap(), text.as_bytes()).is_some(),
    })
}

fn secret(name: &str, value: &str) -> String {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"k": value}}).to_string()
}

#[test_case(false; "on the command line")]
#[test_case(true; "in the configuration file")]
fn what_access_flags_name_acts(in_file: bool) {
    let mut cluster = Cluster::prepare(&["--disable-agent"]);
    let dir = tempfile::tempdir().unwrap();
    let outside = Outside::start(&cluster);
    let files = outside.files(dir.path());
    let flags: Vec<String> = match in_file {
        false => files.iter().map(|(flag, path)| format!("--{flag}={}", path.display())).collect(),
        true => {
            let config: Value = files.iter().map(|(flag, path)| ((*flag).to_owned(), json!(path))).collect();
            let path = dir.path().join("config.yaml");
            std::fs::write(&path, config.to_string()).unwrap();
            vec![format!("--config={}", path.display())]
        }
    };
    cluster.restart_with(&flags);

    // Authentication: the issuer's word counts. Authorization: what no role lets her do, the webhook does.
    let jane = outside.token("jane");
    let (code, who) = cluster.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", Some(&jane), b"{}");
    let who: Value = serde_json::from_str(&who).unwrap();
    assert_eq!((code, &who["status"]["userInfo"]["username"]), (201, &json!("oidc:jane")));
    let secrets = "/api/v1/namespaces/default/secrets";
    assert_eq!(cluster.post(secrets, Some(&jane), secret("hidden", HIDDEN).as_bytes()).0, 201);
    let stranger = outside.token("stranger");
    assert_eq!(cluster.post(secrets, Some(&stranger), secret("other", HIDDEN).as_bytes()).0, 403);
    assert_eq!(cluster.post(secrets, Some(&format!("{jane}x")), b"{}").0, 401);
    // By its path: a client that may not even discover is told nothing.
    let thief = cluster.kubectl(&["get", "--raw=/api/v1/nodes", "--as=thief"]);
    assert!(thief.stderr.contains("a thief"), "{}", thief.stderr);
    assert!(outside.judge.seen().iter().all(|r| matches!(r["spec"]["user"].as_str(), Some("oidc:jane" | "thief"))));
    cluster.k(&["create", "configmap", "plain", &format!("--from-literal=k={PLAIN}")]);
    assert_eq!(cluster.k(&["get", "secret", "hidden", "-o", "jsonpath={.data.k}"]), STANDARD.encode(HIDDEN));

    // Audit: who made the Secret, and nothing of what is in it; nothing of other kinds.
    assert_eq!(cluster.end_server(Signal::SIGTERM), Some(0));
    let log = std::fs::read_to_string(dir.path().join("audit.log")).unwrap();
    let events: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let made = events.iter().find(|e| e["verb"] == "create" && e["user"]["username"] == "oidc:jane").unwrap();
    assert_eq!((&made["objectRef"]["resource"], &made["level"]), (&json!("secrets"), &json!("Metadata")));
    assert!(events.iter().all(|e| e["objectRef"]["resource"] == "secrets"));
    assert!(!log.contains(HIDDEN) && !log.contains(&STANDARD.encode(HIDDEN)));

    // Encryption: what is on the disk does not tell.
    assert!(stored(&cluster.data_dir(), PLAIN), "what is not encrypted is found");
    assert!(!stored(&cluster.data_dir(), &STANDARD.encode(HIDDEN)));
    cluster.restart_with(&flags);
    assert_eq!(cluster.k(&["get", "secret", "hidden", "-o", "jsonpath={.data.k}"]), STANDARD.encode(HIDDEN));
}
