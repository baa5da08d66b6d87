//! What a node makes of a pod, container by container: words and variables, identity, ends, order, probes, and what may be
//! changed while it runs. Part of the cluster of `apps`.

use serde_json::{Value, json};

use crate::scenario::{Api, IMAGE, Scenario, condition, names, pod, ready, scenarios};

pub const SCENARIOS: &[Scenario] =
    scenarios![words_and_variables, identities, last_words, init_containers, probes, pods_change, ephemeral_containers];

/// A container of a shell script.
fn container(name: &str, script: &str) -> Value {
    json!({"name": name, "image": IMAGE, "command": ["sh", "-c", script]})
}

/// A container with more in it.
fn with(mut container: Value, more: Value) -> Value {
    container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    container
}

/// A pod of several containers that ends when they end.
fn once(name: &str, containers: Vec<Value>, more: Value) -> Value {
    let mut pod = pod(name, &[]);
    let spec = pod["spec"].as_object_mut().unwrap();
    spec.insert("restartPolicy".into(), "Never".into());
    spec.insert("containers".into(), containers.into());
    spec.extend(more.as_object().unwrap().clone());
    pod
}

async fn ended(api: &Api, pod: &str, phase: &str) -> Value {
    let is_over = |p: &Value| ["Succeeded", "Failed"].contains(&p["status"]["phase"].as_str().unwrap_or_default());
    let over = api.until("it has ended", &format!("pods/{pod}"), is_over).await;
    assert_eq!(over["status"]["phase"], phase, "{}", over["status"]);
    over
}

async fn log(api: &Api, pod: &str, container: &str) -> String {
    let (code, text) = api.send("GET", &format!("pods/{pod}/log?container={container}"), "", &Value::Null).await;
    assert_eq!(code, 200, "{text}");
    text.as_str().map_or_else(|| text.to_string(), str::to_owned)
}

