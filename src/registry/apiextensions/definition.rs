//! What a CustomResourceDefinition may say, beside its schemas.
//!
//! In: the object and the stored one. Out: what is wrong. Rules: upstream
//! `apiextensions-apiserver/pkg/apis/apiextensions/validation`.
//!
//! **Invariant:** what all versions say alike is told at the spec, not at a version, as upstream's internal form holds it
//! there.

use serde_json::Value;

use super::{bundle, path, schema};
use crate::api::meta::names;
use crate::api::value::ValueExt;
use crate::registry::admissionregistration::webhook_client;
use crate::registry::strategy::{HookCx, Op};
use crate::registry::validate::Field;

const SCOPES: &[&str] = &["Cluster", "Namespaced"];
const STRATEGIES: &[&str] = &["None", "Webhook"];
/// What a printer column may hold.
const COLUMN_TYPES: &[&str] = &["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: &[&str] = &["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
/// The forms of conversion reviews that a server understands.
const REVIEW_VERSIONS: &[&str] = &["v1", "v1beta1"];
/// Longest text that says a version is deprecated, bytes.
const WARNING_MAX: usize = 256;
const SELECTABLE_MAX: usize = 8;
/// Says who agreed to a kind in one of the project's own groups.
const APPROVED: &str = "api-approved.kubernetes.io";

/// The rules for creates and updates of the definition itself.
pub fn check(o: &Field<'_>, old: Option<&Value>, cx: &HookCx<'_>) {
    let spec = o.at("spec");
    if cx.op == Op::Create {
        let needed = format!("{}.{}", spec.value.str_at("/names/plural").unwrap_or_default(), spec.text("group"));
        let name = o.at("metadata").at("name");
        if name.as_text() != needed {
            name.invalid("must be spec.names.plural+\".\"+spec.group");
        }
    }
    check_spec(&spec, old);
    if let Some(old) = old {
        immutable(&spec, old);
    }
    check_names(&o.at("status").at("acceptedNames"));
    stored_versions(o);
    approval(o, old);
    if spec.flag("preserveUnknownFields") && old.is_none_or(|o| o.bool_at("/spec/preserveUnknownFields") != Some(true))
    {
        spec.at("preserveUnknownFields")
            .invalid("cannot set to true, use x-kubernetes-preserve-unknown-fields instead");
    }
}

/// The rules for writes of the status.
pub fn check_status(o: &Field<'_>, _old: Option<&Value>, _cx: &HookCx<'_>) {
    check_names(&o.at("status").at("acceptedNames"));
}

/// The rules for what a definition asks for.
pub fn check_spec(spec: &Field<'_>, old: Option<&Value>) {
    if spec.needs("group") {
        let group = spec.at("group");
        let reasons = names::dns1123_subdomain(group.as_text());
        if !reasons.is_empty() {
            group.invalid(reasons.join(","));
        } else if !group.as_text().contains('.') {
            group.invalid("should be a domain with at least one dot");
        }
    }
    spec.needs_one_of("scope", SCOPES);
    versions(spec);
    for name in ["plural", "singular", "kind", "listKind"] {
        spec.at("names").needs(name);
    }
    check_names(&spec.at("names"));
    conversion(&spec.at("conversion"), old);
}

fn versions(spec: &Field<'_>) {
    let list = spec.at("versions");
    let all = list.value.as_array().map_or(&[][..], Vec::as_slice);
    for version in spec.items("versions") {
        label(&version.at("name"), names::dns1035_label(version.text("name")));
        if !version.at("schema").has("openAPIV3Schema") {
            version.errs.at("schema").at("openAPIV3Schema").required("schemas are required");
        }
        deprecation(&version);
    }
    parts(spec, all);
    let named = |v: &Value| v.str_at("/name").unwrap_or_default().to_owned();
    if (1..all.len()).any(|i| all[..i].iter().any(|v| named(v) == named(&all[i]))) {
        list.invalid("must contain unique version names");
    }
    if all.iter().filter(|v| v.bool_at("/storage") == Some(true)).count() != 1 {
        list.invalid("must have exactly one version marked as storage version");
    }
    // The first version doubles as the old form's only one.
    let first = all.first().map(|v| v.str_at("/name").unwrap_or_default()).unwrap_or_default();
    let reasons = names::dns1035_label(first);
    if !first.is_empty() && !reasons.is_empty() {
        spec.errs.at("version").invalid(first, reasons.join(","));
    }
}

/// Schema, subresources, columns and selectable fields: at the spec where all versions agree, else at each version.
fn parts(spec: &Field<'_>, all: &[Value]) {
    let agree = |member: &str| {
        let of = |v: &Value| v.get(member).filter(|m| !is_nothing(m)).cloned();
        all.windows(2).all(|pair| of(&pair[0]) == of(&pair[1]))
    };
    let place = |member: &str, shared: &str| -> Vec<Field<'_>> {
        if agree(member) {
            let value = all.first().and_then(|v| v.get(member)).unwrap_or(&Value::Null);
            return vec![Field { value, errs: spec.errs.at(shared) }];
        }
        spec.items("versions").map(|v| v.at(member)).collect()
    };
    let has_status = |i: usize| all.get(i).is_some_and(|v| v.get_at("/subresources/status").is_some());
    let any_status = (0..all.len()).any(has_status);
    let schemas = place("schema", "validation");
    for (i, of_version) in schemas.iter().enumerate() {
        let status = if agree("schema") { any_status } else { has_status(i) };
        schema::check(&of_version.at("openAPIV3Schema"), status);
    }
    for subresources in place("subresources", "subresources") {
        scale(&subresources);
    }
    for columns in place("additionalPrinterColumns", "additionalPrinterColumns") {
        elements(&columns).for_each(|c| column(&c));
    }
    for (i, fields) in place("selectableFields", "selectableFields").iter().enumerate() {
        selectable(fields, all.get(i).and_then(|v| v.get_at("/schema/openAPIV3Schema")).unwrap_or(&Value::Null));
    }
}

