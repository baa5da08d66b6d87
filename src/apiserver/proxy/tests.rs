//! Requests that go all the way: through the API to a node that has a small web server, and back.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use test_case::test_case;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::api::status::{ApiResult, Status};
use crate::api::user::UserInfo;
use crate::apiserver::Identity;
use crate::apiserver::respond::{Answer, Body};
use crate::apiserver::testing::Bed;
use crate::runtime::node_api::{Door, LogOptions, LogStream, NodeApi, NodeStream, Streams, Target};

/// A node on which every open port is the same web server.
struct Web;

/// Says what it was asked, sends back bodies, redirects, breaks off, speaks another protocol.
async fn site(mut request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let text = |text: String| Response::new(crate::apiserver::respond::full(text));
    Ok(match path.as_str() {
        "/echo" => Response::new(request.into_body().map_err(io::Error::other).boxed_unsync()),
        "/away" => Response::builder()
            .status(302)
            .header("location", "/there/?a=b")
            .body(crate::apiserver::respond::full(""))
            .unwrap(),
        "/page" => {
            let mut answer = text("<a href=\"/x\">x</a>".into());
            answer.headers_mut().insert(header::CONTENT_TYPE, "text/html; charset=utf-8".parse().unwrap());
            answer
        }
        "/json" => {
            let mut answer = text("{\"a\":1}".into());
            answer.headers_mut().insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
            answer
        }
        "/broken" => {
            let first = futures::stream::iter([Ok(Frame::data(Bytes::from_static(b"half")))]);
            // Breaks off once the client has had the first half, and says so by ending its own body.
            let last = futures::stream::once(async move {
                let _ = request.into_body().collect().await;
                Err(io::Error::other("gone"))
            });
            Response::new(StreamBody::new(first.chain(last)).boxed_unsync())
        }
        "/chat" => {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let (mut read, mut write) = tokio::io::split(TokioIo::new(upgrade.await.unwrap()));
                tokio::io::copy(&mut read, &mut write).await.unwrap();
                write.shutdown().await.unwrap();
            });
            let answer = Response::builder().status(101).header("connection", "Upgrade").header("upgrade", "chat");
            answer.body(crate::apiserver::respond::full("")).unwrap()
        }
        _ => {
            let mut headers: Vec<String> =
                request.headers().iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
            headers.sort();
            text(format!("{} {}\n{}", request.method(), request.uri(), headers.join("\n")))
        }
    })
}

#[async_trait]
impl NodeApi for Web {
    async fn open(&self, door: Door) -> io::Result<NodeStream> {
        if let Door::Port(address) = door
            && address.port() == 1
        {
            return Err(io::Error::other(format!("dial tcp {address}: connect: connection refused")));
        }
        let (near, far) = tokio::io::duplex(64 << 10);
        let server = hyper::server::conn::http1::Builder::new();
        tokio::spawn(server.serve_connection(TokioIo::new(far), service_fn(site)).with_upgrades());
        Ok(Box::new(near))
    }

    async fn logs(&self, _: &Target, _: &LogOptions) -> ApiResult<LogStream> {
        Err(Status::bad_request("none"))
    }

    async fn exec(&self, _: &Target, _: &[String], _: Streams, _: Request<()>) -> ApiResult<Response<()>> {
        Err(Status::bad_request("none"))
    }

    async fn attach(&self, _: &Target, _: Streams, _: Request<()>) -> ApiResult<Response<()>> {
        Err(Status::bad_request("none"))
    }

    async fn port_forward(&self, _: &Target, _: &[u16], _: Request<()>) -> ApiResult<Response<()>> {
        Err(Status::bad_request("none"))
    }

    async fn stats_summary(&self) -> ApiResult<Value> {
        Ok(Value::Null)
    }

    async fn resource_metrics(&self) -> ApiResult<String> {
        Ok("used 1\n".into())
    }

    async fn healthz(&self) -> Result<(), String> {
        Ok(())
    }

    async fn pods(&self) -> ApiResult<Value> {
        Ok(Value::Null)
    }

    async fn metrics(&self) -> ApiResult<String> {
        Ok(String::new())
    }
}

const POD: &str = "/api/v1/namespaces/default/pods/p:8080/proxy";
const NODE: &str = "/api/v1/nodes/n/proxy";

