//! Add-ons: the manifests in a directory of the server are what the cluster has.
//!
//! In: `<data-dir>/server/manifests`, read when the kernel says that it changed ([`files`]). Out: server-side apply under a
//! field manager of ours, deletions, events. [`plan`] decides.
//!
//! What was applied of a file is remembered in a ConfigMap of kube-system, and each object carries the name of its add-on.
//! The ConfigMap is written *before* anything is applied, with everything that may then exist, and again with what is left
//! when all is done: whenever the server is killed, what it applied is known to the next one. (k3s keeps the like in an
//! object of a kind of its own; a ConfigMap needs no definition and can be read with any client.)
//!
//! **Invariant:** only what carries the add-on's name is deleted. **Invariant:** a file that cannot be read, or not be
//! applied whole, removes nothing.

pub mod files;
pub mod plan;

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::FutureExt;
use serde_json::{Value, json};
use tokio::time::Instant;

use self::files::Watch;
use self::plan::{File, Record, Ref, Step};
use super::common::discovery;
use crate::api::object::Object;
use crate::api::status::{ApiResult, Reason};
use crate::api::value::ValueExt;
use crate::client::{Client, DeleteOptions, Patch, Res, optional, res};
use crate::runtime::events::{self, EventType, Regarding};
use crate::runtime::metrics::Registry;
use crate::runtime::{Cx, Listers};
use crate::util::backoff::Backoff;
use crate::util::clock::SharedClock;
use crate::util::order::Arrange;
use crate::util::tasks::{OnEnd, Shutdown, Tasks};

/// Who owns the fields of what is applied.
pub const MANAGER: &str = "orch-addons";
/// The name of the object's add-on, as an annotation; a label on records, with `true`.
pub const MARK: &str = "orch.internal/addon";
/// Where records are, and what their names begin with.
const NAMESPACE: &str = "kube-system";
const PREFIX: &str = "addon-";
/// Between attempts at a file that could not be applied whole: its CustomResourceDefinitions may be on their way.
const RETRY: Backoff = Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(300) };

/// What add-ons have to be told.
#[derive(Debug, Clone)]
pub struct Config {
    /// The directory.
    pub dir: PathBuf,
    /// Whose it is: this server's name.
    pub server: String,
    /// Add-ons that are treated as if their files were not there.
    pub disabled: Vec<String>,
}

/// Why the directory cannot be followed.
#[derive(Debug, thiserror::Error)]
#[error("cannot follow the manifests in {dir}: {source}")]
pub struct AddonsError {
    dir: PathBuf,
    source: io::Error,
}

/// Starts it as a task that is started again when it fails. The client may do whatever manifests ask for.
pub fn start(
    tasks: &mut Tasks,
    config: Config,
    client: Client,
    listers: &Arc<dyn Listers>,
    clock: &SharedClock,
    metrics: &Registry,
) {
    let (recorder, writer) = events::recorder(client.named(MANAGER), MANAGER, "", clock.clone());
    tasks.own("addon-events", OnEnd::Fine, move |stop| async move {
        writer.run(stop).await;
        Ok(())
    });
    let cx = Cx {
        client: client.named(MANAGER),
        listers: listers.clone(),
        clock: clock.clone(),
        events: recorder,
        metrics: metrics.clone(),
    };
    tasks.own_restarting("addons", Backoff::RESTART, move |stop| {
        let (cx, config) = (cx.clone(), config.clone());
        async move { Ok(run(cx, &config, stop).await?) }.boxed()
    });
}

/// Follows the directory until the shutdown.
pub async fn run(cx: Cx, config: &Config, stop: Shutdown) -> Result<(), AddonsError> {
    let failed = |source| AddonsError { dir: config.dir.clone(), source };
    follow(cx, config, stop).await.map_err(failed)
}

async fn follow(cx: Cx, config: &Config, stop: Shutdown) -> io::Result<()> {
    let dir = &config.dir;
    crate::util::files::create_dir_durable(dir)?;
    let mut watch = Watch::new()?;
    let mut addons = Addons { cx, config, retries: HashMap::new(), told: HashMap::new() };
    let mut again = true;
    loop {
        // Watched before it is read, so that nothing is missed between the two.
        watch.follow(dir)?;
        let look = files::look(dir, &watch.open, &config.disabled, SystemTime::now())?;
        addons.work(&look.files, again).await;
        again = false;
        let settled = look.again_in.map(|d| Instant::now() + d);
        let next = settled.into_iter().chain(addons.retries.values().map(|r| r.at)).min();
        let due = async {
            match next {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.wait() => return Ok(()),
            changed = watch.next() => changed?,
            () = due => {}
        }
    }
}

/// A file that is to be tried again.
struct Retry {
    failures: u32,
    at: Instant,
    /// Of what failed: a change is tried at once.
    checksum: String,
}

struct Addons<'a> {
    cx: Cx,
    config: &'a Config,
    /// By add-on.
    retries: HashMap<String, Retry>,
    /// What was said of a file that cannot be read, so that it is said once.
    told: HashMap<String, String>,
}

