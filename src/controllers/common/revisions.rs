//! ControllerRevisions: the templates that a StatefulSet or DaemonSet has had, numbered.
//!
//! **Invariant:** equal templates have one revision; one that comes back gets the highest number again.
//! Rules: upstream `pkg/controller/history`. The data is what upstream writes, so that kubectl can roll back with it.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::claim::{self, Rule};
use super::hash;
use crate::api::meta::labels::Selector;
use crate::api::object::Object;
use crate::api::status::Reason;
use crate::api::value::ValueExt;
use crate::client::{DeleteOptions, Res, optional, res};
use crate::runtime::{Cx, Error};
use crate::util::order::Arrange;

/// Label of a revision's hash.
pub const HASH: &str = "controller.kubernetes.io/hash";
/// Label of pods: the revision they were made of.
pub const POD_REVISION: &str = "controller-revision-hash";
/// Names that are tried for one template in one pass; more collisions than these have another cause.
const TRIES_MAX: i64 = 8;
/// Longest part of the owner's name in a revision's.
const PREFIX_MAX: usize = 223;

/// What differs between the kinds that have revisions.
pub struct Row {
    res: &'static Res,
    /// Label of a revision's hash.
    label: &'static str,
    /// The limit of the history counts revisions that pods are still made of. They stay in any case.
    live_counts: bool,
}

/// Rule: upstream `stateful_set_control.go` (`truncateHistory`).
pub static STATEFUL_SET: Row = Row { res: &res::STATEFUL_SETS, label: HASH, live_counts: false };

/// Rule: upstream `daemon/update.go` (`snapshot`, `cleanupHistory`).
pub static DAEMON_SET: Row = Row { res: &res::DAEMON_SETS, label: POD_REVISION, live_counts: true };

/// A revision.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Revision {
    /// Name.
    pub name: String,
    /// Its hash, as in the name.
    pub hash: String,
    /// Number; the highest one is the newest.
    pub number: i64,
    /// The pod template.
    pub template: Value,
}

impl Revision {
    /// From the object's body.
    pub fn new(value: &Value) -> Self {
        let mut template = value.get_at("/data/spec/template").cloned().unwrap_or_default();
        template.remove_at("/$patch");
        let label = |key: &str| value.get_at("/metadata/labels").and_then(|l| l.get(key)).and_then(Value::as_str);
        Self {
            name: value.str_at("/metadata/name").unwrap_or_default().to_owned(),
            hash: label(HASH).or(label(POD_REVISION)).unwrap_or_default().to_owned(),
            number: value.int_at("/revision").unwrap_or(0),
            template,
        }
    }
}

/// What a pass knows of an owner's revisions.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct History {
    /// All, the oldest first.
    pub all: Vec<Revision>,
    /// The one of the present template.
    pub update: Revision,
    /// Names that were taken so far by other templates.
    pub collisions: i64,
}

/// The revisions of `owner`, with one for its present template, which is made when there is none.
pub async fn sync(cx: &Cx, row: &Row, owner: &Arc<Object>, selector: &Selector) -> Result<History, Error> {
    let value = owner.value();
    let owned = claim::claim_by(cx, row.res, owner, &res::CONTROLLER_REVISIONS, Rule::of(selector)).await?;
    let mut all: Vec<Revision> = owned.iter().map(|r| Revision::new(&r.value())).collect();
    all.arrange_by(|a, b| (a.number, &a.name).cmp(&(b.number, &b.name)));
    let template = &value["spec"]["template"];
    let next = all.last().map_or(1, |r| r.number + 1);
    let collisions = value.int_at("/status/collisionCount").unwrap_or(0);
    let known = all.iter().rposition(|r| r.template == *template);
    let update = match known {
        _ if owner.is_deleting() => {
            return Ok(History { update: known.map(|i| all[i].clone()).unwrap_or_default(), all, collisions });
        }
        Some(i) if i + 1 == all.len() => all[i].clone(),
        Some(i) => {
            // A roll back: the old one is the newest again.
            let object = owned.iter().find(|o| o.meta.name == all[i].name);
            if let Some(object) = object {
                cx.change(&res::CONTROLLER_REVISIONS, object, None, &json!({"revision": next})).await?;
            }
            let mut again = all.remove(i);
            again.number = next;
            all.push(again.clone());
            again
        }
        None => {
            let (made, collisions) = create(cx, row, owner, &value, next, collisions).await?;
            all.push(made.clone());
            return Ok(History { all, update: made, collisions });
        }
    };
    Ok(History { all, update, collisions })
}

