//! Priority and fairness: each request takes seats of its priority level, waits for them, or is refused.
//!
//! In: who asks for what, and the stored FlowSchemas and PriorityLevelConfigurations. Out: a permit that is held while the
//! request is worked on, or 429. Requests of the same process need none, and long-running ones hold none (a watch holds one
//! until it begins).
//!
//! **Invariant:** a request that finds a free seat allocates nothing and takes one lock, twice, for a moment; nothing is
//! locked while somebody waits.
//! **Invariant:** one client's requests, however many, do not keep another's waiting for all of them.
//!
//! Rules: upstream `apiserver/pkg/server/filters/priority-and-fairness.go` and `apiserver/pkg/util/flowcontrol`.

mod classify;
mod config;
mod follow;
mod seats;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::{HeaderName, HeaderValue};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::oneshot;

use crate::api::user::{Attributes, UserInfo};
use crate::util::prometheus::family;

use super::limits::REQUESTS;
use super::respond::{self, Answer};
use classify::{By, Schema};
use seats::{Entry, Seats};

pub use follow::Follower;

/// How long a request waits for seats. Upstream: a quarter of its time.
const WAIT: Duration = Duration::from_secs(15);
/// What a refused client is told to wait, seconds.
const RETRY_AFTER: &str = "1";
/// Objects of a list that make a seat. Upstream's.
const OBJECTS_PER_SEAT: usize = 100;
/// Seats of one request at most. Upstream's.
const SEATS_MAX: usize = 10;
const SCHEMA_HEADER: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL_HEADER: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

/// Counts of one schema.
#[derive(Default)]
struct Counts {
    dispatched: AtomicU64,
    /// Why, and how often.
    refused: [AtomicU64; 3],
    /// Requests that waited, and microseconds of that.
    waited: AtomicU64,
    waited_micros: AtomicU64,
}

/// Reasons of refusals.
const REASONS: [&str; 3] = ["concurrency-limit", "queue-full", "time-out"];

/// A schema, and where it leads.
struct Class {
    schema: Schema,
    /// The place of its level; none where there are no bounds.
    level: Option<usize>,
    headers: [HeaderValue; 2],
    counts: Arc<Counts>,
}

/// The state of it all.
pub(super) struct Flow {
    classes: ArcSwap<Vec<Arc<Class>>>,
    seats: Mutex<Seats>,
}

/// A request that may be worked on; its seats are free again when this is dropped.
pub(super) struct Admitted {
    class: Arc<Class>,
    _permit: Option<Permit>,
}

impl Admitted {
    /// Says in an answer which schema and level the request was of.
    pub(super) fn mark(&self, answer: &mut Answer) {
        mark(&self.class, answer);
    }
}

fn mark(class: &Class, answer: &mut Answer) {
    let [schema, level] = &class.headers;
    answer.headers_mut().insert(SCHEMA_HEADER, schema.clone());
    answer.headers_mut().insert(LEVEL_HEADER, level.clone());
}

/// Seats that are taken.
struct Permit {
    flow: Arc<Flow>,
    level: usize,
    queue: usize,
    seats: usize,
    since: Instant,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.flow.seats.lock().leave(self.level, self.queue, self.seats, self.since.elapsed().as_secs_f64());
    }
}

/// One that waits: whoever goes away before its turn is taken out, and what it got in that moment is given back.
struct Waiting {
    flow: Arc<Flow>,
    level: usize,
    id: u64,
    seats: usize,
    woken: oneshot::Receiver<usize>,
    done: bool,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.done || self.flow.seats.lock().give_up(self.level, self.id) {
            return;
        }
        if let Ok(queue) = self.woken.try_recv() {
            self.flow.seats.lock().leave(self.level, queue, self.seats, 0.0);
        }
    }
}