fn is_nothing(value: &Value) -> bool {
    value.is_null() || value.as_array().is_some_and(Vec::is_empty)
}

/// The elements of a list that is the field itself.
fn elements<'a>(list: &Field<'a>) -> impl Iterator<Item = Field<'a>> + use<'a> {
    let (errs, value) = (list.errs.clone(), list.value);
    value.as_array().into_iter().flatten().enumerate().map(move |(i, value)| Field { value, errs: errs.index(i) })
}

fn deprecation(version: &Field<'_>) {
    let warning = version.at("deprecationWarning");
    if warning.value.is_null() {
        return;
    }
    if !version.flag("deprecated") {
        warning.invalid("can only be set for deprecated versions");
        return;
    }
    if warning.as_text().len() > WARNING_MAX {
        warning.invalid(format!("must be <= {WARNING_MAX} characters long"));
    }
    if warning.as_text().is_empty() {
        warning.invalid("must not be an empty string");
    }
    if warning.as_text().chars().any(|c| c.is_control() || (c.is_whitespace() && c != ' ')) {
        warning.invalid("must only contain printable UTF-8 characters");
    }
}

fn scale(subresources: &Field<'_>) {
    if !subresources.has("scale") {
        return;
    }
    let scale = subresources.at("scale");
    for (member, roots, needed) in [
        ("specReplicasPath", &[".spec."][..], true),
        ("statusReplicasPath", &[".status."][..], true),
        ("labelSelectorPath", &[".spec.", ".status."][..], false),
    ] {
        let place = scale.at(member);
        match place.as_text() {
            "" if needed => place.errs.required(""),
            "" => {}
            text if !text.starts_with('.') => place.invalid("must be a simple json path starting with ."),
            text if !roots.iter().any(|r| text.starts_with(r)) => {
                place.invalid(format!("should be a json path under {}", roots.join(" or ")));
            }
            _ => {}
        }
    }
}

