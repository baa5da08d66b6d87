//! `expose`: a service for a pod, a workload or another service.

use serde_json::{Value, json};

use super::builder::{Info, Query, of_flags};
use super::create::{object, pairs, set_unless_empty};
use super::cx::{Cx, Done};
use super::fail::{Failure, fail};
use super::files::FileFlags;
use super::patch::Overrides;
use super::print::PrintFlags;
use super::set::template_path;
use super::write::{WriteFlags, with_saved_config};
use crate::api::value::ValueExt;

/// Make a service for a workload
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
    /// Ports of the service
    #[arg(long = "port", value_delimiter = ',')]
    ports: Vec<String>,
    /// Port of the pods, a number or a name
    #[arg(long, default_value = "", hide_default_value = true)]
    target_port: String,
    /// TCP, UDP or SCTP
    #[arg(long, default_value = "", hide_default_value = true)]
    protocol: String,
    /// Name of the service
    #[arg(long)]
    name: Option<String>,
    /// ClusterIP, NodePort, LoadBalancer
    #[arg(long = "type", default_value = "", hide_default_value = true)]
    kind: String,
    /// Address of the service, or None
    #[arg(long, default_value = "", hide_default_value = true)]
    cluster_ip: String,
    /// Address outside
    #[arg(long, default_value = "", hide_default_value = true)]
    external_ip: String,
    /// Pods of the service; the workload's own where not given
    #[arg(long, default_value = "", hide_default_value = true)]
    selector: String,
    /// Labels of the service
    #[arg(short = 'l', long, default_value = "", hide_default_value = true)]
    labels: String,
    /// Address of the load balancer
    #[arg(long, default_value = "", hide_default_value = true)]
    load_balancer_ip: String,
    #[command(flatten)]
    overrides: Overrides,
    /// Keep what was created for a later apply
    #[arg(long)]
    save_config: bool,
    /// None or ClientIP
    #[arg(long, default_value = "", hide_default_value = true)]
    session_affinity: String,
}

/// Runs the verb.
pub async fn run(cx: &Cx, args: Args) -> Done {
    let query = Query { args: &args.resources, files: Some(&args.files), fetch: true, ..Query::default() };
    for info in query.infos(cx).await? {
        if let Err(failure) = one(cx, &info, &args).await {
            cx.report(&failure);
        }
    }
    Ok(())
}

async fn one(cx: &Cx, info: &Info, args: &Args) -> Done {
    let mut service = args.overrides.over(service(&info.object, args)?)?;
    if info.source.is_some() {
        service.set_at("/metadata/namespace", info.ns.clone());
    }
    let writer = args.write.writer("kubectl-expose");
    let made = of_flags(cx, service, writer.dry_run).await?;
    let object = made.object;
    let save = args.save_config && !writer.dry_run.is_client();
    let object = if save { with_saved_config(&object) } else { object };
    let object = writer.create(cx, &made.resource.res, &made.ns, &object).await?;
    args.print.done(&made.resource, &object, "exposed", writer.dry_run)
}

fn map_of(text: &str, what: &str) -> Done<Value> {
    let parts: Vec<String> = text.split(',').filter(|p| !p.is_empty()).map(str::to_owned).collect();
    Ok(pairs(&parts, what)?.into())
}

/// The service for an object.
fn service(of: &Value, args: &Args) -> Done<Value> {
    let kind = of.str_at("/kind").unwrap_or_default();
    let selector = match (args.selector.as_str(), kind) {
        ("", "Pod") => of["metadata"]["labels"].clone(),
        ("", "Service" | "ReplicationController") => of["spec"]["selector"].clone(),
        ("", "Deployment" | "ReplicaSet") => {
            if !of.items_at("/spec/selector/matchExpressions").is_empty() {
                fail!("couldn't convert expressions - \"{}\" to map-based selector format", of["spec"]["selector"]);
            }
            of["spec"]["selector"]["matchLabels"].clone()
        }
        ("", other) => fail!("cannot expose a {other}"),
        (text, _) => map_of(text, "selector")?,
    };
    if selector.as_object().is_none_or(serde_json::Map::is_empty) {
        fail!(
            "couldn't retrieve selectors via --selector flag or introspection: the object has no labels and cannot be exposed"
        );
    }
    let name = args.name.as_deref().or(of.str_at("/metadata/name")).unwrap_or_default();
    let mut service = object("v1", "Service", name);
    let labels =
        if args.labels.is_empty() { of["metadata"]["labels"].clone() } else { map_of(&args.labels, "labels")? };
    set_unless_empty(&mut service, "/metadata/labels", labels);
    service["spec"] = json!({"ports": ports(of, kind, args)?, "selector": selector});
    for (path, value) in [
        ("/spec/type", &args.kind),
        ("/spec/clusterIP", &args.cluster_ip),
        ("/spec/loadBalancerIP", &args.load_balancer_ip),
        ("/spec/sessionAffinity", &args.session_affinity),
    ] {
        set_unless_empty(&mut service, path, value.clone().into());
    }
    if !args.external_ip.is_empty() {
        service.set_at("/spec/externalIPs", json!([args.external_ip]));
    }
    Ok(service)
}

fn ports(of: &Value, kind: &str, args: &Args) -> Done<Vec<Value>> {
    let found: Vec<(i64, String)> = if kind == "Service" {
        of.items_at("/spec/ports")
            .iter()
            .filter_map(|p| Some((p.int_at("/port")?, p.str_at("/protocol").unwrap_or("TCP").to_owned())))
            .collect()
    } else {
        let pod = template_path(kind).and_then(|path| of.get_at(path)).unwrap_or(of);
        let open = pod.items_at("/spec/containers").iter().flat_map(|c| c.items_at("/ports"));
        open.filter_map(|p| Some((p.int_at("/containerPort")?, p.str_at("/protocol").unwrap_or("TCP").to_owned())))
            .collect()
    };
    let target = |port: i64| match args.target_port.as_str() {
        "" => json!(port),
        text => text.parse::<u16>().map_or_else(|_| text.into(), Into::into),
    };
    let protocol = |own: &str| if args.protocol.is_empty() { own.to_owned() } else { args.protocol.clone() };
    let mut asked: Vec<(i64, String)> = Vec::new();
    for text in &args.ports {
        let port =
            text.parse().map_err(|_| Failure::Plain(format!("strconv.Atoi: parsing {text:?}: invalid syntax")))?;
        let own = found.iter().find(|(p, _)| *p == port).map_or("TCP", |(_, proto)| proto);
        asked.push((port, own.to_owned()));
    }
    let found = if asked.is_empty() { found } else { asked };
    if found.is_empty() {
        fail!("couldn't find port via --port flag or introspection");
    }
    let many = found.len() > 1;
    let port = |(i, (port, own)): (usize, &(i64, String))| {
        let mut entry = json!({"port": port, "protocol": protocol(own), "targetPort": target(*port)});
        if many {
            entry["name"] = format!("port-{}", i + 1).into();
        }
        entry
    };
    Ok(found.iter().enumerate().map(port).collect())
}