impl Default for Flow {
    /// With what every cluster has from the start.
    fn default() -> Self {
        let flow = Self { classes: ArcSwap::default(), seats: Mutex::default() };
        let first = crate::registry::first_objects();
        let of = |plural: &str| -> Vec<Value> {
            first.iter().filter(|(p, _)| *p == plural).map(|(_, o)| o.clone()).collect()
        };
        flow.take(config::plan(&of("prioritylevelconfigurations"), &of("flowschemas"), &first, REQUESTS));
        flow
    }
}

impl Flow {
    /// Decides by another plan from now on.
    fn take(&self, plan: config::Plan) {
        let bounded: Vec<(&String, seats::Bounds)> =
            plan.levels.iter().filter_map(|(name, l)| Some((name, l.bounds.clone()?))).collect();
        let bounds: Vec<seats::Bounds> = bounded.iter().map(|(_, b)| b.clone()).collect();
        let places = self.seats.lock().configure(&bounds);
        let before = self.classes.load();
        let value = |uid: &str| HeaderValue::from_str(uid).unwrap_or_else(|_| HeaderValue::from_static(""));
        let made = plan.schemas.into_iter().map(|schema| {
            let place = bounded.iter().position(|(name, _)| **name == schema.level).map(|i| places[i]);
            let known = before.iter().find(|c| c.schema.name == schema.name && c.schema.level == schema.level);
            let level_uid = plan.levels.get(&schema.level).map_or("", |l| &*l.uid);
            Arc::new(Class {
                level: place,
                headers: [value(&schema.uid), value(level_uid)],
                counts: known.map_or_else(Arc::default, |c| c.counts.clone()),
                schema,
            })
        });
        self.classes.store(Arc::new(made.collect()));
    }

    /// Waits until a request may be worked on.
    ///
    /// # Errors
    /// The answer that refuses it.
    pub(super) async fn admit(
        self: &Arc<Self>,
        user: &UserInfo,
        a: &Attributes,
        seats: usize,
    ) -> Result<Option<Admitted>, Answer> {
        let found = self.classes.load().iter().find(|c| c.schema.matches(user, a)).cloned();
        // The last schema takes everybody.
        let Some(class) = found else { return Ok(None) };
        let Some(level) = class.level else {
            class.counts.dispatched.fetch_add(1, Relaxed);
            return Ok(Some(Admitted { class, _permit: None }));
        };
        let entry = self.seats.lock().enter(level, hash(&class, user, a), seats);
        let queue = match entry {
            Entry::Run(queue) => Ok(queue),
            Entry::Refused(why) => Err(why),
            Entry::Wait(id, woken) => {
                let waiting = Waiting { flow: self.clone(), level, id, seats, woken, done: false };
                class.wait(waiting).await.ok_or("time-out")
            }
        };
        match queue {
            Ok(queue) => {
                class.counts.dispatched.fetch_add(1, Relaxed);
                let permit = Permit { flow: self.clone(), level, queue, seats, since: Instant::now() };
                Ok(Some(Admitted { class, _permit: Some(permit) }))
            }
            Err(why) => {
                let reason = REASONS.iter().position(|r| *r == why).unwrap_or(0);
                class.counts.refused[reason].fetch_add(1, Relaxed);
                Err(refusal(&class))
            }
        }
    }

