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
    let parts: Vec<&str> = text.split('\\').collect();
    let (domain, user) = match parts[..] {
        _ if text.is_empty() => return field.invalid("runAsUserName cannot be an empty string"),
        _ if text.chars().any(|c| c.is_ascii_control()) => {
            return field.invalid("runAsUserName cannot contain control characters");
        }
        [user] => (None, user),
        [domain, user] => (Some(domain), user),
        _ => return field.invalid("runAsUserName cannot contain more than one backslash"),
    };
    if let Some(domain) = domain {
        if domain.len() >= DOMAIN_MAX {
            field.invalid(format!("the Domain length must be under {DOMAIN_MAX} characters"));
        }
        if !is_net_bios(domain) && !is_dns(domain) {
            field.invalid("the Domain matches neither the NetBIOS nor the DNS format");
        }
    }
    if user.is_empty() {
        field.invalid("the User cannot be empty");
    } else if user.len() > USER_MAX {
        field.invalid(format!("the User length must not be longer than {USER_MAX} characters"));
    }
    if !user.is_empty() && user.chars().all(|c| c == '.' || c == ' ') {
        field.invalid("the User cannot contain only periods or spaces");
    }
    if user.chars().any(|c| "\"/\\[]:;|=,+*?<>@".contains(c)) {
        field.invalid("the User cannot contain the following characters: \"/\\:;|=,+*?<>@[]");
    }
}

fn is_net_bios(domain: &str) -> bool {
    (1..=15).contains(&domain.chars().count())
        && !domain.starts_with('.')
        && !domain.chars().any(|c| "\\/:*?\"<>|".contains(c))
}

/// Like a DNS subdomain, in either case.
fn is_dns(domain: &str) -> bool {
    domain.split('.').all(|label| names::dns1123_label(&label.to_ascii_lowercase()).is_empty())
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
        spec.errs.at(name).forbidden("cannot be set for a windows pod");
    }
    forbid(spec, &["hostUsers", "shareProcessNamespace"]);
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
            "seLinuxChangePolicy",
        ],
    );
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
    let asked = |owner: &Field<'_>| {
        let options = owner.at("securityContext").at("windowsOptions");
        options.has("hostProcess").then(|| options.flag("hostProcess"))
    };
    let pod = asked(spec);
    let (mut all, mut host) = (0, 0);
    for container in CONTAINER_LISTS.iter().flat_map(|list| spec.items(list)) {
        let own = asked(&container);
        if pod.is_some() && own.is_some() && own != pod {
            let at = container.at("securityContext").at("windowsOptions").at("hostProcess");
            at.invalid("must be identical to the pod's if both are specified");
        }
        all += 1;
        host += usize::from(own.or(pod) == Some(true));
    }
    if host == 0 {
        return;
    }
    if host != all {
        let why = "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        spec.errs.invalid("", why);
    }
    if !spec.flag("hostNetwork") {
        let why = "hostNetwork must be true if pod contains any hostProcess containers";
        spec.errs.at("hostNetwork").invalid(false, why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::errors::FieldErrors;
    use serde_json::{Value, json};
    use test_case::test_case;

    #[test_case("ContainerUser", 0)]
    #[test_case("DOMAIN\\user", 0; "NetBIOS")]
    #[test_case("a-domain.of.dns.names\\user", 0; "DNS")]
    #[test_case(".D\\user", 1; "a domain that starts with a dot")]
    #[test_case("\\user", 1; "no domain")]
    #[test_case("a\\b\\c", 1; "two backslashes")]
    #[test_case("a\tb", 1; "a control character")]
    #[test_case("..", 1; "only dots")]
    #[test_case("", 1; "empty")]
    fn user_names(name: &str, errors: usize) {
        let (value, errs) = (Value::from(name), FieldErrors::new());
        user_name(&Field::root(&value, &errs));
        assert_eq!(errs.len(), errors);
    }

    #[test]
    fn windows_has_no_hosts_namespaces() {
        let spec = json!({"os": {"name": "windows"}, "hostPID": true, "hostUsers": true, "hostIPC": false, "containers": [{}],
            "securityContext": {"fsGroup": 1, "windowsOptions": {"hostProcess": true}}});
        let errs = FieldErrors::new();
        os(&Field::root(&spec, &errs));
        host_process(&Field::root(&spec, &errs));
        let found: Vec<String> = errs.take().into_iter().map(|c| c.field).collect();
        assert_eq!(found, ["hostPID", "hostUsers", "securityContext.fsGroup", "hostNetwork"]);
    }
}
