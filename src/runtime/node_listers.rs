//! Listers of a node elsewhere: what the Node authorizer lets it see, and no more.
//!
//! Pods are those of the node. ConfigMaps and Secrets are followed one by one, those that its pods name; all else whole.
//!
//! **Invariant:** a pod is seen only after everything that it names was looked for, and after the Services, of which its
//! environment is made: a lister without a ConfigMap means that there is none.
//! **Invariant:** what was kept from before is only shown while no server has told of all pods; from then on the truth
//! stands in its place, and a pod that is another one of the same name is seen to go first.
//! **Invariant:** kept pods are never said to be all there are, so nothing ends for their sake; what the network is made of
//! is, because rules, names and routes of yesterday are better than none.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::fields;
use super::informer::{self, Informers, RemoteListers, Sink, Source};
use super::kept::{Known, Part};
use super::lister::{Delta, Lister, Listers};
use super::objects::Objects;
use super::references::{Reference, references};
use crate::api::object::{Object, ObjectKey};
use crate::client::{Client, res};
use crate::util::tasks::Shutdown;

/// Watches of single objects on one connection: servers allow 250 requests on one, and others need some.
const PER_CONNECTION: usize = 100;

/// Makes a client with a connection of its own.
pub type Connect = Arc<dyn Fn() -> Client + Send + Sync>;

/// What a node knew before it was started without a server.
#[derive(Debug, Default)]
pub struct Before {
    /// Its pods and what they name.
    pub pods: Option<Known>,
    /// What its network is made of.
    pub network: Option<Known>,
}

/// Listers of a node.
pub struct NodeListers {
    others: Arc<RemoteListers>,
    pods: Arc<Objects>,
    config_maps: Arc<Objects>,
    secrets: Arc<Objects>,
}

/// Fills [`NodeListers`].
pub struct NodeInformers {
    others: Informers,
    gate: Gate,
    services: watch::Receiver<bool>,
    client: Client,
    pods: Source,
}

impl NodeListers {
    /// For the node `name`; `connect` makes clients for the many small watches. `before` is shown until a server answers.
    pub fn new(name: &str, connect: Connect, before: &Before) -> (Arc<Self>, NodeInformers) {
        let client = connect();
        let (others, informers) = RemoteListers::new(client.clone(), Vec::new());
        let made = |plural: &str| Objects::new(fields::indexed("", plural));
        let (pods, config_maps, secrets) = (made("pods"), made("configmaps"), made("secrets"));
        config_maps.set_synced();
        secrets.set_synced();
        let services = others.objects("", "services").told();
        let mut gate = Gate {
            pods: pods.clone(),
            named: HashMap::from([("configmaps", config_maps.clone()), ("secrets", secrets.clone())]),
            followed: HashMap::new(),
            waiting: BTreeMap::new(),
            by_pod: BTreeMap::new(),
            connect,
            clients: Vec::new(),
            all_told: false,
            kept: BTreeMap::new(),
        };
        if let Some(known) = &before.pods {
            show(&others, Part::Pods, known);
            gate.show(known);
        }
        if let Some(known) = &before.network {
            // What there was of the network is all of it, until somebody knows better: rules, names and routes are made.
            show(&others, Part::Network, known).into_iter().for_each(|objects| objects.set_synced());
        }
        let pods_of_node = Source::fields(&res::PODS, format!("spec.nodeName={name}"));
        let informers = NodeInformers { others: informers, gate, services, client, pods: pods_of_node };
        (Arc::new(Self { others, pods, config_maps, secrets }), informers)
    }
}

/// Shows objects of the kinds that are followed whole.
fn show(others: &RemoteListers, part: Part, known: &Known) -> Vec<Arc<Objects>> {
    let whole = part.kinds().iter().filter(|(_, plural)| Part::Network.kinds().iter().any(|(_, p)| p == plural));
    whole
        .map(|(group, plural)| {
            let objects = others.objects(group, plural);
            objects.preload(known.of(plural, &objects.pointers()));
            objects
        })
        .collect()
}

