//! CAs, certificates, join tokens, kubeconfig files.
//!
//! In: the data directory, the names and addresses a server answers to, the time. Out: key material on disk in k3s's
//! layout (`<data-dir>/server/tls`), rustls configurations, the join token, kubeconfig files. CAs and token keys that
//! stand there before the first start are used, whoever made them: RSA, ECDSA, Ed25519 (tokens: no Ed25519).
//!
//! **Invariant:** a CA is made once and never replaced by itself; everything below it is reissued when it must be.
//! **Invariant:** a file with a key or a token has mode 0600 and is written whole or not at all.
//! **Invariant:** no error and no `Debug` output contains key material.

pub mod ca;
pub mod keys;
pub mod kubeconfig;
pub mod profile;
pub mod request;
pub mod tls;
pub mod token;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::ScopedJoinHandle;
use std::time::Duration;

use jiff::Timestamp;
use rustls::sign::CertifiedKey;

pub use ca::{Ca, Pair};
pub use profile::{KeyUse, Profile, Usage};

use crate::util::files::{self, SECRET_MODE};

/// The name in the certificate that this server shows to extension API servers: whoever shows it is believed who asks.
pub const FRONT_PROXY: &str = "system:auth-proxy";

/// Why key material cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file cannot be read or written.
    #[error("cannot {action} {}: {source}", .path.display())]
    Io {
        /// `read`, `write`, `create`.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is there but does not hold what it should.
    #[error("{} is damaged: {why}; restore it from a backup, or remove the whole directory to start with a new identity", .path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A name or address that no certificate can carry.
    #[error("\"{0}\" is neither a DNS name nor an IP address; give another --tls-san")]
    BadName(String),
    /// The join token is not one.
    #[error("{0}")]
    Token(#[from] token::TokenError),
    /// Making or signing failed.
    #[error("cannot issue a certificate for {what}: {why}")]
    Issue {
        /// For whom.
        what: String,
        /// Why.
        why: String,
    },
    /// rustls refused a configuration.
    #[error("cannot set up TLS: {0}")]
    Tls(String),
}

/// What certificates have to say about this server.
#[derive(Debug, Clone)]
pub struct PkiConfig {
    /// Name of the node, lower case.
    pub node_name: String,
    /// Addresses of the node.
    pub node_ips: Vec<IpAddr>,
    /// Addresses of the `kubernetes` Service: the first of each service range.
    pub service_ips: Vec<IpAddr>,
    /// Cluster domain, as `cluster.local`.
    pub cluster_domain: String,
    /// More names and addresses (`--tls-san`).
    pub tls_sans: Vec<String>,
    /// Seconds that certificates live, CAs aside; a year when not given.
    pub life_seconds: Option<i64>,
}

impl PkiConfig {
    /// All names and addresses the API's serving certificate carries.
    pub fn api_sans(&self) -> Vec<String> {
        let fixed = ["localhost", "127.0.0.1", "::1", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
        let mut sans: Vec<String> = fixed.iter().map(|s| (*s).to_owned()).collect();
        sans.push(format!("kubernetes.default.svc.{}", self.cluster_domain));
        sans.push(self.node_name.clone());
        sans.extend(self.node_ips.iter().chain(&self.service_ips).map(IpAddr::to_string));
        sans.extend(self.tls_sans.iter().cloned());
        let mut seen = std::collections::HashSet::new();
        sans.retain(|s| !s.is_empty() && seen.insert(s.clone()));
        sans
    }
}

/// The key material of a server.
#[derive(Debug)]
pub struct Pki {
    /// Signs serving certificates.
    pub server_ca: Arc<Ca>,
    /// Signs client certificates.
    pub client_ca: Arc<Ca>,
    /// Signs the certificate the server shows to aggregated API servers.
    pub request_header_ca: Arc<Ca>,
    /// Sign service accounts' tokens: the first one; verify them: all.
    pub service_account_keys: Vec<keys::TokenKey>,
    /// The API's serving certificate.
    pub serving: Pair,
    /// The kubelet's serving certificate on this node.
    pub kubelet_serving: Pair,
    /// `system:admin` in `system:masters`.
    pub admin: Pair,
    /// The controllers.
    pub controller_manager: Pair,
    /// The scheduler.
    pub scheduler: Pair,
    /// The kubelet of this node.
    pub kubelet: Pair,
    /// The API server as a client of kubelets.
    pub kubelet_client: Pair,
    /// The API server as a client of aggregated API servers.
    pub auth_proxy: Pair,
    dir: PathBuf,
    config: PkiConfig,
}

impl Pki {
    /// Opens the key material in `dir` (`<data-dir>/server/tls`), making what is missing and reissuing what is near its
    /// end, does not say what `config` wants, or is damaged. A damaged CA or service-account key is an error: nothing
    /// can stand in for it. The first start makes and syncs two dozen files: threads that do it at one time share the
    /// file system's own commits.
    pub fn open(dir: &Path, config: &PkiConfig, now: Timestamp) -> Result<Self, PkiError> {
        create_dir(dir)?;
        let (server_ca, client_ca, request_header_ca, service_account_keys) = std::thread::scope(|s| {
            let life = config.life_seconds;
            let ca = |file, name| s.spawn(move || Ok(Ca::open(dir, file, name, now)?.with_life(life)));
            let server = ca("server-ca", "orch-server-ca");
            let client = ca("client-ca", "orch-client-ca");
            let request_header = ca("request-header-ca", "orch-request-header-ca");
            let service_account = s.spawn(|| keys::open(&dir.join("service.key")));
            Ok::<_, PkiError>((joined(server)?, joined(client)?, joined(request_header)?, joined(service_account)?))
        })?;
        let node = &config.node_name;
        let profiles = [
            ("serving-kube-apiserver", Profile::server("kube-apiserver", config.api_sans()), &server_ca),
            ("serving-kubelet", Profile::kubelet_server(node, &config.node_ips), &server_ca),
            ("client-admin", Profile::client("system:admin", &["system:masters"]), &client_ca),
            ("client-controller", Profile::client("system:kube-controller-manager", &[]), &client_ca),
            ("client-scheduler", Profile::client("system:kube-scheduler", &[]), &client_ca),
            ("client-kubelet", Profile::kubelet_client(node), &client_ca),
            ("client-kube-apiserver", Profile::client("system:apiserver", &["system:masters"]), &client_ca),
            ("client-auth-proxy", Profile::client(FRONT_PROXY, &[]), &request_header_ca),
        ];
        let pairs = std::thread::scope(|s| {
            let all = profiles.each_ref().map(|(file, profile, ca)| s.spawn(move || ca.pair(dir, file, profile, now)));
            all.map(joined)
        });
        let [serving, kubelet_serving, admin, controller_manager, scheduler, kubelet, kubelet_client, auth_proxy] =
            pairs;
        Ok(Self {
            serving: serving?,
            kubelet_serving: kubelet_serving?,
            admin: admin?,
            controller_manager: controller_manager?,
            scheduler: scheduler?,
            kubelet: kubelet?,
            kubelet_client: kubelet_client?,
            auth_proxy: auth_proxy?,
            server_ca: Arc::new(server_ca),
            client_ca: Arc::new(client_ca),
            request_header_ca: Arc::new(request_header_ca),
            service_account_keys,
            dir: dir.to_owned(),
            config: config.clone(),
        })
    }

    /// The node has these addresses from now on; true when that is news, and [`Self::renewed`] has to be called.
    pub fn answer_at(&mut self, node_ips: Vec<IpAddr>) -> bool {
        std::mem::replace(&mut self.config.node_ips, node_ips.clone()) != node_ips
    }

    fn pairs(&self) -> [&Pair; 8] {
        [
            &self.serving,
            &self.kubelet_serving,
            &self.admin,
            &self.controller_manager,
            &self.scheduler,
            &self.kubelet,
            &self.kubelet_client,
            &self.auth_proxy,
        ]
    }

    /// True when a certificate has to be issued again at `now`: time went on, or the clock was set.
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.pairs().iter().any(|p| p.is_due(now))
    }

    /// When the first certificate has to be issued again, seconds since the epoch.
    pub fn due(&self) -> i64 {
        self.pairs().iter().map(|p| p.due()).min().unwrap_or(i64::MAX)
    }

    /// Opens again at a later time: what is near its end is new, the rest is what it was. The running server swaps the
    /// result into its [`tls::SwappableCert`].
    pub fn renewed(&self, now: Timestamp) -> Result<Self, PkiError> {
        Self::open(&self.dir, &self.config, now)
    }

    /// The serving certificate as rustls wants it.
    pub fn serving_key(&self) -> Result<Arc<CertifiedKey>, PkiError> {
        self.serving.certified()
    }
}

/// How long to wait before the next look at certificates of which the first is [`Pair::due`] then; never longer than
/// `longest`, because a clock that is set moves them at once.
pub fn pause(due: i64, now: Timestamp, longest: Duration) -> Duration {
    let left = due.saturating_sub(now.as_second()).saturating_add(1);
    Duration::from_secs(u64::try_from(left).unwrap_or(0).max(1)).min(longest)
}

/// Makes aws-lc the process's TLS provider. Call it first thing in `main`; more calls do nothing.
pub fn install_provider() {
    // The error is the provider that another call has installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// What a thread made; its panic goes on here.
fn joined<T>(thread: ScopedJoinHandle<'_, Result<T, PkiError>>) -> Result<T, PkiError> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Makes a directory for secrets, mode 0700.
fn create_dir(dir: &Path) -> Result<(), PkiError> {
    files::create_dir_durable(dir).map_err(|source| PkiError::Io { action: "create", path: dir.to_owned(), source })
}

/// Reads a file; `None` when there is none.
fn read(path: &Path) -> Result<Option<String>, PkiError> {
    match std::fs::read(path) {
        Ok(bytes) => match String::from_utf8(bytes) {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(PkiError::Damaged { path: path.to_owned(), why: "it is not text".into() }),
        },
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PkiError::Io { action: "read", path: path.to_owned(), source }),
    }
}

/// Writes a file that holds a secret.
fn write_secret(path: &Path, text: &str) -> Result<(), PkiError> {
    write(path, text, SECRET_MODE)
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    files::write_atomic(path, text.as_bytes(), mode).map_err(|source| PkiError::Io {
        action: "write",
        path: path.to_owned(),
        source,
    })
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}

#[cfg(test)]
mod tests;
