//! Which pod and which container `logs`, `exec`, `attach`, `port-forward` and `cp` mean.

use std::time::Duration;

use futures::StreamExt;
use serde_json::Value;

use super::builder::{Info, Query, Wanted, of_object, parse};
use super::cx::{Cx, Done};
use super::fail::fail;
use super::files::FileFlags;
use super::{wait, write};
use crate::api::meta::labels::Selector;
use crate::api::value::ValueExt;
use crate::client::res::PODS;
use crate::client::{ListOptions, WatchKind};
use crate::util::order::Arrange;

/// How long a pod may run.
const RUN: std::time::Duration = std::time::Duration::from_secs(365 * 24 * 3600);
/// The annotation that names the container that is meant where none is named.
const DEFAULT_CONTAINER: &str = "/metadata/annotations/kubectl.kubernetes.io~1default-container";

/// The flag of verbs that need a pod to be there.
#[derive(Debug, Clone, clap::Args)]
pub struct RunningFlag {
    /// How long to wait for a pod
    #[arg(long, default_value = "1m0s", value_parser = crate::ctl::write::duration_text)]
    pod_running_timeout: String,
}

impl RunningFlag {
    fn limit(&self) -> Done<Duration> {
        match write::duration(&self.pod_running_timeout)? {
            Some(limit) if !limit.is_zero() => Ok(limit),
            _ => fail!("--pod-running-timeout must be higher than zero"),
        }
    }
}

/// The object that `POD` or `TYPE/NAME` names.
pub async fn target(cx: &Cx, arg: &str) -> Done<Info> {
    let (kind, name) = match parse(&[arg.to_owned()])? {
        Wanted::Objects(mut objects) if objects.len() == 1 => objects.remove(0),
        _ => ("pods".to_owned(), arg.to_owned()),
    };
    let resource = cx.mapper().await?.find(&kind)?.clone();
    let object = cx.get(&resource.res, &cx.ns, &name).await?;
    Ok(Info { resource, ns: cx.ns.clone(), name, object, source: None })
}

fn is_pod(info: &Info) -> bool {
    info.resource.res.plural == PODS.plural && info.resource.res.group.is_empty()
}

/// What selects the pods of a workload or a service.
fn labels_of(info: &Info) -> Done<String> {
    let selector = &info.object["spec"]["selector"];
    let labels = match &*info.resource.res.kind {
        "Service" | "ReplicationController" if selector.is_object() => map_query(selector),
        _ if selector.is_object() => selector_query(selector),
        _ => fail!("cannot find the pods of {}: it has no selector", info.title()),
    };
    Selector::parse(&labels).map_err(|e| super::fail::Failure::Plain(format!("{}: {e}", info.title())))?;
    Ok(labels)
}

/// The pods of a workload or a service, those that run first; a pod is its own.
pub async fn of(cx: &Cx, info: &Info) -> Done<Vec<Info>> {
    if is_pod(info) {
        return Ok(vec![info.clone()]);
    }
    let labels = labels_of(info)?;
    let resource = cx.mapper().await?.find("pods")?.clone();
    let mut pods = cx.items(&PODS, &info.ns, &labels, "").await?;
    pods.arrange_by_key(|pod| {
        (rank(pod), std::cmp::Reverse(pod.str_at("/metadata/creationTimestamp").map(str::to_owned)))
    });
    Ok(pods.into_iter().map(|pod| of_object(&resource, pod)).collect())
}

/// Ready pods first, then running ones, then the rest.
fn rank(pod: &Value) -> u8 {
    let ready = pod.items_at("/status/conditions").iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
    match (ready, pod.str_at("/status/phase")) {
        (true, _) => 0,
        (false, Some("Running")) => 1,
        (false, Some("Pending")) => 2,
        _ => 3,
    }
}

/// A map of labels in query form.
pub fn map_query(map: &Value) -> String {
    let pairs = map.as_object().into_iter().flatten();
    pairs.map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect::<Vec<_>>().join(",")
}

