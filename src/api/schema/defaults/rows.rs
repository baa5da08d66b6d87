//! Plain defaults: a field that is absent gets a literal.

use super::Literal::{Bool, Empty, Int, One, Text};
use super::Row;

const fn row(structs: &'static [&'static str], fields: &'static [(&'static str, super::Literal)]) -> Row {
    Row { structs, fields }
}

/// Mode of files in volumes made from objects: 0644.
const FILE_MODE: super::Literal = Int(0o644);

pub(super) static ROWS: &[Row] = &[
    // Pods
    row(
        &["core.v1.PodSpec"],
        &[
            ("restartPolicy", Text("Always")),
            ("terminationGracePeriodSeconds", Int(30)),
            ("dnsPolicy", Text("ClusterFirst")),
            ("securityContext", Empty),
            ("schedulerName", Text("default-scheduler")),
        ],
    ),
    row(
        &["core.v1.Container", "core.v1.EphemeralContainer"],
        &[("terminationMessagePath", Text("/dev/termination-log")), ("terminationMessagePolicy", Text("File"))],
    ),
    row(
        &["core.v1.Probe"],
        &[
            ("timeoutSeconds", Int(1)),
            ("periodSeconds", Int(10)),
            ("successThreshold", Int(1)),
            ("failureThreshold", Int(3)),
        ],
    ),
    row(&["core.v1.HTTPGetAction"], &[("path", Text("/")), ("scheme", Text("HTTP"))]),
    row(&["core.v1.GRPCAction"], &[("service", Text(""))]),
    row(&["core.v1.ContainerPort", "core.v1.ServicePort", "core.v1.EndpointPort"], &[("protocol", Text("TCP"))]),
    row(&["core.v1.ObjectFieldSelector"], &[("apiVersion", Text("v1"))]),
    row(&["core.v1.FileKeySelector"], &[("optional", Bool(false))]),
    // Volumes
    row(
        &[
            "core.v1.SecretVolumeSource",
            "core.v1.ConfigMapVolumeSource",
            "core.v1.DownwardAPIVolumeSource",
            "core.v1.ProjectedVolumeSource",
        ],
        &[("defaultMode", FILE_MODE)],
    ),
    row(&["core.v1.ServiceAccountTokenProjection"], &[("expirationSeconds", Int(3600))]),
    row(&["core.v1.HostPathVolumeSource"], &[("type", Text(""))]),
    row(&["core.v1.ISCSIVolumeSource", "core.v1.ISCSIPersistentVolumeSource"], &[("iscsiInterface", Text("default"))]),
    row(
        &["core.v1.RBDVolumeSource", "core.v1.RBDPersistentVolumeSource"],
        &[("pool", Text("rbd")), ("user", Text("admin")), ("keyring", Text("/etc/ceph/keyring"))],
    ),
    row(
        &["core.v1.ScaleIOVolumeSource", "core.v1.ScaleIOPersistentVolumeSource"],
        &[("storageMode", Text("ThinProvisioned")), ("fsType", Text("xfs"))],
    ),
    row(
        &["core.v1.AzureDiskVolumeSource"],
        &[
            ("cachingMode", Text("ReadWrite")),
            ("kind", Text("Shared")),
            ("fsType", Text("ext4")),
            ("readOnly", Bool(false)),
        ],
    ),
    row(&["core.v1.PersistentVolumeClaimSpec"], &[("volumeMode", Text("Filesystem"))]),
    row(
        &["core.v1.PersistentVolumeStatus", "core.v1.PersistentVolumeClaimStatus", "core.v1.PodStatus"],
        &[("phase", Text("Pending"))],
    ),
    row(&["core.v1.NamespaceStatus"], &[("phase", Text("Active"))]),
    row(&["core.v1.Secret"], &[("type", Text("Opaque"))]),
    row(&["core.v1.ServiceSpec"], &[("sessionAffinity", Text("None")), ("type", Text("ClusterIP"))]),
    // Workloads
    row(&["core.v1.ReplicationControllerSpec", "apps.v1.ReplicaSetSpec"], &[("replicas", Int(1))]),
    row(
        &["apps.v1.DeploymentSpec"],
        &[("replicas", Int(1)), ("revisionHistoryLimit", Int(10)), ("progressDeadlineSeconds", Int(600))],
    ),
    row(
        &["apps.v1.DeploymentStrategy", "apps.v1.DaemonSetUpdateStrategy", "apps.v1.StatefulSetUpdateStrategy"],
        &[("type", Text("RollingUpdate"))],
    ),
    row(&["apps.v1.RollingUpdateDeployment"], &[("maxUnavailable", Text("25%")), ("maxSurge", Text("25%"))]),
    row(&["apps.v1.RollingUpdateDaemonSet"], &[("maxUnavailable", Int(1)), ("maxSurge", Int(0))]),
    row(&["apps.v1.RollingUpdateStatefulSetStrategy"], &[("partition", Int(0))]),
    row(&["apps.v1.DaemonSetSpec"], &[("revisionHistoryLimit", Int(10))]),
    row(
        &["apps.v1.StatefulSetSpec"],
        &[
            ("replicas", Int(1)),
            ("podManagementPolicy", Text("OrderedReady")),
            ("revisionHistoryLimit", Int(10)),
            ("persistentVolumeClaimRetentionPolicy", Empty),
        ],
    ),
    row(
        &["apps.v1.StatefulSetPersistentVolumeClaimRetentionPolicy"],
        &[("whenDeleted", Text("Retain")), ("whenScaled", Text("Retain"))],
    ),
    row(
        &["batch.v1.CronJobSpec"],
        &[
            ("concurrencyPolicy", Text("Allow")),
            ("suspend", Bool(false)),
            ("successfulJobsHistoryLimit", Int(3)),
            ("failedJobsHistoryLimit", Int(1)),
        ],
    ),
    row(&["batch.v1.PodFailurePolicyOnPodConditionsPattern"], &[("status", Text("True"))]),
    row(
        &["autoscaling.v1.HorizontalPodAutoscalerSpec", "autoscaling.v2.HorizontalPodAutoscalerSpec"],
        &[("minReplicas", Int(1))],
    ),
    // Network
    row(&["networking.v1.NetworkPolicyPort"], &[("protocol", Text("TCP"))]),
    row(&["networking.v1.IngressClassParametersReference"], &[("scope", Text("Cluster"))]),
    row(&["discovery.v1.EndpointPort"], &[("name", Text("")), ("protocol", Text("TCP"))]),
    // Storage
    row(&["storage.v1.StorageClass"], &[("reclaimPolicy", Text("Delete")), ("volumeBindingMode", Text("Immediate"))]),
    row(
        &["storage.v1.CSIDriverSpec"],
        &[
            ("attachRequired", Bool(true)),
            ("podInfoOnMount", Bool(false)),
            ("storageCapacity", Bool(false)),
            ("fsGroupPolicy", Text("ReadWriteOnceWithFSType")),
            ("volumeLifecycleModes", One("Persistent")),
            ("requiresRepublish", Bool(false)),
            ("seLinuxMount", Bool(false)),
        ],
    ),
    // Policy, admission, extension
    row(&["scheduling.v1.PriorityClass"], &[("preemptionPolicy", Text("PreemptLowerPriority"))]),
    row(
        &["admissionregistration.v1.ValidatingWebhook", "admissionregistration.v1.MutatingWebhook"],
        &[
            ("failurePolicy", Text("Fail")),
            ("matchPolicy", Text("Equivalent")),
            ("namespaceSelector", Empty),
            ("objectSelector", Empty),
            ("timeoutSeconds", Int(10)),
        ],
    ),
    row(&["admissionregistration.v1.MutatingWebhook"], &[("reinvocationPolicy", Text("Never"))]),
    row(
        &[
            "admissionregistration.v1.ValidatingAdmissionPolicySpec",
            "admissionregistration.v1.MutatingAdmissionPolicySpec",
        ],
        &[("failurePolicy", Text("Fail"))],
    ),
    row(
        &["admissionregistration.v1.MatchResources"],
        &[("matchPolicy", Text("Equivalent")), ("namespaceSelector", Empty), ("objectSelector", Empty)],
    ),
    row(
        &["admissionregistration.v1.RuleWithOperations", "admissionregistration.v1.NamedRuleWithOperations"],
        &[("scope", Text("*"))],
    ),
    row(
        &[
            "admissionregistration.v1.ServiceReference",
            "apiextensions.v1.ServiceReference",
            "apiregistration.v1.ServiceReference",
        ],
        &[("port", Int(443))],
    ),
    row(&["apiextensions.v1.CustomResourceDefinitionSpec"], &[("conversion", Empty)]),
    row(&["apiextensions.v1.CustomResourceConversion"], &[("strategy", Text("None"))]),
    row(
        &["flowcontrol.v1.LimitedPriorityLevelConfiguration"],
        &[("nominalConcurrencyShares", Int(30)), ("lendablePercent", Int(0)), ("limitResponse", Empty)],
    ),
    row(
        &["flowcontrol.v1.ExemptPriorityLevelConfiguration"],
        &[("nominalConcurrencyShares", Int(0)), ("lendablePercent", Int(0))],
    ),
    row(
        &["flowcontrol.v1.QueuingConfiguration"],
        &[("queues", Int(64)), ("handSize", Int(8)), ("queueLengthLimit", Int(50))],
    ),
    row(&["resource.v1.ExactDeviceRequest", "resource.v1.DeviceSubRequest"], &[("allocationMode", Text("ExactCount"))]),
    row(&["resource.v1.DeviceToleration"], &[("operator", Text("Equal"))]),
    row(&["authentication.v1.TokenRequestSpec"], &[("expirationSeconds", Int(3600))]),
];
