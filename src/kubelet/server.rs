//! What the API server asks of this node.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, StreamExt, stream};
use http::{Request, Response};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::io::ReaderStream;

use super::Kubelet;
use super::logs;
use super::pod::{PodInventory, PodView};
use super::runtime::{ContainerStatus, RuntimeError, State, StreamOptions};
use super::stats::{self, Usage};
use super::stream::{Purpose, StreamError, proxy_upgrade};
use super::volumes::fullness::OfClaim;
use super::volumes::local_storage::{self, StorageError};
use crate::api::status::{ApiResult, Reason, Status};
use crate::api::value::ValueExt;
use crate::runtime::node_api::{Door, LogOptions, LogStream, NodeApi, NodeStream, Streams, Target};
use crate::util::tasks::Shutdown;

/// Bytes of a log between the reader and the client.
const LOG_BUFFER_BYTES: usize = 64 * 1024;

/// How long a port may take to be connected to; less than a stream of the tunnel may.
const DIAL_LIMIT: Duration = Duration::from_secs(8);

fn status_of(e: RuntimeError) -> Box<Status> {
    match e {
        RuntimeError::NotFound(what) => Status::new(Reason::NotFound, format!("{what} not found")),
        RuntimeError::Unavailable(_) => Status::new(Reason::ServiceUnavailable, e.to_string()),
        other => Status::internal(other),
    }
}

fn storage_status(e: StorageError) -> Box<Status> {
    match e {
        StorageError::Foreign(..) => Status::bad_request(e.to_string()),
        StorageError::InUse(..) => Status::new(Reason::Conflict, e.to_string()),
        StorageError::Io(..) => Status::internal(e),
    }
}

impl Kubelet {
    fn find_pod(&self, target: &Target) -> ApiResult<PodView> {
        let object = self.listers.lister("", "pods").get(&target.namespace, &target.pod);
        let object = object.ok_or_else(|| Status::not_found("", "pods", &target.pod))?;
        PodView::from_object(&object).map_err(Status::internal)
    }

    async fn find(&self, target: &Target) -> ApiResult<(PodView, PodInventory, String)> {
        let pod = self.find_pod(target)?;
        let name = match (target.container.as_str(), pod.members.first()) {
            ("", Some(_)) => {
                let app = pod.spec.containers.first().map(|c| c.name.clone());
                app.ok_or_else(|| Status::bad_request(format!("pod {} has no containers", target.pod)))?
            }
            (name, _) => name.to_owned(),
        };
        if pod.member(&name).is_none() {
            return Err(Status::bad_request(format!("container {name} is not valid for pod {}", target.pod)));
        }
        let inventory = (*self.shared.pleg.fresh().await.pod(&pod.uid)).clone();
        Ok((pod, inventory, name))
    }

    async fn running(&self, target: &Target) -> ApiResult<ContainerStatus> {
        let (pod, inventory, name) = self.find(target).await?;
        let found = inventory.newest(&name).filter(|c| c.state == State::Running).cloned();
        found.ok_or_else(|| Status::internal(format!("container not found (\"{name}\") in pod \"{}\"", pod.name)))
    }

    /// What is used right now.
    async fn used(&self) -> ApiResult<Usage> {
        let usage = self.shared.runtime.usage().await.map_err(status_of)?;
        let latest = self.shared.pleg.fresh().await;
        let (config, now) = (&self.shared.config, self.shared.clock.now());
        Ok(Usage::of(&config.node_name, &config.data_dir, self.shared.cgroups.as_ref(), &latest, &usage, now))
    }

    /// How full the volumes of pods are.
    async fn volumes(&self) -> Vec<OfClaim> {
        self.gauge.read(&self.shared.pod_dir(""), &self.shared.csi).await
    }

