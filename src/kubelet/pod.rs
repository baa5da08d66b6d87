//! A pod as the kubelet looks at it: decoded once per revision, shared by everything that works on it.
//!
//! **Invariant:** what is decoded here is only read; statuses are written as JSON patches, never by encoding a view.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Probe};
use serde_json::Value;

use crate::api::object::Object;
use crate::api::value::ValueExt;
use crate::kubelet::runtime::{ContainerStatus, SandboxStatus, State};
use crate::runtime::events::Regarding;
use crate::util::order::Arrange;

/// Labels that tie what the runtime runs to the API, and annotations that survive a restart of orch. Names are upstream's.
pub mod keys {
    /// Pod name (label).
    pub const POD_NAME: &str = "io.kubernetes.pod.name";
    /// Pod namespace (label).
    pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    /// Pod uid (label).
    pub const POD_UID: &str = "io.kubernetes.pod.uid";
    /// Container name (label).
    pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
    /// Hash of what may not change without a restart (annotation).
    pub const HASH: &str = "io.kubernetes.container.hash";
    /// How often the container was restarted (annotation).
    pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
    /// Where the container writes its last words (annotation).
    pub const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
    /// `File` or `FallbackToLogsOnError` (annotation).
    pub const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
    /// Seconds a pod gets to stop (annotation), for pods that are gone from the API.
    pub const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
    /// What the container was made with, as JSON (annotation; orch's own).
    pub const RESOURCES: &str = "orch.internal/resources";
    /// When the API saw the pod (annotation of the pod in upstream's sources).
    pub const CONFIG_SOURCE: &str = "kubernetes.io/config.source";
    /// Marks the mirror of a static pod (annotation).
    pub const CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";
}

/// When a container runs in the life of its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Runs to its end before the next one starts.
    Init,
    /// An init container that stays: `restartPolicy: Always`.
    Sidecar,
    /// The pod's matter.
    App,
    /// Added to a running pod; never restarted.
    Ephemeral,
}

/// What happens when a container ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    /// It is started again.
    Always,
    /// It is started again when it failed.
    OnFailure,
    /// It stays as it is.
    Never,
}

impl RestartPolicy {
    fn parse(text: Option<&str>) -> Self {
        match text {
            Some("Never") => Self::Never,
            Some("OnFailure") => Self::OnFailure,
            _ => Self::Always,
        }
    }

    /// Whether a container that ended with `exit_code` runs again.
    pub fn restarts(self, exit_code: i32) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => exit_code != 0,
            Self::Never => false,
        }
    }
}

/// A container of the pod's spec.
#[derive(Debug, Clone)]
pub struct Member {
    /// When it runs.
    pub role: Role,
    /// As the pod says it; ephemeral ones too, they have the same fields.
    pub spec: Container,
    /// Changes when the running container has to be replaced. Upstream hashes name and image.
    pub hash: String,
    /// Ephemeral: the container whose process namespace it joins.
    pub target: Option<String>,
}

impl Member {
    fn new(role: Role, spec: Container, target: Option<String>) -> Self {
        let text = format!("{}\0{}", spec.name, spec.image.as_deref().unwrap_or_default());
        let hash = format!("{:x}", crc32c::crc32c(text.as_bytes()));
        Self { role, spec, hash, target }
    }

    /// Name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// True for init containers of both kinds.
    pub fn is_init(&self) -> bool {
        matches!(self.role, Role::Init | Role::Sidecar)
    }

    /// Whether it runs again after it ended with `exit_code`. Container rules win over its policy, that over the pod's.
    pub fn restarts(&self, pod: RestartPolicy, exit_code: i32) -> bool {
        match self.role {
            Role::Sidecar => return true,
            Role::Ephemeral => return false,
            Role::Init | Role::App => {}
        }
        let ruled = self.spec.restart_policy_rules.iter().flatten().any(|rule| {
            rule.action == "Restart"
                && rule.exit_codes.as_ref().is_some_and(|codes| {
                    let listed = codes.values.iter().flatten().any(|v| *v == exit_code);
                    if codes.operator == "NotIn" { !listed } else { listed }
                })
        });
        let own = self.spec.restart_policy.as_deref().map(|p| RestartPolicy::parse(Some(p)));
        let policy = match own.unwrap_or(pod) {
            // An init container that succeeded is done, whatever the pod's policy.
            RestartPolicy::Always if self.role == Role::Init => RestartPolicy::OnFailure,
            other => other,
        };
        ruled || policy.restarts(exit_code)
    }

