//! CustomResourceDefinitions at work: their kinds are served, their names and conditions settled, their objects removed
//! when they go.
//!
//! In: changes of definitions from the watch cache. Out: the custom part of [`crate::registry::Resources`], and writes to
//! the definitions' status. Every server does this for itself: what it writes follows from the definitions alone, so
//! servers agree, and who loses a race looks again.
//!
//! **Invariant:** a kind is served here before its definition says `Established`: who has read that may ask for it.
//! **Invariant:** a definition goes after its last object.
//!
//! Rules: upstream `apiextensions-apiserver/pkg/controller` (`status`, `establish`, `finalizer`, `apiapproval`).

mod cleanup;
pub mod names;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use futures::stream::{FuturesUnordered, StreamExt};
use serde_json::{Value, json};

use crate::api::meta::GroupResource;
use crate::api::object::Object;
use crate::api::status::{ApiResult, Reason};
use crate::api::user::UserInfo;
use crate::api::value::ValueExt;
use crate::registry::apiextensions::{CLEANUP_FINALIZER, bundle, set_condition};
use crate::registry::custom::Definition;
use crate::registry::{Op, Registry, RequestCx, Resource, Target};
use crate::store::cache::Since;
use crate::util::clock::SharedClock;
use crate::util::tasks::Shutdown;

const GROUP: &str = "apiextensions.k8s.io";
const PLURAL: &str = "customresourcedefinitions";

/// A definition as it was last seen.
struct Known {
    revision: u64,
    /// What names and conditions are made of: group, names and status; schemas are long.
    brief: Value,
    /// What kinds are made of; the same text makes the same kinds.
    basis: Value,
    definition: Option<Arc<Definition>>,
    resources: Vec<Arc<Resource>>,
}

/// Follows the definitions.
pub struct Definitions {
    registry: Arc<Registry>,
    clock: SharedClock,
    known: BTreeMap<String, Known>,
}

impl Definitions {
    /// Nothing known yet.
    pub fn new(registry: Arc<Registry>, clock: SharedClock) -> Self {
        Self { registry, clock, known: BTreeMap::new() }
    }

    /// Serves what the definitions that are there say. Called before the first request is answered.
    pub async fn load(&mut self) -> anyhow::Result<()> {
        Ok(self.serve().await?)
    }

    /// Keeps what is served and what definitions say of themselves up to date, until the shutdown.
    pub async fn follow(mut self, stop: Shutdown) -> anyhow::Result<()> {
        stop.clone().or(self.run(&stop)).await.unwrap_or(Ok(()))
    }

    async fn run(&mut self, stop: &Shutdown) -> anyhow::Result<()> {
        let mut cursor = self.registry.cache().resource(&definitions()).watch(Since::Initial)?;
        let (mut cleaning, mut cleanups) = (HashSet::new(), FuturesUnordered::new());
        loop {
            self.serve().await?;
            self.settle().await;
            for name in self.to_clean() {
                if cleaning.insert(name.clone()) {
                    cleanups.push(cleanup::run(self.registry.clone(), self.clock.clone(), name, stop.clone()));
                }
            }
            tokio::select! {
                batch = cursor.next_batch() => drop(batch?),
                Some(done) = cleanups.next(), if !cleanups.is_empty() => drop(cleaning.remove(&done)),
            }
        }
    }

    /// Brings what is served in line with the definitions.
    async fn serve(&mut self) -> Result<(), crate::store::StoreError> {
        let all = self.registry.cache().resource(&definitions()).list(None).0;
        let present: HashMap<&str, &Arc<Object>> = all.iter().map(|o| (&*o.meta.name, o)).collect();
        let mut changed: Vec<GroupResource> = Vec::new();
        let mut replaced = Vec::new();
        let mut moved = false;
        self.known.retain(|name, k| {
            let stays = present.contains_key(name.as_str());
            moved |= !stays;
            if !stays {
                replaced.extend(k.definition.take());
            }
            stays
        });
        for object in &all {
            let before = self.known.get(&*object.meta.name);
            if before.is_some_and(|k| k.revision == object.revision) {
                continue;
            }
            let (known, fresh) = Known::of(object, before);
            if fresh {
                moved = true;
                let old = before.and_then(|k| k.definition.clone());
                let same_kind = before.is_some_and(|k| k.basis == known.basis);
                if !same_kind {
                    replaced.extend(old);
                    changed.extend(known.definition.as_ref().map(|d| d.group_resource()));
                }
            }
            self.known.insert(object.meta.name.to_string(), known);
        }
        if moved {
            let resources = self.known.values().flat_map(|k| k.resources.iter().cloned()).collect();
            self.registry.resources().set_custom(resources);
        }
        // Objects that were read by other rules before are read again.
        for gr in changed {
            self.registry.cache().reload(&gr).await?;
        }
        replaced.iter().for_each(|d| d.replaced.trigger());
        Ok(())
    }

