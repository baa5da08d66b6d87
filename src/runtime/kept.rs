//! What a node last knew, on its disk: its pods and what they name, so that after a reboot without a server they start.
//!
//! In: the listers of the node, and the tokens that it was given. Out: one file, readable by root alone (it has Secrets in
//! it), replaced whole; and what it says, at a start that no server answers.
//!
//! **Invariant:** a file that is torn, too large, or another node's is as good as none, and the log says so.
//! **Invariant:** the file is written at most once in [`PAUSE`], and only when it would say something else.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use futures::StreamExt;
use futures::stream;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::sync::Notify;

use super::lister::Listers;
use super::references::references;
use crate::api::object::Object;
use crate::api::value::ValueExt;
use crate::util::files;
use crate::util::tasks::Shutdown;

/// The file's name below `<data-dir>/agent`.
pub const FILE: &str = "last-known";
/// Begins the file; another version begins otherwise.
const HEAD: &str = "orch-last-known/1 ";
/// Bytes of the file. A node whose pods name more keeps nothing.
const MAX_BYTES: usize = 64 << 20;
/// Changes come in bursts: a file is written so long after the first one.
const SETTLE: Duration = Duration::from_secs(1);
/// Between two writes at least.
const PAUSE: Duration = Duration::from_secs(20);
/// Tokens kept at most: three for each of the pods that a node may have.
const MAX_TOKENS: usize = 1024;
/// What is kept: plural names in the core group. Pods last: they are shown when what they name is there.
pub const KINDS: [&str; 5] = ["nodes", "services", "configmaps", "secrets", "pods"];

/// What a node knew.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Known {
    /// Objects by [`KINDS`].
    pub objects: BTreeMap<String, Vec<Value>>,
    /// Answers to requests for tokens.
    pub tokens: BTreeMap<String, Token>,
}

/// A token that was given.
#[derive(Clone, PartialEq)]
pub struct Token {
    /// Uid of the pod.
    pub pod: String,
    /// The TokenRequest with its status.
    pub answer: Value,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("pod", &self.pod).finish_non_exhaustive()
    }
}

/// The tokens that a node was given, to be kept.
#[derive(Debug, Default)]
pub struct Tokens {
    given: Mutex<BTreeMap<String, Token>>,
    changed: Notify,
}

impl Tokens {
    /// With those that were kept.
    pub fn new(kept: BTreeMap<String, Token>) -> Arc<Self> {
        Arc::new(Self { given: Mutex::new(kept), changed: Notify::new() })
    }

    /// What was answered to the same request.
    pub fn get(&self, key: &str) -> Option<Value> {
        self.given.lock().get(key).map(|t| t.answer.clone())
    }

    /// Remembers an answer. One too many is not kept.
    pub fn put(&self, key: String, pod: String, answer: Value) {
        let mut given = self.given.lock();
        if given.len() < MAX_TOKENS || given.contains_key(&key) {
            given.insert(key, Token { pod, answer });
            self.changed.notify_one();
        }
    }

    /// Those of the pods that there are; others are forgotten.
    fn of(&self, pods: &BTreeSet<String>) -> BTreeMap<String, Token> {
        let mut given = self.given.lock();
        given.retain(|_, token| pods.contains(&token.pod));
        given.clone()
    }
}

/// Keeps the file saying what the listers say, until the shutdown. Nothing is written before all pods are known, so that a
/// start without a server leaves the file as it is.
pub async fn keep(node: &str, path: PathBuf, listers: &dyn Listers, tokens: &Tokens, shutdown: &Shutdown) {
    let pods = listers.lister("", "pods");
    let deltas = KINDS.iter().map(|kind| listers.lister("", kind).deltas().map(|_| ()));
    let mut changes = stream::select_all(deltas);
    let mut written = None;
    loop {
        tokio::select! {
            () = shutdown.wait() => return,
            change = changes.next() => if change.is_none() { return },
            () = tokens.changed.notified() => {}
        }
        if !pods.synced() {
            continue;
        }
        if shutdown.or(tokio::time::sleep(SETTLE)).await.is_none() {
            return;
        }
        let known = gather(node, listers, tokens);
        let body = to_text(node, &known);
        let digest = hash(body.as_bytes());
        if written.as_ref() == Some(&digest) {
            continue;
        }
        match write(path.clone(), body, digest.clone()).await {
            Ok(()) => written = Some(digest),
            Err(error) => tracing::warn!("cannot keep what this node knows in {}: {error}", path.display()),
        }
        if shutdown.or(tokio::time::sleep(PAUSE)).await.is_none() {
            return;
        }
    }
}

