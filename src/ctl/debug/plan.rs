//! What `debug` patches or creates. Pure.

use serde_json::{Map, Value, json};

use super::Keep;
use super::profile::Profile;
use crate::api::patch::strategic;
use crate::api::schema::{View, table};
use crate::api::value::ValueExt;
use crate::ctl::create::set_unless_empty;
use crate::ctl::cx::Done;
use crate::ctl::fail::fail;

/// What the container shall be.
pub struct Wish<'a> {
    /// The name, or nothing.
    pub container: &'a str,
    /// The image, or nothing.
    pub image: &'a str,
    /// When to pull it, or nothing.
    pub pull_policy: &'a str,
    /// The words behind `--`.
    pub command: &'a [String],
    /// They are arguments.
    pub arguments_only: bool,
    /// Variables.
    pub env: &'a [(String, String)],
    /// Standard input stays open.
    pub stdin: bool,
    /// A terminal.
    pub tty: bool,
    /// Whose processes to see.
    pub target: &'a str,
    /// The profile.
    pub profile: &'a Profile,
    /// Fields over those of the profile.
    pub custom: Option<&'a Value>,
}

/// What the copy of a pod shall be.
pub struct Copy<'a> {
    /// The name of the copy.
    pub name: &'a str,
    /// Other images, by container.
    pub images: &'a [(String, String)],
    /// It goes to the same node.
    pub same_node: bool,
    /// `--share-processes`, where it was given.
    pub share_processes: Option<bool>,
    /// What it keeps.
    pub keep: &'a Keep,
}

/// Which container of a copy is meant.
#[derive(Debug, PartialEq, Eq)]
pub enum Of {
    /// None: only images change.
    None,
    /// One that is there.
    Named(String),
    /// One more.
    New,
}

impl Wish<'_> {
    /// A container of its own.
    fn fresh(&self, name: &str) -> Value {
        let mut container = json!({"name": name, "terminationMessagePolicy": "File"});
        self.over(&mut container);
        container
    }

    /// Writes what was asked for over a container.
    fn over(&self, container: &mut Value) {
        if !self.command.is_empty() {
            container[if self.arguments_only { "args" } else { "command" }] = json!(self.command);
            if !self.arguments_only {
                container.remove_at("/args");
            }
        }
        let env = self.env.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        set_unless_empty(container, "/env", Value::Array(env));
        set_unless_empty(container, "/image", self.image.into());
        set_unless_empty(container, "/imagePullPolicy", self.pull_policy.into());
        for (field, on) in [("/stdin", self.stdin), ("/tty", self.tty)] {
            container.remove_at(field);
            if on {
                container.set_at(field, true);
            }
        }
    }

    /// Puts `--custom` over a container of the pod.
    fn customize(&self, pod: Value, field: &str, name: &str) -> Done<Value> {
        let Some(custom) = self.custom else { return Ok(pod) };
        let mut patch = custom.clone();
        patch["name"] = name.into();
        let Some(def) = table().kind("", "v1", "Pod") else { fail!("the kind Pod is not known here") };
        Ok(strategic::apply(pod, json!({"spec": {field: [patch]}}), View::of(def))?)
    }
}

/// Changes the container of a name.
fn with(pod: &mut Value, field: &str, name: &str, change: impl FnOnce(&mut Value)) {
    let containers = pod.pointer_mut(&format!("/spec/{field}")).and_then(Value::as_array_mut);
    if let Some(container) = containers.into_iter().flatten().find(|c| c["name"] == name) {
        change(container);
    }
}

fn push(pod: &mut Value, path: &str, item: Value) {
    let mut all = pod.items_at(path).to_vec();
    all.push(item);
    pod.set_at(path, Value::Array(all));
}

/// The pod with one ephemeral container more.
pub fn in_pod(wish: &Wish<'_>, pod: &Value, name: &str) -> Done<Value> {
    let mut pod = pod.clone();
    let mut container = wish.fresh(name);
    set_unless_empty(&mut container, "/targetContainerName", wish.target.into());
    wish.profile.in_pod.give(&mut container);
    push(&mut pod, "/spec/ephemeralContainers", container);
    wish.customize(pod, "ephemeralContainers", name)
}

/// A pod for a node.
pub fn on_node(wish: &Wish<'_>, node: &str, name: &str, container: &str) -> Done<Value> {
    let mut debugger = wish.fresh(container);
    wish.profile.on_node.give(&mut debugger);
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/managed-by": "kubectl-debug"}},
        "spec": {"containers": [], "nodeName": node, "restartPolicy": "Never", "tolerations": [{"operator": "Exists"}]},
    });
    if wish.profile.host_root {
        push(&mut debugger, "/volumeMounts", json!({"mountPath": "/host", "name": "host-root"}));
        pod["spec"]["volumes"] = json!([{"name": "host-root", "hostPath": {"path": "/"}}]);
    }
    if wish.profile.host_namespaces {
        for field in ["hostNetwork", "hostPID", "hostIPC"] {
            pod["spec"][field] = true.into();
        }
    }
    pod["spec"]["containers"] = json!([debugger]);
    wish.customize(pod, "containers", container)
}

