//! Annotations of pods and templates that mean something to Kubernetes.
//!
//! Rules: upstream `ValidatePodSpecificAnnotations` and `ValidatePodSpecificAnnotationUpdates`, and the rules that old
//! annotations for profiles agree with the fields that took their place.

use serde_json::Value;

use super::{Field, local_descending_path, scheduling};

use crate::api::value::ValueExt;

/// A pod that a node runs without the server's doing.
pub const MIRROR: &str = "kubernetes.io/config.mirror";
const TOLERATIONS: &str = "scheduler.alpha.kubernetes.io/tolerations";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// What the annotations at `field` say beside the pod's specification.
pub fn check(field: &Field<'_>, spec: &Field<'_>) {
    for (key, value) in field.entries_here() {
        let text = value.as_text();
        match key {
            MIRROR if spec.text("nodeName").is_empty() => {
                value.invalid("must set spec.nodeName if mirror pod annotation is set");
            }
            TOLERATIONS if !text.is_empty() => tolerations(field, text),
            DELETION_COST if !is_cost(text) => value.invalid("must be a 32bit integer"),
            SECCOMP_POD => seccomp(&Field { value: value.value, errs: field.errs.at(key) }),
            _ if key.starts_with(SECCOMP_CONTAINER) => {
                seccomp(&Field { value: value.value, errs: field.errs.at(key) });
            }
            _ => {
                if let Some(container) = key.strip_prefix(APP_ARMOR) {
                    app_armor(&value, container, spec);
                }
            }
        }
    }
}

fn tolerations(field: &Field<'_>, text: &str) {
    match serde_json::from_str::<Value>(text) {
        Ok(list) if list.is_array() => {
            let spec = serde_json::json!({ TOLERATIONS: list });
            let list = Field { value: &spec, errs: field.errs.clone() };
            scheduling::toleration_list(list.items(TOLERATIONS));
        }
        _ => field.errs.invalid(TOLERATIONS, "is no list of tolerations"),
    }
}

/// A 32-bit number without a plus sign and without zeros in front.
fn is_cost(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    text.parse::<i32>().is_ok() && !text.starts_with('+') && (digits.len() == 1 || !digits.starts_with('0'))
}

fn seccomp(field: &Field<'_>) {
    match field.as_text() {
        "runtime/default" | "docker/default" | "unconfined" => {}
        text => match text.strip_prefix("localhost/") {
            Some(path) => {
                let path = Value::from(path);
                local_descending_path(&Field { value: &path, errs: field.errs.clone() });
            }
            None => field.invalid("must be a valid seccomp profile"),
        },
    }
}

fn app_armor(value: &Field<'_>, container: &str, spec: &Field<'_>) {
    if !CONTAINER_LISTS.iter().flat_map(|list| spec.items(list)).any(|c| c.text("name") == container) {
        value.errs.invalid(container, "container not found");
    }
    let profile = value.as_text();
    if !matches!(profile, "" | "runtime/default" | "unconfined") && !profile.starts_with("localhost/") {
        value.invalid("invalid AppArmor profile name");
    }
}

/// Annotations that stay as they were, or stay away; `old` is the old pod.
pub fn check_update(new: &Field<'_>, old: &Value) {
    let old = old.get_at("/metadata/annotations").unwrap_or(&Value::Null);
    let fixed = |key: &str| key == MIRROR || key.starts_with(APP_ARMOR);
    for (key, was) in old.as_object().into_iter().flatten().filter(|(key, _)| fixed(key)) {
        if new.value.get(key) != Some(was) {
            new.errs.key(key).forbidden("may not be removed or updated");
        }
    }
    for (key, at) in new.entries_here().filter(|(key, _)| fixed(key)) {
        if old.get(key).is_none() {
            at.errs.forbidden("may not be added");
        }
    }
}

/// Profiles that an annotation and a field both name are the same; for what is created and for templates.
pub fn agree(annotations: &Value, spec: &Field<'_>) {
    let Some(annotations) = annotations.as_object().filter(|a| !a.is_empty()) else { return };
    let text = |key: &str| annotations.get(key).and_then(Value::as_str);
    let pod = spec.at("securityContext");
    if let Some(said) = text(SECCOMP_POD) {
        same_profile(&pod.at("seccompProfile"), said, &["runtime/default", "docker/default"]);
    }
    let windows = spec.at("os").text("name") == "windows";
    for container in CONTAINER_LISTS.iter().flat_map(|list| spec.items(list)) {
        let (context, name) = (container.at("securityContext"), container.text("name"));
        if let Some(said) = text(&format!("{SECCOMP_CONTAINER}{name}")) {
            same_profile(&context.at("seccompProfile"), said, &["runtime/default", "docker/default"]);
        }
        if let Some(said) = text(&format!("{APP_ARMOR}{name}")).filter(|_| !windows) {
            let own = context.at("appArmorProfile");
            let value = if own.value.is_null() { pod.at("appArmorProfile").value } else { own.value };
            same_profile(&Field { value, errs: own.errs }, said, &["runtime/default"]);
        }
    }
}

