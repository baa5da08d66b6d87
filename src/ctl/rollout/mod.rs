//! `rollout`: the state, the history and the way back of Deployments, DaemonSets and StatefulSets.

mod history;
mod status;
mod undo;

use std::time::Duration;

use serde_json::{Value, json};

use super::builder::{Info, Query};
use super::cx::{Cx, Done};
use super::fail::fail;
use super::files::FileFlags;
use super::print::PrintFlags;
use super::write::{DryRunFlag, STRATEGIC, WriteFlags, Writer};
use crate::api::value::ValueExt;

const REVISION: &str = "/metadata/annotations/deployment.kubernetes.io~1revision";
const CAUSE: &str = "/metadata/annotations/kubernetes.io~1change-cause";
/// Where the user does not say.
const PATIENCE: Duration = Duration::from_secs(365 * 24 * 3600);

/// Manage the rollout of a workload
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum What {
    /// Revisions of the pod template
    History(History),
    /// Do not roll out changes for now
    Pause(Change),
    /// Make all pods anew
    Restart(Change),
    /// Roll out changes again
    Resume(Change),
    /// Wait for the rollout
    Status(Status),
    /// Go back to a revision
    Undo(Undo),
}

/// Flags of all forms.
#[derive(Debug, Clone, clap::Args)]
struct Common {
    /// TYPE NAME or TYPE/NAME…
    resources: Vec<String>,
    #[command(flatten)]
    files: FileFlags,
    /// Workloads with these labels
    #[arg(short = 'l', long, default_value = "", hide_default_value = true)]
    selector: String,
}

#[derive(Debug, Clone, clap::Args)]
struct History {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    print: PrintFlags,
    /// The revision to show
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    revision: i64,
}

#[derive(Debug, Clone, clap::Args)]
struct Change {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    print: PrintFlags,
    /// Name of the owner of the fields that are written
    #[arg(long, default_value = "kubectl-rollout")]
    field_manager: String,
}

impl Change {
    fn writer(&self) -> Writer {
        Writer { manager: self.field_manager.clone(), ..WriteFlags::default().writer("") }
    }
}

#[derive(Debug, Clone, clap::Args)]
struct Status {
    #[command(flatten)]
    common: Common,
    /// The revision to wait for
    #[arg(long, default_value_t = 0)]
    revision: i64,
    /// Wait for the end
    #[arg(short, long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    watch: bool,
    /// How long to wait; 0 for as long as it takes
    #[arg(long, default_value = "0s", hide_default_value = true, value_parser = crate::ctl::write::duration_text)]
    timeout: String,
}

#[derive(Debug, Clone, clap::Args)]
struct Undo {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    print: PrintFlags,
    #[command(flatten)]
    dry_run: DryRunFlag,
    /// The revision to go back to; 0 is the last one
    #[arg(long, default_value_t = 0)]
    to_revision: i64,
}

/// Runs the verb.
pub async fn run(cx: &Cx, args: Args) -> Done {
    let common = match &args.what {
        What::History(flags) => &flags.common,
        What::Pause(flags) | What::Restart(flags) | What::Resume(flags) => &flags.common,
        What::Status(flags) => &flags.common,
        What::Undo(flags) => &flags.common,
    };
    if common.resources.is_empty() && common.files.is_empty() {
        fail!("required resource not specified");
    }
    let query = Query {
        args: &common.resources,
        files: Some(&common.files),
        labels: &common.selector,
        all: common.selector.is_empty() && common.resources.len() == 1 && !common.resources[0].contains('/'),
        fetch: true,
        ..Query::default()
    };
    let infos = query.infos(cx).await?;
    if infos.is_empty() && cx.code() == 0 && matches!(args.what, What::Restart(_)) {
        eprintln!("No resources found in {} namespace.", cx.ns);
    }
    for info in infos {
        let done = match &args.what {
            What::History(flags) => history::run(cx, &info, flags).await,
            What::Pause(flags) => pause(cx, &info, flags, true).await,
            What::Resume(flags) => pause(cx, &info, flags, false).await,
            What::Restart(flags) => restart(cx, &info, flags).await,
            What::Status(flags) => status::run(cx, &info, flags).await,
            What::Undo(flags) => undo::run(cx, &info, flags).await,
        };
        if let Err(failure) = done {
            cx.report(&failure);
        }
    }
    Ok(())
}

fn count(object: &Value, path: &str) -> i64 {
    object.int_at(path).unwrap_or(0)
}

async fn pause(cx: &Cx, info: &Info, flags: &Change, paused: bool) -> Done {
    let verb = if paused { "paused" } else { "resumed" };
    if &*info.resource.res.kind != "Deployment" {
        let verb = if paused { "pausing" } else { "resuming" };
        fail!("{} {:?} {verb} is not supported", info.resource.qualified(), info.name);
    }
    if info.object.bool_at("/spec/paused").unwrap_or(false) == paused {
        let state = if paused { "already paused" } else { "not paused" };
        fail!("{} {:?} is {state}", info.resource.qualified(), info.name);
    }
    let writer = flags.writer();
    let value = if paused { json!(true) } else { Value::Null };
    let object = writer.patch(cx, info, None, STRATEGIC, &json!({"spec": {"paused": value}})).await?;
    flags.print.done(&info.resource, &object, verb, writer.dry_run)
}

async fn restart(cx: &Cx, info: &Info, flags: &Change) -> Done {
    if !matches!(&*info.resource.res.kind, "Deployment" | "DaemonSet" | "StatefulSet") {
        fail!("{} {:?} restarting is not supported", info.resource.qualified(), info.name);
    }
    if info.object.bool_at("/spec/paused") == Some(true) {
        fail!(
            "{} {:?} can't restart paused deployment (run rollout resume first)",
            info.resource.qualified(),
            info.name
        );
    }
    let now = crate::util::clock::rfc3339(jiff::Timestamp::now());
    let body = json!({"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": now}}}}});
    let writer = flags.writer();
    let object = writer.patch(cx, info, None, STRATEGIC, &body).await?;
    flags.print.done(&info.resource, &object, "restarted", writer.dry_run)
}
