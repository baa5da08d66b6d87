//! What schedulers of one process do differently: their plugins, weights and arguments.
//!
//! [`Profiles::default`] is upstream's default profile; others are read from its configuration ([`super::config`]).

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::framework::Plugin;
use super::plugins::PLUGINS;
use super::pod::{NodeTerm, SCHEDULER_NAME};
use super::raw;
use crate::util::backoff::Backoff;

/// Between attempts for one pod, where nothing else is configured.
pub const BACKOFF: Backoff = Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(10) };
/// Preferred terms of a `v1.NodeAffinity`.
pub const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// A plugin of a profile.
#[derive(Clone)]
pub struct Row {
    /// The plugin.
    pub plugin: &'static dyn Plugin,
    /// It refuses nodes.
    pub filters: bool,
    /// What its scores count; 0 where it does not score.
    pub weight: i64,
}

/// How full nodes are liked.
#[derive(Debug, Clone, PartialEq)]
pub enum Strategy {
    /// The emptier the better.
    Least,
    /// The fuller the better.
    Most,
    /// By a line through these points: percent used, and a score from 0 to 100.
    Ratio(Vec<(i64, i64)>),
}

/// Constraints of pods that have none.
#[derive(Debug, Clone)]
pub enum DefaultSpread {
    /// Upstream's: over hosts with a skew of 3, over zones with 5.
    System,
    /// These, without selectors.
    List(Arc<[raw::Spread]>),
}

/// Arguments of plugins. Names and defaults are upstream's.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct Args {
    pub strategy: Strategy,
    /// Resources that the strategy looks at, with their weights.
    pub scored: Vec<(Box<str>, i64)>,
    pub balanced: Vec<Box<str>>,
    pub ignored_resources: Vec<Box<str>>,
    /// The part of a name before its slash.
    pub ignored_groups: Vec<Box<str>>,
    pub hard_pod_affinity_weight: i64,
    pub ignore_preferred_of_existing: bool,
    pub default_spread: DefaultSpread,
    /// Required of nodes beside what pods require.
    pub added_affinity: Option<Box<[NodeTerm]>>,
    /// Preferred of nodes beside what pods prefer, with weights.
    pub added_preferred: Box<[(i64, NodeTerm)]>,
    pub min_candidates_percent: usize,
    pub min_candidates: usize,
    /// Percent of all nodes that are enough to fit; by their number where 0.
    pub nodes_to_score: usize,
}

impl Default for Args {
    fn default() -> Self {
        Self {
            strategy: Strategy::Least,
            scored: vec![("cpu".into(), 1), ("memory".into(), 1)],
            balanced: vec!["cpu".into(), "memory".into()],
            ignored_resources: Vec::new(),
            ignored_groups: Vec::new(),
            hard_pod_affinity_weight: 1,
            ignore_preferred_of_existing: false,
            default_spread: DefaultSpread::System,
            added_affinity: None,
            added_preferred: Box::default(),
            min_candidates_percent: 10,
            min_candidates: 100,
            nodes_to_score: 0,
        }
    }
}

impl Args {
    /// True for an extended resource that nodes are not asked for.
    pub fn ignores(&self, resource: &str) -> bool {
        let group = || resource.split_once('/').map(|(group, _)| group);
        self.ignored_resources.iter().any(|r| **r == *resource)
            || self.ignored_groups.iter().any(|g| Some(&**g) == group())
    }
}

/// One scheduler.
#[derive(Clone)]
pub struct Profile {
    /// What pods name.
    pub name: Box<str>,
    /// Its plugins, in the order in which they refuse.
    pub rows: Vec<Row>,
    /// It sends lesser pods away.
    pub preempts: bool,
    /// See there.
    pub args: Args,
}

impl Default for Profile {
    fn default() -> Self {
        let row =
            |(plugin, weight): &(&'static dyn Plugin, i64)| Row { plugin: *plugin, filters: true, weight: *weight };
        Self {
            name: SCHEDULER_NAME.into(),
            rows: PLUGINS.iter().map(row).collect(),
            preempts: true,
            args: Args::default(),
        }
    }
}

/// All schedulers of the process; there is at least one.
#[derive(Clone)]
pub struct Profiles {
    all: Vec<Profile>,
    /// Between attempts for one pod, whichever it names.
    pub backoff: Backoff,
}

impl Default for Profiles {
    fn default() -> Self {
        Self { all: vec![Profile::default()], backoff: BACKOFF }
    }
}

impl std::fmt::Debug for Profiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.all.iter().map(|p| &p.name)).finish()
    }
}

impl Profiles {
    /// These, or the default one where there are none.
    pub fn new(all: Vec<Profile>, backoff: Backoff) -> Self {
        let all = if all.is_empty() { vec![Profile::default()] } else { all };
        Self { all, backoff }
    }

    /// The one that a pod names, or the first: pods that name none of them are not looked at.
    pub fn get(&self, scheduler: &str) -> &Profile {
        self.of(scheduler).unwrap_or(&self.all[0])
    }

    /// The one that a pod names; pods without a name are of the default one.
    pub fn of(&self, scheduler: &str) -> Option<&Profile> {
        let name = if scheduler.is_empty() { SCHEDULER_NAME } else { scheduler };
        self.all.iter().find(|p| *p.name == *name)
    }
}

/// The terms of a `v1.NodeAffinity` that are required.
pub fn required(affinity: &Value) -> Option<Box<[NodeTerm]>> {
    affinity.get("requiredDuringSchedulingIgnoredDuringExecution").map(NodeTerm::all_from)
}

/// The terms that are preferred, with their weights.
pub fn preferred(affinity: &Value) -> Box<[(i64, NodeTerm)]> {
    let all = affinity.get(PREFERRED).and_then(|all| Vec::<raw::PreferredNode>::deserialize(all).ok());
    all.iter().flatten().map(NodeTerm::preferred).collect()
}
