//! Snapshots behind continue tokens: a resource as it was at the revision of a list's first page.
//!
//! A snapshot is an undo log. A change records the row it replaces in the resource's newest
//! snapshot only; an older snapshot is read through all newer ones. Taking one costs nothing,
//! and a change costs the same however many there are.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::Revision;
use crate::image::{Row, RowKey};

/// How long a continue token works: what Kubernetes clients know from etcd's compaction.
pub(crate) const KEEP: Duration = Duration::from_secs(300);
/// Lists under way at once, over all resources.
const MAX_SNAPSHOTS: usize = 64;
/// Replaced values that snapshots keep alive, together; beyond it the oldest snapshot goes.
const MAX_BYTES: usize = 8 << 20;
/// What a recorded row costs beside its value.
const ROW_BYTES: usize = 160;

/// What a resource's rows were; `None`: there was no such row.
pub(crate) type Undo = BTreeMap<RowKey, Option<Row>>;

#[derive(Debug)]
struct Snapshot {
    revision: Revision,
    taken: Duration,
    undo: Undo,
    bytes: usize,
}

/// All snapshots, per resource oldest first.
#[derive(Debug, Default)]
pub(crate) struct Snapshots {
    resources: HashMap<Arc<str>, VecDeque<Snapshot>>,
    count: usize,
    bytes: usize,
}

impl Snapshots {
    /// Keeps the resource as it is now, at `revision`.
    pub(crate) fn take(&mut self, resource: &Arc<str>, revision: Revision, now: Duration) {
        self.expire(now);
        let known = self.resources.get(resource).and_then(VecDeque::back);
        if known.is_some_and(|snapshot| snapshot.revision == revision) {
            return;
        }
        while self.count >= MAX_SNAPSHOTS {
            self.drop_oldest();
        }
        let snapshot = Snapshot { revision, taken: now, undo: Undo::new(), bytes: 0 };
        self.resources.entry(resource.clone()).or_default().push_back(snapshot);
        self.count += 1;
    }

    /// A row of the resource is about to change from `old`.
    pub(crate) fn record(&mut self, resource: &str, row: &RowKey, old: Option<&Row>, now: Duration) {
        if self.count == 0 {
            return;
        }
        self.expire(now);
        let Some(snapshot) = self.resources.get_mut(resource).and_then(VecDeque::back_mut) else { return };
        if snapshot.undo.contains_key(row) {
            return;
        }
        let bytes = ROW_BYTES + old.map_or(0, |old| old.value.len());
        snapshot.undo.insert(row.clone(), old.cloned());
        snapshot.bytes += bytes;
        self.bytes += bytes;
        while self.bytes > MAX_BYTES {
            self.drop_oldest();
        }
    }

    /// What differs from the present in the resource as it was at `revision`; `None` when that
    /// is not kept (any more).
    pub(crate) fn undo(&mut self, resource: &str, revision: Revision, now: Duration) -> Option<Undo> {
        self.expire(now);
        let queue = self.resources.get(resource)?;
        let first = queue.iter().position(|snapshot| snapshot.revision == revision)?;
        let mut undo = Undo::new();
        for snapshot in queue.range(first..) {
            for (row, old) in &snapshot.undo {
                undo.entry(row.clone()).or_insert_with(|| old.clone());
            }
        }
        Some(undo)
    }

    fn expire(&mut self, now: Duration) {
        while self.oldest().is_some_and(|(_, taken)| taken + KEEP < now) {
            self.drop_oldest();
        }
    }

    fn oldest(&self) -> Option<(&Arc<str>, Duration)> {
        let fronts = self.resources.iter().filter_map(|(name, queue)| Some((name, queue.front()?.taken)));
        fronts.min_by_key(|(_, taken)| *taken)
    }

    fn drop_oldest(&mut self) {
        let Some(resource) = self.oldest().map(|(resource, _)| resource.clone()) else { return };
        let Some(queue) = self.resources.get_mut(&resource) else { return };
        if let Some(snapshot) = queue.pop_front() {
            self.count -= 1;
            self.bytes -= snapshot.bytes;
        }
        if queue.is_empty() {
            self.resources.remove(&resource);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> RowKey {
        RowKey { namespace: "".into(), name: name.into() }
    }

    fn row(revision: u64, size: usize) -> Row {
        Row { revision: Revision(revision), schema: 0, value: vec![0; size].into(), seal: None, stored: false }
    }

    const NOW: Duration = Duration::from_secs(1000);

    #[test]
    fn an_older_snapshot_reads_through_newer_ones() {
        let pods: Arc<str> = "pods".into();
        let mut snapshots = Snapshots::default();
        snapshots.take(&pods, Revision(10), NOW);
        snapshots.record("pods", &key("a"), Some(&row(5, 1)), NOW);
        snapshots.take(&pods, Revision(20), NOW);
        snapshots.record("pods", &key("a"), Some(&row(15, 1)), NOW);
        snapshots.record("pods", &key("b"), None, NOW);
        snapshots.record("nodes", &key("b"), None, NOW);

        let at = |snapshots: &mut Snapshots, revision| {
            let undo = snapshots.undo("pods", Revision(revision), NOW)?;
            Some(undo.into_iter().map(|(k, row)| (k.name.to_string(), row.map(|r| r.revision.0))).collect::<Vec<_>>())
        };
        assert_eq!(at(&mut snapshots, 10), Some(vec![("a".into(), Some(5)), ("b".into(), None)]));
        assert_eq!(at(&mut snapshots, 20), Some(vec![("a".into(), Some(15)), ("b".into(), None)]));
        assert_eq!(at(&mut snapshots, 15), None);
    }

    #[test]
    fn bounded_in_time_number_and_bytes() {
        let pods: Arc<str> = "pods".into();
        let mut snapshots = Snapshots::default();
        snapshots.take(&pods, Revision(1), NOW);
        assert!(snapshots.undo("pods", Revision(1), NOW + KEEP).is_some());
        assert!(snapshots.undo("pods", Revision(1), NOW + KEEP + Duration::from_millis(1)).is_none());

        for revision in 1..=2 * MAX_SNAPSHOTS as u64 {
            snapshots.take(&pods, Revision(revision), NOW);
        }
        assert_eq!(snapshots.count, MAX_SNAPSHOTS);
        assert!(snapshots.undo("pods", Revision(1), NOW).is_none());

        for number in 0..40 {
            snapshots.record("pods", &key(&number.to_string()), Some(&row(1, 1 << 20)), NOW);
        }
        assert!(snapshots.bytes <= MAX_BYTES);
        assert_eq!(snapshots.bytes, snapshots.resources.values().flatten().map(|s| s.bytes).sum::<usize>());
    }
}
