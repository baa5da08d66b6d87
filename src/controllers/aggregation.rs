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
use crate::client::res;
use crate::runtime::{Cx, Error, Reconciler, Requeue, Watches};

/// The controller.
pub struct Aggregation;

/// For the list of controllers.
pub fn controller() -> Box<dyn Reconciler> {
    Box::new(Aggregation)
}

/// The rules of those roles that a rule selects, each once. `roles` are in the order of their names.
pub fn aggregate(name: &str, selectors: &[Value], roles: &[Arc<Object>]) -> Vec<Value> {
    let selectors: Vec<Selector> = selectors.iter().filter_map(|s| Selector::from_label_selector(s).ok()).collect();
    let mut rules: Vec<Value> = Vec::new();
    for role in roles.iter().filter(|r| r.meta.name != name) {
        if selectors.iter().any(|s| s.matches(|k| role.meta.label(k))) {
            let role = role.value();
            let fresh: Vec<Value> = role.items_at("/rules").iter().filter(|r| !rules.contains(r)).cloned().collect();
            rules.extend(fresh);
        }
    }
    rules
}

#[async_trait]
impl Reconciler for Aggregation {
    fn name(&self) -> &'static str {
        "clusterrole-aggregation-controller"
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
            cx.change(&res::CLUSTER_ROLES, &object, None, &json!({"rules": rules})).await?;
        }
        Ok(Requeue::Never)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::fake::Cluster;

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
        cluster.reconcile(&Aggregation, "", "view").await.unwrap();
        let stored = cluster.get(&res::CLUSTER_ROLES, "", "view").unwrap();
        assert_eq!(stored["rules"], json!([{"verbs": ["get"]}, {"verbs": ["list"]}]));
        cluster.api.take_log();
        cluster.reconcile(&Aggregation, "", "view").await.unwrap();
        assert_eq!(cluster.api.take_log(), [] as [&str; 0]);
    }
}
