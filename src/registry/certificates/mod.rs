//! Kinds of the API group `certificates.k8s.io`.
//!
//! Rules: upstream `pkg/apis/certificates/validation` and `pkg/registry/certificates`. Who may approve and sign is asked
//! in admission.

use base64::Engine;
use serde_json::{Value, json};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use crate::api::scheme::{Column, KindInfo, STATUS, Selectable, Subresource, Verbs, human_duration};
use crate::api::table::text_or;
use crate::api::value::ValueExt;
use crate::registry::strategy::{Common, HookCx, Op, Plain};
use crate::registry::validate::{Field, signer};
use crate::registry::{Resource, meta};
use crate::util::clock::rfc3339;

const SUBRESOURCES: &[Subresource] = &[Subresource::own("approval", Verbs::STATUS), STATUS];

const FIELDS: &[Selectable] = &[Selectable::new("spec.signerName", "/spec/signerName")];

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::AGE,
    Column::text("SignerName", "/spec/signerName"),
    Column::text("Requestor", "/spec/username"),
    Column::new("RequestedDuration", |o, _| match o.int_at("/spec/expirationSeconds") {
        Some(seconds) => human_duration(seconds).into(),
        None => text_or(o, "", "<none>"),
    }),
    Column::new("Condition", |o, _| condition_cell(o).into()),
];

/// What a certificate may be for.
const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
/// Shortest life that may be asked for, seconds.
const EXPIRATION_MIN: i64 = 600;

/// The rows of this group.
pub fn kinds() -> Vec<Resource> {
    let strategy = Common::NONE.asked_once().prepare(prepare).check(check).check_subresource(check_subresource);
    vec![Resource::new(
        KindInfo::cluster(
            "certificates.k8s.io",
            "v1",
            "CertificateSigningRequest",
            "certificatesigningrequests",
            "certificatesigningrequest",
        )
        .short(&["csr"])
        .columns(COLUMNS)
        .subresources(SUBRESOURCES)
        .selectable(FIELDS),
        Box::new(strategy),
    )]
}

fn condition_cell(o: &Value) -> String {
    let has = |kind: &str| o.items_at("/status/conditions").iter().any(|c| c.str_at("/type") == Some(kind));
    let mut text = match (has("Denied"), has("Approved")) {
        (true, _) => "Denied",
        (_, true) => "Approved",
        _ => "Pending",
    }
    .to_owned();
    if has("Failed") {
        text.push_str(",Failed");
    }
    if o.str_at("/status/certificate").is_some_and(|c| !c.is_empty()) {
        text.push_str(",Issued");
    }
    text
}

/// Who asks is the server's to say; what was asked stays; approval changes conditions only.
fn prepare(new: &mut Value, old: Option<&Value>, cx: &HookCx<'_>) {
    let Some(old) = old else {
        for field in ["username", "uid", "groups", "extra"] {
            new.remove_at(&format!("/spec/{field}"));
        }
        let user = cx.user;
        new.set_at("/spec/username", user.name.as_str());
        if !user.uid.is_empty() {
            new.set_at("/spec/uid", user.uid.as_str());
        }
        if !user.groups.is_empty() {
            new.set_at("/spec/groups", json!(user.groups));
        }
        if !user.extra.is_empty() {
            new.set_at("/spec/extra", json!(user.extra));
        }
        return;
    };
    let conditions = new.get_at("/status/conditions").cloned();
    match &cx.op {
        Op::Subresource(sub) if sub == "approval" => {
            meta::before_update(new, old, cx.info, &Plain);
            set_conditions(new, stamped(conditions, old, cx));
        }
        Op::Subresource(_) => {
            // A signer changes neither approval nor denial: they stay as they were, to take or give one is refused.
            let mut all = stamped(conditions, old, cx);
            let is_decision = |c: &&Value| matches!(c.str_at("/type"), Some("Approved" | "Denied"));
            for kept in old.items_at("/status/conditions").iter().filter(is_decision) {
                if let Some(own) = all.iter_mut().find(|c| c["type"] == kept["type"]) {
                    *own = kept.clone();
                }
            }
            set_conditions(new, all);
            if let (None, Some(issued)) = (new.get_at("/status/certificate"), old.get_at("/status/certificate")) {
                new.set_at("/status/certificate", issued.clone());
            }
        }
        _ => {}
    }
    new["spec"] = old["spec"].clone();
}

fn set_conditions(new: &mut Value, conditions: Vec<Value>) {
    if conditions.is_empty() {
        new.remove_at("/status/conditions");
    } else {
        new.set_at("/status/conditions", conditions);
    }
}

