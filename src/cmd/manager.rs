//! What the service manager is told of a server or an agent: when it is ready, that it lives, that it goes.
//!
//! In: the API's address and the kubelet's pulse. Out: words over [`Notify`].
//!
//! **Invariant:** nothing is called an illness that another start would not cure: a full disk, a runtime that is missing
//! and a server that is away are told elsewhere.

use std::time::Duration;

use http::{HeaderMap, Method};
use tokio::sync::watch;

use crate::client::{Client, Credentials};
use crate::kubelet::node::Pulse;
use crate::util::notify::{Notify, Word};
use crate::util::tasks::{OnEnd, Shutdown, Tasks};

/// How long the service manager is left waiting for the node: something that takes longer is told as it is, and waited
/// for behind it.
const NODE_PATIENCE: Duration = Duration::from_secs(120);
/// A node's agent that does not go round for so long is stuck; it goes round every ten seconds, and waits for a silent
/// server for less than this.
const PULSE_LIMIT: Duration = Duration::from_secs(300);

/// What there is to look at.
pub struct Watched {
    /// The API that this process serves, and the CA of its certificate.
    pub api: Option<(String, String)>,
    /// The node of this process.
    pub node: Option<watch::Receiver<Pulse>>,
}

/// Tells the service manager, as a task that stops first of all.
pub fn start(tasks: &mut Tasks, watched: Watched) {
    let notify = Notify::from_env();
    if !notify.is_managed() {
        return;
    }
    tasks.own("service-manager", OnEnd::Fine, move |stop| async move {
        let Watched { api, node } = watched;
        let pulse = node.clone();
        tokio::join!(
            stop.or(tell_ready(&notify, api.is_some(), node)),
            notify.feed_watchdog(&stop, || look(api.clone(), pulse.clone())),
            tell_stopping(&notify, &stop),
        );
        Ok(())
    });
}

async fn tell_stopping(notify: &Notify, stop: &Shutdown) {
    stop.wait().await;
    notify.tell(Word::Stopping);
}

/// Ready when the node is, or after all one's patience; the status line follows.
async fn tell_ready(notify: &Notify, serves: bool, node: Option<watch::Receiver<Pulse>>) {
    let prefix = if serves { "serving the API" } else { "joined" };
    let Some(mut node) = node else { return notify.tell(Word::Ready(prefix)) };
    let is_ready = tokio::time::timeout(NODE_PATIENCE, node.wait_for(|p| p.ready)).await.is_ok();
    if !is_ready {
        notify.tell(Word::Ready(&format!("{prefix}; the node is not Ready yet")));
        if node.wait_for(|p| p.ready).await.is_err() {
            return;
        }
    }
    notify.tell(Word::Ready(&format!("{prefix}; the node is Ready")));
}

/// Whether this process does its work: its API answers a client that connects anew, its node's agent goes round.
async fn look(api: Option<(String, String)>, pulse: Option<watch::Receiver<Pulse>>) -> Result<(), String> {
    if let Some((server, ca_pem)) = api {
        let client = Client::tls(&server, ca_pem.as_bytes(), Credentials::None).map_err(|e| e.to_string())?;
        let answer = client.raw(Method::GET, "/livez", HeaderMap::new(), bytes::Bytes::new()).await;
        let status = answer.map_err(|e| format!("the API does not answer: {e}"))?.status();
        if !status.is_success() {
            return Err(format!("the API answers /livez with {status}"));
        }
    }
    pulse.map_or(Ok(()), |p| goes_round(p.borrow().last.elapsed()))
}

/// Whether a node's agent that was last seen so long ago goes round.
fn goes_round(silent: Duration) -> Result<(), String> {
    match silent > PULSE_LIMIT {
        true => Err(format!("the kubelet is silent for {} s", silent.as_secs())),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_node_that_no_longer_goes_round_is_ill() {
        let sender = Pulse::new();
        assert_eq!(look(None, Some(sender.subscribe())).await, Ok(()));
        assert_eq!(goes_round(PULSE_LIMIT), Ok(()));
        let why = goes_round(PULSE_LIMIT + Duration::from_secs(1));
        assert_eq!(why, Err("the kubelet is silent for 301 s".to_owned()));
    }

    #[tokio::test]
    async fn an_api_that_does_not_answer_is_ill() {
        crate::pki::install_provider();
        // Nobody listens at a port that was just given back.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let key = rcgen::KeyPair::generate().unwrap();
        let ca = crate::pki::ca::Ca::new("test", key, "2026-01-01T00:00:00Z".parse().unwrap()).unwrap();
        let api = (format!("https://127.0.0.1:{port}"), ca.cert_pem.clone());
        let why = look(Some(api), None).await.unwrap_err();
        assert!(why.starts_with("the API does not answer"), "{why}");
    }
}
