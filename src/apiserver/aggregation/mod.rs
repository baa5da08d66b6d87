//! API groups that others serve: extension API servers, registered by APIServices.
//!
//! In: APIServices, Services and EndpointSlices from the watch cache; requests below `/apis/<group>/<version>`. Out: those
//! requests passed on, discovery with what is served elsewhere, and the condition `Available` of each APIService. Every
//! server looks for itself; what it finds it writes, and who loses a race looks again.
//!
//! **Invariant:** a request is passed on after it was authenticated and authorized here, and carries who asks, not how that
//! was proved.
//! **Invariant:** what the server serves itself is never served elsewhere.
//!
//! Unlike upstream's, the check of availability believes no other certificates than requests do: what it says is what
//! requests will find.

mod check;
mod documents;
mod forward;
mod plan;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::digest;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use serde_json::Value;
use tokio::time::Instant;

use crate::api::meta::GroupResource;
use crate::api::schema::openapi;
use crate::api::services::SERVICE_NAME_LABEL;
use crate::api::status::{ApiResult, Reason};
use crate::api::user::UserInfo;
use crate::api::value::ValueExt;
use crate::client::{Credentials, Passage, Peer};
use crate::pki::hex;
use crate::registry::apiextensions::set_condition;
use crate::registry::outward::Roads as _;
use crate::registry::write::DeleteOptions;
use crate::registry::{Op, Registry, RequestCx, Resource, Target};
use crate::store::cache::{Event, Since};
use crate::util::backoff::Backoff;
use crate::util::clock::SharedClock;
use crate::util::tasks::Shutdown;

use super::roads::Roads;
use super::{Api, Call, discovery, proxy};

pub(super) use documents::{into_aggregated, into_group, into_group_list};
use plan::{Remote, Verdict};

const GROUP: &str = "apiregistration.k8s.io";
const PLURAL: &str = "apiservices";
/// Time between two looks at an extension server that answers: its node may have gone without a word. Upstream's.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// After a look that failed.
const LOOK_SOON: Backoff = Backoff { base: Duration::from_millis(250), cap: Duration::from_secs(30) };

/// A group version that is served elsewhere.
pub(super) struct Extension {
    /// What its APIService says.
    pub(super) remote: Remote,
    /// What it told of itself last.
    pub(super) learned: Arc<ArcSwap<Learned>>,
    /// None when its CA cannot be read.
    passage: Option<Passage>,
}

/// What an extension server tells of itself.
#[derive(Debug, Default)]
pub(super) struct Learned {
    /// Its resources, an `APIResourceList`.
    pub(super) resources: Value,
    /// Where its OpenAPI v3 document of the group version is, if it has one.
    pub(super) openapi: Option<String>,
    /// What its OpenAPI v2 document says of the group version.
    pub(super) part: Arc<Published>,
}

/// Of an extension server's OpenAPI v2 document, what is about its group version; as bytes, because it is seldom read.
#[derive(Debug, Default)]
pub(super) struct Published {
    /// The ETag of the whole document as its server gave it.
    etag: String,
    /// Changes when the part does.
    pub(super) tag: String,
    json: Vec<u8>,
}

impl Published {
    /// The part; none when the server has told nothing of the group version.
    pub(super) fn read(&self) -> Option<openapi::Part> {
        // Empty is no JSON. What is not was written by `of`.
        serde_json::from_slice(&self.json).ok()
    }

    /// Of a whole document; `below` is the path of the group version.
    fn of(document: &Value, etag: String, below: &str) -> Self {
        let part = openapi::Part::of(document, below);
        let json = if part.is_empty() { Vec::new() } else { serde_json::to_vec(&part).unwrap_or_default() };
        let tag = hex(digest::digest(&digest::SHA256, &json).as_ref());
        Self { etag, tag, json }
    }
}

impl Extension {
    #[cfg(test)]
    fn unconnected(remote: Remote, resources: Value) -> Arc<Self> {
        let learned = Learned { resources, ..Learned::default() };
        Arc::new(Self { remote, learned: Arc::new(ArcSwap::from_pointee(learned)), passage: None })
    }
}

/// All of them. Few: looked through, not looked up.
#[derive(Default)]
pub(super) struct Extensions(ArcSwap<Vec<Arc<Extension>>>);

impl Extensions {
    /// All, in no order.
    pub(super) fn all(&self) -> Arc<Vec<Arc<Extension>>> {
        self.0.load_full()
    }

