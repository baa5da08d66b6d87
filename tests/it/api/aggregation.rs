//! API groups that an extension API server serves, over real TLS: it takes requests of the front proxy only.
//!
//! Conformance, [sig-api-machinery] Aggregator: "Should be able to support the 1.17 Sample API Server using the current
//! Aggregator".
//! Conformance, [sig-api-machinery] Discovery: "should validate PreferredVersion for each APIGroup".

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base64::Engine;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

const APISERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const FLUNDERS: &str = "/apis/wardle.example.com/v1/namespaces/n/flunders";

/// Method, path with query, and the headers that say who asks.
type Seen = Arc<Mutex<Vec<(String, String, String)>>>;

/// An extension API server. It lets in who shows a certificate of `client_ca`, and echoes what it is sent.
struct Extension {
    address: SocketAddr,
    ca: String,
    seen: Seen,
}

impl Extension {
    async fn start(client_ca: &str) -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["ext.n.svc".to_owned()]).unwrap();
        let key = rustls_pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(client_ca.as_bytes()).unwrap()).unwrap();
        let verifier = rustls::server::WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
        let config = rustls::ServerConfig::builder().with_client_cert_verifier(verifier);
        let mut config = config.with_single_cert(vec![made.cert.der().clone()], key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let tls = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, seen) = (listener.local_addr().unwrap(), Seen::default());
        let log = seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, log) = (tls.clone(), log.clone());
                tokio::spawn(async move {
                    let Ok(stream) = tls.accept(stream).await else { return };
                    let one = service_fn(move |request| serve(request, log.clone()));
                    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection_with_upgrades(TokioIo::new(stream), one).await;
                });
            }
        });
        Self { address, ca: base64::engine::general_purpose::STANDARD.encode(made.cert.pem()), seen }
    }

    /// Its Service and its APIService.
    async fn register(&self, server: &Server) {
        // An endpoint may not be a loopback address; a name may lead there.
        let spec = json!({"type": "ExternalName", "externalName": "localhost"});
        server.post("/api/v1/namespaces/n/services", json!({"metadata": {"name": "ext"}, "spec": spec})).await.is(201);
        let spec = json!({"group": "wardle.example.com", "version": "v1", "groupPriorityMinimum": 2000, "versionPriority": 200,
            "caBundle": self.ca, "service": {"namespace": "n", "name": "ext", "port": self.address.port()}});
        let object = json!({"metadata": {"name": "v1.wardle.example.com"}, "spec": spec});
        server.post(APISERVICES, object).await.is(201);
    }
}

