//! Which objects belong to an owner: those that name it as their controller and match its selector, and orphans that match.
//!
//! Rules: upstream `controller_ref_manager`.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::meta::labels::Selector;
use crate::api::object::{Object, ObjectKey};
use crate::api::status::Reason;
use crate::api::value::ValueExt;
use crate::client::{Patch, Res};
use crate::runtime::{Cx, Error};
use crate::util::order::Arrange;

/// What to do about objects that could be an owner's.
#[derive(Debug, Default)]
pub struct Claim {
    /// Owned, matching.
    pub mine: Vec<Arc<Object>>,
    /// Orphans that match: to be adopted.
    pub adopt: Vec<Arc<Object>>,
    /// Owned, no longer matching: to be let go.
    pub release: Vec<Arc<Object>>,
}

/// Sorts candidates. A dying owner adopts nobody; a dying orphan is left alone.
pub fn sort(owner: &Object, selector: &Selector, candidates: Vec<Arc<Object>>) -> Claim {
    let mut claim = Claim::default();
    for object in candidates {
        let matches = selector.matches(|k| object.meta.label(k));
        match object.meta.controller() {
            Some(c) if c.uid != owner.meta.uid => {}
            Some(_) if matches => claim.mine.push(object),
            Some(_) if !owner.is_deleting() => claim.release.push(object),
            None if matches && !owner.is_deleting() && !object.is_deleting() => claim.adopt.push(object),
            _ => {}
        }
    }
    claim
}

/// Which objects an owner claims, and how.
#[derive(Clone, Copy)]
pub struct Rule<'a> {
    selector: &'a Selector,
    finalizer: Option<&'a str>,
    fits: fn(&Object, &Object) -> bool,
    counts: fn(&Object) -> bool,
}

impl<'a> Rule<'a> {
    /// All that a selector matches.
    pub fn of(selector: &'a Selector) -> Self {
        Self { selector, finalizer: None, fits: |_, _| true, counts: |_| true }
    }

    /// What is adopted gets this finalizer, what is released loses it.
    pub fn with_finalizer(self, finalizer: &'a str) -> Self {
        Self { finalizer: Some(finalizer), ..self }
    }

    /// What `counts` does not say of an object is passed over: neither given back nor adopted nor released.
    pub fn among(self, counts: fn(&Object) -> bool) -> Self {
        Self { counts, ..self }
    }

    /// Only what `fits` says of an owner and an orphan is adopted.
    pub fn only(self, fits: fn(&Object, &Object) -> bool) -> Self {
        Self { fits, ..self }
    }
}

/// The selector of `spec.selector`.
pub fn label_selector(owner: &Value) -> Result<Selector, Error> {
    Selector::from_label_selector(&owner["spec"]["selector"]).map_err(|e| Error::Object {
        what: format!("the selector of {}", owner.str_at("/metadata/name").unwrap_or_default()),
        reason: e.to_string(),
    })
}

/// The owners of kind `res`, by their label selectors, that could adopt an object that has none.
pub fn adopters(res: &Res, orphan: &Object, cx: &Cx) -> Vec<ObjectKey> {
    if orphan.meta.controller().is_some() {
        return Vec::new();
    }
    let selects = |o: &Arc<Object>| {
        label_selector(&o.only(&["spec", "selector"]))
            .is_ok_and(|s| !s.is_empty() && s.matches(|k| orphan.meta.label(k)))
    };
    let all = cx.lister(res).list(Some(&orphan.meta.namespace));
    all.into_iter().filter(selects).map(|o| ObjectKey::from(&o.meta)).collect()
}

/// The objects of `res` that belong to `owner`, after adopting and releasing.
pub async fn claim(
    cx: &Cx,
    owner_res: &Res,
    owner: &Object,
    selector: &Selector,
    res: &Res,
) -> Result<Vec<Arc<Object>>, Error> {
    claim_by(cx, owner_res, owner, res, Rule::of(selector)).await
}

