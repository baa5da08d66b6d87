//! From the files that a crash left to a state: the newest base that is sound, and the journal after it.
//!
//! **Invariant:** the result holds every acknowledged commit, or there is an error.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::OpenError;
use crate::store::journal::{self, Disk, JournalError, Record, Replay};
use crate::store::state::{Home, Opened, State};
use crate::store::{Change, Entry, Key, Revision, snapshot};

/// Bytes that a rebuilt state is given at once.
const REBUILD_STEP: usize = 1 << 20;

/// A recovered store.
pub(super) struct Recovered {
    pub(super) revision: Revision,
    pub(super) entries: BTreeMap<Key, (Revision, Bytes)>,
    /// The materialized state, with everything in it; none when it cannot be made.
    pub(super) state: Option<Box<dyn State>>,
}

/// Where reading starts.
struct Base {
    revision: Revision,
    entries: Vec<Entry>,
    state: Option<Box<dyn State>>,
    /// For people.
    name: String,
}

/// Opens what is there and makes the journal's tail durable.
pub(super) fn recover(disk: &dyn Disk, home: &dyn Home) -> Result<Recovered, OpenError> {
    let mut first_failure = None;
    let mut found_any = false;
    for base in bases(disk, home, &mut found_any)? {
        let Some(mut base) = base() else { continue };
        let state = base.state.take();
        let name = std::mem::take(&mut base.name);
        match replayed(disk, base) {
            Ok(Replayed { entries, newer, replay }) => {
                settle(disk, &replay)?;
                let state = match state {
                    Some(state) => caught_up(home, state, replay.last, newer, &entries),
                    None => rebuilt(home, replay.last, &entries, found_any),
                };
                return Ok(Recovered { revision: replay.last, entries, state });
            }
            Err(error) => {
                tracing::warn!("cannot go on from {name}: {error}");
                first_failure.get_or_insert(error);
            }
        }
    }
    Err(first_failure.map_or(OpenError::NoBase, OpenError::Journal))
}

type Candidate<'a> = Box<dyn FnOnce() -> Option<Base> + 'a>;

/// Bases in the order of trying: the state, snapshots from the newest, nothing at all. Each is read when it is its turn.
fn bases<'a>(disk: &'a dyn Disk, home: &'a dyn Home, found_any: &mut bool) -> Result<Vec<Candidate<'a>>, OpenError> {
    let snapshots = snapshot::list(disk)?;
    let journal = !journal::segments(disk)?.is_empty();
    let opened = home.open();
    let never_snapshot = snapshots.is_empty();
    *found_any = !matches!(opened, Ok(None)) || journal;
    let mut out: Vec<Candidate<'a>> = Vec::new();
    out.push(Box::new(move || match opened {
        Ok(None) => None,
        Ok(Some(Opened { state, revision, entries })) => {
            Some(Base { revision, entries, state: Some(state), name: "the materialized state".to_owned() })
        }
        Err(why) => {
            tracing::warn!("the materialized state does not open and is made again from snapshot and journal: {why}");
            None
        }
    }));
    for id in snapshots {
        out.push(Box::new(move || match snapshot::read(disk, id) {
            Ok(s) => {
                let name = format!("the snapshot of revision {}", s.revision);
                Some(Base { revision: s.revision, entries: s.entries, state: None, name })
            }
            Err(error) => {
                tracing::warn!(revision = id.revision, "a snapshot cannot be used: {error}");
                None
            }
        }));
    }
    // The last segment is never removed: no snapshot and no journal means that nothing was ever acknowledged.
    if never_snapshot || journal {
        let name = "an empty store".to_owned();
        out.push(Box::new(|| Some(Base { revision: 0, entries: Vec::new(), state: None, name })));
    }
    Ok(out)
}

/// A base with the journal after it.
struct Replayed {
    entries: BTreeMap<Key, (Revision, Bytes)>,
    /// The last change of each key that the journal had after the base.
    newer: BTreeMap<Key, Change>,
    replay: Replay,
}

