//! What both plugins do alike: the policies and bindings that a request meets, and the parameters of each.

use std::sync::Arc;

use serde_json::Value;

use crate::api::cel::Val;
use crate::api::meta::labels::Selector;
use crate::api::object::Object;
use crate::api::scheme::Scope;
use crate::api::status::{ApiResult, Reason, Status};
use crate::api::value::ValueExt;
use crate::registry::Admission;

use super::GROUP;
use super::compiled::{Kept, Policy};
use crate::admission::asking::{Asking, Between};
use crate::admission::matching::{Matcher, name_of};

/// A binding.
pub struct Binding {
    /// Its name.
    pub name: String,
    /// The name of its policy.
    pub policy: String,
    /// `Deny`, `Warn`, `Audit`.
    pub actions: Vec<String>,
    matcher: Matcher,
    param_ref: Option<Value>,
}

impl Binding {
    /// From the object.
    fn new(object: &Value) -> Self {
        let spec = &object["spec"];
        let text = |path: &str| object.str_at(path).unwrap_or_default().to_owned();
        let actions = spec.items_at("/validationActions").iter();
        Self {
            name: text("/metadata/name"),
            policy: text("/spec/policyName"),
            actions: actions.filter_map(|a| a.as_str().map(str::to_owned)).collect(),
            matcher: Matcher::new(&spec["matchResources"], "resourceRules").or_all(),
            param_ref: spec.get("paramRef").filter(|p| p.is_object()).cloned(),
        }
    }
}

/// Policies with a compiled part of their own, and their bindings.
pub struct Bound<T> {
    policies: Kept<(Policy, T)>,
    bindings: Kept<Binding>,
    /// Plural names of policies and bindings.
    plurals: [&'static str; 2],
}

/// A policy that a request meets, and how.
pub struct Met<'a, T> {
    /// The policy.
    pub policy: Arc<(Policy, T)>,
    /// The binding.
    pub binding: Arc<Binding>,
    /// The way to the version of the resource that the policy's rules name.
    pub between: Between<'a>,
}

impl<T> Bound<T> {
    /// Over two resources.
    pub fn new(plurals: [&'static str; 2]) -> Self {
        Self { policies: Kept::default(), bindings: Kept::default(), plurals }
    }

    /// All bindings that a request matches, with their policies, in the order of the policies' names.
    pub fn met<'a>(
        &self,
        cx: &Asking<'a>,
        new: Option<&Value>,
        old: Option<&Value>,
        compile: fn(&Value, &Policy) -> T,
    ) -> ApiResult<Vec<Met<'a, T>>> {
        let bindings: Vec<Arc<Object>> = cx.view.list(GROUP, self.plurals[1], None);
        if bindings.is_empty() {
            return Ok(Vec::new());
        }
        let bindings: Vec<_> = bindings.iter().map(|b| self.bindings.of(b, Binding::new)).collect();
        let mut out = Vec::new();
        for object in cx.view.list(GROUP, self.plurals[0], None) {
            let mut own = bindings.iter().filter(|b| *b.policy == *object.meta.name).peekable();
            if own.peek().is_none() {
                continue;
            }
            let policy = self.policies.of(&object, |value| {
                let policy = Policy::new(value);
                let more = compile(value, &policy);
                (policy, more)
            });
            let Some(version) = cx.matches(&policy.0.matcher, new, old)? else { continue };
            for binding in own {
                if cx.matches(&binding.matcher, new, old)?.is_some() {
                    let (policy, binding) = (policy.clone(), binding.clone());
                    out.push(Met { policy, binding, between: cx.between(&version) });
                }
            }
        }
        Ok(out)
    }
}

impl<T> Met<'_, T> {
    /// The parameters that a policy is evaluated with, once for each; or why it cannot be.
    ///
    /// # Errors
    /// What is wrong with the binding, or with the parameters.
    pub async fn params(&self, cx: &Asking<'_>) -> Result<Vec<Val>, String> {
        let (Some((api_version, kind)), Some(param)) = (&self.policy.0.param_kind, &self.binding.param_ref) else {
            return Ok(vec![Val::Null]);
        };
        let (target, view) = (cx.admission.target, cx.view);
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        let all = cx.registry.map(|r| r.resources().all()).unwrap_or_default();
        let is_kind = |gvk: &crate::api::meta::Gvk| gvk.group == group && gvk.version == version && gvk.kind == **kind;
        let Some(resource) = all.iter().find(|r| is_kind(&r.info.gvk)) else {
            return Err(format!("failed to find resource referenced by paramKind: '{api_version}, Kind={kind}'"));
        };
        let info = &resource.info;
        let namespace = match (info.scope == Scope::Namespaced, param.str_at("/namespace").unwrap_or_default()) {
            (true, "") if target.namespace.is_empty() => {
                return Err(
                    "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources".into()
                );
            }
            (true, "") => target.namespace.as_str(),
            (true, given) => given,
            (false, "") => "",
            (false, _) => return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".into()),
        };
        let stored = (&*info.stored.group, &*info.stored.resource);
        let found: Vec<Arc<Object>> = match param.str_at("/name").filter(|n| !n.is_empty()) {
            Some(name) => view.get(stored.0, stored.1, namespace, name).into_iter().collect(),
            None => {
                let selector = Selector::from_label_selector(&param["selector"]).map_err(|e| e.to_string())?;
                let mut all = view.list(stored.0, stored.1, (!namespace.is_empty()).then_some(namespace));
                all.retain(|o| selector.matches_value(o.value().get_at("/metadata/labels")));
                all
            }
        };
        if found.is_empty() && param.str_at("/parameterNotFoundAction") != Some("Allow") {
            return Err("no params found for policy binding with `Deny` parameterNotFoundAction".into());
        }
        let found = cx.served(resource, found).await.map_err(|why| why.message.clone())?;
        Ok(found.iter().map(Val::from_json).collect())
    }
}

/// A refusal in the words and with the reason of a policy.
pub fn refusal(a: &Admission<'_>, new: Option<&Value>, message: String, reason: &str) -> Box<Status> {
    let info = &a.resource.info;
    let mut status = Status::forbidden(&info.gvk.group, &info.plural, name_of(a, new), &message);
    status.reason = match reason {
        "" => Reason::Invalid,
        reason => Reason::parse(reason),
    };
    status.code = match status.reason {
        Reason::Forbidden | Reason::Unauthorized | Reason::RequestEntityTooLarge => status.reason.code(),
        _ => Reason::Invalid.code(),
    };
    status.details["causes"] = serde_json::json!([{"message": message}]);
    status
}
