//! Authentication, impersonation and authorization put together, as every request passes them.

use std::sync::Arc;

use http::HeaderMap;
use rustls_pki_types::CertificateDer;

use crate::api::status::ApiResult;
use crate::api::user::{Attributes, Decision, UserInfo};
use crate::pki::tls::ClientVerifier;
use crate::pki::{Pki, PkiError};
use crate::runtime::Listers;
use crate::util::clock::SharedClock;

use super::auth::authn::{
    BearerTokens, Chain, ClientCertificates, Credentials, FrontProxy, JoinTokens, Peer, SecretTokens,
};
use super::auth::lookup::{CacheLookup, ObjectLookup};
use super::auth::node::NodeAuthorizer;
use super::auth::rbac::Rbac;
use super::auth::tokens::{self, ServiceAccountTokens};
use super::auth::{Authorizer, Union, forbidden, impersonate};

/// Who may do what.
pub struct Access {
    chain: Chain,
    authorizer: Union,
    /// The roles.
    pub rbac: Arc<Rbac>,
    /// Bearer tokens, for TokenReview.
    pub bearer: Arc<BearerTokens>,
    /// Service accounts' tokens.
    pub tokens: Arc<ServiceAccountTokens>,
    /// The CA of the API's certificate, for machines that join: they know its hash.
    pub server_ca_pem: String,
    clients: ClientVerifier,
    proxies: ClientVerifier,
    clock: SharedClock,
}

impl Access {
    /// With the keys of `pki`, over the objects of `listers`.
    pub fn new(pki: &Pki, listers: Arc<dyn Listers>, clock: SharedClock, domain: &str) -> Result<Self, PkiError> {
        let lookup: Arc<dyn ObjectLookup> = Arc::new(CacheLookup(listers));
        let rbac = Arc::new(Rbac::default());
        let tokens = Arc::new(ServiceAccountTokens::new(
            &pki.service_account_keys,
            tokens::issuer(domain),
            lookup.clone(),
            clock.clone(),
        ));
        let join = JoinTokens { records: vec![Arc::new(SecretTokens(lookup.clone()))], clock: clock.clone() };
        let bearer = Arc::new(BearerTokens {
            kinds: vec![tokens.clone(), Arc::new(join)],
            audiences: tokens.api_audiences().to_vec(),
        });
        let proxy = FrontProxy { allowed_names: vec![crate::pki::FRONT_PROXY.into()], clock: clock.clone() };
        let certificates = ClientCertificates { clock: clock.clone(), records: lookup.clone() };
        Ok(Self {
            chain: Chain(vec![Arc::new(proxy), Arc::new(certificates), bearer.clone()]),
            authorizer: Union(vec![Arc::new(NodeAuthorizer::new(lookup)), rbac.clone()]),
            rbac,
            bearer,
            tokens,
            server_ca_pem: pki.server_ca.cert_pem.clone(),
            clients: ClientVerifier::new(&pki.client_ca.cert)?,
            proxies: ClientVerifier::new(&pki.request_header_ca.cert)?,
            clock,
        })
    }

    /// Keeps the roles up to date; ends with their source.
    /// `loaded` is called once all of them are known.
    pub async fn follow(&self, listers: &dyn Listers, loaded: impl FnOnce()) {
        self.rbac.follow(listers, loaded).await;
    }

    /// What a connection's certificates say.
    pub fn peer(&self, chain: &[CertificateDer<'_>]) -> Peer {
        Peer::identify(chain, &self.clients, &self.proxies, self.clock.now())
    }

    /// Who asks.
    pub async fn authenticate(&self, parts: &http::request::Parts) -> ApiResult<UserInfo> {
        let none = Peer::None;
        let peer = parts.extensions.get::<Arc<Peer>>().map_or(&none, |p| &**p);
        let credentials = Credentials { peer, headers: &parts.headers };
        self.chain.authenticate(credentials).await.map_err(|e| {
            tracing::info!("authentication failed: {e}");
            e.to_status()
        })
    }

    /// Who the request wants to be, when the user may be them.
    pub fn impersonate(&self, user: UserInfo, headers: &HeaderMap) -> ApiResult<UserInfo> {
        let Some(wish) = impersonate::requested(headers)? else { return Ok(user) };
        for check in &wish.checks {
            self.allow(&user, check)?;
        }
        Ok(wish.target)
    }

    /// 403 unless the user may.
    pub fn allow(&self, user: &UserInfo, a: &Attributes) -> ApiResult<()> {
        match self.authorizer.authorize(a, user) {
            Decision::Allow => Ok(()),
            Decision::Deny(why) | Decision::NoOpinion(why) => Err(forbidden(a, user, &why)),
        }
    }

    /// For reviews.
    pub fn authorizer(&self) -> &dyn Authorizer {
        &self.authorizer
    }
}
