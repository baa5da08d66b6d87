//! `autoscale`: a HorizontalPodAutoscaler for a workload.

use serde_json::{Value, json};

use super::builder::{Info, Query, of_flags};
use super::create::object;
use super::cx::{Cx, Done};
use super::fail::fail;
use super::files::FileFlags;
use super::print::PrintFlags;
use super::write::{WriteFlags, with_saved_config};
use crate::api::value::ValueExt;

/// Let the number of a workload's pods follow their load
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// TYPE NAME or TYPE/NAME
    resources: Vec<String>,
    #[command(flatten)]
    files: FileFlags,
    #[command(flatten)]
    print: PrintFlags,
    #[command(flatten)]
    write: WriteFlags,
    /// Pods at least; below 1 leaves it to the server
    #[arg(long, default_value_t = -1, allow_hyphen_values = true)]
    min: i64,
    /// Pods at most
    #[arg(long, required = true, allow_hyphen_values = true)]
    max: i64,
    /// Share of the requested CPU that pods shall use, in percent; below 1 leaves it to the server
    #[arg(long, default_value_t = -1, allow_hyphen_values = true)]
    cpu_percent: i64,
    /// Name of the autoscaler
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
    /// Keep what was created for a later apply
    #[arg(long)]
    save_config: bool,
}

/// Runs the verb.
pub async fn run(cx: &Cx, args: Args) -> Done {
    if args.max < 1 {
        fail!("--max=MAXPODS is required and must be at least 1, max: {}", args.max);
    }
    if args.max < args.min {
        fail!("--max=MAXPODS must be larger or equal to --min=MINPODS, max: {}, min: {}", args.max, args.min);
    }
    let query = Query { args: &args.resources, files: Some(&args.files), fetch: true, ..Query::default() };
    for info in query.infos(cx).await? {
        if let Err(failure) = one(cx, &info, &args).await {
            cx.report(&failure);
        }
    }
    Ok(())
}

fn autoscaler(of: &Info, args: &Args) -> Value {
    let mut scaler =
        object("autoscaling/v1", "HorizontalPodAutoscaler", if args.name.is_empty() { &of.name } else { &args.name });
    let res = &of.resource.res;
    let target = json!({"apiVersion": res.api_version(), "kind": res.kind, "name": of.name});
    scaler["spec"] = json!({"scaleTargetRef": target, "maxReplicas": args.max});
    for (path, value) in [("/spec/minReplicas", args.min), ("/spec/targetCPUUtilizationPercentage", args.cpu_percent)] {
        if value > 0 {
            scaler.set_at(path, value);
        }
    }
    scaler
}

async fn one(cx: &Cx, info: &Info, args: &Args) -> Done {
    let res = &info.resource.res;
    if !info.resource.subresources.iter().any(|s| s == "scale") {
        fail!(
            "cannot autoscale a {}: could not find scale subresource for {}/{}, Resource={} in discovery information",
            res.kind,
            res.group,
            res.version,
            res.plural
        );
    }
    let mut scaler = autoscaler(info, args);
    if info.source.is_some() {
        scaler.set_at("/metadata/namespace", info.ns.clone());
    }
    let writer = args.write.writer("kubectl-autoscale");
    let made = of_flags(cx, scaler, writer.dry_run).await?;
    if writer.dry_run.is_client() {
        let mut made = made;
        // What is named and only tried stays without the namespace, given or not.
        if info.source.is_none() {
            made.object.remove_at("/metadata/namespace");
        }
        return args.print.done(&made.resource, &made.object, "created", writer.dry_run);
    }
    let object = if args.save_config { with_saved_config(&made.object) } else { made.object.clone() };
    let object = writer.create(cx, &made.resource.res, &made.ns, &object).await?;
    args.print.done(&made.resource, &object, "autoscaled", writer.dry_run)
}
