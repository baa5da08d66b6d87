//! Pods that wait for a node: those to try now, those to try again soon, those for which something must happen first.
//!
//! Pure but for its memory: the time comes in with every call.
//! **Invariant:** a pod is in exactly one place.
//! Upstream: `scheduler/backend/queue`.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::metrics::Pending;
use super::pod::PodInfo;
use crate::util::backoff::Backoff;

/// A pod that nothing woke is tried again after this long, in case an event was judged wrongly.
const STUCK: Duration = Duration::from_secs(300);
/// How often stuck pods are looked for.
const STUCK_CHECK: Duration = Duration::from_secs(30);

/// The order of trying: priority first, then who waits longer.
type Turn = (Reverse<i32>, u64);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Active,
    /// Until then; after an error nobody may hurry it.
    Backoff(Instant, bool),
    /// Refused at this time.
    Unschedulable(Instant),
    /// Its scheduling gates are closed.
    Gated,
    /// Being decided or bound.
    InFlight,
}

/// A pod that waits.
#[derive(Debug)]
struct Waiting {
    pod: Arc<PodInfo>,
    place: Place,
    turn: Turn,
    /// Times that plugins refused it.
    refusals: u32,
    /// Times that something went wrong, since it was last refused.
    errors: u32,
    /// When it was last refused.
    refused_at: Option<Instant>,
    /// By which plugins.
    refused_by: Vec<&'static str>,
}

impl Waiting {
    /// How long it waits after the last attempt, where `retry` says how long after the first.
    /// Upstream: `backend/queue/backoff_queue` (`calculateBackoffDuration`).
    fn backoff(&self, retry: Backoff) -> Duration {
        retry.delay(if self.errors > 0 { self.errors } else { self.refusals })
    }
}

/// The three queues.
#[derive(Debug)]
pub struct Queue {
    /// Between attempts for one pod.
    retry: Backoff,
    pods: HashMap<Box<str>, Waiting>,
    active: BTreeSet<(Turn, Box<str>)>,
    /// By whole seconds of the end of the backoff, so that priority decides among neighbours.
    backoff: BTreeSet<(Instant, Turn, Box<str>)>,
    unschedulable: BTreeSet<Box<str>>,
    gated: BTreeSet<Box<str>>,
    entered: u64,
    checked: Option<Instant>,
}

impl Queue {
    /// An empty one, with what is to be between attempts for one pod.
    pub fn new(retry: Backoff) -> Self {
        Self {
            retry,
            pods: HashMap::new(),
            active: BTreeSet::new(),
            backoff: BTreeSet::new(),
            unschedulable: BTreeSet::new(),
            gated: BTreeSet::new(),
            entered: 0,
            checked: None,
        }
    }

    /// A pod by uid.
    pub fn get(&self, uid: &str) -> Option<&Arc<PodInfo>> {
        self.pods.get(uid).map(|w| &w.pod)
    }

    /// How many wait in all.
    pub fn len(&self) -> usize {
        self.pods.len()
    }