    /// True for ports that others may be connected to through this node: its pods' and its own, never any machine that it
    /// happens to reach.
    fn gives_out(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_string();
        let node = &self.shared.config.node_name;
        let of_pod = |pod: &Value| pod.items_at("/status/podIPs").iter().any(|i| i.str_at("/ip") == Some(&*ip));
        self.shared.facts.load().host_ips.contains(&ip)
            || self.listers.lister("", "pods").by_index("spec.nodeName", node).iter().any(|o| of_pod(&o.value()))
    }

    /// Triggers `ended` once the container does not run any more.
    async fn wait_for_end(&self, uid: &str, id: &str) {
        let mut latest = self.shared.pleg.subscribe();
        let over = latest.wait_for(|s| !s.pod(uid).containers.iter().any(|c| c.id == id && c.state == State::Running));
        // The sender lives in `self`.
        let _ = over.await;
    }
}

fn streams(s: Streams) -> StreamOptions {
    StreamOptions { stdin: s.stdin, stdout: s.stdout, stderr: s.stderr, tty: s.tty }
}

/// The container whose log is meant; why there is none, in upstream's words. `previous` is the one before the present one:
/// of a container that waits to be started again the one that ended last, which is the present one's, too.
/// Upstream: `validateContainerLogStatus`.
fn log_of<'a>(
    pod: &PodView,
    inventory: &'a PodInventory,
    name: &str,
    previous: bool,
) -> ApiResult<&'a ContainerStatus> {
    let lists = ["/containerStatuses", "/initContainerStatuses", "/ephemeralContainerStatuses"];
    let mut told = lists.iter().flat_map(|l| pod.status.items_at(l));
    let told = told.find(|s| s.str_at("/name") == Some(name));
    let all = || inventory.containers.iter().filter(|c| c.name == name);
    let mut begun = all().filter(|c| c.state != State::Created);
    if previous {
        let last = told.and_then(|s| s.str_at("/lastState/terminated/containerID"));
        let last = last.and_then(|id| id.split_once("://")).map(|(_, id)| id);
        let named = all().find(|c| Some(c.id.as_str()) == last);
        return named.or_else(|| begun.nth(1)).ok_or_else(|| {
            let pod = &pod.name;
            Status::bad_request(format!("previous terminated container \"{name}\" in pod \"{pod}\" not found"))
        });
    }
    begun.next().ok_or_else(|| {
        let why = match told.and_then(|s| s.str_at("/state/waiting/reason")) {
            Some("ErrImagePull") => "image can't be pulled",
            Some("ImagePullBackOff") => "trying and failing to pull image",
            Some(reason) => reason,
            None => "ContainerCreating",
        };
        Status::bad_request(format!("container \"{name}\" in pod \"{}\" is waiting to start: {why}", pod.name))
    })
}

/// Connects the client with the runtime's stream.
async fn upgrade(request: Request<()>, url: &str, purpose: Purpose) -> ApiResult<Response<()>> {
    match proxy_upgrade(request, url, purpose).await {
        Ok(answer) => Ok(answer.map(|_| ())),
        Err(e @ StreamError::NotAnUpgrade(_)) => Err(Status::bad_request(e.to_string())),
        Err(e) => Err(Status::internal(e)),
    }
}

#[async_trait]
impl NodeApi for std::sync::Arc<Kubelet> {
    async fn logs(&self, target: &Target, options: &LogOptions) -> ApiResult<LogStream> {
        let (pod, inventory, name) = self.find(target).await?;
        let c = log_of(&pod, &inventory, &name, options.previous)?;
        let (path, id, uid) = (PathBuf::from(&c.log_path), c.id.clone(), pod.uid.clone());
        let wanted = logs::Options {
            follow: options.follow,
            tail: options.tail_lines,
            since: options.since,
            timestamps: options.timestamps,
            limit_bytes: options.limit_bytes,
            stream: match options.stream.as_deref() {
                Some("Stdout") => Some(logs::Stream::Stdout),
                Some("Stderr") => Some(logs::Stream::Stderr),
                _ => None,
            },
        };
        let (reader, mut writer) = tokio::io::duplex(LOG_BUFFER_BYTES);
        let kubelet = self.clone();
        // Driven by whoever reads the stream; it ends with the reader.
        let work = async move {
            let ended = Shutdown::new();
            let copy = logs::copy(&path, &wanted, &ended, &mut writer);
            let over = async {
                if wanted.follow {
                    kubelet.wait_for_end(&uid, &id).await;
                    ended.trigger();
                }
            };
            tokio::join!(copy, over).0
        };
        let errors = work.into_stream().filter_map(|done| async move { done.err().map(Err::<Bytes, io::Error>) });
        Ok(stream::select(ReaderStream::new(reader), errors).boxed())
    }