    /// Figures in Prometheus' text form.
    pub(super) fn render(&self) -> String {
        const PREFIX: &str = "apiserver_flowcontrol";
        let mut out = String::new();
        let levels = self.seats.lock().figures();
        type Gauge = (&'static str, &'static str, fn(&seats::Figures) -> usize);
        let gauges: [Gauge; 4] = [
            ("nominal_limit_seats", "Seats of a level.", |f| f.nominal),
            ("current_executing_seats", "Seats in use.", |f| f.executing),
            ("current_executing_requests", "Requests that are worked on, by their seats.", |f| f.executing),
            ("current_inqueue_requests", "Requests that wait.", |f| f.waiting),
        ];
        for (name, help, of) in gauges {
            let rows = levels.iter().map(|level| (format!("{{priority_level=\"{}\"}}", level.name), of(level)));
            family(&mut out, &format!("{PREFIX}_{name}"), "gauge", help, rows);
        }
        let classes = self.classes.load();
        let labels = |c: &Class| format!("priority_level=\"{}\",flow_schema=\"{}\"", c.schema.level, c.schema.name);
        let mut of_classes = |name: &str, kind: &str, help: &str, rows: &dyn Fn(&Class) -> Vec<(String, f64)>| {
            family(&mut out, &format!("{PREFIX}_{name}"), kind, help, classes.iter().flat_map(|c| rows(c)));
        };
        let count = |n: &AtomicU64| n.load(Relaxed) as f64;
        of_classes("dispatched_requests_total", "counter", "Requests that were worked on.", &|c| {
            vec![(format!("{{{}}}", labels(c)), count(&c.counts.dispatched))]
        });
        of_classes("rejected_requests_total", "counter", "Requests that were refused.", &|c| {
            let refused = REASONS.iter().zip(&c.counts.refused).filter(|(_, n)| n.load(Relaxed) > 0);
            refused.map(|(reason, n)| (format!("{{{},reason=\"{reason}\"}}", labels(c)), count(n))).collect()
        });
        let help = "Time that requests waited, of those that did.";
        of_classes("request_wait_duration_seconds", "summary", help, &|c| {
            let part = |suffix: &str| format!("{suffix}{{{}}}", labels(c));
            vec![(part("_sum"), count(&c.counts.waited_micros) / 1e6), (part("_count"), count(&c.counts.waited))]
        });
        out
    }
}

impl Class {
    /// Waits for the turn: the queue; none when the time is over.
    async fn wait(&self, mut waiting: Waiting) -> Option<usize> {
        let since = Instant::now();
        let turn = tokio::time::timeout(WAIT, &mut waiting.woken).await;
        self.counts.waited.fetch_add(1, Relaxed);
        let micros = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.counts.waited_micros.fetch_add(micros, Relaxed);
        let queue = turn.ok()?.ok()?;
        waiting.done = true;
        Some(queue)
    }
}

/// What stands for a flow: a schema, and what it tells flows apart by.
fn hash(class: &Class, user: &UserInfo, a: &Attributes) -> u64 {
    let mut hasher = DefaultHasher::new();
    class.schema.name.hash(&mut hasher);
    match class.schema.by {
        By::Nothing => {}
        By::User => user.name.hash(&mut hasher),
        By::Namespace => a.namespace.hash(&mut hasher),
    }
    hasher.finish()
}

/// Seats of a list of so many objects. Upstream: `listWorkEstimator`.
pub(super) fn seats_of_list(objects: usize) -> usize {
    objects.div_ceil(OBJECTS_PER_SEAT).clamp(1, SEATS_MAX)
}