    /// True when nobody waits.
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }

    /// A new pod, or a new state of one that waits; the latter stays where it is, unless its gates opened or closed.
    /// `admitted` unless something is missing without which it is of no use to try.
    pub fn set(&mut self, pod: Arc<PodInfo>, admitted: bool) {
        let uid = pod.uid.clone();
        let gated = pod.gated || !admitted;
        let place = if gated { Place::Gated } else { Place::Active };
        match self.pods.get_mut(&uid) {
            None => {
                let turn = (Reverse(pod.priority), self.next_turn());
                let waiting = Waiting {
                    pod,
                    place: Place::InFlight,
                    turn,
                    refusals: 0,
                    errors: 0,
                    refused_at: None,
                    refused_by: Vec::new(),
                };
                self.pods.insert(uid.clone(), waiting);
                self.move_to(&uid, place);
            }
            Some(waiting) => {
                // What was missing is looked at again when it is tried; a gate of its own closes at once.
                let was_gated = waiting.place == Place::Gated;
                let gates_moved = if was_gated { !gated } else { pod.gated && !waiting.pod.gated };
                waiting.pod = pod;
                if gates_moved {
                    self.move_to(&uid, place);
                }
            }
        }
    }

    /// Lets those in that were kept out for want of something, and have it now.
    pub fn admit(&mut self, admitted: impl Fn(&PodInfo) -> bool) {
        let open = |uid: &str| self.pods.get(uid).is_some_and(|w| !w.pod.gated && admitted(&w.pod));
        let all: Vec<Box<str>> = self.gated.iter().filter(|uid| open(uid)).cloned().collect();
        for uid in all {
            self.move_to(&uid, Place::Active);
        }
    }

    /// It is gone, or has its node.
    pub fn remove(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        self.leave(uid);
        self.pods.remove(uid).map(|w| w.pod)
    }

    /// The pod to try now. When none is due, one that backs off after a refusal and was woken since.
    pub fn pop(&mut self, now: Instant) -> Option<Arc<PodInfo>> {
        while let Some((until, _, uid)) = self.backoff.first().cloned() {
            if until > now {
                break;
            }
            self.move_to(&uid, Place::Active);
        }
        let uid = match self.active.first() {
            Some((_, uid)) => uid.clone(),
            None => {
                let may = |uid: &str| matches!(self.pods[uid].place, Place::Backoff(_, false));
                self.backoff.iter().find(|(_, _, uid)| may(uid))?.2.clone()
            }
        };
        self.move_to(&uid, Place::InFlight);
        let waiting = self.pods.get(&uid)?;
        Some(waiting.pod.clone())
    }

    /// No node for it: it waits for an event that one of these plugins finds helpful.
    pub fn refused(&mut self, uid: &str, by: Vec<&'static str>, now: Instant) {
        let turn = self.next_turn();
        let Some(waiting) = self.pods.get_mut(uid) else { return };
        waiting.turn.1 = turn;
        // Without anybody who refused it there was nothing to ask, which counts as an error.
        (waiting.refusals, waiting.errors) = match by.is_empty() {
            true => (waiting.refusals, waiting.errors + 1),
            false => (waiting.refusals + 1, 0),
        };
        waiting.refused_by = by;
        waiting.refused_at = Some(now);
        self.move_to(uid, Place::Unschedulable(now));
    }

    /// Something went wrong on the way: it is tried again after its backoff.
    pub fn failed(&mut self, uid: &str, now: Instant) {
        if let Some(waiting) = self.pods.get_mut(uid) {
            waiting.errors += 1;
            let until = now + waiting.backoff(self.retry);
            self.move_to(uid, Place::Backoff(until, true));
        }
    }

    /// A node is promised to one that waits; an empty name takes the promise back.
    pub fn promised(&mut self, uid: &str, node: &str) {
        if let Some(waiting) = self.pods.get_mut(uid)
            && *waiting.pod.nominated != *node
        {
            waiting.pod = Arc::new(PodInfo { nominated: node.into(), ..(*waiting.pod).clone() });
        }
    }

    /// How many wait where.
    pub fn pending(&self) -> Pending {
        Pending {
            active: self.active.len(),
            backoff: self.backoff.len(),
            unschedulable: self.unschedulable.len(),
            gated: self.gated.len(),
        }
    }

    /// True where some wait for something to happen.
    pub fn has_refused(&self) -> bool {
        !self.unschedulable.is_empty()
    }

    /// Wakes those that `helps` says yes to, for one of the plugins that refused them. A pod that no plugin refused is
    /// always woken.
    pub fn wake(&mut self, now: Instant, helps: impl Fn(&str, &PodInfo) -> bool) {
        let woken = |uid: &str| {
            let waiting = &self.pods[uid];
            waiting.refused_by.is_empty() || waiting.refused_by.iter().any(|plugin| helps(plugin, &waiting.pod))
        };
        let all: Vec<Box<str>> = self.unschedulable.iter().filter(|uid| woken(uid)).cloned().collect();
        for uid in all {
            self.activate(&uid, now);
        }
    }

    /// Tries one again, when its backoff allows.
    pub fn activate(&mut self, uid: &str, now: Instant) {
        let Some(waiting) = self.pods.get(uid) else { return };
        let Place::Unschedulable(since) = waiting.place else { return };
        let until = since + waiting.backoff(self.retry);
        self.move_to(uid, if until > now { Place::Backoff(until, false) } else { Place::Active });
    }

    /// Wakes those that have been waiting for too long, now and then.
    pub fn wake_stuck(&mut self, now: Instant) {
        if self.checked.is_some_and(|at| now < at + STUCK_CHECK) {
            return;
        }
        self.checked = Some(now);
        let stuck = |uid: &str| matches!(self.pods[uid].place, Place::Unschedulable(at) if at + STUCK <= now);
        let all: Vec<Box<str>> = self.unschedulable.iter().filter(|uid| stuck(uid)).cloned().collect();
        for uid in all {
            self.activate(&uid, now);
        }
    }

    /// When to look again though nothing happened.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let backoff = self.backoff.first().map(|(until, ..)| *until);
        let stuck = (!self.unschedulable.is_empty()).then_some(self.checked.unwrap_or(now) + STUCK_CHECK);
        backoff.into_iter().chain(stuck).min()
    }

    fn next_turn(&mut self) -> u64 {
        self.entered += 1;
        self.entered
    }

    fn leave(&mut self, uid: &str) {
        let Some(waiting) = self.pods.get(uid) else { return };
        match &waiting.place {
            Place::Active => drop(self.active.remove(&(waiting.turn, uid.into()))),
            Place::Backoff(until, _) => drop(self.backoff.remove(&(*until, waiting.turn, uid.into()))),
            Place::Unschedulable(_) => drop(self.unschedulable.remove(uid)),
            Place::Gated => drop(self.gated.remove(uid)),
            Place::InFlight => {}
        }
    }

    fn move_to(&mut self, uid: &str, place: Place) {
        self.leave(uid);
        let Some(waiting) = self.pods.get_mut(uid) else { return };
        waiting.turn.0 = Reverse(waiting.pod.priority);
        match &place {
            Place::Active => drop(self.active.insert((waiting.turn, uid.into()))),
            Place::Backoff(until, _) => drop(self.backoff.insert((*until, waiting.turn, uid.into()))),
            Place::Unschedulable(_) => drop(self.unschedulable.insert(uid.into())),
            Place::Gated => drop(self.gated.insert(uid.into())),
            Place::InFlight => {}
        }
        waiting.place = place;
    }
}

