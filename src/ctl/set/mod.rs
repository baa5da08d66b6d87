//! `set`: images, variables, resources and the service account of a pod template; selectors of services; subjects of
//! bindings.
//!
//! Each is a change of one object, a function; this module finds the objects, sends what the change made, and tells.

mod env;
mod subject;

use serde_json::{Map, Value};

use super::builder::{Info, LocalFlag, Query};
use super::create::pairs;
use super::cx::{Cx, Done};
use super::fail::{Failure, fail};
use super::files::FileFlags;
use super::print::PrintFlags;
use super::write::{WriteFlags, Writer};
use crate::api::meta::quantity::Quantity;
use crate::api::value::ValueExt;

/// Set fields of objects
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

impl Args {
    /// True for the form whose `--user` is no user of the kubeconfig.
    pub fn names_users(&self) -> bool {
        matches!(self.what, What::Subject(_))
    }
}

#[derive(Debug, Clone, clap::Subcommand)]
enum What {
    /// Images: TYPE/NAME CONTAINER=IMAGE…
    Image(Image),
    Env(env::Args),
    /// Requests and limits
    Resources(Resources),
    Selector(subject::Selector),
    /// The service account
    #[command(name = "serviceaccount", alias = "sa")]
    ServiceAccount(ServiceAccount),
    Subject(subject::Subject),
}

/// Flags of all forms.
#[derive(Debug, Clone, clap::Args)]
struct Common {
    #[command(flatten)]
    files: FileFlags,
    #[command(flatten)]
    print: PrintFlags,
    #[command(flatten)]
    write: WriteFlags,
    #[command(flatten)]
    local: LocalFlag,
    /// All of the type
    #[arg(long)]
    all: bool,
}

#[derive(Debug, Clone, clap::Args)]
struct Image {
    /// TYPE NAME or TYPE/NAME…, then CONTAINER=IMAGE
    args: Vec<String>,
    #[command(flatten)]
    common: Common,
    /// Objects with these labels
    #[arg(short = 'l', long, default_value = "", hide_default_value = true)]
    selector: String,
}

#[derive(Debug, Clone, clap::Args)]
struct Resources {
    /// TYPE NAME or TYPE/NAME…
    args: Vec<String>,
    #[command(flatten)]
    common: Common,
    /// Objects with these labels
    #[arg(short = 'l', long, default_value = "", hide_default_value = true)]
    selector: String,
    /// Containers to change; * is a wildcard
    #[arg(short, long, default_value = "*")]
    containers: String,
    /// Requests, as cpu=1,memory=1Gi
    #[arg(long, default_value = "", hide_default_value = true)]
    requests: String,
    /// Limits, as cpu=1,memory=1Gi
    #[arg(long, default_value = "", hide_default_value = true)]
    limits: String,
}

#[derive(Debug, Clone, clap::Args)]
struct ServiceAccount {
    /// TYPE NAME or TYPE/NAME…, then the account
    args: Vec<String>,
    #[command(flatten)]
    common: Common,
}

/// Changes an object, or says why it cannot.
type Change<'a> = Box<dyn Fn(&mut Value) -> Result<(), String> + 'a>;

/// What is set, and how it is told.
struct Action<'a> {
    /// `image updated`.
    done: &'static str,
    /// Put before what the server says against it.
    failed: &'static str,
    /// What to do with an object, or with its pod template.
    change: Change<'a>,
    /// Whether it is the pod template that is changed.
    of_template: bool,
    /// Told and sent even where nothing differs.
    always: bool,
}

impl<'a> Action<'a> {
    fn of_template(
        done: &'static str,
        failed: &'static str,
        change: impl Fn(&mut Value) -> Result<(), String> + 'a,
    ) -> Self {
        Self { done, failed, change: Box::new(change), of_template: true, always: false }
    }
}

/// Runs the verb.
pub async fn run(cx: &Cx, args: Args) -> Done {
    match &args.what {
        What::Image(args) => {
            let (resources, changes) = part(&args.args);
            let infos = infos(cx, &args.common, resources, &args.selector).await?;
            all(cx, infos, &args.common, &images(changes)?).await
        }
        What::Env(args) => env::run(cx, args).await,
        What::Resources(args) => {
            let infos = infos(cx, &args.common, &args.args, &args.selector).await?;
            all(cx, infos, &args.common, &resources_of(args)?).await
        }
        What::Selector(args) => subject::selector(cx, args).await,
        What::ServiceAccount(args) => {
            let Some((account, resources)) = args.args.split_last() else { fail!("serviceaccount is required") };
            let infos = infos(cx, &args.common, resources, "").await?;
            all(cx, infos, &args.common, &service_account(account)).await
        }
        What::Subject(args) => subject::subject(cx, args).await,
    }
}

