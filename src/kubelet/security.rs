//! Security contexts: the pod's and the container's merged into what the runtime enforces.
//!
//! Rules: upstream `pkg/securitycontext` and `kuberuntime/security_context.go`: the container's word wins.

use k8s_openapi::api::core::v1::SeccompProfile;

use super::pod::{Member, PodView};
use super::runtime::{HostNamespaces, Image, Security};

/// Prefix of the annotation that names a container's AppArmor profile.
const APPARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

fn seccomp(profile: Option<&SeccompProfile>) -> String {
    match profile.map(|p| (p.type_.as_str(), p.localhost_profile.as_deref())) {
        Some(("RuntimeDefault", _)) => "RuntimeDefault".into(),
        Some(("Localhost", Some(path))) => format!("Localhost/{path}"),
        _ => "Unconfined".into(),
    }
}

/// The AppArmor profile: the container's, the pod's, or that of the annotation which there was before either. The
/// runtime's default is what a runtime does when nothing is said, also on a machine without AppArmor.
/// Upstream: `pkg/security/apparmor.GetProfile`.
fn apparmor(pod: &PodView, member: &Member) -> String {
    let own = member.spec.security_context.as_ref().and_then(|s| s.app_armor_profile.as_ref());
    let whole = pod.spec.security_context.as_ref().and_then(|s| s.app_armor_profile.as_ref());
    if let Some(profile) = own.or(whole) {
        return match (profile.type_.as_str(), profile.localhost_profile.as_deref()) {
            ("Unconfined", _) => "Unconfined".into(),
            ("Localhost", Some(name)) => format!("Localhost/{name}"),
            _ => String::new(),
        };
    }
    let key = format!("{APPARMOR_ANNOTATION}{}", member.name());
    match pod.pod.metadata.annotations.as_ref().and_then(|a| a.get(&key)).map(String::as_str) {
        Some("unconfined") => "Unconfined".into(),
        Some(text) => text.strip_prefix("localhost/").map(|name| format!("Localhost/{name}")).unwrap_or_default(),
        None => String::new(),
    }
}

/// Of the sandbox.
pub fn of_pod(pod: &PodView) -> Security {
    let sc = pod.spec.security_context.clone().unwrap_or_default();
    let privileged =
        pod.members.iter().any(|m| m.spec.security_context.as_ref().and_then(|s| s.privileged).unwrap_or(false));
    Security {
        run_as_user: sc.run_as_user,
        run_as_group: sc.run_as_group,
        supplemental_groups: groups(pod),
        privileged,
        // The pause process needs nothing; upstream confines it wherever the runtime can.
        seccomp: "RuntimeDefault".into(),
        ..Security::default()
    }
}

fn groups(pod: &PodView) -> Vec<i64> {
    let Some(sc) = &pod.spec.security_context else { return Vec::new() };
    sc.supplemental_groups.iter().flatten().copied().chain(sc.fs_group).collect()
}

/// Of a container. Who it runs as is always said, if only as the image says it: a group needs a user beside it.
/// Upstream: `kuberuntime/security_context.determineEffectiveSecurityContext`.
pub fn of_container(pod: &PodView, member: &Member, image: &Image) -> Security {
    let whole = pod.spec.security_context.clone().unwrap_or_default();
    let own = member.spec.security_context.clone().unwrap_or_default();
    let capabilities = own.capabilities.unwrap_or_default();
    let bare = |list: Option<Vec<String>>| -> Vec<String> {
        let strip = |c: String| c.strip_prefix("CAP_").map(str::to_owned).unwrap_or(c);
        list.unwrap_or_default().into_iter().map(strip).collect()
    };
    let asked = own.run_as_user.or(whole.run_as_user);
    let (run_as_user, run_as_username) = match (asked, image.uid, image.username.as_str()) {
        (None, None, "") => (Some(0), String::new()),
        (None, None, name) => (None, name.to_owned()),
        (asked, uid, _) => (asked.or(uid), String::new()),
    };
    Security {
        run_as_user,
        run_as_username,
        run_as_group: own.run_as_group.or(whole.run_as_group),
        supplemental_groups: groups(pod),
        privileged: own.privileged.unwrap_or(false),
        read_only_root: own.read_only_root_filesystem.unwrap_or(false),
        no_new_privileges: own.allow_privilege_escalation == Some(false),
        add_capabilities: bare(capabilities.add),
        drop_capabilities: bare(capabilities.drop),
        seccomp: seccomp(own.seccomp_profile.as_ref().or(whole.seccomp_profile.as_ref())),
        apparmor: apparmor(pod, member),
        unmasked_proc: own.proc_mount.as_deref() == Some("Unmasked"),
    }
}

/// Which namespaces of the node the pod uses.
pub fn host_namespaces(pod: &PodView) -> HostNamespaces {
    HostNamespaces {
        network: pod.host_network(),
        pid: pod.spec.host_pid.unwrap_or(false),
        ipc: pod.spec.host_ipc.unwrap_or(false),
        shared_pid: pod.spec.share_process_namespace.unwrap_or(false),
    }
}

