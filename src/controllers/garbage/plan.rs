//! What becomes of an object, by the state of its owners and dependents. No IO.
//!
//! Rules: upstream `pkg/controller/garbagecollector` (`attemptToDeleteItem`).

use crate::api::object::Object;
use crate::client::Propagation;

/// Holds an object until its blocking dependents are gone.
pub const FOREGROUND: &str = "foregroundDeletion";
/// Holds an object until its dependents no longer name it.
pub const ORPHAN: &str = "orphan";

/// How an owner stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// It is there.
    Solid,
    /// No object has its uid any more.
    Absent,
    /// It is being deleted and waits for its dependents.
    Waiting,
}

/// What is known of an object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Item {
    /// It is being deleted.
    pub deleting: bool,
    /// It has the finalizer [`FOREGROUND`].
    pub foreground: bool,
    /// It has the finalizer [`ORPHAN`].
    pub orphan: bool,
    /// Uids of its owners, and how they stand.
    pub owners: Vec<(String, Owner)>,
    /// Number of its dependents.
    pub dependents: usize,
    /// Of these, those that block its deletion.
    pub blocking: usize,
    /// A dependent waits for its own dependents: the object may be one of them.
    pub circle: bool,
    /// It blocks the deletion of an owner.
    pub blocks: bool,
}

impl Item {
    /// Without owners and dependents.
    pub fn new(object: &Object) -> Self {
        let held_by = |f: &str| object.meta.finalizers.iter().any(|x| &**x == f);
        Self {
            deleting: object.is_deleting(),
            foreground: held_by(FOREGROUND),
            orphan: held_by(ORPHAN),
            blocks: object.meta.owners.iter().any(|o| o.block_owner_deletion),
            ..Self::default()
        }
    }
}

/// What to do with an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// It stays.
    Nothing,
    /// It goes.
    Delete(Propagation),
    /// It forgets these owners, by uid.
    Forget(Vec<String>),
    /// It loses a finalizer of ours.
    Release(&'static str),
    /// It no longer blocks the deletion of its owners: they wait for each other in a circle.
    Unblock,
    /// Its dependents forget it, then it loses [`ORPHAN`].
    OrphanDependents,
}

/// Decides.
pub fn decide(item: &Item) -> Act {
    if item.deleting {
        return match item {
            Item { orphan: true, .. } => Act::OrphanDependents,
            Item { foreground: true, blocking: 0, .. } => Act::Release(FOREGROUND),
            _ => Act::Nothing,
        };
    }
    let lost: Vec<&(String, Owner)> = item.owners.iter().filter(|(_, o)| *o != Owner::Solid).collect();
    if lost.is_empty() {
        return Act::Nothing;
    }
    if lost.len() < item.owners.len() {
        return Act::Forget(lost.iter().map(|(uid, _)| uid.clone()).collect());
    }
    let waited_for = lost.iter().any(|(_, o)| *o == Owner::Waiting);
    if waited_for && item.circle && item.blocks {
        return Act::Unblock;
    }
    Act::Delete(match item {
        // An owner that waits wants to see the whole tree below it gone, whatever was asked of this object before.
        _ if waited_for && item.dependents > 0 => Propagation::Foreground,
        Item { orphan: true, .. } => Propagation::Orphan,
        Item { foreground: true, .. } => Propagation::Foreground,
        _ => Propagation::Background,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    fn item(owners: &[Owner]) -> Item {
        let owners = owners.iter().enumerate().map(|(i, o)| (i.to_string(), *o)).collect();
        Item { owners, ..Item::default() }
    }

    #[test_case(item(&[]), Act::Nothing; "nobody owns it")]
    #[test_case(item(&[Owner::Solid]), Act::Nothing; "its owner is there")]
    #[test_case(item(&[Owner::Absent]), Act::Delete(Propagation::Background); "its owner is gone")]
    #[test_case(item(&[Owner::Absent, Owner::Solid]), Act::Forget(vec!["0".into()]); "one of two is gone")]
    #[test_case(item(&[Owner::Waiting]), Act::Delete(Propagation::Background); "a leaf that is waited for")]
    #[test_case(Item { dependents: 1, ..item(&[Owner::Waiting]) }, Act::Delete(Propagation::Foreground); "a branch that is waited for")]
    #[test_case(Item { dependents: 1, circle: true, blocks: true, ..item(&[Owner::Waiting]) }, Act::Unblock; "a circle")]
    #[test_case(Item { dependents: 1, circle: true, ..item(&[Owner::Waiting]) }, Act::Delete(Propagation::Foreground); "a circle that is open")]
    #[test_case(Item { orphan: true, ..item(&[Owner::Absent]) }, Act::Delete(Propagation::Orphan))]
    #[test_case(Item { orphan: true, ..item(&[Owner::Waiting]) }, Act::Delete(Propagation::Orphan); "a leaf that should orphan")]
    #[test_case(Item { orphan: true, dependents: 1, ..item(&[Owner::Waiting]) }, Act::Delete(Propagation::Foreground); "a branch that is waited for, and should orphan")]
    #[test_case(Item { deleting: true, ..item(&[Owner::Absent]) }, Act::Nothing; "already going")]
    #[test_case(Item { deleting: true, foreground: true, blocking: 2, ..item(&[]) }, Act::Nothing; "waits")]
    #[test_case(Item { deleting: true, foreground: true, ..item(&[]) }, Act::Release(FOREGROUND); "has waited")]
    #[test_case(Item { deleting: true, orphan: true, ..item(&[]) }, Act::OrphanDependents)]
    fn decides(item: Item, want: Act) {
        assert_eq!(decide(&item), want);
    }
}
