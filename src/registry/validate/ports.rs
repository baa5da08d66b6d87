//! Ports of containers.

use super::{Field, port_name, port_number};

/// `ports` of one container.
pub fn of_container(container: &Field<'_>) {
    let mut names: Vec<&str> = Vec::new();
    for port in container.items("ports") {
        let name = port.text("name");
        if !name.is_empty() {
            let reasons = port_name(name);
            if !reasons.is_empty() {
                port.at("name").reasons(reasons);
            } else if names.contains(&name) {
                port.errs.at("name").duplicate(name);
            } else {
                names.push(name);
            }
        }
        match port.int("containerPort").unwrap_or(0) {
            0 => port.errs.at("containerPort").required(""),
            n => {
                if let Some(why) = port_number(n) {
                    port.at("containerPort").invalid(why);
                }
            }
        }
        if let Some(why) = port.int("hostPort").filter(|n| *n != 0).and_then(port_number) {
            port.at("hostPort").invalid(why);
        }
        port.needs_one_of("protocol", &["SCTP", "TCP", "UDP"]);
    }
}

/// Ports of the host: each once among the containers of a list.
pub fn of_host<'a>(containers: impl Iterator<Item = Field<'a>>) {
    let mut seen: Vec<String> = Vec::new();
    for container in containers {
        for port in container.items("ports") {
            let Some(number) = port.int("hostPort").filter(|n| *n != 0) else { continue };
            let key = format!("{}/{}/{number}", port.text("hostIP"), port.text("protocol"));
            if seen.contains(&key) {
                port.errs.at("hostPort").duplicate(key);
            } else {
                seen.push(key);
            }
        }
    }
}

/// On the host's network a container's port is the host's.
///
/// A template may leave it out: it is filled in when the pod is made.
pub fn on_host_network<'a>(containers: impl Iterator<Item = Field<'a>>, is_pod: bool) {
    for container in containers {
        for port in container.items("ports") {
            let host = port.int("hostPort").unwrap_or(0);
            if (is_pod || host != 0) && host != port.int("containerPort").unwrap_or(0) {
                port.at("hostPort").invalid("must match `containerPort` when `hostNetwork` is true");
            }
        }
    }
}
