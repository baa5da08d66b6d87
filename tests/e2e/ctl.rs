//! "What people's hands know": the stock kubectl and `orch ctl` print the same and end with the same code.
//!
//! Each line is run by both, each in a namespace of its own, in order. Where no kubectl is installed the test says so and
//! ends.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const ORCH: &str = env!("CARGO_BIN_EXE_orch");

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: dp, labels: {a: b}, annotations: {x: z}}
spec:
  automountServiceAccountToken: false
  initContainers: [{name: i, image: nginx}]
  containers:
  - {name: c, image: nginx, args: [z], livenessProbe: {tcpSocket: {port: 1}}, readinessProbe: {tcpSocket: {port: 1}}}
"#;

const MANIFEST: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: cm1, labels: {a: b}}
data: {k: "v<1>", z: "2"}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, clusterIP: None, ports: [{port: 80}]}
"#;

/// A kustomization with a base: what is generated, renamed, patched and followed.
const KUSTOMIZATION: &[(&str, &str)] = &[
    (
        "k/base/kustomization.yaml",
        "resources: [d.yaml]\ngeneratorOptions: {labels: {gen: 'yes'}}\n\
         configMapGenerator: [{name: cfg, literals: [a=b]}]\nsecretGenerator: [{name: sec, literals: [p=1]}]\n",
    ),
    (
        "k/base/d.yaml",
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: kd}\nspec:\n  replicas: 0\n  selector: {matchLabels: {app: kd}}\n  \
         template:\n    metadata: {labels: {app: kd}}\n    spec:\n      containers:\n      - {name: c, image: 'nginx:1', envFrom: \
         [{configMapRef: {name: cfg}}], env: [{name: P, valueFrom: {secretKeyRef: {name: sec, key: p}}}]}\n      - {name: d, image: x}\n",
    ),
    (
        "k/kustomization.yaml",
        "resources: [base]\nnamePrefix: p-\nnameSuffix: -s\nlabels: [{pairs: {m: '2'}, includeSelectors: true}, {pairs: {t: '3'}}]\n\
         commonAnnotations: {an: x}\nimages: [{name: nginx, newTag: '9'}]\n\
         configMapGenerator: [{name: cfg, behavior: merge, literals: [c=d]}]\npatches:\n- patch: |\n    apiVersion: apps/v1\n    \
         kind: Deployment\n    metadata: {name: kd}\n    spec: {template: {spec: {containers: [{name: c, env: [{name: Q, value: q}]}, \
         {name: e, image: z}]}}}\n- target: {kind: Deployment}\n  patch: |-\n    - {op: add, path: /spec/paused, value: true}\n",
    ),
];

/// What people get wrong.
const BROKEN: &[(&str, &str)] = &[
    ("bad/field.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b1}\ndatta: {a: b}\n"),
    ("bad/type.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b2}\ndata: {a: [1]}\n"),
    ("bad/number.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b3}\ndata: {a: 1}\n"),
    ("bad/twice.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b4}\ndata: {a: b}\ndata: {a: c}\n"),
    ("bad/kind.yaml", "apiVersion: v1\nkind: ConfigMapp\nmetadata: {name: b5}\n"),
    ("bad/version.yaml", "apiVersion: apps/v9\nkind: Deployment\nmetadata: {name: b6}\n"),
    ("bad/text.yaml", "a: b: c\n"),
    ("bad/name.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: Not_Good}\n"),
    ("bad/noname.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {}\n"),
    ("bad/nokind.yaml", "apiVersion: v1\nmetadata: {name: b7}\n"),
    ("bad/stale.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: cm2, resourceVersion: '1'}\n"),
    (
        "bad/rules.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: b8}\nspec: {ports: [{port: 0}, {port: 99999, name: B}]}\n",
    ),
];

