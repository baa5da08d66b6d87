//! Connections of a client, and how long they are used.
//!
//! **Invariant:** no request begins on a connection that was made with another certificate than the present one.

use std::sync::Arc;
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::header::UPGRADE;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use tower::{BoxError, Service};

use super::tls::{ConnectError, Connector, KEEP_ALIVE, Road, client_config};

type Pool<B> = hyper_util::client::legacy::Client<Connector, B>;

/// Sends upgrades over HTTP/1.1 and the rest over whatever the server likes best.
pub(super) struct Transport<B> {
    ways: Arc<Ways>,
    pools: Arc<ArcSwap<Pools<B>>>,
}

impl<B> Clone for Transport<B> {
    fn clone(&self) -> Self {
        Self { ways: self.ways.clone(), pools: self.pools.clone() }
    }
}

/// What makes connections.
struct Ways {
    any: Connector,
    h1: Connector,
    resolver: Option<Arc<dyn ResolvesClientCert>>,
}

/// The connections that were made with one certificate: one pool for everything, and one without HTTP/2 for upgrades. When
/// they are dropped what waits is closed, and what is in use ends with its requests.
struct Pools<B> {
    any: Pool<B>,
    h1: Pool<B>,
    shown: Option<Arc<CertifiedKey>>,
}

impl Ways {
    /// The certificate that a new connection would show, where it may change.
    fn shown(&self) -> Option<Arc<CertifiedKey>> {
        self.resolver.as_ref()?.resolve(&[], &[])
    }

    fn pools<B>(&self, shown: Option<Arc<CertifiedKey>>) -> Pools<B>
    where
        B: http_body::Body + Send + Unpin + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        let mut builder = hyper_util::client::legacy::Client::builder(TokioExecutor::new());
        builder.timer(TokioTimer::new()).pool_timer(TokioTimer::new());
        builder.http2_keep_alive_interval(KEEP_ALIVE).http2_keep_alive_timeout(KEEP_ALIVE);
        Pools { any: builder.build(self.any.clone()), h1: builder.build(self.h1.clone()), shown }
    }
}

impl<B> Transport<B>
where
    B: http_body::Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    pub(super) fn new(
        config: &kube::Config,
        resolver: Option<Arc<dyn ResolvesClientCert>>,
        road: Road,
    ) -> Result<Self, ConnectError> {
        let fail = |reason: String| ConnectError::Config { server: config.cluster_url.to_string(), reason };
        let mut tls = client_config(config, resolver.clone()).map_err(fail)?;
        let server_name = config.tls_server_name.clone();
        let h1 = Connector::new(tls.clone(), server_name.clone(), road.clone()).map_err(fail)?;
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let any = Connector::new(tls, server_name, road).map_err(fail)?;
        let ways = Ways { any, h1, resolver };
        let pools = Arc::new(ArcSwap::from_pointee(ways.pools(ways.shown())));
        Ok(Self { ways: Arc::new(ways), pools })
    }

    /// The connections of the present certificate.
    fn pools(&self) -> Arc<Pools<B>> {
        let (pools, shown) = (self.pools.load_full(), self.ways.shown());
        if pools.shown.as_ref().map(Arc::as_ptr) == shown.as_ref().map(Arc::as_ptr) {
            return pools;
        }
        let new = Arc::new(self.ways.pools(shown));
        self.pools.store(new.clone());
        new
    }
}

impl<B> Service<Request<B>> for Transport<B>
where
    B: http_body::Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = Response<Incoming>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let pools = self.pools();
        let pool = if request.headers().contains_key(UPGRADE) { &pools.h1 } else { &pools.any };
        pool.request(request).map(|r| r.map_err(BoxError::from)).boxed()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use hyper::service::service_fn;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use serde_json::json;

    use super::*;
    use crate::client::tls::Credentials;
    use crate::client::tls::tests::authorities;
    use crate::client::{Client, res};
    use crate::pki::tls::SwappableCert;

    #[tokio::test]
    async fn a_connection_is_used_no_longer_than_its_certificate() {
        let pki = authorities();
        let serving = SwappableCert::new(pki.serving_key().unwrap());
        let server = crate::pki::tls::server_config(serving, &[&pki.client_ca.cert]).unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(server);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let (ended, mut ends) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            for number in 1.. {
                let (tcp, _) = listener.accept().await.unwrap();
                let tls = acceptor.accept(tcp).await.unwrap();
                let answer = service_fn(move |_| async move {
                    let body = Bytes::from(json!({"connection": number}).to_string());
                    Ok::<_, std::convert::Infallible>(Response::new(http_body_util::Full::new(body)))
                });
                let (serve, ended) =
                    (hyper_util::server::conn::auto::Builder::new(TokioExecutor::new()), ended.clone());
                tokio::spawn(async move {
                    let _ = serve.serve_connection(TokioIo::new(tls), answer).await;
                    let _ = ended.send(number);
                });
            }
        });
        let cert = SwappableCert::new(pki.admin.certified().unwrap());
        let ca = pki.server_ca.cert_pem.as_bytes();
        let client = Client::tls(&url, ca, Credentials::Rotating(cert.clone())).unwrap();
        let asked = async || client.get(&res::NODES, "", "n").await.unwrap();
        let of = |number: i32| json!({"connection": number});
        assert_eq!([asked().await, asked().await], [of(1), of(1)]);
        cert.swap(pki.scheduler.certified().unwrap());
        assert_eq!([asked().await, asked().await], [of(2), of(2)]);
        assert_eq!(ends.recv().await, Some(1), "what is of no use any more is closed");
    }
}
