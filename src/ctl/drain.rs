//! `drain`: cordon a node, then evict its pods and wait until they are gone.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::builder::Info;
use super::cordon;
use super::cx::{Call, Cx, Done, say};
use super::delete;
use super::fail::{Failure, fail};
use super::print::DryRun;
use super::write;
use crate::api::status::Reason;
use crate::api::value::ValueExt;
use crate::client::res::{DAEMON_SETS, PODS};

/// How long to wait before an eviction is tried again that a disruption budget refused.
const RETRY: Duration = Duration::from_secs(5);
/// How long to wait where the user does not say.
const PATIENCE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Evict all pods of a node
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Nodes
    nodes: Vec<String>,
    /// Nodes with these labels
    #[arg(short = 'l', long, default_value = "", hide_default_value = true)]
    selector: String,
    /// Leave the pods of daemon sets
    #[arg(long)]
    ignore_daemonsets: bool,
    /// Lose the data of emptyDir volumes
    #[arg(long)]
    delete_emptydir_data: bool,
    /// Evict pods that nobody will make again
    #[arg(long)]
    force: bool,
    /// Delete, without asking disruption budgets
    #[arg(long)]
    disable_eviction: bool,
    /// Seconds for pods to end in; -1 their own
    #[arg(long, default_value_t = -1, allow_hyphen_values = true)]
    grace_period: i64,
    /// How long to wait; 0 for as long as it takes
    #[arg(long, default_value = "0s", hide_default_value = true, value_parser = crate::ctl::write::duration_text)]
    timeout: String,
    /// Do not wait for pods that are being deleted for longer than this many seconds; 0 waits for all
    #[arg(long, default_value_t = 0)]
    skip_wait_for_delete_timeout: i64,
    /// Pods of one page; 0 for all at once
    #[arg(long, default_value_t = 500)]
    chunk_size: u32,
    /// Only pods with these labels
    #[arg(long, default_value = "", hide_default_value = true)]
    pod_selector: String,
    /// none, client or server
    #[arg(long, value_parser = DryRun::parse, num_args = 0..=1, require_equals = true, default_value = "none", default_missing_value = "unchanged", hide_default_value = true)]
    dry_run: DryRun,
}

/// What to do with a pod.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Evict,
    Skip,
    Refuse(&'static str),
}

/// Seconds for which a pod has been leaving.
fn leaves_for(pod: &Value, now: jiff::Timestamp) -> Option<i64> {
    let since: jiff::Timestamp = pod.str_at("/metadata/deletionTimestamp")?.parse().ok()?;
    Some(now.as_second() - since.as_second())
}

/// Rules: upstream `kubectl/pkg/drain/filters.go`.
fn fate(pod: &Value, args: &Args, daemon_set_is_there: bool, now: jiff::Timestamp) -> Fate {
    if pod.get_at("/metadata/annotations/kubernetes.io~1config.mirror").is_some() {
        return Fate::Skip;
    }
    let controller = pod.items_at("/metadata/ownerReferences").iter().find(|o| o["controller"] == true);
    let finished = matches!(pod.str_at("/status/phase"), Some("Succeeded" | "Failed"));
    if controller.is_some_and(|c| c["kind"] == "DaemonSet") && !finished && daemon_set_is_there {
        return if args.ignore_daemonsets {
            Fate::Skip
        } else {
            Fate::Refuse("cannot delete DaemonSet-managed Pods (use --ignore-daemonsets to ignore)")
        };
    }
    if leaves_for(pod, now)
        .is_some_and(|s| args.skip_wait_for_delete_timeout > 0 && s > args.skip_wait_for_delete_timeout)
    {
        return Fate::Skip;
    }
    if pod.get_at("/metadata/deletionTimestamp").is_some() || finished {
        return Fate::Evict;
    }
    if pod.items_at("/spec/volumes").iter().any(|v| v.get("emptyDir").is_some()) && !args.delete_emptydir_data {
        return Fate::Refuse("cannot delete Pods with local storage (use --delete-emptydir-data to override)");
    }
    if controller.is_none() && !args.force {
        return Fate::Refuse("cannot delete Pods that declare no controller (use --force to override)");
    }
    Fate::Evict
}

/// Runs the verb.
pub async fn run(cx: &Cx, args: Args) -> Done {
    cx.page_by(args.chunk_size);
    if crate::api::meta::labels::Selector::parse(&args.pod_selector).is_err() {
        fail!("--pod-selector=<pod_selector> must be a valid label selector");
    }
    let limit = write::duration(&args.timeout)?.filter(|d| !d.is_zero()).unwrap_or(PATIENCE);
    for node in cordon::nodes(cx, "drain", &args.nodes, &args.selector).await? {
        cordon::set(cx, &node, true, args.dry_run).await?;
        if let Err(failure) = one(cx, &node, &args, Instant::now() + limit).await {
            cx.report(&failure);
            continue;
        }
        say(format!("node/{} drained{}", node.name, args.dry_run.suffix()))?;
    }
    Ok(())
}

