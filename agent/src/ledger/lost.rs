//! What was acted on although it could not be written, until it can be.

use std::collections::{BTreeMap, BTreeSet};

use coracle_shared::desired::{Item, ItemId, SetKind};
use coracle_shared::ids::PodUid;

use super::Change;

/// At most one entry an item or pod of the node.
#[derive(Debug, Default)]
pub(super) struct Lost {
    items: BTreeMap<(SetKind, ItemId), Option<Item>>,
    forget: BTreeSet<PodUid>,
}

impl Lost {
    pub fn add(&mut self, removals: Change) {
        self.items.extend(removals.puts.into_iter().map(|(set, item)| ((set, item.id.clone()), Some(item))));
        self.items.extend(removals.deletes.into_iter().map(|at| (at, None)));
        self.forget.extend(removals.forget);
    }

    /// All of it as one change.
    pub fn change(&self) -> Change {
        let mut change = Change { forget: self.forget.iter().cloned().collect(), ..Change::default() };
        for ((set, id), item) in &self.items {
            match item {
                Some(item) => change.puts.push((*set, item.clone())),
                None => change.deletes.push((*set, id.clone())),
            }
        }
        change
    }
}
