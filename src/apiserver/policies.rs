//! `status.typeChecking` of ValidatingAdmissionPolicies: what their expressions would get wrong about the kinds that they
//! are for.
//!
//! In: policies from the watch cache. Out: writes to their status, one for each generation. Warnings keep nobody from
//! anything: an expression is evaluated whatever they say. Every server does this for itself; what it writes follows from the
//! policy and what is served, so servers agree.
//!
//! Rules: upstream `pkg/controller/validatingadmissionpolicystatus` and `plugin/policy/validating/typechecking.go`.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::cel::{Env, Program, Type, typed};
use crate::api::meta::{GroupResource, gvk};
use crate::api::user::UserInfo;
use crate::api::value::ValueExt;
use crate::registry::admissionregistration::expressions;
use crate::registry::{Op, Registry, RequestCx, Resource, Target};
use crate::store::cache::Since;
use crate::util::clock::SharedClock;
use crate::util::tasks::Shutdown;

const GROUP: &str = "admissionregistration.k8s.io";
const PLURAL: &str = "validatingadmissionpolicies";
/// Kinds that one policy is checked against. Upstream: `maxTypesToCheck`.
const KINDS_MAX: usize = 10;

/// Follows the policies.
pub struct Policies {
    registry: Arc<Registry>,
    clock: SharedClock,
}

impl Policies {
    /// Over the registry that keeps them.
    pub fn new(registry: Arc<Registry>, clock: SharedClock) -> Self {
        Self { registry, clock }
    }

    /// Checks policies as they come and change, until the shutdown.
    pub async fn follow(self, stop: Shutdown) -> anyhow::Result<()> {
        stop.clone().or(self.run()).await.unwrap_or(Ok(()))
    }

    async fn run(&self) -> anyhow::Result<()> {
        let cache = self.registry.cache().resource(&GroupResource::new(GROUP, PLURAL));
        let mut cursor = cache.watch(Since::Initial)?;
        loop {
            for policy in cache.list(None).0 {
                let policy = policy.value();
                let seen = policy.int_at("/status/observedGeneration").unwrap_or(0);
                if seen < policy.int_at("/metadata/generation").unwrap_or(0) {
                    self.check(&policy).await;
                }
            }
            drop(cursor.next_batch().await?);
        }
    }

    async fn check(&self, policy: &Value) {
        let name = policy.str_at("/metadata/name").unwrap_or_default();
        let Some(res) = self.registry.resources().get(GROUP, "v1", PLURAL) else { return };
        let generation = policy.int_at("/metadata/generation").unwrap_or(0);
        let all = self.registry.resources().all();
        let warnings = warnings(policy, &kinds(policy, &all), param_type(policy, &all));
        let change = |current: &Value| {
            let mut new = current.clone();
            if current.int_at("/metadata/generation") == Some(generation) {
                new.set_at("/status/observedGeneration", generation);
                new.set_at("/status/typeChecking", json!({"expressionWarnings": warnings}));
            }
            Ok(new)
        };
        let user = UserInfo::authenticated("system:apiserver", &[UserInfo::MASTERS]);
        let mut cx = RequestCx::new(user, "kube-controller-manager", self.clock.now());
        cx.api_version = res.info.gvk.api_version();
        cx.is_patch = true;
        let at = Target { namespace: String::new(), name: name.to_owned() };
        let op = Op::Subresource("status".into());
        if let Err(e) = self.registry.update(&res, &cx, &at, &op, &change, None).await {
            // It is gone, or changed and comes again.
            tracing::debug!(policy = name, "cannot write what its expressions get wrong: {e}");
        }
    }
}

/// A served kind with its type, and its name in warnings.
type Kind = (String, Type);

fn kind_of(resource: &Resource) -> Kind {
    let own = &resource.info.gvk;
    let name = format!("{}/{}, Kind={}", own.group, own.version, own.kind);
    let type_ = match (&resource.custom, resource.def) {
        (Some(custom), _) => typed::of_definition(custom.schema(), &own.kind),
        (None, Some(def)) => typed::of_struct(def),
        (None, None) => Type::Dyn,
    };
    (name, type_)
}

/// The kinds that a policy names, one by one; those that it means by `*` are not looked at.
fn kinds(policy: &Value, all: &[Arc<Resource>]) -> Vec<Kind> {
    let mut found: BTreeMap<(String, String, String), &Resource> = BTreeMap::new();
    for rule in policy.items_at("/spec/matchConstraints/resourceRules") {
        let names = |list: &str, own: &str| rule.items_at(list).iter().any(|n| n == own);
        for resource in all {
            let own = &resource.info.gvk;
            if names("/apiGroups", &own.group)
                && names("/apiVersions", &own.version)
                && names("/resources", &resource.info.plural)
            {
                found.insert((own.group.to_string(), own.version.to_string(), own.kind.to_string()), resource);
            }
        }
    }
    found.into_values().take(KINDS_MAX).map(kind_of).collect()
}