    /// The probe of a kind.
    pub fn probe(&self, kind: ProbeKind) -> Option<&Probe> {
        match kind {
            ProbeKind::Startup => self.spec.startup_probe.as_ref(),
            ProbeKind::Liveness => self.spec.liveness_probe.as_ref(),
            ProbeKind::Readiness => self.spec.readiness_probe.as_ref(),
        }
    }
}

/// What a probe asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProbeKind {
    /// Has it started? The others wait for this one.
    Startup,
    /// Does it still work? If not, it is restarted.
    Liveness,
    /// May it get traffic?
    Readiness,
}

impl ProbeKind {
    /// All, in the order they matter.
    pub const ALL: [ProbeKind; 3] = [Self::Startup, Self::Liveness, Self::Readiness];

    /// As events name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// A revision of a pod.
#[derive(Debug, Clone)]
pub struct PodView {
    /// Uid.
    pub uid: String,
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// The typed view.
    pub pod: Pod,
    /// The spec; empty for an orphan.
    pub spec: PodSpec,
    /// Init containers, then app containers, then ephemeral ones, each in the pod's order.
    pub members: Vec<Member>,
    /// `status` as the API has it.
    pub status: Value,
}

impl PodView {
    /// What its events are about.
    pub fn regarding(&self) -> Regarding {
        Regarding {
            api_version: "v1".into(),
            kind: "Pod".into(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            resource_version: self.pod.metadata.resource_version.clone().unwrap_or_default(),
            field_path: String::new(),
        }
    }

    /// From the API's object.
    pub fn from_object(object: &Object) -> Result<Self, serde_json::Error> {
        Self::from_value(object.value())
    }

    /// From a pod's JSON.
    pub fn from_value(mut value: Value) -> Result<Self, serde_json::Error> {
        let status = value.remove_at("/status").unwrap_or(Value::Null);
        let ephemeral: Vec<Value> = value.items_at("/spec/ephemeralContainers").to_vec();
        let mut pod: Pod = serde_json::from_value(value)?;
        let spec = pod.spec.take().unwrap_or_default();
        let mut members = Vec::new();
        for c in spec.init_containers.iter().flatten() {
            let role = if c.restart_policy.as_deref() == Some("Always") { Role::Sidecar } else { Role::Init };
            members.push(Member::new(role, c.clone(), None));
        }
        members.extend(spec.containers.iter().map(|c| Member::new(Role::App, c.clone(), None)));
        for e in ephemeral {
            let target = e.str_at("/targetContainerName").map(str::to_owned);
            members.push(Member::new(Role::Ephemeral, serde_json::from_value(e)?, target));
        }
        let text = |s: &Option<String>| s.clone().unwrap_or_default();
        Ok(Self {
            uid: text(&pod.metadata.uid),
            name: text(&pod.metadata.name),
            namespace: text(&pod.metadata.namespace),
            pod,
            spec,
            members,
            status,
        })
    }

    /// What is known of a pod that only the runtime still has. `grace` is from its containers' annotations.
    pub fn orphan(sandbox: &SandboxStatus, grace: Option<i64>) -> Self {
        let mut pod = Pod::default();
        pod.metadata.name = Some(sandbox.name.clone());
        pod.metadata.namespace = Some(sandbox.namespace.clone());
        pod.metadata.uid = Some(sandbox.uid.clone());
        Self {
            uid: sandbox.uid.clone(),
            name: sandbox.name.clone(),
            namespace: sandbox.namespace.clone(),
            pod,
            spec: PodSpec { termination_grace_period_seconds: grace, ..PodSpec::default() },
            members: Vec::new(),
            status: Value::Null,
        }
    }

    /// The pod's restart policy.
    pub fn restart_policy(&self) -> RestartPolicy {
        RestartPolicy::parse(self.spec.restart_policy.as_deref())
    }

    /// A container of the spec.
    pub fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|m| m.name() == name)
    }

