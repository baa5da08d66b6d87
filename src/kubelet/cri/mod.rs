//! CRI v1 over a unix socket: [`Runtime`] for containerd, CRI-O and whatever else speaks it.
//!
//! In: plain configurations of [`crate::kubelet::runtime`]. Out: gRPC calls, each with a deadline. `convert` turns one
//! into the other, `inventory` remembers what cannot change any more.
//!
//! **Invariant:** every call ends: by its answer, by its deadline, or because the runtime went away.
//! **Invariant:** no call is repeated here; callers reconcile and come again.

mod convert;
mod inventory;
pub(crate) mod proto;

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use futures::{FutureExt, StreamExt, TryFutureExt, TryStreamExt, stream};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use self::inventory::Cache;
use self::proto::runtime as pb;
use self::proto::runtime::image_service_client::ImageServiceClient;
use self::proto::runtime::runtime_service_client::RuntimeServiceClient;
use crate::kubelet::images;
use crate::kubelet::pod::keys;
use crate::kubelet::registries::Rewrites;
use crate::kubelet::runtime::*;
pub(crate) use crate::util::grpc::channel;

/// Deadline of an ordinary call; upstream's `--runtime-request-timeout`.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);
/// Deadline of a listing; a runtime that needs longer counts as not reachable.
const LIST_TIMEOUT: Duration = Duration::from_secs(30);
/// Deadline of one image pull. containerd gives up by itself when a pull makes no progress.
const PULL_TIMEOUT: Duration = Duration::from_secs(3600);
/// Time on top of a container's grace, or of a command's timeout, for the runtime itself.
const MARGIN: Duration = Duration::from_secs(10);
/// How long to wait for the refusal of a runtime that has no events; one that has them is silent until the first.
const EVENTS_REFUSAL: Duration = Duration::from_millis(500);
/// Largest message from the runtime, bytes; containerd's own bound.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;
/// Status calls under way at once while taking an inventory.
const STATUS_CONCURRENCY: usize = 8;

/// The path of the socket that `endpoint` (`unix:///run/x.sock`, or a bare path) names.
pub fn socket_path(endpoint: &str) -> Result<PathBuf> {
    let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
    if path.starts_with('/') {
        return Ok(PathBuf::from(path));
    }
    Err(RuntimeError::Failed(format!(
        "container runtime endpoint {endpoint:?} is not a unix socket; write it as unix:///path/to/socket"
    )))
}

/// A CRI v1 runtime behind a unix socket.
pub struct CriRuntime {
    socket: PathBuf,
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    cache: Cache,
    rewrites: Rewrites,
}

