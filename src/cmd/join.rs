//! How a machine becomes a node: it checks the CA it is shown against its token, and gets certificates for its key.
//!
//! In: servers, a token, the directory with what the node has already. Out: the same directory with `server-ca.crt`,
//! `client-kubelet.key` and `.crt`, `serving-kubelet.key` and `.crt` (k3s's names).
//!
//! **Invariant:** the token is sent only over a connection whose CA has the token's hash.
//! **Invariant:** a key never leaves the machine. The client key is the machine's identity: it is made once.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt;
use http::{HeaderMap, Method, Uri};
use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};

use crate::api::status::{Reason, Status};
use crate::api::value::ValueExt;
use crate::client::{Client, Credentials, ListOptions, Servers, is_unreachable, res};
use crate::controllers::certificates::plan::{NODE_CLIENT, NODE_SERVING};
use crate::pki::token::JoinToken;
use crate::pki::{Pair, Profile, Usage, ca, request};
use crate::util::files;

/// How long a certificate may take once it was asked for. The server's controllers take milliseconds.
const DECISION: Duration = Duration::from_secs(60);
/// Seconds that two clocks may differ before it is worth a word.
const SKEW_SECONDS: i64 = 30;

/// Why a node has no certificate.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// It will be so tomorrow, too: somebody has to change something.
    #[error("{0}")]
    Final(String),
    /// Worth another try.
    #[error("{0}")]
    Again(String),
}

use JoinError::{Again, Final};

type Joined<T> = Result<T, JoinError>;

#[allow(clippy::boxed_local, reason = "what the client's errors are")]
fn again(status: Box<Status>) -> JoinError {
    Again(status.message.clone())
}

/// What a node keeps of its identity.
pub struct Files(PathBuf);

impl Files {
    /// In `<data-dir>/agent`, which is made.
    pub fn open(dir: PathBuf) -> Joined<Self> {
        let failed = |e| Final(format!("cannot create {}: {e}; choose another place with --data-dir", dir.display()));
        files::create_dir_durable(&dir).map_err(failed)?;
        Ok(Self(dir))
    }

    /// A file, by its name.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Its text; none where there is none.
    pub fn read(&self, name: &str) -> Joined<Option<String>> {
        match std::fs::read_to_string(self.path(name)) {
            Ok(text) => Ok(Some(text)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Final(format!("cannot read {}: {e}", self.path(name).display()))),
        }
    }

    /// Replaces a file; nobody else may read it.
    pub fn write(&self, name: &str, text: &str) -> Joined<()> {
        let path = self.path(name);
        let failed = |e| Again(format!("cannot write {}: {e}", path.display()));
        files::write_atomic(&path, text.as_bytes(), files::SECRET_MODE).map_err(failed)
    }

    /// A key, made where there is none.
    fn key(&self, name: &str) -> Joined<String> {
        if let Some(key) = self.read(name)? {
            return Ok(key);
        }
        let key = request::new_key().map_err(|e| Final(e.to_string()))?;
        self.write(name, &key)?;
        Ok(key)
    }

    /// A certificate with its key, where both are there.
    pub fn pair(&self, name: &str) -> Joined<Option<Pair>> {
        let (cert, key) = (self.read(&format!("{name}.crt"))?, self.read(&format!("{name}.key"))?);
        Ok(cert.zip(key).map(|(cert_pem, key_pem)| Pair { cert_pem, key_pem }))
    }
}

/// The certificate that a node shows to the API.
pub const CLIENT: &str = "client-kubelet";
/// The one that its own server shows.
pub const SERVING: &str = "serving-kubelet";
/// The CA of API servers.
pub const SERVER_CA: &str = "server-ca.crt";

