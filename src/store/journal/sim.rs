//! A disk in memory that can lose power: of what was not synced it keeps what it likes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::sync::Arc;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::disk::{Append, Disk};

/// The disk writes in sectors of this; a crash keeps or loses each by itself.
const SECTOR: usize = 64;

#[derive(Clone, Default)]
struct File {
    /// What a running process reads.
    bytes: Vec<u8>,
    /// What a power cut certainly leaves.
    durable: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// No room: part of the write may have happened.
    Full,
    /// The sync fails, and later ones of the file claim to succeed while nothing gets durable.
    Sync,
}

struct Inner {
    files: BTreeMap<u64, File>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    next: u64,
    random: StdRng,
    /// Calls until the power is cut; every call after it fails.
    fuse: Option<u32>,
    off: bool,
    fault: Option<(u32, Fault)>,
    /// Files whose sync failed: later ones claim to succeed.
    broken: BTreeSet<u64>,
}

/// A simulated disk; clones are the same disk.
#[derive(Clone)]
pub(in crate::store) struct SimDisk(Arc<Mutex<Inner>>);

impl SimDisk {
    pub(in crate::store) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            files: BTreeMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            next: 0,
            random: StdRng::seed_from_u64(seed),
            fuse: None,
            off: false,
            fault: None,
            broken: BTreeSet::new(),
        })))
    }

    /// Cuts the power at the call that comes after `calls` others.
    pub(in crate::store) fn cut_after(&self, calls: u32) {
        self.0.lock().fuse = Some(calls);
    }

    /// The disk is full after `calls` calls.
    pub(in crate::store) fn full_after(&self, calls: u32) {
        self.0.lock().fault = Some((calls, Fault::Full));
    }

    /// A sync fails after `calls` calls.
    pub(in crate::store) fn sync_fails_after(&self, calls: u32) {
        self.0.lock().fault = Some((calls, Fault::Sync));
    }

    /// What the disk holds after the power came back: of each sector written since the last sync either the old or the
    /// new content or zeros, of each file a length in between, of each name the old or the new file.
    pub(in crate::store) fn after_power_cut(&self) -> Self {
        let mut inner = self.0.lock();
        let mut random = StdRng::seed_from_u64(inner.random.random());
        let mut names = inner.durable_names.clone();
        let touched: Vec<String> = inner.names.keys().chain(inner.durable_names.keys()).cloned().collect();
        for name in touched {
            if inner.names.get(&name) != inner.durable_names.get(&name) && random.random_bool(0.5) {
                match inner.names.get(&name) {
                    Some(id) => drop(names.insert(name, *id)),
                    None => drop(names.remove(&name)),
                }
            }
        }
        let mut files = BTreeMap::new();
        for id in names.values() {
            let bytes = torn(&inner.files[id], &mut random);
            files.insert(*id, File { durable: bytes.clone(), bytes });
        }
        let next = inner.next;
        let durable_names = names.clone();
        let broken = BTreeSet::new();
        Self(Arc::new(Mutex::new(Inner {
            files,
            names,
            durable_names,
            next,
            random,
            fuse: None,
            off: false,
            fault: None,
            broken,
        })))
    }

    /// What the disk holds when only the process died.
    pub(in crate::store) fn after_kill(&self) -> Self {
        let inner = self.0.lock();
        Self(Arc::new(Mutex::new(Inner {
            files: inner.files.clone(),
            names: inner.names.clone(),
            durable_names: inner.durable_names.clone(),
            next: inner.next,
            random: inner.random.clone(),
            fuse: None,
            off: false,
            fault: None,
            broken: inner.broken.clone(),
        })))
    }

    /// A file's content, to damage it.
    pub(in crate::store) fn edit(&self, name: &str, f: impl FnOnce(&mut Vec<u8>)) {
        let mut inner = self.0.lock();
        let id = inner.names[name];
        let file = inner.files.get_mut(&id).unwrap();
        f(&mut file.bytes);
        file.durable = file.bytes.clone();
    }

    fn with<T>(&self, f: impl FnOnce(&mut Inner) -> io::Result<T>) -> io::Result<T> {
        let mut inner = self.0.lock();
        if let Some(fuse) = &mut inner.fuse {
            match fuse.checked_sub(1) {
                Some(left) => *fuse = left,
                None => inner.off = true,
            }
        }
        if inner.off {
            return Err(io::Error::other("no power"));
        }
        f(&mut inner)
    }
}

