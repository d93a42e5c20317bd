//! A desired set as the server holds it: its items, its head, and its recent changes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::desired::{Item, ItemId, SetHead};
use crate::digest;
use crate::ids::{Digest, Generation};

/// How many changes back a peer can be and still get exactly what differs without telling what it
/// holds: minutes of churn.
const HISTORY_STEPS: usize = 128;
/// And how many item ids those changes may name together.
const HISTORY_IDS: usize = 8192;

/// What compiling gave.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    pub items: BTreeMap<ItemId, Arc<Item>>,
    /// Items that should be there but whose input is missing: what was there before stays.
    pub missing: BTreeSet<ItemId>,
}

/// One of a node's sets: all its items, and the last changes to them.
#[derive(Clone, Debug)]
pub struct DesiredSet {
    head: SetHead,
    items: BTreeMap<ItemId, Arc<Item>>,
    missing: BTreeSet<ItemId>,
    history: VecDeque<Step>,
    history_ids: usize,
}

/// From `from` to the next step's `from` (or the head), these items changed.
#[derive(Clone, Debug)]
struct Step {
    from: SetHead,
    changed: Vec<ItemId>,
}

/// What a peer needs to get from what it holds to the set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Since {
    /// It holds the same.
    Same,
    /// Exactly this.
    Delta(Difference),
    /// It holds something newer than this server has: it will have to wait.
    Ahead,
    /// The same generation with another content: everything has to travel.
    Whole,
    /// Only the peer can tell what it holds.
    Unknown,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    pub puts: VecDeque<Arc<Item>>,
    pub deletes: Vec<ItemId>,
}

impl DesiredSet {
    pub fn new(generation: Generation, compiled: Compiled) -> DesiredSet {
        let digest = digest_of(&compiled.items);
        DesiredSet {
            head: SetHead { generation, digest },
            items: compiled.items,
            missing: compiled.missing,
            history: VecDeque::new(),
            history_ids: 0,
        }
    }

    pub fn head(&self) -> SetHead {
        self.head
    }

    pub fn len(&self) -> usize {
        self.items.len()
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub fn items(&self) -> impl Iterator<Item = &Arc<Item>> {
        self.items.values()
    }

    pub fn get(&self, id: &ItemId) -> Option<&Arc<Item>> {
        self.items.get(id)
    }

    /// Whether nothing is missing: only then does absence mean removal.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }

    /// Takes what was compiled at a newer generation. Items whose input is missing are kept as they
    /// were. Returns whether the content changed; if not, the head stays where it is.
    pub fn update(&mut self, generation: Generation, mut compiled: Compiled) -> bool {
        for id in &compiled.missing {
            if let Some(kept) = self.items.get(id) {
                compiled.items.insert(id.clone(), kept.clone());
            }
        }
        self.missing = compiled.missing;
        let changed = changed_ids(&self.items, &compiled.items);
        if changed.is_empty() {
            return false;
        }
        self.items = compiled.items;
        self.history_ids += changed.len();
        self.history.push_back(Step { from: self.head, changed });
        while self.history.len() > HISTORY_STEPS || self.history_ids > HISTORY_IDS {
            let Some(step) = self.history.pop_front() else { break };
            self.history_ids -= step.changed.len();
        }
        self.head = SetHead { generation, digest: digest_of(&self.items) };
        true
    }

    /// What a peer that says it holds `held` needs.
    pub fn since(&self, held: SetHead) -> Since {
        if held.digest == self.head.digest {
            return Since::Same;
        }
        if held.generation == self.head.generation {
            return Since::Whole;
        }
        if held.generation > self.head.generation {
            return Since::Ahead;
        }
        let Some(at) = self.history.iter().position(|step| step.from == held) else {
            return Since::Unknown;
        };
        let ids: BTreeSet<&ItemId> = self.history.range(at..).flat_map(|step| &step.changed).collect();
        let mut difference = Difference::default();
        for id in ids {
            match self.items.get(id) {
                Some(item) => difference.puts.push_back(item.clone()),
                None => difference.deletes.push(id.clone()),
            }
        }
        Since::Delta(difference)
    }

    /// What differs from a peer's index. What the peer holds of a missing input is left alone.
    pub fn difference(&self, index: &BTreeMap<ItemId, Digest>) -> Difference {
        let puts = self.items.values().filter(|item| index.get(&item.id) != Some(&item.hash)).cloned().collect();
        let is_gone = |id: &&ItemId| !self.items.contains_key(*id) && !self.missing.contains(*id);
        let deletes = index.keys().filter(is_gone).cloned().collect();
        Difference { puts, deletes }
    }

    /// All items.
    pub fn whole(&self) -> Difference {
        Difference { puts: self.items.values().cloned().collect(), deletes: Vec::new() }
    }
}

fn digest_of(items: &BTreeMap<ItemId, Arc<Item>>) -> Digest {
    digest::of_set(items.iter().map(|(id, item)| (id, &item.hash)))
}

/// Ids that are in one only, or in both with another hash.
fn changed_ids(old: &BTreeMap<ItemId, Arc<Item>>, new: &BTreeMap<ItemId, Arc<Item>>) -> Vec<ItemId> {
    let put = new.values().filter(|item| old.get(&item.id).is_none_or(|o| o.hash != item.hash));
    let gone = old.values().filter(|item| !new.contains_key(&item.id));
    put.chain(gone).map(|item| item.id.clone()).collect()
}
