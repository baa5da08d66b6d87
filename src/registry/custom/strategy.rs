//! The hooks of kinds that definitions make.
//!
//! Rules: upstream `apiextensions-apiserver/pkg/registry/customresource` (`strategy.go`, `status_strategy.go`,
//! `validator.go`).

use serde_json::Value;

use super::{Custom, embedded, lists, rules, validate};
use crate::api::patch::apply::FieldSet;
use crate::api::scheme::KindInfo;
use crate::api::value::ValueExt;
use crate::registry::errors::FieldErrors;
use crate::registry::strategy::{Generation, HookCx, Op, Strategy, keep_all_but, resets};
use crate::registry::validate::Field;

/// After these an object is too broken for its rules. Upstream: `hasBlockingErr`.
const BLOCKING: [&str; 5] =
    ["FieldValueNotSupported", "FieldValueRequired", "FieldValueTooLong", "FieldValueTooMany", "FieldValueTypeInvalid"];

impl Strategy for Custom {
    fn generation(&self) -> Generation {
        if self.version().status { Generation::Content } else { Generation::Whole }
    }

    fn any_finalizer(&self) -> bool {
        true
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn resets(&self, _: &KindInfo, subresource: Option<&str>) -> &'static FieldSet<'static> {
        match subresource {
            Some("status") => &resets::SPEC_AND_METADATA,
            None if self.version().status => &resets::STATUS,
            _ => &resets::NOTHING,
        }
    }

    fn prepare_status(&self, new: &mut Value, old: &Value) {
        keep_all_but(new, old, &["/status"]);
    }

    fn validate(&self, new: &Value, old: Option<&Value>, cx: &HookCx<'_>, errs: &FieldErrors) {
        let schema = self.schema();
        validate::check(&Field::root(new, errs), schema, old, &self.version().patterns);
        self.check_scale(new, &cx.op, errs);
        embedded::check(&Field::root(new, errs), schema);
        // A list that was wrong before does not keep its object from being changed.
        if old.is_none_or(|old| lists::is_valid(old, schema)) {
            lists::check(&Field::root(new, errs), schema);
        }
        let Some(rules) = &self.version().rules else { return };
        if errs.has_reason(&BLOCKING) {
            errs.invalid(
                Value::Null,
                "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation",
            );
            return;
        }
        rules::check(rules, new, old, schema, errs);
    }
}

impl Custom {
    /// What the `scale` subresource shows must be numbers of replicas.
    fn check_scale(&self, new: &Value, op: &Op, errs: &FieldErrors) {
        let Some(scale) = &self.version().scale else { return };
        let replicas = |place: &super::Place| {
            let Some(value) = new.get_at(&place.pointer) else { return };
            let errs = errs.at(&place.path);
            match value.as_i64() {
                None => errs.invalid(value.clone(), "must be an integer"),
                Some(n) if n < 0 => errs.invalid(n, "should be a non-negative integer"),
                Some(n) if n > i64::from(i32::MAX) => {
                    errs.invalid(n, format!("should be less than or equal to {}", i32::MAX));
                }
                Some(_) => {}
            }
        };
        if *op != Op::Subresource("status".into()) {
            replicas(&scale.spec);
        }
        replicas(&scale.status);
        if let Some(place) = &scale.selector
            && let Some(value) = new.get_at(&place.pointer).filter(|v| !v.is_string())
        {
            errs.at(&place.path).invalid(value.clone(), "must be a string");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::user::UserInfo;
    use crate::registry::custom::Definition;
    use serde_json::json;
    use std::sync::Arc;
    use test_case::test_case;

    struct Nothing;

    impl crate::registry::View for Nothing {
        fn get(&self, _: &str, _: &str, _: &str, _: &str) -> Option<Arc<crate::api::object::Object>> {
            None
        }
        fn list(&self, _: &str, _: &str, _: Option<&str>) -> Vec<Arc<crate::api::object::Object>> {
            Vec::new()
        }
    }

    fn wrong(new: &Value, old: Option<&Value>) -> Vec<(&'static str, String)> {
        let crd = json!({
            "spec": {"group": "x.io", "scope": "Namespaced", "versions": [{"name": "v1", "served": true, "storage": true,
                "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas",
                    "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "x-kubernetes-validations": [{"rule": "true"}], "properties": {
                        "replicas": {"type": "integer"}, "color": {"type": "string", "enum": ["red"]},
                        "tags": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
                        "tmpl": {"type": "object", "x-kubernetes-embedded-resource": true,
                            "x-kubernetes-preserve-unknown-fields": true}}}}}}}]},
            "status": {"acceptedNames": {"plural": "ws", "kind": "W", "listKind": "WList"},
                "conditions": [{"type": "NamesAccepted", "status": "True"}]}});
        let res = Definition::of(&crd).unwrap().resources(&crd).remove(0);
        let (errs, user) = (FieldErrors::new(), UserInfo::default());
        let op = if old.is_some() { Op::Update } else { Op::Create };
        let now = jiff::Timestamp::UNIX_EPOCH;
        let cx = HookCx { now, info: &res.info, op, view: &Nothing, dry_run: false, user: &user };
        res.strategy().validate(new, old, &cx, &errs);
        errs.take().into_iter().map(|c| (c.reason, c.field)).collect()
    }

    const NOT_CHECKED: (&str, &str) = ("FieldValueInvalid", "<nil>");

    #[test_case(json!({"spec": {"replicas": -2}}), None, &[("FieldValueInvalid", ".spec.replicas")]; "scale")]
    #[test_case(json!({"spec": {"color": "blue"}}), None, &[("FieldValueNotSupported", "spec.color"), NOT_CHECKED]; "blocking")]
    #[test_case(json!({"spec": {"color": "blue"}}), Some(json!({"spec": {"color": "blue"}})), &[]; "as it was")]
    #[test_case(json!({"spec": {"tags": ["a", "a"]}}), None, &[("FieldValueDuplicate", "spec.tags[1]")]; "twice")]
    #[test_case(json!({"spec": {"tags": ["a", "a", "b"]}}), Some(json!({"spec": {"tags": ["a", "a"]}})), &[]; "was twice")]
    #[test_case(json!({"spec": {"tmpl": {"kind": "X"}}}), None, &[("FieldValueRequired", "spec.tmpl.apiVersion"), NOT_CHECKED];
        "embedded")]
    fn finds(new: Value, old: Option<Value>, want: &[(&'static str, &str)]) {
        let found = wrong(&new, old.as_ref());
        let found: Vec<(&str, &str)> = found.iter().map(|(r, f)| (*r, f.as_str())).collect();
        assert_eq!(found, want);
    }
}
