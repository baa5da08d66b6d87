//! What a pod asks for is what its containers find: sources of environment and files, order of containers, limits,
//! probes, hooks and ends, on real containers.
//!
//! Conformance, [sig-auth] ServiceAccounts: "should mount projected service account token".

use serde_json::Value;

use crate::harness::Cluster;

const IMAGE: &str = "localhost/orch/web:v1";

fn node() -> Cluster {
    let cluster = Cluster::with_node();
    cluster.import_web("v1");
    cluster
}

/// Waits until a pod has ended well and gives what its container `main` has written.
#[track_caller]
fn output_of(cluster: &Cluster, pod: &str) -> Vec<String> {
    cluster.eventually("the pod has ended", || {
        let phase = cluster.field("pod", pod, "/status/phase");
        assert_ne!(phase, "Failed", "{pod}: {}\n{}", cluster.k(&["logs", pod, "--all-containers"]), cluster.describe());
        phase == "Succeeded"
    });
    cluster.k(&["logs", pod, "-c", "main"]).lines().map(str::to_owned).collect()
}

/// "[sig-node] ConfigMap should be consumable via environment variable", "[sig-node] ConfigMap should be consumable
/// via the environment", "[sig-node] Secrets should be consumable via the environment", "[sig-storage] ConfigMap
/// should be consumable from pods in volume with mappings and Item mode set", "[sig-storage] Secrets should be
/// consumable from pods in volume", "[sig-auth] ServiceAccounts should mount projected service account token"
#[test]
fn environment_and_files_come_from_where_the_pod_says() {
    let cluster = node();
    cluster.apply(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {colour: green, size: big}\n---\n\
         apiVersion: v1\nkind: Secret\nmetadata: {name: hidden}\nstringData: {password: s3cret}\n",
    );
    cluster.apply(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata:
  name: sees
  labels: {{tier: front}}
  annotations: {{note: "two\nlines"}}
spec:
  restartPolicy: Never
  initContainers:
  - name: first
    image: {IMAGE}
    command: [sh, -c, "echo from-init >/shared/word"]
    volumeMounts: [{{name: shared, mountPath: /shared}}]
  containers:
  - name: main
    image: {IMAGE}
    command: [sh, -c]
    args:
    - |
      echo "$COLOUR $CFG_size $password $(GREETING)" '$$(GREETING)'
      echo "$NAME $CPU $MEMORY $TIER"
      echo "$IP" ; hostname
      cat /shared/word /config/c /secret/password; echo
      cat /pod/labels; echo
      cat /token/namespace; echo
      grep -qE '^[A-Za-z0-9_=-]+\.[A-Za-z0-9_=-]+\.[A-Za-z0-9_=-]+$' /token/token && test -s /token/ca.crt && echo has-token
      test -s /var/run/secrets/kubernetes.io/serviceaccount/token && echo has-account
      (echo no >/config/c) 2>/dev/null || echo read-only
      echo "$KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT"
    env:
    - {{name: COLOUR, valueFrom: {{configMapKeyRef: {{name: settings, key: colour}}}}}}
    - {{name: ABSENT, valueFrom: {{configMapKeyRef: {{name: settings, key: none, optional: true}}}}}}
    - {{name: NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}
    - {{name: TIER, valueFrom: {{fieldRef: {{fieldPath: "metadata.labels['tier']"}}}}}}
    - {{name: IP, valueFrom: {{fieldRef: {{fieldPath: status.podIP}}}}}}
    - {{name: CPU, valueFrom: {{resourceFieldRef: {{resource: limits.cpu, divisor: 1m}}}}}}
    - {{name: MEMORY, valueFrom: {{resourceFieldRef: {{resource: requests.memory, divisor: 1Mi}}}}}}
    - {{name: GREETING, value: "hello-$(COLOUR)"}}
    envFrom:
    - {{configMapRef: {{name: settings}}, prefix: CFG_}}
    - {{secretRef: {{name: hidden}}}}
    - {{secretRef: {{name: nowhere, optional: true}}}}
    resources: {{limits: {{cpu: 250m, memory: 64Mi}}, requests: {{memory: 32Mi}}}}
    volumeMounts:
    - {{name: shared, mountPath: /shared}}
    - {{name: config, mountPath: /config}}
    - {{name: secret, mountPath: /secret, readOnly: true}}
    - {{name: pod, mountPath: /pod}}
    - {{name: token, mountPath: /token}}
  volumes:
  - {{name: shared, emptyDir: {{}}}}
  - {{name: config, configMap: {{name: settings, items: [{{key: colour, path: c, mode: 0444}}]}}}}
  - {{name: secret, secret: {{secretName: hidden}}}}
  - {{name: pod, downwardAPI: {{items: [{{path: labels, fieldRef: {{fieldPath: metadata.labels}}}}]}}}}
  - name: token
    projected:
      sources:
      - {{serviceAccountToken: {{path: token, audience: somebody, expirationSeconds: 600}}}}
      - {{configMap: {{name: kube-root-ca.crt, items: [{{key: ca.crt, path: ca.crt}}]}}}}
      - {{downwardAPI: {{items: [{{path: namespace, fieldRef: {{fieldPath: metadata.namespace}}}}]}}}}
"#
    ));
    let lines = output_of(&cluster, "sees");
    let ip = cluster.field("pod", "sees", "/status/podIP");
    let want = [
        "green big s3cret hello-green $(GREETING)",
        "sees 250 32 front",
        ip.as_str().unwrap(),
        "sees",
        "from-init",
        "greens3cret",
        "tier=\"front\"",
        "default",
        "has-token",
        "has-account",
        "read-only",
        "10.43.0.1 443",
    ];
    assert_eq!(lines, want);
}

