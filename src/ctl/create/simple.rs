//! Generators of small objects.

use http::Method;
use serde_json::{Value, json};

use super::secret::{HashFlag, Sources, data_of};
use super::{Generate, object, pairs, set_unless_empty};
use crate::api::meta::quantity::Quantity;
use crate::api::value::ValueExt;
use crate::client::res::SERVICE_ACCOUNTS;
use crate::ctl::cx::{Call, Cx, Done, say};
use crate::ctl::fail::{Failure, fail};
use crate::ctl::print::PrintFlags;
use crate::ctl::write;

/// A namespace
#[derive(Debug, Clone, clap::Args)]
pub struct Namespace {
    name: String,
}

impl Generate for Namespace {
    fn generate(&self) -> Done<Value> {
        Ok(object("v1", "Namespace", &self.name))
    }
}

/// A service account
#[derive(Debug, Clone, clap::Args)]
pub struct ServiceAccount {
    name: String,
}

impl Generate for ServiceAccount {
    fn generate(&self) -> Done<Value> {
        Ok(object("v1", "ServiceAccount", &self.name))
    }
}

/// A config map of files, directories and values
#[derive(Debug, Clone, clap::Args)]
pub struct ConfigMap {
    name: String,
    #[command(flatten)]
    sources: Sources,
    #[command(flatten)]
    hash: HashFlag,
}

impl Generate for ConfigMap {
    fn generate(&self) -> Done<Value> {
        let mut map = object("v1", "ConfigMap", &self.name);
        for (key, bytes) in self.sources.read(&format!("ConfigMap {:?}", self.name))? {
            // What is no text goes where bytes go.
            let (field, value) = match String::from_utf8(bytes) {
                Ok(text) => ("data", text),
                Err(e) => ("binaryData", data_of(e.as_bytes())),
            };
            map.set_at(&format!("/{field}/{}", key.replace('~', "~0").replace('/', "~1")), value);
        }
        Ok(self.hash.named(map, &[]))
    }
}

/// A token of a service account
#[derive(Debug, Clone, clap::Args)]
pub struct Token {
    /// The service account
    name: String,
    /// Who the token is for
    #[arg(long)]
    audience: Vec<String>,
    /// How long it lives, as 1h
    #[arg(long, default_value = "0s", hide_default_value = true, value_parser = crate::ctl::write::duration_text)]
    duration: String,
    /// What the token ends with: Node, Pod or Secret
    #[arg(long, default_value = "", hide_default_value = true)]
    bound_object_kind: String,
    /// Its name
    #[arg(long, default_value = "", hide_default_value = true)]
    bound_object_name: String,
    /// Its uid
    #[arg(long, default_value = "", hide_default_value = true)]
    bound_object_uid: String,
    #[command(flatten)]
    print: PrintFlags,
}

impl Token {
    /// What the token is bound to, where it is.
    fn bound(&self) -> Done<Value> {
        let (kind, name, uid) = (&self.bound_object_kind, &self.bound_object_name, &self.bound_object_uid);
        match (kind.as_str(), name.as_str(), uid.as_str()) {
            ("", "", "") => Ok(Value::Null),
            ("", "", _) => fail!("--bound-object-uid can only be set if --bound-object-kind is provided"),
            ("", ..) => fail!("--bound-object-name can only be set if --bound-object-kind is provided"),
            (kind, ..) if !matches!(kind, "Node" | "Pod" | "Secret") => {
                fail!("supported --bound-object-kind values are Node, Pod, Secret")
            }
            (_, "", _) => fail!("--bound-object-name is required if --bound-object-kind is provided"),
            _ => {
                let mut object = json!({"apiVersion": "v1", "kind": kind, "name": name});
                set_unless_empty(&mut object, "/uid", uid.clone().into());
                Ok(object)
            }
        }
    }

