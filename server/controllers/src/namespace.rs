//! A namespace that is being deleted goes once nothing is left in it.

use coracle_shared::submit::{Delete, Write};
use coracle_store::{Event, Key};
use serde_json::{Value, json};

use crate::driver::{Controller, Now, Outcome};
use crate::object::{is_deleting, name};
use crate::world::World;

const RESOURCE: &str = "namespaces";

/// Objects removed at one look; the rest follows once these are gone.
const BURST: usize = 100;

pub struct Namespaces {
    /// Every namespaced resource.
    resources: Vec<&'static str>,
}

impl Namespaces {
    pub fn new(resources: Vec<&'static str>) -> Namespaces {
        Namespaces { resources }
    }
}

/// An object in the way: still there, and asked to go or not yet.
struct Content {
    resource: &'static str,
    name: String,
    deleting: bool,
}

impl Controller for Namespaces {
    fn name(&self) -> &'static str {
        "namespace"
    }

    fn dirty(&self, event: &Event, world: &World, mark: &mut dyn FnMut(Key)) {
        if &*event.key.resource == RESOURCE {
            return mark(event.key.clone());
        }
        if event.key.namespace.is_empty() {
            return;
        }
        let key = Key::new(RESOURCE, "", event.key.namespace.clone());
        // Only what happens in a dying namespace concerns us, and that is rare.
        if event.new.is_none() && world.get(&key).is_some_and(|n| is_deleting(&n)) {
            mark(key);
        }
    }

    fn all(&self, world: &World, mark: &mut dyn FnMut(Key)) {
        world.keys(RESOURCE, None).into_iter().for_each(mark);
    }

    fn reconcile(&self, key: &Key, world: &World, _now: Now) -> Outcome {
        let Some(namespace) = world.get(key).filter(is_deleting) else { return Outcome::default() };
        let mut content = Vec::new();
        for &resource in &self.resources {
            for found in world.some_keys(resource, &key.name, BURST + 1 - content.len()) {
                let deleting = world.get(&found).is_some_and(|object| is_deleting(&object));
                content.push(Content { resource, name: found.name.to_string(), deleting });
            }
            if content.len() > BURST {
                break;
            }
        }
        Outcome { writes: plan(&namespace, &content), again: None }
    }
}

fn plan(namespace: &Value, content: &[Content]) -> Vec<Write> {
    if content.is_empty() {
        let mut finalized = namespace.clone();
        finalized["spec"]["finalizers"] = json!([]);
        let name = name(namespace).to_owned();
        return vec![Write::Update {
            resource: RESOURCE,
            namespace: String::new(),
            name,
            subresource: "finalize",
            object: finalized,
        }];
    }
    content
        .iter()
        .filter(|object| !object.deleting)
        .take(BURST)
        .map(|object| Write::Delete {
            resource: object.resource,
            namespace: name(namespace).to_owned(),
            name: object.name.clone(),
            options: Delete::default(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(content: &[(&'static str, bool)], expect: &[&str]) {
        let namespace =
            json!({"metadata": {"name": "n", "deletionTimestamp": "t"}, "spec": {"finalizers": ["kubernetes"]}});
        let content: Vec<Content> =
            content.iter().map(|&(name, deleting)| Content { resource: "pods", name: name.into(), deleting }).collect();
        let seen: Vec<String> = plan(&namespace, &content)
            .iter()
            .map(|write| match write {
                Write::Delete { name, namespace, .. } => format!("delete {namespace}/{name}"),
                Write::Update { object, subresource, .. } => format!("{subresource} {}", object["spec"]["finalizers"]),
                other => format!("{other:?}"),
            })
            .collect();
        assert_eq!(seen, expect);
    }

    #[test]
    fn empties_and_goes() {
        check(&[], &["finalize []"]);
        check(&[("a", false), ("b", true)], &["delete n/a"]);
        check(&[("b", true)], &[]);
    }
}