/// Metrics as a metrics server has them; here they are custom resources, which `top` cannot tell.
const METRICS: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: pods.metrics.k8s.io, annotations: {api-approved.kubernetes.io: "unapproved, for a test"}}
spec:
  group: metrics.k8s.io
  scope: Namespaced
  names: {plural: pods, singular: podmetrics, kind: PodMetrics}
  versions: [{name: v1beta1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: nodes.metrics.k8s.io, annotations: {api-approved.kubernetes.io: "unapproved, for a test"}}
spec:
  group: metrics.k8s.io
  scope: Cluster
  names: {plural: nodes, singular: nodemetrics, kind: NodeMetrics}
  versions: [{name: v1beta1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
"#;
const MEASURED: &str = r#"
apiVersion: v1
kind: Node
metadata: {name: a}
status: {allocatable: {cpu: "2", memory: 4Gi}, capacity: {cpu: "4", memory: 8Gi}}
---
{apiVersion: v1, kind: Node, metadata: {name: c}}
---
{apiVersion: metrics.k8s.io/v1beta1, kind: NodeMetrics, metadata: {name: a}, timestamp: "2026-01-01T00:00:00Z", window: 10s, usage: {cpu: 33333333n, memory: 2000Mi}}
---
{apiVersion: metrics.k8s.io/v1beta1, kind: PodMetrics, metadata: {name: p, labels: {a: b}}, timestamp: "2026-01-01T00:00:00Z", window: 10s, containers: [{name: c, usage: {cpu: "1", memory: 100Mi}}]}
---
{apiVersion: metrics.k8s.io/v1beta1, kind: PodMetrics, metadata: {name: q}, timestamp: "2026-01-01T00:00:00Z", window: 10s, containers: [{name: w, usage: {cpu: 5m, memory: 1Mi}}, {name: x, usage: {cpu: 7m, memory: 3Mi}}]}
"#;

/// Lines for a cluster with metrics.
const WITH_METRICS: &[&str] = &[
    "top node",
    "top nodes a --show-capacity",
    "top node nope",
    "top pod",
    "top pod p",
    "top pod nope",
    "top pod -l a=b --no-headers",
    "top pod --sum --sort-by=memory",
    "top pod --containers --sum",
    "top pod p -l a=b",
    "top pod --sort-by=bogus",
    "top pod a b",
    "delete quota q1",
    "debug node/nope --image=x -q",
    "debug node/c --image=x -q --profile=netadmin -c look",
];

/// Words are parted by blanks; `M` stands for the manifest's file, `K` for the kustomization's directory, `@/` for
/// the directory of the test, and `+` within a word for a blank.
const LINES: &[&str] = &[
    "apply -f M",
    "apply -f M",
    "get cm,svc -o name",
    "apply view-last-applied cm cm1",
    "apply view-last-applied cm cm1 -o json",
    "apply view-last-applied cm cm1 -o bogus",
    "apply set-last-applied -f M",
    "apply -f M --prune",
    "apply -f M --prune --all -l a=b",
    "apply -f M --prune -l a=b --prune-allowlist=x",
    "apply -f M --prune -l a=b --prune-allowlist=core/v1/ConfigMap",
    "apply -f M --server-side --force",
    "apply -f M --grace-period=1",
    "apply extra",
    "kustomize K",
    "kustomize K/base",
    "apply -k K",
    "apply -k K",
    "get -k K -o name",
    "delete -k K",
    "apply -k K -f M",
    "get cm -o name --show-labels",
    "get cm -o json=x",
    "get cm --request-timeout=bogus",
    "get cm cm1 -n nosuch",
    "get cm -o name --sort-by=.nope",
    "label cm -l a=b --list",
    "patch cm cm1 --local -p {}",
    "set env deploy/d2 --from=bogus",
    "rollout restart deploy -l zz=1",
    "taint node n k=v:NoSchedule k=w:NoSchedule",
    "get cm cm1 -o jsonpath={.data}",
    "get cm -L a --no-headers",
    "get cm --show-labels --no-headers",
    "get svc -o custom-columns=N:.metadata.name,P:.spec.ports[*].port",
    "get svc/web cm/cm1 -o go-template={{.kind}}",
    "get pods",
    "get nosuch",
    "get pod nope",
    "get cm cm1 nope -o name",
    "get pod po/x",
    "create -f M",
    "create cm cm2 --from-literal=a=b",
    "create secret generic s1 --from-literal=a=b",
    "create deployment d2 --image=nginx --replicas=0",
    "create service clusterip s2 --tcp=80:8080",
    "create service clusterip s3 --tcp=abc",
    "create ns",
    "create ns a b",
    "create bogus x",
    "create cm c7 --from-literal=a=b --from-literal=a=c",
    "create cm c8 --from-file=/nope",
    "create cm c9 --from-env-file=/nope --from-literal=a=b",
    "create cm c10 --dry-run=bogus",
    "create cm h1 --from-literal=a=b --append-hash -o name",
    "create secret generic h1 --from-literal=a=b --append-hash -o name",
    "create cm c11 --from-file=a=b=c",
    "create cm c11 --from-literal=a/b=c",
    "create --raw nope -f M",
    "create role r2 --verb=use --resource=pods",
    "create clusterrole cr --verb=watch --non-resource-url=/x",
    "create quota q2 --hard=pods=x",
    "create job j2 --image=x --from=cronjob/y",
    "create service nodeport s5",
    "create service clusterip s5 --tcp=80:99999",
    "create ingress i --rule=foo/=x",
    "create token nope --bound-object-name=x",
    "create secret tls t1 --cert=/nope",
    "create secret tls t1 --cert=/nope --key=/nope",
    "create deploy d7 --image=nginx --dry-run=server",
    "create deployment d7 --image=nginx --replicas=-1",
    "create deployment --image=nginx",
    "create clusterrole cr --verb=get",
    "create quota q --hard=bogus",
    "create resourcequota q1 --hard=pods=1",
    "create pdb p --min-available=1",
    "create pdb p --selector=a=b --min-available=1 --max-unavailable=1",
    "create token nope",
    "create token",
    "run --image=x",
    "run r --image=x --restart=Bogus",
    "run r --image=x --rm",
    "run r --image=x --expose",
    "run r --image=Bad:Im:age",
    "run r --image=x --port=x",
    "run r --image=x --image-pull-policy=Bogus",
    "run r --image=x --override-type=bogus --overrides={}",
    "run r --image=x -i --dry-run=client",
    "create role r1 --verb=get,list --resource=pods,deployments.apps",
    "create rolebinding rb1 --role=r1 --user=jane",
    "create job j1 --image=busybox -- echo hi",
    "get role r1 -o jsonpath={.rules}",
    "label cm cm1 x=y",
    "label cm cm1 x=z",
    "label cm cm1 x=z --overwrite",
    "label cm cm1 x-",
    "label cm cm1 x=1 x-",
    "label cm cm1 a=b=c",
    "label --local -f M s=2",
    "label cm cm1 s=2 --local",
    "label cm cm1 x=1 --resource-version=1",
    "annotate cm cm1 q=r",
    "patch cm cm1 -p {\"data\":{\"p\":\"1\"}}",
    "patch cm cm1 -p {\"data\":{\"p\":\"1\"}}",
    "patch cm cm1 --type=json -p [{\"op\":\"remove\",\"path\":\"/data/p\"}]",
    "rollout pause deploy/d2",
    "rollout resume deploy/d2",
    "scale deploy/d2 --replicas=0",
    "scale deploy d2 --replicas=1 --current-replicas=7",
    "set image deploy/d2 nginx=nginx:3",
    "set image deploy/d2 x=nginx:3",
    "set env deploy/d2 A=b",
    "set env deploy/d2 --from=cm/cm2",
    "set env deploy/d2 --list --resolve",
    "set env deploy/d2 1BAD=x",
    "set env deploy/d2 A=c --overwrite=false",
    "set selector svc web x=y",
    "set selector deploy/d2 x=y",
    "set subject rolebinding rb1 --user=bob",
    "set subject deploy/d2 --user=bob",
    "set serviceaccount deploy/d2 sa1",
    "set image cm/cm1 a=b",
    "set image deploy/d2 a=b --local",
    "autoscale deploy d2 --max=3",
    "autoscale deploy d2 --min=5 --max=3",
    "autoscale cm cm1 --max=3",
    "expose deploy d2 --name=web2 --port=81 --target-port=80",
    "create -f @/bad/field.yaml",
    "create -f @/bad/field.yaml --validate=warn",
    "create -f @/bad/field.yaml --validate=ignore -o name --dry-run=server",
    "apply -f @/bad/field.yaml",
    "apply -f @/bad/field.yaml --server-side",
    "create -f @/bad/type.yaml",
    "apply -f @/bad/type.yaml",
    "create -f @/bad/number.yaml",
    "create -f @/bad/kind.yaml",
    "apply -f @/bad/kind.yaml",
    "create -f @/bad/version.yaml",
    "create -f @/bad/text.yaml",
    "create -f @/bad/name.yaml",
    "create -f @/bad/noname.yaml",
    "create -f @/bad/nokind.yaml",
    "create -f @/bad/rules.yaml",
    "replace -f @/bad/stale.yaml",
    "create -f @/bad/big.yaml",
    "replace -f @/bad/name.yaml",
    "delete -f @/bad/kind.yaml",
    "create cm cm2",
    "get cm --kubeconfig=@/wrong-token",
    "get cm --server=https://127.0.0.1:1",
    "apply -f @/dp.yaml",
    "get pod dp -o yaml --show-managed-fields=false",
    "debug dp --image=busybox -c look",
    "debug dp --image=busybox -c look",
    "debug dp --image=busybox -c look2 --target=c --profile=general --env=A=b -- sh -c x",
    "debug dp --image=busybox -c look3 --profile=restricted --arguments-only -i --attach=false -- a",
    "get pod dp -o jsonpath={.spec.ephemeralContainers}",
    "debug dp --copy-to=dp1 --image=busybox -c look --profile=legacy",
    "debug dp --copy-to=dp2 --image=busybox -c look --profile=general",
    "debug dp --copy-to=dp3 --image=busybox -c look --profile=baseline --keep-labels",
    "debug dp --copy-to=dp4 --image=busybox -c look --profile=restricted --keep-annotations --keep-liveness",
    "debug dp --copy-to=dp5 --image=busybox -c look --profile=netadmin --keep-init-containers=false",
    "debug dp --copy-to=dp6 --image=busybox -c look --profile=sysadmin --share-processes=false",
    "debug dp --copy-to=dp7 -c c --profile=general -- sleep 1",
    "debug dp --copy-to=dp8 --set-image=*=busybox,c=nginx:3",
    "debug dp --copy-to=dp9 --profile=general --set-image=c=nginx:3",
    "get pod dp1 dp2 dp3 dp4 -o jsonpath={.items[*].metadata.labels}{.items[*].metadata.annotations}{.items[*].spec}",
    "get pod dp5 dp6 dp7 dp8 dp9 -o jsonpath={.items[*].metadata.labels}{.items[*].metadata.annotations}{.items[*].spec}",
    "debug svc/web --image=busybox",
    "debug nope --image=busybox",
    "debug dp --image=busybox --profile=bogus",
    "debug dp",
    "debug dp --image=B:a:d",
    "debug dp --copy-to=dp --image=busybox -c look -q",
    "top pod",
    "top node x -l a=b",
    "proxy --port=1 --unix-socket=/x",
    "cluster-info dump -o jsonpath={.kind}{.items[*].metadata.name} --namespaces=nope",
    "cluster-info dump -o bogus",
    "set selector svc web2 a+in+(b)",
    "rollout undo svc/web2",
    "rollout undo cm/cm1",
    "get po --as-group=x",
    "delete -f M --dry-run=client",
    "create cm fold --from-literal=x=one+two+three+four+five+six+seven+eight+nine+ten+eleven+twelve+thirteen+fourteen+fifteen+sixteen",
    "get cm fold -o yaml",
    "autoscale deploy d2 --max=3 --name=x --dry-run=client -o jsonpath={.spec}",
    "autoscale cm cm1 cm2 --max=3",
    "get hpa.v1.autoscaling d2 -o jsonpath={.apiVersion}",
    "get cm cm1 -o jsonpath={.metadata[\"name\"]}",
    "get deploy --sort-by=.nope --no-headers",
    // Of one key: kubectl writes them in no order.
    "describe cm cm2",
    "describe secret s1",
    "describe quota q1",
    "describe role r1",
    "wait --for=jsonpath={.data.z}=2 cm/cm1",
    "wait --for=condition=Ready cm/cm1 --timeout=1s",
    "wait --for=condition=Ready cm/cm1 cm/cm2 --timeout=1s",
    "wait --for=condition=Ready cm/cm1 --timeout=0",
    "wait --for=create cm/nope --timeout=1s",
    "wait cm/cm1",
    "wait --for=condition=Ready",
    "rollout status deploy --watch=false",
    "rollout history deploy",
    "rollout history deploy/d2 --revision=1",
    "rollout bogus",
    "rollout restart cm/cm1",
    "describe deploy d2",
    "diff -f /nope",
    "exec p ls",
    "exec",
    "port-forward p",
    "cp a b",
    "edit",
    "cordon",
    "drain",
    "drain n -l a=b",
    "delete",
    "delete cm x --all",
    "delete cm -l a=b --all",
    "replace -f M --timeout=1s",
    "cp a b c",
    "logs p a b",
    "delete cm x --cascade=bogus",
    "label cm cm1 bad/label/x=y",
    "annotate cm cm1 a/b/c=d",
    "set env deploy/d2 --list",
    "set resources deploy/d2 --limits=cpu=bogus",
    "patch cm cm1 --patch-file=/nope",
    "patch deploy d2 -p {\"spec\":{\"nope\":1}}",
    "patch deploy d2 --subresource=scale --type=merge -p {\"spec\":{\"replicas\":0}}",
    "get cm -l a=b=c",
    "get cm --field-selector metadata.nope=x",
    "get nosuch.example.com",
    "get po/x/y",
    "get cm -o custom-columns=",
    "get cm -o custom-columns-file=/nope",
    "get cm cm1 -o go-template={{.nope",
    "get cm --output-watch-events",
    "get --raw /version -o yaml",
    "get --raw nope",
    "get --raw /version cm",
    "get deploy --subresource=scale",
    "get cm,svc -w",
    "get cm cm1 --field-selector=a=b",
    "get cm --user=nope",
    "get cm --server-print=false --no-headers",
    "get cm --cluster=nope",
    "auth can-i create pods",
    "auth can-i --list --as=jane",
    "auth whoami --as=jane --as-uid=u",
    "certificate approve",
    "certificate approve nope",
    "events --types=Bogus",
    "events --for=bad",
    "config get-contexts nope",
    "config use-context nope",
    "config view -o jsonpath={.users[*].name}",
    "completion bogus",
    "auth can-i get pods --as=jane --as-group=nobodies",
    "api-versions",
    "api-resources -o name",
    "explain pod",
    "explain pod.spec",
    "explain pod.spec.restartPolicy",
    "explain pod.spec.nope",
    "explain pod.spec.containers.ports --recursive",
    "explain deploy.spec.strategy",
    "explain nosuch",
    "explain",
    "delete cm cm2 --dry-run=client",
    "delete cm cm2 nope",
    "delete cm nope --ignore-not-found",
    "delete cm -l a=b",
    "delete svc --all",
    "logs nope",
    "get cm -o bogus",
];

/// A server of its own, ended with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(dir: &Path) -> Server {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let child = Command::new(ORCH)
        .args(["server", "--disable-agent", "--disable=metrics-server", "--data-dir"])
        .arg(dir.join("data"))
        .arg("--write-kubeconfig")
        .arg(dir.join("kubeconfig"))
        .args(["--https-listen-port", &port.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let server = Server(child);
    let deadline = Instant::now() + Duration::from_secs(30);
    while !run(&[ORCH, "ctl"], dir, "default", "get ns default").0.eq(&Some(0)) {
        assert!(Instant::now() < deadline, "the server did not answer within 30 s");
        std::thread::sleep(Duration::from_millis(100));
    }
    server
}

/// Exit code, stdout, stderr; the namespace's name is taken out, and ages (with the spaces behind them), and times, which
/// depend on when a command ran.
fn run(program: &[&str], dir: &Path, ns: &str, line: &str) -> (Option<i32>, String, String) {
    let at = |path: &str| dir.join(path).display().to_string();
    let words = line.split(' ').map(|word| match word {
        "M" => at("m.yaml"),
        "K" => at("k"),
        "K/base" => at("k/base"),
        word => word.replace("@/", &format!("{}/", dir.display())).replace('+', " "),
    });
    let output = Command::new(program[0])
        .args(&program[1..])
        .arg("--kubeconfig")
        .arg(dir.join("kubeconfig"))
        .args(["-n", ns])
        .args(words)
        .env("HOME", dir)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let ages = regex::Regex::new(r"\b(?:\d+[smhd])+\b *").unwrap();
    let times = regex::Regex::new(r"\w{3}, \d\d \w{3} \d{4} [\d:]{8} [+-]\d{4}").unwrap();
    // What client libraries log is no message of theirs.
    let logged = regex::Regex::new(r"(?m)^[IWEF]\d{4} [\d:.]+ .*\n").unwrap();
    let made =
        regex::Regex::new(r#"(creationTimestamp: |uid: |resourceVersion: |TransitionTime: )"?[\w:-]+"?"#).unwrap();
    let text = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).replace(ns, "NS");
        let text = logged.replace_all(&text, "");
        let text = made.replace_all(&text, "$1OWN");
        times.replace_all(&ages.replace_all(&text, "AGE "), "TIME").into_owned()
    };
    (output.status.code(), by_name(&text(&output.stdout)), text(&output.stderr))
}

/// Sorts the replica sets that `describe` lists: both clients list them by the second in which they were made, and the two
/// namespaces are not filled in the same seconds.
fn by_name(text: &str) -> String {
    let line = |line: &str| match line.strip_prefix("OldReplicaSets:") {
        Some(sets) => {
            let mut sets: Vec<&str> = sets.trim().split(", ").collect();
            sets.sort_unstable();
            format!("OldReplicaSets:  {}\n", sets.join(", "))
        }
        None => line.to_owned(),
    };
    text.split_inclusive('\n').map(line).collect()
}

/// What each line does differently.
fn compare(dir: &Path, lines: &[&str]) -> Vec<String> {
    let mut differing = Vec::new();
    for line in lines {
        let stock = run(&["kubectl"], dir, "of-kubectl", line);
        let own = run(&[ORCH, "ctl"], dir, "of-orch", line);
        if stock != own {
            differing.push(format!("{line}\n  kubectl:  {stock:?}\n  orch ctl: {own:?}"));
        }
    }
    differing
}

/// A kubeconfig with a token that the server does not know.
fn wrong_token(dir: &Path) {
    let text = std::fs::read_to_string(dir.join("kubeconfig")).unwrap();
    let mut config: serde_json::Value = serde_yaml::from_str(&text).unwrap();
    config["users"][0]["user"] = serde_json::json!({"token": "wrong"});
    std::fs::write(dir.join("wrong-token"), config.to_string()).unwrap();
}

#[test]
fn the_same_words_the_same_answers() {
    if Command::new("kubectl").args(["version", "--client"]).output().is_err() {
        eprintln!("no kubectl on this machine: nothing to compare with");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let big =
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: big}}\ndata: {{a: {}}}\n", "x".repeat(4 << 20));
    let files = [("m.yaml", MANIFEST), ("dp.yaml", POD), ("bad/big.yaml", &big)];
    for (name, text) in files.iter().chain(KUSTOMIZATION).chain(BROKEN) {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let _server = start(dir.path());
    for ns in ["of-kubectl", "of-orch"] {
        assert_eq!(run(&["kubectl"], dir.path(), "default", &format!("create ns {ns}")).0, Some(0));
    }
    wrong_token(dir.path());
    let mut differing = compare(dir.path(), LINES);
    let apply = |ns: &str, text: &str| {
        std::fs::write(dir.path().join("more.yaml"), text).unwrap();
        let ran = run(&["kubectl"], dir.path(), ns, "apply -f @/more.yaml");
        assert_eq!(ran.0, Some(0), "{ran:?}");
    };
    apply("default", METRICS);
    let established = "wait --for=condition=Established crd/pods.metrics.k8s.io crd/nodes.metrics.k8s.io";
    assert_eq!(run(&["kubectl"], dir.path(), "default", established).0, Some(0));
    ["of-kubectl", "of-orch"].iter().for_each(|ns| apply(ns, MEASURED));
    differing.extend(compare(dir.path(), WITH_METRICS));
    assert!(
        differing.is_empty(),
        "{} of {} differ:\n{}",
        differing.len(),
        LINES.len() + WITH_METRICS.len(),
        differing.join("\n")
    );
}
