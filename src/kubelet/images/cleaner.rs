//! Removes images that nobody needs when their disk fills up.
//!
//! In: the runtime's images and containers, the disk, and [`Pins`]. Out: removals by [`super::plan`]. Rules: upstream
//! `image_gc_manager.go`. When an image was first seen and last used is remembered from the start of this process.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;

use super::preload::Pins;
use super::{GcPolicy, ImageUse, Plan, plan};
use crate::kubelet::disk::Filesystem;
use crate::kubelet::runtime::{Image, Inventory, Result, Runtime};
use crate::util::clock::SharedClock;
use crate::util::tasks::Shutdown;

/// Between two looks at the disk. Upstream: `ImageGCPeriod`.
const PERIOD: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, Copy)]
struct Seen {
    detected: Timestamp,
    last_used: Option<Timestamp>,
}

/// Looks after the images of a runtime.
pub struct Cleaner {
    /// The runtime.
    pub runtime: Arc<dyn Runtime>,
    /// What stays.
    pub pins: Arc<Pins>,
    /// The clock.
    pub clock: SharedClock,
    /// When to begin and where to end.
    pub policy: GcPolicy,
    /// Where images lie.
    pub root: PathBuf,
    seen: Mutex<HashMap<String, Seen>>,
}

impl Cleaner {
    /// Nothing seen yet.
    pub fn new(
        runtime: Arc<dyn Runtime>,
        pins: Arc<Pins>,
        clock: SharedClock,
        policy: GcPolicy,
        root: PathBuf,
    ) -> Self {
        Self { runtime, pins, clock, policy, root, seen: Mutex::default() }
    }

    /// Looks now and then until the shutdown; `failed` hears when too little could be removed.
    pub async fn run(&self, shutdown: &Shutdown, failed: impl Fn(String)) {
        let work = async {
            // Before that it is not known what has to stay.
            self.pins.complete().await;
            loop {
                match self.collect().await {
                    Ok(Plan { short_by: 0, .. }) => {}
                    Ok(done) => failed(format!(
                        "Failed to garbage collect required amount of images. Attempted to free {} bytes, but only found \
                         {} bytes eligible to free.",
                        done.wanted,
                        done.wanted - done.short_by
                    )),
                    Err(e) => tracing::warn!("cannot collect unused images: {e}"),
                }
                tokio::time::sleep(PERIOD).await;
            }
        };
        shutdown.or(work).await;
    }

    /// Removes by the policy.
    async fn collect(&self) -> Result<Plan> {
        let Some(disk) = Filesystem::of(&self.root) else { return Ok(Plan::default()) };
        let images = self.look().await?;
        let plan = plan(self.policy, disk.bytes, disk.bytes_available, &images, self.clock.now());
        self.remove(&plan).await;
        Ok(plan)
    }

    /// Removes all that nobody uses, the disk being in need of it; nothing while it is not known what has to stay.
    pub async fn free(&self) {
        if !self.pins.are_complete() {
            return;
        }
        let everything = GcPolicy { high_percent: 0, low_percent: 0, ..self.policy };
        match self.look().await {
            Ok(images) => self.remove(&plan(everything, u64::MAX, 0, &images, self.clock.now())).await,
            Err(e) => tracing::warn!("cannot list images: {e}"),
        }
    }

    async fn remove(&self, plan: &Plan) {
        for id in &plan.remove {
            tracing::info!(image = id, "removing an image that nobody uses");
            if let Err(e) = self.runtime.remove_image(id).await {
                tracing::warn!(image = id, "cannot remove it: {e}");
            }
        }
    }

    /// The images and their use; notes what is new and what is used now.
    async fn look(&self) -> Result<Vec<ImageUse>> {
        let (images, inventory) = tokio::try_join!(self.runtime.images(), self.runtime.inventory())?;
        let (used, now) = (used(&images, &inventory), self.clock.now());
        let mut seen = self.seen.lock();
        seen.retain(|id, _| images.iter().any(|i| i.id == *id));
        let note = |i: &Image| {
            let in_use = used.contains(i.id.as_str());
            let seen = seen.entry(i.id.clone()).or_insert(Seen { detected: now, last_used: None });
            if in_use {
                seen.last_used = Some(now);
            }
            let Seen { detected, last_used } = *seen;
            ImageUse { id: i.id.clone(), size: i.size, detected, last_used, in_use, pinned: self.pins.hold(i) }
        };
        Ok(images.iter().map(note).collect())
    }
}

/// Ids of images that a container is made of, whatever its state: one that waits for its restart needs it, too.
fn used<'a>(images: &'a [Image], inventory: &Inventory) -> HashSet<&'a str> {
    let named = |i: &Image, name: &str| i.id == name || i.tags.iter().chain(&i.digests).any(|n| n == name);
    let by = |i: &&Image| inventory.containers.iter().any(|c| named(i, &c.image_ref) || named(i, &c.image));
    images.iter().filter(by).map(|i| i.id.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubelet::fake::FakeRuntime;
    use crate::kubelet::runtime::{ContainerConfig, SandboxConfig};
    use crate::util::clock::ManualClock;

    #[tokio::test]
    async fn what_is_used_or_pinned_or_new_stays() {
        let clock = Arc::new(ManualClock::at(1000));
        let runtime = Arc::new(["used", "idle", "pause"].iter().fold(FakeRuntime::default(), |r, i| r.with_image(i)));
        let (sandbox, container) =
            (SandboxConfig::default(), ContainerConfig { image: "used".into(), ..Default::default() });
        runtime.create_container("s", &container, &sandbox).await.unwrap();
        let pins = Arc::new(Pins::new(vec!["pause".into()]));
        pins.finish();
        let cleaner = Cleaner::new(runtime.clone(), pins, clock.clone(), GcPolicy::default(), "/".into());
        cleaner.free().await;
        assert_eq!(runtime.images().await.unwrap().len(), 3, "too young");
        clock.advance(120);
        cleaner.free().await;
        let left: Vec<String> = runtime.images().await.unwrap().into_iter().flat_map(|i| i.tags).collect();
        assert_eq!(left, ["pause", "used"]);
    }
}