/// The CA of the cluster: what is kept, or what a server shows, when it is the token's.
pub async fn trust(files: &Files, servers: &Servers, token: Option<&JoinToken>) -> Joined<String> {
    let kept = files.read(SERVER_CA)?;
    if let (Some(pem), Some(token)) = (&kept, token)
        && hash_of(pem).as_deref() != Some(&token.ca_hash)
    {
        let dir = files.path("");
        return Err(Final(format!(
            "{} belongs to a node of another cluster than the token; choose another --data-dir, or remove it to leave \
             that cluster",
            dir.display()
        )));
    }
    if let Some(pem) = kept {
        return Ok(pem);
    }
    let Some(token) = token else {
        return Err(Final("this machine has not joined yet: give the --token that the server made".into()));
    };
    let shown = shown_by(servers).await?;
    shown.check(token)?;
    files.write(SERVER_CA, &shown.ca_pem)?;
    Ok(shown.ca_pem)
}

/// SHA-256 of the first certificate of a PEM.
fn hash_of(pem: &str) -> Option<String> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    Some(ca::fingerprint(&der))
}

/// What a server says to everybody: nothing of it is believed as it is.
pub struct Shown {
    server: Uri,
    ca_pem: String,
    /// The server's clock less this machine's, seconds.
    skew: Option<i64>,
}

/// Asks the servers for their CA, without believing who they are.
pub async fn shown_by(servers: &Servers) -> Joined<Shown> {
    let mut failure = Again("no server is known; name one with --server".into());
    for server in servers.list().iter() {
        match shown(server).await {
            Ok(shown) => {
                servers.prefer(server);
                return Ok(shown);
            }
            Err(e) => failure = e,
        }
    }
    Err(failure)
}

async fn shown(server: &Uri) -> Joined<Shown> {
    let client = Client::unverified(&server.to_string()).map_err(|e| Final(e.to_string()))?;
    let answer = client.raw(Method::GET, "/cacerts", HeaderMap::new(), bytes::Bytes::new()).await;
    let answer = answer.map_err(|e| Again(format!("cannot reach {server}: {}", e.message)))?;
    let ca_pem = String::from_utf8_lossy(answer.body()).into_owned();
    if !answer.status().is_success() || hash_of(&ca_pem).is_none() {
        let code = answer.status().as_u16();
        return Err(Final(format!("{server} is no server of orch: it shows no CA at /cacerts (status {code})")));
    }
    let date = answer.headers().get(http::header::DATE).and_then(|d| d.to_str().ok());
    let skew = date.and_then(|d| skew(d, Timestamp::now()));
    Ok(Shown { server: server.clone(), ca_pem, skew })
}

/// The clock of a `Date` header less this one, seconds.
fn skew(date: &str, now: Timestamp) -> Option<i64> {
    let date = jiff::fmt::rfc2822::parse(date).ok()?;
    Some(date.timestamp().as_second() - now.as_second())
}

impl Shown {
    /// Refuses a CA that is not the token's.
    fn check(&self, token: &JoinToken) -> Joined<()> {
        let actual = hash_of(&self.ca_pem).unwrap_or_default();
        token.check_ca(&actual).map_err(|e| {
            Final(format!("{}: {e}; copy the token from that server, or name the right --server", self.server))
        })
    }

    /// What is wrong with the clocks, in words.
    pub fn clocks(&self) -> Option<String> {
        self.skew.and_then(|s| clocks(s, &self.server.to_string()))
    }
}

/// How far this machine's clock is from the server's, in words; none when it does not matter.
fn clocks(skew: i64, server: &str) -> Option<String> {
    if skew.abs() <= SKEW_SECONDS {
        return None;
    }
    let (far, way) = (skew.unsigned_abs(), if skew > 0 { "behind" } else { "ahead of" });
    let far = match (far / 3600, far / 60 % 60, far % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, _) => format!("{h}h{m}m"),
    };
    Some(format!("this machine's clock is {far} {way} that of {server}: set it, as with NTP"))
}

