//! Which requests a webhook, a policy or a binding is for.
//!
//! In: rules and selectors of a stored object; the attributes of a request. Out: whether it is meant, and by which version of
//! its resource. Nothing here does IO.
//!
//! Rules: upstream `apiserver/pkg/admission/plugin/webhook/predicates` and `…/plugin/policy/matching`.

use serde_json::Value;

use crate::api::meta::Gvk;
use crate::api::meta::labels::Selector;
use crate::api::status::{ApiResult, Status};
use crate::api::value::ValueExt;
use crate::registry::Admission;

/// Rules and selectors, read once.
#[derive(Debug, Default)]
pub struct Matcher {
    /// None: all resources, as a binding without rules has it.
    rules: Option<Vec<Rule>>,
    excluded: Vec<Rule>,
    /// Rules are about the version of the request, not about others of the same objects.
    exact: bool,
    namespaces: Selector,
    objects: Selector,
}

impl Matcher {
    /// From an object with `namespaceSelector`, `objectSelector`, `matchPolicy`, `excludeResourceRules` and its rules in the
    /// member `rules`.
    pub fn new(m: &Value, rules: &str) -> Self {
        // Stored selectors were validated; one that is not understood selects nothing that could be let through.
        let selector = |name: &str| {
            m.get(name).map_or_else(Selector::everything, |s| Selector::from_label_selector(s).unwrap_or_default())
        };
        let list = |member: &str| m.items_at(&format!("/{member}")).iter().map(Rule::of).collect::<Vec<_>>();
        Self {
            rules: Some(list(rules)),
            excluded: list("excludeResourceRules"),
            exact: m.str_at("/matchPolicy") == Some("Exact"),
            namespaces: selector("namespaceSelector"),
            objects: selector("objectSelector"),
        }
    }

    /// The same, but no rules mean all resources.
    pub fn or_all(mut self) -> Self {
        self.rules = self.rules.filter(|rules| !rules.is_empty());
        self
    }

    /// Whether a request is meant, and then by which group and version the rules name the resource.
    ///
    /// `others` gives the versions in which the same objects are served besides the request's, in order;
    /// `namespace_labels` finds the labels of the namespace that the request is in.
    ///
    /// # Errors
    /// 404 when the namespace does not exist.
    pub fn matches<'o, O: Iterator<Item = &'o GroupVersion>>(
        &self,
        a: &Attributes<'_>,
        others: impl Fn() -> O,
        namespace_labels: impl FnOnce() -> Option<Value>,
    ) -> ApiResult<Option<GroupVersion>> {
        // Nobody may lock the cluster's door from the inside.
        if a.gvk.group == "admissionregistration.k8s.io" {
            return Ok(None);
        }
        let excluded = |version: &GroupVersion| self.excluded.iter().any(|r| r.matches(a, version));
        let Some(found) = self.matched_version(a, others).filter(|version| !excluded(version)) else { return Ok(None) };
        if !self.objects.is_empty() && ![a.new, a.old].into_iter().flatten().any(|o| selects(&self.objects, o)) {
            return Ok(None);
        }
        let is_namespace = a.gvk.group.is_empty() && a.resource == "namespaces";
        if self.namespaces.is_empty() || a.namespace.is_empty() && !is_namespace {
            return Ok(Some(found));
        }
        let labels = match a.new {
            Some(new) if is_namespace && a.subresource.is_empty() && a.operation != "DELETE" => {
                new.get_at("/metadata/labels").cloned().unwrap_or_default()
            }
            _ => namespace_labels().ok_or_else(|| Status::not_found("", "namespaces", a.namespace))?,
        };
        Ok(self.namespaces.matches_value(Some(&labels)).then_some(found))
    }

    fn matched_version<'o, O: Iterator<Item = &'o GroupVersion>>(
        &self,
        a: &Attributes<'_>,
        others: impl Fn() -> O,
    ) -> Option<GroupVersion> {
        let own = (a.gvk.group.to_string(), a.gvk.version.to_string());
        let Some(rules) = &self.rules else { return Some(own) };
        if rules.iter().any(|r| r.matches(a, &own)) {
            return Some(own);
        }
        if self.exact {
            return None;
        }
        // Rules are gone through in their order, and for each the versions in theirs.
        rules.iter().find_map(|r| others().find(|v| r.matches(a, v)).cloned())
    }
}

/// `RuleWithOperations`, or `NamedRuleWithOperations`.
#[derive(Debug)]
struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    names: Vec<String>,
    scope: String,
}