/// Conditions with times: of the last transition the old one's where the status is the same.
fn stamped(conditions: Option<Value>, old: &Value, cx: &HookCx<'_>) -> Vec<Value> {
    let now = rfc3339(cx.now);
    let Some(Value::Array(mut all)) = conditions else { return Vec::new() };
    for condition in &mut all {
        condition.set_if_absent("/lastUpdateTime", now.clone());
        if condition.str_at("/lastTransitionTime").is_none() {
            let same = |c: &&Value| c["type"] == condition["type"] && c["status"] == condition["status"];
            let was = old.items_at("/status/conditions").iter().find(same);
            let time = was.and_then(|c| c.str_at("/lastTransitionTime")).unwrap_or(&now).to_owned();
            condition.set_at("/lastTransitionTime", time);
        }
    }
    all
}

fn check(o: &Field<'_>, old: Option<&Value>, cx: &HookCx<'_>) {
    let spec = o.at("spec");
    if old.is_none()
        && let Err(why) = readable(spec.text("request"))
    {
        spec.errs.at("request").invalid(spec.text("request"), why);
    }
    if spec.count("usages") == 0 {
        spec.errs.at("usages").required("usages is required");
    }
    let mut seen = Vec::new();
    for usage in spec.items("usages") {
        if !USAGES.contains(&usage.as_text()) {
            usage.errs.not_supported(usage.as_text(), USAGES);
        }
        if seen.contains(&usage.as_text()) {
            usage.errs.duplicate(usage.as_text());
        }
        seen.push(usage.as_text());
    }
    signer::name(&spec.at("signerName"));
    if spec.int("expirationSeconds").is_some_and(|s| s < EXPIRATION_MIN) {
        spec.at("expirationSeconds").invalid("may not specify a duration less than 600 seconds (10 minutes)");
    }
    check_conditions(o, old, cx);
}

/// `request` is base64 of PEM.
fn readable(request: &str) -> Result<(), &'static str> {
    let none = "PEM block type must be CERTIFICATE REQUEST";
    let bytes = base64::engine::general_purpose::STANDARD.decode(request).map_err(|_| none)?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&bytes).map_err(|_| none)?;
    if pem.label != "CERTIFICATE REQUEST" {
        return Err(none);
    }
    X509CertificationRequest::from_der(&pem.contents).map(|_| ()).map_err(|_| "is no certificate request")
}

fn check_conditions(o: &Field<'_>, old: Option<&Value>, cx: &HookCx<'_>) {
    let status = o.at("status");
    let mut seen: Vec<&str> = Vec::new();
    for condition in status.items("conditions") {
        let kind = condition.text("type");
        if kind.is_empty() {
            condition.errs.at("type").required("");
        } else if seen.contains(&kind) {
            condition.errs.at("type").duplicate(kind);
        }
        condition.needs_one_of("status", &["False", "True", "Unknown"]);
        if matches!(kind, "Approved" | "Denied" | "Failed") && condition.text("status") != "True" {
            condition.errs.at("status").not_supported(condition.text("status"), &["True"]);
        }
        let other = match kind {
            "Approved" => "Denied",
            "Denied" => "Approved",
            _ => "",
        };
        if seen.contains(&other) {
            let why = "Approved and Denied conditions are mutually exclusive";
            status.errs.at("conditions").invalid(kind, why);
        }
        seen.push(kind);
    }
    if let (Some(old), Op::Subresource(sub)) = (old, &cx.op) {
        let had = |kind: &str| old.items_at("/status/conditions").iter().any(|c| c.str_at("/type") == Some(kind));
        for kind in ["Approved", "Denied", "Failed"] {
            let decides = kind != "Failed";
            let how = match (had(kind), seen.contains(&kind)) {
                (true, false) => "remove",
                (false, true) if decides && sub != "approval" => "add",
                _ => continue,
            };
            status.errs.at("conditions").forbidden(format!("updates may not {how} a condition of type {kind:?}"));
        }
    }
}

/// A write to `status` or `approval`.
fn check_subresource(o: &Field<'_>, old: Option<&Value>, cx: &HookCx<'_>) {
    check_conditions(o, old, cx);
    let (status, was) = (o.at("status"), old.and_then(|o| o.str_at("/status/certificate")).unwrap_or_default());
    let certificate = status.text("certificate");
    if certificate == was {
        return;
    }
    if !was.is_empty() {
        status.errs.at("certificate").forbidden("updates may not modify existing certificate content");
    }
    if let Err(why) = certificates(certificate) {
        status.errs.at("certificate").invalid("<certificate data>", why);
    }
}

/// Base64 of PEM: certificates and nothing else.
fn certificates(text: &str) -> Result<(), String> {
    let none = || "must contain at least one CERTIFICATE PEM block".to_owned();
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).map_err(|_| none())?;
    let mut found = false;
    for block in x509_parser::pem::Pem::iter_from_buffer(&bytes) {
        let block = block.map_err(|_| none())?;
        if block.label != "CERTIFICATE" {
            return Err(format!("only CERTIFICATE PEM blocks are allowed, found {:?}", block.label));
        }
        x509_parser::certificate::X509Certificate::from_der(&block.contents).map_err(|e| e.to_string())?;
        found = true;
    }
    if found { Ok(()) } else { Err(none()) }
}
