//! Roles and bindings: who holds which rules. Pure but for [`Roles`], which reads them from the
//! store and reads again only what changed.

mod escalate;
mod rule;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use coracle_shared::submit::Identity;
use coracle_store::{Item, Range, Revision, Store};
use serde_json::Value;

use super::authz::Attributes;
use crate::kinds::View;
pub use escalate::{guard, guards};
pub use rule::Rule;

pub const GROUP: &str = "rbac.authorization.k8s.io";
const ROLES: &str = "roles.rbac.authorization.k8s.io";
const CLUSTER_ROLES: &str = "clusterroles.rbac.authorization.k8s.io";
const BINDINGS: &str = "rolebindings.rbac.authorization.k8s.io";
const CLUSTER_BINDINGS: &str = "clusterrolebindings.rbac.authorization.k8s.io";

/// What a binding grants, and where.
#[derive(Clone)]
struct Grant {
    /// `None`: everywhere.
    namespace: Option<Arc<str>>,
    rules: Arc<[Rule]>,
}

/// Every role and binding, by subject.
#[derive(Default)]
pub struct Book {
    users: HashMap<String, Vec<Grant>>,
    groups: HashMap<String, Vec<Grant>>,
}

/// The user name of a service account.
pub fn account(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

impl Book {
    /// From all objects of the four kinds.
    fn read(store: &dyn Store) -> Book {
        let mut roles: HashMap<(String, String), Arc<[Rule]>> = HashMap::new();
        for resource in [ROLES, CLUSTER_ROLES] {
            for item in items(store, resource) {
                let role: Value = serde_json::from_slice(&item.value).unwrap_or_default();
                roles.insert((item.key.namespace.to_string(), item.key.name.to_string()), Rule::all(&role).into());
            }
        }
        let mut book = Book::default();
        for resource in [BINDINGS, CLUSTER_BINDINGS] {
            for item in items(store, resource) {
                let binding: Value = serde_json::from_slice(&item.value).unwrap_or_default();
                let view = View(&binding);
                let within = match view.text(&["roleRef", "kind"]) {
                    "Role" => item.key.namespace.to_string(),
                    _ => String::new(),
                };
                let Some(rules) = roles.get(&(within, view.text(&["roleRef", "name"]).to_owned())) else { continue };
                let namespace = (resource == BINDINGS).then(|| item.key.namespace.clone());
                book.grant(view.list(&["subjects"]), &Grant { namespace, rules: rules.clone() }, &item.key.namespace);
            }
        }
        book
    }

    fn grant(&mut self, subjects: &[Value], grant: &Grant, own_namespace: &str) {
        for subject in subjects.iter().map(View) {
            let name = subject.text(&["name"]).to_owned();
            let (of, name) = match subject.text(&["kind"]) {
                "Group" => (&mut self.groups, name),
                "User" => (&mut self.users, name),
                "ServiceAccount" => {
                    let namespace = match subject.text(&["namespace"]) {
                        "" => own_namespace,
                        namespace => namespace,
                    };
                    (&mut self.users, account(namespace, &name))
                }
                _ => continue,
            };
            of.entry(name).or_default().push(grant.clone());
        }
    }

    /// Every rule that `who` holds in a namespace; in none, those that hold everywhere.
    pub fn rules<'b>(&'b self, who: &'b Identity, namespace: &'b str) -> impl Iterator<Item = &'b Rule> {
        let own = self.users.get(&who.user).into_iter();
        let shared = who.groups.iter().filter_map(|group| self.groups.get(group));
        let grants = own.chain(shared).flatten();
        let here =
            grants.filter(move |g| g.namespace.as_deref().is_none_or(|ns| !namespace.is_empty() && ns == namespace));
        here.flat_map(|grant| grant.rules.iter())
    }

    /// Whether a rule of `who`'s allows it.
    pub fn allows(&self, who: &Identity, ask: &Attributes<'_>) -> bool {
        self.rules(who, ask.namespace).any(|rule| rule.allows(ask))
    }

    /// Whether a rule of `who`'s allows a path that is no resource.
    pub fn allows_path(&self, who: &Identity, verb: &str, path: &str) -> bool {
        self.rules(who, "").any(|rule| rule.allows_path(verb, path))
    }
}

