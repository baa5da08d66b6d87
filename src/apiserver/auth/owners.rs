//! OwnerReferencesPermissionEnforcement: who says that an object belongs to another decides when it is deleted, and may keep
//! the other from being deleted; so he has to be allowed to do both.
//!
//! Rules: upstream `plugin/pkg/admission/gc`.

use std::sync::Arc;

use serde_json::Value;

use crate::admission::{Plugin, name_of, refuse};
use crate::api::meta::gvk;
use crate::api::scheme::Scope;
use crate::api::status::ApiResult;
use crate::api::user::{Attributes, Decision};
use crate::api::value::ValueExt;
use crate::apiserver::access::Access;
use crate::registry::{Admission, Resource, Resources, View};

/// The plugin.
pub(super) struct OwnerReferences {
    access: Arc<Access>,
    /// What kinds of owners are called in requests.
    resources: Arc<Resources>,
}

impl OwnerReferences {
    pub(super) fn new(access: Arc<Access>, resources: Arc<Resources>) -> Self {
        Self { access, resources }
    }

    /// Why somebody may not, if so.
    fn refusal(&self, a: &Admission<'_>, attributes: Attributes) -> Option<String> {
        let (decision, reason) = self.access.authorizer().explain(&attributes, &a.cx.user);
        (decision != Decision::Allow).then_some(reason)
    }
}

/// True when the owners are not those of before.
fn changes_owners(new: &Value, old: Option<&Value>) -> bool {
    new.items_at("/metadata/ownerReferences") != old.map_or(&[][..], |old| old.items_at("/metadata/ownerReferences"))
}

/// Owners that this change makes wait for the object. Pure.
fn newly_blocked<'a>(new: &'a Value, old: Option<&Value>) -> Vec<&'a Value> {
    let blocks = |owner: &&Value| owner.bool_at("/blockOwnerDeletion") == Some(true);
    let was_blocked = |owner: &Value| {
        let before = old.map_or(&[][..], |old| old.items_at("/metadata/ownerReferences"));
        before.iter().filter(blocks).any(|o| o["uid"] == owner["uid"])
    };
    new.items_at("/metadata/ownerReferences").iter().filter(blocks).filter(|owner| !was_blocked(owner)).collect()
}

impl Plugin for OwnerReferences {
    fn name(&self) -> &'static str {
        "OwnerReferencesPermissionEnforcement"
    }

    fn validate(&self, a: &Admission<'_>, new: Option<&Value>, old: Option<&Value>, _view: &dyn View) -> ApiResult<()> {
        let Some(new) = new.filter(|new| changes_owners(new, old)) else { return Ok(()) };
        let info = &a.resource.info;
        let name = if a.target.name.is_empty() { name_of(new) } else { &a.target.name };
        // A status has no owners: a kubelet that sends another list changes nothing.
        if a.is("", "pods") && a.subresource == "status" {
            return Ok(());
        }
        let own = Attributes {
            verb: "delete".into(),
            group: info.gvk.group.to_string(),
            version: info.gvk.version.to_string(),
            resource: info.plural.to_string(),
            subresource: a.subresource.to_owned(),
            namespace: a.target.namespace.clone(),
            name: a.target.name.clone(),
            ..Attributes::default()
        };
        // Who makes an object takes nothing from anybody.
        if a.operation != "CREATE"
            && let Some(why) = self.refusal(a, own)
        {
            return Err(refuse(a, name, format!("cannot set an ownerRef on a resource you can't delete: {why}")));
        }
        for owner in newly_blocked(new, old) {
            let text = |member: &str| owner.get(member).and_then(Value::as_str).unwrap_or_default();
            let (group, version) = gvk::split(text("apiVersion"));
            let all = self.resources.all();
            let is_owner = |r: &Resource| {
                let of = &r.info.gvk;
                (&*of.group, &*of.version, &*of.kind) == (group, version, text("kind"))
            };
            let mut owners = all.iter().filter(|r| is_owner(r)).peekable();
            if owners.peek().is_none() {
                let (api_version, kind) = (text("apiVersion"), text("kind"));
                let why = format!(
                    "cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion {api_version} Kind {kind}"
                );
                return Err(refuse(a, name, why));
            }
            for resource in owners {
                let namespaced = resource.info.scope == Scope::Namespaced;
                let finalizers = Attributes {
                    verb: "update".into(),
                    group: group.to_owned(),
                    version: version.to_owned(),
                    resource: resource.info.plural.to_string(),
                    subresource: "finalizers".into(),
                    namespace: if namespaced { a.target.namespace.clone() } else { String::new() },
                    name: text("name").to_owned(),
                    ..Attributes::default()
                };
                if let Some(why) = self.refusal(a, finalizers) {
                    let why = format!(
                        "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: {why}"
                    );
                    return Err(refuse(a, name, why));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use test_case::test_case;

    use super::*;

    fn object(owners: &[(&str, Option<bool>)]) -> Value {
        let owner = |(uid, blocks): &(&str, Option<bool>)| match blocks {
            Some(blocks) => json!({"uid": uid, "blockOwnerDeletion": blocks}),
            None => json!({"uid": uid}),
        };
        json!({"metadata": {"ownerReferences": owners.iter().map(owner).collect::<Vec<_>>()}})
    }

    #[test_case(&[("a", None)], &[("a", None)], false, &[]; "as before")]
    #[test_case(&[("a", None)], &[], true, &[]; "a new owner")]
    #[test_case(&[], &[("a", Some(true))], true, &[]; "an owner less")]
    #[test_case(&[("a", Some(true))], &[], true, &["a"]; "a new one that waits")]
    #[test_case(&[("a", Some(true)), ("b", Some(true))], &[("a", Some(false)), ("b", Some(true))], true, &["a"]; "one that waits now")]
    #[test_case(&[("a", Some(false))], &[("a", Some(true))], true, &[]; "one that waits no more")]
    fn owners(new: &[(&str, Option<bool>)], old: &[(&str, Option<bool>)], changes: bool, blocked: &[&str]) {
        let (new, old) = (object(new), object(old));
        assert_eq!(changes_owners(&new, Some(&old)), changes);
        let found: Vec<&str> = newly_blocked(&new, Some(&old)).iter().filter_map(|o| o["uid"].as_str()).collect();
        assert_eq!(found, blocked);
    }
}
