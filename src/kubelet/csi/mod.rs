//! CSI: volumes of drivers that run on the node.
//!
//! In: sockets of plugins ([`plugins`]), volumes of pods ([`request`]), and the Node, which says what is attached. Out: calls of
//! a driver's node service ([`driver`]), what each driver says of the node ([`node`]), and files beside each mount that say
//! what it is ([`data`]). [`mount`] brings a pod's volumes and takes them away.
//!
//! Rules: upstream `pkg/volume/csi`, `pkg/kubelet/volumemanager`.
//!
//! **Invariant:** what a driver mounted only the driver takes away, also after a restart of orch: the disk says what there is.
//! **Invariant:** a volume that has to be attached is in use, and the Node says so, before it is mounted and until nothing of it
//! is left. Who detaches looks there.
//! **Invariant:** of one volume one thing is done at a time.

mod data;
mod driver;
mod mount;
mod node;
mod plugins;
mod request;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::api::object::Object;
use crate::api::value::ValueExt;
use crate::client::Client;
use crate::runtime::{Delta, Listers};
use crate::util::backoff::Backoff;
use crate::util::tasks::Shutdown;
use data::Data;
pub use driver::CsiError;
use driver::Driver;
pub use request::Volume;

/// Wait for a driver that has to take something away.
const DRIVER_PATIENCE: Duration = Duration::from_secs(120);
/// The directory of a pod's volumes of drivers, below the pod's.
const POD_VOLUMES: &str = "volumes/kubernetes.io~csi";
/// The same of volumes that are devices.
const POD_DEVICES: &str = "volumeDevices/kubernetes.io~csi";
/// The directory of staged volumes, below the kubelet's.
const STAGED: &str = "plugins/kubernetes.io/csi";

/// Where charts of drivers look for a kubelet's directory.
pub const KNOWN_ROOT: &str = "/var/lib/kubelet";

/// Makes the kubelet's directory reachable at `at`, unless somebody else's is there. Gives `at` when it leads there.
pub fn link(root: &Path, at: &Path) -> Option<PathBuf> {
    if root == at {
        return None;
    }
    let made = std::fs::create_dir_all(root).and_then(|()| std::os::unix::fs::symlink(root, at));
    match made {
        Ok(()) => Some(at.to_owned()),
        Err(_) if std::fs::read_link(at).is_ok_and(|to| to == root) => Some(at.to_owned()),
        Err(e) => {
            let advice = "drivers that are installed there need --kubelet-arg=root-dir";
            tracing::warn!("{} is not this kubelet's directory ({e}); {advice}={}", at.display(), at.display());
            None
        }
    }
}

/// What the API says of the node's volumes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Told {
    revision: u64,
    attached: BTreeSet<String>,
    in_use: BTreeSet<String>,
}

/// What the node said that it uses, and the revision of the Node that says so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Said {
    revision: u64,
    in_use: BTreeSet<String>,
}

/// The node's drivers and their volumes.
pub struct Csi {
    /// The kubelet's directory.
    root: PathBuf,
    /// The same as drivers know it.
    known_as: PathBuf,
    node: String,
    client: Client,
    drivers: watch::Sender<BTreeMap<String, Driver>>,
    told: watch::Sender<Told>,
    /// What the node has said that it uses; none while it is about to say something else.
    said: watch::Sender<Option<Said>>,
    in_use: watch::Sender<BTreeSet<String>>,
    /// Volumes that somebody is about to mount, and how many do.
    coming: Mutex<BTreeMap<String, usize>>,
    turns: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

impl Csi {
    /// Knows no driver yet. `known_as` is where charts of drivers look for the kubelet's directory, `root`.
    pub fn new(root: PathBuf, known_as: PathBuf, node: &str, client: Client) -> Self {
        let out = Self {
            root,
            known_as,
            node: node.to_owned(),
            client,
            drivers: watch::Sender::default(),
            told: watch::Sender::default(),
            said: watch::Sender::default(),
            in_use: watch::Sender::default(),
            coming: Mutex::default(),
            turns: Mutex::default(),
        };
        out.settle();
        out
    }

    /// What the node uses, by the names that its status has for volumes.
    pub fn in_use(&self) -> watch::Receiver<BTreeSet<String>> {
        self.in_use.subscribe()
    }

    /// What the Node is about to be told that it uses. Until it was told ([`Csi::has_said`]), nobody relies on what it said
    /// before.
    pub fn about_to_say(&self) -> BTreeSet<String> {
        let mut now = BTreeSet::new();
        self.said.send_if_modified(|said| {
            // Under the lock of what was said: whoever comes after this finds it taken back.
            now.clone_from(&self.in_use.borrow());
            let stays = said.as_ref().is_some_and(|s| s.in_use == now);
            !stays && said.take().is_some()
        });
        now
    }

