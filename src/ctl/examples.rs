//! Examples that stand below the help of a command.
//!
//! One table; a command without a row has none.

use clap::Command;

/// The words of a command, and lines as they are typed behind `orch ctl`, each with what it does.
type Row = (&'static str, &'static [(&'static str, &'static str)]);

const EXAMPLES: &[Row] = &[
    (
        "annotate",
        &[
            ("annotate pod web note='mind the gap'", "set an annotation"),
            ("annotate pod web note='new' --overwrite", "change one that is there"),
            ("annotate pod web note-", "remove it"),
        ],
    ),
    ("api-resources", &[("api-resources --namespaced=false -o wide", "what belongs to no namespace, with its verbs")]),
    (
        "apply",
        &[
            ("apply -f web.yaml", "make the server have what the file says"),
            ("apply -f deploy/ -R --prune -l app=web", "a directory, and delete what it no longer names"),
            ("apply -f web.yaml --server-side", "let the server merge, field by field"),
        ],
    ),
    ("attach", &[("attach web -c app -it", "join the terminal of a running container")]),
    (
        "auth",
        &[
            ("auth can-i create pods -n demo", "whether this is allowed"),
            ("auth can-i --list --as jane", "all that a user may do"),
            ("auth whoami", "who the server takes you for"),
        ],
    ),
    ("autoscale", &[("autoscale deployment web --min=2 --max=10 --cpu-percent=80", "from two to ten pods, by load")]),
    ("certificate", &[("certificate approve csr-x7b2", "let the signer sign it")]),
    (
        "cluster-info",
        &[
            ("cluster-info", "where the cluster answers"),
            ("cluster-info dump -A --output-directory=dump", "objects and logs, for somebody who looks for a fault"),
        ],
    ),
    (
        "config",
        &[
            ("config get-contexts", "the contexts there are"),
            ("config use-context edge", "work with another one"),
            ("config set-context --current --namespace=demo", "work in another namespace"),
        ],
    ),
    ("cordon", &[("cordon node-1", "give the node no new pods")]),
    (
        "cp",
        &[
            ("cp notes.txt demo/web:/tmp/notes.txt", "a file into a container"),
            ("cp demo/web:/var/log/app.log app.log -c app", "and one out of it"),
        ],
    ),
    (
        "create",
        &[
            ("create -f web.yaml", "what a file says"),
            ("create deployment web --image=nginx --replicas=3", "a deployment of flags"),
            ("create configmap settings --from-file=app.conf --from-literal=mode=fast", "a config map"),
            ("create deployment web --image=nginx --dry-run=client -o yaml", "only show it"),
        ],
    ),
    (
        "debug",
        &[
            ("debug web -it --image=busybox --target=app", "a shell beside a running container"),
            (
                "debug web --copy-to=web-copy --image=busybox --profile=general -- sleep 3600",
                "the same in a copy of the pod",
            ),
            ("debug node/node-1 -it --image=busybox --profile=sysadmin", "on a node, whose files are at /host"),
        ],
    ),
    (
        "delete",
        &[
            ("delete -f web.yaml", "what a file names"),
            ("delete pods -l app=web --wait=false", "by labels, without waiting"),
            ("delete pod web --now", "within a second"),
        ],
    ),
    ("describe", &[("describe pod web", "one pod and its events"), ("describe nodes", "all nodes")]),
    ("diff", &[("diff -f web.yaml", "what apply would change")]),
    ("drain", &[("drain node-1 --ignore-daemonsets --delete-emptydir-data", "empty a node before its maintenance")]),
    ("edit", &[("edit deployment web", "in your editor"), ("edit deployment web --subresource=scale", "its scale")]),
    (
        "events",
        &[
            ("events --for pod/web --watch", "of one pod, and what comes"),
            ("events --types=Warning -A", "all warnings"),
        ],
    ),
    (
        "exec",
        &[("exec web -- date", "one command"), ("exec -it deploy/web -c app -- sh", "a shell in one of its pods")],
    ),
    (
        "explain",
        &[
            ("explain pod.spec.containers", "the fields of a container"),
            ("explain deploy --recursive", "all fields, by name"),
        ],
    ),
    ("expose", &[("expose deployment web --port=80 --target-port=8080", "a service for its pods")]),
    (
        "get",
        &[
            ("get pods -o wide", "a table"),
            ("get pods -A -l app=web -w", "in all namespaces, by labels, and what changes"),
            ("get deploy,svc", "two types"),
            ("get pod web -o jsonpath='{.status.podIP}'", "one field"),
            ("get pods --sort-by=.metadata.creationTimestamp", "in an order"),
        ],
    ),
    ("label", &[("label pods web tier=front", "set a label"), ("label pods --all tier-", "remove it from all")]),
    (
        "logs",
        &[
            ("logs web", "of the only container"),
            ("logs -f deploy/web --all-pods --since=5m", "of all pods of a deployment, and what comes"),
            ("logs web -c app -p --tail=20", "the end, before its last restart"),
        ],
    ),
    (
        "patch",
        &[
            ("patch deploy web -p '{\"spec\":{\"replicas\":2}}'", "merged into the object"),
            ("patch deploy web --type=json -p '[{\"op\":\"remove\",\"path\":\"/spec/paused\"}]'", "step by step"),
        ],
    ),
    ("port-forward", &[("port-forward svc/web 8080:80", "port 8080 here is port 80 of the service")]),
    ("replace", &[("replace -f web.yaml", "the whole object"), ("replace -f web.yaml --force", "delete it first")]),
    (
        "rollout",
        &[
            ("rollout status deploy/web", "wait until it is done"),
            ("rollout undo deploy/web --to-revision=2", "back to how it was"),
            ("rollout restart deploy/web", "all pods anew"),
        ],
    ),
    (
        "run",
        &[
            ("run web --image=nginx --port=80 --expose", "a pod and a service for it"),
            ("run tmp --image=busybox --rm -it --restart=Never -- sh", "a shell that is gone afterwards"),
        ],
    ),
    (
        "scale",
        &[
            ("scale deploy/web --replicas=5", "five pods"),
            ("scale deploy/web --replicas=5 --current-replicas=3", "only if there are three"),
        ],
    ),
    (
        "set",
        &[
            ("set image deploy/web app=nginx:1.27", "another image"),
            ("set env deploy/web MODE=fast DEBUG-", "one variable more, one less"),
            ("set resources deploy/web -c app --limits=cpu=1,memory=512Mi", "limits of a container"),
        ],
    ),
    (
        "proxy",
        &[
            ("proxy --port=8001", "the API at http://127.0.0.1:8001, with your rights"),
            ("proxy --www=site --api-prefix=/k8s/", "a directory of files at /static/ too"),
        ],
    ),
    ("top", &[("top node", "what the nodes use"), ("top pod -A --sort-by=memory", "all pods, the biggest first")]),
    (
        "taint",
        &[
            ("taint nodes node-1 dedicated=db:NoSchedule", "keep pods away"),
            ("taint nodes node-1 dedicated-", "and let them come"),
        ],
    ),
    ("uncordon", &[("uncordon node-1", "give the node new pods again")]),
    (
        "wait",
        &[
            ("wait --for=condition=Ready pod/web --timeout=60s", "until a pod is ready"),
            ("wait --for=jsonpath='{.status.phase}'=Bound pvc/data", "until a field has a value"),
            ("wait --for=delete pod/web", "until it is gone"),
        ],
    ),
];

