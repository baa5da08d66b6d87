//! Policy rules in compiled form: what one allows, what a set of them covers.
//!
//! Rules: upstream `pkg/registry/rbac/validation` and `pkg/apis/rbac/v1/evaluation_helpers`.

use serde_json::{Map, Value, json};

use crate::api::user::Attributes;
use crate::api::value::ValueExt;

const ALL: &str = "*";

type Texts = Box<[Box<str>]>;

/// A `PolicyRule`, decoded once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rule {
    /// Verbs, or `*`.
    pub verbs: Texts,
    /// API groups (empty for core), or `*`.
    pub groups: Texts,
    /// `pods`, `pods/log`, `*/scale`, or `*`.
    pub resources: Texts,
    /// Names; empty for all.
    pub names: Texts,
    /// Paths of requests that are for no resource; a `*` at the end matches the rest.
    pub urls: Texts,
}

const FIELDS: [&str; 5] = ["verbs", "apiGroups", "resources", "resourceNames", "nonResourceURLs"];

impl Rule {
    /// From its JSON.
    pub fn from_value(rule: &Value) -> Self {
        let texts = |field: &str| -> Texts {
            let items = rule.get(field).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            items.iter().filter_map(|v| v.as_str().map(Into::into)).collect()
        };
        let [verbs, groups, resources, names, urls] = FIELDS.map(texts);
        Self { verbs, groups, resources, names, urls }
    }

    /// All of an object's rules.
    pub fn list(object: &Value) -> Box<[Self]> {
        object.items_at("/rules").iter().map(Self::from_value).collect()
    }

    /// To JSON; empty lists are left out.
    pub fn to_value(&self) -> Value {
        let mut out = Map::new();
        for (field, texts) in FIELDS.iter().zip([&self.verbs, &self.groups, &self.resources, &self.names, &self.urls]) {
            if !texts.is_empty() {
                out.insert((*field).into(), json!(texts));
            }
        }
        Value::Object(out)
    }

    /// True when the rule allows the request.
    pub fn allows(&self, a: &Attributes) -> bool {
        if !has(&self.verbs, &a.verb) {
            return false;
        }
        if !a.is_resource() {
            return self.urls.iter().any(|url| url_matches(url, &a.path));
        }
        has(&self.groups, &a.group)
            && self.resources.iter().any(|r| resource_matches(r, &a.resource, &a.subresource))
            && (self.names.is_empty() || self.names.iter().any(|n| **n == *a.name))
    }

    /// Rules of one verb, group, resource and name (or URL) each, which together say the same.
    fn broken_down(&self) -> Vec<Rule> {
        let one = |text: &str| -> Texts { Box::new([text.into()]) };
        let mut out = Vec::new();
        let resources = self.groups.iter().flat_map(|g| self.resources.iter().map(move |r| (g, r)));
        for (group, resource) in resources {
            for verb in &self.verbs {
                let rule = |names| Rule {
                    verbs: one(verb),
                    groups: one(group),
                    resources: one(resource),
                    names,
                    ..Rule::default()
                };
                match self.names.is_empty() {
                    true => out.push(rule(Texts::default())),
                    false => out.extend(self.names.iter().map(|n| rule(one(n)))),
                }
            }
        }
        let urls = self.urls.iter().flat_map(|u| self.verbs.iter().map(move |v| (u, v)));
        out.extend(urls.map(|(url, verb)| Rule { verbs: one(verb), urls: one(url), ..Rule::default() }));
        out
    }

    /// True when the rule grants all that `other`, a broken-down one, does.
    fn covers(&self, other: &Rule) -> bool {
        other.verbs.iter().all(|v| has(&self.verbs, v))
            && other.groups.iter().all(|g| has(&self.groups, g))
            && other.resources.iter().all(|r| self.covers_resource(r))
            && other.urls.iter().all(|u| self.urls.iter().any(|mine| url_matches(mine, u)))
            && (self.names.is_empty() || !other.names.is_empty() && other.names.iter().all(|n| self.names.contains(n)))
    }

    fn covers_resource(&self, wanted: &str) -> bool {
        let (resource, subresource) = wanted.split_once('/').unwrap_or((wanted, ""));
        self.resources.iter().any(|mine| resource_matches(mine, resource, subresource))
    }
}

impl std::fmt::Display for Rule {
    /// As upstream's `CompactString`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = [
            ("APIGroups", &self.groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.urls),
            ("ResourceNames", &self.names),
            ("Verbs", &self.verbs),
        ];
        let told: Vec<String> = parts
            .iter()
            .filter(|(_, texts)| !texts.is_empty())
            .map(|(name, texts)| format!("{name}:{}", quoted(texts.iter().map(|t| &**t))))
            .collect();
        write!(f, "{{{}}}", told.join(", "))
    }
}

/// Texts as Go prints a list of quoted strings: `["a" "b"]`.
pub fn quoted<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    format!("[{}]", texts.map(|t| format!("{t:?}")).collect::<Vec<_>>().join(" "))
}

fn has(texts: &[Box<str>], wanted: &str) -> bool {
    texts.iter().any(|t| **t == *ALL || **t == *wanted)
}

/// `pods/*` matches nothing but itself: upstream has only `*/subresource`.
fn resource_matches(rule: &str, resource: &str, subresource: &str) -> bool {
    match rule.split_once('/') {
        None => rule == ALL || (rule == resource && subresource.is_empty()),
        Some((r, s)) => s == subresource && !subresource.is_empty() && (r == resource || r == ALL),
    }
}

fn url_matches(rule: &str, path: &str) -> bool {
    rule == path || rule.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix.trim_end_matches('*')))
}

/// What of `wanted` nobody who has `owner` may grant: broken-down rules, compacted to one per group, resource and
/// names. Empty when all is covered.
pub fn missing(owner: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let mut out: Vec<Rule> = Vec::new();
    for rule in wanted.iter().flat_map(Rule::broken_down).filter(|w| !owner.iter().any(|o| o.covers(w))) {
        let same = |o: &Rule| {
            (&o.groups, &o.resources, &o.names, &o.urls) == (&rule.groups, &rule.resources, &rule.names, &rule.urls)
        };
        match out.iter_mut().find(|o| same(o)) {
            Some(known) if known.verbs.contains(&rule.verbs[0]) => {}
            Some(known) => known.verbs = known.verbs.iter().chain(&rule.verbs).cloned().collect(),
            None => out.push(rule),
        }
    }
    out
}