impl Inner {
    /// Counts a call down; true when the fault is due.
    fn due(&mut self, kind: Fault) -> bool {
        match &mut self.fault {
            Some((calls, fault)) if *fault == kind => {
                *calls = calls.saturating_sub(1);
                *calls == 0
            }
            _ => false,
        }
    }
}

/// What a power cut leaves of a file.
fn torn(file: &File, random: &mut StdRng) -> Vec<u8> {
    let (old, new) = (file.durable.len(), file.bytes.len());
    if file.durable == file.bytes {
        return file.bytes.clone();
    }
    let len = random.random_range(old.min(new)..=old.max(new));
    let mut out = file.durable.clone();
    out.resize(len, 0);
    // A mostly whole or a mostly lost tail as well as an even mix.
    let keep = [0.1, 0.5, 0.95][random.random_range(0..3)];
    for start in (0..len).step_by(SECTOR) {
        let end = (start + SECTOR).min(len);
        if random.random_bool(keep) {
            let there = start.min(file.bytes.len())..end.min(file.bytes.len());
            out[there.clone()].copy_from_slice(&file.bytes[there]);
        }
    }
    out
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        self.with(|d| Ok(d.names.keys().cloned().collect()))
    }

    fn read(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        self.with(|d| {
            let id = d.names.get(name).ok_or(io::ErrorKind::NotFound)?;
            Ok(Box::new(io::Cursor::new(d.files[id].bytes.clone())) as Box<dyn Read + Send>)
        })
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn Append>> {
        self.with(|d| {
            let id = match d.names.get(name) {
                Some(id) => *id,
                None => {
                    d.next += 1;
                    d.names.insert(name.to_owned(), d.next);
                    d.next
                }
            };
            d.files.entry(id).or_default().bytes.clear();
            d.broken.remove(&id);
            Ok(Box::new(SimFile(self.clone(), id)) as Box<dyn Append>)
        })
    }

    fn settle(&self, name: &str, at: u64, tail: &[u8]) -> io::Result<()> {
        self.with(|d| {
            let id = *d.names.get(name).ok_or(io::ErrorKind::NotFound)?;
            let file = d.files.get_mut(&id).expect("a name has a file");
            let at = at as usize;
            file.bytes.truncate(at);
            file.bytes.extend_from_slice(tail);
            // After a failed sync only what is written again gets there.
            let before = if d.broken.contains(&id) { file.durable.clone() } else { file.bytes.clone() };
            file.durable = before[..at.min(before.len())].to_vec();
            file.durable.resize(at, 0);
            file.durable.extend_from_slice(tail);
            Ok(())
        })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.with(|d| {
            let id = d.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
            d.names.insert(to.to_owned(), id);
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.with(|d| d.names.remove(name).map(drop).ok_or(io::ErrorKind::NotFound.into()))
    }

    fn sync_names(&self) -> io::Result<()> {
        self.with(|d| {
            d.durable_names = d.names.clone();
            Ok(())
        })
    }
}

struct SimFile(SimDisk, u64);

impl Append for SimFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.with(|d| {
            let full = d.due(Fault::Full);
            let some = if full { d.random.random_range(0..=bytes.len()) } else { bytes.len() };
            d.files.get_mut(&self.1).expect("open").bytes.extend_from_slice(&bytes[..some]);
            if full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        })
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.with(|d| {
            if d.due(Fault::Sync) {
                d.broken.insert(self.1);
                return Err(io::Error::other("sync failed"));
            }
            let file = d.files.get_mut(&self.1).expect("open");
            if !d.broken.contains(&self.1) {
                file.durable = file.bytes.clone();
            }
            Ok(())
        })
    }
}