    /// Asks the server for the token and prints it.
    pub async fn run(&self, cx: &Cx) -> Done {
        let mut request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
        set_unless_empty(&mut request, "/spec/audiences", json!(self.audience));
        set_unless_empty(&mut request, "/spec/boundObjectRef", self.bound()?);
        if let Some(life) = write::duration(&self.duration)?.filter(|d| !d.is_zero()) {
            request.set_at("/spec/expirationSeconds", life.as_secs());
        }
        let path = SERVICE_ACCOUNTS.object(&cx.ns, &self.name, Some("token"));
        let answer = cx.call(Call::new(Method::POST, path).body(&request)).await.map_err(|e| match e {
            Failure::Server { status, .. } => Failure::Plain(format!("failed to create token: {}", status.message)),
            other => other,
        })?;
        let output = self.print.output()?;
        if !output.is_human() {
            return crate::ctl::cx::put(&output.object(&answer)?);
        }
        match answer.str_at("/status/token") {
            Some(token) if !token.is_empty() => say(token),
            _ => fail!("failed to create token: no token in server response"),
        }
    }
}

/// A resource quota
#[derive(Debug, Clone, clap::Args)]
pub struct Quota {
    name: String,
    /// Limits, as cpu=1,pods=3
    #[arg(long, value_delimiter = ',')]
    hard: Vec<String>,
    /// Scopes
    #[arg(long, value_delimiter = ',')]
    scopes: Vec<String>,
}

impl Generate for Quota {
    fn generate(&self) -> Done<Value> {
        let mut quota = object("v1", "ResourceQuota", &self.name);
        quota.set_at("/spec", json!({}));
        if let Some(bad) = self.hard.iter().find(|h| !h.contains('=')) {
            fail!("Invalid argument syntax {bad}, expected <resource>=<value>");
        }
        for (_, amount) in self.hard.iter().filter_map(|h| h.split_once('=')) {
            if let Err(e) = Quantity::parse(amount) {
                fail!("{e}");
            }
        }
        let scopes: Vec<&String> = self.scopes.iter().filter(|s| !s.is_empty()).collect();
        set_unless_empty(&mut quota, "/spec/hard", pairs(&self.hard, "hard")?.into());
        set_unless_empty(&mut quota, "/spec/scopes", json!(scopes));
        Ok(quota)
    }
}

/// A priority class
#[derive(Debug, Clone, clap::Args)]
pub struct PriorityClass {
    name: String,
    /// The higher, the more important
    #[arg(long, allow_hyphen_values = true, default_value_t = 0)]
    value: i64,
    /// For pods that name none
    #[arg(long)]
    global_default: bool,
    /// What it is for
    #[arg(long, default_value = "", hide_default_value = true)]
    description: String,
    /// PreemptLowerPriority or Never
    #[arg(long, default_value = "PreemptLowerPriority")]
    preemption_policy: String,
}

impl Generate for PriorityClass {
    fn generate(&self) -> Done<Value> {
        let mut class = object("scheduling.k8s.io/v1", "PriorityClass", &self.name);
        class["value"] = self.value.into();
        class["preemptionPolicy"] = self.preemption_policy.clone().into();
        if self.global_default {
            class["globalDefault"] = true.into();
        }
        set_unless_empty(&mut class, "/description", self.description.clone().into());
        Ok(class)
    }
}

/// A pod disruption budget
#[derive(Debug, Clone, clap::Args)]
pub struct Budget {
    name: String,
    /// Pods it is for
    #[arg(long, default_value = "", hide_default_value = true)]
    selector: String,
    /// Pods that must stay, a number or a share
    #[arg(long)]
    min_available: Option<String>,
    /// Pods that may go, a number or a share
    #[arg(long)]
    max_unavailable: Option<String>,
}

/// A number as a number, the rest as text.
fn int_or_string(text: &str, what: &str) -> Done<Value> {
    let digits = text.strip_suffix('%').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        fail!("invalid format specified for {what}");
    }
    Ok(text.parse::<i64>().map_or_else(|_| text.into(), Into::into))
}

impl Generate for Budget {
    fn generate(&self) -> Done<Value> {
        let mut budget = object("policy/v1", "PodDisruptionBudget", &self.name);
        if self.selector.is_empty() {
            fail!("a selector must be specified");
        }
        let labels: Vec<String> = self.selector.split(',').map(str::to_owned).collect();
        budget.set_at("/spec/selector/matchLabels", pairs(&labels, "selector")?);
        match (&self.min_available, &self.max_unavailable) {
            (Some(min), None) => budget.set_at("/spec/minAvailable", int_or_string(min, "min-available")?),
            (None, Some(max)) => budget.set_at("/spec/maxUnavailable", int_or_string(max, "max-unavailable")?),
            (Some(_), Some(_)) => fail!("min-available and max-unavailable cannot be both specified"),
            (None, None) => fail!("one of min-available or max-unavailable must be specified"),
        }
        Ok(budget)
    }
}

