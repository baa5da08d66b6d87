//! What a webhook configuration says, read once.
//!
//! In: stored configurations. Out: the hooks in the order they are called. Nothing here does IO.
//!
//! Rules: upstream `apiserver/pkg/admission/plugin/webhook/generic`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::admission::matching::Matcher;
use crate::admission::policy::compiled::Conditions;
use crate::api::object::Object;
use crate::api::value::ValueExt;
use crate::registry::admissionregistration::expressions;
use crate::registry::outward::ClientConfig;

/// How long a webhook may take when it does not say.
const TIMEOUT_DEFAULT: i64 = 10;

/// One webhook of one configuration.
#[derive(Debug)]
pub struct Hook {
    /// Name of the configuration and of the webhook: `config/hook`, one for each hook of a configuration.
    pub id: String,
    /// Its own name, as errors have it.
    pub name: String,
    /// A failed call lets the request go on.
    pub ignores_failure: bool,
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
    /// Which requests it is asked about.
    pub matcher: Matcher,
    /// Its `matchConditions`.
    pub conditions: Conditions,
}

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
        let known = ["v1", "v1beta1"];
        let version =
            w.items_at("/admissionReviewVersions").iter().filter_map(Value::as_str).find(|v| known.contains(v));
        Self {
            id,
            name,
            ignores_failure: text("failurePolicy") == "Ignore",
            reinvoked: text("reinvocationPolicy") == "IfNeeded",
            dry_run: matches!(text("sideEffects"), "None" | "NoneOnDryRun"),
            timeout: Duration::from_secs(w.int_at("/timeoutSeconds").unwrap_or(TIMEOUT_DEFAULT).max(1) as u64),
            version: version.unwrap_or("v1").to_owned(),
            client: ClientConfig::of(&w["clientConfig"]),
            matcher: Matcher::new(w, "rules"),
            conditions: Conditions::new(w, &expressions::webhook()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registry::outward::{Place, ServicePort};

    #[test]
    fn what_a_configuration_says_and_does_not() {
        let stored = json!({
            "admissionReviewVersions": ["v2", "v1beta1", "v1"], "sideEffects": "NoneOnDryRun",
            "clientConfig": {"caBundle": "YQ==", "service": {"namespace": "n", "name": "s", "path": "p"}},
        });
        let some = Hook::of(&stored, "x/a.b.c/1".into(), "a.b.c".into());
        assert_eq!(
            (some.version.as_str(), some.timeout, some.dry_run, some.reinvoked),
            ("v1beta1", Duration::from_secs(10), true, false)
        );
        let service = ServicePort { namespace: "n".into(), name: "s".into(), port: 443 };
        let place = Place::Service { service, path: "/p".into() };
        assert_eq!(some.client, ClientConfig { place, ca: b"a".to_vec() });
    }
}