/// "[sig-node] Downward API should provide pod name, namespace and IP address as env vars", "[sig-node] Downward API should
/// provide host IP as an env var", "[sig-node] Downward API should provide hostIPs as an env var", "[sig-node] Downward API
/// should provide pod UID as env vars", "[sig-node] Downward API should provide container's limits.cpu/memory and
/// requests.cpu/memory as env vars", "[sig-node] Downward API should provide default limits.cpu/memory from node allocatable",
/// "[sig-node] Variable Expansion should allow composing env vars into new env vars", "[sig-node] Variable Expansion should
/// allow substituting values in a container's command", "[sig-node] Variable Expansion should allow substituting values in a
/// container's args", "[sig-node] Containers should be able to override the image's default arguments (container cmd)",
/// "[sig-node] Containers should be able to override the image's default command (container entrypoint)", "[sig-node]
/// Containers should be able to override the image's default command and arguments", "[sig-node] Pods should contain
/// environment variables for services", "[sig-node] Kubelet when scheduling an agnhost Pod with hostAliases should write entries
/// to /etc/hosts"
async fn words_and_variables(api: Api) {
    let service =
        json!({"metadata": {"name": "foo-service"}, "spec": {"ports": [{"port": 8765}], "clusterIP": "10.43.77.7"}});
    api.create("services", service).await;
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let resource = |name: &str, resource: &str, divisor: &str| json!({"name": name, "valueFrom": {"resourceFieldRef": {"resource": resource, "divisor": divisor}}});
    let all = "echo $NAME $NAMESPACE $IP $HOST $HOSTS $UID_; echo $FOO_SERVICE_SERVICE_HOST:$FOO_SERVICE_SERVICE_PORT";
    let fields = [
        field("NAME", "metadata.name"),
        field("NAMESPACE", "metadata.namespace"),
        field("IP", "status.podIP"),
        field("HOST", "status.hostIP"),
        field("HOSTS", "status.hostIPs"),
        field("UID_", "metadata.uid"),
    ];
    let amounts = |requests: bool| {
        let mut all = vec![resource("LC", "limits.cpu", "1m"), resource("LM", "limits.memory", "1Ki")];
        if requests {
            all.extend([resource("RC", "requests.cpu", "1m"), resource("RM", "requests.memory", "1Mi")]);
        }
        json!({"env": all})
    };
    let bound = json!({"resources": {"requests": {"cpu": "25m", "memory": "16Mi"}, "limits": {"cpu": "500m", "memory": "32Mi"}}});
    let composed =
        json!([{"name": "A", "value": "a"}, {"name": "B", "value": "b"}, {"name": "AB", "value": "$(A);$(B);$$(A)"}]);
    let image = |name: &str| json!({"name": name, "image": IMAGE});
    let containers = vec![
        with(container("fields", all), json!({"env": fields})),
        with(with(container("bounded", "echo $LC $LM $RC $RM"), amounts(true)), bound),
        with(container("unbounded", "echo $LC $LM"), amounts(false)),
        with(image("command"), json!({"command": ["echo", "command", "$(AB)", "$(NOT)"], "env": composed})),
        with(image("args"), json!({"args": ["echo", "args", "$(AB)"], "env": composed})),
        with(image("both"), json!({"command": ["echo", "both"], "args": ["$(AB)"], "env": composed})),
        container("hosts", "cat /etc/hosts"),
    ];
    let aliases = json!({"hostAliases": [{"ip": "192.0.2.45", "hostnames": ["foo", "bar"]}]});
    let made = api.create("pods", once("words", containers, aliases)).await;
    let pod = ended(&api, "words", "Succeeded").await;
    let node = api.get(&format!("/api/v1/nodes/{}", pod["spec"]["nodeName"].as_str().unwrap())).await;
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    let host = text(&pod["status"]["hostIP"]);
    let address = node["status"]["addresses"].as_array().unwrap().iter().find(|a| a["type"] == "InternalIP").unwrap();
    assert_eq!((&address["address"], &pod["status"]["hostIPs"][0]["ip"]), (&json!(host), &json!(host)));
    let (ip, uid) = (text(&pod["status"]["podIP"]), text(&made["metadata"]["uid"]));
    let wanted = format!("words {} {ip} {host} {host} {uid}\n10.43.77.7:8765", api.namespace);
    assert_eq!(log(&api, "words", "fields").await, wanted);
    assert_eq!(log(&api, "words", "bounded").await, "500 32768 25 16");
    // The node's memory is said in Ki.
    let allocatable = &node["status"]["allocatable"];
    let cores: u64 = text(&allocatable["cpu"])
        .strip_suffix('m')
        .map_or_else(|| text(&allocatable["cpu"]).parse::<u64>().unwrap() * 1000, |millis| millis.parse().unwrap());
    let memory = text(&allocatable["memory"]);
    assert_eq!(log(&api, "words", "unbounded").await, format!("{cores} {}", memory.strip_suffix("Ki").unwrap()));
    for (name, wanted) in [("command", "command a;b;$(A) $(NOT)"), ("args", "args a;b;$(A)"), ("both", "both a;b;$(A)")]
    {
        assert_eq!(log(&api, "words", name).await, wanted);
    }
    let hosts = log(&api, "words", "hosts").await;
    assert!(hosts.contains("192.0.2.45\tfoo\tbar") && hosts.contains(&format!("{ip}\twords")), "{hosts}");
}

/// "[sig-node] Security Context should support container.SecurityContext.RunAsUser And container.SecurityContext.RunAsGroup",
/// "[sig-node] Security Context should support pod.Spec.SecurityContext.RunAsUser And pod.Spec.SecurityContext.RunAsGroup",
/// "[sig-node] Security Context When creating a container with runAsUser should run the container with uid 65534", "[sig-node]
/// Security Context When creating a pod with readOnlyRootFilesystem should run the container with writable rootfs when
/// readOnlyRootFilesystem=false", "[sig-node] Kubelet when scheduling a read only busybox container should not write to root
/// filesystem", "[sig-node] Sysctls should support sysctls", "[sig-node] Sysctls should reject invalid sysctls", "[sig-node]
/// Security Context when creating containers with AllowPrivilegeEscalation should not allow privilege escalation when false"
async fn identities(api: Api) {
    let context = |more: Value| json!({"securityContext": more});
    let write = "(echo x > /tmp/x) 2>/dev/null && echo written || echo refused";
    let containers = vec![
        container("pods", "id -u; id -g; cat /proc/sys/kernel/shm_rmid_forced"),
        with(container("own", "id -u; id -g"), context(json!({"runAsUser": 65534, "runAsGroup": 65533}))),
        with(container("fixed", write), context(json!({"readOnlyRootFilesystem": true}))),
        with(container("free", write), context(json!({"readOnlyRootFilesystem": false}))),
        with(
            container("held", "while read -r k v; do [ $k = NoNewPrivs: ] && echo $v; done </proc/self/status; true"),
            context(json!({"allowPrivilegeEscalation": false})),
        ),
    ];
    let sysctl = |name: &str| json!([{"name": name, "value": "1"}]);
    let of_pod = json!({"runAsUser": 1001, "runAsGroup": 2002, "sysctls": sysctl("kernel.shm_rmid_forced")});
    api.create("pods", once("who", containers, context(of_pod))).await;
    ended(&api, "who", "Succeeded").await;
    let rows =
        [("pods", "1001\n2002\n1"), ("own", "65534\n65533"), ("fixed", "refused"), ("free", "written"), ("held", "1")];
    for (name, wanted) in rows {
        assert_eq!(log(&api, "who", name).await, wanted, "{name}");
    }
    for wrong in ["foo-", "kernel..shmmax", "/kernel.shmmax"] {
        let pod = once("wrong", vec![container("c", "true")], context(json!({"sysctls": sysctl(wrong)})));
        assert_eq!(api.send("POST", "pods", "application/json", &pod).await.0, 422, "{wrong}");
    }
}

