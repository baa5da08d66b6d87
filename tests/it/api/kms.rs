//! Encryption at rest with a plugin that keeps the key: a real gRPC server on a unix socket, which speaks the protocol
//! (k8s.io/kms v2) and shares nothing with orch but the messages' shapes.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};

use orch::store::sealed;
use prost::Message;

use super::*;

#[allow(dead_code, missing_docs, clippy::all, clippy::unwrap_used)]
mod pb {
    include!("../../../src/store/sealed/kms/generated/v2.rs");
}

const INTERNAL: u32 = 13;

/// What the plugin is and has seen.
struct Plugin {
    key_id: String,
    healthz: String,
    /// Keys by id that it opens with.
    known: Vec<String>,
    encrypted: usize,
    decrypted: usize,
    /// All plain texts that it was shown.
    shown: Vec<u8>,
}

impl Plugin {
    fn call(&mut self, method: &str, body: &[u8]) -> Result<Vec<u8>, String> {
        match method {
            "Status" => {
                let (version, healthz, key_id) = ("v2".into(), self.healthz.clone(), self.key_id.clone());
                Ok(pb::StatusResponse { version, healthz, key_id }.encode_to_vec())
            }
            "Encrypt" => {
                let asked = pb::EncryptRequest::decode(body).unwrap();
                self.encrypted += 1;
                self.shown.extend(&asked.plaintext);
                let ciphertext = asked.plaintext.iter().map(|b| b ^ mask(&self.key_id)).collect();
                let annotations = [("local.example.com".to_owned(), b"here".to_vec())].into();
                Ok(pb::EncryptResponse { ciphertext, key_id: self.key_id.clone(), annotations }.encode_to_vec())
            }
            "Decrypt" => {
                let asked = pb::DecryptRequest::decode(body).unwrap();
                self.decrypted += 1;
                assert_eq!(asked.annotations["local.example.com"], b"here");
                if !self.known.contains(&asked.key_id) {
                    return Err("that key is lost".into());
                }
                let plaintext = asked.ciphertext.iter().map(|b| b ^ mask(&asked.key_id)).collect();
                Ok(pb::DecryptResponse { plaintext }.encode_to_vec())
            }
            other => Err(format!("no method {other}")),
        }
    }
}

fn mask(key_id: &str) -> u8 {
    key_id.bytes().fold(0x5a, |a, b| a.rotate_left(3) ^ b)
}

/// A running plugin, and the server's directory.
struct Running {
    plugin: Arc<Mutex<Plugin>>,
    socket: PathBuf,
    listening: Option<tokio::task::JoinHandle<()>>,
    dir: tempfile::TempDir,
    raw: Arc<dyn Store>,
}

impl Running {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let plugin = Plugin {
            key_id: "1".into(),
            healthz: "ok".into(),
            known: vec!["1".into(), "2".into()],
            encrypted: 0,
            decrypted: 0,
            shown: Vec::new(),
        };
        let socket = dir.path().join("kms.sock");
        let plugin = Arc::new(Mutex::new(plugin));
        let mut running = Self { plugin, socket, listening: None, dir, raw: Arc::new(Memory::new()) };
        running.listen();
        running
    }

    fn listen(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
        let listener = tokio::net::UnixListener::bind(&self.socket).unwrap();
        self.listening = Some(tokio::spawn(serve(listener, self.plugin.clone())));
    }

    /// Its end: the socket, and the connections on it.
    async fn hang_up(&mut self) {
        let listening = self.listening.take().unwrap();
        listening.abort();
        let _ = listening.await;
        let _ = std::fs::remove_file(&self.socket);
    }

    /// Encryption as a start finds it: with another configuration when `providers` say so.
    fn open(&self, providers: &str) -> Arc<Encryption> {
        let file = self.dir.path().join("encryption.yaml");
        std::fs::write(&file, self.configuration(providers)).unwrap();
        let own = self.dir.path().join("own.json");
        Encryption::open(self.raw.clone(), sealed::Settings { file: Some(file), managed: false, own }).unwrap()
    }

    fn configuration(&self, providers: &str) -> String {
        format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  \
             providers: [{}]\n",
            providers.replace(
                "KMS",
                &format!(
                    "{{kms: {{apiVersion: v2, name: vault, endpoint: 'unix://{}', timeout: 500ms}}}}",
                    self.socket.display()
                )
            )
        )
    }

    async fn stored(&self) -> Bytes {
        self.raw.snapshot(b"/registry/core/secrets/n/s").await.unwrap().entries.remove(0).value
    }

    fn with<T>(&self, look: impl FnOnce(&mut Plugin) -> T) -> T {
        look(&mut self.plugin.lock().unwrap())
    }
}

