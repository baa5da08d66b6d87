//! rustls configurations over the key material: the API's server side, and clients of it.
//!
//! **Invariant:** TLS 1.2 at least; a client certificate is optional, but a bad one ends the handshake.

use std::sync::Arc;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use rustls::client::ResolvesClientCert;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::{Pair, PkiError};

/// Protocols the API speaks, best first.
pub const ALPN: &[&[u8]] = &[b"h2", b"http/1.1"];

/// A serving certificate that is replaced while the server runs: new connections get the new one.
#[derive(Debug)]
pub struct SwappableCert(ArcSwap<CertifiedKey>);

impl SwappableCert {
    /// Starts with `key`.
    pub fn new(key: Arc<CertifiedKey>) -> Arc<Self> {
        Arc::new(Self(ArcSwap::new(key)))
    }

    /// New connections get `key` from now on.
    pub fn swap(&self, key: Arc<CertifiedKey>) {
        self.0.store(key);
    }
}

impl ResolvesServerCert for SwappableCert {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl ResolvesClientCert for SwappableCert {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn tls(error: impl std::fmt::Display) -> PkiError {
    PkiError::Tls(error.to_string())
}

/// A store with these CAs.
pub fn roots<'a>(cas: impl IntoIterator<Item = &'a CertificateDer<'static>>) -> Result<Arc<RootCertStore>, PkiError> {
    let mut roots = RootCertStore::empty();
    for ca in cas {
        roots.add(ca.clone()).map_err(tls)?;
    }
    Ok(Arc::new(roots))
}

/// Server side: shows `cert`; takes a client certificate of one of `client_cas`, or none.
pub fn server_config(
    cert: Arc<SwappableCert>,
    client_cas: &[&CertificateDer<'static>],
) -> Result<Arc<ServerConfig>, PkiError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(client_cas.iter().copied())?, provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(tls)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(tls)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(cert);
    config.alpn_protocols = ALPN.iter().map(|p| p.to_vec()).collect();
    Ok(Arc::new(config))
}

/// Client side: trusts `server_ca` and nothing else; shows `identity` when there is one.
pub fn client_config(
    server_ca: &CertificateDer<'static>,
    identity: Option<&Pair>,
) -> Result<Arc<ClientConfig>, PkiError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(tls)?
        .with_root_certificates(roots([server_ca])?);
    let mut config = match identity {
        Some(pair) => builder.with_client_auth_cert(pair.chain()?, pair.key()?).map_err(tls)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = ALPN.iter().map(|p| p.to_vec()).collect();
    Ok(Arc::new(config))
}

/// Checks a client's certificate chain against one CA: which of several CAs vouches for a connection decides what the
/// certificate may be used for (a user, or a front proxy).
#[derive(Debug, Clone)]
pub struct ClientVerifier(Arc<dyn ClientCertVerifier>);

impl ClientVerifier {
    /// For certificates that `ca` signed for TLS clients.
    pub fn new(ca: &CertificateDer<'static>) -> Result<Self, PkiError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        Ok(Self(WebPkiClientVerifier::builder_with_provider(roots([ca])?, provider).build().map_err(tls)?))
    }

    /// True when the CA vouches for `chain` (end entity first) at `now`.
    pub fn accepts(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> bool {
        let Some((leaf, rest)) = chain.split_first() else { return false };
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now.as_second().max(0).unsigned_abs()));
        self.0.verify_client_cert(leaf, rest, now).is_ok()
    }
}