impl Addons<'_> {
    /// Does what the files ask for.
    async fn work(&mut self, files: &[File], again: bool) {
        let records = self.records();
        let known = |name: &String| files.iter().any(|f| f.name == *name) || records.iter().any(|r| r.name == *name);
        self.told.retain(|name, _| known(name));
        self.retries.retain(|name, _| known(name));
        let failed: HashSet<String> = self.retries.keys().cloned().collect();
        let steps = plan::plan(files, &records, &self.config.server, |name| again || failed.contains(name));
        for step in steps {
            let (name, checksum) = match &step {
                Step::Apply(file, _) | Step::Complain(file, _) => (&file.name, file.checksum.as_str()),
                Step::Prune(record) => (&record.name, ""),
            };
            if self.retries.get(name).is_some_and(|r| r.at > Instant::now() && r.checksum == checksum) {
                continue;
            }
            let done = match &step {
                Step::Apply(file, objects) => self.apply(file, objects, records.iter().find(|r| r.name == *name)).await,
                Step::Complain(file, why) => {
                    self.complain(file, why);
                    Ok(())
                }
                Step::Prune(record) => self.prune(record).await,
            };
            match done {
                Ok(()) => drop(self.retries.remove(name)),
                Err(why) => self.try_again(name, checksum, &why),
            }
        }
    }

    fn try_again(&mut self, name: &str, checksum: &str, why: &str) {
        let failures = self.retries.get(name).map_or(0, |r| r.failures) + 1;
        let delay = RETRY.delay(failures);
        tracing::warn!(addon = name, "cannot be brought up to date, trying again in {} s: {why}", delay.as_secs());
        let retry = Retry { failures, at: Instant::now() + delay, checksum: checksum.to_owned() };
        self.retries.insert(name.to_owned(), retry);
        self.event(name, EventType::Warning, "ApplyManifestFailed", why);
    }

    fn complain(&mut self, file: &File, why: &str) {
        let message = format!("{}: {why}", self.config.dir.join(&file.source).display());
        if self.told.get(&file.name) == Some(&message) {
            return;
        }
        tracing::error!(addon = file.name, "cannot read the manifest {message}; what it said before stays");
        self.event(&file.name, EventType::Warning, "ParseManifestFailed", &message);
        self.told.insert(file.name.clone(), message);
    }

    fn event(&self, name: &str, kind: EventType, reason: &str, message: &str) {
        let about = Regarding {
            api_version: "v1".into(),
            kind: "ConfigMap".into(),
            namespace: NAMESPACE.into(),
            name: format!("{PREFIX}{name}"),
            ..Regarding::default()
        };
        self.cx.events.event(about, kind, reason, message);
    }

    /// Applies a file whole, then removes what it no longer has.
    async fn apply(&mut self, file: &File, objects: &[Value], before: Option<&Record>) -> Result<(), String> {
        self.told.remove(&file.name);
        let (resolved, mut failures) = self.resolve(objects).await?;
        let new: Vec<Ref> = resolved.iter().map(|(_, r, _)| r.clone()).collect();
        let old = before.map(|r| r.objects.as_slice()).unwrap_or_default();
        let mut record = Record {
            name: file.name.clone(),
            source: file.source.clone(),
            server: self.config.server.clone(),
            checksum: String::new(),
            objects: plan::union(old, &new),
        };
        // At a restart the same is applied again: nothing new can come of it.
        let is_known = before.is_some_and(|b| b.objects == record.objects && b.checksum == file.checksum);
        if !is_known {
            self.remember(&record).await?;
        }
        for (res, r, object) in &resolved {
            if let Err(e) = self.apply_one(&file.name, res, r, object).await {
                failures.push(format!("{r}: {e}"));
            }
        }
        if !failures.is_empty() {
            return Err(failures.join("; "));
        }
        let extra: Vec<&Ref> = record.objects.iter().filter(|o| !new.iter().any(|n| n.is_same(o))).collect();
        self.remove(&file.name, extra).await?;
        if is_known {
            return Ok(());
        }
        record.objects = plan::union(&[], &new);
        record.checksum.clone_from(&file.checksum);
        self.remember(&record).await?;
        tracing::info!(addon = file.name, objects = new.len(), "applied {}", file.source);
        self.event(&file.name, EventType::Normal, "AppliedManifest", &format!("Applied manifest at {:?}", file.source));
        Ok(())
    }

    /// Finds the resource of each object; those of kinds that are not there yet are told.
    async fn resolve<'o>(&self, objects: &'o [Value]) -> Result<(Vec<(Res, Ref, &'o Value)>, Vec<String>), String> {
        let (mut resolved, mut missing) = (Vec::new(), Vec::new());
        let mut kinds = discovery::Kinds::of(&self.cx.client);
        for object in objects {
            let text = |pointer| object.str_at(pointer).unwrap_or_default();
            let (version, kind) = (text("/apiVersion"), text("/kind"));
            let Some(res) = kinds.find(version, kind).await.map_err(|e| e.to_string())? else {
                missing.push(format!("no kind {kind:?} in {version:?}"));
                continue;
            };
            let namespace = match (res.namespaced, text("/metadata/namespace")) {
                (false, _) => "",
                (true, "") => "default",
                (true, ns) => ns,
            };
            let r = Ref {
                api_version: version.to_owned(),
                kind: kind.to_owned(),
                namespace: namespace.to_owned(),
                name: text("/metadata/name").to_owned(),
            };
            resolved.push((res, r, object));
        }
        missing.dedup();
        Ok((resolved, missing))
    }

    async fn apply_one(&self, addon: &str, res: &Res, r: &Ref, object: &Value) -> ApiResult<()> {
        let mut body = object.clone();
        body["metadata"]["annotations"][MARK] = addon.into();
        if res.namespaced {
            body["metadata"]["namespace"] = r.namespace.as_str().into();
        }
        let patch = Patch::Apply { body: &body, manager: MANAGER, force: true };
        self.cx.client.patch(res, &r.namespace, &r.name, None, patch).await.map(drop)
    }

    /// Removes all that a file had, and then the record.
    async fn prune(&mut self, record: &Record) -> Result<(), String> {
        self.remove(&record.name, record.objects.iter().collect()).await?;
        let name = format!("{PREFIX}{}", record.name);
        let deleted = self.cx.client.delete(&res::CONFIG_MAPS, NAMESPACE, &name, &DeleteOptions::default()).await;
        optional(deleted).map_err(|e| format!("cannot delete its record: {e}"))?;
        tracing::info!(addon = record.name, objects = record.objects.len(), "removed what {} had", record.source);
        Ok(())
    }

    /// Deletes objects that are still the add-on's, in the reverse of the order in which they are applied.
    async fn remove(&self, addon: &str, mut refs: Vec<&Ref>) -> Result<(), String> {
        refs.arrange_by_key(|r| std::cmp::Reverse(plan::rank_of(r)));
        let mut kinds = discovery::Kinds::of(&self.cx.client);
        let mut failures = Vec::new();
        for r in refs {
            let done = match kinds.find(&r.api_version, &r.kind).await {
                Ok(Some(res)) => self.remove_one(addon, &res, r).await,
                // Its kind is gone, and so is it.
                Ok(None) => Ok(()),
                Err(e) => Err(e),
            };
            if let Err(e) = done {
                failures.push(format!("cannot delete {r}: {e}"));
            }
        }
        if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) }
    }

    async fn remove_one(&self, addon: &str, res: &Res, r: &Ref) -> ApiResult<()> {
        let Some(there) = optional(self.cx.client.get(res, &r.namespace, &r.name).await)? else { return Ok(()) };
        let owner = there.get_at("/metadata/annotations").and_then(|a| a.get(MARK)).and_then(Value::as_str);
        if owner != Some(addon) {
            return Ok(());
        }
        let options = DeleteOptions::of_uid(there.str_at("/metadata/uid").unwrap_or_default());
        match self.cx.client.delete(res, &r.namespace, &r.name, &options).await {
            // Somebody else was faster, or has made another one since.
            Err(e) if matches!(e.reason, Reason::NotFound | Reason::Conflict) => Ok(()),
            other => other.map(drop),
        }
    }

    fn records(&self) -> Vec<Record> {
        let all = self.cx.listers.lister("", "configmaps").list(Some(NAMESPACE));
        let ours = all.iter().filter(|o| o.meta.label(MARK).is_some());
        let record = |o: &Arc<Object>| {
            let name = o.meta.name.strip_prefix(PREFIX)?;
            plan::from_data(name, o.value().get("data")?)
        };
        ours.filter_map(record).collect()
    }

    async fn remember(&self, record: &Record) -> Result<(), String> {
        let name = format!("{PREFIX}{}", record.name);
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": NAMESPACE,
            "labels": {MARK: "true"}}, "data": plan::to_data(record)});
        let patch = Patch::Apply { body: &body, manager: MANAGER, force: true };
        let written = self.cx.client.patch(&res::CONFIG_MAPS, NAMESPACE, &name, None, patch).await;
        written.map(drop).map_err(|e| format!("cannot write its record: {e}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::fake::Cluster;

    const TWO: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: a, namespace: space}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: b, namespace: space}
