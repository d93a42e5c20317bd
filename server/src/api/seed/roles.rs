//! The roles and bindings that every cluster starts with: those that people rely on, and those of
//! Coracle's own parts.

use serde_json::{Value, json};

/// Resources of a group, and what may be done with them.
struct Grant {
    group: &'static str,
    resources: &'static [&'static str],
    verbs: &'static [&'static str],
}

const fn grant(group: &'static str, resources: &'static [&'static str], verbs: &'static [&'static str]) -> Grant {
    Grant { group, resources, verbs }
}

const ALL: &[&str] = &["*"];
const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "delete", "deletecollection", "patch", "update"];
const FULL: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const TELL: &[&str] = &["create", "patch", "update"];
const CHANGE: &[&str] = &["get", "patch", "update"];

const APPS: &[&str] = &[
    "controllerrevisions",
    "daemonsets",
    "daemonsets/status",
    "deployments",
    "deployments/scale",
    "deployments/status",
    "replicasets",
    "replicasets/scale",
    "replicasets/status",
    "statefulsets",
    "statefulsets/scale",
    "statefulsets/status",
];
const APPS_OWN: &[&str] = &[
    "daemonsets",
    "deployments",
    "deployments/rollback",
    "deployments/scale",
    "replicasets",
    "replicasets/scale",
    "statefulsets",
    "statefulsets/scale",
];

const VIEW: &[Grant] = &[
    grant(
        "",
        &[
            "bindings",
            "configmaps",
            "endpoints",
            "events",
            "limitranges",
            "namespaces",
            "namespaces/status",
            "persistentvolumeclaims",
            "persistentvolumeclaims/status",
            "pods",
            "pods/log",
            "pods/status",
            "replicationcontrollers",
            "replicationcontrollers/scale",
            "replicationcontrollers/status",
            "resourcequotas",
            "resourcequotas/status",
            "serviceaccounts",
            "services",
            "services/status",
        ],
        READ,
    ),
    grant("discovery.k8s.io", &["endpointslices"], READ),
    grant("apps", APPS, READ),
    grant("autoscaling", &["horizontalpodautoscalers", "horizontalpodautoscalers/status"], READ),
    grant("batch", &["cronjobs", "cronjobs/status", "jobs", "jobs/status"], READ),
    grant("networking.k8s.io", &["ingresses", "ingresses/status", "networkpolicies"], READ),
    grant("policy", &["poddisruptionbudgets", "poddisruptionbudgets/status"], READ),
    grant("resource.k8s.io", &["resourceclaims", "resourceclaims/status", "resourceclaimtemplates"], READ),
];

const EDIT: &[Grant] = &[
    grant("", &["pods/attach", "pods/exec", "pods/portforward", "pods/proxy", "secrets", "services/proxy"], READ),
    grant("", &["serviceaccounts"], &["impersonate"]),
    grant("", &["pods", "pods/attach", "pods/exec", "pods/portforward", "pods/proxy"], WRITE),
    grant("", &["pods/eviction", "serviceaccounts/token"], &["create"]),
    grant(
        "",
        &[
            "configmaps",
            "events",
            "persistentvolumeclaims",
            "replicationcontrollers",
            "replicationcontrollers/scale",
            "secrets",
            "serviceaccounts",
            "services",
            "services/proxy",
        ],
        WRITE,
    ),
    grant("apps", APPS_OWN, WRITE),
    grant("autoscaling", &["horizontalpodautoscalers"], WRITE),
    grant("batch", &["cronjobs", "jobs"], WRITE),
    grant("networking.k8s.io", &["ingresses", "networkpolicies"], WRITE),
    grant("policy", &["poddisruptionbudgets"], WRITE),
    grant("coordination.k8s.io", &["leases"], FULL),
    grant("resource.k8s.io", &["resourceclaims", "resourceclaimtemplates"], WRITE),
];

const ADMIN: &[Grant] = &[
    grant("authorization.k8s.io", &["localsubjectaccessreviews"], &["create"]),
    grant("rbac.authorization.k8s.io", &["roles", "rolebindings"], FULL),
];

const BASIC_USER: &[Grant] = &[
    grant("authorization.k8s.io", &["selfsubjectaccessreviews", "selfsubjectrulesreviews"], &["create"]),
    grant("authentication.k8s.io", &["selfsubjectreviews"], &["create"]),
];

const DISCOVERY: &[&str] = &[
    "/api",
    "/api/*",
    "/apis",
    "/apis/*",
    "/healthz",
    "/livez",
    "/openapi",
    "/openapi/*",
    "/readyz",
    "/version",
    "/version/",
];
const PUBLIC: &[&str] =
    &["/healthz", "/healthz/*", "/livez", "/livez/*", "/readyz", "/readyz/*", "/version", "/version/"];
const MONITORING: &[&str] =
    &["/healthz", "/healthz/*", "/livez", "/livez/*", "/metrics", "/metrics/*", "/readyz", "/readyz/*"];

const SCHEDULER: &[Grant] = &[
    grant("", &["pods/binding", "bindings"], &["create"]),
    grant("", &["pods/status"], &["patch", "update"]),
    grant("", &["pods"], &["delete", "get", "list", "watch"]),
    grant(
        "",
        &["namespaces", "nodes", "persistentvolumeclaims", "persistentvolumes", "replicationcontrollers", "services"],
        READ,
    ),
    grant("apps", &["replicasets", "statefulsets"], READ),
    grant("policy", &["poddisruptionbudgets"], READ),
    grant("storage.k8s.io", ALL, READ),
    grant("coordination.k8s.io", &["leases"], &["create", "get", "list", "update", "watch"]),
    grant("", &["events"], TELL),
    grant("events.k8s.io", &["events"], TELL),
];

/// Everything that Coracle's own controllers do, by the name of each.
const CONTROLLERS: &[(&str, &[Grant])] = &[
    (
        "deployment",
        &[
            grant("apps", &["deployments", "deployments/status", "deployments/finalizers"], CHANGE),
            grant("apps", &["deployments"], READ),
            grant("apps", &["replicasets"], FULL),
            grant("", &["pods"], READ),
            grant("", &["events"], TELL),
        ],
    ),
    (
        "replicaset",
        &[
            grant("apps", &["replicasets", "replicasets/status", "replicasets/finalizers"], CHANGE),
            grant("apps", &["replicasets"], READ),
            grant("", &["pods"], FULL),
            grant("", &["events"], TELL),
        ],
    ),
    (
        "endpoint",
        &[
            grant("", &["nodes", "pods", "services"], READ),
            grant("", &["services/status"], CHANGE),
            grant("", &["endpoints"], FULL),
            grant("discovery.k8s.io", &["endpointslices"], FULL),
            grant("", &["events"], TELL),
        ],
    ),
    (
        "endpointslicemirroring",
        &[
            grant("", &["endpoints", "services"], READ),
            grant("discovery.k8s.io", &["endpointslices"], FULL),
            grant("", &["events"], TELL),
        ],
    ),
    (
        "node",
        &[
            grant("", &["nodes"], FULL),
            grant("", &["nodes/status"], CHANGE),
            grant("", &["pods"], &["delete", "get", "list", "patch", "watch"]),
            grant("", &["pods/status"], CHANGE),
            grant("coordination.k8s.io", &["leases"], FULL),
            grant("", &["events"], TELL),
        ],
    ),
    (
        "namespace",
        &[
            grant("", &["namespaces"], &["delete", "get", "list", "watch"]),
            grant("", &["namespaces/finalize", "namespaces/status"], &["update", "patch"]),
            grant("*", ALL, &["delete", "deletecollection", "get", "list"]),
        ],
    ),
    (
        "generic-garbage-collector",
        &[grant("*", ALL, &["delete", "get", "list", "patch", "update", "watch"]), grant("", &["events"], TELL)],
    ),
    ("service-account", &[grant("", &["serviceaccounts"], &["create"]), grant("", &["events"], TELL)]),
    (
        "clusterrole-aggregation",
        &[grant(
            "rbac.authorization.k8s.io",
            &["clusterroles"],
            &["escalate", "get", "list", "patch", "update", "watch"],
        )],
    ),
];

const LABEL: &str = "kubernetes.io/bootstrapping";
/// Roles with this label and `true` are taken together into a larger one.
const AGGREGATE: &str = "rbac.authorization.k8s.io/aggregate-to-";

fn rules(grants: &[Grant]) -> Vec<Value> {
    let rule = |g: &Grant| json!({"verbs": g.verbs, "apiGroups": [g.group], "resources": g.resources});
    grants.iter().map(rule).collect()
}

fn role(name: &str, labels: &[&str], rules: &[Value]) -> Value {
    let mut role = json!({"metadata": {"name": name, "labels": {LABEL: "rbac-defaults"}}, "rules": rules});
    for label in labels {
        role["metadata"]["labels"][format!("{AGGREGATE}{label}")] = "true".into();
    }
    role
}

/// A role of all those with its label. It starts with their rules, so that it is right from the first.
fn aggregated(name: &str, labels: &[&str], parts: &[&[Grant]]) -> Value {
    let all: Vec<Value> = parts.iter().flat_map(|part| rules(part)).collect();
    let mut role = role(name, labels, &all);
    let label = format!("{AGGREGATE}{name}");
    role["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {label: "true"}}]});
    role
}

fn paths(name: &str, paths: &[&str]) -> Value {
    role(name, &[], &[json!({"verbs": ["get"], "nonResourceURLs": paths})])
}

/// The ClusterRoles.
pub fn cluster_roles() -> Vec<Value> {
    let everything =
        [json!({"verbs": ALL, "apiGroups": ALL, "resources": ALL}), json!({"verbs": ALL, "nonResourceURLs": ALL})];
    let mut roles = vec![
        role("cluster-admin", &[], &everything),
        role("system:aggregate-to-admin", &["admin"], &rules(ADMIN)),
        role("system:aggregate-to-edit", &["edit"], &rules(EDIT)),
        role("system:aggregate-to-view", &["view"], &rules(VIEW)),
        aggregated("admin", &[], &[EDIT, VIEW, ADMIN]),
        aggregated("edit", &["admin"], &[EDIT, VIEW]),
        aggregated("view", &["edit"], &[VIEW]),
        role("system:basic-user", &[], &rules(BASIC_USER)),
        paths("system:discovery", DISCOVERY),
        paths("system:public-info-viewer", PUBLIC),
        paths("system:monitoring", MONITORING),
        role("system:kube-scheduler", &[], &rules(SCHEDULER)),
    ];
    roles.extend(CONTROLLERS.iter().map(|(name, grants)| role(&controller_role(name), &[], &rules(grants))));
    roles
}

fn controller_role(name: &str) -> String {
    format!("system:controller:{name}-controller")
}

fn binding(name: &str, role: &str, subjects: &Value) -> Value {
    json!({"metadata": {"name": name, "labels": {LABEL: "rbac-defaults"}},
        "roleRef": {"apiGroup": super::super::rbac::GROUP, "kind": "ClusterRole", "name": role}, "subjects": subjects})
}

/// The ClusterRoleBindings.
pub fn cluster_role_bindings() -> Vec<Value> {
    let group = |name: &str| json!({"kind": "Group", "apiGroup": super::super::rbac::GROUP, "name": name});
    let known = || json!([group("system:authenticated")]);
    let anybody = json!([group("system:authenticated"), group("system:unauthenticated")]);
    let scheduler = json!([{"kind": "User", "apiGroup": super::super::rbac::GROUP, "name": "system:kube-scheduler"}]);
    let mut bindings = vec![
        binding("cluster-admin", "cluster-admin", &json!([group("system:masters")])),
        binding("system:basic-user", "system:basic-user", &known()),
        binding("system:discovery", "system:discovery", &known()),
        binding("system:public-info-viewer", "system:public-info-viewer", &anybody),
        binding("system:monitoring", "system:monitoring", &json!([group("system:monitoring")])),
        binding("system:kube-scheduler", "system:kube-scheduler", &scheduler),
    ];
    bindings.extend(CONTROLLERS.iter().map(|(name, _)| {
        let account =
            json!([{"kind": "ServiceAccount", "namespace": "kube-system", "name": format!("{name}-controller")}]);
        binding(&controller_role(name), &controller_role(name), &account)
    }));
    bindings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_binding_binds_a_role_that_is_there() {
        let roles = cluster_roles();
        for binding in cluster_role_bindings() {
            assert!(roles.iter().any(|role| role["metadata"]["name"] == binding["roleRef"]["name"]), "{binding}");
        }
    }

    #[test]
    fn larger_roles_start_with_what_their_labels_take_together() {
        let roles = cluster_roles();
        let find = |name: &str| roles.iter().find(|role| role["metadata"]["name"] == name).expect("seeded");
        for name in ["admin", "edit", "view"] {
            let label = format!("{AGGREGATE}{name}");
            let parts = roles.iter().filter(|role| role["metadata"]["labels"][&label] == "true");
            let own = find(name)["rules"].as_array().expect("rules");
            for rule in parts.flat_map(|part| part["rules"].as_array().expect("rules")) {
                assert!(own.contains(rule), "{name} lacks {rule}");
            }
        }
    }
}