/// What a request is about, as rules see it.
#[derive(Debug)]
pub struct Attributes<'a> {
    /// Of the request.
    pub gvk: &'a Gvk,
    /// Plural name.
    pub resource: &'a str,
    /// Or empty.
    pub subresource: &'a str,
    /// Of the object; empty for one that is yet to be named.
    pub name: &'a str,
    /// `CREATE`, `UPDATE`, `DELETE`, `CONNECT`.
    pub operation: &'a str,
    /// Of the object; a namespace is in itself. Empty for what has none.
    pub namespace: &'a str,
    /// The new object.
    pub new: Option<&'a Value>,
    /// The current object.
    pub old: Option<&'a Value>,
}

/// Group and version of a resource that a rule matched.
pub type GroupVersion = (String, String);

impl<'a> Attributes<'a> {
    /// Of a request.
    pub fn of(a: &'a Admission<'a>, new: Option<&'a Value>, old: Option<&'a Value>) -> Self {
        Self {
            gvk: &a.resource.info.gvk,
            resource: &a.resource.info.plural,
            subresource: a.subresource,
            name: name_of(a, new),
            operation: a.operation,
            namespace: namespace_of(a).unwrap_or_default(),
            new,
            old,
        }
    }
}

/// The namespace of a request; a namespace is in itself.
pub fn namespace_of<'a>(a: &'a Admission<'_>) -> Option<&'a str> {
    let text = if a.is("", "namespaces") { &a.target.name } else { &a.target.namespace };
    (!text.is_empty()).then_some(text.as_str())
}

/// The name of a request's object; empty for one that is yet to be generated.
pub fn name_of<'a>(a: &'a Admission<'_>, new: Option<&'a Value>) -> &'a str {
    match a.target.name.as_str() {
        "" => new.and_then(|o| o.str_at("/metadata/name")).unwrap_or_default(),
        name => name,
    }
}

