//! Pods and nodes as their JSON has them: only the fields that scheduling looks at.

use serde::Deserialize;
use serde_json::Value;

use super::resources::RawList;

macro_rules! raw {
    ($($(#[$doc:meta])* $name:ident { $($(#[$attr:meta])* $field:ident : $ty:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Default, Clone, Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        pub struct $name { $($(#[$attr])* pub(super) $field: $ty),* }
    )*};
}

raw! {
    Pod { spec: PodSpec, status: PodStatus }
    PodSpec {
        node_name: String, scheduler_name: String, priority: i32, preemption_policy: String,
        node_selector: std::collections::BTreeMap<String, String>, containers: Vec<Container>,
        init_containers: Vec<Container>, overhead: RawList, resources: ResourceNeeds, tolerations: Vec<Toleration>,
        affinity: Affinity, topology_spread_constraints: Vec<Spread>, scheduling_gates: Vec<Value>,
        host_network: bool, volumes: Vec<Value>, resource_claims: Vec<DeviceClaim>,
    }
    PodStatus { phase: String, nominated_node_name: String, start_time: String, container_statuses: Vec<ContainerStatus>,
        init_container_statuses: Vec<ContainerStatus>, resource_claim_statuses: Vec<DeviceClaim>,
        resources: Option<ResourceNeeds>, allocated_resources: RawList }
    DeviceClaim { name: String, resource_claim_name: Option<String>, resource_claim_template_name: Option<String> }
    ContainerStatus { name: String, allocated_resources: RawList, resources: Option<ResourceNeeds> }
    Container { name: String, image: String, resources: ResourceNeeds, ports: Vec<Port>, restart_policy: String,
        restart_policy_rules: Vec<RestartRule> }
    RestartRule { action: String }
    ResourceNeeds { requests: RawList }
    Port { host_port: i32, protocol: String, #[serde(rename = "hostIP")] host_ip: String }
    Toleration { key: String, operator: String, value: String, effect: String }
    Affinity { node_affinity: NodeAffinity, pod_affinity: PodAffinity, pod_anti_affinity: PodAffinity }
    NodeAffinity {
        required_during_scheduling_ignored_during_execution: Option<NodeSelector>,
        preferred_during_scheduling_ignored_during_execution: Vec<PreferredNode>,
    }
    NodeSelector { node_selector_terms: Vec<NodeTerm> }
    PreferredNode { weight: i64, preference: NodeTerm }
    NodeTerm { match_expressions: Vec<Expression>, match_fields: Vec<Expression> }
    Expression { key: String, operator: String, values: Vec<String> }
    PodAffinity {
        required_during_scheduling_ignored_during_execution: Vec<PodTerm>,
        preferred_during_scheduling_ignored_during_execution: Vec<PreferredPod>,
    }
    PreferredPod { weight: i64, pod_affinity_term: PodTerm }
    PodTerm {
        label_selector: Option<Value>, namespace_selector: Option<Value>, namespaces: Vec<String>, topology_key: String,
    }
    Spread {
        max_skew: i64, topology_key: String, when_unsatisfiable: String, label_selector: Option<Value>,
        min_domains: Option<i64>, node_affinity_policy: String, node_taints_policy: String, match_label_keys: Vec<String>,
    }
    Node { spec: NodeSpec, status: NodeStatus }
    NodeSpec { unschedulable: bool, taints: Vec<Taint> }
    Taint { key: String, value: String, effect: String }
    NodeStatus { allocatable: RawList, images: Vec<Image>, declared_features: Vec<String> }
    Image { names: Vec<String>, size_bytes: i64 }
}