impl CriRuntime {
    /// A client for `socket`. Nothing is dialled before the first call.
    pub fn new(socket: &Path) -> Self {
        let channel = channel(socket);
        Self {
            socket: socket.to_owned(),
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES),
            images: ImageServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES),
            cache: Cache::default(),
            rewrites: Rewrites::default(),
        }
    }

    /// Images are first asked for at mirrors that have other names for them. Only for a containerd: CRI cannot name images.
    pub fn with_rewrites(self, rewrites: Rewrites) -> Self {
        Self { rewrites, ..self }
    }

    async fn pull(&self, reference: &str, auth: Option<&Auth>) -> Result<String> {
        let auth = auth.map(|a| pb::AuthConfig { username: a.username.clone(), password: a.password.clone() });
        let asked = pb::PullImageRequest { image: Some(pb::ImageSpec { image: reference.into() }), auth };
        Ok(call("pull image", PULL_TIMEOUT, self.images.clone().pull_image(asked)).await?.image_ref)
    }

    /// Pulls what a mirror calls `theirs` and names it `ours`.
    async fn pull_as(&self, theirs: &str, ours: &str, auth: Option<&Auth>) -> Result<String> {
        let id = self.pull(theirs, auth).await?;
        images::rename(&self.socket, theirs, ours, &id).await?;
        Ok(id)
    }

    /// Where the runtime listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Asks for the status of each container that the cache does not know.
    async fn statuses(&self, listed: Vec<pb::Container>) -> Result<Vec<Told<ContainerStatus>>> {
        stream::iter(listed)
            .map(|container| async move {
                if let Some(known) = self.cache.container(&container) {
                    return Ok(Told::Known(known));
                }
                let asked = pb::ContainerStatusRequest { container_id: container.id.clone(), verbose: false };
                let answer = call("container status", LIST_TIMEOUT, self.runtime.clone().container_status(asked)).await;
                let uid = container.labels.get(keys::POD_UID).map(String::as_str).unwrap_or_default();
                Ok(match told(answer, uid)? {
                    Told::Known(pb::ContainerStatusResponse { status: Some(status), .. }) => {
                        let status = convert::container_status(status, &container);
                        self.cache.keep_container(&status);
                        Told::Known(status)
                    }
                    Told::Known(_) | Told::Gone => Told::Gone,
                    Told::Unclear(why) => Told::Unclear(why),
                })
            })
            .buffered(STATUS_CONCURRENCY)
            .try_collect()
            .await
    }

    /// The same for the addresses of sandboxes.
    async fn sandboxes(&self, listed: Vec<pb::PodSandbox>) -> Result<Vec<Told<SandboxStatus>>> {
        stream::iter(listed)
            .map(|sandbox| async move {
                let mut status = convert::sandbox(sandbox);
                if let Some(ips) = self.cache.ips(&status.id) {
                    status.ips = ips;
                    return Ok(Told::Known(status));
                }
                let asked = pb::PodSandboxStatusRequest { pod_sandbox_id: status.id.clone(), verbose: false };
                let answer = call("sandbox status", LIST_TIMEOUT, self.runtime.clone().pod_sandbox_status(asked)).await;
                Ok(match told(answer, &status.uid)? {
                    Told::Known(answer) => {
                        status.ips = answer.status.and_then(|s| s.network).map(convert::ips).unwrap_or_default();
                        self.cache.keep_ips(&status.id, &status.ips);
                        Told::Known(status)
                    }
                    Told::Gone => Told::Gone,
                    Told::Unclear(why) => Told::Unclear(why),
                })
            })
            .buffered(STATUS_CONCURRENCY)
            .try_collect()
            .await
    }
}

/// What became of asking how one of many is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Told<T> {
    /// It said so.
    Known(T),
    /// It was removed since it was listed.
    Gone,
    /// The runtime answers, but not for this one.
    Unclear(Unclear),
}

/// Sorts an answer: one that fails is its own pod's matter, a runtime that cannot be reached is everybody's.
fn told<T>(answer: Result<T>, pod_uid: &str) -> Result<Told<T>> {
    match answer {
        Ok(known) => Ok(Told::Known(known)),
        Err(RuntimeError::NotFound(_)) => Ok(Told::Gone),
        Err(error @ RuntimeError::Unavailable(_)) => Err(error),
        Err(error) => Ok(Told::Unclear(Unclear { pod_uid: pod_uid.to_owned(), why: error.to_string() })),
    }
}

/// Those that are known; the unclear ones go to `unclear`.
fn known<T>(all: Vec<Told<T>>, unclear: &mut Vec<Unclear>) -> Vec<T> {
    let mut out = Vec::with_capacity(all.len());
    for one in all {
        match one {
            Told::Known(status) => out.push(status),
            Told::Gone => {}
            Told::Unclear(why) => unclear.push(why),
        }
    }
    out
}

/// Waits for an answer until `deadline` and puts errors into our words; `what` names the call in them.
pub(crate) async fn call<T>(
    what: &str,
    deadline: Duration,
    answer: impl Future<Output = std::result::Result<tonic::Response<T>, Status>>,
) -> Result<T> {
    match tokio::time::timeout(deadline, answer).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(error(what, &status)),
        Err(_) => Err(RuntimeError::Timeout(what.to_owned())),
    }
}

/// A gRPC status in our words.
pub(crate) fn error(what: &str, status: &Status) -> RuntimeError {
    let text = format!("{what}: {}", status.message());
    match status.code() {
        Code::NotFound => RuntimeError::NotFound(text.trim_end_matches(" not found").trim_end_matches(':').to_owned()),
        Code::DeadlineExceeded => RuntimeError::Timeout(text),
        Code::Unavailable => RuntimeError::Unavailable(text),
        // tonic reports a socket nobody listens on as an unknown error with the cause behind it.
        Code::Unknown if status.message().contains("transport error") => RuntimeError::Unavailable(text),
        _ => RuntimeError::Failed(text),
    }
}

