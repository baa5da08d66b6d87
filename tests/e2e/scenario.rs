//! Scenarios that share a cluster: each has a namespace of its own and speaks JSON with the API, and many run together.
//!
//! In: a cluster and a list of scenarios. Out: nothing, or every scenario that failed and why.

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use futures::future::{FutureExt, LocalBoxFuture};
use futures::stream::{self, StreamExt};
use http::header::CONTENT_TYPE;
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::{Value, json};

use crate::harness::{Cluster, PATIENCE};

/// The image of every container.
pub const IMAGE: &str = "localhost/orch/web:v1";
/// Scenarios that run together: most of them wait most of the time.
const AT_ONCE: usize = 10;
/// Pause between two looks at something.
const LOOK_AGAIN: Duration = Duration::from_millis(150);
/// Where the resources are.
const GROUPS: &[(&str, &[&str])] = &[
    (
        "/api/v1",
        &[
            "pods",
            "replicationcontrollers",
            "resourcequotas",
            "limitranges",
            "serviceaccounts",
            "services",
            "events",
            "persistentvolumeclaims",
        ],
    ),
    ("/apis/apps/v1", &["deployments", "replicasets", "statefulsets", "daemonsets", "controllerrevisions"]),
    ("/apis/batch/v1", &["jobs", "cronjobs"]),
    ("/apis/policy/v1", &["poddisruptionbudgets"]),
];

/// A scenario and its name.
pub type Scenario = (&'static str, fn(Api) -> LocalBoxFuture<'static, ()>);

/// A list of scenarios of their functions.
macro_rules! scenarios {
    ($($function:path),* $(,)?) => { &[$((stringify!($function), |api| Box::pin($function(api)))),*] };
}
pub(crate) use scenarios;

