//! The TLS transport: rustls under hyper, HTTP/2 where the server has it, HTTP/1.1 for upgrades.
//!
//! **Invariant:** names are resolved in process, so that the static binary needs no NSS modules.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::Uri;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use kube::client::{Body, ConfigExt};
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tower::{BoxError, Service, ServiceBuilder, ServiceExt};

use super::peer::Dial;
use super::pools::Transport;
use super::servers::Servers;
use crate::util::duplex;

/// How long a connection may take, TCP and TLS each.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A silent connection is probed this often, and given up when nothing comes back for as long.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Where Debian, Alpine and Fedora keep the CAs of the machine; for kubeconfigs that name no CA.
const SYSTEM_ROOTS: [&str; 2] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// Why no client could be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig cannot be read or does not say enough.
    #[error("cannot use kubeconfig {}: {reason}", path.display())]
    Kubeconfig {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Something else of the configuration.
    #[error("cannot connect to {server}: {reason}")]
    Config {
        /// The server.
        server: String,
        /// Why.
        reason: String,
    },
}

/// Who the client says it is.
#[derive(Clone)]
pub enum Credentials {
    /// Nobody.
    None,
    /// A client certificate (with its chain) and its key, PEM.
    Certificate {
        /// Certificates, PEM.
        cert_pem: Vec<u8>,
        /// Key, PEM.
        key_pem: Vec<u8>,
    },
    /// A bearer token.
    Token(String),
    /// A certificate that changes while the process runs; asked anew for each connection. After a change, requests go over
    /// new connections.
    Rotating(Arc<dyn ResolvesClientCert>),
}

impl std::fmt::Debug for Credentials {
    /// Names the form, never the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Certificate { .. } => "Certificate",
            Self::Token(_) => "Token",
            Self::Rotating(_) => "Rotating",
        })
    }
}

pub(super) async fn read_kubeconfig(path: &Path, options: &KubeConfigOptions) -> Result<kube::Config, ConnectError> {
    let fail = |e: &dyn std::fmt::Display| ConnectError::Kubeconfig { path: path.into(), reason: e.to_string() };
    let file = Kubeconfig::read_from(path).map_err(|e| fail(&e))?;
    kube::Config::from_custom_kubeconfig(file, options).await.map_err(|e| fail(&e))
}

/// To a server of which nothing is known yet.
pub(super) fn unverified(server: &str) -> Result<kube::Client, ConnectError> {
    let uri: Uri =
        server.parse().map_err(|e| ConnectError::Config { server: server.to_owned(), reason: format!("{e}") })?;
    let mut config = kube::Config::new(uri);
    config.accept_invalid_certs = true;
    client(config, None, Road::Direct)
}

/// To whichever of `servers` answers.
pub(super) fn any_of(
    servers: Arc<Servers>,
    ca_pem: &[u8],
    credentials: Credentials,
) -> Result<kube::Client, ConnectError> {
    let name = format!("https://{}", super::servers::SERVER_NAME);
    let (mut config, resolver) = configured(&name, ca_pem, credentials)?;
    config.tls_server_name = Some(super::servers::SERVER_NAME.into());
    client(config, resolver, Road::Any(servers))
}

pub(super) fn direct(server: &str, ca_pem: &[u8], credentials: Credentials) -> Result<kube::Client, ConnectError> {
    let (config, resolver) = configured(server, ca_pem, credentials)?;
    client(config, resolver, Road::Direct)
}

type Configured = (kube::Config, Option<Arc<dyn ResolvesClientCert>>);

/// How connections are made.
#[derive(Clone)]
pub(super) enum Road {
    /// TCP to the host of the URI.
    Direct,
    /// TCP to whichever of these answers.
    Any(Arc<Servers>),
    /// Somebody else makes them.
    Dialed(Arc<dyn Dial>),
}

pub(super) fn configured(server: &str, ca_pem: &[u8], credentials: Credentials) -> Result<Configured, ConnectError> {
    let fail = |reason: String| ConnectError::Config { server: server.to_owned(), reason };
    let uri: Uri = server.parse().map_err(|e| fail(format!("{e}")))?;
    let mut config = kube::Config::new(uri);
    let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(ca_pem).map(|c| c.map(|c| c.to_vec())).collect();
    config.root_cert = Some(roots.map_err(|e| fail(format!("the CA is no PEM: {e}")))?);
    let base64 = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let (auth, resolver) = match credentials {
        Credentials::None => (json!({}), None),
        Credentials::Certificate { cert_pem, key_pem } => {
            (json!({"client-certificate-data": base64(&cert_pem), "client-key-data": base64(&key_pem)}), None)
        }
        Credentials::Token(token) => (json!({"token": token}), None),
        Credentials::Rotating(resolver) => (json!({}), Some(resolver)),
    };
    config.auth_info = serde_json::from_value(auth).map_err(|e| fail(e.to_string()))?;
    Ok((config, resolver))
}

