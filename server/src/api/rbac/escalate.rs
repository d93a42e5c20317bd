//! Nobody gives away what they do not hold: roles and bindings are checked against the writer's own
//! rules.

use coracle_shared::api::status::Status;
use coracle_shared::submit::Identity;
use coracle_store::Store;
use serde_json::Value;

use super::{Book, GROUP, Rule, role_rules};
use crate::api::authz::{Attributes, MASTERS};
use crate::api::list::resource;
use crate::api::route::Target;
use crate::kinds::{Kind, View};

/// Missing rules that a refusal names.
const SHOWN: usize = 20;

/// Whether writes of a kind are guarded.
pub fn guards(kind: &Kind) -> bool {
    kind.group == GROUP
}

/// Checks a write of a role or binding. `old` is what it replaces.
pub fn guard(
    store: &dyn Store,
    book: &Book,
    who: &Identity,
    target: &Target,
    new: &Value,
    old: Option<&Value>,
) -> Result<(), Status> {
    if who.groups.iter().any(|group| group == MASTERS) {
        return Ok(());
    }
    let view = View(new);
    let may = |verb: &str, kind: &str, name: &str| {
        let namespace = target.namespace.as_str();
        book.allows(
            who,
            &Attributes { verb, group: GROUP, resource: kind, subresource: "", namespace, name, on_node: None },
        )
    };
    let (given, excused) = match target.kind.kind {
        "Role" | "ClusterRole" => {
            let same = |field: &str| old.is_some_and(|old| old.get(field) == new.get(field));
            let aggregated = view.has(&["aggregationRule"]) && !same("aggregationRule");
            let mut given = if same("rules") { Vec::new() } else { Rule::all(new) };
            // Whoever says which roles are taken together may come to hold any rule.
            given.extend(aggregated.then(everything));
            (given, may("escalate", target.kind.plural, view.text(&["metadata", "name"])))
        }
        _ => {
            let (kind, name) = (view.text(&["roleRef", "kind"]), view.text(&["roleRef", "name"]));
            let unchanged = old.is_some_and(|old| old.get("subjects") == new.get("subjects"));
            let plural = if kind == "Role" { "roles" } else { "clusterroles" };
            let given = role_rules(store, kind, &target.namespace, name);
            if given.is_none() && !unchanged && !may("bind", plural, name) {
                let group = coracle_shared::api::status::Resource { group: GROUP, plural };
                return Err(Status::not_found(group, name));
            }
            (if unchanged { Vec::new() } else { given.unwrap_or_default() }, may("bind", plural, name))
        }
    };
    if excused {
        return Ok(());
    }
    let held: Vec<&Rule> = book.rules(who, &target.namespace).collect();
    let missing: Vec<String> = given
        .iter()
        .filter(|rule| !rule.pieces().iter().all(|piece| held.iter().any(|own| own.covers(piece))))
        .take(SHOWN)
        .map(Rule::words)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let why = format!(
        "user {:?} (groups={:?}) is attempting to grant RBAC permissions not currently held:\n{}",
        who.user,
        who.groups,
        missing.join("\n")
    );
    Err(Status::forbidden(resource(target.kind), view.text(&["metadata", "name"]), why))
}

fn everything() -> Rule {
    let all = || vec!["*".to_owned()];
    Rule { verbs: all(), groups: all(), resources: all(), ..Rule::default() }
}
