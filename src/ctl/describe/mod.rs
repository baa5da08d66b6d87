//! `describe`: an object, what belongs to it and its events, for people.
//!
//! A describer is a function from an object (and what it may look up) to lines; kinds without one get the generic form.
//! Layout: kubectl's.

mod batch;
mod generic;
mod network;
mod node;
mod pod;
mod policy;
mod rbac;
mod service;
mod simple;
mod storage;
mod workload;

use serde_json::Value;

use super::builder::{Info, Query, SelectorFlags, Wanted, of_object, parse};
use super::cx::{Cx, Done, put};
use super::events;
use super::fail::{Failure, fail};
use super::files::FileFlags;
use super::print::tab;
use crate::api::value::ValueExt;
use crate::client::res::EVENTS;
use crate::util::order::Arrange;

pub use pod::pod_template;

/// Show the details of resources
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// TYPE [NAME or beginning of names…], TYPE/NAME…
    resources: Vec<String>,
    #[command(flatten)]
    files: FileFlags,
    #[command(flatten)]
    select: SelectorFlags,
    /// Items of one page; 0 for all at once
    #[arg(long, default_value_t = 500)]
    chunk_size: u32,
    /// In all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Show the events
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    show_events: bool,
}

/// Lines with levels: cells are parted by tabs and aligned at the end.
#[derive(Debug, Default)]
pub struct Out {
    text: String,
}

impl Out {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A line at a level.
    pub fn line(&mut self, level: usize, text: impl AsRef<str>) {
        self.text.extend(std::iter::repeat_n("  ", level));
        self.text.push_str(text.as_ref());
        self.text.push('\n');
    }

    /// `Name:<tab>value`.
    pub fn field(&mut self, level: usize, name: &str, value: impl AsRef<str>) {
        self.line(level, format!("{name}:\t{}", value.as_ref()));
    }

    /// The field, where there is a value.
    pub fn some(&mut self, level: usize, name: &str, value: Option<&str>) {
        if let Some(value) = value.filter(|v| !v.is_empty()) {
            self.field(level, name, value);
        }
    }

    /// A map, a line per entry: the first beside the name, the others below it.
    pub fn map(&mut self, level: usize, name: &str, map: &Value, separator: &str) {
        let mut pairs: Vec<(&String, &str)> =
            map.as_object().into_iter().flatten().map(|(k, v)| (k, v.as_str().unwrap_or_default())).collect();
        pairs.arrange();
        let mut lines = pairs.into_iter().map(|(k, v)| format!("{k}{separator}{v}"));
        self.field(level, name, lines.next().as_deref().unwrap_or("<none>"));
        // Only the tab: templates of past revisions are shown unaligned.
        for line in lines {
            self.line(0, format!("\t{line}"));
        }
    }

    /// A map on one line, as `key=value` parted by commas.
    pub fn pairs(&mut self, level: usize, name: &str, map: &Value) {
        let mut pairs: Vec<String> =
            map.as_object().into_iter().flatten().map(|(k, v)| format!("{k}={}", text(v))).collect();
        pairs.arrange();
        self.field(level, name, if pairs.is_empty() { "<none>".to_owned() } else { pairs.join(",") });
    }

    /// The text with its tabs, as kubectl shows templates of past revisions.
    pub fn raw(self) -> String {
        self.text
    }

    /// The aligned text.
    pub fn text(&self) -> String {
        tab::align(&self.text, tab::DESCRIBE)
    }
}

/// A time as Go's RFC 1123 with the zone's offset.
pub fn time(text: &str) -> String {
    text.parse::<jiff::Timestamp>().map_or_else(
        |_| text.to_owned(),
        |t| t.to_zoned(jiff::tz::TimeZone::system()).strftime("%a, %d %b %Y %H:%M:%S %z").to_string(),
    )
}

/// Name, namespace, labels and annotations.
fn head(out: &mut Out, object: &Value) {
    out.field(0, "Name", text(&object["metadata"]["name"]));
    out.field(0, "Namespace", text(&object["metadata"]["namespace"]));
    out.map(0, "Labels", &object["metadata"]["labels"], "=");
    annotations(out, 0, object);
}

/// A scalar as text.
pub fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// Annotations without the one that repeats the whole object, each a line; long ones stand below their key.
pub fn annotations(out: &mut Out, level: usize, object: &Value) {
    /// Characters that still stand beside the key.
    const LONG: usize = 140;
    let map = object["metadata"]["annotations"].as_object();
    let mut pairs: Vec<(&String, &str)> = map
        .into_iter()
        .flatten()
        .filter(|(k, _)| *k != "kubectl.kubernetes.io/last-applied-configuration")
        .map(|(k, v)| (k, v.as_str().unwrap_or_default()))
        .collect();
    pairs.arrange();
    if pairs.is_empty() {
        return out.field(level, "Annotations", "<none>");
    }
    for (i, (key, value)) in pairs.into_iter().enumerate() {
        let head = if i == 0 { "Annotations:\t" } else { "\t" };
        let value = value.strip_suffix('\n').unwrap_or(value);
        if key.len() + value.len() + 2 < LONG && !value.contains('\n') {
            out.line(level, format!("{head}{key}: {value}"));
        } else {
            out.line(level, format!("{head}{key}:"));
            for line in value.split('\n') {
                let short: String = line.chars().take(LONG - 2).collect();
                let dots = if short.len() < line.len() { "..." } else { "" };
                out.line(level, format!("\t  {short}{dots}"));
            }
        }
    }
}