/// What of the listers a node needs to start its pods.
fn gather(node: &str, listers: &dyn Listers, tokens: &Tokens) -> Known {
    let of = |kind: &str| listers.lister("", kind);
    let pods: Vec<Value> = of("pods").by_index("spec.nodeName", node).iter().map(|o| o.value()).collect();
    let alive = |pod: &&Value| !matches!(pod.str_at("/status/phase"), Some("Succeeded" | "Failed"));
    let pods: Vec<Value> = pods.iter().filter(alive).map(essence).collect();
    let uids = pods.iter().filter_map(|p| p.str_at("/metadata/uid").map(str::to_owned)).collect();
    let mut spaces: BTreeSet<&str> = pods.iter().filter_map(|p| p.str_at("/metadata/namespace")).collect();
    // Where the Service `kubernetes` is, which every pod's environment has.
    spaces.insert("default");
    let services = spaces.iter().flat_map(|ns| of("services").list(Some(ns)));
    let services = services.map(|o| essence(&o.value())).collect();
    let named: BTreeSet<_> = pods.iter().flat_map(references).collect();
    let read = |plural: &str| -> Vec<Value> {
        let lister = of(plural);
        let those = named.iter().filter(|r| r.plural == plural);
        those.filter_map(|r| lister.get(&r.namespace, &r.name)).map(|o| essence(&o.value())).collect()
    };
    let (config_maps, secrets) = (read("configmaps"), read("secrets"));
    let own = of("nodes").get("", node).map(|o| without_beats(o.value())).into_iter().collect();
    let objects = [("nodes", own), ("services", services), ("configmaps", config_maps), ("secrets", secrets)];
    let objects = objects.into_iter().chain([("pods", pods)]).map(|(kind, all)| (kind.to_owned(), all)).collect();
    Known { objects, tokens: tokens.of(&uids) }
}

/// An object without its history of writers, which is half of it.
fn essence(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(meta) = object.pointer_mut("/metadata").and_then(Value::as_object_mut) {
        meta.remove("managedFields");
    }
    object
}

/// The Node without what changes with every sign of life.
fn without_beats(node: Value) -> Value {
    let mut node = essence(&node);
    node["status"] = json!({"addresses": node["status"]["addresses"], "capacity": node["status"]["capacity"],
        "allocatable": node["status"]["allocatable"], "nodeInfo": node["status"]["nodeInfo"]});
    if let Some(meta) = node.pointer_mut("/metadata").and_then(Value::as_object_mut) {
        meta.remove("resourceVersion");
    }
    node
}

fn to_text(node: &str, known: &Known) -> String {
    let tokens: Map<String, Value> = known
        .tokens
        .iter()
        .map(|(key, token)| (key.clone(), json!({"pod": token.pod, "answer": token.answer})))
        .collect();
    json!({"node": node, "objects": known.objects, "tokens": tokens}).to_string()
}

