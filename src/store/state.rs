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
    /// How many entries there are.
    fn count(&self) -> usize;
    /// All of it, in key order, read piece by piece; ends after an error.
    fn entries(&mut self) -> Box<dyn Iterator<Item = Result<Entry, String>> + '_>;
    /// Writes out what may still be buffered.
    fn flush(&mut self) -> Result<(), String>;
    /// Nothing is wanted of it for a while: it gives back what memory it can.
    fn rest(&mut self) -> Result<(), String> {
        Ok(())
    }
}
