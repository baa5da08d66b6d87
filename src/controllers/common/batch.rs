//! Doing the same thing many times: carefully at first.

use futures::StreamExt;
use futures::stream::FuturesUnordered;

/// First batch; each further one is twice as large.
const FIRST: usize = 1;

/// Pods one reconcile creates or deletes at most; upstream's `BurstReplicas`.
pub const BURST: usize = 500;

/// Runs `action` `count` times in batches of 1, 2, 4, …; a batch with a failure is the last one. So a quota that is
/// exhausted costs one refused request, not hundreds. Gives back the successes and the first error.
/// Rule: upstream `slowStartBatch`.
pub async fn slow_start<T, E, Fut>(count: usize, action: impl Fn(usize) -> Fut) -> (Vec<T>, Option<E>)
where
    Fut: Future<Output = Result<T, E>>,
{
    let (mut done, mut started, mut size) = (Vec::new(), 0, FIRST);
    while started < count {
        let end = count.min(started + size);
        let (ok, error) = all((started..end).map(&action).collect()).await;
        done.extend(ok);
        if error.is_some() {
            return (done, error);
        }
        (started, size) = (end, size * 2);
    }
    (done, None)
}

/// Runs all at once. Gives back the successes and the first error.
pub async fn all<T, E, Fut: Future<Output = Result<T, E>>>(actions: Vec<Fut>) -> (Vec<T>, Option<E>) {
    let mut running: FuturesUnordered<Fut> = actions.into_iter().collect();
    let (mut done, mut error) = (Vec::new(), None);
    while let Some(outcome) = running.next().await {
        match outcome {
            Ok(value) => done.push(value),
            Err(e) => error = error.or(Some(e)),
        }
    }
    (done, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[tokio::test]
    async fn stops_after_the_batch_that_failed() {
        let tried = Cell::new(0);
        let act = |i: usize| {
            tried.set(tried.get() + 1);
            async move { if i == 4 { Err("full") } else { Ok(i) } }
        };
        let (done, error) = slow_start(100, act).await;
        assert_eq!((tried.get(), done.len(), error), (7, 6, Some("full")), "1 + 2 + 4");
    }
}