/// "[sig-node] Container Runtime blackbox test on terminated container should report termination message as empty when pod
/// succeeds and TerminationMessagePolicy FallbackToLogsOnError is set", "[sig-node] Container Runtime blackbox test on terminated
/// container should report termination message from file when pod succeeds and TerminationMessagePolicy FallbackToLogsOnError is
/// set", "[sig-node] Container Runtime blackbox test on terminated container should report termination message from log output if
/// TerminationMessagePolicy FallbackToLogsOnError is set", "[sig-node] Container Runtime blackbox test on terminated container
/// should report termination message if TerminationMessagePath is set as non-root user and at a non-default path", "[sig-node]
/// Kubelet when scheduling a busybox command that always fails in a pod should have an terminated reason", "[sig-node] Kubelet
/// when scheduling a busybox command in a pod should print the output to logs"
async fn last_words(api: Api) {
    let fallback = json!({"terminationMessagePolicy": "FallbackToLogsOnError"});
    let elsewhere = json!({"terminationMessagePath": "/dev/elsewhere", "securityContext": {"runAsUser": 1234}});
    let rows = [
        (with(container("silent", "echo DONE"), fallback.clone()), "", "Completed"),
        (with(container("file", "echo -n OK > /dev/termination-log; echo DONE"), fallback.clone()), "OK", "Completed"),
        (with(container("log", "echo -n DONE; exit 1"), fallback), "DONE", "Error"),
        (with(container("path", "echo -n DONE > /dev/elsewhere"), elsewhere), "DONE", "Completed"),
    ];
    api.create("pods", once("last", rows.iter().map(|r| r.0.clone()).collect(), json!({}))).await;
    let pod = ended(&api, "last", "Failed").await;
    for (container, message, reason) in &rows {
        let all = pod["status"]["containerStatuses"].as_array().unwrap();
        let end = &all.iter().find(|s| s["name"] == container["name"]).unwrap()["state"]["terminated"];
        assert_eq!(
            (end["message"].as_str().unwrap_or_default(), &end["reason"]),
            (*message, &json!(reason)),
            "{container}"
        );
    }
    assert_eq!(log(&api, "last", "silent").await, "DONE");
}

/// "[sig-node] InitContainer should invoke init containers on a RestartNever pod", "[sig-node] InitContainer should invoke init
/// containers on a RestartAlways pod", "[sig-node] InitContainer should not start app containers and fail the pod if init
/// containers fail on a RestartNever pod", "[sig-node] InitContainer should not start app containers if init containers fail on a
/// RestartAlways pod"
async fn init_containers(api: Api) {
    let rows = [
        ("never-well", "Never", "true"),
        ("always-well", "Always", "true"),
        ("never-ill", "Never", "false"),
        ("always-ill", "Always", "false"),
    ];
    for (name, policy, second) in rows {
        let script = if policy == "Never" { "true" } else { "sleep 1000" };
        let init = vec![container("first", "true"), container("second", second)];
        let more = json!({"restartPolicy": policy, "initContainers": init});
        api.create("pods", once(name, vec![container("main", script)], more)).await;
    }
    let ends = |p: &Value, n: usize| p["status"]["initContainerStatuses"][n]["state"]["terminated"]["exitCode"].clone();
    let well = ended(&api, "never-well", "Succeeded").await;
    let always = api.until("it runs", "pods/always-well", ready).await;
    for pod in [&well, &always] {
        assert_eq!((condition(pod, "Initialized"), ends(pod, 0), ends(pod, 1)), ("True", json!(0), json!(0)));
    }
    let waits = |p: &Value| p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "PodInitializing";
    let ill = ended(&api, "never-ill", "Failed").await;
    assert_eq!((condition(&ill, "Initialized"), ends(&ill, 0)), ("False", json!(0)));
    assert_ne!(ends(&ill, 1), 0);
    assert!(waits(&ill), "{}", ill["status"]);
    let again = api
        .until("the second is tried again", "pods/always-ill", |p| {
            p["status"]["initContainerStatuses"][1]["restartCount"].as_u64() > Some(1)
        })
        .await;
    assert_eq!((&again["status"]["phase"], condition(&again, "Initialized")), (&json!("Pending"), "False"));
    assert!(waits(&again));
}

