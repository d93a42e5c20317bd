//! Garbage collection: what is owned goes with its last owner, first (foreground), after
//! (background), or stays (orphan).
//!
//! Keys are owners' uids, in the pseudo-resource `-owner`.

use coracle_shared::submit::{Delete, Write};
use coracle_store::{Event, Key};
use serde_json::{Value, json};

use crate::driver::{Controller, Now, Outcome};
use crate::object::{array, has_finalizer, is_deleting, name, namespace, text, uid};
use crate::world::World;

const OWNER: &str = "-owner";
const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// Dependents treated at one look; the rest follows.
const BURST: usize = 100;

pub struct Garbage;

impl Controller for Garbage {
    fn name(&self) -> &'static str {
        "generic-garbage-collector"
    }

    fn dirty(&self, event: &Event, world: &World, mark: &mut dyn FnMut(Key)) {
        let Some(object) = event.new.as_ref().or(event.old.as_ref()).and_then(crate::world::parse) else { return };
        if event.new.is_none() {
            mark(owner_key(uid(&object), &event.key));
            // An owner that waits for its dependents looks again when one has gone.
            for owner in array(&object, "/metadata/ownerReferences") {
                if let Some(key) = object_key(owner, &event.key.namespace).filter(|key| world.exists(key)) {
                    mark(owner_key(text(owner, "/uid"), &key));
                }
            }
        } else if is_deleting(&object) && (has_finalizer(&object, FOREGROUND) || has_finalizer(&object, ORPHAN)) {
            mark(owner_key(uid(&object), &event.key));
        } else if event.old.is_none() {
            // Made for an owner that went meanwhile.
            for owner in array(&object, "/metadata/ownerReferences") {
                if let Some(key) = object_key(owner, &event.key.namespace).filter(|key| !world.exists(key)) {
                    mark(owner_key(text(owner, "/uid"), &key));
                }
            }
        } else if let Some(old) = event.old.as_ref().and_then(crate::world::parse) {
            // An owner that lets its dependents go looks again when one no longer names it.
            for owner in left_owners(&old, &object) {
                if let Some(key) = object_key(owner, &event.key.namespace).filter(|key| world.exists(key)) {
                    mark(owner_key(text(owner, "/uid"), &key));
                }
            }
        }
    }

    fn all(&self, world: &World, mark: &mut dyn FnMut(Key)) {
        for key in WAITING_OWNERS.iter().flat_map(|resource| world.keys(resource, None)) {
            let waits = |o: &Value| is_deleting(o) && (has_finalizer(o, FOREGROUND) || has_finalizer(o, ORPHAN));
            if let Some(object) = world.get(&key).filter(waits) {
                mark(owner_key(uid(&object), &key));
            }
        }
        for owner_uid in world.owner_uids() {
            let dependent =
                world.owned_keys(&owner_uid).into_iter().next().and_then(|key| Some((world.get(&key)?, key)));
            let Some((dependent, key)) = dependent else { continue };
            let reference =
                array(&dependent, "/metadata/ownerReferences").iter().find(|o| o["uid"] == owner_uid.as_str());
            if let Some(owner) = reference.and_then(|o| object_key(o, &key.namespace)) {
                mark(owner_key(&owner_uid, &owner));
            }
        }
    }

    fn reconcile(&self, key: &Key, world: &World, _now: Now) -> Outcome {
        let (uid_wanted, owner) = unpack(key);
        let dependents: Vec<(Key, Value)> =
            world.owned_keys(uid_wanted).into_iter().filter_map(|key| Some((key.clone(), world.get(&key)?))).collect();
        let owner_now =
            owner.as_ref().and_then(|key| Some((key, world.get(key)?))).filter(|(_, o)| uid(o) == uid_wanted);
        let writes = match owner_now {
            None => dependents.iter().filter_map(|(key, d)| abandon(key, d, uid_wanted, world)).take(BURST).collect(),
            Some((key, object)) if is_deleting(&object) && has_finalizer(&object, ORPHAN) => {
                release(key, &object, &dependents)
            }
            Some((key, object)) if is_deleting(&object) && has_finalizer(&object, FOREGROUND) => {
                foreground(key, &object, &dependents)
            }
            Some(_) => Vec::new(),
        };
        Outcome { writes, again: None }
    }
}