    async fn exec(
        &self,
        target: &Target,
        command: &[String],
        options: Streams,
        request: Request<()>,
    ) -> ApiResult<Response<()>> {
        let c = self.running(target).await?;
        let url = self.shared.runtime.exec_url(&c.id, command, streams(options)).await.map_err(status_of)?;
        upgrade(request, &url, Purpose::Command(streams(options))).await
    }

    async fn attach(&self, target: &Target, options: Streams, request: Request<()>) -> ApiResult<Response<()>> {
        let c = self.running(target).await?;
        let url = self.shared.runtime.attach_url(&c.id, streams(options)).await.map_err(status_of)?;
        upgrade(request, &url, Purpose::Command(streams(options))).await
    }

    async fn port_forward(&self, target: &Target, ports: &[u16], request: Request<()>) -> ApiResult<Response<()>> {
        let pod = self.find_pod(target)?;
        let inventory = self.shared.pleg.fresh().await.pod(&pod.uid);
        let sandbox = inventory.sandboxes.first().filter(|s| s.state == State::Running);
        let sandbox =
            sandbox.ok_or_else(|| Status::internal(format!("pod \"{}\" has no running sandbox", pod.name)))?;
        let url = self.shared.runtime.port_forward_url(&sandbox.id, ports).await.map_err(status_of)?;
        upgrade(request, &url, Purpose::Ports(ports.to_vec())).await
    }

    async fn open(&self, door: Door) -> io::Result<NodeStream> {
        match door {
            Door::Kubelet => Ok(super::serve::in_process(std::sync::Arc::new(self.clone()))),
            Door::Port(address) if self.gives_out(address) => {
                match timeout(DIAL_LIMIT, TcpStream::connect(address)).await {
                    Ok(Ok(stream)) => {
                        stream.set_nodelay(true)?;
                        Ok(Box::new(stream))
                    }
                    Ok(Err(error)) => Err(io::Error::other(format!("dial tcp {address}: connect: {error}"))),
                    Err(_) => Err(io::Error::other(format!("dial tcp {address}: i/o timeout"))),
                }
            }
            Door::Port(address) => {
                let name = &self.shared.config.node_name;
                Err(io::Error::other(format!("{address} belongs neither to node {name} nor to a pod on it")))
            }
        }
    }

    async fn stats_summary(&self) -> ApiResult<Value> {
        let (used, volumes) = tokio::join!(self.used(), self.volumes());
        Ok(used?.with(volumes).summary(&self.rates))
    }

    async fn resource_metrics(&self) -> ApiResult<String> {
        Ok(self.used().await?.resource())
    }

    async fn healthz(&self) -> Result<(), String> {
        match self.shared.runtime.not_ready().await {
            Ok(None) => Ok(()),
            Ok(Some(why)) => Err(why),
            Err(e) => Err(e.to_string()),
        }
    }

