//! Authentication, impersonation and authorization put together, as every request passes them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderMap;
use rustls_pki_types::CertificateDer;

use crate::api::audit;
use crate::api::status::{ApiResult, Status};
use crate::api::user::{Attributes, Decision, UserInfo};
use crate::client::ConnectError;
use crate::pki::tls::ClientVerifier;
use crate::pki::{Pki, PkiError};
use crate::runtime::Listers;
use crate::util::clock::SharedClock;
use crate::util::file_watch::FileWatch;
use crate::util::tasks::Shutdown;
use crate::util::ttl::TtlCache;

use super::auth::authn::{
    AuthError, BearerTokens, Chain, ClientCertificates, Credentials, FrontProxy, JoinTokens, Peer, SecretTokens,
    TokenAuthenticator,
};
use super::auth::impersonate::{Step, Way};
use super::auth::lookup::{CacheLookup, ObjectLookup};
use super::auth::modes::config::Mode;
use super::auth::modes::webhook::Asked;
use super::auth::modes::{self, Link, Modes};
use super::auth::node::NodeAuthorizer;
use super::auth::oidc::config::Anonymous;
use super::auth::oidc::{self, Issuers};
use super::auth::rbac::Rbac;
use super::auth::remote::Remote;
use super::auth::token_webhook::{self, TokenWebhook};
use super::auth::tokens::{self, ServiceAccountTokens};
use super::auth::{Authorizer, forbidden, impersonate};

/// Annotations of audit events.
const DECISION: &str = "authorization.k8s.io/decision";
const REASON: &str = "authorization.k8s.io/reason";

fn permitted(decision: Decision, a: &Attributes, user: &UserInfo) -> ApiResult<()> {
    match decision {
        Decision::Allow => Ok(()),
        Decision::Deny(why) | Decision::NoOpinion(why) => Err(forbidden(a, user, &why)),
    }
}

/// Issuers, webhooks and modes, as they are asked for.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// `--authentication-config`.
    pub authentication: Option<PathBuf>,
    /// What the flags `--oidc-…` say.
    pub issuer: Option<oidc::config::Flags>,
    /// `--anonymous-auth=false`.
    pub no_anonymous: bool,
    /// `--authentication-token-webhook-…`.
    pub token_webhook: Option<token_webhook::Settings>,
    /// `--authorization-config`.
    pub authorization: Option<PathBuf>,
    /// `--authorization-mode`; empty for the default.
    pub modes: Vec<String>,
    /// `--authorization-webhook-…`.
    pub authorization_webhook: Option<WebhookFlags>,
}

/// What flags say of an authorization webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookFlags {
    /// A kubeconfig.
    pub file: PathBuf,
    /// `v1` or `v1beta1`.
    pub version: String,
    /// How long a yes is kept.
    pub allowed_ttl: Duration,
    /// How long anything else is.
    pub denied_ttl: Duration,
}

/// How long a webhook of flags may take. Upstream's.
const WEBHOOK_TIME: Duration = Duration::from_secs(30);

impl Settings {
    fn flags_modes(&self) -> Result<Vec<Mode>, AccessError> {
        if self.modes.is_empty() && self.authorization_webhook.is_none() {
            return Ok(modes::config::default_modes());
        }
        let webhook = self.authorization_webhook.clone().map(|w| modes::config::Webhook {
            name: "default".into(),
            file: w.file,
            version: w.version,
            allowed_ttl: w.allowed_ttl,
            denied_ttl: w.denied_ttl,
            timeout: WEBHOOK_TIME,
            fails_closed: false,
            conditions: Default::default(),
        });
        modes::config::from_flags(&self.modes, webhook).map_err(AccessError::Modes)
    }
}

/// Why there is no access as asked for.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The keys do not fit.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// A webhook's file is no kubeconfig.
    #[error("a webhook: {0}")]
    Webhook(#[from] ConnectError),
    /// A file cannot be read.
    #[error("cannot read {}: {}", .0.display(), .1)]
    File(PathBuf, std::io::Error),
    /// A file is no configuration of issuers.
    #[error("authentication configuration {}: {}", .0.display(), .1)]
    Authentication(PathBuf, oidc::config::ConfigError),
    /// The flags make none.
    #[error("--oidc-…: {0}")]
    Issuer(oidc::config::ConfigError),
    /// A file is no configuration of authorizers.
    #[error("authorization configuration {}: {}", .0.display(), .1)]
    Authorization(PathBuf, modes::config::ConfigError),
    /// The flags make none.
    #[error(transparent)]
    Modes(modes::config::ConfigError),
}

fn read(file: &Path) -> Result<String, AccessError> {
    std::fs::read_to_string(file).map_err(|e| AccessError::File(file.to_owned(), e))
}

/// Says how a file was taken.
fn told(file: Option<&Path>, taken: Result<(), AccessError>) {
    let file = file.unwrap_or(Path::new("")).display();
    match taken {
        Ok(()) => tracing::info!(%file, "follows its configuration"),
        Err(why) => tracing::error!("not used, the one before stays: {why}"),
    }
}

