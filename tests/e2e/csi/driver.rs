//! A CSI driver for tests: volumes are directories of the machine, staged and published by bind mounts.
//!
//! It speaks the protocol that real drivers speak, and nothing of it comes from orch but the messages' shapes: a gRPC server
//! over HTTP/2 on two sockets, the driver's and its registrar's.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use prost::Message;

#[allow(dead_code, clippy::all, clippy::too_many_lines, clippy::unwrap_used)]
mod pb {
    include!("../../../src/kubelet/cri/generated/csi.v1.rs");
}
#[allow(dead_code, clippy::all, clippy::unwrap_used)]
mod registration {
    include!("../../../src/kubelet/cri/generated/pluginregistration.rs");
}

pub const NAME: &str = "volumes.example.com";
/// Internal, as gRPC numbers it.
const INTERNAL: u32 = 13;
const UNIMPLEMENTED: u32 = 12;

type Refused = (u32, String);

/// What the driver has been asked, and what it is to refuse.
#[derive(Default)]
pub struct Seen {
    calls: Vec<(String, serde_json::Value)>,
    broken: Option<(String, String)>,
    pub registered: bool,
}

/// A driver on a node. Dropping it is its end: its sockets go, its mounts stay.
pub struct Driver {
    seen: Arc<Mutex<Seen>>,
    sockets: Vec<PathBuf>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Driver {
    /// Starts it; `kubelet` is the kubelet's directory, `backing` where its volumes are.
    pub fn start(kubelet: &Path, backing: &Path, seen: Arc<Mutex<Seen>>) -> Self {
        let own = kubelet.join("plugins").join(NAME);
        std::fs::create_dir_all(&own).unwrap();
        std::fs::create_dir_all(kubelet.join("plugins_registry")).unwrap();
        std::fs::create_dir_all(backing).unwrap();
        let (socket, registrar) =
            (own.join("csi.sock"), kubelet.join("plugins_registry").join(format!("{NAME}-reg.sock")));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let service = Arc::new(Service { seen: seen.clone(), backing: backing.to_owned(), socket: socket.clone() });
        for path in [&socket, &registrar] {
            let _ = std::fs::remove_file(path);
            let _inside = runtime.enter();
            let listener = tokio::net::UnixListener::bind(path).unwrap();
            runtime.spawn(serve(listener, service.clone()));
        }
        Self { seen, sockets: vec![registrar, socket], runtime: Some(runtime) }
    }

    /// How often a call was made.
    pub fn count(&self, method: &str) -> usize {
        self.seen.lock().unwrap().calls.iter().filter(|(m, _)| m == method).count()
    }

    /// The last call of a kind.
    pub fn last(&self, method: &str) -> serde_json::Value {
        let seen = self.seen.lock().unwrap();
        let found = seen.calls.iter().rev().find(|(m, _)| m == method);
        found.map(|(_, body)| body.clone()).unwrap_or_else(|| panic!("{method} was not called: {:?}", seen.calls))
    }

    /// Refuses a call from now on.
    pub fn refuse(&self, broken: Option<(&str, &str)>) {
        self.seen.lock().unwrap().broken = broken.map(|(m, why)| (m.to_owned(), why.to_owned()));
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        for socket in &self.sockets {
            let _ = std::fs::remove_file(socket);
        }
    }
}

struct Service {
    seen: Arc<Mutex<Seen>>,
    backing: PathBuf,
    socket: PathBuf,
}

async fn serve(listener: tokio::net::UnixListener, service: Arc<Service>) {
    while let Ok((stream, _)) = listener.accept().await {
        let service = service.clone();
        tokio::spawn(async move {
            let answer = hyper::service::service_fn(move |request| answer(service.clone(), request));
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

type Answer = http::Response<http_body_util::combinators::BoxBody<Bytes, Infallible>>;

/// One call: five bytes of a frame's head and a message, there and back, with the status behind it.
async fn answer(service: Arc<Service>, request: http::Request<Incoming>) -> Result<Answer, hyper::Error> {
    let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    let body = request.into_body().collect().await?.to_bytes();
    let result = service.call(&method, &body[5.min(body.len())..]);
    let mut trailers = http::HeaderMap::new();
    let (code, message, bytes) = match result {
        Ok(bytes) => (0, String::new(), bytes),
        Err((code, message)) => (code, message, Vec::new()),
    };
    trailers.insert("grpc-status", code.into());
    if !message.is_empty() {
        trailers.insert("grpc-message", message.replace(' ', "%20").parse().unwrap());
    }
    let mut frame = Vec::new();
    if code == 0 {
        frame.push(0);
        frame.extend((bytes.len() as u32).to_be_bytes());
        frame.extend(bytes);
    }
    let body = Full::new(Bytes::from(frame)).with_trailers(async move { Some(Ok(trailers)) });
    Ok(http::Response::builder().header("content-type", "application/grpc").body(BodyExt::boxed(body)).unwrap())
}

fn read<M: Message + Default>(bytes: &[u8]) -> M {
    M::decode(bytes).unwrap()
}

fn io(e: impl std::fmt::Display) -> Refused {
    (INTERNAL, e.to_string())
}

fn bind(from: &Path, to: &Path) -> Result<(), Refused> {
    std::fs::create_dir_all(to).map_err(io)?;
    if is_mounted(to) {
        return Ok(());
    }
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(io)
}

fn is_mounted(path: &Path) -> bool {
    let known = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    known.lines().any(|l| l.split(' ').nth(4) == path.to_str())
}

fn unbind(path: &Path) -> Result<(), Refused> {
    if is_mounted(path) {
        umount2(path, MntFlags::empty()).map_err(io)?;
    }
    let _ = std::fs::remove_dir(path);
    Ok(())
}

impl Service {
    fn note(&self, method: &str, body: serde_json::Value) -> Result<(), Refused> {
        let mut seen = self.seen.lock().unwrap();
        seen.calls.push((method.to_owned(), body));
        match &seen.broken {
            Some((broken, why)) if broken == method => Err((INTERNAL, why.clone())),
            _ => Ok(()),
        }
    }

    fn call(&self, method: &str, body: &[u8]) -> Result<Vec<u8>, Refused> {
        use pb::node_service_capability::{Rpc, Type, rpc};
        match method {
            "GetInfo" => Ok(registration::PluginInfo {
                r#type: "CSIPlugin".into(),
                name: NAME.into(),
                endpoint: self.socket.display().to_string(),
                supported_versions: vec!["1.0.0".into()],
            }
            .encode_to_vec()),
            "NotifyRegistrationStatus" => {
                let told: registration::RegistrationStatus = read(body);
                self.seen.lock().unwrap().registered = told.plugin_registered;
                Ok(Vec::new())
            }
            "NodeGetInfo" => {
                let segments = [(format!("topology.{NAME}/rack"), "7".to_owned())].into();
                let accessible_topology = Some(pb::Topology { segments });
                let node_id = "the-box".into();
                Ok(pb::NodeGetInfoResponse { node_id, max_volumes_per_node: 9, accessible_topology }.encode_to_vec())
            }
            "NodeGetCapabilities" => {
                let all = [rpc::Type::StageUnstageVolume, rpc::Type::ExpandVolume, rpc::Type::GetVolumeStats];
                let one =
                    |t: rpc::Type| pb::NodeServiceCapability { r#type: Some(Type::Rpc(Rpc { r#type: t.into() })) };
                Ok(pb::NodeGetCapabilitiesResponse { capabilities: all.map(one).into() }.encode_to_vec())
            }
            "NodeGetVolumeStats" => {
                let r: pb::NodeGetVolumeStatsRequest = read(body);
                let there = Path::new(&r.volume_path).join("file").exists();
                self.note(
                    method,
                    serde_json::json!({"id": r.volume_id, "there": there, "staging": r.staging_target_path}),
                )?;
                let of = |unit: pb::volume_usage::Unit, used: i64| pb::VolumeUsage {
                    total: 100,
                    available: 100 - used,
                    used,
                    unit: unit.into(),
                };
                let usage = vec![of(pb::volume_usage::Unit::Bytes, 40), of(pb::volume_usage::Unit::Inodes, 7)];
                Ok(pb::NodeGetVolumeStatsResponse { usage, volume_condition: None }.encode_to_vec())
            }
            other => self.node(other, body).map(|()| Vec::new()),
        }
    }

    fn node(&self, method: &str, body: &[u8]) -> Result<(), Refused> {
        match method {
            "NodeStageVolume" => {
                let r: pb::NodeStageVolumeRequest = read(body);
                self.note(method, serde_json::json!({"context": r.publish_context, "secrets": r.secrets, "attributes": r.volume_context}))?;
                let own = self.backing.join(&r.volume_id);
                std::fs::create_dir_all(&own).map_err(io)?;
                bind(&own, Path::new(&r.staging_target_path))
            }
            "NodePublishVolume" => {
                let r: pb::NodePublishVolumeRequest = read(body);
                self.note(method, serde_json::json!({"attributes": r.volume_context, "readonly": r.readonly, "staging": r.staging_target_path}))?;
                let own = self.backing.join(&r.volume_id);
                std::fs::create_dir_all(&own).map_err(io)?;
                let from = if r.staging_target_path.is_empty() { own } else { r.staging_target_path.into() };
                bind(&from, Path::new(&r.target_path))
            }
            "NodeUnpublishVolume" => {
                let r: pb::NodeUnpublishVolumeRequest = read(body);
                self.note(method, serde_json::json!({"id": r.volume_id}))?;
                unbind(Path::new(&r.target_path))
            }
            "NodeUnstageVolume" => {
                let r: pb::NodeUnstageVolumeRequest = read(body);
                self.note(method, serde_json::json!({"id": r.volume_id}))?;
                unbind(Path::new(&r.staging_target_path))
            }
            "NodeExpandVolume" => {
                let r: pb::NodeExpandVolumeRequest = read(body);
                self.note(method, serde_json::json!({"bytes": r.capacity_range.map(|c| c.required_bytes)}))
            }
            other => Err((UNIMPLEMENTED, other.to_owned())),
        }
    }
}