    /// The Node says so, at this revision or before it.
    pub fn has_said(&self, in_use: BTreeSet<String>, revision: u64) {
        self.said.send_replace(Some(Said { revision, in_use }));
    }

    /// True when the Node says that a volume is in use, has said so since it was last said otherwise, and says in the same
    /// breath that it is attached.
    fn is_settled(&self, volume: &str) -> bool {
        let (said, told) = (self.said.borrow(), self.told.borrow());
        let heard = said.as_ref().is_some_and(|s| s.in_use.contains(volume) && told.revision >= s.revision);
        heard && told.in_use.contains(volume) && told.attached.contains(volume)
    }

    /// Follows plugins, and what the API says of the node, until the shutdown.
    pub async fn run(&self, listers: &dyn Listers, shutdown: &Shutdown) {
        let plugins = async {
            let mut failures = 0;
            loop {
                let dir = self.root.join("plugins_registry");
                match plugins::run(&dir, self, shutdown).await {
                    Ok(()) => return,
                    Err(e) => tracing::warn!(dir = %dir.display(), "cannot follow plugins, trying again: {e}"),
                }
                failures += 1;
                if shutdown.or(tokio::time::sleep(Backoff::RESTART.delay(failures))).await.is_none() {
                    return;
                }
            }
        };
        tokio::join!(plugins, self.follow_node(listers, shutdown));
    }

    async fn follow_node(&self, listers: &dyn Listers, shutdown: &Shutdown) {
        let mut deltas = listers.lister("", "nodes").deltas();
        // Of which Node, by its uid, there is a CSINode: it goes with the Node.
        let mut ensured = String::new();
        while let Some(Some(delta)) = shutdown.or(deltas.next()).await {
            let Delta::Upsert { new, .. } = delta else { continue };
            if new.meta.name == self.node {
                let now = told(&new);
                self.told.send_if_modified(|before| std::mem::replace(before, now.clone()) != now);
                if ensured != new.meta.uid {
                    match node::ensure(&self.client, &new.value()).await {
                        Ok(()) => ensured.clone_from(&new.meta.uid),
                        Err(e) => {
                            tracing::warn!("cannot make the node's CSINode, trying again at its next change: {e}")
                        }
                    }
                }
            }
        }
    }

    /// A driver by its name.
    fn driver(&self, name: &str) -> Result<Driver, CsiError> {
        let found = self.drivers.borrow().get(name).cloned();
        found.ok_or_else(|| CsiError::NotRegistered(name.to_owned()))
    }

    /// The same, of one that may be about to come: it starts beside the kubelet.
    async fn awaited(&self, name: &str) -> Result<Driver, CsiError> {
        let mut drivers = self.drivers.subscribe();
        let there = drivers.wait_for(|all| all.contains_key(name));
        // Who is late is told of in the words of the one that is not there.
        let _ = tokio::time::timeout(DRIVER_PATIENCE, there).await;
        self.driver(name)
    }

    /// Waits until nothing else is done with a volume.
    async fn turn(&self, volume: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut turns = self.turns.lock();
            turns.retain(|_, lock| lock.strong_count() > 0);
            match turns.get(volume).and_then(Weak::upgrade) {
                Some(lock) => lock,
                None => {
                    let lock = Arc::new(tokio::sync::Mutex::new(()));
                    turns.insert(volume.to_owned(), Arc::downgrade(&lock));
                    lock
                }
            }
        };
        lock.lock_owned().await
    }

    /// Says that somebody is about to mount a volume, for as long as what is given back lives.
    fn coming(&self, volume: &str) -> Coming<'_> {
        *self.coming.lock().entry(volume.to_owned()).or_default() += 1;
        self.settle();
        Coming { csi: self, volume: volume.to_owned() }
    }

    /// What is in use is what the disk remembers, and what is coming.
    fn settle(&self) {
        let staged = std::fs::read_dir(self.root.join(STAGED)).into_iter().flatten().flatten();
        let staged = staged.flat_map(|driver| data::within(&driver.path()));
        let attached = staged.map(|(_, d)| d).chain(self.of_all_pods().into_iter().map(|(_, d)| d));
        let mut now: BTreeSet<String> =
            attached.filter(|d| !d.attachment.is_empty()).map(|d| d.unique_name()).collect();
        now.extend(self.coming.lock().keys().cloned());
        self.in_use.send_if_modified(|before| std::mem::replace(before, now.clone()) != now);
    }

    /// What all pods of the node have, by the disk, each with the pod's uid.
    fn of_all_pods(&self) -> Vec<(String, Data)> {
        let pods = std::fs::read_dir(self.root.join("pods")).into_iter().flatten().flatten();
        pods.flat_map(|pod| {
            let uid = pod.file_name().to_string_lossy().into_owned();
            mount::of_pod(&pod.path()).into_iter().map(move |m| (uid.clone(), m.data))
        })
        .collect()
    }

    /// A path below the kubelet's directory, as drivers know it.
    fn tell(&self, path: &Path) -> String {
        let known = path.strip_prefix(&self.root).map(|rest| self.known_as.join(rest));
        known.unwrap_or_else(|_| path.to_owned()).to_string_lossy().into_owned()
    }
}

