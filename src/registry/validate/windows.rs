//! What Windows pods have and what they cannot have.

use crate::api::meta::names;

use super::Field;

/// Longest group account specification, bytes.
const GMSA_SPEC_MAX: usize = 64 * 1024;
/// Longest Windows user name, characters.
const USER_MAX: usize = 104;
/// Longest Windows domain name, characters.
const DOMAIN_MAX: usize = 256;

/// `windowsOptions` of a pod or a container.
pub fn options(field: &Field<'_>) {
    if field.value.is_null() {
        return;
    }
    if field.has("gmsaCredentialSpecName") {
        let name = field.text("gmsaCredentialSpecName");
        field.at("gmsaCredentialSpecName").reasons(names::dns1123_subdomain(name));
    }
    if field.has("gmsaCredentialSpec") {
        let length = field.text("gmsaCredentialSpec").len();
        if length == 0 {
            field.at("gmsaCredentialSpec").invalid("gmsaCredentialSpec cannot be an empty string");
        } else if length > GMSA_SPEC_MAX {
            field
                .at("gmsaCredentialSpec")
                .invalid(format!("gmsaCredentialSpec size must be under {GMSA_SPEC_MAX} bytes"));
        }
    }
    if field.has("runAsUserName") {
        user_name(&field.at("runAsUserName"));
    }
}

fn user_name(field: &Field<'_>) {
    let text = field.as_text();
    if text.is_empty() {
        field.invalid("runAsUserName cannot be an empty string");
        return;
    }
    if text.chars().any(char::is_control) {
        field.invalid("runAsUserName cannot contain control characters");
    }
    let mut parts = text.splitn(3, '\\');
    let (first, second, third) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    if third.is_some() {
        field.invalid("runAsUserName cannot contain more than one backslash");
        return;
    }
    let (domain, user) = second.map_or((None, first), |user| (Some(first), user));
    if let Some(domain) = domain {
        if domain.is_empty() || domain.chars().count() >= DOMAIN_MAX {
            field.invalid(format!("the Domain length must be between 1 and {DOMAIN_MAX} characters"));
        }
        if domain.starts_with('.') || domain.chars().any(|c| "\\/:*?\"<>|".contains(c)) {
            field.invalid("the Domain does not match a NetBIOS or DNS name");
        }
    }
    let length = user.chars().count();
    if length == 0 {
        field.invalid("the User cannot be empty");
    } else if length > USER_MAX {
        field.invalid(format!("the User length must not be longer than {USER_MAX} characters"));
    }
    if !user.is_empty() && user.chars().all(|c| c == '.' || c == ' ') {
        field.invalid("the User cannot contain only periods or spaces");
    }
    if user.chars().any(|c| "\"/\\[]:;|=,+*?<>@".contains(c)) {
        field.invalid("the User cannot contain the following characters: \"/\\:;|=,+*?<>@[]");
    }
}

const CONTAINER_LISTS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];

/// What a pod for one operating system cannot have.
pub fn os(spec: &Field<'_>) {
    if !spec.has("os") {
        return;
    }
    let os = spec.at("os");
    match os.text("name") {
        "" => os.errs.at("name").required(""),
        "linux" => linux(spec),
        "windows" => windows(spec),
        other => os.errs.not_supported(other, &["linux", "windows"]),
    }
}

fn linux(spec: &Field<'_>) {
    let contexts = std::iter::once(spec.at("securityContext"))
        .chain(CONTAINER_LISTS.iter().flat_map(|list| spec.items(list)).map(|c| c.at("securityContext")));
    for context in contexts.filter(|c| c.has("windowsOptions")) {
        context.errs.at("windowsOptions").forbidden("windows options cannot be set for a linux pod");
    }
}

fn windows(spec: &Field<'_>) {
    let forbid = |field: &Field<'_>, names: &[&str]| {
        for name in names.iter().filter(|n| field.has(n)) {
            field.errs.at(name).forbidden("cannot be set for a windows pod");
        }
    };
    let context = spec.at("securityContext");
    for name in ["hostPID", "hostIPC"].iter().filter(|n| spec.flag(n)) {
        context.errs.at(name).forbidden("cannot be set for a windows pod");
    }
    forbid(
        &context,
        &[
            "appArmorProfile",
            "seLinuxOptions",
            "seccompProfile",
            "fsGroup",
            "fsGroupChangePolicy",
            "sysctls",
            "runAsUser",
            "runAsGroup",
            "supplementalGroups",
            "supplementalGroupsPolicy",
        ],
    );
    if spec.has("hostUsers") {
        context.errs.at("hostUsers").forbidden("cannot be set for a windows pod");
    }
    if spec.has("shareProcessNamespace") {
        context.errs.at("shareProcessNamespace").forbidden("cannot be set for a windows pod");
    }
    for container in CONTAINER_LISTS.iter().flat_map(|list| spec.items(list)) {
        forbid(
            &container.at("securityContext"),
            &[
                "appArmorProfile",
                "seLinuxOptions",
                "seccompProfile",
                "capabilities",
                "readOnlyRootFilesystem",
                "privileged",
                "allowPrivilegeEscalation",
                "procMount",
                "runAsUser",
                "runAsGroup",
            ],
        );
    }
}

/// Host-process pods: all containers or none, on the host's network.
pub fn host_process(spec: &Field<'_>) {
    let asked =
        |context: Field<'_>| context.at("windowsOptions").value.get("hostProcess").and_then(serde_json::Value::as_bool);
    let pod = asked(spec.at("securityContext"));
    let containers: Vec<Option<bool>> =
        CONTAINER_LISTS.iter().flat_map(|list| spec.items(list)).map(|c| asked(c.at("securityContext"))).collect();
    let host = containers.iter().filter(|c| c.or(pod) == Some(true)).count();
    if pod.is_some() && containers.iter().any(|c| c.is_some() && *c != pod) {
        spec.errs
            .at("securityContext")
            .at("windowsOptions")
            .at("hostProcess")
            .invalid(pod.unwrap_or(false), "containers must not differ from the pod in hostProcess");
    }
    if host == 0 {
        return;
    }
    if !spec.flag("hostNetwork") {
        spec.errs
            .at("hostNetwork")
            .invalid(false, "hostNetwork must be true if pod contains any hostProcess containers");
    }
    if host != containers.len() {
        spec.errs.invalid(
            "",
            "If pod contains any hostProcess containers then all containers must be HostProcess containers",
        );
    }
}
