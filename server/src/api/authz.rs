//! Who may do what: administrators everything, nodes what is their own, all others what roles grant
//! them. The stage is its own, and pure.

use coracle_shared::submit::Identity;

use super::rbac::Book;

/// The group of those who may do everything.
pub const MASTERS: &str = "system:masters";
/// The group of nodes; each is `system:node:NAME`.
pub const NODES: &str = "system:nodes";
pub const NODE_PREFIX: &str = "system:node:";
/// Everybody with a name.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Everybody without.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
pub const ANONYMOUS: &str = "system:anonymous";

/// The identity of a request without a certificate.
pub fn anonymous() -> Identity {
    Identity { user: ANONYMOUS.into(), groups: vec![UNAUTHENTICATED.into()] }
}

/// What is asked, in the words of Kubernetes' authorization.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    pub verb: &'a str,
    pub group: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    /// Empty for cluster scope and for all namespaces.
    pub namespace: &'a str,
    pub name: &'a str,
    /// The node that a list or watch of pods is limited to by its field selector.
    pub on_node: Option<&'a str>,
}

/// What the decision about a node needs to know of the cluster.
pub trait Bindings {
    /// Whether the pod is bound to the node.
    fn bound(&self, node: &str, namespace: &str, pod: &str) -> bool;
    /// Whether a pod bound to the node uses the ConfigMap or Secret (`secret` says which).
    fn uses(&self, node: &str, namespace: &str, secret: bool, name: &str) -> bool;
}

/// Whether `who` may do it. The words of a refusal are the caller's.
pub fn allowed(who: &Identity, ask: &Attributes<'_>, bindings: &dyn Bindings, book: &Book) -> bool {
    let in_group = |group: &str| who.groups.iter().any(|g| g == group);
    in_group(MASTERS)
        || in_group(NODES) && who.user.strip_prefix(NODE_PREFIX).is_some_and(|name| node(name, ask, bindings))
        || book.allows(who, ask)
}

/// Whether `who` may read (or what the verb says) a path that is no resource.
pub fn allowed_path(who: &Identity, verb: &str, path: &str, book: &Book) -> bool {
    who.groups.iter().any(|group| group == MASTERS) || book.allows_path(who, verb, path)
}

fn is_read(verb: &str) -> bool {
    matches!(verb, "get" | "list" | "watch")
}

fn is_write(verb: &str) -> bool {
    matches!(verb, "create" | "update" | "patch")
}

fn node(name: &str, ask: &Attributes<'_>, bindings: &dyn Bindings) -> bool {
    let read = is_read(ask.verb);
    match (ask.group, ask.resource, ask.subresource) {
        ("", "nodes", "") => match ask.verb {
            "create" | "update" | "patch" => ask.name.is_empty() && ask.verb == "create" || ask.name == name,
            _ => read,
        },
        ("", "nodes", "status") => ask.name == name && matches!(ask.verb, "get" | "update" | "patch"),
        ("", "pods", "") => match ask.verb {
            "list" | "watch" => ask.on_node == Some(name),
            "get" | "delete" => bindings.bound(name, ask.namespace, ask.name),
            _ => false,
        },
        ("", "pods", "status") => is_write(ask.verb) && bindings.bound(name, ask.namespace, ask.name),
        ("coordination.k8s.io", "leases", "") => {
            ask.namespace == "kube-node-lease"
                && (ask.name == name && (is_write(ask.verb) || ask.verb == "get")
                    || ask.name.is_empty() && ask.verb == "create")
        }
        ("" | "events.k8s.io", "events", "") => is_write(ask.verb),
        ("", "configmaps" | "secrets", "") => {
            ask.verb == "get" && bindings.uses(name, ask.namespace, ask.resource == "secrets", ask.name)
        }
        ("", "services", "") | ("discovery.k8s.io", "endpointslices", "") => read,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Node `n1` has the pod `a/p`, which uses the Secret `a/s`.
    struct One;

    impl Bindings for One {
        fn bound(&self, node: &str, namespace: &str, pod: &str) -> bool {
            (node, namespace, pod) == ("n1", "a", "p")
        }
        fn uses(&self, node: &str, namespace: &str, secret: bool, name: &str) -> bool {
            (node, namespace, secret, name) == ("n1", "a", true, "s")
        }
    }

    fn ask<'a>(verb: &'a str, resource: &'a str, name: &'a str) -> Attributes<'a> {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
        let namespace = match resource {
            "nodes" => "",
            "leases" => "kube-node-lease",
            _ => "a",
        };
        Attributes { verb, group, resource, subresource, namespace, name, on_node: None }
    }

    #[track_caller]
    fn check(user: &str, group: &str, ask: &Attributes<'_>, expect: bool) {
        let who = Identity { user: user.into(), groups: vec![group.into()] };
        assert_eq!(allowed(&who, ask, &One, &Book::default()), expect, "{user} {ask:?}");
    }

    #[test]
    fn administrators_may_do_everything_and_strangers_nothing() {
        check("admin", MASTERS, &ask("delete", "secrets", "s"), true);
        check("jane", "people", &ask("get", "pods", "p"), false);
        check(ANONYMOUS, "system:unauthenticated", &ask("list", "namespaces", ""), false);
    }

    #[test]
    fn a_node_writes_its_own_alone() {
        let cases = [
            (ask("update", "nodes/status", "n1"), true),
            (ask("update", "nodes/status", "n2"), false),
            (ask("delete", "nodes", "n1"), false),
            (ask("patch", "pods/status", "p"), true),
            (ask("patch", "pods/status", "q"), false),
            (ask("update", "pods", "p"), false),
            (ask("update", "leases.coordination.k8s.io", "n1"), true),
            (ask("update", "leases.coordination.k8s.io", "n2"), false),
            (ask("create", "events", ""), true),
            (ask("create", "pods/binding", "p"), false),
            (ask("create", "pods/exec", "p"), false),
        ];
        for (ask, expect) in cases {
            check("system:node:n1", NODES, &ask, expect);
        }
    }

    #[test]
    fn a_node_reads_what_its_pods_need() {
        check("system:node:n1", NODES, &ask("get", "secrets", "s"), true);
        check("system:node:n1", NODES, &ask("get", "secrets", "t"), false);
        check("system:node:n1", NODES, &ask("list", "secrets", ""), false);
        check("system:node:n1", NODES, &ask("list", "pods", ""), false);
        check("system:node:n1", NODES, &Attributes { on_node: Some("n1"), ..ask("list", "pods", "") }, true);
        check("system:node:n1", NODES, &Attributes { on_node: Some("n2"), ..ask("list", "pods", "") }, false);
        // The name of a node without its group is nobody's.
        check("system:node:n1", "people", &ask("get", "secrets", "s"), false);
    }
}