/// A `metav1.LabelSelector` in query form.
pub fn selector_query(selector: &Value) -> String {
    let mut parts = vec![map_query(&selector["matchLabels"])];
    for e in selector.items_at("/matchExpressions") {
        let key = e.str_at("/key").unwrap_or_default();
        let values = e.items_at("/values").iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",");
        parts.push(match e.str_at("/operator") {
            Some("In") => format!("{key} in ({values})"),
            Some("NotIn") => format!("{key} notin ({values})"),
            Some("DoesNotExist") => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    parts.retain(|p| !p.is_empty());
    parts.join(",")
}

/// One pod of what `arg` names; it may still have to be made.
pub async fn one(cx: &Cx, arg: &str, running: &RunningFlag) -> Done<Info> {
    let info = target(cx, arg).await?;
    Ok(all_of(cx, &info, running).await?.swap_remove(0))
}

/// One pod of what a file names.
pub async fn of_file(cx: &Cx, files: &FileFlags, running: &RunningFlag) -> Done<Info> {
    match &(Query { files: Some(files), fetch: true, ..Query::default() }).infos(cx).await?[..] {
        [info] => Ok(all_of(cx, info, running).await?.swap_remove(0)),
        [] => Err(super::fail::Failure::Exit(1)),
        _ => fail!("a single pod, type/name or file must be specified"),
    }
}

/// The pods of an object, at least one; it may still have to be made.
pub async fn all_of(cx: &Cx, info: &Info, running: &RunningFlag) -> Done<Vec<Info>> {
    let limit = running.limit()?;
    let mut pods = of(cx, info).await?;
    if pods.is_empty() {
        let options = ListOptions { label_selector: labels_of(info)?, ..ListOptions::default() };
        let mut events = cx.client.watch(&PODS, Some(&info.ns), &options).await?;
        let added = async {
            while let Some(event) = events.next().await {
                if event?.kind == WatchKind::Added {
                    break;
                }
            }
            Done::Ok(())
        };
        match tokio::time::timeout(limit, added).await {
            Ok(ended) => ended?,
            Err(_) => fail!("timed out waiting for the condition"),
        }
        pods = of(cx, info).await?;
    }
    if pods.is_empty() {
        fail!("no pods found for {}", info.title());
    }
    Ok(pods)
}

/// The names of a pod's containers of a sort.
pub fn names<'a>(pod: &'a Value, field: &str) -> Vec<&'a str> {
    pod.items_at(&format!("/spec/{field}")).iter().filter_map(|c| c.str_at("/name")).collect()
}

/// The container that is meant: the named one, the annotated one, or the first, which is told.
pub fn container(pod: &Value, named: Option<&str>, quiet: bool) -> Done<String> {
    let main = names(pod, "containers");
    let all: Vec<&str> =
        main.iter().copied().chain(names(pod, "initContainers")).chain(names(pod, "ephemeralContainers")).collect();
    let pod_name = pod.str_at("/metadata/name").unwrap_or_default();
    if let Some(named) = named.filter(|n| !n.is_empty()) {
        if !all.contains(&named) {
            fail!("container {named} is not valid for pod {pod_name}");
        }
        return Ok(named.to_owned());
    }
    if let Some(name) = pod.str_at(DEFAULT_CONTAINER).filter(|n| all.contains(n)) {
        return Ok(name.to_owned());
    }
    let Some(first) = main.first() else { fail!("pod {pod_name} has no containers") };
    if all.len() > 1 && !quiet {
        let mut list: Vec<String> = main.iter().map(|n| (*n).to_owned()).collect();
        list.extend(names(pod, "initContainers").into_iter().map(|n| format!("{n} (init)")));
        list.extend(names(pod, "ephemeralContainers").into_iter().map(|n| format!("{n} (ephem)")));
        eprintln!("Defaulted container {first:?} out of: {}", list.join(", "));
    }
    Ok((*first).to_owned())
}