async fn one(cx: &Cx, node: &Info, args: &Args, end: Instant) -> Done {
    let now = jiff::Timestamp::now();
    let pods = cx.items(&PODS, "", &args.pod_selector, &format!("spec.nodeName={}", node.name)).await?;
    let (mut evict, mut refused): (Vec<Value>, Vec<(&str, String)>) = (Vec::new(), Vec::new());
    for pod in pods {
        let set_is_there = match pod.items_at("/metadata/ownerReferences").iter().find(|o| o["kind"] == "DaemonSet") {
            None => false,
            Some(owner) => {
                let ns = pod.str_at("/metadata/namespace").unwrap_or_default();
                cx.find(&DAEMON_SETS, ns, owner.str_at("/name").unwrap_or_default()).await?.is_some()
            }
        };
        match fate(&pod, args, set_is_there, now) {
            Fate::Skip => {}
            Fate::Evict => evict.push(pod),
            Fate::Refuse(why) => refused.push((why, full_name(&pod))),
        }
    }
    if !refused.is_empty() {
        let texts: Vec<String> = refused.iter().map(|(why, pod)| format!("{why}: {pod}")).collect();
        fail!("unable to drain node {:?} due to error: {}", node.name, texts.join(", "));
    }
    let pods_resource = cx.mapper().await?.find("pods")?;
    let mut going = Vec::new();
    for pod in &evict {
        say(format!("evicting pod {}{}", full_name(pod), args.dry_run.suffix()))?;
        if args.dry_run == DryRun::None {
            let info = super::builder::of_object(pods_resource, pod.clone());
            evict_one(cx, &info, args, end).await?;
            going.push(info);
        }
    }
    for info in going {
        delete::until_gone(cx, &info, info.object.str_at("/metadata/uid"), end).await?;
        say(format!("pod/{} evicted", info.name))?;
    }
    Ok(())
}

fn full_name(pod: &Value) -> String {
    let text = |path: &str| pod.str_at(path).unwrap_or_default();
    format!("{}/{}", text("/metadata/namespace"), text("/metadata/name"))
}

async fn evict_one(cx: &Cx, pod: &Info, args: &Args, end: Instant) -> Done {
    let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions"});
    if args.grace_period >= 0 {
        options["gracePeriodSeconds"] = args.grace_period.into();
    }
    let body = json!({"apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"name": pod.name, "namespace": pod.ns}, "deleteOptions": options});
    loop {
        let call = if args.disable_eviction {
            Call::new(Method::DELETE, pod.path(None)).body(&options)
        } else {
            Call::new(Method::POST, pod.path(Some("eviction"))).body(&body)
        };
        match cx.call(call).await {
            Ok(_) => return Ok(()),
            Err(failure) if failure.is_not_found() => return Ok(()),
            // A disruption budget says not now.
            Err(failure) if failure.reason() == Some(Reason::TooManyRequests) => {
                eprintln!("error when evicting pods/{:?} -n {:?} (will retry after 5s): {failure}", pod.name, pod.ns);
                if Instant::now() + RETRY > end {
                    return Err(Failure::Plain(format!("timed out evicting pod {:?}", pod.name)));
                }
                sleep(RETRY).await;
            }
            Err(failure) => return Err(failure),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use test_case::test_case;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn now() -> jiff::Timestamp {
        "2026-01-01T00:01:00Z".parse().unwrap()
    }

    #[test]
    fn pods_that_do_not_leave_are_left() {
        let line = Line::try_parse_from("drain n --skip-wait-for-delete-timeout=30".split_whitespace()).unwrap();
        let leaving = |since: &str| json!({"metadata": {"deletionTimestamp": since}});
        assert_eq!(fate(&leaving("2026-01-01T00:00:00Z"), &line.args, true, now()), Fate::Skip);
        assert_eq!(fate(&leaving("2026-01-01T00:00:50Z"), &line.args, true, now()), Fate::Evict);
    }

    fn owned(kind: &str) -> Value {
        json!({"metadata": {"ownerReferences": [{"kind": kind, "controller": true}]}})
    }

    #[test_case(owned("ReplicaSet"), "", true; "somebody makes it again")]
    #[test_case(json!({}), "", false; "nobody does")]
    #[test_case(json!({}), "--force", true; "force")]
    #[test_case(json!({"status": {"phase": "Succeeded"}}), "", true; "it is finished")]
    #[test_case(json!({"spec": {"volumes": [{"emptyDir": {}}]}}), "--force", false; "local data")]
    #[test_case(owned("DaemonSet"), "--force", false; "a daemon")]
    fn fates(pod: Value, flags: &str, evicted: bool) {
        let line = Line::try_parse_from(format!("drain n {flags}").split_whitespace()).unwrap();
        assert_eq!(fate(&pod, &line.args, true, now()) == Fate::Evict, evicted);
    }

    #[test]
    fn mirrors_and_ignored_daemons_stay() {
        let line = Line::try_parse_from(["drain", "n", "--ignore-daemonsets"]).unwrap();
        assert_eq!(fate(&owned("DaemonSet"), &line.args, true, now()), Fate::Skip);
        let mirror = json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}});
        assert_eq!(fate(&mirror, &line.args, false, now()), Fate::Skip);
    }
}
