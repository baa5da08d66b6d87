//! Which names a definition gets, and what its conditions say of it. Pure.
//!
//! Rules: upstream `apiextensions-apiserver/pkg/controller/status/naming_controller.go` and `apiapproval`.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::api::value::ValueExt;

/// A condition to set: type, status, reason, message.
pub type Condition = (&'static str, bool, &'static str, String);

/// What to write to a definition's status.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// `acceptedNames`, where they change.
    pub accepted: Option<Value>,
    /// Conditions.
    pub conditions: Vec<Condition>,
}

/// True when the condition is.
pub fn is_true(crd: &Value, kind: &str) -> bool {
    find(crd, kind).is_some_and(|c| c.str_at("/status") == Some("True"))
}

fn find<'a>(crd: &'a Value, kind: &str) -> Option<&'a Value> {
    crd.items_at("/status/conditions").iter().find(|c| c.str_at("/type") == Some(kind))
}

/// True when a condition is there already as it would be set.
pub(super) fn stands(crd: &Value, (kind, status, reason, message): &Condition) -> bool {
    let status = if *status { "True" } else { "False" };
    find(crd, kind).is_some_and(|c| {
        (c.str_at("/status"), c.str_at("/reason"), c.str_at("/message")) == (Some(status), Some(reason), Some(message))
    })
}

/// What to write; none when all is as it should be. `in_group` are all definitions of the group, this one among them.
pub fn plan<'a>(crd: &Value, in_group: impl Iterator<Item = &'a Value>) -> Option<Plan> {
    let asked = &crd["spec"]["names"];
    let accepted = crd.get_at("/status/acceptedNames").cloned().unwrap_or_else(|| json!({}));
    if is_same(asked, &accepted) {
        return None;
    }
    let (mut resources, mut kinds) = (HashSet::new(), HashSet::new());
    for other in in_group {
        let names = other.get_at("/status/acceptedNames").unwrap_or(&Value::Null);
        resources.extend(["/plural", "/singular"].iter().filter_map(|k| names.str_at(k)));
        resources.extend(names.items_at("/shortNames").iter().filter_map(Value::as_str));
        kinds.extend(["/kind", "/listKind"].iter().filter_map(|k| names.str_at(k)));
    }
    let (new, conflict) = choose(asked, &accepted, &resources, &kinds);
    let names = match conflict {
        Some((reason, message)) => ("NamesAccepted", false, reason, message),
        None => ("NamesAccepted", true, "NoConflicts", "no conflicts found".to_owned()),
    };
    if new == accepted && stands(crd, &names) {
        return None;
    }
    let mut conditions = vec![names];
    if !is_true(crd, "Established") {
        conditions.push(if conditions[0].1 {
            ("Established", false, "Installing", "the initial names have been accepted".to_owned())
        } else {
            ("Established", false, "NotAccepted", "not all names are accepted".to_owned())
        });
    }
    Some(Plan { accepted: Some(new), conditions })
}

/// An absent name is an empty one.
fn is_same(a: &Value, b: &Value) -> bool {
    let text = |k: &str| a.str_at(k).unwrap_or_default() == b.str_at(k).unwrap_or_default();
    let list = |k: &str| a.items_at(k) == b.items_at(k);
    ["/plural", "/singular", "/kind", "/listKind"].iter().all(|k| text(k)) && list("/shortNames") && list("/categories")
}

/// The names it gets, and the last conflict that is in the way of others.
fn choose(
    asked: &Value,
    accepted: &Value,
    resources: &HashSet<&str>,
    kinds: &HashSet<&str>,
) -> (Value, Option<(&'static str, String)>) {
    let (mut new, mut conflict) = (accepted.clone(), None);
    let in_use = |name: &str| format!("{name:?} is already in use");
    let mut one = |key: &str, reason: &'static str, used: &HashSet<&str>| {
        let pointer = format!("/{key}");
        let (wanted, has) = (asked.str_at(&pointer).unwrap_or_default(), accepted.str_at(&pointer).unwrap_or_default());
        if wanted != has && used.contains(wanted) {
            return Some((reason, in_use(wanted)));
        }
        if !wanted.is_empty() || new.get(key).is_some() {
            new[key] = wanted.into();
        }
        None
    };
    conflict = one("plural", "PluralConflict", resources).or(conflict);
    conflict = one("singular", "SingularConflict", resources).or(conflict);
    let own = |name: &str| {
        accepted.items_at("/shortNames").iter().any(|s| s == name)
            || accepted.str_at("/plural") == Some(name)
            || accepted.str_at("/singular") == Some(name)
    };
    let short: Vec<&str> = asked.items_at("/shortNames").iter().filter_map(Value::as_str).collect();
    let taken: Vec<String> = short.iter().filter(|s| !own(s) && resources.contains(*s)).map(|s| in_use(s)).collect();
    let takes_short = taken.is_empty();
    if !takes_short {
        conflict = Some(("ShortNamesConflict", taken.join(", ")));
    }
    let mut one_kind = |key: &str, reason: &'static str| one(key, reason, kinds);
    conflict = one_kind("kind", "KindConflict").or(conflict);
    conflict = one_kind("listKind", "ListKindConflict").or(conflict);
    for (key, take) in [("shortNames", takes_short), ("categories", true)] {
        match asked.get(key) {
            Some(list) if take => new[key] = list.clone(),
            None if take => drop(new.as_object_mut().and_then(|m| m.shift_remove(key))),
            _ => {}
        }
    }
    (new, conflict)
}