/// Who asks for a certificate.
pub enum Asker<'a> {
    /// A machine with a token.
    Token(&'a str),
    /// A node with its certificate.
    Node(&'a Client),
}

/// Gets a client certificate for the node's key; the first one, or the next.
pub async fn client_certificate(
    files: &Files,
    node: &str,
    servers: &Arc<Servers>,
    ca_pem: &str,
    asker: Asker<'_>,
) -> Joined<Pair> {
    let key_pem = files.key(&format!("{CLIENT}.key"))?;
    let profile = Profile::kubelet_client(node);
    let asked = match asker {
        Asker::Node(client) => ask(client, &key_pem, &profile).await,
        Asker::Token(token) => {
            let client = Client::tls_any(servers.clone(), ca_pem.as_bytes(), Credentials::Token(token.to_owned()));
            ask(&client.map_err(|e| Final(e.to_string()))?, &key_pem, &profile).await
        }
    };
    let cert_pem = asked?;
    files.write(&format!("{CLIENT}.crt"), &cert_pem)?;
    Ok(Pair { cert_pem, key_pem })
}

/// Gets a serving certificate, over a fresh key.
pub async fn serving_certificate(files: &Files, client: &Client, profile: &Profile) -> Joined<Pair> {
    let key_pem = request::new_key().map_err(|e| Final(e.to_string()))?;
    let cert_pem = ask(client, &key_pem, profile).await?;
    files.write(&format!("{SERVING}.key"), &key_pem)?;
    files.write(&format!("{SERVING}.crt"), &cert_pem)?;
    Ok(Pair { cert_pem, key_pem })
}

/// Posts a request and waits for what becomes of it.
async fn ask(client: &Client, key_pem: &str, profile: &Profile) -> Joined<String> {
    let pem = request::make(key_pem, profile).map_err(|e| Final(e.to_string()))?;
    let (signer, usage) = match profile.usage {
        Usage::Client => (NODE_CLIENT, "client auth"),
        Usage::Server => (NODE_SERVING, "server auth"),
    };
    let csr = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"generateName": "node-csr-"},
        "spec": {"request": STANDARD.encode(pem), "signerName": signer, "usages": ["digital signature", usage]}});
    let created = client.create(&res::CERTIFICATE_SIGNING_REQUESTS, "", &csr).await.map_err(|e| refused(&e))?;
    let name = created.str_at("/metadata/name").unwrap_or_default().to_owned();
    match tokio::time::timeout(DECISION, decision(client, &name)).await {
        Ok(decided) => decided,
        Err(_) => Err(Again(format!(
            "nobody approved the certificate request {name} within a minute; `kubectl certificate approve` does it"
        ))),
    }
}

/// Why the server did not take the request.
fn refused(e: &Status) -> JoinError {
    match e.reason {
        _ if is_unreachable(e) => Again(e.message.clone()),
        Reason::Unauthorized => Final(
            "the server does not know the join token: it was revoked, has expired, or was never made; make another with \
             `orch token create` on the server"
                .into(),
        ),
        Reason::Forbidden => Final(format!("the join token is not for nodes: {}", e.message)),
        _ => Again(e.message.clone()),
    }
}

async fn decision(client: &Client, name: &str) -> Joined<String> {
    let options = ListOptions::fields(format!("metadata.name={name}"));
    let mut events = client.watch(&res::CERTIFICATE_SIGNING_REQUESTS, None, &options).await.map_err(again)?;
    while let Some(event) = events.next().await {
        if let Some(decided) = decided(&event.map_err(again)?.object) {
            return decided;
        }
    }
    Err(Again("the server went away before the certificate was there".into()))
}

