//! The materialized state in sled.
//!
//! Keys in sled: `m` is the summary (revision, number and digest of all entries), `k` and a key its value's head and
//! first part, `c`, a key and a number a further part. Every step changes entries and summary in one sled batch, so
//! what sled recovers after a crash is the state after some step; the summary proves it. Values are kept as
//! [`packed`](super::packed) makes them; head and digest are of the value itself.
//!
//! **Invariant:** a state whose entries do not add up to its summary is not used.
//! **Invariant:** no value in sled is longer than [`CHUNK_BYTES`] and a head: longer ones leak blob files.
//!
//! sled's cache has no bound that holds: pages leave it only after 64 uses in one of its 256 shards, so that reading
//! everything once keeps everything. What does give it back is to close the database and open it again, which takes
//! some 20 ms for 10,000 pods: [`HELD_MAX`] and [`State::rest`].

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes};

use super::packed;
use super::state::{Home, Opened, State};
use super::{Change, Entry, Key, Revision};

/// Largest part of a value, bytes.
const CHUNK_BYTES: usize = 64 << 10;
/// sled's page cache, bytes; reads come from the watch cache.
const CACHE_BYTES: u64 = 8 << 20;
/// What may have been read and written since the database was opened, bytes: about what it holds in memory.
const HELD_MAX: usize = if cfg!(test) { 256 << 10 } else { 32 << 20 };
/// A state of less than this may stay in memory, bytes.
const SMALL: usize = if cfg!(test) { 64 << 10 } else { 4 << 20 };
/// How long the old database may take to let go of its lock; its own threads do that.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);
/// Between two looks at the lock.
const CLOSE_LOOK: Duration = Duration::from_millis(2);
/// Damaged states that are kept for people to look at.
const ASIDE_MAX: usize = 2;
/// Revision, length, crc32c; of a packed value then the length that is kept.
const HEAD: usize = 16;
/// In the length: the value is packed. Without it a head is as it was before values were packed.
const PACKED: u32 = 1 << 31;
const SUMMARY: &[u8] = b"m";

/// A sled database in a directory.
#[derive(Clone)]
pub(super) struct SledHome(pub(super) PathBuf);

impl SledHome {
    fn config(&self) -> sled::Config {
        sled::Config::default().path(&self.0).cache_capacity(CACHE_BYTES).flush_every_ms(None)
    }

    fn aside(&self) -> Result<(), String> {
        let parent = self.0.parent().unwrap_or(Path::new("."));
        let name = self.0.file_name().unwrap_or_default().to_string_lossy().into_owned() + ".damaged-";
        let mut old: Vec<_> = fs::read_dir(parent)
            .map_err(|e| e.to_string())?
            .filter_map(|e| Some(e.ok()?.path()))
            .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&name)))
            .collect();
        old.sort();
        for path in old.iter().rev().skip(ASIDE_MAX - 1) {
            fs::remove_dir_all(path).map_err(|e| format!("cannot remove {}: {e}", path.display()))?;
        }
        let stamp = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S.%9f").to_string();
        let to = parent.join(name + &stamp);
        fs::rename(&self.0, &to).map_err(|e| format!("cannot rename {} to {}: {e}", self.0.display(), to.display()))?;
        tracing::warn!(path = %to.display(), "the damaged state was set aside");
        Ok(())
    }
}

impl Home for SledHome {
    fn open(&self) -> Result<Option<Opened>, String> {
        if !self.0.exists() {
            return Ok(None);
        }
        guarded("open", || {
            let mut state = SledState::new(self)?;
            let (revision, entries) = state.load()?;
            Ok(Some(Opened { state: Box::new(state), revision, entries }))
        })
    }

    fn make(&self) -> Result<Box<dyn State>, String> {
        if self.0.exists() {
            self.aside()?;
        }
        guarded("make", || Ok(Box::new(SledState::new(self)?) as Box<dyn State>))
    }
}

/// sled panics on some damaged files; that is an error like others.
fn guarded<T>(what: &str, f: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|_| Err(format!("sled panicked while it was to {what}")))
}

/// Number and digest of all entries; the order does not matter, so a step changes it by what it changes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Sum {
    count: u64,
    digest: u64,
}

/// What an entry adds to the sum, and how many bytes are kept of its value.
#[derive(Clone, Copy)]
struct Row {
    digest: u64,
    kept: u32,
}

impl Row {
    fn of(key: &[u8], revision: Revision, value: &[u8], kept: usize) -> Self {
        let mut z = (u64::from(crc32c::crc32c(key)) << 32 | u64::from(crc32c::crc32c(value)))
            ^ revision.wrapping_mul(0x9e37_79b9_7f4a_7c15)
            ^ (value.len() as u64).rotate_left(48);
        // splitmix64: so that sums of similar entries do not cancel out.
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self { digest: z ^ (z >> 31), kept: kept as u32 }
    }

