//! `rollout undo`: back to a revision.

use serde_json::{Value, json};

use super::Undo;
use super::history::revisions;
use crate::api::value::ValueExt;
use crate::ctl::builder::Info;
use crate::ctl::cx::{Cx, Done, put, say};
use crate::ctl::describe;
use crate::ctl::fail::{Failure, fail};
use crate::ctl::set::template_path;
use crate::ctl::write::{JSON, STRATEGIC, WriteFlags, Writer};

/// Brings a revision back.
pub async fn run(cx: &Cx, info: &Info, flags: &Undo) -> Done {
    let res = &info.resource.res;
    match (&*res.group, &*res.kind) {
        ("apps", "Deployment" | "DaemonSet" | "StatefulSet") => {}
        ("" | "apps" | "batch", kind) if template_path(kind).is_some() => {
            fail!("no rollbacker has been implemented for {:?}", res.group_kind())
        }
        (group, kind) => {
            let title = res.group_kind();
            fail!("error retrieving rollbacker for {title:?}, no visitor method exists for {{{group} {kind}}}")
        }
    }
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
