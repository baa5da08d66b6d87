//! What a webhook configuration says, read once, and which requests it is about.
//!
//! In: stored configurations; the attributes of a request. Out: the hooks in the order they are called, and whether each is
//! asked. Nothing here does IO.
//!
//! Rules: upstream `apiserver/pkg/admission/plugin/webhook/{generic,predicates}`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::api::meta::Gvk;
use crate::api::meta::labels::Selector;
use crate::api::object::Object;
use crate::api::status::{ApiResult, Status};
use crate::api::value::ValueExt;

/// How long a webhook may take when it does not say.
const TIMEOUT_DEFAULT: i64 = 10;
/// The port of a Service that none is named for.
const PORT_DEFAULT: i64 = 443;

/// One webhook of one configuration.
#[derive(Debug)]
pub struct Hook {
    /// Name of the configuration and of the webhook: `config/hook`, one for each hook of a configuration.
    pub id: String,
    /// Its own name, as errors have it.
    pub name: String,
    /// A failed call lets the request go on.
    pub ignores_failure: bool,
    /// Rules are about the version of the request, not about others of the same objects.
    exact: bool,
    /// May be asked again when others changed the object after it.
    pub reinvoked: bool,
    /// May be asked about a request that stores nothing.
    pub dry_run: bool,
    /// Longest time for an answer.
    pub timeout: Duration,
    /// `v1` or `v1beta1`: the form it is asked in.
    pub version: String,
    /// Where it is.
    pub client: ClientConfig,
    namespaces: Selector,
    objects: Selector,
    rules: Vec<Rule>,
}

/// Where a webhook is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientConfig {
    /// An URL or a Service.
    pub place: Place,
    /// PEM of the CAs that its certificate may be of; empty for the machine's own.
    pub ca: Vec<u8>,
}

/// How a webhook is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// `https://host:port/path`.
    Url(String),
    /// A Service of the cluster.
    Service {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// One of its ports.
        port: i64,
        /// With its first slash; may be empty.
        path: String,
    },
}

impl ClientConfig {
    /// From a `WebhookClientConfig`.
    pub fn of(config: &Value) -> Self {
        use base64::Engine;
        let ca = config.str_at("/caBundle").unwrap_or_default();
        let place = match config.str_at("/url") {
            Some(url) => Place::Url(url.to_owned()),
            None => {
                let text = |member: &str| config.str_at(&format!("/service/{member}")).unwrap_or_default().to_owned();
                let path = match text("path") {
                    path if path.is_empty() || path.starts_with('/') => path,
                    path => format!("/{path}"),
                };
                let port = config.int_at("/service/port").unwrap_or(PORT_DEFAULT);
                Place::Service { namespace: text("namespace"), name: text("name"), port, path }
            }
        };
        // What is no base64 did not pass the wire table.
        Self { place, ca: base64::engine::general_purpose::STANDARD.decode(ca).unwrap_or_default() }
    }
}

/// `RuleWithOperations`.
#[derive(Debug)]
struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
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

impl Hook {
    /// The hooks of a configuration, in its order.
    pub fn all(configuration: &Object) -> Vec<Self> {
        let value = configuration.value();
        let config = &configuration.meta.name;
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let hooks = value.items_at("/webhooks").iter();
        hooks
            .map(|w| {
                let name = w.str_at("/name").unwrap_or_default().to_owned();
                let nth = seen.entry(name.clone()).or_default();
                *nth += 1;
                Self::of(w, format!("{config}/{name}/{nth}"), name)
            })
            .collect()
    }

    fn of(w: &Value, id: String, name: String) -> Self {
        let text = |member: &str| w.str_at(&format!("/{member}")).unwrap_or_default();
        // Stored selectors were validated; one that is not understood selects nothing that could be let through.
        let selector = |member: &str| {
            w.get(member).map_or_else(Selector::everything, |s| Selector::from_label_selector(s).unwrap_or_default())
        };
        let known = ["v1", "v1beta1"];
        let version =
            w.items_at("/admissionReviewVersions").iter().filter_map(Value::as_str).find(|v| known.contains(v));
        Self {
            id,
            name,
            ignores_failure: text("failurePolicy") == "Ignore",
            exact: text("matchPolicy") == "Exact",
            reinvoked: text("reinvocationPolicy") == "IfNeeded",
            dry_run: matches!(text("sideEffects"), "None" | "NoneOnDryRun"),
            timeout: Duration::from_secs(w.int_at("/timeoutSeconds").unwrap_or(TIMEOUT_DEFAULT).max(1) as u64),
            version: version.unwrap_or("v1").to_owned(),
            client: ClientConfig::of(&w["clientConfig"]),
            namespaces: selector("namespaceSelector"),
            objects: selector("objectSelector"),
            rules: w.items_at("/rules").iter().map(Rule::of).collect(),
        }
    }