#[test]
fn limits_hold_and_what_breaks_them_is_named() {
    let cluster = node();
    cluster.apply(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: bounded}}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: {IMAGE}
    command: [sh, -c, "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu/cpu.shares 2>/dev/null || cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max"]
    resources: {{limits: {{cpu: 500m, memory: 48Mi}}, requests: {{cpu: 250m}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: greedy}}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: {IMAGE}
    command: [sh, -c, "x=0123456789abcdef; while :; do x=$x$x; done"]
    resources: {{limits: {{memory: 16Mi}}}}
"#
    ));
    let lines = output_of(&cluster, "bounded");
    let memory = (48 << 20).to_string();
    let v1 = [memory.as_str(), "50000", "256"];
    let v2 = [memory.as_str(), "50000 100000"];
    assert!(lines == v1 || lines == v2, "{lines:?}");
    assert_eq!(cluster.field("pod", "bounded", "/status/qosClass"), "Burstable");

    cluster.eventually("the greedy one is ended", || cluster.field("pod", "greedy", "/status/phase") == "Failed");
    let ended =
        |field: &str| cluster.field("pod", "greedy", &format!("/status/containerStatuses/0/state/terminated/{field}"));
    assert_eq!((ended("reason"), ended("exitCode")), (Value::from("OOMKilled"), Value::from(137)));
}

#[test]
fn sidecars_start_first_and_end_last() {
    let cluster = node();
    cluster.apply(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: accompanied}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 5
  initContainers:
  - name: beside
    image: {IMAGE}
    restartPolicy: Always
    command: [sh, -c, "trap 'echo beside-ends >>/log/order; exit 0' TERM; echo beside >>/log/order; touch /tmp/up; sleep 1000 & wait"]
    startupProbe: {{exec: {{command: [test, -e, /tmp/up]}}, periodSeconds: 1}}
    volumeMounts: [{{name: log, mountPath: /log}}]
  - name: before
    image: {IMAGE}
    command: [sh, -c, "echo before >>/log/order"]
    volumeMounts: [{{name: log, mountPath: /log}}]
  containers:
  - name: main
    image: {IMAGE}
    command: [sh, -c, "echo main >>/log/order; cat /log/order; echo told >/dev/termination-log"]
    volumeMounts: [{{name: log, mountPath: /log}}]
  volumes: [{{name: log, emptyDir: {{}}}}]
"#
    ));
    assert_eq!(output_of(&cluster, "accompanied"), ["beside", "before", "main"]);
    let pod = cluster.get("pod", "accompanied");
    let state = |pointer: &str| pod.pointer(pointer).cloned().unwrap_or_default();
    assert_eq!(state("/status/containerStatuses/0/state/terminated/message"), "told\n");
    assert_eq!(state("/status/initContainerStatuses/0/state/terminated/exitCode"), 0, "{pod:#}");
    assert_eq!(state("/status/initContainerStatuses/1/state/terminated/reason"), "Completed");
}