    /// The one that serves a path; none for the server's own.
    pub(super) fn of_path(&self, path: &str) -> Option<Arc<Extension>> {
        let all = self.0.load();
        if all.is_empty() {
            return None;
        }
        let path = path.strip_prefix("/openapi/v3").unwrap_or(path);
        let mut parts = path.strip_prefix("/apis/")?.split('/');
        let (group, version) = (parts.next()?, parts.next()?);
        all.iter().find(|e| e.remote.group == group && e.remote.version == version).cloned()
    }
}

/// Follows the APIServices.
pub struct Aggregator {
    registry: Arc<Registry>,
    clock: SharedClock,
    roads: Roads,
    extensions: Arc<Extensions>,
    due: BTreeMap<String, Due>,
}

/// When an extension server is looked at next.
struct Due {
    at: Instant,
    running: bool,
    failures: u32,
}

impl Due {
    fn now() -> Self {
        Self { at: Instant::now(), running: false, failures: 0 }
    }
}

type Looks = FuturesUnordered<BoxFuture<'static, (String, Verdict)>>;

impl Aggregator {
    pub(super) fn new(registry: Arc<Registry>, clock: SharedClock, roads: Roads, extensions: Arc<Extensions>) -> Self {
        Self { registry, clock, roads, extensions, due: BTreeMap::new() }
    }

    /// Knows what is registered. Called before the first request is answered.
    pub fn load(&mut self) {
        self.refresh();
    }

    /// Keeps up with what is registered, and looks whether it answers, until the shutdown.
    pub async fn follow(mut self, stop: Shutdown) -> anyhow::Result<()> {
        stop.clone().or(self.run()).await.unwrap_or(Ok(()))
    }

    async fn run(&mut self) -> anyhow::Result<()> {
        let cache = self.registry.cache().clone();
        let watch = |group: &'static str, plural: &'static str, since| {
            cache.resource(&GroupResource::new(group, plural)).watch(since)
        };
        let mut registered = watch(GROUP, PLURAL, Since::Initial)?;
        let mut definitions = watch("apiextensions.k8s.io", "customresourcedefinitions", Since::Initial)?;
        let mut services = watch("", "services", Since::Now)?;
        let mut slices = watch("discovery.k8s.io", "endpointslices", Since::Now)?;
        let mut looks: Looks = FuturesUnordered::new();
        loop {
            self.refresh();
            self.begin(&mut looks);
            tokio::select! {
                batch = registered.next_batch() => { batch?; self.register().await; }
                batch = definitions.next_batch() => { batch?; self.register().await; }
                batch = services.next_batch() => self.hear(&batch?, |e| &*e.object.meta.name),
                batch = slices.next_batch() => {
                    self.hear(&batch?, |e| e.object.meta.label(SERVICE_NAME_LABEL).unwrap_or_default());
                }
                Some((name, verdict)) = looks.next(), if !looks.is_empty() => self.settle(&name, &verdict).await,
                () = until(self.next()) => {}
            }
        }
    }

    /// Brings the table in line with the APIServices.
    fn refresh(&mut self) {
        let objects = self.registry.cache().resource(&GroupResource::new(GROUP, PLURAL)).list(None).0;
        let before = self.extensions.all();
        let mut all = Vec::new();
        for object in objects.iter().filter(|o| !o.text_at("/spec/service/name").is_empty()) {
            let Some(remote) = Remote::of(&object.value()) else { continue };
            if discovery::is_builtin(&remote.group) {
                continue;
            }
            let old = before.iter().find(|e| e.remote.name == remote.name);
            if let Some(old) = old.filter(|e| e.remote == remote) {
                all.push(old.clone());
                continue;
            }
            let same = old.filter(|e| e.remote.service == remote.service && e.remote.trust == remote.trust);
            if same.is_none() {
                self.due.insert(remote.name.clone(), Due::now());
            }
            all.push(Arc::new(match same {
                Some(old) => Extension { remote, learned: old.learned.clone(), passage: old.passage.clone() },
                None => Extension { passage: self.passage(&remote), remote, learned: Arc::default() },
            }));
        }
        self.due.retain(|name, _| all.iter().any(|e| e.remote.name == *name));
        if all.len() != before.len() || all.iter().zip(before.iter()).any(|(a, b)| !Arc::ptr_eq(a, b)) {
            self.extensions.0.store(Arc::new(all));
        }
    }

    fn passage(&self, remote: &Remote) -> Option<Passage> {
        let (trust, dial) = (remote.trust.clone(), Some(self.roads.to(&remote.service)));
        let credentials: Credentials = self.roads.identity.clone();
        let made = Passage::to(Peer { base: remote.service.base(), trust, credentials, dial });
        made.inspect_err(|e| tracing::warn!(apiservice = remote.name, "{e}")).ok()
    }

