//! Kinds of the API group `admissionregistration.k8s.io`.

use serde_json::Value;

use crate::api::meta::labels;
use crate::api::scheme::{Column, KindInfo, STATUS_ONLY};
use crate::api::value::ValueExt;
use crate::registry::Resource;
use crate::registry::strategy::{Common, Generation};

pub mod expressions;
mod matching;
mod policy;
mod webhook;

pub use webhook::client as webhook_client;

const GROUP: &str = "admissionregistration.k8s.io";
const UNSET: &str = "<unset>";

const WEBHOOK_COLUMNS: &[Column] =
    &[Column::NAME, Column::int_fn("Webhooks", |o, _| o.items_at("/webhooks").len().into()), Column::AGE];

const VALIDATING_COLUMNS: &[Column] = &[
    Column::NAME,
    Column::int_fn("Validations", |o, _| o.items_at("/spec/validations").len().into()),
    Column::new("ParamKind", |o, _| param_kind(o).into()),
    Column::AGE,
];

const MUTATING_COLUMNS: &[Column] = &[
    Column::NAME,
    Column::int_fn("Mutations", |o, _| o.items_at("/spec/mutations").len().into()),
    Column::new("ParamKind", |o, _| param_kind(o).into()),
    Column::AGE,
];

const BINDING_COLUMNS: &[Column] = &[
    Column::NAME,
    Column::text("PolicyName", "/spec/policyName"),
    Column::new("ParamRef", |o, _| param_ref(o).into()),
    Column::AGE,
];

fn param_kind(o: &Value) -> String {
    match o.get_at("/spec/paramKind") {
        Some(p) => {
            format!("{}/{}", p.str_at("/apiVersion").unwrap_or_default(), p.str_at("/kind").unwrap_or_default())
        }
        None => UNSET.to_owned(),
    }
}

/// `namespace/name`, or the selector as Go prints it.
fn param_ref(o: &Value) -> String {
    let Some(r) = o.get_at("/spec/paramRef") else { return UNSET.to_owned() };
    let text = |p| r.str_at(p).unwrap_or_default();
    match (text("/namespace"), text("/name")) {
        ("", "") => selector_text(&r["selector"]),
        ("", name) => format!("*/{name}"),
        (namespace, "") => format!("{namespace}/{}", selector_text(&r["selector"])),
        (namespace, name) => format!("{namespace}/{name}"),
    }
}

fn selector_text(selector: &Value) -> String {
    if selector.is_null() { UNSET.to_owned() } else { labels::go_text(selector) }
}

/// The rows of this group.
pub fn kinds() -> Vec<Resource> {
    let row = |kind, plural, singular, columns| {
        KindInfo::cluster(GROUP, "v1", kind, plural, singular).categories(&["api-extensions"]).columns(columns)
    };
    let spec = Common::NONE.generation(Generation::Spec).conditional_update();
    let content = Common::NONE.generation(Generation::Content).conditional_update();
    vec![
        Resource::new(
            row("MutatingAdmissionPolicy", "mutatingadmissionpolicies", "mutatingadmissionpolicy", MUTATING_COLUMNS),
            Box::new(spec.check(policy::mutating)),
        ),
        Resource::new(
            row(
                "MutatingAdmissionPolicyBinding",
                "mutatingadmissionpolicybindings",
                "mutatingadmissionpolicybinding",
                BINDING_COLUMNS,
            ),
            Box::new(spec.check(policy::mutating_binding)),
        ),
        Resource::new(
            row(
                "MutatingWebhookConfiguration",
                "mutatingwebhookconfigurations",
                "mutatingwebhookconfiguration",
                WEBHOOK_COLUMNS,
            ),
            Box::new(content.check(webhook::mutating)),
        ),
        Resource::new(
            row(
                "ValidatingAdmissionPolicy",
                "validatingadmissionpolicies",
                "validatingadmissionpolicy",
                VALIDATING_COLUMNS,
            )
            .subresources(STATUS_ONLY),
            Box::new(spec.status_alone().check(policy::validating).check_subresource(policy::validating_status)),
        ),
        Resource::new(
            row(
                "ValidatingAdmissionPolicyBinding",
                "validatingadmissionpolicybindings",
                "validatingadmissionpolicybinding",
                BINDING_COLUMNS,
            ),
            Box::new(spec.check(policy::validating_binding)),
        ),
        Resource::new(
            row(
                "ValidatingWebhookConfiguration",
                "validatingwebhookconfigurations",
                "validatingwebhookconfiguration",
                WEBHOOK_COLUMNS,
            ),
            Box::new(content.check(webhook::validating)),
        ),
    ]
}
