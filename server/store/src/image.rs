//! The image: every object in memory in key order, with the history and the snapshots of each
//! resource. All backends read from one; it decides nothing about durability.

use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::iter::Peekable;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::history::{self, Tail};
use crate::snapshots::{Snapshots, Undo};
use crate::{Change, Clock, CommitError, Event, HistoryError, Item, Key, Page, Precondition, Range, Revision};

/// Names a row of a resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RowKey {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

/// One object as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub revision: Revision,
    pub schema: u16,
    pub value: Arc<[u8]>,
    /// The uid of an object whose bytes are encrypted on disk.
    pub seal: Option<Arc<str>>,
    /// Some version of the object may be on disk, so that its removal has to get there.
    pub stored: bool,
}

impl Row {
    pub(crate) fn item(&self, key: Key) -> Item {
        Item { key, revision: self.revision, schema: self.schema, value: self.value.clone() }
    }
}

/// One resource.
#[derive(Debug)]
struct Table {
    resource: Arc<str>,
    rows: BTreeMap<RowKey, Row>,
    /// Sum of the values' sizes.
    bytes: usize,
    tail: Tail,
    /// One copy of every namespace's name, shared by the rows.
    namespaces: BTreeSet<Arc<str>>,
}

/// The whole store in memory.
pub(crate) struct Image {
    revision: Revision,
    /// The revision the image began at; nothing older can be read.
    start: Revision,
    sequence: u64,
    tables: BTreeMap<Arc<str>, Table>,
    snapshots: Mutex<Snapshots>,
    clock: Clock,
}

impl Image {
    /// An empty image at `start`.
    pub(crate) fn new(start: Revision, clock: Clock) -> Image {
        let snapshots = Mutex::new(Snapshots::default());
        Image { revision: start, start, sequence: 0, tables: BTreeMap::new(), snapshots, clock }
    }

    /// Fills an image with what a disk held of a resource. No events.
    pub(crate) fn load(&mut self, resource: Arc<str>, rows: BTreeMap<RowKey, Row>) {
        let mut table = Table::new(resource.clone(), self.start);
        table.bytes = rows.values().map(|row| row.value.len()).sum();
        rows.keys().for_each(|key| drop(intern(&mut table.namespaces, &key.namespace)));
        table.rows = rows;
        self.tables.insert(resource, table);
    }

    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    pub(crate) fn row(&self, key: &Key) -> Option<&Row> {
        self.tables.get(&key.resource)?.rows.get(&RowKey::of(key))
    }

    /// The key with the names that the image holds, so that keeping it costs no text.
    pub(crate) fn shared_key(&self, key: &Key) -> Key {
        let found = self.tables.get_key_value(&key.resource);
        let row = found.and_then(|(resource, table)| Some((resource, table.rows.get_key_value(&RowKey::of(key))?.0)));
        row.map_or_else(
            || key.clone(),
            |(resource, row)| Key {
                resource: resource.clone(),
                namespace: row.namespace.clone(),
                name: row.name.clone(),
            },
        )
    }

    /// Everything, in the order of keys.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (Key, &Row)> {
        self.tables.values().flat_map(|table| {
            table.rows.iter().map(|(key, row)| {
                let (namespace, name) = (key.namespace.clone(), key.name.clone());
                (Key { resource: table.resource.clone(), namespace, name }, row)
            })
        })
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Item> {
        Some(self.row(key)?.item(key.clone()))
    }

    pub(crate) fn count(&self, resource: &str) -> usize {
        self.tables.get(resource).map_or(0, |table| table.rows.len())
    }

    /// Whether the preconditions hold now.
    pub(crate) fn check(&self, preconditions: &[Precondition]) -> Result<(), CommitError> {
        check(preconditions, |key| self.row(key).map(|row| row.revision))
    }

