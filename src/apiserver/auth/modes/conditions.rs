//! What the match conditions of authorization webhooks may name: `request`, the spec of a SubjectAccessReview.
//!
//! Rules: upstream `apiserver/pkg/authorization/cel`. Members that a request does not have are absent, so that `has()` tells
//! resources from paths.

use serde_json::{Map, Value, json};

use crate::api::cel::{Env, Program, Type, Val};
use crate::api::user::{Attributes, UserInfo};
use crate::apiserver::auth::review::user_value;

fn texts(name: &str, fields: &[&'static str], more: Vec<(&'static str, Type)>) -> Type {
    Type::object(name, fields.iter().map(|f| (*f, Type::String)).chain(more))
}

/// The names.
pub fn env() -> Env {
    let requirement = |name: &str| {
        let more = vec![("values", Type::list(Type::String))];
        Type::list(texts(name, &["key", "operator"], more))
    };
    let selector = |name: &str| {
        let more = vec![("requirements", requirement(&format!("{name}Requirement")))];
        texts(name, &["rawSelector"], more)
    };
    let resource = texts(
        "kubernetes.ResourceAttributes",
        &["namespace", "verb", "group", "version", "resource", "subresource", "name"],
        vec![
            ("fieldSelector", selector("kubernetes.FieldSelector")),
            ("labelSelector", selector("kubernetes.LabelSelector")),
        ],
    );
    let path = texts("kubernetes.NonResourceAttributes", &["path", "verb"], vec![]);
    let spec = texts(
        "kubernetes.SubjectAccessReviewSpec",
        &["user", "uid"],
        vec![
            ("groups", Type::list(Type::String)),
            ("extra", Type::map(Type::String, Type::list(Type::String))),
            ("resourceAttributes", resource),
            ("nonResourceAttributes", path),
        ],
    );
    Env::new().with("request", spec)
}

/// Why a text is no condition.
pub fn check(text: &str) -> Result<(), String> {
    let program = Program::compile(&env(), text).map_err(|e| format!("compilation failed: {e}"))?;
    match program.result {
        Type::Bool | Type::Dyn => Ok(()),
        _ => Err("must evaluate to bool".into()),
    }
}

/// The spec of the review of a request, as it is sent.
pub fn spec(a: &Attributes, user: &UserInfo) -> Value {
    let mut out = Map::new();
    let Value::Object(who) = user_value(user) else { return Value::Null };
    for (name, value) in who {
        out.insert(if name == "username" { "user".to_owned() } else { name }, value);
    }
    if !a.is_resource() {
        out.insert("nonResourceAttributes".into(), json!({"path": a.path, "verb": a.verb}));
        return Value::Object(out);
    }
    let mut of = Map::new();
    for (name, text) in [
        ("namespace", &a.namespace),
        ("verb", &a.verb),
        ("group", &a.group),
        ("version", &a.version),
        ("resource", &a.resource),
        ("subresource", &a.subresource),
        ("name", &a.name),
    ] {
        if !text.is_empty() {
            of.insert(name.to_owned(), text.as_str().into());
        }
    }
    for (name, text) in [("fieldSelector", &a.field_selector), ("labelSelector", &a.label_selector)] {
        let requirements = super::selectors::requirements(text, name == "fieldSelector");
        if !requirements.is_empty() {
            of.insert(name.to_owned(), json!({"requirements": requirements}));
        }
    }
    out.insert("resourceAttributes".into(), Value::Object(of));
    Value::Object(out)
}

/// The spec as expressions see it: texts that are empty are there all the same.
pub fn value(spec: &Value) -> Val {
    let mut whole = json!({"user": "", "uid": "", "groups": [], "extra": {}});
    let mut put = |name: &str, value: &Value| whole[name] = value.clone();
    for (name, value) in spec.as_object().into_iter().flatten() {
        let empty: &[&str] = match name.as_str() {
            "resourceAttributes" => &["namespace", "verb", "group", "version", "resource", "subresource", "name"],
            _ => &[],
        };
        let mut value = value.clone();
        for field in empty {
            if value.get(field).is_none() {
                value[*field] = "".into();
            }
        }
        put(name, &value);
    }
    Val::from_json(&whole)
}
