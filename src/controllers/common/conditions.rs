//! Conditions of a status: a list of objects with a `type`.

use serde_json::{Value, json};

use crate::api::value::ValueExt;

/// A condition to set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition<'a> {
    /// Type.
    pub kind: &'a str,
    /// `True`, `False` or `Unknown`.
    pub status: &'a str,
    /// Reason, in one word.
    pub reason: &'a str,
    /// For people.
    pub message: String,
}

impl<'a> Condition<'a> {
    /// A condition.
    pub fn new(kind: &'a str, status: &'a str, reason: &'a str, message: impl Into<String>) -> Self {
        Self { kind, status, reason, message: message.into() }
    }
}

/// The condition of a type.
pub fn get<'a>(conditions: &'a [Value], kind: &str) -> Option<&'a Value> {
    conditions.iter().find(|c| c.str_at("/type") == Some(kind))
}

/// True when the condition stands at `True`.
pub fn is_true(conditions: &[Value], kind: &str) -> bool {
    get(conditions, kind).is_some_and(|c| c.str_at("/status") == Some("True"))
}

/// Sets a condition. Its transition time changes only with its status; fields it had beside ours stay.
pub fn set(conditions: &mut Vec<Value>, condition: &Condition<'_>, now: &str) {
    match conditions.iter_mut().find(|c| c.str_at("/type") == Some(condition.kind)) {
        Some(known) => {
            if known.str_at("/status") != Some(condition.status) {
                known["lastTransitionTime"] = now.into();
            }
            known["status"] = condition.status.into();
            known["reason"] = condition.reason.into();
            known["message"] = condition.message.as_str().into();
        }
        None => conditions.push(json!({
            "type": condition.kind, "status": condition.status, "lastTransitionTime": now,
            "reason": condition.reason, "message": condition.message,
        })),
    }
}

/// Sets a condition of a pod, which says of which generation it is. Rule: upstream `CalculatePodConditionObservedGeneration`.
pub fn set_of_pod(conditions: &mut Vec<Value>, condition: &Condition<'_>, generation: i64, now: &str) {
    set(conditions, condition, now);
    let ours = conditions.iter_mut().find(|c| c.str_at("/type") == Some(condition.kind));
    if let Some(ours) = ours.filter(|_| generation > 0) {
        ours["observedGeneration"] = generation.into();
    }
}

/// Removes the condition of a type.
pub fn remove(conditions: &mut Vec<Value>, kind: &str) {
    conditions.retain(|c| c.str_at("/type") != Some(kind));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transition_time_follows_the_status_only() {
        let mut all = Vec::new();
        set(&mut all, &Condition::new("A", "True", "X", ""), "1");
        set(&mut all, &Condition::new("A", "True", "Y", "m"), "2");
        assert_eq!((all[0].str_at("/lastTransitionTime"), all[0].str_at("/reason")), (Some("1"), Some("Y")));
        set(&mut all, &Condition::new("A", "False", "Y", "m"), "3");
        assert_eq!(all[0].str_at("/lastTransitionTime"), Some("3"));
        assert!(!is_true(&all, "A"));
        set_of_pod(&mut all, &Condition::new("A", "False", "Y", "m"), 7, "4");
        assert_eq!((all[0].int_at("/observedGeneration"), all[0].str_at("/lastTransitionTime")), (Some(7), Some("3")));
        remove(&mut all, "A");
        assert!(get(&all, "A").is_none());
    }
}