/// Runs scenarios, many at a time, and fails with all that failed.
pub fn run(cluster: &Cluster, all: &[Scenario]) {
    let kubeconfig = cluster.kubeconfig();
    let failed: Vec<String> = cluster.block_on(|| async move {
        orch::pki::install_provider();
        let client = orch::client::Client::from_kubeconfig(&kubeconfig).await.unwrap().kube().unwrap().clone();
        let one = |(name, scenario): Scenario| {
            let client = client.clone();
            async move {
                let began = Instant::now();
                let whole = async { scenario(Api::in_namespace_of_its_own(client, name).await).await };
                let end = AssertUnwindSafe(whole).catch_unwind().await;
                println!("{:5.1} s {name}", began.elapsed().as_secs_f32());
                end.err().map(|panic| {
                    let text = panic.downcast_ref::<String>().map(String::as_str);
                    format!("{name}: {}", text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic"))
                })
            }
        };
        stream::iter(all.iter().copied()).map(one).buffer_unordered(AT_ONCE).filter_map(|f| async { f }).collect().await
    });
    assert!(
        failed.is_empty(),
        "{} of {} failed:\n{}\n{}",
        failed.len(),
        all.len(),
        failed.join("\n"),
        cluster.describe()
    );
}

/// The API, with the namespace of a scenario.
#[derive(Clone)]
pub struct Api {
    client: kube::Client,
    pub namespace: String,
}

impl Api {
    async fn in_namespace_of_its_own(client: kube::Client, scenario: &str) -> Self {
        let namespace = scenario.replace("::", "-").replace(['_', ' '], "-");
        let api = Self { client, namespace };
        api.create("/api/v1/namespaces", json!({"metadata": {"name": api.namespace}})).await;
        api.until("the default account", "serviceaccounts/default", |a| a["kind"] == "ServiceAccount").await;
        api
    }

    /// `pods/x` in the scenario's namespace; a path that begins with `/` is itself.
    pub fn path(&self, what: &str) -> String {
        if what.starts_with('/') {
            return what.to_owned();
        }
        let resource = what.split(['/', '?']).next().unwrap_or_default();
        let (group, _) = GROUPS.iter().find(|g| g.1.contains(&resource)).unwrap_or_else(|| panic!("no group: {what}"));
        format!("{group}/namespaces/{}/{what}", self.namespace)
    }

    /// Code and body of an answer; what is no JSON is a string.
    pub async fn send(&self, method: &str, what: &str, content_type: &str, body: &Value) -> (u16, Value) {
        let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let request = http::Request::builder().method(method).uri(self.path(what)).header(CONTENT_TYPE, content_type);
        let answer = self.client.send(request.body(Body::from(bytes)).unwrap()).await.unwrap();
        let code = answer.status().as_u16();
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        let text = || String::from_utf8_lossy(&bytes).trim().to_owned();
        (code, serde_json::from_slice(&bytes).unwrap_or_else(|_| text().into()))
    }

    async fn well(&self, method: &str, what: &str, content_type: &str, body: &Value) -> Value {
        let (code, answer) = self.send(method, what, content_type, body).await;
        assert!((200..300).contains(&code), "{method} {what}: {code} {answer}\n{body}");
        answer
    }

    pub async fn get(&self, what: &str) -> Value {
        self.well("GET", what, "application/json", &Value::Null).await
    }

    pub async fn create(&self, what: &str, body: Value) -> Value {
        self.well("POST", what, "application/json", &body).await
    }

    /// A merge patch.
    pub async fn patch(&self, what: &str, body: Value) -> Value {
        self.well("PATCH", what, "application/merge-patch+json", &body).await
    }

    pub async fn delete(&self, what: &str) -> Value {
        self.well("DELETE", what, "application/json", &json!({"propagationPolicy": "Background"})).await
    }

    /// Reads, changes and replaces, as often as somebody else was quicker.
    pub async fn update(&self, what: &str, change: impl Fn(&mut Value)) -> Value {
        for _ in 0..20 {
            let mut object = self.get(what).await;
            change(&mut object);
            let (code, answer) = self.send("PUT", what, "application/json", &object).await;
            if code != 409 {
                assert_eq!(code, 200, "PUT {what}: {answer}");
                return answer;
            }
        }
        panic!("PUT {what}: somebody else was quicker each time")
    }

    /// Waits until an object is as it should be; one that is not there is an answer of status 404.
    pub async fn until(&self, why: &str, what: &str, mut is_it: impl FnMut(&Value) -> bool) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            let (_, now) = self.send("GET", what, "application/json", &Value::Null).await;
            if is_it(&now) {
                return now;
            }
            assert!(Instant::now() < end, "{}: {why}: {what} is {now}", self.namespace);
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    pub async fn gone(&self, what: &str) {
        self.until("it is gone", what, |a| a["code"] == 404).await;
    }

    /// Follows a collection from a revision on until it was enough.
    pub async fn follow(&self, what: &str, since: &Value, mut enough: impl FnMut(&str, &Value) -> bool) {
        let (since, and) = (since.as_str().expect("a revision"), if what.contains('?') { '&' } else { '?' });
        let uri =
            format!("{}{and}watch=1&resourceVersion={since}&timeoutSeconds={}", self.path(what), PATIENCE.as_secs());
        let answer = self.client.send(http::Request::get(uri).body(Body::empty()).unwrap()).await.unwrap();
        let (mut body, mut read) = (answer.into_body(), Vec::new());
        while let Some(frame) = body.frame().await {
            read.extend(frame.unwrap().into_data().unwrap_or_default());
            while let Some(end) = read.iter().position(|b| *b == b'\n') {
                let event: Value = serde_json::from_slice(&read.drain(..=end).collect::<Vec<u8>>()).unwrap();
                if enough(event["type"].as_str().unwrap(), &event["object"]) {
                    return;
                }
            }
        }
        panic!("{}: the watch of {what} ended before it was enough", self.namespace)
    }

    /// The pods with a label `app` that are not on their way out.
    pub async fn pods(&self, app: &str) -> Vec<Value> {
        alive(&self.get(&format!("pods?labelSelector=app%3D{app}")).await)
    }

    /// Waits until the pods with a label `app` are as they should be.
    pub async fn until_pods(&self, why: &str, app: &str, mut are: impl FnMut(&[Value]) -> bool) -> Vec<Value> {
        alive(&self.until(why, &format!("pods?labelSelector=app%3D{app}"), |list| are(&alive(list))).await)
    }
}

fn alive(list: &Value) -> Vec<Value> {
    let items = list["items"].as_array().cloned().unwrap_or_default();
    items.into_iter().filter(|p| p["metadata"].get("deletionTimestamp").is_none()).collect()
}

/// The name of an object.
pub fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap()
}

/// The names of a list's items.
pub fn names(list: &Value) -> Vec<String> {
    list["items"].as_array().unwrap().iter().map(|i| name(i).to_owned()).collect()
}

/// A condition's status; empty where there is none.
pub fn condition<'a>(object: &'a Value, kind: &str) -> &'a str {
    let all = object["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().find(|c| c["type"] == kind).and_then(|c| c["status"].as_str()).unwrap_or_default()
}

/// True when a pod is ready.
pub fn ready(pod: &Value) -> bool {
    condition(pod, "Ready") == "True"
}

/// A template of pods with a label `app`, of one container; without a command it is the web server.
pub fn template(app: &str, command: &[&str]) -> Value {
    let me = json!({"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}});
    let mut container = json!({"name": "main", "image": IMAGE, "env": [me]});
    if !command.is_empty() {
        container["command"] = json!(command);
    }
    json!({
        "metadata": {"labels": {"app": app}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]},
    })
}

/// A pod of such a template.
pub fn pod(name: &str, command: &[&str]) -> Value {
    let mut pod = template(name, command);
    pod["metadata"]["name"] = name.into();
    pod
}

/// A workload whose selector is its template's label `app`, which is its name too.
pub fn workload(app: &str, replicas: u64, template: Value) -> Value {
    json!({
        "metadata": {"name": app, "labels": {"app": app}},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": app}}, "template": template},
    })
}
