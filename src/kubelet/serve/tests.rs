//! A server that asks a node over the tunnel: what is asked is what arrives, and what is said comes back.

use std::sync::Mutex;

use async_trait::async_trait;
use futures::StreamExt;
use http::Method;
use http_body_util::Empty;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::api::status::{ApiResult, Status};
use crate::runtime::node_api::{LogOptions, LogStream, Streams, Target};
use crate::runtime::remote_node::RemoteNode;
use crate::runtime::tunnel::{self, Tunnel};

/// Says what it was asked; its commands give back what they read.
#[derive(Default)]
struct Parrot(Mutex<Vec<String>>);

impl Parrot {
    fn hear(&self, what: String) {
        self.0.lock().unwrap().push(what);
    }
}

fn echo(mut request: Request<()>) -> Response<()> {
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let (mut read, mut write) = tokio::io::split(TokioIo::new(upgrade.await.unwrap()));
        tokio::io::copy(&mut read, &mut write).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let protocol = request.headers()["sec-websocket-protocol"].clone();
    let answer = Response::builder().status(101).header("connection", "Upgrade").header("upgrade", "websocket");
    answer.header("sec-websocket-protocol", protocol).body(()).unwrap()
}

#[async_trait]
impl NodeApi for Parrot {
    async fn logs(&self, target: &Target, options: &LogOptions) -> ApiResult<LogStream> {
        self.hear(format!("logs {}/{}/{} {options:?}", target.namespace, target.pod, target.container));
        if target.pod == "waiting" {
            return Err(Status::bad_request(
                "container \"c\" in pod \"waiting\" is waiting to start: ContainerCreating",
            ));
        }
        let broken = target.pod == "broken";
        let parts = futures::stream::iter([Ok(Bytes::from_static(b"one\n")), Ok(Bytes::from_static(b"two\n"))]);
        let end = futures::stream::iter(broken.then(|| Err(io::Error::other("the disk is gone"))));
        Ok(parts.chain(end).boxed())
    }

    async fn exec(&self, t: &Target, command: &[String], s: Streams, request: Request<()>) -> ApiResult<Response<()>> {
        self.hear(format!("exec {} {command:?} {s:?}", t.container));
        if t.pod == "gone" {
            return Err(Status::not_found("", "pods", "gone"));
        }
        Ok(echo(request))
    }

    async fn attach(&self, _: &Target, _: Streams, request: Request<()>) -> ApiResult<Response<()>> {
        Ok(echo(request))
    }

    async fn port_forward(&self, _: &Target, ports: &[u16], request: Request<()>) -> ApiResult<Response<()>> {
        self.hear(format!("forward {ports:?}"));
        Ok(echo(request))
    }

    async fn open(&self, door: Door) -> io::Result<NodeStream> {
        let Door::Port(address) = door else { return Ok(in_process(Arc::new(Parrot::default()))) };
        if address.port() == 1 {
            return Err(io::Error::other("connect: connection refused"));
        }
        let (near, far) = tokio::io::duplex(1024);
        tokio::spawn(async move {
            let (mut read, mut write) = tokio::io::split(far);
            tokio::io::copy(&mut read, &mut write).await.unwrap();
            write.shutdown().await.unwrap();
        });
        Ok(Box::new(near))
    }

    async fn stats_summary(&self) -> ApiResult<Value> {
        Ok(json!({"node": {}}))
    }

    async fn resource_metrics(&self) -> ApiResult<String> {
        Ok("used 1\n".into())
    }

    async fn healthz(&self) -> Result<(), String> {
        Err("the runtime is not ready".into())
    }

    async fn pods(&self) -> ApiResult<Value> {
        Ok(json!({"kind": "PodList"}))
    }

    async fn make_local_volume(&self, name: &str) -> ApiResult<String> {
        Ok(format!("/storage/{name}"))
    }

    async fn remove_local_volume(&self, path: &str) -> ApiResult<()> {
        self.hear(format!("remove {path}"));
        Ok(())
    }

    async fn metrics(&self) -> ApiResult<String> {
        Ok("up 1\n".into())
    }
}

async fn remote() -> (Arc<Parrot>, RemoteNode) {
    let parrot = Arc::new(Parrot::default());
    let (server, agent) = tokio::io::duplex(64 << 10);
    let open = opener(parrot.clone());
    tokio::spawn(async move { tunnel::serve(agent, open, &Shutdown::new()).await });
    let (tunnel, driven) = Tunnel::over(server).await.unwrap();
    tokio::spawn(driven);
    (parrot, RemoteNode::new("n", tunnel))
}

fn target(pod: &str) -> Target {
    Target { namespace: "ns".into(), pod: pod.into(), container: "c".into() }
}