";

    struct Bench {
        cluster: Cluster,
        config: Config,
    }

    impl Bench {
        fn new() -> Self {
            let config = Config { dir: "/manifests".into(), server: "me".into(), disabled: Vec::new() };
            Self { cluster: Cluster::new(), config }
        }

        /// One look at a directory with these files.
        async fn look(&self, files: &[(&str, &str)]) -> usize {
            let file = |(source, text): &(&str, &str)| File {
                name: plan::name(source),
                source: (*source).to_owned(),
                checksum: text.len().to_string(),
                content: plan::objects(text).map_or_else(plan::Content::Broken, plan::Content::Objects),
            };
            let files: Vec<File> = files.iter().map(file).collect();
            let cx = self.cluster.cx();
            let mut addons = Addons { cx, config: &self.config, retries: HashMap::new(), told: HashMap::new() };
            addons.work(&files, false).await;
            addons.retries.len()
        }

        fn names(&self, ns: &str) -> Vec<String> {
            let all = self.cluster.api.all(&res::CONFIG_MAPS);
            let mine = all.iter().filter(|o| o.str_at("/metadata/namespace") == Some(ns));
            mine.filter_map(|o| o.str_at("/metadata/name").map(str::to_owned)).collect()
        }

        fn record(&self) -> Record {
            let object = self.cluster.get(&res::CONFIG_MAPS, NAMESPACE, "addon-x").unwrap();
            plan::from_data("x", &object["data"]).unwrap()
        }
    }

    #[tokio::test]
    async fn what_a_file_has_is_there_and_what_it_loses_goes() {
        let bench = Bench::new();
        assert_eq!(bench.look(&[("x.yaml", TWO)]).await, 0);
        assert_eq!(bench.names("space"), ["a", "b"]);
        assert_eq!((bench.record().objects.len(), bench.record().source.as_str()), (2, "x.yaml"));
        let one = TWO.split("---").next().unwrap();
        bench.look(&[("x.yaml", one)]).await;
        assert_eq!(bench.names("space"), ["a"]);
        bench.look(&[("x.yaml", "a: [")]).await;
        assert_eq!(bench.names("space"), ["a"], "a broken file changes nothing");
        bench.look(&[]).await;
        assert_eq!((bench.names("space").len(), bench.names(NAMESPACE).len()), (0, 0));
    }

    #[tokio::test]
    async fn what_somebody_else_has_made_since_is_left_alone() {
        let bench = Bench::new();
        bench.look(&[("x.yaml", TWO)]).await;
        let a = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "space"}});
        bench.cluster.put(a);
        bench.look(&[]).await;
        assert_eq!(bench.names("space"), ["a"]);
    }

    #[tokio::test]
    async fn an_unknown_kind_is_waited_for_and_nothing_is_removed_meanwhile() {
        let bench = Bench::new();
        bench.look(&[("x.yaml", TWO)]).await;
        let one = TWO.split("---").next().unwrap();
        let more = format!("{one}\n---\napiVersion: x.example/v1\nkind: Thing\nmetadata: {{name: t}}\n");
        assert_eq!(bench.look(&[("x.yaml", &more)]).await, 1, "it is to be tried again");
        assert_eq!(bench.names("space"), ["a", "b"]);
        let record = bench.record();
        assert_eq!((record.checksum.as_str(), record.objects.len()), ("", 2), "the record says that it is not done");
    }
}
