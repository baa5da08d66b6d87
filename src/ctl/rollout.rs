//! `rollout`: the state, the history and the way back of Deployments, DaemonSets and StatefulSets.

use std::time::Duration;

use futures::StreamExt;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::builder::{Info, Query, items_of};
use super::cx::{Call, Cx, Done, put, say};
use super::describe;
use super::fail::{Failure, fail};
use super::files::FileFlags;
use super::pods::selector_query;
use super::print::tab;
use super::print::{Output, PrintFlags};
use super::write::{self, DryRunFlag, JSON, STRATEGIC, WriteFlags, Writer};
use crate::api::status::Reason;
use crate::api::value::ValueExt;
use crate::client::res::{CONTROLLER_REVISIONS, REPLICA_SETS};
use crate::client::{ListOptions, WatchKind};

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
            What::History(flags) => history(cx, &info, flags).await,
            What::Pause(flags) => pause(cx, &info, flags, true).await,
            What::Resume(flags) => pause(cx, &info, flags, false).await,
            What::Restart(flags) => restart(cx, &info, flags).await,
            What::Status(flags) => status(cx, &info, flags).await,
            What::Undo(flags) => undo(cx, &info, flags).await,
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

/// The state of a rollout: what to say, and whether it is done.
///
/// Rules: upstream `kubectl/pkg/polymorphichelpers/rollout_status.go`.
fn progress(object: &Value) -> Result<(String, bool), String> {
    let name = object.str_at("/metadata/name").unwrap_or_default();
    let observed = count(object, "/metadata/generation") <= count(object, "/status/observedGeneration");
    match object.str_at("/kind") {
        Some("Deployment") => {
            if !observed {
                return Ok(("Waiting for deployment spec update to be observed...".into(), false));
            }
            let late = object
                .items_at("/status/conditions")
                .iter()
                .any(|c| c["type"] == "Progressing" && c["reason"] == "ProgressDeadlineExceeded");
            if late {
                return Err(format!("deployment {name:?} exceeded its progress deadline"));
            }
            let wanted = object.int_at("/spec/replicas").unwrap_or(1);
            let updated = count(object, "/status/updatedReplicas");
            let all = count(object, "/status/replicas");
            let available = count(object, "/status/availableReplicas");
            let waiting =
                |what: String| Ok((format!("Waiting for deployment {name:?} rollout to finish: {what}..."), false));
            if updated < wanted {
                return waiting(format!("{updated} out of {wanted} new replicas have been updated"));
            }
            if all > updated {
                return waiting(format!("{} old replicas are pending termination", all - updated));
            }
            if available < updated {
                return waiting(format!("{available} of {updated} updated replicas are available"));
            }
            Ok((format!("deployment {name:?} successfully rolled out"), true))
        }
        Some("DaemonSet") => {
            if object.str_at("/spec/updateStrategy/type") == Some("OnDelete") {
                return Err("rollout status is only available for RollingUpdate strategy type".into());
            }
            if !observed {
                return Ok(("Waiting for daemon set spec update to be observed...".into(), false));
            }
            let wanted = count(object, "/status/desiredNumberScheduled");
            let updated = count(object, "/status/updatedNumberScheduled");
            let available = count(object, "/status/numberAvailable");
            let waiting =
                |what: String| Ok((format!("Waiting for daemon set {name:?} rollout to finish: {what}..."), false));
            if updated < wanted {
                return waiting(format!("{updated} out of {wanted} new pods have been updated"));
            }
            if available < wanted {
                return waiting(format!("{available} of {wanted} updated pods are available"));
            }
            Ok((format!("daemon set {name:?} successfully rolled out"), true))
        }
        Some("StatefulSet") => stateful(object, observed),
        kind => Err(format!("no status viewer has been implemented for {}", kind.unwrap_or_default())),
    }
}

