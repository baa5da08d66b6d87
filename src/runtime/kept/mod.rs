//! What a node last knew, on its disk, so that after a reboot without a server its pods start and reach each other.
//!
//! In: the listers of the node, and the tokens that it was given. Out: two files ([`Part`]), readable by root alone (one has
//! Secrets in it), each replaced whole; and what they say, at a start that no server answers. Two, because what a node's pods
//! need is small and has to be on the disk soon, and what the network of a large cluster is made of is neither.
//!
//! **Invariant:** a file that is torn, too large, or another node's is as good as none, and the log says so.
//! **Invariant:** a file is written only when it would say something else, and no more often than [`Pace`] allows.

mod file;
mod gather;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::ready;
use futures::stream;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::Instant;

pub use self::file::{Known, Token, read};
pub use self::gather::Part;
use super::lister::Listers;
use crate::util::tasks::Shutdown;

/// Changes come in bursts: a file is written so long after the first one.
const SETTLE: Duration = Duration::from_millis(200);
/// Between two writes on the average at least.
const PAUSE: Duration = Duration::from_secs(20);
/// Bytes a second that a file may cost on the average, for the sake of SD cards: a large one is written less often.
const BYTES_PER_SECOND: usize = 8 << 10;
/// Writes may be ahead of the average by so much: what a pod that has just come needs is there in a moment.
const AHEAD: Duration = Duration::from_secs(80);
/// Tokens kept at most: three for each of the pods that a node may have.
const MAX_TOKENS: usize = 1024;

/// The tokens that a node was given, to be kept.
#[derive(Debug, Default)]
pub struct Tokens {
    given: Mutex<BTreeMap<String, Token>>,
    changed: Notify,
}

impl Tokens {
    /// With those that were kept.
    pub fn new(kept: BTreeMap<String, Token>) -> Arc<Self> {
        Arc::new(Self { given: Mutex::new(kept), changed: Notify::new() })
    }

    /// What was answered to the same request.
    pub fn get(&self, key: &str) -> Option<Value> {
        self.given.lock().get(key).map(|t| t.answer.clone())
    }

    /// Remembers an answer. One too many is not kept.
    pub fn put(&self, key: String, pod: String, answer: Value) {
        let mut given = self.given.lock();
        if given.len() < MAX_TOKENS || given.contains_key(&key) {
            given.insert(key, Token { pod, answer });
            self.changed.notify_one();
        }
    }

    /// Those of the pods that there are; others are forgotten.
    fn of(&self, pods: &BTreeSet<String>) -> BTreeMap<String, Token> {
        let mut given = self.given.lock();
        given.retain(|_, token| pods.contains(&token.pod));
        given.clone()
    }
}

/// When a file may be written: what it costs is worked off by time, and may be owed up to a bound.
struct Pace {
    settle: Duration,
    pause: Duration,
    ahead: Duration,
    /// When all that was written is worked off.
    clear: Option<Instant>,
}

impl Pace {
    fn new(settle: Duration, pause: Duration, ahead: Duration) -> Self {
        Self { settle, pause, ahead, clear: None }
    }

    /// How long to wait before the next write.
    fn wait(&self, now: Instant) -> Duration {
        let owed = self.clear.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        owed.saturating_sub(self.ahead).max(self.settle)
    }

    /// So many bytes were written.
    fn wrote(&mut self, bytes: usize, now: Instant) {
        let cost = Duration::from_secs_f64(bytes as f64 / BYTES_PER_SECOND as f64).max(self.pause);
        self.clear = Some(self.clear.unwrap_or(now).max(now) + cost);
    }
}

/// Keeps the file saying what the listers say, until the shutdown, and once more then. Nothing is written before all of it is
/// known, so that a start without a server leaves the file as it is.
pub async fn keep(
    part: Part,
    node: &str,
    path: PathBuf,
    listers: &dyn Listers,
    tokens: Option<&Tokens>,
    shutdown: &Shutdown,
) {
    let keeper = Keeper { part, node, path, listers, tokens, written: None };
    keeper.run(Pace::new(SETTLE, PAUSE, AHEAD), shutdown).await;
}

/// Keeps one file.
struct Keeper<'a> {
    part: Part,
    node: &'a str,
    path: PathBuf,
    listers: &'a dyn Listers,
    tokens: Option<&'a Tokens>,
    /// Checksum of what was written last.
    written: Option<String>,
}

