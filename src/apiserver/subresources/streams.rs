//! What reaches into a running pod: log, exec, attach, port-forward. The node does the work; here is who, where and what.
//!
//! Rules: upstream `pkg/registry/core/pod` (`LogLocation`, `ExecLocation`, …).

use std::sync::Arc;

use futures::StreamExt;
use http::Request;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::api::object::Object;
use crate::api::status::{ApiResult, Status};
use crate::api::value::ValueExt;
use crate::apiserver::respond::{self, Answer};
use crate::apiserver::{Api, Call};
use crate::registry::{Admission, Resource, View};
use crate::runtime::node_api::{LogOptions, NodeApi, Streams, Target};

impl Api {
    /// `GET pods/NAME/log`.
    pub(in crate::apiserver) async fn pod_log(&self, call: &Call) -> ApiResult<Answer> {
        let (pod, target) = self.pod_target(call)?;
        let options = log_options(call, self.clock.now())?;
        let Some(node) = self.node_of(&pod)? else {
            // Not scheduled yet: there is nothing to read, and that is no error.
            return Ok(respond::nothing());
        };
        let parts = node.logs(&target, &options).await?;
        // An error in the middle can only end the answer: its code has been sent.
        let parts = parts.take_while(|p| futures::future::ready(p.is_ok())).filter_map(|p| async { p.ok() });
        Ok(respond::answer(200, "text/plain", respond::stream(parts)))
    }

