//! Tasks with a name, an owner and a rule for what their end means; one tree of cancellation.
//!
//! **Invariant:** nothing else in the crate calls `tokio::spawn` for work that outlives a request.

use std::future::Future;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::util::backoff::Backoff;

/// Asks tasks to stop. Cheap to clone; children stop with their parent, not the other way round.
#[derive(Debug, Clone, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// A fresh root.
    pub fn new() -> Self {
        Self::default()
    }

    /// A token that stops with this one and can be stopped alone.
    pub fn child(&self) -> Self {
        Self(self.0.child_token())
    }

    /// Asks everything below to stop.
    pub fn trigger(&self) {
        self.0.cancel();
    }

    /// True once asked to stop.
    pub fn is_triggered(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Completes when asked to stop.
    pub async fn wait(&self) {
        self.0.cancelled().await;
    }

    /// Runs `work` until it ends or the shutdown is asked for, whichever is first; `None` for the latter.
    pub async fn or<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.wait() => None,
            out = work => Some(out),
        }
    }
}

/// What the end of a task means before a shutdown was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnEnd {
    /// The process cannot go on without it.
    StopAll,
    /// It may end; nobody minds.
    Fine,
}

struct Owned {
    name: &'static str,
    stop: Shutdown,
    handle: tokio::task::JoinHandle<()>,
}

/// Owns tasks and joins them in reverse order of their start.
pub struct Tasks {
    shutdown: Shutdown,
    /// Cancelled tasks stop in reverse order: each has its own token below this one, which nobody else holds.
    root: Shutdown,
    tasks: Vec<Owned>,
}

impl Tasks {
    /// An empty set that stops when `shutdown` is triggered.
    pub fn new(shutdown: Shutdown) -> Self {
        Self { shutdown, root: Shutdown::new(), tasks: Vec::new() }
    }

    /// The token that stops the whole set.
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// Starts a task. `start` gets the token it has to obey.
    pub fn own<F, Fut>(&mut self, name: &'static str, on_end: OnEnd, start: F)
    where
        F: FnOnce(Shutdown) -> Fut,
        Fut: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let stop = self.root.child();
        let work = start(stop.clone()).boxed();
        let handle = tokio::spawn(watched(name, on_end, self.shutdown.clone(), work));
        self.tasks.push(Owned { name, stop, handle });
    }

    /// Starts a task that is started again with backoff when it fails or panics; it ends only with the set.
    pub fn own_restarting<F>(&mut self, name: &'static str, backoff: Backoff, mut start: F)
    where
        F: FnMut(Shutdown) -> BoxFuture<'static, anyhow::Result<()>> + Send + 'static,
    {
        self.own(name, OnEnd::Fine, move |stop| async move {
            let mut failures = 0;
            while !stop.is_triggered() {
                let began = tokio::time::Instant::now();
                match std::panic::AssertUnwindSafe(start(stop.clone())).catch_unwind().await {
                    Ok(Ok(())) => tracing::debug!(task = name, "ended; starting it again"),
                    Ok(Err(error)) => tracing::warn!(task = name, "failed, starting it again: {error:#}"),
                    Err(_) => tracing::error!(task = name, "panicked, starting it again; this is a bug in orch"),
                }
                failures = if began.elapsed() > backoff.cap { 1 } else { failures + 1 };
                stop.or(tokio::time::sleep(backoff.delay(failures))).await;
            }
            Ok(())
        });
    }

    /// Waits for the shutdown, then stops the tasks one after another, last started first; those that do not end
    /// within `deadline` in all are aborted.
    pub async fn join_in_reverse(mut self, deadline: Duration) {
        self.shutdown.wait().await;
        let end = tokio::time::Instant::now() + deadline;
        while let Some(mut task) = self.tasks.pop() {
            task.stop.trigger();
            if tokio::time::timeout_at(end, &mut task.handle).await.is_err() {
                tracing::warn!(task = task.name, "did not stop in time; aborted");
                task.handle.abort();
            }
        }
    }
}

/// Runs a task to its end and tells of it. Boxed, it is compiled once and not for each task.
async fn watched(name: &'static str, on_end: OnEnd, all: Shutdown, work: BoxFuture<'static, anyhow::Result<()>>) {
    match std::panic::AssertUnwindSafe(work).catch_unwind().await {
        Ok(Ok(())) => tracing::debug!(task = name, "ended"),
        Ok(Err(error)) => tracing::error!(task = name, "failed: {error:#}"),
        Err(_) => tracing::error!(task = name, "panicked; this is a bug in orch"),
    }
    if on_end == OnEnd::StopAll && !all.is_triggered() {
        tracing::error!(task = name, "ended; stopping");
        all.trigger();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[tokio::test]
    async fn stops_last_started_first() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let shutdown = Shutdown::new();
        let mut tasks = Tasks::new(shutdown.clone());
        for name in ["store", "api", "kubelet"] {
            let order = order.clone();
            tasks.own(name, OnEnd::Fine, move |stop| async move {
                stop.wait().await;
                order.lock().unwrap().push(name);
                Ok(())
            });
        }
        shutdown.trigger();
        tasks.join_in_reverse(Duration::from_secs(5)).await;
        assert_eq!(*order.lock().unwrap(), ["kubelet", "api", "store"]);
    }

    #[tokio::test]
    async fn the_end_of_a_vital_task_stops_all() {
        let shutdown = Shutdown::new();
        let mut tasks = Tasks::new(shutdown.clone());
        tasks.own("vital", OnEnd::StopAll, |_| async { anyhow::bail!("gone") });
        tasks.join_in_reverse(Duration::from_secs(5)).await;
        assert!(shutdown.is_triggered());
    }
}