/// Who may do what.
pub struct Access {
    chain: Chain,
    modes: Arc<Modes>,
    node: Arc<NodeAuthorizer>,
    issuers: Arc<Issuers>,
    settings: Settings,
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
    /// The constraint under which a user was somebody else last.
    ways: TtlCache<String, String>,
}

/// Users whose way of impersonation is kept, and for how long.
const WAYS_MAX: usize = 4096;
/// See [`WAYS_MAX`].
const WAY_TTL: Duration = Duration::from_secs(3600);

impl Access {
    /// With the keys of `pki`, over the objects of `listers`; Node and RBAC decide.
    pub fn new(pki: &Pki, listers: Arc<dyn Listers>, clock: SharedClock, domain: &str) -> Result<Self, PkiError> {
        Self::with(pki, listers, clock, domain, Settings::default(), None)
    }

    /// The same with what the settings say of issuers and webhooks.
    pub async fn open(
        pki: &Pki,
        listers: Arc<dyn Listers>,
        clock: SharedClock,
        domain: &str,
        settings: Settings,
    ) -> Result<Self, AccessError> {
        let webhook = match &settings.token_webhook {
            None => None,
            Some(s) => Some(Arc::new(TokenWebhook::new(Remote::open(&s.file).await?, s.clone()))),
        };
        let access = Self::with(pki, listers, clock, domain, settings, webhook)?;
        access.reload_authentication()?;
        access.reload_authorization().await?;
        Ok(access)
    }