async fn serve(
    mut request: Request<Incoming>,
    log: Seen,
) -> Result<http::Response<Full<Bytes>>, std::convert::Infallible> {
    let text = |name: &str| {
        let all = request.headers().get_all(name).iter().filter_map(|v| v.to_str().ok()).collect::<Vec<_>>();
        all.join(",")
    };
    let who = format!(
        "{}|{}|{}|{}",
        text("x-remote-user"),
        text("x-remote-group"),
        text("authorization"),
        text("impersonate-user")
    );
    log.lock().unwrap().push((request.method().to_string(), request.uri().path_and_query().unwrap().to_string(), who));
    if request.headers().contains_key("upgrade") {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgrade.await.unwrap());
            let mut word = [0; 5];
            stream.read_exact(&mut word).await.unwrap();
            word.reverse();
            stream.write_all(&word).await.unwrap();
            stream.shutdown().await.unwrap();
        });
        let answer = http::Response::builder().status(101).header("upgrade", "echo").header("connection", "Upgrade");
        return Ok(answer.body(Full::default()).unwrap());
    }
    let code = if request.method() == "POST" { 201 } else { 200 };
    let body = match request.uri().path() {
        "/apis/wardle.example.com/v1" => {
            json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "wardle.example.com/v1",
            "resources": [{"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["get", "list"]}]})
        }
        "/openapi/v3" => {
            json!({"paths": {"apis/wardle.example.com/v1": {"serverRelativeURL": "/openapi/v3/apis/wardle.example.com/v1?hash=1"}}})
        }
        "/openapi/v3/apis/wardle.example.com/v1" => json!({"openapi": "3.0.0"}),
        "/openapi/v2" if text("if-none-match") == "\"one\"" => {
            return Ok(http::Response::builder().status(304).body(Full::default()).unwrap());
        }
        "/openapi/v2" => old_document(),
        _ => {
            let sent = request.into_body().collect().await.unwrap().to_bytes();
            json!({"kind": "Flunder", "sent": String::from_utf8_lossy(&sent)})
        }
    };
    let answer = http::Response::builder().status(code);
    Ok(answer
        .header("content-type", "application/json")
        .header("etag", "\"one\"")
        .header("warning", "299 - \"w\"")
        .body(Full::from(body.to_string()))
        .unwrap())
}

/// Of all that the extension serves, in the old form: with a definition of its own, one that everybody has, and one that
/// has the name of the server's, and says something else.
fn old_document() -> Value {
    let gvk = |kind: &str| json!([{"group": "wardle.example.com", "version": "v1", "kind": kind}]);
    let meta = "io.k8s.apimachinery.pkg.apis.meta.v1";
    let refer = |name: &str| json!({"$ref": format!("#/definitions/{name}")});
    let ok = |name: &str| json!({"200": {"description": "OK", "schema": refer(name)}});
    json!({
        "swagger": "2.0",
        "paths": {
            "/apis/wardle.example.com/v1/namespaces/{namespace}/flunders": {
                "parameters": [{"$ref": "#/parameters/namespace-1"}],
                "get": {"operationId": "listFlunder", "responses": ok("io.wardle.v1.Flunder"),
                    "x-kubernetes-group-version-kind": gvk("Flunder")[0]},
            },
            "/apis/other.example.com/v1/things": {"get": {"responses": ok("io.wardle.v1.Thing")}},
            "/api/v1/pods": {"get": {"responses": ok("io.wardle.v1.Thing")}},
        },
        "definitions": {
            "io.wardle.v1.Flunder": {"type": "object", "description": "A flunder.", "x-kubernetes-group-version-kind": gvk("Flunder"),
                "properties": {"metadata": refer(&format!("{meta}.ObjectMeta")), "gone": refer(&format!("{meta}.Time"))}},
            "io.wardle.v1.Thing": {},
            format!("{meta}.ObjectMeta"): {"type": "object", "description": "Of another release."},
            format!("{meta}.Time"): {"description": "Time is a wrapper around time.Time which supports correct marshaling to YAML and JSON.  Wrappers are provided for many of the factory methods that the time package offers.", "type": "string", "format": "date-time"},
        },
        "parameters": {"namespace-1": {"name": "namespace", "in": "path", "required": true, "type": "string"}},
    })
}

impl Server {
    async fn available(&self, status: &str, reason: &str) {
        self.until(&format!("{APISERVICES}/v1.wardle.example.com"), reason, |_, o| {
            let all = o["status"]["conditions"].as_array().into_iter().flatten();
            all.into_iter().any(|c| c["type"] == "Available" && c["status"] == status && c["reason"] == reason)
        })
        .await;
    }
}

#[tokio::test]
async fn requests_are_passed_on_with_who_asks() {
    let s = Server::new().await;
    let ext = Extension::start(&s.request_header_ca).await;
    ext.register(&s).await;
    s.available("True", "Passed").await;
    ext.seen.lock().unwrap().clear();
    let headers =
        [(header::AUTHORIZATION, "Bearer secret"), (header::HeaderName::from_static("x-remote-user"), "somebody-else")];
    let got = s.send("GET", &format!("{FLUNDERS}?limit=5"), &headers, Bytes::new()).await;
    assert_eq!((got.is(200)["kind"].as_str(), got.warnings), (Some("Flunder"), 1));
    let seen = ext.seen.lock().unwrap().pop().unwrap();
    let who = "admin|system:masters,system:authenticated||".to_owned();
    assert_eq!(seen, ("GET".to_owned(), format!("{FLUNDERS}?limit=5"), who));
    let posted = s.post(FLUNDERS, json!({"a": 1})).await.is(201);
    assert_eq!(posted["sent"], r#"{"a":1}"#);
    let impersonating = [(header::HeaderName::from_static("impersonate-user"), "joe")];
    s.send("GET", FLUNDERS, &impersonating, Bytes::new()).await.is(403);
    assert_eq!(ext.seen.lock().unwrap().len(), 1, "what is refused here does not get there");
}

/// Over a real connection: a client of the API's port, in the middle of whose request the protocol changes.
#[tokio::test]
async fn upgrades_are_passed_on() {
    let s = Server::new().await;
    let ext = Extension::start(&s.request_header_ca).await;
    ext.register(&s).await;
    s.available("True", "Passed").await;
    let (client, server) = tokio::io::duplex(1 << 16);
    let service = s.service.clone();
    tokio::spawn(async move {
        let one = service_fn(move |mut request: Request<Incoming>| {
            let upgrade = hyper::upgrade::on(&mut request);
            request.extensions_mut().insert(upgrade);
            service.clone().call(request)
        });
        let server = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(server), one);
        server.with_upgrades().await.unwrap();
    });
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(client)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let request = Request::get(format!("{FLUNDERS}/a/talk")).header("upgrade", "echo").header("connection", "Upgrade");
    let answer = sender.send_request(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap();
    assert_eq!(answer.status(), 101);
    let mut stream = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
    stream.write_all(b"hello").await.unwrap();
    let mut word = String::new();
    stream.read_to_string(&mut word).await.unwrap();
    assert_eq!(word, "olleh");
}

#[tokio::test]
async fn the_old_document_has_what_it_says() {
    let s = Server::new().await;
    let before = s.get("/openapi/v2").await;
    let etag = before.etag.clone();
    let before = before.is(200);
    let ext = Extension::start(&s.request_header_ca).await;
    ext.register(&s).await;
    s.available("True", "Passed").await;
    let after = s.send("GET", "/openapi/v2", &[(header::IF_NONE_MATCH, &etag)], Bytes::new()).await.is(200);
    let added = |part: &str| {
        let names = |v: &Value| v[part].as_object().unwrap().keys().cloned().collect::<std::collections::BTreeSet<_>>();
        names(&after).difference(&names(&before)).cloned().collect::<Vec<_>>()
    };
    assert_eq!(added("paths"), ["/apis/wardle.example.com/v1/namespaces/{namespace}/flunders"]);
    let meta = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
    assert_eq!(added("definitions"), [format!("{meta}_v2"), "io.wardle.v1.Flunder".to_owned()]);
    let fields = &after["definitions"]["io.wardle.v1.Flunder"]["properties"];
    assert_eq!(fields["metadata"]["$ref"], format!("#/definitions/{meta}_v2"));
    assert_eq!(after["definitions"][meta], before["definitions"][meta]);
    let parameter =
        after["paths"]["/apis/wardle.example.com/v1/namespaces/{namespace}/flunders"]["parameters"][0]["$ref"]
            .as_str()
            .unwrap();
    assert_eq!(after.pointer(&parameter[1..]).unwrap()["name"], "namespace");
    let proto = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
    let (code, proto) = s.send_raw("GET", "/openapi/v2", &[(header::ACCEPT, proto)], Bytes::new()).await;
    assert!(code == 200 && proto.windows(20).any(|w| w == b"io.wardle.v1.Flunder"));
    s.delete(&format!("{APISERVICES}/v1.wardle.example.com"), json!({})).await.is(200);
    let gone = |_, document: &Value| document["definitions"].get("io.wardle.v1.Flunder").is_none();
    s.until("/openapi/v2", "the document is as before", gone).await;
    s.send("GET", "/openapi/v2", &[(header::IF_NONE_MATCH, &etag)], Bytes::new()).await.is(304);
}

#[tokio::test]
async fn discovery_tells_of_it() {
    let s = Server::new().await;
    let ext = Extension::start(&s.request_header_ca).await;
    ext.register(&s).await;
    s.available("True", "Passed").await;
    let groups = s.get("/apis").await.is(200);
    let group =
        groups["groups"].as_array().unwrap().iter().find(|g| g["name"] == "wardle.example.com").unwrap().clone();
    assert_eq!(group["preferredVersion"]["groupVersion"], "wardle.example.com/v1");
    assert_eq!(s.get("/apis/wardle.example.com").await.is(200)["kind"], "APIGroup");
    let list = s.get("/apis/wardle.example.com/v1").await.is(200);
    assert_eq!(list["resources"][0]["name"], "flunders");
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let all = s.get_as("/apis", accept).await.is(200);
    let item = all["items"].as_array().unwrap().iter().find(|g| g["metadata"]["name"] == "wardle.example.com").unwrap();
    assert_eq!(
        (&item["versions"][0]["freshness"], &item["versions"][0]["resources"][0]["resource"]),
        (&json!("Current"), &json!("flunders"))
    );
    let index = s.get("/openapi/v3").await.is(200);
    let url = index["paths"]["apis/wardle.example.com/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    assert_eq!(s.get(&url).await.is(200)["openapi"], "3.0.0");
}

#[tokio::test]
async fn one_that_is_away_is_told_and_answers_503() {
    let s = Server::new().await;
    let ext = Extension::start(&s.request_header_ca).await;
    let spec = json!({"group": "wardle.example.com", "version": "v1", "groupPriorityMinimum": 2000, "versionPriority": 200,
        "insecureSkipTLSVerify": true, "service": {"namespace": "n", "name": "gone"}});
    let object = json!({"metadata": {"name": "v1.wardle.example.com"}, "spec": spec});
    s.post(APISERVICES, object).await.is(201);
    s.available("False", "ServiceNotFound").await;
    s.get(FLUNDERS).await.is(503);
    let table = s.get_as(APISERVICES, TABLE).await.is(200);
    let row = table["rows"].as_array().unwrap().iter().find(|r| r["cells"][0] == "v1.wardle.example.com").unwrap();
    assert_eq!(row["cells"][2], "False (ServiceNotFound)");
    s.delete(&format!("{APISERVICES}/v1.wardle.example.com"), json!({})).await.is(200);
    s.until(FLUNDERS, "it is registered no more", |code, _| code == 404).await;
    ext.register(&s).await;
    s.available("True", "Passed").await;
    // Another CA than the one that signed its certificate.
    let other = rcgen::generate_simple_self_signed(vec!["x".to_owned()]).unwrap().cert.pem();
    let other = base64::engine::general_purpose::STANDARD.encode(other);
    let path = format!("{APISERVICES}/v1.wardle.example.com");
    s.patch(&path, MERGE, json!({"spec": {"caBundle": other}})).await.is(200);
    s.available("False", "FailedDiscoveryCheck").await;
    s.patch(&path, MERGE, json!({"spec": {"caBundle": null, "insecureSkipTLSVerify": true}})).await.is(200);
    s.available("True", "Passed").await;
    s.get(FLUNDERS).await.is(200);
    s.delete("/api/v1/namespaces/n/services/ext", json!({})).await.is(200);
    s.available("False", "ServiceNotFound").await;
    s.get(FLUNDERS).await.is(503);
}

#[tokio::test]
async fn definitions_have_apiservices_while_they_are_served() {
    let s = Server::new().await;
    s.define(json!({"metadata": {"name": "ws.x.io"}, "spec": {"group": "x.io", "scope": "Cluster",
        "names": {"plural": "ws", "kind": "W"}, "versions": [{"name": "v1", "served": true, "storage": true,
            "schema": {"openAPIV3Schema": {"type": "object"}}}]}}))
        .await;
    let path = format!("{APISERVICES}/v1.x.io");
    s.until(&path, "made", |code, o| code == 200 && o["status"]["conditions"][0]["reason"] == "Local").await;
    let object = s.get(&path).await.is(200);
    assert_eq!(object["metadata"]["labels"]["kube-aggregator.kubernetes.io/automanaged"], "true");
    assert_eq!(
        (&object["spec"]["groupPriorityMinimum"], &object["spec"]["versionPriority"]),
        (&json!(1000), &json!(100))
    );
    s.delete(&path, json!({})).await.is(200);
    s.until(&path, "made again", |code, _| code == 200).await;
    s.delete("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/ws.x.io", json!({})).await.is(200);
    s.until(&path, "gone with its definition", |code, _| code == 404).await;
}