fn stateful(object: &Value, observed: bool) -> Result<(String, bool), String> {
    if object.str_at("/spec/updateStrategy/type") == Some("OnDelete") {
        return Err("rollout status is only available for RollingUpdate strategy type".into());
    }
    if count(object, "/status/observedGeneration") == 0 || !observed {
        return Ok(("Waiting for statefulset spec update to be observed...".into(), false));
    }
    let wanted = object.int_at("/spec/replicas").unwrap_or(1);
    let ready = count(object, "/status/readyReplicas");
    if ready < wanted {
        return Ok((format!("Waiting for {} pods to be ready...", wanted - ready), false));
    }
    let updated = count(object, "/status/updatedReplicas");
    let partition = count(object, "/spec/updateStrategy/rollingUpdate/partition");
    if partition > 0 {
        if updated < wanted - partition {
            return Ok((
                format!(
                    "Waiting for partitioned roll out to finish: {updated} out of {} new pods have been updated...",
                    wanted - partition
                ),
                false,
            ));
        }
        return Ok((format!("partitioned roll out complete: {updated} new pods have been updated..."), true));
    }
    let new = object.str_at("/status/updateRevision").unwrap_or_default();
    if object.str_at("/status/currentRevision").unwrap_or_default() != new {
        return Ok((
            format!("waiting for statefulset rolling update to complete {updated} pods at revision {new}..."),
            false,
        ));
    }
    let current = count(object, "/status/currentReplicas");
    Ok((format!("statefulset rolling update complete {current} pods at revision {new}..."), true))
}

async fn status(cx: &Cx, info: &Info, flags: &Status) -> Done {
    let limit = write::duration(&flags.timeout)?.filter(|d| !d.is_zero()).unwrap_or(PATIENCE);
    let end = Instant::now() + limit;
    let field = format!("metadata.name={}", info.name);
    let mut last = String::new();
    // True when the rollout is done.
    let mut tell = |object: &Value| -> Done<bool> {
        if flags.revision > 0
            && object.str_at(REVISION).and_then(|r| r.parse().ok()).is_some_and(|r: i64| r != flags.revision)
        {
            fail!(
                "desired revision ({}) is different from the running revision ({})",
                flags.revision,
                object.str_at(REVISION).unwrap_or_default()
            );
        }
        let (text, done) = progress(object).map_err(Failure::Plain)?;
        if text != last {
            say(&text)?;
            last = text;
        }
        Ok(done)
    };
    loop {
        let mut list =
            cx.call(Call::get(info.resource.res.collection(&info.ns)).query("fieldSelector", &field)).await?;
        let version = list.str_at("/metadata/resourceVersion").unwrap_or_default().to_owned();
        let Some(object) = items_of(&mut list).pop() else { fail!("object has been deleted") };
        if tell(&object)? || !flags.watch {
            return Ok(());
        }
        let options = ListOptions { resource_version: version, ..ListOptions::fields(field.clone()) };
        let mut events = cx.client.watch(&info.resource.res, Some(&info.ns), &options).await?;
        loop {
            match timeout_at(end, events.next()).await {
                Err(_) => fail!("timed out waiting for the condition"),
                Ok(Some(Ok(event))) => match event.kind {
                    WatchKind::Deleted => fail!("object has been deleted"),
                    WatchKind::Bookmark => {}
                    _ if tell(&event.object)? => return Ok(()),
                    _ => {}
                },
                Ok(Some(Err(s))) if !matches!(s.reason, Reason::Expired | Reason::Gone) => return Err(s.into()),
                Ok(None | Some(Err(_))) => break,
            }
        }
    }
}

/// A revision of the pod template.
struct Revision {
    number: i64,
    cause: String,
    /// The template, as it was.
    template: Value,
    /// What brings it back: a patch (DaemonSet, StatefulSet), or the annotations of a ReplicaSet.
    source: Value,
}