    fn parts(self) -> u16 {
        (self.kept as usize).div_ceil(CHUNK_BYTES).max(1) as u16
    }
}

impl Sum {
    fn add(&mut self, row: Row) {
        self.count += 1;
        self.digest = self.digest.wrapping_add(row.digest);
    }

    fn take(&mut self, row: Row) {
        self.count -= 1;
        self.digest = self.digest.wrapping_sub(row.digest);
    }
}

struct SledState {
    home: SledHome,
    /// None while it is being opened again, and after it failed.
    db: Option<sled::Db>,
    rows: HashMap<Key, Row>,
    sum: Sum,
    /// What is kept of all values, bytes.
    bytes: usize,
    /// Read and written since the database was opened, bytes.
    held: usize,
}

fn head_key(key: &[u8]) -> Vec<u8> {
    [b"k", key].concat()
}

fn part_key(key: &[u8], part: u16) -> Vec<u8> {
    [b"c", key, &[0], &part.to_be_bytes()].concat()
}

impl SledState {
    fn new(home: &SledHome) -> Result<Self, String> {
        let db = Some(home.config().open().map_err(|e| e.to_string())?);
        let home = home.clone();
        Ok(Self { home, db, rows: HashMap::new(), sum: Sum::default(), bytes: 0, held: 0 })
    }

    fn db(&self) -> Result<&sled::Db, String> {
        self.db.as_ref().ok_or_else(|| "it failed before".to_owned())
    }

    /// Lets go of a database that failed. Dropping it would flush it, and after an error of the disk that waits for a
    /// write that nobody does any more. So its memory is lost, and its lock stays until the process ends.
    fn checked<T>(&mut self, done: Result<T, String>) -> Result<T, String> {
        if done.is_err() {
            std::mem::forget(self.db.take());
        }
        done
    }

    /// Closes the database and opens it again, so that it holds nothing in memory. No iterator may be left of it.
    fn reopen(&mut self) -> Result<(), String> {
        self.held = 0;
        let flushed = guarded("close", || self.db()?.flush().map_err(|e| e.to_string()));
        self.checked(flushed)?;
        let old = self.db.take();
        guarded("close", || {
            drop(old);
            Ok(())
        })?;
        let started = Instant::now();
        loop {
            match guarded("open", || self.home.config().open().map_err(|e| e.to_string())) {
                Ok(db) => {
                    self.db = Some(db);
                    return Ok(());
                }
                Err(why) if started.elapsed() > CLOSE_LIMIT => return Err(why),
                Err(_) => std::thread::sleep(CLOSE_LOOK),
            }
        }
    }

    /// Reads and checks everything.
    fn load(&mut self) -> Result<(Revision, Vec<Entry>), String> {
        let Some(summary) = self.db()?.get(SUMMARY).map_err(|e| e.to_string())? else {
            return match self.db()?.is_empty() {
                true => Ok((0, Vec::new())),
                false => Err("it has entries and no summary".to_owned()),
            };
        };
        let mut text = &summary[..];
        if text.len() != 24 {
            return Err("its summary is malformed".to_owned());
        }
        let (revision, count, digest) = (text.get_u64_le(), text.get_u64_le(), text.get_u64_le());
        let mut all = Vec::new();
        let mut entries = Entries::of(self);
        while let Some(next) = entries.step()? {
            all.push(next);
        }
        for (entry, kept) in &all {
            let row = Row::of(&entry.key, entry.revision, &entry.value, *kept);
            self.sum.add(row);
            self.bytes += kept;
            self.rows.insert(entry.key.clone(), row);
        }
        match self.sum == (Sum { count, digest }) {
            true => Ok((revision, all.into_iter().map(|(entry, _)| entry).collect())),
            false => Err("its entries do not add up to its summary".to_owned()),
        }
    }

    /// An entry, and how many bytes are kept of its value.
    fn entry(&self, key: &[u8], stored: &[u8]) -> Result<(Entry, usize), String> {
        let broken = || format!("the value of {} is malformed", String::from_utf8_lossy(key));
        let mut head = stored;
        let revision = head.try_get_u64_le().map_err(|_| broken())?;
        let len = head.try_get_u32_le().map_err(|_| broken())?;
        let crc = head.try_get_u32_le().map_err(|_| broken())?;
        let kept = if len & PACKED == 0 { len } else { head.try_get_u32_le().map_err(|_| broken())? } as usize;
        let (len, first) = ((len & !PACKED) as usize, head);
        if len.max(kept) > super::VALUE_MAX {
            return Err(broken());
        }
        let whole = if first.len() == kept {
            Cow::Borrowed(first)
        } else {
            let mut whole = Vec::with_capacity(kept);
            whole.put_slice(first);
            for part in 1..kept.div_ceil(CHUNK_BYTES) {
                let next = self.db()?.get(part_key(key, part as u16)).map_err(|e| e.to_string())?;
                whole.put_slice(&next.ok_or_else(broken)?);
            }
            Cow::Owned(whole)
        };
        let value = Bytes::from(packed::unpack(&whole, len).map_err(|_| broken())?.into_owned());
        if whole.len() != kept || crc32c::crc32c(&value) != crc {
            return Err(broken());
        }
        Ok((Entry { key: Bytes::copy_from_slice(key), value, revision }, kept))
    }
}

