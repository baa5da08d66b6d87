//! The durable store on disks that fail: simulated power cuts, torn tails, damage on purpose.

use std::collections::{BTreeMap, HashMap};
use std::fs;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::store::journal::sim::SimDisk;
use crate::store::state::{Opened, State};
use crate::store::{Change, Expect, Key, Write, suite};

/// How many simulated histories are tried.
const SEEDS: u64 = 10_000;
/// Environment variable that names the one seed to try.
const SEED: &str = "ORCH_STORE_SEED";

type Entries = BTreeMap<Key, (Revision, Bytes)>;

/// A materialized state that a crash sets back, loses or damages.
#[derive(Clone, Default)]
struct FakeHome(Arc<Mutex<Vec<(Revision, Entries)>>>, Arc<Mutex<bool>>);

impl FakeHome {
    fn crash(&self, random: &mut StdRng) {
        let mut steps = self.0.lock();
        match random.random_range(0..4) {
            0 => *self.1.lock() = true,
            1 | 2 => {
                let keep = random.random_range(0..=steps.len());
                steps.truncate(keep);
            }
            _ => {}
        }
    }
}

impl Home for FakeHome {
    fn open(&self) -> Result<Option<Opened>, String> {
        if *self.1.lock() {
            return Err("damaged".to_owned());
        }
        let Some((revision, entries)) = self.0.lock().last().cloned() else { return Ok(None) };
        let entry = |(key, (revision, value))| Entry { key, value, revision };
        let entries = entries.into_iter().map(entry).collect();
        Ok(Some(Opened { state: Box::new(self.clone()), revision, entries }))
    }

    fn make(&self) -> Result<Box<dyn State>, String> {
        *self.1.lock() = false;
        self.0.lock().clear();
        Ok(Box::new(self.clone()))
    }
}

impl State for FakeHome {
    fn apply(&mut self, revision: Revision, changes: &[Change]) -> Result<(), String> {
        let mut steps = self.0.lock();
        let mut entries = steps.last().map(|s| s.1.clone()).unwrap_or_default();
        for c in changes {
            match &c.value {
                Some(v) => drop(entries.insert(c.key.clone(), (c.revision, v.clone()))),
                None => drop(entries.remove(&c.key)),
            }
        }
        steps.push((revision, entries));
        Ok(())
    }

    fn count(&self) -> usize {
        self.0.lock().last().map_or(0, |s| s.1.len())
    }

    fn entries(&mut self) -> Box<dyn Iterator<Item = Result<Entry, String>> + '_> {
        match self.open() {
            Ok(opened) => Box::new(opened.map(|o| o.entries).unwrap_or_default().into_iter().map(Ok)),
            Err(why) => Box::new(std::iter::once(Err(why))),
        }
    }

    fn flush(&mut self) -> Result<(), String> {
        Ok(())
    }
}

/// A transaction that was tried: the keys it put (with its number as the value) and those it deleted.
struct Tried {
    puts: Vec<Key>,
    deletes: Vec<Key>,
    acknowledged: Option<Revision>,
}

/// A history: what was tried over all lives.
#[derive(Default)]
struct History(Vec<Tried>);

impl History {
    fn next(&mut self, random: &mut StdRng) -> Txn {
        let id = self.0.len();
        let mut keys: Vec<Key> = (0..6).map(|k| Key::from(format!("/k{k}"))).collect();
        let mut pick =
            |n: usize| -> Vec<Key> { (0..n).map(|_| keys.swap_remove(random.random_range(0..keys.len()))).collect() };
        let (puts, deletes) = (pick(1 + id % 3), pick(usize::from(id.is_multiple_of(4))));
        let value = Bytes::from(format!("{id:0>width$}", width = 1 + id * 37 % 300));
        let put = |k: &Key| Write { key: k.clone(), expect: Expect::Any, value: Some(value.clone()) };
        let delete = |k: &Key| Write { key: k.clone(), expect: Expect::Any, value: None };
        let txn = Txn(puts.iter().map(put).chain(deletes.iter().map(delete)).collect());
        self.0.push(Tried { puts, deletes, acknowledged: None });
        txn
    }