#[tokio::test]
async fn questions_and_answers_pass_whole() {
    let (parrot, node) = remote().await;
    assert_eq!(node.pods().await.unwrap()["kind"], "PodList");
    assert_eq!(node.stats_summary().await.unwrap(), json!({"node": {}}));
    assert_eq!(node.metrics().await.unwrap(), "up 1\n");
    assert_eq!(node.resource_metrics().await.unwrap(), "used 1\n");
    assert_eq!(node.healthz().await.unwrap_err(), "the runtime is not ready");
    assert_eq!(node.make_local_volume("pvc-1_n_c").await.unwrap(), "/storage/pvc-1_n_c");
    node.remove_local_volume("/storage/pvc-1_n_c").await.unwrap();
    assert_eq!(parrot.0.lock().unwrap().pop().unwrap(), "remove /storage/pvc-1_n_c");
    let options = LogOptions {
        follow: true,
        tail_lines: Some(2),
        since: "2026-01-01T00:00:00Z".parse().ok(),
        ..LogOptions::default()
    };
    let parts: Vec<_> = node.logs(&target("p"), &options).await.unwrap().collect().await;
    let text: Vec<u8> = parts.into_iter().flat_map(|p| p.unwrap()).collect();
    assert_eq!(text, b"one\ntwo\n");
    assert_eq!(parrot.0.lock().unwrap()[0], format!("logs ns/p/c {options:?}"));
    let waiting = node.logs(&target("waiting"), &LogOptions::default()).await.err().unwrap();
    assert_eq!((waiting.code, waiting.message.contains("waiting to start")), (400, true));
    // Whether the answer had begun when the disk went, or not.
    if let Ok(parts) = node.logs(&target("broken"), &LogOptions::default()).await {
        let parts: Vec<_> = parts.collect().await;
        assert!(parts.last().unwrap().is_err(), "an error in the middle is no end");
    }
}

/// A client's connection to something that answers with what `node` says to an exec.
async fn client(node: RemoteNode, pod: &'static str) -> Response<hyper::body::Incoming> {
    let (near, far) = tokio::io::duplex(64 << 10);
    let service = service_fn(move |mut request: Request<hyper::body::Incoming>| {
        let node = node.clone();
        async move {
            let upgrade = request.extensions_mut().remove::<hyper::upgrade::OnUpgrade>();
            let mut bare = Request::builder().method(request.method().clone()).body(()).unwrap();
            *bare.headers_mut() = request.headers().clone();
            bare.extensions_mut().insert(upgrade.unwrap());
            let streams = Streams { stdin: true, tty: true, ..Streams::default() };
            let command = ["sh".to_owned(), "a & b".to_owned()];
            let answer = node.exec(&target(pod), &command, streams, bare).await;
            let answer = answer.unwrap_or_else(|e| Response::builder().status(e.code).body(()).unwrap());
            Ok::<_, Infallible>(answer.map(|()| Empty::<Bytes>::new()))
        }
    });
    let server = hyper::server::conn::http1::Builder::new();
    tokio::spawn(server.serve_connection(TokioIo::new(far), service).with_upgrades());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(near)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let request = Request::builder()
        .method(Method::GET)
        .uri("/x")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("authorization", "Bearer secret")
        .header("sec-websocket-protocol", "v5.channel.k8s.io");
    sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap()
}

#[tokio::test]
async fn an_upgrade_reaches_through_and_its_failure_comes_back() {
    let (parrot, node) = remote().await;
    let answer = client(node.clone(), "p").await;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["sec-websocket-protocol"]),
        (101, &header::HeaderValue::from_static("v5.channel.k8s.io"))
    );
    let mut stream = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
    let big = vec![42; 300_000];
    let (mut read, mut write) = tokio::io::split(&mut stream);
    let (sent, received) = tokio::join!(
        async {
            write.write_all(&big).await?;
            write.shutdown().await
        },
        async {
            let mut all = Vec::new();
            read.read_to_end(&mut all).await.map(|_| all)
        }
    );
    sent.unwrap();
    assert_eq!(received.unwrap(), big);
    let heard = parrot.0.lock().unwrap()[0].clone();
    assert_eq!(
        heard,
        format!("exec c [\"sh\", \"a & b\"] {:?}", Streams { stdin: true, tty: true, ..Streams::default() })
    );
    assert_eq!(client(node, "gone").await.status().as_u16(), 404);
}

#[tokio::test]
async fn ports_of_the_node_are_reached_and_failures_say_why() {
    let (_, node) = remote().await;
    let mut stream = node.open(Door::Port("10.42.0.5:80".parse().unwrap())).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut back = String::new();
    stream.read_to_string(&mut back).await.unwrap();
    assert_eq!(back, "hello");
    let refused = node.open(Door::Port("10.42.0.5:1".parse().unwrap())).await.err().unwrap();
    assert_eq!(refused.to_string(), "connect: connection refused");
}
