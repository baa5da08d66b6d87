//! What the expressions of policies and webhooks may name.
//!
//! Rules: upstream `apiserver/pkg/admission/plugin/cel/compile.go`.

use crate::api::cel::{Env, Type};

/// Type of checks of a resource.
const RESOURCE_CHECK: Type = Type::Opaque("kubernetes.authorization.ResourceCheck");
/// Type of `authorizer`.
const AUTHORIZER: Type = Type::Opaque("kubernetes.authorization.Authorizer");
/// The variable that stands for the check of the request's own resource.
pub const REQUEST_RESOURCE: &str = "authorizer.requestResource";

fn text_map() -> Type {
    Type::map(Type::String, Type::String)
}

/// What a request says of itself.
fn request() -> Type {
    let kind = || Type::object("kubernetes.GroupVersionKind", ["group", "version", "kind"].map(|f| (f, Type::String)));
    let resource =
        || Type::object("kubernetes.GroupVersionResource", ["group", "version", "resource"].map(|f| (f, Type::String)));
    let user = Type::object(
        "kubernetes.UserInfo",
        [
            ("username", Type::String),
            ("uid", Type::String),
            ("groups", Type::list(Type::String)),
            ("extra", Type::map(Type::String, Type::list(Type::String))),
        ],
    );
    Type::object(
        "kubernetes.AdmissionRequest",
        [
            ("kind", kind()),
            ("resource", resource()),
            ("subResource", Type::String),
            ("requestKind", kind()),
            ("requestResource", resource()),
            ("requestSubResource", Type::String),
            ("name", Type::String),
            ("namespace", Type::String),
            ("operation", Type::String),
            ("userInfo", user),
            ("dryRun", Type::Bool),
            ("options", Type::Dyn),
        ],
    )
}

/// Members of a namespace's metadata that expressions see.
pub const NAMESPACE_METADATA: &[&str] = &[
    "name",
    "generateName",
    "namespace",
    "labels",
    "annotations",
    "UID",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "resourceVersion",
    "finalizers",
];

/// A namespace as expressions see it.
fn namespace() -> Type {
    let field = |name: &'static str| {
        let type_ = match name {
            "labels" | "annotations" => text_map(),
            "creationTimestamp" | "deletionTimestamp" => Type::Timestamp,
            "deletionGracePeriodSeconds" | "generation" => Type::Int,
            "finalizers" => Type::list(Type::String),
            _ => Type::String,
        };
        (name, type_)
    };
    Type::object(
        "kubernetes.Namespace",
        [
            ("metadata", Type::object("kubernetes.NamespaceMetadata", NAMESPACE_METADATA.iter().copied().map(field))),
            ("spec", Type::object("kubernetes.NamespaceSpec", [("finalizers", Type::list(Type::String))])),
            ("status", Type::object("kubernetes.NamespaceStatus", [("phase", Type::String)])),
        ],
    )
}

/// Of the conditions of a webhook.
pub fn webhook() -> Env {
    with_authorizer(objects())
}

fn objects() -> Env {
    Env::new().with("object", Type::Dyn).with("oldObject", Type::Dyn).with("request", request())
}

fn with_authorizer(env: Env) -> Env {
    env.with("authorizer", AUTHORIZER).with(REQUEST_RESOURCE, RESOURCE_CHECK)
}

/// Of a policy, without its variables.
pub fn policy(params: bool) -> Env {
    let env = with_authorizer(objects()).with("namespaceObject", namespace());
    let env = env.with("variables", Type::object("kubernetes.variables", []));
    if params { env.with("params", Type::Dyn) } else { env }
}

/// The same without what says who may do what.
pub fn without_authorizer(env: Env) -> Env {
    env.without("authorizer").without(REQUEST_RESOURCE)
}

/// The same with a policy's variable.
pub fn with_variable(env: Env, name: &str, type_: Type) -> Env {
    env.with(&format!("variables.{name}"), type_)
}
