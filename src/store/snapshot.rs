//! Snapshot files: the whole state at one revision, checksummed.
//!
//! A file is, little-endian: magic, revision, number of entries; each entry as key length, value length, revision,
//! crc32c of all these and of key and value, key, value; then magic again. It appears under its name whole or not at all.
//!
//! **Invariant:** a file that does not check out in every byte is not used.

use std::io::{self, Read};

use bytes::{Buf, BufMut, Bytes};

use super::journal::Disk;
use super::{Entry, KEY_MAX, Revision, Snapshot, VALUE_MAX};

const MAGIC: &[u8; 8] = b"orchsnp1";
const SUFFIX: &str = ".snapshot";
const TEMPORARY: &str = "new.tmp";
/// Written and read in pieces of about this, bytes.
const PIECE: usize = 1 << 20;

/// A snapshot file: `<revision>-<time>.snapshot`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id {
    /// What it is of.
    pub(super) revision: Revision,
    /// When it was written, seconds since the epoch.
    pub(super) written: i64,
}

impl Id {
    fn name(self) -> String {
        format!("{:020}-{}{SUFFIX}", self.revision, self.written)
    }

    fn parse(name: &str) -> Option<Self> {
        let (revision, written) = name.strip_suffix(SUFFIX)?.split_once('-')?;
        Some(Self { revision: revision.parse().ok()?, written: written.parse().ok()? })
    }
}

/// The snapshots there are, newest first.
pub(super) fn list(disk: &dyn Disk) -> io::Result<Vec<Id>> {
    let mut found: Vec<Id> = disk.list()?.iter().filter_map(|n| Id::parse(n)).collect();
    found.sort_unstable_by(|a, b| b.cmp(a));
    Ok(found)
}

/// Removes a snapshot.
pub(super) fn remove(disk: &dyn Disk, id: Id) -> io::Result<()> {
    disk.remove(&id.name())
}

/// Writes a snapshot of `count` entries at a time (seconds since the epoch), each as it is read; it is durable after.
/// Gives back its size, bytes.
pub(super) fn write(
    disk: &dyn Disk,
    id: Id,
    count: usize,
    entries: impl Iterator<Item = io::Result<Entry>>,
) -> io::Result<u64> {
    let written = write_whole(disk, id, count, entries);
    if written.is_err() {
        // Half a snapshot must not take the room that the journal needs. Where it cannot be removed, the next one
        // overwrites it.
        let _ = disk.remove(TEMPORARY);
    }
    written
}

fn write_whole(
    disk: &dyn Disk,
    id: Id,
    count: usize,
    entries: impl Iterator<Item = io::Result<Entry>>,
) -> io::Result<u64> {
    let mut file = disk.create(TEMPORARY)?;
    let (mut size, mut written) = (0, 0);
    let mut piece = Vec::with_capacity(PIECE);
    piece.put_slice(MAGIC);
    piece.put_u64_le(id.revision);
    piece.put_u64_le(count as u64);
    for entry in entries {
        let entry = entry?;
        let lengths = lengths(&entry);
        piece.put_slice(&lengths);
        piece.put_u32_le(crc(&lengths, &entry));
        piece.put_slice(&entry.key);
        piece.put_slice(&entry.value);
        written += 1;
        if piece.len() >= PIECE {
            file.append(&piece)?;
            size += piece.len() as u64;
            piece.clear();
        }
    }
    if written != count {
        return Err(io::Error::other(format!("{written} entries were read, {count} were expected")));
    }
    piece.put_slice(MAGIC);
    file.append(&piece)?;
    file.sync()?;
    drop(file);
    disk.rename(TEMPORARY, &id.name())?;
    disk.sync_names()?;
    Ok(size + piece.len() as u64)
}

fn lengths(entry: &Entry) -> [u8; 16] {
    let mut out = [0; 16];
    out[..4].copy_from_slice(&(entry.key.len() as u32).to_le_bytes());
    out[4..8].copy_from_slice(&(entry.value.len() as u32).to_le_bytes());
    out[8..].copy_from_slice(&entry.revision.to_le_bytes());
    out
}

fn crc(lengths: &[u8], entry: &Entry) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(lengths), &entry.key), &entry.value)
}

/// Reads and checks a snapshot.
pub(super) fn read(disk: &dyn Disk, id: Id) -> io::Result<Snapshot> {
    let broken = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {what}", id.name()));
    let mut file = io::BufReader::with_capacity(PIECE, disk.read(&id.name())?);
    let mut head = [0; 24];
    file.read_exact(&mut head)?;
    let (magic, mut numbers) = head.split_at(MAGIC.len());
    if magic != MAGIC || numbers.get_u64_le() != id.revision {
        return Err(broken("not a snapshot of this revision"));
    }
    let mut entries = Vec::new();
    for _ in 0..numbers.get_u64_le() {
        let mut head = [0; 20];
        file.read_exact(&mut head)?;
        let mut numbers = &head[..];
        let (key, value) = (numbers.get_u32_le() as usize, numbers.get_u32_le() as usize);
        let (revision, sum) = (numbers.get_u64_le(), numbers.get_u32_le());
        if key > KEY_MAX || value > VALUE_MAX {
            return Err(broken("an entry has impossible lengths"));
        }
        let mut take = |len| {
            let mut bytes = vec![0; len];
            file.read_exact(&mut bytes).map(|()| Bytes::from(bytes))
        };
        let entry = Entry { key: take(key)?, value: take(value)?, revision };
        if crc(&head[..16], &entry) != sum {
            return Err(broken("an entry does not match its checksum"));
        }
        entries.push(entry);
    }
    let mut rest = Vec::new();
    file.read_to_end(&mut rest)?;
    if rest != MAGIC {
        return Err(broken("it does not end where it should"));
    }
    Ok(Snapshot { revision: id.revision, entries })
}