/// What is said of a definition in one of the project's own groups. Upstream: `apiapproval`.
pub fn approval(crd: &Value) -> Option<Plan> {
    const ANNOTATION: &str = "api-approved.kubernetes.io";
    let group = crd.str_at("/spec/group").unwrap_or_default();
    let is_own = |domain: &str| group.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    if !is_own("k8s.io") && !is_own("kubernetes.io") {
        return None;
    }
    let text = crd["metadata"]["annotations"].get(ANNOTATION).and_then(Value::as_str).unwrap_or_default();
    let kind = "KubernetesAPIApprovalPolicyConformant";
    let condition: Condition = match text {
        "" => {
            (kind, false, "MissingAnnotation", format!("protected groups must have approval annotation {ANNOTATION:?}"))
        }
        text if text.starts_with("unapproved") => {
            (kind, false, "UnapprovedAnnotation", format!("not approved: {text:?}"))
        }
        text if text.contains("://") => (kind, true, "ApprovedAnnotation", format!("approved in {text}")),
        text => {
            (kind, false, "InvalidAnnotation", format!("the annotation {ANNOTATION:?} is not an address: {text:?}"))
        }
    };
    (!stands(crd, &condition)).then(|| Plan { accepted: None, conditions: vec![condition] })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crd(kind: &str, short: &[&str], accepted: Value) -> Value {
        let plural = format!("{}s", kind.to_lowercase());
        json!({"spec": {"group": "x.io", "names": {"plural": plural, "singular": kind.to_lowercase(), "kind": kind,
            "listKind": format!("{kind}List"), "shortNames": short}}, "status": {"acceptedNames": accepted}})
    }

    fn settled(kind: &str, short: &[&str]) -> Value {
        let mut made = crd(kind, short, json!({}));
        made["status"]["acceptedNames"] = made["spec"]["names"].clone();
        made
    }

    fn told(crd: &Value, others: &[Value]) -> Vec<(&'static str, bool, &'static str)> {
        let all = others.iter().chain([crd]);
        plan(crd, all).map_or_else(Vec::new, |p| p.conditions.into_iter().map(|c| (c.0, c.1, c.2)).collect())
    }

    #[test]
    fn fresh_names_are_accepted_and_wait_to_be_served() {
        let new = crd("Widget", &["wd"], json!({}));
        let p = plan(&new, [&new].into_iter()).unwrap();
        assert_eq!(p.accepted.unwrap(), new["spec"]["names"]);
        assert_eq!(told(&new, &[]), [("NamesAccepted", true, "NoConflicts"), ("Established", false, "Installing")]);
        assert_eq!(told(&settled("Widget", &["wd"]), &[]), []);
    }

    #[test]
    fn who_comes_later_does_not_get_a_taken_name() {
        let first = settled("Widget", &["wd"]);
        let not = ("Established", false, "NotAccepted");
        let mut kind = crd("Other", &[], json!({}));
        kind["spec"]["names"]["kind"] = "Widget".into();
        assert_eq!(told(&kind, std::slice::from_ref(&first)), [("NamesAccepted", false, "KindConflict"), not]);
        let short = crd("Other", &["wd", "ot"], json!({}));
        let p = plan(&short, [&first, &short].into_iter()).unwrap();
        assert_eq!((p.conditions[0].2, p.accepted.unwrap().get("shortNames")), ("ShortNamesConflict", None));
    }

    #[test]
    fn a_changed_name_keeps_what_is_established() {
        let mut changed = settled("Widget", &["wd"]);
        changed["status"]["conditions"] = json!([{"type": "Established", "status": "True"}]);
        changed["spec"]["names"]["shortNames"] = json!(["w"]);
        assert_eq!(told(&changed, &[]), [("NamesAccepted", true, "NoConflicts")]);
    }

    #[test]
    fn groups_of_the_project_tell_of_their_approval() {
        let mut own = settled("Widget", &[]);
        assert_eq!(approval(&own), None);
        own["spec"]["group"] = "storage.k8s.io".into();
        assert_eq!(approval(&own).unwrap().conditions[0].2, "MissingAnnotation");
        own["metadata"] = json!({"annotations": {"api-approved.kubernetes.io": "https://x/y"}});
        assert_eq!(approval(&own).unwrap().conditions[0].2, "ApprovedAnnotation");
        own["metadata"] = json!({"annotations": {"api-approved.kubernetes.io": "unapproved, experimental"}});
        assert_eq!(approval(&own).unwrap().conditions[0].2, "UnapprovedAnnotation");
    }
}