/// True when all containers of the pod have ended for good.
pub fn is_finished(pod: &Value) -> bool {
    matches!(pod.str_at("/status/phase"), Some("Succeeded" | "Failed"))
}

/// Waits until the pod runs or has ended.
pub async fn until_started(cx: &Cx, info: &Info, running: &RunningFlag) -> Done<Value> {
    wait::until(cx, info, running.limit()?, |pod| pod.str_at("/status/phase") == Some("Running") || is_finished(pod))
        .await
}

/// The status of a container, of whichever sort.
fn status_of<'a>(pod: &'a Value, container: &str) -> Option<&'a Value> {
    ["init", "", "ephemeral"].iter().find_map(|sort| {
        let field = if sort.is_empty() { "containerStatuses".to_owned() } else { format!("{sort}ContainerStatuses") };
        pod.items_at(&format!("/status/{field}")).iter().find(|s| s["name"] == container)
    })
}

/// Waits until a container runs or has ended; true when it has ended. Why it waits is told.
pub async fn until_container(cx: &Cx, info: &Info, container: &str, quiet: bool) -> Done<bool> {
    let mut told = std::collections::HashSet::new();
    let told = std::cell::RefCell::new(&mut told);
    let pod = wait::until(cx, info, RUN, |pod| {
        let Some(status) = status_of(pod, container) else { return false };
        if let Some(why) = status.str_at("/state/waiting/message").filter(|why| !quiet && !why.is_empty())
            && told.borrow_mut().insert(why.to_owned())
        {
            eprintln!("Warning: container {container}: {why}");
        }
        status["state"]["running"].is_object() || status["state"]["terminated"].is_object()
    })
    .await?;
    Ok(status_of(&pod, container).is_some_and(|s| s["state"]["terminated"].is_object()))
}

/// Waits until the pod has ended.
pub async fn until_finished(cx: &Cx, info: &Info) -> Done<Value> {
    wait::until(cx, info, RUN, is_finished).await
}

/// The exit code of a container that ended.
pub fn exit_code(pod: &Value, container: &str) -> i64 {
    let status = pod.items_at("/status/containerStatuses").iter().find(|s| s["name"] == container);
    status.and_then(|s| s.int_at("/state/terminated/exitCode")).unwrap_or(0)
}

/// Why a container ended, as `Error`.
pub fn end_reason<'a>(pod: &'a Value, container: &str) -> &'a str {
    let status = pod.items_at("/status/containerStatuses").iter().find(|s| s["name"] == container);
    status.and_then(|s| s.str_at("/state/terminated/reason")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_container_that_is_meant() {
        let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]}});
        assert_eq!(container(&pod, None, true).unwrap(), "a");
        assert_eq!(container(&pod, Some("i"), true).unwrap(), "i");
        let wrong = container(&pod, Some("x"), true).unwrap_err().to_string();
        assert_eq!(wrong, "error: container x is not valid for pod p");
        pod.set_at(DEFAULT_CONTAINER, "b");
        assert_eq!(container(&pod, None, true).unwrap(), "b");
    }

    #[test]
    fn a_status_is_found_among_all_sorts() {
        let pod = json!({"status": {"initContainerStatuses": [{"name": "i"}], "containerStatuses": [{"name": "c"}],
            "ephemeralContainerStatuses": [{"name": "e", "ready": false}]}});
        for name in ["i", "c", "e"] {
            assert_eq!(status_of(&pod, name).unwrap()["name"], name);
        }
        assert!(status_of(&pod, "x").is_none());
    }

    #[test]
    fn selectors_as_queries() {
        let selector = json!({"matchLabels": {"a": "b"}, "matchExpressions": [
            {"key": "c", "operator": "In", "values": ["d", "e"]}, {"key": "f", "operator": "DoesNotExist"}, {"key": "g", "operator": "Exists"}]});
        let query = selector_query(&selector);
        assert_eq!(query, "a=b,c in (d,e),!f,g");
        assert!(Selector::parse(&query).is_ok());
    }
}
