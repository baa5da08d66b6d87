//! The journal: every commit, appended and synced before it is acknowledged.
//!
//! Segments are files named by the first revision they may hold. A new one is begun at every start and whenever one is
//! full; an old one is never written again. Groups of commits are appended at once and synced once.
//!
//! **Invariant:** what `append` returned `Ok` for survives a power cut.
//! **Invariant:** after an error of the disk nothing is appended any more: the end of the file is unknown.
//! **Invariant:** a hole is dropped only where nothing in it was ever acknowledged; any other is reported as damage.

mod disk;
mod record;
#[cfg(test)]
pub(in crate::store) mod sim;

use std::io::{self, Read};
use std::sync::Arc;

pub use disk::{Append, Disk, RealDisk};
pub(super) use record::Record;

use super::{Change, Revision};

/// A segment is full beyond this, bytes.
pub const SEGMENT_BYTES: u64 = 16 << 20;
const SUFFIX: &str = ".journal";

/// The name of the segment that begins with a revision.
fn name(first: Revision) -> String {
    format!("{first:020}{SUFFIX}")
}

/// The segments there are, oldest first: their first revisions.
pub(super) fn segments(disk: &dyn Disk) -> io::Result<Vec<Revision>> {
    let first = |n: &String| n.strip_suffix(SUFFIX).and_then(|r| r.parse().ok());
    let mut found: Vec<Revision> = disk.list()?.iter().filter_map(first).collect();
    found.sort_unstable();
    Ok(found)
}

/// Removes the segments that hold nothing after `revision`.
pub(super) fn prune(disk: &dyn Disk, revision: Revision) -> io::Result<()> {
    for pair in segments(disk)?.windows(2) {
        if pair[1] <= revision + 1 {
            disk.remove(&name(pair[0]))?;
        }
    }
    disk.sync_names()
}

/// Appends groups of commits.
pub(super) struct Writer {
    disk: Arc<dyn Disk>,
    file: Option<(Box<dyn Append>, u64)>,
    /// Everything up to this revision is durable.
    durable: Revision,
    segment_bytes: u64,
    buffer: Vec<u8>,
    failed: bool,
}

impl Writer {
    /// A writer that goes on after `durable`. Touches nothing before the first commit.
    pub(super) fn new(disk: Arc<dyn Disk>, durable: Revision, segment_bytes: u64) -> Self {
        Self { disk, file: None, durable, segment_bytes, buffer: Vec::new(), failed: false }
    }

    /// Adds a commit to the group that is being filled.
    pub(super) fn stage(&mut self, revision: Revision, changes: &[Change]) {
        record::encode(&mut self.buffer, revision, self.durable, changes);
    }

    /// Bytes staged.
    pub(super) fn staged(&self) -> usize {
        self.buffer.len()
    }

    /// Makes the staged group durable; `last` is its last revision. After an error it fails for ever.
    pub(super) fn append(&mut self, last: Revision) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other("the journal failed before"));
        }
        self.failed = true;
        self.write()?;
        self.failed = false;
        self.durable = last;
        // One huge group must not hold its memory for ever.
        self.buffer.clear();
        self.buffer.shrink_to(1 << 20);
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        if self.file.as_ref().is_some_and(|(_, len)| *len >= self.segment_bytes) {
            self.file = None;
        }
        let fresh = self.file.is_none();
        let (file, len) = match &mut self.file {
            Some(open) => open,
            none => none.insert((self.disk.create(&name(self.durable + 1))?, 0)),
        };
        file.append(&self.buffer)?;
        *len += self.buffer.len() as u64;
        file.sync()?;
        if fresh { self.disk.sync_names() } else { Ok(()) }
    }
}

/// Why the journal cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Acknowledged commits are not readable.
    #[error(
        "journal segment {segment} is damaged at byte {offset}: the commits after revision {after} up to {until} were \
         acknowledged and cannot be read; restore a backup, or move the data directory aside to start empty"
    )]
    Damaged {
        /// File name.
        segment: String,
        /// Where the hole begins.
        offset: u64,
        /// The last readable revision before.
        after: Revision,
        /// The last revision that is known to be lost.
        until: Revision,
    },
    /// The disk failed.
    #[error("cannot read the journal: {0}")]
    Io(#[from] io::Error),
}

/// What reading the journal found.
pub(super) struct Replay {
    /// The last revision of the journal; `since` when there is nothing after it.
    pub(super) last: Revision,
    /// The end of the last segment, because what was read of it may not be durable yet.
    pub(super) settle: Option<End>,
    /// Bytes of the torn tail.
    pub(super) torn: u64,
}

