//! Security contexts of pods and containers.

use super::{Field, local_descending_path, windows};

/// Longest profile path, bytes.
const PROFILE_MAX: usize = 4095;

/// `securityContext` of a pod; `spec` has the host switches.
pub fn of_pod(spec: &Field<'_>) {
    let field = spec.at("securityContext");
    if spec.flag("hostPID") && spec.flag("shareProcessNamespace") {
        field
            .errs
            .at("shareProcessNamespace")
            .invalid(true, "ShareProcessNamespace and HostPID cannot both be enabled");
    }
    for id in ["fsGroup", "runAsUser", "runAsGroup"] {
        field.id(id);
    }
    for group in field.items("supplementalGroups") {
        if !(0..=super::ID_MAX).contains(&group.value.as_i64().unwrap_or(-1)) {
            group.invalid(format!("must be between 0 and {}, inclusive", super::ID_MAX));
        }
    }
    sysctls(&field, spec.flag("hostNetwork"), spec.flag("hostIPC"));
    field.optional_one_of("fsGroupChangePolicy", &["Always", "OnRootMismatch"]);
    field.optional_one_of("supplementalGroupsPolicy", &["Merge", "Strict"]);
    field.optional_one_of("seLinuxChangePolicy", &["MountOption", "Recursive"]);
    seccomp(&field.at("seccompProfile"));
    windows::options(&field.at("windowsOptions"));
    app_armor(&field.at("appArmorProfile"));
}

/// `securityContext` of a container.
pub fn of_container(field: &Field<'_>, host_users: bool) {
    if field.value.is_null() {
        return;
    }
    field.id("runAsUser");
    field.id("runAsGroup");
    seccomp(&field.at("seccompProfile"));
    if field.has("allowPrivilegeEscalation") && !field.flag("allowPrivilegeEscalation") {
        if field.flag("privileged") {
            field.invalid("cannot set `allowPrivilegeEscalation` to false and `privileged` to true");
        }
        if super::texts(field.value, "/capabilities/add").contains(&"CAP_SYS_ADMIN") {
            field.invalid("cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN");
        }
    }
    if field.has("procMount") {
        field.one_of("procMount", &["Default", "Unmasked"]);
        if field.text("procMount") == "Unmasked" && host_users {
            field.at("procMount").invalid("`hostUsers` must be false to use `Unmasked`");
        }
    }
    windows::options(&field.at("windowsOptions"));
    app_armor(&field.at("appArmorProfile"));
}

fn seccomp(field: &Field<'_>) {
    if field.value.is_null() {
        return;
    }
    let profile = field.at("localhostProfile");
    match field.text("type") {
        "Localhost" if profile.value.is_null() => {
            profile.errs.required("must be set when seccomp type is Localhost");
        }
        "Localhost" => local_descending_path(&profile),
        _ if !profile.value.is_null() => profile.invalid("can only be set when seccomp type is Localhost"),
        _ => {}
    }
    if field.text("type").is_empty() {
        field.errs.at("type").required("type is required when seccompProfile is set");
    } else {
        field.one_of("type", &["Localhost", "RuntimeDefault", "Unconfined"]);
    }
}

fn app_armor(field: &Field<'_>) {
    if field.value.is_null() {
        return;
    }
    let profile = field.at("localhostProfile");
    match field.text("type") {
        "Localhost" => {
            let text = profile.as_text();
            if text.trim() != text {
                profile.invalid("must not be padded with whitespace");
            } else if text.is_empty() {
                profile.errs.required("must be set when AppArmor type is Localhost");
            }
            if text.len() > PROFILE_MAX {
                profile.errs.too_long(PROFILE_MAX);
            }
        }
        "RuntimeDefault" | "Unconfined" => {
            if !profile.value.is_null() {
                profile.invalid("can only be set when AppArmor type is Localhost");
            }
        }
        "" => field.errs.at("type").required("type is required when appArmorProfile is set"),
        _ => field.one_of("type", &["Localhost", "RuntimeDefault", "Unconfined"]),
    }
}

fn sysctls(field: &Field<'_>, host_network: bool, host_ipc: bool) {
    let mut seen = Vec::new();
    for s in field.items("sysctls") {
        let name = s.text("name");
        if name.is_empty() {
            s.errs.at("name").required("");
        } else if !is_sysctl(name) {
            s.at("name").invalid("must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$");
        } else if seen.contains(&name) {
            s.errs.at("name").duplicate(name);
        }
        seen.push(name);
        let dotted = name.replace('/', ".");
        let ipc =
            dotted == "kernel.sem" || ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|p| dotted.starts_with(p));
        if host_network && dotted.starts_with("net.") {
            s.at("name").invalid("may not be set with hostNetwork enabled");
        }
        if host_ipc && ipc {
            s.at("name").invalid("may not be set with hostIPC enabled");
        }
    }
}

fn is_sysctl(name: &str) -> bool {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let part = |p: &str| {
        let b = p.as_bytes();
        !b.is_empty() && plain(b[0]) && plain(b[b.len() - 1]) && b.iter().all(|c| plain(*c) || matches!(c, b'-' | b'_'))
    };
    name.len() <= 253 && name.split(['.', '/']).all(part)
}
