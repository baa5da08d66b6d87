//! Upstream's configuration of schedulers: `KubeSchedulerConfiguration` of `kubescheduler.config.k8s.io/v1`.
//!
//! In: YAML. Out: [`Profiles`], or what is wrong with it. What orch has no use for (leader election, the client's
//! connection) may stand there; what would change decisions and is not here (extenders) is refused.
//! **Invariant:** a field that is not understood is an error, never ignored.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::plugins::PLUGINS;
use super::profile::{Args, BACKOFF, DefaultSpread, PREFERRED, Profile, Profiles, Row, Strategy, preferred, required};
use super::raw::Spread;
use crate::api::value::ValueExt;
use crate::util::backoff::Backoff;

/// Plugins of upstream's that have their place elsewhere than among filters and scores, and are always on.
const FIXED: &[&str] = &["PrioritySort", "SchedulingGates", "DefaultBinder"];
const PREEMPTION: &str = "DefaultPreemption";
/// Points at which a plugin may be named, beside `multiPoint`.
const FILTER_POINTS: &[&str] = &["preFilter", "filter"];
/// `preScore` is not among these: it prepares scores, and decides neither whether a plugin scores nor what that weighs.
const SCORE_POINTS: &[&str] = &["score"];
const OTHER_POINTS: &[&str] = &[
    "preScore",
    "preEnqueue",
    "queueSort",
    "postFilter",
    "reserve",
    "permit",
    "preBind",
    "bind",
    "postBind",
    "placementGenerate",
    "placementScore",
];
/// Fields of a configuration and of what stands in it.
const FIELDS: &[&str] = &[
    "parallelism",
    "leaderElection",
    "clientConnection",
    "enableProfiling",
    "enableContentionProfiling",
    "percentageOfNodesToScore",
    "podInitialBackoffSeconds",
    "podMaxBackoffSeconds",
    "profiles",
    "extenders",
    "delayCacheUntilActive",
];
const LEADER_ELECTION: &[&str] = &[
    "leaderElect",
    "leaseDuration",
    "renewDeadline",
    "retryPeriod",
    "resourceLock",
    "resourceName",
    "resourceNamespace",
];
const CLIENT_CONNECTION: &[&str] = &["kubeconfig", "acceptContentTypes", "contentType", "qps", "burst"];
const PROFILE: &[&str] = &["schedulerName", "percentageOfNodesToScore", "plugins", "pluginConfig"];
/// Scores in the configuration go to 10, those of plugins to 100.
const SHAPE_SCALE: i64 = 10;

/// What is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

fn wrong<T>(why: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError(why.into()))
}

/// Reads a configuration.
pub fn read(text: &str) -> Result<Profiles, ConfigError> {
    let config: Value = serde_yaml::from_str(text).map_err(|e| ConfigError(e.to_string()))?;
    let is = |at: &str, want: &str| config.str_at(at) == Some(want);
    if !is("/apiVersion", "kubescheduler.config.k8s.io/v1") || !is("/kind", "KubeSchedulerConfiguration") {
        return wrong("it must be a KubeSchedulerConfiguration of kubescheduler.config.k8s.io/v1");
    }
    only(&config, FIELDS)?;
    for (part, known) in [("leaderElection", LEADER_ELECTION), ("clientConnection", CLIENT_CONNECTION)] {
        only(config.get(part).unwrap_or(&Value::Null), known).map_err(|e| ConfigError(format!("{part}: {e}")))?;
    }
    if !config.items_at("/extenders").is_empty() {
        return wrong("extenders are not supported");
    }
    let common = percent(&config)?.unwrap_or(0);
    let profiles = config.items_at("/profiles");
    // Only one that is alone need not say its name.
    if profiles.len() > 1 && profiles.iter().any(|p| p.str_at("/schedulerName").unwrap_or_default().is_empty()) {
        return wrong("where there are several profiles each must have a schedulerName");
    }
    let all = profiles.iter().map(|p| profile(p, common)).collect::<Result<Vec<_>, _>>()?;
    let names: BTreeSet<&str> = all.iter().map(|p| &*p.name).collect();
    if names.len() != all.len() {
        return wrong("profiles must have different schedulerNames");
    }
    Ok(Profiles::new(all, backoff(&config)?))
}