impl Listers for NodeListers {
    fn lister(&self, group: &str, resource: &str) -> Arc<dyn Lister> {
        match (group, resource) {
            ("", "pods") => self.pods.clone(),
            ("", "configmaps") => self.config_maps.clone(),
            ("", "secrets") => self.secrets.clone(),
            _ => self.others.lister(group, resource),
        }
    }
}

impl NodeInformers {
    /// Follows until the shutdown.
    pub async fn run(self, shutdown: Shutdown) {
        let staging = Objects::new(fields::indexed("", "pods"));
        let deltas = staging.deltas();
        tokio::join!(
            self.others.run(shutdown.clone()),
            informer::follow(&self.client, &self.pods, &*staging, &shutdown),
            self.gate.run(deltas, self.services, &shutdown),
        );
    }
}

/// A followed object: how many pods name it, and whether it was looked for.
struct Followed {
    pods: usize,
    seen: bool,
    stop: Shutdown,
    connection: usize,
}

/// Lets pods through once what they name is known.
struct Gate {
    pods: Arc<Objects>,
    named: HashMap<&'static str, Arc<Objects>>,
    followed: HashMap<Reference, Followed>,
    /// Pods that wait, with what they wait for.
    waiting: BTreeMap<ObjectKey, (Arc<Object>, BTreeSet<Reference>)>,
    /// What each pod names.
    by_pod: BTreeMap<ObjectKey, BTreeSet<Reference>>,
    connect: Connect,
    /// Connections and the watches on each.
    clients: Vec<(Client, usize)>,
    /// All pods that there were at the start have been told.
    all_told: bool,
    /// Objects that were kept and that no server has told of yet.
    kept: BTreeMap<&'static str, BTreeSet<ObjectKey>>,
}

