//! Audit: who did what, when, and how it went.
//!
//! In: requests on their way, and a policy. Out: events of their stages, as upstream writes them, to a log file and to a
//! webhook.
//!
//! A [`Trail`] follows one request as an extension of it: it learns who asks, what the policy wants of it, what the bodies
//! are; parts of the server that know more leave notes (`api::audit`).
//!
//! **Invariant:** without a policy nothing here is made or called.
//! **Invariant:** a body is kept only where the policy asks for it.
//! **Invariant:** a request whose client goes away has its last event all the same.

mod event;
pub mod log;
mod policy;
mod trail;
pub mod webhook;

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use serde_json::Value;

use super::auth::remote::Remote;
use super::respond::Answer;
use crate::api::audit::collecting;
use crate::client::ConnectError;
use crate::util::clock::SharedClock;
use crate::util::tasks::Shutdown;

use log::Log;
use policy::{Policy, PolicyError};
pub use trail::Trail;
use webhook::Webhook;

/// What is kept, and where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// The file with the policy.
    pub policy: PathBuf,
    /// A log.
    pub log: Option<log::Settings>,
    /// A webhook.
    pub webhook: Option<webhook::Settings>,
}

/// Why there is no audit as it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The policy cannot be read.
    #[error("cannot read the audit policy {}: {}", .0.display(), .1)]
    File(PathBuf, io::Error),
    /// It is none.
    #[error("audit policy {}: {}", .0.display(), .1)]
    Policy(PathBuf, PolicyError),
    /// The log cannot be written.
    #[error("cannot write the audit log {}: {}; choose another place with --audit-log-path", .0.display(), .1)]
    Log(PathBuf, io::Error),
    /// The webhook's file is no kubeconfig.
    #[error("--audit-webhook-config-file: {0}")]
    Webhook(#[from] ConnectError),
}

/// Keeps what the policy wants.
pub struct Audit {
    policy: Policy,
    log: Option<Log>,
    webhook: Option<Arc<Webhook>>,
    clock: SharedClock,
}

impl Audit {
    /// Reads the policy and opens what the events go to.
    pub async fn open(settings: Settings, clock: SharedClock) -> Result<Arc<Self>, AuditError> {
        let path = settings.policy;
        let text = std::fs::read_to_string(&path).map_err(|e| AuditError::File(path.clone(), e))?;
        let policy = Policy::parse(&text).map_err(|e| AuditError::Policy(path, e))?;
        let log = settings.log.map(|s| Log::open(s.clone()).map_err(|e| AuditError::Log(s.path, e))).transpose()?;
        let webhook = match settings.webhook {
            None => None,
            Some(s) => Some(Arc::new(Webhook::new(Remote::open(&s.file).await?, s))),
        };
        Ok(Arc::new(Self { policy, log, webhook, clock }))
    }

    /// Sends and writes until the shutdown; then what is left.
    pub async fn run(&self, stop: Shutdown) {
        match &self.webhook {
            Some(webhook) => webhook.clone().run(stop).await,
            None => stop.wait().await,
        }
        if let Some(log) = &self.log {
            log.close().await;
        }
    }

    /// Follows a request through `work`, which answers it.
    pub async fn follow<B, F>(self: &Arc<Self>, mut request: Request<B>, work: impl FnOnce(Request<B>) -> F) -> Answer
    where
        F: Future<Output = Answer>,
    {
        let trail = Arc::new(Trail::begin(self.clone(), &request));
        request.extensions_mut().insert(trail.clone());
        let answer = collecting(trail.notes(), work(request)).await;
        trail.finish(answer).await
    }

    async fn emit(&self, event: &Value) {
        let bytes = Bytes::from(serde_json::to_vec(event).expect("a JSON value serializes"));
        // The log first: who is interrupted while it waits has told nobody, and tells again.
        if let Some(log) = &self.log {
            log.take(&bytes).await;
        }
        if let Some(webhook) = &self.webhook {
            webhook.take(&bytes);
        }
    }
}