    /// Everything acknowledged is there, everything else wholly or not at all.
    fn check(&self, snapshot: &Snapshot) {
        let present: HashMap<&[u8], &Entry> = snapshot.entries.iter().map(|e| (&e.key[..], e)).collect();
        let id = |e: &Entry| std::str::from_utf8(&e.value).unwrap().parse::<usize>().unwrap();
        // The revision of each transaction that is visible: told by its acknowledgement or by what it put.
        let mut at: HashMap<usize, Revision> = HashMap::new();
        for (i, tried) in self.0.iter().enumerate() {
            at.extend(tried.acknowledged.map(|r| (i, r)));
        }
        for entry in &snapshot.entries {
            assert_eq!(*at.entry(id(entry)).or_insert(entry.revision), entry.revision, "{entry:?}");
        }
        for (i, revision) in at {
            assert!(revision <= snapshot.revision, "{i} was acknowledged as {revision}");
            let tried = &self.0[i];
            for key in &tried.puts {
                let deleted = || self.0[i + 1..].iter().any(|t| t.deletes.contains(key));
                match present.get(&key[..]) {
                    Some(e) => assert!(e.revision >= revision, "{i} at {revision} lost {key:?}: {e:?}"),
                    None => assert!(deleted(), "{i} at {revision} lost {key:?}"),
                }
            }
            for key in &tried.deletes {
                assert!(
                    present.get(&key[..]).is_none_or(|e| e.revision > revision),
                    "{key:?} was deleted at {revision}"
                );
            }
        }
    }
}

fn small() -> Options {
    let mut options = Options::new("unused");
    (options.collect_bytes, options.snapshot_bytes, options.segment_bytes) = (300, 900, 700);
    options.retain = Duration::ZERO;
    options
}

async fn live(store: &Durable, history: &mut History, random: &mut StdRng) {
    for _ in 0..random.random_range(0..12) {
        let (first, n) = (history.0.len(), random.random_range(1..6));
        let txns: Vec<Txn> = (0..n).map(|_| history.next(random)).collect();
        let answers = futures::future::join_all(txns.into_iter().map(|t| store.commit(t))).await;
        for (tried, answer) in history.0[first..].iter_mut().zip(answers) {
            match answer {
                Ok(revision) => tried.acknowledged = Some(revision),
                Err(CommitError::ReadOnly(_)) => assert!(store.read_only().is_some()),
                Err(other) => panic!("{other}"),
            }
        }
    }
}

async fn try_seed(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let (mut disk, home, mut history) = (SimDisk::new(seed), FakeHome::default(), History::default());
    for _ in 0..3 {
        let calls = random.random_range(1..40);
        match random.random_range(0..5) {
            0 => disk.full_after(calls),
            1 => disk.sync_fails_after(calls),
            2 => {}
            _ => disk.cut_after(calls),
        }
        // The power may go while it opens.
        if let Ok(store) = Durable::start(Arc::new(disk.clone()), &home, &small(), None) {
            live(&store, &mut history, &mut random).await;
        }
        disk = if random.random_bool(0.8) { disk.after_power_cut() } else { disk.after_kill() };
        home.crash(&mut random);
        let store = Durable::start(Arc::new(disk.clone()), &home, &small(), None).expect("opens by itself");
        let snapshot = store.snapshot(b"").await.unwrap();
        history.check(&snapshot);
        let newest = history.0.iter().filter_map(|t| t.acknowledged).max().unwrap_or(0);
        let txn = history.next(&mut random);
        let revision = store.commit(txn).await.expect("a disk that works again takes writes");
        assert!(revision > newest.max(snapshot.revision), "revisions never repeat");
        history.0.last_mut().unwrap().acknowledged = Some(revision);
    }
}