/// Refuses a container that must not run as root and would, or might. Upstream: `verifyRunAsNonRoot`.
pub fn check_non_root(pod: &PodView, member: &Member, image: &Image) -> Result<(), String> {
    let whole = pod.spec.security_context.as_ref();
    let own = member.spec.security_context.as_ref();
    let must = own.and_then(|s| s.run_as_non_root).or(whole.and_then(|s| s.run_as_non_root)).unwrap_or(false);
    if !must {
        return Ok(());
    }
    let who = format!("(pod: \"{}\", container: {})", pod.full_name(), member.name());
    match own.and_then(|s| s.run_as_user).or(whole.and_then(|s| s.run_as_user)) {
        Some(0) => return Err(format!("container's runAsUser breaks non-root policy {who}")),
        Some(_) => return Ok(()),
        None => {}
    }
    match (image.uid, image.username.as_str()) {
        (Some(0), _) | (None, "") => Err(format!("container has runAsNonRoot and image will run as root {who}")),
        (Some(_), _) => Ok(()),
        (None, name) => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root {who}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use test_case::test_case;

    fn pod(whole: Value, own: Value) -> PodView {
        PodView::from_value(json!({"metadata": {"name": "p"}, "spec": {"securityContext": whole,
            "containers": [{"name": "c", "securityContext": own}]}}))
        .unwrap()
    }

    #[test]
    fn the_container_wins() {
        let p = pod(
            json!({"runAsUser": 1, "runAsGroup": 2, "fsGroup": 3, "supplementalGroups": [4], "seccompProfile": {"type": "RuntimeDefault"}}),
            json!({"runAsUser": 9, "allowPrivilegeEscalation": false, "capabilities": {"add": ["CAP_NET_ADMIN"], "drop": ["ALL"]}}),
        );
        let s = of_container(&p, &p.members[0], &Image::default());
        assert_eq!((s.run_as_user, s.run_as_group, &*s.supplemental_groups), (Some(9), Some(2), &[4, 3][..]));
        assert!(s.no_new_privileges && s.seccomp == "RuntimeDefault");
        assert_eq!((s.add_capabilities, s.drop_capabilities), (vec!["NET_ADMIN".to_owned()], vec!["ALL".to_owned()]));
    }

    #[test_case(json!({}), json!({"appArmorProfile": {"type": "Unconfined"}}), "Unconfined"; "own")]
    #[test_case(json!({"appArmorProfile": {"type": "Unconfined"}}), json!({}), "Unconfined"; "the pods")]
    #[test_case(json!({"appArmorProfile": {"type": "Unconfined"}}), json!({"appArmorProfile": {"type": "RuntimeDefault"}}), ""; "own over the pods")]
    #[test_case(json!({}), json!({"appArmorProfile": {"type": "Localhost", "localhostProfile": "web"}}), "Localhost/web"; "of the node")]
    #[test_case(json!({}), json!({}), "Localhost/old"; "annotation")]
    fn apparmor_profiles(whole: Value, own: Value, want: &str) {
        let mut p = pod(whole, own);
        let key = "container.apparmor.security.beta.kubernetes.io/c".to_owned();
        p.pod.metadata.annotations = Some([(key, "localhost/old".to_owned())].into());
        assert_eq!(of_container(&p, &p.members[0], &Image::default()).apparmor, want);
    }

    fn image(uid: Option<i64>, username: &str) -> Image {
        Image { uid, username: username.into(), ..Image::default() }
    }

    #[test_case(json!({}), image(None, ""), (Some(0), ""); "nobody says")]
    #[test_case(json!({}), image(Some(7), ""), (Some(7), ""); "the image says")]
    #[test_case(json!({"runAsGroup": 3}), image(None, "web"), (None, "web"); "by name")]
    #[test_case(json!({"runAsUser": 9}), image(None, "web"), (Some(9), ""); "the pod says")]
    fn who_it_runs_as(whole: Value, image: Image, want: (Option<i64>, &str)) {
        let p = pod(whole, json!({}));
        let s = of_container(&p, &p.members[0], &image);
        assert_eq!((s.run_as_user, s.run_as_username.as_str()), want);
    }

    #[test_case(json!({}), json!({}), image(Some(0), ""), None; "nothing asked")]
    #[test_case(json!({"runAsNonRoot": true}), json!({}), image(Some(0), ""), Some("will run as root"); "root image")]
    #[test_case(json!({"runAsNonRoot": true}), json!({}), image(None, ""), Some("will run as root"); "image says nothing")]
    #[test_case(json!({"runAsNonRoot": true}), json!({}), image(None, "web"), Some("non-numeric user (web)"); "name")]
    #[test_case(json!({"runAsNonRoot": true}), json!({}), image(Some(5), ""), None; "user image")]
    #[test_case(json!({"runAsNonRoot": true, "runAsUser": 5}), json!({}), image(Some(0), ""), None; "user asked for")]
    #[test_case(json!({"runAsNonRoot": true}), json!({"runAsUser": 0}), image(Some(5), ""), Some("breaks non-root"); "root asked for")]
    #[test_case(json!({"runAsNonRoot": true}), json!({"runAsNonRoot": false}), image(Some(0), ""), None; "container waives")]
    fn non_root(whole: Value, own: Value, image: Image, want: Option<&str>) {
        let p = pod(whole, own);
        match (check_non_root(&p, &p.members[0], &image), want) {
            (Ok(()), None) => {}
            (Err(e), Some(part)) => assert!(e.contains(part), "{e}"),
            (got, want) => panic!("{got:?}, wanted {want:?}"),
        }
    }
}