/// How long pods wait after a refusal.
fn backoff(of: &Value) -> Result<Backoff, ConfigError> {
    let seconds = |at: &str, usual: Duration| of.int_at(at).unwrap_or(usual.as_secs() as i64);
    let base = seconds("/podInitialBackoffSeconds", BACKOFF.base);
    let cap = seconds("/podMaxBackoffSeconds", BACKOFF.cap);
    if base <= 0 {
        return wrong(format!("podInitialBackoffSeconds must be greater than 0, not {base}"));
    }
    if cap < base {
        return wrong(format!("podMaxBackoffSeconds must be at least podInitialBackoffSeconds ({base}), not {cap}"));
    }
    Ok(Backoff { base: Duration::from_secs(base as u64), cap: Duration::from_secs(cap as u64) })
}

/// None where it is not set, which 0 is not.
fn percent(of: &Value) -> Result<Option<usize>, ConfigError> {
    match of.int_at("/percentageOfNodesToScore") {
        None => Ok(None),
        Some(n @ 0..=100) => Ok(Some(n as usize)),
        Some(n) => wrong(format!("percentageOfNodesToScore must be from 0 to 100, not {n}")),
    }
}

fn profile(of: &Value, common: usize) -> Result<Profile, ConfigError> {
    only(of, PROFILE).map_err(|e| ConfigError(format!("profiles: {e}")))?;
    let mut out = Profile::default();
    if let Some(name) = of.str_at("/schedulerName") {
        out.name = name.into();
    }
    out.args.nodes_to_score = percent(of)?.unwrap_or(common);
    if let Some(points) = of.get("plugins").and_then(Value::as_object) {
        plugins(&mut out, points)?;
    }
    let mut seen = BTreeSet::new();
    for entry in of.items_at("/pluginConfig") {
        only(entry, &["name", "args"]).map_err(|e| ConfigError(format!("pluginConfig: {e}")))?;
        let name = entry.str_at("/name").unwrap_or_default();
        if !seen.insert(name) {
            return wrong(format!("pluginConfig has {name} twice"));
        }
        let none = Value::Null;
        args(&mut out, name, entry.get("args").unwrap_or(&none))
            .map_err(|e| ConfigError(format!("args of {name}: {e}")))?;
    }
    Ok(out)
}

/// Enables and disables: for all points first, then point by point.
fn plugins(out: &mut Profile, points: &Map<String, Value>) -> Result<(), ConfigError> {
    for point in points.keys() {
        let known = point == "multiPoint"
            || [FILTER_POINTS, SCORE_POINTS, OTHER_POINTS].iter().any(|all| all.contains(&point.as_str()));
        if !known {
            return wrong(format!("plugins: unknown extension point {point:?}"));
        }
    }
    for (point, set) in points {
        let at = |e: ConfigError| ConfigError(format!("plugins.{point}: {e}"));
        only(set, &["enabled", "disabled"]).map_err(at)?;
        let mut all = set.items_at("/enabled").iter().chain(set.items_at("/disabled"));
        all.try_for_each(|plugin| only(plugin, &["name", "weight"])).map_err(at)?;
    }
    let order = ["multiPoint"].iter().chain(FILTER_POINTS).chain(SCORE_POINTS).chain(OTHER_POINTS);
    for point in order {
        let Some(set) = points.get(*point) else { continue };
        for name in names(set, "/disabled") {
            turn(out, point, name?, false, None)?;
        }
        for (at, name) in names(set, "/enabled").enumerate() {
            let weight = set.items_at("/enabled")[at].int_at("/weight").filter(|w| *w != 0);
            turn(out, point, name?, true, weight)?;
        }
    }
    Ok(())
}

fn names<'a>(set: &'a Value, at: &str) -> impl Iterator<Item = Result<&'a str, ConfigError>> {
    set.items_at(at).iter().map(|p| p.str_at("/name").ok_or_else(|| ConfigError("a plugin has no name".to_owned())))
}

