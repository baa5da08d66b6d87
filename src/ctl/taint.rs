//! `taint`: taints of nodes.

use serde_json::{Value, json};

use super::builder::{Info, Query};
use super::cx::{Cx, Done};
use super::fail::{Failure, fail};
use super::print::{DryRun, PrintFlags};
use super::write::{MERGE, ValidateFlag, WriteFlags, Writer};
use crate::api::meta::names;
use crate::api::value::ValueExt;

const HELP: &str = "See 'kubectl taint -h' for help and examples";
const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// Change the taints of nodes
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// node NAME…, then KEY[=VALUE]:EFFECT, KEY:EFFECT- or KEY- to remove
    args: Vec<String>,
    #[command(flatten)]
    print: PrintFlags,
    #[command(flatten)]
    write: WriteFlags,
    #[command(flatten)]
    validate: ValidateFlag,
    /// Nodes with these labels
    #[arg(short = 'l', long, default_value = "", hide_default_value = true)]
    selector: String,
    /// All nodes
    #[arg(long)]
    all: bool,
    /// Change values that are there
    #[arg(long)]
    overwrite: bool,
}

/// One change.
#[derive(Debug, PartialEq)]
enum Change {
    Add { key: String, value: String, effect: String },
    Remove { key: String, effect: Option<String> },
}

fn parse(text: &str) -> Done<Change> {
    let bad =
        || Failure::Plain(format!("invalid taint spec: {text}, give KEY=VALUE:EFFECT, or KEY- to remove\n{HELP}"));
    if let Some(body) = text.strip_suffix('-') {
        let (key, effect) = body.split_once(':').map_or((body, None), |(k, e)| (k, Some(e.to_owned())));
        let key = key.split('=').next().unwrap_or(key);
        return Ok(Change::Remove { key: key.to_owned(), effect });
    }
    let (left, effect) = text.split_once(':').ok_or_else(|| match &names::qualified_name(text)[..] {
        [] => bad(),
        why => Failure::Plain(format!("invalid taint spec: {text}, {}\n{HELP}", why.join("; "))),
    })?;
    if !EFFECTS.contains(&effect) {
        fail!("invalid taint effect: {effect}, unsupported taint effect\n{HELP}");
    }
    let (key, value) = left.split_once('=').unwrap_or((left, ""));
    let wrong: Vec<String> = names::qualified_name(key).into_iter().chain(names::label_value(value)).collect();
    if !wrong.is_empty() {
        fail!("invalid taint spec: {text}, {}\n{HELP}", wrong.join("; "));
    }
    Ok(Change::Add { key: key.into(), value: value.into(), effect: effect.into() })
}

/// What the taints become.
fn plan(now: &[Value], changes: &[Change], overwrite: bool) -> Result<Vec<Value>, String> {
    let mut taints = now.to_vec();
    for change in changes {
        match change {
            Change::Remove { key, effect } => {
                let hit = |t: &Value| t["key"] == *key && effect.as_ref().is_none_or(|e| t["effect"] == *e);
                if !taints.iter().any(hit) {
                    let effect = effect.as_ref().map_or(String::new(), |e| format!(":{e}"));
                    return Err(format!("taint \"{key}{effect}\" not found"));
                }
                taints.retain(|t| !hit(t));
            }
            Change::Add { key, value, effect } => {
                let mut taint = json!({"key": key, "effect": effect});
                if !value.is_empty() {
                    taint["value"] = value.clone().into();
                }
                match taints.iter_mut().find(|t| t["key"] == *key && t["effect"] == *effect) {
                    Some(_) if !overwrite => {
                        return Err(format!("already has {key} taint(s) with same effect(s) and --overwrite is false"));
                    }
                    Some(old) => *old = taint,
                    None => taints.push(taint),
                }
            }
        }
    }
    Ok(taints)
}