impl Keeper<'_> {
    async fn run(mut self, mut pace: Pace, shutdown: &Shutdown) {
        let none = Tokens::default();
        let tokens = self.tokens.unwrap_or(&none);
        let deltas = self.part.kinds().iter().map(|(group, plural)| self.listers.lister(group, plural).deltas());
        let mut changes = stream::select_all(deltas).filter(|delta| ready(Part::is_changed_by(delta)));
        loop {
            let mut stopped = tokio::select! {
                () = shutdown.wait() => true,
                change = changes.next() => change.is_none(),
                () = tokens.changed.notified() => false,
            };
            if self.part.is_known(self.listers) {
                stopped = stopped || shutdown.or(tokio::time::sleep(pace.wait(Instant::now()))).await.is_none();
                self.keep(tokens, &mut pace).await;
            }
            if stopped {
                return;
            }
        }
    }

    async fn keep(&mut self, tokens: &Tokens, pace: &mut Pace) {
        match self.write(tokens).await {
            Ok(0) => {}
            Ok(bytes) => pace.wrote(bytes, Instant::now()),
            Err(error) => {
                pace.wrote(0, Instant::now());
                tracing::warn!("cannot keep what this node knows in {}: {error}", self.path.display());
            }
        }
    }

    /// Writes the file where it would say something else; gives how many bytes that were.
    async fn write(&mut self, tokens: &Tokens) -> std::io::Result<usize> {
        let body = self.part.gather(self.node, self.listers, tokens);
        let (bytes, digest) = (body.len(), body.digest());
        if self.written.as_ref() == Some(&digest) {
            return Ok(0);
        }
        file::write(self.path.clone(), body).await?;
        self.written = Some(digest);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::res;
    use crate::runtime::fake::FakeListers;
    use serde_json::json;

    const HOUR: Duration = Duration::from_secs(3600);

    fn pod(name: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "d", "uid": format!("{name}-uid")},
            "spec": {"nodeName": "n"}})
    }

    #[test]
    fn writes_may_be_ahead_of_their_average_and_large_ones_are_rare() {
        let second = Duration::from_secs;
        let now = Instant::now();
        let mut pace = Pace::new(second(1), second(20), second(40));
        assert_eq!(pace.wait(now), second(1));
        for wait in [1, 1, 20, 40] {
            pace.wrote(100, now);
            assert_eq!(pace.wait(now), second(wait));
        }
        assert_eq!(pace.wait(now + second(40)), second(1), "it is worked off");
        let mut pace = Pace::new(second(1), second(20), second(40));
        pace.wrote(BYTES_PER_SECOND * 3600, now);
        assert_eq!(pace.wait(now), second(3560));
    }

    /// Waits until the file says something, while it is kept.
    async fn until(path: &std::path::Path, said: &str) {
        let says = async {
            while !std::fs::read_to_string(path).is_ok_and(|text| text.contains(said)) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), says).await.unwrap_or_else(|_| panic!("{said} is not kept"));
    }

    /// A token that comes right after a write is not twenty seconds late; and what the pace holds back, a stop writes.
    #[tokio::test]
    async fn a_token_is_kept_soon_and_a_stop_writes_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(Part::Pods.file());
        let (cluster, stop, tokens) = (FakeListers::default(), Shutdown::new(), Tokens::new(BTreeMap::new()));
        cluster.upsert(&res::PODS, &pod("mine"));
        let keeper = Keeper {
            part: Part::Pods,
            node: "n",
            path: path.clone(),
            listers: &cluster,
            tokens: Some(&tokens),
            written: None,
        };
        // Two writes, the next one an hour later.
        let keeping = keeper.run(Pace::new(Duration::from_millis(1), HOUR, HOUR), &stop);
        let looking = async {
            until(&path, "mine-uid").await;
            tokens.put("key".into(), "mine-uid".into(), json!({"status": {"token": "text-of-it"}}));
            until(&path, "text-of-it").await;
            cluster.upsert(&res::PODS, &pod("late"));
            tokio::time::sleep(Duration::from_millis(50)).await;
            let before = std::fs::read_to_string(&path).unwrap();
            stop.trigger();
            before
        };
        let ((), before) = tokio::join!(keeping, looking);
        assert!(!before.contains("late-uid"), "the next write is an hour away");
        assert!(std::fs::read_to_string(&path).unwrap().contains("late-uid"), "or at the end");
    }
}