    /// Containers of a role, in the pod's order.
    pub fn of(&self, role: Role) -> impl DoubleEndedIterator<Item = &Member> {
        self.members.iter().filter(move |m| m.role == role)
    }

    /// Init containers and sidecars, in the pod's order.
    pub fn inits(&self) -> Vec<&Member> {
        self.members.iter().filter(|m| m.is_init()).collect()
    }

    /// `metadata.generation`.
    pub fn generation(&self) -> i64 {
        self.pod.metadata.generation.unwrap_or(0)
    }

    /// When its deletion was asked for.
    pub fn deleting(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some()
    }

    /// `deletionGracePeriodSeconds`.
    pub fn deletion_grace(&self) -> Option<i64> {
        self.pod.metadata.deletion_grace_period_seconds
    }

    /// Succeeded or Failed, as the API has it.
    pub fn is_terminal(&self) -> bool {
        matches!(self.status.str_at("/phase"), Some("Succeeded" | "Failed"))
    }

    /// `hostNetwork`.
    pub fn host_network(&self) -> bool {
        self.spec.host_network.unwrap_or(false)
    }

    /// `status.startTime`.
    pub fn start_time(&self) -> Option<Timestamp> {
        self.status.str_at("/startTime")?.parse().ok()
    }

    /// `name_namespace(uid)`, as messages name it.
    pub fn full_name(&self) -> String {
        format!("{}_{}({})", self.name, self.namespace, self.uid)
    }

    /// Labels of the pod.
    pub fn labels(&self) -> BTreeMap<String, String> {
        self.pod.metadata.labels.clone().unwrap_or_default()
    }

    /// Annotations of the pod.
    pub fn annotations(&self) -> BTreeMap<String, String> {
        self.pod.metadata.annotations.clone().unwrap_or_default()
    }
}

/// What the runtime has of one pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodInventory {
    /// Sandboxes, newest first.
    pub sandboxes: Vec<SandboxStatus>,
    /// Containers of all sandboxes, newest first.
    pub containers: Vec<ContainerStatus>,
    /// Why this is not all: something of the pod does not tell its status.
    pub unclear: Option<String>,
}

impl PodInventory {
    /// Sorts newest first.
    pub fn sorted(mut self) -> Self {
        self.sandboxes.arrange_by_key(|s| std::cmp::Reverse((s.created_at, s.attempt)));
        self.containers.arrange_by_key(|c| std::cmp::Reverse((c.created_at, c.attempt)));
        self
    }

    /// The newest container of a name.
    pub fn newest(&self, name: &str) -> Option<&ContainerStatus> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// The container of a name that ended last; another one may run by now. Restarts are held back by it, so that a
    /// container that its probes kill again and again waits like one that ends by itself. Upstream: `doBackOff`.
    pub fn ended(&self, name: &str) -> Option<&ContainerStatus> {
        self.containers.iter().find(|c| c.name == name && c.state == State::Exited)
    }

    /// All containers of a name, newest first.
    pub fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a ContainerStatus> {
        self.containers.iter().filter(move |c| c.name == name)
    }

    /// The newest container of a name in a sandbox.
    pub fn newest_in(&self, sandbox: &str, name: &str) -> Option<&ContainerStatus> {
        self.containers.iter().find(|c| c.name == name && c.sandbox_id == sandbox)
    }

    /// True while a container or sandbox runs.
    pub fn is_running(&self) -> bool {
        self.containers.iter().any(|c| c.state == State::Running)
            || self.sandboxes.iter().any(|s| s.state == State::Running)
    }

    /// True when the runtime has nothing of the pod.
    pub fn is_empty(&self) -> bool {
        self.sandboxes.is_empty() && self.containers.is_empty()
    }
}

/// Nanoseconds since the epoch as a time; 0 is none.
pub fn time_of(nanos: i64) -> Option<Timestamp> {
    if nanos == 0 { None } else { Timestamp::from_nanosecond(nanos.into()).ok() }
}
