//! Requests from many connections at once, and the figures of what they took.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::target::{Call, Connection};

/// When a load ends.
#[derive(Debug, Clone, Copy)]
pub(super) enum Until {
    /// After so many requests.
    Count(usize),
    /// After so long.
    Elapsed(Duration),
}

/// What each request took, and all of them together.
#[derive(Debug)]
pub(super) struct Taken {
    each: Vec<Duration>,
    all: Duration,
}

impl Taken {
    /// `each` in any order.
    pub(super) fn new(mut each: Vec<Duration>, all: Duration) -> Self {
        each.sort_unstable();
        Self { each, all }
    }

    /// The duration that a share `q` (0 to 1) of the requests stayed within, milliseconds.
    pub(super) fn quantile_ms(&self, q: f64) -> f64 {
        let last = self.each.len().saturating_sub(1);
        let index = (q * last as f64).round() as usize;
        self.each.get(index).map_or(0.0, |d| round(d.as_secs_f64() * 1000.0))
    }

    /// Requests per second.
    pub(super) fn rate(&self) -> f64 {
        (self.each.len() as f64 / self.all.as_secs_f64()).round()
    }

    /// The line to print.
    pub(super) fn figure(&self, workload: &str) -> Value {
        json!({
            "workload": workload, "ops": self.each.len(), "seconds": round(self.all.as_secs_f64()), "per_s": self.rate(),
            "p50_ms": self.quantile_ms(0.5), "p99_ms": self.quantile_ms(0.99), "max_ms": self.quantile_ms(1.0),
        })
    }
}

/// To hundredths.
pub(super) fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// Sends requests from all connections, one in flight on each; `call` makes the request with a number. Gives the
/// connections back. The first error ends it.
pub(super) async fn drive(
    connections: Vec<Connection>,
    until: Until,
    call: impl Fn(usize) -> Call + Send + Sync + 'static,
) -> anyhow::Result<(Vec<Connection>, Taken)> {
    let (next, call) = (Arc::new(AtomicUsize::new(0)), Arc::new(call));
    let start = Instant::now();
    let mut workers = JoinSet::new();
    for mut connection in connections {
        let (next, call) = (next.clone(), call.clone());
        workers.spawn(async move {
            let mut each = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let over = match until {
                    Until::Count(count) => number >= count,
                    Until::Elapsed(limit) => start.elapsed() >= limit,
                };
                if over {
                    return anyhow::Ok((connection, each));
                }
                let call = call(number);
                let sent = Instant::now();
                connection.exchange(call).await.with_context(|| format!("request {number}"))?;
                each.push(sent.elapsed());
            }
        });
    }
    let (mut connections, mut each) = (Vec::new(), Vec::new());
    while let Some(worker) = workers.join_next().await {
        let (connection, some) = worker??;
        connections.push(connection);
        each.extend(some);
    }
    Ok((connections, Taken::new(each, start.elapsed())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_sorted_durations() {
        let taken = Taken::new([3, 1, 2].map(Duration::from_millis).to_vec(), Duration::from_secs(2));
        assert_eq!([0.0, 0.5, 1.0].map(|q| taken.quantile_ms(q)), [1.0, 2.0, 3.0]);
        assert_eq!(taken.rate(), 2.0);
        assert_eq!(Taken::new(Vec::new(), Duration::from_secs(1)).quantile_ms(0.99), 0.0);
    }
}
