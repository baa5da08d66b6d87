//! Generators of workloads and services.

use std::num::IntErrorKind;

use serde_json::{Value, json};

use super::{Generate, object, pairs, set_unless_empty};
use crate::api::value::ValueExt;
use crate::ctl::cx::{Cx, Done};
use crate::ctl::fail::{Failure, fail};

/// A name for a container: the image's last part without tag.
pub fn container_name(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    let bare = last.split([':', '@']).next().unwrap_or(last);
    let clean: String =
        bare.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    clean.trim_matches('-').to_owned()
}

/// A deployment
#[derive(Debug, Clone, clap::Args)]
pub struct Deployment {
    name: String,
    /// Images, a container each
    #[arg(long, required = true, value_delimiter = ',')]
    image: Vec<String>,
    /// Pods
    #[arg(short, long, default_value_t = 1)]
    replicas: i64,
    /// Port that the container opens
    #[arg(long)]
    port: Option<i64>,
    /// What to run instead of the image's own
    #[arg(last = true)]
    command: Vec<String>,
}

impl Generate for Deployment {
    fn generate(&self) -> Done<Value> {
        if self.image.len() > 1 && !self.command.is_empty() {
            fail!("cannot specify multiple --image options and command");
        }
        let mut containers: Vec<Value> =
            self.image.iter().map(|i| json!({"name": container_name(i), "image": i})).collect();
        for container in &mut containers {
            set_unless_empty(container, "/command", json!(self.command));
            if let Some(port) = self.port {
                container["ports"] = json!([{"containerPort": port}]);
            }
        }
        let labels = json!({"app": self.name});
        let mut deployment = object("apps/v1", "Deployment", &self.name);
        deployment.set_at("/metadata/labels", labels.clone());
        deployment["spec"] = json!({
            "replicas": self.replicas,
            "selector": {"matchLabels": labels},
            "strategy": {},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": containers}},
        });
        Ok(deployment)
    }
}

/// A job
#[derive(Debug, Clone, clap::Args)]
pub struct Job {
    name: String,
    /// Image
    #[arg(long)]
    image: Option<String>,
    /// cronjob/NAME whose template it takes
    #[arg(long)]
    from: Option<String>,
    /// What to run instead of the image's own
    #[arg(last = true)]
    command: Vec<String>,
}

impl Generate for Job {
    fn generate(&self) -> Done<Value> {
        let mut job = object("batch/v1", "Job", &self.name);
        match (&self.image, &self.from) {
            (Some(image), None) => {
                let mut container = json!({"name": self.name, "image": image});
                set_unless_empty(&mut container, "/command", json!(self.command));
                job.set_at("/spec/template/spec", json!({"containers": [container], "restartPolicy": "Never"}));
            }
            (None, Some(_)) => {}
            _ => fail!("either --image or --from must be specified"),
        }
        Ok(job)
    }
}

impl Job {
    /// Takes the template of the cron job that `--from` names.
    pub async fn take_template(&self, cx: &Cx, job: &mut Value) -> Done {
        let Some(from) = &self.from else { return Ok(()) };
        let (kind, name) = from.split_once('/').unwrap_or((from, ""));
        let res = &cx.mapper().await?.find(kind)?.res;
        if name.is_empty() {
            fail!("from must be an existing cronjob, as cronjob/NAME; got {from:?}");
        }
        let source = cx.get(res, &cx.ns, name).await?;
        if &*res.kind != "CronJob" {
            fail!("unknown object type *{}.{}", res.version, res.kind);
        }
        job["spec"] = source["spec"]["jobTemplate"]["spec"].clone();
        let template = &source["spec"]["jobTemplate"]["metadata"];
        set_unless_empty(job, "/metadata/labels", template["labels"].clone());
        let mut annotations = template["annotations"].as_object().cloned().unwrap_or_default();
        annotations.insert("cronjob.kubernetes.io/instantiate".into(), "manual".into());
        job.set_at("/metadata/annotations", annotations);
        let owner = json!([{"apiVersion": "batch/v1", "kind": "CronJob", "name": name, "uid": source["metadata"]["uid"], "controller": true}]);
        job.set_at("/metadata/ownerReferences", owner);
        Ok(())
    }
}

/// A cron job
#[derive(Debug, Clone, clap::Args)]
pub struct CronJob {
    name: String,
    /// Image
    #[arg(long)]
    image: String,
    /// When: minute hour day month weekday
    #[arg(long)]
    schedule: String,
    /// OnFailure or Never
    #[arg(long, default_value = "OnFailure")]
    restart: String,
    /// What to run instead of the image's own
    #[arg(last = true)]
    command: Vec<String>,
}

impl Generate for CronJob {
    fn generate(&self) -> Done<Value> {
        let mut container = json!({"name": self.name, "image": self.image});
        set_unless_empty(&mut container, "/command", json!(self.command));
        let mut job = object("batch/v1", "CronJob", &self.name);
        job["spec"] = json!({
            "schedule": self.schedule,
            "jobTemplate": {
                "metadata": {"name": self.name},
                "spec": {"template": {"metadata": {}, "spec": {"containers": [container], "restartPolicy": self.restart}}},
            },
        });
        Ok(job)
    }
}