/// Upstream's 429, which is a line of text.
fn refusal(class: &Class) -> Answer {
    let mut answer = respond::text(429, "Too many requests, please try again later.\n");
    answer.headers_mut().insert(http::header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
    mark(class, &mut answer);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apiserver::request::RequestInfo;
    use serde_json::json;

    fn small() -> Arc<Flow> {
        let level = |name: &str, shares: i64, queuing: Value| {
            json!({"metadata": {"name": name}, "spec": {"type": "Limited", "limited": {
                "nominalConcurrencyShares": shares, "limitResponse": queuing}}})
        };
        let everybody = json!([{"subjects": [{"kind": "Group", "group": {"name": "*"}}], "resourceRules": [
            {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]}]}]);
        let schema = json!({"metadata": {"name": "all", "uid": "u1"}, "spec": {"matchingPrecedence": 5, "rules": everybody,
            "priorityLevelConfiguration": {"name": "one"}, "distinguisherMethod": {"type": "ByUser"}}});
        let queuing = json!({"type": "Queue", "queuing": {"queues": 16, "handSize": 2, "queueLengthLimit": 3}});
        let flow = Flow::default();
        flow.take(config::plan(&[level("one", 1, queuing)], &[schema], &[], 1));
        Arc::new(flow)
    }

    fn pods() -> Attributes {
        RequestInfo::parse(&http::Method::GET, "/api/v1/pods", "").attributes
    }

    #[tokio::test]
    async fn seats_come_back_and_who_is_too_much_is_told_when_to_come_again() {
        let (flow, a) = (small(), pods());
        let joe = UserInfo::authenticated("joe", &[]);
        let first = flow.admit(&joe, &a, 1).await.ok().flatten().unwrap();
        let mut waiting = Vec::new();
        let refused = loop {
            let next = flow.admit(&joe, &a, 1);
            let mut next = Box::pin(next);
            match futures::poll!(next.as_mut()) {
                std::task::Poll::Pending => waiting.push(next),
                std::task::Poll::Ready(Err(answer)) => break answer,
                std::task::Poll::Ready(Ok(_)) => panic!("the seat is taken"),
            }
        };
        assert_eq!((waiting.len(), refused.status().as_u16()), (6, 429), "two queues of three");
        assert_eq!(refused.headers()["retry-after"], "1");
        assert_eq!(refused.headers()["x-kubernetes-pf-flowschema-uid"], "u1");
        drop(first);
        // They come in turn, and each makes room for the next; one that goes away before its turn is passed over.
        drop(waiting.remove(0));
        let turns = waiting.into_iter().map(|next| async move { next.await.is_ok() });
        assert_eq!(futures::future::join_all(turns).await, [true; 5]);
        assert_eq!(flow.seats.lock().figures().iter().map(|f| f.executing + f.waiting).sum::<usize>(), 0);
        let text = flow.render();
        assert!(text.contains("apiserver_flowcontrol_rejected_requests_total{priority_level=\"one\",flow_schema=\"all\",reason=\"queue-full\"} 1"), "{text}");
    }

    /// A thousand requests of one client stand before one of another's: it is answered after a few of them.
    #[tokio::test]
    async fn a_thousand_connections_of_one_client_do_not_starve_another() {
        let flow = Arc::new(Flow::default());
        let a = pods();
        let greedy = UserInfo::authenticated("greedy", &[]);
        let (mut running, mut waiting, mut refused) = (Vec::new(), Vec::new(), 0);
        for _ in 0..1000 {
            let mut next = Box::pin(flow.admit(&greedy, &a, 1));
            match futures::poll!(next.as_mut()) {
                std::task::Poll::Ready(Ok(admitted)) => running.push(admitted),
                std::task::Poll::Ready(Err(_)) => refused += 1,
                std::task::Poll::Pending => waiting.push(next),
            }
        }
        assert_eq!(running.len() + waiting.len() + refused, 1000);
        assert!(running.len() < REQUESTS && waiting.len() <= 6 * 50 && refused > 0);
        // Another level has seats that nobody borrows.
        let node = UserInfo::authenticated("system:node:n", &["system:nodes"]);
        let mut heartbeat = Box::pin(flow.admit(&node, &a, 1));
        assert!(futures::poll!(heartbeat.as_mut()).is_ready());
        // In the same level: not behind all that waited before.
        let polite = UserInfo::authenticated("polite", &[]);
        let mut one = Box::pin(flow.admit(&polite, &a, 1));
        let mut left = 0;
        while futures::poll!(one.as_mut()).is_pending() {
            assert!(running.pop().is_some(), "it waits for all of them");
            left += 1;
        }
        assert!(left <= 16, "it waited for {left} of a thousand");
    }

    #[test]
    fn long_lists_take_more_seats() {
        assert_eq!([0, 1, 100, 101, 50_000].map(seats_of_list), [1, 1, 1, 2, 10]);
    }
}
