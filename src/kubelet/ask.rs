//! Asking a container something: exec, HTTP, TCP, gRPC. Probes and lifecycle hooks both do.
//!
//! Rules: upstream `pkg/probe`. HTTPS answers are taken without a look at the certificate, as upstream does.
//!
//! **Invariant:** every question ends within its timeout and reads at most [`MAX_BODY_BYTES`].

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{ExecAction, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;

use super::pod::Member;
use super::runtime::{Runtime, RuntimeError};

/// Bytes read of an HTTP answer or a command's output. Upstream: 10 KiB.
pub const MAX_BODY_BYTES: usize = 10 * 1024;

/// Redirects followed. Upstream: Go's client.
const MAX_REDIRECTS: usize = 10;

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// All is well.
    Success,
    /// It is not, with what was said.
    Failure(String),
    /// Nobody could be asked.
    Unknown(String),
}

/// Asks containers.
#[async_trait]
pub trait Asker: Send + Sync {
    /// Asks what a probe asks. `address` is the pod's.
    async fn ask(&self, id: &str, member: &Member, probe: &Probe, address: &str, timeout: Duration) -> Answer;
}

/// Asks through the runtime and the network.
pub struct Network {
    /// For exec.
    pub runtime: Arc<dyn Runtime>,
}

#[async_trait]
impl Asker for Network {
    async fn ask(&self, id: &str, member: &Member, probe: &Probe, address: &str, timeout: Duration) -> Answer {
        if let Some(exec) = &probe.exec {
            return command(&*self.runtime, id, exec, timeout).await;
        }
        let question = async {
            if let Some(get) = &probe.http_get {
                return http_get(member, get, address).await;
            }
            if let Some(tcp) = &probe.tcp_socket {
                let Some(port) = port_number(member, &tcp.port) else { return unknown_port(&tcp.port) };
                let host = tcp.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(address);
                return match TcpStream::connect((host, port)).await {
                    Ok(_) => Answer::Success,
                    Err(e) => Answer::Failure(format!("dial tcp {host}:{port}: {e}")),
                };
            }
            if let Some(grpc) = &probe.grpc {
                let service = grpc.service.as_deref().unwrap_or_default();
                return super::health::check(address, grpc.port as u16, service).await;
            }
            Answer::Unknown("the probe has no handler".into())
        };
        match tokio::time::timeout(timeout, question).await {
            Ok(answer) => answer,
            Err(_) => Answer::Failure(format!("no answer within {} s", timeout.as_secs())),
        }
    }
}

fn unknown_port(port: &IntOrString) -> Answer {
    let name = match port {
        IntOrString::Int(n) => n.to_string(),
        IntOrString::String(s) => s.clone(),
    };
    Answer::Unknown(format!("the container has no port {name:?}"))
}

/// The number of a port that may be given by name.
pub fn port_number(member: &Member, port: &IntOrString) -> Option<u16> {
    let number = match port {
        IntOrString::Int(n) => *n,
        IntOrString::String(name) => {
            let named = member.spec.ports.iter().flatten().find(|p| p.name.as_deref() == Some(name));
            match named {
                Some(p) => p.container_port,
                None => name.parse().ok()?,
            }
        }
    };
    u16::try_from(number).ok().filter(|n| *n > 0)
}

/// Runs a command in the container.
pub async fn command(runtime: &dyn Runtime, id: &str, exec: &ExecAction, timeout: Duration) -> Answer {
    let command: Vec<String> = exec.command.iter().flatten().cloned().collect();
    match runtime.exec_sync(id, &command, timeout).await {
        Ok(out) if out.exit_code == 0 => Answer::Success,
        Ok(out) => {
            let mut said = out.stdout;
            said.extend(out.stderr);
            said.truncate(MAX_BODY_BYTES);
            Answer::Failure(String::from_utf8_lossy(&said).trim_end().to_owned())
        }
        Err(RuntimeError::Timeout(_)) => {
            Answer::Failure(format!("command {command:?} timed out after {} s", timeout.as_secs()))
        }
        Err(e) => Answer::Unknown(e.to_string()),
    }
}

