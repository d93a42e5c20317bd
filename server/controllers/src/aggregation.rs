//! A ClusterRole with an aggregation rule holds the rules of every ClusterRole that it selects.

use coracle_shared::api::selector::LabelSelector;
use coracle_shared::submit::Write;
use coracle_store::{Event, Key};
use serde_json::{Value, json};

use crate::driver::{Controller, Now, Outcome};
use crate::object::{array, name};
use crate::world::World;

const RESOURCE: &str = "clusterroles.rbac.authorization.k8s.io";

pub struct Aggregation;

impl Controller for Aggregation {
    fn name(&self) -> &'static str {
        "clusterrole-aggregation"
    }

    fn dirty(&self, event: &Event, world: &World, mark: &mut dyn FnMut(Key)) {
        if &*event.key.resource == RESOURCE {
            // Any role may be a part of any other; there are few, and they change seldom.
            self.all(world, mark);
        }
    }

    fn all(&self, world: &World, mark: &mut dyn FnMut(Key)) {
        for role in world.list(RESOURCE, None).iter().filter(|role| role["aggregationRule"].is_object()) {
            mark(Key::new(RESOURCE, "", name(role)));
        }
    }

    fn reconcile(&self, key: &Key, world: &World, _now: Now) -> Outcome {
        let Some(role) = world.get(key) else { return Outcome::default() };
        Outcome { writes: plan(&role, &world.list(RESOURCE, None)).into_iter().collect(), again: None }
    }
}

/// The write that gives a role the rules of the others that it selects, in the order of their names.
fn plan(role: &Value, all: &[Value]) -> Option<Write> {
    let selectors: Vec<LabelSelector> = array(role, "/aggregationRule/clusterRoleSelectors")
        .iter()
        .filter_map(|selector| LabelSelector::from_value(selector).ok())
        .collect();
    if selectors.is_empty() {
        return None;
    }
    let mut rules: Vec<&Value> = Vec::new();
    for other in all.iter().filter(|other| name(other) != name(role)) {
        let labels = other["metadata"]["labels"].as_object();
        if selectors.iter().any(|selector| selector.matches(labels)) {
            for rule in array(other, "/rules") {
                if !rules.contains(&rule) {
                    rules.push(rule);
                }
            }
        }
    }
    // The same rules in another order say the same.
    let own = array(role, "/rules");
    let same = own.len() == rules.len() && rules.iter().all(|rule| own.contains(rule));
    (!same).then(|| Write::Merge {
        resource: RESOURCE,
        namespace: String::new(),
        name: name(role).to_owned(),
        subresource: "",
        patch: json!({"metadata": {"resourceVersion": role["metadata"]["resourceVersion"]}, "rules": rules}),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_selected_roles_are_taken_together_once() {
        let labelled =
            |name: &str, rules: Value| json!({"metadata": {"name": name, "labels": {"to": "x"}}, "rules": rules});
        let mut whole = json!({"metadata": {"name": "x", "resourceVersion": "3"}, "rules": [],
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "x"}}]}});
        let all = [
            labelled("a", json!([{"verbs": ["get"]}])),
            labelled("b", json!([{"verbs": ["get"]}, {"verbs": ["list"]}])),
            json!({"metadata": {"name": "c"}, "rules": [{"verbs": ["delete"]}]}),
            whole.clone(),
        ];
        let Some(Write::Merge { patch, .. }) = plan(&whole, &all) else { panic!("a write") };
        assert_eq!(patch["rules"], json!([{"verbs": ["get"]}, {"verbs": ["list"]}]));
        whole["rules"] = json!([{"verbs": ["list"]}, {"verbs": ["get"]}]);
        assert_eq!(plan(&whole, &all), None);
    }
}