/// Runs the verb.
pub async fn run(cx: &Cx, args: Args) -> Done {
    let is_change = |a: &&String| a.contains(':') || a.ends_with('-') || a.contains('=');
    let split = args.args.iter().position(|a| is_change(&a)).unwrap_or(args.args.len());
    let (resources, changes) = args.args.split_at(split);
    let Some(kind) = resources.first() else { fail!("one or more resources must be specified as <resource> <name>") };
    let changes = changes.iter().map(|c| parse(c)).collect::<Done<Vec<_>>>()?;
    if changes.is_empty() {
        fail!("at least one taint update is required");
    }
    for change in &changes {
        let Change::Remove { key: gone, effect: of } = change else { continue };
        let also_set = |c: &Change| matches!(c, Change::Add { key, effect, .. } if key == gone && of.as_ref().is_none_or(|e| e == effect));
        if changes.iter().any(also_set) {
            let of = of.as_deref().unwrap_or_default();
            fail!("can not both modify and remove the following taint(s) in the same command: {gone}={of}");
        }
    }
    for (i, change) in changes.iter().enumerate() {
        let Change::Add { key, value, effect } = change else { continue };
        let same = |c: &Change| matches!(c, Change::Add { key: k, effect: e, .. } if k == key && e == effect);
        if changes[..i].iter().any(same) {
            fail!("duplicated taints with the same key and effect: {{{key} {value} {effect} <nil>}}\n{HELP}");
        }
    }
    // All of them, whatever is named beside it.
    let resources = if args.all { &resources[..1] } else { resources };
    let query = Query { args: resources, labels: &args.selector, all: args.all, fetch: true, ..Query::default() };
    for info in query.infos(cx).await? {
        if info.resource.res.plural != "nodes" {
            fail!("invalid resource type {kind}, only node types are supported");
        }
        if let Err(failure) = one(cx, &info, &changes, &args).await {
            cx.report(&failure);
        }
    }
    Ok(())
}

async fn one(cx: &Cx, info: &Info, changes: &[Change], args: &Args) -> Done {
    let writer = Writer { validation: args.validate.validate, ..args.write.writer("kubectl-taint") };
    let taints = plan(info.object.items_at("/spec/taints"), changes, args.overwrite).map_err(|why| {
        Failure::Plain(if why.starts_with("already") { format!("node {} {why}", info.name) } else { why })
    })?;
    let body = json!({"metadata": {"resourceVersion": info.object["metadata"]["resourceVersion"]}, "spec": {"taints": taints}});
    let object = if writer.dry_run.is_client() {
        let mut object = info.object.clone();
        object.set_at("/spec/taints", body["spec"]["taints"].clone());
        object
    } else {
        writer.patch(cx, info, None, MERGE, &body).await?
    };
    let verb = match (
        changes.iter().any(|c| matches!(c, Change::Add { .. })),
        changes.iter().any(|c| matches!(c, Change::Remove { .. })),
    ) {
        (true, true) => "modified",
        _ if args.overwrite => "modified",
        (false, _) => "untainted",
        _ => "tainted",
    };
    // That nothing was stored is not told: kubectl does not.
    args.print.done(&info.resource, &object, verb, DryRun::None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case("a=b:NoSchedule", Change::Add { key: "a".into(), value: "b".into(), effect: "NoSchedule".into() })]
    #[test_case("a:NoExecute", Change::Add { key: "a".into(), value: String::new(), effect: "NoExecute".into() }; "no value")]
    #[test_case("a-", Change::Remove { key: "a".into(), effect: None }; "all effects")]
    #[test_case("a:NoSchedule-", Change::Remove { key: "a".into(), effect: Some("NoSchedule".into()) }; "one effect")]
    fn parsed(text: &str, want: Change) {
        assert_eq!(parse(text).unwrap(), want);
    }

    #[test]
    fn plans() {
        let now = [json!({"key": "a", "effect": "NoSchedule"})];
        let add = |v: &str| [Change::Add { key: "a".into(), value: v.into(), effect: "NoSchedule".into() }];
        assert!(plan(&now, &add("x"), false).is_err());
        assert_eq!(plan(&now, &add("x"), true).unwrap(), [json!({"key": "a", "effect": "NoSchedule", "value": "x"})]);
        assert!(plan(&now, &[parse("a-").unwrap()], false).unwrap().is_empty());
        assert!(plan(&[], &[parse("a-").unwrap()], false).is_err());
    }
}
