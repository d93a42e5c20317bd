//! What must hold whatever happens: a mirror of what the server has acknowledged and shown.

use std::collections::{BTreeMap, BTreeSet};

use coracle_shared::ids::PodUid;
use coracle_store::{Item, Key, Range, Revision, Store};
use serde_json::Value;

/// What every client of the server could have seen so far.
#[derive(Default)]
pub struct Mirror {
    at: Revision,
    rows: BTreeMap<Key, Item>,
    resources: BTreeSet<String>,
    /// Pods that were deleted or are to be: these may be stopped.
    doomed: BTreeSet<PodUid>,
}

fn parse(item: &Item) -> Value {
    serde_json::from_slice(&item.value).unwrap_or_default()
}

/// Lives in memory, or may be lost with the server: not to be missed.
fn is_volatile(resource: &str) -> bool {
    matches!(resource, "events" | "leases.coordination.k8s.io")
}

impl Mirror {
    pub fn revision(&self) -> Revision {
        self.at
    }

    pub fn is_doomed(&self, uid: &PodUid) -> bool {
        self.doomed.contains(uid)
    }

    pub fn of(&self, resource: &str) -> impl Iterator<Item = Value> {
        self.rows.iter().filter(move |(key, _)| &*key.resource == resource).map(|(_, item)| parse(item))
    }

    /// Takes in what is new.
    pub fn follow(&mut self, store: &dyn Store) {
        let newest = store.revision();
        assert!(newest >= self.at, "the revision went back from {} to {newest}", self.at);
        let events = store.changes(None, self.at, 1 << 20).expect("the mirror never falls behind");
        let mut last = self.at;
        for event in events {
            assert!(event.revision >= last, "an event of revision {} after one of {last}", event.revision);
            last = event.revision;
            self.resources.insert(event.key.resource.to_string());
            if &*event.key.resource == "pods" {
                self.doom(event.old.as_ref(), event.new.as_ref());
            }
            match event.new {
                Some(item) => drop(self.rows.insert(event.key, item)),
                None => drop(self.rows.remove(&event.key)),
            }
        }
        self.at = newest;
    }

    fn doom(&mut self, old: Option<&Item>, new: Option<&Item>) {
        let uid = |pod: &Value| PodUid(pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned());
        let (old, new) = (old.map(parse), new.map(parse));
        if let Some(old) = &old
            && new.as_ref().map(uid) != Some(uid(old))
        {
            self.doomed.insert(uid(old));
        }
        if let Some(new) = new.filter(|pod| !pod["metadata"]["deletionTimestamp"].is_null()) {
            self.doomed.insert(uid(&new));
        }
    }

    /// The server has started again: nothing that it had acknowledged may be missing. `torn`: it died
    /// in the middle of a write, which may have happened or not.
    pub fn restarted(&mut self, store: &dyn Store, torn: bool) {
        let newest = store.revision();
        assert!(newest >= self.at, "a start took the revision back from {} to {newest}", self.at);
        for (key, before) in self.rows.iter().filter(|(key, _)| !is_volatile(&key.resource)) {
            match store.get(key) {
                Some(now) if torn && now.revision > self.at => {}
                Some(now) => same(before, &now),
                None => assert!(torn, "{key} was acknowledged at {} and is lost", before.revision),
            }
        }
        let before = std::mem::take(&mut self.rows);
        for resource in &self.resources {
            let range = Range { resource: resource.as_str().into(), namespace: None, after: None, limit: 0, at: None };
            for item in store.list(&range).expect("a list of now").items {
                let known = before.contains_key(&item.key) || is_volatile(resource);
                assert!(known || (torn && item.revision > self.at), "{} was deleted and is back", item.key);
                self.rows.insert(item.key.clone(), item);
            }
        }
        for (key, old) in before.iter().filter(|(key, _)| &*key.resource == "pods") {
            let new = self.rows.get(key).cloned();
            self.doom(Some(old), new.as_ref());
        }
        self.at = newest;
    }
}

/// A start may lose what nodes say again, and nothing else; such objects get new revisions.
fn same(before: &Item, now: &Item) {
    let key = &before.key;
    if &*key.resource != "pods" {
        assert!(before.revision == now.revision && before.value == now.value, "{key} is not what it was");
        return;
    }
    let (before, now) = (parse(before), parse(now));
    assert_eq!(before["spec"], now["spec"], "{key} lost its spec");
    assert_eq!(before["metadata"], now["metadata"], "{key} lost metadata");
    let phase = before["status"]["phase"].as_str().unwrap_or_default();
    if matches!(phase, "Succeeded" | "Failed") {
        assert_eq!(before["status"], now["status"], "{key} had ended");
    }
}
