//! Listers of a node elsewhere: what the Node authorizer lets it see, and no more.
//!
//! Pods are those of the node. ConfigMaps and Secrets are followed one by one, those that its pods name; all else whole.
//!
//! **Invariant:** a pod is seen only after everything that it names was looked for, and after the Services, of which its
//! environment is made: a lister without a ConfigMap means that there is none.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::fields;
use super::informer::{self, Informers, RemoteListers, Sink, Source};
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
    services: Arc<dyn Lister>,
    client: Client,
    pods: Source,
}

impl NodeListers {
    /// For the node `name`; `connect` makes clients for the many small watches.
    pub fn new(name: &str, connect: Connect) -> (Arc<Self>, NodeInformers) {
        let client = connect();
        let (others, informers) = RemoteListers::new(client.clone(), Vec::new());
        let made = |plural: &str| Objects::new(fields::indexed("", plural));
        let (pods, config_maps, secrets) = (made("pods"), made("configmaps"), made("secrets"));
        config_maps.set_synced();
        secrets.set_synced();
        let services = others.lister("", "services");
        let gate = Gate {
            pods: pods.clone(),
            named: HashMap::from([("configmaps", config_maps.clone()), ("secrets", secrets.clone())]),
            followed: HashMap::new(),
            waiting: BTreeMap::new(),
            by_pod: BTreeMap::new(),
            connect,
            clients: Vec::new(),
            all_told: false,
        };
        let pods_of_node = Source::fields(&res::PODS, format!("spec.nodeName={name}"));
        let informers = NodeInformers { others: informers, gate, services, client, pods: pods_of_node };
        (Arc::new(Self { others, pods, config_maps, secrets }), informers)
    }
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
            self.gate.run(deltas, self.services.deltas(), &shutdown),
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
}

impl Gate {
    async fn run(
        mut self,
        mut pods: futures::stream::BoxStream<'static, Delta>,
        mut services: futures::stream::BoxStream<'static, Delta>,
        shutdown: &Shutdown,
    ) {
        while !matches!(shutdown.or(services.next()).await, None | Some(None | Some(Delta::Synced))) {}
        drop(services);
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
                    Some(Delta::Synced) => self.all_told = true,
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
            self.pods.upsert(pod);
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
                self.pods.upsert(pod);
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