async fn infos(cx: &Cx, common: &Common, resources: &[String], labels: &str) -> Done<Vec<Info>> {
    common.local.over(common.write.dry_run)?;
    let query = Query {
        args: resources,
        files: Some(&common.files),
        labels,
        all: common.all,
        fetch: true,
        local: common.local.local,
        ..Query::default()
    };
    query.infos(cx).await
}

async fn all(cx: &Cx, infos: Vec<Info>, common: &Common, action: &Action<'_>) -> Done {
    let dry_run = common.local.over(common.write.dry_run)?;
    let writer = Writer { dry_run, ..common.write.writer("kubectl-set") };
    for info in infos {
        if let Err(failure) = one(cx, &info, action, common, &writer).await {
            cx.report(&failure);
        }
    }
    Ok(())
}

async fn one(cx: &Cx, info: &Info, action: &Action<'_>, common: &Common, writer: &Writer) -> Done {
    let mut wanted = info.object.clone();
    let changed = match action.of_template {
        true => template_of(&mut wanted, info)?,
        false => &mut wanted,
    };
    (action.change)(changed).map_err(Failure::Plain)?;
    let sent = writer.bring(cx, info, &wanted).await.map_err(|e| match e {
        Failure::Server { status, .. } if !action.failed.is_empty() => {
            Failure::Plain(format!("{} {}", action.failed, status.message))
        }
        other => other,
    })?;
    match sent {
        None if action.always || writer.dry_run.is_client() => {
            common.print.done(&info.resource, &wanted, action.done, writer.dry_run)
        }
        None => Ok(()),
        Some(object) => common.print.done(&info.resource, &object, action.done, writer.dry_run),
    }
}

fn template_of<'a>(object: &'a mut Value, info: &Info) -> Done<&'a mut Value> {
    let res = &info.resource.res;
    match template_path(&res.kind).and_then(|path| object.pointer_mut(path)) {
        Some(template) => Ok(template),
        None => fail!(
            "error: {}/{} the object is not a pod or does not have a pod template: *{}.{}",
            res.plural,
            info.name,
            res.version,
            res.kind
        ),
    }
}

fn part(args: &[String]) -> (&[String], &[String]) {
    let is_change = |a: &String| a.contains('=') || a == "-" || (a.ends_with('-') && a.len() > 1 && !a.contains('/'));
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

fn images(changes: &[String]) -> Done<Action<'static>> {
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
    Ok(Action::of_template("image updated", "failed to patch image update to pod template:", change))
}

fn resources_of(args: &Resources) -> Done<Action<'_>> {
    let list = |text: &str| -> Done<Map<String, Value>> {
        let parts: Vec<String> = text.split(',').filter(|p| !p.is_empty()).map(str::to_owned).collect();
        if let Some(bad) = parts.iter().find(|p| p.split('=').count() != 2) {
            fail!("Invalid argument syntax {bad}, expected <resource>=<value>");
        }
        pairs(&parts, "resource")
    };
    let (requests, limits) = (list(&args.requests)?, list(&args.limits)?);
    for amount in requests.values().chain(limits.values()).filter_map(Value::as_str) {
        if let Err(e) = Quantity::parse(amount) {
            fail!("{e}");
        }
    }
    if requests.is_empty() && limits.is_empty() {
        fail!("you must specify an update to requests or limits (in the form of --requests/--limits)");
    }
    let pattern = &args.containers;
    let change = move |pod: &mut Value| {
        let mut any = false;
        for container in containers(pod).filter(|c| c.str_at("/name").is_some_and(|n| name_matches(pattern, n))) {
            any = true;
            for (field, values) in [("requests", &requests), ("limits", &limits)] {
                for (key, value) in values {
                    container.set_at(&format!("/resources/{field}/{}", key.replace('/', "~1")), value.clone());
                }
            }
        }
        if any { Ok(()) } else { Err(format!("unable to find container named {pattern}")) }
    };
    let failed = "failed to patch resources update to pod template";
    Ok(Action::of_template("resource requirements updated", failed, change))
}

fn service_account(account: &str) -> Action<'_> {
    let change = move |pod: &mut Value| {
        pod.set_at("/spec/serviceAccountName", account.to_owned());
        Ok(())
    };
    let failed = "failed to patch ServiceAccountName";
    Action { always: true, ..Action::of_template("serviceaccount updated", failed, change) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    fn pod() -> Value {
        json!({"spec": {"initContainers": [{"name": "i", "image": "x"}],
            "containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "y"}]}})
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
        assert_eq!(part(&words("deploy/web -")).1, words("-"));
    }
}
