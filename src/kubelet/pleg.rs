//! What the runtime runs, seen pod by pod: listed once for all workers, when somebody asks, when the runtime says that
//! something happened, and every second where it has no events.
//!
//! **Invariant:** [`Pleg::fresh`] gives a list that was begun after the call.
//! **Invariant:** while there are no pods nothing is listed.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::{Notify, watch};

use super::pod::{PodInventory, keys};
use super::runtime::{EventStream, Inventory, Runtime};
use crate::util::tasks::Shutdown;

/// Between lists, where the runtime has no events. Upstream: one second.
pub const RELIST: Duration = Duration::from_secs(1);
/// Between lists, where it has. Upstream: five minutes.
pub const RELIST_WITH_EVENTS: Duration = Duration::from_secs(300);

/// A list of everything.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Requests that were made before the list was begun.
    covers: u64,
    /// What there is, by pod uid.
    pub pods: HashMap<String, Arc<PodInventory>>,
}

impl Snapshot {
    fn of(covers: u64, inventory: Inventory) -> Self {
        let mut pods: HashMap<String, PodInventory> = HashMap::new();
        let mut owners = HashMap::new();
        for s in inventory.sandboxes {
            owners.insert(s.id.clone(), s.uid.clone());
            pods.entry(s.uid.clone()).or_default().sandboxes.push(s);
        }
        for c in inventory.containers {
            let uid = c.labels.get(keys::POD_UID).or_else(|| owners.get(&c.sandbox_id)).cloned();
            if let Some(uid) = uid.filter(|u| !u.is_empty()) {
                pods.entry(uid).or_default().containers.push(c);
            }
        }
        for u in inventory.unclear.into_iter().filter(|u| !u.pod_uid.is_empty()) {
            pods.entry(u.pod_uid).or_default().unclear = Some(u.why);
        }
        Self { covers, pods: pods.into_iter().map(|(uid, p)| (uid, Arc::new(p.sorted()))).collect() }
    }

    /// One pod; nothing when the runtime has nothing of it.
    pub fn pod(&self, uid: &str) -> Arc<PodInventory> {
        self.pods.get(uid).cloned().unwrap_or_default()
    }

    /// Pods that differ between two lists.
    fn changes(&self, old: &Snapshot) -> BTreeSet<String> {
        let uids = self.pods.keys().chain(old.pods.keys());
        uids.filter(|uid| self.pods.get(*uid) != old.pods.get(*uid)).cloned().collect()
    }
}

/// Lists for all.
pub struct Pleg {
    runtime: Arc<dyn Runtime>,
    asked: AtomicU64,
    ask: Notify,
    latest: watch::Sender<Arc<Snapshot>>,
}

impl Pleg {
    /// Nothing listed yet.
    pub fn new(runtime: Arc<dyn Runtime>) -> Self {
        Self { runtime, asked: AtomicU64::new(0), ask: Notify::new(), latest: watch::Sender::default() }
    }

    /// A list that is begun after this call. Calls at the same time share one. Waits while the runtime is away.
    pub async fn fresh(&self) -> Arc<Snapshot> {
        let ticket = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        self.ask.notify_one();
        let mut latest = self.latest.subscribe();
        match latest.wait_for(|s| s.covers >= ticket).await {
            Ok(snapshot) => snapshot.clone(),
            // The sender lives in `self`, which is borrowed here.
            Err(_) => Arc::default(),
        }
    }

    /// The last list, however old.
    pub fn latest(&self) -> Arc<Snapshot> {
        self.latest.borrow().clone()
    }

    /// Follows the lists.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.latest.subscribe()
    }

    /// Lists until the shutdown. `busy` says whether there are pods to look after; `changed` hears which pods changed.
    pub async fn run(
        &self,
        shutdown: Shutdown,
        busy: impl Fn() -> bool,
        mut changed: impl FnMut(&Snapshot, BTreeSet<String>),
    ) {
        let mut events: Option<EventStream> = None;
        let mut has_events = true;
        while !shutdown.is_triggered() {
            if events.is_none() && has_events {
                match self.runtime.events().await {
                    Ok(stream) => {
                        has_events = stream.is_some();
                        events = stream;
                    }
                    Err(e) => tracing::debug!("no events of the runtime yet: {e}"),
                }
            }
            self.list(&mut changed).await;
            let period = match (&events, busy()) {
                (Some(_), _) => RELIST_WITH_EVENTS,
                (None, true) => RELIST,
                (None, false) => Duration::MAX,
            };
            let next_event = async {
                match &mut events {
                    Some(stream) => stream.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.wait() => return,
                () = self.ask.notified() => {}
                event = next_event => if event.is_none() { events = None },
                () = tokio::time::sleep(period) => {}
            }
        }
    }

    async fn list(&self, changed: &mut impl FnMut(&Snapshot, BTreeSet<String>)) {
        let covers = self.asked.load(Ordering::SeqCst);
        match self.runtime.inventory().await {
            Ok(inventory) => {
                let now = Arc::new(Snapshot::of(covers, inventory));
                let old = self.latest.send_replace(now.clone());
                let uids = now.changes(&old);
                if !uids.is_empty() {
                    changed(&now, uids);
                }
            }
            Err(e) => {
                tracing::warn!("cannot list containers: {e}");
                // Whoever asked is still waiting; try again soon, not at once.
                tokio::time::sleep(RELIST).await;
                self.ask.notify_one();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubelet::fake::FakeRuntime;
    use crate::kubelet::runtime::SandboxConfig;
    use parking_lot::Mutex;

    #[tokio::test]
    async fn a_fresh_list_has_what_happened_before_the_call() {
        let runtime = Arc::new(FakeRuntime::default());
        let pleg = Pleg::new(runtime.clone());
        let shutdown = Shutdown::new();
        let heard = Mutex::new(Vec::new());
        let work = async {
            assert!(pleg.fresh().await.pods.is_empty());
            let config = SandboxConfig { uid: "u".into(), ..SandboxConfig::default() };
            runtime.run_sandbox(&config).await.unwrap();
            let (a, b) = tokio::join!(pleg.fresh(), pleg.fresh());
            assert_eq!(a.pod("u").sandboxes.len(), 1);
            assert_eq!(b.pod("u").sandboxes.len(), 1);
            shutdown.trigger();
        };
        tokio::join!(pleg.run(shutdown.clone(), || false, |_, uids| heard.lock().extend(uids)), work);
        assert_eq!(*heard.lock(), ["u"]);
    }
}