/// The type of a policy's parameters, where it has any.
fn param_type(policy: &Value, all: &[Arc<Resource>]) -> Option<Type> {
    let kind = policy.str_at("/spec/paramKind/kind")?;
    let (group, version) = gvk::split(policy.str_at("/spec/paramKind/apiVersion").unwrap_or_default());
    let is =
        |r: &&Arc<Resource>| (&*r.info.gvk.group, &*r.info.gvk.version, &*r.info.gvk.kind) == (group, version, kind);
    Some(all.iter().find(is).map_or(Type::Dyn, |r| kind_of(r).1))
}

/// What the expressions of a policy get wrong, in their order.
fn warnings(policy: &Value, kinds: &[Kind], params: Option<Type>) -> Vec<Value> {
    let envs: Vec<(&str, Env)> = kinds
        .iter()
        .map(|(name, type_)| {
            let mut env = expressions::policy(params.is_some());
            env = env.with("object", type_.clone()).with("oldObject", type_.clone());
            if let Some(params) = &params {
                env = env.with("params", params.clone());
            }
            for variable in policy.items_at("/spec/variables") {
                let text = |path| variable.str_at(path).unwrap_or_default();
                let made = Program::compile(&env, text("/expression")).map_or(Type::Dyn, |p| p.result);
                env = expressions::with_variable(env, text("/name"), made);
            }
            (name.as_str(), env)
        })
        .collect();
    let wrong = |text: &str| -> String {
        let one = |(name, env): &(&str, Env)| {
            let why = Program::compile(env, text).err()?;
            Some(format!("{name}: {why}\n"))
        };
        envs.iter().filter_map(one).collect()
    };
    let mut out = Vec::new();
    for (i, validation) in policy.items_at("/spec/validations").iter().enumerate() {
        for member in ["expression", "messageExpression"] {
            let text = validation.str_at(&format!("/{member}")).unwrap_or_default();
            let why = if text.trim().is_empty() { String::new() } else { wrong(text) };
            if !why.is_empty() {
                out.push(json!({"fieldRef": format!("spec.validations[{i}].{member}"), "warning": why}));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Resources;

    fn policy(spec: Value) -> Value {
        let rules = json!([{"apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments", "statefulsets/scale"]},
            {"apiGroups": ["*"], "apiVersions": ["v1"], "resources": ["pods"]}]);
        let mut policy = json!({"spec": spec});
        policy.set_at("/spec/matchConstraints/resourceRules", rules);
        policy
    }

    fn found(spec: Value) -> Vec<(String, String)> {
        let all = Resources::builtin().all();
        let policy = policy(spec);
        let text = |w: &Value, path: &str| w.str_at(path).unwrap_or_default().to_owned();
        let warnings = warnings(&policy, &kinds(&policy, &all), param_type(&policy, &all));
        warnings.iter().map(|w| (text(w, "/fieldRef"), text(w, "/warning"))).collect()
    }

    #[test]
    fn kinds_are_those_that_are_named() {
        let all = Resources::builtin().all();
        let names: Vec<String> = kinds(&policy(json!({})), &all).into_iter().map(|k| k.0).collect();
        assert_eq!(names, ["apps/v1, Kind=Deployment"]);
    }

    #[test]
    fn each_expression_is_judged() {
        let found = found(json!({"validations": [{"expression": "object.spec.replicas > '1'",
            "messageExpression": "'wants replicas > 1, got ' + object.spec.replicas"}, {"expression": "object.spec.replicas > 1"}]}));
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].0, "spec.validations[0].expression");
        assert!(
            found[0].1.contains("found no matching overload for '_>_' applied to '(int, string)'"),
            "{}",
            found[0].1
        );
        assert_eq!(found[1].0, "spec.validations[0].messageExpression");
        assert!(
            found[1].1.contains("found no matching overload for '_+_' applied to '(string, int)'"),
            "{}",
            found[1].1
        );
        assert!(found[1].1.starts_with("apps/v1, Kind=Deployment: ERROR"));
    }

    #[test]
    fn variables_and_parameters_have_types() {
        let found = found(json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
            "variables": [{"name": "n", "expression": "object.spec.replicas"}],
            "validations": [{"expression": "variables.n == 'x'"}, {"expression": "params.data.max == 1"},
                {"expression": "variables.n < int(params.data.max)"}]}));
        let at: Vec<&str> = found.iter().map(|f| f.0.as_str()).collect();
        assert_eq!(at, ["spec.validations[0].expression", "spec.validations[1].expression"]);
    }
}