    /// Settles names and conditions, one definition after another: who comes first keeps a name.
    async fn settle(&mut self) {
        let names: Vec<String> = self.known.keys().cloned().collect();
        for name in names {
            let Some(known) = self.known.get(&name) else { continue };
            let group = known.brief.str_at("/spec/group").unwrap_or_default();
            let in_group = self.known.values().map(|k| &k.brief).filter(|b| b.str_at("/spec/group") == Some(group));
            let mut status = known.brief["status"].clone();
            let conditions = names::plan(&known.brief, in_group);
            let Some(plan) = conditions.or_else(|| self.established(known)) else { continue };
            if let Some(accepted) = &plan.accepted {
                status["acceptedNames"] = accepted.clone();
            }
            match self.write_status(&name, &plan).await {
                Ok(()) => {
                    // Known at once: the next definition must not take the same name.
                    if let Some(known) = self.known.get_mut(&name) {
                        known.brief["status"] = status;
                    }
                }
                Err(e) if matches!(e.reason, Reason::NotFound | Reason::Conflict) => {}
                Err(e) => tracing::warn!(definition = name, "cannot write the status of a definition: {e}"),
            }
        }
    }

    /// A definition whose kinds are served is established. Upstream: `EstablishingController`.
    fn established(&self, known: &Known) -> Option<names::Plan> {
        let accepted = names::is_true(&known.brief, "NamesAccepted") && !known.resources.is_empty();
        let deleting = known.brief.str_at("/metadata/deletionTimestamp").is_some();
        if !accepted || deleting || names::is_true(&known.brief, "Established") {
            return names::approval(&known.brief);
        }
        if known.brief["is_wrong_bundle"] == true {
            let message = "The conversion webhook CABundle is invalid".to_owned();
            let why = ("Established", false, "InvalidCABundle", message);
            let conditions = vec![why];
            return (!names::stands(&known.brief, &conditions[0]))
                .then_some(names::Plan { accepted: None, conditions });
        }
        let why = ("Established", true, "InitialNamesAccepted", "the initial names have been accepted".to_owned());
        Some(names::Plan { accepted: None, conditions: vec![why] })
    }

    async fn write_status(&self, name: &str, plan: &names::Plan) -> ApiResult<()> {
        let now = self.clock.now();
        let change = |old: &Value| {
            let mut new = old.clone();
            if let Some(accepted) = &plan.accepted {
                new.set_at("/status/acceptedNames", accepted.clone());
            }
            for (kind, status, reason, message) in &plan.conditions {
                set_condition(&mut new, (kind, *status, reason, message), now);
            }
            Ok(new)
        };
        write(&self.registry, &self.clock, name, Op::Subresource("status".into()), &change).await
    }

    /// Definitions that wait for their objects to go.
    fn to_clean(&self) -> Vec<String> {
        let waits = |k: &Known| {
            k.brief.str_at("/metadata/deletionTimestamp").is_some()
                && k.brief.items_at("/metadata/finalizers").iter().any(|f| f == CLEANUP_FINALIZER)
        };
        self.known.iter().filter(|(_, k)| waits(k)).map(|(name, _)| name.clone()).collect()
    }
}

impl Known {
    /// Reads a definition; true when its kinds have to be served anew.
    fn of(object: &Object, before: Option<&Known>) -> (Self, bool) {
        let crd = object.value();
        let metadata = ["name", "deletionTimestamp", "finalizers", "annotations"];
        let metadata: Value =
            metadata.iter().filter_map(|k| Some(((*k).to_owned(), crd["metadata"].get(*k)?.clone()))).collect();
        let is_wrong_bundle = !bundle::is_usable(bundle::of(&crd));
        let brief = json!({"metadata": metadata, "status": crd["status"], "is_wrong_bundle": is_wrong_bundle,
            "spec": {"group": crd["spec"]["group"], "names": crd["spec"]["names"]}});
        let basis = json!([crd["spec"], crd["status"]["acceptedNames"]]);
        let served = |k: &Known| k.definition.is_some();
        let terminating = |d: &Definition| d.terminating;
        let mut definition = Definition::of(&crd);
        let (old, same) = match before {
            Some(k) => (k.definition.as_ref(), k.basis == basis),
            None => (None, false),
        };
        let unchanged = same
            && before.is_some_and(served) == definition.is_some()
            && old.map(|d| terminating(d)) == definition.as_ref().map(|d| terminating(d));
        if let (true, Some(k)) = (unchanged, before) {
            let (definition, resources) = (k.definition.clone(), k.resources.clone());
            return (Self { revision: object.revision, brief, basis, definition, resources }, false);
        }
        if let (true, Some(old), Some(new)) = (same, old, definition.take()) {
            // Watches of the kind go on.
            definition = Some(new.following(old));
        } else if definition.is_none() {
            definition = Definition::of(&crd);
        }
        let resources = definition.as_ref().map_or_else(Vec::new, |d| d.resources(&crd));
        (Self { revision: object.revision, brief, basis, definition, resources }, true)
    }
}

fn definitions() -> GroupResource {
    GroupResource::new(GROUP, PLURAL)
}

/// Changes a definition as the server itself.
async fn write(
    registry: &Registry,
    clock: &SharedClock,
    name: &str,
    op: Op,
    change: crate::registry::write::Change<'_>,
) -> ApiResult<()> {
    let Some(res) = registry.resources().get(GROUP, "v1", PLURAL) else { return Ok(()) };
    let user = UserInfo::authenticated("system:apiserver", &[UserInfo::MASTERS]);
    let mut cx = RequestCx::new(user, "kube-apiserver", clock.now());
    cx.api_version = res.info.gvk.api_version();
    cx.is_patch = true;
    let at = Target { namespace: String::new(), name: name.to_owned() };
    registry.update(&res, &cx, &at, &op, change, None).await.map(drop)
}