    /// Applies the changes of one commit at `revision`. Deleting what is not there changes
    /// nothing, and a commit that changes nothing takes no revision. `stored`: it is on disk.
    pub(crate) fn apply(&mut self, revision: Revision, changes: &[Change], stored: bool) {
        let now = if changes.is_empty() { Default::default() } else { (self.clock)() };
        for change in changes {
            let key = change.key();
            let table = match self.tables.get_mut(&key.resource) {
                Some(table) => table,
                None if matches!(change, Change::Delete { .. }) => continue,
                None => {
                    let table = Table::new(key.resource.clone(), self.start);
                    self.tables.entry(key.resource.clone()).or_insert(table)
                }
            };
            let snapshots = self.snapshots.get_mut().unwrap_or_else(PoisonError::into_inner);
            let row = RowKey::of(key);
            let before = |old: Option<&Row>| snapshots.record(&key.resource, &row, old, now);
            if table.apply(self.sequence, revision, change, stored, &row, before) {
                self.sequence += 1;
                self.revision = revision;
            }
        }
    }

    /// Marks that some version of these objects is (about to be) on disk.
    pub(crate) fn mark_stored<'a>(&mut self, keys: impl Iterator<Item = &'a Key>) {
        for key in keys {
            let row = self.tables.get_mut(&key.resource).and_then(|table| table.rows.get_mut(&RowKey::of(key)));
            if let Some(row) = row {
                row.stored = true;
            }
        }
    }

    pub(crate) fn list(&self, range: &Range) -> Result<Page, HistoryError> {
        let at = range.at.unwrap_or(self.revision);
        if at > self.revision {
            return Err(HistoryError::Future { current: self.revision });
        }
        let table = self.tables.get(&range.resource);
        let unchanged = at >= table.map_or(self.start, |table| table.tail.newest());
        let undo = if unchanged {
            Undo::new()
        } else {
            let undo = self.lock_snapshots().undo(&range.resource, at, (self.clock)());
            undo.ok_or(HistoryError::Compacted { floor: self.revision })?
        };
        let Some(table) = table else { return Ok(Page { items: Vec::new(), revision: at, remaining: 0 }) };
        let page = table.page(range, at, &undo);
        if page.remaining > 0 && unchanged {
            self.lock_snapshots().take(&table.resource, at, (self.clock)());
        }
        Ok(page)
    }

    pub(crate) fn changes(
        &self,
        resource: Option<&str>,
        after: Revision,
        limit: usize,
    ) -> Result<Vec<Event>, HistoryError> {
        if after > self.revision {
            return Err(HistoryError::Future { current: self.revision });
        }
        if after < self.start {
            return Err(HistoryError::Compacted { floor: self.start });
        }
        let tables: Vec<&Table> = match resource {
            Some(resource) => self.tables.get(resource).into_iter().collect(),
            None => self.tables.values().filter(|table| table.tail.newest() > after).collect(),
        };
        let mut sources = Vec::with_capacity(tables.len());
        for table in tables {
            let changes = table.tail.after(after).ok_or(HistoryError::Compacted { floor: table.tail.floor() })?;
            sources.push((&table.resource, changes.peekable()));
        }
        Ok(merge(sources, limit))
    }

    fn lock_snapshots(&self) -> MutexGuard<'_, Snapshots> {
        self.snapshots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Merges the changes of resources in their order of commit: at most `limit`, but whole revisions.
fn merge<'a, I>(mut sources: Vec<(&Arc<str>, Peekable<I>)>, limit: usize) -> Vec<Event>
where
    I: Iterator<Item = &'a history::Change>,
{
    let mut events: Vec<Event> = Vec::new();
    loop {
        let heads = sources.iter_mut().enumerate();
        let heads = heads.filter_map(|(index, (_, changes))| Some((changes.peek()?.sequence, index)));
        let Some((_, index)) = heads.min() else { return events };
        let (resource, changes) = &mut sources[index];
        let full = events.len() >= limit;
        let same = |change: &&history::Change| events.last().is_some_and(|last| last.revision == change.revision);
        let next = if full { changes.next_if(same) } else { changes.next() };
        let Some(change) = next else { return events };
        events.push(change.event(resource));
    }
}

/// Whether preconditions hold, given what revision a key is at.
pub(crate) fn check(preconditions: &[Precondition], at: impl Fn(&Key) -> Option<Revision>) -> Result<(), CommitError> {
    for precondition in preconditions {
        let holds = match precondition {
            Precondition::At(key, revision) => at(key) == Some(*revision),
            Precondition::Absent(key) => at(key).is_none(),
            Precondition::Exists(key) => at(key).is_some(),
        };
        if !holds {
            return Err(CommitError::Failed(precondition.clone()));
        }
    }
    Ok(())
}

