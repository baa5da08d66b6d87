//! Kinds of the API group `rbac.authorization.k8s.io`.
//!
//! Rules: upstream `pkg/apis/rbac/validation`. Who may grant what is asked in admission.

use serde_json::Value;

use crate::api::meta::names;
use crate::api::scheme::{Column, KindInfo};
use crate::api::value::ValueExt;
use crate::registry::Resource;
use crate::registry::strategy::{Common, HookCx};
use crate::registry::validate::Field;
use crate::registry::validate::labels::selector;

const GROUP: &str = "rbac.authorization.k8s.io";

const BINDING_COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Role", |o, _| {
        let text = |p| o.str_at(p).unwrap_or_default();
        format!("{}/{}", text("/roleRef/kind"), text("/roleRef/name")).into()
    }),
    Column::AGE,
    Column::new("Users", |o, _| subjects_cell(o, "User").into()).wide(),
    Column::new("Groups", |o, _| subjects_cell(o, "Group").into()).wide(),
    Column::new("ServiceAccounts", |o, _| subjects_cell(o, "ServiceAccount").into()).wide(),
];

/// The rows of this group.
pub fn kinds() -> Vec<Resource> {
    let role = Common::NONE.create_on_update().names(names::path_segment).check(check_role);
    let binding = Common::NONE.create_on_update().names(names::path_segment).check(check_binding);
    vec![
        Resource::new(
            KindInfo::cluster(GROUP, "v1", "ClusterRoleBinding", "clusterrolebindings", "clusterrolebinding")
                .columns(BINDING_COLUMNS),
            Box::new(binding),
        ),
        Resource::new(KindInfo::cluster(GROUP, "v1", "ClusterRole", "clusterroles", "clusterrole"), Box::new(role)),
        Resource::new(
            KindInfo::namespaced(GROUP, "v1", "RoleBinding", "rolebindings", "rolebinding").columns(BINDING_COLUMNS),
            Box::new(binding),
        ),
        Resource::new(KindInfo::namespaced(GROUP, "v1", "Role", "roles", "role"), Box::new(role)),
    ]
}

fn subjects_cell(o: &Value, kind: &str) -> String {
    let named = |s: &Value| {
        let text = |p| s.str_at(p).unwrap_or_default().to_owned();
        if kind == "ServiceAccount" { format!("{}/{}", text("/namespace"), text("/name")) } else { text("/name") }
    };
    let all = o.items_at("/subjects").iter().filter(|s| s.str_at("/kind") == Some(kind));
    all.map(named).collect::<Vec<_>>().join(", ")
}

/// Create and update of a Role or ClusterRole.
fn check_role(o: &Field<'_>, _old: Option<&Value>, cx: &HookCx<'_>) {
    let namespaced = cx.info.is_namespaced();
    o.items("rules").for_each(|r| rule(&r, namespaced));
    let aggregation = o.at("aggregationRule");
    if namespaced || aggregation.value.is_null() {
        return;
    }
    if aggregation.count("clusterRoleSelectors") == 0 {
        let why = "at least one clusterRoleSelector required if aggregationRule is non-nil";
        aggregation.errs.at("clusterRoleSelectors").required(why);
    }
    for s in aggregation.items("clusterRoleSelectors") {
        let before = s.errs.len();
        selector(&s);
        if s.errs.len() > before {
            s.invalid("invalid label selector");
        }
    }
}

fn rule(r: &Field<'_>, namespaced: bool) {
    if r.count("verbs") == 0 {
        r.errs.at("verbs").required("verbs must contain at least one value");
    }
    let has = |member| r.count(member) > 0;
    if has("nonResourceURLs") {
        let urls = r.at("nonResourceURLs");
        if namespaced {
            urls.invalid("namespaced rules cannot apply to non-resource URLs");
        }
        if has("apiGroups") || has("resources") || has("resourceNames") {
            urls.invalid("rules cannot apply to both regular resources and non-resource URLs");
        }
        return;
    }
    if !has("apiGroups") {
        r.errs.at("apiGroups").required("resource rules must supply at least one api group");
    }
    if !has("resources") {
        r.errs.at("resources").required("resource rules must supply at least one resource");
    }
}

/// Create and update of a RoleBinding or ClusterRoleBinding.
fn check_binding(o: &Field<'_>, old: Option<&Value>, cx: &HookCx<'_>) {
    let namespaced = cx.info.is_namespaced();
    let role = o.at("roleRef");
    role.one_of("apiGroup", &[GROUP]);
    role.one_of("kind", if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] });
    if role.needs("name") {
        role.at("name").reasons(names::path_segment(role.text("name")));
    }
    o.items("subjects").for_each(|s| subject(&s, namespaced));
    if old.is_some_and(|old| old.get("roleRef") != o.value.get("roleRef")) {
        role.invalid("cannot change roleRef");
    }
}

fn subject(s: &Field<'_>, namespaced: bool) {
    s.needs("name");
    match s.text("kind") {
        "ServiceAccount" => {
            if !s.text("name").is_empty() {
                s.at("name").reasons(names::dns1123_subdomain(s.text("name")));
            }
            if !s.text("apiGroup").is_empty() {
                s.one_of("apiGroup", &[""]);
            }
            if !namespaced && s.text("namespace").is_empty() {
                s.errs.at("namespace").required("");
            }
        }
        "User" | "Group" => s.one_of("apiGroup", &[GROUP]),
        other => s.errs.at("kind").not_supported(other, &["Group", "ServiceAccount", "User"]),
    }
}
