//! `apply --prune`: what was applied once, and the files no longer name, goes.
//!
//! In: the objects that were applied. An object goes that is of a kind in the list, has the labels, was applied by its
//! annotation, and was not applied now. Upstream: `kubectl/pkg/cmd/apply/prune.go`.

use std::collections::{BTreeSet, HashSet};

use serde_json::Value;

use super::Args;
use crate::api::value::ValueExt;
use crate::ctl::builder::{Info, of_object};
use crate::ctl::cx::{Cx, Done};
use crate::ctl::delete;
use crate::ctl::fail::{Failure, fail};
use crate::ctl::mapper::Resource;
use crate::ctl::write::LAST_APPLIED;

/// Kinds that are looked through where none are named.
const KINDS: [&str; 16] = [
    "core/v1/ConfigMap",
    "core/v1/Endpoints",
    "core/v1/Namespace",
    "core/v1/PersistentVolumeClaim",
    "core/v1/PersistentVolume",
    "core/v1/Pod",
    "core/v1/ReplicationController",
    "core/v1/Secret",
    "core/v1/Service",
    "batch/v1/Job",
    "batch/v1/CronJob",
    "networking.k8s.io/v1/Ingress",
    "apps/v1/DaemonSet",
    "apps/v1/Deployment",
    "apps/v1/ReplicaSet",
    "apps/v1/StatefulSet",
];

/// Flags of pruning.
#[derive(Debug, Clone, clap::Args)]
pub struct Flags {
    #[command(flatten)]
    which: Which,
    /// Prune whatever its labels
    #[arg(long)]
    all: bool,
}

/// Flags that say what is looked through.
#[derive(Debug, Clone, clap::Args)]
pub struct Which {
    /// What was applied once, and the files no longer name, goes; apply needs --selector or --all with it
    #[arg(long)]
    prune: bool,
    /// Prune only these kinds, as group/version/kind (core for the group without a name)
    #[arg(long, value_delimiter = ',', value_name = "GROUP/VERSION/KIND")]
    prune_allowlist: Vec<String>,
}

impl Flags {
    /// Refuses what would delete too much.
    pub fn check(&self, selector: &str) -> Done {
        if self.which.prune && !self.all && selector.is_empty() {
            fail!(
                "all resources selected for prune without explicitly passing --all. To prune all resources, pass the --all flag. \
                 If you did not mean to prune all resources, specify a label selector"
            );
        }
        if self.all && !selector.is_empty() {
            fail!("cannot set --all and --selector at the same time");
        }
        Ok(())
    }

    /// The resources to look through; none without `--prune`.
    pub async fn kinds(&self, cx: &Cx) -> Done<Vec<Resource>> {
        self.which.kinds(cx).await
    }
}

impl Which {
    /// The resources to look through; none without `--prune`.
    pub async fn kinds(&self, cx: &Cx) -> Done<Vec<Resource>> {
        if !self.prune {
            return Ok(Vec::new());
        }
        let named: Vec<&str> = self.prune_allowlist.iter().map(String::as_str).collect();
        let mut found = Vec::new();
        for text in if named.is_empty() { &KINDS[..] } else { &named } {
            let parts: Vec<&str> = text.split('/').collect();
            let [group, version, kind] = parts[..] else {
                fail!("invalid GroupVersionKind format: {text}, please follow <group/version/kind>")
            };
            let api_version = if group == "core" { version.to_owned() } else { format!("{group}/{version}") };
            let Some(resource) = cx.mapper().await?.of_kind(&api_version, kind) else {
                fail!("no matches for kind {kind:?} in version {api_version:?}")
            };
            found.push(resource.clone());
        }
        Ok(found)
    }
}

/// What was applied now, and where.
#[derive(Debug, Default)]
pub struct Kept {
    uids: HashSet<String>,
    namespaces: BTreeSet<String>,
}

impl Kept {
    /// An object that was applied.
    pub fn see(&mut self, info: &Info, object: &Value) {
        self.uids.extend(object.str_at("/metadata/uid").map(str::to_owned));
        if info.resource.res.namespaced {
            self.namespaces.insert(info.ns.clone());
        }
    }

    /// True for what was applied once, and not now.
    fn leaves(&self, object: &Value) -> bool {
        object.str_at(LAST_APPLIED).is_some() && object.str_at("/metadata/uid").is_none_or(|u| !self.uids.contains(u))
    }
}

/// Deletes what is left over, and says so.
pub async fn run(cx: &Cx, kinds: &[Resource], kept: &Kept, args: &Args) -> Done {
    for info in left_over(cx, kinds, kept, &args.selector).await {
        let resource = &info.resource;
        match delete::prune(cx, &info, &args.removal, args.write.dry_run).await {
            Ok(()) => args.print.done(resource, &info.object, "pruned", args.write.dry_run)?,
            Err(failure) => cx.report(&pruning(resource, failure)),
        }
    }
    Ok(())
}

/// What was applied once and is not kept. What cannot be listed is told as it is found.
pub async fn left_over(cx: &Cx, kinds: &[Resource], kept: &Kept, selector: &str) -> Vec<Info> {
    let (within, across): (Vec<_>, Vec<_>) = kinds.iter().partition(|r| r.res.namespaced);
    let within = kept.namespaces.iter().flat_map(|ns| within.iter().map(move |r| (ns.as_str(), *r)));
    let places: Vec<(&str, &Resource)> = within.chain(across.into_iter().map(|r| ("", r))).collect();
    let mut left = Vec::new();
    for (ns, resource) in places {
        match cx.items(&resource.res, ns, selector, "").await {
            Ok(items) => left.extend(items.into_iter().filter(|o| kept.leaves(o)).map(|o| of_object(resource, o))),
            Err(failure) => cx.report(&pruning(resource, failure)),
        }
    }
    left
}

fn pruning(resource: &Resource, failure: Failure) -> Failure {
    let text = failure.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    Failure::Plain(format!("error pruning {} object {}: {text}", resource.qualified(), resource.res.api_version()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_was_applied_and_is_not_named_any_more_goes() {
        let mut kept = Kept::default();
        kept.uids.insert("1".into());
        let object = |uid: &str, applied: bool| {
            let mut object = json!({"metadata": {"uid": uid}});
            if applied {
                object.set_at(LAST_APPLIED, "{}");
            }
            object
        };
        assert!(kept.leaves(&object("2", true)));
        assert!(!kept.leaves(&object("1", true)), "it was applied now");
        assert!(!kept.leaves(&object("2", false)), "it was never applied");
    }
}
