//! The ordered chain of admission plugins: all of them may change the new object, then all of them may refuse it. Policies
//! come after the plugins and webhooks after those, both times.
//!
//! **Invariant:** plugins read other objects from the watch cache only. Webhooks alone wait for the network, and policies
//! over a custom resource whose versions a webhook converts.
//! **Invariant:** the order is upstream's, whoever brings a plugin.

use std::sync::{Arc, OnceLock, Weak};

use async_trait::async_trait;
use serde_json::Value;

use crate::api::status::{ApiResult, Reason, Status};
use crate::api::value::ValueExt;
use crate::registry::outward::Call;
use crate::registry::{Admission, Admit, Registry, View};

use asking::Asking;
pub use choice::Choice;
use policy::Policies;
use webhook::{Rounds, Webhooks};

mod asking;
mod choice;
mod ingress_class;
mod limit_ranger;
mod limits;
mod matching;
mod namespace;
mod pod_security;
mod pod_standards;
pub mod policy;
mod priority;
mod quota;
mod runtime_class;
mod service_account;
mod storage;
mod taints;
mod tolerations;
mod topology_labels;
mod webhook;

/// One plugin. Most override one method.
pub trait Plugin: Send + Sync {
    /// Upstream's name.
    fn name(&self) -> &'static str;
    /// Changes the new object, or refuses it.
    fn mutate(&self, _a: &Admission<'_>, _new: &mut Value, _old: Option<&Value>, _view: &dyn View) -> ApiResult<()> {
        Ok(())
    }
    /// Refuses, or not. `new` is none for deletions.
    fn validate(
        &self,
        _a: &Admission<'_>,
        _new: Option<&Value>,
        _old: Option<&Value>,
        _view: &dyn View,
    ) -> ApiResult<()> {
        Ok(())
    }
}

/// PLUGINS that need nothing but other objects. Add one here, and its name to [`ORDER`].
fn plugins() -> Vec<Box<dyn Plugin>> {
    vec![
        Box::new(namespace::NamespaceLifecycle),
        Box::new(limit_ranger::LimitRanger),
        Box::new(service_account::ServiceAccount),
        Box::new(taints::TaintNodesByCondition),
        Box::new(pod_security::PodSecurity),
        Box::new(priority::Priority),
        Box::new(tolerations::DefaultTolerationSeconds),
        Box::new(storage::DefaultStorageClass),
        Box::new(storage::StorageObjectInUseProtection),
        Box::new(storage::PersistentVolumeClaimResize),
        Box::new(runtime_class::RuntimeClass),
        Box::new(ingress_class::DefaultIngressClass),
        Box::new(topology_labels::PodTopologyLabels),
    ]
}

/// Those that the chain asks itself, behind all others.
const LAST: [&str; 5] = [
    "MutatingAdmissionPolicy",
    "MutatingAdmissionWebhook",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionWebhook",
    "ResourceQuota",
];

/// Upstream's order of the others.
const ORDER: &[&str] = &[
    "NamespaceLifecycle",
    "LimitRanger",
    "ServiceAccount",
    "NodeRestriction",
    "TaintNodesByCondition",
    "PodSecurity",
    "Priority",
    "DefaultTolerationSeconds",
    "DefaultStorageClass",
    "StorageObjectInUseProtection",
    "OwnerReferencesPermissionEnforcement",
    "PersistentVolumeClaimResize",
    "RuntimeClass",
    "CertificateApproval",
    "CertificateSigning",
    "CertificateSubjectRestriction",
    "DefaultIngressClass",
    "PodTopologyLabels",
    "RoleEscalation",
];

/// The chain: this module's plugins and those that the server brings. `ask` answers the questions of expressions, webhooks
/// are asked through `call`.
pub fn chain(
    choice: Choice,
    view: Arc<dyn View>,
    extra: Vec<Box<dyn Plugin>>,
    ask: Arc<dyn policy::Ask>,
    call: Arc<dyn Call>,
) -> Arc<Chain> {
    let mut all = plugins();
    all.extend(extra);
    all.retain(|p| choice.has(p.name()));
    all.sort_by_key(|p| ORDER.iter().position(|name| *name == p.name()).unwrap_or(ORDER.len()));
    let (policies, webhooks) = (Policies::new(ask.clone()), Webhooks::new(call, ask));
    Arc::new(Chain { choice, view, plugins: all, policies, webhooks, registry: OnceLock::new() })
}