/// The end of the last segment.
pub(super) struct End {
    /// File name.
    pub(super) segment: String,
    /// Where the last group begins: all before it was durable when it was written.
    pub(super) at: u64,
    /// The last group; what stands behind it is torn.
    pub(super) group: Vec<u8>,
}

/// Reads the commits after `since`, in order. Gaps and damage up to `since` do not matter.
pub(super) fn replay(disk: &dyn Disk, since: Revision, mut each: impl FnMut(Record)) -> Result<Replay, JournalError> {
    let segments = segments(disk)?;
    let mut out = Replay { last: since, settle: None, torn: 0 };
    for (i, first) in segments.iter().enumerate() {
        let next = segments.get(i + 1).copied();
        if next.is_some_and(|n| n <= since + 1) {
            continue;
        }
        let name = name(*first);
        if *first > out.last + 1 {
            return Err(JournalError::Damaged { segment: name, offset: 0, after: out.last, until: first - 1 });
        }
        let mut bytes = Vec::new();
        disk.read(&name)?.read_to_end(&mut bytes)?;
        let Segment { sound, last, group } = read_segment(&name, &bytes, since, out.last, &mut each)?;
        out.last = last;
        match next {
            // The next segment was begun after this one's last commit had been synced, or after a start that had cut it.
            Some(next) if next > last + 1 => {
                let until = next - 1;
                return Err(JournalError::Damaged { segment: name, offset: sound, after: last, until });
            }
            Some(_) => {}
            None => {
                out.torn = bytes.len() as u64 - sound;
                bytes.truncate(sound as usize);
                out.settle = Some(End { segment: name, at: group as u64, group: bytes.split_off(group) });
            }
        }
    }
    Ok(out)
}

/// What reading one segment found.
struct Segment {
    /// Bytes that are sound.
    sound: u64,
    /// The last revision.
    last: Revision,
    /// Where the last group begins.
    group: usize,
}

/// Reads one segment.
fn read_segment(
    segment: &str,
    bytes: &[u8],
    since: Revision,
    mut last: Revision,
    each: &mut impl FnMut(Record),
) -> Result<Segment, JournalError> {
    let (mut at, mut group, mut durable) = (0, 0, None);
    while at < bytes.len() {
        let (record, len) = match record::decode(&bytes[at..]) {
            Some((record, len)) if record.revision <= last + 1 => (record, len),
            _ => match behind_hole(&bytes[at..], last) {
                None => break,
                // What the hole swallowed is known otherwise.
                Some((hole, record, len)) if record.revision <= since + 1 => {
                    tracing::warn!(segment, offset = at, "damage in the journal before what has to be read of it");
                    at += hole;
                    last = last.max(record.revision - 1);
                    (record, len)
                }
                Some((_, record, _)) => {
                    let (segment, offset, until) = (segment.to_owned(), at as u64, record.revision - 1);
                    return Err(JournalError::Damaged { segment, offset, after: last, until });
                }
            },
        };
        // The commits of one group were written over the same durable revision.
        if durable != Some(record.durable) {
            (durable, group) = (Some(record.durable), at);
        }
        at += len;
        if record.revision > last {
            last = record.revision;
            each(record);
        }
    }
    Ok(Segment { sound: at as u64, last, group })
}

/// The first record behind a hole that proves the hole to be damage: it was written when something after `last` had
/// been durable.
fn behind_hole(bytes: &[u8], last: Revision) -> Option<(usize, Record, usize)> {
    let mut at = 0;
    while let Some((offset, record, len)) = bytes.get(at..).and_then(record::find) {
        if record.durable > last {
            return Some((at + offset, record, len));
        }
        at += offset + len;
    }
    None
}

/// Commits after `since`, at most those up to `until` and of one segment; none when they are not in the journal any
/// more. For readers that are slower than the tail in memory.
pub(super) fn read_after(disk: &dyn Disk, since: Revision, until: Revision) -> io::Result<Option<Vec<Change>>> {
    let segments = segments(disk)?;
    let from = segments.partition_point(|first| *first <= since + 1);
    for first in &segments[from.saturating_sub(1)..] {
        if *first > since + 1 {
            break;
        }
        let mut bytes = Vec::new();
        disk.read(&name(*first))?.read_to_end(&mut bytes)?;
        let (mut found, mut at) = (Vec::new(), 0);
        while let Some((record, len)) = record::decode(&bytes[at..]) {
            at += len;
            if record.revision > since && record.revision <= until {
                found.extend(record.changes);
            }
        }
        if found.first().is_some_and(|c| c.revision == since + 1) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}