/// Every acknowledged write is there, every other wholly or not at all, and it opens by itself.
#[test]
fn power_cuts_lose_nothing_acknowledged() {
    let seeds = match std::env::var(SEED) {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..SEEDS).collect(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for seed in seeds {
        let run = std::panic::AssertUnwindSafe(|| runtime.block_on(try_seed(seed)));
        if let Err(panic) = std::panic::catch_unwind(run) {
            eprintln!("seed {seed} failed; run it alone with {SEED}={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

fn put(key: &str, value: &str) -> Txn {
    let (key, value) = (Bytes::copy_from_slice(key.as_bytes()), Some(Bytes::copy_from_slice(value.as_bytes())));
    Txn(vec![Write { key, expect: Expect::Any, value }])
}

async fn filled(disk: &SimDisk, home: &FakeHome, n: usize) -> Durable {
    let mut options = Options::new("unused");
    options.collect_bytes = usize::MAX;
    let store = Durable::start(Arc::new(disk.clone()), home, &options, None).unwrap();
    for i in 0..n {
        store.commit(put(&format!("/{i}"), "value")).await.unwrap();
    }
    store
}

fn segment(disk: &SimDisk) -> String {
    let names: Vec<String> = disk.list().unwrap().into_iter().filter(|n| n.ends_with(".journal")).collect();
    names[0].clone()
}

#[tokio::test]
async fn a_tail_torn_at_any_byte_loses_only_what_was_torn() {
    let disk = SimDisk::new(1);
    let mut ends = vec![0];
    let store = filled(&disk, &FakeHome::default(), 0).await;
    for i in 0..5 {
        store.commit(put(&format!("/{i}"), "value")).await.unwrap();
        disk.edit(&segment(&disk), |bytes| ends.push(bytes.len()));
    }
    for cut in 0..=ends[5] {
        for garbage in [0, 9] {
            let disk = disk.after_kill();
            disk.edit(&segment(&disk), |bytes| {
                bytes.truncate(cut);
                bytes.extend(std::iter::repeat_n(0xff, garbage));
            });
            let store = filled(&disk, &FakeHome::default(), 0).await;
            let whole = ends.iter().filter(|e| **e <= cut).count() - 1;
            assert_eq!(store.snapshot(b"").await.unwrap().entries.len(), whole, "cut at {cut}");
            assert_eq!(store.commit(put("/new", "x")).await, Ok(whole as Revision + 1));
        }
    }
}

#[tokio::test]
async fn damage_before_acknowledged_commits_is_refused_unless_the_state_has_them() {
    let (disk, home) = (SimDisk::new(1), FakeHome::default());
    drop(filled(&disk, &home, 5).await);
    disk.edit(&segment(&disk), |bytes| bytes[70] ^= 1);
    let options = Options::new("unused");
    let open = |home: &FakeHome| Durable::start(Arc::new(disk.clone()), home, &options, None).map(drop);
    let error = open(&FakeHome::default()).unwrap_err().to_string();
    assert!(error.contains("is damaged at byte") && error.contains("were acknowledged"), "{error}");
    assert!(open(&home).is_ok(), "the state was brought up to date when it was closed");
}

#[tokio::test]
async fn a_full_disk_and_a_failed_sync_end_in_read_only_service() {
    for fault in [SimDisk::full_after, SimDisk::sync_fails_after] {
        let disk = SimDisk::new(3);
        let store = filled(&disk, &FakeHome::default(), 2).await;
        fault(&disk, 1);
        let Err(CommitError::ReadOnly(why)) = store.commit(put("/x", "lost")).await else { panic!("must fail") };
        assert!(why.contains("writing the journal failed"), "{why}");
        assert!(matches!(store.commit(put("/y", "lost")).await, Err(CommitError::ReadOnly(_))), "for ever");
        let snapshot = store.snapshot(b"").await.unwrap();
        assert_eq!((snapshot.revision, snapshot.entries.len()), (2, 2), "reads go on and show no lie");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn passes_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    suite::contract(|rule| Arc::new(Durable::open(&Options::new(dir.path().join(rule))).unwrap())).await;
}

#[tokio::test]
async fn followers_read_the_journal_behind_the_tail() {
    let disk = SimDisk::new(1);
    drop(filled(&disk, &FakeHome::default(), 9).await);
    let store = filled(&disk, &FakeHome::default(), 1).await;
    let mut changes = store.changes(3);
    let mut seen = Vec::new();
    while seen.len() < 7 {
        let batch = futures::StreamExt::next(&mut changes).await.unwrap().unwrap();
        seen.extend(batch.iter().map(|c| c.revision));
    }
    assert_eq!(seen, [4, 5, 6, 7, 8, 9, 10]);
}

/// What a failed sync left behind is read after the next start, and then survives a power cut like all else.
#[tokio::test]
async fn what_a_failed_sync_left_becomes_durable_or_is_gone() {
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        let store = filled(&disk, &FakeHome::default(), 2).await;
        disk.sync_fails_after(1);
        assert!(store.commit(put("/x", "unsure")).await.is_err());
        let disk = disk.after_kill();
        let store = filled(&disk, &FakeHome::default(), 0).await;
        let revision = store.commit(put("/y", "acknowledged")).await.unwrap();
        let disk = disk.after_power_cut();
        let store = filled(&disk, &FakeHome::default(), 0).await;
        assert_eq!(store.revision(), revision, "seed {seed}");
    }
}

#[test]
fn a_directory_of_a_newer_version_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new(dir.path());
    drop(Durable::open(&options).unwrap());
    drop(Durable::open(&options).unwrap());
    for newer in ["2\n", "next"] {
        fs::write(dir.path().join("format"), newer).unwrap();
        let Err(error) = Durable::open(&options) else { panic!("must not open") };
        assert!(error.to_string().contains("written by a newer version"), "{error}");
    }
}

#[tokio::test]
async fn one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new(dir.path());
    let first = Durable::open(&options).unwrap();
    assert!(matches!(Durable::open(&options), Err(OpenError::Locked(_))));
    first.close().await;
    drop(first);
    Durable::open(&options).unwrap();
}

/// Damages every file of a sled directory in several ways.
#[tokio::test]
async fn a_damaged_sled_is_set_aside_and_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new(dir.path());
    let store = Durable::open(&options).unwrap();
    for i in 0..300 {
        store.commit(put(&format!("/{i}"), &"v".repeat(i * 40))).await.unwrap();
    }
    let want = store.snapshot(b"").await.unwrap();
    store.close().await;
    drop(store);
    let state = dir.path().join("state");
    let wreck: [fn(&mut Vec<u8>); 5] = [
        |b| b.clear(),
        |b| b.truncate(b.len() / 2),
        |b| b.iter_mut().for_each(|x| *x = 0x5a),
        |b| b.iter_mut().step_by(997).for_each(|x| *x ^= 0xff),
        |b| b.iter_mut().take(4096).for_each(|x| *x = 0),
    ];
    for (i, damage) in wreck.iter().enumerate() {
        let mut files: Vec<PathBuf> = fs::read_dir(&state).unwrap().map(|e| e.unwrap().path()).collect();
        files.retain(|f| f.is_file());
        let mut damaged = 0;
        for file in files {
            // sled replaces files of its own accord when it is opened: one of the list may be gone by now.
            let Ok(mut bytes) = fs::read(&file) else { continue };
            damaged += 1;
            damage(&mut bytes);
            fs::write(&file, bytes).unwrap();
            let store = Durable::open(&options).unwrap();
            assert!(store.snapshot(b"").await.unwrap() == want, "damage {i} to {}", file.display());
        }
        assert!(damaged > 0, "there was nothing to damage in round {i}");
    }
    let aside = fs::read_dir(dir.path())
        .unwrap()
        .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with("state.damaged-"));
    assert!((1..=2).contains(&aside.count()), "some are kept to look at, not all");
}
