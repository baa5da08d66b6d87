//! `rollout status`: how far it is, until it is done.

use futures::StreamExt;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::{PATIENCE, REVISION, Status, count};
use crate::api::status::Reason;
use crate::api::value::ValueExt;
use crate::client::{ListOptions, WatchKind};
use crate::ctl::builder::{Info, items_of};
use crate::ctl::cx::{Call, Cx, Done, say};
use crate::ctl::fail::{Failure, fail};
use crate::ctl::write;

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
    if let Some(partition) = object.int_at("/spec/updateStrategy/rollingUpdate/partition") {
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

/// Tells how far the rollout is, until it is done.
pub async fn run(cx: &Cx, info: &Info, flags: &Status) -> Done {
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
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
}
