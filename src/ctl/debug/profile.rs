//! The profiles of `debug`: what a container that looks around may do, and what becomes of the pod around it.
//!
//! One row each. Rules: kubectl `pkg/cmd/debug/profiles.go`.

use serde_json::{Value, json};

use crate::api::value::ValueExt;

/// The profile where none is named.
pub const LEGACY: &str = "legacy";

/// How a container becomes one that looks around.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// As it is.
    Same,
    /// None of its own.
    None,
    /// These capabilities more.
    Add(&'static [&'static str]),
    /// As little as there is.
    Restricted,
    /// All.
    Privileged,
}

/// A row.
#[derive(Debug)]
pub struct Profile {
    name: &'static str,
    /// What the container may, in a pod or a copy.
    pub in_pod: Rights,
    /// What it may, on a node.
    pub on_node: Rights,
    /// A pod on a node shares the node's network, processes and IPC.
    pub host_namespaces: bool,
    /// It sees the node's files at `/host`.
    pub host_root: bool,
    /// A copy loses its labels, annotations and probes, and shares its processes.
    pub changes_copy: bool,
}

const PROFILES: [Profile; 6] = [
    Profile {
        name: LEGACY,
        in_pod: Rights::Same,
        on_node: Rights::Same,
        host_namespaces: true,
        host_root: true,
        changes_copy: false,
    },
    Profile {
        name: "general",
        in_pod: Rights::Add(&["SYS_PTRACE"]),
        on_node: Rights::None,
        host_namespaces: true,
        host_root: true,
        changes_copy: true,
    },
    Profile {
        name: "baseline",
        in_pod: Rights::None,
        on_node: Rights::None,
        host_namespaces: false,
        host_root: false,
        changes_copy: true,
    },
    Profile {
        name: "restricted",
        in_pod: Rights::Restricted,
        on_node: Rights::Restricted,
        host_namespaces: false,
        host_root: false,
        changes_copy: true,
    },
    Profile {
        name: "netadmin",
        in_pod: Rights::Add(&["NET_ADMIN", "NET_RAW"]),
        on_node: Rights::Add(&["NET_ADMIN", "NET_RAW"]),
        host_namespaces: true,
        host_root: false,
        changes_copy: true,
    },
    Profile {
        name: "sysadmin",
        in_pod: Rights::Privileged,
        on_node: Rights::Privileged,
        host_namespaces: true,
        host_root: true,
        changes_copy: true,
    },
];

/// The profile of a name.
pub fn find(name: &str) -> Option<&'static Profile> {
    PROFILES.iter().find(|p| p.name == name)
}

impl Rights {
    /// Gives them to a container.
    pub fn give(self, container: &mut Value) {
        match self {
            Self::Same => {}
            Self::None => {
                container.remove_at("/securityContext");
            }
            Self::Add(names) => {
                let mut all = container.items_at("/securityContext/capabilities/add").to_vec();
                all.extend(names.iter().map(|name| json!(name)));
                container.set_at("/securityContext/capabilities/add", Value::Array(all));
            }
            Self::Restricted => {
                container["securityContext"] = json!({
                    "runAsNonRoot": true, "allowPrivilegeEscalation": false,
                    "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
                });
            }
            Self::Privileged => container.set_at("/securityContext/privileged", true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case(Rights::Same => json!({"securityContext": {"capabilities": {"add": ["A"]}}}))]
    #[test_case(Rights::None => json!({}))]
    #[test_case(Rights::Add(&["B"]) => json!({"securityContext": {"capabilities": {"add": ["A", "B"]}}}))]
    #[test_case(Rights::Privileged => json!({"securityContext": {"capabilities": {"add": ["A"]}, "privileged": true}}))]
    fn rights(rights: Rights) -> Value {
        let mut container = json!({"securityContext": {"capabilities": {"add": ["A"]}}});
        rights.give(&mut container);
        container
    }

    #[test]
    fn the_restricted_one_passes_the_restricted_standard() {
        let mut container = json!({});
        find("restricted").unwrap().in_pod.give(&mut container);
        assert_eq!(container["securityContext"]["capabilities"]["drop"], json!(["ALL"]));
        assert_eq!(container["securityContext"]["runAsNonRoot"], true);
        assert!(find("bogus").is_none());
    }
}