/// Kinds that kubectl describes without events.
const WITHOUT_EVENTS: [&str; 9] = [
    "Secret",
    "Namespace",
    "Role",
    "ClusterRole",
    "RoleBinding",
    "ClusterRoleBinding",
    "ResourceQuota",
    "LimitRange",
    "NetworkPolicy",
];

/// Runs the verb.
pub async fn run(cx: &Cx, args: Args) -> Done {
    cx.page_by(args.chunk_size);
    if args.resources.is_empty() && args.files.is_empty() {
        return Err(Failure::Verbatim(
            "error: You must specify the type of resource to describe. Use \"kubectl api-resources\" for a complete list of supported resources.".into(),
        ));
    }
    let query = Query {
        args: &args.resources,
        files: Some(&args.files),
        labels: &args.select.selector,
        fields: &args.select.field_selector,
        all_namespaces: args.all_namespaces,
        all: args.files.is_empty()
            && args.select.selector.is_empty()
            && matches!(parse(&args.resources)?, Wanted::Types(_)),
        fetch: false,
        ..Query::default()
    };
    // What was found by the beginning of its name follows closer.
    let (mut between, mut end) = ("\n\n", "");
    let mut infos = Vec::new();
    let mut failures = Vec::new();
    for info in query.infos(cx).await? {
        if info.object.is_null() || info.source.is_some() {
            match info.fetch(cx).await {
                Ok(object) => infos.push(Info { object, ..info }),
                Err(failure) if failure.is_not_found() && info.source.is_none() => {
                    match beginning_with(cx, &info).await? {
                        found if found.is_empty() => failures.push(failure),
                        found => {
                            (between, end) = ("\n", "\n");
                            infos.extend(found);
                        }
                    }
                }
                Err(failure) => failures.push(failure),
            }
        } else {
            infos.push(info);
        }
    }
    if infos.is_empty() && failures.is_empty() && cx.code() == 0 {
        let scope = if args.all_namespaces { String::new() } else { format!(" in {} namespace.", cx.ns) };
        eprintln!("No resources found{scope}");
    }
    let mut first = true;
    for info in &infos {
        let mut out = Out::new();
        describe(cx, &mut out, info).await?;
        if args.show_events && !WITHOUT_EVENTS.contains(&&*info.resource.res.kind) {
            show_events(cx, &mut out, info).await;
        }
        put(&format!("{}{}", if std::mem::take(&mut first) { "" } else { between }, out.text()))?;
    }
    put(end)?;
    failures.iter().for_each(|f| cx.report(f));
    Ok(())
}

/// Objects whose names begin with what was given.
async fn beginning_with(cx: &Cx, info: &Info) -> Done<Vec<Info>> {
    let all = cx.items(&info.resource.res, &info.ns, "", "").await?;
    let begins = |o: &Value| o.str_at("/metadata/name").is_some_and(|n| n.starts_with(&info.name));
    Ok(all.into_iter().filter(begins).map(|o| of_object(&info.resource, o)).collect())
}

async fn describe(cx: &Cx, out: &mut Out, info: &Info) -> Done {
    let object = &info.object;
    match (&*info.resource.res.group, &*info.resource.res.kind) {
        ("", "Pod") => pod::describe(out, object),
        ("", "Node") => node::describe(cx, out, object).await?,
        ("", "Service") => service::describe(cx, out, object).await?,
        ("", "ConfigMap") => simple::config_map(out, object),
        ("", "Secret") => simple::secret(out, object),
        ("", "Namespace") => simple::namespace(cx, out, object).await?,
        ("", "ServiceAccount") => simple::service_account(cx, out, object).await?,
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => rbac::role(out, object),
        ("rbac.authorization.k8s.io", _) => rbac::binding(out, object),
        ("apps", "Deployment") => workload::deployment(cx, out, object).await?,
        ("apps", "ReplicaSet") => workload::replica_set(cx, out, object).await?,
        ("apps", "StatefulSet") => workload::stateful_set(cx, out, object).await?,
        ("apps", "DaemonSet") => workload::daemon_set(cx, out, object).await?,
        ("", "ReplicationController") => workload::replica_set(cx, out, object).await?,
        ("", "PersistentVolumeClaim") => storage::claim(cx, out, object).await?,
        ("", "PersistentVolume") => storage::volume(out, object),
        ("", "Endpoints") => network::old_endpoints(out, object),
        ("", "ResourceQuota") => policy::quota(out, object),
        ("", "LimitRange") => policy::limits(out, object),
        ("autoscaling", "HorizontalPodAutoscaler") => policy::autoscaler(out, object),
        ("batch", "Job") => batch::job(out, object),
        ("batch", "CronJob") => batch::cron_job(out, object),
        ("certificates.k8s.io", "CertificateSigningRequest") => policy::certificate(out, object),
        ("discovery.k8s.io", "EndpointSlice") => network::slice(out, object),
        ("networking.k8s.io", "Ingress") => network::ingress(cx, out, object).await?,
        ("networking.k8s.io", "IngressClass") => network::ingress_class(out, object),
        ("networking.k8s.io", "NetworkPolicy") => network::policy(out, object),
        ("policy", "PodDisruptionBudget") => policy::budget(out, object),
        ("scheduling.k8s.io", "PriorityClass") => policy::priority_class(out, object),
        ("storage.k8s.io", "StorageClass") => storage::storage_class(out, object),
        _ => generic::describe(out, object),
    }
    Ok(())
}

