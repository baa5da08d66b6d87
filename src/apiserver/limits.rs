//! What requests from outside may take of the server: how many bytes of bodies, how long. How many at once, and whose, is
//! said by `flow`.
//!
//! **Invariant:** bodies in memory never exceed [`BODY_BYTES`] and [`SMALL_BYTES`] for each of [`REQUESTS`], whatever
//! clients send; those of whom nothing is kept waiting (`system:masters`) are as many as their connections. Only large bodies wait for room, so that clients which send those slowly stop nobody else.

use std::future::Future;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

use super::body::MAX_BODY_BYTES;
use crate::api::status::{ApiResult, Reason, Status};

/// Seats of requests at once. Upstream: 400 that read and 200 that write.
pub const REQUESTS: usize = 600;
/// Bytes of large bodies that are being read or worked on, all together.
pub const BODY_BYTES: usize = 96 << 20;
/// A body of at most so many bytes is none of these.
pub const SMALL_BYTES: usize = 64 << 10;
/// How long a request may take, its body included. Upstream: `--request-timeout`.
pub const REQUEST_TIME: Duration = Duration::from_secs(60);

/// Bytes that one permit stands for.
const UNIT: usize = 1 << 10;

/// The places.
pub struct Limits {
    bodies: Semaphore,
    time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self::new(BODY_BYTES, REQUEST_TIME)
    }
}

impl Limits {
    fn new(bodies: usize, time: Duration) -> Self {
        Self { bodies: Semaphore::new(bodies / UNIT), time }
    }

    /// Does a short request within its time; 504 otherwise.
    pub async fn within<T>(&self, work: impl Future<Output = ApiResult<T>>) -> ApiResult<T> {
        match tokio::time::timeout(self.time, work).await {
            Ok(done) => done,
            Err(_) => {
                Err(Status::new(Reason::Timeout, "Timeout: request did not complete within the allotted timeout")
                    .with_details(serde_json::json!({})))
            }
        }
    }

    /// Room for a body, until the permit is dropped; none is needed for a small one. `bytes` is its length where it is
    /// known.
    pub async fn body(&self, bytes: Option<u64>) -> Option<SemaphorePermit<'_>> {
        let bytes = bytes.and_then(|b| usize::try_from(b).ok()).unwrap_or(MAX_BODY_BYTES).min(MAX_BODY_BYTES);
        if bytes <= SMALL_BYTES {
            return None;
        }
        self.bodies.acquire_many(bytes.div_ceil(UNIT) as u32).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_takes_too_long_is_refused() {
        let limits = Limits::new(BODY_BYTES, Duration::from_millis(5));
        let slow = limits.within(std::future::pending::<ApiResult<()>>()).await.unwrap_err();
        assert_eq!((slow.code, slow.reason), (504, Reason::Timeout));
        assert!(limits.within(async { Ok(()) }).await.is_ok());
    }

    #[tokio::test]
    async fn large_bodies_share_what_there_is() {
        let limits = Limits::new(MAX_BODY_BYTES + UNIT, REQUEST_TIME);
        let large = Some(SMALL_BYTES as u64 + 1);
        let unknown = limits.body(None).await.expect("room");
        assert!(limits.body(Some(7)).await.is_none(), "a small one needs none");
        assert!(tokio::time::timeout(Duration::from_millis(1), limits.body(large)).await.is_err(), "all is taken");
        drop(unknown);
        let _read = limits.body(Some(u64::MAX)).await.expect("a body that is too large is read to be refused");
    }
}
