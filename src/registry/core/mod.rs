//! Kinds of the API group `core`.

use crate::api::meta::Gvk;
use crate::api::scheme::{KindInfo, SCALE, STATUS, STATUS_ONLY, Selectable, Subresource, Verbs};
use crate::registry::Resource;
use crate::registry::strategy::{Common, Generation};

const EVENT_FIELDS: &[Selectable] = &[
    Selectable::new("involvedObject.kind", "/involvedObject/kind"),
    Selectable::new("involvedObject.namespace", "/involvedObject/namespace"),
    Selectable::new("involvedObject.name", "/involvedObject/name"),
    Selectable::new("involvedObject.uid", "/involvedObject/uid"),
    Selectable::new("involvedObject.apiVersion", "/involvedObject/apiVersion"),
    Selectable::new("involvedObject.resourceVersion", "/involvedObject/resourceVersion"),
    Selectable::new("involvedObject.fieldPath", "/involvedObject/fieldPath"),
    Selectable::new("reason", "/reason"),
    Selectable::new("reportingComponent", "/reportingComponent"),
    Selectable::new("source", "/source/component"),
    Selectable::new("type", "/type"),
];

const NAMESPACE_SUBRESOURCES: &[Subresource] = &[Subresource::own("finalize", Verbs::UPDATE), STATUS];

const NAMESPACE_FIELDS: &[Selectable] = &[Selectable::new("status.phase", "/status/phase")];

const NODE_SUBRESOURCES: &[Subresource] = &[
    Subresource::of(
        "proxy",
        Verbs::CREATE.and(Verbs::DELETE).and(Verbs::GET).and(Verbs::PATCH).and(Verbs::UPDATE),
        Gvk::new("", "v1", "NodeProxyOptions"),
    ),
    STATUS,
];

const NODE_FIELDS: &[Selectable] = &[Selectable::or("spec.unschedulable", "/spec/unschedulable", "false")];

const POD_SUBRESOURCES: &[Subresource] = &[
    Subresource::of("attach", Verbs::CREATE.and(Verbs::GET), Gvk::new("", "v1", "PodAttachOptions")),
    Subresource::of("binding", Verbs::CREATE, Gvk::new("", "v1", "Binding")),
    Subresource::own("ephemeralcontainers", Verbs::STATUS),
    Subresource::of("eviction", Verbs::CREATE, Gvk::new("policy", "v1", "Eviction")),
    Subresource::of("exec", Verbs::CREATE.and(Verbs::GET), Gvk::new("", "v1", "PodExecOptions")),
    Subresource::own("log", Verbs::GET),
    Subresource::of("portforward", Verbs::CREATE.and(Verbs::GET), Gvk::new("", "v1", "PodPortForwardOptions")),
    Subresource::of(
        "proxy",
        Verbs::CREATE.and(Verbs::DELETE).and(Verbs::GET).and(Verbs::PATCH).and(Verbs::UPDATE),
        Gvk::new("", "v1", "PodProxyOptions"),
    ),
    Subresource::own("resize", Verbs::STATUS),
    STATUS,
];

const POD_FIELDS: &[Selectable] = &[
    Selectable::new("spec.nodeName", "/spec/nodeName"),
    Selectable::new("spec.restartPolicy", "/spec/restartPolicy"),
    Selectable::new("spec.schedulerName", "/spec/schedulerName"),
    Selectable::new("spec.serviceAccountName", "/spec/serviceAccountName"),
    Selectable::or("spec.hostNetwork", "/spec/hostNetwork", "false"),
    Selectable::new("status.phase", "/status/phase"),
    Selectable::new("status.podIP", "/status/podIP"),
    Selectable::new("status.nominatedNodeName", "/status/nominatedNodeName"),
];

const REPLICATIONCONTROLLER_SUBRESOURCES: &[Subresource] = &[SCALE, STATUS];

const REPLICATIONCONTROLLER_FIELDS: &[Selectable] = &[Selectable::or("status.replicas", "/status/replicas", "0")];

const SECRET_FIELDS: &[Selectable] = &[Selectable::new("type", "/type")];

const SERVICEACCOUNT_SUBRESOURCES: &[Subresource] =
    &[Subresource::of("token", Verbs::CREATE, Gvk::new("authentication.k8s.io", "v1", "TokenRequest"))];

const SERVICE_SUBRESOURCES: &[Subresource] = &[
    Subresource::of(
        "proxy",
        Verbs::CREATE.and(Verbs::DELETE).and(Verbs::GET).and(Verbs::PATCH).and(Verbs::UPDATE),
        Gvk::new("", "v1", "ServiceProxyOptions"),
    ),
    STATUS,
];