/// Kinds whose deletion may have been waiting for dependents, possibly for none, when the server
/// stopped. Pods are too many to look through and own nothing in practice.
const WAITING_OWNERS: &[&str] = &[
    "deployments.apps",
    "replicasets.apps",
    "statefulsets.apps",
    "daemonsets.apps",
    "jobs.batch",
    "cronjobs.batch",
    "replicationcontrollers",
    "services",
    "configmaps",
    "nodes",
];

/// The owners that `old` names and `new` does not.
fn left_owners<'a>(old: &'a Value, new: &'a Value) -> impl Iterator<Item = &'a Value> {
    let named = array(new, "/metadata/ownerReferences");
    array(old, "/metadata/ownerReferences").iter().filter(move |o| !named.iter().any(|n| n["uid"] == o["uid"]))
}

/// The key names the owner and where it is (or was): `-owner`, `RESOURCE NAMESPACE NAME`, uid.
fn owner_key(uid: &str, owner: &Key) -> Key {
    Key::new(OWNER, format!("{} {} {}", owner.resource, owner.namespace, owner.name), uid)
}

fn unpack(key: &Key) -> (&str, Option<Key>) {
    let mut parts = key.namespace.splitn(3, ' ');
    let owner = parts.next().zip(parts.next()).zip(parts.next());
    (&key.name, owner.map(|((resource, namespace), name)| Key::new(resource, namespace, name)))
}

/// Where an owner reference points; `None` for kinds that are not stored here.
fn object_key(owner: &Value, dependent_namespace: &str) -> Option<Key> {
    crate::owners::key(text(owner, "/apiVersion"), text(owner, "/kind"), text(owner, "/name"), dependent_namespace)
}

/// An owner is gone: the dependent goes too, unless another owner holds it.
fn abandon(key: &Key, dependent: &Value, gone: &str, world: &World) -> Option<Write> {
    let held = array(dependent, "/metadata/ownerReferences").iter().filter(|o| o["uid"] != gone).any(|owner| {
        // An owner of a kind that is not known here counts as living.
        object_key(owner, &key.namespace).is_none_or(|k| world.get(&k).is_some_and(|o| uid(&o) == text(owner, "/uid")))
    });
    if held {
        return Some(disown(key, dependent, gone));
    }
    (!is_deleting(dependent)).then(|| remove(key, dependent))
}

fn foreground(key: &Key, owner: &Value, dependents: &[(Key, Value)]) -> Vec<Write> {
    let blocks = |d: &Value| {
        array(d, "/metadata/ownerReferences").iter().any(|o| o["uid"] == uid(owner) && o["blockOwnerDeletion"] == true)
    };
    let going: Vec<Write> =
        dependents.iter().filter(|(_, d)| !is_deleting(d)).take(BURST).map(|(k, d)| remove(k, d)).collect();
    if going.is_empty() && !dependents.iter().any(|(_, d)| blocks(d)) {
        vec![without_finalizer(key, owner, FOREGROUND)]
    } else {
        going
    }
}

fn release(key: &Key, owner: &Value, dependents: &[(Key, Value)]) -> Vec<Write> {
    if dependents.is_empty() {
        return vec![without_finalizer(key, owner, ORPHAN)];
    }
    dependents.iter().take(BURST).map(|(k, d)| disown(k, d, uid(owner))).collect()
}

fn remove(key: &Key, object: &Value) -> Write {
    Write::Delete {
        resource: resource(key),
        namespace: namespace(object).to_owned(),
        name: name(object).to_owned(),
        options: Delete { uid: Some(uid(object).to_owned()), ..Delete::default() },
    }
}