fn column(c: &Field<'_>) {
    c.needs("name");
    if c.needs("type") && !COLUMN_TYPES.contains(&c.text("type")) {
        c.at("type").invalid(format!("must be one of {}", COLUMN_TYPES.join(",")));
    }
    if !c.text("format").is_empty() && !COLUMN_FORMATS.contains(&c.text("format")) {
        c.at("format").invalid(format!("must be one of {}", COLUMN_FORMATS.join(",")));
    }
    // Told by the name that the internal form has.
    let told = Field { value: c.at("jsonPath").value, errs: c.errs.at("JSONPath") };
    match told.as_text() {
        "" => told.errs.required(""),
        text if !text.starts_with('.') => told.invalid("must be a simple json path starting with ."),
        _ => {}
    }
}

fn selectable(fields: &Field<'_>, schema: &Value) {
    if schema.is_null() && !is_nothing(fields.value) {
        fields.invalid("may only be set beside a schema");
        return;
    }
    let mut seen = Vec::new();
    for field in elements(fields) {
        if !field.needs("jsonPath") {
            continue;
        }
        let place = field.at("jsonPath");
        let Some(found) = path::resolve(place.as_text(), schema) else {
            place.invalid("is an invalid path: does not refer to a valid field");
            continue;
        };
        if path::steps(place.as_text()).is_some_and(|s| s.first().is_some_and(|s| s == "metadata")) {
            place.invalid("must not point to fields in metadata");
        }
        if !matches!(found.str_at("/type").unwrap_or_default(), "string" | "boolean" | "integer") {
            place.invalid("must point to a field of type string, boolean or integer");
        }
        let steps = path::steps(place.as_text());
        if seen.contains(&steps) {
            place.errs.duplicate(place.as_text());
        } else {
            seen.push(steps);
        }
    }
    if seen.len() > SELECTABLE_MAX {
        fields.errs.too_many(seen.len(), SELECTABLE_MAX);
    }
}

fn label(field: &Field<'_>, reasons: Vec<String>) {
    if !reasons.is_empty() {
        field.invalid(reasons.join(","));
    }
}

/// Names are DNS labels where they are given; kinds may be in mixed case.
fn check_names(given: &Field<'_>) {
    for (member, any_case) in [("plural", false), ("singular", false), ("kind", true), ("listKind", true)] {
        let place = given.at(member);
        let text = if any_case { place.as_text().to_lowercase() } else { place.as_text().to_owned() };
        if !text.is_empty() {
            label(&place, names::dns1035_label(&text));
        }
    }
    for member in ["shortNames", "categories"] {
        given.items(member).for_each(|n| label(&n, names::dns1035_label(n.as_text())));
    }
    if !given.text("kind").is_empty() && given.text("kind") == given.text("listKind") {
        given.at("listKind").invalid("kind and listKind may not be the same");
    }
}

fn conversion(c: &Field<'_>, old: Option<&Value>) {
    if c.value.is_null() {
        return;
    }
    c.needs_one_of("strategy", STRATEGIES);
    let webhook = c.at("webhook");
    // The internal form has no `webhook` in between.
    let client = Field { value: webhook.at("clientConfig").value, errs: c.errs.at("webhookClientConfig") };
    let reviews =
        Field { value: webhook.at("conversionReviewVersions").value, errs: c.errs.at("conversionReviewVersions") };
    if c.text("strategy") != "Webhook" {
        if !client.value.is_null() {
            client.errs.forbidden("should not be set when strategy is not set to Webhook");
        }
        if !is_nothing(reviews.value) {
            reviews.errs.forbidden("should not be set when strategy is not set to Webhook");
        }
        return;
    }
    if client.value.is_null() {
        client.errs.required("required when strategy is set to Webhook");
    } else {
        webhook_client(&client);
        // One that never served may wait for who fills it in; one that serves would stop.
        let serves = old.filter(|old| is_established(old)).is_some_and(|old| {
            let before = bundle::of(old);
            before.is_empty() || bundle::is_usable(before)
        });
        let given = client.at("caBundle");
        if serves && !bundle::is_usable(given.as_text()) {
            given.invalid("unable to load root certificates: there is no certificate in it");
        }
    }
    let kept = old.map(|o| o.items_at("/spec/conversion/webhook/conversionReviewVersions"));
    let was_known = kept.is_none_or(|l| l.is_empty() || l.iter().any(is_known_review));
    review_versions(&reviews, was_known);
}