/// "[sig-node] Container Lifecycle Hook when create a pod with lifecycle hook should execute poststart exec hook
/// properly", "[sig-node] Container Lifecycle Hook when create a pod with lifecycle hook should execute prestop
/// exec hook properly"
#[test]
fn only_ready_pods_serve_and_hooks_run_at_both_ends() {
    let cluster = node();
    cluster.apply(&format!(
        r#"
apiVersion: v1
kind: Service
metadata: {{name: gate}}
spec: {{selector: {{app: gate}}, ports: [{{port: 80, targetPort: 8080}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: gate, labels: {{app: gate}}}}
spec:
  terminationGracePeriodSeconds: 10
  containers:
  - name: main
    image: {IMAGE}
    command: [sh, -c, "echo started; exec sleep 1000"]
    lifecycle:
      postStart: {{exec: {{command: [sh, -c, "touch /tmp/after-start"]}}}}
      preStop: {{exec: {{command: [sh, -c, "echo leaving >/out/said"]}}}}
    readinessProbe: {{exec: {{command: [test, -e, /tmp/ready]}}, periodSeconds: 1, failureThreshold: 1}}
    volumeMounts: [{{name: out, mountPath: /out}}]
  volumes: [{{name: out, hostPath: {{path: {}, type: Directory}}}}]
"#,
        {
            let out = cluster.data_dir().join("out");
            std::fs::create_dir_all(&out).unwrap();
            std::os::unix::fs::chown(&out, Some(1000), None).unwrap();
            out.display().to_string()
        }
    ));
    cluster.eventually("it runs", || cluster.field("pod", "gate", "/status/phase") == "Running");
    cluster.k(&["exec", "gate", "--", "test", "-e", "/tmp/after-start"]);
    let ready_endpoints = || {
        let slices = cluster.k(&[
            "get",
            "endpointslices",
            "-l",
            "kubernetes.io/service-name=gate",
            "-o",
            "jsonpath={.items[*].endpoints[?(@.conditions.ready==true)].addresses[0]}",
        ]);
        slices.split_whitespace().count()
    };
    let condition = |kind: &str| {
        cluster.k(&[
            "get",
            "pod",
            "gate",
            "-o",
            &format!("jsonpath={{.status.conditions[?(@.type==\"{kind}\")].status}}"),
        ])
    };
    assert_eq!((condition("Ready"), condition("Initialized"), ready_endpoints()), ("False".into(), "True".into(), 0));
    cluster.k(&["exec", "gate", "--", "touch", "/tmp/ready"]);
    cluster.eventually("it serves", || ready_endpoints() == 1);
    cluster.k(&["exec", "gate", "--", "rm", "/tmp/ready"]);
    cluster.eventually("it serves no more", || ready_endpoints() == 0);
    assert_eq!(
        cluster.field("pod", "gate", "/status/containerStatuses/0/restartCount"),
        0,
        "readiness restarts nothing"
    );
    cluster.k(&["delete", "pod", "gate", "--timeout=60s"]);
    assert_eq!(std::fs::read_to_string(cluster.data_dir().join("out/said")).unwrap(), "leaving\n");
}

/// "[sig-storage] ConfigMap updates should be reflected in volume"
#[test]
fn mounted_settings_follow_their_source() {
    let cluster = node();
    cluster.k(&["create", "configmap", "live", "--from-literal=word=old"]);
    cluster.apply(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: reader}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: {IMAGE}
    command: [sleep, "1000"]
    volumeMounts:
    - {{name: live, mountPath: /live}}
    - {{name: live, mountPath: /pinned, subPath: word}}
  volumes: [{{name: live, configMap: {{name: live}}}}]
"#
    ));
    cluster.k(&["wait", "--for=condition=Ready", "pod/reader", "--timeout=60s"]);
    assert_eq!(cluster.k(&["exec", "reader", "--", "cat", "/live/word"]), "old");
    cluster.k(&["patch", "configmap", "live", "-p", r#"{"data":{"word":"new","more":"x"}}"#]);
    cluster
        .eventually("the file has the new word", || cluster.k(&["exec", "reader", "--", "cat", "/live/word"]) == "new");
    assert_eq!(cluster.k(&["exec", "reader", "--", "cat", "/live/more"]), "x", "both keys change at once");
    assert_eq!(cluster.k(&["exec", "reader", "--", "cat", "/pinned"]), "old", "a sub path stays what it was");
}