    async fn pods(&self) -> ApiResult<Value> {
        let name = &self.shared.config.node_name;
        let items: Vec<Value> =
            self.listers.lister("", "pods").by_index("spec.nodeName", name).iter().map(|o| o.value()).collect();
        Ok(json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
    }

    async fn make_local_volume(&self, name: &str) -> ApiResult<String> {
        let made = local_storage::make(&self.shared.config.local_storage, name).map_err(storage_status)?;
        Ok(made.to_string_lossy().into_owned())
    }

    async fn remove_local_volume(&self, path: &str) -> ApiResult<()> {
        let (storage, pods) = (self.shared.config.local_storage.clone(), self.shared.pod_dir(""));
        let path = PathBuf::from(path);
        // There may be much in it.
        let removed = tokio::task::spawn_blocking(move || local_storage::remove(&storage, &path, &pods));
        removed.await.map_err(Status::internal)?.map_err(storage_status)
    }

    async fn metrics(&self) -> ApiResult<String> {
        let latest = self.shared.pleg.fresh().await;
        let sandboxes = latest.pods.values().filter(|p| p.sandboxes.iter().any(|s| s.state == State::Running)).count();
        let containers = || latest.pods.values().flat_map(|p| &p.containers);
        let states = [("created", State::Created), ("exited", State::Exited), ("running", State::Running)];
        let mut out = format!(
            "# TYPE kubelet_node_name gauge\nkubelet_node_name{{node=\"{}\"}} 1\n# TYPE kubelet_running_pods gauge\n\
             kubelet_running_pods {sandboxes}\n# TYPE kubelet_running_containers gauge\n",
            self.shared.config.node_name
        );
        for (name, state) in states {
            let count = containers().filter(|c| c.state == state).count();
            out += &format!("kubelet_running_containers{{container_state=\"{name}\"}} {count}\n");
        }
        stats::volume_metrics(&mut out, &self.volumes().await);
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubelet::testing::{inventory, simple};
    use State::{Created, Exited, Running};
    use test_case::test_case;

    type There<'a> = &'a [(&'a str, State, i32)];
    const CRASHED: &str =
        r#"{"state":{"waiting":{"reason":"CrashLoopBackOff"}},"lastState":{"terminated":{"containerID":"fake://c1"}}}"#;

    #[test_case(&[("c", Running, 0)], "{}", false => Ok("c0".into()); "running")]
    #[test_case(&[("c", Exited, 1), ("c", Running, 0)], "{}", false => Ok("c1".into()); "started again")]
    #[test_case(&[("c", Exited, 1), ("c", Running, 0)], "{}", true => Ok("c0".into()); "the one before")]
    #[test_case(&[("c", Exited, 1), ("c", Exited, 1)], CRASHED, false => Ok("c1".into()); "between two attempts")]
    #[test_case(&[("c", Exited, 1), ("c", Exited, 1)], CRASHED, true => Ok("c1".into()); "between two attempts the last one is the previous, too")]
    #[test_case(&[("c", Exited, 1), ("c", Created, 0)], "{}", false => Ok("c0".into()); "one that is only made has said nothing")]
    #[test_case(&[("c", Running, 0)], "{}", true => Err("previous terminated container \"c\" in pod \"p\" not found".into()); "none before")]
    #[test_case(&[], r#"{"state":{"waiting":{"reason":"ErrImagePull"}}}"#, false => Err("container \"c\" in pod \"p\" is waiting to start: image can't be pulled".into()); "no image")]
    #[test_case(&[], r#"{"state":{"waiting":{"reason":"ImagePullBackOff"}}}"#, false => Err("container \"c\" in pod \"p\" is waiting to start: trying and failing to pull image".into()); "no image for long")]
    #[test_case(&[], r#"{"state":{"waiting":{"reason":"CreateContainerConfigError"}}}"#, false => Err("container \"c\" in pod \"p\" is waiting to start: CreateContainerConfigError".into()); "another reason")]
    fn logs_are_of(there: There<'_>, told: &str, previous: bool) -> Result<String, String> {
        let mut pod = simple("Always");
        let there = inventory(&pod, there);
        let mut told: Value = serde_json::from_str(told).unwrap();
        told["name"] = "c".into();
        pod.status = json!({ "containerStatuses": [told] });
        log_of(&pod, &there, "c", previous).map(|c| c.id.clone()).map_err(|e| e.message.clone())
    }
}