/// A GET; 2xx and 3xx are well. Redirects are followed on the same host, as upstream does.
pub async fn http_get(member: &Member, get: &HTTPGetAction, address: &str) -> Answer {
    match final_status(member, get, address).await {
        Ok(status) if (200..400).contains(&status) => Answer::Success,
        Ok(status) => Answer::Failure(format!("HTTP probe failed with statuscode: {status}")),
        Err(other) => other,
    }
}

/// A GET for a lifecycle hook: any answer will do. Upstream: `handlerRunner.runHTTPHandler`.
pub async fn http_reach(member: &Member, get: &HTTPGetAction, address: &str) -> Answer {
    match final_status(member, get, address).await {
        Ok(_) => Answer::Success,
        Err(other) => other,
    }
}

/// Where a question goes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    secure: bool,
    host: String,
    port: u16,
    path: String,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.secure { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

impl Place {
    fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    /// Where a `Location` leads; none when that is another host, or no place at all.
    fn follow(&self, location: &str) -> Option<Self> {
        if !location.contains("://") {
            let directory = self.path.split('?').next().and_then(|p| p.rfind('/').map(|i| &p[..=i])).unwrap_or("/");
            let path = match location {
                l if l.starts_with("//") => return None,
                l if l.starts_with('/') => l.to_owned(),
                l => format!("{directory}{l}"),
            };
            return Some(Self { path, ..self.clone() });
        }
        let uri: http::Uri = location.parse().ok()?;
        let host = uri.host()?;
        let host = host.trim_matches(['[', ']']);
        let secure = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let path = uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
        host.eq_ignore_ascii_case(&self.host).then(|| Self { secure, host: host.to_owned(), port, path })
    }
}

/// The status at the end of redirects.
async fn final_status(member: &Member, get: &HTTPGetAction, address: &str) -> Result<u16, Answer> {
    let Some(port) = port_number(member, &get.port) else { return Err(unknown_port(&get.port)) };
    let host = get.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(address).to_owned();
    let secure = get.scheme.as_deref().is_some_and(|s| s.eq_ignore_ascii_case("https"));
    let mut place = Place { secure, host, port, path: path(get) };
    for _ in 0..=MAX_REDIRECTS {
        let told = fetch(&place, get).await.map_err(|e| Answer::Failure(format!("Get \"{place}\": {e}")))?;
        match told.location.as_deref().and_then(|l| place.follow(l)) {
            Some(next) => place = next,
            None => return Ok(told.status),
        }
    }
    Err(Answer::Failure(format!("Get \"{place}\": stopped after {MAX_REDIRECTS} redirects")))
}

fn path(get: &HTTPGetAction) -> String {
    match get.path.as_deref() {
        None | Some("") => "/".into(),
        Some(p) if p.starts_with('/') => p.into(),
        Some(p) => format!("/{p}"),
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What came back over HTTP.
struct Told {
    status: u16,
    /// Where a redirect leads.
    location: Option<String>,
}

async fn fetch(place: &Place, get: &HTTPGetAction) -> Result<Told, BoxError> {
    let tcp = TcpStream::connect((place.host.as_str(), place.port)).await?;
    let authority = place.authority();
    let mut request = http::Request::get(&place.path);
    let mut named = [false; 3];
    for header in get.http_headers.iter().flatten() {
        for (i, name) in ["host", "user-agent", "accept"].iter().enumerate() {
            named[i] |= header.name.eq_ignore_ascii_case(name);
        }
        request = request.header(header.name.as_str(), header.value.as_str());
    }
    for (i, (name, value)) in
        [("host", authority.as_str()), ("user-agent", "kube-probe/1.36"), ("accept", "*/*")].into_iter().enumerate()
    {
        if !named[i] {
            request = request.header(name, value);
        }
    }
    let request = request.header("connection", "close").body(Empty::<Bytes>::new())?;
    if place.secure {
        let name = rustls_pki_types::ServerName::try_from(place.host.clone())?;
        exchange(crate::util::anytls::connector().connect(name, tcp).await?, request).await
    } else {
        exchange(tcp, request).await
    }
}

async fn exchange<S>(stream: S, request: http::Request<Empty<Bytes>>) -> Result<Told, BoxError>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // The connection is driven here and ends with the question: nothing is spawned.
    tokio::pin!(connection);
    let question = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let location = answer.headers().get(http::header::LOCATION).filter(|_| status.is_redirection());
        let location = location.and_then(|l| l.to_str().ok()).map(str::to_owned);
        // Reading the body lets the server finish; one that is too long is cut.
        let _ = Limited::new(answer.into_body(), MAX_BODY_BYTES).collect().await;
        Ok(Told { status: status.as_u16(), location })
    };
    tokio::pin!(question);
    let mut open = true;
    loop {
        tokio::select! {
            biased;
            told = &mut question => return told,
            _ = &mut connection, if open => open = false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubelet::pod::PodView;
    use serde_json::{Value, json};
    use test_case::test_case;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    fn member() -> Member {
        let pod = json!({"metadata": {}, "spec": {"containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 80}]}]}});
        PodView::from_value(pod).unwrap().members.remove(0)
    }

    async fn answering(answer: &'static str) -> (u16, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let n = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&request[..n]).into_owned()
        });
        (port, served)
    }

    async fn ask(probe: Value) -> Answer {
        let network = Network { runtime: Arc::new(crate::kubelet::fake::FakeRuntime::default()) };
        let probe: Probe = serde_json::from_value(probe).unwrap();
        network.ask("id", &member(), &probe, "127.0.0.1", Duration::from_secs(5)).await
    }

    #[test_case("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", true)]
    #[test_case("HTTP/1.1 302 Found\r\nlocation: http://elsewhere.example/x\r\ncontent-length: 0\r\n\r\n", true; "another host is not asked")]
    #[test_case("HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n", false)]
    #[tokio::test]
    async fn http(answer: &'static str, well: bool) {
        let (port, served) = answering(answer).await;
        let got =
            ask(json!({"httpGet": {"port": port, "path": "/x", "httpHeaders": [{"name": "Host", "value": "me"}]}}))
                .await;
        assert_eq!(got == Answer::Success, well, "{got:?}");
        let request = served.await.unwrap();
        assert!(request.starts_with("GET /x HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("me\r\n") && request.contains("kube-probe/"), "{request}");
    }

    #[test_case("/b?c=d", Some("http://h:80/b?c=d"); "a path")]
    #[test_case("b", Some("http://h:80/a/b"); "beside it")]
    #[test_case("https://H/b", Some("https://H:443/b"); "TLS on the same host")]
    #[test_case("http://h:81/", Some("http://h:81/"); "another port")]
    #[test_case("http://other/", None; "another host")]
    #[test_case("http://[", None; "no place")]
    fn redirects(location: &str, want: Option<&str>) {
        let at = Place { secure: false, host: "h".into(), port: 80, path: "/a/x".into() };
        assert_eq!(at.follow(location).map(|p| p.to_string()).as_deref(), want);
    }

    #[test_case("200 OK", true)]
    #[test_case("500 No", false)]
    #[tokio::test]
    async fn the_end_of_redirects_counts(last: &'static str, well: bool) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            for answer in ["302 Found\r\nlocation: /login".to_owned(), last.to_owned()] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 4096]).await.unwrap();
                stream.write_all(format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n").as_bytes()).await.unwrap();
            }
        });
        assert_eq!(ask(json!({"httpGet": {"port": port}})).await == Answer::Success, well);
    }

    #[tokio::test]
    async fn a_hook_takes_any_answer() {
        let (port, _served) = answering("HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n").await;
        let get: HTTPGetAction = serde_json::from_value(json!({ "port": port })).unwrap();
        assert_eq!(http_reach(&member(), &get, "127.0.0.1").await, Answer::Success);
        assert!(
            matches!(http_reach(&member(), &get, "127.0.0.1").await, Answer::Failure(_)),
            "nobody listens any more"
        );
    }

    #[tokio::test]
    async fn tcp() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(ask(json!({"tcpSocket": {"port": port}})).await, Answer::Success);
        drop(listener);
        assert!(matches!(ask(json!({"tcpSocket": {"port": port}})).await, Answer::Failure(_)));
    }

    #[test_case(IntOrString::Int(8080), Some(8080))]
    #[test_case(IntOrString::String("web".into()), Some(80))]
    #[test_case(IntOrString::String("no".into()), None)]
    #[test_case(IntOrString::Int(0), None)]
    fn ports(port: IntOrString, want: Option<u16>) {
        assert_eq!(port_number(&member(), &port), want);
    }
}
