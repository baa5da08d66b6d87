//! Images of a node: registries with all that makes them hard to reach, images from the start, and what is removed when.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use orch::kubelet::containerd::{Containerd, Options};
use orch::kubelet::cri::CriRuntime;
use orch::kubelet::images::{self, Archive, Entry};
use orch::kubelet::registries::{Registries, Rewrites};
use orch::kubelet::runtime::Runtime;
use serde_json::Value;

use crate::harness::{Cluster, DataDir};
use crate::net::lab::{Ns, ip};

/// The one user of the registry, and its line in the registry's list (bcrypt of the password).
const USER: (&str, &str) = ("me", "secret:word");
const HTPASSWD: &str = "me:$2y$05$abcdefghijklmnopqrstuuCFAENiKBlCyBuDPzJAoyIPDH7szvmzC\n";

/// The address of the registry's machine.
const REGISTRY: &str = "198.51.100.7";

/// Debian's docker-registry, with a certificate of a private CA and a password.
struct DockerRegistry {
    process: Child,
    host: String,
}

impl DockerRegistry {
    fn start(dir: &Path) -> Self {
        let port = TcpListener::bind((REGISTRY, 0)).unwrap().local_addr().unwrap().port();
        let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let ca_cert = ca.self_signed(&ca_key).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let issuer = rcgen::Issuer::new(ca, ca_key);
        let cert = rcgen::CertificateParams::new(vec![REGISTRY.into()]).unwrap().signed_by(&key, &issuer).unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.join(name), text).unwrap();
        write("ca.crt", &ca_cert.pem());
        write("tls.crt", &cert.pem());
        write("tls.key", &key.serialize_pem());
        write("htpasswd", HTPASSWD);
        let at = |name: &str| dir.join(name).display().to_string();
        let config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http:\n  addr: {REGISTRY}:{port}\n  tls: {{certificate: {}, key: {}}}\n\
             auth: {{htpasswd: {{realm: test, path: {}}}}}\n",
            at("storage"),
            at("tls.crt"),
            at("tls.key"),
            at("htpasswd")
        );
        write("registry.yml", &config);
        let program = "docker-registry";
        let process = Command::new(program).arg("serve").arg(dir.join("registry.yml")).stdout(Stdio::null()).spawn();
        let process = process.expect("docker-registry is installed (scripts/deps.sh test)");
        let end = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect((REGISTRY, port)).is_err() {
            assert!(Instant::now() < end, "the registry does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { process, host: format!("{REGISTRY}:{port}") }
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn archive(name: &str) -> Vec<u8> {
    let files = [Entry::file("name", 0o644, name.as_bytes().to_vec())];
    Archive { name: name.into(), ..Archive::default() }.build(&files).unwrap()
}

/// A containerd with the registries that `text` says.
async fn containerd(dir: &Path, text: &str) -> (Containerd, CriRuntime) {
    let file = dir.join("registries.yaml");
    std::fs::write(&file, text).unwrap();
    let registries = Registries::load(Some(&file)).unwrap();
    let rewrites = Rewrites::of(&registries);
    let options = Options { registries, ..Options::for_data_dir(dir) };
    let containerd = Containerd::prepare(&options).unwrap();
    containerd.start().await.unwrap();
    let runtime = CriRuntime::new(containerd.socket()).with_rewrites(rewrites);
    (containerd, runtime)
}

#[test]
fn a_private_registry_is_reached_by_its_own_name_and_as_a_mirror_that_renames() {
    // Clients speak plain HTTP to a loopback address, whatever they are told.
    let machine = Ns::new("registry");
    ip(&["-n", &machine.name, "addr", "add", &format!("{REGISTRY}/32"), "dev", "lo"]);
    machine.block_on(private_registry);
}

async fn private_registry() {
    orch::pki::install_provider();
    let dir = DataDir::new();
    let registry = DockerRegistry::start(dir.path());
    let (host, ca) = (&registry.host, dir.path().join("ca.crt"));

    // Nothing is known of the registry yet; containerd's own client fills it.
    let (first, runtime) = containerd(dir.path(), "").await;
    let path = dir.path().join("image.tar");
    std::fs::write(&path, archive("docker.io/library/web:v1")).unwrap();
    images::import(first.socket(), &path, None, |_| {}).await.unwrap();
    let (user, password) = USER;
    let push = Command::new("ctr")
        .args(["--address", &first.socket().display().to_string(), "--namespace", "k8s.io", "images", "push"])
        .args(["--user", &format!("{user}:{password}"), "--tlscacert", &ca.display().to_string()])
        .args([&format!("{host}/mirrored/web:v1"), "docker.io/library/web:v1"])
        .output()
        .unwrap();
    assert!(push.status.success(), "{push:?}");
    let id = runtime.image("docker.io/library/web:v1").await.unwrap().unwrap().id;
    runtime.remove_image(&id).await.unwrap();
    let by_name = format!("{host}/mirrored/web:v1");
    let error = runtime.pull_image(&by_name, None).await.unwrap_err().to_string();
    assert!(error.contains("x509") || error.contains("certificate"), "its CA is unknown: {error}");

    // With another configuration containerd is another one, and containers would run on.
    let tls = format!("configs: {{\"{host}\": {{tls: {{ca_file: {}}}}}}}\n", ca.display());
    let (second, runtime) = containerd(dir.path(), &tls).await;
    let error = runtime.pull_image(&by_name, None).await.unwrap_err();
    let failure = images::PullFailure::of(&error);
    assert!(matches!(failure, images::PullFailure::Denied(_)), "{error}");
    drop((first, second));

    let all = format!(
        "mirrors:\n  docker.io:\n    endpoint: [\"https://{host}\"]\n    rewrite: {{\"^library/(.*)\": \"mirrored/$1\"}}\n\
         configs:\n  \"{host}\":\n    tls: {{ca_file: {}}}\n    auth: {{username: {user}, password: \"{password}\"}}\n",
        ca.display()
    );
    let (third, runtime) = containerd(dir.path(), &all).await;
    runtime.pull_image(&by_name, None).await.unwrap();
    runtime.remove_image(&id).await.unwrap();
    // Docker's registry is not reached from here: only the mirror can have given it.
    assert_eq!(runtime.pull_image("web:v1", None).await.unwrap(), id);
    // containerd hears of names that were removed a moment later.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let all = runtime.images().await.unwrap();
        let pulled = all.iter().find(|i| i.id == id).unwrap();
        assert_eq!(pulled.tags, ["docker.io/library/web:v1"], "the mirror's name is no name of it: {pulled:?}");
        if pulled.digests.iter().all(|d| d.starts_with("docker.io/library/web@sha256:")) {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{pulled:?}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    third.stop().await.unwrap();
}

fn pod(name: &str, image: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  \
         - {{name: main, image: \"localhost/orch/web:{image}\", imagePullPolicy: Never, command: [sleep, \"1000\"]}}\n"
    )
}

#[test]
fn images_from_the_start_are_kept_and_a_node_in_need_gets_rid_of_the_rest() {
    let mut cluster = Cluster::with_node();
    cluster.import_web("idle");
    cluster.import_web("used");
    cluster.apply(&pod("user", "used"));
    cluster.k(&["wait", "--for=condition=Ready", "pod/user", "--timeout=60s"]);
    let images = cluster.data_dir().join("agent/images");
    std::fs::create_dir_all(&images).unwrap();
    std::fs::write(images.join("kept.tar"), cluster.web_archive("kept")).unwrap();
    let listed = |cluster: &Cluster| {
        let out = cluster.ctl(&["image", "ls", "--data-dir", &cluster.data_dir().display().to_string()]);
        out.stdout
    };

    // Every disk is too full for this kubelet, and every image old enough.
    cluster.end_server(Signal::SIGTERM);
    let gc = ["image-gc-high-threshold=0", "image-gc-low-threshold=0", "minimum-image-ttl-duration=0s"];
    cluster.restart_with(&gc.map(|a| format!("--kubelet-arg={a}")));
    cluster.eventually("the image that nobody uses is gone", || !listed(&cluster).contains("idle"));
    let left = listed(&cluster);
    for name in ["kept", "used", "pause"] {
        assert!(left.contains(name), "{name} stays\n{left}");
    }
    cluster.apply(&pod("other", "kept"));
    cluster.k(&["wait", "--for=condition=Ready", "pod/other", "--timeout=60s"]);
    cluster.k(&["delete", "pod", "other"]);

    // No machine has so much memory: the pod has to go, and no other one comes.
    cluster.end_server(Signal::SIGTERM);
    cluster.restart_with(&["--kubelet-arg=eviction-hard=memory.available<1Ei".to_owned()]);
    let pressure = || {
        let node = cluster.get("node", "box");
        let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|c| c["type"] == "MemoryPressure" && c["status"] == "True")
    };
    cluster.eventually("the node tells that it is in need", pressure);
    cluster.eventually("its taint keeps others away", || {
        cluster.field("node", "box", "/spec/taints").to_string().contains("node.kubernetes.io/memory-pressure")
    });
    cluster.eventually("the pod is evicted", || cluster.field("pod", "user", "/status/reason") == "Evicted");
    let status = cluster.get("pod", "user")["status"].clone();
    assert_eq!(status["phase"], "Failed");
    let message = status["message"].as_str().unwrap_or_default().to_owned();
    assert!(
        message.starts_with("The node was low on resource: memory. Threshold quantity: 1Ei, available: "),
        "{message}"
    );
    let target = |c: &Value| c["type"] == "DisruptionTarget" && c["reason"] == "TerminationByKubelet";
    assert!(status["conditions"].as_array().unwrap().iter().any(target), "{status}");
    // One that somebody binds to it all the same is refused.
    cluster.apply(&pod("late", "kept").replace("spec:\n", "spec:\n  nodeName: box\n"));
    cluster.eventually("it is refused", || cluster.field("pod", "late", "/status/phase") == "Failed");
    let told = cluster.field("pod", "late", "/status/message");
    assert_eq!(told, "Pod was rejected: The node had condition: [MemoryPressure]. ");
}
