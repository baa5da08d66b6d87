//! `set`: images, variables, resources and the service account of a workload's pod template.

use serde_json::{Map, Value, json};

use super::builder::{Info, Query};
use super::create::pairs;
use super::cx::{Cx, Done, say};
use super::fail::{Failure, fail};
use super::files::FileFlags;
use super::print::PrintFlags;
use super::write::WriteFlags;
use crate::api::meta::quantity::Quantity;
use crate::api::value::ValueExt;

/// Set fields of a workload
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum What {
    /// Images: TYPE/NAME CONTAINER=IMAGE…
    Image(Flags),
    /// Variables: TYPE/NAME KEY=VALUE… KEY-
    Env(Flags),
    /// Requests and limits
    Resources(Flags),
    /// The service account
    #[command(name = "serviceaccount", alias = "sa")]
    ServiceAccount(Flags),
}

/// Flags of all forms.
#[derive(Debug, Clone, clap::Args)]
struct Flags {
    /// TYPE NAME or TYPE/NAME…, then what to set
    args: Vec<String>,
    #[command(flatten)]
    files: FileFlags,
    #[command(flatten)]
    print: PrintFlags,
    #[command(flatten)]
    write: WriteFlags,
    /// Workloads with these labels
    #[arg(short = 'l', long, default_value = "", hide_default_value = true)]
    selector: String,
    /// All of the type
    #[arg(long)]
    all: bool,
    /// Containers to change; * is a wildcard
    #[arg(short, long, default_value = "*")]
    containers: String,
    /// Requests, as cpu=1,memory=1Gi
    #[arg(long, default_value = "", hide_default_value = true)]
    requests: String,
    /// Limits, as cpu=1,memory=1Gi
    #[arg(long, default_value = "", hide_default_value = true)]
    limits: String,
    /// Variables, as KEY=VALUE
    #[arg(short = 'e', long = "env")]
    env: Vec<String>,
    /// Show the variables
    #[arg(long)]
    list: bool,
}

/// Changes an object, or says why it cannot.
type Change = Box<dyn Fn(&mut Value) -> Result<(), String>>;

/// What is set, and how it is called.
struct Action {
    done: &'static str,
    change: Change,
}

/// Runs the verb.
pub async fn run(cx: &Cx, args: Args) -> Done {
    let (flags, action, resources) = match &args.what {
        What::Image(flags) => {
            let (resources, changes) = part(&flags.args);
            (flags, images(changes)?, resources)
        }
        What::Env(flags) => {
            let (resources, changes) = part(&flags.args);
            let mut changes = changes.to_vec();
            changes.extend(flags.env.iter().cloned());
            (flags, env(changes, flags)?, resources)
        }
        What::Resources(flags) => (flags, resources_of(flags)?, &flags.args[..]),
        What::ServiceAccount(flags) => {
            let Some((account, resources)) = flags.args.split_last() else { fail!("serviceaccount is required") };
            (flags, service_account(account), resources)
        }
    };
    let query = Query {
        args: resources,
        files: Some(&flags.files),
        labels: &flags.selector,
        all: flags.all,
        fetch: true,
        ..Query::default()
    };
    if resources.is_empty() && flags.files.is_empty() {
        fail!("one or more resources must be specified as <resource> <name> or <resource>/<name>");
    }
    for info in query.infos(cx).await? {
        if let Err(failure) = one(cx, &info, &action, flags).await {
            cx.report(&failure);
        }
    }
    Ok(())
}

fn part(args: &[String]) -> (&[String], &[String]) {
    let is_change = |a: &String| a.contains('=') || (a.ends_with('-') && a.len() > 1 && !a.contains('/'));
    args.split_at(args.iter().position(is_change).unwrap_or(args.len()))
}

/// Where the pod template of a kind stands.
pub fn template_path(kind: &str) -> Option<&'static str> {
    match kind {
        "Pod" => Some(""),
        "CronJob" => Some("/spec/jobTemplate/spec/template"),
        "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" | "Job" | "ReplicationController" => {
            Some("/spec/template")
        }
        _ => None,
    }
}

async fn one(cx: &Cx, info: &Info, action: &Action, flags: &Flags) -> Done {
    let Some(path) = template_path(&info.resource.res.kind) else {
        fail!("the object is not a pod or does not have a pod template: {}", info.title())
    };
    if flags.list {
        return list(info, path);
    }
    let writer = flags.write.writer("kubectl-set");
    let mut wanted = info.object.clone();
    let Some(pod) = wanted.pointer_mut(path) else { fail!("{} has no pod template", info.title()) };
    (action.change)(pod).map_err(Failure::Plain)?;
    match writer.bring(cx, info, &wanted).await? {
        None => Ok(()),
        Some(object) => flags.print.done(&info.resource, &object, action.done, writer.dry_run),
    }
}

fn list(info: &Info, path: &str) -> Done {
    let Some(pod) = info.object.pointer(path) else { return Ok(()) };
    for container in pod.items_at("/spec/containers") {
        let container_name = container.str_at("/name").unwrap_or_default();
        say(format!("# {} {}, container {container_name}", info.resource.res.kind, info.name))?;
        for var in container.items_at("/env") {
            let name = var.str_at("/name").unwrap_or_default();
            match var.str_at("/value") {
                Some(value) => say(format!("{name}={value}"))?,
                None => say(format!("# {name} from {}", var["valueFrom"]))?,
            }
        }
    }
    Ok(())
}