const SERVICE_FIELDS: &[Selectable] =
    &[Selectable::new("spec.clusterIP", "/spec/clusterIP"), Selectable::new("spec.type", "/spec/type")];

/// The rows of this group.
pub fn kinds() -> Vec<Resource> {
    vec![
        Resource::new(
            KindInfo::namespaced("", "v1", "Binding", "bindings", "binding").verbs(Verbs::CREATE),
            Box::new(Common::NONE),
        ),
        Resource::new(
            KindInfo::cluster("", "v1", "ComponentStatus", "componentstatuses", "componentstatus")
                .short(&["cs"])
                .verbs(Verbs::GET.and(Verbs::LIST)),
            Box::new(Common::NONE),
        ),
        Resource::new(
            KindInfo::namespaced("", "v1", "ConfigMap", "configmaps", "configmap").short(&["cm"]),
            Box::new(Common::NONE),
        ),
        Resource::new(
            KindInfo::namespaced("", "v1", "Endpoints", "endpoints", "endpoints").short(&["ep"]),
            Box::new(Common::NONE),
        ),
        Resource::new(
            KindInfo::namespaced("", "v1", "Event", "events", "event").short(&["ev"]).selectable(EVENT_FIELDS),
            Box::new(Common::NONE),
        ),
        Resource::new(
            KindInfo::namespaced("", "v1", "LimitRange", "limitranges", "limitrange").short(&["limits"]),
            Box::new(Common::NONE),
        ),
        Resource::new(
            KindInfo::cluster("", "v1", "Namespace", "namespaces", "namespace")
                .short(&["ns"])
                .verbs(Verbs::ALL.without(Verbs::DELETE_COLLECTION))
                .subresources(NAMESPACE_SUBRESOURCES)
                .selectable(NAMESPACE_FIELDS),
            Box::new(Common::NONE),
        ),
        Resource::new(
            KindInfo::cluster("", "v1", "Node", "nodes", "node")
                .short(&["no"])
                .subresources(NODE_SUBRESOURCES)
                .selectable(NODE_FIELDS),
            Box::new(Common::NONE),
        ),
        Resource::new(
            KindInfo::namespaced("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", "persistentvolumeclaim")
                .short(&["pvc"])
                .subresources(STATUS_ONLY),
            Box::new(Common::NONE.returns_deleted()),
        ),
        Resource::new(
            KindInfo::cluster("", "v1", "PersistentVolume", "persistentvolumes", "persistentvolume")
                .short(&["pv"])
                .subresources(STATUS_ONLY),
            Box::new(Common::NONE.returns_deleted()),
        ),
        Resource::new(
            KindInfo::namespaced("", "v1", "Pod", "pods", "pod")
                .short(&["po"])
                .categories(&["all"])
                .subresources(POD_SUBRESOURCES)
                .selectable(POD_FIELDS),
            Box::new(Common::NONE.generation(Generation::Spec).returns_deleted()),
        ),
        Resource::new(
            KindInfo::namespaced("", "v1", "PodTemplate", "podtemplates", "podtemplate"),
            Box::new(Common::NONE.generation(Generation::Content).returns_deleted()),
        ),
        Resource::new(
            KindInfo::namespaced("", "v1", "ReplicationController", "replicationcontrollers", "replicationcontroller")
                .short(&["rc"])
                .categories(&["all"])
                .subresources(REPLICATIONCONTROLLER_SUBRESOURCES)
                .selectable(REPLICATIONCONTROLLER_FIELDS),
            Box::new(Common::NONE.generation(Generation::Spec)),
        ),
        Resource::new(
            KindInfo::namespaced("", "v1", "ResourceQuota", "resourcequotas", "resourcequota")
                .short(&["quota"])
                .subresources(STATUS_ONLY),
            Box::new(Common::NONE.returns_deleted()),
        ),
        Resource::new(
            KindInfo::namespaced("", "v1", "Secret", "secrets", "secret").selectable(SECRET_FIELDS),
            Box::new(Common::NONE),
        ),
        Resource::new(
            KindInfo::namespaced("", "v1", "ServiceAccount", "serviceaccounts", "serviceaccount")
                .short(&["sa"])
                .subresources(SERVICEACCOUNT_SUBRESOURCES),
            Box::new(Common::NONE.returns_deleted()),
        ),
        Resource::new(
            KindInfo::namespaced("", "v1", "Service", "services", "service")
                .short(&["svc"])
                .categories(&["all"])
                .subresources(SERVICE_SUBRESOURCES)
                .selectable(SERVICE_FIELDS),
            Box::new(Common::NONE.returns_deleted()),
        ),
    ]
}