fn disown(key: &Key, object: &Value, owner: &str) -> Write {
    let owners: Vec<&Value> = array(object, "/metadata/ownerReferences").iter().filter(|o| o["uid"] != owner).collect();
    metadata_patch(key, object, json!({"ownerReferences": owners}))
}

fn without_finalizer(key: &Key, object: &Value, finalizer: &str) -> Write {
    let kept: Vec<&Value> = array(object, "/metadata/finalizers").iter().filter(|f| *f != finalizer).collect();
    metadata_patch(key, object, json!({"finalizers": kept}))
}

fn metadata_patch(key: &Key, object: &Value, mut metadata: Value) -> Write {
    metadata["uid"] = uid(object).into();
    metadata["resourceVersion"] = object["metadata"]["resourceVersion"].clone();
    Write::Merge {
        resource: resource(key),
        namespace: namespace(object).to_owned(),
        name: name(object).to_owned(),
        subresource: "",
        patch: json!({"metadata": metadata}),
    }
}

/// The resource as writes name it; one that is not known is not written to, the pipeline refuses it.
fn resource(key: &Key) -> &'static str {
    crate::owners::resource(key).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(finalizer: &str) -> Value {
        json!({"metadata": {"name": "o", "namespace": "n", "uid": "u", "deletionTimestamp": "t", "finalizers": [finalizer, "other"]}})
    }

    fn dependent(name: &str, blocking: bool, deleting: bool) -> (Key, Value) {
        let mut object = json!({"metadata": {"name": name, "namespace": "n", "uid": name,
            "ownerReferences": [{"uid": "u", "blockOwnerDeletion": blocking}, {"uid": "v"}]}});
        if deleting {
            object["metadata"]["deletionTimestamp"] = "t".into();
        }
        (Key::new("pods", "n", name), object)
    }

    fn show(writes: &[Write]) -> Vec<String> {
        writes
            .iter()
            .map(|write| match write {
                Write::Delete { name, .. } => format!("delete {name}"),
                Write::Merge { name, patch, .. } => {
                    let metadata = &patch["metadata"];
                    format!("{name} {}", metadata.get("finalizers").unwrap_or(&metadata["ownerReferences"]))
                }
                other => format!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn foreground_waits_for_dependents() {
        let key = Key::new("deployments.apps", "n", "o");
        let check = |dependents: &[(Key, Value)], expect: &[&str]| {
            assert_eq!(show(&foreground(&key, &owner(FOREGROUND), dependents)), expect);
        };
        check(&[dependent("a", true, false), dependent("b", true, true)], &["delete a"]);
        check(&[dependent("b", true, true)], &[]);
        check(&[dependent("b", false, true)], &[r#"o ["other"]"#]);
        check(&[], &[r#"o ["other"]"#]);
    }

    #[test]
    fn orphans_are_let_go() {
        let key = Key::new("deployments.apps", "n", "o");
        let writes = release(&key, &owner(ORPHAN), &[dependent("a", true, false)]);
        assert_eq!(show(&writes), [r#"a [{"uid":"v"}]"#]);
        assert_eq!(show(&release(&key, &owner(ORPHAN), &[])), [r#"o ["other"]"#]);
    }

    #[test]
    fn an_owner_that_is_no_longer_named_is_seen() {
        let of = |uids: &[&str]| {
            let owners: Vec<Value> = uids.iter().map(|uid| json!({"uid": uid})).collect();
            json!({"metadata": {"ownerReferences": owners}})
        };
        let (old, new) = (of(&["u", "v"]), of(&["v"]));
        let left: Vec<&Value> = left_owners(&old, &new).collect();
        assert_eq!(left, [&json!({"uid": "u"})]);
        assert_eq!(left_owners(&new, &old).count(), 0);
    }

    #[test]
    fn keys_name_the_owner() {
        let owner = Key::new("deployments.apps", "n", "o");
        assert_eq!(unpack(&owner_key("u", &owner)), ("u", Some(owner.clone())));
        let cluster = Key::new("nodes", "", "o");
        assert_eq!(unpack(&owner_key("u", &cluster)), ("u", Some(cluster.clone())));
    }
}
