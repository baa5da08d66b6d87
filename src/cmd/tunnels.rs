//! The agent's connections to the servers: one each, kept open, made again with backoff when it breaks.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rand::Rng;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::client::Client;
use crate::runtime::tunnel::{self, Opener};
use crate::util::backoff::Backoff;
use crate::util::tasks::Shutdown;

/// Between attempts to connect to a server.
const RETRY: Backoff = Backoff { base: Duration::from_millis(500), cap: Duration::from_secs(30) };

/// Keeps a connection to each of `servers`, as the list changes, until the shutdown. All are made anew when this machine has
/// another address: what was connected from the old one hangs until somebody gives up waiting.
pub async fn run(
    mut servers: watch::Receiver<Vec<Uri>>,
    mut address: watch::Receiver<IpAddr>,
    dial: impl Fn(&Uri) -> Client,
    open: Opener,
    shutdown: &Shutdown,
) {
    let mut kept: HashMap<Uri, Shutdown> = HashMap::new();
    let mut running = FuturesUnordered::new();
    loop {
        let list = servers.borrow_and_update().clone();
        kept.retain(|server, stop| {
            let stays = list.contains(server);
            if !stays {
                stop.trigger();
            }
            stays
        });
        for server in list {
            kept.entry(server.clone()).or_insert_with(|| {
                let stop = shutdown.child();
                running.push(keep(dial(&server), server, open.clone(), stop.clone()));
                stop
            });
        }
        loop {
            tokio::select! {
                () = shutdown.wait() => {
                    while running.next().await.is_some() {}
                    return;
                }
                changed = servers.changed() => match changed {
                    Ok(()) => break,
                    // Nobody will tell of more: the list stays as it is.
                    Err(_) => shutdown.wait().await,
                },
                Ok(()) = address.changed() => {
                    kept.drain().for_each(|(_, stop)| stop.trigger());
                    break;
                }
                Some(()) = running.next(), if !running.is_empty() => {}
            }
        }
    }
}

async fn keep(client: Client, server: Uri, open: Opener, stop: Shutdown) {
    let mut failures = 0;
    while !stop.is_triggered() {
        let began = Instant::now();
        let ended = async {
            let io = connect(&client).await?;
            tracing::info!(%server, "connected");
            tunnel::serve(io, open.clone(), &stop).await.map_err(|e| e.to_string())
        };
        let Some(ended) = stop.or(ended).await else { return };
        failures = if began.elapsed() > RETRY.cap { 1 } else { failures + 1 };
        let delay = RETRY.delay(failures).mul_f64(rand::rng().random_range(1.0..1.5));
        match ended {
            Ok(()) => tracing::info!(%server, "the connection ended; connecting again"),
            Err(why) if failures == 1 => tracing::warn!(%server, "the connection broke, connecting again: {why}"),
            Err(why) => tracing::debug!(%server, failures, "cannot connect: {why}"),
        }
        stop.or(tokio::time::sleep(delay)).await;
    }
}

async fn connect(client: &Client) -> Result<TokioIo<hyper::upgrade::Upgraded>, String> {
    let mut headers = HeaderMap::new();
    headers.insert(UPGRADE, HeaderValue::from_static(tunnel::PROTOCOL));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    let answer = client.send(Method::GET, tunnel::PATH, headers, bytes::Bytes::new()).await;
    let answer = answer.map_err(|e| e.message.clone())?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(format!("the server answered {}", answer.status()));
    }
    hyper::upgrade::on(answer).await.map(TokioIo::new).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::FutureExt;
    use http::{Request, Response};
    use kube::client::Body;

    /// Ten minutes without a server cost some twenty attempts, and the last one is never long ago.
    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_down_for_long_is_asked_rarely_and_found_soon() {
        let attempts = Arc::new(AtomicUsize::new(0));
        let counted = attempts.clone();
        let client = Client::in_process(tower::service_fn(move |_: Request<Body>| {
            counted.fetch_add(1, Ordering::SeqCst);
            async {
                let answer = Response::builder().status(503).body(http_body_util::Full::<bytes::Bytes>::default());
                Ok::<_, Infallible>(answer.expect("a valid answer"))
            }
        }));
        let stop = Shutdown::new();
        let open: Opener = Arc::new(|_| async { Err(std::io::Error::other("nothing")) }.boxed());
        let keeping = keep(client, Uri::from_static("https://10.0.0.1:6443"), open, stop.clone());
        let watching = async {
            tokio::time::sleep(Duration::from_secs(600)).await;
            let before = attempts.load(Ordering::SeqCst);
            assert!((15..=30).contains(&before), "{before} attempts in ten minutes");
            tokio::time::sleep(RETRY.cap.mul_f64(1.5)).await;
            assert!(attempts.load(Ordering::SeqCst) > before, "one more within the longest pause");
            stop.trigger();
        };
        tokio::join!(keeping, watching);
    }
}
