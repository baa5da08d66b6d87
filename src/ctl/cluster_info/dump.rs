//! `cluster-info dump`: what somebody needs who looks for a fault elsewhere: objects and logs, to stdout or as files.
//!
//! Rules: kubectl `pkg/cmd/clusterinfo/clusterinfo_dump.go`.

use std::path::{Path, PathBuf};

use crate::api::value::ValueExt;
use crate::client::Res;
use crate::client::res::{
    DAEMON_SETS, DEPLOYMENTS, EVENTS, NAMESPACES, NODES, PODS, REPLICA_SETS, REPLICATION_CONTROLLERS, SERVICES,
};
use crate::ctl::cx::{Call, Cx, Done, append_query, put, say};
use crate::ctl::fail::Failure;
use crate::ctl::print::{Output, PrintFlags};
use crate::ctl::write;

/// Objects of each namespace, in the order of the dump, and the names of their files.
const KINDS: [(&str, &Res); 7] = [
    ("events", &EVENTS),
    ("replication-controllers", &REPLICATION_CONTROLLERS),
    ("services", &SERVICES),
    ("daemonsets", &DAEMON_SETS),
    ("deployments", &DEPLOYMENTS),
    ("replicasets", &REPLICA_SETS),
    ("pods", &PODS),
];

/// All that helps to find a fault
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(flatten)]
    print: PrintFlags,
    /// A directory for files; - or nothing is stdout
    #[arg(long, default_value = "", hide_default_value = true)]
    output_directory: String,
    /// Namespaces, instead of kube-system and the current one
    #[arg(long, value_delimiter = ',')]
    namespaces: Vec<String>,
    /// All namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// No effect: only pods that are there are asked for logs
    #[arg(long, default_value = "20s", hide = true, value_parser = write::duration_text)]
    pod_running_timeout: String,
}

/// Where the parts go.
struct Sink {
    directory: Option<PathBuf>,
    ending: &'static str,
}

impl Sink {
    fn of(args: &Args, output: &Output) -> Self {
        let directory = match args.output_directory.as_str() {
            "" | "-" => None,
            path => Some(PathBuf::from(path)),
        };
        let ending = match output {
            Output::Json => ".json",
            Output::Yaml => ".yaml",
            _ => ".txt",
        };
        Self { directory, ending }
    }

    /// Writes a part: to its file, or to stdout.
    fn put(&self, name: &str, ending: &str, text: &str) -> Done {
        let Some(directory) = &self.directory else { return put(text) };
        let path = directory.join(format!("{name}{ending}"));
        let failed = |e: std::io::Error| Failure::Plain(format!("cannot write {}: {e}", path.display()));
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).map_err(failed)?;
        std::fs::write(&path, text).map_err(failed)
    }
}

/// Runs the verb.
pub async fn run(cx: &Cx, mut args: Args) -> Done {
    args.print.output.get_or_insert_with(|| "json".to_owned());
    let output = args.print.output()?;
    let sink = Sink::of(&args, &output);
    let part = async |name: &str, res: &Res, ns: &str| {
        let list = cx.call(Call::get(res.collection(ns))).await?;
        sink.put(name, sink.ending, &args.print.document(&output, &list)?)?;
        Done::Ok(list)
    };
    part("nodes", &NODES, "").await?;
    let namespaces = match (args.all_namespaces, args.namespaces.is_empty()) {
        (true, _) => {
            let all = cx.items(&NAMESPACES, "", "", "").await?;
            all.iter().filter_map(|ns| ns.str_at("/metadata/name")).map(str::to_owned).collect()
        }
        (false, true) => vec!["kube-system".to_owned(), cx.ns.clone()],
        (false, false) => args.namespaces.clone(),
    };
    for ns in &namespaces {
        for (name, res) in KINDS {
            let list = part(&format!("{ns}/{name}"), res, ns).await?;
            if name == "pods" {
                for pod in list.items_at("/items") {
                    logs(cx, &sink, ns, pod).await?;
                }
            }
        }
    }
    match &sink.directory {
        Some(path) => say(format!("Cluster info dumped to {}", path.display())),
        None => Ok(()),
    }
}

/// The logs of a pod's containers. One that has none is told in its place.
async fn logs(cx: &Cx, sink: &Sink, ns: &str, pod: &serde_json::Value) -> Done {
    let name = pod.str_at("/metadata/name").unwrap_or_default();
    let mut text = String::new();
    for container in pod.items_at("/spec/initContainers").iter().chain(pod.items_at("/spec/containers")) {
        let container = container.str_at("/name").unwrap_or_default();
        let title = format!("logs for container {container} of pod {ns}/{name} ====\n");
        let mut path = PODS.object(ns, name, Some("log"));
        append_query(&mut path, "container", container);
        text += &format!("==== START {title}");
        match cx.bytes(Call::get(path)).await {
            Ok(log) => text += &String::from_utf8_lossy(&log),
            Err(Failure::Server { status, .. }) => text += &format!("Request log error: {}\n", status.message),
            Err(other) => return Err(other),
        }
        text += &format!("==== END {title}");
    }
    sink.put(&format!("{ns}/{name}/logs"), ".txt", &text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn parts_become_files_of_their_form() {
        let dir = tempfile::tempdir().unwrap();
        let flag = format!("--output-directory={}", dir.path().join("a/b").display());
        let args = Line::try_parse_from(["dump", "-o", "yaml", &flag]).unwrap().args;
        let sink = Sink::of(&args, &args.print.output().unwrap());
        sink.put("ns/pods", sink.ending, "kind: PodList\n").unwrap();
        let file = dir.path().join("a/b/ns/pods.yaml");
        assert_eq!(std::fs::read_to_string(file).unwrap(), "kind: PodList\n");
        let args = Line::try_parse_from(["dump", "--output-directory=-"]).unwrap().args;
        assert!(Sink::of(&args, &Output::Json).directory.is_none());
    }
}