fn same_profile(field: &Field<'_>, said: &str, defaults: &[&str]) {
    let same = match field.text("type") {
        "Unconfined" => said == "unconfined",
        "RuntimeDefault" => defaults.contains(&said),
        "Localhost" => {
            let path = said.strip_prefix("localhost/");
            if path.is_some() && (!field.has("localhostProfile") || path != Some(field.text("localhostProfile"))) {
                field.errs.at("localhostProfile").forbidden("profile in annotation and field must match");
            }
            path.is_some()
        }
        _ => true,
    };
    if !same {
        field.errs.at("type").forbidden("type in annotation and field must match");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::errors::FieldErrors;
    use serde_json::json;
    use test_case::test_case;

    #[test_case(json!({"kubernetes.io/config.mirror": "x"}), &["annotations[kubernetes.io/config.mirror]"]; "a mirror of no node")]
    #[test_case(json!({"controller.kubernetes.io/pod-deletion-cost": "+1"}), &["annotations[controller.kubernetes.io/pod-deletion-cost]"]; "a cost with a plus sign")]
    #[test_case(json!({"controller.kubernetes.io/pod-deletion-cost": "-10"}), &[]; "a cost")]
    #[test_case(json!({"scheduler.alpha.kubernetes.io/tolerations": "x"}), &["annotations"]; "no JSON")]
    #[test_case(json!({"scheduler.alpha.kubernetes.io/tolerations": "[{\"key\":\"a\",\"operator\":\"x\"}]"}),
        &["annotations.scheduler.alpha.kubernetes.io/tolerations[0].operator"]; "a toleration by no operator")]
    #[test_case(json!({"seccomp.security.alpha.kubernetes.io/pod": "bogus"}),
        &["annotations.seccomp.security.alpha.kubernetes.io/pod"]; "no profile")]
    #[test_case(json!({"container.apparmor.security.beta.kubernetes.io/x": "bogus"}),
        &["annotations[container.apparmor.security.beta.kubernetes.io/x]", "annotations[container.apparmor.security.beta.kubernetes.io/x]"];
        "no profile for no container")]
    fn annotations(annotations: Value, paths: &[&str]) {
        let (spec, errs) = (json!({"containers": [{"name": "c"}]}), FieldErrors::new());
        let field = Field { value: &annotations, errs: errs.at("annotations") };
        check(&field, &Field::root(&spec, &errs));
        assert_eq!(errs.take().into_iter().map(|c| c.field).collect::<Vec<_>>(), paths);
    }

    #[test]
    fn profiles_agree() {
        let spec = json!({"containers": [{"name": "c", "securityContext": {"appArmorProfile": {"type": "Localhost", "localhostProfile": "a"},
            "seccompProfile": {"type": "Unconfined"}}}]});
        let annotations = json!({"container.apparmor.security.beta.kubernetes.io/c": "localhost/b",
            "container.seccomp.security.alpha.kubernetes.io/c": "runtime/default"});
        let errs = FieldErrors::new();
        agree(&annotations, &Field::root(&spec, &errs));
        let found: Vec<String> = errs.take().into_iter().map(|c| c.field).collect();
        let at = "containers[0].securityContext";
        assert_eq!(found, [format!("{at}.seccompProfile.type"), format!("{at}.appArmorProfile.localhostProfile")]);
    }

    #[test]
    fn mirrors_stay_mirrors() {
        let (mirror, other) = (json!({"kubernetes.io/config.mirror": "x"}), json!({"a": "b"}));
        let of = |annotations: &Value| json!({"metadata": {"annotations": annotations}});
        let errs = FieldErrors::new();
        check_update(&Field::root(&other, &errs), &of(&mirror));
        check_update(&Field::root(&mirror, &errs), &of(&other));
        assert_eq!(errs.take().len(), 2);
    }
}