    fn with(
        pki: &Pki,
        listers: Arc<dyn Listers>,
        clock: SharedClock,
        domain: &str,
        settings: Settings,
        webhook: Option<Arc<TokenWebhook>>,
    ) -> Result<Self, PkiError> {
        let lookup: Arc<dyn ObjectLookup> = Arc::new(CacheLookup(listers));
        let rbac = Arc::new(Rbac::default());
        let tokens = Arc::new(ServiceAccountTokens::new(
            &pki.service_account_keys,
            tokens::issuer(domain),
            lookup.clone(),
            clock.clone(),
        ));
        let join = JoinTokens { records: vec![Arc::new(SecretTokens(lookup.clone()))], clock: clock.clone() };
        let issuers = Arc::new(Issuers::new(clock.clone()));
        let mut kinds: Vec<Arc<dyn TokenAuthenticator>> = vec![tokens.clone(), Arc::new(join), issuers.clone()];
        kinds.extend(webhook.map(|w| w as Arc<dyn TokenAuthenticator>));
        let bearer = Arc::new(BearerTokens { kinds, audiences: tokens.api_audiences().to_vec() });
        let proxy = FrontProxy { allowed_names: vec![crate::pki::FRONT_PROXY.into()], clock: clock.clone() };
        let certificates = ClientCertificates { clock: clock.clone(), records: lookup.clone() };
        let node = Arc::new(NodeAuthorizer::new(lookup));
        let modes = Arc::new(Modes::new(vec![Link::Local(node.clone()), Link::Local(rbac.clone())]));
        Ok(Self {
            chain: Chain(vec![Arc::new(proxy), Arc::new(certificates), bearer.clone()]),
            modes,
            node,
            issuers,
            settings,
            rbac,
            bearer,
            tokens,
            server_ca_pem: pki.server_ca.cert_pem.clone(),
            clients: ClientVerifier::new(&pki.client_ca.cert)?,
            proxies: ClientVerifier::new(&pki.request_header_ca.cert)?,
            clock,
            ways: TtlCache::new(WAYS_MAX),
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
        let found = self.chain.authenticate(credentials).await;
        let found = found.and_then(|user| match user.name == UserInfo::ANONYMOUS {
            true if !self.issuers.allows_anonymous(parts.uri.path()) => {
                Err(AuthError::new("no credentials, which this path needs"))
            }
            _ => Ok(user),
        });
        found.map_err(|e| {
            tracing::info!("authentication failed: {e}");
            e.to_status()
        })
    }

    /// Follows the configuration files until the shutdown. One that cannot be used changes nothing.
    pub async fn follow_files(&self, stop: Shutdown) -> std::io::Result<()> {
        let files = [&self.settings.authentication, &self.settings.authorization].map(Option::as_deref);
        let [authentication, authorization] = files;
        if files.iter().all(Option::is_none) {
            stop.wait().await;
            return Ok(());
        }
        let mut watch = FileWatch::new(files.into_iter().flatten())?;
        let text = |file: Option<&Path>| file.and_then(|f| std::fs::read_to_string(f).ok());
        // Read after the watch stands: what changed since the start is taken with the first look.
        let mut seen = (None, None);
        loop {
            let now = (text(authentication), text(authorization));
            if now.0.is_some() && now.0 != seen.0 {
                told(authentication, self.reload_authentication());
            }
            if now.1.is_some() && now.1 != seen.1 {
                told(authorization, self.reload_authorization().await);
            }
            seen = now;
            match stop.or(watch.changed()).await {
                None => return Ok(()),
                Some(changed) => changed?,
            }
        }
    }

    /// Takes the issuers as the file, or the flags, name them.
    fn reload_authentication(&self) -> Result<(), AccessError> {
        let own = self.tokens.api_audiences().first().map_or("", String::as_str);
        let mut config = match (&self.settings.authentication, &self.settings.issuer) {
            (Some(file), _) => {
                let wrong = |e| AccessError::Authentication(file.clone(), e);
                oidc::config::Config::parse(&read(file)?, own).map_err(wrong)?
            }
            (None, Some(flags)) => {
                oidc::config::Config::from_value(&flags.to_value(), own).map_err(AccessError::Issuer)?
            }
            (None, None) => oidc::config::Config::default(),
        };
        if self.settings.no_anonymous {
            config.anonymous = Anonymous::Nowhere;
        }
        self.issuers.replace(config);
        Ok(())
    }

    /// Takes those who decide as the file, or the flags, name them.
    async fn reload_authorization(&self) -> Result<(), AccessError> {
        let list = match &self.settings.authorization {
            Some(file) => {
                modes::config::parse(&read(file)?).map_err(|e| AccessError::Authorization(file.clone(), e))?
            }
            None => self.settings.flags_modes()?,
        };
        let mut links = Vec::new();
        for mode in list {
            links.push(match mode {
                Mode::Node => Link::Local(self.node.clone()),
                Mode::Rbac => Link::Local(self.rbac.clone()),
                Mode::AlwaysDeny => Link::Local(Arc::new(modes::AlwaysDeny)),
                Mode::Webhook(config) => {
                    let remote = Remote::open(&config.file).await?;
                    Link::Webhook(Box::new(Asked::new(config, remote)))
                }
            });
        }
        self.modes.replace(links);
        Ok(())
    }

    /// Who the request wants to be, when the user may be them, and the constraint under which they may; none when they want
    /// to be nobody else.
    ///
    /// # Errors
    /// 403 of the way that was tried first, when there is none.
    pub async fn impersonate(
        &self,
        user: &UserInfo,
        headers: &HeaderMap,
        request: &Attributes,
    ) -> ApiResult<Option<(UserInfo, String)>> {
        match impersonate::requested(headers)? {
            Some(wish) => Box::pin(self.become_other(user, wish, request)).await.map(Some),
            None => Ok(None),
        }
    }

    async fn become_other(
        &self,
        user: &UserInfo,
        wish: UserInfo,
        request: &Attributes,
    ) -> ApiResult<(UserInfo, String)> {
        let mut ways = impersonate::ways(user, &wish, request);
        // Mostly somebody goes the same way again.
        let now = Instant::now();
        if let Some(known) = self.ways.get(&user.name, now)
            && let Some(at) = ways.iter().position(|way| way.constraint == known)
        {
            ways[..=at].rotate_right(1);
        }
        let mut refused = None;
        for way in ways {
            match self.take(&way, user).await {
                Ok(()) => {
                    self.ways.put(user.name.clone(), way.constraint.clone(), WAY_TTL, now);
                    return Ok((way.target, way.constraint));
                }
                Err(why) => refused = refused.or(Some(why)),
            }
        }
        Err(refused.unwrap_or_else(|| Status::internal("all impersonation modes failed")))
    }

    async fn take(&self, way: &Way, user: &UserInfo) -> ApiResult<()> {
        let user = way.asking.as_ref().unwrap_or(user);
        let may = async |check: &Attributes| permitted(self.modes.decide(check, user, false).await.0, check, user);
        for step in &way.steps {
            match step {
                Step::One(check) => may(check).await?,
                Step::AllOr(all, each) => {
                    if may(all).await.is_err() {
                        for check in each {
                            may(check).await?;
                        }
                    }
                }
                Step::Never(check, why) => return permitted(Decision::Deny(why.clone()), check, user),
            }
        }
        Ok(())
    }

    /// 403 unless the user may do what the request is for.
    pub async fn allow(&self, user: &UserInfo, a: &Attributes) -> ApiResult<()> {
        if !audit::is_collecting() {
            return permitted(self.modes.decide(a, user, false).await.0, a, user);
        }
        let (decision, reason) = Box::pin(self.explain(a, user)).await;
        let word = if decision == Decision::Allow { "allow" } else { "forbid" };
        audit::annotate(|| (DECISION.into(), word.into()));
        audit::annotate(|| (REASON.into(), reason));
        permitted(decision, a, user)
    }

    /// Whether somebody may do something, and why: for reviews.
    pub async fn explain(&self, a: &Attributes, user: &UserInfo) -> (Decision, String) {
        self.modes.decide(a, user, true).await
    }

    /// True when somebody beside Node and RBAC decides, who has no rules that could be listed.
    pub fn asks_webhooks(&self) -> bool {
        self.modes.has_webhooks()
    }

    /// For those who cannot wait: admission plugins.
    pub fn authorizer(&self) -> &dyn Authorizer {
        &*self.modes
    }
}