/// `port[:target]` pairs as a service has them.
fn ports(list: &[String]) -> Done<Vec<Value>> {
    list.iter()
        .map(|text| {
            let mut parts = text.split(':');
            let port = parts.next().unwrap_or_default();
            let target = parts.next().unwrap_or(port);
            let number: u16 = port.parse().map_err(|e: std::num::ParseIntError| {
                let why = if *e.kind() == IntErrorKind::PosOverflow { "value out of range" } else { "invalid syntax" };
                Failure::Plain(format!("strconv.ParseUint: parsing {port:?}: {why}"))
            })?;
            let target: Value = match target.parse::<i64>() {
                Ok(1..=65535) => target.parse::<u16>().unwrap_or_default().into(),
                Ok(_) => fail!("must be between 1 and 65535, inclusive"),
                Err(_) if !target.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') => {
                    fail!("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
                }
                Err(_) => target.into(),
            };
            Ok(json!({"name": text.replace(':', "-"), "port": number, "protocol": "TCP", "targetPort": target}))
        })
        .collect()
}

/// Ports that must be there.
fn some_ports(tcp: &[String]) -> Done {
    if tcp.is_empty() {
        fail!("at least one tcp port specifier must be provided");
    }
    Ok(())
}

fn service(name: &str, kind: &str, tcp: &[String]) -> Done<Value> {
    let mut service = object("v1", "Service", name);
    let labels = json!({"app": name});
    service.set_at("/metadata/labels", labels.clone());
    service["spec"] = json!({"selector": labels, "type": kind});
    set_unless_empty(&mut service, "/spec/ports", ports(tcp)?.into());
    Ok(service)
}

/// A service with an address in the cluster
#[derive(Debug, Clone, clap::Args)]
pub struct ClusterIp {
    name: String,
    /// PORT[:TARGET]
    #[arg(long, value_delimiter = ',')]
    tcp: Vec<String>,
    /// The address, or None
    #[arg(long, default_value = "", hide_default_value = true)]
    clusterip: String,
}

impl Generate for ClusterIp {
    fn generate(&self) -> Done<Value> {
        if self.clusterip != "None" {
            some_ports(&self.tcp)?;
        }
        let mut service = service(&self.name, "ClusterIP", &self.tcp)?;
        set_unless_empty(&mut service, "/spec/clusterIP", self.clusterip.clone().into());
        Ok(service)
    }
}

/// A service with a port on every node
#[derive(Debug, Clone, clap::Args)]
pub struct NodePort {
    name: String,
    /// PORT[:TARGET]
    #[arg(long, value_delimiter = ',')]
    tcp: Vec<String>,
    /// The port on the nodes
    #[arg(long)]
    node_port: Option<u16>,
}

impl Generate for NodePort {
    fn generate(&self) -> Done<Value> {
        some_ports(&self.tcp)?;
        let mut service = service(&self.name, "NodePort", &self.tcp)?;
        if let Some(port) = self.node_port {
            service["spec"]["ports"][0]["nodePort"] = port.into();
        }
        Ok(service)
    }
}

/// A service with an address outside
#[derive(Debug, Clone, clap::Args)]
pub struct LoadBalancer {
    name: String,
    /// PORT[:TARGET]
    #[arg(long, value_delimiter = ',')]
    tcp: Vec<String>,
}

impl Generate for LoadBalancer {
    fn generate(&self) -> Done<Value> {
        some_ports(&self.tcp)?;
        service(&self.name, "LoadBalancer", &self.tcp)
    }
}

/// A service that is another name
#[derive(Debug, Clone, clap::Args)]
pub struct ExternalName {
    name: String,
    /// The name it stands for
    #[arg(long)]
    external_name: String,
    /// PORT[:TARGET]
    #[arg(long, value_delimiter = ',')]
    tcp: Vec<String>,
}

impl Generate for ExternalName {
    fn generate(&self) -> Done<Value> {
        let mut service = service(&self.name, "ExternalName", &self.tcp)?;
        service.set_at("/spec/externalName", self.external_name.clone());
        Ok(service)
    }
}

/// `a=b,c=d` as a map.
pub fn labels(text: &str) -> Done<Value> {
    let list: Vec<String> = text.split(',').filter(|p| !p.is_empty()).map(str::to_owned).collect();
    Ok(pairs(&list, "labels")?.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case("nginx:1.2", "nginx")]
    #[test_case("reg:5000/a/My_App@sha256:x", "my-app")]
    fn names(image: &str, want: &str) {
        assert_eq!(container_name(image), want);
    }

    #[test]
    fn service_ports() {
        let made = ports(&["80:8080".into(), "81:http".into(), "82".into()]).unwrap();
        let of = |p: &Value| (p["name"].clone(), p["port"].clone(), p["targetPort"].clone());
        assert_eq!(of(&made[0]), (json!("80-8080"), json!(80), json!(8080)));
        assert_eq!(of(&made[1]), (json!("81-http"), json!(81), json!("http")));
        assert_eq!(of(&made[2]), (json!("82"), json!(82), json!(82)));
        assert!(ports(&["x".into()]).is_err());
    }
}