/// An ingress
#[derive(Debug, Clone, clap::Args)]
pub struct Ingress {
    name: String,
    /// host/path=service:port[,tls[=secret]]; a path that ends with * is a prefix
    #[arg(long = "rule")]
    rules: Vec<String>,
    /// Ingress class
    #[arg(long, default_value = "", hide_default_value = true)]
    class: String,
    /// service:port for what no rule takes
    #[arg(long, default_value = "", hide_default_value = true)]
    default_backend: String,
    /// Annotations
    #[arg(long = "annotation")]
    annotations: Vec<String>,
}

/// `service:port`.
fn backend(text: &str) -> Option<Value> {
    let (service, port) = text.split_once(':').filter(|(s, p)| !s.is_empty() && !p.is_empty())?;
    let port = match port.parse::<u16>() {
        Ok(number) => json!({"number": number}),
        Err(_) => json!({"name": port}),
    };
    Some(json!({"service": {"name": service, "port": port}}))
}

impl Generate for Ingress {
    fn generate(&self) -> Done<Value> {
        if self.rules.is_empty() && self.default_backend.is_empty() {
            fail!(
                "not enough information provided: every ingress has to either specify a default-backend (which catches all traffic) or a list of rules (which catch specific paths)"
            );
        }
        let mut ingress = object("networking.k8s.io/v1", "Ingress", &self.name);
        set_unless_empty(&mut ingress, "/metadata/annotations", pairs(&self.annotations, "annotation")?.into());
        set_unless_empty(&mut ingress, "/spec/ingressClassName", self.class.clone().into());
        if !self.default_backend.is_empty() {
            let Some(backend) = backend(&self.default_backend) else {
                fail!("default-backend should be in format servicename:serviceport")
            };
            ingress.set_at("/spec/defaultBackend", backend);
        }
        let (mut rules, mut tls): (Vec<Value>, Vec<Value>) = (Vec::new(), Vec::new());
        for rule in &self.rules {
            let (route, option) = rule.split_once(',').unwrap_or((rule, ""));
            let Some((place, backend)) = route.split_once('=').and_then(|(p, t)| Some((p, backend(t)?))) else {
                fail!("rule {rule} is invalid and should be in format host/path=svcname:svcport[,tls[=secret]]")
            };
            let (host, path) = place.split_once('/').unwrap_or((place, ""));
            let (path, kind) = match path.strip_suffix('*') {
                Some(path) => (format!("/{path}"), "Prefix"),
                None => (format!("/{path}"), "Exact"),
            };
            let entry = json!({"path": path, "pathType": kind, "backend": backend});
            match rules.iter_mut().find(|r| r["host"] == host) {
                Some(Value::Object(known)) => {
                    if let Some(Value::Array(paths)) = known.get_mut("http").and_then(|h| h.get_mut("paths")) {
                        paths.push(entry);
                    }
                }
                _ => rules.push(json!({"host": host, "http": {"paths": [entry]}})),
            }
            // Without a host there is nothing to say in whose name; hosts of one secret stand together.
            if let Some(secret) = option.strip_prefix("tls").filter(|_| !host.is_empty()) {
                let secret = secret.trim_start_matches('=');
                match tls.iter_mut().find(|t| t.str_at("/secretName").unwrap_or_default() == secret) {
                    Some(Value::Object(known)) => {
                        if let Some(Value::Array(hosts)) = known.get_mut("hosts") {
                            hosts.push(host.into());
                        }
                    }
                    _ => {
                        let mut part = json!({"hosts": [host]});
                        set_unless_empty(&mut part, "/secretName", secret.into());
                        tls.push(part);
                    }
                }
            }
        }
        set_unless_empty(&mut ingress, "/spec/rules", rules.into());
        set_unless_empty(&mut ingress, "/spec/tls", tls.into());
        Ok(ingress)
    }
}
