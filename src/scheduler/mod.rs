//! The scheduler: gives each pod that has no node the best one.
//!
//! In: pods, nodes and what belongs to them, by listers. Out: bindings, conditions, events, and deletions of victims,
//! through the client. The flow: deltas change [`cluster`] and [`queue`]; the next pod of the queue is decided by
//! [`cycle`] with the [`plugins`]; [`worker`] acts on the decision and goes on without waiting for the answer.
//! **Invariant:** decisions are made one after another on a state that has all earlier ones in it.
//! **Invariant:** a pod that is assumed to be on a node counts there until its binding is seen, or fails.

pub mod answers;
pub mod cluster;
pub mod config;
pub mod counts;
pub mod cycle;
#[cfg(test)]
mod cycle_tests;
#[cfg(test)]
mod device_tests;
pub mod devices;
pub mod domains;
pub mod framework;
pub mod metrics;
mod order;
pub mod plugins;
pub mod pod;
pub mod preempt;
pub mod profile;
mod provide;
pub mod queue;
mod raw;
mod requests;
mod reserve;
pub mod resources;
pub mod scores;
pub mod side;
#[cfg(test)]
mod storage_tests;
pub mod terms;
pub mod volumes;
mod worker;
#[cfg(test)]
mod worker_tests;
mod write;

use std::sync::Arc;

use futures::FutureExt;
use futures::future::Either;
use futures::stream::{self, BoxStream, StreamExt};

use crate::client::Client;
use crate::runtime::{Delta, Listers, events};
use crate::util::clock::SharedClock;
use crate::util::tasks::Shutdown;
use metrics::Metrics;
use profile::Profiles;

/// The component's name, as field manager. In events it goes by the name of the profile, as upstream does.
pub const COMPONENT: &str = "kube-scheduler";
/// Deltas taken before the next pod is looked at.
const DELTAS_AT_ONCE: usize = 4096;

/// What the scheduler has to be told.
#[derive(Debug, Clone)]
pub struct Config {
    /// Writes that may be on their way at once; further decisions wait.
    pub writes_in_flight: usize,
    /// The schedulers that pods may name.
    pub profiles: Profiles,
    /// Where it counts what it does.
    pub metrics: Arc<Metrics>,
}

impl Default for Config {
    fn default() -> Self {
        Self { writes_in_flight: 512, profiles: Profiles::default(), metrics: Arc::default() }
    }
}

/// The scheduler, not yet running.
pub struct Scheduler {
    config: Config,
    listers: Arc<dyn Listers>,
    client: Client,
    clock: SharedClock,
}

/// What a delta is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Topic {
    Pods,
    Nodes,
    Namespaces,
    Services,
    Storage,
    Attachments,
    Slices,
    DeviceClasses,
    Claims,
}

/// Resources that are followed, with what they matter for.
const FOLLOWED: &[(Topic, &str, &str)] = &[
    (Topic::Nodes, "", "nodes"),
    (Topic::Namespaces, "", "namespaces"),
    (Topic::Services, "", "services"),
    (Topic::DeviceClasses, "resource.k8s.io", "deviceclasses"),
    (Topic::Slices, "resource.k8s.io", "resourceslices"),
    (Topic::Claims, "resource.k8s.io", "resourceclaims"),
    (Topic::Pods, "", "pods"),
    (Topic::Storage, "", "persistentvolumeclaims"),
    (Topic::Storage, "", "persistentvolumes"),
    (Topic::Storage, "storage.k8s.io", "storageclasses"),
    (Topic::Storage, "storage.k8s.io", "csinodes"),
    (Topic::Storage, "storage.k8s.io", "csistoragecapacities"),
    (Topic::Attachments, "storage.k8s.io", "volumeattachments"),
];

impl Scheduler {
    /// `client` is who the scheduler is (`system:kube-scheduler`).
    pub fn new(config: Config, listers: Arc<dyn Listers>, client: Client, clock: SharedClock) -> Self {
        Self { config, listers, client: client.named(COMPONENT), clock }
    }

    /// Schedules until the shutdown. What is on its way then is finished by the API server, or tried again after the
    /// next start.
    pub async fn run(self, shutdown: Shutdown) {
        let (recorder, writer) = events::recorder(self.client.clone(), COMPONENT, "", self.clock.clone());
        let followed = FOLLOWED.iter().map(|(topic, group, resource)| {
            let topic = *topic;
            self.listers.lister(group, resource).deltas().map(move |delta| (topic, delta)).boxed()
        });
        let deltas = stream::select_all(followed);
        let worker = worker::Worker::new(&self, recorder);
        let work = follow(worker, deltas, shutdown.clone());
        futures::pin_mut!(work);
        let writing = writer.run(shutdown);
        futures::pin_mut!(writing);
        // Events are written beside the work; whoever ends first waits for the other.
        match futures::future::select(work, writing).await {
            Either::Left(((), writing)) => writing.await,
            Either::Right(((), work)) => work.await,
        }
    }
}

/// Takes what happened, decides, and waits for more.
async fn follow(
    mut worker: worker::Worker,
    mut deltas: stream::SelectAll<BoxStream<'static, (Topic, Delta)>>,
    shutdown: Shutdown,
) {
    let mut unsynced = FOLLOWED.len();
    loop {
        for _ in 0..DELTAS_AT_ONCE {
            match deltas.next().now_or_never() {
                Some(Some((_, Delta::Synced))) => unsynced -= 1,
                Some(Some((topic, delta))) => worker.take(topic, delta),
                Some(None) => return,
                None => break,
            }
        }
        worker.settle();
        if unsynced == 0 && worker.decide_next() {
            if shutdown.is_triggered() {
                return;
            }
            // Gives the runtime a chance: decisions alone never wait.
            tokio::task::yield_now().await;
            continue;
        }
        tokio::select! {
            biased;
            () = shutdown.wait() => return,
            () = worker.wait() => {}
            delta = deltas.next() => match delta {
                Some((_, Delta::Synced)) => unsynced -= 1,
                Some((topic, delta)) => worker.take(topic, delta),
                None => return,
            },
        }
    }
}
