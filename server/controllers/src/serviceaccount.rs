//! Every namespace has a service account named `default`.

use coracle_shared::submit::Write;
use coracle_store::{Event, Key};
use serde_json::{Value, json};

use crate::driver::{Controller, Now, Outcome};
use crate::object::is_deleting;
use crate::world::World;

const RESOURCE: &str = "serviceaccounts";
const DEFAULT: &str = "default";

pub struct ServiceAccounts;

impl Controller for ServiceAccounts {
    fn name(&self) -> &'static str {
        "service-account"
    }

    fn dirty(&self, event: &Event, _world: &World, mark: &mut dyn FnMut(Key)) {
        match &*event.key.resource {
            "namespaces" => mark(event.key.clone()),
            RESOURCE if &*event.key.name == DEFAULT => mark(Key::new("namespaces", "", event.key.namespace.clone())),
            _ => {}
        }
    }

    fn all(&self, world: &World, mark: &mut dyn FnMut(Key)) {
        world.keys("namespaces", None).into_iter().for_each(mark);
    }

    fn reconcile(&self, key: &Key, world: &World, _now: Now) -> Outcome {
        let account = Key::new(RESOURCE, key.name.clone(), DEFAULT);
        plan(world.get(key).as_ref(), &key.name, world.exists(&account))
    }
}

fn plan(namespace: Option<&Value>, name: &str, has_account: bool) -> Outcome {
    let wanted = namespace.is_some_and(|n| !is_deleting(n)) && !has_account;
    let account = || Write::Create {
        resource: RESOURCE,
        namespace: name.to_owned(),
        object: json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": DEFAULT, "namespace": name}}),
    };
    Outcome { writes: wanted.then(account).into_iter().collect(), again: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_every_living_namespace() {
        let living = json!({"metadata": {}});
        let dying = json!({"metadata": {"deletionTimestamp": "t"}});
        let count = |namespace: Option<&Value>, has| plan(namespace, "n", has).writes.len();
        assert_eq!(count(Some(&living), false), 1);
        assert_eq!(count(Some(&living), true), 0);
        assert_eq!(count(Some(&dying), false), 0);
        assert_eq!(count(None, false), 0);
    }
}