#[cfg(test)]
mod tests {
    use super::super::profile::BACKOFF;
    use super::*;

    fn pod(name: &str, priority: i32) -> Arc<PodInfo> {
        Arc::new(PodInfo { uid: name.into(), name: name.into(), priority, ..PodInfo::default() })
    }

    fn pop(q: &mut Queue, now: Instant) -> String {
        q.pop(now).map(|p| p.name.to_string()).unwrap_or_default()
    }

    #[test]
    fn priority_then_age() {
        let (mut q, now) = (Queue::new(BACKOFF), Instant::now());
        for p in [pod("a", 0), pod("b", 5), pod("c", 5), pod("d", 0)] {
            q.set(p, true);
        }
        assert_eq!([(); 5].map(|()| pop(&mut q, now)), ["b", "c", "a", "d", ""]);
    }

    #[test]
    fn refused_pods_wait_for_help_and_are_hurried_when_nothing_else_is_due() {
        let (mut q, now) = (Queue::new(BACKOFF), Instant::now());
        q.set(pod("a", 0), true);
        q.set(pod("b", 9), true);
        assert_eq!(q.pending(), Pending { active: 2, ..Pending::default() });
        for name in ["b", "a"] {
            assert_eq!(pop(&mut q, now), name);
            q.refused(name, vec!["Fit"], now);
        }
        assert_eq!(q.pending(), Pending { unschedulable: 2, ..Pending::default() });
        q.wake(now, |plugin, _| plugin == "Other");
        assert_eq!(pop(&mut q, now), "");
        q.wake(now, |plugin, pod| plugin == "Fit" && &*pod.name == "a");
        assert_eq!(pop(&mut q, now), "a", "woken; nothing else is due, so it need not back off");
        q.failed("a", now);
        assert_eq!(pop(&mut q, now), "", "an error has to be waited out");
        assert_eq!(q.deadline(now), Some(now + Duration::from_secs(1)), "its first error");
        assert_eq!(pop(&mut q, now + Duration::from_secs(1)), "a");
        q.failed("a", now);
        assert_eq!(q.deadline(now), Some(now + Duration::from_secs(2)), "its second");
        assert_eq!(pop(&mut q, now + Duration::from_secs(2)), "a");
        q.refused("a", vec!["Fit"], now);
        q.wake(now, |plugin, pod| plugin == "Fit" && &*pod.name == "a");
        assert_eq!(q.deadline(now).unwrap() - now, Duration::from_secs(2), "refused twice; its errors count no more");
        assert_eq!(pop(&mut q, now), "a");
        q.failed("a", now);
        assert_eq!(q.deadline(now), Some(now + Duration::from_secs(1)), "the first error since");
        assert_eq!(pop(&mut q, now + Duration::from_secs(1)), "a");
        q.wake_stuck(now + STUCK);
        assert_eq!(pop(&mut q, now + STUCK), "b");
    }

    #[test]
    fn the_time_between_attempts_is_as_configured() {
        let second = Duration::from_secs(1);
        let (mut q, now) = (Queue::new(Backoff { base: 3 * second, cap: 5 * second }), Instant::now());
        q.set(pod("a", 0), true);
        for wait in [3, 5, 5] {
            assert_eq!(pop(&mut q, now + 100 * second), "a");
            q.failed("a", now);
            assert_eq!(q.deadline(now), Some(now + wait * second));
        }
    }

    #[test]
    fn gates_keep_a_pod_out() {
        let (mut q, now) = (Queue::new(BACKOFF), Instant::now());
        let gated = Arc::new(PodInfo { gated: true, ..(*pod("a", 0)).clone() });
        q.set(gated, true);
        assert_eq!(pop(&mut q, now), "");
        q.set(pod("a", 0), true);
        assert_eq!(pop(&mut q, now), "a");
        q.set(pod("a", 3), true);
        assert_eq!(pop(&mut q, now), "", "a new state of a pod that is being bound changes nothing");
        assert!(q.remove("a").is_some() && q.is_empty());
    }

    #[test]
    fn what_is_missing_keeps_a_pod_out_until_it_is_there() {
        let (mut q, now) = (Queue::new(BACKOFF), Instant::now());
        q.set(pod("a", 0), false);
        q.set(Arc::new(PodInfo { gated: true, ..(*pod("b", 0)).clone() }), false);
        q.admit(|_| false);
        assert_eq!(pop(&mut q, now), "");
        q.admit(|_| true);
        assert_eq!(pop(&mut q, now), "a");
        assert_eq!(pop(&mut q, now), "", "its own gates stay closed");
    }
}