fn replayed(disk: &dyn Disk, base: Base) -> Result<Replayed, JournalError> {
    let mut entries: BTreeMap<_, _> = base.entries.into_iter().map(|e| (e.key, (e.revision, e.value))).collect();
    let mut newer = BTreeMap::new();
    let replay = journal::replay(disk, base.revision, |record| {
        newer.extend(record.changes.iter().map(|c| (c.key.clone(), c.clone())));
        apply(&mut entries, record);
    })?;
    Ok(Replayed { entries, newer, replay })
}

/// Cuts a torn tail off, and makes durable what was read.
fn settle(disk: &dyn Disk, replay: &Replay) -> Result<(), OpenError> {
    if let Some(end) = &replay.settle {
        if replay.torn > 0 {
            tracing::warn!(
                segment = end.segment,
                bytes = replay.torn,
                "the journal's tail was torn after revision {}; it was cut off, nothing in it was acknowledged",
                replay.last
            );
        }
        disk.settle(&end.segment, end.at, &end.group)?;
        // A process that was killed may have made the segment and not its name.
        disk.sync_names()?;
    }
    Ok(())
}

/// Gives the state what the journal had after it.
fn caught_up(
    home: &dyn Home,
    mut state: Box<dyn State>,
    last: Revision,
    newer: BTreeMap<Key, Change>,
    entries: &BTreeMap<Key, (Revision, Bytes)>,
) -> Option<Box<dyn State>> {
    if newer.is_empty() {
        return Some(state);
    }
    let newer: Vec<Change> = newer.into_values().collect();
    let done = state.apply(last, &newer).and_then(|()| state.flush());
    match done {
        Ok(()) => Some(state),
        Err(why) => {
            tracing::warn!("the materialized state cannot be brought up to date: {why}");
            drop(state);
            rebuilt(home, last, entries, true)
        }
    }
}

/// Makes the state anew. Until the last step it says that it is at revision 0, so that one that was not finished is
/// filled from the whole journal, or made again.
fn rebuilt(
    home: &dyn Home,
    last: Revision,
    entries: &BTreeMap<Key, (Revision, Bytes)>,
    tell: bool,
) -> Option<Box<dyn State>> {
    let fill = || {
        let mut state = home.make()?;
        let (mut step, mut bytes) = (Vec::new(), 0);
        for (key, (revision, value)) in entries {
            bytes += key.len() + value.len();
            step.push(Change { revision: *revision, key: key.clone(), value: Some(value.clone()) });
            if bytes >= REBUILD_STEP {
                state.apply(0, &step)?;
                (step, bytes) = (Vec::new(), 0);
            }
        }
        state.apply(last, &step)?;
        state.flush()?;
        Ok::<_, String>(state)
    };
    match fill() {
        Ok(state) => {
            if tell {
                tracing::info!(revision = last, entries = entries.len(), "the materialized state was made again");
            }
            Some(state)
        }
        Err(why) => {
            tracing::error!("going on without a materialized state, because it cannot be made: {why}");
            None
        }
    }
}

/// The state at `revision` from snapshots and journal alone, while the store runs.
pub(super) fn from_files(disk: &dyn Disk, revision: Revision) -> Result<Vec<Entry>, OpenError> {
    let mut failure = None;
    let snapshots =
        snapshot::list(disk)?.into_iter().filter(|s| s.revision <= revision).map(|s| snapshot::read(disk, s).ok());
    for base in snapshots.chain([Some(crate::store::Snapshot::default())]).flatten() {
        let mut entries: BTreeMap<_, _> = base.entries.into_iter().map(|e| (e.key, (e.revision, e.value))).collect();
        let replay = journal::replay(disk, base.revision, |record| {
            if record.revision <= revision {
                apply(&mut entries, record);
            }
        });
        match replay {
            Ok(replay) if replay.last >= revision => {
                let entry = |(key, (revision, value))| Entry { key, value, revision };
                return Ok(entries.into_iter().map(entry).collect());
            }
            Ok(_) => {}
            Err(error) => drop(failure.get_or_insert(error)),
        }
    }
    Err(failure.map_or(OpenError::NoBase, OpenError::Journal))
}

fn apply(entries: &mut BTreeMap<Key, (Revision, Bytes)>, record: Record) {
    for change in record.changes {
        match change.value {
            Some(value) => drop(entries.insert(change.key, (change.revision, value))),
            None => drop(entries.remove(&change.key)),
        }
    }
}
