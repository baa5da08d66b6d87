//! What flow schemas and priority levels may hold.
//!
//! Rules: upstream `pkg/apis/flowcontrol/validation`.

use serde_json::Value;

use crate::api::meta::names;
use crate::api::value::ValueExt;
use crate::registry::strategy::HookCx;
use crate::registry::validate::Field;

/// Verbs of resource requests.
const VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];
/// Verbs of other requests.
const URL_VERBS: &[&str] = &["connect", "delete", "get", "head", "options", "patch", "post", "put", "trace"];
/// Lowest precedence.
const PRECEDENCE_MAX: i64 = 10_000;
/// Most queues of a level.
const QUEUES_MAX: i64 = 10_000_000;
/// Stands for everything.
const ALL: &str = "*";

/// Create and update of a FlowSchema.
pub fn schema(o: &Field<'_>, _old: Option<&Value>, _cx: &HookCx<'_>) {
    let spec = o.at("spec");
    let name = o.value.str_at("/metadata/name").unwrap_or_default();
    let precedence = spec.int("matchingPrecedence").unwrap_or(0);
    if precedence <= 0 {
        spec.at("matchingPrecedence").invalid("must be a positive value");
    } else if precedence > PRECEDENCE_MAX {
        spec.at("matchingPrecedence").invalid(format!("must not be greater than {PRECEDENCE_MAX}"));
    }
    if precedence == 1 && name != "exempt" {
        spec.at("matchingPrecedence").invalid("only the schema named 'exempt' may have matchingPrecedence 1");
    }
    if spec.has("distinguisherMethod") {
        spec.at("distinguisherMethod").one_of("type", &["ByNamespace", "ByUser"]);
    }
    let level = spec.at("priorityLevelConfiguration");
    if level.needs("name") {
        level.at("name").reasons(names::dns1123_subdomain(level.text("name")));
    }
    for rule in spec.items("rules") {
        if rule.count("subjects") == 0 {
            rule.errs.at("subjects").required("subjects must contain at least one value");
        }
        rule.items("subjects").for_each(|s| subject(&s));
        if rule.count("resourceRules") == 0 && rule.count("nonResourceRules") == 0 {
            rule.errs.required("at least one of resourceRules and nonResourceRules has to be non-empty");
        }
        rule.items("resourceRules").for_each(|r| resource_rule(&r));
        rule.items("nonResourceRules").for_each(|r| url_rule(&r));
    }
}

const SUBJECTS: [(&str, &str); 3] = [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];

fn subject(s: &Field<'_>) {
    let kind = s.text("kind");
    let Some((_, own)) = SUBJECTS.iter().find(|(k, _)| *k == kind) else {
        s.errs.at("kind").not_supported(kind, &["Group", "ServiceAccount", "User"]);
        return;
    };
    for (_, other) in SUBJECTS.iter().filter(|(_, f)| f != own && s.has(f)) {
        s.errs.at(other).forbidden(format!("{other} is forbidden when subject kind is not its own"));
    }
    let field = s.at(own);
    if field.value.is_null() {
        field.errs.required(format!("{own} is required when subject kind is '{kind}'"));
        return;
    }
    let named = field.needs("name");
    if kind == "ServiceAccount" {
        if named && field.text("name") != ALL {
            field.at("name").reasons(names::dns1123_subdomain(field.text("name")));
        }
        if field.needs("namespace") {
            field.at("namespace").reasons(names::dns1123_label(field.text("namespace")));
        }
    }
}

/// A list of texts that is not empty, and alone where it says everything.
fn list<'a>(rule: &Field<'a>, member: &str) -> Vec<&'a str> {
    let all: Vec<&str> = rule.items(member).map(|v| v.as_text()).collect();
    if all.is_empty() {
        rule.errs.at(member).required(format!("{member} must contain at least one value"));
    } else if all.len() > 1 && all.contains(&ALL) {
        rule.at(member).invalid("if '*' is present, must not specify other values");
    }
    all
}

fn verbs(rule: &Field<'_>, known: &[&str]) {
    let all = list(rule, "verbs");
    for verb in all.iter().filter(|v| **v != ALL && !known.contains(v)) {
        rule.errs.at("verbs").not_supported(*verb, known);
    }
}