/// All plugins in order.
pub struct Chain {
    choice: Choice,
    view: Arc<dyn View>,
    plugins: Vec<Box<dyn Plugin>>,
    policies: Policies,
    webhooks: Webhooks,
    registry: OnceLock<Weak<Registry>>,
}

impl Chain {
    /// The registry through which usage is charged to quotas. Without one, quotas are only looked at.
    pub fn charge_through(&self, registry: &Arc<Registry>) {
        // A second call would be for the same registry: the first one stands.
        let _ = self.registry.set(Arc::downgrade(registry));
    }

    fn registry(&self) -> Option<Arc<Registry>> {
        self.registry.get().and_then(Weak::upgrade)
    }

    /// What the server itself changes: by its plugins, then by policies.
    async fn change(&self, asking: &Asking<'_>, new: &mut Value, old: Option<&Value>) -> ApiResult<()> {
        self.plugins.iter().try_for_each(|p| p.mutate(asking.admission, new, old, asking.view))?;
        if self.choice.has("MutatingAdmissionPolicy") {
            self.policies.mutate(asking, new, old).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Admit for Chain {
    async fn mutate(&self, a: &Admission<'_>, new: &mut Value, old: Option<&Value>) -> ApiResult<()> {
        let registry = self.registry();
        let asking = Asking::new(a, &*self.view, registry.as_deref());
        self.change(&asking, new, old).await?;
        if !self.choice.has("MutatingAdmissionWebhook") {
            return Ok(());
        }
        let mut rounds = Rounds::default();
        self.webhooks.mutate(&asking, Some(new), old, &mut rounds).await?;
        if rounds.changed {
            // What a webhook added has to be as the plugins want it, too.
            self.change(&asking, new, old).await?;
            rounds.next(new);
            self.webhooks.mutate(&asking, Some(new), old, &mut rounds).await?;
        }
        Ok(())
    }

    async fn validate(&self, a: &Admission<'_>, new: Option<&Value>, old: Option<&Value>) -> ApiResult<()> {
        let registry = self.registry();
        let asking = Asking::new(a, &*self.view, registry.as_deref());
        if new.is_none() && self.choice.has("MutatingAdmissionWebhook") {
            // A deletion has nothing to change, but mutating webhooks may refuse it as well.
            self.webhooks.mutate(&asking, None, old, &mut Rounds::default()).await?;
        }
        self.plugins.iter().try_for_each(|p| p.validate(a, new, old, &*self.view))?;
        if self.choice.has("ValidatingAdmissionPolicy") {
            self.policies.validate(&asking, new, old).await?;
        }
        if self.choice.has("ValidatingAdmissionWebhook") {
            self.webhooks.validate(&asking, new, old).await?;
        }
        match new.filter(|_| self.choice.has("ResourceQuota")) {
            Some(new) => quota::charge(a, new, old, &*self.view, registry.as_deref()).await,
            None => Ok(()),
        }
    }
}

/// 403 by a plugin, in upstream's words.
pub(crate) fn refuse(a: &Admission<'_>, name: &str, why: impl std::fmt::Display) -> Box<Status> {
    let info = &a.resource.info;
    Status::forbidden(&info.gvk.group, &info.plural, name, &why.to_string())
}

/// The new object's name, or its prefix.
pub(crate) fn name_of(new: &Value) -> &str {
    let name = new.str_at("/metadata/name").unwrap_or_default();
    if name.is_empty() { new.str_at("/metadata/generateName").unwrap_or_default() } else { name }
}

/// True for a pod that is being created.
fn is_new_pod(a: &Admission<'_>) -> bool {
    a.is("", "pods") && a.operation == "CREATE" && a.subresource.is_empty()
}

/// True for new amounts of the containers of a pod that there is.
fn is_resize(a: &Admission<'_>) -> bool {
    a.is("", "pods") && a.subresource == "resize"
}

/// The list at a path, made when absent.
fn list_mut<'a>(object: &'a mut Value, path: &str) -> &'a mut Vec<Value> {
    if !object.get_at(path).is_some_and(Value::is_array) {
        object.set_at(path, Vec::<Value>::new());
    }
    object.pointer_mut(path).and_then(Value::as_array_mut).expect("made an array above")
}

/// True for the error that a namespace does not exist.
pub fn is_namespace_missing(status: &Status) -> bool {
    status.reason == Reason::NotFound && status.details.str_at("/kind") == Some("namespaces")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_plugin_has_its_place() {
        for plugin in plugins() {
            assert!(ORDER.contains(&plugin.name()), "{}", plugin.name());
        }
    }
}