fn hash(bytes: &[u8]) -> String {
    digest::digest(&digest::SHA256, bytes).as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

async fn write(path: PathBuf, body: String, digest: String) -> io::Result<()> {
    if body.len() > MAX_BYTES {
        return Err(io::Error::other(format!("{} bytes are more than {MAX_BYTES}", body.len())));
    }
    let text = format!("{HEAD}{digest}\n{body}");
    let written = move || files::write_atomic(&path, text.as_bytes(), files::SECRET_MODE);
    tokio::task::spawn_blocking(written).await.map_err(io::Error::other)?
}

/// What the file says; none where there is no file that is whole and this node's.
pub fn read(path: &Path, node: &str) -> Option<Known> {
    let size = std::fs::metadata(path).map(|m| m.len());
    let text = match size {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
        Ok(bytes) if bytes > (MAX_BYTES + HEAD.len() + 80) as u64 => Err(format!("{bytes} bytes are too many")),
        Ok(_) => std::fs::read_to_string(path).map_err(|e| e.to_string()),
        Err(e) => Err(e.to_string()),
    };
    match text.and_then(|text| parse(&text, node)) {
        Ok(known) => Some(known),
        Err(why) => {
            tracing::warn!("what this node knew last is lost: {}: {why}", path.display());
            None
        }
    }
}

fn parse(text: &str, node: &str) -> Result<Known, String> {
    let (head, body) = text.split_once('\n').ok_or("it is cut off")?;
    let digest = head.strip_prefix(HEAD).ok_or("it is of another version, or no such file")?;
    if hash(body.as_bytes()) != digest {
        return Err("it is torn: its checksum is another".into());
    }
    let value: Value = serde_json::from_str(body).map_err(|e| e.to_string())?;
    if value.str_at("/node") != Some(node) {
        return Err(format!("it is of node {}", value.str_at("/node").unwrap_or_default()));
    }
    let objects =
        KINDS.iter().map(|kind| ((*kind).to_owned(), value["objects"].items_at(&format!("/{kind}")).to_vec()));
    let tokens = value["tokens"].as_object().into_iter().flatten().map(|(key, token)| {
        let pod = token.str_at("/pod").unwrap_or_default().to_owned();
        (key.clone(), Token { pod, answer: token["answer"].clone() })
    });
    Ok(Known { objects: objects.collect(), tokens: tokens.collect() })
}

impl Known {
    /// The objects of a kind, as a lister has them.
    pub fn of(&self, kind: &str, pointers: &[&'static str]) -> Vec<Arc<Object>> {
        let all = self.objects.get(kind).into_iter().flatten();
        all.map(|value| Arc::new(Object::from_value(value, pointers))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{Res, res};
    use crate::runtime::fake::FakeListers;
    use std::os::unix::fs::PermissionsExt;

    fn cluster() -> Arc<FakeListers> {
        let cluster = Arc::new(FakeListers::default());
        let meta = |name: &str, ns: &str| {
            json!({"name": name, "namespace": ns, "uid": format!("{name}-uid"),
            "resourceVersion": "7", "managedFields": [{"manager": "m"}]})
        };
        let volume = json!([{"name": "v", "secret": {"secretName": "s"}}]);
        let pod = |name: &str, node: &str, phase: &str| {
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": meta(name, "d"),
            "spec": {"nodeName": node, "volumes": volume}, "status": {"phase": phase}})
        };
        for (kind, object) in [
            ("pods", pod("mine", "n", "Running")),
            ("pods", pod("done", "n", "Succeeded")),
            ("pods", pod("other", "m", "Running")),
            ("secrets", json!({"metadata": meta("s", "d"), "data": {"k": "dg=="}})),
            ("secrets", json!({"metadata": meta("unused", "d")})),
            ("services", json!({"metadata": meta("kubernetes", "default")})),
            ("services", json!({"metadata": meta("far", "elsewhere")})),
            (
                "nodes",
                json!({"metadata": meta("n", ""), "spec": {"podCIDR": "10.42.1.0/24"}, "status": {"conditions": [{}]}}),
            ),
        ] {
            cluster.upsert(resource(kind), &object);
        }
        cluster
    }

    fn resource(plural: &str) -> &'static Res {
        res::ALL.iter().find(|r| r.group.is_empty() && r.plural == plural).unwrap()
    }

    fn names(known: &Known, kind: &str) -> Vec<String> {
        known.of(kind, &[]).iter().map(|o| o.meta.name.clone()).collect()
    }

    #[test]
    fn what_the_nodes_pods_need_is_kept_and_no_more() {
        let tokens = Tokens::new(BTreeMap::new());
        tokens.put("a".into(), "mine-uid".into(), json!({"status": {"token": "t"}}));
        tokens.put("b".into(), "gone-uid".into(), json!({}));
        let known = gather("n", &*cluster(), &tokens);
        let all: Vec<_> = KINDS.iter().map(|kind| names(&known, kind).join(",")).collect();
        assert_eq!(all, ["n", "kubernetes", "", "s", "mine"]);
        assert_eq!(known.tokens.keys().collect::<Vec<_>>(), ["a"]);
        assert!(!to_text("n", &known).contains("managedFields"));
        assert!(!format!("{:?}", known.tokens).contains("status"), "no token in a log");
        assert_eq!(
            parse(&format!("{HEAD}{}\n{}", hash(to_text("n", &known).as_bytes()), to_text("n", &known)), "n"),
            Ok(known)
        );
    }

    #[tokio::test]
    async fn torn_and_foreign_files_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        assert_eq!(read(&path, "n"), None);
        let body = to_text("n", &Known::default());
        write(path.clone(), body.clone(), hash(body.as_bytes())).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(read(&path, "n").is_some());
        assert_eq!(read(&path, "m"), None);
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            assert_eq!(read(&path, "n"), None, "cut at {cut}");
        }
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        std::fs::write(&path, flipped).unwrap();
        assert_eq!(read(&path, "n"), None);
    }

    /// A busy node does not write more often than it may, and a quiet one not at all.
    #[tokio::test(start_paused = true)]
    async fn writes_are_few() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let (cluster, stop, tokens) = (cluster(), Shutdown::new(), Tokens::new(BTreeMap::new()));
        let keeping = keep("n", path.clone(), &*cluster, &tokens, &stop);
        let looking = async {
            let mut versions = BTreeSet::new();
            for round in 0..120 {
                let labels = json!({"round": round.to_string()});
                let service = json!({"metadata": {"name": "busy", "namespace": "default", "labels": labels}});
                cluster.upsert(&res::SERVICES, &service);
                tokio::time::sleep(Duration::from_secs(1)).await;
                versions.extend(std::fs::read(&path).ok());
            }
            stop.trigger();
            versions.len()
        };
        let ((), versions) = tokio::join!(keeping, looking);
        assert!((2..=7).contains(&versions), "{versions} in two minutes");
    }
}