fn resource_rule(rule: &Field<'_>) {
    verbs(rule, VERBS);
    list(rule, "apiGroups");
    list(rule, "resources");
    if rule.count("namespaces") == 0 && !rule.flag("clusterScope") {
        let why = "resource rules that are not cluster scoped must supply at least one namespace";
        rule.errs.at("namespaces").required(why);
    }
    let all: Vec<Field<'_>> = rule.items("namespaces").collect();
    if all.len() > 1 && all.iter().any(|n| n.as_text() == ALL) {
        rule.at("namespaces").invalid("if '*' is present, must not specify other namespaces");
        return;
    }
    for namespace in all.iter().filter(|n| n.as_text() != ALL) {
        namespace.reasons(names::dns1123_label(namespace.as_text()));
    }
}

fn url_rule(rule: &Field<'_>) {
    verbs(rule, URL_VERBS);
    let all: Vec<Field<'_>> = rule.items("nonResourceURLs").collect();
    if all.is_empty() {
        rule.errs.at("nonResourceURLs").required("nonResourceURLs must contain at least one value");
    } else if all.len() > 1 && all.iter().any(|u| u.as_text() == ALL) {
        rule.at("nonResourceURLs").invalid("if '*' is present, must not specify other URLs");
        return;
    }
    for url in all.iter().filter(|u| u.as_text() != ALL) {
        if let Some(why) = bad_url(url.as_text()) {
            url.invalid(why);
        }
    }
}

fn bad_url(url: &str) -> Option<&'static str> {
    match url {
        "" => Some("must not be empty"),
        "/" => None,
        u if !u.starts_with('/') => Some("must start with slash"),
        u if u.contains(' ') => Some("must not contain white-space"),
        u if u.contains("//") => Some("must not contain double slash"),
        u if u[..u.len() - 1].contains(ALL) => Some("wildcard can only do suffix matching"),
        u if u.ends_with(ALL) && !u.ends_with("/*") => Some("wildcard can only do suffix matching"),
        _ => None,
    }
}

/// Create and update of a PriorityLevelConfiguration.
pub fn level(o: &Field<'_>, _old: Option<&Value>, _cx: &HookCx<'_>) {
    let spec = o.at("spec");
    let (limited, exempt) = (spec.at("limited"), spec.at("exempt"));
    match spec.text("type") {
        "" => spec.errs.at("type").required("must specify a type"),
        "Exempt" => {
            if !limited.value.is_null() {
                limited.errs.forbidden("must be nil if the type is not Limited");
            }
            shares(&exempt);
        }
        "Limited" => {
            if !exempt.value.is_null() {
                exempt.errs.forbidden("must be nil if the type is Limited");
            }
            if limited.value.is_null() {
                limited.errs.required("must not be empty when type is Limited");
            } else {
                limits(&limited);
            }
        }
        other => spec.errs.at("type").not_supported(other, &["Exempt", "Limited"]),
    }
}

fn shares(l: &Field<'_>) {
    l.not_negative("nominalConcurrencyShares");
    l.in_range("lendablePercent", 0, 100);
}

fn limits(l: &Field<'_>) {
    shares(l);
    l.not_negative("borrowingLimitPercent");
    let response = l.at("limitResponse");
    let queuing = response.at("queuing");
    match response.text("type") {
        "" => response.errs.at("type").required("must specify a type"),
        "Reject" => {
            if !queuing.value.is_null() {
                queuing.errs.forbidden("must be nil if limited.limitResponse.type is not Limited");
            }
        }
        "Queue" if queuing.value.is_null() => {
            queuing.errs.required("must not be empty if limited.limitResponse.type is Limited");
        }
        "Queue" => queues(&queuing),
        other => response.errs.at("type").not_supported(other, &["Queue", "Reject"]),
    }
}

fn queues(q: &Field<'_>) {
    let number = |field: &str| q.int(field).unwrap_or(0);
    for field in ["queueLengthLimit", "queues", "handSize"] {
        if number(field) <= 0 {
            q.at(field).invalid("must be positive");
        }
    }
    if number("queues") > QUEUES_MAX {
        q.at("queues").invalid(format!("must not be greater than {QUEUES_MAX}"));
    }
    if number("handSize") > number("queues") {
        q.at("handSize").invalid(format!("should not be greater than queues ({})", number("queues")));
    }
}