fn turn(out: &mut Profile, point: &str, name: &str, on: bool, weight: Option<i64>) -> Result<(), ConfigError> {
    let all = name == "*";
    if all && on {
        return wrong("\"*\" can be disabled only");
    }
    let (filters, scores) = (
        point == "multiPoint" || FILTER_POINTS.contains(&point),
        point == "multiPoint" || SCORE_POINTS.contains(&point),
    );
    if (all || name == PREEMPTION) && matches!(point, "multiPoint" | "postFilter") {
        out.preempts = on;
    }
    if FIXED.contains(&name) || name == PREEMPTION {
        return Ok(());
    }
    let known = PLUGINS.iter().find(|(p, _)| p.name() == name);
    if !all && known.is_none() {
        return wrong(format!("there is no plugin {name:?}"));
    }
    if let (true, Some((plugin, usual))) = (on, known) {
        // One that is enabled anew refuses after the others, as upstream runs it.
        if !out.rows.iter().any(|r| r.plugin.name() == name) {
            out.rows.push(Row { plugin: *plugin, filters: false, weight: 0 });
        }
        // Who names a plugin anew says what its scores count anew.
        let scoring = if *usual == 0 { 0 } else { weight.unwrap_or(1) };
        for row in out.rows.iter_mut().filter(|r| r.plugin.name() == name) {
            row.filters |= filters;
            row.weight = if scores { scoring } else { row.weight };
        }
        return Ok(());
    }
    for row in out.rows.iter_mut().filter(|r| all || r.plugin.name() == name) {
        row.filters &= !filters;
        row.weight = if scores { 0 } else { row.weight };
    }
    out.rows.retain(|r| r.filters || r.weight > 0);
    Ok(())
}

/// The fields that `value` may have.
fn only(value: &Value, known: &[&str]) -> Result<(), ConfigError> {
    let all = value.as_object().into_iter().flatten().map(|(k, _)| k.as_str());
    match all.filter(|k| !matches!(*k, "apiVersion" | "kind")).find(|k| !known.contains(k)) {
        Some(other) => wrong(format!("unknown field {other:?}")),
        None => Ok(()),
    }
}

fn args(out: &mut Profile, plugin: &str, of: &Value) -> Result<(), ConfigError> {
    let texts = |at: &str| of.items_at(at).iter().filter_map(Value::as_str).map(Into::into).collect();
    let to = &mut out.args;
    match plugin {
        "NodeResourcesFit" => {
            only(of, &["scoringStrategy", "ignoredResources", "ignoredResourceGroups"])?;
            (to.ignored_resources, to.ignored_groups) = (texts("/ignoredResources"), texts("/ignoredResourceGroups"));
            if let Some(strategy) = of.get("scoringStrategy") {
                (to.strategy, to.scored) = scoring(strategy)?;
            }
        }
        "NodeResourcesBalancedAllocation" => {
            only(of, &["resources"])?;
            let resources = weighted(of)?;
            if let Some((name, weight)) = resources.iter().find(|(_, weight)| *weight != 1) {
                return wrong(format!("the weight of {name} must be 1, not {weight}"));
            }
            if !resources.is_empty() {
                to.balanced = resources.into_iter().map(|(name, _)| name).collect();
            }
        }
        "InterPodAffinity" => {
            only(of, &["hardPodAffinityWeight", "ignorePreferredTermsOfExistingPods"])?;
            to.hard_pod_affinity_weight = of.int_at("/hardPodAffinityWeight").unwrap_or(to.hard_pod_affinity_weight);
            if !(0..=100).contains(&to.hard_pod_affinity_weight) {
                return wrong("hardPodAffinityWeight must be from 0 to 100");
            }
            to.ignore_preferred_of_existing = of.bool_at("/ignorePreferredTermsOfExistingPods").unwrap_or(false);
        }
        "NodeAffinity" => {
            only(of, &["addedAffinity"])?;
            let added = of.get("addedAffinity").unwrap_or(&Value::Null);
            only(added, &["requiredDuringSchedulingIgnoredDuringExecution", PREFERRED])?;
            (to.added_affinity, to.added_preferred) = (required(added), preferred(added));
            let terms = to.added_affinity.iter().flatten().chain(to.added_preferred.iter().map(|(_, term)| term));
            if terms.into_iter().any(|term| term.invalid) {
                return wrong(
                    "addedAffinity has a term that selects nothing: an unknown operator, or values that it cannot have",
                );
            }
        }
        "PodTopologySpread" => {
            only(of, &["defaultConstraints", "defaultingType"])?;
            match of.str_at("/defaultingType") {
                Some("List") => {
                    let all = of.items_at("/defaultConstraints").iter().map(default_constraint);
                    to.default_spread = DefaultSpread::List(all.collect::<Result<_, _>>()?);
                }
                None | Some("System") if of.items_at("/defaultConstraints").is_empty() => {}
                None | Some("System") => return wrong("defaultConstraints need the defaultingType \"List\""),
                Some(other) => return wrong(format!("unknown defaultingType {other:?}")),
            }
        }
        PREEMPTION => {
            only(of, &["minCandidateNodesPercentage", "minCandidateNodesAbsolute"])?;
            let number = |at: &str, usual: usize| of.int_at(at).map_or(usual, |n| usize::try_from(n).unwrap_or(0));
            to.min_candidates_percent = number("/minCandidateNodesPercentage", to.min_candidates_percent).min(100);
            to.min_candidates = number("/minCandidateNodesAbsolute", to.min_candidates);
            if to.min_candidates_percent == 0 && to.min_candidates == 0 {
                return wrong("minCandidateNodesPercentage and minCandidateNodesAbsolute cannot both be zero");
            }
        }
        // How long claims may take to be bound is a bound of the process; devices have no arguments that matter here.
        "VolumeBinding" | "DynamicResources" => {}
        other if PLUGINS.iter().any(|(p, _)| p.name() == other) || FIXED.contains(&other) => only(of, &[])?,
        other => return wrong(format!("there is no plugin {other:?}")),
    }
    Ok(())
}