impl Gate {
    async fn run(
        mut self,
        mut pods: futures::stream::BoxStream<'static, Delta>,
        mut services: watch::Receiver<bool>,
        shutdown: &Shutdown,
    ) {
        // The end of their source is the end of all.
        let _ = shutdown.or(services.wait_for(|told| *told)).await;
        // One word for each object that is followed.
        let (seen, mut news) = mpsc::unbounded_channel();
        let mut running = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = shutdown.wait() => break,
                delta = pods.next() => match delta {
                    Some(Delta::Upsert { new, .. }) => {
                        for (reference, client, stop) in self.upsert(new) {
                            let one = One { reference, objects: Arc::new(Mutex::new(None)), to: self.named.clone(), seen: seen.clone() };
                            running.push(one.follow(client, stop));
                        }
                    }
                    Some(Delta::Delete(last)) => self.delete(last),
                    Some(Delta::Synced) => {
                        self.all_told = true;
                        self.forget_kept();
                    }
                    None => break,
                },
                Some(reference) = news.recv() => self.seen(&reference),
                Some(()) = running.next(), if !running.is_empty() => {}
            }
            if self.all_told && self.waiting.is_empty() {
                self.pods.set_synced();
            }
        }
        self.followed.values().for_each(|f| f.stop.trigger());
        while running.next().await.is_some() {}
        self.pods.close();
        self.named.values().for_each(|objects| objects.close());
    }

    /// Shows what was kept, what the pods name first.
    fn show(&mut self, known: &Known) {
        for (plural, objects) in
            [("configmaps", &self.named["configmaps"]), ("secrets", &self.named["secrets"]), ("pods", &self.pods)]
        {
            for object in known.of(plural, &objects.pointers()) {
                self.kept.entry(plural).or_default().insert(ObjectKey::from(&object.meta));
                objects.upsert(object);
            }
        }
    }

    /// All pods have been told of: what else was kept is gone.
    fn forget_kept(&mut self) {
        for (plural, keys) in std::mem::take(&mut self.kept) {
            for key in keys {
                let reference = Reference { plural, namespace: key.namespace.to_string(), name: key.name.to_string() };
                match plural {
                    "pods" if !self.by_pod.contains_key(&key) => self.pods.delete(&key),
                    "pods" => {}
                    _ if !self.followed.contains_key(&reference) => self.named[plural].delete(&key),
                    _ => {}
                }
            }
        }
    }

    /// Lets a pod be seen. Another one of its name was kept, or its end was not heard of: that one goes first.
    fn reveal(&self, pod: Arc<Object>) {
        let key = ObjectKey::from(&pod.meta);
        if self.pods.get(&key.namespace, &key.name).is_some_and(|known| known.meta.uid != pod.meta.uid) {
            self.pods.delete(&key);
        }
        self.pods.upsert(pod);
    }

    /// Takes a pod in; gives what has to be followed from now on.
    fn upsert(&mut self, pod: Arc<Object>) -> Vec<(Reference, Client, Shutdown)> {
        let key = ObjectKey::from(&pod.meta);
        let names = references(&pod.value());
        let before = self.by_pod.insert(key.clone(), names.clone()).unwrap_or_default();
        let mut new = Vec::new();
        for reference in names.difference(&before) {
            if let Some(known) = self.followed.get_mut(reference) {
                known.pods += 1;
                continue;
            }
            let (connection, client) = self.connection();
            let stop = Shutdown::new();
            self.followed.insert(reference.clone(), Followed { pods: 1, seen: false, stop: stop.clone(), connection });
            new.push((reference.clone(), client, stop));
        }
        before.difference(&names).for_each(|gone| self.release(gone));
        let missing: BTreeSet<Reference> =
            names.into_iter().filter(|n| !self.followed.get(n).is_some_and(|f| f.seen)).collect();
        if missing.is_empty() {
            self.waiting.remove(&key);
            self.reveal(pod);
        } else {
            self.waiting.insert(key, (pod, missing));
        }
        new
    }

    fn delete(&mut self, last: Arc<Object>) {
        let key = ObjectKey::from(&last.meta);
        self.waiting.remove(&key);
        for reference in self.by_pod.remove(&key).unwrap_or_default() {
            self.release(&reference);
        }
        self.pods.delete_at(last);
    }

    /// One pod less names it.
    fn release(&mut self, reference: &Reference) {
        let Some(followed) = self.followed.get_mut(reference) else { return };
        followed.pods -= 1;
        if followed.pods == 0 {
            followed.stop.trigger();
            self.clients[followed.connection].1 -= 1;
            self.followed.remove(reference);
            if let Some(objects) = self.named.get(reference.plural) {
                objects.delete(&ObjectKey::new(&reference.namespace, &reference.name));
            }
        }
    }

    fn seen(&mut self, reference: &Reference) {
        let Some(followed) = self.followed.get_mut(reference) else { return };
        followed.seen = true;
        let mut ready = Vec::new();
        for (key, (_, missing)) in &mut self.waiting {
            missing.remove(reference);
            if missing.is_empty() {
                ready.push(key.clone());
            }
        }
        for key in ready {
            if let Some((pod, _)) = self.waiting.remove(&key) {
                self.reveal(pod);
            }
        }
    }

    /// A connection with room for one more watch.
    fn connection(&mut self) -> (usize, Client) {
        let found = self.clients.iter().position(|(_, watches)| *watches < PER_CONNECTION);
        let at = found.unwrap_or_else(|| {
            self.clients.push(((self.connect)(), 0));
            self.clients.len() - 1
        });
        self.clients[at].1 += 1;
        (at, self.clients[at].0.clone())
    }
}

/// One followed object.
struct One {
    reference: Reference,
    /// What was heard last.
    objects: Arc<Mutex<Option<Arc<Object>>>>,
    to: HashMap<&'static str, Arc<Objects>>,
    seen: mpsc::UnboundedSender<Reference>,
}

impl One {
    async fn follow(self, client: Client, stop: Shutdown) {
        let Reference { plural, namespace, name } = &self.reference;
        let res = if *plural == "secrets" { &res::SECRETS } else { &res::CONFIG_MAPS };
        let source =
            Source { namespace: Some(namespace.clone()), ..Source::fields(res, format!("metadata.name={name}")) };
        informer::follow(&client, &source, &self, &stop).await;
    }

    fn target(&self) -> &Objects {
        &self.to[self.reference.plural]
    }

    fn tell(&self) {
        // The gate is gone only at the end.
        let _ = self.seen.send(self.reference.clone());
    }
}