impl State for SledState {
    fn apply(&mut self, revision: Revision, changes: &[Change]) -> Result<(), String> {
        let mut batch = sled::Batch::default();
        for change in changes {
            let value = change.value.as_ref().map(|v| (v, packed::pack(v)));
            let row = value.as_ref().map(|(v, kept)| Row::of(&change.key, change.revision, v, kept.len()));
            let old = match row {
                Some(row) => self.rows.insert(change.key.clone(), row),
                None => self.rows.remove(&change.key),
            };
            old.into_iter().for_each(|r| self.sum.take(r));
            row.into_iter().for_each(|r| self.sum.add(r));
            let len = |row: Option<Row>| row.map_or(0, |r| r.kept as usize);
            self.bytes = self.bytes + len(row) - len(old);
            self.held += len(row);
            for stale in row.map_or(1, Row::parts)..old.map_or(1, Row::parts) {
                batch.remove(part_key(&change.key, stale));
            }
            let Some((value, kept)) = value else {
                batch.remove(head_key(&change.key));
                continue;
            };
            let (is_packed, mut parts) = (kept.len() != value.len(), kept.chunks(CHUNK_BYTES));
            let first = parts.next().unwrap_or_default();
            let mut stored = Vec::with_capacity(HEAD + size_of::<u32>() + first.len());
            stored.put_u64_le(change.revision);
            stored.put_u32_le(value.len() as u32 | if is_packed { PACKED } else { 0 });
            stored.put_u32_le(crc32c::crc32c(value));
            if is_packed {
                stored.put_u32_le(kept.len() as u32);
            }
            stored.put_slice(first);
            batch.insert(head_key(&change.key), stored);
            for (i, part) in parts.enumerate() {
                batch.insert(part_key(&change.key, i as u16 + 1), part);
            }
        }
        let summary = [revision.to_le_bytes(), self.sum.count.to_le_bytes(), self.sum.digest.to_le_bytes()].concat();
        batch.insert(SUMMARY, summary);
        let written = guarded("write", || self.db()?.apply_batch(batch).map_err(|e| e.to_string()));
        self.checked(written)?;
        if self.held > HELD_MAX { self.reopen() } else { Ok(()) }
    }

    fn count(&self) -> usize {
        self.rows.len()
    }

    fn entries(&mut self) -> Box<dyn Iterator<Item = Result<Entry, String>> + '_> {
        Box::new(Entries::of(self))
    }

    fn rest(&mut self) -> Result<(), String> {
        if self.held == 0 || self.bytes < SMALL { Ok(()) } else { self.reopen() }
    }

    fn flush(&mut self) -> Result<(), String> {
        let flushed = guarded("flush", || self.db()?.flush().map(drop).map_err(|e| e.to_string()));
        self.checked(flushed)
    }
}

/// Reads all entries in key order, and gives sled's memory back on the way.
struct Entries<'a> {
    state: &'a mut SledState,
    /// None before the first one, and after the database was opened again.
    pairs: Option<sled::Iter>,
    /// The last key that was read, as in sled.
    last: Vec<u8>,
    ended: bool,
}

impl<'a> Entries<'a> {
    fn of(state: &'a mut SledState) -> Self {
        Self { state, pairs: None, last: b"k".to_vec(), ended: false }
    }

