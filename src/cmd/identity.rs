//! The certificates of a running agent: renewed long before they end, without a restart.
//!
//! **Invariant:** requests go over connections that were made with the newest certificate. What was opened before and is in
//! use, as the connection that the servers open streams on, is left to its end.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::client::{Client, Servers};
use crate::pki::tls::SwappableCert;
use crate::pki::token::JoinToken;
use crate::pki::{self, Pair, Profile};
use crate::util::backoff::Backoff;
use crate::util::clock::SharedClock;
use crate::util::tasks::Shutdown;

use super::join::{self, Asker, Files, JoinError};

/// Between two looks at the certificates' ends at most.
const LOOK: Duration = Duration::from_secs(60);
/// Between attempts to get a certificate. One that is refused today may be given tomorrow.
const RETRY: Backoff = Backoff { base: Duration::from_secs(2), cap: Duration::from_secs(1800) };

/// What the node's server shows, once there is something.
pub type Serving = watch::Sender<Option<Arc<SwappableCert>>>;

/// Keeps a node's certificates.
pub struct Identity {
    /// Where they are kept.
    pub files: Arc<Files>,
    /// The node.
    pub node: String,
    /// Its address, and its changes.
    pub address: watch::Receiver<IpAddr>,
    /// Whom to ask.
    pub servers: Arc<Servers>,
    /// The CA of servers.
    pub ca_pem: String,
    /// The node's client.
    pub client: Client,
    /// The certificate of that client.
    pub client_cert: Arc<SwappableCert>,
    /// For a node whose certificate has ended.
    pub token: Option<JoinToken>,
    /// Now.
    pub clock: SharedClock,
    /// What the node's server shows.
    pub serving: Serving,
}

impl Identity {
    /// Looks after both certificates until the shutdown.
    pub async fn keep_fresh(mut self, stop: Shutdown) -> anyhow::Result<()> {
        let mut failures = 0;
        loop {
            let done = async {
                let client = self.renew_client().await?;
                Ok::<_, JoinError>(client.due().min(self.renew_serving().await?.due()))
            };
            let Some(done) = stop.or(done).await else { return Ok(()) };
            let pause = match done {
                Ok(due) => {
                    failures = 0;
                    pki::pause(due, self.clock.now(), LOOK)
                }
                Err(e) => {
                    failures += 1;
                    let delay = RETRY.delay(failures);
                    tracing::warn!(seconds = delay.as_secs(), "cannot get a certificate, trying again: {e}");
                    delay
                }
            };
            tokio::select! {
                () = stop.wait() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
                Ok(()) = self.address.changed() => {}
            }
        }
    }

    async fn renew_client(&self) -> Result<Pair, JoinError> {
        let now = self.clock.now();
        let kept = self.files.pair(join::CLIENT)?;
        let holds = match kept {
            Some(pair) if !pair.is_due(now) => return Ok(pair),
            kept => kept.is_some_and(|p| p.ends() > now.as_second()),
        };
        let text = self.token.as_ref().map(ToString::to_string);
        let asker = match (&text, holds) {
            (Some(token), false) => Asker::Token(token),
            _ => Asker::Node(&self.client),
        };
        let pair = join::client_certificate(&self.files, &self.node, &self.servers, &self.ca_pem, asker).await?;
        self.client_cert.swap(certified(&pair)?);
        self.servers.reconnect();
        tracing::info!(node = self.node, "renewed the node's certificate");
        Ok(pair)
    }

    async fn renew_serving(&self) -> Result<Pair, JoinError> {
        let profile = Profile::kubelet_server(&self.node, &[*self.address.borrow()]);
        let kept = self.files.pair(join::SERVING)?;
        let pair = match kept.filter(|p| p.mismatch(&profile, self.clock.now()).is_none()) {
            Some(pair) if self.serving.borrow().is_some() => return Ok(pair),
            Some(pair) => pair,
            None => join::serving_certificate(&self.files, &self.client, &profile).await?,
        };
        let key = certified(&pair)?;
        let shown = self.serving.borrow().clone();
        match shown {
            Some(cert) => cert.swap(key),
            None => drop(self.serving.send_replace(Some(SwappableCert::new(key)))),
        }
        Ok(pair)
    }
}

fn certified(pair: &Pair) -> Result<Arc<rustls::sign::CertifiedKey>, JoinError> {
    pair.certified().map_err(|e| JoinError::Final(e.to_string()))
}