    /// `exec`, `attach` and `portforward`: upgrades of the connection.
    pub(in crate::apiserver) async fn pod_stream(&self, res: &Arc<Resource>, mut call: Call) -> ApiResult<Answer> {
        let query = &call.info.query;
        let flags = Streams {
            stdin: query.flag("stdin"),
            stdout: query.flag("stdout"),
            stderr: query.flag("stderr"),
            tty: query.flag("tty"),
        };
        let command = query.all("command").to_vec();
        let ports: Vec<u16> =
            query.all("ports").iter().flat_map(|p| p.split(',')).filter_map(|p| p.parse().ok()).collect();
        let sub = call.info.attributes.subresource.clone();
        let mut options = connect_options(&sub, query.text("container"), flags, &command, &ports);
        let (cx, at) = (self.cx(res, &call, ""), call.target(res));
        self.registry.admit(&Admission::connection(res, &cx, &at, &sub), &mut options).await?;
        let (pod, target) = self.pod_target(&call)?;
        let Some(node) = self.node_of(&pod)? else {
            let name = &pod.meta.name;
            return Err(Status::bad_request(format!("pod {name} does not have a host assigned")));
        };
        if sub == "exec" && command.is_empty() {
            return Err(Status::bad_request("you must specify at least 1 command for the container"));
        }
        if sub != "portforward" && !flags.stdin && !flags.stdout && !flags.stderr {
            return Err(Status::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
        }
        let mut request = Request::builder().method(call.method.clone()).uri(call.info.attributes.path.as_str());
        if let Some(headers) = request.headers_mut() {
            *headers = std::mem::take(&mut call.headers);
        }
        let mut request = request.body(()).map_err(Status::internal)?;
        if let Some(upgrade) = call.upgrade.take() {
            request.extensions_mut().insert(upgrade);
        }
        let answer = match sub.as_str() {
            "exec" => node.exec(&target, &command, flags, request).await?,
            "attach" => node.attach(&target, flags, request).await?,
            _ => node.port_forward(&target, &ports, request).await?,
        };
        Ok(answer.map(|()| respond::full("")))
    }

    fn pod_target(&self, call: &Call) -> ApiResult<(Arc<Object>, Target)> {
        let a = &call.info.attributes;
        let pod = View::get(&*self.registry, "", "pods", &a.namespace, &a.name)
            .ok_or_else(|| Status::not_found("", "pods", &a.name))?;
        let value = pod.value();
        let container = match call.info.query.text("container") {
            Some(name) => {
                let lists = ["/spec/containers", "/spec/initContainers", "/spec/ephemeralContainers"];
                let known = lists.iter().any(|l| value.items_at(l).iter().any(|c| c.str_at("/name") == Some(name)));
                if !known {
                    return Err(Status::bad_request(format!("container {name} is not valid for pod {}", a.name)));
                }
                name.to_owned()
            }
            None => default_container(&value, &a.name, &a.subresource)?,
        };
        let target = Target { namespace: a.namespace.clone(), pod: a.name.clone(), container };
        Ok((pod, target))
    }

    /// How the pod's node is reached; none when it is bound to none.
    fn node_of(&self, pod: &Object) -> ApiResult<Option<Arc<dyn NodeApi>>> {
        let value = pod.value();
        let Some(name) = value.str_at("/spec/nodeName").filter(|n| !n.is_empty()) else { return Ok(None) };
        self.nodes.get(name).map(Some)
    }
}

/// What admission sees of a connection: `PodExecOptions` and its siblings.
fn connect_options(sub: &str, container: Option<&str>, flags: Streams, command: &[String], ports: &[u16]) -> Value {
    let kind = match sub {
        "exec" => "PodExecOptions",
        "attach" => "PodAttachOptions",
        _ => return json!({"kind": "PodPortForwardOptions", "apiVersion": "v1", "ports": ports}),
    };
    let mut options = json!({"kind": kind, "apiVersion": "v1"});
    let Streams { stdin, stdout, stderr, tty } = flags;
    for (name, set) in [("stdin", stdin), ("stdout", stdout), ("stderr", stderr), ("tty", tty)] {
        if set {
            options[name] = true.into();
        }
    }
    if let Some(container) = container {
        options["container"] = container.into();
    }
    if sub == "exec" {
        options["command"] = json!(command);
    }
    options
}

fn default_container(pod: &Value, name: &str, subresource: &str) -> ApiResult<String> {
    let names = |list: &str| -> Vec<&str> { pod.items_at(list).iter().filter_map(|c| c.str_at("/name")).collect() };
    let containers = names("/spec/containers");
    match (containers.as_slice(), subresource) {
        (_, "portforward") => Ok(String::new()),
        ([one], _) => Ok((*one).to_owned()),
        (all, _) => {
            let init = names("/spec/initContainers");
            let mut text =
                format!("a container name must be specified for pod {name}, choose one of: [{}]", all.join(" "));
            if !init.is_empty() {
                text.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            Err(Status::bad_request(text))
        }
    }
}

fn log_options(call: &Call, now: Timestamp) -> ApiResult<LogOptions> {
    let query = &call.info.query;
    let number = |key: &str, least: i64| -> ApiResult<Option<i64>> {
        let Some(text) = query.text(key) else { return Ok(None) };
        match text.parse::<i64>() {
            Ok(n) if n >= least => Ok(Some(n)),
            _ => {
                let errs = crate::registry::errors::FieldErrors::new();
                errs.at(key).invalid(text, format!("must be greater than or equal to {least}"));
                Err(Status::invalid("", "PodLogOptions", &call.info.attributes.name, errs.take()))
            }
        }
    };
    let since = match (number("sinceSeconds", 1)?, query.text("sinceTime")) {
        (Some(_), Some(_)) => {
            return Err(Status::bad_request("at most one of sinceTime or sinceSeconds may be specified"));
        }
        (Some(seconds), None) => now.checked_sub(SignedDuration::from_secs(seconds)).ok(),
        (None, Some(text)) => {
            Some(text.parse().map_err(|_| Status::bad_request(format!("sinceTime {text:?} is not a time")))?)
        }
        (None, None) => None,
    };
    Ok(LogOptions {
        follow: query.flag("follow"),
        previous: query.flag("previous"),
        tail_lines: number("tailLines", 0)?.map(|n| n as u64),
        since,
        timestamps: query.flag("timestamps"),
        limit_bytes: number("limitBytes", 1)?.map(|n| n as u64),
        stream: query.text("stream").filter(|s| *s != "All").map(str::to_owned),
    })
}