fn items(store: &dyn Store, resource: &str) -> Vec<Item> {
    let range = Range { resource: resource.into(), namespace: None, after: None, limit: 0, at: None };
    // Only a list at an old revision can fail.
    store.list(&range).map(|page| page.items).unwrap_or_default()
}

/// The rules of the role that a binding (or a name) refers to; `None`: there is no such role.
pub fn role_rules(store: &dyn Store, kind: &str, namespace: &str, name: &str) -> Option<Vec<Rule>> {
    let (resource, namespace) = if kind == "Role" { (ROLES, namespace) } else { (CLUSTER_ROLES, "") };
    let item = store.get(&coracle_store::Key::new(resource, namespace, name))?;
    Some(Rule::all(&serde_json::from_slice(&item.value).unwrap_or_default()))
}

/// The book as the store has it now.
pub struct Roles {
    store: Arc<dyn Store>,
    /// What was read last, and how far the store was then.
    read: Mutex<Option<(Revision, Arc<Book>)>>,
}

impl Roles {
    pub fn new(store: Arc<dyn Store>) -> Roles {
        Roles { store, read: Mutex::new(None) }
    }

    /// The book of this instant: read again only when a role or binding changed.
    pub fn book(&self) -> Arc<Book> {
        let mut read = self.read.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let newest = self.store.revision();
        if let Some((seen, book)) = read.as_mut()
            && (*seen == newest || !self.changed_since(*seen))
        {
            *seen = newest;
            return book.clone();
        }
        let book = Arc::new(Book::read(&*self.store));
        *read = Some((newest, book.clone()));
        book
    }

    fn changed_since(&self, seen: Revision) -> bool {
        let kinds = [ROLES, CLUSTER_ROLES, BINDINGS, CLUSTER_BINDINGS];
        kinds.iter().any(|kind| self.store.changes(Some(kind), seen, 1).map_or(true, |events| !events.is_empty()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn book() -> Book {
        let rules = |verbs: &[&str], resources: &[&str]| -> Arc<[Rule]> {
            Rule::all(&json!({"rules": [{"verbs": verbs, "apiGroups": [""], "resources": resources}]})).into()
        };
        let mut book = Book::default();
        let jane = json!([{"kind": "User", "name": "jane"}, {"kind": "ServiceAccount", "name": "robot"}]);
        let here = Grant { namespace: Some("a".into()), rules: rules(&["get"], &["pods"]) };
        book.grant(jane.as_array().expect("a list"), &here, "a");
        let all = Grant { namespace: None, rules: rules(&["list"], &["nodes"]) };
        book.grant(json!([{"kind": "Group", "name": "ops"}]).as_array().expect("a list"), &all, "");
        book
    }

    #[track_caller]
    fn check(user: &str, group: &str, verb: &str, resource: &str, namespace: &str, expect: bool) {
        let who = Identity { user: user.into(), groups: vec![group.into()] };
        let ask = Attributes { verb, group: "", resource, subresource: "", namespace, name: "x", on_node: None };
        assert_eq!(book().allows(&who, &ask), expect, "{user} {verb} {resource} in {namespace:?}");
    }

    #[test]
    fn a_binding_grants_where_it_stands() {
        check("jane", "", "get", "pods", "a", true);
        check("jane", "", "get", "pods", "b", false);
        check("jane", "", "get", "pods", "", false);
        check("jane", "", "delete", "pods", "a", false);
        check("system:serviceaccount:a:robot", "", "get", "pods", "a", true);
        check("system:serviceaccount:b:robot", "", "get", "pods", "a", false);
        check("joe", "ops", "list", "nodes", "", true);
        check("joe", "", "list", "nodes", "", false);
    }
}
