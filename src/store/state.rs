//! The materialized state behind the journal, as a trait, so that tests can damage it.
//!
//! **Invariant:** the state is only ever a help: all of it can be made again from the newest snapshot and the journal.

use super::{Change, Entry, Revision};

/// Where a materialized state lives.
pub(super) trait Home: Send + Sync {
    /// Opens what is there and checks every byte of it; none when nothing ever was. The error says what is wrong.
    fn open(&self) -> Result<Option<Opened>, String>;
    /// Sets aside what is there, if anything, and makes an empty one.
    fn make(&self) -> Result<Box<dyn State>, String>;
}

/// A state that passed its checks.
pub(super) struct Opened {
    /// For writing on.
    pub(super) state: Box<dyn State>,
    /// All changes up to this revision are in it.
    pub(super) revision: Revision,
    /// All of it.
    pub(super) entries: Vec<Entry>,
}

/// A materialized state.
pub(super) trait State: Send {
    /// Applies changes in one atomic step, after which it is at `revision`. At most one change per key.
    fn apply(&mut self, revision: Revision, changes: &[Change]) -> Result<(), String>;
    /// Reads all of it, in key order.
    fn read(&self) -> Result<Vec<Entry>, String>;
    /// Writes out what may still be buffered.
    fn flush(&mut self) -> Result<(), String>;
}