async fn revisions(cx: &Cx, info: &Info) -> Done<Vec<Revision>> {
    let labels = selector_query(&info.object["spec"]["selector"]);
    let uid = info.object.str_at("/metadata/uid");
    let owned = |o: &Value| {
        o.items_at("/metadata/ownerReferences").iter().any(|r| r["controller"] == true && r.str_at("/uid") == uid)
    };
    let cause = |o: &Value| o.str_at(CAUSE).filter(|c| !c.is_empty()).unwrap_or("<none>").to_owned();
    let mut all = Vec::new();
    match &*info.resource.res.kind {
        "Deployment" => {
            for set in cx.items(&REPLICA_SETS, &info.ns, &labels, "").await?.into_iter().filter(owned) {
                let number = set.str_at(REVISION).and_then(|r| r.parse().ok()).unwrap_or(0);
                let template = set["spec"]["template"].clone();
                all.push(Revision { number, cause: cause(&set), template, source: set });
            }
        }
        "DaemonSet" | "StatefulSet" => {
            for revision in cx.items(&CONTROLLER_REVISIONS, &info.ns, &labels, "").await?.into_iter().filter(owned) {
                let template = revision["data"]["spec"]["template"].clone();
                all.push(Revision {
                    number: count(&revision, "/revision"),
                    cause: cause(&revision),
                    template,
                    source: revision,
                });
            }
        }
        kind => fail!("no history viewer has been implemented for {kind:?}"),
    }
    all.sort_by_key(|r| r.number);
    Ok(all)
}