/// "[sig-node] Probing container should *not* be restarted with a exec", "[sig-node] Probing container should *not* be restarted
/// with a /healthz http liveness probe", "[sig-node] Probing container should *not* be restarted with a tcp:8080 liveness probe",
/// "[sig-node] Probing container should be restarted with a /healthz http liveness probe", "[sig-node] Probing container should
/// have monotonically increasing restart count", "[sig-node] Probing container with readiness probe that fails should never be
/// ready and never restart", "[sig-node] Probing container with readiness probe should not be ready before initial delay and
/// never restart"
async fn probes(api: Api) {
    // A machine that is busy may be late with an answer, and one that is wrong is enough.
    let live = |probe: Value, failures: u64| {
        let more = json!({
            "periodSeconds": 1, "failureThreshold": failures, "initialDelaySeconds": 2, "timeoutSeconds": 20,
        });
        json!({"livenessProbe": with(probe, more)})
    };
    let http = |path: &str| json!({"httpGet": {"path": path, "port": 8080}});
    let sleep = |name: &str| container(name, "sleep 1000");
    let containers = vec![
        // The others ask the one that serves: they share its network.
        json!({"name": "serves", "image": IMAGE}),
        with(sleep("exec"), live(json!({"exec": {"command": ["test", "-e", "/tmp"]}}), 10)),
        with(sleep("http"), live(http("/"), 10)),
        with(sleep("tcp"), live(json!({"tcpSocket": {"port": 8080}}), 10)),
        with(sleep("ill"), live(http("/nothing"), 1)),
        with(
            sleep("never"),
            json!({"readinessProbe": {"exec": {"command": ["test", "-e", "/none"]}, "periodSeconds": 1}}),
        ),
        with(
            sleep("late"),
            json!({"readinessProbe": {"exec": {"command": ["test", "-e", "/tmp"]}, "initialDelaySeconds": 4, "periodSeconds": 1}}),
        ),
    ];
    api.create("pods", once("probed", containers, json!({"restartPolicy": "Always"}))).await;
    let of = |p: &Value, name: &str| {
        let all = p["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|s| s["name"] == name).unwrap_or_default()
    };
    let restarts = |p: &Value, name: &str| of(p, name)["restartCount"].as_u64().unwrap_or(0);
    let mut last = 0;
    let pod = api
        .until("the ill one is restarted twice", "pods/probed", |p| {
            assert!(restarts(p, "ill") >= last, "restarts are not taken back");
            last = restarts(p, "ill");
            last >= 2 && of(p, "late")["ready"] == true
        })
        .await;
    for name in ["exec", "http", "tcp", "never", "late"] {
        assert_eq!((name, restarts(&pod, name)), (name, 0));
    }
    assert_eq!((&of(&pod, "never")["ready"], condition(&pod, "Ready")), (&json!(false), "False"));
    let seconds = |v: &Value| v.as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_second();
    assert!(
        seconds(&of(&pod, "ill")["state"]["running"]["startedAt"])
            >= seconds(&of(&pod, "serves")["state"]["running"]["startedAt"])
    );
}

/// "[sig-node] Pods Extended (pod generation) Pod Generation pod generation should start at 1 and increment per update",
/// "[sig-node] Pods Extended (pod generation) Pod Generation custom-set generation on new pods and graceful delete", "[sig-node]
/// Pods should allow activeDeadlineSeconds to be updated", "[sig-node] Pods should be updated", "[sig-node] Pods should patch a pod
/// status", "[sig-node] Pods should get a host IP", "[sig-node] Pods should delete a collection of pods", "[sig-node] Pods should be
/// submitted and removed"
async fn pods_change(api: Api) {
    let mut first = pod("life", &["sleep", "1000"]);
    first["metadata"]["generation"] = 100.into();
    first["spec"]["terminationGracePeriodSeconds"] = 60.into();
    let since = api.create("pods", first).await["metadata"]["resourceVersion"].clone();
    let running = api.until("it runs", "pods/life", ready).await;
    assert!(running["status"]["hostIP"].as_str().unwrap().starts_with("198.51.100."));
    let generation = |p: &Value| p["metadata"]["generation"].as_u64().unwrap();
    assert_eq!(generation(&running), 1);
    let toleration = json!({"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule"});
    let labelled = api.update("pods/life", |p| p["metadata"]["labels"]["time"] = "now".into()).await;
    assert_eq!(
        (generation(&labelled), names(&api.get("pods?labelSelector=time%3Dnow").await)),
        (1, vec!["life".to_owned()])
    );
    let tolerating =
        api.update("pods/life", |p| p["spec"]["tolerations"].as_array_mut().unwrap().push(toleration.clone())).await;
    assert_eq!(generation(&tolerating), 2);
    api.until("the node has seen it", "pods/life", |p| p["status"]["observedGeneration"] == 2).await;
    let condition_of = json!({"status": {"conditions": [{"type": "example.com/seen", "status": "True", "message": "Set from the test"}]}});
    let (code, patched) =
        api.send("PATCH", "pods/life/status", "application/strategic-merge-patch+json", &condition_of).await;
    assert_eq!(
        (code, condition(&patched, "example.com/seen"), condition(&patched, "Ready")),
        (200, "True", "True"),
        "{patched}"
    );
    let going = api.delete("pods/life").await;
    assert_eq!((generation(&going), &going["metadata"]["deletionGracePeriodSeconds"]), (3, &json!(60)));
    let (code, _) = api.send("DELETE", "pods/life", "application/json", &json!({"gracePeriodSeconds": 1})).await;
    assert_eq!(code, 200);
    let mut kinds = Vec::new();
    api.follow("pods?fieldSelector=metadata.name%3Dlife", &since, |kind, _| {
        kinds.push(kind.to_owned());
        kind == "DELETED"
    })
    .await;
    assert!(kinds[..kinds.len() - 1].iter().all(|k| k == "MODIFIED"), "{kinds:?}");

    api.create("pods", pod("deadline", &["sleep", "1000"])).await;
    api.until("it runs", "pods/deadline", ready).await;
    api.update("pods/deadline", |p| p["spec"]["activeDeadlineSeconds"] = 1.into()).await;
    assert_eq!(ended(&api, "deadline", "Failed").await["status"]["reason"], "DeadlineExceeded");
    for name in ["one", "two"] {
        let mut gated = pod(name, &["sleep", "1000"]);
        gated["metadata"]["labels"]["many"] = "yes".into();
        gated["spec"]["schedulingGates"] = json!([{"name": "example.com/never"}]);
        api.create("pods", gated).await;
    }
    api.delete("pods?labelSelector=many%3Dyes").await;
    api.until("all are gone", "pods?labelSelector=many", |l| l["items"].as_array().is_some_and(Vec::is_empty)).await;
    assert_eq!(names(&api.get("pods").await), ["deadline"]);
}

/// "[sig-node] Ephemeral Containers will start an ephemeral container in an existing pod", "[sig-node] Ephemeral Containers should
/// update the ephemeral containers in an existing pod"
async fn ephemeral_containers(api: Api) {
    api.create("pods", pod("target", &["sleep", "1000"])).await;
    api.until("it runs", "pods/target", ready).await;
    for (n, name) in ["debugger", "second"].into_iter().enumerate() {
        let one = container(name, "echo polo; sleep 1000");
        let patch = json!({"spec": {"ephemeralContainers": [one]}});
        let path = "pods/target/ephemeralcontainers";
        let (code, patched) = api.send("PATCH", path, "application/strategic-merge-patch+json", &patch).await;
        assert_eq!((code, &patched["metadata"]["generation"]), (200, &json!(n + 2)), "{patched}");
        let state = |p: &Value| p["status"]["ephemeralContainerStatuses"][n]["state"].get("running").is_some();
        api.until("it runs beside", "pods/target", state).await;
        api.until("it says something", &format!("pods/target/log?container={name}"), |l| *l == "polo").await;
    }
    let pod = api.get("pods/target").await;
    assert_eq!(pod["spec"]["ephemeralContainers"].as_array().unwrap().len(), 2);
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
}
