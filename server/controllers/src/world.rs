//! What controllers look at: the store's memory and the indexes kept up from its changes.

use std::sync::Arc;

use coracle_shared::api::selector::{LabelSelector, Requirement};
use coracle_store::indexes::{Index, labels, node_name, owner_uids};
use coracle_store::{Event, HistoryError, Item, Key, Range, Revision, Store};
use serde_json::Value;

/// Events of one read of the change log; more are read in the next turn.
const CHANGES: usize = 4096;

/// The cluster at one revision.
pub struct World {
    store: Arc<dyn Store>,
    revision: Revision,
    /// All objects by the uids of their owners.
    owned: Index<String>,
    pods_by_node: Index<String>,
    /// Pods by (namespace, label key, label value).
    pods_by_label: Index<(Arc<str>, String, String)>,
}

impl World {
    /// Reads everything in.
    pub fn new(store: Arc<dyn Store>, resources: &[&str]) -> World {
        let mut world = World {
            store,
            revision: Revision::default(),
            owned: Index::new(owner_uids),
            pods_by_node: Index::new(node_name),
            pods_by_label: Index::new(labels),
        };
        world.fill(resources);
        world
    }

    fn fill(&mut self, resources: &[&str]) {
        self.owned.clear();
        self.pods_by_node.clear();
        self.pods_by_label.clear();
        // Changes from here on are read again; indexes do not mind seeing one twice.
        self.revision = self.store.revision();
        for resource in resources {
            for item in self.items(resource, None) {
                self.file(&item);
            }
        }
    }

    fn file(&mut self, item: &Item) {
        self.owned.insert(item);
        if &*item.key.resource == "pods" {
            self.pods_by_node.insert(item);
            self.pods_by_label.insert(item);
        }
    }

    /// Follows the store to its newest revision; the changes, or that all has to be looked at anew.
    pub fn catch_up(&mut self, resources: &[&str]) -> Result<Vec<Event>, HistoryError> {
        let mut seen = Vec::new();
        loop {
            let newest = self.store.revision();
            let events = self.store.changes(None, self.revision, CHANGES).inspect_err(|_| self.fill(resources))?;
            let Some(last) = events.last() else {
                self.revision = self.revision.max(newest);
                return Ok(seen);
            };
            self.revision = last.revision;
            for event in &events {
                match &event.new {
                    Some(item) => self.file(item),
                    None => {
                        self.owned.remove(&event.key);
                        self.pods_by_node.remove(&event.key);
                        self.pods_by_label.remove(&event.key);
                    }
                }
            }
            seen.extend(events);
        }
    }

    pub fn revision(&self) -> Revision {
        self.revision
    }

    pub fn get(&self, key: &Key) -> Option<Value> {
        self.store.get(key).as_ref().and_then(parse)
    }

    pub fn exists(&self, key: &Key) -> bool {
        self.store.get(key).is_some()
    }

    fn items(&self, resource: &str, namespace: Option<&str>) -> Vec<Item> {
        let range =
            Range { resource: resource.into(), namespace: namespace.map(Into::into), after: None, limit: 0, at: None };
        // Only a list at an old revision can fail.
        self.store.list(&range).map(|page| page.items).unwrap_or_default()
    }

    pub fn keys(&self, resource: &str, namespace: Option<&str>) -> Vec<Key> {
        self.items(resource, namespace).into_iter().map(|item| item.key).collect()
    }

    pub fn list(&self, resource: &str, namespace: Option<&str>) -> Vec<Value> {
        self.items(resource, namespace).iter().filter_map(parse).collect()
    }

    /// The first `limit` keys of a resource in a namespace.
    pub fn some_keys(&self, resource: &str, namespace: &str, limit: usize) -> Vec<Key> {
        let range =
            Range { resource: resource.into(), namespace: Some(namespace.into()), after: None, limit, at: None };
        self.store.list(&range).map(|page| page.items.into_iter().map(|i| i.key).collect()).unwrap_or_default()
    }

    pub fn owned_keys(&self, uid: &str) -> Vec<Key> {
        self.owned.get(uid).cloned().collect()
    }

    /// The uids of everything that owns something.
    pub fn owner_uids(&self) -> Vec<String> {
        self.owned.keys().cloned().collect()
    }

    /// The objects of a resource that have this owner.
    pub fn owned(&self, uid: &str, resource: &str) -> Vec<Value> {
        self.owned.get(uid).filter(|key| &*key.resource == resource).filter_map(|key| self.get(key)).collect()
    }

    pub fn pods_on(&self, node: &str) -> Vec<Value> {
        self.pods_by_node.get(node).filter_map(|key| self.get(key)).collect()
    }

    /// Every node name that a pod is bound to.
    pub fn nodes_with_pods(&self) -> impl Iterator<Item = &String> {
        self.pods_by_node.keys().filter(|name| !name.is_empty())
    }

    /// The pods of a namespace that a selector matches.
    pub fn pods_matching(&self, namespace: &str, selector: &LabelSelector) -> Vec<Value> {
        let narrowed = selector.requirements.iter().find_map(|r| match r {
            Requirement::In(key, values) if values.len() == 1 => Some((key.clone(), values[0].clone())),
            _ => None,
        });
        let candidates: Vec<Value> = match narrowed {
            Some((key, value)) => {
                let filed = (Arc::from(namespace), key, value);
                self.pods_by_label.get(&filed).filter_map(|key| self.get(key)).collect()
            }
            None => self.list("pods", Some(namespace)),
        };
        candidates.into_iter().filter(|pod| selector.matches(pod["metadata"]["labels"].as_object())).collect()
    }
}

/// The object with its `metadata.resourceVersion`, as a client would read it (without `apiVersion`).
pub fn parse(item: &Item) -> Option<Value> {
    let mut value: Value = serde_json::from_slice(&item.value).ok()?;
    value.get_mut("metadata")?.as_object_mut()?.insert("resourceVersion".into(), item.revision.to_string().into());
    Some(value)
}