/// The command with the examples below its help.
pub fn with_examples(command: Command) -> Command {
    let known = |name: &str| command.find_subcommand(name).is_some();
    let rows: Vec<&Row> = EXAMPLES.iter().filter(|(name, _)| known(name)).collect();
    rows.into_iter()
        .fold(command, |command, (name, lines)| command.mut_subcommand(name, |sub| sub.after_help(text(lines))))
}

fn text(lines: &[(&str, &str)]) -> String {
    let lines = lines.iter().map(|(line, what)| format!("  # {}\n  orch ctl {line}\n", capital(what)));
    format!("Examples:\n{}", lines.collect::<String>().trim_end())
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Splits as a shell does, as far as the examples need it.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
        for c in line.chars() {
            match c {
                '\'' => quoted = !quoted,
                ' ' if !quoted => words.push(std::mem::take(&mut word)),
                c => word.push(c),
            }
        }
        words.push(word);
        words
    }

    #[test]
    fn examples_can_be_typed() {
        for (name, lines) in EXAMPLES {
            for (line, _) in *lines {
                assert!(line.starts_with(name), "{line} is no example of {name}");
                let read = super::super::command().no_binary_name(true).try_get_matches_from(words(line));
                assert!(read.is_ok(), "{line}: {}", read.unwrap_err());
            }
        }
    }
}
