//! `cordon` and `uncordon`: whether nodes take new pods.

use serde_json::json;

use super::builder::{Info, Query};
use super::cx::{Cx, Done, say};
use super::fail::fail;
use super::print::DryRun;
use super::write::{DryRunFlag, STRATEGIC, WriteFlags};
use crate::api::value::ValueExt;

/// Flags of both verbs.
#[derive(Debug, Clone, clap::Args)]
pub struct Flags {
    /// Nodes
    nodes: Vec<String>,
    /// Nodes with these labels
    #[arg(short = 'l', long, default_value = "", hide_default_value = true)]
    selector: String,
    #[command(flatten)]
    dry_run: DryRunFlag,
}

/// Give a node no new pods
#[derive(Debug, Clone, clap::Args)]
pub struct Cordon {
    #[command(flatten)]
    flags: Flags,
}

/// Give a node new pods again
#[derive(Debug, Clone, clap::Args)]
pub struct Uncordon {
    #[command(flatten)]
    flags: Flags,
}

/// Runs `cordon`.
pub async fn cordon(cx: &Cx, args: Cordon) -> Done {
    run(cx, args.flags, true).await
}

/// Runs `uncordon`.
pub async fn uncordon(cx: &Cx, args: Uncordon) -> Done {
    run(cx, args.flags, false).await
}

async fn run(cx: &Cx, flags: Flags, unschedulable: bool) -> Done {
    let verb = if unschedulable { "cordon" } else { "uncordon" };
    for info in nodes(cx, verb, &flags.nodes, &flags.selector).await? {
        if let Err(failure) = set(cx, &info, unschedulable, flags.dry_run.dry_run).await {
            cx.report(&failure);
        }
    }
    Ok(())
}

/// The nodes with these names, or with these labels.
pub async fn nodes(cx: &Cx, verb: &str, names: &[String], selector: &str) -> Done<Vec<Info>> {
    let help = format!("See 'kubectl {verb} -h' for help and examples");
    match (names, selector) {
        ([], "") => fail!("USAGE: {verb} NODE [flags]\n{help}"),
        ([_, ..], selector) if !selector.is_empty() => {
            fail!("cannot specify both a node name and a --selector option\n{help}")
        }
        _ => {}
    }
    let mut args = vec!["nodes".to_owned()];
    args.extend(names.iter().map(|n| n.trim_start_matches("node/").trim_start_matches("nodes/").to_owned()));
    Query { args: &args, labels: selector, fetch: true, ..Query::default() }.infos(cx).await
}

/// Makes a node take new pods, or not, and says so.
pub async fn set(cx: &Cx, node: &Info, unschedulable: bool, dry_run: DryRun) -> Done {
    let verb = if unschedulable { "cordoned" } else { "uncordoned" };
    if node.object.bool_at("/spec/unschedulable").unwrap_or(false) == unschedulable {
        return say(format!("node/{} already {verb}{}", node.name, dry_run.suffix()));
    }
    let value = if unschedulable { json!(true) } else { json!(null) };
    let writer = WriteFlags { dry_run, ..WriteFlags::default() }.writer("kubectl-cordon");
    writer.patch(cx, node, None, STRATEGIC, &json!({"spec": {"unschedulable": value}})).await?;
    say(format!("node/{} {verb}{}", node.name, dry_run.suffix()))
}