/// One constraint for pods that have none. Upstream: `ValidatePodTopologySpreadArgs`.
fn default_constraint(of: &Value) -> Result<Spread, ConfigError> {
    let read = Spread::deserialize(of).map_err(|e| ConfigError(format!("defaultConstraints: {e}")))?;
    let why = if read.max_skew <= 0 {
        "maxSkew must be greater than 0"
    } else if read.topology_key.is_empty() {
        "topologyKey is required"
    } else if !matches!(&*read.when_unsatisfiable, "DoNotSchedule" | "ScheduleAnyway") {
        "whenUnsatisfiable must be \"DoNotSchedule\" or \"ScheduleAnyway\""
    } else if read.label_selector.is_some() {
        "labelSelector must not be set: it is that of the pod's Services and controller"
    } else {
        return Ok(read);
    };
    wrong(format!("defaultConstraints: {why}"))
}

/// What a resource counts, by its name.
type Weights = Vec<(Box<str>, i64)>;

/// `resources: [{name, weight}]`.
fn weighted(of: &Value) -> Result<Weights, ConfigError> {
    let weight = |r: &Value| r.int_at("/weight").filter(|weight| *weight != 0).unwrap_or(1);
    let one = |r: &Value| match (r.str_at("/name"), weight(r)) {
        (Some(name), weight @ 1..=100) => Ok((name.into(), weight)),
        (Some(name), _) => wrong(format!("the weight of {name} must be from 1 to 100")),
        (None, _) => wrong("a resource has no name"),
    };
    of.items_at("/resources").iter().map(one).collect()
}