async fn history(cx: &Cx, info: &Info, flags: &History) -> Done {
    let all = revisions(cx, info).await?;
    let title = info.title();
    if flags.revision > 0 {
        let Some(found) = all.iter().find(|r| r.number == flags.revision) else {
            fail!("unable to find the specified revision")
        };
        let output = flags.print.output()?;
        if !output.is_human() {
            return put(&output.object(&flags.print.shown(&found.source))?);
        }
        let mut out = describe::Out::new();
        out.line(0, "Pod Template:");
        describe::pod_template(&mut out, 1, &found.template);
        return put(&format!("{title} with revision #{}\n{}\n", flags.revision, out.raw()));
    }
    if flags.revision < 0 {
        fail!("revision must be a positive integer: {}", flags.revision);
    }
    let output = flags.print.output()?;
    if !output.is_human() {
        let all: Vec<Value> = all.iter().map(|r| flags.print.shown(&r.source)).collect();
        return all.iter().enumerate().try_for_each(|(i, one)| {
            let parted = if i > 0 && matches!(output, Output::Yaml) { "---\n" } else { "" };
            put(&format!("{parted}{}", output.object(one)?))
        });
    }
    if all.is_empty() {
        return put(&format!("{title} \nNo rollout history found.\n"));
    }
    let rows: String = all.iter().map(|r| format!("{}\t{}\n", r.number, r.cause)).collect();
    let table = tab::align(&format!("REVISION\tCHANGE-CAUSE\n{rows}"), tab::DESCRIBE);
    put(&format!("{title} \n{table}\n"))
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

async fn undo(cx: &Cx, info: &Info, flags: &Undo) -> Done {
    if info.object.bool_at("/spec/paused") == Some(true) {
        fail!("you cannot rollback a paused deployment; resume it first with 'kubectl rollout resume' and try again");
    }
    let all = revisions(cx, info).await?;
    let wanted = if flags.to_revision > 0 {
        let found = all.iter().find(|r| r.number == flags.to_revision);
        found.ok_or_else(|| {
            Failure::Plain(format!("unable to find specified revision {} in history", flags.to_revision))
        })?
    } else {
        match all.len() {
            0 | 1 if &*info.resource.res.kind != "Deployment" => fail!("no last revision to roll back to"),
            0 | 1 => fail!("no rollout history found for {} {:?}", info.resource.kind_name(), info.name),
            n => &all[n - 2],
        }
    };
    let writer = Writer { dry_run: flags.dry_run.dry_run, ..WriteFlags::default().writer("kubectl-rollout") };
    if writer.dry_run.is_client() && flags.print.output.is_none() {
        return would_be(info, &wanted.template);
    }
    if &*info.resource.res.kind == "Deployment" {
        let mut template = wanted.template.clone();
        template.remove_at("/metadata/labels/pod-template-hash");
        if same_template(&template, &info.object["spec"]["template"]) {
            return say(format!(
                "{} skipped rollback (current template already matches revision {}){}",
                info.title(),
                wanted.number,
                writer.dry_run.suffix()
            ));
        }
        let annotations = rolled_back(info.object["metadata"]["annotations"].clone(), &wanted.source);
        let body = json!([
            {"op": "replace", "path": "/spec/template", "value": template},
            {"op": "add", "path": "/metadata/annotations", "value": annotations},
        ]);
        writer.patch(cx, info, None, JSON, &body).await?;
    } else {
        writer.patch(cx, info, None, STRATEGIC, &wanted.source["data"]).await?;
    }
    flags.print.done(&info.resource, &info.object, "rolled back", writer.dry_run)
}

/// What a dry run of `undo` shows: the template that would come back.
fn would_be(info: &Info, template: &Value) -> Done {
    let mut out = describe::Out::new();
    out.line(0, "Pod Template:");
    describe::pod_template(&mut out, 1, template);
    put(&format!("{} {} (dry run)\n", info.title(), out.raw()))
}

fn same_template(a: &Value, b: &Value) -> bool {
    let clean = |t: &Value| {
        let mut t = t.clone();
        t.remove_at("/metadata/creationTimestamp");
        t
    };
    clean(a) == clean(b)
}

/// The deployment's annotations after going back: its own bookkeeping stays, the rest is the revision's.
fn rolled_back(own: Value, set: &Value) -> Value {
    const KEPT: [&str; 5] = [
        "kubectl.kubernetes.io/last-applied-configuration",
        "deployment.kubernetes.io/revision",
        "deployment.kubernetes.io/revision-history",
        "deployment.kubernetes.io/desired-replicas",
        "deployment.kubernetes.io/max-replicas",
    ];
    let own = own.as_object().cloned().unwrap_or_default();
    let mut all: serde_json::Map<String, Value> = own.into_iter().filter(|(k, _)| KEPT.contains(&k.as_str())).collect();
    for (key, value) in set["metadata"]["annotations"].as_object().into_iter().flatten() {
        if !KEPT.contains(&key.as_str()) {
            all.insert(key.clone(), value.clone());
        }
    }
    all.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    fn deployment(wanted: i64, updated: i64, all: i64, available: i64) -> Value {
        json!({"kind": "Deployment", "metadata": {"name": "d", "generation": 2}, "spec": {"replicas": wanted},
            "status": {"observedGeneration": 2, "updatedReplicas": updated, "replicas": all, "availableReplicas": available}})
    }

    #[test_case(
        deployment(3, 1, 3, 3),
        "Waiting for deployment \"d\" rollout to finish: 1 out of 3 new replicas have been updated...",
        false
    )]
    #[test_case(
        deployment(3, 3, 4, 3),
        "Waiting for deployment \"d\" rollout to finish: 1 old replicas are pending termination...",
        false
    )]
    #[test_case(
        deployment(3, 3, 3, 2),
        "Waiting for deployment \"d\" rollout to finish: 2 of 3 updated replicas are available...",
        false
    )]
    #[test_case(deployment(3, 3, 3, 3), "deployment \"d\" successfully rolled out", true)]
    fn deployments(object: Value, text: &str, done: bool) {
        assert_eq!(progress(&object).unwrap(), (text.to_owned(), done));
    }

    #[test]
    fn late_and_unseen() {
        let mut late = deployment(1, 0, 0, 0);
        late["status"]["conditions"] = json!([{"type": "Progressing", "reason": "ProgressDeadlineExceeded"}]);
        assert!(progress(&late).is_err());
        let mut unseen = deployment(1, 1, 1, 1);
        unseen["metadata"]["generation"] = json!(3);
        assert!(!progress(&unseen).unwrap().1);
    }

    #[test]
    fn going_back_keeps_the_bookkeeping() {
        let own = json!({"deployment.kubernetes.io/revision": "3", "kubernetes.io/change-cause": "new"});
        let set = json!({"metadata": {"annotations": {"deployment.kubernetes.io/revision": "1", "kubernetes.io/change-cause": "old"}}});
        assert_eq!(
            rolled_back(own, &set),
            json!({"deployment.kubernetes.io/revision": "3", "kubernetes.io/change-cause": "old"})
        );
    }
}