    /// Makes those that changed due, when they are the Service of an extension server.
    fn hear(&mut self, events: &[Arc<Event>], service: fn(&Event) -> &str) {
        let changed: HashSet<(&str, &str)> =
            events.iter().map(|e| (e.object.meta.namespace.as_str(), service(e))).collect();
        for e in self.extensions.all().iter() {
            let s = &e.remote.service;
            if changed.contains(&(s.namespace.as_str(), s.name.as_str()))
                && let Some(due) = self.due.get_mut(&e.remote.name)
            {
                due.at = Instant::now();
            }
        }
    }

    fn next(&self) -> Option<Instant> {
        self.due.values().filter(|d| !d.running).map(|d| d.at).min()
    }

    /// Looks at those that are due.
    fn begin(&mut self, looks: &mut Looks) {
        let now = Instant::now();
        for e in self.extensions.all().iter() {
            let Some(due) = self.due.get_mut(&e.remote.name).filter(|d| !d.running && d.at <= now) else { continue };
            (due.running, due.at) = (true, now + LOOK_AGAIN);
            let (e, roads) = (e.clone(), self.roads.clone());
            looks.push(async move { (e.remote.name.clone(), check::look(&e, &roads).await) }.boxed());
        }
    }

    /// Writes what a look found.
    async fn settle(&mut self, name: &str, verdict: &Verdict) {
        let Some(due) = self.due.get_mut(name) else { return };
        due.running = false;
        due.failures = if verdict.available { 0 } else { due.failures.saturating_add(1) };
        if verdict.reason == Verdict::ASKED {
            due.at = due.at.min(Instant::now() + LOOK_SOON.delay(due.failures));
        }
        let object = self.registry.cache().resource(&GroupResource::new(GROUP, PLURAL)).get("", name);
        if object.is_none_or(|o| verdict.is_told_by(&o.value())) {
            return;
        }
        let now = self.clock.now();
        let change = |old: &Value| {
            let mut new = old.clone();
            set_condition(&mut new, ("Available", verdict.available, verdict.reason, &verdict.message), now);
            Ok(new)
        };
        let op = Op::Subresource("status".into());
        let Some((res, cx)) = self.writing() else { return };
        let written = self.registry.update(&res, &cx, &at(name), &op, &change, None).await.map(drop);
        self.told(name, written);
    }

    /// Keeps the APIServices of definitions.
    async fn register(&self) {
        let values = |group: &'static str, plural: &'static str| -> Vec<Value> {
            let all = self.registry.cache().resource(&GroupResource::new(group, plural)).list(None).0;
            all.iter().map(|o| o.value()).collect()
        };
        let definitions = values("apiextensions.k8s.io", "customresourcedefinitions");
        let rows = self.registry.resources().all();
        let own = rows.iter().filter(|r| r.custom.is_none() && !discovery::is_builtin(&r.info.gvk.group));
        let own: Vec<_> = own.map(|r| (r.info.gvk.group.to_string(), r.info.gvk.version.to_string())).collect();
        let plan = plan::registrations(&own, &definitions, &values(GROUP, PLURAL));
        let Some((res, cx)) = self.writing() else { return };
        for object in plan.create {
            let name = object.str_at("/metadata/name").unwrap_or_default().to_owned();
            self.told(&name, self.registry.create(&res, &cx, &at(""), object).await.map(drop));
        }
        for name in plan.delete {
            let options = DeleteOptions::default();
            self.told(&name, self.registry.delete(&res, &cx, &at(&name), &options).await.map(drop));
        }
    }

    fn writing(&self) -> Option<(Arc<Resource>, RequestCx)> {
        let res = self.registry.resources().get(GROUP, "v1", PLURAL)?;
        let user = UserInfo::authenticated("system:apiserver", &[UserInfo::MASTERS]);
        let mut cx = RequestCx::new(user, "kube-apiserver", self.clock.now());
        cx.api_version = res.info.gvk.api_version();
        cx.is_patch = true;
        Some((res, cx))
    }

    fn told(&self, name: &str, written: ApiResult<()>) {
        match written {
            Err(e) if !matches!(e.reason, Reason::NotFound | Reason::Conflict | Reason::AlreadyExists) => {
                tracing::warn!(apiservice = name, "cannot write an APIService: {e}");
            }
            _ => {}
        }
    }
}

fn at(name: &str) -> Target {
    Target { namespace: String::new(), name: name.to_owned() }
}

/// At that moment; never for none.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

impl Api {
    /// What follows the APIServices, to be run beside the API.
    pub fn aggregator(&self) -> Aggregator {
        Aggregator::new(self.registry.clone(), self.clock.clone(), self.roads.clone(), self.extensions.clone())
    }
}
