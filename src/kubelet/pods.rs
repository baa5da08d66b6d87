//! The pods of this node and their workers: who gets one, who hears of what.

use std::collections::{BTreeSet, HashMap};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::admit::{self, Site};
use super::pleg::Snapshot;
use super::pod::{PodView, keys};
use super::preemption::{self, PREEMPTED};
use super::resize::{self, Given, Pending};
use super::runtime::SandboxStatus;
use super::shared::Shared;
use super::sources::Kind;
use super::status::{Failure, FailureKind};
use super::sync::MIN_GRACE_SECONDS;
use super::volumes;
use super::worker::{Ahead, Desired, Handle, Worker};
use crate::api::object::Object;
use crate::runtime::events::EventType;
use crate::runtime::{Delta, Listers};
use crate::util::order::Arrange;
use crate::util::tasks::Shutdown;

struct Entry {
    handle: Handle,
    namespace: String,
    /// What its volumes are made of.
    references: Vec<(Kind, String)>,
    /// The pod as it is asked for, while it is not given that.
    asked: Option<Arc<PodView>>,
}

/// Why a worker ended.
struct Ended {
    uid: String,
    panicked: bool,
}

/// All workers.
pub struct Pods {
    shared: Arc<Shared>,
    entries: Mutex<HashMap<String, Entry>>,
    /// Pods that changed in the runtime and whose worker has not been told.
    news: Mutex<BTreeSet<String>>,
    bell: Notify,
    /// All pods of the API have been seen: what else runs is nobody's.
    complete: AtomicBool,
}