fn intern(names: &mut BTreeSet<Arc<str>>, name: &Arc<str>) -> Arc<str> {
    if let Some(known) = names.get(name) {
        return known.clone();
    }
    names.insert(name.clone());
    name.clone()
}

impl RowKey {
    pub(crate) fn of(key: &Key) -> RowKey {
        RowKey { namespace: key.namespace.clone(), name: key.name.clone() }
    }
}

impl Table {
    fn new(resource: Arc<str>, start: Revision) -> Table {
        Table { resource, rows: BTreeMap::new(), bytes: 0, tail: Tail::new(start), namespaces: BTreeSet::new() }
    }

    /// Applies a change after showing `before` the row it replaces; `false` when nothing changed.
    fn apply(
        &mut self,
        sequence: u64,
        revision: Revision,
        change: &Change,
        stored: bool,
        key: &RowKey,
        before: impl FnOnce(Option<&Row>),
    ) -> bool {
        // The history shares the names that the table holds, not those that came with the change.
        let (key, old, new, last) = match change {
            Change::Put { schema, value, seal, .. } => {
                let (schema, value, seal) = (*schema, value.clone(), seal.clone());
                let mut new = Row { revision, schema, value, seal, stored };
                let namespace = intern(&mut self.namespaces, &key.namespace);
                match self.rows.entry(RowKey { namespace, name: key.name.clone() }) {
                    btree_map::Entry::Occupied(mut entry) => {
                        new.stored |= entry.get().stored;
                        (entry.key().clone(), Some(entry.insert(new.clone())), Some(new), None)
                    }
                    btree_map::Entry::Vacant(entry) => {
                        let key = entry.key().clone();
                        entry.insert(new.clone());
                        (key, None, Some(new), None)
                    }
                }
            }
            Change::Delete { last, .. } => {
                let Some((key, old)) = self.rows.remove_entry(key) else { return false };
                let last = last.clone().unwrap_or_else(|| old.value.clone());
                (key, Some(old), None, Some(last))
            }
        };
        before(old.as_ref());
        self.bytes += new.as_ref().map_or(0, |row| row.value.len());
        self.bytes -= old.as_ref().map_or(0, |row| row.value.len());
        if self.rows.is_empty() {
            self.namespaces.clear();
        }
        let change = history::Change { sequence, revision, row: key, old, new, last };
        self.tail.push(change, self.bytes);
        true
    }

    fn page(&self, range: &Range, revision: Revision, undo: &Undo) -> Page {
        let from = match (&range.after, &range.namespace) {
            (Some((namespace, name)), _) => {
                Bound::Excluded(RowKey { namespace: namespace.clone(), name: name.clone() })
            }
            (None, Some(namespace)) => Bound::Included(RowKey { namespace: namespace.clone(), name: "".into() }),
            (None, None) => Bound::Unbounded,
        };
        let bounds = (from, Bound::Unbounded);
        let past = Past { now: self.rows.range(bounds.clone()).peekable(), undo: undo.range(bounds).peekable() };
        let wanted = |key: &RowKey| range.namespace.as_ref().is_none_or(|namespace| *namespace == key.namespace);
        let mut rows = past.take_while(|(key, _)| wanted(key));
        let limit = if range.limit == 0 { usize::MAX } else { range.limit };
        let item = |(key, row): (&RowKey, &Row)| {
            let (namespace, name) = (key.namespace.clone(), key.name.clone());
            row.item(Key { resource: self.resource.clone(), namespace, name })
        };
        let items = rows.by_ref().take(limit).map(item).collect();
        Page { items, revision, remaining: rows.count() }
    }
}

/// Rows as they were: the present ones with an undo log laid over them.
struct Past<'a> {
    now: Peekable<btree_map::Range<'a, RowKey, Row>>,
    undo: Peekable<btree_map::Range<'a, RowKey, Option<Row>>>,
}

impl<'a> Iterator for Past<'a> {
    type Item = (&'a RowKey, &'a Row);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some((undone, _)) = self.undo.peek() else { return self.now.next() };
            match self.now.peek() {
                Some((key, _)) if key < undone => return self.now.next(),
                Some((key, _)) if key == undone => {
                    self.now.next();
                }
                _ => {}
            }
            let (key, row) = self.undo.next()?;
            if let Some(row) = row {
                return Some((key, row));
            }
        }
    }
}