/// Removal and stop of what is not there are done already.
fn gone_is_done<T>(result: Result<T>) -> Result<()> {
    match result {
        Ok(_) | Err(RuntimeError::NotFound(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

#[async_trait]
impl Runtime for CriRuntime {
    async fn version(&self) -> Result<String> {
        let asked = pb::VersionRequest { version: "v1".into() };
        let answer = call("version", LIST_TIMEOUT, self.runtime.clone().version(asked)).await?;
        let version = answer.runtime_version.split(['~', '+']).next().unwrap_or_default();
        Ok(format!("{}://{}", answer.runtime_name, version.trim_start_matches('v')))
    }

    async fn not_ready(&self) -> Result<Option<String>> {
        let asked = pb::StatusRequest { verbose: false };
        let answer = call("status", LIST_TIMEOUT, self.runtime.clone().status(asked)).await?;
        Ok(convert::not_ready(&answer.status.unwrap_or_default().conditions))
    }

    async fn run_sandbox(&self, config: &SandboxConfig) -> Result<String> {
        let asked = pb::RunPodSandboxRequest {
            config: Some(convert::sandbox_config(config)),
            runtime_handler: config.runtime_handler.clone(),
        };
        // Twice: network plugins and the pull of a pause image are part of it, as upstream has it.
        let answer = call("run sandbox", 2 * CALL_TIMEOUT, self.runtime.clone().run_pod_sandbox(asked)).await?;
        Ok(answer.pod_sandbox_id)
    }

    async fn stop_sandbox(&self, id: &str) -> Result<()> {
        let asked = pb::StopPodSandboxRequest { pod_sandbox_id: id.into() };
        gone_is_done(call("stop sandbox", CALL_TIMEOUT, self.runtime.clone().stop_pod_sandbox(asked)).await)
    }

    async fn remove_sandbox(&self, id: &str) -> Result<()> {
        let asked = pb::RemovePodSandboxRequest { pod_sandbox_id: id.into() };
        gone_is_done(call("remove sandbox", CALL_TIMEOUT, self.runtime.clone().remove_pod_sandbox(asked)).await)
    }

    async fn create_container(&self, sandbox: &str, config: &ContainerConfig, pod: &SandboxConfig) -> Result<String> {
        let asked = pb::CreateContainerRequest {
            pod_sandbox_id: sandbox.into(),
            config: Some(convert::container_config(config)),
            sandbox_config: Some(convert::sandbox_config(pod)),
        };
        let answer = call("create container", CALL_TIMEOUT, self.runtime.clone().create_container(asked)).await?;
        Ok(answer.container_id)
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        let asked = pb::StartContainerRequest { container_id: id.into() };
        call("start container", CALL_TIMEOUT, self.runtime.clone().start_container(asked)).await.map(drop)
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<()> {
        let timeout = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        let asked = pb::StopContainerRequest { container_id: id.into(), timeout };
        let deadline = CALL_TIMEOUT.saturating_add(grace);
        gone_is_done(call("stop container", deadline, self.runtime.clone().stop_container(asked)).await)
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        let asked = pb::RemoveContainerRequest { container_id: id.into() };
        gone_is_done(call("remove container", CALL_TIMEOUT, self.runtime.clone().remove_container(asked)).await)
    }

    async fn update_resources(&self, id: &str, resources: &LinuxResources) -> Result<()> {
        let asked =
            pb::UpdateContainerResourcesRequest { container_id: id.into(), linux: Some(convert::resources(resources)) };
        let mut client = self.runtime.clone();
        call("update container resources", CALL_TIMEOUT, client.update_container_resources(asked)).await.map(drop)
    }

    async fn reopen_log(&self, id: &str) -> Result<()> {
        let asked = pb::ReopenContainerLogRequest { container_id: id.into() };
        call("reopen container log", CALL_TIMEOUT, self.runtime.clone().reopen_container_log(asked)).await.map(drop)
    }

    async fn inventory(&self) -> Result<Inventory> {
        let (mut one, mut other) = (self.runtime.clone(), self.runtime.clone());
        let (sandboxes, containers) = tokio::try_join!(
            call("list sandboxes", LIST_TIMEOUT, one.list_pod_sandbox(pb::ListPodSandboxRequest {})),
            call("list containers", LIST_TIMEOUT, other.list_containers(pb::ListContainersRequest {})),
        )?;
        self.cache.retain(&sandboxes.items, &containers.containers);
        let (sandboxes, containers) =
            tokio::try_join!(self.sandboxes(sandboxes.items), self.statuses(containers.containers))?;
        let mut unclear = Vec::new();
        let (sandboxes, containers) = (known(sandboxes, &mut unclear), known(containers, &mut unclear));
        Ok(Inventory { sandboxes, containers, unclear })
    }

    async fn usage(&self) -> Result<Vec<ContainerUsage>> {
        let asked = pb::ListContainerStatsRequest {};
        let answer =
            call("list container stats", LIST_TIMEOUT, self.runtime.clone().list_container_stats(asked)).await?;
        Ok(answer.stats.into_iter().filter_map(convert::usage).collect())
    }

    async fn image(&self, reference: &str) -> Result<Option<Image>> {
        let asked = pb::ImageStatusRequest { image: Some(pb::ImageSpec { image: reference.into() }) };
        match call("image status", LIST_TIMEOUT, self.images.clone().image_status(asked)).await {
            Ok(answer) => Ok(answer.image.map(convert::image)),
            Err(RuntimeError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn images(&self) -> Result<Vec<Image>> {
        let answer =
            call("list images", LIST_TIMEOUT, self.images.clone().list_images(pb::ListImagesRequest {})).await?;
        Ok(answer.images.into_iter().map(convert::image).collect())
    }

    async fn pull_image(&self, reference: &str, auth: Option<&Auth>) -> Result<String> {
        // A name that cannot be made whole is refused by the runtime, in its words.
        let whole = images::normalize(reference).unwrap_or_else(|_| reference.to_owned());
        let mut tried = String::new();
        for candidate in self.rewrites.candidates(&whole) {
            match self.pull_as(&candidate, &whole, auth).await {
                Ok(id) => return Ok(id),
                Err(error) => tried.push_str(&format!("; before that, from the mirror: {error}")),
            }
        }
        self.pull(reference, auth).await.map_err(|error| match error {
            RuntimeError::NotFound(text) if !tried.is_empty() => {
                RuntimeError::Failed(format!("{text} not found{tried}"))
            }
            RuntimeError::Failed(text) => RuntimeError::Failed(text + &tried),
            other => other,
        })
    }

    async fn remove_image(&self, reference: &str) -> Result<()> {
        let asked = pb::RemoveImageRequest { image: Some(pb::ImageSpec { image: reference.into() }) };
        gone_is_done(call("remove image", CALL_TIMEOUT, self.images.clone().remove_image(asked)).await)
    }

    async fn exec_sync(&self, id: &str, command: &[String], timeout: Duration) -> Result<ExecOutput> {
        // CRI counts whole seconds and takes zero for no limit.
        let seconds = i64::try_from(timeout.as_millis().div_ceil(1000)).unwrap_or(i64::MAX).max(1);
        let asked = pb::ExecSyncRequest { container_id: id.into(), cmd: command.to_vec(), timeout: seconds };
        let deadline = timeout.saturating_add(MARGIN);
        let answer = call("exec", deadline, self.runtime.clone().exec_sync(asked)).await?;
        Ok(ExecOutput { stdout: answer.stdout, stderr: answer.stderr, exit_code: answer.exit_code })
    }

    async fn exec_url(&self, id: &str, command: &[String], options: StreamOptions) -> Result<String> {
        let StreamOptions { stdin, stdout, stderr, tty } = options;
        let asked = pb::ExecRequest { container_id: id.into(), cmd: command.to_vec(), tty, stdin, stdout, stderr };
        Ok(call("exec", CALL_TIMEOUT, self.runtime.clone().exec(asked)).await?.url)
    }

    async fn attach_url(&self, id: &str, options: StreamOptions) -> Result<String> {
        let StreamOptions { stdin, stdout, stderr, tty } = options;
        let asked = pb::AttachRequest { container_id: id.into(), stdin, tty, stdout, stderr };
        Ok(call("attach", CALL_TIMEOUT, self.runtime.clone().attach(asked)).await?.url)
    }

    async fn port_forward_url(&self, sandbox: &str, ports: &[u16]) -> Result<String> {
        let port = ports.iter().map(|p| i32::from(*p)).collect();
        let asked = pb::PortForwardRequest { pod_sandbox_id: sandbox.into(), port };
        Ok(call("port forward", CALL_TIMEOUT, self.runtime.clone().port_forward(asked)).await?.url)
    }

    async fn events(&self) -> Result<Option<EventStream>> {
        let mut client = self.runtime.clone();
        let asked = Request::new(pb::GetEventsRequest {});
        let mut opening = async move { client.get_container_events(asked).await }.boxed();
        let opened = match tokio::time::timeout(EVENTS_REFUSAL, &mut opening).await {
            Ok(Err(status)) if status.code() == Code::Unimplemented => return Ok(None),
            Ok(Err(status)) => return Err(error("container events", &status)),
            Ok(Ok(response)) => async move { Ok(response) }.boxed(),
            Err(_) => opening,
        };
        let events = opened.map_ok(tonic::Response::into_inner).try_flatten_stream();
        // An error ends the stream; the caller relists and asks again.
        let events = events.take_while(|e| std::future::ready(e.is_ok()));
        Ok(Some(events.filter_map(|e| std::future::ready(e.ok().and_then(convert::event))).boxed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case("unix:///run/x.sock" => Some("/run/x.sock".into()))]
    #[test_case("/run/x.sock" => Some("/run/x.sock".into()))]
    #[test_case("tcp://127.0.0.1:1" => None)]
    fn endpoints(endpoint: &str) -> Option<PathBuf> {
        socket_path(endpoint).ok()
    }

    #[test]
    fn errors_are_told_apart() {
        let of = |code, text: &str| error("stop", &Status::new(code, text));
        assert!(matches!(of(Code::NotFound, "sandbox"), RuntimeError::NotFound(_)));
        assert!(matches!(of(Code::DeadlineExceeded, "slow"), RuntimeError::Timeout(_)));
        assert!(matches!(of(Code::Unavailable, "away"), RuntimeError::Unavailable(_)));
        assert!(matches!(of(Code::Unknown, "exit status 1"), RuntimeError::Failed(_)));
        assert_eq!(of(Code::Internal, "boom").to_string(), "stop: boom");
        assert!(gone_is_done::<()>(Err(of(Code::NotFound, "x"))).is_ok());
    }

    #[test]
    fn one_that_does_not_tell_its_status_does_not_spoil_the_list() {
        let failed = |text: &str| Err::<u8, _>(RuntimeError::Failed(text.into()));
        let answers = [Ok(1), Err(RuntimeError::NotFound("c".into())), failed("no such image"), Ok(2)];
        let all = answers.into_iter().map(|a| told(a, "u").unwrap()).collect();
        let mut unclear = Vec::new();
        assert_eq!(known(all, &mut unclear), [1, 2]);
        assert_eq!(unclear, [Unclear { pod_uid: "u".into(), why: "no such image".into() }]);
        assert!(told::<u8>(Err(RuntimeError::Unavailable("away".into())), "u").is_err(), "nobody can be asked");
    }

    #[tokio::test]
    async fn a_socket_nobody_listens_on_is_unavailable_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let runtime = CriRuntime::new(&dir.path().join("none.sock"));
        let error = runtime.version().await.unwrap_err();
        assert!(matches!(error, RuntimeError::Unavailable(_)), "{error:?}");
    }

    #[tokio::test]
    async fn a_call_without_an_answer_ends() {
        let error = call::<()>("status", Duration::from_millis(1), std::future::pending()).await.unwrap_err();
        assert_eq!(error.to_string(), "status timed out");
    }
}