/// The certificate, or why there is none; none while it is not decided.
fn decided(csr: &Value) -> Option<Joined<String>> {
    let condition = |kind: &str| csr.items_at("/status/conditions").iter().find(|c| c.str_at("/type") == Some(kind));
    let why = |c: &Value| c.str_at("/message").unwrap_or("no reason was given").to_owned();
    if let Some(denied) = condition("Denied") {
        return Some(Err(Final(format!("the server refuses this node: {}", why(denied)))));
    }
    if let Some(failed) = condition("Failed") {
        return Some(Err(Final(format!("the server cannot sign this node's certificate: {}", why(failed)))));
    }
    let encoded = csr.str_at("/status/certificate").filter(|c| !c.is_empty())?;
    let pem = STANDARD.decode(encoded).ok().and_then(|b| String::from_utf8(b).ok());
    Some(pem.ok_or_else(|| Again("the server's certificate cannot be read".into())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case(0 => None)]
    #[test_case(-30 => None)]
    #[test_case(3720 => Some("this machine's clock is 1h2m behind that of https://s: set it, as with NTP".into()))]
    #[test_case(-125 => Some("this machine's clock is 2m5s ahead of that of https://s: set it, as with NTP".into()))]
    #[test_case(45 => Some("this machine's clock is 45s behind that of https://s: set it, as with NTP".into()))]
    fn clocks_that_differ(skew: i64) -> Option<String> {
        clocks(skew, "https://s")
    }

    #[test]
    fn a_request_ends_with_a_certificate_or_a_reason() {
        let csr = |status: Value| json!({"status": status});
        assert!(decided(&csr(json!({}))).is_none());
        assert!(decided(&csr(json!({"conditions": [{"type": "Approved"}]}))).is_none());
        let denied = decided(&csr(json!({"conditions": [{"type": "Denied", "message": "taken"}]}))).unwrap();
        assert_eq!(denied.unwrap_err().to_string(), "the server refuses this node: taken");
        let issued = decided(&csr(json!({"certificate": STANDARD.encode("pem")}))).unwrap();
        assert_eq!(issued.unwrap(), "pem");
    }

    #[test]
    fn the_date_of_an_answer_tells_of_the_other_clock() {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(skew("Thu, 01 Jan 2026 01:02:00 GMT", now), Some(3720));
        assert_eq!(skew("soon", now), None);
    }

    fn ca_of(cluster: &str) -> (String, JoinToken) {
        let key = rcgen::KeyPair::generate().unwrap();
        let ca = ca::Ca::new(cluster, key, "2026-01-01T00:00:00Z".parse().unwrap()).unwrap();
        (ca.cert_pem.clone(), crate::pki::token::generate(&ca.sha256(), "server"))
    }

    #[tokio::test]
    async fn a_directory_belongs_to_one_cluster() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::open(dir.path().join("agent")).unwrap();
        let servers = Servers::new(vec!["https://127.0.0.1:1".parse().unwrap()]);
        let ((ours, token), (_, other)) = (ca_of("ours"), ca_of("other"));
        let told = trust(&files, &servers, None).await.unwrap_err().to_string();
        assert!(told.contains("has not joined yet") && told.contains("--token"), "{told}");
        assert!(matches!(trust(&files, &servers, Some(&token)).await, Err(Again(_))), "nobody answers there");
        files.write(SERVER_CA, &ours).unwrap();
        assert_eq!(trust(&files, &servers, Some(&token)).await.unwrap(), ours);
        assert_eq!(trust(&files, &servers, None).await.unwrap(), ours);
        let told = trust(&files, &servers, Some(&other)).await.unwrap_err().to_string();
        assert!(told.contains("another cluster") && told.contains("--data-dir"), "{told}");
    }

    #[test]
    fn a_ca_that_is_not_the_tokens_is_refused_before_anything_is_sent() {
        let ((ca_pem, token), (_, other)) = (ca_of("ours"), ca_of("other"));
        let shown = Shown { server: "https://s".parse().unwrap(), ca_pem, skew: None };
        shown.check(&token).unwrap();
        let told = shown.check(&other).unwrap_err().to_string();
        assert!(told.contains("https://s") && told.contains("--server"), "{told}");
    }

    #[test]
    fn what_was_kept_is_for_nobody_else() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let files = Files::open(dir.path().join("agent")).unwrap();
        let key = files.key("client-kubelet.key").unwrap();
        assert_eq!(files.key("client-kubelet.key").unwrap(), key, "made once");
        let mode = |path: PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(files.path("client-kubelet.key")), mode(files.path(""))), (0o600, 0o700));
    }
}