/// A `kube` client over our own connector.
pub(super) fn client(
    config: kube::Config,
    resolver: Option<Arc<dyn ResolvesClientCert>>,
    road: Road,
) -> Result<kube::Client, ConnectError> {
    let fail = |reason: String| ConnectError::Config { server: config.cluster_url.to_string(), reason };
    let transport = Transport::<Body>::new(&config, resolver, road)?;
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().map_err(|e| fail(e.to_string()))?)
        .layer(config.extra_headers_layer().map_err(|e| fail(e.to_string()))?)
        .map_err(BoxError::from)
        .service(transport);
    Ok(kube::Client::new(service, config.default_namespace))
}

pub(super) fn client_config(
    config: &kube::Config,
    resolver: Option<Arc<dyn ResolvesClientCert>>,
) -> Result<rustls::ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let builder = if config.accept_invalid_certs {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAny(provider)))
    } else {
        builder.with_root_certificates(roots(config)?)
    };
    if let Some(resolver) = resolver {
        let mut config = builder.with_client_cert_resolver(resolver);
        // A session that is resumed goes on with the certificate that it began with, and a server refuses that one day.
        config.resumption = rustls::client::Resumption::disabled();
        return Ok(config);
    }
    match identity(&config.auth_info)? {
        None => Ok(builder.with_no_client_auth()),
        Some((chain, key)) => {
            builder.with_client_auth_cert(chain, key).map_err(|e| format!("bad client certificate: {e}"))
        }
    }
}

fn roots(config: &kube::Config) -> Result<rustls::RootCertStore, String> {
    let from_file = |path: &Path| -> Result<Vec<Vec<u8>>, String> {
        let certs = CertificateDer::pem_file_iter(path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(certs.filter_map(Result::ok).map(|c| c.to_vec()).collect())
    };
    let ders = match (&config.root_cert, &config.root_cert_file) {
        (Some(ders), _) => ders.clone(),
        (None, Some(path)) => from_file(path)?,
        (None, None) => {
            let system = SYSTEM_ROOTS.iter().map(Path::new).find(|p| p.exists());
            from_file(system.ok_or("no CA is configured, and the machine has none")?)?
        }
    };
    let mut store = rustls::RootCertStore::empty();
    let (added, _) = store.add_parsable_certificates(ders.into_iter().map(CertificateDer::from));
    if added == 0 {
        return Err("the configured CA holds no certificate".into());
    }
    Ok(store)
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// The client certificate of a kubeconfig's user, inline or in files.
fn identity(auth: &AuthInfo) -> Result<Option<Identity>, String> {
    let inline = |text: &str| {
        base64::engine::general_purpose::STANDARD
            .decode(text.trim())
            .map_err(|e| format!("bad base64 in the user: {e}"))
    };
    let read = |data: Option<&str>, path: Option<&String>| match (data, path) {
        (Some(data), _) => inline(data).map(Some),
        (None, Some(path)) => std::fs::read(path).map(Some).map_err(|e| format!("{path}: {e}")),
        (None, None) => Ok(None),
    };
    let cert = read(auth.client_certificate_data.as_deref(), auth.client_certificate.as_ref())?;
    // The key is wrapped in a type that shows its content only when serialized.
    let shown = serde_json::to_value(auth).map_err(|e| e.to_string())?;
    let key = read(shown.get("client-key-data").and_then(|v| v.as_str()), auth.client_key.as_ref())?;
    let (Some(cert), Some(key)) = (cert, key) else { return Ok(None) };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&cert).collect();
    let chain = chain.map_err(|e| format!("bad client certificate: {e}"))?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|e| format!("bad client key: {e}"))?;
    Ok(Some((chain, key)))
}

/// For `insecure-skip-tls-verify`, which only a kubeconfig can ask for.
#[derive(Debug)]
struct AcceptAny(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Host names to addresses: addresses as they are, `localhost` to loopback, the rest by the machine's hosts file and DNS.
#[derive(Clone)]
struct Resolve;

impl Service<Name> for Resolve {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = std::io::Error;
    type Future = BoxFuture<'static, Result<Self::Response, std::io::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), std::io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        async move { Ok(resolve(name.as_str()).await?.into_iter().map(|ip| (ip, 0).into()).collect::<Vec<_>>().into_iter()) }
            .boxed()
    }
}

/// Addresses of a name, without the machine's C library.
pub(crate) async fn resolve(name: &str) -> std::io::Result<Vec<IpAddr>> {
    let resolver = hickory_resolver::TokioResolver::builder_tokio()
        .and_then(hickory_resolver::ResolverBuilder::build)
        .map_err(std::io::Error::other)?;
    let found = resolver.lookup_ip(name).await.map_err(std::io::Error::other)?;
    Ok(found.iter().collect())
}