/// With a pod `p` on node `n`, and a Service `s` that has nobody behind it.
async fn bed() -> Bed {
    let bed = Bed::new().await;
    bed.api.attach_node("n", Arc::new(Web));
    let (code, _) = bed.admin("POST", "/api/v1/nodes", &json!({"metadata": {"name": "n"}})).await;
    assert_eq!(code, 201);
    let account = json!({"metadata": {"name": "default"}});
    bed.admin("POST", "/api/v1/namespaces/default/serviceaccounts", &account).await;
    let pod =
        json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
    let (code, made) = bed.admin("POST", "/api/v1/namespaces/default/pods", &pod).await;
    assert_eq!(code, 201, "{made}");
    let status = json!({"status": {"podIP": "10.42.0.5", "podIPs": [{"ip": "10.42.0.5"}]}});
    let (code, told) = bed.admin("PATCH", "/api/v1/namespaces/default/pods/p/status", &status).await;
    assert_eq!(code, 200, "{told}");
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    assert_eq!(bed.admin("POST", "/api/v1/namespaces/default/services", &service).await.0, 201);
    bed
}

fn request(method: &str, path: &str) -> http::request::Builder {
    let admin = UserInfo::authenticated("admin", &[UserInfo::MASTERS]);
    Request::builder().method(method).uri(path).extension(Identity(admin))
}

async fn ask(bed: &Bed, request: http::request::Builder, body: &str) -> Answer {
    Box::pin(bed.api.handle(request.body(Full::new(Bytes::from(body.to_owned()))).unwrap())).await
}