/// Which container the words and the image are for.
pub fn container_of_copy(wish: &Wish<'_>, how: &Copy<'_>, pod: &Value) -> Done<Of> {
    let known = |field: &str| pod.items_at(&format!("/spec/{field}")).iter().any(|c| c["name"] == wish.container);
    if known("containers") || known("initContainers") {
        return Ok(Of::Named(wish.container.to_owned()));
    }
    match (wish.image.is_empty(), how.images.is_empty()) {
        (false, _) => Ok(Of::New),
        (true, false) => Ok(Of::None),
        (true, true) => fail!("you must specify image when creating new container"),
    }
}

/// A copy of the pod; `container` is the one to look around with, or empty.
pub fn copy(wish: &Wish<'_>, how: &Copy<'_>, pod: &Value, container: &str) -> Done<Value> {
    let mut copy = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": how.name}, "spec": pod["spec"]});
    for field in ["namespace", "annotations", "labels"] {
        set_unless_empty(&mut copy, &format!("/metadata/{field}"), pod["metadata"][field].clone());
    }
    copy.remove_at("/spec/ephemeralContainers");
    if let Some(share) = how.share_processes {
        copy["spec"]["shareProcessNamespace"] = share.into();
    }
    if !how.same_node {
        copy.remove_at("/spec/nodeName");
    }
    let image = |name: &str| how.images.iter().find(|(n, _)| n == name).map(|(_, image)| image);
    for one in copy.pointer_mut("/spec/containers").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(image) = image(one.str_at("/name").unwrap_or_default()).or_else(|| image("*")) {
            one["image"] = image.clone().into();
        }
    }
    if container.is_empty() {
        return Ok(copy);
    }
    let field = if names(&copy, "initContainers").contains(&container) { "initContainers" } else { "containers" };
    if names(&copy, field).contains(&container) {
        with(&mut copy, field, container, |c| wish.over(c));
    } else {
        push(&mut copy, "/spec/containers", wish.fresh(container));
    }
    if wish.profile.changes_copy {
        strip(&mut copy, how.keep);
        copy.set_if_absent("/spec/shareProcessNamespace", true);
    }
    with(&mut copy, field, container, |c| wish.profile.in_pod.give(c));
    wish.customize(copy, "containers", container)
}

fn names<'a>(pod: &'a Value, field: &str) -> Vec<&'a str> {
    pod.items_at(&format!("/spec/{field}")).iter().filter_map(|c| c.str_at("/name")).collect()
}

/// Takes away what would make others treat the copy as the pod.
fn strip(pod: &mut Value, keep: &Keep) {
    let gone = |keep: bool| !keep;
    for (field, gone) in [
        ("/metadata/labels", gone(keep.labels)),
        ("/metadata/annotations", gone(keep.annotations)),
        ("/spec/initContainers", gone(keep.init_containers)),
    ] {
        if gone {
            pod.remove_at(field);
        }
    }
    let probes = [
        ("livenessProbe", gone(keep.liveness)),
        ("readinessProbe", gone(keep.readiness)),
        ("startupProbe", gone(keep.startup)),
    ];
    for container in pod.pointer_mut("/spec/containers").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(fields) = container.as_object_mut() else { continue };
        probes.iter().filter(|(_, gone)| *gone).for_each(|(probe, _)| drop(Map::shift_remove(fields, *probe)));
    }
}

