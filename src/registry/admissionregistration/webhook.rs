//! Webhook configurations.
//!
//! Rules: upstream `pkg/apis/admissionregistration/validation` and `apiserver/pkg/util/webhook`.

use serde_json::Value;

use crate::api::meta::names;
use crate::registry::strategy::HookCx;
use crate::registry::validate::labels::selector;
use crate::registry::validate::{Field, port_number};

use super::{expressions, matching};

/// Versions of AdmissionReview that the server speaks.
const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];
/// Longest time to wait for a webhook, seconds.
const TIMEOUT_MAX: i64 = 30;

/// Create and update of a MutatingWebhookConfiguration.
pub fn mutating(o: &Field<'_>, _old: Option<&Value>, _cx: &HookCx<'_>) {
    webhooks(o);
    for webhook in o.items("webhooks") {
        webhook.optional_one_of("reinvocationPolicy", &["IfNeeded", "Never"]);
    }
}

/// Create and update of a ValidatingWebhookConfiguration.
pub fn validating(o: &Field<'_>, _old: Option<&Value>, _cx: &HookCx<'_>) {
    webhooks(o);
}

fn webhooks(o: &Field<'_>) {
    let mut seen = Vec::new();
    for webhook in o.items("webhooks") {
        one(&webhook);
        let name = webhook.text("name");
        if !name.is_empty() && seen.contains(&name) {
            webhook.errs.at("name").duplicate(name);
        }
        seen.push(name);
    }
}

fn one(w: &Field<'_>) {
    let name = w.text("name");
    if w.needs("name") {
        let reasons = names::dns1123_subdomain(name);
        if !reasons.is_empty() {
            w.at("name").reasons(reasons);
        } else if name.split('.').count() < 3 {
            w.at("name").invalid("should be a domain with at least three segments separated by dots");
        }
    }
    for member in ["namespaceSelector", "objectSelector"] {
        selector(&w.at(member));
    }
    if w.has("sideEffects") {
        w.one_of("sideEffects", &["None", "NoneOnDryRun"]);
    } else {
        w.errs.at("sideEffects").required("must specify one of None, NoneOnDryRun");
    }
    w.in_range("timeoutSeconds", 1, TIMEOUT_MAX);
    w.optional_one_of("failurePolicy", &["Fail", "Ignore"]);
    w.optional_one_of("matchPolicy", &["Equivalent", "Exact"]);
    versions(w);
    w.items("rules").for_each(|r| matching::rule(&r));
    client(&w.at("clientConfig"));
    matching::conditions(w, &expressions::webhook());
}

fn versions(w: &Field<'_>) {
    let all: Vec<Field<'_>> = w.items("admissionReviewVersions").collect();
    let list = w.at("admissionReviewVersions");
    if all.is_empty() {
        list.errs.required("must specify one of v1, v1beta1");
        return;
    }
    let mut seen = Vec::new();
    for version in &all {
        let text = version.as_text();
        version.reasons(names::dns1035_label(text));
        if seen.contains(&text) {
            version.invalid("duplicate version");
        }
        seen.push(text);
    }
    if !seen.iter().any(|v| REVIEW_VERSIONS.contains(v)) {
        list.invalid("must include at least one of v1, v1beta1");
    }
}

/// How the webhook is reached. Shared by all kinds of webhooks.
pub fn client(c: &Field<'_>) {
    match (c.has("url"), c.has("service")) {
        (true, false) => url(&c.at("url")),
        (false, true) => service(&c.at("service")),
        _ => c.errs.required("exactly one of url or service is required"),
    }
}

fn url(field: &Field<'_>) {
    let text = field.as_text();
    let rest = match text.strip_prefix("https://") {
        Some(rest) => rest,
        None => {
            field.invalid("'https' is the only allowed URL scheme; desired format: https://host[/path]");
            text.split_once("://").map_or("", |(_, rest)| rest)
        }
    };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if host.is_empty() {
        field.invalid("host must be specified; desired format: https://host[/path]");
    }
    for (mark, what) in [('@', "user information"), ('#', "fragments"), ('?', "query parameters")] {
        let found = if mark == '@' { host.contains(mark) } else { rest.contains(mark) };
        if found {
            field.invalid(format!("{what} are not permitted in the URL"));
        }
    }
}

fn service(s: &Field<'_>) {
    // Upstream tells of the one at the other's place.
    for (member, told) in [("name", "namespace"), ("namespace", "name")] {
        if s.text(member).is_empty() {
            s.errs.at(told).required("");
        }
    }
    if let Some(why) = s.int("port").and_then(port_number) {
        s.at("port").invalid(why);
    }
    let path = s.at("path");
    if path.value.is_null() || matches!(path.as_text(), "" | "/") {
        return;
    }
    let text = path.as_text();
    if !text.starts_with('/') {
        path.invalid("must start with a '/'");
        return;
    }
    let trimmed = text[1..].strip_suffix('/').unwrap_or(&text[1..]);
    for (i, step) in trimmed.split('/').enumerate() {
        if step.is_empty() {
            path.invalid(format!("segment[{i}] may not be empty"));
        }
        if !names::dns1123_subdomain(step).is_empty() && !step.is_empty() {
            path.invalid(format!("segment[{i}]: must be a DNS subdomain"));
        }
    }
}