/// TCP, and TLS on it for `https`; to the host of the URI, or to whichever server answers.
#[derive(Clone)]
pub(super) struct Connector {
    tcp: HttpConnector<Resolve>,
    tls: tokio_rustls::TlsConnector,
    server_name: Option<ServerName<'static>>,
    road: Road,
}

impl Connector {
    pub(super) fn new(tls: rustls::ClientConfig, server_name: Option<String>, road: Road) -> Result<Self, String> {
        let mut tcp = HttpConnector::new_with_resolver(Resolve);
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(KEEP_ALIVE));
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let server_name = server_name.map(ServerName::try_from).transpose().map_err(|e| e.to_string())?;
        Ok(Self { tcp, tls: tokio_rustls::TlsConnector::from(Arc::new(tls)), server_name, road })
    }

    async fn connect(&self, uri: Uri) -> Result<Io, BoxError> {
        let secure = uri.scheme_str() == Some("https");
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let stream = self.tcp.clone().oneshot(uri).await?.into_inner();
        if !secure {
            return Ok(Io::Plain(TokioIo::new(stream)));
        }
        Ok(Io::Tls(self.secured(&host, stream).await?))
    }

    async fn secured<S: AsyncRead + AsyncWrite + Unpin>(&self, host: &str, stream: S) -> Result<Secured<S>, BoxError> {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => ServerName::try_from(host.to_owned())?,
        };
        let handshake = tokio::time::timeout(CONNECT_TIMEOUT, self.tls.connect(name, stream));
        Ok(TokioIo::new(Box::new(handshake.await??)))
    }

    /// Over a connection that somebody else makes; always secured.
    async fn connect_through(&self, dial: &dyn Dial, uri: &Uri) -> Result<Io, BoxError> {
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, dial.dial()).await??;
        Ok(Io::Dialed(self.secured(host, stream).await?))
    }

    /// The servers one after another; the error is the last one's.
    async fn connect_any(&self, servers: &Servers) -> Result<Stream, BoxError> {
        let epoch = servers.epoch();
        let mut failure: BoxError = "no API server is known".into();
        for server in servers.list().iter() {
            match self.connect(server.clone()).await {
                Ok(io) => {
                    servers.prefer(server);
                    return Ok(Stream { io, end: Some(Box::pin(epoch.cancelled_owned())) });
                }
                Err(e) => failure = e,
            }
        }
        Err(failure)
    }
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Stream, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Service::<Uri>::poll_ready(&mut self.tcp, cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let this = self.clone();
        async move {
            match &this.road {
                Road::Any(servers) => this.connect_any(servers).await,
                Road::Direct => Ok(Stream { io: this.connect(uri).await?, end: None }),
                Road::Dialed(dial) => Ok(Stream { io: this.connect_through(&**dial, &uri).await?, end: None }),
            }
        }
        .boxed()
    }
}

type Secured<S> = TokioIo<Box<tokio_rustls::client::TlsStream<S>>>;

/// A connection, secured or not.
enum Io {
    Plain(TokioIo<TcpStream>),
    Tls(Secured<TcpStream>),
    Dialed(Secured<duplex::Stream>),
}

/// One that may be ended from elsewhere.
pub(super) struct Stream {
    io: Io,
    end: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        let protocol = match &self.io {
            Io::Plain(_) => None,
            Io::Tls(tls) => tls.inner().get_ref().1.alpn_protocol(),
            Io::Dialed(tls) => tls.inner().get_ref().1.alpn_protocol(),
        };
        if protocol == Some(b"h2") { Connected::new().negotiated_h2() } else { Connected::new() }
    }
}

macro_rules! on_stream {
    ($self:ident, $inner:ident => $call:expr) => {
        match &mut $self.get_mut().io {
            Io::Plain($inner) => {
                let $inner = Pin::new($inner);
                $call
            }
            Io::Tls($inner) => {
                let $inner = Pin::new($inner);
                $call
            }
            Io::Dialed($inner) => {
                let $inner = Pin::new($inner);
                $call
            }
        }
    };
}

impl hyper::rt::Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        if let Some(end) = &mut self.end
            && end.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(std::io::ErrorKind::ConnectionAborted.into()));
        }
        on_stream!(self, s => s.poll_read(cx, buf))
    }
}