/// True where the pod runs as another user than root, so that what the container was given may not reach it.
pub fn loses_rights(pod: &Value, field: &str, container: &str) -> bool {
    let user = |at: &Value, path: &str| at.int_at(path).is_some_and(|uid| uid != 0);
    let Some(c) = pod.items_at(&format!("/spec/{field}")).iter().find(|c| c["name"] == container) else { return false };
    user(pod, "/spec/securityContext/runAsUser")
        && c.int_at("/securityContext/runAsUser") != Some(0)
        && (c["securityContext"]["privileged"] == true || !c.items_at("/securityContext/capabilities/add").is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::profile::find;
    use super::*;

    fn wish<'a>(profile: &str) -> Wish<'a> {
        Wish {
            container: "",
            image: "busybox",
            pull_policy: "",
            command: &[],
            arguments_only: false,
            env: &[],
            stdin: true,
            tty: false,
            target: "",
            profile: find(profile).unwrap(),
            custom: None,
        }
    }

    fn pod() -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"a": "b"}},
            "spec": {"nodeName": "x", "containers": [{"name": "c", "image": "i", "args": ["z"], "livenessProbe": {}}],
                "ephemeralContainers": [{"name": "e"}]}, "status": {"phase": "Running"}})
    }

    fn keep() -> Keep {
        Keep { init_containers: true, ..Keep::default() }
    }

    fn how<'a>(keep: &'a Keep) -> Copy<'a> {
        Copy { name: "q", images: &[], same_node: false, share_processes: None, keep }
    }

    #[test]
    fn a_container_more_in_a_pod() {
        let custom = json!({"env": [{"name": "A", "value": "b"}]});
        let wish = Wish { target: "c", custom: Some(&custom), ..wish("general") };
        let got = in_pod(&wish, &pod(), "d").unwrap();
        assert_eq!(
            got["spec"]["ephemeralContainers"],
            json!([{"name": "e"}, {"name": "d", "terminationMessagePolicy": "File", "image": "busybox", "stdin": true,
                "targetContainerName": "c", "securityContext": {"capabilities": {"add": ["SYS_PTRACE"]}},
                "env": [{"name": "A", "value": "b"}]}])
        );
    }

    #[test]
    fn a_pod_for_a_node() {
        let got = on_node(&wish("legacy"), "x", "n", "debugger").unwrap();
        assert_eq!(got["spec"]["hostPID"], true);
        assert_eq!(got["spec"]["containers"][0]["volumeMounts"], json!([{"mountPath": "/host", "name": "host-root"}]));
        let got = on_node(&wish("netadmin"), "x", "n", "debugger").unwrap();
        assert_eq!((&got["spec"]["hostNetwork"], &got["spec"]["volumes"]), (&json!(true), &Value::Null));
        let got = on_node(&wish("restricted"), "x", "n", "debugger").unwrap();
        assert_eq!(got["spec"]["hostPID"], Value::Null);
    }

    #[test]
    fn a_copy_is_nobodys_pod() {
        let keep = keep();
        let got = copy(&wish("general"), &how(&keep), &pod(), "d").unwrap();
        assert_eq!(got["metadata"], json!({"name": "q", "namespace": "n"}));
        assert_eq!(got["spec"]["shareProcessNamespace"], true);
        assert_eq!((&got["spec"]["nodeName"], &got["status"]), (&Value::Null, &Value::Null));
        assert_eq!(got["spec"]["ephemeralContainers"], Value::Null);
        assert_eq!(got["spec"]["containers"][0], json!({"name": "c", "image": "i", "args": ["z"]}));
        assert_eq!(got["spec"]["containers"][1]["name"], "d");
        let same = copy(&wish("legacy"), &Copy { same_node: true, ..how(&keep) }, &pod(), "d").unwrap();
        assert_eq!((&same["metadata"]["labels"], &same["spec"]["nodeName"]), (&json!({"a": "b"}), &json!("x")));
        let kept = Keep { labels: true, liveness: true, ..keep };
        let got = copy(&wish("general"), &how(&kept), &pod(), "d").unwrap();
        assert_eq!(got["metadata"]["labels"], json!({"a": "b"}));
        assert_eq!(got["spec"]["containers"][0]["livenessProbe"], json!({}));
    }

    #[test]
    fn a_container_of_a_copy_may_be_changed() {
        let (keep, words) = (keep(), ["sh".to_owned()]);
        let wish = Wish { container: "c", image: "", command: &words, ..wish("legacy") };
        assert_eq!(container_of_copy(&wish, &how(&keep), &pod()).unwrap(), Of::Named("c".into()));
        let got = copy(&wish, &how(&keep), &pod(), "c").unwrap();
        let want = json!([{"name": "c", "image": "i", "livenessProbe": {}, "command": ["sh"], "stdin": true}]);
        assert_eq!(got["spec"]["containers"], want);
    }

    #[test]
    fn images_alone_need_no_container() {
        let (keep, images) = (keep(), [("*".to_owned(), "j".to_owned())]);
        let (wish, how) = (Wish { image: "", ..wish("legacy") }, Copy { images: &images, ..how(&keep) });
        assert_eq!(container_of_copy(&wish, &how, &pod()).unwrap(), Of::None);
        assert_eq!(copy(&wish, &how, &pod(), "").unwrap()["spec"]["containers"][0]["image"], "j");
        let none = Copy { images: &[], ..how };
        assert!(container_of_copy(&wish, &none, &pod()).is_err());
    }

    #[test]
    fn a_user_takes_rights_away() {
        let pod = |user: i64| {
            json!({"spec": {"securityContext": {"runAsUser": user}, "containers": [
            {"name": "c", "securityContext": {"privileged": true}}, {"name": "d"}]}})
        };
        assert!(loses_rights(&pod(5), "containers", "c"));
        assert!(!loses_rights(&pod(0), "containers", "c"));
        assert!(!loses_rights(&pod(5), "containers", "d"));
    }
}