/// The same, by a rule.
pub async fn claim_by(
    cx: &Cx,
    owner_res: &Res,
    owner: &Object,
    res: &Res,
    rule: Rule<'_>,
) -> Result<Vec<Arc<Object>>, Error> {
    let selector = rule.selector;
    let lister = cx.lister(res);
    let mut candidates = lister.by_index("owner", &owner.meta.uid);
    // An empty selector matches everything; nobody means that.
    if !selector.is_empty() {
        let orphans = lister.select(Some(&owner.meta.namespace), selector);
        candidates.extend(orphans.into_iter().filter(|o| o.meta.controller().is_none() && (rule.fits)(owner, o)));
        candidates.arrange_by(|a, b| a.meta.name.cmp(&b.meta.name));
        candidates.dedup_by(|a, b| a.meta.uid == b.meta.uid);
    }
    candidates.retain(|o| (rule.counts)(o));
    let mut claim = sort(owner, selector, candidates);
    for orphan in claim.adopt {
        let mut patch = json!({"metadata": {"uid": orphan.meta.uid, "resourceVersion": orphan.revision.to_string(),
            "ownerReferences": adopted(&orphan, owner_reference(owner_res, owner))}});
        if let Some(finalizer) = rule.finalizer {
            let others = orphan.meta.finalizers.iter().map(|f| &**f).filter(|f| *f != finalizer);
            patch["metadata"]["finalizers"] = others.chain([finalizer]).collect::<Vec<&str>>().into();
        }
        if patched(cx, res, &orphan, &patch).await? {
            claim.mine.extend(lister.get(&orphan.meta.namespace, &orphan.meta.name));
        }
    }
    for object in claim.release {
        let others: Vec<Value> = references(&object).into_iter().filter(|r| r["uid"] != *owner.meta.uid).collect();
        let mut patch = json!({"metadata": {"uid": object.meta.uid, "resourceVersion": object.revision.to_string(),
            "ownerReferences": others}});
        if let Some(finalizer) = rule.finalizer {
            let left = object.meta.finalizers.iter().map(|f| &**f).filter(|f| *f != finalizer);
            patch["metadata"]["finalizers"] = left.collect::<Vec<&str>>().into();
        }
        patched(cx, res, &object, &patch).await?;
    }
    Ok(claim.mine)
}

async fn patched(cx: &Cx, res: &Res, object: &Object, patch: &Value) -> Result<bool, Error> {
    let meta = &object.meta;
    match cx.client.patch(res, &meta.namespace, &meta.name, None, Patch::Merge(patch)).await {
        Ok(_) => Ok(true),
        Err(e) if e.reason == Reason::NotFound => Ok(false),
        Err(e) => Err(e.into()),
    }
}

fn references(object: &Object) -> Vec<Value> {
    object.value().items_at("/metadata/ownerReferences").to_vec()
}

fn adopted(object: &Object, owner: Value) -> Vec<Value> {
    let mut all: Vec<Value> = references(object).into_iter().filter(|r| r["uid"] != owner["uid"]).collect();
    all.push(owner);
    all
}

/// The owner reference of a managing controller.
pub fn owner_reference(res: &Res, owner: &Object) -> Value {
    json!({"apiVersion": res.api_version(), "kind": res.kind, "name": owner.meta.name, "uid": owner.meta.uid,
        "controller": true, "blockOwnerDeletion": true})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str, app: &str, owner: Option<&str>) -> Arc<Object> {
        let owners = owner.map_or(json!([]), |uid| json!([{"uid": uid, "kind": "X", "name": "x", "controller": true}]));
        let v = json!({"metadata": {"name": name, "uid": name, "labels": {"app": app}, "ownerReferences": owners}});
        Arc::new(Object::from_value(&v, &[]))
    }

    #[test]
    fn ours_orphans_and_strangers() {
        let owner = object("me", "", None);
        let all = vec![
            object("mine", "web", Some("me")),
            object("orphan", "web", None),
            object("left", "other", Some("me")),
            object("theirs", "web", Some("they")),
            object("nobody", "other", None),
        ];
        let names = |v: &[Arc<Object>]| v.iter().map(|o| o.meta.name.clone()).collect::<Vec<_>>();
        let claim = sort(&owner, &Selector::parse("app=web").unwrap(), all);
        assert_eq!(names(&claim.mine), ["mine"]);
        assert_eq!(names(&claim.adopt), ["orphan"]);
        assert_eq!(names(&claim.release), ["left"]);
    }
}