async fn create(
    cx: &Cx,
    row: &Row,
    owner: &Arc<Object>,
    value: &Value,
    number: i64,
    collisions: i64,
) -> Result<(Revision, i64), Error> {
    let template = &value["spec"]["template"];
    let mut last = None;
    for taken in collisions..collisions + TRIES_MAX {
        let hash = hash::template_hash(template, taken);
        let body = body(row, owner, value, &hash, number);
        match cx.client.create(&res::CONTROLLER_REVISIONS, &owner.meta.namespace, &body).await {
            Ok(made) => return Ok((Revision::new(&made), taken)),
            Err(error) if error.reason == Reason::AlreadyExists => last = Some(error),
            Err(error) => return Err(error.into()),
        }
        let name = body.str_at("/metadata/name").unwrap_or_default();
        if let Some(there) = optional(cx.client.get(&res::CONTROLLER_REVISIONS, &owner.meta.namespace, name).await)? {
            let there_is = Revision::new(&there);
            let ours = there.items_at("/metadata/ownerReferences").iter().any(|o| o["uid"] == *owner.meta.uid);
            if ours && there_is.template == *template {
                return Ok((there_is, taken));
            }
        }
    }
    Err(last.map_or_else(
        || Error::Object { what: format!("revisions of {}", owner.meta.name), reason: "no name is free".into() },
        Error::from,
    ))
}

fn body(row: &Row, owner: &Object, value: &Value, hash: &str, number: i64) -> Value {
    let prefix: String = owner.meta.name.chars().take(PREFIX_MAX).collect();
    let mut template = value["spec"]["template"].clone();
    let mut labels = template.get_at("/metadata/labels").cloned().filter(Value::is_object).unwrap_or_else(|| json!({}));
    labels[row.label] = hash.into();
    template["$patch"] = "replace".into();
    // Upstream's tools compare the bytes with those of a map, whose keys are sorted.
    template.sort_all_objects();
    let mut metadata = json!({"name": format!("{prefix}-{hash}"), "labels": labels,
        "ownerReferences": [claim::owner_reference(row.res, owner)]});
    if let Some(annotations) = value.get_at("/metadata/annotations") {
        metadata["annotations"] = annotations.clone();
    }
    json!({"apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": metadata,
        "data": {"spec": {"template": template}}, "revision": number})
}

/// Revisions beyond the limit that nothing is made of, the oldest first.
pub fn surplus<'a>(row: &Row, history: &'a History, live: &BTreeSet<String>, limit: Option<i64>) -> Vec<&'a Revision> {
    let Some(keep) = limit.and_then(|n| usize::try_from(n).ok()) else { return Vec::new() };
    let old = || history.all.iter().filter(|r| r.name != history.update.name);
    let counted = old().filter(|r| row.live_counts || !live.contains(&r.name)).count();
    old().filter(|r| !live.contains(&r.name)).take(counted.saturating_sub(keep)).collect()
}

/// Deletes what [`surplus`] names.
pub async fn truncate(
    cx: &Cx,
    row: &Row,
    owner: &Object,
    history: &History,
    live: &BTreeSet<String>,
) -> Result<(), Error> {
    let limit = owner.value().int_at("/spec/revisionHistoryLimit");
    for old in surplus(row, history, live, limit) {
        let options = DeleteOptions::default();
        optional(cx.client.delete(&res::CONTROLLER_REVISIONS, &owner.meta.namespace, &old.name, &options).await)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_has_the_bytes_of_a_sorted_map() {
        let set = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "d", "namespace": "n", "uid": "u"},
            "spec": {"template": {"spec": {"restartPolicy": "Always", "containers": [{"name": "c", "image": "i"}]},
                "metadata": {"labels": {"b": "2", "a": "1"}}}}});
        let made = body(&DAEMON_SET, &Object::from_value(&set, &[]), &set, "hash", 1);
        let want = r#"{"spec":{"template":{"$patch":"replace","metadata":{"labels":{"a":"1","b":"2"}},"spec":{"containers":[{"image":"i","name":"c"}],"restartPolicy":"Always"}}}}"#;
        assert_eq!(made["data"].to_string(), want);
        assert_eq!(made["metadata"]["labels"], json!({"b": "2", "a": "1", "controller-revision-hash": "hash"}));
        let made = body(&STATEFUL_SET, &Object::from_value(&set, &[]), &set, "hash", 1);
        assert_eq!(made["metadata"]["labels"], json!({"b": "2", "a": "1", "controller.kubernetes.io/hash": "hash"}));
        assert_eq!(Revision::new(&made).hash, "hash");
    }

    #[test]
    fn live_revisions_stay_and_the_oldest_go() {
        let named = |name: &str, number| Revision { name: name.into(), number, ..Revision::default() };
        let all = vec![named("a", 1), named("b", 2), named("c", 3), named("d", 4)];
        let history = History { update: all[3].clone(), all, collisions: 0 };
        let live = BTreeSet::from(["a".to_owned(), "d".to_owned()]);
        let names =
            |row, limit| surplus(row, &history, &live, limit).iter().map(|r| r.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&STATEFUL_SET, Some(1)), ["b"]);
        assert_eq!(names(&STATEFUL_SET, Some(0)), ["b", "c"]);
        assert!(names(&STATEFUL_SET, Some(2)).is_empty() && names(&STATEFUL_SET, None).is_empty());
        assert_eq!(names(&DAEMON_SET, Some(2)), ["b"], "the live one counts");
        assert_eq!(names(&DAEMON_SET, Some(0)), ["b", "c"], "and stays");
    }
}
