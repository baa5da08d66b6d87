//! The ordered chain of admission plugins: all of them may change the new object, then all of them may refuse it.
//!
//! **Invariant:** plugins read other objects from the watch cache only; none waits for the network.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use crate::api::status::{ApiResult, Reason, Status};
use crate::api::value::ValueExt;
use crate::registry::{Admission, Admit, View};

mod namespace;
mod service_account;

/// One plugin. Most override one method.
pub trait Plugin: Send + Sync {
    /// Upstream's name.
    fn name(&self) -> &'static str;
    /// Changes the new object, or refuses it.
    fn mutate(&self, _a: &Admission<'_>, _new: &mut Value, _old: Option<&Value>, _view: &dyn View) -> ApiResult<()> {
        Ok(())
    }
    /// Refuses, or not.
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

/// PLUGINS in upstream's order. Add one here.
const PLUGINS: &[&dyn Plugin] = &[&namespace::NamespaceLifecycle, &service_account::ServiceAccount];

/// The chain.
pub fn chain(view: Arc<dyn View>) -> Arc<dyn Admit> {
    Arc::new(Chain { view })
}

struct Chain {
    view: Arc<dyn View>,
}

#[async_trait]
impl Admit for Chain {
    async fn mutate(&self, a: &Admission<'_>, new: &mut Value, old: Option<&Value>) -> ApiResult<()> {
        PLUGINS.iter().try_for_each(|p| p.mutate(a, new, old, &*self.view))
    }

    async fn validate(&self, a: &Admission<'_>, new: Option<&Value>, old: Option<&Value>) -> ApiResult<()> {
        PLUGINS.iter().try_for_each(|p| p.validate(a, new, old, &*self.view))
    }
}

/// 403 by a plugin, in upstream's words.
fn refuse(a: &Admission<'_>, name: &str, why: impl std::fmt::Display) -> Box<Status> {
    let info = &a.resource.info;
    Status::forbidden(&info.gvk.group, &info.plural, name, &why.to_string())
}

/// The new object's name, or its prefix.
fn name_of(new: &Value) -> &str {
    let name = new.str_at("/metadata/name").unwrap_or_default();
    if name.is_empty() { new.str_at("/metadata/generateName").unwrap_or_default() } else { name }
}

/// True for the error that a namespace does not exist.
pub fn is_namespace_missing(status: &Status) -> bool {
    status.reason == Reason::NotFound && status.details.str_at("/kind") == Some("namespaces")
}
