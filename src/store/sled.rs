//! The materialized state in sled.
//!
//! Keys in sled: `m` is the summary (revision, number and digest of all entries), `k` and a key its value's head and
//! first part, `c`, a key and a number a further part. Every step changes entries and summary in one sled batch, so
//! what sled recovers after a crash is the state after some step; the summary proves it.
//!
//! **Invariant:** a state whose entries do not add up to its summary is not used.
//! **Invariant:** no value in sled is longer than [`CHUNK_BYTES`] and a head: longer ones leak blob files.

use std::collections::HashMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::state::{Home, Opened, State};
use super::{Change, Entry, Key, Revision};

/// Largest part of a value, bytes.
const CHUNK_BYTES: usize = 64 << 10;
/// sled's page cache, bytes; reads come from the watch cache.
const CACHE_BYTES: u64 = 8 << 20;
/// Damaged states that are kept for people to look at.
const ASIDE_MAX: usize = 2;
/// Revision, length, crc32c.
const HEAD: usize = 16;
const SUMMARY: &[u8] = b"m";

/// A sled database in a directory.
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
            let db = self.config().open().map_err(|e| e.to_string())?;
            let mut state = SledState { db, rows: HashMap::new(), sum: Sum::default() };
            let (revision, entries) = state.load()?;
            Ok(Some(Opened { state: Box::new(state), revision, entries }))
        })
    }

    fn make(&self) -> Result<Box<dyn State>, String> {
        if self.0.exists() {
            self.aside()?;
        }
        guarded("make", || {
            let db = self.config().open().map_err(|e| e.to_string())?;
            Ok(Box::new(SledState { db, rows: HashMap::new(), sum: Sum::default() }) as Box<dyn State>)
        })
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

/// What an entry adds to the sum, and how many parts its value has.
#[derive(Clone, Copy)]
struct Row {
    digest: u64,
    parts: u16,
}

impl Row {
    fn of(key: &[u8], revision: Revision, value: &[u8]) -> Self {
        let mut z = (u64::from(crc32c::crc32c(key)) << 32 | u64::from(crc32c::crc32c(value)))
            ^ revision.wrapping_mul(0x9e37_79b9_7f4a_7c15)
            ^ (value.len() as u64).rotate_left(48);
        // splitmix64: so that sums of similar entries do not cancel out.
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self { digest: z ^ (z >> 31), parts: value.len().div_ceil(CHUNK_BYTES).max(1) as u16 }
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
    db: sled::Db,
    rows: HashMap<Key, Row>,
    sum: Sum,
}

fn head_key(key: &[u8]) -> Vec<u8> {
    [b"k", key].concat()
}

fn part_key(key: &[u8], part: u16) -> Vec<u8> {
    [b"c", key, &[0], &part.to_be_bytes()].concat()
}

impl SledState {
    /// Reads and checks everything.
    fn load(&mut self) -> Result<(Revision, Vec<Entry>), String> {
        let Some(summary) = self.db.get(SUMMARY).map_err(|e| e.to_string())? else {
            return match self.db.is_empty() {
                true => Ok((0, Vec::new())),
                false => Err("it has entries and no summary".to_owned()),
            };
        };
        let mut text = &summary[..];
        if text.len() != 24 {
            return Err("its summary is malformed".to_owned());
        }
        let (revision, count, digest) = (text.get_u64_le(), text.get_u64_le(), text.get_u64_le());
        let entries = self.read()?;
        for entry in &entries {
            let row = Row::of(&entry.key, entry.revision, &entry.value);
            self.sum.add(row);
            self.rows.insert(entry.key.clone(), row);
        }
        match self.sum == (Sum { count, digest }) {
            true => Ok((revision, entries)),
            false => Err("its entries do not add up to its summary".to_owned()),
        }
    }

    fn entry(&self, key: &[u8], stored: &[u8]) -> Result<Entry, String> {
        let broken = || format!("the value of {} is malformed", String::from_utf8_lossy(key));
        if stored.len() < HEAD {
            return Err(broken());
        }
        let mut head = &stored[..HEAD];
        let (revision, len, crc) = (head.get_u64_le(), head.get_u32_le() as usize, head.get_u32_le());
        let first = &stored[HEAD..];
        let value = if first.len() == len {
            Bytes::copy_from_slice(first)
        } else {
            let mut whole = BytesMut::with_capacity(len.min(super::VALUE_MAX));
            whole.put_slice(first);
            for part in 1..len.div_ceil(CHUNK_BYTES) {
                let next = self.db.get(part_key(key, part as u16)).map_err(|e| e.to_string())?;
                whole.put_slice(&next.ok_or_else(broken)?);
            }
            whole.freeze()
        };
        if value.len() != len || crc32c::crc32c(&value) != crc {
            return Err(broken());
        }
        Ok(Entry { key: Bytes::copy_from_slice(key), value, revision })
    }
}

impl State for SledState {
    fn apply(&mut self, revision: Revision, changes: &[Change]) -> Result<(), String> {
        let mut batch = sled::Batch::default();
        for change in changes {
            let row = change.value.as_ref().map(|v| Row::of(&change.key, change.revision, v));
            let old = match row {
                Some(row) => self.rows.insert(change.key.clone(), row),
                None => self.rows.remove(&change.key),
            };
            old.into_iter().for_each(|r| self.sum.take(r));
            row.into_iter().for_each(|r| self.sum.add(r));
            for stale in row.map_or(1, |r| r.parts)..old.map_or(1, |r| r.parts) {
                batch.remove(part_key(&change.key, stale));
            }
            let Some(value) = &change.value else {
                batch.remove(head_key(&change.key));
                continue;
            };
            let mut parts = value.chunks(CHUNK_BYTES);
            let first = parts.next().unwrap_or_default();
            let mut stored = Vec::with_capacity(HEAD + first.len());
            stored.put_u64_le(change.revision);
            stored.put_u32_le(value.len() as u32);
            stored.put_u32_le(crc32c::crc32c(value));
            stored.put_slice(first);
            batch.insert(head_key(&change.key), stored);
            for (i, part) in parts.enumerate() {
                batch.insert(part_key(&change.key, i as u16 + 1), part);
            }
        }
        let summary = [revision.to_le_bytes(), self.sum.count.to_le_bytes(), self.sum.digest.to_le_bytes()].concat();
        batch.insert(SUMMARY, summary);
        guarded("write", || self.db.apply_batch(batch).map_err(|e| e.to_string()))
    }

    fn read(&self) -> Result<Vec<Entry>, String> {
        guarded("read", || {
            let mut entries = Vec::with_capacity(self.rows.len());
            for pair in self.db.scan_prefix(b"k") {
                let (key, stored) = pair.map_err(|e| e.to_string())?;
                entries.push(self.entry(&key[1..], &stored)?);
            }
            Ok(entries)
        })
    }

    fn flush(&mut self) -> Result<(), String> {
        guarded("flush", || self.db.flush().map(drop).map_err(|e| e.to_string()))
    }
}