/// The events of an object, the oldest first. That they cannot be read is no reason not to show the rest.
async fn show_events(cx: &Cx, out: &mut Out, info: &Info) {
    let object = &info.object;
    let text = |path: &str| object.str_at(path).unwrap_or_default();
    let mut parts =
        vec![format!("involvedObject.name={}", info.name), format!("involvedObject.kind={}", text("/kind"))];
    if !info.ns.is_empty() {
        parts.push(format!("involvedObject.namespace={}", info.ns));
    }
    // Events of a node name it by name, not by uid.
    if !matches!(text("/kind"), "Node") && !text("/metadata/uid").is_empty() {
        parts.push(format!("involvedObject.uid={}", text("/metadata/uid")));
    }
    let Ok(mut all) = cx.items(&EVENTS, &info.ns, "", &parts.join(",")).await else { return };
    if all.is_empty() {
        return out.field(0, "Events", "<none>");
    }
    all.arrange_by(|a, b| events::last_seen(a).cmp(events::last_seen(b)));
    let now = jiff::Timestamp::now();
    out.line(0, "Events:");
    out.line(1, "Type\tReason\tAge\tFrom\tMessage");
    out.line(1, "----\t------\t----\t----\t-------");
    for event in &all {
        let text = |path: &str| event.str_at(path).unwrap_or_default();
        let when = events::when(event, now);
        let from = [text("/source/component"), text("/reportingComponent")].into_iter().find(|t| !t.is_empty());
        let from = from.unwrap_or_default();
        out.line(1, format!("{}\t{}\t{when}\t{from}\t{}", text("/type"), text("/reason"), text("/message").trim()));
    }
}

/// The pods of a selector, counted by phase.
pub async fn pods_status(cx: &Cx, object: &Value) -> Done<String> {
    let ns = object.str_at("/metadata/namespace").unwrap_or_default();
    let labels = match object.str_at("/kind") {
        Some("ReplicationController") => super::pods::map_query(&object["spec"]["selector"]),
        _ => super::pods::selector_query(&object["spec"]["selector"]),
    };
    if labels.is_empty() {
        fail!("{} has no selector", object.str_at("/metadata/name").unwrap_or_default());
    }
    let uid = object.str_at("/metadata/uid");
    let owned = |p: &&Value| {
        p.items_at("/metadata/ownerReferences").iter().any(|o| o.str_at("/uid") == uid && o["controller"] == true)
    };
    let pods = cx.items(&crate::client::res::PODS, ns, &labels, "").await?;
    let count = |phase: &str| pods.iter().filter(owned).filter(|p| p.str_at("/status/phase") == Some(phase)).count();
    Ok(format!(
        "{} Running / {} Waiting / {} Succeeded / {} Failed",
        count("Running"),
        count("Pending"),
        count("Succeeded"),
        count("Failed")
    ))
}

/// `ReplicaSet/web-1`, the controller of an object.
pub fn controller(object: &Value) -> Option<String> {
    let owner = object.items_at("/metadata/ownerReferences").iter().find(|o| o["controller"] == true)?;
    Some(format!("{}/{}", owner.str_at("/kind")?, owner.str_at("/name")?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn maps_stand_in_one_column() {
        let mut out = Out::new();
        out.field(0, "Name", "x");
        out.map(0, "Labels", &json!({"b": "2", "a": "1"}), "=");
        out.map(0, "Empty", &json!({}), "=");
        assert_eq!(out.text(), "Name:    x\nLabels:  a=1\n         b=2\nEmpty:   <none>\n");
    }

    #[test]
    fn the_applied_object_is_not_repeated() {
        let mut out = Out::new();
        let object = json!({"metadata": {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "a": "b", "long": "x\ny"}}});
        annotations(&mut out, 0, &object);
        assert_eq!(out.text(), "Annotations:  a: b\n              long:\n                x\n                y\n");
    }
}