fn scoring(of: &Value) -> Result<(Strategy, Weights), ConfigError> {
    only(of, &["type", "resources", "requestedToCapacityRatio"])?;
    let resources = match weighted(of)? {
        none if none.is_empty() => Args::default().scored,
        some => some,
    };
    let strategy = match of.str_at("/type") {
        Some("LeastAllocated") | None => Strategy::Least,
        Some("MostAllocated") => Strategy::Most,
        Some("RequestedToCapacityRatio") => {
            let shape = of.items_at("/requestedToCapacityRatio/shape").iter();
            let points: Vec<(i64, i64)> =
                shape.map(|p| (p.int_at("/utilization").unwrap_or(0), p.int_at("/score").unwrap_or(0))).collect();
            let rising = points.windows(2).all(|w| w[0].0 < w[1].0);
            if points.is_empty()
                || !rising
                || points.iter().any(|(u, s)| !(0..=100).contains(u) || !(0..=10).contains(s))
            {
                return wrong("shape must have points of rising utilization (0 to 100) with scores from 0 to 10");
            }
            Strategy::Ratio(points.into_iter().map(|(u, s)| (u, s * SHAPE_SCALE)).collect())
        }
        Some(other) => return wrong(format!("unknown scoringStrategy type {other:?}")),
    };
    Ok((strategy, resources))
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    fn with(profile: &str) -> String {
        format!(
            "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nprofiles:\n- {profile}\n"
        )
    }

    /// The plugins of the profile `mine`: `-` where it does not refuse, and the weight where it scores.
    fn rows(plugins: &str) -> Vec<String> {
        let all = read(&with(&format!("{{schedulerName: mine, plugins: {plugins}}}"))).unwrap();
        let of = |r: &Row| {
            let (mark, weight) =
                (if r.filters { "" } else { "-" }, if r.weight > 0 { format!("={}", r.weight) } else { String::new() });
            format!("{mark}{}{weight}", r.plugin.name())
        };
        all.of("mine").unwrap().rows.iter().map(of).collect()
    }

    #[test]
    fn plugins_are_turned_on_and_off() {
        let usual = rows("{}");
        assert!(usual.contains(&"TaintToleration=3".to_owned()) && usual.len() == PLUGINS.len());
        assert_eq!(
            rows(
                "{multiPoint: {disabled: [{name: '*'}], enabled: [{name: NodeName}, {name: NodeResourcesFit, weight: 7}]}}"
            ),
            ["NodeName", "NodeResourcesFit=7"]
        );
        let changed = rows(
            "{score: {disabled: [{name: TaintToleration}], enabled: [{name: ImageLocality, weight: 9}]}, filter: {disabled: [{name: NodeAffinity}]}}",
        );
        assert!(
            ["TaintToleration", "ImageLocality=9", "-NodeAffinity=2"].iter().all(|p| changed.iter().any(|c| c == p)),
            "{changed:?}"
        );
        let off = read(&with("{plugins: {postFilter: {disabled: [{name: DefaultPreemption}]}}}")).unwrap();
        assert!(!off.of("").unwrap().preempts && off.of("other").is_none());
    }

    /// Upstream: `getValidScoreWeights`, after `mergePluginSet` has put what is named in the place of the default.
    #[test_case("{multiPoint: {enabled: [{name: TaintToleration}]}}", "TaintToleration=1"; "named for all points")]
    #[test_case("{multiPoint: {enabled: [{name: TaintToleration, weight: 5}]}}", "TaintToleration=5"; "with a weight")]
    #[test_case("{score: {enabled: [{name: TaintToleration}]}}", "TaintToleration=1"; "named for scores")]
    #[test_case("{multiPoint: {enabled: [{name: TaintToleration, weight: 5}]}, score: {enabled: [{name: TaintToleration, weight: 6}]}}",
        "TaintToleration=6"; "the point itself wins")]
    #[test_case("{preScore: {enabled: [{name: TaintToleration, weight: 9}]}}", "TaintToleration=3"; "preparing is not scoring")]
    #[test_case("{preScore: {disabled: [{name: '*'}]}}", "TaintToleration=3"; "nor is not preparing")]
    fn weights(plugins: &str, want: &str) {
        let all = rows(plugins);
        assert!(all.contains(&want.to_owned()) && all.len() == PLUGINS.len(), "{all:?}");
    }

    #[test]
    fn what_is_empty_is_as_if_it_were_not_there() {
        let all = read(&with(
            "{pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: MostAllocated, resources: []}}},
            {name: NodeResourcesBalancedAllocation, args: {resources: []}}]}",
        ))
        .unwrap();
        let (args, usual) = (&all.of("").unwrap().args, Args::default());
        assert_eq!((&args.strategy, &args.scored, &args.balanced), (&Strategy::Most, &usual.scored, &usual.balanced));
    }

    #[test]
    fn what_is_common_holds_where_a_profile_says_nothing() {
        let common = "percentageOfNodesToScore: 30\npodInitialBackoffSeconds: 3\npodMaxBackoffSeconds: 7";
        let all = read(&with(&format!(
            "{{schedulerName: some}}\n- {{schedulerName: none, percentageOfNodesToScore: 0}}\n- {{schedulerName: ten, percentageOfNodesToScore: 10}}\n{common}"
        )))
        .unwrap();
        assert_eq!(["some", "none", "ten"].map(|name| all.of(name).unwrap().args.nodes_to_score), [30, 0, 10]);
        assert_eq!([all.backoff.base, all.backoff.cap].map(|d| d.as_secs()), [3, 7]);
        assert_eq!(read(&with("{}")).unwrap().backoff, BACKOFF);
    }

    #[test]
    fn preferred_terms_may_be_added() {
        let all = read(&with("{pluginConfig: [{name: NodeAffinity, args: {addedAffinity: {preferredDuringSchedulingIgnoredDuringExecution:
            [{weight: 4, preference: {matchExpressions: [{key: a, operator: Exists}]}}]}}}]}")).unwrap();
        let args = &all.of("").unwrap().args;
        assert_eq!((args.added_affinity.is_none(), args.added_preferred[0].0), (true, 4));
        assert!(args.added_preferred[0].1.matches("n", &[("a".into(), "".into())]));
    }

    #[test]
    fn arguments_reach_their_plugins() {
        let all = read(&with("{percentageOfNodesToScore: 50, pluginConfig: [{name: NodeResourcesFit, args: {ignoredResources: [x.test/a],
            ignoredResourceGroups: [y.test], scoringStrategy: {type: RequestedToCapacityRatio, resources: [{name: cpu, weight: 3}],
            requestedToCapacityRatio: {shape: [{utilization: 0, score: 0}, {utilization: 100, score: 10}]}}}},
            {name: InterPodAffinity, args: {hardPodAffinityWeight: 5}}]}")).unwrap();
        let args = &all.of("default-scheduler").unwrap().args;
        assert_eq!((&args.strategy, args.nodes_to_score), (&Strategy::Ratio(vec![(0, 0), (100, 100)]), 50));
        assert_eq!((&args.scored[..], args.hard_pod_affinity_weight), (&[("cpu".into(), 3)][..], 5));
        assert!(args.ignores("x.test/a") && args.ignores("y.test/b") && !args.ignores("x.test/b"));
    }

    #[test_case("{plugins: {score: {enabled: [{name: Mine}]}}}", "there is no plugin \"Mine\"")]
    #[test_case("{plugins: {filtre: {}}}", "plugins: unknown extension point \"filtre\"")]
    #[test_case(
        "{pluginConfig: [{name: NodeResourcesFit, args: {scoring: 1}}]}",
        "args of NodeResourcesFit: unknown field \"scoring\""
    )]
    #[test_case("{percentageOfNodesToScore: 101}", "percentageOfNodesToScore must be from 0 to 100, not 101")]
    #[test_case("{schedulerName: a}\n- {schedulerName: a}", "profiles must have different schedulerNames")]
    #[test_case("{schedulerName: a}\n- {}", "where there are several profiles each must have a schedulerName")]
    #[test_case("{pluginConfig: [{name: NodeName}, {name: NodeName}]}", "pluginConfig has NodeName twice")]
    #[test_case("{}\nextenders: [{urlPrefix: x}]", "extenders are not supported")]
    #[test_case("{}\npodBackoffSeconds: 1", "unknown field \"podBackoffSeconds\"")]
    #[test_case("{}\nleaderElection: {elect: false}", "leaderElection: unknown field \"elect\"")]
    #[test_case("{name: x}", "profiles: unknown field \"name\"")]
    #[test_case("{plugins: {score: {enable: []}}}", "plugins.score: unknown field \"enable\"")]
    #[test_case(
        "{plugins: {score: {enabled: [{name: ImageLocality, wait: 1}]}}}",
        "plugins.score: unknown field \"wait\""
    )]
    #[test_case("{pluginConfig: [{name: NodeName, arg: {}}]}", "pluginConfig: unknown field \"arg\"")]
    #[test_case("{}\npodInitialBackoffSeconds: 0", "podInitialBackoffSeconds must be greater than 0, not 0")]
    #[test_case(
        "{}\npodMaxBackoffSeconds: 0",
        "podMaxBackoffSeconds must be at least podInitialBackoffSeconds (1), not 0"
    )]
    #[test_case(
        "{pluginConfig: [{name: NodeResourcesBalancedAllocation, args: {resources: [{name: cpu, weight: 2}]}}]}",
        "args of NodeResourcesBalancedAllocation: the weight of cpu must be 1, not 2"
    )]
    #[test_case(
        "{pluginConfig: [{name: NodeAffinity, args: {addedAffinity: {preferredDuringSchedulingIgnoredDuringExecution:
        [{weight: 1, preference: {matchExpressions: [{key: a, operator: Gt, values: [b]}]}}]}}}]}",
        "args of NodeAffinity: addedAffinity has a term that selects nothing: an unknown operator, or values that it cannot have"
    )]
    #[test_case(
        "{pluginConfig: [{name: PodTopologySpread, args: {defaultingType: List, defaultConstraints: [{maxSkew: 1, topologyKey: zone}]}}]}",
        "args of PodTopologySpread: defaultConstraints: whenUnsatisfiable must be \"DoNotSchedule\" or \"ScheduleAnyway\""
    )]
    #[test_case(
        "{pluginConfig: [{name: PodTopologySpread, args: {defaultingType: Mine}}]}",
        "args of PodTopologySpread: unknown defaultingType \"Mine\""
    )]
    fn what_is_not_understood_is_refused(profile: &str, want: &str) {
        assert_eq!(read(&with(profile)).unwrap_err().to_string(), want);
    }
}
