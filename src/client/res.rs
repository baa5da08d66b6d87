//! Which resource a request is for: what the path needs, and nothing else.

use std::borrow::Cow;
use std::fmt::Write;

use crate::api::meta::gvk::{self, Str};

/// A resource of the API, as paths name it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Res {
    /// API group, empty for core.
    pub group: Str,
    /// Version, as `v1`.
    pub version: Str,
    /// Plural name, as `pods`.
    pub plural: Str,
    /// Kind, as `Pod`.
    pub kind: Str,
    /// True when objects live in a namespace.
    pub namespaced: bool,
}

impl Res {
    /// `Deployment.apps`, as Go's clients name a kind.
    pub fn group_kind(&self) -> String {
        if self.group.is_empty() { self.kind.to_string() } else { format!("{}.{}", self.kind, self.group) }
    }

    /// A static one.
    pub const fn new(
        group: &'static str,
        version: &'static str,
        plural: &'static str,
        kind: &'static str,
        namespaced: bool,
    ) -> Self {
        Self {
            group: Cow::Borrowed(group),
            version: Cow::Borrowed(version),
            plural: Cow::Borrowed(plural),
            kind: Cow::Borrowed(kind),
            namespaced,
        }
    }

    /// `group/version`, or `version` for core.
    pub fn api_version(&self) -> String {
        gvk::join(&self.group, &self.version)
    }

    /// The path of the collection in `namespace`; an empty namespace (or a cluster-scoped kind) means the whole cluster.
    pub fn collection(&self, namespace: &str) -> String {
        let mut path = match &*self.group {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        };
        if self.namespaced && !namespace.is_empty() {
            path.push_str("/namespaces/");
            encode(&mut path, namespace);
        }
        path.push('/');
        path.push_str(&self.plural);
        path
    }

    /// The path of an object, or of one of its subresources.
    pub fn object(&self, namespace: &str, name: &str, subresource: Option<&str>) -> String {
        let mut path = self.collection(namespace);
        path.push('/');
        encode(&mut path, name);
        if let Some(sub) = subresource {
            path.push('/');
            path.push_str(sub);
        }
        path
    }
}

/// Appends `text` with all that is not unreserved percent-encoded (RFC 3986 §2.3).
pub(crate) fn encode(out: &mut String, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte as char),
            _ => write!(out, "%{byte:02X}").expect("writing to a String cannot fail"),
        }
    }
}

