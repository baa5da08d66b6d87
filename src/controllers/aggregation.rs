//! ClusterRoles with an `aggregationRule`: their rules are those of the ClusterRoles that it selects.
//!
//! Rule: upstream `pkg/controller/clusterroleaggregation`.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};

use crate::api::meta::labels::Selector;
use crate::api::object::{Object, ObjectKey};
use crate::api::scan;
use crate::api::value::ValueExt;
use crate::client::{Patch, res};
use crate::runtime::{Cx, Error, Reconciler, Requeue, Watches};

/// The controller.
pub struct Aggregation;

/// For the list of controllers.
pub fn controller() -> Box<dyn Reconciler> {
    Box::new(Aggregation)
}

/// Who the rules belong to.
const MANAGER: &str = "clusterrole-aggregation-controller";

/// The rules of the roles that each selector selects, one selector after the other, each rule once. `roles` are in the order
/// of their names. Rule: upstream `syncClusterRole`.
pub fn aggregate(name: &str, selectors: &[Value], roles: &[Arc<Object>]) -> Vec<Value> {
    let mut rules: Vec<Value> = Vec::new();
    for selector in selectors.iter().filter_map(|s| Selector::from_label_selector(s).ok()) {
        for role in roles.iter().filter(|r| r.meta.name != name && selector.matches(|k| r.meta.label(k))) {
            for rule in role.only(&["rules"]).items_at("/rules") {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    rules
}

#[async_trait]
impl Reconciler for Aggregation {
    fn name(&self) -> &'static str {
        MANAGER
    }

    fn watches(&self) -> Watches {
        Watches::own(&res::CLUSTER_ROLES).mapped(&res::CLUSTER_ROLES, |_, cx| {
            let mut all = cx.lister(&res::CLUSTER_ROLES).list(None);
            all.retain(|r| scan::find(&r.json, 0, "aggregationRule").is_some());
            all.iter().map(|r| ObjectKey::from(&r.meta)).collect()
        })
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        let Some(object) = cx.get(&res::CLUSTER_ROLES, key).filter(|o| !o.is_deleting()) else {
            return Ok(Requeue::Never);
        };
        let role = object.value();
        let Some(selectors) = role.get_at("/aggregationRule") else { return Ok(Requeue::Never) };
        let all = cx.lister(&res::CLUSTER_ROLES).list(None);
        let rules = aggregate(&key.name, selectors.items_at("/clusterRoleSelectors"), &all);
        if rules != role.items_at("/rules") {
            let body = json!({"apiVersion": res::CLUSTER_ROLES.api_version(), "kind": res::CLUSTER_ROLES.kind,
                "metadata": {"name": key.name}, "rules": rules});
            let patch = Patch::Apply { body: &body, manager: MANAGER, force: true };
            // Apply would make a role anew that was deleted meanwhile; this controller's own rights do not let it.
            cx.client.patch(&res::CLUSTER_ROLES, "", &key.name, None, patch).await?;
        }
        Ok(Requeue::Never)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::fake::Cluster;
    use test_case::test_case;

    /// Each role: name, its label, its rules' verbs. Then the verbs that come out, for selectors of the labels x and y.
    #[test_case(&[("a", "y", &["1"]), ("b", "x", &["2"])], &["2", "1"]; "the first selector's come first")]
    #[test_case(&[("a", "x", &["1", "1"]), ("b", "y", &["2", "1"])], &["1", "2"]; "each rule once")]
    #[test_case(&[("me", "x", &["1"]), ("b", "z", &["2"])], &[]; "neither its own nor others'")]
    fn rules(roles: &[(&str, &str, &[&str])], want: &[&str]) {
        let role = |(name, label, verbs): &(&str, &str, &[&str])| {
            let rules: Vec<Value> = verbs.iter().map(|v| json!({"verbs": [v]})).collect();
            Arc::new(Object::from_value(
                &json!({"metadata": {"name": name, "labels": {"is": label}}, "rules": rules}),
                &[],
            ))
        };
        let roles: Vec<Arc<Object>> = roles.iter().map(role).collect();
        let selectors = ["x", "y"].map(|l| json!({"matchLabels": {"is": l}}));
        let got = aggregate("me", &selectors, &roles);
        assert_eq!(got.iter().filter_map(|r| r.str_at("/verbs/0")).collect::<Vec<_>>(), want);
    }

    #[tokio::test]
    async fn a_role_has_the_rules_of_those_it_selects() {
        let cluster = Cluster::new();
        let role = |name: &str, label: &str, verb: &str| {
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
                "metadata": {"name": name, "labels": {"to": label}}, "rules": [{"verbs": [verb]}]})
        };
        let mut view = role("view", "view", "nothing");
        view["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {"to": "view"}}]});
        cluster.put(view);
        for (name, label, verb) in
            [("a", "view", "get"), ("b", "view", "list"), ("c", "edit", "update"), ("d", "view", "get")]
        {
            cluster.put(role(name, label, verb));
        }
        cluster.api.take_log();
        cluster.reconcile(&Aggregation, "", "view").await.unwrap();
        assert!(cluster.api.take_log()[0].starts_with("PATCH"), "applied, so that the rules are the manager's");
        let stored = cluster.get(&res::CLUSTER_ROLES, "", "view").unwrap();
        assert_eq!(stored["rules"], json!([{"verbs": ["get"]}, {"verbs": ["list"]}]));
        cluster.api.take_log();
        cluster.reconcile(&Aggregation, "", "view").await.unwrap();
        assert_eq!(cluster.api.take_log(), [] as [&str; 0]);
    }
}
