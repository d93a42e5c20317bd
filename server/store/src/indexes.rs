//! Indexes that are kept up from the change log: extracted keys to object keys.
//!
//! An index is level-triggered: applying an event again, or the newest state out of order with
//! older events of other keys, gives the same result, because it remembers what each object was
//! filed under.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Deserialize;

use crate::{Event, Item, Key};

/// What an object is filed under.
pub type Extract<K> = fn(&Item) -> Vec<K>;

/// A map from extracted keys to the objects that have them.
#[derive(Clone, Debug)]
pub struct Index<K> {
    extract: Extract<K>,
    forward: BTreeMap<K, BTreeSet<Key>>,
    back: BTreeMap<Key, Box<[K]>>,
}

impl<K: Ord + Clone> Index<K> {
    pub fn new(extract: Extract<K>) -> Index<K> {
        Index { extract, forward: BTreeMap::new(), back: BTreeMap::new() }
    }

    /// Follows one change.
    pub fn apply(&mut self, event: &Event) {
        match &event.new {
            Some(item) => self.insert(item),
            None => self.remove(&event.key),
        }
    }

    /// Files an object as it is now, in place of what it was.
    pub fn insert(&mut self, item: &Item) {
        let mut keys = (self.extract)(item);
        keys.sort();
        keys.dedup();
        if self.back.get(&item.key).is_some_and(|known| **known == *keys) {
            return;
        }
        self.remove(&item.key);
        if keys.is_empty() {
            return;
        }
        for key in &keys {
            self.forward.entry(key.clone()).or_default().insert(item.key.clone());
        }
        self.back.insert(item.key.clone(), keys.into());
    }

    pub fn remove(&mut self, object: &Key) {
        let Some(keys) = self.back.remove(object) else { return };
        for key in &keys {
            let Some(objects) = self.forward.get_mut(key) else { continue };
            objects.remove(object);
            if objects.is_empty() {
                self.forward.remove(key);
            }
        }
    }

    /// Forgets everything: before filling from a list again.
    pub fn clear(&mut self) {
        self.forward.clear();
        self.back.clear();
    }

    /// The objects filed under `key`, in key order.
    pub fn get<'a, Q>(&'a self, key: &Q) -> impl Iterator<Item = &'a Key> + use<'a, K, Q>
    where
        K: std::borrow::Borrow<Q>,
        Q: Ord + ?Sized,
    {
        self.forward.get(key).into_iter().flatten()
    }

    /// How many objects are filed under `key`.
    pub fn count<Q>(&self, key: &Q) -> usize
    where
        K: std::borrow::Borrow<Q>,
        Q: Ord + ?Sized,
    {
        self.forward.get(key).map_or(0, BTreeSet::len)
    }

    /// What an object is filed under; empty when it is not.
    pub fn keys_of(&self, object: &Key) -> &[K] {
        self.back.get(object).map_or(&[], |keys| keys)
    }

    /// Every key that has objects, in order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.forward.keys()
    }
}

/// The parts of an object that the ready-made extracts look at.
#[derive(Default, Deserialize)]
#[serde(default)]
struct View {
    metadata: Metadata,
    spec: Spec,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    labels: Option<BTreeMap<String, String>>,
    owner_references: Option<Vec<Owner>>,
}

#[derive(Deserialize)]
struct Owner {
    #[serde(default)]
    uid: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    node_name: Option<String>,
}

/// A stored object always parses; a foreign shape is filed under nothing.
fn view<'a, T: Deserialize<'a> + Default>(item: &'a Item) -> T {
    serde_json::from_slice(&item.value).unwrap_or_default()
}

/// By namespace, for `Index<Arc<str>>`.
pub fn namespace(item: &Item) -> Vec<Arc<str>> {
    vec![item.key.namespace.clone()]
}

/// By the uids of all owners (`metadata.ownerReferences[].uid`).
pub fn owner_uids(item: &Item) -> Vec<String> {
    let owners = view::<View>(item).metadata.owner_references;
    owners.unwrap_or_default().into_iter().map(|owner| owner.uid).collect()
}

/// By `spec.nodeName`; an unbound pod is filed under the empty name.
pub fn node_name(item: &Item) -> Vec<String> {
    vec![view::<View>(item).spec.node_name.unwrap_or_default()]
}

/// By namespace and each label: `(namespace, label key, label value)`.
pub fn labels(item: &Item) -> Vec<(Arc<str>, String, String)> {
    let labels = view::<View>(item).metadata.labels.unwrap_or_default();
    labels.into_iter().map(|(key, value)| (item.key.namespace.clone(), key, value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Revision;

    fn item(name: &str, json: &str) -> Item {
        let value = json.as_bytes().into();
        Item { key: Key::new("pods", "web", name), revision: Revision(1), schema: 1, value }
    }

    fn names<K: Ord + Clone>(index: &Index<K>, key: K) -> Vec<&str> {
        index.get(&key).map(|key| &*key.name).collect()
    }

    #[test]
    fn follows_moves_and_removals() {
        let mut index = Index::new(node_name);
        index.insert(&item("a", r#"{"spec":{"nodeName":"n1"}}"#));
        index.insert(&item("b", r#"{"spec":{}}"#));
        assert_eq!(names(&index, "n1".into()), ["a"]);
        assert_eq!(names(&index, "".into()), ["b"]);
        let bound = item("b", r#"{"spec":{"nodeName":"n1"}}"#);
        for _ in 0..2 {
            let event = Event {
                revision: Revision(2),
                key: bound.key.clone(),
                old: None,
                new: Some(bound.clone()),
                last: None,
            };
            index.apply(&event);
        }
        assert_eq!(names(&index, "n1".into()), ["a", "b"]);
        assert_eq!(index.count(""), 0);
        assert_eq!(index.keys_of(&bound.key), ["n1".to_string()]);
        index.remove(&bound.key);
        index.remove(&bound.key);
        assert_eq!(names(&index, "n1".into()), ["a"]);
        index.clear();
        assert_eq!(index.keys().count(), 0);
    }

    #[test]
    fn ready_made_extracts() {
        let pod =
            item("a", r#"{"metadata":{"labels":{"app":"x","b":"y"},"ownerReferences":[{"uid":"u1"},{"uid":"u2"}]}}"#);
        assert_eq!(owner_uids(&pod), ["u1", "u2"]);
        let expected: Vec<(Arc<str>, String, String)> =
            vec![("web".into(), "app".into(), "x".into()), ("web".into(), "b".into(), "y".into())];
        assert_eq!(labels(&pod), expected);
        assert_eq!(&*namespace(&pod)[0], "web");
        assert!(owner_uids(&item("b", "[]")).is_empty());
    }
}
