//! `rollout history`: the revisions that a workload had.

use serde_json::Value;

use super::{CAUSE, History, REVISION, count};
use crate::api::value::ValueExt;
use crate::client::res::{CONTROLLER_REVISIONS, REPLICA_SETS};
use crate::ctl::builder::Info;
use crate::ctl::cx::{Cx, Done, put};
use crate::ctl::describe;
use crate::ctl::fail::fail;
use crate::ctl::pods::selector_query;
use crate::ctl::print::{Output, tab};
use crate::util::order::Arrange;

/// A revision of the pod template.
pub struct Revision {
    /// Its number.
    pub number: i64,
    /// What the user says it is for.
    pub cause: String,
    /// The template, as it was.
    pub template: Value,
    /// What brings it back: a patch (DaemonSet, StatefulSet), or the annotations of a ReplicaSet.
    pub source: Value,
}

/// The revisions there are, the oldest first.
pub async fn revisions(cx: &Cx, info: &Info) -> Done<Vec<Revision>> {
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
    all.arrange_by_key(|r| r.number);
    Ok(all)
}

/// Shows the revisions, or one of them.
pub async fn run(cx: &Cx, info: &Info, flags: &History) -> Done {
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
