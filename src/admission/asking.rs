//! A request as webhooks and policies look at it: with the other versions of its resource, and the way to them.
//!
//! In: a request of the chain, the cache, the registry. Out: which version of the resource a rule means, and the request's
//! objects in it; for custom resources others' servers may have to make them.
//!
//! **Invariant:** what is posted to a subresource is of one version only, and is never converted.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use serde_json::Value;

use super::matching::{Attributes, GroupVersion, Matcher};
use crate::api::object::Object;
use crate::api::status::ApiResult;
use crate::api::value::ValueExt;
use crate::registry::{Admission, Registry, Resource, View};

/// A request, and where other objects are found.
pub struct Asking<'a> {
    /// The request.
    pub admission: &'a Admission<'a>,
    /// Namespaces, Services, configurations.
    pub view: &'a dyn View,
    /// None where there is but the chain: then each resource has one version.
    pub registry: Option<&'a Registry>,
    others: OnceLock<Vec<(GroupVersion, Arc<Resource>)>>,
}

impl<'a> Asking<'a> {
    /// About one request.
    pub fn new(admission: &'a Admission<'a>, view: &'a dyn View, registry: Option<&'a Registry>) -> Self {
        Self { admission, view, registry, others: OnceLock::new() }
    }

    /// The versions in which the same objects are served besides the request's.
    fn others(&self) -> &[(GroupVersion, Arc<Resource>)] {
        self.others.get_or_init(|| {
            let mut all = self.registry.map(|r| r.resources().all()).unwrap_or_default();
            let own = &self.admission.resource.info;
            all.retain(|r| r.info.stored == own.stored && r.info.gvk != own.gvk);
            let name = |r: &Resource| (r.info.gvk.group.to_string(), r.info.gvk.version.to_string());
            all.into_iter().map(|r| (name(&r), r)).collect()
        })
    }

    /// By which version of its resource a rule means the request; none when it means another.
    ///
    /// # Errors
    /// 404 when the namespace does not exist.
    pub fn matches(
        &self,
        matcher: &Matcher,
        new: Option<&Value>,
        old: Option<&Value>,
    ) -> ApiResult<Option<GroupVersion>> {
        let attributes = Attributes::of(self.admission, new, old);
        let labels = || {
            let found = self.view.get("", "namespaces", "", attributes.namespace)?;
            Some(found.value().get_at("/metadata/labels").cloned().unwrap_or_default())
        };
        matcher.matches(&attributes, || self.others().iter().map(|(version, _)| version), labels)
    }

    /// The way between the request's version and the one that a rule names.
    pub fn between(&self, version: &GroupVersion) -> Between<'a> {
        // The request's own is not among the others.
        let other = self.others().iter().find(|(other, _)| other == version).map(|(_, r)| r.clone());
        Between { own: self.admission.resource, other, registry: self.registry }
    }

    /// Stored objects as a resource serves them.
    ///
    /// # Errors
    /// 500 with what a webhook did wrong.
    pub async fn served(&self, resource: &Resource, mut objects: Vec<Arc<Object>>) -> ApiResult<Vec<Value>> {
        if let Some(registry) = self.registry {
            objects = registry.in_version(resource, objects).await?;
        }
        let value = |o: &Arc<Object>| {
            let mut value = o.value();
            resource.from_stored(&mut value);
            value
        };
        Ok(objects.iter().map(value).collect())
    }
}

/// Two versions of a resource; the second is none where the request's own is wanted.
pub struct Between<'a> {
    own: &'a Resource,
    other: Option<Arc<Resource>>,
    registry: Option<&'a Registry>,
}

impl Between<'_> {
    /// The resource in the version that is wanted.
    pub fn shown(&self) -> &Resource {
        self.other.as_deref().unwrap_or(self.own)
    }

    /// True where the request's own version is wanted: there is nothing to convert.
    pub fn is_own(&self) -> bool {
        self.other.is_none()
    }

    /// An object of the request, if there is one, in the version that is wanted.
    ///
    /// # Errors
    /// 500 with what a webhook did wrong.
    pub async fn to<'v>(&self, object: Option<&'v Value>) -> ApiResult<Option<Cow<'v, Value>>> {
        Ok(match (object, &self.other) {
            (Some(object), Some(other)) if is_of(object, self.own) => {
                Some(Cow::Owned(self.convert(object.clone(), self.own, other).await?))
            }
            (object, _) => object.map(Cow::Borrowed),
        })
    }

    /// What was made of such an object, in the request's version.
    ///
    /// # Errors
    /// 500 with what a webhook did wrong.
    pub async fn back(&self, object: Value) -> ApiResult<Value> {
        match &self.other {
            Some(other) if is_of(&object, other) => self.convert(object, other, self.own).await,
            _ => Ok(object),
        }
    }

    async fn convert(&self, object: Value, from: &Resource, to: &Resource) -> ApiResult<Value> {
        match self.registry {
            Some(registry) => registry.converted(object, from, to).await,
            None => Ok(object),
        }
    }
}

/// True for an object of the resource in that version.
pub fn is_of(object: &Value, resource: &Resource) -> bool {
    let own = &resource.info.gvk;
    object.str_at("/kind") == Some(&*own.kind) && object.str_at("/apiVersion") == Some(&*own.api_version())
}