    /// Whether the hook is about this request, and then by which group and version its rules name the resource.
    ///
    /// `others` are the versions in which the same objects are served besides the request's, in order;
    /// `namespace_labels` finds the labels of the namespace that the request is in.
    ///
    /// # Errors
    /// 404 when the namespace does not exist.
    pub fn matches(
        &self,
        a: &Attributes<'_>,
        others: &[GroupVersion],
        namespace_labels: impl FnOnce() -> Option<Value>,
    ) -> ApiResult<Option<GroupVersion>> {
        // Nobody may lock the cluster's door from the inside.
        if &*a.gvk.group == "admissionregistration.k8s.io" {
            return Ok(None);
        }
        let Some(found) = self.matched_version(a, others) else { return Ok(None) };
        if !self.objects.is_empty() && ![a.new, a.old].into_iter().flatten().any(|o| selects(&self.objects, o)) {
            return Ok(None);
        }
        let is_namespace = a.gvk.group.is_empty() && a.resource == "namespaces";
        if self.namespaces.is_empty() || a.namespace.is_empty() && !is_namespace {
            return Ok(Some(found));
        }
        let labels = match a.new {
            Some(new) if is_namespace && a.subresource.is_empty() && a.operation != "DELETE" => {
                new.pointer("/metadata/labels").cloned().unwrap_or_default()
            }
            _ => namespace_labels().ok_or_else(|| Status::not_found("", "namespaces", a.namespace))?,
        };
        Ok(self.namespaces.matches_value(Some(&labels)).then_some(found))
    }

    fn matched_version(&self, a: &Attributes<'_>, others: &[GroupVersion]) -> Option<GroupVersion> {
        let own = (a.gvk.group.to_string(), a.gvk.version.to_string());
        if self.rules.iter().any(|r| r.matches(a, &own)) {
            return Some(own);
        }
        let others = if self.exact { &[] } else { others };
        // Rules are gone through in their order, and for each the versions in theirs.
        self.rules.iter().find_map(|r| others.iter().find(|v| r.matches(a, v)).cloned())
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

    fn hook(edit: Value) -> Hook {
        let mut hook = json!({
            "name": "a.b.c", "admissionReviewVersions": ["v2", "v1beta1", "v1"], "clientConfig": {"url": "https://h"},
            "rules": [{"operations": ["CREATE"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"]}],
        });
        for (key, value) in edit.as_object().unwrap() {
            hook[key] = value.clone();
        }
        Hook::of(&hook, "x/a.b.c/1".into(), "a.b.c".into())
    }

    fn ask(
        hook: &Hook,
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
            subresource: parts.get(3).unwrap_or(&""),
            operation,
            namespace,
            new: Some(object),
            old: None,
        };
        let others = [(gvk.group.to_string(), "v9".to_owned())];
        hook.matches(&a, &others, || (namespace == "n").then(|| json!({"in": "n"})))
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

    #[test]
    fn what_a_configuration_says_and_does_not() {
        let some = hook(
            json!({"sideEffects": "NoneOnDryRun", "clientConfig": {"caBundle": "YQ==", "service": {"namespace": "n", "name": "s", "path": "p"}}}),
        );
        assert_eq!(
            (some.version.as_str(), some.timeout, some.dry_run, some.reinvoked),
            ("v1beta1", Duration::from_secs(10), true, false)
        );
        let place = Place::Service { namespace: "n".into(), name: "s".into(), port: 443, path: "/p".into() };
        assert_eq!(some.client, ClientConfig { place, ca: b"a".to_vec() });
    }
}