async fn serve(listener: tokio::net::UnixListener, plugin: Arc<Mutex<Plugin>>) {
    // Connections end with who accepts them.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let plugin = plugin.clone();
        connections.spawn(async move {
            let answer = hyper::service::service_fn(move |request| answer(plugin.clone(), request));
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

type Answer = http::Response<http_body_util::combinators::BoxBody<Bytes, Infallible>>;

async fn answer(plugin: Arc<Mutex<Plugin>>, request: http::Request<Incoming>) -> Result<Answer, hyper::Error> {
    let path = request.uri().path().to_owned();
    let method = path.strip_prefix("/v2.KeyManagementService/").unwrap_or_default().to_owned();
    let body = request.into_body().collect().await?.to_bytes();
    let result = plugin.lock().unwrap().call(&method, &body[5.min(body.len())..]);
    let (mut trailers, mut frame) = (http::HeaderMap::new(), Vec::new());
    match result {
        Ok(bytes) => {
            trailers.insert("grpc-status", 0.into());
            frame.push(0);
            frame.extend((bytes.len() as u32).to_be_bytes());
            frame.extend(bytes);
        }
        Err(message) => {
            trailers.insert("grpc-status", INTERNAL.into());
            trailers.insert("grpc-message", message.replace(' ', "%20").parse().unwrap());
        }
    }
    let body = Full::new(Bytes::from(frame)).with_trailers(async move { Some(Ok(trailers)) });
    Ok(http::Response::builder().header("content-type", "application/grpc").body(BodyExt::boxed(body)).unwrap())
}

fn secret(name: &str) -> Value {
    json!({"metadata": {"name": name}, "stringData": {"password": "hunter2"}})
}

/// The names of the Secrets, each of which was read and has its data.
async fn read(encryption: &Encryption) -> Vec<String> {
    let all = encryption.store().snapshot(b"/registry/core/secrets/").await.unwrap();
    let one = |entry: &orch::store::Entry| {
        let secret: Value = serde_json::from_slice(&entry.value).unwrap();
        assert_eq!(secret["data"]["password"], json!("aHVudGVyMg=="));
        secret["metadata"]["name"].as_str().unwrap().to_owned()
    };
    all.entries.iter().map(one).collect()
}

const SECRETS: &str = "/api/v1/namespaces/n/secrets";

#[tokio::test]
async fn values_are_sealed_with_a_seed_that_the_plugin_sealed_once() {
    let running = Running::new();
    let encryption = running.open("KMS, {identity: {}}");
    encryption.prepare().await;
    let server = Server::with(Setup { encryption: Some(encryption.clone()), ..Setup::default() }).await;
    server.post(SECRETS, secret("s")).await.is(201);
    server.post(SECRETS, secret("t")).await.is(201);
    server.get(&format!("{SECRETS}/s")).await.is(200);
    let stored = running.stored().await;
    assert!(stored.starts_with(b"k8s:enc:kms:v2:vault:"));
    let object = pb::EncryptedObject::decode(&stored[b"k8s:enc:kms:v2:vault:".len()..]).unwrap();
    assert_eq!((&*object.key_id, object.encrypted_dek_source_type, object.annotations.len()), ("1", 1, 1));
    // One seed for all, kept open; what it seals is never shown to the plugin.
    running.with(|p| assert_eq!((p.encrypted, p.decrypted, p.shown.len()), (1, 0, 32)));
    let status = server.get("/orch/encryption").await.is(200);
    assert_eq!((&status["provider"], &status["key"], &status["sealed"]), (&json!("kms"), &json!("vault"), &json!(2)));

    // Another start opens the seed once, for all values.
    let again = running.open("KMS, {identity: {}}");
    again.prepare().await;
    assert_eq!(read(&again).await, ["s", "t"]);
    running.with(|p| assert_eq!((p.encrypted, p.decrypted), (2, 1)));
}

#[tokio::test]
async fn another_key_of_the_plugin_seals_all_again() {
    let running = Running::new();
    let encryption = running.open("KMS");
    encryption.prepare().await;
    let server = Server::with(Setup { encryption: Some(encryption.clone()), ..Setup::default() }).await;
    server.post(SECRETS, secret("s")).await.is(201);
    let before = running.stored().await;
    // The file's first reading looks at the plugin, and so finds the new key.
    running.with(|p| p.key_id = "2".into());
    let (stop, following) = (Shutdown::new(), encryption.clone());
    let mut changes = running.raw.changes(0);
    let task = tokio::spawn({
        let stop = stop.clone();
        async move { following.run(stop).await }
    });
    // What the server's own start wrote comes first; then the secret a second time.
    let mut seen = 0;
    while seen < 2 {
        let batch = futures::StreamExt::next(&mut changes).await.unwrap().unwrap();
        seen += batch.iter().filter(|c| c.key.ends_with(b"/secrets/n/s")).count();
    }
    let after = running.stored().await;
    let key_of = |v: &[u8]| pb::EncryptedObject::decode(&v[b"k8s:enc:kms:v2:vault:".len()..]).unwrap().key_id;
    assert_eq!((&*key_of(&before), &*key_of(&after)), ("1", "2"));
    stop.trigger();
    task.await.unwrap().unwrap();
    // The first key is not needed any more.
    running.with(|p| p.known = vec!["2".into()]);
    let again = running.open("KMS");
    again.prepare().await;
    assert_eq!(read(&again).await, ["s"]);
}

#[tokio::test]
async fn a_plugin_that_is_not_well_is_told_of_and_seals_nothing() {
    let mut running = Running::new();
    running.hang_up().await;
    let encryption = running.open("KMS, {identity: {}}");
    encryption.prepare().await;
    let why = encryption.health().await.unwrap_err();
    assert!(why.contains("\"vault\" is not well") && why.contains("no answer within 0.5 s: "), "{why}");
    let server = Server::with(Setup { encryption: Some(encryption.clone()), ..Setup::default() }).await;
    let refused = server.post(SECRETS, secret("s")).await.is(500);
    assert!(refused["message"].as_str().unwrap().contains("has sealed nothing yet"), "{refused}");
    server.config_map("m", json!({})).await.is(201);

    // It comes, is ill, and is well: the next look finds each.
    running.with(|p| p.healthz = "sealed".into());
    running.listen();
    let stop = Shutdown::new();
    let task = tokio::spawn({
        let (stop, following) = (stop.clone(), encryption.clone());
        async move { following.run(stop).await }
    });
    let told = |part: &'static str| {
        let encryption = encryption.clone();
        async move {
            loop {
                match encryption.health().await {
                    Err(why) if !why.contains(part) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
                    other => return other,
                }
            }
        }
    };
    let why = told("healthz is \"sealed\"").await.unwrap_err();
    assert!(!why.contains("hunter2"), "{why}");
    // It has a key all the same, so what it sealed is used: as upstream does it.
    server.post(SECRETS, secret("s")).await.is(201);
    running.with(|p| p.healthz = "ok".into());
    told("never").await.unwrap();
    stop.trigger();
    task.await.unwrap().unwrap();

    // A start whose plugin is away, or has lost the key, reads nothing and says of which object and why.
    running.with(|p| p.known.clear());
    let lost = running.open("KMS, {identity: {}}").store().snapshot(b"/registry/").await.unwrap_err().to_string();
    assert!(lost.starts_with("core/secrets/n/s cannot be decrypted") && lost.contains("that key is lost"), "{lost}");
    assert!(lost.contains("sha256:") && !lost.contains("hunter2"), "{lost}");
    running.hang_up().await;
    let away = running.open("KMS, {identity: {}}").store().snapshot(b"/registry/").await.unwrap_err().to_string();
    assert!(away.contains("no answer within 0.5 s"), "{away}");
}

#[tokio::test]
async fn a_configuration_whose_plugin_is_away_is_not_taken() {
    let mut running = Running::new();
    let encryption = running.open("{identity: {}}");
    let server = Server::with(Setup { encryption: Some(encryption.clone()), ..Setup::default() }).await;
    server.post(SECRETS, secret("s")).await.is(201);
    running.hang_up().await;
    let file = running.dir.path().join("encryption.yaml");
    let write = |text: String| replace(&file, &text);
    write(running.configuration("KMS, {identity: {}}"));
    let stop = Shutdown::new();
    let task = tokio::spawn({
        let (stop, following) = (stop.clone(), encryption.clone());
        async move { following.run(stop).await }
    });
    // Refused: what is written is plain still.
    server.post(SECRETS, secret("t")).await.is(201);
    running.listen();
    let mut changes = running.raw.changes(0);
    write(running.configuration("KMS, {identity: {}}") + "# again\n");
    loop {
        let batch = futures::StreamExt::next(&mut changes).await.unwrap().unwrap();
        let sealed = |v: &Bytes| v.starts_with(b"k8s:enc:kms:v2:vault:");
        if batch.iter().any(|c| c.key.ends_with(b"/secrets/n/s") && c.value.as_ref().is_some_and(sealed)) {
            break;
        }
    }
    stop.trigger();
    task.await.unwrap().unwrap();
}

/// As editors and deployment tools do it: a new file under the old name.
fn replace(file: &Path, text: &str) {
    let fresh = file.with_extension("new");
    std::fs::write(&fresh, text).unwrap();
    std::fs::rename(fresh, file).unwrap();
}