impl Pods {
    /// No workers yet.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            entries: Mutex::default(),
            news: Mutex::default(),
            bell: Notify::new(),
            complete: AtomicBool::new(false),
        }
    }

    /// True while there are pods to look after.
    pub fn any(&self) -> bool {
        !self.entries.lock().is_empty()
    }

    /// All workers look again: something of the node has changed.
    pub fn look_all(&self) {
        for entry in self.entries.lock().values() {
            entry.handle.wake.notify_one();
        }
    }

    /// Pods changed in the runtime.
    pub fn changed(&self, uids: BTreeSet<String>) {
        self.news.lock().extend(uids);
        self.bell.notify_one();
    }

    /// Follows the node's pods until the shutdown; then the workers stop where they are.
    pub async fn run(&self, listers: &dyn Listers, shutdown: &Shutdown) {
        let mut deltas = listers.lister("", "pods").deltas();
        let mut workers: JoinSet<Ended> = JoinSet::new();
        loop {
            tokio::select! {
                () = shutdown.wait() => return,
                delta = deltas.next() => match delta {
                    Some(Delta::Upsert { new, .. }) => self.upsert(&new, &mut workers),
                    Some(Delta::Delete(last)) => self.forget(&last),
                    Some(Delta::Synced) => {
                        self.complete.store(true, Ordering::SeqCst);
                        let running = self.shared.pleg.fresh().await;
                        self.sweep(&running, &mut workers);
                        self.changed(running.pods.keys().cloned().collect());
                    }
                    None => return,
                },
                () = self.bell.notified() => self.pass_on(&mut workers),
                Some(ended) = workers.join_next() => {
                    if let Ok(ended) = ended {
                        self.ended(ended, listers, &mut workers);
                    }
                }
            }
        }
    }

    /// Follows objects that volumes are made of.
    pub async fn follow(&self, listers: &dyn Listers, kind: Kind, shutdown: &Shutdown) {
        let mut deltas = listers.lister("", kind.plural()).deltas();
        while let Some(Some(delta)) = shutdown.or(deltas.next()).await {
            let (Delta::Upsert { new: object, .. } | Delta::Delete(object)) = delta else { continue };
            let reference = (kind, object.meta.name.clone());
            for entry in self.entries.lock().values() {
                if entry.namespace == object.meta.namespace && entry.references.contains(&reference) {
                    entry.handle.stale.store(true, Ordering::SeqCst);
                    entry.handle.wake.notify_one();
                }
            }
        }
    }

    /// The pod as bound to this node; none for pods of others.
    fn ours(&self, object: &Object) -> Option<PodView> {
        // Most pods are of other nodes: look for the name before decoding.
        if !object.mentions(&self.shared.config.node_name) {
            return None;
        }
        match PodView::from_object(object) {
            Ok(pod) => (pod.spec.node_name.as_ref() == Some(&self.shared.config.node_name)).then_some(pod),
            Err(e) => {
                tracing::error!(pod = object.meta.name, namespace = object.meta.namespace, "cannot be read: {e}");
                None
            }
        }
    }

    fn upsert(&self, object: &Object, workers: &mut JoinSet<Ended>) {
        let Some(pod) = self.ours(object) else { return };
        let pod = Arc::new(pod);
        let known = self.entries.lock().get(&pod.uid).map(|entry| entry.handle.desired.borrow().pod.clone());
        if let Some(known) = known {
            self.update(&pod, &resize::given(&known));
            self.give();
            return;
        }
        let given = if pod.start_time().is_some() { resize::remembered(&pod) } else { Given::new() };
        let (failure, ahead) = match self.judge(&pod, workers) {
            Ok(ahead) => (None, ahead),
            Err(failure) => (Some(Arc::new(failure)), Vec::new()),
        };
        let (view, pending) = self.allocate(&pod, &given);
        let asked = pending.is_some().then(|| pod.clone());
        self.start(Desired { pod: view, gone: false, failure, pending }, asked, ahead, workers);
    }

    /// Another revision of a pod that has a worker, and was given this before.
    fn update(&self, pod: &Arc<PodView>, given: &Given) {
        let (view, pending) = self.allocate(pod, given);
        let mut entries = self.entries.lock();
        let Some(entry) = entries.get_mut(&pod.uid) else { return };
        entry.references = volumes::references(pod);
        entry.asked = pending.is_some().then(|| pod.clone());
        let mut stale = false;
        entry.handle.desired.send_modify(|desired| {
            stale = volumes::tell_of(&desired.pod, &view);
            desired.pod = view;
            desired.pending = pending;
        });
        if stale {
            entry.handle.stale.store(true, Ordering::SeqCst);
            entry.handle.wake.notify_one();
        }
    }

    /// What a pod is given that was given this before: all that it asks for, where there is room, or nothing new.
    fn allocate(&self, pod: &Arc<PodView>, given: &Given) -> (Arc<PodView>, Option<Arc<Pending>>) {
        if !resize::asks_for_more_or_less(pod, given) {
            return (pod.clone(), None);
        }
        let active = self.active();
        let others: Vec<&PodView> = active.iter().map(|p| &**p).filter(|p| p.uid != pod.uid).collect();
        let Err(pending) = resize::fits(pod, &self.site(), &others) else { return (pod.clone(), None) };
        let before = self.entries.lock().get(&pod.uid).and_then(|e| e.handle.desired.borrow().pending.clone());
        if before.is_none_or(|b| *b != pending) {
            let title = format!("Pod resize {}", pending.reason);
            let message = resize::message(&title, pod, Some(&pending.message));
            self.shared.event(pod, None, EventType::Warning, &format!("Resize{}", pending.reason), message);
        }
        (Arc::new(resize::with(pod, given)), Some(Arc::new(pending)))
    }

    /// Gives pods what they wait for, now that there may be room: the more important ones first.
    fn give(&self) {
        let mut waiting: Vec<Arc<PodView>> = self.entries.lock().values().filter_map(|e| e.asked.clone()).collect();
        waiting.arrange_by_key(|pod| (std::cmp::Reverse(pod.spec.priority), pod.uid.clone()));
        for pod in waiting {
            let known = self.entries.lock().get(&pod.uid).map(|entry| entry.handle.desired.borrow().pod.clone());
            if let Some(known) = known.filter(|known| !known.is_terminal()) {
                self.update(&pod, &resize::given(&known));
            }
        }
    }

    /// Whether a pod that is new here may run, and who has to end before it does. One that was started before, or is on its
    /// way out, is not judged.
    fn judge(&self, pod: &PodView, workers: &mut JoinSet<Ended>) -> Result<Vec<Ahead>, Failure> {
        if pod.start_time().is_some() || pod.deleting() || pod.is_terminal() {
            return Ok(Vec::new());
        }
        let shared = &self.shared;
        let name = &shared.config.node_name;
        let site = self.site();
        // Those that were started by an orch before this one may not have been seen by this one yet.
        let bound = match self.complete.load(Ordering::SeqCst) {
            true => Vec::new(),
            false => shared.listers.lister("", "pods").by_index("spec.nodeName", name),
        };
        let mut others: HashMap<String, Arc<PodView>> = bound
            .iter()
            .filter_map(|o| PodView::from_object(o).ok())
            .filter(|p| p.start_time().is_some() && !p.is_terminal())
            .map(|p| (p.uid.clone(), Arc::new(p)))
            .collect();
        others.extend(self.active().into_iter().map(|p| (p.uid.clone(), p)));
        others.remove(&pod.uid);
        let all: Vec<&PodView> = others.values().map(|p| &**p).collect();
        match admit::admit(pod, &site, &all) {
            Ok(victims) => {
                let victims = victims.iter().filter_map(|uid| others.get(uid));
                Ok(victims.filter_map(|victim| self.preempt(victim, pod, workers)).collect())
            }
            Err(failure) => {
                let (reason, message) = (&failure.reason, &failure.message);
                tracing::info!(pod = pod.name, namespace = pod.namespace, reason, "{message}");
                shared.event(pod, None, EventType::Warning, reason, message.clone());
                Err(failure)
            }
        }
    }

    /// Ends a pod that has to make room for a critical one, which waits until the room is free: the victim gets its own time
    /// to stop. Nobody else gets the room meanwhile: it is promised to the critical pod from now on.
    fn preempt(&self, victim: &Arc<PodView>, critical: &PodView, workers: &mut JoinSet<Ended>) -> Option<Ahead> {
        let (reason, message) = PREEMPTED;
        tracing::info!(pod = victim.name, namespace = victim.namespace, by = critical.name, "{message}");
        self.shared.event(victim, None, EventType::Warning, reason, message);
        let (reason, message) = (reason.to_owned(), message.to_owned());
        if !self.entries.lock().contains_key(&victim.uid) {
            // An orch before this one started it, and this one has not come to it yet.
            let desired = Desired { pod: victim.clone(), gone: false, failure: None, pending: None };
            self.start(desired, None, Vec::new(), workers);
        }
        self.fail(&victim.uid, Failure { reason, message, kind: FailureKind::Preempted });
        let room = self.entries.lock().get(&victim.uid).map(|entry| entry.handle.room.clone())?;
        Some(Ahead { room, patience: preemption::patience(victim) })
    }

    /// What is known of the node.
    fn site(&self) -> Site {
        let node = self.shared.listers.lister("", "nodes").get("", &self.shared.config.node_name);
        Site { node: node.map(|n| n.value()), pressures: self.shared.pressure.borrow().clone() }
    }

    /// Pods that run, or are about to, with what they are given.
    pub fn active(&self) -> Vec<Arc<PodView>> {
        let entries = self.entries.lock();
        let desired = entries.values().map(|e| e.handle.desired.borrow());
        let runs = |d: &Desired| !d.gone && d.failure.is_none() && !d.pod.is_terminal();
        desired.filter(|d| runs(d)).map(|d| d.pod.clone()).collect()
    }

    /// True while a pod is not known to have ended.
    pub fn is_active(&self, uid: &str) -> bool {
        self.entries.lock().get(uid).is_some_and(|e| !e.handle.desired.borrow().pod.is_terminal())
    }

    /// Ends a pod for the node's reasons.
    pub fn fail(&self, uid: &str, failure: Failure) {
        if let Some(entry) = self.entries.lock().get(uid) {
            entry.handle.desired.send_modify(|d| d.failure = Some(Arc::new(failure)));
        }
    }

    fn start(&self, desired: Desired, asked: Option<Arc<PodView>>, ahead: Vec<Ahead>, workers: &mut JoinSet<Ended>) {
        let pod = desired.pod.clone();
        let (worker, handle) = Worker::new(self.shared.clone(), desired, ahead);
        let entry = Entry { handle, namespace: pod.namespace.clone(), references: volumes::references(&pod), asked };
        self.entries.lock().insert(pod.uid.clone(), entry);
        let uid = pod.uid.clone();
        workers.spawn(async move {
            let panicked = AssertUnwindSafe(worker.run()).catch_unwind().await.is_err();
            Ended { uid, panicked }
        });
    }

    fn forget(&self, last: &Object) {
        if let Some(entry) = self.entries.lock().get(&last.meta.uid) {
            entry.handle.desired.send_modify(|d| d.gone = true);
        }
        self.give();
    }

    /// Removes what is left on the disk of pods that neither the API nor the runtime knows: orch was ended in the middle of
    /// their removal.
    fn sweep(&self, running: &Snapshot, workers: &mut JoinSet<Ended>) {
        for dir in std::fs::read_dir(self.shared.pod_dir("")).into_iter().flatten().flatten() {
            let uid = dir.file_name().to_string_lossy().into_owned();
            if running.pods.contains_key(&uid) || self.entries.lock().contains_key(&uid) {
                continue;
            }
            if self.shared.csi.has(&dir.path()) {
                // A driver has to take its mounts away, and may not be there yet: a worker tries until it did.
                let pod = Arc::new(PodView::orphan(&SandboxStatus { uid, ..SandboxStatus::default() }, None));
                self.start(Desired { pod, gone: true, failure: None, pending: None }, None, Vec::new(), workers);
                continue;
            }
            let cgroup = || self.shared.cgroups.as_ref().map_or(Ok(()), |tree| tree.remove_pod(&uid));
            match volumes::teardown(&dir.path()).and_then(|()| cgroup()) {
                Ok(()) => tracing::info!(uid, "removed what was left of a pod"),
                Err(e) => tracing::warn!(uid, "cannot remove what is left of a pod: {e}"),
            }
        }
    }

    /// Wakes the workers of pods that changed in the runtime; pods that nobody wants get a worker that ends them.
    fn pass_on(&self, workers: &mut JoinSet<Ended>) {
        let uids = std::mem::take(&mut *self.news.lock());
        let mut unknown = Vec::new();
        {
            let entries = self.entries.lock();
            for uid in uids {
                match entries.get(&uid) {
                    Some(entry) => entry.handle.wake.notify_one(),
                    None => unknown.push(uid),
                }
            }
        }
        if !self.complete.load(Ordering::SeqCst) {
            return;
        }
        for uid in unknown {
            let latest = self.shared.pleg.latest().pod(&uid);
            let Some(sandbox) = latest.sandboxes.first() else { continue };
            tracing::info!(
                pod = sandbox.name,
                namespace = sandbox.namespace,
                uid,
                "nobody wants it any more; stopping it"
            );
            let grace = sandbox.annotations.get(keys::GRACE).and_then(|g| g.parse().ok()).or(Some(MIN_GRACE_SECONDS));
            let pod = Arc::new(PodView::orphan(sandbox, grace));
            self.start(Desired { pod, gone: true, failure: None, pending: None }, None, Vec::new(), workers);
        }
    }

    fn ended(&self, ended: Ended, listers: &dyn Listers, workers: &mut JoinSet<Ended>) {
        self.entries.lock().remove(&ended.uid);
        self.give();
        if ended.panicked {
            tracing::error!(uid = ended.uid, "its worker panicked, starting it again; this is a bug in orch");
            let name = &self.shared.config.node_name;
            let pods = listers.lister("", "pods").by_index("spec.nodeName", name);
            if let Some(object) = pods.iter().find(|p| p.meta.uid == ended.uid) {
                self.upsert(object, workers);
            }
        }
    }
}