fn is_known_review(version: &Value) -> bool {
    version.as_str().is_some_and(|v| REVIEW_VERSIONS.contains(&v))
}

fn review_versions(list: &Field<'_>, one_must_be_known: bool) {
    if is_nothing(list.value) {
        list.errs.required("");
        return;
    }
    let mut seen = Vec::new();
    for version in elements(list) {
        if seen.contains(&version.as_text()) {
            version.invalid("duplicate version");
            continue;
        }
        seen.push(version.as_text());
        version.reasons(names::dns1035_label(version.as_text()));
    }
    if one_must_be_known && !elements(list).any(|v| is_known_review(v.value)) {
        list.invalid(format!("must include at least one of {}", REVIEW_VERSIONS.join(", ")));
    }
}

fn is_established(crd: &Value) -> bool {
    let is_true = |c: &Value| c.str_at("/type") == Some("Established") && c.str_at("/status") == Some("True");
    crd.items_at("/status/conditions").iter().any(is_true)
}

/// What the resource's place in the API and in storage hangs on.
fn immutable(spec: &Field<'_>, old: &Value) {
    let old_spec = old.get("spec").unwrap_or(&Value::Null);
    let old_names = old_spec.get("names").unwrap_or(&Value::Null);
    if is_established(old) {
        spec.immutable("scope", old_spec);
        spec.at("names").immutable("kind", old_names);
    }
    spec.immutable("group", old_spec);
    spec.at("names").immutable("plural", old_names);
}

/// Versions that objects may still be stored in must stay.
pub fn stored_versions(o: &Field<'_>) {
    let status = o.at("status");
    let list = status.at("storedVersions");
    if is_nothing(list.value) {
        list.invalid("must have at least one stored version");
        return;
    }
    let versions = o.value.items_at("/spec/versions");
    let mut stored: Vec<&str> = status.items("storedVersions").map(|s| s.as_text()).collect();
    for version in versions {
        let name = version.str_at("/name").unwrap_or_default();
        if version.bool_at("/storage") == Some(true) && !stored.contains(&name) {
            list.invalid(format!("must have the storage version {name}"));
        }
        // Each is found once: of two versions by one name the second has none.
        stored.retain(|s| *s != name);
    }
    for name in status.items("storedVersions") {
        if !versions.iter().any(|v| v.str_at("/name").unwrap_or_default() == name.as_text()) {
            name.invalid("missing from spec.versions, although objects may be stored in it");
        }
    }
}

#[derive(PartialEq)]
enum Approval {
    Missing,
    Wrong,
    Fine,
}

fn approval_of(o: &Value) -> Approval {
    let text = o.get_at("/metadata/annotations").and_then(|a| a.get(APPROVED)).and_then(Value::as_str);
    match text.unwrap_or_default() {
        "" => Approval::Missing,
        text if text.starts_with("unapproved") => Approval::Fine,
        text => match text.split_once("://") {
            Some((scheme, rest)) if !scheme.is_empty() && !rest.is_empty() && !rest.starts_with('/') => Approval::Fine,
            _ => Approval::Wrong,
        },
    }
}

/// Kinds in the project's own groups need the address of their approval.
fn approval(o: &Field<'_>, old: Option<&Value>) {
    let group = o.value.str_at("/spec/group").unwrap_or_default();
    let is_protected =
        |domain: &str| group.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    if !["k8s.io", "kubernetes.io"].into_iter().any(is_protected) {
        return;
    }
    let state = approval_of(o.value);
    if old.is_some_and(|old| approval_of(old) == state) {
        return;
    }
    let place = o.errs.at("metadata").at("annotations").key(APPROVED);
    match state {
        Approval::Missing => place.required("protected groups must have approval"),
        Approval::Wrong => {
            let text = o.value.get_at("/metadata/annotations").and_then(|a| a.get(APPROVED)).cloned();
            place.invalid(text.unwrap_or_default(), "requires approval as an address, or as \"unapproved\"");
        }
        Approval::Fine => {}
    }
}