macro_rules! rows {
    ($($name:ident = $group:literal $version:literal $plural:literal $kind:literal $namespaced:literal;)*) => {
        $(#[doc = concat!("`", $plural, "`")] pub static $name: Res = Res::new($group, $version, $plural, $kind, $namespaced);)*

        /// All of the above.
        pub static ALL: &[&Res] = &[$(&$name),*];
    };
}

rows! {
    NAMESPACES = "" "v1" "namespaces" "Namespace" false;
    NODES = "" "v1" "nodes" "Node" false;
    PERSISTENT_VOLUMES = "" "v1" "persistentvolumes" "PersistentVolume" false;
    PODS = "" "v1" "pods" "Pod" true;
    SERVICES = "" "v1" "services" "Service" true;
    SERVICE_CIDRS = "networking.k8s.io" "v1" "servicecidrs" "ServiceCIDR" false;
    IP_ADDRESSES = "networking.k8s.io" "v1" "ipaddresses" "IPAddress" false;
    ENDPOINTS = "" "v1" "endpoints" "Endpoints" true;
    EVENTS = "" "v1" "events" "Event" true;
    CONFIG_MAPS = "" "v1" "configmaps" "ConfigMap" true;
    SECRETS = "" "v1" "secrets" "Secret" true;
    RESOURCE_QUOTAS = "" "v1" "resourcequotas" "ResourceQuota" true;
    LIMIT_RANGES = "" "v1" "limitranges" "LimitRange" true;
    SERVICE_ACCOUNTS = "" "v1" "serviceaccounts" "ServiceAccount" true;
    PERSISTENT_VOLUME_CLAIMS = "" "v1" "persistentvolumeclaims" "PersistentVolumeClaim" true;
    REPLICATION_CONTROLLERS = "" "v1" "replicationcontrollers" "ReplicationController" true;
    DEPLOYMENTS = "apps" "v1" "deployments" "Deployment" true;
    REPLICA_SETS = "apps" "v1" "replicasets" "ReplicaSet" true;
    STATEFUL_SETS = "apps" "v1" "statefulsets" "StatefulSet" true;
    DAEMON_SETS = "apps" "v1" "daemonsets" "DaemonSet" true;
    CONTROLLER_REVISIONS = "apps" "v1" "controllerrevisions" "ControllerRevision" true;
    JOBS = "batch" "v1" "jobs" "Job" true;
    CRON_JOBS = "batch" "v1" "cronjobs" "CronJob" true;
    HORIZONTAL_POD_AUTOSCALERS = "autoscaling" "v2" "horizontalpodautoscalers" "HorizontalPodAutoscaler" true;
    POD_DISRUPTION_BUDGETS = "policy" "v1" "poddisruptionbudgets" "PodDisruptionBudget" true;
    INGRESSES = "networking.k8s.io" "v1" "ingresses" "Ingress" true;
    INGRESS_CLASSES = "networking.k8s.io" "v1" "ingressclasses" "IngressClass" false;
    NETWORK_POLICIES = "networking.k8s.io" "v1" "networkpolicies" "NetworkPolicy" true;
    VOLUME_ATTRIBUTES_CLASSES = "storage.k8s.io" "v1" "volumeattributesclasses" "VolumeAttributesClass" false;
    STORAGE_CLASSES = "storage.k8s.io" "v1" "storageclasses" "StorageClass" false;
    CSI_NODES = "storage.k8s.io" "v1" "csinodes" "CSINode" false;
    CSI_DRIVERS = "storage.k8s.io" "v1" "csidrivers" "CSIDriver" false;
    VOLUME_ATTACHMENTS = "storage.k8s.io" "v1" "volumeattachments" "VolumeAttachment" false;
    PRIORITY_CLASSES = "scheduling.k8s.io" "v1" "priorityclasses" "PriorityClass" false;
    RUNTIME_CLASSES = "node.k8s.io" "v1" "runtimeclasses" "RuntimeClass" false;
    CUSTOM_RESOURCE_DEFINITIONS = "apiextensions.k8s.io" "v1" "customresourcedefinitions" "CustomResourceDefinition" false;
    LEASES = "coordination.k8s.io" "v1" "leases" "Lease" true;
    ENDPOINT_SLICES = "discovery.k8s.io" "v1" "endpointslices" "EndpointSlice" true;
    RESOURCE_CLAIMS = "resource.k8s.io" "v1" "resourceclaims" "ResourceClaim" true;
    RESOURCE_CLAIM_TEMPLATES = "resource.k8s.io" "v1" "resourceclaimtemplates" "ResourceClaimTemplate" true;
    RESOURCE_SLICES = "resource.k8s.io" "v1" "resourceslices" "ResourceSlice" false;
    CLUSTER_ROLES = "rbac.authorization.k8s.io" "v1" "clusterroles" "ClusterRole" false;
    CLUSTER_ROLE_BINDINGS = "rbac.authorization.k8s.io" "v1" "clusterrolebindings" "ClusterRoleBinding" false;
    ROLES = "rbac.authorization.k8s.io" "v1" "roles" "Role" true;
    ROLE_BINDINGS = "rbac.authorization.k8s.io" "v1" "rolebindings" "RoleBinding" true;
    CERTIFICATE_SIGNING_REQUESTS = "certificates.k8s.io" "v1" "certificatesigningrequests" "CertificateSigningRequest" false;
    SUBJECT_ACCESS_REVIEWS = "authorization.k8s.io" "v1" "subjectaccessreviews" "SubjectAccessReview" false;
    TOKEN_REVIEWS = "authentication.k8s.io" "v1" "tokenreviews" "TokenReview" false;
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case(&PODS, "a", "x", None, "/api/v1/namespaces/a/pods/x")]
    #[test_case(&NODES, "ignored", "n", Some("status"), "/api/v1/nodes/n/status")]
    #[test_case(&DEPLOYMENTS, "a", "d", Some("scale"), "/apis/apps/v1/namespaces/a/deployments/d/scale")]
    #[test_case(&CLUSTER_ROLES, "", "system:node", None, "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode")]
    #[test_case(&PODS, "a", "../b", None, "/api/v1/namespaces/a/pods/..%2Fb"; "a name cannot leave its place")]
    fn object_paths(res: &Res, ns: &str, name: &str, sub: Option<&str>, want: &str) {
        assert_eq!(res.object(ns, name, sub), want);
    }

    #[test]
    fn an_empty_namespace_is_the_whole_cluster() {
        assert_eq!(PODS.collection(""), "/api/v1/pods");
    }
}