impl Rule {
    fn of(rule: &Value) -> Self {
        let list = |member: &str| -> Vec<String> {
            let items = rule.items_at(&format!("/{member}")).iter();
            items.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        Self {
            operations: list("operations"),
            groups: list("apiGroups"),
            versions: list("apiVersions"),
            resources: list("resources"),
            names: list("resourceNames"),
            scope: rule.str_at("/scope").unwrap_or("*").to_owned(),
        }
    }

    fn matches(&self, a: &Attributes<'_>, (group, version): &GroupVersion) -> bool {
        let any = |list: &[String], wanted: &str| list.iter().any(|x| x == "*" || x == wanted);
        let clustered = a.namespace.is_empty() || group.is_empty() && a.resource == "namespaces";
        let in_scope = match self.scope.as_str() {
            "Namespaced" => !clustered,
            "Cluster" => clustered,
            _ => true,
        };
        in_scope
            && any(&self.operations, a.operation)
            && any(&self.groups, group)
            && any(&self.versions, version)
            && (self.names.is_empty() || self.names.iter().any(|n| n == a.name))
            && self.resources.iter().any(|r| {
                let (resource, sub) = r.split_once('/').unwrap_or((r, ""));
                (resource == "*" || resource == a.resource) && (sub == "*" || sub == a.subresource)
            })
    }
}

fn selects(selector: &Selector, object: &Value) -> bool {
    object.get("metadata").is_some_and(|m| selector.matches_value(m.get("labels")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use test_case::test_case;

    use super::*;

    fn hook(edit: Value) -> Matcher {
        let mut hook = json!({
            "rules": [{"operations": ["CREATE"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"]}],
        });
        for (key, value) in edit.as_object().unwrap() {
            hook[key] = value.clone();
        }
        Matcher::new(&hook, "rules")
    }

    fn ask(
        hook: &Matcher,
        path: &str,
        operation: &str,
        namespace: &str,
        object: &Value,
    ) -> ApiResult<Option<GroupVersion>> {
        let parts: Vec<&str> = path.split('/').collect();
        let gvk = Gvk { group: parts[0].to_owned().into(), version: parts[1].to_owned().into(), kind: "K".into() };
        let a = Attributes {
            gvk: &gvk,
            resource: parts[2],
            name: "o",
            subresource: parts.get(3).unwrap_or(&""),
            operation,
            namespace,
            new: Some(object),
            old: None,
        };
        let others = [(gvk.group.to_string(), "v9".to_owned())];
        hook.matches(&a, || others.iter(), || (namespace == "n").then(|| json!({"in": "n"})))
    }

    fn rule(resources: &[&str], operation: &str, scope: &str) -> Value {
        json!({"rules": [{"operations": [operation], "apiGroups": ["*"], "apiVersions": ["*"], "resources": resources, "scope": scope}]})
    }

    #[test_case(json!({}), "apps/v1/deployments", "CREATE" => true)]
    #[test_case(json!({}), "apps/v1/deployments", "UPDATE" => false; "another operation")]
    #[test_case(json!({}), "apps/v1/deployments/status", "CREATE" => false; "a subresource")]
    #[test_case(json!({}), "apps/v2/deployments", "CREATE" => false; "another version")]
    #[test_case(rule(&["*"], "*", "*"), "x/v1/y", "DELETE" => true; "all resources")]
    #[test_case(rule(&["*"], "*", "*"), "x/v1/y/status", "UPDATE" => false; "all resources but no subresources")]
    #[test_case(rule(&["*/*"], "*", "*"), "x/v1/y/status", "UPDATE" => true; "all and subresources")]
    #[test_case(rule(&["*/*"], "*", "*"), "x/v1/y", "UPDATE" => true; "all of all")]
    #[test_case(rule(&["*/scale"], "*", "*"), "x/v1/y/scale", "UPDATE" => true; "one subresource of all")]
    #[test_case(rule(&["pods/*"], "*", "*"), "/v1/pods", "CREATE" => true; "pods and their subresources")]
    #[test_case(rule(&["*/*"], "*", "Cluster"), "x/v1/y", "CREATE" => false; "namespaced object in cluster scope")]
    #[test_case(rule(&["*/*"], "*", "Namespaced"), "x/v1/y", "CREATE" => true; "namespaced object in its scope")]
    #[test_case(rule(&["*/*"], "*", "Cluster"), "/v1/namespaces", "CREATE" => true; "namespaces are of the cluster")]
    #[test_case(rule(&["*/*"], "*", "*"), "admissionregistration.k8s.io/v1/mutatingwebhookconfigurations", "DELETE" => false; "configurations")]
    #[test_case(json!({"objectSelector": {"matchLabels": {"a": "b"}}}), "apps/v1/deployments", "CREATE" => true; "object label")]
    #[test_case(json!({"objectSelector": {"matchLabels": {"a": "c"}}}), "apps/v1/deployments", "CREATE" => false; "other object label")]
    #[test_case(json!({"namespaceSelector": {"matchLabels": {"in": "n"}}}), "apps/v1/deployments", "CREATE" => true; "namespace label")]
    #[test_case(json!({"namespaceSelector": {"matchExpressions": [{"key": "in", "operator": "DoesNotExist"}]}}), "apps/v1/deployments", "CREATE" => false; "other namespace label")]
    #[test_case(json!({"excludeResourceRules": rule(&["deployments"], "*", "*")["rules"]}), "apps/v1/deployments", "CREATE" => false; "excluded")]
    fn asked(edit: Value, path: &str, operation: &str) -> bool {
        let object = json!({"metadata": {"labels": {"a": "b"}}});
        ask(&hook(edit), path, operation, "n", &object).unwrap().is_some()
    }

    #[test]
    fn other_versions_of_the_same_objects_count_unless_exact() {
        let rules = json!([{"operations": ["*"], "apiGroups": ["g"], "apiVersions": ["v9"], "resources": ["y"]}]);
        let equivalent = hook(json!({"rules": rules}));
        let found = ask(&equivalent, "g/v1/y", "CREATE", "n", &json!({})).unwrap();
        assert_eq!(found, Some(("g".to_owned(), "v9".to_owned())));
        let exact = hook(json!({"rules": rules, "matchPolicy": "Exact"}));
        assert_eq!(ask(&exact, "g/v1/y", "CREATE", "n", &json!({})).unwrap(), None);
    }

    #[test]
    fn selectors_of_namespaces() {
        let one =
            hook(json!({"namespaceSelector": {"matchLabels": {"in": "n"}}, "rules": rule(&["*"], "*", "*")["rules"]}));
        let missing = ask(&one, "apps/v1/deployments", "CREATE", "gone", &json!({})).unwrap_err();
        assert_eq!(missing.code, 404);
        assert!(ask(&one, "rbac.authorization.k8s.io/v1/clusterroles", "CREATE", "", &json!({})).unwrap().is_some());
        // A namespace is looked at as it will be.
        let labelled = json!({"metadata": {"labels": {"in": "n"}}});
        assert!(ask(&one, "/v1/namespaces", "CREATE", "new", &labelled).unwrap().is_some());
        assert!(ask(&one, "/v1/namespaces", "CREATE", "new", &json!({"metadata": {}})).unwrap().is_none());
    }
}
