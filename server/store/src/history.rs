//! The change tail of one resource: what watchers read.
//!
//! Each resource has its own tail with its own budget, so that churn in one never expires the
//! history of another. A tail is cut at its old end only, by whole revisions.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::image::{Row, RowKey};
use crate::{Event, Item, Key, Revision};

/// Bytes a tail may keep whatever the size of its resource: about 500 changes of 1 kB.
const BUDGET_FLOOR: usize = 512 << 10;
/// A large resource keeps an eighth of its live bytes on top of nothing else, because the price
/// of expiry there (everyone lists again) grows with it.
const BUDGET_SHARE: usize = 8;
/// Kept however large the objects are, so that a watcher of 3 MiB objects can follow at all.
const MIN_CHANGES: usize = 16;
/// What an entry costs beside the bytes of its values.
const ENTRY_BYTES: usize = std::mem::size_of::<Change>();

/// One change as kept in a tail.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// Order of changes over all resources.
    pub sequence: u64,
    pub revision: Revision,
    pub row: RowKey,
    pub old: Option<Row>,
    pub new: Option<Row>,
    pub last: Option<Arc<[u8]>>,
}

impl Change {
    fn bytes(&self) -> usize {
        let value = |row: &Option<Row>| row.as_ref().map_or(0, |row| row.value.len());
        // A new value is shared with the image, or is the old one of the next change.
        ENTRY_BYTES + value(&self.old).max(value(&self.new)) + self.last.as_ref().map_or(0, |last| last.len())
    }

    pub(crate) fn event(&self, resource: &Arc<str>) -> Event {
        let key =
            Key { resource: resource.clone(), namespace: self.row.namespace.clone(), name: self.row.name.clone() };
        let item = |row: &Option<Row>| -> Option<Item> { row.as_ref().map(|row| row.item(key.clone())) };
        let (old, new) = (item(&self.old), item(&self.new));
        Event { revision: self.revision, old, new, last: self.last.clone(), key }
    }
}

/// The newest changes of one resource, oldest first.
#[derive(Debug)]
pub(crate) struct Tail {
    changes: VecDeque<Change>,
    bytes: usize,
    /// Every change above this revision is here.
    floor: Revision,
    /// Revision of the last change, or where the tail began.
    newest: Revision,
}

impl Tail {
    pub(crate) fn new(floor: Revision) -> Tail {
        Tail { changes: VecDeque::new(), bytes: 0, floor, newest: floor }
    }

    pub(crate) fn floor(&self) -> Revision {
        self.floor
    }

    pub(crate) fn newest(&self) -> Revision {
        self.newest
    }

    /// Adds a change and drops the oldest revisions beyond the budget. `live` are the bytes of the
    /// resource's present objects.
    pub(crate) fn push(&mut self, change: Change, live: usize) {
        self.newest = change.revision;
        self.bytes += change.bytes();
        self.changes.push_back(change);
        let budget = BUDGET_FLOOR.max(live / BUDGET_SHARE);
        while self.bytes > budget && self.changes.len() > MIN_CHANGES {
            if !self.drop_oldest() {
                return;
            }
        }
    }

    /// Drops the oldest revision; `false` when it is the only one.
    fn drop_oldest(&mut self) -> bool {
        let oldest = self.changes[0].revision;
        if oldest == self.newest {
            return false;
        }
        while let Some(change) = self.changes.pop_front_if(|change| change.revision == oldest) {
            self.bytes -= change.bytes();
        }
        self.floor = oldest;
        true
    }

    /// Changes above `after`, oldest first; `None` when some of them are gone.
    pub(crate) fn after(&self, after: Revision) -> Option<impl Iterator<Item = &Change>> {
        if after < self.floor {
            return None;
        }
        let start = self.changes.partition_point(|change| change.revision <= after);
        Some(self.changes.range(start..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(revision: u64, size: usize) -> Change {
        let row = RowKey { namespace: "a".into(), name: "b".into() };
        let value: Arc<[u8]> = vec![b'x'; size].into();
        let new = Some(Row { revision: Revision(revision), schema: 1, value, seal: None, stored: false });
        Change { sequence: revision, revision: Revision(revision), row, old: None, new, last: None }
    }

    #[test]
    fn keeps_to_its_budget_and_raises_the_floor() {
        let mut tail = Tail::new(Revision(0));
        for revision in 1..=10_000 {
            tail.push(change(revision, 1000), 0);
        }
        assert!(tail.bytes <= BUDGET_FLOOR);
        assert!(tail.floor() > Revision(9_000) && tail.floor() < Revision(9_900), "floor {}", tail.floor());
        assert!(tail.after(Revision(1)).is_none());
        let kept: Vec<u64> = tail.after(tail.floor()).expect("the floor can be read").map(|c| c.revision.0).collect();
        assert_eq!(kept.first(), Some(&(tail.floor().0 + 1)));
        assert_eq!(kept.last(), Some(&10_000));
    }

    #[test]
    fn a_revision_is_dropped_as_a_whole() {
        let mut tail = Tail::new(Revision(0));
        for sequence in 0..100 {
            tail.push(change(1, 100 << 10), 0);
            assert_eq!(tail.changes.len(), sequence + 1, "the newest revision stays whole");
        }
        for revision in 2..=20 {
            tail.push(change(revision, 100 << 10), 0);
        }
        assert!(tail.floor() >= Revision(1));
        assert!(tail.changes.iter().all(|change| change.revision > Revision(1)));
        assert!(tail.changes.len() >= MIN_CHANGES);
    }

    #[test]
    fn a_large_resource_keeps_more() {
        let mut tail = Tail::new(Revision(0));
        for revision in 1..=10_000 {
            tail.push(change(revision, 1000), 100 << 20);
        }
        assert_eq!(tail.floor(), Revision(0));
    }
}
