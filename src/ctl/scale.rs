//! `scale`: the number of pods of a workload, through its scale subresource.

use serde_json::{Value, json};

use super::builder::{Info, Query};
use super::cx::{Call, Cx, Done};
use super::fail::fail;
use super::files::FileFlags;
use super::print::PrintFlags;
use super::write::{DryRunFlag, MERGE, WriteFlags, Writer};
use crate::api::value::ValueExt;

/// Set the number of pods of a workload
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// TYPE NAME… or TYPE/NAME…
    resources: Vec<String>,
    #[command(flatten)]
    files: FileFlags,
    #[command(flatten)]
    print: PrintFlags,
    #[command(flatten)]
    dry_run: DryRunFlag,
    /// How many
    #[arg(long, required = true)]
    replicas: i64,
    /// Only when there are this many
    #[arg(long)]
    current_replicas: Option<i64>,
    /// Only when the object is at this revision
    #[arg(long, default_value = "", hide_default_value = true)]
    resource_version: String,
    /// Workloads with these labels
    #[arg(short = 'l', long, default_value = "", hide_default_value = true)]
    selector: String,
    /// All of the type
    #[arg(long)]
    all: bool,
    /// How long to wait for the pods; 0 does not wait
    #[arg(long, default_value = "0s", hide_default_value = true, value_parser = crate::ctl::write::duration_text)]
    timeout: String,
}

/// Runs the verb.
pub async fn run(cx: &Cx, args: Args) -> Done {
    if args.replicas < 0 {
        fail!("The --replicas=COUNT flag is required, and COUNT must be greater than or equal to 0");
    }
    let query = Query {
        args: &args.resources,
        files: Some(&args.files),
        labels: &args.selector,
        all: args.all,
        fetch: true,
        ..Query::default()
    };
    let infos = query.infos(cx).await?;
    if infos.is_empty() && cx.code() == 0 {
        fail!("no objects passed to scale");
    }
    for info in infos {
        // kubectl ends with the first that fails.
        one(cx, &info, &args).await?;
    }
    Ok(())
}

async fn one(cx: &Cx, info: &Info, args: &Args) -> Done {
    let writer = Writer { dry_run: args.dry_run.dry_run, ..WriteFlags::default().writer("") };
    let mut body = json!({"spec": {"replicas": args.replicas}});
    if args.current_replicas.is_some() || !args.resource_version.is_empty() {
        let scale: Value = cx.call(Call::get(info.path(Some("scale")))).await?;
        let (now, version) = (scale.int_at("/spec/replicas").unwrap_or(0), &scale["metadata"]["resourceVersion"]);
        if let Some(want) = args.current_replicas.filter(|want| *want != now) {
            fail!("Expected replicas to be {want}, was {now}");
        }
        if !args.resource_version.is_empty() && version != args.resource_version.as_str() {
            fail!(
                "Expected resource version to be {}, was {}",
                args.resource_version,
                version.as_str().unwrap_or_default()
            );
        }
        body["metadata"] = json!({"resourceVersion": version});
    }
    writer.patch(cx, info, Some("scale"), MERGE, &body).await?;
    if let Some(limit) = super::write::duration(&args.timeout)?.filter(|d| !d.is_zero()) {
        super::wait::until(cx, info, limit, |o| {
            o.int_at("/status/replicas").unwrap_or(0) == args.replicas
                && o.int_at("/status/observedGeneration").unwrap_or(0) >= o.int_at("/metadata/generation").unwrap_or(0)
        })
        .await?;
    }
    args.print.done(&info.resource, &info.object, "scaled", writer.dry_run)
}