impl Sink for One {
    fn pointers(&self) -> Vec<&'static str> {
        self.target().pointers()
    }

    fn replace(&self, all: Vec<Arc<Object>>) {
        match all.into_iter().next() {
            Some(object) => self.upsert(object),
            None => self.target().delete(&ObjectKey::new(&self.reference.namespace, &self.reference.name)),
        }
        self.tell();
    }

    fn upsert(&self, object: Arc<Object>) {
        // Listed again, it may be the same.
        let mut last = self.objects.lock();
        if last.as_ref().is_none_or(|l| l.revision != object.revision) {
            *last = Some(object.clone());
            self.target().upsert(object);
        }
    }

    fn delete(&self, last: Arc<Object>) {
        self.objects.lock().take();
        self.target().delete_at(last);
    }

    fn refused(&self) {
        self.tell();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::fake::FakeApi;
    use serde_json::json;

    fn gate() -> Gate {
        let made = || Objects::new(&[]);
        let api = FakeApi::new(|_, _, _| {});
        Gate {
            pods: made(),
            named: HashMap::from([("configmaps", made()), ("secrets", made())]),
            followed: HashMap::new(),
            waiting: BTreeMap::new(),
            by_pod: BTreeMap::new(),
            connect: Arc::new(move || api.client()),
            clients: Vec::new(),
            all_told: false,
            kept: BTreeMap::new(),
        }
    }

    fn pod(name: &str, secrets: &[&str]) -> Arc<Object> {
        let pulls: Vec<_> = secrets.iter().map(|s| json!({"name": s})).collect();
        let pod = json!({"metadata": {"name": name, "namespace": "n"}, "spec": {"imagePullSecrets": pulls}});
        Arc::new(Object::from_value(&pod, &[]))
    }

    fn secret(name: &str) -> Reference {
        Reference { plural: "secrets", namespace: "n".into(), name: name.into() }
    }

    fn visible(gate: &Gate) -> Vec<String> {
        gate.pods.list(None).iter().map(|p| p.meta.name.clone()).collect()
    }

    #[tokio::test]
    async fn a_pod_is_seen_once_what_it_names_was_looked_for() {
        let mut gate = gate();
        let names = |follow: &[(Reference, Client, Shutdown)]| -> Vec<String> {
            follow.iter().map(|f| f.0.name.clone()).collect()
        };
        assert_eq!(names(&gate.upsert(pod("a", &["s", "t"]))), ["s", "t"]);
        assert_eq!(names(&gate.upsert(pod("b", &["s"]))), [] as [&str; 0], "followed already");
        assert_eq!(names(&gate.upsert(pod("c", &[]))), [] as [&str; 0]);
        assert_eq!(visible(&gate), ["c"]);
        gate.seen(&secret("s"));
        assert_eq!(visible(&gate), ["b", "c"]);
        gate.seen(&secret("t"));
        assert_eq!(visible(&gate), ["a", "b", "c"]);
        assert_eq!(names(&gate.upsert(pod("d", &["s"]))), [] as [&str; 0]);
        assert_eq!(visible(&gate), ["a", "b", "c", "d"], "known already");
    }

    #[tokio::test]
    async fn what_no_pod_names_any_more_is_forgotten() {
        let mut gate = gate();
        let followed = gate.upsert(pod("a", &["s"]));
        gate.upsert(pod("b", &["s"]));
        let object = json!({"metadata": {"name": "s", "namespace": "n"}});
        gate.named["secrets"].upsert(Arc::new(Object::from_value(&object, &[])));
        gate.delete(pod("a", &["s"]));
        assert!(!followed[0].2.is_triggered() && gate.named["secrets"].get("n", "s").is_some());
        // Another state of the pod, which names it no more.
        gate.upsert(pod("b", &[]));
        assert!(followed[0].2.is_triggered() && gate.named["secrets"].get("n", "s").is_none());
        assert_eq!((visible(&gate), gate.clients[0].1), (vec!["b".to_owned()], 0));
    }

    /// A pod that ran before the reboot, one that is gone by now, and one that is another of the same name.
    #[tokio::test]
    async fn what_was_kept_gives_way_to_the_truth() {
        let with_uid = |name: &str, uid: &str| {
            let mut value = pod(name, &["s"]).value();
            value["metadata"]["uid"] = uid.into();
            value
        };
        let object = |value: serde_json::Value| Arc::new(Object::from_value(&value, &[]));
        let secret_of = |name: &str| json!({"metadata": {"name": name, "namespace": "n"}});
        let text = |value: serde_json::Value| value.to_string();
        let known = Known {
            objects: [
                ("pods".to_owned(), [with_uid("a", "1"), with_uid("b", "2"), with_uid("c", "3")].map(text).into()),
                ("secrets".to_owned(), [secret_of("s"), secret_of("t")].map(text).into()),
            ]
            .into(),
            ..Known::default()
        };
        let mut gate = gate();
        gate.show(&known);
        let mut deltas = gate.pods.deltas();
        assert_eq!((visible(&gate), gate.pods.synced()), (vec!["a".into(), "b".into(), "c".into()], false));
        for _ in 0..3 {
            assert!(matches!(deltas.next().await, Some(Delta::Upsert { .. })));
        }
        gate.upsert(object(with_uid("a", "1")));
        gate.upsert(object(with_uid("c", "4")));
        assert_eq!(visible(&gate), ["a", "b", "c"], "the old ones are there until the new ones may be seen");
        gate.forget_kept();
        assert!(matches!(deltas.next().await, Some(Delta::Delete(last)) if last.meta.uid == "2"));
        assert!(gate.named["secrets"].get("n", "s").is_some() && gate.named["secrets"].get("n", "t").is_none());
        gate.seen(&secret("s"));
        let mut heard = Vec::new();
        for _ in 0..3 {
            heard.push(match deltas.next().await {
                Some(Delta::Upsert { new, .. }) => format!("+{}", new.meta.uid),
                Some(Delta::Delete(last)) => format!("-{}", last.meta.uid),
                _ => String::new(),
            });
        }
        assert_eq!(heard, ["+1", "-3", "+4"]);
    }

    /// Rules, names and routes are made of what was kept; pods that the server tells of wait for its Services.
    #[tokio::test]
    async fn the_network_of_before_is_shown_as_all_there_is() {
        let object = |name: &str, revision: u32| {
            json!({"metadata": {"name": name, "namespace": "n", "resourceVersion": revision.to_string()}}).to_string()
        };
        let known = |all: &[(&str, &str, u32)]| {
            let mut known = Known::default();
            for (kind, name, revision) in all {
                known.objects.entry((*kind).to_owned()).or_default().push(object(name, *revision));
            }
            Some(known)
        };
        let before = Before {
            pods: known(&[("services", "s", 4), ("nodes", "own", 0), ("configmaps", "c", 1)]),
            network: known(&[
                ("services", "s", 3),
                ("services", "t", 3),
                ("nodes", "m", 0),
                ("endpointslices", "s-1", 2),
            ]),
        };
        let api = FakeApi::new(|_, _, _| {});
        let (listers, informers) = NodeListers::new("own", Arc::new(move || api.client()), &before);
        let shown = |group: &str, plural: &str| {
            let lister = listers.lister(group, plural);
            let all = lister.list(None).into_iter().map(|o| format!("{}@{}", o.meta.name, o.revision));
            (all.collect::<Vec<_>>().join(" "), lister.synced())
        };
        assert_eq!(shown("", "services"), ("s@4 t@3".into(), true));
        assert_eq!(shown("", "nodes"), ("m@0 own@0".into(), true));
        assert_eq!(shown("discovery.k8s.io", "endpointslices"), ("s-1@2".into(), true));
        assert_eq!(shown("", "namespaces"), (String::new(), true));
        assert!(!listers.lister("", "pods").synced() && !*informers.services.borrow());
    }

    #[tokio::test]
    async fn many_watches_have_connections_enough() {
        let mut gate = gate();
        let names: Vec<String> = (0..=PER_CONNECTION).map(|n| format!("s{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        gate.upsert(pod("a", &names));
        let watches: Vec<usize> = gate.clients.iter().map(|c| c.1).collect();
        assert_eq!(watches, [PER_CONNECTION, 1]);
    }
}