/// Says that a volume is coming.
struct Coming<'a> {
    csi: &'a Csi,
    volume: String,
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        {
            let mut coming = self.csi.coming.lock();
            if let Some(count) = coming.get_mut(&self.volume) {
                *count -= 1;
                if *count == 0 {
                    coming.remove(&self.volume);
                }
            }
        }
        self.csi.settle();
    }
}

#[async_trait]
impl plugins::Handler for Csi {
    async fn add(&self, name: &str, socket: &Path) -> Result<(), String> {
        let driver = Driver::at(socket);
        let info = driver.info().await.map_err(|e| e.to_string())?;
        node::tell(&self.client, &self.node, name, Some(&info)).await?;
        self.drivers.send_modify(|all| drop(all.insert(name.to_owned(), driver)));
        Ok(())
    }

    async fn remove(&self, name: &str) {
        self.drivers.send_modify(|all| drop(all.remove(name)));
        tracing::info!(driver = name, "its plugin is gone");
        if let Err(e) = node::tell(&self.client, &self.node, name, None).await {
            tracing::warn!(driver = name, "cannot take it out of the node's CSINode: {e}");
        }
    }
}

fn told(node: &Object) -> Told {
    let value = node.value();
    let names = |at: &str, field: &str| {
        let text = |v: &serde_json::Value| v.str_at(field).map(str::to_owned);
        value.items_at(at).iter().filter_map(text).collect()
    };
    Told {
        revision: node.revision,
        attached: names("/status/volumesAttached", "/name"),
        in_use: names("/status/volumesInUse", ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn drivers_find_the_kubelet_where_they_look_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let (root, at) = (dir.path().join("data/agent/kubelet"), dir.path().join("kubelet"));
        assert_eq!(link(&root, &at).as_ref(), Some(&at));
        assert_eq!(link(&root, &at).as_ref(), Some(&at), "again");
        assert_eq!(link(&dir.path().join("another"), &at), None, "somebody else's");
        let client = crate::runtime::fake::Cluster::new().client();
        let csi = Csi::new(root.clone(), at.clone(), "node", client);
        assert_eq!(csi.tell(&root.join("pods/u")), at.join("pods/u").to_string_lossy());
    }

    /// The kubelet must not rely on an old word that it is about to take back.
    #[tokio::test]
    async fn a_volume_is_mounted_only_on_a_word_that_stands() {
        let dir = tempfile::tempdir().unwrap();
        let client = crate::runtime::fake::Cluster::new().client();
        let csi = Csi::new(dir.path().into(), dir.path().into(), "node", client);
        let set: BTreeSet<String> = ["v".to_owned()].into();
        let both = |revision| Told { revision, attached: set.clone(), in_use: set.clone() };
        let coming = csi.coming("v");
        csi.told.send_replace(both(1));
        assert!(!csi.is_settled("v"), "it has said nothing yet");
        let now = csi.about_to_say();
        csi.has_said(now, 2);
        assert!(!csi.is_settled("v"), "what is known is older");
        csi.told.send_replace(both(2));
        assert!(csi.is_settled("v"));
        assert_eq!(csi.about_to_say(), set);
        assert!(csi.is_settled("v"), "the same again changes nothing");
        drop(coming);
        let nothing = csi.about_to_say();
        let _again = csi.coming("v");
        assert!(!csi.is_settled("v"), "it is just being taken back");
        csi.has_said(nothing, 3);
        assert!(!csi.is_settled("v"));
    }

    #[tokio::test]
    async fn what_is_in_use_is_what_the_disk_remembers_and_what_comes() {
        let dir = tempfile::tempdir().unwrap();
        let save = |handle: &str, attachment: &str| {
            let data = Data {
                volume_handle: handle.into(),
                driver_name: "d".into(),
                attachment: attachment.into(),
                ..Data::default()
            };
            data.save(&dir.path().join("pods/u").join(POD_VOLUMES).join(handle)).unwrap();
        };
        save("attached", "csi-1");
        save("local", "");
        let client = crate::runtime::fake::Cluster::new().client();
        let csi = Csi::new(dir.path().into(), dir.path().into(), "node", client);
        let now = || csi.in_use().borrow().iter().cloned().collect::<Vec<_>>();
        assert_eq!(now(), ["kubernetes.io/csi/d^attached"]);
        let (one, two) = (csi.coming("kubernetes.io/csi/d^b"), csi.coming("kubernetes.io/csi/d^b"));
        drop(one);
        assert_eq!(now().len(), 2, "somebody else still wants it");
        drop(two);
        assert_eq!(now().len(), 1);
    }
}