    /// The next entry, and how many bytes are kept of its value.
    fn step(&mut self) -> Result<Option<(Entry, usize)>, String> {
        if self.state.held > HELD_MAX {
            self.pairs = None;
            self.state.reopen()?;
        }
        let pairs = match &mut self.pairs {
            Some(pairs) => pairs,
            none => {
                let after = (Bound::Excluded(&*self.last), Bound::Excluded(&b"l"[..]));
                none.insert(self.state.db()?.range::<&[u8], _>(after))
            }
        };
        let Some(pair) = pairs.next() else { return Ok(None) };
        let (key, stored) = pair.map_err(|e| e.to_string())?;
        let entry = self.state.entry(&key[1..], &stored)?;
        self.state.held += entry.1;
        self.last.clear();
        self.last.extend_from_slice(&key);
        Ok(Some(entry))
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<Entry, String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = guarded("read", || self.step());
        self.ended = !matches!(next, Ok(Some(_)));
        next.map(|found| found.map(|(entry, _)| entry)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: u32, len: usize) -> Bytes {
        let bytes =
            (0u32..).flat_map(|i| crc32c::crc32c(&[seed.to_le_bytes(), i.to_le_bytes()].concat()).to_le_bytes());
        bytes.take(len).collect()
    }

    #[test]
    fn values_grow_and_shrink_and_change_their_form() {
        let dir = tempfile::tempdir().unwrap();
        let home = SledHome(dir.path().join("state"));
        let mut state = SledState::new(&home).unwrap();
        let text = |len: usize| Bytes::from("{\"a\":1}".repeat(len / 7));
        let big = 5 * CHUNK_BYTES;
        // Packed in one piece; in pieces; plain and short; packed in pieces, for half of it is noise.
        let half: Bytes = [noise(7, big), text(big)].concat().into();
        let forms = [text(big), noise(1, big), text(9), half, text(big), noise(2, 400), noise(3, big)];
        for (i, value) in (1..).zip(&forms) {
            let key = Key::from_static(b"/registry/core/configmaps/n/c");
            state.apply(i, &[Change { revision: i, key: key.clone(), value: Some(value.clone()) }]).unwrap();
            let found: Vec<Entry> = state.entries().collect::<Result<_, _>>().unwrap();
            assert_eq!(found, [Entry { key, value: value.clone(), revision: i }], "{i}");
            let pieces = state.bytes.div_ceil(CHUNK_BYTES);
            assert_eq!(state.db().unwrap().len(), 1 + pieces, "{i}: no piece is left over");
        }
        drop(state);
        assert_eq!(home.open().unwrap().unwrap().entries[0].value, forms[6]);
    }

    #[test]
    fn what_was_written_before_values_were_packed_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let home = SledHome(dir.path().join("state"));
        let (key, value) = (b"/registry/core/configmaps/n/c", Bytes::from("x".repeat(5000)));
        let db = home.config().open().unwrap();
        let head = [&3u64.to_le_bytes()[..], &5000u32.to_le_bytes(), &crc32c::crc32c(&value).to_le_bytes()].concat();
        db.insert(head_key(key), [&head[..], &value].concat()).unwrap();
        let row = Row::of(key, 3, &value, 0);
        let summary = [3u64.to_le_bytes(), 1u64.to_le_bytes(), row.digest.to_le_bytes()].concat();
        db.insert(SUMMARY, summary).unwrap();
        drop(db);
        let opened = home.open().unwrap().unwrap();
        assert_eq!(opened.entries, [Entry { key: Key::from_static(key), value, revision: 3 }]);
    }

    #[test]
    fn memory_is_given_back_and_nothing_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let home = SledHome(dir.path().join("state"));
        let mut state = SledState::new(&home).unwrap();
        // Some values in one piece, some in two; all of it is several times HELD_MAX. None can be packed.
        let value = |i: usize| noise(i as u32, 1000 + (i % 3) * (CHUNK_BYTES / 2));
        let key = |i: usize| Key::from(format!("/registry/core/pods/n/p-{i:03}"));
        let put = |i| Change { revision: 1, key: key(i), value: Some(value(i)) };
        let mut opened_again = 0;
        for step in (0..90).collect::<Vec<_>>().chunks(5) {
            let before = state.held;
            state.apply(1, &step.iter().map(|i| put(*i)).collect::<Vec<_>>()).unwrap();
            opened_again += usize::from(state.held < before);
        }
        assert!(opened_again > 2, "{opened_again}");
        let gone = Change { revision: 2, key: key(2), value: None };
        state.apply(2, &[gone]).unwrap();
        let bytes = (0..90).filter(|i| *i != 2).map(|i| value(i).len()).sum::<usize>();
        assert_eq!((state.count(), state.bytes), (89, bytes));
        let all = |state: &mut SledState| {
            let entries: Vec<Entry> = state.entries().collect::<Result<_, _>>().unwrap();
            let want = (0..90).filter(|i| *i != 2).map(|i| Entry { key: key(i), value: value(i), revision: 1 });
            assert!(entries.iter().eq(want.collect::<Vec<_>>().iter()));
        };
        all(&mut state);
        assert!(state.held < HELD_MAX + 2 * CHUNK_BYTES, "reading gives memory back, too: {}", state.held);
        state.rest().unwrap();
        assert_eq!(state.held, 0);
        all(&mut state);
        drop(state);
        let opened = home.open().unwrap().unwrap();
        assert_eq!((opened.revision, opened.entries.len()), (2, 89));
    }
}