impl hyper::rt::Write for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        on_stream!(self, s => s.poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        on_stream!(self, s => s.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        on_stream!(self, s => s.poll_shutdown(cx))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::client::{Client, is_unreachable, res};
    use crate::pki::tls::SwappableCert;
    use bytes::Bytes;
    use http::header::UPGRADE;
    use http::{Request, Response};
    use hyper::body::Incoming;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioExecutor;

    /// A TLS server that answers with the protocol it was asked over and the credentials it saw.
    async fn server() -> (String, Vec<u8>) {
        let cert = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into(), "localhost".into()]).unwrap();
        let key = PrivateKeyDer::try_from(cert.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.cert.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let Ok(tls) = acceptor.accept(tcp).await else { continue };
                let answer = service_fn(|request: Request<Incoming>| async move {
                    let token =
                        request.headers().get("authorization").map(|v| v.to_str().unwrap_or_default().to_owned());
                    let body = json!({"version": format!("{:?}", request.version()), "authorization": token});
                    Ok::<_, std::convert::Infallible>(Response::new(http_body_util::Full::new(Bytes::from(
                        body.to_string(),
                    ))))
                });
                let serve = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                tokio::spawn(async move {
                    let _ = serve.serve_connection(TokioIo::new(tls), answer).await;
                });
            }
        });
        (format!("https://{address}"), cert.cert.pem().into_bytes())
    }

    #[tokio::test]
    async fn speaks_http2_with_a_token_and_http1_for_upgrades() {
        let (url, ca) = server().await;
        let client = Client::tls(&url, &ca, Credentials::Token("secret".into())).unwrap();
        let out = client.get(&res::NODES, "", "n").await.unwrap();
        assert_eq!(out, json!({"version": "HTTP/2.0", "authorization": "Bearer secret"}));
        let mut headers = http::HeaderMap::new();
        headers.insert(UPGRADE, http::HeaderValue::from_static("websocket"));
        let answer = client.raw(http::Method::GET, "/x", headers, Bytes::new()).await.unwrap();
        assert!(answer.body().starts_with(br#"{"version":"HTTP/1.1""#), "{:?}", answer.body());
    }

    #[tokio::test]
    async fn a_server_of_another_ca_is_refused() {
        let (url, _) = server().await;
        let (_, other) = server().await;
        let error = Client::tls(&url, &other, Credentials::None).unwrap().get(&res::NODES, "", "n").await.unwrap_err();
        assert!(is_unreachable(&error), "{error}");
        assert!(error.message.contains("certificate"), "{error}");
    }

    /// The certificate that a server is shown in a handshake.
    fn shown(client: &Arc<rustls::ClientConfig>, server: &Arc<rustls::ServerConfig>) -> Vec<u8> {
        let mut client = rustls::ClientConnection::new(client.clone(), "localhost".try_into().unwrap()).unwrap();
        let mut server = rustls::ServerConnection::new(server.clone()).unwrap();
        // As many turns as it takes until the tickets of the session have come, too.
        for _ in 0..8 {
            let mut bytes = Vec::new();
            client.write_tls(&mut bytes).unwrap();
            server.read_tls(&mut bytes.as_slice()).unwrap();
            server.process_new_packets().unwrap();
            let mut bytes = Vec::new();
            server.write_tls(&mut bytes).unwrap();
            client.read_tls(&mut bytes.as_slice()).unwrap();
            client.process_new_packets().unwrap();
        }
        server.peer_certificates().expect("it shows one")[0].to_vec()
    }

    /// CAs and certificates of a cluster.
    pub fn authorities() -> crate::pki::Pki {
        let dir = tempfile::tempdir().unwrap();
        let config = crate::pki::PkiConfig {
            node_name: "n".into(),
            node_ips: Vec::new(),
            service_ips: Vec::new(),
            cluster_domain: "cluster.local".into(),
            tls_sans: Vec::new(),
            life_seconds: None,
        };
        crate::pki::Pki::open(dir.path(), &config, jiff::Timestamp::now()).unwrap()
    }

    #[test]
    fn after_a_renewal_the_new_certificate_is_shown() {
        let pki = authorities();
        let serving = SwappableCert::new(pki.serving_key().unwrap());
        let server = crate::pki::tls::server_config(serving, &[&pki.client_ca.cert]).unwrap();
        let mut trusting = kube::Config::new("https://localhost".parse().unwrap());
        trusting.root_cert = Some(vec![pki.server_ca.cert.to_vec()]);
        let cert = SwappableCert::new(pki.admin.certified().unwrap());
        let client = Arc::new(client_config(&trusting, Some(cert.clone())).unwrap());
        for pair in [&pki.admin, &pki.scheduler] {
            cert.swap(pair.certified().unwrap());
            assert_eq!(shown(&client, &server), pair.chain().unwrap()[0].to_vec());
        }
    }

    #[test]
    fn credentials_do_not_show_their_secret() {
        assert_eq!(format!("{:?}", Credentials::Token("secret".into())), "Token");
    }
}
