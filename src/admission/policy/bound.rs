//! What both plugins do alike: the policies and bindings that a request meets, and the parameters of each.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::Value;

use crate::api::cel::Val;
use crate::api::meta::labels::Selector;
use crate::api::object::Object;
use crate::api::scheme::Scope;
use crate::api::status::{ApiResult, Reason, Status};
use crate::api::value::ValueExt;
use crate::registry::{Admission, Resource, Resources, View};

use super::GROUP;
use super::compiled::{Kept, Policy};
use crate::admission::matching::{Attributes, GroupVersion, Matcher, name_of};

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
    resources: Arc<Resources>,
    /// Plural names of policies and bindings.
    plurals: [&'static str; 2],
}

/// A policy that a request meets, and how.
pub struct Met<T> {
    /// The policy.
    pub policy: Arc<(Policy, T)>,
    /// The binding.
    pub binding: Arc<Binding>,
    /// The version of the resource that the policy's rules name, where it is not the request's.
    pub version: Option<Arc<Resource>>,
}

impl<T> Met<T> {
    /// The resource as the policy sees it.
    pub fn resource<'a>(&'a self, a: &'a Admission<'_>) -> &'a Resource {
        self.version.as_deref().unwrap_or(a.resource)
    }

    /// An object of the request as the policy sees it. What is posted to a subresource is of one version only.
    pub fn shown<'v>(&self, a: &Admission<'_>, object: &'v Value) -> Cow<'v, Value> {
        match &self.version {
            Some(version) if is_of(object, a.resource) => Cow::Owned(convert(object.clone(), a.resource, version)),
            _ => Cow::Borrowed(object),
        }
    }

    /// What the policy made of an object, in the request's version.
    pub fn back(&self, a: &Admission<'_>, object: Value) -> Value {
        match &self.version {
            Some(version) if is_of(&object, version) => convert(object, version, a.resource),
            _ => object,
        }
    }
}

fn is_of(object: &Value, resource: &Resource) -> bool {
    let own = &resource.info.gvk;
    object.str_at("/kind") == Some(&*own.kind) && object.str_at("/apiVersion") == Some(&*own.api_version())
}

fn convert(mut object: Value, from: &Resource, to: &Resource) -> Value {
    from.to_stored(&mut object);
    to.from_stored(&mut object);
    object
}

impl<T> Bound<T> {
    /// Over two resources.
    pub fn new(resources: Arc<Resources>, plurals: [&'static str; 2]) -> Self {
        Self { policies: Kept::default(), bindings: Kept::default(), resources, plurals }
    }

    /// All bindings that a request matches, with their policies, in the order of the policies' names.
    pub fn met(
        &self,
        a: &Admission<'_>,
        new: Option<&Value>,
        old: Option<&Value>,
        view: &dyn View,
        compile: fn(&Value, &Policy) -> T,
    ) -> ApiResult<Vec<Met<T>>> {
        let bindings: Vec<Arc<Object>> = view.list(GROUP, self.plurals[1], None);
        if bindings.is_empty() {
            return Ok(Vec::new());
        }
        let bindings: Vec<_> = bindings.iter().map(|b| self.bindings.of(b, Binding::new)).collect();
        let attributes = Attributes::of(a, new, old);
        let labels = || {
            let namespace = view.get("", "namespaces", "", attributes.namespace)?;
            Some(namespace.value().get_at("/metadata/labels").cloned().unwrap_or_default())
        };
        // The same objects in other versions: a policy that names one of them is asked, and sees it.
        let own = &a.resource.info;
        let mut others = self.resources.all();
        others.retain(|r| r.info.stored == own.stored && r.info.gvk != own.gvk);
        let names: Vec<GroupVersion> =
            others.iter().map(|r| (r.info.gvk.group.to_string(), r.info.gvk.version.to_string())).collect();
        let matches = |m: &Matcher| m.matches(&attributes, &names, labels);
        let mut out = Vec::new();
        for object in view.list(GROUP, self.plurals[0], None) {
            let mut own = bindings.iter().filter(|b| *b.policy == *object.meta.name).peekable();
            if own.peek().is_none() {
                continue;
            }
            let policy = self.policies.of(&object, |value| {
                let policy = Policy::new(value);
                let more = compile(value, &policy);
                (policy, more)
            });
            let Some(named) = matches(&policy.0.matcher)? else { continue };
            let version = names.iter().position(|n| *n == named).map(|i| others[i].clone());
            for binding in own {
                if matches(&binding.matcher)?.is_some() {
                    out.push(Met { policy: policy.clone(), binding: binding.clone(), version: version.clone() });
                }
            }
        }
        Ok(out)
    }

    /// The parameters that a policy is evaluated with, once for each; or why it cannot be.
    pub fn params(
        &self,
        policy: &Policy,
        binding: &Binding,
        a: &Admission<'_>,
        view: &dyn View,
    ) -> Result<Vec<Val>, String> {
        let (Some((api_version, kind)), Some(param)) = (&policy.param_kind, &binding.param_ref) else {
            return Ok(vec![Val::Null]);
        };
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        let all = self.resources.all();
        let is_kind = |gvk: &crate::api::meta::Gvk| gvk.group == group && gvk.version == version && gvk.kind == **kind;
        let Some(resource) = all.iter().find(|r| is_kind(&r.info.gvk)) else {
            return Err(format!("failed to find resource referenced by paramKind: '{api_version}, Kind={kind}'"));
        };
        let info = &resource.info;
        let namespace = match (info.scope == Scope::Namespaced, param.str_at("/namespace").unwrap_or_default()) {
            (true, "") if a.target.namespace.is_empty() => {
                return Err(
                    "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources".into()
                );
            }
            (true, "") => a.target.namespace.as_str(),
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
        let value = |o: &Arc<Object>| {
            let mut value = o.value();
            resource.from_stored(&mut value);
            Val::from_json(&value)
        };
        Ok(found.iter().map(value).collect())
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