/// The containers of a pod, init containers first.
fn containers(pod: &mut Value) -> impl Iterator<Item = &mut Value> {
    let Some(Value::Object(spec)) = pod.get_mut("spec") else { return Vec::new().into_iter() };
    let mut all = Vec::new();
    for (key, value) in spec.iter_mut() {
        if let ("initContainers" | "containers", Value::Array(items)) = (key.as_str(), value) {
            all.extend(items);
        }
    }
    all.into_iter()
}

fn name_matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, tail)) => name.len() >= head.len() + tail.len() && name.starts_with(head) && name.ends_with(tail),
    }
}

fn images(changes: &[String]) -> Done<Action> {
    if changes.is_empty() {
        fail!("at least one image update is required");
    }
    let images = pairs(changes, "image")?;
    let change = move |pod: &mut Value| {
        for (container, image) in &images {
            let mut any = container == "*";
            for found in containers(pod).filter(|c| container == "*" || c["name"] == container.as_str()) {
                found["image"] = image.clone();
                any = true;
            }
            if !any {
                return Err(format!("unable to find container named {container:?}"));
            }
        }
        Ok(())
    };
    Ok(Action { done: "image updated", change: Box::new(change) })
}

fn env(changes: Vec<String>, flags: &Flags) -> Done<Action> {
    if changes.is_empty() && !flags.list {
        fail!("at least one environment variable must be provided");
    }
    let pattern = flags.containers.clone();
    let change = move |pod: &mut Value| {
        for container in containers(pod).filter(|c| c.str_at("/name").is_some_and(|n| name_matches(&pattern, n))) {
            let mut vars: Vec<Value> = container.items_at("/env").to_vec();
            for text in &changes {
                let (key, value) = match text.split_once('=') {
                    Some((key, value)) => (key, Some(value)),
                    None => (text.trim_end_matches('-'), None),
                };
                match (vars.iter().position(|v| v["name"] == key), value) {
                    (Some(at), Some(value)) => vars[at] = json!({"name": key, "value": value}),
                    (None, Some(value)) => vars.push(json!({"name": key, "value": value})),
                    (Some(at), None) => drop(vars.remove(at)),
                    (None, None) => {}
                }
            }
            container["env"] = vars.into();
        }
        Ok(())
    };
    Ok(Action { done: "env updated", change: Box::new(change) })
}

fn resources_of(flags: &Flags) -> Done<Action> {
    let list = |text: &str| -> Done<Map<String, Value>> {
        let parts: Vec<String> = text.split(',').filter(|p| !p.is_empty()).map(str::to_owned).collect();
        pairs(&parts, "resource")
    };
    let (requests, limits) = (list(&flags.requests)?, list(&flags.limits)?);
    for amount in requests.values().chain(limits.values()).filter_map(Value::as_str) {
        if let Err(e) = Quantity::parse(amount) {
            fail!("{e}");
        }
    }
    if requests.is_empty() && limits.is_empty() {
        fail!("you must specify an update to requests or limits (in the form of --requests/--limits)");
    }
    let pattern = flags.containers.clone();
    let change = move |pod: &mut Value| {
        let mut any = false;
        for container in containers(pod).filter(|c| c.str_at("/name").is_some_and(|n| name_matches(&pattern, n))) {
            any = true;
            for (field, values) in [("requests", &requests), ("limits", &limits)] {
                for (key, value) in values {
                    container.set_at(&format!("/resources/{field}/{}", key.replace('/', "~1")), value.clone());
                }
            }
        }
        if any { Ok(()) } else { Err(format!("unable to find container named {pattern}")) }
    };
    Ok(Action { done: "resource requirements updated", change: Box::new(change) })
}

fn service_account(account: &str) -> Action {
    let account = account.to_owned();
    let change = move |pod: &mut Value| {
        pod.set_at("/spec/serviceAccountName", account.clone());
        Ok(())
    };
    Action { done: "serviceaccount updated", change: Box::new(change) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    fn pod() -> Value {
        json!({"spec": {"initContainers": [{"name": "i", "image": "x"}],
            "containers": [{"name": "a", "image": "x", "env": [{"name": "K", "value": "1"}]}, {"name": "b", "image": "y"}]}})
    }

    #[test]
    fn images_by_name_and_all() {
        let mut one = pod();
        (images(&words("a=new")).unwrap().change)(&mut one).unwrap();
        assert_eq!(
            (&one["spec"]["containers"][0]["image"], &one["spec"]["containers"][1]["image"]),
            (&json!("new"), &json!("y"))
        );
        let mut all = pod();
        (images(&words("*=z")).unwrap().change)(&mut all).unwrap();
        assert_eq!(all["spec"]["initContainers"][0]["image"], "z");
        assert!((images(&words("nope=z")).unwrap().change)(&mut pod()).is_err());
    }

    #[test]
    fn wildcards() {
        assert!(
            name_matches("*", "a") && name_matches("a*", "ab") && name_matches("*b", "ab") && name_matches("a", "a")
        );
        assert!(!name_matches("a*a", "a") && !name_matches("b*", "ab"));
    }

    #[test]
    fn resources_end_where_changes_begin() {
        assert_eq!(part(&words("deploy/web a=b")).0, words("deploy/web"));
        assert_eq!(part(&words("deployment web K-")).1, words("K-"));
    }
}