async fn text(answer: Answer) -> String {
    String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[test_case("GET")]
#[test_case("POST")]
#[test_case("PUT")]
#[test_case("PATCH")]
#[test_case("DELETE")]
#[test_case("OPTIONS")]
#[tokio::test]
async fn path_query_and_headers_are_kept_and_credentials_are_not(method: &str) {
    let bed = bed().await;
    let asked = request(method, &format!("{POD}/some/pa%2Fth/?q=1&r=%20"))
        .header("host", "api:6443")
        .header("authorization", "Bearer secret")
        .header("x-mine", "yes");
    let told = text(ask(&bed, asked, "").await).await;
    let mut lines = told.lines();
    assert_eq!(lines.next(), Some(format!("{method} /some/pa%2Fth/?q=1&r=%20").as_str()));
    let headers: Vec<&str> = lines.filter(|l| !l.starts_with("content-length")).collect();
    let uri = format!("x-forwarded-uri: {POD}/some/pa%2Fth/");
    assert_eq!(headers, ["host: api:6443", uri.as_str(), "x-mine: yes"]);
}

#[tokio::test]
async fn the_root_is_a_directory() {
    let bed = bed().await;
    let answer = ask(&bed, request("GET", &format!("{POD}?a=b")), "").await;
    assert_eq!(
        (answer.status().as_u16(), answer.headers()["location"].to_str().unwrap()),
        (301, &*format!("{POD}/?a=b"))
    );
    let told = text(ask(&bed, request("POST", &format!("{POD}?a=b")), "x").await).await;
    assert!(told.starts_with("POST /?a=b\n"), "{told}");
}

#[tokio::test]
async fn links_lead_back_and_other_answers_stay_as_they_are() {
    let bed = bed().await;
    let away = ask(&bed, request("GET", &format!("{POD}/away")), "").await;
    assert_eq!(
        (away.status().as_u16(), away.headers()["location"].to_str().unwrap()),
        (302, &*format!("{POD}/there/?a=b"))
    );
    let page = ask(&bed, request("GET", &format!("{POD}/page")), "").await;
    assert!(!page.headers().contains_key("content-length"));
    assert_eq!(text(page).await, format!("<a href=\"{POD}/x\">x</a>"));
    // curl's JSON is laid out for people, but not what is passed on.
    let json = ask(&bed, request("GET", &format!("{POD}/json")).header("user-agent", "curl/8"), "").await;
    assert_eq!(text(json).await, "{\"a\":1}");
}

/// The second part is sent only after the first has come back.
#[tokio::test]
async fn bodies_flow_both_ways() {
    let bed = bed().await;
    let (mut send, parts) = futures::channel::mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
    let body = StreamBody::new(parts);
    send.send(Ok(Frame::data(Bytes::from_static(b"one")))).await.unwrap();
    let answer = bed.api.handle(request("POST", &format!("{POD}/echo")).body(body).unwrap()).await;
    let mut back = answer.into_body().into_data_stream();
    assert_eq!(back.next().await.unwrap().unwrap(), "one");
    send.send(Ok(Frame::data(Bytes::from_static(b"two")))).await.unwrap();
    assert_eq!(back.next().await.unwrap().unwrap(), "two");
    drop(send);
    assert!(back.next().await.is_none());
}

#[tokio::test]
async fn half_an_answer_is_no_whole_one() {
    let bed = bed().await;
    let (send, parts) = futures::channel::mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
    let answer = bed.api.handle(request("POST", &format!("{POD}/broken")).body(StreamBody::new(parts)).unwrap()).await;
    let mut back = answer.into_body().into_data_stream();
    assert_eq!(back.next().await.unwrap().unwrap(), "half");
    drop(send);
    assert!(back.next().await.unwrap().is_err());
}

#[test_case("/api/v1/namespaces/default/pods/p:1/proxy/", 503, "error trying to reach service: dial tcp 10.42.0.5:1: connect: connection refused"; "nobody listens")]
#[test_case("/api/v1/namespaces/default/pods/p:x/proxy/", 400, "invalid pod request \"p:x\""; "no port")]
#[test_case("/api/v1/namespaces/default/pods/q/proxy/", 404, "pods \"q\" not found"; "no pod")]
#[test_case("/api/v1/namespaces/default/services/s/proxy/", 503, "no endpoints available for service \"s\""; "nobody behind it")]
#[tokio::test]
async fn failures_are_statuses(path: &str, code: u16, why: &str) {
    let bed = bed().await;
    let (told, status) = bed.admin("GET", path, &Value::Null).await;
    assert_eq!((told, status["kind"].as_str(), status["message"].as_str()), (code, Some("Status"), Some(why)));
}

#[tokio::test]
async fn each_method_needs_its_verb() {
    let bed = bed().await;
    let role = json!({"metadata": {"name": "reader"},
        "rules": [{"apiGroups": [""], "resources": ["pods/proxy"], "verbs": ["get"]}]});
    assert_eq!(bed.admin("POST", "/apis/rbac.authorization.k8s.io/v1/clusterroles", &role).await.0, 201);
    let joe = UserInfo::authenticated("joe", &[]);
    let (code, status) = bed.ask(&joe, "POST", &format!("{POD}/"), &Value::Null).await;
    assert_eq!(code, 403);
    assert!(status["message"].as_str().unwrap().contains("cannot create resource \"pods/proxy\""), "{status}");
}

/// Admission is asked before anything is sent, and told where it goes.
#[tokio::test]
async fn what_is_proxied_is_admitted() {
    let bed = bed().await;
    let rules = json!([{"operations": ["CONNECT"], "apiGroups": [""], "apiVersions": ["v1"],
        "resources": ["pods/proxy", "nodes/proxy"]}]);
    let policies = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolic";
    let policy = json!({"metadata": {"name": "doors"}, "spec": {"failurePolicy": "Fail",
        "matchConstraints": {"resourceRules": rules},
        "validations": [{"expression": "!has(object.path) || object.path != 'closed/door'",
            "messageExpression": "object.kind + ' is closed'"}]}});
    let (code, made) = bed.admin("POST", &format!("{policies}ies"), &policy).await;
    assert_eq!(code, 201, "{made}");
    let binding =
        json!({"metadata": {"name": "doors"}, "spec": {"policyName": "doors", "validationActions": ["Deny"]}});
    let (code, made) = bed.admin("POST", &format!("{policies}ybindings"), &binding).await;
    assert_eq!(code, 201, "{made}");
    for (root, kind) in [(POD, "PodProxyOptions"), (NODE, "NodeProxyOptions")] {
        let (code, status) = bed.admin("GET", &format!("{root}/closed/door/?a=b"), &Value::Null).await;
        assert_eq!(code, 422, "{status}");
        assert!(status["message"].as_str().unwrap().contains(&format!("{kind} is closed")), "{status}");
        for open in ["/", "/closed", "/closed/door/knob"] {
            assert_eq!(ask(&bed, request("GET", &format!("{root}{open}")), "").await.status().as_u16(), 200, "{open}");
        }
    }
}

/// A client's connection to the API that is upgraded behind the proxy.
#[test_case(POD; "of a pod")]
#[test_case(NODE; "of a node")]
#[tokio::test]
async fn an_upgrade_reaches_through(root: &str) {
    let bed = bed().await;
    let (near, far) = tokio::io::duplex(64 << 10);
    let api = bed.api.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        let api = api.clone();
        let admin = UserInfo::authenticated("admin", &[UserInfo::MASTERS]);
        request.extensions_mut().insert(Identity(admin));
        async move { Ok::<_, Infallible>(api.handle(request).await) }
    });
    let server = hyper::server::conn::http1::Builder::new();
    tokio::spawn(server.serve_connection(TokioIo::new(far), service).with_upgrades());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(near)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let asked =
        Request::builder().uri(format!("{root}/chat")).header("connection", "Upgrade").header("upgrade", "chat");
    let answer = sender.send_request(asked.body(Full::<Bytes>::default()).unwrap()).await.unwrap();
    assert_eq!(answer.status().as_u16(), 101);
    let mut stream = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut back = String::new();
    stream.read_to_string(&mut back).await.unwrap();
    assert_eq!(back, "hello");
}
